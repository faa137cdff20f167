"""What the application is told beside errors, and what it may ask for: reports (RFC 9293 3.9.1.8),
keep-alive (3.8.4), urgent data (3.8.5), the Diffserv field (3.9.1.9).
"""

import math
import socket as stdlib

import pytest
from peer import MODULUS, NANOSECOND, SECOND, Peer, established, twice  # noqa: F401

from nbtcp import Config, ConfigError, Path, Simulation, State
from nbtcp.simulation import SERVER

HOUR = 3600.0


def reported(peer: Peer) -> list[str]:
    """The kinds of what the application was told, in order."""
    return [what for _, what, _ in peer.conn.reports]


# --- reports ---


def test_excessive_retransmission_is_reported_after_three_retransmissions_and_before_r2() -> None:
    """RFC 9293 3.8.3: at R1 and before R2 (SHLD-9, SHLD-10, MUST-47, U-2)."""
    peer = established(mss=1000, recovery="newreno")
    peer.app_writes(10)
    peer.expect("P. 1:11")
    for rto in (0.2, 0.4, 0.8):
        peer.expect_after(rto, "P. 1:11 why timeout")
    assert not peer.conn.reports
    peer.expect_after(1.6, "P. 1:11 why timeout")
    ((at, what, text),) = peer.conn.reports
    assert (at, what) == (peer.now, "excessive-retransmission")
    assert text == "sent 4 times without an answer from 10.0.0.1 port 80"
    peer.wait(200)
    assert len(peer.conn.reports) == 1
    assert peer.conn.error is None


def test_excessive_retransmission_is_reported_for_each_time_of_trouble() -> None:
    """RFC 9293 3.8.3: an answer ends it; what was resent for other reasons does not count."""
    peer = established(mss=1000)
    for end, seconds in ((11, 50), (21, 250)):  # the backoff stays: Karn
        peer.app_writes(10)
        peer.wait(seconds)  # a tail loss probe comes first
        peer.acks(end)
    assert reported(peer) == ["excessive-retransmission"] * 2


def test_excessive_retransmission_of_a_syn_is_reported() -> None:
    """RFC 9293 3.8.3: SYNs are handled like data, the application is told (MUST-22, U-1)."""
    peer = Peer()
    peer.connects()
    peer.wait(15 - NANOSECOND)
    assert not peer.conn.reports
    peer.wait(NANOSECOND)
    assert reported(peer) == ["excessive-retransmission"]
    peer.wait(200)
    assert isinstance(peer.conn.error, TimeoutError)


def test_reports_can_be_turned_off() -> None:
    """RFC 9293 SHLD-20; the log has them all the same."""
    peer = established(mss=1000, reports=False)
    peer.app_writes(10)
    peer.wait(50)
    assert not peer.conn.reports
    assert list(peer.log.events.query("event == 'report'").new) == ["excessive-retransmission"]


# --- R2 ---


def test_r2_is_set_for_one_connection_and_may_be_never() -> None:
    """RFC 9293 MUST-21."""
    peer = Peer()
    peer.connects(config=Config(user_timeout=math.inf, recovery="newreno"))
    peer.sends("S. 0:0 ack 1")
    peer.app_writes(10)
    peer.wait(24 * HOUR)
    assert peer.state is State.ESTABLISHED
    assert peer.conn.error is None


def test_r2_is_five_minutes_by_default() -> None:
    """RFC 9293 SHLD-11: at least 100 seconds; 3.9.1.1 (L-26, L-21): five minutes."""
    peer = established()
    peer.app_writes(10)
    peer.wait(300 - NANOSECOND)
    assert peer.state is State.ESTABLISHED
    peer.wait(60)  # the retransmission timeout that comes next finds it
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, TimeoutError)


# --- keep-alive ---


def test_keepalive_is_off_by_default() -> None:
    """RFC 9293 MUST-25; so no interval is below two hours that nobody asked for (MUST-28)."""
    assert Config().keepalive is None
    peer = established()
    assert peer.stack.deadline() is None
    peer.expect_after(1000 * HOUR)


