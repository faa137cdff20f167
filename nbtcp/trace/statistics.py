"""The statistics of Ostermann's tcptrace, each with its unit and definition.

DataFrames in, DataFrames out, as in metrics.py: whole columns, all directions at once. The rules
are those of tcptrace, which knows cumulative ACKs alone.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from . import spans
from .metrics import Each, Flows, blocks, flows, has_flag, payload, positions, ratio
from .spans import Numbers, before

Values = dict[str, Numbers]
"""By name of a statistic: one number for each direction."""

DEFINITIONS = {
    "total_packets": ("segments", "all segments"),
    "resets_sent": ("segments", "with RST"),
    "ack_pkts_sent": ("segments", "with ACK"),
    "pure_acks_sent": ("segments", "with ACK, without payload, SYN, FIN, RST"),
    "sack_pkts_sent": ("segments", "with SACK blocks"),
    "dsack_pkts_sent": ("segments", "whose first SACK block reports a duplicate (RFC 2883)"),
    "max_sack_blks/ack": ("blocks", "the most in one segment"),
    "unique_bytes_sent": ("B", "of payload, each position counted once"),
    "actual_data_pkts": ("segments", "with payload"),
    "actual_data_bytes": ("B", "of payload, repeated octets included"),
    "rexmt_data_pkts": ("segments", "of which some part, SYN and FIN too, was sent before"),
    "rexmt_data_bytes": ("B", "sent again, SYN and FIN as one each"),
    "zwnd_probe_pkts": ("segments", "with payload, into a closed window"),
    "zwnd_probe_bytes": ("B", "of payload in those"),
    "outoforder_pkts": ("segments", "that fill a hole and were not seen before"),
    "pushed_data_pkts": ("segments", "with payload and PSH"),
    "SYN_pkts_sent": ("segments", "with SYN"),
    "FIN_pkts_sent": ("segments", "with FIN"),
    "req_1323_ws": ("", "asked for window scaling"),
    "req_1323_ts": ("", "asked for timestamps"),
    "adv_wind_scale": ("bits", "the window scale asked for"),
    "req_sack": ("", "asked for SACK"),
    "sacks_sent": ("segments", "with SACK blocks"),
    "urgent_data_pkts": ("segments", "with payload and URG"),
    "urgent_data_bytes": ("B", "the sum of their urgent pointers"),
    "mss_requested": ("B", "of the MSS option"),
    "max_segm_size": ("B", "the largest payload"),
    "min_segm_size": ("B", "the smallest payload"),
    "avg_segm_size": ("B", "actual_data_bytes over actual_data_pkts"),
    "max_win_adv": ("B", "the largest window, scaled; of SYNs only if nothing is scaled"),
    "min_win_adv": ("B", "the smallest of those that are not 0"),
    "zero_win_adv": ("segments", "with a window of 0"),
    "avg_win_adv": ("B", "the sum of all windows over the segments with ACK"),
    "max_owin": ("B", "the most that was sent and not acknowledged"),
    "min_non-zero_owin": ("B", "the least of it above 0, after each segment with payload"),
    "avg_owin": ("B", "its mean over the segments"),
    "wavg_owin": ("B", "its mean over time"),
    "initial_window_bytes": ("B", "of payload, each octet once, before the first ACK of payload"),
    "initial_window_pkts": ("segments", "with payload, as in initial_window_bytes"),
    "ttl_stream_length": ("B", "from SYN to FIN, without them"),
    "missed_data": ("B", "of the stream that no segment here had"),
    "data_xmit_time": ("s", "from the first to the last segment with payload"),
    "idletime_max": ("s", "the longest time without a segment"),
    "throughput": ("B/s", "unique_bytes_sent over the whole time of the connection"),
    "RTT_samples": ("samples", "ACKs that end where a segment ends that was sent once"),
    "RTT_min": ("s", "the shortest of them"),
    "RTT_max": ("s", "the longest"),
    "RTT_avg": ("s", "their mean"),
    "RTT_stdev": ("s", "their standard deviation"),
    "RTT_from_3WHS": ("s", "the sample of the SYN"),
    "RTT_full_sz_smpls": ("samples", "of those, of segments with the largest payload"),
    "RTT_full_sz_min": ("s", "the shortest of them"),
    "RTT_full_sz_max": ("s", "the longest"),
    "RTT_full_sz_avg": ("s", "their mean"),
    "RTT_full_sz_stdev": ("s", "their standard deviation"),
    "post-loss_acks": ("segments", "ACKs as for RTT_samples, but after something older was resent"),
    "ambiguous_acks": ("segments", "ACKs that end where a segment ends that was sent again"),
    "RTT_min_(last)": ("s", "the shortest from the last time it was sent until such an ACK"),
    "RTT_max_(last)": ("s", "the longest"),
    "RTT_avg_(last)": ("s", "their mean"),
    "RTT_sdv_(last)": ("s", "their standard deviation"),
    "segs_cum_acked": ("segments", "acknowledged by an ACK that ends further on"),
    "duplicate_acks": ("segments", "that repeat an ACK and a window and have no payload"),
    "triple_dupacks": ("segments", "third duplicates of one ACK"),
    "max_#_retrans": ("times", "the most that one segment was sent again"),
    "min_retr_time": ("s", "the shortest time until a segment was sent again"),
    "max_retr_time": ("s", "the longest"),
    "avg_retr_time": ("s", "their mean"),
    "sdv_retr_time": ("s", "their standard deviation"),
}
"""Name -> (unit, definition), named and ordered as tcptrace prints them."""


UNKNOWN = ("ttl_stream_length", "missed_data")
"""What may be unknown; all else is 0 where there is nothing to count."""


def summary(segments: pd.DataFrame, connections: pd.DataFrame) -> pd.DataFrame:
    """One row per connection, direction and statistic: conn, direction, name, value, unit,
    definition. Each direction is seen at its vantage point; a value that is not known is NaN.

    Raises ValueError for a log whose segments overlap more than any TCP's, as a forged capture's.
    """
    ways = flows(segments, connections)
    lines = _lines(segments, ways)
    mine = segments[ways.own], Each(ways.flow[ways.own], len(ways.table))
    values = _counts(*mine) | _asked(*mine) | _windows(*mine)
    values |= _outstanding(lines) | _sendings(lines) | _measured(lines)
    values["missed_data"] = values["ttl_stream_length"] - values["unique_bytes_sent"]
    pairs, known = Each(ways.flow // 2, len(ways.table) // 2), ways.flow >= 0
    time = segments["time"].to_numpy(np.float64)
    whole = np.repeat(pairs.most(time, known) - pairs.least(time, known), 2)
    values["throughput"] = ratio(values["unique_bytes_sent"], np.nan_to_num(whole))
    values |= {name: np.nan_to_num(values[name]) for name in values if name not in UNKNOWN}
    return _long(ways.table, values, segments.attrs)


def _long(table: pd.DataFrame, values: Values, attrs: Any) -> pd.DataFrame:
    """One row per direction and statistic, in the order of DEFINITIONS."""
    told = pd.DataFrame.from_dict(DEFINITIONS, "index", "str", ["unit", "definition"])
    told = told.rename_axis("name").reset_index().astype({"name": "str"})
    long = table[["conn", "direction"]].loc[table.index.repeat(len(told))].reset_index(drop=True)
    every = told.loc[np.tile(told.index, len(table))].reset_index(drop=True)
    long["name"] = every["name"]
    long["value"] = np.column_stack([values[name] for name in DEFINITIONS]).ravel().astype(float)
    long[["unit", "definition"]] = every[["unit", "definition"]]
    long.attrs = dict(attrs)
    return long


# --- what each segment says by itself ---


def _counts(rows: pd.DataFrame, each: Each) -> Values:
    syn, fin, rst, ack = (has_flag(rows, letter) for letter in "SFRA")
    size, time = rows["len"].to_numpy(np.int64), rows["time"].to_numpy(np.float64)
    data, every = size > 0, each.flow >= 0
    urgent = data & has_flag(rows, "U")
    row, *_, twice = blocks(rows)
    sacks = np.bincount(row, minlength=len(rows))
    masks = {
        **{"total_packets": every, "resets_sent": rst, "ack_pkts_sent": ack},
        **{"pure_acks_sent": ack & ~data & ~syn & ~fin & ~rst, "actual_data_pkts": data},
        **{"sack_pkts_sent": sacks > 0, "sacks_sent": sacks > 0},
        **{"pushed_data_pkts": data & has_flag(rows, "P"), "urgent_data_pkts": urgent},
        **{"SYN_pkts_sent": syn, "FIN_pkts_sent": fin},
    }
    last = pd.Series(time).groupby(each.flow).shift()
    return {name: each.count(mask) for name, mask in masks.items()} | {
        "dsack_pkts_sent": each.count(row[twice]),
        "max_sack_blks/ack": each.most(sacks, every),
        "actual_data_bytes": each.sum(size, every),
        "urgent_data_bytes": each.sum(rows["urgent"].to_numpy(np.int64), urgent),
        "max_segm_size": each.most(size, every),
        "min_segm_size": each.least(size, data),
        "avg_segm_size": each.mean(size, data),
        "data_xmit_time": each.most(time, data) - each.least(time, data),
        "idletime_max": each.most(time - last.to_numpy(), last.notna().to_numpy()),
    }


def _asked(rows: pd.DataFrame, each: Each) -> Values:
    """What the first SYN asks for, and how far the first FIN is from it."""
    rows = rows.assign(end=payload(rows)[1]).set_axis(each.flow)
    asked, last = (rows[has_flag(rows, letter)].groupby(level=0).head(1) for letter in "SF")
    asked, last = asked.reindex(range(each.n)), last.reindex(range(each.n))
    return {
        "req_1323_ws": asked["wscale"].notna().to_numpy(),
        "req_1323_ts": asked["tsval"].notna().to_numpy(),
        "req_sack": asked["sack_permitted"].eq(True).to_numpy(bool),
        "adv_wind_scale": asked["wscale"].to_numpy(np.float64, na_value=0),
        "mss_requested": asked["mss"].to_numpy(np.float64, na_value=0),
        "ttl_stream_length": (last["end"] - 1).where(asked["end"].notna()).to_numpy(),
    }


def _windows(rows: pd.DataFrame, each: Each) -> Values:
    """The windows advertised; that of an opening SYN is not scaled, and not counted with those that
    are.
    """
    asks = each.count(rows["wscale"].notna().to_numpy(bool)) > 0
    scaled = asks & asks[np.arange(each.n) ^ 1]
    place, syn = np.arange(len(rows)), has_flag(rows, "S")
    open_from = np.nan_to_num(each.least(place, ~syn), nan=np.inf)
    opening = scaled[each.flow] & (place < open_from[each.flow])  # a SYN that comes later counts
    window, counted = rows["window"].to_numpy(np.int64), has_flag(rows, "A") & ~opening
    return {
        "max_win_adv": each.most(window, counted),
        "min_win_adv": each.least(window, counted & (window > 0)),
        "zero_win_adv": each.count(counted & (window == 0)),
        "avg_win_adv": each.mean(window, counted),
    }


# --- what depends on what came before ---


def _lines(segments: pd.DataFrame, ways: Flows) -> SimpleNamespace:
    """What each direction sent and what it heard from the other end, in order of direction and
    time. Positions of all directions lie on one axis, one direction after the other, so that a
    running maximum or a search serves them all.

    each, time, size    which gives the direction whose data this is about; of the segment
    zero                where position 0 of the direction lies
    start, end          the positions of the segment, SYN and FIN included
    sent, probe, heard  it is of this direction, and has positions; it has payload, but the window
                        was closed, and it does not count as sent; it carries an ACK
    said, ack           the ACK heard, and the highest one before it; zero - 1: none
    repeats             heard, with the window that the one before had
    top, old_top        where all that was sent ends, with this line and without it
    unseen              how many of the positions had not been sent before
    """
    own, answer = np.flatnonzero(ways.own), np.flatnonzero(ways.answer)
    flow, row = np.append(ways.flow[own], ways.flow[answer] ^ 1), np.append(own, answer)
    order = np.lexsort((row, flow))
    flow, row, mine = flow[order], row[order], order < len(own)
    heard = ~mine & has_flag(segments, "A")[row]
    said = np.where(heard, segments["ack"].to_numpy(np.int64)[row], -1)
    start, end = (ends[row] for ends in positions(segments))
    each, wide = Each(flow, len(ways.table)), spans.width(start, end, said)
    zero = flow * wide
    start, end, said, bottom = start + zero, end + zero, said + zero, zero - wide // 2

    time = segments["time"].to_numpy(np.float64)[row]
    size, window = (segments[name].to_numpy(np.int64)[row] for name in ("len", "window"))
    last = before(np.maximum.accumulate(np.where(heard, np.arange(len(row)), -1)), -1)
    known = (last >= 0) & (flow[last] == flow)
    probe = mine & (size > 0) & known & (window[last] == 0)
    sent = mine & (end > start) & ~probe
    top = np.maximum.accumulate(np.where(sent, end, bottom))
    return SimpleNamespace(
        **{"each": each, "time": time, "size": size, "zero": zero, "start": start, "end": end},
        **{"sent": sent, "probe": probe, "heard": heard, "said": said},
        ack=before(np.maximum.accumulate(said), zero - 1),
        repeats=heard & known & (window == window[last]),
        **{"top": top, "old_top": before(top, bottom)},
        unseen=spans.first_seen(flow, start, end, sent),
    )


def _outstanding(lines: SimpleNamespace) -> Values:
    """What was sent and not acknowledged, after each line from the first one sent."""
    each = lines.each
    began = np.maximum.accumulate(np.where(lines.sent, each.flow, -1)) == each.flow
    acked = np.maximum(np.maximum(lines.ack, lines.said), lines.zero)
    amount = lines.top - acked
    ends = np.append(each.flow[1:] != each.flow[:-1], True)[: len(amount)]
    lasted = np.where(ends, 0.0, np.append(np.diff(lines.time), 0.0)[: len(amount)])
    return {
        "max_owin": each.most(amount, began),
        "min_non-zero_owin": each.least(amount, began & (amount != 0)),
        "avg_owin": each.mean(amount, began),
        "wavg_owin": ratio(each.sum(amount * lasted, began), each.sum(lasted, began)),
    }


def _sendings(lines: SimpleNamespace) -> Values:
    """What was sent for the first time, again, and into closed windows."""
    each, size, sent = lines.each, lines.size, lines.sent
    again = np.where(sent, lines.end - lines.start - lines.unseen, 0)
    control = lines.end - lines.start - size
    late = sent & (again == 0) & (lines.start < lines.old_top)
    first = sent & (size > 0) & (again == 0) & (lines.ack <= lines.zero + 1)
    return {
        "unique_bytes_sent": each.sum(size - np.maximum(again - control, 0), sent),
        "rexmt_data_pkts": each.count(again > 0),
        "rexmt_data_bytes": each.sum(again, sent),
        "outoforder_pkts": each.count(late),
        "zwnd_probe_pkts": each.count(lines.probe),
        "zwnd_probe_bytes": each.sum(size, lines.probe),
        "initial_window_pkts": each.count(first),
        "initial_window_bytes": each.sum(size, first),
    }


def _ranges(lines: SimpleNamespace) -> SimpleNamespace:
    """Positions that were sent as one segment first, in their order on the axis.

    start, end
    born, acked  the lines that sent them first and that acknowledged them; -1: none did
    again, sent  how often any of them was sent again until then, and when for the last time
    newest       when any up to them was sent for the last time, before they were acknowledged
    waits        for each time that a range was sent again (lines `resent`): how long after the last
    """
    flow, new = lines.each.flow, lines.end > lines.old_top
    fills = lines.unseen == lines.end - lines.start
    born = np.flatnonzero(lines.sent & (new | fills))
    start = np.where(new, np.maximum(lines.start, lines.old_top), lines.start)[born]
    order = np.argsort(start, kind="stable")
    born, start = born[order], start[order]
    end, sent = lines.end[born], lines.time[born]

    heard = np.flatnonzero(lines.heard)
    passed = np.searchsorted(np.maximum.accumulate(lines.said[heard]), end)
    acked = np.append(heard, -1)[np.maximum(passed, np.searchsorted(heard, born))]
    acked[(flow[acked] != flow[born]) | (lines.said[acked] < end)] = -1

    again = np.flatnonzero(lines.sent & (lines.start < lines.old_top) & ~fills)
    low = np.searchsorted(end, lines.start[again], "right")
    which, of = spans.indices(low, np.searchsorted(start, lines.end[again]))
    line = again[which]
    line, of = line[born[of] < line], of[born[of] < line]
    vain = (acked[of] >= 0) & (acked[of] < line)  # all of the range had been acknowledged
    # What came too late tells nothing of its own range, but makes what is acknowledged after it
    # ambiguous: whole ranges too, in a log that lacks their first transmission.
    passed = np.append(heard, len(flow))[passed]
    late = np.append(line[vain], born[born > passed])
    line, of = line[~vain], of[~vain]
    order = np.lexsort((line, of))
    line, of = line[order], of[order]
    time = lines.time[line]
    since = np.where(np.diff(of, prepend=-1) == 0, np.append(0.0, time)[:-1], sent[of])
    sent[of] = time  # of several the last one

    newest = np.where(born > passed, -np.inf, sent)
    place = np.searchsorted(passed, late)
    same = np.append(flow[born], -1)[place] == flow[late]
    np.maximum.at(newest, place[same], lines.time[late[same]])
    newest = np.asarray(pd.Series(newest).groupby(flow[born]).cummax(), np.float64)
    return SimpleNamespace(
        **{"each": Each(flow[born], lines.each.n), "start": start, "end": end},
        **{"born": born, "acked": acked, "sent": sent},
        **{"again": np.bincount(of, minlength=len(born)), "newest": newest},
        **{"waits": time - since, "resent": line},
    )


def _measured(lines: SimpleNamespace) -> Values:
    """What became of the ACKs; a round trip is measured by one that ends where a range ends."""
    ranges = _ranges(lines)
    each, size = ranges.each, ranges.end - ranges.start
    acked = ranges.acked >= 0
    exact = acked & (lines.said[ranges.acked] == ranges.end)
    late = exact & (ranges.newest > ranges.sent)
    twice = exact & ~late & (ranges.again > 0)
    once = exact & ~late & ~twice
    rtt = lines.time[ranges.acked] - ranges.sent
    full = once & (size == each.most(size, once)[each.flow])
    opens = once & (ranges.start == lines.zero[ranges.born])
    waited = Each(lines.each.flow[ranges.resent], each.n)
    return {
        **_spread(each, rtt, once, "RTT_samples", "RTT_{}", "stdev"),
        **_spread(each, rtt, full, "RTT_full_sz_smpls", "RTT_full_sz_{}", "stdev"),
        **_spread(each, rtt, twice, "ambiguous_acks", "RTT_{}_(last)", "sdv"),
        **_spread(waited, ranges.waits, ranges.resent >= 0, "", "{}_retr_time", "sdv"),
        "RTT_from_3WHS": each.most(rtt, opens),
        "post-loss_acks": each.count(late),
        "segs_cum_acked": each.count(acked & ~exact),
        "max_#_retrans": each.most(ranges.again, acked | ~acked),
        **_duplicates(lines, ranges),
    }


def _spread(
    each: Each, values: Numbers, rows: Numbers, count: str, name: str, deviation: str
) -> Values:
    """How many there are, the least, the largest, the mean and the standard deviation."""
    number, mean = each.count(rows), each.mean(values, rows)
    square = each.sum((values - mean[each.flow]) ** 2, rows)
    return {
        count: number,
        name.format("min"): each.least(values, rows),
        name.format("max"): each.most(values, rows),
        name.format("avg"): mean,
        name.format(deviation): np.sqrt(square / np.maximum(number - 1, 1)),
    }


def _duplicates(lines: SimpleNamespace, ranges: SimpleNamespace) -> Values:
    """ACKs heard again; a new window is news, and payload is no ACK alone."""
    same = np.flatnonzero(lines.heard & (lines.said == lines.ack) & (lines.size == 0))
    place = np.searchsorted(ranges.end, lines.said[same], "right") - 1
    acked = np.append(ranges.acked, -1)[place]
    ends = np.append(ranges.end, -1)[place] == lines.said[same]
    same = same[ends & (acked >= 0) & (acked < same)]
    repeats, said = lines.repeats[same], lines.said[same]
    series = np.cumsum(~repeats | (np.diff(said, prepend=-1) != 0))
    number = pd.Series(repeats).groupby(series).cumsum().to_numpy()
    return {
        "duplicate_acks": lines.each.count(same[repeats]),
        "triple_dupacks": lines.each.count(same[repeats & (number == 3)]),
    }
