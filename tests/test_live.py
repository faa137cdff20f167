"""Live hosts: fetches from real servers, and a machine that is left exactly as it was.

The internet is made of namespaces: a machine of a user at 198.51.100.2 (RFC 5737), whose default
route goes to another with nginx, at 198.51.100.80 and in its hosts file www.example. The internet
of IPv6 (RFC 3849) is there for those tests that ask for `machine6`. Each program of the user runs
in that machine's network and mount namespaces; this machine is not touched.
"""

import hashlib
import ipaddress
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nbtcp.gateway import POOLS, POOLS6, Refusal, free_pair
from nbtcp.live import Live, check_url, fetch

ROOT = Path(__file__).parent.parent
MEGABYTE = random.Random(1).randbytes(1_000_000)
SHA256 = hashlib.sha256(MEGABYTE).hexdigest()
HTTP, HTTPS = "http://www.example/megabyte", "https://www.example/megabyte"
SERVER6 = "2001:db8:80::80"
HTTP6 = f"http://[{SERVER6}]/megabyte"
HAS_IPV6 = Path("/proc/net/if_inet6").exists()

PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
SOAK = bool(os.environ.get("NBTCP_SOAK"))
ENVIRONMENT = {**os.environ, "PATH": PATH}
PROGRAMS = (
    *("unshare", "nsenter", "setpriv", "mount", "sysctl", "ip", "nginx", "openssl", "curl"),
)

needs_root = pytest.mark.root
PATIENCE = 100.0  # s for what takes a second, unless the machine is very busy


