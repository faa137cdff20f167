"""Runs a script against a `Stack` on a virtual clock: exactly the expected segments, then silence.

Numbers are shown as the script has them: ours count from the sequence number that the script gives
our SYN, the peer's are on the wire as they are written.
"""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, NoReturn

from ..config import Config
from ..runtime.tcp_info import NAMES, tcp_info
from ..stack import Stack
from ..tcp.connection import Connection
from ..trace.log import EventLog
from ..wire import segment as plain
from ..wire import vnet
from ..wire.segment import CWR, FIN, PSH, SYN, Segment, pack_flow, reverse_flow
from ..wire.seq import HALF, MODULUS
from .calls import Calls, Mismatch, WouldBlock
from .flow import Flow, content
from .icmp import error_about
from .parser import ANY, Call, Code, Command, Event, Icmp, Packet, Script, ScriptError, option_text
from .parser import flag_letters as letters
from .settings import SettingError, Settings

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


class _Sent(NamedTuple):
    """A segment that the stack has sent, and nothing has expected yet."""

    at: int
    flow: Flow
    segment: Segment

    def __str__(self) -> str:
        return f"{self.at / SECOND:.6f} {self.flow.written(self.segment)}"


@dataclass(slots=True)
class _Waiting:
    """A call that has not returned. `ends` is when it should, `due` when it does by itself, ns."""

    event: Event
    call: Call
    began: int
    ends: int
    due: int | None = None


