"""Pictures of all kinds: what is in them is what is in the log."""

import re
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_metrics import A, B, Tape
from test_plot import MSS, Large, artist, glyphs, legend, picture

from nbtcp import Path, Simulation
from nbtcp.trace.plot import Plots


@pytest.fixture(scope="module")
def log():
    path = Path(rate=5e6, delay=0.02, queue=20, loss=0.01)
    return Simulation(path, seed=1).transfer(600_000, congestion="reno").log


def of(shown, glyph):
    return shown.data[shown.data["glyph"] == glyph]


# --- what the sequence plot has from the sender's variables, flags and events ---


def test_the_limit_is_what_cwnd_and_window_allow(log):
    shown = log.plot.sequence()
    rows = log.segments
    ours = rows[(rows["host"] == "10.0.0.1") & (rows["event"] != "drop")]
    allowed = np.minimum(
        ours["snd_nxt"] + ours["cwnd"] - ours["inflight"], ours["snd_una"] + ours["snd_wnd"]
    )
    assert of(shown, "limit")["seq"].tolist() == allowed.tolist()
    assert "cwnd allows" in legend(shown)


def test_recovery_is_shaded_while_it_lasts(log):
    shaded = of(log.plot.sequence(), "recovery")
    events = log.events[(log.events["event"] == "recovery") & (log.events["host"] == "10.0.0.1")]
    assert shaded["time"].tolist() == events.loc[events["old"] == "open", "time"].tolist()
    assert set(shaded["until"]) - {log.segments["time"].max()} <= set(events["time"])
    assert (shaded["until"] > shaded["time"]).all()


def test_third_duplicate_is_told_from_the_others():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=5 * MSS)
    for now in (0.1, 0.2, 0.3, 0.4):
        tape.row(now, A, "recv", "duplicate-ack", ack=1)
    shown = picture(tape)
    assert glyphs(shown) == {"data": 1, "duplicate-ack": 4, "third-duplicate": 1}
    assert of(shown, "third-duplicate")["time"].tolist() == [0.3]


def test_marks_of_congestion_and_urgent_data():
    tape = Tape(A)
    tape.row(0.0, A, "send", "syn", "SEC", seq=0)
    tape.row(0.1, A, "send", "data", "UPA", seq=1, length=MSS)
    tape.row(0.2, A, "recv", "ack-new", "AE", ack=1001)
    tape.row(0.3, A, "send", "data", "PAC", seq=1001, length=MSS)
    shown = picture(tape)
    assert glyphs(shown) == {"syn": 1, "data": 2, "urgent": 1, "ece": 1, "cwr": 1}
    assert of(shown, "ece")["time"].tolist() == [0.2]
    assert of(shown, "cwr")["time"].tolist() == [0.3]
    assert of(shown, "urgent")["seq"].tolist() == [1001]


def test_an_ack_whose_sample_was_rejected():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(1.0, A, "send", "timeout", seq=1, length=MSS)
    tape.row(1.1, A, "recv", "ack-new", ack=1001)
    tape.sample(A, 0.1, kept=False, time=1.1, end=1001)
    shown = picture(tape)
    assert of(shown, "karn")[["time", "seq"]].to_numpy().tolist() == [[1.1, 1001]]


# --- variables over time ---


def test_window_plot_has_the_values_of_the_log(log):
    shown = log.plot.window()
    rows = log.segments
    ours = rows[(rows["host"] == "10.0.0.1") & (rows["event"] != "drop")]
    for glyph, column in (("cwnd", "cwnd"), ("inflight", "inflight"), ("rwnd", "snd_wnd")):
        assert of(shown, glyph)["value"].tolist() == ours[column].tolist()
    known = ours["ssthresh"].notna()
    assert of(shown, "ssthresh")["time"].tolist() == ours.loc[known, "time"].tolist()
    assert shown.figure.axes[0].get_ylabel() == "window (kB)"


def test_window_of_a_sender_that_is_not_ours_says_so():
    tape = Tape(A)
    tape.row(0.0, A, "recv", "in-order", seq=1, length=MSS)
    with pytest.raises(ValueError, match=f"no variables of a sender of ours that sent {B}:80 > "):
        Plots(tape).window()


def test_rtt_plot_has_the_samples(log):
    shown, samples = log.plot.rtt(), log.rtt()
    mine = samples[samples["host"] == "10.0.0.1"]
    assert of(shown, "sample")["value"].tolist() == mine.loc[mine["kept"], "rtt"].tolist()
    assert len(of(shown, "rejected")) == (~mine["kept"]).sum()
    band = of(shown, "rttvar")
    assert np.allclose((band["value"] + band["high"]) / 2, of(shown, "srtt")["value"])
    assert shown.figure.axes[0].get_ylabel() == "round-trip time (ms)"
    assert artist(shown, "rto").get_drawstyle() == "steps-post"


def test_throughput_plot_has_the_table(log):
    shown, table = log.plot.throughput(), log.throughput()
    mine = table[table["direction"].str.startswith("10.0.0.1")]
    assert of(shown, "goodput")["value"].tolist() == mine["goodput"].tolist()
    assert shown.figure.axes[0].get_ylabel() == "rate (Mbit/s)"


