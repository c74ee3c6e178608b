"""`cdcloader verify`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cdcloader import logs
from cdcloader.cli.app import ATTENTION, DEFAULT_CONFIG, OK, ConfigOption, app, print_json, read_config
from cdcloader.errors import CdcloaderError, ConfigError

if TYPE_CHECKING:
    from cdcloader.loader.table import TableLoader
    from cdcloader.loader.verify import Verified
    from cdcloader.wiring import Assembly


@app.command()
def verify(
    *,
    table: Annotated[
        list[str] | None, typer.Argument(help="The sources (schema/table) to verify; none: every table.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare only the number of rows and a hash over their keys.")
    ] = False,
    show_keys: Annotated[
        bool,
        typer.Option("--show-keys", help="Name up to 10 keys that differ; else no value of a row is shown or logged."),
    ] = False,
    table_version: Annotated[
        int | None, typer.Option(min=0, help="The Delta version of the target; default: the newest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Recompute targets from their raw files and compare them row for row; read-only, also beside a running loader.

    Exit code 1 when a table differs, or cannot be verified because raw files or log entries that it needs are gone.
    """
    settings = read_config(config)
    if table_version is not None and len(table or ()) != 1:
        raise ConfigError("--table-version goes with one table", hint="name it; verify others one after the other")
    logs.configure(level="WARNING")
    from cdcloader.loader.verify import as_json as told_as_json
    from cdcloader.wiring import assemble

    found: list[Verified] = []
    assembly = assemble(settings, tables=tuple(dict.fromkeys(table or ())), only_reads=True)
    try:
        for loader in assembly.loaders:
            found.append(_verified(assembly, loader, quick=quick, version=table_version))
            if not as_json:
                _print(found[-1], show_keys=show_keys)
    finally:
        assembly.close()
    if as_json:
        print_json({"tables": [told_as_json(one, show_keys=show_keys) for one in found]})
    raise typer.Exit(OK if all(one.equal for one in found) else ATTENTION)


def _verified(assembly: Assembly, loader: TableLoader, *, quick: bool, version: int | None) -> Verified:
    from cdcloader.loader.verify import verify as verify_table

    record = None
    notes: tuple[str, ...] = ()
    try:
        record = assembly.store.get(loader.context.path)
    except CdcloaderError as error:
        # The log tells nearly all; what it does not tell, the result says.
        notes = (f"the state record cannot be read: {error.what}",)
    budget_bytes = assembly.budget_mb << 20
    found = verify_table(loader.context, record, budget_bytes=budget_bytes, quick=quick, version=version)
    return replace(found, notes=(*notes, *found.notes))


def _print(found: Verified, *, show_keys: bool) -> None:
    """The result for people: a line, and below it what there is to say."""
    from cdcloader.loader.verify import ADVICE

    difference = found.difference
    keys = "their keys compared by hash" if found.keyed else "and nothing else compared: there is no primary key"
    what = f"rows counted, {keys}" if found.quick else "rows"
    at = f"version {found.version}" if found.version is not None else "no version"
    if not found.verified:
        typer.echo(f"{found.source}: cannot be verified: {found.reason}")
        if found.hint:
            typer.echo(f"  {found.hint}")
    elif found.equal:
        typer.echo(
            f"{found.source}: equal: {difference.actual:,} {what}; {found.files:,} raw files with {found.rows_in:,} "
            f"rows, {at}, read by {found.reader}, {found.seconds:.1f} s"
        )
    else:
        typer.echo(
            f"{found.source}: DIFFERENT: {', '.join(_counts(found))}; {difference.expected:,} rows expected, "
            f"{difference.actual:,} found; {found.files:,} raw files with {found.rows_in:,} rows, {at}, "
            f"read by {found.reader}, {found.seconds:.1f} s"
        )
        if difference.columns:
            typer.echo(f"  columns: {', '.join(f'{name} ({n:,})' for name, n in sorted(difference.columns.items()))}")
        for key in difference.keys if show_keys else ():
            typer.echo(f"  key: {', '.join(key)}")
        typer.echo(f"  {ADVICE}")
    for note in found.notes:
        typer.echo(f"  note: {note}")


def _counts(found: Verified) -> list[str]:
    difference = found.difference
    named = {
        "missing": difference.missing,
        "surplus": difference.surplus,
        "with other values": difference.changed,
        "beyond the first of their key": difference.duplicates,
    }
    counts = [f"{count:,} {'row' if count == 1 else 'rows'} {name}" for name, count in named.items() if count]
    return counts or ["other keys"]
