"""Every script under tests/scenarios passes, twice, with the same log byte for byte."""

from pathlib import Path

import pytest

from nbtcp import testing

SCENARIOS = Path(__file__).parent / "scenarios"
SCRIPTS = sorted(SCENARIOS.rglob("*.pkt"))

BROKEN = {
    "ecn/slows-down": "ACKs with ECE count towards the growth of cwnd (RFC 3168 6.1.2)",
    "receive/window-update-unscaled": "an update after each read when the window is not scaled",
}
"""What nbtcp does not do as the script says, and why; the mark goes when it is mended."""


def name(script: Path) -> str:
    return str(script.relative_to(SCENARIOS).with_suffix(""))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scenario(script: Path, request: pytest.FixtureRequest) -> None:
    if reason := BROKEN.get(name(script)):
        request.applymarker(pytest.mark.xfail(reason=reason, raises=testing.ScriptFailure))
    logs = [bytes(testing.run(script).log) for _ in range(2)]
    assert logs[0] == logs[1], "the same script gave another log"


def test_the_scenarios_are_there() -> None:
    assert len(SCRIPTS) >= 60
    assert set(BROKEN) <= set(map(name, SCRIPTS))


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_scenario_says_what_it_shows_and_what_it_relies_on(script: Path) -> None:
    comment, _, rest = script.read_text().partition("--config=")
    assert comment.startswith("// ")
    assert "(RFC " in comment
    assert {"recovery", "congestion", "timestamps", "window_scale"} <= {
        part.partition("=")[0] for part in rest.splitlines()[0].split(",")
    }
