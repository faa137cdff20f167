"""Pictures of all kinds: what is in them is what is in the log."""

import base64
import importlib
import io
import json
import re
import sys
from itertools import pairwise
from pathlib import Path as File

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_metrics import A, B, Tape
from test_plot import MSS, artist, glyphs, legend, picture

from nbtcp import Path, Simulation, compare
from nbtcp.runtime.http import Page
from nbtcp.runtime.sockets import Socket
from nbtcp.tcp.state import TRANSITIONS, State
from nbtcp.trace.diagram import state_diagram
from nbtcp.trace.glyphs import CAUSES, FEW, GLYPHS
from nbtcp.trace.plot import SUFFIXES, Plots
from nbtcp.trace.tables import rto_of_jacobson, rto_of_rfc793


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
    assert "limit: cwnd, window" in legend(shown)


def test_recovery_is_shaded_while_it_lasts(log):
    shaded = of(log.plot.sequence(), "recovery")
    events = log.events[(log.events["event"] == "recovery") & (log.events["host"] == "10.0.0.1")]
    assert shaded["time"].tolist() == events.loc[events["old"] == "open", "time"].tolist()
    assert set(shaded["until"]) - {log.segments["time"].max()} <= set(events["time"])
    assert (shaded["until"] > shaded["time"]).all()


class Script(Tape):
    """A log written by hand whose rows may also say more of the segment and of the sender."""

    MORE = ("ecn", "tsval", "snd_una", "snd_nxt", "snd_wnd", "cwnd", "inflight")

    @property
    def segments(self):
        frame = super().segments
        for name in self.MORE:
            frame[name] = [row.get(name, frame[name].iloc[n]) for n, row in enumerate(self.rows)]
        return frame.astype(dict.fromkeys(self.MORE[1:], "Int64"))

    def ack(self, time, ack=1001, window=60_000, why="ack-new", flags="A", **more):
        """An ACK that arrives at the sender of the data."""
        self.row(time, A, "recv", why, flags, ack=ack, window=window, **more)

    def data(self, time, seq=5001, why="data", flags="A", **more):
        """A segment that the sender of the data sends."""
        self.row(time, A, "send", why, flags, seq=seq, length=MSS, **more)

    def arrives(self, time, seq=5001, why="in-order", **more):
        """One that arrives, where the sender is not in the log."""
        self.row(time, A, "recv", why, seq=seq, length=MSS, **more)


def upload():
    """Three segments sent and acknowledged: data, ACK and receive window, no more."""
    tape = Script(A)
    for seq in (1, 1001, 2001):
        tape.data(0.0, seq=seq)
    tape.ack(0.1, 1001, 3000)
    return tape


def download():
    """The same, seen by the receiver."""
    tape = Script(A)
    for seq in (1, 1001, 2001):
        tape.arrives(0.0, seq=seq, tsval=7)
    tape.row(0.0, A, "send", "ack", ack=1001)
    return tape


