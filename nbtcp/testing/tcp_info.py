"""A connection's variables by the names of Linux's struct tcp_info, in its units.

Times are microseconds, windows of congestion control are segments. What the TCB does not keep is
absent.
"""

from ..tcp.connection import Connection
from ..tcp.state import State

STATES = {
    State.ESTABLISHED: 1,
    State.SYN_SENT: 2,
    State.SYN_RECEIVED: 3,
    State.FIN_WAIT_1: 4,
    State.FIN_WAIT_2: 5,
    State.TIME_WAIT: 6,
    State.CLOSED: 7,
    State.CLOSE_WAIT: 8,
    State.LAST_ACK: 9,
    State.LISTEN: 10,
    State.CLOSING: 11,
}
CA_STATES = {"OPEN": 0, "DISORDER": 1, "CWR": 2, "FAST_RECOVERY": 3, "LOSS": 4}  # of a Phase
NAMES = {
    **{f"TCP_{s.name}".replace("WAIT_", "WAIT").replace("RECEIVED", "RECV"): n
       for s, n in STATES.items()},
    **{"TCP_CLOSE": 7, "TCPI_OPT_TIMESTAMPS": 1, "TCPI_OPT_SACK": 2, "TCPI_OPT_WSCALE": 4},
    **{"TCPI_OPT_ECN": 8, "TCP_INFINITE_SSTHRESH": 0x7FFFFFFF},
    **{"TCP_CA_Open": 0, "TCP_CA_Disorder": 1, "TCP_CA_CWR": 2},
    **{"TCP_CA_Recovery": 3, "TCP_CA_Loss": 4},
}  # fmt: skip
"""Linux's constants that scripts compare with."""

INFINITE = 0x7FFFFFFF


def tcp_info(conn: Connection, now: int) -> dict[str, int]:
    """tcpi_state, tcpi_snd_cwnd, ... of `conn` at `now`."""
    snd, rcv, rtt = conn.tcb.snd, conn.tcb.rcv, conn.rtt
    spans = conn.queue.spans
    end = min(snd.una, conn.queue.end)  # neither SYN nor FIN is counted as octets
    options = 1 * conn.tcb.ts.on + 2 * bool(getattr(conn.tcb, "sack", False))
    options += 4 * conn.tcb.scaling + 8 * bool(getattr(conn.tcb, "ecn", False))
    fin = rcv.fin is not None and rcv.nxt > rcv.fin
    info = {
        "state": STATES[conn.state],
        "ca_state": CA_STATES.get(conn.recovery.phase.name),
        "probes": conn.persists,
        "options": options,
        "snd_wscale": snd.shift,
        "rcv_wscale": rcv.shift,
        "rto": rtt.rto // 1000,
        "rtt": (rtt.srtt or 0) // 1000,
        "rttvar": rtt.rttvar // 1000,
        "min_rtt": _microseconds(getattr(conn.recovery, "min_rtt", None)),
        "snd_mss": snd.mss,
        "rcv_mss": rcv.mss,
        "advmss": conn.config.mss,
        "pmtu": getattr(snd, "pmtu", None),
        "unacked": len(spans),
        "sacked": sum(bool(getattr(span, "sacked", False)) for span in spans),
        "lost": sum(span.lost for span in spans),
        "retrans": sum(span.times > 1 and not span.lost for span in spans),
        "snd_cwnd": conn.cc.cwnd // snd.mss,
        "snd_ssthresh": INFINITE if conn.cc.ssthresh > INFINITE else conn.cc.ssthresh // snd.mss,
        "snd_wnd": snd.wnd,
        "rcv_wnd": rcv.wnd,
        "bytes_acked": max(0, end - 1),
        "bytes_received": max(0, rcv.nxt - 1 - fin),
        "notsent_bytes": max(0, conn.queue.end - max(1, snd.nxt)),
        "last_data_sent": (now - snd.sent_at) // 1_000_000,
    }
    return {f"tcpi_{name}": int(value) for name, value in info.items() if value is not None}


def _microseconds(ns: int | None) -> int | None:
    return None if ns is None else ns // 1000
