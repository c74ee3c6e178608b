"""The commands: parse, call, print. Exit codes: 0 up to date, 1 a table needs attention, 2 wrong config or call."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import structlog
import typer

from cdcloader import __version__, logs
from cdcloader.config import Config, load_config
from cdcloader.errors import CdcloaderError, ConfigError

if TYPE_CHECKING:
    from cdcloader.daemon import Pass
    from cdcloader.loader.table import Step
    from cdcloader.wiring import Assembly

app = typer.Typer(
    name="cdcloader",
    help="Keeps Delta Lake tables in step with the change files that AWS DMS writes to S3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CONFIG_VARIABLE = "CDCLOADER_CONFIG"
_OK, _ATTENTION, _WRONG = 0, 1, 2
_LOOKING_TABLES = 16
_PIPED_WIDTH = 200

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar=CONFIG_VARIABLE, help="The YAML file.", show_default=True)
]
DEFAULT_CONFIG = Path("cdcloader.yaml")


def main() -> None:
    """Run a command; every foreseen error is one message on stderr and an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = 130
    except ConfigError as error:
        _complain(error)
        code = _WRONG
    except CdcloaderError as error:
        _complain(error)
        code = _ATTENTION
    except Exception as error:
        # Typer raises its usage errors from a click of its own, so they are known by what they can do.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = getattr(error, "exit_code", _WRONG)
    sys.stdout.flush()
    sys.exit(code or _OK)


