"""Logs as captures: a log written as pcapng, and anybody's pcap or pcapng read as a log.

What nbtcp writes it reads as it was: who sent and who received, and why. Of all other captures the
reasons are inferred, by the rules of `_Way`; `log.meta["inferred"]` is True then. Round-trip times
are inferred in both cases ("rtt" then), as a capture holds no samples.
"""

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, make_dataclass
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from ..tcp.rtt import RoundTripTime
from ..tcp.state import State
from ..why import Why
from ..wire.ip import WireError
from ..wire.segment import (
    ACK,
    FIN,
    MAX_WSCALE,
    RST,
    SYN,
    Segment,
    build,
    endpoints,
    parse_captured,
    reverse_flow,
)
from ..wire.seq import MODULUS, wrap
from .log import (
    FIELDS,
    HAS_MSS,
    HAS_SACK_PERMITTED,
    HAS_TCB,
    HAS_TIMESTAMPS,
    HAS_WSCALE,
    LAYOUTS,
    NO_SAMPLE,
    NO_STATE,
    RECEIVED,
    SENT,
    ConnectionRecord,
    EventLog,
    LogFileError,
    place,
    plain,
)
from .pcap import LAST_TIME, RAW_IP, SECOND, CaptureReader, CaptureWriter, Frame, network_layer

_APPLICATION = "nbtcp"
_WHYS = {why.label: why for why in Why}
_STATES = {state.value: state.label for state in State}
_MOST_HOSTS = 1 << 16  # a row has 16 bits for its host
_MIN_RTO, _MAX_RTO = SECOND // 5, 60 * SECOND  # as in Config


# --- writing ---


def write_pcapng(log: EventLog, path: Path, host: str | None = None) -> Path:
    """Write what `host`, or every host of `log`, sent and received, as pcapng.

    One interface per host, named by its address; nanoseconds; in or out; in the comment of each
    packet the reason, and where the host is ours its state, cwnd, RTO and so on; in that of the
    section `log.meta` as JSON. The headers are made anew from the log, which has no payload: each
    packet is cut off where its data begins, and says how long it was. Of a segment that both hosts
    logged there are two packets, which Wireshark takes for a repetition: give `host` to have one.

    Left out are segments of no connection, whose ports the log does not have, and drops: a capture
    holds what hosts sent and what reached them, and what our host sent is there although it was
    dropped later. Times of day are those of `meta["began"]` plus the log's own; a simulation's
    begin in 1970. Raises ValueError for a host that is not in the log, OSError when the file cannot
    be written.
    """
    from .. import __version__

    if host is not None and host not in log.hosts:
        raise ValueError(f"no host {host!r} in the log, which has {', '.join(log.hosts)}")
    flows = _flows(log)
    rows = [_Row(*row) for row in LAYOUTS["segments"].iter_unpack(log.rows["segments"])]
    shift = _time_of_day(log, rows)
    foreign = log.meta.get("inferred") is True
    with path.open("wb") as file:
        about = json.dumps(log.meta, default=plain)
        writer = CaptureWriter(file, f"{_APPLICATION} {__version__}", about)
        writer.interface("capture" if foreign else host or next(iter(log.hosts), "none"))
        for number, row in enumerate(rows):
            flow = flows.get((row.conn, row.host))
            name = log.hosts[row.host]
            if flow is None or row.event not in (SENT, RECEIVED) or host not in (None, name):
                continue
            sent = row.event == SENT
            segment = _segment(row, flow if sent else reverse_flow(flow), log.sack.get(number, ()))
            packet = build(segment)
            data = packet[: len(packet) - row.len]
            interface, outbound = ("capture", None) if foreign else (name, sent)
            time, comment = row.time + shift, _comment(row)
            writer.packet(Frame(time, RAW_IP, data, len(packet), interface, outbound, comment))
    return path


_Row: Any = make_dataclass("_Row", [name for name, _ in FIELDS["segments"]], slots=True)


