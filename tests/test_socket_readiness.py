"""Descriptors that tell when a socket is ready, non-blocking calls, options and flags: between two
sockets of ours, in real time.
"""

import errno
import io
import pickle
import re
import select
import selectors
import socket as stdlib
import ssl
import struct
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback import ADDRESS, ADDRESS6, LoopbackHost

import nbtcp
from nbtcp.runtime.descriptor import Descriptor
from nbtcp.runtime.options import _FLAGS, _SETTINGS
from nbtcp.runtime.sockets import _ABOUT
from nbtcp.sockets import Socket, use

SOON = 60.0  # s: in which what is on its way has come
TCP, SOL = stdlib.IPPROTO_TCP, stdlib.SOL_SOCKET


class Pair(NamedTuple):
    client: Socket
    server: Socket


@pytest.fixture(scope="module")
def host() -> Iterator[LoopbackHost]:
    with LoopbackHost() as host:
        yield host


@pytest.fixture
def listener(host: LoopbackHost) -> Iterator[Socket]:
    with host.socket() as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        yield listener


@pytest.fixture
def pair(host: LoopbackHost, listener: Socket) -> Iterator[Pair]:
    with host.connect(listener.getsockname(), SOON) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(SOON)
            yield Pair(client, server)


def ready(sock: object, timeout: float = 0) -> str:
    """What `select` says of it: "", "r", "w" or "rw"."""
    readable, writable, _ = select.select([sock], [sock], [], timeout)
    return "r" * bool(readable) + "w" * bool(writable)


def readable(sock: Socket) -> bool:
    """Wait for it."""
    return bool(select.select([sock], [], [], SOON)[0])


def writable(sock: Socket) -> bool:
    return bool(select.select([], [sock], [], SOON)[1])


# --- descriptors ---


def test_a_descriptor_shows_each_of_four() -> None:
    descriptor = Descriptor()
    assert ready(descriptor) == ""
    for state in ("r", "rw", "w", "", "w", "rw", "r", "", "rw", ""):
        for _ in range(2):
            descriptor.show("r" in state, "w" in state)
            assert ready(descriptor) == state
    descriptor.close()


def test_a_descriptor_that_somebody_closed_harms_nobody() -> None:
    descriptor = Descriptor()
    descriptor.close()
    descriptor.show(True, True)


def test_a_connection_is_writable_then_readable_then_at_its_end(pair: Pair) -> None:
    client, server = pair
    assert ready(server) == "w"
    client.send(b"hello")
    assert readable(server)
    assert ready(server) == "rw"
    assert server.recv(2) == b"he"
    assert ready(server) == "rw", "three octets are left"
    assert server.recv(10) == b"llo"
    assert ready(server) == "w"
    client.close()
    assert readable(server)
    assert server.recv(1) == b""
    assert ready(server) == "rw", "the end can be read again and again"


def test_a_full_send_buffer_is_not_writable_until_a_third_is_free(pair: Pair) -> None:
    client, server = pair
    client.setblocking(False)
    client.setsockopt(SOL, stdlib.SO_SNDBUF, 100_000)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += client.send(bytes(10_000))
    while ready(client):  # what the peer's buffer still takes
        sent += client.send(bytes(10_000))
    got = 0
    while not ready(client):
        got += len(server.recv(1 << 20))
    assert client.connection is not None
    assert client.connection.queue.room > 33_000
    while got < sent:
        got += len(server.recv(1 << 20))
    assert ready(server) == "w"


def test_a_listener_is_readable_while_somebody_waits(host: LoopbackHost, listener: Socket) -> None:
    assert ready(listener) == ""
    with host.connect(listener.getsockname(), SOON):
        assert readable(listener)
        listener.accept()[0].close()
        assert ready(listener) == ""


