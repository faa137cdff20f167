"""HTTP over our TCP, against Debian's nginx in the lab: HTTP/2, TLS, redirects, gzip, timeouts."""

import hashlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import nbtcp
from nbtcp.inside import content

pytestmark = pytest.mark.root
PROGRAMS = ("nginx", "openssl")
HTTP2, HTTP1 = "https://10.0.0.1", "https://10.0.0.1:8443"
LARGE = 20_000_000

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; access_log off;
  root {folder}; ssl_certificate www.pem; ssl_certificate_key www.key;
  gzip on; gzip_types *; gzip_min_length 1000;
  server {{
    listen 443 ssl http2; listen 8443 ssl;
    location /moved {{ return 301 /hello; }}
    location /round {{ return 302 /round; }}
    location /slow {{ proxy_pass http://10.0.0.1:80; }}
  }}
  server {{ listen 8444 ssl; keepalive_timeout 50ms; }}
}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nginx serves, and key and certificate of 10.0.0.1 that ca.pem has signed."""
    for program in PROGRAMS:
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"needs the program {program}")
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
    (folder / "hello").write_text("hello\n")
    (folder / "text").write_text("lorem ipsum " * 1000)
    (folder / "large").write_bytes(b"".join(content(LARGE)))
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split()
    for command in (
        "-keyout ca.key -out ca.pem -subj /CN=authority -addext keyUsage=critical,keyCertSign",
        "-keyout www.key -out www.pem -subj /CN=www -addext subjectAltName=IP:10.0.0.1 "
        "-addext basicConstraints=CA:FALSE -CA ca.pem -CAkey ca.key",
    ):
        command_line = ["openssl", *new, *command.split()]
        subprocess.run(command_line, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab(nbtcp.Path(delay=0.002), seed=1) as lab:
        server = lab.popen(
            [shutil.which("nginx", path="/usr/sbin") or "nginx", "-p", folder, "-c", "nginx.conf"],
            stderr=subprocess.DEVNULL,
        )
        wait_until((folder / "pid").exists)
        assert server.poll() is None
        yield lab


@pytest.fixture
def trust(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "ca.pem")


@pytest.fixture
def client(lab: nbtcp.Lab, trust: ssl.SSLContext) -> Iterator[httpx.Client]:
    with nbtcp.http.client(lab, verify=trust) as client:
        yield client


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


# --- the protocols ---


@pytest.mark.parametrize(("server", "version"), [(HTTP2, "HTTP/2"), (HTTP1, "HTTP/1.1")])
def test_the_server_chooses_the_version(client: httpx.Client, server: str, version: str) -> None:
    answer = client.get(f"{server}/hello")
    assert (answer.status_code, answer.http_version, answer.text) == (200, version, "hello\n")


def test_without_tls_it_is_http_1(client: httpx.Client) -> None:
    answer = client.get("http://10.0.0.1/bytes/1000")
    assert (answer.http_version, len(answer.content)) == ("HTTP/1.1", 1000)


def test_http_2_can_be_declined(lab: nbtcp.Lab, trust: ssl.SSLContext) -> None:
    with nbtcp.http.client(lab, verify=trust, http2=False) as client:
        assert client.get(f"{HTTP2}/hello").http_version == "HTTP/1.1"


@pytest.mark.slow
def test_requests_of_many_threads_share_one_connection_of_http_2(
    lab: nbtcp.Lab, trust: ssl.SSLContext
) -> None:
    log = lab.new_log()
    with nbtcp.http.client(lab, log=log, verify=trust) as client, ThreadPoolExecutor(8) as pool:
        paths = ["/large", *["/hello", "/text"] * 8, "/large"]
        answers = list(pool.map(lambda path: client.get(HTTP2 + path), paths))
    assert {answer.http_version for answer in answers} == {"HTTP/2"}
    assert [len(answer.content) for answer in answers] == [LARGE, *[6, 12_000] * 8, LARGE]
    assert len(log.connections) == 1


def test_a_connection_is_used_again_unless_the_server_has_ended_it(
    lab: nbtcp.Lab, trust: ssl.SSLContext
) -> None:
    log = lab.new_log()
    with nbtcp.http.client(lab, log=log, verify=trust) as client:
        for _ in range(3):
            client.get(f"{HTTP1}/hello")
        assert len(log.connections) == 1
        client.get("https://10.0.0.1:8444/hello")
        wait_until(lambda: log.segments["flags"].str.contains("F").any())
        with lab.loop.lock:
            pass  # the one that writes the log has done what follows from the FIN
        assert client.get("https://10.0.0.1:8444/hello").text == "hello\n"
        assert len(log.connections) == 3


# --- what httpx does, on our network ---


@pytest.mark.parametrize("server", [HTTP2, HTTP1])
def test_redirects_are_followed(client: httpx.Client, server: str) -> None:
    answer = client.get(f"{server}/moved")
    assert (str(answer.url), answer.text) == (f"{server}/hello", "hello\n")
    assert [step.status_code for step in answer.history] == [301]
    with pytest.raises(httpx.TooManyRedirects):
        client.get(f"{server}/round")


@pytest.mark.parametrize("server", [HTTP2, HTTP1])
def test_gzip_is_unpacked(client: httpx.Client, server: str) -> None:
    answer = client.get(f"{server}/text")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.num_bytes_downloaded < 1000
    assert answer.text == "lorem ipsum " * 1000


@pytest.mark.slow
@pytest.mark.parametrize("server", [HTTP2, HTTP1])
def test_a_large_body_is_streamed(client: httpx.Client, server: str) -> None:
    digest, longest = hashlib.sha256(), 0
    with client.stream("GET", f"{server}/large", headers={"accept-encoding": "identity"}) as answer:
        for part in answer.iter_bytes():
            digest.update(part)
            longest = max(longest, len(part))
    assert digest.digest() == hashlib.sha256(b"".join(content(LARGE))).digest()
    assert longest < LARGE / 10


def test_a_body_is_sent_in_parts(client: httpx.Client) -> None:
    parts = list(content(3_000_000))
    answer = client.post("http://10.0.0.1/sink", content=iter(parts))
    assert answer.json()["sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()


# --- what can be wrong ---

DEAF = """
import socket, time
server = socket.create_server(("10.0.0.1", 9))
print("ready", flush=True)
time.sleep(300)
"""


@pytest.fixture(scope="module")
def deaf(lab: nbtcp.Lab) -> Iterator[str]:
    """A server whose kernel accepts connections, and nobody reads."""
    with lab.popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        yield "10.0.0.1:9"
        server.kill()


@pytest.mark.parametrize("server", [HTTP2, HTTP1, "http://10.0.0.1"])
@pytest.mark.slow
def test_a_server_that_stalls_is_a_read_timeout(client: httpx.Client, server: str) -> None:
    with pytest.raises(httpx.ReadTimeout, match=r"timed out after 0\.3 s"):
        client.get(f"{server}/slow?seconds=60", timeout=httpx.Timeout(60, read=0.3))
    assert client.get(f"{server}/slow?seconds=0", timeout=60).status_code == 200


@pytest.mark.slow
def test_a_server_that_does_not_read_is_a_write_timeout(client: httpx.Client, deaf: str) -> None:
    with pytest.raises(httpx.WriteTimeout, match=r"timed out after 0\.3 s"):
        timeout = httpx.Timeout(60, write=0.3)
        client.post(f"http://{deaf}/", content=bytes(20_000_000), timeout=timeout)


@pytest.mark.slow
def test_a_handshake_that_stalls_is_a_connect_timeout(client: httpx.Client, deaf: str) -> None:
    with pytest.raises(httpx.ConnectTimeout):
        client.get(f"https://{deaf}/", timeout=0.3)
    with (
        nbtcp.Lab(nbtcp.Path(loss=1.0)) as lab,
        nbtcp.http.client(lab, timeout=0.3) as lost,
        pytest.raises(httpx.ConnectTimeout, match=r"no answer from 10\.0\.0\.1 port 80"),
    ):
        lost.get("http://10.0.0.1/")


def test_no_free_connection_is_a_pool_timeout(lab: nbtcp.Lab) -> None:
    limits = httpx.Limits(max_connections=1)
    with (
        nbtcp.http.client(lab, limits=limits, timeout=httpx.Timeout(60, pool=0.1)) as client,
        client.stream("GET", "http://10.0.0.1/bytes/10000000"),
        pytest.raises(httpx.PoolTimeout),
    ):
        client.get("http://10.0.0.1/bytes/1")


def test_a_refused_port_is_a_connect_error(client: httpx.Client) -> None:
    with pytest.raises(httpx.ConnectError, match=r"connection refused by 10\.0\.0\.1 port 10$"):
        client.get("http://10.0.0.1:10/")


def test_an_authority_that_is_not_trusted_is_one_clear_line(lab: nbtcp.Lab) -> None:
    expected = (
        r"\Acertificate verify failed for 10\.0\.0\.1: unable to get local issuer certificate; "
        r"where you trust who has signed it, name the file of that authority in SSL_CERT_FILE\Z"
    )
    with nbtcp.http.client(lab) as client, pytest.raises(httpx.ConnectError, match=expected):
        client.get(f"{HTTP2}/hello")
    with pytest.raises(ssl.SSLCertVerificationError, match=expected):
        nbtcp.http.get(lab, f"{HTTP2}/hello")


def test_a_certificate_of_another_name_is_one_clear_line(client: httpx.Client) -> None:
    other = {"sni_hostname": "www.example"}
    expected = (
        r"\Acertificate verify failed for www\.example: Hostname mismatch, "
        r"certificate is not valid for 'www\.example'\Z"
    )
    with pytest.raises(httpx.ConnectError, match=expected):
        client.get(f"{HTTP2}/hello", extensions=other)


def test_what_is_no_option_is_refused(lab: nbtcp.Lab) -> None:
    with pytest.raises(TypeError, match="tiemout"):
        nbtcp.http.client(lab, tiemout=1)


# --- settings, fetches ---


def test_settings_of_config_are_those_of_the_connections(lab: nbtcp.Lab) -> None:
    log = lab.new_log()
    with nbtcp.http.client(lab, log=log, mss=500, headers={"x-a": "b"}) as client:
        assert client.headers["x-a"] == "b"
        client.get("http://10.0.0.1/bytes/10000")
    assert log.segments["len"].max() <= 500


@pytest.mark.parametrize("settings", [{}, {"nagle": True}])
def test_a_small_request_does_not_wait_behind_tls(
    lab: nbtcp.Lab, settings: dict[str, bool]
) -> None:
    """Its last handshake message is small and not acknowledged yet: Nagle's algorithm would."""
    url = "http://10.0.0.1/bytes/1000"
    with nbtcp.http.client(lab, **settings) as client, client.stream("GET", url) as answer:
        sock = answer.extensions["network_stream"].get_extra_info("socket")
        off = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert off == ("nagle" not in settings)


def test_a_fetch_speaks_http_2_when_told_to(lab: nbtcp.Lab, trust: ssl.SSLContext) -> None:
    for http2 in (False, True):
        page = nbtcp.http.get(
            lab, f"{HTTP2}/moved", log=lab.new_log(), ssl_context=trust, http2=http2
        )
        assert (page.content, page.url) == (b"hello\n", f"{HTTP2}/hello")
        assert ("connection" in page.headers) == (not http2), "HTTP/2 has no such field"
