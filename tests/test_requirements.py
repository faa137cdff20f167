"""docs/requirements.md is what the tags in code and tests give, and leaves no requirement open."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("x", ROOT / "docs" / "make_requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = load()
REQUIREMENTS, CODE, TESTS = made.requirements(), made.in_code(), made.in_tests()


def test_the_page_is_what_the_tags_give() -> None:
    hint = "run: python docs/make_requirements.py"
    assert made.TABLE.read_text() == made.table(), hint


def test_the_list_is_whole() -> None:
    """The RFC has 119 that are numbered; the others are numbered by us."""
    numbers = {"MUST": 69, "SHLD": 31, "MAY": 18, "REC": 1, "U": 9, "L": 29}
    expected = [f"{kind}-{n}" for kind, last in numbers.items() for n in range(1, last + 1)]
    assert list(REQUIREMENTS) == expected
    for about in REQUIREMENTS.values():
        assert set(about) in ({"level", "section", "text"}, {"level", "section", "text", "reason"})
        assert all(about.values())


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_requirement_is_met_and_shown_or_has_a_reason(name: str) -> None:
    if "reason" not in REQUIREMENTS[name]:
        assert name in CODE, f"no comment or docstring in nbtcp/ says where {name} is implemented"
        assert name in TESTS, f"no docstring of a test in tests/ says that it shows {name}"


def test_a_tag_names_a_requirement_that_exists() -> None:
    assert {*CODE, *TESTS} <= set(REQUIREMENTS)


# --- the collector ---

SOURCE = '''"""Module (MUST-1)."""

LIMIT = 3  # SHLD-2


class Thing:
    """A MAY-3."""

    def act(self) -> str:
        # not XMUST-4, MUST-4x or U-boat-5, but L-6
        return "MUST-7"
'''


def test_tags_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "ROOT", tmp_path)
    path = tmp_path / "nbtcp" / "a.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    link = "](../nbtcp/a.py)"
    assert {tag: list(links) for tag, links in made._collect([path], "").items()} == {
        "MUST-1": ["[a.py" + link],
        "SHLD-2": ["[a.py" + link],
        "MAY-3": ["[a.py Thing" + link],
        "L-6": ["[a.py Thing.act" + link],
    }
