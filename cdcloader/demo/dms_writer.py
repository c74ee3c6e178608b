"""Writes what AWS DMS writes to S3: LOAD and CDC files as CSV or Parquet, byte forms included.

The forms are those of the AWS DMS user guide ("Using Amazon S3 as a target") and of files that DMS wrote:
columns stand as `Op`, timestamp column, source columns; NULL is an empty CSV field and an empty string is `""`;
a DOUBLE is `+2.1804858784530072e+04`; Parquet columns are OPTIONAL with converted types only.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cdcloader.changes.schema import polars_type
from cdcloader.changes.type_names import decimal_parts
from cdcloader.demo.legacy_types import without_logical_types

Columns = Sequence[tuple[str, str]]
Row = Mapping[str, object]

OP = "Op"
ROW_GROUP_ROWS = 10_000
FULL_LOAD_TIME = datetime(2026, 9, 1, tzinfo=UTC)
_TIME_TEXT = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class DmsSettings:
    """The S3 target settings that a reader of the files can see, by their names in the DMS API.

    `header` is AddColumnName. `datetime_scale` is the source column's fraction digits (0, 3 or 6), which decide
    the CSV text of a timestamp. With `rfc4180` off, CSV fields are copied raw, as DMS does, ambiguous or not.
    """

    format: Literal["csv", "parquet"] = "csv"
    gzip: bool = False
    header: bool = False
    include_op_for_full_load: bool = False
    timestamp_column: str | None = None
    null_value: str = ""
    parquet_timestamp_in_millisecond: bool = False
    rfc4180: bool = True
    delimiter: str = ","
    datetime_scale: Literal[0, 3, 6] = 6


class Change(NamedTuple):
    """One I, U or D: the row after an I or U, before a D; `commit_time` is the source transaction's (UTC)."""

    op: str
    row: Row
    commit_time: datetime


def render_load(
    settings: DmsSettings,
    columns: Columns,
    rows: Sequence[Row] | pl.DataFrame,
    *,
    transferred_at: datetime = FULL_LOAD_TIME,
) -> bytes:
    """A LOAD file's bytes; the timestamp column is the time of transfer: `transferred_at` and a microsecond per row."""
    data = frame(columns, rows)
    helpers: list[pl.Series] = []
    if settings.include_op_for_full_load:
        helpers.append(pl.Series(OP, ["I"] * data.height, dtype=pl.String))
    if settings.timestamp_column is not None:
        times = [transferred_at + timedelta(microseconds=number) for number in range(data.height)]
        helpers.append(_commit_column(settings.timestamp_column, times))
    return _render(settings, columns, helpers, data)


def render_cdc(settings: DmsSettings, columns: Columns, changes: Sequence[Change]) -> bytes:
    """A CDC file's bytes: the changes in their order, `Op` first."""
    helpers = [pl.Series(OP, [change.op for change in changes], dtype=pl.String)]
    if settings.timestamp_column is not None:
        helpers.append(_commit_column(settings.timestamp_column, [change.commit_time for change in changes]))
    return _render(settings, columns, helpers, frame(columns, [change.row for change in changes]))


def load_name(number: int, settings: DmsSettings) -> str:
    """The name of LOAD file `number`, from 1: eight hexadecimal digits."""
    return f"LOAD{number:08X}{_extension(settings)}"


def cdc_name(time: datetime, settings: DmsSettings) -> str:
    """The name of a CDC file created at `time` (UTC): `YYYYMMDD-HHMMSSmmm`."""
    return f"{time:%Y%m%d-%H%M%S}{time.microsecond // 1000:03d}{_extension(settings)}"


