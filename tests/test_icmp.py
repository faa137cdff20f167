"""ICMP errors: what is read of them, what forged ones cannot do, and path MTU discovery.

RFC 9293 3.9.2.2, RFC 5927, RFC 1191, RFC 8201. What is built is read by scapy, what scapy builds is
read; the stack is told by a router beside the scripted peer.
"""

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import PEER, PEER6, ROUTER, ROUTER6, US, US6, Peer, established, twice  # noqa: F401
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, TCPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Raw

import nbtcp
from nbtcp import State
from nbtcp.tcp.sendqueue import SendQueue
from nbtcp.tcp.timers import Timer
from nbtcp.why import Why
from nbtcp.wire.icmp import IcmpError, Problem, build_icmp, parse_icmp
from nbtcp.wire.ip import WireError
from nbtcp.wire.segment import ACK, Segment, build, pack_flow, parse

MINUTE = 60.0
FLOW = pack_flow((US, 49152), (PEER, 80))
FLOW6 = pack_flow((US6, 49152), (PEER6, 80))
SENT = build(Segment(FLOW, ACK, 4_000_000_000, 2, 3, bytes(1460)))
SENT6 = build(Segment(FLOW6, ACK, 4_000_000_000, 2, 3, bytes(1440)))

N, H, A = Problem.NET_UNREACHABLE, Problem.HOST_UNREACHABLE, Problem.ADMIN_PROHIBITED
# What each type and code says (RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1; RFC 4443 3).
ICMPV4 = {(3, code): kind for code, kind in enumerate([N, H, None, None, None, H, N, H, H, A, A])}
ICMPV4 |= {(3, 2): Problem.PROTOCOL_UNREACHABLE, (3, 3): Problem.PORT_UNREACHABLE}
ICMPV4 |= {(3, 4): Problem.FRAGMENTATION_NEEDED, (3, 11): N, (3, 12): H, (3, 13): A, (3, 14): A}
ICMPV4 |= {(3, 15): A, (4, 0): Problem.SOURCE_QUENCH, (12, 0): Problem.PARAMETER_PROBLEM}
ICMPV4 |= {(11, 0): Problem.TIME_EXCEEDED, (11, 1): Problem.TIME_EXCEEDED}
ICMPV6 = {(1, code): kind for code, kind in enumerate([N, A, H, H, Problem.PORT_UNREACHABLE, A, A])}
ICMPV6 |= {(2, 0): Problem.FRAGMENTATION_NEEDED, (3, 0): Problem.TIME_EXCEEDED}
ICMPV6 |= {(3, 1): Problem.TIME_EXCEEDED} | {(4, c): Problem.PARAMETER_PROBLEM for c in range(3)}
SOFT = [(3, 0), (3, 1), (3, 5), (11, 0), (11, 1), (12, 0)]  # RFC 9293 3.9.2.2
SOFT6 = [(1, 0), (1, 3), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]


def steady(number: int) -> Any:
    return settings(deadline=None, derandomize=True, database=None, max_examples=number)


def scapy_icmp(kind: int, code: int, quoted: bytes, mtu: int = 0) -> bytes:
    message = ICMP(type=kind, code=code, nexthopmtu=mtu) if mtu else ICMP(type=kind, code=code)
    return bytes(IP(src=ROUTER, dst=US) / message / Raw(quoted))


def scapy_icmpv6(kind: int, code: int, quoted: bytes, mtu: int = 0) -> bytes:
    types = {1: ICMPv6DestUnreach, 3: ICMPv6TimeExceeded, 4: ICMPv6ParamProblem}
    message = ICMPv6PacketTooBig(mtu=mtu) if kind == 2 else types[kind](code=code)
    return bytes(IPv6(src=ROUTER6, dst=US6) / message / Raw(quoted))


# --- the wire ---


