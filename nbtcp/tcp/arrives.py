"""SEGMENT ARRIVES: RFC 9293 3.10.7.3 and 3.10.7.4, one function per step, in the RFC's order.

A step changes the TCB and says whether to go on; when it stops, `seg.why` holds what was done with
the segment. No step sends anything: it leaves what is owed in the connection, and output.py builds
the segments. CLOSED and LISTEN (3.10.7.1 and .2) concern segments without a connection: see
stack.py and listener.py.

The third step, security, does not apply: nbtcp has no compartments. Urgent octets are delivered in
line (RFC 6093 3).
"""

import errno
from typing import TYPE_CHECKING

from ..why import Why
from ..wire.segment import ACK, CWR, ECE, FIN, MAX_WSCALE, RST, SYN, URG, Segment
from ..wire.seq import unwrap, unwrap_blocks
from . import reaction
from .ack import Ack
from .recovery import NewReno, Phase, Recovery, Verdict
from .rtt import SECOND
from .sendqueue import Span
from .state import RECEIVING, Cause, State
from .tcb import MAX_RAW_WINDOW, TICK, TIMESTAMPS_LENGTH, default_mss, window_shift
from .timers import Timer

if TYPE_CHECKING:
    from .connection import Connection

ECN_FIELD = CONGESTION_EXPERIENCED = 3  # of the IP header's TOS (RFC 3168 5)
PAWS_IDLE = 24 * 24 * 3600 * SECOND  # after 24 days TS.Recent is no longer valid (RFC 7323 5.5)


def segment_arrives(conn: "Connection", seg: Segment, now: int) -> None:
    """Process one segment, numbers unwrapped; `seg.why` says afterwards what was done with it."""
    if conn.state is State.LISTEN:
        _listen(conn, seg, now)
    elif conn.state is State.SYN_SENT:
        _syn_sent(conn, seg, now)
    elif conn.state is not State.CLOSED:
        for step in STEPS:  # 3.10.7.4, other states: until one stops
            if not step(conn, seg, now):
                return


def unwrap_numbers(conn: "Connection", seg: Segment) -> None:
    """The border: 32-bit numbers and the scaled window become positions and octets."""
    tcb = conn.tcb
    snd, rcv = tcb.snd, tcb.rcv
    if conn.state in (State.LISTEN, State.SYN_SENT):
        rcv.irs = seg.raw_seq  # if it is a SYN this is position 0; nothing else is used here
    seg.seq = unwrap(seg.raw_seq, rcv.irs, rcv.nxt)
    seg.ack = unwrap(seg.raw_ack, snd.iss, snd.una) if seg.flags & ACK else 0
    if seg.sack:
        seg.blocks = unwrap_blocks(seg.sack, snd.iss, snd.una)
    seg.window = seg.raw_window if seg.flags & SYN else seg.raw_window << snd.shift


# --- LISTEN: the third step of 3.10.7.2, the others are the listener's ---


def _listen(conn: "Connection", seg: Segment, now: int) -> None:
    seg.why = Why.SYN
    _take_syn(conn, seg, now)
    conn.transition(Cause.RCV_SYN, now)


# --- SYN-SENT: 3.10.7.3 ---


def _syn_sent(conn: "Connection", seg: Segment, now: int) -> None:
    snd = conn.tcb.snd
    if seg.flags & ACK and not 0 < seg.ack <= snd.nxt:  # first: =< ISS or > SND.NXT (L-3)
        seg.why = Why.ACK_UNSENT
        if not seg.flags & RST:
            conn.reset_due = seg.ack
        return
    if seg.flags & RST:  # second: believed only with an acceptable ACK (L-4)
        seg.why = Why.RST
        if seg.flags & ACK:
            _reset(conn, now)
        return
    if not seg.flags & SYN:  # fifth
        seg.why = Why.NOT_SYN
        return
    _take_syn(conn, seg, now)  # fourth
    if not seg.flags & ACK:  # simultaneous open: the SYN goes again, with an ACK (MUST-10, L-5)
        seg.why = Why.SYN
        conn.transition(Cause.RCV_SYN, now)
        if conn.queue.spans:
            conn.queue.mark_lost(conn.queue.spans[0], Why.SYN_ACK, urgently=True)
        return
    seg.why = Why.SYN_ACK
    _acknowledge(conn, seg, False, now)
    conn.owe_ack(Why.ACK)
    _establish(conn, Cause.RCV_SYN_ACK, now)


