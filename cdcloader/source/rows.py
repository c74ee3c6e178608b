"""What DMS wrote to typed change rows, strictly: every row of a file becomes a row or a reject (pure).

`describe` says which columns some files have, `survey` which file has what; `read` reads one file as those columns,
`read_together` several small ones. A file that cannot be this table's raises TableError; a row that cannot be applied
is a reject with its number, the reason and its text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from cdcloader.changes.evolution import Policy, Seen, evolve
from cdcloader.changes.schema import VOID, Schema
from cdcloader.source.csv_layout import Layout
from cdcloader.source.csv_rows import csv_text, file_layout, read_csv
from cdcloader.source.csv_samples import sample
from cdcloader.source.inference import type_of
from cdcloader.source.parquet_rows import parquet_layout, read_parquet, read_parquet_together
from cdcloader.source.row_format import Chunk, Columns, CsvFormat, FileInput, RowFormat, is_rule_added

__all__ = ["Chunk", "CsvFormat", "FileInput", "RowFormat", "describe", "read", "read_together", "survey"]


def describe(files: Sequence[FileInput], fmt: RowFormat) -> Schema:
    """The source columns of these files in order of first appearance, without Op and helpers.

    Known types are kept, Parquet types taken (the wider one where files differ), CSV types inferred from samples.
    """
    known = {field.name: field.type for field in fmt.known}
    seen = [replace(one, type=known.get(one.name, one.type)) for one in survey(files, fmt)]
    return evolve(seen, (), Policy()).schema


def survey(files: Sequence[FileInput], fmt: RowFormat) -> list[Seen]:
    """The source columns of these files, each type of each column with the first file that has it, in order of files.

    A Parquet file tells its types. A CSV file has the types that are known, and others are inferred from samples.
    """
    known = {field.name: field.type for field in fmt.known}
    found: dict[tuple[str, str | None], str] = {}
    csv_files: list[tuple[FileInput, Layout]] = []
    names = tuple(known)
    for file in (file for file in files if file.size):
        kinds: dict[str, str | None]
        if file.format == "csv":
            layout = _csv_layout(file, fmt, names)
            if layout is None:
                continue
            csv_files.append((file, layout))
            kinds = {name: known.get(name) or _helper_type(name, layout.columns) for name in layout.columns.source}
        else:
            columns = parquet_layout(file, fmt, names)
            kinds = {name: columns.types[name] for name in columns.columns.source}
        for one in kinds.items():
            found.setdefault(one, file.name)
        names = tuple(dict.fromkeys([*names, *kinds]))
    return _typed(found, csv_files, fmt)


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
        if kind == "csv":
            for file in neighbours:
                yield from read(file, fmt, schema, chunk_bytes=chunk_bytes)
        else:
            yield from read_parquet_together(list(neighbours), fmt, schema, chunk_bytes=chunk_bytes, only=only)


def _csv_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> Layout | None:
    with csv_text(file) as stream:
        return file_layout(stream, file, fmt, names)


def _helper_type(name: str, columns: Columns) -> str | None:
    """Kept helper columns of CSV files are text, and not inferred: their digits are identifiers."""
    return "string" if name in (columns.op, columns.time) or is_rule_added(name, columns.names) else None


def _typed(
    found: Mapping[tuple[str, str | None], str], csv_files: Sequence[tuple[FileInput, Layout]], fmt: RowFormat
) -> list[Seen]:
    """What was found, with the types of the columns that have none yet: CSV takes that of a Parquet file beside it."""
    typed = {name for name, kind in found if kind is not None}
    open_names = [name for name, kind in found if kind is None and name not in typed]
    samples = sample(csv_files, open_names, fmt.csv) if open_names else {}
    kinds = {name: type_of(samples[name], fmt.timestamp_type) for name in open_names}
    return [Seen(file, name, kind or kinds.get(name, VOID)) for (name, kind), file in found.items()]
