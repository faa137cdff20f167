"""BBR version 3: send at the rate at which the path delivers (draft-ietf-ccwg-bbr-06).

Loss-based algorithms fill the queue until it overflows. BBR keeps a model of the path instead: the
largest rate of delivery seen lately (max_bw) and the smallest round-trip time (min_rtt). It paces
at about max_bw and keeps about max_bw * min_rtt in flight. To see whether there is more, it sends
faster now and then (UP), makes up for that (DOWN) and goes on (CRUISE); to see the path without a
queue it halves what is in flight every 5 seconds (PROBE_RTT).

Loss bounds the model: for long, when more than 2 % of what was sent to probe is lost
(inflight_longterm); until the next probe, when anything is lost at other times (bw_shortterm,
inflight_shortterm).

Names and sections are the draft's. Without SACK, duplicate ACKs tell what was delivered, but not of
which segment (4.1.3.5.1). A mark for congestion counts as a loss, for the draft leaves the
response open (3.7). Its dice are a function of the time. All state is plain numbers, or tuples that
are replaced: the connection undoes a loss that was none with a copy from before (the draft saves
some of them: 5.5.11).
"""

from typing import TYPE_CHECKING, NamedTuple

from .base import INFINITE, SECOND, CongestionControl
from .pacing import send_quantum
from .rate import Loss, RateSample, Sent

if TYPE_CHECKING:
    from ..tcp.ack import Ack

MIN_RTT_FILTER_LEN = 10 * SECOND  # 2.16.1
PROBE_RTT_INTERVAL = 5 * SECOND  # 2.16.2
PROBE_RTT_DURATION = SECOND // 5
LOSS_THRESH = 0.02  # 2.8
BETA = 0.7
HEADROOM = 0.15
MAX_BW_FILTER_LEN = 2  # 2.11: cycles
EXTRA_ACKED_FILTER_LEN = 10  # 2.12: round trips
PACING_MARGIN = 0.99  # 2.5: 1 % below the estimate drains queues
STARTUP_FULL_LOSS_COUNT = 6  # 5.3.1.3


class BBRState(NamedTuple):
    """BBR.state (5.1.1), and what depends on it alone (5.6.1)."""

    label: str
    pacing_gain: float
    cwnd_gain: float = 2.0


STARTUP = BBRState("startup", 2.77)
DRAIN = BBRState("drain", 0.5)
DOWN = BBRState("probe-bw-down", 0.9)
CRUISE = BBRState("probe-bw-cruise", 1.0)
REFILL = BBRState("probe-bw-refill", 1.0)
UP = BBRState("probe-bw-up", 1.25, 2.25)
PROBE_RTT = BBRState("probe-rtt", 1.0, 0.5)
PROBE_BW = (DOWN, CRUISE, REFILL, UP)

MaxFilter = tuple[tuple[int, int], ...]
"""What a windowed maximum remembers: (time, value), the oldest and largest first."""


