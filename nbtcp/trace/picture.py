"""A picture: a table of glyphs, drawn with one artist for each class, to look at and to save.

Figures are made directly, without pyplot: nothing global is touched, no window opens, and a figure
is freed with its picture.
"""

import base64
import html
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import offset_copy
from PIL import Image

from .glyphs import OKABE_ITO, Glyph, glyph_of
from .metrics import Floats

if TYPE_CHECKING:
    from .kinds import Kind


class Corners(NamedTuple):
    """Where the glyphs of one class are: from `time` to `until`, from `low` to `high`."""

    time: Floats
    until: Floats
    low: Floats
    high: Floats

    @property
    def middle(self) -> Floats:
        return (self.low + self.high) / 2


Classes = Iterator[tuple[str, Glyph, Corners]]

SUFFIXES = (".png", ".svg", ".pdf", ".csv", ".xpl")
"""What `Picture.save` can write."""

_DATED = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}  # is left out

# (below this span or height, the unit, its size)
_UNITS: dict[str, tuple[tuple[float, str, float], ...]] = {
    "B": ((1e4, "B", 1.0), (1e7, "kB", 1e3), (1e10, "MB", 1e6), (np.inf, "GB", 1e9)),
    "bit/s": (
        *((2e3, "bit/s", 1.0), (2e6, "kbit/s", 1e3)),
        *((2e9, "Mbit/s", 1e6), (np.inf, "Gbit/s", 1e9)),
    ),
    "s": ((2e-3, "µs", 1e-6), (2.0, "ms", 1e-3), (np.inf, "s", 1.0)),
    "packets": ((np.inf, "packets", 1.0),),
}

# Above this many glyphs they become one bitmap in SVG and PDF; axes and text stay vectors.
_VECTORS = 1500
_BITMAP_DPI = 150
_BITMAP = re.compile(rb"(?<=data:image/png;base64,)[^\"]+")
# Bitmaps have a palette: the colours of the glyphs, and what lies between them and white.
_COLORS = 256

_SLICES = 3000  # of time in an area: more than a bitmap has columns
# Above this many bars of one class they have no caps, which would run together.
_CAPPED = 250
# Above this many glyphs of one class the markers shrink.
_MANY = 50
# Above this many lines a legend is set more tightly.
_LINES = 20

# Limits that may lie so high that the rest would be flat: shown up to so many times its height.
_FAR = {"window": 1.5, "window-same": 1.5, "limit": 1.5, "rwnd": 1.5, "rto": 5.0}

_LONG = 1e5  # no tick label has as many units

# What tells several lines apart.
RUNS = list(zip(OKABE_ITO, ("-", "--", "-.", ":", "-", "--", "-."), "os^DvPX", strict=True))


