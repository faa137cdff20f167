"""Opening: RFC 9293 3.5, 3.10.7.1 to .3, the options of the SYN, and its retransmission."""

import pytest
from peer import SECOND, US, Peer, content, established, twice  # noqa: F401

from nbtcp import State
from nbtcp.tcp.connection import Connection
from nbtcp.wire.segment import pack_flow

# --- active open ---


def test_closed_active_open_sends_a_syn() -> None:
    """RFC 9293 3.10.1."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0) win 65535 why syn")
    assert peer.state is State.SYN_SENT


def test_syn_sent_syn_ack_establishes_and_is_acknowledged() -> None:
    """RFC 9293 3.10.7.3, fourth."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    assert peer.sends("S. 0:0(0) ack 1") == "syn-ack"
    peer.expect(". 1:1(0) ack 1")
    assert peer.state is State.ESTABLISHED


def test_syn_sent_data_queued_leaves_with_the_ack_of_the_syn() -> None:
    """RFC 9293 3.10.7.3: data queued for transmission may be included (U-4)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.app_writes(100)
    peer.expect()
    peer.sends("S. 0:0(0) ack 1")
    peer.expect("P. 1:101(100) ack 1")


def test_syn_sent_syn_ack_with_data_delivers_it() -> None:
    """RFC 9293 3.10.7.3: other text in the segment is processed."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.sends("S. 0:10(10) ack 1")
    peer.expect(". 1:1(0) ack 11")
    assert peer.app_reads() == 10


def test_syn_sent_syn_ack_with_data_and_fin_goes_to_close_wait() -> None:
    """RFC 9293 3.10.7.3: other controls in the segment are processed."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.sends("FS. 0:10(10) ack 1")
    peer.expect(". 1:1(0) ack 12")
    assert peer.state is State.CLOSE_WAIT
    assert peer.app_reads() == 10
    assert peer.conn.eof


@pytest.mark.parametrize("ack", [0, 2, 1000, -5])
def test_syn_sent_bad_ack_is_answered_by_a_rst(ack: int) -> None:
    """RFC 9293 3.10.7.3, first: <SEQ=SEG.ACK><CTL=RST> (L-3)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    assert peer.sends(f"S. 0:0(0) ack {ack}") == "ack-unsent"
    peer.expect(f"R {ack % (1 << 32)}:{ack % (1 << 32)}(0)")
    assert peer.state is State.SYN_SENT
    peer.sends("S. 0:0(0) ack 1")
    peer.expect(". 1:1(0) ack 1")
    assert peer.state is State.ESTABLISHED


def test_syn_sent_bad_ack_with_rst_is_dropped() -> None:
    """RFC 9293 3.10.7.3, first: unless the RST bit is set (L-3)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.sends("R. 0:0(0) ack 2")
    peer.expect()
    assert peer.state is State.SYN_SENT


def test_syn_sent_rst_with_ack_is_a_refusal() -> None:
    """RFC 9293 3.10.7.3, second (L-4)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.sends("R. 0:0(0) ack 1")
    peer.expect()
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionRefusedError)
    assert "connection refused by 10.0.0.1 port 80" in str(peer.conn.error)
    assert peer.conn.eof
    assert peer.stack.deadline() is None
    with pytest.raises(ConnectionRefusedError):
        peer.conn.send(b"x", peer.now)


def test_syn_sent_rst_without_ack_is_ignored() -> None:
    """RFC 9293 3.10.7.3, second: otherwise (no ACK), drop the segment (L-4)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.sends("R 0:0(0)")
    peer.expect()
    assert peer.state is State.SYN_SENT
    assert peer.conn.error is None


def test_syn_sent_neither_syn_nor_rst_is_dropped() -> None:
    """RFC 9293 3.10.7.3, fifth."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    assert peer.sends(". 1:1(0) ack 1") == "not-syn"
    assert peer.sends("F 1:1(0)") == "not-syn"
    peer.expect()
    assert peer.state is State.SYN_SENT


