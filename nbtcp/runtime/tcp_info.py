"""A connection's variables by the names of Linux's struct tcp_info, in its units.

Times are microseconds, windows of congestion control are segments. What the TCB does not keep is
absent, and 0 in the bytes of `getsockopt(IPPROTO_TCP, TCP_INFO, 256)`.
"""

import struct

from ..tcp.connection import Connection
from ..tcp.state import State

# Our names in the order of Linux's numbers: of states from 1 on, of phases of recovery from 0 on.
_STATES = """ESTABLISHED SYN_SENT SYN_RECEIVED FIN_WAIT_1 FIN_WAIT_2 TIME_WAIT CLOSED CLOSE_WAIT
    LAST_ACK LISTEN CLOSING""".split()
_PHASES = "OPEN DISORDER CWR FAST_RECOVERY LOSS".split()
STATES = {State[name]: number for number, name in enumerate(_STATES, start=1)}
INFINITE = 0x7FFFFFFF
NAMES = {f"TCP_{name.replace('WAIT_', 'WAIT')}": n for n, name in enumerate(_STATES, start=1)}
NAMES |= {"TCP_SYN_RECV": 3, "TCP_CLOSE": 7, "TCP_INFINITE_SSTHRESH": INFINITE}
NAMES |= {"TCP_CA_Open": 0, "TCP_CA_Disorder": 1, "TCP_CA_CWR": 2}
NAMES |= {"TCP_CA_Recovery": 3, "TCP_CA_Loss": 4}
NAMES |= {"TCPI_OPT_TIMESTAMPS": 1, "TCPI_OPT_SACK": 2, "TCPI_OPT_WSCALE": 4, "TCPI_OPT_ECN": 8}
"""Linux's constants that scripts compare with."""


def tcp_info(conn: Connection, now: int) -> dict[str, int]:
    """tcpi_state, tcpi_snd_cwnd, ... of `conn` at `now`."""
    snd, rcv, rtt, cc = conn.tcb.snd, conn.tcb.rcv, conn.rtt, conn.cc
    spans = conn.queue.spans
    end = min(snd.una, conn.queue.end)  # neither SYN nor FIN is counted as octets
    options = 1 * conn.tcb.ts.on + 2 * bool(conn.tcb.sack)
    options += 4 * conn.tcb.scaling + 8 * bool(conn.tcb.ecn)
    fin = rcv.fin is not None and rcv.nxt > rcv.fin
    phase, min_rtt = conn.recovery.phase.name, getattr(conn.recovery, "min_rtt", None)
    info = {
        "state": STATES[conn.state],
        "ca_state": _PHASES.index(phase) if phase in _PHASES else None,
        "probes": conn.persists,
        "options": options,
        "snd_wscale": snd.shift,
        "rcv_wscale": rcv.shift,
        "rto": rtt.rto // 1000,
        "rtt": (rtt.srtt or 0) // 1000,
        "rttvar": rtt.rttvar // 1000,
        "min_rtt": None if min_rtt is None else min_rtt // 1000,
        "snd_mss": snd.mss,
        "rcv_mss": rcv.mss,
        "advmss": conn.config.mss,
        "unacked": len(spans),
        "sacked": sum(bool(span.sacked) for span in spans),
        "lost": sum(span.lost for span in spans),
        "retrans": sum(span.times > 1 and not span.lost for span in spans),
        "snd_cwnd": cc.cwnd // snd.mss,
        "snd_ssthresh": INFINITE if cc.ssthresh > INFINITE else cc.ssthresh // snd.mss,
        "snd_wnd": snd.wnd,
        "rcv_wnd": rcv.wnd,
        "bytes_acked": max(0, end - 1),
        "bytes_received": max(0, rcv.nxt - 1 - fin),
        "notsent_bytes": max(0, conn.queue.end - max(1, snd.nxt)),
        "last_data_sent": (now - snd.sent_at) // 1_000_000 % (1 << 32),
    }
    return {f"tcpi_{name}": int(value) for name, value in info.items() if value is not None}


def pack_tcp_info(conn: Connection, now: int) -> bytes:
    """The same as Linux's struct tcp_info (linux/tcp.h), up to tcpi_rcv_wnd."""
    info = tcp_info(conn, now)
    shifts = info["tcpi_snd_wscale"] | info["tcpi_rcv_wscale"] << 4
    octets = (info.get(f"tcpi_{name}", 0) for name in _OCTETS)
    return _LAYOUT.pack(*octets, shifts, 0, *(info.get(f"tcpi_{name}", 0) for name in _FIELDS))


_LAYOUT = struct.Struct("@8B 24I 4Q 6I 4Q 2I 2Q 5I")
_OCTETS = "state ca_state retransmits probes backoff options".split()
_FIELDS = """rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent
    last_ack_sent last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd
    advmss reordering rcv_rtt rcv_space total_retrans pacing_rate max_pacing_rate bytes_acked
    bytes_received segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out delivery_rate
    busy_time rwnd_limited sndbuf_limited delivered delivered_ce bytes_sent bytes_retrans dsack_dups
    reord_seen rcv_ooopack snd_wnd rcv_wnd""".split()
