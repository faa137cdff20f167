"""A set of positions as disjoint ranges: what has arrived beyond a hole, here or at the peer."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Range = tuple[int, int]  # start, and the position behind the end


class Ranges:
    """Ranges in ascending order; those that touch are one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def __reversed__(self) -> Iterator[Range]:
        return zip(reversed(self._starts), reversed(self._ends), strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int) -> list[Range]:
        """Take in start..end; returns the parts of it that were not there yet."""
        starts, ends = self._starts, self._ends
        first = bisect_left(ends, start)  # the first range that reaches `start`
        last = bisect_right(starts, end)  # behind the last one that begins by `end`
        if first < last and starts[first] <= start and end <= ends[first]:
            return []
        fresh = []
        at = start
        for i in range(first, last):
            if at < starts[i]:
                fresh.append((at, starts[i]))
            at = max(at, ends[i])
        if at < end:
            fresh.append((at, end))
        if first < last:
            start, end = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last], ends[first:last] = [start], [end]
        return fresh

    def find(self, position: int) -> Range | None:
        """The range that holds `position`."""
        i = bisect_right(self._starts, position) - 1
        if i >= 0 and position < self._ends[i]:
            return self._starts[i], self._ends[i]
        return None

    def cut_before(self, position: int) -> None:
        """Forget what lies before `position`."""
        gone = bisect_right(self._ends, position)
        del self._starts[:gone], self._ends[:gone]
        if self._starts and self._starts[0] < position:
            self._starts[0] = position

    def cut_after(self, position: int) -> None:
        """Forget what lies behind `position`."""
        kept = bisect_left(self._starts, position)
        del self._starts[kept:], self._ends[kept:]
        if self._ends and self._ends[-1] > position:
            self._ends[-1] = position
