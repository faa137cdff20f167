"""Which way each segment went, what of it was new, and figures of each direction.

DataFrames in, arrays and DataFrames out: `log.segments` and `log.connections`, whoever made them.
This module never imports the stack, so a saved log or anybody's capture has the same tables as a
live one; those are in tables.py and statistics.py.

Each direction of a connection is looked at from one place, its *vantage point*: the sender when the
log holds what that host sent, otherwise the receiver; in a capture, whose segments count as sent,
the place where it was made. Numbers from two places differ (a lost segment was sent but did not
arrive), so they are never mixed in one count.

Nothing is done row by row, but to unpack SACK blocks.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..wire.segment import format_endpoint
from . import spans
from .spans import Bools, Floats, Ints, Numbers

__all__ = ["Bools", "Each", "Floats", "Flows", "Ints", "Numbers", "flows", "resent"]

SEGMENT_COLUMNS = ("time", "host", "conn", "event", "why", "flags", "seq", "ack", "len", "window")
END_COLUMNS = ("conn", "host", "local", "local_port", "remote", "remote_port")

DAMAGED = ("bad-checksum", "malformed")
"""What `why` says of segments that arrived but were thrown away unread."""

REPEATED = (
    *("fast-retransmit", "partial-ack", "timeout", "go-back-n"),
    *("sack-hole", "rescue", "rack", "packet-too-big"),
)
"""What `why` says of segments that are inferred to have been sent before."""

UNHEARD = (*DAMAGED, "unacceptable", "ack-unsent", "paws", "options-missing", "not-syn")
"""What `why` says of segments whose ACK was not taken."""


# --- which way ---


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
    ends    one row per connection: of two ends in one log, the one named first
    """

    table: pd.DataFrame
    flow: Ints
    own: Bools
    answer: Bools
    lost: Bools
    ends: pd.DataFrame

    def of_samples(self, samples: pd.DataFrame) -> Ints:
        """Per RTT sample: the flow of the data that was timed; -1: of no known connection."""
        place, home = _whereabouts(samples, self.ends)
        return np.where(place >= 0, 2 * place + ~home, -1)

    def transmissions(self) -> Bools:
        """Per row: shows that its flow sent something; to a receiver a drop on the way does."""
        by_receiver = is_any(self.table["vantage"], "receiver")
        seen: Bools = self.own | (self.lost & np.append(by_receiver, False)[self.flow])
        return seen

    def answers(self) -> tuple[Ints, Ints]:
        """The rows that carry ACKs, in order of the flow that these are about, and that flow."""
        heard = np.flatnonzero(self.answer)
        about = self.flow[heard] ^ 1
        order = np.argsort(about, kind="stable")
        return heard[order], about[order]

    def acknowledged(
        self, segments: pd.DataFrame, flow: Ints, end: Ints, after: Ints | int = -1
    ) -> Ints:
        """The first row after row `after` that acknowledges all of `flow` up to `end`; -1: none.

        `segments` are those of which the flows were made.
        """
        ack, n = segments["ack"].to_numpy(np.int64), len(segments)
        heard, about = self.answers()
        size = spans.width(ack, end)
        highest = np.maximum.accumulate(about * size + ack[heard])
        reached = np.searchsorted(highest, flow * size + end)
        later = np.searchsorted(about * n + heard, flow * n + after, "right")
        place = np.maximum(reached, later)
        return np.where(np.append(about, -1)[place] == flow, np.append(heard, -1)[place], -1)


def flows(segments: pd.DataFrame, connections: pd.DataFrame) -> Flows:
    """Give every segment its direction, and every direction its vantage point."""
    segments, ends = complete(segments), complete(connections, END_COLUMNS)
    ends = ends.drop_duplicates("conn", ignore_index=True)
    place, home = _whereabouts(segments, ends)
    known = place >= 0
    sent, arrived = is_any(segments["event"], "send"), is_any(segments["event"], "recv")
    corrupt = arrived & is_any(segments["why"], *DAMAGED)
    ignored = arrived & is_any(segments["why"], *UNHEARD)
    flow = np.where(known, 2 * place + (home == arrived), -1)
    # The last entry is never set: it is what the -1 of an unknown segment looks up.
    each = Each(flow, 2 * len(ends) + 1)
    by_sender, arrives = each.count(known & sent) > 0, each.count(known & arrived) > 0
    opposite = np.where(known, flow ^ 1, -1)
    # ACKs count where they arrive at the sender of the data; a capture made between the two hosts
    # may have no arrivals at all, and then they count where they were sent.
    ends_seen = arrives[flow] | arrives[opposite]
    back = ~by_sender[flow] | (by_sender[opposite] & ends_seen)
    table = _directions(ends)
    table["vantage"] = np.where(by_sender[:-1], "sender", "receiver")
    if segments.attrs.get("inferred") is True:
        table["vantage"] = "capture"
    return Flows(
        table=table,
        flow=flow,
        own=known & ~corrupt & np.where(by_sender[flow], sent, arrived),
        answer=known & ~ignored & np.where(back, arrived, sent),
        lost=known & (corrupt | is_any(segments["event"], "drop")),
        ends=ends,
    )


