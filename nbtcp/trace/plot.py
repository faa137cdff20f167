"""Pictures of a log: `log.plot.sequence()`.

DataFrames in, pictures out: neither this module nor those that it uses import the stack, so a saved
log or anybody's capture is drawn like a live one. A kind of picture is three steps: rows of the log
-> a tidy table of glyphs (kinds.py, `Picture.data`) -> one artist per class of glyph (picture.py).
glyphs.py says how each class looks.
"""

from collections.abc import Mapping
from typing import Protocol, TypedDict, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.api.types import union_categoricals

from . import ladder
from .glyphs import CAUSES, FEW, GLYPHS, Glyph, glyph_of
from .kinds import KINDS, Kind, View, phase_table, table_of
from .metrics import Flows, flows
from .picture import (
    SUFFIXES,
    Picture,
    classes,
    draw,
    draw_phase,
    draw_runs,
    draw_stack,
    new_axes,
    runs,
)
from .xplot import xplot

__all__ = ["CAUSES", "GLYPHS", "SUFFIXES", "Picture", "Plots"]


class Log(Protocol):
    """What is drawn: an EventLog, or anything with its tables."""

    @property
    def segments(self) -> pd.DataFrame: ...

    @property
    def events(self) -> pd.DataFrame: ...

    @property
    def connections(self) -> pd.DataFrame: ...

    def rtt(self) -> pd.DataFrame: ...

    def queue(self) -> pd.DataFrame: ...


Between = tuple[float, float] | None


class Options(TypedDict, total=False):
    """What every kind of picture takes; see `Plots`."""

    ax: Axes | None
    conn: int | None
    direction: str | None
    between: Between


_TIME = "time (s)"


