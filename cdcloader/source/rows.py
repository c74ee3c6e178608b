"""What DMS wrote to typed change rows, strictly: every row of a file becomes a row or a reject (pure).

`describe` says which columns some files have, `read` reads one file as those columns, `read_together` several small
ones. A file that cannot be this table's raises TableError; a row that cannot be applied is a reject with its number,
the reason and its text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby

from cdcloader.changes.schema import Field, Schema, fits
from cdcloader.errors import TableError
from cdcloader.source.csv_layout import Layout
from cdcloader.source.csv_rows import file_layout, read_csv
from cdcloader.source.csv_samples import sample
from cdcloader.source.inference import Evidence, type_of
from cdcloader.source.json_rows import json_layout, read_json
from cdcloader.source.parquet_rows import parquet_layout, read_parquet, read_parquet_together
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import Chunk, Columns, CsvFormat, FileInput, RowFormat, is_rule_added

__all__ = ["TEXT_FORMATS", "Chunk", "CsvFormat", "FileInput", "RowFormat", "describe", "read", "read_together"]

# Their types are not written in them.
TEXT_FORMATS = ("csv", "json")


def describe(files: Sequence[FileInput], fmt: RowFormat) -> Schema:
    """The source columns of these files in order of first appearance, without Op and helpers.

    Known types are kept, Parquet types taken (the wider one where files differ), those of CSV inferred from samples,
    and of JSON from all values.
    """
    known = {field.name: field.type for field in fmt.known}
    types: dict[str, str | None] = {}
    origin: dict[str, str] = {}
    csv_files: list[tuple[FileInput, Layout]] = []
    seen: dict[str, Evidence] = {}
    for file in (file for file in files if file.size):
        names = tuple(dict.fromkeys([*known, *types]))
        if file.format == "csv":
            layout = _csv_layout(file, fmt, names)
            if layout is not None:
                csv_files.append((file, layout))
                _note_text_columns(types, known, layout.columns, fmt)
            continue
        if file.format == "json":
            told = json_layout(file, fmt, names)
            if told is not None:
                _note_text_columns(types, known, told.columns, fmt)
                seen |= {name: seen.get(name, Evidence()) | more for name, more in told.seen.items()}
            continue
        found = parquet_layout(file, fmt, names)
        for name in found.columns.source:
            wider = known.get(name) or _wider(name, types.get(name), found.types[name], origin.get(name, ""), file.name)
            if wider != types.get(name):
                types[name], origin[name] = wider, file.name
    return _typed(types, csv_files, seen, fmt)


def read(
    file: FileInput,
    fmt: RowFormat,
    schema: Schema,
    *,
    inferred: frozenset[str] = frozenset(),
    chunk_bytes: int,
    only: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """The rows of one file as `schema` (all of its described columns), in chunks of about `chunk_bytes`.

    A value that does not fit a column in `inferred` is no reject: the chunk's `misfits` names the wider type,
    and its rows are not complete. Who needs `only` some columns gets these at least, and the same rows and rejects.
    """
    if file.size == 0:
        return iter(())
    if file.format == "csv":
        return read_csv(file, fmt, schema, inferred=inferred, chunk_bytes=chunk_bytes)
    if file.format == "json":
        return read_json(file, fmt, schema, inferred=inferred, chunk_bytes=chunk_bytes)
    return read_parquet(file, fmt, schema, chunk_bytes=chunk_bytes, only=only)


def read_together(
    files: Sequence[FileInput],
    fmt: RowFormat,
    schema: Schema,
    *,
    chunk_bytes: int,
    only: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """The rows of small files, in order, as `read` gives them; a chunk may hold the rows of several files.

    A chunk with rejects is of one file.
    """
    for kind, neighbours in groupby((file for file in files if file.size), key=lambda file: file.format):
        if kind in TEXT_FORMATS:
            for file in neighbours:
                yield from read(file, fmt, schema, chunk_bytes=chunk_bytes)
        else:
            yield from read_parquet_together(list(neighbours), fmt, schema, chunk_bytes=chunk_bytes, only=only)


def _csv_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> Layout | None:
    with raw_text(file) as stream:
        return file_layout(stream, file, fmt, names)


def _note_text_columns(
    types: dict[str, str | None], known: Mapping[str, str], columns: Columns, fmt: RowFormat
) -> None:
    for name in columns.source:
        types[name] = types.get(name) or known.get(name) or _helper_type(name, columns, fmt)


def _helper_type(name: str, columns: Columns, fmt: RowFormat) -> str | None:
    """Kept helper columns of CSV and JSON files are text, and not inferred: their digits are identifiers."""
    is_helper = name in (columns.op, columns.time) or is_rule_added(name, columns.names, fmt.before_image)
    return "string" if is_helper else None


def _wider(name: str, old: str | None, new: str, old_file: str, new_file: str) -> str:
    if old is None or fits(old, new):
        return new
    if fits(new, old):
        return old
    raise TableError(
        f"column {name!r} has type {old} in {old_file} and {new} in {new_file}",
        where=new_file,
        hint="set the column's type under `columns`, or have DMS load the table again",
    )


def _typed(
    types: dict[str, str | None],
    csv_files: Sequence[tuple[FileInput, Layout]],
    seen: Mapping[str, Evidence],
    fmt: RowFormat,
) -> Schema:
    open_names = [name for name, kind in types.items() if kind is None]
    sampled = sample(csv_files, open_names, fmt.csv) if open_names else {}
    all_seen = {name: sampled[name] | seen.get(name, Evidence()) for name in open_names}
    return tuple(Field(name, kind or type_of(all_seen[name], fmt.timestamp_type)) for name, kind in types.items())