@pytest.mark.parametrize("number", ICMPV4, ids=str)
def test_icmpv4_errors_are_read(number: tuple[int, int]) -> None:
    mtu = 1400 if number == (3, 4) else 0
    expected = IcmpError(ICMPV4[number], FLOW, 4_000_000_000, 1500, mtu, ROUTER)
    for quoted in (SENT, SENT[:28], SENT[:48]):  # RFC 792: the header and 64 bits are enough
        assert parse_icmp(scapy_icmp(*number, quoted, mtu)) == expected
    assert parse_icmp(build_icmp(ROUTER, SENT, *number, mtu=mtu)) == expected


@pytest.mark.parametrize("number", ICMPV6, ids=str)
def test_icmpv6_errors_are_read(number: tuple[int, int]) -> None:
    mtu = 1300 if number[0] == 2 else 0
    expected = IcmpError(ICMPV6[number], FLOW6, 4_000_000_000, 1500, mtu, ROUTER6)
    for quoted in (SENT6, SENT6[:48], SENT6[:1232]):
        assert parse_icmp(scapy_icmpv6(*number, quoted, mtu)) == expected
    assert parse_icmp(build_icmp(ROUTER6, SENT6, *number, mtu=mtu)) == expected


def test_what_is_built_is_what_scapy_builds() -> None:
    """But for the identification, and with as much of the packet as the RFCs say."""
    ours = build_icmp(ROUTER, SENT, 3, 4, mtu=1400)
    assert len(ours) == 576  # RFC 1812 4.3.2.3
    theirs = IP(scapy_icmp(3, 4, SENT[:548], 1400))
    theirs.id, theirs.chksum = 0, None
    assert ours == bytes(theirs)
    assert TCPerror in IP(ours)
    ours = build_icmp(ROUTER6, SENT6, 2, mtu=1300)
    assert len(ours) == 1280  # RFC 4443 3.1
    assert ours == scapy_icmpv6(2, 0, SENT6[:1232], 1300)


def test_an_error_of_the_other_family_cannot_be_built() -> None:
    with pytest.raises(ValueError, match=r"10.9.9.9 cannot report what happened to IPv6"):
        build_icmp(ROUTER, SENT6, 1)


def test_what_routers_change_in_the_quoted_header_does_not_matter() -> None:
    quoted = bytearray(SENT)
    quoted[8] = 1  # TTL
    quoted[10:12] = b"\0\0"
    error = parse_icmp(scapy_icmp(3, 1, bytes(quoted)))
    assert error is not None
    assert error.flow == FLOW


def test_options_of_the_packet_do_not_matter() -> None:
    head = IP(src=ROUTER, dst=US, options=[IPOption_Router_Alert()])
    error = parse_icmp(bytes(head / ICMP(type=3, code=1) / Raw(SENT)) + b"padding")
    assert error == IcmpError(H, FLOW, 4_000_000_000, 1500, 0, ROUTER)
    head = IPv6(src=ROUTER6, dst=US6) / IPv6ExtHdrHopByHop()
    error = parse_icmp(bytes(head / ICMPv6DestUnreach(code=3) / Raw(SENT6)) + b"padding")
    assert error == IcmpError(H, FLOW6, 4_000_000_000, 1500, 0, ROUTER6)


def test_an_mtu_beyond_all_packets_is_the_largest_packet() -> None:
    error = parse_icmp(build_icmp(ROUTER6, SENT6, 2, mtu=(1 << 32) - 1))
    assert error is not None
    assert error.mtu == 65535


