"""Statistics against numbers worked out by hand, from logs written by hand."""

import numpy as np
import pandas as pd
import pytest

from nbtcp.trace.metrics import flows, resent
from nbtcp.trace.spans import first_seen
from nbtcp.trace.tables import DIRECTIONS, RTT_COLUMNS, directions

A, B = "10.0.0.2", "10.0.0.1"  # the host that opens the connection, its peer
CATEGORIES = ["host", "event", "why", "state", "flags"]
NULLABLE = [
    *("tsval", "tsecr", "mss", "wscale"),
    *("snd_una", "snd_nxt", "snd_wnd", "rcv_nxt", "rcv_wnd", "cwnd", "inflight"),
]


class Tape:
    """A log written by hand: what a live one gives, for the tests of metrics and plots.

    `tape.row(time, host, event, why, flags, seq, length)` appends one segment.
    """

    def __init__(self, *ends, port=49152):
        """Connection 1 from A to B; its ends that are in the log (by default A)."""
        self.rows = []
        self.samples = []
        self.happened = []
        self.waits = []
        self.ends = [self.end(1, host, port) for host in ends or [A]]

    @staticmethod
    def end(conn, host, port):
        here, there = ((A, port), (B, 80)) if host == A else ((B, 80), (A, port))
        return {
            **{"conn": conn, "host": host, "local": here[0], "local_port": here[1]},
            **{"remote": there[0], "remote_port": there[1], "iss": 1000, "irs": 2000},
            **{"opened": "active" if host == A else "passive", "began": 0.0, "ended": np.nan},
            **{"state": "ESTABLISHED", "end": "open"},
        }

    def row(self, time, host, event, why, flags="A", seq=1, length=0, **more):
        self.rows.append(
            {
                **{"time": time, "host": host, "conn": 1, "event": event, "why": why},
                **{"state": "ESTABLISHED", "flags": flags, "seq": seq, "len": length},
                **{"ack": int("A" in flags), "window": 65535, "sack": ()},
                **more,
            }
        )

    def sample(self, host, rtt, kept=True, **more):
        table = dict.fromkeys(RTT_COLUMNS, 0.0) | {"host": host, "conn": 1, "rtt": rtt}
        self.samples.append(table | {"kept": kept, "why": "first-transmission"} | more)

    @property
    def segments(self):
        columns = ["time", "host", "conn", "event", "why", "state", "flags", "seq", "ack", "len"]
        frame = pd.DataFrame(self.rows, columns=[*columns, "window", "sack"])
        frame = frame.astype({"time": float, **dict.fromkeys(CATEGORIES, "category")})
        whole = dict.fromkeys(["conn", "seq", "ack", "len", "window"], "int64")
        frame = frame.astype({**whole, "sack": object})
        frame["raw_seq"] = ((frame["seq"] + 1000) % 2**32).astype("uint32")
        frame["raw_ack"] = ((frame["ack"] + 2000) % 2**32).astype("uint32")
        frame[NULLABLE] = pd.NA
        frame = frame.astype(dict.fromkeys(NULLABLE, "Int64"))
        frame[["ssthresh", "srtt", "rttvar", "rto"]] = np.nan
        frame = frame.assign(sack_permitted=False, urgent=0, ecn=None)
        frame.attrs = {"seed": 1}
        return frame

    @property
    def connections(self):
        return pd.DataFrame(self.ends, columns=list(self.end(1, A, 1)))

    @property
    def events(self):
        columns = ["time", "host", "conn", "event", "old", "new", "value", "why"]
        return pd.DataFrame(self.happened, columns=columns).astype({"time": float, "value": float})

    def happen(self, time, host, event, new="", old="", value=0.0, why="", conn=1):
        """Append one row of events."""
        self.happened.append((time, host, conn, event, old, new, value, why))

    def queue(self):
        return pd.DataFrame(self.waits, columns=["time", "host", "wait", "packets"])

    def rtt(self):
        frame = pd.DataFrame(self.samples, columns=list(RTT_COLUMNS))
        return frame.astype({"kept": bool, "conn": "int64", "rtt": float})

    def directions(self):
        return directions(self.segments, self.rtt(), self.connections)


def row(table, direction):
    """The one row of the directions whose direction begins with that address."""
    (found,) = [line for line in table.itertuples() if line.direction.startswith(direction)]
    return found


