"""An address of our own on a LAN, as a link: ARP, and Ethernet frames on a card.

The address is probed before it is used, announced, answered for and defended (RFC 5227); the
neighbours and the gateway are found by ARP (RFC 826, RFC 1122 2.3.2). scapy reads and writes the
ARP frames; an IP packet only has its header put on. Like all links it never reads a clock.
"""

import errno
import os
import random
from collections import deque
from ipaddress import IPv4Address

from ..errors import MachineError, NbtcpError
from ..wire import ip
from ..wire.icmp import build_icmp
from .card import ARP, CHECKSUM_LEFT, IPV4, LARGEST_FRAME, NOTHING_LEFT, find, finish

SECOND = 1_000_000_000
# RFC 5227 1.1. The waits, in seconds, are multiplied by `patience`: in full, 4 to 7 s together,
# they are for a house full of hosts whose power has come back, and for switches that learn their
# ports anew. One host that begins on a LAN that is up has its answer within milliseconds (2.2).
PROBE_NUM, ANNOUNCE_NUM = 3, 2
PROBE_WAIT, PROBE_MIN, PROBE_MAX, ANNOUNCE_WAIT = 1.0, 1.0, 2.0, 2.0
ANNOUNCE_INTERVAL, DEFEND_INTERVAL = 2 * SECOND, 10 * SECOND
PATIENCE = 0.1  # 0.4 to 0.7 s
# RFC 1122 2.3.2.1: at most one request per second; who is known is asked again after a minute, by
# unicast, and forgotten if that stays without an answer.
ASK_NUM, ASK_INTERVAL, FRESH = 3, SECOND, 60 * SECOND
MOST_WAITING = 64  # packets for one neighbour that is not known yet

_REQUEST, _REPLY = 1, 2
_BROADCAST, _NO_MAC, _NO_ADDRESS = "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "0.0.0.0"
_IPV4_FRAME = IPV4.to_bytes(2, "big")
_IPV4_OVER_ETHERNET = (1, IPV4, 6, 4)  # how an ARP packet begins
_GONE = (errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.EBADF)


class _Neighbour:
    """Who is asked for, or known: then `header` stands before the packets that go there."""

    __slots__ = ("due", "header", "tries", "waiting")

    def __init__(self) -> None:
        self.header = b""
        self.tries = 0  # requests since the last answer
        self.due = 0  # when to ask (ns)
        self.waiting: list[bytes] = []