UDP_QUOTED = bytes(IP(src=US, dst=PEER) / UDP(sport=1, dport=2))
LATER_FRAGMENT = bytes(IP(src=US, dst=PEER, frag=100) / TCP())
NO_ERRORS = {
    "a segment": SENT,
    "a segment of IPv6": SENT6,
    "an echo request": bytes(IP(src=ROUTER, dst=US) / ICMP(type=8) / Raw(SENT)),
    "an echo request of ICMPv6": bytes(IPv6(src=ROUTER6, dst=US6) / ICMPv6EchoRequest()),
    "an error about UDP": scapy_icmp(3, 3, UDP_QUOTED),
    "an error about a later fragment": scapy_icmp(11, 1, LATER_FRAGMENT),
    "an error that quotes nothing": scapy_icmp(3, 3, b""),
    "an error that quotes too little": scapy_icmp(3, 3, SENT[:27]),
    "an ICMPv6 error that quotes too little": scapy_icmpv6(1, 4, SENT6[:47]),
    "an ICMPv6 error about IPv4": scapy_icmpv6(1, 4, SENT),
    "an ICMPv4 error about IPv6": scapy_icmp(3, 3, SENT6),
    "an error about what another host sent": scapy_icmp(
        3, 3, build(Segment(FLOW[4:8] * 3, 0, 1, 2, 3))
    ),
    "an unknown code of an unknown type": scapy_icmp(40, 0, SENT),
    "UDP": bytes(IP(src=ROUTER, dst=US) / UDP()),
}


@pytest.mark.parametrize("name", NO_ERRORS)
def test_what_is_no_error_about_a_segment_of_ours_is_none(name: str) -> None:
    assert parse_icmp(NO_ERRORS[name]) is None


def changed(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes([packet[at] ^ 0x55]) + packet[at + 1 :]


@pytest.mark.parametrize("sent", [SENT, SENT6], ids=["IPv4", "IPv6"])
def test_a_damaged_error_is_refused(sent: bytes) -> None:
    reporter, kind = (ROUTER, 3) if sent is SENT else (ROUTER6, 1)
    packet = build_icmp(reporter, sent, kind, 1)
    head = 20 if sent is SENT else 40
    for at in range(head, len(packet), 7):
        with pytest.raises(WireError) as caught:
            parse_icmp(changed(packet, at))
        assert caught.value.why is Why.BAD_CHECKSUM
    for size in range(1, len(packet), 7):
        with pytest.raises(WireError) as caught:
            parse_icmp(packet[:size])
        assert caught.value.why is Why.MALFORMED


def test_an_error_that_is_a_fragment_is_refused() -> None:
    packet = bytes(IP(src=ROUTER, dst=US, flags="MF") / ICMP(type=3, code=1) / Raw(SENT))
    with pytest.raises(WireError, match="fragment"):
        parse_icmp(packet)


@pytest.mark.slow
@steady(300)
@given(
    base=st.sampled_from([*NO_ERRORS.values(), build_icmp(ROUTER, SENT, 3, 4, mtu=1000)])
    | st.sampled_from([build_icmp(ROUTER6, SENT6, 2, mtu=1300)])
    | st.binary(max_size=80),
    changes=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4),
    size=st.integers(0, 120),
)
def test_any_octets_are_an_error_nothing_or_a_wire_error(
    base: bytes, changes: list[tuple[int, int]], size: int
) -> None:
    octets = bytearray(base)
    for at, octet in changes:
        octets[at : at + 1] = bytes([octet])
    for packet in (bytes(octets), bytes(octets[:size])):
        try:
            found = parse_icmp(packet)
        except WireError:
            continue
        assert found is None or isinstance(found, IcmpError)


def test_the_hard_ones_are_those_of_the_rfcs() -> None:
    """RFC 1122 4.2.3.9, RFC 5461 2: unreachable protocol, port, and by order of somebody."""
    hard = {problem for problem in Problem if problem.hard}
    assert hard == {Problem.PROTOCOL_UNREACHABLE, Problem.PORT_UNREACHABLE, A}
    assert not any(ICMPV4[number].hard for number in SOFT)
    assert not any(ICMPV6[number].hard for number in SOFT6)


# --- soft errors ---


both_families = pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])


@pytest.mark.parametrize(
    ("ipv6", "number"), [(False, n) for n in SOFT] + [(True, n) for n in SOFT6], ids=str
)
def test_a_soft_error_ends_nothing_and_is_told_in_the_end(
    ipv6: bool, number: tuple[int, int]
) -> None:
    """RFC 9293 MUST-54, MUST-56, SHLD-25, U-2."""
    peer = Peer(ipv6=ipv6)
    peer.connects()
    assert peer.reports(*number) == "remembered"
    assert peer.state is State.SYN_SENT
    assert [what for _, what, _ in peer.conn.reports] == ["icmp"]
    peer.wait(200)
    assert isinstance(peer.conn.error, TimeoutError)
    problem = (ICMPV6 if ipv6 else ICMPV4)[number]
    assert str(peer.conn.error).endswith(f" s; {peer.router} says: {problem.text}")


