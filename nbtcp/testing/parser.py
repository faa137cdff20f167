"""packetdrill's notation <-> `Script`: option lines, then events, each a time and an action.

Nothing is looked up or carried out here. What is not understood is a ScriptError that names the
line, what was found and what was expected; any text gives a Script or a ScriptError.
"""

import ast
import inspect
import re
from collections.abc import Callable
from decimal import Decimal
from types import CodeType, EllipsisType
from typing import Any, NamedTuple, NoReturn

from ..errors import NbtcpError
from ..wire.segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG
from ..wire.seq import MODULUS

FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": PSH, ".": ACK, "U": URG, "E": ECE, "W": CWR}
ECN = {"noecn": (0,), "ect0": (2,), "ect1": (1,), "ect01": (1, 2), "ce": (3,)}  # bits of TOS
MAX_DATA = 65535 - 40  # octets in one packet
LONGEST = 10**8  # s, three years
ANY: EllipsisType = ...  # "..." in a script

# TCP option -> what follows, below which its numbers are, what is said if not, and from the numbers
# the attributes of a Segment.
_OPTIONS: dict[str, tuple[str, int, str, Callable[[list[int]], dict[str, Any]]]] = {
    "mss": (r"\d+", 65536, "an MSS", lambda n: {"mss": n[0]}),
    "wscale": (r"\d+", 256, "a shift", lambda n: {"wscale": n[0]}),
    "sackOK": ("", 1, "", lambda _: {"sack_permitted": True}),
    "sack": (
        r"\d+:\d+(?: \d+:\d+){0,3}",
        *(MODULUS, "1 to 4 blocks such as 1001:2001"),
        lambda n: {"sack": tuple(zip(n[::2], n[1::2], strict=True))},
    ),
    "TS": (
        r"val \d+ ecr \d+",
        *(MODULUS, "a timestamp such as val 100 ecr 0"),
        lambda n: {"tsval": n[0], "tsecr": n[1]},
    ),
    "nop": ("", 1, "", lambda _: {}),
    "eol": ("", 1, "", lambda _: {}),
}
_NOT_PYTHON = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
_BLANKS = re.compile(r"(?:\s|//[^\n]*|#[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SECONDS = r"(\d*\.\d+|\d+)"


class ScriptError(NbtcpError, ValueError):
    """A script that says nothing, or asks for what nbtcp does not have: "file:line: what"."""


class Time(NamedTuple):
    """When an event happens, in ns: at `begin`, or in `begin`..`end`; relative to the event before
    if `relative`. Neither is set for "any time". `until` is when a call that blocks returns.
    """

    begin: int | None
    end: int | None = None
    relative: bool = False
    until: int | None = None


class Packet(NamedTuple):
    """A segment, numbers as the script has them. None: not said, so not looked at in one that is
    expected; for `options`, "<...>". They have the names of a Segment's attributes.
    """

    incoming: bool
    flags: int
    start: int
    end: int
    ack: int | None = None
    win: int | None = None
    urg: int | None = None
    options: dict[str, Any] | None = None
    ecn: tuple[int, ...] | None = None

    def __str__(self) -> str:
        text = "<" if self.incoming else ">"
        text += f" {flag_letters(self.flags)} {self.start}:{self.end}"
        text += f"({(self.end - self.start) % MODULUS})"
        text += f" ack {self.ack}" if self.flags & ACK else ""
        text += f" win {self.win}"
        return text + (f" {option_text(self.options)}" if self.options else "")


class Icmp(NamedTuple):
    """An ICMP error that quotes our octets start..end; None: the oldest in flight."""

    kind: str
    code: str
    mtu: int
    quoted: tuple[int, int] | None


class Call(NamedTuple):
    """A system call. Values are int, str, list, dict, ANY, or a set of names for A|B."""

    name: str
    arguments: list[Any]
    result: Any
    errno: str | None


class Command(NamedTuple):
    """Shell commands, in backquotes."""

    text: str


class Code(NamedTuple):
    """Python between %{ and }%."""

    compiled: CodeType


class Event(NamedTuple):
    """One event. `when` and `text` are what the script says, each on one line."""

    line: int
    when: str
    text: str
    time: Time
    action: Packet | Icmp | Call | Command | Code


class Script(NamedTuple):
    """`options` are (line, name, value)."""

    name: str
    options: list[tuple[int, str, str]]
    events: list[Event]

    @classmethod
    def parse(cls, text: str, name: str = "script") -> "Script":
        """Raises ScriptError and nothing else."""
        return _Parser(text, name).script()


def flag_letters(flags: int) -> str:
    """Flags as a script has them, ACK last."""
    letters = "".join(letter for letter, bit in FLAGS.items() if flags & bit and bit != ACK)
    return letters + ("." if flags & ACK else "") or "-"


def option_text(options: dict[str, Any]) -> str:
    """TCP options as a script has them, always in the same order."""
    forms = {"mss": "mss {mss}", "wscale": "wscale {wscale}", "sack_permitted": "sackOK"}
    forms |= {"tsval": "TS val {tsval} ecr {tsecr}", "sack": "sack {blocks}"}
    blocks = " ".join(f"{left}:{right}" for left, right in options.get("sack", ()))
    parts = (form for name, form in forms.items() if name in options)
    return f"<{','.join(parts)}>".format(**options, blocks=blocks)


class _Parser:
    """Goes through the text from pattern to pattern; blanks and comments may stand between."""

    def __init__(self, text: str, name: str) -> None:
        self._source, self._name = text, name
        self._at = self._end = 0  # the next thing; the end of the last
        self._take("", "")

    # --- patterns ---

    def _try(self, pattern: str) -> re.Match[str] | None:
        """What `pattern` matches here, if it does, and go on behind it; " " is any blanks in it."""
        compiled = re.compile(pattern.replace(" ", r"\s*"), re.ASCII | re.DOTALL)
        found = compiled.match(self._source, self._at)
        if found is not None:
            self._end = found.end()
            self._at = next(_BLANKS.finditer(self._source, self._end)).end()
        return found

    def _take(self, pattern: str, expected: str) -> re.Match[str]:
        return self._try(pattern) or self._fail(expected)

    def _numbers(self, pattern: str, expected: str, below: int = MODULUS) -> list[int]:
        """The numbers in what must match `pattern`."""
        found = self._take(pattern, expected)
        numbers = [int(digits[:11]) for digits in re.findall(r"\d+", found[0])]
        if max(numbers, default=0) >= below:
            self._fail(f"{expected} below {below}", found.start())
        return numbers

    def _line(self, at: int) -> int:
        return self._source.count("\n", 0, at) + 1

    def _fail(self, expected: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        found = re.compile(r"\w+|\.\.\.|.").match(self._source, at)
        text = found[0][:40] if found else "the end"
        raise ScriptError(f"{self._name}:{self._line(at)}: found {text}, expected {expected}")

    # --- script, events, times ---

    def script(self) -> Script:
        options, events = [], []
        while found := self._try(r'--(\w+)=("[^"\n]*"|[^\s"]*)'):
            options.append((self._line(found.start()), found[1], found[2].strip('"')))
        while self._at < len(self._source):
            events.append(self._event())
        return Script(self._name, options, events)

    def _event(self) -> Event:
        start = self._at
        timeless = self._source[start] == "`"  # as the setup before the first event is written
        time = Time(0, relative=True) if timeless else self._time()
        begin = self._at
        action = self._action()
        if not isinstance(action, Packet) or action.incoming:
            if time.begin is None or time.end is not None:
                self._fail("a time; only a > line may come at any time, or in a range", start)
            if time.until is not None and not isinstance(action, Call):
                self._fail("no end; only a call has an end time", start)
        when, text = self._source[start:begin], self._source[begin : self._end]
        when, text = " ".join(when.split()), " ".join(text.split())
        return Event(self._line(start), when, text, time, action)

    def _time(self) -> Time:
        if self._try(r"\*"):
            return Time(None)
        at = self._at
        found = self._take(  # both ends of a range have a +, or none has
            rf"(\+)? {_SECONDS}(?: ~ (?(1)\+) {_SECONDS}| \.\.\. {_SECONDS})?",
            "a time such as 0.1, +0.1 or *",
        )
        seconds = [None if part is None else Decimal(part) for part in found.group(2, 3, 4)]
        if any(second is not None and second > LONGEST for second in seconds):
            self._fail(f"a time of at most {LONGEST} s", at)
        begin, end, until = (None if s is None else int(s * 1_000_000_000) for s in seconds)
        return Time(begin, end, found[1] is not None, until)

    def _action(self) -> Packet | Icmp | Call | Command | Code:
        if found := self._try(r"%\{(.*?)\}%"):
            try:
                name = f"{self._name}:{self._line(found.start())}"
                return Code(compile(inspect.cleandoc(found[1]), name, "exec"))
            except _NOT_PYTHON as error:
                self._fail(f"Python, but {error}", found.start())
        if found := self._try(r"`([^`]*)`"):
            return Command(found[1])
        if found := self._try("[<>]"):
            return self._packet(incoming=found[0] == "<")
        if found := self._try(r"([A-Za-z_]\w*) \("):
            return self._call(found[1])
        self._fail("<, >, a call, a `command` or %{ code }%")

    # --- packets ---

    def _packet(self, incoming: bool) -> Packet | Icmp:
        quoted, ecn = self._quoted(), None
        if found := self._try(r"icmp ([a-z]\w*)(?: (?!mtu\b)([a-z]\w*))?"):
            if not incoming:
                self._fail("ICMP coming in; nbtcp sends none", found.start())
            mtu = self._number("mtu", "an MTU", 65536) or 0
            return Icmp(found[1], found[2] or "code_0", mtu, quoted or self._quoted())
        if self._try(r"\["):
            ecn = ECN[self._take(rf"({'|'.join(ECN)})\b", ", ".join(ECN))[0]]
            self._take(r"\]", "]")
        letters = self._take(r"[FSRPUEW.]+|-", "flags such as S, S., P., F., R. or -")[0]
        flags = sum(bit for letter, bit in FLAGS.items() if letter in letters)
        start, end = self._sequence()
        if incoming and (end - start) % MODULUS > MAX_DATA:
            self._fail(f"at most {MAX_DATA} octets in one packet")
        ack = self._number("ack", "a number")
        win = self._number("win", "a window", 65536)
        urg = self._number("urg", "an urgent pointer", 65536)
        options = self._options() if self._try("<") else {}
        # A segment that is to be sent cannot leave open what one that is expected can.
        if incoming and flags & ACK and ack is None:
            self._fail("ack and a number in a < line with the flag")
        if incoming and win is None and not flags & RST:
            self._fail("win and a number in a < line")
        if incoming and options is None:
            self._fail("options; <...> is for > lines")
        return Packet(incoming, flags, start, end, ack, win, urg, options, ecn)

    def _number(self, name: str, expected: str, below: int = MODULUS) -> int | None:
        """`name` and a number, if it is there."""
        return self._numbers(r"\d+", expected, below)[0] if self._try(name) else None

    def _sequence(self) -> tuple[int, int]:
        start, end = self._numbers(r"\d+:\d+", "a sequence such as 1:1001(1000)")
        self._take(r"\(", "(")
        at, should = self._at, (end - start) % MODULUS
        if self._numbers(r"\d+ \)", "a length and )") != [should]:
            self._fail(f"the length {should} of {start}:{end}", at)
        return start, end

    def _quoted(self) -> tuple[int, int] | None:
        if not self._try(r"\[ (?=\d)"):
            return None
        sequence = self._sequence()
        self._take(r"\]", "]")
        return sequence

    def _options(self) -> dict[str, Any] | None:
        if self._try(r"\.\.\. >"):
            return None
        options: dict[str, Any] = {}
        while not self._try(">"):
            known = ", ".join(_OPTIONS)
            name = self._take(rf"(?:{'|'.join(_OPTIONS)})\b", f"one of {known}")[0]
            pattern, below, expected, value = _OPTIONS[name]
            options |= value(self._numbers(pattern, expected, below))
            self._take(",|(?=>)", "a comma or >")
        return options

    # --- calls ---

    def _call(self, name: str) -> Call:
        arguments = self._take(r'(?:[^()"]|"[^"\n]*"|\([^()]*\))*+', "")
        self._take(r"\)", "a comma or )")
        result = self._take(r"= (-?\w+(?:\|\w+)*|\.\.\.)", "= and the result")
        errno = self._try(r"[A-Z]\w*")
        self._try(r"\([^()]*\)")  # a note: what the error number means
        # Apart from the braces, values are written as in Python, so that is what reads them.
        text = arguments[0].replace("{", "dict(").replace("}", ")")
        try:
            values, value = (
                _value(ast.parse(part, mode="eval").body) for part in (f"[{text}\n]", result[1])
            )
        except _NOT_PYTHON as error:
            self._fail(f"values such as 3, ..., [1], A|B, {{fd=4}}, but {error}", arguments.start())
        return Call(name, values, value, errno and errno[0])


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | str() | EllipsisType() as value):
            if isinstance(value, int) and value >= 1 << 63:
                raise ValueError("a number is too large")
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            return -value
        case ast.Name(id=name):
            return frozenset({name})
        case ast.BinOp(op=ast.BitOr(), left=ast.expr() as left, right=ast.Name(id=name)):
            return _value(left) | {name}
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=fields):
            return {field.arg: _value(field.value) for field in fields}
        case ast.Call(args=[inside]):  # htons(8080), inet_addr("192.0.2.1")
            return _value(inside)
    raise ValueError("there is something else")
