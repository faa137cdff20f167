"""A small internet of real programs: names from dnsmasq, a narrow path, iperf3, wget, openssl.

To the LAN of test_lan.py this adds what lies behind its router, which masquerades now: a backbone
whose two routes carry packets of 1300 octets at most, and a server at 203.0.113.80 (RFC 5737) with
nginx, HTTP/2 and TLS. The router is the resolver too, which alone knows that this is www.example,
and takes it for ftp.gnu.org besides: notebook 08 runs here as it is.
After each test the user's machine is compared with what it was (`Machine.end`).
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_lan import ADDRESS, Network, needs_root, output
from test_lan import network as network
from test_live import (
    ENVIRONMENT,
    KILL,
    MEGABYTE,
    PATH,
    PATIENCE,
    ROOT,
    RULESET,
    SHA256,
    SOAK,
    WAIT,
    enter,
    is_ready,
    leave_all,
    namespace,
    run,
)
from test_live import authority as authority

USER = "192.0.2.2"  # where a Live host's servers are, for others
MTU = 1300

# How our host gets on the network, and at which address others reach its servers.
HOSTS = {"lan": 'Lan("eth0", "192.0.2.77", patience=0.01)', "live": "Live()"}
SERVERS = {"lan": ADDRESS, "live": USER}

either = pytest.mark.parametrize("way", ["lan", "live"])

MASQUERADE = """
nft.table("add", name="nat")
chain("nat", "out", hook="postrouting", type="nat", priority=100, policy=1)
for name in b"eth0\\0", b"eth1\\0":
    nft.rule("add", table="nat", chain="out", expressions=(interface(7, name), masq()))
nft.close()
"""

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; client_max_body_size 2m;
  log_format from "$remote_addr $server_protocol $request_method";
  access_log {folder}/access.log from;
  server {{
    listen 80; listen 443 ssl http2; server_name www.example; root {folder}; dav_methods PUT;
    ssl_protocols TLSv1.2 TLSv1.3;  # nginx 1.22 offers the newer one only when told to
    ssl_certificate {authority}/www.pem; ssl_certificate_key {authority}/key.pem;
  }}
}}
"""

PRELUDE = """
import nbtcp
from nbtcp.lan import Lan
trust = ssl.create_default_context(cafile={authority!r} + "/ca.pem")
"""


class Internet:
    """The machines, the folder that nginx serves, and the log of dnsmasq."""

    def __init__(
        self,
        lan: Network,
        backbone: subprocess.Popen[bytes],
        far: subprocess.Popen[bytes],
        authority: Path,
        folder: Path,
    ) -> None:
        self.user, self.neighbour, self.router = lan
        self.backbone, self.far = backbone, far
        self.authority, self.folder = authority, folder
        self.site, self.queries = folder / "site", folder / "queries"
        self.prelude = PRELUDE.format(authority=str(authority))

    def says(self, code: str, *arguments: str) -> str:
        return self.user.says(self.prelude + code, *arguments)

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        return self.user.start(self.prelude + code, *arguments)

    def neighbour_runs(self, *command: object, **options: Any) -> bytes:
        """What a program of the neighbour prints that succeeds."""
        full = [*enter(self.neighbour), *map(str, command)]
        done = subprocess.run(
            full, env=ENVIRONMENT, capture_output=True, timeout=PATIENCE, **options
        )
        assert done.returncode == 0, (done.stdout[-500:], done.stderr[-500:])
        return done.stdout