def test_an_error_that_time_has_overtaken_is_not_told() -> None:
    peer = established()
    peer.app_writes(10)
    peer.reports(3, 1)
    peer.acks(11)
    peer.wait(1)
    peer.app_writes(10)
    peer.wait(400)
    assert str(peer.conn.error).endswith(" s")


def test_blocking_connect_tells_what_icmp_said() -> None:
    """The lab's and the simulation's sockets are these."""
    client, server = nbtcp.Simulation(nbtcp.Path(loss=1.0)).hosts()
    client.loop.now()
    sock = client.socket()
    sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        sock.connect((server.address, 80))
    flow = sock.connection.flow
    syn = build(Segment(flow, 2, sock.connection.tcb.snd.iss, 0, 0))
    client.stack.receive(build_icmp(ROUTER, syn, 3, 1), client.loop.now())
    assert sock.connection.heard(0) == f"; {ROUTER} says: host unreachable"


@both_families
def test_source_quench_is_ignored(ipv6: bool) -> None:
    """RFC 9293 MUST-55, RFC 6633. ICMPv6 has none; the type is unknown there."""
    peer = established(ipv6=ipv6)
    peer.app_writes(3000)
    cwnd = peer.conn.cc.cwnd
    assert peer.reports(4) == ("remembered" if ipv6 else "ignored")
    assert peer.conn.cc.cwnd == cwnd
    assert (peer.conn.reported is None) is not ipv6


# --- hard errors ---


HARD = {
    (False, (3, 2)): (ConnectionRefusedError, "protocol unreachable"),
    (False, (3, 3)): (ConnectionRefusedError, "port unreachable"),
    (False, (3, 13)): (OSError, "admin prohibited"),
    (True, (1, 1)): (OSError, "admin prohibited"),
    (True, (1, 4)): (ConnectionRefusedError, "port unreachable"),
}


@pytest.mark.parametrize(("ipv6", "number"), HARD, ids=str)
def test_syn_sent_a_hard_error_ends_the_attempt(ipv6: bool, number: tuple[int, int]) -> None:
    """RFC 9293 SHLD-26, RFC 5927 5.2."""
    kind, text = HARD[ipv6, number]
    peer = Peer(ipv6=ipv6)
    peer.connects()
    peer.expect("S 0:0")
    assert peer.reports(*number) == "rcv-icmp"
    assert peer.state is State.CLOSED
    assert type(peer.conn.error) is kind
    number_of = errno.ECONNREFUSED if kind is ConnectionRefusedError else errno.EHOSTUNREACH
    assert peer.conn.error.errno == number_of
    assert str(peer.conn.error).endswith(f"{peer.them} port 80; {peer.router} says: {text}") or (
        f"{peer.them} port 80 cannot be reached; {peer.router} says: {text}" in str(peer.conn.error)
    )
    assert peer.log.connections.end.tolist() == ["ICMP"]
    peer.wait(100)
    peer.expect()


def test_syn_received_a_hard_error_ends_an_active_open() -> None:
    peer = Peer()
    peer.connects()
    peer.sends("S 0:0")
    peer.reports(3, 3)
    assert peer.state is State.CLOSED
    assert isinstance(peer.conn.error, ConnectionRefusedError)


def test_syn_received_a_hard_error_sends_a_passive_open_back_to_listen() -> None:
    """As a RST does: the application need not be informed; another SYN may come."""
    peer = Peer()
    peer.listens()
    peer.sends("S 0:0")
    assert peer.reports(3, 3) == "rcv-icmp"
    assert not peer.stack.connections
    assert peer.listener.accept() is None
    peer.expect("S. 0:0 ack 1")
    peer.sends("S 0:0")
    peer.expect("S. 0:0 ack 1")


