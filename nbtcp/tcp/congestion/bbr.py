"""BBR version 3: send at the rate at which the path delivers (draft-ietf-ccwg-bbr-06).

Loss-based algorithms fill the queue until it overflows. BBR keeps a model of the path instead: the
largest rate of delivery seen lately (max_bw) and the smallest round-trip time (min_rtt). It paces
at about max_bw and keeps about max_bw * min_rtt in flight. To see whether there is more, it sends
faster now and then (UP), makes up for that (DOWN) and goes on (CRUISE); to see the path without a
queue it halves what is in flight every 5 seconds (PROBE_RTT).

Loss bounds the model: for long, when more than 2 % of what was sent to probe is lost
(inflight_longterm); until the next probe, when anything is lost at other times (bw_shortterm,
inflight_shortterm).

Names and sections are the draft's. Left out is its allowance for ACKs that come in bunches
(extra_acked, 5.5.9). Without SACK the samples are poor (4.1.3.5.1), and so is what comes of them. A
mark for congestion counts as a loss, for the draft leaves the response open (3.7). Its dice are a
function of the time. All state is plain numbers: the connection undoes a loss that was none with a
copy from before (the draft saves some of them: 5.5.11).
"""

from ...why import Labelled
from ..ack import Ack
from ..pacing import send_quantum
from ..rate import Loss, RateSample, Sent
from ..rtt import SECOND
from .base import INFINITE, CongestionControl

MIN_RTT_FILTER_LEN = 10 * SECOND  # 2.16.1
PROBE_RTT_INTERVAL = 5 * SECOND  # 2.16.2
PROBE_RTT_DURATION = SECOND // 5
LOSS_THRESH = 0.02  # 2.8
BETA = 0.7
HEADROOM = 0.15
PACING_MARGIN = 0.99  # 2.5: 1 % below the estimate drains queues
STARTUP_FULL_LOSS_COUNT = 6  # 5.3.1.3


class BBRState(Labelled):
    """BBR.state (5.1.1)."""

    STARTUP = 0
    DRAIN = 1
    PROBE_BW_DOWN = 2
    PROBE_BW_CRUISE = 3
    PROBE_BW_REFILL = 4
    PROBE_BW_UP = 5
    PROBE_RTT = 6


STARTUP, DRAIN, DOWN, CRUISE, REFILL, UP, PROBE_RTT = BBRState
GAINS = {  # 5.6.1: pacing gain, cwnd gain
    STARTUP: (2.77, 2.0),
    DRAIN: (0.5, 2.0),
    DOWN: (0.9, 2.0),
    CRUISE: (1.0, 2.0),
    REFILL: (1.0, 2.0),
    UP: (1.25, 2.25),
    PROBE_RTT: (1.0, 0.5),
}


