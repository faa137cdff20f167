"""The statistics of Ostermann's tcptrace, each with its unit and definition.

DataFrames in, DataFrames out, as in metrics.py: whole columns, all directions at once. The rules
are those of tcptrace, which knows cumulative ACKs alone.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .metrics import Flows, first_seen, flows, has_flag, indices, least, payload, positions, total

Numbers = npt.NDArray[Any]
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
    "initial_window_bytes": (
        "B",
        "of payload, repeated octets not counted, before the first ACK of payload",
    ),
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


def summary(segments: pd.DataFrame, connections: pd.DataFrame) -> pd.DataFrame:
    """One row per connection, direction and statistic: conn, direction, name, value, unit,
    definition. Each direction is seen at its vantage point; a value that is not known is NaN.
    """
    ways = flows(segments, connections)
    n = len(ways.table)
    lines = _lines(segments, ways)
    mine = segments[ways.own], ways.flow[ways.own], n
    values = _counts(*mine) | _asked(*mine) | _windows(*mine)
    values |= _outstanding(lines, n) | _sendings(lines, n) | _measured(lines, n)
    values["missed_data"] = values["ttl_stream_length"] - values["unique_bytes_sent"]
    known = ways.flow >= 0
    time, pair = segments["time"].to_numpy(np.float64)[known], ways.flow[known] // 2
    whole = np.repeat(-least(pair, -time, n // 2) - least(pair, time, n // 2), 2)
    values["throughput"] = _ratio(values["unique_bytes_sent"], whole)
    return _long(ways.table, values, segments.attrs)


def _long(table: pd.DataFrame, values: Values, attrs: Any) -> pd.DataFrame:
    """One row per direction and statistic, in the order of DEFINITIONS."""
    n, names = len(table), list(DEFINITIONS)
    units, definitions = zip(*DEFINITIONS.values(), strict=True)
    columns = {
        **{name: table[name].repeat(len(names)).array for name in ("conn", "direction")},
        "name": names * n,
        "value": np.column_stack([values[name] for name in names]).ravel().astype(np.float64),
        "unit": units * n,
        "definition": definitions * n,
    }
    long = pd.DataFrame(columns).astype(dict.fromkeys(["name", "unit", "definition"], "str"))
    long.attrs = dict(attrs)
    return long


# --- what each segment says by itself ---


def _counts(rows: pd.DataFrame, flow: Numbers, n: int) -> Values:
    syn, fin, rst, ack = (has_flag(rows, letter) for letter in "SFRA")
    size = rows["len"].to_numpy(np.int64)
    data = size > 0
    urgent = data & has_flag(rows, "U")
    blocks = np.fromiter(map(len, rows["sack"]), np.int64, len(rows))
    sacks, twice = blocks > 0, _duplicates_reported(rows, blocks)
    time = rows["time"].to_numpy(np.float64)
    masks = {
        **{"total_packets": flow >= 0, "resets_sent": rst, "ack_pkts_sent": ack},
        **{"pure_acks_sent": ack & ~data & ~syn & ~fin & ~rst, "actual_data_pkts": data},
        **{"sack_pkts_sent": sacks, "sacks_sent": sacks, "dsack_pkts_sent": twice},
        **{"pushed_data_pkts": data & has_flag(rows, "P"), "urgent_data_pkts": urgent},
        **{"SYN_pkts_sent": syn, "FIN_pkts_sent": fin},
    }
    counts: Values = {name: total(flow[mask], n) for name, mask in masks.items()}
    octets = total(flow, n, size)
    by_flow = np.argsort(flow, kind="stable")
    pause, same = np.diff(time[by_flow]), np.diff(flow[by_flow]) == 0
    return counts | {
        "max_sack_blks/ack": _most(flow, blocks, n),
        "actual_data_bytes": octets,
        "urgent_data_bytes": total(flow[urgent], n, rows["urgent"].to_numpy(np.int64)[urgent]),
        "max_segm_size": _most(flow, size, n),
        "min_segm_size": _fewest(flow[data], size[data], n),
        "avg_segm_size": _ratio(octets, counts["actual_data_pkts"]),
        "data_xmit_time": _most(flow[data], time[data], n) - _fewest(flow[data], time[data], n),
        "idletime_max": np.maximum(_most(flow[by_flow][1:][same], pause[same], n), 0),
    }


def _duplicates_reported(rows: pd.DataFrame, blocks: Numbers) -> Numbers:
    """RFC 2883 4: the first block lies below the ACK, or inside the second one."""
    found = np.zeros(len(rows), bool)
    some = rows[["ack", "sack"]][blocks > 0]
    found[blocks > 0] = [
        right <= ack or (len(more) > 0 and more[0][0] <= left and right <= more[0][1])
        for ack, ((left, right), *more) in zip(some["ack"], some["sack"], strict=True)
    ]
    return found


def _asked(rows: pd.DataFrame, flow: Numbers, n: int) -> Values:
    """What the first SYN asks for, and how far the first FIN is from it."""
    rows = rows.assign(end=payload(rows)[1]).set_axis(flow)
    asked, last = (rows[has_flag(rows, letter)].groupby(level=0).head(1) for letter in "SF")
    asked, last = asked.reindex(range(n)), last.reindex(range(n))
    return {
        "req_1323_ws": asked["wscale"].notna().to_numpy(),
        "req_1323_ts": asked["tsval"].notna().to_numpy(),
        "req_sack": asked["sack_permitted"].eq(True).to_numpy(bool),
        "adv_wind_scale": asked["wscale"].to_numpy(np.float64, na_value=0),
        "mss_requested": asked["mss"].to_numpy(np.float64, na_value=0),
        "ttl_stream_length": (last["end"] - 1).where(asked["end"].notna()).to_numpy(),
    }


def _windows(rows: pd.DataFrame, flow: Numbers, n: int) -> Values:
    """The windows advertised; that of an opening SYN is not scaled, and not counted with those that
    are.
    """
    asks = total(flow[rows["wscale"].notna().to_numpy(bool)], n) > 0
    scaled = asks & asks[np.arange(n) ^ 1]
    place, syn = np.arange(len(rows)), has_flag(rows, "S")
    open_from = np.nan_to_num(least(flow[~syn], place[~syn], n), nan=np.inf)
    opening = scaled[flow] & (place < open_from[flow])  # a SYN that comes later counts
    counted = has_flag(rows, "A") & ~opening
    window, flow = rows["window"].to_numpy(np.int64)[counted], flow[counted]
    return {
        "max_win_adv": _most(flow, window, n),
        "min_win_adv": _fewest(flow[window > 0], window[window > 0], n),
        "zero_win_adv": total(flow[window == 0], n),
        "avg_win_adv": _ratio(total(flow, n, window), total(flow, n)),
    }


# --- what depends on what came before ---


def _lines(segments: pd.DataFrame, ways: Flows) -> SimpleNamespace:
    """What each direction sent and what it heard from the other end, in order of direction and
    time. Positions of all directions lie on one axis, one direction after the other, so that a
    running maximum or a search serves them all.

    flow, time, size    the direction whose data this is about; of the segment
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
    order = np.argsort(flow * len(segments) + row)
    flow, row, mine = flow[order], row[order], order < len(own)
    heard = ~mine & has_flag(segments, "A")[row]
    said = np.where(heard, segments["ack"].to_numpy(np.int64)[row], -1)
    start, end = (ends[row] for ends in positions(segments))
    low = min(start.min(initial=0), said.min(initial=-1))
    zero = flow * (max(end.max(initial=0), said.max(initial=0)) - low + 1) - low
    start, end, said, bottom = start + zero, end + zero, said + zero, zero + low

    size, window = (segments[name].to_numpy(np.int64)[row] for name in ("len", "window"))
    last = _before(np.maximum.accumulate(np.where(heard, np.arange(len(row)), -1)), -1)
    known = (last >= 0) & (flow[last] == flow)
    probe = mine & (size > 0) & known & (window[last] == 0)
    sent = mine & (end > start) & ~probe
    top = np.maximum.accumulate(np.where(sent, end, bottom))
    unseen = np.zeros(len(row), np.int64)
    unseen[sent] = first_seen(np.zeros(sent.sum(), np.int64), start[sent], end[sent])
    heard_before = _before(np.maximum.accumulate(said), zero - 1)
    time = segments["time"].to_numpy(np.float64)[row]
    return SimpleNamespace(
        **{"flow": flow, "time": time, "size": size, "zero": zero, "start": start, "end": end},
        **{"sent": sent, "probe": probe, "heard": heard, "said": said, "ack": heard_before},
        **{"repeats": heard & known & (window == window[last]), "unseen": unseen},
        **{"top": top, "old_top": _before(top, bottom)},
    )


