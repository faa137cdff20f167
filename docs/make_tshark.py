"""Writes tshark.md: how often tshark's `tcp.analysis` flags are right, and how often the reasons
that nbtcp infers, both from the same captures, held against the log of the hosts themselves.

    python docs/make_tshark.py            # write it
    python docs/make_tshark.py --check    # only say whether it is up to date

Needs tshark and editcap. The hosts are simulated, from seeds, so another run gives the same
captures; with another version of tshark the page has to be made anew.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from inspect import cleandoc
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbtcp import EventLog, Simulation, read_capture
from nbtcp import Path as Network
from nbtcp.links.path import Pipe
from nbtcp.links.sim import WireEnd
from nbtcp.runtime.host import Host
from nbtcp.runtime.loop import SECOND, Loop, VirtualClock
from nbtcp.trace.metrics import flows, payload, positions, resent

PAGE = Path(__file__).resolve().parent / "tshark.md"
CLIENT, SERVER, PORT = "10.0.0.1", "10.0.0.2", 80
PLACES = {"sender": CLIENT, "receiver": SERVER}
HOSTS = [CLIENT, SERVER]
SEEDS, OCTETS = (1, 2, 3), 600_000

Bools, Ints = np.ndarray, np.ndarray

# --- what happens: a scenario gives, for a seed, the log of both hosts ---


def network(**changes: Any) -> Network:
    """One direction of the path."""
    return Network(**{"rate": 10e6, "delay": 0.02, "queue": 100, **changes})


def transfer(up: Network, down: Network) -> Callable[[int], EventLog]:
    """The client sends `OCTETS`; its data passes `up`, the ACKs pass `down`."""
    return lambda seed: Simulation(up=up, down=down, seed=seed).transfer(OCTETS).log


class Stalling(Pipe):
    """A path on which nothing moves for the last 0.8 s of every 2 s; then all of it arrives."""

    def _travel(self, packet: bytes, arrival: int) -> None:
        ahead = -arrival % (2 * SECOND)
        super()._travel(packet, arrival + (ahead if ahead < SECOND * 4 // 5 else 0))


class Stalls(Simulation):
    """Two hosts with such a path from the client to the server."""

    def hosts(self, **settings: Any) -> tuple[Host, Host]:
        loop, log, config = Loop(VirtualClock()), EventLog(), self.config.but(**settings)
        client = Host(CLIENT, loop, config=config, seed=2 * self.seed, log=log)
        server = Host(SERVER, loop, config=config, seed=2 * self.seed + 1, log=log)
        up, down = Stalling(self.up, "up", client.drop), server.pipe(self.down, "down")
        client.attach(WireEnd(up, down))
        server.attach(WireEnd(down, up))
        return client, server


def stalls(seed: int) -> EventLog:
    """A transfer that is not over before the path stalls, with a window that queues little."""
    simulation = Stalls(network(rate=2e6 + 1e5 * seed), seed=seed)
    return simulation.transfer(2 * OCTETS, receive_buffer=30_000, autotune=False).log


def window_and_silence(seed: int) -> EventLog:
    """The receiver's buffer is full for 3 s, then it reads little by little; both are silent for
    4 s, with keep-alives; the connection ends, and another one uses its ports.
    """
    client, server = Simulation(network(), seed=seed).hosts(
        receive_buffer=16_000, autotune=False, keepalive=1.0, keepalive_interval=1.0, time_wait=0.1
    )
    loop, listener = client.loop, server.stack.listen(PORT)
    with loop.lock:
        conn = client.stack.connect((SERVER, PORT), loop.now())
        loop.run_until(lambda: conn.synchronized, SECOND)
        conn.send(bytes(60_000), loop.now())
        loop.run_until(lambda: False, 3 * SECOND)
        peer = listener.accept()
        assert peer is not None
        for tick in range(30):
            peer.recv(2_500 + 100 * seed, loop.now())
            loop.run_until(lambda: False, 3 * SECOND + (tick + 1) * SECOND // 25)
        loop.run_until(lambda: False, 9 * SECOND)
        for end in (conn, peer):
            end.shutdown(loop.now())
        loop.run_until(lambda: False, 10 * SECOND)
        again = client.stack.connect((SERVER, PORT), loop.now(), local_port=conn.local[1])
        loop.run_until(lambda: again.synchronized, 11 * SECOND)
        again.send(bytes(5_000), loop.now())
        again.shutdown(loop.now())
        loop.run_until(lambda: False, 12 * SECOND)
    return client.log


CALM = network()
MISSED = "capture misses 1 in 50"
SCENARIOS: dict[str, Callable[[int], EventLog]] = {
    "loss 2 %": transfer(network(loss=0.02), CALM),
    "reordering 3 % by 5 ms": transfer(network(reorder=0.03), CALM),
    "reordering 3 % by 1 ms": transfer(network(reorder=0.03, held=0.001, rate=30e6), CALM),
    "duplication 3 %": transfer(network(duplicate=0.03), CALM),
    "ACK loss 60 %": transfer(CALM, network(loss=0.6)),
    "spurious timeouts": stalls,
    MISSED: transfer(network(loss=0.01), CALM),
    "closed window, silence": window_and_silence,
}

# --- what is true of each segment, by the log of both hosts ---

TOLD_BY_ACKS = ("fast-retransmit", "partial-ack", "sack-hole", "rack")
BY_A_TIMER = ("timeout", "go-back-n")
ON_THE_WIRE = ["raw_seq", "raw_ack", "len", "flags", "window", "tsval", "tsecr", "sack"]
NEVER = 1 << 60


class Truth:
    """The segments as `host` saw them; each method is a flag, its docstring what the flag means.

    `missed` is each segment's chance to be missing in the capture. `view` is the rows of the log
    that are in it, `origin` of each the row of the log in which it was sent.
    """

    def __init__(self, log: EventLog, host: str, missed: float, seed: int) -> None:
        rows = self._rows = log.segments
        self._conn = rows["conn"].to_numpy()
        known = self._conn > 0  # of others there are no positions, and they are in no capture
        self._start, self._end = (known * numbers for numbers in positions(rows))
        self._ack = known * rows["ack"].to_numpy()
        self._why, self._flags, self._event, self._host = (
            rows[name].astype(str).to_numpy() for name in ("why", "flags", "event", "host")
        )
        self._origins = _origins(rows)
        chance = random.Random(seed)
        seen = np.flatnonzero(known & (self._host == host) & (self._event != "drop"))
        self.captured = np.array([chance.random() >= missed for _ in seen])
        self.view = seen[self.captured]
        self.origin = self._origins[self.view]

    def retransmission(self) -> Bools:
        """Its sender had sent some of its octets, SYN and FIN included, before. It is no probe."""
        rows = np.flatnonzero(self._event == "send")
        again = self._octets(self._first(rows, rows)) < self.origin
        return again & ~self._because("window-probe", "keepalive")

    def fast_retransmission(self) -> Bools:
        """A retransmission because ACKs told of a loss, not because a timer fired."""
        return self.retransmission() & self._because(*TOLD_BY_ACKS)

    def timeout(self) -> Bools:
        """A retransmission because the retransmission timer fired, or what followed from that.
        tshark has no flag for it.
        """
        return self.retransmission() & self._because(*BY_A_TIMER)

    def spurious_retransmission(self) -> Bools:
        """A retransmission of octets all of which came to the receiver by segments sent earlier: no
        matter when they came, nothing was lost. What a closed window refused did not come.
        """
        rows = self._origins[(self._event == "recv") & (self._why != "window-closed")]
        return self.retransmission() & (self._octets(self._first(rows, rows), max) < self.origin)

    def out_of_order(self) -> Bools:
        """It has octets, and one that was sent later came to the place of the capture sooner."""
        found, last = [], dict.fromkeys(self._host, -1)
        for origin in self.origin:
            sender, full = self._host[origin], self._end[origin] > self._start[origin]
            found.append(full and origin < last[sender])
            last[sender] = max(last[sender], origin if full else -1)
        return np.array(found)

    def lost_segment(self) -> Bools:
        """Between it and what was seen before lie octets that had been sent by then and did not
        come to the place of the capture: they are not only late.
        """
        first, most, found = self._first(self.origin, self.origin), defaultdict(int), []
        for origin in self.origin:
            way, start = self._way(origin), self._start[origin]
            gap = first[way][most[way] : start]
            found.append(self._end[origin] > start and bool((gap > origin).any()))
            most[way] = max(most[way], self._end[origin])
        return np.array(found) & (self._flags[self.origin] != "S")

    def ack_lost_segment(self) -> Bools:
        """It acknowledges octets that had not been seen at the place of the capture."""
        numbers, found = np.arange(len(self.view)), []
        first, most = self._first(self.origin, numbers), defaultdict(int)
        for number, origin in enumerate(self.origin):
            way, ack = self._way(origin, opposite=True), self._ack[origin]
            found.append(bool((first[way][most[way] : ack] > number).any()))
            most[way] = max(most[way], ack)
        return np.array(found)

    def duplicate_ack(self) -> Bools:
        """It was sent because a segment had arrived out of order or a second time, and acknowledges
        nothing new.
        """
        arrived = self._because("duplicate-ack", "challenge-ack") & ~self._answers("keepalive")
        return arrived & ~self._acknowledges()

    def window_update(self) -> Bools:
        """It was sent because the application had read, and acknowledges nothing new."""
        return self._because("window-update") & ~self._acknowledges()

    def window_full(self) -> Bools:
        """It has data, up to the end of the window that its sender knew."""
        return full(self._rows.iloc[self.origin])

    def zero_window(self) -> Bools:
        """It advertises a window of 0."""
        rows = self._rows.iloc[self.origin]
        return np.array((rows["window"] == 0) & ~rows["flags"].astype(str).str.contains("[SFR]"))

    def zero_window_probe(self) -> Bools:
        """It was sent because the persist timer fired."""
        return self._because("window-probe")

    def zero_window_probe_ack(self) -> Bools:
        """It is the first segment that was sent when a window probe had arrived."""
        return self._answers("window-probe")

    def keep_alive(self) -> Bools:
        """It was sent because the keep-alive timer fired."""
        return self._because("keepalive")

    def keep_alive_ack(self) -> Bools:
        """It is the first segment that was sent when a keep-alive had arrived."""
        return self._answers("keepalive")

    def reused_ports(self) -> Bools:
        """A SYN that opens a connection whose addresses and ports an earlier one had."""
        return (self._flags[self.origin] == "S") & (self._conn[self.origin] > 1)

    # --- helpers ---

    def _because(self, *reasons: str) -> Bools:
        return np.isin(self._why[self.origin], reasons)

    def _acknowledges(self) -> Bools:
        """Per segment: its number is above that of all that its sender had sent before."""
        sent = self._rows[self._event == "send"]
        most = sent.groupby(["host", "conn"], observed=True)["ack"].cummax()
        before = most.groupby([sent["host"], sent["conn"]], observed=True).shift(fill_value=0)
        new = (sent["ack"] > before).reindex(range(len(self._rows)), fill_value=False)
        return new.to_numpy()[self.origin]

    def _answers(self, reason: str) -> Bools:
        """Per segment: the first that its sender sent when one sent for `reason` had arrived."""
        arrived = (self._event == "recv") & (self._why[self._origins] == reason)
        sent = [np.flatnonzero((self._event == "send") & (self._host == host)) for host in HOSTS]
        first = [sent[HOSTS.index(self._host[row])] for row in np.flatnonzero(arrived)]
        ends = zip(first, np.flatnonzero(arrived), strict=True)
        answers = [rows[np.searchsorted(rows, row)] for rows, row in ends if row < rows[-1]]
        return np.isin(self.origin, answers)

    def _way(self, row: int, opposite: bool = False) -> tuple[bool, int]:
        return (self._host[row] == CLIENT) != opposite, self._conn[row]

    def _first(self, rows: Ints, numbers: Ints) -> dict[Any, Ints]:
        """By direction, for each octet: the least number of those rows that have it, or NEVER."""
        size = max(self._end.max(), self._ack.max()) + 1
        first: dict[Any, Ints] = defaultdict(lambda: np.full(size, NEVER))
        for row, number in sorted(zip(rows, numbers, strict=True), key=lambda pair: -pair[1]):
            first[self._way(row)][self._start[row] : self._end[row]] = number
        return first

    def _octets(self, first: dict[Any, Ints], choose: Callable[..., int] = min) -> Ints:
        """Per segment of the view: what `first` has for its octets, the least or the greatest."""
        spans = ((self._way(row), self._start[row], self._end[row]) for row in self.origin)
        return np.array([choose(first[way][at:end], default=NEVER) for way, at, end in spans])


def full(rows: pd.DataFrame) -> Bools:
    """Per segment: it has data, up to SND.UNA + SND.WND."""
    edge = (rows["snd_una"] + rows["snd_wnd"]).fillna(-1).to_numpy(np.int64)
    return np.array((rows["len"] > 0) & (payload(rows)[1] == edge))


def _origins(rows: pd.DataFrame) -> Ints:
    """Per row: which row has the sending of this segment. Copies made by the path have the same."""
    origins, waiting, last = np.arange(len(rows)), defaultdict(list), {}
    wire = rows[ON_THE_WIRE].astype(object).fillna(-1).itertuples(index=False, name=None)
    for row, (host, event, fields) in enumerate(
        zip(rows["host"], rows["event"], wire, strict=True)
    ):
        if rows["conn"][row] == 0:
            continue
        key = ((host == CLIENT) != (event == "recv"), *fields)
        if event == "send":
            waiting[key].append(row)
        elif event == "drop":
            origins[row] = waiting[key].pop()
        else:
            origins[row] = last[key] = waiting[key].pop(0) if waiting[key] else last[key]
    return origins


# --- what the programs say of a capture ---

FLAGS = [name for name in vars(Truth) if not name.startswith("_")]
NO_FLAG = ("timeout",)
PROGRAMS = ("tshark", "nbtcp")


def write_capture(truth: Truth, log: EventLog, host: str, folder: Path) -> Path:
    """What another program would have captured at `host`: without reasons and directions."""
    ours, theirs = log.to_pcapng(folder / "ours.pcapng", host=host), folder / "theirs.pcap"
    missing = map(str, np.flatnonzero(~truth.captured) + 1)
    subprocess.run(["editcap", "-F", "nsecpcap", ours, theirs, *missing], check=True)
    return theirs


def by_tshark(capture: Path) -> dict[str, Bools]:
    """Per flag: which segments have it."""
    asked = [flag for flag in FLAGS if flag not in NO_FLAG]
    fields = [word for flag in asked for word in ("-e", f"tcp.analysis.{flag}")]
    command = ["tshark", "-r", str(capture), "-T", "fields", *fields]
    where = {**os.environ, "WIRESHARK_CONFIG_DIR": str(capture.parent)}  # nobody's preferences
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=where)
    table = [line.split("\t") for line in done.stdout.splitlines()]
    return {flag: np.array([line[i] != "" for line in table]) for i, flag in enumerate(asked)}


def by_nbtcp(capture: Path) -> dict[str, Bools]:
    """The same, for those that nbtcp infers."""
    log = read_capture(capture)
    rows = log.segments
    why, flags = rows["why"].astype(str), rows["flags"].astype(str)
    again = resent(rows, flows(rows, log.connections))
    in_vain = np.zeros(len(rows), bool)
    in_vain[again] = log.retransmissions()["fate"] == "arrived"
    again &= ~why.isin(["window-probe", "keepalive"])
    said = {
        "retransmission": again,
        "fast_retransmission": again & why.isin(TOLD_BY_ACKS),
        "timeout": again & why.isin(BY_A_TIMER),
        "spurious_retransmission": again & in_vain,
        "out_of_order": why == "out-of-order",
        "duplicate_ack": why == "duplicate-ack",
        "window_update": why == "window-update",
        "window_full": full(rows),
        "zero_window": (rows["window"] == 0) & ~flags.str.contains("[SFR]"),
        "zero_window_probe": why == "window-probe",
        "zero_window_probe_ack": answers(rows, "window-probe"),
        "keep_alive": why == "keepalive",
        "keep_alive_ack": answers(rows, "keepalive"),
        "reused_ports": (rows["conn"] > 1) & (flags == "S"),
    }
    return {flag: np.asarray(found) for flag, found in said.items()}


def answers(rows: pd.DataFrame, reason: str) -> Bools:
    """Per segment: the first that its sender sent after one that was sent to it for `reason`."""
    turn = rows["host"].astype(str) != rows["host"].astype(str).groupby(rows["conn"]).shift()
    asked = (rows["why"] == reason).groupby(rows["conn"]).shift(fill_value=False)
    return np.array(turn & asked)


# --- the page ---

Counts = dict[tuple[str, str, str, str], Ints]  # flag, scenario, place, program: right, said, true


def count(scenario: str, place: str, seed: int) -> Counts:
    """One cell: a run, seen from one place."""
    log, host = SCENARIOS[scenario](seed), PLACES[place]
    truth = Truth(log, host, 0.02 if scenario == MISSED else 0.0, seed)
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        capture = write_capture(truth, log, host, Path(folder))
        said = {"tshark": by_tshark(capture), "nbtcp": by_nbtcp(capture)}
    for flag in FLAGS:
        true = getattr(truth, flag)()
        for program, flags in said.items():
            if flag in flags:
                numbers = (true & flags[flag]).sum(), flags[flag].sum(), true.sum()
                counts[flag, scenario, place, program] = np.array(numbers)
    return counts


HEAD = """# How often tshark is right, and how often nbtcp is