VARIABLES = {"snd_una": 1, "snd_nxt": 3001, "snd_wnd": 9000, "cwnd": 4000, "inflight": 3000}
# For each class: what is there, what else has to happen before (if anything), and what makes
# exactly one glyph of that class, and none of another class.
EVENTS = {
    "data": (upload, lambda tape: tape.data(0.5)),
    "push": (upload, lambda tape: tape.data(0.5, flags="PA")),
    "out-of-order": (download, lambda tape: tape.arrives(0.5, why="out-of-order")),
    "duplicated": (download, lambda tape: tape.arrives(0.5, seq=1, why="duplicate", tsval=7)),
    **{why: (upload, lambda tape, why=why: tape.data(0.5, seq=1001, why=why)) for why in CAUSES},
    "resent": (download, lambda tape: tape.arrives(0.5, seq=1, why="duplicate", tsval=8)),
    "drop-loss": (upload, lambda tape: tape.row(0.5, A, "drop", "loss", seq=2001, length=MSS)),
    "drop-queue-full": (
        upload,
        lambda tape: tape.row(0.5, A, "drop", "queue-full", seq=2001, length=MSS),
    ),
    "drop-bad-checksum": (download, lambda tape: tape.arrives(0.5, why="bad-checksum")),
    "syn": (upload, lambda tape: tape.row(0.5, A, "send", "syn", "S", seq=0)),
    "fin": (upload, lambda tape: tape.row(0.5, A, "send", "fin", "FA", seq=3001)),
    "rst": (upload, lambda tape: tape.row(0.5, A, "send", "rst", "RA", seq=3001)),
    "rst-back": (upload, lambda tape: tape.row(0.5, A, "recv", "rst", "R", ack=0)),
    "urgent": (upload, lambda tape: tape.data(0.5, flags="UA")),
    "ce": (download, lambda tape: tape.arrives(0.5, ecn="CE")),
    "cwr": (upload, lambda tape: tape.data(0.5, flags="CA")),
    "ack": (lambda: tape_of(data=1), lambda tape: tape.ack(0.5)),
    "timed": (upload, lambda tape: tape.sample(A, 0.1, time=0.5, end=1001)),
    "karn": (upload, lambda tape: tape.sample(A, 0.1, kept=False, time=0.5, end=1001)),
    "duplicate-ack": (upload, lambda tape: tape.ack(0.5, why="duplicate-ack")),
    "third-duplicate": (
        lambda: tape_of(data=1, duplicates=2),
        lambda tape: tape.ack(0.5, why="duplicate-ack", window=30_000),
    ),
    "ece": (upload, lambda tape: tape.ack(0.5, flags="EA")),
    "ack-dropped": (upload, lambda tape: tape.row(0.5, B, "drop", "loss", ack=2001)),
    "sack": (upload, lambda tape: tape.ack(0.5, sack=((2001, 3001),))),
    "sack-again": (
        lambda: tape_of(data=5, sack=((2001, 3001),)),
        lambda tape: tape.ack(0.5, window=30_000, sack=((4001, 5001), (2001, 3001))),
    ),
    "d-sack": (upload, lambda tape: tape.ack(0.5, sack=((1, 1001),))),
    "limit": (upload, lambda tape: tape.data(0.5, **VARIABLES)),
    "window": (lambda: tape_of(data=1), lambda tape: tape.ack(0.5)),
    "window-same": (upload, lambda tape: tape.ack(0.5, window=3000)),
    "zero-window": (upload, lambda tape: tape.ack(0.5, window=0)),
    "recovery": (upload, lambda tape: tape.happen(0.05, A, "recovery", new="fast", old="open")),
}


def tape_of(data, duplicates=0, sack=()):
    """So many segments of data sent, and so many duplicate ACKs, or one ACK with SACK blocks."""
    tape = Script(A)
    for number in range(data):
        tape.data(0.0, seq=1 + MSS * number)
    for number in range(duplicates):
        tape.ack(0.1, why="duplicate-ack", window=50_000 + number)
    if sack:
        tape.ack(0.1, sack=sack)
    return tape


def artists(shown):
    """By class: how often it is in the table; each class that is there has one artist."""
    ax = shown.figure.axes[0]
    names = [one.get_gid() for one in (*ax.lines, *ax.collections)]
    assert len(set(names)) == len(names)
    counts = shown.data["glyph"].value_counts()
    there = {kind: int(n) for kind, n in counts.items() if n}
    assert set(names) == set(there)
    return there


def test_no_class_of_the_sequence_plot_is_without_its_event():
    names = list(GLYPHS)
    assert set(EVENTS) == set(names[: names.index("recovery") + 1])


@pytest.mark.parametrize("kind", EVENTS)
def test_each_class_is_one_artist_that_one_event_makes(kind):
    given, event = EVENTS[kind]
    before, tape = artists(picture(given())), given()
    event(tape)
    shown = picture(tape)
    after = artists(shown)
    together = {"ack", "window"} if kind in ("ack", "window") else {kind}
    assert set(after) - set(before) == together - set(before)
    assert after[kind] - before.get(kind, 0) == 1
    label = GLYPHS[kind].label
    assert sum(line.split("\n")[0] == label for line in legend(shown)) == 1
    assert shown.data.loc[shown.data["glyph"] == kind, "label"].iloc[-1] == label


def test_quiet_marks_give_way_when_there_are_many():
    tape = Script(A)
    for number in range(FEW + 2):
        tape.data(0.01 * number, seq=1 + MSS * number, flags="PA")
        tape.sample(A, 0.1, time=0.01 * number, end=1 + MSS * number)
        tape.ack(0.01 * number + 0.005, 1)
    assert not set(artists(picture(tape))) & {"push", "timed", "window-same"}
    zoomed = artists(picture(tape, between=(0, 0.5)))
    assert zoomed["push"] == zoomed["timed"] == 51 and zoomed["window-same"] == 49


