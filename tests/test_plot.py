"""Pictures, checked by what is in them: their artists and their data."""

import csv
import re
import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from speed import slowness
from test_metrics import A, B, Tape

from nbtcp import Path, Simulation
from nbtcp.trace.glyphs import glyph_of
from nbtcp.trace.kinds import KINDS
from nbtcp.trace.plot import CAUSES, GLYPHS, Picture, Plots

MSS = 1000


def picture(tape, **options):
    return Plots(tape).sequence(**options)


def glyphs(shown):
    """The classes drawn, each with the number of its rows, without the lines of ACK and window, and
    the quiet marks of what is so at every segment.
    """
    counts = shown.data["glyph"].value_counts()
    usual = {"ack", "window", *(kind for kind in counts.index if glyph_of(kind).quiet)}
    return {kind: n for kind, n in counts.items() if n and kind not in usual}


def artist(shown, kind):
    (line,) = [line for line in shown.figure.axes[0].lines if line.get_gid() == kind]
    return line


def legend(shown):
    return [text.get_text() for text in shown.figure.axes[0].get_legend().get_texts()]


def upload(*causes, host=A):
    """A sends one segment after the other, each sent again for one of the causes."""
    tape = Tape(host)
    for number, why in enumerate(causes):
        start = 1 + MSS * number
        tape.row(0.1 * number, A, "send", "data", "PA", seq=start, length=MSS)
        tape.row(0.1 * number + 0.05, A, "send", why, "PA", seq=start, length=MSS)
        tape.row(0.1 * number + 0.06, A, "recv", "ack-new", ack=start + MSS)
    return tape


def download(segments=3):
    tape = Tape(A)
    for number in range(segments):
        start = 1 + MSS * number
        tape.row(0.1 * number, A, "recv", "in-order", "A", seq=start, length=MSS)
        tape.row(0.1 * number, A, "send", "ack", "A", ack=start + MSS, window=4000)
    return tape


# --- glyphs ---


@pytest.mark.parametrize("why", CAUSES)
def test_sent_again_shows_the_cause_and_nothing_else(why):
    shown = picture(upload(why))
    assert glyphs(shown) == {"data": 1, why: 1}
    (again,) = shown.data[shown.data["glyph"] == why].itertuples()
    assert (again.time, again.seq, again.end, again.resent) == (0.05, 1, 1001, True)
    assert legend(shown)[:3] == ["data", "PSH", GLYPHS[why].label]


def test_sent_again_for_an_unknown_reason_is_seen_again():
    assert glyphs(picture(upload("data"))) == {"data": 1, "resent": 1}


def test_first_window_probe_is_no_retransmission():
    tape = Tape(A)
    tape.row(0.0, A, "recv", "ack-new", ack=1, window=0)
    tape.row(1.0, A, "send", "window-probe", seq=1, length=1)
    shown = picture(tape)
    assert glyphs(shown) == {"zero-window": 1, "window-probe": 1}
    assert not shown.data["resent"].any()


@pytest.mark.parametrize(
    ("why", "kind", "label"),
    [
        ("loss", "drop-loss", "dropped: loss"),
        ("queue-full", "drop-queue-full", "dropped: queue full"),
        ("red-queue", "drop-red-queue", "dropped: red queue"),
    ],
)
def test_dropped_is_a_cross_in_the_middle_of_the_segment(why, kind, label):
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(0.1, A, "drop", why, seq=1, length=MSS)
    tape.row(0.2, A, "drop", why, seq=1001)  # a pure ACK has no place in the data
    shown = picture(tape)
    assert glyphs(shown) == {"data": 1, kind: 1}
    line = artist(shown, kind)
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.1], [501.0])
    assert label in legend(shown)


def test_dropped_ack_stands_at_what_it_acknowledged():
    tape = upload("timeout")
    tape.row(0.02, B, "drop", "queue-full", ack=1001)
    shown = picture(tape)
    assert glyphs(shown) == {"data": 1, "timeout": 1, "ack-dropped": 1}
    (lost,) = shown.data[shown.data["glyph"] == "ack-dropped"].itertuples()
    assert (lost.time, lost.seq, lost.label) == (0.02, 1001, "ACK dropped")
    assert "drop" not in repr(shown)  # the data arrived


