"""A private network: a namespace of our own, in which the peer is the Linux kernel's TCP.

The other half is `nbtcp/inside.py`, which runs as process 1 of new network and PID namespaces. It
opens the TUN device there and passes it out, so nothing on this machine is moved or changed. It
ends when its socket to us ends, and the kernel then ends all that was started inside: nothing
stays, however the owner dies. Sources: namespaces(7), pid_namespaces(7), and unix(7) on SCM_RIGHTS.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nbtcp.errors import MachineError, NbtcpError
from nbtcp.links.tun import DEVICE, Tun, open_device

KERNEL_ADDRESS = "10.0.0.1"
OUR_ADDRESS = "10.0.0.2"
KERNEL_ADDRESS6 = "fd00:6e62::1"
OUR_ADDRESS6 = "fd00:6e62::2"

_INSIDE = Path(__file__).parent.parent / "inside.py"
_CONTAINER = f"`--cap-add SYS_ADMIN --cap-add NET_ADMIN --device {DEVICE}`"
_CONGESTION = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
_END_TIMEOUT = 5.0  # seconds; the kernel ends a PID namespace in milliseconds

_Argument = str | os.PathLike[str]


class Namespace:
    """A private network of two: the kernel's TCP at 10.0.0.1, whoever uses `.tun` at 10.0.0.2.

    The kernel has IPv6 as well, where it is compiled in and the MTU is 1280 or more: it is
    fd00:6e62::1 there, and fd00:6e62::2 is behind `.tun`.

    Attributes: `tun` (the link to the kernel), `kernel_address`, `our_address`, `pid` (process 1 of
    the network, as numbered outside). The kernel serves a small web site on port 80, see
    `nbtcp/inside.py`.
    """

    kernel_address = KERNEL_ADDRESS
    our_address = OUR_ADDRESS

    def __init__(
        self,
        *,
        mtu: int = 1500,
        congestion: str | None = None,
        timeout: float = 30.0,
        offload: bool = False,
    ) -> None:
        """Start the network; as root with plain namespaces, else in a user namespace.

        `mtu` in bytes; `congestion` is the kernel's congestion control, None for the machine's
        default; `timeout` in seconds for the start; with `offload` packets have a virtio-net header
        (wire/vnet.py). MachineError, one line, when this machine or user cannot.
        """
        if not 68 <= mtu <= 65535:
            raise ValueError(f"an MTU is 68 to 65535 bytes, not {mtu}")
        _try_device()
        unshare = _unshare()
        # By its path: importing the package would take longer than all the rest.
        arguments = [str(mtu), congestion or "", "offload" if offload else ""]
        command = [*unshare, sys.executable, "-P", str(_INSIDE), *arguments]
        self._process, channel, self.pid, tun = _launch(command, timeout)
        self.tun = Tun(tun, name="tun0", size=mtu, offload=offload)
        self._nsenter = [_util_linux("nsenter"), f"--target={self.pid}", "--net", "--pid"]
        if "--user" in unshare:
            self._nsenter += ["--user", "--preserve-credentials"]
        self._programs: set[_Program] = set()
        self._end = weakref.finalize(self, _end, self._process, channel, self.tun, self._programs)
        _all.add(self)

    def run(
        self,
        argv: Sequence[_Argument],
        *,
        input: bytes | str | None = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program inside and wait for it, as subprocess.run does with the same arguments.

        MachineError when there is no such program; subprocess.TimeoutExpired and CalledProcessError
        as there.
        """
        if input is not None:
            kwargs["stdin"] = subprocess.PIPE
        if capture_output:
            kwargs["stdout"] = kwargs["stderr"] = subprocess.PIPE
        with self.popen(argv, **kwargs) as program:
            try:
                output, errors = program.communicate(input, timeout=timeout)
            except BaseException:
                program.kill()
                raise
        done = subprocess.CompletedProcess(argv, program.returncode, output, errors)
        if check:
            done.check_returncode()
        return done

    def popen(self, argv: Sequence[_Argument], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program inside, as subprocess.Popen does with the same arguments (no shell=True).

        Its `pid` is that of nsenter(1), which waits for it; its signals and return code are the
        program's. It ends with the network at the latest. MachineError when there is no such
        program.
        """
        self._check_running()
        if kwargs.get("shell") or kwargs.get("executable"):
            raise TypeError(
                'shell= and executable= are not for programs inside; use ["sh", "-c", ...]'
            )
        _check_program(os.fspath(argv[0]), kwargs.get("env"), kwargs.get("cwd"))
        program = _Program([*self._nsenter, "--", *argv], **kwargs)
        ended = [other for other in list(self._programs) if other.poll() is not None]
        self._programs.difference_update(ended)
        self._programs.add(program)
        return program

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what the kernel inside has counted since the start, such as ["Tcp"]["InErrs"].

        All of /proc/net/snmp (RFC 1213, RFC 4022) and of /proc/net/netstat (Linux's own, "TcpExt").
        """
        self._check_running()
        files = (Path(f"/proc/{self.pid}/net/{name}") for name in ("snmp", "netstat"))
        return parse_counters("".join(file.read_text() for file in files))

    def close(self) -> None:
        """End the network and everything in it. A second call does nothing."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self._end.alive else "closed"
        return f"<Namespace {state}, kernel {KERNEL_ADDRESS}, we {OUR_ADDRESS}>"

    def _check_running(self) -> None:
        if self._process.poll() is not None:
            raise NbtcpError("the private network is closed; make a new one")


@dataclass(frozen=True)
class Condition:
    """One thing a private network needs: whether it is there, what was found, and what helps."""

    name: str
    ok: bool
    detail: str
    help: str = ""


def diagnose() -> list[Condition]:
    """Look at all that a private network needs, as its start does. Never raises, leaves nothing."""
    user = os.geteuid()
    alone = "run as root, or rely on user namespaces"
    return [
        Condition("root", user == 0, f"running as user {user}", alone),
        _condition(DEVICE, _try_device),
        _condition("util-linux", lambda: f"{_util_linux('unshare')}, {_util_linux('nsenter')}"),
        _condition("namespaces", lambda: f"made by `{' '.join(_unshare())}`"),
        _condition("congestion control", lambda: f"the kernel has {_CONGESTION.read_text()}"),
    ]


def _condition(name: str, look: Callable[[], str]) -> Condition:
    try:
        return Condition(name, True, look().strip())
    except (MachineError, OSError) as error:
        detail, _, help = str(error).partition("; ")
        return Condition(name, False, detail, help)


def parse_counters(text: str) -> dict[str, dict[str, int]]:
    """Parse /proc/net/snmp or /proc/net/netstat: pairs of lines "Tcp: name name" and "Tcp: 1 2"."""
    counters: dict[str, dict[str, int]] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group, _, rest = names.partition(":")
        numbers = values.partition(":")[2].split()
        counters[group] = dict(zip(rest.split(), map(int, numbers), strict=True))
    return counters


# ---- start and end


def _launch(
    command: list[str], timeout: float
) -> tuple[subprocess.Popen[bytes], socket.socket, int, int]:
    """Start process 1; return it, the socket that keeps it, its number outside, and the TUN's fd.

    The socket is its stderr: what comes before the TUN device tells why there will be none.
    """
    channel, theirs = socket.socketpair()
    channel.settimeout(timeout)
    with theirs:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs.fileno(),
            start_new_session=True,  # Ctrl-C is for us
        )
    try:
        return process, channel, *_hear(channel)
    except BaseException:
        channel.close()
        process.kill()  # and with it process 1: --kill-child
        process.wait()
        raise


def _hear(channel: socket.socket) -> tuple[int, int]:
    said = b""
    why = "ended while it started"
    try:
        while True:
            part, fds, _, _ = socket.recv_fds(channel, 1 << 12, 1, socket.MSG_CMSG_CLOEXEC)
            said += part
            if fds:
                return int(said.split()[-1]), fds[0]
            if not part:
                break
    except TimeoutError:
        why = f"did not start within {channel.gettimeout():g} s"
    last = ["it said nothing", *said.decode(errors="replace").splitlines()][-1]
    raise MachineError(f"the private network {why}: {last}; see `nbtcp doctor`")


class _Program(subprocess.Popen[Any]):
    """A program inside. The process that we start is nsenter; signals are for its only child."""

    def send_signal(self, sig: int) -> None:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        for _ in range(500):
            if self.poll() is not None:
                return
            with contextlib.suppress(OSError):  # it has just ended
                if child := children.read_text():
                    return os.kill(int(child), sig)
            time.sleep(0.001)  # nsenter has not forked yet
        super().send_signal(sig)


def _end(
    process: subprocess.Popen[bytes], channel: socket.socket, tun: Tun, programs: set[_Program]
) -> None:
    """End the network. In a fork of the owner, where wait() returns at once: only let go of it."""
    channel.close()
    tun.close()
    for child in (process, *programs):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_TIMEOUT)


def _let_go() -> None:
    for network in list(_all):
        network.close()


# A forked child that does not exec would keep the socket, and with it the network.
_all: weakref.WeakSet[Namespace] = weakref.WeakSet()
os.register_at_fork(after_in_child=_let_go)


# ---- what can be missing


def _try_device() -> str:
    os.close(open_device())
    return "can be opened"


def _util_linux(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MachineError(
            f"the program `{name}` is missing; install the package util-linux, and look at PATH"
        )
    return path


def _unshare() -> list[str]:
    """Return the command that makes the namespaces here, after trying it."""
    root = os.geteuid() == 0
    # Root in a container may lack CAP_SYS_ADMIN and yet be allowed a user namespace.
    for user in ([], ["--user", "--map-root-user"])[0 if root else 1 :]:
        command = [_util_linux("unshare"), *user, "--net", "--pid", "--fork", "--kill-child"]
        done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return command
    said = " ".join(done.stderr.split())
    if root:
        raise MachineError(
            f"network namespaces are refused, even to root ({said}); "
            f"start the container with {_CONTAINER}"
        )
    raise MachineError(
        f"user namespaces are refused to user {os.geteuid()} ({said}); run as root, or have root "
        f"allow them: `sysctl kernel.unprivileged_userns_clone=1` (Debian), "
        f"`sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), "
        f"`sysctl user.max_user_namespaces=10000`, or a container with {_CONTAINER}"
    )


def _check_program(name: str, env: Mapping[str, str] | None, cwd: Any) -> None:
    """Say it here: nsenter tells of a missing program only on its stderr."""
    place = os.path.join(cwd or "", name) if "/" in name else name
    if shutil.which(place, path=None if env is None else env.get("PATH", os.defpath)) is None:
        raise MachineError(
            f"{name!r} cannot be started in the private network: "
            f"there is no such program here; install it"
        )