def _before(risen: Numbers, lowest: Numbers | int) -> Numbers:
    """A running maximum without the line itself; `lowest` before the first line of a direction."""
    return np.append(-1, risen)[:-1].clip(lowest)


def _outstanding(lines: SimpleNamespace, n: int) -> Values:
    """What was sent and not acknowledged, after each line from the first one sent."""
    began = np.maximum.accumulate(np.where(lines.sent, lines.flow, -1)) == lines.flow
    flow, time = lines.flow[began], lines.time[began]
    acked = np.maximum(np.maximum(lines.ack, lines.said), lines.zero)
    amount = (lines.top - acked)[began]
    lasted = np.append(np.where(np.diff(flow) == 0, np.diff(time), 0.0), 0.0)[: len(flow)]
    some = amount != 0
    return {
        "max_owin": _most(flow, amount, n),
        "min_non-zero_owin": _fewest(flow[some], amount[some], n),
        "avg_owin": _ratio(total(flow, n, amount), total(flow, n)),
        "wavg_owin": _ratio(np.bincount(flow, amount * lasted, n), np.bincount(flow, lasted, n)),
    }


def _sendings(lines: SimpleNamespace, n: int) -> Values:
    """What was sent for the first time, again, and into closed windows."""
    flow, size = lines.flow, lines.size
    again = np.where(lines.sent, lines.end - lines.start - lines.unseen, 0)
    control = lines.end - lines.start - size
    fresh = np.where(lines.sent, size - np.maximum(again - control, 0), 0)
    late = lines.sent & (again == 0) & (lines.start < lines.old_top)
    first = lines.sent & (size > 0) & (again == 0) & (lines.ack <= lines.zero + 1)
    return {
        "unique_bytes_sent": total(flow, n, fresh),
        "rexmt_data_pkts": total(flow[again > 0], n),
        "rexmt_data_bytes": total(flow, n, again),
        "outoforder_pkts": total(flow[late], n),
        "zwnd_probe_pkts": total(flow[lines.probe], n),
        "zwnd_probe_bytes": total(flow[lines.probe], n, size[lines.probe]),
        "initial_window_pkts": total(flow[first], n),
        "initial_window_bytes": total(flow[first], n, size[first]),
    }


