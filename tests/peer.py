"""A scripted peer: the other end of a `Stack`, on a virtual clock, over wire bytes.

Segments are written as packetdrill writes them, the numbers of both sides relative:

    peer = Peer(timestamps=False)
    peer.connects()
    peer.expect("S 0:0(0) win 65535")
    peer.sends("S. 0:0(0) ack 1 win 8000 <mss 1000>")
    peer.expect(". 1:1(0) ack 1")

Options are `mss N`, `sackOK`, `sack A:B C:D`, `TS val N ecr N`, `wscale N`: in this order from the
stack, in any from the peer.

`start:end` may be all there is. What `sends` is not told it puts as a TCP would: flags ".", and the
ack and window that were sent last. What `expect` is not told it does not look at; `why` is the
log's reason. Octets are numbered, so all that leaves the stack, on either side, is checked too.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from nbtcp import Config, Connection, EventLog, Stack, State
from nbtcp.why import Why
from nbtcp.wire import segment as plain
from nbtcp.wire import vnet
from nbtcp.wire.icmp import build_icmp
from nbtcp.wire.segment import ACK, FIN, RST, SYN, Segment, pack_flow, reverse_flow

US, PEER, PORT = "10.0.0.2", "10.0.0.1", 80
US6, PEER6 = "fd00::2", "fd00::1"
ROUTER, ROUTER6 = "10.9.9.9", "fd09::9"
SECOND = 1_000_000_000
NANOSECOND = 1e-9
MODULUS = 1 << 32
_FLAGS = {"F": FIN, "S": SYN, "R": RST, "P": 8, ".": ACK, "U": 32, "E": 64, "C": 128}
_SPEC = re.compile(
    r"((?P<flags>[FSRPUEC.]+|-) )?(?P<start>-?\d+):(?P<end>-?\d+)(\((?P<length>\d+)\))?"
    r"( ack (?P<ack>-?\d+))?( win (?P<win>\d+))?( <(?P<options>.*)>)?( why (?P<why>[a-z-]+))?"
)
_LAP = bytes(range(251))  # a prime: no segment size repeats it
_made: list["Peer"] = []  # by the test that is running


@pytest.fixture(autouse=True)
def twice(request: pytest.FixtureRequest) -> None:
    """Same seed, same log, byte for byte: where this is imported, every test runs twice."""
    test = request.node.obj

    @wraps(test)
    def run(**arguments: Any) -> None:
        logs = []
        for _ in range(2):
            _made.clear()
            test(**arguments)
            logs.append([bytes(peer.log) for peer in _made])
        assert logs[0] == logs[1], "the same script gave another log"

    if not hasattr(test, "hypothesis"):
        request.node.obj = run


def content(start: int, end: int) -> bytes:
    """The octets at positions start..end of every stream in these tests."""
    return (_LAP * ((end - start) // 251 + 2))[start % 251 :][: end - start]


class _Log(EventLog):
    """An event log that also lists the reasons, without pandas."""

    def __init__(self, **meta: Any) -> None:
        super().__init__(**meta)
        self.reasons: dict[bool, list[Why]] = {True: [], False: []}  # by "was it sent"

    def segment(self, conn: Connection, sent: bool, segment: Segment, now: int) -> None:
        super().segment(conn, sent, segment, now)
        self.reasons[sent].append(segment.why)

    def refused(self, host: str, segment: Segment | None, why: Why, now: int) -> None:
        super().refused(host, segment, why, now)
        self.reasons[False].append(why)

    def replied(self, host: str, segment: Segment, now: int) -> None:
        super().replied(host, segment, now)
        self.reasons[True].append(segment.why)


class Peer:
    """The other end of a connection of `stack`. Times are in seconds, `now` is in nanoseconds."""

    def __init__(
        self, *, seed: int = 1, iss: int = 3_000_000_000, ipv6: bool = False, **settings: Any
    ) -> None:
        self.log = _Log(seed=seed)
        self.us, self.them, self.router = (US6, PEER6, ROUTER6) if ipv6 else (US, PEER, ROUTER)
        self.stack = Stack(self.us, seed=seed, observer=self.log, config=Config(**settings))
        codec = vnet if self.stack.config.offload else plain
        self._parse, self._build = codec.parse, codec.build
        self.conn: Any = None
        self.listener: Any = None
        self.now = 0
        self.iss, self.irs = iss, 0  # of our numbers, and of the stack's
        self.nxt, self.acked, self.win = 0, 0, 65535  # what `sends` puts when it is not told
        self.tsval: int | None = None  # our timestamp at time 0; None: we send none
        self.flow = pack_flow((self.them, 40000), (self.us, PORT))  # of our segments
        self.echo = 0  # the stack's last timestamp
        self._scaling, self._shift = False, 0  # of the stack's windows
        self.edge = 0  # the furthest right edge that the stack has offered
        self.segments: list[Segment] = []  # all that the stack has sent
        self._written = self._read = 1  # positions the application has come to
        self.packets: list[bytes] = []  # all that the stack has sent
        self._out: list[str] = []  # sent by the stack, not yet expected
        self._taken, self._in_batch = 0, False
        self._transcript: list[str] = []
        _made.append(self)

    # --- the application above the stack ---

    def connects(self, **options: Any) -> None:
        self.conn = self.stack.connect((self.them, PORT), self.now, **options)
        self.flow = reverse_flow(self.conn.flow)
        self._called("connects")

    def listens(self, backlog: int = 128) -> None:
        self.listener = self.stack.listen(PORT, backlog)

    def app_writes(self, octets: int, **options: Any) -> int:
        """Write so many octets; returns how many were taken."""
        data = content(self._written, self._written + octets)
        taken: int = self.conn.send(data, self.now, **options)
        self._written += taken
        self._called(f"writes {taken}")
        return taken

    def app_reads(self, most: int = 1 << 30) -> int:
        data = self.conn.recv(most, self.now)
        start, self._read = self._read, self._read + len(data)
        assert data == content(start, self._read), "these are other octets"
        self._called(f"reads {len(data)}")
        return len(data)

    def app_shuts_down(self) -> None:
        self.conn.shutdown(self.now)
        self._called("shuts down")

    def app_closes(self) -> None:
        self.conn.close(self.now)
        self._called("closes")

    def app_aborts(self) -> None:
        self.conn.abort(self.now)
        self._called("aborts")

    @property
    def state(self) -> Any:
        return self.conn.state

    # --- what the peer does ---

    def sends(self, spec: str, flow: bytes | None = None, **fields: int) -> str:
        """Send one segment, with `urgent`, `tos` or `gso_size` if given; the log's reason, what was
        done with it, comes back.
        """
        at = _parts(spec)
        flags = sum(_FLAGS.get(letter, 0) for letter in at["flags"] or ".")
        start, end = int(at["start"]), int(at["end"])
        first = start + (flags & SYN != 0)
        ack = int(at["ack"]) if at["ack"] else self.acked
        win = int(at["win"]) if at["win"] else self.win
        seg = Segment(flow or self.flow, flags, (start + self.iss) % MODULUS, 0, win)
        seg.data = content(first, first + end - start)
        for name, value in fields.items():
            setattr(seg, name, value)
        if flags & ACK:
            seg.raw_ack = (ack + self.irs) % MODULUS
            self.acked = max(self.acked, ack)
        if not flags & RST:
            self.win, self.nxt = win, max(self.nxt, start + seg.len)
        if at["options"] is not None:
            _set_options(seg, at["options"], self.irs)
            self._scaling = self._scaling or seg.wscale is not None
        elif self.tsval is not None:
            seg.tsval, seg.tsecr = (self.tsval + self.now // 1_000_000) % MODULUS, self.echo
        self._note("<", describe(seg, start, ack))
        self.stack.receive(self._build(seg), self.now)
        if self.conn is None and self.stack.connections:
            self.conn = self.stack.connections[0]
        if not self._in_batch:
            self.flush()
        return self.log.reasons[False][-1].label

    def acks(self, ack: int, *, win: int | None = None, sack: str = "") -> str:
        """A pure acknowledgment; `sack` is "1001:2001 3001:4001", say."""
        window = self.win if win is None else win
        options = [f"sack {sack}"] if sack else []
        if sack and self.tsval is not None:
            options.append(f"TS val {self.tsval + self.now // 1_000_000} ecr {self.echo}")
        text = f" <{','.join(options)}>" if options else ""
        return self.sends(f". {self.nxt}:{self.nxt} ack {ack} win {window}{text}")

    def reports(self, kind: int, code: int = 0, *, about: int | bytes = -1, mtu: int = 0) -> str:
        """A router says by ICMP what became of a packet, one of `packets` if given by number; what
        was done with that comes back.
        """
        packet = self.packets[about] if isinstance(about, int) else about
        self._note("<", f"ICMP {kind} {code} mtu {mtu} about packet {about!r}")
        error = build_icmp(self.router, packet, kind, code, mtu=mtu)
        self.stack.receive(bytes(self.stack.header) + error, self.now)
        if not self._in_batch:
            self.flush()
        events = self.log.events
        said = events[events.event == "icmp"]
        return "" if said.empty else str(said.why.iloc[-1])

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is done inside happens before the stack can answer."""
        self._in_batch = True
        yield
        self._in_batch = False
        self.flush()

    # --- what the stack does ---

    def expect(self, *specs: str) -> None:
        """Since the last call the stack has sent exactly this, and now it is silent."""
        sent = self.sent()
        if len(specs) != len(sent) or not all(map(_matches, specs, sent)):
            wanted = "\n    ".join(("expected", *(specs or ["silence"])))
            self._fail(wanted + "\n    ".join(("\nsent", *(sent or ["nothing"]))))

    def sent(self) -> list[str]:
        """What the stack has sent since the last call, or since the last `expect`."""
        self.flush()
        sent, self._out = self._out, []
        return sent

    def expect_after(self, seconds: float, *specs: str) -> None:
        """Silence until a nanosecond before, then exactly this."""
        until = self.now + round(seconds * SECOND)
        self._pass(until - 1)
        self.expect()
        self._pass(until)
        self.expect(*specs)

    def wait(self, seconds: float) -> None:
        """Let time pass; each timer is also tried a nanosecond too early."""
        self._pass(self.now + round(seconds * SECOND))

    def flush(self) -> None:
        """Take what the stack has to send now."""
        for packet in self.stack.transmit(self.now):
            self.packets.append(packet[self.stack.header :])
            segment, why = self._parse(packet), self.log.reasons[True][self._taken].label
            self._taken += 1
            self.segments.append(segment)
            if segment.flags & SYN:
                self.irs, self._shift = segment.raw_seq, segment.wscale or 0
            seq, ack = segment.raw_seq - self.irs, segment.raw_ack - self.iss
            text = f"{describe(segment, seq % MODULUS, ack % MODULUS, self.iss)} why {why}"
            self._note(">", text)
            self._out.append(text)
            self._check(segment, seq % MODULUS, ack % MODULUS)
        if self.stack.transmit(self.now):
            self._fail("a second call of transmit gave more")

    # --- inside ---

    def _pass(self, until: int) -> None:
        while (due := self.stack.deadline()) is not None and due <= until:
            if due > self.now:
                self.stack.handle_timer(due - 1)
                if self.stack.transmit(due - 1):
                    self._fail("something was sent before its time")
            self.now = max(self.now, due)
            self.stack.handle_timer(self.now)
            self.flush()
            if self.stack.deadline() == due:
                self._fail("a timer that was handled is still due")
        self.now = until

    def _check(self, segment: Segment, seq: int, ack: int) -> None:
        """What must hold for everything that any stack sends."""
        seq += segment.flags & SYN != 0
        if segment.data != content(seq, seq + len(segment.data)):
            self._fail("these are other octets")
        if (size := segment.gso_size) and (len(segment.data) <= size or len(segment.data) % size):
            self._fail(f"{len(segment.data)} octets are not several segments of {size}")
        if (segment.mss is not None) != (segment.flags & SYN != 0):
            self._fail("MUST-65, SHLD-5: the MSS option belongs in every SYN and nowhere else")
        self.echo = segment.tsval or self.echo
        if segment.flags & (ACK | RST) == ACK:
            shift = self._shift if self._scaling and not segment.flags & SYN else 0
            edge = ack + (segment.raw_window << shift)
            if edge <= self.edge - (1 << shift):  # less than a unit is rounding: RFC 7323 2.4
                self._fail(f"SHLD-14: the right edge went back from {self.edge} to {edge}")
            self.edge = max(self.edge, edge)

    def _fail(self, problem: str) -> None:
        pytest.fail("\n    ".join([f"{problem}\nall that happened", *self._transcript]))

    def _called(self, what: str) -> None:
        self._note("application", what)
        if not self._in_batch:
            self.flush()

    def _note(self, *words: str) -> None:
        number = len(self._transcript) + 1
        self._transcript.append(f"{number:3} {self.now / SECOND:.9f} {' '.join(words)}")


