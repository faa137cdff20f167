"""docs/log.md says of every table which columns it has, and what they are."""

import re
from pathlib import Path

import pandas as pd
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


def table_of(log: nbtcp.EventLog, name: str) -> pd.DataFrame:
    table = getattr(log, name)
    found: pd.DataFrame = table() if callable(table) else table
    return found


def test_the_page_has_every_table() -> None:
    members = {name: getattr(one, "fget", one) for name, one in vars(nbtcp.EventLog).items()}
    made = [
        name
        for name, one in members.items()
        if getattr(one, "__annotations__", {}).get("return") == "pd.DataFrame"
    ]
    assert {name for name in made if not name.startswith("_")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_columns_and_dtypes_of_the_table(log: nbtcp.EventLog, name: str) -> None:
    for one in (log, nbtcp.EventLog()):
        dtypes = table_of(one, name).dtypes
        assert documented(name) == {column: str(dtype) for column, dtype in dtypes.items()}


def test_the_page_has_the_units_and_definitions_of_the_directions(log: nbtcp.EventLog) -> None:
    attrs = log.directions().attrs
    for name, unit in attrs["units"].items():
        assert re.search(
            rf"^\| {name} \| \w+ \| {unit} \| {re.escape(attrs['definitions'][name])} \|$",
            PAGE,
            re.M,
        )


def test_the_page_has_every_event(log: nbtcp.EventLog) -> None:
    from nbtcp.why import Event

    told = set(
        re.findall(r"`([\w-]+)`", PAGE.split("| event | category | | `state`")[1].split("\n")[0])
    )
    assert told | {"state"} == {event.label for event in Event}
