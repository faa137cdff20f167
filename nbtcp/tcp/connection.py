"""One TCP connection: the application's calls, the timers, and its place in the log.

The logic is elsewhere and this module joins it: arrives.py (what a segment does to the TCB),
timeouts.py (what a timer does), reaction.py (what a loss does to cwnd) and output.py (what may be
sent). What they tell the log goes through the observer: `note` and `transition` here, and each
segment once.
"""

import errno
from collections.abc import Callable
from html import escape
from typing import Any, Protocol

from ..config import Config
from ..congestion import ALGORITHMS, CongestionControl, initial_window
from ..congestion.pacing import Pacer
from ..congestion.rate import DeliveryRate
from ..why import Event, Why
from ..wire.icmp import IcmpError
from ..wire.segment import ACK, RST, SYN, Segment, endpoints, format_endpoint
from ..wire.seq import unwrap
from . import output
from .arrives import segment_arrives, unwrap_numbers
from .icmp_arrives import icmp_arrives
from .prediction import predicted
from .reassembly import Reassembly
from .recovery import STRATEGIES, Phase, Recovery
from .recovery.prr import ProportionalRateReduction
from .rtt import SECOND, RoundTripTime, ns
from .sendqueue import SendQueue, Span
from .state import RECEIVING, Cause, State, next_state
from .tcb import TCB, TIMESTAMPS_LENGTH, headers_length
from .timeouts import TIMEOUTS
from .timers import NEVER, Timer

FIRST_BUFFER = 128 << 10  # octets, where receive buffers are autotuned
CHALLENGE_ACKS = 10  # in CHALLENGE_PERIOD (RFC 5961 7)
CHALLENGE_PERIOD = 5 * SECOND
_RESETTABLE = RECEIVING | {State.SYN_RECEIVED, State.CLOSE_WAIT}  # RFC 9293 3.10.5


class Observer(Protocol):
    """Who is told what happens; the event log is one."""

    def opened(self, conn: "Connection", now: int) -> None: ...

    def segment(self, conn: "Connection", sent: bool, segment: Segment, now: int) -> None: ...

    def event(
        self, conn: "Connection", event: Event, now: int, old: str, new: str, value: float, why: str
    ) -> None: ...

    def rtt_sample(
        self, conn: "Connection", span: Span, rtt: int, kept: bool, why: Why, now: int
    ) -> None: ...

    def refused(self, host: str, segment: Segment | None, why: Why, now: int) -> None: ...

    def replied(self, host: str, segment: Segment, now: int) -> None: ...


