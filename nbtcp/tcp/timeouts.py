"""TIMEOUTS: RFC 9293 3.10.8, one function per timer, and those that later RFCs have added.

As the steps of arrives.py they change the connection and leave it to output.py to send.
"""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..why import Why
from . import reaction
from .ack import Ack
from .rtt import SECOND, ns
from .sendqueue import Span
from .state import Cause, State
from .timers import Timer

if TYPE_CHECKING:
    from .connection import Connection

R1 = 3  # retransmissions after which the application is told (RFC 9293 SHLD-9, SHLD-10)


def _retransmission_timeout(conn: "Connection", now: int) -> None:
    """RFC 6298 5.4 to 5.7, and R1 and R2 of RFC 9293 3.8.3 (MUST-20), of a SYN too (MUST-22,
    U-1).
    """
    first = conn.queue.spans[0]
    is_syn = first.start == 0
    limit = conn.config.syn_timeout if is_syn else conn.config.user_timeout
    if now - first.first_sent >= ns(limit):
        _give_up(conn, first, "SYN" if is_syn else "data", now)
        return
    conn.timeouts += 1
    if conn.timeouts == R1 + 1:
        text = f"sent {first.times} times without an answer from {conn.peer()}"
        conn.report("excessive-retransmission", text, now)
    before, lost = conn.recovery.phase, conn.queue.lost_octets
    if is_syn:
        conn.syn_lost = True
    else:
        reaction.timed_out(conn, first.why is Why.TIMEOUT, now)
    conn.recovery.timed_out(conn.tcb.snd, conn.queue, now)
    conn.note_phase(before, lost, Why.TIMEOUT, now)
    conn.rtt.back_off()


def _reordering_timeout(conn: "Connection", now: int) -> None:
    """What was late is lost (RFC 8985 6.2 step 5)."""
    snd, queue = conn.tcb.snd, conn.queue
    before, lost = conn.recovery.phase, queue.lost_octets
    nothing = Ack(now, snd.una, snd.nxt, conn.recovery.in_flight(snd, queue))
    nothing.srtt = conn.rtt.srtt
    verdict = conn.recovery.acked(nothing, snd, queue)
    if verdict is not None:
        reaction.acknowledged(conn, nothing, before, verdict)
    conn.note_phase(before, lost, Why.RACK, now)


def _probe_timeout(conn: "Connection", now: int) -> None:
    """Tail loss probe: one new segment, or the last one again (RFC 8985 7.3)."""
    snd, queue = conn.tcb.snd, conn.queue
    if not queue.spans:
        return
    new = min(queue.end - snd.nxt, snd.una + snd.wnd - snd.nxt, snd.mss)
    if new > 0:
        conn.force = Why.TAIL_LOSS_PROBE
        conn.recovery.probed(snd.nxt + new, again=False)
    else:
        last = queue.tail(queue.spans[-1], snd.mss)
        queue.mark_lost(last, Why.TAIL_LOSS_PROBE, urgently=True)
        conn.recovery.probed(snd.nxt, again=True)
    conn.set_timer(Timer.RETRANSMISSION, now + conn.rtt.rto, now)


def _persist_timeout(conn: "Connection", now: int) -> None:
    """Probe the window: repeat what is in flight, or send one octet more (MUST-35, MUST-36)."""
    conn.persists += conn.tcb.snd.wnd == 0
    spans = conn.queue.spans
    if not spans:
        conn.force = Why.WINDOW_PROBE if conn.tcb.snd.wnd == 0 else Why.SWS_OVERRIDE
        return
    answered = conn.heard_at >= spans[0].sent  # MUST-37: then it goes on, however long
    if not answered and now - conn.heard_at >= ns(conn.config.user_timeout):
        _give_up(conn, spans[0], "window probes", now)
    else:
        probe = conn.queue.head(spans[0], conn.tcb.snd.mss)
        conn.queue.mark_lost(probe, Why.WINDOW_PROBE, urgently=True)


def _keepalive_timeout(conn: "Connection", now: int) -> None:
    """Probe a silent peer, and give up when several stay unanswered (3.8.4, MAY-5, MUST-29)."""
    assert conn.keepalive is not None, "a timer that set_keepalive should have stopped"
    due = conn.heard_at + ns(conn.keepalive)
    idle = not conn.queue.spans and not conn.queue.data  # MUST-26
    if idle and now >= due:
        if conn.keepalives >= conn.config.keepalive_probes:
            text = f"no answer from {conn.peer()} to {conn.keepalives} keep-alives"
            conn.fail(errno.ETIMEDOUT, text, Cause.TIMEOUT, now)
            return
        conn.keepalives += 1
        conn.ack_due = Why.KEEPALIVE
        due = now + ns(conn.config.keepalive_interval)
    elif due <= now:
        due = now + ns(conn.keepalive)
    conn.set_timer(Timer.KEEPALIVE, due, now)


def _give_up(conn: "Connection", span: Span, what: str, now: int) -> None:
    """R2, the user timeout (RFC 9293 3.10.8, L-21)."""
    seconds = (now - span.first_sent) / SECOND
    text = f"no answer from {conn.peer()} to {what} sent {span.times} times in {seconds:.1f} s"
    conn.fail(errno.ETIMEDOUT, text + conn.heard(span.first_sent), Cause.TIMEOUT, now)


def _time_wait_timeout(conn: "Connection", now: int) -> None:
    over = conn.state is State.TIME_WAIT
    conn.transition(Cause.TIME_WAIT_OVER if over else Cause.TIMEOUT, now)


TIMEOUTS: dict[Timer, Callable[["Connection", int], None]] = {
    Timer.REORDERING: _reordering_timeout,
    Timer.LOSS_PROBE: _probe_timeout,
    Timer.RETRANSMISSION: _retransmission_timeout,
    Timer.PERSIST: _persist_timeout,
    Timer.DELAYED_ACK: lambda conn, now: conn.owe_ack(Why.DELAYED_ACK),
    Timer.KEEPALIVE: _keepalive_timeout,
    Timer.TIME_WAIT: _time_wait_timeout,
}
