"""IPv6 everywhere: stacks at addresses of both families, transfers, sockets, tables, pictures.

The wire itself is in test_wire.py, ICMPv6 in test_icmp.py, the kernel's IPv6 in test_lab.py.
"""

import errno
from pathlib import Path as File
from typing import Any

import pytest
from peer import PEER, PEER6, US, US6, Peer, established, twice  # noqa: F401
from test_stack import exchange, first_iss

import nbtcp
from nbtcp import Config, EventLog, Path, Simulation, Stack, State
from nbtcp.runtime.http import get
from nbtcp.wire.segment import ACK, SYN, Segment, build, pack_flow, parse

LOSSY = Path(loss=0.02, delay=0.01, rate=10e6, queue=20)
CLIENT, SERVER = "fd00::1", "fd00::2"


# --- the stack ---


def both(seed: int, number: int, **settings: Any) -> Stack:
    addresses = (f"10.0.0.{number}", f"fd00::{number}")
    return Stack(addresses, seed=seed, config=Config(**settings))


def test_a_stack_has_the_addresses_it_was_given() -> None:
    stack = Stack(["FD00:0::2", US])
    assert stack.addresses == (US6, US)
    assert stack.address == US6
    assert repr(stack) == "<Stack fd00::2, 10.0.0.2, 0 connections>"
    with pytest.raises(ValueError, match="a stack needs an address"):
        Stack(())
    with pytest.raises(ValueError, match="'fd00::2%tun0' is no IP address"):
        Stack("fd00::2%tun0")


def test_a_connection_leaves_from_the_address_of_its_family() -> None:
    stack = Stack((US, US6, "fd00::22"), seed=1)
    assert stack.connect((PEER, 80), 0).local[0] == US
    conn = stack.connect((PEER6, 80), 0)
    assert (conn.local[0], conn.remote) == (US6, (PEER6, 80))
    assert repr(conn) == f"<Connection [{US6}]:{conn.local[1]} > [{PEER6}]:80 SYN-SENT>"
    assert conn.peer() == f"{PEER6} port 80"


@pytest.mark.parametrize(("own", "remote"), [(US, PEER6), (US6, PEER)])
def test_without_an_address_of_the_family_connect_says_so(own: str, remote: str) -> None:
    stack = Stack(own, seed=1)
    with pytest.raises(OSError, match=f"address, and this host has only {own}") as caught:
        stack.connect((remote, 80), 0)
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert not stack.connections


def test_connect_twice_between_the_same_ports_names_them() -> None:
    stack = Stack(US6, seed=1)
    stack.connect((PEER6, 80), 0, local_port=5000)
    with pytest.raises(OSError, match=r"from port 5000 to \[fd00::1\]:80 exists already"):
        stack.connect((PEER6, 80), 0, local_port=5000)


def test_a_listener_answers_at_all_addresses() -> None:
    server, client = both(1, 2), both(2, 1)
    listener = server.listen(80)
    conns = [client.connect((address, 80), 0, local_port=5000) for address in server.addresses]
    exchange(client, server)
    assert [conn.state for conn in conns] == [State.ESTABLISHED] * 2
    accepted = [listener.accept(), listener.accept()]
    assert [conn.remote for conn in accepted if conn] == [("10.0.0.1", 5000), ("fd00::1", 5000)]
    for number, (conn, other) in enumerate(zip(conns, accepted, strict=True)):
        conn.send(b"%d" % number, 0)
        exchange(client, server)
        assert other is not None
        assert other.recv(9, 0) == b"%d" % number


def test_isn_differs_with_the_address() -> None:
    """RFC 6528 3 with IPv6."""
    stacks = [Stack(US6, seed=1) for _ in range(2)]
    isns = []
    for stack, remote in zip(stacks, (PEER6, "fd00::9"), strict=True):
        stack.connect((remote, 80), 0, local_port=5000)
        isns.append(parse(stack.transmit(0)[0]).raw_seq)
    assert abs(isns[0] - isns[1]) > 100_000
    assert first_iss(1, (PEER, 80), 5000) not in isns


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        *((PEER6, other) for other in ("fd00::3", "ff02::1", "::")),
        *((other, US6) for other in ("ff02::1", "::", "::ffff:10.0.0.1")),
    ],
)
def test_segments_of_or_for_no_single_host_are_dropped(source: str, destination: str) -> None:
    """RFC 9293 MUST-57, MUST-63."""
    peer = Peer(ipv6=True)
    peer.listens()
    flow = pack_flow((source, 40000), (destination, 80))
    for spec in ("S 0:0", ". 1:1 ack 1", "P 1:5"):
        assert peer.sends(spec, flow) == "misdirected"
    peer.expect()