def test_keepalive_can_be_turned_on_and_off_and_its_interval_changed() -> None:
    """RFC 9293 MUST-24, MUST-27, MAY-5."""
    peer = established()
    peer.conn.set_keepalive(10.0, peer.now)
    peer.expect_after(10, ". 0:0 ack 1 why keepalive")
    peer.acks(1)
    peer.conn.set_keepalive(5.0, peer.now)
    peer.expect_after(5, ". 0:0 ack 1 why keepalive")
    peer.acks(1)
    peer.conn.set_keepalive(None, peer.now)
    peer.expect_after(1000 * HOUR)


def test_keepalive_asks_again_only_after_silence() -> None:
    """RFC 9293 MUST-26: no data or acknowledgment received within the interval; SHLD-12: empty."""
    peer = established(keepalive=10)
    peer.wait(9)
    peer.acks(1)
    peer.expect_after(10, ". 0:0(0) ack 1 why keepalive")
    peer.wait(0.5)
    peer.acks(1)
    peer.wait(9)
    peer.sends("P. 1:11")
    peer.expect_after(0.04, ". 1:1 ack 11 why delayed-ack")
    peer.expect_after(9.96, ". 0:0(0) ack 11 why keepalive")


def test_keepalive_is_silent_while_data_is_out() -> None:
    """RFC 9293 MUST-26: only when no sent data is outstanding."""
    peer = established(keepalive=10, recovery="newreno")
    peer.app_writes(10)
    peer.wait(100)
    assert all(" why data" in text or " why timeout" in text for text in peer.sent())
    peer.acks(11)
    peer.expect_after(10, ". 10:10 ack 1 why keepalive")


def test_keepalive_one_unanswered_probe_is_no_dead_connection() -> None:
    """RFC 9293 MUST-29: several in a row are; the error says so."""
    peer = established(keepalive=10, keepalive_interval=2, keepalive_probes=3)
    peer.expect_after(10, ". 0:0 ack 1 why keepalive")
    peer.expect_after(2, ". 0:0 ack 1 why keepalive")
    peer.acks(1)
    peer.expect_after(10, ". 0:0 ack 1 why keepalive")
    peer.expect_after(2, ". 0:0 ack 1 why keepalive")
    peer.expect_after(2, ". 0:0 ack 1 why keepalive")
    peer.expect_after(2)
    assert peer.state is State.CLOSED
    assert str(peer.conn.error) == ("[Errno 110] no answer from 10.0.0.1 port 80 to 3 keep-alives")


def test_keepalive_cannot_be_told_to_give_up_after_one_probe() -> None:
    """RFC 9293 MUST-29."""
    with pytest.raises(ConfigError, match="keepalive_probes=1 must lie between 2 and"):
        Config(keepalive_probes=1)


def test_keepalive_learns_that_the_peer_began_anew() -> None:
    """RFC 9293 3.8.4: what the probe is for."""
    peer = established(keepalive=10)
    peer.wait(10)
    peer.sends("R 1:1")
    assert isinstance(peer.conn.error, ConnectionResetError)


def test_time_wait_is_not_kept_alive() -> None:
    """RFC 9293 3.8.4: nothing is expected of the peer there."""
    peer = established(time_wait=60)
    peer.app_closes()
    peer.sends("F. 1:1 ack 2")
    assert peer.state is State.TIME_WAIT
    peer.sent()
    peer.conn.set_keepalive(1.0, peer.now)
    peer.expect_after(60)
    assert peer.state is State.CLOSED


# --- urgent data: sending ---


def test_urgent_pointer_is_to_the_octet_behind_the_urgent_data() -> None:
    """RFC 9293 MUST-62, MUST-30."""
    peer = established(mss=1000)
    peer.app_writes(3, urgent=True)
    peer.expect("P.U 1:4")
    assert peer.segments[-1].urgent == 3
    peer.acks(4)
    peer.app_writes(5)
    peer.expect("P. 4:9")


def test_urgent_data_may_be_of_any_length() -> None:
    """RFC 9293 MUST-31: more than the pointer's 16 bits; every segment before its end has URG."""
    peer = established(mss=1000, win=65535, wscale=5, cwnd=500_000)
    peer.acks(1)  # a window that is scaled
    peer.app_writes(100_000, urgent=True)
    peer.app_writes(1000)
    peer.sent()
    pointers = [((s.raw_seq - peer.irs) % MODULUS, s.urgent) for s in peer.segments if s.urgent]
    assert len(pointers) == 100
    assert all(up == min(100_001 - start, 65535) for start, up in pointers)


# --- urgent data: receiving ---


