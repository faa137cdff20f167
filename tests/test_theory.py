"""What the theory of congestion control says, against what the simulated hosts do.

Each test takes a formula or a claim from a paper or an RFC, works it out independently of the
package, and compares it with the log. NBTCP_SOAK=1 (`make soak`) runs a longer grid.
"""

import os
from collections.abc import Callable
from math import cbrt, log10, sqrt

import pandas as pd
import pytest

from nbtcp import Config, Connection, EventLog, Path
from nbtcp.congestion import ALGORITHMS
from nbtcp.congestion.cubic import Cubic
from nbtcp.congestion.reno import Reno
from nbtcp.links.path import DropObserver, Pipe
from nbtcp.links.sim import WireEnd
from nbtcp.runtime.host import Host
from nbtcp.runtime.loop import SECOND, Loop, VirtualClock
from nbtcp.why import Why

MSS = 1448
RECOVERY = "rack"
SOAK = bool(os.environ.get("NBTCP_SOAK"))
CHUNK = bytes(1 << 20)
BUFFERS = {"send_buffer": 1 << 23, "receive_buffer": 1 << 23, "autotune": False}

soak = pytest.mark.skipif(not SOAK, reason="a long one: NBTCP_SOAK=1 runs it")
pytestmark = pytest.mark.slow


class Deal(Pipe):
    """A pipe that drops the full-sized packets which `loses` (called with their number) picks."""

    __slots__ = ("_count", "_loses")

    def __init__(self, path: Path, loses: Callable[[int], bool], on_drop: DropObserver) -> None:
        super().__init__(path, "up", on_drop)
        self._count = 0
        self._loses = loses

    def send(self, packet: bytes, now: int) -> None:
        if len(packet) > MSS:
            self._count += 1
            if self._loses(self._count):
                self._drop(packet, Why.LOSS, now)
                return
        super().send(packet, now)


