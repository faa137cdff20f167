"""Writes requirements.md: for each requirement of RFC 9293 where the code meets it and which test
shows that, or why not.

    python docs/make_requirements.py            # write it
    python docs/make_requirements.py --check    # only say whether it is up to date

The requirements are those of requirements.toml. Their names (MUST-23 and so on) are looked for in
the comments and docstrings of the package and of the tests' functions, and in the scenarios.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "requirements.md"
TAG = re.compile(r"(?<![\w-])(?:MUST|SHLD|MAY|REC|U|L)-\d+(?![\w-])")
HEAD = """# RFC 9293, requirement by requirement

Made by `docs/make_requirements.py` from `requirements.toml` and from the names of the requirements
in the code and its tests; do not edit. MUST, SHLD, MAY and REC are numbered by the RFC; U are its
upper-case statements without a number, L lower-case rules that behaviour depends on, both numbered
by us. The texts are paraphrases.

| | level | section | requirement | implemented in | shown by |
|---|---|---|---|---|---|
"""

Tags = dict[str, dict[str, None]]  # requirement -> Markdown links, in order, each once


def main() -> int:
    """Exit code 1 when `--check` finds the file out of date."""
    page = table()
    if sys.argv[1:] == ["--check"]:
        fresh = TABLE.exists() and TABLE.read_text() == page
        print(f"{TABLE.name} is {'up to date' if fresh else 'out of date: python ' + __file__}")
        return not fresh
    TABLE.write_text(page)
    return 0


def requirements() -> dict[str, dict[str, str]]:
    """By name: level, section, text, and perhaps reason."""
    return tomllib.loads((ROOT / "docs" / "requirements.toml").read_text())


def in_code() -> Tags:
    """Where each requirement is implemented."""
    return _collect(sorted((ROOT / "nbtcp").rglob("*.py")), "")


def in_tests() -> Tags:
    """What shows each requirement: test functions, and scenarios as a whole."""
    scenarios = sorted((ROOT / "tests" / "scenarios").rglob("*.pkt"))
    tags = _collect(sorted((ROOT / "tests").rglob("test_*.py")), "test_")
    for path in scenarios:
        for tag in TAG.findall(path.read_text()):
            tags.setdefault(tag, {})[_link(path, path.stem)] = None
    return tags


def table() -> str:
    """The page as it should be."""
    code, tests, rows = in_code(), in_tests(), []
    for name, about in requirements().items():
        where = ", ".join(code.get(name, ()))
        if "reason" in about:
            where = f"{where}<br>{about['reason']}" if where else about["reason"]
        shown = "<br>".join(tests.get(name, ()))
        cells = (name, about["level"], about["section"], about["text"], where, shown)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return HEAD + "".join(rows)


def _collect(paths: list[Path], prefix: str) -> Tags:
    """The tags in `paths`; with a `prefix` only those inside of functions called so."""
    tags: Tags = {}
    for path in paths:
        source = path.read_text()
        nodes = [node for node in ast.walk(ast.parse(source)) if hasattr(node, "body")]
        for line, text in _comments(source):
            for tag in TAG.findall(text):
                holder = _holder(nodes, line)
                if holder.startswith(prefix):
                    tags.setdefault(tag, {})[_link(path, holder)] = None
    return tags


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments, and of the strings that stand alone: docstrings."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        alone = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and alone):
            yield token.start[0], token.string
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type


def _holder(nodes: list[ast.AST], line: int) -> str:
    """The innermost function or class around `line`, its name with those around it."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    around = [n for n in nodes if isinstance(n, kinds) and n.lineno <= line <= (n.end_lineno or 0)]
    return ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))


def _link(path: Path, name: str) -> str:
    place = path.relative_to(ROOT).as_posix()
    label = " ".join((place.removeprefix("nbtcp/"), name)).strip()
    return f"[{label if place.startswith('nbtcp') else name}](../{place})"


if __name__ == "__main__":
    sys.exit(main())
