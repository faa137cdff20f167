"""What each kind of picture shows: rows of a log -> a table of glyphs.

A `Kind` turns a `View`, one direction of one connection, into `Piece`s; plot.py chooses the view
and picture.py draws what comes of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from . import tables
from .glyphs import CAUSES, GLYPHS, glyph_of
from .metrics import Bools, Flows, blocks, has_flag, payload, resent

if TYPE_CHECKING:
    from .plot import Log

Numbers = npt.NDArray[Any]


class Piece(NamedTuple):
    """Glyphs of one class; the arrays are as long as there are glyphs."""

    glyph: str
    time: Numbers
    low: Numbers
    high: Numbers
    until: Numbers
    resent: Bools


def piece(
    glyph: str,
    time: Any,
    low: Any,
    high: Any = None,
    *,
    until: Any = None,
    again: Bools | None = None,
) -> Piece:
    """Glyphs at these times."""
    time, low = np.asarray(time, np.float64), np.asarray(low)
    return Piece(
        glyph,
        time,
        low,
        low if high is None else np.asarray(high),
        time if until is None else np.asarray(until, np.float64),
        np.zeros(len(time), bool) if again is None else again,
    )


@dataclass(frozen=True)
class Kind:
    """One kind of picture.

    name     as in "sequence plot"
    build    what it shows of a view
    label    of the upright axis, whose unit is "B", "s", "bit/s", "packets"; "" for lanes
    columns  what low, high, until and resent are called in `Picture.data`, if they are there
    needs    what a log lacks of which there is nothing to draw
    main     the class of glyph by which several logs are compared
    """

    name: str
    build: Callable[["View"], Iterator[Piece]]
    label: str
    unit: str
    columns: dict[str, str]
    needs: str = "segments"
    main: str = ""


_SAID = "time event why flags seq ack len window sack tsval ecn".split()


class View:
    """One direction of one connection of a log; `flow` is its row in `ways.table`."""

    def __init__(self, log: "Log", ways: Flows, flow: int) -> None:
        self.log = log
        self.ways = ways
        self.flow = flow
        self.way = ways.table.iloc[flow]
        self.this, self.back = ways.flow == flow, ways.flow == flow ^ 1

    @cached_property
    def segments(self) -> pd.DataFrame:
        return _bare(self.log.segments)

    @cached_property
    def events(self) -> pd.DataFrame:
        """Those of this connection."""
        events = _bare(self.log.events)
        mine: pd.DataFrame = events[events["conn"] == self.way.conn]
        return mine

    def told(self, mask: Bools) -> pd.DataFrame:
        """What these segments say; few columns, as to select rows is quicker then."""
        return self.segments[_SAID].loc[mask]

    @cached_property
    def sent(self) -> pd.DataFrame:
        """What this direction sent, seen at its vantage point."""
        return self.told(self.ways.own & self.this)

    @cached_property
    def again(self) -> Bools:
        """Per row of `sent`: some part of it had been sent before."""
        again: Bools = resent(self.segments, self.ways)[self.ways.own & self.this]
        return again

    @cached_property
    def doubled(self) -> Bools:
        """Per row of `sent`: arrived here as a copy that the network made."""
        arrived = self.way.vantage != "sender"
        return _doubled(self.sent) if arrived else np.zeros(len(self.sent), bool)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """What the other end said, seen at the vantage point."""
        return self.told(self.ways.answer & self.back)

    @cached_property
    def tcb(self) -> pd.DataFrame:
        """Rows that hold the sender's variables; none when it is no host of ours."""
        rows = self._of_sender(self.segments)
        held: pd.DataFrame = rows[rows["cwnd"].notna() & (rows["event"] != "drop")]
        return held

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The sender's RTT samples."""
        return self._of_sender(_bare(self.log.rtt()))

    def _of_sender(self, rows: pd.DataFrame) -> pd.DataFrame:
        mine: pd.DataFrame = rows[
            (rows["conn"] == self.way.conn) & (rows["host"] == self.way.sender)
        ]
        return mine

    @cached_property
    def queue(self) -> pd.DataFrame:
        """What waited on the path from the sender."""
        rows = _bare(self.log.queue())
        mine: pd.DataFrame = rows[rows["host"] == self.way.sender]
        return mine

    def recovery(self) -> Iterator[Piece]:
        """When the sender was repairing losses."""
        rows = self.events
        rows = rows[(rows["event"] == "recovery") & (rows["host"] == self.way.sender)]
        rows = rows[rows["old"] != rows["new"]]
        last = self.segments["time"].max() if len(self.segments) else 0.0
        until = rows["time"].shift(-1, fill_value=last)
        busy = (rows["new"] != "open").to_numpy(bool)
        none = np.zeros(busy.sum(), np.int64)
        yield piece("recovery", rows["time"][busy], none, until=until[busy])


