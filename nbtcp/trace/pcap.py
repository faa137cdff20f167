"""Capture files as such: pcap and pcapng, read and written, and the link layers found in them.

Nothing here knows of TCP or of the log; capture.py does. The formats are those of
draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. scapy reads both too, but it tells a file that
was cut off from a whole one by a message on stderr only, takes a snaplen of 0 for "no octets", and
knows neither the time offset of an interface nor that a second section has interfaces of its own.
"""

import zlib
from collections.abc import Iterator
from struct import Struct, error, pack, unpack_from
from typing import BinaryIO, NamedTuple

from .log import LogFileError

SECOND = 1_000_000_000
LARGEST = 1 << 18  # octets of a packet; a length above that is damage (libpcap's MAXIMUM_SNAPLEN)
LAST_TIME = 1 << 62  # ns; later ones are damage, and would not fit into a row

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
_INBOUND, _OUTBOUND = 1, 2
RAW_IP = 101

# The link layers people have: BSD loopback, Ethernet, raw IP (by four numbers), OpenBSD loopback,
# Linux cooked, IPv4, IPv6, Linux cooked v2. Octets before the packet, and where its type stands.
_HEADERS = {0: 4, 1: 14, 12: 0, 14: 0, RAW_IP: 0, 108: 4, 113: 16, 228: 0, 229: 0, 276: 20}
_TYPE_AT = {1: 12, 113: 14, 276: 0}
_IP = (b"\x08\x00", b"\x86\xdd")
_VLAN = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")


class Frame(NamedTuple):
    """One packet of a capture."""

    time: int  # ns
    link: int  # LINKTYPE
    data: bytes  # as much as was captured
    length: int  # octets that there were
    interface: str = ""
    outbound: bool | None = None  # None: the file does not say
    comment: str = ""


class _Interface(NamedTuple):
    link: int
    snaplen: int
    units: int  # of time in a second
    offset: int  # s
    name: str


class CaptureReader:
    """The frames of a capture, in the order of the file.

    `damage` says, once all frames were read, why the file was not read to its end. `application`
    and `comment` are those of the section. Raises LogFileError when it is no capture.
    """

    def __init__(self, content: bytes) -> None:
        self.damage = self.application = self.comment = ""
        if content[:2] == b"\x1f\x8b":
            content = self._unzip(content)
        if not content:
            raise LogFileError("it is empty")
        if content[:4] not in _PCAP and content[:4] != _PCAPNG:
            raise LogFileError("it begins as neither pcap nor pcapng does")
        self._content, self._at = content, 0
        self._pcapng = content[:4] == _PCAPNG
        if len(content) < (28 if self._pcapng else 24):
            raise LogFileError("it ends inside its first header")
        if self._pcapng and content[8:12] not in _ORDERS:
            raise LogFileError("its first header is damaged")

    def __iter__(self) -> Iterator[Frame]:
        frames = self._read_pcapng() if self._pcapng else self._read_pcap()
        try:
            yield from frames
        except (error, ValueError, IndexError):
            self.damage = f"damaged at octet {self._at}; what follows was not read"

    def _unzip(self, content: bytes) -> bytes:
        unzip = zlib.decompressobj(31)
        try:
            content = unzip.decompress(content)
        except zlib.error as problem:
            raise LogFileError(f"it is compressed and damaged ({problem})") from None
        self.damage = "" if unzip.eof else "cut off in its compressed data"
        return content

    def _whole(self, size: int) -> bool:
        """The file holds `size` more octets."""
        if self._at + size <= len(self._content):
            return True
        self.damage = self.damage or f"cut off in mid-packet, at octet {len(self._content)}"
        return False

    def _read_pcap(self) -> Iterator[Frame]:
        content = self._content
        order, unit = _PCAP[content[:4]]
        link = unpack_from(order + "L", content, 20)[0] & 0xFFFF  # above: the frame check sequence
        header = Struct(order + "4L")
        self._at = 24
        while self._at < len(content) and self._whole(header.size):
            seconds, fraction, captured, length = header.unpack_from(content, self._at)
            if captured > LARGEST:
                raise ValueError
            if not self._whole(header.size + captured):
                return
            start = self._at + header.size
            self._at = start + captured
            time = seconds * SECOND + fraction * unit
            yield Frame(time, link, content[start : self._at], length)

    def _read_pcapng(self) -> Iterator[Frame]:
        content, order = self._content, "<"
        interfaces: list[_Interface] = []
        time = 0
        while self._at < len(content) and self._whole(12):
            if content[self._at : self._at + 4] == _PCAPNG:
                order = _ORDERS.get(content[self._at + 8 : self._at + 12], "")
                interfaces = []
            kind, size = unpack_from(order + "LL", content, self._at)
            if size < 12 or size % 4 or not order:
                raise ValueError
            if not self._whole(size):
                return
            body = content[self._at + 8 : self._at + size - 4]
            if kind == _SECTION:
                self._read_section(order, body)
            elif kind == _INTERFACE:
                interfaces.append(_read_interface(order, body))
            elif kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET):
                frame = _read_packet(order, body, kind, interfaces, time)
                time = frame.time
                yield frame
            self._at += size

    def _read_section(self, order: str, body: bytes) -> None:
        options = _options(order, body, 16)
        self.application = _text(options.get(_APPLICATION, b""))
        self.comment = _text(options.get(_COMMENT, b""))


