"""The wire format: scapy reads what we build, we read what scapy builds, both codecs are one.

`judge` below is a third parser: slow, written plainly from the RFCs, and the oracle for packets
that nobody would send. Its order of checks is the one that Linux has: a damaged header is a bad
checksum, whatever the damaged field seems to say.
"""

import dataclasses
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert, IPOption_RR
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

from nbtcp.why import Why
from nbtcp.wire import ip
from nbtcp.wire import scapy as scapy_codec
from nbtcp.wire import segment as struct_codec
from nbtcp.wire.ip import WireError
from nbtcp.wire.segment import (
    ACK,
    FIN,
    FLAG_LETTERS,
    PSH,
    RST,
    SYN,
    Segment,
    addresses,
    build,
    endpoints,
    flow_of,
    format_endpoint,
    format_flags,
    pack_flow,
    parse,
    reverse_flow,
)
from nbtcp.wire.seq import unwrap, wrap

CODECS = {"struct": struct_codec, "scapy": scapy_codec}
FLOW = pack_flow(("192.0.2.1", 49152), ("198.51.100.7", 80))
FLOW6 = pack_flow(("2001:db8::1", 49152), ("fd00::2", 80))
MODULUS = 1 << 32
LARGEST = 65535  # octets of an IPv4 packet

both_codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


def examples(number: int) -> Any:
    """So many examples, the same ones on every run."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=number)


# --- the oracle ---


def words(data: bytes) -> int:
    """The one's complement sum, word by word with end-around carry (RFC 1071 1)."""
    data += b"\0" * (len(data) & 1)
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def judge(packet: bytes) -> Segment | Why:
    """What must become of these bytes: a Segment, or the reason why not."""
    if packet and packet[0] >> 4 == 6:
        return judge_ipv6(packet)
    if not packet or packet[0] >> 4 != 4:
        return Why.NOT_TCP
    head = (packet[0] & 15) * 4
    if head < 20 or len(packet) < head:
        return Why.MALFORMED
    if words(packet[:head]) != 0xFFFF:
        return Why.BAD_CHECKSUM
    total = int.from_bytes(packet[2:4], "big")
    if not head <= total <= len(packet):
        return Why.MALFORMED
    if packet[9] != 6:
        return Why.NOT_TCP
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return Why.FRAGMENT
    return judge_tcp(packet[12:20], packet[1], packet[8], packet[head:total])


def judge_ipv6(packet: bytes) -> Segment | Why:
    """RFC 8200 3 and 4."""
    total = 40 + int.from_bytes(packet[4:6], "big")
    if len(packet) < 40 or len(packet) < total:
        return Why.MALFORMED
    kind, rest, first = packet[6], packet[40:total], True
    while kind in (0, 43, 44, 60):
        size = 8 + 8 * rest[1] if kind != 44 and len(rest) > 1 else 8
        if len(rest) < size or (kind == 0 and not first):
            return Why.MALFORMED
        if kind == 44 and (rest[2] or rest[3] & 0xF9):
            return Why.FRAGMENT
        if kind == 43 and rest[3] != 0:
            return Why.MISDIRECTED
        if kind in (0, 60) and (fault := judge_ipv6_options(rest[2:size])):
            return fault
        kind, rest, first = rest[0], rest[size:], False
    if kind != 6:
        return Why.NOT_TCP
    traffic_class = (packet[0] & 15) << 4 | packet[1] >> 4
    return judge_tcp(packet[8:40], traffic_class, packet[7], rest)


def judge_ipv6_options(options: bytes) -> Why | None:
    while options:
        if options[0] >= 64:
            return Why.NOT_TCP
        size = 1 if options[0] == 0 else 2 + (options[1] if len(options) > 1 else 255)
        if size > len(options):
            return Why.MALFORMED
        options = options[size:]
    return None


def judge_tcp(addresses: bytes, tos: int, ttl: int, tcp: bytes) -> Segment | Why:
    offset = (tcp[12] >> 4) * 4 if len(tcp) >= 20 else 0
    if not 20 <= offset <= len(tcp):
        return Why.MALFORMED
    if words(addresses + b"\0\6" + len(tcp).to_bytes(2, "big") + tcp) != 0xFFFF:
        return Why.BAD_CHECKSUM
    seq, ack, _, flags, window, _, urgent = struct.unpack("!LLBBHHH", tcp[4:20])
    segment = Segment(addresses + tcp[:4], flags, seq, ack, window, tcp[offset:])
    segment.urgent, segment.tos, segment.ttl = urgent, tos, ttl
    return segment if judge_options(tcp[20:offset], segment) else Why.MALFORMED


