"""Timestamps: negotiation, TS.Recent, PAWS (RFC 7323 3, 4, 5)."""

import pytest
from peer import Peer, established, twice  # noqa: F401

from nbtcp import State

DAY = 24 * 3600


def stamped(**options: int) -> Peer:
    """ESTABLISHED with timestamps; the peer's clock shows 1000 at time 0, one a millisecond."""
    return established(tsval=1000, receive_buffer=60_000, **options)


def echo(sent: str) -> int:
    """The TSecr of a segment."""
    return int(sent.split("ecr ")[1].split(">")[0].split(",")[0])


def val(sent: str) -> int:
    return int(sent.split("TS val ")[1].split()[0])


# --- in every segment ---


@pytest.mark.parametrize("passive", [False, True])
def test_every_segment_carries_them_once_negotiated(passive: bool) -> None:
    """RFC 7323 3.2: TSopt MUST be sent in every non-RST segment."""
    peer = stamped(passive=passive)
    peer.app_writes(10)
    peer.sends("1:1001")
    peer.sends("1001:2001")
    peer.app_shuts_down()
    sent = peer.sent()
    assert len(sent) == 3
    assert all("TS val" in text for text in sent)
    assert [echo(text) for text in sent] == [1000, 1000, 1000]


def test_syn_carries_no_echo() -> None:
    """RFC 7323 3.2: TSecr is only valid if the ACK bit is set; else it must be zero."""
    peer = Peer()
    peer.connects()
    (sent,) = peer.sent()
    assert echo(sent) == 0


def test_clock_counts_milliseconds_and_does_not_show_ours() -> None:
    """RFC 7323 4.1, 7.1: one tick between 1 ms and 1 s, with an offset for each connection."""
    peer = stamped(nagle=False)
    peer.app_writes(10)
    peer.wait(0.15)
    peer.app_writes(10)
    first, second = peer.sent()
    assert val(second) - val(first) == 150
    other = stamped(seed=2)
    other.app_writes(10)
    assert abs(val(other.sent()[0]) - val(first)) > 1000


def test_no_timestamps_are_sent_when_the_peer_has_none() -> None:
    """RFC 7323 3.2."""
    peer = established()
    peer.app_writes(10)
    (sent,) = peer.sent()
    assert "TS" not in sent


def test_timestamps_of_a_peer_that_did_not_negotiate_them_are_ignored() -> None:
    """RFC 7323 3.2: MUST ignore it."""
    peer = established(timestamps=False, receive_buffer=60_000, delayed_ack=0)
    peer.sends("1:11 <TS val 5 ecr 0>")
    peer.sends("11:21 <TS val 4 ecr 0>")
    assert peer.app_reads() == 20
    assert not [sent for sent in peer.sent() if "TS" in sent]


# --- TS.Recent (RFC 7323 4.3) ---


def test_echo_is_that_of_the_first_segment_not_yet_acknowledged() -> None:
    """RFC 7323 4.3 (A): delayed ACKs; the RTT then includes the delay."""
    peer = stamped()
    peer.sends("1:101 <TS val 1010 ecr 0>")
    peer.sends("101:201 <TS val 1020 ecr 0>")
    peer.wait(0.04)
    (sent,) = peer.sent()
    assert echo(sent) == 1010


def test_echo_behind_a_hole_is_that_of_the_last_segment_in_order() -> None:
    """RFC 7323 4.3 (B)."""
    peer = stamped(delayed_ack=0)
    peer.sends("1:101 <TS val 1010 ecr 0>")
    peer.sends("201:301 <TS val 1030 ecr 0>")
    peer.sends("301:401 <TS val 1040 ecr 0>")
    assert [echo(sent) for sent in peer.sent()] == [1010, 1010, 1010]


def test_echo_of_what_fills_a_hole_is_its_own() -> None:
    """RFC 7323 4.3 (C)."""
    peer = stamped(delayed_ack=0)
    peer.sends("101:201 <TS val 1010 ecr 0>")
    peer.sends("1:101 <TS val 1020 ecr 0>")
    assert [echo(sent) for sent in peer.sent()] == [1000, 1020]


def test_echo_of_a_pure_acknowledgment_is_taken() -> None:
    peer = stamped()
    peer.app_writes(10)
    peer.sends(". 1:1 ack 11 <TS val 1234 ecr 0>")
    peer.app_writes(10)
    assert echo(peer.sent()[-1]) == 1234


def test_echo_of_an_ack_that_does_not_advance_una_is_no_sample() -> None:
    """RFC 7323 4.1: TSecr MAY be used only if the segment advances the left edge of the window;
    else it is that of an earlier segment, and says nothing of the one that is SACKed now (Karn).
    """
    peer = stamped(mss=1012, cwnd=20_000, sack=True, recovery="sack", congestion="fixed")
    peer.app_writes(20_000)
    peer.wait(0.1)
    peer.acks(1, sack="10001:20001")
    while "2001:3001" not in " ".join(peer.sent()):  # the first three are sent again, at once
        peer.acks(1, sack="10001:20001")
    peer.wait(0.05)
    peer.acks(1001, sack="10001:20001")  # the first has arrived
    before = peer.conn.rtt.srtt
    peer.wait(0.01)
    peer.acks(1001, sack="2001:3001 10001:20001")  # the third, as it was sent first perhaps
    assert peer.conn.rtt.srtt == before


