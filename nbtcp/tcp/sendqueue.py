"""What the application sent: octets waiting, and spans in flight with what is known of them.

A span is one segment as it was first sent: it remembers when and how often. The queue is also the
scoreboard (RFC 6675 3): it counts what is believed lost and what the peer reported as received
beyond a hole, so that nobody has to walk the spans to know how much is in flight.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from heapq import heappop, heappush

from ..congestion.rate import DeliveryRate, Sent
from ..why import Why
from .ranges import Range, Ranges

PROBES = frozenset({Why.WINDOW_PROBE, Why.WINDOW_OPENED, Why.TAIL_LOSS_PROBE, Why.RESCUE})
"""Why segments are sent again that nobody believes lost."""


@dataclass(slots=True, eq=False)
class Span:
    """One segment in flight, `start` up to but not including `end`."""

    start: int
    end: int
    sent: int  # last transmission, ns
    first_sent: int = 0
    order: int = 0  # of the last transmission among all: the octets sent by then
    times: int = 1  # transmissions
    sacked: bool = False  # the peer has it, beyond a hole
    lost: bool = False  # believed lost and not yet sent again
    why: Why = Why.DATA  # once it was believed lost: what told us
    urgently: bool = False  # if lost, to be sent again whatever cwnd says
    rate: Sent | None = None  # where the delivery-rate sampler keeps its notes

    def __lt__(self, other: "Span") -> bool:
        return self.start < other.start


class SendQueue:
    """The send buffer, retransmission queue and scoreboard of one connection."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()  # from position `base` on
        self.base = 1
        self.fin: int | None = None  # position of our FIN once the application has closed
        self.spans: deque[Span] = deque()  # by position, without gaps, SACKed ones included
        self.flight: OrderedDict[Span, None] = OrderedDict()  # by time of transmission: what may
        # still be in the network, so neither lost nor SACKed
        self.sacked = Ranges()  # what the peer has reported as received beyond a hole
        self.rate: DeliveryRate | None = None  # for algorithms that pace
        self.lost_octets = 0
        self.sacked_octets = 0  # of the spans that were SACKed wholly
        self.sacked_segments = 0
        self.sent_octets = 0  # all that was ever sent, repetitions included
        self.repaired: Counter[int] = Counter()  # start -> how often resent, in this loss episode
        self.repaired_octets = 0
        self._at: dict[int, Span] = {}  # the spans by their start
        self._lost: list[Span] = []  # heap, oldest first; stale entries are no longer `lost`

    @property
    def end(self) -> int:
        """The position behind the last octet the application sent."""
        return self.base + len(self.data)

    @property
    def room(self) -> int:
        """Octets that still fit."""
        return self.capacity - len(self.data)

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Take what fits; returns how many octets that was."""
        taken = data[: self.room]
        self.data += taken
        return len(taken)

    def octets(self, start: int, end: int) -> bytes:
        """The data at positions start..end; a SYN or FIN in the range has none."""
        with memoryview(self.data) as data:  # a slice of a bytearray would be a copy more
            return bytes(data[max(start - self.base, 0) : max(end - self.base, 0)])

    def since(self, position: int) -> Iterator[Span]:
        """The spans in order, from the one that holds `position` on."""
        at = position
        if at not in self._at:  # it cuts through a span
            at = next((span.start for span in self.spans if span.end > position), position)
        while (span := self._at.get(at)) is not None:
            yield span
            at = span.end

    # --- what was sent ---

    def sent(self, start: int, end: int, now: int) -> Span:
        """start..end, which is new, has just been sent."""
        span = self._at[start] = Span(start, end, now, now)
        self.spans.append(span)
        self._depart(span)
        return span

    def resent(self, span: Span, now: int) -> None:
        """`span`, which was lost, has just been sent again."""
        span.lost = False
        self.lost_octets -= span.end - span.start
        span.sent = now
        span.times += 1
        self._depart(span)
        if span.why not in PROBES:  # these belong to no episode
            self.repaired[span.start] += 1
            self.repaired_octets += span.end - span.start

    def begin_episode(self) -> None:
        """What was sent again until now is no part of the loss episode that begins."""
        self.repaired.clear()
        self.repaired_octets = 0

    # --- what arrived ---

    def acknowledge(self, una: int) -> list[Span]:
        """Remove what lies before `una`; returns the spans that are wholly acknowledged, oldest
        first.
        """
        done = []
        spans = self.spans
        while spans and spans[0].end <= una:
            span = spans.popleft()
            del self._at[span.start]
            self._leave(span)
            done.append(span)
        if spans and spans[0].start < una:
            head = spans[0]
            if head.lost:
                self.lost_octets -= una - head.start
            elif head.sacked:
                self.sacked_octets -= una - head.start
            self._at[una] = self._at.pop(head.start)
            head.start = una
        self.sacked.cut_before(una)
        gone = min(max(una - self.base, 0), len(self.data))
        del self.data[:gone]
        self.base += gone
        return done

    def sack(self, block: Range) -> list[Span]:
        """The peer has `block` (RFC 2018 5); returns the spans of which that is news."""
        news = []
        for left, right in self.sacked.add(*block):
            first, last = self.sacked.find(left) or (left, right)
            for span in self.since(left):
                if span.start >= right:
                    break
                if first <= span.start and span.end <= last and not span.sacked:
                    self._leave(span)
                    span.sacked = True
                    self.sacked_octets += span.end - span.start
                    self.sacked_segments += 1
                    news.append(span)
        return news

    def forget_sacks(self) -> None:
        """The peer has thrown away what it had reported (RFC 2018 8)."""
        for span in self.spans:
            span.sacked = False
        self.sacked_octets = self.sacked_segments = 0
        self.sacked = Ranges()
        self._fill_flight()

    def cut_at(self, position: int, mss: int) -> None:
        """`position` is the edge of what has arrived: cut the span around it, if that is one that
        the device has cut into segments of `mss` octets, of which two meet here.
        """
        span = next(self.since(position), None)
        if span is not None and span.start < position and (position - span.start) % mss == 0:
            self.cut(span, position)

    def cut(self, span: Span, at: int) -> Span:
        """Make two of `span`, as if they had been sent one by one; returns the second."""
        rest = copy(span)
        rest.start = span.end = at
        span.order -= rest.end - at
        self._at[at] = rest
        self.spans.insert(self.spans.index(span) + 1, rest)
        self.sacked_segments += rest.sacked
        if rest.lost:
            heappush(self._lost, rest)
        elif not rest.sacked:
            self._fill_flight()
        return rest

    def head(self, span: Span, mss: int) -> Span:
        """The first segment of `span`, which may be several that the device has cut."""
        if min(span.end, self.end) - span.start > mss:
            self.cut(span, span.start + mss)
        return span

    def tail(self, span: Span, mss: int) -> Span:
        """The last segment of `span`."""
        size = min(span.end, self.end) - span.start
        return self.cut(span, span.start + (size - 1) // mss * mss) if size > mss else span

    # --- what is lost ---

    def mark_lost(self, span: Span, why: Why, urgently: bool = False) -> None:
        """Believe `span` lost; output.py sends it again."""
        if span.sacked:
            return
        if not span.lost:
            span.lost = True
            self.lost_octets += span.end - span.start
            self.flight.pop(span, None)
            heappush(self._lost, span)
            if self.rate is not None and why not in PROBES:
                self.rate.lose(span)
        span.why = why
        span.urgently = urgently

    def unmark_lost(self) -> None:
        """Nothing was lost, after all."""
        self._lost.clear()
        self.lost_octets = 0
        for span in self.spans:
            span.lost = False
        self._fill_flight()

    def next_lost(self) -> Span | None:
        """The oldest span that is lost and still unacknowledged."""
        lost = self._lost
        while lost and not lost[0].lost:
            heappop(lost)
        return lost[0] if lost else None

    def split(self, mss: int, why: Why) -> None:
        """Believe lost what has more than `mss` octets of data, and cut it in parts that have
        not.
        """
        for whole in list(self.spans):
            rest, most = whole, mss + (whole.end - 1 == self.fin)
            if whole.end - whole.start > most and not whole.sacked:
                self.mark_lost(whole, why)
                while rest.end - rest.start > most:
                    rest = self.cut(rest, rest.start + mss)

    # --- inside ---

    def _fill_flight(self) -> None:
        """What is neither lost nor SACKed is out there, in the order in which it was sent."""
        out = [span for span in self.spans if not (span.lost or span.sacked)]
        self.flight = OrderedDict.fromkeys(sorted(out, key=lambda span: span.order))

    def _depart(self, span: Span) -> None:
        self.flight[span] = None
        self.sent_octets += span.end - span.start
        span.order = self.sent_octets

    def _leave(self, span: Span) -> None:
        """`span` has arrived: it is no longer lost, in flight or SACKed."""
        size = span.end - span.start
        if span.lost:
            span.lost = False
            self.lost_octets -= size
        elif span.sacked:
            self.sacked_octets -= size
            self.sacked_segments -= 1
        else:
            self.flight.pop(span, None)
