"""Capture files as such: pcap and pcapng, read and written, and the link layers found in them.

Nothing here knows of TCP or of the log; capture.py does. The formats are those of
draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. scapy reads both too, but it tells a file that
was cut off from a whole one by a message on stderr only, takes a snaplen of 0 for "no octets", and
knows neither the time offset of an interface nor that a second section has interfaces of its own.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from struct import Struct, error, pack, unpack_from
from typing import NamedTuple

from .log import LogFileError

SECOND = 1_000_000_000
UNZIPPED = 1 << 31  # octets that a compressed file may hold
LARGEST = 1 << 18  # octets of a packet; a length above that is damage (libpcap's MAXIMUM_SNAPLEN)

_PCAP = {  # magic number: (byte order, ns in a unit of its fractions of a second)
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAPNG = b"\n\r\r\n"
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_COMMENT, _NAME, _FLAGS, _APPLICATION, _RESOLUTION, _OFFSET = 1, 2, 2, 4, 9, 14

RAW_IP = 101
# The link layers people have: BSD loopback, Ethernet, PPP (by two numbers), raw IP (by four),
# OpenBSD loopback, Linux cooked, IPv4, IPv6, Linux cooked v2. Octets before the packet, and where
# its type stands.
_LINKS = {
    **{0: (4, None), 1: (14, 12), 9: (2, 0), 50: (2, 0)},
    **{108: (4, None), 113: (16, 14), 276: (20, 0)},
    **dict.fromkeys((12, 14, RAW_IP, 228, 229), (0, None)),
}
_IP = (b"\x08\x00", b"\x86\xdd", b"\x00\x21", b"\x00\x57")  # the last two are PPP's
NOT_IP, CUT = "not IP", "captured too short"  # what NotIP says, and "link type 105"
# VLAN tags and PPPoE, between a type and the next: their octets, that next one included.
_INSIDE = {b"\x81\x00": 4, b"\x88\xa8": 4, b"\x91\x00": 4, b"\x88\x64": 8}


class Frame(NamedTuple):
    """One packet of a capture."""

    time: int  # ns
    link: int  # LINKTYPE
    data: bytes  # as much as was captured
    length: int  # octets that there were
    outbound: bool | None = None  # None: the file does not say
    comment: str = ""


class NotIP(Exception):
    """A frame holds no IP packet."""


def ip_packet(link: int, frame: bytes) -> bytes:
    """The IP packet in a frame; NotIP says what there is instead."""
    if link not in _LINKS:
        raise NotIP(f"link type {link}")
    at, where = _LINKS[link]
    if link in (9, 50):  # RFC 1662 3.1: address and control may be left out
        frame = frame.removeprefix(b"\xff\x03")
    kind = _IP[0] if where is None else frame[where : where + 2]
    while kind in _INSIDE:
        at += _INSIDE[kind]
        kind = frame[at - 2 : at]
    if at >= len(frame):
        raise NotIP(CUT)
    if kind not in _IP or frame[at] >> 4 not in (4, 6):
        raise NotIP(NOT_IP)
    return frame[at:]


# --- reading ---


class CaptureReader:
    """The frames of a capture, in the order of the file; LogFileError when it is none.

    `damage` says, once all frames were read, why the file was not read to its end. `application`
    and `comment` are those of the section.
    """

    def __init__(self, content: bytes) -> None:
        self.damage = self.application = self.comment = ""
        if content[:2] == b"\x1f\x8b":
            content, self.damage = _unzip(content)
        self._content, self._at = content, 0

    def __iter__(self) -> Iterator[Frame]:
        if not self._content:
            raise LogFileError(f"it is {self.damage or 'empty'}")
        magic = self._content[:4]
        if magic != _PCAPNG and magic not in _PCAP:
            raise LogFileError("it begins as neither pcap nor pcapng does")
        try:
            yield from self._read_pcapng() if magic == _PCAPNG else self._read_pcap(*_PCAP[magic])
        except EOFError:
            self.damage = self.damage or f"cut off in mid-packet, at octet {len(self._content)}"
        except (error, ValueError, LookupError):
            self.damage = f"damaged at octet {self._at}; what follows was not read"
        if self.damage and self._at == 0:
            raise LogFileError("its first header is damaged or cut off")

    def _octets(self, at: int, size: int) -> bytes:
        """Part of the file; EOFError when it ends sooner."""
        if at + size > len(self._content):
            raise EOFError
        return self._content[at : at + size]

    def _read_pcap(self, order: str, unit: int) -> Iterator[Frame]:
        link = unpack_from(order + "20xL", self._octets(0, 24))[0] & 0xFFFF  # above it: of the FCS
        header, self._at = Struct(order + "4L"), 24
        while self._at < len(self._content):
            seconds, fraction, captured, length = header.unpack(self._octets(self._at, 16))
            if captured > LARGEST:
                raise ValueError
            data = self._octets(self._at + 16, captured)
            yield Frame(seconds * SECOND + fraction * unit, link, data, length)
            self._at += 16 + captured

    def _read_pcapng(self) -> Iterator[Frame]:
        time = 0
        while self._at < len(self._content):
            head = self._octets(self._at, 12)
            if head[:4] == _PCAPNG:
                order = _ORDERS[head[8:]]
                interfaces: list[tuple[int, int, int]] = []
            kind, size = unpack_from(order + "LL", head)
            if not 12 <= size <= 1 << 24 or size % 4:  # none is larger, says Wireshark
                raise ValueError
            body = self._octets(self._at, size)[8:-4]
            if kind == _SECTION:
                options = _options(order, body, 16)
                self.application = _text(options, _APPLICATION)
                self.comment = _text(options, _COMMENT)
            elif kind == _INTERFACE:
                interfaces.append(_interface(order, body))
            elif kind == _SIMPLE_PACKET:  # it has no time
                yield Frame(time, interfaces[0][0], body[4:], *unpack_from(order + "L", body))
            elif kind in (_PACKET, _OLD_PACKET):
                frame = _packet(order + ("5L" if kind == _PACKET else "HxxLLLL"), body, interfaces)
                time = frame.time
                yield frame
            self._at += size


def _unzip(content: bytes) -> tuple[bytes, str]:
    """As much of a file compressed by gzip as can be read; and why that is not all, or ""."""
    found, damage = bytearray(), ""
    try:
        with gzip.open(BytesIO(content)) as file:
            while not damage and (part := file.read1(1 << 20)):
                found += part
                if len(found) > 4 and not found.startswith((_PCAPNG, *_PCAP)):
                    break  # no capture, however much there is of it
                damage = "too large to be unpacked whole" * (len(found) > UNZIPPED)
    except EOFError:
        damage = "cut off in its compressed data"
    except (OSError, zlib.error) as problem:
        damage = f"compressed and damaged ({problem})"
    return bytes(found), damage


def _interface(order: str, body: bytes) -> tuple[int, int, int]:
    """Link type, units of time in a second, and what to add to times, ns."""
    [link] = unpack_from(order + "H6x", body)
    options = _options(order, body, 8)
    resolution = options.get(_RESOLUTION, b"\x06")[0]
    units = (2 if resolution & 0x80 else 10) ** (resolution & 0x7F)
    [offset] = unpack_from(order + "q", options.get(_OFFSET, bytes(8)))
    return link, units, offset * SECOND


def _packet(layout: str, body: bytes, interfaces: list[tuple[int, int, int]]) -> Frame:
    """An enhanced packet, or an obsolete one."""
    order = layout[0]
    number, high, low, captured, length = unpack_from(layout, body)
    (link, units, offset), end = interfaces[number], 20 + captured
    if end > len(body):
        raise ValueError
    time = (high << 32 | low) * SECOND // units + offset
    options = _options(order, body, end + -end % 4)
    [flags] = unpack_from(order + "L", options.get(_FLAGS, bytes(4)))
    outbound = {1: False, 2: True}.get(flags & 3)
    return Frame(time, link, body[20:end], length, outbound, _text(options, _COMMENT))


def _options(order: str, body: bytes, at: int) -> dict[int, bytes]:
    """The options of a block from octet `at` on; of several of a kind the first."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(body):
        code, size = unpack_from(order + "HH", body, at)
        if code == 0:
            break
        found.setdefault(code, body[at + 4 : at + 4 + size])
        at += 4 + size + -size % 4
    return found