Made by `docs/make_tshark.py`; do not edit. tshark {version}, with its defaults.

Wireshark and tshark see one place of the network and infer from it what happened; so does nbtcp
when it reads a capture of others. Here both look at the same captures, of nbtcp's hosts in a
simulated network, and are held against the log of both hosts, which knows. *Precision*: of so many
segments of which the program says it, it is true of these. *Recall*: of so many of which it is
true, the program says it of these. A capture was made at the sender of the data or at its receiver.

Each scenario is a transfer of {octets} kB, {seeds} times with other seeds, at 10 Mbit/s with a
round trip of 40 ms, but:

- reordering: a segment is held up by 5 ms, and overtaken; or by 1 ms, at 30 Mbit/s;
- spurious timeouts: twice as much at 2 Mbit/s, over a path that stops for 0.8 s every 2 s and loses
  nothing;
- capture misses: the path loses 1 % of the data besides;
- closed window, silence: 60 kB for a receiver that does not read for 3 s and then reads slowly;
  keep-alives in the silence that follows; then a second connection on the same ports.

All in all:

"""
_COLUMNS = "true | tshark: precision | recall | nbtcp: precision | recall |\n" + "|---" * 6 + "|"
TOP, HEADING = f"| flag | {_COLUMNS}", f"| scenario | {_COLUMNS}"
TAIL = """## Not here