# --- passive open ---


def test_listen_syn_is_answered_and_the_ack_establishes() -> None:
    """RFC 9293 3.10.7.2, third; 3.10.7.4, fifth (L-13)."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1 win 65535 why syn-ack")
    assert peer.state is State.SYN_RECEIVED
    assert peer.listener.accept() is None
    peer.sends(". 1:1(0) ack 1")
    peer.expect()
    assert peer.state is State.ESTABLISHED
    assert peer.listener.accept() is peer.conn
    assert peer.listener.accept() is None


@pytest.mark.parametrize("flags", [".", "S.", "F.", "P."])
def test_listen_ack_is_answered_by_a_rst(flags: str) -> None:
    """RFC 9293 3.10.7.2, second: <SEQ=SEG.ACK><CTL=RST> (L-2)."""
    peer = Peer()
    peer.listens()
    peer.sends(f"{flags} 5:5(0) ack 77")
    peer.expect("R 77:77(0)")
    assert not peer.stack.connections


@pytest.mark.parametrize("flags", ["R", "R.", "SR", "SR."])
def test_listen_rst_is_ignored(flags: str) -> None:
    """RFC 9293 3.10.7.2, first (L-2)."""
    peer = Peer()
    peer.listens()
    peer.sends(f"{flags} 0:0(0)")
    peer.expect()
    assert not peer.stack.connections


@pytest.mark.parametrize("flags", ["-", "F", "P"])
def test_listen_segment_without_control_is_dropped(flags: str) -> None:
    """RFC 9293 3.10.7.2, fourth (L-2)."""
    peer = Peer()
    peer.listens()
    assert peer.sends(f"{flags} 1:11(10)") == "not-syn"
    peer.expect()


def test_listen_syn_with_data_delivers_it_once_established() -> None:
    """RFC 9293 3.10.7.2, third: other text is queued for processing later (L-2)."""
    peer = Peer(receive_buffer=65535)
    peer.listens()
    peer.sends("S 0:10(10)")
    peer.expect("S. 0:0(0) ack 1")
    assert peer.app_reads() == 0
    peer.sends(". 11:11(0) ack 1")
    assert peer.app_reads() == 10
    peer.expect_after(0.04, ". 1:1(0) ack 11")


def test_listen_syn_with_fin_goes_to_close_wait_once_established() -> None:
    """RFC 9293 3.10.7.2, third: other control is queued for processing later (L-2)."""
    peer = Peer()
    peer.listens()
    peer.sends("FS 0:10(10)")
    peer.expect("S. 0:0(0) ack 1")
    peer.sends(". 12:12(0) ack 1")
    peer.expect(". 1:1(0) ack 12")
    assert peer.state is State.CLOSE_WAIT
    assert peer.listener.accept() is peer.conn
    assert peer.app_reads() == 10
    assert peer.conn.eof


def test_listen_data_with_the_syn_that_comes_again_is_delivered_once() -> None:
    """RFC 9293 3.10.7.4, first: only the new parts are processed."""
    peer = Peer(receive_buffer=65535)
    peer.listens()
    peer.sends("S 0:10(10)")
    peer.expect("S. 0:0(0) ack 1")
    peer.sends("P. 1:21(20) ack 1")
    assert peer.app_reads() == 20
    peer.expect_after(0.04, ". 1:1(0) ack 21")


def test_syn_received_duplicate_syn_gets_the_syn_ack_again() -> None:
    """RFC 9293 3.8.1: our SYN,ACK was lost; the peer's SYN tells so before the timer does."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    peer.wait(0.3)
    assert peer.sends("S 0:0(0)") == "duplicate"
    peer.expect("S. 0:0(0) ack 1 why duplicate-syn")
    assert peer.state is State.SYN_RECEIVED
    peer.acks(1)
    assert peer.state is State.ESTABLISHED


