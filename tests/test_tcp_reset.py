"""RST and SYN where none is expected: RFC 9293 3.5.3, 3.10.7.1, 3.10.7.4; RFC 5961."""

from collections.abc import Callable

import pytest
from peer import PEER, US, Peer, established, twice  # noqa: F401

from nbtcp import Stack, State
from nbtcp.wire.segment import RST, Segment, build, pack_flow, reverse_flow


def close_wait(peer: Peer) -> None:
    peer.sends("F. 1:1 ack 1")


def fin_wait_1(peer: Peer) -> None:
    peer.app_shuts_down()


def fin_wait_2(peer: Peer) -> None:
    peer.app_shuts_down()
    peer.acks(2)


def closing(peer: Peer) -> None:
    peer.app_shuts_down()
    peer.sends("F. 1:1 ack 1")


def last_ack(peer: Peer) -> None:
    peer.sends("F. 1:1 ack 1")
    peer.app_shuts_down()


def time_wait(peer: Peer) -> None:
    peer.app_shuts_down()
    peer.sends("F. 1:1 ack 2")


OPEN = {
    State.ESTABLISHED: lambda peer: None,
    State.FIN_WAIT_1: fin_wait_1,
    State.FIN_WAIT_2: fin_wait_2,
    State.CLOSE_WAIT: close_wait,
}
CLOSED_BY_BOTH = {State.CLOSING: closing, State.LAST_ACK: last_ack}
ALL = OPEN | CLOSED_BY_BOTH | {State.TIME_WAIT: time_wait}
in_open_states = pytest.mark.parametrize("reach", OPEN.values(), ids=[s.label for s in OPEN])
in_all_states = pytest.mark.parametrize("reach", ALL.values(), ids=[s.label for s in ALL])
Reach = Callable[[Peer], None]


def reached(reach: Reach, **settings: int) -> Peer:
    peer = established(receive_buffer=1000, **settings)
    reach(peer)
    peer.sent()
    return peer


# --- RST (RFC 5961 3.2) ---


@in_open_states
@pytest.mark.parametrize("flags", ["R", "R."])
def test_rst_at_exactly_rcv_nxt_resets(reach: Reach, flags: str) -> None:
    """RFC 9293 3.10.7.4, second (U-6); the user is told (MUST-12, L-20)."""
    peer = reached(reach)
    assert peer.sends(f"{flags} {peer.nxt}:{peer.nxt}(0)") == "rst"
    peer.expect()
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionResetError)
    assert "connection reset by 10.0.0.1 port 80" in str(peer.conn.error)
    assert peer.stack.deadline() is None
    assert not peer.stack.connections


@pytest.mark.parametrize(
    "reach", CLOSED_BY_BOTH.values(), ids=[state.label for state in CLOSED_BY_BOTH]
)
def test_rst_where_both_have_closed_is_no_error(reach: Reach) -> None:
    """RFC 9293 3.10.7.4, second: enter the CLOSED state, delete the TCB (L-20)."""
    peer = reached(reach)
    peer.sends(f"R {peer.nxt}:{peer.nxt}(0)")
    peer.expect()
    assert peer.state is State.CLOSED
    assert peer.conn.error is None
    assert not peer.stack.connections


@pytest.mark.parametrize("reach", [*CLOSED_BY_BOTH.values()])
def test_rst_where_both_have_closed_before_our_data_arrived_is_an_error(reach: Reach) -> None:
    """RFC 9293 3.6, MUST-12: who waits for CLOSED to know that all was delivered learns that it
    was not.
    """
    peer = established(receive_buffer=1000)
    peer.app_writes(100)
    reach(peer)
    peer.sends(f"R {peer.nxt}:{peer.nxt}(0)")
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionResetError)


@pytest.mark.parametrize("reach", [*OPEN.values(), *CLOSED_BY_BOTH.values()])
@pytest.mark.parametrize("ahead", [1, 500, 999])
def test_rst_in_the_window_gets_a_challenge_ack(reach: Reach, ahead: int) -> None:
    """RFC 9293 3.10.7.4, second (U-7): <SEQ=SND.NXT><ACK=RCV.NXT>, never the segment's numbers."""
    peer = reached(reach)
    state, tcb = peer.state, peer.conn.tcb
    ahead = min(ahead, tcb.rcv.wnd - 1)  # the peer's FIN has taken one of the window's octets
    at = tcb.rcv.nxt + ahead
    assert peer.sends(f"R. {at}:{at}(0) ack 77") == "blind-rst"
    peer.expect(f". {tcb.snd.nxt}:{tcb.snd.nxt}(0) ack {tcb.rcv.nxt} why challenge-ack")
    assert peer.state is state


@pytest.mark.parametrize("at", [1, 2, 500])
def test_rst_does_not_end_time_wait(at: int) -> None:
    """RFC 1337 3, F1: an old duplicate may have called it forth."""
    peer = reached(time_wait)
    assert peer.sends(f"R {at}:{at}(0)") in ("time-wait-rst", "unacceptable")
    peer.expect()
    assert peer.state is State.TIME_WAIT


