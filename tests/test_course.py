"""The shape of the course: thirteen lessons, each with pictures, predictions and exercises.

Each rule is a function from a notebook to a list of complaints, applied to every lesson and to a
small notebook that breaks it. What holds for solutions too is in test_notebooks.py.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SOLUTIONS = NOTEBOOKS / "solutions"

LESSONS = 13
CELLS = range(30, 81)
TEXT_TO_CODE = 0.7, 1.6
FEWEST_PICTURES = 6
PREDICTIONS = range(3, 6)
MOST_IGNORED = 5
IGNORED = "nbval-ignore-output"
LIVE = ("00", "08", "09", "12")
SOAK = bool(os.environ.get("NBTCP_SOAK"))

Rule = Callable[[NotebookNode], list[str]]


# --- the rules ---


def opens_without_a_question(notebook: NotebookNode) -> list[str]:
    """The title, and what the reader will be able to do."""
    opening = "\n".join(cell.source for cell in notebook.cells[:3] if is_text(cell))
    missing = [] if opening.startswith("# ") else ["the first cell is no title"]
    if "you will be able to" not in opening:
        missing.append("the first cells do not say what the reader will be able to do")
    return missing


def too_short_or_long(notebook: NotebookNode) -> list[str]:
    count = len(notebook.cells)
    return [] if count in CELLS else [f"{count} cells, not {CELLS[0]} to {CELLS[-1]}"]


def out_of_balance(notebook: NotebookNode) -> list[str]:
    """About one cell of text to one of code."""
    text = sum(map(is_text, notebook.cells))
    share = text / max(1, len(notebook.cells) - text)
    low, high = TEXT_TO_CODE
    return [] if low <= share <= high else [f"{share:.2f} cells of text to one of code"]


def few_pictures(notebook: NotebookNode) -> list[str]:
    shown = " ".join(htmls(notebook)).count("<img")
    return [] if shown >= FEWEST_PICTURES else [f"{shown} pictures, fewer than {FEWEST_PICTURES}"]


def few_predictions(notebook: NotebookNode) -> list[str]:
    """Each is made, and later compared with what came out."""
    source = "\n".join(cell.source for cell in notebook.cells if not is_text(cell))
    made, checked = len(re.findall(r"\bpredict\(", source)), source.count(".check(")
    complaints = [] if made in PREDICTIONS else [f"{made} predictions"]
    if checked != made:
        complaints.append(f"{checked} of {made} predictions are checked")
    return complaints


def always_right(notebook: NotebookNode) -> list[str]:
    """Who predicts everything learns nothing: at least one stored guess was wrong."""
    shown = " ".join(htmls(notebook))
    return [] if ", not as predicted" in shown else ["no prediction was wrong"]


def no_surprise(notebook: NotebookNode) -> list[str]:
    tagged = [cell for cell in notebook.cells if "surprise" in cell.metadata.get("tags", [])]
    return [] if tagged and all(map(is_text, tagged)) else ["no text cell is tagged surprise"]


def no_exercises(notebook: NotebookNode) -> list[str]:
    texts = [cell.source for cell in notebook.cells if is_text(cell)]
    if not any(re.search(r"^## .*Exercises", text, re.MULTILINE) for text in texts):
        return ["no heading of exercises"]
    return [] if any("(solutions/" in text for text in texts) else ["no link to solutions"]


def keeps_nothing(notebook: NotebookNode) -> list[str]:
    """The last cell of code saves a picture."""
    code = [cell for cell in notebook.cells if not is_text(cell)]
    return [] if code and ".save(" in code[-1].source else ["the last cell of code saves nothing"]


def no_sources(notebook: NotebookNode) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if is_text(cell))
    return [] if re.search(r"RFC \d{3,4}", text) else ["no source is named"]


RULES: tuple[Rule, ...] = (
    *(opens_without_a_question, too_short_or_long, out_of_balance, few_pictures, few_predictions),
    *(always_right, no_surprise, no_exercises, keeps_nothing, no_sources),
)


# --- applied to every lesson ---


def lessons() -> list[Path]:
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def test_the_course_is_whole() -> None:
    numbers = [path.name.split("-")[0] for path in lessons()]
    assert numbers == [f"{number:02}" for number in range(LESSONS)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_a_lesson_has_its_shape(path: Path, rule: Rule) -> None:
    assert rule(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_a_lesson_links_to_its_solutions_and_to_what_exists(path: Path) -> None:
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if is_text(c))
    links = re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", text)
    assert f"solutions/{path.name}" in links
    missing = [link for link in links if not (NOTEBOOKS / link.split("#")[0]).exists()]
    assert missing == []


def test_each_solution_belongs_to_a_lesson() -> None:
    assert [path.name for path in sorted(SOLUTIONS.glob("*.ipynb"))] == [p.name for p in lessons()]


def test_few_outputs_are_not_compared() -> None:
    notebooks = [nbformat.read(p, as_version=4) for p in sorted(NOTEBOOKS.rglob("*.ipynb"))]
    cells = [cell for notebook in notebooks for cell in notebook.cells if not is_text(cell)]
    ignored = [cell for cell in cells if IGNORED in cell.metadata.get("tags", [])]
    assert len(ignored) <= MOST_IGNORED
    assert not any("NBVAL_" in cell.source for cell in cells), "mark cells by tags"


def test_the_readme_has_the_course_and_four_of_its_pictures() -> None:
    spec = importlib.util.spec_from_file_location("x", ROOT / "docs" / "make_gallery.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    hint = "run: python docs/make_gallery.py"
    assert made.page() == made.README.read_text(), hint
    shown = {picture.file: picture.png for picture in made.pictures()}
    assert len(shown) == 4
    assert {file: file.read_bytes() for file in made.FOLDER.iterdir()} == shown, hint


# --- where there is no network for us ---


def live() -> list[Path]:
    """Those that want a network; the solutions only in the long runs."""
    found = sorted(NOTEBOOKS.rglob("*.ipynb") if SOAK else NOTEBOOKS.glob("*.ipynb"))
    return [path for path in found if path.name[:2] in LIVE]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("path", live(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_live_notebook_runs_in_a_container_without_tun(path: Path, tmp_path: Path) -> None:
    """All cells, and it says what it replaced."""
    copy = tmp_path / "notebooks"
    shutil.copytree(NOTEBOOKS, copy, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    target = copy / path.relative_to(NOTEBOOKS)
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, sys.executable, ROOT / "tests" / "cells.py", target],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if not is_text(cell)]
    said = done.stdout
    if path.parent == NOTEBOOKS or any("Lab(" in cell.source for cell in cells):
        assert "recording instead" in said
        assert "/dev/net/tun" in said


# --- helpers ---


def is_text(cell: NotebookNode) -> bool:
    return bool(cell.cell_type == "markdown")


def htmls(notebook: NotebookNode) -> list[str]:
    """What is shown as HTML."""
    outputs = [o for cell in notebook.cells if not is_text(cell) for o in cell.outputs]
    return [str(output.get("data", {}).get("text/html", "")) for output in outputs]


# --- applied to notebooks that break it ---

IMAGE = {"text/html": '<img alt="x" src="data:,">'}
WRONG = {"text/html": "<p>✗ Answer: 5, not as predicted</p>"}


def shown(source: str = "1", data: dict[str, str] | None = None) -> NotebookNode:
    output = new_output("execute_result", data=data or {}, execution_count=1)
    return new_code_cell(source, execution_count=1, outputs=[output])


def lesson() -> NotebookNode:
    """A good one, as short as may be."""
    cells = [
        new_markdown_cell("# How?\n\nAfter this notebook you will be able to say how (RFC 9293)."),
        *(new_markdown_cell(f"Text {n}") for n in range(12)),
        *(shown("log.plot.sequence()", data=IMAGE) for _ in range(6)),
        *(shown(f'g{n} = predict("?", {n})') for n in range(3)),
        *(shown(f"g{n}.check(5)", data=WRONG) for n in range(3)),
        new_markdown_cell("## A surprise", metadata={"tags": ["surprise"]}),
        new_markdown_cell("## 5. Exercises\n\nSee [solutions](solutions/00.ipynb)."),
        *(shown() for _ in range(2)),
        shown('picture.save("x.svg")'),
    ]
    return new_notebook(cells=cells)


def without(part: str) -> NotebookNode:
    """The good one without the cells whose source has `part` in it."""
    notebook = lesson()
    notebook.cells = [cell for cell in notebook.cells if part not in cell.source]
    return notebook


def untagged() -> NotebookNode:
    notebook = lesson()
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
    return notebook


def silent() -> NotebookNode:
    notebook = lesson()
    for cell in notebook.cells:
        if not is_text(cell):
            cell.outputs = []
    return notebook


def several(times: int) -> NotebookNode:
    return new_notebook(cells=[cell for _ in range(times) for cell in lesson().cells])


def wordy() -> NotebookNode:
    notebook = lesson()
    notebook.cells += [new_markdown_cell("More") for _ in range(12)]
    return notebook


BROKEN: tuple[tuple[Rule, NotebookNode], ...] = (
    (opens_without_a_question, without("able to")),
    (opens_without_a_question, new_notebook(cells=[new_markdown_cell("# How?")])),
    (too_short_or_long, without("predict")),
    (too_short_or_long, several(3)),
    (out_of_balance, without("Text")),
    (out_of_balance, wordy()),
    (few_pictures, without("sequence")),
    (few_predictions, without("predict(")),
    (few_predictions, without("check(")),
    (few_predictions, several(2)),
    (always_right, silent()),
    (no_surprise, without("surprise")),
    (no_surprise, untagged()),
    (no_exercises, without("Exercises")),
    (keeps_nothing, without("save(")),
    (no_sources, without("RFC")),
)


@pytest.mark.parametrize(
    ("rule", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_rule_finds_what_breaks_it(rule: Rule, broken: NotebookNode) -> None:
    assert rule(broken)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_content_with_a_good_lesson(rule: Rule) -> None:
    assert rule(lesson()) == []


def test_every_rule_is_broken_by_some_notebook() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)