class Plots:
    """The pictures of one log: `log.plot.sequence()`.

    All of them take
      ax         draw into these Axes, not into a figure of its own
      conn       the connection; by default the one with the most payload (of phase: two of them)
      direction  "out" or "in", as the host sees it that the table of connections names first, or
                 the sender ("10.0.0.1", "10.0.0.1:80"); by default the one with more payload, or
                 the other one if the log knows only of that what is to be drawn
      between    (from, to) in s since the log began
    and raise ValueError, saying what there is, when the log has no such thing to draw.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __repr__(self) -> str:
        names = ", ".join(name for name in dir(self) if not name.startswith("_"))
        return f"<plots of a log: {names}>"

    def sequence(self, **options: Unpack[Options]) -> Picture:
        """Sequence numbers over time: what was sent, again and why, dropped, acknowledged; with
        the receive window, cwnd and the times of loss recovery.

        `data` has seq, end (relative sequence numbers; equal where the glyph is a point), until (s,
        of a recovery) and resent (True for segments of which some part had been seen before).
        """
        return self._draw("sequence", options)

    def stevens(self, **options: Unpack[Options]) -> Picture:
        """A dot for the first octet of each data segment over time; `data` has seq."""
        return self._draw("stevens", options)

    def window(self, **options: Unpack[Options]) -> Picture:
        """cwnd, ssthresh, what is in flight and the receive window over time; `data` has value (B)
        and until.
        """
        return self._draw("window", options)

    def rtt(self, **options: Unpack[Options]) -> Picture:
        """RTT samples, SRTT, RTTVAR and RTO over time; `data` has value and high (s)."""
        return self._draw("rtt", options)

    def waits(self, **options: Unpack[Options]) -> Picture:
        """How long the RTO of RFC 793 and that of Jacobson (1988) would have waited for the same
        samples, and which came later: timeouts for nothing. `data` has value (s).
        """
        return self._draw("waits", options)

    def throughput(self, **options: Unpack[Options]) -> Picture:
        """How fast octets were sent and acknowledged, in hundredths of the time; `data` has value
        (bit/s).
        """
        return self._draw("throughput", options)

    def queue(self, **options: Unpack[Options]) -> Picture:
        """Packets that wait on the path of this direction; `data` has value. Paths with a rate have
        a queue.
        """
        return self._draw("queue", options)

    def states(self, **options: Unpack[Options]) -> Picture:
        """The states of both ends, if they are in the log; `data` has state and until."""
        return self._draw("states", options)

    def timers(self, **options: Unpack[Options]) -> Picture:
        """When each of the sender's timers ran, and when it fired; `data` has timer and until."""
        return self._draw("timers", options)

    def scoreboard(self, **options: Unpack[Options]) -> Picture:
        """What the sender knew of each segment: in flight, reported by SACK, acknowledged; `data`
        has seq, end and until.
        """
        return self._draw("scoreboard", options)

    def diagram(self, **options: Unpack[Options]) -> Picture:
        """The state diagram, with the way that each end of the connection took through it.

        `data` has host, old, new (states) and cause. `nbtcp.trace.diagram.state_diagram()` is the
        diagram without a log.
        """
        from .diagram import drawn, ways

        view = self._view(options.get("conn"), options.get("direction"))
        return drawn(view, _cut(ways(view), options.get("between"), whole=True), options.get("ax"))

    def ladder(self, **options: Unpack[Options]) -> Picture:
        """Both ends and their states, the segments between them, time downwards; for up to some 200
        segments.

        `direction` puts its sender on the left, by default the host that the table of connections
        names first. `data` has until (s, the arrival), low and high (0 at the left, 1 at the right)
        and text. Time is stretched where much happens. What one end alone has seen is dashed, and
        taken to be underway for half the shortest RTT.
        """
        view = self._view(options.get("conn"), options.get("direction", "out"))
        data = _cut(ladder.table_of(view), options.get("between"), whole=True)
        changes = ladder.states_of(view)
        changes = changes[_inside(changes, options.get("between"), whole=True)]
        changes = changes.reset_index(drop=True)
        ax = options.get("ax") or new_axes(9, ladder.height(data, changes))
        ladder.draw(ax, data, changes, view.way)
        title = f"Connection {view.way.conn}: {view.way.sender} and {view.way.receiver}"
        ax.set_title(title, loc="left")
        ends = f"from 0: {view.way.sender} to 1: {view.way.receiver}"
        text = f"ladder of connection {view.way.conn}: {_census(data)}"
        return Picture(ax, data, text, title, lambda: xplot(classes(data), title, _TIME, ends))

    def overview(self, **options: Unpack[Options]) -> Picture:
        """Sequence, window, RTT and queue above each other on one time axis, as far as the log has
        them. They share the place of `ax`, which must be one of a grid and is taken away. `data`
        has the columns of each, and `picture`, its name.
        """
        view, *sequence = self._glyphs("sequence", options)
        parts, between = {"sequence": sequence}, options.get("between")
        for name in ("window", "rtt", "queue"):
            glyphs = _some(KINDS[name], view)
            if glyphs is not None and _inside(glyphs, between).any():
                parts[name] = [*_shown(glyphs, between)]
        stack = [(drawn, KINDS[name]) for name, (_, drawn) in parts.items()]
        ax = draw_stack(stack, options.get("ax"))
        title = _title(view)
        ax.set_title(title, loc="left")
        text = f"overview of connection {view.way.conn}: {', '.join(parts)}"

        def for_xplot() -> str:
            plots = parts.items()
            each = (xplot(classes(drawn), title, _TIME, _upright(n)) for n, (_, drawn) in plots)
            return "new_plotter\n".join(each)

        data = _together({name: glyphs for name, (glyphs, _) in parts.items()})
        return Picture(ax, data, text, title, for_xplot)

    def phase(
        self,
        conn: tuple[int, int] | None = None,
        *,
        ax: Axes | None = None,
        direction: str | None = None,
        between: Between = None,
    ) -> Picture:
        """cwnd of one connection against that of another, as Chiu and Jain (1989) drew two flows:
        on the dashed line both have the same. `conn` are the two, by default the first two.

        `data` has low and high (B, of the first and the second) at each time.
        """
        numbers = self._log.connections["conn"].unique().tolist()
        if len(numbers) < 2:
            raise ValueError("a phase plot is of two connections, and the log has fewer")
        conns = tuple(numbers[:2]) if conn is None else conn
        if not isinstance(conns, tuple) or len(conns) != 2:
            raise ValueError(f"a phase plot is of two connections, as conn=(1, 2), not {conn!r}")
        views = [self._view(one, direction) for one in conns]
        windows = [view.tcb.groupby("time")["cwnd"].last() for view in views]
        both = pd.concat(windows, axis=1, keys=["low", "high"]).sort_index().ffill().dropna()
        if both.empty:
            raise ValueError(f"nothing to plot: connections {conns} were never open at once")
        both = both.reset_index()
        data = phase_table(_cut(both.assign(until=both["time"]), between))
        ax = ax or new_axes(6.5, 5)
        turned = data.assign(time=data["low"], until=data["low"], low=data["high"])
        draw_phase(ax, turned, conns)
        title = f"Connections {conns[0]} and {conns[1]}"
        ax.set_title(title, loc="left")
        text = f"phase plot of connections {conns[0]} and {conns[1]}"
        axes = [f"cwnd of connection {one} (B)" for one in conns]
        return Picture(ax, data, text, title, lambda: xplot(classes(turned), title, *axes))

    def compare(
        self,
        others: Mapping[str, Log],
        kind: str = "window",
        name: str = "this",
        **options: Unpack[Options],
    ) -> Picture:
        """This log, under `name`, and others in one picture; see `nbtcp.compare`."""
        return compared({name: self._log, **others}, kind, **options)

    # --- inside ---

    def _view(self, conn: int | None, direction: str | None) -> View:
        segments = self._log.segments
        ways = flows(segments, self._log.connections)
        return View(self._log, ways, _choose(segments, ways, conn, direction))

    def _glyphs(self, name: str, options: Options) -> tuple[View, pd.DataFrame, pd.DataFrame]:
        """The view, the glyphs between these times, and what is to be drawn of them."""
        view = self._view(options.get("conn"), options.get("direction"))
        glyphs = _some(KINDS[name], view)
        if glyphs is None and options.get("direction") is None:
            # Of a download, what its receiver sent.
            other = View(self._log, view.ways, view.flow ^ 1)
            glyphs = _some(KINDS[name], other)
            view = view if glyphs is None else other
        if glyphs is None:
            what = f"{KINDS[name].needs} {view.way.direction}"
            raise ValueError(f"nothing to plot: no {what} in the log")
        return view, *_shown(glyphs, options.get("between"))

    def _draw(self, name: str, options: Options) -> Picture:
        kind = KINDS[name]
        view, glyphs, drawn = self._glyphs(name, options)
        lanes: list[str] = []
        if not kind.unit:  # names of lanes, from the top
            numbers, names = pd.factorize(drawn["low"])
            drawn, lanes = drawn.assign(low=-numbers, high=-numbers), list(names)
        ax = options.get("ax") or new_axes(height=min(5, 1.2 + 0.4 * len(lanes)) if lanes else 5)
        draw(ax, drawn, kind.label, kind.unit, lanes)
        title = _title(view)
        ax.set_title(title, loc="left")
        text = f"{kind.name} of connection {view.way.conn}: {_census(glyphs, name)}"
        data, up = _public(name, glyphs), _upright(name)
        return Picture(
            ax, data, text, title, lambda: xplot(classes(drawn), title, _TIME, up, lanes)
        )


