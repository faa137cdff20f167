"""A host: a stack on a link, with blocking sockets. Lab, live and simulated hosts are all of this
kind.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Self

from ..config import Config, ConfigError
from ..errors import MachineError
from ..links import Device, Link
from ..links.path import Impaired, Path, Pipe
from ..stack import Stack
from ..tcp.connection import Observer
from ..tcp.state import State
from ..trace.log import EventLog
from ..why import Why
from ..wire import ip
from ..wire.segment import flow_of, reverse_flow
from .loop import SECOND, Loop, RealClock
from .sockets import Socket

BATCH = 16  # packets read at once: more is faster, and blurs their times
HEADERS = 40  # octets of IPv4 and TCP header without options
_DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_QUIET = frozenset({State.CLOSED, State.TIME_WAIT})


class Host:
    """Opens sockets on one stack, at one address or several.

    `log` is told of everything that no other log was given for. `patience` is how long (s) an
    address of a name has to answer when there is another one to try.
    """

    patience = 3.0

    def __init__(
        self,
        address: str | Sequence[str],
        loop: Loop,
        *,
        config: Config | None = None,
        seed: int | None = None,
        log: EventLog | None = None,
    ) -> None:
        self.loop = loop
        self.log = EventLog() if log is None else log
        self.stack = Stack(address, seed=seed, observer=self.log, config=config)
        self._link: Link | None = None

    def attach(self, link: Link, up: Path | None = None, down: Path | None = None) -> None:
        """Join the stack to `link`, with a path in each direction if given."""
        if up is not None or down is not None:
            link = Impaired(link, self.pipe(up, "up"), self.pipe(down, "down"))
        self._link = link
        self.loop.add(self.stack, link)

    def pipe(self, path: Path | None, direction: str) -> Pipe:
        """One direction of `path`, for this host's packets; what it does to them, the host logs."""
        return Pipe(path or Path(), direction, self.drop, self.queued, self.stack.header)

    @property
    def address(self) -> str:
        """Our own address, the first one."""
        return self.stack.address

    def connect(
        self,
        remote: tuple[str, int],
        timeout: float | None = None,
        source: tuple[str, int] | None = None,
        *,
        log: Observer | None = None,
        **settings: Any,
    ) -> Socket:
        """A connected socket, from the address and port `source` if given. `settings` change the
        host's Config for this connection.

        Of a name with several addresses it is the first one that answers, of which each but the
        last has `patience`; what is raised is about the last one.
        Raises TimeoutError, ConnectionRefusedError and what else ends connections, ConfigError, and
        socket.gaierror for a name, which only Live and Lan hosts know, and there MachineError.
        """
        *others, last = self.resolve(remote[0])

        def attempt(address: str, wait: float | None) -> Socket:
            sock = self.socket(log=log, **settings)
            sock.settimeout(wait)
            try:
                if source is not None:
                    sock.bind(source)
                sock.connect((address, remote[1]))
            except BaseException:
                sock.close()
                raise
            sock.settimeout(timeout)
            return sock

        for address in others:
            wait = self.patience if timeout is None else min(timeout, self.patience)
            with suppress(OSError, MachineError):
                return attempt(address, wait)
        return attempt(last, timeout)

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: Any = _DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
    ) -> Socket:
        """`connect`, by the name and arguments of the standard library's function."""
        if timeout is _DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        return self.connect(address, timeout, source_address)

    def resolve(self, name: str) -> list[str]:
        """The addresses of `name`, in the order to try them; socket.gaierror when there are none.
        A host that knows no names takes an address for its own name.
        """
        try:
            ip.pack_address(name)
        except ValueError as problem:
            raise socket.gaierror(socket.EAI_NONAME, str(problem)) from None
        return [name]

    def check(self, there: tuple[str, int]) -> None:
        """OSError or MachineError when packets of ours do not get to this address. May wait."""

    def locate(self, remote: tuple[str, int], family: int) -> tuple[str, int]:
        """The address to connect to for `remote`, which may hold a name: the first one, of `family`
        if there is one. Raises what `resolve` and `check` do.
        """
        found = self.resolve(remote[0])
        ours = [one for one in found if (":" in one) == (family == socket.AF_INET6)]
        there = (ours or found)[0], remote[1]
        self.check(there)
        return there

    def listen(self, port: int, backlog: int = 128) -> Socket:
        """A listening socket; `accept` gives (socket, peer)."""
        sock = self.socket()
        sock.bind(("", port))
        sock.listen(backlog)
        return sock

    def socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        log: Observer | None = None,
        **settings: Any,
    ) -> Socket:
        """A socket that is neither connected nor listening yet; arguments as of `socket.socket`.
        The family follows the addresses it is bound or connected to.
        """
        config = self.stack.config.but(**settings) if settings else None
        return Socket(self, family, type, proto, config=config, log=log)

    def drop(self, packet: bytes, why: Why, now: int) -> None:
        """A path has dropped a packet: the log of its connection is told."""
        packet = packet[self.stack.header :]
        if (log := self._log_of(flow_of(packet))) is not None:
            log.dropped(packet, why, now)

    def queued(self, packet: bytes, wait: int, now: int) -> None:
        """A path makes a packet wait for `wait` ns: the log of its connection is told."""
        header = self.stack.header
        flow = flow_of(packet[header : header + 44])
        if flow and (log := self._log_of(flow)) is not None:
            log.queued(flow, wait, now)

    def _log_of(self, flow: bytes) -> EventLog | None:
        conn = self.stack.find(flow) or self.stack.find(reverse_flow(flow))
        log = self.log if conn is None else conn.observer
        return log if isinstance(log, EventLog) else None

    def wait(self, seconds: float) -> None:
        """Let so much time pass (virtual time in a simulation), and do meanwhile what comes."""
        with self.loop.lock:
            self.loop.run_until(lambda: False, self.loop.now() + round(seconds * SECOND))

    def settle(self, log: EventLog, timeout: float = 1.0) -> bool:
        """Wait until both ends of `log`'s connections have closed; False after `timeout` s."""
        with self.loop.lock:
            until = self.loop.now() + round(timeout * SECOND)
            ours = [conn for conn in self.stack.connections if conn.observer is log]
            return self.loop.run_until(lambda: all(conn.state in _QUIET for conn in ours), until)

    def close(self) -> None:
        """Let what the application has closed end, reset the rest, and give the link back."""
        if self._link is None:
            return
        link, self._link = self._link, None
        with self.loop.lock:
            closing = [conn for conn in self.stack.connections if conn.closed_by_application]
            if closing and self.loop.failure is None:
                until = self.loop.now() + SECOND
                self.loop.run_until(lambda: all(conn.state in _QUIET for conn in closing), until)
            for conn in self.stack.connections:
                conn.abort(self.loop.now())
            if self.loop.failure is None:
                self.loop.flush()
            self.loop.fail("the host is closed")
        self.loop.close()
        link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()


