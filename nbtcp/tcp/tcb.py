"""The transmission control block: every variable of a connection, under the RFC's name (RFC 9293
3.3.1).

All sequence variables are positions (wire/seq.py): 0 is the SYN. SND.NXT is `tcb.snd.nxt`. Windows
are integers of any size (REC-1).
"""

from ..config import Config
from ..wire import ip
from ..wire.segment import HEADER_LENGTH, MAX_WSCALE, is_ipv4

MAX_RAW_WINDOW = 65535
TICK = 1_000_000  # ns: what a timestamp counts
TIMESTAMPS_LENGTH = 12  # the option with its padding, in every segment


class SendVariables:
    """The send sequence variables."""

    __slots__ = tuple(
        "iss max_wnd mss nxt path_mss reduced say_cwr sent_at shift sml una up wl1 wnd".split()
    )

    def __init__(self, iss: int, mss: int) -> None:
        self.iss = iss  # initial send sequence number, 32 bits as on the wire
        self.una = 0  # oldest unacknowledged position
        self.nxt = 0  # next position to send
        self.wnd = 0  # send window, octets from una
        self.up = 0  # the position behind urgent data (RFC 9293 3.8.5)
        self.wl1 = 0  # seg.seq at the last window update
        self.max_wnd = 0  # the largest window the peer has offered (RFC 9293 3.8.6.2.1)
        self.mss = mss  # Eff.snd.MSS: octets of data in a full-sized segment (RFC 9293 3.7.1)
        self.path_mss = mss  # the same with TCP options, as far as our end of the path knows
        self.shift = 0  # Snd.Wind.Shift: what the peer's windows are shifted by (RFC 7323)
        self.sent_at = 0  # when data was last sent, ns
        self.reduced = 0  # SND.NXT when an ECE last made us send less (RFC 3168 6.1.2)
        self.say_cwr = False  # the next new data tells that we did
        self.sml = 0  # end of the last segment sent that was not full-sized (Minshall's Nagle)

    @property
    def empty_seq(self) -> int:
        """Where a segment without text stands: SND.NXT, but not behind a probe of a closed window,
        for which the peer has no room: it would drop the segment (RFC 9293 A.2).
        """
        return self.nxt if self.wnd or not self.una else self.una


class ReceiveVariables:
    """The receive sequence variables.

    `promise` is the right edge the receive buffer can hold. The window field counts in units of
    2**shift and is rounded up, so that the promise is kept whole; `edge` is the furthest right edge
    that came of it, and what lies before it is taken (RFC 7323 2.4, RFC 9293 SHLD-14, L-19).
    """

    __slots__ = tuple("congested edge fin irs mss nxt promise shift unacked up".split())

    def __init__(self, mss: int) -> None:
        self.irs = 0  # initial receive sequence number, 32 bits as on the wire
        self.nxt = 0  # next position expected
        self.promise = 0
        self.edge = 0
        self.shift = 0  # Rcv.Wind.Shift
        self.mss = mss  # the size of the segments the peer sends, as far as we know
        self.unacked = 0  # octets received in order since the last ACK was sent
        self.fin: int | None = None  # position of the peer's FIN once a segment brought it
        self.up = 0  # the position behind the peer's urgent data
        self.congested = False  # a segment came marked CE: say ECE until the peer says CWR

    @property
    def wnd(self) -> int:
        """RCV.WND: octets from nxt that the peer may send."""
        window = self.edge - self.nxt
        return window if window > 0 else 0

    def offer(self, promise: int) -> int:
        """Promise at least up to `promise`; returns the window field that says so."""
        if promise > self.promise:
            self.promise = promise
        left = self.promise - self.nxt
        field = (left + (1 << self.shift) - 1) >> self.shift if left > 0 else 0
        if field > MAX_RAW_WINDOW:
            field = MAX_RAW_WINDOW
        edge = self.nxt + (field << self.shift)
        if edge > self.edge:
            self.edge = edge
        return field


class Timestamps:
    """Timestamps option state (RFC 7323 4.3); one tick is a millisecond."""

    __slots__ = ("last_ack_sent", "offset", "on", "recent", "recent_at")

    def __init__(self, on: bool, offset: int) -> None:
        self.on = on
        self.offset = offset  # TSval at time 0: no clock of ours is seen from outside
        self.recent = 0  # TS.Recent: what we echo
        self.recent_at = 0  # when TS.Recent was taken, ns
        self.last_ack_sent = 0  # Last.ACK.sent, a position

    def value(self, now: int) -> int:
        """TSval at `now` (ns)."""
        return (now // TICK + self.offset) & 0xFFFFFFFF

    def ticks(self, echo: int, now: int) -> int:
        """The ticks (on our clock) at which the TSval that comes back as `echo` was sent."""
        return now // TICK - ((now // TICK + self.offset - echo) & 0xFFFFFFFF)


class TCB:
    """All variables of one connection."""

    __slots__ = ("ecn", "rcv", "sack", "scaling", "snd", "ts")

    def __init__(self, iss: int, ts_offset: int, config: Config) -> None:
        self.snd = SendVariables(iss, config.mss)
        self.rcv = ReceiveVariables(config.mss)
        self.ts = Timestamps(config.timestamps, ts_offset)
        # Wanted by us; after the peer's SYN: by both.
        self.scaling = config.window_scale
        self.sack = config.sack
        self.ecn = config.ecn == "ask"


def window_shift(buffer: int) -> int:
    """The smallest shift with which the window field can offer a whole `buffer` (RFC 7323 2.3)."""
    return min(MAX_WSCALE, max(0, (buffer // (MAX_RAW_WINDOW + 1)).bit_length()))


def headers_length(flow: bytes) -> int:
    """Octets of IP and TCP header without options."""
    return HEADER_LENGTH + (ip.HEADER_LENGTH if is_ipv4(flow) else ip.IPV6_HEADER_LENGTH)


def default_mss(flow: bytes) -> int:
    """The send MSS of a peer that says nothing of it (RFC 9293 MUST-15)."""
    return 536 if is_ipv4(flow) else 1220
