"""The private network: what it offers, what it refuses, and that nothing of it stays."""

import gc
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyroute2
import pytest

from nbtcp import inside
from nbtcp.errors import MachineError, NbtcpError
from nbtcp.links import namespace as module
from nbtcp.links import tun as tun_module
from nbtcp.links.namespace import KERNEL_ADDRESS6, OUR_ADDRESS6, Namespace, diagnose, parse_counters
from nbtcp.links.tun import Tun

ROOT = Path(__file__).parent.parent
NOBODY = 65534
DEVICE = Path("/dev/net/tun")
PATIENCE = 60.0  # s for what happens at once, unless the machine is very busy

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.access(DEVICE, os.R_OK | os.W_OK),
        reason="needs root and /dev/net/tun",
    ),
]


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    with Namespace() as network:
        yield network


def output(network: Namespace, *argv: str, **kwargs: Any) -> bytes:
    """What a program inside prints."""
    done = network.run(argv, capture_output=True, timeout=PATIENCE, check=True, **kwargs)
    assert isinstance(done.stdout, bytes)
    return done.stdout


def started(network: Namespace) -> subprocess.Popen[bytes]:
    """A program that runs inside, for long."""
    program = network.popen(["sh", "-c", "echo; exec sleep 300"], stdout=subprocess.PIPE)
    with program.stdout as line:  # type: ignore[union-attr]
        assert line.read(1) == b"\n"
    return program


def python(
    code: str, *before: str, interpreter: str = sys.executable, **kwargs: Any
) -> subprocess.Popen[str]:
    """Start Python code outside, with nbtcp on its path, perhaps by way of another program."""
    # pyroute2, for an interpreter other than ours, which need not have it.
    places = f"{ROOT}:{Path(pyroute2.__file__).parent.parent}"
    environment = {**os.environ, "PYTHONPATH": places, "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [*before, interpreter, "-c", code],
        env=environment,
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def has_ended(watch: int, seconds: float = PATIENCE) -> bool:
    """Whether the process of this pidfd ends in time. Closes it."""
    with os.fdopen(watch):
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def packets(network: Namespace, seconds: float = PATIENCE) -> list[bytes]:
    """The next packets that come out of the network."""
    assert select.select([network.tun], [], [], seconds)[0], "no packet came out"
    return network.tun.receive(0)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "; " in text, "an error says what helps"
    return text


# ---- the web site, by real programs inside


CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@CURL
def test_curl_fetches_exactly_the_content(network: Namespace) -> None:
    body = output(network, "curl", "-sf", "http://10.0.0.1/bytes/3000000")
    expected = hashlib.sha256(b"".join(inside.content(3_000_000))).digest()
    assert hashlib.sha256(body).digest() == expected


@CURL
def test_curl_posts(network: Namespace) -> None:
    body = bytes(range(256)) * 1000
    chunked = ("-H", "Transfer-Encoding: chunked")
    for more in ((), chunked):
        post = ("curl", "-sf", *more, "--data-binary", "@-")
        assert output(network, *post, "http://10.0.0.1/echo", input=body) == body
        answer = json.loads(output(network, *post, "http://10.0.0.1/sink", input=body))
        assert answer == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@CURL
@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/x", 404), ("/bytes/-1", 400)])
def test_curl_sees_the_status(network: Namespace, path: str, status: int) -> None:
    got = output(
        network, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://10.0.0.1" + path
    )
    assert int(got) == status


def test_python_keeps_one_connection(network: Namespace) -> None:
    code = """if True:
        import http.client
        web = http.client.HTTPConnection("10.0.0.1", timeout=60)
        web.connect(); first = web.sock
        for path in ("/bytes/5", "/nowhere", "/slow?seconds=0.05", "/"):
            web.request("GET", path); answer = web.getresponse()
            print(answer.status, len(answer.read()))
        web.request("HEAD", "/bytes/7"); answer = web.getresponse()
        print(answer.status, answer.headers["Content-Length"], answer.read())
        assert web.sock is first
    """
    lines = output(network, sys.executable, "-c", code).decode().splitlines()
    assert lines[:3] == ["200 5", "404 42", "200 13"]
    assert lines[4] == "200 7 b''"


def test_the_site_is_on_that_address_only(network: Namespace) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 80), timeout=5)"
    done = network.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "ConnectionRefusedError" in done.stderr


# ---- the link


