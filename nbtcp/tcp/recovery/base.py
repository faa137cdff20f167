"""What all strategies of loss recovery share: phases, timeouts, and the discovery that a timeout
was a false alarm (F-RTO, RFC 5682).
"""

from ...why import Labelled, Why
from ..ack import Ack
from ..rtt import RoundTripTime
from ..sendqueue import SendQueue, Span
from ..tcb import SendVariables

DUPLICATE_THRESHOLD = 3  # DupThresh (RFC 5681 3.2, RFC 6675 2)


class Phase(Labelled):
    """Where loss recovery is."""

    OPEN = 0  # nothing is believed lost
    FAST_RECOVERY = 1  # RFC 5681 3.2, RFC 6582, RFC 6675
    LOSS = 2  # after a retransmission timeout, until all that was out then is acknowledged


class Verdict(Labelled):
    """What congestion control has to be told after an acknowledgment."""

    LOST = 0  # a loss episode begins
    RESTART = 1  # one begins, and all starts from one segment, as after a timeout (Tahoe)
    REPAIRED = 2  # the loss was repaired by a tail loss probe (RFC 8985 7.4.2)
    SPURIOUS = 3  # the last episode was a false alarm


class Probing(Labelled):
    """How far F-RTO has come after a timeout (RFC 5682 2.1, 3.1)."""

    OFF = 0
    REPEATED = 1  # the first segment was sent again
    NEW_DATA = 2  # its acknowledgment did not tell enough: new data goes out in place of the rest


class Recovery:
    """The part that every strategy has; without a method that finds losses it finds none."""

    __slots__ = ("flight", "phase", "probing", "recover")

    selective = False  # works with SACK, and only with it
    sign = Why.DUPLICATE_ACK  # what tells it of losses
    false_alarms = True  # looks for spurious timeouts

    def __init__(self) -> None:
        self.phase = Phase.OPEN
        self.probing = Probing.OFF
        self.recover = 0  # SND.NXT when the last loss was found
        self.flight = 0  # octets out when the first sign of a loss came: FlightSize (RFC 5681 3.2)

    def in_flight(self, snd: SendVariables, queue: SendQueue) -> int:
        """Octets believed to be in the network: pipe of RFC 6675."""
        return snd.nxt - snd.una - queue.lost_octets - queue.sacked_octets

    def acked(
        self, ack: Ack, snd: SendVariables, queue: SendQueue, rtt: RoundTripTime
    ) -> Verdict | None:
        """An acknowledgment arrived, a duplicate perhaps; what congestion control must know."""
        raise NotImplementedError

    def timed_out(self, snd: SendVariables, queue: SendQueue, now: int) -> None:
        """The retransmission timer fired: all that is out is believed lost."""
        again = self.phase is Phase.LOSS
        self.enter(Phase.LOSS, snd, queue)
        self.probing = Probing.REPEATED if self.false_alarms and not again else Probing.OFF
        if queue.spans[0].sacked:  # and yet not acknowledged: the peer has reneged (RFC 2018 8)
            queue.forget_sacks()
        self.mark_after_timeout(queue, now)
        queue.mark_lost(queue.spans[0], Why.TIMEOUT, urgently=True)

    def mark_after_timeout(self, queue: SendQueue, now: int) -> None:
        """Go back N: whatever was out is sent again, as far as cwnd allows."""
        for span in queue.spans:
            queue.mark_lost(span, Why.GO_BACK_N)

    def reordering_deadline(self) -> int | None:
        """When segments that are late become lost ones (RACK), ns."""
        return None

    def late(self, snd: SendVariables, queue: SendQueue, now: int) -> Verdict | None:
        """That time has come."""
        return None

    def probe_timeout(self, queue: SendQueue, rtt: RoundTripTime) -> int | None:
        """How long (ns) to wait for an acknowledgment before a tail loss probe, or None."""
        return None

    def probed(self, end: int, again: bool) -> None:
        """A tail loss probe has left; SND.NXT is `end`, and it was new data or sent `again`."""

    def enter(self, phase: Phase, snd: SendVariables, queue: SendQueue) -> None:
        """A loss episode begins."""
        self.phase = phase
        self.recover = snd.nxt
        queue.repaired.clear()

    def after_timeout(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> Verdict | None:
        """Was the timeout a false alarm? RFC 5682, its SACK version where there is SACK (3.1)."""
        if self.probing is Probing.OFF or not (ack.octets or ack.duplicate or ack.sacked):
            return None
        if self.selective and any(map(self._is_original, ack.arrived)):
            return self._spurious(queue)
        if self.probing is Probing.REPEATED:
            # (2) only an acknowledgment that leaves something open lets us go on probing
            go_on = ack.octets and snd.una < self.recover and queue.end > snd.nxt
            self.probing = Probing.NEW_DATA if go_on else Probing.OFF
            return None
        self.probing = Probing.OFF
        if ack.octets:  # (3b) it covers what was out before the timeout, and never sent again
            return self._spurious(queue)
        return None  # (3a) the hole is real

    def _is_original(self, span: Span) -> bool:
        """It was out when the timer fired, and was sent only once."""
        return span.times == 1 and span.end <= self.recover

    def _spurious(self, queue: SendQueue) -> Verdict:
        self.probing = Probing.OFF
        self.phase = Phase.OPEN
        queue.unmark_lost()
        return Verdict.SPURIOUS
