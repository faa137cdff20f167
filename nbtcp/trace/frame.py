"""The event log's packed rows -> DataFrames, column by column, never row by row.

`segments`, `events`, `samples` and `connections` take a log and return a new DataFrame each;
`describe` is the log in one line. Times are seconds since the log's first entry, sizes octets.
"""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..why import Event, Why
from ..wire.segment import endpoints, format_flags
from .log import FIELDS, NO_SAMPLE, Has

if TYPE_CHECKING:
    from .log import EventLog

STATES = (
    "CLOSED LISTEN SYN-SENT SYN-RECEIVED ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 CLOSE-WAIT CLOSING "
    "LAST-ACK TIME-WAIT"
).split()
SEGMENT_EVENTS = {1: "send", 2: "recv", 3: "drop"}
EVENT_LABELS = {event.value: event.label for event in Event}
WHY_LABELS = {why.value: why.label for why in Why}
INFINITE = 1 << 62  # ssthresh before the first loss
SECOND = 1e9
ECN = {0: "Not-ECT", 1: "ECT(1)", 2: "ECT(0)", 3: "CE"}  # RFC 3168 5

NULLABLE = {  # integers that may be missing, and the bits of which one tells that they are there
    **dict.fromkeys(["snd_una", "snd_nxt", "snd_wnd"], Has.TCB | Has.SND),
    **dict.fromkeys(["rcv_nxt", "rcv_wnd", "cwnd", "inflight"], Has.TCB),
    **Has.OPTIONS,
}
SEGMENT_COLUMNS = (
    "time host conn event why state flags seq ack raw_seq raw_ack len window sack tsval tsecr "
    "mss wscale snd_una snd_nxt snd_wnd rcv_nxt rcv_wnd cwnd ssthresh inflight srtt rttvar rto "
    "sack_permitted urgent ecn"
).split()


def segments(log: "EventLog") -> pd.DataFrame:
    """One row per segment sent, received or dropped.

    `seq` and `ack` are positions (0 is the SYN, no wrapping), `raw_seq` and `raw_ack` the numbers
    on the wire; `window` is scaled. The columns from `snd_una` on are the TCB of `host` at that
    moment, missing where the host is not ours; of a sender in a capture `snd_una`, `snd_nxt` and
    `snd_wnd` are what had passed there. With `Config(offload=True)` a row is what one packet
    holds: several segments when `len` is more than an MSS.
    """
    rows = _rows(log, "segments")
    present = rows["present"]
    has_tcb = (present & Has.TCB) != 0
    measured = has_tcb & (rows["srtt"] != NO_SAMPLE)
    times = {"srtt": measured, "rttvar": measured, "rto": has_tcb}
    losing = has_tcb & (rows["ssthresh"] < INFINITE)
    columns: dict[str, Any] = {
        "time": _seconds(log, rows["time"]),
        "host": _hosts(log, rows["host"]),
        "event": _labels(rows["event"], SEGMENT_EVENTS),
        "why": _labels(rows["why"], WHY_LABELS),
        "state": _labels(rows["state"], dict(enumerate(STATES))),
        "flags": _labels(rows["flags"], {f: format_flags(f) for f in np.unique(rows["flags"])}),
        "sack": _sack(log, len(rows)),
        "ssthresh": np.where(losing, rows["ssthresh"].astype(float), np.nan),
        "sack_permitted": (present & Has.SACK_PERMITTED) != 0,
        "ecn": _labels(rows["tos"] & 3, ECN),
        **{name: rows[name].astype(np.int64) for name in ("conn", "seq", "ack", "len", "window")},
        **{name: rows[name].copy() for name in ("raw_seq", "raw_ack", "urgent")},
        **{name: _nullable(rows[name], (present & bit) != 0) for name, bit in NULLABLE.items()},
        **{name: np.where(has, rows[name] / SECOND, np.nan) for name, has in times.items()},
    }
    return _finish(log, {name: columns[name] for name in SEGMENT_COLUMNS})


