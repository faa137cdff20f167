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
from nbtcp.notebook import Tcpdump, tshark_flags, tshark_says

HERE = Path(__file__).parent
TARGET = HERE / "start-here.parquet"


def main() -> None:
    path = nbtcp.Path(delay=0.02, loss=0.01, rate=10e6, queue=64, seed=8)
    with nbtcp.Lab(path) as lab:
        page = lab.fetch("/bytes/300000")
    print(page, page.log, page.log.save(TARGET).name, sep="\n")


def record(file: Path, **replace: str) -> None:
    """Run a notebook's cells as far as its last `recorded(file, fetch)`; save what they give.

    `replace` says what variables have that the notebook sets itself.
    """
    cells = [cell.source for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
    last = max((at for at, cell in enumerate(cells) if "recorded(" in cell), default=-1)
    os.chdir(file.parent)
    names: dict[str, object] = {}
    for source in cells[: last + 1]:
        exec(source, names)
        names |= {"recorded": save, **replace}


def save(file: str, fetch: Callable[[], nbtcp.EventLog], about: str = "") -> nbtcp.EventLog:
    log = fetch()
    log.meta["about"] = about
    print(log, log.save(file).name)
    return log


def capture() -> None:
    """For 11: a kernel's capture, the log of both ends, and what tshark says at either end."""
    down = nbtcp.Path(delay=0.02, rate=10e6, queue=40, loss=0.01, reorder=0.02, held=0.006, seed=2)
    with nbtcp.Lab(up=nbtcp.Path(delay=0.02, loss=0.02, seed=2), down=down, seed=1) as lab:
        with Tcpdump(lab) as kernel:
            page = lab.fetch(f"/bytes/{400_000}")
        both = kernel.join(page.log)
        both.meta["kernel"] = lab.counters()["TcpExt"]
    both.save(HERE / "11-both.parquet")
    (HERE / "11-kernel.pcap").write_bytes(kernel.capture)
    receiver = both.to_pcapng(HERE.parent / "11-receiver.pcapng", host="10.0.0.2")
    [version] = tshark_says("--version").splitlines()[:1]
    for name, file in ("kernel", HERE / "11-kernel.pcap"), ("receiver", receiver):
        stored = HERE / f"11-{name}.tsv"
        stored.write_text(f"{version}\n")
        said = tshark_flags(file, stored)
        rows = [["1" * flag for flag in row] for row in said.to_numpy().tolist()]
        stored.write_text("\n".join([version, *map("\t".join, rows), ""]))


if __name__ == "__main__":
    for number in sys.argv[1:]:
        if number == "11":
            capture()
        for notebook in sorted(HERE.parent.rglob(f"{number}-*.ipynb")):
            record(notebook)
    if not sys.argv[1:]:
        main()