def urgent(peer: Peer, start: int, end: int, pointer: int) -> str:
    """Send start..end with URG; the pointer counts from `start`."""
    return peer.sends(f"PU. {start}:{end}", urgent=pointer)


def test_urgent_data_is_told_when_it_comes_and_when_the_pointer_advances() -> None:
    """RFC 9293 MUST-32, MUST-33, U-2: once for each; in line (RFC 6093), counted until read."""
    peer = established()
    urgent(peer, 1, 11, 30)
    assert reported(peer) == ["urgent"]
    assert peer.conn.reports[-1][2] == "30 octets to read up to the end of urgent data"
    assert peer.conn.urgent_left == 30
    urgent(peer, 11, 21, 20)  # the same octet
    assert reported(peer) == ["urgent"]
    urgent(peer, 21, 31, 50)  # an advance
    assert reported(peer) == ["urgent"] * 2
    peer.app_reads(25)
    assert peer.conn.urgent_left == 45
    peer.sends("P. 31:81")
    peer.app_reads()
    assert peer.conn.urgent_left == 0
    urgent(peer, 81, 82, 1)  # none was pending
    assert reported(peer) == ["urgent"] * 3


def test_urgent_pointer_to_what_has_arrived_but_was_not_read_is_told() -> None:
    """RFC 9293 3.10.7.4, sixth: if RCV.UP is in advance of the data consumed (MUST-32)."""
    peer = established()
    peer.sends("P. 1:11")
    peer.sends("U. 11:11", urgent=0)
    assert reported(peer) == ["urgent"]
    assert peer.conn.urgent_left == 10


def test_urgent_pointer_behind_the_reader_is_not_told() -> None:
    """RFC 9293 3.10.7.4, sixth: nothing of it is left."""
    peer = established()
    peer.sends("P. 1:11")
    peer.app_reads()
    peer.sends("U. 11:11", urgent=0)
    assert not peer.conn.reports


def test_urgent_pointer_is_seen_though_the_window_is_closed() -> None:
    """RFC 9293 MUST-66: URG is processed also when the receive window is zero."""
    peer = established(receive_buffer=1000)
    peer.sends("P. 1:1001")
    peer.wait(1)
    urgent(peer, 1001, 1002, 1)
    assert reported(peer) == ["urgent"]
    assert peer.conn.urgent_left == 1001


@pytest.mark.parametrize("state", [State.CLOSE_WAIT, State.TIME_WAIT])
def test_urgent_pointer_behind_the_fin_is_ignored(state: State) -> None:
    """RFC 9293 3.10.7.4, sixth (L-18): this should not occur."""
    peer = established()
    if state is State.TIME_WAIT:
        peer.app_shuts_down()
        peer.acks(2)
    peer.sends("F. 1:1")
    assert peer.state is state
    urgent(peer, 2, 2, 10)
    assert not peer.conn.reports
    assert peer.conn.urgent_left == 0


# --- the Diffserv field and the time to live ---


def test_dscp_is_that_of_the_connection_and_may_change() -> None:
    """RFC 9293 MUST-48, SHLD-21, SHLD-22: as it was set, in every segment."""
    peer = Peer(dscp=46)
    peer.connects()
    peer.sends("S. 0:0 ack 1")
    peer.app_writes(10)
    assert [s.tos for s in peer.segments] == [46 << 2] * 3
    peer.conn.dscp = 10
    peer.app_writes(10)
    peer.app_aborts()
    peer.sent()
    assert [s.tos for s in peer.segments[3:]] == [10 << 2] * len(peer.segments[3:])
    assert len(peer.segments) > 3


def test_dscp_stands_beside_the_mark_for_routers() -> None:
    """RFC 3168 5: the field has six bits, the other two are ECN's."""
    peer = Peer(dscp=46, ecn="ask")
    peer.connects()
    peer.sends("SE. 0:0 ack 1")
    peer.app_writes(10)
    assert peer.segments[-1].tos == 46 << 2 | 2


def test_ttl_is_configurable() -> None:
    """RFC 9293 MUST-49."""
    for ttl in (1, 64, 255):
        peer = Peer(ttl=ttl)
        peer.connects()
        peer.sends("S. 0:0 ack 1")
        peer.app_writes(10)
        peer.app_aborts()
        assert [s.ttl for s in peer.segments] == [ttl] * 4


