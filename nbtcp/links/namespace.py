"""A private network: a namespace of our own, in which the peer is the Linux kernel's TCP.

The other half is `nbtcp/inside.py`, which runs as process 1 of new network and PID namespaces. It
opens the TUN device there and passes it out, so nothing on this machine is moved or changed. It
ends when its socket to us ends, and the kernel then ends all that was started inside: nothing
stays, however the owner dies. Sources: namespaces(7), pid_namespaces(7), and unix(7) on SCM_RIGHTS.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from nbtcp.errors import MachineError, NbtcpError
from nbtcp.links.tun import DEVICE, Tun, open_device

KERNEL_ADDRESS = "10.0.0.1"
OUR_ADDRESS = "10.0.0.2"

_INSIDE = Path(__file__).parent.parent / "inside.py"
_CONTAINER = f"`--cap-add SYS_ADMIN --cap-add NET_ADMIN --device {DEVICE}`"
# Seconds. The kernel ends a PID namespace in milliseconds, and nsenter(1) starts in as many.
_END_TIMEOUT = 5.0
_START_TIMEOUT = 0.5
_TRY_TIMEOUT = 5.0

_Argument = str | os.PathLike[str]


class Namespace:
    """A private network of two: the kernel's TCP at 10.0.0.1, whoever uses `.tun` at 10.0.0.2.

    Attributes: `tun` (the link to the kernel), `kernel_address`, `our_address`, `pid` (process 1 of
    the network, as numbered outside). The kernel serves a small web site on port 80, see
    `nbtcp/inside.py`.
    """

    kernel_address = KERNEL_ADDRESS
    our_address = OUR_ADDRESS

    def __init__(
        self, *, mtu: int = 1500, congestion: str | None = None, timeout: float = 10.0
    ) -> None:
        """Start the network; as root with plain namespaces, else in a user namespace.

        `mtu` in bytes; `congestion` is the kernel's congestion control, None for the machine's
        default; `timeout` in seconds for the start. MachineError, one line, when this machine or
        user cannot.
        """
        if not 68 <= mtu <= 65535:
            raise ValueError(f"an MTU is 68 to 65535 bytes, not {mtu}")
        self._inside = _start({"mtu": mtu, "congestion": congestion}, timeout)
        self._end = weakref.finalize(self, self._inside.close)
        self.tun = self._inside.tun
        self.pid = self._inside.pid

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
        return self._running().start([os.fspath(part) for part in argv], kwargs)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return what the kernel inside has counted since the start, such as ["Tcp"]["InErrs"].

        All of /proc/net/snmp (RFC 1213, RFC 4022) and of /proc/net/netstat (Linux's own, "TcpExt").
        """
        files = self._running().files
        text = "".join(_read_all(files[name]) for name in ("snmp", "netstat"))
        return parse_counters(text)

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

    def _running(self) -> "_Inside":
        if not self._end.alive:
            raise NbtcpError("the private network is closed; make a new one")
        return self._inside


@dataclass(frozen=True)
class Condition:
    """One thing a private network needs: whether it is there, what was found, and what helps."""

    name: str
    ok: bool
    detail: str
    help: str = ""


def diagnose() -> list[Condition]:
    """Look at all that a private network needs, by really trying. Never raises, leaves nothing.

    A user other than root needs user namespaces; root needs none.
    """
    return [
        _check_root(),
        _check_device(),
        _check_programs(),
        _check_network_namespaces(),
        _check_user_namespaces(),
        _check_congestion(),
    ]


def parse_counters(text: str) -> dict[str, dict[str, int]]:
    """Parse /proc/net/snmp or /proc/net/netstat: pairs of lines "Tcp: name name" and "Tcp: 1 2"."""
    counters: dict[str, dict[str, int]] = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group, _, rest = names.partition(":")
        numbers = values.partition(":")[2].split()
        counters[group] = dict(zip(rest.split(), map(int, numbers), strict=True))
    return counters


# ---- the running network, kept apart from Namespace so that this can be collected and end it


