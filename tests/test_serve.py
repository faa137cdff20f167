"""Our TCP serves in the lab: curl, wget, Chromium, ab, and urllib over the kernel's TCP."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbtcp
from nbtcp.runtime.server import Server, application, files

pytestmark = pytest.mark.root
PATIENCE = 200.0  # s for what takes a second or two, unless the machine is very busy
ROOT = Path(__file__).parent.parent
CONTENT = random.Random(1).randbytes(2_000_000)
SMALL = CONTENT[:1000]
URL, WSGI = "http://10.0.0.2:8000", "http://10.0.0.2:8001"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served, beside what must not be."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    served = outside / "served"
    for folder in (served, served / "empty", served / "page", served / "lure"):
        folder.mkdir()
    (served / "large").write_bytes(CONTENT)
    (served / "medium").write_bytes(CONTENT[:300_000])
    (served / "small").write_bytes(SMALL)
    page = "<p id=p></p><script src=name.js></script>"
    (served / "page" / "index.html").write_text(page)
    (served / "page" / "name.js").write_text("p.textContent = 'nb' + 'tcp'")
    (served / "link").symlink_to("small")
    (served / "out").symlink_to("../secret")
    (served / "up").symlink_to("..")
    (served / "lure" / "index.html").symlink_to(outside / "secret")
    os.mkfifo(served / "pipe")
    return served


def reply(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A WSGI application that tells what it was asked."""
    if environ["PATH_INFO"] == "/broken":
        raise RuntimeError("this application is broken")
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
    where = environ["SERVER_NAME"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]
    said = " ".join((*asked, *where, hashlib.sha256(body).hexdigest()))
    return [said.encode(), b" threads" if environ["wsgi.multithread"] else b""]


@pytest.fixture(scope="module")
def lab(directory: Path) -> Iterator[nbtcp.Lab]:
    with (
        nbtcp.Lab(seed=1) as lab,
        Server(lab, 8000, files(directory)),
        Server(lab, 8001, application(reply)),
    ):
        yield lab
        counters = lab.counters()["Tcp"]
        assert counters["InErrs"] == counters["AttemptFails"] == 0


@pytest.fixture
def opened(lab: nbtcp.Lab) -> Iterator[Callable[[], int]]:
    """How many connections the kernel has opened in this test, of which none may be reset."""
    before = lab.counters()["Tcp"]
    yield lambda: lab.counters()["Tcp"]["ActiveOpens"] - before["ActiveOpens"]
    assert lab.counters()["Tcp"]["EstabResets"] == before["EstabResets"]


def run(lab: nbtcp.Lab, *command: object, **options: Any) -> bytes:
    """What a program on the kernel's side prints that succeeds."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs the program {command[0]}")
    done = lab.run(
        [str(word) for word in command], capture_output=True, timeout=PATIENCE, **options
    )
    assert done.returncode == 0, done.stderr
    output: bytes = done.stdout
    return output


def curl(lab: nbtcp.Lab, path: str, *options: str) -> tuple[int, bytes]:
    """Status and body."""
    command = ("curl", "-s", "--path-as-is", "-w", "%{http_code}", *options, f"{URL}{path}")
    output = run(lab, *command)
    return int(output[-3:]), output[:-3]


# --- clients ---


def test_curl_fetches_files_and_listings(lab: nbtcp.Lab) -> None:
    assert curl(lab, "/large") == (200, CONTENT)
    assert curl(lab, "/empty/")[1].count(b"<li>") == 0
    status, listing = curl(lab, "/", "-L")
    assert (status, b'<a href="small">' in listing) == (200, True)
    assert curl(lab, "/page", "-L")[1].startswith(b"<p id=p>"), "by a redirect to /page/"
    assert curl(lab, "/small", "-I")[1].lower().count(b"content-length: 1000") == 1
    assert curl(lab, "/nothing")[0] == 404
    assert curl(lab, "/small", "-d", "x=y")[0] == 501


def test_curl_uses_one_connection_for_many_files(lab: nbtcp.Lab) -> None:
    count = "%{num_connects} "
    urls = [f"{URL}/small", f"{URL}/large", f"{URL}/page/", f"{URL}/small"]
    sinks = ["-o", os.devnull] * len(urls)
    assert run(lab, "curl", "-s", "-w", count, *sinks, *urls) == b"1 0 0 0 "


def test_wget_fetches_all_of_a_directory_and_goes_on_where_it_was_stopped(
    lab: nbtcp.Lab, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(CONTENT[:1_000_000])
    run(lab, "wget", "-q", "-c", f"{URL}/large", cwd=tmp_path)
    assert (tmp_path / "large").read_bytes() == CONTENT
    run(lab, "wget", "-q", "-r", "-nH", "--reject-regex=/(up|out|pipe|lure)", URL, cwd=tmp_path)
    assert (tmp_path / "small").read_bytes() == (tmp_path / "link").read_bytes() == SMALL
    assert (tmp_path / "page" / "name.js").exists()


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 100])
@pytest.mark.parametrize("keep_alive", [[], ["-k"]], ids=["", "keep-alive"])
def test_ab_loses_nothing(
    lab: nbtcp.Lab, opened: Callable[[], int], clients: int, keep_alive: list[str]
) -> None:
    output = run(lab, "ab", "-q", *keep_alive, "-n", 1000, "-c", clients, f"{URL}/small").decode()
    numbers = dict(re.findall(r"^([A-Z].*): +(\d+)", output, re.MULTILINE))
    assert (numbers["Complete requests"], numbers["Failed requests"]) == ("1000", "0")
    assert numbers["HTML transferred"] == "1000000"
    assert "Non-2xx responses" not in numbers
    assert numbers.get("Keep-Alive requests", "0") == ("1000" if keep_alive else "0")
    assert opened() >= (clients if keep_alive else 1000)  # ab opens some that it does not use


THOUSAND = """
import sys, urllib.request
for number in range(1000):
    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
        assert len(answer.read()) == 1000, number
