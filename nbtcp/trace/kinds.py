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
    rows: pd.DataFrame,
    low: Any,
    high: Any = None,
    *,
    until: Any = None,
    again: Bools | None = None,
) -> Piece:
    """Glyphs at the times of `rows`."""
    time = rows["time"].to_numpy(np.float64)
    low = np.asarray(low)
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
        return self.log.segments

    @cached_property
    def events(self) -> pd.DataFrame:
        """Those of this connection."""
        events = self.log.events
        mine: pd.DataFrame = events[events["conn"] == self.way.conn]
        return mine

    @cached_property
    def sent(self) -> pd.DataFrame:
        """What this direction sent, seen at its vantage point."""
        rows: pd.DataFrame = self.segments[self.ways.own & self.this]
        return rows

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
        rows: pd.DataFrame = self.segments[self.ways.answer & self.back]
        return rows

    @cached_property
    def tcb(self) -> pd.DataFrame:
        """Rows that hold the sender's variables; none when it is no host of ours."""
        rows = self._of_sender(self.segments)
        held: pd.DataFrame = rows[rows["cwnd"].notna() & (rows["event"] != "drop")]
        return held

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The sender's RTT samples."""
        return self._of_sender(self.log.rtt())

    def _of_sender(self, rows: pd.DataFrame) -> pd.DataFrame:
        mine: pd.DataFrame = rows[
            (rows["conn"] == self.way.conn) & (rows["host"] == self.way.sender)
        ]
        return mine

    @cached_property
    def queue(self) -> pd.DataFrame:
        """What waited on the path from the sender."""
        rows = self.log.queue()
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
        yield piece("recovery", rows[busy], none, until=until[busy])


# --- sequence ---


def sequence(view: View) -> Iterator[Piece]:
    """What was sent, again and why, what became of it, and what the other end said."""
    yield from _sent(view.sent, view.again, view.doubled)
    yield from _underway(view)
    yield from _heard(view.answers)
    yield _unheard(view.segments[view.ways.lost & view.back])
    yield from _measured(view.samples)
    tcb = view.tcb  # what SACK reports as arrived is no longer in flight
    allowed = (tcb["snd_nxt"] + tcb["cwnd"] - tcb["inflight"]).to_numpy(np.int64)
    offered = (tcb["snd_una"] + tcb["snd_wnd"]).to_numpy(np.int64)
    yield piece("limit", tcb, np.minimum(allowed, offered))
    yield from view.recovery()


def _sent(rows: pd.DataFrame, again: Bools, doubled: Bools) -> Iterator[Piece]:
    """Glyphs of the direction's own segments, seen at its vantage point."""
    rows = rows[["time", "why", "flags", "seq", "len", "ecn"]]  # to select rows is quicker then
    start, end = payload(rows)
    first = (end > start) & ~again & ~rows["why"].isin(CAUSES).to_numpy(bool)
    early = (rows["why"] == "out-of-order").to_numpy(bool)
    shown = {"data": first & ~early, "out-of-order": first & early, "duplicated": doubled}
    shown |= {why: (rows["why"] == why).to_numpy(bool) for why in CAUSES}
    shown["resent"] = again & ~np.logical_or.reduce(list(shown.values()))
    for glyph, mask in shown.items():
        yield piece(glyph, rows[mask], start[mask], end[mask], again=again[mask])
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
        yield piece(glyph, rows[mask], place[mask])


def _underway(view: View) -> Iterator[Piece]:
    """Glyphs of what happened on the way; pure ACKs have no place among the data."""
    rows = view.segments[view.ways.lost & view.this]
    start, end = payload(rows)
    placed = (end > start) | has_flag(rows, "S") | has_flag(rows, "F") | has_flag(rows, "R")
    for why in rows["why"].unique():
        mask = placed & (rows["why"] == why).to_numpy(bool)
        yield piece(f"drop-{why}", rows[mask], start[mask], end[mask])
    arrived = view.this & ~view.ways.own & (view.segments["event"] == "recv").to_numpy(bool)
    rows = view.segments[arrived & ~view.ways.lost]
    start, end = payload(rows)
    twice, marked = _doubled(rows), (rows["ecn"] == "CE").to_numpy(bool)
    yield piece("duplicated", rows[twice], start[twice], end[twice])
    yield piece("ce", rows[marked], end[marked])


def _doubled(rows: pd.DataFrame) -> Bools:
    """Per arrival: a copy, made by the network, of a segment with data that had arrived. What its
    sender sends again has a later timestamp.
    """
    data = (rows["len"] > 0) & rows["tsval"].notna() & ~rows["why"].isin(CAUSES)
    again: Bools = (data & rows.duplicated(["seq", "len", "flags", "tsval"])).to_numpy(bool)
    return again


