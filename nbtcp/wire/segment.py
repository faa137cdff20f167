"""TCP segments: an IP packet's bytes <-> `Segment` (RFC 9293 3.1, RFC 7323, RFC 2018, RFC 8200).

`parse` and `build` are the two functions every packet passes through, so both unpack the IP and the
TCP header with one precompiled struct; headers with anything unusual are left to ip.py. Neither
keeps state; any bytes give a `Segment` or a `WireError`.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct, error, pack
from typing import TYPE_CHECKING

from ..why import Why
from . import ip
from .ip import WireError

if TYPE_CHECKING:
    from scapy.packet import Packet

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
FLAG_LETTERS = "FSRPAUEC"  # as scapy writes them, lowest bit first

HEADER_LENGTH = 20  # octets of TCP header without options
MAX_HEADER_LENGTH = 60  # octets of TCP header with all options it can hold
MAX_WSCALE = 14  # RFC 7323 2.3
_MOST_DATA = 1 << 18  # octets in one captured packet; devices take less from their host

# IPv4 and TCP in one: version+IHL, TOS, length, id, fragment, TTL, protocol, checksum, flow; then
# sequence, acknowledgment, data offset, flags, window, checksum, urgent pointer.
_HEADERS = Struct("!BBHHHBBH12sLLBBHHH")
_FIELDS = Struct("!xBH2xHBB2x12sLLBBH2xH")  # those that parse looks at one by one; MUST-1: H
# IPv6 and TCP: version+traffic class+flow label, payload length, next header, hop limit; the rest
# as above.
_HEADERS6 = Struct("!LHBB36sLLBBHHH")
_FIELDS6 = Struct("!LHBB36sLLBBH2xH")
_TCP = Struct("!4xLLBBH2xH")  # behind the ports
_TIMESTAMPS_ONLY = Struct("!LLL")
_PAIR = Struct("!LL")  # of timestamps, of a SACK block's edges
_NOP_NOP_TIMESTAMPS, _NOP_NOP_SACK = 0x0101080A, 0x01010500
# What all IPv4 headers have in common: version, IHL, their own length, don't fragment, protocol.
_IPV4_SUM = 0x4500 + ip.HEADER_LENGTH + ip.DONT_FRAGMENT + ip.PROTOCOL_TCP


class Option:
    """Option kinds (RFC 9293 3.2: MUST-4, RFC 7323, RFC 2018)."""

    END, NOP, MSS, WSCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8


@dataclass(slots=True)
class Segment:
    """One TCP segment with what matters of its IP header.

    `flow` is the octets that name a direction of a connection: source address, destination address,
    source port, destination port, as they stand in the packet; 12 with IPv4, 36 with IPv6, whose
    traffic class is `tos` and whose hop limit is `ttl`. `raw_seq`, `raw_ack` and `raw_window` are
    the fields on the wire, and so is `sack`; `seq`, `ack`, `blocks` (positions, see wire/seq.py)
    and `window` (octets) are filled in by the connection, the only one who can, and so is `why`:
    what it was sent for, or what was done with it. `gso_size` is 0, or how many octets of data each
    segment has that the device is to make of this one, or has put together in it (wire/vnet.py).
    """

    flow: bytes
    flags: int
    raw_seq: int
    raw_ack: int
    raw_window: int
    data: bytes = b""
    tsval: int | None = None
    tsecr: int | None = None
    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    urgent: int = 0
    tos: int = 0
    ttl: int = 64
    gso_size: int = 0
    seq: int = 0
    ack: int = 0
    blocks: tuple[tuple[int, int], ...] = ()
    window: int = 0
    why: Why = Why.NO_CONNECTION

    @property
    def len(self) -> int:
        """SEG.LEN: octets of sequence space, SYN and FIN included."""
        return len(self.data) + (self.flags & SYN != 0) + (self.flags & FIN != 0)

    @property
    def source(self) -> tuple[str, int]:
        """(address, port) of the sender."""
        return endpoints(self.flow)[0]

    @property
    def destination(self) -> tuple[str, int]:
        """(address, port) of the receiver."""
        return endpoints(self.flow)[1]

    def scapy(self) -> "Packet":
        """The same packet as a scapy object, to look into or to change."""
        from . import scapy

        return scapy.to_scapy(self)


def pack_flow(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """The flow from `source` to `destination`, each (address, port), of one family."""
    here, there = ip.pack_address(source[0]), ip.pack_address(destination[0])
    if len(here) != len(there):
        raise ValueError(f"{source[0]} and {destination[0]} are not both IPv4 or both IPv6")
    return here + there + source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")


def is_ipv4(flow: bytes) -> bool:
    """A flow of IPv4 has 12 octets, one of IPv6 36."""
    return len(flow) == 12


def addresses(flow: bytes) -> tuple[bytes, bytes]:
    """The octets of the source address, and of the destination address."""
    size = len(flow) // 2 - 2
    return flow[:size], flow[size:-4]


def reverse_flow(flow: bytes) -> bytes:
    """The flow of the answers."""
    size = len(flow) // 2 - 2
    return flow[size:-4] + flow[:size] + flow[-2:] + flow[-4:-2]


def endpoints(flow: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """((address, port) of the source, (address, port) of the destination)."""
    source, destination = addresses(flow)
    return (
        (ip.format_address(source), int.from_bytes(flow[-4:-2], "big")),
        (ip.format_address(destination), int.from_bytes(flow[-2:], "big")),
    )


def flow_of(packet: bytes) -> bytes:
    """The flow of a TCP segment whose headers are plain; b"" of all else, whatever the bytes."""
    if len(packet) >= 24 and packet[0] == 0x45 and packet[9] == ip.PROTOCOL_TCP:
        return packet[12:24]
    plain = len(packet) >= 44 and packet[0] >> 4 == 6 and packet[6] == ip.PROTOCOL_TCP
    return packet[8:44] if plain else b""


def format_endpoint(address: str, port: int) -> str:
    """As in a URL: 192.0.2.1:80, [2001:db8::1]:80."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def format_flags(flags: int) -> str:
    """Flags as scapy writes them: "SA" for SYN and ACK."""
    return "".join(letter for bit, letter in enumerate(FLAG_LETTERS) if flags >> bit & 1)


