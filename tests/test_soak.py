"""Our TCP against the kernel's, as client and as server, over a grid of bad networks.

Every octet arrives, in both directions at once, and the kernel has counted no protocol error, and
exactly as many bad checksums as packets were damaged on the way to it. `make test` takes a sample
of the grid, `make soak` (NBTCP_SOAK=1) all of it, with a table at the end.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from math import sqrt
from typing import Any, NamedTuple

import pytest

import nbtcp
from nbtcp.inside import content
from nbtcp.links.namespace import KERNEL_ADDRESS6
from nbtcp.wire.ip import WireError, pack_address
from nbtcp.wire.segment import parse

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(90)]
SOAK = bool(os.environ.get("NBTCP_SOAK"))
PORT = 7000
PATIENCE = 60  # seconds for one point of the grid


class Point(NamedTuple):
    """One network and one way to use it. Units as in nbtcp.Path."""

    loss: float
    delay: float
    reorder: float
    duplicate: float
    corrupt: float
    rate: float | None
    queue: int | None
    role: str  # ours
    mtu: int = 1500
    recovery: str = "rack"
    kernel: str = "reno"  # the kernel's congestion control
    timestamps: bool = True
    congestion: str = "cubic"  # ours
    family: int = 4  # of IP

    @property
    def path(self) -> nbtcp.Path:
        settings = self._asdict()
        for name in Point._fields[Point._fields.index("role") :]:
            del settings[name]
        return nbtcp.Path(**settings, seed=1)

    @property
    def octets(self) -> int:
        """What can be carried in about a second: RFC 5348's simple formula (Mathis et al. 1997)."""
        lost = self.loss + self.corrupt + 0.001
        speed = self.mtu / (2 * self.delay + 0.002) * sqrt(1.5 / lost)
        return round(min(max(min(speed, (self.rate or 1e9) / 8), 20_000), 300_000))

    def __str__(self) -> str:
        return "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self)


def grid() -> list[Point]:
    """All combinations, and the settings that take turns in them."""
    points = itertools.product(
        (0.0, 0.01, 0.05),  # loss
        (0.0, 0.01, 0.05),  # delay
        (0.0, 0.05),  # reorder
        (0.0, 0.02),  # duplicate
        (0.0, 0.01),  # corrupt
        ((None, None), (10e6, 100), (10e6, 10)),  # rate, queue
        ("client", "server"),
    )
    turns = zip(
        itertools.cycle((1500, 576, 9000, 1500, 1280)),
        itertools.cycle(("rack", "sack", "rack", "newreno", "reno", "rack", "tahoe")),
        itertools.cycle(("reno",) * 8 + ("cubic",) * 8 + ("bbr",) * 8 + ("reno",)),
        itertools.cycle((True,) * 10 + (False,)),
        itertools.cycle(("cubic",) * 5 + ("reno",) * 4 + ("bbr",) * 4),
        itertools.cycle((4,) * 9 + (6,) * 8),
        strict=False,
    )
    return [
        Point(*first, *link, role, mtu, *turn, family if mtu >= 1280 else 4)
        for (*first, link, role), (mtu, *turn, family) in zip(points, turns, strict=False)
    ]


GRID = grid()
SAMPLE = [
    Point(0.0, 0.0, 0.0, 0.0, 0.0, None, None, "client"),
    Point(0.0, 0.01, 0.0, 0.0, 0.0, None, None, "server", mtu=9000),
    Point(0.05, 0.01, 0.0, 0.0, 0.0, None, None, "client"),
    Point(0.05, 0.01, 0.0, 0.0, 0.0, None, None, "server", recovery="sack", congestion="bbr"),
    Point(0.0, 0.01, 0.1, 0.0, 0.0, None, None, "client"),
    Point(0.0, 0.01, 0.0, 0.05, 0.0, None, None, "server", mtu=576),
    Point(0.0, 0.01, 0.0, 0.0, 0.02, None, None, "client"),
    Point(0.0, 0.01, 0.0, 0.0, 0.02, None, None, "server", family=6),
    Point(0.0, 0.01, 0.0, 0.0, 0.0, 10e6, 10, "server", recovery="newreno"),
    Point(0.01, 0.01, 0.05, 0.02, 0.0, 10e6, 100, "client", timestamps=False),
    Point(0.02, 0.01, 0.05, 0.02, 0.01, None, None, "server"),
    Point(0.02, 0.01, 0.05, 0.02, 0.01, 10e6, 10, "client", kernel="cubic", family=6),
    Point(0.02, 0.01, 0.0, 0.0, 0.0, None, None, "client", recovery="tahoe", kernel="cubic"),
]