def _establish(conn: "Connection", cause: Cause, now: int) -> bool:
    """Now what came with the SYN is processed, from the sixth step on; False when that was the
    connection's end.
    """
    conn.transition(cause, now)
    syn, conn.held = conn.held, None
    return syn is None or all(step(conn, syn, now) for step in STEPS[4:])


def _take_syn(conn: "Connection", seg: Segment, now: int) -> None:
    """RCV.NXT <- SEG.SEQ+1, IRS <- SEG.SEQ, and the options that both SYNs carried (MUST-14).

    Text and control that came with it wait for ESTABLISHED.
    """
    conn.held = seg
    tcb, config = conn.tcb, conn.config
    snd, rcv = tcb.snd, tcb.rcv
    rcv.nxt = 1
    rcv.offer(1 + min(MAX_RAW_WINDOW, conn.reassembly.capacity))
    tcb.ts.on = config.timestamps and seg.tsval is not None
    tcb.ts.recent, tcb.ts.recent_at = seg.tsval or 0, now
    tcb.sack = config.sack and seg.sack_permitted
    tcb.ecn = _ecn_agreed(conn, seg)
    if conn.recovery.selective and not tcb.sack:
        conn.recovery = NewReno()
    tcb.scaling = config.window_scale and seg.wscale is not None
    if tcb.scaling and seg.wscale is not None:
        snd.shift = min(seg.wscale, MAX_WSCALE)
        rcv.shift = window_shift(config.receive_buffer)
    # Eff.snd.MSS = min(SendMSS+20, MMS_S) - TCPhdrsize - IPoptionsize (RFC 9293 MUST-16)
    default = default_mss(conn.flow)
    limit = min(seg.mss or default, snd.path_mss)
    conn.use_mss(max(1, limit - (TIMESTAMPS_LENGTH if tcb.ts.on else 0)))
    rcv.mss = default
    snd.wnd = snd.max_wnd = seg.window
    snd.wl1 = seg.seq


def _ecn_agreed(conn: "Connection", seg: Segment) -> bool:
    """RFC 3168 6.1.1 (SHLD-8): a SYN with ECE and CWR asks, a SYN,ACK with ECE alone agrees."""
    marks = seg.flags & (ECE | CWR)
    if seg.flags & ACK:
        return conn.tcb.ecn and marks == ECE
    return conn.config.ecn != "off" and marks == ECE | CWR


# --- other states: 3.10.7.4 ---


def _check_sequence(conn: "Connection", seg: Segment, now: int) -> bool:
    """First: is any of the segment in the window (L-6)? PAWS comes before (RFC 7323 5.3 R1).

    What is not is answered with an ACK (L-7), but for a RST (U-5).
    """
    rcv, ts, is_rst = conn.tcb.rcv, conn.tcb.ts, seg.flags & RST
    if conn.state is State.SYN_RECEIVED and seg.flags & (SYN | RST) == SYN and seg.seq == 0:
        return _repeated_syn(conn, seg, now)
    if ts.on and not is_rst and not _timestamp_acceptable(conn, seg, now):
        return False
    acceptable = _acceptable(seg, rcv.nxt, rcv.wnd)
    if not (acceptable or seg.flags & SYN) and _meets_a_closed_window(conn, seg):
        conn.owe_ack(Why.ACK)  # which tells the window (L-24)
        acceptable = True
    if acceptable:
        # TS.Recent <- SEG.TSval if SEG.SEQ =< Last.ACK.sent (RFC 7323 4.3); not from a RST, which
        # PAWS has not looked at
        if ts.on and seg.tsval is not None and seg.seq <= ts.last_ack_sent and not is_rst:
            ts.recent, ts.recent_at = seg.tsval, now
        return True
    seg.why = Why.UNACCEPTABLE
    if is_rst:
        return False
    if seg.seq < rcv.nxt and seg.len and not seg.flags & SYN:
        seg.why = Why.DUPLICATE
        if seg.data:
            conn.reassembly.duplicate = (seg.seq, min(seg.seq + len(seg.data), rcv.nxt))
        conn.owe_ack(Why.DUPLICATE_ACK)
        if conn.state is State.TIME_WAIT and seg.flags & FIN:  # the peer's FIN again: L-16
            conn.wait_time_wait(now)
    else:
        conn.challenge_ack(now, forged=bool(seg.flags & SYN))
    return False