def test_syn_received_another_syn_returns_to_listen() -> None:
    """RFC 9293 3.10.7.4, fourth (L-11): a SYN in the window ends the attempt to open passively."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    peer.sends("S 5000:5000(0)")
    peer.expect()
    assert not peer.stack.connections
    assert peer.stack.deadline() is None
    peer.sends("S 5000:5000(0)")  # and comes again
    peer.expect("S. 0:0(0) ack 5001")


def test_syn_received_bad_ack_is_answered_by_a_rst() -> None:
    """RFC 9293 3.10.7.4, fifth: <SEQ=SEG.ACK><CTL=RST> (L-13)."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    peer.acks(5)
    peer.expect("R 5:5(0)")
    peer.acks(0)
    peer.expect("R 0:0(0)")
    assert peer.state is State.SYN_RECEIVED
    peer.acks(1)
    peer.expect()
    assert peer.state is State.ESTABLISHED


def test_syn_received_segment_without_ack_is_dropped() -> None:
    """RFC 9293 3.10.7.4, fifth (L-12)."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    assert peer.sends("P 1:11(10)") == "ack-missing"
    peer.expect()
    assert peer.state is State.SYN_RECEIVED


def test_syn_received_passive_rst_returns_to_listen() -> None:
    """RFC 9293 3.10.7.4, second: the user need not be informed (MUST-11, L-10)."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    peer.sends("R 1:1(0)")
    peer.expect()
    assert peer.state is State.LISTEN
    assert peer.conn.error is None
    assert not peer.stack.connections
    assert peer.listener.accept() is None
    assert peer.stack.deadline() is None
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")


@pytest.mark.parametrize("second", ["R 1:1", "R. 1:1", ". 1:1", "P. 1:11", "F. 1:1"])
def test_syn_received_passive_rst_and_more_in_one_batch_leaves_nothing(second: str) -> None:
    """RFC 9293 3.10.7.2: what follows a RST meets LISTEN, where only a SYN opens anything."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    with peer.batch():
        peer.sends("R 1:1(0)")
        peer.sends(f"{second} ack 1" if "." in second else second)
    peer.expect(*([] if "R" in second else ["R 1:1(0)"]))
    assert not peer.stack.connections
    assert peer.stack.deadline() is None


def test_syn_received_passive_rst_and_a_new_syn_in_one_batch_opens_anew() -> None:
    """RFC 9293 3.10.7.4, second, then 3.10.7.2: back in LISTEN, the SYN is answered."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    with peer.batch():
        peer.sends("R 1:1(0)")
        peer.sends("S 9000:9000(0)")
    peer.expect("S. 0:0(0) ack 9001")
    peer.sends(". 9001:9001(0) ack 1")
    assert peer.listener.accept() is not None


def test_listen_full_backlog_drops_the_syn() -> None:
    """RFC 9293 3.9.1.1: no room; the peer's next SYN may find some."""
    peer = Peer(syn_cookies=False)
    peer.listens(backlog=2)
    flows = [pack_flow(("10.0.0.1", port), (US, 80)) for port in (4001, 4002, 4003)]
    peer.sends("S 0:0(0)", flows[0])
    peer.sends("S 0:0(0)", flows[1])
    peer.expect("S. 0:0(0) ack 1", "S. 0:0(0) ack 1")
    assert peer.sends("S 0:0(0)", flows[2]) == "backlog-full"
    peer.expect()
    peer.irs = peer.stack.connections[0].tcb.snd.iss
    peer.sends(". 1:1(0) ack 1", flows[0])
    peer.sends("S 0:0(0)", flows[2])  # there is room in the SYN queue again
    peer.expect("S. 0:0(0) ack 1")


def test_listen_full_accept_queue_drops_the_syn() -> None:
    """RFC 9293 3.9.1.1: whoever is established waits for the application."""
    peer = Peer()
    peer.listens(backlog=1)
    flows = [pack_flow(("10.0.0.1", port), (US, 80)) for port in (4001, 4002)]
    peer.sends("S 0:0(0)", flows[0])
    peer.expect("S. 0:0(0) ack 1")
    peer.sends(". 1:1(0) ack 1", flows[0])
    assert peer.sends("S 0:0(0)", flows[1]) == "backlog-full"
    peer.expect()
    assert peer.listener.accept() is not None
    peer.sends("S 0:0(0)", flows[1])
    peer.expect("S. 0:0(0) ack 1")


