"""The append-only event log: one packed row per segment, per event and per RTT sample.

The connection, the stack and the links tell it what happens through the methods of `EventLog`;
nothing is interpreted here. frame.py makes DataFrames of the rows.
"""

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import NbtcpError
from ..tcp.state import Cause, State
from ..why import Event, Why
from ..wire import ip
from ..wire.segment import ACK, SYN, Segment, endpoints, parse_captured, reverse_flow
from ..wire.seq import unwrap, unwrap_blocks

if TYPE_CHECKING:
    import pandas as pd

    from ..tcp.connection import Connection
    from ..tcp.sendqueue import Span
    from .inference import Way
    from .plot import Plots

SENT, RECEIVED, DROPPED = 1, 2, 3
NO_SAMPLE = -1  # srtt before the first one
NO_STATE = 255  # in a row that belongs to no connection of ours

# Name and struct code of each field of a row. Times are nanoseconds, sizes octets.
_ROWS = {
    "segments": """
        time:q conn:I seq:q ack:q raw_seq:I raw_ack:I len:I window:I tsval:I tsecr:I
        snd_una:q snd_nxt:q snd_wnd:I rcv_nxt:q rcv_wnd:q cwnd:q ssthresh:q inflight:I
        srtt:q rttvar:q rto:q
        mss:H host:I event:B why:B state:B flags:B wscale:B present:B
        raw_window:H urgent:H tos:B""",
    "events": "time:q conn:I value:d old:I new:I why:I host:I event:B",
    "samples": "time:q conn:I start:q end:q sent:q rtt:q srtt:q rttvar:q rto:q host:I kept:B why:B",
    "queue": "time:q wait:q host:B",
}
FIELDS = {name: [tuple(field.split(":")) for field in row.split()] for name, row in _ROWS.items()}
LAYOUTS = {
    name: Struct("<" + "".join(code for _, code in fields)) for name, fields in FIELDS.items()
}
_pack_segment = LAYOUTS["segments"].pack
_pack_event = LAYOUTS["events"].pack
_pack_sample = LAYOUTS["samples"].pack
_pack_wait = LAYOUTS["queue"].pack

_ENDS = {
    Cause.RCV_ACK_OF_FIN.label: "FIN",
    Cause.TIME_WAIT_OVER.label: "FIN",
    Cause.RCV_FIN.label: "FIN",
    Cause.RCV_RST.label: "RST",
    Cause.BACK_TO_LISTEN.label: "RST",
    Cause.ABORT.label: "abort",
    Cause.CLOSE.label: "close",
    Cause.TIMEOUT.label: "timeout",
    Cause.RCV_ICMP.label: "ICMP",
}
_ENDED = frozenset({State.CLOSED, State.TIME_WAIT, State.LISTEN})


class Has:
    """Bits of `present`: what a segment or its row has, and is not just 0."""

    TIMESTAMPS, MSS, WSCALE, TCB, SACK_PERMITTED = 1, 2, 4, 8, 16
    SND = 32  # of the TCB only snd_una, snd_nxt and snd_wnd, as far as a capture shows them
    OPTIONS: ClassVar = dict(tsval=TIMESTAMPS, tsecr=TIMESTAMPS, mss=MSS, wscale=WSCALE)


class LogFileError(NbtcpError, ValueError):
    """The file is no log that nbtcp saved, or no capture."""


@dataclass(slots=True)
class ConnectionRecord:
    """A connection as one host sees it. Times are nanoseconds on the clock of the rows."""

    number: int
    host: int
    flow: bytes  # of the segments this host sends
    opened: str  # "active" or "passive"; "unseen" when a capture began later: iss is a guess then
    began: int
    iss: int
    irs: int | None = None
    ended: int | None = None
    state: str = State.CLOSED.label
    end: str = "open"