def judge_options(options: bytes, segment: Segment) -> bool:
    """Fill in what the options say; a known kind of another length is an unknown one."""
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        if len(options) < 2 or not 2 <= options[1] <= len(options):
            return False
        value, size = options[2 : options[1]], options[1] - 2
        numbers = struct.unpack(f"!{size // 4}L", value[: size // 4 * 4])
        match options[0], size:
            case 2, 2:
                segment.mss = int.from_bytes(value, "big")
            case 3, 1:
                segment.wscale = value[0]
            case 4, 0:
                segment.sack_permitted = True
            case 5, 8 | 16 | 24 | 32:
                segment.sack = tuple(zip(numbers[::2], numbers[1::2], strict=True))
            case 8, 8:
                segment.tsval, segment.tsecr = numbers
        options = options[options[1] :]
    return True


def outcome(codec: Any, packet: bytes) -> Segment | Why:
    """What a codec makes of these bytes; whatever else it raises fails the test."""
    try:
        segment = codec.parse(packet)
    except WireError as problem:
        return problem.why
    assert isinstance(segment, Segment)
    return segment


def mended(packet: bytes) -> bytes:
    """`packet` with its checksums made right, as far as it has the fields for them."""
    whole = bytearray(packet)
    if whole and whole[0] >> 4 == 6:
        return mended_ipv6(packet)
    head = (whole[0] & 15) * 4 if whole else 0
    if 20 <= head <= len(whole):
        whole[10:12] = b"\0\0"
        whole[10:12] = (0xFFFF - words(bytes(whole[:head]))).to_bytes(2, "big")
    total = int.from_bytes(whole[2:4], "big")
    tcp = bytes(whole[head:total])
    if 20 <= head <= total <= len(whole) and len(tcp) >= 18:
        tcp = tcp[:16] + b"\0\0" + tcp[18:]
        pseudo = bytes(whole[12:20]) + b"\0\6" + len(tcp).to_bytes(2, "big")
        whole[head + 16 : head + 18] = (0xFFFF - words(pseudo + tcp)).to_bytes(2, "big")
    return bytes(whole)


def mended_ipv6(packet: bytes) -> bytes:
    """The same for IPv6, where TCP's is the only one; extension headers as they lie."""
    total = 40 + int.from_bytes(packet[4:6], "big")
    kind, at = packet[6] if len(packet) > 6 else 0, 40
    while kind in (0, 43, 44, 60) and at + 8 <= len(packet):
        kind, at = packet[at], at + 8 + (8 * packet[at + 1] if kind != 44 else 0)
    tcp = packet[at:total]
    if kind != 6 or len(tcp) < 18 or total > len(packet):
        return packet
    tcp = tcp[:16] + b"\0\0" + tcp[18:]
    total_words = words(packet[8:40] + b"\0\6" + len(tcp).to_bytes(2, "big") + tcp)
    return packet[: at + 16] + (0xFFFF - total_words).to_bytes(2, "big") + packet[at + 18 :]


def crafted_ipv6(
    *extensions: bytes, first: int = 6, tcp: bytes | None = None, data: bytes = b"", extra: int = 0
) -> bytes:
    """A packet with these extension headers as they are, a right TCP checksum if there is TCP."""
    if tcp is None:
        tcp = struct.pack("!LLBBHHH", 1, 2, 0x50, ACK, 3, 0, 0)
    rest = b"".join(extensions) + FLOW6[-4:] + tcp + data
    head = struct.pack("!LHBB", 6 << 28, len(rest) + extra, first, 64)
    return mended(head + FLOW6[:32] + rest)


def crafted(
    options: bytes = b"", data: bytes = b"", ip_options: bytes = b"", **fields: int
) -> bytes:
    """A packet with exactly these octets as options, and right checksums."""
    head, offset = 20 + len(ip_options), 20 + len(options)
    total = fields.get("total", head + offset + len(data))
    first = fields.get("first", 0x40 | head // 4)
    fragment, protocol = fields.get("fragment", 0x4000), fields.get("protocol", 6)
    header = struct.pack("!BBHHHBBH", first, 0, total, 7, fragment, 64, protocol, 0)
    at = fields.get("offset", offset << 2)
    tcp = struct.pack("!LLBBHHH", 1, 2, at, fields.get("flags", ACK), 3, 0, 0)
    return mended(header + FLOW[:8] + ip_options + FLOW[8:] + tcp + options + data)


# --- strategies ---

u8, u16, u32 = st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, MODULUS - 1)
seeds = st.integers(0, 1 << 16)
sizes = st.one_of(st.integers(0, 80), st.integers(0, 3000), st.integers(60_000, LARGEST))


flows = st.binary(min_size=12, max_size=12) | st.binary(min_size=36, max_size=36)


@st.composite
def segments(draw: Callable[..., Any]) -> Segment:
    """Any segment that fits its headers: SYNs with a SYN's options, others with SACK blocks."""
    flags = draw(u8)
    segment = Segment(draw(flows), flags, draw(u32), draw(u32), draw(u16))
    segment.urgent, segment.tos, segment.ttl = draw(u16), draw(u8), draw(u8)
    if draw(st.booleans()):
        segment.tsval, segment.tsecr = draw(u32), draw(u32)
    if flags & SYN:
        segment.mss, segment.wscale = draw(st.none() | u16), draw(st.none() | u8)
        segment.sack_permitted = draw(st.booleans())
    else:
        most = 3 if segment.tsval is not None else 4  # RFC 2018 3
        segment.sack = tuple(draw(st.lists(st.tuples(u32, u32), max_size=most)))
    room = LARGEST - len(build(segment))
    segment.data = random.Random(draw(seeds)).randbytes(min(draw(sizes), room))
    return segment


# Octets that are options, lengths of options, or parts of headers more often than chance has it.
telling = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 18, 19, 25, 28, 29, 34, 253, 255]) | u8


@st.composite
def odd_packets(draw: Callable[..., Any]) -> bytes:
    """Packets with right checksums whose options are any octets at all."""
    whole_words = st.integers(0, 10).map(lambda number: 4 * number)

    def octets(alphabet: st.SearchStrategy[int]) -> bytes:
        size = draw(whole_words)
        return bytes(draw(st.lists(alphabet, min_size=size, max_size=size)))

    ip_alphabet = st.sampled_from([0, 1, 7, 68, 131, 137, 148, 3, 4, 7, 8, 11]) | u8
    ip_options = octets(ip_alphabet) if draw(st.booleans()) else b""
    return crafted(octets(telling), draw(st.binary(max_size=9)), ip_options, flags=draw(u8))


@st.composite
def odd_ipv6_packets(draw: Callable[..., Any]) -> bytes:
    """Packets with right checksums and any extension headers before TCP, or before nothing."""
    kinds = draw(st.lists(st.sampled_from([0, 60, 60, 43, 44, 17]), max_size=3))
    headers = []
    for following in [*kinds[1:], draw(st.sampled_from([6, 6, 6, 17, 59]))][: len(kinds)]:
        length = draw(st.sampled_from([0, 0, 1, 2, 40]))
        alphabet = st.sampled_from([0, 0, 0, 1, 2, 4, 5, 6, 8, 1]) | u8
        octets = draw(st.lists(alphabet, min_size=6, max_size=6)) + draw(
            st.just([0] * 8 * length) | st.lists(u8, max_size=16)
        )
        headers.append(bytes([following, length, *octets]))
    first = kinds[0] if kinds else 6
    data, extra = draw(st.binary(max_size=9)), draw(st.sampled_from([0, 0, 0, 1, -1, -20]))
    return crafted_ipv6(*headers, first=first, data=data, extra=extra)


