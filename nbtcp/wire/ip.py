"""IPv4 as far as TCP needs it: addresses, the internet checksum, options removed (RFC 791, 1071).

An address is its four octets everywhere inside the package; text only at the edges.
"""

from ..errors import NbtcpError
from ..why import Why

PROTOCOL_TCP = 6
HEADER_LENGTH = 20  # octets, without options
DONT_FRAGMENT = 0x4000
FRAGMENT_MASK = 0x3FFF  # more-fragments flag and offset


class WireError(NbtcpError):
    """These bytes are no TCP segment that may be used; `why` tells what is wrong with them."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why.label}: {detail}")
        self.why = why


def pack_address(text: str) -> bytes:
    """The four octets of a dotted address; ValueError when it is none."""
    parts = text.split(".")
    if len(parts) != 4 or not all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts):
        raise ValueError(f"{text!r} is no IPv4 address such as 192.0.2.1")
    return bytes(int(part) for part in parts)


def format_address(address: bytes) -> str:
    """The dotted form of four octets."""
    return ".".join(map(str, address))


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
