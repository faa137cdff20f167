"""Our TCP against the kernel's, in the lab: every octet arrives, and nothing looks wrong there."""

import errno
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as File

import pytest
from sniffer import captured

import nbtcp
from nbtcp.inside import content

pytestmark = pytest.mark.root
ROOT = File(__file__).parent.parent
PATIENCE = 60.0  # s for what happens soon, unless the machine is very busy
ROUGH = nbtcp.Path(delay=0.02, loss=0.02, queue=64, seed=1)


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab(seed=1) as lab:
        yield lab
        assert_kernel_content(lab)


def assert_kernel_content(lab: nbtcp.Lab) -> None:
    """The kernel saw no bad segment and no bad checksum."""
    counters = lab.counters()["Tcp"]
    assert counters["InErrs"] == 0
    assert counters["InCsumErrors"] == 0


def sha256_of(octets: int) -> str:
    digest = hashlib.sha256()
    for part in content(octets):
        digest.update(part)
    return digest.hexdigest()


def post(lab: nbtcp.Lab, path: str, body: bytes, log: nbtcp.EventLog) -> bytes:
    """The answer's body to a POST, by hand, so that nothing but our sockets is between."""
    head = f"POST {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {len(body)}"
    with lab.connect((lab.kernel_address, 80), 10, log=log) as sock:
        sock.settimeout(60)
        sock.sendall(head.encode() + b"\r\n\r\n")
        sock.sendall(body)
        with sock.makefile("rb") as file:
            answer: bytes = file.read()
    return answer.partition(b"\r\n\r\n")[2]


# --- fetching and sending ---


@pytest.mark.parametrize("octets", [0, 1, 1448, 1449, 65_536, 3_000_000])
def test_a_fetch_brings_every_octet(lab: nbtcp.Lab, octets: int) -> None:
    page = lab.fetch(f"/bytes/{octets}")
    assert page.status == 200
    assert len(page.content) == octets
    assert hashlib.sha256(page.content).hexdigest() == sha256_of(octets)


@pytest.mark.timeout(600)
def test_ten_megabytes_each_way_over_a_rough_path() -> None:
    def fetch() -> tuple[str, nbtcp.EventLog]:
        with nbtcp.Lab(ROUGH) as lab:
            page = lab.fetch("/bytes/10000000")
            assert_kernel_content(lab)
            return hashlib.sha256(page.content).hexdigest(), page.log

    def send() -> tuple[str, nbtcp.EventLog]:
        with nbtcp.Lab(ROUGH) as lab:
            log = lab.new_log()
            answer = json.loads(post(lab, "/sink", b"".join(content(10_000_000)), log))
            assert_kernel_content(lab)
            assert answer["bytes"] == 10_000_000
            return answer["sha256"], log

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(fetch), pool.submit(send)]
        (fetched, down), (sent, up) = (job.result() for job in jobs)
    assert fetched == sent == sha256_of(10_000_000)
    for log in (down, up):
        losses = (log.segments["why"] == "loss").sum()
        assert 60 < losses < 400, "2 % of some 10,000 segments"
    causes = set(up.segments["why"])
    assert "rack" in causes


def test_both_directions_at_once(lab: nbtcp.Lab) -> None:
    body = b"".join(content(2_000_000))
    assert post(lab, "/echo", body, lab.new_log()) == body


def test_fifty_connections_at_once() -> None:
    with nbtcp.Lab(nbtcp.Path(delay=0.005, loss=0.005, rate=50e6, queue=200, seed=2)) as lab:
        with ThreadPoolExecutor(50) as pool:
            pages = list(pool.map(lab.fetch, [f"/bytes/{30_000 + i}" for i in range(50)]))
        assert all(lab.settle(page.log, PATIENCE) for page in pages)
        assert [len(page.content) for page in pages] == [30_000 + i for i in range(50)]
        assert len({page.log.connections["local_port"][0] for page in pages}) == 50
        assert all(page.log.connections["end"][0] == "FIN" for page in pages)
        assert_kernel_content(lab)


def test_one_connection_after_another(lab: nbtcp.Lab) -> None:
    for i in range(100):
        assert len(lab.fetch(f"/bytes/{i}").content) == i


