"""The sending side: Nagle, silly windows, cwnd, zero windows (RFC 9293 3.7.4, 3.8.6; RFC 5681)."""

import pytest
from peer import SECOND, Peer, established, twice  # noqa: F401

from nbtcp import Path as NetworkPath
from nbtcp import Simulation, State


def segments(start: int, number: int, size: int = 1000) -> list[str]:
    """So many full-sized segments, as `expect` wants them."""
    return [f"{at}:{at + size}({size})" for at in range(start, start + number * size, size)]


# --- segments and PSH ---


def test_data_is_cut_into_full_sized_segments() -> None:
    """RFC 9293 SHLD-28; PSH on the last one that the buffer held (MUST-61)."""
    peer = established(mss=1000)
    peer.app_writes(2500)
    peer.expect(". 1:1001(1000) ack 1", ". 1001:2001(1000) ack 1", "P. 2001:2501(500) ack 1")


def test_psh_stands_where_the_buffer_ended() -> None:
    """RFC 9293 MUST-61: not where the window or cwnd cut the data."""
    peer = established(mss=1000, cwnd=2000)
    peer.app_writes(3000)
    peer.expect(". 1:1001", ". 1001:2001")
    peer.acks(1001)
    peer.expect("P. 2001:3001")


def test_writes_while_nothing_can_leave_are_collected() -> None:
    """RFC 9293 SHLD-27, MAY-16: successive SENDs fill one segment."""
    peer = established(mss=1000, cwnd=1000)
    peer.app_writes(1000)
    for _ in range(20):
        peer.app_writes(60)
    peer.expect("P. 1:1001(1000)")
    peer.acks(1001)
    peer.expect(". 1001:2001(1000)", "P. 2001:2201(200)")


def test_send_takes_what_the_buffer_holds() -> None:
    """RFC 9293 3.10.2: insufficient resources are a short count here."""
    peer = established(mss=1000, cwnd=2000, send_buffer=5000)
    assert peer.app_writes(6000) == 5000
    assert peer.app_writes(1) == 0
    peer.acks(2001)
    assert peer.app_writes(6000) == 2000


# --- Nagle (RFC 9293 3.7.4, A.3) ---


def test_nagle_holds_a_small_segment_while_a_small_one_is_unacknowledged() -> None:
    """SHLD-7."""
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.app_writes(10)
    peer.app_writes(10)
    peer.expect("P. 1:11(10)")
    peer.acks(11)
    peer.expect("P. 11:31(20)")


def test_nagle_does_not_hold_a_full_sized_segment() -> None:
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.app_writes(1000)
    peer.expect("P. 1:11(10)", "P. 11:1011(1000)")


def test_nagle_as_minshall_has_it_waits_only_for_a_small_segment() -> None:
    """A.3 (L-29): after full-sized segments a small one may leave at once."""
    peer = established(mss=1000)
    peer.app_writes(2010)
    peer.expect(". 1:1001", ". 1001:2001", "P. 2001:2011(10)")
    peer.app_writes(10)
    peer.expect()
    peer.acks(2001)
    peer.expect()
    peer.acks(2011)
    peer.expect("P. 2011:2021(10)")


def test_nagle_does_not_hold_what_comes_before_the_fin() -> None:
    """Nothing more will come to fill the segment."""
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.app_writes(10)
    peer.app_shuts_down()
    peer.expect("P. 1:11(10)", "FP. 11:21(10)")


def test_nagle_does_not_hold_a_retransmission() -> None:
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.app_writes(10)
    peer.sent()
    peer.expect_after(0.2, "1:11(10) why timeout")


def test_nagle_can_be_turned_off() -> None:
    """MUST-17."""
    peer = established(mss=1000, nagle=False)
    peer.app_writes(10)
    peer.app_writes(20)
    peer.expect("P. 1:11(10)", "P. 11:31(20)")


# --- the peer's window and silly-window avoidance (RFC 9293 3.8.6.2.1) ---


