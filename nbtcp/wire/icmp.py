"""The ICMP errors that concern TCP: what became of a segment (RFC 792, RFC 1191, RFC 4443).

Each quotes the packet it is about: its IP header and the octets after that, of which the ports and
the sequence number are the first eight. Everything else that ICMP can say is not read here.
"""

from dataclasses import dataclass

from ..why import Labelled, Why
from . import ip
from .ip import WireError
from .segment import addresses, flow_of

PROTOCOL_ICMP, PROTOCOL_ICMPV6 = 1, 58
_HEADER_LENGTH = 8  # type, code, checksum, and four octets that depend on the type
_QUOTED = 8  # octets of TCP header that every error quotes


class Problem(Labelled):
    """What an ICMP error says became of a segment."""

    NET_UNREACHABLE = 1
    HOST_UNREACHABLE = 2
    PROTOCOL_UNREACHABLE = 3
    PORT_UNREACHABLE = 4
    FRAGMENTATION_NEEDED = 5  # with IPv6: packet too big
    ADMIN_PROHIBITED = 6
    SOURCE_QUENCH = 7  # deprecated (RFC 6633)
    TIME_EXCEEDED = 8
    PARAMETER_PROBLEM = 9

    @property
    def hard(self) -> bool:
        """It will not get better by itself (RFC 1122 4.2.3.9, RFC 5461 2)."""
        return self in _HARD

    @property
    def text(self) -> str:
        """In words, for error messages."""
        return self.label.replace("-", " ")


_HARD = (Problem.PROTOCOL_UNREACHABLE, Problem.PORT_UNREACHABLE, Problem.ADMIN_PROHIBITED)

_Table = dict[tuple[int, int | None], Problem]