def events(log: "EventLog") -> pd.DataFrame:
    """One row per transition, timer, loss, RTT sample and application call, in order of time."""
    rows, taken = _rows(log, "events"), _rows(log, "samples")
    verdict = len(log.names)  # the names that RTT samples have begin here
    names = [*log.names, "rejected", "kept", *(WHY_LABELS.get(why, "") for why in range(256))]
    measured = {
        **{name: taken[name] for name in ("time", "host", "conn")},
        "event": np.full(len(taken), Event.RTT_SAMPLE.value),
        "old": np.zeros(len(taken), np.int64),
        "new": verdict + taken["kept"].astype(np.int64),
        "value": taken["rtt"] / SECOND,
        "why": verdict + 2 + taken["why"].astype(np.int64),
    }
    order = np.argsort(np.append(rows["time"], taken["time"]), kind="stable")
    both = {name: np.append(rows[name], column)[order] for name, column in measured.items()}
    told = {
        "time": _seconds(log, both["time"]),
        "host": _hosts(log, both["host"]),
        "conn": both["conn"].astype(np.int64),
        "event": _labels(both["event"], EVENT_LABELS),
    }
    texts = {name: _texts(names, both[name]) for name in ("old", "new", "why")}
    return _finish(log, both | told | texts)


def samples(log: "EventLog") -> pd.DataFrame:
    """One row per RTT sample: what was measured, when, and srtt, rttvar and rto after it."""
    rows = _rows(log, "samples")
    table = {
        "time": _seconds(log, rows["time"]),
        "host": _hosts(log, rows["host"]),
        "conn": rows["conn"].astype(np.int64),
        "start": rows["start"].copy(),
        "end": rows["end"].copy(),
        "sent": _seconds(log, rows["sent"]),
        "acked": _seconds(log, rows["time"]),
        "rtt": rows["rtt"] / SECOND,
    }
    for name in ("srtt", "rttvar"):
        table[name] = np.where(rows["srtt"] != NO_SAMPLE, rows[name] / SECOND, np.nan)
    table["rto"] = rows["rto"] / SECOND
    table["kept"] = rows["kept"].astype(bool)
    table["why"] = _labels(rows["why"], WHY_LABELS)
    return _finish(log, table)


def connections(log: "EventLog") -> pd.DataFrame:
    """One row per connection and host: addresses, ISNs, how it began and ended."""
    start = _origin(log)
    rows = []
    for record in log.records:
        (local, local_port), (remote, remote_port) = endpoints(record.flow)
        ended = np.nan if record.ended is None else (record.ended - start) / SECOND
        began = (record.began - start) / SECOND
        rows.append(
            (
                *(record.number, log.hosts[record.host], local, local_port, remote, remote_port),
                *(record.iss, record.irs, record.opened, began, ended, record.state, record.end),
            )
        )
    table = pd.DataFrame(rows, columns=CONNECTION_COLUMNS).astype(CONNECTION_TYPES)
    return _finish(log, {name: table[name] for name in CONNECTION_COLUMNS})


def queue(log: "EventLog") -> pd.DataFrame:
    """One row per packet that entered a path with a rate.

    time, host  when, and who had sent it
    wait        s until the link began to send it
    packets     how many of this host waited then, this one included; 0 when it did not wait
    """
    rows = _rows(log, "queue")
    time, host = rows["time"], rows["host"]
    waiting = np.zeros(len(rows), np.int64)
    for sender in np.unique(host):
        mine = host == sender
        begin = time[mine] + rows["wait"][mine]  # a queue is first in, first out
        gone = np.searchsorted(begin, time[mine], "right")
        waiting[mine] = np.maximum(np.arange(1, mine.sum() + 1) - gone, 0)
    table = {
        "time": _seconds(log, time),
        "host": _hosts(log, rows["host"]),
        "wait": rows["wait"] / SECOND,
        "packets": waiting,
    }
    return _finish(log, table)


