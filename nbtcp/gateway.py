"""What makes this machine a gateway into the internet for one TUN device of ours, and undoes it.

`links/nat.py` starts this file as a program of its own, because a program that is killed cannot
undo anything: this one ends when its standard input does, so however its owner ends. It asks the
kernel, by netlink, for a pair of addresses on the device, forwarding on the interfaces, and one
nftables table, named after the device: all this once for IPv4 and once for IPv6, when there is a
way into the internet by them. Nothing of anybody else's is touched. The tables also note what was
turned on: should this program be killed as well, the next one finds it there.

It imports nothing of nbtcp, which would take longer than all the rest.
Sources: rtnetlink(7), nft(8) and the kernel's Documentation/networking/ip-sysctl.rst.
"""

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE, Cmp, Meta, nft_rule_msg
from pyroute2.nftables.expressions import genex, masq, verdict
from pyroute2.nftables.main import NFTables

PREFIX = "nbtcp"  # of the names of our devices and tables
LARGEST_MTU = 1500  # octets
QUEUE_LENGTH = 10_000  # packets that wait for us: a large window at once
PATIENCE = 0.2  # s; mostly the kernel has decided about a packet when its write returns

WIDE = 8  # a route with a shorter prefix is the way to everywhere, not to somebody's network
NO_DEVICE = "the device {} cannot be set up ({{}}); is another program changing it?"
NO_NFTABLES = (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)
NODAD = 0x02  # IFA_F_NODAD of linux/if_addr.h
NO_LINK_LOCAL = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
FORWARD = 2  # the hook
NAT, LATE = 100, 1000  # priorities: where source NAT belongs; behind all usual filters


class Family(NamedTuple):
    """What IPv4 and IPv6 differ in."""

    version: str
    number: int  # of the kernel's families, and of nftables'
    table: str  # what nftables calls it
    somewhere: str  # the kernel is asked for the way there; nothing is sent
    pools: tuple[str, ...]  # where our addresses are from
    source: int  # offset of the source address in the header, octets; the destination is behind
    length: int  # octets of an address

    def sysctl(self, interface: str, name: str) -> Path:
        return Path(f"/proc/sys/net/ipv{self.version}/conf", interface, name)


# For benchmarks (RFC 2544) and for carriers (RFC 6598): hosts are seldom part of them.
POOLS = ("198.18.0.0/15", "100.64.0.0/10")
POOLS6 = ("fd6e:6274:6370::/48",)  # of ours (RFC 4193): the global ID is "nbtcp" in ASCII
IPV4 = Family("4", socket.AF_INET, "ip", "1.1.1.1", POOLS, 12, 4)
IPV6 = Family("6", socket.AF_INET6, "ip6", "2606:4700:4700::1111", POOLS6, 8, 16)
FAMILIES = (IPV4, IPV6)


class Refusal(Exception):
    """What this machine cannot do; one line for the owner."""


