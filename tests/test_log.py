"""The event log: its tables are what the packets say, and a file gives them back as they were.

Whatever the log says of a segment is compared with what scapy reads from the very packet, taken at
the doors of the stacks and where the paths drop.
"""

import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scapy.layers.inet import IP, TCP

from nbtcp import Config, EventLog, NbtcpError, Path, Simulation, Stack
from nbtcp.trace.log import FIELDS, LAYOUTS, LogFileError
from nbtcp.why import Event, Why
from nbtcp.wire.segment import ACK, Segment, build, format_flags, pack_flow

CLIENT, SERVER, PORT = "10.0.0.1", "10.0.0.2", 80
SECOND = 1_000_000_000
LOSSY = Path(rate=10e6, delay=0.02, queue=20, loss=0.02)
TEXT = str(pd.Series([], dtype="str").dtype)  # str from pandas 3 on, object before

SEGMENTS = {
    "time": "float64",
    "host": "category",
    "conn": "int64",
    "event": "category",
    "why": "category",
    "state": "category",
    "flags": "category",
    "seq": "int64",
    "ack": "int64",
    "raw_seq": "uint32",
    "raw_ack": "uint32",
    "len": "int64",
    "window": "int64",
    "sack": "object",
    "tsval": "Int64",
    "tsecr": "Int64",
    "mss": "Int64",
    "wscale": "Int64",
    "snd_una": "Int64",
    "snd_nxt": "Int64",
    "snd_wnd": "Int64",
    "rcv_nxt": "Int64",
    "rcv_wnd": "Int64",
    "cwnd": "Int64",
    "ssthresh": "float64",
    "inflight": "Int64",
    "srtt": "float64",
    "rttvar": "float64",
    "rto": "float64",
    "sack_permitted": "bool",
    "urgent": "uint16",
    "ecn": "category",
}
EVENTS = {
    "time": "float64",
    "host": "category",
    "conn": "int64",
    "event": "category",
    "old": TEXT,
    "new": TEXT,
    "value": "float64",
    "why": TEXT,
}
SAMPLES = {
    "time": "float64",
    "host": "category",
    "conn": "int64",
    "start": "int64",
    "end": "int64",
    "sent": "float64",
    "acked": "float64",
    "rtt": "float64",
    "srtt": "float64",
    "rttvar": "float64",
    "rto": "float64",
    "kept": "bool",
    "why": "category",
}
CONNECTIONS = {
    "conn": "int64",
    "host": TEXT,
    "local": TEXT,
    "local_port": "int64",
    "remote": TEXT,
    "remote_port": "int64",
    "iss": "int64",
    "irs": "Int64",
    "opened": TEXT,
    "began": "float64",
    "ended": "float64",
    "state": TEXT,
    "end": TEXT,
}
TABLES: dict[str, tuple[Callable[[EventLog], pd.DataFrame], dict[str, str]]] = {
    "segments": (lambda log: log.segments, SEGMENTS),
    "events": (lambda log: log.events, EVENTS),
    "rtt": (lambda log: log.rtt(), SAMPLES),
    "connections": (lambda log: log.connections, CONNECTIONS),
}
every_table = pytest.mark.parametrize("name", TABLES)

Seen = tuple[str, str, int, bytes]  # send, recv or drop; host; ns; the packet


def tap(stack: Stack, seen: list[Seen]) -> None:
    """Note every packet that goes through the doors of `stack`."""
    receive, transmit = stack.receive, stack.transmit

    def noting_receive(packet: bytes, now: int) -> None:
        seen.append(("recv", stack.address, now, packet))
        receive(packet, now)

    def noting_transmit(now: int) -> list[bytes]:
        packets = transmit(now)
        seen.extend(("send", stack.address, now, packet) for packet in packets)
        return packets

    stack.receive = noting_receive  # type: ignore[method-assign]
    stack.transmit = noting_transmit  # type: ignore[method-assign]


def tap_drops(log: EventLog, seen: list[Seen]) -> None:
    """Note every packet that a path says it has dropped."""
    dropped = log.dropped

    def noting_dropped(packet: bytes, why: Why, now: int) -> None:
        seen.append(("drop", IP(packet).src, now, packet))
        dropped(packet, why, now)

    log.dropped = noting_dropped  # type: ignore[method-assign]


class Pair:
    """A client and a server, driven by hand, with one log; what `loses` says True to is dropped."""

    def __init__(self, loses: Callable[[bytes], bool] = lambda packet: False, **settings: Any):
        self.log = EventLog(seed=1)
        self.seen: list[Seen] = []
        config = Config(**settings)
        self.client = Stack(CLIENT, seed=1, observer=self.log, config=config)
        self.server = Stack(SERVER, seed=2, observer=self.log, config=config)
        self.loses = loses
        self.now = 0
        tap_drops(self.log, self.seen)
        tap(self.client, self.seen)
        tap(self.server, self.seen)

    def run(self) -> None:
        """Exchange packets, a millisecond each way, until there are none."""
        while self.pass_on(self.client, self.server) | self.pass_on(self.server, self.client):
            pass

    def pass_on(self, sender: Stack, receiver: Stack) -> bool:
        packets = sender.transmit(self.now)
        self.now += 1_000_000
        for packet in packets:
            if self.loses(packet):
                self.log.dropped(packet, Why.LOSS, self.now)
            else:
                receiver.receive(packet, self.now)
        return bool(packets)

    def wait(self, seconds: float) -> None:
        """Let time pass, with all timers and packets in it."""
        until = self.now + round(seconds * SECOND)
        self.run()
        while self.now < until:
            due = [at for at in (self.client.deadline(), self.server.deadline()) if at is not None]
            self.now = max(self.now, min([*due, until]))
            self.client.handle_timer(self.now)
            self.server.handle_timer(self.now)
            self.run()

    def connects(self, port: int = 49152) -> Any:
        conn = self.client.connect((SERVER, PORT), self.now, local_port=port)
        self.run()
        return conn


