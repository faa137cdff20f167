"""The rules of the house that a look at the source can check: who imports whom, and sizes.

Each rule is a function from source text to a list of complaints, "file:line: what is wrong"; the
tests apply it to the package, and then to small texts that break it, to show that it can fail.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from speed import slowness

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbtcp"

CORE = ("wire", "tcp", "congestion", "why", "errors", "config")  # all they may take from nbtcp
IMPURE = (
    *("datetime", "time"),  # clocks
    *("random", "secrets"),  # chance
    *("os", "pathlib", "select", "selectors", "socket", "subprocess"),  # the outer world
    *("_thread", "asyncio", "concurrent", "multiprocessing", "threading"),
    *("importlib", "logging"),  # ways around these rules
    *("IPython", "httpx", "matplotlib", "numpy", "pandas", "pyarrow", "pyroute2", "scapy"),
)
LAZY = ("scapy", "pandas", "matplotlib", "httpx")  # imported where they are used

LINES_OF_A_FUNCTION = 50
# Of code: no blanks, comments, docstrings. What one reads to know TCP is `tcp`; the algorithms of
# `congestion` stand alone, each in its file, and `testing` is a program of its own. Each room has a
# limit, so that what one saves another does not spend.
LINES = {
    "wire": 550,
    "tcp": 2300,
    "congestion": 680,
    "links": 1000,
    "runtime": 2010,
    "trace": 3170,
    "testing": 1200,
    "": 12770,
}
SECONDS_TO_IMPORT = 0.3


class Import(NamedTuple):
    """One name that a module imports: `from ..wire import seq` in nbtcp.tcp.x is nbtcp.wire.seq."""

    line: int
    name: str
    lazy: bool  # inside a function
    for_types: bool  # under `if TYPE_CHECKING:`, so never carried out

    def reaches(self, module: str) -> bool:
        return self.name == module or self.name.startswith(module + ".")


# --- the tests ---


@pytest.mark.parametrize("room", ["wire", "tcp", "congestion", "links", "runtime", "trace"])
def test_every_room_is_there(room: str) -> None:
    assert list((PACKAGE / room).glob("*.py")), f"nbtcp/{room} holds no module"


@pytest.mark.parametrize("room", ["wire", "tcp", "congestion"])
def test_the_core_does_not_import_from_above(room: str) -> None:
    report(imports_from_above, modules(room))


@pytest.mark.parametrize("room", ["wire", "tcp", "congestion"])
def test_the_core_is_pure(room: str) -> None:
    report(impure_imports, modules(room))


def test_wire_does_not_import_tcp() -> None:
    report(imports_of("tcp"), modules("wire"))


def test_the_scapy_codec_imports_scapy_inside_functions() -> None:
    path = PACKAGE / "wire" / "scapy.py"
    assert any(i.reaches("scapy") for i in imports(path.read_text(), name_of(path)))
    report(eager_imports, [path])


@pytest.mark.parametrize("user", ["connection", "arrives", "output", "listener"])
def test_strategies_do_not_know_who_asks_them(user: str) -> None:
    report(imports_of(f"tcp.{user}"), modules("tcp/recovery"))


def test_congestion_control_knows_an_ack_by_its_type_alone() -> None:
    report(imports_of("tcp", types_may=True), modules("congestion"))


@pytest.mark.parametrize("module", ["frame", "metrics", "plot"])
def test_a_log_is_read_without_a_stack(module: str) -> None:
    report(imports_of("tcp"), [PACKAGE / "trace" / f"{module}.py"])


@pytest.mark.parametrize("room", ["links", "trace"])
def test_links_and_trace_do_not_import_runtime(room: str) -> None:
    report(imports_of("runtime"), modules(room))


def test_nothing_in_the_package_imports_testing() -> None:
    users = sorted(set(modules()) - set(modules("testing")))
    report(imports_of("testing"), users)


def test_no_function_is_too_long() -> None:
    report(long_functions, modules())


@pytest.mark.parametrize("room", LINES)
def test_the_code_can_be_read_in_an_evening(room: str) -> None:
    limit, paths = LINES[room], modules(room)
    sizes = {str(p.relative_to(ROOT)): lines_of_code(p.read_text()) for p in paths}
    table = "\n".join(f"{n:6} {name}" for name, n in sorted(sizes.items(), key=lambda s: -s[1]))
    total = sum(sizes.values())
    assert total <= limit, f"{total} lines of code in nbtcp/{room}, at most {limit}:\n{table}"


@pytest.mark.slow
def test_importing_nbtcp_is_quick() -> None:
    program = "import time; t = time.process_time(); import nbtcp; print(time.process_time() - t)"
    took = [float(fresh_python(program)) for _ in range(5)]
    assert min(took) < SECONDS_TO_IMPORT * slowness(), f"import nbtcp took {sorted(took)} s"


@pytest.mark.parametrize("library", LAZY)
def test_importing_nbtcp_does_not_import(library: str) -> None:
    assert fresh_python(f"import sys, nbtcp; print({library!r} in sys.modules)") == "False"


# --- the rules ---


def imports_from_above(source: str, module: str) -> list[str]:
    """The core knows nothing of what stands on it: links, runtime, trace, stack, lab, cli."""
    return [
        complaint(module, i.line, f"imports {i.name}")
        for i in imports(source, module)
        if i.reaches("nbtcp") and not any(i.reaches(f"nbtcp.{part}") for part in CORE)
    ]


def impure_imports(source: str, module: str) -> list[str]:
    """No clock, chance, socket, thread, file or heavy library; scapy in the scapy codec alone."""
    allowed = ("scapy",) if module == "nbtcp.wire.scapy" else ()
    return [
        complaint(module, i.line, f"imports {i.name}")
        for i in imports(source, module)
        if i.name.split(".")[0] in set(IMPURE).difference(allowed) and not i.for_types
    ]


def imports_of(room: str, types_may: bool = False) -> Callable[[str, str], list[str]]:
    """The rule that nbtcp's `room` is not imported, but for types if they may be."""

    def rule(source: str, module: str) -> list[str]:
        found = (i for i in imports(source, module) if i.reaches(f"nbtcp.{room}"))
        found = (i for i in found if not (types_may and i.for_types))
        return [complaint(module, i.line, f"imports {i.name}") for i in found]

    return rule


