"""asyncio over a stack: a transport for any asyncio Protocol, and the standard library's streams.

The event loop turns our loop itself: it watches the link's descriptor and the next deadline, so no
packet goes from thread to thread. Several event loops, and threads with blocking sockets, may use
one host at once: whoever turns the loop tells the others by `Connection.watch`. While an event loop
is busy with something else the background thread takes over.

On a simulated host virtual time passes whenever the event loop comes round again.
Streams, flow control and TLS are asyncio's own; `_FlowControlMixin` and `SSLProtocol` are what it
has no public names for.
"""

import asyncio
import math
import os
import ssl as tls
import warnings
from asyncio import sslproto
from asyncio.constants import _SendfileMode
from asyncio.transports import _FlowControlMixin
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar

from ..config import Config
from ..errors import MachineError
from ..stack import Stack
from ..tcp.connection import Observer
from ..tcp.listener import Listener
from ..tcp.state import State
from .host import Host
from .loop import SECOND, Loop, VirtualClock

LIMIT = 1 << 16  # octets that a StreamReader holds before it pauses its transport, as in asyncio
MOST = 256 << 10  # octets given to a protocol at once, as in asyncio
TURNS = 4  # of our loop, before other tasks of the event loop have theirs
_SYNS = (State.SYN_SENT, State.SYN_RECEIVED)
_SSLProtocol: Any = sslproto.SSLProtocol

Factory = Callable[[], Any]  # of a Protocol or BufferedProtocol
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def open_connection(
    host: Host, address: str, port: int, *, limit: int = LIMIT, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """(reader, writer) of a new connection, as by `asyncio.open_connection`.

    `options` and errors are those of `create_connection`.
    """
    event_loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit, event_loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=event_loop)
    transport, _ = await create_connection(host, lambda: protocol, address, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, event_loop)


async def start_server(
    host: Host, client_connected_cb: Serve, port: int, *, limit: int = LIMIT, **options: Any
) -> "Server":
    """Calls `client_connected_cb(reader, writer)` for each client, as by `asyncio.start_server`.

    `options` and errors are those of `create_server`.
    """
    event_loop = asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit, event_loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, event_loop)

    return await create_server(host, protocol, port, **options)


