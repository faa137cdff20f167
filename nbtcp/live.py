"""The internet: our TCP with this machine's own access to it, through a TUN device and NAT."""

import errno
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .config import Config
from .lab import BATCH, HEADERS
from .links import nat
from .links.path import Path
from .runtime.host import Host
from .runtime.loop import Loop, RealClock
from .runtime.sockets import Socket
from .tcp.connection import Observer
from .trace.log import EventLog

if TYPE_CHECKING:
    from .runtime.http import Page


class Live(Host):
    """Our TCP on the internet: what it sends leaves this machine under the machine's own address.

    `path` impairs both directions besides, `up` (to the internet) and `down` set them apart.
    `seed` makes our ISNs and ports repeatable. Needs root. All that the machine is asked for is
    undone by `close`, at exit, and at SIGTERM and SIGHUP where nobody else handles them; after
    SIGKILL by the next Live or by `clean`. Servers of ours are reached from this machine only.
    Raises MachineError when this machine cannot, ConfigError, PathError.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        up: Path | None = None,
        down: Path | None = None,
        config: Config | None = None,
        seed: int | None = None,
    ) -> None:
        self.nat = nat.Nat()
        config = config or Config()
        config = config.but(mss=min(config.mss, self.nat.mtu - HEADERS))
        up, down = up or path, down or path
        self._meta = {
            "link": "live",
            "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seed": seed,
            "uplink": self.nat.uplink,
            "mtu": self.nat.mtu,
            "up": asdict(up or Path()),
            "down": asdict(down or Path()),
            "config": asdict(config),
        }
        loop = Loop(RealClock())
        super().__init__(self.nat.address, loop, config=config, seed=seed, log=self.new_log())
        self.nat.link.tun.batch = BATCH
        self.attach(self.nat.link, up, down)
        loop.mind_in_background()
        self._filtered = bool(nat.filters())  # until a packet has passed

    def __repr__(self) -> str:
        return f"<Live: we {self.address}, by way of {self.nat.uplink}>"

    def new_log(self, **meta: Any) -> EventLog:
        """An empty log that knows of this host's settings; for `connect(..., log=...)`."""
        return EventLog(**self._meta, **meta)

    def connect(
        self,
        remote: tuple[str, int],
        timeout: float | None = None,
        *,
        log: Observer | None = None,
        **settings: Any,
    ) -> Socket:
        """A connected socket; as of Host, and `remote` may hold a name.

        Also raises socket.gaierror when the name has no address, and MachineError when a filter of
        this machine stops our packets, which is tried where there is one.
        """
        there = self.resolve(remote[0]), remote[1]
        if self._filtered:
            self.nat.check(there)
            self._filtered = not self.nat.passed()
        try:
            return super().connect(there, timeout, log=log, **settings)
        except TimeoutError:
            if not self.nat.passed():
                self.nat.check(there)
            raise

    def resolve(self, name: str) -> str:
        """The IPv4 address of `name`, asked of the machine's resolver and in its time."""
        try:
            found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as problem:
            why = getattr(problem, "strerror", None) or "this is not a name"
            text = f"no IPv4 address for {name!r}: {why}; check the name and /etc/resolv.conf"
            raise socket.gaierror(socket.EAI_NONAME, text) from problem
        address = str(found[0][4][0])
        if address.startswith("127."):
            there = self.nat.kernel_address
            reason = (
                f"only this machine's own TCP gets to {name}; its server is at {there} for ours"
            )
            raise OSError(errno.ENETUNREACH, reason)
        return address

    def fetch(self, url: str, *, timeout: float = 30.0, **settings: Any) -> "Page":
        """GET `url`, redirects followed; `page.log` is the log of this fetch alone.

        `timeout` is how long (s) to wait for an answer at any point; `settings` change the Config
        for this fetch's connections, `ssl_context` what HTTPS trusts. Raises ValueError for what is
        no URL, MachineError, and OSErrors: TimeoutError, ConnectionRefusedError, socket.gaierror,
        ssl.SSLError and the like; their `page` holds what had arrived.
        """
        from .runtime.http import get

        check_url(url)
        return get(self, url, timeout=timeout, log=self.new_log(url=url), **settings)

    @staticmethod
    def clean() -> list[str]:
        """Undo what killed processes have left on this machine; returns what was undone."""
        return nat.clean()


def fetch(url: str, *, timeout: float = 30.0, **settings: Any) -> "Page":
    """GET `url` from the internet with our own TCP, as root; see `Live.fetch`."""
    check_url(url)
    with Live() as host:
        return host.fetch(url, timeout=timeout, **settings)


def check_url(url: str) -> None:
    """Raise ValueError, one line, unless `url` is one that can be fetched."""
    import httpx

    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as problem:
        raise ValueError(f"{url!r} is no URL: {problem}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a URL begins with http:// or https://, and this does not: {url!r}")
    if not parts.host:
        raise ValueError(f"a URL names a host, as http://example.com/ does: {url!r}")
    if parts.port is not None and not 0 < parts.port < 65536:
        raise ValueError(f"a port is a number from 1 to 65535, not {parts.port}: {url!r}")
