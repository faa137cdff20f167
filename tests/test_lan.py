"""LAN hosts: our TCP on a card, by ARP, between real hosts; nothing of the machine changes.

The LAN is 192.0.2.0/24 (RFC 5737), a bridge in the router's namespace, which is 192.0.2.1 there:
the user's machine is 192.0.2.2, a neighbour with curl and nginx 192.0.2.3; behind the router stands
www.example at 198.51.100.80, another nginx. Our host is 192.0.2.77. All at the other ends are the
kernel's TCP and ARP.
"""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from test_live import (
    ENVIRONMENT,
    HTTP,
    PATIENCE,
    ROOT,
    SHA256,
    enter,
    is_ready,
    namespace,
    nginx,
    run,
    settle,
)
from test_live import Machine as UsersMachine
from test_live import authority as authority

import nbtcp
from nbtcp import Lan, Live
from nbtcp.links import card, lan
from nbtcp.wire import ip
from nbtcp.wire.segment import ACK, Segment, build, pack_flow

SOAK = bool(os.environ.get("NBTCP_SOAK"))
ADDRESS, NEIGHBOUR, ROUTER = "192.0.2.77", "192.0.2.3", "192.0.2.1"
NEAR = f"http://{NEIGHBOUR}/megabyte"

Test = Callable[..., None]

PRELUDE = """
import nbtcp
from nbtcp.lan import Lan
def lan(address="192.0.2.77", patience=0.01, **settings):
    return Lan("eth0", address, patience=patience, **settings)
"""


def needs_root(test: Test) -> Test:
    """Marks a test that makes the network."""
    return pytest.mark.root(pytest.mark.slow(test))


class Network(NamedTuple):
    """The user's machine, and the holders of the neighbour's and the router's namespaces."""

    user: UsersMachine
    neighbour: subprocess.Popen[bytes]
    router: subprocess.Popen[bytes]

    def says(self, code: str, *arguments: str, **env: str) -> str:
        return self.user.says(PRELUDE + code, *arguments, **env)

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        return self.user.start(PRELUDE + code, *arguments)

    def complains(self, *statements: str) -> list[str]:
        code = "".join(f"complain({line!r})\n" for line in statements)
        lines = self.says(code).splitlines()
        assert len(lines) == len(statements)
        return lines


@pytest.fixture
def network(authority: Path, tmp_path: Path) -> Iterator[Network]:
    with ExitStack() as stack:
        folders = [tmp_path / name for name in ("user", "neighbour", "router", "server")]
        for folder in folders:
            folder.mkdir()
        user, neighbour, router, server = (
            stack.enter_context(namespace(folder)) for folder in folders
        )
        run(
            router,
            "ip link add lan0 type bridge; ip addr add 192.0.2.1/24 dev lan0",
            f"ip link add lan1 type veth peer name eth0 netns {user.pid}",
            f"ip link add lan2 type veth peer name eth0 netns {neighbour.pid}",
            f"ip link add eth0 type veth peer name eth0 netns {server.pid}",
            "for port in lan1 lan2; do ip link set $port master lan0 up; done",
            "ip link set lan0 up; ip link set eth0 up; ip addr add 198.51.100.1/24 dev eth0",
            "sysctl -qw net.ipv4.ip_forward=1",
        )
        forwarding = "until grep -q 3 /sys/class/net/lan0/brif/$port/state; do sleep 0.01; done"
        for number, host in enumerate((user, neighbour), 2):
            run(
                host,
                f"ip addr add 192.0.2.{number}/24 dev eth0; ip link set eth0 up",
                f"ip route add default via {ROUTER}",
            )
        run(
            server,
            "ip addr add 198.51.100.80/24 dev eth0; ip link set eth0 up",
            "ip route add default via 198.51.100.1",
        )
        run(router, f"for port in lan1 lan2; do {forwarding}; done")
        stack.enter_context(nginx(neighbour, authority, folders[1]))
        stack.enter_context(nginx(server, authority, folders[3]))
        settle(user)
        machine = UsersMachine(user, folders[0], "")
        machine.before = machine.snapshot()
        stack.callback(machine.end)
        yield Network(machine, neighbour, router)


