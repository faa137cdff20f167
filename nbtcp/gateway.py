"""What makes this machine a gateway into the internet for one TUN device of ours, and undoes it.

`links/nat.py` starts this file as a program of its own, because a program that is killed cannot
undo anything: this one ends when its standard input does, so however its owner ends. It asks the
kernel, by netlink, for a pair of addresses on the device, forwarding on the interfaces, and one
nftables table, named after the device. Nothing of anybody else's is touched. The table also notes
what was turned on: should this program be killed as well, the next one finds it there.

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
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE, Cmp, Meta, nft_rule_msg
from pyroute2.nftables.expressions import genex, ipv4addr, masq, verdict
from pyroute2.nftables.main import NFTables

PREFIX = "nbtcp"  # of the names of our devices and tables
# For benchmarks (RFC 2544) and for carriers (RFC 6598): hosts are seldom part of them.
POOLS = ("198.18.0.0/15", "100.64.0.0/10")
LARGEST_MTU = 1500  # octets
QUEUE_LENGTH = 10_000  # packets that wait for us: a large window at once
PATIENCE = 0.2  # s; mostly the kernel has decided about a packet when its write returns

SOMEWHERE = "1.1.1.1"  # the kernel is asked for the way there; nothing is sent
WIDE = 8  # a route with a shorter prefix is the way to everywhere, not to somebody's network
CONF = Path("/proc/sys/net/ipv4/conf")
NO_NFTABLES = (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)
FAMILIES = {1: "inet", 2: "ip"}  # those that see forwarded IPv4
FORWARD = 2  # the hook
NAT, LATE = 100, 1000  # priorities: where source NAT belongs; behind all usual filters


class Refusal(Exception):
    """What this machine cannot do; one line for the owner."""


def main(name: str = "") -> None:
    """Be the gateway for the device `name` until standard input ends; without a name, clean up.

    Each answer is a line of JSON on standard output: the first one at once, then one for each line
    of input, which asks whether the machine forwards, or to `publish` a port.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # those are for the owner
    if not name:
        answer(clean)
        return
    try:
        answer(start, name)
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


def start(name: str) -> dict[str, Any]:
    """Begin to forward for the device `name`; returns what a Nat has to know."""
    with alone():
        undo(name)
        found = set_up(name)
        with refused(
            "the kernel refuses a masquerade rule ({}): it needs nftables; "
            "try `modprobe -a nf_tables nft_chain_nat nft_masq`"
        ):
            forwarding = make_table(name, found["address"])
        with refused(
            "forwarding cannot be turned on ({}); turn it on outside with "
            "`sysctl net.ipv4.ip_forward=1`, or start the container with `--privileged`"
        ):
            for interface in (*forwarding, name):
                set_forwarding(interface, "1")
    return found


def check(name: str) -> dict[str, Any]:
    """Refuse, with who on this machine may be in the way, when nothing of ours is forwarded."""
    end = time.monotonic() + PATIENCE
    while not passed(name):
        if time.monotonic() > end:
            raise Refusal(in_the_way())
        time.sleep(0.005)
    return {}


def publish(name: str, address: str, port: str) -> dict[str, Any]:
    """Let others reach our `port` at the address that this machine has on its uplink."""
    with IPRoute() as ip:
        (route,) = ip.route("get", dst=SOMEWHERE)
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
    tables = noted()
    needed = [name for table in devices.intersection(tables) for name in tables[table]]
    undone = []
    for table in sorted(tables.keys() - devices):
        for name, was in tables[table].items():
            # When somebody has changed forwarding for all since then, it is theirs.
            if name not in needed and forwarding_of(name) == "1" and forwarding_of("all") == was:
                set_forwarding(name, "0")
                undone.append(f"forwarding of {name}")
        with NFTables() as nft:
            nft.table("del", name=table)
        undone.append(f"the nftables table {table}")
    return undone


# ---- routes and addresses