@app.command()
def run(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    once: Annotated[bool, typer.Option("--once", help="One pass until nothing is left, for backfills.")] = False,
    table: Annotated[list[str] | None, typer.Option("--table", "-t", help="Only this source; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: a JSON summary on stdout.")] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Poll the raw prefixes and keep the targets in step (the daemon), or do it once.

    The daemon drains at SIGTERM: it finishes the batch in hand and exits 0. A second signal ends it at once.
    """
    if as_json and not once:
        raise ConfigError("--json goes with --once", hint="the daemon's status is at /status")
    settings = _config(config)
    logs.configure(level=_level(log_level))
    stopping, received = threading.Event(), _Signals()
    from cdcloader.wiring import assemble  # Importing what does the work takes longer than a wrong config should.

    with _Handlers(stopping, received):
        assembly = assemble(settings, tables=tuple(table or ()), stopping=stopping.is_set)
        try:
            if once:
                code = _run_once(assembly, stopping, received, as_json=as_json)
            else:
                code = _run_daemon(assembly, stopping, received)
        finally:
            assembly.close()
    raise typer.Exit(code)


@app.command()
def status(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    table: Annotated[list[str] | None, typer.Option("--table", "-t", help="Only this source; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Where every table stands, worst first. Exit code 1 when a table is blocked or cannot be looked at."""
    settings = _config(config)
    logs.configure(level="ERROR")
    from cdcloader.loader.status import sort_by_trouble
    from cdcloader.wiring import assemble

    assembly = assemble(settings, tables=tuple(table or ()))
    try:
        with ThreadPoolExecutor(_LOOKING_TABLES) as pool:
            rows = sort_by_trouble(list(pool.map(lambda loader: loader.status(look=True), assembly.loaders)))
    finally:
        assembly.close()
    if as_json:
        _print_json({"tables": rows})
    else:
        _print_status(rows)
    raise typer.Exit(_ATTENTION if any(row["error"] for row in rows) else _OK)


@app.command()
def validate(*, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check the config; every fault is reported at once. Exit code 2 when there is one."""
    settings = _config(config)
    tables = f"{len(settings.tables)} table{'s' if len(settings.tables) > 1 else ''}"
    typer.echo(f"{config}: valid ({tables}, {settings.raw} -> {settings.lake})")


@app.command()
def demo(
    *,
    folder: Annotated[
        Path, typer.Option(help="Where the demo keeps its files; it replaces what it made before.")
    ] = Path("cdcloader-demo"),
) -> None:
    """Load a sample database end to end on this machine, and prove the result row for row."""
    logs.configure(level="ERROR")
    from rich.console import Console

    from cdcloader.demo import run_demo

    raise typer.Exit(run_demo(folder, console=Console(), run_loader=_load_for_demo))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _config(path: Path) -> Config:
    """The config; the variable that names its file is no setting of it."""
    return load_config(path, {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE})


def _load_for_demo(config: Path, on_batch: Any) -> int:
    """The demo's loader is the real one: the same config file, the same pass as `run --once`."""
    from cdcloader.demo.report import DemoBatch
    from cdcloader.wiring import assemble

    stopping = threading.Event()
    assembly = assemble(
        _config(config),
        on_batch=lambda source, done: on_batch(
            DemoBatch(source, done.account.rows, done.snapshot.version, sum(done.seconds.values()))
        ),
    )
    try:
        return _exit_code(_pass(assembly, stopping))
    finally:
        assembly.close()


def _pass(assembly: Assembly, stopping: threading.Event) -> list[Pass]:
    from cdcloader.daemon import run_once

    return run_once(
        assembly.loaders,
        workers=assembly.config.max_parallel_tables,
        stopping=stopping,
        lease_seconds=assembly.config.lease_seconds,
        on_wait=_say_waiting(),
    )


def _say_waiting() -> Any:
    """Say once per table why a single run waits."""
    said: set[str] = set()

    def say(source: str, step: Step) -> None:
        if source not in said:
            said.add(source)
            structlog.get_logger().info("waiting for the full load to be complete", table=source, reason=step.reason)

    return say


def _run_once(assembly: Assembly, stopping: threading.Event, received: _Signals, *, as_json: bool) -> int:
    started = time.monotonic()
    passes = _pass(assembly, stopping)
    code = received.exit_code or _exit_code(passes)
    rows = [loader.status(look=False) for loader in assembly.loaders]
    for ended, row in zip(passes, rows, strict=True):
        row["outcome"] = _outcome(ended)
        row["error"] = str(ended.error) if ended.error else row["error"]
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        _print_json({"tables": rows, "seconds": seconds, "exit_code": code, "version": __version__})
    else:
        _print_status(rows)
    return code


def _outcome(ended: Pass) -> str:
    if ended.error is not None:
        return "failed" if ended.retriable else "blocked"
    return str(ended.step.outcome) if ended.step else "stopped"


def _exit_code(passes: list[Pass]) -> int:
    from cdcloader.loader.table import Outcome

    fine = (Outcome.IDLE, Outcome.PAUSED)
    good = all(p.error is None and p.step is not None and p.step.outcome in fine for p in passes)
    return _OK if good and not any(p.loader.quarantined for p in passes) else _ATTENTION


def _run_daemon(assembly: Assembly, stopping: threading.Event, received: _Signals) -> int:
    from cdcloader.daemon import Daemon
    from cdcloader.web.app import make_app
    from cdcloader.web.server import WebServer

    config, log = assembly.config, structlog.get_logger()
    daemon = Daemon(
        assembly.loaders,
        assembly.metrics,
        workers=config.max_parallel_tables,
        poll_interval_seconds=config.poll_interval_seconds,
        stopping=stopping,
    )
    server = None
    if config.http is not None:
        pages = make_app(
            assembly.metrics,
            status=lambda: [loader.status(look=False) for loader in assembly.loaders],
            live=daemon.live,
            ready=_readiness(assembly),
        )
        server = WebServer(pages, config.http.host, config.http.port)
        server.start()
        log.info("serving /metrics, /livez, /readyz, /status", host=config.http.host, port=server.port)
    daemon.start()
    log.info("daemon started", tables=len(assembly.loaders), workers=config.max_parallel_tables)
    stopping.wait()
    log.info("draining: the batches in hand are finished", signal=received.name)
    unfinished = daemon.drain()
    if server is not None:
        server.stop()
    log.info("stopped", signal=received.name, tables=unfinished)
    if unfinished:
        # A batch that is given up before its commit is simply done again; its thread must not keep us.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_OK)
    return _OK


def _readiness(assembly: Assembly) -> Any:
    def ready() -> tuple[bool, str]:
        try:
            assembly.store.probe()
        except CdcloaderError as error:
            return False, f"state store: {error}"
        return True, f"{len(assembly.loaders)} tables, state store reachable"

    return ready


class _Signals:
    """The first signal that came."""

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name if self.number else ""

    @property
    def exit_code(self) -> int | None:
        return 128 + self.number if self.number else None


class _Handlers:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends the process at once."""

    def __init__(self, stopping: threading.Event, received: _Signals) -> None:
        self._stopping = stopping
        self._received = received
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._received.number is not None:
            self._end(number)
        self._received.number = number
        self._stopping.set()

    def _end(self, number: int) -> NoReturn:
        os._exit(128 + number)


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"unknown log level {text!r}", hint="use DEBUG, INFO, WARNING or ERROR")
    return text.upper()


def _print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, indent=2))


def _print_status(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("table", "phase", "lag", "backlog", "version", "inserted", "updated", "deleted", "quarantined"):
        shown.add_column(heading, justify="left" if heading in ("table", "phase") else "right", no_wrap=True)
    for row in rows:
        lag = "?" if row["lag_seconds"] is None else f"{row['lag_seconds']:.0f} s"
        backlog = "?" if row["backlog_files"] is None else f"{row['backlog_files']:,} files"
        counts = (f"{row[f'rows_{kind}']:,}" for kind in ("inserted", "updated", "deleted", "quarantined"))
        version_text = "-" if row["delta_version"] is None else str(row["delta_version"])
        shown.add_row(row["source"], row["phase"], lag, backlog, version_text, *counts)
    console.print(shown)
    for row in rows:
        if row["error"]:
            console.print(f"{row['source']}: {row['error']}", style="red", markup=False, soft_wrap=True)


def _complain(error: CdcloaderError) -> None:
    typer.echo(f"cdcloader: {error}", err=True)
