"""Two of our stacks over simulated networks: everything arrives, once, in order, and all ends.

Whole transfers by `Simulation`, checked against bounds; and two stacks on a wilder network, which
also reorders and duplicates, under schedules that hypothesis chooses.
"""

import hashlib
import heapq
import itertools
import os
import random
import subprocess
import sys
from math import sqrt
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbtcp import Config, Connection, EventLog, Path, Simulation, Stack
from nbtcp.runtime.loop import SECOND
from nbtcp.tcp import connection

HEADERS = 20 + 20 + 12  # IPv4, TCP, timestamps
MSS = 1500 - HEADERS


def octets(start: int, length: int) -> bytes:
    """A stream in which no stretch resembles another."""
    blocks = range(start // 32, (start + length) // 32 + 1)
    stream = b"".join(hashlib.sha256(b"%d" % block).digest() for block in blocks)
    return stream[start % 32 : start % 32 + length]


# --- transfers ---

GRID = list(
    itertools.product(
        (0.0, 0.01, 0.05, 0.2),  # loss
        (0.0, 0.01, 0.1),  # delay
        (None, 1e6, 10e6),  # rate
        (None, 20, 1),  # queue
    )
)


@pytest.mark.parametrize(("loss", "delay", "rate", "queue"), GRID)
def test_transfer_arrives_whole(
    loss: float, delay: float, rate: float | None, queue: int | None
) -> None:
    path = Path(loss=loss, delay=delay, rate=rate, queue=queue)
    transfer = Simulation(path, seed=1).transfer(50_000)
    assert transfer.complete
    assert transfer.octets == 50_000
    assert transfer.throughput <= (rate or float("inf"))
    assert transfer.duration >= 3 * delay  # SYN, SYN,ACK, data


@pytest.mark.parametrize("size", [0, 1, 536, MSS, MSS + 1, 10 * MSS, 65_535, 300_000])
def test_transfer_of_any_size_arrives_whole(size: int) -> None:
    transfer = Simulation(Path(delay=0.01)).transfer(size, limit=60)
    assert transfer.complete
    assert transfer.octets == size
    assert transfer.duration < 2


def test_transfer_that_cannot_finish_says_so() -> None:
    transfer = Simulation(Path(delay=0.01, rate=1e6)).transfer(10_000_000, limit=1)
    assert not transfer.complete
    assert 0 < transfer.octets < 125_000
    assert transfer.duration == 1
    assert repr(transfer).endswith("not complete>")


def test_transfer_over_a_dead_path_ends() -> None:
    transfer = Simulation(Path(loss=1)).transfer(1000)
    assert not transfer.complete
    assert 180 <= transfer.duration < 300  # RFC 9293 MUST-23


# --- bounds ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "delay"),
    [(1e6, 0.001), (1e6, 0.05), (10e6, 0.001), (10e6, 0.01), (10e6, 0.05), (50e6, 0.005)],
)
def test_throughput_is_near_the_rate_and_never_above(rate: float, delay: float) -> None:
    size = round(rate * (0.5 + 60 * delay) / 8)  # slow start takes its time
    config = Config(receive_buffer=1 << 22, send_buffer=1 << 22)
    transfer = Simulation(Path(rate=rate, delay=delay), config=config).transfer(size)
    limit = rate * MSS / 1500
    assert 0.8 * limit < transfer.throughput <= limit


@pytest.mark.slow
@pytest.mark.parametrize("window", [10_000, 65_535, 200_000])
def test_throughput_is_near_window_over_rtt_and_never_above(window: int) -> None:
    simulation = Simulation(Path(delay=0.05), config=Config(receive_buffer=window))
    transfer = simulation.transfer(50 * window)
    limit = window * 8 / 0.1
    assert 0.75 * limit < transfer.throughput <= limit


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.01, 0.02])
def test_throughput_under_loss_is_near_the_mathis_formula(loss: float) -> None:
    """Mathis et al. 1997: MSS / RTT * sqrt(3/2) / sqrt(p); the median of some runs."""
    down = Path(delay=0.01)
    paths = [Path(delay=0.01, loss=loss, seed=seed) for seed in range(5)]
    runs = [Simulation(up=up, down=down).transfer(3_000_000) for up in paths]
    expected = MSS * 8 / 0.02 * sqrt(1.5 / loss)
    assert 0.5 * expected < median(run.throughput for run in runs) < 1.5 * expected


