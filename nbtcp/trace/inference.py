"""What a capture does not say: connections, positions, and why each segment was sent.

Segments go in one by one, in order of time, and rows of a log come out. The rules for reasons are
in `_Way.why` and the functions it calls; they see what passed the place of the capture and nothing
else, so they presume what a sender by RFC 5681 and RFC 6298 would have meant. Round-trip times are
measured from there to the receiver of the data and back.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ..tcp.rtt import SECOND, RoundTripTime
from ..why import Why
from ..wire.segment import ACK, FIN, MAX_WSCALE, RST, SYN, Segment, endpoints, reverse_flow
from ..wire.seq import MODULUS
from .log import LAYOUTS, NO_SAMPLE, NO_STATE, RECEIVED, SENT, ConnectionRecord, EventLog, place

MOST_HOSTS = 1 << 16  # a row has 16 bits for its host
_MIN_RTO, _MAX_RTO = SECOND // 5, 60 * SECOND  # as in Config


class Sighting(NamedTuple):
    """A segment that was captured."""

    time: int
    segment: Segment
    vantage: str  # in what nbtcp wrote the host whose interface it is, else ""
    sent: bool
    why: Why | None  # what nbtcp wrote


class Tracker:
    """Gives segments their connections, positions and reasons, and puts them into a log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._ways: dict[tuple[str, bytes], tuple[_Way, _Way]] = {}  # this one and the opposite
        self._numbers: dict[tuple[bytes, int], int] = {}  # by ports and the first SYN's number
        self._hosts: dict[str, int] = {}
        self.beyond = 0  # segments of too many hosts
        self.missed = 0  # octets that were acknowledged but not captured

    def take(self, sighting: Sighting) -> None:
        """Log one segment."""
        now, segment, vantage, sent, why = sighting
        ways = self._ways.get((vantage, segment.flow))
        if ways is None or _begins_another(segment, ways[0]):
            if len(self._hosts) + 3 > MOST_HOSTS:
                self.beyond += 1
                return
            ways = self._open(segment, vantage)
        way, opposite = ways
        way.learn(segment)
        if segment.flags & ACK and opposite.initial is None:
            opposite.begin(segment.raw_ack - 1, 1)
        iss = segment.raw_seq - 1 if way.initial is None else way.initial
        irs = opposite.initial or 0
        place(segment, iss, way.nxt, irs, opposite.una, way.shift(opposite))
        if sent and way.record is None and not segment.flags & RST:
            self._enter(way, segment, now)
        done, unseen = way.answer(opposite, segment, now)
        self.missed += unseen
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
        if self.initial is None and not segment.flags & RST:  # that of a refusal is 0
            self.begin(segment.raw_seq - (not syn), int(not syn))
        if syn:
            self.wscale = segment.wscale

    def shift(self, opposite: "_Way") -> int:
        """Of the window; 0 unless both SYNs were seen and ask for scaling (RFC 7323 2.2)."""
        if self.wscale is None or opposite.wscale is None:
            return 0
        return min(self.wscale, MAX_WSCALE)

    def answer(self, opposite: "_Way", segment: Segment, now: int) -> tuple[list[_Span], int]:
        """What a segment is the first to acknowledge, and how much of that was not captured."""
        ack, una, spans = segment.ack, opposite.una, opposite.spans
        if not segment.flags & ACK or segment.flags & RST or ack <= una:
            return [], 0
        count = bisect_right(spans, ack, key=_end)
        done, partly = spans[:count], spans[count : count + 1]
        seen = sum(max(0, min(span.end, ack) - max(span.start, una)) for span in done + partly)
        del spans[:count]
        opposite.una, opposite.duplicates, opposite.timer_set = ack, 0, now
        return done, ack - una - seen

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