def mac_of(holder: subprocess.Popen[bytes]) -> str:
    return output(holder, "cat /sys/class/net/eth0/address").strip()


def output(holder: subprocess.Popen[bytes], command: str) -> str:
    full = [*enter(holder), "sh", "-ec", command]
    return subprocess.run(full, check=True, env=ENVIRONMENT, capture_output=True, text=True).stdout


# ---- fetching


@needs_root
def test_a_megabyte_from_the_internet_and_from_a_neighbour(network: Network) -> None:
    text = network.says(
        "with lan() as host:\n"
        "    for url in sys.argv[1:]:\n"
        "        page = host.fetch(url); say(page.status, sha256(page))\n"
        "meta = page.log.meta\n"
        "say(*(meta[name] for name in ('link', 'interface', 'gateway', 'mtu', 'url')))",
        *(HTTP, NEAR),
    )
    assert text.splitlines() == [f"200 {SHA256}"] * 2 + [f"lan eth0 {ROUTER} 1500 {NEAR}"]
    for name in ("neighbour", "server"):
        log = network.user.folder.parent / name / "access.log"
        assert log.read_text() == f"{ADDRESS}\n"
    assert network.user.is_as_before()


@needs_root
@pytest.mark.timeout(1800 if SOAK else 300)
def test_all_starts_in_a_row_work(network: Network) -> None:
    """Four processes begin ten times each; in `make soak` 200 do, with the usual waits."""
    processes, starts, patience = (200, 1, lan.PATIENCE) if SOAK else (4, 10, 0.003)
    code = """
urls, starts, patience = sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4])
pages = []
for n in range(starts):
    with lan(patience=patience) as host:
        pages.append(sha256(host.fetch(urls[n % 2])))
say(*set(pages))
"""
    for n in range(processes):
        urls = (HTTP, NEAR) if n % 2 else (NEAR, HTTP)
        assert network.says(code, *urls, str(starts), str(patience)) == SHA256, (
            f"start {n * starts}"
        )
    assert network.user.is_as_before()


@needs_root
def test_a_fetch_in_a_cell_where_an_event_loop_runs(network: Network) -> None:
    code = """
import asyncio
async def cell():
    with lan() as host: return host.fetch(sys.argv[1])
say(sha256(asyncio.run(cell())))
"""
    assert network.says(code, NEAR) == SHA256


@needs_root
def test_large_packets_with_unfinished_checksums_are_taken(network: Network) -> None:
    """The kernel at the other end of a veth leaves checksums and cutting to a card: none is there.

    Behind the router they have been forwarded like that.
    """
    code = """
from nbtcp.links import lan as link
unfinished = []
finish = link.finish
link.finish = lambda frame: unfinished.append(frame) or finish(frame)
with lan() as host:
    for url in sys.argv[1:]:
        largest = host.fetch(url).log.segments.len.max()
        wrong = set(host.log.segments.why) & {"bad-checksum", "malformed"}
        say(largest > 10_000, len(unfinished) > 0, *wrong)
        unfinished.clear()
"""
    assert network.says(code, HTTP, NEAR).splitlines() == ["True True"] * 2


@needs_root
def test_a_mac_of_our_own_and_one_as_text(network: Network) -> None:
    code = """
from pathlib import Path
read = lambda name: Path("/sys/class/net/eth0", name).read_text().strip()
for mac in None, "own", "02:00:00:00:00:77":
    with lan(mac=mac) as host:
        ok = sha256(host.fetch(sys.argv[1])) == sha256(host.fetch(sys.argv[2]))
        say(ok, host.link.mac, read("flags"), host.log.meta["mac"] == host.link.mac)
say(read("flags"), read("address"))
"""
    *macs, (after, card) = (line.split() for line in network.says(code, HTTP, NEAR).splitlines())
    assert after == "0x1003"
    assert [line[0] for line in macs] == ["True"] * 3
    assert [line[2] for line in macs] == ["0x1003", "0x1103", "0x1103"], "promiscuous, then not"
    (_, first, *_), (_, own, *_), (_, third, *_) = macs
    assert (first, third) == (card, "02:00:00:00:00:77")
    assert own not in (first, third) and int(own[:2], 16) & 3 == 2
    assert third in output(network.neighbour, "ip neigh")
    assert network.user.is_as_before()


