"""The receiving side: reassembly, acknowledgments and the window (RFC 9293 3.8.6, RFC 5681 4.2)."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import NANOSECOND, Peer, content, established, twice  # noqa: F401

from nbtcp import Config, ConfigError, State
from nbtcp.tcp.reassembly import Reassembly

steady = settings(deadline=None, derandomize=True, database=None)


# --- reassembly ---


@pytest.mark.slow
@settings(steady, max_examples=60)
@given(st.data())
def test_reassembly_is_the_stream_whatever_the_order_and_overlap(data: st.DataObject) -> None:
    """Against a model that keeps single octets; no octet is held twice."""
    reassembly, nxt, taken = Reassembly(1000), 1, 1
    have: set[int] = set()
    for _ in range(data.draw(st.integers(1, 40))):
        start = data.draw(st.integers(nxt, nxt + 60))
        end = data.draw(st.integers(start + 1, start + 40))
        again = sorted(have & set(range(start, end)))
        nxt = reassembly.insert(start, content(start, end), nxt)
        have |= set(range(start, end))
        expected = next(at for at in range(1, 5000) if at not in have)
        assert nxt == expected
        assert reassembly.size == nxt - taken
        repeated, reassembly.duplicate = reassembly.duplicate, None
        assert (repeated is None) == (not again)
        if repeated is not None:  # RFC 2883 4: the first part that came twice
            assert repeated[0] == again[0]
            assert set(range(*repeated)) <= set(again)
        ranges = list(reassembly.ranges)
        assert {at for left, right in ranges for at in range(left, right)} == {
            at for at in have if at >= nxt
        }
        assert sorted(ranges) == ranges
        assert all(a[1] < b[0] for a, b in pairwise(ranges))
        assert reassembly.has_holes == bool(ranges)
        if data.draw(st.booleans()):
            most = data.draw(st.integers(0, 100))
            read = reassembly.read(most)
            assert read == content(taken, min(nxt, taken + most))
            taken += len(read)
            have |= set(range(1, taken))
    assert reassembly.read(1 << 30) == content(taken, nxt)


def test_reassembly_first_octet_wins_where_segments_disagree() -> None:
    reassembly = Reassembly(100)
    assert reassembly.insert(5, b"AAA", 1) == 1
    assert reassembly.insert(3, b"bbbbbbb", 1) == 1
    assert reassembly.insert(1, b"cc", 1) == 10
    assert reassembly.read(100) == b"ccbbAAAbb"


@pytest.mark.slow
@settings(steady, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 700)), max_size=25))
def test_segments_in_any_order_deliver_the_stream(cuts: list[tuple[int, int]]) -> None:
    """RFC 9293 SHLD-31: segments with higher beginning sequence numbers are held."""
    peer = established(receive_buffer=65535)
    have: set[int] = set()
    for start, length in [*((1 + a, b) for a, b in cuts), (1, 300), (1, 900), (1, 3700)]:
        peer.sends(f"{start}:{start + length}")
        have |= set(range(start, start + length))
        read_up_to = next(at for at in range(1, 5000) if at not in have)
        assert peer.conn.tcb.rcv.nxt == read_up_to
        peer.app_reads()
    assert peer.conn.tcb.rcv.nxt >= 3701


# --- delayed acknowledgments (RFC 9293 3.8.6.3, RFC 5681 4.2) ---


def receiving(**options: int) -> Peer:
    """The peer is about to send; a first full-sized segment of 1000 octets has told its size."""
    peer = established(receive_buffer=60_000, **options)
    peer.sends("1:1001")
    peer.wait(1)
    peer.sent()
    return peer


def test_single_segment_is_acknowledged_after_the_delay() -> None:
    """SHLD-18, MUST-40."""
    peer = receiving()
    peer.sends("1001:2001")
    peer.expect_after(0.04, ". 1:1(0) ack 2001 why delayed-ack")


@pytest.mark.parametrize("delay", [0.2, 0.499])
def test_delay_is_configurable(delay: float) -> None:
    peer = established(receive_buffer=60_000, delayed_ack=delay)
    peer.sends("1:1001")
    peer.expect_after(delay, ". 1:1(0) ack 1001 why delayed-ack")


def test_delay_of_half_a_second_is_refused() -> None:
    """RFC 9293 MUST-40: less than 0.5 s."""
    with pytest.raises(ConfigError, match=r"delayed_ack=0\.5 must lie between 0 and 0\.499"):
        Config(delayed_ack=0.5)


def test_delay_of_zero_acknowledges_at_once() -> None:
    peer = established(receive_buffer=60_000, delayed_ack=0)
    peer.sends("1:101")
    peer.expect(". 1:1(0) ack 101")


def test_every_second_full_sized_segment_is_acknowledged_at_once() -> None:
    """SHLD-19."""
    peer = receiving()
    for start in range(1001, 9001, 2000):
        peer.sends(f"{start}:{start + 1000}")
        peer.expect()
        peer.sends(f"{start + 1000}:{start + 2000}")
        peer.expect(f". 1:1(0) ack {start + 2000} why ack")
    assert peer.stack.deadline() is None


def test_small_segments_are_counted_by_octets() -> None:
    """SHLD-19: 2*RMSS octets of new data."""
    peer = receiving()
    for start in range(1001, 2901, 100):
        peer.sends(f"{start}:{start + 100}")
    peer.expect()
    peer.sends("2901:3001")
    peer.expect(". 1:1(0) ack 3001")


def test_delay_begins_with_the_first_segment_not_the_last() -> None:
    """MUST-40: an ACK should not be excessively delayed."""
    peer = receiving()
    peer.sends("1001:1101")
    peer.wait(0.03)
    peer.sends("1101:1201")
    peer.expect_after(0.01, ". 1:1(0) ack 1201 why delayed-ack")


def test_data_that_we_send_carries_the_acknowledgment() -> None:
    """RFC 9293 3.10.7.4, seventh: piggybacked if possible."""
    peer = receiving()
    peer.sends("1001:1501")
    peer.app_writes(10)
    peer.expect("P. 1:11(10) ack 1501")
    peer.acks(11)
    peer.wait(1)
    peer.expect()


def test_segments_that_arrive_together_are_acknowledged_together() -> None:
    """MUST-58, MUST-59."""
    peer = receiving()
    with peer.batch():
        for start in range(1001, 7001, 1000):
            peer.sends(f"{start}:{start + 1000}")
    peer.expect(". 1:1(0) ack 7001")


def test_every_segment_out_of_order_is_acknowledged_at_once() -> None:
    """RFC 5681 4.2, RFC 9293 MAY-13: a duplicate ACK for each, also when they come together."""
    peer = receiving()
    peer.sends("2001:3001")
    peer.expect(". 1:1(0) ack 1001 why duplicate-ack")
    with peer.batch():
        peer.sends("3001:4001")
        peer.sends("4001:5001")
    peer.expect(*[". 1:1(0) ack 1001 why duplicate-ack"] * 2)


def test_duplicate_acks_have_the_same_window() -> None:
    """RFC 5681 2 (e): else the peer would not count them."""
    peer = receiving()
    for start in range(2001, 7001, 1000):
        peer.sends(f"{start}:{start + 1000}")
    (window,) = {sent.split()[5] for sent in peer.sent()}
    assert int(window) == peer.conn.tcb.rcv.wnd


def test_segment_that_fills_a_hole_is_acknowledged_at_once() -> None:
    """RFC 5681 4.2: all or part of a gap; what lay behind it was held (RFC 9293 SHLD-31)."""
    peer = receiving()
    peer.sends("2001:3001")
    peer.sends("4001:5001")
    peer.sent()
    peer.sends("1001:1501")
    peer.expect(". 1:1(0) ack 1501")
    peer.sends("1501:2001")
    peer.expect(". 1:1(0) ack 3001")
    peer.sends("3001:4001")
    peer.expect(". 1:1(0) ack 5001")
    assert peer.stack.deadline() is None


def test_segment_that_fills_a_hole_in_the_same_batch_is_acknowledged_once() -> None:
    """MUST-58: the acknowledgment of all says more than the duplicates."""
    peer = receiving()
    with peer.batch():
        peer.sends("3001:4001")
        peer.sends("2001:3001")
        peer.sends("1001:2001")
    peer.expect(". 1:1(0) ack 4001 why ack")


def test_duplicate_data_is_acknowledged_at_once() -> None:
    """RFC 9293 3.10.7.4, first (L-7): the peer has not got our ACK."""
    peer = receiving()
    assert peer.sends("1:1001") == "duplicate"
    peer.expect(". 1:1(0) ack 1001 why duplicate-ack")
    peer.sends("3001:4001")
    peer.sent()
    assert peer.sends("3001:4001") == "duplicate"  # waits beyond the hole
    peer.expect(". 1:1(0) ack 1001 why duplicate-ack")


def test_acknowledgments_are_not_acknowledged() -> None:
    """RFC 9293 3.10.7.4: an ACK that occupies no sequence space calls for no answer."""
    peer = receiving()
    peer.app_writes(100)
    peer.sent()
    peer.acks(101)
    peer.acks(101)
    peer.acks(101, win=1000)
    peer.expect()


def test_header_prediction_changes_nothing() -> None:
    """What prediction.py does for a segment in order is what the steps of arrives.py do."""
    logs = []
    for unpredictable in (False, True):
        peer = receiving()
        for start in range(1001, 8001, 500):
            # An urgent flag that nobody looks at sends a segment the long way.
            peer.sends(f"{'PU.' if unpredictable else 'P.'} {start}:{start + 500}")
            peer.app_reads(300)
            peer.wait(0.01)
        logs.append(peer.sent())
    assert logs[0] == logs[1]


# --- the window (RFC 9293 3.8.6) ---


def test_window_says_what_is_free() -> None:
    """RFC 9293 3.8.6: RCV.WND = RCV.BUFF - RCV.USER."""
    peer = established(receive_buffer=10_000, delayed_ack=0)
    peer.sends("1:1001")
    peer.expect(". 1:1 ack 1001 win 9000")
    peer.sends("1001:2001")
    peer.expect(". 1:1 ack 2001 win 8000")


def test_window_moves_with_the_reader() -> None:
    """RFC 9293 3.8.6.2.2: an ACK carries the news when the edge may move by an MSS."""
    peer = established(receive_buffer=10_000, delayed_ack=0)
    for start in (1, 1001):
        peer.sends(f"{start}:{start + 1000}")
        peer.app_reads()
    peer.expect(". 1:1 ack 1001 win 9000", ". 1:1 ack 2001 win 8000")
    peer.sends("2001:3001")
    peer.expect(". 1:1 ack 3001 win 9000")  # 2000 octets read are more than 1460


def test_small_reads_do_not_move_the_edge_in_small_steps() -> None:
    """MUST-39, L-23: fixed until BUFF - USER - WND >= min(RCV.BUFF / 2, Eff.snd.MSS)."""
    peer = established(receive_buffer=10_000, delayed_ack=0, mss=1000)
    for start in range(1, 10_001, 1000):
        peer.sends(f"{start}:{start + 1000}")
    assert peer.sent()[-1].startswith(". 1:1(0) ack 10001 win 0 ")
    for _ in range(9):
        peer.app_reads(100)
    peer.app_reads(99)
    peer.expect()
    peer.app_reads(1)
    peer.expect(". 1:1 ack 10001 win 1000 why window-update")


@pytest.mark.parametrize("size", [10, 99])
def test_small_buffer_opens_by_half(size: int) -> None:
    """MUST-39, where the buffer is smaller than two segments (L-23)."""
    peer = established(receive_buffer=size, delayed_ack=0)
    peer.sends(f"1:{size + 1}")
    peer.expect(f". 1:1 ack {size + 1} win 0")
    peer.app_reads(size // 2 - 1)
    peer.expect()
    peer.app_reads(1)
    peer.expect(f". 1:1 ack {size + 1} win {size // 2} why window-update")


def test_small_segments_and_small_reads_keep_the_edge_in_place() -> None:
    """MUST-39, L-23: even if data is received from the network in small segments."""
    peer = established(receive_buffer=10_000, delayed_ack=0, mss=1000)
    edges = []
    for start in range(1, 3001, 10):
        peer.sends(f"{start}:{start + 10}")
        peer.app_reads()
        edges += [int(sent.split()[3]) + int(sent.split()[5]) for sent in peer.sent()]
    steps = [b - a for a, b in pairwise(edges)]
    assert all(step == 0 or step >= 1000 for step in steps)


def test_reading_what_was_waiting_tells_the_peer() -> None:
    """RFC 9293 3.8.6: a window update, once a good part has become free."""
    peer = established(receive_buffer=10_000)
    for start in range(1, 8001, 1000):
        peer.sends(f"{start}:{start + 1000}")
    peer.sent()
    peer.app_reads()
    peer.expect(". 1:1 ack 8001 win 10000 why window-update")


def test_without_scaling_a_large_buffer_gives_no_more_window_updates() -> None:
    """RFC 9293 3.8.6.2.2, SHLD-18: the field ends at 65535, and reading does not move it."""
    peer = established(passive=True, receive_buffer=1 << 20)
    for start in range(1, 40_001, 2000):
        peer.sends(f"{start}:{start + 1000}")
        peer.app_reads()
        peer.expect()
        peer.sends(f"{start + 1000}:{start + 2000}")
        peer.app_reads()
        peer.expect(f". 1:1 ack {start + 2000} win 65535 why ack")


def test_what_the_syn_could_not_say_is_no_window_update() -> None:
    """RFC 9293 3.8.6.2.2: its window ends at 65535 of a buffer twice as large, and a small request
    is answered with the data alone, which tells the rest.
    """
    peer = established(passive=True, wscale=7, receive_buffer=1 << 17)
    peer.sends("1:101")
    peer.app_reads()
    peer.expect()
    peer.app_writes(200)
    peer.expect("P. 1:201 ack 101 win 32768 why data")  # four octets each


def test_reading_after_the_fin_tells_nobody() -> None:
    """No more will come, so no window matters."""
    peer = established(receive_buffer=10_000)
    peer.sends("F. 1:9001(9000) ack 1")
    peer.sent()
    peer.app_reads()
    peer.expect()
    assert peer.state is State.CLOSE_WAIT


def test_zero_window_is_offered_and_probes_are_answered() -> None:
    """RFC 9293 3.8.6.1 (L-24): an acknowledgment showing RCV.NXT and the window, zero."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("1:1001")
    peer.expect(". 1:1 ack 1001 win 0")
    for _ in range(20):  # MAY-8: indefinitely
        assert peer.sends("1001:1002") == "window-closed"
        peer.expect(". 1:1 ack 1001 win 0")
        peer.wait(60)
    peer.sends(". 1000:1000")  # as Linux probes
    peer.expect(". 1:1 ack 1001 win 0")
    peer.app_reads()
    peer.expect(". 1:1 ack 1001 win 1000 why window-update")
    peer.sends("1001:1002")
    peer.expect(". 1:1 ack 1002 win 999")


