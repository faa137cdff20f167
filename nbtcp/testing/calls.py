"""The system calls of a script, over a `Stack`, as Linux's sockets answer them.

Every stream's octets are numbered: what is written is `content`, and what is read must be that.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..config import Config
from ..stack import Stack
from ..tcp.connection import Connection
from ..tcp.listener import Listener
from ..tcp.state import State
from .parser import ANY, Call
from .settings import SettingError, Settings, changed
from .tcp_info import NAMES, tcp_info

_LAP = bytes(range(251))  # a prime: no segment size repeats it
_OPENING = (State.SYN_SENT, State.SYN_RECEIVED)
_NUMBERS = {"O_RDONLY": 0, "O_WRONLY": 1, "O_RDWR": 2, "O_NONBLOCK": 0x800, "FD_CLOEXEC": 1}
_FLAGS = {"MSG_DONTWAIT", "MSG_NOSIGNAL"}


def content(start: int, end: int) -> bytes:
    """The octets at positions start..end of every stream."""
    return (_LAP * ((end - start) // 251 + 2))[start % 251 :][: end - start]


class WouldBlock(Exception):
    """The call has to wait."""


class Mismatch(Exception):
    """What the call stored, or read, is not what the script says."""


@dataclass(slots=True, eq=False)
class Socket:
    """What a file descriptor stands for."""

    nonblocking: bool = False
    changes: dict[str, Any] = field(default_factory=dict)  # of the Config, by setsockopt
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


class Calls:
    """Carries out one call after the other; `opened` is told of new active connections."""

    def __init__(
        self, stack: Stack, settings: Settings, opened: Callable[[Connection], None]
    ) -> None:
        self.sockets: dict[int, Socket] = {}
        self._stack, self._settings, self._opened = stack, settings, opened
        self._now = self._began = 0

    def run(self, call: Call, now: int, began: int) -> tuple[int, str]:
        """(result, name of the error or ""). Raises WouldBlock; then call again, later."""
        self._now, self._began = now, began
        if call.name not in _CALLS:
            known = ", ".join(sorted(_CALLS))
            raise SettingError(f"there is no call {call.name} here; calls are {known}")
        try:
            return _CALLS[call.name](self, call), ""
        except OSError as error:
            return -1, errno.errorcode[error.errno or errno.EIO]

    @property
    def port(self) -> int:
        """Where a peer's SYN goes: the port of the last listener."""
        ports = [s.listener.port for s in self.sockets.values() if s.listener is not None]
        return ports[-1] if ports else self._settings.bind_port

    def configure_stack(self) -> None:
        """New passive connections are as the last listener's socket says."""
        listeners = [sock for sock in self.sockets.values() if sock.listener is not None]
        self._stack.config = self._config(listeners[-1] if listeners else Socket())

    # --- arguments ---

    def _socket(self, call: Call) -> Socket:
        sock = self.sockets.get(_integer(call, 0))
        if sock is None:
            raise OSError(errno.EBADF, "no such file descriptor")
        return sock

    def _conn(self, sock: Socket, otherwise: int) -> Connection:
        """The connection; an error that it ended with is told once."""
        if sock.conn is None:
            raise OSError(otherwise, "not connected")
        if sock.conn.error is not None and not sock.told and not sock.conn.reassembly.size:
            sock.told = True
            raise sock.conn.error
        return sock.conn

    def _wait(self, sock: Socket, flags: frozenset[str] = frozenset()) -> OSError | WouldBlock:
        """What to raise where a call has to wait."""
        if sock.nonblocking or "MSG_DONTWAIT" in flags:
            return OSError(errno.EAGAIN, "would block")
        return WouldBlock()

    def _new(self, call: Call, **known: Any) -> int:
        """A file descriptor with the number that the script expects."""
        fd = call.result if isinstance(call.result, int) and call.result >= 0 else 3
        while fd in self.sockets:
            fd += 1
        self.sockets[fd] = Socket(**known)
        return fd

    def _config(self, sock: Socket) -> Config:
        return changed(self._settings.config, **sock.changes)

    # --- opening and closing ---

    def _call_socket(self, call: Call) -> int:
        if len(call.arguments) != 3 or "SOCK_STREAM" not in (kind := _names(call, 1)):
            raise SettingError("only socket(..., SOCK_STREAM, IPPROTO_TCP) is known here")
        return self._new(call, nonblocking="SOCK_NONBLOCK" in kind)

    def _bind(self, call: Call) -> int:
        sock = self._socket(call)
        sock.port = _address(call, "", self._settings.bind_port)[1]
        return 0

    def _listen(self, call: Call) -> int:
        sock, backlog = self._socket(call), _integer(call, 1)
        try:
            sock.listener = self._stack.listen(sock.port or self._settings.bind_port, backlog)
        except ValueError as problem:
            raise SettingError(str(problem)) from None
        self.configure_stack()
        return 0

    def _accept(self, call: Call) -> int:
        sock = self._socket(call)
        if sock.listener is None:
            raise OSError(errno.EINVAL, "not listening")
        conn = sock.listener.accept()
        if conn is None:
            raise self._wait(sock)
        nonblocking = len(call.arguments) > 3 and "SOCK_NONBLOCK" in _names(call, 3)
        known = {"conn": conn, "connected": True, "changes": dict(sock.changes)}
        return self._new(call, nonblocking=nonblocking, options=dict(sock.options), **known)

    def _connect(self, call: Call) -> int:
        sock = self._socket(call)
        first = sock.conn is None
        if first:
            remote = _address(call, self._settings.remote, self._settings.connect_port)
            config = self._config(sock)
            try:
                sock.conn = self._stack.connect(
                    remote, self._now, local_port=sock.port, config=config
                )
            except ValueError as problem:
                raise SettingError(str(problem)) from None
            self._opened(sock.conn)
        conn = self._conn(sock, errno.ENOTCONN)
        if conn.state in _OPENING:
            if sock.nonblocking:
                raise OSError(errno.EINPROGRESS if first else errno.EALREADY, "not yet")
            raise WouldBlock
        if sock.connected:
            raise OSError(errno.EISCONN, "connected already")
        if conn.state is State.CLOSED:
            raise OSError(errno.ECONNABORTED, "closed")
        sock.connected = True
        return 0

    def _shutdown(self, call: Call) -> int:
        sock, how = self._socket(call), _names(call, 1)
        if sock.conn is None or sock.conn.state is State.CLOSED:
            raise OSError(errno.ENOTCONN, "not connected")
        sock.read_shut = sock.read_shut or bool(how & {"SHUT_RD", "SHUT_RDWR"})
        if how & {"SHUT_WR", "SHUT_RDWR"}:
            sock.conn.shutdown(self._now)
        return 0

    def _close(self, call: Call) -> int:
        sock = self._socket(call)
        del self.sockets[_integer(call, 0)]
        if sock.listener is not None:
            self._stack.close_listener(sock.listener, self._now)
        elif sock.conn is not None and sock.options.get("SO_LINGER") == {"onoff": 1, "linger": 0}:
            sock.conn.abort(self._now)
        elif sock.conn is not None:
            sock.conn.close(self._now)
        return 0

    # --- data ---

    def _write(self, call: Call) -> int:
        sock, size, flags = self._socket(call), _size(call), _message_flags(call)
        conn = self._conn(sock, errno.EPIPE)
        if conn.state in _OPENING:
            raise self._wait(sock, flags)
        if conn.error is not None or conn.state is State.CLOSED:
            raise BrokenPipeError(errno.EPIPE, "closed")
        fits = min(size - sock.taken, conn.queue.room)
        taken = conn.send(content(sock.written, sock.written + fits), self._now)
        sock.written += taken
        sock.taken += taken
        if sock.taken < size:
            waits = self._wait(sock, flags)
            if isinstance(waits, WouldBlock) or not sock.taken:
                raise waits
        done, sock.taken = sock.taken, 0
        return done

    def _read(self, call: Call) -> int:
        sock, size, flags = self._socket(call), _size(call), _message_flags(call)
        conn = self._conn(sock, errno.ENOTCONN)
        if data := conn.recv(size, self._now):
            start, sock.read = sock.read, sock.read + len(data)
            if data != content(start, sock.read):
                raise Mismatch(f"octets {start}:{sock.read} are not those that were sent")
            return len(data)
        if conn.eof or sock.read_shut or not size:
            return 0
        raise self._wait(sock, flags)

    def _poll(self, call: Call) -> int:
        wanted, ends = _argument(call, 0), self.poll_ends(call, self._began)
        entries = wanted if isinstance(wanted, list) else [wanted]
        if not all(isinstance(e, dict) and isinstance(e.get("fd"), int) for e in entries):
            raise SettingError("poll takes [{fd=4, events=POLLIN, revents=POLLIN}], ...")
        found = [self._events(entry) for entry in entries]
        ready = sum(map(bool, found))
        if not ready and (ends is None or self._now < ends):
            raise WouldBlock
        for entry, events in zip(entries, found, strict=True):
            if (expected := entry.get("revents", ANY)) not in (ANY, events or 0, events):
                raise Mismatch(f"revents is {_shown(events)}, not {_shown(expected)}")
        return ready

    def poll_ends(self, call: Call, began: int) -> int | None:
        """When a poll that waits returns at the latest."""
        if call.name != "poll" or (timeout := _integer(call, 2)) < 0:
            return None
        return began + timeout * 1_000_000

    def _events(self, entry: dict[str, Any]) -> frozenset[str]:
        sock = self.sockets.get(entry["fd"])
        if sock is None:
            return frozenset({"POLLNVAL"})
        events = set()
        if sock.listener is not None and len(sock.listener):
            events.add("POLLIN")
        if (conn := sock.conn) is not None:
            ended = conn.state is State.CLOSED
            if conn.reassembly.size or conn.eof or sock.read_shut:
                events |= {"POLLIN", "POLLRDNORM"}
            if conn.eof or conn.tcb.rcv.fin is not None:
                events.add("POLLRDHUP")
            if ended or (conn.synchronized and conn.queue.room > 0):
                events |= {"POLLOUT", "POLLWRNORM"}
            if ended or (conn.eof and conn.queue.fin is not None):
                events.add("POLLHUP")
            if conn.error is not None and not sock.told:
                events.add("POLLERR")
        asked = entry.get("events", frozenset())
        asked = asked if isinstance(asked, frozenset) else frozenset()
        return frozenset(events & (asked | {"POLLERR", "POLLHUP"}))

    # --- options ---

    def _setsockopt(self, call: Call) -> int:
        sock, name, value = self._socket(call), _name(call, 2), _argument(call, 3)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int | str) is (name == "SO_LINGER"):
            raise SettingError(f"{name} cannot be {value!r}")
        sock.options[name] = value
        if name in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_LINGER", "SO_PRIORITY", "IP_TOS"):
            return 0
        if name in ("SO_KEEPALIVE", "TCP_KEEPIDLE"):
            idle = float(sock.options.get("TCP_KEEPIDLE", self._settings.keepalive_time))
            if sock.options.get("SO_KEEPALIVE") or name == "SO_KEEPALIVE":
                on = bool(sock.options.get("SO_KEEPALIVE"))
                self._change(sock, "keepalive", idle if on else None)
            return 0
        if name not in _OPTIONS:
            known = ", ".join(sorted([*_OPTIONS, "SO_KEEPALIVE", "TCP_KEEPIDLE", "SO_LINGER"]))
            raise SettingError(f"there is no socket option {name} here; options are {known}")
        setting, convert, _ = _OPTIONS[name]
        try:
            self._change(sock, setting, convert(value))
        except (ValueError, TypeError) as problem:
            raise SettingError(f"{name} cannot be {value!r}: {problem}") from None
        return 0

    def _change(self, sock: Socket, setting: str, value: Any) -> None:
        sock.changes[setting] = value
        config = self._config(sock)
        self.configure_stack()
        if (conn := sock.conn) is not None:
            if setting in ("congestion", "mss"):
                raise SettingError(f"{setting} can be set only before the connection is opened")
            conn.config = config
            conn.queue.capacity = config.send_buffer
            conn.reassembly.capacity = config.receive_buffer
            conn.handle_timer(self._now)  # nothing is due; it may have something to send now

    def _getsockopt(self, call: Call) -> int:
        sock, name, expected = self._socket(call), _name(call, 2), _argument(call, 3)
        expected = expected[0] if isinstance(expected, list) and expected else expected
        if name == "SO_ERROR":
            error = sock.conn.error if sock.conn is not None and not sock.told else None
            sock.told = sock.told or error is not None
            value: Any = error.errno if error is not None else 0
            if isinstance(expected, frozenset):
                value = frozenset({errno.errorcode.get(value or 0, "0")})
        elif name == "TCP_INFO" and sock.conn is not None:
            info = tcp_info(sock.conn, self._now)
            wanted = expected if isinstance(expected, dict) else {}
            value = {field: info.get(field) for field in wanted} or ANY
            expected = {field: NAMES.get(_shown(v), v) for field, v in wanted.items()} or ANY
        elif name == "TCP_MAXSEG" and sock.conn is not None:
            value = sock.conn.tcb.snd.mss
        elif name in _OPTIONS:
            setting, _, show = _OPTIONS[name]
            value = show(getattr(self._config(sock), setting, None))
        elif name in sock.options:
            value = sock.options[name]
        else:
            raise SettingError(f"the socket option {name} cannot be read here")
        if expected is not ANY and expected != value:
            raise Mismatch(f"{name} is {_shown(value)}, not {_shown(expected)}")
        return 0

    def _fcntl(self, call: Call) -> int:
        sock, command = self._socket(call), _name(call, 1)
        if command == "F_GETFL":
            return _NUMBERS["O_RDWR"] | _NUMBERS["O_NONBLOCK"] * sock.nonblocking
        if command != "F_SETFL":
            raise SettingError(f"fcntl {command} is not known here")
        value = _argument(call, 2)
        value = value if isinstance(value, int) else number(_names(call, 2))
        sock.nonblocking = bool(value & _NUMBERS["O_NONBLOCK"])
        return 0

    def _ioctl(self, call: Call) -> int:
        sock, request, expected = self._socket(call), _name(call, 1), _argument(call, 2)
        conn = self._conn(sock, errno.ENOTCONN)
        sizes = {"SIOCINQ": conn.reassembly.size, "SIOCOUTQ": len(conn.queue.data)}
        if request not in sizes:
            raise SettingError(f"ioctl {request} is not known here")
        if expected not in (ANY, [sizes[request]], sizes[request]):
            raise Mismatch(f"{request} is {sizes[request]}")
        return 0


