"""The stored notebooks: executed from top to bottom, without errors, private data or pictures that
cannot be read aloud. That their outputs are still true is for nbval to say (`make test`).

Each rule is a function from a notebook to a list of complaints. The tests apply it to every
notebook, and then to a small one that breaks it, to show that it can fail.
"""

import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import nbtcp
from nbtcp.trace.frame import SEGMENT_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RECORDINGS = NOTEBOOKS / "recordings"
SANITIZE = ROOT / "tests" / "nbval-sanitize.cfg"

MOST_BYTES = 1_000_000
MOST_LINES, MEDIAN_LINES = 15, 3
MOST_SANITIZE_RULES = 5

IMAGE = re.compile(r"<img\b[^>]*>|!\[[^]]*\]\([^)]*\)")
ALT = re.compile(r"""\balt=["']\s*[^"'\s]|^!\[\s*[^]\s]""")
IP_ADDRESS = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
# The lab's, those of examples (RFC 5737) and of tests between networks (RFC 2544), as Live's are.
NOBODYS = ("10.0.0.", "203.0.113.", "198.18.0.")
MAC_ADDRESS = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE)
IN_MEMORY = re.compile(r"\bat 0x[0-9a-f]{6,}")
# Two names at least, so that a lone "/" or "/bytes" in a sentence is none; not behind a host name.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<~-])(?:~|/(?!bytes/)[\w.-]+)/[\w.-]+")

Rule = Callable[[NotebookNode], list[str]]


# --- the rules ---


def not_valid(notebook: NotebookNode) -> list[str]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as problem:
        return [str(problem).splitlines()[0]]
    return []


def not_executed_in_order(notebook: NotebookNode) -> list[str]:
    """Every code cell has run, once, from top to bottom in a new kernel."""
    found = [cell.execution_count for cell in code_cells(notebook)]
    expected = list(range(1, len(found) + 1))
    return [] if found == expected else [f"executed as {found}, not {expected}"]


