"""CUBIC: the window as a cubic function of the time since the last loss (RFC 9438).

cwnd rises fast towards W_max, the window of the last loss, is careful around it, and then looks for
more, faster and faster; and it is never behind what Reno would have (4.3). Windows are octets where
the RFC has segments, times are nanoseconds; the integers make it the same on every machine.

Undoing a reduction that proved needless (4.9) is the connection's, which puts a copy of the whole
object back, and so is the cwnd of one SMSS to which marks may lead (4.6).
"""

from typing import TYPE_CHECKING

from .base import SECOND
from .hystart import HyStart

if TYPE_CHECKING:
    from ..tcp.ack import Ack

# C = 0.4 segments / s^3 (RFC 9438 5.1),
# alpha_cubic = 3 * (1 - beta_cubic) / (1 + beta_cubic) = 9 / 17 (4.3)


class Cubic(HyStart):
    """CUBIC, with HyStart++ for its first slow start (RFC 9438 4.10)."""

    kept = 7  # beta_cubic = 0.7 (RFC 9438 4.6): ssthresh = flight_size * beta_cubic

    _begun: int | None = None  # t_epoch: when this stage of congestion avoidance began
    _heard_at = 0  # when the last ACK of it came
    _w_max = 0  # W_max; 0: take the cwnd with which the stage begins
    _k = 0  # K: how long the curve takes from there to W_max
    _prior = 0  # cwnd_prior: cwnd when ssthresh was set last
    _w_est = 0  # W_est: what Reno would have
    _left = _est_left = 0  # remainders of the divisions by cwnd

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        super().timed_out(flight, again, now)
        self._w_max = 0  # RFC 9438 4.8: K = 0, W_max = cwnd at the beginning of the next stage

    def _slow_start(self, ack: "Ack") -> None:
        self._begun = None
        super()._slow_start(ack)

    def _avoid_congestion(self, ack: "Ack", used: bool) -> None:
        if self._begun is None:
            self._begun = self._heard_at = ack.now
            self._begin_stage()
        self._begun += self._unused(ack, used)
        self._heard_at = ack.now
        if used:
            self._grow(ack, ack.now - self._begun)

    def _reduce(self, flight: int) -> None:
        # RFC 9438 4.7, fast convergence: W_max = cwnd * (1 + beta_cubic) / 2 if cwnd < W_max
        self._w_max = self.cwnd * 17 // 20 if self.cwnd < self._w_max else self.cwnd
        self._prior = self.cwnd
        self._begun = None
        super()._reduce(flight)

    def _begin_stage(self) -> None:
        self._w_est = self.cwnd
        self._left = self._est_left = 0
        self._prior = self._prior or self.cwnd  # HyStart++ ended slow start without a loss (4.10)
        if self._w_max < self.cwnd:
            self._w_max = self.cwnd
        # RFC 9438 figure 2: K = cubic_root((W_max - cwnd_epoch) / C)
        self._k = _cube_root((self._w_max - self.cwnd) * 10 * SECOND**3 // (4 * self._mss))

    def _unused(self, ack: "Ack", used: bool) -> int:
        """How much of the time since the last ACK does not count (RFC 9438 4.2, 5.8)."""
        # All of it; or the idle time until what is acknowledged now was sent, if that was later.
        until = ack.done[0].sent if used and ack.done else ack.now
        return max(0, until - self._heard_at)

    def _grow(self, ack: "Ack", t: int) -> None:
        # figure 4: W_est = W_est + alpha_cubic * segments_acked / cwnd, alpha_cubic = 1 from
        # cwnd_prior on
        alpha = 9 if self._w_est < self._prior else 17
        self._est_left += alpha * ack.octets * self._mss
        grown, self._est_left = divmod(self._est_left, 17 * self.cwnd)
        self._w_est += grown
        if self._w_cubic(t) < self._w_est:  # 4.3, the Reno-friendly region
            self.cwnd = max(self.cwnd, self._w_est)
            return
        # 4.2: target = W_cubic(t + RTT), between cwnd and 1.5 * cwnd
        target = min(max(self._w_cubic(t + (ack.srtt or 0)), self.cwnd), self.cwnd * 3 // 2)
        # 4.4, 4.5: cwnd increases by (target - cwnd) / cwnd for each segment acknowledged
        self._left += (target - self.cwnd) * ack.octets
        grown, self._left = divmod(self._left, self.cwnd)
        self.cwnd += grown

    def _w_cubic(self, t: int) -> int:
        """RFC 9438 figure 1: W_cubic(t) = C * (t - K)^3 + W_max."""
        return self._w_max + 4 * self._mss * (t - self._k) ** 3 // (10 * SECOND**3)


def _cube_root(n: int) -> int:
    """The largest integer whose cube is at most `n`, by Newton's method from above."""
    root, better = 1 << (n.bit_length() + 2) // 3, 0
    while n and (better := (2 * root + n // root**2) // 3) < root:
        root = better
    return root if n else 0
