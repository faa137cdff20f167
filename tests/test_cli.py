"""The command line as a shell sees it: outputs, exit codes, one clear line for what is wrong."""

import fcntl
import gzip
import os
import select
import struct
import subprocess
import sys
import termios
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from nbtcp import EventLog, read_capture
from nbtcp.cli import main

ROOT = Path(__file__).parent.parent
root = pytest.mark.root
PATIENCE = 120.0  # s for one call, most of which goes into imports


def nbtcp(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nbtcp.cli", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd or ROOT, env=variables
    )


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: quicker, and the same but for the interpreter's start."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets another

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("nbtcp: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def saved_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nbtcp import Path as Impaired
    from nbtcp import Simulation

    transfer = Simulation(Impaired(delay=0.02, rate=5e6, queue=20, loss=0.01), seed=3)
    return transfer.transfer(100_000).log.save(tmp_path_factory.mktemp("log") / "sim.parquet")


@root
def test_fetch_from_the_lab_writes_all_that_was_asked_for(tmp_path: Path) -> None:
    done = nbtcp(
        *("fetch", "/bytes/100000", "--lab", "--delay", "0.005", "--rtt"),
        *("-o", "body", "--plot", "seq.svg", "--log", "log.parquet", "--pcap", "a.pcapng"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "body").stat().st_size == 100_000
    assert (tmp_path / "seq.svg").read_text().startswith("<?xml")
    assert "srtt" in done.stdout and "first-transmission" in done.stdout
    again = nbtcp("rtt", "log.parquet", cwd=tmp_path)
    assert again.stdout == done.stdout
    capture = nbtcp("rtt", "a.pcapng", cwd=tmp_path).stdout.splitlines()
    own = [line.split()[5:] for line in done.stdout.splitlines() if "first-transmission" in line]
    assert [line.split()[5:] for line in capture if "first-transmission" in line] == own
    assert "inferred" in capture[-1]


@root
def test_fetch_to_stdout_is_the_body_alone() -> None:
    command = [sys.executable, "-m", "nbtcp.cli", "fetch", "--lab", "/bytes/5000"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, cwd=ROOT)
    assert len(done.stdout) == 5000
    assert done.stderr == b""


@root
def test_a_bad_status_is_a_failed_fetch() -> None:
    assert_one_line(nbtcp("fetch", "--lab", "/nowhere"), 1, "404")


@root
def test_a_host_that_does_not_answer_fails_with_the_count_of_syns(tmp_path: Path) -> None:
    done = nbtcp(
        "fetch", "--lab", "/", "--loss", "1", "--timeout", "2", "--log", f"{tmp_path}/a.parquet"
    )
    assert_one_line(done, 1, "no answer from 10.0.0.1 port 80", "2 SYNs sent in 2.")
    assert (tmp_path / "a.parquet").exists(), "the log of a failed fetch is kept"


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "csv"])
def test_plot_draws_a_saved_log(here: Run, saved_log: Path, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"seq.{suffix}"
    done = here("plot", str(saved_log), "-o", str(picture))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"saved {picture}\n"
    assert picture.stat().st_size > 500


@pytest.fixture(scope="module")
def capture(saved_log: Path) -> Path:
    from nbtcp import EventLog

    return EventLog.load(saved_log).to_pcapng(saved_log.with_name("sim.pcapng"))


def test_plot_and_rtt_take_a_capture_whatever_its_name(
    here: Run, capture: Path, tmp_path: Path
) -> None:
    other = tmp_path / "dump.parquet"
    other.write_bytes(capture.read_bytes())
    done = here("plot", str(other), "-o", f"{tmp_path}/seq.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "first-transmission" in here("rtt", str(other)).stdout


def test_stats_are_of_a_log_or_a_capture(here: Run, saved_log: Path, capture: Path) -> None:
    for path in (saved_log, capture):
        done = here("stats", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert "connection 1\n" in done.stdout
        lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[1:] if line}
        assert lines["unique_bytes"] == ["B", "100,000", "0"]
        assert lines["throughput"][2] == "-"


def test_a_capture_cut_off_is_read_and_said(here: Run, capture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcapng"
    cut.write_bytes(capture.read_bytes()[:5000])
    done = here("stats", str(cut))
    assert "unique_bytes" in done.stdout
    assert_one_line(done, 0, "cut.pcapng: cut off in mid-packet, at octet 5000")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch", "--lab", "bytes"], ["path such as /bytes/1000"]),
        (["fetch", "/bytes/10"], ["http://", "/bytes/10"]),
        (["fetch", "ftp://example.com/"], ["http://", "ftp"]),
        (["fetch", "http://"], ["host"]),
        (["fetch", "--lab", "/", "-o", "z", "--plot", "z"], ["a file each"]),
        (["fetch", "--lab", "/", "--log", "x.csv"], [".parquet"]),
        (["fetch", "--lab", "/", "--pcap", "x.pcap"], [".pcapng", "no place for the reasons"]),
        (["fetch", "--lab", "/", "--log", "x.parquet", "--pcap", "x.parquet"], ["a file each"]),
        (["fetch", "--lab"], ["Missing argument 'URL'"]),
        (["fetch", "--lab", "/", "--nonsense"], ["--nonsense"]),
        (["fetch", "--lab", "/", "--loss", "2"], ["loss=2.0", "between 0 and 1"]),
        (["fetch", "--lab", "/", "--delay", "-1"], ["delay=-1.0"]),
        (["fetch", "--lab", "/", "--rate", "fast"], ["fast"]),
        (["fetch", "--lab", "/", "--codec", "morse"], ["morse", "struct"]),
        (["fetch", "--lab", "/", "--plot", "a.bmp"], [".png"]),
        (["fetch", "--lab", "/", "-o", "/nowhere/at/all"], ["there is no directory"]),
        (["fetch", "--lab", "/", "-o", "/"], ["is a directory"]),
        (["plot", "nothing.parquet", "-o", "a.png"], ["nothing.parquet", "No such file"]),
        (["plot", "README.md", "-o", "a.png"], ["README.md", "no log saved by nbtcp"]),
        (["rtt", "README.md"], ["README.md"]),
        (["stats", "README.md"], ["README.md", "no capture", "no log saved by nbtcp"]),
        (["stats", "tests"], ["tests", "Is a directory"]),
        (["plot", "README.md", "-o", "a.xyz"], ["a.xyz", ".svg"]),
        (["quux"], ["quux"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_is_one_line_and_code_2(
    here: Run, arguments: list[str], words: list[str]
) -> None:
    assert_one_line(here(*arguments), 2, *words)


@root
def test_an_unknown_congestion_control_of_the_kernel_is_one_line_and_code_2() -> None:
    done = nbtcp("fetch", "--lab", "/", "--kernel-congestion", "warp")
    assert_one_line(done, 2, "warp", "reno")


def test_an_unknown_picture_lists_those_there_are(
    here: Run, saved_log: Path, tmp_path: Path
) -> None:
    done = here("plot", str(saved_log), "--kind", "nothing", "-o", f"{tmp_path}/a.png")
    assert_one_line(done, 2, "nothing", "sequence")


def test_an_unknown_connection_lists_those_there_are(
    here: Run, saved_log: Path, tmp_path: Path
) -> None:
    done = here("plot", str(saved_log), "--conn", "9", "-o", f"{tmp_path}/a.png")
    assert_one_line(done, 2, "9", "1")


@root
def test_doctor_says_what_there_is() -> None:
    done = nbtcp("doctor")
    assert done.returncode == 0
    assert "/dev/net/tun" in done.stdout
    assert "the lab can run here" in done.stdout
    assert nbtcp("doctor", "--quiet").stdout == ""


@root
def test_without_root_and_tun_the_lab_says_which_is_missing() -> None:
    """As user 65534, with a Python that this user may run."""
    python = "/usr/bin/python3"
    probe = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([python, "-c", probe], capture_output=True).returncode:
        pytest.skip("no /usr/bin/python3 of 3.11 or newer, which another user could run")
    import click
    import tqdm

    program = "from nbtcp.cli import main; main(['fetch', '--lab', '/'])"
    places = {str(Path(module.__file__).parent.parent) for module in (click, tqdm)}
    if any(place.startswith("/root/") for place in places) or not os.access(ROOT, os.R_OK):
        pytest.skip("the libraries lie where another user may not look")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
        env={"PYTHONPATH": ":".join([str(ROOT), *places]), "PATH": os.environ["PATH"]},
    )
    assert_one_line(done, 2, "/dev/net/tun")


@root
def test_in_a_container_without_tun_the_simulation_and_the_recordings_work(tmp_path: Path) -> None:
    """As root in a mount namespace whose /dev/net is empty."""
    done = subprocess.run(
        ["unshare", "--mount", "--", "sh", "-c", CONTAINER, "sh", sys.executable, RECORDING],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *refused, octets, rtt = done.stdout.splitlines()
    assert refused == ["2"] * 3 and octets == "100000"
    assert rtt.endswith(" samples; times in seconds, start and end are octets of the stream.")
    missing = "nbtcp: /dev/net/tun is missing, so there can be no TUN device; load it with "
    hint = "`modprobe tun`, or start the container with `--device /dev/net/tun`"
    assert done.stderr.splitlines() == [missing + hint] * 3


RECORDING = str(ROOT / "notebooks" / "recordings" / "start-here.parquet")
CONTAINER = """
mount -t tmpfs none /dev/net
for call in "fetch --lab /" "fetch http://192.0.2.1/" "serve --lab ."; do
    $1 -m nbtcp.cli $call; echo $?
done
$1 -c "import nbtcp; print(nbtcp.Simulation(seed=1).transfer(100_000).octets)"
$1 -m nbtcp.cli rtt $2 | tail -n 1
"""


def test_help_teaches() -> None:
    assert "fetch" in nbtcp("--help").stdout
    assert "/bytes/300000" in nbtcp("fetch", "--help").stdout


@root
def test_outputs_are_checked_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = nbtcp("fetch", "--lab", "/slow?seconds=30", "-o", f"{tmp_path}/folder")
    assert_one_line(done, 2, "is a directory")


@root
def test_a_long_body_shows_a_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    """stderr is a terminal here; the bar names percent and speed, and is gone at the end."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-m", "nbtcp.cli", "fetch", "--lab", "/bytes/3000000", "-o", "body"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command += ["--rate", "20e6"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=theirs, env=env) as fetch:
        os.close(theirs)
        seen = b""
        while fetch.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen += os.read(ours, 4096)
                except OSError:  # the other end is closed
                    break
        assert fetch.wait(timeout=PATIENCE) == 0
    os.close(ours)
    assert b"%" in seen and b"B/s" in seen
    assert (tmp_path / "body").stat().st_size == 3_000_000


@root
@pytest.mark.parametrize("option", [["-o", "/dev/full"], []])
def test_a_full_disk_is_one_line_and_code_2(option: list[str]) -> None:
    command = [sys.executable, "-m", "nbtcp.cli", "fetch", "--lab", "/bytes/50", *option]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, cwd=ROOT
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    named = option[-1] if option else "the output"
    assert done.stderr == f"nbtcp: {named} cannot be written: No space left on device\n"


@root
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
def test_fetch_from_the_lab_over_ipv6(tmp_path: Path) -> None:
    done = nbtcp("fetch", "--lab", "-6", "/bytes/1000", "-o", "body", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "body").stat().st_size == 1000


def test_a_lan_is_of_ipv4() -> None:
    lan = ("--lan", "eth0", "--address", "192.0.2.77")
    done = nbtcp("fetch", "-6", *lan, "http://example.com/")
    assert_one_line(done, 2, "-6 does not go with --lan")


@pytest.mark.parametrize("suffix", [".parquet", ".pcapng", ".csv"])
def test_convert_keeps_the_segments(
    here: Run, saved_log: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"again{suffix}"
    done = here("convert", str(saved_log), "-o", str(output))
    assert (done.returncode, done.stdout) == (0, f"saved {output}\n"), done.stderr
    there = EventLog.load(saved_log).segments
    if suffix == ".csv":
        assert len(output.read_text().splitlines()) == len(there) + 1
    elif suffix == ".parquet":
        assert len(EventLog.load(output).segments) == len(there)
    else:
        assert len(read_capture(output).segments) == (there["event"] != "drop").sum()


def test_convert_refuses_what_it_cannot_write(here: Run, saved_log: Path, tmp_path: Path) -> None:
    done = here("convert", str(saved_log), "-o", str(tmp_path / "again.txt"))
    assert_one_line(done, 2, "again.txt", ".parquet or .pcapng or .csv")


@pytest.mark.slow
def test_help_has_examples_that_work(here: Run, saved_log: Path, tmp_path: Path) -> None:
    """Of a log, and of a capture of two connections as a program of others would have made it."""
    log = EventLog.load(saved_log)
    log.save(tmp_path / "page.parquet")
    files = [log.to_pcapng(tmp_path / "one.pcapng", host="10.0.0.1")]
    for record in log.records:
        ports = b"\0\1\0\2" if record.flow[:4] < record.flow[4:8] else b"\0\2\0\1"
        record.flow = record.flow[:-4] + ports
    files.append(log.to_pcapng(tmp_path / "two.pcapng", host="10.0.0.1"))
    both = b"".join(file.read_bytes() for file in files).replace(b"nbtcp ", b"other ")
    (tmp_path / "dump.pcap").write_bytes(both)
    (tmp_path / "dump.pcap.gz").write_bytes(gzip.compress(both))
    for name in "plot", "rtt", "stats", "convert":
        text = here(name, "--help").stdout
        examples = [line.split() for line in text.splitlines() if line.startswith("    nbtcp ")]
        assert len(examples) >= 2
        for _, *arguments in examples:
            done = here(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert done.stdout


def test_plot_between_two_times(here: Run, saved_log: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.CSV"
    done = here("plot", str(saved_log), "--between", "0.1", "0.15", "-o", str(output))
    assert done.returncode == 0, done.stderr
    times = [float(line.split(",")[1]) for line in output.read_text().splitlines()[1:]]
    assert times and all(0.1 <= time <= 0.15 for time in times)


def test_what_there_is_to_know_of_a_capture_is_said_whatever_is_done_with_it(
    here: Run, saved_log: Path, tmp_path: Path
) -> None:
    """And still of what was made of it."""
    cut, parquet = tmp_path / "cut.pcapng", tmp_path / "cut.parquet"
    EventLog.load(saved_log).to_pcapng(cut)
    cut.write_bytes(cut.read_bytes()[:-7])
    assert_one_line(here("convert", str(cut), "-o", str(parquet)), 0, "cut off in mid-packet")
    again = here("convert", str(parquet), "-o", str(tmp_path / "again.pcapng"))
    assert_one_line(again, 0, "cut.parquet: cut off in mid-packet")
    assert_one_line(here("rtt", str(tmp_path / "again.pcapng")), 0, "cut off in mid-packet")


@pytest.mark.parametrize("kind", ["window", "ladder", "overview"])
def test_plot_draws_other_kinds(here: Run, saved_log: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "plot.png"
    done = here("plot", str(saved_log), "--kind", kind, "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
