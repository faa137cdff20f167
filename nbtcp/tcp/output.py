"""What to send next. Only this module builds segments (RFC 9293 3.7, 3.8).

Order: a reset, what was lost, new data with the FIN behind it, and an acknowledgment if one is
still owed then; where F-RTO doubts the loss, new data comes first. Each segment records why it was
sent.
"""

from typing import TYPE_CHECKING

from ..config import Config
from ..congestion.pacing import send_quantum
from ..why import Why
from ..wire.segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Segment, reverse_flow
from ..wire.seq import MODULUS, wrap, wrap_blocks
from ..wire.vnet import MOST_DATA
from .recovery.base import Phase, Probing
from .sendqueue import PROBES, Span
from .state import RECEIVING, State
from .tcb import MAX_RAW_WINDOW, SendVariables, window_shift
from .timers import NEVER, Timer

if TYPE_CHECKING:
    from .connection import Connection

ECT_0 = 2  # in the IP header's TOS: this transport understands marks (RFC 3168 5)
SACK_HEADER, SACK_BLOCK = 4, 8  # octets of the option with its padding


def transmit(conn: "Connection", now: int) -> list[Segment]:
    """All the segments that `conn` may send at `now`."""
    out: list[Segment] = []
    if conn.reset_due is not None:
        position, conn.reset_due = conn.reset_due, None
        out.append(_segment(conn, RST, position, b"", Why.RST, now))
    if conn.state is State.CLOSED or conn.state is State.LISTEN:
        return out
    queue, recovery, snd = conn.queue, conn.recovery, conn.tcb.snd
    if recovery.probing is Probing.NEW_DATA:  # F-RTO: before what may not be lost
        _send_new(conn, now, out)
        if snd.nxt == recovery.recover and Timer.PACING not in conn.timers:
            recovery.probing = Probing.OFF  # nothing can go: the usual recovery
    if queue.lost_octets and recovery.probing is not Probing.NEW_DATA:
        _resend_lost(conn, now, out)
    if snd.nxt == 0:
        _send_syn(conn, now, out)
    elif not queue.lost_octets and (queue.data or queue.fin is not None):
        _send_new(conn, now, out)
        if recovery.phase is Phase.FAST_RECOVERY:
            _resend_as_last_resort(conn, now, out)
    while conn.duplicate_acks:
        conn.duplicate_acks -= 1
        out.append(_segment(conn, ACK, snd.empty_seq, b"", Why.DUPLICATE_ACK, now))
    if (why := conn.ack_due) is not None and conn.state is not State.SYN_SENT:
        # A keep-alive repeats what the peer has acknowledged already: it must answer (SHLD-12).
        position = snd.nxt - 1 if why is Why.KEEPALIVE else snd.empty_seq
        out.append(_segment(conn, ACK, position, b"", why, now))
    _set_timers(conn, now)
    if queue.rate is not None:
        _note_running_dry(conn)
    return out


def window_update_due(conn: "Connection") -> bool:
    """True when reading has freed so much that the peer should hear of it at once.

    The right edge may move by at least min(RCV.BUFF/2, Eff.snd.MSS) (RFC 9293 3.8.6.2.2), and
    either little of the window is left or a quarter of the buffer has become free; else the news
    travels with the next acknowledgment. So does what the SYN had no bits to say: it is no gain by
    reading, and a small request is answered with one segment.
    """
    rcv, capacity = conn.tcb.rcv, conn.reassembly.capacity
    most = min(capacity, MAX_RAW_WINDOW << rcv.shift)
    gain = rcv.nxt + min(capacity - conn.reassembly.size, most) - rcv.promise
    gain = min(gain, conn.reassembly.taken)
    if gain < _least_gain(conn) or conn.state not in RECEIVING:
        return False
    return gain >= most // 4 or rcv.wnd <= most // 8