PING = """if True:
    import socket, struct, sys
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(60)
    sock.connect(("10.0.0.2", 0))
    sock.send(struct.pack("!BBHHH", 8, 0, 0xffff ^ (0x800 + 77 + 1), 77, 1))
    assert sock.recv(100)[20:] == struct.pack("!BBHHH", 0, 0, 0xffff ^ (77 + 1), 77, 1)
"""


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([sys.executable, "-c", PING], id="raw socket"),
        pytest.param(
            ["ping", "-c1", "-W60", "10.0.0.2"],
            id="ping",
            marks=pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping"),
        ),
    ],
)
def test_a_ping_goes_out_and_its_answer_comes_in(network: Namespace, argv: list[str]) -> None:
    from scapy.layers.inet import ICMP, IP

    program = network.popen(argv, stdout=subprocess.DEVNULL)
    (packet,) = packets(network)
    request = IP(packet)
    assert (request.src, request.dst) == (network.kernel_address, network.our_address)
    assert request[ICMP].type == 8
    before = network.counters()["Icmp"]
    answer = ICMP(type=0, id=request[ICMP].id, seq=request[ICMP].seq) / request[ICMP].payload
    network.tun.send([bytes(IP(src=request.dst, dst=request.src) / answer)], 0)
    assert program.wait(PATIENCE) == 0
    after = network.counters()["Icmp"]
    assert after["InEchoReps"] - before["InEchoReps"] == 1
    assert after["InErrors"] == before["InErrors"]


def test_the_link_is_quiet_when_nobody_speaks(network: Namespace) -> None:
    assert network.tun.receive(0) == []
    assert network.tun.deadline() is None


@pytest.mark.slow
def test_the_kernel_says_nothing_unasked() -> None:
    """No router solicitations, no multicast reports, no search for duplicates of its address."""
    with Namespace() as network:
        assert not select.select([network.tun], [], [], 1.5)[0], network.tun.receive(0)


IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")


@IPV6
@CURL
def test_the_site_is_on_ipv6_too(network: Namespace) -> None:
    body = output(network, "curl", "-gsf", f"http://[{KERNEL_ADDRESS6}]/bytes/9")
    assert body == inside.BLOCK[:9]


@IPV6
def test_the_kernel_answers_a_syn_over_ipv6_and_nothing_else_comes() -> None:
    from scapy.layers.inet import TCP
    from scapy.layers.inet6 import IPv6

    with Namespace() as network:
        syn = IPv6(src=OUR_ADDRESS6, dst=KERNEL_ADDRESS6) / TCP(sport=5000, dport=80, seq=7)
        network.tun.send([bytes(syn)], 0)
        for packet in packets(network):  # after a second it is repeated
            answer = IPv6(packet)
            assert (answer.src, answer.dst) == (KERNEL_ADDRESS6, OUR_ADDRESS6)
            assert (answer[TCP].flags, answer[TCP].ack) == ("SA", 8)


def test_a_small_mtu_is_for_ipv4_only() -> None:
    with Namespace(mtu=1279) as network:
        addresses = output(network, "cat", "/proc/net/if_inet6").decode()
        assert "tun0" not in addresses
        output(network, sys.executable, "-c", SEND, "1")
        assert len(packets(network)) == 1


SEND = """if True:
    import socket, sys
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 24)  # SO_SNDBUFFORCE
    for number in range(int(sys.argv[1])):
        sock.sendto(number.to_bytes(4, "big") + bytes(1000), ("10.0.0.2", 9))
"""


def test_the_queue_holds_what_is_not_read_yet(network: Namespace) -> None:
    count = 5000
    output(network, sys.executable, "-c", SEND, str(count))
    got = []
    while batch := network.tun.receive(0):
        assert len(batch) <= network.tun.batch
        got += batch
    assert [int.from_bytes(packet[28:32], "big") for packet in got] == list(range(count))


def test_what_the_kernel_refuses_is_dropped_and_counted(network: Namespace) -> None:
    before = network.tun.refused
    network.tun.send([b"\x00 is no IP packet", b"\xf0" * 100], 0)
    assert network.tun.refused - before == 2


def test_a_packet_that_is_wrong_is_counted_by_the_kernel(network: Namespace) -> None:
    from scapy.layers.inet import IP, TCP

    before = network.counters()["Tcp"]
    packet = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(dport=80, flags="S", chksum=1)
    network.tun.send([bytes(packet)], 0)
    after = network.counters()["Tcp"]
    assert after["InCsumErrors"] - before["InCsumErrors"] == 1
    assert network.tun.receive(0) == []


