"""What runs inside the private network: process 1 of its namespaces, and a web site on port 80.

`links/namespace.py` starts this file as a program of its own, inside new namespaces. It makes the
TUN device, gives the kernel its address, hands the device to the owner over a socket pair, and then
serves HTTP until that socket ends. As process 1 it takes everything that was started inside along
with it.

It imports nothing of nbtcp, which would take longer than all the rest.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import queue
import random
import re
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pyroute2 import IPRoute

KERNEL_ADDRESS = "10.0.0.1"
NETWORK, PREFIX = "10.0.0.0", 24
INTERFACE = "tun0"
PORT = 80
# Packets that wait for the reader: 15 MB at MTU 1500.
QUEUE_LENGTH = 10_000

SITE = Path(__file__).with_name("site")
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".svg": "image/svg+xml"}
PAGES = {
    "/" if file.name == "index.html" else f"/{file.name}": (file.read_bytes(), KINDS[file.suffix])
    for file in SITE.iterdir()
}

BLOCK = 1 << 20
LARGEST = 4 << 30
LONGEST_WAIT = 60.0
PIECE = 1 << 18

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h


# ---- the content of /bytes/N


def content(size: int) -> Iterator[bytes]:
    """Yield the body of GET /bytes/`size` in pieces of 1 MiB; the same bytes on every machine."""
    for offset in range(0, size, BLOCK):
        yield content_block(offset, min(BLOCK, size - offset))


def content_block(offset: int, size: int) -> bytes:
    """Return `size` bytes of the content of /bytes from `offset` on (both in bytes).

    It is one block of 1 MiB of random bytes, over and over, with the block's number mixed into its
    first 8 bytes: cheap to make, and a block in the wrong place changes the checksum.
    """
    first = offset // BLOCK
    last = (offset + size - 1) // BLOCK
    skip = offset - first * BLOCK
    return b"".join(_block(number) for number in range(first, last + 1))[skip : skip + size]


def _block(number: int) -> bytes:
    head, tail = _random_block()
    return (number ^ head).to_bytes(8, "big") + tail


@functools.cache
def _random_block() -> tuple[int, bytes]:
    block = random.Random(0).randbytes(BLOCK)
    return int.from_bytes(block[:8], "big"), block[8:]


# ---- the web site


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """An HTTP server, one thread for each connection.

    Not http.server's own class, which looks its address up in the DNS: through this very network.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what this network is for."""