def _meets_a_closed_window(conn: "Connection", seg: Segment) -> bool:
    """While our window is closed "special allowance should be made to accept valid ACKs, URGs and
    RSTs" (MUST-66, L-28): step seven will refuse the text. And when each end takes the other's
    window for closed and probes it, the peer's ACKs stand before its octet, which is here (A.2).
    """
    rcv, snd = conn.tcb.rcv, conn.tcb.snd
    if rcv.wnd == 0 and seg.seq == rcv.nxt:
        return True
    both_probe = snd.wnd == 0 and snd.nxt > snd.una and seg.seq == rcv.nxt - 1
    return both_probe and not (seg.len or seg.flags & RST)


def _acceptable(seg: Segment, nxt: int, wnd: int) -> bool:
    """Table 6 of RFC 9293; a RST may carry data (SHLD-2) and counts as empty."""
    length = 0 if seg.flags & RST else seg.len
    if wnd == 0:
        return length == 0 and seg.seq == nxt
    last = seg.seq + length - (length > 0)
    return nxt <= seg.seq < nxt + wnd or nxt <= last < nxt + wnd


def _repeated_syn(conn: "Connection", seg: Segment, now: int) -> bool:
    """The SYN that we have already, in SYN-RECEIVED.

    With an ACK it is the peer's half of a simultaneous open (RFC 9293 figure 8), whose
    acknowledgment counts (L-28). Without, our SYN,ACK was lost: it is sent again.
    """
    if seg.flags & ACK:
        if conn.queue.lost_octets:  # our own SYN,ACK has not left yet, and will not any more
            conn.owe_ack(Why.ACK)
        return True
    seg.why = Why.DUPLICATE
    conn.syn_lost = True
    if conn.queue.spans and conn.may_answer(now, forged=True):
        conn.queue.mark_lost(conn.queue.spans[0], Why.DUPLICATE_SYN, urgently=True)
    return False


def _timestamp_acceptable(conn: "Connection", seg: Segment, now: int) -> bool:
    """PAWS: nothing older than TS.Recent, nothing without a timestamp (RFC 7323 3.2, 5.3 R1)."""
    ts = conn.tcb.ts
    if seg.tsval is None:
        seg.why = Why.OPTIONS_MISSING
        return bool(seg.flags & SYN)  # RFC 5961 4.2: answered in any case; it may have restarted
    older = (seg.tsval - ts.recent) & 1 << 31  # SEG.TSval < TS.Recent
    if older and now - ts.recent_at <= PAWS_IDLE:
        seg.why = Why.PAWS
        conn.challenge_ack(now)
        return False
    return True


def _check_rst(conn: "Connection", seg: Segment, now: int) -> bool:
    """Second: only a RST at exactly RCV.NXT resets (RFC 5961 3.2: U-6, U-7)."""
    if not seg.flags & RST:
        return True
    if conn.state is State.TIME_WAIT:  # RFC 1337: TIME-WAIT cannot be assassinated
        seg.why = Why.TIME_WAIT_RST
        return False
    if seg.seq != conn.tcb.rcv.nxt:
        seg.why = Why.BLIND_RST
        conn.challenge_ack(now)
        return False
    seg.why = Why.RST
    if conn.state is State.SYN_RECEIVED and conn.passive:
        conn.transition(Cause.BACK_TO_LISTEN, now)  # the user need not be informed (L-10)
    elif conn.state in (State.CLOSING, State.LAST_ACK) and not conn.queue.data:
        conn.transition(Cause.RCV_RST, now)
    else:  # the user is told (MUST-12, L-20), also where data was lost after both had closed (3.6)
        _reset(conn, now)
    return False


def _reset(conn: "Connection", now: int) -> None:
    reset = errno.ECONNRESET, "reset"
    number, how = reset if conn.synchronized else (errno.ECONNREFUSED, "refused")
    conn.fail(number, f"connection {how} by {conn.peer()}", Cause.RCV_RST, now)