def set_up(name: str) -> dict[str, Any]:
    """Give the device its MTU and a pair of free addresses."""
    with IPRoute() as ip:
        with refused("there is no way into the internet ({}): this machine needs a default route"):
            (route,) = ip.route("get", dst=SOMEWHERE)
            (uplink,) = ip.get_links(route.get_attr("RTA_OIF"))
        mtu = min(uplink.get_attr("IFLA_MTU"), LARGEST_MTU)
        # Of all tables; the machine's own addresses are among them.
        routes = [
            ipaddress.IPv4Network((route.get_attr("RTA_DST") or "0.0.0.0", route["dst_len"]))
            for route in ip.get_routes(family=socket.AF_INET)
        ]
        kernel, ours = free_pair(routes)
        with contextlib.suppress(OSError):  # else the kernel sends IPv6 of its own through it
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        with refused(f"the device {name} cannot be set up ({{}}); is another program changing it?"):
            index = socket.if_nametoindex(name)
            ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_LENGTH, state="up")
            ip.addr("add", index=index, local=kernel, address=ours, prefixlen=32)
    found = {"uplink": uplink.get_attr("IFLA_IFNAME"), "mtu": mtu}
    return {**found, "address": ours, "kernel_address": kernel}


def free_pair(routes: Iterable[ipaddress.IPv4Network]) -> tuple[str, str]:
    """Two addresses of a /30 that no route covers but default routes; Refusal if none."""
    taken = [route for route in routes if route.prefixlen >= WIDE]
    for pool in map(ipaddress.IPv4Network, POOLS):
        inside = [route for route in taken if route.overlaps(pool)]
        if any(pool.subnet_of(route) for route in inside):  # its pairs are many
            continue
        for pair in pool.subnets(new_prefix=30):
            if not any(pair.overlaps(route) for route in inside):
                return str(pair[1]), str(pair[2])
    raise Refusal(f"no address is free: this machine has routes to {' and '.join(POOLS)}")


# ---- forwarding, interface by interface: the one switch for all changes more than it says


def to_forward() -> dict[str, str]:
    """The interfaces that begin to forward for nbtcp, or do already, and what "all" was before.

    Turning `ip_forward` on and off would also make a machine accept ICMP redirects that had refused
    them. "all" is noted to see whether somebody else uses that switch meanwhile.
    """
    found = {name: was for table in noted().values() for name, was in table.items()}
    for _, name in socket.if_nameindex():
        if name != "lo" and not is_device(name) and forwarding_of(name) == "0":
            found[name] = forwarding_of("all")
    return found


