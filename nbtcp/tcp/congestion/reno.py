"""Reno: slow start and congestion avoidance (RFC 5681 3.1; RFC 9293 MUST-19), counting
octets (RFC 3465).
"""

from ..ack import Ack


class Reno:
    """cwnd grows by what is acknowledged in slow start, by one SMSS a round trip after that."""

    pacing_rate: int | None = None
    in_recovery: bool = False

    __slots__ = ("_acked", "_mss", "_per_ack", "cwnd", "ssthresh")

    def __init__(self, initial_window: int, mss: int) -> None:
        self.cwnd = initial_window
        self.ssthresh = 1 << 62
        self._mss = mss
        self._acked = 0  # octets acknowledged towards the next increase
        self._per_ack = 2 * mss  # slow start takes at most so much of one ACK: L of RFC 3465 2.2

    def acked(self, ack: Ack) -> None:
        octets, flight = ack.octets, ack.flight
        if self.cwnd < self.ssthresh:
            if self.cwnd <= 2 * flight:  # a window that is not used proves nothing
                self.cwnd += min(octets, self._per_ack)
            return
        self._per_ack = 2 * self._mss  # the slow start after a timeout is over
        if self.cwnd <= flight + 2 * self._mss:
            self._acked += octets  # RFC 3465 2.1: cwnd += SMSS for each cwnd of octets acknowledged
            if self._acked >= self.cwnd:
                self._acked -= self.cwnd
                self.cwnd += self._mss

    def lost(self, flight: int, now: int) -> None:
        self.ssthresh = max(flight // 2, 2 * self._mss)  # RFC 5681 equation (4)
        self.cwnd = self.ssthresh
        self._acked = 0
        self._per_ack = 2 * self._mss

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        if not again:
            self.ssthresh = max(flight // 2, 2 * self._mss)
        self.cwnd = self._mss  # the loss window (RFC 5681 3.1)
        self._acked = 0
        self._per_ack = self._mss  # RFC 3465 2.3: what is acknowledged after a timeout left earlier
