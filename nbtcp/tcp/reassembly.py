"""What the peer sent: octets in order for the application, and ranges that arrived too early.

Positions as in wire/seq.py. Ranges beyond a hole are kept apart, sorted, never overlapping (RFC
9293 SHLD-31); a hole that fills hands them over. Where segments disagree about an octet the first
one wins.
"""

from bisect import bisect_left
from collections import deque


class Reassembly:
    """The receive buffer of one connection."""

    __slots__ = ("_ready", "_starts", "_waiting", "capacity", "size")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # RCV.BUFF
        self.size = 0  # RCV.USER: octets in order, not yet read
        self._ready: deque[bytes] = deque()
        self._starts: list[int] = []  # start positions of _waiting
        self._waiting: list[bytes] = []

    @property
    def has_holes(self) -> bool:
        """True while data waits beyond a hole."""
        return bool(self._starts)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The waiting ranges as (start, end)."""
        pairs = zip(self._starts, self._waiting, strict=True)
        return [(start, start + len(data)) for start, data in pairs]

    def append(self, data: bytes) -> None:
        """Octets that come next."""
        self._ready.append(data)
        self.size += len(data)

    def insert(self, start: int, data: bytes, nxt: int) -> int:
        """Octets at `start`, no earlier than RCV.NXT = `nxt`; returns the new RCV.NXT."""
        if start > nxt:
            self._hold(start, data)
            return nxt
        self.append(data)
        nxt += len(data)
        while self._starts and self._starts[0] <= nxt:
            start, data = self._starts.pop(0), self._waiting.pop(0)
            if fresh := data[nxt - start :]:
                self.append(fresh)
                nxt += len(fresh)
        return nxt

    def cut(self, end: int) -> None:
        """Forget what waits beyond `end`: the stream ends there."""
        while self._starts and self._starts[-1] + len(self._waiting[-1]) > end:
            start, data = self._starts.pop(), self._waiting.pop()
            if start < end:
                self._starts.append(start)
                self._waiting.append(data[: end - start])

    def holds(self, start: int, end: int) -> bool:
        """True when every octet of start..end already waits beyond a hole."""
        return any(left <= start and end <= right for left, right in self.ranges)

    def read(self, most: int) -> bytes:
        """Up to `most` octets for the application."""
        ready = self._ready
        if len(ready) == 1 and self.size <= most:
            self.size = 0
            return ready.popleft()
        taken: list[bytes] = []
        room = most
        while ready and room > 0:
            chunk = ready[0]
            if len(chunk) > room:
                ready[0] = chunk[room:]
                chunk = chunk[:room]
            else:
                ready.popleft()
            taken.append(chunk)
            room -= len(chunk)
        data = b"".join(taken)
        self.size -= len(data)
        return data

    def _hold(self, start: int, data: bytes) -> None:
        """Keep data that came too early: the parts of it which no waiting range covers yet."""
        end = start + len(data)
        at = bisect_left(self._starts, start)
        position = start
        if at:  # the range before may reach into this one
            position = max(start, self._starts[at - 1] + len(self._waiting[at - 1]))
        while position < end:
            next_start = self._starts[at] if at < len(self._starts) else end
            if position < next_start:
                piece = data[position - start : min(next_start, end) - start]
                self._starts.insert(at, position)
                self._waiting.insert(at, piece)
                at += 1
            if next_start >= end:
                return
            position = next_start + len(self._waiting[at])
            at += 1
