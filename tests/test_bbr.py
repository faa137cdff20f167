"""BBR (draft-ietf-ccwg-bbr-06): the model fed by hand, then whole transfers in the simulator."""

import copy
import hashlib
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from nbtcp import Config, EventLog, Lab, Path, Simulation, Transfer
from nbtcp.congestion import bbr
from nbtcp.congestion.bbr import BBR, CRUISE, DOWN, DRAIN, INFINITE, PROBE_RTT, REFILL, STARTUP, UP
from nbtcp.congestion.pacing import send_quantum
from nbtcp.congestion.rate import Loss, RateSample, Sent
from nbtcp.inside import content
from nbtcp.runtime.loop import SECOND
from nbtcp.tcp.ack import Ack

MS = 1_000_000
MSS = 1000
RATE = 1_000_000  # octets per second
RTT = 100 * MS
BDP = 100 * MSS


class Driver:
    """One ACK a round: the path delivers `rate` octets per second and has `rtt`.

    Samples count as limited by the application as the connection marks them (4.1.2.4):
    also until what left while BBR held back on purpose has been delivered.
    """

    def __init__(self, rate: int = RATE, rtt: int = RTT) -> None:
        self.cc = BBR(10 * MSS, MSS)
        self.rate, self.rtt = rate, rtt
        self.now = 1000 * SECOND
        self.total = 0
        self.held_back = False
        handshake = Ack(self.now, 1, 1, 1)
        handshake.rtt = handshake.srtt = rtt
        self.cc.acked(handshake)

    def round(
        self,
        *,
        rate: int | None = None,
        rtt: int | None = None,
        inflight: int | None = None,
        limited: bool = False,
        losses: list[Loss] | None = None,
        lost: int = 0,
        marked: bool = False,
    ) -> None:
        """A round trip passes; `inflight` (cwnd) is what is out before and after its ACK."""
        self.rtt = rtt or self.rtt
        rate = self.rate if rate is None else rate
        out = self.cc.cwnd if inflight is None else inflight
        delivered, news = rate * self.rtt // SECOND, sum(x.end - x.start for x in losses or [])
        prior, self.total = self.total, self.total + delivered
        self.now += self.rtt
        ack = Ack(self.now, 1 + self.total, 1 + self.total + out, out)
        ack.octets = ack.delivered = delivered
        ack.rtt = ack.srtt = self.rtt
        ack.lost, ack.marked = news, marked
        held_back, self.held_back = self.held_back, self.cc.holds_back
        limited |= held_back or self.held_back
        sent = Sent(prior, self.now - self.rtt, self.now - self.rtt, 0, out, limited)
        lost, losses = lost or news, losses or []
        ack.rate = RateSample(rate, delivered, lost, self.rtt, sent, losses, self.total, out)
        if news:
            self.cc.lost(out, self.now)
        self.cc.acked(ack)

    def until(self, state: bbr.BBRState, rounds: int = 100) -> "Driver":
        for _ in range(rounds):
            if self.cc.state is state:
                return self
            self.round(inflight=min(self.cc.cwnd, BDP))
        raise AssertionError(f"not {state.label} but {self.cc.state.label} after {rounds} rounds")


def hole(number: int, in_flight: int, lost: int) -> Loss:
    sent = Sent(0, 0, 0, 0, in_flight, False)
    return Loss(number * MSS, (number + 1) * MSS, sent, lost)


# --- Startup and Drain ---


def test_the_first_rate_is_a_window_in_a_round_trip_times_the_startup_gain() -> None:
    cc = BBR(10 * MSS, MSS)
    assert cc.pacing_rate == 2.77 * 10 * MSS * 1000  # of 1 ms, before anything is known
    assert Driver().cc.pacing_rate == 2.77 * 10 * MSS / 0.1
    assert cc.ssthresh == INFINITE


def test_startup_doubles_while_the_rate_grows_and_ends_after_three_rounds_without() -> None:
    driver = Driver()
    for i in range(4):
        driver.round(rate=100_000 << i)
        assert driver.cc.state is STARTUP
        assert driver.cc.pacing_rate == pytest.approx(max(2.77 * 0.99 * (100_000 << i), 277_000))
    for growth in (1.0, 1.2):
        driver.round(rate=round(800_000 * growth))
        assert driver.cc.state is STARTUP
    driver.round(rate=800_000, inflight=200_000)
    assert driver.cc.state is DRAIN
    assert driver.cc.full_bw_reached
    assert driver.cc.pacing_rate == pytest.approx(0.5 * 0.99 * 960_000)


