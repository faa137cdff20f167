"""What runs inside the private network: process 1 of its namespaces, and a web site on port 80.

`links/namespace.py` starts this file as a program of its own, inside new namespaces. It makes the
TUN device, gives the kernel its address, hands the device to the owner over a socket pair, and then
serves HTTP until that socket ends. As process 1 it takes everything that was started inside along
with it.

It imports nothing of nbtcp, which would take longer than all the rest.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import queue
import random
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

KERNEL_ADDRESS, NETWORK, PREFIX = "10.0.0.1", "10.0.0.0", 24
KERNEL_ADDRESS6, NETWORK6, PREFIX6 = "fd00:6e62::1", "fd00:6e62::", 64
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

LARGEST = 4 << 30
LONGEST_WAIT = 60.0
PIECE = 1 << 18
# The content of /bytes/N, over and over. Its length is a prime, so that what is missing or twice by
# any other number of bytes changes the checksum.
BLOCK = random.Random(0).randbytes(1_000_003)

N = TypeVar("N", int, float)

TUNSETIFF, IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0001, 0x1000, 0x4000  # linux/if_tun.h
# No link-local address (IN6_ADDR_GEN_MODE_NONE), from which the kernel would look for routers.
NO_LINK_LOCAL = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]]}
NODAD = 0x02  # linux/if_addr.h: the address is usable without a search for its duplicates
RTN_LOCAL = 2  # linux/rtnetlink.h: the type of the route to an address of our own


# ---- the web site


def content(size: int) -> Iterator[bytes]:
    """Yield the body of GET /bytes/`size` in pieces; the same bytes on every machine."""
    for left in range(size, 0, -len(BLOCK)):
        yield BLOCK[:left]


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """An HTTP server, one thread for each connection.

    Not http.server's own class, which looks its address up in the DNS: through this very network.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what this network is for."""


class Server6(Server):
    """The same over IPv6."""

    address_family = socket.AF_INET6


class Answer(NamedTuple):
    """The answer to a request; without a `size` its body ends with the connection."""

    status: int
    kind: str
    size: int | None
    body: Iterable[bytes]


