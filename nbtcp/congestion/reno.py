"""Reno: slow start and congestion avoidance (RFC 5681 3.1; RFC 9293 MUST-19), counting octets (RFC
3465), with the validation of cwnd that CUBIC shares (RFC 7661).

A window that is not filled proves nothing of the path. It does not grow (slow start needs half of
it used, congestion avoidance all: draft-ietf-ccwg-ratelimited-increase 3), it is kept for five
minutes, and a loss meanwhile cuts what was used. What is used is pipeACK: here the most that was in
flight in the sampling period.
"""

from typing import TYPE_CHECKING

from .base import SECOND, CongestionControl

if TYPE_CHECKING:
    from ..tcp.ack import Ack

NVP = 300 * SECOND  # how long a window is kept that is not used (RFC 7661 4.4)


class Reno(CongestionControl):
    """cwnd grows by what is acknowledged in slow start, by one SMSS a round trip after that."""

    kept = 5
    """Tenths of what was in flight that a loss leaves (RFC 5681 equation 4)."""

    _acked = 0  # octets acknowledged towards the next increase
    _limit = 2  # slow start takes so many SMSS of one ACK: L of RFC 3465 2.2
    _period_began = _pipe_now = _pipe_before = 0
    _validated_at = 0  # when pipeACK was at least half of cwnd, ns
    _unvalidated = False  # was it not, when the last loss was found?

    def acked(self, ack: "Ack") -> None:
        self._validate(ack)
        if self.cwnd < self.ssthresh:
            self._slow_start(ack)
        else:
            self._limit = 2  # the slow start after a timeout is over
            self._avoid_congestion(ack, self.cwnd <= self._pipe_ack + 2 * self._mss)

    def lost(self, flight: int, now: int) -> None:
        # Max(pipeACK, LossFlightSize) (RFC 7661 4.4.1), always: ACKs come in batches, of which
        # those before the one that tells of a loss have lowered `flight`.
        self._unvalidated = 0 < 2 * self._pipe_ack < self.cwnd
        self._reduce(max(flight, min(self.cwnd, self._pipe_ack)))
        self.cwnd = self.ssthresh

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        if not again:
            self._reduce(flight)
        self.cwnd = self._mss  # the loss window (RFC 5681 3.1)
        self._limit = 1  # RFC 3465 2.3: what is acknowledged after a timeout left earlier

    def recovered(self, resent: int) -> None:
        if self._unvalidated:  # RFC 7661 4.4.1: cwnd = (Max(pipeACK, LossFlightSize) - R) / 2
            self.ssthresh = max(self.ssthresh - resent * self.kept // 10, 2 * self._mss)
        self.cwnd = self.ssthresh

    def _slow_start(self, ack: "Ack") -> None:
        self._grow_to(self.cwnd + min(ack.octets, self._limit * self._mss))

    def _grow_to(self, window: int) -> None:
        """In slow start: not beyond what may come of the most that was used."""
        self.cwnd = max(self.cwnd, min(window, 2 * self._pipe_ack))

    def _avoid_congestion(self, ack: "Ack", used: bool) -> None:
        if used:
            self._acked += ack.octets  # RFC 3465 2.1: += SMSS for each cwnd of octets acknowledged
            if self._acked >= self.cwnd:
                self._acked -= self.cwnd
                self.cwnd += self._mss

    def _reduce(self, flight: int) -> None:
        self.ssthresh = max(flight * self.kept // 10, 2 * self._mss)
        self._acked = self._pipe_now = self._pipe_before = 0  # a new window has not been used yet
        self._limit = 2

    @property
    def _pipe_ack(self) -> int:
        """The most in flight in the sampling period, max(3 * RTT, 1 s), or its last half at least
        (RFC 7661 4.2).
        """
        return max(self._pipe_now, self._pipe_before)

    def _validate(self, ack: "Ack") -> None:
        """Measure what is used of cwnd; nor is it kept for ever if that is little."""
        if ack.now - self._period_began > max(3 * (ack.srtt or 0), SECOND) // 2:
            self._period_began = ack.now
            self._pipe_before, self._pipe_now = self._pipe_now, 0
        self._pipe_now = max(self._pipe_now, ack.flight)
        if 2 * self._pipe_ack >= self.cwnd or not self._validated_at:
            self._validated_at = ack.now
        elif ack.now - self._validated_at > NVP:  # RFC 7661 4.4.3
            self.ssthresh = max(self.ssthresh, self.cwnd * 3 // 4)
            self.cwnd = max(self.cwnd // 2, self._initial_window)
            self._validated_at = ack.now
