"""The machine's own internet access as a link: a TUN device, forwarding, and a masquerade rule.

The kernel is the router: it forwards what comes out of the device, with its own address written
over ours. For that it is asked, by netlink, for a pair of addresses on our device, forwarding on
its interfaces, and one nftables table, named after device and process. Nothing of anybody else's is
touched. The device ends with the process, and so does the table, which the kernel binds to our
socket. Forwarding has to be undone: what was turned on is noted in /run/nbtcp before it is, for
whoever ends, starts or cleans up after this process.

pyroute2 makes and reads the messages. Its sockets are not used: each wants to run an asyncio loop
of its own, which fails in a notebook's cell, where one runs already.
Sources: rtnetlink(7), nft(8), the kernel's nf_tables.h and Documentation/networking/ip-sysctl.rst.
"""

import atexit
import contextlib
import errno
import fcntl
import ipaddress
import os
import re
import signal
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import MachineError
from ..wire.segment import SYN, Segment, build, pack_flow
from .tun import Tun

PREFIX = "nbtcp"  # of the names of our devices and tables
FOLDER = Path("/run/nbtcp")
# For benchmarks (RFC 2544) and for carriers (RFC 6598): hosts are seldom part of them.
POOLS = ("198.18.0.0/15", "100.64.0.0/10")
LARGEST_MTU = 1500  # octets
QUEUE_LENGTH = 10_000  # packets that wait for us: a large window at once

_SOMEWHERE = "1.1.1.1"  # the kernel is asked for the way there; nothing is sent
_WIDE = 8  # a route with a shorter prefix is the way to everywhere, not to somebody's network
_CONF = Path("/proc/sys/net/ipv4/conf")
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers

# From the kernel's netlink.h, nfnetlink.h, nf_tables.h and netfilter.h.
_NETFILTER, _ERROR, _DONE, _DUMP, _NEW = 12, 2, 3, 0x300, 0xC00
_NFTABLES, _BATCH_BEGIN, _BATCH_END = 10, 16, 17
_OWNED = 2  # a table that ends with the socket, since Linux 5.12
_NO_NFTABLES = (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)
_FORWARD, _POSTROUTING = 2, 4  # hooks
_LOCAL = 2  # the type of routes to this machine itself
_NAT, _LATE = 100, 1000  # priorities: where source NAT belongs; behind all usual filters
_FAMILIES = {1: "inet", 2: "ip"}  # those that see forwarded IPv4


