"""Loss recovery: SACK on both sides, RFC 6675, RACK-TLP, PRR, F-RTO, undo, older strategies."""

from functools import cache
from typing import Any

import pytest
from peer import Peer, established, twice  # noqa: F401

from nbtcp import Path, Simulation
from nbtcp.simulation import Transfer
from nbtcp.tcp.ack import Ack
from nbtcp.tcp.recovery import STRATEGIES, Phase
from nbtcp.tcp.recovery.prr import ProportionalRateReduction

RTT = 0.1


def flight(start: int, segments: int, why: str = "") -> list[str]:
    suffix = f" why {why}" if why else ""
    return [f"{at}:{at + 1000}(1000){suffix}" for at in range(start, start + 1000 * segments, 1000)]


def sending(segments: int, *, writes: int | None = None, **options: Any) -> Peer:
    """`segments` of 1000 octets are in flight; the handshake has measured an RTT of 0.1 s."""
    defaults = {"mss": 1000, "sack": True, "rtt": RTT, "congestion": "reno"}
    settings: dict[str, Any] = {**defaults, **options}
    peer = established(cwnd=segments * 1000, **settings)
    peer.app_writes(segments * 1000 if writes is None else writes)
    peer.expect(*flight(1, segments))
    return peer


def receiving(**options: Any) -> Peer:
    return established(sack=True, **options)


def sacks(peer: Peer) -> list[str]:
    """The SACK options of what was sent, "" where there was none."""
    found = []
    for segment in peer.sent():
        options = segment.partition("<")[2].partition(">")[0].split(",")
        found.append(next((o.removeprefix("sack ") for o in options if o.startswith("sack ")), ""))
    return found


# --- what we report: RFC 2018 ---


def test_syn_with_sack_permitted_is_answered_in_kind() -> None:
    """RFC 2018 2."""
    peer = Peer(timestamps=False, window_scale=False)
    peer.listens()
    peer.sends("S 0:0 <mss 1000,sackOK>")
    peer.expect("S. 0:0 ack 1 win 65535 <mss 1460,sackOK>")


def test_sack_the_peer_did_not_ask_for_is_neither_reported_nor_believed() -> None:
    """RFC 2018 2."""
    peer = sending(4, sack=False)
    peer.sends("1001:2001")
    assert sacks(peer) == [""]
    peer.acks(1, sack="1001:4001")
    assert peer.conn.queue.sacked_octets == 0


def test_in_order_arrivals_report_nothing() -> None:
    """RFC 2018 7, case 1: the last four of eight segments are lost."""
    peer = receiving()
    for at in range(1, 2001, 500):
        peer.sends(f"{at}:{at + 500}")
    peer.wait(1)
    assert set(sacks(peer)) == {""}


def test_hole_at_the_beginning_one_block_grows() -> None:
    """RFC 2018 7, case 2: the first of eight segments is lost."""
    peer = receiving()
    for at in range(501, 4001, 500):
        peer.sends(f"{at}:{at + 500}")
        assert sacks(peer) == [f"501:{at + 500}"]


def test_every_second_segment_lost_latest_block_first() -> None:
    """RFC 2018 7, case 3, and how the holes fill."""
    peer = receiving()
    for at in (1, 1001, 2001, 3001):
        peer.sends(f"{at}:{at + 500}")
    peer.wait(0.1)
    assert sacks(peer) == [*("1001:1501", "2001:2501 1001:1501", "3001:3501 2001:2501 1001:1501")]
    peer.sends("1501:2001")  # the fourth segment
    assert sacks(peer) == ["1001:2501 3001:3501"]
    peer.sends("501:1001")  # the second
    assert sacks(peer) == ["3001:3501"]
    peer.sends("2501:3001")
    assert sacks(peer) == [""]


def test_blocks_are_as_many_as_fit() -> None:
    """RFC 2018 3: four, or three beside timestamps."""
    for tsval, most in ((None, 4), (1, 3)):
        peer = receiving(tsval=tsval)
        for at in range(1001, 7001, 1000):
            peer.sends(f"{at}:{at + 500}")
        assert len(sacks(peer)[-1].split()) == most


def test_many_arrivals_in_one_range_do_not_push_out_the_others() -> None:
    """RFC 2018 4: as many distinct blocks as possible, the latest first."""
    peer = receiving()
    for at in (1001, 3001, 5001, 5501, 6001, 6501, 7001, 7501):
        peer.sends(f"{at}:{at + 500}")
    assert sacks(peer)[-1] == "5001:8001 3001:3501 1001:1501"


def test_blocks_that_were_pushed_out_come_back_when_there_is_room() -> None:
    """RFC 2018 4: as many as possible."""
    peer = receiving()
    for at in (9001, 7001, 5001, 3001, 1001):
        peer.sends(f"{at}:{at + 500}")
    assert sacks(peer)[-1] == "1001:1501 3001:3501 5001:5501 7001:7501"
    peer.sends("1:1001")
    assert sacks(peer) == ["3001:3501 5001:5501 7001:7501 9001:9501"]


def test_data_segments_carry_sacks_where_there_is_room() -> None:
    peer = receiving(mss=1000)
    peer.sends("1001:2001")
    peer.sent()
    peer.app_writes(100)
    assert sacks(peer) == ["1001:2001"]
    peer.app_writes(3000)
    assert sacks(peer)[0] == "", "none in a full-sized segment"


# --- what we report: D-SACK, the examples of RFC 2883 4, less 500 so that they begin at 1 ---


