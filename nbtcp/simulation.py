"""A simulated network: two hosts joined by paths, on a virtual clock. No root, no waiting.

The stacks, the paths and the loop are those of the live links; only the clock and the wire differ.
One seed gives one log, byte for byte.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .config import Config
from .links.path import Path
from .links.sim import WireEnd
from .runtime.host import Host, offloads
from .runtime.loop import SECOND, Loop, VirtualClock
from .runtime.sockets import Socket
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


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ends of a simulated connection, to be driven by hand: sockets, the log of both hosts, and
    the client's host.

    Virtual time passes only while a call waits, and by `wait`.
    """

    client: Socket
    server: Socket
    log: EventLog
    host: Host = field(repr=False)

    def wait(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self.host.wait(seconds)


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

    def __repr__(self) -> str:
        return f"<Simulation of {self.client} and {self.server}, seed {self.seed}>"

    def hosts(
        self, *, server: Mapping[str, Any] | None = None, **settings: Any
    ) -> tuple[Host, Host]:
        """A new (client, server) on a new virtual clock, with one log; `settings` change the Config
        of both, `server` those of the server alone.
        """
        config = self.config.but(**settings)
        offloads(config, self.up, self.down)  # or cannot
        log = EventLog(
            seed=self.seed, up=asdict(self.up), down=asdict(self.down), config=asdict(config)
        )
        loop = Loop(VirtualClock())
        ours = Host(self.client, loop, config=config, seed=2 * self.seed, log=log)
        config = config.but(**server or {})
        theirs = Host(self.server, loop, config=config, seed=2 * self.seed + 1, log=log)
        up = ours.pipe(self.up, f"up {self.seed}")
        down = theirs.pipe(self.down, f"down {self.seed}")
        ours.attach(WireEnd(up, down))
        theirs.attach(WireEnd(down, up))
        return ours, theirs

    def pair(self, **settings: Any) -> Pair:
        """A connection that is open, as two sockets to write to and read from.

        `settings` as of `hosts`. Raises what `Host.connect` raises.
        """
        client, server = self.hosts(**settings)
        listener = server.listen(PORT)
        ours = client.connect((self.server, PORT))
        theirs, _ = listener.accept()
        return Pair(ours, theirs, client.log, client)

    def transfer(self, octets: int, *, limit: float = 3600.0, **settings: Any) -> Transfer:
        """The client sends `octets` to the server, and both close; at most `limit` virtual seconds.

        `settings` are those of `hosts`: `transfer(10_000_000, congestion="reno")`.
        """
        if not isinstance(octets, int) or octets < 0:
            raise ValueError(f"a transfer is of 0 octets or more, not {octets!r}")
        client, server = self.hosts(**settings)
        job = _Job(client, server, PORT, octets, client.stack.config)
        loop = client.loop
        with loop.lock:
            loop.run_until(job.advance, round(limit * SECOND))
        return job.outcome()

    def compete(self, *flows: Mapping[str, Any], seconds: float, **settings: Any) -> list[Transfer]:
        """Several connections from client to server over the one path, for so many virtual seconds.

        Each of `flows` has settings of its own beside the `settings` of all; and may have `start`
        (s, 0) and `octets` (by default, as many as go). One Transfer for each, all with one log:
        connections 1, 2, ... in the order they start, to ports 80, 81, ...
        `compete({"congestion": "reno"}, {"congestion": "cubic", "start": 5}, seconds=30)`
        """
        client, server = self.hosts(**settings)
        loop, jobs = client.loop, list[_Job]()

        def advance() -> bool:
            return all([job.advance() for job in jobs]) and len(jobs) == len(flows)

        with loop.lock:
            for flow in sorted(flows, key=lambda flow: float(flow.get("start", 0))):
                own = dict(flow)
                start, octets = own.pop("start", 0), own.pop("octets", None)
                loop.run_until(advance, round(start * SECOND))
                config = client.stack.config.but(**own)
                jobs.append(_Job(client, server, PORT + len(jobs), octets, config))
            loop.run_until(advance, round(seconds * SECOND))
        return [job.outcome() for job in jobs]


class _Job:
    """The two applications of a transfer: one writes, one reads, both close.

    `octets` is None for one that never ends.
    """

    def __init__(
        self, client: Host, server: Host, port: int, octets: int | None, config: Config
    ) -> None:
        self._loop, self._log = client.loop, client.log
        self._listener: Listener = server.stack.listen(port)
        self._began = self._loop.now()
        remote = (server.address, port)
        self._sender = client.stack.connect(remote, self._began, config=config)
        self._receiver: Connection | None = None
        self._left = self._octets = octets
        self._received = 0
        self._finished_at: int | None = None

    def advance(self) -> bool:
        """Do what can be done now; True when the transfer is over."""
        sender, now = self._sender, self._loop.now()
        if sender.error is not None:
            return True
        while self._left != 0 and (taken := sender.send(_CHUNK[: self._left], now)):
            if self._left is not None:
                self._left -= taken
        if self._left == 0 and sender.queue.fin is None and sender.synchronized:
            sender.shutdown(now)
        receiver = self._receiver = self._receiver or self._listener.accept()
        if receiver is None:
            return False
        self._received += len(receiver.recv(1 << 30, now))
        if not receiver.eof:
            return False
        if receiver.queue.fin is None and receiver.error is None:
            self._finished_at = now
            receiver.close(now)
        return sender.eof and receiver.queue.fin is not None and not receiver.queue.spans

    def outcome(self) -> Transfer:
        """What has come of it until now."""
        ended = self._loop.now() if self._finished_at is None else self._finished_at
        complete = self._octets is None or self._received == self._octets
        return Transfer(self._received, (ended - self._began) / SECOND, complete, self._log)