class BBR(CongestionControl):
    """Octets, nanoseconds, octets per second; INFINITE where nothing is known or bounded yet."""

    in_recovery = True  # keeps its own cwnd in fast recovery

    state = STARTUP
    idle_restart = False
    prior_cwnd = 0  # the last one that neither loss recovery nor ProbeRTT had made small
    recovery_end = 0  # position whose acknowledgment ends loss recovery, or 0
    # rounds (5.5.1)
    delivered = next_round_delivered = round_count = 0  # delivered: C.delivered
    round_start = False
    cwnd_limited_round = -2  # the last round in which cwnd was used up
    # the model of the path (2.9)
    max_bw = bw = cycle_count = 0
    max_bw_filter: MaxFilter = ()
    min_rtt = min_rtt_stamp = INFINITE
    bw_shortterm = inflight_shortterm = inflight_longterm = INFINITE
    # ACKs that come in bunches (2.12)
    extra_acked = extra_acked_delivered = extra_acked_interval_start = 0
    extra_acked_filter: MaxFilter = ()
    # loss in this round (5.5.10)
    bw_latest = inflight_latest = loss_round_delivered = 0
    is_loss_in_round = False
    lost_ranges = lost_end = 0  # discontiguous ranges, and where the last one ends
    # is the pipe full? (5.3.1.2)
    full_bw_reached = full_bw_now = False
    full_bw = full_bw_count = 0
    # probing for bandwidth (2.14)
    drain_start_round = cycle_stamp = bw_probe_wait = rounds_since_probe_up = 0
    probe_stopping = False  # BBR.ack_phase is ACKS_PROBE_STOPPING
    is_bw_probe_sample = prev_probe_too_high = prev_probe_precautionary = False
    bw_probe_up_acked = bw_probe_up_rounds = 0
    probe_up_acked_per_inc = INFINITE
    # probing for the round-trip time (2.16.2)
    probe_rtt_min_delay = probe_rtt_min_stamp = INFINITE
    probe_rtt_done_stamp = 0  # or 0, while too much is in flight
    probe_rtt_expired = probe_rtt_round_done = False

    def __init__(self, initial_window: int, mss: int) -> None:
        super().__init__(initial_window, mss)
        self._init_pacing_rate(SECOND // 1000)

    # --- what the connection calls ---

    @property
    def stage(self) -> str:
        return self.state.label

    @property
    def holds_back(self) -> bool:
        return self.state is PROBE_RTT  # MarkConnectionAppLimited (5.3.4.3)

    def acked(self, ack: "Ack") -> None:
        """UpdateOnACK (5.2.3)."""
        now, rs = ack.now, ack.rate
        rtt = ack.rtt if rs is None or rs.rtt is None else rs.rtt
        if rtt and self.min_rtt == INFINITE:  # the first one
            self._init_pacing_rate(rtt)
        if rs is None:
            self._update_min_rtt(rtt, now)
            return
        self.delivered = rs.total
        if ack.flight + self._mss > self.cwnd:
            self.cwnd_limited_round = self.round_count
        self._take_losses(ack, rs)
        self._update_delivery_signals(rs)
        self._update_ack_aggregation(ack)
        self._check_full_bw_reached(rs)
        self._check_startup_and_drain(rs, now)
        self._update_probe_bw_cycle_phase(ack.delivered, rs, now)
        self._update_min_rtt(rtt, now)
        self._check_probe_rtt(rs, now)
        self.bw = min(self.max_bw, self.bw_shortterm)  # BoundBWForModel
        self._set_pacing_rate(self.state.pacing_gain)
        self._set_cwnd(ack)

    def lost(self, flight: int, now: int) -> None:
        """OnEnterFastRecovery (5.6.4.4), or a mark for congestion was echoed."""
        self._save_cwnd()
        self.recovery_end = INFINITE  # known with the next ACK, which also notes the loss

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """OnEnterRTO (5.6.4.4)."""
        self.lost(flight, now)
        self.cwnd = self._mss

    def restart(self, window: int, now: int) -> None:
        """HandleRestartFromIdle (5.4.1)."""
        self.idle_restart = True
        self.extra_acked_interval_start = now
        if self.state in PROBE_BW:
            self._set_pacing_rate(1.0)
        elif self.state is PROBE_RTT:
            self._check_probe_rtt_done(now)

    # --- rounds, rates and losses (5.5) ---

    def _update_delivery_signals(self, rs: RateSample) -> None:
        """UpdateLatestDeliverySignals, UpdateCongestionSignals (5.5.10.3), UpdateMaxBw (5.5.5)."""
        self.round_start = rs.sent.delivered >= self.next_round_delivered
        if self.round_start:  # UpdateRound (5.5.1)
            self._start_round()
            self.round_count += 1
            self.rounds_since_probe_up += 1
        if rs.rate and (rs.rate >= self.max_bw or not rs.sent.app_limited):
            window = (self.cycle_count, MAX_BW_FILTER_LEN)
            self.max_bw_filter = _update_max(self.max_bw_filter, rs.rate, *window)
            self.max_bw = self.max_bw_filter[0][1]
        self.bw_latest = max(self.bw_latest, rs.rate)
        self.inflight_latest = max(self.inflight_latest, rs.delivered)
        if rs.sent.delivered >= self.loss_round_delivered:
            self.loss_round_delivered = self.delivered
            self._adapt_lower_bounds(rs)
            self.bw_latest, self.inflight_latest = rs.rate, rs.delivered

    def _start_round(self) -> None:
        self.next_round_delivered = self.delivered

    def _update_ack_aggregation(self, ack: "Ack") -> None:
        """UpdateACKAggregation (5.5.9): the most that was acknowledged beyond bw * interval."""
        interval = ack.now - self.extra_acked_interval_start
        expected_delivered = self.bw * interval // SECOND
        if self.extra_acked_delivered <= expected_delivered:  # the bunch is over
            self.extra_acked_delivered = expected_delivered = 0
            self.extra_acked_interval_start = ack.now
        self.extra_acked_delivered += ack.delivered
        extra = min(self.extra_acked_delivered - expected_delivered, self.cwnd)
        window = (self.round_count, EXTRA_ACKED_FILTER_LEN if self.full_bw_reached else 1)
        self.extra_acked_filter = _update_max(self.extra_acked_filter, extra, *window)
        self.extra_acked = self.extra_acked_filter[0][1]

    def _take_losses(self, ack: "Ack", rs: RateSample) -> None:
        """HandleLostPacket (5.5.10.2) for each. A mark ends Startup and probes, as much loss does;
        at other times `lost` is called.
        """
        if self.recovery_end == INFINITE:
            self._note_loss()
        for loss in rs.losses:
            self._note_loss()
            self.lost_ranges += loss.start != self.lost_end
            self.lost_end = loss.end
            if self.is_bw_probe_sample and _is_inflight_too_high(loss.lost, loss.sent, rs):
                self._handle_inflight_too_high(_inflight_at_loss(loss), loss.sent, ack.now)
        if ack.marked:
            self.full_bw_reached |= self.state is STARTUP
            if self.is_bw_probe_sample:
                self._handle_inflight_too_high(rs.sent.in_flight, rs.sent, ack.now)

    def _note_loss(self) -> None:
        if not self.is_loss_in_round:
            self.is_loss_in_round = True
            self.loss_round_delivered, self.lost_ranges = self.delivered, 0

    def _handle_inflight_too_high(self, in_flight: int, sent: Sent, now: int) -> None:
        self.prev_probe_too_high = True
        self.is_bw_probe_sample = False  # once for each probe
        if not sent.app_limited:
            self.inflight_longterm = max(in_flight, int(BETA * self._target_inflight()))
        if self.state is UP:
            self._start_probe_bw_down(now)

    def _adapt_lower_bounds(self, rs: RateSample) -> None:
        """Once a round: AdaptLowerBoundsFromCongestion, or CheckStartupHighLoss (5.3.1.3)."""
        lossy, self.is_loss_in_round = self.is_loss_in_round, False
        if not lossy or self.state in (REFILL, UP):
            return
        if self.state is STARTUP:
            enough = self.lost_ranges >= STARTUP_FULL_LOSS_COUNT or not rs.selective
            if enough and _is_inflight_too_high(rs.lost, rs.sent, rs):
                self.full_bw_reached = True
                self.inflight_longterm = max(self._bdp_multiple(self.bw), self.inflight_latest)
            return
        bw = self.max_bw if self.bw_shortterm == INFINITE else self.bw_shortterm
        inflight = self.cwnd if self.inflight_shortterm == INFINITE else self.inflight_shortterm
        self.bw_shortterm = max(self.bw_latest, int(BETA * bw))
        self.inflight_shortterm = max(self.inflight_latest, int(BETA * inflight))

    def _reset_short_term_model(self) -> None:
        self.bw_shortterm = self.inflight_shortterm = INFINITE

    # --- Startup and Drain (5.3.1, 5.3.2) ---

    def _check_full_bw_reached(self, rs: RateSample) -> None:
        """CheckFullBWReached (5.3.1.2): three rounds in which the rate did not grow by 25 %."""
        if self.full_bw_now or not self.round_start or rs.sent.app_limited:
            return
        if rs.rate >= self.full_bw * 1.25:
            self._reset_full_bw(rs.rate)
            return
        self.full_bw_count += 1
        self.full_bw_now = self.full_bw_count >= 3
        self.full_bw_reached |= self.full_bw_now

    def _reset_full_bw(self, bw: int) -> None:
        self.full_bw, self.full_bw_count, self.full_bw_now = bw, 0, False

    def _check_startup_and_drain(self, rs: RateSample, now: int) -> None:
        """CheckStartupDone and CheckDrainDone."""
        if self.state is STARTUP and self.full_bw_reached:
            self.state = DRAIN
            self.drain_start_round = self.round_count
        if self.state is DRAIN:
            late = self.round_count > self.drain_start_round + 3
            if late or rs.inflight <= self._inflight(self.bw):
                self._start_probe_bw_down(now)

    # --- ProbeBW (5.3.3) ---

    def _update_probe_bw_cycle_phase(self, acked: int, rs: RateSample, now: int) -> None:
        """UpdateProbeBWCyclePhase (5.3.3.9)."""
        if not self.full_bw_reached or self._adapt_long_term_model(acked, rs):
            return
        if self.state in (DOWN, CRUISE) and self._is_time_to_probe_bw(now):
            self._start_probe_bw_refill()
        elif self.state is DOWN and self._is_time_to_cruise(rs):
            self.state = CRUISE
        elif self.state is REFILL and self.round_start:  # after one round
            self.is_bw_probe_sample = True
            self._start_probe_bw_up(rs)
        elif self.state is UP and self._is_time_to_go_down(rs):
            self.prev_probe_too_high = False  # not yet
            self._start_probe_bw_down(now)

    def _adapt_long_term_model(self, acked: int, rs: RateSample) -> bool:
        """AdaptLongTermModel; True when that decided on another state."""
        if self.probe_stopping and self.round_start:  # no more samples of the last probe
            self.is_bw_probe_sample = self.probe_stopping = False
            if self.state in PROBE_BW:
                self.cycle_count += not rs.sent.app_limited  # AdvanceMaxBwFilter
                if self.prev_probe_precautionary and not self.prev_probe_too_high:
                    self._start_probe_bw_refill()  # it did no harm: probe in earnest (5.3.3.6)
                    return True
        if self.inflight_longterm != INFINITE and not _is_inflight_too_high(rs.lost, rs.sent, rs):
            self.inflight_longterm = max(self.inflight_longterm, rs.sent.in_flight)
            if self.state is UP and self._is_bounded_by_inflight_longterm():
                self._probe_inflight_longterm_upward(acked)
        return False

    def _probe_inflight_longterm_upward(self, acked: int) -> None:
        """By 1, 2, 4, ... segments a round."""
        self.bw_probe_up_acked += acked
        delta, self.bw_probe_up_acked = divmod(self.bw_probe_up_acked, self.probe_up_acked_per_inc)
        self.inflight_longterm += delta * self._mss
        if self.round_start:
            self._raise_inflight_longterm_slope()

    def _raise_inflight_longterm_slope(self) -> None:
        self.probe_up_acked_per_inc = max(self.cwnd >> self.bw_probe_up_rounds, self._mss)
        self.bw_probe_up_rounds = min(self.bw_probe_up_rounds + 1, 30)

    def _is_bounded_by_inflight_longterm(self) -> bool:
        is_cwnd_limited = self.cwnd_limited_round >= self.round_count - 1
        return is_cwnd_limited and self.cwnd >= self.inflight_longterm

    def _is_time_to_probe_bw(self, now: int) -> bool:
        """After 2 to 3 seconds; or after as many rounds as Reno needs to get a loss (5.3.3.8)."""
        rounds = min(self._target_inflight() // self._mss, 63)
        return now > self.cycle_stamp + self.bw_probe_wait or self.rounds_since_probe_up >= rounds

    def _is_time_to_cruise(self, rs: RateSample) -> bool:
        return rs.inflight <= min(self._inflight_with_headroom(), self._inflight(self.max_bw))

    def _is_time_to_go_down(self, rs: RateSample) -> bool:
        if self.prev_probe_too_high and rs.inflight >= self.inflight_longterm:
            self.prev_probe_precautionary = True
            return True
        if self._is_bounded_by_inflight_longterm():
            self._reset_full_bw(rs.rate)  # it is not the path that limits the rate
        return self.full_bw_now

    def _start_probe_bw_down(self, now: int) -> None:
        self.is_loss_in_round = False  # ResetCongestionSignals
        self.bw_latest = self.inflight_latest = 0
        self.probe_up_acked_per_inc = INFINITE
        # PickProbeWait: the draft's dice are a step of a linear congruential generator from `now`
        dice = (now * 6364136223846793005 + 1442695040888963407) % (1 << 64) >> 32
        self.rounds_since_probe_up = dice % 2
        self.bw_probe_wait = 2 * SECOND + (dice * SECOND >> 32)
        self.cycle_stamp = now
        self.probe_stopping = True
        self._start_round()
        self.state = DOWN

    def _start_probe_bw_refill(self) -> None:
        self._reset_short_term_model()
        self.bw_probe_up_rounds = self.bw_probe_up_acked = 0
        self.prev_probe_precautionary = self.probe_stopping = False
        self._start_round()
        self.state = REFILL

    def _start_probe_bw_up(self, rs: RateSample) -> None:
        self._start_round()
        self._reset_full_bw(rs.rate)
        self.state = UP
        self._raise_inflight_longterm_slope()

    # --- ProbeRTT (5.3.4) ---

    def _update_min_rtt(self, rtt: int | None, now: int) -> None:
        self.probe_rtt_expired = now > self.probe_rtt_min_stamp + PROBE_RTT_INTERVAL
        if rtt is not None and (rtt < self.probe_rtt_min_delay or self.probe_rtt_expired):
            self.probe_rtt_min_delay, self.probe_rtt_min_stamp = rtt, now
        expired = now > self.min_rtt_stamp + MIN_RTT_FILTER_LEN
        if self.probe_rtt_min_delay < self.min_rtt or expired:
            self.min_rtt, self.min_rtt_stamp = self.probe_rtt_min_delay, self.probe_rtt_min_stamp

    def _check_probe_rtt(self, rs: RateSample, now: int) -> None:
        if self.state is not PROBE_RTT and self.probe_rtt_expired and not self.idle_restart:
            self._save_cwnd()
            self.state = PROBE_RTT
            self.probe_rtt_done_stamp = 0
            self.probe_stopping = True
            self._start_round()
        if self.state is PROBE_RTT:
            self._handle_probe_rtt(rs, now)
        self.idle_restart = False

    def _handle_probe_rtt(self, rs: RateSample, now: int) -> None:
        """Half the BDP in flight, for 200 ms and a round."""
        if not self.probe_rtt_done_stamp:
            if rs.inflight <= self._probe_rtt_cwnd():
                self.probe_rtt_done_stamp = now + PROBE_RTT_DURATION
                self.probe_rtt_round_done = False
                self._start_round()
            return
        self.probe_rtt_round_done |= self.round_start
        if self.probe_rtt_round_done:
            self._check_probe_rtt_done(now)

    def _check_probe_rtt_done(self, now: int) -> None:
        if not 0 < self.probe_rtt_done_stamp < now:
            return
        self.probe_rtt_min_stamp = now  # from here to the next one
        self.cwnd = max(self.cwnd, self.prior_cwnd)
        self._reset_short_term_model()
        if self.full_bw_reached:
            self._start_probe_bw_down(now)
        self.state = CRUISE if self.full_bw_reached else STARTUP

    # --- the controls (5.6) ---

    def _init_pacing_rate(self, rtt: int) -> None:
        """InitPacingRate (5.6.2): the initial window in a round trip, of 1 ms if none is known."""
        rate = int(STARTUP.pacing_gain * self._initial_window * SECOND / rtt)
        self.pacing_rate = max(rate, 1)  # a segment in minutes is a rate too

    def _set_pacing_rate(self, gain: float) -> None:
        rate = int(gain * self.bw * PACING_MARGIN)
        if rate and (self.full_bw_reached or rate > (self.pacing_rate or 0)):
            self.pacing_rate = rate

    def _set_cwnd(self, ack: "Ack") -> None:
        """SetCwnd (5.6.4.6), BoundCwndForProbeRTT (5.6.4.5) and BoundCwndForModel (5.6.4.7)."""
        if self.recovery_end == INFINITE:
            self.recovery_end = ack.nxt
        elif 0 < self.recovery_end <= ack.una:  # all is repaired: what cwnd was before (5.6.4.4)
            self.recovery_end = 0
            self.cwnd = max(self.cwnd, self.prior_cwnd)
        max_inflight = self._inflight(self.bw, self.state.cwnd_gain, self.extra_acked)
        if self.full_bw_reached:
            self.cwnd = min(self.cwnd + ack.delivered, max_inflight)
        elif self.cwnd < max_inflight or self.delivered < self._initial_window:
            self.cwnd += ack.delivered
        cap = self.inflight_shortterm
        if self.state in (CRUISE, PROBE_RTT):
            cap = min(cap, self._inflight_with_headroom())
        elif self.state in PROBE_BW:
            cap = min(cap, self.inflight_longterm)
        if self.state is PROBE_RTT:
            cap = min(cap, self._probe_rtt_cwnd())
        self.cwnd = max(min(self.cwnd, cap), 4 * self._mss)  # BBR.MinPipeCwnd

    def _save_cwnd(self) -> None:
        calm = not self.recovery_end and self.state is not PROBE_RTT
        self.prior_cwnd = self.cwnd if calm else max(self.prior_cwnd, self.cwnd)

    def _bdp_multiple(self, bw: int, gain: float = 1.0) -> int:
        """BDPMultiple (5.6.4.2)."""
        known = self.min_rtt < INFINITE
        return int(gain * bw * self.min_rtt / SECOND) if known else self._initial_window

    def _inflight(self, bw: int, gain: float = 1.0, extra_acked: int = 0) -> int:
        """Inflight and QuantizationBudget (5.6.4.2): enough to keep the machines busy as well."""
        offload_budget = 3 * send_quantum(self.pacing_rate or 0, self._mss)
        cap = max(self._bdp_multiple(bw, gain) + extra_acked, offload_budget, 4 * self._mss)
        return cap + 2 * self._mss if self.state is UP else cap

    def _target_inflight(self) -> int:
        return min(self._bdp_multiple(self.bw), self.cwnd)

    def _probe_rtt_cwnd(self) -> int:
        return max(self._bdp_multiple(self.bw, PROBE_RTT.cwnd_gain), 4 * self._mss)

    def _inflight_with_headroom(self) -> int:
        """Room for other flows; of INFINITE it is more than enough, too."""
        headroom = max(self._mss, int(HEADROOM * self.inflight_longterm))
        return max(self.inflight_longterm - headroom, 4 * self._mss)


def _update_max(samples: MaxFilter, value: int, time: int, length: int) -> MaxFilter:
    """UpdateWindowedMaxFilter: the first is the largest of the last `length` units of time."""
    kept = tuple((t, v) for t, v in samples if t > time - length and v > value)
    return kept if kept and kept[-1][0] == time else (*kept, (time, value))


def _is_inflight_too_high(lost: int, sent: Sent, rs: RateSample) -> bool:
    """IsInflightTooHigh (5.5.10.2): `lost` since `sent`."""
    return lost > (LOSS_THRESH if rs.selective else 0) * sent.in_flight


def _inflight_at_loss(loss: Loss) -> int:
    """InflightAtLoss (5.5.10.2): what was in flight when the losses crossed the threshold."""
    size = loss.end - loss.start
    inflight_prev, lost_prev = loss.sent.in_flight - size, loss.lost - size
    return inflight_prev + int((LOSS_THRESH * inflight_prev - lost_prev) / (1 - LOSS_THRESH))