async def create_connection(
    host: Host,
    protocol_factory: Factory,
    address: str,
    port: int,
    *,
    ssl: tls.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    log: Observer | None = None,
    **settings: Any,
) -> tuple[asyncio.Transport, Any]:
    """(transport, protocol) of a new connection from `host`, as by `loop.create_connection`.

    `settings` change the host's Config for this connection; small writes do not wait, as always in
    asyncio, unless `nagle=True`. `syn_timeout` (s) bounds TCP's handshake, `asyncio.timeout`
    anything; cancelled, it leaves nothing behind. Raises what `Host.connect` does, of a name of
    which no address answers as asyncio does, and ssl.SSLError.
    """
    context = tls.create_default_context() if ssl is True else ssl
    config = host.stack.config.but(**{"nagle": False, **settings})
    event_loop = asyncio.get_running_loop()
    secured = event_loop.create_future()

    def factory() -> Any:
        if not context:
            return protocol_factory()
        return _SSLProtocol(
            *(event_loop, protocol_factory(), context, secured),
            server_hostname=server_hostname or address,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    transport = await _connect(host, (address, port), factory, config, log)
    protocol = transport.get_protocol()
    if not context:
        return transport, protocol
    await _done(secured, transport)
    return protocol._get_app_transport(), protocol._app_protocol


async def _connect(
    host: Host, remote: tuple[str, int], factory: Factory, config: Config, log: Observer | None
) -> "Transport":
    """To the first address that answers, of which each but the last has the host's `patience`."""
    problems: list[Exception] = []
    asks = type(host).resolve is not Host.resolve  # this machine's resolver, which takes its time
    addresses = await asyncio.to_thread(host.resolve, remote[0]) if asks else [remote[0]]
    for number, address in enumerate(addresses, 1):
        there, settings = (address, remote[1]), config
        if number < len(addresses):
            settings = config.but(syn_timeout=min(config.syn_timeout, host.patience))
        try:
            if asks:
                await asyncio.to_thread(host.check, there)
            driver = _Driver.of(host.loop)
            waiter = driver.event_loop.create_future()
            act = partial(host.stack.connect, there, config=settings, observer=log)
            transport = Transport(driver, driver.do(act), factory, waiter)
            await _done(waiter, transport)
            return transport
        except (OSError, MachineError) as problem:
            problems.append(problem)
    if len(set(map(str, problems))) == 1:
        raise problems[0]
    raise OSError(f"Multiple exceptions: {', '.join(map(str, problems))}")  # as by asyncio


async def _done(waiter: asyncio.Future[None], transport: "Transport") -> None:
    """Wait, and leave no connection behind when that fails."""
    try:
        await waiter
    except BaseException:
        transport.abort()
        raise


async def create_server(
    host: Host,
    protocol_factory: Factory,
    port: int,
    *,
    address: str | None = None,
    backlog: int = 128,
    ssl: tls.SSLContext | None = None,
) -> "Server":
    """A server on `port` of `host`, at one `address` of it or at all, as by `loop.create_server`.

    Raises OSError when the port has a listener already.
    """
    event_loop = asyncio.get_running_loop()

    def factory() -> Any:
        protocol = protocol_factory()
        return _SSLProtocol(event_loop, protocol, ssl, None, True) if ssl else protocol

    with host.loop.lock:
        listener = host.stack.listen(port, backlog, address)
    return Server(host.loop, host.stack, listener, factory)


class Transport(_FlowControlMixin):
    """An `asyncio.Transport` over a Connection of ours. Sizes in octets.

    `get_extra_info` knows "peername", "sockname", "connection" and "log". `abort` sends a RST.
    """

    _loop: asyncio.AbstractEventLoop  # this and the next two are the mixin's
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]
    _start_tls_compatible = True  # what loop.start_tls asks for, and loop.sendfile
    _sendfile_compatible = _SendfileMode.FALLBACK

    def __init__(
        self,
        driver: "_Driver",
        conn: Any,
        factory: Factory,
        waiter: asyncio.Future[None] | None = None,
        server: "Server | None" = None,
    ) -> None:
        extra = {"peername": conn.remote, "sockname": conn.local, "connection": conn}
        super().__init__({**extra, "log": conn.observer}, driver.event_loop)
        self._conn = conn
        self._driver = driver
        self._factory: Factory | None = factory  # until the connection is open
        self._waiter = waiter
        self._server = server
        self._protocol: Any = None
        self._buffer = bytearray()  # what the connection's send buffer did not take
        self._paused = self._eof_sent = self._eof_received = False
        self._closing = self._lost = False  # `connection_lost` is on its way when lost
        driver.add(self, conn, conn.abort)

    def __repr__(self) -> str:
        return f"<{'closing ' if self._closing else ''}Transport of {self._conn}>"

    def __del__(self) -> None:
        if not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._driver.news(self)

    def write(self, data: Any) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._eof_sent:
            raise RuntimeError("cannot write after write_eof()")
        if self._lost or not data:
            return
        if not self._buffer:
            data = memoryview(data).cast("B")
            data = data[self._do(partial(self._conn.send, data)) :]
        if data and not self._lost:
            self._buffer += data
            self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self._closing or self._eof_sent):
            self._eof_sent = True
            self._end_if_flushed()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._end_if_flushed()

    def abort(self) -> None:
        self._stop(self._conn.abort, None)

    # --- what the driver calls ---

    def ready(self) -> bool:
        """True when `advance` has something to do. With the lock held, in any thread."""
        conn = self._conn
        if self._lost or (conn.state in _SYNS and not self._broken):
            return False
        if self._factory is not None or self._ended:
            return True
        readable = self.is_reading() and not self._eof_received
        # A quarter of the send buffer at once, not each segment that an ACK makes room for.
        writable = self._buffer and 4 * conn.queue.room >= conn.queue.capacity
        return bool(writable or (readable and (conn.reassembly.size or conn.eof)))

    def advance(self) -> None:
        """Move what can be moved, in the event loop."""
        if self._lost:
            return
        try:
            if self._factory is not None:
                self._open(self._factory)
            if self._buffer and not self._broken:
                with memoryview(self._buffer) as data:
                    taken = self._do(partial(self._conn.send, data))
                del self._buffer[:taken]
                self._maybe_resume_protocol()
                self._end_if_flushed()
            if self.is_reading() and not self._eof_received:
                self._read()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as problem:
            self._force_close(problem)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(problem)
            elif problem is not self._broken:
                context = {"message": "a protocol failed", "exception": problem, "transport": self}
                self._loop.call_exception_handler({**context, "protocol": self._protocol})
        if self._ended:
            self._force_close(self._broken)

    # --- inside ---

    @property
    def _broken(self) -> OSError | None:
        """What ended the connection."""
        problem: OSError | None = self._conn.error or self._driver.loop.failure
        return problem

    @property
    def _ended(self) -> bool:
        """True when it is broken, and the protocol has, or does not want, what came before."""
        return bool(self._broken and (self._closing or not self._conn.reassembly.size))

    def _open(self, factory: Factory) -> None:
        self._factory = None
        waiter = self._waiter
        if waiter is not None and self._broken:
            raise self._broken
        self._protocol = factory()
        self._protocol.connection_made(self)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _read(self) -> None:
        conn, loop, protocol = self._conn, self._driver.loop, self._protocol
        buffer: Any = None
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        with loop.lock:
            data = conn.recv(MOST if buffer is None else len(buffer), loop.now())
            if conn.ack_due is not None and loop.failure is None:
                loop.flush()
        if not data:
            self._eof_received = conn.eof and not self._broken
            if self._eof_received and not protocol.eof_received():
                self.close()
        elif buffer is None:
            protocol.data_received(data)
        else:
            buffer[: len(data)] = data
            protocol.buffer_updated(len(data))

    def _do(self, act: Callable[[int], Any]) -> Any:
        """`act(now)` on the connection; 0 when that is broken, and the transport lost with it."""
        try:
            return self._driver.do(act)
        except OSError as problem:
            self._lose(self._broken or problem)
            return 0

    def _end_if_flushed(self) -> None:
        """The FIN follows what was written."""
        if self._buffer or self._lost:
            return
        if self._closing:
            self._do(self._conn.close)
            self._lose(None)
        elif self._eof_sent:
            self._do(self._conn.shutdown)

    def _force_close(self, problem: BaseException | None) -> None:  # SSLProtocol calls it too
        self._stop(self._conn.close, problem)

    def _stop(self, act: Callable[[int], None], problem: BaseException | None) -> None:
        if not (self._lost or self._broken):
            self._do(act)
        self._lose(problem)

    def _lose(self, problem: BaseException | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._buffer = bytearray()
            self._loop.call_soon(self._connection_lost, problem)

    def _connection_lost(self, problem: BaseException | None) -> None:
        self._driver.remove(self)
        if self._server is not None:
            self._server.transports.discard(self)
            self._server.settle()
        if self._protocol is not None:
            self._protocol.connection_lost(problem)


class Server(asyncio.AbstractServer):
    """Accepts connections, as an `asyncio.Server` does. `transports` are those that are open."""

    def __init__(self, loop: Loop, stack: Stack, listener: Listener, factory: Factory) -> None:
        self.transports: set[Transport] = set()
        self._driver = _Driver.of(loop)
        self._listener = listener
        self._factory = factory
        self._end = partial(stack.close_listener, listener)
        self._until_close = self.get_loop().create_future()
        self._until_closed = self.get_loop().create_future()
        self._driver.add(self, listener, self._end)

    def __repr__(self) -> str:
        return f"<Server {self._listener}>"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._driver.event_loop

    def is_serving(self) -> bool:
        return not self._listener.closed

    async def start_serving(self) -> None:
        """It does so from the beginning."""

    async def serve_forever(self) -> None:
        """Until cancelled, or closed."""
        try:
            await self._until_close
        finally:
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Accept no more. Open connections stay."""
        if self.is_serving():
            self._driver.do(self._end)
            self._driver.remove(self)
            self._until_close.cancel()
            self.settle()

    async def wait_closed(self) -> None:
        """Until it is closed, and all its connections are, as from Python 3.12 on."""
        await asyncio.shield(self._until_closed)

    def settle(self) -> None:
        """A connection has ended, or `close` was called."""
        if not (self.is_serving() or self.transports or self._until_closed.done()):
            self._until_closed.set_result(None)

    # --- what the driver calls ---

    def ready(self) -> bool:
        return len(self._listener) > 0 or self._driver.loop.failure is not None

    def advance(self) -> None:
        if self._driver.loop.failure is not None:
            self.close()
        while (conn := self._driver.do(lambda now: self._listener.accept())) is not None:
            self._driver.do(partial(conn.reconfigure, conn.config.but(nagle=False)))
            self.transports.add(Transport(self._driver, conn, self._factory, server=self))


class _Driver:
    """An event loop that turns a `Loop` of ours, as long as something in it uses that."""

    _running: ClassVar[dict[tuple[Loop, asyncio.AbstractEventLoop], "_Driver"]] = {}

    def __init__(self, loop: Loop, event_loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.event_loop = event_loop
        # Transports and servers, with what they watch and the call that ends it.
        self._ends: dict[Any, tuple[Any, Callable[[int], None]]] = {}
        self._ready: dict[Any, None] = {}
        self._descriptors: list[int] = []
        self._called = False  # `_run` runs, or will soon
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf  # when that is, ns
        self._virtual = isinstance(loop.clock, VirtualClock)

    @classmethod
    def of(cls, loop: Loop) -> "_Driver":
        """The driver of `loop` in the running event loop."""
        event_loop = asyncio.get_running_loop()
        return cls._running.get((loop, event_loop)) or cls(loop, event_loop)

    def do(self, act: Callable[[int], Any]) -> Any:
        """`act(now)`, and send what comes of it."""
        with self.loop.lock:
            result = act(self.loop.now())
            if self.loop.failure is None:
                self.loop.flush()
            return result

    def add(self, end: Any, watched: Any, stop: Callable[[int], None]) -> None:
        """Let `end` advance whenever something that it is ready for happens to `watched`."""
        with self.loop.lock:
            if not self._ends:
                self._start()
            self._ends[end] = watched, stop
            watched.watch = partial(self.news, end)
            watched.watch()

    def remove(self, end: Any) -> None:
        with self.loop.lock:
            if end in self._ends:
                self._ready.pop(end, None)
                self._ends.pop(end)[0].watch = None
                if not self._ends:
                    self._stop()

    def news(self, end: Any) -> None:
        """Something happened to it. With the lock held, or in the event loop."""
        if end in self._ends and end.ready():
            self._ready[end] = None
            self._call()

    # --- inside, with the lock held ---

    def _start(self) -> None:
        self._running[self.loop, self.event_loop] = self
        self.loop.watch(self._look)
        # Duplicates, for whoever closes the link does not know that they are watched.
        self._descriptors = [os.dup(descriptor) for descriptor in self.loop.descriptors()]
        for descriptor in self._descriptors:
            self.event_loop.add_reader(descriptor, self._run)
        self._call()

    def _stop(self) -> None:
        del self._running[self.loop, self.event_loop]
        self.loop.unwatch(self._look)
        for descriptor in self._descriptors:
            self.event_loop.remove_reader(descriptor)
            os.close(descriptor)
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf

    def _call(self) -> None:
        """`_run` shall be called."""
        if self._called and not self.event_loop.is_closed():
            return
        self._called = True
        try:
            self.event_loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # it was closed, and these were not
            ends, self._ends, self._ready = self._ends, {}, {}
            for watched, stop in ends.values():
                watched.watch = None
                stop(self.loop.now())
            self._stop()

    def _look(self) -> None:
        """Somebody has turned the loop or sent something: the next deadline may be sooner."""
        if (self.loop.deadline() or math.inf) < self._due or self.event_loop.is_closed():
            self._call()

    def _arm(self) -> None:
        due = self.loop.deadline()
        if due is None or due >= self._due or not self._ends:  # a timer that is early does no harm
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        delay = 0 if self._virtual else max(0, due - self.loop.now()) / SECOND
        self._timer = self.event_loop.call_later(delay, self._run_on_time)

    # --- inside, in the event loop ---

    def _run_on_time(self) -> None:
        due, self._due, self._timer = self._due, math.inf, None
        if self._virtual:
            self.loop.clock.sleep(int(due), [])
        self._run()

    def _run(self) -> None:
        """Turn the loop, and let those advance for whom there is news."""
        self._called = True
        try:
            with self.loop.lock:
                for _ in range(TURNS):
                    if self.loop.failure is not None or not self.loop.step():
                        break
                ready, self._ready = self._ready, {}
            for end in ready:
                end.advance()
                self.news(end)  # there may be more
        finally:
            with self.loop.lock:
                self._called = False
                self._arm()
                if self._ready:
                    self._call()