@needs_root
def test_curl_fetches_from_our_server(network: Network) -> None:
    code = """
with lan() as host:
    server = host.listen(80)
    say("ready")
    for _ in range(2):
        client, peer = server.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello " + peer[0].encode() * 10_000)
        client.close()
    sys.stdin.readline()
"""
    program = network.start(code)
    assert is_ready(program)
    for holder, address in (network.neighbour, NEIGHBOUR), (network.router, ROUTER):
        page = output(holder, f"curl -sS --max-time 100 http://{ADDRESS}/")
        assert page == "hello " + address * 10_000
    assert program.communicate("\n", timeout=PATIENCE) == ("", "")


@needs_root
def test_two_programs_on_one_card_reach_each_other(network: Network) -> None:
    code = """
with lan(sys.argv[1], mac=sys.argv[2] or None) as host:
    server = host.listen(80)
    say("ready")
    if sys.stdin.readline() == "connect\\n":
        with host.connect((sys.argv[3], 80), 60) as client:
            client.sendall(b"hello" * 10_000)
            client.shutdown(1)
            say(client.recv(5).decode())
    else:
        client, peer = server.accept()
        while client.recv(10_000): pass
        client.sendall(b"bye"); client.close()
        sys.stdin.readline()
"""
    for mac in "", "own":
        client = network.start(code, "192.0.2.78", mac, ADDRESS)
        server = network.start(code, ADDRESS, mac)
        assert is_ready(client) and is_ready(server)
        print(file=server.stdin, flush=True)
        assert client.communicate("connect\n", timeout=PATIENCE) == ("bye\n", "")
        assert server.communicate("\n", timeout=PATIENCE) == ("", "")


@needs_root
def test_paths_impair_the_lan(network: Network) -> None:
    code = (
        "with lan(path=nbtcp.Path(delay=0.02), seed=1) as host: log = host.fetch(sys.argv[1]).log\n"
    )
    assert (
        network.says(code + "say(log.rtt().rtt.min() >= 0.04, log.meta['seed'])", NEAR) == "True 1"
    )


@needs_root
def test_the_command_line(network: Network) -> None:
    code = """
from subprocess import PIPE, Popen
def nbtcp(url, address, *options):
    lan = "--lan", "eth0", "--address", address
    command = [sys.executable, "-m", "nbtcp.cli", "fetch", url, *lan, *options]
    return Popen(command, stdout=PIPE, stderr=PIPE)
for program in (
    nbtcp(sys.argv[1], "192.0.2.77"),
    nbtcp(sys.argv[1], "192.0.2.78", "--mac", "own", "--gateway", "192.0.2.1", "--delay", "0.001"),
    nbtcp("http://192.0.2.200/", "192.0.2.79"),
    nbtcp(sys.argv[1], "192.0.2.3"),
):
    page, errors = program.communicate()
    say(program.returncode, len(page), errors.decode().strip())
"""
    page, own, nobody, taken = network.says(code, HTTP).splitlines()
    assert page == own == "0 1000000 "
    assert nobody.startswith("1 0 nbtcp: 192.0.2.200 cannot be reached: 3 ARP requests on ")
    assert taken.startswith("2 0 nbtcp: 192.0.2.3 is taken by ")


# ---- the address


@needs_root
def test_an_address_that_is_taken_is_refused(network: Network) -> None:
    """By the kernel of a neighbour, at once; and by another program on our own card."""
    mac = mac_of(network.neighbour)
    (line,) = network.complains(
        "import random; random.uniform = min\n"  # the first probe at once, the next after 100 s
        f"lan({NEIGHBOUR!r}, patience={PATIENCE})"
    )
    assert line == f"MachineError: {NEIGHBOUR} is taken by {mac}: choose another address"
    text = network.says(
        "with lan(): complain('lan()'); complain('lan(mac=\"own\")')\nlan().close()"
    )
    same_card, own = text.splitlines()
    assert "this machine's own card: another program: choose another address" in same_card
    assert same_card.startswith("MachineError: 192.0.2.77 is taken by ")
    assert own.startswith("MachineError: 192.0.2.77 is taken by ")
    assert network.user.is_as_before()