def test_mtu() -> None:
    with Namespace(mtu=9000) as network:
        output(network, sys.executable, "-c", SEND.replace("1000", "8968"), "1")
        (packet,) = packets(network)
        assert len(packet) == 9000
    for mtu in (67, 65536):
        with pytest.raises(ValueError, match="68 to 65535"):
            Namespace(mtu=mtu)


def test_tun_opens_and_names_a_device(network: Namespace) -> None:
    # In the network's own namespace, as nothing may appear in the machine's.
    code = """if True:
        import socket
        from nbtcp.links.tun import Tun
        from nbtcp.errors import NbtcpError
        tun = Tun.open("mine%d")
        assert tun.name == "mine0" and "mine0" in [name for _, name in socket.if_nameindex()]
        tun.send([b"E" + bytes(19)], 0)
        assert tun.refused == 1, "the device is down"
        try: Tun.open("mine0")
        except NbtcpError as error: print(error)
        assert tun.fileno() > 0
        tun.close(); tun.close()
        assert tun.fileno() == -1
        for use in (lambda: tun.receive(0), lambda: tun.send([b""], 0)):
            try: use()
            except NbtcpError as error: print(error)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines = output(network, sys.executable, "-c", code, env=environment).decode().splitlines()
    assert "in use by another program; choose another name" in lines[0]
    assert lines[1:] == ["the TUN device mine0 is gone: it was closed; open a new one"] * 2


# ---- programs inside


def test_run_gives_what_subprocess_run_gives(network: Namespace) -> None:
    script = 'read line; echo "$line $VALUE $(pwd)"; echo oh >&2; exit 3'
    done = network.run(
        ["sh", "-c", script],
        input="hello\n",
        capture_output=True,
        text=True,
        env={"VALUE": "5", "PATH": os.environ["PATH"]},
        cwd="/usr",
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello 5 /usr\n", "oh\n")
    with pytest.raises(subprocess.CalledProcessError):
        network.run(["false"], check=True)
    assert network.run([Path(shutil.which("true") or "")]).returncode == 0


def test_run_ends_the_program_when_its_time_is_over(network: Namespace) -> None:
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        # The program holds the pipe: killing only what we started would leave us reading it.
        network.run(["sleep", "60"], capture_output=True, timeout=0.05)
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_signals_are_for_the_program(network: Namespace, sent: signal.Signals) -> None:
    program = network.popen(["sleep", "60"])
    program.send_signal(sent)
    assert program.wait(PATIENCE) == -sent
    program.send_signal(sent)  # it has ended: no error


def test_a_program_may_handle_its_signal(network: Namespace) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    with network.popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.terminate()
        assert program.communicate(timeout=PATIENCE)[0] == "bye\n"
        assert program.returncode == 7


def test_a_program_sees_only_the_private_network(network: Namespace) -> None:
    code = "import socket, os; print([n for _, n in socket.if_nameindex()], os.getppid())"
    assert output(network, sys.executable, "-c", code) == b"['lo', 'tun0'] 0\n"
    assert output(network, "ls", "/proc/self/fd") == b"0\n1\n2\n3\n"  # 3 is ls's own


def test_a_missing_program_is_one_line(network: Namespace) -> None:
    for name in ("nginxx", "/usr/sbin/nginxx", "./nginxx"):
        with pytest.raises(MachineError, match="nginxx' cannot be started") as error:
            network.popen([name, "-t"])
        one_line(error.value)
    with pytest.raises(TypeError, match="shell="):
        network.popen(["true"], shell=True)


def test_orphans_are_reaped(network: Namespace) -> None:
    # The shell ends before its child, which then belongs to process 1.
    pid = int(output(network, "sh", "-c", "sleep 0.05 >&- & exec readlink /proc/self"))
    assert pid > 0
    children = Path(f"/proc/{network.pid}/task/{network.pid}/children")
    end = time.monotonic() + PATIENCE
    while children.read_text().split() and time.monotonic() < end:
        time.sleep(0.01)
    assert children.read_text().split() == []


# ---- counters and congestion control


def test_parse_counters() -> None:
    text = "Tcp: MaxConn InErrs\nTcp: -1 5\nUdp: InErrors\nUdp: 0\n"
    assert parse_counters(text) == {"Tcp": {"MaxConn": -1, "InErrs": 5}, "Udp": {"InErrors": 0}}
    assert parse_counters("") == {}


def test_counters_are_those_of_the_inside(network: Namespace) -> None:
    before = network.counters()
    output(
        network,
        sys.executable,
        "-c",
        "import socket; socket.create_connection(('10.0.0.1', 80), timeout=5).close()",
    )
    after = network.counters()
    assert after["Tcp"]["PassiveOpens"] - before["Tcp"]["PassiveOpens"] == 1
    assert "TCPLostRetransmit" in after["TcpExt"]


USED = """if True:
    import socket
    sock = socket.create_connection(("10.0.0.1", 80), timeout=5)
    print(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
"""


def available() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


@pytest.mark.parametrize("name", available())
def test_congestion_control_is_chosen(name: str) -> None:
    """Those that the machine does not allow for a namespace are chosen for the route."""
    with Namespace(congestion=name) as network:
        sysctl = output(network, "cat", "/proc/sys/net/ipv4/tcp_congestion_control").decode()
        for family in ("-4", "-6"):
            route = f"congctl {name}"
            if shutil.which("ip"):
                route = output(network, "ip", family, "route").decode()
            assert sysctl.strip() == name or f"congctl {name}" in route


def test_congestion_control_that_does_not_exist() -> None:
    with pytest.raises(MachineError) as error:
        Namespace(congestion="nonsense")
    text = one_line(error.value)
    assert "the kernel has no congestion control 'nonsense', only " in text
    assert all(name in text for name in available())


# ---- nothing stays


def outside() -> list[Any]:
    """Interfaces, addresses, routes, rules and named namespaces of this machine."""
    from pyroute2 import IPRoute

    with IPRoute() as routes:
        found: list[Any] = [
            [(link["index"], link.get("ifname"), link["flags"]) for link in routes.get_links()],
            [(a["index"], a.get("address"), a["prefixlen"]) for a in routes.get_addr()],
            [
                (r.get("dst"), r["dst_len"], r.get("oif"), r.get("table"))
                for r in routes.get_routes()
            ],
            [(r["table"], r.get("priority"), r.get("iifname")) for r in routes.get_rules()],
        ]
    names = Path("/run/netns")
    return [sorted(map(str, rows)) for rows in found] + [
        sorted(os.listdir(names)) if names.exists() else []
    ]


OWNER = """if True:
    import json, os, pathlib, signal, time
    from nbtcp.links.namespace import Namespace
    network = Namespace()
    sleep = network.popen(["sleep", "300"])
    children = pathlib.Path(f"/proc/{sleep.pid}/task/{sleep.pid}/children")
    while not children.read_text():
        time.sleep(0.001)
    pids = [network.pid, network._process.pid, sleep.pid, int(children.read_text())]
    print(json.dumps(pids), flush=True)
    input()
"""
FORK = """
    ready, tell = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.write(tell, b".")
        signal.pause()
    os.read(ready, 1)
    print(fork, flush=True)
    input()
"""


class Owner:
    """A program that has a network; with pidfds of all that belongs to it."""

    def __init__(self, then: str) -> None:
        """`then` is what it does when told to go on."""
        self.process = python(OWNER + then, stdin=subprocess.PIPE)
        self.watches: list[int] = []
        line = self.hear()
        assert line, self.process.communicate()[1]
        self.watches = [os.pidfd_open(pid) for pid in json.loads(line)]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def all_ended(self) -> bool:
        watches, self.watches = self.watches, []
        return all([has_ended(watch) for watch in watches])

    def close(self) -> None:
        for watch in self.watches:
            os.close(watch)
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.slow
def test_nothing_stays_when_the_owner_is_killed(sent: signal.Signals) -> None:
    before = outside()
    with closing(Owner("")) as owner:
        assert outside() == before
        owner.process.send_signal(sent)
        owner.process.wait(PATIENCE)
        assert owner.all_ended()
    assert outside() == before


@pytest.mark.parametrize(
    "end",
    [
        "",
        "    raise SystemExit(0)",
        "    os._exit(0)",
        "    network.close()",
        "    os.execvp('sleep', ['sleep', '0.5'])",
        "    f = os.fork(); f or exit(0); os.waitpid(f, 0); exit(network.run(['true']).returncode)",
    ],
    ids=["end", "exit", "_exit", "close", "exec", "fork that ends first"],
)
@pytest.mark.slow
def test_nothing_stays_when_the_owner_ends(end: str) -> None:
    with closing(Owner(end)) as owner:
        owner.go_on()
        assert owner.all_ended()
        _, errors = owner.process.communicate(timeout=PATIENCE)
        assert (owner.process.returncode, errors) == (0, "")


def test_a_fork_of_the_owner_does_not_keep_it() -> None:
    with closing(Owner(FORK)) as owner:
        owner.go_on()
        fork = int(owner.hear())
        try:
            held = [os.readlink(path) for path in Path(f"/proc/{fork}/fd").iterdir()]
            assert not [name for name in held if name.startswith(("net:", "pid:", "/dev/net/tun"))]
            owner.process.kill()
            assert owner.all_ended()
        finally:
            os.kill(fork, signal.SIGKILL)


def test_what_is_forgotten_is_closed() -> None:
    network = Namespace()
    watch = os.pidfd_open(network.pid)
    del network
    gc.collect()
    assert has_ended(watch)


def test_close_ends_the_programs_and_can_be_repeated() -> None:
    network = Namespace()
    program = started(network)
    network.close()
    network.close()
    assert program.returncode == -signal.SIGKILL
    assert "closed" in repr(network)
    for use in (lambda: network.run(["true"]), network.counters, lambda: network.tun.receive(0)):
        with pytest.raises(NbtcpError) as error:
            use()
        one_line(error.value)


def test_the_end_of_process_1_is_the_end() -> None:
    with Namespace() as network:
        program = started(network)
        watch = os.pidfd_open(network.pid)
        os.kill(network.pid, signal.SIGTERM)
        assert has_ended(watch)
        assert program.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.slow
def test_many_starts_leak_nothing() -> None:
    def state() -> tuple[set[str], int]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return set(os.listdir("/proc/self/fd")), len(children)

    def spent() -> float:
        """Seconds of a processor, our programs' as well."""
        own, programs = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime + programs.ru_utime + programs.ru_stime

    gc.collect()  # what other tests have left
    before = state()
    times = []
    for _ in range(20):
        begin = spent()
        Namespace().close()
        times.append(spent() - begin)
    assert state() == before
    assert sorted(times)[10] < 1
    assert sum(times[10:]) < 2 * sum(times[:10]) + 1


# ---- machines that cannot


def test_diagnose_finds_this_machine_fit() -> None:
    conditions = {condition.name: condition for condition in diagnose()}
    assert list(conditions) == [
        "root",
        "/dev/net/tun",
        "util-linux",
        "namespaces",
        "congestion control",
    ]
    for name in ("root", "/dev/net/tun", "util-linux", "namespaces"):
        assert conditions[name].ok, conditions[name]
    assert "reno" in conditions["congestion control"].detail


def test_without_util_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MachineError, match="`unshare` is missing") as error:
        Namespace()
    one_line(error.value)
    found = {condition.name: condition for condition in diagnose()}
    for name in ("util-linux", "namespaces"):
        assert not found[name].ok
        assert found[name].help


