"""HyStart++: slow start that ends before the queue overflows (RFC 9406).

The queue at the bottleneck shows in the round-trip time. When the least of a round is clearly more
than that of the round before, slow start becomes conservative (CSS); if the time falls again it was
jitter, and slow start goes on; if not, it ends after five rounds. Only the first slow start is so
(4.3): a later one ends at the ssthresh that was found.
"""

from typing import TYPE_CHECKING

from .base import INFINITE
from .reno import Reno

if TYPE_CHECKING:
    from ..tcp.ack import Ack

MIN_RTT_THRESH = 4_000_000  # ns; all of these: RFC 9406 4.3
MAX_RTT_THRESH = 16_000_000  # ns
MIN_RTT_DIVISOR = 8
N_RTT_SAMPLE = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5
L = 8  # for a sender that does not pace


class HyStart(Reno):
    """Reno with HyStart++. Times in nanoseconds; INFINITE where there is none yet."""

    _window_end = 0  # windowEnd: a round is over when more than this is acknowledged
    _last_rtt = INFINITE  # lastRoundMinRTT
    _rtt = INFINITE  # currentRoundMinRTT
    _samples = 0  # rttSampleCount
    _baseline = INFINITE  # cssBaselineMinRtt; INFINITE outside CSS
    _css_rounds = 0

    @property
    def stage(self) -> str:
        conservative = self._baseline < INFINITE and self.cwnd < self.ssthresh
        return "conservative-slow-start" if conservative else super().stage

    def _slow_start(self, ack: "Ack") -> None:
        if self.ssthresh < INFINITE:
            super()._slow_start(ack)
            return
        if ack.una > self._window_end:
            self._window_end = ack.nxt
            self._last_rtt, self._rtt, self._samples = self._rtt, INFINITE, 0
            self._css_rounds += self._baseline < INFINITE
        if ack.rtt is not None:
            self._measure(ack.rtt)
        # RFC 9406 4.2: cwnd = cwnd + min(N, L * SMSS), in CSS divided by CSS_GROWTH_DIVISOR
        growth = min(ack.octets, L * self._mss)
        divisor = CSS_GROWTH_DIVISOR if self._baseline < INFINITE else 1
        self._grow_to(self.cwnd + growth // divisor)
        if self._css_rounds > CSS_ROUNDS:
            self.ssthresh = self.cwnd  # congestion avoidance begins

    def _measure(self, rtt: int) -> None:
        """Does the least round-trip time of this round tell of a queue? (RFC 9406 4.2)."""
        self._samples += 1
        self._rtt = min(self._rtt, rtt)
        if self._samples < N_RTT_SAMPLE:
            return
        if self._baseline < INFINITE:
            if self._rtt < self._baseline:  # it was jitter: resume slow start
                self._baseline = INFINITE
            return
        # RttThresh = max(MIN_RTT_THRESH, min(lastRoundMinRTT / MIN_RTT_DIVISOR, MAX_RTT_THRESH))
        threshold = max(MIN_RTT_THRESH, min(self._last_rtt // MIN_RTT_DIVISOR, MAX_RTT_THRESH))
        if self._rtt >= self._last_rtt + threshold:  # never while there is no last round
            self._baseline = self._rtt
            self._css_rounds = 1  # a round of which CSS has only a part counts too