def test_listen_closed_resets_what_nobody_accepted() -> None:
    """RFC 9293 3.10.4: CLOSE in LISTEN."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.sends(". 1:1(0) ack 1")
    peer.expect("S. 0:0(0) ack 1")
    peer.stack.close_listener(peer.listener, peer.now)
    peer.expect("R 1:1(0)")
    assert not peer.stack.connections
    peer.irs = 0  # the numbers of a RST for nobody's segment are relative to nothing
    peer.sends("S 0:0(0)")
    peer.expect("R. 0:0(0) ack 1")


# --- simultaneous open (MUST-10, figure 8) ---


def test_syn_sent_syn_without_ack_goes_to_syn_received() -> None:
    """RFC 9293 3.10.7.3, fourth: <SEQ=ISS><ACK=RCV.NXT><CTL=SYN,ACK>, the same ISS (L-5)."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    iss = peer.irs
    peer.sends("S 0:0(0) <mss 1000>")
    peer.expect("S. 0:0(0) ack 1 why syn-ack")
    assert peer.irs == iss
    assert peer.state is State.SYN_RECEIVED


def test_simultaneous_open_ends_with_the_peers_syn_ack() -> None:
    """RFC 9293 figure 8: both sides send a SYN,ACK (MUST-10, L-28)."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0) <mss 1000>")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.sends("S. 0:0(0) ack 1")
    peer.expect()
    assert peer.state is State.ESTABLISHED
    peer.app_writes(1000)
    peer.expect("P. 1:1001(1000) ack 1")


def test_simultaneous_open_ends_with_the_peers_ack() -> None:
    """RFC 9293 3.10.7.4, fifth: the peer has our SYN,ACK, too (MUST-10)."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0) <mss 1000>")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.sends(". 1:1(0) ack 1")
    peer.expect()
    assert peer.state is State.ESTABLISHED


def test_simultaneous_open_with_data_on_the_syn_delivers_it() -> None:
    """RFC 9293 3.10.7.3, fourth: text is queued until ESTABLISHED."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:10(10)")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    assert peer.app_reads() == 0
    peer.sends(". 11:11(0) ack 1")
    assert peer.app_reads() == 10


def test_simultaneous_open_refused_is_told() -> None:
    """RFC 9293 3.10.7.4, second: SYN-RECEIVED after an active open (MUST-11, L-10)."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.sends("R 1:1(0)")
    peer.expect()
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionRefusedError)


def test_simultaneous_open_another_syn_gets_a_challenge_ack() -> None:
    """RFC 9293 3.10.7.4, fourth: after an active open as in synchronized states (L-11)."""
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0(0)")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.sends("S 5000:5000(0)")
    peer.expect(". 1:1(0) ack 1 why challenge-ack")
    assert peer.state is State.SYN_RECEIVED


def test_simultaneous_open_closed_with_data_waiting_and_text_on_the_syn_is_reset() -> None:
    """RFC 9293 SHLD-3: text that nobody will read, held since the peer's SYN."""
    peer = Peer()
    peer.connects()
    peer.app_writes(10)
    peer.app_closes()
    peer.sends("S 0:10(10)")
    peer.expect("S 0:0(0)", "S. 0:0(0) ack 1")
    peer.sends(". 11:11(0) ack 1")
    peer.expect("R 1:1(0)")
    assert peer.state is State.CLOSED


# --- retransmission of the SYN (RFC 6298, MUST-22, MUST-23) ---

DOUBLING = (1, 2, 4, 8, 16, 32, 60)


