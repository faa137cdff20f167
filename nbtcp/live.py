"""The internet: our TCP with this machine's own access to it, through a TUN device and NAT."""

import errno
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from .config import Config
from .links import nat
from .links.path import Path
from .runtime.host import RealHost, offloads

if TYPE_CHECKING:
    from .runtime.http import Page


class Outside(RealHost):
    """A host in this machine's own network, with names and URLs: what Live and Lan share.

    `hint` is what to do about a name that has no address.
    """

    hint = "check the name and /etc/resolv.conf"

    def resolve(self, name: str) -> list[str]:
        """The addresses of `name`, in the order to try them (RFC 6724), of the families that we
        have; asked of the machine's resolver and in its time.
        """
        ours = {f"IPv{ip_address(address).version}" for address in self.stack.addresses}
        family = socket.AF_UNSPEC
        if len(ours) == 1:
            family = socket.AF_INET if "IPv4" in ours else socket.AF_INET6
        try:
            found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as problem:
            why = getattr(problem, "strerror", None) or "this is not a name"
            text = f"no {' or '.join(sorted(ours))} address for {name!r}: {why}; {self.hint}"
            raise socket.gaierror(socket.EAI_NONAME, text) from problem
        addresses = [str(address[0]) for *_, address in found]
        return [one for one in addresses if "%" not in one] or addresses  # of this link alone

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


class Live(Outside):
    """Our TCP on the internet: what it sends leaves this machine under the machine's own address.

    `path` impairs both directions besides, `up` (to the internet) and `down` set them apart.
    `seed` makes our ISNs and ports repeatable. It has an address of IPv4 and one of IPv6, as far as
    this machine has a way into the internet by them, or one of `family`, 4 or 6, alone.
    Needs root. All that the machine is asked for is undone by `close`, and however this process
    ends, by a program that watches it; if that is killed too, by the next Live or by `clean`.
    Servers of ours are reached from this machine, and from elsewhere at ports that `publish` has
    named. Raises MachineError when this machine cannot, ConfigError, PathError.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        up: Path | None = None,
        down: Path | None = None,
        config: Config | None = None,
        seed: int | None = None,
        family: int | None = None,
    ) -> None:
        if family not in (None, 4, 6):
            raise ValueError(f"family={family!r} must be 4 for IPv4, 6 for IPv6, None for both")
        self.nat = nat.Nat(offloads(config, path, up, down), family)
        meta = {"link": "live", "uplink": self.nat.uplink}
        self.hint = "; ".join([self.hint, *self.nat.missing])
        super().__init__(self.nat.link, self.nat.addresses, path, up, down, config, seed, **meta)

    def __repr__(self) -> str:
        return f"<Live: we {' and '.join(self.stack.addresses)}, by way of {self.nat.uplink}>"

    def check(self, there: tuple[str, int]) -> None:
        """MachineError when a filter of this machine stops our packets."""
        if ip_address(there[0]).is_loopback:
            server = (
                f"its server is at {self.nat.like(there[0], self.nat.kernel_addresses)} for ours"
            )
            reason = f"only this machine's own TCP gets to {there[0]}; {server}"
            raise OSError(errno.ENETUNREACH, reason)
        self.nat.check(there)

    def publish(self, port: int) -> str:
        """Let others reach our `port` at this machine's own address, of the family of our first,
        which is returned.
        """
        return self.nat.publish(port)

    def close(self) -> None:
        """Reset what is open, and leave this machine as it was."""
        super().close()
        self.nat.close()

    clean = staticmethod(nat.clean)


def fetch(url: str, *, family: int | None = None, **settings: Any) -> "Page":
    """GET `url` from the internet with our own TCP, as root; see `Live.fetch`. `family`, 4 or 6, is
    that of IP; by default both are tried.
    """
    check_url(url)
    with Live(family=family) as host:
        return host.fetch(url, **settings)


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
