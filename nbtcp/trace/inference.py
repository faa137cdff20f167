"""What a capture does not say: connections, positions, and why each segment was sent.

Segments go in one by one, in order of time, and rows of a log come out. The rules for reasons are
in `Way.why` and the functions it calls; they see what passed the place of the capture and nothing
else, so they presume what a sender by RFC 5681 and RFC 6298 would have meant:

fast-retransmit   after three duplicate ACKs, or SACK blocks above it
timeout           after a silence of the RTO; "go-back-n" is what follows
partial-ack       the holes that follow after a fast retransmission
out-of-order      an older timestamp; or a hole filled before an ACK could have asked for it
duplicate         a copy that the network made: by its timestamp, or as above
data              also what was sent again for causes unknown

Round-trip times are measured from there to the receiver of the data and back.
"""

from bisect import bisect_left, bisect_right
from operator import attrgetter

from ..tcp.rtt import SECOND, RoundTripTime
from ..tcp.sendqueue import Span
from ..why import Why
from ..wire import segment as wire
from ..wire.segment import ACK, FIN, RST, SYN, Segment
from ..wire.seq import MODULUS
from .log import NO_STATE, RECEIVED, SENT, ConnectionRecord, EventLog, place

_MIN_RTO, _MAX_RTO = SECOND // 5, 60 * SECOND  # as in Config
_MANY = 1000  # segments that one repeats at once; in a forged capture it may be all of them
_PROBES = (Why.WINDOW_PROBE, Why.KEEPALIVE)
_SYNS = {SYN: Why.SYN, SYN | ACK: Why.SYN_ACK}
_OPENED = {SYN: "active", SYN | ACK: "passive"}