# The kernel's side: sends what it reads from stdin, reads all that comes, tells how much and what.
PROGRAM = """
import hashlib, json, socket, sys, threading
role, address, port, octets = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sending = sys.stdin.buffer.read(octets)
if role == "server":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    print("ready", flush=True)
    sock, _ = listener.accept()
else:
    sock = socket.create_connection((address, port), 60)
sock.settimeout(60)
def send():
    sock.sendall(sending)
    sock.shutdown(socket.SHUT_WR)
thread = threading.Thread(target=send)
thread.start()
digest, count = hashlib.sha256(), 0
while data := sock.recv(65536):
    digest.update(data)
    count += len(data)
thread.join()
sock.close()
print(json.dumps([count, digest.hexdigest()]), flush=True)
"""


class Inspected:
    """A link that counts what the kernel must make of the damaged packets we give it."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self.expected: Counter[str] = Counter()

    def send(self, packets: list[bytes], now: int) -> None:
        for packet in packets:
            try:
                parse(packet)
            except WireError as problem:
                self.expected[_what_linux_counts(packet, str(problem))] += 1
        self._link.send(packets, now)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


def _what_linux_counts(packet: bytes, problem: str) -> str:
    """net/ipv4/ip_input.c, net/ipv6/ip6_input.c, net/ipv4/tcp_ipv4.c: what is looked at first."""
    if packet[0] >> 4 == 6:
        return _what_linux_counts_of_ipv6(packet)
    if packet[0] >> 4 != 4:
        return "not IP"
    if sum(int.from_bytes(packet[i : i + 2], "big") for i in range(0, 20, 2)) % 65535:
        return "InHdrErrors"
    return _what_linux_counts_of_tcp(packet[20:])


def _what_linux_counts_of_ipv6(packet: bytes) -> str:
    """There is no checksum of the header: what is damaged there may be counted anywhere."""
    length, following = int.from_bytes(packet[4:6], "big"), packet[6]
    elsewhere = packet[24:40] != pack_address(KERNEL_ADDRESS6) or packet[8] == 0xFF
    if length > len(packet) - 40 or following != 6 or elsewhere:
        return "nothing"
    return _what_linux_counts_of_tcp(packet[40 : 40 + length])


def _what_linux_counts_of_tcp(segment: bytes) -> str:
    header = segment[12] >> 4 if len(segment) >= 20 else 99
    if header < 5:
        return "InErrs"
    return "nothing" if 4 * header > len(segment) else "InCsumErrors"


def exchange(lab: nbtcp.Lab, point: Point) -> tuple[Any, list[Any]]:
    """Send and receive at once; our connection, and [octets, SHA-256] as the kernel got them."""
    kernels = "server" if point.role == "client" else "client"
    theirs = lab.kernel_address if point.family == 4 else lab.kernel_address6
    ours = lab.stack.addresses[point.family == 6]
    address = theirs if kernels == "server" else ours
    listener = lab.listen(PORT) if kernels == "client" else None
    argv = [sys.executable, "-c", PROGRAM, kernels, address, str(PORT), str(point.octets)]
    with lab.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"".join(content(point.octets)))
        program.stdin.close()
        if listener is None:
            assert program.stdout.readline() == b"ready\n"
            sock = lab.connect((theirs, PORT), PATIENCE)
        else:
            listener.settimeout(PATIENCE)
            sock, _ = listener.accept()
        try:
            received = _talk(sock, point.octets)
            arrived = json.loads(program.stdout.readline())
        except BaseException:
            program.kill()
            raise
    assert received == [point.octets, sha256_of(point.octets)]
    return sock.connection, arrived


def _talk(sock: Any, octets: int) -> list[Any]:
    sock.settimeout(PATIENCE)

    def send() -> None:
        for piece in content(octets):
            sock.sendall(piece)
        sock.shutdown(1)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    digest, count = hashlib.sha256(), 0
    while data := sock.recv(65536):
        digest.update(data)
        count += len(data)
    thread.join(PATIENCE)
    sock.close()
    return [count, digest.hexdigest()]


def sha256_of(octets: int) -> str:
    return hashlib.sha256(b"".join(content(octets))).hexdigest()


def wait_for_quiet(lab: nbtcp.Lab) -> None:
    """Until no packet is on its way to the kernel."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with lab.loop.lock:
            if lab._link is not None and lab._link.deadline() is None:
                return
        time.sleep(0.01)


