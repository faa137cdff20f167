"""asyncio over a stack: a transport for any asyncio Protocol, and the standard library's streams.

The event loop turns our loop itself: it watches the link's descriptor and the next deadline, so no
packet goes from thread to thread. Several event loops, and threads with blocking sockets, may use
one host at once: whoever turns the loop tells the others by `Connection.watch`. While an event loop
is busy with something else the background thread takes over.

The transport's flow control and TLS are asyncio's own: `_FlowControlMixin` and `SSLProtocol`.
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
from typing import Any, ClassVar, Protocol

from ..tcp.connection import Connection, Observer
from ..tcp.listener import Listener
from ..tcp.state import State
from .host import Host
from .loop import SECOND, Loop, VirtualClock

MOST = 256 << 10  # octets given to a protocol at once, as many as asyncio does
TURNS = 4  # of the loop, before other tasks have their turn
_SSLProtocol: Any = sslproto.SSLProtocol
_SYNS = (State.SYN_SENT, State.SYN_RECEIVED)

Factory = Callable[[], asyncio.BaseProtocol]
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def open_connection(
    host: Host, address: str, port: int, *, limit: int = 1 << 16, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """(reader, writer) of a new connection, as of `asyncio.open_connection`.

    `options` and errors are those of `create_connection`.
    """
    event_loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=event_loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=event_loop)
    transport, _ = await create_connection(host, lambda: protocol, address, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, event_loop)


async def start_server(
    host: Host, client_connected_cb: Connected, port: int, *, limit: int = 1 << 16, **options: Any
) -> "Server":
    """Call `client_connected_cb(reader, writer)` for each client, as `asyncio.start_server` does.

    `options` and errors are those of `create_server`.
    """
    event_loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=event_loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=event_loop)

    return await create_server(host, factory, port, **options)


async def create_connection(
    host: Host,
    protocol_factory: Factory,
    address: str,
    port: int,
    *,
    ssl: tls.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    log: Observer | None = None,
    **settings: Any,
) -> tuple[asyncio.Transport, Any]:
    """(transport, protocol) of a new connection from `host`, as of `loop.create_connection`.

    `settings` change the host's Config for this connection; as everywhere in asyncio small writes
    do not wait, unless `nagle=True`. `syn_timeout` (s) bounds the handshake, and `asyncio.timeout`
    anything; cancelled, it resets the connection. Raises what `Host.connect` does, and
    ssl.SSLError.
    """
    remote = (address, port)
    if type(host).locate is not Host.locate:  # a Live host asks the machine's resolver
        remote = await asyncio.to_thread(host.locate, remote)
    config = host.stack.config.but(**{"nagle": False, **settings})
    context = tls.create_default_context() if ssl is True else ssl or None
    driver = _Driver.of(host.loop)
    with host.loop.lock:
        conn = host.stack.connect(remote, host.loop.now(), config=config, observer=log)
    try:
        await _opened(driver, conn)
        protocol = protocol_factory()
        waiter = driver.event_loop.create_future()
        below, above = _attend(driver, conn, protocol, context, server_hostname or address, waiter)
    except BaseException:
        with host.loop.lock:
            conn.abort(host.loop.now())
            if host.loop.failure is None:
                host.loop.flush()
        raise
    try:
        await waiter
    except BaseException:
        below.abort()
        raise
    return above, protocol


async def create_server(
    host: Host,
    protocol_factory: Factory,
    port: int,
    *,
    address: str | None = None,
    backlog: int = 128,
    ssl: tls.SSLContext | None = None,
    start_serving: bool = True,
) -> "Server":
    """A server on `port` of `host`, at one `address` of it or at all, as of `loop.create_server`.

    Raises OSError when the port has a listener already.
    """
    server = Server(host, protocol_factory, port, address, backlog, ssl)
    if start_serving:
        await server.start_serving()
    return server


async def _opened(driver: "_Driver", conn: Connection) -> None:
    """Wait until `conn` is open. Raises what ended it."""
    opening = _Opening(driver, conn)
    driver.add(opening, conn)
    try:
        await opening.future
    finally:
        driver.remove(opening)


def _attend(
    driver: "_Driver",
    conn: Connection,
    protocol: Any,
    context: tls.SSLContext | None,
    hostname: str | None = None,
    waiter: asyncio.Future[None] | None = None,
    server: "Server | None" = None,
) -> tuple["Transport", asyncio.Transport]:
    """Our transport of an open connection, and what `protocol` sees, which is TLS with `context`.

    `waiter` is done when `protocol` has been told.
    """
    if context is None:
        transport = Transport(driver, conn, protocol, waiter, server)
        return transport, transport
    side = server is not None
    below: Any = _SSLProtocol(driver.event_loop, protocol, context, waiter, side, hostname)
    return Transport(driver, conn, below, None, server), below._get_app_transport()


class Transport(_FlowControlMixin):
    """An `asyncio.Transport` over a Connection of ours. Sizes in octets.

    `get_extra_info` knows "peername", "sockname", "connection" and "log". `abort` sends a RST.
    """

    _loop: asyncio.AbstractEventLoop  # the mixin's, as are these two
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]
    _start_tls_compatible = True  # loop.start_tls and StreamWriter.start_tls ask for it
    _sendfile_compatible = _SendfileMode.FALLBACK

    def __init__(
        self,
        driver: "_Driver",
        conn: Connection,
        protocol: Any,
        waiter: asyncio.Future[None] | None,
        server: "Server | None",
    ) -> None:
        extra: dict[str, Any] = {"peername": conn.remote, "sockname": conn.local}
        extra |= {"connection": conn, "log": conn.observer}
        super().__init__(extra, driver.event_loop)
        self._conn = conn
        self._driver = driver
        self._protocol = protocol
        self._server = server
        self._buffer = bytearray()  # what the connection's send buffer did not take
        self._closing = self._lost = False  # `connection_lost` is on its way once lost
        self._paused = True  # until the protocol knows us
        self._eof_sent = self._eof_received = False
        driver.add(self, conn)
        driver.event_loop.call_soon(protocol.connection_made, self)
        driver.event_loop.call_soon(self._begin, waiter)

    def __repr__(self) -> str:
        state = "closed " if self._lost else "closing " if self._closing else ""
        return f"<{state}Transport of {self._conn}>"

    def __del__(self) -> None:
        if not self._closing:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    def _begin(self, waiter: asyncio.Future[None] | None) -> None:
        self.resume_reading()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- reading ---

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._driver.news(self)

    # --- writing ---

    def write(self, data: Any) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._eof_sent:
            raise RuntimeError("cannot write after write_eof()")
        if self._lost or not data:
            return
        if not self._buffer:
            data = memoryview(data).cast("B")
            data = data[self._send(data) :]
        if data and not self._lost:
            self._buffer += data
            self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not (self._closing or self._eof_sent):
            self._eof_sent = True
            self._end_if_flushed()

    # --- closing ---

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._end_if_flushed()

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, problem: BaseException | None) -> None:  # SSLProtocol calls it too
        if not self._lost:
            self._buffer.clear()
            if self._broken is None:
                self._call(self._conn.abort)
            self._lose(problem)

    def _lose(self, problem: BaseException | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._loop.call_soon(self._connection_lost, problem)

    def _connection_lost(self, problem: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(problem)
        finally:
            self._driver.remove(self)
            if self._server is not None:
                self._server._detach(self)

    # --- protocols ---

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    # --- what the driver calls ---

    def ready(self) -> bool:
        conn, size = self._conn, self._conn.reassembly.size
        if self._lost:
            return False
        if self.is_reading() and not self._eof_received and (size or conn.eof):
            return True
        if self._broken and not (size and self.is_reading()):
            return True
        # A quarter of the send buffer at once, not each segment that an ACK makes room for.
        return bool(self._buffer) and 4 * conn.queue.room >= conn.queue.capacity

    def forsake(self, now: int) -> None:
        self._conn.abort(now)

    def advance(self) -> None:
        if self._lost:
            return
        if self._buffer and self._broken is None:
            with memoryview(self._buffer) as data:
                taken = self._send(data)
            del self._buffer[:taken]
            self._maybe_resume_protocol()
            self._end_if_flushed()
        if self.is_reading() and not self._eof_received:
            self._read()
        if self._broken and not (self._conn.reassembly.size and self._paused):
            self._force_close(self._broken)

    @property
    def _broken(self) -> OSError | None:
        return self._conn.error or self._driver.loop.failure

    def _read(self) -> None:
        conn, loop, protocol = self._conn, self._driver.loop, self._protocol
        try:
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
                self._eof_received = conn.eof and self._broken is None
                if self._eof_received and not protocol.eof_received():
                    self.close()
            elif buffer is None:
                protocol.data_received(data)
            else:
                buffer[: len(data)] = data
                protocol.buffer_updated(len(data))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as problem:
            context = {"message": "the protocol failed", "exception": problem}
            self._loop.call_exception_handler({**context, "transport": self, "protocol": protocol})
            self._force_close(problem)

    def _send(self, data: memoryview) -> int:
        """As much of `data` as the connection takes."""
        return self._call(partial(self._conn.send, data)) or 0

    def _call(self, act: Callable[[int], Any]) -> Any:
        """`act(now)` on the connection; what it leads to is sent. A broken one is lost."""
        loop = self._driver.loop
        with loop.lock:
            try:
                result = act(loop.now())
                if loop.failure is None:
                    loop.flush()
            except OSError as problem:
                self._lose(self._broken or problem)
                return None
            return result

    def _end_if_flushed(self) -> None:
        """The FIN follows what was written."""
        if self._buffer or self._lost:
            return
        if self._closing:
            self._call(self._conn.close)
            self._lose(None)
        elif self._eof_sent:
            self._call(self._conn.shutdown)


class Server(asyncio.AbstractServer):
    """Accepts connections, as an `asyncio.Server` does."""

    def __init__(
        self,
        host: Host,
        protocol_factory: Factory,
        port: int,
        address: str | None,
        backlog: int,
        context: tls.SSLContext | None,
    ) -> None:
        self._host = host
        self._factory = protocol_factory
        self._name = address or host.address, port
        self._listen = partial(host.stack.listen, port, backlog, address)
        self._context = context
        self._driver = _Driver.of(host.loop)
        self._listener: Listener | None = None
        self._transports: set[Transport] = set()
        self._forever: asyncio.Future[None] | None = None
        self._closed = self._driver.event_loop.create_future()  # and all its connections

    def __repr__(self) -> str:
        return f"<Server {self._listener or 'that does not serve'}>"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._driver.event_loop

    @property
    def sockets(self) -> tuple["Server", ...]:
        """Stands for the listening socket: one may ask it `getsockname`."""
        return (self,) if self.is_serving() else ()

    def getsockname(self) -> tuple[str, int]:
        """(address, port)."""
        return self._name

    def is_serving(self) -> bool:
        return self._listener is not None and not self._listener.closed

    async def start_serving(self) -> None:
        if self._listener is None:
            with self._host.loop.lock:
                self._listener = self._listen()
            self._driver = _Driver.of(self._host.loop)
            self._driver.add(self, self._listener)

    async def serve_forever(self) -> None:
        if self._forever is not None or (self._listener and self._listener.closed):
            raise RuntimeError(f"{self} serves already, or was closed")
        await self.start_serving()
        self._forever = self.get_loop().create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Accept no more; connections stay."""
        if self._listener is None or self._listener.closed:
            return
        loop = self._host.loop
        with loop.lock:
            self._host.stack.close_listener(self._listener, loop.now())
            if loop.failure is None:
                loop.flush()
        self._driver.remove(self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._settle()

    def close_clients(self) -> None:
        """Close all connections."""
        for transport in tuple(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        """Reset all connections."""
        for transport in tuple(self._transports):
            transport.abort()

    async def wait_closed(self) -> None:
        """Until `close` was called and all connections have ended, as in Python 3.12."""
        await asyncio.shield(self._closed)

    def _detach(self, transport: Transport) -> None:
        self._transports.discard(transport)
        self._settle()

    def _settle(self) -> None:
        if not (self.is_serving() or self._transports or self._closed.done()):
            self._closed.set_result(None)

    # --- what the driver calls ---

    def ready(self) -> bool:
        assert self._listener is not None
        return len(self._listener) > 0 or self._host.loop.failure is not None

    def advance(self) -> None:
        assert self._listener is not None
        while len(self._listener):
            with self._host.loop.lock:
                conn = self._listener.accept()
            if conn is not None:
                conn.config = conn.config.but(nagle=False)
                protocol = self._factory()
                below, _ = _attend(self._driver, conn, protocol, self._context, server=self)
                self._transports.add(below)
        if self._host.loop.failure is not None:
            self.close()

    def forsake(self, now: int) -> None:
        if self._listener is not None:
            self._host.stack.close_listener(self._listener, now)


class _Opening:
    """A connection in SYN-SENT, and the future of whoever waits for it."""

    def __init__(self, driver: "_Driver", conn: Connection) -> None:
        self.future = driver.event_loop.create_future()
        self._driver = driver
        self._conn = conn

    def ready(self) -> bool:
        return self._conn.state not in _SYNS or self._driver.loop.failure is not None

    def advance(self) -> None:
        if self.future.done():
            return
        problem = self._conn.error or self._driver.loop.failure
        if problem is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(problem)

    def forsake(self, now: int) -> None:
        self._conn.abort(now)


class _End(Protocol):
    """What a driver minds: an opening connection, a transport, a server."""

    def ready(self) -> bool:
        """True when `advance` has something to do. With the lock held, in any thread."""

    def advance(self) -> None:
        """In the event loop: do what can be done."""

    def forsake(self, now: int) -> None:
        """With the lock held: the event loop was closed before this was."""


class _Driver:
    """An event loop that turns a `Loop` of ours, as long as something in it uses that."""

    _running: ClassVar[dict[tuple[Loop, asyncio.AbstractEventLoop], "_Driver"]] = {}

    def __init__(self, loop: Loop, event_loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.event_loop = event_loop
        self._ends: dict[_End, Connection | Listener] = {}
        self._ready: dict[_End, None] = {}
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

    def add(self, end: _End, watched: Connection | Listener) -> None:
        """Mind `end`, which has to look whenever something happens to `watched`."""
        with self.loop.lock:
            if not self._ends:
                self._start()
            self._ends[end] = watched
            watched.watch = partial(self.news, end)
            watched.watch()

    def remove(self, end: _End) -> None:
        with self.loop.lock:
            if (watched := self._ends.pop(end, None)) is not None:
                watched.watch = None
                self._ready.pop(end, None)
                if not self._ends:
                    self._stop()

    def news(self, end: _End) -> None:
        """Something happened: with the lock held, or in the event loop."""
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
        self._descriptors.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, math.inf

    def _call(self) -> None:
        """`_run` shall be called."""
        if self._called:
            return
        self._called = True
        try:
            self.event_loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # it was closed, and these were not
            for end in self._ends:
                end.forsake(self.loop.now())
            self._ends.clear()
            self._stop()

    def _look(self) -> None:
        """Somebody has turned the loop or sent something: the next deadline may be sooner."""
        if not self._called and (self.loop.deadline() or math.inf) < self._due:
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
        """Turn the loop, and let those look for whom there is news."""
        self._called = True
        try:
            with self.loop.lock:
                for _ in range(TURNS):
                    if self.loop.failure is not None or not self.loop.step():
                        break
                ready, self._ready = self._ready, {}
            for end in ready:
                end.advance()
                self.news(end)  # there may be more of it
        finally:
            with self.loop.lock:
                self._called = False
                self._arm()
                if self._ready:
                    self._call()