def test_an_opening_is_neither_and_then_writable(host: LoopbackHost, listener: Socket) -> None:
    with host.socket(type=stdlib.SOCK_STREAM | stdlib.SOCK_NONBLOCK) as client:
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert client.connect_ex(listener.getsockname()) in (errno.EALREADY, errno.EISCONN)
        assert writable(client)
        assert client.getsockopt(SOL, stdlib.SO_ERROR) == 0
        assert client.connect_ex(listener.getsockname()) == errno.EISCONN
        assert client.getpeername() == listener.getsockname()


def test_a_refusal_is_readable_and_writable_and_told_once(host: LoopbackHost) -> None:
    with host.socket() as client:
        client.setblocking(False)
        assert client.connect_ex((ADDRESS, 1)) == errno.EINPROGRESS
        assert writable(client)
        assert ready(client) == "rw"
        assert client.getsockopt(SOL, stdlib.SO_ERROR) == errno.ECONNREFUSED
        assert client.getsockopt(SOL, stdlib.SO_ERROR) == 0
        assert client.connect_ex((ADDRESS, 1)) == errno.EINPROGRESS, "it may try again"
        assert writable(client)
        assert client.connect_ex((ADDRESS, 1)) == errno.ECONNREFUSED


def test_a_reset_is_readable_and_writable(pair: Pair) -> None:
    client, server = pair
    assert ready(server) == "w"
    client.abort()
    assert readable(server)
    assert ready(server) == "rw"
    with pytest.raises(ConnectionResetError):
        server.recv(1)


