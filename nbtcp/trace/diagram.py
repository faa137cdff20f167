"""The state diagram of TCP, drawn from the table that the connections follow (nbtcp/tcp/state.py),
laid out as figure 5 of RFC 9293; and the path that a connection took through it.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from ..tcp.state import TRANSITIONS, Cause, State
from .glyphs import glyph_of
from .kinds import View
from .picture import Picture, new_axes
from .tables import states

# In inches, from the lower left. CLOSED is there twice, as in the RFC: where all begins and ends.
_PLACES = {
    State.CLOSED: (4.3, 6.8),
    State.LISTEN: (4.3, 5.6),
    State.SYN_RECEIVED: (1.1, 4.6),
    State.SYN_SENT: (7.5, 4.6),
    State.ESTABLISHED: (4.3, 3.5),
    State.FIN_WAIT_1: (1.1, 2.5),
    State.CLOSE_WAIT: (7.5, 2.5),
    State.FIN_WAIT_2: (1.1, 1.4),
    State.CLOSING: (4.3, 1.4),
    State.LAST_ACK: (7.5, 1.4),
    State.TIME_WAIT: (4.3, 0.3),
}
_END = (7.5, 0.3)
_WIDTH, _HEIGHT = 8.7, 7.3
_SIZE = 9, 7.6  # of the figure
_BOX_HEIGHT = 0.18  # half of it
_LATE = tuple(State)[State.ESTABLISHED :]  # what leaves these for CLOSED goes to the lower one
_FROM_EVERYWHERE = (Cause.RCV_RST, Cause.ABORT, Cause.TIMEOUT)
_WORDS = {"syn", "ack", "fin", "rst", "icmp", "open", "close", "listen", "abort"}
_BENDS = {  # of arrows that would lie on others
    (State.CLOSED, State.LISTEN): 0.8,
    (State.LISTEN, State.CLOSED): 0.8,
    (State.CLOSED, State.SYN_SENT): -0.35,
    (State.SYN_RECEIVED, State.CLOSED): -0.35,
    (State.LISTEN, State.SYN_RECEIVED): 0.15,
    (State.SYN_RECEIVED, State.LISTEN): 0.15,
    (State.ESTABLISHED, State.CLOSED): 0.1,
}


def state_diagram() -> Picture:
    """All states and transitions. `data` has old, new (the states) and cause."""
    ax = new_axes(*_SIZE)
    data = _edges(ax, set())
    ax.set_title("The states of a connection (after RFC 9293, figure 5)", loc="left")
    text = f"state diagram: {len(_PLACES)} states, {len(data)} transitions"
    return Picture(ax, data, text, "The states of a connection")


def ways(view: View) -> pd.DataFrame:
    """How both ends went from state to state, as far as the log has them: the table to draw."""
    rows = states(view.events)
    if rows.empty:
        raise ValueError(f"nothing to plot: no states of {view.way.direction} in the log")
    host = rows["host"].astype(str)
    data = pd.DataFrame({"time": rows["began"], "host": host, "new": rows["state"]})
    data.insert(0, "glyph", np.where(host == view.way.sender, "state", "state-peer"))
    data.insert(3, "old", data["new"].groupby(host).shift().fillna(State.CLOSED.label))
    data["cause"] = rows["why"]
    return data.sort_values("glyph", kind="stable", ignore_index=True)


def drawn(view: View, data: pd.DataFrame, ax: Axes | None) -> Picture:
    """All states and transitions, and above them what is in that table of `ways`."""
    ax = ax or new_axes(*_SIZE)
    by_label = {state.label: state for state in State}
    edges = [(by_label[old], by_label[new]) for old, new in zip(data.old, data.new, strict=True)]
    _edges(ax, set(zip((old for old, _ in edges), data["cause"], strict=True)))
    for (kind, host), rows in data.groupby(["glyph", "host"]):
        look, dashes = glyph_of(str(kind)), "-" if kind == "state" else "--"
        style: dict[str, Any] = {"color": look.color, "linewidth": look.width, "linestyle": dashes}
        style["zorder"] = look.zorder
        for number in rows.index:
            _arrow(ax, *edges[number], **style)
        ax.add_line(Line2D([], [], label=f"path of {host}", **style))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 0.0), frameon=False, fontsize="small")
    title = f"Connection {view.way.conn}: its way through the states"
    ax.set_title(title, loc="left")
    paths = "; ".join(
        f"{host}: {', '.join(rows['new'])}" for host, rows in data.groupby("host", observed=True)
    )
    return Picture(ax, data, f"state diagram of connection {view.way.conn}: {paths}", title)


def _edges(ax: Axes, taken: set[tuple[State, str]]) -> pd.DataFrame:
    """Draw the states and the edges; of those that lead from everywhere only what was `taken`."""
    causes: dict[tuple[State, State], list[Cause]] = {}
    for (old, cause), new in TRANSITIONS.items():
        if cause not in _FROM_EVERYWHERE or (old, cause.label) in taken:
            causes.setdefault((old, new), []).append(cause)
    for (old, new), whys in causes.items():
        _arrow(ax, old, new, color="0.55", linewidth=1.0, zorder=2.5)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small"}
        ax.text(*_bow(old, new, 0.5), "\n".join(map(_words, whys)), bbox=box, zorder=5, **look)
    for state, place in [*_PLACES.items(), (State.CLOSED, _END)]:
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "black"}
        ax.text(*place, state.label, bbox=box, weight="bold", zorder=6, **look)
    text = "From every state with a peer:\nrcv RST, ABORT or timeout to CLOSED\n"
    text += "(but no RST ends TIME-WAIT)"
    ax.text(_WIDTH, _HEIGHT - 0.1, text, ha="right", va="top", fontsize="small")
    ax.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
    rows = [(old.label, new.label, cause.label) for (old, cause), new in TRANSITIONS.items()]
    return pd.DataFrame(rows, columns=["old", "new", "cause"])


def _arrow(ax: Axes, old: State, new: State, **look: Any) -> None:
    """From box to box."""
    (x, y), (tip_x, tip_y) = _bow(old, new, 0.8), _bow(old, new, 1.0)
    across, down = abs(tip_x - x), abs(tip_y - y)
    width = 0.13 + 0.038 * len(new.label)  # half of it
    rim = min(width / (across or 1e-9), _BOX_HEIGHT / (down or 1e-9)) * math.hypot(across, down)
    bend = f"arc3,rad={_BENDS.get((old, new), 0.0)}"
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "connectionstyle": bend}
    start, tip = _bow(old, new, 0.0), (tip_x, tip_y)
    ax.add_patch(FancyArrowPatch(start, tip, shrinkA=0, shrinkB=72 * rim, **style, **look))


def _bow(old: State, new: State, part: float) -> tuple[float, float]:
    """A point of the arrow's curve, whose middle lies half its bend beside the straight line."""
    x1, y1 = _PLACES[old]
    x2, y2 = _END if new is State.CLOSED and old in _LATE else _PLACES[new]
    aside = 2 * _BENDS.get((old, new), 0.0) * part * (1 - part)
    return (x1 + part * (x2 - x1) + aside * (y2 - y1), y1 + part * (y2 - y1) - aside * (x2 - x1))


def _words(cause: Cause) -> str:
    """As the RFC writes it: rcv SYN, active OPEN."""
    parts = [part.upper() if part in _WORDS else part for part in cause.label.split("-")]
    return " ".join(parts)