def _check_syn(conn: "Connection", seg: Segment, now: int) -> bool:
    """Fourth: a SYN here is old, an attack or a mistake (RFC 5961 4.2, U-8), but for the one we
    have.
    """
    if not seg.flags & SYN or (seg.seq == 0 and conn.state is State.SYN_RECEIVED):
        return True
    seg.why = Why.SYN_IN_WINDOW
    if conn.state is State.SYN_RECEIVED and conn.passive:  # L-11
        conn.transition(Cause.BACK_TO_LISTEN, now)
    else:
        conn.challenge_ack(now)
    return False


def _check_ack(conn: "Connection", seg: Segment, now: int) -> bool:
    """Fifth: the ACK field (L-12), the send window, and the states that wait for the ACK of our
    FIN.
    """
    snd = conn.tcb.snd
    if not seg.flags & ACK:
        seg.why = Why.ACK_MISSING
        return False
    opening = conn.state is State.SYN_RECEIVED
    least = 1 if opening else snd.una - snd.max_wnd  # RFC 5961 5.2 (MAY-12, U-9, L-14)
    if not least <= seg.ack <= snd.nxt:
        seg.why = Why.ACK_UNSENT
        if opening:  # L-13
            conn.reset_due = seg.ack
        else:
            conn.challenge_ack(now)
        return False
    if opening and not _establish(conn, Cause.RCV_ACK_OF_SYN, now):
        return False
    marked = seg.flags & ECE and conn.tcb.ecn and conn.recovery.phase is Phase.OPEN
    if marked and snd.una >= snd.reduced:  # as a loss, but once a window (RFC 3168 6.1.2)
        reaction.marked(conn, now)
    if seg.ack <= snd.una:
        _old_ack(conn, seg, now)
        return True
    seg.why = Why.ACK_NEW
    _acknowledge(conn, seg, False, now)
    _update_window(conn, seg, now)
    fin = conn.queue.fin
    if fin is not None and snd.una > fin:  # in FIN-WAIT-1, CLOSING or LAST-ACK
        conn.transition(Cause.RCV_ACK_OF_FIN, now)
    return conn.state is not State.CLOSED


def _acknowledge(conn: "Connection", seg: Segment, duplicate: bool, now: int) -> None:
    """What the acknowledgment says: spans leave, and RTT, recovery and cwnd learn of it."""
    snd, queue, recovery = conn.tcb.snd, conn.queue, conn.recovery
    opening = snd.una == 0
    ack = Ack(now, max(seg.ack, snd.una), snd.nxt, recovery.in_flight(snd, queue))
    ack.duplicate = duplicate
    ack.marked = conn.tcb.ecn and bool(seg.flags & ECE)
    sacked = queue.sacked_octets
    if seg.ack > snd.una:
        ack.octets = seg.ack - snd.una
        snd.una = seg.ack
        ack.done = queue.acknowledge(seg.ack)
    if seg.blocks and conn.tcb.sack and recovery.selective:
        _take_sack(conn, seg, ack)
    ack.delivered = ack.octets + queue.sacked_octets - sacked
    if duplicate and not recovery.selective:  # it tells of a segment
        ack.delivered = snd.mss
    fresh = [span for span in ack.done if not span.sacked]
    ack.arrived = fresh + ack.sacked
    _sample_rtt(conn, seg, ack, fresh or ack.sacked)
    ack.srtt = conn.rtt.srtt
    before, lost = recovery.phase, queue.lost_octets
    verdict = recovery.acked(ack, snd, queue)
    if queue.rate is not None:
        ack.rate = queue.rate.sample(ack, recovery.in_flight(snd, queue))
    if opening:  # our SYN; one that was lost costs the initial window (RFC 5681 3.1)
        if conn.syn_lost:
            conn.use_mss(snd.mss, snd.mss)
            conn.rtt.fall_back()
        if conn.cc.pacing_rate is not None:
            conn.cc.acked(ack)  # for its RTT: the first rate depends on it
    else:
        reaction.acknowledged(conn, ack, before, verdict)
    conn.note_phase(before, lost, _told_by(recovery, ack, verdict), now)
    if ack.octets:
        conn.progress, conn.timeouts = True, 0
        if queue.spans:  # RFC 6298 5.3
            conn.set_timer(Timer.RETRANSMISSION, now + conn.rtt.rto, now)
        else:  # 5.2
            conn.stop_timer(Timer.RETRANSMISSION, now)


