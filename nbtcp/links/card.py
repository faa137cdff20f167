"""A network card as a place for a host of ours: what the kernel says of it, a packet socket on it.

Nothing of the machine's network changes: what the socket asks for, a promiscuous card, goes with
it, however the process ends.
Sources: packet(7), the kernel's Documentation/networking/filter.rst and linux/virtio_net.h.
"""

import os
import socket
import warnings
from array import array
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from struct import pack, unpack_from

from ..errors import MachineError
from ..wire import ip

IPV4, ARP = 0x0800, 0x0806  # EtherTypes
# Before each frame stands a virtio_net_hdr: zeros, or what its sender has left undone.
NOTHING_LEFT, CHECKSUM_LEFT = bytes(10), 1
LARGEST_FRAME = 10 + 14 + 65535
SEND_BUFFER, RECEIVE_BUFFER = 4 << 20, 16 << 20  # octets as the kernel counts them

_ETHERNET, _UP, _NO_ARP, _CARRIER = 1, 0x1, 0x80, 0x10000  # ARPHRD_ETHER, flags of an interface
# Of socket(7) and packet(7); Python has no names for them.
_ATTACH_FILTER, _SEND_BUFFER_FORCE, _RECEIVE_BUFFER_FORCE = 26, 32, 33
_SOL_PACKET, _ADD_MEMBERSHIP, _VIRTIO_HEADER, _PROMISCUOUS, _ALL_PROTOCOLS = 263, 1, 15, 1, 3


@dataclass(frozen=True, slots=True)
class Card:
    """An Ethernet interface; `here` is all IPv4 addresses of the machine."""

    name: str
    index: int
    mac: bytes
    mtu: int
    networks: tuple[IPv4Network, ...]
    gateways: tuple[IPv4Address, ...]
    here: frozenset[IPv4Address]

    def network(self, address: IPv4Address, prefix: int | None) -> IPv4Network:
        """The network of `address`. MachineError when a host of ours cannot have it."""
        found = [network for network in self.networks if address in network]
        if prefix is not None:
            found = [IPv4Network((address, prefix), strict=False)]
        if not found:
            has = " and ".join(map(str, self.networks)) or "no IPv4 network"
            hint = "choose one from there, or give the prefix, such as 24"
            raise MachineError(f"{address} is not on {self.name}, which has {has}; {hint}")
        network = max(found, key=lambda network: network.prefixlen)
        ends = network.network_address, network.broadcast_address
        if address in ends and network.prefixlen < 31:
            raise MachineError(f"{address} is no host's address in {network}: choose another")
        if address in self.here:
            why = "its kernel would answer too; choose one that is free"
            raise MachineError(f"{address} is this machine's own address: {why}")
        return network

    def choose_mac(self, address: IPv4Address, wanted: str | None) -> bytes:
        """The card's for None, one for `address` for "own", or what the text says.

        A kernel that forwards would forward our packets too if they came to the card's, so there
        None is as "own". Warns where a MAC that is not the card's may not work.
        """
        if wanted is None and not self._forwards():
            return self.mac
        if wanted is None or wanted == "own":  # the same each time, for neighbours remember it
            octets = blake2s(self.mac + address.packed, digest_size=6).digest()
            mac = bytes([octets[0] & 0xFC | 2]) + octets[1:]  # locally administered, unicast
        else:
            mac = parse_mac(wanted)
        if mac == self.mac and self._forwards():
            why = "this machine forwards, and would forward our packets too"
            raise MachineError(f'{wanted} is the MAC of {self.name}: {why}; use mac="own"')
        if mac != self.mac and self._is_wireless():
            why = "access points drop what comes from a MAC that has not joined them"
            warnings.warn(f"{self.name} is Wi-Fi: {why}, as {mac.hex(':')} has not", stacklevel=4)
        return mac

    def open(self, mac: bytes, address: bytes) -> socket.socket:
        """A packet socket that hears ARP and what is for us, and nothing else before."""
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError as error:
            raise MachineError(
                f"user {os.geteuid()} may not open a packet socket (no CAP_NET_RAW); "
                "run as root, or start the container with `--cap-add NET_RAW`"
            ) from error
        try:
            attach_filter(sock, mac, address)
            sock.setsockopt(_SOL_PACKET, _VIRTIO_HEADER, 1)
            with suppress(PermissionError):  # those that it has will do
                sock.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER_FORCE, SEND_BUFFER)
                sock.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, RECEIVE_BUFFER)
            if mac != self.mac:
                membership = pack("iHH8x", self.index, _PROMISCUOUS, 0)
                sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
            sock.bind((self.name, _ALL_PROTOCOLS))
        except OSError as error:
            sock.close()
            raise MachineError(f"{self.name} cannot be used: {error.strerror}") from error
        return sock

    def _forwards(self) -> bool:
        path = Path("/proc/sys/net/ipv4/conf", self.name, "forwarding")
        return path.read_text().strip() == "1"

    def _is_wireless(self) -> bool:
        folder = Path("/sys/class/net", self.name)
        return (folder / "wireless").exists() or (folder / "phy80211").exists()