def test_all_classes_together_have_room_in_the_legend():
    tape = upload()
    for kind, (_, event) in EVENTS.items():
        if kind not in ("out-of-order", "duplicated", "resent", "drop-bad-checksum", "ce"):
            event(tape)
    shown = picture(tape)
    shown.figure.draw_without_rendering()
    box = shown.figure.axes[0].get_legend().get_window_extent()
    assert len(legend(shown)) > 30
    assert box.y0 >= 0 and box.x1 <= shown.figure.bbox.x1


def test_what_happens_on_the_way_is_seen_with_both_ends_in_the_log():
    log = (
        Simulation(Path(delay=0.01, rate=10e6, mark=10, duplicate=0.03, seed=2))
        .transfer(100_000, ecn="ask")
        .log
    )
    shown = picture(log)
    rows = log.segments[(log.segments["host"] == "10.0.0.2") & (log.segments["event"] == "recv")]
    data = rows[rows["len"] > 0]
    assert of(shown, "ce")["time"].tolist() == data.loc[data["ecn"] == "CE", "time"].tolist()
    copies = data[data.duplicated(["seq", "tsval"])]
    assert of(shown, "duplicated")[["time", "seq"]].to_numpy().tolist() == (
        copies[["time", "seq"]].to_numpy().tolist()
    )
    assert len(copies) > 1
    twice = of(shown, "d-sack")  # each copy is reported
    assert set(twice["seq"]) == set(copies["seq"])