def _told_by(recovery: Recovery, ack: Ack, verdict: Verdict | None) -> Why:
    """What made recovery decide, for the log."""
    if verdict is Verdict.SPURIOUS:
        return Why.SPURIOUS
    if ack.lost and recovery.selective:
        return recovery.sign
    if verdict is None and ack.lost:
        return Why.PARTIAL_ACK
    return Why.ACK_NEW if ack.octets else Why.DUPLICATE_ACK


def _take_sack(conn: "Connection", seg: Segment, ack: Ack) -> None:
    """RFC 2018 5; a first block that is acknowledged already, or lies in the second, is a D-SACK
    (RFC 2883 4).
    """
    snd = conn.tcb.snd
    for i, (left, right) in enumerate(seg.blocks):
        if not 0 < right - left <= snd.nxt or right > snd.nxt:
            continue  # nonsense
        second = seg.blocks[1] if i == 0 and len(seg.blocks) > 1 else (0, 0)
        if i == 0 and (right <= seg.ack or second[0] <= left < right <= second[1]):
            ack.dsack = (left, right)
        elif right > snd.una:
            if conn.config.offload:
                conn.queue.cut_at(left, snd.mss)
                conn.queue.cut_at(right, snd.mss)
            ack.sacked += conn.queue.sack((max(left, snd.una), right))


def _old_ack(conn: "Connection", seg: Segment, now: int) -> None:
    """SEG.ACK =< SND.UNA: perhaps a window update or a duplicate ACK (RFC 5681 2)."""
    snd = conn.tcb.snd
    old_window = snd.wnd
    _update_window(conn, seg, now)
    plain = not (seg.data or seg.flags & FIN)
    same = seg.ack == snd.una < snd.nxt and seg.window == old_window
    duplicate = plain and same and old_window > 0
    seg.why = Why.DUPLICATE_ACK if duplicate else Why.ACK_OLD
    if plain and snd.wnd != old_window:
        seg.why = Why.WINDOW_UPDATE
    if duplicate or seg.blocks:
        _acknowledge(conn, seg, duplicate, now)


def _update_window(conn: "Connection", seg: Segment, now: int) -> None:
    """SND.WND <- SEG.WND unless the segment is older than the last that did so (L-15).

    The window may shrink (MUST-34).
    """
    snd = conn.tcb.snd
    # SND.WL2 needs no variable: it is never more than SND.UNA.
    if seg.ack < snd.una or seg.seq < snd.wl1:
        return
    opened = snd.wnd == 0 < seg.window
    snd.wnd, snd.wl1 = seg.window, seg.seq
    if seg.window > snd.max_wnd:
        snd.max_wnd = seg.window
    if opened:
        conn.window_opened(now)


def _sample_rtt(conn: "Connection", seg: Segment, ack: Ack, arrived: list[Span]) -> None:
    """One RTT sample of the newest segment that has `arrived`, unless Karn's rule forbids (RFC 6298
    3; RFC 9293 MUST-18).

    An acknowledgment that covers something believed lost may answer any transmission, or may have
    waited for the hole to be filled. The timestamp it echoes can tell which (RFC 7323 4): if it is
    that of the last transmission and of no earlier one. What was SACKed before has been measured
    then.
    """
    ts = conn.tcb.ts
    if ts.on and seg.tsecr is not None:
        ack.echo = ts.ticks(seg.tsecr, ack.now)
    if not arrived:
        return
    span, kept, why = arrived[-1], True, Why.FIRST_TRANSMISSION
    for suspect in arrived:
        if suspect.times > 1 or suspect.why is not Why.DATA:
            span, kept, why = suspect, False, Why.KARN
    answered = span.end <= ack.una  # else the echo is of another segment (RFC 7323 4.1)
    if not kept and answered and ack.echo == span.sent // TICK != span.first_sent // TICK:
        kept, why = True, Why.TIMESTAMP
    rtt = ack.now - span.sent
    if kept:
        conn.rtt.sample(rtt)
        ack.rtt = rtt
    if conn.observer is not None:
        conn.observer.rtt_sample(conn, span, rtt, kept, why, ack.now)


def _check_urgent(conn: "Connection", seg: Segment, now: int) -> bool:
    """Sixth: RCV.UP <- max(RCV.UP, SEG.UP), and the application is told (MUST-30, MUST-32, U-2)."""
    rcv, up = conn.tcb.rcv, seg.seq + seg.urgent
    pending = max(rcv.up, conn.reassembly.taken)
    if seg.flags & URG and conn.state in RECEIVING and up > pending:
        rcv.up = up
        text = f"{conn.urgent_left} octets to read up to the end of urgent data"
        conn.report("urgent", text, now)
    return True


