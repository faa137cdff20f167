"""The tables that are worked out: what each direction did, what became of the retransmissions, the
states and the timers, and how fast it went.

DataFrames in, DataFrames out, as in metrics.py; `EventLog` has a method for each. Times are seconds
since the log began, positions those of `log.segments`. Nothing is done row by row.
"""

from typing import Any

import numpy as np
import pandas as pd

from . import spans
from .metrics import Each, Flows, blocks, complete, flows, is_any, payload, positions, ratio, resent
from .spans import Bools, Floats, Ints, Numbers

DIRECTIONS = {
    "segments": ("segments", "of this direction, pure ACKs included"),
    "data_segments": ("segments", "with payload"),
    "bytes": ("B", "of payload, repeated octets included"),
    "unique_bytes": ("B", "of payload, each position counted once"),
    "retransmitted": ("segments", "of which some part had been sent before, SYN and FIN included"),
    "retransmitted_bytes": ("B", "bytes - unique_bytes"),
    "dropped": ("segments", "lost on the way, or thrown away for a bad checksum"),
    "duplicate_acks": ("segments", "duplicate ACKs for the data of this direction"),
    "out_of_order": ("segments", "that arrived ahead of a hole; NA: the log has no arrivals"),
    "first": ("s", "time of the first segment with payload"),
    "last": ("s", "time of the last one"),
    "duration": ("s", "last - first"),
    "throughput": ("bit/s", "unique_bytes over duration; NaN: that is 0"),
    "goodput": ("bit/s", "acknowledged octets over the time from `first` until their ACK"),
    "rtt_samples": ("samples", "of the round-trip time that were used, not rejected (Karn)"),
    "rtt_min": ("s", "the shortest of them"),
    "rtt_mean": ("s", "their mean"),
    "rtt_max": ("s", "the longest"),
}
"""What `directions` counts at the vantage point of each direction: name -> (unit, definition)."""

RTT_COLUMNS = (
    *("time", "host", "conn", "start", "end", "sent", "acked", "rtt"),
    *("srtt", "rttvar", "rto", "kept", "why"),
)
ARRIVED = "arrived"
REFUSED = ("window-closed", "unacceptable", "paws", "options-missing")
BINS = 100  # of a throughput table whose window is not given
TIMER_ENDS = {"timer-set": "set-again", "timer-stopped": "stopped", "timer-fired": "fired"}


def directions(
    segments: pd.DataFrame, samples: pd.DataFrame, connections: pd.DataFrame
) -> pd.DataFrame:
    """Statistics, one row per connection and direction: conn, direction ("sender:port >
    receiver:port"), vantage ("sender" or "receiver": the end whose view the row gives; or
    "capture") and those of DIRECTIONS, which is in `.attrs` too, as "units" and "definitions".

    To a receiver what is known to be dropped on the way was sent; in a capture what fills a hole
    for one of the reasons to send again was sent before. Seen by a sender, goodput is never above
    the rate of the link, unlike throughput.
    """
    ways = flows(segments, connections)
    segments = complete(segments)
    n, own, why = len(ways.table), ways.own, segments["why"]
    of, about = Each(ways.flow, n), Each(ways.flow ^ 1, n)
    time, (start, end) = segments["time"].to_numpy(np.float64), payload(segments)
    arrived, data = (ways.flow >= 0) & is_any(segments["event"], "recv"), own & (end > start)
    early = pd.Series(of.count(arrived & is_any(why, "out-of-order")), dtype="Int64")
    first, last = of.least(time, data), of.most(time, data)
    # An ACK of a FIN lies beyond the data; no data, no goodput.
    ack = segments["ack"].to_numpy(np.int64)
    acked = np.minimum(about.most(ack, ways.answer), of.most(end, data))
    goal = np.nan_to_num(acked).astype(np.int64)
    done = np.append(time, np.nan)[ways.acknowledged(segments, np.arange(n), goal)]
    values: dict[str, Any] = {
        "segments": of.count(own),
        "data_segments": of.count(data),
        "bytes": of.sum(end - start, own),
        "unique_bytes": of.sum(spans.first_seen(ways.flow, start, end, own), own),
        "retransmitted": of.count(resent(segments, ways)),
        "dropped": of.count(ways.lost),
        "duplicate_acks": about.count(ways.answer & is_any(why, "duplicate-ack")),
        "out_of_order": early.where(of.count(arrived) > 0),
        "first": first,
        "last": last,
        "duration": last - first,
        "goodput": _rate(acked - of.least(start, data), done - first),
        **_round_trips(complete(samples, RTT_COLUMNS), ways),
    }
    values["retransmitted_bytes"] = values["bytes"] - values["unique_bytes"]
    values["throughput"] = _rate(values["unique_bytes"], values["duration"])
    table = ways.table[["conn", "direction", "vantage"]]
    table = table.assign(**{name: values[name] for name in DIRECTIONS})
    units, definitions = ({name: told[n] for name, told in DIRECTIONS.items()} for n in (0, 1))
    table.attrs = {**segments.attrs, "units": units, "definitions": definitions}
    return table


