"""asyncio: transports, streams and servers over our TCP, the kernel's TCP at the other end.

What a Protocol is told is tested twice: over nbtcp, and over asyncio's own transports, whose
manners ours are to have.
"""

import asyncio
import ctypes
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
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbtcp
from nbtcp.runtime.aio import Transport, _Driver

T = TypeVar("T")
KERNEL = "10.0.0.1"
OURS = "10.0.0.2"
ROOT = Path(__file__).resolve().parents[1]
root = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab() as lab:
        yield lab


def run(main: Callable[[], Awaitable[T]]) -> T:
    """`asyncio.run` in debug mode; nothing may be left open, pending, or reported as an error."""
    reports: list[dict[str, Any]] = []

    async def wrapped() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with asyncio.timeout(20):
            result = await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}
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
        assert await peer.recv(7) == b"goodbye"
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


@root
@both
def test_a_reset_comes_after_the_data_before_it(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        transport.pause_reading()
        await peer.send(b"hello")
        await asyncio.sleep(0.03)
        peer.reset()
        await asyncio.sleep(0.03)
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.calls == ["made", "data", "lost"]

    run(main)


@root
@both
def test_a_write_into_a_broken_connection_ends_it(lab: nbtcp.Lab, connect: Connect) -> None:
    async def main() -> None:
        transport, protocol, peer = await connect(lab, Recorder)
        transport.pause_reading()
        await peer.send(b"unread")
        await asyncio.sleep(0.03)
        peer.reset()
        await asyncio.sleep(0.03)
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