def write_file(folder: Path, name: str, content: bytes) -> Path:
    """Put a file into a local folder in one step, so that a poller never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    unfinished = folder / f".{name}"
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return path


def frame(columns: Columns, rows: Sequence[Row] | pl.DataFrame) -> pl.DataFrame:
    """Rows as a typed frame of `columns` (name, Delta type); other keys of the rows are left out, absent ones NULL."""
    if isinstance(rows, pl.DataFrame):
        return rows.select(pl.col(name).cast(polars_type(kind)) for name, kind in columns)
    return pl.DataFrame(
        [pl.Series(name, [row.get(name) for row in rows], dtype=polars_type(kind)) for name, kind in columns]
    )


def _extension(settings: DmsSettings) -> str:
    """The end of a file's name: gzip shows in a CSV's name, while in Parquet it is the codec inside."""
    if settings.format == "parquet":
        return ".parquet"
    return ".csv.gz" if settings.gzip else ".csv"


def _commit_column(name: str, times: Sequence[datetime]) -> pl.Series:
    """The TimestampColumnName column: text with microseconds, whatever the format of the file."""
    return pl.Series(name, [f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond:06d}" for time in times], dtype=pl.String)


def _render(settings: DmsSettings, columns: Columns, helpers: Sequence[pl.Series], data: pl.DataFrame) -> bytes:
    if settings.format == "parquet":
        return _render_parquet(settings, columns, helpers, data)
    return _render_csv(settings, columns, helpers, data)


def _render_csv(settings: DmsSettings, columns: Columns, helpers: Sequence[pl.Series], data: pl.DataFrame) -> bytes:
    texts = [*helpers, *(_texts(settings, data[name], kind) for name, kind in columns)]
    lines = pl.DataFrame(texts).select(
        pl.concat_str([_field(settings, series.name) for series in texts], separator=settings.delimiter).alias("line")
    )["line"]
    if settings.header:
        names = pl.Series("line", [settings.delimiter.join(_header_field(settings, series.name) for series in texts)])
        lines = names.append(lines)
    content = "".join(f"{line}\n" for line in lines).encode()
    # The gzip header holds no time, so that the same rows give the same bytes.
    return gzip.compress(content, compresslevel=6, mtime=0) if settings.gzip else content


def _texts(settings: DmsSettings, values: pl.Series, kind: str) -> pl.Series:
    """A column as DMS spells its values in CSV; NULL stays NULL."""
    if kind in ("double", "float"):
        digits = 16 if kind == "double" else 8
        texts = [None if value is None else f"{value:+.{digits}e}" for value in values]
        return pl.Series(values.name, texts, dtype=pl.String)
    if kind in ("timestamp", "timestamp_ntz"):
        fraction = f"%.{settings.datetime_scale}f" if settings.datetime_scale else ""
        return values.dt.strftime(_TIME_TEXT + fraction)
    if kind == "binary":
        return values.bin.encode("hex")
    return values.cast(pl.String)


def _field(settings: DmsSettings, name: str) -> pl.Expr:
    """A text column as CSV fields: quoted where RFC 4180 asks for it, and where the text would read as NULL."""
    text = pl.col(name)
    if settings.rfc4180:
        special = pl.any_horizontal(
            text.str.contains(mark, literal=True) for mark in ('"', "\n", "\r", settings.delimiter)
        )
        quoted = pl.concat_str(pl.lit('"'), text.str.replace_all('"', '""', literal=True), pl.lit('"'))
        text = pl.when(special | (text == settings.null_value)).then(quoted).otherwise(text)
    return text.fill_null(settings.null_value)


def _header_field(settings: DmsSettings, name: str) -> str:
    if settings.rfc4180 and any(mark in name for mark in ('"', "\n", settings.delimiter)):
        return '"' + name.replace('"', '""') + '"'
    return name


def _render_parquet(settings: DmsSettings, columns: Columns, helpers: Sequence[pl.Series], data: pl.DataFrame) -> bytes:
    fields = [pa.field(series.name, pa.string(), nullable=series.name == OP) for series in helpers]
    fields += [pa.field(name, _arrow_type(settings, kind)) for name, kind in columns]
    arrays = [series.to_arrow() for series in (*helpers, *data.get_columns())]
    # Milliseconds cut what the source has beyond them, which Arrow calls an unsafe cast.
    cast = [array.cast(field.type, safe=False) for array, field in zip(arrays, fields, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(cast, schema=pa.schema(fields)),
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        version="1.0",
        compression="GZIP" if settings.gzip else "NONE",
        use_dictionary=False,
        write_statistics=[field.name for field in fields if not pa.types.is_decimal(field.type)],
        store_schema=False,
    )
    return without_logical_types(buffer.getvalue())


def _arrow_type(settings: DmsSettings, kind: str) -> Any:
    """The Arrow type that Parquet stores as DMS does: timestamps adjusted to UTC, decimals as fixed bytes."""
    parts = decimal_parts(kind)
    if parts:
        return pa.decimal128(*parts)
    if kind in ("timestamp", "timestamp_ntz"):
        return pa.timestamp("ms" if settings.parquet_timestamp_in_millisecond else "us", tz="UTC")
    simple = {
        "string": pa.string(), "long": pa.int64(), "integer": pa.int32(), "short": pa.int16(), "byte": pa.int8(),
        "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "binary": pa.binary(),
        "date": pa.date32(),
    }  # fmt: skip
    return simple[kind]