def _bare(table: pd.DataFrame) -> pd.DataFrame:
    """The same without `attrs`, which pandas would copy with each column that is taken out."""
    table = table.copy(deep=False)
    table.attrs = {}
    return table


# --- sequence ---


def sequence(view: View) -> Iterator[Piece]:
    """What was sent, again and why, what became of it, and what the other end said."""
    yield from _sent(view.sent, view.again, view.doubled)
    yield from _underway(view)
    yield from _heard(view.answers)
    yield _unheard(view.told(view.ways.lost & view.back))
    yield from _measured(view.samples)
    tcb = view.tcb  # what SACK reports as arrived is no longer in flight
    allowed = (tcb["snd_nxt"] + tcb["cwnd"] - tcb["inflight"]).to_numpy(np.int64)
    offered = (tcb["snd_una"] + tcb["snd_wnd"]).to_numpy(np.int64)
    yield piece("limit", tcb["time"], np.minimum(allowed, offered))
    yield from view.recovery()


def _sent(rows: pd.DataFrame, again: Bools, doubled: Bools) -> Iterator[Piece]:
    """Glyphs of the direction's own segments, seen at its vantage point."""
    time = rows["time"].to_numpy()
    start, end = payload(rows)
    first = (end > start) & ~again & ~rows["why"].isin(CAUSES).to_numpy(bool)
    early = (rows["why"] == "out-of-order").to_numpy(bool)
    shown = {"data": first & ~early, "out-of-order": first & early, "duplicated": doubled}
    shown |= {why: (rows["why"] == why).to_numpy(bool) for why in CAUSES}
    shown["resent"] = again & ~np.logical_or.reduce(list(shown.values()))
    for glyph, mask in shown.items():
        yield piece(glyph, time[mask], start[mask], end[mask], again=again[mask])
    open_ = has_flag(rows, "S")
    marks = {
        "push": (has_flag(rows, "P") & (end > start), end),
        "syn": (open_, start - 1),
        "fin": (has_flag(rows, "F"), end),
        "rst": (has_flag(rows, "R"), start),
        "urgent": (has_flag(rows, "U"), end),
        "cwr": (has_flag(rows, "C") & ~open_, end),
        "ce": ((rows["ecn"] == "CE").to_numpy(bool), end),
    }
    for glyph, (mask, place) in marks.items():
        yield piece(glyph, time[mask], place[mask])


def _underway(view: View) -> Iterator[Piece]:
    """Glyphs of what happened on the way; pure ACKs have no place among the data."""
    rows = view.told(view.ways.lost & view.this)
    time = rows["time"].to_numpy()
    start, end = payload(rows)
    placed = (end > start) | has_flag(rows, "S") | has_flag(rows, "F") | has_flag(rows, "R")
    for why in rows["why"].unique():
        mask = placed & (rows["why"] == why).to_numpy(bool)
        yield piece(f"drop-{why}", time[mask], start[mask], end[mask])
    arrived = view.this & ~view.ways.own & (view.segments["event"] == "recv").to_numpy(bool)
    rows = view.told(arrived & ~view.ways.lost)
    time = rows["time"].to_numpy()
    start, end = payload(rows)
    twice, marked = _doubled(rows), (rows["ecn"] == "CE").to_numpy(bool)
    yield piece("duplicated", time[twice], start[twice], end[twice])
    yield piece("ce", time[marked], end[marked])


def _doubled(rows: pd.DataFrame) -> Bools:
    """Per arrival: a copy, made by the network, of a segment with data that had arrived. What its
    sender sends again has a later timestamp.
    """
    data = (rows["len"] > 0) & rows["tsval"].notna() & ~rows["why"].isin(CAUSES)
    again: Bools = (data & rows.duplicated(["seq", "len", "flags", "tsval"])).to_numpy(bool)
    return again