@st.composite
def damaged_packets(draw: Callable[..., Any]) -> bytes:
    """Packets with some octets changed, cut or followed by others; half of them mended."""
    data = draw(st.binary(max_size=9))
    packet = draw(
        odd_packets()
        | odd_ipv6_packets()
        | segments().map(lambda s: build(dataclasses.replace(s, data=data)))
    )
    octets = bytearray(packet)
    for at, octet in draw(st.lists(st.tuples(st.integers(0, len(octets) - 1), u8), max_size=3)):
        octets[at] = octet
    if draw(st.booleans()):
        octets = bytearray(mended(bytes(octets)))
    if draw(st.integers(0, 3)) == 0:
        del octets[draw(st.integers(0, len(octets))) :]
    return bytes(octets) + (draw(st.binary(max_size=20)) if draw(st.booleans()) else b"")


rubbish = st.one_of(
    st.binary(max_size=120),
    st.binary(max_size=120).map(lambda octets: b"\x45" + octets),
    st.binary(max_size=120).map(lambda octets: b"\x60" + octets),
    damaged_packets(),
    odd_packets(),
    odd_ipv6_packets(),
)


# --- built and parsed again ---


@pytest.mark.slow
@examples(200)
@given(segments())
def test_a_segment_built_and_parsed_is_the_same(segment: Segment) -> None:
    packet = build(segment)
    if packet[0] >> 4 == 4:
        assert len(packet) == int.from_bytes(packet[2:4], "big")
    else:
        assert len(packet) == 40 + int.from_bytes(packet[4:6], "big")
    assert flow_of(packet) == segment.flow
    assert parse(packet) == segment
    assert judge(packet) == segment


@pytest.mark.slow
@examples(100)
@given(segments())
def test_both_codecs_build_the_same_octets(segment: Segment) -> None:
    assert scapy_codec.build(segment) == build(segment)


@pytest.mark.slow
@examples(100)
@given(segments())
def test_a_segment_built_is_parsed_by_the_scapy_codec(segment: Segment) -> None:
    assert scapy_codec.parse(build(segment)) == segment


@both_codecs
@pytest.mark.parametrize("size", [0, 1, 2, 535, 536, 1447, 1448, 1460, 32767, 65494, 65495])
def test_data_of_every_size_survives(codec: Any, size: int) -> None:
    segment = Segment(FLOW, ACK | PSH, 1, 2, 3, random.Random(size).randbytes(size))
    assert codec.parse(codec.build(segment)) == segment


@both_codecs
def test_more_data_than_a_packet_holds_is_refused(codec: Any) -> None:
    for flow, headers in ((FLOW, 40), (FLOW6, 20)):  # IPv6 does not count its own
        codec.build(Segment(flow, ACK, 1, 2, 3, bytes(LARGEST - headers)))
        with pytest.raises((ValueError, struct.error)):
            codec.build(Segment(flow, ACK, 1, 2, 3, bytes(LARGEST - headers + 1)))


@both_codecs
def test_more_options_than_a_header_holds_are_refused(codec: Any) -> None:
    """Four SACK blocks do not fit beside timestamps (RFC 2018 3); a wrong packet must not leave."""
    blocks = ((1, 2), (3, 4), (5, 6), (7, 8))
    for flow in (FLOW, FLOW6):
        with pytest.raises((ValueError, struct.error)):
            codec.build(Segment(flow, ACK, 1, 2, 3, tsval=1, tsecr=2, sack=blocks))


@both_codecs
def test_options_of_a_syn_stay_out_of_other_segments(codec: Any) -> None:
    """RFC 9293 MUST-65."""
    options = {"mss": 1460, "wscale": 7, "sack_permitted": True}
    plain = Segment(FLOW, ACK, 1, 2, 3, b"x", tsval=5, tsecr=6)
    assert codec.build(dataclasses.replace(plain, **options)) == codec.build(plain)


@both_codecs
def test_sack_blocks_stay_out_of_a_syn(codec: Any) -> None:
    syn = Segment(FLOW, SYN, 1, 0, 3, mss=1460)
    assert codec.build(dataclasses.replace(syn, sack=((1, 2),))) == codec.build(syn)


def test_a_missing_timestamp_echo_is_zero() -> None:
    assert parse(build(Segment(FLOW, SYN, 1, 0, 3, tsval=9))).tsecr == 0


def test_packets_that_are_built_must_not_be_fragmented() -> None:
    assert build(Segment(FLOW, ACK, 1, 2, 3))[6:8] == b"\x40\0"  # RFC 1191


# --- scapy reads what we build ---


@pytest.mark.slow
@examples(100)
@given(segments())
def test_scapy_reads_every_field(segment: Segment) -> None:
    packet = build(segment)
    (source, sport), (destination, dport) = segment.source, segment.destination
    if ":" in source:
        header, length = IPv6(packet), 40
        assert (header.version, header.fl, header.plen) == (6, 0, len(packet) - 40)
        assert (header.tc, header.hlim, header.nh) == (segment.tos, segment.ttl, 6)
    else:
        header, length = IP(packet), 20
        assert (header.version, header.ihl, header.len, header.id) == (4, 5, len(packet), 0)
        assert (header.tos, header.ttl, header.proto) == (segment.tos, segment.ttl, 6)
        assert (header.flags, header.frag, header.options) == ("DF", 0, [])
    tcp = header[TCP]
    assert (header.src, header.dst) == (source, destination)
    assert (tcp.sport, tcp.dport) == (sport, dport)
    assert (tcp.seq, tcp.ack, tcp.window) == (segment.raw_seq, segment.raw_ack, segment.raw_window)
    assert (int(tcp.flags), tcp.urgptr, tcp.reserved) == (segment.flags, segment.urgent, 0)
    assert tcp.dataofs * 4 == len(packet) - len(segment.data) - length
    assert bytes(tcp.payload) == segment.data
    options = {name: value for name, value in tcp.options if name not in ("NOP", "EOL")}
    expected: dict[str, Any] = {}
    if segment.tsval is not None:
        expected["Timestamp"] = (segment.tsval, segment.tsecr)
    if segment.mss is not None:
        expected["MSS"] = segment.mss
    if segment.wscale is not None:
        expected["WScale"] = segment.wscale
    if segment.sack_permitted:
        expected["SAckOK"] = b""
    if segment.sack:
        expected["SAck"] = tuple(edge for block in segment.sack for edge in block)
    assert options == expected


