"""asyncio: transports, streams and servers over our TCP, the kernel's TCP at the other end.

What a Protocol is told is tested twice: over nbtcp, and over asyncio's own transports, whose
manners ours are to have.
"""

import asyncio
import ctypes
import errno
import gc
import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbtcp
from nbtcp.runtime.aio import _Driver

T = TypeVar("T")
KERNEL = "10.0.0.1"
OURS = "10.0.0.2"
ROOT = Path(__file__).resolve().parents[1]
root = pytest.mark.root
PATIENCE = 100.0  # s for one test, unless something hangs


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab() as lab:
        yield lab


def run(main: Callable[[], Awaitable[T]]) -> T:
    """`asyncio.run` in debug mode; nothing may be left open, pending, or reported as an error."""
    reports: list[dict[str, Any]] = []

    async def wrapped() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with asyncio.timeout(PATIENCE):
            result = await main()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # the kernel's side
            assert not (await asyncio.wait(tasks, timeout=PATIENCE))[1]
        return result

    before = os.listdir("/proc/self/fd")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # how long a callback took
    result = asyncio.run(wrapped(), debug=True)
    gc.collect()
    assert not reports
    assert not _Driver._running
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    return result


# --- the kernel's end, in this process ---


def kernel_socket(lab: nbtcp.Lab) -> socket.socket:
    """A kernel's socket in the lab's namespace."""

    def enter() -> socket.socket:
        with open(f"/proc/{lab.namespace.pid}/ns/net") as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0x40000000) == 0
        sock = socket.socket()
        sock.setblocking(False)
        return sock

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


class Peer:
    """A connected socket of the kernel."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def recv(self, octets: int = 1 << 20) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, octets)

    async def recv_exactly(self, octets: int) -> bytes:
        got = await self.recv(octets)
        while len(got) < octets and (data := await self.recv(octets - len(got))):
            got += data
        return got

    async def recv_all(self) -> bytes:
        """All until FIN."""
        got = bytearray()
        while data := await self.recv():
            got += data
        return bytes(got)

    def shutdown(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Listening:
    """A listening socket of the kernel's end; `await` it for the next Peer."""

    def __init__(self, lab: nbtcp.Lab) -> None:
        self.sock = kernel_socket(lab)
        self.sock.bind((KERNEL, 0))
        self.sock.listen(200)
        self.port = self.sock.getsockname()[1]

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *problem: object) -> None:
        self.sock.close()

    async def accept(self) -> Peer:
        return Peer((await asyncio.get_running_loop().sock_accept(self.sock))[0])


def opening(lab: nbtcp.Lab) -> list[nbtcp.Connection]:
    """Connections in SYN-SENT."""
    return [conn for conn in lab.stack.connections if conn.state is nbtcp.State.SYN_SENT]


class Recorder(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self, keep_open: bool | None = None) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.keep_open = keep_open

    def note(self, call: str) -> None:
        if self.calls[-1:] != [call] or call != "data":
            self.calls.append(call)
        self.changed.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes and data
        self.data += data
        self.note("data")

    def eof_received(self) -> bool | None:
        self.note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, problem: Exception | None) -> None:
        self.note("lost")
        self.lost.set_result(problem)

    async def until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            self.changed.clear()
            await self.changed.wait()


class BufferedRecorder(asyncio.BufferedProtocol):
    """A Recorder of the other kind, with a buffer of few octets."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.buffer = bytearray(7)
        for name in ("connection_made", "eof_received", "connection_lost"):
            setattr(self, name, getattr(self.recorder, name))

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.recorder.data_received(bytes(self.buffer[:nbytes]))


Connect = Callable[[nbtcp.Lab, Callable[[], Any]], Awaitable[tuple[Any, Any, Peer]]]


async def over_nbtcp(lab: nbtcp.Lab, factory: Callable[[], Any]) -> tuple[Any, Any, Peer]:
    """A transport of ours, its protocol, and the kernel's socket at the other end."""
    with Listening(lab) as listening:
        transport, protocol = await nbtcp.aio.create_connection(
            lab, factory, KERNEL, listening.port
        )
        return transport, protocol, await listening.accept()


