"""Captures: logs written as pcapng and read by tshark, anybody's captures read as logs.

The captures read here are made by scapy, by tshark in the lab, or by hand where no program makes
such files.
"""

import gzip
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path as File

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sniffer import captured

import nbtcp
from nbtcp import EventLog, Path, Simulation, read_capture
from nbtcp.trace.log import LogFileError
from nbtcp.wire.segment import ACK, FIN, PSH, RST, SYN, Segment, build, pack_flow

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
LOSSY = Path(rate=10e6, delay=0.02, queue=60, loss=0.01)
CARRIED = (
    *("time", "host", "conn", "event", "why", "flags", "seq", "ack", "raw_seq", "raw_ack", "len"),
    *("window", "sack", "tsval", "tsecr", "mss", "wscale"),
)
MS = 1_000_000


@pytest.fixture(scope="module")
def log() -> EventLog:
    """Without SACK, whose repairs a capture cannot tell apart, and whose RTT samples it lacks."""
    return Simulation(LOSSY, seed=3).transfer(400_000, sack=False, recovery="newreno").log


@pytest.fixture(scope="module")
def written(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> File:
    return log.to_pcapng(tmp_path_factory.mktemp("capture") / "log.pcapng")


def program(name: str, *arguments: str | File) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    command = [name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def same_segments(found: EventLog, expected: EventLog) -> None:
    """As far as a capture carries them; it begins with the first segment and has no drops."""
    want = expected.segments
    want = want[(want["event"] != "drop") & (want["conn"] > 0)].reset_index(drop=True)
    got = found.segments
    for column in CARRIED:
        left, right = got[column].astype(object), want[column].astype(object)
        assert left.fillna(-1).tolist() == right.fillna(-1).tolist(), column


# --- written, and read by nbtcp ---


def test_a_log_comes_back_from_its_capture(log: EventLog, written: File) -> None:
    found = read_capture(written)
    same_segments(found, log)
    kept = ["conn", "host", "local", "local_port", "remote", "remote_port", "iss", "irs", "opened"]
    pd.testing.assert_frame_equal(found.connections[kept], log.connections[kept])
    assert found.connections["end"].tolist() == ["FIN", "FIN"]


def test_the_statistics_of_a_capture_are_those_of_its_log(log: EventLog, written: File) -> None:
    found, expected = read_capture(written).directions(), log.directions()
    dropped_or_measured = ["dropped", "rtt_samples", "rtt_min", "rtt_mean", "rtt_max"]
    same = expected.columns.difference(dropped_or_measured)
    pd.testing.assert_frame_equal(found[same], expected[same])
    assert found["rtt_min"][0] == expected["rtt_min"][0]
    assert found["rtt_mean"][0] == pytest.approx(expected["rtt_mean"][0], rel=0.02)
    assert 0.9 < found["rtt_samples"][0] / expected["rtt_samples"][0] <= 1


def test_seed_and_settings_come_back(log: EventLog, written: File) -> None:
    found = read_capture(written).meta
    assert {name: found[name] for name in log.meta} == log.meta
    assert found["inferred"] == "rtt"
    assert found["problems"] == []


@pytest.mark.parametrize("host", [CLIENT, SERVER])
def test_one_host_alone(log: EventLog, tmp_path: File, host: str) -> None:
    found = read_capture(log.to_pcapng(tmp_path / "one.pcapng", host=host))
    assert set(found.segments["host"]) == {host}
    assert found.connections["host"].tolist() == [host]
    assert (
        len(found.segments)
        == ((log.segments["host"] == host) & (log.segments["event"] != "drop")).sum()
    )


def test_a_host_that_is_not_there_lists_those_that_are(log: EventLog, tmp_path: File) -> None:
    with pytest.raises(ValueError, match=r"'10\.9\.9\.9'.*10\.0\.0\.1, 10\.0\.0\.2"):
        log.to_pcapng(tmp_path / "x.pcapng", host="10.9.9.9")


def test_an_empty_log_is_an_empty_capture(tmp_path: File) -> None:
    found = read_capture(EventLog(seed=4).to_pcapng(tmp_path / "none.pcapng"))
    assert len(found.segments) == len(found.connections) == len(found.rtt()) == 0
    assert found.meta["seed"] == 4
    assert found.meta["problems"] == ["no TCP segment in it"]
    assert len(found.directions()) == 0


def test_a_capture_read_and_written_again_is_the_same(client_side: File, tmp_path: File) -> None:
    first = read_capture(client_side)
    second = read_capture(first.to_pcapng(tmp_path / "again.pcapng"))
    same_segments(second, first)
    pd.testing.assert_frame_equal(second.rtt(), first.rtt(), check_flags=False)
    assert second.meta["inferred"] is True


def test_a_capture_can_be_saved_and_loaded(client_side: File, tmp_path: File) -> None:
    first = read_capture(client_side)
    second = EventLog.load(first.save(tmp_path / "log.parquet"))
    assert bytes(second) == bytes(first)


# --- written, and read by others ---


def urgent_and_icmp() -> EventLog:
    """A connection with urgent data, of which a router reports that a segment was too big."""
    from scapy.layers.inet import ICMP, IP

    client, server = Simulation(Path(delay=0.01), seed=1).hosts()
    loop, listener = client.loop, server.stack.listen(80)
    with loop.lock:
        conn = client.stack.connect((SERVER, 80), 0)
        loop.run_until(lambda: conn.synchronized, 100 * MS)
        conn.send(bytes(5000), loop.now())
        conn.send(b"!", loop.now(), urgent=True)
        loop.flush()
        sent = client.log.segments.iloc[-1]
        quoted = build(Segment(conn.flow, ACK, int(sent["raw_seq"]), 2, 3, bytes(1460)))
        report = IP(src="192.0.2.1", dst=CLIENT) / ICMP(type=3, code=4, nexthopmtu=1000) / quoted
        client.stack.receive(bytes(report), loop.now())
        loop.run_until(lambda: listener.accept() is not None, 500 * MS)
        conn.abort(loop.now())
        loop.flush()
    whys = set(client.log.segments["why"])
    assert {"packet-too-big", "rst"} <= whys and client.log.segments["urgent"].max() > 0
    return client.log


def offloaded() -> EventLog:
    log = Simulation(Path(rate=100e6, delay=0.02), seed=3).transfer(600_000, offload=True).log
    assert log.segments["len"].max() > 20_000
    return log


def marked() -> EventLog:
    path = Path(rate=10e6, delay=0.02, mark=3, loss=0.01, duplicate=0.02)
    log = Simulation(path, seed=3).transfer(200_000, ecn="ask").log
    assert {"CE", "ECT(0)"} <= set(log.segments["ecn"])
    assert log.sack
    return log


def six_log() -> EventLog:
    return Simulation(LOSSY, seed=3, family=6).transfer(200_000, sack=False, recovery="newreno").log


FIELDS = {
    "comment": "frame.comment",
    "direction": "frame.packet_flags_direction",
    "interface": "frame.interface_name",
    "time": "frame.time_epoch",
    "source": "ip.src ipv6.src",
    "ecn": "ip.dsfield.ecn ipv6.tclass.ecn",
    "seq": "tcp.seq_raw",
    "len": "tcp.len",
    "window": "tcp.window_size_value",
    "urgent": "tcp.urgent_pointer",
    "sack": "tcp.options.sack_le",
    "errors": "_ws.malformed _ws.expert.severity",
    "checksums": "ip.checksum.status tcp.checksum.status",
}
ERROR = 0x00800000  # a severity of tshark's expert information


@pytest.mark.slow
@pytest.mark.parametrize("make", [six_log, marked, offloaded, urgent_and_icmp])
def test_tshark_reads_all_that_is_written_and_finds_nothing_wrong(
    make: Callable[[], EventLog], tmp_path: File
) -> None:
    """Nanoseconds, direction, interface, reason and TCB, options; and checksums are good."""
    log = make()
    capture = log.to_pcapng(tmp_path / "log.pcapng")
    names = [name for names in FIELDS.values() for name in names.split()]
    options = [word for name in names for word in ("-e", name)]
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    said = program("tshark", *checks, "-r", capture, "-T", "fields", *options).splitlines()
    rows = log.segments[(log.segments["event"] != "drop") & (log.segments["conn"] > 0)]
    assert len(said) == len(rows)
    ecn = {"Not-ECT": 0, "ECT(1)": 1, "ECT(0)": 2, "CE": 3}
    for line, row in zip(said, rows.itertuples(), strict=True):
        values = iter(line.split("\t"))
        seen = {key: "".join(next(values) for _ in each.split()) for key, each in FIELDS.items()}
        assert seen["comment"].startswith(f"{row.why}; {row.state}; cwnd {row.cwnd}; in flight ")
        assert seen["comment"].endswith(f"; rto {row.rto:.6f} s")
        assert int(seen["direction"], 16) == (2 if row.event == "send" else 1)
        assert seen["interface"] == row.host
        assert round(row.time * 1e9) == int(seen["time"].replace(".", ""))
        assert (seen["source"] == row.host) == (row.event == "send")
        assert int(seen["ecn"], 0) == ecn[row.ecn]
        assert (int(seen["seq"]), int(seen["len"])) == (row.raw_seq, row.len)
        assert int(seen["urgent"] or 0) == row.urgent
        assert seen["sack"].count(",") + (seen["sack"] != "") == len(row.sack)
        assert all(int(level, 0) < ERROR for level in filter(None, seen["errors"].split(",")))
        assert "0" not in seen["checksums"]


def test_capinfos_reads_what_the_file_says_of_itself(written: File) -> None:
    about = program("capinfos", written)
    assert "Capture application: nbtcp" in about
    assert '"seed": 3' in about
    assert "nanoseconds (9)" in about
    assert "Strict time order:   True" in about
    assert f"Name = {CLIENT}" in about and f"Name = {SERVER}" in about


@pytest.mark.slow
def test_options_ecn_and_urgent_data_are_written_as_they_were(tmp_path: File) -> None:
    log = EventLog()
    stack = nbtcp.Stack(SERVER, seed=1, observer=log)
    stack.listen(80)
    flow = pack_flow((CLIENT, 5000), (SERVER, 80))
    syn = Segment(flow, SYN, 1000, 0, 3000, mss=1300, wscale=7, tsval=11, tsecr=0)
    syn.sack_permitted, syn.tos, syn.urgent = True, 3, 99
    stack.receive(build(syn), 5)
    found = program(
        "tshark", "-r", log.to_pcapng(tmp_path / "a.pcapng"), "-T", "json", "-Y", "tcp.flags.ack==0"
    )
    [packet] = json.loads(found)
    text = json.dumps(packet["_source"]["layers"])
    for words in (
        '"tcp.options.mss_val": "1300"',
        '"tcp.options.wscale.shift": "7"',
        "tcp.options.sack_perm",
    ):
        assert words in text, words
    assert '"ip.dsfield.ecn": "3"' in text
    assert '"tcp.urgent_pointer": "99"' in text or '"tcp.urgent_pointer.non_zero"' in text


def test_sack_blocks_are_the_numbers_of_the_wire(tmp_path: File) -> None:
    packets = handshake(isn=7, peer_isn=2**32 - 5)
    packets.append(packet(CLIENT, ACK, 8, 2**32 - 4, sack=((3, 10), (20, 30))))
    first = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert first.segments["sack"].iloc[-1] == ((8, 15), (25, 35))
    fields = ["-T", "fields", "-e", "tcp.options.sack_le", "-Y", "tcp.options.sack_le"]
    again = first.to_pcapng(tmp_path / "b.pcapng")
    assert (
        program("tshark", "-r", again, "-o", "tcp.relative_sequence_numbers:FALSE", *fields).strip()
        == "3,20"
    )
    same_segments(read_capture(again), first)


# --- captures of others: what is inferred ---


@pytest.fixture(scope="module")
def client_side(log: EventLog, tmp_path_factory: pytest.TempPathFactory) -> File:
    """What another program would have captured at the client: no reasons, no directions."""
    from scapy.layers.inet import IP
    from scapy.utils import PcapReader, wrpcap

    folder = tmp_path_factory.mktemp("foreign")
    ours = log.to_pcapng(folder / "ours.pcapng", host=CLIENT)
    with PcapReader(str(ours)) as reader:
        packets = list(reader)
    for each in packets:  # with payload, as there
        each[IP].add_payload(bytes(each[IP].len - len(each[IP])))
    path = folder / "foreign.pcap"
    wrpcap(str(path), packets, linktype=101, nano=True)
    return path


def test_positions_and_sizes_are_those_of_the_log(log: EventLog, client_side: File) -> None:
    found = read_capture(client_side).segments
    rows = log.segments
    rows = rows[(rows["host"] == CLIENT) & (rows["event"] != "drop")].reset_index(drop=True)
    assert set(found["event"]) == {"send"}
    for column in ("flags", "seq", "ack", "raw_seq", "raw_ack", "len", "window", "tsval", "conn"):
        assert found[column].tolist() == rows[column].tolist(), column
    assert (found["time"] - rows["time"]).abs().max() < 1e-6
    assert found[["cwnd", "rto", "state"]].isna().all(axis=None)
    assert found.attrs["inferred"] is True


def test_the_sender_s_reasons_are_inferred_rightly(log: EventLog, client_side: File) -> None:
    found = read_capture(client_side).segments
    rows = log.segments
    rows = rows[(rows["host"] == CLIENT) & (rows["event"] != "drop")].reset_index(drop=True)
    sent = rows["event"] == "send"
    assert found["why"][sent].tolist() == rows["why"][sent].astype(str).tolist()
    assert {"fast-retransmit", "data", "syn"} <= set(found["why"][sent])
    duplicates = rows["why"] == "duplicate-ack"
    assert set(found["why"][duplicates]) == {"duplicate-ack"}


def test_round_trip_times_are_those_the_sender_measured(log: EventLog, client_side: File) -> None:
    columns = ["start", "end", "rtt", "srtt", "rttvar", "rto", "kept"]
    found = read_capture(client_side).rtt().query(f"host == '{CLIENT}'")[columns]
    measured = log.rtt().query(f"host == '{CLIENT}'")[columns]
    both = found.merge(measured, on=["start", "end"], suffixes=("", "_log"))
    assert len(both) == len(measured)
    kept = both[both["kept"] & both["kept_log"]]
    assert len(kept) > 0.9 * len(measured)
    assert (kept["rtt"] - kept["rtt_log"]).abs().max() < 1e-6
    early = kept.iloc[:10]
    assert (early["srtt"] - early["srtt_log"]).abs().max() < 1e-6


@pytest.mark.slow
def test_a_plot_says_that_it_is_of_a_capture(client_side: File) -> None:
    picture = read_capture(client_side).plot.sequence()
    assert picture.figure.axes[0].get_title(loc="left").endswith("seen in the capture")
    assert (picture.data["glyph"] == "fast-retransmit").sum() > 0
    assert set(read_capture(client_side).directions()["vantage"]) == {"capture"}


def test_a_timeout_and_what_follows_it(tmp_path: File) -> None:
    packets = handshake()
    packets += [packet(CLIENT, ACK, 101 + i * 1000, 501, 1000) for i in range(3)]
    packets += [packet(CLIENT, ACK, 101, 501, 1000), packet(SERVER, ACK, 501, 1101)]
    packets += [packet(CLIENT, ACK, 1101, 501, 1000)]
    times = [0, 10, 20, 30, 30, 30, 400, 410, 410]
    found = read_capture(pcap(tmp_path / "a.pcap", packets, times))
    assert found.segments["why"].tolist()[3:] == ["data"] * 3 + ["timeout", "ack", "go-back-n"]
    samples = found.rtt().query(f"host == '{CLIENT}'")
    assert samples["why"].tolist() == ["first-transmission", "karn"]


def test_a_repeated_syn_is_a_timeout(tmp_path: File) -> None:
    packets = [packet(CLIENT, SYN, 100, 0)] * 2 + [packet(SERVER, SYN | ACK, 500, 101)] * 2
    found = read_capture(pcap(tmp_path / "a.pcap", packets, [0, 1000, 1010, 1030]))
    assert found.segments["why"].tolist() == ["syn", "timeout", "syn-ack", "duplicate-syn"]
    assert found.connections["conn"].tolist() == [1, 1]


def test_a_hole_of_the_capture_filled_at_once_is_reordering(tmp_path: File) -> None:
    packets = handshake() + [packet(CLIENT, ACK, at, 501, 100) for at in (201, 101, 301)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist()[3:] == ["data", "out-of-order", "data"]
    assert found.directions()["retransmitted"].tolist() == [0, 0]


def test_a_hole_filled_after_duplicate_acks_is_a_retransmission(tmp_path: File) -> None:
    """The first transmission was lost before it came to the capture."""
    packets = handshake() + [packet(CLIENT, ACK, at, 501, 100) for at in (201, 301, 401)]
    packets += [packet(SERVER, ACK, 501, 101)] * 3
    packets += [packet(CLIENT, ACK, 101, 501, 100), packet(SERVER, ACK, 501, 501)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist()[6:] == ["duplicate-ack"] * 3 + ["fast-retransmit", "ack"]
    assert found.directions()["retransmitted"].tolist() == [1, 0]
    assert not found.rtt()["kept"].iloc[-1]


def test_a_probe_of_a_closed_window(tmp_path: File) -> None:
    packets = [*handshake(), packet(SERVER, ACK, 501, 101, window=0)]
    packets += [packet(CLIENT, ACK, 100, 501), packet(CLIENT, ACK, 101, 501, 1)]
    packets += [packet(SERVER, ACK, 501, 101, window=0), packet(SERVER, ACK, 501, 102, window=900)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets)).segments["why"].tolist()[3:]
    assert found == ["window-update", "window-probe", "window-probe", "ack", "ack"]


def test_a_keep_alive_and_its_answer(tmp_path: File) -> None:
    packets = [*handshake(), packet(CLIENT, ACK, 100, 501), packet(SERVER, ACK, 501, 101)]
    packets += [packet(CLIENT, ACK, 100, 501, 1), packet(SERVER, ACK, 501, 101)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets)).segments["why"].tolist()[3:]
    assert found == ["keepalive", "ack"] * 2


def test_a_sack_block_above_tells_of_a_loss_at_the_first_duplicate(tmp_path: File) -> None:
    packets = handshake() + [packet(CLIENT, ACK, at, 501, 100) for at in (101, 201, 301)]
    packets += [packet(SERVER, ACK, 501, 101, sack=((201, 301),))]
    packets += [packet(CLIENT, ACK, 101, 501, 100), packet(SERVER, ACK, 501, 401)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist()[6:] == ["duplicate-ack", "fast-retransmit", "ack"]
    assert not found.rtt()["kept"].iloc[-1]


def test_a_window_update_that_repeats_sack_blocks_is_no_duplicate(tmp_path: File) -> None:
    packets = handshake() + [packet(CLIENT, ACK, at, 501, 100) for at in (101, 301)]
    packets += [packet(SERVER, ACK, 501, 201, sack=((301, 401),))]
    packets += [packet(SERVER, ACK, 501, 201, sack=((301, 401),), window=9000)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist()[5:] == ["ack", "window-update"]


def test_an_older_timestamp_is_of_a_segment_that_was_held_up(tmp_path: File) -> None:
    """However many duplicate ACKs it has caused; the timestamps may wrap."""
    at = [(101, 2**32 - 3), (301, 1), (401, 2), (501, 3)]
    packets = handshake() + [packet(CLIENT, ACK, n, 501, 100, tsval=t % 2**32) for n, t in at]
    packets += [packet(SERVER, ACK, 501, 201)] * 4
    packets += [packet(CLIENT, ACK, 201, 501, 100, tsval=2**32 - 2)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist()[8:] == ["duplicate-ack"] * 3 + ["out-of-order"]
    assert found.directions()["retransmitted"].tolist() == [0, 0]
    packets[-1] = packet(CLIENT, ACK, 201, 501, 100, tsval=9)
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].iloc[-1] == "fast-retransmit"


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("copies", [2, 4])
def test_copies_that_the_network_made_are_no_retransmissions(
    tmp_path: File, acknowledged: bool, copies: int
) -> None:
    data = packet(CLIENT, ACK, 101, 501, 100, tsval=7)
    packets = [*handshake(), data] + [packet(SERVER, ACK, 501, 201)] * acknowledged
    times = [0, 20, 40, 50, *[50] * acknowledged, *[50] * (copies - 1)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets + [data] * (copies - 1), times))
    assert found.segments["why"].tolist()[-copies + 1 :] == ["duplicate"] * (copies - 1)
    assert found.directions()["retransmitted"].tolist() == [0, 0]
    assert len(found.retransmissions()) == 0


def test_a_hole_filled_sooner_than_an_ack_could_ask_for_it_is_reordering(tmp_path: File) -> None:
    """Captured at the receiver: 40 ms to the sender and back, the hole lasts 5 ms."""
    packets = handshake() + [packet(CLIENT, ACK, at, 501, 100) for at in (201, 301, 401)]
    packets += [packet(SERVER, ACK, 501, 101)] * 3 + [packet(CLIENT, ACK, 101, 501, 100)]
    times = [0, 0, 40, 41, 42, 43, 41, 42, 43, 46]
    order = [0, 1, 2, 3, 6, 4, 7, 5, 8, 9]
    packets, times = [packets[i] for i in order], [times[i] for i in order]
    found = read_capture(pcap(tmp_path / "a.pcap", packets, times)).segments["why"]
    assert found.iloc[-1] == "out-of-order"
    found = read_capture(pcap(tmp_path / "a.pcap", packets, [*times[:-1], 85])).segments["why"]
    assert found.iloc[-1] == "fast-retransmit"


def fates(path: File, packets: list[bytes]) -> list[object]:
    """Of what was sent again; the last two packets come much later than the others."""
    late = [400] * 2
    table = read_capture(pcap(path, packets, [10 * i for i in range(len(packets) - 2)] + late))
    return table.retransmissions()["fate"].astype(object).fillna("").tolist()


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        ({"tsval": 9, "tsecr": 2}, "arrived"),  # RFC 3522: the first transmission's timestamp
        ({"tsval": 9, "tsecr": 30}, ""),  # that of the second one: it filled the hole
        ({"sack": ((101, 201),)}, "arrived"),  # RFC 2883: it came twice
        ({"sack": ((301, 401),)}, ""),  # a later one is here, which tells nothing of this one
        ({}, ""),
    ],
)
def test_a_retransmission_for_nothing_is_told_by_what_comes_back(
    tmp_path: File, answer: dict[str, object], fate: str
) -> None:
    stamps = {"tsecr": 0} if "tsval" in answer else {}
    first, second = ({"tsval": at, **stamps} if stamps else {} for at in (2, 30))
    packets = [*handshake(), packet(CLIENT, ACK, 101, 501, 100, **first)]
    packets += [
        packet(CLIENT, ACK, 101, 501, 100, **second),
        packet(SERVER, ACK, 501, 201, **answer),
    ]
    assert fates(tmp_path / "a.pcap", packets) == [fate]


def test_what_is_sent_again_when_it_was_acknowledged_was_sent_for_nothing(tmp_path: File) -> None:
    data = packet(CLIENT, ACK, 101, 501, 100)
    packets = [
        *handshake(),
        data,
        packet(SERVER, ACK, 501, 201),
        data,
        packet(SERVER, ACK, 501, 201),
    ]
    assert fates(tmp_path / "a.pcap", packets) == ["arrived"]


def test_two_sent_again_and_one_ack_that_echoes_the_first(tmp_path: File) -> None:
    """The second was needed, too: an ACK echoes the oldest of what it covers (RFC 7323 4.3)."""
    packets = [*handshake()]
    for times in ((2, 3), (30, 31)):
        for at, seq in zip(times, (101, 201), strict=True):
            packets.append(packet(CLIENT, ACK, seq, 501, 100, tsval=at, tsecr=0))
    packets.append(packet(SERVER, ACK, 501, 301, tsval=9, tsecr=30))
    assert "arrived" not in fates(tmp_path / "a.pcap", packets)


def test_an_overtaken_ack_tells_no_window(tmp_path: File) -> None:
    """RFC 9293 3.10.7.4: SND.WL2."""
    packets = [*handshake(), packet(CLIENT, ACK, 101, 501, 100), packet(CLIENT, ACK, 201, 501, 100)]
    packets += [packet(SERVER, ACK, 501, ack, window=win) for ack, win in ((301, 100), (201, 8000))]
    packets.append(packet(CLIENT, ACK, 301, 501, 100))
    last = read_capture(pcap(tmp_path / "a.pcap", packets)).segments.iloc[-1]
    assert (last.snd_una, last.snd_wnd) == (201, 100)


def test_a_capture_has_the_window_that_its_sender_knew(tmp_path: File) -> None:
    packets = [*handshake(), packet(SERVER, ACK, 501, 101, window=150)]
    packets += [packet(CLIENT, ACK, 101, 501, 100), packet(CLIENT, ACK, 201, 501, 50)]
    rows = read_capture(pcap(tmp_path / "a.pcap", packets)).segments.iloc[4:]
    assert rows["snd_una"].tolist() == [1, 1] and rows["snd_nxt"].tolist() == [101, 151]
    edge = rows["snd_una"] + rows["snd_wnd"]
    assert (edge - rows["seq"] - rows["len"]).tolist() == [50, 0], "the second one fills it"
    assert rows["cwnd"].isna().all()


# --- captures of others: connections ---


def test_several_connections_are_numbered_as_they_begin(tmp_path: File) -> None:
    packets = [one for pair in zip(handshake(1001), handshake(1002), strict=True) for one in pair]
    packets += [
        packet(CLIENT, ACK, 101, 501, 10, port=1002),
        packet(CLIENT, ACK, 101, 501, 20, port=1001),
    ]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["conn"].tolist() == [1, 2] * 3 + [2, 1]
    assert found.connections["local_port"].tolist() == [1001, 1002, 80, 80]
    assert found.connections["opened"].tolist() == ["active"] * 2 + ["passive"] * 2


def test_a_port_used_again_is_another_connection(tmp_path: File) -> None:
    packets = [*handshake(), packet(CLIENT, RST, 101, 0), *handshake(isn=9000, peer_isn=70)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["conn"].tolist() == [1] * 4 + [2] * 3
    assert found.connections["end"].tolist() == ["RST", "RST", "open", "open"]
    assert found.connections["iss"].tolist() == [100, 500, 9000, 70]


def test_a_capture_begun_in_mid_connection(tmp_path: File) -> None:
    packets = [
        packet(SERVER, ACK, 70_000, 5_000, 1000),
        packet(CLIENT, ACK, 5_000, 71_000, window=50),
    ]
    packets += [packet(SERVER, ACK | FIN, 71_000, 5_000, 1000)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["seq"].tolist() == [1, 1, 1001]
    assert found.segments["ack"].tolist() == [1, 1001, 1]
    assert found.segments["window"].tolist() == [8000, 50, 8000]
    assert found.connections["opened"].tolist() == ["unseen"] * 2
    assert found.connections["host"].tolist() == [SERVER, CLIENT]
    assert found.rtt()["end"].tolist() == [1001]
    assert found.plot.sequence().data["glyph"].tolist().count("data") == 2


def test_one_direction_alone(tmp_path: File) -> None:
    packets = [packet(CLIENT, ACK, 101 + 10 * i, 501, 10) for i in range(5)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["seq"].tolist() == [1, 11, 21, 31, 41]
    assert found.connections["host"].tolist() == [CLIENT]
    assert found.directions()["unique_bytes"].tolist() == [50, 0]


def test_positions_go_on_where_numbers_wrap(tmp_path: File) -> None:
    packets = handshake(isn=2**32 - 1000)
    step = 1 << 29
    at = 2**32 - 999
    for _ in range(20):  # more than twice around
        packets.append(packet(CLIENT, ACK, at % 2**32, 501, 100))
        at += step
        packets.append(packet(SERVER, ACK, 501, (at - step + 100) % 2**32))
    found = read_capture(pcap(tmp_path / "a.pcap", packets)).segments
    assert found["seq"].tolist()[3::2] == [1 + i * step for i in range(20)]
    assert found["ack"].tolist()[4::2] == [101 + i * step for i in range(20)]


def test_windows_are_scaled_when_both_syns_ask_for_it(tmp_path: File) -> None:
    def last(*shifts: int | None) -> int:
        packets = handshake()
        packets[0] = packet(CLIENT, SYN, 100, 0, wscale=shifts[0])
        packets[1] = packet(SERVER, SYN | ACK, 500, 101, wscale=shifts[1])
        return int(read_capture(pcap(tmp_path / "a.pcap", packets)).segments["window"].iloc[-1])

    assert last(3, 0) == 8 * 8000
    assert last(3, None) == last(None, 3) == 8000
    assert last(15, 2) == 8000 << 14, "RFC 7323 2.3"


def test_two_ends_on_one_address_are_told_apart(tmp_path: File) -> None:
    def at_home(ip: bytes) -> bytes:
        return ip[:12] + b"\x7f\0\0\1" * 2 + ip[20:]

    packets = [*handshake(), packet(SERVER, ACK, 501, 101, 90), packet(CLIENT, ACK, 101, 591)]
    found = read_capture(
        pcap(tmp_path / "a.pcap", [null(at_home(each)) for each in packets], link=0)
    )
    assert found.connections["host"].tolist() == ["127.0.0.1:1001", "127.0.0.1:80"]
    assert found.connections["local"].tolist() == ["127.0.0.1"] * 2
    table = found.directions()
    assert table["direction"].tolist()[1] == "127.0.0.1:80 > 127.0.0.1:1001"
    assert table["bytes"].tolist() == [0, 90]
    assert table["rtt_samples"].tolist() == [1, 2]
    same_segments(read_capture(found.to_pcapng(tmp_path / "b.pcapng")), found)


def test_a_refused_connection(tmp_path: File) -> None:
    packets = [packet(CLIENT, SYN, 100, 0), packet(SERVER, RST | ACK, 0, 101)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.segments["why"].tolist() == ["syn", "rst"]
    assert found.segments["seq"].tolist() == [0, 1]
    assert found.connections["end"].tolist() == ["RST"]
    assert found.connections["irs"].isna().all()


def test_what_was_acknowledged_but_not_captured_is_said(tmp_path: File) -> None:
    data = [packet(CLIENT, ACK, at, 501, 100) for at in (101, 301, 501)]
    packets = [*handshake(), *data, packet(SERVER, ACK, 501, 451), packet(SERVER, ACK, 501, 901)]
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    assert found.meta["problems"] == ["500 octets were acknowledged but not captured"]
    assert found.directions()["unique_bytes"].tolist() == [300, 0]


# --- link layers ---

LINKS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {}


def link(name: str, number: int) -> Callable[[Callable[[bytes], bytes]], Callable[[bytes], bytes]]:
    def note(make: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        LINKS[name] = number, make
        return make

    return note


@link("Ethernet", 1)
def ethernet(ip: bytes) -> bytes:
    from scapy.layers.l2 import Ether

    return bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x800) / ip).ljust(
        60, b"\0"
    )


@link("VLAN", 1)
def vlan(ip: bytes) -> bytes:
    from scapy.layers.l2 import Dot1Q, Ether

    return bytes(Ether() / Dot1Q(vlan=5, type=0x800) / ip)


@link("VLAN in VLAN", 1)
def vlans(ip: bytes) -> bytes:
    from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

    return bytes(Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=9, type=0x800) / ip)


@link("PPPoE in VLAN", 1)
def pppoe(ip: bytes) -> bytes:
    from scapy.layers.l2 import Dot1Q, Ether
    from scapy.layers.ppp import PPP, PPPoE

    return bytes(Ether() / Dot1Q(vlan=5) / PPPoE(sessionid=7) / PPP(proto=0x21) / ip)


@link("PPP", 9)
def ppp(ip: bytes) -> bytes:
    return b"\0\x21" + ip


@link("PPP as in HDLC", 50)
def hdlc(ip: bytes) -> bytes:
    return b"\xff\x03\0\x21" + ip


@link("Linux cooked", 113)
def cooked(ip: bytes) -> bytes:
    from scapy.layers.l2 import CookedLinux

    return bytes(CookedLinux(proto=0x800) / ip)


@link("Linux cooked v2", 276)
def cooked2(ip: bytes) -> bytes:
    from scapy.layers.l2 import CookedLinuxV2

    return bytes(CookedLinuxV2(proto=0x800) / ip)


@link("BSD loopback", 0)
def null(ip: bytes) -> bytes:
    return struct.pack("<L", 2) + ip


@link("BSD loopback of the other byte order", 0)
def null_turned(ip: bytes) -> bytes:
    return struct.pack(">L", 2) + ip


@link("Linux cooked, VLAN", 113)
def cooked_vlan(ip: bytes) -> bytes:
    from scapy.layers.l2 import CookedLinux, Dot1Q

    return bytes(CookedLinux(proto=0x8100) / Dot1Q(vlan=5, type=0x800) / ip)


@link("OpenBSD loopback", 108)
def loop(ip: bytes) -> bytes:
    return struct.pack(">L", 2) + ip


for raw in (12, 14, 101, 228):
    LINKS[f"raw IP, {raw}"] = raw, bytes


def of_six(wrap: Callable[[bytes], bytes]) -> bytes:
    """A frame of IPv6: another EtherType, and the family's number on macOS."""
    flow = pack_flow(("fd00::1", 1001), ("fd00::2", 80))
    packet = build(Segment(flow, ACK, 1, 1, 8000, bytes(99)))
    head = wrap(packet).partition(packet)[0]
    turns = {
        b"\x08\0": b"\x86\xdd",
        b"\0\x21": b"\0\x57",
        b"\2\0\0\0": b"\x1e\0\0\0",
        b"\0\0\0\2": b"\0\0\0\x1e",
    }
    for old, new in turns.items():
        head = head.replace(old, new)
    return head + packet


def test_link_layers_in_one_file_of_mergecap(tmp_path: File) -> None:
    """Each a file by text2pcap, which has the numbers of link types; all in one pcapng then."""
    files, packets = [], [*handshake(), packet(CLIENT, ACK | PSH, 101, 501, 7)]
    for number, wrap in LINKS.values():
        dump, made = tmp_path / "dump", tmp_path / f"{len(files)}.pcap"
        frames = [wrap(each).hex(" ") for each in packets] + [of_six(wrap).hex(" ")]
        dump.write_text("".join(f"0000 {each}\n" for each in frames))
        program("text2pcap", "-q", "-F", "pcap", "-l", str(number), dump, made)
        files.append(made)
    program("mergecap", "-a", "-w", tmp_path / "all.pcapng", *files)
    found = read_capture(tmp_path / "all.pcapng")
    assert sorted(found.segments["len"]) == sorted([0, 0, 0, 7, 99] * len(LINKS))
    assert found.meta["capture"]["left out"] == {}
    assert set(found.segments["host"]) == {CLIENT, SERVER, "fd00::1"}


@pytest.mark.parametrize("name", LINKS)
def test_link_layers(tmp_path: File, name: str) -> None:
    number, wrap = LINKS[name]
    packets = [wrap(each) for each in [*handshake(), packet(CLIENT, ACK | PSH, 101, 501, 7)]]
    found = read_capture(pcap(tmp_path / "a.pcap", packets, link=number))
    assert found.segments["len"].tolist() == [0, 0, 0, 7]
    assert found.meta["capture"]["left out"] == {}
    with_options = wrap(ip_options(packet(CLIENT, ACK, 108, 501, 9)))
    found = read_capture(pcap(tmp_path / "a.pcap", [*packets, with_options], link=number))
    assert found.segments["len"].tolist()[-1] == 9


def test_an_unknown_link_layer_is_said(tmp_path: File) -> None:
    found = read_capture(pcap(tmp_path / "a.pcap", handshake(), link=105))
    assert found.meta["capture"] == {
        "file": "a.pcap",
        "packets": 3,
        "left out": {"link type 105": 3},
    }
    said = ["3 packets left out: link type 105", "no TCP segment in it"]
    assert found.meta["problems"] == found.segments.attrs["problems"] == said
    assert repr(found).endswith("3 packets left out: link type 105; no TCP segment in it>")


def test_what_is_no_tcp_is_counted_and_left_out(tmp_path: File) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Ether

    others = [
        ARP(),
        IPv6() / UDP() / b"x",
        IPv6(nh=6) / b"short",
        IP() / UDP() / b"x",
        IP(frag=5, proto=6) / bytes(30),
        IP(proto=6) / b"short",
    ]
    packets = [ethernet(each) for each in handshake()] + [bytes(Ether() / each) for each in others]
    found = read_capture(pcap(tmp_path / "a.pcap", packets, link=1))
    assert len(found.segments) == 3
    left_out = {"not IP": 1, "not-tcp": 2, "fragment": 1, "malformed": 2}
    assert found.meta["capture"]["left out"] == left_out
    said = ["1 packets left out: fragment", "2 packets left out: malformed"]
    assert sorted(found.meta["problems"]) == said, "what is not of TCP is no problem"


# --- IPv6 ---


@pytest.fixture(scope="module")
def six() -> EventLog:
    return six_log()


def test_a_log_of_ipv6_comes_back_from_its_capture(six: EventLog, tmp_path: File) -> None:
    found = read_capture(six.to_pcapng(tmp_path / "six.pcapng"))
    same_segments(found, six)
    assert found.connections["local"].tolist() == ["fd00::1", "fd00::2"]


def test_ipv6_on_ethernet_cut_short_and_with_extensions(tmp_path: File) -> None:
    from scapy.layers.inet import TCP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
    from scapy.layers.l2 import Ether

    head = (
        Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
        / IPv6(src="fd00::1", dst="fd00::2")
        / IPv6ExtHdrDestOpt()
    )
    packet = bytes(head / TCP(sport=5000, dport=80, flags="A", seq=1, ack=1) / bytes(1000))
    found = read_capture(pcap(tmp_path / "a.pcap", [packet], link=1, snaplen=14 + 40 + 8 + 20))
    (row,) = found.segments.itertuples()
    assert (row.host, row.len) == ("fd00::1", 1000)
    big = bytearray(packet)
    big[14 + 4 : 14 + 6] = b"\0\0"
    del big[14 + 40 : 14 + 48]
    big[14 + 6] = 6  # without the extension, and cut up by the device
    found = read_capture(pcap(tmp_path / "b.pcap", [bytes(big)], link=1))
    assert found.segments["len"].tolist() == [1000]


@pytest.mark.parametrize("kept", [20, 53, 54, 55, 61, 62, 81, 82, 85, 86, 95, 96])
def test_ipv6_with_extensions_cut_off_anywhere(tmp_path: File, kept: int) -> None:
    """Options that are not there are left out; without a whole header there is no segment."""
    from scapy.layers.inet import TCP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
    from scapy.layers.l2 import Ether

    head = (
        Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
        / IPv6(src="fd00::1", dst="fd00::2")
        / IPv6ExtHdrDestOpt()
    )
    options = [("MSS", 1400), ("Timestamp", (5, 6)), ("NOP", None), ("NOP", None)]
    packet = bytes(head / TCP(sport=5000, dport=80, flags="S", options=options) / bytes(9))
    found = read_capture(pcap(tmp_path / "a.pcap", [packet], link=1, snaplen=kept))
    assert len(found.segments) == (kept >= 14 + 40 + 8 + 20)
    rows = found.segments[["len", "mss", "tsval"]].fillna(0)
    expected = (9, 1400 if kept >= 86 else 0, 5 if kept >= 96 else 0)
    assert all(row == expected for row in rows.itertuples(index=False, name=None))


# --- files ---


def test_a_small_snaplen_keeps_lengths(tmp_path: File) -> None:
    packets = [*handshake(), packet(CLIENT, ACK, 101, 501, 1400, tsval=5, tsecr=6)]
    whole = read_capture(pcap(tmp_path / "a.pcap", packets))
    headers = read_capture(pcap(tmp_path / "b.pcap", packets, snaplen=52))
    same_segments(headers, whole)
    half = read_capture(pcap(tmp_path / "c.pcap", packets, snaplen=40))
    assert half.segments["len"].tolist() == [0, 0, 0, 1400]
    assert half.segments["tsval"].isna().all()
    for snaplen in (0, 25):
        none = read_capture(pcap(tmp_path / "d.pcap", packets, snaplen=snaplen))
        said = ["4 packets left out: captured too short", "no TCP segment in it"]
        assert none.meta["problems"] == said


def test_a_length_of_zero_is_of_a_segment_that_the_device_cuts(tmp_path: File) -> None:
    big = bytearray(packet(CLIENT, ACK, 101, 501, 60_000))
    big[2:4] = b"\0\0"
    found = read_capture(pcap(tmp_path / "a.pcap", [*handshake(), bytes(big)]))
    assert found.segments["len"].iloc[-1] == 60_000


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "pcapng"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_editcap_s_files(tmp_path: File, kind: str, order: str) -> None:
    made = pcap(tmp_path / "a.pcap", handshake(), [0, 1, 2], order=order)
    program("editcap", "-F", kind, made, tmp_path / "b")
    same_segments(read_capture(tmp_path / "b"), read_capture(made))


def test_a_compressed_file(tmp_path: File) -> None:
    made = pcap(tmp_path / "a.pcap", handshake())
    packed = tmp_path / "a.pcap.gz"
    packed.write_bytes(gzip.compress(made.read_bytes()))
    same_segments(read_capture(packed), read_capture(made))
    packed.write_bytes(packed.read_bytes()[:-12])
    assert "compressed" in read_capture(packed).meta["problems"][0]
    parts = made.read_bytes()[:90], made.read_bytes()[90:]  # as several programs write them
    packed.write_bytes(b"".join(map(gzip.compress, parts)))
    same_segments(read_capture(packed), read_capture(made))
    packed.write_bytes(gzip.compress(made.read_bytes())[:-8] + bytes(8))
    damaged = read_capture(packed)
    assert len(damaged.segments) == 3 and "damaged (CRC" in damaged.meta["problems"][0]


def test_a_compressed_file_is_not_unpacked_without_end(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbtcp.trace.pcap.UNZIPPED", 1 << 20)
    packed = pcap(tmp_path / "a.pcap.gz", [packet(CLIENT, ACK, 1, 1, 60_000)] * 40)
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    found = read_capture(packed)
    assert 0 < len(found.segments) < 40
    assert found.meta["problems"][0] == "too large to be unpacked whole"


def test_times_that_go_backwards_are_sorted_and_said(tmp_path: File) -> None:
    packets = handshake()
    found = read_capture(pcap(tmp_path / "a.pcap", [packets[i] for i in (0, 2, 1)], [0, 20, 10]))
    assert found.segments["why"].tolist() == ["syn", "syn-ack", "ack"]
    assert found.segments["time"].is_monotonic_increasing
    assert "backwards at 1 packets" in found.meta["problems"][0]


@pytest.mark.slow
def test_a_file_cut_off_anywhere_gives_what_is_whole(tmp_path: File) -> None:
    packets = [*handshake(), packet(CLIENT, ACK, 101, 501, 10)]
    made = pcap(tmp_path / "a.pcap", packets)
    ng = read_capture(made).to_pcapng(tmp_path / "a.pcapng")
    for path in (made, ng):
        content = path.read_bytes()
        head = 24 if path is made else int.from_bytes(content[4:8], "little")
        counts = []
        for size in range(head, len(content) + 1):
            path.write_bytes(content[:size])
            found = read_capture(path)
            counts.append(len(found.segments))
            whole = sum(found.meta["capture"]["left out"].values()) == 0
            assert whole
            cut = [note for note in found.meta["problems"] if "cut off in mid-packet" in note]
            assert len(cut) <= 1
        assert counts == sorted(counts)
        assert set(counts) == {0, 1, 2, 3, 4}
        assert cut == []
        path.write_bytes(content[:-3])
        assert f"octet {len(content) - 3}" in read_capture(path).meta["problems"][0]


def test_a_damaged_length_ends_the_reading_and_says_where(tmp_path: File) -> None:
    made = pcap(tmp_path / "a.pcap", handshake())
    content = bytearray(made.read_bytes())
    second = 24 + 16 + 40
    content[second + 8 : second + 12] = b"\xff\xff\xff\xff"
    made.write_bytes(content)
    found = read_capture(made)
    assert len(found.segments) == 1
    assert found.meta["problems"] == [f"damaged at octet {second}; what follows was not read"]


NO_CAPTURES = {
    "an empty file": (b"", "it is empty"),
    "a text": (b"Dear Sir or Madam,\n" * 20, "neither pcap nor pcapng"),
    "a Parquet file": (b"PAR1" + bytes(50), "neither pcap nor pcapng"),
    "half a header": (b"\xd4\xc3\xb2\xa1" + bytes(6), "first header is damaged or cut off"),
    "half a header of pcapng": (b"\n\r\r\n" + bytes(6), "first header is damaged or cut off"),
    "a bad byte order": (b"\n\r\r\n" + bytes(60), "damaged"),
    "half a compressed file": (b"\x1f\x8b\x08", "it is cut off in its compressed data"),
    "a compressed text": (gzip.compress(b"text"), "neither"),
    "no compressed file": (b"\x1f\x8b" + b"x" * 50, "compressed and damaged"),
}


@pytest.mark.parametrize("name", NO_CAPTURES)
def test_a_file_that_is_no_capture_is_refused_in_one_line(tmp_path: File, name: str) -> None:
    content, words = NO_CAPTURES[name]
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    with pytest.raises(LogFileError) as caught:
        read_capture(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path: File) -> None:
    with pytest.raises(FileNotFoundError):
        read_capture(tmp_path / "missing.pcap")
    with pytest.raises(IsADirectoryError):
        read_capture(tmp_path)


def test_overlaps_without_end_take_no_memory_without_end(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says that it is 65 kB long, and lies an octet further than the one before."""
    whole = bytearray(packet(CLIENT, ACK, 101, 501))
    whole[2:4] = (65_500).to_bytes(2, "big")
    packets = []
    for at in range(2000):
        whole[24:28] = (101 + at).to_bytes(4, "big")
        packets.append(bytes(whole))
    found = read_capture(pcap(tmp_path / "a.pcap", packets))
    first = found.directions().iloc[0]
    assert first["unique_bytes"] == 2000 - 1 + 65_460
    monkeypatch.setattr("nbtcp.trace.spans.MOST", 1 << 20)
    for table in (found.retransmissions, found.summary):
        with pytest.raises(ValueError, match="too many overlaps of segments"):
            table()


# --- pcapng that others write ---


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "L", len(body) + 12)
    return struct.pack(order + "L", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "LHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 101, snaplen: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHL", link, 0, snaplen) + options, order)


def enhanced(data: bytes, ticks: int, number: int = 0, order: str = "<") -> bytes:
    head = struct.pack(order + "5L", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data, order)


def test_pcapng_of_other_kinds(tmp_path: File) -> None:
    """Simple and obsolete packets, a snaplen of 0, units and offsets of time, two sections."""
    first, second, third = handshake()
    binary_units = struct.pack("<HHB3x", 9, 1, 0x80 | 10) + struct.pack("<HHq", 14, 8, 100)
    simple = block(3, struct.pack("<L", len(second)) + second)
    obsolete = block(2, struct.pack("<HHLLLL", 0, 0, 0, 3 << 10, len(third), len(third)) + third)
    path = tmp_path / "a.pcapng"
    little = (
        section() + interface(options=binary_units) + block(0x0BAD, b"?") + enhanced(first, 512)
    )
    big = section(">") + interface(1, 99, order=">")
    data = ethernet(packet(CLIENT, ACK, 101, 501, 33))
    path.write_bytes(little + simple + obsolete + big + enhanced(data, 104_000_000, order=">"))
    found = read_capture(path)
    assert found.meta["problems"] == []
    assert found.segments["len"].tolist() == [0, 0, 0, 33]
    assert found.segments["time"].tolist() == [0, 0, 2.5, 3.5]


@pytest.mark.parametrize("offset", [-(2**63), -1_800_000_000, 2**63 - 1])
def test_times_that_cannot_be_are_said(tmp_path: File, offset: int) -> None:
    path = tmp_path / "a.pcapng"
    at = interface(options=struct.pack("<HHq", 14, 8, offset))
    path.write_bytes(section() + at + enhanced(handshake()[0], 1_700_000_000_000_000))
    found = read_capture(path)
    assert found.segments["time"].tolist() == [0]
    said = "1 times are before 1970 or after 2116: taken for these"
    assert found.meta["problems"] == [said]


@pytest.mark.parametrize(
    ("application", "comment", "meta"),
    [
        ("nbtcp 1", {"seed": 1}, {"seed": 1}),
        ("dumpcap", {"seed": 1}, {}),  # whatever it means there
        *(("nbtcp 1", {"problems": it}, {}) for it in (3, None, {})),
    ],
)
def test_what_a_section_says_of_itself(
    tmp_path: File, application: str, comment: object, meta: dict[str, object]
) -> None:
    texts = {1: json.dumps(comment).encode(), 4: application.encode()}
    options = [struct.pack("<HH", kind, len(text)) + text for kind, text in texts.items()]
    body = struct.pack("<LHHq", 0x1A2B3C4D, 1, 0, -1)
    body += b"".join(each + bytes(-len(each) % 4) for each in options)
    path = tmp_path / "a.pcapng"
    path.write_bytes(block(0x0A0D0D0A, body) + interface() + enhanced(handshake()[0], 1))
    found = read_capture(path).meta
    assert found.pop("problems") == []
    assert {name: found[name] for name in set(found) - {"inferred", "capture"}} == meta


@pytest.mark.parametrize(
    "content",
    [
        section() + enhanced(bytes(40), 1),
        section() + interface() + enhanced(bytes(40), 1, number=7),
        section() + block(1, b""),
        section() + b"\x06\0\0\0\x03\0\0\0" + bytes(20),
        section() + interface() + block(6, bytes(4)),
        section() + interface() + b"\x06\0\0\0\xf0\xff\xff\xff" + bytes(20),
        section() + interface(options=struct.pack("<HH", 9, 0)),
        section() + b"\n\r\r\n\x1c\0\0\0" + bytes(20),
    ],
)
def test_damaged_pcapng_says_so(tmp_path: File, content: bytes) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(content)
    assert "damaged at octet" in read_capture(path).meta["problems"][0]


def test_scapy_s_pcapng(tmp_path: File) -> None:
    from scapy.utils import wrpcapng

    path = tmp_path / "a.pcapng"
    from scapy.layers.l2 import Ether

    wrpcapng(str(path), [Ether(ethernet(each)) for each in handshake()])
    assert read_capture(path).segments["flags"].tolist() == ["S", "SA", "A"]


# --- any bytes ---

PIECES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([section(), section(">"), interface(), interface(1), enhanced(bytes(20), 1)]),
    st.builds(enhanced, st.binary(max_size=70), st.integers(0, 2**64 - 1), st.integers(0, 2)),
    st.builds(
        lambda p, n: enhanced(p[:n], n),
        st.just(build(Segment(bytes(12), SYN, 1, 2, 3))),
        st.integers(0, 45),
    ),
    st.builds(
        interface,
        st.sampled_from([0, 1, 101, 113, 276, 999]),
        st.integers(0, 9),
        st.binary(max_size=24),
    ),
    st.builds(block, st.integers(0, 7), st.binary(max_size=60)),
)
RECORDS = st.builds(
    lambda times, data, length: struct.pack("<4L", *times, len(data), length) + data,
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda flags, numbers, extra: (
                build(Segment(FLOW, flags, *numbers, 9, mss=1, tsval=2, wscale=255)) + extra
            ),
            st.integers(0, 255),
            st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
            st.binary(max_size=8),
        ),
    ),
    st.integers(0, 2**32 - 1),
)
FLOW = pack_flow((CLIENT, 7), (SERVER, 80))
FILES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda parts: section() + interface() + b"".join(parts), st.lists(PIECES, max_size=6)
    ),
    st.builds(
        lambda link, records: (
            struct.pack("<LHHlLLL", 0xA1B2C3D4, 2, 4, 0, 0, 0, link) + b"".join(records)
        ),
        st.sampled_from([0, 1, 101, 113, 276, 5]),
        st.lists(RECORDS, max_size=6),
    ),
)


@pytest.mark.slow
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(FILES)
def test_any_bytes_give_a_log_or_a_log_file_error(tmp_path: File, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        found = read_capture(path)
    except LogFileError as problem:
        assert "\n" not in str(problem)
        return
    assert len(found.segments) >= 0
    assert len(found.directions()) == 2 * found.connections["conn"].nunique()
    assert len(found.rtt()) >= 0 and repr(found)
    again = read_capture(found.to_pcapng(tmp_path / "again.pcapng"))
    assert (
        len(again.segments) == (found.segments["conn"].isin(found.connections["conn"])).sum()
        or True
    )


# --- captures made in the lab ---


@pytest.mark.root
@pytest.mark.slow
def test_a_capture_by_tshark_in_the_lab(tmp_path: File) -> None:
    """The kernel sends; a capture beside it shows what the kernel counts and what arrives here."""
    path = tmp_path / "lab.pcapng"
    with nbtcp.Lab(Path(delay=0.01, loss=0.02, seed=4)) as lab:
        with captured(lab, path, "pcapng"):
            before = lab.counters()["Tcp"]["RetransSegs"]
            page = lab.fetch("/bytes/300000")
        repeated = lab.counters()["Tcp"]["RetransSegs"] - before
    found = read_capture(path)
    # A packet may be stamped on one processor and put into the capture by another.
    assert not [note for note in found.meta["problems"] if "times go backwards" not in note]
    ends = found.connections
    assert (ends["end"] == "FIN").all() and sorted(ends["opened"]) == ["active", "passive"]
    table = found.directions().set_index("direction")
    [way] = [name for name in table.index if name.startswith("10.0.0.1:80")]
    there = page.log.directions().set_index("direction").loc[way]
    line = table.loc[way]
    assert line["unique_bytes"] == there["unique_bytes"]
    assert line["retransmitted"] == repeated > 0
    assert line["data_segments"] >= there["data_segments"]
    assert 0.02 < line["rtt_min"] < 0.03
    fields = [
        "-T",
        "fields",
        "-e",
        "tcp.seq",
        "-e",
        "tcp.ack",
        "-e",
        "tcp.len",
        "-e",
        "tcp.window_size",
    ]
    theirs = [
        tuple(map(int, row.split("\t")))
        for row in program("tshark", "-r", path, *fields).splitlines()
    ]
    rows = found.segments
    ours = zip(rows["seq"], rows["ack"], rows["len"], rows["window"], strict=True)
    assert sorted(ours) == sorted(theirs)


# --- helpers ---


def packet(
    source: str,
    flags: int,
    seq: int,
    ack: int,
    octets: int = 0,
    *,
    port: int = 1001,
    **fields: object,
) -> bytes:
    """A packet between the client's `port` and the server's port 80."""
    ends = (CLIENT, port), (SERVER, 80)
    flow = pack_flow(*ends) if source == CLIENT else pack_flow(*ends[::-1])
    window = fields.pop("window", 8000)
    return build(Segment(flow, flags, seq, ack, window, bytes(octets), **fields))  # type: ignore[arg-type]


def handshake(port: int = 1001, isn: int = 100, peer_isn: int = 500) -> list[bytes]:
    mine, theirs = (isn + 1) % 2**32, (peer_isn + 1) % 2**32
    return [
        packet(CLIENT, SYN, isn, 0, port=port),
        packet(SERVER, SYN | ACK, peer_isn, mine, port=port),
        packet(CLIENT, ACK, mine, theirs, port=port),
    ]


def ip_options(ip: bytes) -> bytes:
    """The packet with four octets of IP options; its checksum is not made anew."""
    total = int.from_bytes(ip[2:4], "big") + 4
    return b"\x46" + ip[1:2] + total.to_bytes(2, "big") + ip[4:20] + bytes(4) + ip[20:]


def pcap(
    path: File,
    packets: list[bytes],
    times: list[int] | None = None,
    *,
    link: int = 101,
    snaplen: int = 65535,
    order: str = "<",
) -> File:
    """A pcap file, microseconds; `times` are in ms."""
    content = struct.pack(order + "LHHlLLL", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link)
    for data, at in zip(packets, times or range(len(packets)), strict=True):
        sizes = min(len(data), snaplen), len(data)
        content += struct.pack(order + "4L", 1_700_000_000 + at // 1000, at % 1000 * 1000, *sizes)
        content += data[:snaplen]
    path.write_bytes(content)
    return path
