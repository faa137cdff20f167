"""Writes pictures.md and what it shows: pictures of simulated connections, one for each kind of
picture and for what a sequence plot can hold.

    python docs/make_pictures.py            # write them
    python docs/make_pictures.py --check    # only say whether the page is up to date

The code on the page is what has made each picture. pictures.json says of each what is in it: its
axes, and for each class of glyph how many there are and a digest of their numbers. That is what
tests/test_pictures.py compares; the pixels depend on fonts.
"""

import hashlib
import io
import json
import sys
from pathlib import Path as File
from typing import Any

import pandas as pd
from PIL import Image

import nbtcp
from nbtcp import Path, Simulation
from nbtcp.trace.glyphs import FEW
from nbtcp.trace.plot import Picture

DOCS = File(__file__).resolve().parent
FOLDER = DOCS / "pictures"
PAGE, CONTENTS = DOCS / "pictures.md", FOLDER / "pictures.json"

HEAD = f"""# Pictures

Made by `docs/make_pictures.py`; do not edit. Each is of a simulated connection, so that the same
line draws the same picture on every machine; for a log of the lab or of the internet, or for
anybody's capture, it is `log.plot.sequence()` all the same. The arguments `ax`, `conn`, `direction`
and `between` are those of `help(log.plot)`; `.data` is what is drawn, as a DataFrame, and `.save()`
writes PNG, SVG, PDF, CSV, and .xpl for xplot.

What may be so at every segment (PSH, ACKs with an RTT sample, ACKs that leave the window as it was)
is drawn where there are at most {FEW} of it: `between=(from, to)` shows it in a longer log.

```python
import nbtcp
from nbtcp import Path, Simulation

"""

# What the pictures are of.
SETUP = """\
path = Path(rate=10e6, delay=0.02, queue=100)  # 10 Mbit/s, 40 ms round trip, 100 packets
back = Path(delay=0.02)


def lossy(*numbers):  # the packets of those numbers are lost on the way to the server
    return Simulation(up=Path(rate=10e6, delay=0.02, queue=100, drop=numbers), down=back)


one = lossy(30).transfer(150_000).log
sim = Simulation(Path(rate=5e6, delay=0.02, queue=30))
reno = sim.transfer(1_000_000, congestion="reno").log

pair = Simulation(path).pair(receive_buffer=20_000)  # a reader that sleeps for three seconds
pair.client.sendall(bytes(60_000))
pair.wait(3)
while pair.server.recv(100_000):
    pair.wait(0.01)
    if pair.log.segments["ack"].max() > 60_000:
        break
"""