def test_d_sack_within_a_block_is_told_from_a_block():
    """RFC 2883 4: the first block is a D-SACK if it lies within the second one."""
    tape = tape_of(data=9)
    tape.ack(0.5, sack=((4001, 5001), (3001, 7001)))
    tape.ack(0.6, sack=((3001, 7001), (4001, 5001)))
    tape.ack(0.7, 7001, sack=((8001, 9001),))
    shown = picture(tape)
    assert of(shown, "d-sack")[["time", "seq"]].to_numpy().tolist() == [[0.5, 4001]]
    assert of(shown, "sack-again")["time"].tolist() == [0.5, 0.6]
    assert of(shown, "sack")["seq"].tolist() == [3001, 8001]


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
    for glyph, column in (("cwnd", "cwnd"), ("inflight", "inflight")):
        assert of(shown, glyph)["value"].tolist() == ours[column].tolist()
    told = ours[ours["state"] != "SYN-SENT"]  # before that nobody knows the receiver's window
    assert of(shown, "rwnd")["value"].tolist() == told["snd_wnd"].tolist()
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
    shown = log.plot.throughput()
    goodput, sent = of(shown, "goodput"), log.segments["event"].eq("send")
    width = goodput["time"].iloc[1]
    table = log.throughput(width)
    mine = table[table["direction"].str.startswith("10.0.0.1")]
    assert goodput["value"].tolist() == mine["goodput"].tolist()
    from_us = (sent & log.segments["host"].eq("10.0.0.1")).sum()
    assert width == pytest.approx(log.segments["time"].max() / min(100, from_us // 5))
    assert shown.figure.axes[0].get_ylabel() == "rate (Mbit/s)"


def test_queue_plot_never_has_more_than_the_path_allows(log):
    shown = log.plot.queue()
    values = shown.data["value"]
    assert values.iloc[-1] == 0
    assert values.min() == 0
    assert 15 < values.max() <= 20  # who leaves makes room before who enters
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
    assert re.match(r"<ladder of connection 1: \d+ segments, 1 sent again, 2 dropped>", repr(shown))


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


def test_ladder_shows_what_the_network_has_doubled():
    log = Simulation(Path(delay=0.04, duplicate=0.3), seed=1).transfer(20_000).log
    shown, rows = log.plot.ladder(), log.segments
    numbers = rows["event"].value_counts()
    copies = of(shown, "arrow-copied")
    assert len(copies) == numbers["recv"] - numbers["send"] > 1
    assert "arrow-guessed" not in set(shown.data["glyph"])
    assert np.allclose(copies["until"] - copies["time"], 0.04)


def test_ladder_between_two_times_has_what_left_then():
    log = Simulation(Path(delay=0.04), seed=1).transfer(20_000).log
    whole, part = log.plot.ladder().data, log.plot.ladder(between=(0.05, 0.13)).data
    left = whole[whole["time"].between(0.05, 0.13)]
    assert 0 < len(part) < len(whole)
    pd.testing.assert_frame_equal(part, left.reset_index(drop=True))


def test_ladder_says_when_the_window_is_closed():
    tape = Tape(A)
    tape.row(0.0, A, "recv", "ack-new", ack=1001, window=0)
    assert Plots(tape).ladder().data["text"].tolist() == ["A ack 1001 win 0"]


def test_ladder_has_what_an_end_without_the_connection_got_and_said():
    client, _ = Simulation(Path(delay=0.05), seed=1).hosts()
    with pytest.raises(ConnectionRefusedError):
        client.connect(("10.0.0.2", 81))  # where nobody listens
    shown = client.log.plot.ladder()
    assert set(shown.data["glyph"]) == {"arrow"}
    assert shown.data["text"].tolist() == ["S 0:0", "RA 0:0 ack 1"]
    assert shown.data[["time", "until"]].to_numpy().tolist() == [[0.0, 0.05], [0.05, 0.1]]


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


def opened_and_closed():
    pair = Simulation(Path(delay=0.05), seed=1).pair(time_wait=2)
    pair.client.close()
    pair.wait(0.2)
    pair.server.close()
    pair.wait(3)
    return pair.log


def test_the_states_stand_beside_the_ladder():
    shown = opened_and_closed().plot.ladder()
    texts = shown.figure.axes[0].texts
    notes = [text for text in texts if text.get_ha() == "center"]
    left = [note for note in notes if note.get_position()[0] < 0]
    of_client = "SYN-SENT ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT CLOSED"
    assert [note.get_text() for note in left] == of_client.split()
    places = {text.get_text(): text.get_position()[1] for text in [*texts, *left]}
    assert places["SYN-SENT"] == places["0 s   S 0:0"]  # at the segment that leaves with it
    assert places["ESTABLISHED"] < places["0.1 s   A ack 1"]  # at the arrival before


def test_states_are_not_written_over_each_other():
    log = Simulation(Path(rate=1.5e6, delay=0.2)).transfer(100).log  # the FIN comes right behind
    texts = log.plot.ladder().figure.axes[0].texts
    right = [text for text in texts if text.get_ha() == "center" and text.get_position()[0] > 0]
    assert [text.get_text() for text in right] == ["SYN-RECEIVED", "LAST-ACK", "CLOSED"]


# --- the state diagram ---


def test_the_diagram_has_all_transitions_of_the_table():
    shown = state_diagram()
    edges = {(row.old, row.cause, row.new) for row in shown.data.itertuples()}
    table = TRANSITIONS.items()
    assert edges == {(old.label, cause.label, new.label) for (old, cause), new in table}
    texts = [text.get_text() for text in shown.figure.axes[0].texts]
    assert {state.label for state in State} <= set(texts)
    assert {"active OPEN", "passive OPEN", "rcv SYN", "rcv ACK of FIN"} <= set(texts)
    everywhere = ("rcv-rst", "abort", "timeout")
    drawn = {(old, new) for (old, cause), new in table if cause.label not in everywhere}
    assert len(shown.figure.axes[0].patches) == len(drawn)


def test_the_diagram_has_the_ways_of_both_ends():
    shown = opened_and_closed().plot.diagram()
    ways = {host: rows["new"].tolist() for host, rows in shown.data.groupby("host", observed=True)}
    active = "SYN-SENT ESTABLISHED FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT CLOSED"
    passive = "LISTEN SYN-RECEIVED ESTABLISHED CLOSE-WAIT LAST-ACK CLOSED"
    assert ways == {"10.0.0.1": active.split(), "10.0.0.2": passive.split()}
    assert legend(shown) == ["path of 10.0.0.1", "path of 10.0.0.2"]
    assert repr(shown).startswith("<state diagram of connection 1: 10.0.0.1: SYN-SENT, EST")


def test_the_diagram_shows_a_reset_where_there_was_one():
    pair = Simulation(Path(delay=0.05), seed=1).pair()
    arrows = [len(pair.log.plot.diagram().figure.axes[0].patches)]
    pair.client.abort()
    pair.wait(1)
    shown = pair.log.plot.diagram()
    arrows.append(len(shown.figure.axes[0].patches))
    assert shown.data["cause"].tolist()[-1:] == ["rcv-rst"]
    assert arrows[1] == arrows[0] + 3  # the edge, and each end's way


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
    with pytest.raises(ValueError, match=r"of two connections, as conn=\(1, 2\), not 1$"):
        two_flows().plot.phase(conn=1)


# --- waits ---


def test_the_rto_by_two_formulas_is_what_one_computes_by_hand():
    rtt = pd.Series([1.0, 1.0, 5.0])
    assert rto_of_rfc793(rtt).to_list() == pytest.approx([2.0, 2.0, 2.8])
    assert rto_of_jacobson(rtt).to_list() == [3.0, 2.5, 6.625]


def test_waits_marks_the_samples_that_came_later_than_a_formula_waits():
    path = Path(delay=0.025, reorder=0.3, held=0.1, seed=1)
    one = {"congestion": "fixed", "initial_window": 1448, "ack_every": 1, "recovery": "newreno"}
    log = Simulation(path).transfer(200 * 1448, min_rto=1.0, **one).log
    shown = log.plot.waits().data.set_index("time")
    samples = log.rtt().query("host == '10.0.0.1'").set_index("time")
    assert shown.query("glyph == 'sample'")["value"].to_list() == samples["rtt"].to_list()
    # One segment is in flight at a time, so the sample before is the last one known.
    for name in ("rfc793", "jacobson"):
        waited = shown[shown["glyph"] == f"rto-{name}"]["value"].shift()
        late = samples.index[samples["rtt"] > waited]
        assert shown.index[shown["glyph"] == f"late-{name}"].to_list() == late.to_list()
    assert (shown["glyph"] == "late-rfc793").sum() > 5 * (shown["glyph"] == "late-jacobson").sum()


# --- what all take, and give ---

KINDS = "sequence stevens rtt waits window throughput ladder states timers scoreboard queue".split()
ALL = [*KINDS, "overview", "compare", "phase", "diagram"]


@pytest.fixture(scope="module")
def flows():
    return two_flows()


def show(kind, log, flows, **options):
    if kind == "phase":
        return flows.plot.phase(**{"conn": (1, 2), **options})
    conn = {"conn": 1, **options}
    if kind == "compare":
        return compare({"one": log, "other": log}).plot(**conn)
    return getattr(log.plot, kind)(**conn)


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_takes_axes_a_direction_and_a_time(log, flows, kind):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    low, high = {"phase": (1.0, 2.0), "diagram": (0.0, 0.5)}.get(kind, (0.2, 0.5))
    shown = show(kind, log, flows, ax=right, between=(low, high), direction="out")
    assert shown.figure is figure
    assert not left.has_data() and len(figure.axes) == (5 if kind == "overview" else 2)
    times = shown.data["time"].dropna()
    assert times.between(low, high).all() and len(times) > 1
    with pytest.raises(ValueError, match="nothing to plot between 90 and 91 s"):
        show(kind, log, flows, between=(90, 91))
    with pytest.raises(ValueError, match=r"no direction 'up' in connection 1: choose 'out', 'in'"):
        show(kind, log, flows, direction="up")


def test_lines_go_from_edge_to_edge_of_a_short_time(log):
    """What holds until it changes is known in between, too, where nothing is sent."""
    between = (0.30001, 0.31999)
    shown = log.plot.window(between=between)
    line = artist(shown, "cwnd")
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == between
    rows = log.segments[log.segments["host"] == "10.0.0.1"]
    before = rows[(rows["time"] <= between[0]) & rows["cwnd"].notna()]
    assert line.get_ydata()[0] == before["cwnd"].iloc[-1]
    assert shown.data["time"].gt(between[0]).all()  # these are no events
    assert shown.figure.axes[0].get_xlabel() == "time (ms)"


def test_late_times_have_no_long_labels():
    tape = Tape(A)
    for number in range(5):
        tape.row(5 + 1e-5 * number, A, "send", "data", seq=1 + MSS * number, length=MSS)
    axis = picture(tape).figure.axes[0].xaxis
    assert axis.get_label_text() == "time (ms)"
    assert axis.get_major_formatter()(5.00001) == "5000.01"


def test_a_figure_is_laid_out_once_and_drawn_once(log, monkeypatch):
    """Figure.savefig draws a figure with a layout engine twice."""
    drawn = []
    plain = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, *rest: (drawn.append(1), plain(self, *rest)))
    shown = log.plot.window(between=(0, 0.2))
    for make in (shown.png, shown._repr_html_):
        drawn.clear()
        make()
        assert len(drawn) == 1
    assert shown.figure.get_layout_engine() is not None


def test_a_notebook_shows_it_whole_whatever_matplotlib_is_set_to(log):
    shown = log.plot.window()
    with mpl.rc_context({"savefig.bbox": "tight"}):
        assert shown._repr_html_() == shown._repr_html_() == log.plot.window()._repr_html_()
        page = shown._repr_html_()
    assert page == shown._repr_html_()


def test_a_comparison_of_a_time_without_a_change_has_its_lines(log):
    """Its limits cut the line, and a time without any is refused."""
    logs = {"one": log, "other": log}
    shown = compare(logs).plot("window", between=(0.3, 0.32))
    assert set(shown.data.groupby("run")["time"].agg(["min", "max"]).to_numpy().ravel()) == {
        0.3,
        0.32,
    }
    with pytest.raises(ValueError, match="nothing to plot"):
        compare(logs).plot("window", between=(100, 200))


def test_what_xplot_cannot_show_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"'a.xpl': xplot draws lines over two linear axes, and"):
        state_diagram().save(tmp_path / "a.xpl")