@pytest.mark.parametrize(("ipv6", "number"), HARD, ids=str)
def test_established_a_hard_error_is_taken_as_a_soft_one(
    ipv6: bool, number: tuple[int, int]
) -> None:
    """RFC 5927 5.2: a blind attacker must not be able to end a connection."""
    peer = established(ipv6=ipv6)
    peer.app_writes(10)
    peer.expect("P. 1:11")
    assert peer.reports(*number) == "remembered"
    assert peer.state is State.ESTABLISHED
    peer.acks(11)
    peer.expect()


# --- what is believed ---


def forged(peer: Peer, seq: int) -> bytes:
    """A packet that the stack never sent, on the connection it has."""
    conn = peer.conn
    return build(Segment(conn.flow, ACK, (conn.tcb.snd.iss + seq) % (1 << 32), 0, 0, bytes(100)))


@pytest.mark.parametrize(
    ("seq", "why"),
    [
        *((seq, "remembered") for seq in (1, 1501, 3001)),
        *((seq, "unacceptable") for seq in (-1000, 0, 3002, 1 << 31)),
    ],
)
@both_families
def test_established_only_what_quotes_a_segment_in_flight_counts(
    ipv6: bool, seq: int, why: str
) -> None:
    """RFC 5927 4.1: SND.UNA =< SEG.SEQ =< SND.NXT; the RFC's < would refuse our pure ACKs."""
    peer = established(ipv6=ipv6, tsval=None)
    peer.app_writes(3000)
    number = (1, 0) if ipv6 else (3, 0)
    assert peer.reports(*number, about=forged(peer, seq)) == why
    assert (peer.conn.reported is not None) == (why == "remembered")


def test_established_a_forged_fragmentation_needed_changes_nothing() -> None:
    peer = established()
    peer.app_writes(3000)
    mss = peer.conn.tcb.snd.mss
    assert peer.reports(3, 4, mtu=600, about=forged(peer, 5000)) == "unacceptable"
    assert peer.conn.tcb.snd.mss == mss


def test_syn_sent_a_forged_hard_error_ends_nothing() -> None:
    peer = Peer()
    peer.connects()
    assert peer.reports(3, 3, about=forged(peer, 77)) == "unacceptable"
    assert peer.state is State.SYN_SENT


@both_families
def test_an_error_about_no_connection_is_refused_with_a_reason(ipv6: bool) -> None:
    peer = Peer(ipv6=ipv6)
    peer.reports(*((1, 4) if ipv6 else (3, 3)), about=SENT6 if ipv6 else SENT)
    (row,) = peer.log.segments.itertuples()
    assert (row.event, row.why, row.conn, row.host) == ("recv", "icmp", 0, peer.us)
    peer.expect()


@pytest.mark.parametrize("name", NO_ERRORS)
def test_other_icmp_is_answered_by_silence(name: str) -> None:
    peer = Peer()
    peer.listens()
    if "segment" not in name:
        peer.stack.receive(NO_ERRORS[name], 0)
        assert peer.log.segments.why.tolist() == ["not-tcp"]
    peer.expect()


def test_a_damaged_error_is_logged_as_such() -> None:
    peer = established()
    peer.app_writes(10)
    packet = build_icmp(ROUTER, peer.packets[-1], 3, 4, mtu=600)
    peer.stack.receive(changed(packet, 26), peer.now)
    assert peer.log.segments.why.iloc[-1] == "bad-checksum"
    assert peer.conn.tcb.snd.mss == 1460


# --- path MTU discovery ---


def in_flight(peer: Peer) -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in peer.conn.queue.spans]


