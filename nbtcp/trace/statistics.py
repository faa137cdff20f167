"""The statistics of Ostermann's tcptrace, each with its unit and definition.

DataFrames in, DataFrames out, as in metrics.py. What needs only sums is taken from whole columns;
what depends on what came before (`_Ledger`) is counted segment by segment, by the rules that
tcptrace has, which knows cumulative ACKs alone.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd

from .metrics import Flows, flows, has_flag, payload

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
    "initial_window_bytes": ("B", "of payload before the first ACK of payload"),
    "initial_window_pkts": ("segments", "with payload before the first ACK of payload"),
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


def statistics(segments: pd.DataFrame, connections: pd.DataFrame) -> pd.DataFrame:
    """One row per connection, direction and statistic: conn, direction, name, value, unit,
    definition. Each direction is seen at its vantage point; a value that is not known is NaN.
    """
    ways = flows(segments, connections)
    values = _counts(segments, ways)
    for way, more in _in_order(segments, ways).items():
        mine = values[way] = values[way] | more
        mine["missed_data"] = mine["ttl_stream_length"] - mine["unique_bytes_sent"]
        mine["throughput"] = _rate(mine["unique_bytes_sent"], segments, ways, way)
    rows = [
        (line.conn, line.direction, name, values[number].get(name, np.nan), unit, text)
        for number, line in enumerate(ways.table.itertuples())
        for name, (unit, text) in DEFINITIONS.items()
    ]
    columns = ["conn", "direction", "name", "value", "unit", "definition"]
    table = pd.DataFrame(rows, columns=columns).astype({"value": float})
    table.attrs = dict(segments.attrs)
    return table


# --- sums ---


def _counts(segments: pd.DataFrame, ways: Flows) -> list[dict[str, float]]:
    """The statistics that are sums, for each direction."""
    mine = [segments[ways.own & (ways.flow == way)] for way in range(len(ways.table))]
    scaled = [bool(rows["wscale"].notna().any()) for rows in mine]
    return [_count(rows, scaled[way] and scaled[way ^ 1]) for way, rows in enumerate(mine)]


def _count(rows: pd.DataFrame, scaled: bool) -> dict[str, float]:
    syn, fin, rst, ack = (has_flag(rows, letter) for letter in "SFRA")
    size = rows["len"].to_numpy(np.int64)
    data = size > 0
    urgent = data & has_flag(rows, "U")
    blocks = rows["sack"].map(len).to_numpy(np.int64)
    time = rows["time"].to_numpy(np.float64)
    asked = rows[syn].iloc[:1]
    return {
        "total_packets": len(rows),
        "resets_sent": rst.sum(),
        "ack_pkts_sent": ack.sum(),
        "pure_acks_sent": (ack & ~data & ~syn & ~fin & ~rst).sum(),
        "sack_pkts_sent": (blocks > 0).sum(),
        "sacks_sent": (blocks > 0).sum(),
        "dsack_pkts_sent": _duplicates_reported(rows[blocks > 0]),
        "max_sack_blks/ack": blocks.max(initial=0),
        "actual_data_pkts": data.sum(),
        "actual_data_bytes": size.sum(),
        "pushed_data_pkts": (data & has_flag(rows, "P")).sum(),
        "SYN_pkts_sent": syn.sum(),
        "FIN_pkts_sent": fin.sum(),
        "req_1323_ws": float(asked["wscale"].notna().any()),
        "req_1323_ts": float(asked["tsval"].notna().any()),
        "req_sack": float(asked["sack_permitted"].any()),
        "adv_wind_scale": _only(asked["wscale"]),
        "mss_requested": _only(asked["mss"]),
        "urgent_data_pkts": urgent.sum(),
        "urgent_data_bytes": rows["urgent"].to_numpy()[urgent].sum(),
        "max_segm_size": size.max(initial=0),
        "min_segm_size": size[data].min(initial=size.max(initial=0)),
        "avg_segm_size": size.sum() / data.sum() if data.any() else 0,
        **_windows(rows, ack, syn, scaled),
        "ttl_stream_length": _length(rows, syn, fin),
        "data_xmit_time": np.ptp(time[data]) if data.any() else 0.0,
        "idletime_max": np.diff(time).max(initial=0.0),
    }


def _rate(octets: float, segments: pd.DataFrame, ways: Flows, way: int) -> float:
    time = segments["time"].to_numpy(np.float64)[ways.flow // 2 == way // 2]
    whole = float(np.ptp(time)) if len(time) else 0.0
    return octets / whole if whole else 0.0


def _windows(rows: pd.DataFrame, ack: Any, syn: Any, scaled: bool) -> dict[str, float]:
    opening = scaled & (np.cumsum(~syn) == 0)  # a SYN that comes later counts
    counted = rows["window"].to_numpy(np.int64)[ack & ~opening]
    open_ = counted[counted > 0]
    return {
        "max_win_adv": counted.max(initial=0),
        "min_win_adv": open_.min() if len(open_) else 0,
        "zero_win_adv": (counted == 0).sum(),
        "avg_win_adv": counted.sum() / len(counted) if len(counted) else 0,
    }


def _duplicates_reported(rows: pd.DataFrame) -> int:
    """RFC 2883 4: the first block lies below the ACK, or inside the second one."""
    found = 0
    for ack, blocks in zip(rows["ack"], rows["sack"], strict=True):
        left, right = blocks[0]
        inside = len(blocks) > 1 and blocks[1][0] <= left and right <= blocks[1][1]
        found += right <= ack or inside
    return found


def _length(rows: pd.DataFrame, syn: Any, fin: Any) -> float:
    """Of the stream; NaN when its beginning or its end is not there."""
    if not (syn.any() and fin.any()):
        return np.nan
    return float(payload(rows[fin])[1][0]) - 1


def _only(column: pd.Series) -> float:
    return float(column.iloc[0]) if column.notna().any() else 0.0


# --- what depends on what came before ---


_COUNTED = (
    *("unique_bytes_sent", "rexmt_data_pkts", "rexmt_data_bytes", "zwnd_probe_pkts"),
    *("zwnd_probe_bytes", "outoforder_pkts", "initial_window_bytes", "initial_window_pkts"),
    *("post-loss_acks", "ambiguous_acks", "segs_cum_acked", "duplicate_acks", "triple_dupacks"),
    *("max_#_retrans",),
)


@dataclass(slots=True)
class _Sent:
    """A range of positions that was sent as one segment."""

    start: int
    end: int
    time: float
    again: int = 0  # how often it was sent again
    acks: int = 0  # that ended here


@dataclass(slots=True)
class _Ledger:
    """One direction, segment by segment and ACK by ACK."""

    sent: list[_Sent] = field(default_factory=list)  # in order of sequence
    first: int = 0  # in `sent`: all before it are acknowledged, and not the last such
    latest: float = 0.0  # when any of those before `first` was sent
    ack: int = -1
    window: int = -1
    values: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    rtts: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the segments that `rtts` are of
    last: list[float] = field(default_factory=list)  # since the last transmission of several
    waits: list[float] = field(default_factory=list)
    open: list[tuple[float, int]] = field(default_factory=list)  # (time, octets outstanding)
    handshake: float = 0.0


def _in_order(segments: pd.DataFrame, ways: Flows) -> dict[int, dict[str, float]]:
    """The statistics for which order matters, by direction."""
    start, size = segments["seq"].to_numpy(np.int64), segments["len"].to_numpy(np.int64)
    syn, fin, ack = (has_flag(segments, letter) for letter in "SFA")
    columns = {
        "time": segments["time"].to_numpy(np.float64),
        "start": start,
        "size": size,
        "end": start + size + syn + fin,
        "ack": np.where(ack, segments["ack"].to_numpy(np.int64), -1),
        "window": segments["window"].to_numpy(np.int64),
        "control": syn.astype(np.int64) + fin,
    }
    found = {}
    for way in range(len(ways.table)):
        own = ways.own & (ways.flow == way)
        rows = np.flatnonzero(own | (ways.answer & (ways.flow == way ^ 1)))
        ledger = _Ledger()
        taken = {name: column[rows].tolist() for name, column in columns.items()}
        for mine, time, at, length, end, said, window, control in zip(
            own[rows].tolist(), *taken.values(), strict=True
        ):
            if mine and end > at:
                _sends(ledger, time, at, length, end, control)
            elif not mine and said >= 0:
                _hears(ledger, time, said, length, window)
            if ledger.sent:
                ledger.open.append((time, ledger.sent[-1].end - max(ledger.ack, 0)))
        found[way] = _results(ledger)
    return found


def _sends(ledger: _Ledger, time: float, start: int, size: int, end: int, control: int) -> None:
    values, sent = ledger.values, ledger.sent
    if size and ledger.window == 0:
        values["zwnd_probe_pkts"] += 1
        values["zwnd_probe_bytes"] += size
        return
    if size and ledger.ack <= 1:
        values["initial_window_bytes"] += size
        values["initial_window_pkts"] += 1
    if not sent or start >= sent[-1].end:
        sent.append(_Sent(start, end, time))
        values["unique_bytes_sent"] += size
        return
    repeated = 0
    place = len(sent)
    while place and sent[place - 1].end > start:
        place -= 1
        one = sent[place]
        overlap = min(end, one.end) - max(start, one.start)
        if overlap > 0:
            repeated += overlap
            if not one.acks:  # else it is of no interest any more
                ledger.waits.append(time - one.time)
                one.again, one.time = one.again + 1, time
                values["max_#_retrans"] = max(values["max_#_retrans"], one.again)
    if not repeated:
        values["outoforder_pkts"] += 1
        sent.insert(place, _Sent(start, end, time))
    elif end > sent[-1].end:
        sent.append(_Sent(sent[-1].end, end, time))
    values["rexmt_data_bytes"] += repeated
    values["rexmt_data_pkts"] += repeated > 0
    values["unique_bytes_sent"] += size - max(0, repeated - control)


def _hears(ledger: _Ledger, time: float, ack: int, size: int, window: int) -> None:
    values, sent = ledger.values, ledger.sent
    place, latest = ledger.first, ledger.latest
    while place < len(sent) and sent[place].start < ack:
        one = sent[place]
        if one.end > ack:
            break
        if one.acks == 0:
            one.acks = 1
            if one.end < ack:
                values["segs_cum_acked"] += 1
            elif latest > one.time:
                values["post-loss_acks"] += 1
            elif one.again:
                values["ambiguous_acks"] += 1
                ledger.last.append(time - one.time)
            else:
                ledger.rtts.append(time - one.time)
                ledger.sizes.append(one.end - one.start)
                if one.start == 0:
                    ledger.handshake = time - one.time
        elif one.end == ack == ledger.ack and not size:
            repeated = window == ledger.window
            one.acks = one.acks + 1 if repeated else 1  # a new window is news
            values["duplicate_acks"] += repeated
            values["triple_dupacks"] += one.acks == 4
        latest = max(latest, one.time)
        place += 1
    for one in sent[ledger.first : place - 1]:
        ledger.latest = max(ledger.latest, one.time)
    ledger.first = max(ledger.first, place - 1)
    ledger.ack, ledger.window = max(ledger.ack, ack), window


def _results(ledger: _Ledger) -> dict[str, float]:
    most = max(ledger.sizes, default=0)
    full = [rtt for rtt, size in zip(ledger.rtts, ledger.sizes, strict=True) if size == most]
    times, amounts = zip(*ledger.open, strict=True) if ledger.open else ((0.0,), (0,))
    lasted = np.diff(times, append=times[-1])
    return {
        **ledger.values,
        **_spread(ledger.rtts, "RTT_min", "RTT_max", "RTT_avg", "RTT_stdev"),
        **_spread(full, *(f"RTT_full_sz_{name}" for name in ("min", "max", "avg", "stdev"))),
        **_spread(ledger.last, *(f"RTT_{name}_(last)" for name in ("min", "max", "avg", "sdv"))),
        **_spread(ledger.waits, *(f"{name}_retr_time" for name in ("min", "max", "avg", "sdv"))),
        "RTT_samples": len(ledger.rtts),
        "RTT_full_sz_smpls": len(full),
        "RTT_from_3WHS": ledger.handshake,
        "max_owin": max(amounts),
        "min_non-zero_owin": min(filter(None, amounts), default=0),
        "avg_owin": sum(amounts) / len(amounts),
        "wavg_owin": float(np.dot(amounts, lasted)) / (float(lasted.sum()) or 1.0),
    }


def _spread(numbers: list[float], *names: str) -> dict[str, float]:
    """The least, the largest, the mean and the standard deviation, under their names."""
    if not numbers:
        return dict.fromkeys(names, 0.0)
    mean, count = sum(numbers) / len(numbers), len(numbers)
    deviation = sqrt(sum((number - mean) ** 2 for number in numbers) / max(1, count - 1))
    return dict(zip(names, (min(numbers), max(numbers), mean, deviation), strict=True))