def test_an_overview_needs_axes_of_a_grid(log):
    with pytest.raises(ValueError, match="ax must be one of a grid"):
        log.plot.overview(ax=Figure().add_axes((0, 0, 1, 1)))


MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".csv": b"", ".xpl": b"double"}


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_is_the_same_each_time(log, flows, kind, tmp_path):
    some = {"phase": (0.0, 1.0), "ladder": (0.0, 0.1)}.get(kind, (0.0, 0.3))
    suffixes = [suffix for suffix in SUFFIXES if (kind, suffix) != ("diagram", ".xpl")]
    one, other = (show(kind, log, flows, between=some) for _ in range(2))
    assert repr(one) == repr(other) and re.fullmatch(r"<[\w ]+ of [^<>]+>", repr(one))
    pd.testing.assert_frame_equal(one.data, other.data)
    page = one._repr_html_()
    alt = re.match(r'<img alt="([^"]+)" src="data:image/png;base64,', page)[1]
    assert len(alt) > 30 and alt.startswith(repr(one)[1:2].upper())
    files = {suffix: one.save(tmp_path / f"a{suffix}").read_bytes() for suffix in suffixes}
    for suffix, content in files.items():
        assert content.startswith(MAGIC[suffix]) and len(content) > 200
        if suffix not in (".pdf", ".png"):  # test_plot.py saves one of those twice
            assert content == other.save(tmp_path / f"b{suffix}").read_bytes()
    shown = base64.b64decode(page.split("base64,")[1].split('"')[0])
    assert page == other._repr_html_() and len(shown) < len(files[".png"])
    assert Image.open(io.BytesIO(shown)).size == Image.open(io.BytesIO(files[".png"])).size
    table = pd.read_csv(tmp_path / "a.csv")
    assert (list(table.columns), len(table)) == (list(one.data.columns), len(one.data))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "diagram"])