def _text(options: dict[int, bytes], code: int) -> str:
    return options.get(code, b"").decode("utf-8", "replace")


# --- writing ---


def header(application: str, comment: str, interfaces: Iterable[str]) -> bytes:
    """The beginning of a pcapng file: interfaces of raw IP, nanoseconds, and no snaplen."""
    head = pack("<LHHq", 0x1A2B3C4D, 1, 0, -1)  # the length of the section: not said
    about = {_COMMENT: comment.encode(), _APPLICATION: application.encode()}
    options = [{_NAME: name.encode(), _RESOLUTION: b"\x09"} for name in interfaces]
    ends = [_block(_INTERFACE, pack("<HHL", RAW_IP, 0, 0), named) for named in options]
    return b"".join([_block(_SECTION, head, about), *ends])


def packet(interface: int, frame: Frame) -> bytes:
    """A packet that passed the interface of that number, the first one being 0."""
    time, data, outbound = max(frame.time, 0), frame.data, frame.outbound
    head = pack("<5L", interface, time >> 32, time & 0xFFFFFFFF, len(data), frame.length)
    flags = b"" if outbound is None else pack("<L", 2 if outbound else 1)
    options = {_COMMENT: frame.comment.encode(), _FLAGS: flags}
    return _block(_PACKET, head + data + bytes(-len(data) % 4), options)


def _block(kind: int, body: bytes, options: dict[int, bytes]) -> bytes:
    for code, whole in options.items():
        if value := whole[:0xFFFF]:
            body += pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
    body += bytes(4)  # the end of the options
    size = pack("<L", 12 + len(body))
    return b"".join((pack("<L", kind), size, body, size))
