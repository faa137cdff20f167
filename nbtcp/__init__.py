"""nbtcp: a TCP to read, to run and to look at.

    with nbtcp.Lab(nbtcp.Path(delay=0.02, loss=0.01)) as lab:
        page = lab.fetch("/bytes/100000")
    page.log.plot.sequence()

Heavy libraries (scapy, pandas, matplotlib, httpx) are imported when first used.
"""

from .config import Config, ConfigError
from .errors import MachineError, NbtcpError
from .lab import Lab
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

__version__ = "0.1.0"

__all__ = ["Config", "ConfigError", "Connection", "EventLog", "Lab", "Live", "MachineError"]
__all__ += ["NbtcpError", "Path", "PathError", "Simulation", "Stack", "State", "Transfer"]
__all__ += ["compare", "fetch", "live", "read_capture"]
