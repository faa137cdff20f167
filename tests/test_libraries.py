"""The standard library's clients and servers over our TCP, with other programs on the kernel's TCP
at the other end.

Four ways to let a library use our sockets, from the most explicit to the least: it takes a function
to connect by, or a socket; a method of its classes makes the socket, and a subclass has another
one; TLS is put on top by `ssl.MemoryBIO`; or `nbtcp.sockets.use` changes `socket.socket` for all.
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
from pathlib import Path
from typing import Any

import pytest

import nbtcp
from nbtcp.sockets import Socket, use

pytestmark = pytest.mark.root

KERNEL = "10.0.0.1"
SOON = 10.0  # s


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
        yield process
        process.kill()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def kernel_side(lab: nbtcp.Lab, *command: str, **options: Any) -> str:
    done = lab.run(command, capture_output=True, timeout=SOON, text=True, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


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
    with socket.create_connection(("{lab.address}", 8002), 5) as s, s.makefile("rw") as f:
        f.write(f"line {{i}}\\n"); f.flush()
        print(f.readline(), end="")
"""
    with serving(Server(lab.listen(8002), Echo)):
        out = kernel_side(lab, sys.executable, "-c", client)
    assert out == "".join(f"line {i}\n" for i in range(5))


# --- mail: a method of the client makes the socket ---

SMTP_SERVER = """
import socketserver
class Mail(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\\r\\n")
    def handle(self):
        self.say("220 mail")
        for line in self.rfile:
            word = line[:4].upper().strip()
            if word == b"DATA":
                self.say("354 go on")
                text = []
                while (part := self.rfile.readline()) != b".\\r\\n":
                    text.append(part)
                self.say(f"250 {len(text)} lines, {sum(map(len, text))} octets")
            elif word == b"QUIT":
                return self.say("221 bye")
            else:
                self.say("250 ok")
socketserver.TCPServer.allow_reuse_address = True
server = socketserver.TCPServer(("10.0.0.1", 25), Mail)
print("ready", flush=True)
server.serve_forever()
"""


def test_smtplib(lab: nbtcp.Lab) -> None:
    class Mailer(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> Any:
            return lab.create_connection((host, port), timeout, self.source_address)

    with running(lab, SMTP_SERVER), Mailer(KERNEL, 25, "us", SOON) as mailer:
        assert isinstance(mailer.sock, Socket)
        mailer.ehlo_or_helo_if_needed()
        mailer.mail("a@example.com")
        mailer.rcpt("b@example.com")
        code, text = mailer.data("Subject: lines\n\n" + "a line\n" * 5000)
        assert (code, text) == (250, b"5002 lines, 40018 octets")


# --- files: use() is for clients and servers that make all their sockets themselves ---

FTP_SERVER = """
import socket, socketserver
class Files(socketserver.StreamRequestHandler):
    stored = bytes(range(256)) * 1000
    def say(self, line):
        self.wfile.write(line.encode() + b"\\r\\n")
    def data(self):
        return self.listener.accept()[0] if self.listener else socket.create_connection(self.peer)
    def handle(self):
        self.listener = self.peer = None
        self.say("220 files")
        for line in self.rfile:
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
            else:
                self.say({"USER": "331 who", "PASS": "230 you"}.get(word, "200 ok"))
socketserver.TCPServer.allow_reuse_address = True
server = socketserver.TCPServer(("10.0.0.1", 21), Files)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("passive", [True, False])
def test_ftplib(lab: nbtcp.Lab, passive: bool) -> None:
    """In active mode the server connects to a port that the client listens on."""
    new = bytes(range(100)) * 5000
    with running(lab, FTP_SERVER), use(lab), ftplib.FTP(KERNEL, "us", "pw", timeout=SOON) as ftp:
        assert isinstance(ftp.sock, Socket)
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


class Tls:
    """TLS over a socket that is not the kernel's: what `ssl.SSLContext.wrap_bio` is for."""

    def __init__(self, sock: Socket, context: ssl.SSLContext, **settings: Any) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **settings)
        self.do(self.tls.do_handshake)

    def do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """`call`, and what it wants to have sent and received first."""
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                if data := self.sock.recv(1 << 16):
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.outgoing.read())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 9 -subj /CN=us"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_tls_to_openssls_server(lab: nbtcp.Lab, certificate: Path) -> None:
    command = "openssl s_server -accept 10.0.0.1:8005 -key key -cert cert -rev -naccept 1"
    server = lab.popen(command.split(), cwd=certificate, stdout=subprocess.PIPE)
    assert server.stdout is not None
    while server.stdout.readline() != b"ACCEPT\n":
        pass
    context = ssl.create_default_context(cafile=certificate / "cert")
    with lab.create_connection((KERNEL, 8005), SOON) as sock:
        tls = Tls(sock, context, server_hostname="us")
        assert tls.tls.version() == "TLSv1.3"
        for line in (b"abc", b"x" * 10_000):
            tls.do(tls.tls.write, line + b"\n")
            got = b""
            while len(got) <= len(line):
                got += tls.do(tls.tls.read, 1 << 14)
            assert got == line[::-1] + b"\n"
    server.communicate(timeout=SOON)


def test_tls_from_openssls_client(lab: nbtcp.Lab, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert", certificate / "key")
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
        with sock:
            sock.settimeout(SOON)
            tls = Tls(sock, context, server_side=True)
            assert tls.do(tls.tls.read, 100) == b"from openssl\n"
            tls.do(tls.tls.write, b"from us\n")
            assert client.stdout is not None
            assert client.stdout.readline() == b"from us\n"
    client.stdin.close()
    client.wait(timeout=SOON)
    client.stdout.close()