def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun_module, "DEVICE", "/nonexistent/tun")
    for call in (Namespace, Tun.open):
        with pytest.raises(MachineError, match="/nonexistent/tun is missing") as error:
            call()
        assert "modprobe tun" in one_line(error.value)
    assert not next(condition for condition in diagnose() if "tun" in condition.name).ok


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import signal; {say}; signal.pause()", "did not start within 0.3 s"),
        ("{say}; raise SystemExit(1)", "ended while it started"),
    ],
)
@pytest.mark.slow
def test_a_start_that_fails_tells_the_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, words: str
) -> None:
    say = "import sys; print('first\\nlast words', file=sys.stderr, flush=True)"
    program = tmp_path / "inside.py"
    program.write_text(code.format(say=say))
    monkeypatch.setattr(module, "_INSIDE", program)
    hear = socket.recv_fds

    def impatient(channel: socket.socket, *arguments: int) -> Any:
        """Until it has said something, however long that takes, and then no more."""
        heard = hear(channel, *arguments)
        if b"last words" in heard[0]:
            channel.settimeout(0.3)
        return heard

    monkeypatch.setattr(module.socket, "recv_fds", impatient)
    with pytest.raises(MachineError, match=words) as error:
        Namespace(timeout=PATIENCE)
    assert "last words" in one_line(error.value)