@needs_root
def test_a_process_that_was_late_waits_for_answers_all_the_same(network: Network) -> None:
    """As on a busy machine: all waits are over when it runs again, and nothing was heard."""
    code = """
import select
from nbtcp.links.lan import Ethernet
link = Ethernet("eth0", "192.0.2.3")
link.claim(0)
link.receive(10**12)
assert select.select([link], [], [], 60)[0]
complain("link.receive(2 * 10**12)")
link.close()
"""
    assert network.says(code).startswith("MachineError: 192.0.2.3 is taken by ")


@needs_root
def test_addresses_that_cannot_be_ours_are_one_clear_line(network: Network) -> None:
    own, net, broadcast, elsewhere, version_6, no_address, gateway, no_gateway = network.complains(
        *(f"lan({address!r})" for address in ("192.0.2.2", "192.0.2.0", "192.0.2.255")),
        *(f"lan({address!r})" for address in ("198.51.100.7", "2001:db8::1", "192.0.2.777")),
        "lan(gateway='198.51.100.1')",
        "lan(gateway='192.0.2.77')",
    )
    assert own.startswith("MachineError: 192.0.2.2 is this machine's own address: ")
    assert net == "MachineError: 192.0.2.0 is no host's address in 192.0.2.0/24: choose another"
    assert broadcast.startswith("MachineError: 192.0.2.255 is no host's address")
    assert elsewhere.startswith(
        "MachineError: 198.51.100.7 is not on eth0, which has 192.0.2.0/24; "
    )
    assert version_6.startswith("MachineError: '2001:db8::1' is no address such as 192.0.2.77: ")
    assert "IPv6" in version_6
    assert no_address.startswith("MachineError: '192.0.2.777' is no address such as 192.0.2.77: ")
    assert gateway.endswith("the gateway 198.51.100.1 is not another host in 192.0.2.0/24")
    assert no_gateway.endswith("the gateway 192.0.2.77 is not another host in 192.0.2.0/24")


@needs_root
def test_another_who_claims_the_address_is_answered_once_and_then_left_it(network: Network) -> None:
    """RFC 5227 2.4 (b). The kernel of the neighbour does not ask before it takes an address."""
    code = """
with lan() as host:
    server = host.listen(80)
    say("ready")
    sys.stdin.readline()
    complain("host.connect(('192.0.2.1', 9), 60)")
    complain("server.accept()")
"""
    program = network.start(code)
    assert is_ready(program)
    send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
    send += f"s.bind(('{ADDRESS}', 0)); s.sendto(b'x', ('{{}}', 9)); s.close()"  # by ARP from there
    claim = f'{sys.executable} -c "{send}"'
    run(network.neighbour, f"ip addr add {ADDRESS}/24 dev eth0", claim.format(ROUTER))
    print(file=program.stdin, flush=True)
    assert program.stdout is not None
    assert program.stdout.readline().startswith("ConnectionRefusedError: "), "it was defended"
    run(network.neighbour, claim.format("192.0.2.2"))
    lost, errors = program.communicate(timeout=PATIENCE)
    assert errors == ""
    mac = mac_of(network.neighbour)
    assert lost.startswith(f"OSError: {ADDRESS} is lost: {mac} has claimed it twice within ten ")


# ---- neighbours