class World:
    """A client that sends to a server as much as it can, over one path, on any number of
    connections.
    """

    def __init__(
        self,
        path: Path,
        *,
        back: Path | None = None,
        loses: Callable[[int], bool] = lambda number: False,
        seed: int = 0,
        **settings: object,
    ) -> None:
        self.log = EventLog()
        self.loop = Loop(VirtualClock())
        config = Config(recovery=RECOVERY, **BUFFERS).but(**settings)
        self.client = Host("10.0.0.1", self.loop, config=config, seed=seed, log=self.log)
        server = Host("10.0.0.2", self.loop, config=config, seed=seed + 1, log=self.log)
        up = Deal(path, loses, self.client.drop)
        down = Pipe(back or Path(delay=path.delay), "down", server.drop)
        self.client.attach(WireEnd(up, down))
        server.attach(WireEnd(down, up))
        self._listener = server.stack.listen(80)
        self._senders: list[Connection] = []
        self._receivers: list[Connection] = []

    def connect(self) -> Connection:
        """One more connection, that sends for ever."""
        conn = self.client.stack.connect(("10.0.0.2", 80), self.loop.now())
        self._senders.append(conn)
        return conn

    def run(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Let virtual time pass, up to `until` s or until `stop`."""
        with self.loop.lock:
            self.loop.run_until(lambda: self._advance() or stop(), round(until * SECOND))

    def _advance(self) -> bool:
        now = self.loop.now()
        for conn in self._senders:
            while conn.send(CHUNK, now):
                pass
        while (conn := self._listener.accept()) is not None:
            self._receivers.append(conn)
        for conn in self._receivers:
            conn.recv(1 << 30, now)
        return False

    def acks(self, conn: int = 1) -> pd.DataFrame:
        """What the sender of connection `conn` received, with its TCB at that moment."""
        segments = self.log.segments
        received = (segments.host == self.client.address) & (segments.event == "recv")
        return segments[received & (segments.conn == conn)]

    def drops(self) -> pd.DataFrame:
        segments = self.log.segments
        return segments[segments.event == "drop"]


def rate(acks: pd.DataFrame, since: float, until: float) -> float:
    """Octets acknowledged per second in that time."""
    part = acks[(acks.time >= since) & (acks.time <= until)]
    first, last = part.iloc[0], part.iloc[-1]
    return float(last.snd_una - first.snd_una) / float(last.time - first.time)


# --- Mathis, Semke, Mahdavi, Ott 1997: rate = MSS / RTT * C / sqrt(p) ---


def mathis(
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    cycles: int,
    *,
    rtt: float = 0.1,
    chance: int | None = None,
    **settings: object,
) -> float:
    """Reno's throughput as a share of the formula's, between the second loss and the last.

    It starts where the formula says the window is on average, so that the overshoot of slow start
    need not be lived through. Every 1/loss-th segment is lost, or, with `chance`, a seed, each with
    that probability.
    """
    window = sqrt(1.5 / loss)

    def settled(initial_window: int, mss: int) -> Reno:
        cc = Reno(initial_window, mss)
        cc.ssthresh = round(window) * mss
        return cc

    monkeypatch.setitem(ALGORITHMS, "reno", settled)
    settings.update(congestion="reno", initial_window=round(window) * MSS)
    every = round(1 / loss)
    if chance is None:
        path = Path(delay=rtt / 2)
        world = World(path, loses=lambda number: number % every == 0, **settings)
    else:
        path = Path(delay=rtt / 2, loss=loss, seed=chance)
        world = World(path, back=Path(delay=rtt / 2), **settings)
    conn = world.connect()
    octets = cycles * every * MSS
    world.run(1e6, stop=lambda: conn.tcb.snd.una > octets)
    times = world.drops().time
    share = rate(world.acks(), times.iloc[1], times.iloc[-1])
    return share / (MSS / rtt * window)


LOSSES = (0.01, 0.003, 0.001, 0.0003, 0.0001)


def slope(losses: tuple[float, ...], shares: list[float]) -> float:
    """Of log(throughput) over log(loss), by least squares; the formula's own is -0.5."""
    x = [log10(loss) for loss in losses]
    y = [log10(share) - at / 2 for share, at in zip(shares, x, strict=True)]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum(
        (a - middle) ** 2 for a in x
    )


def test_reno_keeps_the_mathis_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """C = sqrt(3/2): with byte counting cwnd grows by one SMSS a round trip (RFC 3465 2.1).

    sqrt(3/4) is for senders that count ACKs, of which a receiver with delayed ACKs sends half.
    Here each segment is acknowledged at once, so that no delayed ACK lengthens the round trip.
    """
    shares = [mathis(monkeypatch, loss, 5, delayed_ack=0) for loss in LOSSES]
    assert all(0.85 < share < 1.15 for share in shares), shares
    assert slope(LOSSES, shares) == pytest.approx(-0.5, abs=0.05)


def test_delayed_acks_do_not_change_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACK for every second segment: sqrt(3/4) would be 0.71. Where the window is of a dozen
    segments, the last one often waits 40 ms, of a round trip of 100, for the delayed-ACK timer.
    """
    assert 0.95 < mathis(monkeypatch, 0.0003, 5) < 1.05
    assert 0.8 < mathis(monkeypatch, 0.01, 20) < 1.05


@soak
@pytest.mark.parametrize("recovery", ["rack", "sack"])
@pytest.mark.parametrize("rtt", [0.05, 0.2])
def test_reno_keeps_the_mathis_formula_under_random_loss(
    monkeypatch: pytest.MonkeyPatch, recovery: str, rtt: float
) -> None:
    """Losses as they come; a mean over some seeds, of 40 losses each."""
    shares = []
    for loss in LOSSES:
        runs = [
            mathis(monkeypatch, loss, 40, rtt=rtt, chance=seed, delayed_ack=0, recovery=recovery)
            for seed in range(3)
        ]
        shares.append(sum(runs) / len(runs))
    print(recovery, rtt, shares, slope(LOSSES, shares))
    assert all(0.85 < share < 1.15 for share in shares), shares
    assert slope(LOSSES, shares) == pytest.approx(-0.5, abs=0.05)


# --- RFC 9438: W_cubic(t) = C * (t - K)^3 + W_max ---


def w_cubic(t: float, w_max: float, start: float) -> float:
    """Figures 1 and 2; windows in segments, t in seconds since the window was `start`."""
    return 0.4 * (t - cbrt((w_max - start) / 0.4)) ** 3 + w_max


@pytest.mark.parametrize("segments", [150, pytest.param(300, marks=soak)])
def test_cubic_is_within_a_segment_of_its_curve_between_losses(segments: int) -> None:
    """From a loss up to W_max and on into the convex region, worked out from the log in seconds and
    segments. The bottleneck is always busy, so that ACKs come evenly.
    """
    world = World(
        Path(delay=0.05, rate=0.65 * segments * 12_000 / 0.1),
        loses=lambda number: number == 10,
        congestion="cubic",
        initial_window=segments * MSS,
        min_rto=1,  # the first window fills the queue, and the retransmission waits behind it
    )
    conn = world.connect()
    world.run(60, stop=lambda: conn.cc.ssthresh < 0.6 * conn.cc.cwnd)
    acks = world.acks()
    loss = acks[acks.ssthresh.notna()].time.iloc[0]
    w_max = acks[acks.time < loss].cwnd.iloc[-1] / MSS
    events = world.log.events
    recovered = events[(events.event == "recovery") & (events.new == "open")].time.iloc[0]
    stage = acks[acks.time > recovered]
    began, start = stage.time.iloc[0], stage.ssthresh.iloc[0] / MSS
    assert w_max == pytest.approx(segments, rel=0.1)
    assert start == pytest.approx(0.7 * w_max, abs=1)
    off = [
        row.cwnd / MSS - w_cubic(row.time - began, w_max, start)
        for row in stage[["time", "cwnd"]].itertuples()
    ]
    assert stage.cwnd.iloc[-1] > 1.1 * w_max * MSS
    assert max(map(abs, off)) < 1


# --- shares of a bottleneck ---


def jain(shares: list[float]) -> float:
    """Jain, Chiu, Hawe 1984: (sum x)^2 / (n * sum x^2); 1 when all are equal."""
    return sum(shares) ** 2 / (len(shares) * sum(x * x for x in shares))


def compete(congestion: str, rate_of_link: float, queue: int, seconds: float) -> list[float]:
    """Two flows on one bottleneck with a round trip of 40 ms, the second one later by a twelfth of
    the time: octets per second of each in the second half of the time.
    """
    world = World(Path(rate=rate_of_link, delay=0.02, queue=queue), congestion=congestion)
    world.connect()
    world.run(seconds / 12)
    world.connect()
    world.run(seconds)
    return [rate(world.acks(conn), seconds / 2, seconds) for conn in (1, 2)]


@pytest.mark.parametrize("congestion", [pytest.param("reno", marks=soak), "cubic"])
def test_two_flows_of_the_same_kind_share_alike(congestion: str) -> None:
    """Chiu and Jain 1989 show it for Reno, RFC 9438 5.6 claims it for CUBIC. The queue holds what
    the path holds.
    """
    rates = compete(congestion, 5e6, 17, 60)
    assert jain(rates) > 0.95, rates
    assert 0.95 < sum(rates) / (5e6 / 8 * MSS / 1500) < 1.01


@soak
@pytest.mark.parametrize("queue", [17, 34, 68])
@pytest.mark.parametrize("rate_of_link", [5e6, 10e6, 20e6])
@pytest.mark.parametrize("congestion", ["reno", "cubic"])
def test_two_flows_share_alike_everywhere(congestion: str, rate_of_link: float, queue: int) -> None:
    """Given time: a deep queue makes the sawtooth long."""
    rates = compete(congestion, rate_of_link, queue, 200)
    print(congestion, rate_of_link, queue, rates, jain(rates))
    assert jain(rates) > 0.95, rates


# --- RFC 9406 ---


class Abrupt(Cubic):
    """CUBIC without HyStart++: its first slow start ends by a loss."""

    def _measure(self, rtt: int) -> None:
        pass


@pytest.mark.parametrize("queue", [200, *(pytest.param(n, marks=soak) for n in (400, 1000))])
def test_hystart_leaves_slow_start_before_the_queue_overflows(
    monkeypatch: pytest.MonkeyPatch, queue: int
) -> None:
    """The path holds 67 segments. HyStart++ sees the queue after two more doublings, at 280, and
    its five conservative rounds make three times that: what can hold 900 loses nothing, and less
    than half is lost elsewhere.
    """
    worlds = []
    for kind in (Cubic, Abrupt):
        monkeypatch.setitem(ALGORITHMS, "cubic", kind)
        world = World(Path(rate=20e6, delay=0.02, queue=queue), congestion="cubic")
        world.connect()
        world.run(3)
        worlds.append(world)
    with_it, without = worlds
    assert len(without.drops()) > queue
    assert len(with_it.drops()) < len(without.drops()) / 2
    if queue == 1000:
        assert with_it.drops().empty
        assert with_it.acks().ssthresh.notna().any(), "slow start has ended all the same"
        assert rate(with_it.acks(), 0.5, 3) > 0.99 * 20e6 / 8 * MSS / 1500, "the path is full"
