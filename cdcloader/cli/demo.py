"""`cdcloader demo`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from cdcloader import logs
from cdcloader.cli.app import app, read_config
from cdcloader.cli.run import exit_code_of, single_pass


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


def _load_for_demo(config: Path, on_batch: Any) -> int:
    """The demo's loader is the real one: the same config file, the same pass as `run --once`."""
    from cdcloader.demo.report import DemoBatch
    from cdcloader.wiring import assemble

    stopping = threading.Event()
    assembly = assemble(
        read_config(config),
        on_batch=lambda source, done: on_batch(
            DemoBatch(source, done.account.rows, done.snapshot.version, sum(done.seconds.values()))
        ),
    )
    try:
        return exit_code_of(single_pass(assembly, stopping))
    finally:
        assembly.close()