def test_the_kernel_is_the_client() -> None:
    with nbtcp.Lab(nbtcp.Path(delay=0.002, loss=0.01, seed=3)) as lab:
        listener = lab.listen(8080)
        body = b"".join(content(500_000))
        threading.Thread(target=_serve_once, args=(listener, body), daemon=True).start()
        program = ["curl", "-s", "-o", "-", f"http://{lab.address}:8080/"]
        done = lab.run(program, capture_output=True, timeout=PATIENCE)
        assert done.returncode == 0
        assert done.stdout == body
        assert_kernel_content(lab)


def _serve_once(listener: "nbtcp.runtime.sockets.Socket", body: bytes) -> None:
    conn, peer = listener.accept()
    assert peer[0] == "10.0.0.1"
    with conn:
        while b"\r\n\r\n" not in conn.recv(4096):
            pass
        conn.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        conn.sendall(body)


@pytest.mark.parametrize("congestion", ["reno", "cubic", "bbr"])
def test_the_kernels_congestion_control_can_be_chosen(congestion: str) -> None:
    try:
        lab = nbtcp.Lab(kernel_congestion=congestion)
    except nbtcp.MachineError as problem:
        pytest.skip(str(problem))
    with lab:
        assert len(lab.fetch("/bytes/200000").content) == 200_000


def test_a_small_mtu_gives_small_segments() -> None:
    """RFC 9293 MUST-67."""
    with nbtcp.Lab(mtu=576) as lab:
        page = lab.fetch("/bytes/50000")
        assert page.log.segments["len"].max() == 576 - 52
        assert page.log.segments.query("event == 'send'")["mss"].max() == 576 - 40
        assert len(page.content) == 50_000


def test_both_codecs_say_the_same_to_the_kernel() -> None:
    """SYN, request and FIN, and what came; times and ACKs depend on the machine.

    test_simulation.py compares the whole log, byte for byte.
    """

    def conversation(codec: str) -> tuple[list[tuple[object, ...]], int]:
        # No probe and no timeout of ours, however busy this machine is.
        config = nbtcp.Config(codec=codec, timestamps=False, recovery="newreno", min_rto=5)
        with nbtcp.Lab(config=config, seed=7) as lab:
            page = lab.fetch("/bytes/20000")
        table = page.log.segments
        ours = table[(table["event"] == "send") & (table["len"] + (table["flags"] != "A") > 0)]
        columns = ["flags", "seq", "len", "mss", "wscale"]
        received = table[table["event"] == "recv"]
        end = int((received["seq"] + received["len"]).max())
        return [tuple(row) for row in ours[columns].astype(object).fillna(-1).values], end

    mine, scapys = conversation("struct"), conversation("scapy")
    assert mine[1] == scapys[1]
    assert len(mine[0]) == 3
    assert mine[0] == scapys[0]


# --- bad input and bad ends ---


def test_a_host_that_does_not_answer_says_how_many_syns() -> None:
    with nbtcp.Lab(nbtcp.Path(loss=1.0)) as lab:
        said = r"no answer from 10\.0\.0\.1 port 80: 2 SYNs sent in [2-9]\.\d s"
        with pytest.raises(TimeoutError, match=said):
            lab.connect((lab.kernel_address, 80), timeout=2)


def test_a_refused_port(lab: nbtcp.Lab) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        lab.connect((lab.kernel_address, 81), timeout=5)
    assert caught.value.errno == errno.ECONNREFUSED
    assert "10.0.0.1 port 81" in str(caught.value)


RESETTER = """
import socket, struct
s = socket.create_server(("10.0.0.1", 7000))
print("ready", flush=True)
c, _ = s.accept()
c.recv(10)
c.sendall(b"x" * 5000)
c.recv(10)
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
c.close()
"""