class Nat:
    """A TUN device of ours whose other end is this machine, as a router that masquerades.

    Attributes: `link`, `address` (ours), `kernel_address`, `uplink` (the interface of the default
    route), `mtu` (octets). MachineError, one line, when this machine or user cannot.
    """

    def __init__(self) -> None:
        with _alone():  # the device is what tells others that we are here
            self.link = _Link(Tun.open(f"{PREFIX}%d"))
            self._end = weakref.finalize(self, self.link.close)
            self._end.atexit = False  # as `_undo_all` runs then
            try:
                _swap_handlers(signal.SIG_DFL, _on_signal)
                _clean()
                self._open()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Undo everything, device included. A second call does nothing."""
        self.link.close()

    def check(self, remote: tuple[str, int], patience: float = 0.05) -> None:
        """Send a SYN to `remote` that ends at the next router, and see whether it is forwarded.

        MachineError after `patience` (s) says who on this machine is in the way.
        """
        if _route_to(remote[0])["type"] == _LOCAL:
            return
        before = self.passed()
        flow = pack_flow((self.address, 1), remote)
        self.link.send([build(Segment(flow, SYN, 0, 0, 0, ttl=2))], 0)
        end = time.monotonic() + patience  # mostly the kernel has decided when the write returns
        while self.passed() == before:
            if time.monotonic() > end:
                raise MachineError(_in_the_way(filters()))
            time.sleep(0.005)

    def passed(self) -> int:
        """How many packets of ours the kernel has forwarded."""
        rules = _nft_list("rule", table=self.link.table, chain="forward")
        expressions = [e for rule in rules for e in rule.get_attr("NFTA_RULE_EXPRESSIONS")]
        counters = [e for e in expressions if e.get_attr("NFTA_EXPR_NAME") == "counter"]
        return sum(e.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS") for e in counters)

    def _open(self) -> None:
        tun, link = self.link.tun, self.link
        with _said("there is no way into the internet ({}): this machine needs a default route"):
            self.uplink, mtu = _uplink()
        self.mtu = tun.size = min(mtu, LARGEST_MTU)
        self.kernel_address, self.address = free_pair(_routes())
        with _said(
            f"the device {tun.name} cannot be set up ({{}}); is another program changing it?"
        ):
            link.index = socket.if_nametoindex(tun.name)
            _set_up(tun.name, link.index, self.mtu, self.kernel_address, self.address)
        forwarding = _note_forwarding()
        with _said(
            "the kernel refuses a masquerade rule ({}): it needs nftables; "
            "try `modprobe -a nf_tables nft_chain_nat nft_masq`"
        ):
            link.owner = _make_table(link.table, self.address, forwarding)
        with _said(
            "forwarding cannot be turned on ({}); turn it on outside with "
            "`sysctl net.ipv4.ip_forward=1`, or start the container with `--privileged`"
        ):
            for interface in (*forwarding, tun.name):
                _set_forwarding(interface, "1")


def clean() -> list[str]:
    """Undo what killed processes have left; returns what was undone. MachineError if not root."""
    with _alone(), _said("leftovers cannot be undone ({}): run as root"):
        return _clean()


def filters() -> list[str]:
    """Chains that may refuse what is forwarded: those with policy drop or, without any, all."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for chain in _nft_list("chain", family=socket.AF_UNSPEC):
        family, hook = _FAMILIES.get(chain["nfgen_family"]), chain.get_attr("NFTA_CHAIN_HOOK")
        table, name = chain.get_attr("NFTA_CHAIN_TABLE"), chain.get_attr("NFTA_CHAIN_NAME")
        is_ours = _is_device(table.partition("-")[0])
        if family and hook and hook.get_attr("NFTA_HOOK_HOOKNUM") == _FORWARD and not is_ours:
            found[chain.get_attr("NFTA_CHAIN_POLICY") == 0].append(f"{family} {table} {name}")
    return found[True] or found[False]


def free_pair(routes: Iterable[ipaddress.IPv4Network]) -> tuple[str, str]:
    """Two addresses of a /30 that no route covers but default routes; MachineError if none."""
    taken = [route for route in routes if route.prefixlen >= _WIDE]
    for pool in map(ipaddress.IPv4Network, POOLS):
        inside = [route for route in taken if route.overlaps(pool)]
        if any(pool.subnet_of(route) for route in inside):
            continue
        for pair in pool.subnets(new_prefix=30):
            if not any(pair.overlaps(route) for route in inside):
                return str(pair[1]), str(pair[2])
    raise MachineError(f"no address is free: this machine has routes to {' and '.join(POOLS)}")


# ---- doing and undoing


class _Link:
    """The device as a link, and what has to be undone; knows no Nat, so that a Nat is collected."""

    def __init__(self, tun: Tun) -> None:
        self.tun = tun
        self.receive, self.send = tun.receive, tun.send
        self.deadline, self.fileno = tun.deadline, tun.fileno
        self.index = 0  # of the device
        # Not the device's name alone: others may make a device of this name while we end.
        self.table = f"{tun.name}-{os.getpid()}"
        self.owner: socket.socket | None = None  # the table ends with it
        _links.add(self)

    def close(self) -> None:
        _undo(self)

    def let_go(self) -> None:
        self.tun.close()
        if self.owner is not None:
            self.owner.close()