class _Program(subprocess.Popen[Any]):
    """A program inside. The process that we start is nsenter; signals are for its only child."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child(), sig)

    def _child(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        end = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < end and children.exists():
            if numbers := children.read_text().split():
                return int(numbers[0])
            time.sleep(0.001)  # nsenter has not forked yet
        return self.pid


@dataclass(eq=False)
class _Inside:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    tun: Tun
    pid: int
    files: dict[str, int]
    programs: list[_Program] = field(default_factory=list)
    owner: int = field(default_factory=os.getpid)

    def start(self, argv: list[str], kwargs: dict[str, Any]) -> _Program:
        if kwargs.get("shell") or kwargs.get("executable"):
            raise TypeError(
                'shell= and executable= are not for programs inside; use ["sh", "-c", ...]'
            )
        _check_program(argv[0], kwargs.get("env"), kwargs.get("cwd"))
        program = _Program([*self._nsenter(), *argv], **kwargs)
        for ended in [other for other in self.programs if other.poll() is not None]:
            with contextlib.suppress(ValueError):  # another thread was faster
                self.programs.remove(ended)
        self.programs.append(program)
        return program

    def _nsenter(self) -> list[str]:
        # Named through /proc and not inherited, so that the program holds no namespace open.
        command = [_util_linux("nsenter")]
        for kind in ("user", "net", "pid"):
            if kind in self.files:
                command.append(f"--{kind}=/proc/{os.getpid()}/fd/{self.files[kind]}")
        if "user" in self.files:
            command.append("--preserve-credentials")
        return [*command, "--"]

    def close(self) -> None:
        """End the network. In a child that was forked off the owner: only let go of it."""
        ours = os.getpid() == self.owner
        if ours:
            with contextlib.suppress(OSError):
                self.channel.shutdown(socket.SHUT_RDWR)
        self.channel.close()
        self.tun.close()
        if ours:
            _wait_for_end(self.process)
            for program in self.programs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(_END_TIMEOUT)
        else:
            for process in (self.process, *self.programs):
                process.poll()  # it notes that they are no children of a fork, and is content
        # Last: an nsenter that has just started finds these by their numbers.
        while self.files:
            os.close(self.files.popitem()[1])


_all: weakref.WeakSet[_Inside] = weakref.WeakSet()


def _let_go() -> None:
    for inside in list(_all):
        inside.close()


# A forked child that does not exec would keep the socket, the device and the namespaces open.
os.register_at_fork(after_in_child=_let_go)


class _Refused(Exception):
    """unshare(1) may not make these namespaces; its own words."""


def _start(options: dict[str, Any], timeout: float) -> _Inside:
    for name in ("unshare", "nsenter"):
        _util_linux(name)
    os.close(open_device())
    # Root in a container may lack CAP_SYS_ADMIN and yet be allowed a user namespace.
    refusal = ""
    for user in (False, True) if os.geteuid() == 0 else (True,):
        try:
            inside = _launch({**options, "user": user}, timeout)
        except _Refused as error:
            refusal = refusal or str(error)
        else:
            _all.add(inside)
            return inside
    raise MachineError(_why_refused(refusal))


def _launch(options: dict[str, Any], timeout: float) -> _Inside:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as words:
        undo.callback(ours.close)
        with theirs:
            process = _spawn(options, theirs, words)
        undo.callback(_wait_for_end, process)
        undo.callback(ours.close)
        ours.settimeout(timeout)
        try:
            reply, fds, _, _ = socket.recv_fds(ours, 1 << 16, 8, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as error:
            process.kill()
            last = _last_line(words) or "nothing"
            raise MachineError(
                f"the private network did not start within {timeout:g} s (it said: {last}); "
                f"give it more time with timeout=, or see `nbtcp doctor`"
            ) from error
        if not reply:
            _wait_for_end(process)
            _explain_early_end(_last_line(words))
        message = json.loads(reply)
        if "error" in message:
            raise MachineError(message["error"])
        undo.pop_all()
    files = dict(zip(message["files"], fds, strict=True))
    tun = Tun(files.pop("tun"), name="tun0", size=options["mtu"])
    return _Inside(process, ours, tun, message["pid"], files)


def _spawn(
    options: dict[str, Any], channel: socket.socket, words: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start process 1. It watches the channel and us, as a fork of ours may hold our end."""
    descriptors = [channel.fileno()]
    with contextlib.ExitStack() as stack:
        owner = None
        if hasattr(os, "pidfd_open"):  # a Python built for old kernels has none
            with contextlib.suppress(OSError):
                owner = os.pidfd_open(os.getpid())
                stack.callback(os.close, owner)
                descriptors.append(owner)
        argument = json.dumps({**options, "socket": channel.fileno(), "owner": owner})
        # By its path: importing the package would take longer than all the rest.
        command = [sys.executable, "-P", str(_INSIDE), argument]
        return subprocess.Popen(
            [*_unshare("--net", "--pid", "--fork", "--kill-child", user=options["user"]), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C is for us
        )


def _explain_early_end(last: str) -> None:
    if last.startswith("unshare:") and "failed to exec" not in last:
        raise _Refused(last)
    raise MachineError(
        f"the private network ended while it started (it said: {last or 'nothing'}); "
        f"see `nbtcp doctor`"
    )


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()  # and with it process 1: --kill-child
        process.wait()


def _read_all(fd: int) -> str:
    parts = []
    offset = 0
    while part := os.pread(fd, 1 << 16, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode()


def _last_line(words: IO[bytes]) -> str:
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


# ---- what can be missing


def _util_linux(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MachineError(
            f"the program `{name}` is missing; install the package util-linux, and look at PATH"
        )
    return path


def _unshare(*options: str, user: bool) -> list[str]:
    own = ("--user", "--map-root-user") if user else ()
    return [_util_linux("unshare"), *own, *options, "--"]


def _check_program(name: str, env: Mapping[str, str] | None, cwd: Any) -> None:
    """Say it here: nsenter tells of a missing program only on its stderr."""
    place = os.path.join(cwd or "", name) if "/" in name else name
    if shutil.which(place, path=None if env is None else env.get("PATH", os.defpath)) is None:
        raise MachineError(
            f"{name!r} cannot be started in the private network: "
            f"there is no such program here; install it"
        )


def _why_refused(said: str) -> str:
    if os.geteuid() == 0:
        return (
            f"network namespaces are refused, even to root ({said}); "
            f"start the container with {_CONTAINER}"
        )
    return (
        f"user namespaces are refused to user {os.geteuid()} ({said}); "
        f"run as root{_user_namespace_help()}"
    )


def _user_namespace_help() -> str:
    """The sysctl that is in the way, if it is one of the usual ones."""
    for name, bad, good in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ):
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name.replace(".", "/")).read_text().strip() == bad:
                return f", or have root allow them with `sysctl {name}={good}`"
    return f", or start the container with {_CONTAINER}"


def _attempt(*options: str, user: bool) -> str:
    """Make namespaces for a moment; return "" or why not."""
    try:
        command = [*_unshare(*options, user=user), "true"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRY_TIMEOUT,
            check=False,
        )
    except (MachineError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _check_root() -> Condition:
    user = os.geteuid()
    if user == 0:
        return Condition("root", True, "running as root")
    return Condition(
        "root", False, f"running as user {user}", "run as root, or rely on user namespaces"
    )


def _check_device() -> Condition:
    try:
        os.close(open_device())
    except MachineError as error:
        detail, _, help = str(error).partition("; ")
        return Condition(DEVICE, False, detail, help)
    return Condition(DEVICE, True, "can be opened")


def _check_programs() -> Condition:
    missing = [name for name in ("unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        detail = f"missing: {', '.join(missing)}"
        return Condition("util-linux", False, detail, "install the package util-linux")
    return Condition("util-linux", True, "unshare and nsenter are there")


def _check_network_namespaces() -> Condition:
    root = os.geteuid() == 0
    said = _attempt("--net", "--pid", "--fork", "--kill-child", user=not root)
    if not said:
        return Condition("network namespaces", True, "one was made and ended")
    help = f"start the container with {_CONTAINER}" if root else "run as root"
    return Condition("network namespaces", False, f"refused ({said})", help)


def _check_user_namespaces() -> Condition:
    said = _attempt(user=True)
    if not said:
        return Condition("user namespaces", True, "one was made and ended")
    help = (
        "nothing to do: root needs none"
        if os.geteuid() == 0
        else f"run as root{_user_namespace_help()}"
    )
    return Condition("user namespaces", False, f"refused ({said})", help)


def _check_congestion() -> Condition:
    try:
        text = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()
    except OSError as error:
        return Condition("congestion control", False, str(error), "leave congestion= at None")
    return Condition("congestion control", True, f"the kernel has {', '.join(text.split())}")