class Connection:
    """A connection in any state. Made by `Stack.connect` or `Listener.accept`.

    `now` is nanoseconds on the clock of whoever drives the stack. `state`, `error` (None or the
    exception that ended the connection) and `tcb` may be read at any time.
    """

    __slots__ = tuple(
        "_challenges _ready _window_began _window_end ack_due cc closed_by_application config "
        "dscp duplicate_acks error flow force heard_at held keepalive keepalives listener local "
        "log_entry observer pacer passive persists progress prr queue reassembly recovery remote "
        "reported reports reset_due restart_window rtt stage state syn_lost tcb timeouts timers "
        "undo wake_at watch".split()
    )

    cc: CongestionControl

    def __init__(
        self,
        flow: bytes,
        config: Config,
        iss: int,
        ts_offset: int,
        ready: dict["Connection", None],
        observer: Observer | None,
    ) -> None:
        self.flow = flow  # of the segments we send, the same for all of them (RFC 9293 MUST-45)
        self.local, self.remote = endpoints(flow)  # (address, port) of this end, and of the peer
        self.config = config
        self.state = State.CLOSED
        self.error: OSError | None = None
        self.tcb = TCB(iss, ts_offset, config)
        self.queue = SendQueue(config.send_buffer)
        first = FIRST_BUFFER if config.autotune else config.receive_buffer
        self.reassembly = Reassembly(min(first, config.receive_buffer))
        self._window_began = self._window_end = 0  # for autotuning: since when, and up to where
        self.rtt = RoundTripTime(ns(config.initial_rto), ns(config.min_rto), ns(config.max_rto))
        self.timers: dict[Timer, int] = {}  # the deadlines of those that run, ns
        self.pacer = Pacer()
        self.recovery: Recovery = STRATEGIES[config.recovery]()
        self.undo: CongestionControl | None = None  # as it was before the last loss episode
        self.prr: ProportionalRateReduction | None = None  # in fast recovery
        self.use_mss(config.mss)
        self.reported: tuple[str, int] | None = None  # what ICMP said last, and when
        self.syn_lost = False  # our SYN had to be sent again
        self.passive = False  # opened from LISTEN (RFC 9293 MUST-11)
        self.listener: Any = None  # the Listener whose SYN queue this connection is in
        self.held: Segment | None = None  # text that came with a SYN, until ESTABLISHED
        self.ack_due: Why | None = None
        self.duplicate_acks = 0  # owed, one for each segment out of order (RFC 5681 3.2)
        self.reset_due: int | None = None  # position of a RST to send
        self.heard_at = 0  # when the peer last sent anything, ns
        self.progress = False  # since the last transmit something new was sent or acknowledged
        self.force: Why | None = None  # send at least an octet whatever the window says
        self.dscp = config.dscp  # may be changed at any time (RFC 9293 SHLD-21)
        self.keepalive, self.keepalives = config.keepalive, 0  # after s; unanswered in a row
        self.reports: list[tuple[int, str, str]] = []  # the last 100: (time in ns, what, text)
        self.closed_by_application = False
        self.observer = observer
        self.log_entry: Any = None  # the observer's
        self.wake_at: int | None = None  # the stack's
        self.watch: Callable[[], None] | None = None  # see Stack.transmit
        self._ready = ready
        self.persists = self.timeouts = 0  # persist and retransmission timeouts in a row
        # The times of the last answers to what is unforged, and to what is perhaps forged.
        self._challenges: tuple[list[int], list[int]] = [], []

    def __repr__(self) -> str:
        names = f"{format_endpoint(*self.local)} > {format_endpoint(*self.remote)}"
        return f"<Connection {names} {self.state.label}>"

    def _repr_html_(self) -> str:
        """For a notebook: the variables of RFC 9293 3.3.1, and cwnd."""
        snd, rcv = self.tcb.snd, self.tcb.rcv
        shown = {"SND.UNA": snd.una, "SND.NXT": snd.nxt, "SND.WND": snd.wnd, "cwnd": self.cc.cwnd}
        shown |= {"RCV.NXT": rcv.nxt, "RCV.WND": rcv.wnd}
        head, cells = ("".join(f"<td>{x}</td>" for x in row) for row in (shown, shown.values()))
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr><tr>{cells}</tr></table>"

    # --- the application's calls (RFC 9293 3.10.1 to 3.10.5) ---

    def open(self, now: int) -> None:
        """Active OPEN: the SYN leaves with the next transmit."""
        self.transition(Cause.ACTIVE_OPEN, now)

    def open_passively(self, listener: Any, syn: Segment, now: int) -> None:
        """A SYN came to a listener: this connection answers it."""
        self.passive = True
        self.tcb.rcv.irs = syn.raw_seq
        self.transition(Cause.PASSIVE_OPEN, now)
        self.listener = listener
        self.receive(syn, now)

    def open_from_cookie(self, listener: Any, syn: Segment, now: int) -> None:
        """As if `syn` had come and our SYN,ACK been sent: a cookie in the next segment says so."""
        self.open_passively(listener, syn, now)
        self.queue.sent(0, 1, now)
        self.tcb.snd.nxt = 1
        self.rtt.fall_back()  # nobody knows when it was sent

    def send(self, data: bytes | bytearray | memoryview, now: int, *, urgent: bool = False) -> int:
        """Queue `data`; returns how many octets the send buffer took, 0 when it is full.

        `urgent` moves the urgent pointer behind it (RFC 9293 MUST-30; new protocols should not:
        SHLD-13).
        Raises what ended the connection, or BrokenPipeError after `shutdown` or `close`.
        """
        if self.error is not None:
            raise self.error
        if self.queue.fin is not None or self.state <= State.LISTEN:
            raise BrokenPipeError(errno.EPIPE, f"cannot send in {self.state.label}: closed by us")
        taken = self.queue.append(data)
        if taken:
            self._ready[self] = None
            if urgent:
                self.tcb.snd.up = self.queue.end
            self.note(Event.CALL, now, new="send", value=taken)
        return taken

    def recv(self, max_bytes: int, now: int) -> bytes:
        """Up to `max_bytes` that have arrived in order; b"" when nothing is there (see `eof`)."""
        data = self.reassembly.read(max_bytes)
        if data:
            self.note(Event.CALL, now, new="recv", value=len(data))
            if self.reassembly.capacity < self.config.receive_buffer:
                self._tune_buffer(now)
            if output.window_update_due(self):
                self.owe_ack(Why.WINDOW_UPDATE)
                self._ready[self] = None
        return data

    @property
    def urgent_left(self) -> int:
        """Octets still to read up to the end of urgent data; 0 when none is known (MUST-33)."""
        return max(0, self.tcb.rcv.up - self.reassembly.taken)

    @property
    def eof(self) -> bool:
        """True when all that the peer sent before its FIN has been read, or nothing more can come;
        `error` tells the one from the other (MUST-12).
        """
        if self.reassembly.size:
            return False
        rcv = self.tcb.rcv
        return self.state is State.CLOSED or (rcv.fin is not None and rcv.nxt > rcv.fin)

    @property
    def synchronized(self) -> bool:
        """True from ESTABLISHED to TIME-WAIT (RFC 9293 3.5.2)."""
        return self.state >= State.ESTABLISHED

    def shutdown(self, now: int) -> None:
        """No more data will be sent: FIN follows what is queued. Receiving goes on: half-close
        (RFC 9293 L-27).
        """
        self.note(Event.CALL, now, new="shutdown")
        if self.queue.fin is not None or self.state is State.CLOSED:
            return
        self.queue.fin = self.queue.end
        # In SYN-SENT the RFC would drop what is queued (3.10.4); here it is delivered, and the FIN
        # waits for ESTABLISHED as in SYN-RECEIVED.
        opening = self.state in (State.SYN_SENT, State.SYN_RECEIVED)
        if not (opening and self.queue.data):
            self.transition(Cause.CLOSE, now)

    def close(self, now: int) -> None:
        """The application is done in both directions.

        Data that it has not read, or that comes later, resets the connection, so that the peer
        learns of the loss (RFC 9293 MAY-1, SHLD-3).
        """
        self.closed_by_application = True
        if self.reassembly.size and self.state in _RESETTABLE:
            self.abort(now)
            return
        self.shutdown(now)
        if self.state is State.FIN_WAIT_2:
            self.wait_time_wait(now)
            self._ready[self] = None

    def abort(self, now: int) -> None:
        """Give up at once; the peer is told with a RST."""
        self.note(Event.CALL, now, new="abort")
        if self.state is State.CLOSED:
            return
        self.reset_due = self.tcb.snd.empty_seq if self.state in _RESETTABLE else None
        closed = self.closed_by_application
        text = "closed with unread data" if closed else "aborted by the application"
        cause = Cause.CLOSE if self.state is State.LISTEN else Cause.ABORT
        self.fail(errno.ECONNABORTED, text, cause, now)

    # --- what the stack calls ---

    def receive(self, segment: Segment, now: int) -> None:
        """A segment of this connection arrived."""
        self.heard_at = now
        if self.keepalives:
            self.keepalives = 0
            self.set_keepalive(self.keepalive, now)
        unwrap_numbers(self, segment)
        if not predicted(self, segment, now):
            segment_arrives(self, segment, now)
        if self.observer is not None:
            self.observer.segment(self, False, segment, now)
        self._ready[self] = None

    def icmp(self, error: IcmpError, now: int) -> int | None:
        """An ICMP error about a segment of ours; returns the path's MTU if it tells a new one."""
        mtu = icmp_arrives(self, error, now)
        self._ready[self] = None
        return mtu

    def limit_path(self, mtu: int) -> bool:
        """The path carries packets of `mtu` octets; False when ours were no larger anyhow.

        The MSS that we offer stays, for the way back may be another (RFC 1191 3.1).
        """
        snd = self.tcb.snd
        snd.path_mss = min(snd.path_mss, mtu - headers_length(self.flow))
        mss = snd.path_mss - (TIMESTAMPS_LENGTH if self.tcb.ts.on else 0)
        smaller = mss < snd.mss
        if smaller:
            snd.mss = mss
            self.cc.use_mss(mss)
        return smaller

    def transmit(self, now: int) -> list[Segment]:
        """The segments to send now."""
        return output.transmit(self, now)

    def deadline(self) -> int | None:
        """When `handle_timer` is next due."""
        return min(self.timers.values(), default=None)

    def handle_timer(self, now: int) -> None:
        """Act on the timers that are due; what one of them sets anew is not due any more."""
        for timer in Timer:
            if self.timers.get(timer, NEVER) > now:
                continue
            del self.timers[timer]
            if timer is not Timer.PACING:  # it only calls for a transmit, which leaves rows enough
                self.note(Event.TIMER_FIRED, now, new=timer.label)
                TIMEOUTS[timer](self, now)
        self._ready[self] = None

    # --- what the steps of arrives.py and output.py call ---

    def transition(self, cause: Cause, now: int) -> None:
        """Change state; the only place that does."""
        old = self.state
        if old is State.CLOSED and self.observer is not None:
            self.observer.opened(self, now)
        self.state = new = next_state(old, cause)
        self._ready[self] = None
        self.note(Event.STATE, now, old=old.label, new=new.label, why=cause.label)
        if self.listener is not None:
            self.listener.settle(self)
        if new is State.ESTABLISHED:
            self.set_keepalive(self.keepalive, now)
            if self.queue.fin is not None:
                self.transition(Cause.CLOSE, now)
        elif new in (State.TIME_WAIT, State.CLOSED, State.LISTEN):
            self.timers.clear()
        if new is State.TIME_WAIT or (new is State.FIN_WAIT_2 and self.closed_by_application):
            self.wait_time_wait(now)

    def fail(self, number: int, text: str, cause: Cause, now: int) -> None:
        """The connection ends abnormally: flush what was to be sent, tell the application.

        `number` is of errno and makes the kind of OSError: ECONNRESET a ConnectionResetError.
        """
        self.error = OSError(number, text)
        self.note(Event.ERROR, now, new=type(self.error).__name__, why=text)
        self.queue = SendQueue(self.config.send_buffer)
        self.queue.fin = 0
        self.transition(cause, now)

    def owe_ack(self, why: Why) -> None:
        """An acknowledgment must leave with the next transmit; the first reason is the one
        recorded.
        """
        if self.ack_due is None:
            self.ack_due = why

    def owe_ack_of(self, octets: int, at_once: bool, now: int) -> None:
        """So many octets came in order: their acknowledgment may wait for company, but neither
        long nor for more than a second full-sized segment (RFC 9293 SHLD-18, SHLD-19, MUST-40).
        """
        rcv, config = self.tcb.rcv, self.config
        rcv.unacked += octets
        if self.ack_due is not None:
            return
        if at_once or rcv.unacked >= config.ack_every * rcv.mss or not config.delayed_ack:
            self.ack_due = Why.ACK
        elif Timer.DELAYED_ACK not in self.timers:
            self.set_timer(Timer.DELAYED_ACK, now + ns(config.delayed_ack), now)

    def wait_time_wait(self, now: int) -> None:
        """(Re)start the 2 MSL timer (RFC 9293 MUST-13, L-21)."""
        self.set_timer(Timer.TIME_WAIT, now + ns(self.config.time_wait), now)

    def challenge_ack(self, now: int, forged: bool = True) -> None:
        """Owe a challenge ACK, unless too many were sent lately (RFC 5961 7).

        What nobody forges, such as a probe of our zero window, has a budget of its own: no flood of
        SYNs can use it up, and still no two stacks can acknowledge each other for ever.
        """
        if self.may_answer(now, forged):
            self.owe_ack(Why.CHALLENGE_ACK)

    def may_answer(self, now: int, forged: bool) -> bool:
        """Answer what is perhaps an attack? Counts the answer; False when there were too many, in
        any such period.
        """
        given = self._challenges[forged]
        few = len(given) < CHALLENGE_ACKS or now - given[0] >= CHALLENGE_PERIOD
        if few:
            given[:] = [*given[1 - CHALLENGE_ACKS :], now]
        return few

    def is_new_incarnation(self, syn: Segment) -> bool:
        """May `syn` end TIME-WAIT early? By timestamp or number (RFC 6191 2; SHLD-4, MAY-2)."""
        if syn.flags & (SYN | ACK | RST) != SYN:
            return False
        ts, rcv = self.tcb.ts, self.tcb.rcv
        newer = unwrap(syn.raw_seq, rcv.irs, rcv.nxt) > rcv.nxt
        if syn.tsval is None or not self.config.timestamps:
            return newer
        ahead = (syn.tsval - ts.recent) & 0xFFFFFFFF
        return not ts.on or 0 < ahead < 1 << 31 or (ahead == 0 and newer)

    def set_keepalive(self, seconds: float | None, now: int) -> None:
        """Probe the peer after so many seconds of silence; None: never (RFC 9293 MUST-24)."""
        self.keepalive = seconds
        self._ready[self] = None  # for the stack to see the timer
        if seconds is None:
            self.stop_timer(Timer.KEEPALIVE, now)
        elif self.synchronized and self.state is not State.TIME_WAIT:
            self.set_timer(Timer.KEEPALIVE, now + ns(seconds), now)

    def reconfigure(self, config: Config, now: int) -> None:
        """What of `config` may change while a connection is open does: the buffers' sizes, Nagle,
        delayed ACKs, DSCP, TTL, keep-alives and the user timeout; the rest is settled by the SYNs.
        """
        self.config = config
        self.dscp = config.dscp
        self.queue.capacity = config.send_buffer
        if not config.autotune:
            self.reassembly.capacity = config.receive_buffer
        self.set_keepalive(config.keepalive, now)

    def report(self, what: str, text: str, now: int) -> None:
        """Urgent data, or trouble that is no error: for the application (RFC 9293 MUST-47, U-2),
        unless it does not want to know of such trouble (SHLD-20).
        """
        self.note(Event.REPORT, now, new=what, why=text)
        if self.config.reports or what == "urgent":
            self.reports = [*self.reports[-99:], (now, what, text)]

    def use_mss(self, mss: int, window: int | None = None) -> None:
        """Eff.snd.MSS is known: congestion control starts from it, with `window` octets if
        given.
        """
        self.tcb.snd.mss = mss
        self.restart_window = window or self.config.initial_window or initial_window(mss)
        self.cc = ALGORITHMS[self.config.congestion](self.restart_window, mss)
        self.stage = self.cc.stage  # as the log knows it
        paced = self.cc.pacing_rate is not None
        self.queue.rate = DeliveryRate(self.recovery.selective) if paced else None

    def set_timer(self, timer: Timer, at: int, now: int) -> None:
        self.timers[timer] = at
        if self.observer is not None:
            value = (at - now) / SECOND
            self.observer.event(self, Event.TIMER_SET, now, "", timer.label, value, "")

    def stop_timer(self, timer: Timer, now: int) -> None:
        if timer in self.timers:
            del self.timers[timer]
            self.note(Event.TIMER_STOPPED, now, new=timer.label)

    def set_persist_timer(self, now: int) -> None:
        """Until a zero window is probed: the RTO, doubled each time (RFC 9293 SHLD-29, SHLD-30).

        Until a segment goes out although the window is small: 0.1 to 1 s (L-22, rule 4).
        """
        if self.tcb.snd.wnd:
            interval = min(max(self.rtt.rto, SECOND // 10), SECOND)
        else:
            interval = min(self.rtt.rto << min(self.persists, 16), ns(self.config.max_rto))
        self.set_timer(Timer.PERSIST, now + interval, now)

    def window_opened(self, now: int) -> None:
        """The peer's window is open again: what was sent into the closed one goes out anew.

        R2 counts from here (RFC 9293 MUST-37, SHLD-17).
        """
        self.persists = 0
        self.stop_timer(Timer.PERSIST, now)
        spans = self.queue.spans
        for span in spans:
            span.first_sent = now
        if spans and spans[0].why is Why.WINDOW_PROBE:
            self.queue.mark_lost(spans[0], Why.WINDOW_OPENED, urgently=True)

    # --- the log ---

    def note(
        self, event: Event, now: int, old: str = "", new: str = "", value: float = 0, why: str = ""
    ) -> None:
        """An entry in the log that is not a segment."""
        if self.observer is not None:
            self.observer.event(self, event, now, old, new, value, why)

    def note_phase(self, before: Phase, lost_before: int, why: Why, now: int) -> None:
        """Record what recovery decided since it was in phase `before`."""
        if self.queue.lost_octets > lost_before:
            value = self.queue.lost_octets - lost_before
            self.note(Event.LOSS, now, value=value, why=why.label)
        if (after := self.recovery.phase) is not before:
            self.note(Event.RECOVERY, now, old=before.label, new=after.label, why=why.label)

    def peer(self) -> str:
        """The peer, for error messages."""
        address, port = self.remote
        return f"{address} port {port}"

    def heard(self, since: int) -> str:
        """What ICMP has said since then (ns), for error messages: "" or a clause."""
        said = self.reported
        return f"; {said[0]}" if said is not None and said[1] >= since else ""

    def _tune_buffer(self, now: int) -> None:
        """Double the receive buffer when the peer fills the whole window within two round trips:
        then it may be the window that limits it.
        """
        rcv, capacity = self.tcb.rcv, self.reassembly.capacity
        if rcv.nxt < self._window_end:
            return
        quick = now - self._window_began <= 2 * (self.rtt.srtt or 0)
        if self._window_end and quick:
            self.reassembly.capacity = min(2 * capacity, self.config.receive_buffer)
        self._window_began, self._window_end = now, rcv.nxt + rcv.wnd
