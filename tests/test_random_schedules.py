"""Two stacks, a network that loses, reorders, repeats and marks, clocks that jump, and applications
that do what hypothesis thinks of: the streams are equal, both ends finish, no timer is left behind.

After each step the variables of both connections are counted again the slow way. `make test` runs a
fixed sample; `make soak` (NBTCP_SOAK=1) runs many more, new ones each time.
"""

import heapq
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from device import carried
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nbtcp import Config, Connection, Stack, State
from nbtcp.congestion import ALGORITHMS
from nbtcp.tcp.reassembly import Reassembly
from nbtcp.tcp.recovery import STRATEGIES
from nbtcp.wire.ip import mark_congestion

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
SOAK = bool(os.environ.get("NBTCP_SOAK"))
EXAMPLES = 4000 if SOAK else 300
LAP = random.Random(1).randbytes(99_991)  # a prime: no stretch of a stream is at its place twice


def octets(start: int, length: int) -> bytes:
    """A part of the stream that both ends send."""
    start %= len(LAP)
    return (LAP * (2 + length // len(LAP)))[start : start + length]


# --- what holds at every moment ---


@dataclass
class Watch:
    """What one connection's variables may do from one step to the next."""

    conn: Connection
    una: int = 0
    nxt: int = 0
    rcv_nxt: int = 0
    edge: int = 0
    promise: int = 0

    def look(self) -> None:
        conn = self.conn
        snd, rcv = conn.tcb.snd, conn.tcb.rcv
        now = (snd.una, snd.nxt, rcv.nxt, rcv.edge, rcv.promise)
        before = (self.una, self.nxt, self.rcv_nxt, self.edge, self.promise)
        assert all(old <= new for old, new in zip(before, now, strict=True)), (before, now)
        self.una, self.nxt, self.rcv_nxt, self.edge, self.promise = now
        assert snd.una <= snd.nxt
        if conn.state is not State.CLOSED:
            look_at_queue(conn)
            look_at_window(conn)


def look_at_queue(conn: Connection) -> None:
    """The counters of the send queue agree with its spans, and these lie without gaps."""
    queue, snd = conn.queue, conn.tcb.snd
    spans = list(queue.spans)
    at = snd.una
    for span in spans:
        assert span.start == at < span.end, "a gap between spans"
        assert not (span.lost and span.sacked), "lost and arrived"
        at = span.end
    if spans or conn.error is None:
        assert at == snd.nxt, "something is neither waiting nor in flight"
    assert queue.lost_octets == sum(span.end - span.start for span in spans if span.lost)
    assert queue.sacked_octets == sum(span.end - span.start for span in spans if span.sacked)
    flight = list(queue.flight)
    assert set(flight) == {span for span in spans if not (span.lost or span.sacked)}
    order = [(span.order, span.sent) for span in flight]
    assert order == sorted(order), "not in the order in which it was sent"
    assert [span.sent for span in flight] == sorted(span.sent for span in flight)
    assert (queue.next_lost() is not None) == any(span.lost for span in spans)
    if any(span.lost for span in spans):
        assert queue.next_lost() is next(span for span in spans if span.lost)


def look_at_window(conn: Connection) -> None:
    snd = conn.tcb.snd
    in_flight = conn.recovery.in_flight(snd, conn.queue)
    copies = 2 if conn.config.recovery == "sack" else 1  # by SetPipe, of NextSeg's rule 3
    assert 0 <= in_flight <= copies * (snd.nxt - snd.una)
    assert conn.cc.cwnd >= snd.mss, f"cwnd is {conn.cc.cwnd}, less than a segment"
    if conn.config.congestion != "fixed":
        assert conn.cc.ssthresh >= 2 * snd.mss
    rcv, reassembly = conn.tcb.rcv, conn.reassembly
    waiting = list(reassembly.ranges)
    assert all(a < b for pair in waiting for a, b in [pair])
    assert all(left[1] < right[0] for left, right in pairwise(waiting))
    assert not waiting or rcv.nxt < waiting[0][0]
    assert reassembly.size <= reassembly.capacity + (1 << rcv.shift)


# --- the network ---


@dataclass(frozen=True)
class Weather:
    """What the network does to a packet; chances from 0 to 1, delays in milliseconds."""

    loss: float
    late: float  # is held up, for up to `spread`
    twice: float
    marked: float
    delay: int = 10
    spread: int = 60


class Network:
    """Two stacks on one virtual clock, and the packets between them."""

    def __init__(self, configs: list[Config], weather: Weather, seed: int) -> None:
        self.now = 0
        self.stacks = [
            Stack(f"10.0.0.{i + 1}", seed=seed + i, config=config)
            for i, config in enumerate(configs)
        ]
        self.watches: list[Watch] = []
        self.weather = weather
        self._chance = random.Random(seed)
        self._moving: list[tuple[int, int, int, bytes]] = []  # arrival, number, to whom, packet
        self._sent = 0

    def flush(self) -> None:
        """Take what the stacks have to send."""
        weather, chance = self.weather, self._chance
        for i, stack in enumerate(self.stacks):
            packets = [
                part
                for packet in stack.transmit(self.now)
                for part in carried(packet, stack, self.stacks[1 - i])
            ]
            header = self.stacks[1 - i].header
            for packet in packets:
                for _ in range(1 + (chance.random() < weather.twice)):
                    self._sent += 1
                    if chance.random() < weather.loss:
                        continue
                    at = self.now + weather.delay * MILLISECOND
                    if chance.random() < weather.late:
                        at += round(chance.random() * weather.spread * MILLISECOND)
                    marked = chance.random() < weather.marked
                    arrives = packet
                    if marked:
                        arrives = packet[:header] + mark_congestion(packet[header:])
                    heapq.heappush(self._moving, (at, self._sent, 1 - i, arrives))
        assert self._sent < 60_000, "they talk for ever"
        self.look()

    def look(self) -> None:
        for watch in self.watches:
            watch.look()

    def due(self) -> int | None:
        """When something happens next."""
        times = [at for stack in self.stacks if (at := stack.deadline()) is not None]
        return min([*times, *(packet[0] for packet in self._moving[:1])], default=None)

    def step(self, until: int) -> bool:
        """Let happen what is next, if that is before `until`."""
        self.flush()
        at = self.due()
        if at is None or at > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, at)
        self.happen()
        return True

    def happen(self) -> None:
        """All that is due now, in either order, with or without an answer between."""
        while self._moving and self._moving[0][0] <= self.now:
            _, _, to, packet = heapq.heappop(self._moving)
            self.stacks[to].receive(packet, self.now)
            self.look()
            if self._chance.random() < 0.7:
                self.flush()
        for stack in self.stacks:
            stack.handle_timer(self.now)
            self.look()
        self.flush()
        for stack in self.stacks:
            due = stack.deadline()
            assert due is None or due > self.now, "a timer that was handled is still due"

    def jump(self, nanoseconds: int) -> None:
        """Nobody was there for a while: packets and timers are late, and all at once."""
        self.flush()
        self.now += nanoseconds
        self.happen()


# --- the applications ---


@dataclass
class End:
    """One application."""

    conn: Connection
    sent: int = 0
    received: bytearray = field(default_factory=bytearray)

    def does(self, what: str, size: int, now: int) -> None:
        match what:
            case "send" if self.conn.queue.fin is None:
                self.sent += self.conn.send(octets(self.sent, size), now)
            case "recv":
                self.received += self.conn.recv(size, now)
            case "shutdown":
                self.conn.shutdown(now)
            case "close":
                self.conn.close(now)
            case "abort":
                self.conn.abort(now)
            case "urgent" if self.conn.queue.fin is None:
                self.sent += self.conn.send(octets(self.sent, size), now, urgent=True)
            case "renege":  # throw away what waits beyond a hole, SACKed or not (RFC 2018 8)
                reassembly = self.conn.reassembly
                fresh = Reassembly(reassembly.capacity)
                reassembly.ranges, reassembly._pieces = fresh.ranges, fresh._pieces


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "send", "send", "recv", "wait", "wait", "jump", "renege", "shutdown"]
        ),
        st.integers(0, 1),
        st.sampled_from([1, 7, 100, 536, 1460, 5000, 30_000]),
    ),
    max_size=40,
)
CONFIGS = st.builds(
    Config,
    mss=st.sampled_from([100, 536, 1460]),
    receive_buffer=st.sampled_from([300, 5000, 65_535, 1 << 18]),
    send_buffer=st.sampled_from([1000, 50_000, 200_000]),
    initial_window=st.sampled_from([None, 1460, 20_000]),
    recovery=st.sampled_from(sorted(STRATEGIES)),
    congestion=st.sampled_from(sorted(ALGORITHMS)),
    sack=st.sampled_from([True, True, True, False]),
    timestamps=st.booleans(),
    window_scale=st.booleans(),
    ecn=st.sampled_from(["ask", "accept", "off"]),
    delayed_ack=st.sampled_from([0.0, 0.04, 0.4]),
    nagle=st.booleans(),
    autotune=st.booleans(),
    keepalive=st.sampled_from([None, None, 30.0]),
    keepalive_probes=st.just(1000),
    offload=st.booleans(),
    user_timeout=st.just(1e6),
    syn_timeout=st.just(1e6),
    # Longer than several timeouts in a row: who leaves before its last ACK has arrived answers the
    # next repetition with a RST, and the other end cannot know that all was read.
    time_wait=st.just(600.0),
)
WEATHER = st.builds(
    Weather,
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.25]),
    late=st.sampled_from([0.0, 0.05, 0.3]),
    twice=st.sampled_from([0.0, 0.02, 0.2]),
    marked=st.sampled_from([0.0, 0.0, 0.1]),
    delay=st.sampled_from([0, 10, 100]),
    spread=st.sampled_from([5, 60, 400]),
)


