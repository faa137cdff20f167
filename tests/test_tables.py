"""The tables made of a log: retransmissions, throughput, states, timers, queue, comparisons."""

import sys
import time

import numpy as np
import pandas as pd
import pytest
from test_metrics import A, B, Tape

import nbtcp
from nbtcp import Path, Simulation
from nbtcp.trace import tables
from nbtcp.trace.statistics import summary

MSS = 1000


def again(tape):
    return tables.retransmissions(tape.segments, tape.connections)


# --- retransmissions ---


def test_a_lost_segment_its_repair_and_the_delay():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(0.0, A, "send", "data", seq=1001, length=MSS)
    tape.row(0.0, A, "drop", "queue-full", seq=1001, length=MSS)
    tape.row(0.1, A, "recv", "ack-new", ack=1001)
    tape.row(0.3, A, "send", "timeout", seq=1001, length=MSS)
    tape.row(0.4, A, "recv", "ack-new", ack=2001)
    (line,) = again(tape).itertuples()
    assert (line.time, line.why, line.fate) == (0.3, "timeout", "queue-full")
    assert (line.seq, line.end) == (1001, 2001)
    assert (line.first_sent, line.last_sent, line.repaired) == (0.0, 0.0, 0.4)
    assert line.delay == 0.4
    assert line.direction == f"{A}:49152 > {B}:80"


def test_a_false_alarm_had_arrived():
    tape = Tape(A, B)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(0.2, B, "recv", "in-order", seq=1, length=MSS)
    tape.row(0.25, A, "send", "timeout", seq=1, length=MSS)
    tape.row(0.3, A, "recv", "ack-new", ack=1001)
    (line,) = again(tape).itertuples()
    assert line.fate == "arrived"
    assert line.repaired == 0.3


def test_what_its_receiver_refused_has_not_arrived():
    tape = Tape(A, B)
    tape.row(0.0, A, "send", "window-probe", seq=1, length=1)
    tape.row(0.1, B, "recv", "window-closed", seq=1, length=1)
    tape.row(0.3, A, "send", "window-opened", seq=1, length=1)
    (line,) = again(tape).itertuples()
    assert (line.why, line.fate) == ("window-opened", "window-closed")


def test_what_the_log_does_not_tell_is_missing():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(0.2, A, "send", "timeout", seq=1, length=MSS)
    (line,) = again(tape).itertuples()
    assert pd.isna(line.fate)
    assert np.isnan(line.repaired) and np.isnan(line.delay)


def test_sent_three_times_each_time_has_the_fate_of_the_one_before():
    tape = Tape(A, B)
    for now, why in ((0.0, "data"), (0.2, "rack"), (0.6, "timeout")):
        tape.row(now, A, "send", why, seq=1, length=MSS)
        if now == 0.0:
            tape.row(now, A, "drop", "loss", seq=1, length=MSS)
    tape.row(0.5, B, "recv", "in-order", seq=1, length=MSS)
    tape.rows.sort(key=lambda row: row["time"])
    table = again(tape)
    assert table["fate"].tolist() == ["loss", "arrived"]
    assert table["first_sent"].tolist() == [0.0, 0.0]
    assert table["last_sent"].tolist() == [0.0, 0.2]


def test_repacketised_data_is_matched_by_its_octets():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=2 * MSS)
    tape.row(0.0, A, "drop", "loss", seq=1, length=2 * MSS)
    for start in (1, 1001):
        tape.row(0.3, A, "send", "timeout", seq=start, length=MSS)
    table = again(tape)
    assert table["seq"].tolist() == [1, 1001]
    assert table["fate"].tolist() == ["loss", "loss"]


def test_seen_by_the_receiver_alone():
    tape = Tape(A)
    tape.row(0.0, B, "drop", "loss", seq=1, length=MSS)
    tape.row(0.2, A, "recv", "in-order", seq=1, length=MSS)
    tape.row(0.2, A, "send", "ack", ack=1001)
    tape.row(0.3, A, "recv", "duplicate", seq=1, length=MSS)
    table = again(tape)
    assert table["fate"].tolist() == ["loss", "arrived"]
    assert table["repaired"].tolist()[0] == 0.2


def test_every_segment_sent_again_in_a_simulation_was_lost():
    log = Simulation(Path(rate=5e6, delay=0.02, queue=20, loss=0.03), seed=1).transfer(500_000).log
    table = log.retransmissions()
    directions = log.directions()
    assert len(table) == directions["retransmitted"].sum() > 10
    ours = table[table["direction"].str.startswith("10.0.0.1") & (table["why"] == "rack")]
    assert set(ours["fate"]) <= {"loss", "queue-full"}
    assert (table["delay"] > 0.04).all()
    assert (table["last_sent"] < table["time"]).all()


