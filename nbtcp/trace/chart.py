"""A picture of numbers that are in no log: a formula, a model, a table made of many runs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from .glyphs import BLUE, Glyph
from .picture import RUNS, Corners, Picture, finish, new_axes
from .xplot import xplot

_DOTTED = 30  # lines of fewer points show each


def chart(
    lines: Mapping[str, pd.Series] | pd.DataFrame,
    x: str,
    y: str,
    *,
    logarithmic: bool = False,
    square: bool = False,
) -> Picture:
    """One line for each Series under its name, over its index; `x` and `y` say what the axes are.

    logarithmic  both axes are: a power of x is a straight line, whose slope is the exponent
    square       one unit is as long upwards as to the right

    `data` has line, x and y. Raises ValueError when there is nothing to draw.
    """
    if not len(lines):
        raise ValueError("nothing to plot: a chart is of one line or more")
    ax = new_axes(6.5 if square else 9, 5)
    glyphs = []
    for number, (name, line) in enumerate(lines.items()):
        color, dashes, marker = RUNS[number % len(RUNS)]
        across, up = line.index.to_numpy(np.float64), line.to_numpy(np.float64)
        drawn = Line2D(across, up, color=color, markersize=5)
        drawn.set(linestyle=dashes, marker=marker if len(line) < _DOTTED else "", label=str(name))
        ax.add_line(drawn)
        glyphs.append((str(name), Glyph(str(name), "line", color), Corners(across, across, up, up)))
    if logarithmic:
        ax.set(xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_minor_locator(LogLocator(subs=(2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
    ax.autoscale_view()
    ax.set(xlabel=x, ylabel=y, aspect="equal" if square else "auto")
    finish(ax)
    parts = [pd.DataFrame({"line": n, "x": s.index, "y": s.to_numpy()}) for n, s in lines.items()]
    title = f"{y} over {x}"
    ax.set_title(title, loc="left")
    text = f"chart of {', '.join(map(str, lines))}"
    for_xplot = None if logarithmic else lambda: xplot(iter(glyphs), title, x, y)
    return Picture(ax, pd.concat(parts, ignore_index=True), text, title, for_xplot)


def bars(values: pd.Series, x: str) -> Picture:
    """One bar to the right for each value under its name, the first on top; `x` says what they are.

    `data` has name and value. Raises ValueError when there is nothing to draw.
    """
    if not len(values):
        raise ValueError("nothing to plot: there are no bars without values")
    ax = new_axes(9, 0.8 + 0.4 * len(values))
    drawn = ax.barh([str(name) for name in values.index], values.to_numpy(), color=BLUE, zorder=3)
    ax.bar_label(drawn, fmt=_shown, padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.set_xlabel(x)
    ax.spines[["top", "right"]].set_visible(False)
    data = pd.DataFrame({"name": values.index, "value": values.to_numpy()})
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in values.items())
    return Picture(ax, data, f"bars: {shown}", x)


def _shown(value: float) -> str:
    """Three digits that count: 9.5, 628, 1,490."""
    return f"{float(f'{value:.3g}'):,g}"