def upload():
    """A sends 3 x 1000 B, the second is lost and sent again; seen by A only."""
    tape = Tape(A)
    tape.row(0.00, A, "send", "syn", "S", seq=0)
    tape.row(0.10, A, "recv", "syn-ack", "SA", seq=0)
    tape.row(0.10, A, "send", "ack")
    for start in (1, 1001, 2001):
        tape.row(0.10, A, "send", "data", "PA", seq=start, length=1000)
    tape.row(0.10, A, "drop", "loss", "PA", seq=1001, length=1000)
    tape.row(0.20, A, "recv", "ack-new", ack=1001)
    tape.row(0.21, A, "recv", "duplicate-ack", ack=1001)
    tape.row(0.50, A, "send", "timeout", "PA", seq=1001, length=1000)
    tape.row(0.60, A, "recv", "ack-new", ack=3001)
    tape.row(0.61, A, "send", "fin", "FA", seq=3001)
    tape.row(0.71, A, "recv", "ack-new", ack=3002)
    for rtt, kept in ((0.1, True), (0.12, True), (0.5, False)):
        tape.sample(A, rtt, kept)
    return tape


def test_directions_of_an_upload_counts_what_the_sender_sent():
    line = row(upload().directions(), A)
    assert (line.conn, line.direction, line.vantage) == (1, f"{A}:49152 > {B}:80", "sender")
    assert (line.segments, line.data_segments) == (7, 4)
    assert (line.bytes, line.unique_bytes) == (4000, 3000)
    assert (line.retransmitted, line.retransmitted_bytes) == (1, 1000)
    assert (line.dropped, line.duplicate_acks) == (1, 1)
    assert line.out_of_order is pd.NA  # nobody logged what arrived at B


def test_directions_of_an_upload_measures_the_data_alone():
    line = row(upload().directions(), A)
    assert (line.first, line.last) == (0.1, 0.5)
    assert line.duration == pytest.approx(0.4)
    assert line.throughput == pytest.approx(3000 * 8 / 0.4)
    assert line.goodput == pytest.approx(
        3000 * 8 / 0.5
    )  # until the ACK of 0.60; the FIN is no data


def test_directions_uses_the_rtt_samples_that_were_kept():
    line = row(upload().directions(), A)
    assert (line.rtt_samples, line.rtt_min, line.rtt_max) == (2, 0.1, 0.12)
    assert line.rtt_mean == pytest.approx(0.11)


def test_directions_of_the_silent_direction_has_no_rates():
    line = row(upload().directions(), B)
    assert (line.vantage, line.segments, line.data_segments, line.bytes) == ("receiver", 5, 0, 0)
    assert (line.out_of_order, line.duplicate_acks, line.rtt_samples) == (0, 0, 0)
    figures = [line.first, line.last, line.duration, line.throughput, line.goodput, line.rtt_mean]
    assert np.isnan(figures).all()


def download():
    """B, whose log is not there, sends 3 x 1000 B: the second comes last, the third twice."""
    tape = Tape(A)
    tape.row(1.0, A, "recv", "in-order", seq=1, length=1000)
    tape.row(1.0, A, "send", "ack", ack=1001)
    tape.row(1.5, B, "drop", "queue-full", seq=1001, length=1000)
    tape.row(2.0, A, "recv", "out-of-order", seq=2001, length=1000)
    tape.row(2.0, A, "send", "duplicate-ack", ack=1001)
    tape.row(2.5, A, "recv", "bad-checksum", seq=1001, length=1000)
    tape.row(3.0, A, "recv", "in-order", seq=1001, length=1000)
    tape.row(3.0, A, "send", "ack", ack=3001)
    tape.row(3.5, A, "recv", "duplicate", seq=2001, length=1000)
    tape.row(3.5, A, "send", "duplicate-ack", ack=3001)
    return tape


def test_directions_of_a_download_counts_what_the_receiver_got():
    line = row(download().directions(), B)
    assert line.vantage == "receiver"
    assert (line.segments, line.data_segments, line.bytes, line.unique_bytes) == (4, 4, 4000, 3000)
    assert (line.retransmitted, line.retransmitted_bytes) == (2, 1000)  # a drop, a copy
    assert (line.dropped, line.duplicate_acks, line.out_of_order) == (2, 2, 1)
    assert (line.first, line.last) == (1.0, 3.5)
    assert line.throughput == pytest.approx(3000 * 8 / 2.5)
    assert line.goodput == pytest.approx(3000 * 8 / 2.0)


def both_ends():
    """A sends 2 x 1000 B to B, both in the log: the first is lost, the ACK of the second too."""
    tape = Tape(A, B)
    tape.row(0.0, A, "send", "data", seq=1, length=1000)
    tape.row(0.0, A, "drop", "loss", seq=1, length=1000)
    tape.row(0.1, A, "send", "data", seq=1001, length=1000)
    tape.row(0.2, B, "recv", "out-of-order", seq=1001, length=1000)
    tape.row(0.2, B, "send", "duplicate-ack", ack=1)
    tape.row(0.2, B, "drop", "loss", ack=1)
    tape.row(0.4, A, "send", "timeout", seq=1, length=1000)
    tape.row(0.5, B, "recv", "in-order", seq=1, length=1000)
    tape.row(0.5, B, "send", "ack", ack=2001)
    tape.row(0.6, A, "recv", "ack-new", ack=2001)
    return tape


