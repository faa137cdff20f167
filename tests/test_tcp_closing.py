"""Closing: RFC 9293 3.6, 3.10.4, 3.10.5, and the eighth step of 3.10.7.4."""

import itertools
from typing import Any

import pytest
from peer import MODULUS, NANOSECOND, PEER, US, Peer, established, twice  # noqa: F401

from nbtcp import State
from nbtcp.wire.segment import SYN, Segment, build, pack_flow

# --- we close first ---


def test_established_shutdown_goes_through_all_states_of_the_active_side() -> None:
    """RFC 9293 figure 12 (L-16, L-17)."""
    peer = established()
    peer.app_shuts_down()
    peer.expect("F. 1:1(0) ack 1 why fin")
    assert peer.state is State.FIN_WAIT_1
    peer.acks(2)
    peer.expect()
    assert peer.state is State.FIN_WAIT_2
    assert not peer.conn.eof
    peer.sends("F. 1:1(0) ack 2")
    peer.expect(". 2:2(0) ack 2")
    assert peer.state is State.TIME_WAIT
    assert peer.conn.eof
    assert peer.conn.error is None


def test_fin_wait_1_fin_that_acknowledges_ours_goes_to_time_wait() -> None:
    """RFC 9293 3.10.7.4, eighth: if our FIN has been ACKed, perhaps in this segment (L-17)."""
    peer = established()
    peer.app_shuts_down()
    peer.sends("F. 1:1(0) ack 2")
    peer.expect("F. 1:1(0) ack 1", ". 2:2(0) ack 2")
    assert peer.state is State.TIME_WAIT


def test_fin_wait_1_fin_without_ack_of_ours_goes_to_closing() -> None:
    """RFC 9293 figure 13: simultaneous close (L-16, L-17)."""
    peer = established()
    peer.app_shuts_down()
    peer.sends("F. 1:1(0) ack 1")
    peer.expect("F. 1:1(0) ack 1", ". 2:2(0) ack 2")
    assert peer.state is State.CLOSING
    peer.acks(2)
    peer.expect()
    assert peer.state is State.TIME_WAIT


def test_closing_other_segments_are_ignored() -> None:
    """RFC 9293 3.10.7.4, fifth: otherwise, ignore the segment."""
    peer = established()
    peer.app_shuts_down()
    peer.sends("F. 1:1(0) ack 1")
    peer.sent()
    peer.acks(1)
    peer.sends(". 2:12(10) ack 1")  # text behind the FIN
    peer.expect()
    assert peer.state is State.CLOSING
    assert peer.app_reads() == 0


# --- the peer closes first ---


def test_established_fin_goes_through_all_states_of_the_passive_side() -> None:
    """RFC 9293 figure 12, the other side (L-16, L-17)."""
    peer = established()
    peer.sends("F. 1:1(0) ack 1")
    peer.expect(". 1:1(0) ack 2")
    assert peer.state is State.CLOSE_WAIT
    assert peer.conn.eof
    peer.app_shuts_down()
    peer.expect("F. 1:1(0) ack 2 why fin")
    assert peer.state is State.LAST_ACK
    peer.acks(2)
    peer.expect()
    assert peer.state is State.CLOSED
    assert peer.conn.error is None
    assert not peer.stack.connections
    assert peer.stack.deadline() is None


def test_close_wait_data_is_sent_until_we_close() -> None:
    """RFC 9293 3.6: half-closed by the peer."""
    peer = established(mss=1000)
    peer.sends("F. 1:1(0) ack 1")
    peer.app_writes(2500)
    peer.expect(". 1:1 ack 2", ". 1:1001 ack 2", ". 1001:2001", "P. 2001:2501")
    peer.app_shuts_down()
    peer.expect("F. 2501:2501(0) ack 2")
    peer.acks(2502)
    assert peer.state is State.CLOSED


def test_fin_wait_2_data_is_received_until_the_peer_closes() -> None:
    """RFC 9293 3.6, L-27: half-closed by us, reading goes on."""
    peer = established()
    peer.app_shuts_down()
    peer.acks(2)
    peer.sends("P. 1:1001(1000)")
    peer.sends("FP. 1001:1501(500)")
    assert peer.app_reads() == 1500
    assert peer.conn.eof
    assert peer.state is State.TIME_WAIT
    peer.expect("F. 1:1 ack 1", ". 2:2 ack 1502")