def reset_for(segment: Segment, ttl: int) -> Segment:
    """The RST that answers a segment for nobody (RFC 9293 3.10.7.1, L-1)."""
    if segment.flags & ACK:  # <SEQ=SEG.ACK><CTL=RST>
        flags, seq, ack = RST, segment.raw_ack, 0
    else:  # <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
        flags, seq, ack = RST | ACK, 0, (segment.raw_seq + segment.len) % MODULUS
    reset = Segment(reverse_flow(segment.flow), flags, seq, ack, 0, ttl=ttl)
    reset.seq, reset.ack, reset.why = seq, ack, Why.RST
    return reset


def cookie_for(syn: Segment, iss: int, tsval: int, config: Config) -> Segment:
    """The SYN,ACK that answers `syn` without a connection (RFC 4987)."""
    flow, ack = reverse_flow(syn.flow), (syn.raw_seq + 1) % MODULUS
    window = min(config.receive_buffer, MAX_RAW_WINDOW)
    reply = Segment(flow, SYN | ACK, iss, ack, window, mss=config.mss, ttl=config.ttl)
    if config.timestamps and syn.tsval is not None:  # they carry the other options
        reply.tsval, reply.tsecr = tsval, syn.tsval
        reply.sack_permitted = config.sack and syn.sack_permitted
        if config.window_scale and syn.wscale is not None:
            reply.wscale = window_shift(config.receive_buffer)
        if config.ecn != "off" and syn.flags & (ECE | CWR) == ECE | CWR:
            reply.flags |= ECE
    reply.seq, reply.ack, reply.why = iss, ack, Why.COOKIE
    return reply


# --- what was lost ---