def eager_imports(source: str, module: str) -> list[str]:
    """What takes long to import is imported inside the functions that use it."""
    return [
        complaint(module, i.line, f"imports {i.name} at the top")
        for i in imports(source, module)
        if i.name.split(".")[0] in LAZY and not (i.lazy or i.for_types)
    ]


def long_functions(source: str, module: str) -> list[str]:
    """Counts from `def` to the last line, docstring included."""
    return [
        complaint(module, node.lineno, f"{node.name} has {length} lines, {LINES_OF_A_FUNCTION} may")
        for node in ast.walk(ast.parse(source, module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LINES_OF_A_FUNCTION
    ]


def lines_of_code(source: str) -> int:
    """How many lines hold something other than blanks, comments and docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


# --- the rules can fail ---


def test_imports_are_resolved() -> None:
    source = "import a.b\nfrom ..wire import seq\nfrom . import rtt as r\nfrom .state import State"
    assert [(i.line, i.name) for i in imports(source, "nbtcp.tcp.output")] == [
        (1, "a.b"),
        (2, "nbtcp.wire.seq"),
        (3, "nbtcp.tcp.rtt"),
        (4, "nbtcp.tcp.state.State"),
    ]
    assert imports("from .reno import x", "nbtcp.congestion", package=True)[0].name == (
        "nbtcp.congestion.reno.x"
    )


def test_imports_know_where_they_stand() -> None:
    source = """
import a
if TYPE_CHECKING:
    import b
def f():
    import c
class C:
    import d
    async def g(self):
        if True:
            import e
"""
    found = imports(source, "nbtcp.x")
    assert {i.name for i in found if i.lazy} == {"c", "e"}
    assert {i.name for i in found if i.for_types} == {"b"}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("from ..trace.log import EventLog", 1),
        ("from ..trace import log", 1),
        ("from .. import stack", 1),
        ("from nbtcp import links", 1),
        ("import nbtcp.runtime.loop", 1),
        ("x = 1\ndef f():\n    from ..cli import main", 3),
        ("if TYPE_CHECKING:\n    from ..sweep import Sweep", 2),
        ("from nbtcp import Stack", 1),
        ("import nbtcp", 1),
    ],
)
def test_an_import_from_above_is_found(source: str, line: int) -> None:
    (found,) = imports_from_above(source, "nbtcp.tcp.output")
    assert found.startswith(f"nbtcp/tcp/output.py:{line}: imports ")


@pytest.mark.parametrize("source", ["from ..wire import seq", "from ..why import Why", "import io"])
def test_an_import_from_beside_or_below_is_allowed(source: str) -> None:
    assert imports_from_above(source, "nbtcp.tcp.output") == []
    assert impure_imports(source, "nbtcp.tcp.output") == []


@pytest.mark.parametrize("library", sorted(IMPURE))
def test_an_impure_import_is_found(library: str) -> None:
    expected = [f"nbtcp/wire/ip.py:2: imports {library}.x"]
    assert impure_imports(f"\nfrom {library} import x", "nbtcp.wire.ip") == expected
    assert impure_imports(f"def f():\n    import {library}.x", "nbtcp.wire.ip") == expected
    assert impure_imports(f"if TYPE_CHECKING:\n    import {library}", "nbtcp.wire.ip") == []


def test_scapy_is_allowed_in_its_codec_only() -> None:
    source = "def f():\n    import scapy.all"
    assert impure_imports(source, "nbtcp.wire.scapy") == []
    assert impure_imports(source, "nbtcp.wire.segment") != []
    assert impure_imports("from . import scapy", "nbtcp.wire.segment") == []


def test_scapy_at_the_top_is_found() -> None:
    expected = ["nbtcp/wire/scapy.py:1: imports scapy.all.IP at the top"]
    assert eager_imports("from scapy.all import IP", "nbtcp.wire.scapy") == expected
    assert eager_imports("try:\n    import scapy\nfinally:\n    x = 1", "nbtcp.wire.scapy")
    assert eager_imports("class C:\n    import scapy", "nbtcp.wire.scapy")
    assert eager_imports("def f():\n    import scapy", "nbtcp.wire.scapy") == []
    assert eager_imports("if TYPE_CHECKING:\n    import scapy", "nbtcp.wire.scapy") == []
    assert eager_imports(
        "if TYPE_CHECKING:\n    x = 1\nelse:\n    import scapy", "nbtcp.wire.scapy"
    )


def test_a_stack_under_a_plot_is_found() -> None:
    rule = imports_of("tcp")
    expected = ["nbtcp/trace/plot.py:1: imports nbtcp.tcp.state.State"]
    assert rule("from ..tcp.state import State", "nbtcp.trace.plot") == expected
    assert rule("def f():\n    from .. import tcp", "nbtcp.trace.plot") == [
        "nbtcp/trace/plot.py:2: imports nbtcp.tcp"
    ]
    assert rule("from . import frame", "nbtcp.trace.plot") == []
    assert rule("import nbtcp.tcpdump", "nbtcp.trace.plot") == []


def test_a_long_function_is_found() -> None:
    body = "    x = 1\n" * (LINES_OF_A_FUNCTION - 1)
    assert long_functions("def f():\n" + body, "nbtcp.x") == []
    assert long_functions("@decorated\ndef f():\n" + body, "nbtcp.x") == []
    (found,) = long_functions("\ndef f():\n    # why\n" + body, "nbtcp.x")
    assert found.startswith("nbtcp/x.py:2: f has 51 lines")
    method = "class C:\n    async def f():\n" + "        await x\n" * LINES_OF_A_FUNCTION
    assert long_functions(method, "nbtcp.x")[0].startswith("nbtcp/x.py:2: f has 51 lines")


def test_lines_of_code_are_counted() -> None:
    source = '''"""A module
that explains itself."""

# A comment.
x = 1  # another
"""About x."""
y = (
    # inside
    2,

    3,
)


def f():
    """A docstring."""
    return """a
    text"""
'''
    assert lines_of_code(source) == 8  # x; y = ( 2, 3, ); def; return, text
    assert lines_of_code("") == 0


def test_complaints_are_reported() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"test_architecture\.py:1: no"):
        report(lambda source, module: [complaint(module, 1, "no")], [Path(__file__)])
    with pytest.raises(pytest.fail.Exception, match="no module"):
        report(lambda source, module: [], [])
    with pytest.raises(pytest.fail.Exception, match=r"nbtcp/no\.py is not there"):
        report(lambda source, module: [], [PACKAGE / "no.py"])


# --- what the rules are made of ---


def imports(source: str, module: str, package: bool | None = None) -> list[Import]:
    """Everything that the source of `module` imports, however deep, in the order of lines."""
    if package is None:
        package = (ROOT / module.replace(".", "/") / "__init__.py").exists()
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool, for_types: bool) -> None:
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
                found.extend(Import(node.lineno, name, lazy, for_types) for name in names)
            case ast.ImportFrom():
                source_of = resolved(node, module, package)
                names = [f"{source_of}.{alias.name}" for alias in node.names]
                found.extend(Import(node.lineno, name, lazy, for_types) for name in names)
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for statement in node.body:
                    visit(statement, lazy, True)
                for statement in node.orelse:
                    visit(statement, lazy, for_types)
            case _:
                lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    visit(child, lazy, for_types)

    visit(ast.parse(source, module), False, False)
    return found


def resolved(node: ast.ImportFrom, module: str, package: bool) -> str:
    """The absolute name of the module that `from ... import` takes from."""
    if not node.level:
        return node.module or ""
    base = module.split(".")
    base = base[: len(base) - node.level + package]
    return ".".join([*base, node.module] if node.module else base)


def modules(room: str = "") -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def complaint(module: str, line: int, what: str) -> str:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def report(rule: Callable[[str, str], list[str]], paths: list[Path]) -> None:
    """Fails with every complaint that `rule` has of the modules at `paths`."""
    if not paths:
        pytest.fail("there is no module to look at")
    for path in paths:
        if not path.exists():
            pytest.fail(f"{path.relative_to(ROOT)} is not there")
    complaints = [c for path in paths for c in rule(path.read_text(), name_of(path))]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def fresh_python(program: str) -> str:
    """What `program` prints, run by a new interpreter that finds this checkout's nbtcp first."""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()