def test_no_more_than_the_window_is_sent() -> None:
    peer = established(mss=1000, win=3000, cwnd=10_000)
    peer.app_writes(10_000)
    peer.expect(*segments(1, 3))
    peer.acks(1001)
    peer.expect(*segments(3001, 1))
    peer.acks(4001, win=2000)
    peer.expect(*segments(4001, 2))


def test_rule_1_a_maximum_sized_segment_is_sent_also_while_others_are_out() -> None:
    """RFC 9293 MUST-38, L-22."""
    peer = established(mss=1000, win=2500)
    peer.app_writes(10_000)
    peer.expect(*segments(1, 2))  # not the 500 octets that also fit
    peer.acks(1, win=2999)
    peer.expect()
    peer.acks(1, win=3000)
    peer.expect(*segments(2001, 1))


def test_rule_2_all_that_is_queued_is_sent_when_it_fits() -> None:
    """RFC 9293 L-22, MUST-60."""
    peer = established(mss=1000, win=10_000)
    peer.acks(1, win=10)
    peer.app_writes(10)
    peer.expect("P. 1:11(10)")


def test_rule_3_half_of_the_largest_window_is_sent_when_nothing_is_out() -> None:
    """Fs = 1/2 (L-22)."""
    peer = established(mss=1000, win=1200)
    peer.acks(1, win=600)
    peer.app_writes(5000)
    peer.expect(". 1:601(600)")
    peer.acks(601, win=599)
    peer.expect()


def test_rule_3_without_nagle_half_of_the_largest_window_is_sent_while_others_are_out() -> None:
    """RFC 9293 3.8.6.2.1: [SND.NXT = SND.UNA and] is imposed by the Nagle algorithm (L-22)."""
    peer = established(mss=1000, win=1200, nagle=False)
    peer.acks(1, win=600)
    peer.app_writes(5000)
    peer.expect(". 1:601(600)")
    peer.acks(1, win=1199)
    peer.expect()
    peer.acks(1, win=1200)
    peer.expect(". 601:1201(600)")


def test_rule_4_the_override_timeout_sends_what_fits() -> None:
    """Between 0.1 and 1 s (L-22, MUST-60)."""
    peer = established(mss=1000, win=10_000)
    peer.acks(1, win=100)
    peer.app_writes(5000)
    peer.expect()
    peer.expect_after(0.2, ". 1:101(100) why sws-override")


def test_rule_4_the_override_timeout_does_not_grow_while_data_flows() -> None:
    """RFC 9293 3.8.6.2.1: in the range 0.1 - 1.0 seconds; only probes of zero windows back off."""
    peer = established(mss=1000, win=10_000)
    peer.acks(1, win=100)
    peer.app_writes(5000)
    for start in range(1, 1001, 100):
        before = peer.now
        while not (sent := peer.sent()):
            peer.wait(0.01)
            assert peer.now - before <= SECOND, "the override timeout is longer than a second"
        (segment,) = sent
        assert segment.startswith(f". {start}:{start + 100}(100)")
        peer.acks(start + 100, win=100)


def test_rule_4_the_override_timeout_is_at_most_a_second() -> None:
    """RFC 9293 3.8.6.2.1; also where the RTO is longer."""
    peer = established(mss=1000, win=10_000, rtt=2, initial_rto=3)
    peer.acks(1, win=100)
    peer.app_writes(5000)
    peer.wait(1)
    peer.expect(". 1:101(100) why sws-override")


def test_rule_4_the_override_timeout_is_not_that_of_the_probes_before() -> None:
    """RFC 9293 3.8.6.2.1: the window opens a little after it was closed for long."""
    peer = established(mss=1000, win=10_000)
    peer.acks(1, win=0)
    peer.app_writes(5000)
    for octet in range(1, 9):  # 0.2, 0.4, ... 25.6 s
        while not peer.sent():
            peer.wait(0.1)
        peer.acks(octet + 1, win=0)
    peer.acks(9, win=100)
    peer.expect()
    peer.expect_after(peer.conn.rtt.rto / SECOND, ". 9:109(100) why sws-override")