@examples(100)
@given(segments())
def test_scapy_makes_the_same_checksums(segment: Segment) -> None:
    """RFC 9293 MUST-2."""
    packet = build(segment)
    again = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    if packet[0] >> 4 == 4:
        del again.chksum
    del again[TCP].chksum
    assert bytes(again) == packet


def test_a_segment_shows_itself_as_a_scapy_packet() -> None:
    segment = Segment(FLOW, SYN | ACK, 1, 2, 3, mss=1460, wscale=7, tsval=4, tsecr=5)
    packet = segment.scapy()
    assert isinstance(packet, IP)
    assert packet[TCP].flags == "SA"
    assert packet.summary() == "IP / TCP 192.0.2.1:49152 > 198.51.100.7:http SA"
    assert ("MSS", 1460) in packet[TCP].options
    assert bytes(packet) == build(segment)
    packet[TCP].seq = 99  # it is a copy, to be changed
    assert segment.raw_seq == 1
    assert parse(bytes(packet)).raw_seq == 99


def test_an_ipv6_segment_shows_itself_as_a_scapy_packet() -> None:
    packet = Segment(FLOW6, SYN | ACK, 1, 2, 3, mss=1440, tos=0xB9, ttl=3).scapy()
    assert packet.summary() == "IPv6 / TCP 2001:db8::1:49152 > fd00::2:http SA"
    assert (packet.tc, packet.hlim) == (0xB9, 3)


def test_a_segment_without_data_has_no_payload_in_scapy() -> None:
    assert Raw not in Segment(FLOW, ACK, 1, 2, 3).scapy()


def test_flags_are_written_as_scapy_writes_them() -> None:
    assert [format_flags(f) for f in range(256)] == [str(TCP(flags=f).flags) for f in range(256)]


# --- we read what scapy builds ---

scapy_options = st.one_of(
    st.just(("NOP", None)),
    st.tuples(st.just("MSS"), u16),
    st.tuples(st.just("WScale"), u8),
    st.just(("SAckOK", b"")),
    st.tuples(st.just("Timestamp"), st.tuples(u32, u32)),
    st.tuples(st.just("SAck"), st.integers(1, 4).flatmap(lambda n: st.tuples(*[u32] * (2 * n)))),
    # Kinds we don't know.
    st.tuples(
        st.sampled_from([6, 9, 14, 19, 25, 28, 30, 34, 69, 253, 254]), st.binary(max_size=12)
    ),
    st.just(("EOL", None)),
)
OPTION_SIZES = {"NOP": 1, "EOL": 1, "MSS": 4, "WScale": 3, "SAckOK": 2, "Timestamp": 10}


def size_of(option: tuple[Any, Any]) -> int:
    name, value = option
    if name == "SAck":
        return 2 + 4 * len(value)
    return OPTION_SIZES[name] if isinstance(name, str) else 2 + len(value)


@st.composite
def option_lists(draw: Callable[..., Any]) -> list[tuple[Any, Any]]:
    """Up to 40 octets of options in any order."""
    chosen: list[tuple[Any, Any]] = []
    for option in draw(st.lists(scapy_options, max_size=12)):
        if sum(map(size_of, [*chosen, option])) <= 40:
            chosen.append(option)
    return chosen


def meaning(options: list[tuple[Any, Any]]) -> dict[str, Any]:
    """The fields of a Segment that such options give: what comes after the end means nothing."""
    fields: dict[str, Any] = {}
    for name, value in options:
        match name:
            case "EOL":
                break
            case "MSS" | "WScale":
                fields[name.lower()] = value
            case "SAckOK":
                fields["sack_permitted"] = True
            case "Timestamp":
                fields["tsval"], fields["tsecr"] = value
            case "SAck":
                fields["sack"] = tuple(zip(value[::2], value[1::2], strict=True))
    return fields


ip_option_lists = st.lists(
    st.sampled_from(
        [IPOption_NOP(), IPOption_Router_Alert(), IPOption_RR(routers=["203.0.113.1", "0.0.0.0"])]
    ),
    max_size=3,
)


@pytest.mark.slow
@both_codecs
@examples(120)
@given(options=option_lists(), ip_options=ip_option_lists, data=st.binary(max_size=9), flags=u8)
def test_what_scapy_builds_is_read(
    codec: Any, options: list[tuple[Any, Any]], ip_options: list[Any], data: bytes, flags: int
) -> None:
    header = IP(src="192.0.2.1", dst="198.51.100.7", tos=8, ttl=9, options=ip_options)
    tcp = TCP(sport=49152, dport=80, seq=1, ack=2, flags=flags, window=3, urgptr=4)
    tcp.options = options
    expected = Segment(FLOW, flags, 1, 2, 3, data, urgent=4, tos=8, ttl=9, **meaning(options))
    assert codec.parse(bytes(header / tcp / Raw(data))) == expected


FRAGMENT_HEADER = IPv6ExtHdrFragment(id=7)
EXTENSIONS = {
    "hop-by-hop options": (IPv6ExtHdrHopByHop(options=[RouterAlert()]),),
    "destination options": (IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(40))]),),
    "a route that is done": (IPv6ExtHdrRouting(addresses=["2001:db8::7"], segleft=0),),
    "a fragment header for a whole packet": (FRAGMENT_HEADER,),  # RFC 6946
    "all of them": (
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(addresses=[], segleft=0),
        FRAGMENT_HEADER,
        IPv6ExtHdrDestOpt(),
    ),
}


@both_codecs
@pytest.mark.parametrize("name", ["nothing", *EXTENSIONS])
def test_what_scapy_builds_is_read_with_ipv6(codec: Any, name: str) -> None:
    packet = IPv6(src="2001:db8::1", dst="fd00::2", hlim=9, tc=0xB9, fl=0x12345)
    for header in EXTENSIONS.get(name, ()):
        packet /= header
    packet /= TCP(sport=49152, dport=80, seq=1, ack=2, flags="PA", window=3, urgptr=4)
    packet /= Raw(b"abc")
    expected = Segment(FLOW6, ACK | PSH, 1, 2, 3, b"abc", urgent=4, tos=0xB9, ttl=9)
    assert codec.parse(bytes(packet)) == expected
    assert codec.parse(bytes(packet) + b"padding") == expected
    assert judge(bytes(packet)) == expected


