"""Writes the README's gallery and the course's table of contents, both from the stored notebooks.

    python docs/make_gallery.py            # write them, and the pictures to docs/gallery/
    python docs/make_gallery.py --check    # only say whether they are up to date

A picture is in the gallery when its cell is tagged `gallery`.
"""

import base64
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FOLDER = ROOT / "docs" / "gallery"
BEGIN, END = "<!-- made by docs/make_gallery.py -->", "<!-- until here -->"
IMAGE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"')

LINES = {
    "00": "Fetch a page over a bad network, read its round-trip times, see it whole.",
    "01": "Handshake, states, FIN and RST, TIME-WAIT, and both ends opening at once.",
    "02": "Reassembly, cumulative and selective acknowledgments, duplicates.",
    "03": "Round-trip times, Karn's rule, RFC 793's timeout against Jacobson's.",
    "04": "Timeout, fast retransmit, NewReno, SACK, RACK-TLP on the same losses.",
    "05": "Slow start, Reno, CUBIC, BBR; fairness; one over the root of the loss.",
    "06": "Windows, probes, silly windows, and Nagle against the delayed ACK.",
    "07": "Queues, bufferbloat, and what ECN does about it.",
    "08": "A real fetch over HTTPS, from the name to the last byte.",
    "09": "Python's TCP serves, a real client asks, both ends are watched.",
    "10": "Forged resets and data, SYN floods, guessed numbers, dishonest ACKs.",
    "11": "A capture of the kernel's: what can be known, and what only guessed.",
    "12": "Where a segment's microseconds go, and what offload saves.",
}


class Shown(NamedTuple):
    """A picture of the gallery."""

    file: Path
    png: bytes
    alt: str
    notebook: Path


def main() -> int:
    """Exit code 1 when `--check` finds something out of date."""
    wanted = {README: page().encode(), **{shown.file: shown.png for shown in pictures()}}
    stale = [file for file, content in wanted.items() if not same(file, content)]
    left = sorted(set(FOLDER.glob("*.png")) - wanted.keys())
    if sys.argv[1:] == ["--check"]:
        for file in (*stale, *left):
            print(f"{file.name} is out of date: python {__file__}")
        return bool(stale or left)
    FOLDER.mkdir(exist_ok=True)
    for file in left:
        file.unlink()
    for file in stale:
        file.write_bytes(wanted[file])
    return 0


def page() -> str:
    """The README as it should be."""
    text = README.read_text()
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{head}{BEGIN}\n{gallery()}\n{contents()}\n{tail}"


def gallery() -> str:
    """Two pictures in a row, each under the title of its notebook."""
    cells = [
        f"[![{shown.alt}]({relative(shown.file)})]({relative(shown.notebook)})"
        for shown in pictures()
    ]
    titles = [title(shown.notebook) for shown in pictures()]
    rows = []
    for first in range(0, len(cells), 2):
        rows += [titles[first : first + 2], cells[first : first + 2]]
        if first == 0:
            rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def contents() -> str:
    """A line for each notebook."""
    rows = [
        f"| [{path.name[:2]}]({relative(path)}) | {title(path)} | {LINES[path.name[:2]]} |"
        for path in notebooks()
    ]
    return "\n".join(["| | notebook | what is in it |", "|---|---|---|", *rows]) + "\n"


def pictures() -> Iterator[Shown]:
    """Those whose cells are tagged."""
    for path in notebooks():
        for cell in read(path)["cells"]:
            if "gallery" not in cell["metadata"].get("tags", []):
                continue
            shown = "".join(cell["outputs"][-1]["data"]["text/html"])
            if (found := IMAGE.search(shown)) is None:
                raise SystemExit(f"{path.name}: a cell tagged gallery shows no picture")
            alt = html.unescape(found[1])
            yield Shown(FOLDER / f"{path.stem}.png", base64.b64decode(found[2]), alt, path)


def notebooks() -> list[Path]:
    """The lessons, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    """The stored notebook."""
    return json.loads(path.read_text())


def title(path: Path) -> str:
    """The heading of its first cell."""
    return "".join(read(path)["cells"][0]["source"]).splitlines()[0].removeprefix("# ")


def relative(path: Path) -> str:
    """As the README links to it."""
    return path.relative_to(ROOT).as_posix()


def same(file: Path, content: bytes) -> bool:
    """Whether the file has this content already."""
    return file.exists() and file.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
