"""Record what the live notebooks fall back to on a machine that cannot make the lab.

Run it as root, with the numbers of some of them (`09`), or without for 00. Then execute the
notebook again (jupyter nbconvert --to notebook --execute --inplace
--ExecutePreprocessor.record_timing=False), so that its stored outputs fit the recording.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat

import nbtcp

HERE = Path(__file__).parent
TARGET = HERE / "start-here.parquet"


def main() -> None:
    path = nbtcp.Path(delay=0.02, loss=0.01, rate=10e6, queue=64, seed=8)
    with nbtcp.Lab(path) as lab:
        page = lab.fetch("/bytes/300000")
    print(page, page.log, page.log.save(TARGET).name, sep="\n")


def record(file: Path) -> None:
    """Run a notebook's cells as far as its last `recorded(file, fetch)`; save what they give."""
    cells = [cell.source for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
    last = max((at for at, source in enumerate(cells) if "recorded(" in source), default=-1)
    os.chdir(file.parent)
    names: dict[str, object] = {}
    for source in cells[: last + 1]:
        exec(source, names)
        names["recorded"] = save


def save(file: str, fetch: Callable[[], nbtcp.EventLog]) -> nbtcp.EventLog:
    log = fetch()
    print(log, log.save(file).name)
    return log


if __name__ == "__main__":
    for number in sys.argv[1:]:
        for notebook in sorted(HERE.parent.rglob(f"{number}-*.ipynb")):
            record(notebook)
    if not sys.argv[1:]:
        main()
