"""AN ICMP ERROR ARRIVES: RFC 9293 3.9.2.2, guarded by RFC 5927, and path MTU discovery (RFC 1191,
RFC 8201).

Anybody can forge such an error, so it counts only when it quotes a segment that is in flight, and
even then it ends no connection that is established: what it says is remembered and becomes part of
the TimeoutError, should there be one.
"""

import errno
from typing import TYPE_CHECKING

from ..why import Event, Why
from ..wire.icmp import IcmpError, Problem
from ..wire.segment import is_ipv4
from ..wire.seq import unwrap
from .state import Cause

if TYPE_CHECKING:
    from .connection import Connection

LEAST_IPV6_MTU = 1280  # RFC 8200 5
# RFC 1191 allows 68, which would let a forger make us send 28 octets a packet. As in Linux
# (net.ipv4.route.min_pmtu); a path that really carries less needs a smaller Config(mss=...).
LEAST_IPV4_MTU = 552
# What to try when a router does not say its MTU (RFC 1191 7.1).
PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)

IGNORED, REMEMBERED, NOT_SMALLER = "ignored", "remembered", "not-smaller"


def icmp_arrives(conn: "Connection", error: IcmpError, now: int) -> int | None:
    """Act on an error about a segment of `conn`; returns the path's MTU if it tells a new one."""
    snd, problem = conn.tcb.snd, error.problem
    said = f"{error.reporter} says: {problem.text}"
    if not snd.una <= unwrap(error.raw_seq, snd.iss, snd.una) <= snd.nxt:  # RFC 5927 4.1
        _note(conn, error, Why.UNACCEPTABLE.label, now)
    elif problem is Problem.SOURCE_QUENCH:  # MUST-55
        _note(conn, error, IGNORED, now)
    elif problem is Problem.FRAGMENTATION_NEEDED:
        return _packet_too_big(conn, error, now)
    elif problem.hard and not conn.synchronized:  # the handshake is over (RFC 5927 5.2, SHLD-26)
        _note(conn, error, Cause.RCV_ICMP.label, now)
        if conn.passive:  # as after a RST: the user need not be informed
            conn.transition(Cause.BACK_TO_LISTEN, now)
        elif problem is Problem.ADMIN_PROHIBITED:
            text = f"{conn.peer()} cannot be reached; {said}"
            conn.fail(errno.EHOSTUNREACH, text, Cause.RCV_ICMP, now)
        else:
            text = f"connection refused by {conn.peer()}; {said}"
            conn.fail(errno.ECONNREFUSED, text, Cause.RCV_ICMP, now)
    else:  # soft (MUST-56), or taken as soft
        _note(conn, error, REMEMBERED, now)
        conn.reported = said, now
        conn.report("icmp", said, now)  # SHLD-25, U-2
    return None


def _packet_too_big(conn: "Connection", error: IcmpError, now: int) -> int | None:
    """Smaller segments from now on; what was too large is sent again at once, in parts.

    cwnd stays as it is, for this says nothing of congestion (RFC 1191 6.5).
    """
    if is_ipv4(error.flow):
        mtu = error.mtu or next((size for size in PLATEAUS if size < error.length), PLATEAUS[-1])
        mtu = max(mtu, LEAST_IPV4_MTU)
    elif (mtu := error.mtu) < LEAST_IPV6_MTU:  # RFC 8201 4: it must be discarded
        _note(conn, error, IGNORED, now)
        return None
    if not conn.limit_path(mtu):
        _note(conn, error, NOT_SMALLER, now)
        return None
    _note(conn, error, Why.PACKET_TOO_BIG.label, now)
    queue = conn.queue
    before, lost = conn.recovery.phase, queue.lost_octets
    queue.split(conn.tcb.snd.mss, Why.PACKET_TOO_BIG)
    if queue.spans and queue.spans[0].why is Why.PACKET_TOO_BIG:
        queue.spans[0].urgently = True
    conn.note_phase(before, lost, Why.PACKET_TOO_BIG, now)
    return mtu


def _note(conn: "Connection", error: IcmpError, why: str, now: int) -> None:
    conn.note(Event.ICMP, now, new=error.problem.label, value=error.mtu, why=why)
