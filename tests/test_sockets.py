"""Blocking sockets behave as the standard library's do, against the kernel's in the lab."""

import errno
import io
import select
import selectors
import socket as stdlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import nbtcp
from nbtcp.runtime.sockets import Socket

pytestmark = pytest.mark.root
SOON = 60.0  # s for what happens at once, unless the machine is very busy

ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 100
    daemon_threads = True
server = Server(("10.0.0.1", 7), Echo)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab() as lab:
        server = lab.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield lab
        server.kill()
        server.communicate(timeout=SOON)


@pytest.fixture
def echo(lab: nbtcp.Lab) -> Iterator[Socket]:
    with lab.connect(("10.0.0.1", 7), SOON) as sock:
        yield sock


def kernel_connects(lab: nbtcp.Lab, port: int, program: str) -> "subprocess.Popen[bytes]":
    """A kernel client `s` of our listening port that runs `program`."""
    begin = (
        f"import socket, time\ns = socket.create_connection(('{lab.address}', {port}), {SOON})\n"
    )
    return lab.popen([sys.executable, "-c", begin + program], stdout=subprocess.PIPE)


def test_send_and_recv(echo: Socket) -> None:
    assert echo.send(b"hello") == 5
    assert echo.recv(100) == b"hello"


def test_recv_gives_no_more_than_asked_for(echo: Socket) -> None:
    echo.sendall(b"hello")
    assert echo.recv(2) == b"he"
    assert echo.recv(100) == b"llo"


def test_a_negative_size_is_refused_as_by_the_standard_library(echo: Socket) -> None:
    with pytest.raises(ValueError, match="negative buffersize"):
        echo.recv(-1)


def test_what_was_closed_before_the_lab_ends_with_fin() -> None:
    with nbtcp.Lab(nbtcp.Path(delay=0.02)) as lab:
        log = lab.new_log()
        sock = lab.connect(("10.0.0.1", 80), 5, log=log)
        sock.sendall(b"GET /bytes/10 HTTP/1.1\r\nHost: lab\r\n\r\n")
        sock.recv(1000)
        sock.close()
    assert log.connections["end"].tolist() == ["FIN"]


def test_a_listening_socket_says_so(lab: nbtcp.Lab) -> None:
    with lab.listen(9007) as listener:
        assert repr(listener) == "<Socket <Listener port 9007, 0 to accept>>"


def test_recv_into_fills_a_buffer(echo: Socket) -> None:
    echo.sendall(b"hello")
    buffer = bytearray(10)
    assert echo.recv_into(buffer) == 5
    assert buffer == b"hello\0\0\0\0\0"
    echo.sendall(b"hello")
    assert echo.recv_into(memoryview(buffer)[8:], 1) == 1
    assert buffer[8:] == b"h\0"


def test_sendall_of_more_than_all_buffers(echo: Socket) -> None:
    data = bytes(range(256)) * 20_000
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(echo.sendall, memoryview(data))
        got = bytearray()
        while len(got) < len(data):
            got += echo.recv(1 << 20)
        job.result(timeout=SOON)
    assert got == data


def test_shutdown_closes_one_direction_only(echo: Socket) -> None:
    echo.sendall(b"last words")
    echo.shutdown(stdlib.SHUT_WR)
    got = b""
    while data := echo.recv(100):
        got += data
    assert got == b"last words"
    with pytest.raises(BrokenPipeError):
        echo.send(b"more")
    with pytest.raises(OSError, match="how must be"):
        echo.shutdown(7)


def test_urgent_data_is_understood_by_the_kernel_and_the_kernels_by_us(lab: nbtcp.Lab) -> None:
    """RFC 9293 MUST-30, MUST-32, MUST-33, MUST-62: the kernel gives the last urgent octet apart."""
    with lab.listen(9010) as listener:
        program = """
s.sendall(b"abc"); s.send(b"de!", socket.MSG_OOB); s.sendall(b"fg")
import select
select.select([], [], [s], 60)
urgent, line = s.recv(1, socket.MSG_OOB), b""
while not line.endswith(b"."):
    line += s.recv(1)
print((urgent + line).decode(), flush=True)
"""
        client = kernel_connects(lab, 9010, program)
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(SOON)
            got = b""
            while len(got) < 8:
                got += conn.recv(1)
                left = conn.connection.urgent_left
                assert left <= max(0, 6 - len(got))
            assert got == b"abcde!fg"
            assert [what for _, what, _ in conn.connection.reports] == ["urgent"]
            conn.sendall(b"12?", stdlib.MSG_OOB)
            conn.sendall(b"34.")
            out, _ = client.communicate(timeout=SOON)
        assert out == b"?1234.\n"


def test_a_timeout_is_a_timeouterror(echo: Socket) -> None:
    echo.settimeout(0.05)
    assert echo.gettimeout() == 0.05
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        echo.recv(1)
    assert 0.04 < time.monotonic() - began < SOON / 2
    echo.settimeout(SOON)
    echo.sendall(b"still good")
    assert echo.recv(100) == b"still good"