# By type and code; None is any code.
_ICMPV4: _Table = {
    **{(3, code): Problem.NET_UNREACHABLE for code in (0, 6, 11)},  # unreachable, unknown, TOS
    (3, 2): Problem.PROTOCOL_UNREACHABLE,
    (3, 3): Problem.PORT_UNREACHABLE,
    (3, 4): Problem.FRAGMENTATION_NEEDED,
    **{(3, code): Problem.ADMIN_PROHIBITED for code in (9, 10, 13, 14, 15)},
    (3, None): Problem.HOST_UNREACHABLE,
    (4, None): Problem.SOURCE_QUENCH,
    (11, None): Problem.TIME_EXCEEDED,
    (12, None): Problem.PARAMETER_PROBLEM,
}
_ICMPV6: _Table = {
    (1, 0): Problem.NET_UNREACHABLE,
    **{(1, code): Problem.ADMIN_PROHIBITED for code in (1, 5, 6)},  # RFC 4443 3.1
    (1, 4): Problem.PORT_UNREACHABLE,
    (1, None): Problem.HOST_UNREACHABLE,
    (2, None): Problem.FRAGMENTATION_NEEDED,
    (3, None): Problem.TIME_EXCEEDED,
    (4, None): Problem.PARAMETER_PROBLEM,  # all soft (RFC 9293 3.9.2.2)
}
_LARGEST_MTU = 65535


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error about a segment that its receiver, we, had sent.

    `flow` and `raw_seq` are those of the segment, `length` the octets of the packet it was in.
    `reporter` is who says so. `mtu` (octets) is what fits where the packet did not, 0 when that is
    not said: old routers do not, nor other errors than FRAGMENTATION_NEEDED.
    """

    problem: Problem
    flow: bytes
    raw_seq: int
    length: int = 0
    mtu: int = 0
    reporter: str = ""


def parse_icmp(packet: bytes) -> IcmpError | None:
    """The error about a TCP segment in an IP packet; None when it holds anything else.

    Raises WireError when the packet is damaged, or a fragment.
    """
    is_ipv6 = packet[:1] != b"" and packet[0] >> 4 == 6
    header, message = _split_ipv6(packet) if is_ipv6 else _split_ipv4(packet)
    if not message:
        return None
    if len(message) < _HEADER_LENGTH:
        raise WireError(Why.MALFORMED, f"an ICMP message of {len(message)} octets")
    if (ip.ones_sum(message) + (_pseudo_sum(header, message) if is_ipv6 else 0)) % 65535:
        raise WireError(Why.BAD_CHECKSUM, "ICMP message")
    table = _ICMPV6 if is_ipv6 else _ICMPV4
    problem = table.get((message[0], message[1])) or table.get((message[0], None))
    quoted = _quoted(message[_HEADER_LENGTH:], is_ipv6)
    if problem is None or quoted is None:
        return None
    flow, raw_seq, length = quoted
    source, destination = addresses(flow_of(header + bytes(4)))
    if addresses(flow)[0] != destination:  # it is not about a packet that its receiver sent
        return None
    mtu = 0
    if problem is Problem.FRAGMENTATION_NEEDED:
        mtu = min(int.from_bytes(message[4:8] if is_ipv6 else message[6:8], "big"), _LARGEST_MTU)
    return IcmpError(problem, flow, raw_seq, length, mtu, ip.format_address(source))


def _split_ipv4(packet: bytes) -> tuple[bytes, bytes]:
    """IPv4 header without options, and the ICMP message: b"" when it holds something else."""
    packet = ip.without_options(packet)
    header, total = packet[: ip.HEADER_LENGTH], int.from_bytes(packet[2:4], "big")
    if header[9] != PROTOCOL_ICMP:
        return header, b""
    if int.from_bytes(header[6:8], "big") & ip.FRAGMENT_MASK:
        raise WireError(Why.FRAGMENT, "an IP fragment")
    if total > len(packet):
        raise WireError(Why.MALFORMED, f"total length {total}, {len(packet)} octets")
    return header, packet[ip.HEADER_LENGTH : total]


def _split_ipv6(packet: bytes) -> tuple[bytes, bytes]:
    """The same for IPv6."""
    packet = ip.without_extensions(packet)
    header = packet[: ip.IPV6_HEADER_LENGTH]
    return header, packet[ip.IPV6_HEADER_LENGTH :] if header[6] == PROTOCOL_ICMPV6 else b""


def _quoted(packet: bytes, is_ipv6: bool) -> tuple[bytes, int, int] | None:
    """Flow, sequence number and length of the quoted packet; None when it is no TCP of ours.

    Its checksum is not looked at, for routers have changed the header since. We send no extension
    headers, and no fragments.
    """
    if is_ipv6:
        tcp, at, version, protocol = 40, 8, 6, packet[6:7]
        length = ip.IPV6_HEADER_LENGTH + int.from_bytes(packet[4:6], "big")
    else:
        tcp, at, version, protocol = (packet[0] & 15) * 4 if packet else 0, 12, 4, packet[9:10]
        length = int.from_bytes(packet[2:4], "big")
        if int.from_bytes(packet[6:8], "big") & ip.FRAGMENT_MASK:
            return None
    shortest = ip.IPV6_HEADER_LENGTH if is_ipv6 else ip.HEADER_LENGTH
    if tcp < shortest or len(packet) < tcp + _QUOTED or packet[0] >> 4 != version:
        return None
    if protocol[0] != ip.PROTOCOL_TCP:
        return None
    raw_seq = int.from_bytes(packet[tcp + 4 : tcp + 8], "big")
    return packet[at:shortest] + packet[tcp : tcp + 4], raw_seq, length


def build_icmp(
    reporter: str, about: bytes, kind: int, code: int = 0, *, mtu: int = 0, pointer: int = 0
) -> bytes:
    """The packet with which `reporter` tells the sender of packet `about` what became of it.

    `kind` and `code` are ICMP's numbers, of the family of `about`. `mtu` and `pointer` go into the
    four octets behind the checksum: the MTU of "fragmentation needed" and "packet too big", the
    place of a parameter problem.
    """
    is_ipv6 = about[0] >> 4 == 6
    source = ip.pack_address(reporter)
    destination = addresses(flow_of(about))[0]
    if len(source) != len(destination):
        raise ValueError(f"{reporter} cannot report what happened to IPv{about[0] >> 4}")
    rest = (mtu or pointer) if is_ipv6 else pointer << 24 | mtu
    # RFC 4443 3.1: as much as fits into 1280 octets; RFC 1812 4.3.2.3: into 576.
    quoted = about[: 1280 - 48] if is_ipv6 else about[: 576 - 28]
    message = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quoted
    if is_ipv6:
        header = b"\x60\0\0\0" + len(message).to_bytes(2, "big")
        header += bytes((PROTOCOL_ICMPV6, 64)) + source + destination
        total = ip.ones_sum(message) + _pseudo_sum(header, message)
    else:
        header = b"\x45\0" + (ip.HEADER_LENGTH + len(message)).to_bytes(2, "big") + bytes(4)
        header += bytes((64, PROTOCOL_ICMP, 0, 0)) + source + destination
        check = ip.checksum(ip.ones_sum(header)).to_bytes(2, "big")
        header = header[:10] + check + header[12:]
        total = ip.ones_sum(message)
    return header + message[:2] + ip.checksum(total).to_bytes(2, "big") + message[4:]


def _pseudo_sum(header: bytes, message: bytes) -> int:
    """What the pseudo-header of RFC 8200 8.1 adds to the checksum of ICMPv6."""
    return ip.ones_sum(header[8:40]) + len(message) + PROTOCOL_ICMPV6
