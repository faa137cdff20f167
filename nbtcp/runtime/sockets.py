"""Blocking sockets over a stack, with the standard library's methods, exceptions and timeouts."""

import errno
import os
import socket as stdlib
from collections.abc import Callable
from typing import Any, Self

from ..config import Config
from ..stack import Stack
from ..tcp.connection import Connection, Observer
from ..tcp.listener import Listener
from ..tcp.state import State
from .loop import SECOND, Loop

Buffer = bytes | bytearray | memoryview


class Socket:
    """A TCP socket of a `Host`. Sizes in octets, timeouts in seconds, None waits for ever, 0 never
    waits.
    """

    def __init__(
        self,
        stack: Stack,
        loop: Loop,
        config: Config,
        observer: Observer | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.connection = connection
        self._stack = stack
        self._loop = loop
        self._config = config
        self._observer = observer
        self._listener: Listener | None = None
        self._address: str | None = None
        self._port: int | None = None
        self._timeout: float | None = None
        self._io_refs = 0  # files made by makefile
        self._closed = False

    def __repr__(self) -> str:
        ends = (self.connection, self._listener)
        what = next((str(end) for end in ends if end is not None), "unconnected")
        return f"<Socket {'closed ' if self._closed else ''}{what}>"

    # --- opening ---

    def bind(self, address: tuple[str, int]) -> None:
        """Choose the local address and port (RFC 9293 MUST-43).

        With "", "0.0.0.0" or "::" a server answers at all addresses of the host, and a client
        connects from the first one of its peer's family.
        """
        own = self._stack.addresses
        if address[0] not in ("", "0.0.0.0", "::", *own):
            reason = f"this host's address is {' and '.join(own)}, not {address[0]}"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        self._address = address[0] if address[0] in own else None
        self._port = address[1] or None

    def connect(self, remote: tuple[str, int]) -> None:
        """Open a connection to (IPv4 or IPv6 address, port).

        TimeoutError says how many SYNs were sent and for how long; ConnectionRefusedError when the
        port is.
        """
        with self._loop.lock:
            if self.connection is not None:
                raise OSError(errno.EISCONN, "the socket is connected already")
            began = self._loop.now()
            conn = self.connection = self._stack.connect(
                remote,
                began,
                local_address=self._address,
                local_port=self._port,
                config=self._config,
                observer=self._observer,
            )
            self._loop.flush()
            if self._timeout == 0:
                raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
            opening = (State.SYN_SENT, State.SYN_RECEIVED)
            if not self._wait(lambda: conn.state not in opening):
                syns = conn.queue.spans[0].times if conn.queue.spans else 0
                conn.abort(self._loop.now())
                seconds = (self._loop.now() - began) / SECOND
                heard = conn.heard(began)
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"no answer from {remote[0]} port {remote[1]}: {syns} SYN"
                    f"{'' if syns == 1 else 's'} sent in {seconds:.1f} s{heard}",
                )
            if conn.error is not None:
                raise conn.error

    def listen(self, backlog: int = 128) -> None:
        """Accept connections on the bound port."""
        if self._port is None:
            raise OSError(errno.EINVAL, "bind the socket to a port before it listens")
        with self._loop.lock:
            self._listener = self._stack.listen(self._port, backlog, self._address)

    def accept(self) -> tuple["Socket", tuple[str, int]]:
        """(socket, (address, port)) of the next client."""
        listener = self._listener
        if listener is None:
            raise OSError(errno.EINVAL, "the socket does not listen")
        with self._loop.lock:
            self._block(lambda: len(listener) > 0 or listener.closed)
            conn = listener.accept()
        if conn is None:
            raise OSError(errno.EBADF, "the listening socket was closed")
        accepted = Socket(self._stack, self._loop, self._config, conn.observer, conn)
        return accepted, conn.remote

    # --- data ---

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Queue as much of `data` as the send buffer takes, at least an octet; returns how much.

        MSG_OOB in `flags` makes it urgent.
        """
        urgent = bool(flags & stdlib.MSG_OOB)
        conn = self._connected()
        with self._loop.lock:
            if not data:
                return 0
            while not (taken := conn.send(data, self._loop.now(), urgent=urgent)):
                self._block(lambda: conn.queue.room > 0 or conn.error is not None)
            self._loop.flush()
            return taken

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Queue all of `data`, waiting for room as often as needed."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view, flags) :]

    def recv(self, max_bytes: int, flags: int = 0) -> bytes:
        """Up to `max_bytes`, at least one; b"" after the peer's FIN.

        What had arrived before the connection broke is returned before its exception is raised.
        """
        conn = self._connected()
        if max_bytes < 0:
            raise ValueError("negative buffersize in recv")
        if not max_bytes:
            return b""
        with self._loop.lock:
            reassembly, loop = conn.reassembly, self._loop
            if not reassembly.size:  # once something came, take what comes with it
                self._block(
                    lambda: (
                        reassembly.size >= max_bytes
                        or (reassembly.size > 0 and loop.quiet)
                        or conn.eof
                    )
                )
            data = conn.recv(max_bytes, self._loop.now())
            if conn.ack_due is not None:
                self._loop.flush()
        if not data and conn.error is not None:
            raise conn.error
        return data

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Like `recv`, into `buffer`; returns how many octets."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view))
        view[: len(data)] = data
        return len(data)

    # --- closing ---

    def shutdown(self, how: int) -> None:
        """SHUT_WR and SHUT_RDWR: FIN after what is queued. SHUT_RD changes nothing on the wire."""
        conn = self._connected()
        if how not in (stdlib.SHUT_RD, stdlib.SHUT_WR, stdlib.SHUT_RDWR):
            raise OSError(errno.EINVAL, "how must be SHUT_RD, SHUT_WR or SHUT_RDWR")
        if how != stdlib.SHUT_RD:
            with self._loop.lock:
                conn.shutdown(self._loop.now())
                self._loop.flush()

    def close(self) -> None:
        """Done with the socket; what is queued is still delivered. Files made of it keep it
        open.
        """
        self._closed = True
        if self._io_refs <= 0:
            self._really_close()

    def abort(self) -> None:
        """Reset the connection."""
        with self._loop.lock:
            if self.connection is not None:
                self.connection.abort(self._loop.now())
                self._loop.flush()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    # --- about ---

    def settimeout(self, timeout: float | None) -> None:
        if timeout is not None and timeout < 0:
            raise ValueError("a timeout must not be negative")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, blocking: bool) -> None:
        self.settimeout(None if blocking else 0.0)

    def getsockname(self) -> tuple[str, int]:
        """(address, port) of this end."""
        if self.connection is not None:
            return self.connection.local
        return self._address or self._stack.address, self._port or 0

    def getpeername(self) -> tuple[str, int]:
        """(address, port) of the other end."""
        return self._connected().remote

    makefile: Callable[..., Any] = stdlib.socket.makefile
    """A file over the socket, as of the standard library's: its code, on our `recv_into` and
    `send`."""

    def _decref_socketios(self) -> None:  # called by the standard library's SocketIO
        self._io_refs -= 1
        if self._closed and self._io_refs <= 0:
            self._really_close()

    # --- inside ---

    def _really_close(self) -> None:
        with self._loop.lock:
            now = self._loop.now()
            if self._listener is not None and not self._listener.closed:
                self._stack.close_listener(self._listener, now)
            if self.connection is not None and not self.connection.closed_by_application:
                self.connection.close(now)
            if self._loop.failure is None:
                self._loop.flush()

    def _connected(self) -> Connection:
        if self._closed and self._io_refs <= 0:
            raise OSError(errno.EBADF, "the socket is closed")
        if self.connection is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return self.connection

    def _wait(self, predicate: Callable[[], bool]) -> bool:
        """Wait as long as the timeout allows; False when it does no longer."""
        until = None
        if self._timeout is not None:
            until = self._loop.now() + round(self._timeout * SECOND)
        return self._loop.run_until(predicate, until)

    def _block(self, predicate: Callable[[], bool]) -> None:
        if not self._wait(predicate):
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            raise TimeoutError(errno.ETIMEDOUT, f"timed out after {self._timeout} s")
