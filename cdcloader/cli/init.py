"""`cdcloader init`: looks at a prefix and writes a config for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdcloader import logs
from cdcloader.cli.app import CONFIG_VARIABLE, DEFAULT_CONFIG, app
from cdcloader.config import load_config
from cdcloader.config.values import place
from cdcloader.errors import ConfigError

if TYPE_CHECKING:
    from cdcloader.loader.survey import Surveyed

_STDOUT = "-"


@app.command()
def init(
    raw: Annotated[str, typer.Argument(metavar="RAW", help="What DMS writes to: s3://bucket/prefix or a folder.")],
    *,
    output: Annotated[str, typer.Option(help="The file to write; - is stdout.")] = str(DEFAULT_CONFIG),
    lake: Annotated[str, typer.Option(help="Where the Delta tables shall go.")] = "./lake",
    state: Annotated[
        str, typer.Option(help="dynamodb, dynamodb:TABLE, or the path of a SQLite file.")
    ] = "./cdcloader.db",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Look at what lies under RAW and write a config for it, key columns guessed and marked for review.

    Reads listings and the heads of two files per table; writes nothing but the config.
    """
    if output != _STDOUT and Path(output).exists() and not force:
        raise ConfigError("the file exists already", where=output, hint="--force overwrites it")
    logs.configure(level="ERROR")
    location = _place(raw, "RAW")
    from cdcloader.loader.survey import survey
    from cdcloader.objects import Objects

    found = survey(Objects.open(location))
    text = _text(raw if location.startswith("s3://") else location, _place(lake, "--lake"), lake, state, found)
    _check(text)
    if output == _STDOUT:
        typer.echo(text, nl=False)
    else:
        Path(output).write_text(text, encoding="utf-8")
    _say(found, output)


def _place(text: str, what: str) -> str:
    try:
        return place(text)
    except ValueError as error:
        raise ConfigError(str(error), where=what) from error


def _text(raw: str, lake_place: str, lake: str, state: str, found: Surveyed) -> str:
    from cdcloader.cli.config_text import config_text

    kind, _, table = state.partition(":")
    stored = {"kind": "dynamodb", **({"table": table} if table else {})} if kind == "dynamodb" else None
    try:
        return config_text(raw, lake if lake_place else "", stored or {"kind": "sqlite", "path": state}, found)
    except ValueError as error:
        hint = "RAW is the folder above the schemas: RAW/schema/table/LOAD00000001.parquet"
        raise ConfigError(str(error), where=raw, hint=hint) from error


def _check(text: str) -> None:
    """ConfigError when the text is no config after all, as where the lake lies inside raw."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text, encoding="utf-8")
        load_config(path, {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE})


def _say(found: Surveyed, output: str) -> None:
    """What comes next, on stderr, because stdout may be the config."""
    from cdcloader.source.survey import counted

    keyless = sum(not table.primary_key for table in found.tables)
    words = f"{counted(len(found.tables), 'table')} found"
    words += f", {keyless:,} of them without a key that could be guessed" if keyless else ""
    words += f"; not understood: {counted(len(found.unread), 'folder')}" if found.unread else ""
    typer.echo(f"cdcloader: {words}", err=True)
    if output != _STDOUT:
        typer.echo(f"cdcloader: {output} is written; check what is marked review, then: cdcloader run --once", err=True)