"""


@pytest.mark.slow
def test_a_thousand_connections_one_after_another(
    lab: nbtcp.Lab, opened: Callable[[], int]
) -> None:
    run(lab, sys.executable, "-c", THOUSAND, f"{URL}/small")
    assert opened() == 1000


HUNDRED = """
import hashlib, sys, threading, urllib.request
together = threading.Barrier(100)
digests = []
def fetch():
    with urllib.request.urlopen(sys.argv[1], timeout=100) as answer:
        first = answer.read(1)
        together.wait(100)  # all of them are being answered
        digests.append(hashlib.sha256(first + answer.read()).hexdigest())
threads = [threading.Thread(target=fetch) for _ in range(100)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(digests), *set(digests))
"""


@pytest.mark.slow
def test_a_hundred_clients_at_once(lab: nbtcp.Lab, opened: Callable[[], int]) -> None:
    """And an accept that waits all the while keeps nobody from sending."""
    said = run(lab, sys.executable, "-c", HUNDRED, f"{URL}/medium").decode().split()
    assert said == ["100", hashlib.sha256(CONTENT[:300_000]).hexdigest()]
    assert opened() == 100


# --- nothing from outside, parts of files ---


@pytest.mark.parametrize(
    "path",
    [
        *("/out", "/up/secret", "/up/", "/lure/", "/lure/index.html", "/pipe"),
        *("/../secret", "/%2e%2e/secret", "/..%2fsecret", "//../secret", "/small/", "/%00"),
        *("/%ED%A0%80", "/" + "a" * 5000, "/page/../../secret", "/small/x"),
    ],
)
def test_what_is_no_file_of_the_directory_is_not_found(lab: nbtcp.Lab, path: str) -> None:
    status, body = curl(lab, path)
    assert status == 404
    assert b"secret" not in body


def test_a_link_that_stays_inside_is_followed(lab: nbtcp.Lab) -> None:
    assert curl(lab, "/link") == (200, SMALL)


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("0-9", 206, SMALL[:10]),
        ("990-", 206, SMALL[990:]),
        ("-10", 206, SMALL[-10:]),
        ("-5000", 206, SMALL),
        ("500-5000", 206, SMALL[500:]),
        *((wanted, 416, b"") for wanted in ("1000-", "-0", "5-2")),
        *((wanted, 200, SMALL) for wanted in ("0-1,5-6", "x-", "0-" + "9" * 30)),
    ],
)
def test_parts_of_a_file(lab: nbtcp.Lab, wanted: str, status: int, expected: bytes) -> None:
    """RFC 9110 14.2, 15.5.17."""
    assert curl(lab, "/small", "-r", wanted) == (status, expected)


def test_a_part_of_something_that_has_changed_is_all_of_it(lab: nbtcp.Lab) -> None:
    """RFC 9110 13.1.5."""
    assert curl(lab, "/small", "-r", "0-9", "-H", 'If-Range: "old"') == (200, SMALL)


# --- WSGI ---


def test_an_application_is_called(lab: nbtcp.Lab) -> None:
    nothing = hashlib.sha256().hexdigest()
    said = run(lab, "curl", "-s", f"{WSGI}/a%20b?c=d")
    assert said.decode() == f"GET /a b c=d 10.0.0.2 8001 10.0.0.1 {nothing} threads"


def test_an_application_reads_what_is_sent(lab: nbtcp.Lab, directory: Path) -> None:
    expected = hashlib.sha256(CONTENT).hexdigest()
    waits = ("-H", "Expect: 100-continue", "--expect100-timeout", "300")
    sends = ("--data-binary", f"@{directory}/large", "--max-time", "100")
    said = run(lab, "curl", "-s", *waits, *sends, WSGI).decode()
    assert said.split() == ["POST", "/", "10.0.0.2", "8001", "10.0.0.1", expected, "threads"]


def test_an_application_that_raises_is_an_error_of_the_server(
    lab: nbtcp.Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    said = run(lab, "curl", "-s", "-o", os.devnull, "-w", "%{http_code}", f"{WSGI}/broken")
    assert said == b"500"
    assert "this application is broken" in capfd.readouterr().err


# --- the end ---


def test_a_server_that_is_closed_refuses_and_its_port_is_free(directory: Path) -> None:
    with nbtcp.Lab() as lab:
        for _ in range(2):
            with Server(lab, 8000, files(directory)) as server:
                assert curl(lab, "/small") == (200, SMALL)
            assert server.ended.wait(PATIENCE)
            done = lab.run(["curl", "-s", URL])
            assert done.returncode == 7, "connection refused"


def test_a_host_that_ends_takes_its_clients_along(directory: Path) -> None:
    lab = nbtcp.Lab()
    server = Server(lab, 8000, files(directory))
    client = lab.popen(["curl", "-s", "--limit-rate", "1k", "-o", os.devnull, f"{URL}/large"])
    with lab.loop.lock:
        assert lab.loop.run_until(
            lambda: len(lab.stack.connections) > 0, lab.loop.now() + round(PATIENCE * 1e9)
        )
    lab.close()
    assert server.ended.wait(PATIENCE)
    server.server_close()
    client.wait(PATIENCE)


# --- the command line ---


def serve(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nbtcp.cli", "serve", *arguments]
    pipe = subprocess.PIPE
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=env)


@pytest.mark.slow
def test_serve_runs_a_program_and_saves_what_was_asked_for(directory: Path, tmp_path: Path) -> None:
    outputs = ("--log", "log.parquet", "--pcap", "a.pcapng", "--plot", "seq.svg")
    program = f"curl -s -o body {URL}/large"
    with serve(str(directory), "--lab", "--run", program, *outputs, cwd=tmp_path) as server:
        assert server.communicate(timeout=PATIENCE) == (f"serving at {URL}/\n", "")
    assert server.returncode == 0
    assert (tmp_path / "body").read_bytes() == CONTENT
    log = nbtcp.EventLog.load(tmp_path / "log.parquet")
    assert log.connections["local_port"].tolist() == [8000]
    assert len(nbtcp.read_capture(tmp_path / "a.pcapng").segments) == len(log.segments)
    assert (tmp_path / "seq.svg").stat().st_size > 500


def test_serve_imports_an_application_from_where_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'hello']\n"
    )
    program = f"curl -s {URL}"
    with serve("--wsgi", "hello:app", "--lab", "--run", program, cwd=tmp_path) as server:
        assert server.communicate(timeout=PATIENCE) == (f"serving at {URL}/\nhello", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_at_a_signal(directory: Path, number: signal.Signals) -> None:
    with serve(str(directory), "--lab") as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"serving at {URL}/\n"
        server.send_signal(number)
        assert server.communicate(timeout=PATIENCE) == ("", "")
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "give a directory, or an application"),
        (["/nowhere"], "'/nowhere' does not exist"),
        ([".", "--wsgi", "os:name"], "give a directory, or an application"),
        (["--wsgi", "nowhere:app"], "No module named 'nowhere'"),
        (["--wsgi", "os:nothing"], "has no attribute 'nothing'"),
        (["--wsgi", "os:name"], "cannot be called"),
        ([".", "--run", "true"], "--run goes with --lab"),
        ([".", "--lab", "--public"], "--public does not go with --lab"),
        ([".", "--port", "0"], "1<=x<=65535"),
        ([".", "--log", "a.txt"], "ends in .parquet"),
        ([".", "--lab", "--run", "no-such-program"], "no such program"),
    ],
)
def test_a_wrong_call_of_serve_is_one_line_and_code_2(arguments: list[str], word: str) -> None:
    with serve(*arguments) as server:
        errors = server.communicate(timeout=PATIENCE)[1]
    assert (server.returncode, errors.count("\n")) == (2, 1)
    assert errors.startswith("nbtcp: ")
    assert word in errors


def test_a_program_that_fails_is_code_1(directory: Path) -> None:
    with serve(str(directory), "--lab", "--run", "false") as server:
        server.communicate(timeout=PATIENCE)
    assert server.returncode == 1