@needs_root
def test_who_cannot_be_reached_is_one_clear_line(network: Network) -> None:
    network.user.sh("ip route del default")
    code = """
import threading
def ask(address, host):
    try: host.connect((address, 80), 60)
    except OSError as problem: lines[address] = f"{problem.errno} {problem.strerror}"
lines = {}
with lan() as host, lan("192.0.2.78", gateway="192.0.2.201") as other:
    asked = [(name, host) for name in sys.argv[1:]] + [("198.51.100.1", other)]
    threads = [threading.Thread(target=ask, args=pair) for pair in asked]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    for name, _ in asked: say(lines[name])
with lan(gateway='192.0.2.1', prefix=25) as host: say(sha256(host.fetch("http://www.example/megabyte")))
"""
    names = "192.0.2.200", "www.example", ADDRESS, "192.0.2.2", "localhost"
    nobody, no_route, *here, gateway, given = network.says(code, *names).splitlines()
    no_answer = "cannot be reached: 3 ARP requests on eth0 had no answer; is it switched on?"
    assert nobody == f"{errno.EHOSTUNREACH} 192.0.2.200 {no_answer}"
    assert gateway == f"{errno.EHOSTUNREACH} the gateway 192.0.2.201 {no_answer}"
    outside = (
        "198.51.100.80 is not in 192.0.2.0/24, and eth0 has no default route; give the gateway"
    )
    assert no_route == f"{errno.ENETUNREACH} {outside}"
    for line, address in zip(here, (ADDRESS, "192.0.2.2", "127.0.0.1"), strict=True):
        why = "is on this machine, and what eth0 sends does not come back to it"
        assert line == f"{errno.ENETUNREACH} {address} {why}"
    assert given == SHA256


@needs_root
def test_a_neighbour_with_a_new_mac_is_followed(network: Network) -> None:
    """As a standby router that takes over: it announces itself."""
    program = network.start("""
with lan() as host, host.connect(("192.0.2.3", 80), 60) as sock:
    say("ready")
    sys.stdin.readline()
    sock.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
    say(sock.recv(12).decode())
""")
    assert is_ready(program)
    run(
        network.neighbour,
        "sysctl -qw net.ipv4.conf.eth0.arp_notify=1",
        "ip link set eth0 address 02:00:00:00:00:99",
    )
    assert program.communicate("\n", timeout=PATIENCE) == ("HTTP/1.1 403\n", "")


@needs_root
def test_arp_as_tshark_sees_it(network: Network) -> None:
    """The waits of RFC 5227 1.1 and RFC 1122 2.3.2.1, on a clock of ours, with a real neighbour."""
    code = """
import select, socket
from nbtcp.links.lan import Ethernet
from nbtcp.wire.icmp import parse_icmp
from nbtcp.wire.segment import RST, SYN, Segment, build, pack_flow, parse
SECOND = 1_000_000_000
everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link = Ethernet("eth0", "192.0.2.77")
link.claim(0, 1)
while (due := link.deadline()) is not None:
    link.receive(due)
    say(due, link.claimed)
flow = pack_flow(("192.0.2.77", 1234), ("192.0.2.3", 9))
syn, hop = build(Segment(flow, SYN, 7, 0, 0)), flow[4:8]
for seconds in 20, 81:
    now, packets = seconds * SECOND, []
    link.send([syn], now)
    while link.is_asking(hop) or not packets:
        assert select.select([link], [], [], 60)[0]
        packets += link.receive(now)
    assert parse(packets[0]).flags & RST
say("ready")
sys.stdin.readline()
for seconds, copies in (142, 1), (146, 66):
    link.send([syn] * copies, seconds * SECOND)
    assert link.is_asking(hop)
    packets = [link.receive((seconds + after) * SECOND) for after in range(4)]
    say(*map(len, packets), link.refused)
    complain("link.check(hop)")
error = parse_icmp(packets[3][0])
say(error.problem.label, error.flow == flow, error.raw_seq, error.reporter)
from scapy.utils import wrpcap
frames = []
while select.select([everything], [], [], 0)[0]:
    frames.append(everything.recv(2000))
wrpcap(sys.argv[1], frames, linktype=1)
everything.close()
link.close()
complain("link.receive(0)")
"""
    capture = network.user.folder / "arp.pcap"
    program = network.start(code, str(capture))
    assert program.stdout is not None
    plan = [program.stdout.readline().split() for _ in range(5)]
    assert is_ready(program)
    run(network.neighbour, "ip link set eth0 down")
    told, errors = program.communicate("\n", timeout=PATIENCE)
    assert errors == ""

    first, second, third, announced, again = (int(at) / 1e9 for at, _ in plan)
    assert 0 <= first <= 1 and 1 <= second - first <= 2 and 1 <= third - second <= 2
    assert (announced - third, again - announced) == (pytest.approx(2), pytest.approx(2))
    assert [claimed for _, claimed in plan] == ["False"] * 3 + ["True"] * 2

    was_known, refusal, is_unknown, same, error, closed = told.splitlines()
    assert (was_known, is_unknown) == ("0 0 0 0 0", "0 0 0 64 2"), "the first segment has been sent"
    assert refusal == same
    assert refusal.startswith(f"OSError: {NEIGHBOUR} cannot be reached: ")
    assert closed == "NbtcpError: the link on eth0 has ended: it was closed, and open a new one"
    assert error == f"host-unreachable True 7 {ADDRESS}"

    fields = "arp.opcode", "eth.dst", "arp.src.proto_ipv4", "arp.dst.proto_ipv4"
    command = ["tshark", "-nr", capture, "-Y", "arp", "-T", "fields"]
    for name in fields:
        command += ["-e", name]
    seen = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    here, there = mac_of(network.user.holder), mac_of(network.neighbour)
    everybody = "ff:ff:ff:ff:ff:ff"
    assert [tuple(line.split("\t")) for line in seen.splitlines()] == [
        *[("1", everybody, "0.0.0.0", ADDRESS)] * 3,
        *[("1", everybody, ADDRESS, ADDRESS)] * 2,
        *[("1", everybody, ADDRESS, NEIGHBOUR), ("2", here, NEIGHBOUR, ADDRESS)],
        *[("1", there, ADDRESS, NEIGHBOUR), ("2", here, NEIGHBOUR, ADDRESS)],
        *[("1", there, ADDRESS, NEIGHBOUR)] * 3,
        *[("1", everybody, ADDRESS, NEIGHBOUR)] * 3,
    ]


