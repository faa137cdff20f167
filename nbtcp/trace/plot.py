"""Pictures of a log: sequence numbers over time.

DataFrames in, pictures out: this module never imports the stack, so a saved log or anybody's
capture is drawn like a live one. Figures are made directly, without pyplot: nothing global is
touched, no window opens, and a figure is freed with its picture.

A kind of picture is three steps: rows of the log -> a tidy table of glyphs (`Picture.data`) ->
one artist per class of glyph. GLYPHS says how each class looks. Shape comes before hue, so that a
picture reads in greyscale; the colours are those of Okabe and Ito.
"""

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .metrics import Bools, Floats, Flows, Ints, flows, has_flag, payload, resent

BLACK, GREY = "#000000", "#7f7f7f"
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"
VERMILION, PURPLE = "#D55E00", "#CC79A7"


@dataclass(frozen=True)
class Glyph:
    """How one class of event looks.

    label   its entry in the legend
    shape   "bar": upright over [seq, end]; "steps": a line that holds each value until the next;
            "mark": a marker in the middle of [seq, end]
    marker  matplotlib's name; on a bar it sits in the middle, but "_" caps both its ends
    hollow  the marker is an outline
    """

    label: str
    shape: Literal["bar", "steps", "mark"]
    color: str
    marker: str | int = ""
    size: float = 7.0
    width: float = 1.4
    hollow: bool = False
    dashes: str = "-"
    zorder: float = 3.0


GLYPHS = {
    # What was sent ...
    "data": Glyph("data", "bar", BLUE, "_", size=4),
    "out-of-order": Glyph("out of order", "bar", ORANGE, "d", size=5, zorder=4),
    # ... again, and why.
    "fast-retransmit": Glyph("fast retransmit", "bar", VERMILION, "^", zorder=5),
    "partial-ack": Glyph("partial ACK", "bar", VERMILION, ">", zorder=5),
    "sack-hole": Glyph("SACK hole", "bar", VERMILION, "<", zorder=5),
    "rack": Glyph("RACK", "bar", VERMILION, "P", zorder=5),
    "timeout": Glyph("timeout", "bar", VERMILION, "s", zorder=5),
    "go-back-n": Glyph("go-back-N", "bar", VERMILION, "v", zorder=5),
    "tail-loss-probe": Glyph("tail loss probe", "bar", VERMILION, "*", size=9, zorder=5),
    "duplicate-syn": Glyph("repeated for a repeated SYN", "bar", VERMILION, "X", zorder=5),
    "window-probe": Glyph("window probe", "bar", PURPLE, "p", zorder=5),
    "keepalive": Glyph("keepalive", "bar", PURPLE, "h", zorder=5),
    "resent": Glyph("sent again", "bar", VERMILION, "o", hollow=True, zorder=5),
    # What became of it.
    "drop-loss": Glyph("dropped: loss", "mark", BLACK, "x", zorder=7),
    "drop-queue-full": Glyph("dropped: queue full", "mark", BLACK, "+", size=9, zorder=7),
    "drop-bad-checksum": Glyph("dropped: bad checksum", "mark", BLACK, "1", size=9, zorder=7),
    # How it began and ended.
    "syn": Glyph("SYN", "mark", BLACK, "D", size=8, hollow=True, zorder=6),
    "fin": Glyph("FIN", "mark", BLACK, "s", size=9, hollow=True, zorder=6),
    "rst": Glyph("RST", "mark", BLACK, "8", size=9, zorder=6),
    "rst-back": Glyph("RST from the other end", "mark", BLACK, "8", size=9, hollow=True, zorder=6),
    # What the other end said.
    "ack": Glyph("acknowledged", "steps", GREEN, zorder=2.2),
    "duplicate-ack": Glyph("duplicate ACK", "mark", GREEN, TICKDOWN, size=6, zorder=3.5),
    "ack-dropped": Glyph("ACK dropped", "mark", GREEN, "4", size=9, zorder=4),
    "sack": Glyph("SACK block", "bar", PURPLE, "_", size=3, width=1.2, zorder=2.5),
    "window": Glyph("receive window", "steps", GREY, dashes="--", width=1.2, zorder=2),
    "zero-window": Glyph("zero window", "mark", PURPLE, "$Z$", size=7, zorder=6),
}
"""Every class of glyph, in the order of the legend."""

