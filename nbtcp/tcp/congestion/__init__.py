"""How much may be in flight: congestion control algorithms, one small file each.

An algorithm owns `cwnd` and `ssthresh` (octets) and has three methods: `acked`, `lost`,
`timed_out`. It sees numbers only, never the connection.
"""

from collections.abc import Callable
from typing import Protocol

from .reno import Reno

INFINITE = 1 << 62  # ssthresh before the first loss


class CongestionControl(Protocol):
    """What a connection needs of an algorithm. Sizes in octets, `now` in nanoseconds."""

    cwnd: int
    ssthresh: int

    def acked(self, octets: int, flight: int, now: int) -> None:
        """`octets` were newly acknowledged outside fast recovery; `flight` was out before that."""

    def lost(self, flight: int, now: int) -> None:
        """A loss was found without a timeout; called once per loss episode."""

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """The retransmission timer fired; `again` when it did so for this segment before."""


ALGORITHMS: dict[str, Callable[[int, int], CongestionControl]] = {"reno": Reno}
"""By the name in `Config(congestion=...)`; called with (initial window, SMSS)."""


def initial_window(mss: int) -> int:
    """IW = min(10*MSS, max(2*MSS, 14600)) (RFC 6928 2)."""
    return min(10 * mss, max(2 * mss, 14600))