def compared(logs: Mapping[str, Log], kind: str = "window", **options: Unpack[Options]) -> Picture:
    """One line of each log, the one that matters most in pictures of that `kind`, in one picture.

    By default each log's largest direction is drawn. `data` has run, time and value.
    """
    comparable = [name for name, one in KINDS.items() if one.main]
    if kind not in comparable:
        raise ValueError(f"no comparison of kind {kind!r}: there are {', '.join(comparable)}")
    main, tables = KINDS[kind].main, []
    for run, log in logs.items():
        glyphs = Plots(log)._glyphs(kind, options)[2]
        tables.append(glyphs[glyphs["glyph"] == main].assign(run=run))
    data = pd.concat(tables, ignore_index=True)
    if data.empty:
        raise ValueError(f"nothing to plot: no {glyph_of(main).label} in these logs then")
    ax = options.get("ax") or new_axes()
    draw_runs(ax, data, KINDS[kind].label, KINDS[kind].unit)
    title = f"{', '.join(logs)}: {glyph_of(main).label}"
    ax.set_title(title, loc="left")
    shown = data[["run", "time", "low"]].rename(columns={"low": "value"})
    text = f"comparison of {len(logs)} logs by {kind}"
    return Picture(ax, shown, text, title, lambda: xplot(runs(data), title, _TIME, _upright(kind)))


def _upright(name: str) -> str:
    """What the upright axis of that kind of picture shows, in the unit of the data."""
    kind = KINDS[name]
    return f"{kind.label} ({kind.unit})" if kind.unit else ""


def _title(view: View) -> str:
    seen = "in" if view.way.vantage == "capture" else "by"
    return f"Connection {view.way.conn}: {view.way.direction}, seen {seen} the {view.way.vantage}"


def _public(name: str, glyphs: pd.DataFrame) -> pd.DataFrame:
    """The table as `Picture.data`: only what that kind has, under its own names."""
    columns = KINDS[name].columns
    return glyphs[["glyph", "time", *columns, "label"]].rename(columns=columns)


