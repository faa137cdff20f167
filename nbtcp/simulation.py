"""A simulated network: two hosts joined by paths, on a virtual clock. No root, no waiting.

The stacks, the paths and the loop are those of the live links; only the clock and the wire differ.
One seed gives one log, byte for byte.
"""

from dataclasses import asdict, dataclass
from typing import Any

from .config import Config
from .links.path import Path, Pipe
from .links.sim import WireEnd
from .runtime.host import Host
from .runtime.loop import SECOND, Loop, VirtualClock
from .tcp.connection import Connection
from .tcp.listener import Listener
from .trace.log import EventLog

CLIENT, SERVER, PORT = "10.0.0.1", "10.0.0.2", 80
CLIENT6, SERVER6 = "fd00::1", "fd00::2"
_CHUNK = bytes(range(256)) * 256


@dataclass(frozen=True, slots=True)
class Transfer:
    """A simulated transfer. `octets` arrived, in `duration` seconds of virtual time."""

    octets: int
    duration: float
    complete: bool
    log: EventLog

    @property
    def throughput(self) -> float:
        """Bits of data per second of virtual time."""
        return self.octets * 8 / self.duration if self.duration else 0.0

    def __repr__(self) -> str:
        end = "" if self.complete else ", not complete"
        return (
            f"<Transfer of {self.octets} octets in {self.duration:.3f} s, "
            f"{self.throughput / 1e6:.2f} Mbit/s{end}>"
        )


class Simulation:
    """A client (10.0.0.1) and a server (10.0.0.2) with a path between them.

    `path` impairs both directions; `up` (client to server) and `down` set them apart. With
    `family=6` they are fd00::1 and fd00::2. Every transfer begins anew, so the same call gives the
    same log.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        up: Path | None = None,
        down: Path | None = None,
        seed: int = 0,
        config: Config | None = None,
        family: int = 4,
    ) -> None:
        if family not in (4, 6):
            raise ValueError(f"family={family!r} must be 4 for IPv4 or 6 for IPv6")
        self.client, self.server = (CLIENT, SERVER) if family == 4 else (CLIENT6, SERVER6)
        self.up = up or path or Path()
        self.down = down or path or Path()
        self.seed = seed
        self.config = config or Config()

    def hosts(self, **settings: Any) -> tuple[Host, Host]:
        """A new (client, server) on a new virtual clock, with one log; `settings` change the
        Config.
        """
        config = self.config.but(**settings)
        log = EventLog(
            seed=self.seed, up=asdict(self.up), down=asdict(self.down), config=asdict(config)
        )
        loop = Loop(VirtualClock())
        client = Host(self.client, loop, config=config, seed=2 * self.seed, log=log)
        server = Host(self.server, loop, config=config, seed=2 * self.seed + 1, log=log)
        up = Pipe(self.up, f"up {self.seed}", client.drop, client.queued)
        down = Pipe(self.down, f"down {self.seed}", server.drop, server.queued)
        client.attach(WireEnd(up, down))
        server.attach(WireEnd(down, up))
        return client, server

    def transfer(self, octets: int, *, limit: float = 3600.0, **settings: Any) -> Transfer:
        """The client sends `octets` to the server, and both close; at most `limit` virtual seconds.

        `settings` are those of Config: `transfer(10_000_000, congestion="reno")`.
        """
        if not isinstance(octets, int) or octets < 0:
            raise ValueError(f"a transfer is of 0 octets or more, not {octets!r}")
        client, server = self.hosts(**settings)
        loop = client.loop
        listener = server.stack.listen(PORT)
        with loop.lock:
            conn = client.stack.connect((self.server, PORT), loop.now())
            job = _Job(conn, listener, octets)
            loop.run_until(lambda: job.advance(loop.now()), round(limit * SECOND))
        seconds = (job.finished_at or loop.now()) / SECOND
        return Transfer(job.received, seconds, job.received == octets, client.log)


class _Job:
    """The two applications of a transfer: one writes, one reads, both close."""

    def __init__(self, sender: Connection, listener: Listener, octets: int) -> None:
        self._sender = sender
        self._listener = listener
        self._receiver: Connection | None = None
        self._left = octets
        self.received = 0
        self.finished_at: int | None = None

    def advance(self, now: int) -> bool:
        """Do what can be done at `now`; True when the transfer is over."""
        sender = self._sender
        if sender.error is not None:
            return True
        while self._left and (taken := sender.send(_CHUNK[: self._left], now)):
            self._left -= taken
        if not self._left and sender.queue.fin is None and sender.synchronized:
            sender.shutdown(now)
        receiver = self._receiver = self._receiver or self._listener.accept()
        if receiver is None:
            return False
        self.received += len(receiver.recv(1 << 30, now))
        if not receiver.eof:
            return False
        if receiver.queue.fin is None and receiver.error is None:
            self.finished_at = now
            receiver.close(now)
        return sender.eof and receiver.queue.fin is not None and not receiver.queue.spans
