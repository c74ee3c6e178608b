"""What DMS wrote to typed change rows, strictly: every row of a file becomes a row or a reject (pure).

`describe` says which columns some files have, `survey` which file has what; `read` reads one file as those columns,
`read_together` several small ones. A file that cannot be this table's raises TableError; a row that cannot be applied
is a reject with its number, the reason and its text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import polars as pl

from cdcloader.changes.evolution import Policy, Seen, evolve
from cdcloader.changes.net import ROW
from cdcloader.changes.schema import VOID, Schema
from cdcloader.source.csv_layout import Layout
from cdcloader.source.csv_rows import file_layout, read_csv
from cdcloader.source.csv_samples import sample
from cdcloader.source.inference import Evidence, type_of
from cdcloader.source.json_rows import json_layout, read_json
from cdcloader.source.parquet_rows import parquet_layout, read_parquet, read_parquet_together
from cdcloader.source.raw_text import raw_text
from cdcloader.source.row_format import Chunk, Columns, CsvFormat, FileInput, RowFormat, is_rule_added

__all__ = [
    "TEXT_FORMATS",
    "Chunk",
    "CsvFormat",
    "FileInput",
    "RowFormat",
    "describe",
    "read",
    "read_together",
    "survey",
]

# Their types are not written in them.
TEXT_FORMATS = ("csv", "json")


def describe(files: Sequence[FileInput], fmt: RowFormat) -> Schema:
    """The source columns of these files in order of first appearance, without Op and helpers.

    Known types are kept, Parquet types taken (the wider one where files differ), those of CSV inferred from samples,
    and of JSON from all values.
    """
    known = {field.name: field.type for field in fmt.known}
    seen = [replace(one, type=known.get(one.name, one.type)) for one in survey(files, fmt)]
    return evolve(seen, (), Policy()).schema


def survey(files: Sequence[FileInput], fmt: RowFormat) -> list[Seen]:
    """The source columns of these files, each type of each column with the first file that has it, in order of files.

    A Parquet file tells its types. In CSV and JSON they are those that are known; values tell the others.
    """
    surveyed = _Survey(fmt, {field.name: field.type for field in fmt.known})
    for file in files:
        if file.size:
            surveyed.add(file)
    return surveyed.seen()


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
        chunks = read_csv(file, fmt, schema, inferred=inferred, chunk_bytes=chunk_bytes)
        return _numbered(chunks, file.numbers) if file.numbers else chunks
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


def _numbered(chunks: Iterator[Chunk], numbers: Callable[[], npt.NDArray[np.int64]]) -> Iterator[Chunk]:
    """The chunks of a part of a file, with the numbers that its rows have in the whole file."""
    number_of = pl.Series(numbers())
    for chunk in chunks:
        rows = chunk.rows.with_columns(number_of.gather(chunk.rows[ROW] - 1).alias(ROW))
        rejects = chunk.rejects.with_columns(number_of.gather(chunk.rejects["row"] - 1).alias("row"))
        yield replace(chunk, rows=rows, rejects=rejects)


def _csv_layout(file: FileInput, fmt: RowFormat, names: Sequence[str]) -> Layout | None:
    with raw_text(file) as stream:
        return file_layout(stream, file, fmt, names)


def _helper_type(name: str, columns: Columns, fmt: RowFormat) -> str | None:
    """Kept helper columns of CSV and JSON files are text, and not inferred: their digits are identifiers."""
    is_helper = name in (columns.op, columns.time) or is_rule_added(name, columns.names, fmt.before_image)
    return "string" if is_helper else None


class _Survey:
    """What was found so far: the first file of each column and type; None is a type that values will tell."""

    def __init__(self, fmt: RowFormat, known: Mapping[str, str]) -> None:
        self._fmt, self._known = fmt, known
        self._names = tuple(known)
        self._found: dict[tuple[str, str | None], str] = {}
        self._csv_files: list[tuple[FileInput, Layout]] = []
        self._json_values: dict[str, Evidence] = {}

    def add(self, file: FileInput) -> None:
        """Look at one more file."""
        kinds = self._kinds(file)
        for one in kinds.items():
            self._found.setdefault(one, file.name)
        self._names = tuple(dict.fromkeys([*self._names, *kinds]))

    def seen(self) -> list[Seen]:
        """What was found, with all types: text takes that of a Parquet file beside it, or its values tell."""
        typed = {name for name, kind in self._found if kind is not None}
        open_names = [name for name, kind in self._found if kind is None and name not in typed]
        sampled = sample(self._csv_files, open_names, self._fmt.csv) if open_names else {}
        values = {name: sampled[name] | self._json_values.get(name, Evidence()) for name in open_names}
        kinds = {name: type_of(value, self._fmt.timestamp_type) for name, value in values.items()}
        return [Seen(file, name, kind or kinds.get(name, VOID)) for (name, kind), file in self._found.items()]

    def _kinds(self, file: FileInput) -> dict[str, str | None]:
        if file.format == "csv":
            layout = _csv_layout(file, self._fmt, self._names)
            if layout is None:
                return {}
            self._csv_files.append((file, layout))
            return self._of_text(layout.columns)
        if file.format == "json":
            told = json_layout(file, self._fmt, self._names)
            if told is None:
                return {}
            self._json_values |= {n: self._json_values.get(n, Evidence()) | more for n, more in told.seen.items()}
            return self._of_text(told.columns)
        found = parquet_layout(file, self._fmt, self._names)
        return {name: found.types[name] for name in found.columns.source}

    def _of_text(self, columns: Columns) -> dict[str, str | None]:
        return {name: self._known.get(name) or _helper_type(name, columns, self._fmt) for name in columns.source}