CAUSES = (
    *("fast-retransmit", "partial-ack", "sack-hole", "rack", "timeout", "go-back-n"),
    *("tail-loss-probe", "duplicate-syn", "window-probe", "keepalive"),
)
"""Reasons to send that have a glyph of their own."""


class Picture:
    """A picture of a log: in a notebook an inline PNG, in a file whatever the name asks for.

    figure  the matplotlib Figure; its artists are in seconds and bytes whatever the tick labels say
    data    what is drawn, one row per glyph, in time order: glyph (a key of GLYPHS), time (s), seq
            and end (relative sequence numbers; equal where the glyph is a point), resent (True for
            segments of which some part had been seen before), label (as in the legend)
    """

    def __init__(
        self, figure: Figure, data: pd.DataFrame, name: str, content: str, title: str
    ) -> None:
        self.figure = figure
        self.data = data
        self._text = f"{name}: {content}"
        self._title = title

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture (.png, .svg, .pdf) or its data (.csv); the same bytes each time.

        Returns the path. Raises ValueError for another suffix, OSError when it cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            self.data.to_csv(path, index=False, lineterminator="\n")
        elif suffix in _UNDATED:
            self._write(path, suffix.removeprefix("."))
        else:
            raise ValueError(f"cannot save {path.name!r}: use .png, .svg, .pdf or .csv")
        return path

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self._write(png, "png")
        return png.getvalue()

    def _repr_html_(self) -> str:
        # JupyterLab gives an image/png output no alternative text; an <img> can carry it.
        alt = html.escape(f"{self._text.capitalize()}. {self._title}.")
        image = base64.b64encode(self._repr_png_()).decode()
        return f'<img alt="{alt}" src="data:image/png;base64,{image}">'

    def _write(self, target: Path | io.BytesIO, kind: str) -> None:
        about = {"Title": self._title, **_UNDATED[f".{kind}"]}
        with mpl.rc_context({"svg.hashsalt": "nbtcp"}):
            dpi = "figure" if kind == "png" else _BITMAP_DPI
            self.figure.savefig(target, format=kind, dpi=dpi, metadata=about)


class Log(Protocol):
    """What is drawn: an EventLog, or anything with its tables."""

    @property
    def segments(self) -> pd.DataFrame: ...

    @property
    def connections(self) -> pd.DataFrame: ...

    def rtt(self) -> pd.DataFrame: ...