def _heard(rows: pd.DataFrame) -> Iterator[Piece]:
    """Glyphs of what the other end said: ACKs, window, SACK blocks, marks, RST."""
    highest = np.maximum.accumulate(rows["ack"].to_numpy(np.int64))
    reset = has_flag(rows, "R")
    yield piece("rst-back", rows["time"][reset], highest[reset])
    rows = rows[has_flag(rows, "A") & ~reset]
    time = rows["time"].to_numpy()
    ack, window = rows["ack"].to_numpy(np.int64), rows["window"].to_numpy(np.int64)
    # An ACK overtaken by a later one says nothing new.
    new = ack == np.maximum.accumulate(ack)
    duplicate = (rows["why"] == "duplicate-ack").to_numpy(bool)
    zero = new & (window == 0)
    echo = has_flag(rows, "E") & ~has_flag(rows, "S")
    yield piece("ack", time[new], ack[new])
    edge = (ack + window)[new]
    same = np.diff(edge, prepend=-1) == 0
    yield piece("window", time[new], edge)
    yield piece("window-same", time[new][same], edge[same])
    yield piece("duplicate-ack", time[duplicate], ack[duplicate])
    third = rows[duplicate].groupby("ack").cumcount().to_numpy() == 2
    yield piece("third-duplicate", time[duplicate][third], ack[duplicate][third])
    yield piece("zero-window", time[zero], ack[zero])
    yield piece("ece", time[echo], ack[echo])
    row, left, right, first, twice = blocks(rows)
    for glyph, mask in (("sack", first & ~twice), ("sack-again", ~first), ("d-sack", twice)):
        yield piece(glyph, time[row[mask]], left[mask], right[mask])


def _unheard(rows: pd.DataFrame) -> Piece:
    """Glyphs of ACKs that were dropped: they explain timeouts of data that had arrived."""
    rows = rows[has_flag(rows, "A") & (rows["event"] == "drop").to_numpy(bool)]
    return piece("ack-dropped", rows["time"], rows["ack"].to_numpy(np.int64))


def _measured(samples: pd.DataFrame) -> Iterator[Piece]:
    """ACKs with an RTT sample, and those whose sample Karn's algorithm rejected."""
    kept = samples["kept"].astype(bool)
    for glyph, rows in (("timed", samples[kept]), ("karn", samples[~kept])):
        yield piece(glyph, rows["time"], rows["end"].to_numpy(np.int64))


def stevens(view: View) -> Iterator[Piece]:
    """Where each data segment begins."""
    start, end = payload(view.sent)
    data = end > start
    for glyph, mask in (("segment", data & ~view.again), ("again", data & view.again)):
        yield piece(glyph, view.sent["time"][mask], start[mask])


# --- variables over time ---


def window(view: View) -> Iterator[Piece]:
    """The sender's limits, and what is in flight."""
    tcb = view.tcb
    for glyph, column in (("cwnd", "cwnd"), ("inflight", "inflight"), ("ssthresh", "ssthresh")):
        yield piece(glyph, tcb["time"], tcb[column].to_numpy(np.float64))
    told = tcb[tcb["state"] != "SYN-SENT"]  # before it, the other end has not named its window
    yield piece("rwnd", told["time"], told["snd_wnd"].to_numpy(np.float64))
    yield from view.recovery()


def rtt(view: View) -> Iterator[Piece]:
    """What was measured, and what the sender made of it."""
    samples = view.samples
    kept = samples["kept"].astype(bool)
    for glyph, rows in (("sample", samples[kept]), ("rejected", samples[~kept])):
        yield piece(glyph, rows["time"], rows["rtt"].to_numpy())
    rows = samples[samples["srtt"].notna()]
    srtt, rttvar = rows["srtt"].to_numpy(), rows["rttvar"].to_numpy()
    yield piece("srtt", rows["time"], srtt)
    yield piece("rttvar", rows["time"], np.maximum(srtt - rttvar, 0), srtt + rttvar)
    tcb = view.tcb[view.tcb["srtt"].notna()]
    yield piece("rto", tcb["time"], tcb["rto"].to_numpy())