def test_damaged_on_the_way_is_dropped_not_received():
    tape = download()
    tape.row(0.5, A, "recv", "bad-checksum", seq=1, length=MSS)
    assert glyphs(picture(tape)) == {"data": 3, "drop-bad-checksum": 1}


def test_received_out_of_order_and_again():
    tape = download()
    tape.row(0.5, A, "recv", "out-of-order", seq=5001, length=MSS)
    tape.row(0.5, A, "send", "duplicate-ack", ack=3001, sack=((5001, 6001),))
    tape.row(0.6, A, "recv", "duplicate", seq=1, length=MSS)
    shown = picture(tape)
    assert glyphs(shown) == {
        **{"data": 3, "out-of-order": 1, "resent": 1},
        **{"duplicate-ack": 1, "sack": 1},
    }
    (block,) = shown.data[shown.data["glyph"] == "sack"].itertuples()
    assert (block.time, block.seq, block.end) == (0.5, 5001, 6001)
    (tick,) = shown.data[shown.data["glyph"] == "duplicate-ack"].itertuples()
    assert (tick.seq, tick.end) == (3001, 3001)


def test_syn_fin_and_rst_are_marks():
    tape = Tape(A)
    tape.row(0.0, A, "send", "syn", "S", seq=0)
    tape.row(0.1, A, "recv", "syn-ack", "SA", seq=0)
    tape.row(0.2, A, "send", "data", "PA", seq=1, length=MSS)
    tape.row(0.3, A, "send", "fin", "FPA", seq=1001, length=MSS)
    tape.row(0.4, A, "send", "rst", "RA", seq=2002)
    tape.row(0.4, A, "recv", "rst", "RA", seq=1, ack=2002)
    shown = picture(tape)
    assert glyphs(shown) == {"syn": 1, "data": 2, "fin": 1, "rst": 1, "rst-back": 1}
    places = shown.data.set_index("glyph")["seq"]
    assert (places["syn"], places["fin"]) == (0, 2001)


def test_syn_sent_again_shows_the_timeout():
    tape = Tape(A)
    tape.row(0.0, A, "send", "syn", "S", seq=0)
    tape.row(1.0, A, "send", "timeout", "S", seq=0)
    shown = picture(tape)
    assert glyphs(shown) == {"syn": 2, "timeout": 1}
    assert "0 data segments, 1 retransmission," in repr(shown)


def test_reset_with_a_strange_number_does_not_squash_the_picture():
    tape = download()
    tape.row(0.5, A, "recv", "rst", "R", seq=3_000_000_000)
    shown = picture(tape)
    assert shown.data.loc[shown.data["glyph"] == "rst", "seq"].tolist() == [3001]
    assert shown.figure.axes[0].get_ylim()[1] < 8000


def test_bars_are_one_line_broken_by_nan():
    line = artist(picture(download(2)), "data")
    assert line.get_xdata().tolist() == [0.0] * 3 + [0.1] * 3
    np.testing.assert_array_equal(line.get_ydata(), [1, 1001, np.nan, 1001, 2001, np.nan])


def test_marker_of_a_cause_stands_once_on_each_bar():
    line = artist(picture(upload("timeout", "timeout")), "timeout")
    np.testing.assert_array_equal(line.get_ydata()[:4], [1, 501, 1001, np.nan])
    assert line.get_markevery() == (1, 4)


def test_ack_and_window_are_step_lines_that_overtaken_acks_leave_alone():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=3 * MSS)
    for now, ack, window in ((0.1, 1001, 2000), (0.2, 3001, 1000), (0.3, 2001, 1000)):
        tape.row(now, A, "recv", "ack-new", ack=ack, window=window)
    shown = picture(tape)
    ack, window = artist(shown, "ack"), artist(shown, "window")
    assert ack.get_drawstyle() == window.get_drawstyle() == "steps-post"
    assert ack.get_ydata().tolist() == [1001, 3001]
    assert window.get_ydata().tolist() == [3001, 4001]


def test_each_class_differs_in_shape():
    """Whoever sees no colours sees them all the same."""
    names = list(GLYPHS)[: list(GLYPHS).index("recovery") + 1]  # of the sequence plot
    looks = [(g.shape, g.marker, g.hollow, g.dashes) for g in map(GLYPHS.get, names)]
    same = {look for look in looks if looks.count(look) > 1}
    assert same == {("bar", "_", False, "-")}  # data and SACK blocks: the one thick, the other thin