def test_xplot_files_have_only_words_that_xplot_knows(log, flows, kind, tmp_path):
    shown = show(kind, log, flows, between=(0, 2) if kind == "phase" else (0, 0.5))
    content = shown.save(tmp_path / "a.xpl").read_text()
    number = r"-?\d+(\.\d+)?(e[+-]\d+)?"
    command = re.compile(
        rf"(line {number} {number} {number} {number}"
        rf"|(dtick|utick|diamond|dot|atext|rtext) {number} {number}"
        r"|white|yellow|orange|green|blue|red|purple|pink)$"
    )
    plots = content.split("new_plotter\n")
    assert len(plots) == (4 if kind == "overview" else 1)
    for plot in plots:
        lines = plot.splitlines()
        assert lines[:2] == ["double double", "title"] and lines[-1] == "go"
        body, drawn = iter(lines[7:-1]), 0
        for line in body:
            assert command.match(line), line
            drawn += " " in line
            if line.startswith(("atext", "rtext")):
                next(body)
        assert drawn > 5


def test_by_default_of_a_download_is_drawn_what_the_log_knows():
    """The sender is not ours: nothing is known of its window, but of that of our requests."""
    tape = Script(A)
    tape.data(0.0, seq=1, **VARIABLES)
    tape.arrives(0.1, seq=1)
    tape.arrives(0.2, seq=1001)
    tape.sample(A, 0.1, time=0.1)
    assert "10.0.0.1:80 > " in picture(tape)._title
    for kind in ("window", "rtt"):
        shown = getattr(Plots(tape), kind)()
        assert shown._title.startswith("Connection 1: 10.0.0.2:49152 > 10.0.0.1:80")
        with pytest.raises(ValueError, match=f"nothing to plot: no .* {B}:80 > "):
            getattr(Plots(tape), kind)(direction="in")


