"""TLS sockets of ours at both ends, in real time: what `ssl.SSLContext.wrap_socket` makes of them.

Against other programs: test_libraries.py.
"""

import os
import selectors
import socket as stdlib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from loopback import LoopbackHost

import nbtcp
from nbtcp.sockets import Socket, TlsSocket, use

SOON = 60.0  # s
DATA = os.urandom(1 << 20)

Ends = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module")
def server_side(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 9 -subj /CN=us"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the program openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    context.sslsocket_class = TlsSocket
    return context


@pytest.fixture(scope="module")
def client_side(server_side: ssl.SSLContext) -> ssl.SSLContext:
    """Its authority is not known to this one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslsocket_class = TlsSocket
    return context


@pytest.fixture(scope="module")
def host() -> Iterator[LoopbackHost]:
    with LoopbackHost() as host:
        yield host


@pytest.fixture
def plain(host: LoopbackHost) -> Iterator[tuple[Socket, Socket]]:
    """(client, server), before TLS."""
    with host.listen(0) as listener, host.connect(listener.getsockname(), SOON) as client:
        server, _ = listener.accept()
        server.settimeout(SOON)
        with server:
            yield client, server


@pytest.fixture
def ends(
    plain: tuple[Socket, Socket], client_side: ssl.SSLContext, server_side: ssl.SSLContext
) -> Iterator[tuple[Any, Any]]:
    """(client, server), after the handshake."""
    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(server_side.wrap_socket, plain[1], server_side=True)
        client = client_side.wrap_socket(plain[0])
        with client, server.result() as other:
            yield client, other


def receive(sock: Any, octets: int) -> bytes:
    parts = []
    while octets and (part := sock.recv(octets)):
        parts.append(part)
        octets -= len(part)
    return b"".join(parts)


def test_it_is_an_ssl_socket_that_tells_of_the_session(ends: tuple[Any, Any]) -> None:
    client, server = ends
    for sock in ends:
        assert isinstance(sock, Socket) and isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.3" and sock.cipher() == client.cipher()
        assert sock.family == stdlib.AF_INET and sock.type == stdlib.SOCK_STREAM
    assert client.getpeername() == server.getsockname()
    assert server.server_side and not client.server_side
    assert len(client.getpeercert(binary_form=True)) > 500
    client.sendall(b"one two")
    assert server.recv(3) == b"one"
    assert server.pending() == 4
    assert server.read(9) == b" two"


def test_one_thread_reads_while_another_writes_much(ends: tuple[Any, Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for sock in ends:
            pool.submit(sock.sendall, DATA)
        got = [pool.submit(receive, sock, len(DATA)) for sock in ends]
        assert [one.result(SOON) == DATA for one in got] == [True, True]


def test_files_buffers_and_the_end(ends: tuple[Any, Any]) -> None:
    client, server = ends
    with client.makefile("rwb") as file:
        file.write(b"first\nsecond")
    assert server.makefile("rb").readline() == b"first\n"
    buffer = bytearray(3)
    server.send(b"abc")
    assert client.recv_into(buffer) == 3 and buffer == b"abc"
    with pytest.raises(ValueError, match="flags"):
        client.recv(1, stdlib.MSG_PEEK)
    server.close()
    assert client.recv(1) == b"", "its end without close_notify, as of an ssl.SSLSocket"


def test_an_end_that_is_no_end_of_tls_can_be_an_error(ends: tuple[Any, Any]) -> None:
    client, server = ends
    client.suppress_ragged_eofs = False
    server.close()
    with pytest.raises(ssl.SSLEOFError):
        client.recv(1)


def test_after_unwrap_nothing_is_encrypted(ends: tuple[Any, Any]) -> None:
    client, server = ends
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.unwrap)
        assert client.unwrap() is client
        other.result(SOON)
    client.sendall(b"plain")
    assert server.recv(9) == b"plain"
    assert client.version() is None
    with pytest.raises(ValueError, match="No SSL wrapper"):
        client.unwrap()
    with pytest.raises(ValueError, match="TLS within TLS"):
        client.context.wrap_socket(client)


def test_a_timeout_leaves_the_connection_usable(ends: tuple[Any, Any]) -> None:
    client, server = ends
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    with pytest.raises(TimeoutError):  # nobody reads, and the buffers are full
        while True:
            client.send(bytes(100_000))
    client.settimeout(SOON)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(lambda: b"".join(iter(lambda: server.recv(1 << 16), b"")))
        client.sendall(b"end")
        client.close()
        assert received.result(SOON).rstrip(b"\0").endswith(b"end"), "no record is missing"


def test_a_selector_and_no_blocking_from_the_handshake_on(
    plain: tuple[Socket, Socket], client_side: ssl.SSLContext, server_side: ssl.SSLContext
) -> None:
    """An event loop as programs write it: each end sends a megabyte and receives one."""
    ends: list[Any] = []
    for context, sock, is_server in (client_side, plain[0], False), (server_side, plain[1], True):
        sock.setblocking(False)
        how = {"server_side": is_server, "do_handshake_on_connect": False}
        ends.append(context.wrap_socket(sock, **how))
    left, got, shaken = [DATA, DATA], [bytearray(), bytearray()], [False, False]
    with selectors.DefaultSelector() as selector:
        for number, end in enumerate(ends):
            selector.register(end, selectors.EVENT_READ | selectors.EVENT_WRITE, number)
        turns = 0
        while any(left) or min(map(len, got)) < len(DATA):
            turns += 1
            assert turns < 20_000, "it is busy for nothing"
            for key, events in selector.select(SOON):
                step(ends[key.data], key.data, events, left, got, shaken)
                wanted = selectors.EVENT_READ
                if left[key.data] and shaken[key.data]:
                    wanted |= selectors.EVENT_WRITE
                selector.modify(key.fileobj, wanted, key.data)
    assert got == [DATA, DATA]
    for end in ends:
        end.close()


def step(
    end: Any, number: int, events: int, left: list[bytes], got: list[bytearray], shaken: list[bool]
) -> None:
    try:
        if not shaken[number]:
            end.do_handshake()
            shaken[number] = True
        if events & selectors.EVENT_READ:
            got[number] += end.recv(5000)
        if events & selectors.EVENT_WRITE and left[number]:
            left[number] = left[number][end.send(left[number]) :]
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass


def test_a_certificate_that_is_not_trusted_is_told_to_both(
    plain: tuple[Socket, Socket], server_side: ssl.SSLContext
) -> None:
    context = ssl.create_default_context()
    context.sslsocket_class = TlsSocket
    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(server_side.wrap_socket, plain[1], server_side=True)
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
            context.wrap_socket(plain[0], server_hostname="us")
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            server.result(SOON)
    with pytest.raises(ValueError, match="server_hostname"):
        context.wrap_socket(plain[0])


def test_without_blocking_the_handshake_is_the_callers(
    plain: tuple[Socket, Socket], client_side: ssl.SSLContext
) -> None:
    plain[0].setblocking(False)
    with pytest.raises(ValueError, match="call do_handshake"):
        client_side.wrap_socket(plain[0])
    assert plain[1].recv(1) == b"", "it was closed"


def test_wrapped_before_it_connects_and_before_it_accepts(
    host: LoopbackHost, client_side: ssl.SSLContext, server_side: ssl.SSLContext
) -> None:
    with (
        server_side.wrap_socket(host.listen(0), server_side=True) as listener,
        client_side.wrap_socket(host.socket()) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(listener.accept)
        client.connect(listener.getsockname())
        server, peer = accepted.result(SOON)
        with server:
            assert peer == client.getsockname()
            client.sendall(b"hello")
            assert server.recv(9) == b"hello"
        with pytest.raises(ValueError, match="server-side"):
            server.connect(peer)


def test_within_use_the_kernels_sockets_stay_the_standard_librarys(
    host: LoopbackHost, server_side: ssl.SSLContext
) -> None:
    assert ssl.SSLContext.sslsocket_class is ssl.SSLSocket
    with use(host):
        context = ssl.create_default_context()
        with stdlib.socket() as ours, stdlib.socket(stdlib.AF_UNIX) as kernels:
            with context.wrap_socket(ours, server_hostname="us") as one:
                assert type(one) is TlsSocket
            with context.wrap_socket(kernels, server_hostname="us") as other:
                assert type(other) is ssl.SSLSocket
    assert ssl.SSLContext.sslsocket_class is ssl.SSLSocket
    assert nbtcp.sockets.TlsSocket is TlsSocket