def test_a_segment_for_nobody_gets_a_reset() -> None:
    peer = Peer(ipv6=True)
    assert peer.sends(". 5:5 ack 77") == "no-connection"
    (packet,) = peer.packets
    assert parse(packet).source == (US6, 80)
    assert peer.log.segments.host.tolist() == [US6, US6]


def test_rows_of_a_stack_with_both_families_name_the_address_concerned() -> None:
    log = EventLog()
    stack = Stack((US, US6), seed=1, observer=log)
    for them, us in ((PEER, US), (PEER6, US6)):
        stack.receive(build(Segment(pack_flow((them, 1), (us, 9)), SYN, 1, 0, 0)), 0)
    stack.transmit(0)
    assert log.segments.host.tolist() == [US, US, US6, US6]


# --- segment sizes ---


def test_the_mss_offered_leaves_room_for_the_longer_header() -> None:
    """RFC 9293 MUST-67: packets of both families are of one size, that of the link."""
    peer = Peer(ipv6=True, mss=1460)
    peer.connects()
    peer.expect("S 0:0")
    assert parse(peer.packets[0]).mss == 1440
    peer = Peer(ipv6=True)
    peer.listens()
    peer.sends("S 0:0 <mss 9000>")
    assert parse(peer.packets[0]).mss == 1440


def test_established_packets_are_as_large_as_with_ipv4() -> None:
    sizes = []
    for ipv6 in (False, True):
        peer = established(ipv6=ipv6, mss=9000, timestamps=False)
        peer.app_writes(3000)
        sizes.append(max(map(len, peer.packets)))
    assert sizes == [1500, 1500]


def test_a_peer_that_says_nothing_of_its_mss_gets_1220() -> None:
    """RFC 9293 MUST-15: 1220 for IPv6."""
    peer = Peer(ipv6=True, timestamps=False)
    peer.connects()
    peer.sends("S. 0:0 ack 1")
    peer.app_writes(1221)
    assert max(len(parse(packet).data) for packet in peer.packets) == 1220


def test_a_cookie_says_the_same_sizes_as_a_connection() -> None:
    """RFC 4987 3.6; without an MSS option the peer's is 1220 (MUST-15)."""
    peer = Peer(ipv6=True, timestamps=False)
    peer.listens(backlog=2)
    whys = [
        peer.sends("S 0:0 <>", pack_flow((PEER6, port), (US6, 80))) for port in range(2000, 2010)
    ]
    assert whys[-1] == "cookie"
    syn_ack = parse(peer.packets[-1])
    assert (syn_ack.destination, syn_ack.mss) == ((PEER6, 2009), 1440)
    ack = Segment(pack_flow((PEER6, 2009), (US6, 80)), ACK, peer.iss + 1, 0, 65535)
    ack.raw_ack = (syn_ack.raw_seq + 1) % (1 << 32)
    peer.stack.receive(build(ack), peer.now)
    conn = peer.listener.accept()
    assert (conn.remote, conn.tcb.snd.mss) == ((PEER6, 2009), 1220)


def test_the_hop_limit_is_the_ttl_of_the_config() -> None:
    """RFC 9293 MUST-49."""
    peer = established(ipv6=True, ttl=77)
    assert {packet[7] for packet in peer.packets} == {77}


# --- the simulation ---


@pytest.mark.parametrize("codec", ["struct", "scapy"])
def test_a_transfer_arrives_whole(codec: str) -> None:
    transfer = Simulation(LOSSY, seed=1, family=6).transfer(50_000, codec=codec)
    assert transfer.complete
    assert set(transfer.log.segments.host) == {CLIENT, SERVER}


def test_both_families_take_the_same_time_but_for_the_headers() -> None:
    """The path, the losses and the sizes of the packets are the same."""
    took = [Simulation(LOSSY, seed=1, family=n).transfer(500_000).duration for n in (4, 6)]
    assert took[0] == pytest.approx(took[1], rel=0.3)


def test_same_seed_same_log() -> None:
    logs = [bytes(Simulation(LOSSY, seed=3, family=6).transfer(30_000).log) for _ in range(2)]
    assert logs[0] == logs[1]
    codecs = [
        Simulation(LOSSY, seed=3, family=6).transfer(9_000, codec=codec).log.rows
        for codec in ("struct", "scapy")
    ]
    assert codecs[0] == codecs[1]


def test_there_is_no_other_family() -> None:
    with pytest.raises(ValueError, match="family=5 must be 4 for IPv4 or 6 for IPv6"):
        Simulation(family=5)