def test_a_reset_leaves_what_had_arrived_readable(lab: nbtcp.Lab) -> None:
    program = [sys.executable, "-c", RESETTER]
    with lab.popen(program, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        log = lab.new_log()
        with lab.connect(("10.0.0.1", 7000), 5, log=log) as sock:
            sock.sendall(b"go")
            conn = sock.connection
            assert conn is not None
            _wait_until(lambda: conn.reassembly.size == 5000)
            sock.sendall(b"on")
            _wait_until(lambda: conn.error is not None)
            got = b""
            with pytest.raises(ConnectionResetError):
                while data := sock.recv(1000):
                    got += data
    assert got == b"x" * 5000
    assert log.connections["end"].tolist() == ["RST"]
    assert log.segments["why"].iloc[-1] == "rst"


CUT_SHORT = """
import socket, struct, time
s = socket.create_server(("10.0.0.1", 7001))
print("ready", flush=True)
c, _ = s.accept()
c.recv(1000)
c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100000\\r\\n\\r\\n" + b"y" * 3000)
time.sleep(0.2)
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
c.close()
"""


def test_a_fetch_that_is_reset_keeps_its_log_and_what_came(lab: nbtcp.Lab) -> None:
    from nbtcp.runtime.http import get

    with lab.popen([sys.executable, "-c", CUT_SHORT], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(ConnectionResetError) as caught:
            get(lab, "http://10.0.0.1:7001/", log=lab.new_log())
    page = caught.value.page  # type: ignore[attr-defined]
    assert page.content == b"y" * 3000
    assert page.log.connections["end"].tolist() == ["RST"]


def test_a_timeout_while_reading(lab: nbtcp.Lab) -> None:
    with pytest.raises(TimeoutError, match=r"timed out after 0\.5 s"):
        lab.fetch("/slow?seconds=60", timeout=0.5)


def _wait_until(condition: "object", seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


# --- idle hosts are minded ---


def test_an_idle_connection_answers_in_the_background(lab: nbtcp.Lab) -> None:
    """Nobody reads; the data and the FIN that come are acknowledged all the same."""
    log = lab.new_log()
    with lab.connect((lab.kernel_address, 80), 5, log=log) as sock:
        sock.sendall(b"GET /bytes/1000 HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
        conn = sock.connection
        assert conn is not None
        _wait_until(lambda: conn.tcb.rcv.fin is not None)
        _wait_until(lambda: not conn.queue.spans)
        with lab.loop.lock:  # what has come is acknowledged before the lock is let go
            table = log.segments
        fins = table[table["flags"].str.contains("F")]
        assert fins["seq"].nunique() == 1  # on a busy machine the kernel may repeat it
        acks = table[(table["event"] == "send") & (table["ack"] > fins["seq"].max())]
        assert acks["time"].min() - fins["time"].min() < 0.2
        assert len(sock.recv(65536)) > 1000


# --- windows that close ---

NEVER_READS = """
import socket, time
s = socket.create_server(("10.0.0.1", 7002))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
print("ready", flush=True)
c, _ = s.accept()
c.sendall(bytes(1000000))
time.sleep(300)
"""


def test_a_closed_window_does_not_keep_the_other_direction_from_flowing(lab: nbtcp.Lab) -> None:
    """RFC 9293 A.2: while we probe its window the kernel must hear our acknowledgments."""
    with lab.popen([sys.executable, "-c", NEVER_READS], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        settings = {"receive_buffer": 20_000, "autotune": False}
        with lab.connect(("10.0.0.1", 7002), 5, **settings) as sock:
            sock.sendall(bytes(400_000))  # into the send buffer, most of it
            conn = sock.connection
            assert conn is not None
            snd, rcv = conn.tcb.snd, conn.tcb.rcv
            _wait_until(lambda: snd.wnd == 0 and snd.nxt > snd.una and rcv.wnd == 0)
            sock.settimeout(PATIENCE)
            got = 0
            while got < 300_000:
                got += len(sock.recv(65536))
        server.kill()


# --- what others see ---


def test_tshark_finds_nothing_malformed(tmp_path: File) -> None:
    """A capture on the kernel's side of the TUN device, checksums validated."""
    capture = tmp_path / "lab.pcap"
    with nbtcp.Lab(nbtcp.Path(delay=0.005, loss=0.02, seed=4)) as lab:
        with captured(lab, capture, "pcap"):
            lab.fetch("/bytes/200000")
            post(lab, "/sink", bytes(200_000), lab.new_log())
        assert_kernel_content(lab)
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    assert len(_tshark(capture, *checks, "tcp.len > 0 && ip.src == 10.0.0.2")) > 130
    bad = "_ws.malformed || tcp.checksum.status == 0 || ip.checksum.status == 0"
    ours = f"ip.src == 10.0.0.2 && ({bad} || tcp.options.unknown)"
    assert _tshark(capture, *checks, ours) == []
    assert _tshark(capture, *checks, "_ws.malformed") == []


def _tshark(capture: File, *arguments: str) -> list[str]:
    *options, condition = arguments
    program = ["tshark", "-r", str(capture), *options, "-Y", condition]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


# --- nothing stays ---


def test_a_killed_process_leaves_nothing_behind() -> None:
    program = (
        "import nbtcp, time\n"
        "lab = nbtcp.Lab()\n"
        "lab.popen(['sleep', '300'])\n"
        "lab.fetch('/bytes/1000')\n"
        "print(lab.namespace.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    before = _machine()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as own:
        assert own.stdout is not None
        inside = int(own.stdout.readline())
        children = _descendants(own.pid)
        assert inside in children
        own.kill()
    _wait_until(lambda: not any(_alive(pid) for pid in children))
    assert _machine() == before


def _machine() -> str:
    commands = (["link"], ["addr"], ["route"], ["rule"], ["netns"])
    text = "".join(
        subprocess.run(["ip", "-o", *words], capture_output=True, text=True, check=True).stdout
        for words in commands
    )
    return re.sub("[0-9]+sec", "sec", text)  # lifetimes count down


def _descendants(pid: int) -> list[int]:
    found = []
    for task in File(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in File(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_fin_is_in_the_log_of_a_fetch(lab: nbtcp.Lab) -> None:
    table = lab.fetch("/bytes/100").log.segments
    fins = table[table["flags"].str.contains("F")]
    assert sorted(fins["event"]) == ["recv", "send"]


# --- IPv6 ---

IPV6 = pytest.mark.skipif(not File("/proc/net/if_inet6").exists(), reason="needs IPv6")


@IPV6
@pytest.mark.parametrize("octets", [0, 1, 1428, 1429, 1_000_000])
def test_a_fetch_over_ipv6_brings_every_octet(lab: nbtcp.Lab, octets: int) -> None:
    page = lab.fetch(f"/bytes/{octets}", family=6)
    assert page.url == f"http://[{lab.kernel_address6}]/bytes/{octets}"
    assert hashlib.sha256(page.content).hexdigest() == sha256_of(octets)
    ends = page.log.connections.iloc[0]
    assert (ends.local, ends.remote) == ("fd00:6e62::2", "fd00:6e62::1")
    syn = page.log.segments.iloc[0]
    assert (syn["flags"], syn["mss"]) == ("S", 1440)
    if octets > 1428:
        assert page.log.segments.len.max() == 1428  # 1500 octets with both headers


@IPV6
@pytest.mark.slow
def test_a_megabyte_each_way_over_ipv6_and_a_rough_path() -> None:
    with nbtcp.Lab(ROUGH) as lab:
        page = lab.fetch("/bytes/1000000", family=6)
        assert hashlib.sha256(page.content).hexdigest() == sha256_of(1_000_000)
        log = lab.new_log()
        body = b"".join(content(1_000_000))
        head = f"POST /sink HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n"
        with lab.connect((lab.kernel_address6, 80), 10, log=log) as sock:
            sock.settimeout(60)
            sock.sendall(head.encode() + body)
            answer = sock.recv(1 << 16)
        assert b'"bytes": 1000000' in answer
        assert set(log.segments.event) == {"send", "recv", "drop"}
        assert_kernel_content(lab)


@IPV6
def test_the_kernel_connects_to_us_over_both_families(lab: nbtcp.Lab) -> None:
    program = "import socket, sys; s = socket.create_connection((sys.argv[1], 7)); s.sendall(b'x')"
    with lab.listen(7) as server:
        server.settimeout(PATIENCE)
        for address in lab.stack.addresses:
            client = lab.popen([sys.executable, "-c", program, address])
            sock, peer = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                assert sock.recv(9) == b"x"
                assert sock.getsockname()[:2] == (address, 7)
                assert (":" in peer[0]) == (":" in address)
            assert client.wait(PATIENCE) == 0


@IPV6
def test_a_closed_port_refuses_over_ipv6(lab: nbtcp.Lab) -> None:
    with pytest.raises(ConnectionRefusedError, match="refused by fd00:6e62::1 port 9"):
        lab.connect((lab.kernel_address6, 9), 5)


def test_an_mtu_below_1280_has_no_ipv6() -> None:
    """RFC 8200 5."""
    with nbtcp.Lab(mtu=1000) as lab:
        assert lab.stack.addresses == ("10.0.0.2",)
        with pytest.raises(OSError, match=r"this host has only 10\.0\.0\.2$") as caught:
            lab.fetch("/", family=6)
        assert caught.value.errno == errno.EAFNOSUPPORT


def test_there_is_no_other_family(lab: nbtcp.Lab) -> None:
    with pytest.raises(ValueError, match="family=5 must be 4 for IPv4 or 6 for IPv6"):
        lab.fetch("/", family=5)
