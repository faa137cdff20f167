"""Statistics against those of tcptrace (Ostermann, 2004), on captures of the kernel's TCP at both
ends of bad networks.
"""

import csv
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
from sniffer import captured
from test_capture import ACK, CLIENT, SERVER, handshake, packet, pcap
from test_metrics import A, B, Tape

import nbtcp
from nbtcp import Path
from nbtcp.links.namespace import Namespace
from nbtcp.links.path import Pipe
from nbtcp.trace.statistics import DEFINITIONS, summary

# Where tcptrace counts otherwise, and why we do not.
DIFFERENT = {
    "max_owin": "one octet more: both ends of the range are counted",
    "avg_owin": "over other moments than all segments",
    "wavg_owin": "over other intervals than all of the time",
    "RTT_full_sz": "SYN and FIN are taken for full-sized segments, and the data is not",
    "sdv": "0 for two samples",
    "stdev": "0 for two samples",
}

# A RST without an ACK, as the answer to an ACK that came twice when all was over, is counted with
# the stream and with the windows, of which it has none.
AFTER_RESET = ("avg_win_adv", "ttl_stream_length", "missed_data")

# --- kernel to kernel ---


class Relay:
    """Joins two private networks by a path: each kernel is 10.0.0.1 to itself, and the other one is
    10.0.0.2 to it. The addresses change places on the way, which no checksum notices.
    """

    def __init__(self, near: Namespace, far: Namespace, path: Path) -> None:
        self._ways = [
            (near.tun, far.tun, Pipe(path, "up")),
            (far.tun, near.tun, Pipe(path, "down")),
        ]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.0002):
            now = time.monotonic_ns()
            for source, sink, pipe in self._ways:
                for octets in source.receive(now):
                    if octets[0] == 0x45:
                        swapped = octets[:12] + octets[16:20] + octets[12:16] + octets[20:]
                        pipe.send(swapped, now)
                sink.send(pipe.receive(now), now)

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)


@contextmanager
def kernels(path: Path, mtu: int = 1500, congestion: str = "cubic") -> Iterator[Any]:
    """The near one of two kernels with a path between them."""
    options: dict[str, Any] = {"mtu": mtu, "congestion": congestion}
    near, far = Namespace(**options), Namespace(**options)
    relay = Relay(near, far, path)
    try:
        yield near
    finally:
        relay.close()
        near.close()
        far.close()


CASES: dict[str, tuple[Path, int, dict[str, Any], list[str]]] = {
    "clean": (Path(delay=0.005), 100_000, {}, []),
    "lossy": (Path(delay=0.01, loss=0.03, seed=2), 300_000, {}, []),
    "heavy": (Path(delay=0.005, loss=0.1, seed=7), 100_000, {}, []),
    "reordered": (Path(delay=0.01, reorder=0.05, seed=2), 300_000, {}, []),
    "duplicated": (Path(delay=0.01, duplicate=0.05, seed=3), 200_000, {}, []),
    "queue": (Path(rate=5e6, delay=0.02, queue=10), 300_000, {"congestion": "reno"}, []),
    "small": (Path(delay=0.01, loss=0.02, seed=5), 60_000, {"mtu": 576}, []),
    "large": (Path(delay=0.01, loss=0.02, seed=5), 300_000, {"mtu": 9000}, []),
    "no sack": (Path(delay=0.01, loss=0.03, seed=6), 200_000, {}, ["tcp_sack=0"]),
    "no timestamps": (Path(delay=0.01, loss=0.03, seed=8), 200_000, {}, ["tcp_timestamps=0"]),
    "no scaling": (Path(delay=0.01, loss=0.01, seed=9), 200_000, {}, ["tcp_window_scaling=0"]),
}


def fetch(near: Namespace, octets: int, settings: list[str]) -> None:
    for setting in settings:
        near.run(["sysctl", "-qw", f"net.ipv4.{setting}"], check=True)
    url = f"http://10.0.0.2/bytes/{octets}"
    near.run(["curl", "-sS", "-o", "/dev/null", url], timeout=60, check=True)
    while not is_over(near):
        time.sleep(0.005)


def is_over(network: Namespace) -> bool:
    """Whether no connection is left but those in TIME-WAIT (6), which the last ACK begins."""
    rows = File(f"/proc/{network.pid}/net/tcp").read_text().splitlines()[1:]
    return all(row.split()[3] in ("06", "0A") for row in rows)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tcptrace"), reason="needs tcptrace")