def _together(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The public tables of several kinds of picture, one below the other."""
    tables = [_public(name, glyphs).assign(picture=name) for name, glyphs in parts.items()]
    texts = ["glyph", "label"]  # concat would make strings of categories
    whole = pd.concat([table.drop(columns=texts) for table in tables], ignore_index=True)
    for column in texts:
        whole[column] = union_categoricals([table[column] for table in tables])
    return whole[list(dict.fromkeys(["picture", "glyph", *whole]))]


def _some(kind: Kind, view: View) -> pd.DataFrame | None:
    """The glyphs of a picture, if there are any."""
    glyphs = table_of(kind, view)
    return None if glyphs[glyphs["glyph"] != "recovery"].empty else glyphs


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


def _inside(data: pd.DataFrame, between: Between, whole: bool = False) -> "pd.Series[bool]":
    """Per row: it happened, or went on, between two times; or it began then, `whole`."""
    low, high = (-np.inf, np.inf) if between is None else between
    return (data["time" if whole else "until"] >= low) & (data["time"] <= high)


def _cut(data: pd.DataFrame, between: Between, whole: bool = False) -> pd.DataFrame:
    """What is `_inside`; what began before or went on later is cut off there."""
    if between is None:
        return data
    low, high = between
    cut = data[_inside(data, between, whole)].reset_index(drop=True)
    if cut.empty:
        raise ValueError(
            f"nothing to plot between {low:g} and {high:g} s: the segments of this direction "
            f"lie between {data['time'].min():.6g} and {data['time'].max():.6g} s"
        )
    if whole:
        return cut
    return cut.assign(time=cut["time"].clip(low), until=cut["until"].clip(upper=high))


def _shown(glyphs: pd.DataFrame, between: Between) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The glyphs between two times, and what to draw: with the values that lines have at both."""
    cut = _uncrowded(_cut(glyphs, between))
    if between is None:
        return cut, cut
    names = map(str, glyphs["glyph"].cat.categories)
    lasting = [name for name in names if glyph_of(name).shape in ("steps", "area", "band")]
    lines = glyphs[glyphs["glyph"].isin(lasting)]
    edges = np.clip(between, glyphs["time"].min(), glyphs["time"].max())
    before = [lines[lines["time"] <= edge].drop_duplicates("glyph", keep="last") for edge in edges]
    held = [rows.assign(time=edge, until=edge) for rows, edge in zip(before, edges, strict=True)]
    return cut, pd.concat([held[0], cut, held[1]], ignore_index=True)


def _uncrowded(glyphs: pd.DataFrame) -> pd.DataFrame:
    """Without the quiet marks of which there are too many."""
    counts = glyphs["glyph"].value_counts()
    crowds = [kind for kind, n in counts.items() if glyph_of(str(kind)).quiet and n > FEW]
    return glyphs[~glyphs["glyph"].isin(crowds)].reset_index(drop=True) if crowds else glyphs


_NOT_SENT = {"sack", "sack-again", "d-sack", "duplicated"}


def _census(glyphs: pd.DataFrame, name: str = "") -> str:
    """What there is to see, in words."""
    counts = {
        str(kind): int(n) for kind, n in glyphs["glyph"].value_counts(sort=False).items() if n
    }
    if name != "sequence":
        return ", ".join(_many(glyph_of(kind), n) for kind, n in counts.items())
    bars = {kind for kind in counts if glyph_of(kind).shape == "bar"} - _NOT_SENT
    carrying = glyphs["glyph"].isin(bars) & (glyphs["high"] > glyphs["low"])
    drops = sum(number for kind, number in counts.items() if kind.startswith("drop-"))
    text = [
        _counted(int(carrying.sum()), "data segment"),
        _counted(int(glyphs["resent"].sum()), "retransmission"),
        _counted(counts.get("ack", 0), "acknowledgment"),
    ]
    return ", ".join([*text, _counted(drops, "drop")] if drops else text)


def _many(glyph: Glyph, number: int) -> str:
    """So many of a class; of lines and areas it means nothing how many points they have."""
    if glyph.shape not in ("bar", "mark", "span", "slope"):
        return glyph.label
    first, *rest = glyph.label.split(" ", 1)
    noun = first + "s" * (number != 1 and first in ("segment", "sample", "state"))
    return " ".join([f"{number:,}", noun, *rest])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