def test_startup_does_not_end_while_the_application_limits() -> None:
    driver = Driver()
    for _ in range(10):
        driver.round(limited=True)
    assert driver.cc.state is STARTUP
    assert driver.cc.max_bw == RATE  # it can only be more than was thought


@pytest.mark.parametrize(("holes", "state"), [(5, STARTUP), (6, DRAIN)])
def test_startup_ends_at_high_loss(holes: int, state: bbr.BBRState) -> None:
    driver = Driver()
    driver.round(rate=200_000)
    losses = [hole(100 + 2 * i, 100_000, (i + 1) * MSS) for i in range(holes)]
    driver.round(rate=400_000, inflight=150_000, losses=losses)
    driver.round(rate=800_000, inflight=150_000, lost=holes * MSS)
    assert driver.cc.state is state
    if state is DRAIN:
        assert driver.cc.inflight_longterm == 80_000  # what was delivered in a round
    else:
        assert driver.cc.inflight_longterm == INFINITE


def test_drain_ends_when_no_more_than_the_bdp_is_in_flight() -> None:
    driver = Driver().until(STARTUP)
    while driver.cc.state is not DRAIN:
        driver.round(inflight=2 * BDP)
    driver.round(inflight=BDP + MSS)
    assert driver.cc.state is DRAIN
    driver.round(inflight=BDP)
    assert driver.cc.state is CRUISE  # DOWN has nothing left to do


def test_drain_ends_after_some_rounds_whatever_is_in_flight() -> None:
    driver = Driver()
    while driver.cc.state is not DRAIN:
        driver.round(inflight=2 * BDP)
    for _ in range(4):
        assert driver.cc.state is DRAIN
        driver.round(inflight=2 * BDP)
    assert driver.cc.state is DOWN


# --- ProbeBW ---


def test_the_cycle_its_gains_and_its_length() -> None:
    driver = Driver().until(CRUISE)
    cc, states, times = driver.cc, [], []
    for _ in range(60):
        inflight = BDP - MSS if cc.state is not UP else int(1.25 * BDP)
        driver.round(inflight=inflight, rtt=driver.rtt - 1)  # no need of PROBE_RTT
        if not states or states[-1] is not cc.state:
            states.append(cc.state)
            times.append(driver.now)
        gain = {DOWN: 0.9, CRUISE: 1.0, REFILL: 1.0, UP: 1.25}[cc.state]
        assert cc.pacing_rate == pytest.approx(gain * 0.99 * RATE, rel=0.01)
        window = 2.25 * BDP + 2 * MSS if cc.state is UP else 2 * BDP
        assert cc.cwnd <= window + BDP  # what comes at once is allowed for
    cycle = [DOWN, CRUISE, REFILL, UP]
    begin = states.index(DOWN)
    assert states[begin : begin + 5] == [*cycle, DOWN]
    assert 2 * SECOND < times[begin + 2] - times[begin] <= 3 * SECOND + RTT
    rounds = [(b - a) / RTT for a, b in itertools.pairwise(times)]
    assert rounds[begin + 2] == pytest.approx(1)  # REFILL
    assert rounds[begin + 3] == pytest.approx(3)  # UP, as long as nothing is gained


def test_probing_goes_on_while_the_rate_grows() -> None:
    driver = Driver().until(UP)
    for i in range(1, 6):
        driver.round(rate=round(RATE * 1.25**i) + i)
        assert driver.cc.state is UP
    assert driver.cc.max_bw > 3 * RATE


def test_max_bw_forgets_after_two_cycles() -> None:
    driver = Driver().until(UP)
    driver.round(rate=2 * RATE, inflight=BDP)
    seen = []
    while driver.cc.max_bw == 2 * RATE:
        driver.round(inflight=BDP)
        if not seen or seen[-1] is not driver.cc.state:
            seen.append(driver.cc.state)
    assert seen.count(UP) == 2
    assert driver.cc.max_bw == RATE