def test_zero_window_probes_are_answered_while_somebody_forges_syns() -> None:
    """RFC 9293 3.8.6.1 (L-24); RFC 5961 7 limits challenge ACKs, not what the peer lives by."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("1:1001")
    for _ in range(12):
        peer.sends("S 500000:500000")
    peer.sent()
    peer.sends(". 1000:1000")  # as Linux probes
    assert peer.sent()[-1].startswith(". 1:1(0) ack 1001 win 0 ")


def test_zero_window_still_takes_acknowledgments() -> None:
    """RFC 9293 MUST-66, 3.10.7.4: special allowance for valid ACKs (L-28)."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.app_writes(100)
    peer.sends("1:1001")
    peer.sent()
    peer.sends("1001:1002 ack 101")
    assert peer.conn.tcb.snd.una == 101
    assert peer.conn.tcb.rcv.nxt == 1001


def test_shut_window_reopens_though_the_update_is_lost() -> None:
    """RFC 9293 3.8.6.1: the peer's next probe learns of it."""
    peer = established(receive_buffer=1000, delayed_ack=0)
    peer.sends("1:1001")
    peer.app_reads()
    peer.sent()  # and lost
    peer.sends("1001:1002")
    peer.expect(". 1:1 ack 1002 win 999")


@pytest.mark.parametrize("wscale", [None, 0])
@pytest.mark.parametrize("buffer", [1000, 65535, 1 << 18, 1 << 21])
@pytest.mark.parametrize("seed", range(3))
def test_right_edge_never_moves_left(wscale: int | None, buffer: int, seed: int) -> None:
    """SHLD-14, L-19, RFC 7323 2.4: whatever comes and is read. The peer checks every segment."""
    rng = random.Random(seed)
    peer = established(receive_buffer=buffer, wscale=wscale)
    rcv = peer.conn.tcb.rcv
    for _ in range(300):
        if rng.random() < 0.6:
            room = peer.edge - rcv.nxt  # all that was ever offered, and no more
            ahead = rng.choice([0, 0, 0, rng.randint(0, room)])
            length = min(room - ahead, rng.choice([1, 7, 536, 1460, rng.randint(1, 1460)]))
            peer.sends(f"{rcv.nxt + ahead}:{rcv.nxt + ahead + length}")
        elif rng.random() < 0.5:
            peer.app_reads(rng.choice([1, 10, 1000, 5000, 1 << 30]))
        else:
            peer.wait(0.04 * rng.random())