def _round_trips(samples: pd.DataFrame, ways: Flows) -> dict[str, Numbers]:
    flow, rtt = ways.of_samples(samples), samples["rtt"].to_numpy(np.float64)
    each, used = Each(flow, len(ways.table)), samples["kept"].to_numpy(bool) & (flow >= 0)
    figures = {"min": each.least, "mean": each.mean, "max": each.most}
    values = {f"rtt_{name}": figure(rtt, used) for name, figure in figures.items()}
    return {"rtt_samples": each.count(used), **values}


def _rate(size: Numbers, seconds: Floats) -> Floats:
    """Bit/s; NaN where nothing was transferred or no time passed."""
    return 8 * ratio(np.where(size > 0, size, np.nan), np.where(seconds > 0, seconds, 0))


def retransmissions(segments: pd.DataFrame, connections: pd.DataFrame) -> pd.DataFrame:
    """One row per segment of which some part had been sent before, seen at its vantage point.

    time, conn, direction, why  when it was sent again, and what for
    seq, end               its positions, SYN and FIN included
    first_sent, last_sent  s, when its first octet had been sent for the first and the last time
    fate                   what had become of it: who dropped it ("loss", "queue-full", ...), or
                           why its receiver did ("window-closed", ...); "arrived": this was a
                           false alarm; missing when the log does not tell
    repaired, delay        s, when it was acknowledged as a whole; repaired - first_sent

    Raises ValueError for a log whose segments overlap more than any TCP's, as a forged capture's.
    """
    ways = flows(segments, connections)
    again = np.flatnonzero(resent(segments, ways))
    flow, sent, (start, end) = ways.flow, ways.transmissions(), positions(segments)
    # Which rows (`owner`) cover which first octets of what was sent again (`head` in `octets`).
    known, axis = flow >= 0, flow * spans.width(start, end)
    octets, head = np.unique((start + axis)[again], return_inverse=True)
    owner, of = spans.covered(start + axis, np.where(known, end, start) + axis, octets)

    def last(mask: Bools) -> Ints:
        """The last row before each, that is one of these and covers its first octet; or -1."""
        return _last(again, head, owner[mask[owner]], of[mask[owner]])

    came_here = known & ~ways.lost & is_any(segments["event"], "recv")
    refused = came_here & is_any(segments["why"], *REFUSED)
    tried, dropped, came = map(last, (sent, ways.lost | refused, came_here & ~refused))
    whys = segments["why"].astype(object).to_numpy()
    fate = np.full(len(again), None, object)
    fate[came >= tried] = ARRIVED
    fate[dropped >= tried] = whys[dropped[dropped >= tried]]
    fate[tried < 0] = None
    if is_any(ways.table["vantage"], "capture").any():
        fate[_needless(segments, ways, again)] = ARRIVED
    table = segments.iloc[again][["time", "conn", "why"]].reset_index(drop=True)
    table.insert(2, "direction", ways.table["direction"].array[flow[again]])
    time = np.append(segments["time"].to_numpy(np.float64), np.nan)  # of no row: unknown
    first = pd.Series(owner[sent[owner]], of[sent[owner]]).groupby(level=0).min()
    table = table.assign(
        seq=start[again],
        end=end[again],
        first_sent=time[first.reindex(head).fillna(-1).to_numpy(np.int64)],
        last_sent=time[tried],
        fate=pd.Categorical(fate),
        repaired=time[ways.acknowledged(segments, flow[again], end[again], again)],
    )
    table["delay"] = table["repaired"] - table["first_sent"]
    table.attrs = dict(segments.attrs)
    return table


def _last(rows: Ints, of: Ints, told: Ints, about: Ints) -> Ints:
    """For each of `rows`, the last of the rows `told` before it that is about the same; or -1."""
    these = pd.DataFrame({"row": told, "of": about, "found": told})
    joined = pd.merge_asof(
        pd.DataFrame({"row": rows, "of": of}), these, "row", by="of", allow_exact_matches=False
    )
    return joined["found"].fillna(-1).to_numpy(np.int64)


def _needless(segments: pd.DataFrame, ways: Flows, again: Ints) -> Bools:
    """Which of the rows `again` of a capture repeat what had arrived, by what came back: it was
    acknowledged already; or the first ACK for it echoes a timestamp that is older than it and all
    else sent again which that ACK covers (RFC 3522); or it is the last one that was sent before a
    D-SACK for it (RFC 2883).
    """
    start, end = positions(segments)
    flow, start, end = ways.flow[again], start[again], end[again]
    early, late = (ways.acknowledged(segments, flow, end, after) for after in (-1, again))
    times = segments[["tsval", "tsecr"]].to_numpy(np.float64, na_value=np.nan)
    age = (times[again, 0] - times[late, 1]) % 2**32
    row, left, right, _, twice = blocks(segments[ways.answer])
    row, left, right = np.flatnonzero(ways.answer)[row[twice]], left[twice], right[twice]
    size = spans.width(start, left, right)
    octets, head = np.unique(flow * size + start, return_inverse=True)
    axis = (ways.flow[row] ^ 1) * size
    owner, of = spans.covered(axis + left, axis + right, octets)
    told = _last(row[owner], of, again, head)
    known = (early >= 0) & (early < again)
    older = pd.Series((late >= 0) & (age > 0) & (age < 2**31))
    known |= older.groupby(late).transform("all").to_numpy(bool)  # an ACK echoes the oldest
    known |= np.isin(again, told)
    return known