def test_peer_shrinking_its_window_stops_new_data_only() -> None:
    """MUST-34, SHLD-15, SHLD-16: the usable window is negative; old data is sent again."""
    peer = established(mss=1000, win=5000)
    peer.app_writes(10_000)
    peer.expect(*segments(1, 5))
    peer.acks(1, win=2000)
    peer.expect()
    peer.expect_after(0.2, ". 1:1001 why timeout")
    peer.acks(1001, win=1000)
    for sent in peer.sent():
        assert int(sent.split()[1].split(":")[0]) <= 5001
    peer.acks(5001, win=2000)
    peer.expect(*segments(5001, 2))


def test_peer_shrinking_its_window_to_zero_is_probed() -> None:
    """MUST-35."""
    peer = established(mss=1000, win=5000)
    peer.app_writes(10_000)
    peer.sent()
    peer.acks(1001, win=0)
    peer.expect()
    peer.expect_after(0.2, ". 1001:2001 why window-probe")
    peer.acks(1001, win=0)
    peer.expect_after(0.4, ". 1001:2001 why window-probe")
    peer.acks(5001, win=1000)
    peer.expect(*segments(5001, 1))


# --- zero windows (RFC 9293 3.8.6.1) ---


def at_a_closed_window(**options: float) -> Peer:
    peer = established(mss=1000, win=0, **options)  # type: ignore[arg-type]
    peer.app_writes(5000)
    peer.expect()
    return peer


def test_zero_window_first_probe_comes_after_one_rto_with_one_octet() -> None:
    """SHLD-29, MUST-36."""
    peer = at_a_closed_window(rtt=0.1)
    peer.expect_after(0.3, ". 1:2(1) why window-probe")


def test_zero_window_first_probe_comes_one_rto_after_the_window_closed() -> None:
    """SHLD-29."""
    peer = established(mss=1000, win=1000)
    peer.app_writes(5000)
    peer.expect(*segments(1, 1))
    peer.wait(0.1)
    peer.acks(1001, win=0)
    peer.expect_after(0.2, ". 1001:1002(1) why window-probe")


def test_zero_window_probes_come_at_doubling_intervals() -> None:
    """SHLD-30, up to the largest RTO."""
    peer = at_a_closed_window()
    for interval in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60):
        peer.expect_after(interval, ". 1:2(1) why window-probe")
        peer.acks(1, win=0)


def test_zero_window_stays_open_for_hours_while_probes_are_answered() -> None:
    """MUST-37."""
    peer = at_a_closed_window()
    probes = 0
    while peer.now < 5 * 3600 * SECOND:
        peer.wait(1)
        if peer.sent():
            probes += 1
            peer.acks(1, win=0)
    assert peer.state is State.ESTABLISHED
    assert 300 <= probes <= 310
    peer.acks(1, win=5000)
    assert peer.sent()[0].startswith(". 1:")


def test_zero_window_reopened_after_hours_survives_a_loss() -> None:
    """MUST-37, SHLD-17: the time it was closed does not count for R2."""
    peer = at_a_closed_window()
    for _ in range(30):
        peer.wait(60)
        peer.acks(1, win=0)
    peer.acks(1, win=5000)
    peer.sent()  # and all of it is lost
    peer.wait(5)
    assert peer.state is State.ESTABLISHED
    assert peer.sent()[0].startswith(". 1:2(1)")


def test_zero_window_without_any_answer_gives_up() -> None:
    """RFC 9293 3.8.3, R2: that long only while it is answered."""
    peer = at_a_closed_window()
    peer.wait(600)
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, TimeoutError)
    assert "window probes" in str(peer.conn.error)


def test_zero_window_reopening_lets_data_flow_at_once() -> None:
    """RFC 9293 3.8.6.1: and the octet of the probe, which was refused, goes again."""
    peer = at_a_closed_window()
    peer.expect_after(0.2, ". 1:2(1)")
    peer.acks(1, win=0)
    peer.acks(1, win=3000)
    ranges = [sent.split()[1].split("(")[0] for sent in peer.sent()]
    assert ranges[0] == "1:2"
    assert ranges[1:3] == ["2:1002", "1002:2002"]
    peer.acks(2002, win=5000)
    assert peer.sent()