@in_all_states
@pytest.mark.parametrize("ahead", [-1, -1000, 1000, 5000, 1 << 31])
def test_rst_outside_the_window_is_dropped(reach: Reach, ahead: int) -> None:
    """RFC 9293 3.10.7.4, second (U-5): silently."""
    peer = reached(reach)
    state, at = peer.state, peer.conn.tcb.rcv.nxt + ahead
    assert peer.sends(f"R {at}:{at}(0)") == "unacceptable"
    peer.expect()
    assert peer.state is state


def test_rst_with_data_is_accepted() -> None:
    """RFC 9293 SHLD-2."""
    peer = established()
    peer.sends("R 1:31(30)")
    assert peer.state is State.CLOSED


def test_rst_at_a_closed_window_resets() -> None:
    """RFC 9293 MUST-66: RSTs are processed even when the receive window is zero."""
    peer = established(receive_buffer=1000)
    peer.sends("1:1001")
    assert peer.conn.tcb.rcv.wnd == 0
    peer.sends("R 1002:1002(0)")
    assert peer.state is State.ESTABLISHED
    peer.sends("R 1001:1001(0)")
    assert peer.state is State.CLOSED


def test_rst_leaves_what_has_arrived_to_be_read() -> None:
    """What the peer sent before is not lost to the application; then it learns of the reset."""
    peer = established(receive_buffer=65535)
    peer.sends("P. 1:101(100) ack 1")
    peer.sends("R 101:101(0)")
    assert not peer.conn.eof
    assert peer.app_reads() == 100
    assert peer.conn.eof
    with pytest.raises(ConnectionResetError):
        peer.conn.send(b"x", peer.now)


def test_challenge_acks_are_limited() -> None:
    """RFC 5961 7: ten in five seconds."""
    peer = established()
    peer.wait(100)
    for _ in range(30):
        peer.sends("R 500:500(0)")
    peer.expect(*[". 1:1(0) ack 1 why challenge-ack"] * 10)
    peer.wait(5 - 1e-9)
    peer.sends("R 500:500(0)")
    peer.expect()
    peer.wait(1e-9)
    for _ in range(11):
        peer.sends("S 500:500(0)")
    peer.expect(*[". 1:1(0) ack 1 why challenge-ack"] * 10)


# --- SYN (RFC 5961 4.2) ---


@in_all_states
@pytest.mark.parametrize("flags", ["S", "S.", "FS", "FPS."])
@pytest.mark.parametrize("ahead", [0, 1, 500, 2000, -500, 1 << 30])
def test_syn_in_a_synchronized_state_gets_a_challenge_ack(
    reach: Reach, flags: str, ahead: int
) -> None:
    """RFC 9293 3.10.7.4, fourth (U-8): irrespective of the sequence number."""
    flags = "".join(sorted(flags, key="FSP.".index))
    peer = reached(reach)
    state, tcb = peer.state, peer.conn.tcb
    at = tcb.rcv.nxt + ahead
    peer.sends(f"{flags} {at}:{at}(0) ack {tcb.snd.nxt}" if "." in flags else f"{flags} {at}:{at}")
    peer.expect(f". {tcb.snd.nxt}:{tcb.snd.nxt}(0) ack {tcb.rcv.nxt} why challenge-ack")
    assert peer.state is state


def test_syn_that_began_the_connection_gets_a_challenge_ack_even_with_text() -> None:
    """RFC 9293 3.10.7.4, fourth: any SYN; its text comes again without it."""
    peer = established()
    peer.sends("S 0:20(20)")
    peer.expect(". 1:1(0) ack 1 why challenge-ack")
    assert peer.app_reads() == 0


def test_syn_at_a_closed_window_gets_a_challenge_ack_too() -> None:
    """RFC 5961 4.2, 7: irrespective of the sequence number, and no more of them than elsewhere."""
    peer = established(receive_buffer=1000)
    peer.sends("1:1001")
    peer.sent()
    for _ in range(12):
        peer.sends("S 1001:1001")
    peer.expect(*10 * [". 1:1(0) ack 1001 win 0 why challenge-ack"])


def test_syn_ack_again_is_acknowledged_again() -> None:
    """RFC 9293 3.10.7.4, first: our ACK of it was lost."""
    peer = established()
    peer.sends("S. 0:0(0) ack 1")
    peer.expect(". 1:1(0) ack 1")


def test_half_open_connection_recovers() -> None:
    """RFC 9293 figure 9: the peer crashed, opens anew, learns by our ACK, and resets."""
    peer = established()
    peer.sends("S 400000:400000(0)")
    peer.expect(". 1:1(0) ack 1")
    peer.sends("R 1:1(0)")  # SEQ=SEG.ACK
    assert peer.state is State.CLOSED


# --- segments for nobody (RFC 9293 3.10.7.1, L-1) ---


def nobody() -> Peer:
    """A peer of a stack without connections; numbers are those of the wire."""
    peer = Peer(iss=0)
    peer.flow = pack_flow((PEER, 40000), (US, 12345))
    return peer