def test_non_blocking_raises_blockingioerror(echo: Socket) -> None:
    echo.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        echo.recv(1)
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("kind", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_a_selector_waits_for_the_kernel(lab: nbtcp.Lab, kind: str) -> None:
    """Opening, writing, reading and the end, without a call that blocks."""
    sock = lab.socket(type=stdlib.SOCK_STREAM | stdlib.SOCK_NONBLOCK)
    selector: selectors.BaseSelector = getattr(selectors, kind)()
    with sock, selector:
        assert sock.connect_ex((lab.kernel_address, 80)) == errno.EINPROGRESS
        selector.register(sock, selectors.EVENT_WRITE)
        assert selector.select(SOON)
        assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == 0
        sock.send(b"GET /bytes/100000 HTTP/1.0\r\n\r\n")
        selector.modify(sock, selectors.EVENT_READ)
        got = b""
        while selector.select(SOON) and (data := sock.recv(10_000)):
            got += data
        assert len(got) > 100_000


def test_a_refusal_by_the_kernel_is_told_by_so_error(lab: nbtcp.Lab) -> None:
    with lab.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((lab.kernel_address, 81)) == errno.EINPROGRESS
        assert select.select([], [sock], [], SOON)[1] == [sock]
        assert sock.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_ERROR) == errno.ECONNREFUSED


def test_the_kernel_learns_of_what_options_change(lab: nbtcp.Lab) -> None:
    """The MSS, and a receive buffer's size in the window; keep-alives are answered."""
    log = lab.new_log()
    with lab.socket(log=log) as sock:
        sock.settimeout(SOON)
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_MAXSEG, 700)
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_RCVBUF, 20_000)
        sock.connect((lab.kernel_address, 80))
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_KEEPIDLE, 1)
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, 1)
        conn = sock.connection
        assert conn is not None
        with lab.loop.lock:
            until = lab.loop.now() + round(SOON * 1e9)
            assert lab.loop.run_until(lambda: conn.keepalives > 0, until)
            assert lab.loop.run_until(lambda: not conn.keepalives, until)
        sock.sendall(b"GET /bytes/50000 HTTP/1.0\r\n\r\n")
        while sock.recv(1 << 16):
            pass
    segments = log.segments  # which may still grow
    assert segments[segments["event"] == "recv"]["len"].max() == 700 - 12
    assert segments[segments["event"] == "send"]["window"].max() <= 20_000


def test_makefile_reads_lines_and_writes(echo: Socket) -> None:
    with echo.makefile("rwb") as file:
        file.write(b"one\ntwo\n")
        file.flush()
        assert file.readline() == b"one\n"
        assert file.readline() == b"two\n"
    with echo.makefile("r", encoding="utf-8") as text:
        assert isinstance(text, io.TextIOBase)
        echo.sendall("zwölf\n".encode())
        assert text.readline() == "zwölf\n"


def test_a_file_keeps_the_socket_open(lab: nbtcp.Lab) -> None:
    sock = lab.connect(("10.0.0.1", 7), SOON)
    file = sock.makefile("rwb")
    sock.close()
    file.write(b"x\n")
    file.flush()
    assert file.readline() == b"x\n"
    file.close()
    assert sock.connection is not None
    assert sock.connection.closed_by_application
    with pytest.raises(OSError, match="closed") as caught:
        sock.recv(1)
    assert caught.value.errno == errno.EBADF


def test_names_of_both_ends(lab: nbtcp.Lab, echo: Socket) -> None:
    assert echo.getpeername() == ("10.0.0.1", 7)
    assert echo.getsockname()[0] == lab.address
    assert echo.getsockname()[1] >= 49152


def test_what_a_new_socket_cannot_do(lab: nbtcp.Lab) -> None:
    sock = lab.socket()
    for call in (lambda: sock.send(b"x"), lambda: sock.recv(1), sock.getpeername):
        with pytest.raises(OSError, match="not connected"):
            call()
    with pytest.raises(OSError, match="does not listen"):
        sock.accept()
    with pytest.raises(OSError, match="bind"):
        sock.listen()
    with pytest.raises(ValueError, match="negative"):
        sock.settimeout(-1)
    with pytest.raises(OSError, match="not 192"):
        sock.bind(("192.0.2.1", 80))
    sock.close()
    sock.close()


def test_a_connected_socket_connects_no_second_time(echo: Socket) -> None:
    with pytest.raises(OSError, match="connected already"):
        echo.connect(("10.0.0.1", 7))


def test_accept_serves_a_kernel_client(lab: nbtcp.Lab) -> None:
    with lab.listen(9001) as listener:
        listener.settimeout(SOON)
        client = kernel_connects(lab, 9001, "s.sendall(b'hi'); print(s.recv(10))")
        with client:
            conn, peer = listener.accept()
            with conn:
                assert peer[0] == lab.kernel_address
                assert conn.recv(10) == b"hi"
                conn.sendall(b"ho")
            assert client.stdout is not None
            assert client.stdout.read() == b"b'ho'\n"
    with pytest.raises(OSError, match="closed"):
        listener.accept()