def parse(packet: bytes, verified: bool = False) -> Segment:
    """The segment in an IP packet, its checksums verified. Raises WireError and nothing else.

    With `verified` somebody has vouched for TCP's, which is not looked at.
    """
    try:
        if packet[0] == 0x45:
            tos, end, fragment, ttl, protocol, flow, seq, ack, offset, flags, window, urgent = (
                _FIELDS.unpack_from(packet)
            )
            addresses_at, at = 12, ip.HEADER_LENGTH
            damaged = int.from_bytes(packet[: ip.HEADER_LENGTH], "big") % 65535
            unusual = damaged or fragment & ip.FRAGMENT_MASK or protocol != ip.PROTOCOL_TCP
        else:
            word, end, protocol, ttl, flow, seq, ack, offset, flags, window, urgent = (
                _FIELDS6.unpack_from(packet)
            )
            addresses_at, at = 8, ip.IPV6_HEADER_LENGTH
            end += at
            tos = word >> 20 & 0xFF
            unusual = word >> 28 != 6 or protocol != ip.PROTOCOL_TCP
    except (IndexError, error):  # too short
        unusual = True
    if unusual:  # is made plain, or refused
        return parse(ip.plain(packet, ip.PROTOCOL_TCP, HEADER_LENGTH), verified)
    data_at = at + (offset >> 4) * 4
    if not at + HEADER_LENGTH <= data_at <= end <= len(packet):
        raise WireError(Why.MALFORMED, f"data from {data_at} to {end} of {len(packet)} octets")
    size = end - at  # and with it the protocol and the addresses: the pseudo-header
    if not verified and (ip.ones_sum(packet[addresses_at:end]) + ip.PROTOCOL_TCP + size) % 65535:
        raise WireError(Why.BAD_CHECKSUM, "TCP segment")  # RFC 9293 MUST-3
    segment = Segment(flow, flags, seq, ack, window, packet[data_at:end])
    segment.urgent, segment.tos, segment.ttl = urgent, tos, ttl
    if data_at > at + HEADER_LENGTH:
        _parse_options(packet[at + HEADER_LENGTH : data_at], segment)
    return segment


def parse_captured(packet: bytes, length: int) -> Segment:
    """The segment in an IP packet of which a capture holds at least the TCP header's start.

    Checksums are not looked at: a host captures its own packets before the device makes them. The
    data is zeros, as many as there were; `length` is what the capture says of the packet, and
    counts where the header says 0, as in packets that the device is to cut up. Raises WireError.
    """
    tos, ttl, both, at, end = ip.parse_header(packet, ip.PROTOCOL_TCP, HEADER_LENGTH, length)
    seq, ack, offset, flags, window, urgent = _TCP.unpack_from(packet, at)
    data_at = at + (offset >> 4) * 4
    if not at + HEADER_LENGTH <= data_at <= end < data_at + _MOST_DATA:
        raise WireError(Why.MALFORMED, f"data from {data_at} to {end}")
    segment = Segment(both + packet[at : at + 4], flags, seq, ack, window, _zeros(end - data_at))
    segment.urgent, segment.tos, segment.ttl = urgent, tos, ttl
    with suppress(WireError):  # the snaplen may cut options off
        _parse_options(packet[at + HEADER_LENGTH : data_at], segment)
    return segment