@pytest.fixture(scope="module")
def lossy():
    """A transfer with all that a sender of ours can have: losses, a queue, both ends."""
    path = Path(rate=5e6, delay=0.02, queue=20, loss=0.01)
    return Simulation(path, seed=1).transfer(400_000, congestion="reno").log


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sequence"])
def test_classes_of_the_other_pictures_differ_in_shape(lossy, kind):
    shown = getattr(lossy.plot, kind)()
    looks = [
        (line.get_linestyle(), line.get_marker(), line.get_drawstyle(), line.get_markerfacecolor())
        for line in shown.figure.axes[0].lines
    ]
    looks = [(*look[:3], look[3] == "white") for look in looks]
    assert len(set(looks)) == len(looks) > 0


def test_legend_names_what_is_there_and_no_more():
    assert legend(picture(download(9))) == ["data", "acknowledged", "receive window"]


# --- vantage points ---


def both_ends():
    tape = Tape(A, B)
    for number in range(4):
        start, now = 1 + MSS * number, 0.01 * number
        tape.row(now, A, "send", "data", seq=start, length=MSS)
        if number == 1:
            tape.row(now, A, "drop", "loss", seq=start, length=MSS)
            continue
        arrived = "in-order" if number == 0 else "out-of-order"
        tape.row(now + 0.05, B, "recv", arrived, seq=start, length=MSS)
        tape.row(now + 0.05, B, "send", "ack", ack=1001)
        tape.row(now + 0.10, A, "recv", "ack-new", ack=1001)
    tape.rows.sort(key=lambda entry: entry["time"])
    return tape


def test_with_both_ends_the_picture_is_what_the_sender_saw():
    shown = picture(both_ends())
    assert glyphs(shown) == {"data": 4, "drop-loss": 1}
    assert artist(shown, "ack").get_xdata().tolist() == pytest.approx([0.1, 0.12, 0.13])
    title = shown.figure.axes[0].get_title(loc="left")
    assert title == f"Connection 1: {A}:49152 > {B}:80, seen by the sender"


def test_without_the_sender_the_picture_is_what_the_receiver_saw():
    shown = picture(download())
    title = shown.figure.axes[0].get_title(loc="left")
    assert title == f"Connection 1: {B}:80 > {A}:49152, seen by the receiver"


# --- what to draw ---


def two_connections():
    tape = download(3)
    tape.ends.append(tape.end(2, A, 49153))
    for number in range(5):
        start = 1 + MSS * number
        tape.row(1 + number, A, "send", "data", "PA", seq=start, length=MSS, conn=2)
    tape.row(9, A, "recv", "in-order", "PA", seq=1, length=10, conn=2)
    return tape


def test_by_default_draws_the_direction_with_the_most_payload():
    assert repr(picture(two_connections())).startswith("<sequence plot of connection 2: 5 data")
    assert picture(two_connections(), conn=1).data["glyph"].value_counts()["data"] == 3


@pytest.mark.parametrize("name", ["in", B, f"{B}:80", f"{B}:80 > {A}:49153"])
def test_direction_may_be_named_in_several_ways(name):
    assert glyphs(picture(two_connections(), conn=2, direction=name)) == {"data": 1}


def test_direction_out_is_what_the_host_named_first_sent():
    shown = picture(two_connections(), conn=2, direction="out")
    assert glyphs(shown) == {"data": 5}


def test_between_keeps_what_happened_then():
    shown = picture(two_connections(), conn=2, between=(2, 4)).data
    assert shown.loc[shown["glyph"] == "data", "time"].tolist() == [2, 3, 4]
    assert shown["time"].between(2, 4).all()