@pytest.mark.parametrize("order", list(itertools.permutations(["fin", "ack", "shutdown"])))
def test_fin_in_every_order_ends_well(order: tuple[str, ...]) -> None:
    """RFC 9293 3.6: our close, the peer's FIN, and its ACK of our FIN when there is one."""
    peer = established()
    acked = False
    for step in [*order, "ack", "fin"]:
        if step == "shutdown":
            peer.app_shuts_down()
        elif step == "fin":
            peer.sends(f"F. 1:1(0) ack {peer.acked}")
        else:
            acked = acked or peer.conn.tcb.snd.nxt == 2
            peer.sends(f". {peer.nxt}:{peer.nxt} ack {peer.conn.tcb.snd.nxt}")
    assert acked
    assert peer.state in (State.TIME_WAIT, State.CLOSED)
    peer.wait(60)
    assert peer.state is State.CLOSED
    assert peer.conn.error is None
    assert peer.stack.deadline() is None


# --- FIN and data ---


def test_fin_follows_what_is_queued() -> None:
    """RFC 9293 3.10.4: queue this until all preceding SENDs have been segmentized (L-27)."""
    peer = established(mss=1000, cwnd=2000)
    with peer.batch():
        peer.app_writes(2500)
        peer.app_shuts_down()
    peer.expect("1:1001", "1001:2001")
    assert peer.state is State.FIN_WAIT_1
    peer.acks(2001)
    peer.expect("FP. 2001:2501(500)")
    peer.acks(2501)
    assert peer.state is State.FIN_WAIT_1
    peer.acks(2502)
    assert peer.state is State.FIN_WAIT_2


def test_fin_with_data_is_taken_with_it() -> None:
    """RFC 9293 3.10.7.4, seventh and eighth: data with a FIN is not lost."""
    peer = established()
    assert peer.sends("FP. 1:101(100) ack 1") == "in-order"
    peer.expect(". 1:1(0) ack 102")
    assert not peer.conn.eof
    assert peer.app_reads() == 100
    assert peer.conn.eof
    assert peer.state is State.CLOSE_WAIT


def test_fin_behind_a_hole_waits_for_it() -> None:
    """RFC 9293 3.10.7.4: segments are processed in sequence (L-17)."""
    peer = established()
    peer.sends("FP. 101:201(100) ack 1")
    peer.expect(". 1:1(0) ack 1 why duplicate-ack")
    assert peer.state is State.ESTABLISHED
    assert not peer.conn.eof
    peer.sends(". 1:101(100) ack 1")
    peer.expect(". 1:1(0) ack 202")
    assert peer.state is State.CLOSE_WAIT
    assert peer.app_reads() == 200


def test_bare_fin_behind_a_hole_waits_for_it() -> None:
    """RFC 9293 3.10.7.4, eighth."""
    peer = established()
    peer.sends("F. 101:101(0) ack 1")
    assert peer.state is State.ESTABLISHED
    peer.sent()
    peer.sends(". 1:101(100) ack 1")
    peer.expect(". 1:1(0) ack 102")
    assert peer.state is State.CLOSE_WAIT


def test_bare_fin_behind_a_hole_is_acknowledged_at_once() -> None:
    """RFC 9293 3.8.6.3: segments above a gap in sequence space are."""
    peer = established()
    peer.sends("F. 101:101(0) ack 1")
    peer.expect(". 1:1(0) ack 1 why duplicate-ack")


def test_text_behind_the_fin_is_ignored() -> None:
    """RFC 9293 3.10.7.4, seventh (L-18)."""
    peer = established()
    peer.sends("F. 1:1(0) ack 1")
    peer.sends("P. 2:12(10) ack 1")
    assert peer.app_reads() == 0
    assert peer.conn.tcb.rcv.nxt == 2


def test_text_that_claims_to_lie_behind_the_fin_does_not_hide_it() -> None:
    """RFC 9293 3.10.7.4 (L-18): the FIN came first, so the stream ends there."""
    peer = established()
    peer.sends("F. 11:11(0) ack 1")
    peer.sends("P. 1:21(20) ack 1")
    assert peer.app_reads() == 10
    assert peer.conn.eof
    assert peer.state is State.CLOSE_WAIT