# --- the tables ---


@pytest.fixture(scope="module")
def log() -> EventLog:
    return Simulation(Path(delay=0.01, loss=0.05), seed=1, family=6).transfer(100_000).log


def test_drops_belong_to_their_connection(log: EventLog) -> None:
    drops = log.segments[log.segments.event == "drop"]
    assert len(drops) > 3
    assert set(drops.conn) == {1}
    assert drops.snd_nxt.notna().all()


def test_connections_have_addresses_of_ipv6(log: EventLog) -> None:
    table = log.connections
    assert table.local.tolist() == table.host.tolist() == [CLIENT, SERVER]
    assert table.remote.tolist() == [SERVER, CLIENT]
    assert table.conn.tolist() == [1, 1]
    assert table.remote_port[0] == table.local_port[1] == 80


@pytest.mark.slow
def test_directions_have_brackets(log: EventLog) -> None:
    port = log.connections.local_port[0]
    here, there = f"[{CLIENT}]:{port}", f"[{SERVER}]:80"
    assert log.directions().direction.tolist() == [f"{here} > {there}", f"{there} > {here}"]
    for name in (here, CLIENT, "out", f"{here} > {there}"):
        figure = log.plot.sequence(direction=name)
        assert len(figure.data) > 50
    with pytest.raises(ValueError, match="no direction 'fd00::3'"):
        log.plot.sequence(direction="fd00::3")


def test_a_saved_log_has_its_addresses(log: EventLog, tmp_path: File) -> None:
    loaded = EventLog.load(log.save(tmp_path / "six.parquet"))
    assert bytes(loaded) == bytes(log)
    assert loaded.connections.equals(log.connections)


# --- sockets and HTTP ---


def test_sockets_have_addresses_of_ipv6() -> None:
    client, server = Simulation(family=6).hosts()
    listening = server.listen(80)
    sock = client.connect((SERVER, 80), 5)
    accepted, peer = listening.accept()
    assert peer == sock.getsockname() == (CLIENT, sock.getsockname()[1], 0, 0)
    assert sock.getpeername() == accepted.getsockname() == (SERVER, 80, 0, 0)
    sock.sendall(b"six")
    assert accepted.recv(10) == b"six"
    assert client.address == CLIENT


@pytest.mark.parametrize("address", ["", "::", CLIENT, "0.0.0.0"])
def test_bind_takes_the_hosts_addresses(address: str) -> None:
    client, _ = Simulation(family=6).hosts()
    sock = client.socket()
    sock.bind((address, 5000))
    sock.listen()


def test_bind_chooses_the_address_from_which_a_client_connects() -> None:
    """RFC 9293 MUST-43."""
    client, server = Simulation(family=6).hosts()
    listener = server.listen(80)
    sock = client.socket()
    sock.bind((CLIENT, 5000))
    assert sock.getsockname() == (CLIENT, 5000, 0, 0)
    sock.connect((SERVER, 80))
    assert listener.accept()[1] == (CLIENT, 5000, 0, 0)


def test_bind_refuses_other_addresses() -> None:
    client, _ = Simulation(family=6).hosts()
    with pytest.raises(OSError, match="this host's address is fd00::1, not fd00::9"):
        client.socket().bind(("fd00::9", 5000))


def test_connect_without_an_answer_names_the_address() -> None:
    client, _ = Simulation(Path(loss=1), family=6).hosts()
    with pytest.raises(
        TimeoutError, match=r"no answer from fd00::2 port 80: 3 SYNs sent in 5\.0 s"
    ):
        client.connect((SERVER, 80), 5)


class Noted(Exception):
    """Where a connection was asked for."""


class FakeHost:
    """Notes where HTTP wants to connect to."""

    log = EventLog()

    def connect(self, remote: tuple[str, int], timeout: float | None, **_: Any) -> Any:
        raise Noted(remote)

    def settle(self, log: EventLog) -> None: ...


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("http://[fd00::2]/x", ("fd00::2", 80)),
        ("http://[::1]:8080/", ("::1", 8080)),
        ("https://[2001:db8::1]/", ("2001:db8::1", 443)),
    ],
)
def test_urls_have_brackets_and_connections_have_none(url: str, remote: tuple[str, int]) -> None:
    with pytest.raises(Noted) as caught:
        get(FakeHost(), url)  # type: ignore[arg-type]
    assert caught.value.args == (remote,)


def test_importing_the_package_gives_both_families() -> None:
    """Notebooks need no other import."""
    assert nbtcp.Stack("2001:db8::1").address == "2001:db8::1"