def test_between_still_knows_what_was_sent_before():
    shown = picture(upload("data"), between=(0.05, 1))
    assert glyphs(shown) == {"resent": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conn": 7}, "no connection 7 in the log, which has 1, 2"),
        (
            {"conn": 1, "direction": "up"},
            "no direction 'up' in connection 1: choose 'out', 'in' or a sender, "
            "'10.0.0.2:49152' or '10.0.0.1:80'",
        ),
        (
            {"between": (20, 30)},
            "nothing to plot between 20 and 30 s: the segments of this direction "
            "lie between 1 and 9 s",
        ),
    ],
)
def test_what_is_not_there_is_refused_with_what_there_is(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        picture(two_connections(), **options)


def test_many_connections_are_not_all_listed():
    tape = Tape(A)
    tape.ends = [tape.end(number, A, 1024 + number) for number in range(1, 101)]
    with pytest.raises(ValueError, match=r"which has 1, 2, 3, 4, 5, 6, 7, 8, \.\.\. \(100 in all"):
        picture(tape, conn=0)


def test_empty_log_says_so():
    tape = Tape(A)
    with pytest.raises(ValueError, match=f"nothing to plot: no segments {A}:49152 > {B}:80"):
        picture(tape)
    tape.ends = []
    with pytest.raises(ValueError, match="nothing to plot: the log has no connections"):
        picture(tape)


# --- axes ---


def labels(shown):
    axes = shown.figure.axes[0]
    return axes.get_xlabel(), axes.get_ylabel()


@pytest.mark.parametrize(
    ("span", "size", "x", "y"),
    [
        (0.001, 900, "time (µs)", "sequence number, from the SYN (B)"),
        (1.0, 90_000, "time (ms)", "sequence number, from the SYN (kB)"),
        (30.0, 90_000_000, "time (s)", "sequence number, from the SYN (MB)"),
        (30.0, 90_000_000_000, "time (s)", "sequence number, from the SYN (GB)"),
    ],
)
def test_axes_are_in_units_that_suit(span, size, x, y):
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=100)
    tape.row(span, A, "send", "data", seq=size, length=100)
    shown = picture(tape)
    assert labels(shown) == (x, y)
    assert shown.figure.axes[0].xaxis.get_major_formatter()(span).startswith(("1000", "30"))


def test_window_near_the_data_is_in_the_picture():
    shown = picture(download(9))
    assert shown.figure.axes[0].get_ylim()[1] > 9001 + 4000
    assert legend(shown)[-1] == "receive window"


@pytest.mark.parametrize(
    ("first", "note"), [(100_000, "(above the picture)"), (2000, "(partly above the picture)")]
)
def test_window_far_above_the_data_does_not_squash_it(first, note):
    tape = Tape(A)
    tape.row(0.0, A, "recv", "ack-new", ack=1, window=first)
    tape.row(0.1, A, "send", "data", seq=1, length=5 * MSS)
    tape.row(0.2, A, "recv", "ack-new", ack=5001, window=100_000)
    shown = picture(tape)
    assert shown.figure.axes[0].get_ylim()[1] < 6000
    assert legend(shown)[-1] == f"receive window\n{note}"


def test_given_axes_are_drawn_into_and_keep_what_they_show():
    axes = Figure().subplots(1, 2)
    axes[1].plot([0, 50], [0, 70_000], label="mine")
    shown = picture(download(), ax=axes[1])
    assert shown.figure is axes[0].figure
    assert not axes[0].lines
    assert axes[1].get_xlim()[1] > 50
    assert axes[1].get_ylim()[1] > 70_000
    legend = axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()][:3] == ["mine", "data", "acknowledged"]
    assert [line.get_linestyle() for line in legend.get_lines()][:3] == ["-", "None", "-"]


# --- the object ---


def test_repr_counts_what_is_shown():
    tape = upload("timeout", "rack")
    tape.row(0.0, A, "drop", "loss", seq=1, length=MSS)
    assert repr(picture(tape)) == (
        "<sequence plot of connection 1: "
        "4 data segments, 2 retransmissions, 2 acknowledgments, 1 drop>"
    )
    assert repr(picture(upload("timeout"))) == (
        "<sequence plot of connection 1: 2 data segments, 1 retransmission, 1 acknowledgment>"
    )


def test_data_is_a_tidy_table_in_order_of_time():
    data = picture(upload("timeout", "rack")).data
    assert list(data.columns) == ["glyph", "time", "seq", "end", "until", "resent", "label"]
    assert data["time"].is_monotonic_increasing
    assert data["seq"].dtype == data["end"].dtype == "int64"
    assert set(data["label"]) == {
        *("data", "PSH", "timeout", "RACK", "acknowledged", "receive window")
    }