def _resend_lost(conn: "Connection", now: int, out: list[Segment]) -> None:
    """Send again what recovery has marked, oldest first, as far as cwnd allows; the window does not
    matter (RFC 9293 SHLD-16, MAY-7).
    """
    queue, snd = conn.queue, conn.tcb.snd
    while (span := queue.next_lost()) is not None:
        room = conn.cc.cwnd - conn.recovery.in_flight(snd, queue)
        most = max(min(room, _largest(conn, span.start)) // snd.mss, 1) * snd.mss
        if min(span.end, queue.end) - span.start > most:
            rest = queue.cut(span, span.start + most)
            rest.urgently = False
            if rest.why is Why.TIMEOUT:  # the timer is that of the first segment
                rest.why = Why.GO_BACK_N
        size = span.end - span.start
        if (not span.urgently and size > room) or _held_by_pacing(conn, now):
            return
        flags, data = _contents(conn, span.start, span.end)
        if span is queue.spans[0] and span.why not in PROBES:  # a new time to wait
            conn.set_timer(Timer.RETRANSMISSION, now + conn.rtt.rto, now)
        queue.resent(span, now)
        snd.sent_at = now
        if queue.rate is not None:
            _departs(conn, span, now)
        out.append(_segment(conn, flags, span.start, data, span.why, now))


def _resend_as_last_resort(conn: "Connection", now: int, out: list[Segment]) -> None:
    """What keeps the ACKs coming when there is nothing else to send (NextSeg of RFC 6675 4)."""
    queue, snd, recovery = conn.queue, conn.tcb.snd, conn.recovery
    if queue.end > snd.nxt and _window_left(snd) > 0:
        return
    while not queue.lost_octets and conn.cc.cwnd - recovery.in_flight(snd, queue) >= snd.mss:
        if not recovery.last_resort(snd, queue):
            return
        _resend_lost(conn, now, out)


def _contents(conn: "Connection", start: int, end: int) -> tuple[int, bytes]:
    """The flags and data of positions start..end."""
    fin = conn.queue.fin
    flags = ACK
    if start == 0:
        flags = SYN if conn.state is State.SYN_SENT else SYN | ACK
    elif fin is not None and end > fin:
        flags |= FIN
    data = conn.queue.octets(start, end)
    if data and end >= conn.queue.end:  # RFC 9293 MUST-61
        flags |= PSH
    return flags, data


# --- what is new ---


def _send_syn(conn: "Connection", now: int, out: list[Segment]) -> None:
    why = Why.SYN if conn.state is State.SYN_SENT else Why.SYN_ACK
    flags, data = _contents(conn, 0, 1)
    _sent(conn, 0, 1, now)
    out.append(_segment(conn, flags, 0, data, why, now))


def _send_new(conn: "Connection", now: int, out: list[Segment]) -> None:
    """New data as far as window, cwnd, Nagle and silly-window avoidance allow, then the FIN.

    Segments are as large as they can be, however the application wrote (RFC 9293 SHLD-27, SHLD-28,
    MAY-16). What was queued before the handshake goes with its last ACK (U-4).
    """
    queue, snd = conn.queue, conn.tcb.snd
    if snd.una == 0:  # our SYN must have been acknowledged
        return
    done = queue.fin is not None and snd.una > queue.fin
    long_enough = conn.rtt.rto if conn.cc.pacing_rate is None else 0
    if not (queue.spans or done) and now - snd.sent_at > long_enough:  # idle: RFC 5681 4.1
        conn.cc.restart(conn.restart_window, now)
    while True:
        start, size = snd.nxt, _sendable(conn)
        fin = start + size == queue.fin and (_window_left(snd) > size or conn.force is not None)
        if not (size or fin) or _held_by_pacing(conn, now):
            break
        end = start + size + fin
        why = conn.force or (Why.DATA if size else Why.FIN)
        _sent(conn, start, end, now)
        if size < snd.mss:
            snd.sml = end
        if conn.force is Why.WINDOW_PROBE:
            queue.spans[-1].why = conn.force
        conn.force = None
        flags, data = _contents(conn, start, end)
        out.append(_segment(conn, flags, start, data, why, now, new=True))
    conn.force = None


def _window_left(snd: SendVariables) -> int:
    """U, the usable window; negative when the peer took window back (MUST-34, SHLD-15)."""
    return snd.una + snd.wnd - snd.nxt


def _sendable(conn: "Connection") -> int:
    """How many octets the next new segment may carry; 0 for none yet (RFC 9293 3.8.6.2.1: MUST-38,
    L-22). Whatever is queued leaves in the end (MUST-60).
    """
    queue, snd = conn.queue, conn.tcb.snd
    queued = queue.end - snd.nxt  # D
    if queued <= 0:
        return 0
    usable = _window_left(snd)  # U
    if conn.force:
        return min(queued, max(usable, 1), snd.mss)
    room = conn.cc.cwnd - conn.recovery.in_flight(snd, queue)
    size = min(queued, usable, room, _largest(conn, snd.nxt))
    if size <= 0:
        return 0
    if size >= snd.mss:  # rule (1)
        return size - size % snd.mss
    nagle = conn.config.nagle
    # rule (2); Nagle (SHLD-7) as Minshall has it: wait only for a small segment (A.3, L-29)
    if size == queued:
        held = nagle and snd.sml > snd.una and queue.fin is None
        return 0 if held else size
    if size >= snd.max_wnd // 2 and not (nagle and snd.nxt > snd.una):  # rule (3), Fs = 1/2
        return size
    return 0  # rule (4), the override timeout, is the persist timer


def _largest(conn: "Connection", start: int) -> int:
    """Octets that may leave as one from `start` on: Eff.snd.MSS, or so many times that for the
    device to cut.

    An eighth of cwnd at most, so that acknowledgments come as often as HyStart++ wants them (RFC
    9406 4.3); paced, what may leave at once. An urgent pointer is right for one segment only.
    """
    cc, mss = conn.cc, conn.tcb.snd.mss
    if not conn.config.offload or conn.tcb.snd.up > start:
        return mss
    most = min(cc.cwnd // 8, MOST_DATA)
    if cc.pacing_rate is not None:
        most = min(most, send_quantum(cc.pacing_rate, mss))
    return max(most // mss, 1) * mss


def _sent(conn: "Connection", start: int, end: int, now: int) -> None:
    """start..end is in flight from now on."""
    span = conn.queue.sent(start, end, now)
    conn.tcb.snd.nxt = end
    conn.tcb.snd.sent_at = now
    conn.progress = True
    if conn.queue.rate is not None:
        _departs(conn, span, now)


# --- for algorithms that pace and model the path ---


def _held_by_pacing(conn: "Connection", now: int) -> bool:
    """True while nothing may leave; a timer says until when. Probes are not held."""
    if conn.pacer.next_send_time <= now or conn.force:
        return False
    conn.timers[Timer.PACING] = conn.pacer.next_send_time
    return True


def _departs(conn: "Connection", span: Span, now: int) -> None:
    """The next departure and the next sample of the delivery rate depend on this one."""
    rate, queue, snd = conn.cc.pacing_rate, conn.queue, conn.tcb.snd
    if rate is not None and queue.rate is not None and span.start:  # not for a SYN
        conn.pacer.sent(span.end - span.start, rate, snd.mss, now)
        queue.rate.sent(span, conn.recovery.in_flight(snd, queue), now)


def _note_running_dry(conn: "Connection") -> None:
    """cwnd has room and there is nothing to send (CheckIfApplicationLimited); or congestion control
    itself keeps the rate low.
    """
    queue, snd = conn.queue, conn.tcb.snd
    if queue.rate is not None:
        flight = conn.recovery.in_flight(snd, queue)
        dry = queue.end <= snd.nxt and not queue.lost_octets and flight < conn.cc.cwnd
        if dry or conn.cc.holds_back:
            queue.rate.ran_dry(flight)


# --- every segment passes here ---


def _segment(
    conn: "Connection", flags: int, seq: int, data: bytes, why: Why, now: int, new: bool = False
) -> Segment:
    """One segment with the current acknowledgment, window and options; it goes into the log.

    `new` data may be marked by routers, anything else not (RFC 3168 6.1.4 to 6.1.6).
    """
    tcb = conn.tcb
    snd, rcv, ts = tcb.snd, tcb.rcv, tcb.ts
    window = _window_field(conn, flags)
    seg = Segment(conn.flow, flags, wrap(seq, snd.iss), 0, window, data)
    seg.seq = seq
    seg.why = why
    seg.ttl = conn.config.ttl  # RFC 9293 MUST-49
    seg.tos = conn.dscp << 2  # SHLD-22
    if len(data) > snd.mss:
        seg.gso_size = snd.mss
    if snd.up > seq and data:  # the pointer is to what follows the urgent data (MUST-62)
        seg.flags |= URG
        seg.urgent = min(snd.up - seq, MAX_RAW_WINDOW)  # MUST-31: again, until it is near
    if flags & ACK:
        seg.ack = rcv.nxt
        seg.raw_ack = wrap(rcv.nxt, rcv.irs)
        ts.last_ack_sent = rcv.nxt
        rcv.unacked = 0
        conn.ack_due = None
        if Timer.DELAYED_ACK in conn.timers:
            conn.stop_timer(Timer.DELAYED_ACK, now)
    if flags & SYN:
        _syn_options(conn, seg)
    else:
        seg.window = window << rcv.shift
    if ts.on:
        seg.tsval = ts.value(now)
        seg.tsecr = ts.recent if flags & ACK else 0
    if tcb.sack and flags & (SYN | ACK) == ACK and conn.reassembly.worth_reporting:
        room = snd.mss - len(data) - SACK_HEADER
        blocks = conn.reassembly.blocks(min(max(0, room // SACK_BLOCK), 3 if ts.on else 4))
        # A FIN behind the data has its number too.
        seg.blocks = tuple((left, right + (right == rcv.fin)) for left, right in blocks)
        seg.sack = wrap_blocks(seg.blocks, rcv.irs)
    if tcb.ecn and not flags & SYN:
        _mark_ecn(conn, seg, new)
    if conn.observer is not None:
        conn.observer.segment(conn, True, seg, now)
    return seg


def _mark_ecn(conn: "Connection", seg: Segment, new: bool) -> None:
    """Routers may mark new data; ECE says that one did, CWR that we have slowed down (SHLD-8)."""
    snd, rcv = conn.tcb.snd, conn.tcb.rcv
    if seg.flags & ACK and rcv.congested:
        seg.flags |= ECE
    if new and seg.data and seg.why is not Why.WINDOW_PROBE:
        if not conn.syn_lost:  # else we have sent a SYN without ECN too: MUST NOT (RFC 3168 6.1.1)
            seg.tos |= ECT_0
        if snd.say_cwr:
            seg.flags |= CWR
            snd.say_cwr = False


def _syn_options(conn: "Connection", seg: Segment) -> None:
    """What we ask for; in a SYN,ACK only what the peer asked for too (RFC 7323 2.2, 3.2). The MSS
    is always there (RFC 9293 MUST-14, SHLD-5, MAY-3).
    """
    seg.window = seg.raw_window
    seg.mss = conn.config.mss
    seg.sack_permitted = conn.tcb.sack
    if conn.tcb.ecn and not conn.syn_lost:  # RFC 3168 6.1.1.1: some networks drop such SYNs
        seg.flags |= ECE if seg.flags & ACK else ECE | CWR
    if conn.tcb.scaling:
        seg.wscale = window_shift(conn.config.receive_buffer)


def _least_gain(conn: "Connection") -> int:
    return min(conn.reassembly.capacity // 2, conn.tcb.snd.mss) or 1


def _window_field(conn: "Connection", flags: int) -> int:
    """The window to advertise: the right edge moves in steps worth moving (RFC 9293 MUST-39, L-23),
    never back, and not at all while nobody reads (MAY-8).
    """
    rcv, reassembly = conn.tcb.rcv, conn.reassembly
    free = reassembly.capacity - reassembly.size
    if flags & SYN:
        return min(free, MAX_RAW_WINDOW)
    worth_it = rcv.nxt + free - rcv.promise >= _least_gain(conn)
    return rcv.offer(rcv.nxt + (free >> rcv.shift << rcv.shift) if worth_it else 0)


# --- timers ---


def _set_timers(conn: "Connection", now: int) -> None:
    """Retransmission timer while something is in flight; persist timer while the window bars us."""
    queue, snd, timers = conn.queue, conn.tcb.snd, conn.timers
    waiting = queue.end + (queue.fin is not None) > snd.nxt  # octets or a FIN not sent even once
    held = not queue.spans and waiting and Timer.PACING not in timers  # silly window, or none
    closed = snd.wnd == 0 and (waiting or queue.spans)
    if snd.una and (held or closed):
        conn.stop_timer(Timer.RETRANSMISSION, now)
        conn.stop_timer(Timer.LOSS_PROBE, now)
        if Timer.PERSIST not in timers:
            conn.set_persist_timer(now)
        return
    conn.stop_timer(Timer.PERSIST, now)
    if queue.spans and Timer.RETRANSMISSION not in timers:  # RFC 6298 5.1
        conn.set_timer(Timer.RETRANSMISSION, now + conn.rtt.rto, now)
    if queue.spans or Timer.LOSS_PROBE in timers or Timer.REORDERING in timers:
        _set_recovery_timers(conn, now)


def _set_recovery_timers(conn: "Connection", now: int) -> None:
    """What RACK waits for, and the tail loss probe, which never comes after the timeout."""
    recovery, timers = conn.recovery, conn.timers
    late = recovery.deadline
    if late is None:
        conn.stop_timer(Timer.REORDERING, now)
    elif late != timers.get(Timer.REORDERING):
        conn.set_timer(Timer.REORDERING, late, now)
    if conn.progress or Timer.LOSS_PROBE in timers:
        wait = recovery.probe_timeout(conn.queue, conn.rtt.srtt)
        if wait is None or conn.tcb.snd.una == 0:
            conn.stop_timer(Timer.LOSS_PROBE, now)
        elif conn.progress:
            due = min(now + wait, timers.get(Timer.RETRANSMISSION, NEVER))
            conn.set_timer(Timer.LOSS_PROBE, due, now)
    conn.progress = False