_CALLS: dict[str, Callable[[Calls, Call], int]] = {
    "socket": Calls._call_socket,
    "bind": Calls._bind,
    "listen": Calls._listen,
    **{name: Calls._accept for name in ("accept", "accept4")},
    "connect": Calls._connect,
    **{name: Calls._write for name in ("write", "writev", "send", "sendto", "sendmsg")},
    **{name: Calls._read for name in ("read", "readv", "recv", "recvfrom", "recvmsg")},
    "shutdown": Calls._shutdown,
    "close": Calls._close,
    "poll": Calls._poll,
    "setsockopt": Calls._setsockopt,
    "getsockopt": Calls._getsockopt,
    "fcntl": Calls._fcntl,
    "ioctl": Calls._ioctl,
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


# --- arguments and values ---


def _argument(call: Call, place: int) -> Any:
    if place >= len(call.arguments):
        raise SettingError(f"{call.name} has too few arguments")
    return call.arguments[place]


def _integer(call: Call, place: int) -> int:
    value = _argument(call, place)
    if not isinstance(value, int):
        raise SettingError(f"argument {place + 1} of {call.name} must be a number")
    return value


def _names(call: Call, place: int) -> frozenset[str]:
    value = _argument(call, place)
    if not isinstance(value, frozenset):
        raise SettingError(f"argument {place + 1} of {call.name} must be a name such as SHUT_WR")
    return value


def _name(call: Call, place: int) -> str:
    return "|".join(sorted(_names(call, place)))


def number(names: frozenset[str]) -> int:
    """The number that O_RDWR|O_NONBLOCK and the like are."""
    if unknown := sorted(names - set(_NUMBERS)):
        raise SettingError(f"{unknown[0]} is not known here")
    return sum(_NUMBERS[name] for name in names)


def _address(call: Call, host: str, port: int) -> tuple[str, int]:
    """The address that a call names, or the one given where it says "..."."""
    value = _argument(call, 1)
    known = value if isinstance(value, dict) else {}
    named, at = known.get("sin_addr"), known.get("sin_port")
    return named if isinstance(named, str) else host, at if isinstance(at, int) else port


def _size(call: Call) -> int:
    """How much a call reads or writes; the sum where there are several buffers."""
    buffers = _argument(call, 1)
    if isinstance(buffers, dict):  # a msghdr
        buffers = buffers.get("msg_iov", [])
    if not isinstance(buffers, list):
        return max(0, _integer(call, 2))
    return sum(v for b in buffers if isinstance(b, dict) for v in b.values() if isinstance(v, int))


def _message_flags(call: Call) -> frozenset[str]:
    place = 2 if call.name in ("sendmsg", "recvmsg") else 3
    if call.name in ("read", "write", "readv", "writev") or len(call.arguments) <= place:
        return frozenset()
    flags = call.arguments[place]
    flags = flags if isinstance(flags, frozenset) else frozenset()
    if unknown := sorted(flags - _FLAGS):
        raise SettingError(f"{unknown[0]} is not known here")
    return flags


def _shown(value: Any) -> str:
    return "|".join(sorted(value)) or "0" if isinstance(value, frozenset) else str(value)