@pytest.mark.parametrize("case", CASES)
def test_every_statistic_is_that_of_tcptrace(case: str, tmp_path: File) -> None:
    path, octets, options, settings = CASES[case]
    raw, capture = tmp_path / "raw.pcap", tmp_path / "kernels.pcap"
    with kernels(path, **options) as near, captured(near, raw, "pcap"):
        fetch(near, octets, settings)
    # Between a packet's stamp and its place in the file its processor may have been busy elsewhere.
    subprocess.run(["reordercap", raw, capture], check=True, capture_output=True)
    log, theirs = nbtcp.read_capture(capture), tcptraces(capture)
    ours = log.summary()
    assert len(theirs) == 2  # the directions of one connection
    compared = 0
    for direction, expected in theirs.items():
        mine = ours[ours["direction"].str.startswith(direction)].set_index("name")
        for name, text in expected.items():
            if name in AFTER_RESET and expected["resets_sent"] != "0":
                continue
            if name == "max_owin" and int(text) >= 1 << 63:
                assert int(text) - (1 << 64) - 1 == overtaken(log, direction)
                continue
            compared += agree(name, float(mine.loc[name, "value"]), mine.loc[name, "unit"], text)
    assert compared > 90
    sizes = ours[ours["name"] == "unique_bytes_sent"]["value"]
    assert octets < sizes.max() < octets + 1000


def overtaken(log: nbtcp.EventLog, direction: str) -> int:
    """How far data lay below an ACK that was captured before it (at least: below 0). There the
    difference that tcptrace takes for outstanding, which has no sign, wraps.
    """
    acked, most = 0, -(1 << 63)
    rows = log.segments.merge(log.connections[["conn", "host", "local_port"]], on=["conn", "host"])
    for row in rows.itertuples():
        if direction.strip() != f"{row.host}:{row.local_port}":
            acked = max(acked, row.ack)
        elif row.len and row.seq + row.len < acked:
            most = max(most, row.seq + row.len - acked)
    return most


@pytest.mark.skipif(not shutil.which("tcptrace"), reason="needs tcptrace")
def test_where_an_ack_comes_before_its_data_tcptrace_wraps(tmp_path: File) -> None:
    packets = [*handshake(), packet(CLIENT, ACK, 101, 501, 100), packet(SERVER, ACK, 501, 501)]
    packets += [packet(CLIENT, ACK, seq, 501, 100) for seq in (201, 301, 401)]
    capture = pcap(tmp_path / "a.pcap", packets)
    theirs = tcptraces(capture)["10.0.0.1:1001 "]["max_owin"]
    log = nbtcp.read_capture(capture)
    assert int(theirs) - (1 << 64) - 1 == overtaken(log, "10.0.0.1:1001 ") == -100
    ours = log.summary().query("name == 'max_owin'")["value"].iloc[0]
    assert ours == 100


def agree(name: str, value: float, unit: str, text: str) -> bool:
    """Compare one statistic; False when it is one of the DIFFERENT or not known to tcptrace."""
    if name == "max_owin":
        assert value == max(0, int(text) - 1)
    if text == "NA" or any(part in name for part in DIFFERENT):
        return False
    if text in "YN":
        assert bool(value) == (text == "Y"), name
    elif unit == "s" and name == "data_xmit_time":
        assert value == pytest.approx(float(text), abs=0.00051), name
    elif unit == "s":  # printed in ms, to a tenth, rounded; means are of a little more than all
        most = 0.051 + 2e-4 * 1000 * value if "avg" in name else 0.051
        assert -0.051 < 1000 * value - float(text) < most, name
    elif name == "throughput":
        assert value == pytest.approx(float(text), abs=0.51), name
    elif name in ("avg_segm_size", "avg_win_adv"):  # cut off, a little below
        assert -0.01 <= value - float(text) <= 1.01, name
    else:
        assert value == float(text), name
    return True


def tcptraces(capture: File) -> dict[str, dict[str, str]]:
    """What tcptrace has for the first connection: "address:port " -> name -> value."""
    command = ["tcptrace", "--csv", "-l", "-r", "-n", "-W", str(capture)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in output.splitlines() if line and not line.startswith("#")]
    (row,) = csv.DictReader(lines, skipinitialspace=True)
    values = {name: value.strip() for name, value in row.items() if name and value}
    found: dict[str, dict[str, str]] = {}
    for suffix, host in (("_a2b", "a"), ("_b2a", "b")):
        one = {name.removesuffix(suffix): values[name] for name in values if name.endswith(suffix)}
        one["SYN_pkts_sent"], one["FIN_pkts_sent"] = one["SYN/FIN_pkts_sent"].split("/")
        one["req_1323_ws"], one["req_1323_ts"] = one["req_1323_ws/ts"].split("/")
        sender = f"{values[f'host_{host}']}:{values[f'port_{host}']} "
        found[sender] = {name: one[name] for name in DEFINITIONS if name in one}
    return found


