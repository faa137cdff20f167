"""How each class of event looks. Shape comes before hue, so that a picture reads in greyscale; the
colours are those of Okabe and Ito.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from matplotlib.markers import TICKDOWN, TICKUP

BLACK, GREY = "#000000", "#7f7f7f"
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
OKABE_ITO = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)

Shape = Literal["bar", "steps", "area", "line", "mark", "span", "slope", "band", "shade"]


@dataclass(frozen=True)
class Glyph:
    """How one class of event looks.

    label   its entry in the legend
    shape   "bar": upright over [low, high]; "steps": a line that holds each value until the next;
            "area": all below such a line; "line": through the values; "mark": a marker in the
            middle of [low, high]; "span": lying over [time, until]; "slope": from low at time to
            high at until; "band": the area between low and high; "shade": all of the height over
            [time, until]
    marker  matplotlib's name; on a bar it sits in the middle, but "_" caps both its ends
    rise    points by which a mark stands above its place, where another one has that
    hollow  the marker is an outline
    quiet   it may be at every segment, and is drawn only where there are at most `FEW` of it
    """

    label: str
    shape: Shape
    color: str
    marker: str | int = ""
    size: float = 7.0
    width: float = 1.4
    rise: float = 0.0
    hollow: bool = False
    quiet: bool = False
    dashes: str = "-"
    zorder: float = 3.0


FEW = 120
"""Marks of a class that may be at every segment: above this many they would hide the rest."""

_again = partial(Glyph, shape="bar", color=VERMILION, zorder=5)
_dropped = partial(Glyph, shape="mark", color=BLACK, zorder=7)
_flag = partial(Glyph, shape="mark", color=BLACK, zorder=6)
_heard = partial(Glyph, shape="mark", color=GREEN, zorder=3.5)

GLYPHS = {
    # --- sequence: what was sent ...
    "data": Glyph("data", "bar", BLUE, "_", size=4),
    "push": Glyph("PSH", "mark", BLUE, "D", size=3, quiet=True, zorder=3.1),
    "out-of-order": Glyph("out of order", "bar", ORANGE, "d", size=5, zorder=4),
    "duplicated": Glyph("duplicated on the way", "bar", ORANGE, "$=$", size=8, zorder=4),
    # ... again, and why.
    "fast-retransmit": _again("fast retransmit", marker="^"),
    "partial-ack": _again("partial ACK", marker=">"),
    "sack-hole": _again("SACK hole", marker="<"),
    "rack": _again("RACK", marker="P"),
    "rescue": _again("rescue", marker="D", size=5),
    "timeout": _again("timeout", marker="s"),
    "go-back-n": _again("go-back-N", marker="v"),
    "tail-loss-probe": _again("tail loss probe", marker="*", size=9),
    "duplicate-syn": _again("repeated for a repeated SYN", marker="X"),
    "packet-too-big": _again("packet too big", marker="H"),
    "window-probe": _again("window probe", marker="p", color=PURPLE),
    "window-opened": _again("refused probe, sent again", marker="p", hollow=True),
    "keepalive": _again("keepalive", marker="h", color=PURPLE),
    "resent": _again("sent again", marker="o", hollow=True),
    # What became of it.
    "drop-loss": _dropped("dropped: loss", marker="x"),
    "drop-queue-full": _dropped("dropped: queue full", marker="+", size=9),
    "drop-bad-checksum": _dropped("dropped: bad checksum", marker="1", size=9),
    # What it carries besides.
    "syn": _flag("SYN", marker="D", size=8, hollow=True),
    "fin": _flag("FIN", marker="s", size=9, hollow=True),
    "rst": _flag("RST", marker="8", size=9),
    "rst-back": _flag("RST from the other end", marker="8", size=9, hollow=True),
    "urgent": _flag("urgent data", marker="$U$", color=PURPLE, rise=9),
    "ce": _flag("marked by a router (CE)", marker="$M$", color=ORANGE, rise=9),
    "cwr": _flag("CWR: has slowed down", marker="$C$", color=ORANGE, rise=9),
    # What the other end said.
    "ack": Glyph("acknowledged", "steps", GREEN, zorder=2.7),
    "timed": _heard("ACK with RTT sample", marker=".", size=4, quiet=True),
    "karn": _heard("ACK without RTT sample (Karn)", marker="d", color=VERMILION, hollow=True),
    "duplicate-ack": _heard("duplicate ACK", marker=TICKDOWN, size=6),
    "third-duplicate": _heard("third duplicate ACK", marker="$3$", rise=-11, zorder=5.5),
    "ece": _flag("ECE: a router has marked", marker="$E$", color=ORANGE, rise=-9),
    "ack-dropped": _heard("ACK dropped", marker="4", size=9),
    "sack": Glyph("SACK block", "bar", PURPLE, "_", size=3, width=1.2, zorder=2.5),
    "sack-again": Glyph("SACK block, repeated", "bar", PURPLE, width=0.5, zorder=2.4),
    "d-sack": Glyph("D-SACK: arrived twice", "bar", PURPLE, "$D$", zorder=4),
    "limit": Glyph("limit: cwnd, window", "steps", ORANGE, dashes="-.", width=1.1, zorder=2.1),
    "window": Glyph("receive window", "steps", GREY, dashes="--", width=1.2, zorder=2),
    "window-same": Glyph("window unchanged", "mark", GREY, TICKUP, size=3, quiet=True, zorder=2),
    "zero-window": _flag("zero window", marker="$Z$", color=PURPLE, rise=9),
    "recovery": Glyph("loss recovery", "shade", VERMILION, zorder=0.5),
    # --- stevens
    "segment": Glyph("segment", "mark", BLUE, ".", size=4),
    "again": Glyph("sent again", "mark", VERMILION, "o", size=6, hollow=True, zorder=4),
    # --- window
    "cwnd": Glyph("cwnd", "steps", BLUE, width=1.8, zorder=4),
    "ssthresh": Glyph("ssthresh", "steps", ORANGE, dashes="--", width=1.2),
    "inflight": Glyph("in flight", "area", SKY, zorder=1),
    "rwnd": Glyph("receive window", "steps", GREY, dashes="-.", width=1.2, zorder=2),
    # --- rtt
    "sample": Glyph("sample", "mark", BLUE, ".", size=4),
    "rejected": Glyph("sample rejected (Karn)", "mark", VERMILION, "x", size=6, zorder=4),
    "srtt": Glyph("SRTT", "steps", BLACK, width=1.4, zorder=4),
    "rttvar": Glyph("SRTT ± RTTVAR", "band", SKY, zorder=1),
    "rto": Glyph("RTO", "steps", ORANGE, dashes="--", zorder=2),
    # --- waits
    "rto-rfc793": Glyph("RTO of RFC 793", "steps", ORANGE, dashes="--", zorder=2),
    "late-rfc793": Glyph("later than RFC 793 waits", "mark", VERMILION, "x", size=7, zorder=5),
    "rto-jacobson": Glyph("RTO of Jacobson", "steps", BLACK, width=1.2, zorder=2.5),
    "late-jacobson": Glyph(
        "later than Jacobson waits", "mark", BLACK, "o", size=9, hollow=True, zorder=6
    ),
    # --- throughput
    "throughput": Glyph("throughput (all that was sent)", "steps", GREY, dashes="--", width=1.2),
    "goodput": Glyph("goodput (newly acknowledged)", "steps", BLUE, width=1.8, zorder=4),
    # --- states, timers
    "state": Glyph("state", "span", BLUE, "|", size=11, width=7),
    "state-peer": Glyph("state of the other end", "span", ORANGE, "D", size=5, width=3.5, zorder=4),
    "timer": Glyph("runs", "span", BLUE, width=5),
    "fired": Glyph("fired", "mark", VERMILION, "X", size=8, zorder=4),
    # --- scoreboard
    "in-flight": Glyph("in flight", "span", SKY, width=2.5, zorder=2),
    "in-flight-again": Glyph(
        "in flight again", "span", VERMILION, "|", size=6, width=2.5, zorder=2.2
    ),
    "sacked": Glyph("reported by SACK", "span", PURPLE, width=2.5, dashes=":", zorder=2.1),
    # --- queue
    "packets": Glyph("packets waiting", "steps", BLUE),
    # --- phase
    "flows": Glyph("the two flows", "line", BLUE, width=1.0),
    "fair": Glyph("fair: both alike", "line", GREY, dashes="--", width=1.2),
    "start": Glyph("start", "mark", GREEN, "o", size=8, hollow=True, zorder=5),
    "stop": Glyph("end", "mark", VERMILION, "X", size=9, zorder=5),
    # --- ladder
    "arrow": Glyph("segment", "slope", BLUE),
    "arrow-again": Glyph("sent again", "slope", VERMILION, dashes="-."),
    "arrow-lost": Glyph("dropped", "slope", BLACK, "x", dashes=":"),
    "arrow-copied": Glyph("duplicated on the way", "slope", ORANGE, "o", dashes=":"),
    "arrow-guessed": Glyph("seen at one end only", "slope", GREY, dashes="--"),
}
"""Every class of glyph; those of one kind of picture are in the order of its legend."""

CAUSES = (
    *("fast-retransmit", "partial-ack", "sack-hole", "rescue", "rack", "timeout", "go-back-n"),
    *("tail-loss-probe", "duplicate-syn", "packet-too-big", "window-probe", "window-opened"),
    "keepalive",
)
"""Reasons to send that have a glyph of their own."""


def glyph_of(kind: str) -> Glyph:
    """The glyph of that class; whoever else dropped a segment gets a cross too."""
    reason = kind.removeprefix("drop-").replace("-", " ")
    return GLYPHS.get(kind) or replace(GLYPHS["drop-loss"], label=f"dropped: {reason}", marker="2")