def test_queue_plot_never_has_more_than_the_path_allows(log):
    shown = log.plot.queue()
    values = shown.data["value"]
    assert values.iloc[-1] == 0
    assert values.min() == 0
    assert values.max() in (20, 21)  # one may be entering while the first one leaves
    with pytest.raises(ValueError, match="no path with a rate for"):
        Simulation(Path(delay=0.01)).transfer(1000).log.plot.queue()


# --- lanes ---


def test_states_of_both_ends(log):
    shown = log.plot.states()
    table = log.states()
    for glyph, host in (("state", "10.0.0.1"), ("state-peer", "10.0.0.2")):
        assert of(shown, glyph)["state"].tolist() == table[table["host"] == host]["state"].tolist()
    names = [text.get_text() for text in shown.figure.axes[0].get_yticklabels()]
    assert names[0] == "SYN-SENT"
    assert set(names) == set(table["state"])
    heights = shown.figure.axes[0].get_yticks()
    assert heights[0] > heights[-1]


def test_timers_run_and_fire():
    log = Simulation(Path(delay=0.05, drop=(1,)), seed=1).transfer(30_000).log
    shown, table = log.plot.timers(), log.timers()
    mine = table[table["host"] == "10.0.0.1"]
    assert len(of(shown, "timer")) == len(mine)
    fired = mine[mine["end"] == "fired"]
    assert of(shown, "fired")[["time", "timer"]].to_numpy().tolist() == [
        list(row) for row in fired[["until", "timer"]].to_numpy().tolist()
    ]
    assert len(fired) >= 1


# --- scoreboard ---


def test_scoreboard_follows_each_segment():
    tape = Tape(A)
    for number in range(4):
        tape.row(0.01 * number, A, "send", "data", seq=1 + MSS * number, length=MSS)
    tape.row(0.10, A, "recv", "ack-new", ack=1001)
    tape.row(0.12, A, "recv", "duplicate-ack", ack=1001, sack=((2001, 3001),))
    tape.row(0.13, A, "recv", "duplicate-ack", ack=1001, sack=((2001, 4001),))
    tape.row(0.14, A, "send", "sack-hole", seq=1001, length=MSS)
    tape.row(0.24, A, "recv", "ack-new", ack=4001)
    shown = Plots(tape).scoreboard()
    flight = of(shown, "in-flight").sort_values("seq")
    assert flight["seq"].tolist() == [1, 1001, 2001, 3001]
    assert flight["until"].tolist() == [0.10, 0.14, 0.12, 0.13]
    (again,) = of(shown, "in-flight-again").itertuples()
    assert (again.time, again.until, again.seq, again.end) == (0.14, 0.24, 1001, 2001)
    held = of(shown, "sacked").sort_values("seq")
    assert held[["time", "until", "seq"]].to_numpy().tolist() == [
        [0.12, 0.24, 2001],
        [0.13, 0.24, 3001],
    ]


# --- ladder ---


def test_ladder_has_each_segment_once_with_both_its_times():
    log = Simulation(Path(delay=0.04, drop=(5,)), seed=1).transfer(20_000).log
    shown, rows = log.plot.ladder(), log.segments
    numbers = rows["event"].value_counts()
    assert len(shown.data) == numbers["send"]
    assert len(of(shown, "arrow-lost")) == numbers["drop"] == 2  # the fifth of each direction
    arrived = shown.data[shown.data["glyph"] != "arrow-lost"]
    assert len(arrived) == numbers["recv"]
    assert np.allclose(arrived["until"] - arrived["time"], 0.04)
    assert "arrow-guessed" not in set(shown.data["glyph"])
    (again,) = of(shown, "arrow-again").itertuples()
    assert again.text == "A 4345:5793 ack 1"
    assert shown.data["text"].tolist()[:2] == ["S 0:0", "SA 0:0 ack 1"]
    assert re.match(r"<ladder of connection 1: \d+ segment, 1 sent again, 2 dropped>", repr(shown))


def test_ladder_of_one_end_guesses_and_says_so():
    tape = Tape(A)
    tape.row(0.0, A, "send", "syn", "S", seq=0)
    tape.row(0.1, A, "recv", "syn-ack", "SA", seq=0)
    tape.sample(A, 0.1)
    shown = Plots(tape).ladder()
    assert set(shown.data["glyph"]) == {"arrow-guessed"}
    assert shown.data[["time", "until", "low"]].to_numpy().tolist() == [
        [0.0, 0.05, 0.0],
        [0.05, 0.1, 1.0],
    ]


def test_the_texts_of_a_ladder_do_not_overlap():
    log = Simulation(Path(delay=0.04, loss=0.05), seed=3).transfer(60_000).log
    shown = log.plot.ladder()
    assert 50 < len(shown.data) < 200
    canvas = shown.figure.canvas
    canvas.draw()
    boxes = [text.get_window_extent() for text in shown.figure.axes[0].texts]
    for side in ("left", "right"):
        texts = shown.figure.axes[0].texts
        edges = sorted(
            (box.y0, box.y1)
            for box, text in zip(boxes, texts, strict=True)
            if text.get_ha() == side
        )
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(edges)]
        assert min(gaps) > -1


