"""Record again what 00-start-here.ipynb falls back to on a machine that cannot make the lab.

Needs the lab (root): `python notebooks/make_recording.py`. Afterwards execute the notebook again,
for its text and its stored outputs are to fit the recording.
"""

from pathlib import Path

import nbtcp

TARGET = Path(__file__).parent / "recordings" / "start-here.parquet"


def main() -> None:
    path = nbtcp.Path(delay=0.02, loss=0.01, rate=10e6, queue=64, seed=8)
    with nbtcp.Lab(path) as lab:
        page = lab.fetch("/bytes/300000")
    print(page, page.log, page.log.save(TARGET).name, sep="\n")


if __name__ == "__main__":
    main()