class Ethernet:
    """`address` on the LAN of an interface, as a link. It has to be claimed before it is used.

    `prefix` and `gateway` are those of the interface unless given, `mac` as of `Card.choose_mac`.
    MachineError, one line, when this machine cannot. `refused` counts packets that were not sent.
    """

    def __init__(
        self,
        interface: str,
        address: str,
        *,
        prefix: int | None = None,
        gateway: str | None = None,
        mac: str | None = None,
    ) -> None:
        ours = _parse(address)
        self.card = card = find(interface)
        self.network = network = card.network(ours, prefix)
        ways = card.gateways if gateway is None else [_parse(gateway)]
        way = next((way for way in ways if way in network and way != ours), None)
        if gateway is not None and way is None:
            raise MachineError(f"the gateway {gateway} is not another host in {network}")
        octets = card.choose_mac(ours, mac)
        self.address, self.gateway, self.mac = str(ours), str(way or ""), octets.hex(":")
        self.size, self.batch, self.refused = card.mtu, 128, 0
        self.claimed = False
        self._own, self._gateway = ours.packed, way.packed if way else b""
        self._network, self._mask = int(network.network_address), int(network.netmask)
        self._header = octets + _IPV4_FRAME  # behind the MAC of the destination
        self._neighbours: dict[bytes, _Neighbour] = {}
        self._asked: dict[bytes, _Neighbour] = {}  # those of them that have not answered yet
        self._plan: deque[tuple[int, bytes]] = deque()  # (wait, probe or announcement)
        self._next_step = 0
        self._defended = -DEFEND_INTERVAL
        self._socket = card.open(octets, self._own)
        self._fd = self._socket.fileno()

    def claim(self, now: int, patience: float = PATIENCE) -> None:
        """Begin to probe (RFC 5227 2.1): the address is ours when `claimed`.

        Until then `receive` has to be called when something has come and at `deadline`; it raises
        MachineError when somebody has the address. `patience` is a factor for the RFC's waits.
        """
        unit = patience * SECOND
        probe, announcement = self._arp(_REQUEST, _NO_ADDRESS, self.address), self._announcement()
        self._plan.append((round(random.uniform(0, PROBE_WAIT) * unit), probe))
        for _ in range(PROBE_NUM - 1):
            self._plan.append((round(random.uniform(PROBE_MIN, PROBE_MAX) * unit), probe))
        self._plan.append((round(ANNOUNCE_WAIT * unit), announcement))
        self._plan += [(ANNOUNCE_INTERVAL, announcement)] * (ANNOUNCE_NUM - 1)
        self._next_step = now + self._plan[0][0]

    # --- what a host asks before it connects ---

    def next_hop(self, address: str) -> bytes:
        """Who gets the packets for `address`. OSError, one line, when they cannot get there."""
        there = IPv4Address(address)
        if there.is_loopback or there in self.card.here or address == self.address:
            why = f"what {self.card.name} sends does not come back to it"
            raise OSError(errno.ENETUNREACH, f"{address} is on this machine, and {why}")
        hop = self._next_hop(there.packed)
        if not hop:
            why = f"{self.card.name} has no default route; give the gateway"
            raise OSError(errno.ENETUNREACH, f"{address} is not in {self.network}, and {why}")
        return hop

    def ask(self, hop: bytes, now: int) -> _Neighbour:
        """See to it that the MAC of a neighbour is known, or asked for."""
        neighbour = self._neighbours.setdefault(hop, _Neighbour())
        if hop not in self._asked and now >= neighbour.due:
            self._asked[hop] = neighbour
            self._request(hop, neighbour, now)
        return neighbour

    def is_asking(self, hop: bytes) -> bool:
        """Whether it is still open if this neighbour is there."""
        return hop in self._asked

    def check(self, hop: bytes) -> None:
        """OSError, one line, when a neighbour that was asked is not there."""
        if hop not in self._neighbours:
            who = "the gateway " if hop == self._gateway else ""
            why = f"{ASK_NUM} ARP requests on {self.card.name} had no answer; is it switched on?"
            text = f"{who}{ip.format_address(hop)} cannot be reached: {why}"
            raise OSError(errno.EHOSTUNREACH, text)

    # --- the contract with the loop ---

    def receive(self, now: int) -> list[bytes]:
        """The IP packets that are there, at most `batch`. NbtcpError when the link has ended."""
        packets: list[bytes] = []
        try:
            for _ in range(self.batch):
                frame = os.read(self._fd, LARGEST_FRAME)
                if frame[22:24] == _IPV4_FRAME:
                    packets.append(finish(frame) if frame[0] & CHECKSUM_LEFT else frame[24:])
                else:
                    self._hear(frame[10:], now)
        except BlockingIOError:
            pass
        except OSError as error:
            self._raise_if_gone(error)
        if self._plan or self._asked:
            packets += self._act(now)
        return packets

    def send(self, packets: list[bytes], now: int) -> None:
        """Put packets on the way; those for a neighbour that is not known yet wait."""
        for packet in packets:
            hop = self._next_hop(packet[16:20])
            neighbour = self._neighbours.get(hop)
            if hop and (neighbour is None or now >= neighbour.due):
                neighbour = self.ask(hop, now)
            if neighbour is not None and neighbour.header:
                self._put(neighbour.header + packet)
            elif neighbour is not None and len(neighbour.waiting) < MOST_WAITING:
                neighbour.waiting.append(packet)
            else:  # there is no gateway, or no room
                self.refused += 1

    def deadline(self) -> int | None:
        """When a probe, an announcement or a request is due (ns)."""
        due = [neighbour.due for neighbour in self._asked.values()]
        if self._plan:
            due.append(self._next_step)
        return min(due, default=None)

    def fileno(self) -> int:
        """The packet socket, or -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Close the socket, and with it all that it asked for. A second call does nothing."""
        self._socket.close()
        self._fd = -1

    # --- inside ---

    def _next_hop(self, address: bytes) -> bytes:
        here = int.from_bytes(address, "big") & self._mask == self._network
        return address if here else self._gateway

    def _act(self, now: int) -> list[bytes]:
        """Send what is due: the next of the plan, and requests that were not answered.

        Returns what our own stack has to know of neighbours that are not there: as Linux tells
        itself, an ICMP error, host unreachable, from our own address.
        """
        if self._plan and self._next_step <= now:  # one step only: answers have their time
            self._put(self._plan.popleft()[1])
            self.claimed = len(self._plan) < ANNOUNCE_NUM
            self._next_step = now + self._plan[0][0] if self._plan else 0
        lost = []
        for hop, neighbour in [item for item in self._asked.items() if item[1].due <= now]:
            if neighbour.tries < ASK_NUM:
                self._request(hop, neighbour, now)
            else:
                del self._asked[hop], self._neighbours[hop]
                lost += neighbour.waiting
        return [build_icmp(self.address, packet, 3, 1) for packet in lost]

    def _request(self, hop: bytes, neighbour: _Neighbour, now: int) -> None:
        """Ask everybody, or who has had this address so far (RFC 1122 2.3.2.1)."""
        to = neighbour.header[10:16].hex(":") or _BROADCAST
        neighbour.tries += 1
        neighbour.due = now + ASK_INTERVAL
        self._put(self._arp(_REQUEST, self.address, ip.format_address(hop), to=to))

    def _hear(self, frame: bytes, now: int) -> None:
        """An ARP frame of somebody else's (RFC 826); the socket leaves out our own."""
        from scapy.layers import l2

        try:
            arp = l2.Ether(frame)[l2.ARP]
            if (arp.hwtype, arp.ptype, arp.hwlen, arp.plen) != _IPV4_OVER_ETHERNET:
                return
            sender, target = IPv4Address(arp.psrc).packed, IPv4Address(arp.pdst).packed
            mac = bytes.fromhex(arp.hwsrc.replace(":", ""))
        except Exception:  # scapy's dissectors raise whatever such frames lead them to
            return
        is_probe = sender == bytes(4) and arp.op == _REQUEST
        if sender == self._own or (not self.claimed and is_probe and target == self._own):
            self._conflict(arp.hwsrc, now)
            return
        if mac[0] & 1 or not self.claimed:
            return
        if sender in self._neighbours or (target == self._own and self._next_hop(sender) == sender):
            self._learn(sender, mac, now)
        if arp.op == _REQUEST and target == self._own:
            self._put(self._arp(_REPLY, self.address, arp.psrc, arp.hwsrc, arp.hwsrc))

    def _learn(self, hop: bytes, mac: bytes, now: int) -> None:
        """A neighbour has said who it is: what has waited for that can go."""
        neighbour = self._neighbours.setdefault(hop, _Neighbour())
        self._asked.pop(hop, None)
        neighbour.header = NOTHING_LEFT + mac + self._header
        neighbour.due, neighbour.tries = now + FRESH, 0
        waiting, neighbour.waiting = neighbour.waiting, []
        for packet in waiting:
            self._put(neighbour.header + packet)

    def _conflict(self, mac: str, now: int) -> None:
        """Somebody else has our address, or wants it at the same time."""
        whose = f"{mac}, this machine's own card: another program" if mac == self.mac else mac
        if not self.claimed:
            raise MachineError(f"{self.address} is taken by {whose}: choose another address")
        if now < self._defended + DEFEND_INTERVAL:  # RFC 5227 2.4 (b)
            again = "has claimed it twice within ten seconds, so it is given up"
            raise NbtcpError(f"{self.address} is lost: {whose} {again}; choose another address")
        self._defended = now
        self._put(self._announcement())

    def _announcement(self) -> bytes:
        return self._arp(_REQUEST, self.address, self.address)

    def _arp(
        self, op: int, psrc: str, pdst: str, hwdst: str = _NO_MAC, to: str = _BROADCAST
    ) -> bytes:
        from scapy.layers import l2

        arp = l2.ARP(op=op, hwsrc=self.mac, psrc=psrc, hwdst=hwdst, pdst=pdst)
        return NOTHING_LEFT + bytes(l2.Ether(dst=to, src=self.mac, type=ARP) / arp)

    def _put(self, frame: bytes) -> None:
        """Give a frame to the card. What it refuses is dropped, as in a network, and counted."""
        try:
            os.write(self._fd, frame)
        except OSError as error:
            self._raise_if_gone(error)
            self.refused += 1

    def _raise_if_gone(self, error: OSError) -> None:
        name = self.card.name
        if error.errno in _GONE:
            why = "it was closed" if self._fd < 0 else f"{name} is down; `ip link set {name} up`"
            raise NbtcpError(f"the link on {name} has ended: {why}, and open a new one") from error


def _parse(address: str) -> IPv4Address:
    try:
        return IPv4Address(address)
    except ValueError:
        hint = "a LAN takes one of IPv4 (of IPv6 we have no neighbour discovery)"
        raise MachineError(f"{address!r} is no address such as 192.0.2.77: {hint}") from None
