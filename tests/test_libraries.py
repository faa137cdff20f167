"""The standard library's clients and servers over our TCP, with other programs on the kernel's TCP
at the other end.

Three ways to let a library use our sockets, from the most explicit to the least: it takes a
function to connect by, or a socket; a method of its classes makes the socket, and a subclass has
another one; or `nbtcp.sockets.use` changes `socket.socket` for all. TLS is put on top by a context
whose sockets are `TlsSocket`, as within `use` those of all are.
"""

import ftplib
import hashlib
import http.client
import http.server
import io
import smtplib
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.request
import xmlrpc.client
import xmlrpc.server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import nbtcp
from nbtcp.sockets import Socket, TlsSocket, use

pytestmark = pytest.mark.root

KERNEL = "10.0.0.1"
SOON = 60.0  # s


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab() as lab:
        yield lab


@contextmanager
def running(lab: nbtcp.Lab, program: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python program on the kernel's side that says "ready"."""
    command = [sys.executable, "-c", program, *arguments]
    with lab.popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kernel_side(lab: nbtcp.Lab, *command: str, **options: Any) -> str:
    done = lab.run(command, capture_output=True, timeout=SOON, text=True, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `key` and `cert`, of the kernel's side and of our own."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 9 -subj /CN=us"
    names = ["-addext", f"subjectAltName=DNS:us,IP:{KERNEL}"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate / "cert")


@pytest.fixture
def identity(certificate: Path) -> ssl.SSLContext:
    """Of a server of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")
    return context


CONTEXT = """
import ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/cert", sys.argv[1] + "/key")
"""


# --- HTTP: a client is given a function, a server a socket ---


def connection(lab: nbtcp.Lab, *address: Any, **settings: Any) -> http.client.HTTPConnection:
    conn = http.client.HTTPConnection(*address, **settings)
    conn._create_connection = lab.create_connection  # type: ignore[attr-defined]
    return conn


def test_http_client(lab: nbtcp.Lab) -> None:
    conn = connection(lab, KERNEL, timeout=SOON)
    for size in (10, 300_000, 0):
        conn.request("GET", f"/bytes/{size}")
        answer = conn.getresponse()
        assert answer.status == 200
        assert len(answer.read()) == size
    assert isinstance(conn.sock, Socket), "one connection for all three"
    conn.close()


def test_urllib_with_a_handler(lab: nbtcp.Lab) -> None:
    class Handler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            make: Callable[..., Any] = lambda *a, **kw: connection(lab, *a, **kw)  # noqa: E731
            return self.do_open(make, request)

    opener = urllib.request.build_opener(Handler)
    with opener.open(f"http://{KERNEL}/bytes/100000", timeout=SOON) as answer:
        assert len(answer.read()) == 100_000
    with pytest.raises(urllib.request.HTTPError, match="404"):
        opener.open(f"http://{KERNEL}/nothing", timeout=SOON)
    with pytest.raises(urllib.request.URLError, match="refused"):
        opener.open(f"http://{KERNEL}:81/", timeout=SOON)


class Given:
    """For socketserver: a server with a socket that listens already."""

    def __init__(self, listener: Socket, handler: type[socketserver.BaseRequestHandler]) -> None:
        socketserver.BaseServer.__init__(self, listener.getsockname(), handler)  # type: ignore
        self.socket = listener


def test_http_server_for_curl(lab: nbtcp.Lab, tmp_path: Path) -> None:
    class Server(Given, socketserver.ThreadingMixIn, http.server.HTTPServer):
        block_on_close = True

    class Files(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *about: object) -> None: ...

    content = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(content)
    url = f"http://{lab.address}:8001"
    with serving(Server(lab.listen(8001), Files)):
        kernel_side(lab, "curl", "-sSf", f"{url}/file", "-o", str(tmp_path / "one"))
        assert (tmp_path / "one").read_bytes() == content
        parallel = ["curl", "-sSfZ", "--parallel-immediate"]
        for i in range(6):
            parallel += [f"{url}/file", "-o", str(tmp_path / f"copy{i}")]
        kernel_side(lab, *parallel)
        assert all((tmp_path / f"copy{i}").read_bytes() == content for i in range(6))
        missing = kernel_side(lab, "curl", "-s", "-w", "%{http_code}", "-o", "-", f"{url}/no")
        assert missing.endswith("404")


def test_socketserver_echoes_to_the_kernel(lab: nbtcp.Lab) -> None:
    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line)

    class Server(Given, socketserver.TCPServer): ...

    client = f"""
import socket
for i in range(5):
    with socket.create_connection(("{lab.address}", 8002), 60) as s, s.makefile("rw") as f:
        f.write(f"line {{i}}\\n"); f.flush()
        print(f.readline(), end="")
"""
    with serving(Server(lab.listen(8002), Echo)):
        out = kernel_side(lab, sys.executable, "-c", client)
    assert out == "".join(f"line {i}\n" for i in range(5))


# --- mail: a method of the client makes the socket ---

SMTP_SERVER = (
    CONTEXT
    + """
import socketserver
class Mail(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\\r\\n")
    def handle(self):
        self.say("220 mail")
        while line := self.rfile.readline():
            word = line[:4].upper().strip()
            if word == b"DATA":
                self.say("354 go on")
                text = []
                while (part := self.rfile.readline()) != b".\\r\\n":
                    text.append(part)
                self.say(f"250 {len(text)} lines, {sum(map(len, text))} octets")
            elif word == b"QUIT":
                return self.say("221 bye")
            elif word == b"STAR":
                self.say("220 go on")
                self.request = context.wrap_socket(self.request, server_side=True)
                self.setup()
            else:
                self.say("250-ok\\r\\n250 STARTTLS")
socketserver.TCPServer.allow_reuse_address = True
server = socketserver.TCPServer(("10.0.0.1", 25), Mail)
print("ready", flush=True)
server.serve_forever()
"""
)


@pytest.mark.parametrize("secure", [False, True])
def test_smtplib(lab: nbtcp.Lab, certificate: Path, trust: ssl.SSLContext, secure: bool) -> None:
    trust.sslsocket_class = TlsSocket

    class Mailer(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> Any:
            return lab.create_connection((host, port), timeout, self.source_address)

    server = running(lab, SMTP_SERVER, str(certificate))
    with server, Mailer(KERNEL, 25, "us", SOON) as mailer:
        if secure:
            mailer.starttls(context=trust)
        assert type(mailer.sock) is (TlsSocket if secure else Socket)
        mailer.ehlo_or_helo_if_needed()
        mailer.mail("a@example.com")
        mailer.rcpt("b@example.com")
        code, text = mailer.data("Subject: lines\n\n" + "a line\n" * 5000)
        assert (code, text) == (250, b"5002 lines, 40018 octets")


# --- files: use() is for clients and servers that make all their sockets themselves ---

FTP_SERVER = (
    CONTEXT
    + """
import contextlib, socket, socketserver
class Files(socketserver.StreamRequestHandler):
    stored = bytes(range(256)) * 1000
    def say(self, line):
        self.wfile.write(line.encode() + b"\\r\\n")
    @contextlib.contextmanager
    def data(self):
        sock = self.listener.accept()[0] if self.listener else socket.create_connection(self.peer)
        with context.wrap_socket(sock, server_side=True) if self.private else sock as data:
            yield data
            if self.private:
                data.unwrap()
    def handle(self):
        self.listener = self.peer = None
        self.private = False
        self.say("220 files")
        while line := self.rfile.readline():
            word, _, rest = line.decode().strip().partition(" ")
            if word == "PASV":
                self.listener = socket.create_server(("10.0.0.1", 0))
                port = self.listener.getsockname()[1]
                self.say(f"227 (10,0,0,1,{port >> 8},{port & 255})")
            elif word == "PORT":
                *host, high, low = rest.split(",")
                self.listener, self.peer = None, (".".join(host), int(high) << 8 | int(low))
                self.say("200 ok")
            elif word in ("RETR", "STOR"):
                self.say("150 here it comes")
                with self.data() as data:
                    if word == "RETR":
                        data.sendall(Files.stored)
                    else:
                        with data.makefile("rb") as file:
                            Files.stored = file.read()
                self.say("226 done")
            elif word == "QUIT":
                return self.say("221 bye")
            elif word == "AUTH":
                self.say("234 go on")
                self.request = context.wrap_socket(self.request, server_side=True)
                self.setup()
            else:
                self.private = self.private or (word, rest) == ("PROT", "P")
                self.say({"USER": "331 who", "PASS": "230 you"}.get(word, "200 ok"))
socketserver.TCPServer.allow_reuse_address = True
server = socketserver.TCPServer(("10.0.0.1", 21), Files)
print("ready", flush=True)
server.serve_forever()
"""
)


@pytest.mark.parametrize(("passive", "secure"), [(True, False), (False, False), (True, True)])
def test_ftplib(
    lab: nbtcp.Lab, certificate: Path, trust: ssl.SSLContext, passive: bool, secure: bool
) -> None:
    """In active mode the server connects to a port that the client listens on. With TLS it waits
    for the end of TLS on each connection for data.
    """
    new = bytes(range(100)) * 5000
    kind: Any = partial(ftplib.FTP_TLS, context=trust) if secure else ftplib.FTP
    server = running(lab, FTP_SERVER, str(certificate))
    with server, use(lab), kind(KERNEL, "us", "pw", timeout=SOON) as ftp:
        assert isinstance(ftp.sock, TlsSocket if secure else Socket)
        if secure:
            ftp.prot_p()
        ftp.set_pasv(passive)
        got = bytearray()
        ftp.retrbinary("RETR file", got.extend)
        assert got == bytes(range(256)) * 1000
        ftp.storbinary("STOR file", io.BytesIO(new))
        digest = hashlib.sha256()
        ftp.retrbinary("RETR file", digest.update)
        assert digest.digest() == hashlib.sha256(new).digest()


# --- calls ---


def test_xmlrpc_calls_the_kernels_server_and_the_other_way_round(lab: nbtcp.Lab) -> None:
    class Transport(xmlrpc.client.Transport):
        def make_connection(self, host: Any) -> http.client.HTTPConnection:
            return connection(lab, host, timeout=SOON)

    server = """
from xmlrpc.server import SimpleXMLRPCServer
server = SimpleXMLRPCServer(("10.0.0.1", 8003), logRequests=False)
server.register_function(lambda a, b: a + b, "add")
print("ready", flush=True)
server.serve_forever()
"""
    with running(lab, server):
        proxy = xmlrpc.client.ServerProxy(f"http://{KERNEL}:8003", transport=Transport())
        assert proxy.add(2, 3) == 5
        assert proxy.add("2" * 50_000, "3") == "2" * 50_000 + "3"
        with pytest.raises(xmlrpc.client.Fault, match="not supported"):
            proxy.nothing()

    with use(lab):
        ours = xmlrpc.server.SimpleXMLRPCServer((lab.address, 8004), logRequests=False)
    assert isinstance(ours.socket, Socket)
    ours.register_function(lambda a, b: a * b, "multiply")
    client = f"""
from xmlrpc.client import ServerProxy
print(ServerProxy("http://{lab.address}:8004").multiply(6, 7))
"""
    with serving(ours):
        assert kernel_side(lab, sys.executable, "-c", client) == "42\n"


# --- TLS ---


HTTPS_SERVER = (
    CONTEXT
    + """
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
class Files(SimpleHTTPRequestHandler):
    def log_message(self, *about): pass
server = ThreadingHTTPServer(("10.0.0.1", 8443), partial(Files, directory=sys.argv[1]))
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""
)


def test_https_by_http_client_and_by_urllib(
    lab: nbtcp.Lab, certificate: Path, trust: ssl.SSLContext
) -> None:
    page = (certificate / "cert").read_bytes()
    with running(lab, HTTPS_SERVER, str(certificate)):
        url = f"https://{KERNEL}:8443/cert"
        with use(lab), urllib.request.urlopen(url, context=trust, timeout=SOON) as answer:
            assert answer.read() == page
        trust.sslsocket_class = TlsSocket
        conn = http.client.HTTPSConnection(KERNEL, 8443, context=trust, timeout=SOON)
        conn._create_connection = lab.create_connection  # type: ignore[attr-defined]
        conn.request("GET", "/cert")
        assert type(conn.sock) is TlsSocket
        assert conn.getresponse().read() == page
        conn.close()


def test_https_for_curl(lab: nbtcp.Lab, identity: ssl.SSLContext, certificate: Path) -> None:
    """By the usual three lines, within `use`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"hello " * 50_000)

        def log_message(self, *about: object) -> None: ...

    with use(lab):
        server = http.server.HTTPServer((lab.address, 8007), Handler)
        server.socket = identity.wrap_socket(server.socket, server_side=True)
    ca = ["--cacert", str(certificate / "cert"), "--resolve", f"us:8007:{lab.address}"]
    with serving(server):
        assert kernel_side(lab, "curl", "-sS", *ca, "https://us:8007/") == "hello " * 50_000


def test_tls_to_openssls_server(lab: nbtcp.Lab, certificate: Path, trust: ssl.SSLContext) -> None:
    command = "openssl s_server -accept 10.0.0.1:8005 -key key -cert cert -rev -naccept 1"
    server = lab.popen(command.split(), cwd=certificate, stdout=subprocess.PIPE)
    assert server.stdout is not None
    while server.stdout.readline() != b"ACCEPT\n":
        pass
    with TlsSocket(lab.connect((KERNEL, 8005), SOON), trust, server_hostname="us") as tls:
        assert tls.version() == "TLSv1.3"
        for line in (b"abc", b"x" * 10_000):
            tls.sendall(line + b"\n")
            got = b""
            while len(got) <= len(line):
                got += tls.recv(1 << 14)
            assert got == line[::-1] + b"\n"
    server.communicate(timeout=SOON)


def test_tls_from_openssls_client(
    lab: nbtcp.Lab, certificate: Path, identity: ssl.SSLContext
) -> None:
    command = f"openssl s_client -connect {lab.address}:8006 -CAfile cert -verify_return_error"
    with lab.listen(8006) as listener:
        client = lab.popen(
            [*command.split(), "-quiet"],
            cwd=certificate,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert client.stdin is not None
        client.stdin.write(b"from openssl\n")
        client.stdin.flush()
        sock, _ = listener.accept()
        sock.settimeout(SOON)
        with TlsSocket(sock, identity, server_side=True) as tls:
            assert tls.recv(100) == b"from openssl\n"
            tls.sendall(b"from us\n")
            assert client.stdout is not None
            assert client.stdout.readline() == b"from us\n"
    client.stdin.close()
    client.wait(timeout=SOON)
    client.stdout.close()
