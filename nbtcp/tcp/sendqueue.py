"""What the application sent: octets waiting, and spans in flight.

A span is one segment as it was first sent: it remembers when and how often. The queue also counts
what is marked lost, so that nobody has to walk the spans to know how much is in flight.
"""

from collections import deque
from heapq import heappop, heappush

from ..why import Why


class Span:
    """One segment in flight, `start` up to but not including `end`."""

    __slots__ = ("end", "first_sent", "lost", "sent", "start", "times", "urgently", "why")

    def __init__(self, start: int, end: int, now: int) -> None:
        self.start = start
        self.end = end
        self.sent = now  # last transmission, ns
        self.first_sent = now
        self.times = 1  # transmissions
        self.lost: bool = False  # believed lost and not yet sent again
        self.why = Why.DATA  # once it was believed lost: what told us
        self.urgently = False  # if lost, to be sent again whatever cwnd says

    def __lt__(self, other: "Span") -> bool:
        return self.start < other.start


class SendQueue:
    """The send buffer and retransmission queue of one connection."""

    __slots__ = ("_lost", "base", "capacity", "data", "fin", "lost_octets", "spans")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()  # from position `base` on
        self.base = 1
        self.fin: int | None = None  # position of our FIN once the application has closed
        self.spans: deque[Span] = deque()
        self.lost_octets = 0
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
        return bytes(self.data[max(start - self.base, 0) : max(end - self.base, 0)])

    def acknowledge(self, una: int) -> list[Span]:
        """Remove what lies before `una`; returns the spans that are wholly acknowledged, oldest
        first.
        """
        done = []
        spans = self.spans
        while spans and spans[0].end <= una:
            span = spans.popleft()
            if span.lost:
                span.lost = False
                self.lost_octets -= span.end - span.start
            done.append(span)
        if spans and spans[0].start < una:
            if spans[0].lost:
                self.lost_octets -= una - spans[0].start
            spans[0].start = una
        if una > self.base:
            gone = min(una - self.base, len(self.data))
            del self.data[:gone]
            self.base += gone
        return done

    def mark_lost(self, span: Span, why: Why, urgently: bool = False) -> None:
        """Believe `span` lost; output.py sends it again."""
        if not span.lost:
            span.lost = True
            self.lost_octets += span.end - span.start
            heappush(self._lost, span)
        span.why = why
        span.urgently = urgently

    def next_lost(self) -> Span | None:
        """The oldest span that is lost and still unacknowledged."""
        lost = self._lost
        while lost and not lost[0].lost:
            heappop(lost)
        return lost[0] if lost else None

    def resent(self, span: Span, now: int) -> None:
        """`span` has just been sent again."""
        span.lost = False
        self.lost_octets -= span.end - span.start
        span.sent = now
        span.times += 1