def _ranges(lines: SimpleNamespace) -> SimpleNamespace:
    """Positions that were sent as one segment first, in their order on the axis.

    start, end
    born, acked  the lines that sent them first and that acknowledged them; -1: none did
    again, sent  how often any of them was sent again until then, and when for the last time
    newest       when any up to them was sent for the last time, before they were acknowledged
    waits        for each time that a range was sent again: since when it had been underway
    resent       the lines of `waits`
    """
    new = lines.end > lines.old_top
    fills = lines.unseen == lines.end - lines.start
    born = np.flatnonzero(lines.sent & (new | fills))
    start = np.where(new, np.maximum(lines.start, lines.old_top), lines.start)[born]
    order = np.argsort(start, kind="stable")
    born, start = born[order], start[order]
    end, sent = lines.end[born], lines.time[born]

    heard = np.flatnonzero(lines.heard)
    passed = np.searchsorted(np.maximum.accumulate(lines.said[heard]), end)
    acked = np.append(heard, -1)[np.maximum(passed, np.searchsorted(heard, born))]
    acked[(lines.flow[acked] != lines.flow[born]) | (lines.said[acked] < end)] = -1

    again = np.flatnonzero(lines.sent & (lines.start < lines.old_top) & ~fills)
    low = np.searchsorted(end, lines.start[again], "right")
    which, of = indices(low, np.searchsorted(start, lines.end[again]))
    line = again[which]
    line, of = line[born[of] < line], of[born[of] < line]
    vain = (acked[of] >= 0) & (acked[of] < line)  # all of the range had been acknowledged
    # What came too late tells nothing of its own range, but makes what is acknowledged after it
    # ambiguous: whole ranges too, in a log that lacks their first transmission.
    passed = np.append(heard, len(lines.flow))[passed]
    late = np.append(line[vain], born[born > passed])
    line, of = line[~vain], of[~vain]
    order = np.lexsort((line, of))
    line, of = line[order], of[order]
    time = lines.time[line]
    since = np.where(np.diff(of, prepend=-1) == 0, np.append(0.0, time)[:-1], sent[of])
    sent[of] = time  # of several the last one

    newest = np.where(born > passed, -np.inf, sent)
    place = np.searchsorted(passed, late)
    same = np.append(lines.flow[born], -1)[place] == lines.flow[late]
    np.maximum.at(newest, place[same], lines.time[late[same]])
    newest = np.asarray(pd.Series(newest).groupby(lines.flow[born]).cummax(), np.float64)
    return SimpleNamespace(
        **{"start": start, "end": end, "born": born, "acked": acked, "sent": sent},
        **{"again": np.bincount(of, minlength=len(born)), "newest": newest},
        **{"waits": time - since, "resent": line},
    )