def rto_of_rfc793(rtt: pd.Series) -> pd.Series:
    """The RTO after each RTT (s), without its bounds (RFC 793 3.7)."""
    # SRTT = (ALPHA * SRTT) + ((1-ALPHA) * RTT), RTO = BETA * SRTT; ALPHA = 0.9, BETA = 2
    return 2 * rtt.ewm(alpha=0.1, adjust=False).mean()


def rto_of_jacobson(rtt: pd.Series) -> pd.Series:
    """The RTO after each RTT (s), without its bounds (Jacobson 1988; RFC 6298 2)."""
    srtt = rtt.ewm(alpha=1 / 8, adjust=False).mean()
    deviation = (srtt.shift() - rtt).abs().fillna(rtt / 2)  # RTTVAR <- R/2 at first
    return srtt + 4 * deviation.ewm(alpha=1 / 4, adjust=False).mean()


def throughput(
    segments: pd.DataFrame, connections: pd.DataFrame, window: float | None = None
) -> pd.DataFrame:
    """How fast each direction was in each `window` (s) of time; by default a hundredth of it all.

    time, conn, direction  when the window begins
    throughput             bit/s of payload, repeated octets included, at the vantage point
    goodput                bit/s of payload acknowledged for the first time
    """
    if window is not None and not window > 0:
        raise ValueError(f"window={window} must be above 0 (seconds)")
    ways, time = flows(segments, connections), segments["time"].to_numpy(np.float64)
    duration = float(time.max(initial=0))
    step = window or duration / BINS or 1.0
    slots, n = int(duration / step) + 1, len(ways.table)
    slot = np.minimum((time / step).astype(np.int64), slots - 1)
    start, end = payload(segments)
    carried = Each(ways.flow * slots + slot, n * slots).sum(end - start, ways.own)
    # Of all ACKs, what they acknowledge between the first octet of payload and the last.
    of, data = Each(ways.flow, n), ways.own & (end > start)
    low, high = (
        np.nan_to_num(ends).astype(np.int64) for ends in (of.least(start, data), of.most(end, data))
    )
    heard, about = ways.answers()
    ack = segments["ack"].to_numpy(np.int64)[heard].clip(low[about], high[about])
    axis = about * spans.width(low, high)
    risen = np.maximum.accumulate(axis + ack)
    gain = risen - spans.before(risen, axis + low[about])
    acked = Each(about * slots + slot[heard], n * slots).sum(gain, gain > 0)
    table = ways.table.loc[np.repeat(np.arange(n), slots), ["conn", "direction"]]
    table = table.reset_index(drop=True)
    table.insert(0, "time", np.tile(np.arange(slots) * step, n))
    table = table.assign(throughput=8 * carried / step, goodput=8 * acked / step)
    table.attrs = {**segments.attrs, "window": step}
    return table


def states(events: pd.DataFrame) -> pd.DataFrame:
    """One row per state that a connection was in: conn, host, state, began, ended (s; missing for
    the last one), why (what led to it).
    """
    rows = events[events["event"] == "state"]
    table = rows[["conn", "host", "new", "time", "why"]].reset_index(drop=True)
    table.columns = pd.Index(["conn", "host", "state", "began", "why"])
    ends = table.groupby(["conn", "host"], observed=True)["began"].shift(-1)
    table.insert(4, "ended", ends)
    table.attrs = dict(events.attrs)
    return table


def timers(events: pd.DataFrame) -> pd.DataFrame:
    """One row per time that a timer was set.

    conn, host, timer, set, due  s, when it was set and what for
    until, end  s, when it ended and how: "fired", "stopped", "set-again"; missing when it ran on
    """
    rows = events[events["event"].isin(list(TIMER_ENDS))]
    of = [rows["conn"], rows["host"], rows["new"]]
    following = rows[["time", "event"]].groupby(of, observed=True).shift(-1)
    table = rows[["conn", "host", "new", "time"]].assign(
        due=rows["time"] + rows["value"],
        until=following["time"],
        end=following["event"].astype(object).map(TIMER_ENDS),
    )
    table = table[rows["event"] == "timer-set"].reset_index(drop=True)
    table = table.rename(columns={"new": "timer", "time": "set"})
    table.attrs = dict(events.attrs)
    return table