@needs_root
def test_what_belongs_to_a_vlan_is_not_heard(network: Network) -> None:
    """A tag with number 0 is of none, and only says how urgent a frame is (IEEE 802.1Q)."""
    code = """
import select
from nbtcp.links import card
place = card.find("eth0")
with place.open(place.mac, bytes((192, 0, 2, 77))) as sock:
    say("ready")
    sources = []
    while b"\\2\\0\\0\\0\\0\\3" not in sources:
        assert select.select([sock], [], [], 60)[0]
        sources.append(sock.recv(2000)[16:22])
    say(*(source.hex(":") for source in sources))
"""
    send = """
import socket
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("eth0", 0))
    for number, tag in (1, "81000005"), (2, "81006000"), (3, ""):
        frame = "ffffffffffff" + f"{number:012x}" + tag + "0806" + "00" * 28
        sock.send(bytes.fromhex(frame.replace("00000000000", "02000000000", 1)))
"""
    program = network.start(code)
    assert is_ready(program)
    subprocess.run([*enter(network.neighbour), sys.executable, "-c", send], check=True)
    heard, errors = program.communicate(timeout=PATIENCE)
    assert (heard.split(), errors) == (["02:00:00:00:00:02", "02:00:00:00:00:03"], "")


# ---- the machine


@needs_root
def test_a_machine_that_forwards_keeps_out_of_it(network: Network) -> None:
    """With the card's MAC the kernel would forward, redirect, and say "host unreachable"."""
    network.user.sh("sysctl -qw net.ipv4.ip_forward=1")
    network.user.before = network.user.snapshot()
    code = """
from pathlib import Path
def forwarded():
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines()[:2])
    return values[names.index("ForwDatagrams")]
with lan() as host:
    card = Path("/sys/class/net/eth0/address").read_text().strip()
    say(*(sha256(host.fetch(url)) for url in sys.argv[1:]), forwarded(), host.link.mac != card)
complain(f"lan(mac={card!r})")
"""
    done, refused = network.says(code, HTTP, NEAR).splitlines()
    assert done == f"{SHA256} {SHA256} 0 True"
    assert refused.startswith("MachineError: ")
    assert refused.endswith(
        'this machine forwards, and would forward our packets too; use mac="own"'
    )
    assert network.user.is_as_before()


