"""Round-trip time and retransmission timeout (RFC 6298; RFC 9293 MUST-18). All times are integer
nanoseconds.
"""

SECOND = 1_000_000_000
GRANULARITY = 1_000_000  # G of RFC 6298: a clock tick
FALLBACK_RTO = 3 * SECOND  # after a SYN was sent more than once (RFC 6298 5.7)


def ns(seconds: float) -> int:
    """Seconds in nanoseconds; without end it is later than any clock."""
    return round(min(seconds * SECOND, 1 << 62))


class RoundTripTime:
    """SRTT, RTTVAR and RTO; `srtt` is None until the first sample."""

    __slots__ = ("_max_rto", "_min_rto", "rto", "rttvar", "srtt")

    def __init__(self, initial_rto: int, min_rto: int, max_rto: int) -> None:
        self.srtt: int | None = None
        self.rttvar = 0
        self.rto = initial_rto  # (2.1)
        self._min_rto = min_rto
        self._max_rto = max_rto

    def sample(self, r: int) -> None:
        """Take one measurement; Karn's rule is the caller's business."""
        if self.srtt is None:
            self.srtt = r  # (2.2) SRTT <- R, RTTVAR <- R/2
            self.rttvar = r // 2
        else:
            # (2.3) RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|, beta = 1/4
            #       SRTT <- (1 - alpha) * SRTT + alpha * R', alpha = 1/8
            self.rttvar = (3 * self.rttvar + abs(self.srtt - r)) // 4
            self.srtt = (7 * self.srtt + r) // 8
        # RTO <- SRTT + max(G, K*RTTVAR), K = 4; (2.4) and (2.5) bound it
        rto = self.srtt + max(GRANULARITY, 4 * self.rttvar)
        self.rto = min(max(rto, self._min_rto), self._max_rto)

    def back_off(self) -> None:
        """The timer fired: (5.5) RTO <- RTO * 2 (MUST-19). The next sample takes it back."""
        self.rto = min(2 * self.rto, self._max_rto)

    def fall_back(self) -> None:
        """(5.7) The SYN needed retransmitting and no sample exists: data starts with 3 seconds."""
        if self.srtt is None:
            self.rto = min(FALLBACK_RTO, self._max_rto)
