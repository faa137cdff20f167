"""Where the processor's time goes: `costs(function)`, by the rooms of the package."""

import cProfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).parent


def costs(function: Callable[[], object]) -> "pd.Series":
    """Call `function`; the share of its time spent in each room of nbtcp, the largest first.

    A room is a folder (wire, tcp, ...), a module beside them ("stack"), or "elsewhere". What is
    written in C, as struct and hashlib, counts for who calls it. The profiler makes each call
    dearer by about as much, so that rooms with many small functions look somewhat too expensive.
    """
    import pandas as pd

    profiler = cProfile.Profile(builtins=False)
    profiler.runcall(function)
    seconds: dict[str, float] = {}
    for entry in profiler.getstats():
        room = _room(entry.code)
        seconds[room] = seconds.get(room, 0.0) + entry.inlinetime
    table = pd.Series(seconds, name="share").sort_values(ascending=False)
    return table / table.sum()


def _room(code: CodeType | str) -> str:
    file = Path(code.co_filename) if isinstance(code, CodeType) else Path()
    if not file.is_relative_to(PACKAGE):
        return "elsewhere"
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")
