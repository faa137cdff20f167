"""docs/tshark.md: tshark's flags and nbtcp's inferences, held against the log of both hosts."""

import importlib.util
import os
import shutil
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tshark.md"
HINT = "run: python docs/make_tshark.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("x", PAGE.with_name("make_tshark.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made() -> ModuleType:
    for program in "tshark", "editcap":
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    module = load()
    if f"tshark {module.version()}, " not in PAGE.read_text():
        pytest.skip(f"the page is not of tshark {module.version()}, which is installed here")
    return module


@pytest.mark.slow
def test_a_cell_of_the_page_is_what_the_script_makes(made: ModuleType) -> None:
    cell = "reordering 3 % by 5 ms", "receiver"
    rows = made.rows_of(made.count_all([cell]))
    assert {"retransmission", "out_of_order", "lost_segment"} <= {flag for flag, *_ in rows}
    for section in PAGE.read_text().split("\n## ")[1:]:
        flag, *lines = section.split("\n")
        there = [line for line in lines if line.startswith(f"| {cell[0]}, at the {cell[1]} |")]
        assert there == [row for key, row in rows.items() if key[0] == flag], HINT


@pytest.mark.skipif("NBTCP_SOAK" not in os.environ, reason="half a minute: make soak runs it")
def test_the_page_is_what_the_script_makes(made: ModuleType) -> None:
    text = made.page(made.count_all(product(made.SCENARIOS, made.PLACES)))
    assert PAGE.read_text() == text, HINT
