"""Logs as captures: a log written as pcapng, and anybody's pcap or pcapng read as a log.

What nbtcp writes it reads as it was: who sent and who received, and why. Of all other captures the
reasons are inferred, by the rules in inference.py; `log.meta["inferred"]` is True then. Round-trip
times are inferred in both cases ("rtt" then), as a capture holds no samples.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import make_dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..tcp.state import State
from ..why import Why
from ..wire.ip import WireError
from ..wire.segment import Segment, build, parse_captured, reverse_flow
from ..wire.seq import wrap_blocks
from . import pcap
from .inference import Tracker
from .log import DROPPED, FIELDS, LAYOUTS, NO_SAMPLE, SENT, EventLog, Has, LogFileError, plain

_APPLICATION = "nbtcp"
_WHYS = {why.label: why for why in Why}
_ELSE = (pcap.NOT_IP, Why.NOT_TCP.label)  # what else there is on a network
_LAST_TIME = 1 << 62  # ns; later ones are damage, and would not fit into a row


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
    foreign = log.meta.get("inferred") is True
    interfaces = ["capture"] if foreign else [host] if host else log.hosts or ["none"]
    ends = {record.number: record for record in reversed(log.records)}  # the first of the two
    rows = [_Row(*row) for row in LAYOUTS["segments"].iter_unpack(log.rows["segments"])]
    shift = _shift(log, rows)
    with path.open("wb") as file:
        application, about = f"{_APPLICATION} {__version__}", json.dumps(log.meta, default=plain)
        file.write(pcap.header(application, about, interfaces))
        for number, row in enumerate(rows):
            end, name, sent = ends.get(row.conn), log.hosts[row.host], row.event == SENT
            if end is None or row.event == DROPPED or host not in (None, name):
                continue
            flow = end.flow if (row.host == end.host) == sent else reverse_flow(end.flow)
            packet = build(_segment(row, flow, log.sack.get(number, ())))
            time, data, comment = row.time + shift, packet[: len(packet) - row.len], _comment(row)
            interface, outbound = (0, None) if foreign else (interfaces.index(name), sent)
            frame = pcap.Frame(time, pcap.RAW_IP, data, len(packet), outbound, comment)
            file.write(pcap.packet(interface, frame))
    return path


_Row: Any = make_dataclass("_Row", [name for name, _ in FIELDS["segments"]], slots=True)


def _shift(log: EventLog, rows: list[Any]) -> int:
    """What to add to the times of the rows, ns; a capture's are times of day already."""
    with suppress(IndexError, KeyError, TypeError, ValueError):
        began = datetime.fromisoformat(log.meta["began"]).timestamp()
        if "capture" not in log.meta:
            return round(began * 1000) * 1_000_000 - int(rows[0].time)
    return 0


def _segment(row: Any, flow: bytes, blocks: tuple[tuple[int, int], ...]) -> Segment:
    """The segment of a row, with zeros for data."""
    segment = Segment(flow, row.flags, row.raw_seq, row.raw_ack, row.raw_window, bytes(row.len))
    segment.sack_permitted = row.present & Has.SACK_PERMITTED != 0
    segment.sack = wrap_blocks(blocks, row.raw_ack - row.ack)
    there = [name for name, bit in Has.OPTIONS.items() if row.present & bit]
    for name in ("urgent", "tos", *there):
        setattr(segment, name, getattr(row, name))
    return segment


def _comment(row: Any) -> str:
    """The reason, then the TCB: "data; ESTABLISHED; cwnd 14480; ...; rto 0.204000 s"."""
    text = Why(row.why).label
    if row.present & Has.TCB:
        text += f"; {State(row.state).label}; cwnd {row.cwnd}; in flight {row.inflight}"
        if row.ssthresh < _LAST_TIME:
            text += f"; ssthresh {row.ssthresh}"
        if row.srtt != NO_SAMPLE:
            text += f"; srtt {row.srtt / pcap.SECOND:.6f} s"
        text += f"; rto {row.rto / pcap.SECOND:.6f} s"
    return text


# --- reading ---


