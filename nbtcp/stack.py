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
from itertools import chain

from .config import Config
from .tcp.connection import Connection, Observer
from .tcp.cookies import LIFETIME, PERIOD, initial_sequence_number, restore, timestamp
from .tcp.listener import Listener
from .tcp.output import cookie_for, reset_for
from .tcp.state import Cause, State
from .tcp.tcb import TICK
from .why import Why
from .wire import ip, scapy
from .wire import segment as struct_codec
from .wire.icmp import IcmpError, parse_icmp
from .wire.segment import RST, Segment, addresses, format_endpoint, is_ipv4, pack_flow, reverse_flow
from .wire.seq import MODULUS

EPHEMERAL_PORTS = range(49152, 65536)  # RFC 6335 6
ISN_TICK = 4_000  # ns: RFC 9293 3.4.1, MUST-8
ISN_STEP = 128_000  # between two connections on the same ports when the clock alone is too slow
MOST_PATH_MTUS = 1000
PATH_MTU_LIFETIME = 600 * 1_000_000_000  # ns: ten minutes (RFC 1191 6.3)
_CODECS = {"struct": (struct_codec.parse, struct_codec.build), "scapy": (scapy.parse, scapy.build)}


class Stack:
    """A host's TCP at one `address`, or at a sequence of them, of IPv4 and of IPv6.

    Connections are opened from the first address of the peer's family, and accepted at all of them,
    unless one is named.
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
        local_address: str | None = None,
        local_port: int | None = None,
        config: Config | None = None,
        observer: Observer | None = None,
    ) -> Connection:
        """Active OPEN to (address, port), from `local_address` if given (RFC 9293 MUST-43); the SYN
        leaves with the next `transmit`.

        Raises OSError: EADDRNOTAVAIL when the remote address can be nobody's (RFC 9293 MUST-46) or
        the local one is not ours, EAFNOSUPPORT when we have no address of its family, EADDRINUSE
        when the local port is taken; ValueError when an address or port is none at all.
        """
        _check_port(remote[1])
        destination = ip.pack_address(remote[0])
        if _is_nobodys(destination):
            reason = f"{remote[0]} is not one host's address: multicast, broadcast or unspecified"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        source = self._source(destination, local_address)
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

    def listen(self, port: int, backlog: int = 128, address: str | None = None) -> Listener:
        """Passive OPEN: SYNs for `port` are answered from now on, whatever connections the port has
        (RFC 9293 MUST-41, MUST-42); at one `address` of ours or at all (MUST-43).
        """
        _check_port(port)
        place = None if address is None else self._check_own(address)
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} has a listener already")
        listener = self._listeners[port] = Listener(port, max(1, backlog), place)
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
        except ip.WireError as fault:
            self._receive_other(packet, fault.why, now)
            return
        conn = self._connections.get(segment.flow)
        if conn is not None and conn.state is State.TIME_WAIT and self._reopens(conn, segment):
            conn.transition(Cause.TIME_WAIT_OVER, now)
        if conn is None or conn.state <= State.LISTEN:
            self._receive_unknown(segment, now)
        else:
            conn.receive(segment, now)

    def transmit(self, now: int) -> list[bytes]:
        """The IP packets to put on the link at `now`."""
        build, ready = self._build, self._ready
        packets = [build(reply) for reply in self._replies]
        self._replies.clear()
        while ready:
            conn = next(iter(ready))
            del ready[conn]
            packets += [build(segment) for segment in conn.transmit(now)]
            if conn.state <= State.LISTEN:
                self._forget(conn)
            else:
                self._schedule(conn)
        return packets

    def deadline(self) -> int | None:
        """When `handle_timer` is next due (ns), or None."""
        while self._wakeups:
            at, _, conn = self._wakeups[0]
            if conn.wake_at == at and conn.deadline() == at:
                return at
            heappop(self._wakeups)
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
            self._schedule(conn)

    # --- inside ---

    def _receive_other(self, packet: bytes, why: Why, now: int) -> None:
        """No segment that may be used: an ICMP error about one of ours, or nothing."""
        error = None
        if why is Why.NOT_TCP:
            try:
                error = parse_icmp(packet)
            except ip.WireError as fault:
                why = fault.why
        if error is not None:
            self._receive_icmp(error, now)
        elif self.observer is not None:
            self.observer.refused(self.address, None, why, now)

    def _receive_icmp(self, error: IcmpError, now: int) -> None:
        """RFC 9293 MUST-54: the error goes to the connection that sent what it quotes."""
        answers = reverse_flow(error.flow)
        conn = self._connections.get(answers)
        if conn is None or conn.state <= State.LISTEN:
            if self.observer is not None:
                self.observer.refused(self._host(answers), None, Why.ICMP, now)
            return
        mtu = conn.icmp(error, now)
        if mtu is not None:
            if len(self._path_mtus) >= MOST_PATH_MTUS:  # forgotten is learned again
                self._path_mtus.clear()
            self._path_mtus[addresses(error.flow)[1]] = mtu, now

    def _receive_unknown(self, segment: Segment, now: int) -> None:
        """No connection has this flow: it opens one, is answered without one, or dropped."""
        why, listener = self._judge(segment)
        reply = None
        if listener is not None and self._opens(segment, listener, why, now):
            return
        if listener is not None and why is Why.COOKIE:
            reply = self._cookie(segment, listener, now)
        elif why is Why.NO_CONNECTION and not segment.flags & RST:  # 3.10.7.1, CLOSED (L-1)
            reply = reset_for(segment, self.config.ttl)
        segment.why = why
        if reply is not None:
            self._replies.append(reply)
        if self.observer is not None:
            host = self._host(segment.flow)
            self.observer.refused(host, segment, why, now)
            if reply is not None:
                self.observer.replied(host, reply, now)

    def _judge(self, segment: Segment) -> tuple[Why, Listener | None]:
        """What becomes of a segment that is of no connection, and the listener that says so."""
        source, destination = addresses(segment.flow)
        if destination not in self._own or _is_nobodys(source):
            return Why.MISDIRECTED, None  # RFC 9293 MUST-57, MUST-63
        listener = self._listeners.get(int.from_bytes(segment.flow[-2:], "big"))
        if listener is not None and listener.address in (None, destination):
            return listener.judge(segment, self.config.syn_cookies), listener
        return Why.NO_CONNECTION, None

    def _reopens(self, conn: Connection, syn: Segment) -> bool:
        """A SYN for a listener of ours, on the ports of a connection in TIME-WAIT (SHLD-4)."""
        return self._judge(syn)[0] in (Why.SYN, Why.COOKIE) and conn.is_new_incarnation(syn)

    def _opens(self, segment: Segment, listener: Listener, why: Why, now: int) -> bool:
        """A SYN opens a connection, and so does an ACK that brings our cookie back."""
        syn = segment if why is Why.SYN else None
        if why is Why.NO_CONNECTION and now < listener.cookies_until and not listener.full:
            syn = restore(segment, self._secret, now)
        if syn is None:
            return False
        conn = self._new_connection(reverse_flow(syn.flow), self.config, self.observer, now)
        listener.add(conn)
        if syn is segment:
            conn.open_passively(listener, syn, now)
        else:
            conn.tcb.snd.iss = (segment.raw_ack - 1) % MODULUS
            conn.open_from_cookie(listener, syn, now)
            conn.receive(segment, now)
        return True

    def _cookie(self, syn: Segment, listener: Listener, now: int) -> Segment:
        """The SYN queue is full: answer, and remember nothing."""
        listener.cookies_until = now + LIFETIME * PERIOD
        iss = initial_sequence_number(syn, self._secret, now)
        value = timestamp(syn, now // TICK + self._timestamp_offset(reverse_flow(syn.flow)))
        return cookie_for(syn, iss, value, _for_family(syn.flow, self.config))

    def _host(self, flow: bytes) -> str:
        """Which of our addresses `flow` goes to; the first when it is none of them."""
        text = ip.format_address(addresses(flow)[1])
        return text if text in self.addresses else self.address

    def _new_connection(
        self, flow: bytes, config: Config, observer: Observer | None, now: int
    ) -> Connection:
        iss, offset = self._initial_sequence_number(flow, now), self._timestamp_offset(flow)
        answers = reverse_flow(flow)
        old = self._connections.get(answers)
        if old is not None:  # RFC 9293 MAY-2: begin above what the old one has used
            used = old.tcb.snd.nxt + old.tcb.snd.iss
            if 0 < (used - iss) % MODULUS < MODULUS // 2:
                iss = (used + ISN_STEP) % MODULUS
        config = _for_family(flow, config)
        conn = Connection(flow, config, iss, offset, self._ready, observer)
        mtu, since = self._path_mtus.get(addresses(flow)[1], (0, 0))
        if mtu and now - since < PATH_MTU_LIFETIME:
            conn.limit_path(mtu)
        self._connections[answers] = conn
        return conn

    def _check_own(self, address: str) -> bytes:
        """`address` packed; OSError when it is not ours."""
        packed = ip.pack_address(address)
        if packed not in self._own:
            reason = f"this host's address is {' and '.join(self.addresses)}, not {address}"
            raise OSError(errno.EADDRNOTAVAIL, reason)
        return packed

    def _source(self, destination: bytes, wanted: str | None) -> str:
        """Our address towards `destination`: the one that is wanted, else the first of its family,
        for IP knows one link (RFC 9293 MUST-44).
        """
        if wanted is not None:
            if len(self._check_own(wanted)) != len(destination):
                reason = f"no way from {wanted} to {ip.format_address(destination)}: two families"
                raise OSError(errno.EAFNOSUPPORT, reason)
            return wanted
        for own, text in zip(self._own, self.addresses, strict=True):
            if len(own) == len(destination):
                return text
        family = "IPv6" if len(destination) == ip.IPV6_ADDRESS else "IPv4"
        reason = f"{ip.format_address(destination)} is an {family} address, and this host has only "
        raise OSError(errno.EAFNOSUPPORT, reason + ", ".join(self.addresses))

    def _initial_sequence_number(self, flow: bytes, now: int) -> int:
        """ISN = M + F(localip, localport, remoteip, remoteport, secretkey) (RFC 6528 3,
        SHLD-1); who has no key cannot compute F (MUST-9).
        """
        f = blake2s(flow, digest_size=4, key=self._secret).digest()
        return (now // ISN_TICK + int.from_bytes(f, "big")) % MODULUS

    def _timestamp_offset(self, flow: bytes) -> int:
        """Differs from flow to flow, and stays for the next connection on it (RFC 7323 5.4)."""
        digest = blake2s(flow, digest_size=4, key=self._secret, person=b"tsval").digest()
        return int.from_bytes(digest, "big")

    def _free_port(self, source: str, remote: tuple[str, int]) -> int:
        """An ephemeral port, chosen at random (RFC 6056 3.3.1)."""
        first = self._random.randrange(len(EPHEMERAL_PORTS))
        for port in chain(EPHEMERAL_PORTS[first:], EPHEMERAL_PORTS[:first]):
            flow = pack_flow(remote, (source, port))
            if flow not in self._connections and port not in self._listeners:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"all ports to {format_endpoint(*remote)} are in use")

    def _schedule(self, conn: Connection) -> None:
        """See to it that the heap holds an entry no later than the connection's deadline."""
        due = conn.deadline()
        if due is not None and (conn.wake_at is None or due < conn.wake_at):
            conn.wake_at = due
            self._pushed += 1
            heappush(self._wakeups, (due, self._pushed, conn))

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


def _for_family(flow: bytes, config: Config) -> Config:
    return config if is_ipv4(flow) else _for_ipv6(config)


@lru_cache(maxsize=64)
def _for_ipv6(config: Config) -> Config:
    """With `mss` less by what the IPv6 header is longer than IPv4's.

    It stands for the MTU of the link, which carries both: packets of both are of one size (RFC 9293
    MUST-67).
    """
    return config.but(mss=max(64, config.mss - 20))


def _check_port(port: int) -> None:
    if not 0 < port < 65536:
        raise ValueError(f"port {port} does not lie between 1 and 65535")