@pytest.mark.parametrize("flags", [".", "S.", "F.", "P.", "FPU."])
def test_closed_segment_with_ack_is_answered_by_a_rst(flags: str) -> None:
    """<SEQ=SEG.ACK><CTL=RST> (L-1)."""
    peer = nobody()
    flags = "".join(sorted(flags, key="FSP.U".index))
    assert peer.sends(f"{flags} 100:150(50) ack 4000000000") == "no-connection"
    peer.expect("R 4000000000:4000000000(0) why rst")


@pytest.mark.parametrize(
    ("spec", "ack"),
    [
        ("S 100:100(0)", 101),
        ("F 100:100(0)", 101),
        ("- 100:150(50)", 150),
        ("P 100:150(50)", 150),
        ("FS 100:150(50)", 152),
        ("S 4294967295:4294967295(0)", 0),  # modulo 2^32
        ("- 4294967290:4294967300(10)", 4),
    ],
)
def test_closed_segment_without_ack_is_answered_by_a_rst(spec: str, ack: int) -> None:
    """<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK> (L-1)."""
    peer = nobody()
    peer.sends(spec)
    peer.expect(f"R. 0:0(0) ack {ack}")


@pytest.mark.parametrize("flags", ["R", "R.", "SR", "FR.", "FSRP.UEC"])
def test_closed_rst_is_never_answered(flags: str) -> None:
    """RFC 9293 3.10.7.1 (L-1)."""
    peer = nobody()
    peer.sends(f"{flags} 100:150(50)")
    peer.expect()


@in_all_states
def test_rst_is_never_answered_with_a_rst(reach: Reach) -> None:
    """RFC 9293 3.5.2: in no state, with whatever numbers and flags (L-1)."""
    for flags in ("R", "R.", "SR", "FR", "FSRP."):
        for ahead in (-5, 0, 1, 2000, 1 << 31):
            for ack in (0, 1, 1 << 31):
                peer = reached(reach)
                at = peer.conn.tcb.rcv.nxt + ahead
                peer.sends(f"{flags} {at}:{at}" + (f" ack {ack}" if "." in flags else ""))
                assert not [sent for sent in peer.sent() if sent.startswith("R")]


def test_syn_sent_and_syn_received_never_answer_a_rst_with_a_rst() -> None:
    """RFC 9293 3.10.7.3, first; 3.10.7.4, first and second."""
    for open_first in (False, True):
        for flags in ("R", "R.", "SR", "SR.", "FR."):
            for at in (-1, 0, 1, 500):
                for ack in (0, 1, 2):
                    peer = Peer()
                    peer.connects() if open_first else peer.listens()
                    if not open_first:
                        peer.sends("S 0:0")
                    peer.sent()
                    peer.sends(f"{flags} {at}:{at}" + (f" ack {ack}" if "." in flags else ""))
                    assert not [sent for sent in peer.sent() if sent.startswith("R")]


def test_syn_received_rst_in_the_window_gets_a_challenge_ack() -> None:
    """RFC 5961 3.2."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.sent()
    peer.sends("R 2:2(0)")
    peer.expect(". 1:1(0) ack 1 why challenge-ack")
    assert peer.state is State.SYN_RECEIVED


def test_syn_received_rst_that_is_also_the_syn_is_dropped() -> None:
    """RFC 9293 3.10.7.4, second: outside the window, so silently."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0(0)")
    peer.sent()
    peer.sends("SR 0:0(0)")
    peer.expect()
    assert peer.state is State.SYN_RECEIVED


def test_two_stacks_do_not_reset_each_other_for_ever() -> None:
    """The RST for a segment that is nobody's is nobody's, too: there it ends."""
    peer = nobody()
    peer.sends(". 1:1 ack 1")
    peer.expect("R 1:1(0)")
    stack = Stack(PEER)
    stack.receive(build(Segment(reverse_flow(peer.flow), RST, 1, 0, 0)), 0)
    assert stack.transmit(0) == []


def test_listener_does_not_swallow_a_rst_meant_for_a_connection() -> None:
    """RFC 9293 3.10.7: a connection is found by both its ends, before its port's listener."""
    peer = established(passive=True)
    peer.sends("R 1:1(0)")
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionResetError)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (PEER, "10.0.0.255"),
        (PEER, "224.0.0.1"),
        (PEER, "255.255.255.255"),
        (PEER, "10.0.0.3"),
        ("224.0.0.1", US),
        ("255.255.255.255", US),
        ("0.0.0.0", US),
    ],
)
def test_segments_of_or_for_no_single_host_are_dropped(source: str, destination: str) -> None:
    """RFC 9293 MUST-57, MUST-63: silently, with a listener and without."""
    for port in (80, 81):
        peer = Peer()
        peer.listens()
        flow = pack_flow((source, 40000), (destination, port))
        for spec in ("S 0:0", ". 1:1 ack 1", "P 1:5"):
            assert peer.sends(spec, flow) == "misdirected"
        peer.expect()