def arrived(*specs: str) -> Peer:
    peer = receiving()
    for spec in specs:
        peer.sends(spec)
    peer.wait(0.1)
    peer.sent()
    return peer


def test_dsack_of_a_duplicate_segment() -> None:
    """RFC 2883 4.1.1, and reported once only (4, rule 1)."""
    peer = arrived("1:501", "501:1001")
    peer.sends("1:501")
    assert sacks(peer) == ["1:501"]
    peer.sends("1501:2001")
    assert sacks(peer) == ["1501:2001"]


def test_dsack_before_the_block_of_an_out_of_order_segment() -> None:
    """RFC 2883 4.1.2."""
    peer = arrived("1:501", "501:1001", "1501:2001")
    peer.sends("501:1001")
    assert sacks(peer) == ["501:1001 1501:2001"]


def test_dsack_of_a_duplicate_of_an_out_of_order_segment() -> None:
    """RFC 2883 4.1.3: the block that holds it comes next."""
    peer = arrived("1:501", "1001:1501", "1501:2001")
    assert peer.sends("1501:2001") == "duplicate"
    assert sacks(peer) == ["1501:2001 1001:2001"]


def test_dsack_of_a_duplicate_part() -> None:
    """RFC 2883 4.2.1: half of a segment twice as large was there already."""
    peer = arrived("1:501", "1001:1501", "2001:2501")
    peer.sends("501:1501")
    assert sacks(peer) == ["1001:1501 2001:2501"]


def test_dsack_of_two_duplicate_parts_reports_the_first() -> None:
    """RFC 2883 4.2.2."""
    peer = arrived("1:501", "1001:1501", "2001:2501", "3001:3501")
    peer.sends("501:2501")
    assert sacks(peer) == ["1001:1501 3001:3501"]


def test_dsack_of_two_parts_the_first_of_which_was_acknowledged() -> None:
    """RFC 2883 4: "the first such duplicate"."""
    peer = arrived("1:501", "1001:1501", "2001:2501")
    peer.sends("1:1501")
    assert sacks(peer) == ["1:501 2001:2501"]


# --- IsLost and what follows: RFC 6675 ---


def test_sack_third_segment_above_makes_a_loss() -> None:
    """RFC 6675 4: more than (DupThresh - 1) * SMSS octets were SACKed above it."""
    peer = sending(6, recovery="sack")
    peer.acks(1, sack="1001:2001")
    peer.acks(1, sack="1001:3001")
    peer.expect()
    peer.acks(1, sack="1001:4001")
    peer.expect("1:1001 why sack-hole")
    assert peer.conn.recovery.phase is Phase.FAST_RECOVERY


def test_sack_three_ranges_above_make_a_loss_and_two_do_not() -> None:
    """RFC 6675 4: DupThresh discontiguous sequences."""
    peer = sending(10, recovery="sack")
    for sack in ("1001:1101", "3001:3101 1001:1101"):
        peer.acks(1, sack=sack)
    peer.expect()
    peer.acks(1, sack="5001:5101 3001:3101 1001:1101")
    peer.expect("1:1001 why sack-hole")


def test_sack_limited_transmit() -> None:
    """RFC 6675 5 (3), RFC 3042: each of the first two lets a new segment out."""
    peer = sending(6, writes=20_000, recovery="sack")
    peer.acks(1, sack="1001:2001")
    peer.expect("6001:7001 why data")
    peer.acks(1, sack="1001:3001")
    peer.expect("7001:8001 why data")


def test_sack_three_acknowledgments_do_where_segments_are_small() -> None:
    """RFC 6675 5, step 2: DupAcks >= DupThresh, although IsLost is false."""
    peer = established(mss=1000, sack=True, recovery="sack", nagle=False)
    for _ in range(4):
        peer.app_writes(10)
    peer.sent()
    peer.acks(1, sack="11:21")
    peer.acks(1, sack="11:31")
    peer.expect()
    peer.acks(1, sack="11:41")
    peer.expect("1:11 why fast-retransmit")


def test_sack_all_holes_in_one_round_trip() -> None:
    peer = sending(10, recovery="sack")
    peer.acks(1, sack="1001:2001 3001:4001")
    peer.acks(1, sack="5001:6001 3001:4001 1001:2001")
    lost = [f"{at}:{at + 1000} why sack-hole" for at in (1, 2001)]
    peer.acks(1, sack="5001:10001 3001:4001 1001:2001")
    resent = peer.sent()
    assert [spec.split("(")[0].split(" ")[-1] for spec in resent][:2] == ["1:1001", "2001:3001"]
    assert len(lost) == 2


def test_sack_blocks_that_are_nonsense_change_nothing() -> None:
    """RFC 2018 5 trusts nobody: beyond SND.NXT, reversed, of the SYN."""
    peer = sending(4, recovery="sack")
    for sack in ("4001:5001", "2001:1001", "-5000:-4000", "1:900000"):
        peer.acks(1, sack=sack)
    assert (peer.conn.queue.sacked_octets, peer.conn.queue.lost_octets) == (0, 0)


@pytest.mark.parametrize("recovery", ["newreno", "reno", "tahoe"])
def test_those_who_count_duplicates_do_not_listen_to_sacks(recovery: str) -> None:
    """What was SACKed would else never be believed lost, and count as in flight for ever."""
    peer = sending(10, recovery=recovery)
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    assert peer.sent()[0].startswith(". 1:1001")
    assert peer.conn.queue.sacked_octets == 0