CONNECTION_TYPES = {
    **{"conn": "int64", "host": "str", "local": "str", "local_port": "int64", "remote": "str"},
    **{"remote_port": "int64", "iss": "int64", "irs": "Int64", "opened": "str"},
    **{"began": "float64", "ended": "float64", "state": "str", "end": "str"},
}
CONNECTION_COLUMNS = list(CONNECTION_TYPES)

BUILDERS = dict(
    segments=segments, events=events, samples=samples, connections=connections, queue=queue
)


def describe(log: "EventLog") -> str:
    """The log in one line."""
    table = log.segments
    numbers = table["event"].value_counts()
    sent, received, dropped = (int(numbers.get(name, 0)) for name in SEGMENT_EVENTS.values())
    count = log.connections["conn"].nunique()
    plural = "" if count == 1 else "s"
    return (
        f"<EventLog: {count} connection{plural}; segments: {sent} sent, {received} received, "
        f"{dropped} dropped; {len(log.events)} events{_reservations(log)}>"
    )


def describe_in_html(log: "EventLog") -> str:
    """The same for a notebook, with the connections, but without what differs from run to run."""
    names = ["conn", "host", "local", "local_port", "remote", "remote_port", "opened", "end"]
    table = log.connections[names].to_html(index=False, border=0, max_rows=10)
    return f"<p>{escape(describe(log))}</p>{table}"


def _reservations(log: "EventLog") -> str:
    """What to know of a log that was read from a capture."""
    inferred = {True: ["reasons and RTTs inferred"], "rtt": ["RTTs inferred"]}
    notes = [*inferred.get(log.meta.get("inferred"), []), *log.meta.get("problems", [])]
    return "".join(f"; {note}" for note in notes)


# --- helpers ---


def _rows(log: "EventLog", name: str, most: int | None = None) -> np.ndarray:
    """A copy of the packed rows, or of the first `most`; a view would forbid the log to grow."""
    dtype = np.dtype([(field, "<" + _NUMPY_CODES[code]) for field, code in FIELDS[name]])
    packed = log.rows[name] if most is None else log.rows[name][: most * dtype.itemsize]
    return np.frombuffer(bytes(packed), dtype)


_NUMPY_CODES = {"q": "i8", "I": "u4", "H": "u2", "B": "u1", "d": "f8"}


def _origin(log: "EventLog") -> int:
    """The time of the log's first entry, ns."""
    firsts = [int(rows["time"][0]) for name in FIELDS if len(rows := _rows(log, name, 1))]
    return min(firsts, default=0)


def _seconds(log: "EventLog", times: np.ndarray) -> np.ndarray:
    return np.asarray((times - _origin(log)) / SECOND)


def _hosts(log: "EventLog", codes: np.ndarray) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index(log.hosts, dtype="str"))


def _texts(names: list[str], codes: np.ndarray) -> Any:
    return pd.array(names, dtype="str").take(codes)


def _labels(codes: np.ndarray, names: dict[int, str]) -> Any:
    """Small numbers -> a Categorical of the labels that occur; missing where there is none."""
    present = [code for code in np.unique(codes).tolist() if code in names]
    lookup = np.full(256, -1, dtype=np.int16)
    lookup[present] = range(len(present))
    return pd.Categorical.from_codes(
        lookup[codes], pd.Index([names[code] for code in present], dtype="str")
    )


def _nullable(values: np.ndarray, known: np.ndarray) -> Any:
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


def _sack(log: "EventLog", count: int) -> np.ndarray:
    column = np.empty(count, dtype=object)
    column.fill(())
    for row, blocks in log.sack.items():
        column[row] = blocks
    return column


def _finish(log: "EventLog", columns: dict[str, Any]) -> pd.DataFrame:
    """A table of columns that nobody else has: they are not copied."""
    table = pd.DataFrame(columns, copy=False)
    table.attrs.update(log.meta)
    return table
