"""The receive buffer against a model that keeps every octet, and what its SACK blocks may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtcp.tcp.reassembly import Reassembly

STREAM = bytes(range(1, 200))  # position 1 is octet 1
SEGMENTS = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 30), st.integers(0, 40)), max_size=40
)


@pytest.mark.slow
@given(SEGMENTS)
def test_any_order_of_segments_gives_the_stream(segments: list[tuple[int, int, int]]) -> None:
    reassembly, nxt, read = Reassembly(1000), 1, b""
    arrived: set[int] = set()
    last = 0
    for at, length, most in segments:
        start, end = max(at, nxt), at + length
        if end <= nxt:
            continue
        nxt = reassembly.insert(start, STREAM[start - 1 : end - 1], nxt)
        arrived |= set(range(start, end))
        last = start
        assert nxt == next(at for at in range(1, 300) if at not in arrived)
        beyond = {at for at in arrived if at > nxt}
        assert {at for a, b in reassembly.ranges for at in range(a, b)} == beyond
        assert reassembly.has_holes == bool(beyond)
        check_blocks(reassembly, arrived, nxt, last)
        read += reassembly.read(most)
        assert read == STREAM[: len(read)]
        assert len(read) + reassembly.size == nxt - 1
    assert read + reassembly.read(1000) == STREAM[: nxt - 1]


def check_blocks(reassembly: Reassembly, arrived: set[int], nxt: int, last: int) -> None:
    """RFC 2018 4: true, distinct, as many as fit, the one that holds the last arrival first."""
    again, reassembly.duplicate = reassembly.duplicate, None
    blocks = reassembly.blocks(3)
    assert len(set(blocks)) == len(blocks) == min(3, len(reassembly.ranges))
    assert set(blocks) <= set(reassembly.ranges)
    assert all(set(range(left, right)) <= arrived for left, right in blocks)
    if last > nxt:
        assert blocks[0][0] <= last < blocks[0][1]
    reassembly.duplicate = again
    if again is not None:  # reported first, and once
        assert reassembly.blocks(3)[0] == again
        assert reassembly.duplicate is None


def test_where_segments_disagree_the_first_wins() -> None:
    reassembly = Reassembly(1000)
    reassembly.insert(11, b"A" * 10, 1)
    reassembly.insert(6, b"B" * 20, 1)
    reassembly.insert(1, b"C" * 10, 1)
    assert reassembly.read(100) == b"C" * 5 + b"B" * 5 + b"A" * 10 + b"B" * 5


def test_cut_forgets_what_lies_behind_the_end_of_the_stream() -> None:
    reassembly = Reassembly(1000)
    reassembly.insert(11, b"A" * 10, 1)
    reassembly.insert(31, b"B" * 10, 1)
    reassembly.cut(15)
    assert list(reassembly.ranges) == [(11, 15)]
    assert reassembly.insert(1, b"C" * 10, 1) == 15
    assert reassembly.read(100) == b"C" * 10 + b"A" * 4
