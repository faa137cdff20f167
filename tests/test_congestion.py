"""Congestion control by hand: Acks go in, cwnd and ssthresh come out.

One Path is played here by `Bulk`: a sender that always fills its window, a round trip of a given
length, an ACK for every second segment.
"""

import copy
import pathlib
from math import cbrt
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbtcp import Config, Path, Simulation, config
from nbtcp.congestion import ALGORITHMS, INFINITE, CongestionControl
from nbtcp.congestion.cubic import Cubic, _cube_root
from nbtcp.congestion.fixed import Fixed
from nbtcp.congestion.hystart import HyStart
from nbtcp.congestion.reno import Reno
from nbtcp.tcp import reaction
from nbtcp.tcp.ack import Ack
from nbtcp.tcp.rtt import SECOND
from nbtcp.tcp.sendqueue import Span

ROOT = pathlib.Path(__file__).resolve().parents[1]
MSS = 1000
MS = 1_000_000


class Bulk:
    """Rounds of acknowledgments for a sender whose window is always full."""

    def __init__(self, cc: CongestionControl, rtt: int = 100 * MS, per_ack: int = 2 * MSS) -> None:
        self.cc = cc
        self.rtt = rtt
        self.per_ack = per_ack
        self.now = SECOND
        self.una = 1

    def ack(self, octets: int, **values: Any) -> Ack:
        """One acknowledgment; `flight` is a full window unless given."""
        self.una += octets
        flight = values.pop("flight", self.cc.cwnd)
        ack = Ack(self.now, self.una, self.una - octets + flight, flight)
        ack.octets = ack.delivered = octets
        ack.done = [Span(self.una - octets, self.una, self.now - self.rtt)]
        ack.rtt = ack.srtt = self.rtt
        for name, value in values.items():
            setattr(ack, name, value)
        self.cc.acked(ack)
        return ack

    def round(self, **values: Any) -> int:
        """A window's worth of acknowledgments, spread over a round trip; returns cwnd."""
        count = max(1, self.cc.cwnd // self.per_ack)
        for _ in range(count):
            self.now += self.rtt // count
            self.ack(self.per_ack, **values)
        return self.cc.cwnd


def after_loss(cc: CongestionControl, segments: int, **options: Any) -> Bulk:
    """A window of `segments` has just met a loss, and fast recovery is over."""
    bulk = Bulk(cc, **options)
    cc.cwnd = segments * MSS
    cc.lost(cc.cwnd, bulk.now)
    return bulk


# --- all of them ---


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_starts_from_the_initial_window(name: str) -> None:
    cc = ALGORITHMS[name](10 * MSS, MSS)
    assert cc.cwnd == 10 * MSS
    assert cc.ssthresh >= cc.cwnd


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_copy_goes_its_own_way(name: str) -> None:
    """The connection undoes a needless reduction by putting back the copy it took before."""
    cc = ALGORITHMS[name](10 * MSS, MSS)
    bulk = Bulk(cc)
    for _ in range(3):
        bulk.round()
    before = copy.copy(cc)
    state = dict(vars(before))
    cc.lost(cc.cwnd, bulk.now)
    cc.timed_out(cc.cwnd, False, bulk.now)
    for _ in range(3):
        bulk.round()
    assert vars(before) == state
    assert not any(isinstance(value, list | dict | set) for value in state.values())


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_cwnd_that_is_not_used_does_not_grow(name: str) -> None:
    """RFC 7661: neither in slow start nor in congestion avoidance."""
    cc = ALGORITHMS[name](100 * MSS, MSS)
    bulk = Bulk(cc)
    for _ in range(20):
        bulk.round(flight=10 * MSS)
    assert cc.cwnd == 100 * MSS
    cc.lost(100 * MSS, bulk.now)
    before = cc.cwnd
    for _ in range(100):
        bulk.round(flight=10 * MSS)
    assert cc.cwnd == before


@pytest.mark.parametrize(("name", "share"), [("reno", 0.5), ("cubic", 0.7)])
def test_a_loss_cuts_by_what_was_in_flight(name: str, share: float) -> None:
    """RFC 9293 MAY-18, MUST-19."""
    cc = ALGORITHMS[name](100 * MSS, MSS)
    cc.lost(40 * MSS, 0)
    assert cc.cwnd == cc.ssthresh == round(40 * MSS * share)
    cc.lost(MSS, 0)
    assert cc.cwnd == cc.ssthresh == 2 * MSS


@pytest.mark.parametrize(("name", "share"), [("reno", 0.5), ("cubic", 0.7)])
def test_a_timeout_starts_from_one_segment_and_cuts_ssthresh_once(name: str, share: float) -> None:
    cc = ALGORITHMS[name](100 * MSS, MSS)
    cc.timed_out(40 * MSS, False, 0)
    assert (cc.cwnd, cc.ssthresh) == (MSS, round(40 * MSS * share))
    cc.timed_out(MSS, True, 0)
    assert (cc.cwnd, cc.ssthresh) == (MSS, round(40 * MSS * share))


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_slow_start_after_a_timeout_takes_one_segment_of_an_ack(name: str) -> None:
    """RFC 3465 2.3: L = 1 SMSS until ssthresh is reached; before and after that 2."""
    cc = ALGORITHMS[name](100 * MSS, MSS)
    cc.timed_out(40 * MSS, False, 0)
    bulk = Bulk(cc)
    bulk.ack(5 * MSS)
    assert cc.cwnd == 2 * MSS
    while cc.cwnd < cc.ssthresh:
        bulk.round()
    bulk.round()
    cc.cwnd = 10 * MSS  # as after an idle time
    bulk.ack(5 * MSS)
    assert cc.cwnd == 12 * MSS


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_a_window_that_is_not_used_is_kept_for_five_minutes_and_then_halved(name: str) -> None:
    """RFC 7661 4.4.3: ssthresh = max(ssthresh, 3*cwnd/4), cwnd = max(1/2*cwnd, IW)."""
    cc = ALGORITHMS[name](10 * MSS, MSS)
    bulk = after_loss(cc, 100, rtt=SECOND, per_ack=5 * MSS)
    bulk.round()
    before, used, ssthresh, began = cc.cwnd, cc.cwnd // 4, cc.ssthresh, bulk.now
    while bulk.now < began + 299 * SECOND:
        bulk.round(flight=used)
    assert cc.cwnd == pytest.approx(before, abs=6 * MSS)  # and what the last full window brought
    before = cc.cwnd
    while cc.cwnd == before:
        bulk.round(flight=used)
    assert 300 * SECOND < bulk.now - began < 310 * SECOND
    assert (cc.cwnd, cc.ssthresh) == (before // 2, max(ssthresh, before * 3 // 4))
    while bulk.now < began + 2000 * SECOND:
        bulk.round(flight=MSS)
    assert cc.cwnd == 10 * MSS


@pytest.mark.parametrize(("name", "share"), [("reno", 0.5), ("cubic", 0.7)])
def test_a_loss_cuts_what_was_used_less_what_was_lost_if_that_was_little(
    name: str, share: float
) -> None:
    """RFC 7661 4.4.1: cwnd = (Max(pipeACK, LossFlightSize) - R) / 2, in the non-validated phase."""

    def recovered(flight: int) -> int:
        cc = ALGORITHMS[name](100 * MSS, MSS)
        bulk = Bulk(cc)
        for _ in range(30):
            bulk.round(flight=flight)
        cc.lost(flight // 2, bulk.now)
        assert cc.cwnd == round(flight * share)
        cc.recovered(10 * MSS)
        assert cc.cwnd == cc.ssthresh
        return cc.cwnd

    assert recovered(40 * MSS) == round(30 * MSS * share)
    assert recovered(60 * MSS) == round(60 * MSS * share)  # this much is enough use
    assert recovered(10 * MSS) == 2 * MSS


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_use_counts_for_the_sampling_period(name: str) -> None:
    """RFC 7661 4.2: pipeACK is the maximum of max(3*RTT, 1 second), however short a round is."""
    cc = ALGORITHMS[name](100 * MSS, MSS)
    bulk = Bulk(cc, rtt=MS)
    bulk.ack(MSS, flight=80 * MSS)
    for pause, cut in ((400, 80), (1200, 10)):
        bulk.now += pause * MS
        for _ in range(5):
            bulk.round(flight=10 * MSS)
        bulk.now += pause * MS
        bulk.round(flight=10 * MSS)
        other = copy.copy(cc)
        other.lost(10 * MSS, bulk.now)
        assert other.cwnd == cut * MSS * other.kept // 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["reno", "cubic"])
def test_what_was_used_before_a_loss_does_not_let_the_window_grow_after_it(name: str) -> None:
    """RFC 7661 4.4.1: pipeACK is undefined then, for it is of another window."""
    cc = ALGORITHMS[name](100 * MSS, MSS)
    bulk = Bulk(cc, rtt=MS)
    bulk.round()
    cc.lost(100 * MSS, bulk.now)
    before = cc.cwnd
    for _ in range(100):
        bulk.round(flight=10 * MSS)
    assert cc.cwnd == before


def test_undoing_keeps_a_window_that_is_larger_by_now() -> None:
    """RFC 9438 4.9.2: restore if cwnd < cwnd_prior, else go on with the most recent values."""
    for grown, ssthresh in ((60 * MSS, INFINITE), (150 * MSS, 70 * MSS)):
        before = Cubic(100 * MSS, MSS)
        cc = copy.copy(before)
        cc.lost(100 * MSS, 0)
        cc.cwnd = grown
        conn: Any = SimpleNamespace(cc=cc, undo=before, prr=None)
        reaction._undo(conn)
        assert (conn.cc.cwnd, conn.cc.ssthresh) == (max(grown, 100 * MSS), ssthresh)
        assert conn.undo is None


def test_fixed_stays_as_it_began() -> None:
    cc = Fixed(7 * MSS, MSS)
    bulk = Bulk(cc)
    bulk.round()
    cc.lost(7 * MSS, bulk.now)
    bulk.round()
    cc.timed_out(7 * MSS, False, bulk.now)
    bulk.round()
    assert (cc.cwnd, cc.ssthresh) == (7 * MSS, 7 * MSS)
    assert cc.in_recovery, "or fast recovery would move it"


@pytest.mark.parametrize(("name", "share"), [("reno", 0.5), ("cubic", 0.7)])
def test_acks_that_come_in_one_batch_count_in_full(name: str, share: float) -> None:
    """Nothing is sent between them, so `flight` falls with each: the window was used all the same.

    The same goes for a loss that the last of them tells of.
    """
    cc = ALGORITHMS[name](10 * MSS, MSS)
    bulk = after_loss(cc, 40)
    one_by_one = copy.copy(cc)
    other = Bulk(one_by_one)
    for _ in range(20):
        full = cc.cwnd
        for k in range(5):
            bulk.now += 1
            bulk.ack(2 * MSS, flight=full - 2 * k * MSS)
            other.now += 1
            other.ack(2 * MSS)
    assert cc.cwnd == pytest.approx(one_by_one.cwnd, abs=MSS)
    assert cc.cwnd > cc.ssthresh
    full = cc.cwnd
    cc.lost(full - 10 * MSS, bulk.now)
    assert cc.cwnd == pytest.approx(full * share, abs=MSS)


def test_config_knows_every_algorithm() -> None:
    """RFC 9293 MAY-18."""
    assert set(config._CHOICES["congestion"]) == set(ALGORITHMS)
    assert Config().congestion == "cubic"


def test_the_example_in_contributing_is_a_whole_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        (ROOT / "CONTRIBUTING.md").read_text().partition("## A congestion control of your own")[2]
    )
    code = text.partition("```python\n")[2].partition("```")[0]
    package = "nbtcp.congestion"
    module: dict[str, Any] = {"__name__": f"{package}.aimd", "__package__": package}
    exec(compile(code, "CONTRIBUTING.md", "exec"), module)
    monkeypatch.setitem(ALGORITHMS, "aimd", module["Aimd"])
    monkeypatch.setitem(config._CHOICES, "congestion", ("cubic", "aimd"))
    path = Path(delay=0.02, rate=5e6, queue=10)
    transfer = Simulation(path).transfer(2_000_000, congestion="aimd")
    assert transfer.complete
    segments = transfer.log.segments
    sent = segments[(segments.host == "10.0.0.1") & (segments.event == "send")]
    assert (segments.event == "drop").any(), "it found the limit"
    assert sent.cwnd.max() > 2 * sent.cwnd.iloc[0]
    assert transfer.throughput > 0.7 * 5e6
    assert sent.ssthresh.notna().any(), "and halved"


class Least(CongestionControl):
    """The three methods and nothing else: it does not even know ssthresh."""

    def acked(self, ack: Ack) -> None:
        self.cwnd += self._mss * ack.octets // self.cwnd

    def lost(self, flight: int, now: int) -> None:
        self.cwnd = max(flight // 2, 2 * self._mss)

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        self.cwnd = self._mss


@pytest.mark.parametrize("recovery", ["newreno", "rack"])
def test_an_algorithm_is_three_methods(monkeypatch: pytest.MonkeyPatch, recovery: str) -> None:
    monkeypatch.setitem(ALGORITHMS, "least", Least)
    monkeypatch.setitem(config._CHOICES, "congestion", ("cubic", "least"))
    path = Path(delay=0.02, rate=5e6, queue=10)
    done = Simulation(path).transfer(1_000_000, congestion="least", recovery=recovery)
    segments = done.log.segments
    assert done.complete
    assert (segments.event == "drop").any()
    assert segments.cwnd.max() < 60_000
    assert done.throughput > 0.7 * 5e6


def test_the_log_tells_the_stages() -> None:
    """Slow start, its conservative end, and what follows; BBR's states by their names."""

    def stages(congestion: str, **path: Any) -> list[str]:
        network = Path(rate=10e6, delay=0.04, **path)
        events = Simulation(network, seed=1).transfer(5_000_000, congestion=congestion).log.events
        rows = events[events.event == "congestion"]
        assert rows.old.tolist()[1:] == rows.new.tolist()[:-1]
        return [*rows.old[:1], *rows.new]

    begin = ["slow-start", "conservative-slow-start", "congestion-avoidance"]
    assert stages("cubic", queue=300) == begin
    assert stages("reno", queue=30)[:2] == ["slow-start", "congestion-avoidance"]
    assert stages("bbr", queue=300)[:3] == ["startup", "drain", "probe-bw-cruise"]


# --- Reno ---


def test_reno_doubles_in_slow_start_and_adds_a_segment_after_it() -> None:
    cc = Reno(10 * MSS, MSS)
    bulk = Bulk(cc, per_ack=MSS)
    assert [bulk.round() for _ in range(3)] == [20 * MSS, 40 * MSS, 80 * MSS]
    cc.lost(cc.cwnd, bulk.now)
    assert [bulk.round() for _ in range(3)] == [41 * MSS, 42 * MSS, 43 * MSS]


def test_an_ack_that_acknowledges_nothing_in_order_adds_nothing() -> None:
    for kind in (Reno, Cubic):
        cc = kind(10 * MSS, MSS)
        bulk = Bulk(cc)
        bulk.ack(0, delivered=MSS, rtt=None, done=[])
        assert cc.cwnd == 10 * MSS
        cc.lost(40 * MSS, bulk.now)
        before = cc.cwnd
        bulk.ack(0, delivered=MSS, rtt=None, done=[])
        assert cc.cwnd == before


# --- HyStart++ ---


def rounds(bulk: Bulk, *times: int) -> list[int]:
    """cwnd after rounds with these round-trip times (ms)."""
    windows = []
    for time in times:
        bulk.rtt = time * MS
        windows.append(bulk.round())
    return windows


def test_hystart_goes_on_while_the_round_trip_time_stays() -> None:
    cc = HyStart(10 * MSS, MSS)
    assert rounds(Bulk(cc, per_ack=MSS), 40, 41, 42, 43, 44)[-1] == 320 * MSS
    assert cc.ssthresh == INFINITE


@pytest.mark.parametrize(
    ("first", "threshold"),  # RttThresh = max(4 ms, min(lastRoundMinRTT / 8, 16 ms))
    [(8, 4), (32, 4), (80, 10), (128, 16), (400, 16)],
)
def test_hystart_slows_down_at_the_threshold_and_not_before(first: int, threshold: int) -> None:
    below, at = HyStart(16 * MSS, MSS), HyStart(16 * MSS, MSS)
    assert rounds(Bulk(below, per_ack=MSS), first, first + threshold - 1)[-1] == 64 * MSS
    rounds(Bulk(at, per_ack=MSS), first, first + threshold)
    # 8 samples decide: 7 grow by a segment, the eighth and the rest by a quarter
    assert at.cwnd == 32 * MSS + 7 * MSS + 25 * MSS // 4


def test_hystart_needs_eight_samples_in_a_round() -> None:
    cc = HyStart(10 * MSS, MSS)
    assert rounds(Bulk(cc, per_ack=3 * MSS), 40, 80) == [19 * MSS, 37 * MSS]
    assert cc.ssthresh == INFINITE


def test_hystart_ends_slow_start_after_five_rounds_of_delay() -> None:
    cc = HyStart(16 * MSS, MSS)
    bulk = Bulk(cc, per_ack=MSS)
    rounds(bulk, 40, 50)
    for count in range(4):  # the second round, of which CSS had a part, is the first of the five
        assert cc.ssthresh == INFINITE, count
        rounds(bulk, 50)
    bulk.ack(MSS)
    assert cc.ssthresh == cc.cwnd


def test_hystart_resumes_slow_start_when_it_was_jitter() -> None:
    cc = HyStart(16 * MSS, MSS)
    bulk = Bulk(cc, per_ack=MSS)
    rounds(bulk, 40, 60, 60, 40)
    before = cc.cwnd
    assert rounds(bulk, 40) == [before + before // MSS * MSS]
    assert cc.ssthresh == INFINITE


def test_hystart_takes_eight_segments_of_an_ack() -> None:
    """RFC 9406 4.3: L = 8 for a sender that does not pace."""
    cc = HyStart(100 * MSS, MSS)
    Bulk(cc).ack(20 * MSS)
    assert cc.cwnd == 108 * MSS


def test_hystart_is_for_the_first_slow_start_only() -> None:
    cc = HyStart(16 * MSS, MSS)
    cc.timed_out(600 * MSS, False, 0)
    assert rounds(Bulk(cc, per_ack=MSS), 40, 80, 120, 160, 200, 240)[-1] == 64 * MSS
    assert cc.ssthresh == 300 * MSS


def test_a_loss_ends_hystart() -> None:
    cc = HyStart(16 * MSS, MSS)
    rounds(Bulk(cc, per_ack=MSS), 40, 60)
    cc.cwnd = 40 * MSS
    cc.lost(40 * MSS, 0)
    assert cc.ssthresh == cc.cwnd == 20 * MSS
    assert rounds(Bulk(cc, per_ack=MSS), 60, 60) == [21 * MSS, 22 * MSS]


# --- CUBIC ---


def w_cubic(t: float, w_max: float, start: float) -> float:
    """RFC 9438 figures 1 and 2 in floating point: segments, seconds."""
    return 0.4 * (t - cbrt((w_max - start) / 0.4)) ** 3 + w_max


@pytest.mark.slow
@pytest.mark.parametrize(
    ("segments", "rtt", "within"),
    # cwnd is where target leads it: behind by W''(t) * RTT^2 / 2, which counts where both are large
    [(200, 100, 1), (1000, 40, 1), (1000, 100, 1), (5000, 100, 1), (1000, 300, 3), (5000, 300, 10)],
)
def test_cubic_follows_its_curve(segments: int, rtt: int, within: float) -> None:
    cc = Cubic(10 * MSS, MSS)
    bulk = after_loss(cc, segments, rtt=rtt * MS)
    start = 0.7 * segments
    assert cc.cwnd == start * MSS
    bulk.ack(2 * MSS)
    began = bulk.now
    duration = 1.3 * cbrt((segments - start) / 0.4)  # beyond the plateau, into the convex region
    seen = []
    while (t := (bulk.now - began) / SECOND) < duration:
        expected = w_cubic(t, segments, start)
        assert cc.cwnd / MSS == pytest.approx(expected, abs=within), f"after {t} s"
        seen.append(cc.cwnd / MSS)
        bulk.round()
    assert min(seen) < 0.75 * segments
    assert max(seen) > segments


def test_cubic_grows_no_faster_than_one_and_a_half_in_a_round_trip() -> None:
    """RFC 9438 4.2: target is at most 1.5 * cwnd."""
    cc = Cubic(10 * MSS, MSS)
    bulk = after_loss(cc, 100)
    bulk.round()
    cc.cwnd = 20 * MSS  # somebody else's doing
    cc.ssthresh = 20 * MSS
    bulk.now += 30 * SECOND
    before = cc.cwnd
    bulk.ack(2 * MSS)
    assert before < cc.cwnd <= before + MSS + 4  # what the divisions had left


def test_cubic_is_never_behind_reno_and_reaches_its_slope() -> None:
    """RFC 9438 4.3: with a short round trip W_est leads, by 9/17 segment a round, later by 1."""
    cc = Cubic(10 * MSS, MSS)
    bulk = after_loss(cc, 100, rtt=MS)
    for count in range(1, 50):
        bulk.round()
        assert cc.cwnd / MSS == pytest.approx(70 + count * 9 / 17, abs=0.6)
    while cc.cwnd < 101 * MSS:
        bulk.round()
    before = cc.cwnd
    for _ in range(10):
        bulk.round()
    assert cc.cwnd / MSS == pytest.approx(before / MSS + 10, abs=0.6)


def test_cubic_aims_lower_when_the_last_window_was_not_reached() -> None:
    """RFC 9438 4.7: W_max = cwnd * (1 + 0.7) / 2."""
    cc = Cubic(10 * MSS, MSS)
    bulk = after_loss(cc, 1000)
    cc.lost(800 * MSS, bulk.now)  # cwnd 700, below W_max
    assert cc.cwnd == 560 * MSS
    cc.cwnd = cc.ssthresh = 500 * MSS
    bulk.ack(2 * MSS)
    began = bulk.now
    while (bulk.now - began) / SECOND < cbrt((595 - 500) / 0.4) - 0.5:
        bulk.round()
        t = (bulk.now - began) / SECOND
        assert cc.cwnd / MSS == pytest.approx(w_cubic(t, 0.85 * 700, 500), abs=1)


def test_cubic_after_a_timeout_starts_at_the_plateau() -> None:
    """RFC 9438 4.8: K = 0, W_max = cwnd at the beginning of the stage."""
    cc = Cubic(10 * MSS, MSS)
    bulk = Bulk(cc)
    cc.cwnd = 1000 * MSS
    cc.timed_out(1000 * MSS, False, bulk.now)
    while cc.cwnd < cc.ssthresh:
        bulk.round()
    bulk.ack(2 * MSS)
    began, start = bulk.now, cc.cwnd / MSS
    for _ in range(100):
        bulk.round()
        t = (bulk.now - began) / SECOND
        reno = start + 9 / 17 * t / 0.1
        assert cc.cwnd / MSS == pytest.approx(max(w_cubic(t, start, start), reno), abs=1)


def test_cubic_ends_hystart_at_the_plateau_too() -> None:
    """RFC 9438 4.10: W_max is not known yet."""
    cc = Cubic(16 * MSS, MSS)
    bulk = Bulk(cc, per_ack=MSS)
    rounds(bulk, 40, 60, 60, 60, 60, 60)
    bulk.ack(MSS)
    assert cc.ssthresh < INFINITE
    start = cc.cwnd
    bulk.round()
    assert start < cc.cwnd <= start + MSS


def test_time_without_use_is_not_time_on_the_curve() -> None:
    """RFC 9438 4.2, 5.8: neither a rate below cwnd nor an idle time moves the curve on."""

    def growth(pause: int, flight: int | None) -> int:
        cc = Cubic(10 * MSS, MSS)
        bulk = after_loss(cc, 1000)
        for _ in range(10):
            bulk.round()
        if flight is not None:
            for _ in range(100):
                bulk.round(flight=flight)
        bulk.now += pause  # then a window is sent at once, and acknowledged a round trip later
        before = cc.cwnd
        bulk.round()
        return cc.cwnd - before

    undisturbed = growth(0, None)
    assert 5 * MSS < undisturbed < 10 * MSS
    assert growth(0, 100 * MSS) == pytest.approx(undisturbed, rel=0.1)
    # the round trip in which the first window after the pause is on its way counts
    assert undisturbed < growth(60 * SECOND, None) < 2 * undisturbed


def test_after_a_restart_the_curve_begins_anew_where_slow_start_ended() -> None:
    """After an idle time cwnd is the restart window (RFC 5681 4.1); W_max is still known."""
    cc = Cubic(10 * MSS, MSS)
    bulk = after_loss(cc, 1000)
    for _ in range(30):
        bulk.round()
    cc.cwnd = 10 * MSS
    bulk.now += 100 * SECOND
    while cc.cwnd < cc.ssthresh:
        bulk.round()
    bulk.ack(2 * MSS)
    began, start = bulk.now, cc.cwnd / MSS
    for _ in range(50):
        bulk.round()
        t = (bulk.now - began) / SECOND
        assert cc.cwnd / MSS == pytest.approx(w_cubic(t, 1000, start), abs=1)


@given(st.integers(0, 10**40))
def test_cube_root_is_exact(n: int) -> None:
    root = _cube_root(n)
    assert root**3 <= n < (root + 1) ** 3


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 26, 27, 10**27, 10**27 - 1])
def test_cube_root_at_the_edges(n: int) -> None:
    root = _cube_root(n)
    assert root**3 <= n < (root + 1) ** 3


@given(
    st.lists(st.tuples(st.sampled_from("aaaaalti"), st.integers(0, 20_000)), max_size=200),
    st.sampled_from(list(ALGORITHMS)),
)
def test_cwnd_stays_between_one_segment_and_reason(story: list[tuple[str, int]], name: str) -> None:
    """Whatever happens: cwnd >= 1 SMSS, an ACK adds at most 8 SMSS, and all are integers."""
    cc = ALGORITHMS[name](10 * MSS, MSS)
    bulk = Bulk(cc)
    for what, size in story:
        before = cc.cwnd
        bulk.now += size * 10_000
        match what:
            case "a":
                bulk.ack(size)
            case "l":
                cc.lost(size, bulk.now)
            case "t":
                cc.timed_out(size, bool(size % 2), bulk.now)
            case "i":
                bulk.now += SECOND
                cc.cwnd = min(cc.cwnd, 10 * MSS)
        assert type(cc.cwnd) is int
        assert type(cc.ssthresh) is int
        assert cc.cwnd >= MSS
        assert cc.cwnd <= before + 8 * MSS
