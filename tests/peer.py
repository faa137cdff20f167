"""A scripted peer: the other end of a `Stack`, on a virtual clock, over wire bytes.

Segments are written as packetdrill writes them, both sides' numbers relative:

    peer = Peer(timestamps=False)
    peer.connects()
    peer.expect("S 0:0(0) win 65535")
    peer.sends("S. 0:0(0) ack 1 win 8000 <mss 1000>")
    peer.expect(". 1:1(0) ack 1")

`start:end` may be all there is. What `sends` is not told it puts as a TCP would (flags ".", the ack
and window sent last); what `expect` is not told it does not look at. `why` is the log's reason.
Octets are numbered, so every octet that comes out of the stack, on either side, is checked as well.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from nbtcp import Config, Connection, EventLog, Stack
from nbtcp.tcp.state import Cause, State
from nbtcp.why import Event, Why
from nbtcp.wire.segment import ACK, FIN, RST, SYN, Segment, build, pack_flow, parse, reverse_flow

US, PEER, PORT = "10.0.0.2", "10.0.0.1", 80
SECOND = 1_000_000_000
MODULUS = 1 << 32
_FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": 8, ".": ACK, "U": 32, "E": 64, "C": 128}
_SPEC = re.compile(
    r"((?P<flags>[FSRPUEC.]+) )?(?P<start>-?\d+):(?P<end>-?\d+)(\((?P<length>\d+)\))?"
    r"( ack (?P<ack>-?\d+))?( win (?P<win>\d+))?( <(?P<options>.*)>)?( why (?P<why>[a-z-]+))?"
)
_PATTERN = bytes(range(251)) * 300
_made: list["Peer"] = []  # by the test that is running


@pytest.fixture(autouse=True)
def twice(request: pytest.FixtureRequest) -> None:
    """Same seed, same log, byte for byte: every test runs twice. Import it where peers are used."""
    test = request.node.obj
    if not hasattr(test, "hypothesis"):
        request.node.obj = runs_twice(test)


def runs_twice(test: Callable[..., None]) -> Callable[..., None]:
    """`test`, which then compares the logs of all its peers with those of a second run."""

    @wraps(test)
    def run(**arguments: Any) -> None:
        logs = []
        for _ in range(2):
            _made.clear()
            test(**arguments)
            logs.append([bytes(peer.log) for peer in _made])
        assert logs[0] == logs[1], "the same script gave another log"

    return run


def content(start: int, end: int) -> bytes:
    """The octets at positions start..end of every stream in these tests."""
    start, length = start % 251, end - start
    return _PATTERN[start : start + length] if length <= 70_000 else bytes(length)


class _Log(EventLog):
    """An event log that also lists reasons and transitions, without pandas."""

    def __init__(self, **meta: Any) -> None:
        super().__init__(**meta)
        self.sent: list[Why] = []
        self.received: list[Why] = []
        self.edges: list[tuple[str, str]] = []

    def segment(self, conn: Connection, sent: bool, segment: Segment, now: int) -> None:
        super().segment(conn, sent, segment, now)
        (self.sent if sent else self.received).append(segment.why)

    def refused(self, host: str, segment: Segment | None, why: Why, now: int) -> None:
        super().refused(host, segment, why, now)
        self.received.append(why)

    def replied(self, host: str, segment: Segment, now: int) -> None:
        super().replied(host, segment, now)
        self.sent.append(segment.why)

    def event(self, conn: Connection, event: Event, now: int, *rest: Any) -> None:
        super().event(conn, event, now, *rest)
        if event is Event.STATE:
            self.edges.append((rest[0], rest[3]))


class Peer:
    """The other end of one connection of `stack`. Times are seconds, `now` is nanoseconds."""

    def __init__(self, *, seed: int = 1, iss: int = 3_000_000_000, **settings: Any) -> None:
        self.log = _Log(seed=seed)
        self.stack = Stack(US, seed=seed, observer=self.log, config=Config(**settings))
        self.conn: Any = None
        self.now = 0
        self.iss, self.irs = iss, 0  # of our sequence numbers, and of the stack's
        self.nxt, self.acked, self.win = 0, 0, 65535  # what `sends` puts by default
        self.tsval: int | None = None  # None: our segments carry no timestamps
        self.shift = 0  # of the stack's window fields
        self.flow = b""  # of our segments
        self.edge = 0  # the furthest right edge that the stack has offered
        self.echo = 0  # the last timestamp of the stack
        self.written = self.read = 1  # positions the application has come to
        self.out: list[tuple[Segment, Why]] = []  # sent by the stack, not yet expected
        self.transcript: list[str] = []
        self._waiting = False
        _made.append(self)

    # --- the application above the stack ---

    def connects(self, **options: Any) -> None:
        self.conn = self.stack.connect((PEER, PORT), self.now, **options)
        self.flow = reverse_flow(self.conn.flow)
        self.flush()

    def app_writes(self, octets: int) -> int:
        """Write so many octets; returns how many were taken."""
        taken: int = self.conn.send(content(self.written, self.written + octets), self.now)
        self.written += taken
        return self._called(f"writes {taken}", taken)

    def app_reads(self, most: int = 1 << 30) -> int:
        data = self.conn.recv(most, self.now)
        start, self.read = self.read, self.read + len(data)
        assert data == content(start, self.read), f"octets {start}:{self.read} came out wrong"
        return self._called(f"reads {len(data)}", len(data))

    def app_shuts_down(self) -> None:
        self._called("shuts down", self.conn.shutdown(self.now))

    def app_closes(self) -> None:
        self._called("closes", self.conn.close(self.now))

    def app_aborts(self) -> None:
        self._called("aborts", self.conn.abort(self.now))

    @property
    def state(self) -> State:
        return self.conn.state

    # --- what the peer does ---

    def sends(self, spec: str, flow: bytes | None = None) -> None:
        """Send one segment. `nxt` and `acked`, the defaults of later ones, follow it."""
        at = _SPEC.fullmatch(spec)
        assert at, f"not understood: {spec}"
        flags = sum(_FLAGS[letter] for letter in at["flags"] or ".")
        start, end = int(at["start"]), int(at["end"])
        first = start + (flags & SYN != 0)
        ack = int(at["ack"]) if at["ack"] else self.acked
        win = int(at["win"]) if at["win"] else self.win
        seg = Segment(flow or self.flow, flags, (start + self.iss) % MODULUS, 0, win)
        seg.data = content(first, first + end - start)
        if flags & ACK:
            seg.raw_ack = (ack + self.irs) % MODULUS
            self.acked = max(self.acked, ack)
        if not flags & RST:
            self.win = win
            self.nxt = max(self.nxt, start + seg.len)
        if at["options"] is not None:
            _set_options(seg, at["options"])
        elif self.tsval is not None:
            seg.tsval, seg.tsecr = self.tsval + self.now // 1_000_000, self.echo
        self._note("<", describe(seg, start, ack))
        self.stack.receive(build(seg), self.now)
        if not self._waiting:
            self.flush()

    def acks(self, ack: int, *, win: int | None = None) -> None:
        """A pure acknowledgment."""
        self.sends(f". {self.nxt}:{self.nxt} ack {ack} win {self.win if win is None else win}")

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is sent inside arrives together, before the stack can answer."""
        self._waiting = True
        yield
        self._waiting = False
        self.flush()

    # --- what the stack does ---

    def expect(self, *specs: str) -> None:
        """Since the last call the stack has sent exactly this, and now is silent."""
        self.flush()
        out, self.out = self.out, []
        wanted = [_SPEC.fullmatch(spec) for spec in specs]
        assert all(wanted), f"not understood: {specs}"
        pairs = zip(wanted, out, strict=False)
        if len(specs) != len(out) or not all(self._matches(w, *o) for w, o in pairs):
            sent = [f"{self._describe(segment)} why {why.label}" for segment, why in out]
            pytest.fail(
                "\n    ".join(["expected", *(specs or ["silence"])])
                + "\n    ".join(["\ngot", *(sent or ["silence"])])
                + "\n    ".join(["\nall that happened", *self.transcript]),
                pytrace=True,
            )

    def expect_after(self, seconds: float, *specs: str) -> None:
        """Silence until a nanosecond before, then exactly this."""
        self.wait(seconds, but=1)
        self.expect()
        self.wait(1e-9)
        self.expect(*specs)

    def wait(self, seconds: float, but: int = 0) -> None:
        """Let time pass; each timer is tried a nanosecond too early, too."""
        until = self.now + round(seconds * SECOND) - but
        while (due := self.stack.deadline()) is not None and due <= until:
            if due > self.now:
                self.stack.handle_timer(due - 1)
                assert not self.stack.transmit(due - 1), "something left before its time"
            self.now = max(self.now, due)
            self.stack.handle_timer(self.now)
            self.flush()
            left = self.stack.deadline()
            assert left is None or left > self.now, "a timer that was handled is still due"
        self.now = until

    def flush(self) -> None:
        """Take what the stack has to send now."""
        for packet in self.stack.transmit(self.now):
            segment = parse(packet)
            why = self.log.sent[sum(" > " in line for line in self.transcript)]
            if segment.flags & SYN:
                self.irs = segment.raw_seq
            self._note(">", f"{self._describe(segment)} why {why.label}")
            self.out.append((segment, why))
            self._check(segment)
        assert not self.stack.transmit(self.now), "transmit left something for a second call"

    # --- inside ---

    def _check(self, segment: Segment) -> None:
        """What must hold for everything that any stack ever sends."""
        start = (segment.raw_seq - self.irs + (segment.flags & SYN != 0)) % MODULUS
        if segment.data:
            assert segment.data == content(start, start + len(segment.data)), "wrong octets"
            assert len(segment.data) <= self.conn.tcb.snd.mss
        assert (segment.mss is not None) == (segment.flags & SYN != 0)  # MUST-65, SHLD-5
        if segment.tsval is not None:
            self.echo = segment.tsval
        if segment.flags & ACK and not segment.flags & RST:
            shift = 0 if segment.flags & SYN else self.shift
            ack = (segment.raw_ack - self.iss + (1 << 31)) % MODULUS - (1 << 31)
            edge = ack + (segment.raw_window << shift)
            assert edge >= self.edge or ack < 0, f"right edge {self.edge} moved to {edge}: SHLD-14"
            self.edge = edge

    def _matches(self, want: Any, segment: Segment, why: Why) -> bool:
        got: Any = _SPEC.fullmatch(f"{self._describe(segment)} why {why.label}")
        return all(got[name] == value for name, value in want.groupdict().items() if value)

    def _describe(self, segment: Segment) -> str:
        seq, ack = (segment.raw_seq - self.irs) % MODULUS, (segment.raw_ack - self.iss) % MODULUS
        return describe(segment, seq, ack)

    def _called[T](self, what: str, result: T) -> T:
        self._note("  application", what)
        if not self._waiting:
            self.flush()
        return result

    def _note(self, *words: str) -> None:
        number, seconds = len(self.transcript) + 1, self.now / SECOND
        self.transcript.append(f"{number:3} {seconds:.9f} {' '.join(words)}")


def describe(segment: Segment, seq: int, ack: int) -> str:
    """A segment in packetdrill's notation."""
    flags = "".join(letter for letter, bit in _FLAGS.items() if segment.flags & bit)
    text = f"{flags} {seq}:{seq + len(segment.data)}({len(segment.data)})"
    if segment.flags & ACK:
        text += f" ack {ack}"
    text += f" win {segment.raw_window}"
    options = [f"mss {segment.mss}"] if segment.mss is not None else []
    if segment.tsval is not None:
        options.append(f"TS val {segment.tsval} ecr {segment.tsecr}")
    if segment.wscale is not None:
        options.append(f"wscale {segment.wscale}")
    return f"{text} <{','.join(options)}>"


def _set_options(segment: Segment, text: str) -> None:
    for option in filter(None, text.split(",")):
        match option.split():
            case ["mss", value]:
                segment.mss = int(value)
            case ["wscale", value]:
                segment.wscale = int(value)
            case ["TS", "val", value, "ecr", echo]:
                segment.tsval, segment.tsecr = int(value), int(echo)
            case _:
                raise AssertionError(f"not understood: {option}")