# --- PAWS (RFC 7323 5.3) ---


@pytest.mark.parametrize("flags", [".", "P.", "F."])
def test_old_timestamp_is_answered_and_dropped(flags: str) -> None:
    """RFC 7323 5.3 R1: send an acknowledgment, drop the segment."""
    peer = stamped()
    assert peer.sends(f"{flags} 1:11 ack 1 <TS val 999 ecr 0>") == "paws"
    (sent,) = peer.sent()
    assert sent.startswith(". 1:1(0) ack 1 ")
    assert echo(sent) == 1000
    assert peer.app_reads() == 0
    assert peer.state is State.ESTABLISHED


def test_old_timestamp_acknowledges_nothing() -> None:
    """RFC 7323 5.3 R1: the whole segment is dropped."""
    peer = stamped()
    peer.app_writes(10)
    peer.sends(". 1:1 ack 11 <TS val 999 ecr 0>")
    assert peer.conn.tcb.snd.una == 1


def test_same_timestamp_is_no_old_one() -> None:
    peer = stamped()
    assert peer.sends("1:11 <TS val 1000 ecr 0>") == "in-order"


def test_timestamps_wrap() -> None:
    """RFC 7323 5.2: compared modulo 2^32."""
    peer = established(tsval=(1 << 32) - 5, receive_buffer=60_000)
    assert peer.sends("1:11 <TS val 3 ecr 0>") == "in-order"
    assert peer.sends("11:21 <TS val 4294967290 ecr 0>") == "paws"


def test_missing_timestamp_is_dropped() -> None:
    """RFC 7323 3.2: a non-RST segment without TSopt SHOULD be dropped, silently."""
    peer = stamped()
    assert peer.sends("1:11 <>") == "options-missing"
    peer.expect()
    assert peer.conn.tcb.rcv.nxt == 1


@pytest.mark.parametrize("options", ["<mss 1460>", "<mss 1460,TS val 5 ecr 0>"])
@pytest.mark.parametrize("ahead", [1, 400_000])
def test_syn_without_or_with_an_old_timestamp_is_answered(options: str, ahead: int) -> None:
    """RFC 5961 4.2 MUST, over RFC 7323 3.2 SHOULD: a peer that began anew learns of our half."""
    peer = stamped()
    peer.sends(f"S {1 + ahead}:{1 + ahead} {options}")
    (sent,) = peer.sent()
    assert sent.startswith(". 1:1(0) ack 1 ")
    assert peer.state is State.ESTABLISHED


@pytest.mark.parametrize("options", ["<>", "<TS val 1 ecr 0>"])
def test_rst_without_or_with_an_old_timestamp_is_accepted(options: str) -> None:
    """RFC 7323 5.3 R1: and if the RST bit is not set."""
    peer = stamped()
    peer.sends(f"R 1:1 {options}")
    assert peer.state is State.CLOSED


def test_unacceptable_segment_does_not_update_ts_recent() -> None:
    """RFC 7323 5.3 R2, R3."""
    peer = stamped()
    peer.sends("-500:-400 <TS val 90000 ecr 0>")
    assert peer.conn.tcb.ts.recent == 1000
    assert peer.sends("1:11") == "in-order"


def test_segment_beyond_the_last_ack_does_not_update_ts_recent() -> None:
    """RFC 7323 5.3 R3: SEG.SEQ =< Last.ACK.sent."""
    peer = stamped()
    peer.sends("101:201 <TS val 90000 ecr 0>")
    assert peer.conn.tcb.ts.recent == 1000


def test_after_24_days_ts_recent_is_no_longer_valid() -> None:
    """RFC 7323 5.5: a connection idle so long must not drop what comes."""
    peer = stamped()
    peer.wait(24 * DAY - 1)
    assert peer.sends("1:11 <TS val 999 ecr 0>") == "paws"
    peer.wait(2)
    assert peer.sends("1:11 <TS val 999 ecr 0>") == "in-order"
    assert peer.conn.tcb.ts.recent == 999


def test_after_24_days_an_unacceptable_segment_still_does_not_update_ts_recent() -> None:
    """RFC 7323 5.5: it is rule R3 that updates TS.Recent, after R2 has looked at the window."""
    peer = stamped()
    peer.wait(24 * DAY + 1)
    assert peer.sends("-500:-400 <TS val 999 ecr 0>") == "duplicate"
    assert peer.conn.tcb.ts.recent == 1000


def test_rst_does_not_update_ts_recent() -> None:
    """RFC 7323 5.3: a RST passes without R1, so its timestamp may be any; TIME-WAIT stays, and may
    need TS.Recent for the next SYN (RFC 6191).
    """
    peer = stamped()
    peer.app_shuts_down()
    peer.sends("F. 1:1 ack 2")
    assert peer.state is State.TIME_WAIT
    assert peer.sends("R 2:2 <TS val 900 ecr 0>") == "time-wait-rst"
    assert peer.conn.tcb.ts.recent == 1000


def test_old_duplicate_of_the_previous_lap_is_dropped() -> None:
    """RFC 7323 5.1: what PAWS is for; the same number, 2^32 octets earlier."""
    peer = stamped(delayed_ack=0)
    peer.wait(100)
    peer.sends("1:11")
    assert peer.sends("11:21 <TS val 1500 ecr 0>") == "paws"
    assert peer.sends("11:21") == "in-order"
    assert peer.app_reads() == 20