@pytest.mark.slow
def test_lossless_transfer_sends_nothing_twice() -> None:
    transfer = Simulation(Path(rate=10e6, delay=0.02)).transfer(500_000)
    sent = transfer.log.segments.query("event == 'send' and len > 0")
    assert sent.len.sum() == 500_000
    assert set(sent.why) == {"data"}


# --- the same again ---


def test_same_seed_same_log_another_seed_another_log() -> None:
    def log(path_seed: int, seed: int) -> bytes:
        path = Path(delay=0.01, loss=0.02, rate=10e6, queue=20, seed=path_seed)
        return bytes(Simulation(path, seed=seed).transfer(100_000).log)

    logs = [log(1, 1), log(1, 1), log(2, 1), log(1, 2)]
    assert logs[0] == logs[1]
    assert len(set(logs)) == 3


@pytest.mark.slow
def test_same_log_in_another_process_with_other_hashes() -> None:
    program = (
        "import hashlib, nbtcp\n"
        "path = nbtcp.Path(delay=0.01, loss=0.02, rate=10e6, queue=20)\n"
        "log = nbtcp.Simulation(path, seed=5).transfer(100_000).log\n"
        "print(hashlib.sha256(bytes(log)).hexdigest())\n"
    )
    digests = set()
    for seed in ("0", "1", "4711"):
        path = os.pathsep.join(sys.path)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1


# --- contents, both directions, by the hosts of a simulation ---


class Application:
    """One end: writes a stream, reads the other's, shuts down when it has written all."""

    def __init__(self, conn: Connection, stream: bytes) -> None:
        self.conn = conn
        self.unsent = stream
        self.received = bytearray()

    def advance(self, now: int) -> bool:
        """Write and read what can be; True when both streams are over."""
        conn = self.conn
        if conn.queue.fin is None and conn.error is None:
            self.unsent = self.unsent[conn.send(self.unsent, now) :]
            if not self.unsent:
                conn.shutdown(now)
        self.received += conn.recv(1 << 30, now)
        return conn.eof and not conn.queue.spans and not conn.queue.data


@pytest.mark.parametrize("loss", [0.0, 0.03, 0.1])
@pytest.mark.parametrize(
    ("delay", "rate", "queue"), [(0.0, None, None), (0.01, 5e6, 10), (0.1, 1e6, 2)]
)
def test_both_directions_at_once_arrive_as_they_were_sent(
    loss: float, delay: float, rate: float | None, queue: int | None
) -> None:
    path = Path(loss=loss, delay=delay, rate=rate, queue=queue, seed=2)
    client, server = Simulation(path).hosts(receive_buffer=100_000)
    loop, listener = client.loop, server.stack.listen(80)
    up, down = octets(0, 200_000), octets(1 << 20, 150_000)
    applications = [Application(client.stack.connect(("10.0.0.2", 80), 0), up)]

    def done() -> bool:
        if (conn := listener.accept()) is not None:
            applications.append(Application(conn, down))
        over = [application.advance(loop.now()) for application in applications]
        return len(over) == 2 and all(over)

    with loop.lock:
        assert loop.run_until(done, 3600 * SECOND)
        loop.run_until(lambda: False, loop.now() + 400 * SECOND)  # TIME-WAIT, and then nothing
    assert bytes(applications[1].received) == up
    assert bytes(applications[0].received) == down
    assert all(application.conn.error is None for application in applications)
    assert not client.stack.connections
    assert not server.stack.connections
    assert loop.deadline() is None


# --- a wilder network ---