class Picture:
    """A picture of a log: in a notebook an inline PNG, in a file whatever the name asks for.

    figure  the matplotlib Figure; its artists are in seconds and bytes whatever the tick labels say
    data    what is drawn, one row per glyph, in time order: glyph (a class of glyphs.py), time (s),
            what the kind of picture shows (plot.py says which columns), label (as in the legend)
    """

    def __init__(
        self,
        ax: Axes,
        data: pd.DataFrame,
        text: str,
        title: str,
        for_xplot: Callable[[], str] | None = None,
    ) -> None:
        self.figure = ax.figure.figure
        self.data = data
        self._text = text
        self._title = title
        self._for_xplot = for_xplot

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture (.png, .svg, .pdf, .xpl for xplot) or its data (.csv); the same bytes
        each time.

        Returns the path. Raises ValueError for another suffix, OSError when it cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            self.data.to_csv(path, index=False, lineterminator="\n")
        elif suffix in _DATED:
            path.write_bytes(self._bytes(suffix.removeprefix(".")))
        elif suffix == ".xpl" and self._for_xplot is not None:
            path.write_text(self._for_xplot())
        elif suffix == ".xpl":
            raise ValueError(
                f"cannot save {path.name!r}: xplot draws lines over two linear axes, and this "
                "picture is of another kind: use .png, .svg, .pdf or .csv"
            )
        else:
            raise ValueError(f"cannot save {path.name!r}: use .png, .svg, .pdf, .csv or .xpl")
        return path

    def __repr__(self) -> str:
        return f"<{self._text}>"

    def png(self) -> bytes:
        """The picture as a PNG file's bytes."""
        return self._bytes("png")

    def _repr_html_(self) -> str:
        # JupyterLab gives an image/png output no alternative text; an <img> can carry it. So there
        # is no _repr_png_: a notebook would hold each picture twice. With a palette it is a third
        # as large, and looks the same: MAXCOVERAGE keeps colours that a single small glyph has.
        text = self._text[:1].upper() + self._text[1:]
        alt = html.escape(f"{text}. {self._title}.")
        size = self.figure.canvas.get_width_height()
        whole = Image.frombytes("RGBA", size, self._bytes("rgba")).convert("RGB")
        image = _with_palette(whole, Image.Quantize.MAXCOVERAGE).decode()
        return f'<img alt="{alt}" src="data:image/png;base64,{image}">'

    def _bytes(self, kind: str) -> bytes:
        """The picture as a file, or its pixels."""
        about = {"Title": self._title, _DATED[f".{kind}"]: None} if kind != "rgba" else None
        file, dpi = io.BytesIO(), _BITMAP_DPI if kind in ("svg", "pdf") else "figure"
        engine = self.figure.get_layout_engine()
        if engine is not None:  # done here, as for its sake savefig would draw all twice
            for ax in self.figure.axes:  # or the layout would begin where the last one has ended
                if ax.get_in_layout() and (place := ax.get_subplotspec()) is not None:
                    ax.set_subplotspec(place)
            engine.execute(self.figure)
            self.figure.set_layout_engine(None)
        try:
            with mpl.rc_context({"svg.hashsalt": "nbtcp", "savefig.bbox": None}):
                self.figure.savefig(file, format=kind, dpi=dpi, metadata=about)
        finally:
            self.figure.set_layout_engine(engine)
        return _BITMAP.sub(_smaller, file.getvalue()) if kind == "svg" else file.getvalue()


def _smaller(bitmap: re.Match[bytes]) -> bytes:
    with Image.open(io.BytesIO(base64.b64decode(bitmap[0]))) as whole:
        return _with_palette(whole, Image.Quantize.FASTOCTREE)


def _with_palette(image: Image.Image, method: Image.Quantize) -> bytes:
    """As PNG, in base 64."""
    png = io.BytesIO()
    image.quantize(_COLORS, method).save(png, "PNG")
    return base64.b64encode(png.getvalue())