def test_segments_keep_the_address_they_began_with() -> None:
    """RFC 9293 MUST-45."""
    peer = Peer()
    peer.connects()
    peer.sends("S. 0:0 ack 1")
    peer.app_writes(10)
    peer.acks(11)
    peer.app_closes()
    peer.sends("F. 1:1 ack 12")
    assert len(peer.segments) == 5
    assert {s.flow for s in peer.segments} == {peer.conn.flow}


# --- the same through sockets ---


def test_a_socket_that_waits_for_an_answer_knows_of_the_trouble() -> None:
    """RFC 9293 MUST-22, MUST-47, SHLD-9: reports while `connect` blocks, its error in the end."""
    client, _ = Simulation(Path(delay=0.01)).hosts()
    sock = client.socket()
    with pytest.raises(TimeoutError, match=r"no answer from 10\.0\.0\.9 .* SYN sent 8 times"):
        sock.connect(("10.0.0.9", 80))
    assert sock.connection is not None
    ((at, what, _),) = sock.connection.reports
    assert (at, what) == (15 * SECOND, "excessive-retransmission")
    assert client.loop.now() > 180 * SECOND


def test_a_socket_is_kept_alive_by_its_settings() -> None:
    """RFC 9293 MUST-24, MUST-27: for one connection, beside one that is not."""
    client, server = Simulation(Path(delay=0.01)).hosts()
    listener = server.listen(80)
    kept, plain = (client.connect((SERVER, 80), 1, **more) for more in ({"keepalive": 10.0}, {}))
    accepted = [listener.accept() for _ in range(2)]
    kept.settimeout(35)
    with pytest.raises(TimeoutError):
        kept.recv(1)
    rows = client.log.segments.query("why == 'keepalive'")
    assert list(rows["time"].round()) == [10, 20, 30]
    assert rows["conn"].nunique() == len(accepted) - 1 == 1
    assert plain.connection is not None


def test_a_socket_sends_and_reads_urgent_data() -> None:
    """RFC 9293 MUST-30, MUST-33: with the flag of the standard library."""
    client, server = Simulation(Path(delay=0.01)).hosts()
    listener = server.listen(80)
    sock = client.connect((SERVER, 80), 1)
    other, _ = listener.accept()
    sock.sendall(b"abc", stdlib.MSG_OOB)
    assert other.recv(1) == b"a"
    assert other.connection is not None
    assert other.connection.urgent_left == 2
    assert [what for _, what, _ in other.connection.reports] == ["urgent"]


def test_a_socket_closed_by_the_peer_and_one_that_was_reset_differ() -> None:
    """RFC 9293 MUST-12: b"" after a FIN, an exception after a RST."""
    client, server = Simulation(Path(delay=0.01)).hosts()
    listener = server.listen(80)
    first, second = (client.connect((SERVER, 80), 1) for _ in range(2))
    listener.accept()[0].close()
    listener.accept()[0].abort()
    assert first.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        second.recv(1)


def test_an_accepted_connection_has_settings_of_its_own_too() -> None:
    """RFC 9293 MUST-17, MUST-21: they may change at any time."""
    peer = established(passive=True, mss=1000)
    peer.conn.config = peer.conn.config.but(nagle=False, user_timeout=10, recovery="newreno")
    peer.app_writes(10)
    peer.app_writes(10)
    peer.expect("P. 1:11", "P. 11:21")
    peer.wait(20)
    assert isinstance(peer.conn.error, TimeoutError)


def test_keepalive_due_together_with_the_timeout_that_ends_the_connection_does_nothing() -> None:
    """RFC 9293 3.10.8: all queues are flushed, and no timer is left."""
    peer = established(user_timeout=1, keepalive=1)
    peer.app_writes(10)
    peer.sent()
    peer.now += 10 * SECOND
    peer.stack.handle_timer(peer.now)  # late: the retransmission timer and keep-alive are due
    assert isinstance(peer.conn.error, TimeoutError)
    assert peer.conn.deadline() is None
    peer.expect()


def test_urgent_data_is_told_also_to_who_wants_no_error_reports() -> None:
    """RFC 9293 3.8.5, MUST-32; SHLD-20 is about errors."""
    peer = established(reports=False)
    peer.sends("U. 1:11(10) ack 1", urgent=5)
    assert reported(peer) == ["urgent"]
