"""The functions behind the notebooks' sliders, which nbval cannot compare."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbtcp import notebook
from nbtcp.trace.picture import Picture

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS_TO_REDRAW = 0.5


def slider_cells(path: Path) -> list[str]:
    """The first cell of code, which imports, and the one with the sliders."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return [code[0], *(source for source in code if "sliders(" in source)]


WITH_SLIDERS = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if slider_cells(path)[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_SLIDERS, ids=lambda path: path.stem)
def test_sliders_redraw_in_half_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first values; and there is a picture at the ends of every slider."""
    asked: dict[str, Any] = {}

    def sliders(function: Callable[..., Picture], **ranges: tuple[float, ...]) -> None:
        asked.update(function=function, ranges=ranges)

    monkeypatch.setattr(notebook, "sliders", sliders)
    names: dict[str, Any] = {}
    for source in slider_cells(path):
        exec(source, names)
    draw, ranges = asked["function"], asked["ranges"]
    first = {name: values[3] for name, values in ranges.items()}
    times = []
    for _ in range(3):
        began = time.process_time()
        draw(**first).png()
        times.append(time.process_time() - began)
    assert min(times) < SECONDS_TO_REDRAW
    for name, (low, high, *_) in ranges.items():
        for value in (low, high):
            assert isinstance(draw(**first | {name: value}), Picture)
