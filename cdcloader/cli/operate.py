"""The commands that change where a table stands: pause, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcloader import logs
from cdcloader.cli.app import DEFAULT_CONFIG, ConfigOption, app, print_json, read_config
from cdcloader.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cdcloader.loader.context import Context
    from cdcloader.state.record import Record
    from cdcloader.state.store import StateStore

    Order = Callable[[Context, StateStore], Record]

TableArgument = Annotated[str, typer.Argument(metavar="TABLE", help="The source, schema/table.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command()
def pause(table: TableArgument, *, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Apply nothing more to a table until it is resumed; a batch in hand is finished.

    A running daemon obeys at its next poll.
    """
    from cdcloader.loader import orders

    _give(config, table, orders.pause, "paused", as_json=as_json)


@app.command()
def resume(
    table: TableArgument,
    *,
    skip: Annotated[str | None, typer.Option(help="Move past this raw file, and remember that.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Load a paused table again, and try a blocked one at once; a running daemon obeys at its next poll.

    With --skip the file is never applied as it is now; if it is replaced, the new one is.
    """
    from cdcloader.loader import orders

    if skip is None:
        _give(config, table, orders.resume, "resumed", as_json=as_json)
        return
    file = skip
    _give(
        config,
        table,
        lambda context, store: orders.skip(context, store, file),
        f"resumed without {file}",
        as_json=as_json,
    )


def _give(path: Path, source: str, order: Order, done: str, *, as_json: bool) -> None:
    """Give an order and say how the record stands."""
    settings = read_config(path)
    if settings.state.kind == "memory":
        raise ConfigError("a state in memory hears no orders", where="state.kind", hint="use sqlite or dynamodb")
    logs.configure(level="ERROR")
    from cdcloader.wiring import assemble

    assembly = assemble(settings, tables=(source,))
    try:
        context = assembly.loaders[0].context
        record = order(context, assembly.store)
    finally:
        assembly.close()
    if as_json:
        print_json(_told(context.table.source, record))
    else:
        typer.echo(f"{context.table.source}: {done}")


def _told(source: str, record: Record) -> dict[str, Any]:
    return {
        "source": source,
        "active": record.active,
        "phase": str(record.phase if record.active else "paused"),
        "skipped_files": sorted(record.skipped_files),
    }
