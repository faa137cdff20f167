"""Runs a script against a `Stack` on a virtual clock: exactly the expected segments, then silence.

Numbers are shown as the script has them: ours count from the sequence number that the script gives
our SYN, the peer's are on the wire as they are written.
"""

import contextlib
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from ..config import Config
from ..stack import Stack
from ..tcp.connection import Connection
from ..trace.log import EventLog
from ..wire import ip
from ..wire.segment import ACK, FIN, PSH, RST, SYN, Segment, build, pack_flow, parse, reverse_flow
from ..wire.seq import HALF, MODULUS
from .calls import Calls, Mismatch, WouldBlock, content, number
from .icmp import error_about
from .parser import ANY, CWR, FLAGS, Call, Code, Command, Event, Icmp, Packet, Script, ScriptError
from .settings import SettingError, Settings
from .tcp_info import NAMES, tcp_info

SECOND = 1_000_000_000
PATIENCE = 3600 * SECOND  # how far to look for a segment that may come at any time
LATEST = 1 << 62  # ns
FIRST_REMOTE_PORT = 40_000


class ScriptFailure(AssertionError):
    """The stack did something else; the message shows the line, what came, and the transcript."""


@dataclass(slots=True)
class Result:
    """What came of a script that passed. `printed` is what its Python printed."""

    name: str
    log: EventLog
    transcript: str
    printed: str


def run(script: str | Path | Script, config: Config | None = None, name: str = "script") -> Result:
    """Run a script: a path (a Path, or a str of one line), its text, or a parsed Script.

    `config` is what its option lines and sysctls then change. Raises ScriptError when it cannot be
    understood or carried out, ScriptFailure when the stack does something else than it says.
    """
    if isinstance(script, Path) or (isinstance(script, str) and "\n" not in script):
        path = Path(script)
        try:
            script, name = path.read_text(), path.name if name == "script" else name
        except (OSError, ValueError) as problem:
            raise ScriptError(f"{path}: cannot be read: {problem}") from None
    if isinstance(script, str):
        script = Script.parse(script, name)
    return _Runner(script, config or Config()).run()


@dataclass(slots=True)
class _Flow:
    """One connection, as the script numbers it."""

    incoming: bytes  # the flow of what the peer sends
    conn: Connection | None = None
    iss: int | None = None  # ours, on the wire
    base: int = 0  # what the script calls it,
    named: bool = False  # since it has expected our SYN
    timestamps: dict[int, int] = field(default_factory=dict)  # of ours: the script's -> the wire's


@dataclass(slots=True)
class _Waiting:
    """A call that has not returned; `ends` is when it should, ns."""

    event: Event
    call: Call
    began: int
    ends: int


