"""CSV as DMS writes it: NULL is an empty field and an empty string `""`; a DOUBLE is `+2.1804858784530072e+04`."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from datetime import datetime

import polars as pl

from cdcloader.demo.dms_writer.settings import DmsSettings

_TIME_TEXT = "%Y-%m-%d %H:%M:%S"


def csv_bytes(settings: DmsSettings, names: Sequence[str], fields: Sequence[pl.Series]) -> bytes:
    """The bytes of a file of these columns, given as they are spelled, below a header if there is one."""
    lines = csv_lines(settings, fields)
    if settings.header:
        lines.insert(0, settings.delimiter.join(_header_field(settings, name) for name in names))
    return packed(settings, "".join(f"{line}{settings.row_delimiter}" for line in lines))


def csv_lines(settings: DmsSettings, fields: Sequence[pl.Series]) -> list[str]:
    """A file's rows without their ends."""
    texts = [series.alias(str(place)) for place, series in enumerate(fields)]
    return (
        pl.DataFrame(texts)
        .select(pl.concat_str(pl.all(), separator=settings.delimiter).alias("line"))["line"]
        .to_list()
    )


def packed(settings: DmsSettings, text: str) -> bytes:
    """A text file's bytes; the gzip header holds no time, so that the same rows give the same bytes."""
    content = text.encode()
    return gzip.compress(content, compresslevel=6, mtime=0) if settings.gzip else content


def csv_fields(settings: DmsSettings, values: pl.Series, kind: str) -> pl.Series:
    """A column as the fields of a CSV file: quoted where RFC 4180 asks for it, and where a text would read as NULL."""
    texts = spelled(settings, values, kind)
    return texts.to_frame("text").select(_field(settings))["text"]


def spelled(settings: DmsSettings, values: pl.Series, kind: str) -> pl.Series:
    """A column's values as text; NULL stays NULL."""
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


def time_text(time: datetime) -> str:
    """A time as the column TimestampColumnName has it: text with microseconds, whatever the format of the file."""
    return f"{time:{_TIME_TEXT}}.{time.microsecond:06d}"


def _field(settings: DmsSettings) -> pl.Expr:
    text = pl.col("text")
    if settings.rfc4180:
        marks = dict.fromkeys(('"', "\n", "\r", settings.delimiter, settings.row_delimiter))
        special = pl.any_horizontal(text.str.contains(mark, literal=True) for mark in marks)
        # What stands for "no value here" in an unquoted field is quoted where it is one.
        for token in (settings.null_value, settings.no_supplemental_value):
            special |= text == token if token is not None else pl.lit(value=False)
        quoted = pl.concat_str(pl.lit('"'), text.str.replace_all('"', '""', literal=True), pl.lit('"'))
        text = pl.when(special).then(quoted).otherwise(text)
    return text.fill_null(settings.null_value).alias("text")


def _header_field(settings: DmsSettings, name: str) -> str:
    if settings.rfc4180 and any(mark in name for mark in ('"', "\n", settings.delimiter)):
        return '"' + name.replace('"', '""') + '"'
    return name