@pytest.mark.parametrize("state", [State.CLOSE_WAIT, State.LAST_ACK])
def test_fin_that_comes_again_is_acknowledged_again(state: State) -> None:
    """RFC 9293 3.10.7.4, eighth: remain in the state; the ACK was lost."""
    peer = established()
    peer.sends("F. 1:1(0) ack 1")
    if state is State.LAST_ACK:
        peer.app_shuts_down()
    peer.sent()
    assert peer.sends("F. 1:1(0) ack 1") == "duplicate"
    at = peer.conn.tcb.snd.nxt
    peer.expect(f". {at}:{at}(0) ack 2")
    assert peer.state is state


def test_fin_is_sent_again_when_it_is_lost() -> None:
    """RFC 9293 3.8.1: the FIN occupies a sequence number."""
    peer = established()
    peer.app_writes(10)
    peer.app_shuts_down()
    peer.expect("P. 1:11(10)", "F. 11:11(0)")
    peer.acks(11)
    peer.expect_after(0.2, "F. 11:11(0) why timeout")
    peer.expect_after(0.4, "F. 11:11(0) why timeout")
    peer.acks(12)
    assert peer.state is State.FIN_WAIT_2


def test_second_shutdown_sends_no_second_fin() -> None:
    """RFC 9293 3.10.4: as long as a second FIN is not emitted."""
    peer = established()
    peer.app_shuts_down()
    peer.app_shuts_down()
    peer.app_closes()
    peer.expect("F. 1:1(0)")
    with pytest.raises(BrokenPipeError, match="cannot send in FIN-WAIT-1"):
        peer.conn.send(b"x", peer.now)


# --- TIME-WAIT ---


def test_time_wait_lasts_as_long_as_configured() -> None:
    """RFC 9293 MUST-13, L-21."""
    peer = established(time_wait=240)
    peer.app_closes()
    peer.sends("F. 1:1(0) ack 2")
    peer.wait(240 - NANOSECOND)
    assert peer.state is State.TIME_WAIT
    peer.wait(NANOSECOND)
    assert peer.state is State.CLOSED
    assert not peer.stack.connections
    assert peer.stack.deadline() is None


def test_time_wait_fin_that_comes_again_is_acknowledged_and_restarts_the_timer() -> None:
    """RFC 9293 3.10.7.4 (L-16)."""
    peer = established(time_wait=60)
    peer.app_closes()
    peer.sends("F. 1:1(0) ack 2")
    peer.sent()
    peer.wait(59)
    peer.sends("F. 1:1(0) ack 2")
    peer.expect(". 2:2(0) ack 2")
    peer.wait(60 - NANOSECOND)
    assert peer.state is State.TIME_WAIT
    peer.wait(NANOSECOND)
    assert peer.state is State.CLOSED


def test_time_wait_other_segments_do_not_restart_the_timer() -> None:
    """RFC 9293 3.10.7.4: only the retransmission of the FIN does."""
    peer = established(time_wait=60)
    peer.app_closes()
    peer.sends("F. 1:1(0) ack 2")
    peer.wait(59)
    peer.acks(2)
    peer.sends("P. 1:1(0) ack 2")
    peer.wait(1)
    assert peer.state is State.CLOSED


def test_time_wait_syn_gets_a_challenge_ack() -> None:
    """RFC 5961 4.2: irrespective of the sequence number."""
    peer = established()
    peer.app_closes()
    peer.sends("F. 1:1(0) ack 2")
    peer.sent()
    peer.sends("S 500000:500000(0)")
    peer.expect(". 2:2(0) ack 2 why challenge-ack")
    peer.sends("S 5000:5000(0)")
    peer.expect(". 2:2(0) ack 2 why challenge-ack")
    assert peer.state is State.TIME_WAIT


# --- TIME-WAIT is ended by a new connection ---


def waiting(**options: Any) -> Peer:
    """TIME-WAIT on a listening port; the peer's last sequence number was 1."""
    peer = established(passive=True, **options)
    peer.app_closes()
    peer.sends("F. 1:1 ack 2")
    assert peer.state is State.TIME_WAIT
    peer.sent()
    return peer


@pytest.mark.parametrize(("ahead", "seq"), [(0, 5000), (1, 5000), (1, -5000), (1, 1)])
def test_time_wait_syn_with_a_newer_timestamp_opens_anew(ahead: int, seq: int) -> None:
    """RFC 6191 2 (SHLD-4): whatever its number; with the same timestamp the number decides."""
    peer = waiting(tsval=1000)
    old = peer.irs + 2
    peer.sends(f"S {seq}:{seq} <mss 1000,TS val {1000 + ahead} ecr 0>")
    (conn,) = peer.stack.connections
    assert conn.state is State.SYN_RECEIVED
    peer.expect(f"S. 0:0 ack {(seq + 1) % MODULUS}")
    assert 0 < (peer.irs - old) % MODULUS < MODULUS // 2, "MAY-2: an ISN above all that was used"
    peer.sends(f". {seq + 1}:{seq + 1} ack 1 <TS val 1001 ecr 0>")
    assert conn.state is State.ESTABLISHED


