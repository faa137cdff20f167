"""The machine's own internet access as a link: a TUN device, forwarding, and a masquerade rule.

The kernel is the router: it forwards what comes out of the device, with its own address written
over ours. `nbtcp/gateway.py`, a program of its own, asks it to, and undoes that when we end.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from ..errors import MachineError
from ..wire import segment, vnet
from ..wire.segment import SYN, Segment, pack_flow
from .tun import Tun

_GATEWAY = Path(__file__).parents[1] / "gateway.py"
_Program = subprocess.Popen[str]


class Nat:
    """A TUN device of ours whose other end is this machine, as a router that masquerades.

    Attributes: `link`, `addresses` (ours), `kernel_addresses`, one of IPv4 and one of IPv6 or one
    of them alone: those by which there is a way into the internet, or the one of `family`, 4 or 6;
    `missing` holds why there is none of the other; `address` and `kernel_address`, the first ones;
    `uplink` (the interface of the default route).
    MachineError, one line, when this machine or user cannot.
    """

    def __init__(self, offload: bool = False, family: int | None = None) -> None:
        self.link = Tun.open(offload=offload)
        self._gateway = _start(self.link, str(family or "46"))
        self._end = weakref.finalize(self, _end, self.link, self._gateway, os.getpid())
        self._lock = threading.Lock()
        self._forwards: set[str] = set()  # our addresses from which it does
        _all.add(self)
        try:
            found = _answer(self._gateway)
        except BaseException:
            self.close()
            raise
        self.link.size = found["mtu"]
        ways, self.missing = found["ways"], found["missing"]
        self.addresses = [way["address"] for way in ways]
        self.kernel_addresses = [way["kernel_address"] for way in ways]
        self.address, self.kernel_address = self.addresses[0], self.kernel_addresses[0]
        self.uplink = ways[0]["uplink"]

    def close(self) -> None:
        """Undo everything, device included. A second call does nothing."""
        self._end()

    def check(self, remote: tuple[str, int]) -> None:
        """Send a SYN to `remote` that ends at the next router, and see whether it is forwarded.

        MachineError says who on this machine is in the way. Once it was forwarded, does nothing.
        """
        with self._lock:
            ours = self.like(remote[0], self.addresses)
            if ours in self._forwards or _is_here(remote[0]):
                return
            flow = pack_flow((ours, 1), remote)
            build = vnet.build if self.link.offload else segment.build
            self.link.send([build(Segment(flow, SYN, 0, 0, 0, ttl=2))], 0)
            _answer(self._gateway, f"check {ours}")
            self._forwards.add(ours)

    def like(self, address: str, addresses: list[str]) -> str:
        """The one of `addresses` that is of the same family."""
        return next(one for one in addresses if (":" in one) == (":" in address))

    def publish(self, port: int) -> str:
        """Let others reach our `port` at this machine's own address, which is returned.

        Until `close`. MachineError when the kernel cannot.
        """
        found: str = _answer(self._gateway, f"publish {self.address} {port}")["address"]
        return found


def clean() -> list[str]:
    """Undo what killed processes have left; returns what was undone. MachineError if not root."""
    with _start() as gateway:
        undone: list[str] = _answer(gateway)["undone"]
    return undone


def _start(link: Tun | None = None, versions: str = "") -> _Program:
    """Start the gateway for `link`, or one that cleans up.

    It holds the device too, so that nobody makes another of this name before all is undone. Our
    stderr is its own: who waits for the end of that waits until all is undone.
    """
    arguments, files = ([], []) if link is None else ([link.name, versions], [link.fileno()])
    command = [sys.executable, "-P", str(_GATEWAY), *arguments]
    pipe = subprocess.PIPE
    return _Program(
        command, stdin=pipe, stdout=pipe, text=True, pass_fds=files, start_new_session=True
    )


def _answer(gateway: _Program, request: str = "") -> dict[str, Any]:
    assert gateway.stdin is not None
    assert gateway.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        if request:
            print(request, file=gateway.stdin, flush=True)
    line = gateway.stdout.readline()
    said: dict[str, Any] = json.loads(line or '{"error": "the gateway has ended; open a new one"}')
    if "error" in said:
        raise MachineError(said["error"])
    return said


def _end(link: Tun, gateway: _Program, owner: int) -> None:
    link.close()
    with gateway:
        if os.getpid() == owner:
            gateway.communicate()
        else:
            gateway.poll()  # it notes that it is no child of a fork, and is content


def _is_here(address: str) -> bool:
    """Whether this machine itself has `address`: nothing is forwarded to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        return bool(probe.getsockname()[0] == address)


_all: weakref.WeakSet[Nat] = weakref.WeakSet()


def _let_go() -> None:
    for nat in list(_all):
        nat.close()


# A forked child would keep the gateway waiting.
os.register_at_fork(after_in_child=_let_go)
