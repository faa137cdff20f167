"""The same two functions, `parse` and `build`, on scapy's own parsing and building.

`Config(codec="scapy")` runs a whole host on them. They take some hundred times as long as
wire/segment.py: scapy is imported when they are first called, and nowhere else in wire/.
"""

from typing import TYPE_CHECKING, Any

from ..why import Why
from . import ip
from .ip import WireError
from .segment import SYN, Segment, pack_flow

if TYPE_CHECKING:
    from scapy.packet import Packet


def parse(packet: bytes) -> Segment:
    """The segment in an IPv4 packet, its checksums verified. Raises WireError and nothing else."""
    from scapy.layers.inet import IP, TCP, in4_chksum
    from scapy.utils import checksum

    if len(packet) < ip.HEADER_LENGTH or packet[0] >> 4 != 4:
        raise WireError(Why.NOT_TCP, "no IPv4 packet")
    try:
        parsed = IP(packet)
    except Exception as problem:  # scapy's dissectors raise whatever their fields do
        raise WireError(Why.MALFORMED, f"scapy: {problem}") from None
    header_length = parsed.ihl * 4
    if header_length < ip.HEADER_LENGTH or not header_length <= parsed.len <= len(packet):
        raise WireError(Why.MALFORMED, f"IHL {parsed.ihl}, total length {parsed.len}")
    if checksum(packet[:header_length]):
        raise WireError(Why.BAD_CHECKSUM, "IPv4 header")
    if parsed.proto != ip.PROTOCOL_TCP:
        raise WireError(Why.NOT_TCP, f"IP protocol {parsed.proto}")
    if parsed.frag or parsed.flags.MF:
        raise WireError(Why.FRAGMENT, "an IP fragment")
    body = packet[header_length : parsed.len]
    if TCP not in parsed or not 20 <= (parsed[TCP].dataofs or 0) * 4 <= len(body):
        raise WireError(Why.MALFORMED, f"{len(body)} octets hold no TCP header")
    if in4_chksum(ip.PROTOCOL_TCP, parsed, body):
        raise WireError(Why.BAD_CHECKSUM, "TCP segment")
    return _from_scapy(parsed[IP], parsed[TCP], body[parsed[TCP].dataofs * 4 :])


def build(segment: Segment) -> bytes:
    """The IPv4 packet that carries `segment`, checksums made by scapy."""
    return bytes(to_scapy(segment))


def to_scapy(segment: Segment) -> "Packet":
    """`segment` as a scapy packet; checksums are filled in when it is built."""
    from scapy.layers.inet import IP, TCP
    from scapy.packet import Raw

    (source, sport), (destination, dport) = segment.source, segment.destination
    header = IP(src=source, dst=destination, id=0, flags="DF", ttl=segment.ttl, tos=segment.tos)
    header /= TCP(
        sport=sport,
        dport=dport,
        seq=segment.raw_seq,
        ack=segment.raw_ack,
        flags=segment.flags,
        window=segment.raw_window,
        urgptr=segment.urgent,
        options=_options(segment),
    )
    return header / Raw(segment.data) if segment.data else header


def _from_scapy(header: Any, tcp: Any, data: bytes) -> Segment:
    flow = pack_flow((header.src, tcp.sport), (header.dst, tcp.dport))
    segment = Segment(flow, int(tcp.flags) & 0xFF, tcp.seq, tcp.ack, tcp.window, data)
    segment.urgent, segment.tos, segment.ttl = tcp.urgptr, header.tos, header.ttl
    for name, value in tcp.options:
        match name, value:
            case "MSS", int():
                segment.mss = value
            case "WScale", int():
                segment.wscale = value
            case "SAckOK", _:
                segment.sack_permitted = True
            case "Timestamp", (int(), int()):
                segment.tsval, segment.tsecr = value
            case "SAck", tuple():
                segment.sack = tuple(zip(value[::2], value[1::2], strict=False))
    return segment


def _options(segment: Segment) -> list[tuple[str, Any]]:
    """The options of `segment` in scapy's form, in the order of wire/segment.py."""
    timestamps = (
        [("Timestamp", (segment.tsval, segment.tsecr or 0))] if segment.tsval is not None else []
    )
    options: list[tuple[str, Any]] = []
    if not segment.flags & SYN:
        if timestamps:
            options += [("NOP", None), ("NOP", None), *timestamps]
        if segment.sack:
            edges = tuple(edge for block in segment.sack for edge in block)
            options += [("NOP", None), ("NOP", None), ("SAck", edges)]
        return options
    if segment.mss is not None:
        options.append(("MSS", segment.mss))
    if segment.sack_permitted:
        options.append(("SAckOK", b""))
    options += timestamps
    if segment.wscale is not None:
        options += [("NOP", None), ("WScale", segment.wscale)]
    return options
