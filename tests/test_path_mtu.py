"""Path MTU discovery and ICMP errors where the kernel is the router, in the lab."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path as File

import pytest

import nbtcp

IPV6 = pytest.mark.skipif(not File("/proc/net/if_inet6").exists(), reason="needs IPv6")
pytestmark = [pytest.mark.root, pytest.mark.slow, IPV6]

# A network behind the lab's kernel, which forwards into it packets of 1000 octets at most; its
# host counts the octets of one connection.
BEHIND = """
import ctypes, os, signal, socket, sys
from pyroute2 import IPRoute
def sysctl(name, value):
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)
FAMILIES = ((socket.AF_INET, "10.9.0.", 24, "10.0.0.0/24"), (socket.AF_INET6, "fd09::", 64, None))
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0  # CLONE_NEWNET
    os.write(ready[1], b".")
    os.read(go[0], 1)
    sysctl("ipv6/conf/v1/disable_ipv6", "0")
    with IPRoute() as ip:
        index = socket.if_nametoindex("v1")
        for family, net, length, _ in FAMILIES:
            ip.addr("add", index=index, family=family, address=net + "2", prefixlen=length, flags=2)
        ip.link("set", index=index, state="up")
        for family, net, _, _ in FAMILIES:
            ip.route("add", family=family, dst="default", gateway=net + "1")
    server = socket.create_server(("::", 7), family=socket.AF_INET6, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        conn, _ = server.accept()
        count = 0
        while data := conn.recv(1 << 16):
            count += len(data)
        conn.sendall(str(count).encode())
        conn.close()
os.read(ready[0], 1)
sysctl("ipv4/ip_forward", "1")
sysctl("ipv6/conf/all/forwarding", "1")
with IPRoute() as ip:
    ip.link("add", ifname="v0", kind="veth", peer={"ifname": "v1"})
    ip.link("set", index=socket.if_nametoindex("v1"), net_ns_pid=child)
    sysctl("ipv6/conf/v0/disable_ipv6", "0")
    index = socket.if_nametoindex("v0")
    ip.link("set", index=index, mtu=int(sys.argv[1]), state="up")
    for family, net, length, _ in FAMILIES:
        ip.addr("add", index=index, family=family, address=net + "1", prefixlen=length, flags=2)
os.write(go[1], b".")
os.waitpid(child, 0)
"""


@pytest.fixture
def lab() -> Iterator[nbtcp.Lab]:
    with nbtcp.Lab(seed=1) as lab:
        command = [sys.executable, "-c", BEHIND, "1300"]
        behind = lab.popen(command, stdout=subprocess.PIPE, text=True)
        assert behind.stdout is not None
        assert behind.stdout.readline() == "ready\n"
        yield lab
        behind.kill()
        behind.stdout.close()


@pytest.mark.parametrize("address", ["10.9.0.2", "fd09::2"])
def test_path_mtu_is_discovered_behind_the_kernel(lab: nbtcp.Lab, address: str) -> None:
    """The kernel is the router: its ICMP, our segments, another kernel's TCP at the end."""
    log = lab.new_log()
    with lab.connect((address, 7), 10, log=log) as sock:
        sock.settimeout(60)
        sock.sendall(bytes(300_000))
        sock.shutdown(1)
        assert sock.recv(100) == b"300000"
    segments, events = log.segments, log.events
    assert (events[events.event == "icmp"].why == "packet-too-big").sum() == 1
    assert (segments.why == "packet-too-big").sum() >= 2
    sent = segments[(segments.event == "send") & (segments.len > 0)]
    headers = 52 if "." in address else 72  # with timestamps
    assert sent.len.max() == 1500 - headers
    assert sent.len.iloc[-20:].max() == 1300 - headers
    assert "timeout" not in set(sent.why)
    again = lab.new_log()
    with lab.connect((address, 7), 10, log=again) as sock:
        sock.sendall(bytes(30_000))
    assert again.segments.len.max() == 1300 - headers  # it is remembered


def test_connect_to_nowhere_tells_what_the_kernel_said(lab: nbtcp.Lab) -> None:
    said = r"1 SYN sent in (0\.[5-9]|[1-9]\.\d) s; 10\.0\.0\.1 says: net unreachable"
    with pytest.raises(TimeoutError, match=said):
        lab.connect(("192.0.2.1", 80), 0.5)
