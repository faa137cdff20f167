"""The message sequence of a connection: two ends, one clock, every segment between them."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .glyphs import glyph_of
from .kinds import View
from .metrics import Floats, resent

MOST = 1000  # segments
SLOT, STRETCH = 0.17, 3.0  # inches: the least for a segment's text, the most for a pause
_KEY = ["flow", "raw_seq", "raw_ack", "len", "flags", "tsval", "sack"]


def table_of(view: View) -> pd.DataFrame:
    """One row per segment: glyph, time, until (s), low and high (0: left, 1: right), text, label.

    What was sent and what arrived is matched by the numbers in the segment; of equal ones the first
    with the first, and what arrives once more was duplicated on the way. A segment that only one
    end has seen, as in a log of one host, was underway for half the shortest RTT: a guess.
    """
    rows = view.segments.assign(flow=view.ways.flow, again=resent(view.segments, view.ways))
    rows = rows[(view.this | view.back) & ~rows["why"].isin(["bad-checksum"])].copy()
    if rows.empty:
        raise ValueError(f"nothing to plot: no segments {view.way.direction} in the log")
    rows["order"] = np.arange(len(rows))
    rows["tsval"] = rows["tsval"].astype(float).fillna(-1)
    sent, dropped = rows[rows["event"] == "send"], rows[rows["event"] == "drop"]
    here = _numbered(sent, ["time"]).merge(
        _numbered(dropped, ["time"])[[*_KEY, "time", "turn", "why"]],
        "outer",
        [*_KEY, "time", "turn"],
        suffixes=("", "_drop"),
    )
    lost = here["why_drop"].notna()
    gone, on_the_way = here[lost], _numbered(here[~lost].sort_values("time"), [])
    came = _numbered(rows[rows["event"] == "recv"], [])
    both = on_the_way.merge(came, "outer", [*_KEY, "turn"], suffixes=("", "_came"))
    last = on_the_way.drop_duplicates(_KEY, keep="last")[[*_KEY, "time"]]
    both = both.merge(last, "left", _KEY, suffixes=("", "_last"))
    table = pd.concat([gone.assign(time_came=np.nan, time_last=np.nan), both], ignore_index=True)
    rtt = view.log.rtt()["rtt"]
    underway = float(rtt.min()) / 2 if len(rtt) else 0.0
    table["order"] = table["order"].fillna(table["order_came"])
    return _glyphs(table.sort_values("order"), view.flow, underway).sort_values(
        "time", kind="stable", ignore_index=True
    )


def _numbered(rows: pd.DataFrame, also: list[str]) -> pd.DataFrame:
    """`turn`: which of several equal segments it is."""
    return rows.assign(turn=rows.groupby([*_KEY, *also], observed=True).cumcount())


def _glyphs(table: pd.DataFrame, left: int, underway: float) -> pd.DataFrame:
    lost = table["why_drop"].notna().to_numpy(bool)
    start, arrival = table["time"].to_numpy(float), table["time_came"].to_numpy(float)
    copied = np.isnan(start) & table["time_last"].notna().to_numpy(bool)
    start = np.where(copied, table["time_last"], start)
    guessed = (np.isnan(arrival) & ~lost) | np.isnan(start)
    start = np.where(np.isnan(start), arrival - underway, start)
    arrival = np.where(np.isnan(arrival), start + underway, arrival)
    again = table["again"].fillna(False).to_numpy(bool)
    names = ["arrow-lost", "arrow-copied", "arrow-guessed", "arrow-again"]
    kinds = np.select([lost, copied, guessed, again], names, "arrow")
    side = (table["flow"] != left).to_numpy(float)
    shown = {
        "glyph": pd.Categorical(kinds),
        "time": start,
        "until": arrival,
        "low": side,
        "high": np.where(lost, 0.5, 1 - side),
        "text": _texts(table),
        "label": [glyph_of(kind).label for kind in kinds],
    }
    return pd.DataFrame(shown)


def _texts(table: pd.DataFrame) -> list[str]:
    """As tcpdump writes them: flags, positions, ACK."""
    columns = [
        table[f"{name}"].where(table[f"{name}"].notna(), table[f"{name}_came"])
        for name in ("seq", "ack", "window")
    ]
    texts = []
    for flags, size, seq, ack, window in zip(table["flags"], table["len"], *columns, strict=True):
        data = f" {seq:.0f}:{seq + size:.0f}" if size or set(flags) & set("SFR") else ""
        closed = " win 0" if window == 0 and "R" not in flags else ""
        texts.append(f"{flags}{data}" + (f" ack {ack:.0f}" if "A" in flags else "") + closed)
    return texts


def height(table: pd.DataFrame) -> float:
    """Of the figure, inches; ValueError when nobody could read it."""
    if len(table) > MOST:
        raise ValueError(
            f"a ladder of {len(table)} segments is too long to read: choose a part of it, as "
            f"between=(0, {table['time'].iloc[MOST // 4]:.3g})"
        )
    return 1.2 + float(_places(table).max())


def _places(table: pd.DataFrame) -> Floats:
    """How far down (inches) each departure and each arrival lies: two columns.

    In the order of time; where segments leave one after another there is room for the text of each,
    and a pause is shortened.
    """
    count = len(table)
    times = np.concatenate([table["time"], table["until"]])
    leaves = np.arange(2 * count) < count
    order = np.lexsort((leaves, times))
    gaps = np.diff(times[order], prepend=times[order][0])
    usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
    least = np.where(leaves[order], SLOT, 0.0)
    steps = np.maximum(least, np.minimum(SLOT * gaps / usual, STRETCH * SLOT))
    places = np.empty(2 * count)
    places[order] = np.cumsum(steps)
    return places.reshape(2, count).T


def draw(ax: Axes, table: pd.DataFrame, way: Any) -> None:
    """Draw the table; the sender of `way` is at the left."""
    places = _places(table)
    for kind, rows in table.groupby("glyph", observed=True):
        glyph, (top, bottom) = glyph_of(str(kind)), places[rows.index].T
        gap = np.full(len(rows), np.nan)
        across = np.column_stack([rows["low"], rows["high"], gap]).ravel()
        down = np.column_stack([top, bottom, gap]).ravel()
        look: dict[str, Any] = {"color": glyph.color, "linestyle": glyph.dashes, "linewidth": 1.1}
        ax.add_line(Line2D(across, down, gid=str(kind), label=glyph.label, **look))
        tips = "x" if kind == "arrow-lost" else "o"
        ax.plot(rows["high"], bottom, tips, color=glyph.color, markersize=5 if tips == "x" else 3)
    for row, (top, _) in zip(table.itertuples(), places, strict=True):
        where, align = (-0.02, "right") if row.low == 0 else (1.02, "left")
        text = f"{row.text}   {row.time:.6f} s" if row.low else f"{row.time:.6f} s   {row.text}"
        note = ax.text(where, top, text, ha=align, va="center", fontsize="x-small")
        note.set_in_layout(False)  # there is room for them: measuring hundreds takes seconds
    for side in (0, 1):
        ax.axvline(side, color="0.2", linewidth=1.5)
    ax.set(xlim=(-0.6, 1.6), ylim=(float(places.max()) + SLOT, -2 * SLOT), yticks=[])
    ax.set_xticks([0, 1], [str(way.sender), str(way.receiver)])
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