async def over_the_kernel(lab: nbtcp.Lab, factory: Callable[[], Any]) -> tuple[Any, Any, Peer]:
    """The same with asyncio's own."""
    loop = asyncio.get_running_loop()
    with Listening(lab) as listening:
        sock = kernel_socket(lab)
        await loop.sock_connect(sock, (KERNEL, listening.port))
        transport, protocol = await loop.create_connection(factory, sock=sock)
        return transport, protocol, await listening.accept()


both = pytest.mark.parametrize("connect", [over_nbtcp, over_the_kernel])

# --- what a protocol is told ---


@root
@both
def test_protocol_is_told_of_data_and_of_the_end(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        assert protocol.transport is transport is protocol.transport
        assert transport.get_protocol() is protocol
        await peer.send(b"hello")
        await protocol.until(lambda: bool(protocol.data))
        transport.write(b"good")
        transport.writelines([b"b", bytearray(b"y"), memoryview(b"e")])
        assert await peer.recv_exactly(7) == b"goodbye"
        peer.shutdown()
        assert await protocol.lost is None
        assert await peer.recv() == b""
        assert protocol.calls == ["made", "data", "eof", "lost"]
        assert protocol.data == b"hello"
        assert transport.is_closing()
        transport.close()
        transport.abort()
        transport.write(b"nobody reads this")
        peer.sock.close()

    run(main)


@root
@both
def test_protocol_that_keeps_it_open_may_write_after_eof(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, lambda: Recorder(keep_open=True))
        peer.shutdown()
        await protocol.until(lambda: "eof" in protocol.calls)
        assert not transport.is_closing()
        transport.write(b"last words")
        transport.close()
        assert await peer.recv_all() == b"last words"
        assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]
        peer.sock.close()

    run(main)


@root
@both
def test_write_eof_closes_one_direction(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        assert transport.can_write_eof()
        data = bytes(range(256)) * 20_000
        transport.write(data)
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"more")
        with pytest.raises(TypeError, match="bytes-like"):
            transport.write("text")
        assert await peer.recv_all() == data
        await peer.send(b"thanks")
        await protocol.until(lambda: bool(protocol.data))
        peer.sock.close()
        assert await protocol.lost is None
        assert protocol.calls == ["made", "pause", "resume", "data", "eof", "lost"]

    run(main)


