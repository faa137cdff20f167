"""What all strategies of loss recovery share: the phases, the timeout, and the two ways to discover
that nothing was lost: F-RTO (RFC 5682) and D-SACKs (RFC 2883, RFC 3708).
"""

from ...why import Labelled, Why
from ..ack import Ack
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
    NEW_DATA = 2  # it was acknowledged: new data goes out in place of the rest
    REAL = 3  # the answer to that showed a loss


class Recovery:
    """The part that every strategy has; `find_losses` makes one of it."""

    selective = False  # works with SACK, and only with it
    sign = Why.DUPLICATE_ACK  # what tells it of losses
    false_alarms = True  # looks for spurious timeouts
    deadline: int | None = None  # when segments that are late become lost ones (RACK), ns

    def __init__(self) -> None:
        self.phase = Phase.OPEN
        self.probing = Probing.OFF
        self.recover = 0  # RecoveryPoint: SND.NXT when the last loss was found
        self.flight = 0  # octets out when the first sign of a loss came: FlightSize (RFC 5681 3.2)
        self.duplicates = 0  # duplicate ACKs in a row
        # Octets that are not in the network any more, as far as the scoreboard does not know that;
        # less than 0: of so many two copies are on their way.
        self.departed = 0

    def in_flight(self, snd: SendVariables, queue: SendQueue) -> int:
        """Octets believed to be in the network: pipe of RFC 6675."""
        octets = snd.nxt - snd.una - queue.lost_octets - queue.sacked_octets - self.departed
        return octets if octets > 0 else 0

    def acked(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> Verdict | None:
        """An acknowledgment arrived, a duplicate perhaps; what congestion control must know.

        One that tells nothing but the time comes when the `deadline` does.
        """
        spurious = ack.dsack is not None and self._all_needless(*ack.dsack, queue)
        if not spurious and self.probing is not Probing.OFF:
            spurious = self._was_late(ack, snd, queue)
        if self.phase is not Phase.OPEN and (snd.una >= self.recover or spurious):
            self.end()
        if spurious:
            self.recover = snd.una - 1  # of what is out duplicates may tell again (RFC 5682 2.1)
            queue.unmark_lost()
            queue.begin_episode()
            return Verdict.SPURIOUS
        sacked_before = self.selective and queue.sacked_octets + ack.octets > ack.delivered
        if not self.duplicates and not sacked_before:  # no sign of a loss before
            self.flight = snd.nxt - snd.una  # without what limited transmit adds
        before = queue.lost_octets
        self.find_losses(ack, snd, queue)
        ack.lost = queue.lost_octets - before
        return self.begin(snd, queue) if ack.lost and self.phase is Phase.OPEN else None

    def find_losses(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> None:
        """Mark what `ack` shows to be lost."""
        raise NotImplementedError

    def begin(self, snd: SendVariables, queue: SendQueue) -> Verdict:
        """The first loss was found."""
        self.enter(Phase.FAST_RECOVERY, snd, queue)
        return Verdict.LOST

    def enter(self, phase: Phase, snd: SendVariables, queue: SendQueue) -> None:
        """A loss episode begins."""
        self.phase = phase
        self.recover = snd.nxt
        queue.begin_episode()

    def end(self) -> None:
        """The loss episode is over."""
        self.phase, self.probing = Phase.OPEN, Probing.OFF
        self.departed = 0

    def timed_out(self, snd: SendVariables, queue: SendQueue, now: int) -> None:
        """The retransmission timer fired: all that is out is believed lost."""
        again = self.phase is Phase.LOSS
        self.enter(Phase.LOSS, snd, queue)
        self.probing = Probing.REPEATED if self.false_alarms and not again else Probing.OFF
        self.duplicates = self.departed = 0
        if queue.spans[0].sacked:  # and yet not acknowledged: the peer has reneged (RFC 2018 8)
            queue.forget_sacks()
        for span in self.overdue(queue, now):
            queue.mark_lost(span, Why.GO_BACK_N)
        queue.mark_lost(queue.spans[0], Why.TIMEOUT, urgently=True)

    def overdue(self, queue: SendQueue, now: int) -> list[Span]:
        """What a timeout makes believe lost: all that was out (go back N), as far as cwnd allows.

        What was SACKed is kept: a peer that reneges is found out above (RFC 6675 5.1).
        """
        return list(queue.spans)

    def last_resort(self, snd: SendVariables, queue: SendQueue) -> bool:
        """True if a segment was marked although nothing is known to be lost: there is nothing new
        to send, and cwnd has room.
        """
        return False

    def probe_timeout(self, queue: SendQueue, srtt: int | None) -> int | None:
        """How long (ns) to wait for an acknowledgment before a tail loss probe, or None."""
        return None

    def probed(self, end: int, again: bool) -> None:
        """A tail loss probe has left; SND.NXT is `end`, and it was new data or sent `again`."""

    # --- was it a false alarm? ---

    def _was_late(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> bool:
        """F-RTO: were only the acknowledgments late, when the timer fired? RFC 5682 2.1, and where
        there is SACK 3.1.
        """
        if self.probing is Probing.REPEATED:  # (2) what was sent again has to be acknowledged
            if ack.octets:
                self.recover = snd.nxt
                go_on = ack.done and snd.una < snd.nxt < queue.end
                self.probing = Probing.NEW_DATA if go_on else Probing.OFF
            elif ack.duplicate and not self.selective:
                self.probing = Probing.OFF
        elif self.probing is Probing.NEW_DATA and (ack.octets or ack.duplicate or ack.sacked):
            # (3a) a duplicate, or the answer to the new data: a hole is there. (3b) Something was
            # waiting for its acknowledgment and was never sent again.
            new = self.selective and any(span.end > self.recover for span in ack.arrived)
            late = bool(ack.octets or ack.sacked) and not new
            self.probing = Probing.OFF if late else Probing.REAL
            return late
        return False

    def _all_needless(self, start: int, end: int, queue: SendQueue) -> bool:
        """start..end arrived twice; True when that is so of all that this episode has
        sent again.
        """
        if not queue.repaired[start]:
            return False
        queue.repaired[start] -= 1
        queue.repaired_octets -= end - start
        return not any(queue.repaired.values())