def take(network: Network, ends: list[End], step: tuple[str, int, int]) -> None:
    """One step of a schedule."""
    what, who, size = step
    if what == "wait":
        until = network.now + size * MILLISECOND
        while network.step(until):
            pass
    elif what == "jump":
        network.jump(size * 10 * MILLISECOND)
    elif who < len(ends):
        ends[who].does(what, size, network.now)
        network.look()


def run(
    steps: list[tuple[str, int, int]], configs: list[Config], weather: Weather, seed: int
) -> int:
    """Follow the schedule; then all is read, both ends close, and nothing may be left.

    Returns when (ns) the last octet had arrived.
    """
    network = Network(configs, weather, seed)
    listener = network.stacks[1].listen(80)
    ends = [End(network.stacks[0].connect(("10.0.0.2", 80), 0))]
    network.watches.append(Watch(ends[0].conn))
    while len(ends) < 2:
        assert network.step(100_000 * SECOND), "the handshake never ended"
        for conn in filter(None, [listener.accept()]):
            ends.append(End(conn))
            network.watches.append(Watch(conn))
    for step in steps:
        take(network, ends, step)
    return finish(network, ends)


def finish(network: Network, ends: list[End]) -> int:
    for end in ends:
        end.does("shutdown", 0, network.now)
    limit = network.now + 50_000 * SECOND
    going, arrived = True, 0
    while going:
        going = network.step(limit)
        if not all(end.conn.eof for end in ends):
            arrived = network.now
        for end in ends:
            end.does("recv", 1 << 20, network.now)
            if end.conn.eof and not end.conn.closed_by_application:
                end.does("close", 0, network.now)
    for end, other in zip(ends, reversed(ends), strict=True):
        assert end.conn.error is None
        assert end.conn.eof
        assert bytes(end.received) == octets(0, other.sent)
        assert end.conn.deadline() is None, "a timer was left behind"
    for stack in network.stacks:
        assert not stack.connections
        assert stack.deadline() is None, "a timer was left behind"
    return arrived