`tfo_syn`, `tfo_ack`, `tfo_ignored`: nbtcp has no TCP Fast Open. A dash in nbtcp's columns: it does
not infer what the capture lacks (it counts the octets in `log.meta["problems"]`). Nor does it say
why something was sent again that, at the receiver, had been acknowledged already.

What nbtcp says stands in the column `why` of `log.segments`, but for these: retransmissions for
nothing have the `fate` "arrived" in `log.retransmissions()`; a window is full where payload ends at
`snd_una + snd_wnd`; what answers a probe is the next segment of the other end.

That a retransmission was for nothing is told by what came back: a D-SACK, an ACK that echoes an
older timestamp (RFC 3522), or an ACK that had passed before it.

nbtcp tells what the network held up or copied from what was sent again by the timestamps option,
and by the round-trip time. With neither, it has tshark's troubles. A pure ACK that was captured on
two interfaces counts as a duplicate ACK; fragments are left out and counted.
"""


def count_all(cells: Iterable[tuple[str, str]]) -> Counts:
    """Cells, each of a scenario and a place; the seeds added."""
    total: Counts = {}
    for (scenario, place), seed in product(cells, SEEDS):
        for key, numbers in count(scenario, place, seed).items():
            total[key] = total.get(key, 0) + numbers
    return total


def version() -> str:
    """That of tshark, as "4.0.17"."""
    done = subprocess.run(["tshark", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split("(Wireshark) ")[1].split()[0].rstrip(".")


def page(counts: Counts) -> str:
    """What tshark.md holds."""
    lines = [HEAD.format(version=version(), octets=OCTETS // 1000, seeds=len(SEEDS)) + TOP]
    for flag in FLAGS:
        both = [sum(n for key, n in counts.items() if key[::3] == (flag, who)) for who in PROGRAMS]
        lines.append(f"| [{flag}](#{flag}) | {rates(*both)} |")
    rows = rows_of(counts)
    for flag in FLAGS:
        lines += ["", f"## {flag}", "", cleandoc(getattr(Truth, flag).__doc__), "", HEADING]
        lines += [row for key, row in rows.items() if key[0] == flag]
    for name in set(SCENARIOS) - {scenario for _, scenario, _ in rows}:
        lines += ["", f"With {name} nothing of all this is true, and nothing is said."]
    return "\n".join([*lines, "", TAIL])


def rows_of(counts: Counts) -> dict[tuple[str, str, str], str]:
    """By flag, scenario and place: the row of the flag's table, where there is more than zeros."""
    rows = {}
    for key in product(FLAGS, SCENARIOS, PLACES):
        both = [counts.get((*key, program), 0) for program in PROGRAMS]
        if np.any(both[0]) or np.any(both[1]):
            rows[key] = f"| {key[1]}, at the {key[2]} | {rates(*both)} |"
    return rows


def rates(*programs: Ints | int) -> str:
    """How many there are; precision and recall of each program. 0 is one that does not say it."""
    cells, most = [], 0
    for numbers in programs:
        right, said, true = numbers if isinstance(numbers, np.ndarray) else (0, 0, 0)
        cells += [f"{100 * right / of:.0f} % of {of}" if of else "-" for of in (said, true)]
        most = max(most, true)
    return " | ".join([str(most), *cells])


def main() -> int:
    """Exit code 1 when `--check` finds the file out of date."""
    text = page(count_all(product(SCENARIOS, PLACES)))
    if sys.argv[1:] == ["--check"]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print(f"{PAGE.name} is {'up to date' if fresh else 'out of date: python ' + __file__}")
        return not fresh
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
