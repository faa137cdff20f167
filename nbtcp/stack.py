"""One host: addresses, ports, demultiplexing, ISNs, ICMP, and RSTs for segments that are nobody's.

Driven by hand or by runtime/loop.py: `receive` takes packets, `transmit` gives packets, `deadline`
and `handle_timer` are its clock. It never blocks and never reads a clock itself.
"""

import errno
import random
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2s
from heapq import heappop, heappush

from .config import Config
from .tcp.connection import Connection, Observer
from .tcp.cookies import LIFETIME, PERIOD, initial_sequence_number, restore, timestamp
from .tcp.listener import Listener
from .tcp.output import cookie_for, reset_for
from .tcp.state import State
from .tcp.tcb import TICK
from .why import Why
from .wire import ip, scapy
from .wire import segment as struct_codec
from .wire.icmp import IcmpError, parse_icmp
from .wire.segment import (
    RST,
    Segment,
    addresses,
    endpoints,
    format_endpoint,
    pack_flow,
    reverse_flow,
)
from .wire.seq import MODULUS

EPHEMERAL_PORTS = range(49152, 65536)  # RFC 6335 6
ISN_TICK = 4_000  # ns: RFC 9293 3.4.1
ISN_STEP = 128_000  # between two connections on the same ports when the clock alone is too slow
MOST_PATH_MTUS = 1000
PATH_MTU_LIFETIME = 600 * 1_000_000_000  # ns: ten minutes (RFC 1191 6.3)
_CODECS = {"struct": (struct_codec.parse, struct_codec.build), "scapy": (scapy.parse, scapy.build)}


