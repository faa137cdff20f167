"""`costs`: by room, what a call took."""

import hashlib

import pytest

import nbtcp
from nbtcp.costs import costs
from nbtcp.wire import ip


def test_the_shares_of_all_rooms_are_one() -> None:
    shares = costs(lambda: nbtcp.Simulation().transfer(100_000))
    assert shares.sum() == pytest.approx(1)
    assert shares.is_monotonic_decreasing
    assert {"tcp", "wire", "trace", "links", "runtime", "stack", "elsewhere"} <= set(shares.index)


def test_c_counts_for_who_calls_it() -> None:
    data = bytes(1_000_000)
    assert costs(lambda: ip.ones_sum(data)).index[0] == "wire"
    assert costs(lambda: hashlib.sha256(data).digest()).index[0] == "elsewhere"