def noted() -> dict[str, dict[str, str]]:
    """Our tables, with what `to_forward` said when each was made.

    None where the kernel has no nftables.
    """
    try:
        with NFTables() as nft:
            names = [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    except (OSError, NetlinkError) as problem:
        if problem.args[0] not in NO_NFTABLES:
            raise
        return {}
    return {name: notes(name) for name in names if is_device(name)}


def notes(table: str) -> dict[str, str]:
    """Those of one table: comments of its rules."""
    comments = [rule.get_attr("NFTA_RULE_USERDATA") for rule in rules(table)]
    return dict(comment.split() for comment in comments if comment)


def forwarding_of(name: str) -> str:
    """0 or 1, or nothing when there is no such interface or it has no IPv4."""
    with contextlib.suppress(OSError):
        return (CONF / name / "forwarding").read_text().strip()
    return ""


def set_forwarding(name: str, value: str) -> None:
    """`value` is 0 or 1."""
    (CONF / name / "forwarding").write_text(value)


def is_device(name: str) -> bool:
    """Whether this is the name of a device of ours, or of its table."""
    return re.fullmatch(PREFIX + "[0-9]+", name) is not None


# ---- nftables


def make_table(name: str, address: str) -> dict[str, str]:
    """Make the table `name`; returns which interfaces have to forward now.

    `postrouting` masquerades what comes from `address`. `forward` stands behind all filters: it
    counts, and it refuses what interfaces would not forward but for us.
    """
    forwarding = to_forward()
    ours = ipv4addr(src=address)
    goes_elsewhere = compared(meta(Meta.NFT_META_OIFNAME), PREFIX.encode(), Cmp.NFT_CMP_NEQ)
    with NFTables() as nft:
        nft.get_tables()  # where there are none pyroute2 gets no answer to "add", but to this
        nft.table("add", name=name)
        for chain, kind, priority in ("postrouting", "nat", NAT), ("forward", "filter", LATE):
            nft.chain("add", table=name, name=chain, type=kind, hook=chain, priority=priority)
        nft.rule("add", table=name, chain="postrouting", expressions=(ours, masq()))
        nft.rule("add", table=name, chain="forward", expressions=(ours, [genex("counter", {})]))
        for other, was in forwarding.items():
            came = compared(meta(Meta.NFT_META_IIFNAME), f"{other}\0".encode())
            rule = {"expressions": (came, goes_elsewhere, verdict(0)), "userdata": f"{other} {was}"}
            nft.rule("add", table=name, chain="forward", **rule)
    return forwarding


def forward_port(name: str, public: str, address: str, port: int) -> None:
    """A rule of table `name`: TCP that comes for `public` at `port` is for `address`."""
    tcp = compared(meta(Meta.NFT_META_L4PROTO), bytes([socket.IPPROTO_TCP]))
    destination_port = genex("payload", {"dreg": 1, "base": 2, "offset": 2, "len": 2})
    ours = genex("immediate", {"dreg": 1, "data": value(socket.inet_aton(address))})
    turned = genex("nat", {"type": 1, "family": socket.AF_INET, "reg_addr_min": 1})  # NFT_NAT_DNAT
    at_port = compared(destination_port, port.to_bytes(2))
    rule = ipv4addr(dst=public), tcp, at_port, [ours, turned]
    chain = {"name": "prerouting", "type": "nat", "hook": "prerouting", "priority": -NAT}
    with NFTables() as nft:
        nft.chain("add", table=name, **chain)
        nft.rule("add", table=name, chain="prerouting", expressions=rule)


def compared(load: Any, data: bytes, comparison: Cmp = Cmp.NFT_CMP_EQ) -> list[Any]:
    """The part of a rule that compares what `load` finds in a packet with `data`."""
    return [load, genex("cmp", {"sreg": 1, "op": comparison, "data": value(data)})]


def meta(key: Meta) -> Any:
    """The part of a rule that loads what the kernel knows about a packet."""
    return genex("meta", {"dreg": 1, "key": key})


def value(data: bytes) -> dict[str, Any]:
    """Data in a rule."""
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def rules(table: str) -> list[Any]:
    """All rules of a table."""
    wanted = nft_rule_msg()
    wanted["attrs"] = [("NFTA_RULE_TABLE", table)]
    with NFTables() as nft:
        return list(nft.request_get(wanted, NFT_MSG_GETRULE))


def passed(name: str) -> int:
    """How many packets from the device `name` the kernel has forwarded."""
    expressions = [e for rule in rules(name) for e in rule.get_attr("NFTA_RULE_EXPRESSIONS")]
    counters = [e for e in expressions if e.get_attr("NFTA_EXPR_NAME") == "counter"]
    return sum(e.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS") for e in counters)


def in_the_way() -> str:
    """One line about the chains that may refuse what is forwarded, and how to pass."""
    with NFTables(nfgen_family=socket.AF_UNSPEC) as nft:
        chains = nft.get_chains()
    found = []
    for chain in chains:
        family, hook = FAMILIES.get(chain["nfgen_family"]), chain.get_attr("NFTA_CHAIN_HOOK")
        table, name = chain.get_attr("NFTA_CHAIN_TABLE"), chain.get_attr("NFTA_CHAIN_NAME")
        is_there = family and hook and hook.get_attr("NFTA_HOOK_HOOKNUM") == FORWARD
        if is_there and not is_device(table):
            found.append((chain.get_attr("NFTA_CHAIN_POLICY"), f"{family} {table} {name}"))
    who, rule = "an iptables rule perhaps", f"`iptables -I FORWARD -i {PREFIX}+ -j ACCEPT` and -o"
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