def test_notebook_gets_a_png_with_alternative_text():
    shown = picture(download())
    assert shown.png().startswith(b"\x89PNG")
    page = shown._repr_html_()
    assert page.startswith(
        '<img alt="Sequence plot of connection 1: 3 data segments, 0 retransmissions, '
        f"3 acknowledgments. Connection 1: {B}:80 &gt; {A}:49152, seen by the receiver."
        '" src="data:image/png;base64,'
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".csv"])
def test_saved_twice_gives_the_same_bytes(tmp_path, suffix):
    one, other = picture(upload(*CAUSES)), picture(upload(*CAUSES))
    first = one.save(tmp_path / f"a{suffix}")
    assert first == tmp_path / f"a{suffix}"
    one.save(str(tmp_path / f"b{suffix}"))
    other.save(tmp_path / f"c{suffix.upper()}")
    files = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert len(files) == 3
    assert files[0] == files[1] == files[2]


def test_saved_csv_holds_the_data(tmp_path):
    with picture(download(2)).save(tmp_path / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0] == {
        **{"glyph": "data", "time": "0.0", "seq": "1", "end": "1001"},
        **{"until": "0.0", "resent": "False", "label": "data"},
    }


@pytest.mark.parametrize("name", ["plot.gif", "plot", "plot.png.txt"])
def test_saving_under_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=f"cannot save '{name}': use .png, .svg, .pdf, .csv or .xpl"
    ):
        picture(download()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".csv"])
def test_saving_where_nothing_can_be_written_is_an_oserror(tmp_path, suffix):
    with pytest.raises(OSError, match="nowhere"):
        picture(download()).save(tmp_path / "nowhere" / f"plot{suffix}")


def test_pictures_leave_no_trace_in_pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    assert isinstance(picture(download()), Picture)
    assert pyplot.get_fignums() == []


# --- size ---


class Large(Tape):
    """An upload of many segments, each acknowledged 20 ms later; one in 100 is sent again."""

    def __init__(self, count):
        super().__init__(A)
        sent = np.arange(count)
        again = sent[::100]
        start = 1 + MSS * np.concatenate([sent, again])
        out = pd.DataFrame({"time": 1e-4 * np.append(sent, again + 200), "seq": start})
        out["why"] = np.repeat(["data", "rack"], [len(sent), len(again)])
        out = out.assign(event="send", len=MSS, ack=1)
        back = pd.DataFrame({"time": 1e-4 * (sent + 200), "ack": 1 + MSS * (sent + 1)})
        back = back.assign(why="ack-new", event="recv", len=0, seq=1)
        table = pd.concat([out, back]).sort_values("time", kind="stable", ignore_index=True)
        table = table.assign(host=A, conn=1, flags="A", window=10**6, sack=[()] * len(table))
        tcb = {"snd_una": table["ack"], "snd_nxt": table["seq"], "snd_wnd": 10**6, "inflight": 9000}
        saw = 20_000 + 10 * (np.arange(len(table)) % 4000)
        table = table.assign(**tcb, cwnd=saw, ssthresh=20_000.0, srtt=0.02, rttvar=0.001, rto=0.2)
        table = table.assign(tsval=(1000 * table["time"].astype(float)).astype("int64"), ecn=None)
        table = table.assign(state="ESTABLISHED", rtt=0.02, acked=table["time"], sent=0.0, end=1)
        self.table = table.assign(wait=0.001).astype(
            dict.fromkeys(["host", "event", "why", "flags", "state"], "category")
        )

    @property
    def segments(self):
        return self.table

    def queue(self):
        return self.table

    def rtt(self):
        return self.table.assign(kept=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "most"),
    [("overview", 1.3), ("sequence", 0.7)]
    + [(kind, 0.55) for kind in ("stevens", "window", "rtt", "throughput", "scoreboard", "queue")],
)
def test_hundred_thousand_segments(kind, most):
    """Seconds of CPU until the PNG is there; `most` is twice what it takes on a quiet machine."""
    tape, took = Large(50_000), []
    for _ in range(3):
        began = time.process_time()
        shown = getattr(Plots(tape), kind)()
        assert len(shown.png()) > 5000
        took.append(time.process_time() - began)
    assert min(took) < most * slowness()
    if kind == "sequence":
        assert "50500 data segments, 500 retransmissions, 50000 acknowledgments>" in repr(shown)


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 280, 700, 20_000])
def test_svg_stays_below_200_kilobytes(tmp_path, count):
    shown = picture(Large(count))
    assert shown.save(tmp_path / "plot.svg").stat().st_size < 200_000
    bitmap = artist(shown, "data").get_rasterized()
    assert bitmap == (count > 500)  # data, an ACK, and steps of window and limit for each segment