def _flows(log: EventLog) -> dict[tuple[int, int], bytes]:
    """By connection and host: the flow of what it sends; also of ends without a record."""
    flows = {(record.number, record.host): record.flow for record in log.records}
    numbers = {name: number for number, name in enumerate(log.hosts)}
    for record in log.records:
        peer = numbers.get(endpoints(record.flow)[1][0], -1)
        flows.setdefault((record.number, peer), reverse_flow(record.flow))
    return flows


def _time_of_day(log: EventLog, rows: list[Any]) -> int:
    """What to add to the times of the rows, ns; a capture's are times of day already."""
    if not rows or "began" not in log.meta or "capture" in log.meta:
        return 0
    try:
        began = datetime.fromisoformat(log.meta["began"])
    except (TypeError, ValueError):
        return 0
    return round(began.timestamp() * 1000) * (SECOND // 1000) - int(rows[0].time)


def _segment(row: Any, flow: bytes, blocks: tuple[tuple[int, int], ...]) -> Segment:
    """The segment of a row, with zeros for data."""
    present = row.present
    stamped = present & HAS_TIMESTAMPS
    initial = row.raw_ack - row.ack  # of the numbers that SACK blocks are
    return Segment(
        flow,
        row.flags,
        row.raw_seq,
        row.raw_ack,
        row.raw_window,
        bytes(row.len),
        tsval=row.tsval if stamped else None,
        tsecr=row.tsecr if stamped else None,
        mss=row.mss if present & HAS_MSS else None,
        wscale=row.wscale if present & HAS_WSCALE else None,
        sack_permitted=bool(present & HAS_SACK_PERMITTED),
        sack=tuple((wrap(left, initial), wrap(right, initial)) for left, right in blocks),
        urgent=row.urgent,
        tos=row.tos,
    )


def _comment(row: Any) -> str:
    """The reason, then the TCB: "data; ESTABLISHED; cwnd 14480; ...; rto 0.204000 s"."""
    words = [Why(row.why).label]
    if row.present & HAS_TCB:
        words += [_STATES.get(row.state, "?"), f"cwnd {row.cwnd}"]
        if row.ssthresh < LAST_TIME:
            words.append(f"ssthresh {row.ssthresh}")
        words.append(f"in flight {row.inflight}")
        if row.srtt != NO_SAMPLE:
            words.append(f"srtt {row.srtt / SECOND:.6f} s")
        words.append(f"rto {row.rto / SECOND:.6f} s")
    return "; ".join(words)


# --- reading ---


def read_capture(path: str | Path) -> EventLog:
    """A log of the TCP segments (over IPv4) in a pcap or pcapng file, compressed by gzip or not.

    The place of the capture lies somewhere between the hosts: every segment is a `send` of its
    sender, at the time when it was captured there. So a round-trip time is that from the capture to
    the receiver and back; of data captured near its receiver it tells nothing of the network.
    Connections are numbered as they begin; a SYN with another initial number begins another one.
    Where the SYN was not captured, `opened` is "unseen": positions count from the first number
    seen, and windows are not scaled.

    Reasons are inferred (`meta["inferred"]`): "fast-retransmit" after three duplicate ACKs,
    "partial-ack" for the holes that follow, "timeout" after a silence of the RTO, "go-back-n" after
    that, "out-of-order" for a hole that is filled sooner, and "data" for what was sent again for
    causes unknown. `meta["capture"]` tells how many packets were read and how many left out, by
    kind; `meta["problems"]` is a list of what else there is to know, such as a file cut off.

    Raises LogFileError when the file is no capture, OSError when it cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        reader = CaptureReader(content)
    except LogFileError as problem:
        raise LogFileError(f"{path} is no capture: {problem}") from None
    sightings, left_out, backwards = _sightings(reader)
    log = EventLog(**_own_meta(reader))
    own = bool(sightings) and all(sighting.vantage for sighting in sightings)
    packets = len(sightings) + sum(left_out.values())
    problems = [reader.damage] if reader.damage else []
    if left_out["IPv6"]:
        problems.append(f"{left_out['IPv6']} packets of IPv6 left out")
    if backwards:
        problems.append(f"time goes backwards {backwards} times: sorted by time")
        sightings.sort(key=lambda sighting: sighting.time)
    tracker = _Tracker(log)
    for sighting in sightings:
        tracker.take(sighting)
    if tracker.beyond:
        problems.append(f"{tracker.beyond} segments of more than {_MOST_HOSTS} hosts left out")
    if not sightings:
        problems.append("no TCP segment in it")
    log.meta["inferred"] = "rtt" if own else True
    log.meta["capture"] = {"file": path.name, "packets": packets, "left out": dict(left_out)}
    log.meta["problems"] = problems
    return log


class _Sighting(NamedTuple):
    """A segment that was captured."""

    time: int
    segment: Segment
    vantage: str  # in what nbtcp wrote the host whose interface it is, else ""
    sent: bool
    why: Why | None  # what nbtcp wrote


def _sightings(reader: CaptureReader) -> tuple[list[_Sighting], Counter[str], int]:
    """The segments in a capture, what was left out, and how often time goes backwards."""
    found: list[_Sighting] = []
    left_out: Counter[str] = Counter()
    backwards = last = 0
    for frame in reader:
        at = network_layer(frame.link, frame.data)
        if at is None:
            left_out[f"link type {frame.link}"] += 1
            continue
        packet = frame.data[at:] if at >= 0 else b""
        version = packet[0] >> 4 if packet else 0
        if version != 4:
            left_out["IPv6" if version == 6 else "not IP"] += 1
            continue
        try:
            segment = parse_captured(packet, frame.length - at)
        except WireError as problem:
            left_out[problem.why.label] += 1
            continue
        time = min(max(frame.time, 0), LAST_TIME)
        backwards += time < last
        last = time
        ours = frame.outbound is not None and reader.application.startswith(_APPLICATION)
        why = _WHYS.get(frame.comment.partition(";")[0]) if ours else None
        vantage = frame.interface if ours else ""
        found.append(_Sighting(time, segment, vantage, frame.outbound is not False, why))
    return found, left_out, backwards


def _own_meta(reader: CaptureReader) -> dict[str, Any]:
    """The settings of the run, if nbtcp wrote the capture."""
    if not reader.application.startswith(_APPLICATION):
        return {}
    try:
        meta = json.loads(reader.comment)
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


class _Tracker:
    """Gives segments their connections, positions and reasons, and puts them into a log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._ways: dict[tuple[str, bytes], tuple[_Way, _Way]] = {}  # this one and the opposite
        self._numbers: dict[tuple[bytes, int], int] = {}  # by ports and the first SYN's number
        self._hosts: dict[str, int] = {}
        self.beyond = 0

    def take(self, sighting: _Sighting) -> None:
        """Log one segment."""
        now, segment, vantage, sent, why = sighting
        ways = self._ways.get((vantage, segment.flow))
        if ways is None or _begins_another(segment, ways[0]):
            if len(self._hosts) + 3 > _MOST_HOSTS:
                self.beyond += 1
                return
            ways = self._open(segment, vantage)
        way, opposite = ways
        way.learn(segment)
        if segment.flags & ACK and opposite.initial is None:
            opposite.begin(segment.raw_ack - 1, 1)
        irs = segment.raw_ack if opposite.initial is None else opposite.initial
        place(segment, way.initial or 0, way.nxt, irs, opposite.una, way.shift(opposite))
        if sent and way.record is None and not segment.flags & RST:
            self._enter(way, segment, now)
        done = way.answer(opposite, segment, now)
        if done and not (vantage and sent):
            self._sample(opposite, done, now)
        inferred = way.why(opposite, segment, now)
        segment.why = inferred if why is None else why
        event = SENT if sent else RECEIVED
        host = way.host if sent else self._host(vantage)
        self._log.add(event, host, way.number, NO_STATE, (), segment, now)
        _note_end(way, opposite, segment, now)

    def _open(self, segment: Segment, vantage: str) -> "tuple[_Way, _Way]":
        flow, back, initial = segment.flow, reverse_flow(segment.flow), -1
        if segment.flags & SYN:
            acks = segment.flags & ACK
            initial = (segment.raw_ack - 1) % MODULUS if acks else segment.raw_seq
        number = self._numbers.setdefault((min(flow, back), initial), len(self._numbers) + 1)
        (source, port), (destination, other_port) = endpoints(flow)
        if source == destination:  # on a loopback device; the tables tell the ends apart by name
            source, destination = f"{source}:{port}", f"{destination}:{other_port}"
        ways = _Way(flow, number, self._host(source)), _Way(back, number, self._host(destination))
        self._ways[vantage, back] = ways[::-1]
        self._ways[vantage, flow] = ways
        return ways

    def _host(self, address: str) -> int:
        if address not in self._hosts:
            self._hosts[address] = len(self._hosts)
            self._log.hosts.append(address)
        return self._hosts[address]

    def _enter(self, way: "_Way", segment: Segment, now: int) -> None:
        """The connection as the sender of `segment` has it."""
        opened = "unseen"
        if segment.flags & SYN:
            opened = "passive" if segment.flags & ACK else "active"
        iss = way.initial or 0
        way.record = ConnectionRecord(way.number, way.host, way.flow, opened, now, iss)
        way.record.state = "unknown"
        self._log.records.append(way.record)

    def _sample(self, way: "_Way", done: "list[_Span]", now: int) -> None:
        """A round-trip time by the newest segment acknowledged; Karn's rule (RFC 6298 3)."""
        suspects = [span for span in done if span.times > 1]
        span, kept = (suspects or done)[-1], not suspects
        rtt, state = now - span.sent, way.rtt
        if kept:
            state.sample(rtt)
        why = Why.FIRST_TRANSMISSION if kept else Why.KARN
        srtt = NO_SAMPLE if state.srtt is None else state.srtt
        times = span.sent, rtt, srtt, state.rttvar, state.rto
        self._log.rows["samples"] += LAYOUTS["samples"].pack(
            now, way.number, span.start, span.end, *times, way.host, kept, why
        )


def _begins_another(segment: Segment, way: "_Way") -> bool:
    """It is a SYN, and not the one with which its connection began."""
    return bool(segment.flags & SYN) and way.initial not in (None, segment.raw_seq)


def _note_end(way: "_Way", opposite: "_Way", segment: Segment, now: int) -> None:
    way.finished |= bool(segment.flags & FIN)
    reset = bool(segment.flags & RST)
    for record, other in ((way.record, opposite), (opposite.record, way)):
        if record is not None:
            record.irs = other.initial
            if record.ended is None and (reset or (way.finished and opposite.finished)):
                record.ended, record.end = now, "RST" if reset else "FIN"


@dataclass(slots=True)
class _Span:
    """A piece of sequence space in flight."""

    start: int
    end: int
    sent: int  # the last time
    times: int = 1


_start, _end = attrgetter("start"), attrgetter("end")


class _Way:
    """One direction of a connection, as far as the capture shows it."""

    def __init__(self, flow: bytes, number: int, host: int) -> None:
        self.flow = flow
        self.number = number
        self.host = host
        self.record: ConnectionRecord | None = None
        self.initial: int | None = None
        self.wscale: int | None = None
        self.nxt = self.una = 0
        self.window = self.said = -1  # the window (raw) and the ACK of the last segment
        self.spans: list[_Span] = []  # in order of sequence
        self.duplicates = 0  # ACKs since the last new one
        self.timer_set = 0  # when the retransmission timer began anew (RFC 6298 5.3, 5.6)
        self.rtt = RoundTripTime(SECOND, _MIN_RTO, _MAX_RTO)
        self.finished = False
        self._recover = self._entered = 0  # recovery lasts until the first one is acknowledged
        self._after_timeout = False

    def begin(self, initial: int, position: int) -> None:
        """Positions count from `initial`; the first one of interest is `position`."""
        self.initial = initial % MODULUS
        self.nxt = self.una = position

    def learn(self, segment: Segment) -> None:
        """What a segment of this direction tells of its numbers and windows."""
        syn = segment.flags & SYN != 0
        if self.initial is None:
            self.begin(segment.raw_seq - (not syn), int(not syn))
        if syn:
            self.wscale = segment.wscale

    def shift(self, opposite: "_Way") -> int:
        """Of the window; 0 unless both SYNs were seen and ask for scaling (RFC 7323 2.2)."""
        if self.wscale is None or opposite.wscale is None:
            return 0
        return min(self.wscale, MAX_WSCALE)

    def answer(self, opposite: "_Way", segment: Segment, now: int) -> list[_Span]:
        """What a segment of this direction is the first to acknowledge."""
        if not segment.flags & ACK or segment.flags & RST or segment.ack <= opposite.una:
            return []
        count = bisect_right(opposite.spans, segment.ack, key=_end)
        done = opposite.spans[:count]
        del opposite.spans[:count]
        opposite.una, opposite.duplicates, opposite.timer_set = segment.ack, 0, now
        return done

    def why(self, opposite: "_Way", segment: Segment, now: int) -> Why:
        """What this segment was sent for, presumably."""
        if segment.flags & RST:
            return Why.RST
        same = segment.raw_window == self.window
        again = segment.ack == self.said == opposite.una
        self.window, self.said = segment.raw_window, segment.ack
        closed = opposite.window == 0
        if segment.len:
            why = self._transmit(segment, now)
            return Why.WINDOW_PROBE if closed and len(segment.data) == 1 else why
        if again and opposite.spans and (same or segment.sack):
            opposite.duplicates += 1  # RFC 5681 2, or RFC 6675 2
            return Why.DUPLICATE_ACK
        if again and not same:
            return Why.WINDOW_UPDATE
        return Why.WINDOW_PROBE if closed and segment.seq == self.una - 1 else Why.ACK

    def _transmit(self, segment: Segment, now: int) -> Why:
        start, end = segment.seq, segment.seq + segment.len
        why = Why.DATA
        if segment.flags & SYN:
            why = Why.SYN_ACK if segment.flags & ACK else Why.SYN
        elif not segment.data:
            why = Why.FIN
        if start < self.nxt:
            why = self._transmit_again(start, end, now, why)
        if end > self.nxt:
            self.spans.append(_Span(max(start, self.nxt), end, now))
            self.nxt = end
        return why

    def _transmit_again(self, start: int, end: int, now: int, why: Why) -> Why:
        """A segment whose beginning was sent before, or lies in a hole that the capture shows."""
        low = bisect_right(self.spans, start, key=_end)
        seen = self.spans[low : bisect_left(self.spans, end, key=_start)]
        if seen:
            why = self._cause(start, max(span.sent for span in seen), now, why)
            for span in seen:
                span.times, span.sent = span.times + 1, now
        elif end > self.una:
            since = self.spans[low].sent if low < len(self.spans) else now
            why = self._cause(start, since, now, Why.OUT_OF_ORDER)
            times = 1 if why is Why.OUT_OF_ORDER else 2
            self.spans.insert(low, _Span(start, min(end, self.nxt), now, times))
        return why

    def _cause(self, start: int, sent: int, now: int, otherwise: Why) -> Why:
        """Why a segment of `sent` was sent again, or `otherwise` when nothing tells."""
        recovering = start < self._recover
        if self.duplicates >= 3 and not recovering:
            self._recover, self._entered, self._after_timeout = self.nxt, self.una, False
            return Why.FAST_RETRANSMIT
        silence = now - max(sent, self.timer_set)
        if silence >= self.rtt.rto * 9 // 10:  # our estimate is not quite the sender's
            self._recover, self._after_timeout, self.timer_set = self.nxt, True, now
            return Why.TIMEOUT
        if recovering and self._after_timeout:
            return Why.GO_BACK_N
        if recovering:
            partial = start == self.una > self._entered
            return Why.PARTIAL_ACK if partial else Why.FAST_RETRANSMIT
        return Why.DUPLICATE_SYN if otherwise is Why.SYN_ACK else otherwise
