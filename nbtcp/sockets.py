"""Sockets of our TCP that pass for the standard library's: see runtime/sockets.py."""

from .runtime.sockets import Socket, bound_to, use

__all__ = ["Socket", "bound_to", "use"]