def new_axes(width: float = 9, height: float = 5) -> Axes:
    """Axes in a figure of their own; inches."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained").add_subplot()


# --- the table of glyphs -> artists ---


def draw(ax: Axes, glyphs: pd.DataFrame, label: str, unit: str, lanes: Sequence[str] = ()) -> None:
    """Draw a table with the columns glyph, time, until, low, high, label; `unit` is that of low and
    high, "" where they are 0, -1, ... of the `lanes`.
    """
    if lanes:
        ax.set_yticks([-number for number in range(len(lanes))], lanes)
    parts = list(classes(glyphs))
    top = _limit(ax, {kind: at for kind, _, at in parts})
    for kind, glyph, at in parts:
        artist = _add(ax, glyph, at, len(glyphs))
        artist.set_gid(kind)
        inside = at.high <= top
        if kind in _FAR and not inside.all():
            partly = "partly " if inside.any() else ""
            note = "" if glyph.quiet else f"\n({partly}above the picture)"
            artist.set_label(f"{glyph.label}{note}" if note or partly else "_")  # "_": not there
    _finish(ax, label, unit)


def classes(glyphs: pd.DataFrame) -> Classes:
    """The table by classes: the name of each, its glyph, where it is."""
    for kind, at in _groups(glyphs, "glyph"):
        glyph = glyph_of(kind)
        yield kind, glyph, at._replace(low=0 * at.low) if glyph.shape == "area" else at


def _groups(glyphs: pd.DataFrame, column: str) -> Iterator[tuple[str, Corners]]:
    named = glyphs[column]
    groups = named.array if named.dtype == "category" else pd.Categorical(named, named.unique())
    corners = glyphs[[*Corners._fields]].to_numpy(np.float64).T
    for code in np.flatnonzero(np.bincount(groups.codes)).tolist():
        yield str(groups.categories[code]), Corners(*corners[:, groups.codes == code])


def _add(ax: Axes, glyph: Glyph, at: Corners, count: int) -> Any:
    """One class, of a picture with so many glyphs."""
    artist = _SHAPES[glyph.shape](ax, glyph, at)
    artist.set(label=glyph.label, rasterized=count > _VECTORS)
    return artist


def draw_stack(parts: "list[tuple[pd.DataFrame, Kind]]", ax: Axes | None) -> Axes:
    """Several pictures above each other on one time axis, the first twice as high, in the place of
    `ax`. Returns the Axes of the first.
    """
    heights = [2] + [1] * (len(parts) - 1)
    ax = ax or new_axes(9, 2.2 * sum(heights))
    if (place := ax.get_subplotspec()) is None:
        raise ValueError("ax must be one of a grid: made by subplots() or add_subplot()")
    ax.remove()
    grid = place.subgridspec(len(parts), 1, height_ratios=heights)
    axes = grid.subplots(sharex=True, squeeze=False)[:, 0]
    limits = []
    for ax, (glyphs, kind) in zip(axes, parts, strict=True):
        draw(ax, glyphs, kind.label, kind.unit)
        limits.append(ax.get_xlim())
    axes[0].set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
    for ax in axes:
        _label_axis(ax, "x", "time", "s")
        ax.label_outer()
    first: Axes = axes[0]
    return first


def draw_runs(ax: Axes, glyphs: pd.DataFrame, label: str, unit: str) -> None:
    """One line for each `run`, told apart by colour and dashes."""
    parts = list(runs(glyphs))
    _limit(ax, dict(enumerate(at for *_, at in parts)))
    for run, glyph, at in parts:
        _add(ax, glyph, at, len(glyphs)).set_label(run)
    _finish(ax, label, unit)


def runs(glyphs: pd.DataFrame) -> Classes:
    """The table by runs: the name of each, its glyph, where it is."""
    first = glyph_of(str(glyphs["glyph"].iloc[0]))
    for number, (run, at) in enumerate(_groups(glyphs, "run")):
        color, dashes, marker = RUNS[number % len(RUNS)]
        glyph = replace(first, color=color, dashes=dashes)
        if glyph.shape == "mark":
            glyph = replace(glyph, marker=marker, size=6, hollow=True)
        yield run, glyph, at


def draw_phase(ax: Axes, table: pd.DataFrame, conns: tuple[int, int]) -> None:
    """One flow to the right (time), the other one upwards (low)."""
    for kind, glyph, at in classes(table):
        _add(ax, glyph, at, len(table)).set_gid(kind)
    most = 1.04 * float(table["high"].max())
    ax.set(xlim=(0, most), ylim=(0, most), aspect="equal")
    for which, conn in zip("xy", conns, strict=True):
        _label_axis(ax, which, f"cwnd of connection {conn}", "B")
    _legend(ax)


def _finish(ax: Axes, label: str, unit: str) -> None:
    """Axes in units that suit their limits, and the rest."""
    if unit:
        _label_axis(ax, "y", label, unit)
    _label_axis(ax, "x", "time", "s")
    finish(ax)


def finish(ax: Axes) -> None:
    """A faint grid and a legend."""
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[:].set_in_layout(False)  # they would measure the ticks once more
    _legend(ax)


def _look(glyph: Glyph) -> dict[str, Any]:
    return {
        "color": glyph.color,
        "linewidth": glyph.width,
        "linestyle": glyph.dashes if glyph.shape != "mark" else "none",
        "marker": glyph.marker,
        "markerfacecolor": "white" if glyph.hollow else glyph.color,
        "markeredgewidth": _edge(glyph),
        "zorder": _order(glyph),
    }


def _order(glyph: Glyph) -> float:
    """Above the grid and below spines and title: what becomes a bitmap is drawn in one go."""
    return 1 + glyph.zorder / 10


def _edge(glyph: Glyph) -> float:
    """How thick the strokes of its marker are: letters are drawn by their outlines."""
    if str(glyph.marker).startswith("$"):
        return 0.3
    if glyph.quiet or isinstance(glyph.marker, int):  # a tick
        return 0.8
    return 1.5 if glyph.hollow or glyph.shape == "mark" else 1.0


def _size(glyph: Glyph, at: Corners) -> float:
    return glyph.size * min(1.0, max(0.4, math.sqrt(_MANY / len(at.time))))


def _line(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    style = "steps-post" if glyph.shape == "steps" else "default"
    alone = glyph.shape == "steps" and at.time[0] == at.time[-1]  # nobody would see a line
    look = _look(glyph) | ({"marker": "_"} if alone else {})
    return ax.add_line(Line2D(at.time, at.low, drawstyle=style, **look))  # type: ignore[arg-type]


def _mark(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    look = _look(glyph) | {"markersize": _size(glyph, at)}
    if glyph.rise:
        figure = ax.figure.figure
        look["transform"] = offset_copy(ax.transData, figure, y=glyph.rise, units="points")
    return ax.add_line(Line2D(at.time, at.middle, **look))


def _bar(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    """All bars of one class as one line, whose parts NaN separates."""
    # Projecting, as a bar lower than a pixel would fade.
    look = _look(glyph) | {"solid_capstyle": "projecting", "markersize": glyph.size}
    if glyph.marker == "_":
        if len(at.time) > _CAPPED:
            look |= {"marker": "", "linewidth": 1.5 * glyph.width}
        return ax.add_line(Line2D(np.repeat(at.time, 3), _broken(at.low, at.high), **look))
    look |= {"markersize": _size(glyph, at), "markevery": (1, 4)}
    heights = _broken(at.low, at.middle, at.high)
    return ax.add_line(Line2D(np.repeat(at.time, 4), heights, **look))


def _span(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    look = _look(glyph) | {"solid_capstyle": "butt", "markersize": glyph.size}
    times = _broken(at.time, at.until)
    return ax.add_line(Line2D(times, np.repeat(at.middle, 3), markevery=(0, 3), **look))


def _broken(*columns: Floats) -> Floats:
    """The points of each row, and a gap behind them."""
    return np.column_stack([*columns, np.full(len(columns[0]), np.nan)]).ravel()


def _band(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    at = _thinned(at)
    look: dict[str, Any] = {"color": glyph.color, "alpha": 0.45, "linewidth": 0}
    return ax.fill_between(at.time, at.low, at.high, step="post", zorder=_order(glyph), **look)


def _thinned(at: Corners) -> Corners:
    """The extremes in each slice of time, where there are many: to fill an area takes long."""
    if len(at.time) <= _SLICES:
        return at
    slices = np.linspace(at.time[0], at.time[-1], _SLICES)
    starts = np.unique(np.searchsorted(at.time, slices))
    low, high = np.minimum.reduceat(at.low, starts), np.maximum.reduceat(at.high, starts)
    return Corners(at.time[starts], at.until[starts], low, high)


def _shade(ax: Axes, glyph: Glyph, at: Corners) -> Any:
    ranges = list(zip(at.time, at.until - at.time, strict=True))
    look: dict[str, Any] = {"facecolor": glyph.color, "alpha": 0.12, "linewidth": 0}
    whole = ax.get_xaxis_transform()  # the height of the Axes is 1
    return ax.broken_barh(ranges, (0, 1), transform=whole, zorder=_order(glyph), **look)


_SHAPES: dict[str, Callable[[Axes, Glyph, Corners], Any]] = {
    "bar": _bar,
    "steps": _line,
    "area": _band,
    "line": _line,
    "mark": _mark,
    "span": _span,
    "band": _band,
    "shade": _shade,
}


def _limit(ax: Axes, parts: dict[Any, Corners]) -> float:
    """Set the limits of the Axes: to all that is drawn, but far windows. Returns the upper one."""
    rest = [at for kind, at in parts.items() if kind not in _FAR and kind != "recovery"]
    low, high = min(at.low.min() for at in rest), max(at.high.max() for at in rest)
    for kind, factor in _FAR.items():
        edges = parts[kind].high if kind in parts else np.empty(0)
        reach = low + factor * (high - low)
        if kind == "rto":  # what it grows to after a timeout may leave the picture
            edges = edges[edges <= reach]
        if (edges <= reach).all():
            high = edges.max(initial=high)
    first = min(at.time.min() for at in parts.values())
    last = max(*(at.time.max() for at in parts.values()), *(at.until.max() for at in rest))
    side, margin = 0.02 * (last - first) or 5e-4, 0.05 * (high - low) or 1.0
    if high <= 0:  # lanes
        margin = 0.5
    x, y = (first - side, last + side), (low - margin, high + margin)
    if ax.has_data():
        x = min(x[0], ax.get_xlim()[0]), max(x[1], ax.get_xlim()[1])
        y = min(y[0], ax.get_ylim()[0]), max(y[1], ax.get_ylim()[1])
    ax.set(xlim=x, ylim=y)
    return float(y[1])


def _label_axis(ax: Axes, which: str, label: str, quantity: str) -> None:
    """Tick labels in a unit that suits the limits; the artists stay in seconds, bytes, bit/s."""
    low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
    reach = high - low if quantity == "s" else high
    units = [(unit, size) for limit, unit, size in _UNITS[quantity] if reach < limit]
    unit, size = next((one for one in units if high < _LONG * one[1]), units[-1])
    axis = ax.xaxis if which == "x" else ax.yaxis
    if quantity in ("B", "packets"):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.12g}"))
    axis.set_label_text(f"{label} ({unit})")


def _legend(ax: Axes) -> None:
    """A legend beside the picture, with each class that is in it once."""
    artists, labels = ax.get_legend_handles_labels()
    samples = {label: _sample(artist) for artist, label in zip(artists, labels, strict=True)}
    size: dict[str, Any] = {"fontsize": "small"}
    if sum(1 + label.count("\n") for label in labels) > _LINES:
        size = {"fontsize": "x-small", "labelspacing": 0.15}
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(samples.values(), samples.keys(), frameon=False, **place, **size)


def _sample(artist: Any) -> Any:
    """What stands in the legend: for bars an upright one, for marks the marker alone."""
    if not isinstance(artist, Line2D):
        return Patch(facecolor=artist.get_facecolor()[0], alpha=artist.get_alpha())
    if artist.get_gid() is None:
        return artist  # drawn by somebody else
    sample = Line2D([], [])
    sample.update_from(artist)
    glyph = glyph_of(str(artist.get_gid()))
    sample.set(markevery=None, rasterized=False)
    if glyph.shape in ("mark", "bar"):
        sample.set_markersize(glyph.size)
    if glyph.shape == "bar":
        sample.set_linestyle("none")
        if artist.get_marker() in ("", "_"):
            sample.set(marker="|", markersize=9, markeredgewidth=artist.get_linewidth())
    return sample