class Tracker:
    """Gives segments their connections, positions and reasons, and puts them into a log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._ways: dict[tuple[bytes, bytes], Way] = {}  # by where they were seen, and flow
        self._numbers: dict[tuple[bytes, int], int] = {}  # by ports and the first SYN's number
        self.hosts: dict[str, int] = {}
        self.missed = 0  # octets that were acknowledged but not captured

    def take(self, now: int, segment: Segment, outbound: bool | None) -> None:
        """Log one segment; `outbound` is its direction, if nbtcp wrote the capture."""
        sent, flags = outbound is not False, segment.flags
        place_seen = b"" if outbound is None else wire.addresses(segment.flow)[not sent]
        way = self._ways.get((place_seen, segment.flow))
        if way is None or (flags & SYN and way.initial not in (None, segment.raw_seq)):
            way = self._open(segment, place_seen)
        opposite, record = way.opposite, way.log_entry
        way.learn(segment)
        if sent and not record.opened and not flags & RST:
            record.began, record.iss = now, way.initial or 0
            record.opened = _OPENED.get(flags & (SYN | ACK), "unseen")
            self._log.records.append(record)
        done, missed = opposite.acknowledged(segment, now)
        self.missed += missed
        if done and outbound is not True:  # our own ACKs of what we received measure nothing
            # Karn's rule (RFC 6298 3): any repetition among them spoils the sample.
            span = ([span for span in done if span.times > 1] or done)[-1]
            kept, rtt = span.times == 1, now - span.sent
            if kept:
                opposite.rtt.sample(rtt)
                opposite.shortest = min(opposite.shortest or rtt, rtt)
            rule = Why.FIRST_TRANSMISSION if kept else Why.KARN
            self._log.rtt_sample(opposite, span, rtt, kept, rule, now)
        inferred = way.why(segment, now)
        if segment.why is Why.NO_CONNECTION:  # the capture did not say
            segment.why = inferred
        event, host = (SENT, record.host) if sent else (RECEIVED, opposite.log_entry.host)
        snd = (way.una, way.nxt, way.wnd) if sent and way.wnd >= 0 else ()
        self._log.add(event, host, record.number, NO_STATE, snd, segment, now)
        way.note_end(flags, now)

    def _open(self, segment: Segment, place_seen: bytes) -> "Way":
        flow, back, initial = segment.flow, wire.reverse_flow(segment.flow), -1
        if segment.flags & SYN:
            initial = segment.raw_ack - 1 if segment.flags & ACK else segment.raw_seq
        number = self._numbers.setdefault(
            (min(flow, back), initial % MODULUS), len(self._numbers) + 1
        )
        (source, port), (destination, other_port) = wire.endpoints(flow)
        if source == destination:  # on a loopback device; the tables tell the ends apart by name
            source, destination = f"{source}:{port}", f"{destination}:{other_port}"
        hosts = [self.hosts.setdefault(name, len(self.hosts)) for name in (source, destination)]
        way, opposite = Way(number, hosts[0], flow), Way(number, hosts[1], back)
        way.opposite, opposite.opposite = opposite, way
        self._ways[place_seen, flow], self._ways[place_seen, back] = way, opposite
        return way


_start, _end = attrgetter("start"), attrgetter("end")


class Way:
    """One direction of a connection, as far as the capture shows it."""

    opposite: "Way"

    def __init__(self, number: int, host: int, flow: bytes) -> None:
        self.log_entry = ConnectionRecord(number, host, flow, "", 0, 0, state="unknown")
        self.initial: int | None = None
        self.wscale = -1  # of its SYN
        self.nxt = self.una = 0
        self.wnd = -1  # what the newest ACK offers; -1: none yet
        self.last = Segment(flow, 0, 0, 0, -1, ack=-1)  # of this way; a window of -1: none yet
        self.answers: Why | None = None  # what came from the other end since
        self.newest: int | None = None  # the timestamp of the segment that ends at `nxt`
        self.spans: list[Span] = []  # in flight, in order of sequence
        self.duplicates = 0  # ACKs since the last new one
        self.sacked = 0  # the highest octet that SACK blocks told of
        # When the retransmission timer began anew (RFC 6298 5.3, 5.6), and when the first sign of a
        # loss since the last new ACK was seen.
        self.timer_set = self.told_at = 0
        self.rtt = RoundTripTime(SECOND, _MIN_RTO, _MAX_RTO)
        self.shortest = 0  # RTT sample: from the capture to the receiver and back
        self.finished = False
        # In recovery, until `_recover` is acknowledged, segments are sent again for `_repair`;
        # `_entered` was `una` when it began.
        self._recover = self._entered = 0
        self._repair = Why.DATA

    def learn(self, segment: Segment) -> None:
        """Its positions, and what a segment of this way tells of numbers and windows."""
        opposite, syn = self.opposite, segment.flags & SYN != 0
        if self.initial is None and not segment.flags & RST:  # that of a refusal is 0
            self._begin(segment.raw_seq - (not syn), int(not syn))
        if opposite.initial is None and segment.flags & ACK:
            opposite._begin(segment.raw_ack - 1, 1)
        if syn and segment.wscale is not None:
            self.wscale = min(segment.wscale, wire.MAX_WSCALE)
        # RFC 7323 2.2: windows are scaled when both SYNs ask for it.
        shift = self.wscale if self.wscale >= 0 and opposite.wscale >= 0 else 0
        iss = segment.raw_seq - 1 if self.initial is None else self.initial
        place(segment, iss, self.nxt, opposite.initial or 0, opposite.una, shift)

    def _begin(self, initial: int, position: int) -> None:
        """Positions count from `initial`; the first one of interest is `position`."""
        self.initial = self.opposite.log_entry.irs = initial % MODULUS
        self.nxt = self.una = position

    def acknowledged(self, segment: Segment, now: int) -> tuple[list[Span], int]:
        """What the opposite's segment is the first to acknowledge; how much was not captured."""
        ack, una, spans = segment.ack, self.una, self.spans
        self.sacked = max([self.sacked, *(right for _, right in segment.blocks)])
        if not segment.flags & RST and (ack >= una or not segment.flags & ACK):
            self.wnd = segment.window
        if not segment.flags & ACK or segment.flags & RST or ack <= una:
            return [], 0
        count = bisect_right(spans, ack, key=_end)
        done = spans[:count]
        seen = (min(span.end, ack) - max(span.start, una) for span in spans[: count + 1])
        missed = ack - una - sum(size for size in seen if size > 0)
        del spans[:count]
        self.una, self.duplicates, self.timer_set, self.told_at = ack, 0, now, now
        return done, missed

    def why(self, segment: Segment, now: int) -> Why:
        """What this segment was sent for, presumably."""
        if segment.flags & RST:
            return Why.RST
        opposite, answers = self.opposite, self.answers
        same = segment.raw_window == self.last.raw_window
        news = segment.sack not in ((), self.last.sack)
        again = segment.ack == self.last.ack == opposite.una
        self.last, self.answers, why = segment, None, self._probe(segment)
        if segment.len:
            why = self._transmit(segment, now, why)
        elif again and (news or (same and (opposite.spans or answers) and answers not in _PROBES)):
            opposite.told_at = opposite.told_at if opposite.duplicates else now
            opposite.duplicates += opposite.spans != []  # RFC 5681 2, or RFC 6675 2
            why = why or Why.DUPLICATE_ACK
        elif again and not same:
            why = why or Why.WINDOW_UPDATE
        if segment.len or why in _PROBES:
            opposite.answers = why
        return why or Why.ACK

    def _probe(self, segment: Segment) -> Why | None:
        """Of a closed window, or of a silent host (RFC 9293 3.8.6.1, 3.8.4)."""
        closed = self.opposite.last.raw_window == 0
        old = segment.seq == self.una - 1 == self.nxt - 1 and segment.len < 2
        if segment.flags & (SYN | FIN) or not (old or (closed and len(segment.data) == 1)):
            return None
        return Why.WINDOW_PROBE if closed else Why.KEEPALIVE

    def _transmit(self, segment: Segment, now: int, probe: Why | None) -> Why:
        start, end, spans = segment.seq, segment.seq + segment.len, self.spans
        why = _SYNS.get(segment.flags & (SYN | ACK), Why.DATA if segment.data else Why.FIN)
        if start < self.nxt:
            low = bisect_right(spans, start, key=_end)
            again = spans[low : min(bisect_left(spans, end, key=_start), low + _MANY)]
            hole = end > self.una and not again  # that the capture shows
            if self._overtaken(segment, now, again):
                why = Why.OUT_OF_ORDER if hole else Why.DUPLICATE
            elif end > self.una:
                since = max((span.sent for span in again or spans[low : low + 1]), default=now)
                why = self._cause(start, since, now, Why.OUT_OF_ORDER if hole else why)
            if hole:
                again = [Span(start, min(end, self.nxt), now)]
                spans[low:low] = again
            for span in () if why in (Why.OUT_OF_ORDER, Why.DUPLICATE) else again:
                span.times, span.sent = span.times + 1, now
        if end > self.nxt:
            spans.append(Span(max(start, self.nxt), end, now))
            self.nxt, self.newest = end, segment.tsval
        return probe or why

    def _overtaken(self, segment: Segment, now: int, again: list[Span]) -> bool:
        """It was sent before others that came here sooner, or is a copy made by the network."""
        if segment.tsval is not None and self.newest is not None:
            age = (self.newest - segment.tsval) % MODULUS
            if age or segment.flags & SYN or segment.seq + segment.len <= self.una:
                return age < MODULUS // 2
        soonest = (self.shortest + self.opposite.shortest) * 3 // 4  # that an ACK could ask for it
        return again != [] and all(now - span.sent < soonest for span in again)

    def _cause(self, start: int, sent: int, now: int, otherwise: Why) -> Why:
        """Why a segment of `sent` was sent again, or `otherwise` when nothing tells."""
        sacked = start < self.sacked
        known = now - self.told_at >= self.opposite.shortest * 3 // 4  # to the sender by now
        if (self.duplicates >= 3 or sacked) and known and start >= self._recover:
            self._recover, self._entered, self._repair = self.nxt, self.una, Why.FAST_RETRANSMIT
            return Why.FAST_RETRANSMIT
        if now - max(sent, self.timer_set) >= self.rtt.rto * 9 // 10:  # nearly the sender's RTO
            self._recover = self._entered = self.nxt
            self._repair, self.timer_set = Why.GO_BACK_N, now
            return Why.TIMEOUT
        if start < self._recover:
            return Why.PARTIAL_ACK if start == self.una > self._entered else self._repair
        return Why.DUPLICATE_SYN if otherwise is Why.SYN_ACK else otherwise

    def note_end(self, flags: int, now: int) -> None:
        """The connection is over when both ways are finished, or by a reset."""
        self.finished |= bool(flags & FIN)
        ends = self.log_entry, self.opposite.log_entry
        if flags & RST or (self.finished and self.opposite.finished):
            for record in ends:
                if record.ended is None:
                    record.ended, record.end = now, "RST" if flags & RST else "FIN"
