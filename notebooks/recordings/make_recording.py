"""Record what 00-start-here.ipynb falls back to on a machine that cannot make the lab.

Run it as root. Then execute the notebook again (jupyter nbconvert --to notebook --execute --inplace
--ExecutePreprocessor.record_timing=False), so that its stored outputs fit the recording.
"""

from pathlib import Path

import nbtcp

TARGET = Path(__file__).with_name("start-here.parquet")


def main() -> None:
    path = nbtcp.Path(delay=0.02, loss=0.01, rate=10e6, queue=64, seed=8)
    with nbtcp.Lab(path) as lab:
        page = lab.fetch("/bytes/300000")
    print(page, page.log, page.log.save(TARGET).name, sep="\n")


if __name__ == "__main__":
    main()