@pytest.mark.parametrize("kind", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_every_selector_finds_what_is_ready(pair: Pair, kind: str) -> None:
    client, server = pair
    with getattr(selectors, kind)() as selector:
        selector.register(server, selectors.EVENT_READ, "server")
        assert selector.select(0) == []
        client.send(b"x")
        ((key, events),) = selector.select(SOON)
        assert (key.data, events) == ("server", selectors.EVENT_READ)
        server.recv(1)
        assert selector.select(0) == []


def test_a_closed_socket_has_no_descriptor(host: LoopbackHost) -> None:
    sock = host.socket()
    number = sock.fileno()
    assert number >= 0
    assert sock.fileno() == number
    sock.close()
    assert sock.fileno() == -1


def test_no_descriptor_in_virtual_time() -> None:
    client, _ = nbtcp.Simulation().hosts()
    with client.socket() as sock, pytest.raises(io.UnsupportedOperation, match="virtual time"):
        sock.fileno()


def test_what_waits_outside_is_told_that_the_host_is_gone() -> None:
    host = LoopbackHost()
    listener = host.listen(80)
    assert ready(listener) == ""
    host.close()
    assert ready(listener) == "r"
    with pytest.raises(OSError, match="closed"):
        listener.accept()
    listener.close()


def test_copies_and_pickles_there_are_none(host: LoopbackHost) -> None:
    with host.socket() as sock:
        for call in (sock.dup, sock.detach, lambda: sock.set_inheritable(True)):
            with pytest.raises(OSError, match="no descriptor that carries data"):
                call()
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(sock)
        assert not sock.get_inheritable()


def test_ssl_wraps_no_socket_of_ours_and_harms_none(pair: Pair) -> None:
    """Its error says what to do; the descriptor that it closes is not in use any more."""
    context = ssl.create_default_context()
    with warnings.catch_warnings(), pytest.raises(OSError, match=r"for TLS, .*TlsSocket"):
        warnings.simplefilter("ignore", ResourceWarning)
        context.wrap_socket(pair.client, server_hostname="us")  # type: ignore[arg-type]
    pair.server.send(b"x")
    assert readable(pair.client)
    assert pair.client.recv(1) == b"x"


# --- the loop with several threads ---


def test_a_thread_that_waits_for_ever_does_not_keep_others_from_waiting(
    host: LoopbackHost, listener: Socket, pair: Pair
) -> None:
    """The one that turns the loop leaves the lock to the one that has been served."""
    pair.client.setsockopt(TCP, stdlib.TCP_NODELAY, 1)
    with ThreadPoolExecutor(2) as pool:
        accepting = pool.submit(listener.accept)
        for number in range(50):
            answer = pool.submit(pair.server.recv, 100)
            pair.client.send(b"%d" % number)
            assert answer.result(SOON) == b"%d" % number
        host.connect(listener.getsockname(), SOON).close()
        accepting.result(SOON)[0].close()


def test_polling_without_a_descriptor_gets_what_has_arrived(pair: Pair) -> None:
    pair.server.setblocking(False)
    pair.client.send(b"x")
    until = pair.server._loop.now() + round(SOON * 1e9)
    while pair.server._loop.now() < until:
        try:
            assert pair.server.recv(1) == b"x"
            return
        except BlockingIOError:
            pass
    pytest.fail("polling has kept the loop from turning")


# --- flags ---


def test_peek_leaves_what_it_shows(pair: Pair) -> None:
    pair.client.send(b"abc")
    pair.client.send(b"def")
    assert pair.server.recv(6, stdlib.MSG_WAITALL | stdlib.MSG_PEEK) in (b"abc", b"abcdef")
    assert pair.server.recv(2, stdlib.MSG_PEEK) == b"ab"
    assert pair.server.recv(6, stdlib.MSG_WAITALL) == b"abcdef"
    with pytest.raises(BlockingIOError):
        pair.server.recv(1, stdlib.MSG_PEEK | stdlib.MSG_DONTWAIT)


def test_waitall_gives_all_or_what_there_is_at_the_end(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(pair.server.recv, 600_000, stdlib.MSG_WAITALL)
        for _ in range(6):
            pair.client.sendall(bytes(100_000))
        assert len(whole.result(SOON)) == 600_000
    pair.client.send(b"rest")
    pair.client.shutdown(stdlib.SHUT_WR)
    assert pair.server.recv(100, stdlib.MSG_WAITALL) == b"rest"
    assert pair.server.recv(100, stdlib.MSG_WAITALL) == b""


def test_urgent_octets_come_in_line(pair: Pair) -> None:
    pair.client.send(b"abc", stdlib.MSG_OOB)
    assert pair.server.getsockopt(SOL, stdlib.SO_OOBINLINE) == 1
    with pytest.raises(OSError, match="RFC 6093"):
        pair.server.recv(1, stdlib.MSG_OOB)
    with pytest.raises(OSError, match="always 1"):
        pair.server.setsockopt(SOL, stdlib.SO_OOBINLINE, 0)
    assert pair.server.recv(3, stdlib.MSG_WAITALL) == b"abc"


def test_buffers_scattered_and_gathered(pair: Pair) -> None:
    assert pair.client.sendmsg([b"ab", bytearray(b"cd"), memoryview(b"efg")]) == 7
    first, second = bytearray(3), bytearray(10)
    while pair.server.connection is None or pair.server.connection.reassembly.size < 7:
        assert readable(pair.server)
    assert pair.server.recvmsg_into([first, second]) == (7, [], 0, None)
    assert (first, second[:4]) == (b"abc", b"defg")
    assert pair.client.sendto(b"x", pair.client.getpeername()) == 1
    assert pair.server.recvfrom(10) == (b"x", None)
    with pytest.raises(TypeError):
        pair.client.sendmsg([b"x"], [(SOL, 1, b"")])
    with pytest.raises(ValueError, match="buffer"):
        pair.server.recv_into(bytearray(3), 4)
    with pytest.raises(TypeError, match="writable"):
        pair.server.recv_into(b"constant")


def test_after_shut_rd_what_is_there_is_read_and_then_the_end(pair: Pair) -> None:
    pair.client.send(b"x")
    assert readable(pair.server)
    pair.server.shutdown(stdlib.SHUT_RD)
    assert pair.server.recv(10) == b"x"
    assert pair.server.recv(10) == b""
    assert ready(pair.server) == "rw"


def test_sendfile_sends_part_of_a_file(pair: Pair) -> None:
    assert pair.client.sendfile(io.BytesIO(b"0123456789"), 2, 5) == 5
    assert pair.server.recv(5, stdlib.MSG_WAITALL) == b"23456"


def test_the_timeout_of_sendall_is_for_all_of_it(pair: Pair) -> None:
    pair.client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        pair.client.sendall(bytes(20 << 20))


# --- options ---


@pytest.mark.parametrize(
    ("level", "name", "value", "setting", "meant"),
    [
        (TCP, stdlib.TCP_NODELAY, 1, "nagle", False),
        (SOL, stdlib.SO_SNDBUF, 50_000, "send_buffer", 50_000),
        (SOL, stdlib.SO_RCVBUF, 50_000, "receive_buffer", 50_000),
        (TCP, stdlib.TCP_KEEPINTVL, 3, "keepalive_interval", 3),
        (TCP, stdlib.TCP_KEEPCNT, 4, "keepalive_probes", 4),
        (TCP, stdlib.TCP_USER_TIMEOUT, 2500, "user_timeout", 2.5),
        (stdlib.IPPROTO_IP, stdlib.IP_TOS, 0xB8, "dscp", 46),
        (stdlib.IPPROTO_IPV6, stdlib.IPV6_TCLASS, 0xB8, "dscp", 46),
        (stdlib.IPPROTO_IP, stdlib.IP_TTL, 7, "ttl", 7),
        (stdlib.IPPROTO_IPV6, stdlib.IPV6_UNICAST_HOPS, 7, "ttl", 7),
    ],
)
def test_an_option_is_a_setting(
    pair: Pair, level: int, name: int, value: int, setting: str, meant: object
) -> None:
    conn = pair.client.connection
    assert conn is not None
    before = pair.client.getsockopt(level, name)
    assert before != value
    pair.client.setsockopt(level, name, value)
    assert pair.client.getsockopt(level, name) == value
    assert pair.client.getsockopt(level, name, 4) == struct.pack("@i", value)
    assert getattr(conn.config, setting) == meant
    pair.client.setsockopt(level, name, struct.pack("@i", before))
    assert pair.client.getsockopt(level, name) == before


def test_keepalive_begins_with_two_hours(pair: Pair) -> None:
    """RFC 9293 MUST-25, MUST-28: off by default, and no less than two hours when only on."""
    conn = pair.client.connection
    assert conn is not None
    assert pair.client.getsockopt(SOL, stdlib.SO_KEEPALIVE) == 0
    assert conn.keepalive is None
    pair.client.setsockopt(SOL, stdlib.SO_KEEPALIVE, 1)
    assert conn.keepalive == 7200
    assert pair.client.getsockopt(TCP, stdlib.TCP_KEEPIDLE) == 7200
    pair.client.setsockopt(TCP, stdlib.TCP_KEEPIDLE, 60)
    assert conn.keepalive == 60
    pair.client.setsockopt(SOL, stdlib.SO_KEEPALIVE, 0)
    assert conn.keepalive is None
    assert pair.client.getsockopt(TCP, stdlib.TCP_KEEPIDLE) == 60


def test_options_of_a_listener_are_those_of_its_connections(host: LoopbackHost) -> None:
    with host.socket() as listener:
        listener.setsockopt(SOL, stdlib.SO_REUSEADDR, 1)
        listener.setsockopt(TCP, stdlib.TCP_NODELAY, 1)
        listener.bind((ADDRESS, 0))
        listener.listen()
        assert listener.getsockopt(SOL, stdlib.SO_ACCEPTCONN) == 1
        with host.connect(listener.getsockname(), SOON):
            accepted, _ = listener.accept()
            assert accepted.getsockopt(TCP, stdlib.TCP_NODELAY) == 1
            accepted.close()


def test_what_is_settled_when_a_connection_opens(host: LoopbackHost, listener: Socket) -> None:
    with host.socket() as sock:
        sock.setsockopt(TCP, stdlib.TCP_MAXSEG, 600)
        sock.setsockopt(TCP, stdlib.TCP_CONGESTION, b"reno")
        assert sock.getsockopt(TCP, stdlib.TCP_CONGESTION, 16) == b"reno"
        with pytest.raises(OSError) as caught:
            sock.setsockopt(TCP, stdlib.TCP_CONGESTION, b"faster")
        assert caught.value.errno == errno.EINVAL
        sock.connect(listener.getsockname())
        listener.accept()[0].close()
        assert sock.getsockopt(TCP, stdlib.TCP_MAXSEG) == 588, "less the timestamps"
        with pytest.raises(OSError, match="before") as caught:
            sock.setsockopt(TCP, stdlib.TCP_MAXSEG, 700)
        assert caught.value.errno == errno.EISCONN


def test_an_option_that_there_is_not(host: LoopbackHost) -> None:
    with host.socket() as sock:
        for call in (
            lambda: sock.getsockopt(SOL, stdlib.SO_BROADCAST),
            lambda: sock.setsockopt(TCP, stdlib.TCP_CORK, 1),
        ):
            with pytest.raises(OSError, match="not available") as caught:
                call()
            assert caught.value.errno == errno.ENOPROTOOPT
        with pytest.raises(OSError, match="between") as caught:
            sock.setsockopt(TCP, stdlib.TCP_KEEPCNT, 1)
        assert caught.value.errno == errno.EINVAL


def test_the_page_on_sockets_has_every_option() -> None:
    text = (Path(__file__).parents[1] / "docs" / "sockets.md").read_text()
    table = text.split("## Options")[1].split("Flags:")[0]
    named = re.findall(r"\b(?:SO|TCP|IP|IPV6)_[A-Z0-9_]+\b", table)
    assert len(named) == len(set(named)) + 1, "TCP_KEEPIDLE is named twice"
    known = {*_SETTINGS, *_FLAGS, *((SOL, number) for number in _ABOUT)}
    known |= {(SOL, stdlib.SO_LINGER), (TCP, stdlib.TCP_INFO), (TCP, stdlib.TCP_CONGESTION)}
    levels = {"SO": SOL, "TCP": TCP, "IP": stdlib.IPPROTO_IP, "IPV6": stdlib.IPPROTO_IPV6}
    assert {(levels[name.split("_")[0]], getattr(stdlib, name)) for name in named} == known


def test_what_a_socket_is(host: LoopbackHost, pair: Pair) -> None:
    assert pair.client.getsockopt(SOL, stdlib.SO_TYPE) == stdlib.SOCK_STREAM
    assert pair.client.getsockopt(SOL, stdlib.SO_DOMAIN) == stdlib.AF_INET
    assert pair.client.getsockopt(SOL, stdlib.SO_PROTOCOL) == TCP
    assert (pair.client.family, pair.client.type) == (stdlib.AF_INET, stdlib.SOCK_STREAM)
    with pytest.raises(OSError, match="SOCK_STREAM"):
        host.socket(type=stdlib.SOCK_DGRAM)
    with pytest.raises(OSError, match="AF_INET"):
        host.socket(stdlib.AF_UNIX)


def test_linger_of_no_time_resets(pair: Pair) -> None:
    pair.client.setsockopt(SOL, stdlib.SO_LINGER, struct.pack("@ii", 1, 0))
    assert pair.client.getsockopt(SOL, stdlib.SO_LINGER, 8) == struct.pack("@ii", 1, 0)
    pair.client.close()
    with pytest.raises(ConnectionResetError):
        pair.server.recv(1)


def test_linger_waits_until_the_peer_has_all(pair: Pair) -> None:
    pair.client.setsockopt(SOL, stdlib.SO_LINGER, struct.pack("@ii", 1, 60))
    conn = pair.client.connection
    assert conn is not None
    pair.client.sendall(bytes(100_000))
    pair.client.close()
    assert not conn.queue.data
    assert not conn.queue.spans


def test_tcp_info_is_linux_own(pair: Pair) -> None:
    pair.client.sendall(bytes(1000))
    assert readable(pair.server)
    info = pair.client.getsockopt(TCP, stdlib.TCP_INFO, 256)
    assert isinstance(info, bytes)
    assert len(info) == 236
    assert info[0] == 1, "ESTABLISHED"
    assert struct.unpack_from("@I", info, 16) == (1448,), "snd_mss"
    with pair.client._loop.lock:
        pair.client._loop.run_until(lambda: not pair.client.connection.queue.spans)
    (acked,) = struct.unpack_from("@Q", pair.client.getsockopt(TCP, stdlib.TCP_INFO, 256), 120)
    assert acked == 1000


# --- families and names ---


def test_ipv6_addresses_have_four_parts(host: LoopbackHost) -> None:
    with host.socket(stdlib.AF_INET6) as listener:
        listener.bind((ADDRESS6, 0))
        listener.listen()
        with host.create_connection(listener.getsockname()[:2], SOON) as client:
            server, peer = listener.accept()
            with server:
                assert peer == server.getpeername() == client.getsockname()
                assert peer[0::2] == (ADDRESS6, 0)
                assert server.family == client.family == stdlib.AF_INET6


def test_a_name_that_nobody_knows(host: LoopbackHost) -> None:
    with pytest.raises(stdlib.gaierror):
        host.create_connection(("example.invalid", 80), 1)


def test_a_port_of_its_own_for_each_that_asks(host: LoopbackHost) -> None:
    socks = [host.socket() for _ in range(20)]
    for sock in socks:
        sock.bind((ADDRESS, 0))
    assert len({sock.getsockname()[1] for sock in socks}) == 20
    with pytest.raises(OSError, match="bound already"):
        socks[0].bind((ADDRESS, 0))
    for sock in socks:
        sock.close()


def test_use_is_for_tcp_alone_and_ends(host: LoopbackHost) -> None:
    kernels = stdlib.socket
    with use(host):
        server = stdlib.create_server((ADDRESS, 0))
        client = stdlib.create_connection(server.getsockname(), SOON)
        assert isinstance(client, Socket)
        for sock in (server.accept()[0], client, server):
            sock.close()
        one, other = stdlib.socketpair()
        one.send(b"x")
        assert other.recv(1) == b"x"
        one.close()
        other.close()
        with stdlib.socket(type=stdlib.SOCK_DGRAM) as datagrams:
            assert isinstance(datagrams, kernels)
    assert stdlib.socket is kernels


def test_a_file_after_a_timeout_can_be_read_no_more(pair: Pair) -> None:
    """As of the standard library's: what was read before may be lost."""
    pair.server.settimeout(0.01)
    with pair.server.makefile("rb") as file:
        with pytest.raises(TimeoutError):
            file.read(1)
        with pytest.raises(OSError, match="timed out"):
            file.read(1)


def test_many_threads_each_with_its_selector(host: LoopbackHost, listener: Socket) -> None:
    """Every socket non-blocking, waited for by epoll."""
    answering: list[threading.Thread] = []

    def echo() -> None:
        for _ in range(8):
            sock, _ = listener.accept()
            answering.append(threading.Thread(target=answer, args=(sock,)))
            answering[-1].start()

    def answer(sock: Socket) -> None:
        with sock:
            while data := sock.recv(1000):
                sock.sendall(data)

    def talk(number: int) -> bool:
        with host.connect(listener.getsockname(), SOON) as sock:
            sock.setblocking(False)
            with selectors.DefaultSelector() as selector:
                selector.register(sock, selectors.EVENT_READ)
                for i in range(20):
                    message = b"%d says %d" % (number, i)
                    sock.send(message)
                    got = b""
                    while len(got) < len(message):
                        assert selector.select(SOON)
                        got += sock.recv(100)
                    if got != message:
                        return False
        return True

    with ThreadPoolExecutor(9) as pool:
        pool.submit(echo)
        assert all(pool.map(talk, range(8)))
    for thread in answering:
        thread.join(SOON)