def test_sack_after_a_false_alarm_losses_are_looked_for_from_the_beginning() -> None:
    """RFC 6675 5 (3.1): HighRxt <- HighACK; what an undone episode has judged is judged again."""
    peer = sending(10, recovery="sack", writes=40_000)
    for end in (4001, 6001, 8001, 10_001):
        peer.acks(1, sack=f"{end - 1000}:{end}")
    assert peer.conn.queue.lost_octets == 3000  # of 1, 1001, 2001 and 4001 the first went out again
    while not any(segment.endswith("why timeout") for segment in peer.sent()):
        peer.wait(0.1)
    peer.acks(1001)
    peer.acks(2001)  # F-RTO: that was out, and never sent again
    assert peer.conn.recovery.phase is Phase.OPEN
    peer.sent()
    peer.acks(2001, sack="6001:7001")
    assert ". 2001:3001(1000) ack 1 win 65535 <> why sack-hole" in peer.sent()


def test_sack_an_old_acknowledgment_tells_of_no_duplicate() -> None:
    """RFC 2883 4: a block is a D-SACK if it lies below the ACK field beside it, not below SND.UNA;
    acknowledgments overtake each other.
    """
    for recovery in ("sack", "rack"):
        peer = sending(10, recovery=recovery)
        peer.wait(RTT)
        for end in (2001, 3001, 4001):
            peer.acks(1, sack=f"1001:{end}")
        assert sum(". 1:1001" in segment for segment in peer.sent()) == 1
        peer.wait(RTT)
        peer.acks(4001)
        ssthresh = peer.conn.cc.ssthresh
        peer.acks(0, sack="1:1001")
        assert peer.conn.cc.ssthresh == ssthresh == 5000


# --- PRR: RFC 9937 ---


def prr_script(flight_size: int, ssthresh: int, pipe: int, delivered: list[int]) -> list[int]:
    """What each acknowledgment lets out, in segments of one octet; all of it is sent."""
    prr, sent, released = ProportionalRateReduction(flight_size, 0, 1), 0, []
    for octets in delivered:
        ack = Ack(0, 0, 0, 0)
        ack.delivered = octets
        window = prr.window(ack, pipe, sent, ssthresh)
        released.append(max(0, window - pipe))
        sent += released[-1]
        pipe += released[-1] - 1
    return released


def test_prr_lets_out_every_second_segment_when_the_rate_is_halved() -> None:
    """RFC 9937, and RFC 6937's figure: CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out."""
    released = prr_script(20, 10, 18, [1] * 16)
    assert released == [1, 0] * 8