class Machine:
    """A user's machine: network and mount namespaces, which end with `holder`."""

    def __init__(self, holder: subprocess.Popen[bytes], folder: Path, snapshot: str) -> None:
        self.holder = holder
        self.folder = folder
        self.before = snapshot
        self._programs: list[subprocess.Popen[str]] = []

    def start(self, code: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start Python inside; the process is Python itself, for signals."""
        command = [*enter(self.holder), sys.executable, "-c", PRELUDE + code, *arguments]
        variables = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **env}
        pipe = subprocess.PIPE
        program = subprocess.Popen(
            command, env=variables, cwd="/", text=True, stdin=pipe, stdout=pipe, stderr=pipe
        )
        self._programs.append(program)
        return program

    def run(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        program = self.start(code, *arguments, **env)
        output, errors = program.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess([], program.returncode, output, errors)

    def says(self, code: str, *arguments: str, **env: str) -> str:
        """What a program inside prints that succeeds without a complaint."""
        done = self.run(code, *arguments, **env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def complains(self, *statements: str) -> list[str]:
        """The exceptions of statements in one program, each one line: "Kind: text"."""
        lines = self.says("".join(f"complain({line!r})\n" for line in statements)).splitlines()
        assert len(lines) == len(statements)
        return lines

    def sh(self, command: str) -> None:
        """Change the machine: it is to be left like that."""
        run(self.holder, command)
        self.before = self.snapshot()

    def server(self, command: str) -> None:
        """Run it where nginx is, in the network namespace alone."""
        server = int((self.folder / "nginx.pid").read_text())
        command = f"set -e; {command}"
        outside = ["nsenter", f"--target={server}", "--net", "--", "sh", "-c", command]
        subprocess.run(outside, check=True, env=ENVIRONMENT)

    def snapshot(self) -> str:
        """Addresses, routes, rules, the ruleset of nftables and all network sysctls, as text."""
        command = [*enter(self.holder), sys.executable, "-ISc", SNAPSHOT]
        return subprocess.check_output(command, text=True, env=ENVIRONMENT)

    def is_as_before(self) -> bool:
        after = self.snapshot()
        changed = set(self.before.splitlines()) ^ set(after.splitlines())
        assert not changed
        return after == self.before

    def end(self) -> None:
        """End what still runs, and see that nothing is left of it."""
        for program in self._programs:
            program.kill()
            program.communicate()
        assert self.is_as_before()


PRELUDE = """
import errno, hashlib, os, signal, ssl, sys, time
from nbtcp import gateway
from nbtcp.live import Live, fetch
def sha256(page):
    return hashlib.sha256(page.content).hexdigest()
def say(*words):
    print(*words, flush=True)
def complain(code):
    try:
        exec(code)
        say("nothing is wrong")
    except Exception as problem:
        say(f"{type(problem).__name__}: {getattr(problem, 'strerror', None) or problem}")
"""

KILL = "os.kill(host.nat._gateway.pid, signal.SIGKILL); host.nat._gateway.wait(); "
WAIT = "say('ready'); sys.stdin.read()\n"

SNAPSHOT = """
import os, re, socket, struct, subprocess
for what in ("link", "address", "-4 route show table all", "-6 route show table all", "rule"):
    text = subprocess.check_output(["ip", *what.split()], text=True)
    print(re.sub("expires [0-9]+sec", "expires", text))  # it counts down by itself
def objects(code):  # the kernel's own bytes, without what numbers the dump
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.send(struct.pack("=IHHIIBBH", 20, 10 << 8 | code, 0x301, 0, 0, 0, 0, 0))
        while True:
            data = sock.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == 3:
                    return
                yield kind, data[16], data[20:length].hex()
                data = data[length + 3 & ~3:]
for code in (1, 4, 7, 10, 19):  # tables, chains, rules, sets, objects
    print(*objects(code), sep="\\n")
for folder, _, names in sorted(os.walk("/proc/sys/net")):
    for name in sorted(names):
        if name != "nf_conntrack_count":
            try:
                with open(os.path.join(folder, name)) as file:
                    print(folder, name, file.read().split())
            except OSError as problem:
                print(folder, name, problem.errno)
"""

RULESET = """
from pyroute2.nftables.main import NFTables
from pyroute2.nftables.expressions import genex, masq, verdict
def interface(key, name):
    data = {"attrs": [("NFTA_DATA_VALUE", name)]}
    load = genex("meta", {"dreg": 1, "key": key})
    return [load, genex("cmp", {"sreg": 1, "op": 0, "data": data})]
nft = NFTables()
def chain(table, name, **settings):
    nft.chain("add", table=table, name=name, **settings)
"""

FILTER = """
nft.table("add", name="filter")
chain("filter", "FORWARD", hook="forward", type="filter", policy=int(sys.argv[1]))
chain("filter", "OUTPUT", hook="output", type="filter", policy=1)
nft.table("add", name="nat")
chain("nat", "out", hook="postrouting", type="nat", priority=50, policy=1)
nft.rule("add", table="nat", chain="out", expressions=(interface(7, b"eth0\\0"), masq()))
nft.close()
"""

LET_PASS = """
for key in (6, 7):
    accept = interface(key, b"nbtcp"), verdict(1)
    nft.rule("insert", table="filter", chain="FORWARD", expressions=accept)
nft.close()
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and key and certificate of www.example that it has signed; that is for
    ftp.gnu.org too, from where notebook 08 fetches.
    """
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"needs the program {program}")
    folder = tmp_path_factory.mktemp("authority")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = "subjectAltName=DNS:www.example,DNS:ftp.gnu.org"
    name = ("-subj", "/CN=www.example", "-addext", names)
    leaf = ("-addext", "basicConstraints=CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key")
    signs = ("-subj", "/CN=An authority", "-addext", "keyUsage=critical,keyCertSign")
    for command in (
        (*new, "-keyout", "ca.key", "-out", "ca.pem", *signs),
        (*new, "-keyout", "key.pem", "-out", "www.pem", *name, *leaf),
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def machine(authority: Path, tmp_path: Path) -> Iterator[Machine]:
    """A user's machine on the internet."""
    with ExitStack() as stack:
        server = stack.enter_context(namespace(tmp_path))
        holder = stack.enter_context(namespace(tmp_path, "net.ipv4.conf.all.accept_redirects=0"))
        run(
            holder,
            f"ip link add eth0 type veth peer name eth0 netns {server.pid}",
            "ip addr add 198.51.100.2/30 dev eth0",
            "ip link set eth0 up",
            "ip route add default via 198.51.100.1",
        )
        run(
            server,
            "ip addr add 198.51.100.1/30 dev eth0",
            "ip addr add 198.51.100.80/32 dev lo",
            "ip link set eth0 up",
        )
        stack.enter_context(nginx(server, authority, tmp_path))
        settle(holder)
        machine = Machine(holder, tmp_path, "")
        stack.callback(machine.end)
        machine.before = machine.snapshot()
        yield machine


@pytest.fixture
def machine6(machine: Machine) -> Machine:
    """A user's machine on both internets: www.example has addresses of both, and six.example one of
    IPv6.
    """
    if not HAS_IPV6:
        pytest.skip("needs IPv6")
    with (machine.folder / "hosts").open("a") as hosts:
        hosts.write(f"{SERVER6} www.example six.example\n")
    machine.sh("ip addr add 2001:db8::2/64 dev eth0; ip route add default via 2001:db8::1")
    machine.server("ip addr add 2001:db8::1/64 dev eth0; ip addr add 2001:db8:80::80/128 dev lo")
    machine.server(SETTLED)
    settle(machine.holder)
    machine.before = machine.snapshot()
    return machine


@pytest.fixture(params=["each-interface", "only-all"] if SOAK else ["only-all"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment of programs: with the switches of kernels before Linux 6.17, in `make soak` with
    this kernel's own as well, which the tests without this fixture have.
    """
    if request.param == "only-all":
        hide = "lambda path: path.name != 'force_forwarding' and exists(path)"
        (tmp_path / "sitecustomize.py").write_text(
            f"from pathlib import Path; exists = Path.exists; Path.exists = {hide}"
        )
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


class namespace:
    """A process that holds network and mount namespaces, with its own /run and /etc/hosts."""

    def __init__(self, folder: Path, *sysctls: str) -> None:
        (folder / "hosts").write_text("127.0.0.1 localhost\n198.51.100.80 www.example\n")
        (folder / "resolv.conf").write_text("nameserver 198.51.100.1\noptions attempts:1\n")
        settings = " ".join(("net.ipv6.conf.default.accept_dad=0", *sysctls))
        script = (
            "mount -t tmpfs none /run; mount -t sysfs none /sys; ip link set lo up; "
            f"for name in hosts resolv.conf; do mount --bind {folder}/$name /etc/$name; done; "
            f"sysctl -qw {settings}; echo; exec sleep 3600"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--", "sh", "-ec", script],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"\n"
        return self.holder

    def __exit__(self, *problem: object) -> None:
        self.holder.kill()
        self.holder.communicate()


class nginx:
    """Debian's nginx in a namespace, until left."""

    def __init__(self, server: subprocess.Popen[bytes], authority: Path, folder: Path) -> None:
        for name in ("www", "temporary"):
            (folder / name).mkdir()
        (folder / "www" / "megabyte").write_bytes(MEGABYTE)
        temporary = "client_body proxy fastcgi uwsgi scgi".split()
        paths = "\n".join(f"{name}_temp_path {folder}/temporary/{name};" for name in temporary)
        listen6 = "listen [::]:80; listen [::]:443 ssl;" if HAS_IPV6 else ""
        (folder / "nginx.conf").write_text(
            f"""
            daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
            events {{}}
            http {{
              {paths}
              log_format from "$remote_addr"; access_log {folder}/access.log from;
              server {{
                listen 80; listen 443 ssl; {listen6}
                server_name www.example; root {folder}/www;
                ssl_certificate {authority}/www.pem; ssl_certificate_key {authority}/key.pem;
                location /slow {{ alias {folder}/www/megabyte; limit_rate 20k; }}
              }}
            }}"""
        )
        self.pid = folder / "nginx.pid"
        self.program = subprocess.Popen(
            [*enter(server), "nginx", "-p", str(folder), "-c", "nginx.conf"],
            env=ENVIRONMENT,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.pid.exists() and self.pid.read_text().endswith("\n")):
            assert self.program.poll() is None and time.monotonic() < end, "nginx did not start"
            time.sleep(0.01)

    def __exit__(self, *problem: object) -> None:
        self.program.kill()
        self.program.wait()


def enter(holder: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--target={holder.pid}", "--net", "--mount", "--"]


def run(holder: subprocess.Popen[bytes], *commands: str) -> None:
    command = [*enter(holder), "sh", "-ec", "\n".join(commands)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=PATIENCE)


# The kernel does this a moment after a link is up, or an address there: eth0 has its link-local
# address, each address its route, and none is tentative any more.
SETTLED = """
until ip -6 addr show dev eth0 scope link | grep -q inet6 && ! ip -6 addr | grep -q tentative &&
    [ $(ip -6 -o addr | wc -l) = $(ip -6 route show table local type local | wc -l) ]
do sleep 0.01; done
"""


def settle(holder: subprocess.Popen[bytes]) -> None:
    """Wait until the kernel has done what it does by itself about addresses of IPv6."""
    if HAS_IPV6:
        run(holder, SETTLED)


def is_ready(program: subprocess.Popen[str]) -> bool:
    assert program.stdout is not None
    return program.stdout.readline() == "ready\n"


def leave_all(program: subprocess.Popen[str]) -> None:
    """Kill a program that has killed its gateways."""
    assert is_ready(program)
    program.kill()
    program.wait()


# ---- fetching


@needs_root
def test_a_megabyte_arrives_and_nothing_stays(machine: Machine) -> None:
    text = machine.says(
        "page = fetch(sys.argv[1]); say(page.status, sha256(page), page.log.segments.mss.max())\n"
        "say(page.log.meta['link'], page.log.meta['uplink'], page.log.meta['url'])",
        HTTP,
    )
    assert text.splitlines() == [f"200 {SHA256} 1460", f"live eth0 {HTTP}"]
    assert (machine.folder / "access.log").read_text() == "198.51.100.2\n", "it was masqueraded"
    assert machine.is_as_before()


@needs_root
def test_a_fetch_in_a_cell_where_an_event_loop_runs(machine: Machine) -> None:
    code = "import asyncio\nasync def cell(): return fetch(sys.argv[1])\n"
    assert machine.says(code + "say(sha256(asyncio.run(cell())))", HTTP) == SHA256


@needs_root
def test_https_is_verified(machine: Machine, authority: Path) -> None:
    ca = str(authority / "ca.pem")
    unknown, by_context, by_environment, other_name = machine.complains(
        f"fetch({HTTPS!r})",
        f"context = ssl.create_default_context(cafile={ca!r})\n"
        f"raise Warning(sha256(fetch({HTTPS!r}, ssl_context=context)))",
        f"os.environ['SSL_CERT_FILE'] = {ca!r}; raise Warning(sha256(fetch({HTTPS!r})))",
        "fetch('https://198.51.100.80/megabyte')",
    )
    assert unknown.startswith("SSLCertVerificationError: ")
    assert "certificate verify failed" in unknown
    assert by_context == by_environment == f"Warning: {SHA256}"
    assert "IP address mismatch" in other_name
    assert machine.is_as_before()


@needs_root
def test_a_client_brings_its_own_access_to_the_internet(machine: Machine, authority: Path) -> None:
    code = """
import nbtcp
context = ssl.create_default_context(cafile=sys.argv[1])
with nbtcp.http.client(verify=context) as client:
    for url in sys.argv[2:]:
        page = client.get(url); say(page.http_version, sha256(page))
"""
    expected = [f"HTTP/1.1 {SHA256}"] * 2
    assert machine.says(code, str(authority / "ca.pem"), HTTP, HTTPS).splitlines() == expected
    assert machine.is_as_before()


@needs_root
def test_sockets_take_names_and_serve_this_machine(machine: Machine) -> None:
    code = """
import socket
with Live(seed=1) as host:
    with host.connect(("www.example", 80), 60) as sock:
        sock.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
        say(sock.recv(12).decode(), host.address)
    server = host.listen(8080)
    with socket.create_connection((host.address, 8080), 60) as client:
        accepted, peer = server.accept()
        say(peer[0] == host.nat.kernel_address)
    with open("/proc/sys/net/ipv6/conf/nbtcp0/disable_ipv6") as file:
        say(file.read().strip())
"""
    assert machine.says(code).splitlines() == ["HTTP/1.1 403 198.18.0.2", "True", "1"]


@needs_root
def test_serve_is_reached_from_this_machine_and_what_is_public_from_others(
    machine: Machine,
) -> None:
    code = """
from nbtcp import cli
cli.main(["serve", sys.argv[1], "--port", "8080", *sys.argv[2:]])
"""
    program = machine.start(code, f"{machine.folder}/www", "--public", "--pcap", "/run/a.pcapng")
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(2)]
    urls = [line.split()[-1] for line in lines]
    assert urls == ["http://198.18.0.2:8080/", "http://198.51.100.2:8080/"]
    server = int((machine.folder / "nginx.pid").read_text())
    elsewhere = ["nsenter", f"--target={server}", "--net", "--"]
    curl = ["curl", "-sS", "--max-time", "100"]
    for where, url in ([*enter(machine.holder)], urls[0]), (elsewhere, urls[1]):
        body = subprocess.check_output([*where, *curl, f"{url}megabyte"], env=ENVIRONMENT)
        assert hashlib.sha256(body).hexdigest() == SHA256
    refused = subprocess.run([*elsewhere, *curl, "http://198.51.100.2:8081/"], capture_output=True)
    assert refused.returncode == 7, "other ports are this machine's own"
    program.terminate()
    assert program.communicate(timeout=PATIENCE) == ("", "")
    assert program.returncode == 0
    assert machine.is_as_before()


@needs_root
def test_segments_fit_the_uplink(machine: Machine) -> None:
    machine.sh("ip link set eth0 mtu 1400")
    code = "page = fetch(sys.argv[1]); say(sha256(page), *page.log.segments.mss.dropna().unique())"
    ours, theirs = machine.says(code, HTTP).split()[1:]
    assert (ours, theirs) == ("1360", "1460")


@needs_root
def test_paths_impair_the_internet(machine: Machine) -> None:
    code = """
from nbtcp.links.path import Path
with Live(Path(delay=0.03)) as host:
    page = host.fetch(sys.argv[1])
say(sha256(page), page.log.rtt().rtt.min() >= 0.06, page.log.meta["up"]["delay"])
"""
    assert machine.says(code, HTTP) == f"{SHA256} True 0.03"


@needs_root
def test_large_segments_are_cut_on_their_way_to_the_internet(machine: Machine) -> None:
    """With an eth0 that can neither cut nor make checksums, so that the server sees the kernel's
    work on what we have sent.
    """
    code = """
import ctypes, fcntl, socket, struct
from nbtcp import Config
ETHTOOL_STXCSUM, SIOCETHTOOL = 0x17, 0x8946
off = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
request = struct.pack("16sP16x", b"eth0", ctypes.addressof(off))
with socket.socket() as sock:
    fcntl.ioctl(sock, SIOCETHTOOL, request)
with Live(config=Config(offload=True), seed=1) as host:
    page = host.fetch(sys.argv[1])
    say(sha256(page), page.log.segments.len.max() > 2 * 1460)
    log = host.new_log()
    with host.connect(("www.example", 80), 60, log=log, initial_window=160_000) as sock:
        head = "POST /megabyte HTTP/1.0", "Host: www.example", "Content-Length: 900000"
        sock.sendall("\\r\\n".join((*head, "", "")).encode())
        sock.sendall(bytes(900_000))
        say(sock.makefile("rb").read()[:12].decode())
    host.settle(log)
    segments = log.segments
    sent = segments[segments.event == "send"]
    acknowledged = segments.snd_una.max() > 900_000
    say(sent.len.max() > 2 * 1460, acknowledged, "timeout" in set(sent.why))
"""
    text = machine.says(code, HTTP)
    assert text.splitlines() == [f"{SHA256} True", "HTTP/1.1 405", "True True False"]


# ---- what can be wrong


@needs_root
def test_a_name_without_address_is_one_clear_line(machine: Machine) -> None:
    unknown, version_6, ourselves = machine.complains(
        *(f"fetch('http://{host}/')" for host in ("nowhere.example", "[2001:db8::1]", "localhost"))
    )
    assert unknown.startswith("gaierror: no IPv4 address for 'nowhere.example': ")
    assert "/etc/resolv.conf" in unknown
    assert version_6.startswith("gaierror: no IPv4 address for '2001:db8::1': ")
    assert ourselves.endswith("is at 198.18.0.1 for ours")


@needs_root
def test_a_closed_port_is_one_clear_line(machine: Machine) -> None:
    (complaint,) = machine.complains("fetch('http://www.example:81/')")
    assert complaint.startswith("ConnectionRefusedError: ")
    assert "198.51.100.80" in complaint
    assert machine.is_as_before()


@needs_root
def test_a_machine_without_default_route_is_one_clear_line(machine: Machine) -> None:
    machine.sh("ip route del default")
    (complaint,) = machine.complains("Live()")
    assert complaint.startswith("MachineError: there is no way into the internet by IPv4 (")
    assert "default route" in complaint
    assert machine.is_as_before()


@needs_root
def test_root_without_the_capability_is_one_clear_line(machine: Machine) -> None:
    code = (
        "if 'again' not in sys.argv:\n"
        "    less = ['setpriv', '--bounding-set=-net_admin', sys.executable]\n"
        "    os.execvp(less[0], [*less, '-c', sys.orig_argv[2], 'again'])\n"
        "complain('Live()')"
    )
    complaint = machine.says(code)
    assert complaint.startswith("MachineError: user 0 may not make the TUN device")
    assert "--cap-add NET_ADMIN" in complaint


@needs_root
def test_a_kernel_without_nftables_is_one_clear_line(machine: Machine) -> None:
    text = "from pyroute2.netlink.nfnetlink import nftsocket; nftsocket.NFNL_SUBSYS_NFTABLES = 200"
    (machine.folder / "sitecustomize.py").write_text(text)
    code = "complain('Live()'); say(Live.clean())"
    complaint, cleaned = machine.says(code, PYTHONPATH=f"{ROOT}:{machine.folder}").splitlines()
    assert cleaned == "[]"
    assert complaint.startswith("MachineError: the kernel refuses a masquerade rule (")
    assert "modprobe" in complaint
    assert machine.is_as_before()


@needs_root
def test_read_only_sysctls_are_one_clear_line(machine: Machine) -> None:
    machine.sh("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys")
    (complaint,) = machine.complains("Live()")
    assert complaint.startswith("MachineError: forwarding cannot be turned on (Read-only")
    assert machine.is_as_before()


@pytest.mark.parametrize(
    "url",
    [
        *("", "www.example", "www.example/a", "localhost:8080/", "ftp://www.example/", "/bytes/10"),
        *("http://", "http:///a", "http://www.example:port/", "http://www.example:65536/"),
        *("http://www.example:0/", "http://www.example:-1/", "http://a\nb/", "http://[::1/"),
    ],
)
def test_what_is_no_url_is_one_line_and_needs_no_root(url: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        fetch(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", [HTTP, HTTPS, "http://192.0.2.1:65535", "HTTP://user:word@a/?q#f"])
def test_what_is_a_url_passes(url: str) -> None:
    check_url(url)


# ---- the machine is left as it was, however a process ends


@needs_root
def test_close_undoes_what_was_done(machine: Machine) -> None:
    code = "with Live() as host:\n    say('ready'); sys.stdin.readline()\n" + WAIT
    program = machine.start(code)
    assert is_ready(program)
    assert machine.snapshot() != machine.before
    print(file=program.stdin, flush=True)
    assert is_ready(program)
    assert machine.is_as_before(), "while the process is still there"


@needs_root
@pytest.mark.parametrize(
    "ending",
    [
        "host = Live()",  # by atexit
        "host = Live(); del host; import gc; gc.collect(); " + WAIT,
        "import threading; t = threading.Thread(target=fetch, args=[sys.argv[1]]); t.start()",
        "host = Live(); fork = os.fork()\nif not fork: sys.exit()\n"
        "os.waitpid(fork, 0); say(sha256(host.fetch(sys.argv[1])) == sys.argv[2])",
        "host = Live(); fork = os.fork()\nif not fork: sys.stdin.read(); os._exit(0)\n"
        "host.close(); say('ready'); os.waitpid(fork, 0)",
    ],
    ids=["forgotten", "collected", "in-a-thread", "forked", "outlived-by-a-fork"],
)
def test_other_endings_undo_it_as_well(machine: Machine, ending: str) -> None:
    program = machine.start(ending + "\n", HTTP, SHA256)
    if "ready" in ending:
        assert is_ready(program)
        assert machine.is_as_before(), "while the process is still there"
    output, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, errors) == (0, "")
    assert "False" not in output
    assert machine.is_as_before()


@needs_root
@pytest.mark.parametrize(
    ("number", "doing"),
    [
        (signal.SIGTERM, "sys.stdin.read()"),
        (signal.SIGTERM, "host.fetch('http://www.example/slow')"),
        (signal.SIGHUP, "time.sleep(300)"),
        (signal.SIGKILL, "host.fetch('http://www.example/slow')"),
    ],
    ids=["waiting", "fetching", "terminal-closed", "killed"],
)
def test_signals_end_the_process_and_all_is_undone(
    machine: Machine, number: signal.Signals, doing: str
) -> None:
    program = machine.start(f"with Live() as host:\n    say('ready'); {doing}")
    assert is_ready(program)
    time.sleep(0.2)
    program.send_signal(number)
    output, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, output, errors) == (-number, "", "")
    assert machine.is_as_before()


@needs_root
def test_a_handler_of_the_user_stays_in_charge(machine: Machine) -> None:
    code = """
def mine(number, frame):
    say(sha256(host.fetch(sys.argv[1])))
    sys.exit(7)
signal.signal(signal.SIGTERM, mine)
host = Live()
assert signal.getsignal(signal.SIGTERM) is mine
"""
    program = machine.start(code + WAIT, HTTP)
    assert is_ready(program)
    program.terminate()
    output, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, output, errors) == (7, SHA256 + "\n", "")
    assert machine.is_as_before()


@needs_root
def test_signals_are_the_users(machine: Machine) -> None:
    code = """
before = [signal.getsignal(number) for number in signal.valid_signals()]
with Live(), Live():
    say(before == [signal.getsignal(number) for number in signal.valid_signals()])
"""
    assert machine.says(code) == "True"


@needs_root
def test_clean_undoes_what_is_left_when_both_programs_are_killed(machine: Machine) -> None:
    leave_all(machine.start("host = Live(); " + KILL + WAIT))
    assert machine.snapshot() != machine.before
    undone = json.loads(machine.says("import json; say(json.dumps(Live.clean()))"))
    assert undone == ["IPv4 forwarding of eth0", "the nftables table ip nbtcp0"]
    assert machine.is_as_before()
    assert machine.says("say(Live.clean())") == "[]"


@needs_root
def test_the_next_start_undoes_what_is_left_when_all_programs_are_killed(machine: Machine) -> None:
    leave_all(
        machine.start(
            "host, other = Live(), Live(); " + KILL + KILL.replace("host", "other") + WAIT
        )
    )
    assert machine.says("say(sha256(fetch(sys.argv[1])))", HTTP) == SHA256
    assert machine.is_as_before()


@needs_root
def test_forwarding_that_was_on_stays_on(machine: Machine) -> None:
    machine.sh("sysctl -qw net.ipv4.ip_forward=1")
    machine.before = machine.snapshot()
    code = "with Live() as host: say(sha256(host.fetch(sys.argv[1])), gateway.noted(gateway.IPV4))"
    assert machine.says(code, HTTP) == f"{SHA256} {{'nbtcp0': {{}}}}"
    assert machine.is_as_before()


@needs_root
def test_forwarding_that_others_turn_on_meanwhile_stays_on(machine: Machine) -> None:
    code = """
with Live():
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("1")
say(*(gateway.read(gateway.IPV4, name, "forwarding") for name in ("all", "eth0")))
"""
    assert machine.says(code) == "1 1"
    machine.before = machine.snapshot()


@needs_root
def test_the_machine_forwards_nothing_but_ours(machine: Machine) -> None:
    """What comes in from the internet for somebody else is not forwarded, as before."""
    machine.sh(
        "ip link add lan0 type veth peer name lan1; sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1\n"
        "ip addr add 203.0.113.1/24 dev lan0; ip link set lan1 up; ip link set lan0 up\n"
        "ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev lan0"
    )
    code = """
from pathlib import Path
def sent():
    return int(Path("/sys/class/net/lan0/statistics/tx_packets").read_text())
with Live():
    say("ready"); sys.stdin.readline()
    say(sent(), gateway.read(gateway.IPV4, "eth0", "forwarding"))
Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
say("ready"); sys.stdin.readline()
while not sent():
    time.sleep(0.01)
say(sent())
"""
    server = int((machine.folder / "nginx.pid").read_text())
    outside = ["nsenter", f"--target={server}", "--net", "--"]
    route = "ip route add 203.0.113.0/24 via 198.51.100.2".split()
    subprocess.run([*outside, *route], check=True)
    packet = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
    packet += "s.sendto(b'x', ('203.0.113.9', 9)); s.close()"
    program = machine.start(code)
    for expected in ("0 1", "1"):
        assert is_ready(program)
        subprocess.run([*outside, sys.executable, "-c", packet], check=True)
        print(file=program.stdin, flush=True)
        assert program.stdout is not None
        assert program.stdout.readline() == f"{expected}\n"
    machine.before = machine.snapshot()  # with ip_forward, which the program has set


# ---- beside others


@needs_root
def test_two_programs_at_once(machine: Machine) -> None:
    code = """
host = Live()
say(host.address)
while line := sys.stdin.readline():
    say(sha256(host.fetch(line.strip())))
host.close()
"""
    first, second = machine.start(code), machine.start(code)

    def ask(program: subprocess.Popen[str], url: str = "") -> str:
        assert program.stdin is not None and program.stdout is not None
        if url:
            print(url, file=program.stdin, flush=True)
        return program.stdout.readline().strip()

    assert {ask(first), ask(second)} == {"198.18.0.2", "198.18.0.6"}
    for program in (first, second):
        print(HTTP, file=program.stdin, flush=True)
    assert ask(first) == ask(second) == SHA256
    assert first.communicate(timeout=PATIENCE) == ("", "")
    assert ask(second, HTTP) == SHA256, "the first has left the second what it needs"
    assert second.communicate(timeout=PATIENCE) == ("", "")
    assert machine.is_as_before()


@needs_root
def test_two_hosts_of_one_program_reach_each_other(machine: Machine) -> None:
    code = """
with Live() as one, Live() as two:
    server = one.listen(8080)
    client = two.connect((one.address, 8080), 60)
    accepted, peer = server.accept()
    client.sendall(b"hello")
    say(accepted.recv(5).decode(), one.address, two.address)
"""
    assert machine.says(code) == "hello 198.18.0.2 198.18.0.6"
    assert machine.is_as_before()


@needs_root
def test_a_ruleset_that_accepts_is_left_alone(machine: Machine) -> None:
    """It even masquerades before ours can."""
    machine.says(RULESET + FILTER, "1")
    machine.before = machine.snapshot()
    assert machine.says("say(sha256(fetch(sys.argv[1])))", HTTP) == SHA256
    assert machine.is_as_before()


@needs_root
def test_a_ruleset_that_drops_is_named_at_once(machine: Machine) -> None:
    machine.says(RULESET + FILTER, "0")
    machine.before = machine.snapshot()
    complaint, inside = machine.complains(
        f"fetch({HTTP!r}, timeout=10 * {PATIENCE})",  # which would be too long for this program
        "with Live() as host: host.connect((host.nat.kernel_address, 9), 60)",
    )
    assert inside.startswith("ConnectionRefusedError: "), "this machine itself is in reach"
    assert complaint.startswith("MachineError: this machine does not forward nbtcp's packets: ")
    assert "the nftables chain ip filter FORWARD is in the way; " in complaint
    assert '`nft insert rule ip filter FORWARD iifname "nbtcp*" accept`' in complaint
    assert machine.is_as_before()
    machine.says(RULESET + LET_PASS)
    machine.before = machine.snapshot()
    assert machine.says("say(sha256(fetch(sys.argv[1])))", HTTP) == SHA256


@needs_root
def test_a_filter_that_nftables_does_not_see_is_suspected(machine: Machine) -> None:
    """Here a policy of routing that keeps our packets, for iptables' own tables may be missing."""
    machine.sh("ip rule add iif nbtcp0 blackhole")
    (complaint,) = machine.complains(f"fetch({HTTP!r}, timeout=0.5)")
    assert complaint.startswith("MachineError: this machine does not forward nbtcp's packets: ")
    assert "iptables -I FORWARD -i nbtcp+ -j ACCEPT" in complaint


# ---- IPv6


@needs_root
def test_a_megabyte_arrives_over_ipv6_and_nothing_stays(
    machine6: Machine, kernel: dict[str, str]
) -> None:
    code = """
for url in sys.argv[1:]:
    page = fetch(url); say(sha256(page), page.log.segments.mss.max())
"""
    text = machine6.says(code, HTTP6, "http://six.example/megabyte", HTTP, **kernel)
    assert text.splitlines() == [f"{SHA256} 1440"] * 3, "IPv6 is first, by RFC 6724"
    masqueraded = (machine6.folder / "access.log").read_text().splitlines()
    assert masqueraded == ["2001:db8::2"] * 3
    assert machine6.is_as_before()


@needs_root
def test_https_over_ipv6_is_verified(machine6: Machine, authority: Path) -> None:
    code = "page = fetch(sys.argv[1]); say(sha256(page), page.log.segments.mss.max())"
    text = machine6.says(code, HTTPS, SSL_CERT_FILE=str(authority / "ca.pem"))
    assert text == f"{SHA256} 1440"


@needs_root
def test_one_family_alone(machine6: Machine) -> None:
    code = """
from nbtcp import cli
for family in 4, 6:
    say(fetch(sys.argv[1], family=family).log.segments.mss.max())
with Live(family=6) as host:
    complain(f"host.fetch('http://198.51.100.80/')"); say(*host.stack.addresses)
cli.main(["fetch", "-6", sys.argv[1], "-o", "/run/body"])
"""
    lines = machine6.says(code, HTTP).splitlines()
    assert lines[:2] == ["1460", "1440"]
    assert "198.51.100.80" in lines[2]
    assert lines[3] == "fd6e:6274:6370::2"
    assert len((machine6.folder / "access.log").read_text().splitlines()) == 3
    assert machine6.is_as_before()


@needs_root
@pytest.mark.parametrize("end", ["type unreachable", "type blackhole", "via 2001:db8::1"])
def test_an_address_that_does_not_answer_is_followed_by_the_next(
    machine6: Machine, end: str
) -> None:
    """The route refuses, is silent, and leads to a port that is closed."""
    hosts = machine6.folder / "hosts"
    hosts.write_text(hosts.read_text().replace(SERVER6, "2001:db8:80::81"))
    kind, where = end.split()
    at = f"{where} 2001:db8:80::81" if kind == "type" else f"2001:db8:80::81 {end}"
    machine6.sh(f"ip route add {at}")
    machine6.server("ip route add unreachable 2001:db8:80::81")
    code = """
import asyncio
from nbtcp import aio
Live.patience = 1
async def main():
    _, writer = await aio.open_connection(host, "www.example", 80)
    writer.close(); await writer.wait_closed()
    say(writer.get_extra_info("peername"))
with Live() as host:
    say(sha256(host.fetch(sys.argv[1])))
    asyncio.run(main())
    with host.socket() as sock:
        sock.connect(("www.example", 80))
        say(sock.getpeername())
"""
    fetched, *names = machine6.says(code, HTTP).splitlines()
    assert fetched == SHA256
    assert names == ["('198.51.100.80', 80)"] * 2, "the second for it is of the socket's family"


@needs_root
def test_without_a_way_by_ipv6_nothing_of_it_is_touched(machine6: Machine) -> None:
    machine6.sh("ip -6 route del default")
    code = """
with Live() as host:
    say(*host.stack.addresses, gateway.noted(gateway.IPV6), sha256(host.fetch(sys.argv[1])))
    say(gateway.read(gateway.IPV6, "eth0", gateway.switch(gateway.IPV6)))
    complain("host.fetch('http://[2001:db8:80::80]/')")
complain("Live(family=6)")
"""
    first, switch, literal, refused = machine6.says(code, HTTP).splitlines()
    assert (first, switch) == (f"198.18.0.2 {{}} {SHA256}", "0")
    reason = "there is no way into the internet by IPv6 ("
    assert "gaierror: no IPv4 address for '2001:db8:80::80': " in literal
    assert reason in literal
    assert refused.startswith(f"MachineError: {reason}")


@needs_root
def test_a_machine_of_ipv6_alone(machine6: Machine, kernel: dict[str, str]) -> None:
    machine6.sh("ip -4 route del default")
    machine6.before = machine6.snapshot()
    code = """
with Live() as host:
    say(sha256(host.fetch(sys.argv[1])), host.address, host.publish(8080))
    listener = host.listen(8080); say("ready"); sock = listener.accept()[0]; sock.close()
"""
    program = machine6.start(code, HTTP, **kernel)
    assert program.stdout is not None
    assert program.stdout.readline() == f"{SHA256} fd6e:6274:6370::2 2001:db8::2\n"
    assert is_ready(program)
    connect = 'import socket; socket.create_connection(("2001:db8::2", 8080), 60).recv(1)'
    machine6.server(f"{sys.executable} -c '{connect}'")
    assert program.communicate(timeout=PATIENCE) == ("", "")
    assert machine6.is_as_before()


@needs_root
def test_killed_programs_leave_no_ipv6(machine6: Machine, kernel: dict[str, str]) -> None:
    program = machine6.start("with Live(): " + WAIT, **kernel)
    assert is_ready(program)
    program.kill()
    program.communicate()
    assert machine6.is_as_before()
    leave_all(machine6.start("host = Live(); " + KILL + WAIT, **kernel))
    assert machine6.snapshot() != machine6.before
    undone = json.loads(machine6.says("import json; say(json.dumps(Live.clean()))", **kernel))
    assert undone[2:] == ["IPv6 forwarding of eth0", "the nftables table ip6 nbtcp0"]
    assert machine6.is_as_before()
    leave_all(machine6.start("host, other = Live(), Live(); " + KILL + WAIT, **kernel))
    assert machine6.says("say(sha256(fetch(sys.argv[1])))", HTTP6, **kernel) == SHA256
    assert machine6.is_as_before()


@needs_root
def test_two_programs_at_once_over_ipv6(machine6: Machine, kernel: dict[str, str]) -> None:
    code = """
host = Live()
say(host.stack.addresses[1])
sys.stdin.readline()
say(sha256(host.fetch(sys.argv[1])))
host.close()
"""
    both = [machine6.start(code, HTTP6, **kernel) for _ in range(2)]
    addresses = {program.stdout.readline() for program in both if program.stdout}
    assert addresses == {"fd6e:6274:6370::2\n", "fd6e:6274:6370::6\n"}
    for program in both:  # the first has ended when the second begins
        assert program.communicate("\n", timeout=PATIENCE) == (SHA256 + "\n", "")
    assert machine6.is_as_before()


ADVERTISE = """
import socket, struct, sys
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    life = int(sys.argv[1])
    there = ("ff02::1", 0, 0, socket.if_nametoindex("eth0"))
    sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 0, 0, life, 0, 0), there)
"""


@needs_root
def test_a_default_route_that_is_advertised_stays_and_is_renewed(
    machine6: Machine, kernel: dict[str, str]
) -> None:
    """RFC 4861 6.2: a host that has become a router would not listen any more."""
    (machine6.folder / "advertise.py").write_text(ADVERTISE)
    advertise = f"{sys.executable} {machine6.folder}/advertise.py"
    machine6.sh("ip -6 route del default")
    machine6.server("sysctl -qw net.ipv6.conf.eth0.forwarding=1")  # who is no router is forgotten
    machine6.server(f"{advertise} 1800")
    code = """
import subprocess
def lifetime():
    words = subprocess.check_output("ip -6 route show default".split(), text=True).split()
    return int(words[words.index("expires") + 1].removesuffix("sec")) if words else 0
def wait(least):
    end = time.monotonic() + 60
    while not lifetime() > least:
        assert time.monotonic() < end
        time.sleep(0.01)
    return True
with Live() as host:
    say(wait(1000)); sys.stdin.readline()
    say(sha256(host.fetch(sys.argv[1])), wait(2000))
say(wait(2000), gateway.read(gateway.IPV6, "eth0", "accept_ra"))
"""
    program = machine6.start(code, HTTP6, **kernel)
    assert program.stdout is not None
    assert program.stdout.readline() == "True\n"
    machine6.server(f"{advertise} 9000")
    assert program.communicate("\n", timeout=PATIENCE) == (f"{SHA256} True\nTrue 1\n", "")
    machine6.before = machine6.snapshot()  # the route's lifetime runs down: looked at above


@needs_root
def test_ipv6_forwarding_that_was_on_stays_on(machine6: Machine, kernel: dict[str, str]) -> None:
    machine6.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    machine6.before = machine6.snapshot()
    code = "with Live() as host: say(sha256(host.fetch(sys.argv[1])), gateway.noted(gateway.IPV6))"
    assert machine6.says(code, HTTP6, **kernel) == f"{SHA256} {{'nbtcp0': {{}}}}"
    assert machine6.is_as_before()


@needs_root
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_the_machine_forwards_nothing_but_ours_over_ipv6(
    machine6: Machine, kernel: dict[str, str], when: str
) -> None:
    lan = (
        "ip link add lan0 type veth peer name lan1\n"
        "ip addr add 2001:db8:9::1/64 dev lan0; ip link set lan1 up; ip link set lan0 up\n"
        "ip neigh add 2001:db8:9::9 lladdr 02:00:00:00:00:09 dev lan0"
    )
    machine6.server("ip route add 2001:db8:9::/64 via 2001:db8::2")
    code = """
import socket, subprocess
def make_lan():
    subprocess.run(["sh", "-ec", sys.argv[1]], check=True)
if sys.argv[2] == "before":
    make_lan()
host = Live()
if sys.argv[2] == "meanwhile":
    make_lan()
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
sniffer.bind(("lan1", 0x86DD))
def arrived(patience):
    sniffer.settimeout(patience)
    try:
        while sniffer.recv(2000)[24:40] != socket.inet_pton(socket.AF_INET6, "2001:db8:9::9"):
            pass
        return True
    except TimeoutError:
        return False
with host:
    say("ready"); sys.stdin.readline()
    say(arrived(0.2))
gateway.IPV6.sysctl("all", "forwarding").write_text("1")
say("ready"); sys.stdin.readline()
say(arrived(60))
sniffer.close()
"""
    packet = "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); "
    packet += 's.sendto(b"x", ("2001:db8:9::9", 9)); s.close()'
    program = machine6.start(code, lan, when, **kernel)
    for expected in (False, True):
        assert is_ready(program)
        machine6.server(f"{sys.executable} -c '{packet}'")
        print(file=program.stdin, flush=True)
        assert program.stdout is not None
        assert program.stdout.readline() == f"{expected}\n"
    machine6.sh("ip link del lan0; sysctl -qw net.ipv6.conf.all.forwarding=0")


@needs_root
def test_a_ruleset_that_drops_ipv6_is_named(machine6: Machine) -> None:
    ruleset = RULESET.replace("NFTables()", "NFTables(nfgen_family=10)")
    machine6.says(ruleset + FILTER, "0")
    machine6.before = machine6.snapshot()
    complaint, other = machine6.complains(
        f"fetch({HTTP6!r})", f"raise Warning(sha256(fetch({HTTP!r})))"
    )
    assert complaint.startswith("MachineError: this machine does not forward nbtcp's packets: ")
    assert "the nftables chain ip6 filter FORWARD is in the way; " in complaint
    assert '`nft insert rule ip6 filter FORWARD iifname "nbtcp*" accept`' in complaint
    assert other == f"Warning: {SHA256}", "by IPv4"


@needs_root
def test_read_only_sysctls_of_ipv6_leave_ipv4(machine6: Machine) -> None:
    machine6.sh("mount --bind /proc/sys/net/ipv6 /proc/sys/net/ipv6")
    machine6.sh("mount -o remount,bind,ro /proc/sys/net/ipv6")
    code = "say(sha256(fetch(sys.argv[1]))); complain('Live(family=6)')"
    fetched, complaint = machine6.says(code, HTTP).splitlines()
    assert fetched == SHA256
    assert complaint.startswith("MachineError: forwarding cannot be turned on (Read-only")
    assert "net.ipv6.conf.all.forwarding=1" in complaint
    assert machine6.is_as_before()


# ---- addresses


def networks(*texts: str) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text) for text in texts]


