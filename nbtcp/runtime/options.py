"""What `getsockopt` and `setsockopt` know, by Linux's names and in its units.

Most options are settings of Config. On a connection that is open those change that may
(`Connection.reconfigure`).
"""

import errno
import os
import socket as stdlib
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import Config, ConfigError
from ..tcp.connection import Connection
from .tcp_info import pack_tcp_info

KEEPALIVE_IDLE = 7200.0  # s of silence, where SO_KEEPALIVE is all that was asked for (MUST-28)
_INT, _LINGER = struct.Struct("@i"), struct.Struct("@ii")
_TCP, _IP, _IPV6 = stdlib.IPPROTO_TCP, stdlib.IPPROTO_IP, stdlib.IPPROTO_IPV6


class Options:
    """The options of one socket: `config` is the host's Config with the `changes` they make."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.changes: dict[str, Any] = {}
        self.keepalive_idle = config.keepalive or KEEPALIVE_IDLE
        self.linger: int | None = None  # s that `close` waits for the peer's ACKs; 0: it resets
        self.flags: dict[tuple[int, int], int] = {}

    def get(
        self, level: int, name: int, length: int, conn: Connection | None, now: int
    ) -> int | bytes:
        """Of an integer the value, or its bytes when a `length` is given."""
        if (level, name) == (_TCP, stdlib.TCP_INFO):
            return pack_tcp_info(_open(conn), now)[:length]
        if (level, name) == (_TCP, stdlib.TCP_CONGESTION):
            return self.config.congestion.encode()[:length]
        if (level, name) == (stdlib.SOL_SOCKET, stdlib.SO_LINGER):
            return _LINGER.pack(self.linger is not None, self.linger or 0)[:length]
        if (level, name) == (_TCP, stdlib.TCP_MAXSEG) and conn is not None:
            value = conn.tcb.snd.mss
        elif (level, name) in _FLAGS:
            value = self.flags.get((level, name), _FLAGS[level, name][0])
        else:
            value = int(_setting(level, name).read(self))
        return _INT.pack(value)[:length] if length else value

    def set(
        self, level: int, name: int, value: int | bytes, conn: Connection | None, now: int
    ) -> None:
        """`value` is an integer, or the bytes of one, of a struct linger or of a name.

        OSError: ENOPROTOOPT for what there is not, EINVAL for a value that cannot be, EISCONN for
        what must be said before the connection opens.
        """
        if (level, name) == (stdlib.SOL_SOCKET, stdlib.SO_LINGER):
            on, seconds = _LINGER.unpack(value)  # type: ignore[arg-type]
            self.linger = max(0, seconds) if on else None
            return
        if (level, name) == (_TCP, stdlib.TCP_CONGESTION):
            changes: dict[str, Any] = {"congestion": bytes(value).decode("ascii", "replace")}
        else:
            number = value if isinstance(value, int) else _INT.unpack(value)[0]
            if (level, name) in _FLAGS:
                self._set_flag(level, name, bool(number))
                return
            changes = _setting(level, name).write(self, number)
        if conn is not None and (level, name) in _BEFORE_OPENING:
            raise OSError(errno.EISCONN, "this is settled when a connection opens: set it before")
        try:
            self.config = self.config.but(**changes)
            if conn is not None:
                conn.reconfigure(conn.config.but(**changes), now)
        except ConfigError as problem:
            raise OSError(errno.EINVAL, str(problem)) from None
        self.changes |= changes

    def _set_flag(self, level: int, name: int, on: bool) -> None:
        if on not in _FLAGS[level, name]:
            only = _FLAGS[level, name][0]
            raise OSError(errno.EOPNOTSUPP, f"this option of nbtcp's sockets is always {only}")
        self.flags[level, name] = int(on)


class _Setting(NamedTuple):
    """An option as what of a Config it reads, and the changes to a Config that setting it makes."""

    read: Callable[[Options], float]
    write: Callable[[Options, int], dict[str, Any]]


def _setting(level: int, name: int) -> _Setting:
    if (level, name) not in _SETTINGS:
        why = f"{os.strerror(errno.ENOPROTOOPT)}: option {name} of level {level}"
        raise OSError(errno.ENOPROTOOPT, why)
    return _SETTINGS[level, name]


def _open(conn: Connection | None) -> Connection:
    if conn is None:
        raise OSError(errno.ENOTCONN, "the socket is not connected")
    return conn


def _field(name: str, unit: float = 1) -> _Setting:
    """A setting that is a number; the option counts in `unit` of it."""
    return _Setting(
        lambda options: round(getattr(options.config, name) / unit),
        lambda options, value: {name: value * unit},
    )


def _keep_idle(options: Options, seconds: int) -> dict[str, Any]:
    options.keepalive_idle = seconds
    return {} if options.config.keepalive is None else {"keepalive": seconds}


_DSCP = _Setting(  # the other two bits of the TOS are ECN's
    lambda options: options.config.dscp << 2, lambda options, tos: {"dscp": tos >> 2}
)
_SETTINGS = {
    (stdlib.SOL_SOCKET, stdlib.SO_SNDBUF): _field("send_buffer"),
    (stdlib.SOL_SOCKET, stdlib.SO_RCVBUF): _Setting(
        lambda options: options.config.receive_buffer,
        lambda options, octets: {"receive_buffer": octets, "autotune": False},
    ),
    (stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE): _Setting(  # off unless set (MUST-24, MUST-25)
        lambda options: options.config.keepalive is not None,
        lambda options, on: {"keepalive": options.keepalive_idle if on else None},
    ),
    (_TCP, stdlib.TCP_KEEPIDLE): _Setting(lambda options: options.keepalive_idle, _keep_idle),
    (_TCP, stdlib.TCP_KEEPINTVL): _field("keepalive_interval"),
    (_TCP, stdlib.TCP_KEEPCNT): _field("keepalive_probes"),
    (_TCP, stdlib.TCP_NODELAY): _Setting(
        lambda options: not options.config.nagle, lambda options, on: {"nagle": not on}
    ),
    (_TCP, stdlib.TCP_USER_TIMEOUT): _Setting(  # ms; 0 is the default
        lambda options: min(options.config.user_timeout * 1000, (1 << 31) - 1),
        lambda options, ms: {"user_timeout": ms / 1000 or Config().user_timeout},
    ),
    (_TCP, stdlib.TCP_MAXSEG): _field("mss"),
    (_IP, stdlib.IP_TOS): _DSCP,
    (_IPV6, stdlib.IPV6_TCLASS): _DSCP,
    (_IP, stdlib.IP_TTL): _field("ttl"),
    (_IPV6, stdlib.IPV6_UNICAST_HOPS): _field("ttl"),
}
_BEFORE_OPENING = {(_TCP, stdlib.TCP_MAXSEG), (_TCP, stdlib.TCP_CONGESTION)}
_FLAGS = {  # the values each may have, the first unless set; none changes what we do
    (stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR): (0, 1),  # TIME-WAIT keeps nobody from listening
    (stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT): (0,),  # a port has one listener
    (stdlib.SOL_SOCKET, stdlib.SO_OOBINLINE): (1,),  # RFC 6093 3
    (_IPV6, stdlib.IPV6_V6ONLY): (0, 1),
}
