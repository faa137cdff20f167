"""docs/log.md says of every table which columns it has, and what they are."""

import re
from pathlib import Path

import pytest

import nbtcp

PAGE = (Path(__file__).parents[1] / "docs" / "log.md").read_text()
NAMES = re.findall("^## (.*)", PAGE, re.M)


def documented(name: str) -> dict[str, str]:
    """Column -> dtype, as the page has them."""
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    found = {}
    for columns, dtypes, *_ in re.findall(r"^\| ([\w, ]+) \| ([\w, ]+) \|(.*)$", section, re.M):
        names, types = columns.split(", "), dtypes.split(", ")
        if names != ["column"]:
            found |= zip(names, types * len(names) if len(types) == 1 else types, strict=False)
    return found


@pytest.fixture(scope="module")
def log() -> nbtcp.EventLog:
    path = nbtcp.Path(rate=5e6, delay=0.02, queue=20, loss=0.03)
    return nbtcp.Simulation(path, seed=1).transfer(300_000).log


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_columns_and_dtypes_of_the_table(log: nbtcp.EventLog, name: str) -> None:
    table = getattr(log, name)
    table = table() if callable(table) else table
    assert documented(name) == {column: str(dtype) for column, dtype in table.dtypes.items()}


def test_the_page_has_every_event(log: nbtcp.EventLog) -> None:
    from nbtcp.why import Event

    told = set(
        re.findall(r"`([\w-]+)`", PAGE.split("| event | category | | `state`")[1].split("\n")[0])
    )
    assert told | {"state"} == {event.label for event in Event}