def test_high_loss_while_probing_bounds_what_is_in_flight_for_long() -> None:
    driver = Driver().until(UP)
    driver.round(
        inflight=120_000, losses=[hole(900 + i, 120_000, 1000 * (i + 1)) for i in range(3)]
    )
    cc = driver.cc
    assert cc.state is DOWN
    # the threshold is crossed within the third: (0.02 * 119000 - 2000) / 0.98 octets of it
    assert cc.inflight_longterm == 119_000 + int((0.02 * 119_000 - 2000) / 0.98)
    assert cc.prev_probe_too_high
    assert cc.cwnd <= cc.inflight_longterm
    driver.until(CRUISE)
    driver.round(inflight=BDP)
    assert cc.cwnd <= 0.85 * cc.inflight_longterm + 1  # room for others


def test_high_loss_at_little_in_flight_cuts_by_beta_at_most() -> None:
    driver = Driver().until(UP)
    driver.round(inflight=30_000, losses=[hole(900, 30_000, 1000)])
    assert driver.cc.inflight_longterm == 70_000


def test_two_percent_is_not_yet_too_much() -> None:
    driver = Driver().until(UP)
    driver.round(
        inflight=120_000, losses=[hole(900 + i, 120_000, 1000 * (i + 1)) for i in range(2)]
    )
    assert driver.cc.state is UP
    assert driver.cc.inflight_longterm == INFINITE


def test_after_too_high_a_probe_the_next_is_careful_and_then_one_in_earnest() -> None:
    driver = Driver().until(UP)
    driver.round(
        inflight=120_000, losses=[hole(900 + i, 120_000, 1000 * (i + 1)) for i in range(3)]
    )
    driver.until(UP)
    driver.round(inflight=driver.cc.inflight_longterm)
    assert driver.cc.state is DOWN
    assert driver.cc.prev_probe_precautionary
    driver.round(inflight=BDP)
    assert driver.cc.state is REFILL
    driver.round(inflight=BDP)
    before = driver.cc.inflight_longterm
    for _ in range(4):
        assert driver.cc.state is UP
        driver.round(inflight=driver.cc.cwnd)
    assert driver.cc.inflight_longterm > before + 7 * MSS  # 1, 2, 4, ... a round


def test_loss_while_cruising_bounds_the_short_term_and_refill_forgets_it() -> None:
    driver = Driver().until(CRUISE)
    cc = driver.cc
    driver.round(rate=900_000, inflight=BDP)
    driver.round(rate=900_000, inflight=BDP, losses=[hole(900, BDP, 1000)])
    driver.round(rate=500_000, inflight=BDP)
    assert cc.bw_shortterm == 900_000  # what was delivered, for that is more than 0.7 of max_bw
    assert cc.bw == 900_000
    assert cc.max_bw == RATE
    driver.round(rate=500_000, inflight=BDP, losses=[hole(990, BDP, 1000)])
    driver.round(rate=500_000, inflight=BDP)
    assert cc.bw_shortterm == 630_000
    assert cc.inflight_longterm == INFINITE
    driver.until(REFILL)
    assert (cc.bw_shortterm, cc.inflight_shortterm, cc.bw) == (INFINITE, INFINITE, RATE)


# --- ACKs in bunches ---


