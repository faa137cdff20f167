"""The same two functions, `parse` and `build`, on scapy's own parsing and building.

`Config(codec="scapy")` runs a whole host on them. They take some hundred times as long as those of
wire/segment.py. scapy is imported when they are first called, and nowhere else in wire/.
"""

from typing import TYPE_CHECKING, Any

from . import ip
from .segment import HEADER_LENGTH, MAX_HEADER_LENGTH, SYN, Segment, pack_flow
from .segment import parse as check

if TYPE_CHECKING:
    from scapy.packet import Packet


def parse(packet: bytes) -> Segment:
    """The segment in an IP packet, its fields read by scapy. Raises WireError and nothing else.

    scapy takes anything: whether a packet may be used at all, checksums and lengths, is decided in
    one place for both codecs. A segment that scapy's dissectors fail on is taken as read there.
    """
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    checked = check(packet)
    packet = ip.plain(packet, ip.PROTOCOL_TCP, HEADER_LENGTH)
    try:
        header = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
        return _from_scapy(header, checked.data)
    except Exception:  # they raise whatever their fields do
        return checked


def build(segment: Segment) -> bytes:
    """The IP packet that carries `segment`, checksums made by scapy.

    Raises ValueError when data or options do not fit, as the other codec does.
    """
    packet = bytes(to_scapy(segment))
    header = ip.HEADER_LENGTH if packet[0] >> 4 == 4 else ip.IPV6_HEADER_LENGTH
    if len(packet) > header + MAX_HEADER_LENGTH + len(segment.data):
        raise ValueError("the options do not fit into a TCP header")
    return packet


def to_scapy(segment: Segment) -> "Packet":
    """`segment` as a scapy packet; checksums are filled in when it is built."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.packet import Packet, Raw

    (source, sport), (destination, dport) = segment.source, segment.destination
    header: Packet
    if ":" in source:
        header = IPv6(src=source, dst=destination, hlim=segment.ttl, tc=segment.tos)
    else:
        header = IP(src=source, dst=destination, id=0, flags="DF", ttl=segment.ttl, tos=segment.tos)
    tcp = TCP(sport=sport, dport=dport, seq=segment.raw_seq, ack=segment.raw_ack)
    tcp.flags, tcp.window, tcp.urgptr = segment.flags, segment.raw_window, segment.urgent
    tcp.options = _options(segment)
    return header / tcp / Raw(segment.data) if segment.data else header / tcp


def _from_scapy(header: Any, data: bytes) -> Segment:
    tcp = header.payload
    flow = pack_flow((header.src, tcp.sport), (header.dst, tcp.dport))
    segment = Segment(flow, int(tcp.flags) & 0xFF, tcp.seq, tcp.ack, tcp.window, data)
    segment.urgent = tcp.urgptr
    if header.version == 4:
        segment.tos, segment.ttl = header.tos, header.ttl
    else:
        segment.tos, segment.ttl = header.tc, header.hlim
    for name, value in tcp.options:
        match name, value:
            case "MSS", int():
                segment.mss = value
            case "WScale", int():
                segment.wscale = value
            case "SAckOK", b"":
                segment.sack_permitted = True
            case "Timestamp", (int(), int()):
                segment.tsval, segment.tsecr = value
            case "SAck", tuple() if len(value) % 2 == 0:
                segment.sack = tuple(zip(value[::2], value[1::2], strict=True))
    return segment


def _options(segment: Segment) -> list[tuple[str, Any]]:
    """The options of `segment` in scapy's form, in the order of wire/segment.py."""
    nop: tuple[str, Any] = ("NOP", None)
    options: list[tuple[str, Any]] = []
    if segment.tsval is not None:
        options.append(("Timestamp", (segment.tsval, segment.tsecr or 0)))
    if not segment.flags & SYN:
        if segment.sack:
            options.append(("SAck", tuple(edge for block in segment.sack for edge in block)))
        return [item for option in options for item in (nop, nop, option)]
    if segment.sack_permitted:
        options.insert(0, ("SAckOK", b""))
    if segment.mss is not None:
        options.insert(0, ("MSS", segment.mss))
    if segment.wscale is not None:
        options += [nop, ("WScale", segment.wscale)]
    return options
