"""The system calls of a script, over a `Stack`, as Linux's sockets answer them.

Every stream's octets are numbered: what is written is `content`, and what is read must be that.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, get_origin

from ..config import Config
from ..stack import Stack
from ..tcp.connection import Connection
from ..tcp.listener import Listener
from ..tcp.state import State
from .flow import content
from .parser import ANY, Call
from .settings import SettingError, Settings, changed

_OPENING = (State.SYN_SENT, State.SYN_RECEIVED)
_O_RDWR, _O_NONBLOCK = 2, 0x800

Names = frozenset[str]  # A|B in a script


class WouldBlock(Exception):
    """The call has to wait, until then (ns) if nothing happens before."""

    def __init__(self, until: int | None = None) -> None:
        super().__init__("it waits")
        self.until = until


class Mismatch(Exception):
    """What the call stored, or read, is not what the script says."""


@dataclass(slots=True, eq=False)
class Socket:
    """What a file descriptor stands for."""

    nonblocking: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # as they were set
    port: int | None = None
    conn: Connection | None = None
    listener: Listener | None = None
    connected: bool = False  # connect has said so
    told: bool = False  # the application knows of conn.error
    read_shut: bool = False
    taken: int = 0  # octets, by a write that has not returned yet
    written: int = 1  # positions the application has come to
    read: int = 1

    def opened(self, otherwise: int) -> Connection:
        """The connection; an error that it ended with is told once."""
        if self.conn is None:
            raise OSError(otherwise, "not connected")
        if self.conn.error is not None and not self.told and not self.conn.reassembly.size:
            self.told = True
            raise self.conn.error
        return self.conn

    def wait(self, flags: Names = frozenset()) -> Exception:
        """What to raise where a call has to wait."""
        if self.nonblocking or "MSG_DONTWAIT" in flags:
            return OSError(errno.EAGAIN, "would block")
        return WouldBlock()

    def events(self) -> set[str]:
        """What poll tells."""
        conn = self.conn
        if conn is None:
            return {"POLLIN"} if self.listener is not None and len(self.listener) else set()
        ended = conn.state is State.CLOSED
        holds = {
            "POLLIN": conn.reassembly.size or conn.eof or self.read_shut,
            "POLLOUT": ended or (conn.synchronized and conn.queue.room > 0),
            "POLLRDHUP": conn.eof or conn.tcb.rcv.fin is not None,
            "POLLHUP": ended or (conn.eof and conn.queue.fin is not None),
            "POLLERR": conn.error is not None and not self.told,
        }
        return {name for name, does in holds.items() if does}


class Calls:
    """Carries out one call after the other; `opened` is told of new active connections."""

    def __init__(
        self, stack: Stack, settings: Settings, opened: Callable[[Connection], None]
    ) -> None:
        self.sockets: dict[int, Socket] = {}
        self._stack, self._settings, self._opened = stack, settings, opened

    def run(self, call: Call, now: int, began: int) -> tuple[int, str]:
        """(result, name of the error or ""). Raises WouldBlock; then call again, later."""
        self._call, self._now, self._began = call, now, began
        if call.name not in _CALLS:
            known = ", ".join(sorted(_CALLS))
            raise SettingError(f"there is no call {call.name} here; calls are {known}")
        try:
            return _CALLS[call.name](self, *self._arguments(call)) or 0, ""
        except OSError as error:
            return -1, errno.errorcode[error.errno or errno.EIO]
        except SettingError:
            raise
        except LookupError as name:
            raise SettingError(f"{call.name}: {name} is not known here") from name
        except (ValueError, TypeError) as problem:
            raise SettingError(f"{call.name}: {problem}") from problem

    @property
    def port(self) -> int:
        """Where a peer's SYN goes: the port of the last listener."""
        sock = self._last_listener()
        return sock.listener.port if sock.listener is not None else self._settings.bind_port

    def configure_stack(self) -> None:
        """New passive connections are as the last listener's socket says."""
        self._stack.config = self._config(self._last_listener())

    # --- inside ---

    def _arguments(self, call: Call) -> list[Any]:
        """The arguments of a call, as the method that carries it out declares them."""
        _, *parameters = signature(_CALLS[call.name]).parameters.values()
        if len(call.arguments) < sum(p.default is Parameter.empty for p in parameters):
            raise SettingError(f"{call.name} has too few arguments")
        arguments: list[Any] = []
        pairs = zip(call.arguments, parameters, strict=False)  # what else there is does not matter
        for place, (value, parameter) in enumerate(pairs, start=1):
            kind = get_origin(parameter.annotation) or parameter.annotation
            if kind is frozenset and value == 0:
                arguments.append(frozenset())
            elif not isinstance(value, int if kind is Socket else kind):
                what = "a name" if kind is frozenset else "a list" if kind is list else "a number"
                raise SettingError(f"argument {place} of {call.name} must be {what}")
            elif kind is Socket and value not in self.sockets:
                raise OSError(errno.EBADF, "no such file descriptor")
            else:
                arguments.append(self.sockets[value] if kind is Socket else value)
        return arguments

    def _new(self, sock: Socket) -> int:
        """A file descriptor with the number that the script expects."""
        expected = self._call.result
        fd = expected if isinstance(expected, int) and expected >= 0 else 3
        while fd in self.sockets:
            fd += 1
        self.sockets[fd] = sock
        return fd

    def _last_listener(self) -> Socket:
        listeners = [sock for sock in self.sockets.values() if sock.listener is not None]
        return listeners[-1] if listeners else Socket()

    def _config(self, sock: Socket) -> Config:
        """The configuration as the socket's options change it."""
        changes = {
            setting: convert(sock.options[name])
            for name, (setting, convert, _) in _OPTIONS.items()
            if name in sock.options
        }
        if "SO_KEEPALIVE" in sock.options:
            idle = float(sock.options.get("TCP_KEEPIDLE", self._settings.keepalive_time))
            changes["keepalive"] = idle if sock.options["SO_KEEPALIVE"] else None
        return changed(self._settings.config, **changes)

    def _address(self, value: Any, host: str, port: int) -> tuple[str, int]:
        """The address that a call names, or the one given where it says "..."."""
        known = value if isinstance(value, dict) else {}
        named, at = known.get("sin_addr", known.get("sin6_addr")), known.get("sin_port")
        return named if isinstance(named, str) else host, at if isinstance(at, int) else port

    # --- opening and closing ---

    def do_socket(self, _: object, kind: Names) -> int:
        if "SOCK_STREAM" not in kind:
            raise SettingError("only socket(..., SOCK_STREAM, IPPROTO_TCP) is known here")
        return self._new(Socket("SOCK_NONBLOCK" in kind))

    def do_bind(self, sock: Socket, address: object) -> None:
        sock.port = self._address(address, "", self._settings.bind_port)[1]

    def do_listen(self, sock: Socket, backlog: int) -> None:
        sock.listener = self._stack.listen(sock.port or self._settings.bind_port, backlog)
        self.configure_stack()

    def do_accept(
        self, sock: Socket, _: object = ..., __: object = ..., flags: Names = frozenset()
    ) -> int:
        if sock.listener is None:
            raise OSError(errno.EINVAL, "not listening")
        conn = sock.listener.accept()
        if conn is None:
            raise sock.wait()
        nonblocking = "SOCK_NONBLOCK" in flags
        return self._new(Socket(nonblocking, dict(sock.options), conn=conn, connected=True))

    def do_connect(self, sock: Socket, address: object) -> None:
        first = sock.conn is None
        if first:
            remote = self._address(address, self._settings.remote_ip, self._settings.connect_port)
            config, port = self._config(sock), sock.port
            sock.conn = self._stack.connect(remote, self._now, local_port=port, config=config)
            self._opened(sock.conn)
        conn = sock.opened(errno.ENOTCONN)
        if conn.state in _OPENING:
            if sock.nonblocking:
                raise OSError(errno.EINPROGRESS if first else errno.EALREADY, "not yet")
            raise WouldBlock
        if sock.connected:
            raise OSError(errno.EISCONN, "connected already")
        if conn.state is State.CLOSED:
            raise OSError(errno.ECONNABORTED, "closed")
        sock.connected = True

    def do_shutdown(self, sock: Socket, how: Names) -> None:
        if sock.conn is None or sock.conn.state is State.CLOSED:
            raise OSError(errno.ENOTCONN, "not connected")
        sock.read_shut = sock.read_shut or bool(how & {"SHUT_RD", "SHUT_RDWR"})
        if how & {"SHUT_WR", "SHUT_RDWR"}:
            sock.conn.shutdown(self._now)

    def do_close(self, sock: Socket) -> None:
        del self.sockets[self._call.arguments[0]]
        if sock.listener is not None:
            self._stack.close_listener(sock.listener, self._now)
        elif sock.conn is not None and sock.options.get("SO_LINGER") == {"onoff": 1, "linger": 0}:
            sock.conn.abort(self._now)
        elif sock.conn is not None:
            sock.conn.close(self._now)

    # --- data ---

    def do_write(self, sock: Socket, _: object, size: int, flags: Names = frozenset()) -> int:
        _check(flags)
        conn = sock.opened(errno.EPIPE)
        if conn.state in _OPENING:
            raise sock.wait(flags)
        if conn.error is not None or conn.state is State.CLOSED:
            raise BrokenPipeError(errno.EPIPE, "closed")
        fits = max(0, min(size - sock.taken, conn.queue.room))
        taken = conn.send(content(sock.written, sock.written + fits), self._now)
        sock.written += taken
        sock.taken += taken
        if sock.taken < size:
            waits = sock.wait(flags)
            if isinstance(waits, WouldBlock) or not sock.taken:
                raise waits
        done, sock.taken = sock.taken, 0
        return done

    def do_read(self, sock: Socket, _: object, size: int, flags: Names = frozenset()) -> int:
        _check(flags)
        conn = sock.opened(errno.ENOTCONN)
        data = conn.recv(max(0, size), self._now)
        if not (data or conn.eof or sock.read_shut or not size):
            raise sock.wait(flags)
        start, sock.read = sock.read, sock.read + len(data)
        if data != content(start, sock.read):
            raise Mismatch(f"octets {start}:{sock.read} are not those that were sent")
        return len(data)

    def do_poll(self, entries: list[Any], _: int, timeout: int) -> int:
        found: list[Names] = []
        for entry in entries:
            if not (isinstance(entry, dict) and entry.keys() >= {"fd", "events", "revents"}):
                raise SettingError("poll takes [{fd=4, events=POLLIN, revents=POLLIN}], ...")
            asked = {"POLLERR", "POLLHUP"} | (entry["events"] or set())
            found.append(frozenset(self.sockets[entry["fd"]].events() & asked))
        ready = sum(map(bool, found))
        ends = self._began + timeout * 1_000_000
        if not ready and (timeout < 0 or self._now < ends):
            raise WouldBlock(None if timeout < 0 else ends)
        for entry, events in zip(entries, found, strict=True):
            if entry["revents"] not in (ANY, events or 0):
                raise Mismatch(f"revents is {_shown(events)}, not {_shown(entry['revents'])}")
        return ready

    # --- options ---

    def do_setsockopt(self, sock: Socket, _: object, names: Names, value: object) -> None:
        (name, *_), conn = names, sock.conn
        if name not in _OPTIONS and name not in _OTHER_OPTIONS:
            known = ", ".join(sorted([*_OPTIONS, *_OTHER_OPTIONS]))
            raise SettingError(f"there is no socket option {name} here; options are {known}")
        if name in ("TCP_CONGESTION", "TCP_MAXSEG") and conn is not None:
            raise SettingError(f"{name} can be set only before the connection is opened")
        sock.options[name] = value[0] if isinstance(value, list) and value else value
        config = self._config(sock)
        self.configure_stack()
        if conn is not None:
            conn.config = config
            if name in ("SO_KEEPALIVE", "TCP_KEEPIDLE"):
                conn.set_keepalive(config.keepalive, self._now)
            conn.queue.capacity = config.send_buffer
            conn.reassembly.capacity = config.receive_buffer
            conn.handle_timer(self._now)  # nothing is due; it may have something to send now

    def do_getsockopt(self, sock: Socket, _: object, names: Names, expected: object) -> None:
        (name, *_), conn = names, sock.conn
        expected = expected[0] if isinstance(expected, list) and expected else expected
        value: Any = sock.options.get(name)
        if name == "SO_ERROR":
            error = conn.error if conn is not None and not sock.told else None
            sock.told = sock.told or error is not None
            value = error.errno if error is not None else 0
            if isinstance(expected, frozenset):
                value = frozenset({errno.errorcode.get(value, "0")})
        elif name == "TCP_MAXSEG" and conn is not None:
            value = conn.tcb.snd.mss
        elif name in _OPTIONS:
            setting, _, show = _OPTIONS[name]
            value = show(getattr(self._config(sock), setting))
        elif value is None:
            raise SettingError(f"the socket option {name} cannot be read here")
        if expected is not ANY and expected != value:
            raise Mismatch(f"{name} is {_shown(value)}, not {_shown(expected)}")

    def do_fcntl(self, sock: Socket, command: Names, flags: Names = frozenset()) -> int:
        if command == {"F_SETFL"}:
            sock.nonblocking = "O_NONBLOCK" in flags
            return 0
        return {"F_GETFL": _O_RDWR | _O_NONBLOCK * sock.nonblocking}[_shown(command)]

    def do_ioctl(self, sock: Socket, request: Names, expected: object) -> None:
        conn = sock.opened(errno.ENOTCONN)
        size = {"SIOCINQ": conn.reassembly.size, "SIOCOUTQ": len(conn.queue.data)}[_shown(request)]
        if expected not in (ANY, [size]):
            raise Mismatch(f"{_shown(request)} is {size}")