# name: what one sees, and the expression that draws it.
PICTURES = {
    "slow-start": (
        "Slow start: what is in flight doubles each round trip, along the limit that cwnd sets.",
        "Simulation(path).transfer(100_000).log.plot.sequence()",
    ),
    "one-loss": (
        "One segment is lost (the cross). What arrives behind it is reported by SACK, and RACK "
        "sends the missing one again.",
        "one.plot.sequence()",
    ),
    "burst": (
        "Ten segments in a row are lost: all are sent again within a round trip.",
        "lossy(*range(30, 40)).transfer(150_000).log.plot.sequence()",
    ),
    "timeout": (
        "The retransmission is lost, too: only the retransmission timer can tell.",
        "lossy(30, 70).transfer(150_000, recovery='newreno').log.plot.sequence()",
    ),
    "tail": (
        "The last segment is lost, so nothing tells: the tail loss probe is it once more.",
        "lossy(15).transfer(20_000).log.plot.sequence()",
    ),
    "reordering": (
        "Segments overtake each other: RACK sends two again in vain, and D-SACKs say so.",
        "Simulation(Path(rate=10e6, delay=0.02, reorder=0.05, seed=3)).transfer(100_000)"
        ".log.plot.sequence()",
    ),
    "zero-window": (
        "The reader sleeps: the window closes (Z), and probes ask whether it is open again, at "
        "intervals that double.",
        "pair.log.plot.sequence()",
    ),
    "ecn": (
        "Routers mark (M) instead of dropping, the receiver echoes (E), the sender slows down (C).",
        "Simulation(Path(rate=10e6, delay=0.02, mark=10), seed=1)"
        ".transfer(200_000, ecn='ask').log.plot.sequence(between=(0.12, 0.22))",
    ),
    "stevens": ("A dot for each segment, as Stevens drew them.", "one.plot.stevens()"),
    "window": (
        "Reno's sawtooth: cwnd is halved at each loss, and grows by a segment per round trip.",
        "reno.plot.window()",
    ),
    "rtt": ("A queue fills: samples, SRTT and RTTVAR, and the RTO above them.", "reno.plot.rtt()"),
    "throughput": (
        "What was sent, and what was acknowledged for the first time: after a repair much at once.",
        "reno.plot.throughput()",
    ),
    "ladder": (
        "Both ends on one clock; the fifth data segment is lost on its way.",
        "lossy(6).transfer(8_000).log.plot.ladder()",
    ),
    "states": ("The states of both ends.", "one.plot.states()"),
    "timers": ("The sender's timers, and which of them fired.", "pair.log.plot.timers()"),
    "scoreboard": (
        "What the sender knows of each segment: in flight, reported by SACK, acknowledged.",
        "one.plot.scoreboard()",
    ),
    "queue": ("Packets that wait at the bottleneck.", "reno.plot.queue()"),
    "overview": ("Four of them on one time axis.", "one.plot.overview()"),
    "compare": (
        "Three congestion controls on the same path.",
        "nbtcp.compare({name: sim.transfer(1_000_000, congestion=name).log "
        "for name in ('reno', 'cubic', 'bbr')}).plot('window')",
    ),
    "phase": (
        "Two flows on one path, the second one later: they come nearer to the fair line.",
        "Simulation(Path(rate=10e6, delay=0.02, queue=25)).compete({}, {'start': 1}, seconds=8, "
        "congestion='reno')[0].log.plot.phase()",
    ),
}


def main() -> int:
    """Exit code 1 when `--check` finds the page out of date."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print(f"{PAGE.name} is {'up to date' if fresh else 'out of date: python ' + __file__}")
        return not fresh
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    contents, names = {}, setup()
    for name in PICTURES:
        picture = draw(name, names)
        contents[name] = content(picture)
        image = Image.open(io.BytesIO(picture.png())).convert("RGB")
        image = image.quantize(256, Image.Quantize.FASTOCTREE)  # a third of the size
        image.save(FOLDER / f"{name}.png", optimize=True)
    CONTENTS.write_text(json.dumps(contents, indent=1) + "\n")
    PAGE.write_text(text)
    return 0


def page() -> str:
    """pictures.md."""
    parts = [
        f"## {name}\n\n{text}\n\n```python\n{code}\n```\n\n![{text}](pictures/{name}.png)\n"
        for name, (text, code) in PICTURES.items()
    ]
    return f"{HEAD}{SETUP}```\n\n" + "\n".join(parts)


def setup() -> dict[str, Any]:
    """The names that the expressions use."""
    names: dict[str, Any] = {"nbtcp": nbtcp, "Path": Path, "Simulation": Simulation}
    exec(SETUP, names)
    return names


def draw(name: str, names: dict[str, Any]) -> Picture:
    """The picture of that name."""
    picture: Picture = eval(PICTURES[name][1], names)
    return picture


def content(picture: Picture) -> dict[str, Any]:
    """What is in a picture, as JSON: its repr, its axes, the classes of glyphs with how many there
    are and a digest of their numbers, to 6 digits behind the point.
    """
    data = picture.data
    by = "glyph" if "glyph" in data else "run"
    classes = {str(kind): rows for kind, rows in data.groupby(by, observed=True, sort=False)}
    return {
        "repr": repr(picture),
        "axes": [axes(ax) for ax in picture.figure.axes],
        "classes": {kind: [len(rows), _digest(rows)] for kind, rows in sorted(classes.items())},
    }


def axes(ax: Any) -> dict[str, Any]:
    """What one of the Axes shows."""
    artists = [*ax.lines, *ax.collections]
    return {
        "labels": [ax.get_xlabel(), ax.get_ylabel()],
        "legend": [text.get_text() for text in ax.get_legend().get_texts()],
        "artists": sorted(one.get_gid() for one in artists if one.get_gid()),
    }


def _digest(rows: pd.DataFrame) -> str:
    text = rows.drop(columns="label", errors="ignore").to_csv(index=False, float_format="%.6f")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
