"""The arithmetic of positions: ranges [start, end) of many flows, in the order of time.

All flows lie on one axis, one after the other, each `width` wide, so that one running maximum, one
sort and one search serve them all. Nothing is done range by range.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST = 1 << 25  # overlaps that one may want to have listed; what a forged capture has is beyond it


def width(*positions: Ints) -> int:
    """What each flow needs of an axis on which these positions of all flows lie."""
    return 1 + 2 * max(int(np.abs(each).max(initial=0)) for each in positions)


def first_seen(flow: Ints, start: Ints, end: Ints, rows: Bools) -> Ints:
    """How many positions of each range no earlier range of the same flow covers, of these rows; 0
    for the others. Exact for any overlap: the ranges are cut at every start and end, and each piece
    belongs to the first range that covers it.
    """
    found = np.zeros(len(flow), np.int64)
    axis = flow[rows] * width(start, end)
    start, end = start[rows] + axis, end[rows] + axis
    # np.unique takes ten times as long.
    cuts = np.sort(np.append(start, end))
    cuts = cuts[np.diff(cuts, prepend=cuts[:1] - 1) != 0]
    first = _first_cover(np.searchsorted(cuts, start), np.searchsorted(cuts, end), len(cuts))
    pieces = np.flatnonzero(first < len(start))
    size = cuts[pieces + 1] - cuts[pieces]
    found[rows] = np.bincount(first[pieces], size, len(start))  # exact below 2^53
    return found


def _first_cover(low: Ints, high: Ints, count: int) -> Ints:
    """For each of `count` pieces: the first range [low, high) that covers it; len(low): none does.

    A range is covered by two, as long as the greatest power of two in its length; they are halved
    until they are pieces. So time and memory do not grow with how much the ranges overlap.
    """
    power = np.frexp(high - low)[1] - 1
    first = np.full(count, len(low))
    for each in range(power.max(initial=-1), -1, -1):
        half = 1 << each
        first[half:] = np.minimum(first[half:], first[:-half])
        these = np.flatnonzero(power == each)
        np.minimum.at(first, low[these], these)
        np.minimum.at(first, high[these] - half, these)
    return first


def covered(start: Ints, end: Ints, places: Ints) -> tuple[Ints, Ints]:
    """(range, place): which ranges hold which of these places, which are sorted."""
    return indices(np.searchsorted(places, start), np.searchsorted(places, end))


def indices(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """(owner, index): all of `range(low[i], high[i])`, each with its `i`; ValueError: too many."""
    count = np.maximum(high - low, 0)
    if (total := int(count.sum())) > MOST:
        raise ValueError(f"too many overlaps of segments, {total}: no such table of this log")
    owner = np.repeat(np.arange(len(low)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - low, count)


def before(risen: Ints, lowest: Ints | int) -> Ints:
    """A running maximum without the row itself; `lowest` before the first row of a flow."""
    return np.append(-1, risen)[:-1].clip(lowest)