def _measured(lines: SimpleNamespace, n: int) -> Values:
    """What became of the ACKs; a round trip is measured by one that ends where a range ends."""
    ranges = _ranges(lines)
    acked = ranges.acked >= 0
    exact = acked & (lines.said[ranges.acked] == ranges.end)
    flow, size = lines.flow[ranges.born], ranges.end - ranges.start
    late = exact & (ranges.newest > ranges.sent)
    twice = exact & ~late & (ranges.again > 0)
    once = exact & ~late & ~twice
    rtt = lines.time[ranges.acked] - ranges.sent
    full = once & (size == _most(flow[once], size[once], n)[flow])
    opens = once & (ranges.start == lines.zero[ranges.born])
    return {
        **_spread(flow[once], rtt[once], n, "RTT_samples", "RTT_{}", "stdev"),
        **_spread(flow[full], rtt[full], n, "RTT_full_sz_smpls", "RTT_full_sz_{}", "stdev"),
        **_spread(flow[twice], rtt[twice], n, "ambiguous_acks", "RTT_{}_(last)", "sdv"),
        **_spread(lines.flow[ranges.resent], ranges.waits, n, "", "{}_retr_time", "sdv"),
        "RTT_from_3WHS": _most(flow[opens], rtt[opens], n),
        "post-loss_acks": total(flow[late], n),
        "segs_cum_acked": total(flow[acked & ~exact], n),
        "max_#_retrans": _most(flow, ranges.again, n),
        **_duplicates(lines, ranges, n),
    }


def _duplicates(lines: SimpleNamespace, ranges: SimpleNamespace, n: int) -> Values:
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
        "duplicate_acks": total(lines.flow[same][repeats], n),
        "triple_dupacks": total(lines.flow[same][repeats & (number == 3)], n),
    }


# --- figures of each direction ---


def _most(flow: Numbers, values: Numbers, n: int) -> Numbers:
    return np.nan_to_num(0.0 - least(flow, -values, n))


def _fewest(flow: Numbers, values: Numbers, n: int) -> Numbers:
    return np.nan_to_num(least(flow, values, n))


def _ratio(values: Numbers, by: Numbers) -> Numbers:
    """0 where there is nothing to divide by."""
    return np.divide(values, by, out=np.zeros(len(by)), where=by != 0)


def _spread(
    flow: Numbers, values: Numbers, n: int, count: str, name: str, deviation: str
) -> Values:
    """How many there are, the least, the largest, the mean and the standard deviation."""
    number = total(flow, n)
    mean = _ratio(np.bincount(flow, values, n), number)
    square = np.bincount(flow, (values - mean[flow]) ** 2, n)
    return {
        count: number,
        name.format("min"): _fewest(flow, values, n),
        name.format("max"): _most(flow, values, n),
        name.format("avg"): mean,
        name.format(deviation): np.sqrt(_ratio(square, np.maximum(number - 1, 1))),
    }