@pytest.mark.parametrize(("ahead", "seq"), [(0, -5000), (0, 1), (-1, 5000), (-1000, 5000)])
def test_time_wait_syn_with_an_older_timestamp_changes_nothing(ahead: int, seq: int) -> None:
    """RFC 6191 2 (SHLD-4)."""
    peer = waiting(tsval=1000)
    peer.sends(f"S {seq}:{seq} <mss 1000,TS val {1000 + ahead} ecr 0>")
    peer.expect(". 2:2 ack 2 why challenge-ack")
    assert peer.state is State.TIME_WAIT


@pytest.mark.parametrize("tsval", [None, 1000])
def test_time_wait_syn_with_a_newer_number_opens_anew(tsval: int | None) -> None:
    """RFC 9293 MAY-2; RFC 6191 2: a SYN without timestamps, after a connection with or without."""
    peer = waiting(tsval=tsval)
    old = peer.irs + 2
    peer.sends("S 5000:5000 <mss 1000>")
    peer.expect("S. 0:0 ack 5001")
    assert 0 < (peer.irs - old) % MODULUS < MODULUS // 2
    peer.acks(1)
    assert [conn.state for conn in peer.stack.connections] == [State.ESTABLISHED]


def test_time_wait_syn_with_an_older_number_changes_nothing() -> None:
    """RFC 9293 MAY-2."""
    peer = waiting()
    peer.sends("S -5000:-5000 <mss 1000>")
    peer.expect(". 2:2 ack 2 why challenge-ack")
    assert peer.state is State.TIME_WAIT


def test_time_wait_new_isn_is_above_what_a_fast_connection_used() -> None:
    """RFC 9293 MAY-2 (1): the clock alone would give a number within it."""
    peer = established(passive=True, win=60_000, cwnd=60_000)
    for end in range(50_001, 500_002, 50_000):
        peer.app_writes(50_000)
        peer.acks(end)
    peer.app_closes()
    peer.sends("F. 1:1 ack 500002")
    peer.sent()
    old = peer.irs + 500_002
    peer.sends("S 5000:5000 <mss 1000>")
    peer.expect("S. 0:0 ack 5001")
    assert 0 < (peer.irs - old) % MODULUS < MODULUS // 2


@pytest.mark.parametrize("flags", ["S.", "SR"])
def test_time_wait_only_a_plain_syn_opens_anew(flags: str) -> None:
    """RFC 9293 3.6.1."""
    peer = waiting()
    peer.sends(f"{flags} 5000:5000 ack 2")
    assert peer.state is State.TIME_WAIT


def test_time_wait_stays_when_the_listener_takes_nobody() -> None:
    """RFC 9293 MAY-2: it is left to accept a SYN, not to drop one."""
    peer = Peer()
    peer.listens(backlog=1)
    peer.sends("S 0:0 <mss 1000>")
    peer.acks(1)
    assert len(peer.listener) == 1, "nobody accepts it, so the queue is full"
    peer.app_closes()
    peer.sends("F. 1:1 ack 2")
    peer.sent()
    peer.sends("S 5000:5000 <mss 1000>")
    assert peer.state is State.TIME_WAIT


@pytest.mark.parametrize("cookies", [False, True])
def test_time_wait_ends_for_a_full_syn_queue_only_where_a_cookie_answers(cookies: bool) -> None:
    """RFC 9293 MAY-2, as above; RFC 4987 3.6."""
    peer = Peer(syn_cookies=cookies)
    peer.listens(backlog=1)
    peer.sends("S 0:0 <mss 1000>")
    peer.acks(1)
    assert peer.listener.accept() is peer.conn
    peer.app_closes()
    peer.sends("F. 1:1 ack 2")
    peer.sent()
    other = Segment(pack_flow((PEER, 4001), (US, 80)), SYN, 7, 0, 1000)
    peer.stack.receive(build(other), peer.now)
    assert len(peer.stack.transmit(peer.now)) == 1, "the SYN queue has room for one"
    why = peer.sends("S 5000:5000 <mss 1000>")
    assert (why == "cookie") == cookies
    assert (peer.conn.state is State.TIME_WAIT) == (not cookies)