class Stack:
    """A host's TCP at one `address`, or at a sequence of them, of IPv4 and of IPv6.

    Connections are opened from the first address of the peer's family, and accepted at all of them.
    With a `seed` everything that is random elsewhere (ISNs, ports, timestamp offsets) follows from
    it; without, from the operating system. `observer` is told every segment and decision; an
    EventLog, usually.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        seed: int | None = None,
        observer: Observer | None = None,
        config: Config | None = None,
    ) -> None:
        given = [address] if isinstance(address, str) else address
        self._own = [ip.pack_address(text) for text in given]
        if not self._own:
            raise ValueError("a stack needs an address, such as 192.0.2.1 or 2001:db8::1")
        self.addresses = tuple(map(ip.format_address, self._own))
        self.config = config or Config()
        self.observer = observer
        self._parse, self._build = _CODECS[self.config.codec]
        self._random = random.Random(int(seed)) if seed is not None else random.SystemRandom()
        self._secret = self._random.randbytes(16)
        self._connections: dict[bytes, Connection] = {}  # by the flow of what the peer sends
        self._listeners: dict[int, Listener] = {}
        self._ready: dict[Connection, None] = {}  # those that may have something to send
        self._replies: list[Segment] = []  # RSTs for nobody's segments
        self._path_mtus: dict[bytes, tuple[int, int]] = {}  # by destination: (octets, since)
        self._wakeups: list[tuple[int, int, Connection]] = []  # heap; entries may be too early
        self._pushed = 0

    def __repr__(self) -> str:
        return f"<Stack {', '.join(self.addresses)}, {len(self._connections)} connections>"

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]

    # --- opening ---

    def connect(
        self,
        remote: tuple[str, int],
        now: int,
        *,
        local_port: int | None = None,
        config: Config | None = None,
        observer: Observer | None = None,
    ) -> Connection:
        """Active OPEN to (address, port); the SYN leaves with the next `transmit`.

        Raises OSError: EADDRNOTAVAIL when the remote address can be nobody's (RFC 9293 MUST-46),
        EAFNOSUPPORT when we have no address of its family, EADDRINUSE when the local port is taken;
        ValueError when an address or port is none at all.
        """
        _check_port(remote[1])
        destination = ip.pack_address(remote[0])
        if _is_nobodys(destination):
            reason = f"{remote[0]} is not one host's address: multicast, broadcast or unspecified"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        source = self._source(destination)
        if local_port is None:
            local_port = self._free_port(source, remote)
        _check_port(local_port)
        flow = pack_flow((source, local_port), remote)
        old = self._connections.get(reverse_flow(flow))
        if old is not None and old.state is not State.CLOSED:
            there = format_endpoint(*remote)
            reason = f"a connection from port {local_port} to {there} exists already"
            raise OSError(errno.EADDRINUSE, reason)
        conn = self._new_connection(flow, config or self.config, observer or self.observer, now)
        conn.open(now)
        return conn

    def listen(self, port: int, backlog: int = 128) -> Listener:
        """Passive OPEN: SYNs for `port` are answered from now on."""
        _check_port(port)
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} has a listener already")
        listener = self._listeners[port] = Listener(port, max(1, backlog))
        return listener

    def close_listener(self, listener: Listener, now: int) -> None:
        """End LISTEN; connections that nobody has accepted are reset."""
        listener.closed = True
        self._listeners.pop(listener.port, None)
        for conn in listener.waiting():
            conn.abort(now)

    def find(self, flow: bytes) -> Connection | None:
        """The connection whose peer sends segments of `flow`."""
        return self._connections.get(flow)

    @property
    def connections(self) -> list[Connection]:
        """All connections that are not CLOSED."""
        return [conn for conn in self._connections.values() if conn.state is not State.CLOSED]

    # --- the contract with whoever drives ---

    def receive(self, packet: bytes, now: int) -> None:
        """One IP packet arrived at `now` (ns). Never raises, whatever the bytes."""
        try:
            segment = self._parse(packet)
        except ip.WireError as problem:
            self._receive_other(packet, problem.why, now)
            return
        conn = self._connections.get(segment.flow)
        if conn is None or conn.state is State.CLOSED or conn.state is State.LISTEN:
            self._receive_unknown(segment, now)
            return
        if conn.state is State.TIME_WAIT and self._reopens(conn, segment):
            conn.leave_time_wait(now)
            self._receive_unknown(segment, now, conn.tcb.snd.nxt + conn.tcb.snd.iss)
            return
        conn.receive(segment, now)
        if conn.listener is not None:
            self._settle(conn)

    def transmit(self, now: int) -> list[bytes]:
        """The IP packets to put on the link at `now`."""
        build, ready = self._build, self._ready
        packets = [build(reply) for reply in self._replies]
        self._replies.clear()
        while ready:
            conn = next(iter(ready))
            del ready[conn]
            packets += [build(segment) for segment in conn.transmit(now)]
            if conn.state is State.CLOSED or conn.state is State.LISTEN:
                self._forget(conn)
            else:
                self._schedule(conn)
        return packets

    def deadline(self) -> int | None:
        """When `handle_timer` is next due (ns), or None."""
        wakeups = self._wakeups
        while wakeups:
            at, _, conn = wakeups[0]
            if conn.wake_at == at and conn.deadline() == at:
                return at
            heappop(wakeups)
            if conn.wake_at == at:  # the timer was moved or stopped since
                conn.wake_at = None
                self._schedule(conn)
        return None

    def due(self, now: int) -> bool:
        """True when `handle_timer` has something to do at `now`; cheaper than `deadline`."""
        if not self._wakeups or self._wakeups[0][0] > now:
            return False
        at = self.deadline()
        return at is not None and at <= now

    def handle_timer(self, now: int) -> None:
        """Let the connections whose timers are due act."""
        while self.due(now):
            conn = heappop(self._wakeups)[2]
            conn.wake_at = None
            conn.handle_timer(now)
            if conn.listener is not None:
                self._settle(conn)
            self._schedule(conn)

    # --- inside ---

    def _receive_other(self, packet: bytes, why: Why, now: int) -> None:
        """No segment that may be used: an ICMP error about one of ours, or nothing."""
        if why is Why.NOT_TCP:
            try:
                error = parse_icmp(packet)
            except ip.WireError as problem:
                why, error = problem.why, None
            if error is not None:
                self._receive_icmp(error, now)
                return
        if self.observer is not None:
            self.observer.refused(self.address, None, why, now)

    def _receive_icmp(self, error: IcmpError, now: int) -> None:
        """RFC 9293 MUST-54: the error goes to the connection that sent what it quotes."""
        conn = self._connections.get(reverse_flow(error.flow))
        if conn is None or conn.state is State.CLOSED or conn.state is State.LISTEN:
            if self.observer is not None:
                host = endpoints(error.flow)[0][0]
                host = host if host in self.addresses else self.address
                self.observer.refused(host, None, Why.ICMP, now)
            return
        mtu = conn.icmp(error, now)
        if mtu is not None:
            if len(self._path_mtus) >= MOST_PATH_MTUS:  # forgotten is learned again
                self._path_mtus.clear()
            self._path_mtus[addresses(error.flow)[1]] = mtu, now
        if conn.listener is not None:
            self._settle(conn)

    def _receive_unknown(self, segment: Segment, now: int, above: int | None = None) -> None:
        """No connection has this flow: a listener's SYN, or 3.10.7.1, CLOSED.

        `above` is a sequence number that the ISN has to exceed (RFC 9293 MAY-2).
        """
        why: Why | None = Why.NO_CONNECTION
        source, destination = addresses(segment.flow)
        if destination not in self._own or _is_nobodys(source):
            why = Why.MISDIRECTED  # RFC 9293 MUST-57, MUST-63
        else:
            port = int.from_bytes(segment.flow[-2:], "big")
            listener = self._listeners.get(port)
            if listener is not None:
                why = listener.refuses(segment)
                if why is None and self._listen(listener, segment, now, above):
                    return
                why = why or Why.BACKLOG_FULL
                if why is Why.NO_CONNECTION and self._open_from_cookie(listener, segment, now):
                    return
        segment.why = why or Why.NO_CONNECTION
        if why is Why.NO_CONNECTION and not segment.flags & RST:
            self._reply(segment, reset_for(segment, self.config.ttl), now)
        elif self.observer is not None:
            self.observer.refused(self._host(segment), segment, segment.why, now)

    def _reopens(self, conn: Connection, syn: Segment) -> bool:
        """A SYN for a listener of ours, on the ports of a connection in TIME-WAIT (RFC 6191)."""
        listener = self._listeners.get(int.from_bytes(syn.flow[-2:], "big"))
        if listener is None or listener.refuses(syn) is not None:
            return False
        return conn.is_new_incarnation(syn)

    def _listen(self, listener: Listener, syn: Segment, now: int, above: int | None) -> bool:
        """A SYN for a listener; False when its SYN queue is full and cookies are not wanted."""
        if not listener.flooded:
            self._open_passively(listener, syn, now, above)
        elif self.config.syn_cookies:
            self._send_cookie(listener, syn, now)
        else:
            return False
        return True

    def _open_passively(
        self, listener: Listener, syn: Segment, now: int, above: int | None = None
    ) -> None:
        conn = self._new_connection(reverse_flow(syn.flow), self.config, self.observer, now)
        if above is not None and 0 < (above - conn.tcb.snd.iss) % MODULUS < MODULUS // 2:
            conn.tcb.snd.iss = (above + ISN_STEP) % MODULUS
        listener.add(conn)
        conn.open_passively(listener, syn, now)

    def _send_cookie(self, listener: Listener, syn: Segment, now: int) -> None:
        """The SYN queue is full: answer, and remember nothing."""
        listener.cookies_until = now + LIFETIME * PERIOD
        iss = initial_sequence_number(syn, self._secret, now)
        value = timestamp(syn, now // TICK + self._timestamp_offset(reverse_flow(syn.flow)))
        syn.why = Why.COOKIE
        self._reply(syn, cookie_for(syn, iss, value, _config_for(syn.flow, self.config)), now)

    def _open_from_cookie(self, listener: Listener, ack: Segment, now: int) -> bool:
        """An ACK that brings our cookie back opens the connection that it stands for."""
        if now >= listener.cookies_until or listener.full:
            return False
        syn = restore(ack, self._secret, now)
        if syn is None:
            return False
        conn = self._new_connection(reverse_flow(ack.flow), self.config, self.observer, now)
        conn.tcb.snd.iss = (ack.raw_ack - 1) % MODULUS
        listener.add(conn)
        conn.open_from_cookie(listener, syn, now)
        conn.receive(ack, now)
        self._settle(conn)
        return True

    def _reply(self, segment: Segment, reply: Segment, now: int) -> None:
        """`segment` is of no connection, and this answers it."""
        self._replies.append(reply)
        if self.observer is not None:
            host = self._host(segment)
            self.observer.refused(host, segment, segment.why, now)
            self.observer.replied(host, reply, now)

    def _host(self, segment: Segment) -> str:
        """Which of our addresses a segment came to; the first when it is none of them."""
        text = segment.destination[0]
        return text if text in self.addresses else self.address

    def _settle(self, conn: Connection) -> None:
        """A connection in a SYN queue may have become established, or come to nothing."""
        listener: Listener = conn.listener
        if conn.synchronized:
            conn.listener = None
            listener.promote(conn)
        elif conn.state is State.CLOSED or conn.state is State.LISTEN:
            conn.listener = None
            listener.forget(conn)

    def _new_connection(
        self, flow: bytes, config: Config, observer: Observer | None, now: int
    ) -> Connection:
        offset = self._timestamp_offset(flow)
        iss = self._initial_sequence_number(flow, now)
        destination = addresses(flow)[1]
        conn = Connection(flow, _config_for(flow, config), iss, offset, self._ready, observer)
        if destination in self._path_mtus:
            mtu, since = self._path_mtus[destination]
            if now - since < PATH_MTU_LIFETIME:
                conn.limit_path(mtu)
            else:
                del self._path_mtus[destination]
        self._connections[reverse_flow(flow)] = conn
        return conn

    def _source(self, destination: bytes) -> str:
        """Our address towards `destination`: the first one of its family."""
        for own, text in zip(self._own, self.addresses, strict=True):
            if len(own) == len(destination):
                return text
        family = "IPv6" if len(destination) == ip.IPV6_ADDRESS else "IPv4"
        there, here = ip.format_address(destination), ", ".join(self.addresses)
        reason = f"{there} is an {family} address, and this host has only {here}"
        raise OSError(errno.EAFNOSUPPORT, reason)

    def _initial_sequence_number(self, flow: bytes, now: int) -> int:
        """ISN = M + F(localip, localport, remoteip, remoteport, secretkey) (RFC 6528 3)."""
        f = blake2s(flow, digest_size=4, key=self._secret).digest()
        return (now // ISN_TICK + int.from_bytes(f, "big")) % MODULUS

    def _timestamp_offset(self, flow: bytes) -> int:
        """Differs from flow to flow, and stays for the next connection on it (RFC 7323 5.4)."""
        digest = blake2s(flow, digest_size=4, key=self._secret, person=b"tsval").digest()
        return int.from_bytes(digest, "big")

    def _free_port(self, source: str, remote: tuple[str, int]) -> int:
        """An ephemeral port, chosen at random (RFC 6056 3.3.1)."""
        first = self._random.randrange(len(EPHEMERAL_PORTS))
        for i in range(len(EPHEMERAL_PORTS)):
            port = EPHEMERAL_PORTS[(first + i) % len(EPHEMERAL_PORTS)]
            flow = pack_flow(remote, (source, port))
            if flow not in self._connections and port not in self._listeners:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"all ports to {format_endpoint(*remote)} are in use")

    def _schedule(self, conn: Connection) -> None:
        """See to it that the heap holds an entry no later than the connection's deadline."""
        due = conn.deadline()
        if due is not None and (conn.wake_at is None or due < conn.wake_at):
            self._push(conn, due)

    def _push(self, conn: Connection, at: int) -> None:
        conn.wake_at = at
        self._pushed += 1
        heappush(self._wakeups, (at, self._pushed, conn))

    def _forget(self, conn: Connection) -> None:
        flow = reverse_flow(conn.flow)
        if self._connections.get(flow) is conn:  # not if the same ports were opened again meanwhile
            del self._connections[flow]
        conn.wake_at = None


def _is_nobodys(address: bytes) -> bool:
    """True for what no single host may send from: multicast, broadcast, unspecified.

    In IPv6 also an IPv4 address in disguise, which never is on a wire (RFC 4291 2.5.5.2).
    """
    if len(address) == ip.IPV4_ADDRESS:
        return address[0] >= 224 or address == bytes(4)
    return address[0] == 0xFF or address == bytes(16) or address[:12] == ip.IPV4_MAPPED


def _config_for(flow: bytes, config: Config) -> Config:
    """The settings of a connection: with IPv6, `mss` is less by what the IP header is longer.

    It stands for the MTU of the link, which carries both: packets of both are of one size (RFC 9293
    MUST-67).
    """
    return config if len(flow) == 12 else _with_mss(config, max(64, config.mss - 20))


@lru_cache(maxsize=64)
def _with_mss(config: Config, mss: int) -> Config:
    return config.but(mss=mss)


def _check_port(port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"port {port} does not lie between 1 and 65535")