def test_established_fragmentation_needed_cuts_what_is_in_flight() -> None:
    """RFC 1191 6.5: at once, in parts that fit, cwnd as it was."""
    peer = established(timestamps=False)
    peer.app_writes(4000)
    peer.expect("1:1461", "1461:2921", "P. 2921:4001")
    cwnd, ssthresh = peer.conn.cc.cwnd, peer.conn.cc.ssthresh
    assert peer.reports(3, 4, mtu=1000, about=-3) == "packet-too-big"
    peer.expect(
        "1:961 why packet-too-big",
        "961:1461 why packet-too-big",
        "1461:2421 why packet-too-big",
        "2421:2921 why packet-too-big",
        "2921:3881 why packet-too-big",
        "P. 3881:4001 why packet-too-big",
    )
    assert (peer.conn.cc.cwnd, peer.conn.cc.ssthresh) == (cwnd, ssthresh)
    assert peer.reports(3, 4, mtu=1000, about=3) == "not-smaller"  # about the next one
    peer.expect()
    peer.acks(4001)
    assert not peer.conn.queue.spans
    assert Timer.RETRANSMISSION not in peer.conn.timers
    peer.app_writes(2000)
    peer.expect("4001:4961", "4961:5921", "P. 5921:6001")


def test_established_packet_too_big_cuts_what_is_in_flight() -> None:
    """RFC 8201, with timestamps in each part."""
    peer = established(ipv6=True, mss=1440, tsval=1000)
    peer.app_writes(1428 * 2)
    peer.expect("1:1429", "P. 1429:2857")
    peer.reports(2, mtu=1280)
    peer.expect("1:1209", "1209:1429", "1429:2637", "P. 2637:2857")


def test_established_what_fits_is_not_sent_again() -> None:
    peer = established(timestamps=False, nagle=False)
    peer.app_writes(100)
    peer.app_writes(1460)
    peer.app_writes(960)
    peer.expect("1:101", "101:1561", "P. 1561:2521")
    peer.reports(3, 4, mtu=1000)
    peer.expect("101:1061", "1061:1561")


def test_established_the_fin_goes_with_the_last_part() -> None:
    peer = established(timestamps=False)
    peer.app_writes(1460)
    peer.sent()
    peer.acks(1461)
    with peer.batch():
        peer.app_writes(1460)
        peer.app_closes()
    peer.expect("FP. 1461:2921")
    peer.reports(3, 4, mtu=1000)
    peer.expect(". 1461:2421", "FP. 2421:2921")
    peer.acks(2922)
    assert peer.state is State.FIN_WAIT_2


def test_established_a_full_segment_with_a_fin_is_not_cut() -> None:
    """A FIN takes a position, and no octet."""
    peer = established(timestamps=False)
    with peer.batch():
        peer.app_writes(960)
        peer.app_closes()
    peer.expect("FP. 1:961")
    assert peer.reports(3, 4, mtu=1000) == "packet-too-big"
    peer.expect()


def test_established_parts_wait_for_cwnd_but_for_the_first() -> None:
    peer = established(timestamps=False, cwnd=2920)
    peer.app_writes(6000)
    peer.expect("1:1461", "1461:2921")
    peer.conn.cc.cwnd = 960
    peer.reports(3, 4, mtu=1000)
    peer.expect("1:961")
    peer.acks(961)  # cwnd 1920: slow start
    peer.expect("961:1461", "1461:2421")


def test_established_the_first_part_is_timed_anew() -> None:
    peer = established(timestamps=False, rtt=0.1)
    peer.app_writes(1460)
    peer.sent()
    peer.wait(0.1)
    peer.reports(3, 4, mtu=1000)
    peer.expect("1:961", "P. 961:1461")
    peer.expect_after(peer.conn.rtt.rto / 1e9, "1:961 why timeout")  # cwnd is one segment now


def test_established_a_part_lost_again_is_repaired() -> None:
    peer = established(timestamps=False)
    peer.app_writes(1460 * 4)
    peer.sent()
    peer.reports(3, 4, mtu=1000, about=-4)
    parts = in_flight(peer)
    assert parts[0] == (1, 961)
    assert all(end - start <= 960 for start, end in parts)
    assert [start for start, _ in parts[1:]] == [end for _, end in parts[:-1]]
    peer.sent()
    for _ in range(3):
        peer.acks(1)
    peer.expect("1:961 why fast-retransmit")