class EventLog:
    """What a stack did: `segments`, `events`, `connections`, `rtt()`, `summary()`, `plot`.

    Pass it as `observer` to one or more stacks. `meta` holds what is known of the run (seed,
    settings, the time of day it began) and travels with every table in `DataFrame.attrs`.
    """

    def __init__(self, **meta: Any) -> None:
        self.meta: dict[str, Any] = json.loads(json.dumps(meta, default=plain))
        self.rows = {name: bytearray() for name in FIELDS}
        self._segment_rows, self._event_rows = self.rows["segments"], self.rows["events"]
        self.sack: dict[int, tuple[tuple[int, int], ...]] = {}  # by row of `segments`
        self.hosts: list[str] = []
        self.names: list[str] = [""]  # what the numbers in `events` stand for
        self.records: list[ConnectionRecord] = []
        self._name_numbers: dict[str, int] = {"": 0}
        self._live: dict[bytes, Connection] = {}  # the last connection of each flow
        self._senders: dict[bytes, int] = {}  # by flow: which host that is
        self._last_number = 0
        self._frames: dict[str, tuple[int, pd.DataFrame]] = {}

    def __repr__(self) -> str:
        from .frame import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from .frame import describe_in_html

        return describe_in_html(self)

    def __bytes__(self) -> bytes:
        """All that was recorded; equal for equal runs. `from_bytes` reads it."""
        records = [{**asdict(record), "flow": record.flow.hex()} for record in self.records]
        sack, sizes = list(self.sack.items()), [len(rows) for rows in self.rows.values()]
        head = [self.meta, self.hosts, self.names, records, sack, sizes]
        text = json.dumps(head, default=plain)
        return b"".join([text.encode(), b"\n", *self.rows.values()])

    @classmethod
    def from_bytes(cls, content: bytes) -> "EventLog":
        """The log that `bytes` has written."""
        file = BytesIO(content)
        meta, hosts, names, records, sack, sizes = json.loads(file.readline())
        log = cls(**meta)
        log.hosts += hosts
        for record in records:
            record["flow"] = bytes.fromhex(record["flow"])
            log.records.append(ConnectionRecord(**record))
        log.sack = {row: tuple(map(tuple, blocks)) for row, blocks in sack}
        for name, size in zip(FIELDS, sizes, strict=True):
            log.rows[name] += file.read(size)
        for name in names:
            log._number(name)
        log._last_number = max((record.number for record in log.records), default=0)
        return log

    # --- the doors: what stacks and links call ---

    def opened(self, conn: "Connection", now: int) -> None:
        """A connection begins; its two ends share a number, later ones on these ports do not."""
        flow, peer = conn.flow, self._live.get(reverse_flow(conn.flow))
        host = self._host(endpoints(flow)[0][0])
        if peer is not None and _are_ends_of_one(conn, peer):
            number = peer.log_entry.number
        else:
            self._last_number = number = self._last_number + 1
        opened = "passive" if conn.passive else "active"
        conn.log_entry = ConnectionRecord(number, host, flow, opened, now, conn.tcb.snd.iss)
        self.records.append(conn.log_entry)
        self._live[flow] = conn

    def segment(self, conn: "Connection", sent: bool, segment: Segment, now: int) -> None:
        """`conn` sent or received a segment."""
        record: ConnectionRecord = conn.log_entry
        event = SENT if sent else RECEIVED
        columns = _tcb_columns(conn)
        self.add(event, record.host, record.number, conn.state, columns, segment, now)

    def event(
        self, conn: "Connection", event: Event, now: int, old: str, new: str, value: float, why: str
    ) -> None:
        """A transition, a timer, a decision, or a call of the application."""
        record: ConnectionRecord = conn.log_entry
        names = self._name_numbers
        try:
            row = names[old], names[new], names[why], record.host, event
        except KeyError:
            row = self._number(old), self._number(new), self._number(why), record.host, event
        self._event_rows += _pack_event(now, record.number, value, *row)
        if event is Event.STATE:
            record.state = new
            if conn.state >= State.SYN_RECEIVED:
                record.irs = conn.tcb.rcv.irs
            if conn.state in _ENDED and why in _ENDS and record.ended is None:
                record.ended, record.end = now, _ENDS[why]

    def rtt_sample(
        self, conn: "Connection | Way", span: "Span", rtt: int, kept: bool, why: Why, now: int
    ) -> None:
        """One measurement of the round-trip time, kept or rejected."""
        record: ConnectionRecord = conn.log_entry
        state = conn.rtt
        srtt = NO_SAMPLE if state.srtt is None else state.srtt
        times = span.sent, rtt, srtt, state.rttvar, state.rto
        self.rows["samples"] += _pack_sample(
            now, record.number, span.start, span.end, *times, record.host, kept, why
        )

    def refused(self, host: str, segment: Segment | None, why: Why, now: int) -> None:
        """`host` received something that belongs to no connection, or that is no segment."""
        if segment is None:
            segment = Segment(bytes(12), 0, 0, 0, 0)
        segment.why = why
        self.add(RECEIVED, self._host(host), 0, NO_STATE, (), _raw(segment), now)

    def replied(self, host: str, segment: Segment, now: int) -> None:
        """`host` sent a RST for nobody's segment."""
        self.add(SENT, self._host(host), 0, NO_STATE, (), _raw(segment), now)

    def dropped(self, packet: bytes, why: Why, now: int) -> None:
        """A link dropped a packet; `host` of the row, and the TCB if ours, are its sender's."""
        try:
            segment = parse_captured(packet, len(packet))
        except ip.WireError:
            return
        segment.why = why
        host = self._host(endpoints(segment.flow)[0][0])
        sender = self._live.get(segment.flow)
        receiver = self._live.get(reverse_flow(segment.flow))
        if sender is not None:
            snd, rcv = sender.tcb.snd, sender.tcb.rcv
            place(segment, snd.iss, snd.nxt, rcv.irs, rcv.nxt, rcv.shift)
            number = sender.log_entry.number
            self.add(DROPPED, host, number, sender.state, _tcb_columns(sender), segment, now)
            return
        if receiver is not None:
            snd, rcv = receiver.tcb.snd, receiver.tcb.rcv
            irs = rcv.irs if receiver.state >= State.SYN_RECEIVED else segment.raw_seq
            place(segment, irs, rcv.nxt, snd.iss, snd.nxt, snd.shift)
        number = receiver.log_entry.number if receiver is not None else 0
        self.add(DROPPED, host, number, NO_STATE, (), segment if number else _raw(segment), now)

    def queued(self, flow: bytes, wait: int, now: int) -> None:
        """A link with a rate lets a packet of `flow` wait for `wait` ns before it is sent."""
        host = self._senders.get(flow)
        if host is None:
            host = self._senders[flow] = self._host(endpoints(flow)[0][0])
        self.rows["queue"] += _pack_wait(now, wait, host)

    # --- the tables ---

    @property
    def segments(self) -> "pd.DataFrame":
        """One row per segment sent, received or dropped; frame.py has the columns."""
        return self._frame("segments")

    @property
    def events(self) -> "pd.DataFrame":
        """One row per transition, timer, loss, stage of congestion control, RTT sample and call."""
        return self._frame("events")

    @property
    def connections(self) -> "pd.DataFrame":
        """One row per connection and host."""
        return self._frame("connections")

    def rtt(self) -> "pd.DataFrame":
        """One row per RTT sample, kept or rejected, and why; times in seconds."""
        return self._frame("samples")

    def queue(self) -> "pd.DataFrame":
        """One row per packet that entered a path with a rate: how long it waited."""
        return self._frame("queue")

    def retransmissions(self) -> "pd.DataFrame":
        """One row per segment sent again: why, what had become of the first, when repaired."""
        from .tables import retransmissions

        return retransmissions(self.segments, self.connections)

    def throughput(self, window: float | None = None) -> "pd.DataFrame":
        """Bit/s of each direction in each `window` (s); None: a hundredth of the log's time."""
        from .tables import throughput

        return throughput(self.segments, self.connections, window)

    def states(self) -> "pd.DataFrame":
        """One row per state that a connection was in, with its times."""
        from .tables import states

        return states(self.events)

    def timers(self) -> "pd.DataFrame":
        """One row per time that a timer was set: until when it ran, and how it ended."""
        from .tables import timers

        return timers(self.events)

    def directions(self) -> "pd.DataFrame":
        """Each connection and direction in a row, with the usual statistics; units in
        `.attrs["units"]`.
        """
        from .tables import directions

        return directions(self.segments, self.rtt(), self.connections)

    def summary(self) -> "pd.DataFrame":
        """All that tcptrace counts: one row per connection, direction and statistic, with value,
        unit and definition.
        """
        from .statistics import summary

        return summary(self.segments, self.connections)

    @property
    def plot(self) -> "Plots":
        """Pictures: `log.plot.sequence()`."""
        from .plot import Plots

        return Plots(self)

    def save(self, path: str | Path) -> Path:
        """Write everything to a Parquet file, whose rows are those of `segments`."""
        from .parquet import save

        return save(self, Path(path))

    def to_pcapng(self, path: str | Path, host: str | None = None) -> Path:
        """Write the segments that `host` (None: all hosts) sent and received, for Wireshark.

        The reasons are packet comments; capture.py says what else is in the file.
        """
        from .capture import write_pcapng

        return write_pcapng(self, Path(path), host)

    @classmethod
    def load(cls, path: str | Path) -> "EventLog":
        """Read a file that `save` wrote; LogFileError when it is none."""
        from .parquet import load

        return load(Path(path))

    # --- inside ---

    def _frame(self, name: str) -> "pd.DataFrame":
        """A table, made again only when something was recorded since."""
        from .frame import BUILDERS

        size = sum(map(len, self.rows.values()))
        cached = self._frames.get(name)
        if cached is None or cached[0] != size:
            cached = self._frames[name] = (size, BUILDERS[name](self))
        return cached[1].copy(deep=False)  # what the caller adds is the caller's

    def _host(self, address: str) -> int:
        if address not in self.hosts:
            self.hosts.append(address)
        return self.hosts.index(address)

    def _number(self, name: str) -> int:
        """The number that stands for `name` in the rows of events."""
        if name not in self._name_numbers:
            self._name_numbers[name] = len(self.names)
            self.names.append(name)
        return self._name_numbers[name]

    def add(
        self,
        event: int,
        host: int,
        number: int,
        state: int,
        tcb_columns: tuple[int, ...],
        segment: Segment,
        now: int,
    ) -> None:
        """Pack one row of `segments`; of the TCB there is all, the first three columns, or none."""
        known = len(tcb_columns)
        present = Has.TCB if known > 3 else Has.SND if known else 0
        if segment.tsval is not None:
            present |= Has.TIMESTAMPS
        if segment.mss is not None:
            present |= Has.MSS
        if segment.wscale is not None:
            present |= Has.WSCALE
        if segment.sack_permitted:
            present |= Has.SACK_PERMITTED
        rows = self._segment_rows
        if segment.blocks:
            self.sack[len(rows) // LAYOUTS["segments"].size] = segment.blocks
        rows += _pack_segment(
            now,
            number,
            segment.seq,
            segment.ack,
            segment.raw_seq,
            segment.raw_ack,
            len(segment.data),
            segment.window,
            segment.tsval or 0,
            segment.tsecr or 0,
            *tcb_columns,
            *_NO_TCB[known:],
            segment.mss or 0,
            host,
            event,
            segment.why,
            state,
            segment.flags,
            segment.wscale or 0,
            present,
            segment.raw_window,
            segment.urgent,
            segment.tos,
        )


def _tcb_columns(conn: "Connection") -> tuple[int, ...]:
    tcb, rtt, cc = conn.tcb, conn.rtt, conn.cc
    snd, rcv = tcb.snd, tcb.rcv
    return (
        snd.una,
        snd.nxt,
        snd.wnd,
        rcv.nxt,
        rcv.wnd,
        cc.cwnd,
        cc.ssthresh,
        conn.recovery.in_flight(snd, conn.queue),
        NO_SAMPLE if rtt.srtt is None else rtt.srtt,
        rtt.rttvar,
        rtt.rto,
    )


_NO_TCB: tuple[int, ...] = (0,) * 11


def _raw(segment: Segment) -> Segment:
    """Nobody knows where this connection began: the numbers stay those of the wire."""
    segment.seq, segment.ack, segment.window = segment.raw_seq, segment.raw_ack, segment.raw_window
    segment.blocks = segment.sack
    return segment


def place(segment: Segment, iss: int, near_seq: int, irs: int, near_ack: int, shift: int) -> None:
    """Give a segment that a link saw the positions which its connection would give it."""
    segment.seq = unwrap(segment.raw_seq, iss, near_seq)
    segment.ack = unwrap(segment.raw_ack, irs, near_ack) if segment.flags & ACK else 0
    segment.window = segment.raw_window << (0 if segment.flags & SYN else shift)
    if segment.sack:
        segment.blocks = unwrap_blocks(segment.sack, irs, near_ack)


def _are_ends_of_one(conn: "Connection", peer: "Connection") -> bool:
    """A SYN of `peer` opened `conn`, or both are opening actively: a simultaneous open."""
    if conn.passive:
        return peer.tcb.snd.iss == conn.tcb.rcv.irs
    return peer.state is State.SYN_SENT


def plain(value: Any) -> Any:
    """A number of numpy's as one that JSON knows."""
    return value.item() if hasattr(value, "item") else str(value)