def established(
    *,
    passive: bool = False,
    mss: int = 1460,
    win: int = 65535,
    wscale: int | None = None,
    tsval: int | None = None,
    sack: bool = False,
    rtt: float = 0.0,
    cwnd: int | None = None,
    **settings: Any,
) -> Peer:
    """A peer whose connection is ESTABLISHED. `cwnd` is the initial window, `rtt` what the SYN
    takes, `mss`, `win` (unscaled), `wscale`, `tsval` and `sack` are what the peer offers.
    """
    peer = Peer(initial_window=cwnd, **settings)
    peer.win, peer.tsval = win, tsval
    options = f"mss {mss}" + (f",wscale {wscale}" if wscale is not None else "")
    options += ",sackOK" if sack else ""
    peer.listens() if passive else peer.connects()
    peer.wait(0 if passive else rtt)
    if tsval is not None:
        options += f",TS val {tsval + peer.now // 1_000_000} ecr {peer.echo}"
    peer.sends(f"S 0:0 <{options}>" if passive else f"S. 0:0 ack 1 <{options}>")
    if passive:
        peer.wait(rtt)
        peer.acks(1)
        assert peer.listener.accept() is peer.conn
    peer.expect(*(["S. 0:0 ack 1"] if passive else ["S 0:0", ". 1:1 ack 1"]))
    assert peer.state is State.ESTABLISHED
    return peer


