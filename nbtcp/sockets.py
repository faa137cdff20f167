"""Sockets of our TCP that pass for the standard library's, and how libraries come to use them.

What a library is given: `host.socket` and `host.create_connection` have the arguments of the
standard library's. What takes nothing, and makes its own: `with use(host)`.
"""

import socket as stdlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .runtime.host import Host
from .runtime.sockets import Socket
from .runtime.tls import TlsSocket

__all__ = ["Socket", "TlsSocket", "bound_to", "use"]


def bound_to(host: Host) -> type[Socket]:
    """A class with the signature of `socket.socket`, whose TCP sockets are `host`'s, and the others
    the kernel's.
    """
    kernels = stdlib.socket

    class HostSocket(Socket):
        def __new__(
            cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
        ) -> Any:
            stream = type == -1 or type & 0xF == stdlib.SOCK_STREAM
            if fileno is None and stream and family in (-1, stdlib.AF_INET, stdlib.AF_INET6):
                return super().__new__(cls)
            return kernels(family, type, proto, fileno)

        def __init__(
            self, family: int = -1, type: int = -1, proto: int = -1, fileno: None = None
        ) -> None:
            kind = stdlib.SOCK_STREAM if type == -1 else type
            super().__init__(host, max(family, stdlib.AF_INET), kind, max(proto, 0))

    return HostSocket


@contextmanager
def use(host: Host) -> Iterator[None]:
    """Meanwhile `socket.socket` makes sockets of `host`: whatever the libraries of this process
    open by it, `socket.create_connection` or `socket.create_server`, in all threads; and
    `SSLContext.wrap_socket` takes them.
    """
    kernels, kernels_tls = stdlib.socket, ssl.SSLContext.sslsocket_class
    stdlib.socket = bound_to(host)  # type: ignore[misc, assignment]
    ssl.SSLContext.sslsocket_class = TlsSocket
    try:
        yield
    finally:
        stdlib.socket = kernels  # type: ignore[misc]
        ssl.SSLContext.sslsocket_class = kernels_tls
