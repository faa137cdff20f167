"""How much may be in flight: congestion control algorithms, one small file each.

An algorithm owns `cwnd` and `ssthresh` (octets) and has three methods: `acked`, `lost`,
`timed_out`. It sees numbers only, never the connection.
"""

from collections.abc import Callable
from typing import Protocol

from ..ack import Ack
from .bbr import BBR
from .reno import Reno

INFINITE = 1 << 62  # ssthresh before the first loss


class CongestionControl(Protocol):
    """What a connection needs of an algorithm. Sizes in octets, `now` in nanoseconds."""

    cwnd: int
    ssthresh: int

    @property
    def pacing_rate(self) -> int | None:
        """Octets a second; None: not paced."""

    @property
    def in_recovery(self) -> bool:
        """True: `acked` is called in fast recovery too, and the algorithm keeps its own cwnd there.

        False: cwnd goes to ssthresh meanwhile (RFC 9937), and the algorithm sleeps.
        """

    def acked(self, ack: Ack) -> None:
        """Something was newly acknowledged; during fast recovery only told if `in_recovery`."""

    def lost(self, flight: int, now: int) -> None:
        """A loss was found without a timeout, or a router marked; once per loss episode."""

    def restart(self, window: int, now: int) -> None:
        """Sending begins again after an RTO of idleness; `window` is RW of RFC 5681 4.1."""

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """The retransmission timer fired; `again` when it did so for this segment before."""


ALGORITHMS: dict[str, Callable[[int, int], CongestionControl]] = {"reno": Reno, "bbr": BBR}
"""By the name in `Config(congestion=...)`; called with (initial window, SMSS)."""


def initial_window(mss: int) -> int:
    """IW = min(10*MSS, max(2*MSS, 14600)) (RFC 6928 2)."""
    return min(10 * mss, max(2 * mss, 14600))