@pytest.mark.parametrize(
    ("routes", "pair"),
    [
        ([], ("198.18.0.1", "198.18.0.2")),
        (["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"], ("198.18.0.1", "198.18.0.2")),
        (["198.18.0.2/32"], ("198.18.0.5", "198.18.0.6")),
        (["198.18.0.0/16"], ("198.19.0.1", "198.19.0.2")),
        (["198.18.0.0/15"], ("100.64.0.1", "100.64.0.2")),
        (["198.0.0.0/8"], ("100.64.0.1", "100.64.0.2")),
        (["198.18.0.0/16", "198.19.0.0/16"], ("100.64.0.1", "100.64.0.2")),
    ],
    ids=lambda value: ",".join(value) or "none" if isinstance(value, list) else None,
)
def test_addresses_are_of_nobodys_network(routes: list[str], pair: tuple[str, str]) -> None:
    assert free_pair(networks(*routes)) == pair


def test_addresses_of_ipv6_are_of_nobodys_network() -> None:
    taken = [ipaddress.IPv6Network(text) for text in ("::/0", "fc00::/7", "fd6e:6274:6370::1/128")]
    assert free_pair(taken, POOLS6) == ("fd6e:6274:6370::5", "fd6e:6274:6370::6")


def test_a_machine_with_routes_everywhere_has_no_address_for_us() -> None:
    with pytest.raises(Refusal, match=r"no address is free: .* 198\.18\.0\.0/15"):
        free_pair(networks(*POOLS))


@needs_root
def test_an_address_in_use_is_not_taken(machine: Machine) -> None:
    machine.sh("ip route add blackhole 198.18.0.0/24 table 99; ip addr add 198.18.1.1/24 dev lo")
    machine.before = machine.snapshot()
    code = "with Live() as host: say(host.address, host.nat.kernel_address)"
    assert machine.says(code) == "198.18.2.2 198.18.2.1"
    assert machine.is_as_before()


def test_live_needs_nothing_heavy_to_be_imported() -> None:
    code = "import sys, nbtcp.live; print({'pyroute2', 'httpx', 'pandas'} & set(sys.modules))"
    done: Any = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
    assert callable(Live.clean)
