"""How much may be in flight: congestion control algorithms (RFC 9293 MAY-18), one small file each.

An algorithm owns `cwnd` and `ssthresh` (octets) and has three methods of its own: `acked`, `lost`,
`timed_out`. It sees numbers only, never the connection. Its state is in plain attributes of its
own: before `lost` and `timed_out` the connection takes a `copy.copy`, and puts it back when the
loss proves to have been none.

A window that is not filled proves nothing of the path: how Reno and CUBIC validate theirs (RFC
7661) is in reno.py. After an RTO without sending cwnd falls to the restart window in any case (RFC
5681 4.1, in output.py), but for algorithms that pace.
"""

from collections.abc import Callable

from .base import INFINITE, CongestionControl
from .bbr import BBR
from .cubic import Cubic
from .fixed import Fixed
from .reno import Reno

__all__ = ["ALGORITHMS", "INFINITE", "CongestionControl", "initial_window"]

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