class Network:
    """Two stacks; packets are lost, delayed differently, so reordered, and duplicated."""

    def __init__(self, seed: int, loss: float, chaos: float, config: Config) -> None:
        self.now = 0
        self.log = EventLog()
        self.stacks = [
            Stack(f"10.0.0.{i + 1}", seed=seed + i, observer=self.log, config=config)
            for i in range(2)
        ]
        self._random = random.Random(seed)
        self._loss, self._chaos = loss, chaos
        self._moving: list[tuple[int, int, int, bytes]] = []  # arrival, number, to whom, packet
        self._sent = 0

    def flush(self) -> None:
        rng = self._random
        for i, stack in enumerate(self.stacks):
            for packet in stack.transmit(self.now):
                for _ in range(1 + (rng.random() < self._chaos / 5)):
                    self._sent += 1
                    if rng.random() >= self._loss:
                        late = 100_000_000 if rng.random() < self._chaos else 0
                        at = self.now + 10_000_000 + round(rng.random() * late)
                        heapq.heappush(self._moving, (at, self._sent, 1 - i, packet))
        assert self._sent < 50_000, "they talk for ever"

    def next(self) -> int | None:
        """When something happens next."""
        due = [at for stack in self.stacks if (at := stack.deadline()) is not None]
        return min([*due, *(packet[0] for packet in self._moving[:1])], default=None)

    def run(self, until: int) -> None:
        """Let time pass."""
        while self.step(until):
            pass

    def step(self, until: int) -> bool:
        """Let happen what is next, if that is before `until`."""
        self.flush()
        at = self.next()
        if at is None or at > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, at)
        while self._moving and self._moving[0][0] <= self.now:
            _, _, to, packet = heapq.heappop(self._moving)
            self.stacks[to].receive(packet, self.now)
            if self._random.random() < 0.7:
                self.flush()
        for stack in self.stacks:
            stack.handle_timer(self.now)
        self.flush()
        return True


class End:
    """One application on the network, which follows a schedule and at last finishes."""

    def __init__(self, conn: Connection, start: int) -> None:
        self.conn = conn
        self.start = start
        self.sent = 0
        self.received = bytearray()

    def does(self, what: str, size: int, now: int) -> None:
        match what:
            case "send" if self.conn.queue.fin is None:
                self.sent += self.conn.send(octets(self.start + self.sent, size), now)
            case "recv":
                self.received += self.conn.recv(size, now)
            case "shutdown":
                self.conn.shutdown(now)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "recv", "wait", "shutdown"]),
        st.integers(0, 1),
        st.sampled_from([1, 7, 100, 536, 1460, 5000, 30_000]),
    ),
    max_size=30,
)
CONFIGS = st.fixed_dictionaries(
    {
        "mss": st.sampled_from([100, 536, 1460]),
        "receive_buffer": st.sampled_from([300, 5000, 65_535, 1 << 18]),
        "send_buffer": st.sampled_from([1000, 50_000]),
        "nagle": st.booleans(),
        "timestamps": st.booleans(),
        "window_scale": st.booleans(),
        "delayed_ack": st.sampled_from([0.0, 0.04, 0.4]),
        "user_timeout": st.just(1e6),
    }
)


def run_schedule(
    steps: list[tuple[str, int, int]], config: dict[str, Any], seed: int, loss: float, chaos: float
) -> bytes:
    """Follow the schedule; then all is read, both shut down, and nothing may be left."""
    network = Network(seed, loss, chaos, Config(**config))
    listener = network.stacks[1].listen(80)
    ends = [End(network.stacks[0].connect(("10.0.0.2", 80), 0), 0)]
    while len(ends) < 2:
        assert network.step(1000 * SECOND), "the handshake never ended"
        ends += [End(conn, 1 << 20) for conn in [listener.accept()] if conn is not None]
    for what, who, size in steps:
        if what == "wait":
            network.run(network.now + size * 1_000_000)
        else:
            ends[who].does(what, size, network.now)
    for end in ends:
        end.does("shutdown", 0, network.now)
    limit = network.now + 20_000 * SECOND
    going = True
    while going:
        going = network.step(limit)
        for end in ends:
            end.does("recv", 1 << 20, network.now)
    for end, other in zip(ends, reversed(ends), strict=True):
        assert end.conn.error is None
        assert end.conn.eof
        assert bytes(end.received) == octets(other.start, other.sent)
    for stack in network.stacks:
        assert not stack.connections
        assert stack.deadline() is None
    return bytes(network.log)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(STEPS, CONFIGS, st.integers(0, 1000), st.sampled_from([0.0, 0.05, 0.2]), st.floats(0, 0.3))