def test_zero_window_reopening_with_the_probe_accepted_goes_on_behind_it() -> None:
    """RFC 9293 3.8.6.1."""
    peer = at_a_closed_window()
    peer.expect_after(0.2, ". 1:2(1)")
    peer.acks(2, win=5000)
    peer.expect(*segments(2, 4), "P. 4002:5001(999)")
    assert peer.conn.rtt.rto == SECOND // 5


def test_zero_window_probe_accepted_but_window_still_closed_is_followed_by_the_next() -> None:
    """RFC 9293 3.8.6.1: at least one octet of new data."""
    peer = at_a_closed_window()
    peer.expect_after(0.2, ". 1:2(1)")
    peer.acks(2, win=0)
    peer.expect_after(0.4, ". 2:3(1) why window-probe")


def test_zero_window_a_refused_probe_goes_again_when_the_window_opens_and_is_no_probe() -> None:
    peer = at_a_closed_window()
    peer.expect_after(0.2, ". 1:2(1) why window-probe")
    peer.acks(1, win=0)
    peer.acks(1, win=5000)
    peer.expect(". 1:2(1) why window-opened", *segments(2, 4))


def test_zero_window_holds_the_fin_which_then_is_the_probe() -> None:
    """RFC 9293 3.8.6.1: FIN occupies sequence space."""
    peer = established(win=0)
    peer.app_shuts_down()
    peer.expect()
    peer.expect_after(0.2, "F. 1:1(0)")
    peer.acks(2, win=0)
    assert peer.state is State.FIN_WAIT_2


def test_zero_window_an_empty_segment_stands_before_the_probe() -> None:
    """RFC 9293 A.2: a peer with a closed window has no room for the probe, so that SND.NXT lies
    outside that window, and an acknowledgment there would be dropped.
    """
    peer = at_a_closed_window(delayed_ack=0)
    peer.expect_after(0.2, ". 1:2(1) why window-probe")
    peer.sends("P. 1:101(100) ack 1 win 0")
    peer.expect(". 1:1(0) ack 101")
    peer.app_aborts()
    peer.expect("R 1:1(0)")


@pytest.mark.parametrize("settings", [{}, {"window_scale": False}, {"timestamps": False}])
def test_zero_window_on_both_sides_one_that_reads_gets_all(settings: dict[str, bool]) -> None:
    """RFC 9293 A.2: simultaneous window probes must not make each drop the other's ACKs."""
    network = Simulation(NetworkPath(delay=0.01), seed=1)
    size = 50_000
    here, there = network.hosts(receive_buffer=10_000, autotune=False, **settings)
    loop, listener = here.loop, there.stack.listen(80)
    with loop.lock:
        client = here.stack.connect((network.server, 80), loop.now())
        loop.run_until(lambda: len(listener) > 0)
        server = listener.accept()
        assert server is not None
        for end in (client, server):
            end.send(bytes(size), loop.now())
        loop.run_until(lambda: False, loop.now() + 40 * SECOND)  # nobody reads
        assert client.tcb.snd.wnd == server.tcb.snd.wnd == 0
        got = 0

        def server_reads() -> bool:
            nonlocal got
            got += len(server.recv(1 << 20, loop.now()))
            return got == size

        assert loop.run_until(server_reads, loop.now() + 10 * SECOND)


def test_zero_window_is_not_probed_without_anything_to_send() -> None:
    """RFC 9293 3.8.6.1."""
    peer = established(win=0)
    assert peer.stack.deadline() is None


def test_zero_window_answers_to_probes_are_no_duplicate_acks() -> None:
    """RFC 5681 2: no fast retransmit, no cut of ssthresh."""
    peer = at_a_closed_window()
    peer.wait(0.2)
    for _ in range(6):
        peer.acks(1, win=0)
    assert peer.conn.cc.ssthresh > 1 << 40
    assert len(peer.sent()) == 1


