"""Loss recovery that counts duplicate ACKs: Tahoe, Reno and NewReno, as they came to be.

All three resend one segment at the third duplicate ACK. Tahoe then starts again from one segment
(1988), Reno goes on at half the rate (1990, RFC 5681), and NewReno does not take the first new
acknowledgment for the end of the episode (RFC 6582). `departed` is what duplicate ACKs say has
arrived out of order. Each new acknowledgment restarts the timer:
Slow-but-Steady, where RFC 6582 4 prefers Impatient, so that one sees a hole repaired each round.
"""

from ...why import Why
from ..ack import Ack
from ..sendqueue import SendQueue
from ..tcb import SendVariables
from .base import DUPLICATE_THRESHOLD, Phase, Probing, Recovery, Verdict


class NewReno(Recovery):
    """Fast retransmit and NewReno's fast recovery, without SACK (RFC 6582)."""

    def find_losses(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> None:
        if ack.octets:
            self.duplicates = 0
            if self.phase is Phase.OPEN:  # a full acknowledgment has ended the episode
                self.departed = 0
            elif self.phase is Phase.FAST_RECOVERY:
                self._partial_ack(ack.octets, snd, queue)
        elif ack.duplicate and self.phase is not Phase.LOSS:  # there they answer what left earlier
            self._duplicate(snd, queue)
        elif ack.duplicate and self.probing is Probing.REAL:  # F-RTO's new data arrives, and the
            self.departed = snd.mss  # rest may follow it (RFC 5682 2.1 step 3a)

    def _partial_ack(self, octets: int, snd: SendVariables, queue: SendQueue) -> None:
        """The next hole is lost too (RFC 6582 3.2 step 3).

        Of the octets acknowledged one SMSS is the retransmission, the rest are those which
        duplicate ACKs had reported.
        """
        repaired = snd.mss if octets >= snd.mss else 0
        self.departed = max(0, self.departed - octets + repaired)
        queue.mark_lost(queue.head(queue.spans[0], snd.mss), Why.PARTIAL_ACK, urgently=True)

    def _duplicate(self, snd: SendVariables, queue: SendQueue) -> None:
        self.duplicates += 1
        if self.phase is Phase.FAST_RECOVERY:
            self.departed = min(self.departed + snd.mss, snd.nxt - snd.una)
        elif self.duplicates < DUPLICATE_THRESHOLD:
            self.departed = self.duplicates * snd.mss  # lets one segment out: RFC 3042
        elif self.duplicates == DUPLICATE_THRESHOLD and snd.una > self.recover:
            # RFC 6582 3.2 step 2: only if the acknowledgment covers more than recover, for else the
            # duplicates may come from our own needless retransmissions.
            self.departed = self.duplicates * snd.mss
            queue.mark_lost(queue.head(queue.spans[0], snd.mss), Why.FAST_RETRANSMIT, urgently=True)


class Reno(NewReno):
    """Any new acknowledgment ends fast recovery (RFC 5681 3.2 step 6), and three more duplicates
    begin it again: of `recover` only NewReno knows.
    """

    false_alarms = False

    def _partial_ack(self, octets: int, snd: SendVariables, queue: SendQueue) -> None:
        self.end()
        self.recover = 0


class Tahoe(Reno):
    """Fast retransmit, and then slow start over all that was out (Jacobson 1988)."""

    def begin(self, snd: SendVariables, queue: SendQueue) -> Verdict:
        self.timed_out(snd, queue, 0)  # the same, but for the reason
        queue.mark_lost(queue.head(queue.spans[0], snd.mss), Why.FAST_RETRANSMIT, urgently=True)
        return Verdict.RESTART


class Timeout(Tahoe):
    """Nothing but the retransmission timer, as before Tahoe (RFC 793)."""

    def find_losses(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> None:
        """Duplicate ACKs say nothing."""
