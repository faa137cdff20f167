"""Sockets over a stack, with the standard library's methods, exceptions, timeouts and options.

What differs: a descriptor is only to wait with (`fileno`), so a socket cannot be duplicated,
detached or handed to another process; urgent octets come in line (RFC 6093); and a timeout or a
refusal says more than "timed out".
"""

import errno
import io
import math
import os
import socket as stdlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ..config import Config
from ..tcp.connection import Connection, Observer
from ..tcp.listener import Listener
from ..tcp.state import State
from .descriptor import Descriptor
from .loop import SECOND
from .options import Options

if TYPE_CHECKING:
    from .host import Host

Buffer = bytes | bytearray | memoryview  # and what else has the buffer protocol
Address = tuple[Any, ...]  # (address, port), and (address, port, 0, 0) of IPv6
NEVER_WAIT = 0  # ns: a time that has passed
_ANY = ("", "0.0.0.0", "::")
_OPENING = (State.SYN_SENT, State.SYN_RECEIVED)


class Socket:
    """A TCP socket of a `Host`. Sizes in octets, timeouts in seconds, None waits for ever, 0 never
    waits.
    """

    type = stdlib.SOCK_STREAM
    family = stdlib.AF_INET
    proto = 0

    def __init__(
        self,
        host: "Host",
        family: int = stdlib.AF_INET,
        type: int = stdlib.SOCK_STREAM,
        proto: int = 0,
        *,
        config: Config | None = None,
        log: Observer | None = None,
        connection: Connection | None = None,
    ) -> None:
        flags = stdlib.SOCK_NONBLOCK | stdlib.SOCK_CLOEXEC
        if type & ~flags != stdlib.SOCK_STREAM or proto not in (0, stdlib.IPPROTO_TCP):
            raise OSError(errno.EPROTONOSUPPORT, "nbtcp's sockets are of TCP: SOCK_STREAM")
        if family not in (stdlib.AF_INET, stdlib.AF_INET6):
            raise OSError(errno.EAFNOSUPPORT, "nbtcp's sockets are of AF_INET and AF_INET6")
        self.family = stdlib.AddressFamily(family)
        self.proto = proto
        self.connection = connection
        self._host = host
        self._stack, self._loop = host.stack, host.loop
        self._log = log
        self._options = Options(config or host.stack.config)
        self._listener: Listener | None = None
        self._descriptor: Descriptor | None = None
        self._address: str | None = None
        self._port: int | None = None
        self._timeout = 0.0 if type & stdlib.SOCK_NONBLOCK else stdlib.getdefaulttimeout()
        self._told = False  # the application has heard of the connection's error
        self._reads = True  # until shutdown(SHUT_RD)
        self._io_refs = 0  # files made by makefile
        self._closed = False

    def __repr__(self) -> str:
        ends = (self.connection, self._listener)
        what = next((str(end) for end in ends if end is not None), "unconnected")
        return f"<Socket {'closed ' if self._closed else ''}{what}>"

    def _repr_html_(self) -> str | None:
        return None if self.connection is None else self.connection._repr_html_()

    # --- opening ---

    def bind(self, address: Address) -> None:
        """Choose the local address and port (RFC 9293 MUST-43); port 0 is a free one.

        With "", "0.0.0.0" or "::" a server answers at all addresses of the host, of both families,
        and a client connects from the first one of its peer's family.
        """
        self._usable()
        if self._port is not None:
            raise OSError(errno.EINVAL, "the socket is bound already")
        name, port = _pair(address)
        own = self._stack.addresses
        if name not in (*_ANY, *own):
            name = self._host.locate((name, port), self.family)[0]
        if name not in (*_ANY, *own):
            reason = f"this host's address is {' and '.join(own)}, not {name}"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        if not 0 <= port < 65536:
            raise OverflowError("bind(): port must be 0-65535.")
        self._set_family(name)
        self._address = name if name in own else None
        with self._loop.lock:
            self._port = port or self._stack.reserve_port()

    def connect(self, address: Address) -> None:
        """Open a connection to (address, port), or (name, port) where the host knows names: then to
        one address, of this socket's family if there is one. `Host.connect` tries all.

        TimeoutError says how many SYNs were sent and for how long; ConnectionRefusedError when the
        port is. Without blocking: BlockingIOError (EINPROGRESS); the socket is writable when it is
        open or has failed, and SO_ERROR tells which.
        """
        self._usable()
        old = self.connection
        if self._listener is not None or (old is not None and old.state is not State.CLOSED):
            code = errno.EALREADY if old is not None and old.state in _OPENING else errno.EISCONN
            raise OSError(code, "the socket is connected already, or listens")
        if (error := self._news()) is not None:
            raise error
        remote = self._host.locate(_pair(address), self.family)
        self._set_family(remote[0])
        with self._loop.lock:
            began = self._loop.now()
            conn = self.connection = self._stack.connect(
                remote,
                began,
                local_address=self._address,
                local_port=self._port,
                config=self._options.config,
                observer=self._log,
            )
            self._told = False
            self._watch()
            self._loop.flush()
            if self._timeout == 0:
                raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
            if not self._loop.run_until(lambda: conn.state not in _OPENING, self._until()):
                raise self._give_up(conn, began)
        if (error := self._news()) is not None:
            raise error

    def connect_ex(self, address: Address) -> int:
        """Like `connect`, and the errno instead of an OSError; 0 when it is connected."""
        try:
            self.connect(address)
        except stdlib.gaierror:
            raise
        except OSError as problem:
            timed_out = isinstance(problem, TimeoutError) and self._timeout is not None
            return errno.EAGAIN if timed_out else problem.errno or errno.EIO
        return 0

    def listen(self, backlog: int = 128) -> None:
        """Accept connections on the bound port."""
        self._usable()
        if self._port is None:
            raise OSError(errno.EINVAL, "bind the socket to a port before it listens")
        with self._loop.lock:
            if self._listener is None:
                self._listener = self._stack.listen(self._port, backlog, self._address)
                self._watch()
            self._listener.backlog = max(1, backlog)

    def accept(self) -> tuple["Socket", Address]:
        """(socket, address) of the next client. It has the options of this socket."""
        self._usable()
        listener = self._listener
        if listener is None:
            raise OSError(errno.EINVAL, "the socket does not listen")
        with self._loop.lock:
            self._block(lambda: len(listener) > 0 or listener.closed, self._until())
            conn = listener.accept()
            self._show()
            if conn is not None and self._options.changes:
                conn.reconfigure(conn.config.but(**self._options.changes), self._loop.now())
        if conn is None:
            raise OSError(errno.EBADF, "the listening socket was closed")
        accepted = Socket(self._host, config=conn.config, log=conn.observer, connection=conn)
        accepted._set_family(conn.local[0])
        return accepted, accepted._name(conn.remote)

    # --- sending ---

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Queue as much of `data` as the send buffer takes, at least an octet; returns how much.

        MSG_OOB in `flags` makes it urgent, with MSG_DONTWAIT this call does not wait.
        """
        return self._send(memoryview(data).cast("B"), flags, self._until(flags))

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Queue all of `data`, waiting for room as often as needed; the timeout is for all of
        it.
        """
        view, until = memoryview(data).cast("B"), self._until(flags)
        self._connected()
        while view:
            view = view[self._send(view, flags, until) :]

    def sendto(self, data: Buffer, *flags_and_address: Any) -> int:
        """`send`: a connection has one peer, so the address is not looked at."""
        flags, _ = (0, *flags_and_address)[-2:]
        return self.send(data, flags)

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Address | None = None,
    ) -> int:
        """`send` of several buffers. TCP has no ancillary data to send."""
        if list(ancdata) or not isinstance(address, tuple | None):
            raise TypeError("TCP has no ancillary data, and addresses are tuples")
        return self.send(b"".join(buffers), flags)

    _check_sendfile_params = stdlib.socket._check_sendfile_params  # type: ignore[attr-defined]
    _sendfile_use_send = stdlib.socket._sendfile_use_send  # type: ignore[attr-defined]
    sendfile = _sendfile_use_send
    """Send a file, from `offset`, `count` octets or all; returns how many. The standard library's
    code, on our `send`.
    """

    # --- receiving ---

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Up to `bufsize` octets, at least one; b"" after the peer's FIN.

        MSG_PEEK leaves them there, MSG_WAITALL waits for all of them, MSG_DONTWAIT for none. What
        had arrived before the connection broke is returned before its exception is raised.
        """
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        until = self._until(flags)
        data = self._receive(bufsize, flags, until)
        if not flags & stdlib.MSG_WAITALL or flags & stdlib.MSG_PEEK:
            return data
        parts, left = [data], bufsize - len(data)
        try:
            while left and parts[-1]:
                parts.append(self._receive(left, flags, until))
                left -= len(parts[-1])
        except OSError:  # the next call has it again
            pass
        return b"".join(parts)

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Like `recv`, into `buffer`; returns how many octets."""
        view = _writable(buffer)
        if nbytes < 0 or nbytes > len(view):
            raise ValueError(f"nbytes={nbytes} is negative or more than the buffer holds")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, None]:
        """(data, None): a connection has one peer."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """(octets, None)."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[Any], int, None]:
        """(data, [], 0, None): TCP has neither ancillary data nor messages."""
        _check_size(ancbufsize)
        return self.recv(bufsize, flags), [], 0, None

    def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, None]:
        """`recvmsg` into several buffers, one after the other."""
        _check_size(ancbufsize)
        views = [_writable(buffer) for buffer in buffers]
        data = left = self.recv(sum(map(len, views)), flags)
        for view in views:
            view[: len(left)] = left[: len(view)]
            left = left[len(view) :]
        return len(data), [], 0, None

    makefile: Callable[..., Any] = stdlib.socket.makefile
    """A file over the socket, as of the standard library's: its code, on our `recv_into` and
    `send`."""

    def _decref_socketios(self) -> None:  # called by the standard library's SocketIO
        self._io_refs -= 1
        if self._closed:
            self.close()

    # --- closing ---

    def shutdown(self, how: int) -> None:
        """SHUT_WR and SHUT_RDWR: FIN after what is queued. SHUT_RD changes nothing on the wire; who
        reads gets what is here, and then b"".
        """
        conn = self._connected()
        if how not in (stdlib.SHUT_RD, stdlib.SHUT_WR, stdlib.SHUT_RDWR):
            raise OSError(errno.EINVAL, "how must be SHUT_RD, SHUT_WR or SHUT_RDWR")
        with self._loop.lock:
            if how != stdlib.SHUT_WR:
                self._reads = False
            if how != stdlib.SHUT_RD:
                conn.shutdown(self._loop.now())
                self._loop.flush()
            self._show()

    def close(self) -> None:
        """Done with the socket; what is queued is still delivered. Files made of it keep it open.

        With SO_LINGER it resets, or waits until the peer has acknowledged all.
        """
        self._closed = True
        if self._io_refs <= 0:
            with self._loop.lock:
                self._really_close(self._loop.now())

    def abort(self) -> None:
        """Reset the connection."""
        with self._loop.lock:
            if self.connection is not None:
                self.connection.abort(self._loop.now())
                self._loop.flush()
        self.close()

    def detach(self) -> NoReturn:
        """Not there, as `dup` and pickling: another socket cannot go on with our connection, for it
        lives in this process and not behind a descriptor. For TLS see runtime/tls.py.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:  # ssl's wrap_socket has it by now, and closes it
            descriptor.abandon()
            with self._loop.lock:
                self._loop.count_outsiders(-1)
        hint = "for TLS, let context.sslsocket_class be nbtcp.sockets.TlsSocket"
        reason = f"nbtcp's sockets have no descriptor that carries data; {hint}"
        raise OSError(errno.EOPNOTSUPP, reason)

    dup = detach

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle a socket of nbtcp")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    # --- about ---

    def fileno(self) -> int:
        """A descriptor to wait with, in select, poll, epoll, selectors or an event loop; -1 once
        closed.

        It is readable and writable when the socket is, and carries none of its data. Made by the
        first call, which also puts the host's own thread on watch. io.UnsupportedOperation in
        virtual time, where nothing happens while a program waits elsewhere.
        """
        with self._loop.lock:
            if self._ended:
                return -1
            if self._descriptor is None:
                if not self._loop.in_real_time:
                    raise io.UnsupportedOperation("no descriptors in virtual time")
                self._descriptor = Descriptor()
                self._descriptor.set_blocking(self._timeout is None)
                self._loop.count_outsiders(1)
                self._watch()
            return self._descriptor.fileno()

    def settimeout(self, timeout: float | None) -> None:
        if timeout is not None and not timeout + 0.0 >= 0:
            raise ValueError("a timeout must not be negative")
        self._timeout = timeout
        if self._descriptor is not None and not self._ended:
            self._descriptor.set_blocking(timeout is None)

    def gettimeout(self) -> float | None:
        return self._timeout

    timeout = property(gettimeout)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        return self._timeout != 0

    def getsockname(self) -> Address:
        """(address, port) of this end."""
        self._usable()
        if self.connection is not None:
            return self._name(self.connection.local)
        return self._name((self._address or self._stack.address, self._port or 0))

    def getpeername(self) -> Address:
        """(address, port) of the other end."""
        conn = self._connected()
        if conn.state in _OPENING:
            raise OSError(errno.ENOTCONN, "the socket is not connected yet")
        return self._name(conn.remote)

    def setsockopt(
        self, level: int, option: int, value: int | Buffer | None, length: int | None = None
    ) -> None:
        """See options.py for what there is; OSError ENOPROTOOPT for what there is not."""
        self._usable()
        given = value if isinstance(value, int) else bytes(value or length or 0)
        with self._loop.lock:
            now = self._loop.now()
            self._options.set(level, option, given, self.connection, now)
            self._loop.flush()
            self._show()

    def getsockopt(self, level: int, option: int, buflen: int = 0) -> int | bytes:
        """An integer, or with `buflen` the option's bytes. SO_ERROR tells an error once."""
        self._usable()
        if level == stdlib.SOL_SOCKET and option in _ABOUT:
            value = _ABOUT[option](self)
            return value.to_bytes(4, "little")[:buflen] if buflen else value
        with self._loop.lock:
            conn, now = self.connection, self._loop.now()
            return self._options.get(level, option, buflen, conn, now)

    def get_inheritable(self) -> bool:
        """False: no other process can have it."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            self.detach()

    # --- inside ---

    def _replace(self, other: "Socket") -> None:
        """Be what `other` was until now; that is closed."""
        for name, value in vars(other).items():
            setattr(self, name, value)
        self._io_refs, self._closed = 0, False
        other.connection = other._listener = other._descriptor = other._port = None
        other._closed = True
        with self._loop.lock:
            self._watch()

    @property
    def _ended(self) -> bool:
        return self._closed and self._io_refs <= 0

    def _usable(self) -> None:
        if self._ended:
            raise OSError(errno.EBADF, "the socket is closed")

    def _connected(self) -> Connection:
        self._usable()
        if self.connection is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return self.connection

    def _set_family(self, address: str) -> None:
        if address:
            self.family = stdlib.AF_INET6 if ":" in address else stdlib.AF_INET

    def _name(self, endpoint: tuple[str, int]) -> Address:
        """`endpoint` as the standard library writes addresses of this family."""
        return (*endpoint, 0, 0) if ":" in endpoint[0] else endpoint

    def _news(self) -> OSError | None:
        """The error that ended the connection, if the application has not heard of it."""
        if self.connection is None or self._told:
            return None
        self._told = self.connection.error is not None
        return self.connection.error

    def _give_up(self, conn: Connection, began: int) -> TimeoutError:
        """Nobody has answered our SYN in time."""
        syns = conn.queue.spans[0].times if conn.queue.spans else 0
        conn.abort(self._loop.now())
        self._told = True
        seconds = (self._loop.now() - began) / SECOND
        return TimeoutError(
            errno.ETIMEDOUT,
            f"no answer from {conn.peer()}: {syns} SYN{'' if syns == 1 else 's'} sent in "
            f"{seconds:.1f} s{conn.heard(began)}",
        )

    def _send(self, data: memoryview, flags: int, until: int | None) -> int:
        urgent = bool(flags & stdlib.MSG_OOB)
        conn = self._connected()
        with self._loop.lock:
            if not data:
                return 0
            while not (taken := conn.send(data, self._loop.now(), urgent=urgent)):
                self._block(lambda: conn.queue.room > 0 or conn.error is not None, until)
            self._loop.flush()
            return taken

    def _receive(self, most: int, flags: int, until: int | None) -> bytes:
        """What is there, waiting for the first octet and what comes with it."""
        conn = self._connected()
        if flags & stdlib.MSG_OOB:
            raise OSError(errno.EINVAL, "urgent octets come in line: SO_OOBINLINE, RFC 6093")
        if not most:
            return b""
        with self._loop.lock:
            reassembly, loop = conn.reassembly, self._loop
            if not reassembly.size:  # once something came, take what comes with it in time
                end = math.inf if until is None else until
                self._block(
                    lambda: (
                        reassembly.size >= most
                        or (reassembly.size > 0 and (loop.quiet or loop.now() >= end))
                        or conn.eof
                        or not (reassembly.size or self._reads)
                    ),
                    until,
                )
            peek = flags & stdlib.MSG_PEEK
            data = reassembly.peek(most) if peek else conn.recv(most, loop.now())
            if conn.ack_due is not None:
                loop.flush()
            self._show()
        if not data and conn.error is not None and self._reads:
            self._told = True
            raise conn.error
        return data

    def _really_close(self, now: int) -> None:
        conn, loop = self.connection, self._loop
        descriptor, self._descriptor = self._descriptor, None
        if self._listener is not None and not self._listener.closed:
            self._stack.close_listener(self._listener, now)
        if self._port is not None:
            self._stack.release_port(self._port)
            self._port = None
        linger = self._options.linger
        if conn is not None and not conn.closed_by_application:
            conn.watch = None
            if linger == 0:
                conn.abort(now)
            conn.close(now)
        if loop.failure is None:
            loop.flush()
            if conn is not None and linger:
                loop.run_until(lambda: not conn.queue.spans, now + linger * SECOND)
        if descriptor is not None:
            loop.count_outsiders(-1)
            descriptor.close()

    # --- waiting, with the loop's lock held ---

    def _until(self, flags: int = 0) -> int | None:
        """When a call that begins now has waited long enough; None: never."""
        if self._timeout == 0 or flags & stdlib.MSG_DONTWAIT:
            return NEVER_WAIT
        return None if self._timeout is None else self._loop.now() + round(self._timeout * SECOND)

    def _block(self, predicate: Callable[[], bool], until: int | None) -> None:
        if not self._loop.run_until(predicate, until):
            if until == NEVER_WAIT:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            raise TimeoutError(errno.ETIMEDOUT, f"timed out after {self._timeout} s")

    def _watch(self) -> None:
        """If there is a descriptor, it follows what happens from now on."""
        if self._descriptor is not None:
            for end in (self.connection, self._listener):
                if end is not None:
                    end.watch = self._show
            self._show()

    def _show(self) -> None:
        if self._descriptor is not None:
            self._descriptor.show(*self._readiness())

    def _readiness(self) -> tuple[bool, bool]:
        """(readable, writable): whether a call would not wait, if only because it fails."""
        conn, listener = self.connection, self._listener
        failed = self._loop.failure is not None
        if listener is not None:
            return len(listener) > 0 or failed, False
        if conn is None or failed:
            return True, True
        if conn.state in _OPENING:
            return False, False
        room = conn.queue.room >= conn.queue.capacity // 3  # as Linux: worth waking somebody for
        return conn.reassembly.size > 0 or conn.eof or not self._reads, (
            room or conn.queue.fin is not None or conn.error is not None
        )


_ABOUT: dict[int, Callable[[Socket], int]] = {
    stdlib.SO_TYPE: lambda sock: int(sock.type),
    stdlib.SO_DOMAIN: lambda sock: int(sock.family),
    stdlib.SO_PROTOCOL: lambda sock: stdlib.IPPROTO_TCP,
    stdlib.SO_ACCEPTCONN: lambda sock: int(sock._listener is not None),
    stdlib.SO_ERROR: lambda sock: getattr(sock._news(), "errno", 0) or 0,
}


def _pair(address: Address) -> tuple[str, int]:
    """(address, port) of what may be a 4-tuple."""
    if not isinstance(address, tuple) or len(address) not in (2, 3, 4):
        raise TypeError(f"an address is a tuple such as ('192.0.2.1', 80), not {address!r}")
    return address[0], int(address[1])


def _writable(buffer: Buffer) -> memoryview:
    view = memoryview(buffer).cast("B")
    if view.readonly:
        raise TypeError("to receive into, a buffer must be writable")
    return view


def _check_size(octets: int) -> None:
    if octets < 0:
        raise ValueError("a buffer's size must not be negative")