def test_time_wait_syn_that_has_timestamps_after_a_connection_without_opens_anew() -> None:
    """RFC 6191 2 (SHLD-4): its number does not matter."""
    peer = waiting()
    peer.sends("S -5000:-5000 <mss 1000,TS val 5 ecr 0>")
    assert [conn.state for conn in peer.stack.connections] == [State.SYN_RECEIVED]


# --- FIN-WAIT-2 ---


def test_fin_wait_2_after_close_does_not_wait_for_ever() -> None:
    """A peer that never closes must not hold an orphan for ever (as Linux, tcp_fin_timeout)."""
    peer = established(time_wait=60)
    peer.app_closes()
    peer.acks(2)
    assert peer.state is State.FIN_WAIT_2
    peer.wait(60 - NANOSECOND)
    assert peer.state is State.FIN_WAIT_2
    peer.wait(NANOSECOND)
    assert peer.state is State.CLOSED
    assert not peer.stack.connections


def test_fin_wait_2_closed_later_does_not_wait_for_ever() -> None:
    """The same when the half-closed connection has been quiet before the close."""
    peer = established(time_wait=60)
    peer.app_shuts_down()
    peer.acks(2)
    peer.wait(1000)  # a half-close may last
    assert peer.state is State.FIN_WAIT_2
    peer.app_closes()
    assert peer.stack.deadline() == peer.now + 60_000_000_000
    peer.wait(60)
    assert peer.state is State.CLOSED
    assert not peer.stack.connections


# --- what is lost is told (SHLD-3) ---


@pytest.mark.parametrize("peer_closed", [False, True])
def test_close_with_unread_data_resets(peer_closed: bool) -> None:
    """RFC 9293 SHLD-3."""
    peer = established()
    peer.sends("P. 1:101(100) ack 1")
    if peer_closed:
        peer.sends("F. 101:101(0) ack 1")
    peer.sent()
    peer.app_closes()
    peer.expect("R 1:1(0)")
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionAbortedError)


@pytest.mark.parametrize("state", [State.CLOSING, State.LAST_ACK])
def test_close_with_unread_data_after_both_fins_loses_nothing_in_silence(state: State) -> None:
    """RFC 9293 SHLD-3: a RST; or 3.10.4: nothing changes, and what is queued is delivered."""
    peer = established(mss=1000, cwnd=1000)
    peer.app_writes(5000)
    if state is State.CLOSING:
        peer.app_shuts_down()
    peer.sends("FP. 1:101(100) ack 1")
    if state is State.LAST_ACK:
        peer.app_shuts_down()
    peer.sent()
    peer.app_closes()
    if not any(sent.startswith("R") for sent in peer.sent()):
        peer.acks(1001)
        assert "1001:2001" in peer.sent()[0]


def test_time_wait_close_with_unread_data_stays() -> None:
    """RFC 9293 3.10.4: CLOSE changes nothing in TIME-WAIT, which lasts (MUST-13)."""
    peer = established()
    peer.app_shuts_down()
    peer.sends("FP. 1:101(100) ack 2")
    peer.sent()
    peer.app_closes()
    peer.expect()
    assert peer.state is State.TIME_WAIT


def test_close_after_reading_all_does_not_reset() -> None:
    peer = established(receive_buffer=65535)
    peer.sends("P. 1:101(100) ack 1")
    peer.app_reads()
    peer.app_closes()
    peer.expect("F. 1:1(0) ack 101")


@pytest.mark.parametrize("acked", [1, 2])
def test_data_after_close_resets(acked: int) -> None:
    """RFC 9293 SHLD-3: or new data arrives after CLOSE was called (MAY-1)."""
    peer = established()
    peer.app_closes()
    peer.acks(acked)
    peer.sent()
    assert peer.sends(f"P. 1:101(100) ack {acked}") == "after-close"
    peer.expect("R 2:2(0)")
    assert peer.state is State.CLOSED
    assert not peer.stack.connections


def test_old_data_after_close_does_not_reset() -> None:
    """RFC 9293 3.10.7.4, first: what was here already is no new data."""
    peer = established(receive_buffer=65535)
    peer.sends("P. 1:101(100) ack 1")
    peer.app_reads()
    peer.app_closes()
    peer.sent()
    peer.sends("P. 1:101(100) ack 1")
    peer.expect(". 2:2(0) ack 101")
    assert peer.state is State.FIN_WAIT_1