class Refusal(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        """`headers` are further fields of the answer."""
        super().__init__(text)
        self.status = status
        self.headers = headers


class Site(BaseHTTPRequestHandler):
    """GET /, its pages, /bytes/N, /slow?seconds=S&bytes=N; POST /echo, /sink (RFC 9110, 9112)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # A header and a small body leave in one segment.
    rbufsize = wbufsize = 1 << 16

    def version_string(self) -> str:
        """Name the server without versions, so that an answer is equally long on every machine."""
        return "nbtcp"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the log of the connection itself is the point here."""

    def handle_expect_100(self) -> bool:
        """Tell the client to go on, at once (RFC 9110, 10.1.1)."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def do_GET(self) -> None:
        """Answer GET and HEAD."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = (
                True  # a body that nobody reads would be taken for the next request
            )
        try:
            self._get()
        except Refusal as refusal:
            self._refuse(refusal)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer POST."""
        try:
            pieces = self._body()
            path = urlsplit(self.path).path
            if path == "/echo":
                self._echo(pieces)
            elif path == "/sink":
                self._sink(pieces)
            else:
                for _ in pieces:  # answering first would reset the connection under the client
                    pass
                raise Refusal(404, f"There is nothing to post to at {path}.")
        except Refusal as refusal:
            self._refuse(refusal)

    def _get(self) -> None:
        target = urlsplit(self.path)
        if target.path in PAGES:
            self._answer(200, *PAGES[target.path])
        elif target.path.startswith("/bytes/"):
            size = _number(target.path.removeprefix("/bytes/"))
            self._head(200, "application/octet-stream", size)
            if self.command != "HEAD":
                for piece in content(size):
                    self.wfile.write(piece)
        elif target.path == "/slow":
            self._slow(parse_qs(target.query, keep_blank_values=True))
        elif target.path in ("/echo", "/sink"):
            raise Refusal(405, f"{target.path} takes POST.", Allow="POST")
        else:
            raise Refusal(404, f"There is no page {target.path}.")

    def _slow(self, query: dict[str, list[str]]) -> None:
        """Wait, or spread `bytes` evenly over `seconds`, 20 pieces a second."""
        seconds = _seconds(query.get("seconds", ["1"])[-1])
        size = _number(query["bytes"][-1]) if "bytes" in query else None
        if size is None:
            if self.command != "HEAD":
                time.sleep(seconds)
            self._answer(200, f"after {seconds:g} s\n".encode(), "text/plain")
            return
        self._head(200, "application/octet-stream", size)
        if self.command == "HEAD":
            return
        pieces = max(1, min(size, round(seconds * 20)))
        begin = time.monotonic()
        for number in range(pieces):
            self.wfile.flush()
            time.sleep(max(0.0, begin + seconds * (number + 1) / pieces - time.monotonic()))
            start, end = size * number // pieces, size * (number + 1) // pieces
            for offset in range(start, end, BLOCK):
                self.wfile.write(content_block(offset, min(BLOCK, end - offset)))

    def _echo(self, pieces: Iterator[bytes]) -> None:
        """Send the body back while it still comes, framed as it came."""
        chunked = "Transfer-Encoding" in self.headers
        pieces = _read_ahead(pieces)
        piece = next(pieces, b"")  # a body that is wrong from the start is still answered with 400
        length = None if chunked else int(self.headers.get("Content-Length", 0))
        kind = self.headers.get("Content-Type", "application/octet-stream")
        self._head(200, kind, length)
        while piece:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.flush()
            try:
                piece = next(pieces, b"")
            except Refusal as refusal:  # too late for a status: the answer just ends short
                raise ConnectionAbortedError(str(refusal)) from refusal
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _sink(self, pieces: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        size = 0
        for piece in pieces:
            size += len(piece)
            digest.update(piece)
        answer = {"bytes": size, "sha256": digest.hexdigest()}
        self._answer(200, json.dumps(answer).encode() + b"\n", "application/json")

    def _body(self) -> Iterator[bytes]:
        """Return the pieces of the request's body (RFC 9112, section 6)."""
        coding = self.headers.get("Transfer-Encoding")
        lengths = self.headers.get_all("Content-Length", [])
        if coding is not None:
            if lengths or coding.strip().lower() != "chunked":
                raise Refusal(
                    400, "A body is chunked or has a Content-Length, and one of them only."
                )
            return self._chunks()
        if not lengths:
            return iter(())
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,20}", lengths[0]):
            raise Refusal(400, "Content-Length must be one number.")
        if int(lengths[0]) > LARGEST:
            raise Refusal(413, f"A body has at most {LARGEST} bytes.")
        return self._exactly(int(lengths[0]))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read1(min(size, PIECE))
            if not piece:
                raise ConnectionAbortedError("the body ended early")
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """Undo the chunked coding (RFC 9112, 7.1)."""
        total = 0
        while size := self._chunk_size():
            total += size
            if total > LARGEST:
                raise Refusal(413, f"A body has at most {LARGEST} bytes.")
            yield from self._exactly(size)
            if self.rfile.readline(3) != b"\r\n":
                raise Refusal(400, "A chunk is not as long as it says.")
        while self.rfile.readline(1 << 16) not in (b"\r\n", b"\n", b""):
            pass  # trailer fields

    def _chunk_size(self) -> int:
        line = self.rfile.readline(1 << 12)
        if not line:
            raise ConnectionAbortedError("the body ended early")
        match = re.match(rb"([0-9A-Fa-f]{1,15})[ \t]*[;\r\n]", line)
        if not match:
            raise Refusal(400, "A chunk begins with its size in hexadecimal.")
        return int(match[1], 16)

    def _refuse(self, refusal: Refusal) -> None:
        if self.command == "POST" and refusal.status != 404:
            self.close_connection = True  # the rest of the body is in the way
        text = f"{refusal.status} {self.responses[refusal.status][0]}: {refusal}\n"
        self._answer(refusal.status, text.encode(), "text/plain", **refusal.headers)

    def _answer(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self._head(status, kind, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int | None, **headers: str) -> None:
        """Write the header; without a length the body is chunked."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", text) or int(text) > LARGEST:
        raise Refusal(400, f"{text!r} is not a number of bytes from 0 to {LARGEST}.")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT:  # true of nan as well
        raise Refusal(400, f"{text!r} is not a number of seconds from 0 to {LONGEST_WAIT:g}.")
    return seconds


def _read_ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Read in a thread of its own, however slowly the pieces are taken.

    A client that sends all before it reads anything would otherwise wait for us, and we for it.
    """
    waiting: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def read() -> None:
        try:
            for piece in pieces:
                waiting.put(piece)
            waiting.put(b"")
        except Exception as error:
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    while piece := waiting.get():
        if isinstance(piece, Exception):
            raise piece
        yield piece


# ---- process 1


def main(mtu: str, congestion: str) -> None:
    """Set the network up, pass the TUN device to the owner, and serve until the owner ends.

    `mtu` in bytes; `congestion` is a name or empty. The owner is at the other end of stderr, and
    the last line that is said there before the device comes is why it never will.
    """
    # Orphans inside become our children: ignored, they are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    tun = set_up(int(mtu), congestion)
    server = Server((KERNEL_ADDRESS, PORT), Site)
    owner = socket.socket(fileno=os.dup(sys.stderr.fileno()))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    # /proc is the one from outside, so this is our number outside.
    socket.send_fds(owner, [b"\n" + os.readlink("/proc/self").encode()], [tun])
    os.close(tun)
    _random_block()
    # A day between looks for an order to stop, which never comes: process 1 just ends.
    threading.Thread(target=server.serve_forever, args=(86_400.0,), daemon=True).start()
    owner.recv(1)  # until the owner closes its end or dies
    os._exit(0)


def set_up(mtu: int, congestion: str) -> int:
    """Bring up lo and tun0 with the kernel's address, and return the TUN's file descriptor."""
    # Before the device exists: else the kernel sends IPv6 of its own through it.
    _tune("net/ipv6/conf/default/disable_ipv6", "1")
    # Each connection begins afresh, without what was learned from the one before.
    _tune("net/ipv4/tcp_no_metrics_save", "1")
    # Bytes: the least, the first and the most that is buffered for one connection. The kernel's own
    # first, 128 KiB for receiving, stalls a sender of 64 KiB segments.
    _tune("net/ipv4/tcp_rmem", f"4096 {1 << 20} {32 << 20}")
    _tune("net/ipv4/tcp_wmem", f"4096 {16 << 10} {32 << 20}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), IFF_TUN | IFF_NO_PI))
    index = socket.if_nametoindex(INTERFACE)
    with IPRoute() as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")
        ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_LENGTH, state="up")
        ip.addr("add", index=index, address=KERNEL_ADDRESS, prefixlen=PREFIX)
        if congestion:
            _use_congestion(ip, index, congestion)
    return tun


def _use_congestion(ip: IPRoute, index: int, name: str) -> None:
    """Choose it for the namespace, or for the route to our TCP.

    One that is not in net.ipv4.tcp_allowed_congestion_control cannot be the default of a namespace,
    but it can belong to a route.
    """
    try:
        _sysctl("net/ipv4/tcp_congestion_control", name)
    except OSError:
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        if name not in available:
            sys.exit(
                f"the kernel has no congestion control {name!r}, "
                f"only {', '.join(available)} (others come with `modprobe tcp_NAME`)"
            )
        route = {"dst": f"{NETWORK}/{PREFIX}", "oif": index, "prefsrc": KERNEL_ADDRESS}
        ip.route("replace", **route, proto="kernel", scope="link", metrics={"cc_algo": name})


def _tune(name: str, value: str) -> None:
    # A container may see /proc/sys read-only, a kernel may lack IPv6: it works without, less well.
    with contextlib.suppress(OSError):
        _sysctl(name, value)


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