@both_codecs
def test_reserved_bits_are_ignored(codec: Any) -> None:
    """RFC 9293 3.1: they must be ignored in received segments."""
    header = IP(src="192.0.2.1", dst="198.51.100.7")
    tcp = TCP(sport=49152, dport=80, seq=1, ack=2, window=3, reserved=7, flags=0x1FF)
    assert codec.parse(bytes(header / tcp)) == Segment(FLOW, 0xFF, 1, 2, 3)


@both_codecs
@pytest.mark.parametrize("number", range(11))
def test_ip_options_are_ignored(codec: Any, number: int) -> None:
    """RFC 9293 MUST-50."""
    expected = Segment(FLOW, ACK, 1, 2, 3, b"abc")
    assert codec.parse(crafted(data=b"abc", ip_options=b"\1" * 4 * number)) == expected


@both_codecs
def test_a_source_route_that_is_done_does_not_change_the_checksum(codec: Any) -> None:
    """The pseudo-header has the destination of the header; here the route lists another router."""
    route = bytes([131, 7, 8, 203, 0, 113, 1, 0])
    assert codec.parse(crafted(ip_options=route)) == Segment(FLOW, ACK, 1, 2, 3)


@both_codecs
@pytest.mark.parametrize("junk", [1, 2, 6, 1500])
def test_what_follows_the_packet_is_ignored(codec: Any, junk: int) -> None:
    """An Ethernet frame has 46 octets at least: short packets come with padding."""
    segment = Segment(FLOW, ACK | FIN, 1, 2, 3, b"abc")
    assert codec.parse(build(segment) + b"\xaa" * junk) == segment


# --- options by hand ---

PLAIN = Segment(FLOW, ACK, 1, 2, 3)
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "MSS alone": ("02 04 05 b4", {"mss": 1460}),
    "MSS off a word boundary": ("01 02 04 05 b4 01 01 01", {"mss": 1460}),
    "two MSS: the last": ("02 04 05 b4 02 04 00 64", {"mss": 100}),
    "MSS of another length": ("02 03 05 00", {}),
    "MSS of length 6": ("02 06 05 b4 00 00 01 01", {}),
    "window scale after one NOP": ("01 03 03 07", {"wscale": 7}),
    "window scale beyond 14": ("03 03 ff 00", {"wscale": 255}),
    "window scale of length 4": ("03 04 07 07", {}),
    "SACK permitted": ("04 02 00 00", {"sack_permitted": True}),
    "SACK permitted with a value": ("04 03 01 00", {}),
    "SACK without a block": ("05 02 01 01", {}),
    "SACK with half a block": ("05 06 00 00 00 01 01 01", {}),
    "SACK with one block and a half": ("05 0e 00 00 00 01 00 00 00 02 00 00 00 03 01 01", {}),
    "SACK with one block, wrapped": (
        "01 01 05 0a ff ff ff ff 00 00 00 09",
        {"sack": ((0xFFFFFFFF, 9),)},
    ),
    "SACK with four blocks": (
        "01 01 05 22" + "00 00 00 05 00 00 00 06" * 4,
        {"sack": ((5, 6),) * 4},
    ),
    "timestamps as Linux has them": (
        "01 01 08 0a 00 00 00 05 00 00 00 06",
        {"tsval": 5, "tsecr": 6},
    ),
    "timestamps first": ("08 0a 00 00 00 05 00 00 00 06 00 00", {"tsval": 5, "tsecr": 6}),
    "timestamps off every boundary": (
        "01 08 0a 00 00 00 05 00 00 00 06 01",
        {"tsval": 5, "tsecr": 6},
    ),
    "timestamps of length 9": ("08 09 00 00 00 05 00 00 00 01 01 01", {}),
    "unknown kind of length 2": ("fd 02 02 04 05 b4 00 00", {"mss": 1460}),
    "unknown kind of length 40": ("fe 28" + "02" * 38, {}),
    "TCP-AO of every length: 2": ("1d 02 02 04 05 b4 00 00", {"mss": 1460}),
    "TCP-AO of every length: 3": ("1d 03 00 02 04 05 b4 00", {"mss": 1460}),
    "TCP-AO of every length: 16": ("1d 10" + "00" * 14 + "02 04 05 b4", {"mss": 1460}),
    "NOPs only": ("01" * 40, {}),
    "the end, then what looks like MSS": ("00 02 04 05 b4 00 00 00", {}),
    "the end, then a length of zero": ("01 00 08 00", {}),
    "as of a SYN, in a segment without SYN": (
        "02 04 05 b4 04 02 08 0a 00 00 00 05 00 00 00 06 01 03 03 07",
        {"mss": 1460, "sack_permitted": True, "tsval": 5, "tsecr": 6, "wscale": 7},
    ),
}


@both_codecs
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_read(codec: Any, name: str) -> None:
    """RFC 9293 MUST-4, MUST-5, MUST-6, MUST-64, MUST-68."""
    octets, fields = OPTIONS[name]
    packet = crafted(bytes.fromhex(octets), b"abc")
    assert outcome(codec, packet) == dataclasses.replace(PLAIN, data=b"abc", **fields)


BROKEN_OPTIONS = {
    "MSS of length 0": "02 00 05 b4",  # MUST-7
    "MSS of length 1": "02 01 05 b4",
    "MSS past the end": "01 02 04 05",
    "timestamps past the end": "08 0a 00 00 00 05 00 00",
    "timestamps of length 0, as long as the usual ones": "01 01 08 00 00 00 00 05 00 00 00 06",
    "unknown kind of length 0": "fd 00 00 00",
    "unknown kind of length 1": "fd 01 01 01",
    "unknown kind past the end": "fd 29" + "00" * 38,
    "a length of 255": "fd ff 00 00",
    "a kind in the last octet": "01 01 01 02",
    "an unknown kind in the last octet": "01 01 01 fd",
}


@both_codecs
@pytest.mark.parametrize("name", BROKEN_OPTIONS)
def test_options_with_an_illegal_length_make_a_segment_malformed(codec: Any, name: str) -> None:
    """RFC 9293 MUST-7: dropped, and the log says why."""
    packet = crafted(bytes.fromhex(BROKEN_OPTIONS[name]), b"abc")
    assert judge(packet) == Why.MALFORMED
    assert outcome(codec, packet) == Why.MALFORMED


# --- what is no segment ---

