"""Sequence numbers wrap at 2^32, positions never do: RFC 9293 3.4."""

import pytest
from peer import MODULUS, Peer, established, twice  # noqa: F401

from nbtcp import State

BEFORE = [1, 2, 500, 1001, 2500, 5001]  # so many numbers before the wrap a connection begins
FOUR_GIB = MODULUS


@pytest.fixture(params=BEFORE, ids=lambda n: f"{n} before")
def iss(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both sides' initial sequence number."""
    number: int = MODULUS - request.param
    monkeypatch.setattr("nbtcp.stack.Stack._initial_sequence_number", lambda *args: number)
    return number


def opened(iss: int, **options: int) -> Peer:
    peer = Peer(iss=iss, initial_window=5000, receive_buffer=60_000, **options)
    peer.connects()
    peer.sends("S. 0:0 ack 1 <mss 1000>")
    peer.expect("S 0:0", ". 1:1 ack 1")
    assert peer.irs == iss
    return peer


def test_numbers_on_the_wire_wrap(iss: int) -> None:
    peer = opened(iss)
    peer.app_writes(5000)
    peer.expect(*[f"{at}:{at + 1000}" for at in range(1, 5001, 1000)])
    peer.acks(3001)
    peer.acks(5001)
    assert peer.conn.tcb.snd.una == 5001
    assert peer.stack.deadline() is None


def test_data_that_comes_across_the_wrap_is_put_in_order(iss: int) -> None:
    peer = opened(iss)
    for start in (4001, 2001, 1, 3001, 1001):
        peer.sends(f"{start}:{start + 1000}")
    assert peer.app_reads() == 5000
    assert peer.sent()[-1].startswith(". 1:1(0) ack 5001")


def test_holes_across_the_wrap_are_resent(iss: int) -> None:
    peer = opened(iss)
    peer.app_writes(5000)
    peer.sent()
    for _ in range(3):
        peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.acks(2001)
    peer.expect("2001:3001 why partial-ack")
    peer.acks(5001)
    peer.app_writes(1000)
    peer.expect("5001:6001")
    peer.expect_after(peer.conn.rtt.rto / 1e9, "5001:6001 why timeout")


def test_resets_are_checked_across_the_wrap(iss: int) -> None:
    """RFC 5961 3.2."""
    peer = opened(iss)
    peer.sends("R 3000:3000")
    peer.expect(". 1:1 ack 1 why challenge-ack")
    peer.sends("R -1:-1")
    peer.expect()
    peer.sends("1:2001")
    peer.sends("R 2001:2001")
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionResetError)


def test_fin_across_the_wrap(iss: int) -> None:
    peer = opened(iss)
    peer.app_writes(1000)
    peer.app_shuts_down()
    peer.expect("1:1001", "F. 1001:1001")
    peer.acks(1002)
    peer.sends("F. 1:1001 ack 1002")
    assert peer.state is State.TIME_WAIT
    peer.expect(". 1002:1002 ack 1002")
    assert peer.app_reads() == 1000


def test_ack_ranges_are_checked_across_the_wrap(iss: int) -> None:
    """RFC 5961 5.2."""
    peer = opened(iss)
    peer.app_writes(3000)
    peer.acks(3001)
    peer.sent()
    assert peer.acks(3002) == "ack-unsent"
    assert peer.acks(3001 - 65535) == "ack-old"
    assert peer.acks(3000 - 65535) == "ack-unsent"


def far_on(peer: Peer, sent: int, received: int) -> Peer:
    """As if so many octets more had been sent and received: multiples of 2^32 look the same."""
    conn = peer.conn
    snd, rcv = conn.tcb.snd, conn.tcb.rcv
    for name in set(snd.__slots__) - {"iss", "mss", "shift", "wnd", "max_wnd", "wl1", "sent_at"}:
        setattr(snd, name, getattr(snd, name) + sent)
    conn.queue.base += sent
    for name in set(rcv.__slots__) - {"irs", "mss", "shift", "unacked", "fin"}:
        setattr(rcv, name, getattr(rcv, name) + received)
    snd.wl1 += received
    conn.tcb.ts.last_ack_sent += received
    return peer


@pytest.mark.parametrize("gib", [4, 8, 4096])
def test_positions_go_on_beyond_4_gib(gib: int) -> None:
    """The same scripts beyond 4 GiB: only the positions inside are larger."""
    offset = gib << 30
    peer = far_on(established(mss=1000, receive_buffer=60_000, cwnd=5000), offset, offset)
    peer.app_writes(5000)
    peer.expect(*[f"{at}:{at + 1000} ack 1" for at in range(1, 5001, 1000)])
    for _ in range(3):
        peer.acks(1)
    peer.expect("1:1001 why fast-retransmit")
    peer.acks(5001)
    assert peer.conn.tcb.snd.una == offset + 5001
    peer.sends("1001:2001")
    peer.sends("1:1001")
    peer.expect(". 5001:5001 ack 1 why duplicate-ack", ". 5001:5001 ack 2001")
    assert peer.app_reads() == 2000
    assert peer.conn.tcb.rcv.nxt == offset + 2001
    peer.sends("R 2500:2500")
    peer.expect(". 5001:5001 ack 2001 why challenge-ack")
    peer.app_shuts_down()
    peer.sends("F. 2001:2001 ack 5002")
    assert peer.state is State.TIME_WAIT
    last = peer.log.segments.iloc[-1]
    assert (last["snd_nxt"], last["rcv_nxt"]) == (offset + 5002, offset + 2002)


def test_positions_beyond_4_gib_with_timestamps_and_scaling() -> None:
    offset = 5 * FOUR_GIB
    peer = far_on(established(mss=1000, wscale=3, tsval=1), offset, offset)
    for start in range(1, 10_001, 1000):
        peer.sends(f"{start}:{start + 1000}")
        peer.app_reads()
    assert peer.conn.tcb.rcv.nxt == offset + 10_001
    peer.app_writes(988)
    assert peer.sent()[-1].startswith("P. 1:989(988) ack 10001")


def test_syn_that_once_began_the_connection_is_far_behind_beyond_4_gib() -> None:
    """RFC 5961 4.2: 2^32 octets later its number is in the window again; no exception then."""
    peer = far_on(established(), FOUR_GIB, FOUR_GIB)
    peer.sends("S. 1:1 ack 1")
    peer.expect(". 1:1 ack 1 why challenge-ack")
    peer.sends("S. 0:10 ack 1")
    assert "challenge-ack" in peer.sent()[0]
