"""How much may be in flight: congestion control algorithms, one small file each.

An algorithm owns `cwnd` and `ssthresh` (octets) and has four methods: `acked`, `lost`,
`timed_out`, `use_mss`. It sees numbers only, never the connection.
"""

from collections.abc import Callable
from typing import Protocol

from ..ack import Ack
from .reno import Reno

INFINITE = 1 << 62  # ssthresh before the first loss


class CongestionControl(Protocol):
    """What a connection needs of an algorithm. Sizes in octets, `now` in nanoseconds."""

    cwnd: int
    ssthresh: int
    pacing_rate: int | None  # octets a second; None: not paced
    in_recovery: bool  # keeps its own cwnd during fast recovery, where PRR would move it

    def acked(self, ack: Ack) -> None:
        """Something was newly acknowledged; during fast recovery only told if `in_recovery`."""

    def lost(self, flight: int, now: int) -> None:
        """A loss was found without a timeout, or a router marked; once per loss episode."""

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """The retransmission timer fired; `again` when it did so for this segment before."""

    def use_mss(self, mss: int) -> None:
        """SMSS has become smaller, for the path does not carry what it was (RFC 1191)."""


ALGORITHMS: dict[str, Callable[[int, int], CongestionControl]] = {"reno": Reno}
"""By the name in `Config(congestion=...)`; called with (initial window, SMSS)."""


def initial_window(mss: int) -> int:
    """IW = min(10*MSS, max(2*MSS, 14600)) (RFC 6928 2)."""
    return min(10 * mss, max(2 * mss, 14600))
