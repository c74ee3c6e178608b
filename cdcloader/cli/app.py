"""What every command shares: the application, its options, its exit codes, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cdcloader.allocators import TIGHT_MB, return_at_once
from cdcloader.config import Config, load_config
from cdcloader.config.memory_limit import budget_mb
from cdcloader.errors import CdcloaderError

app = typer.Typer(
    name="cdcloader",
    help="Keeps Delta Lake tables in step with the change files that AWS DMS writes to S3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CONFIG_VARIABLE = "CDCLOADER_CONFIG"
DEFAULT_CONFIG = Path("cdcloader.yaml")
OK, ATTENTION, WRONG = 0, 1, 2
_PIPED_WIDTH = 200

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar=CONFIG_VARIABLE, help="The YAML file.", show_default=True)
]
TablesOption = Annotated[list[str] | None, typer.Option("--table", "-t", help="Only this source; may be repeated.")]


def read_config(path: Path) -> Config:
    """The config; the variable that names its file is no setting of it.

    Polars' allocator takes its settings when Polars is imported, which no command does before it has its config.
    """
    config = load_config(path, {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE})
    if budget_mb(config.memory_budget_mb) < TIGHT_MB:
        return_at_once()
    return config


def print_json(data: dict[str, Any]) -> None:
    """A command's result on stdout, for programs."""
    typer.echo(json.dumps(data, indent=2))


def complain(error: CdcloaderError) -> None:
    """An error on stderr, for people."""
    typer.echo(f"cdcloader: {error}", err=True)


def print_status(rows: list[dict[str, Any]]) -> None:
    """The tables on stdout, for people."""
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
        elif row["note"]:
            console.print(f"{row['source']}: {row['note']}", style="yellow", markup=False, soft_wrap=True)