@needs_root
def test_a_kernel_that_does_not_forward_is_silent(network: Network) -> None:
    """It sees our packets, which come to its card's MAC, and does nothing about them."""
    code = "with lan() as host: say(sha256(host.fetch(sys.argv[1])))\n"
    assert network.says(code, NEAR) == SHA256
    counters = output(network.neighbour, "cat /proc/net/snmp").splitlines()
    names, values = (line.split() for line in counters if line.startswith("Icmp:"))
    assert values[names.index("InMsgs")] == "0"


@needs_root
def test_a_card_that_goes_down_ends_the_transfer_with_one_clear_line(network: Network) -> None:
    code = """
with lan() as host:
    say("ready")
    complain("host.fetch('http://192.0.2.3/slow')")
    complain("host.connect(('192.0.2.3', 80), 60)")
"""
    program = network.start(code)
    assert is_ready(program)
    end = time.monotonic() + PATIENCE
    while "ESTAB" not in output(network.neighbour, f"ss -Htn dst {ADDRESS}"):
        assert time.monotonic() < end
    network.user.sh("ip link set eth0 down")
    text, errors = program.communicate(timeout=PATIENCE)
    how = "`ip link set eth0 up`, and open a new one"
    line = f"OSError: the link on eth0 has ended: eth0 is down; {how}"
    assert (text.splitlines(), errors) == ([line, line], "")


@needs_root
def test_cards_that_will_not_do_are_one_clear_line(network: Network) -> None:
    network.user.sh(
        "ip tuntap add tun0 mode tun; ip link set tun0 up\n"
        "ip link add down0 type veth peer name x\n"
        "ip link add alone0 type veth peer name y; ip link set alone0 up"
    )
    none, loopback, tun, down, alone, bare, *macs = network.complains(
        *(f"Lan({name!r}, '192.0.2.77')" for name in ("eth7", "lo", "tun0", "down0", "alone0")),
        "import subprocess; subprocess.run('ip addr flush dev eth0'.split()); lan()",
        *(
            f"lan(prefix=24, mac={mac!r})"
            for mac in ("card", "01:00:5e:00:00:01", "02:00:00:00:00")
        ),
    )
    assert none.startswith(
        "MachineError: there is no interface 'eth7'; there are alone0, down0, eth0"
    )
    assert loopback == "MachineError: lo has no ARP: use an Ethernet card"
    assert tun == "MachineError: tun0 has no ARP: use an Ethernet card"
    assert down == "MachineError: down0 is down: bring it up with `ip link set down0 up`"
    assert alone.startswith("MachineError: alone0 has no carrier: ")
    assert bare.startswith("MachineError: 192.0.2.77 is not on eth0, which has no IPv4 network; ")
    for line in macs:
        assert " is no MAC that a host may have, such as 02:00:00:00:00:77" in line
    network.user.before = network.user.snapshot()  # without the address


@needs_root
def test_root_without_the_capability_is_one_clear_line(network: Network) -> None:
    code = (
        "if 'again' not in sys.argv:\n"
        "    less = ['setpriv', '--bounding-set=-net_raw', sys.executable]\n"
        "    os.execvp(less[0], [*less, '-c', sys.orig_argv[2], 'again'])\n"
        "complain('lan()')"
    )
    complaint = network.says(code)
    assert complaint.startswith(
        "MachineError: user 0 may not open a packet socket (no CAP_NET_RAW)"
    )
    assert "--cap-add NET_RAW" in complaint


