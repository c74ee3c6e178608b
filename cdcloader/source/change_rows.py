"""A file's typed columns to change rows: the operation, the order columns, the rules for every row (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from cdcloader.changes.changed_keys import BEFORE
from cdcloader.changes.net import DELETE, FILE, INSERT, OP, ROW, SEQ, TIME, UNSET, UPDATE
from cdcloader.changes.schema import Schema, delta_type, polars_type
from cdcloader.source.row_format import REJECT_SCHEMA, Chunk, Columns, FileInput, RowFormat
from cdcloader.source.text_values import parse_text, parse_times

_LETTERS = (INSERT, UPDATE, DELETE)
_MOVED = "the key changes, and columns are not logged that would be those of the old key's row"
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
    if op.null_count() or not op.is_in(_LETTERS).all():
        return False
    return _moved_in_part(frame, columns, file, fmt) is None


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


def deletes(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> pl.Series:
    """Which rows are a D, of which only the key counts."""
    if columns.op is None:
        return pl.repeat(value=False, n=frame.height, dtype=pl.Boolean, eager=True)
    ops = normal_op(frame.select(columns.op), columns, file, fmt).get_column(columns.op)
    return (ops == DELETE).fill_null(value=False)


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


def unset_cells(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> dict[str, pl.Series]:
    """Which cells of a frame the source did not log, for each of the file's columns that may be unset: in a U only.

    A reader that knows it of a text says so in an `UNSET` column of the frame. In a column that the file lacks no cell
    is unset: the source does not have it, or no longer.
    """
    if columns.op is None or file.kind != "cdc":
        return {}
    is_update = pl.col(columns.op) == UPDATE
    found = {}
    for name in fmt.unset_names(name for name in columns.source if name in frame.columns):
        told = pl.col(UNSET + name) if UNSET + name in frame.columns else pl.lit(value=False)
        found[name] = is_update & (told | pl.col(name).is_null() if fmt.is_partial(name) else told)
    if not found:
        return {}
    return frame.select(mask.fill_null(value=False).alias(name) for name, mask in found.items()).to_dict()


def _images(frame: pl.DataFrame, columns: Columns) -> dict[str, pl.Series]:
    """The before-images by their key columns, with the types of these: one that the table keeps as text is parsed."""
    images = {}
    for name, image in columns.before:
        dtype, values = frame.schema[name], frame.get_column(image)
        if values.dtype != dtype:
            values = parse_text(values.cast(pl.String), delta_type(dtype, timestamps="naive"))
        images[name] = values
    return images


def _changed_keys(frame: pl.DataFrame, columns: Columns) -> pl.Series | None:
    """Which rows are a U that had another key before; None when there is none.

    A before-image that is NULL says that its column did not change.
    """
    if not columns.before or columns.op is None:
        return None
    differs = [pl.lit(image) != pl.col(name) for name, image in _images(frame, columns).items()]
    is_changed = (pl.any_horizontal(differs) & (pl.col(columns.op) == UPDATE)).fill_null(value=False)
    changed = frame.select(is_changed.alias("changed")).to_series()
    return changed if changed.any() else None


def _moved_in_part(frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat) -> pl.Series | None:
    """Which rows changed their key and do not tell all of their columns; None when there is none.

    What they keep stands in the row of the old key, which is not the one that they would be completed from.
    """
    changed = _changed_keys(frame, columns)
    unset = unset_cells(frame, columns, file, fmt) if changed is not None else {}
    if changed is None or not unset:
        return None
    moved = changed & pl.DataFrame(unset).select(pl.any_horizontal(pl.all()).alias("unset")).to_series()
    return moved if moved.any() else None


def _before_images(frame: pl.DataFrame, columns: Columns, key: Sequence[str]) -> dict[str, pl.Series]:
    """The `BEFORE` columns: the whole old key in rows that changed it; {} when there is no such row."""
    changed = _changed_keys(frame, columns)
    if changed is None:
        return {}
    images = _images(frame, columns)
    whole = {name: images[name].zip_with(images[name].is_not_null(), frame[name]) for name in images}
    return {BEFORE + name: whole.get(name, frame[name]).set(~changed, None) for name in key}


def change_rows(
    frame: pl.DataFrame, columns: Columns, file: FileInput, fmt: RowFormat, schema: Schema, numbers: pl.Series
) -> pl.DataFrame:
    """The schema's columns, then `OP`, `FILE`, `ROW`, the `SEQ` columns and `TIME`, then `UNSET` and `BEFORE` columns.

    Each column of the schema that may be unset has an `UNSET` column; `BEFORE` columns are there where a key changed.
    """
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
    unset = unset_cells(frame, columns, file, fmt)
    for name in fmt.unset_names(field.name for field in schema):
        made[UNSET + name] = unset[name] if name in unset else pl.repeat(value=False, n=height, eager=True)
    made |= _before_images(frame, columns, fmt.primary_key or ())
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


def not_in_table(column: str) -> str:
    """Why a row is rejected that has a value in a column which the table is not to have."""
    return f"column '{column}': the table does not have it (schema: quarantine)"


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
    moved = _moved_in_part(frame, columns, file, fmt)
    if moved is not None:
        reasons = reasons.zip_with(~moved | reasons.is_not_null(), _constant(_MOVED, pl.String(), frame.height))
    bad = reasons.is_not_null()
    rows = change_rows(frame.filter(~bad), columns, file, fmt, schema, numbers.filter(~bad))
    rejects = rejected(file, numbers.filter(bad), reasons.filter(bad), raw(bad)) if bad.any() else no_rejects()
    return Chunk(rows, rejects, frame.height, {})
