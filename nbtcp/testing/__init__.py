"""Tests of a stack in packetdrill's notation: scripts, run on a virtual clock (docs/scripts.md).

    from nbtcp import testing
    testing.run("handshake.pkt")

packetdrill is a program of Google's; this package takes its notation, none of its code.
"""

from ..runtime.tcp_info import tcp_info
from .parser import Script, ScriptError
from .run import Result, ScriptFailure, run

__all__ = ["Result", "Script", "ScriptError", "ScriptFailure", "run", "tcp_info"]
