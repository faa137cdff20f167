"""tshark beside a lab's kernel: what a program that is not ours saw on the TUN device."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nbtcp
from nbtcp.links.namespace import Namespace

PATIENCE = 60  # s; only where tshark does not work is it waited for so long


@contextmanager
def captured(lab: nbtcp.Lab | Namespace, path: Path, kind: str) -> Iterator[None]:
    """What crosses the kernel's side of the TUN device meanwhile goes to `path`, a `kind` of file
    that tshark knows; the test is skipped where there is no tshark.
    """
    proc = Path(f"/proc/{getattr(lab, 'namespace', lab).pid}/net")
    says = ["-P", "-l", "-T", "fields", "-e", "frame.number"]  # a line when a packet is in the file
    program = ["tshark", "-q", *says, "-i", "tun0", "-w", str(path), "-F", kind]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        sniffer = lab.popen(program, **pipes)
    except nbtcp.MachineError as problem:
        pytest.skip(str(problem))
    with sniffer:
        assert sniffer.stdout is not None
        until = time.monotonic() + PATIENCE
        while not (listens(proc) and path.exists() and path.stat().st_size):
            assert sniffer.poll() is None and time.monotonic() < until, "tshark did not start"
            time.sleep(0.005)
        before = carried(proc)
        yield
        for _ in range(carried(proc) - before):
            assert sniffer.stdout.readline(), "tshark ended before all packets were in the file"
        sniffer.terminate()
        sniffer.communicate(timeout=PATIENCE)


def listens(proc: Path) -> bool:
    """Whether there is a packet socket at the device: the kernel keeps for it what comes."""
    return any(line.split()[4] != "0" for line in (proc / "packet").read_text().splitlines()[1:])


def carried(proc: Path) -> int:
    """How many packets the device has carried, both ways."""
    counts = (proc / "dev").read_text().partition("tun0:")[2].split()
    return int(counts[1]) + int(counts[9])