TRY = """if True:
    from nbtcp.links.namespace import *
    import sys
    for condition in diagnose():
        print(condition.name, condition.ok, condition.detail, condition.help, sep=" | ")
    try:
        with Namespace(congestion="reno") as network:
            program = network.popen(["sleep", "60"])
            program.terminate()
            assert program.wait(60) == -15
            web = "import urllib.request as r; print(len(r.urlopen('http://10.0.0.1/bytes/9').read()))"
            done = network.run([sys.executable, "-c", web], capture_output=True, timeout=60)
            print("fetched", int(done.stdout), "in", "--user" in network._nsenter)
            print("opened", network.counters()["Tcp"]["PassiveOpens"])
    except MachineError as error:
        print("error", error, sep=" | ")
"""


def attempt(*before: str, interpreter: str = sys.executable) -> list[str]:
    """What another user sees, or root with less."""
    for program in before:
        if program in ("setpriv", "unshare") and shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    process = python(TRY, *before, interpreter=interpreter)
    lines, errors = process.communicate(timeout=PATIENCE)
    if process.returncode:
        pytest.skip(f"cannot be tried here: {errors.strip().splitlines()[-1]}")
    return lines.splitlines()


# The shell is there because the first program that setpriv starts may still read every file.
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"),
    *("sh", "-c", 'exec "$@"', "sh"),
)


