"""The same two functions, `parse` and `build`, on scapy's own parsing and building.

`Config(codec="scapy")` runs a whole host on them. They take some hundred times as long as those of
wire/segment.py. scapy is imported when they are first called, and nowhere else in wire/.
"""

from typing import TYPE_CHECKING, Any

from . import ip
from .segment import MAX_HEADER_LENGTH, SYN, Segment, pack_flow
from .segment import parse as check

if TYPE_CHECKING:
    from scapy.packet import Packet


def parse(packet: bytes) -> Segment:
    """The segment in an IPv4 packet, its fields read by scapy. Raises WireError and nothing else.

    scapy takes anything: whether a packet may be used at all, checksums and lengths, is decided in
    one place for both codecs. A segment that scapy's dissectors fail on is taken as read there.
    """
    from scapy.layers.inet import IP, TCP

    checked = check(packet)
    try:
        header = IP(packet)
        tcp = header[TCP]
        return _from_scapy(header, tcp, packet[(header.ihl + tcp.dataofs) * 4 : header.len])
    except Exception:  # they raise whatever their fields do
        return checked


def build(segment: Segment) -> bytes:
    """The IPv4 packet that carries `segment`, checksums made by scapy.

    Raises ValueError when data or options do not fit, as the other codec does.
    """
    packet = bytes(to_scapy(segment))
    if len(packet) > ip.HEADER_LENGTH + MAX_HEADER_LENGTH + len(segment.data):
        raise ValueError("the options do not fit into a TCP header")
    return packet


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
            case "SAckOK", b"":
                segment.sack_permitted = True
            case "Timestamp", (int(), int()):
                segment.tsval, segment.tsecr = value
            case "SAck", tuple() if len(value) % 2 == 0:
                segment.sack = tuple(zip(value[::2], value[1::2], strict=True))
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