_CALLS: dict[str, Callable[..., int | None]] = {
    **{name[3:]: method for name, method in vars(Calls).items() if name.startswith("do_")},
    "accept4": Calls.do_accept,
    **dict.fromkeys(("send", "sendto"), Calls.do_write),
    **dict.fromkeys(("recv", "recvfrom"), Calls.do_read),
}

# Socket option -> Config setting, its value from the option's, and back as getsockopt tells it.
_OPTIONS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "SO_RCVBUF": ("receive_buffer", int, lambda v: 2 * v),  # Linux counts its overhead in
    "SO_SNDBUF": ("send_buffer", int, lambda v: 2 * v),
    "TCP_NODELAY": ("nagle", lambda v: not v, lambda v: int(not v)),
    "TCP_MAXSEG": ("mss", int, int),
    "TCP_CONGESTION": ("congestion", str, str),
    "TCP_KEEPINTVL": ("keepalive_interval", float, int),
    "TCP_KEEPCNT": ("keepalive_probes", int, int),
    "TCP_USER_TIMEOUT": ("user_timeout", lambda v: v / 1000, lambda v: int(v * 1000)),
}
_OTHER_OPTIONS = {"SO_KEEPALIVE", "TCP_KEEPIDLE", "SO_LINGER"}
_OTHER_OPTIONS |= {"SO_REUSEADDR", "SO_REUSEPORT", "SO_PRIORITY", "IP_TOS"}  # without effect


def _check(flags: Names) -> None:
    for name in sorted(flags - {"MSG_DONTWAIT", "MSG_NOSIGNAL"}):
        raise LookupError(name)


def _shown(value: Any) -> str:
    return "|".join(sorted(value)) or "0" if isinstance(value, frozenset) else str(value)