def test_zero_window_probing_begins_anew_at_the_rto_when_it_closes_again() -> None:
    """SHLD-29: when a zero window has existed for the retransmission timeout period."""
    peer = at_a_closed_window()
    peer.expect_after(0.2, ". 1:2(1)")
    peer.acks(2, win=0)
    peer.expect_after(0.4, ". 2:3(1)")
    peer.acks(3, win=1000)
    peer.expect(*segments(3, 1))
    peer.acks(1003, win=0)
    peer.expect_after(peer.conn.rtt.rto / SECOND, ". 1003:1004(1) why window-probe")


# --- congestion control (RFC 5681 3.1) ---


def test_slow_start_doubles_the_window_each_round_trip() -> None:
    """cwnd += min(N, 2 SMSS) with appropriate byte counting (RFC 3465; RFC 9293 MUST-19)."""
    peer = established(mss=1000, cwnd=2000)
    peer.app_writes(100_000)
    peer.expect(*segments(1, 2))
    peer.acks(2001)
    peer.expect(*segments(2001, 4))
    peer.acks(4001)
    peer.acks(6001)
    peer.expect(*segments(6001, 8))
    assert peer.conn.cc.cwnd == 8000


def test_slow_start_takes_at_most_two_segments_of_one_ack() -> None:
    """RFC 3465 2.2: L = 2*SMSS."""
    peer = established(mss=1000, cwnd=8000, congestion="reno")
    peer.app_writes(100_000)
    peer.expect(*segments(1, 8))
    peer.acks(8001)
    assert peer.conn.cc.cwnd == 10_000


def test_slow_start_grows_by_what_was_acknowledged() -> None:
    """RFC 5681 equation (2): an ACK of a few octets opens the window by a few."""
    peer = established(mss=1000, cwnd=4000)
    peer.app_writes(100_000)
    peer.acks(11)
    assert peer.conn.cc.cwnd == 4010


def test_congestion_avoidance_adds_a_segment_each_round_trip() -> None:
    """RFC 5681 3.1; RFC 3465 2.1 (RFC 9293 MUST-19)."""
    peer = established(mss=1000, cwnd=10_000, congestion="reno")
    peer.app_writes(200_000)
    peer.conn.cc.ssthresh = 10_000
    una = 1
    for window in (10, 11, 12, 13):
        assert peer.conn.cc.cwnd == window * 1000
        for _ in range(window):
            una += 1000
            peer.acks(una)
    assert peer.conn.cc.cwnd == 14_000


def test_cwnd_does_not_grow_when_it_is_not_used() -> None:
    """RFC 7661, in spirit: a window that is not filled proves nothing."""
    peer = established(mss=1000, cwnd=10_000)
    for _ in range(50):
        at = peer.conn.tcb.snd.nxt
        peer.app_writes(1000)
        peer.acks(at + 1000)
    assert peer.conn.cc.cwnd == 10_000


def test_old_and_duplicate_acks_do_not_grow_the_window() -> None:
    peer = established(mss=1000, cwnd=4000)
    peer.app_writes(100_000)
    peer.acks(1001)
    before = peer.conn.cc.cwnd
    peer.acks(1)
    peer.acks(1001)
    assert peer.conn.cc.cwnd == before


def test_flight_never_exceeds_cwnd() -> None:
    peer = established(mss=1000, cwnd=4500)
    peer.app_writes(100_000)
    peer.expect(*segments(1, 4))


def test_idle_connection_begins_with_the_restart_window() -> None:
    """RFC 5681 4.1: cwnd SHOULD be at most RW = min(IW, cwnd) after idling longer than the RTO."""
    peer = established(mss=1000, cwnd=4000)
    una = 1
    peer.app_writes(60_000)
    while una < 60_001:
        una = min(una + 2000, 60_001)
        peer.acks(una)
    peer.sent()
    assert peer.conn.cc.cwnd > 20_000
    peer.wait(10)
    peer.app_writes(60_000)
    assert len(peer.sent()) == 4