def offloads(config: Config | None, *paths: Path | None) -> bool:
    """Whether `config` says so; ConfigError when a path would damage what no checksum protects."""
    if config is None or not config.offload:
        return False
    if any(path and path.corrupt for path in paths):
        reason = "checksums are made behind the path, which would hide the damage"
        raise ConfigError(f"corrupt= cannot be with offload=True: {reason}; leave one of them out")
    return True


class RealHost(Host):
    """A host at a device of this machine, in real time: what Lab, Live and Lan have in common.

    `path` impairs both directions, `up` (from us) and `down` set them apart. `meta` is what all
    logs shall know besides.
    """

    def __init__(
        self,
        device: Device,
        address: str | Sequence[str],
        path: Path | None,
        up: Path | None,
        down: Path | None,
        config: Config | None,
        seed: int | None,
        **meta: Any,
    ) -> None:
        config = config or Config()
        config = config.but(mss=min(config.mss, device.size - HEADERS))  # RFC 9293 MUST-67
        up, down = up or path, down or path
        self._meta = {
            **meta,
            "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seed": seed,
            "mtu": device.size,
            "up": asdict(up or Path()),
            "down": asdict(down or Path()),
            "config": asdict(config),
        }
        loop = Loop(RealClock())
        super().__init__(address, loop, config=config, seed=seed, log=self.new_log())
        device.batch = BATCH
        self.attach(device, up, down)
        loop.mind_in_background()

    def new_log(self, **meta: Any) -> EventLog:
        """An empty log that knows of this host's settings; for `connect(..., log=...)`."""
        return EventLog(**self._meta, **meta)