def opened(**settings: Any) -> tuple[Pair, Any, Any]:
    """A pair, and both ends of the connection between them."""
    pair = Pair(**settings)
    listener = pair.server.listen(PORT)
    conn = pair.connects()
    accepted = listener.accept()
    assert accepted is not None
    return pair, conn, accepted


def lossy(seed: int = 1, octets: int = 100_000) -> EventLog:
    return Simulation(LOSSY, seed=seed).transfer(octets).log


@pytest.fixture(scope="module")
def log() -> EventLog:
    """A log with all there is: both ends, losses, a full queue, retransmissions."""
    found = lossy(octets=300_000)
    assert set(found.segments["event"]) == {"send", "recv", "drop"}
    return found


def last(log: EventLog) -> Any:
    return log.segments.iloc[-1]


# --- what the log says of a segment is what scapy reads ---


def by_the_log(log: EventLog) -> list[tuple[Any, ...]]:
    """All segments, as far as they are on the wire; SACK edges made 32-bit numbers again."""
    table = log.segments
    initial = table["raw_ack"] - table["ack"]
    table["sack"] = [
        tuple((int((a + n) % 2**32), int((b + n) % 2**32)) for a, b in blocks)
        for blocks, n in zip(table["sack"], initial, strict=True)
    ]
    columns = ["host", "event", "flags", "raw_seq", "raw_ack", "len", "sack"]
    plain = [table[name].tolist() for name in columns]
    optional = [
        [None if value is pd.NA else value for value in table[name]]
        for name in ("tsval", "tsecr", "mss", "wscale")
    ]
    times = (table["time"] * SECOND).round().astype("int64").tolist()
    return sorted(zip(times, *plain, *optional, strict=True), key=repr)


def by_scapy(seen: list[Seen], start: int = 0) -> list[tuple[Any, ...]]:
    rows = []
    for event, host, now, packet in seen:
        tcp = IP(packet)[TCP]
        options = dict(tcp.options)
        edges = options.get("SAck", ())
        rows.append(
            (
                *(now - start, host, event, str(tcp.flags), tcp.seq, tcp.ack),
                *(len(tcp.payload), tuple(zip(edges[::2], edges[1::2], strict=True))),
                *options.get("Timestamp", (None, None)),
                *(options.get("MSS"), options.get("WScale")),
            )
        )
    return sorted(rows, key=repr)


def a_transfer_with_losses() -> tuple[EventLog, list[Seen]]:
    sim = Simulation(LOSSY, seed=5)
    seen: list[Seen] = []
    hosts = sim.hosts

    def tapped(**settings: Any) -> Any:
        client, server = hosts(**settings)
        tap(client.stack, seen)
        tap(server.stack, seen)
        tap_drops(client.log, seen)
        return client, server

    sim.hosts = tapped  # type: ignore[method-assign]
    transfer = sim.transfer(150_000)
    assert transfer.complete
    assert sum(event == "drop" for event, *_ in seen) > 3
    return transfer.log, seen


def both_close() -> tuple[EventLog, list[Seen]]:
    pair, conn, accepted = opened()
    conn.send(b"question", pair.now)
    pair.run()
    assert accepted.recv(100, pair.now) == b"question"
    accepted.send(b"answer", pair.now)
    accepted.close(pair.now)
    pair.run()
    assert conn.recv(100, pair.now) == b"answer"
    conn.close(pair.now)
    pair.run()
    return pair.log, pair.seen


def the_server_sends() -> tuple[EventLog, list[Seen]]:
    pair, conn, accepted = opened(mss=500)
    accepted.send(bytes(20_000), pair.now)
    pair.run()
    assert len(conn.recv(1 << 20, pair.now)) == 20_000
    pair.run()
    return pair.log, pair.seen


def nothing_extra() -> tuple[EventLog, list[Seen]]:
    pair, conn, _ = opened(timestamps=False, window_scale=False)
    conn.send(bytes(5000), pair.now)
    pair.run()
    return pair.log, pair.seen


def a_refused_connection() -> tuple[EventLog, list[Seen]]:
    pair = Pair()
    assert isinstance(pair.connects().error, ConnectionRefusedError)
    return pair.log, pair.seen


def an_aborted_connection() -> tuple[EventLog, list[Seen]]:
    pair, conn, accepted = opened()
    conn.send(bytes(3000), pair.now)
    conn.abort(pair.now)
    pair.run()
    assert accepted.error is not None
    return pair.log, pair.seen


def data_after_the_end() -> tuple[EventLog, list[Seen]]:
    pair, conn, accepted = opened()
    conn.abort(pair.now)
    pair.client.transmit(pair.now)  # the RST is lost, and nobody says so
    accepted.send(b"anybody?", pair.now)
    pair.run()
    return pair.log, pair.seen


def lost_syns() -> tuple[EventLog, list[Seen]]:
    lost = iter([True, False, True, False, True])  # a SYN, a SYN,ACK, the ACK
    pair = Pair(lambda packet: next(lost, False))
    pair.server.listen(PORT)
    conn = pair.connects()
    pair.wait(20)
    conn.send(b"x", pair.now)
    pair.wait(1)
    assert conn.tcb.snd.una == 2
    assert (pair.log.segments["event"] == "drop").sum() == 3
    return pair.log, pair.seen


def a_peer_that_never_answers() -> tuple[EventLog, list[Seen]]:
    pair = Pair(lambda packet: True)
    conn = pair.connects()
    pair.wait(300)
    assert isinstance(conn.error, TimeoutError)
    return pair.log, pair.seen


def a_port_used_again() -> tuple[EventLog, list[Seen]]:
    pair, conn, _ = opened()
    for _ in range(3):
        conn.abort(pair.now)
        pair.run()
        conn = pair.connects()
        conn.send(b"again", pair.now)
        pair.run()
    return pair.log, pair.seen


