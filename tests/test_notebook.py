"""What the notebooks use beside the library: predictions, sliders, recordings."""

import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbtcp
from nbtcp.notebook import Tcpdump, predict, recorded, sliders, tshark_flags, tshark_says


@pytest.mark.parametrize(
    ("guess", "within", "answer", "correct"),
    [
        (4, 0.1, 4, True),
        (4, 0.1, np.float64(4.3), True),
        (4, 0.1, 4.5, False),
        (4, 0.0, 5, False),
        (0, 0.1, 0, True),
        (0, 0.1, 1, False),
        ("reno", 0.1, "reno", True),
        ("reno", 0.1, "cubic", False),
        (True, 0.1, True, True),
        (True, 0.1, False, False),
        (4, 0.1, "four", False),
    ],
)
def test_a_prediction_is_compared_with_the_answer(
    guess: Any, within: float, answer: Any, correct: bool
) -> None:
    checked = predict("What?", guess, within=within).check(answer)
    assert bool(checked) is checked.correct is correct
    verdict = "as predicted" if correct else "not as predicted"
    assert repr(checked).endswith(f", {verdict}")


def test_a_prediction_reads_the_same_each_time() -> None:
    guess = predict("How many RTTs <will> it take?", np.float64(4))
    assert repr(guess) == "How many RTTs <will> it take? Prediction: 4"
    assert "&lt;will&gt;" in guess._repr_html_()
    answer = guess.check(np.float64(5.123456))
    expected = "How many RTTs <will> it take? Prediction: 4; answer: 5.123, not as predicted"
    assert repr(answer) == expected
    assert "✗ Answer: 5.123" in answer._repr_html_()
    assert "1,234,567" in repr(predict("?", 1234567))


def test_a_prediction_right_within_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="within=-1"):
        predict("?", 1, within=-1)


def test_sliders_call_the_function_when_they_are_released() -> None:
    called: list[tuple[int, float]] = []
    box = sliders(lambda n, x: called.append((n, x)), n=(1, 9, 1, 4), x=(0.0, 1.0, 0.1, 0.5))
    n, x = box.children[:2]
    assert (n.value, x.value) == (4, 0.5)
    assert not n.continuous_update and not x.continuous_update
    n.value = 7
    assert called == [(4, 0.5), (7, 0.5)]
    assert isinstance(called[-1][0], int)


def test_sliders_are_the_first_values_where_there_is_no_ipywidgets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert sliders(lambda n: n + 1, n=(1, 9, 1, 4)) == 5


@pytest.mark.parametrize(
    "problem",
    [nbtcp.MachineError("no root; become root"), OSError(113, "no root; become root")],
    ids=["machine", "network"],
)
def test_a_recording_stands_in_for_a_machine_that_cannot(
    problem: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot() -> nbtcp.EventLog:
        raise problem

    log = nbtcp.Simulation().transfer(1000).log
    log.save(tmp_path / "x.parquet")
    recording = recorded(str(tmp_path / "x.parquet"), cannot)
    assert recording.segments.equals(log.segments)
    assert capsys.readouterr().out == "A recording instead: no root; become root\n"
    assert recorded("nowhere.parquet", lambda: log) is log
    assert capsys.readouterr().out == ""


def test_python_does_not_look_for_old_garbage_during_a_fetch() -> None:
    frozen = []

    def fetch() -> nbtcp.EventLog:
        frozen.append(gc.get_freeze_count())
        return nbtcp.Simulation().transfer(1000).log

    recorded("nowhere.parquet", fetch)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0


def test_the_internet_is_left_alone_where_it_shall_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has an `about` is of the internet; the rest, of the lab, is made as ever."""
    log = nbtcp.Simulation().transfer(1000).log
    file = str(log.save(tmp_path / "x.parquet"))
    monkeypatch.setenv("NBTCP_OFFLINE", "1")
    assert recorded(file, lambda: log) is log
    assert recorded(file, lambda: log, "of a simulation") is not log
    said = "A recording instead, of a simulation: NBTCP_OFFLINE is set\n"
    assert capsys.readouterr().out == said


def test_a_machine_without_tcpdump_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started: no lab is needed."""
    monkeypatch.setenv("PATH", "")
    lab: Any = None
    with pytest.raises(nbtcp.MachineError, match="there is no tcpdump here; install it"):
        Tcpdump(lab).__enter__()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump: apt install tcpdump")
def test_tcpdump_makes_a_log_one_of_both_ends() -> None:
    """Each segment that one end sent was received by the other later, but for the one dropped."""
    path = nbtcp.Path(delay=0.01, drop=(20,))
    with nbtcp.Lab(up=nbtcp.Path(delay=0.01), down=path, seed=1) as lab:
        with Tcpdump(lab) as kernel:
            ours = lab.fetch("/bytes/60000").log
        both = kernel.join(ours)
    assert len(kernel.capture) < 120 * len(ours.segments) + 1000
    assert list(both.connections["host"]) == ["10.0.0.2", "10.0.0.1"]
    segments = both.segments
    assert segments["time"].is_monotonic_increasing
    for sender, receiver, dropped in [("10.0.0.2", "10.0.0.1", 0), ("10.0.0.1", "10.0.0.2", 1)]:
        sent = segments.query(f"host == '{sender}' and event == 'send'")
        came = segments.query(f"host == '{receiver}' and event == 'recv'")
        assert len(sent) == len(came) + dropped
        way = came.groupby("raw_seq")["time"].max() - sent.groupby("raw_seq")["time"].max()
        assert way.between(0.0099, 5).all()
    kernels = segments[segments["host"] == "10.0.0.1"]
    assert kernels.query("event == 'send'")["snd_nxt"].notna().any()
    assert kernels.query("event == 'recv'")["snd_nxt"].isna().all()  # those would be ours
    [again] = both.retransmissions().itertuples()
    assert again.fate == "loss" and again.direction.startswith("10.0.0.1:80 >")


RECORDINGS = Path(__file__).parents[1] / "notebooks" / "recordings"


@pytest.mark.slow
def test_tsharks_flags_are_the_stored_ones_where_there_is_no_tshark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capture, stored = RECORDINGS / "11-kernel.pcap", RECORDINGS / "11-kernel.tsv"
    asked = tshark_flags(capture, stored)
    assert asked.shape == (490, 7) and asked["out_of_order"].sum() == 12
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert tshark_says("--version") == ""
        assert tshark_flags(capture, stored).equals(asked)
