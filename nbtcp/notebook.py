"""What the notebooks need beside the library: questions to the reader, sliders, recordings.

from nbtcp.notebook import predict, recorded, sliders
"""

import gc
import html
import math
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from .errors import MachineError
from .lab import Lab
from .trace.capture import read_capture
from .trace.log import FIELDS, LAYOUTS, RECEIVED, SENT, EventLog, Has
from .trace.pcap import CaptureReader

if TYPE_CHECKING:
    import pandas as pd


class Prediction:
    """A guess, made before one looks. Shown as the last line of a cell, as is the answer."""

    def __init__(self, question: str, guess: Any, within: float) -> None:
        self.question = question
        self.guess = guess
        self._within = within

    def check(self, answer: Any) -> "Answer":
        """Compare with what came out."""
        return Answer(self, answer, self._agrees(answer))

    def _agrees(self, answer: Any) -> bool:
        numbers = isinstance(self.guess, (int, float)) and not isinstance(self.guess, bool)
        if numbers and not isinstance(answer, str):
            # A number read off a table with few digits is as good as the whole one.
            return math.isclose(self.guess, answer, rel_tol=self._within, abs_tol=1e-9)
        return bool(self.guess == answer)

    def __repr__(self) -> str:
        return f"{self.question} Prediction: {_shown(self.guess)}"

    def _repr_html_(self) -> str:
        question, guess = html.escape(self.question), html.escape(_shown(self.guess))
        return f"<p><b>{question}</b> Prediction: {guess}</p>"


class Answer:
    """A guess beside what came out; true when they agree."""

    def __init__(self, prediction: Prediction, answer: Any, correct: bool) -> None:
        self._prediction = prediction
        self.answer = answer
        self.correct = correct

    def __bool__(self) -> bool:
        return self.correct

    def __repr__(self) -> str:
        verdict = "as predicted" if self.correct else "not as predicted"
        return f"{self._prediction}; answer: {_shown(self.answer)}, {verdict}"

    def _repr_html_(self) -> str:
        sign, verdict = ("✓", "as predicted") if self.correct else ("✗", "not as predicted")
        answer = html.escape(_shown(self.answer))
        return f"{self._prediction._repr_html_()}<p>{sign} Answer: {answer}, {verdict}</p>"


def predict(question: str, guess: Any, *, within: float = 0.1) -> Prediction:
    """Ask, and note a guess: a number (right `within` that share of it), a word, True or False.

    `predict(...)` as the last line of a cell shows question and guess; later `check(answer)` of
    what it returns says whether they agree.
    """
    if not within >= 0:
        raise ValueError(f"within={within!r} must be a share, 0 or more")
    return Prediction(question, guess, within)


def sliders(function: Callable[..., Any], **ranges: tuple[float, ...]) -> Any:
    """Sliders for arguments of `function`, which is called with what they say when one is released.

    Each range is (lowest, highest, step, first value), all integers or all seconds, bits, ... as
    the function wants them. What the function returns is shown. Without ipywidgets it is what the
    function returns for the first values.
    """
    first = {name: value for name, (_, _, _, value) in ranges.items()}
    try:
        import ipywidgets
    except ImportError:
        return function(**first)
    boxes = {name: _slider(ipywidgets, *values) for name, values in ranges.items()}
    return ipywidgets.interactive(function, {"auto_display": True}, **boxes)


