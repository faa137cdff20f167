"""What is lost, and what is still out there: loss recovery, one small file for each idea.

A strategy keeps its own view of the spans in the send queue and marks those it believes lost;
output.py sends them again. It never touches cwnd: it says that a loss episode began, or that one
was a false alarm, and reaction.py tells congestion control. Duplicate ACKs do not inflate cwnd
either: the octets that have left the network are subtracted from what is in flight instead, so the
cwnd one plots is the true one.
"""

from .base import Phase, Recovery, Verdict
from .newreno import NewReno, Reno, Tahoe, Timeout
from .rack import Rack
from .sack import Sack

__all__ = ["Phase", "Recovery", "Verdict", "STRATEGIES", "NewReno", "Rack"]

_ALL: tuple[type[Recovery], ...] = (Timeout, Tahoe, Reno, NewReno, Sack, Rack)
STRATEGIES = {strategy.__name__.lower(): strategy for strategy in _ALL}
"""By the name in `Config(recovery=...)`."""
