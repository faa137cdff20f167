"""One direction of a network: rate, queue, delay and all that goes wrong, from a seeded generator.

`Path` describes; `Pipe` is one direction of it at work. A pipe is pure like the core: it has no
clock, packets and times go in, packets come out when they are due.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from ..errors import NbtcpError
from ..why import Why
from ..wire.ip import mark_congestion
from . import Link

SECOND = 1_000_000_000
DropObserver = Callable[[bytes, Why, int], None]
QueueObserver = Callable[[bytes, int, int], None]  # packet, how long it waits (ns), now


class PathError(NbtcpError, ValueError):
    """A path that cannot be."""


@dataclass(frozen=True, slots=True)
class Path:
    """A description of a network path; the same object may serve both directions and many runs.

    delay      seconds that a packet travels, one way
    loss       probability that a packet is lost, 0 to 1
    rate       bits per second, counted with IP headers; None is unlimited
    queue      packets that wait for the rate at most, the one being sent not counted; None is
               unlimited
    mark       packets waiting from which on those that enter are marked CE, if their transport
               understands it (RFC 3168); None is never
    reorder    probability that a packet is held up, and overtaken by others, for `held` seconds
    duplicate  probability that a packet arrives twice
    corrupt    probability that one bit of it is turned over
    drop       numbers of packets that are lost for certain, the first that enters being 1
    seed       of all that is random here; each direction has a generator of its own
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float | None = None
    queue: int | None = None
    mark: int | None = None
    reorder: float = 0.0
    held: float = 0.005
    duplicate: float = 0.0
    corrupt: float = 0.0
    drop: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("delay", "held"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise PathError(f"{name}={value} must not be negative or without end (seconds)")
        for name in ("loss", "reorder", "duplicate", "corrupt"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise PathError(f"{name}={value} must lie between 0 and 1")
        if self.rate is not None and not self.rate > 0:
            raise PathError(f"rate={self.rate} must be above 0 (bits per second)")
        for name in ("queue", "mark"):
            if (limit := getattr(self, name)) is not None and limit < 0:
                raise PathError(f"{name}={limit} must not be negative (packets)")


class Pipe:
    """One direction of a Path. `direction` names it, and gives it random numbers of its own."""

    __slots__ = (
        *("_busy_until", "_delay", "_departures", "_entered", "_held", "_moving", "_on_drop"),
        *("_on_queue", "_order", "_random", "path"),
    )

    def __init__(
        self,
        path: Path,
        direction: str,
        on_drop: DropObserver | None = None,
        on_queue: QueueObserver | None = None,
    ) -> None:
        self.path = path
        self._random = random.Random(f"{path.seed}/{direction}")
        self._delay = round(path.delay * SECOND)
        self._on_drop = on_drop
        self._on_queue = on_queue
        self._busy_until = 0  # when the link has sent all that waits
        self._departures: deque[int] = deque()  # when each packet in the queue begins to be sent
        self._moving: list[tuple[int, int, bytes]] = []  # heap of (arrival, order, packet)
        self._held = round(path.held * SECOND)
        self._entered = self._order = 0  # packets so far, and those that travel

    def send(self, packet: bytes, now: int) -> None:
        """A packet enters at `now`."""
        path = self.path
        departure = now
        self._entered += 1
        if path.rate is not None:
            waiting = self._departures
            while waiting and waiting[0] <= now:
                waiting.popleft()
            if path.queue is not None and len(waiting) >= path.queue and self._busy_until > now:
                self._drop(packet, Why.QUEUE_FULL, now)
                return
            if path.mark is not None and len(waiting) >= path.mark and self._busy_until > now:
                packet = mark_congestion(packet)
            begin = max(now, self._busy_until)
            if begin > now:
                waiting.append(begin)
            if self._on_queue is not None:
                self._on_queue(packet, begin - now, now)
            departure = self._busy_until = begin + round(len(packet) * 8 * SECOND / path.rate)
        if (path.loss and self._random.random() < path.loss) or self._entered in path.drop:
            self._drop(packet, Why.LOSS, now)
            return
        self._travel(packet, departure + self._delay)
        if path.duplicate and self._random.random() < path.duplicate:
            self._travel(packet, departure + self._delay)

    def receive(self, now: int) -> list[bytes]:
        """The packets that have arrived by `now`."""
        moving = self._moving
        arrived = []
        while moving and moving[0][0] <= now:
            arrived.append(heappop(moving)[2])
        return arrived

    def deadline(self) -> int | None:
        """When the next packet arrives."""
        return self._moving[0][0] if self._moving else None

    def _travel(self, packet: bytes, arrival: int) -> None:
        path, chance = self.path, self._random
        if path.reorder and chance.random() < path.reorder:
            arrival += self._held
        if path.corrupt and chance.random() < path.corrupt:
            bit = int(chance.random() * 8 * len(packet))  # one number, whatever the size
            damaged = bytearray(packet)
            damaged[bit // 8] ^= 1 << bit % 8
            packet = bytes(damaged)
        self._order += 1
        heappush(self._moving, (arrival, self._order, packet))

    def _drop(self, packet: bytes, why: Why, now: int) -> None:
        if self._on_drop is not None:
            self._on_drop(packet, why, now)


class Impaired:
    """A link with a pipe in each direction before it: `up` for what we send, `down` for what
    comes.
    """

    __slots__ = ("_down", "_link", "_up")

    def __init__(self, link: Link, up: Pipe, down: Pipe) -> None:
        self._link = link
        self._up = up
        self._down = down

    def receive(self, now: int) -> list[bytes]:
        for packet in self._link.receive(now):
            self._down.send(packet, now)
        if departed := self._up.receive(now):
            self._link.send(departed, now)
        return self._down.receive(now)

    def send(self, packets: list[bytes], now: int) -> None:
        for packet in packets:
            self._up.send(packet, now)
        if departed := self._up.receive(now):
            self._link.send(departed, now)

    def deadline(self) -> int | None:
        parts = (self._up, self._down, self._link)
        return min((at for part in parts if (at := part.deadline()) is not None), default=None)

    def fileno(self) -> int:
        return self._link.fileno()

    def close(self) -> None:
        self._link.close()
