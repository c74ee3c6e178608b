"""The commands that only look: status, validate, version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from cdcloader import __version__, logs
from cdcloader.cli.app import (
    ATTENTION,
    DEFAULT_CONFIG,
    OK,
    ConfigOption,
    TablesOption,
    app,
    print_json,
    print_status,
    read_config,
)
from cdcloader.config.memory_limit import budget_mb, budget_warning

_LOOKING_TABLES = 16


@app.command()
def status(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    table: TablesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Where every table stands, worst first. Exit code 1 when a table is blocked or cannot be looked at."""
    settings = read_config(config)
    logs.configure(level="ERROR")
    from cdcloader.loader.status import sort_by_trouble
    from cdcloader.wiring import assemble

    assembly = assemble(settings, tables=tuple(table or ()))
    try:
        with ThreadPoolExecutor(_LOOKING_TABLES) as pool:
            rows = list(pool.map(lambda loader: loader.status(look=True), assembly.loaders))
        rows = sort_by_trouble([*rows, *assembly.troubles()])
    finally:
        assembly.close()
    if as_json:
        print_json({"tables": rows})
    else:
        print_status(rows)
    raise typer.Exit(ATTENTION if any(row["error"] for row in rows) else OK)


@app.command()
def validate(*, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Check the config; every fault is reported at once. Exit code 2 when there is one."""
    settings = read_config(config)
    from cdcloader.loader.columns import check_expressions

    check_expressions(settings.tables)
    counts = [(len(settings.exact), "table"), (len(settings.patterns), "pattern")]
    tables = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)
    budget = budget_mb(settings.memory_budget_mb)
    typer.echo(f"{config}: valid ({tables}, {settings.raw} -> {settings.lake})")
    typer.echo(f"memory budget: {budget} MiB")
    if warning := budget_warning(settings.memory_budget_mb):
        typer.echo(f"cdcloader: {warning}", err=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