UDP_PACKET = bytes(IP(src="192.0.2.1", dst="198.51.100.7") / UDP(sport=53, dport=53) / Raw(b"?"))
BAD_PACKETS: dict[str, tuple[bytes, Why]] = {
    "nothing": (b"", Why.NOT_TCP),
    "one octet": (b"\x45", Why.MALFORMED),
    "nineteen octets": (crafted()[:19], Why.MALFORMED),
    "another version of IP": (b"\x70" + bytes(59), Why.NOT_TCP),
    "IPv6 with a hop-by-hop header that is not there": (b"\x60" + bytes(59), Why.MALFORMED),
    "IPv6 with nothing behind it": (crafted_ipv6(first=59), Why.NOT_TCP),
    "IPv6, 39 octets": (crafted_ipv6()[:39], Why.MALFORMED),
    "IPv6 with UDP": (crafted_ipv6(first=17), Why.NOT_TCP),
    "IPv6 with UDP behind an extension": (
        crafted_ipv6(bytes([17] + [0] * 7), first=0),
        Why.NOT_TCP,
    ),
    "IPv6 with an authentication header": (
        crafted_ipv6(bytes([6, 1] + [0] * 14), first=51),
        Why.NOT_TCP,
    ),
    "IPv6, a first fragment": (
        crafted_ipv6(bytes([6, 0, 0, 1, 0, 0, 0, 7]), first=44),
        Why.FRAGMENT,
    ),
    "IPv6, a later fragment": (
        crafted_ipv6(bytes([6, 0, 0, 8, 0, 0, 0, 7]), first=44),
        Why.FRAGMENT,
    ),
    "IPv6 with a route that is not done": (
        crafted_ipv6(bytes([6, 0, 0, 1, 0, 0, 0, 0]), first=43),
        Why.MISDIRECTED,
    ),
    "IPv6 with hop-by-hop options second": (
        crafted_ipv6(bytes([0] + [0] * 7), bytes([6] + [0] * 7), first=60),
        Why.MALFORMED,
    ),
    "IPv6 with an option that must be understood": (
        crafted_ipv6(bytes([6, 0, 0xC2, 4, 0, 1, 0, 0]), first=0),  # a jumbogram
        Why.NOT_TCP,
    ),
    "IPv6 with an option beyond its header": (
        crafted_ipv6(bytes([6, 0, 5, 5, 0, 0, 0, 0]), first=60),
        Why.MALFORMED,
    ),
    "IPv6 with an option without a length": (
        crafted_ipv6(bytes([6, 0, 0, 0, 0, 0, 0, 5]), first=60),
        Why.MALFORMED,
    ),
    "IPv6 with an extension header beyond the packet": (
        crafted_ipv6(bytes([6, 9, 0, 0, 0, 0, 0, 0]), first=60),
        Why.MALFORMED,
    ),
    "IPv6 with a payload length beyond the packet": (crafted_ipv6(extra=1), Why.MALFORMED),
    "IPv6 with a payload length inside the TCP header": (crafted_ipv6(extra=-1), Why.MALFORMED),
    "IPv6 with a wrong TCP checksum": (
        crafted_ipv6()[:56] + b"\x12\x34" + crafted_ipv6()[58:],
        Why.BAD_CHECKSUM,
    ),
    "a short UDP packet": (UDP_PACKET, Why.NOT_TCP),
    "a long UDP packet": (crafted(protocol=17, data=bytes(100)), Why.NOT_TCP),
    "a long UDP packet with IP options": (
        crafted(protocol=17, ip_options=b"\1" * 4, data=bytes(100)),
        Why.NOT_TCP,
    ),
    "the last eight octets of a fragmented packet": (
        mended(crafted(fragment=0x0010, total=28)[:28]),
        Why.FRAGMENT,
    ),
    "a first fragment": (crafted(fragment=0x2000), Why.FRAGMENT),
    "a fragment with IP options": (crafted(fragment=1, ip_options=b"\1" * 4), Why.FRAGMENT),
    "an IP header of four words": (crafted(first=0x44), Why.MALFORMED),
    "an IP header longer than the packet": (b"\x4f" + crafted()[1:], Why.MALFORMED),
    "a total length inside the IP header": (crafted(total=19), Why.MALFORMED),
    "a total length inside the TCP header": (crafted(total=39), Why.MALFORMED),
    "a total length of zero": (crafted(total=0), Why.MALFORMED),
    "a total length beyond the packet": (crafted(total=41), Why.MALFORMED),
    "data that begins inside the TCP header": (crafted(offset=0x40), Why.MALFORMED),
    "data that begins beyond the packet": (crafted(offset=0x60), Why.MALFORMED),
    "data that begins beyond the total length": (
        crafted(offset=0x60, total=40) + bytes(10),
        Why.MALFORMED,
    ),
    "a wrong IP checksum": (crafted()[:10] + b"\x12\x34" + crafted()[12:], Why.BAD_CHECKSUM),
    "a wrong TCP checksum": (crafted()[:36] + b"\x12\x34" + crafted()[38:], Why.BAD_CHECKSUM),
    "no TCP checksum": (crafted()[:36] + b"\0\0" + crafted()[38:], Why.BAD_CHECKSUM),
}


@both_codecs
@pytest.mark.parametrize("name", BAD_PACKETS)
def test_a_packet_with_one_fault_is_refused_for_that_fault(codec: Any, name: str) -> None:
    """RFC 9293 MUST-3."""
    packet, why = BAD_PACKETS[name]
    assert judge(packet) == why
    assert outcome(codec, packet) == why


@pytest.mark.slow
@both_codecs
@examples(250)
@given(packet=rubbish)
@example(packet=b"")
def test_any_octets_are_taken_for_what_they_are(codec: Any, packet: bytes) -> None:
    """The same Segment as the oracle's, or a WireError where it has one; never anything else."""
    found, expected = outcome(codec, packet), judge(packet)
    if not (isinstance(found, Why) and isinstance(expected, Why)):
        assert found == expected


@pytest.mark.slow
@both_codecs
@examples(250)
@given(packet=rubbish)
def test_any_octets_are_refused_for_the_same_reason(codec: Any, packet: bytes) -> None:
    found, expected = outcome(codec, packet), judge(packet)
    if isinstance(found, Why) and isinstance(expected, Why) and not has_two_faults(packet):
        assert (found.label, packet.hex()) == (expected.label, packet.hex())


