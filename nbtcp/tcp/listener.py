"""A port in LISTEN: SYN queue, accept queue, and what becomes of a segment (RFC 9293 3.10.7.2,
L-2).

Each queue holds `backlog` connections. When the accept queue is full SYNs are dropped; when only
the SYN queue is, SYN cookies take its place (RFC 4987).
"""

from collections import deque
from collections.abc import Callable

from ..why import Why
from ..wire.segment import ACK, RST, SYN, Segment
from .connection import Connection
from .state import State


class Listener:
    """Made by `Stack.listen`. Connections that the peer has acknowledged wait to be accepted.

    `address` is the one of ours at which it answers, packed; None: all of them.
    """

    __slots__ = (
        *("_accepted", "_embryos", "address", "backlog", "closed", "cookies_until", "port"),
        "watch",
    )

    def __init__(self, port: int, backlog: int, address: bytes | None = None) -> None:
        self.port = port
        self.address = address
        self.backlog = backlog
        self.closed = False
        self.cookies_until = 0  # until then (ns) an ACK for no connection may hold a cookie
        self.watch: Callable[[], None] | None = None  # called when a connection can be accepted
        self._accepted: deque[Connection] = deque()
        self._embryos: dict[Connection, None] = {}

    def __repr__(self) -> str:
        return f"<Listener port {self.port}, {len(self._accepted)} to accept>"

    def __len__(self) -> int:
        """Connections that `accept` would return."""
        return len(self._accepted)

    def accept(self) -> Connection | None:
        """The oldest established connection nobody has taken yet."""
        return self._accepted.popleft() if self._accepted else None

    def judge(self, segment: Segment, cookies: bool) -> Why:
        """First, second and fourth step of 3.10.7.2: what becomes of `segment`.

        SYN opens a connection; NO_CONNECTION calls for a RST, and COOKIE, where `cookies` are
        wanted, for a SYN cookie; the others are dropped.
        """
        if segment.flags & RST:
            return Why.RST
        if segment.flags & ACK:
            return Why.NO_CONNECTION
        if not segment.flags & SYN:
            return Why.NOT_SYN
        if len(self._embryos) < self.backlog and not self.full:
            return Why.SYN
        return Why.COOKIE if cookies and not self.full else Why.BACKLOG_FULL

    @property
    def full(self) -> bool:
        """True while the accept queue is full."""
        return len(self._accepted) >= self.backlog

    def add(self, embryo: Connection) -> None:
        """A connection that goes to SYN-RECEIVED."""
        self._embryos[embryo] = None

    def settle(self, embryo: Connection) -> None:
        """A connection in the SYN queue may be established now, or have come to nothing."""
        if embryo.synchronized:
            self._accepted.append(embryo)
            if self.watch is not None:
                self.watch()
        elif embryo.state > State.LISTEN:
            return
        embryo.listener = None
        del self._embryos[embryo]

    def waiting(self) -> list[Connection]:
        """All connections that nobody has accepted, established or not."""
        return [*self._embryos, *self._accepted]