def test_syn_sent_syn_is_repeated_at_doubling_intervals() -> None:
    """RFC 6298 2.1, 5.5: 1 s, doubled each time up to the largest RTO."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    for seconds in DOUBLING:
        peer.expect_after(seconds, "S 0:0(0) why timeout")


def test_syn_received_syn_ack_is_repeated_at_doubling_intervals() -> None:
    """RFC 6298 5.5, MUST-22."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.expect("S. 0:0(0) ack 1")
    for seconds in DOUBLING:
        peer.expect_after(seconds, "S. 0:0(0) ack 1 why timeout")


def test_syn_sent_without_an_answer_gives_up_after_three_minutes() -> None:
    """RFC 9293 3.8.3, MUST-23; the error says what was tried."""
    peer = Peer()
    peer.connects()
    peer.wait(180 - 1e-9)
    assert peer.state is State.SYN_SENT
    peer.wait(60)
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, TimeoutError)
    assert str(peer.conn.error).endswith(
        "no answer from 10.0.0.1 port 80 to SYN sent 8 times in 183.0 s"
    )
    assert peer.stack.deadline() is None
    assert not peer.stack.connections
    peer.expect(*["S 0:0(0)"] * 8)


def test_syn_received_without_an_answer_gives_up_after_three_minutes() -> None:
    """RFC 9293 3.8.3, MUST-23: and nobody need be told."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.wait(179)
    assert peer.state is State.SYN_RECEIVED
    peer.wait(61)
    assert not peer.stack.connections
    assert peer.stack.deadline() is None
    assert peer.listener.accept() is None


def test_syn_timeout_is_configurable() -> None:
    """RFC 9293 MUST-21."""
    peer = Peer(syn_timeout=5)
    peer.connects()
    peer.wait(30)
    assert "SYN sent 3 times in 7.0 s" in str(peer.conn.error)


def test_syn_sent_lost_syn_costs_the_initial_window() -> None:
    """RFC 5681 3.1: if the SYN is lost, the initial window is one segment."""
    peer = Peer()
    peer.connects()
    peer.wait(1)
    peer.expect("S 0:0(0)", "S 0:0(0)")
    peer.sends("S. 0:0(0) ack 1 <mss 1000>")
    assert peer.conn.cc.cwnd == 1000
    peer.app_writes(5000)
    peer.expect(". 1:1(0)", "1:1001(1000)")


def test_syn_received_lost_syn_ack_costs_the_initial_window() -> None:
    """RFC 5681 3.1: the same when it was the SYN,ACK."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0) <mss 1000>")
    peer.wait(1)
    peer.acks(1)
    assert peer.conn.cc.cwnd == 1000