def read_capture(path: str | Path) -> EventLog:
    """A log of the TCP segments in a pcap or pcapng file, compressed by gzip or not.

    The place of the capture lies somewhere between the hosts: every segment is a `send` of its
    sender, at the time when it was captured there. So a round-trip time is that from the capture to
    the receiver and back; of data captured near its receiver it tells nothing of the network.
    Connections are numbered as they begin; a SYN with another initial number begins another one.
    Where the SYN was not captured, `opened` is "unseen": positions count from the first number
    seen, and windows are not scaled. IP fragments are left out.

    Reasons are inferred (`meta["inferred"]`) by the rules of inference.py; docs/tshark.md says how
    often they are right. `meta["capture"]` tells how many packets were read and how many left out,
    by kind; `meta["problems"]` is a list of what else there is to know, such as a file cut off.

    Raises LogFileError when the file is no capture, OSError when it cannot be read.
    """
    path = Path(path)
    try:
        reader = pcap.CaptureReader(path.read_bytes())
        found, left_out = _sightings(reader)
    except LogFileError as problem:
        raise LogFileError(f"{path} is no capture: {problem}") from None
    backwards = sum(later[0] < earlier[0] for earlier, later in pairwise(found))
    odd = sum(not 0 <= time <= _LAST_TIME for time, _, _ in found)
    log = EventLog()
    with suppress(ValueError, TypeError, RecursionError):  # of a run, when nbtcp wrote the file
        log = EventLog(**json.loads(reader.comment if _is_ours(reader) else ""))
    known = log.meta.get("problems", [])  # of a capture that nbtcp wrote anew
    tracker = Tracker(log)
    for time, segment, outbound in sorted(found, key=lambda each: each[0]):
        tracker.take(min(max(time, 0), _LAST_TIME), segment, outbound)
    log.hosts += tracker.hosts
    twice = sum(segment.why is Why.DUPLICATE and way is None for _, segment, way in found)
    problems = {
        **dict.fromkeys(map(str, known if isinstance(known, list) else []), True),
        reader.damage: reader.damage != "",
        **{f"{n} packets left out: {what}": what not in _ELSE for what, n in left_out.items()},
        f"{odd} times are before 1970 or after 2116: taken for these": odd > 0,
        f"times go backwards at {backwards} packets: sorted by time": backwards > 0,
        f"{twice} segments seen twice: copied, or captured at two places": twice > 0,
        f"{tracker.missed} octets were acknowledged but not captured": tracker.missed > 0,
        "no TCP segment in it": not found,
    }
    own = found and all(outbound is not None for _, _, outbound in found)
    log.meta["inferred"] = "rtt" if own else True
    number = len(found) + left_out.total()
    log.meta["capture"] = {"file": path.name, "packets": number, "left out": dict(left_out)}
    log.meta["problems"] = [text for text, applies in problems.items() if applies]
    return log


_Sighting = tuple[int, Segment, bool | None]  # time, and direction if nbtcp wrote the file


def _sightings(reader: pcap.CaptureReader) -> tuple[list[_Sighting], Counter[str]]:
    """The segments in a capture, and how many packets were left out, by kind."""
    found: list[_Sighting] = []
    left_out: Counter[str] = Counter()
    for frame in reader:
        try:
            packet = pcap.ip_packet(frame.link, frame.data)
            segment = parse_captured(packet, frame.length - len(frame.data) + len(packet))
        except pcap.NotIP as problem:
            left_out[str(problem)] += 1
        except WireError as problem:
            cut = problem.why is Why.MALFORMED and len(frame.data) < frame.length
            left_out[pcap.CUT if cut else problem.why.label] += 1
        else:
            outbound = frame.outbound if _is_ours(reader) else None
            if outbound is not None:
                segment.why = _WHYS.get(frame.comment.partition(";")[0], Why.NO_CONNECTION)
            found.append((frame.time, segment, outbound))
    return found, left_out


def _is_ours(reader: pcap.CaptureReader) -> bool:
    """nbtcp wrote the section that is being read."""
    return reader.application.startswith(_APPLICATION)
