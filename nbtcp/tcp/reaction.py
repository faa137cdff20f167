"""What a loss does to cwnd: recovery's verdicts become calls of congestion control.

Recovery says what is lost, congestion control how much may be in flight; neither knows the other.
Here is also what they have in common: the reduction is gradual (PRR), it answers congestion marks
as well, and it is taken back when nothing was lost.
"""

from copy import copy
from typing import TYPE_CHECKING

from ..why import Event, Why
from .ack import Ack
from .recovery import Phase, Verdict
from .recovery.prr import ProportionalRateReduction

if TYPE_CHECKING:
    from .connection import Connection


def acknowledged(conn: "Connection", ack: Ack, before: Phase, verdict: Verdict | None) -> None:
    """An acknowledgment came; recovery was in phase `before` and has come to `verdict`."""
    phase = conn.recovery.phase
    if verdict is Verdict.SPURIOUS:
        _undo(conn)
    elif verdict is Verdict.RESTART:
        conn.cc.timed_out(conn.recovery.flight, False, ack.now)
        _answer_marks(conn)
    elif verdict is not None:
        _lost(conn, ack, verdict)
    usual = ack.octets > 0 and before is not Phase.FAST_RECOVERY
    if conn.cc.in_recovery or (usual and verdict is None and not ack.marked):
        conn.cc.acked(ack)
    elif phase is Phase.OPEN and before is Phase.FAST_RECOVERY and verdict is None:
        _end_recovery(conn)
    told = ack.delivered or verdict is not None
    if told and conn.prr is not None and phase is Phase.FAST_RECOVERY:
        pipe = conn.recovery.in_flight(conn.tcb.snd, conn.queue)
        conn.cc.cwnd = conn.prr.window(ack, pipe, conn.queue.sent_octets, conn.cc.ssthresh)
    _note_stage(conn, ack.now)


def timed_out(conn: "Connection", again: bool, now: int) -> None:
    """The retransmission timer fired, `again` for the same segment."""
    snd = conn.tcb.snd
    if not again:
        conn.undo, conn.prr = copy(conn.cc), None
    conn.cc.timed_out(snd.nxt - snd.una, again, now)
    _answer_marks(conn)
    _note_stage(conn, now)


def marked(conn: "Connection", now: int) -> None:
    """A router has marked: a reduction as after a loss, but one that is never undone, and that goes
    down to one segment (RFC 9438 4.6); then it is the time between them that grows.
    """
    snd, cc = conn.tcb.snd, conn.cc
    flight = conn.recovery.in_flight(snd, conn.queue)
    conn.undo = None
    _answer_marks(conn)
    if cc.cwnd <= snd.mss:  # RFC 3168 6.1.2: send when the retransmission timer would expire
        conn.pacer.next_send_time = now + conn.rtt.rto
    cc.lost(flight, now)
    if flight <= 2 * snd.mss == cc.cwnd:
        cc.cwnd = snd.mss
    conn.note(Event.RECOVERY, now, why=Why.CONGESTION_MARK.label)
    _note_stage(conn, now)


def _note_stage(conn: "Connection", now: int) -> None:
    if conn.observer is not None and (stage := conn.cc.stage) != conn.stage:
        conn.note(Event.CONGESTION, now, old=conn.stage, new=stage, value=conn.cc.cwnd)
        conn.stage = stage


def _lost(conn: "Connection", ack: Ack, verdict: Verdict) -> None:
    recovery, cc = conn.recovery, conn.cc
    _answer_marks(conn)
    conn.undo = copy(cc) if verdict is Verdict.LOST else None
    # A lost tail shows when little is out: what was out before is what cwnd allowed.
    cc.lost(cc.cwnd if verdict is Verdict.REPAIRED else recovery.flight, ack.now)
    if cc.in_recovery:
        return
    cc.ssthresh = min(cc.ssthresh, cc.cwnd)  # where recovery leads, of whatever algorithm
    if recovery.selective and recovery.phase is not Phase.OPEN:
        sent = conn.queue.sent_octets
        conn.prr = ProportionalRateReduction(ack.flight, sent, conn.tcb.snd.mss)


def _answer_marks(conn: "Connection") -> None:
    """Whatever made us send less, it is also the answer to the marks of this window: CWR, and no
    second reduction (RFC 3168 6.1.2).
    """
    if conn.tcb.ecn:
        conn.tcb.snd.say_cwr, conn.tcb.snd.reduced = True, conn.tcb.snd.nxt


def _end_recovery(conn: "Connection") -> None:
    """cwnd <- ssthresh; without PRR no more than a segment above what is out, so that no burst
    follows: min(ssthresh, max(FlightSize, SMSS) + SMSS) (RFC 6582 3.2 step 3).
    """
    snd, cc = conn.tcb.snd, conn.cc
    cc.recovered(max(0, conn.queue.repaired_octets))
    if conn.prr is None:
        cc.cwnd = min(cc.ssthresh, max(snd.nxt - snd.una, snd.mss) + snd.mss)
    conn.prr = None


def _undo(conn: "Connection") -> None:
    """The last loss episode was a false alarm: as if it had not been (RFC 4015 3), unless cwnd is
    larger than before by now (RFC 9438 4.9.2).
    """
    before, cc = conn.undo, conn.cc
    if before is not None and (cc.in_recovery or cc.cwnd < before.cwnd):
        before.cwnd = max(before.cwnd, cc.cwnd)
        conn.cc = before
    conn.undo = conn.prr = None