class Site(BaseHTTPRequestHandler):
    """GET /, its pages, /bytes/N, /slow?seconds=S; POST /echo, /sink (RFC 9110, 9112)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # A header and a small body leave in one segment.
    rbufsize = wbufsize = 1 << 16

    def version_string(self) -> str:
        """Name the server without versions, so that an answer is equally long on every machine."""
        return "nbtcp"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the log of the connection itself is the point here."""

    def do_GET(self) -> None:
        """Answer GET, HEAD and POST."""
        try:
            answer = self._answer()
        except ValueError as problem:
            self.close_connection = True  # nobody knows where the next request begins
            answer = _text(400, f"400 Bad Request: {problem}.\n")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.size is None:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(answer.size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            for piece in answer.body:
                self.wfile.write(piece)
                self.wfile.flush()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> Answer:
        """Read the request's body and find the answer; ValueError when the request is wrong."""
        target = urlsplit(self.path)
        path = f"POST {target.path}" if self.command == "POST" else target.path
        size, pieces = self._body()
        if path == "POST /echo":
            kind = self.headers.get("Content-Type", "application/octet-stream")
            return Answer(200, kind, size, _read_ahead(pieces))
        arrived, digest = 0, hashlib.sha256()
        for piece in pieces:  # of any request: answering first would reset the connection
            arrived += len(piece)
            digest.update(piece)
        if path == "POST /sink":
            found = {"bytes": arrived, "sha256": digest.hexdigest()}
            return _text(200, json.dumps(found) + "\n", "application/json")
        if path in PAGES:
            page, kind = PAGES[path]
            return Answer(200, kind, len(page), [page])
        if path.startswith("/bytes/"):
            size = _number(int, path.removeprefix("/bytes/"), LARGEST)
            return Answer(200, "application/octet-stream", size, content(size))
        if path == "/slow":
            query = parse_qs(target.query, keep_blank_values=True)
            seconds = _number(float, query.get("seconds", ["1"])[-1], LONGEST_WAIT)
            time.sleep(seconds)
            return _text(200, f"after {seconds:g} s\n")
        return _text(404, f"404 Not Found: There is no page {path}.\n")

    def _body(self) -> tuple[int | None, Iterator[bytes]]:
        """Return the size of the request's body, if it is known, and its pieces (RFC 9112, 6)."""
        self.wfile.flush()  # "100 Continue" may be in there
        fields = self.headers.get_all("Transfer-Encoding", [])
        fields += self.headers.get_all("Content-Length", [])
        if fields == ["chunked"]:
            return None, self._chunks()
        if fields and (len(fields) > 1 or not fields[0].isdecimal()):
            raise ValueError("A body is chunked or has one Content-Length")
        size = int(fields[0]) if fields else 0
        return size, self._exactly(size)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.rfile.read1(min(size, PIECE))
            if not piece:
                raise ConnectionAbortedError("the body ended early")
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """Undo the chunked coding (RFC 9112, 7.1)."""
        while size := int(self.rfile.readline(1 << 12).partition(b";")[0], 16):
            yield from self._exactly(size)
            if self.rfile.readline(3) != b"\r\n":
                raise ValueError("A chunk is not as long as it says")
        while self.rfile.readline(1 << 16).strip():
            pass  # trailer fields


def _text(status: int, text: str, kind: str = "text/plain") -> Answer:
    body = text.encode()
    return Answer(status, kind, len(body), [body])


def _number(kind: type[N], text: str, most: N) -> N:
    with contextlib.suppress(ValueError):
        if 0 <= (number := kind(text)) <= most:
            return number
    raise ValueError(f"{text!r} is not a number from 0 to {most}")


def _read_ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Read in a thread of its own, however slowly the pieces are taken.

    A client that sends all before it reads anything would otherwise wait for us, and we for it.
    """
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):  # too late for a status: it just ends short
            for piece in pieces:
                waiting.put(piece)
        waiting.put(b"")

    threading.Thread(target=read, daemon=True).start()
    return iter(waiting.get, b"")


# ---- process 1


def main(mtu: str, congestion: str, offload: str = "") -> None:
    """Set the network up, pass the TUN device to the owner, and serve until the owner ends.

    `mtu` in bytes; `congestion` is a name or empty; with `offload` packets have a virtio-net
    header. The owner is at the other end of stderr, and the last line that is said there before the
    device comes is why it never will.
    """
    # Orphans inside become our children: ignored, they are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    tun = set_up(int(mtu), congestion, bool(offload))
    servers = [Server((KERNEL_ADDRESS, PORT), Site)]
    with contextlib.suppress(OSError):  # no IPv6 here
        servers.append(Server6((KERNEL_ADDRESS6, PORT), Site))
    owner = socket.socket(fileno=os.dup(sys.stderr.fileno()))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    # /proc is the one from outside, so this is our number outside.
    socket.send_fds(owner, [b"\n" + os.readlink("/proc/self").encode()], [tun])
    os.close(tun)
    # A day between looks for an order to stop, which never comes: process 1 just ends.
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(86_400.0,), daemon=True).start()
    owner.recv(1)  # until the owner closes its end or dies
    os._exit(0)


def set_up(mtu: int, congestion: str, offload: bool) -> int:
    """Bring up lo and tun0 with the kernel's addresses, and return the TUN's file descriptor."""
    # Each connection begins afresh, without what was learned from the one before.
    _tune("net/ipv4/tcp_no_metrics_save", "1")
    # Bytes: the least, the first and the most that is buffered for one connection. The kernel's own
    # first, 128 KiB for receiving, stalls a sender of 64 KiB segments.
    _tune("net/ipv4/tcp_rmem", f"4096 {1 << 20} {32 << 20}")
    _tune("net/ipv4/tcp_wmem", f"4096 {16 << 10} {32 << 20}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if offload else 0)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), flags))
    index = socket.if_nametoindex(INTERFACE)
    with IPRoute() as ip:
        ip.link("set", index=socket.if_nametoindex("lo"), state="up")
        with contextlib.suppress(NetlinkError):  # a kernel without IPv6
            ip.link("set", index=index, IFLA_AF_SPEC=NO_LINK_LOCAL)
        ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_LENGTH, state="up")
        ip.addr("add", index=index, address=KERNEL_ADDRESS, prefixlen=PREFIX)
        with contextlib.suppress(NetlinkError):  # a kernel without IPv6, or an MTU below 1280
            ip.addr("add", index=index, address=KERNEL_ADDRESS6, prefixlen=PREFIX6, flags=NODAD)
            _wait_for_local_route(ip, KERNEL_ADDRESS6)
        if congestion:
            _use_congestion(ip, index, congestion)
    return tun


def _wait_for_local_route(ip: IPRoute, address: str) -> None:
    """The kernel makes it later than the IPv6 address; without it a SYN would find nobody."""
    for _ in range(2000):
        with contextlib.suppress(NetlinkError):
            if ip.route("get", dst=address)[0]["type"] == RTN_LOCAL:
                break
        time.sleep(0.001)


def _use_congestion(ip: IPRoute, index: int, name: str) -> None:
    """Choose it for the namespace, or for the routes to our TCP.

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
        route = {"oif": index, "proto": "kernel", "metrics": {"cc_algo": name}}
        four = {"dst": f"{NETWORK}/{PREFIX}", "prefsrc": KERNEL_ADDRESS, "scope": "link"}
        ip.route("replace", **route, **four)
        with contextlib.suppress(NetlinkError):
            ip.route("replace", **route, dst=f"{NETWORK6}/{PREFIX6}", priority=256)


def _tune(name: str, value: str) -> None:
    # A container may see /proc/sys read-only, a kernel may lack IPv6: it works without, less well.
    with contextlib.suppress(OSError):
        _sysctl(name, value)


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name).write_text(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
