"""How each class of event looks. Shape comes before hue, so that a picture reads in greyscale; the
colours are those of Okabe and Ito.
"""

from dataclasses import dataclass, replace
from typing import Literal

from matplotlib.markers import TICKDOWN

BLACK, GREY = "#000000", "#7f7f7f"
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
OKABE_ITO = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)

Shape = Literal["bar", "steps", "line", "mark", "span", "slope", "band", "shade"]


@dataclass(frozen=True)
class Glyph:
    """How one class of event looks.

    label   its entry in the legend
    shape   "bar": upright over [low, high]; "steps": a line that holds each value until the next;
            "line": through the values; "mark": a marker in the middle of [low, high]; "span": lying
            over [time, until]; "slope": from low at time to high at until; "band": the area between
            low and high; "shade": all of the height over [time, until]
    marker  matplotlib's name; on a bar it sits in the middle, but "_" caps both its ends
    hollow  the marker is an outline
    """

    label: str
    shape: Shape
    color: str
    marker: str | int = ""
    size: float = 7.0
    width: float = 1.4
    hollow: bool = False
    dashes: str = "-"
    zorder: float = 3.0


GLYPHS = {
    # --- sequence: what was sent ...
    "data": Glyph("data", "bar", BLUE, "_", size=4),
    "out-of-order": Glyph("out of order", "bar", ORANGE, "d", size=5, zorder=4),
    # ... again, and why.
    "fast-retransmit": Glyph("fast retransmit", "bar", VERMILION, "^", zorder=5),
    "partial-ack": Glyph("partial ACK", "bar", VERMILION, ">", zorder=5),
    "sack-hole": Glyph("SACK hole", "bar", VERMILION, "<", zorder=5),
    "rack": Glyph("RACK", "bar", VERMILION, "P", zorder=5),
    "rescue": Glyph("rescue", "bar", VERMILION, "D", size=5, zorder=5),
    "timeout": Glyph("timeout", "bar", VERMILION, "s", zorder=5),
    "go-back-n": Glyph("go-back-N", "bar", VERMILION, "v", zorder=5),
    "tail-loss-probe": Glyph("tail loss probe", "bar", VERMILION, "*", size=9, zorder=5),
    "duplicate-syn": Glyph("repeated for a repeated SYN", "bar", VERMILION, "X", zorder=5),
    "packet-too-big": Glyph("packet too big", "bar", VERMILION, "H", zorder=5),
    "window-probe": Glyph("window probe", "bar", PURPLE, "p", zorder=5),
    "keepalive": Glyph("keepalive", "bar", PURPLE, "h", zorder=5),
    "resent": Glyph("sent again", "bar", VERMILION, "o", hollow=True, zorder=5),
    # What became of it.
    "drop-loss": Glyph("dropped: loss", "mark", BLACK, "x", zorder=7),
    "drop-queue-full": Glyph("dropped: queue full", "mark", BLACK, "+", size=9, zorder=7),
    "drop-bad-checksum": Glyph("dropped: bad checksum", "mark", BLACK, "1", size=9, zorder=7),
    # What it carries besides.
    "syn": Glyph("SYN", "mark", BLACK, "D", size=8, hollow=True, zorder=6),
    "fin": Glyph("FIN", "mark", BLACK, "s", size=9, hollow=True, zorder=6),
    "rst": Glyph("RST", "mark", BLACK, "8", size=9, zorder=6),
    "rst-back": Glyph("RST from the other end", "mark", BLACK, "8", size=9, hollow=True, zorder=6),
    "urgent": Glyph("urgent data", "mark", PURPLE, "$U$", size=7, zorder=6),
    "ce": Glyph("marked by a router (CE)", "mark", ORANGE, "$M$", size=7, zorder=6),
    "cwr": Glyph("CWR: has slowed down", "mark", ORANGE, "$C$", size=7, zorder=6),
    # What the other end said.
    "ack": Glyph("acknowledged", "steps", GREEN, zorder=2.2),
    "duplicate-ack": Glyph("duplicate ACK", "mark", GREEN, TICKDOWN, size=6, zorder=3.5),
    "third-duplicate": Glyph("third duplicate ACK", "mark", GREEN, "$3$", size=7, zorder=3.6),
    "karn": Glyph("ACK without RTT sample (Karn)", "mark", VERMILION, "d", size=6, hollow=True),
    "ece": Glyph("ECE: a router has marked", "mark", ORANGE, "$E$", size=7, zorder=6),
    "ack-dropped": Glyph("ACK dropped", "mark", GREEN, "4", size=9, zorder=4),
    "sack": Glyph("SACK block", "bar", PURPLE, "_", size=3, width=1.2, zorder=2.5),
    "limit": Glyph("cwnd allows", "steps", ORANGE, dashes="-.", width=1.1, zorder=2.1),
    "window": Glyph("receive window", "steps", GREY, dashes="--", width=1.2, zorder=2),
    "zero-window": Glyph("zero window", "mark", PURPLE, "$Z$", size=7, zorder=6),
    "recovery": Glyph("loss recovery", "shade", VERMILION, zorder=0.5),
    # --- stevens
    "segment": Glyph("segment", "mark", BLUE, ".", size=4),
    "again": Glyph("sent again", "mark", VERMILION, "o", size=6, hollow=True, zorder=4),
    # --- window
    "cwnd": Glyph("cwnd", "steps", BLUE, width=1.8, zorder=4),
    "ssthresh": Glyph("ssthresh", "steps", ORANGE, dashes="--", width=1.2),
    "inflight": Glyph("in flight", "steps", GREEN, dashes=":", width=1.2, zorder=3.5),
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
    "throughput": Glyph("throughput: all octets", "steps", GREY, dashes="--", width=1.2),
    "goodput": Glyph("goodput: newly acknowledged", "steps", BLUE, width=1.8, zorder=4),
    # --- states, timers
    "state": Glyph("state", "span", BLUE, "|", size=11, width=7),
    "state-peer": Glyph("state of the other end", "span", ORANGE, "D", size=5, width=3.5, zorder=4),
    "timer": Glyph("runs", "span", BLUE, width=5),
    "fired": Glyph("fired", "mark", VERMILION, "X", size=8, zorder=4),
    # --- scoreboard
    "in-flight": Glyph("in flight", "span", SKY, width=2.5),
    "in-flight-again": Glyph("in flight again", "span", VERMILION, "|", size=6, width=2.5),
    "sacked": Glyph("reported by SACK", "span", PURPLE, width=2.5, dashes=":"),
    "cumulative": Glyph("acknowledged", "mark", GREEN, "|", size=5, zorder=4),
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
    "arrow-guessed": Glyph("seen at one end only", "slope", GREY, dashes="--"),
}
"""Every class of glyph; those of one kind of picture are in the order of its legend."""

CAUSES = (
    *("fast-retransmit", "partial-ack", "sack-hole", "rescue", "rack", "timeout", "go-back-n"),
    *("tail-loss-probe", "duplicate-syn", "packet-too-big", "window-probe", "keepalive"),
)
"""Reasons to send that have a glyph of their own."""


def glyph_of(kind: str) -> Glyph:
    """The glyph of that class; whoever else dropped a segment gets a cross too."""
    reason = kind.removeprefix("drop-").replace("-", " ")
    return GLYPHS.get(kind) or replace(GLYPHS["drop-loss"], label=f"dropped: {reason}", marker="2")
