"""One host: ports, addresses, initial sequence numbers, many connections, and any bytes at all."""

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import PEER, PEER6, SECOND, US, US6, Peer, established, twice  # noqa: F401

from nbtcp import Config, Connection, EventLog, Stack, State
from nbtcp.wire.segment import ACK, RST, SYN, Segment, build, pack_flow, parse, reverse_flow

steady = settings(deadline=None, derandomize=True, database=None)


def exchange(a: Stack, b: Stack, now: int = 0) -> int:
    """Carry packets between two stacks until both are silent; returns how many there were."""
    carried = 0
    while packets := [(b, p) for p in a.transmit(now)] + [(a, p) for p in b.transmit(now)]:
        for stack, packet in packets:
            stack.receive(packet, now)
        carried += len(packets)
        assert carried < 100_000, "the two stacks talk for ever"
    return carried


def iss(packet: bytes) -> int:
    return parse(packet).raw_seq


# --- addresses and ports ---


NO_HOSTS = ["224.0.0.1", "239.1.2.3", "255.255.255.255", "0.0.0.0"]
NO_HOSTS += ["::", "ff02::1", "ff0e::1", "::ffff:10.0.0.1"]


@pytest.mark.parametrize("address", NO_HOSTS)
def test_connect_to_what_is_no_host_is_refused(address: str) -> None:
    """RFC 9293 MUST-46."""
    stack = Stack((US, US6), seed=1)
    with pytest.raises(OSError, match="not one host's address") as caught:
        stack.connect((address, 80), 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert not stack.connections


@pytest.mark.parametrize(
    ("remote", "port"),
    [(("10.0.0.1", 0), None), (("10.0.0.1", 65536), None), (("10.0.0.1", 80), 70000)]
    + [((bad, 80), None) for bad in ("", "10.0.0", "10.0.0.256", "host", "10.0.0.1.2", "::1%lo")],
)
def test_connect_to_nonsense_is_a_value_error(remote: tuple[str, int], port: int | None) -> None:
    stack = Stack(US, seed=1)
    with pytest.raises(ValueError, match=r"port|address"):
        stack.connect(remote, 0, local_port=port)
    assert not stack.connections


def test_connect_twice_between_the_same_ports_is_refused() -> None:
    """RFC 9293 3.10.1: connection already exists."""
    stack = Stack(US, seed=1)
    stack.connect((PEER, 80), 0, local_port=5000)
    with pytest.raises(OSError, match="exists already") as caught:
        stack.connect((PEER, 80), 0, local_port=5000)
    assert caught.value.errno == errno.EADDRINUSE
    stack.connect((PEER, 81), 0, local_port=5000)
    stack.connect(("10.0.0.9", 80), 0, local_port=5000)
    assert len(stack.connections) == 3


def test_listen_twice_on_a_port_is_refused() -> None:
    stack = Stack(US, seed=1)
    listener = stack.listen(80)
    with pytest.raises(OSError, match="has a listener already") as caught:
        stack.listen(80)
    assert caught.value.errno == errno.EADDRINUSE
    stack.close_listener(listener, 0)
    assert stack.listen(80) is not listener


def test_listen_on_the_port_of_a_connection_is_allowed() -> None:
    """RFC 9293 MUST-41, MUST-42."""
    stack = Stack(US, seed=1)
    conn = stack.connect((PEER, 80), 0, local_port=5000)
    stack.listen(5000)
    assert conn.state is State.SYN_SENT


def test_ephemeral_ports_are_ephemeral_and_different() -> None:
    """RFC 6056 3.3.1, RFC 6335 6."""
    stack = Stack(US, seed=1)
    ports = [stack.connect((PEER, 80), 0).local[1] for _ in range(500)]
    assert len(set(ports)) == 500
    assert all(49152 <= port < 65536 for port in ports)
    assert ports != sorted(ports)


def test_ephemeral_ports_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbtcp.stack.EPHEMERAL_PORTS", range(50_000, 50_003))
    stack = Stack(US, seed=1)
    stack.listen(50_001)
    assert {stack.connect((PEER, 80), 0).local[1] for _ in range(2)} == {50_000, 50_002}
    with pytest.raises(OSError, match="all ports") as caught:
        stack.connect((PEER, 80), 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    stack.connect((PEER, 81), 0)


def test_time_wait_blocks_its_ports_and_no_others() -> None:
    """RFC 9293 3.6.1: the connection exists until TIME-WAIT is over."""
    peer = established()
    port = peer.conn.local[1]
    peer.app_closes()
    peer.sends("F. 1:1 ack 2")
    assert peer.state is State.TIME_WAIT
    with pytest.raises(OSError, match="exists already"):
        peer.stack.connect((PEER, 80), peer.now, local_port=port)
    peer.sent()
    later = peer.stack.connect((PEER, 80), peer.now)
    assert later.local[1] != port
    (sent,) = peer.stack.transmit(peer.now)
    assert parse(sent).flags == SYN
    peer.wait(60)
    peer.stack.connect((PEER, 80), peer.now, local_port=port)


def test_connection_that_has_ended_frees_its_ports() -> None:
    peer = established()
    port = peer.conn.local[1]
    peer.sends("R 1:1")
    assert peer.stack.connect((PEER, 80), peer.now, local_port=port).state is State.SYN_SENT


# --- initial sequence numbers (RFC 6528, MUST-8, MUST-9) ---


def first_iss(seed: int, remote: tuple[str, int], port: int, now: int = 0) -> int:
    stack = Stack(US, seed=seed)
    stack.connect(remote, now, local_port=port)
    (packet,) = stack.transmit(now)
    return iss(packet)


def test_isn_differs_with_each_part_of_the_four_tuple_and_with_the_secret() -> None:
    """RFC 6528 3: F(localip, localport, remoteip, remoteport, secretkey) (MUST-9, SHLD-1)."""
    numbers = [
        first_iss(1, (PEER, 80), 5000),
        first_iss(1, (PEER, 81), 5000),
        first_iss(1, ("10.0.0.9", 80), 5000),
        first_iss(1, (PEER, 80), 5001),
        first_iss(2, (PEER, 80), 5000),
    ]
    assert all(abs(a - b) > 100_000 for a in numbers for b in numbers if a is not b)


def test_isn_is_the_same_for_the_same_seed() -> None:
    assert first_iss(1, (PEER, 80), 5000) == first_iss(1, (PEER, 80), 5000)


def test_isn_advances_by_one_every_four_microseconds() -> None:
    """RFC 9293 3.4.1 (MUST-8)."""
    begin = first_iss(1, (PEER, 80), 5000)
    for later in (4_000, 1_000_000, 3600 * SECOND, 10 * 24 * 3600 * SECOND):
        expected = (begin + later // 4_000) % (1 << 32)
        assert first_iss(1, (PEER, 80), 5000, later) == expected


def test_isn_on_the_same_ports_is_above_what_the_last_connection_used() -> None:
    """RFC 9293 3.4.1: also when the clock has not ticked since."""
    peer = established()
    port, snd = peer.conn.local[1], peer.conn.tcb.snd
    peer.conn.abort(peer.now)
    again = peer.stack.connect((PEER, 80), peer.now, local_port=port)
    assert 0 < (again.tcb.snd.iss - snd.iss - snd.nxt) % 2**32 < 2**31


def test_isn_without_a_seed_is_nobodys_guess() -> None:
    """RFC 9293 MUST-9."""
    stacks = [Stack(US) for _ in range(2)]
    for stack in stacks:
        stack.connect((PEER, 80), 0, local_port=5000)
    first, second = (iss(stack.transmit(0)[0]) for stack in stacks)
    assert first != second


# --- many connections ---


def test_many_connections_each_get_their_own_data() -> None:
    a, b = Stack(PEER, seed=1), Stack(US, seed=2)
    listener = b.listen(80, backlog=300)
    clients = [a.connect((US, 80), 0) for _ in range(200)]
    exchange(a, b)
    servers: dict[tuple[str, int], Connection] = {}
    while (conn := listener.accept()) is not None:
        servers[conn.remote] = conn
    assert len(servers) == 200
    for number, client in enumerate(clients):
        client.send(b"%d" % number * 500, 0)
        servers[client.local].send(b"%d!" % number, 0)
    exchange(a, b)
    for number, client in enumerate(clients):
        assert servers[client.local].recv(10_000, 0) == b"%d" % number * 500
        assert client.recv(10_000, 0) == b"%d!" % number
        client.close(0)
    exchange(a, b)
    for conn in servers.values():
        conn.close(0)
    exchange(a, b)
    assert not b.connections
    assert {conn.state for conn in a.connections} == {State.TIME_WAIT}
    assert a.deadline() == 60 * SECOND
    a.handle_timer(60 * SECOND)
    a.transmit(60 * SECOND)
    assert not a.connections
    assert a.deadline() is None


def test_deadline_is_exactly_the_earliest_timer_of_all_connections() -> None:
    """With timers set, moved and stopped in any order."""
    rng, now = random.Random(1), 0
    a, b = Stack(PEER, seed=1), Stack(US, seed=2)
    b.listen(80, backlog=1000)
    clients: list[Connection] = []
    for _ in range(600):
        now += rng.randrange(30_000_000)
        while (due := min(filter(None, (a.deadline(), b.deadline())), default=now)) < now:
            for stack in (a, b):
                stack.handle_timer(due)
            exchange(a, b, due)
        if rng.random() < 0.2 or not clients:
            clients.append(a.connect((US, 80), now))
        conn = rng.choice(clients)
        if rng.random() < 0.1:
            conn.close(now)
        elif conn.error is None and conn.queue.fin is None:
            conn.send(bytes(rng.randrange(3000)), now)
        if rng.random() < 0.3:
            a.transmit(now)  # and all is lost
            b.transmit(now)
        else:
            exchange(a, b, now)
        for stack in (a, b):
            timers = [conn.deadline() for conn in stack.connections]
            assert stack.deadline() == min(filter(None, timers), default=None)


def test_calls_in_any_state_keep_the_deadline_exact() -> None:
    """close() after shutdown() starts a timer without sending anything."""
    peer = established()
    peer.app_shuts_down()
    peer.acks(2)
    peer.wait(10)
    peer.conn.close(peer.now)
    peer.stack.transmit(peer.now)
    assert peer.stack.deadline() == peer.conn.deadline() is not None


def test_handle_timer_before_the_deadline_does_nothing() -> None:
    peer = established()
    peer.app_writes(100)
    peer.sent()
    due = peer.stack.deadline()
    assert due is not None
    for now in (0, due // 2, due - 1):
        peer.stack.handle_timer(now)
        assert peer.stack.transmit(now) == []
    assert peer.stack.deadline() == due


def test_one_call_of_handle_timer_serves_all_that_are_due() -> None:
    stack = Stack(US, seed=1)
    for _ in range(10):
        stack.connect((PEER, 80), 0)
    assert len(stack.transmit(0)) == 10
    stack.handle_timer(SECOND)
    assert len(stack.transmit(SECOND)) == 10
    assert stack.deadline() is not None
    assert stack.deadline() > SECOND


def test_settings_of_one_connection_do_not_touch_the_others() -> None:
    stack = Stack(US, seed=1, config=Config(mss=1000))
    stack.connect((PEER, 80), 0, config=Config(mss=500, ttl=3))
    stack.connect((PEER, 80), 0)
    first, second = map(parse, stack.transmit(0))
    assert (first.mss, first.ttl, second.mss, second.ttl) == (500, 3, 1000, 64)


def test_observer_of_one_connection_hears_of_it_alone() -> None:
    mine, others = EventLog(), EventLog()
    stack = Stack(US, seed=1, observer=others)
    stack.connect((PEER, 80), 0, observer=mine)
    stack.connect((PEER, 80), 0)
    stack.transmit(0)
    assert len(mine.segments) == len(others.segments) == 1


def test_stack_without_an_observer_does_the_same() -> None:
    def run(observer: EventLog | None) -> list[bytes]:
        stack = Stack(US, seed=1, observer=observer)
        conn = stack.connect((PEER, 80), 0)
        packets = stack.transmit(0)
        answer = Segment(reverse_flow(conn.flow), SYN | ACK, 7, (iss(packets[0]) + 1) % 2**32, 9999)
        stack.receive(build(answer), 5)
        conn.send(bytes(3000), 6)
        packets += stack.transmit(6)
        stack.receive(b"nonsense", 7)
        stack.handle_timer(2 * SECOND)
        return packets + stack.transmit(2 * SECOND)

    assert run(None) == run(EventLog())


# --- whatever the bytes ---

FLAGS = st.integers(0, 255)
NEAR = st.integers(-3000, 3000) | st.integers(-(1 << 31), 1 << 31)


@st.composite
def segments(draw: Callable[..., Any]) -> dict[str, Any]:
    """A segment somewhere near the connection's numbers."""
    return {
        "flags": draw(FLAGS),
        "seq": draw(NEAR),
        "ack": draw(NEAR),
        "window": draw(st.integers(0, 65535)),
        "length": draw(st.integers(0, 50) | st.integers(0, 2000)),
        "wscale": draw(st.none() | st.integers(0, 255)),
        "mss": draw(st.none() | st.integers(0, 65535)),
        "tsval": draw(st.none() | st.integers(0, (1 << 32) - 1)),
    }


@pytest.mark.slow
@settings(steady, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_survived(packet: bytes) -> None:
    stack = Stack(US, seed=1, observer=EventLog())
    stack.listen(80)
    stack.receive(packet, 0)
    stack.receive(b"\x45" + packet, 0)
    stack.transmit(0)


@pytest.mark.slow
@settings(steady, max_examples=200)
@given(st.data())
def test_any_change_to_a_valid_packet_is_survived(data: st.DataObject) -> None:
    """And where the checksum is wrong nothing happens (RFC 9293 MUST-3)."""
    log = EventLog()
    stack = Stack(US, seed=1, observer=log)
    stack.listen(80)
    flow = pack_flow((PEER, 4000), (US, 80))
    packet = bytearray(build(Segment(flow, SYN, 1, 0, 1000, mss=1000, wscale=1, tsval=1)))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    stack.receive(bytes(packet), 0)
    assert stack.transmit(0) == []
    stack.receive(bytes(packet)[: data.draw(st.integers(0, len(packet) - 1))], 0)
    assert stack.transmit(0) == []


SITUATIONS = ["syn-sent", "syn-received", "established", "full", "fin-wait-1", "fin-wait-2"]
SITUATIONS += ["close-wait", "closing", "last-ack", "time-wait", "closed early"]


def situation(name: str) -> Peer:
    """A connection in some state, with data on its way."""
    if name in ("syn-sent", "syn-received", "closed early"):
        peer = Peer(receive_buffer=2000)
        peer.connects()
        if name == "closed early":
            peer.app_writes(10)
            peer.app_closes()
        elif name == "syn-received":
            peer.sends("S 0:5")
        return peer
    peer = established(receive_buffer=2000, mss=500)
    if name == "full":
        peer.sends("1:2001")
    elif name in ("close-wait", "last-ack"):
        peer.sends("F. 1:1")
    if name != "time-wait":
        peer.app_writes(700)
    if name in ("fin-wait-1", "fin-wait-2", "closing", "last-ack", "time-wait"):
        peer.app_shuts_down()
    if name in ("fin-wait-2", "time-wait"):
        peer.acks(peer.conn.tcb.snd.nxt)
    if name in ("closing", "time-wait"):
        peer.sends("F. 1:1")
    return peer


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
@settings(steady, max_examples=40)
@given(script=st.lists(segments(), min_size=1, max_size=12), batch=st.integers(1, 3))
def test_any_segments_are_survived_in_any_state(
    name: str, script: list[dict[str, Any]], batch: int
) -> None:
    """RFC 9293 3.10.7: never raises, never talks for ever, and aborts into silence."""
    peer = situation(name)
    stack, conn, now = peer.stack, peer.conn, peer.now
    for number, fields in enumerate(script):
        snd, rcv = conn.tcb.snd, conn.tcb.rcv
        seq = (fields["seq"] + rcv.irs + rcv.nxt) % 2**32
        ack = (fields["ack"] + snd.iss + snd.una) % 2**32
        seg = Segment(reverse_flow(conn.flow), fields["flags"], seq, ack, fields["window"])
        seg.data = bytes(fields["length"])
        seg.mss, seg.wscale, seg.tsval = fields["mss"], fields["wscale"], fields["tsval"]
        stack.receive(build(seg), now)
        if number % batch == 0:
            assert len(stack.transmit(now)) < 50
        if number % 3 == 2:
            conn.recv(300, now)
            now = max(now, stack.deadline() or now)
            stack.handle_timer(now)
    stack.transmit(now)
    for left in stack.connections:
        left.abort(now)
    stack.transmit(now)
    assert not stack.connections
    assert stack.deadline() is None


def test_rst_storm_ends() -> None:
    """Two hosts that know nothing of each other's connections fall silent."""
    a, b = Stack(PEER, seed=1), Stack(US, seed=2)
    a.connect((US, 80), 0)
    assert exchange(a, b) == 2  # SYN, and the RST for it
    c = Stack(US, seed=3)
    flow = pack_flow((PEER, 1), (US, 2))
    c.receive(build(Segment(flow, ACK, 1, 2, 3)), 0)
    (reset,) = map(parse, c.transmit(0))
    assert reset.flags == RST
    assert exchange(a, c) == 0


# --- local addresses (RFC 9293 3.9.1.1) ---

SECOND_ADDRESS = "10.0.0.22"


def test_connect_leaves_from_the_address_that_is_asked_for() -> None:
    """RFC 9293 MUST-43; and from our first one when none is (MUST-44), from then on (MUST-45)."""
    stack, peer = Stack((US, SECOND_ADDRESS), seed=1), Stack(PEER, seed=2)
    listener = peer.listen(80)
    conn = stack.connect((PEER, 80), 0, local_address=SECOND_ADDRESS)
    other = stack.connect((PEER, 80), 0)
    assert (conn.local[0], other.local[0]) == (SECOND_ADDRESS, US)
    exchange(stack, peer, 0)
    conn.send(b"hello", 0)
    exchange(stack, peer, 0)
    accepted = listener.accept()
    assert accepted is not None
    assert accepted.remote == conn.local
    assert accepted.recv(10, 0) == b"hello"


def test_connect_from_an_address_that_is_not_ours_is_refused() -> None:
    """RFC 9293 MUST-43."""
    stack = Stack((US, "fd00::2"), seed=1)
    with pytest.raises(OSError, match=r"address is 10\.0\.0\.2 and fd00::2, not 10\.0\.0\.9"):
        stack.connect((PEER, 80), 0, local_address="10.0.0.9")
    with pytest.raises(OSError, match=r"no way from fd00::2 to 10\.0\.0\.1: two families"):
        stack.connect((PEER, 80), 0, local_address="fd00::2")
    assert not stack.connections


def test_listen_at_one_address_answers_there_alone() -> None:
    """RFC 9293 MUST-43: a passive OPEN may name the local address, too."""
    stack, peer = Stack((US, SECOND_ADDRESS), seed=1), Stack(PEER, seed=2)
    listener = stack.listen(80, address=SECOND_ADDRESS)
    refused, opened = (peer.connect((address, 80), 0) for address in (US, SECOND_ADDRESS))
    exchange(peer, stack, 0)
    assert isinstance(refused.error, ConnectionRefusedError)
    assert opened.state is State.ESTABLISHED
    assert len(listener) == 1
    with pytest.raises(OSError, match="not 10"):
        stack.listen(81, address="10.0.0.9")
