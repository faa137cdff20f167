"""What stands behind the sliders of a notebook, by itself: quick, and a picture at every corner."""

import ast
import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from speed import slowness

from nbtcp.trace.picture import Picture

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WITH_SLIDERS = ("03-how-long-to-wait", "05-how-fast-may-one-send", "07-why-is-it-slow-when-full")


def behind_the_sliders(name: str) -> tuple[Any, dict[str, tuple[float, ...]]]:
    """The function and the ranges that the notebook gives to `sliders`."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    program = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    kept: dict[str, Any] = {}
    for node in ast.parse(program).body:
        match node:
            case ast.Expr(ast.Call(ast.Name("sliders"), [ast.Name(function)], keywords)):
                ranges = {str(k.arg): ast.literal_eval(k.value) for k in keywords}
                return kept[function], ranges
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.Assign(value=ast.Dict()):
                with suppress(NameError):  # made of what other cells have computed
                    exec(compile(ast.unparse(node), name, "exec"), kept)
    raise AssertionError(f"{name} has no sliders")


@pytest.mark.parametrize("name", WITH_SLIDERS)
def test_the_picture_is_redrawn_within_half_a_second(name: str) -> None:
    function, ranges = behind_the_sliders(name)
    first = {argument: values[-1] for argument, values in ranges.items()}
    function(**first).png()  # imports
    took = []
    for _ in range(3):
        began = time.process_time()
        picture = function(**first)
        picture.png()
        took.append(time.process_time() - began)
    assert min(took) < 0.5 * slowness()
    assert isinstance(picture, Picture)


def test_no_other_notebook_has_sliders() -> None:
    found = [path.stem for path in NOTEBOOKS.glob("*.ipynb") if '"sliders(' in path.read_text()]
    assert tuple(sorted(found)) == WITH_SLIDERS


@pytest.mark.parametrize("name", WITH_SLIDERS)
def test_there_is_a_picture_at_every_corner(name: str) -> None:
    function, ranges = behind_the_sliders(name)
    for corner in itertools.product(*(values[:2] for values in ranges.values())):
        assert len(function(**dict(zip(ranges, corner, strict=True))).data)