class BBR(CongestionControl):
    """Octets, nanoseconds, octets per second; INFINITE where nothing is known or bounded yet."""

    in_recovery = True  # keeps its own cwnd in fast recovery
    ssthresh = INFINITE  # not used

    idle_restart = False
    prior_cwnd = 0  # the last one that neither a timeout nor ProbeRTT had made small
    timeout_end = 0  # position whose acknowledgment ends a timeout's repair, or 0
    # rounds (5.5.1)
    delivered = next_round_delivered = round_count = 0  # delivered: C.delivered
    round_start = False
    app_limited_until = 0  # C.delivered up to which samples count as application-limited
    cwnd_limited = cwnd_limited_before = False  # was cwnd used up in this round, in the one before?
    # the model of the path (2.9)
    max_bw = bw = 0
    max_bw_now = max_bw_before = 0  # the filter of 5.5.3: maxima of this cycle and the one before
    min_rtt = min_rtt_stamp = INFINITE
    bw_shortterm = inflight_shortterm = inflight_longterm = INFINITE
    # loss in this round (5.5.10)
    bw_latest = inflight_latest = loss_round_delivered = 0
    is_loss_in_round = False
    loss_pending = False  # there was one, and the next ACK begins the round
    loss_thresh = LOSS_THRESH
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
        self.cwnd = self._initial_window = initial_window
        self._mss = mss
        self._enter(STARTUP)
        self._init_pacing_rate(SECOND // 1000)

    # --- what the connection calls ---

    @property
    def stage(self) -> str:
        return self.state.label

    def acked(self, ack: Ack) -> None:
        """UpdateOnACK (5.2.3)."""
        now, rs = ack.now, ack.rate
        rtt = ack.rtt if rs is None or rs.rtt is None else rs.rtt
        if rtt and self.min_rtt == INFINITE:  # the first one
            self._init_pacing_rate(rtt)
        if rs is None:
            self._update_min_rtt(rtt, now)
            return
        self.delivered = rs.total
        self.cwnd_limited |= ack.flight + self._mss > self.cwnd
        limited = rs.sent.app_limited or rs.sent.delivered < self.app_limited_until
        self._take_losses(rs, now)
        if ack.marked:
            self._take_mark(rs, now)
        self._update_delivery_signals(rs, limited)
        self._check_full_bw_reached(rs, limited)
        self._check_startup_and_drain(rs, now)
        self._update_probe_bw_cycle(ack.delivered, rs, limited, now)
        self._update_min_rtt(rtt, now)
        self._check_probe_rtt(rs, now)
        self.bw = min(self.max_bw, self.bw_shortterm)  # BoundBWForModel
        self._set_pacing_rate(self.pacing_gain)
        self._set_cwnd(ack)

    def lost(self, flight: int, now: int) -> None:
        """A loss episode begins, or a mark for congestion was echoed."""
        self.loss_pending = True

    def timed_out(self, flight: int, again: bool, now: int) -> None:
        """OnEnterRTO (5.6.4.4)."""
        self.loss_pending = True
        self._save_cwnd()
        self.cwnd = self._mss
        self.timeout_end = INFINITE  # known with the next ACK

    def restart(self, window: int, now: int) -> None:
        """HandleRestartFromIdle (5.4.1); the draft has it after any idleness, we after an RTO."""
        self.idle_restart = True
        if DOWN <= self.state <= UP:
            self._set_pacing_rate(1.0)
        elif self.state is PROBE_RTT:
            self._check_probe_rtt_done(now)

    # --- rounds, rates and losses (5.5) ---

    def _update_delivery_signals(self, rs: RateSample, limited: bool) -> None:
        """UpdateLatestDeliverySignals, UpdateCongestionSignals (5.5.10.3), UpdateMaxBw (5.5.5)."""
        self.round_start = rs.sent.delivered >= self.next_round_delivered
        if self.round_start:  # UpdateRound (5.5.1)
            self._start_round()
            self.round_count += 1
            self.rounds_since_probe_up += 1
            self.cwnd_limited_before, self.cwnd_limited = self.cwnd_limited, False
        if rs.rate >= self.max_bw or not limited:
            self.max_bw_now = max(self.max_bw_now, rs.rate)
            self.max_bw = max(self.max_bw_now, self.max_bw_before)
        self.bw_latest = max(self.bw_latest, rs.rate)
        self.inflight_latest = max(self.inflight_latest, rs.delivered)
        if rs.sent.delivered >= self.loss_round_delivered:
            self.loss_round_delivered = self.delivered
            self._adapt_lower_bounds(rs)
            self.bw_latest, self.inflight_latest = rs.rate, rs.delivered

    def _start_round(self) -> None:
        self.next_round_delivered = self.delivered

    def _take_losses(self, rs: RateSample, now: int) -> None:
        """NoteLoss, and HandleLostPacket for each (5.5.10.2)."""
        self.loss_thresh = LOSS_THRESH if rs.selective else 0.0
        if (self.loss_pending or rs.losses) and not self.is_loss_in_round:
            self.is_loss_in_round = True
            self.loss_round_delivered, self.lost_ranges = self.delivered, 0
        self.loss_pending = False
        for loss in rs.losses:
            self.lost_ranges += loss.start != self.lost_end
            self.lost_end = loss.end
            if self.is_bw_probe_sample and loss.lost > self.loss_thresh * loss.sent.in_flight:
                self._handle_inflight_too_high(self._inflight_at_loss(loss), loss.sent, now)

    def _inflight_at_loss(self, loss: Loss) -> int:
        """InflightAtLoss: what was in flight when the losses crossed the threshold."""
        size = loss.end - loss.start
        before, lost = loss.sent.in_flight - size, loss.lost - size
        return before + max(0, int((self.loss_thresh * before - lost) / (1 - self.loss_thresh)))

    def _take_mark(self, rs: RateSample, now: int) -> None:
        """A mark ends Startup and probes, as much loss does; at other times `lost` is called."""
        if self.is_bw_probe_sample:
            self._handle_inflight_too_high(rs.sent.in_flight, rs.sent, now)
        self.full_bw_reached |= self.state is STARTUP

    def _handle_inflight_too_high(self, in_flight: int, sent: Sent, now: int) -> None:
        self.prev_probe_too_high = True
        self.is_bw_probe_sample = False  # once for each probe
        if not sent.app_limited:
            self.inflight_longterm = max(in_flight, int(BETA * self._target_inflight()))
        if self.state is UP:
            self._start_down(now)

    def _too_high(self, rs: RateSample) -> bool:
        """IsInflightTooHigh: of what was out when the segment that has just arrived was sent."""
        return rs.lost > self.loss_thresh * rs.sent.in_flight

    def _adapt_lower_bounds(self, rs: RateSample) -> None:
        """Once a round: AdaptLowerBoundsFromCongestion, or CheckStartupHighLoss (5.3.1.3)."""
        lossy, self.is_loss_in_round = self.is_loss_in_round, False
        if not lossy or self.state in (REFILL, UP):
            return
        if self.state is STARTUP:
            enough = self.lost_ranges >= STARTUP_FULL_LOSS_COUNT or not rs.selective
            if enough and self._too_high(rs):
                self.full_bw_reached = True
                self.inflight_longterm = max(self._bdp(), self.inflight_latest)
            return
        bw = self.max_bw if self.bw_shortterm == INFINITE else self.bw_shortterm
        inflight = self.cwnd if self.inflight_shortterm == INFINITE else self.inflight_shortterm
        self.bw_shortterm = max(self.bw_latest, int(BETA * bw))
        self.inflight_shortterm = max(self.inflight_latest, int(BETA * inflight))

    # --- Startup and Drain (5.3.1, 5.3.2) ---

    def _check_full_bw_reached(self, rs: RateSample, limited: bool) -> None:
        """CheckFullBWReached (5.3.1.2): three rounds in which the rate did not grow by 25 %."""
        if self.full_bw_now or not self.round_start or limited:
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
            self._enter(DRAIN)
            self.drain_start_round = self.round_count
        if self.state is DRAIN:
            late = self.round_count > self.drain_start_round + 3
            if late or rs.inflight <= self._inflight(self.bw):
                self._start_down(now)

    # --- ProbeBW (5.3.3) ---

    def _update_probe_bw_cycle(self, acked: int, rs: RateSample, limited: bool, now: int) -> None:
        """UpdateProbeBWCyclePhase (5.3.3.9)."""
        if not self.full_bw_reached or self._adapt_long_term_model(acked, rs, limited):
            return
        if self.state in (DOWN, CRUISE) and self._is_time_to_probe_bw(now):
            self._start_refill()
        elif self.state is DOWN and self._is_time_to_cruise(rs):
            self._enter(CRUISE)
        elif self.state is REFILL and self.round_start:  # after one round
            self.is_bw_probe_sample = True
            self._start_up(rs)
        elif self.state is UP and self._is_time_to_go_down(rs):
            self.prev_probe_too_high = False  # not yet
            self._start_down(now)

    def _adapt_long_term_model(self, acked: int, rs: RateSample, limited: bool) -> bool:
        """AdaptLongTermModel; True when that decided on another state."""
        if self.probe_stopping and self.round_start:  # no more samples of the last probe
            self.is_bw_probe_sample = self.probe_stopping = False
            in_probe_bw = DOWN <= self.state <= UP
            if in_probe_bw and not limited:
                self.max_bw_before, self.max_bw_now = self.max_bw_now, 0  # AdvanceMaxBwFilter
            if in_probe_bw and self.prev_probe_precautionary and not self.prev_probe_too_high:
                self._start_refill()  # the careful probe did no harm: probe in earnest (5.3.3.6)
                return True
        if not self._too_high(rs) and self.inflight_longterm != INFINITE:
            self.inflight_longterm = max(self.inflight_longterm, rs.sent.in_flight)
            if self.state is UP and self._is_bounded_by_inflight_longterm():
                self._probe_inflight_longterm_upward(acked)
        return False

    def _probe_inflight_longterm_upward(self, acked: int) -> None:
        """By 1, 2, 4, ... segments a round."""
        self.bw_probe_up_acked += acked
        steps, self.bw_probe_up_acked = divmod(self.bw_probe_up_acked, self.probe_up_acked_per_inc)
        self.inflight_longterm += steps * self._mss
        if self.round_start:
            self._raise_inflight_longterm_slope()

    def _raise_inflight_longterm_slope(self) -> None:
        self.probe_up_acked_per_inc = max(self.cwnd >> self.bw_probe_up_rounds, self._mss)
        self.bw_probe_up_rounds = min(self.bw_probe_up_rounds + 1, 30)

    def _is_bounded_by_inflight_longterm(self) -> bool:
        used = self.cwnd_limited or self.cwnd_limited_before  # C.is_cwnd_limited
        return used and self.cwnd >= self.inflight_longterm

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

    def _start_down(self, now: int) -> None:
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
        self._enter(DOWN)

    def _start_refill(self) -> None:
        self.bw_shortterm = self.inflight_shortterm = INFINITE  # ResetShortTermModel
        self.bw_probe_up_rounds = self.bw_probe_up_acked = 0
        self.prev_probe_precautionary = self.probe_stopping = False
        self._start_round()
        self._enter(REFILL)

    def _start_up(self, rs: RateSample) -> None:
        self._start_round()
        self._reset_full_bw(rs.rate)
        self._enter(UP)
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
            self._enter(PROBE_RTT)
            self.probe_rtt_done_stamp = 0
            self.probe_stopping = True
            self._start_round()
        if self.state is PROBE_RTT:
            self._handle_probe_rtt(rs, now)
        self.idle_restart = False

    def _handle_probe_rtt(self, rs: RateSample, now: int) -> None:
        """Half the BDP in flight, for 200 ms and a round."""
        self.app_limited_until = self.delivered + rs.inflight  # its low samples prove nothing
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
        self.bw_shortterm = self.inflight_shortterm = INFINITE  # ResetShortTermModel
        if self.full_bw_reached:
            self._start_down(now)
        self._enter(CRUISE if self.full_bw_reached else STARTUP)

    # --- the controls (5.6) ---

    def _enter(self, state: BBRState) -> None:
        self.state = state
        self.pacing_gain, self.cwnd_gain = GAINS[state]

    def _init_pacing_rate(self, rtt: int) -> None:
        """InitPacingRate (5.6.2): the initial window in a round trip, of 1 ms if none is known."""
        rate = int(self.pacing_gain * self._initial_window * SECOND / rtt)
        self.pacing_rate = max(rate, 1)  # a segment in minutes is a rate too

    def _set_pacing_rate(self, gain: float) -> None:
        rate = int(gain * self.bw * PACING_MARGIN)
        if rate and (self.full_bw_reached or rate > (self.pacing_rate or 0)):
            self.pacing_rate = rate

    def _set_cwnd(self, ack: Ack) -> None:
        """SetCwnd (5.6.4.6), BoundCwndForProbeRTT (5.6.4.5) and BoundCwndForModel (5.6.4.7)."""
        if self.timeout_end == INFINITE:
            self.timeout_end = ack.nxt
        elif 0 < self.timeout_end <= ack.una:  # all is repaired: what cwnd was before (5.6.4.4)
            self.timeout_end = 0
            self.cwnd = max(self.cwnd, self.prior_cwnd)
        limit = self._inflight(self.bw, self.cwnd_gain)
        if self.full_bw_reached:
            self.cwnd = min(self.cwnd + ack.delivered, limit)
        elif self.cwnd < limit or self.delivered < self._initial_window:
            self.cwnd += ack.delivered
        cap = self.inflight_shortterm
        if self.state in (CRUISE, PROBE_RTT):
            cap = min(cap, self._inflight_with_headroom())
        elif self.state in (DOWN, REFILL, UP):
            cap = min(cap, self.inflight_longterm)
        if self.state is PROBE_RTT:
            cap = min(cap, self._probe_rtt_cwnd())
        self.cwnd = max(min(self.cwnd, cap), 4 * self._mss)  # BBR.MinPipeCwnd

    def _save_cwnd(self) -> None:
        calm = not self.timeout_end and self.state is not PROBE_RTT
        self.prior_cwnd = self.cwnd if calm else max(self.prior_cwnd, self.cwnd)

    def _bdp(self, gain: float = 1.0, bw: int | None = None) -> int:
        """BDPMultiple (5.6.4.2)."""
        if self.min_rtt == INFINITE:
            return self._initial_window
        return int(gain * (self.bw if bw is None else bw) * self.min_rtt / SECOND)

    def _inflight(self, bw: int, gain: float = 1.0) -> int:
        """Inflight and QuantizationBudget (5.6.4.2): enough to keep the machines busy as well."""
        budget = 3 * send_quantum(self.pacing_rate or 0, self._mss)
        limit = max(self._bdp(gain, bw), budget, 4 * self._mss)
        return limit + 2 * self._mss if self.state is UP else limit

    def _target_inflight(self) -> int:
        return min(self._bdp(), self.cwnd)

    def _probe_rtt_cwnd(self) -> int:
        return max(self._bdp(GAINS[PROBE_RTT][1]), 4 * self._mss)

    def _inflight_with_headroom(self) -> int:
        """Room for other flows; of INFINITE it is more than enough, too."""
        headroom = max(self._mss, int(HEADROOM * self.inflight_longterm))
        return max(self.inflight_longterm - headroom, 4 * self._mss)
