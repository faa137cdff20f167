"""RACK-TLP (RFC 8985): lost is what was sent a while before something that has arrived.

RACK looks at times, not at numbers, so it also sees retransmissions that are lost, and segments at
the tail once a probe has drawn an acknowledgment (TLP). It waits a little for what may only be
reordered: not at all until reordering was seen, then min_RTT/4 or more.
"""

from ...why import Why
from ..ack import Ack
from ..rtt import GRANULARITY, SECOND, RoundTripTime
from ..sendqueue import SendQueue, Span
from ..tcb import TICK, SendVariables
from .base import DUPLICATE_THRESHOLD, Phase, Verdict
from .sack import Sack

PERSISTENCE = 16  # recoveries without a D-SACK until the window shrinks again (6.2 step 4)
MAX_ACK_DELAY = SECOND // 5  # TLP.max_ack_delay: how long a peer may hold back one ACK
INITIAL_PROBE = SECOND  # without an RTT (7.2)


class Rack(Sack):
    """RACK's variables have the RFC's names, less the prefix (5.3)."""

    __slots__ = (
        *("_deadline", "_dsack_round", "_fack", "_measured", "_probe_again", "_probe_end"),
        *("_reo_wnd_mult", "_reo_wnd_persist", "_rtt", "_seen", "_sent", "min_rtt"),
    )

    sign = Why.RACK

    def __init__(self) -> None:
        super().__init__()
        self.min_rtt: int | None = None
        self._rtt = 0  # RACK.rtt: of the segment sent last among those that have arrived
        # Its place among all transmissions, for RACK.xmit_ts and RACK.end_seq: in one instant new
        # data may leave before what is lost, and sequence numbers would not tell.
        self._sent = 0
        self._fack = 0  # the highest position that has arrived
        self._seen = False  # RACK.reordering_seen
        self._reo_wnd_mult = 1
        self._reo_wnd_persist = PERSISTENCE
        self._dsack_round: int | None = None
        self._deadline: int | None = None  # of the reordering timer
        self._probe_end: int | None = None  # TLP.end_seq
        self._probe_again = False  # TLP.is_retrans
        self._measured = True  # an RTT was measured since the last probe

    def acked(
        self, ack: Ack, snd: SendVariables, queue: SendQueue, rtt: RoundTripTime
    ) -> Verdict | None:
        if ack.rtt is not None:
            self._measured = True
        self._update_reordering_window(ack, snd)  # step 4, also when the D-SACK ends the episode
        repaired = self._process_probe(ack)
        verdict = super().acked(ack, snd, queue, rtt)
        return Verdict.REPAIRED if repaired and verdict is None else verdict

    # --- RACK: section 6 ---

    def _all_needless(self, ack: Ack, queue: SendQueue) -> bool:
        """What was resent and had arrived before was overtaken. The RFC does not count that as
        reordering (6.2 step 3), and without it the same mistake is made in each round.
        """
        if any(start in queue.repaired for start, _ in ack.dsacks):
            self._seen = True
        return super()._all_needless(ack, queue)

    def find_losses(
        self, ack: Ack, snd: SendVariables, queue: SendQueue, rtt: RoundTripTime
    ) -> None:
        if ack.rtt is not None:  # step 1, without a window: paths of one connection change seldom
            self.min_rtt = ack.rtt if self.min_rtt is None else min(self.min_rtt, ack.rtt)
        for span in sorted(ack.arrived):  # steps 2 and 3; what one ACK reports is not reordered
            self._update(span, ack)
        self._detect(queue, self._reordering_window(queue, rtt), ack.now)  # step 5

    def _update(self, span: Span, ack: Ack) -> None:
        """Steps 2 and 3: the segment sent last among those that have arrived, and reordering."""
        if span.times == 1 and span.end < self._fack:
            self._seen = True  # it was overtaken
        self._fack = max(self._fack, span.end)
        rtt = ack.now - span.sent
        if span.times > 1:  # the acknowledgment may be that of an earlier transmission
            if ack.echo is not None and ack.echo < span.sent // TICK:
                return
            if self.min_rtt is not None and rtt < self.min_rtt:
                return
        if span.order > self._sent:
            self._rtt, self._sent = rtt, span.order

    def _update_reordering_window(self, ack: Ack, snd: SendVariables) -> None:
        """Step 4: a D-SACK means that we were hasty; wider, once a round."""
        if self._dsack_round is not None and snd.una >= self._dsack_round:
            self._dsack_round = None
        if ack.dsacks and self._dsack_round is None:
            self._dsack_round = snd.nxt
            self._reo_wnd_mult += 1
            self._reo_wnd_persist = PERSISTENCE

    def ended(self) -> None:
        self._reo_wnd_persist -= 1
        if self._reo_wnd_persist <= 0:
            self._reo_wnd_mult = 1

    def _reordering_window(self, queue: SendQueue, rtt: RoundTripTime) -> int:
        """RACK.reo_wnd, ns: min(reo_wnd_mult*min_RTT/4, SRTT); 0 while nothing speaks for it."""
        if not self._seen and (self.phase is not Phase.OPEN or _enough_sacked(queue)):
            return 0
        return min(self._reo_wnd_mult * (self.min_rtt or 0) // 4, rtt.srtt or 0)

    def _detect(self, queue: SendQueue, window: int, now: int) -> None:
        """Step 5: all that was sent before the segment of step 2, and a window ago."""
        self._deadline, lost = None, []
        for span in queue.flight:
            if span.order >= self._sent:
                break
            due = span.sent + self._rtt + window
            if due <= now:
                lost.append(span)
            else:
                self._deadline = max(self._deadline or 0, due)
        for span in lost:
            queue.mark_lost(span, Why.RACK)

    def reordering_deadline(self) -> int | None:
        return self._deadline

    def late(self, snd: SendVariables, queue: SendQueue, now: int) -> Verdict | None:
        before = queue.lost_octets
        self._detect(queue, 0, now)
        return self.begin(queue.lost_octets - before, snd, queue)

    def enter(self, phase: Phase, snd: SendVariables, queue: SendQueue) -> None:
        super().enter(phase, snd, queue)
        self._probe_end = None

    def mark_after_timeout(self, queue: SendQueue, now: int) -> None:
        """6.3: what was sent long enough ago, not what has just left."""
        for span in [s for s in queue.flight if s.sent + self._rtt <= now]:
            queue.mark_lost(span, Why.GO_BACK_N)

    # --- TLP: section 7 ---

    def probe_timeout(self, queue: SendQueue, rtt: RoundTripTime) -> int | None:
        """7.2: PTO = 2*SRTT, a tick at least, and TLP.max_ack_delay more for a single segment."""
        calm = self.phase is Phase.OPEN and not queue.sacked_octets and not queue.lost_octets
        idle = self._probe_end is None and self._measured  # no probe is out (7.3)
        if not calm or not idle or not queue.spans:
            return None
        if rtt.srtt is None:
            return INITIAL_PROBE
        return max(2 * rtt.srtt, GRANULARITY) + (MAX_ACK_DELAY if len(queue.spans) == 1 else 0)

    def probed(self, end: int, again: bool) -> None:
        self._probe_end, self._probe_again, self._measured = end, again, False

    def _process_probe(self, ack: Ack) -> bool:
        """7.4.2: what became of the probe; True when it repaired a loss that nobody had seen."""
        end = self._probe_end
        if end is None or ack.una < end:
            return False
        needless = any(right == end for _, right in ack.dsacks)
        beyond = ack.una > end
        if not self._probe_again or needless or beyond or (ack.duplicate and not ack.sacked):
            self._probe_end = None
        return self._probe_again and beyond and not needless


def _enough_sacked(queue: SendQueue) -> bool:
    """DupThresh segments were SACKed, however small: RACK.segs_sacked (6.2 step 4)."""
    return queue.sacked_octets > 0 and sum(s.sacked for s in queue.spans) >= DUPLICATE_THRESHOLD
