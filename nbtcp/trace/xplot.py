"""A table of glyphs in the language of Shepard's xplot, as tcptrace writes it."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.markers import TICKDOWN, TICKUP

from .glyphs import Glyph
from .picture import Classes

# Colours by what the same glyph has in a picture; xplot's ground is black.
_COLORS = {
    **{"#000000": "white", "#7f7f7f": "yellow", "#E69F00": "orange", "#009E73": "green"},
    **{"#0072B2": "blue", "#D55E00": "red", "#CC79A7": "purple", "#56B4E9": "pink"},
}


def xplot(parts: Classes, title: str, across: str, up: str, lanes: Sequence[str] = ()) -> str:
    """The picture as text: its classes of glyphs, what its axes show, the names of its lanes.

    Areas, bands and shades have no likeness there and are left out.
    """
    out = ["double double", "title", title, "xlabel", across, "ylabel", up]
    for kind, glyph, at in parts:
        out += [_COLORS[glyph.color], *_commands(kind, glyph, np.column_stack(at))]
    out += [f"rtext 0 {-number}\n{name}" for number, name in enumerate(lanes)]
    return "\n".join([*out, "go", ""])


def _commands(kind: str, glyph: Glyph, corners: np.ndarray) -> Iterator[str]:
    mark = {TICKDOWN: "dtick", TICKUP: "utick", ".": "dot"}.get(glyph.marker, "diamond")
    named = glyph.shape == "bar" or (glyph.shape == "mark" and mark == "diamond")
    named = named and not glyph.quiet and glyph.marker not in ("", "_", "|")
    for number, (time, until, low, high) in enumerate(corners):
        middle = (low + high) / 2
        if glyph.shape in ("steps", "line") and number:
            before, _, at, _ = corners[number - 1]
            if glyph.shape == "steps":
                yield _line(before, at, time, at)
                before = time
            yield _line(before, at, time, low)
        elif glyph.shape == "bar":
            yield _line(time, low, time, high)
            yield f"dtick {time:.9f} {low:.12g}"
            yield f"utick {time:.9f} {high:.12g}"
        elif glyph.shape == "mark":
            yield f"{mark} {time:.9f} {middle:.12g}"
        elif glyph.shape == "span":
            yield _line(time, middle, until, middle)
        elif glyph.shape == "slope":
            yield _line(time, low, until, high)
        if named:
            yield f"atext {time:.9f} {high:.12g}\n{kind}"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f"line {x1:.9f} {y1:.12g} {x2:.9f} {y2:.12g}"