def test_prr_lets_out_seven_of_ten_for_cubic() -> None:
    released = prr_script(10, 7, 9, [1] * 5)
    assert sum(released) == -(-5 * 7 // 10)


def test_prr_below_ssthresh_sends_what_was_delivered() -> None:
    """RFC 9937: MAX(prr_delivered - prr_out, DeliveredData), the conservative bound."""
    assert prr_script(20, 10, 4, [1] * 5) == [1] * 5


def test_prr_below_ssthresh_grows_by_a_segment_when_all_goes_well() -> None:
    """RFC 9937: SafeACK, which acknowledges something and shows no further loss."""
    prr = ProportionalRateReduction(20, 0, 1)
    ack = Ack(0, 0, 0, 0)
    ack.delivered = ack.octets = 1
    assert prr.window(ack, 4, 5, 10) - 4 == 2
    ack.lost = 1
    assert prr.window(ack, 4, 7, 10) - 4 == 1


def test_prr_never_exceeds_ssthresh() -> None:
    prr = ProportionalRateReduction(20, 0, 1)
    ack = Ack(0, 0, 0, 0)
    ack.delivered = ack.octets = 15
    assert prr.window(ack, 4, 1, 10) == 10


def test_prr_lets_the_fast_retransmit_out() -> None:
    """RFC 9937: if prr_out is 0, sndcnt = MAX(sndcnt, SMSS)."""
    prr = ProportionalRateReduction(20_000, 5000, 1000)
    ack = Ack(0, 0, 0, 0)
    assert prr.window(ack, 19_000, 5000, 10_000) == 20_000


def test_prr_in_a_connection_sends_half_of_what_arrives_and_ends_at_ssthresh() -> None:
    peer = sending(20, writes=60_000, recovery="sack")
    sent = []
    for end in range(2001, 21_001, 1000):
        peer.acks(1, sack=f"1001:{end}")
        sent.append(len(peer.sent()))
    # Limited transmit, the hole (half a segment before its time), then every second time.
    assert sent[:16] == [1, 1, 1, 0] + [0, 1] * 6
    assert peer.conn.cc.ssthresh == 10_000
    peer.acks(22_001)
    assert peer.conn.cc.cwnd == 10_000


def test_prr_acknowledgments_that_deliver_nothing_change_nothing() -> None:
    """RFC 9937: if DeliveredData is 0, return."""
    peer = sending(10, recovery="sack")
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    peer.sent()
    cwnd = peer.conn.cc.cwnd
    peer.acks(1, sack="1001:4001")
    assert peer.conn.cc.cwnd == cwnd >= 1000


def test_prr_an_episode_that_begins_where_another_ends_has_its_own() -> None:
    """RFC 9937: prr_delivered and prr_out begin at 0, RecoverFS is what is in flight then."""
    peer = sending(10, writes=60_000, recovery="sack")
    for end in range(2001, 13_001, 1000):
        peer.acks(1, sack=f"1001:{end}")
    first, end = peer.conn.prr, peer.conn.tcb.snd.nxt
    assert end >= 16_001
    peer.sent()
    peer.acks(12_001, sack=f"13001:{end}")  # all that was out at the first loss, and a new one
    assert peer.conn.recovery.phase is Phase.FAST_RECOVERY
    assert peer.conn.prr is not first
    assert "12001:13001" in peer.sent()[0]


# --- RACK: RFC 8985 6 ---


def test_rack_without_reordering_resends_at_the_third_sack() -> None:
    """RFC 8985 6.2 step 4: no reordering window then."""
    peer = sending(6)
    peer.wait(RTT)
    peer.acks(1, sack="1001:2001")
    peer.acks(1, sack="1001:3001")
    peer.expect()
    peer.acks(1, sack="1001:4001")
    peer.expect("1:1001 why rack")


def test_rack_waits_a_quarter_of_min_rtt_for_what_may_only_be_reordered() -> None:
    """RFC 8985 6.2 step 5: the reordering timer."""
    peer = sending(2)
    peer.wait(RTT)
    peer.acks(1, sack="1001:2001")
    peer.expect()
    peer.expect_after(RTT / 4, "1:1001 why rack")


def reordered() -> Peer:
    """A connection that has seen segments overtake each other; five more are in flight."""
    peer = sending(4, writes=4000)
    peer.wait(RTT)
    peer.acks(1, sack="1001:2001")
    peer.acks(2001)
    peer.acks(4001)
    peer.expect()
    peer.app_writes(5000)
    peer.expect(*flight(4001, 5))
    return peer


def test_rack_once_reordering_was_seen_waits_also_after_the_third_sack() -> None:
    """RFC 8985 6.2 steps 3 and 4: a quarter of min_RTT, and nothing is sent that comes by then."""
    peer = reordered()
    peer.wait(RTT)
    for end in (6001, 7001, 8001, 9001):
        peer.acks(4001, sack=f"5001:{end}")
    peer.expect()
    peer.wait(RTT / 4 - 0.001)
    peer.acks(9001)
    peer.expect()
    assert peer.conn.cc.ssthresh > 1 << 40, "no loss was believed in"


def test_rack_once_reordering_was_seen_a_real_loss_is_resent_after_the_window() -> None:
    peer = reordered()
    peer.wait(RTT)
    for end in (6001, 7001, 8001, 9001):
        peer.acks(4001, sack=f"5001:{end}")
    peer.expect_after(RTT / 4, "4001:5001 why rack")


def test_rack_a_dsack_for_what_it_has_resent_is_reordering() -> None:
    """It was overtaken, and had it not been resent the ACK would have told (6.2 step 3)."""
    peer = sending(6, writes=6000)
    peer.wait(RTT)
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    peer.expect("1:1001 why rack")
    peer.acks(6001)
    peer.wait(RTT)
    peer.acks(6001, sack="1:1001")
    assert peer.conn.recovery._seen
    assert peer.conn.cc.ssthresh > 1 << 40, "and nothing was lost"


def test_rack_a_dsack_for_what_the_network_has_sent_twice_is_nothing() -> None:
    peer = sending(6, writes=6000)
    peer.wait(RTT)
    peer.acks(2001)
    peer.acks(2001, sack="1:1001")
    assert not peer.conn.recovery._seen


def test_rack_a_repaired_loss_is_no_reordering() -> None:
    """RFC 8985 6.2 step 3: what was SACKed before is no news when it is acknowledged."""
    peer = sending(6, writes=6000)
    peer.wait(RTT)
    for end in (2001, 3001, 4001, 5001, 6001):
        peer.acks(1, sack=f"1001:{end}")
    peer.expect("1:1001 why rack")
    peer.wait(RTT)
    peer.acks(6001)
    peer.app_writes(3000)
    peer.expect(*flight(6001, 3))
    peer.wait(RTT)
    peer.acks(6001, sack="7001:9001")  # two: the window is still that of a calm network
    peer.expect_after(RTT / 4, "6001:7001 why rack")
    assert not peer.conn.recovery._seen


def lose_a_retransmission(recovery: str) -> Peer:
    """The first of ten segments is lost, and so is its retransmission; the rest arrives."""
    peer = sending(10, writes=60_000, recovery=recovery)
    peer.wait(RTT)
    for end in range(2001, 11_001, 1000):
        peer.acks(1, sack=f"1001:{end}")
    assert sum(". 1:1001" in segment for segment in peer.sent()) == 1
    peer.wait(RTT)
    assert peer.conn.tcb.snd.nxt > 12_001
    for end in range(11_001, peer.conn.tcb.snd.nxt, 1000):
        peer.acks(1, sack=f"1001:{end + 1000}")
    return peer


def test_rack_a_lost_retransmission_is_repaired_without_a_timeout() -> None:
    peer = lose_a_retransmission("rack")
    again = [segment for segment in peer.sent() if ". 1:1001" in segment]
    assert [segment.split("why ")[1] for segment in again] == ["rack"]


@pytest.mark.parametrize("recovery", ["newreno", "sack"])
def test_the_others_need_a_timeout_for_a_lost_retransmission(recovery: str) -> None:
    peer = lose_a_retransmission(recovery)
    assert not [segment for segment in peer.sent() if ". 1:1001" in segment]
    peer.wait(1)
    assert any(". 1:1001" in s and s.endswith("why timeout") for s in peer.sent())


def test_rack_rtt_is_that_of_what_arrived_last() -> None:
    """RFC 8985 5.3, 6.2 step 2: RACK.rtt is measured by each ACK, also of what was overtaken."""
    peer = sending(4, writes=4000)
    peer.wait(RTT)
    peer.acks(1, sack="2001:3001")
    assert peer.conn.recovery._rtt == 100_000_000
    peer.wait(0.01)
    peer.acks(1, sack="1001:3001")
    assert peer.conn.recovery._rtt == 110_000_000


def test_rack_a_timeout_spares_what_may_only_be_reordered() -> None:
    """RFC 8985 6.3: lost is what was sent RACK.rtt and RACK.reo_wnd ago."""
    peer = sending(2, writes=10_000)
    peer.conn.cc.cwnd = 20_000
    recovery, queue = peer.conn.recovery, peer.conn.queue
    recovery._rtt, recovery._reo_wnd = 100_000_000, 25_000_000
    first = queue.spans[0].sent
    assert len(recovery.overdue(queue, first + 124_999_999)) == 0
    assert len(recovery.overdue(queue, first + 125_000_000)) == 2


def test_rack_dsack_widens_the_window_once_a_round() -> None:
    """RFC 8985 6.2 step 4: RACK.reo_wnd_mult."""
    peer = sending(6)
    peer.wait(RTT)
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    peer.expect("1:1001 why rack")
    peer.acks(6001)
    peer.app_writes(1000)  # SND.NXT lies beyond SND.UNA, so that the round lasts
    peer.expect("6001:7001")
    for _ in range(2):
        peer.acks(6001, sack="1:1001")
    assert peer.conn.recovery._reo_wnd_mult == 2


# --- TLP: RFC 8985 7 ---


def test_tlp_probe_is_new_data_when_there_is_some() -> None:
    """RFC 8985 7.2, 7.3: after 2*SRTT, whatever cwnd says."""
    peer = sending(2, writes=5000)
    peer.expect_after(2 * RTT, "2001:3001(1000) why tail-loss-probe")


def test_tlp_probe_is_the_last_segment_when_there_is_nothing_new() -> None:
    peer = sending(3)
    peer.expect_after(2 * RTT, "2001:3001(1000) why tail-loss-probe")


def test_tlp_one_segment_out_waits_for_a_delayed_ack_but_never_longer_than_the_rto() -> None:
    """RFC 8985 7.2: TLP.max_ack_delay; the RTO is 0.3 s here."""
    peer = sending(1)
    peer.expect_after(0.3, "1:1001(1000) why tail-loss-probe")
    peer.expect_after(0.3, "1:1001(1000) why timeout")


def test_tlp_is_not_sent_twice_without_an_rtt_between() -> None:
    """RFC 8985 7.3: then comes the timeout."""
    peer = sending(3)
    peer.expect_after(2 * RTT, "2001:3001(1000) why tail-loss-probe")
    peer.expect_after(0.3, "1:1001(1000) why timeout")


def test_tlp_lost_tail_is_found_by_the_answer_to_new_data() -> None:
    peer = sending(3, writes=4000)
    peer.wait(0.05)
    peer.acks(1)
    peer.wait(2 * RTT - 0.05)
    peer.expect("3001:4001(1000) why tail-loss-probe")
    peer.wait(RTT)
    peer.acks(1, sack="3001:4001")
    peer.expect("1:1001 why rack")  # all three are lost, and one segment has arrived: PRR
    assert peer.conn.queue.lost_octets == 2000


def tail_lost() -> Peer:
    """The last of ten segments is lost, and the probe has repaired that."""
    peer = sending(10)
    peer.wait(RTT)
    peer.acks(9001)
    peer.expect_after(0.25, "9001:10001(1000) why tail-loss-probe")  # the RTO, with its 3/4 rttvar
    peer.wait(RTT)
    return peer


def test_tlp_repaired_loss_halves_cwnd_once() -> None:
    """RFC 8985 7.4.2: an acknowledgment beyond the probe, and no D-SACK."""
    peer = tail_lost()
    before = peer.conn.cc.cwnd
    peer.acks(10_001)
    peer.app_writes(2000)
    peer.expect(*flight(10_001, 2))
    peer.wait(RTT)
    peer.acks(12_001)
    assert peer.conn.cc.cwnd == peer.conn.cc.ssthresh
    assert 0.4 * before < peer.conn.cc.cwnd < 0.6 * before + 1000
    peer.app_writes(2000)
    peer.sent()
    peer.wait(RTT)
    ssthresh = peer.conn.cc.ssthresh
    peer.acks(14_001)
    assert peer.conn.cc.ssthresh == ssthresh


def test_tlp_needless_probe_leaves_cwnd() -> None:
    """RFC 8985 7.4.2: its D-SACK shows that nothing was lost."""
    peer = tail_lost()
    peer.acks(10_001)
    peer.acks(10_001, sack="9001:10001")
    before = peer.conn.cc.cwnd
    peer.app_writes(2000)
    peer.sent()
    peer.wait(RTT)
    peer.acks(12_001)
    assert peer.conn.cc.cwnd >= before
    assert peer.conn.cc.ssthresh > 1 << 40


def test_tlp_needs_a_round_trip_time() -> None:
    """RFC 8985 7.3: no probe before the connection has measured one; the SYN went twice here."""
    peer = Peer(timestamps=False, window_scale=False, initial_window=10_000)
    peer.connects()
    peer.wait(1.1)
    peer.sends("S. 0:0 ack 1 win 65535 <mss 1000,sackOK>")
    peer.sent()
    peer.app_writes(2000)
    peer.sent()
    peer.wait(1)
    peer.expect()
    peer.wait(2)
    assert peer.sent()[0].endswith("why timeout")


def test_tlp_a_duplicate_that_sacks_does_not_clear_the_probe() -> None:
    """RFC 8985 7.4.2: the second case is a DUPACK without any SACK option."""
    peer = tail_lost()
    peer.acks(10_001)
    peer.app_writes(3000)
    peer.expect(*flight(10_001, 3))
    peer.wait(RTT)
    peer.acks(10_001, sack="11001:12001")
    peer.acks(10_001, sack="11001:12001")
    peer.wait(0.01)
    peer.acks(11_001, sack="11001:12001")  # beyond the probe, without a D-SACK: a loss was repaired
    assert peer.conn.cc.ssthresh < 1 << 40


# --- spurious timeouts: RFC 5682 ---


def timed_out(recovery: str, sack: bool) -> Peer:
    """Ten segments are out, more is waiting, and the timer has fired."""
    peer = sending(10, writes=60_000, recovery=recovery, sack=sack)
    while not any(segment.endswith("why timeout") for segment in peer.sent()):
        peer.wait(0.1)
    return peer


def test_frto_late_acknowledgments_undo_the_timeout() -> None:
    """RFC 5682 2.1: two acknowledgments that bring something new, with new data between."""
    peer = timed_out("newreno", sack=False)
    peer.acks(2001)
    peer.expect("10001:11001 why data", "11001:12001 why data")
    peer.acks(3001)
    assert peer.conn.recovery.phase is Phase.OPEN
    assert peer.conn.cc.cwnd >= 10_000
    assert peer.conn.cc.ssthresh > 1 << 40
    assert not [s for s in peer.sent() if "go-back-n" in s]


def test_frto_a_duplicate_after_the_new_data_means_a_real_loss() -> None:
    """RFC 5682 2.1 (3a)."""
    peer = timed_out("newreno", sack=False)
    peer.acks(1001)
    peer.expect("10001:11001 why data", "11001:12001 why data")
    peer.acks(1001)
    assert peer.conn.recovery.phase is Phase.LOSS
    assert all("go-back-n" in segment for segment in peer.sent())
    assert peer.conn.cc.ssthresh == 5000


@pytest.mark.parametrize("recovery", ["sack", "rack"])
@pytest.mark.parametrize("second", [{"ack": 4001}, {"ack": 3001, "sack": "5001:6001"}])
def test_frto_with_sack_an_original_after_the_new_data_is_enough(
    recovery: str, second: dict[str, Any]
) -> None:
    """RFC 5682 3.1 (3b): something was acknowledged that was never sent again. Not by the first
    acknowledgment (2): that may come of the repair of a loss, whose other ACKs are lost too.
    """
    peer = timed_out(recovery, sack=True)
    peer.acks(3001)
    assert peer.conn.recovery.phase is Phase.LOSS
    assert [segment.split("why ")[1] for segment in peer.sent()] == ["data", "data"]
    peer.acks(**second)
    assert peer.conn.recovery.phase is Phase.OPEN
    assert peer.conn.cc.cwnd >= 10_000


@pytest.mark.parametrize("recovery", ["sack", "rack"])
def test_frto_with_sack_a_real_timeout_stays_one(recovery: str) -> None:
    """All that was out is lost; only what was sent again is acknowledged."""
    peer = timed_out(recovery, sack=True)
    got, una = {1}, 1
    while peer.conn.recovery.phase is not Phase.OPEN:
        while una in got:
            una += 1000
        beyond = [f"{at}:{at + 1000}" for at in sorted(got) if at > una]
        peer.acks(una, sack=" ".join(beyond[:4]))
        assert peer.conn.cc.ssthresh <= 6000
        got |= {int(segment.split(" ")[1].split(":")[0]) for segment in peer.sent()}
        peer.wait(RTT)
    assert una > 10_001


# --- false alarms by D-SACK: RFC 2883, RFC 3708 ---


@pytest.mark.parametrize("recovery", ["sack", "rack"])
def test_dsack_for_all_that_was_resent_undoes_the_reduction(recovery: str) -> None:
    peer = sending(10, recovery=recovery)
    peer.wait(RTT)
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    assert sum(". 1:1001" in segment for segment in peer.sent()) == 1
    peer.acks(10_001)
    assert peer.conn.cc.ssthresh == 5000
    peer.acks(10_001, sack="1:1001")
    assert peer.conn.cc.cwnd >= 10_000
    assert peer.conn.cc.ssthresh > 1 << 40


def test_dsack_ends_the_probing_after_a_timeout_too() -> None:
    """RFC 5682 3.1: new data goes before what is lost only as long as F-RTO asks; here the D-SACK
    has answered, and the next loss is repaired at once.
    """
    peer = timed_out("sack", sack=True)
    peer.acks(1001)
    peer.expect("10001:11001 why data", "11001:12001 why data")
    peer.acks(1001, sack="1:1001")
    assert peer.conn.recovery.phase is Phase.OPEN
    peer.sent()
    peer.acks(1001, sack="2001:6001")
    assert ". 1001:2001(1000) ack 1 win 65535 <> why sack-hole" in peer.sent()


def test_dsack_for_a_part_of_what_was_resent_undoes_nothing() -> None:
    peer = sending(10, recovery="sack")
    peer.acks(1, sack="1001:2001 3001:4001")
    peer.acks(1, sack="3001:7001 1001:2001")
    resent = peer.sent()
    assert len(resent) == 2
    peer.acks(10_001)
    peer.acks(10_001, sack="1:1001")
    assert peer.conn.cc.ssthresh == 5000


# --- reneging: RFC 2018 8 ---


@pytest.mark.parametrize("recovery", ["sack", "rack"])
def test_peer_that_reneges_gets_all_again_after_a_timeout(recovery: str) -> None:
    """What was SACKed is kept until it is acknowledged, and resent when the peer has lost it."""
    peer = sending(5, recovery=recovery)
    peer.wait(RTT)
    for end in (2001, 3001, 4001, 5001):
        peer.acks(1, sack=f"1001:{end}")
    peer.expect(f"1:1001 why {'rack' if recovery == 'rack' else 'sack-hole'}")
    peer.wait(RTT)
    peer.acks(1001)  # and no SACKs any more
    seen: set[int] = set()
    una = 1001
    for _ in range(20):
        peer.wait(0.4)
        for segment in peer.sent():
            seen.add(int(segment.split(" ")[1].split(":")[0]))
        while una in seen:
            una += 1000
        peer.acks(una)
        if una == 5001:
            break
    assert seen >= {1001, 2001, 3001, 4001}
    assert not peer.conn.queue.spans
    assert peer.now < 3 * 10**9, "one timeout, not one for each segment"


def test_fin_behind_a_hole_is_reported_with_the_data_before_it() -> None:
    """It has a sequence number, and the peer need not send it again."""
    peer = receiving()
    peer.sends("F. 1001:1501")
    assert sacks(peer) == ["1001:1502"]
    peer.sends("F. 1001:1501")
    assert sacks(peer) == ["1001:1502 1001:1502"]


def test_rack_ranges_reported_together_are_no_reordering() -> None:
    """RFC 8985 6.2 step 3: the option has the latest range first, and that means nothing."""
    peer = sending(6)
    peer.wait(RTT)
    peer.acks(1, sack="3001:4001 1001:2001")
    peer.acks(1, sack="3001:5001 1001:2001")
    peer.expect("1:1001 why rack")


def test_rack_what_left_before_a_retransmission_in_the_same_instant_says_nothing_of_it() -> None:
    """RFC 8985 6.2 step 2 compares times, and sequence numbers where these are equal."""
    peer = sending(6, writes=20_000)
    peer.wait(RTT)
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    peer.expect("6001:7001 why data", "7001:8001 why data", "1:1001 why rack")
    peer.wait(RTT)
    peer.acks(1, sack="1001:8001")
    assert not [segment for segment in peer.sent() if ". 1:1001" in segment]


# --- marks: RFC 3168 6.1.2 ---


def ecn_peer(**options: Any) -> Peer:
    peer = Peer(
        timestamps=False,
        window_scale=False,
        ecn="ask",
        initial_window=10_000,
        congestion="reno",
        **options,
    )
    peer.connects()
    peer.sends("SE. 0:0 ack 1 win 65535 <mss 1000,sackOK>")
    peer.sent()
    peer.app_writes(60_000)
    peer.sent()
    return peer


def test_ece_reduces_once_a_window_and_is_answered_by_cwr() -> None:
    peer = ecn_peer()
    peer.sends("E. 1:1 ack 1001")
    assert peer.conn.cc.ssthresh == 5000
    for ack in range(2001, 9001, 1000):
        peer.sends(f"E. 1:1 ack {ack}")
    assert peer.conn.cc.ssthresh == 5000
    flags = [segment.split(" ")[0] for segment in peer.sent()]
    assert sum("C" in letters for letters in flags) == 1
    assert "C" in flags[0]


def test_ece_after_a_loss_of_the_same_window_changes_nothing() -> None:
    """RFC 3168 6.1.2: reduced once for loss or marks, and CWR tells of either."""
    peer = ecn_peer(recovery="sack")
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    assert peer.conn.cc.ssthresh == 5000
    peer.acks(10_001)
    assert any("C" in segment.split(" ")[0] for segment in peer.sent())
    ssthresh = peer.conn.cc.ssthresh
    peer.sends("E. 1:1 ack 10001")
    peer.sends("E. 1:1 ack 11001")
    assert peer.conn.cc.ssthresh == ssthresh


def test_ece_reduction_is_not_undone_by_a_dsack_for_an_earlier_one() -> None:
    peer = ecn_peer(recovery="sack")
    for end in (2001, 3001, 4001):
        peer.acks(1, sack=f"1001:{end}")
    peer.acks(peer.conn.tcb.snd.nxt)
    peer.sent()
    peer.sends(f"E. 1:1 ack {peer.conn.tcb.snd.nxt}")
    ssthresh, sent = peer.conn.cc.ssthresh, peer.sent()
    assert sum("C" in segment.split(" ")[0] for segment in sent) == 1
    peer.acks(peer.conn.tcb.snd.una, sack="1:1001")
    assert peer.conn.cc.ssthresh == ssthresh < 1 << 40


# --- the same losses, five strategies: Fall and Floyd 1996 ---


@cache
def transfer_with_drops(recovery: str, count: int) -> Transfer:
    """So many of one window of some thirty segments are lost, every second one."""
    first = 34
    lost = tuple(range(first, first + 2 * count, 2))
    simulation = Simulation(up=Path(delay=0.05, drop=lost), down=Path(delay=0.05), seed=1)
    transfer = simulation.transfer(150_000, recovery=recovery)
    assert transfer.complete
    return transfer


def drops(recovery: str, count: int) -> tuple[int, list[str], float]:
    """Timeouts, reasons of what was resent, and seconds."""
    transfer = transfer_with_drops(recovery, count)
    table = transfer.log.segments
    assert (table["why"] == "loss").sum() == count
    resent = table[(table["event"] == "send") & (table["len"] > 0) & (table["why"] != "data")]
    causes = list(resent["why"])
    return causes.count("timeout"), causes, transfer.duration


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tahoe_slow_starts_and_sends_needlessly(count: int) -> None:
    timeouts, causes, _ = drops("tahoe", count)
    assert timeouts == 0
    assert causes.count("fast-retransmit") == 1
    assert len(causes) > count or count == 1
    assert lowest_window("tahoe", count) == lowest_window("reno", 3) == 1448
    assert lowest_window("newreno", count) > 1448


def lowest_window(recovery: str, count: int) -> int:
    """The smallest cwnd of the sender, in octets."""
    table = transfer_with_drops(recovery, count).log.segments
    return int(table[table["host"] == "10.0.0.1"]["cwnd"].min())


def test_the_timer_alone_waits_one_rto_whatever_duplicates_say() -> None:
    timeouts, causes, _ = drops("timeout", 1)
    assert timeouts == 1
    assert set(causes) == {"timeout"}
    table = transfer_with_drops("timeout", 1).log.segments
    sent = table[(table["event"] == "send") & (table["len"] > 0)]
    assert sent["time"].diff().max() == pytest.approx(0.2, abs=0.01), "silent for an RTO"


@pytest.mark.parametrize(("count", "timeouts"), [(1, 0), (3, 1), (4, 1)])
def test_reno_needs_a_timeout_for_three_losses(count: int, timeouts: int) -> None:
    assert drops("reno", count)[0] >= timeouts
    if not timeouts:
        assert drops("reno", count)[1] == ["fast-retransmit"]


def test_reno_repairs_two_losses_by_two_fast_retransmits() -> None:
    assert drops("reno", 2)[1].count("fast-retransmit") == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_newreno_repairs_one_hole_a_round_trip(count: int) -> None:
    timeouts, causes, seconds = drops("newreno", count)
    assert timeouts == 0
    assert causes == ["fast-retransmit"] + ["partial-ack"] * (count - 1)
    assert seconds >= drops("newreno", 1)[2] + 0.05 * (count - 2)


@pytest.mark.parametrize("recovery", ["sack", "rack"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sack_repairs_all_holes_in_about_one_round_trip(recovery: str, count: int) -> None:
    timeouts, causes, seconds = drops(recovery, count)
    assert timeouts == 0
    assert len(causes) == count, "nothing is sent needlessly"
    assert seconds <= drops(recovery, 1)[2] + 0.15


def test_the_newer_the_strategy_the_sooner_four_losses_are_repaired() -> None:
    seconds = {recovery: drops(recovery, 4)[2] for recovery in STRATEGIES}
    assert seconds["rack"] <= seconds["newreno"] <= seconds["reno"]
    assert seconds["sack"] <= seconds["newreno"]


# --- whole transfers ---


def resent(path: Path, recovery: str, octets: int = 1_000_000) -> tuple[int, int, int]:
    """Data segments sent again, data segments lost, timeouts."""
    transfer = Simulation(path, seed=path.seed).transfer(octets, recovery=recovery)
    assert transfer.complete
    table = transfer.log.segments
    data = table[(table["host"] == "10.0.0.1") & (table["len"] > 0)]
    sent = data[data["event"] == "send"]["why"]
    lost = (data["event"] == "drop").sum()
    return int((sent != "data").sum()), int(lost), int((sent == "timeout").sum())


@pytest.mark.slow
@pytest.mark.parametrize("held", [0.002, 0.005, 0.009])
def test_rack_reordering_below_a_quarter_of_the_round_trip_costs_nothing(held: float) -> None:
    """Where the strategy that counts segments resends one after the other."""
    path = Path(delay=0.02, reorder=0.05, held=held, seed=1)
    assert resent(path, "rack", 3_000_000)[0] < 7, "once, before it has seen any"
    assert resent(path, "sack", 3_000_000)[0] > 20


@pytest.mark.slow
@pytest.mark.parametrize("recovery", ["sack", "rack"])
def test_sack_a_full_queue_costs_exactly_what_it_dropped(recovery: str) -> None:
    again, lost, timeouts = resent(Path(delay=0.02, rate=10e6, queue=20), recovery)
    assert (again, timeouts) == (lost, 0)
    assert lost > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_rack_random_losses_cost_hardly_a_timeout(seed: int) -> None:
    """Lost acknowledgments in fast recovery may: then there is no probe (RFC 8985 7.2)."""
    again, lost, timeouts = resent(Path(delay=0.02, loss=0.02, seed=seed), "rack")
    assert timeouts <= 1
    assert lost <= again + 1 <= lost + 5  # the last one may be the FIN's


def test_bbr_a_round_trip_of_minutes_still_has_a_rate() -> None:
    """draft-ietf-ccwg-bbr-06 5.6.2: a window of 100 octets in 300 s is less than one a second."""
    peer = Peer(congestion="bbr", mss=100, initial_window=100)
    peer.connects()
    peer.now += 300_000_000_000  # nobody looks at the clock for so long
    peer.sends("S. 0:0 ack 1 <mss 100>")
    assert peer.conn.cc.pacing_rate >= 1
    peer.app_writes(300)
    assert len(peer.sent()) >= 2
    peer.wait(1000)
