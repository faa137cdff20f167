"""Statistics of a log: per connection and direction, and of its RTT samples.

DataFrames in, DataFrames out: the tables of `log.segments`, `log.rtt()` and `log.connections`,
whoever made them. This module never imports the stack, so a saved log or anybody's capture has the
same statistics as a live one.

Each direction of a connection is looked at from one place, its *vantage point*: the sender when the
log holds what that host sent, otherwise the receiver; in a capture, whose segments count as sent,
the place where it was made. Numbers from two places differ (a lost segment was sent but did not
arrive), so they are never mixed in one count.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..wire.segment import format_endpoint

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

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

SEGMENT_COLUMNS = ("time", "host", "conn", "event", "why", "flags", "seq", "ack", "len", "window")

RTT_COLUMNS = (
    *("time", "host", "conn", "start", "end", "sent", "acked", "rtt"),
    *("srtt", "rttvar", "rto", "kept", "why"),
)

DAMAGED = ("bad-checksum", "malformed")
"""What `why` says of segments that arrived but were thrown away unread."""

REPEATED = (
    *("fast-retransmit", "partial-ack", "timeout", "go-back-n"),
    *("sack-hole", "rescue", "rack", "packet-too-big"),
)
"""What `why` says of segments that are inferred to have been sent before."""

UNHEARD = (*DAMAGED, "unacceptable", "ack-unsent", "paws", "options-missing", "not-syn")
"""What `why` says of segments whose ACK was not taken."""


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
    segments = _complete(segments, SEGMENT_COLUMNS)[[*SEGMENT_COLUMNS]]
    samples = _complete(samples, RTT_COLUMNS)
    ends = _ends(connections)
    ways = flows(segments, connections)
    table = ways.table[["conn", "direction", "vantage"]]
    table = table.assign(
        **_volume(segments, ways),
        **_trouble(segments, ways),
        **_pace(segments, ways),
        **_round_trips(samples, ends),
    )
    table["retransmitted_bytes"] = table["bytes"] - table["unique_bytes"]
    table["duration"] = table["last"] - table["first"]
    table["throughput"] = _rate(table["unique_bytes"], table["duration"])
    table = table[["conn", "direction", "vantage", *DIRECTIONS]]
    units, definitions = ({name: told[n] for name, told in DIRECTIONS.items()} for n in (0, 1))
    table.attrs = {**segments.attrs, "units": units, "definitions": definitions}
    return table


@dataclass(frozen=True)
class Flows:
    """Which way each segment went, and which rows show it.

    table   one row per direction: conn, sender and receiver (addresses), direction (text), vantage.
            Rows 2i and 2i + 1 are the two directions of one connection; the first one leads out
            from the host that the table of connections names first.
    flow    per row of the segments: its row in `table`, -1 for a segment of no known connection
    own     per row: shows its flow, at the vantage point of that flow
    answer  per row: carries ACKs for the data of flow `flow ^ 1`, at the vantage point of that one
    lost    per row: did not arrive, or not unharmed
    """

    table: pd.DataFrame
    flow: Ints
    own: Bools
    answer: Bools
    lost: Bools


def flows(segments: pd.DataFrame, connections: pd.DataFrame) -> Flows:
    """Give every segment its direction, and every direction its vantage point."""
    segments = _complete(segments, SEGMENT_COLUMNS)
    ends = _ends(connections)
    place, home = _whereabouts(segments, ends)
    known = place >= 0
    sent, arrived = _is(segments["event"], "send"), _is(segments["event"], "recv")
    corrupt = arrived & segments["why"].isin(DAMAGED).to_numpy(bool)
    ignored = arrived & segments["why"].isin(UNHEARD).to_numpy(bool)
    flow = np.where(known, 2 * place + (home == arrived), -1)
    # The last entry is never set: it is what the -1 of an unknown segment looks up.
    by_sender = np.bincount(flow[known & sent], minlength=2 * len(ends) + 1) > 0
    arrives = np.bincount(flow[known & arrived], minlength=2 * len(ends) + 1) > 0
    opposite = np.where(known, flow ^ 1, -1)
    # ACKs count where they arrive at the sender of the data; a capture made between the two hosts
    # may have no arrivals at all, and then they count where they were sent.
    ends_seen = arrives[flow] | arrives[opposite]
    back = ~by_sender[flow] | (by_sender[opposite] & ends_seen)
    table = _directions(ends, by_sender[:-1])
    if segments.attrs.get("inferred") is True:
        table["vantage"] = "capture"
    return Flows(
        table=table,
        flow=flow,
        own=known & ~corrupt & np.where(by_sender[flow], sent, arrived),
        answer=known & ~ignored & np.where(back, arrived, sent),
        lost=known & (corrupt | _is(segments["event"], "drop")),
    )


def payload(rows: pd.DataFrame) -> tuple[Ints, Ints]:
    """Where the payload of each segment starts and ends, in relative sequence numbers."""
    start = rows["seq"].to_numpy(np.int64) + has_flag(rows, "S")  # a SYN comes before the data
    return start, start + rows["len"].to_numpy(np.int64)


def resent(segments: pd.DataFrame, ways: Flows) -> Bools:
    """Per row: shows its flow, and some part of it, SYN and FIN included, had been seen before.

    Where the receiver's view is the only one, a drop on the way there was a transmission too.
    """
    seen = transmissions(ways)
    start, end = positions(segments[seen])
    again = np.zeros(len(segments), bool)
    again[seen] = first_seen(ways.flow[seen], start, end) < end - start
    if (ways.table["vantage"] == "capture").any():  # it may have missed the first transmission,
        again |= segments["why"].isin(REPEATED).to_numpy(bool)
        again &= ~_is(segments["why"], "duplicate")  # or seen a copy that the network made
    return again & ways.own


def transmissions(ways: Flows) -> Bools:
    """Per row: shows that its flow sent something; to a receiver a drop on the way does."""
    by_receiver = (ways.table["vantage"] == "receiver").to_numpy(bool)
    seen: Bools = ways.own | (ways.lost & np.append(by_receiver, False)[ways.flow])
    return seen


def positions(rows: pd.DataFrame) -> tuple[Ints, Ints]:
    """Where each segment starts and ends, SYN and FIN included, in relative sequence numbers."""
    return rows["seq"].to_numpy(np.int64), payload(rows)[1] + has_flag(rows, "F")


def first_seen(flow: Ints, start: Ints, end: Ints) -> Ints:
    """How many positions of each range [start, end) no earlier range of the same flow covers.

    Exact for any overlap: the ranges are cut at every start and end, and each piece belongs to the
    first range that covers it.
    """
    owner, piece, cuts = pieces(flow, start, end)
    first = np.full(len(cuts), len(start))
    np.minimum.at(first, piece, owner)
    covered = np.flatnonzero(first < len(start))
    fresh = np.zeros(len(start), np.int64)
    np.add.at(fresh, first[covered], cuts[covered + 1] - cuts[covered])
    return fresh


def pieces(flow: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """The ranges [start, end) cut at every start and end of any range of the same flow.

    (owner, piece, cuts): range `owner[i]` covers piece `piece[i]`, which lies from `cuts[piece]` to
    the next cut; the pieces of one range follow each other.
    """
    if not len(start):
        return (np.zeros(0, np.int64),) * 3
    # Flows are laid end to end on one axis, so that one pass serves them all.
    shift = flow * (end.max() - start.min() + 1)
    start, end = start + shift, end + shift
    cuts = np.sort(np.concatenate([start, end]))
    cuts = cuts[np.append(True, cuts[1:] > cuts[:-1])]
    return *indices(np.searchsorted(cuts, start), np.searchsorted(cuts, end)), cuts


def indices(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """(owner, index): all of `range(low[i], high[i])`, each with its `i`."""
    count = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(low)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - low, count)


def has_flag(rows: pd.DataFrame, letter: str) -> Bools:
    """Per segment: the flag of that letter (S, A, F, R, P, ...) is set."""
    flags = rows["flags"].astype("category")
    return flags.isin([kind for kind in flags.cat.categories if letter in kind]).to_numpy(bool)


def _complete(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The frame itself; an empty one gets the columns that it lacks."""
    return frame if len(frame) else frame.reindex(columns=list(columns))


