"""What happened to the retransmissions, the states, the timers; and how fast it went.

DataFrames in, DataFrames out, as in metrics.py; `EventLog` has a method for each. Times are seconds
since the log began, positions those of `log.segments`. Nothing is done row by row.
"""

import numpy as np
import pandas as pd

from .metrics import Bools, Floats, Ints, flows, payload, pieces, positions, resent, transmissions

ARRIVED = "arrived"
BINS = 100  # of a throughput table whose window is not given
TIMER_ENDS = {"timer-set": "set-again", "timer-stopped": "stopped", "timer-fired": "fired"}


def retransmissions(segments: pd.DataFrame, connections: pd.DataFrame) -> pd.DataFrame:
    """One row per segment of which some part had been sent before, seen at its vantage point.

    time, conn, direction, why  when it was sent again, and what for
    seq, end               its positions, SYN and FIN included
    first_sent, last_sent  s, when its first octet had been sent for the first and the last time
    fate                   what had become of it: who dropped it ("loss", "queue-full", ...);
                           "arrived": this was a false alarm; missing when the log does not tell
    repaired               s, when it was acknowledged as a whole
    delay                  s, repaired - first_sent
    """
    ways = flows(segments, connections)
    again = np.flatnonzero(resent(segments, ways))
    start, end = positions(segments)
    known = ways.flow >= 0
    owner, piece, _ = pieces(np.where(known, ways.flow, 0), start, np.where(known, end, start))
    head = piece[np.searchsorted(owner, again)] if len(again) else again
    sent = transmissions(ways)
    arrived = known & ~ways.lost & (segments["event"] == "recv").to_numpy(bool)
    time = np.append(segments["time"].to_numpy(np.float64), np.nan)  # of no row: unknown
    first = pd.Series(owner[sent[owner]], piece[sent[owner]]).groupby(level=0).min()

    def last(mask: Bools) -> Ints:
        """The last row before each, that is one of these and covers its first octet; or -1."""
        told = pd.DataFrame({"row": owner[mask[owner]], "piece": piece[mask[owner]]})
        told["found"] = told["row"]
        wanted = pd.DataFrame({"row": again, "piece": head})
        joined = pd.merge_asof(wanted, told, "row", by="piece", allow_exact_matches=False)
        return joined["found"].fillna(-1).to_numpy(np.int64)

    before, dropped, came = last(sent), last(ways.lost & known), last(arrived)
    whys = segments["why"].astype(object).to_numpy()
    fate = np.full(len(again), None, object)
    fate[came >= before] = ARRIVED
    fate[dropped >= before] = whys[dropped][dropped >= before]
    fate[before < 0] = None
    table = segments.iloc[again][["time", "conn", "why"]].reset_index(drop=True)
    table.insert(2, "direction", ways.table["direction"].array[ways.flow[again]])
    table = table.assign(
        seq=start[again],
        end=end[again],
        first_sent=time[first.reindex(head).fillna(-1).to_numpy(np.int64)],
        last_sent=time[before],
        fate=pd.Categorical(fate),
        repaired=_when_acknowledged(segments, ways.answer, ways.flow, again, end[again]),
    )
    table["delay"] = table["repaired"] - table["first_sent"]
    table.attrs = dict(segments.attrs)
    return table


def _when_acknowledged(
    segments: pd.DataFrame, answer: Bools, flow: Ints, rows: Ints, end: Ints
) -> Floats:
    """When the ACK for all up to `end` came, after each of these rows; NaN when none did."""
    time, ack = segments["time"].to_numpy(np.float64), segments["ack"].to_numpy(np.int64)
    heard, about = _answers(answer, flow)
    # All flows on one axis, one after the other: a running maximum and a search serve them all.
    size = max(ack.max(initial=0), end.max(initial=0)) + 1
    highest = np.maximum.accumulate(about * size + ack[heard])
    reached = np.searchsorted(highest, flow[rows] * size + end)
    later = np.searchsorted(about * len(time) + heard, flow[rows] * len(time) + rows)
    place = np.maximum(reached, later)
    known = np.append(about, -1)[place] == flow[rows]
    return np.where(known, np.append(time[heard], np.nan)[place], np.nan)


def _answers(answer: Bools, flow: Ints) -> tuple[Ints, Ints]:
    """The rows that carry ACKs, in order of the flow that these are about, and that flow."""
    heard = np.flatnonzero(answer)
    about = flow[heard] ^ 1
    order = np.argsort(about, kind="stable")
    return heard[order], about[order]


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
    ways = flows(segments, connections)
    time = segments["time"].to_numpy(np.float64)
    duration = float(time.max()) if len(time) else 0.0
    step = window or duration / BINS or 1.0
    slots, n = int(duration / step) + 1, len(ways.table)
    slot = np.minimum((time / step).astype(np.int64), slots - 1)
    start, end = payload(segments)
    carried = np.bincount((ways.flow * slots + slot)[ways.own], (end - start)[ways.own], n * slots)
    data = ways.own & (end > start)
    bounds = pd.DataFrame({"low": start, "high": end})[data].groupby(ways.flow[data])
    low = bounds["low"].min().reindex(np.arange(n)).to_numpy(np.float64)  # no SYN, no FIN
    high = bounds["high"].max().reindex(np.arange(n)).to_numpy(np.float64)
    heard, about = _answers(ways.answer, ways.flow)
    heard, about = heard[low[about] < high[about]], about[low[about] < high[about]]
    ack = segments["ack"].to_numpy(np.float64)[heard].clip(low[about], high[about])
    reached = pd.Series(ack).groupby(about).cummax()
    gain = reached - reached.groupby(about).shift(1).fillna(pd.Series(low[about]))
    acked = np.bincount(about * slots + slot[heard], gain, n * slots)
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
