"""The repository as a whole: what lies where, that files which repeat each other agree, and that
make says in one line what a machine lacks.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    *(".ci", "benchmarks", "docs", "nbtcp", "notebooks", "tests"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *(".gitignore", "Makefile", "environment.yml", "pyproject.toml"),
}


# --- what lies where ---


def test_the_top_level_holds_only_what_is_expected() -> None:
    names = {name.split("/")[0] for name in tracked_files()}
    assert not (unexpected := names - TOP_LEVEL), f"not expected there: {sorted(unexpected)}"


@pytest.mark.parametrize("name", sorted(TOP_LEVEL))
def test_the_top_level_is_complete(name: str) -> None:
    assert (ROOT / name).exists()


def test_what_is_ignored_is_not_tracked() -> None:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-i", "-c", "--exclude-standard"]
    tracked_files()  # or skip
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == ""


# --- pyproject.toml and environment.yml ---


def test_conda_gets_the_packages_that_pip_gets() -> None:
    assert conda_requirements() == pip_requirements()


def test_conda_installs_nbtcp_itself() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert re.search(r"^  - pip$", text, re.MULTILINE)
    assert text.endswith("  - pip:\n      - -e .\n")


def test_conda_forge_is_the_only_channel() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert "channels:\n  - conda-forge\n  - nodefaults\ndependencies:\n" in text


@pytest.mark.parametrize("requirement", ["numpy>=1.26,<3", "pandas==2.2.0", "scapy", "httpx<1"])
def test_a_requirement_that_is_no_range_is_found(requirement: str) -> None:
    assert is_range(Requirement(requirement).specifier) == (">=" in requirement)


def test_requirements_are_ranges() -> None:
    assert [name for name, range_ in pip_requirements().items() if not is_range(range_)] == []


def test_python_versions_agree() -> None:
    data = project()
    minors = [c.rpartition(" 3.")[2] for c in data["classifiers"] if " 3." in c]
    assert data["requires-python"] == f">=3.{minors[0]}"
    assert minors == [str(n) for n in range(int(minors[0]), int(minors[-1]) + 1)]
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == f"py3{minors[0]}"


# --- versions, commands ---


def test_the_installed_version_is_this_one() -> None:
    try:
        installed = version("nbtcp")
    except PackageNotFoundError:
        pytest.skip("nbtcp is not installed here")
    assert installed == project()["version"], "pip install -e . again"


def test_the_changelog_knows_this_version_or_is_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert headings[0] in ("Unreleased", project()["version"])
    assert len(headings) == len(set(headings))


def test_the_readme_names_only_targets_that_there_are() -> None:
    text = (ROOT / "README.md").read_text()
    command = r"(?:^ *(?:\$ )?|`|\bsudo )make (?:PYTHON=\S+ )?([a-z]+)"
    named = re.findall(command, text, re.MULTILINE)
    assert "test" in named
    assert set(named) <= targets()


def test_every_target_is_in_the_list_that_make_prints(tmp_path: Path) -> None:
    printed = make(tmp_path).stdout
    assert set(re.findall(r"^make (\w+) ", printed, re.MULTILINE)) == targets()


def test_the_ci_ends_in_the_readme_s_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text().rstrip().splitlines()
    assert lines[-1] == "exec make test"
    assert "set -euo pipefail" in lines


# --- make on a machine that lacks something ---


def test_no_python_is_said_in_one_line(tmp_path: Path) -> None:
    run = make(tmp_path, "PYTHON=python3.99", "demo")
    assert complaint(run) == (
        "make: there is no python3.99 here; nbtcp needs 3.11 or newer: install it (Debian, Ubuntu: "
        "sudo apt install python3 python3-venv) or name the one you have: "
        "make PYTHON=/path/to/python3 demo"
    )


def test_a_python_that_does_not_start_is_said_in_one_line(tmp_path: Path) -> None:
    run = make(tmp_path, f"PYTHON={fake_python(tmp_path, 'exit 127')}", "test")
    assert "does not start; nbtcp needs 3.11 or newer: install it" in complaint(run)


def test_an_old_python_is_said_in_one_line(tmp_path: Path) -> None:
    old = fake_python(tmp_path, 'case "$2" in *print*) echo 3.10;; *"< (3, 11)"*) exit 1;; esac')
    run = make(tmp_path, f"PYTHON={old}", "lab")
    assert "is Python 3.10; nbtcp needs 3.11 or newer: install it" in complaint(run)


def test_a_missing_venv_is_said_in_one_line(tmp_path: Path) -> None:
    bare = fake_python(tmp_path, 'case "$2" in *print*) echo 3.13;; *ensurepip*) exit 1;; esac')
    run = make(tmp_path, f"PYTHON={bare}", "bench")
    assert complaint(run).endswith(
        "has no venv: install it (Debian, Ubuntu: sudo apt install python3.13-venv)"
    )


@pytest.mark.slow
def test_a_failing_pip_is_said_in_one_line_and_tried_again(tmp_path: Path) -> None:
    venv = '[ "$1" = -c ] && exit; mkdir -p .venv/bin && cp "$0" .venv/bin/python; [ "$2" = venv ]'
    offline = fake_python(tmp_path, venv + ' || { echo "ERROR: no way out"; exit 1; }')
    for _ in range(2):
        run = make(tmp_path, f"PYTHON={offline}", "test")
        assert complaint(run) == (
            "make: pip could not install; is the network there? ERROR: no way out "
            "(the whole story: .venv/install.log)"
        )
        assert "Installing nbtcp[lab,test] into .venv" in run.stdout


# --- helpers ---


def tracked_files() -> list[str]:
    """The files of this checkout that git tracks; skips the test where this is no git checkout."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is not a git checkout, or there is no git")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in run.stdout.split("\0") if name]


def project() -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return data


def pip_requirements() -> dict[str, SpecifierSet]:
    data = project()
    extras = data["optional-dependencies"]
    lines = [f"python{data['requires-python']}", *data["dependencies"]]
    return parsed([*lines, *extras["lab"], *extras["test"]])


def conda_requirements() -> dict[str, SpecifierSet]:
    text = (ROOT / "environment.yml").read_text()
    lines = re.findall(r"^  - (\S+)$", text.partition("dependencies:\n")[2], re.MULTILINE)
    wanted = [line for line in lines if line not in ("pip", "pip:")]
    return parsed([re.sub(r"^playwright-python\b", "playwright", line) for line in wanted])


def parsed(lines: list[str]) -> dict[str, SpecifierSet]:
    requirements = [Requirement(line) for line in lines]
    result = {str(canonicalize_name(r.name)): r.specifier for r in requirements}
    assert len(result) == len(lines), "one package stands there twice"
    return result


def is_range(specifier: SpecifierSet) -> bool:
    operators = {part.operator for part in specifier}
    return ">=" in operators and operators <= {">=", "<"}


def targets() -> set[str]:
    declared = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name for line in declared for name in line.split()} - {"FORCE"}


def make(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make on a copy of the Makefile alone, under a path with a blank in it."""
    if not (program := shutil.which("make")):
        pytest.skip("there is no make here")
    place = tmp_path / "a checkout"
    place.mkdir(exist_ok=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    # Not this make's own settings, when make runs these tests.
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        [program, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def complaint(run: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr, besides the one that make itself adds."""
    assert run.returncode == 2
    line, _, of_make = run.stderr.rstrip().partition("\n")
    assert of_make.startswith("make: *** ")
    assert "\n" not in of_make
    return line


def fake_python(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