RESULTS: dict[Point, str] = {}


@pytest.mark.parametrize("point", GRID if SOAK else SAMPLE, ids=str)
def test_every_octet_arrives_both_ways_and_the_kernel_sees_no_error(point: Point) -> None:
    began = time.monotonic()
    RESULTS[point] = "failed"
    names = ("recovery", "timestamps", "congestion")
    config = nbtcp.Config(time_wait=0.5, **{name: getattr(point, name) for name in names})
    with nbtcp.Lab(
        point.path, mtu=point.mtu, kernel_congestion=point.kernel, config=config, seed=1
    ) as lab:
        lab._link._link = link = Inspected(lab._link._link)  # type: ignore[union-attr]
        conn, theirs = exchange(lab, point)
        wait_for_quiet(lab)
        counters = lab.counters()
        expected = link.expected
        assert conn.error is None
    assert theirs == [point.octets, sha256_of(point.octets)]
    assert_no_protocol_error(counters, expected, point)
    seconds = time.monotonic() - began
    again = counters["Tcp"]["RetransSegs"]
    RESULTS[point] = f"{point.octets:7} octets each way {seconds:5.1f} s, kernel resent {again}"


def assert_no_protocol_error(
    counters: dict[str, dict[str, int]], expected: Counter[str], point: Point
) -> None:
    tcp, extended = counters["Tcp"], counters["TcpExt"]
    assert tcp["InCsumErrors"] == expected["InCsumErrors"]
    assert tcp["InErrs"] == expected["InCsumErrors"] + expected["InErrs"]
    assert counters["Ip"]["InHdrErrors"] == expected["InHdrErrors"]
    assert bool(expected) <= bool(point.corrupt)
    assert (tcp["AttemptFails"], tcp["EstabResets"]) == (0, 0)
    calm = not (point.duplicate or point.reorder or point.loss or point.corrupt)
    if calm and point.queue is None:  # else something may come after the connection's end
        assert tcp["OutRsts"] == 0
    errors = {name: extended[name] for name in extended if name.startswith("TCPAbort")}
    for name in ("TCPSACKReneging", "EmbryonicRsts", "ListenDrops"):
        errors[name] = extended.get(name, 0)
    # A D-SACK for what the network, and not the kernel, has sent twice is "dubious" to it, and then
    # discarded as a SACK below SND.UNA.
    dubious = extended.get("TCPDSACKIgnoredDubious", 0)
    errors["TCPSACKDiscard"] = max(0, extended["TCPSACKDiscard"] - dubious)
    assert not any(errors.values()), {name: count for name, count in errors.items() if count}


def test_marks_take_the_place_of_losses_both_ways() -> None:
    """RFC 3168: routers mark, both sides slow down and say so, and nothing has to be sent twice."""
    path = nbtcp.Path(delay=0.01, rate=10e6, queue=200, mark=15)
    point = Point(0.0, 0.01, 0.0, 0.0, 0.0, 10e6, 200, "client")
    with nbtcp.Lab(path, config=nbtcp.Config(ecn="ask", time_wait=0.5), seed=1) as lab:
        conn, theirs = exchange(lab, point)
        counters = lab.counters()
    assert theirs == [point.octets, sha256_of(point.octets)]
    table, events = lab.log.segments, lab.log.events
    assert conn.tcb.ecn
    assert counters["IpExt"]["InCEPkts"] > 0
    assert (events["why"] == "congestion-mark").any()
    for event in ("send", "recv"):
        flags = table[(table["event"] == event) & ~table["flags"].str.contains("S")]["flags"]
        assert flags.str.contains("E").any(), "marks are reported"
        assert flags.str.contains("C").any(), "and the report is answered"
    assert not (table["event"] == "drop").any()
    assert counters["Tcp"]["RetransSegs"] == 0
    assert_no_protocol_error(counters, Counter(), point)


@pytest.mark.skipif(not SOAK, reason="make soak prints the table")
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a test: what came of each point."""
    names = [*Point._fields]
    with capsys.disabled():
        print("\n" + " ".join(f"{name:>10}" for name in names))
        for point, result in RESULTS.items():
            cells = ["" if value is None else f"{value}" for value in point]
            print(" ".join(f"{cell:>10}" for cell in cells), " ", result)
        failed = sum(result == "failed" for result in RESULTS.values())
        print(f"{len(RESULTS)} points, {failed} failed")