@pytest.mark.parametrize(("mtu", "mss"), [(552, 512), (551, 512), (68, 512), (1, 512)])
def test_no_router_makes_our_segments_tiny(mtu: int, mss: int) -> None:
    """RFC 5927 7: 552 is Linux's least, where RFC 1191 has 68."""
    peer = established(timestamps=False)
    peer.app_writes(3000)
    peer.reports(3, 4, mtu=mtu)
    assert peer.conn.tcb.snd.mss == mss


@pytest.mark.parametrize(("mtu", "mss"), [(1280, 1220), (1279, 1440), (68, 1440), (0, 1440)])
def test_no_router_makes_ipv6_segments_smaller_than_every_link_carries(mtu: int, mss: int) -> None:
    """RFC 8201 4: a node must discard what reports less than the minimum link MTU, 1280."""
    peer = established(ipv6=True, timestamps=False, mss=1440)
    peer.app_writes(3000)
    assert peer.reports(2, mtu=mtu) == ("packet-too-big" if mss == 1220 else "ignored")
    assert peer.conn.tcb.snd.mss == mss


def test_a_router_that_does_not_say_its_mtu_gets_the_next_plateau() -> None:
    """RFC 1191 5 and 7.1: 1492, 1006, 508, of which the last is less than our least."""
    peer = established(timestamps=False)
    for mss in (1452, 966, 512):
        peer.app_writes(peer.conn.tcb.snd.mss)
        peer.reports(3, 4)
        assert peer.conn.tcb.snd.mss == mss
        peer.acks(peer.conn.tcb.snd.nxt)


@pytest.mark.parametrize("mtu", [1500, 1501, 9000, 65535])
def test_an_mtu_that_is_not_smaller_changes_nothing(mtu: int) -> None:
    peer = established(timestamps=False)
    peer.app_writes(3000)
    peer.sent()
    assert peer.reports(3, 4, mtu=mtu) == "not-smaller"
    peer.expect()
    assert peer.conn.tcb.snd.mss == 1460


def test_an_mtu_between_the_peers_mss_and_ours_changes_nothing() -> None:
    peer = established(timestamps=False, mss=500)
    peer.app_writes(900)
    peer.sent()
    assert peer.reports(3, 4, mtu=1000) == "not-smaller"
    peer.expect()


def test_events_tell_of_the_path_mtu() -> None:
    peer = established(timestamps=False)
    peer.app_writes(1460)
    peer.reports(3, 4, mtu=1000)
    events = peer.log.events
    (said,) = events[events.event == "icmp"].itertuples()
    assert (said.new, said.value, said.why) == ("fragmentation-needed", 1000, "packet-too-big")
    (loss,) = events[events.event == "loss"].itertuples()
    assert (loss.value, loss.why) == (1460, "packet-too-big")


def test_later_connections_begin_with_what_the_path_carries() -> None:
    """RFC 1191 6.3: for ten minutes. The MSS that we offer does not change (3.1)."""
    peer = established(timestamps=False)
    peer.app_writes(1460)
    peer.reports(3, 4, mtu=1000)
    peer.acks(1461)
    peer.sent()
    peer.connects()
    peer.expect("S 0:0")
    assert parse(peer.packets[-1]).mss == 1460
    peer.nxt = peer.acked = 0
    peer.sends("S. 0:0 ack 1 <mss 1460>")
    assert peer.conn.tcb.snd.mss == 960
    peer.wait(10 * MINUTE - 0.001)
    peer.connects()
    assert peer.conn.tcb.snd.path_mss == 960
    peer.wait(0.001)
    peer.connects()
    assert peer.conn.tcb.snd.path_mss == 1460


def test_other_destinations_are_not_concerned() -> None:
    peer = established(timestamps=False)
    peer.app_writes(1460)
    peer.reports(3, 4, mtu=1000)
    other = peer.stack.connect(("10.0.0.77", 80), peer.now)
    assert other.tcb.snd.path_mss == 1460


