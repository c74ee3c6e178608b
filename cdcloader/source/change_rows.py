"""A file's typed columns to change rows: the operation, the order columns, the rules for every row (pure)."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from cdcloader.changes.net import DELETE, FILE, INSERT, OP, ROW, SEQ, TIME, UPDATE
from cdcloader.changes.schema import Schema, polars_type
from cdcloader.source.row_format import REJECT_SCHEMA, Chunk, Columns, FileInput, RowFormat
from cdcloader.source.text_values import parse_times

_LETTERS = (INSERT, UPDATE, DELETE)
# As Op has them, and as AR_H_OPERATION does.
OPERATIONS = {
    INSERT: INSERT, UPDATE: UPDATE, DELETE: DELETE, "INSERT": INSERT, "UPDATE": UPDATE, "DELETE": DELETE,
}  # fmt: skip


def is_clean(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> bool:
    """Whether every row meets the rules as it stands, found without looking at single rows."""
    if any(frame.get_column(name).null_count() for name in fmt.primary_key or ()):
        return False
    if columns.op is None:
        return True
    op = frame.get_column(columns.op)
    if file.kind == "load" or fmt.primary_key is None:
        return not op.null_count() and bool((op == INSERT).all())
    return not op.null_count() and bool(op.is_in(_LETTERS).all())


def normal_op(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> pl.DataFrame:
    """The frame with its Op column as letters: trimmed, in capitals, and words shortened.

    A column that a DMS rule adds as Op (`op_column`) may be empty in a full load, which only inserts.
    """
    if columns.op is None:
        return frame
    op = pl.col(columns.op).str.strip_chars().str.to_uppercase().replace(OPERATIONS)
    if file.kind == "load" and fmt.op_column is not None:
        op = op.replace("", None).fill_null(INSERT)
    return frame.with_columns(op)


def short_op(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> pl.DataFrame:
    """The frame with an `op_column` normalised: its words would else be taken for faults, and looked at twice."""
    return frame if fmt.op_column is None else normal_op(frame, columns, file, fmt)


def faults(columns: Columns, file: FileInput, fmt: RowFormat) -> pl.Expr:
    """Why a row (its Op normalised) breaks a rule; NULL where it breaks none."""
    found = []
    if columns.op is not None:
        op = pl.col(columns.op)
        text = pl.format("Op '{}' is none of I, U, D", op.fill_null(""))
        found.append(pl.when(op.is_null() | ~op.is_in(_LETTERS)).then(text))
        if file.kind == "load":
            found.append(pl.when(op != INSERT).then(pl.format("Op '{}' in a full load, which only inserts", op)))
        elif fmt.primary_key is None:
            found.append(pl.when(op != INSERT).then(pl.format("{} needs a primary key; the table has none", op)))
    found += [
        pl.when(pl.col(name).is_null()).then(pl.lit(f"NULL in key column '{name}'")) for name in fmt.primary_key or ()
    ]
    return pl.coalesce(*found, pl.lit(None, pl.String))


def change_rows(
    frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat, schema: Schema, numbers: pl.Series
) -> pl.DataFrame:
    """The schema's columns, then `OP`, `FILE`, `ROW`, the `SEQ` columns and `TIME`."""
    height = frame.height
    op = _constant(INSERT, pl.String(), height)
    if columns.op is not None and file.kind == "cdc":
        op = frame.get_column(columns.op)
    op_names = {"op", (fmt.op_column or "op").lower()}
    kept_op = {name for name in fmt.keep_columns if name.lower() in op_names} if columns.op is None else set()
    made: dict[str, pl.Series] = {}
    for field in schema:
        if field.name in columns.source:
            made[field.name] = frame.get_column(field.name)
        else:
            made[field.name] = op if field.name in kept_op else _constant(None, polars_type(field.type), height)
    made[OP] = op
    made[FILE] = _constant(file.ordinal, pl.UInt32(), height)
    made[ROW] = numbers
    made |= {f"{SEQ}{place}": _sequence(frame.get_column(name)) for place, name in enumerate(fmt.sequence_by)}
    made[TIME] = _times(frame, columns)
    return pl.DataFrame([column.alias(name) for name, column in made.items()])


def _constant(value: object, dtype: pl.DataType, height: int) -> pl.Series:
    return pl.Series([value], dtype=dtype).new_from_index(0, height)


def _sequence(column: pl.Series) -> pl.Series:
    """DMS leaves sequence columns of a full load empty: an empty text counts as NULL."""
    return column.replace("", None) if column.dtype == pl.String else column


def _times(frame: pl.DataFrame, columns: Columns) -> pl.Series:
    utc = pl.Datetime("us", "UTC")
    if columns.time is not None:
        values = frame.get_column(columns.time)
        if values.dtype == pl.String:
            return parse_times(values)
        if isinstance(values.dtype, pl.Datetime):
            named = values if values.dtype.time_zone else values.dt.replace_time_zone("UTC")
            return named.cast(utc)
    return _constant(None, utc, frame.height)


def rejected(file: FileInput, numbers: pl.Series, reasons: pl.Series, raw: pl.Series) -> pl.DataFrame:
    """Rejects: the file's name, the row's number in it, why, and the row's text."""
    return pl.DataFrame(
        {"file": pl.repeat(file.name, len(numbers), eager=True), "row": numbers, "reason": reasons, "raw": raw},
        schema=REJECT_SCHEMA,
    )


def no_rejects() -> pl.DataFrame:
    """An empty frame of rejects."""
    return pl.DataFrame(schema=REJECT_SCHEMA)


def checked_chunk(
    frame: pl.DataFrame,
    columns: Columns,
    file: FileInput,
    fmt: RowFormat,
    schema: Schema,
    numbers: pl.Series,
    *,
    reasons: pl.Series,
    raw: Callable[[pl.Series], pl.Series],
) -> Chunk:
    """The chunk of a frame in which some rows may break rules.

    `reasons` says why rows are rejected already, `raw` renders the rows of a mask as text.
    """
    frame = normal_op(frame, columns, file, fmt)
    reasons = frame.select(pl.coalesce(pl.lit(reasons), faults(columns, file, fmt))).to_series()
    bad = reasons.is_not_null()
    rows = change_rows(frame.filter(~bad), columns, file, fmt, schema, numbers.filter(~bad))
    rejects = rejected(file, numbers.filter(bad), reasons.filter(bad), raw(bad)) if bad.any() else no_rejects()
    return Chunk(rows, rejects, frame.height, {})
