"""The lab: a private network, made by the program and gone with it, with the kernel's TCP at the
other end.
"""

import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .config import Config
from .links.namespace import KERNEL_ADDRESS, KERNEL_ADDRESS6, OUR_ADDRESS, OUR_ADDRESS6, Namespace
from .links.path import Path
from .runtime.host import RealHost, offloads

if TYPE_CHECKING:
    from .runtime.http import Page

LEAST_IPV6_MTU = 1280  # RFC 8200 5


class Lab(RealHost):
    """Our TCP at 10.0.0.2, the kernel's at 10.0.0.1 with a web server on port 80.

    With IPv6 they are at fd00:6e62::2 and fd00:6e62::1, if the kernel has it and the MTU allows.
    `path` impairs both directions, `up` (to the kernel) and `down` set them apart.
    `kernel_congestion` is the kernel's congestion control; Reno unless told otherwise, for it is
    always there and does not pace. `mtu` is in octets. `seed` makes our ISNs and ports repeatable;
    times are the machine's. Use it with `with`, or call `close`. Raises MachineError when this
    machine cannot, ConfigError, PathError.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        up: Path | None = None,
        down: Path | None = None,
        kernel_congestion: str | None = "reno",
        mtu: int = 1500,
        config: Config | None = None,
        seed: int | None = None,
    ) -> None:
        offload = offloads(config, path, up, down)
        self.namespace = Namespace(mtu=mtu, congestion=kernel_congestion, offload=offload)
        meta = {"link": "lab", "kernel_congestion": kernel_congestion}
        ours = (OUR_ADDRESS, OUR_ADDRESS6) if mtu >= LEAST_IPV6_MTU else (OUR_ADDRESS,)
        super().__init__(self.namespace.tun, ours, path, up, down, config, seed, **meta)

    def __repr__(self) -> str:
        return f"<Lab: we {self.address}, the kernel {self.kernel_address}>"

    @property
    def kernel_address(self) -> str:
        """The IPv4 address of the kernel's end."""
        return KERNEL_ADDRESS

    @property
    def kernel_address6(self) -> str:
        """The IPv6 address of the kernel's end."""
        return KERNEL_ADDRESS6

    def fetch(
        self, path: str, *, timeout: float = 30.0, family: int = 4, **settings: Any
    ) -> "Page":
        """GET `path` from the kernel's web server; `page.log` is the log of this fetch alone.

        `/bytes/N`, `/slow?seconds=S`, `/` and what that links to. `timeout` is how long (s) to wait
        for an answer at any point; `family` is 4 or 6, of IP; `settings` change the Config for this
        connection. Raises TimeoutError, ConnectionRefusedError, ConnectionResetError (its `page`
        holds what had arrived) and the like.
        """
        from .runtime.http import get

        if not path.startswith("/"):
            raise ValueError(f"{path!r} is no path: they begin with /, as /bytes/1000 does")
        if family not in (4, 6):
            raise ValueError(f"family={family!r} must be 4 for IPv4 or 6 for IPv6")
        address = KERNEL_ADDRESS if family == 4 else f"[{KERNEL_ADDRESS6}]"
        url = f"http://{address}{path}"
        return get(self, url, timeout=timeout, log=self.new_log(url=url), **settings)

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a program on the kernel's side and wait for it; arguments as of subprocess.run."""
        return self.namespace.run(argv, **options)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on the kernel's side; it ends with the lab at the latest."""
        return self.namespace.popen(argv, **options)

    def counters(self) -> dict[str, dict[str, int]]:
        """What the kernel's TCP counted: `lab.counters()["Tcp"]["InErrs"]`."""
        return self.namespace.counters()

    def close(self) -> None:
        """Reset what is open, end everything inside, and the network with it."""
        super().close()
        self.namespace.close()