_links: set[_Link] = set()
_mutex = threading.RLock()
_inside: list[int] = []  # the descriptor of /run/nbtcp, while it is locked


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread of one process at a time, on this machine.

    A signal or the garbage collector may bring a thread that is inside here once more. It goes in:
    each step leaves something that `_clean` can undo.
    """
    with _mutex:
        if _inside:
            yield
            return
        with _said(f"{FOLDER} cannot be used ({{}}): a way into the internet needs root"):
            FOLDER.mkdir(exist_ok=True)
            _inside.append(os.open(FOLDER, os.O_RDONLY | os.O_CLOEXEC))
        try:
            fcntl.flock(_inside[0], fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(_inside[0], fcntl.LOCK_UN)  # a forked child may hold the file open
            os.close(_inside.pop())


def _undo(link: _Link) -> None:
    if link not in _links:  # done already, or this is a forked child
        return
    with _alone():
        with contextlib.suppress(OSError):  # a thread that reads from the device keeps it alive
            _routing("del", "link", index=link.index)
        link.let_go()
        _clean()
        _links.discard(link)
    if not _links:
        _swap_handlers(_on_signal, signal.SIG_DFL)


@atexit.register
def _undo_all() -> None:
    for link in list(_links):
        _undo(link)


def _clean() -> list[str]:
    """Remove tables whose device is gone, and forwarding when no device is left."""
    devices = [name for _, name in socket.if_nameindex() if _is_device(name)]
    tables = [table.get_attr("NFTA_TABLE_NAME") for table in _nft_list("table")]
    undone = []
    for name in tables:
        device, _, pid = name.partition("-")
        if _is_device(device) and device not in devices and pid.isdigit():
            # These two say that its process is just ending, and takes it along.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                _nft_do([_nft("del", "table", name=name)]).close()
                undone.append(f"the nftables table {name}")
    if not devices:
        for name, was in _noted().items():
            # When somebody has changed forwarding for all since then, it is theirs.
            if _forwarding(name) == "1" and _forwarding("all") == was:
                _set_forwarding(name, "0")
                undone.append(f"forwarding of {name}")
        _notes().unlink(missing_ok=True)
    return undone


def _swap_handlers(old: _Handler, new: _Handler) -> None:
    """Undo before a signal ends the process. Where somebody handles it, the end is theirs."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is old:
                signal.signal(number, new)


def _on_signal(number: int, frame: FrameType | None) -> None:
    try:
        _undo_all()
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _after_fork() -> None:
    """A child holds neither device nor table nor lock, and undoes nothing."""
    global _mutex  # noqa: PLW0603  another thread of the parent may hold it
    _mutex = threading.RLock()
    while _inside:
        os.close(_inside.pop())
    while _links:
        _links.pop().let_go()


os.register_at_fork(after_in_child=_after_fork)


# ---- forwarding, interface by interface: the one switch for all changes more than it says


def _note_forwarding() -> list[str]:
    """Note which interfaces begin to forward for nbtcp; returns them and those that did before.

    Turning `ip_forward` on and off would also make a machine accept ICMP redirects that had refused
    them. "all" is noted to see whether somebody else uses that switch meanwhile.
    """
    noted = _noted()
    for _, name in socket.if_nameindex():
        if name != "lo" and not _is_device(name) and _forwarding(name) == "0":
            noted[name] = _forwarding("all")
    with _said(f"{FOLDER} cannot be written ({{}}): run as root, with a writable /run"):
        new = FOLDER / f"{os.getpid()}.new"
        new.write_text("".join(f"{name} {was}\n" for name, was in noted.items()))
        new.replace(_notes())
    return list(noted)


def _noted() -> dict[str, str]:
    if not _notes().exists():
        return {}
    lines = _notes().read_text().splitlines()
    return {name: was for name, _, was in (line.partition(" ") for line in lines)}


def _notes() -> Path:
    """The file for this network namespace: lines of an interface, and 0 or 1 for "all"."""
    return FOLDER / f"forwarding-{os.stat('/proc/thread-self/ns/net').st_ino}"


def _forwarding(name: str) -> str:
    """0 or 1, or nothing when there is no such interface or it has no IPv4."""
    with contextlib.suppress(OSError):
        return (_CONF / name / "forwarding").read_text().strip()
    return ""


