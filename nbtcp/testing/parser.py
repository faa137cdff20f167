"""packetdrill's notation -> `Script`: option lines, then events, each a time and an action.

Nothing is looked up or carried out here. What is not understood is a ScriptError that names the
line, what was found and what was expected; any text gives a Script or a ScriptError.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import CodeType, EllipsisType
from typing import Any, NamedTuple, NoReturn

from ..errors import NbtcpError
from ..wire.segment import ACK, FIN, PSH, RST, SYN, URG
from ..wire.seq import MODULUS

ECE, CWR = 64, 128
FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": PSH, ".": ACK, "U": URG, "E": ECE, "W": CWR}
ECN = {"noecn": (0,), "ect0": (2,), "ect1": (1,), "ect01": (1, 2), "ce": (3,)}  # bits of TOS
DEEPEST = 10  # brackets in brackets
MAX_DATA = 65535 - 40  # octets in one packet
LONGEST = 10**8  # s, three years
ANY: EllipsisType = ...  # "..." in a script

_TOKENS = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
    | (?P<code>%\{.*?\}%)
    | (?P<command>`[^`]*`)
    | (?P<option>--\w+=(?:"[^"\n]*"|[^\s"]*))
    | (?P<string>"(?:\\.|[^"\\])*")
    | (?P<float>\d*\.\d+)
    | (?P<hex>0x[0-9a-fA-F]+)
    | (?P<int>\d+)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<dots>\.\.\.)
    | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class ScriptError(NbtcpError, ValueError):
    """A script that says nothing, or asks for what nbtcp does not have: "file:line: what"."""


@dataclass(frozen=True, slots=True)
class Time:
    """When an event happens, in ns: at `begin`, or in `begin`..`end`; relative to the event before
    if `relative`. Neither is set for "any time". `until` is when a call that blocks returns.
    """

    begin: int | None
    end: int | None = None
    relative: bool = False
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A segment, numbers as the script has them. None: not said, so not looked at in one that is
    expected; for `options`, "<...>". They are {"mss": 1460, "ts": (val, ecr)}, without padding.
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


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMP error that quotes our octets start..end; None: the oldest in flight."""

    kind: str
    code: str
    mtu: int
    quoted: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Call:
    """A system call. Values are int, str, list, dict, ANY, or a set of names for A|B."""

    name: str
    arguments: list[Any]
    result: Any
    errno: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """Shell commands, in backquotes."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Python between %{ and }%."""

    compiled: CodeType


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `text` is what the script says, on one line."""

    line: int
    text: str
    time: Time
    action: Packet | Icmp | Call | Command | Code


@dataclass(frozen=True, slots=True)
class Script:
    """`options` are (line, name, value)."""

    name: str
    options: list[tuple[int, str, str]]
    events: list[Event]

    @classmethod
    def parse(cls, text: str, name: str = "script") -> "Script":
        """Raises ScriptError and nothing else."""
        return _Parser(text, name).script()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    start: int
    end: int


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._source, self._name = text, name
        self._tokens: list[_Token] = []
        self._at = 0
        line = 1
        for match in _TOKENS.finditer(text):
            kind = match.lastgroup or ""
            if kind != "skip":
                self._tokens.append(_Token(kind, match[0], line, *match.span()))
            line += match[0].count("\n")
        self._tokens.append(_Token("end", "", line, len(text), len(text)))

    # --- tokens ---

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _fail(self, expected: str) -> NoReturn:
        token = self._next
        found = " ".join(token.text.split())[:40] if token.kind != "end" else "the end"
        raise ScriptError(f"{self._name}:{token.line}: found {found}, expected {expected}")

    def _take(self, expected: str, *kinds: str) -> str:
        """The text of the next token, which must be of one of `kinds`."""
        if self._next.kind not in kinds:
            self._fail(expected)
        self._at += 1
        return self._tokens[self._at - 1].text

    def _has(self, *texts: str) -> bool:
        """True, and one further, when the next token is one of `texts`."""
        found = self._next.text in texts and self._next.kind not in ("string", "end")
        self._at += found
        return found

    def _must(self, text: str, expected: str = "") -> None:
        if not self._has(text):
            self._fail(expected or text)

    def _integer(self, expected: str, below: int = MODULUS) -> int:
        token = self._next
        text = self._take(expected, "int", "hex")
        value = int(text, 0 if token.kind == "hex" else 10) if len(text) < 20 else below
        if value >= below:
            self._at -= 1
            self._fail(f"{expected} below {below}")
        return value

    # --- script, events, times ---

    def script(self) -> Script:
        options, events = [], []
        while self._next.kind == "option":
            line = self._next.line
            name, _, value = self._take("", "option")[2:].partition("=")
            options.append((line, name, value.strip('"')))
        while self._next.kind != "end":
            events.append(self._event())
        return Script(self._name, options, events)

    def _event(self) -> Event:
        first = self._next
        timeless = first.kind == "command"  # as the setup before the first event is written
        time = Time(0, relative=True) if timeless else self._time()
        action = self._action()
        if not isinstance(action, Packet) or action.incoming:
            if time.begin is None or time.end is not None:
                message = "only a > line may come at any time, or in a range of times"
                raise ScriptError(f"{self._name}:{first.line}: {message}")
            if time.until is not None and not isinstance(action, Call):
                raise ScriptError(f"{self._name}:{first.line}: only a call has an end time")
        last = self._tokens[self._at - 1]
        text = " ".join(self._source[first.start : last.end].split())
        return Event(first.line, text, time, action)

    def _time(self) -> Time:
        if self._has("*"):
            return Time(None)
        relative = self._has("+")
        begin, end, until = self._seconds(), None, None
        if self._has("~"):
            if relative:
                self._must("+")
            end = self._seconds()
        elif self._next.kind == "dots":
            self._at += 1
            until = self._seconds()
        return Time(begin, end, relative, until)

    def _seconds(self) -> int:
        seconds = Decimal(self._take("a time such as 0.1, +0.1 or *", "int", "float"))
        if seconds > LONGEST:
            self._at -= 1
            self._fail(f"a time of at most {LONGEST} s")
        return int(seconds * 1_000_000_000)

    def _action(self) -> Packet | Icmp | Call | Command | Code:
        kind, text = self._next.kind, self._next.text
        if kind == "code":
            code = self._compiled(text[2:-2])
            self._at += 1
            return code
        if kind == "command":
            self._at += 1
            return Command(text[1:-1])
        if self._has("<", ">"):
            return self._packet(incoming=text == "<")
        if kind == "word":
            return self._call()
        self._fail("<, >, a call, a `command` or %{ code }%")

    def _compiled(self, text: str) -> Code:
        try:
            return Code(compile(inspect.cleandoc(text), f"{self._name}:{self._next.line}", "exec"))
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            self._fail(f"Python, but {error}")

    # --- packets ---

    def _packet(self, incoming: bool) -> Packet | Icmp:
        ecn, quoted = None, None
        if self._has("["):
            if self._next.kind == "int":
                quoted = self._sequence()
            elif (ecn := ECN.get(self._take("an ECN codepoint", "word"))) is None:
                self._at -= 1
                self._fail(", ".join(ECN))
            self._must("]")
        if self._has("icmp"):
            if not incoming:
                self._fail("ICMP coming in; nbtcp sends none")
            return self._icmp(quoted)
        flags = self._flags()
        start, end = self._sequence()
        if incoming and (end - start) % MODULUS > MAX_DATA:
            self._at -= 1
            self._fail(f"at most {MAX_DATA} octets in one packet")
        ack = self._integer("a number") if self._has("ack") else None
        win = self._integer("a window", 65536) if self._has("win") else None
        urg = self._integer("an urgent pointer", 65536) if self._has("urg") else None
        options: dict[str, Any] | None = {}
        if self._has("<"):
            options = self._options()
        if incoming:
            self._must_be_whole(flags, ack, win, options)
        return Packet(incoming, flags, start, end, ack, win, urg, options, ecn)

    def _must_be_whole(
        self, flags: int, ack: int | None, win: int | None, options: dict[str, Any] | None
    ) -> None:
        """A segment that is to be sent cannot leave open what one that is expected can."""
        if flags & ACK and ack is None:
            self._fail("ack and a number in a < line with the flag")
        if win is None and not flags & RST:
            self._fail("win and a number in a < line")
        if options is None:
            self._at -= 1
            self._fail("options; <...> is for > lines")

    def _flags(self) -> int:
        if self._has("-"):
            return 0
        expected = "flags such as S, S., P., F., R. or -"
        letters = ""
        while self._next.kind == "word" or self._next.text == ".":
            letters += self._take(expected, "word", "sign")
        if not letters or set(letters) - set(FLAGS):
            self._at -= bool(letters)
            self._fail(expected)
        return sum(FLAGS[letter] for letter in set(letters))

    def _sequence(self) -> tuple[int, int]:
        start = self._integer("a sequence such as 1:1001(1000)")
        self._must(":")
        end = self._integer("a sequence number")
        self._must("(")
        length = self._integer("a length")
        if length != (end - start) % MODULUS:
            self._at -= 1
            self._fail(f"the length {(end - start) % MODULUS} of {start}:{end}")
        self._must(")")
        return start, end

    def _options(self) -> dict[str, Any] | None:
        options: dict[str, Any] = {}
        if self._next.kind == "dots":
            self._at += 1
            self._must(">")
            return None
        while not self._has(">"):
            self._option(options)
            if self._next.text != ">":
                self._must(",", "a comma or >")
        return options

    def _option(self, options: dict[str, Any]) -> None:
        match self._take("a TCP option", "word"):
            case "nop" | "eol":
                pass
            case "mss":
                options["mss"] = self._integer("an MSS", 65536)
            case "wscale":
                options["wscale"] = self._integer("a shift", 256)
            case "sackOK":
                options["sackOK"] = True
            case "TS":
                self._must("val")
                value = self._integer("a timestamp")
                self._must("ecr")
                options["ts"] = value, self._integer("a timestamp")
            case "sack":
                blocks = []
                while self._next.kind == "int":
                    left = self._integer("an edge")
                    self._must(":")
                    blocks.append((left, self._integer("an edge")))
                if not 1 <= len(blocks) <= 4:
                    self._fail("1 to 4 blocks such as 1001:2001")
                options["sack"] = tuple(blocks)
            case _:
                self._at -= 1
                self._fail("one of mss, wscale, sackOK, sack, TS, nop, eol")

    def _icmp(self, quoted: tuple[int, int] | None) -> Icmp:
        kind, code, mtu = self._take("an ICMP type such as unreachable", "word"), "code_0", 0
        if self._next.kind == "word" and self._next.text != "mtu":
            code = self._take("an ICMP code", "word")
        if self._has("mtu"):
            mtu = self._integer("an MTU", 65536)
        if quoted is None and self._has("["):
            quoted = self._sequence()
            self._must("]")
        return Icmp(kind, code, mtu, quoted)

    # --- calls ---

    def _call(self) -> Call:
        name = self._take("the name of a call", "word")
        self._must("(")
        arguments = self._several(")", lambda: self._value(0))
        self._must("=", "= and the result")
        result = self._value(0)
        errno = self._take("", "word") if self._next.kind == "word" else None
        if self._has("("):  # a note: what the error number means
            while not self._has(")"):
                if self._next.kind == "end":
                    self._fail(")")
                self._at += 1
        return Call(name, arguments, result, errno)

    def _several(self, closing: str, item: Callable[[], Any]) -> list[Any]:
        """Items between commas, up to `closing`."""
        items: list[Any] = []
        while not self._has(closing):
            items.append(item())
            if self._next.text != closing:
                self._must(",", f"a comma or {closing}")
        return items

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            self._fail("fewer brackets in each other")
        kind, text = self._next.kind, self._next.text
        if kind in ("int", "hex"):
            return self._integer("a number", 1 << 63)
        if self._has("-"):
            return -self._integer("a number", 1 << 63)
        if self._has("["):
            return self._several("]", lambda: self._value(depth + 1))
        if self._has("{"):
            return dict(self._several("}", lambda: self._field(depth + 1)))
        if self._next.kind == "dots":
            self._at += 1
            return ANY
        if kind == "string":
            self._at += 1
            self._at += self._next.kind == "dots"  # "abc"...: a string cut short
            return text[1:-1]
        names = {self._take("a value", "word")}
        if self._has("("):  # htons(8080), inet_addr("192.0.2.1")
            inside = self._value(depth + 1)
            self._must(")")
            return inside
        while self._has("|"):
            names.add(self._take("a name", "word"))
        return frozenset(names)

    def _field(self, depth: int) -> tuple[str, Any]:
        """`name = value`, `name(...) = value`, or a value alone: its key is its position."""
        token, after = self._next, self._tokens[min(self._at + 1, len(self._tokens) - 1)].text
        if token.kind != "word" or after not in ("=", "("):
            return str(self._at), self._value(depth)
        self._at += 1
        if self._has("("):
            self._value(depth)
            self._must(")")
        self._must("=")
        return token.text, self._value(depth)
