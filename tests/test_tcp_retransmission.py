"""Loss: the retransmission timer (RFC 6298), fast retransmit and NewReno (RFC 5681, RFC 6582)."""

from typing import Any

import pytest
from peer import NANOSECOND, SECOND, Peer, established, twice  # noqa: F401

from nbtcp import State
from nbtcp.tcp.recovery import Rack
from nbtcp.tcp.rtt import RoundTripTime

MILLISECOND = 1_000_000


def sending(segments: int, *, writes: int = 1 << 20, **options: Any) -> Peer:
    """`segments` of 1000 octets are in flight, and the application has written `writes` octets.

    Congestion control is Reno, whose halves RFC 5681 and 6582 speak of.
    """
    options = {"congestion": "reno", **options}
    peer = established(mss=1000, cwnd=segments * 1000, **options)
    peer.app_writes(writes)
    peer.expect(*flight(1, segments))
    return peer


def flight(start: int, segments: int) -> list[str]:
    return [f"{at}:{at + 1000}(1000)" for at in range(start, start + 1000 * segments, 1000)]


def test_congestion_control_knows_srtt_also_when_an_ack_gives_no_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUBIC looks a round trip ahead (RFC 9438 4.2)."""
    peer = sending(4, sack=True, rtt=0.1)
    peer.acks(1, sack="1001:4001")  # all but the first have arrived, and were measured
    heard: list[int | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(Rack, "acked", lambda self, ack, *_: heard.append(ack.srtt))
        peer.acks(1, sack="1001:4001")
    assert heard == [peer.conn.rtt.srtt]


# --- SRTT, RTTVAR, RTO (RFC 6298 2) ---


def rtt(min_rto: int = MILLISECOND) -> RoundTripTime:
    return RoundTripTime(SECOND, min_rto, 60 * SECOND)


def test_rto_before_the_first_sample_is_a_second() -> None:
    """RFC 6298 2.1."""
    assert (rtt().rto, rtt().srtt) == (SECOND, None)


def test_rto_numbers_by_hand() -> None:
    """RFC 6298 2.2 and 2.3: samples of 100, 100, 180 and 60 ms (RFC 9293 MUST-18)."""
    estimate, seen = rtt(), []
    for sample in (100, 100, 180, 60):
        estimate.sample(sample * MILLISECOND)
        seen.append((estimate.srtt, estimate.rttvar, estimate.rto))
    assert seen == [
        (100_000_000, 50_000_000, 300_000_000),
        (100_000_000, 37_500_000, 250_000_000),
        (110_000_000, 48_125_000, 302_500_000),
        (103_750_000, 48_593_750, 298_125_000),
    ]


def test_rto_has_a_floor_a_ceiling_and_a_granularity() -> None:
    """RFC 6298 2.3 to 2.5: RTO <- SRTT + max(G, K*RTTVAR)."""
    estimate = rtt(min_rto=200 * MILLISECOND)
    estimate.sample(MILLISECOND)
    assert estimate.rto == 200 * MILLISECOND
    estimate.sample(100 * SECOND)
    assert estimate.rto == 60 * SECOND
    steady = rtt()
    for _ in range(200):
        steady.sample(50 * MILLISECOND)
    assert steady.rto == steady.srtt + MILLISECOND


def test_backoff_doubles_up_to_the_ceiling_and_the_next_sample_takes_it_back() -> None:
    """RFC 6298 5.5, 5.7."""
    estimate = rtt()
    estimate.sample(100 * MILLISECOND)
    for expected in (600, 1200, 2400):
        estimate.back_off()
        assert estimate.rto == expected * MILLISECOND
    for _ in range(10):
        estimate.back_off()
    assert estimate.rto == 60 * SECOND
    estimate.sample(100 * MILLISECOND)
    assert estimate.rto == 250 * MILLISECOND


# --- samples and Karn's rule (RFC 6298 3) ---


def test_sample_is_the_time_until_the_acknowledgment() -> None:
    peer = sending(1, writes=1000, rtt=0.1)
    peer.wait(0.18)
    peer.acks(1001)
    assert peer.conn.rtt.srtt == 110_000_000


def test_karn_retransmitted_segment_gives_no_sample_and_keeps_the_backoff() -> None:
    """RFC 6298 3, 5.5 (RFC 9293 MUST-18)."""
    peer = sending(1, writes=2000, rtt=0.1)
    peer.expect_after(0.3, "1:1001 why timeout")
    peer.wait(0.1)
    peer.acks(1001)
    assert peer.conn.rtt.srtt == 100_000_000
    assert peer.conn.rtt.rto == 600_000_000
    peer.expect("1001:2001")
    peer.wait(0.1)
    peer.acks(2001)  # sent once: a sample
    assert peer.conn.rtt.rto == 250_000_000


def test_karn_acknowledgment_that_waited_for_a_retransmission_gives_no_sample() -> None:
    """What arrived behind the hole was sent once, but its ACK waited for the hole."""
    peer = sending(5, writes=5000, rtt=0.1)
    peer.wait(0.1)
    for _ in range(3):
        peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.wait(0.15)
    peer.acks(5001)
    assert peer.conn.rtt.srtt == 100_000_000


def test_timestamp_tells_which_transmission_was_received() -> None:
    """RFC 7323 4: the echo of the last transmission makes a valid sample."""
    peer = established(mss=1000, tsval=1, rtt=0.1)
    peer.app_writes(988)
    peer.sent()
    peer.expect_after(0.3, "1:989 why timeout")
    peer.wait(0.18)
    peer.acks(989)  # echoes the retransmission
    assert peer.conn.rtt.srtt == 110_000_000


def test_timestamp_of_the_first_transmission_makes_no_sample_of_the_last() -> None:
    """RFC 6298 3: the ACK of the first one came after the timeout."""
    peer = established(mss=1000, tsval=1, rtt=0.1)
    peer.app_writes(988)
    first = peer.echo
    peer.wait(0.3)
    peer.wait(0.01)
    peer.sends(f". 1:1 ack 989 <TS val 500 ecr {first}>")
    assert peer.conn.rtt.srtt == 100_000_000


# --- the timer (RFC 6298 5) ---


def test_timer_starts_with_the_first_segment_not_the_last() -> None:
    """RFC 6298 5.1."""
    peer = established(mss=1000, rtt=0.1)
    peer.app_writes(1000)
    peer.wait(0.2)
    peer.app_writes(1000)
    peer.expect(*flight(1, 2))
    peer.expect_after(0.1, "1:1001 why timeout")


def test_timer_stops_when_all_is_acknowledged() -> None:
    """RFC 6298 5.2."""
    peer = sending(2, writes=2000)
    peer.acks(2001)
    assert peer.stack.deadline() is None


def test_timer_restarts_with_an_ack_of_new_data() -> None:
    """RFC 6298 5.3."""
    peer = sending(2, writes=2000, rtt=0.1)
    peer.wait(0.1)
    peer.acks(1001)
    peer.expect_after(peer.conn.rtt.rto / SECOND, "1001:2001 why timeout")


@pytest.mark.parametrize("kind", ["duplicate", "window", "old", "data", "unsent"])
def test_timer_is_restarted_only_by_acks_of_new_data(kind: str) -> None:
    """RFC 6298 5.3."""
    peer = sending(3, writes=3000, rtt=0.1)
    peer.acks(1001)
    due = peer.stack.deadline()
    peer.wait(0.05)
    match kind:
        case "duplicate":
            peer.acks(1001)
        case "window":
            peer.acks(1001, win=30_000)
        case "old":
            peer.acks(1)
        case "data":
            peer.sends("1:2001 ack 1001")
            peer.sends("2001:4001 ack 1001")
        case "unsent":
            peer.acks(900_000)
    assert peer.conn.deadline() == due


def test_timeout_resends_the_oldest_doubles_the_rto_and_starts_the_timer() -> None:
    """RFC 6298 5.4 to 5.6 (RFC 9293 MUST-19, L-21)."""
    peer = sending(3, writes=3000, rtt=0.1)
    peer.expect_after(0.3, "1:1001 why timeout")
    for seconds in (0.6, 1.2, 2.4, 4.8, 9.6, 19.2, 38.4, 60):
        peer.expect_after(seconds, "1:1001 why timeout")


def test_timeout_cuts_ssthresh_once_and_cwnd_to_one_segment() -> None:
    """RFC 5681 3.1 equation (4): max(FlightSize / 2, 2*SMSS); not again for the same segment."""
    peer = sending(10)
    cc = peer.conn.cc
    peer.wait(0.2)
    assert (cc.ssthresh, cc.cwnd) == (5000, 1000)
    peer.wait(0.4)
    assert (cc.ssthresh, cc.cwnd) == (5000, 1000)
    assert len(peer.sent()) == 2


def test_timeout_ssthresh_is_at_least_two_segments() -> None:
    peer = sending(1, writes=1000)
    peer.wait(0.2)
    assert peer.conn.cc.ssthresh == 2000


def test_timeout_goes_back_n_in_slow_start() -> None:
    """RFC 5681 3.1, RFC 9293 MUST-19: all that was out goes again as cwnd allows, then new data."""
    peer = sending(6, writes=8000, recovery="reno")  # which does not look for false alarms
    peer.expect_after(0.2, "1:1001 why timeout")
    peer.acks(1001)
    peer.expect("1001:2001 why go-back-n", "2001:3001 why go-back-n")
    peer.acks(2001)
    peer.expect("3001:4001 why go-back-n", "4001:5001 why go-back-n")
    peer.acks(6001)  # the sixth had arrived after all
    assert peer.conn.cc.cwnd >= 3000
    peer.expect(*flight(6001, 2))
    peer.acks(8001)
    assert peer.stack.deadline() is None


def test_timeout_acknowledged_at_once_sends_nothing_needless() -> None:
    """Only one ACK was lost: the next tells that all has arrived."""
    peer = sending(5, writes=5000)
    peer.expect_after(0.2, "1:1001 why timeout")
    peer.acks(5001)
    peer.expect()
    assert peer.stack.deadline() is None


def test_timeout_in_a_small_segment_resends_just_it() -> None:
    peer = established(mss=1000)
    peer.app_writes(10)
    peer.expect("1:11")
    peer.app_writes(990)
    peer.expect_after(0.2, "1:11 why timeout")
    peer.acks(11)
    peer.expect("11:1001")


def test_partly_acknowledged_segment_is_resent_from_where_it_is_missing() -> None:
    """RFC 9293 3.10.7.4: only segments that are entirely acknowledged leave the queue."""
    peer = sending(1, writes=1000)
    peer.acks(501)
    peer.expect_after(peer.conn.rtt.rto / SECOND, "501:1001(500) why timeout")


@pytest.mark.parametrize("timeout", [5, 100, 300])
def test_user_timeout_gives_up(timeout: int) -> None:
    """RFC 9293 3.8.3, R2, and 3.10.8; the error says what was tried (MUST-20, L-21)."""
    peer = sending(1, writes=1000, user_timeout=timeout)
    peer.wait(timeout - NANOSECOND)
    assert peer.state is State.ESTABLISHED
    peer.wait(61)
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, TimeoutError)
    assert "no answer from 10.0.0.1 port 80 to data sent" in str(peer.conn.error)
    assert peer.stack.deadline() is None
    assert not peer.stack.connections
    assert not [sent for sent in peer.sent() if sent.startswith("R")]


def test_user_timeout_counts_from_the_oldest_unacknowledged_segment() -> None:
    """RFC 9293 3.8.3: progress resets it."""
    peer = established(mss=1000, user_timeout=100)
    for _ in range(10):
        at = peer.conn.tcb.snd.nxt
        peer.app_writes(1000)
        peer.wait(50)
        peer.acks(at + 1000)
    assert peer.state is State.ESTABLISHED


# --- fast retransmit (RFC 5681 3.2) ---


def test_third_duplicate_ack_resends_the_hole_and_the_second_does_not() -> None:
    peer = sending(5, writes=5000)
    peer.acks(1)
    peer.acks(1)
    peer.expect()
    peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.acks(1)
    peer.expect()


def test_first_two_duplicate_acks_each_release_a_new_segment() -> None:
    """RFC 3042: limited transmit."""
    peer = sending(5)
    peer.acks(1)
    peer.expect(*flight(5001, 1))
    peer.acks(1)
    peer.expect(*flight(6001, 1))
    assert peer.conn.cc.cwnd == 5000


def test_third_duplicate_ack_halves_the_window_without_limited_transmit() -> None:
    """RFC 5681 equation (4)."""
    peer = sending(10, writes=10_000)
    for _ in range(3):
        peer.acks(1)
    assert (peer.conn.cc.ssthresh, peer.conn.cc.cwnd) == (5000, 5000)


def test_third_duplicate_ack_does_not_count_what_limited_transmit_sent() -> None:
    """RFC 5681 3.2, step 2: additional data sent in limited transmit MUST NOT be included."""
    peer = sending(10)
    for _ in range(3):
        peer.acks(1)
    assert peer.conn.cc.ssthresh == 5000


@pytest.mark.parametrize("kind", ["window", "data", "closed", "nothing out", "old"])
def test_what_is_no_duplicate_ack(kind: str) -> None:
    """RFC 5681 2: outstanding data, no data, the same window, the greatest acknowledgment."""
    peer = sending(5, writes=5000, receive_buffer=60_000)
    if kind == "nothing out":
        peer.acks(5001)
    elif kind == "old":
        peer.acks(2001)
    for i in range(1, 6):
        match kind:
            case "window":
                peer.acks(1, win=60_000 + i)
            case "data":
                peer.sends(f"{peer.nxt}:{peer.nxt + 10} ack 1")
            case "closed":
                peer.acks(1, win=0)
            case "nothing out":
                peer.acks(5001)
            case "old":
                peer.acks(1)
    assert not [sent for sent in peer.sent() if "fast-retransmit" in sent]
    assert peer.conn.cc.ssthresh > 1 << 40


def test_window_update_between_duplicate_acks_does_not_count() -> None:
    """RFC 5681 2 (e)."""
    peer = sending(5, writes=5000)
    peer.acks(1)
    peer.acks(1)
    peer.acks(1, win=65_000)
    peer.expect()
    peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")


def test_new_ack_between_duplicate_acks_begins_anew() -> None:
    peer = sending(6, writes=6000)
    peer.acks(1)
    peer.acks(1)
    peer.acks(1001)
    peer.acks(1001)
    peer.acks(1001)
    peer.expect()
    peer.acks(1001)
    peer.expect("1001:2001 why fast-retransmit")


def test_fast_recovery_ssthresh_is_cut_once_per_episode() -> None:
    """RFC 6582 3.2: not once per duplicate ACK, not once per hole."""
    peer = sending(10, writes=10_000)
    for _ in range(7):
        peer.acks(1)
    peer.acks(1001)
    peer.acks(1001)
    peer.acks(1001)
    peer.acks(2001)
    assert (peer.conn.cc.ssthresh, peer.conn.cc.cwnd) == (5000, 5000)


def test_fast_recovery_partial_ack_resends_the_next_hole_at_once() -> None:
    """RFC 6582 3.2, step 3: one hole per round trip; the full ACK ends it."""
    peer = sending(10, writes=10_000)  # 1:1001, 4001:5001 and 8001:9001 are lost
    for _ in range(7):
        peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.acks(4001)
    peer.expect("4001:5001 why partial-ack")
    peer.acks(8001)
    peer.expect("8001:9001 why partial-ack")
    peer.acks(10_001)
    peer.expect()
    assert peer.conn.recovery.phase.label == "open"
    assert peer.conn.cc.ssthresh == 5000
    assert peer.conn.cc.cwnd == 2000, "min(ssthresh, max(FlightSize, SMSS) + SMSS)"
    assert peer.stack.deadline() is None


def test_fast_recovery_partial_acks_of_a_few_octets_release_no_new_data() -> None:
    """RFC 6582 3.2, step 3: add back SMSS only if at least SMSS was acknowledged."""
    peer = sending(10)
    for _ in range(3):
        peer.acks(1)
    peer.sent()
    for ack in range(11, 101, 10):
        peer.acks(ack)
    assert not [sent for sent in peer.sent() if "why data" in sent]


def test_fast_recovery_new_data_flows_when_half_has_left() -> None:
    """RFC 5681 3.2, steps 4 and 5: cwnd = ssthresh + 3, inflated by each duplicate ACK."""
    peer = sending(10)
    peer.acks(1)
    peer.acks(1)
    peer.acks(1)
    peer.expect(*flight(10_001, 2), "1:1001 why fast-retransmit")
    new = []
    for _ in range(8):  # eleven of the twelve sent have now arrived
        peer.acks(1)
        new += peer.sent()
    flown = peer.conn.cc.ssthresh // 1000 - 1  # with the retransmission that makes half the window
    assert [sent.split()[1] for sent in new] == flight(12_001, flown)


def test_fast_recovery_full_ack_releases_no_burst() -> None:
    """RFC 6582 3.2, step 3, option 1: cwnd = min(ssthresh, max(FlightSize, SMSS) + SMSS)."""
    peer = sending(10, writes=30_000)
    for _ in range(9):
        peer.acks(1)
    peer.sent()
    recover = peer.conn.tcb.snd.nxt
    peer.acks(recover)
    assert peer.conn.cc.ssthresh == 5000
    assert peer.conn.cc.cwnd == 2000
    assert len(peer.sent()) == 2
    assert peer.conn.recovery.phase.label == "open"


def test_fast_recovery_ends_in_a_timeout_when_the_retransmission_is_lost() -> None:
    """RFC 6582 3.2, step 4."""
    peer = sending(10, writes=10_000)
    for _ in range(9):
        peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.expect_after(0.2, "1:1001 why timeout")
    assert peer.conn.cc.cwnd == 1000


def test_recover_prevents_a_second_fast_retransmit() -> None:
    """RFC 6582 3.2, step 1: duplicates may come from our own needless retransmissions."""
    peer = sending(6, writes=20_000)
    peer.wait(0.2)
    peer.expect("1:1001 why timeout")
    for _ in range(5):  # they answer what was sent before the timeout
        peer.acks(1)
    peer.expect()
    peer.acks(3001)
    peer.sent()
    for _ in range(4):
        peer.acks(3001)
    assert not [sent for sent in peer.sent() if "fast-retransmit" in sent]
    assert peer.conn.cc.ssthresh == 3000


def test_after_recover_a_new_loss_is_fast_retransmitted_again() -> None:
    """RFC 6582 3.2, step 1: the ACK covers more than recover."""
    peer = sending(6, writes=60_000)
    peer.wait(0.2)
    una = 1
    while una < 20_001:
        una = peer.conn.tcb.snd.nxt if peer.conn.tcb.snd.una > 6001 else una + 1000
        peer.acks(una)
    peer.sent()
    for _ in range(3):
        peer.acks(una)
    assert f"{una}:{una + 1000}(1000)" in peer.sent()[-1]
    assert peer.conn.recovery.phase.label == "fast-recovery"


def test_duplicate_acks_do_not_inflate_cwnd() -> None:
    """The plotted cwnd is the true one: what has left is subtracted from the flight instead."""
    peer = sending(10)
    for _ in range(12):
        peer.acks(1)
        assert peer.conn.cc.cwnd in (10_000, peer.conn.cc.ssthresh)


def test_duplicate_acks_out_of_the_blue_release_no_burst() -> None:
    """RFC 3042, RFC 5681 3.2: after the timeout's episode none of them is evidence of departure."""
    peer = sending(6, writes=60_000)
    peer.wait(0.2)
    peer.acks(6001)
    peer.sent()
    out = peer.conn.tcb.snd.nxt - peer.conn.tcb.snd.una
    for _ in range(20):
        peer.acks(6001)
    more = peer.conn.tcb.snd.nxt - peer.conn.tcb.snd.una - out
    assert more <= 2000