def test_a_glyph_that_is_there_once_keeps_its_colour_in_a_notebook():
    paths = Path(rate=2e6, delay=0.05, drop=(30,)), Path(rate=2e6, delay=0.05)
    sim = Simulation(up=paths[0], down=paths[1])
    log = sim.transfer(300_000, recovery="reno", congestion="reno", sack=False).log
    page = log.plot.sequence(between=(0.3, 0.7))._repr_html_()
    shown = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    colors = {color: count for count, color in shown.convert("RGB").getcolors(1 << 24)}
    assert colors[0xD5, 0x5E, 0x00] > 20, "the fast retransmit is vermilion"


def test_the_plots_of_a_log_name_themselves(log):
    assert repr(log.plot) == (
        "<plots of a log: compare, diagram, ladder, overview, phase, queue, rtt, scoreboard, "
        "sequence, states, stevens, throughput, timers, waits, window>"
    )


# --- what a cell shows ---


def shown_objects():
    sim = Simulation(Path(delay=0.02))
    pair, transfer = sim.pair(), sim.transfer(10_000)
    page = Page("http://10.0.0.1/a?<b>", 200, "OK", {}, b"abc", transfer.log)
    plots = transfer.log.plot
    return {
        **{"log": transfer.log, "page": page, "connection": pair.client.connection},
        **{"socket": pair.client, "plot": plots.sequence(), "plots": plots},
        **{"pair": pair, "transfer": transfer, "simulation": sim},
        **{"comparison": compare({"a": transfer.log})},
    }


def test_what_a_cell_shows_is_useful_and_the_same_each_time():
    """No addresses in memory, no time of day: notebooks are compared with their saved outputs."""
    one, other = shown_objects(), shown_objects()
    for name, thing in one.items():
        assert repr(thing) == repr(other[name])
        assert len(repr(thing)) > 15 and " at 0x" not in repr(thing), name
    for name in ("log", "page", "connection", "socket", "plot"):
        text = one[name]._repr_html_()
        assert text == other[name]._repr_html_()
        assert "<b>" not in text and " at 0x" not in text
    assert "<Page" not in one["page"]._repr_html_()
    assert "&lt;Page 200 http://10.0.0.1/a?&lt;b&gt;: 3 octets&gt;" in one["page"]._repr_html_()
    assert "<td>SND.WND</td>" in one["connection"]._repr_html_()
    assert "<td>10.0.0.1</td>" in one["log"]._repr_html_()
    assert one["socket"]._repr_html_() == one["connection"]._repr_html_()
    assert Socket(one["pair"].host)._repr_html_() is None  # it is not connected: its repr says so


# --- the pictures of the docs ---

sys.path.append(str(File(__file__).resolve().parents[1] / "docs"))
docs = importlib.import_module("make_pictures")


@pytest.fixture(scope="module")
def scene():
    return docs.setup()


@pytest.mark.parametrize("name", docs.PICTURES)
def test_the_pictures_of_the_docs_show_what_the_code_draws(name, scene):
    """What is in them: axes, artists and their data. After a change that is meant: python
    docs/make_pictures.py, and a look at what it has drawn.
    """
    kept = json.loads(docs.CONTENTS.read_text())[name]
    now = json.loads(json.dumps(docs.content(docs.draw(name, scene))))
    assert now == kept, "python docs/make_pictures.py draws them anew; look at them then"


def test_the_page_of_the_pictures_is_that_of_its_script():
    assert docs.PAGE.read_text() == docs.page()
    sizes = {file.stem: file.stat().st_size for file in docs.FOLDER.glob("*.png")}
    assert set(sizes) == set(docs.PICTURES) == set(json.loads(docs.CONTENTS.read_text()))
    assert max(sizes.values()) < 40_000 and sum(sizes.values()) < 400_000