def _heard(rows: pd.DataFrame) -> Iterator[Piece]:
    """Glyphs of what the other end said: ACKs, window, SACK blocks, marks, RST."""
    rows = rows[["time", "why", "flags", "ack", "window", "sack"]]
    highest = np.maximum.accumulate(rows["ack"].to_numpy(np.int64))
    reset = has_flag(rows, "R")
    yield piece("rst-back", rows[reset], highest[reset])
    rows = rows[has_flag(rows, "A") & ~reset]
    ack, window = rows["ack"].to_numpy(np.int64), rows["window"].to_numpy(np.int64)
    # An ACK overtaken by a later one says nothing new.
    new = ack == np.maximum.accumulate(ack)
    duplicate = (rows["why"] == "duplicate-ack").to_numpy(bool)
    zero = new & (window == 0)
    echo = has_flag(rows, "E") & ~has_flag(rows, "S")
    yield piece("ack", rows[new], ack[new])
    edge = (ack + window)[new]
    same = np.diff(edge, prepend=-1) == 0
    yield piece("window", rows[new], edge)
    yield piece("window-same", rows[new][same], edge[same])
    yield piece("duplicate-ack", rows[duplicate], ack[duplicate])
    third = rows[duplicate].groupby("ack").cumcount().to_numpy() == 2
    yield piece("third-duplicate", rows[duplicate][third], ack[duplicate][third])
    yield piece("zero-window", rows[zero], ack[zero])
    yield piece("ece", rows[echo], ack[echo])
    row, left, right, first, twice = blocks(rows)
    for glyph, mask in (("sack", first & ~twice), ("sack-again", ~first), ("d-sack", twice)):
        yield piece(glyph, rows.iloc[row[mask]], left[mask], right[mask])


def _unheard(rows: pd.DataFrame) -> Piece:
    """Glyphs of ACKs that were dropped: they explain timeouts of data that had arrived."""
    rows = rows[has_flag(rows, "A") & (rows["event"] == "drop").to_numpy(bool)]
    return piece("ack-dropped", rows, rows["ack"].to_numpy(np.int64))


def _measured(samples: pd.DataFrame) -> Iterator[Piece]:
    """ACKs with an RTT sample, and those whose sample Karn's algorithm rejected."""
    kept = samples["kept"].astype(bool)
    for glyph, rows in (("timed", samples[kept]), ("karn", samples[~kept])):
        yield piece(glyph, rows, rows["end"].to_numpy(np.int64))


def stevens(view: View) -> Iterator[Piece]:
    """Where each data segment begins."""
    start, end = payload(view.sent)
    data = end > start
    for glyph, mask in (("segment", data & ~view.again), ("again", data & view.again)):
        yield piece(glyph, view.sent[mask], start[mask])


# --- variables over time ---


def window(view: View) -> Iterator[Piece]:
    """The sender's limits, and what is in flight."""
    tcb = view.tcb
    for glyph, column in (("cwnd", "cwnd"), ("inflight", "inflight"), ("ssthresh", "ssthresh")):
        yield piece(glyph, tcb, tcb[column].to_numpy(np.float64))
    told = tcb[tcb["state"] != "SYN-SENT"]  # before it, the other end has not named its window
    yield piece("rwnd", told, told["snd_wnd"].to_numpy(np.float64))
    yield from view.recovery()


def rtt(view: View) -> Iterator[Piece]:
    """What was measured, and what the sender made of it."""
    samples = view.samples
    kept = samples["kept"].astype(bool)
    for glyph, rows in (("sample", samples[kept]), ("rejected", samples[~kept])):
        yield piece(glyph, rows, rows["rtt"].to_numpy())
    rows = samples[samples["srtt"].notna()]
    srtt, rttvar = rows["srtt"].to_numpy(), rows["rttvar"].to_numpy()
    yield piece("srtt", rows, srtt)
    yield piece("rttvar", rows, np.maximum(srtt - rttvar, 0), srtt + rttvar)
    tcb = view.tcb[view.tcb["srtt"].notna()]
    yield piece("rto", tcb, tcb["rto"].to_numpy())