def test_any_schedule_ends_with_equal_streams(
    steps: list[tuple[str, int, int]], config: dict[str, Any], seed: int, loss: float, chaos: float
) -> None:
    run_schedule(steps, config, seed, loss, chaos)


def test_schedule_gives_the_same_log_again() -> None:
    steps = [("send", 0, 30_000), ("wait", 0, 100), ("recv", 1, 5000), ("send", 1, 1460)]
    logs = {run_schedule(steps, {"mss": 536}, 7, 0.1, 0.2) for _ in range(2)}
    assert len(logs) == 1


# --- two ways to the same log, byte for byte ---

ROUGH = Path(delay=0.02, rate=10e6, queue=20, loss=0.01)


def test_both_codecs_give_the_same_rows() -> None:
    """Every field of every segment, event and sample; only the setting itself differs."""
    logs = [
        Simulation(ROUGH, seed=3).transfer(150_000, codec=codec).log
        for codec in ("struct", "scapy")
    ]
    assert len(logs[0].segments) > 250
    assert logs[0].rows == logs[1].rows


def test_header_prediction_gives_what_the_long_way_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """nbtcp/tcp/prediction.py says that it changes nothing but the time it takes."""
    taken = []
    predicted = connection.predicted

    def counted(*arguments: Any) -> bool:
        taken.append(predicted(*arguments))
        return taken[-1]

    monkeypatch.setattr(connection, "predicted", counted)
    short = Simulation(ROUGH, seed=3).transfer(1_000_000).log
    assert sum(taken) > 100, "it was used"
    monkeypatch.setattr(connection, "predicted", lambda *arguments: False)
    assert Simulation(ROUGH, seed=3).transfer(1_000_000).log.rows == short.rows


# --- several connections, and by hand ---


def test_flows_compete_for_one_path() -> None:
    sim = Simulation(Path(rate=4e6, delay=0.02, queue=20))
    late = {"congestion": "cubic", "start": 2.0, "octets": 200_000}
    first, second = sim.compete({}, late, seconds=8, congestion="reno")
    assert first.log is second.log
    assert first.complete and first.duration == pytest.approx(8)
    assert second.complete and second.octets == 200_000
    assert second.duration < 6
    assert 3e6 < first.throughput < 4e6
    opened = first.log.segments.query("why == 'syn' and event == 'send'")
    assert opened.conn.tolist() == [1, 2]
    assert opened.time.tolist() == [0, 2]


def test_flows_compete_no_longer_than_they_have_something_to_send() -> None:
    flows = [{"octets": 10_000}, {"octets": 20_000, "start": 0.5}]
    transfers = Simulation(Path(delay=0.01)).compete(*flows, seconds=1000)
    assert [transfer.octets for transfer in transfers] == [10_000, 20_000]
    assert transfers[0].log.segments.time.max() < 1


def test_a_pair_is_driven_by_hand() -> None:
    pair = Simulation(Path(delay=0.1)).pair(server={"receive_buffer": 4000}, nagle=False)
    pair.client.sendall(b"hello")
    pair.wait(0.05)
    pair.server.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.server.recv(100)
    pair.wait(0.06)
    assert pair.server.recv(100) == b"hello"
    windows = pair.log.segments.query("host == '10.0.0.2' and event == 'send'").window
    assert windows.max() <= 4000


def test_the_hosts_of_a_simulation_may_differ() -> None:
    log = Simulation(Path(delay=0.01)).transfer(1000, mss=900, server={"mss": 800}).log
    syns = log.segments.query("event == 'send'").dropna(subset="mss").set_index("host").mss
    assert syns.to_dict() == {"10.0.0.1": 900, "10.0.0.2": 800}