def test_accept_times_out(lab: nbtcp.Lab) -> None:
    with lab.listen(9002) as listener:
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_port_has_one_listener(lab: nbtcp.Lab) -> None:
    with lab.listen(9003), pytest.raises(OSError, match="listener already") as caught:
        lab.listen(9003)
    assert caught.value.errno == errno.EADDRINUSE
    lab.listen(9003).close()


def test_a_closed_listener_refuses(lab: nbtcp.Lab) -> None:
    lab.listen(9004).close()
    client = kernel_connects(lab, 9004, "")
    with client:
        assert client.wait(timeout=SOON) != 0


def test_closing_with_unread_data_resets(lab: nbtcp.Lab) -> None:
    with lab.listen(9005) as listener:
        program = "s.sendall(b'unread')\ntry: print(s.recv(1))\nexcept OSError as e: print(e.errno)"
        with kernel_connects(lab, 9005, program) as client:
            conn, _ = listener.accept()
            while conn.connection is None or not conn.connection.reassembly.size:
                time.sleep(0.001)
            conn.close()
            assert client.stdout is not None
            assert int(client.stdout.read()) == errno.ECONNRESET


def test_abort_resets(echo: Socket) -> None:
    echo.abort()
    with pytest.raises(OSError):
        echo.recv(1)


def test_a_blocked_recv_is_woken_by_close_of_the_peer(lab: nbtcp.Lab) -> None:
    with lab.listen(9006) as listener, kernel_connects(lab, 9006, "time.sleep(0.2)"):
        conn, _ = listener.accept()
        assert conn.recv(10) == b""
        conn.close()


def test_many_threads_each_with_its_socket(lab: nbtcp.Lab) -> None:
    def talk(number: int) -> bool:
        with lab.connect(("10.0.0.1", 7), SOON) as sock:
            for i in range(20):
                message = f"{number} says {i}".encode()
                sock.sendall(message)
                got = b""
                while len(got) < len(message):
                    got += sock.recv(100)
                if got != message:
                    return False
        return True

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(talk, range(90)))


def test_settings_of_one_connection(lab: nbtcp.Lab) -> None:
    with lab.connect(("10.0.0.1", 7), 5, mss=500, nagle=False) as sock:
        assert sock.connection is not None
        assert sock.connection.config.mss == 500
    with pytest.raises(nbtcp.ConfigError, match="there is no setting 'speed'"):
        lab.connect(("10.0.0.1", 7), 5, speed=9)


def test_no_address_and_no_port() -> None:
    host, _ = nbtcp.Simulation().hosts()
    with pytest.raises(stdlib.gaierror, match="no IP address"):  # what libraries look for
        host.connect(("example", 80))
    with pytest.raises(ValueError, match="does not lie between"):
        host.connect(("10.0.0.2", 70000))
    with pytest.raises(OSError, match="multicast") as caught:
        host.connect(("224.0.0.1", 80))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_after_close_of_the_lab_sockets_say_so() -> None:
    lab = nbtcp.Lab()
    sock = lab.connect(("10.0.0.1", 80), 5)
    lab.close()
    lab.close()
    with pytest.raises(OSError):
        sock.sendall(b"x")
    with pytest.raises(OSError):
        lab.connect(("10.0.0.1", 80), 1)


def test_closing_the_lab_ends_its_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        nbtcp.Lab().close()
    assert set(threading.enumerate()) <= before


# --- the same sockets in virtual time ---


def test_blocking_sockets_run_in_virtual_time() -> None:
    client, server = nbtcp.Simulation(nbtcp.Path(delay=50)).hosts()
    began = time.monotonic()
    listener = server.listen(80)
    sock = client.connect(("10.0.0.2", 80), timeout=300)
    conn, _ = listener.accept()
    sock.sendall(b"hello")
    assert conn.recv(10) == b"hello"
    conn.close()
    assert sock.recv(10) == b""
    sock.close()
    assert client.loop.now() >= 250 * 10**9, "the handshake took 100 s, a message half of that"
    assert time.monotonic() - began < 100


def test_who_wakes_up_too_late_gets_what_has_come_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy machine is no reason for a timeout, as with the kernel's sockets."""
    client, server = nbtcp.Simulation(nbtcp.Path(delay=0.5)).hosts()
    listener = server.listen(80)
    sock = client.connect(("10.0.0.2", 80), timeout=3)
    conn, _ = listener.accept()
    conn.sendall(b"hello")
    clock = client.loop.clock
    sleep = clock.sleep
    monkeypatch.setattr(clock, "sleep", lambda until, others: sleep(until + 10**9, others))
    sock.settimeout(0.2)
    assert sock.recv(10) == b"hello"
    with pytest.raises(TimeoutError):
        sock.recv(10)


def test_waiting_for_ever_in_virtual_time_is_an_error() -> None:
    client, _ = nbtcp.Simulation().hosts()
    listener = client.listen(80)
    with pytest.raises(OSError, match="nothing is left to happen"):
        listener.accept()
