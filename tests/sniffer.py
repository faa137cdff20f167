"""tshark beside a lab's kernel: what a program that is not ours saw on the TUN device."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import nbtcp


@contextmanager
def captured(lab: nbtcp.Lab, path: Path, kind: str) -> Iterator[None]:
    """What crosses the kernel's side of the TUN device meanwhile goes to `path`, a `kind` of file
    that tshark knows; the test is skipped where there is no tshark.
    """
    program = ["tshark", "-q", "-i", "tun0", "-w", str(path), "-F", kind]
    try:
        sniffer = lab.popen(program, stderr=subprocess.PIPE)
    except nbtcp.MachineError as problem:
        pytest.skip(str(problem))
    with sniffer:
        assert sniffer.stderr is not None
        for line in sniffer.stderr:
            if b"Capturing on" in line:
                break
        time.sleep(0.5)  # dumpcap opens the file a moment before it captures
        yield
        time.sleep(0.5)
        sniffer.terminate()
        sniffer.communicate(timeout=20)