def test_no_retransmission_gives_the_same_columns():
    whole = again(Tape(A))
    assert len(whole) == 0
    log = Simulation().transfer(1000).log
    assert list(log.retransmissions().columns) == list(whole.columns)


# --- throughput ---


def test_throughput_counts_octets_and_goodput_progress():
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=MSS)
    tape.row(0.5, A, "send", "timeout", seq=1, length=MSS)
    tape.row(1.5, A, "recv", "ack-new", ack=1001)
    tape.row(2.0, A, "send", "data", seq=1001, length=MSS)
    table = tables.throughput(tape.segments, tape.connections, window=1.0)
    mine = table[table["direction"].str.startswith(A)]
    assert mine["time"].tolist() == [0, 1, 2]
    assert mine["throughput"].tolist() == [16_000, 0, 8_000]
    assert mine["goodput"].tolist() == [0, 8_000, 0]


def test_throughput_of_a_full_link_is_its_rate_less_the_headers():
    log = Simulation(Path(rate=10e6, delay=0.01, queue=100), seed=1).transfer(5_000_000).log
    table = log.throughput(0.25)
    mine = table[table["direction"].str.startswith("10.0.0.1")].iloc[4:-2]
    assert mine["goodput"].mean() == pytest.approx(10e6 * 1448 / 1500, rel=0.01)
    assert table.attrs["window"] == 0.25


@pytest.mark.parametrize("window", [0, -1.0])
def test_a_window_of_nothing_is_refused(window):
    with pytest.raises(ValueError, match="must be above 0"):
        Simulation().transfer(1000).log.throughput(window)


# --- states and timers ---


