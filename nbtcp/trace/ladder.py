"""The message sequence of a connection: two ends, one clock, every segment between them."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .glyphs import glyph_of
from .kinds import View
from .metrics import Bools, Floats, resent
from .tables import states

MOST = 1000  # segments
SLOT = 0.17  # inches: the least for a segment's text
STRETCH = 3.0  # the longest that a pause may look, in usual ones
FEW = 12  # segments, up to which arrows are steeper
_KEY = ["flow", "raw_seq", "raw_ack", "len", "flags", "tsval", "sack"]


def table_of(view: View) -> pd.DataFrame:
    """One row per segment: glyph, time, until (s), low and high (0: left, 1: right), text, label.

    What was sent and what arrived is matched by the numbers in the segment; of equal ones the first
    with the first, and what arrives once more was duplicated on the way. A segment that only one
    end has seen, as in a log of one host, was underway for half the shortest RTT: a guess.
    """
    rows = view.segments.assign(flow=view.ways.flow, again=resent(view.segments, view.ways))
    mine = (view.this | view.back) & ~rows["why"].isin(["bad-checksum"]).to_numpy(bool)
    rows = pd.concat([rows[mine], _at_nobody(rows, mine)]).sort_index()
    if rows.empty:
        raise ValueError(f"nothing to plot: no segments {view.way.direction} in the log")
    rows["order"] = np.arange(len(rows))
    rows["tsval"] = rows["tsval"].astype(float).fillna(-1)
    sent, dropped = rows[rows["event"] == "send"], rows[rows["event"] == "drop"]
    moment = [*_KEY, "time", "turn"]
    never_came = _numbered(dropped, ["time"])[[*moment, "why"]]
    here = _numbered(sent, ["time"]).merge(never_came, "outer", moment, suffixes=("", "_drop"))
    lost = here["why_drop"].notna()
    gone, on_the_way = here[lost], _numbered(here[~lost].sort_values("time"), [])
    came = _numbered(rows[rows["event"] == "recv"], [])
    both = on_the_way.merge(came, "outer", [*_KEY, "turn"], suffixes=("", "_came"))
    last = on_the_way.drop_duplicates(_KEY, keep="last")[[*_KEY, "time"]]
    both = both.merge(last, "left", _KEY, suffixes=("", "_last"))
    table = pd.concat([gone.assign(time_came=np.nan, time_last=np.nan), both], ignore_index=True)
    rtt = view.log.rtt()["rtt"]
    underway = float(rtt.min()) / 2 if len(rtt) else 1e-6
    table["order"] = table["order"].fillna(table["order_came"])
    glyphs = _glyphs(table.sort_values("order"), view.flow, underway)
    return glyphs.sort_values("time", kind="stable", ignore_index=True)


def _at_nobody(rows: pd.DataFrame, mine: Bools) -> pd.DataFrame:
    """These segments at an end that knew no connection, where they have no relative numbers: after
    its end, or at a port that nobody listens to.
    """
    same = ["raw_seq", "raw_ack", "len", "flags"]
    known = rows.loc[mine, [*same, "flow", "seq", "ack"]].drop_duplicates(same)
    nobodys = rows[(rows["conn"] == 0).to_numpy(bool)].drop(columns=["flow", "seq", "ack"])
    return nobodys.reset_index().merge(known, on=same).set_index("index")


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
    """As tcpdump writes them: flags, positions, ACK, SACK blocks."""
    columns = [table[n].fillna(table[f"{n}_came"]) for n in ("seq", "ack", "window")]
    texts = []
    fields = (table["flags"], table["len"], *columns, table["sack"])
    for flags, size, seq, ack, window, blocks in zip(*fields, strict=True):
        data = f" {seq:.0f}:{seq + size:.0f}" if size or set(flags) & set("SFR") else ""
        sack = "".join(f" {left}:{right}" for left, right in blocks)
        answer = (f" ack {ack:.0f}" if "A" in flags else "") + (f" sack{sack}" if sack else "")
        closed = " win 0" if window == 0 and "R" not in flags else ""
        texts.append(f"{flags}{data}{answer}{closed}")
    return texts


def states_of(view: View) -> pd.DataFrame:
    """When each end came into which state: time (s), side (0: left, 1: right), state.

    Of several at one moment the last.
    """
    table = states(view.events)
    side = (table["host"].astype(str) != view.way.sender).astype(float)
    table = pd.DataFrame({"time": table["began"], "side": side, "state": table["state"]})
    return table.drop_duplicates(["time", "side"], keep="last", ignore_index=True)


def height(table: pd.DataFrame, changes: pd.DataFrame) -> float:
    """Of the figure, inches; ValueError when nobody could read it."""
    if len(table) > MOST:
        raise ValueError(
            f"a ladder of {len(table)} segments is too long to read: choose a part of it, as "
            f"between=(0, {table['time'].iloc[MOST // 4]:.3g})"
        )
    segments, of_changes = _places(table, changes)
    return 1.4 + float(max(segments.max(), of_changes.max(initial=0.0)))


def _places(table: pd.DataFrame, changes: pd.DataFrame) -> tuple[Floats, Floats]:
    """How far down (inches) each departure and each arrival lies: two columns; and each change.

    In the order of time; where segments leave one after another there is room for the text of each,
    and a pause is shortened.
    """
    count = len(table)
    times = np.concatenate([table["time"], table["until"], changes["time"]])
    leaves = np.arange(len(times)) < count
    order = np.lexsort((leaves, times))
    gaps = np.diff(times[order], prepend=times[order][0])
    usual = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1.0
    pitch = SLOT if count > FEW else 2 * SLOT
    least = np.where(leaves[order], SLOT, 0.0)
    steps = np.maximum(least, np.minimum(pitch * gaps / usual, STRETCH * pitch))
    places = np.empty(len(times))
    places[order] = np.cumsum(steps)
    segments, of_changes = places[: 2 * count].reshape(2, count).T, places[2 * count :]
    # A change stands beside the segment that brought it about, or that it sent.
    for number, change in enumerate(changes.itertuples()):
        for side, time, column in (("high", "until", 1), ("low", "time", 0)):
            beside = (table[side] == change.side) & (table[time] == change.time)
            if beside.any():
                of_changes[number] = segments[int(beside.to_numpy().argmax()), column]
                break
    return segments, of_changes


def draw(ax: Axes, table: pd.DataFrame, changes: pd.DataFrame, way: Any) -> None:
    """Draw the table, and the changes of state beside it; the sender of `way` is at the left."""
    places, of_changes = _places(table, changes)
    for kind, rows in table.groupby("glyph", observed=True):
        glyph, (top, bottom) = glyph_of(str(kind)), places[rows.index].T
        gap = np.full(len(rows), np.nan)
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        if kind == "arrow-copied":  # it began somewhere on the way
            low, top = (low + high) / 2, (top + bottom) / 2
        across = np.column_stack([low, high, gap]).ravel()
        down = np.column_stack([top, bottom, gap]).ravel()
        look: dict[str, Any] = {"color": glyph.color, "linestyle": glyph.dashes, "linewidth": 1.1}
        ax.add_line(Line2D(across, down, gid=str(kind), label=glyph.label, **look))
        for end, tip, size in ((0.0, "<", 5), (0.5, "x", 6), (1.0, ">", 5)):
            there = high == end
            ax.plot(high[there], bottom[there], tip, color=glyph.color, markersize=size)
    longest = 0
    times = table["time"].round(6).tolist()
    for row, seconds, (top, _) in zip(table.itertuples(), times, places, strict=True):
        if row.glyph == "arrow-copied":  # sent by nobody
            continue
        where, align = (-0.02, "right") if row.low == 0 else (1.02, "left")
        time = f"{seconds:.6g} s"
        text = f"{row.text}   {time}" if row.low else f"{time}   {row.text}"
        longest = max(longest, len(text))
        note = ax.text(where, top, text, ha=align, va="center", fontsize="x-small")
        note.set_in_layout(False)  # there is room for them: measuring hundreds takes seconds
    column = 0.2 + 0.014 * longest  # beyond the texts
    for number, (change, down) in enumerate(zip(changes.itertuples(), of_changes, strict=True)):
        later = of_changes[number + 1 :][changes["side"].to_numpy()[number + 1 :] == change.side]
        if (np.abs(later - down) < SLOT / 2).any():  # it would be written over
            continue
        look = {"ha": "center", "va": "center", "fontsize": "x-small", "weight": "bold"}
        ax.text(1 + column if change.side else -column, float(down), str(change.state), **look)
    for side in (0, 1):
        ax.axvline(side, color="0.2", linewidth=1.5)
    lowest = float(max(places.max(), of_changes.max(initial=0.0)))
    ax.set(xlim=(-column - 0.1, column + 1.1), ylim=(lowest + SLOT, -SLOT), yticks=[])
    ax.set_xticks([0, 1], [str(way.sender), str(way.receiver)])
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0)}
    ax.legend(ncol=4, frameon=False, fontsize="small", **place)