def errors(notebook: NotebookNode) -> list[str]:
    """No exception, nothing on stderr."""
    return [
        f"cell {count}: {output.get('ename', 'stderr')}"
        for count, output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def private_data(notebook: NotebookNode) -> list[str]:
    """No addresses that may be somebody's, no absolute paths, nothing that differs by machine."""
    complaints = []
    for count, output in outputs(notebook):
        text = without_images(" ".join(texts(output)))
        addresses = [a for a in IP_ADDRESS.findall(text) if not a.startswith(NOBODYS)]
        others = (IN_MEMORY, MAC_ADDRESS, ABSOLUTE_PATH)
        found = [*addresses, *(match for kind in others for match in kind.findall(text))]
        complaints += [f"cell {count}: {match}" for match in found]
    return complaints


def pictures_without_words(notebook: NotebookNode) -> list[str]:
    """Each picture has an alternative text: in an output that is an <img>, beside the bitmap."""
    complaints = []
    for count, output in outputs(notebook):
        html = str(output.get("data", {}).get("text/html", ""))
        images = IMAGE.findall(html)
        bitmap = any(kind.startswith("image/") for kind in output.get("data", {}))
        if (bitmap and not images) or not all(map(ALT.search, images)):
            complaints.append(f"cell {count}: a picture without alternative text")
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and not all(map(ALT.search, IMAGE.findall(cell.source))):
            complaints.append(f"a picture without alternative text in: {cell.source[:40]!r}")
    return complaints


def long_cells(notebook: NotebookNode) -> list[str]:
    """Code that is read at a glance; what is longer belongs into the library."""
    lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    complaints = [f"a cell of {n} lines, at most {MOST_LINES}" for n in lengths if n > MOST_LINES]
    if lengths and (median := statistics.median(lengths)) > MEDIAN_LINES:
        complaints.append(f"half of the cells are over {median:g} lines, at most {MEDIAN_LINES}")
    return complaints


def silent(notebook: NotebookNode) -> list[str]:
    return [] if list(outputs(notebook)) else ["no outputs are stored"]


def untitled(notebook: NotebookNode) -> list[str]:
    first = notebook.cells[0] if notebook.cells else new_markdown_cell()
    if first.cell_type == "markdown" and first.source.startswith("# "):
        return []
    return ["the first cell is no title"]


RULES: tuple[Rule, ...] = (
    *(not_valid, not_executed_in_order, errors, private_data),
    *(pictures_without_words, long_cells, silent, untitled),
)


# --- applied to every notebook ---


def stored() -> list[Path]:
    """The lessons, then their solutions."""
    return [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted((NOTEBOOKS / "solutions").glob("*.ipynb"))]


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def test_there_is_a_notebook_to_start_with() -> None:
    assert stored()[0].name == "00-start-here.ipynb"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", stored(), ids=name_of)
def test_a_stored_notebook_is_in_order(path: Path, rule: Rule) -> None:
    """But that code may be longer in a solution, where it is what was asked for."""
    if rule is long_cells and path.parent != NOTEBOOKS:
        lines = [cell.source.count("\n") + 1 for cell in code_cells(nbformat.read(path, 4))]
        assert max(lines) <= MOST_LINES
    else:
        assert rule(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", stored(), ids=name_of)
def test_a_stored_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES


# --- applied to notebooks that break it ---

PIXEL = {"image/png": "iVBORw0KGgo="}
ALT_IMAGE = {**PIXEL, "text/html": '<img alt="a line" src="data:image/png;base64,/home/me+/=">'}


def code(source: str = "1", count: int | None = 1, **output: Any) -> NotebookNode:
    """A code cell; `data` is a shown value, `text` printed, `ename` an exception."""
    match output:
        case {"data": data}:
            result = new_output("display_data", data=data)
        case {"text": text}:
            result = new_output("stream", text=text, name=output.get("name", "stdout"))
        case {"ename": name}:
            result = new_output("error", ename=name, evalue="", traceback=[])
        case _:
            return new_code_cell(source, execution_count=count)
    return new_code_cell(source, execution_count=count, outputs=[result])


def notebook(*cells: NotebookNode) -> NotebookNode:
    return new_notebook(cells=list(cells))


TITLE = new_markdown_cell("# A title")
LONG = "\n".join(["1"] * (MOST_LINES + 1))
BROKEN: tuple[tuple[Rule, NotebookNode], ...] = (
    (not_valid, NotebookNode(nbformat=4, nbformat_minor=5, metadata={}, cells=[{"id": "no-type"}])),
    (not_executed_in_order, notebook(code(count=None))),
    (not_executed_in_order, notebook(code(count=2))),
    (not_executed_in_order, notebook(code(count=2), code(count=1))),
    (not_executed_in_order, notebook(code(count=1), code(count=3))),
    (errors, notebook(code(ename="ValueError"))),
    (errors, notebook(code(text="a warning", name="stderr"))),
    (private_data, notebook(code(text="from 192.168.1.7:80"))),
    (private_data, notebook(code(text="10.0.1.2"))),
    (private_data, notebook(code(text="link aa:bb:0c:dd:ee:0f"))),
    (private_data, notebook(code(text="<object object at 0x7f5d3c0>"))),
    (private_data, notebook(code(text="saved to /home/me/x.png"))),
    (private_data, notebook(code(data={"text/plain": "PosixPath('/tmp/x')"}))),
    (private_data, notebook(code(data={"text/html": "<td>~/x.png</td>"}))),
    (private_data, notebook(code(data={"application/json": {"a": ["/root/x"]}}))),
    (pictures_without_words, notebook(code(data=PIXEL))),
    (pictures_without_words, notebook(code(data={**PIXEL, "text/html": "<p>a line</p>"}))),
    (pictures_without_words, notebook(code(data={"text/html": '<img alt="" src="x">'}))),
    (pictures_without_words, notebook(code(data={"text/html": '<img src="x">'}))),
    (pictures_without_words, notebook(new_markdown_cell("Look: ![](x.png)"))),
    (long_cells, notebook(code(LONG), code(), code())),
    (long_cells, notebook(code("1\n2\n3\n4"), code("1\n2\n3\n4"), code())),
    (silent, notebook(code())),
    (untitled, notebook()),
    (untitled, notebook(code())),
    (untitled, notebook(new_markdown_cell("Some text"))),
)


@pytest.mark.parametrize(
    ("rule", "broken"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_rule_finds_what_breaks_it(rule: Rule, broken: NotebookNode) -> None:
    assert rule(broken)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_content_with_a_good_notebook(rule: Rule) -> None:
    good = notebook(
        TITLE,
        code("a\nb\nc", 1, text="<Page 200 http://10.0.0.1/bytes/300000: 3 octets>, GET /bytes/3"),
        new_markdown_cell('![a line](x.png) and <img src="y.png" alt="two">'),
        code("", None),
        code(LONG.removesuffix("\n1"), 2, data=ALT_IMAGE),
        code("1", 3, data={"text/html": "<td>1/2</td><td>a/b/c</td>", "text/plain": "1.2.3"}),
    )
    assert rule(good) == []


def test_every_rule_is_broken_by_some_notebook() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


# --- what notebooks need ---


def test_few_things_are_hidden_from_nbval() -> None:
    headings = re.findall(r"^\[", SANITIZE.read_text(), re.MULTILINE)
    assert 0 < len(headings) <= MOST_SANITIZE_RULES


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.parquet")), ids=lambda path: path.stem)
def test_a_recording_is_like_a_log_of_today(path: Path) -> None:
    log = nbtcp.EventLog.load(path)
    assert list(log.segments) == SEGMENT_COLUMNS, "record it again: make_recording.py"
    assert set(log.connections["end"]) == {"FIN"}


def test_the_recording_is_of_the_fetch_that_the_notebook_shows() -> None:
    shown = fetches("\n".join(cell.source for cell in code_cells(start_here())))
    made = fetches((RECORDINGS / "make_recording.py").read_text())
    log = nbtcp.EventLog.load(RECORDINGS / "start-here.parquet")
    [(path, url)] = shown
    assert made == shown
    settings = dict(setting.split("=") for setting in path.split(", "))
    recorded = {name: float(log.meta["down"][name]) for name in settings}
    assert recorded == {name: float(value) for name, value in settings.items()}
    assert log.meta["url"] == f"http://10.0.0.1{url}"


@pytest.mark.slow
def test_start_here_shows_the_recording_where_there_is_no_lab(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_lab(path: nbtcp.Path) -> None:
        raise nbtcp.MachineError("no root; become root")

    monkeypatch.setattr(nbtcp, "Lab", no_lab)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").symlink_to(RECORDINGS)
    names: dict[str, Any] = {}
    for cell in code_cells(start_here()):
        exec(cell.source, names)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "A recording instead: no root; become root"
    assert re.fullmatch(r"sequence\.svg: \d+ kB", said[1])
    assert names["picture"].data["glyph"].isin(["syn", "fin", "drop-loss"]).sum() == 4


# --- helpers ---


def start_here() -> NotebookNode:
    return nbformat.read(NOTEBOOKS / "00-start-here.ipynb", as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells with code in them: an empty one cannot be executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook: NotebookNode) -> Iterator[tuple[int | None, NotebookNode]]:
    """Each output with its cell's execution count."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield cell.execution_count, output


def texts(output: NotebookNode) -> list[str]:
    """All that an output says, in whatever format; bitmaps excepted."""
    data = output.get("data", {})
    shown = [str(value) for kind, value in data.items() if kind.split("/")[0] != "image"]
    return [output.get("text", ""), *shown, *output.get("traceback", [])]


def without_images(text: str) -> str:
    return re.sub(r"data:image/[\w+]+;base64,[\w+/=\s]*", "", text)


def fetches(source: str) -> list[tuple[str, str]]:
    """The settings of each Path in a source text, and what is then fetched."""
    return re.findall(r"nbtcp\.Path\(([^)]*)\).*?lab\.fetch\(\"([^\"]*)\"\)", source, re.DOTALL)