MANY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not SOAK,
    database=None,
    phases=[Phase.generate],  # to shrink such an example takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.timeout(1800 if SOAK else 120)
@MANY
@given(STEPS, st.lists(CONFIGS, min_size=2, max_size=2), WEATHER, st.integers(0, 1 << 20))
def test_any_schedule_ends_with_equal_streams(
    steps: list[tuple[str, int, int]], configs: list[Config], weather: Weather, seed: int
) -> None:
    run(steps, configs, weather, seed)


ROUGH_STEPS = st.lists(
    st.tuples(
        st.sampled_from("send urgent recv wait wait jump renege shutdown close abort".split()),
        st.integers(0, 1),
        st.sampled_from([1, 100, 1460, 30_000]),
    ),
    max_size=25,
)


@pytest.mark.slow
@pytest.mark.timeout(1800 if SOAK else 120)
@MANY
@given(
    ROUGH_STEPS,
    st.lists(CONFIGS, min_size=2, max_size=2),
    WEATHER,
    st.integers(0, 1 << 20),
    st.booleans(),
)
def test_any_end_at_any_time_leaves_nothing_behind(
    steps: list[tuple[str, int, int]],
    configs: list[Config],
    weather: Weather,
    seed: int,
    simultaneous: bool,
) -> None:
    """Aborts, early closes, simultaneous opens: what was read is right, and all is gone at last."""
    network = Network(configs, weather, seed)
    first, second = network.stacks
    listener = None if simultaneous else second.listen(80)
    ends = [End(first.connect(("10.0.0.2", 80), 0, local_port=80))]
    if simultaneous:
        ends.append(End(second.connect(("10.0.0.1", 80), 0, local_port=80)))
    network.watches += [Watch(end.conn) for end in ends]
    for step in steps:
        with suppress(OSError):  # what ended the connection, or that it cannot send now
            take(network, ends, step)
        if listener is not None and (conn := listener.accept()) is not None:
            ends.append(End(conn))
            network.watches.append(Watch(conn))
    if listener is not None:
        second.close_listener(listener, network.now)
    for end in ends:
        end.does("recv", 1 << 30, network.now)
        end.does("close", 0, network.now)
    while network.step(network.now + 10_000 * SECOND):
        pass
    for end, other in zip(ends, reversed(ends), strict=True):
        if len(ends) == 2:
            assert bytes(end.received) == octets(0, other.sent)[: len(end.received)]
        assert end.conn.state is State.CLOSED
        assert end.conn.deadline() is None, "a timer was left behind"
    for stack in network.stacks:
        assert not stack.connections
        assert stack.deadline() is None, "a timer was left behind"


