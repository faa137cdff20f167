"""How fast the tables of a log are, and its pictures: one simulated transfer over a bad path.

    python benchmarks/tables.py [--segments N] [--drawn N]

Tables are made of a log with a million segments, and of the half of it that another program would
have captured at the sender; pictures of a log with a hundred thousand. Data is lost, reordered,
reported by SACK and sent again. Times are CPU seconds of this process: for a table when it is asked
for the first time; for a picture, whose tables are there, until it is made ("made"), and from there
until it is a PNG file's bytes, what a notebook shows, an SVG file (each the best of three). What is
meant to take half a second is "made" and one of the others together.
Absolute figures are those of one machine on one day.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nbtcp
from nbtcp.trace import pcap
from nbtcp.trace.log import LAYOUTS
from nbtcp.trace.plot import Picture

PATH = nbtcp.Path(rate=100e6, delay=0.01, queue=170, loss=0.002, reorder=0.001)
OCTETS = 465  # of payload for each segment that the log holds: both ends are in it
TABLES = """
    segments events connections rtt queue retransmissions throughput states timers directions
    summary""".split()
PICTURES = """
    sequence stevens window rtt waits throughput queue states timers scoreboard overview
    diagram""".split()


def simulated(segments: int) -> nbtcp.EventLog:
    """A log with about that many segments."""
    return nbtcp.Simulation(PATH, seed=1).transfer(OCTETS * segments).log


def size(log: nbtcp.EventLog) -> int:
    """Segments in the log, without making a table of them."""
    return len(log.rows["segments"]) // LAYOUTS["segments"].size


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def table(log: nbtcp.EventLog, name: str) -> object:
    """That table of the log."""
    found = getattr(log, name)
    return found() if callable(found) else found


def foreign(log: nbtcp.EventLog, place: Path) -> Path:
    """What another program would have captured at the sender: no reasons, no directions."""
    ours = log.to_pcapng(place / "ours.pcapng", host=log.hosts[0])
    with (place / "foreign.pcapng").open("wb") as file:
        file.write(pcap.header("another program", "", ["eth0"]))
        for frame in pcap.CaptureReader(ours.read_bytes()):
            file.write(pcap.packet(0, frame._replace(outbound=None, comment="")))
    return place / "foreign.pcapng"


def tables(log: nbtcp.EventLog) -> dict[str, Callable[[], object]]:
    """What makes each of the tables of a log, and those of two logs compared."""
    both = nbtcp.compare({"one": log, "other": log})
    compared = ("directions", "summary", "retransmissions", "rtt")
    return {
        **{name: lambda name=name: table(log, name) for name in TABLES},
        **{f"compare, {name}": getattr(both, name) for name in compared},
    }


def main() -> None:
    """Simulate, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=1_000_000, help="for the tables")
    parser.add_argument("--drawn", type=int, default=100_000, help="for the pictures")
    options = parser.parse_args()
    nbtcp.Simulation(PATH).transfer(100_000).log.plot.sequence().png()  # imports, fonts
    log = simulated(options.segments)
    print(f"{f'tables of {size(log):,} segments':34} {'CPU s':>7}")
    for name, make in tables(log).items():
        print(f"{name:34} {seconds(make):7.2f}")
    with TemporaryDirectory() as place:
        capture, found = foreign(log, Path(place)), []
        took = seconds(lambda: found.append(nbtcp.read_capture(capture)))
    print(f"{f'a capture of {size(found[0]):,} packets':34} {took:7.2f}")
    for name in TABLES:
        print(f"{'  its ' + name:34} {seconds(lambda name=name: table(found[0], name)):7.2f}")
    log = simulated(options.drawn)
    for make in tables(log).values():
        make()
    print(
        f"{f'pictures of {size(log):,} segments':34} {'made':>7} {'PNG':>7} {'shown':>7} {'SVG':>7}"
    )
    with TemporaryDirectory() as place:
        for name in PICTURES:
            file = Path(place) / f"{name}.svg"
            took = [drawn(getattr(log.plot, name), file) for _ in range(3)]
            best = " ".join(f"{min(column):7.2f}" for column in zip(*took, strict=True))
            print(f"{name:34} {best} {file.stat().st_size / 1000:5.0f} kB")


def drawn(show: Callable[[], Picture], file: Path) -> list[float]:
    """CPU seconds until a picture is made, and from then on until it is each kind of file."""
    made: list[Picture] = []
    first = seconds(lambda: made.append(show()))
    [picture] = made
    outputs = (picture.png, picture._repr_html_, lambda: picture.save(file))
    return [first, *map(seconds, outputs)]


if __name__ == "__main__":
    main()
