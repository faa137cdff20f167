"""IPv4 and IPv6 as far as TCP needs them: addresses, the internet checksum, headers made plain (RFC
791, 1071, 8200).

An address is its 4 or 16 octets everywhere inside the package; text only at the edges.
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address

from ..errors import NbtcpError
from ..why import Why

PROTOCOL_TCP = 6
HEADER_LENGTH = 20  # octets of IPv4 header, without options
IPV6_HEADER_LENGTH = 40  # octets, without extension headers
IPV4_ADDRESS, IPV6_ADDRESS = 4, 16  # octets; how long an address is tells its family
IPV4_MAPPED = bytes(10) + b"\xff\xff"  # how such an IPv6 address begins (RFC 4291 2.5.5.2)
DONT_FRAGMENT = 0x4000
FRAGMENT_MASK = 0x3FFF  # more-fragments flag and offset

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS = 0, 43, 44, 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS})
_IPV6_FRAGMENT_MASK = 0xFFF9  # offset and more-fragments flag


class WireError(NbtcpError):
    """These bytes are no TCP segment that may be used; `why` tells what is wrong with them."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why.label}: {detail}")
        self.why = why


def pack_address(text: str) -> bytes:
    """The 4 or 16 octets of an address; ValueError when it is none, or one with a zone."""
    try:
        if ":" not in text:
            return IPv4Address(text).packed
        if "%" not in text:
            return IPv6Address(text).packed
    except AddressValueError:
        pass
    raise ValueError(f"{text!r} is no IP address such as 192.0.2.1 or 2001:db8::1")


def format_address(address: bytes) -> str:
    """Four octets with dots, sixteen as RFC 5952 has them."""
    if len(address) == IPV4_ADDRESS:
        return ".".join(map(str, address))
    if address[:12] == IPV4_MAPPED:  # RFC 5952 5; the standard library does so from 3.13 on
        return f"::ffff:{format_address(address[12:])}"
    return str(IPv6Address(address))


def ones_sum(data: bytes) -> int:
    """The one's complement sum of the 16-bit words of `data`, padded with zero (RFC 1071).

    2**16 is 1 modulo 65535, so the whole number and the sum of its words leave the same remainder,
    and the interpreter divides one long number faster than a loop adds words. For the same reason a
    32-bit field may be added to a sum as it is.
    """
    remainder = int.from_bytes(data, "big") % 65535
    return remainder * 256 % 65535 if len(data) & 1 else remainder


def checksum(total: int) -> int:
    """The checksum field that completes words summing up to `total`."""
    return -total % 65535


def without_options(packet: bytes) -> bytes:
    """`packet` with a plain 20-octet IPv4 header: TCP ignores IP options (RFC 9293 MUST-50).

    The header's checksum is verified and made anew. Raises WireError when this is no whole IPv4
    header.
    """
    if not packet or packet[0] >> 4 != 4:
        raise WireError(Why.NOT_TCP, "no IPv4 packet")
    length = (packet[0] & 15) * 4
    if length < HEADER_LENGTH or len(packet) < length:
        raise WireError(Why.MALFORMED, f"an IPv4 header of {length} octets in {len(packet)}")
    if ones_sum(packet[:length]):
        raise WireError(Why.BAD_CHECKSUM, "IPv4 header")
    total = int.from_bytes(packet[2:4], "big")
    if total < length:
        raise WireError(Why.MALFORMED, f"total length {total} ends inside the IPv4 header")
    header = bytearray(packet[:HEADER_LENGTH])
    header[0] = 0x45
    header[2:4] = (total - length + HEADER_LENGTH).to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header[10:12] = checksum(ones_sum(bytes(header))).to_bytes(2, "big")
    return bytes(header) + packet[length:]


def mark_congestion(packet: bytes) -> bytes:
    """`packet` with CE in its ECN field, if its transport understands that (RFC 3168 5)."""
    marked = bytearray(packet)
    if packet[0] >> 4 == 4 and packet[1] & 3 in (1, 2):
        marked[1] |= 3
        marked[10:12] = b"\0\0"
        marked[10:12] = checksum(ones_sum(bytes(marked[: (packet[0] & 15) * 4]))).to_bytes(2, "big")
    elif packet[0] >> 4 == 6 and packet[1] >> 4 & 3 in (1, 2):  # the traffic class is 4 bits later
        marked[1] |= 0x30
    return bytes(marked)


def without_extensions(packet: bytes) -> bytes:
    """`packet` with its IPv6 header alone before the data, whose protocol is in octet 6 (RFC 8200
    4).

    Hop-by-hop and destination options, a routing header that has done its work and the fragment
    header of a whole packet (RFC 6946) are skipped. Raises WireError for what they forbid.
    """
    if len(packet) < IPV6_HEADER_LENGTH:
        raise WireError(Why.MALFORMED, f"{len(packet)} octets hold no IPv6 header")
    total = IPV6_HEADER_LENGTH + int.from_bytes(packet[4:6], "big")
    if total > len(packet):
        raise WireError(Why.MALFORMED, f"total length {total}, {len(packet)} octets")
    kind, at = packet[6], IPV6_HEADER_LENGTH
    while kind in _EXTENSIONS:
        header = packet[at : min(total, at + 8 + 8 * (packet[at + 1] if at + 1 < total else 0))]
        if kind == _FRAGMENT:
            header = header[:8]
        _check_extension(kind, header, at)
        kind, at = header[0], at + len(header)
    plain = bytearray(packet[:IPV6_HEADER_LENGTH])
    plain[4:6] = (total - at).to_bytes(2, "big")
    plain[6] = kind
    return bytes(plain) + packet[at:total]


def _check_extension(kind: int, header: bytes, at: int) -> None:
    """Raise WireError when a packet with this extension header is none that may be used."""
    whole = 8 if kind == _FRAGMENT or len(header) < 2 else 8 + 8 * header[1]
    if len(header) < whole or (kind == _HOP_BY_HOP and at != IPV6_HEADER_LENGTH):
        raise WireError(Why.MALFORMED, f"IPv6 extension header {kind} at {at}")
    if kind == _FRAGMENT and int.from_bytes(header[2:4], "big") & _IPV6_FRAGMENT_MASK:
        raise WireError(Why.FRAGMENT, "an IP fragment")
    if kind == _ROUTING and header[3]:
        raise WireError(Why.MISDIRECTED, f"{header[3]} more hosts are on its route")
    if kind in (_HOP_BY_HOP, _DESTINATION_OPTIONS):
        _check_ipv6_options(header[2:])


def _check_ipv6_options(options: bytes) -> None:
    """RFC 8200 4.2: an unknown option may be skipped when its two highest bits are zero."""
    at = 0
    while at < len(options):
        if options[at] >> 6:
            raise WireError(Why.NOT_TCP, f"IPv6 option {options[at]} must be understood")
        if options[at] == 0:
            at += 1  # Pad1, the one without a length
        else:
            at += 2 + (options[at + 1] if at + 1 < len(options) else 0)
    if at > len(options):
        raise WireError(Why.MALFORMED, "an IPv6 option is longer than its header")