def test_directions_with_both_ends_never_counts_a_segment_twice():
    table = both_ends().directions()
    assert len(table) == 2
    line = row(table, A)
    assert (line.vantage, line.segments, line.bytes, line.unique_bytes) == ("sender", 3, 3000, 2000)
    assert (line.retransmitted, line.dropped, line.out_of_order) == (1, 1, 1)
    assert line.duplicate_acks == 0  # it was sent, but never came to A
    back = row(table, B)
    assert (back.vantage, back.segments, back.dropped) == ("sender", 2, 1)


def test_directions_gives_each_connection_its_own_rows():
    tape = upload()
    tape.ends.append(tape.end(2, A, 49153))
    tape.row(1.0, A, "send", "data", seq=1, length=500, conn=2)
    tape.row(1.0, A, "send", "rst", "R", conn=0)  # belongs to no connection
    tape.row(1.0, A, "recv", "data", length=9, conn=7)  # nor to one that is listed
    table = tape.directions()
    assert table["conn"].to_list() == [1, 1, 2, 2]
    assert table["bytes"].to_list() == [4000, 0, 500, 0]
    assert table["direction"].iloc[2] == f"{A}:49153 > {B}:80"


def test_directions_of_a_lost_syn_counts_it_as_retransmitted():
    tape = Tape(A)
    tape.row(0.0, A, "send", "syn", "S", seq=0)
    tape.row(1.0, A, "send", "timeout", "S", seq=0)
    line = row(tape.directions(), A)
    assert (line.segments, line.retransmitted, line.retransmitted_bytes) == (2, 1, 0)


def test_directions_tells_units_and_keeps_the_attributes_of_the_log():
    attrs = upload().directions().attrs
    assert attrs["seed"] == 1
    assert attrs["units"]["throughput"] == "bit/s"
    assert attrs["definitions"]["duration"] == "last - first"
    assert attrs["units"].keys() == attrs["definitions"].keys() == DIRECTIONS.keys()


def test_directions_of_ipv6_writes_addresses_in_brackets():
    tape = upload()
    tape.ends[0].update(local="2001:db8::1", remote="2001:db8::2")
    assert tape.directions()["direction"].iloc[0] == "[2001:db8::1]:49152 > [2001:db8::2]:80"


def test_directions_of_an_empty_log_has_the_same_columns_and_no_rows():
    empty = Tape(A)
    empty.ends = []
    table = empty.directions()
    assert list(table.columns) == list(upload().directions().columns)
    assert len(table) == 0
    bare = pd.DataFrame()
    assert list(directions(bare, bare, bare).columns) == list(table.columns)


def test_directions_of_a_connection_without_segments_is_all_zero():
    line = row(Tape(A).directions(), A)
    assert (line.segments, line.bytes, line.dropped, line.rtt_samples) == (0, 0, 0, 0)


def test_directions_has_the_same_types_with_rows_and_without():
    full, none = upload().directions(), Tape(A).directions()
    assert full.dtypes.equals(none.dtypes)
    assert full.dtypes["bytes"] == full.dtypes["segments"] == "int64"


def test_flows_of_a_capture_without_arrivals_take_acks_where_they_were_sent():
    tape = Tape(A, B)
    tape.row(0.0, A, "send", "data", seq=1, length=1000)
    tape.row(0.1, B, "send", "ack", ack=1001)
    ways = flows(tape.segments, tape.connections)
    assert ways.flow.tolist() == [0, 1]
    assert ways.own.tolist() == [True, True]
    assert ways.answer.tolist() == [True, True]


def test_first_seen_matches_counting_one_by_one():
    random = np.random.default_rng(1)
    for _ in range(50):
        flow, every = random.integers(0, 3, 20), np.ones(20, bool)
        start = random.integers(-5, 40, 20)
        end = start + random.integers(0, 12, 20)
        seen, expected = set(), []
        for way, low, high in zip(flow, start, end, strict=True):
            span = {(way, position) for position in range(low, high)}
            expected.append(len(span - seen))
            seen |= span
        assert first_seen(flow, start, end, every).tolist() == expected


def test_resent_tells_a_segment_that_is_new_only_in_part():
    tape = Tape(A)
    for start, length in ((1, 100), (51, 100), (151, 10)):
        tape.row(0.0, A, "send", "data", seq=start, length=length)
    ways = flows(tape.segments, tape.connections)
    assert resent(tape.segments, ways).tolist() == [False, True, False]


def test_resent_knows_a_first_transmission_that_was_dropped_on_its_way_to_the_only_witness():
    tape = Tape(A)
    tape.row(0.0, B, "drop", "loss", seq=1, length=100)
    tape.row(0.1, A, "recv", "out-of-order", seq=101, length=100)
    tape.row(0.3, A, "recv", "in-order", seq=1, length=100)
    ways = flows(tape.segments, tape.connections)
    assert resent(tape.segments, ways).tolist() == [False, False, True]
