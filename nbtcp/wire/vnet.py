"""The virtio-net header before each packet of a device that offloads (virtio 1.2, 5.1.6).

With segmentation offload a packet may be many segments in one: up to 64 KiB of data behind one
header, which the device, or the kernel behind it, cuts into segments of `gso_size` octets; and it
makes the TCP checksum, of which only the pseudo-header's part is there. What it has received it
puts together likewise. These are `parse` and `build` of such packets; the stack's, with
`Config(offload=True)`. Ten octets, little-endian (TUNSETVNETLE). Keeps no state.
"""

from struct import Struct, error

from ..why import Why
from . import segment as plain
from .ip import HEADER_LENGTH, IPV6_HEADER_LENGTH, WireError
from .segment import CWR, MAX_HEADER_LENGTH, Segment

LENGTH = 10  # octets
MOST_DATA = 65535 - IPV6_HEADER_LENGTH - MAX_HEADER_LENGTH  # octets in one packet
NEEDS_CSUM, DATA_VALID = 1, 2  # flags: the checksum is yet to be made; it has been verified
TCPV4, TCPV6, ECN = 1, 4, 0x80  # gso_type: to be cut; with CWR only in the first segment
CSUM_OFFSET = 16  # of the checksum in the TCP header

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_HEADER = Struct("<BBHHHH")


def parse(packet: bytes) -> Segment:
    """The segment, or segments in one, behind the header. Raises WireError and nothing else.

    A checksum that is yet to be made, or has been verified, is not looked at.
    """
    try:
        flags, gso_type, _, gso_size, _, csum_offset = _HEADER.unpack_from(packet)
    except error:
        raise WireError(Why.MALFORMED, f"no virtio-net header in {len(packet)} octets") from None
    if gso_type & ~ECN not in (0, TCPV4, TCPV6):
        raise WireError(Why.NOT_TCP, f"virtio-net gso_type {gso_type}")
    if (gso_type != 0) != (gso_size != 0) or (flags & NEEDS_CSUM and csum_offset != CSUM_OFFSET):
        raise WireError(Why.MALFORMED, f"virtio-net header {packet[:LENGTH].hex()}")
    segment = plain.parse(packet[LENGTH:], verified=flags & (NEEDS_CSUM | DATA_VALID) != 0)
    segment.gso_size = gso_size
    return segment


def build(segment: Segment) -> bytes:
    """The packet with its header; the data is not looked at."""
    packet = plain.build(segment, partial=True)
    start, gso_type = (HEADER_LENGTH, TCPV4) if packet[0] >> 4 == 4 else (IPV6_HEADER_LENGTH, TCPV6)
    if not segment.gso_size:
        gso_type = 0
    elif segment.flags & CWR:
        gso_type |= ECN
    sizes = len(packet) - len(segment.data), segment.gso_size
    return _HEADER.pack(NEEDS_CSUM, gso_type, *sizes, start, CSUM_OFFSET) + packet
