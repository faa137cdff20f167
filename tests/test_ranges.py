"""Ranges against a set of positions, which is the same thing made slow and plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtcp.tcp.ranges import Ranges

SIZE = 40
PAIRS = st.tuples(st.integers(0, SIZE), st.integers(1, 12)).map(lambda p: (p[0], p[0] + p[1]))
CUTS = st.integers(-2, SIZE + 14)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), PAIRS),
        st.tuples(st.just("before"), CUTS),
        st.tuples(st.just("after"), CUTS),
    ),
    max_size=25,
)


def as_ranges(positions: set[int]) -> list[tuple[int, int]]:
    """Positions as the longest ranges that hold them, in ascending order."""
    starts = sorted(at for at in positions if at - 1 not in positions)
    ends = sorted(at + 1 for at in positions if at + 1 not in positions)
    return list(zip(starts, ends, strict=True))


@pytest.mark.slow
@given(CALLS)
def test_any_calls_give_what_a_set_gives(calls: list[tuple[str, object]]) -> None:
    ranges, model = Ranges(), set[int]()
    for what, argument in calls:
        match what, argument:
            case "add", (int(start), int(end)):
                fresh = set(range(start, end)) - model
                model |= fresh
                assert ranges.add(start, end) == as_ranges(fresh)
            case "before", int(position):
                ranges.cut_before(position)
                model = {at for at in model if at >= position}
            case "after", int(position):
                ranges.cut_after(position)
                model = {at for at in model if at < position}
        assert list(ranges) == as_ranges(model)
        assert len(ranges) == len(as_ranges(model))
        for position in range(-1, SIZE + 15):
            around = [r for r in as_ranges(model) if r[0] <= position < r[1]]
            assert ranges.find(position) == (around[0] if around else None)


def test_add_what_touches_becomes_one_range() -> None:
    ranges = Ranges()
    assert ranges.add(10, 20) == [(10, 20)]
    assert ranges.add(30, 40) == [(30, 40)]
    assert ranges.add(20, 30) == [(20, 30)]
    assert list(ranges) == [(10, 40)]


def test_add_what_is_there_already_gives_nothing_new() -> None:
    ranges = Ranges()
    ranges.add(10, 20)
    assert ranges.add(10, 20) == []
    assert ranges.add(12, 15) == []


def test_add_across_several_ranges_gives_the_gaps() -> None:
    ranges = Ranges()
    ranges.add(10, 20)
    ranges.add(30, 40)
    ranges.add(50, 60)
    assert ranges.add(5, 55) == [(5, 10), (20, 30), (40, 50)]
    assert list(ranges) == [(5, 60)]
