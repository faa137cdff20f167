"""nbtcp: a TCP to read, to run and to look at.

    with nbtcp.Lab(nbtcp.Path(delay=0.02, loss=0.01)) as lab:
        page = lab.fetch("/bytes/100000")
    page.log.plot.sequence()

Heavy libraries (scapy, pandas, matplotlib, httpx) are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import sockets
from .config import Config, ConfigError
from .errors import MachineError, NbtcpError
from .lab import Lab
from .lan import Lan
from .lan import Lan as lan
from .links.path import Path, PathError
from .live import Live, fetch
from .live import Live as live
from .simulation import Simulation, Transfer
from .stack import Stack
from .tcp.connection import Connection
from .tcp.state import State
from .trace.capture import read_capture
from .trace.compare import compare
from .trace.log import EventLog

if TYPE_CHECKING:
    from . import aio, http

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Connection", "EventLog", "Lab", "Lan", "Live"]
__all__ += ["MachineError", "NbtcpError", "Path", "PathError", "Simulation", "Stack", "State"]
__all__ += ["Transfer", "aio", "compare", "fetch", "http", "lan", "live", "read_capture", "sockets"]


def __getattr__(name: str) -> Any:
    """`nbtcp.http` and `nbtcp.aio` bring much with them: imported when first used."""
    if name in ("aio", "http"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