def test_what_is_acknowledged_in_bunches_may_be_in_flight_as_well() -> None:
    """UpdateACKAggregation (5.5.9): extra_acked is the most of 10 round trips, and cwnd has room
    for it.
    """
    driver = Driver().until(CRUISE)
    cc = driver.cc

    def arrives(segments: int) -> None:
        """So many at once, after the time that the path takes for them."""
        size = segments * MSS
        driver.now += size * SECOND // RATE
        driver.total += size
        ack = Ack(driver.now, 1 + driver.total, 1 + driver.total + BDP, BDP)
        ack.octets = ack.delivered = size
        sent = Sent(driver.total - BDP, 0, 0, 0, BDP, False)
        ack.rate = RateSample(RATE, BDP, 0, RTT, sent, [], driver.total, BDP)
        cc.acked(ack)

    def rounds(number: int, segments: int) -> None:
        for _ in range(number * 100 // segments):
            arrives(segments)

    driver.now += RTT
    rounds(12, 2)
    assert cc.extra_acked == 2 * MSS
    assert cc.cwnd == 2 * BDP + 2 * MSS
    arrives(40)
    assert cc.extra_acked == 40 * MSS
    driver.now += 40 * MS  # silence: the bunch is over
    rounds(1, 2)
    assert cc.cwnd == 2 * BDP + 40 * MSS
    rounds(8, 2)
    assert cc.extra_acked == 40 * MSS
    rounds(2, 2)
    assert cc.extra_acked == 2 * MSS


def test_in_startup_extra_acked_is_that_of_one_round() -> None:
    driver = Driver()
    driver.round(rate=400_000)
    assert driver.cc.extra_acked == 10 * MSS  # at most cwnd
    driver.round(rate=20_000)
    assert driver.cc.extra_acked == 2 * MSS


# --- ProbeRTT, timeouts, idleness ---


def test_probe_rtt_after_five_seconds_halves_what_is_in_flight_for_200_ms() -> None:
    driver = Driver().until(CRUISE)
    cc, began = driver.cc, driver.cc.probe_rtt_min_stamp
    before = 0
    while cc.state is not PROBE_RTT:
        before = cc.cwnd
        driver.round(inflight=BDP, rtt=RTT + MS)  # never as quick as once
    assert 5 * SECOND < driver.now - began <= 5 * SECOND + 2 * RTT
    assert cc.cwnd == cc.bw * cc.min_rtt // SECOND // 2 == BDP // 2
    driver.round(inflight=BDP // 2, rtt=RTT)
    entered = driver.now
    while cc.state is PROBE_RTT:
        assert cc.cwnd <= BDP // 2 + MSS
        driver.round(inflight=BDP // 2)
    assert 200 * MS < driver.now - entered <= 200 * MS + 2 * RTT
    assert cc.state is CRUISE
    assert cc.cwnd >= before - MSS
    assert cc.max_bw == RATE


def test_min_rtt_is_that_of_ten_seconds() -> None:
    driver = Driver().until(CRUISE)
    for _ in range(40):
        driver.round(inflight=BDP, rtt=2 * RTT)
    assert driver.cc.min_rtt == RTT
    for _ in range(40):
        driver.round(inflight=BDP // 2)
    assert driver.cc.min_rtt == 2 * RTT


def test_idleness_replaces_probe_rtt_and_sending_begins_at_the_known_rate() -> None:
    driver = Driver().until(UP)
    driver.now += 20 * SECOND
    driver.cc.restart(10 * MSS, driver.now)
    assert driver.cc.pacing_rate == 0.99 * RATE
    driver.round(inflight=BDP, limited=True)
    assert driver.cc.state is not PROBE_RTT


def test_a_timeout_sends_one_segment_and_cwnd_is_back_when_all_is_repaired() -> None:
    driver = Driver().until(CRUISE)
    cc, before = driver.cc, driver.cc.cwnd
    cc.timed_out(BDP, False, driver.now)
    assert cc.cwnd == MSS
    driver.round(rate=20_000, inflight=MSS, limited=True)
    assert cc.cwnd < before
    for _ in range(2):
        driver.round(inflight=0)
    assert cc.cwnd >= min(before, cc.inflight_shortterm)


def test_cwnd_is_back_after_fast_recovery_as_far_as_the_model_lets_it() -> None:
    """5.6.4.4: "when BBR exits loss recovery it restores C.cwnd to the last known good value"."""
    driver = Driver().until(REFILL)
    cc, before = driver.cc, driver.cc.cwnd
    cc.lost(BDP, driver.now)
    cc.cwnd = 10 * MSS
    driver.round(rate=20_000, inflight=3 * MSS)
    assert cc.cwnd < 20 * MSS
    for _ in range(2):
        driver.round(rate=20_000, inflight=3 * MSS)
    assert cc.cwnd >= before


def test_loss_after_the_probe_was_ended_counts_for_the_round() -> None:
    """5.5.10.2: each lost packet notes the loss, also those behind the one that was too much."""
    for holes, noted in ((3, False), (4, True)):
        driver = Driver().until(UP)
        losses = [hole(900 + i, 120_000, 1000 * (i + 1)) for i in range(holes)]
        driver.round(inflight=120_000, losses=losses)
        assert driver.cc.state is DOWN
        assert driver.cc.is_loss_in_round is noted


def test_a_sample_that_tells_no_rate_leaves_max_bw_alone() -> None:
    """5.5.5: only RS.delivery_rate > 0 enters the filter."""
    driver = Driver().until(CRUISE)
    driver.cc.cycle_count += bbr.MAX_BW_FILTER_LEN
    driver.round(rate=0, inflight=BDP)
    assert driver.cc.max_bw == RATE


def test_a_mark_for_congestion_counts_as_a_loss() -> None:
    driver = Driver().until(CRUISE)
    driver.round(rate=500_000, inflight=BDP)
    driver.cc.lost(BDP, driver.now)
    for _ in range(2):
        driver.round(rate=500_000, inflight=BDP)
    assert driver.cc.bw_shortterm == 700_000


def test_a_mark_ends_a_probe_and_startup() -> None:
    driver = Driver().until(UP)
    driver.round(inflight=120_000, marked=True)
    assert driver.cc.state is DOWN
    assert driver.cc.inflight_longterm == 120_000
    driver = Driver()
    driver.round(inflight=2 * BDP, marked=True)
    assert driver.cc.state is DRAIN


def test_a_copy_from_before_a_false_alarm_undoes_it() -> None:
    driver = Driver().until(UP)
    kept = copy.copy(driver.cc)
    driver.round(
        inflight=120_000, losses=[hole(900 + i, 120_000, 1000 * (i + 1)) for i in range(3)]
    )
    assert driver.cc.state is DOWN
    driver.cc = kept
    assert (kept.state, kept.inflight_longterm) == (UP, INFINITE)
    for _ in range(3):
        driver.round(inflight=BDP)
    assert driver.cc.state is DOWN
    assert driver.cc.inflight_longterm == INFINITE
    assert all(isinstance(x, int | float | tuple) for x in vars(kept).values())  # nothing is shared


def test_a_path_without_a_round_trip_time_or_with_a_tiny_bdp_keeps_four_segments() -> None:
    driver = Driver(rate=2000, rtt=10 * MS)
    for _ in range(600):
        driver.round(inflight=4 * MSS)
    assert driver.cc.cwnd >= 4 * MSS
    assert driver.cc.pacing_rate > 0


# --- whole transfers ---

HEADERS = 20 + 20 + 12
SEGMENT = 1500
LINK = 10e6  # bits per second
DEEP = Path(rate=LINK, delay=0.02, queue=300)  # a round trip of 40 ms: the BDP is 34 packets
BUFFERS = Config(send_buffer=1 << 22, autotune=False)


def transfer(octets: int, path: Path = DEEP, congestion: str = "bbr", seed: int = 1) -> Transfer:
    down = Path(rate=path.rate, delay=path.delay)
    simulation = Simulation(up=path, down=down, seed=seed, config=BUFFERS)
    done = simulation.transfer(octets, congestion=congestion)
    assert done.complete
    return done


def data_sent(log: EventLog, host: str = "10.0.0.1") -> pd.DataFrame:
    segments = log.segments
    return segments[(segments.event == "send") & (segments.host == host) & (segments.len > 0)]


def throughput(log: EventLog, since: float, until: float) -> float:
    """Bits of data per second that reached the server."""
    segments = log.segments
    arrived = segments[(segments.event == "recv") & (segments.host == "10.0.0.2")]
    octets = arrived.len[arrived.time.between(since, until)].sum()
    return float(octets * 8 / (until - since))


def queue_mean(log: EventLog, since: float) -> float:
    """Mean packets in the bottleneck's queue from `since` (seconds) on, by what entered it when."""
    sent = log.segments[(log.segments.event == "send") & (log.segments.host == "10.0.0.1")]
    dropped = log.segments[log.segments.event == "drop"]
    lost = set(zip(dropped.time, dropped.seq, strict=True))
    free, area, last = 0.0, 0.0, 0.0
    for at, seq, size in zip(sent.time, sent.seq, sent.len, strict=True):
        if at < since:
            area = 0.0
        if (at, seq) in lost:
            continue
        begin = max(at, free)
        area += begin - at  # Little: the sum of the waits is the integral of the queue
        free = begin + (size + HEADERS) * 8 / LINK
        last = at
    return area / (last - since)


@pytest.fixture(scope="module")
def long_transfer() -> Transfer:
    """12 seconds, with two PROBE_RTT."""
    return transfer(14_000_000)


@pytest.mark.slow
def test_bbr_fills_the_path(long_transfer: Transfer) -> None:
    limit = LINK * (SEGMENT - HEADERS) / SEGMENT
    assert 0.9 * limit < long_transfer.throughput <= limit
    assert throughput(long_transfer.log, 1, 11) > 0.95 * limit
    assert set(data_sent(long_transfer.log).why) == {"data"}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["reno", "cubic"])
def test_bbr_keeps_the_queue_under_a_tenth_of_what_others_build(
    long_transfer: Transfer, other: str
) -> None:
    theirs = queue_mean(transfer(14_000_000, DEEP, other).log, 2)
    ours = queue_mean(long_transfer.log, 2)
    assert theirs > 50
    assert 0 < ours < theirs / 10


@pytest.mark.slow
def test_bbr_leaves_in_no_burst_larger_than_the_quantum(long_transfer: Transfer) -> None:
    sent = data_sent(long_transfer.log)
    burst = sent.groupby("time").len.sum().max()
    assert burst <= send_quantum(round(1.25 * LINK / 8), SEGMENT - HEADERS)
    times, sizes = sent.time.to_numpy(), sent.len.to_numpy()
    half = len(times) // 2  # after Startup no stretch is faster than the quickest pace
    until = np.cumsum(sizes[half:]) - 1.25 * LINK / 8 * (times[half:] - times[half])
    assert (until - np.minimum.accumulate(until)).max() <= 3 * SEGMENT


@pytest.mark.slow
def test_bbr_probes_the_rtt_every_five_seconds_at_half_the_bdp(long_transfer: Transfer) -> None:
    rows = long_transfer.log.segments
    rows = rows[rows.host == "10.0.0.1"]
    low = rows[(rows.time > 1) & (rows.cwnd < 30_000)]
    episodes = low[low.time.diff().fillna(1) > 0.5]
    assert len(episodes) == 2
    assert 5.0 < float(episodes.time.diff().iloc[1]) < 5.5
    bdp = LINK * 0.0412 / 8 * (SEGMENT - HEADERS) / SEGMENT
    assert low.inflight.median() == pytest.approx(bdp / 2, abs=2 * SEGMENT)
    for begin in episodes.time:
        during = low[low.time.between(begin, begin + 1)]
        assert 0.2 < during.time.max() - begin < 0.35


@pytest.mark.slow
def test_bbr_is_the_same_on_every_run() -> None:
    path = Path(rate=LINK, delay=0.02, loss=0.005, queue=40)
    logs = [bytes(transfer(1_000_000, path, seed=seed).log) for seed in (3, 3, 4)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_one_percent_of_random_loss_does_not_bring_bbr_down(seed: int) -> None:
    path = Path(rate=LINK, delay=0.02, queue=100, loss=0.01, seed=seed)
    lossy = transfer(6_000_000, path)
    assert lossy.throughput > 0.7 * LINK * (SEGMENT - HEADERS) / SEGMENT
    sent = data_sent(lossy.log)
    assert 0.005 < (sent.why != "data").mean() < 0.02
    assert (sent.groupby("time").len.sum() <= 2 * (SEGMENT - HEADERS)).all()  # resent ones as well


@pytest.mark.slow
def test_without_sack_duplicate_acks_tell_what_was_delivered() -> None:
    """4.1.3.5.1. Else all that arrived behind a hole seems to arrive when it is filled."""
    path = Path(rate=LINK, delay=0.02, queue=100, loss=0.01, seed=1)
    simulation = Simulation(up=path, down=Path(delay=0.02), seed=1, config=BUFFERS)
    lossy = simulation.transfer(6_000_000, congestion="bbr", sack=False)
    assert lossy.throughput > 0.7 * LINK * (SEGMENT - HEADERS) / SEGMENT


@pytest.mark.slow
def test_a_short_queue_does_not_make_bbr_lose_much() -> None:
    done = transfer(6_000_000, Path(rate=LINK, delay=0.02, queue=10))
    assert done.throughput > 0.85 * LINK
    assert (data_sent(done.log).why != "data").mean() < 0.03


@pytest.mark.slow
def test_two_bbr_flows_share_fairly() -> None:
    path = Path(rate=LINK, delay=0.02, queue=50)
    simulation = Simulation(up=path, down=Path(delay=0.02), seed=1, config=BUFFERS)
    client, server = simulation.hosts(congestion="bbr")
    loop, listener = client.loop, server.stack.listen(80)
    senders, receivers, received = [], [], {}

    def turn() -> bool:
        now = loop.now()
        if len(senders) < 2 and now >= len(senders) * SECOND:  # the second comes a second later
            senders.append(client.stack.connect(("10.0.0.2", 80), now))
        for conn in senders:
            if conn.synchronized and conn.queue.room > 1 << 20:
                conn.send(bytes(1 << 20), now)
        while (conn := listener.accept()) is not None:
            receivers.append(conn)
        for conn in receivers:
            port = conn.remote[1]
            received[port] = received.get(port, 0) + len(conn.recv(1 << 30, now))
        return False

    with loop.lock:
        for until in (1, 8):
            loop.run_until(turn, until * SECOND)
        before = dict(received)
        loop.run_until(turn, 16 * SECOND)
    shares = [received[port] - before[port] for port in received]
    jain = sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
    assert len(shares) == 2
    assert jain > 0.95
    assert sum(shares) * 8 / 8 > 0.85 * LINK


@pytest.mark.slow
def test_bbr_sends_on_at_its_rate_after_idleness() -> None:
    client, server = Simulation(DEEP, seed=1, config=BUFFERS).hosts(congestion="bbr")
    loop, listener = client.loop, server.stack.listen(80)
    conn = client.stack.connect(("10.0.0.2", 80), 0)
    accepted = []

    def turn() -> bool:
        while (new := listener.accept()) is not None:
            accepted.append(new)
        for other in accepted:
            other.recv(1 << 30, loop.now())
        return conn.synchronized and not conn.queue.spans and not conn.queue.data

    with loop.lock:
        loop.run_until(turn, SECOND)
        conn.send(bytes(2_000_000), loop.now())
        loop.run_until(turn, 10 * SECOND)
        loop.run_until(lambda: False, 20 * SECOND)  # idle for longer than PROBE_RTT_INTERVAL
        conn.send(bytes(1_000_000), loop.now())
        loop.run_until(turn, 30 * SECOND)
    sent = data_sent(client.log)
    again = sent[sent.time >= 20]
    first = again[again.time < again.time.min() + 0.04]  # the first round trip
    assert first.len.sum() * 8 / 0.04 == pytest.approx(0.99 * LINK * 1448 / 1500, rel=0.1)
    assert (again.cwnd > 50_000).all()  # no PROBE_RTT
    assert (sent.len * 8).sum() == 24_000_000


def test_a_pause_shorter_than_the_timeout_is_idleness_too() -> None:
    """HandleRestartFromIdle (5.4.1): nothing in flight, and the application had nothing to send."""
    client, server = Simulation(DEEP, seed=1, config=BUFFERS).hosts(congestion="bbr")
    loop = client.loop
    server.stack.listen(80)
    conn = client.stack.connect(("10.0.0.2", 80), 0)
    assert isinstance(conn.cc, BBR)
    for at in (SECOND, SECOND + 150 * MS):
        with loop.lock:
            loop.run_until(lambda: False, at)
            conn.send(bytes(1000), loop.now())
            loop.run_until(lambda: False, at + MS)
        assert conn.queue.spans
        assert conn.cc.idle_restart
        assert conn.cc.extra_acked_interval_start == at


@pytest.mark.slow
def test_marks_instead_of_losses_keep_the_queue_short() -> None:
    path = Path(rate=LINK, delay=0.02, queue=300, mark=10)
    simulation = Simulation(up=path, down=Path(delay=0.02), seed=1, config=BUFFERS)
    done = simulation.transfer(6_000_000, congestion="bbr", ecn="ask")
    assert done.throughput > 0.8 * LINK
    assert queue_mean(done.log, 1) < 10
    assert set(data_sent(done.log).why) == {"data"}


@pytest.mark.slow
@pytest.mark.root
def test_bbr_sends_to_the_kernel_over_a_lossy_path() -> None:
    path = Path(delay=0.01, rate=20e6, queue=100, loss=0.01, seed=1)
    body = b"".join(content(2_000_000))
    with Lab(path, config=Config(congestion="bbr"), seed=1) as lab:
        log = lab.new_log()
        with lab.connect((lab.kernel_address, 80), 10, log=log) as sock:
            sock.settimeout(60)
            head = "POST /sink HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: "
            sock.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            with sock.makefile("rb") as file:
                answer = json.loads(file.read().partition(b"\r\n\r\n")[2])
        counters = lab.counters()["Tcp"]
    assert answer == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert counters["InErrs"] == counters["InCsumErrors"] == 0
    segments = log.segments
    sent = segments[(segments.event == "send") & (segments.len > 0)]
    assert "rack" in set(sent.why)
    # Startup at 2.77 times the rate has the largest quantum
    assert sent.groupby("time").len.sum().max() <= send_quantum(round(2.77 * 20e6 / 8), 1448) + 1448