def _ends(connections: pd.DataFrame) -> pd.DataFrame:
    """One row per connection: of two ends in one log, the one named first."""
    columns = ("conn", "host", "local", "local_port", "remote", "remote_port")
    return _complete(connections, columns).drop_duplicates("conn", ignore_index=True)


def _whereabouts(frame: pd.DataFrame, ends: pd.DataFrame) -> tuple[Ints, Bools]:
    """Per row: where its connection is in `ends` (-1: nowhere), and whether it happened there."""
    place = pd.Index(ends["conn"]).get_indexer(frame["conn"]).astype(np.int64)
    hosts = frame["host"].astype("category")
    codes = hosts.cat.categories.get_indexer(pd.Index(ends["host"].astype(object)))
    return place, hosts.cat.codes.to_numpy() == np.append(codes, -2)[place]


def _directions(ends: pd.DataFrame, by_sender: Bools) -> pd.DataFrame:
    rows = []
    columns = ["conn", "local", "local_port", "remote", "remote_port"]
    for conn, local, local_port, remote, remote_port in ends[columns].to_numpy(object).tolist():
        here, there = format_endpoint(local, local_port), format_endpoint(remote, remote_port)
        rows.append((conn, local, remote, f"{here} > {there}"))
        rows.append((conn, remote, local, f"{there} > {here}"))
    texts = ["sender", "receiver", "direction"]
    table = pd.DataFrame(rows, columns=["conn", *texts])
    table = table.astype({"conn": np.int64, **dict.fromkeys(texts, "str")})
    table["vantage"] = np.where(by_sender, "sender", "receiver")
    return table