def waits(view: View) -> Iterator[Piece]:
    """How long two formulas for the RTO would have waited, and which samples came later than that.

    As if each segment had a timer of its own, set to the RTO of what was acknowledged before it.
    """
    rows = view.samples[view.samples["kept"].astype(bool)]
    rtt = rows["rtt"].to_numpy(np.float64)
    before = np.searchsorted(rows["acked"], rows["sent"], "right") - 1
    yield piece("sample", rows["time"], rtt)
    for name, formula in (("rfc793", tables.rto_of_rfc793), ("jacobson", tables.rto_of_jacobson)):
        rto = formula(rows["rtt"]).to_numpy(np.float64)
        late = (before >= 0) & (rtt > rto[before])
        yield piece(f"rto-{name}", rows["time"], rto)
        yield piece(f"late-{name}", rows["time"][late], rtt[late])


def throughput(view: View) -> Iterator[Piece]:
    """How fast octets left, and how fast they were acknowledged."""
    span = float(view.segments["time"].max() - view.segments["time"].min())
    window = span / min(100, max(10, len(view.sent) // 5)) or None  # several segments in each
    table = tables.throughput(view.segments, view.log.connections, window)
    rows = table[(table["conn"] == view.way.conn) & (table["direction"] == view.way.direction)]
    for glyph in ("throughput", "goodput"):
        yield piece(glyph, rows["time"], rows[glyph].to_numpy())


def queue(view: View) -> Iterator[Piece]:
    """How many packets wait for the link."""
    waited = view.queue[view.queue["wait"] > 0]
    entered, begun = waited["time"], (waited["time"] + waited["wait"]).round(9)  # whole ns
    change = np.repeat([1, -1], len(waited))
    table = pd.DataFrame({"time": pd.concat([entered, begun]), "change": change})
    table = table.sort_values(["time", "change"], kind="stable")
    yield piece("packets", table["time"], table["change"].cumsum().to_numpy(np.int64))


# --- lanes: what low and high are is a name ---


def states(view: View) -> Iterator[Piece]:
    """Which states both ends were in."""
    table = tables.states(view.events)
    last = max(float(view.segments["time"].max()), float(table["began"].max()))
    ours = (table["host"] == view.way.sender).to_numpy(bool)
    for glyph, mask in (("state", ours), ("state-peer", ~ours)):
        rows = table[mask]
        yield piece(glyph, rows["began"], rows["state"], until=rows["ended"].fillna(last))


def timers(view: View) -> Iterator[Piece]:
    """When the sender's timers ran, and when they fired."""
    table = tables.timers(view.events)
    table = table[table["host"] == view.way.sender]
    until = table["until"].fillna(float(view.segments["time"].max()))
    yield piece("timer", table["set"], table["timer"], until=until)
    fired = table[table["end"] == "fired"]
    yield piece("fired", fired["until"], fired["timer"])


# --- the life of each segment ---


def scoreboard(view: View) -> Iterator[Piece]:
    """What the sender knew of each segment, until it was acknowledged."""
    start, end = payload(view.sent)
    time = view.sent["time"].to_numpy(np.float64)
    order = np.lexsort((time, start))
    order = order[(end > start)[order]]
    time, start, end, again = time[order], start[order], end[order], view.again[order]
    heard = view.answers["time"].to_numpy(np.float64)
    highest = np.maximum.accumulate(view.answers["ack"].to_numpy(np.int64))
    acked = np.append(heard, np.inf)[np.searchsorted(highest, end)]
    sacked, following = np.full((2, len(time)), np.inf)
    row, left, right, *_ = blocks(view.answers)
    low, high = np.searchsorted(start, left), np.searchsorted(start, right)
    for block in reversed(range(len(row))):  # from the last one, so that the first one stays
        inside = slice(low[block], high[block])
        sacked[inside][end[inside] <= right[block]] = heard[row[block]]
    sacked[sacked < time] = np.inf  # the report was of what had been sent before
    once_more = np.flatnonzero(start[1:] == start[:-1])
    following[once_more] = time[once_more + 1]
    last = float(view.segments["time"].max())
    until = np.minimum(np.minimum(acked, sacked), np.minimum(following, last))
    for glyph, mask in (("in-flight", ~again), ("in-flight-again", again)):
        yield piece(glyph, time[mask], start[mask], end[mask], until=until[mask])
    held = (sacked < acked) & np.isinf(following)
    until = np.minimum(acked, last)
    yield piece("sacked", sacked[held], start[held], end[held], until=until[held])
    new = highest == view.answers["ack"].to_numpy(np.int64)
    yield piece("ack", heard[new], highest[new])


def phase_table(both: pd.DataFrame) -> pd.DataFrame:
    """The glyphs of two variables, low and high: their way, where it begins and ends, and where
    both would be the same.
    """
    most = both[["low", "high"]].max(axis=None)
    fair = pd.DataFrame({"time": both["time"].iloc[:1], "low": 0, "high": 0})
    parts = {
        "flows": both,
        "fair": pd.concat([fair, fair.assign(low=most, high=most)]),
        "start": both.iloc[:1],
        "stop": both.iloc[-1:],
    }
    table = pd.concat([rows.assign(glyph=kind) for kind, rows in parts.items()], ignore_index=True)
    table["label"] = [glyph_of(kind).label for kind in table["glyph"]]
    return table[["glyph", "time", "low", "high", "label"]]


_SEQUENCE = "sequence number, from the SYN"
_RANGE = {"low": "seq", "high": "end", "until": "until"}
_OURS = "variables of a sender of ours that sent"
KINDS = {
    "sequence": Kind(
        *("sequence plot", sequence, _SEQUENCE, "B"), {**_RANGE, "resent": "resent"}, main="ack"
    ),
    "stevens": Kind(
        *("Stevens plot", stevens, _SEQUENCE, "B", {"low": "seq"}), "data segments", "segment"
    ),
    "window": Kind(
        *("window plot", window, "window", "B"), {"low": "value", "until": "until"}, _OURS, "cwnd"
    ),
    "rtt": Kind(
        *("RTT plot", rtt, "round-trip time", "s"),
        *({"low": "value", "high": "high"}, "RTT samples of", "srtt"),
    ),
    "waits": Kind(*("plot of waits", waits, "time", "s", {"low": "value"}, "RTT samples of")),
    "throughput": Kind(
        "throughput plot", throughput, "rate", "bit/s", {"low": "value"}, main="goodput"
    ),
    "queue": Kind(
        *("queue plot", queue, "queue", "packets"),
        {"low": "value"},
        "path with a rate for",
        "packets",
    ),
    "states": Kind("state plot", states, "", "", {"low": "state", "until": "until"}, "states of"),
    "timers": Kind("timer plot", timers, "", "", {"low": "timer", "until": "until"}, "timers of"),
    "scoreboard": Kind("scoreboard", scoreboard, _SEQUENCE, "B", _RANGE),
}


def table_of(kind: Kind, view: View) -> pd.DataFrame:
    """All glyphs of one picture in order of time; columns glyph, time, low, high, until, resent,
    label.
    """
    found = list(kind.build(view))
    there = {part.glyph for part in found}
    order = [*(name for name in GLYPHS if name in there), *sorted(there - set(GLYPHS))]
    codes = [np.full(len(part.time), order.index(part.glyph)) for part in found]
    glyph = pd.Categorical.from_codes(np.concatenate(codes), pd.Index(order))
    names = ("time", "low", "high", "until", "resent")
    columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in names}
    label = glyph.rename_categories({name: glyph_of(name).label for name in order})
    table = pd.DataFrame({"glyph": glyph, **columns, "label": label})
    if kind.unit:  # a variable that is not known at that moment
        table = table[table["low"].notna()]
    return _tame_resets(table).sort_values("time", kind="stable", ignore_index=True)


def _tame_resets(table: pd.DataFrame) -> pd.DataFrame:
    """A reset may have any sequence number: keep it where the rest of the picture is."""
    reset = table["glyph"] == "rst"
    rest = table[~reset & ~table["glyph"].isin(["window", "limit", "recovery"])]
    if reset.any() and len(rest):
        place = table.loc[reset, "low"].clip(rest["low"].min(), rest["high"].max())
        table.loc[reset, "low"] = table.loc[reset, "high"] = place
    return table