class _Runner:
    def __init__(self, script: Script, config: Config) -> None:
        self.script, self.settings = script, Settings(config)
        for line, option, value in script.options:
            with self._line(line):
                self.settings.option(option, value)
        self.log = EventLog(seed=1, script=script.name)
        with self._line(script.options[0][0] if script.options else 1):
            try:
                ip.pack_address(self.settings.remote)
                self.stack = Stack(
                    self.settings.local, seed=1, observer=self.log, config=self.settings.config
                )
            except ValueError as problem:
                raise SettingError(str(problem)) from None
        self.calls = Calls(self.stack, self.settings, self._opened)
        self.now = self.base = 0  # the clock, and the script's time of the last event
        self.flows: dict[int, _Flow] = {}
        self.sent: deque[tuple[int, Segment]] = deque()  # not yet expected
        self.waiting: list[_Waiting] = []
        self.transcript: list[str] = []
        self.names: dict[str, Any] = dict(NAMES)  # of the Python in the script
        self.printed = ""

    def run(self) -> Result:
        for event in self.script.events:
            with self._line(event.line):
                self._do(event)
        if self.waiting:
            self._advance(max(w.ends for w in self.waiting) + self.settings.tolerance)
            self._overdue(self.now + PATIENCE)
        if self.settings.silence != "off":
            self._silence(None, self.now + 1)
        transcript = "\n".join(self.transcript)
        return Result(self.script.name, self.log, transcript, self.printed)

    @contextlib.contextmanager
    def _line(self, line: int) -> Iterator[None]:
        """Say where in the script what cannot be carried out stands."""
        try:
            yield
        except SettingError as problem:
            raise ScriptError(f"{self.script.name}:{line}: {problem}") from None

    # --- events and time ---

    def _do(self, event: Event) -> None:
        time, action = event.time, event.action
        offset = self.base if time.relative else 0
        at = None if time.begin is None else time.begin + offset
        if at is not None and not self.base <= at < LATEST:
            raise SettingError(f"{at / SECOND} s is before the last event, or too late for the log")
        if isinstance(action, Packet) and not action.incoming:
            end = at if time.end is None else time.end + offset
            sent = self._expect(event, action, at, end)
            self.base = at if at is not None and time.end is None else sent
            return
        assert at is not None  # the parser sees to it
        self._advance(at)
        passive = isinstance(action, Code | Command)  # the stack does not notice
        if self.settings.silence == "event" and not passive:
            self._silence(event, self.now + 1)
        elif self.settings.silence != "off":
            self._silence(event, at - self.settings.tolerance)
        self.base = at
        self._overdue(self.now - self.settings.tolerance)
        self._act(event, None if time.until is None else time.until + offset)

    def _act(self, event: Event, until: int | None) -> None:
        match event.action:
            case Packet() as packet:
                self._note(event.text)
                self._receive(packet)
            case Icmp() as message:
                self._note(event.text)
                self.stack.receive(self._icmp(message), self.now)
            case Call() as call:
                self._start(event, call, until)
            case Command(text):
                self._note(event.text)
                self.settings.command(text)
                self.calls.configure_stack()
            case Code(compiled):
                self._note(event.text)
                self._execute(event, compiled)
        self._flush()

    def _advance(self, until: int) -> None:
        """Let time pass."""
        while (due := self._deadline()) is not None and due <= until:
            self._step(due)
        self.now = max(self.now, until)

    def _deadline(self) -> int | None:
        """When something happens by itself: a timer, or the end of a poll."""
        ends = [self.calls.poll_ends(w.call, w.began) for w in self.waiting]
        return min((t for t in (self.stack.deadline(), *ends) if t is not None), default=None)

    def _step(self, due: int) -> None:
        self.now = max(self.now, due)
        self.stack.handle_timer(self.now)
        self._flush()

    def _flush(self) -> None:
        """Take what the stack sends, and let calls that wait go on, until nothing changes."""
        first = True
        while (packets := self.stack.transmit(self.now)) or first:
            first = False
            for packet in packets:
                segment = parse(packet)
                flow = self._flow_of(segment)
                if segment.flags & SYN:
                    if flow.iss != segment.raw_seq:
                        flow.timestamps.clear()
                        flow.named = False
                    flow.iss = segment.raw_seq
                self.sent.append((self.now, segment))
            self.waiting = [w for w in self.waiting if not self._try(w)]

    # --- what the stack sends ---

    def _expect(self, event: Event, packet: Packet, at: int | None, end: int | None) -> int:
        """Wait for the segments that make up `packet`; returns when the last one left."""
        tolerance = self.settings.tolerance
        latest = self.now + PATIENCE if end is None else end + tolerance
        flow = self._flow()
        position, last = packet.start, False
        while not last:
            if not self._await(latest):
                self._too_late(event, position != packet.start)
            left, segment = self.sent[0]
            if at is not None and left < at - tolerance:
                self._fail(event, f"this came {(at - left) / SECOND:.6f} s early", self.sent[0])
            if self._flow_of(segment) is not flow:
                self._fail(event, "this belongs to another connection", self.sent[0])
            reached = (position + len(segment.data)) % MODULUS
            last = not segment.data or not 0 < (packet.end - reached) % MODULUS < HALF
            flags = packet.flags if position == packet.start else packet.flags & ~CWR
            part = replace(packet, start=position, flags=flags)
            if not last:
                part = replace(part, end=reached, flags=flags & ~(PSH | FIN))
            if packet.flags & segment.flags & SYN and not flow.named:
                flow.base, flow.named = packet.start, True
            if problems := self._differences(flow, part, segment):
                self._fail(event, "; ".join(problems), self.sent[0])
            if packet.options and "ts" in packet.options and segment.tsval is not None:
                flow.timestamps[packet.options["ts"][0]] = segment.tsval
            self.sent.popleft()
            self._note("> " + self._describe(segment), left)
            position = reached
        return left

    def _await(self, latest: int) -> bool:
        """True when there is a segment by `latest`; until then time passes."""
        while not self.sent:
            due = self._deadline()
            if due is None or due > latest:
                return False
            self._step(due)
        return True

    def _too_late(self, event: Event, begun: bool) -> NoReturn:
        text = "nothing more was sent" if begun else "nothing was sent"
        if self._await(self.now + PATIENCE):
            self._fail(event, f"{text} in time; next came", self.sent[0])
        self._fail(event, text)

    def _differences(self, flow: _Flow, expected: Packet, segment: Segment) -> list[str]:
        """What about `segment` is not as `expected`."""
        start = self._place(flow, segment)
        end = (start + len(segment.data)) % MODULUS
        push = 0 if self.settings.push else PSH
        checks: list[tuple[str, Any, Any]] = [
            ("flags", _letters(expected.flags | push), _letters(segment.flags | push)),
            ("sequence", f"{expected.start}:{expected.end}", f"{start}:{end}"),
            ("ack", expected.ack, segment.raw_ack),
            ("win", expected.win, segment.raw_window),
            ("urg", expected.urg, segment.urgent),
        ]
        problems = [
            f"{name} is {is_}, not {should}"
            for name, should, is_ in checks
            if should not in (None, is_)
        ]
        if expected.ecn is not None and segment.tos & 3 not in expected.ecn:
            problems.append(f"the ECN field is {segment.tos & 3}, not {expected.ecn[0]}")
        if expected.options is not None:
            problems += self._option_differences(flow, expected.options, segment)
        position = (start - flow.base + (segment.flags & SYN != 0)) % MODULUS
        if segment.data and segment.data != content(position, position + len(segment.data)):
            problems.append("these are other octets than the application wrote")
        return problems

    def _option_differences(
        self, flow: _Flow, expected: dict[str, Any], segment: Segment
    ) -> list[str]:
        found, should = self._listed(flow, segment), dict(expected)
        if "ts" in should and "ts" in found:
            value, (seen, echo) = should["ts"][0], found["ts"]
            slack = self.settings.tolerance // 1000 // max(1, self.settings.tick)
            off = abs((seen - value + HALF) % MODULUS - HALF)
            if not (self.settings.tick and flow.timestamps) or off <= slack:
                found["ts"] = value, echo
        if should == found:
            return []
        return [f"options are <{_option_text(found)}>, not <{_option_text(should)}>"]

    def _silence(self, event: Event | None, before: int) -> None:
        """Nothing that was sent before then is still unexpected."""
        if self.sent and self.sent[0][0] < before:
            self._fail(event, "this was not expected", self.sent[0])

    # --- what the peer sends ---

    def _receive(self, packet: Packet) -> None:
        flow = self._flow()
        ours = (flow.iss or 0) - flow.base
        irs = flow.conn.tcb.rcv.irs if flow.conn is not None else 0
        data_at = 1 if packet.flags & SYN else (packet.start - irs) % MODULUS
        segment = Segment(flow.incoming, packet.flags, packet.start, 0, packet.win or 0)
        segment.data = content(data_at, data_at + (packet.end - packet.start) % MODULUS)
        segment.raw_ack = 0 if packet.ack is None else (packet.ack + ours) % MODULUS
        segment.urgent = packet.urg or 0
        segment.tos = packet.ecn[0] if packet.ecn else 0
        options = packet.options or {}
        segment.mss, segment.wscale = options.get("mss"), options.get("wscale")
        segment.sack_permitted = "sackOK" in options
        blocks = options.get("sack", ())
        segment.sack = tuple(((a + ours) % MODULUS, (b + ours) % MODULUS) for a, b in blocks)
        if "ts" in options:
            segment.tsval = options["ts"][0]
            segment.tsecr = self._our_timestamp(flow, options["ts"][1])
        self.stack.receive(build(segment), self.now)
        flow.conn = self.stack.find(flow.incoming) or flow.conn

    def _our_timestamp(self, flow: _Flow, value: int) -> int:
        """On the wire, what the script calls `value`: what was sent under that number, or as far
        from the first that was.
        """
        if value in flow.timestamps or not value or not flow.timestamps:
            return flow.timestamps.get(value, value)
        first, wire = next(iter(flow.timestamps.items()))
        return (wire + value - first) % MODULUS

    def _icmp(self, message: Icmp) -> bytes:
        flow = self._flow()
        ours = (flow.iss or 0) - flow.base
        una = flow.conn.tcb.snd.una if flow.conn is not None else 0
        start, end = message.quoted or ((una + flow.base) % MODULUS,) * 2
        about = Segment(reverse_flow(flow.incoming), ACK, (start + ours) % MODULUS, 0, 0)
        about.data = bytes(min((end - start) % MODULUS, 65000))
        return error_about(about, message.kind, message.code, message.mtu, self.settings.remote)

    # --- connections ---

    def _flow(self) -> _Flow:
        """The connection that the packets of the script belong to now."""
        number = self.settings.flow
        if number not in self.flows:
            source = self.settings.remote, FIRST_REMOTE_PORT + number
            flow = pack_flow(source, (self.settings.local, self.calls.port))
            self.flows[number] = _Flow(flow)
        return self.flows[number]

    def _opened(self, conn: Connection) -> None:
        """The script has called connect: what follows belongs to this connection."""
        if self.flows:
            self.settings.flow = max(self.flows) + 1
        self.flows[self.settings.flow] = _Flow(reverse_flow(conn.flow), conn)

    def _flow_of(self, segment: Segment) -> _Flow:
        incoming = reverse_flow(segment.flow)
        return next((f for f in self.flows.values() if f.incoming == incoming), self._flow())

    # --- calls and code ---

    def _start(self, event: Event, call: Call, until: int | None) -> None:
        waiting = _Waiting(event, call, self.now, self.now if until is None else until)
        if self._try(waiting):
            return
        if until is None:
            self._fail(event, "waits; say when it returns, as in 0.1...0.2")
        self._note(f"{event.text} (waits)")
        self.waiting.append(waiting)

    def _try(self, waiting: _Waiting) -> bool:
        """True when the call has returned, with what the script says."""
        event, call = waiting.event, waiting.call
        with self._line(event.line):
            try:
                value, error = self.calls.run(call, self.now, waiting.began)
            except WouldBlock:
                return False
            except Mismatch as problem:
                self._fail(event, str(problem))
            result = number(call.result) if isinstance(call.result, frozenset) else call.result
        if result not in (ANY, value) or (call.errno is not None and call.errno != error):
            self._fail(event, f"returned {value} {error}".rstrip())
        if abs(self.now - waiting.ends) > self.settings.tolerance:
            self._fail(event, f"returned at {self.now / SECOND:.6f}")
        self._note(event.text if waiting.began == self.now else f"{event.text} (returns)")
        return True

    def _overdue(self, now: int) -> None:
        for waiting in self.waiting:
            if waiting.ends < now:
                self._fail(waiting.event, "has not returned")

    def _execute(self, event: Event, code: Any) -> None:
        conn = self._flow().conn
        names = {name: v for name, v in self.names.items() if not name.startswith("tcpi_")}
        self.names.clear()
        self.names.update(names, conn=conn, stack=self.stack, now=self.now)
        if conn is not None:
            self.names.update(tcp_info(conn, self.now), tcb=conn.tcb)
        output, problem = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(output):
                exec(code, self.names)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        self.printed += output.getvalue()
        for line in output.getvalue().splitlines():
            self._note(f"// {line}")
        if problem:
            self._fail(event, problem)

    # --- transcript ---

    def _note(self, text: str, at: int | None = None) -> None:
        words = text.split(" ", 1)
        if words[0][0] in "0123456789+*." and len(words) > 1:  # the time, as it is written
            text = words[1]
        self.transcript.append(f"{(self.now if at is None else at) / SECOND:.6f} {text}")

    def _fail(
        self, event: Event | None, problem: str, sent: tuple[int, Segment] | None = None
    ) -> NoReturn:
        where = f"{event.line}: {event.text}" if event is not None else "at the end"
        lines = [f"{self.script.name}:{where}", f"    {problem}"]
        if sent is not None:
            lines.append(f"    {sent[0] / SECOND:.6f} > {self._describe(sent[1])}")
        lines += ["transcript so far", *(f"    {line}" for line in self.transcript)]
        raise ScriptFailure("\n".join(lines))

    def _place(self, flow: _Flow, segment: Segment) -> int:
        """The sequence number of a segment of ours, as the script numbers it."""
        if segment.flags & (RST | ACK) == RST | ACK and segment.raw_seq == 0:
            return 0  # nobody's: it is 0 on the wire (RFC 9293 3.10.7.1)
        return (segment.raw_seq - (flow.iss or 0) + flow.base) % MODULUS

    def _describe(self, segment: Segment) -> str:
        """A segment of ours in packetdrill's notation."""
        flow = self._flow_of(segment)
        start = self._place(flow, segment)
        size = len(segment.data)
        text = f"{_letters(segment.flags)} {start}:{(start + size) % MODULUS}({size})"
        if segment.flags & ACK:
            text += f" ack {segment.raw_ack}"
        text += f" win {segment.raw_window}"
        return text + (
            f" <{listed}>" if (listed := _option_text(self._listed(flow, segment))) else ""
        )

    def _listed(self, flow: _Flow, segment: Segment) -> dict[str, Any]:
        """The options of a segment of ours, as the parser gives them, timestamps as the script
        numbers them.
        """
        first, wire = next(iter(flow.timestamps.items()), (0, 0))
        ours = ((segment.tsval or 0) - wire + first) % MODULUS
        options = {
            "mss": segment.mss,
            "sackOK": segment.sack_permitted or None,
            "ts": None if segment.tsval is None else (ours, segment.tsecr),
            "wscale": segment.wscale,
            "sack": segment.sack or None,
        }
        return {name: value for name, value in options.items() if value is not None}


def _letters(flags: int) -> str:
    return "".join(letter for letter, bit in FLAGS.items() if flags & bit and letter != ".") + (
        "." if flags & ACK else "-" if not flags else ""
    )


def _option_text(options: dict[str, Any]) -> str:
    parts: list[str] = []
    for name, value in options.items():
        match name:
            case "sackOK":
                parts.append(name)
            case "ts":
                parts.append(f"TS val {value[0]} ecr {value[1]}")
            case "sack":
                parts.append("sack " + " ".join(f"{left}:{right}" for left, right in value))
            case _:
                parts.append(f"{name} {value}")
    return ",".join(parts)