def _set_forwarding(name: str, value: str) -> None:
    (_CONF / name / "forwarding").write_text(value)


def _is_device(name: str) -> bool:
    return re.fullmatch(PREFIX + "[0-9]+", name) is not None


# ---- routes and addresses


def _uplink() -> tuple[str, int]:
    """(name, MTU in octets) of the interface of the way into the internet."""
    (link,) = _routing("get", "link", index=_route_to(_SOMEWHERE).get_attr("RTA_OIF"))
    return link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU")


def _route_to(address: str) -> Any:
    (route,) = _routing("get", "route", family=socket.AF_INET, dst_len=32, RTA_DST=address)
    return route


def _routes() -> Iterator[ipaddress.IPv4Network]:
    """Where this machine has routes to, in all tables; its own addresses are among them."""
    for route in _routing("get", "route", mode=_DUMP, family=socket.AF_INET):
        yield ipaddress.IPv4Network((route.get_attr("RTA_DST") or "0.0.0.0", route["dst_len"]))


def _set_up(name: str, index: int, mtu: int, kernel: str, ours: str) -> None:
    with contextlib.suppress(OSError):  # else the kernel sends IPv6 of its own through it
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    up = {"index": index, "flags": 1, "change": 1}
    _routing("new", "link", **up, IFLA_MTU=mtu, IFLA_TXQLEN=QUEUE_LENGTH)
    host = {"family": socket.AF_INET, "prefixlen": 32, "index": index}
    _routing("new", "addr", mode=_NEW, **host, IFA_LOCAL=kernel, IFA_ADDRESS=ours)


def _routing(verb: str, what: str, mode: int = 0, **values: Any) -> list[Any]:
    """Ask for "get" "route" and the like; `values` are fields, or attributes in capitals."""
    from pyroute2.netlink import rtnl
    from pyroute2.netlink.rtnl import ifaddrmsg, ifinfmsg, rtmsg

    kinds = {"link": ifinfmsg.ifinfmsg, "addr": ifaddrmsg.ifaddrmsg, "route": rtmsg.rtmsg}
    code = getattr(rtnl, f"RTM_{verb}{what}".upper())
    with _netlink(socket.NETLINK_ROUTE) as sock:
        return _ask(sock, _encoded(kinds[what], code, mode, values), kinds[what])


# ---- nftables


def _make_table(name: str, address: str, guarded: list[str]) -> socket.socket:
    """Make our table, bound to the socket that is returned where the kernel can do that."""
    try:
        return _nft_do(_table(name, address, guarded, _OWNED))
    except OSError:
        return _nft_do(_table(name, address, guarded, 0))


def _table(name: str, address: str, guarded: list[str], flags: int) -> list[bytes]:
    """The table `name`. `postrouting` masquerades what comes from `address`.

    `forward` stands behind all filters: it counts, and it refuses what the interfaces `guarded`
    would not forward but for us.
    """
    from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta
    from pyroute2.nftables.expressions import genex, ipv4addr, masq, verdict

    def chain(label: str, kind: str, hook: int, priority: int, *rules: list[Any]) -> list[bytes]:
        place = {"attrs": [("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", priority)]}
        return [
            _nft("new", "chain", _NEW, table=name, name=label, type=kind, hook=place),
            *(_nft("new", "rule", _NEW, table=name, chain=label, expressions=e) for e in rules),
        ]

    def compared(key: Meta, comparison: Cmp, text: str) -> list[Any]:
        data = {"attrs": [("NFTA_DATA_VALUE", text.encode())]}
        load = genex("meta", {"dreg": 1, "key": key})
        return [load, genex("cmp", {"sreg": 1, "op": comparison, "data": data})]

    ours = ipv4addr(src=address)
    goes_elsewhere = compared(Meta.NFT_META_OIFNAME, Cmp.NFT_CMP_NEQ, PREFIX)
    refusals = [
        compared(Meta.NFT_META_IIFNAME, Cmp.NFT_CMP_EQ, other + "\0") + goes_elsewhere + verdict(0)
        for other in guarded
    ]
    return [
        _nft("new", "table", _NEW, name=name, flags=flags),
        *chain("postrouting", "nat", _POSTROUTING, _NAT, ours + masq()),
        *chain("forward", "filter", _FORWARD, _LATE, [*ours, genex("counter", {})], *refusals),
    ]