def test_states_follow_each_other():
    log = Simulation(Path(delay=0.01)).transfer(10_000).log
    table = log.states()
    ours = table[table["host"] == "10.0.0.1"]
    assert ours["state"].tolist() == [
        *("SYN-SENT", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT")
    ]
    assert ours["began"].tolist()[1:] == ours["ended"].tolist()[:-1]
    assert np.isnan(ours["ended"].iloc[-1])
    assert ours["why"].tolist()[:2] == ["active-open", "rcv-syn-ack"]


def test_timers_end_as_they_do():
    log = Simulation(Path(delay=0.05, drop=(1,)), seed=1).transfer(30_000).log
    table = log.timers()
    first = table[(table["host"] == "10.0.0.1") & (table["timer"] == "retransmission")].iloc[0]
    assert (first["set"], first["due"], first["until"]) == (0.0, 1.0, 1.0)
    assert first["end"] == "fired"
    assert set(table["end"].dropna()) == {"fired", "stopped", "set-again"}
    fired = table[table["end"] == "fired"]
    assert np.allclose(fired["until"], fired["due"])
    assert len(fired) == (log.events["event"] == "timer-fired").sum()


# --- queue ---


def test_queue_is_what_the_path_knows():
    path = Path(rate=1e6, delay=0.01, queue=50)
    log = Simulation(path, seed=1).transfer(100_000).log
    table = log.queue()
    mine = table[table["host"] == "10.0.0.1"]
    assert (mine.loc[mine["wait"] == 0, "packets"] == 0).all()
    assert mine["packets"].max() > 5
    # A packet of 1500 octets takes 12 ms; with k before it one waits for k - 1 to k of them.
    full = mine[mine["packets"] > 1]
    assert (full["wait"] <= full["packets"] * 0.012 + 1e-9).all()
    assert (full["wait"] >= (full["packets"] - 1) * 0.012 * 52 / 1500).all()


def test_a_path_without_a_rate_has_no_queue():
    assert Simulation(Path(delay=0.01)).transfer(1000).log.queue().empty


@pytest.mark.parametrize(
    "packet",
    [
        *(b"", b"\x45" + bytes(19), b"\x60" + bytes(39), bytes(10)),
        b"\x45" + bytes(8) + b"\x01" + bytes(30),  # ICMP
        b"\x46" + bytes(8) + b"\x06" + bytes(40),  # with an IP option
    ],
)
def test_what_is_no_segment_is_in_no_queue(packet):
    """Anybody may send it through the path of a host of ours."""
    client, _ = Simulation(Path(rate=1e6)).hosts()
    client.queued(packet, 1000, 0)
    client.drop(packet, nbtcp.why.Why.QUEUE_FULL, 0)
    assert client.log.queue().empty
    assert client.log.segments.empty


def test_the_queue_is_saved_with_the_log(tmp_path):
    log = Simulation(Path(rate=1e6, delay=0.01)).transfer(20_000).log
    again = nbtcp.EventLog.load(log.save(tmp_path / "log.parquet"))
    pd.testing.assert_frame_equal(log.queue(), again.queue())


# --- comparisons ---


@pytest.fixture(scope="module")
def runs():
    sim = Simulation(Path(rate=5e6, delay=0.02, queue=20, loss=0.005), seed=2)
    return {name: sim.transfer(300_000, congestion=name).log for name in ("reno", "cubic")}


def test_comparison_has_the_tables_of_all(runs):
    both = nbtcp.compare(runs)
    assert repr(both) == "<Comparison of reno, cubic>"
    assert both.directions()["run"].tolist() == ["reno", "reno", "cubic", "cubic"]
    assert both.rtt().columns[0] == "run"
    parts = [len(log.retransmissions()) for log in runs.values()]
    assert len(both.retransmissions()) == sum(parts)


def test_comparison_draws_a_line_of_each(runs):
    shown = nbtcp.compare(runs).plot("window")
    lines = shown.figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["reno", "cubic"]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert shown.data["run"].unique().tolist() == ["reno", "cubic"]
    assert repr(shown) == "<comparison of 2 logs by window>"
    also = runs["reno"].plot.compare({"cubic": runs["cubic"]}, "rtt", name="reno")
    assert [line.get_label() for line in also.figure.axes[0].lines] == ["reno", "cubic"]


def test_comparison_of_nothing_and_by_nothing(runs):
    with pytest.raises(ValueError, match="compare takes logs by name"):
        nbtcp.compare({})
    with pytest.raises(ValueError, match="no comparison of kind 'states': there are sequence, "):
        nbtcp.compare(runs).plot("states")


# --- speed ---

LOSSY = Path(rate=100e6, delay=0.01, queue=170, loss=0.002, reorder=0.001)
TABLES = (
    *("segments", "events", "connections", "rtt", "queue", "retransmissions", "throughput"),
    *("states", "timers", "directions", "summary"),
)


def table_of(log, name):
    """Made anew: the log keeps tables until it grows."""
    log._frames.clear()
    table = getattr(log, name)
    return table() if callable(table) else table


def calls(make, *arguments):
    """How many functions of Python are called meanwhile."""
    count = 0

    def called(frame, event, argument):
        nonlocal count
        count += event == "call"

    make(*arguments)  # what is imported or cached is there
    sys.setprofile(called)
    try:
        make(*arguments)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
def test_no_table_takes_segments_one_by_one():
    few, many = (Simulation(LOSSY, seed=1).transfer(size).log for size in (200_000, 3_000_000))
    more = len(many.segments) - len(few.segments)
    for name in TABLES:
        less, most = (calls(table_of, log, name) for log in (few, many))
        assert most - less < 0.3 * more, name


def test_no_table_takes_connections_one_by_one():
    """A few calls for each are allowed: names are texts, groups have a least and a most."""
    counts = []
    for connections in (10, 110):
        tape = Tape(A)
        tape.ends = [tape.end(1 + number, A, 1024 + number) for number in range(connections)]
        for number in range(connections):
            tape.row(number, A, "send", "data", conn=1 + number, seq=1, length=MSS)
            tape.row(number + 0.1, A, "recv", "ack-new", conn=1 + number, ack=1001)
            tape.row(number + 0.2, A, "send", "timeout", conn=1 + number, seq=1, length=MSS)
        frames = tape.segments.assign(wscale=pd.NA), tape.connections
        makes = tables.retransmissions, tables.throughput, summary
        counts.append([calls(make, *frames) for make in makes])
    assert (np.diff(counts, axis=0) < 100 * 30).all()


@pytest.mark.slow
def test_tables_and_pictures_of_many_segments(tmp_path):
    """`make bench` has the times of a million; here only so much that a bad algorithm shows."""
    log = Simulation(LOSSY, seed=1).transfer(5_000_000).log
    assert len(log.segments) > 10_000
    for name in TABLES:
        began = time.process_time()
        table_of(log, name)
        assert time.process_time() - began < 0.5, name
    assert log.plot.window().save(tmp_path / "a.svg").stat().st_size < 200_000