@lru_cache(maxsize=512)
def _zeros(size: int) -> bytes:
    return bytes(size)


def build(segment: Segment, partial: bool = False) -> bytes:
    """The IP packet that carries `segment`, checksums made (RFC 9293 MUST-2).

    With `partial` TCP's is that of the pseudo-header alone, and whoever sends the packet makes it.

    IPv4's don't-fragment is set (RFC 1191); IPv6's flow label is 0, as of a flow that asks routers
    for nothing (RFC 6437).
    """
    flow, options = segment.flow, _build_options(segment)
    offset = HEADER_LENGTH + len(options)
    length = offset + len(segment.data)
    addresses_sum, flow_sum = _flow_sums(flow)
    tcp_sum = ip.PROTOCOL_TCP + length  # the pseudo-header: these and the addresses
    if partial:
        tcp_sum = (tcp_sum + addresses_sum) % 65535
    else:
        tcp_sum += segment.raw_seq + segment.raw_ack + segment.raw_window + segment.urgent
        tcp_sum += flow_sum + (offset << 10 | segment.flags) + ip.ones_sum(options + segment.data)
        tcp_sum = -tcp_sum % 65535
    tcp = (flow, segment.raw_seq, segment.raw_ack, offset << 2, segment.flags, segment.raw_window)
    sums = (tcp_sum, segment.urgent)
    if not is_ipv4(flow):
        ipv6 = (6 << 28 | segment.tos << 20, length, ip.PROTOCOL_TCP, segment.ttl)
        return _HEADERS6.pack(*ipv6, *tcp, *sums) + options + segment.data
    ipv4 = (0x45, segment.tos, length + 20, 0, ip.DONT_FRAGMENT, segment.ttl, ip.PROTOCOL_TCP)
    ip_sum = _IPV4_SUM + segment.tos + length + (segment.ttl << 8) + addresses_sum
    return _HEADERS.pack(*ipv4, -ip_sum % 65535, *tcp, *sums) + options + segment.data


@lru_cache(maxsize=1024)
def _flow_sums(flow: bytes) -> tuple[int, int]:
    """What the addresses, and addresses and ports, add to a checksum."""
    return ip.ones_sum(flow[:-4]), ip.ones_sum(flow)


def _parse_options(options: bytes, segment: Segment) -> None:
    """Read TCP options into `segment`, whatever its flags (RFC 9293 MUST-5) and wherever they begin
    (MUST-64); unknown ones are skipped by their length (MUST-6), which all but two kinds have
    (MUST-68).
    """
    if len(options) == _TIMESTAMPS_ONLY.size:  # RFC 7323 appendix A: what nearly all segments carry
        kind, tsval, tsecr = _TIMESTAMPS_ONLY.unpack(options)
        if kind == _NOP_NOP_TIMESTAMPS:
            segment.tsval, segment.tsecr = tsval, tsecr
            return
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == Option.END:
            return
        if kind == Option.NOP:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):  # MUST-7
            raise WireError(Why.MALFORMED, f"TCP option {kind} of length {length}")
        value = options[at + 2 : at + length]
        match kind, length:  # a known kind of another length is treated as unknown
            case (Option.MSS, 4):
                segment.mss = int.from_bytes(value, "big")
            case (Option.WSCALE, 3):
                segment.wscale = value[0]
            case (Option.SACK_PERMITTED, 2):
                segment.sack_permitted = True
            case (Option.SACK, 10 | 18 | 26 | 34):
                segment.sack = tuple(_PAIR.iter_unpack(value))
            case (Option.TIMESTAMPS, 10):
                segment.tsval, segment.tsecr = _PAIR.unpack(value)
        at += length


def _build_options(segment: Segment) -> bytes:
    """The options of `segment`, padded to whole words, in the order that Linux uses."""
    tsval, tsecr = segment.tsval, segment.tsecr or 0
    options = b""
    if not segment.flags & SYN:
        if tsval is not None:
            options = _TIMESTAMPS_ONLY.pack(_NOP_NOP_TIMESTAMPS, tsval, tsecr)
        if segment.sack:
            edges = [edge for block in segment.sack for edge in block]
            options += pack(f"!{1 + len(edges)}L", _NOP_NOP_SACK | 2 + 4 * len(edges), *edges)
        return options
    if segment.mss is not None:  # in no other segment (RFC 9293 MUST-65)
        options += pack("!BBH", Option.MSS, 4, segment.mss)
    if segment.sack_permitted:
        options += bytes((Option.SACK_PERMITTED, 2))
    if tsval is not None:
        options += pack("!BBLL", Option.TIMESTAMPS, 10, tsval, tsecr)
    if segment.wscale is not None:
        options += bytes((Option.NOP, Option.WSCALE, 3, segment.wscale))
    return options + b"\0" * (-len(options) % 4)  # RFC 9293 MUST-69