def describe(segment: Segment, seq: int, ack: int, theirs: int = 0) -> str:
    """A segment in packetdrill's notation; `theirs` is what the numbers in its SACKs count from."""
    flags = "".join(letter for letter, bit in _FLAGS.items() if segment.flags & bit) or "-"
    text = f"{flags} {seq}:{seq + len(segment.data)}({len(segment.data)})"
    text += f" ack {ack}" if segment.flags & ACK else ""
    options = [f"mss {segment.mss}"] if segment.mss is not None else []
    if segment.sack_permitted:
        options.append("sackOK")
    if segment.sack:
        edges = [[(edge - theirs) % MODULUS for edge in block] for block in segment.sack]
        options.append("sack " + " ".join(f"{left}:{right}" for left, right in edges))
    if segment.tsval is not None:
        options.append(f"TS val {segment.tsval} ecr {segment.tsecr}")
    if segment.wscale is not None:
        options.append(f"wscale {segment.wscale}")
    return f"{text} win {segment.raw_window} <{','.join(options)}>"


def _matches(spec: str, sent: str) -> bool:
    want, got = _parts(spec), _parts(sent)
    return all(got[name] == value for name, value in want.items() if value is not None)


def _parts(spec: str) -> dict[str, Any]:
    """The named parts of a segment's notation, None where there is nothing."""
    found = _SPEC.fullmatch(spec)
    assert found, f"not understood: {spec}"
    return found.groupdict()


def _set_options(segment: Segment, text: str, ours: int) -> None:
    """`ours` is what the numbers in SACKs count from."""
    for option in filter(None, text.split(",")):
        match option.split():
            case ["mss", value]:
                segment.mss = int(value)
            case ["wscale", value]:
                segment.wscale = int(value)
            case ["sackOK"]:
                segment.sack_permitted = True
            case ["sack", *blocks]:
                edges = [[int(at) + ours for at in block.split(":")] for block in blocks]
                segment.sack = tuple((a % MODULUS, b % MODULUS) for a, b in edges)
            case ["TS", "val", value, "ecr", echo]:
                segment.tsval, segment.tsecr = int(value), int(echo)
            case _:
                raise AssertionError(f"not understood: {option}")