def has_two_faults(packet: bytes) -> bool:
    """A length that cannot be, in a packet that is no TCP or a fragment: either may be named."""
    if len(packet) < 20 or packet[0] >> 4 == 6:
        return False
    head, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    wanted = packet[9] == 6 and not int.from_bytes(packet[6:8], "big") & 0x3FFF
    return not head <= total <= len(packet) and not wanted


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "number"), [(struct_codec, 20_000), (scapy_codec, 1500)])
def test_octets_by_the_thousand_are_segments_or_wire_errors(codec: Any, number: int) -> None:
    """Without a search for small examples, so that there can be many more."""
    chance = random.Random(1)
    whole = [build(segment) for segment in SAMPLES.values()]
    accepted = 0
    for _ in range(number):
        octets = bytearray(chance.choice([b"", b"E", b"`", *whole]) or chance.randbytes(60))
        for _ in range(chance.randrange(4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        octets = octets[: chance.randrange(20, 200)]
        packet = mended(bytes(octets)) if chance.random() < 0.7 else bytes(octets)
        found, expected = outcome(codec, packet), judge(packet)
        assert isinstance(found, Why) == isinstance(expected, Why), packet.hex()
        accepted += isinstance(found, Segment)
    assert number // 4 < accepted < number  # else it would test little


SAMPLES = {
    "pure ACK": Segment(FLOW, ACK, 1, 2, 3),
    "SYN with all its options": Segment(
        FLOW, SYN, 1, 0, 65535, tsval=5, tsecr=0, mss=1460, wscale=7, sack_permitted=True
    ),
    "timestamps and odd data": Segment(FLOW, ACK | PSH, 1, 2, 3, b"hello", tsval=5, tsecr=6),
    "timestamps and three SACK blocks": Segment(
        FLOW, ACK, 1, 2, 3, tsval=5, tsecr=6, sack=((1, 2), (3, 4), (5, 6))
    ),
    "RST": Segment(FLOW, RST, 1, 0, 0, ttl=255, tos=0x10),
    "IPv6, pure ACK": Segment(FLOW6, ACK, 1, 2, 3),
    "IPv6, timestamps and odd data": Segment(FLOW6, ACK, 1, 2, 3, b"hello", tsval=5, tsecr=6),
}
# IPv6 has no checksum of its own: what is not in TCP's pseudo-header may change on the way.
IPV4_SAMPLES = [name for name in SAMPLES if not name.startswith("IPv6")]
both_kinds = pytest.mark.parametrize("name", SAMPLES)


@both_codecs
@both_kinds
def test_a_packet_cut_anywhere_is_malformed(codec: Any, name: str) -> None:
    packet = build(SAMPLES[name])
    found = [outcome(codec, packet[:size]) for size in range(len(packet))]
    assert found == [Why.NOT_TCP] + [Why.MALFORMED] * (len(packet) - 1)


@both_codecs
@pytest.mark.parametrize("name", IPV4_SAMPLES)
def test_a_single_changed_bit_is_always_noticed(codec: Any, name: str) -> None:
    packet = build(SAMPLES[name])
    missed = [bit for bit in range(8 * len(packet)) if _is_segment(codec, flipped(packet, bit))]
    assert missed == []


@both_codecs
@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in IPV4_SAMPLES])
def test_a_changed_bit_is_noticed_where_ipv6_has_a_checksum(codec: Any, name: str) -> None:
    packet = build(SAMPLES[name])
    first = 4  # version, traffic class and flow label are behind us
    hop_limit = range(8 * 7, 8 * 8)
    missed = [
        bit
        for bit in range(8 * first, 8 * len(packet))
        if bit not in hop_limit and _is_segment(codec, flipped(packet, bit))
    ]
    assert missed == []


@both_codecs
@pytest.mark.parametrize("name", IPV4_SAMPLES)
def test_a_changed_bit_after_the_first_octet_is_a_bad_checksum(codec: Any, name: str) -> None:
    """The sender's fields are not believed once the header is known to be damaged (RFC 1122
    3.2.1.2).
    """
    packet = build(SAMPLES[name])
    reasons = {}
    for bit in range(8, 8 * len(packet)):
        found = outcome(codec, flipped(packet, bit))
        offset_too_large = bit // 8 == 32 and judge(flipped(packet, bit)) is Why.MALFORMED
        if found is not Why.BAD_CHECKSUM and not offset_too_large:
            reasons[f"octet {bit // 8}"] = found.label if isinstance(found, Why) else "a segment"
    assert reasons == {}


def flipped(packet: bytes, bit: int) -> bytes:
    changed = bytearray(packet)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def _is_segment(codec: Any, packet: bytes) -> bool:
    return isinstance(outcome(codec, packet), Segment)


@both_codecs
def test_what_the_checksum_cannot_notice(codec: Any) -> None:
    """RFC 1071 2: the order of words does not matter, and zero is also all ones."""
    start, end = (codec.build(Segment(FLOW, ACK, 1, 2, 3, data)) for data in (b"abcd", b"cdab"))
    assert start[36:38] == end[36:38]
    packet = codec.build(Segment(FLOW, ACK, 1, 2, 3, b"\0\0"))
    assert codec.parse(packet[:-2] + b"\xff\xff").data == b"\xff\xff"


# --- checksums ---


def test_checksum_of_the_rfcs_example() -> None:
    """RFC 1071 3: 0001 f203 f4f5 f6f7 sum up to ddf2."""
    data = bytes.fromhex("0001 f203 f4f5 f6f7")
    assert ip.ones_sum(data) == words(data) == 0xDDF2
    assert ip.checksum(0xDDF2) == 0x220D


def test_checksum_of_a_well_known_header() -> None:
    header = bytes.fromhex("4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7")
    assert ip.checksum(ip.ones_sum(header)) == 0xB861
    assert ip.ones_sum(header[:10] + b"\xb8\x61" + header[12:]) == 0  # 0 and 65535 are one here


def test_odd_data_is_padded_with_zero() -> None:
    assert ip.ones_sum(b"\x12") == 0x1200
    assert ip.ones_sum(b"\x00\x01\x02") == 0x0201