class _Runner:
    def __init__(self, script: Script, config: Config) -> None:
        self.script, self.settings = script, Settings(config)
        self.line = 1  # what is carried out now
        self.log = EventLog(seed=1, script=script.name)
        self.now = self.base = 0  # the clock, and the script's time of the last event
        self.flows: dict[int, Flow] = {}
        self.sent: deque[_Sent] = deque()
        self.waiting: list[_Waiting] = []
        self.transcript: list[str] = []
        self.names: dict[str, Any] = {**NAMES, "print": self._print}  # of its Python
        self.printed = ""

    def run(self) -> Result:
        try:
            self._set_up()
            for event in self.script.events:
                self.line = event.line
                self._do(event)
            if self.waiting:
                self._advance(max(w.ends for w in self.waiting) + self.tolerance)
                self._overdue(self.now + PATIENCE)
        except SettingError as problem:
            raise ScriptError(f"{self.script.name}:{self.line}: {problem}") from None
        if self.settings.silence != "off":
            self._silence(None, self.now + 1)
        transcript = "\n".join(self.transcript)
        return Result(self.script.name, self.log, transcript, self.printed)

    def _set_up(self) -> None:
        settings = self.settings
        for line, option, value in self.script.options:
            self.line = line
            settings.option(option, value)
        self.tolerance = settings.tolerance_usecs * 1000
        try:
            pack_flow((settings.remote_ip, 1), (settings.local_ip, 1))
        except ValueError as problem:
            raise SettingError(str(problem)) from None
        self.stack = Stack(settings.local_ip, seed=1, observer=self.log, config=settings.config)
        self.calls = Calls(self.stack, settings, self._opened)
        codec = vnet if settings.config.offload else plain
        self.parse, self.build = codec.parse, codec.build

    # --- events and time ---

    def _do(self, event: Event) -> None:
        time, action = event.time, event.action
        offset = self.base if time.relative else 0
        at, end, until = (
            None if t is None else t + offset for t in (time.begin, time.end, time.until)
        )
        if at is not None and not self.base <= at < LATEST:
            raise SettingError(f"{at / SECOND} s is before the last event, or too late for the log")
        if isinstance(action, Packet) and not action.incoming:
            sent = self._expect(event, action, at, end or at)
            self.base = sent if at is None or end is not None else at
            return
        assert at is not None  # the parser sees to it
        self._advance(at)
        passive = isinstance(action, Code | Command)  # the stack does not notice
        if self.settings.silence == "event" and not passive:
            self._silence(event, self.now + 1)
        elif self.settings.silence != "off":
            self._silence(event, at - self.tolerance)
        self.base = at
        self._overdue(self.now - self.tolerance)
        if isinstance(action, Call):
            self._call(event, action, until)
        else:
            self._note(event.text)
            self._act(event)
        self._flush()

    def _act(self, event: Event) -> None:
        match event.action:
            case Packet() as packet:
                flow = self._flow()
                self.stack.receive(self.build(flow.received(packet)), self.now)
                flow.conn = self.stack.find(flow.incoming) or flow.conn
            case Icmp() as message:
                about, sender = self._flow().quoted(message), self.settings.remote_ip
                error = error_about(about, message.kind, message.code, message.mtu, sender)
                self.stack.receive(bytes(self.stack.header) + error, self.now)
            case Command(text):
                self.settings.command(text)
                self.calls.configure_stack()
            case Code(compiled):
                self._execute(event, compiled)

    def _advance(self, until: int) -> None:
        """Let time pass."""
        while self._step(until):
            pass
        self.now = max(self.now, until)

    def _await(self, latest: int) -> bool:
        """True when there is a segment by `latest`; until then time passes."""
        while not self.sent and self._step(latest):
            pass
        return bool(self.sent)

    def _step(self, latest: int) -> bool:
        """On to what happens next by itself, if by `latest`: a timer, or the end of a poll."""
        dues = [self.stack.deadline(), *(waiting.due for waiting in self.waiting)]
        due = min((due for due in dues if due is not None), default=LATEST)
        if due > latest:
            return False
        self.now = max(self.now, due)
        self.stack.handle_timer(self.now)
        self._flush()
        return True

    def _flush(self) -> None:
        """Take what the stack sends, and let calls that wait go on, until nothing changes."""
        self._collect()
        self._resume()
        while self._collect():
            self._resume()

    def _collect(self) -> bool:
        packets = self.stack.transmit(self.now)
        for segment in map(self.parse, packets):
            flow = self._flow_of(segment)
            flow.sends(segment)
            self.sent.append(_Sent(self.now, flow, segment))
        return bool(packets)

    def _resume(self) -> None:
        line = self.line
        self.waiting = [waiting for waiting in self.waiting if not self._try(waiting)]
        self.line = line

    # --- what the stack sends ---

    def _expect(self, event: Event, packet: Packet, at: int | None, end: int | None) -> int:
        """Wait for the segments that make up `packet`; returns when the last one left."""
        tolerance = self.tolerance
        latest = self.now + PATIENCE if end is None else end + tolerance
        flow = self._flow()
        position, last = packet.start, False
        while not last:
            if not self._await(latest):
                if not self._await(self.now + PATIENCE):
                    self._fail(event, "nothing was sent")
                self._fail(event, "nothing was sent in time; next came", self.sent[0])
            sent = self.sent[0]
            if at is not None and sent.at < at - tolerance:
                self._fail(event, f"this came {(at - sent.at) / SECOND:.6f} s early", sent)
            if sent.flow is not flow:
                self._fail(event, "this belongs to another connection", sent)
            segment = sent.segment
            reached = (position + len(segment.data)) % MODULUS
            last = not segment.data or not 0 < (packet.end - reached) % MODULUS < HALF
            flags = packet.flags if position == packet.start else packet.flags & ~CWR
            part = packet._replace(start=position, flags=flags)
            if not last:
                part = part._replace(end=reached, flags=flags & ~(PSH | FIN))
            if packet.flags & segment.flags & SYN and flow.base is None:
                flow.base = packet.start
            if problems := self._differences(flow, part, segment):
                self._fail(event, "; ".join(problems), sent)
            if packet.options and "tsval" in packet.options and segment.tsval is not None:
                flow.named[packet.options["tsval"]] = segment.tsval
            self.sent.popleft()
            self.transcript.append(str(sent))
            position = reached
        return sent.at

    def _differences(self, flow: Flow, expected: Packet, segment: Segment) -> list[str]:
        """What about `segment` is not as `expected`."""
        seen = flow.written(segment)
        options, ecn, tick = seen.options or {}, segment.tos & 3, self.settings.tcp_ts_tick_usecs
        if "tsval" in options and expected.options and "tsval" in expected.options:
            val = expected.options["tsval"]
            off = abs((options["tsval"] - val + HALF) % MODULUS - HALF)
            if not (tick and flow.named) or off * tick <= self.settings.tolerance_usecs:
                options["tsval"] = val
        should_ecn = ecn if expected.ecn is None or ecn in expected.ecn else expected.ecn[0]
        push = PSH if self.settings.push == "ignore" else 0
        checks: list[tuple[str, Any, Any]] = [
            ("flags is", letters(expected.flags | push), letters(seen.flags | push)),
            ("sequence is", f"{expected.start}:{expected.end}", f"{seen.start}:{seen.end}"),
            ("ack is", expected.ack, seen.ack),
            ("win is", expected.win, seen.win),
            ("urg is", expected.urg, seen.urg),
            ("the ECN field is", should_ecn, ecn),
        ]
        if expected.options is not None:
            checks.append(("options are", option_text(expected.options), option_text(options)))
        problems = [
            f"{what} {is_}, not {should}"
            for what, should, is_ in checks
            if should not in (None, is_)
        ]
        position = flow.position(segment)
        if segment.data and segment.data != content(position, position + len(segment.data)):
            problems.append("these are other octets than the application wrote")
        return problems

    def _silence(self, event: Event | None, before: int) -> None:
        """Nothing that was sent before then is still unexpected."""
        if self.sent and self.sent[0].at < before:
            self._fail(event, "this was not expected", self.sent[0])

    # --- connections ---

    def _flow(self) -> Flow:
        """The connection that the packets of the script belong to now."""
        number = self.settings.flow
        if number not in self.flows:
            source = self.settings.remote_ip, FIRST_REMOTE_PORT + number
            flow = pack_flow(source, (self.settings.local_ip, self.calls.port))
            self.flows[number] = Flow(flow)
        return self.flows[number]

    def _opened(self, conn: Connection) -> None:
        """The script has called connect: what follows belongs to this connection."""
        if self.flows:
            self.settings.flow = max(self.flows) + 1
        self.flows[self.settings.flow] = Flow(reverse_flow(conn.flow), conn)

    def _flow_of(self, segment: Segment) -> Flow:
        incoming, current = reverse_flow(segment.flow), self._flow()
        return next((f for f in self.flows.values() if f.incoming == incoming), current)

    # --- calls and code ---

    def _call(self, event: Event, call: Call, until: int | None) -> None:
        waiting = _Waiting(event, call, self.now, self.now if until is None else until)
        if self._try(waiting):
            return
        if until is None:
            self._fail(event, "waits; say when it returns, as in 0.1...0.2")
        self._note(f"{event.text} (waits)")
        self.waiting.append(waiting)

    def _try(self, waiting: _Waiting) -> bool:
        """True when the call has returned, with what the script says."""
        event, call, self.line = waiting.event, waiting.call, waiting.event.line
        try:
            value, error = self.calls.run(call, self.now, waiting.began)
        except WouldBlock as wait:
            waiting.due = wait.until
            return False
        except Mismatch as problem:
            self._fail(event, str(problem))
        if call.result not in (ANY, value) or (call.errno is not None and call.errno != error):
            self._fail(event, f"returned {value} {error}".rstrip())
        if abs(self.now - waiting.ends) > self.tolerance:
            self._fail(event, f"returned at {self.now / SECOND:.6f}")
        self._note(event.text if waiting.began == self.now else f"{event.text} (returns)")
        return True

    def _overdue(self, now: int) -> None:
        for waiting in self.waiting:
            if waiting.ends < now:
                self._fail(waiting.event, "has not returned")

    def _execute(self, event: Event, code: CodeType) -> None:
        conn = self._flow().conn
        for name in [name for name in self.names if name.startswith("tcpi_")]:
            del self.names[name]
        self.names.update(conn=conn, stack=self.stack, now=self.now)
        if conn is not None:
            self.names.update(tcp_info(conn, self.now), tcb=conn.tcb)
        try:
            exec(code, self.names)
        except Exception as error:
            self._fail(event, f"{type(error).__name__}: {error}".rstrip(": "))

    def _print(self, *values: object) -> None:
        """What print does in a script."""
        text = " ".join(map(str, values))
        self.printed += f"{text}\n"
        self._note(f"// {text}")

    # --- transcript ---

    def _note(self, text: str) -> None:
        self.transcript.append(f"{self.now / SECOND:.6f} {text}")

    def _fail(self, event: Event | None, problem: str, sent: _Sent | None = None) -> NoReturn:
        where = f"{event.line}: {event.when} {event.text}" if event is not None else "at the end"
        lines = [f"{self.script.name}:{where}", f"    {problem}"]
        if sent is not None:
            lines.append(f"    {sent}")
        lines += ["transcript so far", *(f"    {line}" for line in self.transcript)]
        raise ScriptFailure("\n".join(lines))
