"""What is lost, and what is still out there: loss recovery.

A strategy keeps its own view of the spans in the send queue and marks those it believes lost;
output.py sends them again. It never touches cwnd: duplicate ACKs do not inflate the window, the
octets that have left the network are subtracted from what is in flight instead, so the cwnd one
plots is the true one.
"""

from collections.abc import Callable
from typing import Protocol

from ..why import Labelled, Why
from .sendqueue import SendQueue
from .tcb import SendVariables

DUPLICATE_THRESHOLD = 3  # RFC 5681 3.2


class Phase(Labelled):
    """Where loss recovery is."""

    OPEN = 0  # nothing is believed lost
    FAST_RECOVERY = 1  # RFC 5681 3.2, RFC 6582
    LOSS = 2  # after a retransmission timeout, until all that was out then is acknowledged


class Recovery(Protocol):
    """What a connection needs of a strategy."""

    phase: Phase

    def in_flight(self, snd: SendVariables, queue: SendQueue) -> int:
        """Octets believed to be in the network."""

    def acked(self, octets: int, snd: SendVariables, queue: SendQueue) -> None:
        """SND.UNA has advanced by `octets`."""

    def duplicate(self, snd: SendVariables, queue: SendQueue) -> int | None:
        """A duplicate ACK arrived (RFC 5681 2).

        If it begins a loss episode: FlightSize, of which ssthresh becomes the half.
        """

    def timed_out(self, snd: SendVariables, queue: SendQueue) -> None:
        """The retransmission timer fired."""


class NewReno:
    """Fast retransmit and NewReno's fast recovery, without SACK (RFC 6582)."""

    __slots__ = ("_departed", "_duplicates", "_flight", "_recover", "phase")

    def __init__(self) -> None:
        self.phase = Phase.OPEN
        self._duplicates = 0  # duplicate ACKs in a row
        self._flight = 0  # octets out when the first of them came
        self._recover = 0  # SND.NXT when the last loss was found
        self._departed = 0  # octets that duplicate ACKs say have arrived out of order

    def in_flight(self, snd: SendVariables, queue: SendQueue) -> int:
        octets = snd.nxt - snd.una - queue.lost_octets - self._departed
        return octets if octets > 0 else 0

    def acked(self, octets: int, snd: SendVariables, queue: SendQueue) -> None:
        self._duplicates = 0
        if self.phase is Phase.OPEN or snd.una >= self._recover:
            self.phase = Phase.OPEN  # a full acknowledgment ends the episode
            self._departed = 0
        elif self.phase is Phase.FAST_RECOVERY:
            # A partial acknowledgment: the next hole is lost too. Of the octets acknowledged one
            # SMSS is the retransmission, the rest are those which duplicate ACKs had reported.
            repaired = snd.mss if octets >= snd.mss else 0
            self._departed = max(0, self._departed - octets + repaired)
            queue.mark_lost(queue.spans[0], Why.PARTIAL_ACK, urgently=True)

    def duplicate(self, snd: SendVariables, queue: SendQueue) -> int | None:
        if self.phase is Phase.LOSS:
            return None  # they answer what was sent before the timeout
        self._duplicates += 1
        if self._duplicates == 1:
            self._flight = snd.nxt - snd.una
        if self.phase is Phase.FAST_RECOVERY:
            self._departed = min(self._departed + snd.mss, snd.nxt - snd.una)
        elif self._duplicates < DUPLICATE_THRESHOLD:
            self._departed = self._duplicates * snd.mss  # lets one segment out: RFC 3042
        elif self._duplicates == DUPLICATE_THRESHOLD and snd.una > self._recover:
            # RFC 6582 3.2 step 2: only if the acknowledgment covers more than recover, for else the
            # duplicates may come from our own needless retransmissions.
            self.phase = Phase.FAST_RECOVERY
            self._recover = snd.nxt
            self._departed = DUPLICATE_THRESHOLD * snd.mss
            queue.mark_lost(queue.spans[0], Why.FAST_RETRANSMIT, urgently=True)
            return self._flight  # without what limited transmit sent (RFC 5681 3.2 step 2)
        return None

    def timed_out(self, snd: SendVariables, queue: SendQueue) -> None:
        self.phase = Phase.LOSS
        self._recover = snd.nxt  # RFC 6582 3.2 step 4
        self._duplicates = 0
        self._departed = 0
        for span in queue.spans:
            queue.mark_lost(span, Why.GO_BACK_N)
        queue.mark_lost(queue.spans[0], Why.TIMEOUT, urgently=True)


STRATEGIES: dict[str, Callable[[], Recovery]] = {"newreno": NewReno}
"""By the name in `Config(recovery=...)`."""