def recorded(file: str, fetch: Callable[[], EventLog], about: str = "") -> EventLog:
    """The log that `fetch` gives, or that in `file` where this machine has no network for us.

    Then the reason is printed, and `about`: what was recorded instead. Where NBTCP_OFFLINE is set
    what has such an `about` is taken from its file in any case. While it fetches, Python does not
    look for garbage among what a notebook has loaded: that stops all threads for several RTTs.
    """
    gc.freeze()
    try:
        if about and os.environ.get("NBTCP_OFFLINE"):
            raise MachineError("NBTCP_OFFLINE is set")
        return fetch()
    except (MachineError, OSError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        print(f"A recording instead{about and ', ' + about}: {reason}")
        return EventLog.load(file)
    finally:
        gc.unfreeze()


TSHARK_FLAGS = (
    *("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order"),
    *("lost_segment", "duplicate_ack", "window_update"),
)


def tshark_flags(capture: str | Path, stored: str | Path) -> "pd.DataFrame":
    """What tshark says of a capture: a row for each packet, True where it sets `tcp.analysis.X`.

    `stored` is a file with what one version of tshark said. It is taken where there is no tshark,
    or one of another version.
    """
    import pandas as pd

    version, _, said = Path(stored).read_text().partition("\n")
    if tshark_says("--version").startswith(version):
        fields = [part for name in TSHARK_FLAGS for part in ("-e", f"tcp.analysis.{name}")]
        said = tshark_says("-r", str(capture), "-T", "fields", "-E", "occurrence=f", *fields)
    rows = [line.split("\t") for line in said.splitlines()]
    return pd.DataFrame(rows, columns=list(TSHARK_FLAGS)) != ""


def tshark_says(*arguments: str) -> str:
    """What the program tshark prints, or nothing where there is none."""
    try:
        done = subprocess.run(["tshark", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout


class Tcpdump:
    """`with Tcpdump(lab) as kernel:` records what crosses the kernel's end of the lab meanwhile.

    Then `kernel.capture` holds the octets of the pcap file, without data, and `kernel.join(log)`
    is a log of both ends. Raises MachineError where there is no tcpdump.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.capture = b""

    def __enter__(self) -> Self:
        if shutil.which("tcpdump") is None:
            raise MachineError("there is no tcpdump here; install it (Debian: apt install tcpdump)")
        self._folder = TemporaryDirectory()
        self._file = Path(self._folder.name) / "kernel.pcap"
        how = ["-i", "tun0", "-s", "100", "-U", "--immediate-mode", "-Z", "root"]
        command = ["tcpdump", *how, "--time-stamp-precision=nano", "-w", str(self._file)]
        self._program = self._lab.popen(command, stderr=subprocess.PIPE)
        said = self._program.stderr
        assert said is not None
        while b"listening on" not in (line := said.readline()):
            if not line:
                raise MachineError("tcpdump ended at once; try it as root in the lab's network")
        self._before = self._carried()
        return self

    def __exit__(self, *problem: object) -> None:
        try:
            self._lab.wait(0.1)  # for what is on the path
            end = time.monotonic() + 10
            while self._written() < self._carried() - self._before and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            self._program.terminate()
            self._program.communicate(timeout=60)
        self.capture = self._file.read_bytes()
        self._log = read_capture(self._file)
        self._behind = time.time_ns() - time.monotonic_ns()  # a capture's times are times of day
        self._folder.cleanup()

    def _carried(self) -> int:
        """How many packets the device has carried so far, both ways."""
        devices = Path(f"/proc/{self._lab.namespace.pid}/net/dev").read_text()
        counts = devices.partition("tun0:")[2].split()
        return int(counts[1]) + int(counts[9])

    def _written(self) -> int:
        """How many packets are in the file."""
        content = self._file.read_bytes()
        return sum(1 for _ in CaptureReader(content)) if content else 0

    def join(self, ours: EventLog) -> EventLog:
        """`ours`, with what the kernel sent and received; the first connection of each."""
        kernel, both = self._log, EventLog.from_bytes(bytes(ours))
        address = self._lab.kernel_address
        both.hosts += [address] * (address not in both.hosts)
        host = both.hosts.index(address)
        both.records += [
            replace(record, host=host, began=record.began - self._behind, ended=None)
            for record in kernel.records
            if kernel.hosts[record.host] == address
        ]
        names = [name for name, _ in FIELDS["segments"]]
        rows: list[tuple[int, int, dict[str, int], Any]] = []
        for log in kernel, ours:
            for number, packed in enumerate(LAYOUTS["segments"].iter_unpack(log.rows["segments"])):
                row = dict(zip(names, packed, strict=True))
                if log is kernel:
                    row["event"] = SENT if kernel.hosts[row["host"]] == address else RECEIVED
                    row |= {"host": host, "time": row["time"] - self._behind}
                    if row["event"] == RECEIVED:  # the variables are those of who sent it
                        row["present"] &= ~Has.SND
                rows.append((row["time"], len(rows), row, log.sack.get(number)))
        rows.sort(key=lambda one: one[:2])
        both.rows["segments"][:] = b"".join(
            LAYOUTS["segments"].pack(*row.values()) for _, _, row, _ in rows
        )
        both.sack = {number: blocks for number, (*_, blocks) in enumerate(rows) if blocks}
        return both


def _slider(ipywidgets: Any, low: float, high: float, step: float, value: float) -> Any:
    whole = all(isinstance(number, int) for number in (low, high, step, value))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    more = {} if whole else {"readout_format": ".3g"}
    with warnings.catch_warnings():  # traitlets' own
        warnings.simplefilter("ignore", DeprecationWarning)
        return kind(value, min=low, max=high, step=step, continuous_update=False, **more)


def _shown(value: Any) -> str:
    """As a reader writes it: up to four digits that count, no `np.float64(...)`."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return str(value)
    return f"{float(value):.4g}" if not float(value).is_integer() else f"{int(value):,}"
