"""TLS on a socket of ours: what `ssl.SSLContext.wrap_socket` makes of one.

A context makes them when its `sslsocket_class` is `TlsSocket`, and all contexts do within
`nbtcp.sockets.use`. The standard library's `ssl` does TLS between two `MemoryBIO`, and its
`SSLSocket` tells of the session; this module carries the octets.
"""

import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from .sockets import NEVER_WAIT, Address, Socket

_Result = TypeVar("_Result")
_CHUNK = 1 << 16  # octets
_RECORD, _OVERHEAD = 1 << 14, 64  # octets of a record, and what its header and padding may take


class TlsSocket(Socket, ssl.SSLSocket):  # type: ignore[misc]
    """A `Socket` that speaks TLS, and an `ssl.SSLSocket` for who asks.

    One thread may read while another writes: `_step` is held for each step of TLS, and not while
    anybody waits for the network; `_order` keeps records in order.
    """

    @classmethod
    def _create(cls, sock: Any, **options: Any) -> Any:
        """What `wrap_socket` calls; a kernel's socket becomes one of the standard library's."""
        if isinstance(sock, Socket):
            return cls(sock, **options)
        return ssl.SSLSocket._create(sock, **options)  # type: ignore[attr-defined]

    def __init__(
        self,
        sock: Socket,
        context: ssl.SSLContext,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """As by `SSLContext.wrap_socket`: `sock` is closed, and its connection is this one's."""
        if context.check_hostname and not (server_hostname or server_side):
            raise ValueError("check_hostname requires server_hostname")
        if isinstance(sock, TlsSocket):
            raise ValueError("it speaks TLS already, and TLS within TLS is not there")
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._context, self._session = context, session  # these and `_sslobj` are SSLSocket's
        self._sslobj: ssl.SSLObject | None = context.wrap_bio(
            self._in, self._out, server_side, server_hostname, session
        )
        self.server_side, self.server_hostname = server_side, server_hostname
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        self._step, self._order = threading.Lock(), threading.Lock()
        self._unsent = b""  # of the records that a timeout has cut short
        self._replace(sock)
        if self.connection is not None and do_handshake_on_connect:
            self._begin()

    def connect(self, address: Any) -> None:
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        super().connect(address)
        if self.do_handshake_on_connect:
            self._begin()

    def accept(self) -> tuple["TlsSocket", Address]:
        """(socket, address) of the next client, after its handshake."""
        sock, peer = super().accept()
        how = self.do_handshake_on_connect, self.suppress_ragged_eofs
        return type(self)(sock, self._context, True, *how), peer

    def do_handshake(self, block: bool = False) -> None:
        if self._sslobj is not None:
            self._do(self._sslobj.do_handshake, None if block else self._until())

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data: Any) -> int:
        return self.send(data)

    def unwrap(self) -> "TlsSocket":
        """End TLS, and wait until the peer has; what follows is not encrypted."""
        if self._sslobj is None:
            raise ValueError(f"No SSL wrapper around {self}")
        self._do(self._sslobj.unwrap, self._until())
        self._sslobj = None
        return self

    def shutdown(self, how: int) -> None:
        """As the standard library's it is the connection's: FIN, and no more TLS."""
        self._sslobj = None
        super().shutdown(how)

    # --- what `send`, `recv` and all the others come to ---

    def _send(self, data: memoryview, flags: int, until: int | None) -> int:
        if self._sslobj is None or not data:
            return super()._send(data, flags, until)
        if flags:
            raise ValueError("of send and recv TLS takes no flags")
        if until == NEVER_WAIT:  # what TLS has taken must fit
            room = self._connected().queue.room - len(self._unsent) - _OVERHEAD
            if room <= 0:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the send buffer is full")
            data = data[: min(room, _RECORD)]
        return self._do(partial(self._sslobj.write, data), until)

    def _receive(self, most: int, flags: int, until: int | None) -> bytes:
        if self._sslobj is None or not most:
            return super()._receive(most, flags, until)
        if flags:
            raise ValueError("of send and recv TLS takes no flags")
        try:
            return self._do(partial(self._sslobj.read, most), until)
        except ssl.SSLEOFError:
            if not self.suppress_ragged_eofs:
                raise
            return b""
        finally:
            if self._descriptor is not None:
                with self._loop.lock:
                    self._show()

    def _readiness(self) -> tuple[bool, bool]:
        readable, writable = super()._readiness()
        here = self._sslobj is not None and (self._in.pending or self._sslobj.pending())
        return readable or bool(here), writable

    # --- inside ---

    def _begin(self) -> None:
        try:
            if self._timeout == 0:
                raise ValueError("without blocking, call do_handshake when it is connected")
            self.do_handshake()
        except BaseException:
            self.close()
            raise

    def _do(self, step: Callable[[], _Result], until: int | None) -> _Result:
        """`step`, as often as TLS wants to read more first, and what it wants to have sent."""
        while True:
            try:
                with self._step:
                    result = step()
            except ssl.SSLWantReadError:
                self._flush(until)
                self._feed(until)
            except ssl.SSLError:
                with suppress(OSError):  # the alert that says why
                    self._flush(until)
                raise
            else:
                with suppress(ssl.SSLWantWriteError):  # with the next step, then
                    self._flush(until)
                return result

    def _feed(self, until: int | None) -> None:
        try:
            data = super()._receive(_CHUNK, 0, until)
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing is there") from None
        with self._step:
            self._in.write(data) if data else self._in.write_eof()

    def _flush(self, until: int | None) -> None:
        if not (self._out.pending or self._unsent):  # a reader must not wait for a writer
            return
        with self._order:
            with self._step:
                data, self._unsent = self._unsent + self._out.read(), b""
            view = memoryview(data)
            try:
                while view:
                    view = view[super()._send(view, 0, until) :]
            except BlockingIOError:
                reason = "the send buffer is full"
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, reason) from None
            finally:
                self._unsent = bytes(view)