def _nft_list(what: str, family: int = socket.AF_INET, **attributes: Any) -> list[Any]:
    """All objects of a kind; none where the kernel has no nftables."""
    from pyroute2.netlink.nfnetlink import nftsocket

    kind = getattr(nftsocket, f"nft_{what}_msg")
    try:
        with _netlink(_NETFILTER) as sock:
            return _ask(sock, _nft("get", what, _DUMP, family, **attributes), kind)
    except OSError as problem:
        if problem.errno in _NO_NFTABLES:
            return []
        raise


def _nft_do(messages: list[bytes]) -> socket.socket:
    """Carry out all of `messages` or none; returns the socket that owns what was made."""
    begin, end = (
        struct.pack("=IHHQHH", 20, code, 1, 0, 0, socket.htons(_NFTABLES))
        for code in (_BATCH_BEGIN, _BATCH_END)
    )
    sock = _netlink(_NETFILTER)
    try:
        _ask(sock, b"".join((begin, *messages, end)), answers=len(messages))
    except BaseException:
        sock.close()
        raise
    return sock


def _nft(
    verb: str, what: str, mode: int = 0, family: int = socket.AF_INET, **attributes: Any
) -> bytes:
    from pyroute2.netlink.nfnetlink import nftsocket

    kind = getattr(nftsocket, f"nft_{what}_msg")
    code = getattr(nftsocket, f"NFT_MSG_{verb}{what}".upper())
    values = {kind.name2nla(name): value for name, value in attributes.items()}
    return _encoded(kind, _NFTABLES << 8 | code, mode, {"nfgen_family": family, **values})


def _in_the_way(chains: list[str]) -> str:
    who, rule = "an iptables rule perhaps", f"`iptables -I FORWARD -i {PREFIX}+ -j ACCEPT` and -o"
    if chains:
        who = f"the nftables chain {' or '.join(chains)}"
        rule = f'`nft insert rule {chains[0]} iifname "{PREFIX}*" accept` and the same with oifname'
    return (
        f"this machine does not forward nbtcp's packets: {who} is in the way; "
        f"let them pass with {rule}"
    )


# ---- netlink(7)


def _netlink(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.bind((0, 0))
    return sock


def _encoded(kind: Any, code: int, flags: int, values: dict[str, Any]) -> bytes:
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST

    message = kind()
    message.update({name: value for name, value in values.items() if name.islower()})
    message["attrs"] = [(name, value) for name, value in values.items() if name.isupper()]
    message["header"].update(type=code, flags=NLM_F_REQUEST | NLM_F_ACK | flags)
    message.encode()
    return bytes(message.data)


def _ask(sock: socket.socket, data: bytes, kind: Any = None, answers: int = 1) -> list[Any]:
    """What the kernel says to `data`, as `kind`s, until it has agreed or been done `answers` times.

    OSError when it says no.
    """
    sock.send(data)
    found = []
    while answers:
        said = sock.recv(1 << 17)
        offset = 0
        while offset < len(said):
            length, code = struct.unpack_from("=IH", said, offset)
            if code in (_ERROR, _DONE):
                (problem,) = struct.unpack_from("=i", said, offset + 16)
                if problem:
                    raise OSError(-problem, os.strerror(-problem))
                answers -= 1
            elif kind is not None:
                found.append(kind(said, offset=offset))
                found[-1].decode()
            offset += (length + 3) & ~3
    return found


@contextlib.contextmanager
def _said(text: str) -> Iterator[None]:
    """An OSError as the MachineError `text`, with the kernel's own words in its braces."""
    try:
        yield
    except OSError as problem:
        raise MachineError(text.format(problem.strerror)) from problem