def _volume(segments: pd.DataFrame, ways: Flows) -> dict[str, Ints]:
    """What was sent, as seen at the vantage points."""
    rows, flow, n = segments[ways.own], ways.flow[ways.own], len(ways.table)
    start, end = payload(rows)
    return {
        "segments": total(flow, n),
        "data_segments": total(flow[end > start], n),
        "bytes": total(flow, n, end - start),
        "unique_bytes": total(flow, n, first_seen(flow, start, end)),
        "retransmitted": total(ways.flow[resent(segments, ways)], n),
    }


def _trouble(segments: pd.DataFrame, ways: Flows) -> dict[str, Ints | pd.Series]:
    """What went wrong on the way; arrivals are counted wherever the log has them."""
    flow, n = ways.flow, len(ways.table)
    arrived = (flow >= 0) & _is(segments["event"], "recv")
    early = pd.Series(total(flow[arrived & _is(segments["why"], "out-of-order")], n), dtype="Int64")
    duplicate = ways.answer & _is(segments["why"], "duplicate-ack")
    return {
        "dropped": total(flow[ways.lost], n),
        "duplicate_acks": total(flow[duplicate] ^ 1, n),
        "out_of_order": early.where(total(flow[arrived], n) > 0),
    }


def _pace(segments: pd.DataFrame, ways: Flows) -> dict[str, Floats]:
    """When the data was sent, and how fast it was acknowledged."""
    n = len(ways.table)
    rows, flow = segments[ways.own], ways.flow[ways.own]
    start, end = payload(rows)
    data = end > start
    time = rows["time"].to_numpy(np.float64)[data]
    flow, start, end = flow[data], start[data], end[data]
    first, last = least(flow, time, n), -least(flow, -time, n)

    answers, about = segments[ways.answer], ways.flow[ways.answer] ^ 1
    ack = answers["ack"].to_numpy(np.float64)
    # An ACK of a FIN lies beyond the data; no data, no goodput.
    acked = np.minimum(-least(about, -ack, n), -least(flow, -end, n))
    full = ack >= acked[about]
    done = least(about[full], answers["time"].to_numpy(np.float64)[full], n)
    return {
        "first": first,
        "last": last,
        "goodput": _rate(acked - least(flow, start, n), done - first),
    }


def _round_trips(samples: pd.DataFrame, ends: pd.DataFrame) -> dict[str, Ints | Floats]:
    place, home = _whereabouts(samples, ends)
    used = (place >= 0) & samples["kept"].to_numpy(bool)
    flow, n = (2 * place + ~home)[used], 2 * len(ends)
    rtt = samples["rtt"].to_numpy(np.float64)[used]
    count = total(flow, n)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(flow, rtt, n) / count
    return {
        "rtt_samples": count,
        "rtt_min": least(flow, rtt, n),
        "rtt_mean": mean,
        "rtt_max": -least(flow, -rtt, n),
    }


def _is(column: pd.Series, value: str) -> Bools:
    return (column == value).to_numpy(bool)


def total(flow: Ints, n: int, values: Ints | None = None) -> Ints:
    """Per flow: how many rows, or the sum of their values (exact below 2^53)."""
    return np.bincount(flow, values, n).astype(np.int64)


def least(flow: Ints, values: Ints | Floats, n: int) -> Floats:
    """Per flow: the smallest value, NaN without any."""
    least = np.full(n, np.inf)
    np.minimum.at(least, flow, values)
    return np.where(np.isinf(least), np.nan, least)


def _rate(size: Floats | pd.Series, seconds: Floats | pd.Series) -> Floats:
    """Bit/s; NaN where nothing was transferred or no time passed."""
    size, seconds = np.asarray(size, np.float64), np.asarray(seconds, np.float64)
    known = (size > 0) & (seconds > 0)
    rate = np.full(len(size), np.nan)
    rate[known] = 8 * size[known] / seconds[known]
    return rate
