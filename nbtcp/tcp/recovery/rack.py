"""RACK-TLP (RFC 8985): lost is what was sent a while before something that has arrived.

RACK looks at times, not at numbers, so it also sees retransmissions that are lost, and segments at
the tail once a probe has drawn an acknowledgment (TLP). It waits a little for what may only be
reordered: not at all until reordering was seen, then min_RTT/4 or more.
"""

from ...why import Why
from ..ack import Ack
from ..rtt import GRANULARITY, SECOND
from ..sendqueue import SendQueue, Span
from ..tcb import TICK, SendVariables
from .base import DUPLICATE_THRESHOLD, Phase, Recovery, Verdict

PERSISTENCE = 16  # recoveries without a D-SACK until the window shrinks again (6.2 step 4)
MAX_ACK_DELAY = SECOND // 5  # TLP.max_ack_delay: how long a peer may hold back one ACK


class Rack(Recovery):
    """RACK's variables have the RFC's names, less the prefix (5.3)."""

    selective = True
    sign = Why.RACK

    def __init__(self) -> None:
        super().__init__()
        self.min_rtt: int | None = None
        self._rtt = 0  # RACK.rtt: of the segment sent last among those that arrived last
        # The place among all transmissions of the segment sent last among all that have arrived,
        # for RACK.xmit_ts and RACK.end_seq: in one instant new data may leave before what is lost,
        # and sequence numbers would not tell.
        self._sent = 0
        self._fack = 0  # the highest position that has arrived
        self._seen = False  # RACK.reordering_seen
        self._reo_wnd = 0
        self._reo_wnd_mult = 1
        self._reo_wnd_persist = PERSISTENCE
        self._dsack_round = 0  # nothing more from D-SACKs until this is acknowledged
        self._probe_end: int | None = None  # TLP.end_seq
        self._probe_again = False  # TLP.is_retrans
        self._measured = False  # an RTT was measured since the last probe

    def acked(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> Verdict | None:
        self._update(ack)
        if ack.dsack is not None:
            self._widen(ack.dsack[0], snd, queue)  # also when it ends the episode
        repaired = self._probe_end is not None and self._process_probe(self._probe_end, ack, queue)
        verdict = super().acked(ack, snd, queue)
        return Verdict.REPAIRED if repaired and verdict is None else verdict

    # --- RACK: section 6 ---

    def _update(self, ack: Ack) -> None:
        """6.2 steps 1 to 3. min_RTT has no window: paths of one connection change seldom."""
        if ack.rtt is not None:
            self._measured = True
            self.min_rtt = ack.rtt if self.min_rtt is None else min(self.min_rtt, ack.rtt)
        newest, highest = None, self._fack
        for span in ack.arrived:
            highest = max(highest, span.end)
            if span.times == 1:  # was it overtaken? What one ACK reports is not reordered
                self._seen = self._seen or span.end < self._fack
            elif ack.now - span.sent < (self.min_rtt or 0) or (
                ack.echo is not None and ack.echo < span.sent // TICK
            ):
                continue  # it may be an earlier transmission that has arrived
            if newest is None or span.order > newest.order:
                newest = span
        self._fack = highest
        if newest is not None:
            self._rtt, self._sent = ack.now - newest.sent, max(self._sent, newest.order)

    def _widen(self, start: int, snd: SendVariables, queue: SendQueue) -> None:
        """Step 4: a D-SACK means that we were hasty; wider, once a round."""
        # What was resent and had arrived before was overtaken. The RFC does not count that as
        # reordering (step 3), and without it the same mistake is made in each round.
        self._seen = self._seen or start in queue.repaired
        if snd.una >= self._dsack_round:
            self._dsack_round = snd.nxt
            self._reo_wnd_mult += 1
            self._reo_wnd_persist = PERSISTENCE

    def end(self) -> None:
        super().end()
        self._reo_wnd_persist -= 1
        if self._reo_wnd_persist <= 0:
            self._reo_wnd_mult = 1

    def find_losses(self, ack: Ack, snd: SendVariables, queue: SendQueue) -> None:
        """Steps 4 and 5: all that was sent before the segment of step 2, and a window ago; that is
        0 while nothing speaks for it.
        """
        calm = self.phase is Phase.OPEN and queue.sacked_segments < DUPLICATE_THRESHOLD
        window = min(self._reo_wnd_mult * (self.min_rtt or 0) // 4, ack.srtt or 0)
        self._reo_wnd = window if self._seen or calm else 0
        self.deadline, lost = None, []
        for span in queue.flight:
            if span.order >= self._sent:
                break
            due = span.sent + self._rtt + self._reo_wnd
            if due <= ack.now:
                lost.append(span)
            else:
                self.deadline = due  # of the last one
        for span in lost:
            queue.mark_lost(span, Why.RACK)

    def enter(self, phase: Phase, snd: SendVariables, queue: SendQueue) -> None:
        super().enter(phase, snd, queue)
        self._probe_end = None

    def overdue(self, queue: SendQueue, now: int) -> list[Span]:
        """6.3: what was sent long enough ago, not what has just left."""
        return [s for s in queue.flight if s.sent + self._rtt + self._reo_wnd <= now]

    # --- TLP: section 7 ---

    def probe_timeout(self, queue: SendQueue, srtt: int | None) -> int | None:
        """7.2: PTO = 2*SRTT, a tick at least, and TLP.max_ack_delay more for a single segment."""
        calm = self.phase is Phase.OPEN and not queue.sacked_octets and not queue.lost_octets
        idle = self._probe_end is None and self._measured  # no probe is out, and an RTT (7.3)
        if not calm or not idle or not queue.spans or srtt is None:
            return None
        return max(2 * srtt, GRANULARITY) + (MAX_ACK_DELAY if len(queue.spans) == 1 else 0)

    def probed(self, end: int, again: bool) -> None:
        self._probe_end, self._probe_again, self._measured = end, again, False

    def _process_probe(self, end: int, ack: Ack, queue: SendQueue) -> bool:
        """7.4.2: what became of the probe; True when it repaired a loss that nobody had seen."""
        if ack.una < end:
            return False
        needless = ack.dsack is not None and ack.dsack[1] == end
        beyond = ack.una > end
        plain = ack.duplicate and ack.dsack is None and not queue.sacked_octets  # without SACK
        if not self._probe_again or needless or beyond or plain:
            self._probe_end = None
        return self._probe_again and beyond and not needless