@examples(150)
@given(data=st.binary(min_size=1, max_size=300).filter(any))
@example(data=b"\xff\xff")
@example(data=b"\xff")
@example(data=b"\0\1")
def test_checksum_is_scapys(data: bytes) -> None:
    assert ip.checksum(ip.ones_sum(data)) == scapy_checksum(data) == 0xFFFF - words(data)


def test_checksum_of_a_large_packet_is_scapys() -> None:
    data = random.Random(1).randbytes(65535)
    assert ip.checksum(ip.ones_sum(data)) == scapy_checksum(data)


@examples(100)
@given(parts=st.lists(st.binary(max_size=20).map(lambda part: part + part), max_size=6))
def test_sums_of_even_parts_add_up(parts: list[bytes]) -> None:
    total = sum(map(ip.ones_sum, parts))
    assert ip.checksum(total) == ip.checksum(ip.ones_sum(b"".join(parts)))


# --- sequence numbers ---

positions = st.one_of(
    st.integers(0, 10), st.integers(0, 1 << 20), st.integers(0, 1 << 50), st.integers(0, 1 << 34)
)


@examples(200)
@given(near=positions, distance=st.integers(-(1 << 31), (1 << 31) - 1), initial=u32)
@example(near=0, distance=-(1 << 31), initial=0)
@example(near=0, distance=(1 << 31) - 1, initial=MODULUS - 1)
@example(near=MODULUS, distance=0, initial=0)
@example(near=(1 << 31) - 1, distance=1, initial=1 << 31)
def test_unwrap_finds_what_was_wrapped(near: int, distance: int, initial: int) -> None:
    number = wrap(near + distance, initial)
    assert 0 <= number < MODULUS
    assert unwrap(number, initial, near) == near + distance


@examples(200)
@given(number=u32, initial=u32, near=positions)
def test_unwrap_gives_the_nearest_of_all_positions(number: int, initial: int, near: int) -> None:
    """A simple model: of the positions that have this number, the one at the least distance."""
    first = (number - initial) % MODULUS
    around = [first + (near // MODULUS + turn) * MODULUS for turn in (-1, 0, 1)]
    nearest = min(around, key=lambda position: (abs(position - near), position))
    assert unwrap(number, initial, near) == nearest


def test_numbers_wrap_by_hand() -> None:
    assert wrap(0, 0xFFFFFFFF) == 0xFFFFFFFF
    assert wrap(1, 0xFFFFFFFF) == 0
    assert unwrap(0, 0xFFFFFFFF, 0) == 1
    assert unwrap(0xFFFFFFFE, 0xFFFFFFFF, 0) == -1  # older than the connection
    assert unwrap(5, 0, 3 * MODULUS) == 3 * MODULUS + 5
    assert unwrap(MODULUS - 1, 0, 3 * MODULUS) == 3 * MODULUS - 1


# --- segments and flows ---


@pytest.mark.parametrize(
    ("flags", "data", "length"),
    [(ACK, b"", 0), (SYN, b"", 1), (ACK, b"abc", 3), (FIN | ACK, b"abc", 4), (SYN | FIN, b"ab", 4)],
)
def test_segment_length_counts_syn_and_fin(flags: int, data: bytes, length: int) -> None:
    assert Segment(FLOW, flags, 0, 0, 0, data).len == length


@examples(100)
@given(flow=flows)
def test_a_flow_is_its_endpoints(flow: bytes) -> None:
    source, destination = endpoints(flow)
    assert addresses(flow) == (ip.pack_address(source[0]), ip.pack_address(destination[0]))
    assert pack_flow(source, destination) == flow
    assert reverse_flow(flow) == pack_flow(destination, source)
    assert reverse_flow(reverse_flow(flow)) == flow


NO_ADDRESSES = (
    *("", "1", "1.2.3", "1.2.3.4.5", "1.2.3.", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4/8"),
    *(
        "1.2.3.256",
        "1.2.3.-4",
        "1.2.3.0x4",
        "1.2.3.²",
        "1.2.3.٤",
        "a.b.c.d",
        "localhost",
        "01.2.3.4",
    ),
    *("::1::", "::1%eth0", " ::1", "::1\n", "::1/64", "[::1]", "1:2:3:4:5:6:7", "::12345", "::g"),
)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no IP address") as caught:
        ip.pack_address(text)
    assert repr(text) in str(caught.value)


def test_both_ends_of_a_flow_are_of_one_family() -> None:
    with pytest.raises(ValueError, match=r"::1 and 192.0.2.1 are not both IPv4 or both IPv6"):
        pack_flow(("::1", 1), ("192.0.2.1", 2))


# RFC 5952 4 and 5: what is written, and how it is read back.
IPV6_TEXTS = {
    "2001:0DB8:0:0:0:0:0:0001": "2001:db8::1",
    "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
    "2001:0:0:1:0:0:0:1": "2001:0:0:1::1",
    "2001:db8:0:0:1:0:0:1": "2001:db8::1:0:0:1",
    "::": "::",
    "0:0:0:0:0:0:0:1": "::1",
    "::ffff:192.0.2.1": "::ffff:192.0.2.1",
    "64:ff9b::192.0.2.1": "64:ff9b::c000:201",
    "FE80::A": "fe80::a",
}


@pytest.mark.parametrize("text", IPV6_TEXTS)
def test_ipv6_addresses_are_written_as_rfc_5952_has_them(text: str) -> None:
    assert ip.format_address(ip.pack_address(text)) == IPV6_TEXTS[text]


@examples(100)
@given(
    octets=st.binary(min_size=16, max_size=16)
    | st.lists(st.sampled_from([0, 0, 0, 1, 255]), min_size=16, max_size=16).map(bytes)
)
def test_an_ipv6_address_is_the_same_for_the_standard_library(octets: bytes) -> None:
    text = ip.format_address(octets)
    assert ip.pack_address(text) == octets == socket.inet_pton(socket.AF_INET6, text)
    assert text == socket.inet_ntop(socket.AF_INET6, octets) or octets[:10] == bytes(10)


def test_endpoints_are_written_as_in_a_url() -> None:
    assert format_endpoint("192.0.2.1", 80) == "192.0.2.1:80"
    assert format_endpoint("2001:db8::1", 80) == "[2001:db8::1]:80"


def test_flag_letters_cover_all_flags() -> None:
    assert format_flags(0xFF) == FLAG_LETTERS
