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

# By type and code; None is any code.
_ICMPV4: dict[tuple[int, int | None], Problem] = {
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
_ICMPV6: dict[tuple[int, int | None], Problem] = {
    (1, 0): Problem.NET_UNREACHABLE,
    **{(1, code): Problem.ADMIN_PROHIBITED for code in (1, 5, 6)},  # RFC 4443 3.1
    (1, 4): Problem.PORT_UNREACHABLE,
    (1, None): Problem.HOST_UNREACHABLE,
    (2, None): Problem.FRAGMENTATION_NEEDED,
    (3, None): Problem.TIME_EXCEEDED,
    (4, None): Problem.PARAMETER_PROBLEM,  # all soft (RFC 9293 3.9.2.2)
}


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
    is_ipv6 = packet[:1] >= b"\x60"
    protocol, table = (PROTOCOL_ICMPV6, _ICMPV6) if is_ipv6 else (PROTOCOL_ICMP, _ICMPV4)
    try:
        header = ip.parse_header(packet, protocol, _HEADER_LENGTH)
    except WireError as fault:
        if fault.why is Why.NOT_TCP:
            return None
        raise
    message = packet[header.at : header.end]
    if _sum(header.addresses, message) % 65535:
        raise WireError(Why.BAD_CHECKSUM, "ICMP message")
    problem = table.get((message[0], message[1])) or table.get((message[0], None))
    about = message[_HEADER_LENGTH:]
    try:  # its checksum may be wrong, for routers have changed the header since
        quoted = ip.parse_header(about, ip.PROTOCOL_TCP, _QUOTED, len(about))
    except WireError:
        return None
    flow = quoted.addresses + about[quoted.at : quoted.at + 4]
    reporter, receiver = addresses(header.addresses + bytes(4))
    if problem is None or addresses(flow)[0] != receiver:  # only its sender is told of a packet
        return None
    mtu = 0
    if problem is Problem.FRAGMENTATION_NEEDED:
        mtu = min(int.from_bytes(message[4 if is_ipv6 else 6 : 8], "big"), 65535)
    raw_seq = int.from_bytes(about[quoted.at + 4 : quoted.at + 8], "big")
    return IcmpError(problem, flow, raw_seq, quoted.end, mtu, ip.format_address(reporter))


def build_icmp(reporter: str, about: bytes, kind: int, code: int = 0, *, mtu: int = 0) -> bytes:
    """The packet with which `reporter` tells the sender of packet `about` what became of it.

    `kind` and `code` are ICMP's numbers, of the family of `about`; `mtu` (octets) is that of
    "fragmentation needed" and "packet too big".
    """
    source, destination = ip.pack_address(reporter), addresses(flow_of(about))[0]
    if len(source) != len(destination):
        raise ValueError(f"{reporter} cannot report what happened to IPv{about[0] >> 4}")
    # RFC 1812 4.3.2.3: as much as fits into 576 octets; RFC 4443 3.1: into 1280.
    protocol, room = (PROTOCOL_ICMP, 576 - 28) if len(source) == 4 else (PROTOCOL_ICMPV6, 1280 - 48)
    message = bytes((kind, code, 0, 0)) + mtu.to_bytes(4, "big") + about[:room]
    check = ip.checksum(_sum(source + destination, message)).to_bytes(2, "big")
    header = ip.build_header(source + destination, protocol, len(message))
    return header + message[:2] + check + message[4:]


def _sum(ends: bytes, message: bytes) -> int:
    """The sum of which the checksum is made: with IPv6 the pseudo-header of RFC 8200 8.1 counts."""
    total = ip.ones_sum(message)
    if len(ends) == 2 * ip.IPV6_ADDRESS:
        total += ip.ones_sum(ends) + len(message) + PROTOCOL_ICMPV6
    return total