def test_a_passive_open_begins_with_what_the_path_carries() -> None:
    peer = established(timestamps=False)
    peer.app_writes(1460)
    peer.reports(3, 4, mtu=1000)
    peer.sent()
    peer.listens()
    peer.flow = pack_flow((PEER, 40000), (US, 80))
    peer.conn = None
    peer.nxt = peer.acked = 0
    peer.stack.receive(build(Segment(peer.flow, 2, 1, 0, 65535, mss=1460)), peer.now)
    conn = next(conn for conn in peer.stack.connections if conn.passive)
    assert conn.tcb.snd.mss == 960


@pytest.mark.parametrize("state", ["fin-wait-1", "close-wait", "last-ack"])
def test_closing_states_discover_the_path_mtu_too(state: str) -> None:
    peer = established(timestamps=False)
    if state != "fin-wait-1":
        peer.sends("F. 1:1 ack 1")
    peer.app_writes(1460)
    if state != "close-wait":
        peer.app_closes()
    peer.sent()
    assert peer.state.label == state.upper()
    peer.reports(3, 4, mtu=1000, about=forged(peer, 1))
    assert peer.sent()[0].startswith(". 1:961(960)")
    assert peer.state.label == state.upper()


# --- the queue that is cut ---

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)
marks = st.lists(st.sampled_from(["flight", "lost", "sacked", "resent"]), min_size=12, max_size=12)


@steady(300)
@given(sizes=sizes, marks=marks, mss=st.integers(1, 45), fin=st.booleans(), ack=st.integers(0, 99))
def test_a_queue_that_was_cut_holds_what_it_held(
    sizes: list[int], marks: list[str], mss: int, fin: bool, ack: int
) -> None:
    queue = SendQueue(1 << 20)
    queue.append(bytes(sum(sizes)))
    queue.fin = queue.end if fin else None
    at = 1
    for number, size in enumerate(sizes):
        last = fin and number == len(sizes) - 1
        span = queue.sent(at, at + size + last, number)
        match marks[number]:
            case "lost" | "resent":
                queue.mark_lost(span, Why.RACK)
                if marks[number] == "resent":
                    queue.resent(span, 50)
            case "sacked":
                queue.sack((span.start, span.end))
        at = span.end
    large = [s for s in queue.spans if s.end - s.start - (s.end - 1 == queue.fin) > mss]
    expected = {p for s in large if not s.sacked for p in range(s.start, s.end)}
    expected |= {p for s in queue.spans if s.lost for p in range(s.start, s.end)}
    times = {p: s.times for s in queue.spans for p in range(s.start, s.end)}
    queue.split(mss, Why.PACKET_TOO_BIG)
    assert {p for s in queue.spans if s.lost for p in range(s.start, s.end)} == expected
    assert {p: s.times for s in queue.spans for p in range(s.start, s.end)} == times
    assert_sound(queue, 1, at, mss)
    una = min(at, 1 + ack)
    queue.acknowledge(una)
    assert_sound(queue, una, at, mss)
    sent = []
    while (span := queue.next_lost()) is not None:
        sent.append(span.start)
        queue.resent(span, 99)
    assert sent == sorted(sent)
    assert queue.lost_octets == 0
    assert_sound(queue, una, at, mss)


def assert_sound(queue: SendQueue, start: int, end: int, mss: int) -> None:
    for span in queue.spans:
        assert span.start == start < span.end
        assert span.sacked or span.end - span.start - (span.end - 1 == queue.fin) <= mss
        assert (span in queue.flight) == (not span.lost and not span.sacked)
        start = span.end
    assert start == end
    assert queue.lost_octets == sum(s.end - s.start for s in queue.spans if s.lost)
    assert queue.sacked_octets == sum(s.end - s.start for s in queue.spans if s.sacked)
    assert len(queue.flight) == sum(not s.lost and not s.sacked for s in queue.spans)
