"""IPv4 and IPv6 as far as TCP needs them: addresses, the internet checksum, headers (RFC 791, 1071,
8200).

An address is its 4 or 16 octets everywhere inside the package; text only at the edges.
"""

from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from struct import Struct
from typing import NamedTuple

from ..errors import NbtcpError
from ..why import Why

PROTOCOL_TCP = 6
HEADER_LENGTH = 20  # octets of IPv4 header, without options
IPV6_HEADER_LENGTH = 40  # octets, without extension headers
IPV4_ADDRESS, IPV6_ADDRESS = 4, 16  # octets; how long an address is tells its family
IPV4_MAPPED = bytes(10) + b"\xff\xff"  # how such an IPv6 address begins (RFC 4291 2.5.5.2)
DONT_FRAGMENT = 0x4000
FRAGMENT_MASK = 0x3FFF  # more-fragments flag and offset

# Version+IHL, TOS, length, id, fragment, TTL, protocol, checksum; version+traffic class+flow label,
# length of what follows, protocol, hop limit; then both addresses.
_IPV4, _IPV6 = Struct("!BBHHHBBH8s"), Struct("!LHBB32s")
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS = 0, 43, 44, 60  # extension headers
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS})
_IPV6_FRAGMENT_MASK = 0xFFF9  # offset and more-fragments flag


class WireError(NbtcpError):
    """These bytes are no TCP segment that may be used; `why` tells what is wrong with them."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why.label}: {detail}")
        self.why = why


class Header(NamedTuple):
    """An IP header, with all that belongs to it: the packet's data lies from `at` to `end`.

    `addresses` is those of source and destination, 8 octets or 32, and tells the family; with IPv6
    `tos` is the traffic class and `ttl` the hop limit.
    """

    tos: int
    ttl: int
    addresses: bytes
    at: int
    end: int


def pack_address(text: str) -> bytes:
    """The 4 or 16 octets of an address; ValueError when it is none, or one with a zone."""
    with suppress(ValueError):
        if "%" not in text:
            return ip_address(text).packed
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


def parse_header(packet: bytes, protocol: int, least: int, captured: int | None = None) -> Header:
    """The header of a packet that holds at least so many octets of `protocol`, the headers checked.

    IPv4 options are skipped (RFC 9293 MUST-50), and IPv6 extension headers that allow it. Of a
    packet that was `captured` or quoted the end may be missing and the IPv4 checksum wrong; its
    length is `captured` where the header says 0, as in packets that the device is to cut up. Raises
    WireError.
    """
    version = packet[0] >> 4 if packet else 0
    if version not in (4, 6):
        raise WireError(Why.NOT_TCP, "no IP packet")
    at = (packet[0] & 15) * 4 if version == 4 else IPV6_HEADER_LENGTH
    if not HEADER_LENGTH <= at <= len(packet):
        raise WireError(Why.MALFORMED, f"an IP header of {at} octets in {len(packet)}")
    if version == 4:
        if captured is None and ones_sum(packet[:at]):
            raise WireError(Why.BAD_CHECKSUM, "IPv4 header")
        _, tos, end, _, fragment, ttl, found, _, addresses = _IPV4.unpack_from(packet)
        length = end
    else:
        word, length, found, ttl, addresses = _IPV6.unpack_from(packet)
        tos, fragment, end = word >> 20 & 0xFF, 0, at + length
    if captured is not None and length == 0:
        end = captured
    if end < at or (captured is None and end > len(packet)):
        raise WireError(Why.MALFORMED, f"a packet of {end} octets in {len(packet)}")
    if version == 6:
        found, at = _skip_extensions(packet[:end], found)
    if found != protocol:
        raise WireError(Why.NOT_TCP, f"IP protocol {found}")
    if fragment & FRAGMENT_MASK:
        raise WireError(Why.FRAGMENT, "an IP fragment")
    size = min(end, len(packet)) - at
    if size < least:
        raise WireError(Why.MALFORMED, f"{size} octets hold no header of IP protocol {protocol}")
    return Header(tos, ttl, addresses, at, end)


def build_header(addresses: bytes, protocol: int, size: int, tos: int = 0, ttl: int = 64) -> bytes:
    """The header, without options, of a packet with `size` octets of data; see Header."""
    if len(addresses) == 2 * IPV6_ADDRESS:
        return _IPV6.pack(6 << 28 | tos << 20, size, protocol, ttl, addresses)
    fields = (0x45, tos, HEADER_LENGTH + size, 0, 0, ttl, protocol)
    return _IPV4.pack(*fields, checksum(ones_sum(_IPV4.pack(*fields, 0, addresses))), addresses)


def plain(packet: bytes, protocol: int, least: int) -> bytes:
    """`packet` without options, extension headers and padding. Raises WireError."""
    tos, ttl, addresses, at, end = parse_header(packet, protocol, least)
    return build_header(addresses, protocol, end - at, tos, ttl) + packet[at:end]


def mark_congestion(packet: bytes) -> bytes:
    """`packet` with CE in its ECN field, if its transport understands that (RFC 3168 5)."""
    marked = bytearray(packet)
    if packet[0] >> 4 == 4 and packet[1] & 3 in (1, 2):
        marked[1] |= 3
        # RFC 1624: the checksum changes by as much as the header.
        check = int.from_bytes(packet[10:12], "big") + packet[1] - marked[1]
        marked[10:12] = (check % 65535).to_bytes(2, "big")
    elif packet[0] >> 4 == 6 and packet[1] >> 4 & 3 in (1, 2):  # the traffic class is 4 bits later
        marked[1] |= 0x30
    return bytes(marked)


def _skip_extensions(packet: bytes, kind: int) -> tuple[int, int]:
    """What follows the extension headers of which `kind` is the first, and where (RFC 8200 4).

    Hop-by-hop and destination options, a routing header that has done its work and the fragment
    header of a whole packet (RFC 6946) are skipped. Raises WireError for what they forbid.
    """
    at = IPV6_HEADER_LENGTH
    while kind in _EXTENSIONS:
        size = 8 if kind == _FRAGMENT else 8 + 8 * int.from_bytes(packet[at + 1 : at + 2], "big")
        header = packet[at : at + size]
        if len(header) < size or (kind == _HOP_BY_HOP and at != IPV6_HEADER_LENGTH):
            raise WireError(Why.MALFORMED, f"IPv6 extension header {kind} at {at}")
        if kind == _FRAGMENT:
            if int.from_bytes(header[2:4], "big") & _IPV6_FRAGMENT_MASK:
                raise WireError(Why.FRAGMENT, "an IP fragment")
        elif kind == _ROUTING:
            if header[3]:
                raise WireError(Why.MISDIRECTED, f"{header[3]} more hosts are on its route")
        else:
            _check_ipv6_options(header[2:])
        kind, at = header[0], at + size
    return kind, at


def _check_ipv6_options(options: bytes) -> None:
    """RFC 8200 4.2: an unknown option may be skipped when its two highest bits are zero."""
    at = 0
    while at < len(options):
        if options[at] >> 6:
            raise WireError(Why.NOT_TCP, f"IPv6 option {options[at]} must be understood")
        length = int.from_bytes(options[at + 1 : at + 2], "big")
        at += 2 + length if options[at] else 1  # Pad1, 0, is the one without a length
    if at > len(options):
        raise WireError(Why.MALFORMED, "an IPv6 option is longer than its header")
