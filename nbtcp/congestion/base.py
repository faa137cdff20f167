"""What a connection needs of a congestion control algorithm."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tcp.ack import Ack

SECOND = 1_000_000_000  # ns
INFINITE = 1 << 62  # ssthresh before the first loss


class CongestionControl:
    """An algorithm has three methods of its own. Sizes in octets, `now` in nanoseconds."""

    pacing_rate: int | None = None
    """Octets a second; None: not paced."""

    in_recovery: bool = False
    """True: `acked` is called in fast recovery too, and the algorithm keeps its own cwnd there.
    False: cwnd goes to ssthresh meanwhile (RFC 9937), and the algorithm sleeps.
    """

    @property
    def holds_back(self) -> bool:
        """Does it send less than it might, to measure? Then delivery rates prove nothing."""
        return False

    @property
    def stage(self) -> str:
        """What the algorithm is doing, for the log."""
        return "slow-start" if self.cwnd < self.ssthresh else "congestion-avoidance"

    def __init__(self, initial_window: int, mss: int) -> None:
        self.cwnd = self._initial_window = initial_window
        self.ssthresh = INFINITE
        self._mss = mss

    def acked(self, ack: "Ack") -> None:
        """Something was newly acknowledged."""
        raise NotImplementedError

    def lost(self, flight: int, now: int) -> None:
        """A loss was found without a timeout, or a router marked; once per loss episode. It sets
        cwnd, to which fast recovery leads, and ssthresh.
        """
        raise NotImplementedError

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """The retransmission timer fired; `again` when it did so for this segment before."""
        raise NotImplementedError

    def recovered(self, resent: int) -> None:
        """Fast recovery is over, in which `resent` octets were sent again."""
        self.cwnd = self.ssthresh

    def restart(self, window: int, now: int) -> None:
        """Sending begins again after an RTO of idleness, or after any if the algorithm paces;
        `window` is RW of RFC 5681 4.1.
        """
        self.cwnd = min(self.cwnd, window)

    def use_mss(self, mss: int) -> None:
        """SMSS has become smaller, for the path does not carry what it was (RFC 1191)."""
        self._mss = mss
