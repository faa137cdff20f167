"""Loss recovery with SACK: the scoreboard tells which segments are missing (RFC 6675).

Also here: an episode of which every retransmission turned out to be needless, by D-SACK (RFC 2883,
RFC 3708), was a false alarm.
"""

from ...why import Why
from ..ack import Ack
from ..rtt import RoundTripTime
from ..sendqueue import SendQueue
from ..tcb import SendVariables
from .base import DUPLICATE_THRESHOLD, Phase, Recovery, Verdict


class Sack(Recovery):
    """Lost is what three segments behind it have outrun (IsLost of RFC 6675 4)."""

    __slots__ = ("_duplicates", "_looked_at")

    selective = True
    sign = Why.SACK_HOLE

    def __init__(self) -> None:
        super().__init__()
        self._duplicates = 0  # DupAcks: acknowledgments in a row that only SACK something new
        self._looked_at = 0  # up to here losses have been looked for

    def acked(
        self, ack: Ack, snd: SendVariables, queue: SendQueue, rtt: RoundTripTime
    ) -> Verdict | None:
        if ack.dsacks and self._all_needless(ack, queue):
            self.phase = Phase.OPEN
            queue.unmark_lost()
            return Verdict.SPURIOUS
        if self.phase is Phase.LOSS and (verdict := self.after_timeout(ack, snd, queue)):
            return verdict
        if self.phase is not Phase.OPEN and snd.una >= self.recover:
            self.phase = Phase.OPEN
            self.ended()
        if queue.sacked_octets + ack.octets == ack.delivered:  # nothing was SACKed before
            self.flight = snd.nxt - snd.una
        before = queue.lost_octets
        self.find_losses(ack, snd, queue, rtt)
        ack.lost = queue.lost_octets - before
        return self.begin(ack.lost, snd, queue)

    def begin(self, lost: int, snd: SendVariables, queue: SendQueue) -> Verdict | None:
        """Fast recovery begins with the first octets found `lost`."""
        if not lost or self.phase is not Phase.OPEN:
            return None
        self.enter(Phase.FAST_RECOVERY, snd, queue)
        return Verdict.LOST

    def ended(self) -> None:
        """A loss episode has ended."""

    def find_losses(
        self, ack: Ack, snd: SendVariables, queue: SendQueue, rtt: RoundTripTime
    ) -> None:
        """IsLost: DupThresh ranges, or more than DupThresh - 1 segments, were SACKed above; where
        the segments are small DupThresh acknowledgments do for the first hole (5, step 2).

        A retransmission that is lost again is not noticed: it takes a timeout.
        """
        if ack.octets:
            self._duplicates = 0
        self._duplicates += bool(ack.sacked)
        if self._duplicates >= DUPLICATE_THRESHOLD and self.phase is Phase.OPEN and queue.spans:
            queue.mark_lost(queue.spans[0], Why.FAST_RETRANSMIT, urgently=True)
        limit = self._lost_below(snd.mss, queue)
        if limit <= self._looked_at:
            return
        for span in queue.spans:
            if span.end > limit:
                break
            if span.end > self._looked_at and span.times == 1:
                queue.mark_lost(span, Why.SACK_HOLE)
        self._looked_at = limit

    def _lost_below(self, mss: int, queue: SendQueue) -> int:
        """What ends by this position and was not SACKed is lost."""
        above = 0
        for ranges, (start, end) in enumerate(reversed(queue.sacked), 1):
            above += end - start
            if ranges >= DUPLICATE_THRESHOLD or above > (DUPLICATE_THRESHOLD - 1) * mss:
                return start
        return 0

    def _all_needless(self, ack: Ack, queue: SendQueue) -> bool:
        """True when D-SACKs have come for all that this episode has sent again."""
        if not queue.repaired:
            return False
        for start, _ in ack.dsacks:
            times = queue.repaired.get(start, 0)
            if times > 1:
                queue.repaired[start] = times - 1
            elif times:
                del queue.repaired[start]
        return not queue.repaired