def numbers_beyond_the_end() -> tuple[EventLog, list[Seen]]:
    """The initial number is chosen, by waiting, so that numbers soon begin again at 0."""
    probe = Stack(CLIENT, seed=1).connect((SERVER, PORT), 0, local_port=49152)
    pair = Pair(timestamps=False)
    pair.now = (2**32 - 3000 - probe.tcb.snd.iss) * 4000  # RFC 9293 3.4.1: one every 4 us
    pair.server.listen(PORT)
    conn = pair.connects()
    assert 2**32 - conn.tcb.snd.iss == 3000
    for _ in range(5):
        conn.send(bytes(1000), pair.now)
        pair.run()
    assert pair.log.segments["raw_seq"].min() < 2000
    return pair.log, pair.seen


def an_answer_to_an_old_connection() -> tuple[EventLog, list[Seen]]:
    """RFC 9293 3.5.1: the client has forgotten all, the server has not. Its ACK is of the old
    connection, and so are its numbers; a new one begins after the RST.
    """
    pair, _, accepted = opened()
    pair.client = Stack(CLIENT, seed=3, observer=pair.log)
    tap(pair.client, pair.seen)
    conn = pair.connects()
    pair.wait(10)
    assert accepted.error is not None
    assert conn.tcb.snd.una == 1
    return pair.log, pair.seen


def a_lone_ack_in_syn_sent() -> tuple[EventLog, list[Seen]]:
    pair = Pair()
    pair.client.connect((SERVER, PORT), 0, local_port=49152)
    pair.client.transmit(0)
    flow = pack_flow((SERVER, PORT), (CLIENT, 49152))
    for seq in (123_456, 7_000_000):
        pair.client.receive(build(Segment(flow, ACK, seq, 99, 1000)), 0)
    pair.client.transmit(0)
    return pair.log, pair.seen


