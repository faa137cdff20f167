"""What is lost, and what is still out there: loss recovery, one small file for each idea.

A strategy keeps its own view of the spans in the send queue and marks those it believes lost;
output.py sends them again. It never touches cwnd: it says that a loss episode began, or that one
was a false alarm, and arrives.py tells congestion control. Duplicate ACKs do not inflate cwnd
either: the octets that have left the network are subtracted from what is in flight instead, so the
cwnd one plots is the true one.
"""

from collections.abc import Callable

from .base import Phase, Recovery, Verdict
from .newreno import NewReno, Reno, Tahoe
from .rack import Rack
from .sack import Sack

__all__ = ["Phase", "Recovery", "Verdict", "STRATEGIES", "NewReno", "Rack", "Reno", "Sack", "Tahoe"]

STRATEGIES: dict[str, Callable[[], Recovery]] = {
    "tahoe": Tahoe,
    "reno": Reno,
    "newreno": NewReno,
    "sack": Sack,
    "rack": Rack,
}
"""By the name in `Config(recovery=...)`."""