def complete(frame: pd.DataFrame, columns: tuple[str, ...] = SEGMENT_COLUMNS) -> pd.DataFrame:
    """The frame itself; an empty one gets the columns that it lacks."""
    return frame if len(frame) else frame.reindex(columns=list(columns))


def _whereabouts(frame: pd.DataFrame, ends: pd.DataFrame) -> tuple[Ints, Bools]:
    """Per row: where its connection is in `ends` (-1: nowhere), and whether it happened there."""
    place = pd.Index(ends["conn"]).get_indexer(frame["conn"]).astype(np.int64)
    hosts = frame["host"].astype("category")
    codes = hosts.cat.categories.get_indexer(pd.Index(ends["host"].astype(object)))
    return place, hosts.cat.codes.to_numpy() == np.append(codes, -2)[place]


def _directions(ends: pd.DataFrame) -> pd.DataFrame:
    rows = []
    columns = ["conn", "local", "local_port", "remote", "remote_port"]
    for conn, local, local_port, remote, remote_port in ends[columns].to_numpy(object).tolist():
        here, there = format_endpoint(local, local_port), format_endpoint(remote, remote_port)
        rows.append((conn, local, remote, f"{here} > {there}"))
        rows.append((conn, remote, local, f"{there} > {here}"))
    texts = ["sender", "receiver", "direction"]
    table = pd.DataFrame(rows, columns=["conn", *texts])
    return table.astype({"conn": np.int64, **dict.fromkeys(texts, "str")})


def is_any(column: pd.Series, *values: str) -> Bools:
    """Per row: the column has one of these."""
    return column.isin(values).to_numpy(bool)


def has_flag(rows: pd.DataFrame, letter: str) -> Bools:
    """Per segment: the flag of that letter (S, A, F, R, P, ...) is set."""
    flags = rows["flags"].astype("category")
    return is_any(flags, *(kind for kind in flags.cat.categories if letter in kind))


# --- what of it was new ---


def payload(rows: pd.DataFrame) -> tuple[Ints, Ints]:
    """Where the payload of each segment starts and ends, in relative sequence numbers."""
    start = rows["seq"].to_numpy(np.int64) + has_flag(rows, "S")  # a SYN comes before the data
    return start, start + rows["len"].to_numpy(np.int64)


def positions(rows: pd.DataFrame) -> tuple[Ints, Ints]:
    """Where each segment starts and ends, SYN and FIN included, in relative sequence numbers."""
    return rows["seq"].to_numpy(np.int64), payload(rows)[1] + has_flag(rows, "F")


def resent(segments: pd.DataFrame, ways: Flows) -> Bools:
    """Per row: shows its flow, and some part of it, SYN and FIN included, had been seen before.

    Where the receiver's view is the only one, a drop on the way there was a transmission too.
    """
    seen = ways.transmissions()
    start, end = positions(segments)
    again = seen & (spans.first_seen(ways.flow, start, end, seen) < end - start)
    if (ways.table["vantage"] == "capture").any():  # it may have missed the first transmission,
        again |= is_any(segments["why"], *REPEATED)
        again &= ~is_any(segments["why"], "duplicate")  # or seen a copy that the network made
    return again & ways.own


# --- what was said of it ---


def blocks(rows: pd.DataFrame) -> tuple[Ints, Ints, Ints, Bools, Bools]:
    """The SACK blocks of these rows: (row, left, right, first, twice), one entry for each block.

    The first of a segment has the news (RFC 2018 4), which are of a segment that came twice when it
    lies below the ACK or within the second block (RFC 2883 4).
    """
    found = [(row, *block) for row, sack in enumerate(rows["sack"]) for block in sack]
    row, left, right = np.array(found, np.int64).reshape(-1, 3).T
    first = np.diff(row, prepend=-1) > 0
    inside = np.append(~first[1:] & (left[1:] <= left[:-1]) & (right[:-1] <= right[1:]), False)
    below = right <= rows["ack"].to_numpy(np.int64)[row]
    return row, left, right, first, first & (below | inside[: len(row)])


# --- figures ---


@dataclass(frozen=True)
class Each:
    """Figures of each of `n` flows, taken of those `rows` whose `flow` it is."""

    flow: Ints
    n: int

    def count(self, rows: Bools | Ints) -> Ints:
        """How many."""
        return np.bincount(self.flow[rows], minlength=self.n)

    def sum(self, values: Numbers, rows: Bools) -> Numbers:
        """The sum of their values (exact below 2^53)."""
        return np.bincount(self.flow[rows], values[rows], self.n).astype(values.dtype)

    def mean(self, values: Numbers, rows: Bools) -> Floats:
        """The mean of their values; NaN without any."""
        return ratio(self.sum(values, rows), self.count(rows))

    def least(self, values: Numbers, rows: Bools) -> Floats:
        """The least value; NaN without any."""
        least = np.full(self.n, np.inf)
        np.minimum.at(least, self.flow[rows], values[rows])
        return np.where(np.isinf(least), np.nan, least)

    def most(self, values: Numbers, rows: Bools) -> Floats:
        """The greatest value; NaN without any."""
        return 0.0 - self.least(-values, rows)


def ratio(values: Numbers, by: Numbers) -> Floats:
    """NaN where there is nothing to divide by."""
    found: Floats = np.divide(values, by, out=np.full(len(by), np.nan), where=by != 0)
    return found