SCENARIOS = (
    a_transfer_with_losses,
    both_close,
    the_server_sends,
    nothing_extra,
    a_refused_connection,
    an_aborted_connection,
    data_after_the_end,
    lost_syns,
    a_peer_that_never_answers,
    a_port_used_again,
    numbers_beyond_the_end,
    an_answer_to_an_old_connection,
    a_lone_ack_in_syn_sent,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_log_says_of_every_segment_what_scapy_reads(scenario: Any) -> None:
    log, seen = scenario()
    start = min(now for _, _, now, _ in seen)
    assert len(log.segments) == len(seen)
    assert by_the_log(log) == by_scapy(seen, start)


@pytest.mark.parametrize("answered", [False, True])
def test_drops_are_right_when_only_one_end_is_in_the_log(answered: bool) -> None:
    """As in a lab, where the other end is the kernel's."""
    lost = iter([False, True, not answered, False, False, True])
    pair = Pair(lambda packet: next(lost, False))
    pair.server = Stack(SERVER, seed=2)
    pair.server.listen(PORT)
    conn = pair.connects()
    pair.wait(20 if answered else 0.5)
    if answered:
        conn.send(b"data", pair.now)
        pair.run()
    drops = pair.log.segments[pair.log.segments["event"] == "drop"]
    packets = [IP(packet)[TCP] for event, _, _, packet in pair.seen if event == "drop"]
    assert drops["raw_seq"].tolist() == [tcp.seq for tcp in packets]
    assert drops["raw_ack"].tolist() == [tcp.ack for tcp in packets]
    assert drops["host"].iloc[0] == SERVER
    assert drops["seq"].iloc[0] == 0
    assert (drops["conn"] == 1).all()


def test_the_acknowledgment_field_is_logged_even_without_the_flag() -> None:
    pair, _, _ = opened()
    flow = pack_flow((CLIENT, 49152), (SERVER, PORT))
    pair.server.receive(build(Segment(flow, 0, 1, 12345, 0)), pair.now)
    assert last(pair.log).raw_ack == 12345


def test_windows_are_scaled_by_what_the_syn_said() -> None:
    log, seen = a_transfer_with_losses()
    table = log.segments
    shift = table[table["flags"].isin(["S", "SA"])]["wscale"].dropna().unique()
    assert shift.tolist() == [7]  # 4 MiB of buffer at both ends
    packets = [(event, host, now, IP(packet)[TCP]) for event, host, now, packet in seen]
    expected = sorted(
        (host, event, now, tcp.seq, tcp.ack, tcp.window << (0 if tcp.flags.S else 7))
        for event, host, now, tcp in packets
    )
    times = (table["time"] * SECOND).round().astype("int64")
    columns = [table[name] for name in ("host", "event")]
    found = zip(*columns, times, table["raw_seq"], table["raw_ack"], table["window"], strict=True)
    assert sorted(found) == expected


def test_sack_blocks_are_positions_as_seq_and_ack_are() -> None:
    """The picture draws them on the same axis."""
    pair, conn, accepted = opened()
    accepted.send(bytes(5000), pair.now)
    pair.server.transmit(pair.now)
    iss = accepted.tcb.snd.iss
    blocks = tuple(((iss + at) % 2**32, (iss + at + 1000) % 2**32) for at in (3001, 1001))
    flow = pack_flow((CLIENT, 49152), (SERVER, PORT))
    seq, ack = (conn.tcb.snd.iss + 1) % 2**32, (iss + 1) % 2**32
    packet = build(Segment(flow, ACK, seq, ack, 1000, tsval=1 << 31, sack=blocks))
    pair.server.receive(packet, pair.now)
    assert last(pair.log)["sack"] == ((3001, 4001), (1001, 2001))
    pair.log.dropped(packet, Why.LOSS, pair.now)
    assert last(pair.log)["sack"] == ((3001, 4001), (1001, 2001))


def test_positions_are_the_same_at_both_ends_and_on_the_way(log: EventLog) -> None:
    """Every segment received or dropped was sent, with that position."""
    table = log.segments
    columns = ["flags", "seq", "ack", "raw_seq", "raw_ack", "len", "window", "tsval"]
    sent = set(table[table["event"] == "send"][columns].itertuples(index=False, name=None))
    other = table[table["event"] != "send"][columns].itertuples(index=False, name=None)
    assert set(other) <= sent


# --- drops ---


def test_a_dropped_segment_has_its_sender_and_the_sender_s_variables() -> None:
    pair, conn, _ = opened()
    conn.send(b"lost data", pair.now)
    pair.loses = lambda packet: True
    pair.pass_on(pair.client, pair.server)
    row = last(pair.log)
    assert (row.host, row.conn, row.event, row.why) == (CLIENT, 1, "drop", "loss")
    assert (row.seq, row.ack, row.len, row["flags"], row.state) == (1, 1, 9, "PA", "ESTABLISHED")
    assert (row.snd_una, row.snd_nxt, row.inflight) == (1, 10, 9)
    assert row.time == (pair.now / SECOND)


def test_a_dropped_answer_is_its_sender_s() -> None:
    pair, _, accepted = opened()
    accepted.send(b"lost", pair.now)
    pair.loses = lambda packet: True
    pair.pass_on(pair.server, pair.client)
    row = last(pair.log)
    assert (row.host, row.conn, row.seq, row.len) == (SERVER, 1, 1, 4)


@pytest.mark.parametrize("both_logged", [False, True])
def test_the_window_of_a_dropped_segment_is_scaled(both_logged: bool) -> None:
    pair = Pair()
    if not both_logged:
        pair.server = Stack(SERVER, seed=2)
        tap(pair.server, pair.seen)
    listener = pair.server.listen(PORT)
    conn, accepted = pair.connects(), listener.accept()
    assert accepted is not None
    conn.send(b"question", pair.now)
    accepted.send(b"answer", pair.now)
    sent = [*pair.client.transmit(pair.now), *pair.server.transmit(pair.now)]
    opening = [packet for event, *_, packet in pair.seen if event == "send"][:2]
    for packet in opening + sent:  # a SYN repeated late has its window as it stands there
        pair.log.dropped(packet, Why.LOSS, pair.now)
    scale = [0, 0, 7, 7]
    expected = [IP(packet).window << by for packet, by in zip(opening + sent, scale, strict=True)]
    assert pair.log.segments["window"].tail(4).tolist() == expected
    assert pair.log.segments["host"].tail(4).tolist() == [CLIENT, SERVER] * 2


def test_a_full_queue_is_the_reason_of_a_drop() -> None:
    path = Path(rate=1e6, delay=0.01, queue=3)
    table = Simulation(path).transfer(100_000).log.segments
    drops = table[table["event"] == "drop"]
    assert len(drops) > 3
    assert set(drops["why"]) == {"queue-full"}


def test_a_dropped_packet_that_is_no_segment_is_no_row() -> None:
    log = EventLog()
    for packet in (b"", b"E", bytes(100), b"\x45" * 60):
        log.dropped(packet, Why.LOSS, 0)
    assert log.segments.empty


def test_a_dropped_segment_of_nobody_has_the_numbers_of_the_wire() -> None:
    log = EventLog()
    flow = pack_flow(("192.0.2.1", 1), ("192.0.2.2", 2))
    log.dropped(build(Segment(flow, ACK, 4_000_000_000, 3_000_000_000, 77)), Why.LOSS, 5)
    row = last(log)
    assert (row.host, row.conn, row.seq, row.ack) == ("192.0.2.1", 0, 4_000_000_000, 3_000_000_000)
    assert (row.raw_seq, row.raw_ack, row.window) == (4_000_000_000, 3_000_000_000, 77)
    assert row.snd_una is pd.NA
    assert pd.isna(row.state)
    assert pd.isna(row.rto)


def test_a_drop_belongs_to_the_connection_of_its_sender() -> None:
    """The client has forgotten connection 1 and begun another on the same ports; what the server
    sends is still of the first one.
    """
    pair, conn, accepted = opened()
    conn.abort(pair.now)
    pair.client.transmit(pair.now)  # the RST is lost
    pair.client.connect((SERVER, PORT), pair.now, local_port=49152)
    accepted.send(b"still the old one", pair.now)
    pair.loses = lambda packet: True
    pair.pass_on(pair.server, pair.client)
    sent, dropped = pair.log.segments.iloc[-2], last(pair.log)
    assert (sent.event, dropped.event) == ("send", "drop")
    for name in ("host", "conn", "seq", "ack", "raw_seq", "raw_ack", "snd_nxt"):
        assert (name, dropped[name]) == (name, sent[name])


def test_a_log_has_room_for_many_hosts() -> None:
    """A scan, or a busy server behind a lossy path: more hosts than an octet counts."""
    log = EventLog()
    for number in range(700):
        flow = pack_flow((f"192.0.{number // 256}.{number % 256}", 1), (SERVER, PORT))
        log.dropped(build(Segment(flow, ACK, 1, 2, 3)), Why.LOSS, number)
    assert log.segments["host"].nunique() == 700
    assert last(log).host == "192.0.2.187"


# --- numbers of connections ---


def test_both_ends_share_a_number() -> None:
    pair, _, _ = opened()
    assert pair.log.connections["conn"].tolist() == [1, 1]
    assert set(pair.log.segments["conn"]) == {1}
    client, server = pair.log.connections.itertuples(index=False)
    assert (client.host, client.opened, server.host, server.opened) == (
        *(CLIENT, "active"),
        *(SERVER, "passive"),
    )
    assert (client.iss, client.irs) == (server.irs, server.iss)
    assert (client.local, client.local_port, client.remote, client.remote_port) == (
        *(CLIENT, 49152),
        *(SERVER, PORT),
    )
    assert (server.local_port, server.remote, server.remote_port) == (PORT, CLIENT, 49152)


def test_ports_used_again_get_a_new_number() -> None:
    log, _ = a_port_used_again()
    assert log.connections["conn"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert log.connections["host"].tolist() == [CLIENT, SERVER] * 4
    for _, ends in log.connections.groupby("conn"):
        assert ends["iss"].tolist() == ends["irs"].tolist()[::-1]


def test_connections_at_the_same_time_have_their_own_numbers() -> None:
    pair = Pair()
    pair.server.listen(PORT)
    ports = list(range(50_000, 50_010))
    for port in ports:
        pair.client.connect((SERVER, PORT), pair.now, local_port=port)
    pair.run()
    table = pair.log.connections
    ends = table.assign(port=table[["local_port", "remote_port"]].max(axis=1))
    assert ends.groupby("conn")["port"].unique().str[0].tolist() == ports
    assert (ends.groupby("conn").size() == 2).all()


def test_both_ends_share_a_number_when_both_open() -> None:
    """Simultaneous open (RFC 9293 figure 7)."""
    pair = Pair()
    pair.client.connect((SERVER, PORT), 0, local_port=49152)
    pair.server.connect((CLIENT, 49152), 0, local_port=PORT)
    out = [(pair.server, pair.client.transmit(0)), (pair.client, pair.server.transmit(0))]
    for receiver, packets in out:
        for packet in packets:
            receiver.receive(packet, 0)
    pair.wait(3)
    assert pair.log.connections["conn"].tolist() == [1, 1]
    assert set(pair.log.connections["state"]) == {"ESTABLISHED"}
    assert by_the_log(pair.log) == by_scapy(pair.seen)


def test_both_ends_share_a_number_after_an_old_syn() -> None:
    """A SYN of an ended connection comes late; then the client uses its port again."""
    pair, conn, _ = opened()
    syn = next(packet for event, _, _, packet in pair.seen if event == "send")
    conn.abort(pair.now)
    pair.run()
    pair.server.receive(syn, pair.now)
    pair.run()  # the client resets what the server answers
    conn = pair.connects()
    assert conn.state.label == "ESTABLISHED"
    ends = pair.log.connections.tail(2)
    assert ends["iss"].tolist() == ends["irs"].tolist()[::-1]
    assert ends["conn"].nunique() == 1


def test_a_reset_for_nobody_has_number_0() -> None:
    pair = Pair()
    flow = pack_flow((CLIENT, 1234), (SERVER, 99))
    pair.server.receive(build(Segment(flow, ACK, 4_000_000_000, 3_000_000_000, 10)), 7)
    pair.server.transmit(7)
    got, sent = pair.log.segments.itertuples(index=False)
    assert (got.conn, got.event, got.why, got.host) == (0, "recv", "no-connection", SERVER)
    assert (got.seq, got.ack, got.window) == (4_000_000_000, 3_000_000_000, 10)
    assert (sent.conn, sent.event, sent.why, sent.host) == (0, "send", "rst", SERVER)
    assert (sent.flags, sent.seq, sent.raw_seq) == ("R", 3_000_000_000, 3_000_000_000)
    assert np.isnan(sent.rto)
    assert pair.log.connections.empty


def test_what_is_no_segment_has_number_0_and_a_reason() -> None:
    pair = Pair()
    whole = build(Segment(pack_flow((CLIENT, 1), (SERVER, 2)), ACK, 1, 2, 3, b"data"))
    pair.server.receive(whole[:-1] + b"?", 0)
    pair.server.receive(whole[:-1], 0)
    pair.server.receive(b"\x60" + bytes(50), 0)
    pair.server.receive(b"\x70" + bytes(50), 0)
    table = pair.log.segments
    assert table["why"].tolist() == ["bad-checksum", "malformed", "malformed", "not-tcp"]
    assert set(table["conn"]) == {0}
    assert set(table["host"]) == {SERVER}


# --- the tables ---


def test_the_tables_have_their_columns_in_order(log: EventLog) -> None:
    for table, columns in TABLES.values():
        assert list(table(log).columns) == list(columns)


@every_table
def test_the_columns_have_their_types(log: EventLog, name: str) -> None:
    table, columns = TABLES[name]
    assert {column: str(kind) for column, kind in table(log).dtypes.items()} == columns


@every_table
def test_an_empty_table_has_the_same_columns_and_types(name: str) -> None:
    table, columns = TABLES[name]
    found = table(EventLog())
    assert {column: str(kind) for column, kind in found.dtypes.items()} == columns
    assert len(found) == 0


@every_table
def test_categories_are_of_one_type_whether_there_are_rows_or_not(log: EventLog, name: str) -> None:
    table, columns = TABLES[name]
    full, empty = table(log), table(EventLog())
    for column in (column for column, kind in columns.items() if kind == "category"):
        kinds = full[column].cat.categories.dtype, empty[column].cat.categories.dtype
        assert kinds[0] == kinds[1], column


def test_the_tables_carry_what_is_known_of_the_run(log: EventLog) -> None:
    for table, _ in TABLES.values():
        assert table(log).attrs == log.meta
    assert log.meta["seed"] == 1
    assert log.meta["config"]["congestion"] == "cubic"
    assert log.meta["up"]["rate"] == 10e6


def test_an_empty_log_has_all_that_a_log_has() -> None:
    log = EventLog()
    assert repr(log) == (
        "<EventLog: 0 connections; segments: 0 sent, 0 received, 0 dropped; 0 events>"
    )
    assert log.directions().empty
    assert bytes(log) == bytes(EventLog())
    with pytest.raises(ValueError, match="nothing to plot"):
        log.plot.sequence()


def test_times_begin_with_the_log_and_never_go_back(log: EventLog) -> None:
    assert log.segments["time"].iloc[0] == 0
    for name, (table, _) in TABLES.items():
        if name != "connections":
            assert table(log)["time"].is_monotonic_increasing
    pair = Pair()
    pair.now = 5_000 * SECOND
    pair.connects()
    assert pair.log.segments["time"].tolist()[:2] == [0, 0.001]
    assert pair.log.connections["began"].tolist() == [0]


def test_the_variables_are_those_of_the_moment() -> None:
    pair, conn, _ = opened()
    conn.send(bytes(100), pair.now)
    pair.client.transmit(pair.now)
    row, tcb = last(pair.log), conn.tcb
    assert (row.snd_una, row.snd_nxt, row.snd_wnd) == (tcb.snd.una, tcb.snd.nxt, tcb.snd.wnd)
    assert (row.rcv_nxt, row.rcv_wnd) == (tcb.rcv.nxt, tcb.rcv.wnd)
    assert (row.cwnd, row.inflight) == (conn.cc.cwnd, 100)
    assert row.srtt == conn.rtt.srtt / SECOND
    assert row.rttvar == conn.rtt.rttvar / SECOND
    assert row.rto == conn.rtt.rto / SECOND


def test_what_is_not_there_is_missing() -> None:
    table = nothing_extra()[0].segments
    assert table[["tsval", "tsecr", "wscale"]].isna().all(axis=None)
    assert table["mss"].notna().tolist() == table["flags"].isin(["S", "SA"]).tolist()
    assert table["ssthresh"].isna().all()  # no loss yet: it is infinite
    first = table.iloc[0]
    assert np.isnan(first.srtt)
    assert first.rto == 1.0
    assert first.sack == ()


def test_a_round_trip_of_no_time_is_one_too() -> None:
    """A path without delay: the RTT is 0, not missing."""
    samples = Simulation(Path()).transfer(10_000).log.rtt()
    assert samples["kept"].any()
    assert samples["rtt"].notna().all()
    assert samples["srtt"].notna().all()


def test_the_events_of_a_handshake() -> None:
    pair, _, _ = opened()
    table = pair.log.events
    states = table[table["event"] == "state"]
    assert [tuple(row) for row in states[["host", "old", "new", "why"]].to_numpy()] == [
        (CLIENT, "CLOSED", "SYN-SENT", "active-open"),
        (SERVER, "CLOSED", "LISTEN", "passive-open"),
        (SERVER, "LISTEN", "SYN-RECEIVED", "rcv-syn"),
        (CLIENT, "SYN-SENT", "ESTABLISHED", "rcv-syn-ack"),
        (SERVER, "SYN-RECEIVED", "ESTABLISHED", "rcv-ack-of-syn"),
    ]
    assert set(table["event"]) <= {event.label for event in Event}
    timer = table[table["event"] == "timer-set"].iloc[0]
    assert (timer.new, timer.value) == ("retransmission", 1.0)


def test_rtt_samples_are_events_too(log: EventLog) -> None:
    samples, events = log.rtt(), log.events
    rows = events[events["event"] == "rtt-sample"]
    assert len(rows) == len(samples) > 10
    assert rows["value"].tolist() == samples["rtt"].tolist()
    assert (rows["new"] == "kept").tolist() == samples["kept"].tolist()
    assert rows["why"].tolist() == samples["why"].tolist()
    assert samples["rtt"].to_numpy() == pytest.approx(samples["acked"] - samples["sent"])
    assert (samples["end"] > samples["start"]).all()


def test_events_of_one_moment_stay_in_the_order_in_which_they_were_recorded(log: EventLog) -> None:
    table = log.events
    table = table[table["event"] != "rtt-sample"]
    names = [field for field, _ in FIELDS["events"]]
    rows = LAYOUTS["events"].iter_unpack(log.rows["events"])
    recorded = [dict(zip(names, row, strict=True)) for row in rows]
    assert table["new"].tolist() == [log.names[row["new"]] for row in recorded]
    assert table["value"].tolist() == [row["value"] for row in recorded]


ENDS = {
    "FIN": both_close,
    "RST": a_refused_connection,
    "abort": an_aborted_connection,
    "timeout": a_peer_that_never_answers,
    "open": the_server_sends,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_connection_says_how_it_ended(end: str) -> None:
    log, _ = ENDS[end]()
    row = log.connections.iloc[0]
    assert row.end == end
    assert np.isnan(row.ended) == (end == "open")
    assert row.state == log.events.query("event == 'state' and host == @CLIENT")["new"].iloc[-1]


def test_a_connection_that_was_never_answered_has_no_irs() -> None:
    log, _ = a_peer_that_never_answers()
    assert log.connections["irs"].iloc[0] is pd.NA


# --- a log that grows ---


@every_table
def test_a_table_that_was_read_grows_with_the_log(name: str) -> None:
    table = TABLES[name][0]
    pair, conn, _ = opened()
    before = table(pair.log)
    size = len(before)
    conn.send(bytes(5000), pair.now)
    pair.run()
    pair.connects(port=50_000)
    assert len(table(pair.log)) > size
    assert len(before) == size


def test_a_table_is_made_once_and_again_after_a_change() -> None:
    pair, conn, _ = opened()
    assert pair.log.connections["state"].tolist() == ["ESTABLISHED"] * 2
    conn.close(pair.now)
    pair.run()
    assert pair.log.connections["state"].tolist() == ["FIN-WAIT-2", "CLOSE-WAIT"]
    assert "1 connection;" in repr(pair.log)


def test_changing_a_table_does_not_change_the_log(tmp_path: FilePath) -> None:
    log = lossy(octets=5000)
    fresh = log.segments.copy()
    table = log.segments
    table["mine"] = 1
    table.attrs["mine"] = 1
    same(log.segments, fresh)
    same(EventLog.load(log.save(tmp_path / "log.parquet")).segments, fresh)
    assert "mine" not in log.meta


# --- the same run, the same octets ---


def test_equal_runs_give_equal_octets() -> None:
    assert bytes(lossy(1)) == bytes(lossy(1))


def test_another_seed_gives_other_octets() -> None:
    assert bytes(lossy(1)) != bytes(lossy(2))
    rows = [bytes(lossy(seed).rows["segments"]) for seed in (1, 2)]
    assert rows[0] != rows[1]


def test_reading_the_tables_does_not_change_the_octets() -> None:
    log = lossy(octets=5000)
    before = bytes(log)
    for table, _ in TABLES.values():
        table(log)
    repr(log), log.directions(), log.plot.sequence()
    assert bytes(log) == before


def test_the_log_in_one_line(log: EventLog) -> None:
    numbers = log.segments["event"].value_counts()
    assert repr(log) == (
        f"<EventLog: 1 connection; segments: {numbers['send']} sent, {numbers['recv']} received, "
        f"{numbers['drop']} dropped; {len(log.events)} events>"
    )
    assert repr(lossy(octets=300_000)) == repr(log)


# --- speed ---


def repeated(log: EventLog, rows: int) -> EventLog:
    """`log` with its segments again and again, until there are so many rows."""
    chunk = bytes(log.rows["segments"])
    log.rows["segments"].extend(chunk * (rows * LAYOUTS["segments"].size // len(chunk)))
    return log


@pytest.mark.slow
def test_a_long_log_becomes_a_table_soon() -> None:
    """A tenth of a million rows in a tenth of the ten seconds that a million may take."""
    log = repeated(lossy(octets=50_000), 100_000)
    began = time.process_time()
    table = log.segments
    took = time.process_time() - began
    assert len(table) > 70_000
    assert took < 1.0


@pytest.mark.slow
def test_many_connections_cost_no_more_than_one() -> None:
    """The time to make a table goes with its rows, not with rows times connections."""
    took = []
    for ports in (1, 4000):
        pair = Pair()
        for port in range(1024, 1024 + ports):
            pair.client.connect((SERVER, PORT), 0, local_port=port)
        pair.client.transmit(0)
        log = repeated(pair.log, 60_000)
        began = time.process_time()
        assert log.segments["conn"].nunique() == ports
        took.append(time.process_time() - began)
    assert took[1] < 4 * took[0] + 0.2


# --- files ---


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert found.attrs == expected.attrs
    assert isinstance(found.index, pd.RangeIndex)


def with_sack(blocks: Callable[[int], tuple[tuple[int, int], ...]], count: int = 6) -> EventLog:
    """A log of segments with such SACK blocks, of no connection."""
    log = EventLog()
    flow = pack_flow((CLIENT, 1), (SERVER, 2))
    for number in range(count):
        log.dropped(build(Segment(flow, ACK, 1, 2, 3, sack=blocks(number))), Why.LOSS, number)
    return log


SAVED: dict[str, Callable[[], EventLog]] = {
    "a lossy transfer": lossy,
    "nothing": EventLog,
    "nothing, with metadata": lambda: EventLog(seed=1, note="näher: ✓", parts=[1, 2.5, None, True]),
    "one segment": lambda: with_sack(lambda number: (), 1),
    "a refused connection": lambda: a_refused_connection()[0],
    "a port used again": lambda: a_port_used_again()[0],
    "SACK blocks here and there": lambda: with_sack(lambda n: ((1, 5),) * (n % 4)),
    "one SACK block in each": lambda: with_sack(lambda n: ((n, n + 1),)),
    "four SACK blocks in each": lambda: with_sack(lambda n: ((n, 4_294_967_295),) * 4),
    "one segment with SACK": lambda: with_sack(lambda n: ((7, 8), (1, 2)), 1),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_log_is_loaded_as_it_was(tmp_path: FilePath, name: str) -> None:
    log = SAVED[name]()
    loaded = EventLog.load(log.save(tmp_path / "log.parquet"))
    for table, _ in TABLES.values():
        same(table(loaded), table(log))
    assert bytes(loaded) == bytes(log)
    assert loaded.meta == log.meta
    assert repr(loaded) == repr(log)
    same(loaded.directions(), log.directions())


def test_a_loaded_log_is_saved_as_it_was(tmp_path: FilePath, log: EventLog) -> None:
    first = EventLog.load(log.save(tmp_path / "1.parquet"))
    second = EventLog.load(first.save(tmp_path / "2.parquet"))
    for table, _ in TABLES.values():
        same(table(second), table(log))


def test_equal_logs_give_equal_files(tmp_path: FilePath) -> None:
    files = [lossy().save(tmp_path / name).read_bytes() for name in ("1", "2")]
    assert files[0] == files[1]


def test_sack_blocks_are_loaded_as_tuples_of_plain_integers(tmp_path: FilePath) -> None:
    log = with_sack(lambda number: ((5, 6), (number, 9)))
    found = EventLog.load(log.save(tmp_path / "log.parquet")).segments["sack"].iloc[3]
    assert repr(found) == "((5, 6), (3, 9))"


def test_saving_does_not_change_the_log(tmp_path: FilePath) -> None:
    log = lossy()
    tables = {name: table(log).copy() for name, (table, _) in TABLES.items()}
    before = bytes(log)
    log.save(tmp_path / "log.parquet")
    assert bytes(log) == before
    for name, (table, _) in TABLES.items():
        same(table(log), tables[name])


def test_a_path_may_be_text_and_is_given_back(tmp_path: FilePath, log: EventLog) -> None:
    path = tmp_path / "a log.parquet"
    assert log.save(str(path)) == path
    assert len(EventLog.load(str(path)).segments) == len(log.segments)


def test_pandas_reads_the_segments(tmp_path: FilePath, log: EventLog) -> None:
    path = log.save(tmp_path / "log.parquet")
    found = pd.read_parquet(path)
    assert list(found.columns) == list(SEGMENTS)
    pd.testing.assert_frame_equal(found.drop(columns="sack"), log.segments.drop(columns="sack"))
    assert pq.read_schema(path).names == list(SEGMENTS)


def test_pandas_reads_sack_blocks(tmp_path: FilePath) -> None:
    path = with_sack(lambda n: ((n, n + 1),) * (n % 3)).save(tmp_path / "log.parquet")
    found = [[block.tolist() for block in row] for row in pd.read_parquet(path)["sack"]]
    assert found == [[[n, n + 1]] * (n % 3) for n in range(6)]


def test_numbers_from_numpy_can_be_saved(tmp_path: FilePath) -> None:
    """`for queue in np.arange(10): Simulation(Path(queue=queue))` stands in many a notebook."""
    log = Simulation(Path(queue=np.int64(5), rate=1e6)).transfer(100).log
    assert bytes(log)
    assert EventLog.load(log.save(tmp_path / "log.parquet")).meta["up"]["queue"] == 5


def test_a_seed_may_be_from_numpy() -> None:
    """`for seed in np.arange(10): Simulation(seed=seed)`."""
    table = Simulation(LOSSY, seed=np.int64(3)).transfer(1000).log.segments
    pd.testing.assert_frame_equal(table, lossy(3, 1000).segments)


def test_different_logs_have_different_octets_when_loaded(tmp_path: FilePath) -> None:
    logs = [with_sack(lambda n: (), count).save(tmp_path / str(count)) for count in (1, 2)]
    first, second = map(EventLog.load, logs)
    assert bytes(first) != bytes(second)


def test_a_loaded_log_loses_nothing_when_something_is_added(tmp_path: FilePath) -> None:
    """It may refuse, or take it; it must not forget what was loaded."""
    loaded = EventLog.load(lossy().save(tmp_path / "log.parquet"))
    before = len(loaded.segments)
    flow = pack_flow((CLIENT, 1), (SERVER, 2))
    with suppress(NbtcpError, TypeError, ValueError):
        loaded.dropped(build(Segment(flow, ACK, 1, 2, 3)), Why.LOSS, 0)
    assert len(loaded.segments) >= before


# --- files that are none ---


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file."""
    return lossy(octets=30_000).save(tmp_path_factory.mktemp("log") / "x").read_bytes()


def refusal(path: FilePath, octets: bytes) -> str | None:
    """What `load` says of a file with these octets, None if it takes it."""
    path.write_bytes(octets)
    try:
        EventLog.load(path)
    except LogFileError as problem:
        message = str(problem)
        assert str(path) in message
        assert "\n" not in message
        assert isinstance(problem, ValueError)
        return message
    return None


def other_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2]}), sink)
    return bytes(sink.getvalue())


def parquet_with_our_key(head: bytes) -> bytes:
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({b"nbtcp": head})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


NO_LOGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an empty file": (lambda: b"", "0 bytes"),
    "a text": (lambda: b"Dear Sir or Madam,\n" * 20, "no log"),
    "a short text": (lambda: b"x", "no log"),
    "zeros": (lambda: bytes(1000), "no log"),
    "magic octets alone": (lambda: b"PAR1PAR1", "no log"),
    "magic octets around zeros": (lambda: b"PAR1" + bytes(100) + b"PAR1", "no log"),
    "a table of something else": (other_parquet, "not one that nbtcp saved"),
    "a table with an empty head": (lambda: parquet_with_our_key(b""), ""),
    "a table with a head that is no JSON": (lambda: parquet_with_our_key(b"{"), ""),
    "a table with a head of another kind": (lambda: parquet_with_our_key(b"[1]"), ""),
    "a table of the next version": (lambda: parquet_with_our_key(b'{"version": 99}'), "version 99"),
    "a table with half a head": (lambda: parquet_with_our_key(b'{"version": 1}'), ""),
}


@pytest.mark.parametrize("name", NO_LOGS)
def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path: FilePath, name: str) -> None:
    make, words = NO_LOGS[name]
    message = refusal(tmp_path / "file.parquet", make())
    assert message is not None
    assert words in message


def test_a_log_cut_anywhere_is_refused(tmp_path: FilePath, content: bytes) -> None:
    chance = random.Random(1)
    sizes = [1, 4, 8, 12, len(content) - 1, len(content) - 8]
    for size in sizes + [chance.randrange(len(content)) for _ in range(60)]:
        assert refusal(tmp_path / "cut.parquet", content[:size]), size


@pytest.mark.slow
def test_a_damaged_log_is_refused_or_read_but_never_anything_else(
    tmp_path: FilePath, content: bytes
) -> None:
    chance = random.Random(2)
    problems = set()
    for _ in range(150):
        damaged = bytearray(content)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            refusal(tmp_path / "damaged.parquet", bytes(damaged))
        except Exception as problem:  # all kinds are to be seen at once
            text = re.sub(r"\d+|0x\w+|'.*'", "*", str(problem))[:60]
            problems.add(f"{type(problem).__name__}: {text}")
    assert problems == set()


def test_a_directory_or_a_missing_file_is_an_os_error(tmp_path: FilePath) -> None:
    with pytest.raises(IsADirectoryError):
        EventLog.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        EventLog.load(tmp_path / "missing.parquet")


def test_what_cannot_be_written_is_an_os_error(tmp_path: FilePath) -> None:
    log = with_sack(lambda number: ())
    with pytest.raises(IsADirectoryError):
        log.save(tmp_path)
    with pytest.raises(FileNotFoundError):
        log.save(tmp_path / "missing" / "log.parquet")


def test_flags_in_the_log_are_written_as_in_the_wire_format() -> None:
    log = EventLog()
    flow = pack_flow((CLIENT, 1), (SERVER, 2))
    for flags in range(256):
        log.dropped(build(Segment(flow, flags, 1, 2, 3)), Why.LOSS, 0)
    assert log.segments["flags"].tolist() == [format_flags(flags) for flags in range(256)]


def test_every_reason_has_its_name_in_the_log() -> None:
    log = EventLog()
    flow = pack_flow((CLIENT, 1), (SERVER, 2))
    for why in Why:
        log.dropped(build(Segment(flow, ACK, 1, 2, 3)), why, 0)
    assert log.segments["why"].tolist() == [why.label for why in Why]