# --- conversations that no kernel holds ---


def conversation(seed: int) -> list[Any]:
    """Packets of a sender that repeats, forgets and leaps ahead, and of one that acknowledges."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    chance, packets = random.Random(seed), []

    def add(sender: bool, flags: str, seq: int, ack: int, data: bytes = b"") -> None:
        ports = {"sport": 1234, "dport": 80} if sender else {"sport": 80, "dport": 1234}
        ends = {"src": A, "dst": B} if sender else {"src": B, "dst": A}
        segment = TCP(flags=flags, seq=seq, ack=ack, window=1000, **ports)
        packets.append(Ether() / IP(**ends) / segment / Raw(data))
        before = packets[-2].time if len(packets) > 1 else 1e9
        packets[-1].time = before + chance.choice([0.01, 0.1, 0.2])

    add(True, "S", 0, 0)
    add(False, "SA", 0, 1)
    add(True, "A", 1, 1)
    sent, acked = 0, 0  # segments of ten octets
    for _ in range(60):
        if chance.random() < 0.5:
            one = sent if chance.random() < 0.7 else chance.randrange(sent + 3)
            add(True, "PA", 1 + 10 * one, 1, bytes(10))
            sent = max(sent, one + 1)
        else:
            acked = max(acked, chance.choice([acked, min(sent, acked + 1), sent]))
            add(False, "A", 1, 1 + 10 * acked)
    return packets


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tcptrace"), reason="needs tcptrace")
@pytest.mark.parametrize("seed", range(4))
def test_strange_conversations_have_the_statistics_of_tcptrace(seed: int, tmp_path: File) -> None:
    """Repeated before and after the ACK, late, never seen: what a capture with holes looks like."""
    from scapy.utils import wrpcap

    capture = tmp_path / "strange.pcap"
    wrpcap(str(capture), conversation(seed))
    ours = nbtcp.read_capture(capture).summary()
    expected = next(values for end, values in tcptraces(capture).items() if end.startswith(A))
    mine = ours[ours["direction"].str.startswith(A)].set_index("name")
    for name, text in expected.items():
        agree(name, float(mine.loc[name, "value"]), mine.loc[name, "unit"], text)
    assert mine.loc["rexmt_data_pkts", "value"] > 0


# --- without tcptrace ---


def test_each_has_a_value_a_unit_and_a_definition() -> None:
    log = nbtcp.Simulation(Path(delay=0.01, loss=0.02), seed=1).transfer(100_000).log
    table = log.summary()
    assert list(table.columns) == ["conn", "direction", "name", "value", "unit", "definition"]
    assert len(table) == 2 * len(DEFINITIONS)
    assert table["definition"].str.len().gt(5).all()
    assert table["value"].notna().all()


def test_they_are_those_of_the_directions() -> None:
    log = nbtcp.Simulation(Path(delay=0.01, loss=0.02), seed=1).transfer(300_000).log
    table, directions = log.summary(), log.directions().set_index("direction")
    names = {
        **{"total_packets": "segments", "actual_data_pkts": "data_segments"},
        **{"actual_data_bytes": "bytes", "unique_bytes_sent": "unique_bytes"},
        **{"rexmt_data_bytes": "retransmitted_bytes", "data_xmit_time": "duration"},
    }
    for theirs, ours in names.items():
        mine = table[table["name"] == theirs].set_index("direction")["value"]
        assert np.allclose(mine, directions[ours].loc[mine.index].fillna(0).astype(float)), theirs


def test_a_duplicate_of_the_receiver_is_reported() -> None:
    tape = Tape(A)
    tape.row(0.0, A, "send", "data", seq=1, length=1000)
    for blocks in (((1, 1001),), ((2001, 2501), (2001, 3001)), ((2001, 3001),)):
        tape.row(0.1, A, "recv", "ack-new", ack=1001, sack=blocks)
    found = summary(tape.segments, tape.connections)
    mine = found[found["direction"].str.startswith(B)].set_index("name")["value"]
    assert mine["dsack_pkts_sent"] == 2
    assert mine["sack_pkts_sent"] == 3
    assert mine["max_sack_blks/ack"] == 2
