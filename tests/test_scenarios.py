"""Every script under tests/scenarios passes, twice, with the same log byte for byte."""

from pathlib import Path
from typing import Any

import pytest

from nbtcp import testing

SCENARIOS = Path(__file__).parent / "scenarios"
SCRIPTS = sorted(SCENARIOS.rglob("*.pkt"))


MISSING: dict[str, str] = {}
"""What an RFC says and nbtcp does not do: these must fail, and leave this list once they pass."""


def name(script: Path) -> str:
    return str(script.relative_to(SCENARIOS).with_suffix(""))


def marked(script: Path) -> Any:
    """`script` as a parameter, with the mark that it is expected to fail."""
    why = MISSING.get(name(script))
    failure = testing.ScriptFailure
    return pytest.param(
        script, marks=pytest.mark.xfail(reason=why, raises=failure, strict=True) if why else ()
    )


@pytest.mark.parametrize("script", [marked(s) for s in SCRIPTS], ids=[name(s) for s in SCRIPTS])
def test_scenario(script: Path) -> None:
    logs = [bytes(testing.run(script).log) for _ in range(2)]
    assert logs[0] == logs[1], "the same script gave another log"


def test_the_scenarios_are_there() -> None:
    assert len(SCRIPTS) >= 200
    assert set(MISSING) <= set(map(name, SCRIPTS))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_scenario_says_what_it_shows_and_what_it_relies_on(script: Path) -> None:
    comment, _, rest = script.read_text().partition("--config=")
    assert comment.startswith("// ")
    assert "(RFC " in comment
    assert {"recovery", "congestion", "timestamps", "window_scale"} <= {
        part.partition("=")[0] for part in rest.splitlines()[0].split(",")
    }