def find(name: str) -> Card:
    """Ask the kernel about an interface. MachineError when it has no ARP, or is down."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as apart:  # pyroute2 does not run where an event loop runs
        return apart.submit(_find, name).result()


def _find(name: str) -> Card:
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        links = {link.get_attr("IFLA_IFNAME"): link for link in kernel.get_links()}
        addresses = [
            (IPv4Interface((found.get_attr("IFA_LOCAL"), found["prefixlen"])), found["index"])
            for found in kernel.get_addr(family=socket.AF_INET)
        ]
        routes = list(kernel.get_default_routes(family=socket.AF_INET))
    if name not in links:
        raise MachineError(f"there is no interface {name!r}; there are {', '.join(sorted(links))}")
    link = links[name]
    index, flags = link["index"], link["flags"]
    for wrong, what in (
        (link["ifi_type"] != _ETHERNET or flags & _NO_ARP, "has no ARP: use an Ethernet card"),
        (not flags & _UP, f"is down: bring it up with `ip link set {name} up`"),
        (not flags & _CARRIER, "has no carrier: is its cable in, or its Wi-Fi joined?"),
    ):
        if wrong:
            raise MachineError(f"{name} {what}")
    routes.sort(key=lambda route: route.get_attr("RTA_PRIORITY") or 0)
    gateways = [r.get_attr("RTA_GATEWAY") for r in routes if r.get_attr("RTA_OIF") == index]
    return Card(
        name,
        index,
        parse_mac(link.get_attr("IFLA_ADDRESS")),
        link.get_attr("IFLA_MTU"),
        tuple(address.network for address, on in addresses if on == index),
        tuple(IPv4Address(gateway) for gateway in gateways if gateway),
        frozenset(address.ip for address, _ in addresses),
    )


def parse_mac(text: str) -> bytes:
    """The six octets of a MAC that a host may have; MachineError for other texts."""
    with suppress(ValueError):
        mac = bytes.fromhex(text.replace(":", ""))
        if len(mac) == 6 and not mac[0] & 1 and any(mac):
            return mac
    hint = 'such as 02:00:00:00:00:77, or "own"'
    raise MachineError(f"{text!r} is no MAC that a host may have, {hint}")


def attach_filter(sock: socket.socket, mac: bytes, address: bytes) -> None:
    """Have the kernel drop what is not for us, by a program of classic BPF.

    What belongs to a VLAN is not for us, nor are frames of ours that somebody sends back; all ARP
    is, and IPv4 for our address and MAC. Frames that this machine sends count as well: another
    program here may be our neighbour.
    """
    word, half, equal, any_bit, end = 0x20, 0x28, 0x15, 0x45, 0x06  # LD W, LD H, JEQ, JSET, RET
    packet_type, vlan_tag, outgoing = 0xFFFFF004, 0xFFFFF02C, 4  # SKF_AD_..., PACKET_OUTGOING
    accept, drop = -2, -1
    high, low = unpack_from("!LH", mac)
    steps = (  # load this, compare it in this way with that; the next step if so, and if not
        (word, vlan_tag, any_bit, 0xFFF, drop, 1),
        (word, packet_type, equal, outgoing, 4, 2),
        (word, 6, equal, high, 3, 4),
        (half, 10, equal, low, drop, 4),
        (half, 12, equal, ARP, accept, 5),
        (half, 12, equal, IPV4, 6, drop),
        (word, 30, equal, int.from_bytes(address, "big"), 7, drop),
        (word, 0, equal, high, 8, drop),
        (half, 4, equal, low, accept, drop),
    )
    length = 2 * len(steps) + 2
    code = b""
    for number, (load, offset, compare, value, *targets) in enumerate(steps):
        jumps = [(2 * to if to >= 0 else length + to) - 2 * number - 2 for to in targets]
        code += pack("=HBBIHBBI", load, 0, 0, offset, compare, *jumps, value)
    program = array("B", code + pack("=HBBIHBBI", end, 0, 0, 0xFFFFFFFF, end, 0, 0, 0))
    where = pack("HP", length, program.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, where)


def finish(frame: bytes) -> bytes:
    """The packet of a frame whose checksum is not made yet (RFC 1071).

    A kernel leaves that to the card: ours for packets that have come in parts and were joined,
    another one's when its card is the other end of a virtual cable. The field holds the sum of the
    pseudo-header.
    """
    start, offset = unpack_from("=HH", frame, 6)
    start += len(NOTHING_LEFT)
    check = ip.checksum(ip.ones_sum(frame[start:])).to_bytes(2, "big")
    return frame[24 : start + offset] + check + frame[start + offset + 2 :]
