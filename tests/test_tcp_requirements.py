"""Requirements of RFC 9293 that no other test shows; docs/requirements.md says where the others are
shown.
"""

import pytest
from peer import MODULUS, PORT, US, Peer, content, established, twice  # noqa: F401
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from nbtcp import Config, Stack, State
from nbtcp.tcp.tcb import MAX_RAW_WINDOW
from nbtcp.wire.segment import parse


def test_options_of_a_syn_in_another_segment_do_no_harm() -> None:
    """MUST-5: an option may come in any segment; what it says holds only in a SYN."""
    peer = established(mss=1000, win=5000)
    numbers = {"seq": peer.iss + 1, "ack": (peer.irs + 1) % MODULUS, "window": 5000}
    options = [("MSS", 100), ("NOP", None), ("WScale", 5), ("SAckOK", b""), ("Timestamp", (1, 0))]
    header = TCP(sport=PORT, dport=peer.conn.local[1], flags="PA", options=options, **numbers)
    packet = bytes(IP(src=peer.conn.remote[0], dst=US) / header / Raw(content(1, 11)))
    assert parse(packet).mss == 100
    peer.stack.receive(packet, peer.now)
    assert peer.app_reads() == 10
    peer.app_writes(1000)
    peer.expect("P. 1:1001 ack 11 <>")
    assert peer.conn.tcb.snd.wnd == 5000


@pytest.mark.parametrize("spec", ["R. 1:1", "SR. 1:1", "SFR. 1:1 ack 99999"])
def test_rst_is_checked_before_syn_ack_and_fin(spec: str) -> None:
    """3.10.7.4 (L-9): second before fourth, fifth and eighth."""
    peer = established()
    assert peer.sends(spec) == "rst"
    assert peer.state is State.CLOSED
    peer.expect()


def test_steps_are_taken_in_order() -> None:
    """3.10.7.4 (L-9): the sequence number first, then RST, SYN, ACK, and only then text and FIN."""
    peer = established()
    peer.app_writes(100)
    peer.sent()
    assert peer.sends("R. 99999999:99999999 ack 101") == "unacceptable"  # nothing of it counts
    assert peer.sends("S. 5:5 ack 101") == "syn-in-window"
    assert peer.sends("PF. 1:11 ack 102") == "ack-unsent"
    assert peer.conn.tcb.snd.una == 1
    assert peer.conn.tcb.rcv.nxt == 1
    peer.sends("PF. 1:11 ack 101")
    assert peer.conn.tcb.snd.una == 101
    assert peer.state is State.CLOSE_WAIT


def test_peer_shrinking_its_window_gets_what_is_beyond_its_edge_again() -> None:
    """MAY-7, SHLD-16: what was sent before may be sent again, wherever the edge is now."""
    peer = established(mss=1000, win=5000, recovery="newreno")
    peer.app_writes(5000)
    peer.sent()
    peer.acks(1, win=1500)
    peer.expect_after(0.2, ". 1:1001 why timeout")
    peer.acks(1001, win=1500)
    peer.expect(". 1001:2001 why go-back-n", ". 2001:3001 why go-back-n")


def test_peer_shrinking_its_window_is_not_given_up_while_it_acknowledges() -> None:
    """SHLD-17: what lies beyond the right edge does not time the connection out."""
    peer = established(mss=1000, win=5000, user_timeout=100)
    peer.app_writes(5000)
    peer.acks(1, win=0)
    for _ in range(100):
        peer.wait(30)
        peer.acks(1, win=0)
    assert peer.state is State.ESTABLISHED
    assert peer.conn.error is None


def test_window_may_stay_closed_for_as_long_as_nobody_reads() -> None:
    """MAY-8: every probe is answered, and none of them is let in."""
    peer = established(receive_buffer=1000)
    peer.sends("P. 1:1001")
    peer.wait(1)
    peer.sent()
    for _ in range(100):
        peer.wait(3600)
        assert peer.sends("P. 1001:1002") == "window-closed"
        peer.expect(". 1:1 ack 1001 win 0")
    assert peer.state is State.ESTABLISHED


def test_windows_are_kept_in_more_than_sixteen_bits() -> None:
    """REC-1: arithmetic in 32 bits at least, on both sides."""
    peer = established(wscale=14, win=MAX_RAW_WINDOW, receive_buffer=1 << 30, autotune=False)
    peer.acks(1)
    assert peer.conn.tcb.snd.wnd == MAX_RAW_WINDOW << 14
    peer.sends("P. 1:11")
    peer.wait(1)
    assert (1 << 30) - (1 << 15) <= peer.conn.tcb.rcv.wnd <= 1 << 30


def test_two_hosts_that_probe_each_others_closed_windows_go_on() -> None:
    """A.2 (L-28): each refuses the other's octet, and takes its acknowledgment all the same."""
    a, b = (Stack(name, seed=n, config=Config(receive_buffer=2000)) for n, name in enumerate(HOSTS))
    now = 0
    listener = b.listen(80)
    first = a.connect((HOSTS[1], 80), now)
    now = run(a, b, now, 1)
    second = listener.accept()
    assert second is not None
    for conn in (first, second):
        conn.send(bytes(3000), now)
    now = run(a, b, now, 3600)
    assert first.tcb.snd.wnd == second.tcb.snd.wnd == 0
    for conn in (first, second):
        assert len(conn.recv(5000, now)) == 2000
    now = run(a, b, now, 120)
    assert [len(conn.recv(5000, now)) for conn in (first, second)] == [1000, 1000]
    assert first.error is None
    assert second.error is None


HOSTS = ("10.0.0.1", US)


def run(a: Stack, b: Stack, now: int, seconds: int) -> int:
    """Carry packets between `a` and `b` for so long; returns the time then."""
    until = now + seconds * 1_000_000_000
    while now < until:
        packets = [(b, packet) for packet in a.transmit(now)]
        packets += [(a, packet) for packet in b.transmit(now)]
        for stack, packet in packets:
            stack.receive(packet, now)
        if not packets:
            due = [at for stack in (a, b) if (at := stack.deadline()) is not None]
            now = max(now, min([*due, until]))
            for stack in (a, b):
                stack.handle_timer(now)
    return until


def test_header_is_padded_with_zeros_behind_the_end_of_the_options() -> None:
    """MUST-69; and MUST-4: the list may end before the header does."""
    for settings in ({}, {"timestamps": False}, {"window_scale": False}, {"sack": False}):
        peer = Peer(**settings)
        conn = peer.stack.connect(("10.0.0.1", 80), 0)
        (packet,) = peer.stack.transmit(0)
        options = packet[40 : 20 + (packet[32] >> 4) * 4]
        assert conn.state is State.SYN_SENT
        assert parse(packet).mss == 1460
        assert not any(options[end_of_options(options) :])


def end_of_options(options: bytes) -> int:
    """Where the End of Option List option stands, or the header ends."""
    at = 0
    while at < len(options) and options[at]:
        at += 1 if options[at] == 1 else options[at + 1]
    return at