@pytest.mark.parametrize("timed_out", [False, True])
def test_syn_received_syn_ack_lost_by_the_peers_account_costs_the_initial_window(
    timed_out: bool,
) -> None:
    """RFC 5681 3.1, RFC 6298 5.7: its SYN comes again, after our own timer or before."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0) <mss 1000>")
    peer.wait(1 if timed_out else 0.9)
    peer.sends("S 0:0(0) <mss 1000>")
    peer.acks(1)
    assert peer.conn.cc.cwnd == 1000
    assert not timed_out or peer.conn.rtt.rto == 3 * SECOND


def test_simultaneous_open_after_a_lost_syn_costs_the_initial_window() -> None:
    """RFC 5681 3.1; a SYN that goes out again as SYN,ACK is no loss by itself."""
    for lost in (False, True):
        peer = Peer()
        peer.connects()
        peer.wait(1 if lost else 0.5)
        peer.sends("S 0:0(0) <mss 1000>")
        peer.acks(1)
        assert peer.conn.cc.cwnd == (1000 if lost else 10_000)


@pytest.mark.parametrize("passive", [False, True])
def test_established_after_a_lost_syn_data_starts_with_three_seconds(passive: bool) -> None:
    """RFC 6298 5.7: without a sample the RTO is 3 s when data transmission begins."""
    peer = Peer()
    if passive:
        peer.listens()
        peer.sends("S 0:0(0) <mss 1000>")
        peer.wait(1.5)
        peer.acks(1)
    else:
        peer.connects()
        peer.wait(1.5)
        peer.sends("S. 0:0(0) ack 1 <mss 1000>")
    peer.sent()
    peer.app_writes(1000)
    peer.expect("1:1001(1000)")
    peer.expect_after(3, "1:1001(1000) why timeout")


# --- options ---


def test_syn_carries_mss_window_scale_and_timestamps() -> None:
    """RFC 9293 MUST-14, SHLD-5, MAY-3, RFC 7323 2.2 and 3.2, RFC 2018 2."""
    peer = Peer(receive_buffer=1 << 20, mss=1400)
    peer.connects()
    (segment,) = peer.sent()
    assert "<mss 1400,sackOK,TS val" in segment
    assert segment.endswith("wscale 5> why syn")  # 2^20 octets in 16 bits


def test_syn_without_options_we_do_not_want() -> None:
    """RFC 7323: both are optional."""
    peer = Peer(timestamps=False, window_scale=False, sack=False, mss=1400)
    peer.connects()
    peer.expect("S 0:0(0) win 65535 <mss 1400>")


def test_syn_window_is_never_scaled() -> None:
    """RFC 7323 2.2: the window of a SYN, and the least of 65535 and the buffer."""
    peer = Peer(receive_buffer=1000)
    peer.connects()
    peer.expect("S 0:0(0) win 1000")
    peer = Peer(receive_buffer=1 << 24)
    peer.connects()
    peer.expect("S 0:0(0) win 65535")


@pytest.mark.parametrize(
    ("offered", "ours", "effective"),
    [("mss 1000", 1460, 1000), ("mss 9000", 1460, 1460), ("", 1460, 536), ("", 500, 500)],
)
def test_effective_mss_is_the_smaller_one_and_536_without_the_option(
    offered: str, ours: int, effective: int
) -> None:
    """RFC 9293 MUST-15, MUST-16."""
    peer = Peer(mss=ours)
    peer.connects()
    peer.sends(f"S. 0:0(0) ack 1 <{offered}>")
    peer.sent()
    peer.app_writes(effective + 1)
    peer.expect(f"1:{effective + 1}({effective})", f"{effective + 1}:{effective + 2}(1)")


@pytest.mark.parametrize("passive", [False, True])
def test_effective_mss_leaves_room_for_timestamps(passive: bool) -> None:
    """RFC 9293 MUST-16: TCPhdrsize holds the options of every segment, 12 octets here."""
    peer = established(mss=1460, tsval=1, passive=passive, nagle=False)
    peer.app_writes(2000)
    peer.expect("1:1449(1448)", "1449:2001(552)")


def test_passive_open_answers_only_options_that_were_asked_for() -> None:
    """RFC 7323 2.2 and 3.2: in the SYN,ACK only if they were in the SYN."""
    peer = Peer(mss=1400)
    peer.listens()
    peer.sends("S 0:0(0) <mss 1000>")
    peer.expect("S. 0:0(0) ack 1 <mss 1400>")


def test_passive_open_echoes_the_timestamp_of_the_syn() -> None:
    """RFC 7323 3.2."""
    peer = Peer(mss=1400)
    peer.listens()
    peer.sends("S 0:0(0) <mss 1000,TS val 4711 ecr 0,wscale 3>")
    (sent,) = peer.sent()
    assert "ecr 4711,wscale 7>" in sent


@pytest.mark.parametrize("passive", [False, True])
def test_window_scale_of_the_peer_multiplies_its_windows(passive: bool) -> None:
    """RFC 7323 2.3: not that of the SYN, all later ones."""
    peer = established(passive=passive, wscale=7, win=1000)
    expected = 1000 << 7 if passive else 1000  # passive: an ACK has followed the SYN
    assert peer.conn.tcb.snd.wnd == expected
    peer.acks(1, win=500)
    assert peer.conn.tcb.snd.wnd == 500 << 7


def test_window_scale_above_14_counts_as_14() -> None:
    """RFC 7323 2.3: a shift count larger than 14 is used as 14 (REC-1)."""
    peer = established(wscale=15, win=1000)
    peer.acks(1, win=3)
    assert peer.conn.tcb.snd.wnd == 3 << 14


def test_window_scale_of_one_side_only_is_none() -> None:
    """RFC 7323 2.2: both sides must send the option."""
    peer = established(window_scale=False, wscale=7, win=1000)
    peer.acks(1, win=500)
    assert peer.conn.tcb.snd.wnd == 500
    peer = established(win=1000)  # the peer does not offer it
    peer.acks(1, win=500)
    assert peer.conn.tcb.snd.wnd == 500
    peer.sends("1:2")
    peer.expect_after(0.04, ". 1:1 ack 2 win 65535")  # 65535 of a larger buffer


def test_initial_window_is_ten_segments() -> None:
    """RFC 6928: min(10 MSS, max(2 MSS, 14600))."""
    for mss, window in ((1000, 10_000), (1460, 14_600), (536, 5360)):
        assert established(mss=mss).conn.cc.cwnd == window


@pytest.mark.parametrize(("mss", "window"), [(2000, 14_600), (9000, 18_000)])
def test_initial_window_of_large_segments(mss: int, window: int) -> None:
    """RFC 6928: 14600 octets, but at least two segments."""
    peer = Peer(mss=mss)
    peer.connects()
    peer.sends(f"S. 0:0 ack 1 <mss {mss}>")
    assert peer.conn.cc.cwnd == window


def test_handshake_gives_the_first_rtt_sample() -> None:
    """RFC 6298 2.2: SRTT <- R, RTTVAR <- R/2, RTO <- SRTT + 4 RTTVAR."""
    peer = established(rtt=0.1)
    assert peer.conn.rtt.srtt == 100_000_000
    assert peer.conn.rtt.rto == 300_000_000
    peer = established(rtt=0.1, passive=True)
    assert peer.conn.rtt.rto == 300_000_000


# --- the interface ---


def test_connections_show_both_ends() -> None:
    peer = Peer()
    peer.connects(local_port=5000)
    conn: Connection = peer.conn
    assert conn.local == ("10.0.0.2", 5000)
    assert conn.remote == ("10.0.0.1", 80)
    assert repr(conn) == "<Connection 10.0.0.2:5000 > 10.0.0.1:80 SYN-SENT>"


def test_syn_sent_abort_is_silent_and_late_answers_meet_closed() -> None:
    """RFC 9293 3.10.5 and 3.10.7.1: the TCB is deleted, a SYN,ACK that comes late gets a RST."""
    peer = Peer()
    peer.connects()
    peer.expect("S 0:0(0)")
    peer.app_aborts()
    peer.expect()
    assert not peer.stack.connections
    assert peer.stack.deadline() is None
    peer.sends("S. 0:0(0) ack 1")
    peer.expect("R 1:1(0)")


def test_syn_sent_abort_frees_the_port() -> None:
    """RFC 9293 3.10.5: the TCB is deleted, so the same ports open again."""
    peer = Peer()
    peer.connects(local_port=5000)
    peer.app_aborts()
    peer.connects(local_port=5000)
    peer.expect("S 0:0(0)", "S 0:0(0)")


def test_content_is_numbered() -> None:
    assert content(1, 4) == b"\1\2\3"
    assert content(250, 252) == b"\xfa\0"


def test_syn_received_back_in_listen_no_timer_is_left() -> None:
    """RFC 9293 3.10.7.4, second: in either case, the retransmission queue should be flushed."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0 <mss 1000>")
    peer.sent()
    with (
        peer.batch()
    ):  # the RST comes when R2 is due, and the host minds its timers before it sends
        peer.now = 400 * SECOND
        peer.sends("R 1:1")
        peer.stack.handle_timer(peer.now)
    peer.expect()
    assert not peer.stack.connections
