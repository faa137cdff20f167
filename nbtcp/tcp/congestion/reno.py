"""Reno: slow start and congestion avoidance (RFC 5681 3.1; RFC 9293 MUST-19), counting
octets (RFC 3465).
"""

from ..ack import Ack
from .base import CongestionControl


class Reno(CongestionControl):
    """cwnd grows by what is acknowledged in slow start, by one SMSS a round trip after that."""

    __slots__ = ("_acked", "_last_round", "_per_ack", "_round_end", "_this_round")

    def __init__(self, initial_window: int, mss: int) -> None:
        super().__init__(initial_window, mss)
        self._acked = 0  # octets acknowledged towards the next increase
        self._per_ack = 2 * mss  # slow start takes at most so much of one ACK: L of RFC 3465 2.2
        self._round_end = 0  # a round trip is over when more than this position is acknowledged
        self._this_round = self._last_round = 0  # the most that was in flight in it

    def acked(self, ack: Ack) -> None:
        used = self._is_used(ack)
        if self.cwnd < self.ssthresh:
            if used:
                self.cwnd += min(ack.octets, self._per_ack)
            return
        self._per_ack = 2 * self._mss  # the slow start after a timeout is over
        if used:
            self._acked += ack.octets  # RFC 3465 2.1: += SMSS for each cwnd of octets acknowledged
            if self._acked >= self.cwnd:
                self._acked -= self.cwnd
                self.cwnd += self._mss

    def lost(self, flight: int, now: int) -> None:
        self.ssthresh = max(self._at_loss(flight) // 2, 2 * self._mss)  # RFC 5681 equation (4)
        self.cwnd = self.ssthresh
        self._acked = 0
        self._per_ack = 2 * self._mss

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        if not again:
            self.ssthresh = max(flight // 2, 2 * self._mss)
        self.cwnd = self._mss  # the loss window (RFC 5681 3.1)
        self._acked = 0
        self._per_ack = self._mss  # RFC 3465 2.3: what is acknowledged after a timeout left earlier

    def use_mss(self, mss: int) -> None:
        self._per_ack = self._per_ack * mss // self._mss
        self._mss = mss

    def _is_used(self, ack: Ack) -> bool:
        """Was cwnd filled lately? A window that is not used proves nothing, and may not grow (RFC
        7661).
        """
        if ack.una > self._round_end:
            self._begin_round(ack)
        self._this_round = max(self._this_round, ack.flight)
        pipe = max(self._this_round, self._last_round)
        return self.cwnd <= (2 * pipe if self.cwnd < self.ssthresh else pipe + 2 * self._mss)

    def _begin_round(self, ack: Ack) -> None:
        self._round_end = ack.nxt
        self._last_round, self._this_round = self._this_round, 0

    def _at_loss(self, flight: int) -> int:
        """What the path held: LossFlightSize or pipeACK, whichever is more (RFC 7661 4.4.1).

        ACKs come in batches, of which those before the one that tells of a loss have lowered
        `flight`.
        """
        return max(flight, min(self.cwnd, max(self._this_round, self._last_round)))