def _read_interface(order: str, body: bytes) -> _Interface:
    link, snaplen = unpack_from(order + "HxxL", body)
    options = _options(order, body, 8)
    resolution = options.get(_RESOLUTION, b"\x06")[0]
    units = (2 if resolution & 0x80 else 10) ** (resolution & 0x7F)
    [offset] = unpack_from(order + "q", options.get(_OFFSET, bytes(8)))
    return _Interface(link, snaplen, units, offset, _text(options.get(_NAME, b"")))


def _read_packet(
    order: str, body: bytes, kind: int, interfaces: list[_Interface], last: int
) -> Frame:
    """An enhanced packet, an obsolete one, or a simple one, which has no time."""
    if kind == _SIMPLE_PACKET:
        [length] = unpack_from(order + "L", body)
        interface = interfaces[0]
        captured = min(length, interface.snaplen or length)
        if 4 + captured > len(body):
            raise ValueError
        return Frame(last, interface.link, body[4 : 4 + captured], length, interface.name)
    layout = order + ("LLLLL" if kind == _PACKET else "HxxLLLL")
    number, high, low, captured, length = unpack_from(layout, body)
    interface, end = interfaces[number], 20 + captured
    if end > len(body) or captured > LARGEST:
        raise ValueError
    time = (high << 32 | low) * SECOND // interface.units + interface.offset * SECOND
    options = _options(order, body, end + -end % 4)
    direction = unpack_from(order + "L", options.get(_FLAGS, bytes(4)))[0] & 3
    outbound = {_INBOUND: False, _OUTBOUND: True}.get(direction)
    comment = _text(options.get(_COMMENT, b""))
    data = body[20:end]
    return Frame(time, interface.link, data, length, interface.name, outbound, comment)


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


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def network_layer(link: int, frame: bytes) -> int | None:
    """Where the IP packet begins in a frame; -1: there is none; None: an unknown link layer."""
    at = _HEADERS.get(link)
    where = _TYPE_AT.get(link)
    if at is None or where is None:
        return at
    kind = frame[where : where + 2]
    while kind in _VLAN:
        kind = frame[at + 2 : at + 4]
        at += 4
    return at if kind in _IP else -1


class CaptureWriter:
    """Writes pcapng: raw IP packets, nanoseconds, comments."""

    def __init__(self, file: BinaryIO, application: str, comment: str) -> None:
        self._file = file
        self._interfaces: dict[str, int] = {}
        head = pack("<LHHq", 0x1A2B3C4D, 1, 0, -1)  # the length of the section: not said
        options = (_COMMENT, comment.encode()), (_APPLICATION, application.encode())
        self._block(_SECTION, head, *options)

    def interface(self, name: str) -> int:
        """The number of the interface of that name, which is described when it is new."""
        if name not in self._interfaces:
            self._interfaces[name] = len(self._interfaces)
            head = pack("<HHL", RAW_IP, 0, 0)  # no snaplen
            self._block(_INTERFACE, head, (_NAME, name.encode()), (_RESOLUTION, b"\x09"))
        return self._interfaces[name]

    def packet(self, frame: Frame) -> None:
        """Write one packet; its link is raw IP."""
        data, number = frame.data, self.interface(frame.interface)
        ticks = max(frame.time, 0)
        head = pack("<5L", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), frame.length)
        flags = b""
        if frame.outbound is not None:
            flags = pack("<L", _OUTBOUND if frame.outbound else _INBOUND)
        options = (_COMMENT, frame.comment.encode()), (_FLAGS, flags)
        self._block(_PACKET, head + data + bytes(-len(data) % 4), *options)

    def _block(self, kind: int, body: bytes, *options: tuple[int, bytes]) -> None:
        for code, whole in options:
            if value := whole[:0xFFFF]:
                body += pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
        body += bytes(4)  # the end of the options
        size = pack("<L", 12 + len(body))
        self._file.write(pack("<L", kind) + size + body + size)