@needs_root
def test_wi_fi_with_a_mac_of_our_own_is_a_warning(network: Network) -> None:
    network.user.sh("mount -t tmpfs none /sys/class/net; mkdir -p /sys/class/net/eth0/wireless")
    code = """
import warnings
for mac in None, "own":
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        lan(mac=mac).close()
    say(len(heard), *(f"{warning.category.__name__}: {warning.message}" for warning in heard))
"""
    code += """
import subprocess
lan = "--lan", "eth0", "--address", "192.0.2.77", "--mac", "own"
command = [sys.executable, "-m", "nbtcp.cli", "fetch", sys.argv[1], *lan, "-o", os.devnull]
env = {**os.environ, "PYTHONWARNINGS": "default"}
say(subprocess.run(command, stderr=subprocess.PIPE, text=True, env=env).stderr.strip())
"""
    card, own, shell = network.says(code, NEAR).splitlines()
    assert card == "0"
    assert shell.startswith("nbtcp: warning: eth0 is Wi-Fi: access points drop ")
    assert own.startswith("1 UserWarning: eth0 is Wi-Fi: access points drop ")


# ---- without root


def test_the_filter_lets_pass_what_is_for_us() -> None:
    """The kernel's own judgement, on a socket that needs no rights."""
    mac, other = bytes.fromhex("020000000077"), bytes.fromhex("020000000088")
    broadcast = b"\xff" * 6
    ours, theirs = bytes((192, 0, 2, 77)), bytes((192, 0, 2, 78))

    def packet(to: bytes, source: bytes, address: bytes) -> bytes:
        return to + source + b"\x08\0" + bytes(16) + address + bytes(20)

    arp = b"\x08\6" + bytes(28)
    passing = [packet(mac, other, ours), broadcast + other + arp, mac + other + arp]
    passing += [other + broadcast + arp]
    stopped = [
        packet(mac, other, theirs),
        packet(broadcast, other, ours),
        packet(other, other, ours),
    ]
    stopped += [
        packet(mac, mac, ours),
        broadcast + mac + arp,
        mac + other + b"\x86\xdd" + bytes(60),
    ]
    stopped += [
        mac + other + b"\x81\0\0\1\x08\0" + bytes(40),
        mac[:4] + other[4:] + other + b"\x08",
    ]
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        card.attach_filter(receiver, mac, ours)
        for frame in [*stopped, *passing, *stopped, b""]:
            sender.send(frame)
        receiver.setblocking(False)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(receiver.recv(1000))
    assert heard == passing


@pytest.mark.parametrize("size", [0, 1, 1460, 64_001])
def test_an_unfinished_checksum_is_finished(size: int) -> None:
    flow = pack_flow(("192.0.2.3", 80), (ADDRESS, 1234))
    packet = build(Segment(flow, ACK, 1, 2, 3, (bytes(range(250)) * 300)[:size]))
    pseudo = ip.ones_sum(packet[12:20]) + ip.PROTOCOL_TCP + len(packet) - 20
    unfinished = packet[:36] + (pseudo % 65535).to_bytes(2, "big") + packet[38:]
    header = struct.pack("=BBHHHH", card.CHECKSUM_LEFT, 0, 0, 0, 14 + 20, 16)
    assert card.finish(header + bytes(14) + unfinished) == packet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lan", "eth0"), "--lan needs --address: "),
        (("--lan", "eth0", "--lab", "--address", ADDRESS), "--lan and --lab are two ways: "),
        (("--lan", "eth0", "-6", "--address", ADDRESS), "-6 does not go with --lan"),
        (("--address", ADDRESS), "--address goes with --lan: "),
        (("--mac", "own"), "--mac goes with --lan: "),
        (("--lan", "no-card", "--address", ADDRESS), "there is no interface 'no-card'; "),
        (("--lan", "lo", "--address", "2001:db8::1"), "'2001:db8::1' is no address such as "),
    ],
)
@pytest.mark.slow
def test_a_wrong_call_is_one_line(options: tuple[str, ...], words: str) -> None:
    command = [sys.executable, "-m", "nbtcp.cli", "fetch", NEAR, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"nbtcp: {words}")


def test_a_lan_needs_nothing_heavy_to_be_imported() -> None:
    code = (
        "import sys, nbtcp.lan; print({'pyroute2', 'httpx', 'pandas', 'scapy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n"
    assert nbtcp.lan is Lan and nbtcp.live is Live
