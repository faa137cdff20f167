"""What the peer sent: octets in order for the application, and ranges that arrived too early.

Positions as in wire/seq.py. What lies beyond a hole waits (RFC 9293 SHLD-31); a hole that fills
hands it over. Where segments disagree about an octet the first one wins. Here is also what our SACK
options report (RFC 2018, RFC 2883).
"""

from collections import deque
from itertools import islice

from .ranges import Range, Ranges

_REMEMBERED = 4  # ranges, those in which data arrived last first: no option holds more blocks


class Reassembly:
    """The receive buffer of one connection."""

    __slots__ = ("_latest", "_pieces", "_ready", "capacity", "duplicate", "ranges", "size", "taken")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # RCV.BUFF
        self.size = 0  # RCV.USER: octets in order, not yet read
        self.taken = 1  # the position up to which the application has read
        self.ranges = Ranges()  # what waits beyond a hole
        self.duplicate: Range | None = None  # arrived twice, and not reported yet
        self._ready: deque[bytes] = deque()
        self._pieces: dict[int, bytes] = {}  # what waits, by its start; no two overlap
        self._latest: list[int] = []

    @property
    def has_holes(self) -> bool:
        """True while data waits beyond a hole."""
        return bool(self._pieces)

    @property
    def worth_reporting(self) -> bool:
        """True when there is something to put into a SACK option."""
        return bool(self._pieces) or self.duplicate is not None

    def append(self, data: bytes) -> None:
        """Octets that come next."""
        self._ready.append(data)
        self.size += len(data)

    def insert(self, start: int, data: bytes, nxt: int) -> int:
        """Octets at `start`, no earlier than RCV.NXT = `nxt`; returns the new RCV.NXT."""
        if start == nxt and not self._pieces:
            self.append(data)
            return nxt + len(data)
        end = start + len(data)
        fresh = self.ranges.add(start, end)
        for left, right in fresh:
            self._pieces[left] = data[left - start : right - start]
        self.duplicate = _repeated(start, end, fresh) or self.duplicate
        while (piece := self._pieces.pop(nxt, None)) is not None:
            self.append(piece)
            nxt += len(piece)
        self.ranges.cut_before(nxt)
        if (block := self.ranges.find(start)) is not None:
            known = (at for at in self._latest if not block[0] <= at < block[1])
            self._latest = [start, *known][:_REMEMBERED]
        return nxt

    def cut(self, end: int) -> None:
        """Forget what waits beyond `end`: the stream ends there."""
        self.ranges.cut_after(end)
        for start in [start for start, data in self._pieces.items() if start + len(data) > end]:
            piece = self._pieces.pop(start)[: max(0, end - start)]
            if piece:
                self._pieces[start] = piece

    def blocks(self, most: int) -> tuple[Range, ...]:
        """Up to `most` SACK blocks: what arrived twice, then the latest arrivals' ranges first.

        What arrived twice is reported once (RFC 2883 4); if it lies in a waiting range that one
        comes next (4, rule 4). The order of the rest is that of RFC 2018 4.
        """
        positions = list(self._latest)
        first: list[Range] = []
        if most and self.duplicate is not None:
            first.append(self.duplicate)
            positions.insert(0, self.duplicate[0])
            self.duplicate = None
        waiting: dict[Range, None] = {}
        for position in positions:
            if (block := self.ranges.find(position)) is not None:
                waiting[block] = None
        if len(waiting) < most:  # as many as there are, and fit
            waiting.update(dict.fromkeys(islice(self.ranges, most)))
        return (*first, *waiting)[:most]

    def read(self, most: int) -> bytes:
        """Up to `most` octets for the application."""
        ready, taken = self._ready, []
        while ready and most > 0:
            chunk = ready.popleft()
            if len(chunk) > most:
                ready.appendleft(chunk[most:])
                chunk = chunk[:most]
            taken.append(chunk)
            most -= len(chunk)
        data = b"".join(taken)
        self.size -= len(data)
        self.taken += len(data)
        return data


def _repeated(start: int, end: int, fresh: list[Range]) -> Range | None:
    """The first part of start..end that is not in `fresh`."""
    for left, right in fresh:
        if start < left:
            return start, left
        start = right
    return (start, end) if start < end else None
