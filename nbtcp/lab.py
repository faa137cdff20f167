"""The lab: a private network, made by the program and gone with it, with the kernel's TCP at the
other end.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .config import Config
from .links.namespace import KERNEL_ADDRESS, OUR_ADDRESS, Namespace
from .links.path import Path
from .runtime.host import Host
from .runtime.loop import Loop, RealClock
from .trace.log import EventLog

if TYPE_CHECKING:
    from .runtime.http import Page

BATCH = 16  # packets read at once: more is faster, and blurs their times
HEADERS = 40  # octets of IPv4 and TCP header without options


class Lab(Host):
    """Our TCP at 10.0.0.2, the kernel's at 10.0.0.1 with a web server on port 80.

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
        config = config or Config()
        config = config.but(mss=min(config.mss, mtu - HEADERS))
        up, down = up or path, down or path
        self._meta = {
            "link": "lab",
            "began": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "seed": seed,
            "kernel_congestion": kernel_congestion,
            "mtu": mtu,
            "up": asdict(up or Path()),
            "down": asdict(down or Path()),
            "config": asdict(config),
        }
        self.namespace = Namespace(mtu=mtu, congestion=kernel_congestion)
        loop = Loop(RealClock())
        super().__init__(OUR_ADDRESS, loop, config=config, seed=seed, log=self.new_log())
        self.namespace.tun.batch = BATCH
        self.attach(self.namespace.tun, up, down)
        loop.mind_in_background()

    def __repr__(self) -> str:
        return f"<Lab: we {self.address}, the kernel {self.kernel_address}>"

    @property
    def kernel_address(self) -> str:
        """The address of the kernel's end."""
        return KERNEL_ADDRESS

    def new_log(self, **meta: Any) -> EventLog:
        """An empty log that knows of this lab's settings; for `connect(..., log=...)`."""
        return EventLog(**self._meta, **meta)

    def fetch(self, path: str, *, timeout: float = 30.0, **settings: Any) -> "Page":
        """GET `path` from the kernel's web server; `page.log` is the log of this fetch alone.

        `/bytes/N`, `/slow?seconds=S`, `/` and what that links to. `timeout` is how long (s) to wait
        for an answer at any point; `settings` change the Config for this connection. Raises
        TimeoutError, ConnectionRefusedError, ConnectionResetError (its `page` holds what had
        arrived) and the like.
        """
        from .runtime.http import get

        if not path.startswith("/"):
            raise ValueError(f"{path!r} is no path: they begin with /, as /bytes/1000 does")
        url = f"http://{KERNEL_ADDRESS}{path}"
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