def waits(view: View) -> Iterator[Piece]:
    """How long two formulas for the RTO would have waited, and which samples came later than that.

    As if each segment had a timer of its own, set to the RTO of what was acknowledged before it.
    """
    rows = view.samples[view.samples["kept"].astype(bool)]
    rtt = rows["rtt"].to_numpy(np.float64)
    before = np.searchsorted(rows["acked"], rows["sent"], "right") - 1
    yield piece("sample", rows, rtt)
    for name, formula in (("rfc793", tables.rto_of_rfc793), ("jacobson", tables.rto_of_jacobson)):
        rto = formula(rows["rtt"]).to_numpy(np.float64)
        late = (before >= 0) & (rtt > rto[before])
        yield piece(f"rto-{name}", rows, rto)
        yield piece(f"late-{name}", rows[late], rtt[late])


def throughput(view: View) -> Iterator[Piece]:
    """How fast octets left, and how fast they were acknowledged."""
    span = float(view.segments["time"].max() - view.segments["time"].min())
    window = span / min(100, max(10, len(view.sent) // 5)) or None  # several segments in each
    table = tables.throughput(view.segments, view.log.connections, window)
    rows = table[table["direction"] == view.way.direction]
    for glyph in ("throughput", "goodput"):
        yield piece(glyph, rows, rows[glyph].to_numpy())


def queue(view: View) -> Iterator[Piece]:
    """How many packets wait for the link."""
    waited = view.queue[view.queue["wait"] > 0]
    entered, begun = waited["time"], waited["time"] + waited["wait"]
    change = np.repeat([1, -1], len(waited))
    table = pd.DataFrame({"time": pd.concat([entered, begun]), "change": change})
    table = table.sort_values(["time", "change"], kind="stable")
    yield piece("packets", table, table["change"].cumsum().to_numpy(np.int64))


# --- lanes: what low and high are is a name ---


def states(view: View) -> Iterator[Piece]:
    """Which states both ends were in."""
    table = tables.states(view.events)
    last = max(float(view.segments["time"].max()), float(table["began"].max()))
    ours = (table["host"] == view.way.sender).to_numpy(bool)
    for glyph, mask in (("state", ours), ("state-peer", ~ours)):
        rows = table[mask].rename(columns={"began": "time"})
        yield piece(glyph, rows, rows["state"].to_numpy(object), until=rows["ended"].fillna(last))


def timers(view: View) -> Iterator[Piece]:
    """When the sender's timers ran, and when they fired."""
    table = tables.timers(view.events)
    table = table[table["host"] == view.way.sender].rename(columns={"set": "time"})
    last = float(view.segments["time"].max())
    until = table["until"].fillna(last)
    yield piece("timer", table, table["timer"].to_numpy(object), until=until)
    fired = table[table["end"] == "fired"]
    fired = fired.assign(time=fired["until"])
    yield piece("fired", fired, fired["timer"].to_numpy(object))


# --- the life of each segment ---


def scoreboard(view: View) -> Iterator[Piece]:
    """What the sender knew of each segment, until it was acknowledged."""
    start, end = payload(view.sent)
    data = end > start
    rows = view.sent[data].assign(start=start[data], end=end[data], again=view.again[data])
    rows = rows.sort_values(["start", "time"], kind="stable")
    start, end = rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64)
    heard = view.answers["time"].to_numpy(np.float64)
    highest = np.maximum.accumulate(view.answers["ack"].to_numpy(np.int64))
    acked = np.append(heard, np.inf)[np.searchsorted(highest, end)]
    sacked = np.full(len(rows), np.inf)
    row, left, right, *_ = blocks(view.answers)
    for now, edge, *ends in zip(
        heard[row], right, *np.searchsorted(start, [left, right]), strict=True
    ):
        inside = slice(*ends)
        sacked[inside] = np.where(end[inside] <= edge, np.minimum(sacked[inside], now), np.inf)
    following = rows.groupby("start")["time"].shift(-1, fill_value=np.inf).to_numpy(np.float64)
    last = float(view.segments["time"].max())
    until = np.minimum(np.minimum(acked, sacked), np.minimum(following, last))
    again = rows["again"].to_numpy(bool)
    for glyph, mask in (("in-flight", ~again), ("in-flight-again", again)):
        yield piece(glyph, rows[mask], start[mask], end[mask], until=until[mask])
    held = (sacked < acked) & np.isinf(following)
    waiting = rows[held].assign(time=sacked[held])
    gone = np.minimum(acked, last)
    yield piece("sacked", waiting, start[held], end[held], until=gone[held])
    new = highest == view.answers["ack"].to_numpy(np.int64)
    yield piece("ack", view.answers[new], highest[new])


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
    "stevens": Kind("Stevens plot", stevens, _SEQUENCE, "B", {"low": "seq"}, main="segment"),
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