def test_a_ladder_that_nobody_could_read_is_refused():
    log = Simulation(Path(delay=0.01)).transfer(2_000_000).log
    with pytest.raises(ValueError, match=r"too long to read: choose .* between=\(0, 0\.\d+\)"):
        log.plot.ladder()


# --- several together ---


def test_overview_stacks_what_there_is_on_one_time_axis(log):
    shown = log.plot.overview()
    assert repr(shown) == "<overview of connection 1: sequence, window, rtt, queue>"
    limits = {ax.get_xlim() for ax in shown.figure.axes}
    assert len(limits) == 1 and len(shown.figure.axes) == 4
    assert shown.figure.axes[-1].get_xlabel() == "time (ms)"
    assert set(shown.data["picture"]) == {"sequence", "window", "rtt", "queue"}
    plain = Simulation(Path(delay=0.01)).transfer(50_000).log.plot.overview()
    assert repr(plain) == "<overview of connection 1: sequence, window, rtt>"


def two_flows():
    sim = Simulation(Path(rate=10e6, delay=0.02, queue=30), seed=1)
    first, _ = sim.compete({"octets": 1_000_000}, {"octets": 1_000_000}, seconds=60)
    return first.log


def test_phase_plot_sets_one_window_against_the_other():
    log = two_flows()
    shown = log.plot.phase()
    data = of(shown, "flows")
    rows = log.segments
    for conn, column in ((1, "low"), (2, "high")):
        mine = rows[(rows["conn"] == conn) & (rows["host"] == "10.0.0.1")]
        assert set(data[column]) <= set(mine["cwnd"].dropna())
        until = [
            mine[mine["time"] <= time]["cwnd"].dropna().iloc[-1] for time in data["time"][::50]
        ]
        assert data[column][::50].to_list() == until
    assert shown.figure.axes[0].get_xlabel() == "cwnd of connection 1 (kB)"
    assert {line.get_gid() for line in shown.figure.axes[0].lines} == {
        *("flows", "fair", "start", "stop")
    }


def test_phase_plot_needs_two_connections(log):
    with pytest.raises(ValueError, match="of two connections, and the log has fewer"):
        log.plot.phase()


# --- what all take, and give ---

KINDS = "sequence stevens window rtt throughput queue states timers scoreboard ladder".split()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_axes_and_a_time(log, kind):
    ax = Figure().add_subplot()
    shown = getattr(log.plot, kind)(ax=ax, between=(0.2, 0.5), conn=1, direction="out")
    assert shown.figure is ax.figure
    assert shown.data["time"].between(0.2, 0.5).all()
    with pytest.raises(ValueError, match="nothing to plot between 90 and 91 s"):
        getattr(log.plot, kind)(between=(90, 91))


@pytest.mark.parametrize("kind", [*KINDS, "overview"])
def test_every_kind_is_the_same_each_time(log, kind, tmp_path):
    some = (0.0, 0.3)
    one, other = (getattr(log.plot, kind)(between=some) for _ in range(2))
    assert repr(one) == repr(other)
    pd.testing.assert_frame_equal(one.data, other.data)
    for name in ("a.svg", "a.csv"):
        assert one.save(tmp_path / name).read_bytes() == other.save(tmp_path / name).read_bytes()
    assert one._repr_html_().startswith('<img alt="')


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ladder"])
def test_xplot_files_have_only_words_that_xplot_knows(log, kind, tmp_path):
    shown = getattr(log.plot, kind)()
    lines = shown.save(tmp_path / "a.xpl").read_text().splitlines()
    assert lines[:2] == ["double double", "title"] and lines[-1] == "go"
    number = r"-?\d+(\.\d+)?(e[+-]\d+)?"
    command = re.compile(
        rf"(line {number} {number} {number} {number}|(dtick|utick|diamond|atext) {number} {number}"
        r"|white|yellow|orange|green|blue|red|purple|pink)$"
    )
    body = iter(lines[7:-1])
    drawn = 0
    for line in body:
        assert command.match(line), line
        drawn += " " in line
        if line.startswith("atext"):
            next(body)
    assert drawn > 5


def test_an_overview_cannot_be_saved_for_xplot(log, tmp_path):
    with pytest.raises(ValueError, match=r"cannot save 'a\.xpl': this picture is several"):
        log.plot.overview().save(tmp_path / "a.xpl")


def test_the_plots_of_a_log_name_themselves(log):
    assert repr(log.plot) == (
        "<plots of a log: compare, ladder, overview, phase, queue, rtt, scoreboard, sequence, "
        "states, stevens, throughput, timers, window>"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence", "stevens", "throughput", "scoreboard"])
def test_a_hundred_thousand_segments(kind):
    """Half a second on a quiet machine; here only so much that a bad algorithm shows."""
    tape = Large(50_000)
    began = time.process_time()
    getattr(Plots(tape), kind)().png()
    assert time.process_time() - began < 2