class Plots:
    """The pictures of one log: `log.plot.sequence()`."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __repr__(self) -> str:
        return "<plots of a log: sequence()>"

    def sequence(
        self,
        *,
        ax: Axes | None = None,
        conn: int | None = None,
        direction: str | None = None,
        between: tuple[float, float] | None = None,
    ) -> Picture:
        """Sequence numbers over time, for one direction of one connection.

        ax         draw into these Axes, not into a figure of its own
        conn       the connection; by default the one with the most payload
        direction  "out" or "in", as the host sees it that the table of connections names first, or
                   the sender ("10.0.0.1", "10.0.0.1:80"); by default the one with more payload
        between    (from, to) in s since the log began

        Raises ValueError, saying what there is, when the log has no such thing to draw.
        """
        segments = self._log.segments
        ways = flows(segments, self._log.connections)
        flow = _choose(segments, ways, conn, direction)
        way = ways.table.iloc[flow]
        data = _sequence_data(segments, ways, flow)
        if data.empty:
            raise ValueError(f"nothing to plot: no segments {way.direction} in the log")
        data = _cut(data, between)
        seen = "in" if way.vantage == "capture" else "by"
        title = f"Connection {way.conn}: {way.direction}, seen {seen} the {way.vantage}"
        if ax is None:
            ax = Figure(figsize=(9, 5), dpi=100, layout="constrained").add_subplot()
        _draw(ax, data)
        ax.set_title(title, loc="left")
        name = f"sequence plot of connection {way.conn}"
        return Picture(ax.figure.figure, data, name, _census(data), title)


SUFFIXES = (".png", ".svg", ".pdf", ".csv")
"""What `Picture.save` can write."""

_UNDATED: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}

# (below this span or height, the unit, its size in s or B)
_TIMES = ((2e-3, "µs", 1e-6), (2.0, "ms", 1e-3), (np.inf, "s", 1.0))
_SIZES = ((1e4, "B", 1.0), (1e7, "kB", 1e3), (1e10, "MB", 1e6), (np.inf, "GB", 1e9))

# Above this many glyphs they become one bitmap in SVG and PDF (axes and text stay vectors), so that
# an SVG stays below 200 KB.
_VECTORS = 1500
_BITMAP_DPI = 150

# Above this many bars of one class they have no caps, which would run together.
_CAPPED = 250
# Above this many glyphs of one class the markers shrink.
_MANY = 50


def _choose(segments: pd.DataFrame, ways: Flows, conn: int | None, direction: str | None) -> int:
    """The row of `ways.table` to draw: the one asked for, or the one with the most payload."""
    if ways.table.empty:
        raise ValueError("nothing to plot: the log has no connections")
    sizes = segments["len"].to_numpy(np.int64)[ways.own]
    carried = np.bincount(ways.flow[ways.own], sizes, len(ways.table)).reshape(-1, 2)
    numbers = ways.table["conn"].to_list()[::2]
    if conn is None:
        place = int(carried.sum(axis=1).argmax())
    elif conn in numbers:
        place = numbers.index(conn)
    else:
        raise ValueError(f"no connection {conn} in the log, which has {_listed(numbers)}")
    if direction is None:
        return 2 * place + int(carried[place].argmax())
    return 2 * place + _side(ways.table.iloc[2 * place : 2 * place + 2], direction)


def _listed(numbers: list[int], most: int = 8) -> str:
    rest = [f"... ({len(numbers)} in all)"] if len(numbers) > most else []
    return ", ".join([*map(str, numbers[:most]), *rest])


def _side(pair: pd.DataFrame, direction: str) -> int:
    """0 or 1: which of the two directions of a connection has that name."""
    sockets = [whole.split(" > ")[0] for whole in pair["direction"]]
    for names in (["out", "in"], sockets, pair["sender"].to_list(), pair["direction"].to_list()):
        if direction in names:
            return names.index(direction)
    raise ValueError(
        f"no direction {direction!r} in connection {pair['conn'].iloc[0]}: "
        f"choose 'out', 'in' or a sender, {' or '.join(map(repr, sockets))}"
    )


def _cut(data: pd.DataFrame, between: tuple[float, float] | None) -> pd.DataFrame:
    if between is None:
        return data
    low, high = between
    cut = data[data["time"].between(low, high)]
    if cut.empty:
        raise ValueError(
            f"nothing to plot between {low:g} and {high:g} s: the segments of this direction "
            f"lie between {data['time'].min():.6g} and {data['time'].max():.6g} s"
        )
    return cut.reset_index(drop=True)


class _Piece(NamedTuple):
    """Glyphs of one class; the arrays are as long as there are glyphs."""

    glyph: str
    time: Floats
    seq: Ints
    end: Ints
    resent: Bools


def _piece(
    glyph: str, rows: pd.DataFrame, seq: Ints, end: Ints | None = None, again: Bools | None = None
) -> _Piece:
    end = seq if end is None else end
    again = np.zeros(len(seq), bool) if again is None else again
    return _Piece(glyph, rows["time"].to_numpy(np.float64), seq, end, again)


def _sequence_data(segments: pd.DataFrame, ways: Flows, flow: int) -> pd.DataFrame:
    """The table of glyphs, see Picture.data."""
    this, opposite = ways.flow == flow, ways.flow == flow ^ 1
    pieces = [
        *_sent(segments[ways.own & this], resent(segments, ways)[ways.own & this]),
        *_dropped(segments[ways.lost & this]),
        *_heard(segments[ways.answer & opposite]),
        _unheard(segments[ways.lost & opposite]),
    ]
    kinds = list(dict.fromkeys([*GLYPHS, *(piece.glyph for piece in pieces)]))
    codes = [np.full(len(piece.time), kinds.index(piece.glyph)) for piece in pieces]
    glyph = pd.Categorical.from_codes(np.concatenate(codes), pd.Index(kinds))
    columns = ("time", "seq", "end", "resent")
    data = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in columns}
    label = glyph.rename_categories({kind: _glyph(kind).label for kind in kinds})
    table = pd.DataFrame({"glyph": glyph, **data, "label": label})
    return _tame_resets(table).sort_values("time", kind="stable", ignore_index=True)


def _tame_resets(data: pd.DataFrame) -> pd.DataFrame:
    """A reset may have any sequence number: keep it where the rest of the picture is."""
    reset = data["glyph"] == "rst"
    rest = data[~reset & (data["glyph"] != "window")]
    if reset.any() and len(rest):
        place = data.loc[reset, "seq"].clip(rest["seq"].min(), rest["end"].max())
        data.loc[reset, "seq"] = data.loc[reset, "end"] = place
    return data


def _sent(rows: pd.DataFrame, again: Bools) -> Iterator[_Piece]:
    """Glyphs of the direction's own segments, seen at its vantage point."""
    start, end = payload(rows)
    first = (end > start) & ~again & ~rows["why"].isin(CAUSES).to_numpy(bool)
    early = (rows["why"] == "out-of-order").to_numpy(bool)
    shown = {"data": first & ~early, "out-of-order": first & early}
    shown |= {why: (rows["why"] == why).to_numpy(bool) for why in CAUSES}
    shown["resent"] = again & ~np.logical_or.reduce(list(shown.values()))
    for glyph, mask in shown.items():
        yield _piece(glyph, rows[mask], start[mask], end[mask], again[mask])
    for glyph, letter, place in (("syn", "S", start - 1), ("fin", "F", end), ("rst", "R", start)):
        mask = has_flag(rows, letter)
        yield _piece(glyph, rows[mask], place[mask])


