"""The command line: nbtcp fetch, plot, rtt, stats, doctor, lab.

Exit codes: 0 done, 1 the fetch failed, 2 the call was wrong or the machine cannot. Whatever goes
wrong is one line on stderr.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .config import Config, ConfigError
from .errors import MachineError, NbtcpError
from .links.path import Path as NetworkPath

if TYPE_CHECKING:
    from .runtime.http import Page
    from .trace.log import EventLog

FAILED, WRONG = 1, 2
PICTURES = (
    *("sequence", "stevens", "window", "rtt", "throughput", "queue", "states", "timers"),
    *("scoreboard", "ladder", "overview"),
)
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    try:
        code = commands.main(args=argv, prog_name="nbtcp", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.ctx.get_help() if problem.ctx else "")
        sys.exit(WRONG)
    except click.ClickException as problem:
        _say(problem.format_message())
        sys.exit(WRONG)
    except click.Abort:
        _say("interrupted")
        sys.exit(130)
    except (ConfigError, MachineError, NbtcpError, ValueError) as problem:
        _say(str(problem))
        sys.exit(WRONG)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as problem:  # an output could be opened, but not be written
        _say(f"{problem.filename or 'the output'} cannot be written: {problem.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(WRONG)
    sys.exit(code if isinstance(code, int) else 0)


@click.group()
@click.version_option(package_name="nbtcp")
def commands() -> None:
    """A TCP to read, to run and to look at."""


@commands.command()
@click.argument("url")
@click.option("--lab", is_flag=True, help="Fetch from the lab's own server: URL is a path.")
@click.option("-6", "ipv6", is_flag=True, help="Over IPv6; with --lab.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the body here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Save the sequence plot here.")
@click.option("--log", type=click.Path(path_type=Path), help="Save the event log here (.parquet).")
@click.option("--pcap", type=click.Path(path_type=Path), help="Save a capture here (.pcapng).")
@click.option("--rtt", is_flag=True, help="Print the table of round-trip times.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds without an answer.")
@click.option("--delay", default=0.0, help="Seconds of delay in each direction.")
@click.option("--loss", default=0.0, help="Probability of loss in each direction.")
@click.option("--rate", type=float, help="Bits per second in each direction.")
@click.option("--queue", type=int, help="Packets that may wait for the rate.")
@click.option("--seed", type=int, default=0, help="Seed of the losses.")
@click.option("--kernel-congestion", default="reno", show_default=True, help="Lab: the kernel's.")
@click.option("--codec", default="struct", show_default=True, help="struct or scapy.")
def fetch(url: str, **options: Any) -> int:
    """Fetch URL with nbtcp's own TCP; the body goes to stdout unless -o says where.

    Without --lab this needs root, and the machine's own access to the internet. With --lab, URL is
    a path such as /bytes/300000, fetched from the kernel's TCP in a private network.
    """
    outputs = [options[name] for name in ("output", "plot", "log", "pcap") if options[name]]
    for path in outputs:
        _check_writable(path)
    if len(set(outputs)) < len(outputs):
        raise click.UsageError("-o, --plot, --log and --pcap need a file each")
    if options["log"] and options["log"].suffix != ".parquet":
        raise click.UsageError(f"{options['log']}: a log's name ends in .parquet")
    if options["pcap"] and options["pcap"].suffix != ".pcapng":
        why = "pcap has no place for the reasons"
        raise click.UsageError(f"{options['pcap']}: a capture's name ends in .pcapng, as {why}")
    _check_plot_kind(options["plot"])
    try:
        page = _fetch(url, options)
    except OSError as problem:
        _save(getattr(problem, "page", None), options)
        _say(problem.strerror or str(problem))
        return FAILED
    if options["output"]:
        with _names_its_file(options["output"]):
            options["output"].write_bytes(page.content)
    elif not options["rtt"]:
        sys.stdout.buffer.write(page.content)
    _save(page, options)
    if not page.ok:
        _say(f"{page.url}: {page.status} {page.reason}")
        return FAILED
    return 0


@commands.command()
@click.argument("file", metavar="LOG_OR_PCAP", type=click.Path(path_type=Path))
@click.option(
    "--kind", type=click.Choice(PICTURES), default="sequence", show_default=True, help="Which one."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--conn", type=int, help="Which connection; else the one with most data.")
@click.option("--direction", help="Whose data: an address, or out or in.")
def plot(file: Path, kind: str, output: Path, conn: int | None, direction: str | None) -> None:
    """Draw a picture of a saved log or a capture; the suffix of -o chooses PNG, SVG, PDF or CSV."""
    _check_writable(output)
    _check_plot_kind(output)
    log = _load(file)
    with _names_its_file(output):
        getattr(log.plot, kind)(conn=conn, direction=direction).save(output)
    click.echo(f"saved {output}")


@commands.command()
@click.argument("file", metavar="LOG_OR_PCAP", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def convert(file: Path, output: Path) -> None:
    """Write a log or a capture as another file: .parquet, .pcapng, or .csv of its segments."""
    _check_writable(output)
    writers: dict[str, Callable[[EventLog], object]] = {
        ".parquet": lambda log: log.save(output),
        ".pcapng": lambda log: log.to_pcapng(output),
        ".csv": lambda log: log.segments.to_csv(output, index=False, lineterminator="\n"),
    }
    if output.suffix not in writers:
        raise click.UsageError(
            f"{output}: the name of what is written ends in {', '.join(writers)}"
        )
    log = _load(file)
    with _names_its_file(output):
        writers[output.suffix](log)
    click.echo(f"saved {output}")


@commands.command()
@click.argument("file", metavar="LOG_OR_PCAP", type=click.Path(path_type=Path))
def rtt(file: Path) -> None:
    """Print the round-trip times in a saved log or a capture."""
    _print_rtt(_load(file))


@commands.command()
@click.argument("file", metavar="LOG_OR_PCAP", type=click.Path(path_type=Path))
def stats(file: Path) -> None:
    """Print statistics of a saved log or a capture: per connection, of both directions."""
    import pandas as pd

    table = _load(file).summary()
    units: dict[str, str] = table.attrs["units"]
    if table.empty:
        click.echo("no connections")
    for number, pair in table.groupby("conn"):
        columns = {"unit": ["", *units.values()]}
        for line in pair.to_dict("records"):
            values = [_number(line[name], unit) for name, unit in units.items()]
            columns[line["direction"]] = [line["vantage"], *values]
        shown = pd.DataFrame(columns, index=["seen by", *units]).to_string()
        click.echo(f"connection {number}\n{shown}\n")


@commands.command()
@click.option("--quiet", is_flag=True, help="Only the exit code: 0 when the lab can run here.")
@click.option("--clean", is_flag=True, help="Undo what killed fetches from the internet have left.")
def doctor(quiet: bool, clean: bool) -> int:
    """Say what this machine has, what it lacks and what would help."""
    if clean:
        from .live import Live

        for undone in Live.clean():
            click.echo(f"undone: {undone}")
    from .links.namespace import Namespace, diagnose

    try:
        Namespace().close()
        problem = ""
    except MachineError as error:
        problem = str(error)
    if not quiet:
        for condition in diagnose():
            mark = "ok     " if condition.ok else "missing"
            hint = f"; {condition.help}" if condition.help and not condition.ok else ""
            click.echo(f"{mark} {condition.name}: {condition.detail}{hint}")
        click.echo(f"the lab cannot run here: {problem}" if problem else "the lab can run here")
    return WRONG if problem else 0


@commands.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(options: tuple[str, ...]) -> int:
    """Open JupyterLab on the notebooks; OPTIONS go to jupyter lab."""
    if not NOTEBOOKS.is_dir():
        raise MachineError(f"no notebooks at {NOTEBOOKS}: run this from a clone of the repository")
    if find_spec("jupyterlab") is None:
        raise MachineError("JupyterLab is not installed: use `make lab`, or pip install nbtcp[lab]")
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    start = NOTEBOOKS / "00-start-here.ipynb"
    return subprocess.call([*command, f"--notebook-dir={NOTEBOOKS}", *options, str(start)])


# --- helpers ---


def _say(text: str) -> None:
    click.echo(f"nbtcp: {' '.join(text.split())}", err=True)


def _fetch(url: str, options: dict[str, Any]) -> "Page":
    from .lab import Lab
    from .live import Live, check_url

    if options["lab"] and not url.startswith("/"):
        raise click.UsageError(f"with --lab the URL is a path such as /bytes/1000, not {url!r}")
    if options["ipv6"] and not options["lab"]:
        raise click.UsageError("-6 goes with --lab: the way into the internet is of IPv4")
    path = NetworkPath(
        delay=options["delay"],
        loss=options["loss"],
        rate=options["rate"],
        queue=options["queue"],
        seed=options["seed"],
    )
    config = Config(codec=options["codec"])
    if not options["lab"]:
        check_url(url)
        with Live(path, config=config) as host:
            return host.fetch(url, timeout=options["timeout"])
    with Lab(path, config=config, kernel_congestion=options["kernel_congestion"]) as lab:
        return lab.fetch(url, timeout=options["timeout"], family=6 if options["ipv6"] else 4)


def _save(page: "Page | None", options: dict[str, Any]) -> None:
    """What was asked for besides the body; also when the fetch failed."""
    if page is None:
        return
    log = page.log
    writers: dict[str, Callable[[Path], object]] = {
        "log": log.save,
        "pcap": log.to_pcapng,
        "plot": lambda path: len(log.segments) and log.plot.sequence().save(path),
    }
    for name, write in writers.items():
        if options[name]:
            with _names_its_file(options[name]):
                write(options[name])
    if options["rtt"]:
        _print_rtt(page.log)


def _print_rtt(log: "EventLog") -> None:
    table = log.rtt()
    shown = table.drop(columns=["time", "host"])
    click.echo(shown.to_string(index=False, float_format=lambda value: f"{value:.6f}"))
    click.echo(f"{len(shown)} samples; times in seconds, start and end are octets of the stream.")
    if "inferred" in log.meta:
        click.echo("They are inferred: from where the capture was made to the receiver and back.")


def _number(value: Any, unit: str) -> str:
    """Seconds to the microsecond, all else whole; "-" where there is nothing to tell."""
    if str(value) in ("nan", "<NA>", "None"):
        return "-"
    return f"{value:.6f}" if unit == "s" else f"{value:,.0f}"


def _load(file: Path) -> "EventLog":
    """A saved log, or a capture: by what is in it, not by its name."""
    from .trace.capture import read_capture
    from .trace.log import EventLog, LogFileError

    try:
        with file.open("rb") as opened:
            parquet = opened.read(4) == b"PAR1"
        log = EventLog.load(file) if parquet else read_capture(file)
    except OSError as problem:
        raise click.UsageError(f"{file}: {problem.strerror}") from None
    except LogFileError as problem:
        also = "" if parquet else ", and no log saved by nbtcp"
        raise LogFileError(f"{problem}{also}") from None
    for note in log.meta.get("problems", []):
        _say(f"{file}: {note}")
    return log


def _check_writable(path: Path) -> None:
    """Before anything is fetched: the file can be written, or UsageError says why not."""
    folder = path.parent
    if path.is_dir():
        raise click.UsageError(f"{path} is a directory: give a file name")
    if not folder.is_dir():
        raise click.UsageError(f"{path} cannot be written: there is no directory {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise click.UsageError(f"{path} cannot be written: permission denied")


@contextmanager
def _names_its_file(path: Path) -> Iterator[None]:
    """A file that could be opened and not written, for a full disk, has no name in its error."""
    try:
        yield
    except OSError as problem:
        problem.filename = problem.filename or path
        raise


def _check_plot_kind(path: Path | None) -> None:
    if path is None:
        return
    from .trace.plot import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise click.UsageError(f"{path}: a picture's name ends in one of {known}")


if __name__ == "__main__":
    main()