BULK = [("send", 0, 30_000), ("send", 1, 30_000), ("wait", 0, 100)] * 6


@pytest.mark.slow
@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize("recovery", sorted(STRATEGIES))
@pytest.mark.parametrize("seed", range(40 if SOAK else 3))
def test_bulk_in_both_directions_ends_with_equal_streams(recovery: str, seed: int) -> None:
    """Full windows, where recovery has the most to do; each strategy in bad weather."""
    congestion = sorted(ALGORITHMS)[seed % len(ALGORITHMS)]
    config = Config(recovery=recovery, congestion=congestion, ecn="ask", send_buffer=200_000)
    weather = Weather(loss=0.05, late=0.1, twice=0.03, marked=0.02)
    took = run(BULK, [config, config], weather, seed)
    assert took < 20 * SECOND, "130 segments each way: one timeout for each would take longer"


def test_two_ends_that_probe_each_others_window_understand_each_other() -> None:
    """Found by a schedule: each has the other's octet, and says so behind, or before, its own (RFC
    9293 A.2).
    """
    small = Config(
        **{"mss": 100, "receive_buffer": 300, "send_buffer": 1000, "sack": False},
        **{"timestamps": False, "window_scale": False, "congestion": "fixed", "delayed_ack": 0.4},
        **{"user_timeout": 1e6, "time_wait": 600.0, "nagle": False, "autotune": False},
    )
    configs = [small.but(initial_window=1460), small.but(initial_window=20_000, recovery="reno")]
    steps = [("send", 0, 536), ("send", 1, 30_000), ("wait", 1, 30_000)]
    for seed in range(40_840, 40_850):
        arrived = run(steps, configs, Weather(0.1, 0.0, 0.0, 0.0, 0, 60), seed)
        assert arrived < 3600 * SECOND