@pytest.fixture(scope="module")
def interpreter() -> str:
    """A Python that every user may run: root's own is often under /root."""
    code = "import sys, pyroute2, nbtcp.links.namespace; sys.exit(sys.version_info < (3, 11))"
    for candidate in (sys.executable, "/usr/bin/python3"):
        with python(code, *AS_NOBODY, interpreter=candidate) as process:
            process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            return candidate
    pytest.skip("needs a Python, and this directory, that every user may read")


def test_another_user_is_told_what_is_missing(interpreter: str) -> None:
    if DEVICE.stat().st_mode & 0o006:
        pytest.skip("every user may open /dev/net/tun here")
    lines = attempt(*AS_NOBODY, interpreter=interpreter)
    assert lines[-1].startswith(f"error | /dev/net/tun may not be opened by user {NOBODY}")
    assert "; run as root; for the lab alone " in lines[-1]
    assert lines[0].startswith("root | False")
    assert lines[1].startswith("/dev/net/tun | False")
    assert len(lines) == 6


@pytest.mark.slow
def test_another_user_gets_a_user_namespace(interpreter: str, tmp_path: Path) -> None:
    # With a device that all may open, in a mount namespace of its own.
    device = tmp_path / "tun"
    os.mknod(device, stat.S_IFCHR, DEVICE.stat().st_rdev)
    device.chmod(0o666)
    mount = f'mount --bind {device} /dev/net/tun && exec "$@"'
    before = ("unshare", "--mount", "--", "sh", "-c", mount, "sh", *AS_NOBODY)
    lines = attempt(*before, interpreter=interpreter)
    assert lines[-2:] == ["fetched 9 in True", "opened 1"]


@pytest.mark.slow
def test_root_without_its_capability_gets_a_user_namespace() -> None:
    lines = attempt("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all")
    assert lines[0].startswith("root | True | running as user 0")
    assert lines[3].startswith("namespaces | True | made by `")
    assert "unshare --user" in lines[3]
    assert lines[-2:] == ["fetched 9 in True", "opened 1"]


LIMIT = "/proc/sys/user/max_{}_namespaces"
NO_MORE = f"echo 0 > {LIMIT.format('user')} && echo 0 > {LIMIT.format('net')}"
ONE_MORE = f"echo 1 > {LIMIT.format('user')}"
BY_NOBODY = ("unshare", "--user", "--", "sh", "-c", 'exec "$@"', "sh")


@pytest.mark.parametrize(
    ("limit", "then", "words"),
    [
        (NO_MORE, (), "network namespaces are refused, even to root (unshare: "),
        (ONE_MORE, BY_NOBODY, f"user namespaces are refused to user {NOBODY} (unshare: "),
    ],
)
def test_where_all_namespaces_are_refused(limit: str, then: tuple[str, ...], words: str) -> None:
    # The limit is set in a user namespace, so that it holds for this attempt alone.
    script = f'{limit} && exec "$@"'
    lines = attempt("unshare", "--user", "--map-root-user", "--", "sh", "-c", script, "sh", *then)
    assert lines[-1].startswith(f"error | {words}")
    assert "; " in lines[-1]