def _dropped(rows: pd.DataFrame) -> Iterator[_Piece]:
    """Glyphs of the segments that did not arrive; pure ACKs have no place among the data."""
    start, end = payload(rows)
    placed = (end > start) | has_flag(rows, "S") | has_flag(rows, "F") | has_flag(rows, "R")
    for why in rows["why"].unique():
        mask = placed & (rows["why"] == why).to_numpy(bool)
        yield _piece(f"drop-{why}", rows[mask], start[mask], end[mask])


def _heard(rows: pd.DataFrame) -> Iterator[_Piece]:
    """Glyphs of what the other end said: ACKs, window, SACK blocks, RST."""
    highest = np.maximum.accumulate(rows["ack"].to_numpy(np.int64))
    reset = has_flag(rows, "R")
    yield _piece("rst-back", rows[reset], highest[reset])
    rows = rows[has_flag(rows, "A") & ~reset]
    ack, window = rows["ack"].to_numpy(np.int64), rows["window"].to_numpy(np.int64)
    # An ACK overtaken by a later one says nothing new.
    new = ack == np.maximum.accumulate(ack)
    duplicate = (rows["why"] == "duplicate-ack").to_numpy(bool)
    zero = new & (window == 0)
    yield _piece("ack", rows[new], ack[new])
    yield _piece("window", rows[new], (ack + window)[new])
    yield _piece("duplicate-ack", rows[duplicate], ack[duplicate])
    yield _piece("zero-window", rows[zero], ack[zero])
    blocks = [(row, *block) for row, sack in enumerate(rows["sack"]) for block in sack]
    table = np.array(blocks, np.int64).reshape(-1, 3)
    yield _piece("sack", rows.iloc[table[:, 0]], table[:, 1], table[:, 2])


def _unheard(rows: pd.DataFrame) -> _Piece:
    """Glyphs of ACKs that were dropped: they explain timeouts of data that had arrived."""
    rows = rows[has_flag(rows, "A") & (rows["event"] == "drop").to_numpy(bool)]
    return _piece("ack-dropped", rows, rows["ack"].to_numpy(np.int64))


def _glyph(kind: str) -> Glyph:
    """The glyph of that kind; whoever else dropped a segment gets a cross too."""
    reason = kind.removeprefix("drop-").replace("-", " ")
    return GLYPHS.get(kind) or replace(GLYPHS["drop-loss"], label=f"dropped: {reason}", marker="2")


def _census(data: pd.DataFrame) -> str:
    """What there is to see, in words."""
    counts = {str(kind): int(n) for kind, n in data["glyph"].value_counts().items()}
    bars = [kind for kind in counts if _glyph(kind).shape == "bar" and kind != "sack"]
    carrying = data["glyph"].isin(bars) & (data["end"] > data["seq"])
    drops = sum(number for kind, number in counts.items() if kind.startswith("drop-"))
    text = [
        _counted(int(carrying.sum()), "data segment"),
        _counted(int(data["resent"].sum()), "retransmission"),
        _counted(counts["ack"], "acknowledgment"),
    ]
    return ", ".join([*text, _counted(drops, "drop")] if drops else text)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _draw(ax: Axes, data: pd.DataFrame) -> None:
    top = _limit(ax, data)
    for kind, rows in data.groupby("glyph", observed=True):
        glyph = _glyph(str(kind))
        line = _artist(glyph, rows)
        line.set(gid=str(kind), label=glyph.label, rasterized=len(data) > _VECTORS)
        if kind == "window" and (rows["end"] > top).any():
            partly = "partly " if (rows["end"] <= top).any() else ""
            line.set_label(f"{glyph.label}\n({partly}above the picture)")
        ax.add_line(line)
    _units(ax)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    _legend(ax)