def _process_text(conn: "Connection", seg: Segment, now: int) -> bool:
    """Seventh: the segment text, trimmed to the window (L-8); none behind the FIN (L-18)."""
    rcv = conn.tcb.rcv
    start, data = seg.seq + (seg.flags & SYN != 0), seg.data
    if not data and not seg.flags & FIN:
        return True
    end = start + len(data)
    if data and conn.tcb.ecn:
        _take_ecn(conn, seg)
    if seg.flags & FIN and rcv.fin is None and rcv.nxt <= end < rcv.nxt + max(rcv.wnd, 1):
        rcv.fin = end
        conn.reassembly.cut(end)
    if data and start < rcv.nxt:  # of what came twice the first part is reported (RFC 2883 4)
        conn.reassembly.duplicate = (start, min(end, rcv.nxt))
    limit = rcv.edge if rcv.fin is None else min(rcv.edge, rcv.fin)
    start, data = max(start, rcv.nxt), data[max(0, rcv.nxt - start) : max(0, limit - start)]
    if not data or conn.state not in RECEIVING:
        if seg.data and not rcv.wnd:
            seg.why = Why.WINDOW_CLOSED
        return True
    if conn.closed_by_application:  # RFC 9293 SHLD-3: nobody will read it
        seg.why = Why.AFTER_CLOSE
        conn.reset_due = conn.tcb.snd.empty_seq
        conn.fail(errno.ECONNABORTED, "data arrived after close", Cause.ABORT, now)
        return False
    if (size := seg.gso_size or len(seg.data)) > rcv.mss:
        rcv.mss = size
    _accept_text(conn, seg, start, data, now)
    return True


def _take_ecn(conn: "Connection", seg: Segment) -> None:
    """CE begins our ECEs, CWR ends them (RFC 3168 6.1.3; RFC 9293 SHLD-8)."""
    rcv = conn.tcb.rcv
    if seg.flags & CWR:
        rcv.congested = False
    if seg.tos & ECN_FIELD == CONGESTION_EXPERIENCED and not rcv.congested:
        rcv.congested = True
        conn.owe_ack(Why.CONGESTION_MARK)


def _accept_text(conn: "Connection", seg: Segment, start: int, data: bytes, now: int) -> None:
    """Into the receive buffer, and when to acknowledge it (RFC 5681 4.2, RFC 9293 3.8.6.3)."""
    rcv, reassembly = conn.tcb.rcv, conn.reassembly
    had_holes, before, twice = reassembly.has_holes, rcv.nxt, reassembly.duplicate
    seg.why = Why.IN_ORDER if start == rcv.nxt else Why.OUT_OF_ORDER
    rcv.nxt = reassembly.insert(start, data, rcv.nxt)
    if reassembly.duplicate == (start, start + len(data)):
        seg.why = Why.DUPLICATE
    elif seg.seq < start:  # of two parts that came twice the first is reported (RFC 2883 4)
        reassembly.duplicate = twice
    if rcv.nxt == before:
        conn.duplicate_acks += 1  # at once, one for each (MAY-13)
        return
    conn.duplicate_acks = 0  # the acknowledgment of all this says more (MUST-58)
    conn.owe_ack_of(rcv.nxt - before, had_holes, now)


def _check_fin(conn: "Connection", seg: Segment, now: int) -> bool:
    """Eighth: the peer's FIN, once all before it is here (L-17)."""
    rcv = conn.tcb.rcv
    if rcv.fin is None or rcv.nxt != rcv.fin:
        if seg.flags & FIN and not seg.data:  # behind a hole; with data it is acknowledged already
            conn.duplicate_acks += 1
        return True
    rcv.nxt += 1
    if not seg.data:
        seg.why = Why.FIN
    conn.owe_ack(Why.ACK)
    conn.transition(Cause.RCV_FIN, now)
    return True


STEPS = (
    *(_check_sequence, _check_rst, _check_syn, _check_ack),
    *(_check_urgent, _process_text, _check_fin),
)
"""3.10.7.4 in its order (L-9): order is meaning here."""