def test_data_after_shutdown_is_received() -> None:
    """RFC 9293 3.6: CLOSE means "I have no more data to send"."""
    peer = established(receive_buffer=65535)
    peer.app_shuts_down()
    peer.sends("P. 1:101(100) ack 2")
    assert peer.app_reads() == 100


# --- close before the connection is open ---


def test_syn_sent_close_deletes_the_connection() -> None:
    """RFC 9293 3.10.4."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.app_closes()
    peer.expect()
    assert peer.state is State.CLOSED
    assert not peer.stack.connections
    peer.sends("S. 0:0(0) ack 1")
    peer.expect("R 1:1(0)")


def test_syn_sent_shutdown_with_data_waiting_delivers_it_first() -> None:
    """A deviation from RFC 9293 3.10.4, which drops it: a client may write, and end, early."""
    peer = Peer()
    peer.connects()
    peer.app_writes(10)
    peer.app_shuts_down()
    peer.expect("S 0:0(0)")
    assert peer.state is State.SYN_SENT
    peer.sends("S. 0:0(0) ack 1")
    peer.expect("FP. 1:11(10) ack 1")
    assert peer.state is State.FIN_WAIT_1


def test_syn_received_close_sends_the_fin_once_the_syn_is_acknowledged() -> None:
    """RFC 9293 3.10.4: FIN-WAIT-1 at once."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.app_closes()
    assert peer.state is State.FIN_WAIT_1
    peer.sent()
    peer.acks(1)
    assert peer.state is State.FIN_WAIT_1
    peer.acks(2)
    assert peer.state is State.FIN_WAIT_2


def test_syn_received_close_with_data_waiting_is_queued() -> None:
    """RFC 9293 3.10.4: otherwise, queue for processing after entering ESTABLISHED."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.app_writes(10)
    peer.app_shuts_down()
    assert peer.state is State.SYN_RECEIVED
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.acks(1)
    peer.expect("FP. 1:11(10) ack 1")
    assert peer.state is State.FIN_WAIT_1


def test_syn_received_closed_with_a_lost_syn_ack_still_finishes() -> None:
    """RFC 9293 3.8.1: SYN,ACK and FIN both get through in the end."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.app_closes()
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.expect_after(1, "S. 0:0(0) ack 1 why timeout")
    peer.acks(1)
    peer.expect("F. 1:1(0) ack 1")
    peer.acks(2)
    assert peer.state is State.FIN_WAIT_2


# --- abort (RFC 9293 3.10.5) ---


def test_established_abort_resets_and_flushes() -> None:
    peer = established(mss=1000, cwnd=2000)
    peer.app_writes(5000)
    peer.sent()
    peer.app_aborts()
    peer.expect("R 2001:2001(0) why rst")  # <SEQ=SND.NXT><CTL=RST>
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionAbortedError)
    assert peer.stack.deadline() is None
    with pytest.raises(ConnectionAbortedError):
        peer.conn.send(b"x", peer.now)


def test_syn_received_abort_resets() -> None:
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.sent()
    peer.app_aborts()
    peer.expect("R 1:1(0)")


@pytest.mark.parametrize("acked", [1, 2])
def test_fin_wait_abort_resets(acked: int) -> None:
    peer = established()
    peer.app_shuts_down()
    peer.acks(acked)
    peer.sent()
    peer.app_aborts()
    peer.expect("R 2:2(0)")


@pytest.mark.parametrize("state", [State.CLOSING, State.LAST_ACK, State.TIME_WAIT])
def test_abort_where_both_have_closed_is_silent(state: State) -> None:
    """RFC 9293 3.10.5: respond with "ok" and delete the TCB."""
    peer = established()
    if state is State.LAST_ACK:
        peer.sends("F. 1:1(0) ack 1")
    peer.app_shuts_down()
    if state is not State.LAST_ACK:
        peer.sends(f"F. 1:1(0) ack {1 if state is State.CLOSING else 2}")
    assert peer.state is state
    peer.sent()
    peer.app_aborts()
    peer.expect()
    assert peer.state is State.CLOSED


def test_abort_twice_resets_once() -> None:
    peer = established()
    peer.app_aborts()
    peer.app_aborts()
    peer.app_closes()
    peer.expect("R 1:1(0)")
