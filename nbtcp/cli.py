"""The command line: nbtcp fetch, serve, plot, rtt, stats, convert, doctor, lab.

Exit codes: 0 done, 1 the fetch failed, 2 the call was wrong or the machine cannot. Whatever goes
wrong is one line on stderr.
"""

import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
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
Command = Callable[..., Any]
PICTURES = (
    *("sequence", "stevens", "window", "rtt", "waits", "throughput", "queue", "states", "timers"),
    *("scoreboard", "ladder", "overview"),
)
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
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


def _options(*options: Command) -> Command:
    """Several options as one decorator."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_FILE = click.Path(path_type=Path)
_READ = click.argument("file", metavar="LOG_OR_PCAP", type=_FILE)
_on_a_lan = _options(
    click.option("--lan", metavar="IFACE", help="At an address of our own on this card's LAN."),
    click.option("--address", help="With --lan: that address, a free one there."),
    click.option("--gateway", help="With --lan: the way elsewhere; the machine's by default."),
    click.option("--mac", help='With --lan: our MAC, or "own"; the card\'s by default.'),
)
_saved = _options(
    click.option("--plot", type=_FILE, help="Save the sequence plot here."),
    click.option("--log", type=_FILE, help="Save the event log here (.parquet)."),
    click.option("--pcap", type=_FILE, help="Save a capture here (.pcapng)."),
)
_impaired = _options(
    click.option("--delay", default=0.0, help="Seconds of delay in each direction."),
    click.option("--loss", default=0.0, help="Probability of loss in each direction."),
    click.option("--rate", type=float, help="Bits per second in each direction."),
    click.option("--queue", type=int, help="Packets that may wait for the rate."),
    click.option("--seed", type=int, default=0, help="Seed of the losses."),
)


@commands.command()
@click.argument("url")
@click.option("--lab", is_flag=True, help="Fetch from the lab's own server: URL is a path.")
@_on_a_lan
@click.option("-6", "ipv6", is_flag=True, help="Over IPv6 alone.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the body here.")
@_saved
@click.option("--rtt", is_flag=True, help="Print the table of round-trip times.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds without an answer.")
@_impaired
@click.option("--kernel-congestion", default="reno", show_default=True, help="Lab: the kernel's.")
@click.option("--codec", default="struct", show_default=True, help="struct or scapy.")
def fetch(url: str, **options: Any) -> int:
    """Fetch URL with nbtcp's own TCP; the body goes to stdout unless -o says where.

    Without --lab this needs root, and the machine's own access to the internet; with --lan IFACE
    --address ADDRESS it has an address of its own there. With --lab, URL is a path such as
    /bytes/300000, fetched from the kernel's TCP in a private network.
    """
    _check_outputs(options)
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
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@click.option("--wsgi", metavar="MODULE:APP", help="Serve a WSGI application, no directory.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--public", is_flag=True, help="To others too, at this machine's own address.")
@click.option("--lab", is_flag=True, help="In the lab's private network.")
@click.option("--run", metavar="COMMAND", help="With --lab: run this there, and end with it.")
@_on_a_lan
@_saved
@_impaired
def serve(directory: str | None, **options: Any) -> int:
    """Serve DIRECTORY by HTTP with nbtcp's own TCP, until SIGINT or SIGTERM.

    Without --lab this needs root. Programs of this machine reach it, and with --public others do,
    where firewalls let them; with --lan IFACE --address ADDRESS everybody else there does. For
    --log, --pcap and --plot everything is kept in memory until the end, some 3 kB of a short
    connection.
    """
    _check_outputs(options)
    _check_way(options)
    if options["run"] and not options["lab"]:
        raise click.UsageError("--run goes with --lab: a program in the private network")
    if options["public"] and (options["lab"] or options["lan"]):
        raise click.UsageError("--public does not go with --lab, which is private, nor with --lan")
    handler = _handler(directory, options["wsgi"])
    with _host(options) as host:
        if not any(options[name] for name in ("plot", "log", "pcap")):
            host.stack.observer = None
        code = _serve(host, handler, options)
    _save_log(host.log, options)
    return code


@commands.command()
@_READ
@click.option("--kind", type=click.Choice(PICTURES), default="sequence", show_default=True)
@click.option("-o", "--output", type=_FILE, required=True)
@click.option("--conn", type=int, help="Which connection; else the one with most data.")
@click.option("--direction", help="Whose data: an address, or out or in.")
@click.option("--between", nargs=2, type=float, metavar="T0 T1", help="Only these seconds.")
def plot(file: Path, kind: str, output: Path, **which: Any) -> None:
    """Draw a picture of a saved log or a capture (pcap, pcapng, also compressed by gzip).

    The suffix of -o chooses: .png, .svg, .pdf; .csv for what is in the picture, .xpl for xplot. The
    pictures window, states and timers need what only a host of ours knows, queue a path of ours:
    a capture of others has none of it, and its reasons are inferred.

    \b
    Examples:
      nbtcp plot page.parquet -o seq.png
      nbtcp plot dump.pcap --kind rtt -o rtt.svg
      nbtcp plot dump.pcap --conn 2 --kind ladder --between 0 0.5 -o ladder.png
      nbtcp plot page.parquet --kind window -o window.csv
    """  # noqa: D301
    _check_writable(output)
    _check_plot_kind(output)
    log = _load(file)
    with _names_its_file(output):
        getattr(log.plot, kind)(**which).save(output)
    click.echo(f"saved {output}")


@commands.command()
@_READ
@click.option("-o", "--output", type=_FILE, required=True)
def convert(file: Path, output: Path) -> None:
    """Write a log or a capture as another file; the suffix of -o chooses.

    .parquet is a log with all that is known; .pcapng is for Wireshark, with the reasons, cwnd and
    RTO as packet comments, and without payload; .csv has a row per segment.

    \b
    Examples:
      nbtcp convert page.parquet -o page.pcapng
      nbtcp convert dump.pcap -o segments.csv
    """  # noqa: D301
    _check_writable(output)
    _check_suffix(output, ".parquet", ".pcapng", ".csv")
    log, suffix = _load(file), output.suffix.lower()
    with _names_its_file(output):
        if suffix == ".csv":
            log.segments.to_csv(output, index=False, lineterminator="\n")
        else:
            (log.save if suffix == ".parquet" else log.to_pcapng)(output)
    click.echo(f"saved {output}")


@commands.command()
@_READ
def rtt(file: Path) -> None:
    """Print the round-trip times in a saved log or a capture: one line per sample.

    kept says whether it counted: Karn's rule (RFC 6298 3) rejects those of segments sent again. In
    a capture a sample is the time from the capture to the receiver of the data and back.

    \b
    Examples:
      nbtcp rtt page.parquet
      nbtcp rtt dump.pcap.gz
    """  # noqa: D301
    _print_rtt(_load(file))


@commands.command()
@_READ
def stats(file: Path) -> None:
    """Print statistics of a saved log or a capture: per connection, of both directions.

    "seen by" says from where: numbers at the sender and at the receiver differ when segments are
    lost, and in a capture they are those of its place. "-" is what nothing tells.

    \b
    Examples:
      nbtcp stats page.parquet
      nbtcp stats dump.pcap
    """  # noqa: D301
    import pandas as pd

    table = _load(file).directions()
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
    from .live import check_url

    _check_way(options)
    timeout = options["timeout"]
    if not options["lab"]:
        check_url(url)
        with _host(options, codec=options["codec"]) as host:
            page: Page = host.fetch(url, timeout=timeout)
        return page
    if not url.startswith("/"):
        raise click.UsageError(f"with --lab the URL is a path such as /bytes/1000, not {url!r}")
    with _host(options, options["kernel_congestion"], codec=options["codec"]) as lab:
        page = lab.fetch(url, timeout=timeout, family=6 if options["ipv6"] else 4)
    return page


def _host(options: dict[str, Any], kernel: str = "reno", **settings: Any) -> Any:
    """The Lab, the Lan or the Live that the options ask for."""
    from .lab import Lab
    from .lan import Lan
    from .live import Live

    impairments = ("delay", "loss", "rate", "queue", "seed")
    path = NetworkPath(**{name: options[name] for name in impairments})
    config = Config(**settings)
    if options["lab"]:
        return Lab(path, config=config, kernel_congestion=kernel)
    if options["lan"]:
        where = {name: options[name] for name in ("address", "gateway", "mac")}
        return Lan(options["lan"], **where, path=path, config=config)
    return Live(path, config=config, family=6 if options.get("ipv6") else None)


def _check_way(options: dict[str, Any]) -> None:
    """UsageError unless the options say one way to go, and all of it."""
    if options.get("ipv6") and options["lan"]:
        raise click.UsageError("-6 does not go with --lan, which is of IPv4")
    if options["lan"] and options["lab"]:
        raise click.UsageError("--lan and --lab are two ways: choose one")
    if options["lan"] and not options["address"]:
        raise click.UsageError("--lan needs --address: one that is free in that network")
    for name in "address", "gateway", "mac":
        if options[name] and not options["lan"]:
            raise click.UsageError(f"--{name} goes with --lan: name the card, as --lan eth0")


def _handler(directory: str | None, wsgi: str | None) -> Any:
    """What a Server answers with."""
    from .runtime.server import application, files

    if directory is not None and wsgi is None:
        return files(directory)
    if directory is not None or wsgi is None:
        raise click.UsageError("give a directory, or an application by --wsgi MODULE:APP")
    module, _, name = wsgi.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        app = getattr(import_module(module), name or "application")
    except Exception as problem:
        what = f"{type(problem).__name__}: {problem}"
        raise click.UsageError(f"{wsgi} cannot be imported: {what}") from problem
    if not callable(app):
        raise click.UsageError(f"{wsgi} is no WSGI application: it cannot be called")
    return application(app)


def _serve(host: Any, handler: Any, options: dict[str, Any]) -> int:
    """Until a signal, the end of the program to run, or of the link."""
    from .runtime.server import Server

    with Server(host, options["port"], handler) as server:
        for number in () if options["run"] else (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.ended.set())
        click.echo(f"serving at {server.url}")
        if options["public"]:
            click.echo(
                f"and for others at http://{host.publish(options['port'])}:{options['port']}/"
            )
        if options["run"]:
            return FAILED if host.run(shlex.split(options["run"])).returncode else 0
        server.ended.wait()
        if host.loop.failure is not None:
            raise NbtcpError(f"the server has ended: {host.loop.failure.strerror}")
    return 0


def _save(page: "Page | None", options: dict[str, Any]) -> None:
    """What was asked for besides the body; also when the fetch failed."""
    if page is None:
        return
    _save_log(page.log, options)
    if options["rtt"]:
        _print_rtt(page.log)


def _save_log(log: "EventLog", options: dict[str, Any]) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        "log": log.save,
        "pcap": log.to_pcapng,
        "plot": lambda path: len(log.segments) and log.plot.sequence().save(path),
    }
    for name, write in writers.items():
        if options[name]:
            with _names_its_file(options[name]):
                write(options[name])


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


def _check_outputs(options: dict[str, Any]) -> None:
    """Before anything is done: UsageError when what was asked for could not be saved."""
    outputs = [options[name] for name in ("output", "plot", "log", "pcap") if options.get(name)]
    for path in outputs:
        _check_writable(path)
    if len(set(outputs)) < len(outputs):
        raise click.UsageError("-o, --plot, --log and --pcap need a file each")
    _check_suffix(options["log"], ".parquet")
    _check_suffix(options["pcap"], ".pcapng", why=", as pcap has no place for the reasons")
    _check_plot_kind(options["plot"])


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
    if path is not None:
        from .trace.plot import SUFFIXES

        _check_suffix(path, *SUFFIXES)


def _check_suffix(path: Path | None, *known: str, why: str = "") -> None:
    """UsageError unless the name ends in one of these; None is a file that nobody asked for."""
    if path is not None and path.suffix.lower() not in known:
        raise click.UsageError(f"{path}: choose a name that ends in {' or '.join(known)}{why}")


if __name__ == "__main__":
    main()