@root
@both
def test_reading_can_be_paused(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        transport.pause_reading()
        assert not transport.is_reading()
        await peer.send(b"hello")
        peer.shutdown()
        await asyncio.sleep(0.03)
        assert protocol.calls == ["made"]
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.lost is None
        assert protocol.calls == ["made", "data", "eof", "lost"]
        peer.sock.close()

    run(main)


@root
@both
@pytest.mark.slow
def test_writing_is_paused_by_the_high_mark_and_resumed_by_the_low(
    lab: nbtcp.Lab, connect: Connect
) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        transport.set_write_buffer_limits(high=100_000)
        assert transport.get_write_buffer_limits() == (25_000, 100_000)
        data = os.urandom(12_000_000)
        transport.write(data)
        assert protocol.calls == ["made", "pause"]
        assert transport.get_write_buffer_size() > 100_000
        got = bytearray()
        while "resume" not in protocol.calls:
            got += await peer.recv()
        assert transport.get_write_buffer_size() <= 25_000
        transport.close()
        got += await peer.recv_all()
        assert got == data
        assert await protocol.lost is None
        assert protocol.calls == ["made", "pause", "resume", "lost"]
        peer.sock.close()

    run(main)


@root
@both
@pytest.mark.slow
def test_close_delivers_what_was_written(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        data = os.urandom(8_000_000)
        transport.write(data)
        transport.close()
        assert transport.is_closing() and not transport.is_reading()
        assert await peer.recv_all() == data
        assert await protocol.lost is None
        peer.sock.close()

    run(main)


@root
@both
def test_a_reset_is_told_once(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        peer.reset()
        assert isinstance(await protocol.lost, ConnectionResetError)
        transport.abort()
        await asyncio.sleep(0)
        assert protocol.calls == ["made", "lost"]

    run(main)


async def reset_unread(opened: tuple[Any, Any, Peer]) -> tuple[Any, Any]:
    """Data and then a reset have arrived, and the transport reads neither."""
    transport, protocol, peer = opened
    transport.pause_reading()
    await peer.send(b"unread")
    await asyncio.sleep(0.03)
    peer.reset()
    await asyncio.sleep(0.03)
    return transport, protocol


@root
@both
def test_a_reset_comes_after_the_data_before_it(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol = await reset_unread(await connect(lab, Recorder))
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.calls == ["made", "data", "lost"]

    run(main)


@root
@both
def test_a_write_into_a_broken_connection_ends_it(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol = await reset_unread(await connect(lab, Recorder))
        transport.write(b"x" * 10)
        assert isinstance(await protocol.lost, ConnectionResetError | BrokenPipeError)

    run(main)


@root
@both
def test_an_exception_of_the_protocol_is_reported_and_ends_it(
    lab: nbtcp.Lab, connect: Connect
) -> None:
    class Faulty(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("a fault")

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        transport, protocol, peer = await connect(lab, Faulty)
        await peer.send(b"hello")
        problem = await protocol.lost
        assert isinstance(problem, ZeroDivisionError)
        assert [report["exception"] for report in reports] == [problem]
        assert reports[0]["transport"] is transport
        peer.sock.close()

    run(main)


@root
@both
def test_a_buffered_protocol_and_its_successor(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, buffered, peer = await connect(lab, BufferedRecorder)
        first = buffered.recorder
        await peer.send(b"0123456789")
        await first.until(lambda: len(first.data) == 10)
        assert first.data == b"0123456789"
        second = Recorder()
        transport.set_protocol(second)
        await peer.send(b"abc")
        await second.until(lambda: second.data == b"abc")
        peer.shutdown()
        assert await second.lost is None
        assert first.calls == ["made", "data"]
        peer.sock.close()

    run(main)


ACTION = st.one_of(
    st.integers(1, 300_000),  # we write so much
    st.integers(-300_000, -1),  # the peer does
    st.sampled_from(["pause", "resume", "turn", "wait", "eof"]),
)


@root
@both
@pytest.mark.slow
@settings(max_examples=8)
@given(actions=st.lists(ACTION, max_size=12))
def test_any_order_of_calls_brings_all_octets(
    lab: nbtcp.Lab, connect: Connect, actions: list[int | str]
) -> None:
    run(lambda: play(lab, connect, actions))


async def play(lab: nbtcp.Lab, connect: Connect, actions: list[int | str]) -> None:
    """Both ends act; at the end each has what the other wrote, in order."""
    transport, protocol, peer = await connect(lab, lambda: Recorder(keep_open=True))
    up, down = bytearray(), bytearray()
    received = asyncio.create_task(peer.recv_all())
    sent: asyncio.Task[None] | None = None
    ended = False
    for action in [*actions, "resume", "eof"]:
        match action:
            case int() if action > 0 and not ended:
                up += (data := os.urandom(action))
                transport.write(data)
            case int() if action < 0:
                down += (data := os.urandom(-action))
                if sent is not None:
                    transport.resume_reading()
                    await sent
                sent = asyncio.create_task(peer.send(data))
            case "pause":
                transport.pause_reading()
            case "resume":
                transport.resume_reading()
            case "turn":
                await asyncio.sleep(0)
            case "wait":
                await asyncio.sleep(0.001)
            case "eof":
                ended = True
                transport.write_eof()
    if sent is not None:
        await sent
    peer.shutdown()
    await protocol.until(lambda: "eof" in protocol.calls)
    assert await received == up
    assert protocol.data == down
    pauses = [call for call in protocol.calls if call in ("pause", "resume")]
    assert pauses == ["pause", "resume"] * (len(pauses) // 2)
    transport.close()
    assert await protocol.lost is None
    peer.sock.close()


# --- opening ---


@root
def test_extra_info_knows_the_ends_and_the_connection(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        log = lab.new_log()
        with Listening(lab) as listening:
            transport, protocol = await nbtcp.aio.create_connection(
                lab, Recorder, KERNEL, listening.port, log=log, dscp=3
            )
        conn = transport.get_extra_info("connection")
        assert transport.get_extra_info("peername") == (KERNEL, listening.port)
        assert transport.get_extra_info("sockname") == conn.local
        assert conn.local[0] == OURS
        assert transport.get_extra_info("log") is log
        assert transport.get_extra_info("socket", "none") == "none"
        assert (conn.config.dscp, conn.config.nagle) == (3, False)
        assert repr(transport) == f"<Transport of {conn}>"
        transport.abort()
        assert repr(transport) == f"<closing Transport of {conn}>"
        await protocol.lost
        assert log.segments["flags"].tolist()[-1] == "R"

    run(main)


@root
def test_a_refused_connection_raises_and_makes_no_protocol(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await nbtcp.aio.create_connection(lab, pytest.fail, KERNEL, 4)
        with pytest.raises(nbtcp.ConfigError, match="no setting 'nodelay'"):
            await nbtcp.aio.open_connection(lab, KERNEL, 80, nodelay=True)
        with pytest.raises(ValueError, match="port 0"):
            await nbtcp.aio.open_connection(lab, KERNEL, 0)
        assert not opening(lab)

    run(main)


@root
@pytest.mark.slow
def test_a_connection_to_nowhere_times_out_by_either_clock(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await nbtcp.aio.open_connection(lab, "10.0.0.77", 80)
        assert time.monotonic() - began < 60, "not after the minutes for which SYNs are repeated"
        assert not opening(lab)
        with pytest.raises(TimeoutError, match="SYN"):
            await nbtcp.aio.open_connection(lab, "10.0.0.77", 80, syn_timeout=1)
        assert not opening(lab)

    run(main)


@root
def test_a_cancelled_connect_leaves_no_connection(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        task = asyncio.create_task(nbtcp.aio.open_connection(lab, "10.0.0.77", 80))
        await asyncio.sleep(0)
        assert len(opening(lab)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not opening(lab)

    run(main)


@root
def test_a_protocol_that_cannot_be_made_leaves_no_connection(lab: nbtcp.Lab) -> None:
    def factory() -> Any:
        raise ZeroDivisionError("a fault")

    async def main() -> None:
        with Listening(lab) as listening:
            with pytest.raises(ZeroDivisionError):
                await nbtcp.aio.create_connection(lab, factory, KERNEL, listening.port)
            peer = await listening.accept()
            assert await peer.recv() == b""
            peer.sock.close()

    run(main)


@root
def test_a_name_is_looked_up_beside_the_event_loop(
    lab: nbtcp.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Live hosts do. Each of its addresses is tried."""
    threads: list[threading.Thread] = []

    def resolve(_: nbtcp.Lab, name: str) -> list[str]:
        threads.append(threading.current_thread())
        return ["224.0.0.1", "10.0.0.77", KERNEL] if name == "lab.example" else [KERNEL] * 2

    async def main() -> None:
        _, writer = await nbtcp.aio.open_connection(lab, "lab.example", 80)
        assert writer.get_extra_info("peername") == (KERNEL, 80)
        writer.close()
        await writer.wait_closed()
        all_say = "Multiple exceptions: .*one host's address.*10.0.0.77.*refused by 10.0.0.1 port 4"
        with pytest.raises(OSError, match=all_say):
            await nbtcp.aio.open_connection(lab, "lab.example", 4)
        with pytest.raises(ConnectionRefusedError):
            await nbtcp.aio.open_connection(lab, "twice.example", 4)
        assert not opening(lab)

    monkeypatch.setattr(nbtcp.Lab, "resolve", resolve)
    monkeypatch.setattr(lab, "patience", 1)
    run(main)
    assert len(threads) == 3 and threading.main_thread() not in threads


# --- streams ---


@root
@pytest.mark.slow
def test_streams_read_lines_and_the_rest(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, 80)
        writer.write(b"GET /bytes/3000000 HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
        await writer.drain()
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"3000000" in head
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        assert len(await reader.read()) == 2_000_000
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()

    run(main)


@root
def test_a_cancelled_read_leaves_the_stream_usable(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        with Listening(lab) as listening:
            reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, listening.port)
            peer = await listening.accept()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await reader.readexactly(5)
        await peer.send(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
        peer.sock.close()

    run(main)


@root
def test_a_read_and_a_drain_raise_what_broke_the_connection(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        with Listening(lab) as listening:
            reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, listening.port)
            peer = await listening.accept()
        writer.write(bytes(10_000_000))
        draining = asyncio.create_task(writer.drain())
        await asyncio.sleep(0)
        peer.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionResetError):
            await draining
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()

    run(main)


@root
@pytest.mark.slow
def test_a_hundred_connections_at_once(lab: nbtcp.Lab) -> None:
    async def echo(peer: Peer) -> None:
        await peer.send(await peer.recv_all())
        peer.sock.close()

    async def talk(port: int, number: int) -> None:
        reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, port)
        data = number.to_bytes(2, "big") * 5000
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        with Listening(lab) as listening:
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(talk(listening.port, number))
                for _ in range(100):
                    group.create_task(echo(await listening.accept()))

    run(main)


# --- servers ---


@root
def test_a_server_answers_curl(lab: nbtcp.Lab) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + request.split()[1] * 100_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await nbtcp.aio.start_server(lab, serve, 8080) as server:
            assert server.is_serving()
            assert repr(server) == "<Server <Listener port 8080, 0 to accept>>"
            curl = ["curl", "-s", f"http://{OURS}:8080/one"]
            page = await asyncio.to_thread(lab.run, curl, capture_output=True, timeout=PATIENCE)
            assert page.stdout == b"/one" * 100_000
        assert not server.is_serving()
        refused = await asyncio.to_thread(lab.run, curl, capture_output=True, timeout=PATIENCE)
        assert refused.returncode == 7

    run(main)


@root
def test_a_server_waits_for_its_connections(lab: nbtcp.Lab) -> None:
    async def main() -> None:
        protocols: list[Recorder] = []

        def factory() -> Recorder:
            protocols.append(Recorder())
            return protocols[-1]

        server = await nbtcp.aio.create_server(lab, factory, 8081)
        forever = asyncio.create_task(server.serve_forever())
        with pytest.raises(OSError, match="8081 has a listener"):
            await nbtcp.aio.create_server(lab, factory, 8081)
        clients = [Peer(kernel_socket(lab)) for _ in range(20)]
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.sock_connect(c.sock, (OURS, 8081)) for c in clients))
        for client in clients:
            await client.send(b"hello")
        while len(protocols) < 20 or not all(protocol.data for protocol in protocols):
            await asyncio.sleep(0.001)
        forever.cancel()
        await asyncio.sleep(0.01)
        assert not server.is_serving() and not forever.done()
        for transport in tuple(server.transports):
            transport.close()
        with pytest.raises(asyncio.CancelledError):
            await forever
        await server.wait_closed()
        for client, protocol in zip(clients, protocols, strict=True):
            assert await client.recv() == b""
            assert await protocol.lost is None
            client.sock.close()

    run(main)


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(certificate, key) files of both ends."""
    place = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=IP:10.0.0.1,IP:10.0.0.2,DNS:lab"
    options = ["-subj", "/CN=lab", "-addext", names, "-days", "2", "-nodes"]
    out = ["-newkey", "rsa:2048", "-keyout", f"{place}/key.pem", "-out", f"{place}/cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *options, *out], check=True, capture_output=True)
    return f"{place}/cert.pem", f"{place}/key.pem"


def server_context(certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@root
@pytest.mark.slow
def test_tls_with_a_server_of_the_kernels_side(
    lab: nbtcp.Lab, certificate: tuple[str, str]
) -> None:
    """asyncio's own TLS server, on the kernel's TCP, speaks first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome\n")
        writer.write(await reader.readexactly(3_000_000))
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        context = ssl.create_default_context(cafile=certificate[0])
        sock = kernel_socket(lab)
        sock.bind((KERNEL, 0))
        port = sock.getsockname()[1]
        async with await asyncio.start_server(serve, sock=sock, ssl=server_context(certificate)):
            reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, port, ssl=context)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert writer.get_extra_info("peername") == (KERNEL, port)
            assert await reader.readline() == b"welcome\n"
            data = os.urandom(3_000_000)
            writer.write(data)
            assert await reader.read() == data
            writer.close()
            await writer.wait_closed()
            asyncio.get_running_loop().set_debug(False)  # or the server reports its side of it
            with pytest.raises(ssl.SSLCertVerificationError):
                await nbtcp.aio.open_connection(
                    lab, KERNEL, port, ssl=context, server_hostname="elsewhere"
                )

    run(main)


@root
def test_tls_of_a_server_of_ours_with_openssl(lab: nbtcp.Lab, certificate: tuple[str, str]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        context = server_context(certificate)
        async with await nbtcp.aio.start_server(lab, serve, 8443, ssl=context):
            command = ["openssl", "s_client", "-quiet", "-verify_return_error"]
            command += ["-CAfile", certificate[0], "-connect", f"{OURS}:8443"]
            done = await asyncio.to_thread(
                lab.run, command, input=b"hello\n", capture_output=True, timeout=PATIENCE
            )
            assert done.stdout == b"HELLO\n"

    run(main)


@root
def test_tls_begins_in_the_middle(lab: nbtcp.Lab, certificate: tuple[str, str]) -> None:
    """StreamWriter.start_tls on both sides: ours, and asyncio's over the kernel's TCP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"OK\n")
        await writer.start_tls(server_context(certificate))
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        context = ssl.create_default_context(cafile=certificate[0])
        sock = kernel_socket(lab)
        sock.bind((KERNEL, 0))
        async with await asyncio.start_server(serve, sock=sock):
            reader, writer = await nbtcp.aio.open_connection(lab, *sock.getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"OK\n"
            await writer.start_tls(context, server_hostname="lab")
            writer.write(b"secret\n")
            assert await reader.read() == b"secret\n"
            writer.close()
            await writer.wait_closed()

    run(main)


@root
def test_sendfile_falls_back_to_reading(lab: nbtcp.Lab, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(500_000))

    async def main() -> None:
        transport, protocol, peer = await over_nbtcp(lab, Recorder)
        with file.open("rb") as source:
            await asyncio.get_running_loop().sendfile(transport, source)
        transport.close()
        assert await peer.recv_all() == file.read_bytes()
        await protocol.lost
        peer.sock.close()

    run(main)


# --- with others ---


@root
def test_a_link_that_fails_ends_transports_that_still_write() -> None:
    async def main() -> None:
        with nbtcp.Lab() as lab:
            transport, protocol, peer = await over_nbtcp(lab, Recorder)
            transport.write(bytes(5_000_000))
            lab.namespace.tun.close()
            problem = await protocol.lost
            assert isinstance(problem, OSError) and problem.errno == errno.ENETDOWN
            assert transport.get_write_buffer_size() == 0
            peer.sock.close()

    run(main)


@root
@pytest.mark.slow
def test_two_event_loops_and_a_blocking_socket_share_a_host(lab: nbtcp.Lab) -> None:
    def fetch() -> int:
        return len(lab.fetch("/bytes/1000000").content)

    async def stream() -> int:
        reader, writer = await nbtcp.aio.open_connection(lab, KERNEL, 80)
        writer.write(b"GET /bytes/1000000 HTTP/1.0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        size = len(await reader.read())
        writer.close()
        await writer.wait_closed()
        return size

    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(job) for job in (fetch, lambda: asyncio.run(stream())) for _ in range(2)
        ]
        jobs.append(pool.submit(lambda: asyncio.run(stream())))
        assert [job.result(timeout=PATIENCE) for job in jobs] == [1_000_000] * 5
    assert not _Driver._running


@root
def test_a_blocking_call_in_a_coroutine_goes_on(lab: nbtcp.Lab) -> None:
    """It turns the loop meanwhile, and the streams learn what came for them."""

    async def main() -> None:
        transport, protocol, peer = await over_nbtcp(lab, Recorder)
        await peer.send(b"hello")
        assert lab.fetch("/bytes/100000").ok
        await protocol.until(lambda: protocol.data == b"hello")
        transport.abort()
        await protocol.lost
        peer.sock.close()

    run(main)


@root
def test_an_event_loop_that_is_busy_keeps_nobody_waiting(lab: nbtcp.Lab) -> None:
    """The background thread acknowledges while a callback takes its time."""

    async def main() -> None:
        log = lab.new_log()
        with Listening(lab) as listening:
            transport, protocol = await nbtcp.aio.create_connection(
                lab, Recorder, KERNEL, listening.port, log=log
            )
            peer = await listening.accept()
        peer.sock.send(b"hello")
        conn = transport.get_extra_info("connection")
        until = time.monotonic() + PATIENCE
        while not conn.reassembly.size and time.monotonic() < until:
            time.sleep(0.001)  # as a long computation in a cell would
        assert not protocol.data
        await protocol.until(lambda: protocol.data == b"hello")
        transport.abort()
        await protocol.lost
        peer.sock.close()

    run(main)


@root
@pytest.mark.slow
def test_a_host_that_closes_ends_transports_and_servers() -> None:
    async def main() -> None:
        with nbtcp.Lab() as lab:
            transport, protocol, peer = await over_nbtcp(lab, Recorder)
            server = await nbtcp.aio.create_server(lab, Recorder, 80)
            opening = asyncio.create_task(nbtcp.aio.open_connection(lab, "10.0.0.77", 80))
            await asyncio.sleep(0)
        assert isinstance(await protocol.lost, ConnectionAbortedError)
        assert transport.is_closing()
        await server.wait_closed()
        with pytest.raises(OSError, match=r"abort|closed"):
            await opening
        with pytest.raises(OSError, match="the host is closed"):
            await nbtcp.aio.open_connection(lab, KERNEL, 80)
        peer.sock.close()

    run(main)


@root
def test_what_an_event_loop_leaves_behind_is_reset(lab: nbtcp.Lab) -> None:
    """As asyncio warns of its own transports."""

    async def main() -> socket.socket:
        _, _, peer = await over_nbtcp(lab, Recorder)
        await nbtcp.aio.create_server(lab, Recorder, 8082)
        return peer.sock

    sock = asyncio.run(main())
    with pytest.warns(ResourceWarning, match="unclosed <Transport"):
        assert lab.fetch("/bytes/1000").ok
        gc.collect()
    assert not _Driver._running
    sock.setblocking(True)
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    sock.close()
    with lab.listen(8082):
        pass


# --- virtual time, without root ---


@pytest.mark.slow
def test_a_simulated_transfer_over_a_bad_path() -> None:
    async def main() -> str:
        path = nbtcp.Path(delay=0.05, loss=0.02, rate=10e6, queue=50, reorder=0.01)
        client, server = nbtcp.Simulation(path, seed=2).hosts()
        data = bytes(range(256)) * 4000

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()) + data)
            writer.close()
            await writer.wait_closed()

        async with await nbtcp.aio.start_server(server, serve, 80):
            reader, writer = await nbtcp.aio.open_connection(client, server.address, 80)
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n" + data
            writer.close()
            await writer.wait_closed()
        segments = client.log.segments
        assert 1 < segments["time"][segments["len"] > 0].max() < 10
        return segments[["time", "host", "seq", "why"]].to_csv()

    first, second = run(main), run(main)
    assert first == second


def test_a_path_that_breaks_down_ends_in_a_timeout() -> None:
    async def main() -> None:
        path = nbtcp.Path(delay=0.01)
        client, server = nbtcp.Simulation(up=nbtcp.Path(drop=range(3, 1000)), down=path).hosts()
        async with await nbtcp.aio.create_server(server, Recorder, 80) as listening:
            transport, protocol = await nbtcp.aio.create_connection(
                client, Recorder, server.address, 80, user_timeout=30
            )
            transport.write(b"lost")
            problem = await protocol.lost
            assert isinstance(problem, TimeoutError) and "data sent" in str(problem)
            for served in tuple(listening.transports):
                served.abort()

    run(main)


# --- notebooks, imports ---

CELLS = (
    "import asyncio, nbtcp\nlab = nbtcp.Lab()",
    "reader, writer = await nbtcp.aio.open_connection(lab, lab.kernel_address, 80)\n"
    "writer.write(b'GET /bytes/100000 HTTP/1.0\\r\\n\\r\\n')\n"
    "len((await reader.read()).partition(b'\\r\\n\\r\\n')[2])",
    "len(lab.fetch('/bytes/2000').content)",  # a blocking call, with the stream still open
    "writer.close()\nawait writer.wait_closed()\nlab.close()\nlen(asyncio.all_tasks()) > 0",
)


@root
@pytest.mark.slow
def test_a_notebook_awaits_at_the_top_level() -> None:
    nbclient = pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.execute(notebook, cwd=ROOT, timeout=PATIENCE, kernel_name="python3")
    shown = [cell.outputs[0].data["text/plain"] for cell in notebook.cells if cell.outputs]
    assert shown == ["100000", "2000", "True"]


PROGRAM = """
import sys, nbtcp
assert "asyncio" not in sys.modules
from nbtcp import aio
import nbtcp.aio
assert aio is nbtcp.aio and "start_server" in aio.__all__
"""


def test_asyncio_is_imported_when_first_used() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'aoi'"):
        nbtcp.aoi  # noqa: B018
