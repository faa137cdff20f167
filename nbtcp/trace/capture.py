"""Logs as captures: a log written as pcapng, and anybody's pcap or pcapng read as a log.

What nbtcp writes it reads as it was: who sent and who received, and why. Of all other captures the
reasons are inferred, by the rules in inference.py; `log.meta["inferred"]` is True then. Round-trip
times are inferred in both cases ("rtt" then), as a capture holds no samples.
"""

import json
from collections import Counter
from dataclasses import make_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..tcp.state import State
from ..why import Why
from ..wire.ip import WireError
from ..wire.segment import Segment, build, endpoints, parse_captured, reverse_flow
from ..wire.seq import wrap
from .inference import MOST_HOSTS, Sighting, Tracker
from .log import (
    FIELDS,
    HAS_MSS,
    HAS_SACK_PERMITTED,
    HAS_TCB,
    HAS_TIMESTAMPS,
    HAS_WSCALE,
    LAYOUTS,
    NO_SAMPLE,
    RECEIVED,
    SENT,
    EventLog,
    LogFileError,
    plain,
)
from .pcap import LAST_TIME, RAW_IP, SECOND, CaptureReader, CaptureWriter, Frame, network_layer

_APPLICATION = "nbtcp"
_WHYS = {why.label: why for why in Why}
_STATES = {state.value: state.label for state in State}


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
    """A log of the TCP segments in a pcap or pcapng file, compressed by gzip or not.

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
    if backwards:
        problems.append(f"times go backwards at {backwards} packets: sorted by time")
        sightings.sort(key=lambda sighting: sighting.time)
    tracker = Tracker(log)
    for sighting in sightings:
        tracker.take(sighting)
    if tracker.beyond:
        problems.append(f"{tracker.beyond} segments of more than {MOST_HOSTS} hosts left out")
    if tracker.missed:
        problems.append(f"{tracker.missed} octets were acknowledged but not captured")
    if not sightings:
        problems.append("no TCP segment in it")
    log.meta["inferred"] = "rtt" if own else True
    log.meta["capture"] = {"file": path.name, "packets": packets, "left out": dict(left_out)}
    log.meta["problems"] = problems
    return log


def _sightings(reader: CaptureReader) -> tuple[list[Sighting], Counter[str], int]:
    """The segments in a capture, what was left out, and how often time goes backwards."""
    found: list[Sighting] = []
    left_out: Counter[str] = Counter()
    backwards = last = 0
    for frame in reader:
        at = network_layer(frame.link, frame.data)
        if at is None:
            left_out[f"link type {frame.link}"] += 1
            continue
        packet = frame.data[at:] if at >= 0 else b""
        version = packet[0] >> 4 if packet else 0
        if version not in (4, 6):
            left_out["not IP"] += 1
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
        found.append(Sighting(time, segment, vantage, frame.outbound is not False, why))
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
