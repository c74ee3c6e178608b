"""`cdcloader run`: the daemon, and the single pass."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from cdcloader import __version__, logs
from cdcloader.cli.app import (
    ATTENTION,
    DEFAULT_CONFIG,
    OK,
    WRONG,
    ConfigOption,
    TablesOption,
    app,
    print_json,
    print_status,
    read_config,
)
from cdcloader.cli.signals import Handlers, Signals
from cdcloader.errors import CdcloaderError, ConfigError, TableError, TransientError, Treatment, treatment

if TYPE_CHECKING:
    from cdcloader.loader.steps import Step
    from cdcloader.turns import Pass
    from cdcloader.wiring import Assembly

# How often the daemon's main thread looks whether a signal has come.
_LOOK_SECONDS = 0.25


@app.command()
def run(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    once: Annotated[bool, typer.Option("--once", help="One pass until nothing is left, for backfills.")] = False,
    table: TablesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: a JSON summary on stdout.")] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Poll the raw prefixes and keep the targets in step (the daemon), or do it once.

    The daemon drains at SIGTERM: it finishes the batch in hand and exits 0. A second signal ends it at once.
    """
    if as_json and not once:
        raise ConfigError("--json goes with --once", hint="the daemon's status is at /status")
    settings = read_config(config)
    logs.configure(level=_level(log_level))
    stopping, received = threading.Event(), Signals()
    from cdcloader.wiring import assemble  # Importing what does the work takes longer than a wrong config should.

    with Handlers(stopping, received):
        assembly = assemble(settings, tables=tuple(table or ()), stopping=stopping.is_set)
        try:
            _prove_server(assembly)
            if once:
                code = _run_once(assembly, stopping, received, as_json=as_json)
            else:
                code = _run_daemon(assembly, stopping, received)
        finally:
            assembly.close()
    raise typer.Exit(code)


def _prove_server(assembly: Assembly) -> None:
    """ConfigError when the lake's server would lose commits.

    Whatever else goes wrong is each table's to tell, and the first commit asks again.
    """
    with contextlib.suppress(TableError, TransientError):
        assembly.lake.prove_create()


def single_pass(assembly: Assembly, stopping: threading.Event) -> list[Pass]:
    """Every table until nothing is left."""
    from cdcloader.turns import run_once

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


def _run_once(assembly: Assembly, stopping: threading.Event, received: Signals, *, as_json: bool) -> int:
    started = time.monotonic()
    passes = single_pass(assembly, stopping)
    troubles = assembly.troubles()
    code = received.exit_code or exit_code_of(passes) or (ATTENTION if troubles else OK)
    rows = [loader.status(look=False) for loader in assembly.loaders]
    for ended, row in zip(passes, rows, strict=True):
        row["outcome"] = _outcome(ended)
        row["error"] = str(ended.error) if ended.error else row["error"]
    rows += [trouble | {"outcome": "blocked"} for trouble in troubles]
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        print_json({"tables": rows, "seconds": seconds, "exit_code": code, "version": __version__})
    else:
        print_status(rows)
    return code


def _outcome(ended: Pass) -> str:
    if ended.error is not None:
        return "failed" if ended.retriable else "blocked"
    return str(ended.step.outcome) if ended.step else "stopped"


def exit_code_of(passes: list[Pass]) -> int:
    """What a pass tells the shell."""
    from cdcloader.loader.steps import Outcome

    if any(p.error is not None and treatment(p.error) is Treatment.EXIT for p in passes):
        return WRONG
    fine = (Outcome.IDLE, Outcome.PAUSED)
    good = all(p.error is None and p.step is not None and p.step.outcome in fine for p in passes)
    quarantined = any(p.loader.quarantined or p.loader.context.transactions.quarantined for p in passes)
    return OK if good and not quarantined else ATTENTION


def _run_daemon(assembly: Assembly, stopping: threading.Event, received: Signals) -> int:
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
        watchdog=assembly.watchdog,
        replica=assembly.replica,
        discover=assembly.discover if assembly.grows else None,
    )
    server = None
    if config.http is not None:
        pages = make_app(
            assembly.metrics,
            status=lambda: _status_of(assembly),
            live=daemon.live,
            ready=_readiness(assembly),
        )
        server = WebServer(pages, config.http.host, config.http.port)
        server.start()
        log.info("serving /metrics, /livez, /readyz, /status", host=config.http.host, port=server.port)
    daemon.start()
    log.info(
        "daemon started",
        tables=len(assembly.loaders),
        workers=config.max_parallel_tables,
        memory_budget_mb=assembly.budget_mb,
    )
    while not stopping.is_set():
        # Not `stopping.wait()`: Python's handlers run in this thread, which a signal that another thread has taken
        # (one that came while the process was stopped, for instance) does not wake.
        time.sleep(_LOOK_SECONDS)
        daemon.keep_time()
    log.info("draining: the batches in hand are finished", signal=received.name)
    unfinished = daemon.drain()
    if server is not None:
        server.stop()
    log.info("stopped", signal=received.name, tables=unfinished)
    if unfinished:
        # A batch that is given up before its commit is simply done again; its thread must not keep us.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OK)
    return OK


def _status_of(assembly: Assembly) -> list[dict[str, Any]]:
    """Where each table stands, with the replica that looks after it."""
    tables = [
        loader.status(look=False) | {"owner": assembly.replica.owner(loader.context.path)}
        for loader in assembly.loaders
    ]
    return [*tables, *(trouble | {"owner": None} for trouble in assembly.troubles())]


def _readiness(assembly: Assembly) -> Any:
    def ready() -> tuple[bool, str]:
        try:
            assembly.store.probe()
        except CdcloaderError as error:
            return False, f"state store: {error}"
        return True, f"{len(assembly.loaders)} tables, state store reachable"

    return ready


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"unknown log level {text!r}", hint="use DEBUG, INFO, WARNING or ERROR")
    return text.upper()
