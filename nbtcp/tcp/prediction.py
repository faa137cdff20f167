"""Header prediction: a short way for the segment that nearly always comes next (Van Jacobson 1990).

It takes data in order, in ESTABLISHED, that acknowledges nothing new and changes no window. For
such a segment the steps of arrives.py come to this: the sequence check passes, for it begins at
RCV.NXT and fits; there is no RST, SYN, URG or FIN to check, no SACK and no congestion mark; the ACK
step only moves SND.WL1; the text goes behind the rest, for there is no hole. Whatever is not
exactly so takes the long way, with the same result.
"""

from typing import TYPE_CHECKING

from ..why import Why
from ..wire.segment import ACK, PSH, Segment
from .state import State

if TYPE_CHECKING:
    from .connection import Connection

_PLAIN = (ACK, ACK | PSH)


def predicted(conn: "Connection", seg: Segment, now: int) -> bool:
    """Process `seg` (numbers unwrapped) if it is the one predicted; False if nothing was done."""
    data = seg.data
    if conn.state is not State.ESTABLISHED or not data or seg.flags not in _PLAIN:
        return False
    tcb, reassembly = conn.tcb, conn.reassembly
    snd, rcv, ts = tcb.snd, tcb.rcv, tcb.ts
    start, size = seg.seq, len(data)
    if start != rcv.nxt or seg.ack != snd.una or seg.window != snd.wnd or seg.sack:
        return False
    if size > rcv.edge - start or size > rcv.mss or rcv.fin is not None or seg.tos & 3 == 3:
        return False
    if reassembly.has_holes or conn.closed_by_application:
        return False
    if ts.on:
        if seg.tsval is None or (seg.tsval - ts.recent) & 0x80000000:
            return False
        if start <= ts.last_ack_sent:
            ts.recent, ts.recent_at = seg.tsval, now
    if start > snd.wl1:
        snd.wl1 = start
    seg.why = Why.IN_ORDER
    reassembly.append(data)
    rcv.nxt = start + size
    conn.owe_ack_of(size, False, now)
    return True