@pytest.fixture
def internet(network: Network, authority: Path, tmp_path: Path) -> Iterator[Internet]:
    for program in "dnsmasq", "iperf3", "wget", "ab", "ss", "nft", "iptables", "chromium":
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"needs the program {program}")
    (tmp_path / "user" / "hosts").write_text("127.0.0.1 localhost\n")  # else nobody asks dnsmasq
    with ExitStack() as stack:
        backbone, far = (
            stack.enter_context(namespace(made(tmp_path / name))) for name in ("backbone", "far")
        )
        internet = Internet(network, backbone, far, authority, tmp_path)
        join(network.router, backbone, far)
        stack.enter_context(dnsmasq(internet))
        stack.enter_context(nginx(internet))
        yield internet


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def join(
    router: subprocess.Popen[bytes], backbone: subprocess.Popen[bytes], far: subprocess.Popen[bytes]
) -> None:
    """Links and routes from the router to the far server; interfaces carry 1500 octets."""
    run(
        backbone,
        f"ip link add eth0 type veth peer name eth1 netns {router.pid}",
        f"ip link add eth1 type veth peer name eth0 netns {far.pid}",
        "ip addr add 203.0.113.2/30 dev eth0; ip addr add 203.0.113.65/26 dev eth1",
        "ip link set eth0 up; ip link set eth1 up; sysctl -qw net.ipv4.ip_forward=1",
        f"ip route change 203.0.113.0/30 dev eth0 src 203.0.113.2 mtu {MTU}",
        f"ip route change 203.0.113.64/26 dev eth1 src 203.0.113.65 mtu {MTU}",
    )
    run(
        router,
        "ip addr add 203.0.113.1/30 dev eth1; ip link set eth1 up",
        "ip route add 203.0.113.64/26 via 203.0.113.2",
    )
    run(
        far,
        "ip addr add 203.0.113.80/26 dev eth0; ip link set eth0 up",
        "ip route add default via 203.0.113.65",
    )
    command = [*enter(router), sys.executable, "-c", RULESET + MASQUERADE]
    subprocess.run(command, check=True, env=ENVIRONMENT)