def test_what_was_offered_is_taken() -> None:
    """RFC 7323 2.4: the receiver MUST honour what was in window for any ACK it sent."""
    peer = established(receive_buffer=1 << 18, wscale=0, delayed_ack=0)
    rcv = peer.conn.tcb.rcv
    while (room := peer.edge - rcv.nxt) > 0:
        before = rcv.nxt
        length = min(room, 1001)
        peer.sends(f"{before}:{before + length}")
        assert rcv.nxt == before + length


def test_acknowledgment_at_the_limit_of_the_delay_is_exact() -> None:
    peer = receiving()
    peer.sends("1001:1101")
    assert peer.stack.deadline() == peer.now + 40_000_000
    peer.wait(0.04 - NANOSECOND)
    peer.expect()


# --- the receive buffer grows ---


def test_autotuned_buffer_doubles_while_the_peer_fills_the_window_quickly() -> None:
    """Begins at 128 KiB, up to the setting; the window that is offered grows with it."""
    peer = established(receive_buffer=500_000, wscale=7, rtt=0.1)
    capacities = [peer.conn.reassembly.capacity]
    for _ in range(6):
        edge = peer.edge
        while peer.nxt < edge:
            peer.sends(f". {peer.nxt}:{peer.nxt + 1000}")
            peer.app_reads()
        peer.wait(0.1)
        capacities.append(peer.conn.reassembly.capacity)
    assert capacities[0] == 128 << 10
    assert sorted({*capacities}) == [128 << 10, 256 << 10, 500_000]
    assert capacities == sorted(capacities)
    assert peer.edge - peer.nxt > 400_000


def test_autotuned_buffer_stays_while_the_peer_is_slow() -> None:
    """More than two round trips for a window: something else limits the peer."""
    peer = established(receive_buffer=500_000, wscale=7, rtt=0.1)
    for _ in range(600):
        peer.sends(f". {peer.nxt}:{peer.nxt + 1000}")
        peer.wait(0.01)
        peer.app_reads()
    assert peer.conn.reassembly.capacity == 128 << 10


def test_autotuned_buffer_stays_while_nobody_reads() -> None:
    """The window closes: a buffer that holds what nobody wants is large enough."""
    peer = established(receive_buffer=500_000, wscale=7, rtt=0.1)
    for _ in range(200):
        peer.sends(f". {peer.nxt}:{peer.nxt + 1000}")
    peer.wait(1)
    assert peer.conn.reassembly.capacity == 128 << 10
    assert peer.edge == 1 + (128 << 10)


@pytest.mark.parametrize(("settings", "size"), [({"autotune": False}, 500_000), ({}, 60_000)])
def test_buffer_that_is_not_tuned_has_its_size_at_once(
    settings: dict[str, bool], size: int
) -> None:
    peer = established(receive_buffer=size, **settings)
    assert peer.conn.reassembly.capacity == size