def _artist(glyph: Glyph, rows: pd.DataFrame) -> Line2D:
    """All glyphs of one class as one line, whose parts NaN separates."""
    time = rows["time"].to_numpy(np.float64)
    seq, end = rows["seq"].to_numpy(np.float64), rows["end"].to_numpy(np.float64)
    middle, gap = (seq + end) / 2, np.full(len(rows), np.nan)
    capped = glyph.marker == "_"
    shrink = 1.0 if capped else min(1.0, max(0.4, (_MANY / len(rows)) ** 0.5))
    style: dict[str, Any] = {
        "color": glyph.color,
        "linewidth": glyph.width,
        "linestyle": glyph.dashes if glyph.shape != "mark" else "none",
        "marker": glyph.marker,
        "markersize": glyph.size * shrink,
        "markerfacecolor": "white" if glyph.hollow else glyph.color,
        "markeredgewidth": 1.5 if glyph.hollow or glyph.shape == "mark" else 1.0,
        "zorder": glyph.zorder,
    }
    if glyph.shape == "steps":
        return Line2D(time, seq, drawstyle="steps-post", **style)
    if glyph.shape == "mark":
        return Line2D(time, middle, **style)
    # Projecting, as a bar lower than a pixel would fade.
    style["solid_capstyle"] = "projecting"
    if capped:
        if len(rows) > _CAPPED:
            style |= {"marker": "", "linewidth": 1.5 * glyph.width}
        return Line2D(np.repeat(time, 3), np.column_stack([seq, end, gap]).ravel(), **style)
    heights = np.column_stack([seq, middle, end, gap]).ravel()
    return Line2D(np.repeat(time, 4), heights, markevery=(1, 4), **style)


def _limit(ax: Axes, data: pd.DataFrame) -> float:
    """Set the limits of the Axes: to all that is drawn, but far windows. Returns the upper one."""
    window = data["glyph"] == "window"
    rest = data[~window]
    low, high = float(rest["seq"].min()), float(rest["end"].max())
    edge = float(data.loc[window, "end"].max())
    if edge <= high + 0.5 * (high - low):
        high = max(high, edge)
    first, last = data["time"].min(), data["time"].max()
    side, margin = 0.02 * (last - first) or 5e-4, max(0.04 * (high - low), 1.0)
    x, y = (first - side, last + side), (low - margin, high + margin)
    if ax.has_data():
        x = min(x[0], ax.get_xlim()[0]), max(x[1], ax.get_xlim()[1])
        y = min(y[0], ax.get_ylim()[0]), max(y[1], ax.get_ylim()[1])
    ax.set(xlim=x, ylim=y)
    return y[1]


def _units(ax: Axes) -> None:
    """Label the axes in units that suit their limits; the artists stay in seconds and bytes."""
    (first, last), high = ax.get_xlim(), ax.get_ylim()[1]
    time, second = next((unit, size) for limit, unit, size in _TIMES if last - first < limit)
    data, byte = next((unit, size) for limit, unit, size in _SIZES if high < limit)
    ax.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / second:.12g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / byte:.12g}"))
    ax.set(xlabel=f"time ({time})", ylabel=f"sequence number, from the SYN ({data})")


def _legend(ax: Axes) -> None:
    """A legend beside the picture, with each class that is in it once."""
    lines, labels = ax.get_legend_handles_labels()
    samples = {label: _sample(line) for line, label in zip(lines, labels, strict=True)}
    ax.legend(
        samples.values(),
        samples.keys(),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize="small",
    )


def _sample(line: Any) -> Any:
    """What stands in the legend: for bars an upright one, for marks the marker alone."""
    if line.get_gid() is None:
        return line  # drawn by somebody else
    sample = Line2D([], [])
    sample.update_from(line)
    sample.set(markevery=None, rasterized=False)
    if line.get_drawstyle() == "default":
        sample.set_linestyle("none")
        if line.get_marker() in ("", "_"):
            sample.set(marker="|", markersize=9, markeredgewidth=line.get_linewidth())
    return sample