def main(name: str = "", versions: str = "46") -> None:
    """Be the gateway for the device `name` until standard input ends; without a name, clean up.

    `versions` are those of IP that are wanted.

    Each answer is a line of JSON on standard output: the first one at once, then one for each line
    of input, which asks whether the machine forwards, or to `publish` a port.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # those are for the owner
    if not name:
        answer(clean)
        return
    try:
        answer(start, name, versions)
        for line in sys.stdin:
            request, *arguments = line.split()
            answer(publish if request == "publish" else check, name, *arguments)
    finally:
        with alone(), IPRoute() as ip:
            with contextlib.suppress(OSError, NetlinkError):  # else a fork may hold it open
                ip.link("del", index=socket.if_nametoindex(name))
            undo(name)


def answer(function: Callable[..., dict[str, Any]], *arguments: str) -> None:
    """Tell the owner what `function` returns, or refuses."""
    try:
        said = function(*arguments)
    except Refusal as problem:
        said = {"error": str(problem)}
    with contextlib.suppress(BrokenPipeError):  # the owner has ended
        os.write(1, json.dumps(said).encode() + b"\n")


def start(name: str, versions: str) -> dict[str, Any]:
    """Begin to forward for the device `name`; returns what a Nat has to know.

    A version of IP that this machine cannot is left out; Refusal when it can none.
    """
    ways, refusals = [], []
    with alone():
        undo(name)
        with IPRoute() as ip, refused(NO_DEVICE.format(name)):
            index = socket.if_nametoindex(name)
            with contextlib.suppress(NetlinkError):  # a kernel without IPv6
                ip.link("set", index=index, IFLA_AF_SPEC=NO_LINK_LOCAL)
            ip.link("set", index=index, txqlen=QUEUE_LENGTH, state="up")
            for family in FAMILIES:
                try:
                    if family.version in versions:
                        ways.append(set_up(ip, family, name))
                except Refusal as problem:
                    refusals.append(problem)
            if not ways:
                raise refusals[0]
            unused = "0" if ":" in ways[-1]["address"] else "1"
            with contextlib.suppress(OSError):  # else the kernel may send IPv6 of its own
                IPV6.sysctl(name, "disable_ipv6").write_text(unused)
            mtu = min(LARGEST_MTU, *(way["mtu"] for way in ways))
            ip.link("set", index=index, mtu=mtu)
    return {"ways": ways, "mtu": mtu, "missing": list(map(str, refusals))}


def check(name: str, address: str) -> dict[str, Any]:
    """Refuse, with who on this machine may be in the way, when nothing of ours is forwarded to
    addresses like this one.
    """
    family = FAMILIES[":" in address]
    end, late = time.monotonic() + PATIENCE, False
    while not passed(family, name):
        if late:  # and looked once more since then
            raise Refusal(in_the_way(family))
        time.sleep(0.005)
        late = time.monotonic() > end
    return {}


def publish(name: str, address: str, port: str) -> dict[str, Any]:
    """Let others reach our `port` at the address that this machine has on its uplink."""
    with IPRoute() as ip:
        (route,) = ip.route("get", dst=FAMILIES[":" in address].somewhere)
    public = route.get_attr("RTA_PREFSRC")
    with refused("the kernel refuses a rule for the port ({}): try `modprobe nft_nat`"):
        forward_port(name, public, address, int(port))
    return {"address": public}


def clean() -> dict[str, Any]:
    """Undo what killed processes have left."""
    with refused("leftovers cannot be undone ({}): run as root"), alone():
        return {"undone": undo()}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process at a time, in this network namespace."""
    with open("/proc/self/ns/net") as namespace:
        fcntl.flock(namespace, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def refused(text: str) -> Iterator[None]:
    """An error of the kernel's as the Refusal `text`, with its own words in the braces."""
    try:
        yield
    except (OSError, NetlinkError) as problem:
        raise Refusal(text.format(problem.args[1])) from problem


def undo(ours: str = "") -> list[str]:
    """Remove tables whose device is gone, or is `ours`, and forwarding that no other needs.

    Returns what was undone.
    """
    devices = {name for _, name in socket.if_nameindex()} - {ours}
    undone = []
    for family in FAMILIES:
        tables = noted(family)
        needed = [name for table in devices.intersection(tables) for name in tables[table]]
        for table in sorted(tables.keys() - devices):
            for name, was in tables[table].items():
                if name not in needed and turn_off(family, name, was):
                    undone.append(f"IPv{family.version} forwarding of {name}")
            with NFTables(nfgen_family=family.number) as nft:
                nft.table("del", name=table)
            undone.append(f"the nftables table {family.table} {table}")
    return undone


# ---- routes and addresses


def set_up(ip: IPRoute, family: Family, name: str) -> dict[str, Any]:
    """Forward and masquerade one version of IP for the device, at a pair of free addresses."""
    what = f"no way into the internet by IPv{family.version}"
    with refused(f"there is {what} ({{}}): this machine needs a default route"):
        (route,) = ip.route("get", dst=family.somewhere)
        (uplink,) = ip.get_links(route.get_attr("RTA_OIF"))
    # Of all tables; the machine's own addresses are among them.
    routes = [
        ipaddress.ip_network((route.get_attr("RTA_DST") or bytes(family.length), route["dst_len"]))
        for route in ip.get_routes(family=family.number)
    ]
    kernel, ours = free_pair(routes, family.pools)
    pair = {"local": kernel, "address": ours, "prefixlen": 8 * family.length}
    with refused(NO_DEVICE.format(name)):
        ip.addr("add", index=socket.if_nametoindex(name), **pair, flags=NODAD)
    with refused(
        "the kernel refuses a masquerade rule ({}): it needs nftables; "
        "try `modprobe -a nf_tables nft_chain_nat nft_masq`"
    ):
        forwarding = make_table(family, name, ours)
    with refused(
        "forwarding cannot be turned on ({}); start the container with `--privileged`, or turn it "
        "on outside: `sysctl net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`"
    ):
        turn_on(family, name, forwarding)
    found = {"uplink": uplink.get_attr("IFLA_IFNAME"), "mtu": uplink.get_attr("IFLA_MTU")}
    return {**found, "address": ours, "kernel_address": kernel}


def free_pair(routes: Iterable[Any], pools: Iterable[str] = POOLS) -> tuple[str, str]:
    """Two addresses of four that no route covers but default routes; Refusal if none."""
    taken = [route for route in routes if route.prefixlen >= WIDE]
    for pool in map(ipaddress.ip_network, pools):
        inside = [route for route in taken if route.overlaps(pool)]
        if any(pool.subnet_of(route) for route in inside):  # its pairs are many
            continue
        for pair in pool.subnets(new_prefix=pool.max_prefixlen - 2):
            if not any(pair.overlaps(route) for route in inside):
                return str(pair[1]), str(pair[2])
    raise Refusal(f"no address is free: this machine has routes to {' and '.join(pools)}")


# ---- forwarding, interface by interface: the one switch for all changes more than it says
#
# Of IPv6 that switch alone was heeded before Linux 6.17. Turned on it makes a host a router, which
# takes no router advertisements and forgets its default route, unless `accept_ra` is 2.


def to_forward(family: Family) -> dict[str, str]:
    """The interfaces that begin to forward for nbtcp, or do already, and what was before.

    Turning `ip_forward` on and off would also make a machine accept ICMP redirects that had refused
    them. What "all" was is noted to see whether somebody else uses that switch meanwhile; where it
    is the only one, `accept_ra` of the interface.
    """
    found = {name: was for table in noted(family).values() for name, was in table.items()}
    if family is IPV6 and read(family, "all", "forwarding") == "1":
        return found
    names = [name for _, name in socket.if_nameindex() if name != "lo" and not is_device(name)]
    off = [name for name in names if read(family, name, switch(family)) == "0"]
    if not is_only_for_all(family):
        return found | dict.fromkeys(off, read(family, "all", switch(family)))
    if not all(read(family, name, "forwarding") == "0" for name in ("default", *names)):
        raise Refusal("some interfaces forward IPv6 already; try net.ipv6.conf.all.forwarding=1")
    return found | {name: read(family, name, "accept_ra") for name in off}


def turn_on(family: Family, device: str, forwarding: Iterable[str]) -> None:
    """Forward what comes from the device, and what comes back."""
    if not is_only_for_all(family):
        for interface in (*forwarding, device):
            family.sysctl(interface, switch(family)).write_text("1")
    elif read(family, "all", "forwarding") == "0":
        for interface in forwarding:
            if read(family, interface, "accept_ra") == "1":
                family.sysctl(interface, "accept_ra").write_text("2")
        family.sysctl("all", "forwarding").write_text("1")


def turn_off(family: Family, name: str, was: str) -> bool:
    """Undo what `turn_on` did for one interface; False when somebody else has changed it since."""
    if is_only_for_all(family):
        family.sysctl("all", "forwarding").write_text("0")
        if was == "1" and read(family, name, "accept_ra") == "2":
            family.sysctl(name, "accept_ra").write_text("1")
        return True
    # When somebody has changed forwarding for all since then, it is theirs.
    if read(family, name, switch(family)) != "1" or read(family, "all", switch(family)) != was:
        return False
    family.sysctl(name, switch(family)).write_text("0")
    return True


def switch(family: Family) -> str:
    """The sysctl that lets one interface forward."""
    return "forwarding" if family is IPV4 or is_only_for_all(family) else "force_forwarding"


def is_only_for_all(family: Family) -> bool:
    """Whether this kernel forwards for all interfaces or for none."""
    return family is IPV6 and not IPV6.sysctl("all", "force_forwarding").exists()


def noted(family: Family) -> dict[str, dict[str, str]]:
    """Our tables, with what `to_forward` said when each was made.

    None where the kernel has no nftables.
    """
    try:
        with NFTables(nfgen_family=family.number) as nft:
            names = [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    except (OSError, NetlinkError) as problem:
        if problem.args[0] not in NO_NFTABLES:
            raise
        return {}
    return {name: notes(family, name) for name in names if is_device(name)}


def notes(family: Family, table: str) -> dict[str, str]:
    """Those of one table: comments of its rules."""
    comments = [rule.get_attr("NFTA_RULE_USERDATA") for rule in rules(family, table)]
    return dict(comment.split() for comment in comments if comment)


def read(family: Family, interface: str, name: str) -> str:
    """A sysctl; nothing when there is no such interface or it has no IP of this family."""
    with contextlib.suppress(OSError):
        return family.sysctl(interface, name).read_text().strip()
    return ""


def is_device(name: str) -> bool:
    """Whether this is the name of a device of ours, or of its table."""
    return re.fullmatch(PREFIX + "[0-9]+", name) is not None


# ---- nftables


def make_table(family: Family, name: str, address: str) -> dict[str, str]:
    """Make the table `name`; returns which interfaces have to forward now.

    `postrouting` masquerades what comes from `address`. `forward` stands behind all filters: it
    counts, and it refuses what interfaces would not forward but for us.
    """
    forwarding = to_forward(family)
    ours = addressed(family, family.source, address)
    goes_elsewhere = compared(meta(Meta.NFT_META_OIFNAME), PREFIX.encode(), Cmp.NFT_CMP_NEQ)
    with NFTables(nfgen_family=family.number) as nft:
        nft.get_tables()  # where there are none pyroute2 gets no answer to "add", but to this
        nft.table("add", name=name)
        for chain, kind, priority in ("postrouting", "nat", NAT), ("forward", "filter", LATE):
            nft.chain("add", table=name, name=chain, type=kind, hook=chain, priority=priority)
        nft.rule("add", table=name, chain="postrouting", expressions=(ours, masq()))
        nft.rule("add", table=name, chain="forward", expressions=(ours, [genex("counter", {})]))
        for other, was in forwarding.items():
            came = compared(meta(Meta.NFT_META_IIFNAME), f"{other}\0".encode())
            if is_only_for_all(family):  # also for interfaces that are yet to come
                came = compared(meta(Meta.NFT_META_IIFNAME), PREFIX.encode(), Cmp.NFT_CMP_NEQ)
            rule = {"expressions": (came, goes_elsewhere, verdict(0)), "userdata": f"{other} {was}"}
            nft.rule("add", table=name, chain="forward", **rule)
    return forwarding


def forward_port(name: str, public: str, address: str, port: int) -> None:
    """A rule of table `name`: TCP that comes for `public` at `port` is for `address`."""
    tcp = compared(meta(Meta.NFT_META_L4PROTO), bytes([socket.IPPROTO_TCP]))
    destination_port = genex("payload", {"dreg": 1, "base": 2, "offset": 2, "len": 2})
    family = FAMILIES[":" in address]
    ours = genex("immediate", {"dreg": 1, "data": value(socket.inet_pton(family.number, address))})
    turned = genex("nat", {"type": 1, "family": family.number, "reg_addr_min": 1})  # NFT_NAT_DNAT
    at_port = compared(destination_port, port.to_bytes(2))
    rule = addressed(family, family.source + family.length, public), tcp, at_port, [ours, turned]
    chain = {"name": "prerouting", "type": "nat", "hook": "prerouting", "priority": -NAT}
    with NFTables(nfgen_family=family.number) as nft:
        nft.chain("add", table=name, **chain)
        nft.rule("add", table=name, chain="prerouting", expressions=rule)


def addressed(family: Family, offset: int, address: str) -> list[Any]:
    """The part of a rule that compares the address at `offset` of the IP header."""
    load = genex("payload", {"dreg": 1, "base": 1, "offset": offset, "len": family.length})
    return compared(load, socket.inet_pton(family.number, address))


def compared(load: Any, data: bytes, comparison: Cmp = Cmp.NFT_CMP_EQ) -> list[Any]:
    """The part of a rule that compares what `load` finds in a packet with `data`."""
    return [load, genex("cmp", {"sreg": 1, "op": comparison, "data": value(data)})]


def meta(key: Meta) -> Any:
    """The part of a rule that loads what the kernel knows about a packet."""
    return genex("meta", {"dreg": 1, "key": key})


def value(data: bytes) -> dict[str, Any]:
    """Data in a rule."""
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def rules(family: Family, table: str) -> list[Any]:
    """All rules of a table."""
    wanted = nft_rule_msg()
    wanted["attrs"] = [("NFTA_RULE_TABLE", table)]
    with NFTables(nfgen_family=family.number) as nft:
        return list(nft.request_get(wanted, NFT_MSG_GETRULE))


def passed(family: Family, name: str) -> int:
    """How many packets from the device `name` the kernel has forwarded."""
    expressions = [
        e for rule in rules(family, name) for e in rule.get_attr("NFTA_RULE_EXPRESSIONS")
    ]
    counters = [e for e in expressions if e.get_attr("NFTA_EXPR_NAME") == "counter"]
    return sum(e.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS") for e in counters)


def in_the_way(family: Family) -> str:
    """One line about the chains that may refuse what is forwarded, and how to pass."""
    with NFTables(nfgen_family=socket.AF_UNSPEC) as nft:
        chains = nft.get_chains()
    found = []
    seeing = {1: "inet", family.number: family.table}  # those that see what is forwarded
    for chain in chains:
        kind, hook = seeing.get(chain["nfgen_family"]), chain.get_attr("NFTA_CHAIN_HOOK")
        table, name = chain.get_attr("NFTA_CHAIN_TABLE"), chain.get_attr("NFTA_CHAIN_NAME")
        is_there = kind and hook and hook.get_attr("NFTA_HOOK_HOOKNUM") == FORWARD
        if is_there and not is_device(table):
            found.append((chain.get_attr("NFTA_CHAIN_POLICY"), f"{kind} {table} {name}"))
    who = f"an {family.table}tables rule perhaps"
    rule = f"`{family.table}tables -I FORWARD -i {PREFIX}+ -j ACCEPT` and -o"
    if found:
        names = [name for _, name in sorted(found)]  # policy drop, which is 0, before accept
        who = f"the nftables chain {' or '.join(names)}"
        inserted = [f'`nft insert rule {name} iifname "{PREFIX}*" accept`' for name in names]
        rule = f"{' and '.join(inserted)}, and the same with oifname"
    return (
        f"this machine does not forward nbtcp's packets: {who} is in the way; "
        f"let them pass with {rule}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
