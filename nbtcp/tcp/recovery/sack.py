"""Loss recovery with SACK: the scoreboard tells which segments are missing (RFC 6675)."""

from ...why import Why
from ..ack import Ack
from ..sendqueue import SendQueue, Span
from ..tcb import SendVariables
from .base import DUPLICATE_THRESHOLD, Phase, Recovery


class Sack(Recovery):
    """Lost is what three segments behind it have outrun (IsLost of RFC 6675 4)."""

    selective = True
    sign = Why.SACK_HOLE

    def __init__(self) -> None:
        super().__init__()
        self._judged = 0  # up to here losses have been looked for; HighRxt, once they are sent
        self._rescue_rxt = 0  # RescueRxt
        self._twice: list[Span] = []  # of which NextSeg rule 3 has put a second copy on its way

    def find_losses(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> None:
        """What IsLost finds above HighRxt; where the segments are small DupThresh acknowledgments
        do for the first hole (5, step 1).

        A retransmission that is lost again is not noticed: it takes a timeout.
        """
        self.duplicates = (0 if ack.octets else self.duplicates) + bool(ack.sacked)
        if self.phase is Phase.OPEN:
            self._judged = snd.una  # (3.1) HighRxt <- HighACK
        elif self.phase is Phase.LOSS:
            self._judged = max(self._judged, self.recover)  # the timeout has marked all below
        limit = self._lost_below(snd.mss, queue)
        if limit > self._judged:
            for span in queue.since(self._judged):
                if span.end > limit:
                    break
                if span.start not in queue.repaired:
                    queue.mark_lost(span, Why.SACK_HOLE)
            self._judged = limit
        enough = self.duplicates >= DUPLICATE_THRESHOLD and self.phase is Phase.OPEN
        if enough and queue.spans and not queue.lost_octets:
            first = queue.head(queue.spans[0], snd.mss)
            queue.mark_lost(first, Why.FAST_RETRANSMIT, urgently=True)
            self._judged = first.end
        # SetPipe counts the copy sent last (b), and the first one as long as it is not lost (a).
        if self._twice:
            known = max(snd.una, limit)
            self._twice = [s for s in self._twice if s.start >= known and not s.sacked]
            self.departed = -sum(span.end - span.start for span in self._twice)

    def _lost_below(self, mss: int, queue: SendQueue) -> int:
        """IsLost: DupThresh ranges, or more than DupThresh - 1 segments, were SACKed above it."""
        above = 0
        for ranges, (start, end) in enumerate(reversed(queue.sacked), 1):
            above += end - start
            if ranges >= DUPLICATE_THRESHOLD or above > (DUPLICATE_THRESHOLD - 1) * mss:
                return start
        return 0

    def enter(self, phase: Phase, snd: SendVariables, queue: SendQueue) -> None:
        super().enter(phase, snd, queue)
        self._rescue_rxt = queue.spans[0].end  # (4.3)
        self._twice.clear()

    def last_resort(self, snd: SendVariables, queue: SendQueue) -> bool:
        """NextSeg rules 3 and 4: a hole that is not yet lost, or once in an episode the last
        segment that was not SACKed.
        """
        if self.phase is not Phase.FAST_RECOVERY:
            return False
        top = max((end for _, end in queue.sacked), default=0)
        for span in queue.since(self._judged):  # (3) above HighRxt, below something SACKed
            if span.start >= top:
                break
            if not span.sacked and span.start not in queue.repaired:
                self._judged = queue.head(span, snd.mss).end
                self._twice.append(span)
                self.departed -= span.end - span.start
                queue.mark_lost(span, Why.SACK_HOLE)
                return True
            self._judged = span.end
        last = queue.spans[-1]  # (4); what was SACKed or sent again needs no rescue
        if snd.una <= self._rescue_rxt or last.sacked or last.start in queue.repaired:
            return False
        self._rescue_rxt = self.recover
        queue.mark_lost(queue.tail(last, snd.mss), Why.RESCUE)
        return True
