"""How much may be in flight: congestion control algorithms, one small file each.

An algorithm owns `cwnd` and `ssthresh` (octets) and has three methods of its own: `acked`, `lost`,
`timed_out`. It sees numbers only, never the connection. Its state is in plain attributes of its
own: before `lost` and `timed_out` the connection takes a `copy.copy`, and puts it back when the
loss proves to have been none.

A window that is not filled proves nothing of the path, so cwnd grows only while it was used lately:
the heart of RFC 7661. The most that was in flight in this round trip or the last stands for its
pipeACK; it also bounds from below what a loss cuts (4.4.1). Left out is the non-validated phase,
which keeps an unused cwnd for five minutes: after an RTO without sending, cwnd falls to the restart
window instead (RFC 5681 4.1, in output.py).
"""

from collections.abc import Callable
from typing import Protocol

from ..ack import Ack
from .bbr import BBR
from .cubic import Cubic
from .fixed import Fixed
from .reno import INFINITE, Reno

__all__ = ["ALGORITHMS", "INFINITE", "CongestionControl", "initial_window"]


class CongestionControl(Protocol):
    """What a connection needs of an algorithm. Sizes in octets, `now` in nanoseconds."""

    cwnd: int
    ssthresh: int  # INFINITE before the first loss

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


ALGORITHMS: dict[str, Callable[[int, int], CongestionControl]] = {
    "cubic": Cubic,
    "reno": Reno,
    "bbr": BBR,
    "fixed": Fixed,
}
"""By the name in `Config(congestion=...)`; called with (initial window, SMSS)."""


def initial_window(mss: int) -> int:
    """IW = min(10*MSS, max(2*MSS, 14600)) (RFC 6928 2)."""
    return min(10 * mss, max(2 * mss, 14600))