class started:
    """A program in a namespace, which is ready when a file is there and says so, until left."""

    def __init__(
        self, holder: subprocess.Popen[bytes], *command: str, file: Path, word: str = ""
    ) -> None:
        self.program = subprocess.Popen(
            [*enter(holder), *command], env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        self.name, self.file, self.word = command[0], file, word

    def __enter__(self) -> subprocess.Popen[bytes]:
        end = time.monotonic() + PATIENCE
        while not (self.file.exists() and self.word in self.file.read_text()):
            late = self.program.poll() is not None or time.monotonic() > end
            assert not late, f"{self.name} did not start"
            time.sleep(0.01)
        return self.program

    def __exit__(self, *problem: object) -> None:
        self.program.kill()
        self.program.wait()


def dnsmasq(internet: Internet) -> started:
    """The resolver of the LAN: it knows two names, and that there is no other in .example."""
    knows = "--host-record=www.example,ftp.gnu.org,203.0.113.80", "--local=/example/"
    alone = "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root"
    here = "--keep-in-foreground", "--bind-interfaces", "--listen-address=198.51.100.1"
    log = "--log-queries", f"--log-facility={internet.queries}"
    command = ("dnsmasq", *here, *alone, *knows, *log)
    return started(internet.router, *command, file=internet.queries, word="started")


def nginx(internet: Internet) -> started:
    site = made(internet.site)
    (site / "megabyte").write_bytes(MEGABYTE)
    (site / "nginx.conf").write_text(NGINX.format(folder=site, authority=internet.authority))
    return started(internet.far, "nginx", "-p", str(site), "-c", "nginx.conf", file=site / "pid")


# ---- names


FETCH = """
from subprocess import run
for url in sys.argv[1:]:
    done = run([sys.executable, "-m", "nbtcp.cli", "fetch", url], capture_output=True)
    say(done.returncode, len(done.stdout), done.stderr.decode().strip())
"""


@needs_root
def test_the_command_line_fetches_by_a_name_from_the_resolver(internet: Internet) -> None:
    known, unknown = internet.says(
        FETCH, "http://www.example/megabyte", "http://nowhere.example/"
    ).splitlines()
    assert known == "0 1000000 "
    no_name = (
        "1 0 nbtcp: no IPv4.* address for 'nowhere.example': Name or service not known; check .*"
    )
    assert re.fullmatch(no_name, unknown)
    queries = internet.queries.read_text()
    assert f"query[A] www.example from {USER}" in queries
    assert "nowhere.example is NXDOMAIN" in queries
    assert (internet.site / "access.log").read_text() == "203.0.113.1 HTTP/1.1 GET\n", "by two NATs"


@needs_root
def test_a_resolver_that_is_gone_is_one_clear_line(internet: Internet) -> None:
    internet.user.sh("echo nameserver 198.51.100.80 >/etc/resolv.conf")
    said = internet.says(FETCH, "http://www.example/megabyte")
    why = "Temporary failure in name resolution; check the name and /etc/resolv.conf.*"
    assert re.fullmatch(f"1 0 nbtcp: no IPv4.* address for 'www.example': {why}", said)


# ---- the notebook that fetches from the internet

NOTEBOOKS, CELLS = ROOT / "notebooks", ROOT / "tests" / "cells.py"
LESSON, SOLUTIONS = "08-live-https.ipynb", "solutions/08-live-https.ipynb"
FILE = "gnu/hello/hello-2.1.1.tar.gz"
ASKED = {
    LESSON: {"HTTP/1.1 GET": 4, "HTTP/2.0 HEAD": 3, "HTTP/2.0 GET": 1},
    SOLUTIONS: {"HTTP/1.1 GET": 2},  # the third fetch does not trust the certificate
}


@needs_root
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [LESSON, SOLUTIONS] if SOAK else [LESSON])
def test_notebook_08_runs_live(internet: Internet, name: str) -> None:
    """From top to bottom, as it is, and where there are no recordings: the server has answered each
    fetch, and the predictions come out as they are stored.
    """
    file = internet.site / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(MEGABYTE[:250_000])
    notebook = shutil.copy(NOTEBOOKS / name, internet.folder)
    there = {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": f"{internet.authority}/ca.pem"}
    environment = {**ENVIRONMENT, **there, "NBTCP_OFFLINE": ""}
    command = [*enter(internet.user.holder), sys.executable, CELLS, notebook]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    said = done.stdout
    assert "recording instead" not in said
    stored = [line for line in lines(NOTEBOOKS / name) if re.search("; answer: |mismatch", line)]
    assert stored and [line for line in stored if line not in said] == []
    requests = (internet.site / "access.log").read_text().splitlines()
    assert Counter(requests) == {f"203.0.113.1 {what}": n for what, n in ASKED[name].items()}


def lines(notebook: Path) -> list[str]:
    """What its cells had printed and shown when it was stored."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if "outputs" in cell]
    stored = [one for cell in cells for one in cell.outputs]
    text = [one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in stored]
    return "\n".join(text).splitlines()


# ---- a path that carries less than its ends


TRANSFERS = """
from nbtcp import Config, http
body = bytes(range(250)) * 2000
with HOST as host:
    for name in "first", "second":
        log = host.new_log()
        with http.client(host, verify=trust, log=log) as client:
            status = client.put(f"https://www.example/{name}", content=body).status_code
            page = client.get("https://www.example/megabyte")
        host.settle(log)
        events, segments = log.events, log.segments
        icmp = events[(events.event == "icmp") & (events.why == "packet-too-big")]
        again = segments[segments.why == "packet-too-big"]
        sent = segments[(segments.event == "send") & (segments.len > 0)]
        say(status, page.http_version, sha256(page), "timeout" in set(sent.why))
        say(*icmp.new, *icmp.value.astype(int), *again.len.head(1), sent.len.max())
"""


@needs_root
@either
def test_a_narrow_path_is_discovered(internet: Internet, way: str) -> None:
    """By HTTP/2 over TLS; the routers' ICMP finds its way through all NATs, and is remembered."""
    first, told, second, remembered = internet.says(
        TRANSFERS.replace("HOST", HOSTS[way])
    ).splitlines()
    assert first == second == f"201 HTTP/2 {SHA256} False"
    whole, least = 1500 - 52, MTU - 52  # with timestamps
    assert told == f"fragmentation-needed {MTU} {least} {whole}"
    assert remembered == str(least)
    for name in "first", "second":
        assert (internet.site / name).read_bytes() == bytes(range(250)) * 2000
    assert (internet.site / "access.log").read_text().split("\n")[0] == "203.0.113.1 HTTP/2.0 PUT"
    assert icmp_count(internet.backbone, "OutDestUnreachs") > 1
    assert icmp_count(internet.far, "InDestUnreachs") > 0, "the server has been told as well"


@needs_root
def test_a_narrow_path_is_discovered_by_large_segments(internet: Internet) -> None:
    """The kernel refuses one that it would have had to cut into pieces of 1500 octets."""
    host = "Live(config=Config(offload=True))"
    first, told, second, remembered = internet.says(TRANSFERS.replace("HOST", host)).splitlines()
    assert first == second == f"201 HTTP/2 {SHA256} False"
    kind, mtu, again, largest = told.split()
    assert (kind, int(mtu), int(again) % (MTU - 52)) == ("fragmentation-needed", MTU, 0)
    assert int(largest) > 1448 and int(remembered) > MTU
    for name in "first", "second":
        assert (internet.site / name).read_bytes() == bytes(range(250)) * 2000


def icmp_count(holder: subprocess.Popen[bytes], name: str) -> int:
    """A counter of the kernel's."""
    names, values = output(holder, "grep ^Icmp: /proc/net/snmp").splitlines()
    return int(values.split()[names.split().index(name)])


# ---- servers of ours


SERVE = """
from nbtcp import cli
os.chdir(sys.argv[1])
cli.main(["serve", *sys.argv[2:]])
"""
APPLICATION = """
def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", [("Content-Type", "text/html")])
    return [environ["REQUEST_METHOD"].encode(), b" hello ", body]
"""
SERVE_OPTIONS = {"lan": ("--lan", "eth0", "--address", ADDRESS), "live": ("--public",)}


@needs_root
@either
def test_a_directory_is_served(internet: Internet, way: str) -> None:
    """To wget, to Chromium, and to a hundred clients at once, a thousand in all."""
    (internet.site / "small").write_bytes(MEGABYTE[:1000])
    (internet.site / "page.html").write_text("<p id='p'></p><script src='name.js'></script>")
    (internet.site / "name.js").write_text("p.textContent = 'nb' + 'tcp'")
    program, url = serve(internet, way, ".")
    shown = chromium(internet, f"{url}/page.html")
    assert '<p id="p">nbtcp</p>' in shown
    assert internet.neighbour_runs("wget", "-qO-", "-T100", f"{url}/megabyte") == MEGABYTE
    said = internet.neighbour_runs("ab", "-q", "-n", 1000, "-c", 100, f"{url}/small").decode()
    counts = [line.split()[-1] for line in said.splitlines() if "requests: " in line]
    assert counts == ["1000", "0"], "complete, and failed"
    assert "Non-2xx" not in said and "HTML transferred:       1000000 bytes" in said
    program.terminate()
    assert program.communicate(timeout=PATIENCE) == ("", "")


@needs_root
def test_an_application_is_served(internet: Internet) -> None:
    """To curl, with a body of two megabytes, and to wget."""
    (internet.site / "hello.py").write_text(APPLICATION)
    program, url = serve(internet, "live", "--wsgi", "hello:app")
    body = b"b" * 2_000_000
    said = internet.neighbour_runs("curl", "-sS", "--data-binary", "@-", f"{url}/up", input=body)
    assert said == b"POST hello " + body
    assert internet.neighbour_runs("wget", "-qO-", "-T100", f"{url}/") == b"GET hello "
    program.terminate()
    assert program.communicate(timeout=PATIENCE) == ("", "")


def serve(internet: Internet, way: str, *what: str) -> tuple[subprocess.Popen[str], str]:
    """`nbtcp serve`, started where the site is, and its URL for others."""
    program = internet.start(SERVE, str(internet.site), *what, *SERVE_OPTIONS[way])
    assert program.stdout is not None
    lines = [program.stdout.readline() for _ in range(1 + (way == "live"))]
    url = f"http://{SERVERS[way]}:8000"
    assert lines[-1].split()[-1] == url + "/"
    return program, url


def chromium(internet: Internet, url: str) -> str:
    """The page as the browser of the neighbour has built it."""
    profile = f"--user-data-dir={internet.folder}/profile"
    options = "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", profile
    return internet.neighbour_runs("chromium", *options, url).decode()


SECURE = """
import asyncio, contextlib
from nbtcp import aio
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/www.pem", sys.argv[1] + "/key.pem")
with open(sys.argv[2], "rb") as file:
    body = file.read()
served = asyncio.Semaphore(0)
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    writer.close()
    with contextlib.suppress(ConnectionError):  # as by a client that takes the last words unread
        await writer.wait_closed()
    served.release()
async def main(host):
    if isinstance(host, Live):
        host.publish(443)
    async with await aio.start_server(host, serve, 443, ssl=context):
        say("ready")
        for _ in range(3):
            await served.acquire()
with HOST as host:
    asyncio.run(main(host))
"""


@needs_root
@either
def test_tls_is_served(internet: Internet, way: str) -> None:
    """To `openssl s_client`, wget and curl, which verify the authority and the name."""
    (internet.folder / "neighbour" / "hosts").write_text(f"{SERVERS[way]} www.example\n")
    code = SECURE.replace("HOST", HOSTS[way])
    program = internet.start(code, str(internet.authority), str(internet.site / "megabyte"))
    assert is_ready(program)
    ca = f"{internet.authority}/ca.pem"
    verify = ("-CAfile", ca, "-verify_return_error", "-verify_hostname", "www.example")
    connect = "openssl", "s_client", "-quiet", "-connect", "www.example:443"
    answer = internet.neighbour_runs(*connect, *verify, input=b"GET / HTTP/1.0\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == MEGABYTE
    wget = "wget", "-qO-", "-T100", f"--ca-certificate={ca}"
    for client in wget, ("curl", "-sS", "--cacert", ca):
        assert internet.neighbour_runs(*client, "https://www.example") == MEGABYTE
    assert program.communicate(timeout=PATIENCE) == ("", "")


# ---- iperf3, whose two connections a relay takes to its server


RELAY = """
import contextlib, json, socket, threading
def pump(source, sink, name, counts):
    counts[name] = 0
    with contextlib.suppress(ConnectionError):  # iperf3 may hang up before it has read everything
        while data := source.recv(1 << 16):
            counts[name] += len(data)
            with contextlib.suppress(OSError):
                sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
with HOST as host, contextlib.ExitStack() as stack:
    host.stack.config = host.stack.config.but(receive_buffer=200_000, autotune=False)
    if isinstance(host, Live):
        host.publish(5201)
    listener = stack.enter_context(host.listen(5201))
    say("ready")
    while sys.stdin.readline():
        threads, counts = [], {}
        for kind in "control", "data":
            client = stack.enter_context(listener.accept()[0])
            server = stack.enter_context(socket.socket())
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            server.connect(("127.0.0.1", 5201))
            ways = (client, server, kind + " from client"), (server, client, kind + " from server")
            for way in ways:
                threads.append(threading.Thread(target=pump, args=(*way, counts)))
                threads[-1].start()
        for thread in threads:
            thread.join()
        say(json.dumps(counts))
"""
COOKIE = 37  # octets at the beginning of each connection of iperf3's
OCTETS = 4 << 20


@needs_root
@either
def test_iperf3_measures_through_a_relay(internet: Internet, way: str) -> None:
    """Client and server tell each other, by our TCP, what they have counted: they say the same.

    The one that reads stops when it hears that the other is done, on the connection for control,
    which may be before all data is there. What was sent our TCP has brought to the relay.
    """
    program = internet.start(RELAY.replace("HOST", HOSTS[way]))
    assert is_ready(program)

    here, there, relayed = iperf3(internet, program, SERVERS[way])
    sent, received = octets(here, "sum_sent"), octets(here, "sum_received")
    assert sent == relayed["data from client"] - COOKIE >= OCTETS
    assert sent >= received == octets(there, "sum_received") > OCTETS / 2

    here, there, relayed = iperf3(internet, program, SERVERS[way], "--reverse")
    sent, received = octets(there, "sum_sent"), octets(here, "sum_received")
    assert sent == relayed["data from server"] == octets(here, "sum_sent")
    assert sent >= received >= OCTETS

    assert program.communicate(timeout=PATIENCE) == ("", "")


def octets(report: dict[str, Any], name: str) -> int:
    count: int = report["end"][name]["bytes"]
    return count


def iperf3(
    internet: Internet, relay: subprocess.Popen[str], address: str, *options: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """What client and server report, and what the relay has counted.

    At 40 Mbit/s and with small buffers, so that not much is on its way when all has been sent.
    """
    inside, pipe = enter(internet.user.holder), subprocess.PIPE
    command = [*inside, "iperf3", "--server", "--one-off", "--json", "--bind", "127.0.0.1"]
    listens = "until ss -Htln sport = 5201 | grep -q .; do sleep 0.01; done"
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe) as server:
        try:
            waits = [*inside, "sh", "-c", listens]
            subprocess.run(waits, check=True, timeout=PATIENCE, env=ENVIRONMENT)
            assert relay.stdin is not None and relay.stdout is not None
            print(file=relay.stdin, flush=True)
            client = "iperf3", "--client", address, "--json", "--bytes", OCTETS, "--bitrate", "40M"
            here = json.loads(internet.neighbour_runs(*client, "--window", "200K", *options))
            there = json.loads(server.communicate(timeout=PATIENCE)[0])
            return here, there, json.loads(relay.stdout.readline())
        finally:
            server.kill()


# ---- beside other programs' rules

# As Docker 24 makes them, by iptables.
DOCKER = """
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -N DOCKER; iptables -N DOCKER-USER; iptables -N DOCKER-ISOLATION-STAGE-1
iptables -P FORWARD DROP
iptables -A FORWARD -j DOCKER-USER
iptables -A FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -o docker0 -j DOCKER
iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables -A DOCKER-ISOLATION-STAGE-1 -j RETURN; iptables -A DOCKER-USER -j RETURN
"""
# As firewalld 1.3 makes them, for nobody's interface.
ZONES = """
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    reject with icmpx admin-prohibited
"""
FIREWALLD = f"""
nft -f - <<END
table inet firewalld {{
  chain filter_INPUT {{
    type filter hook input priority filter + 10; policy accept; {ZONES}
  }}
  chain filter_FORWARD {{
    type filter hook forward priority filter + 10; policy accept; {ZONES}
  }}
  chain nat_POSTROUTING {{ type nat hook postrouting priority srcnat + 10; policy accept; }}
}}
END
"""
# As NetworkManager 1.42 makes them for a connection that it shares with others.
NETWORK_MANAGER = """
ip link add wlan0 type bridge; ip addr add 10.42.0.1/24 dev wlan0; ip link set wlan0 up
nft -f - <<END
table ip nm-shared-wlan0 {
  chain nat_postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.42.0.0/24 ip daddr != 10.42.0.0/24 masquerade
  }
  chain filter_forward {
    type filter hook forward priority filter; policy accept;
    ip daddr 10.42.0.0/24 oifname "wlan0" ct state { established, related } accept
    ip saddr 10.42.0.0/24 iifname "wlan0" accept
    iifname "wlan0" oifname "wlan0" accept
    iifname "wlan0" reject
    oifname "wlan0" reject
  }
}
END
"""


@needs_root
def test_rules_for_others_stand_in_nobodys_way(internet: Internet) -> None:
    """NetworkManager's, and Docker's and firewalld's where they let pass: see the next test."""
    internet.user.sh(NETWORK_MANAGER)
    ruleset = "nft --stateless list ruleset"
    before = output(internet.user.holder, ruleset)
    assert internet.says("say(sha256(fetch('http://www.example/megabyte')))") == SHA256
    assert output(internet.user.holder, ruleset) == before
    internet.user.sh("nft flush ruleset; ip link del wlan0")


@needs_root
@pytest.mark.parametrize(
    ("rules", "chains"),
    [
        (DOCKER, "ip filter FORWARD"),
        (FIREWALLD, "inet firewalld filter_FORWARD"),
        (DOCKER + FIREWALLD, "ip filter FORWARD or inet firewalld filter_FORWARD"),
    ],
    ids=["docker", "firewalld", "both"],
)
def test_rules_that_stand_in_the_way_are_named(internet: Internet, rules: str, chains: str) -> None:
    """With the commands that help, which are run here as they were said."""
    internet.user.sh(rules)
    ruleset = "nft --stateless list ruleset"  # without its counters
    before = output(internet.user.holder, ruleset)
    (complaint,) = internet.user.complains("fetch('http://www.example/megabyte')")
    assert complaint.startswith("MachineError: this machine does not forward nbtcp's packets: ")
    assert f"the nftables chain {chains} is in the way" in complaint
    assert output(internet.user.holder, ruleset) == before
    for command in re.findall("`(nft [^`]+)`", complaint):
        internet.user.sh(command)
        internet.user.sh(command.replace("iifname", "oifname"))
    before = output(internet.user.holder, ruleset)
    assert internet.says("say(sha256(fetch('http://www.example/megabyte')))") == SHA256
    assert output(internet.user.holder, ruleset) == before
    internet.user.sh("nft flush ruleset")


# ---- what a killed program leaves


@needs_root
def test_doctor_undoes_what_is_left(internet: Internet) -> None:
    leave_all(internet.start("host = Live(); " + KILL + WAIT))
    code = """
from subprocess import check_output
for _ in range(2):
    said = check_output([sys.executable, "-m", "nbtcp.cli", "doctor", "--clean"], text=True)
    say(*[line for line in said.splitlines() if line.startswith("undone: ")])
say("end")
"""
    first, second, _ = internet.says(code).split("\n")
    assert re.fullmatch("undone: .*forwarding of eth0 undone: the nftables table .*nbtcp0", first)
    assert second == ""
