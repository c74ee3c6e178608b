"""Text to typed values, value by value: what does not parse becomes NULL (pure).

It accepts what the fast CSV parser accepts and a little more (a plus sign, fractions of up to 9 digits, zones),
so that a value's fate does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import numpy as np
import polars as pl
import pyarrow as pa

from cdcloader.changes.schema import polars_type
from cdcloader.changes.type_names import decimal_parts

TRUE_WORDS = ("true", "t", "1")
FALSE_WORDS = ("false", "f", "0")
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?)?"
_ZONE = r"Z|[+-][0-9]{2}(?::?[0-9]{2})?"
_TIMESTAMP = rf"^({_DATE})(?:[ T]({_CLOCK}))?({_ZONE})?$"
_INFINITE = r"^(?i)[+-]?infinity$"
_LOWER = np.uint8(ord("e") ^ ord("E"))
_NUMBER = r"^[+-]?([0-9]*)(?:\.([0-9]*))?$"


def parse_text(text: pl.Series, delta_type: str) -> pl.Series:
    """The values of a text column as `delta_type`; NULL for NULL and for what does not parse."""
    if delta_type == "string":
        return text
    if decimal_parts(delta_type):
        return _decimals(text, delta_type)
    parse = _PARSERS.get(delta_type)
    stripped = text.str.strip_chars(" \t")
    if parse:
        return parse(stripped)
    values = stripped.cast(polars_type(delta_type), strict=False)
    if delta_type in ("float", "double") and values.is_infinite().any():
        # Digits that are beyond the type are no infinity.
        return values.set(values.is_infinite().fill_null(value=False) & ~stripped.str.contains("(?i)inf"), None)
    return values


def parse_times(text: pl.Series) -> pl.Series:
    """DMS's timestamp column as UTC times."""
    return _timestamps(text)


def digits_fit(numbers: pa.StringArray, scale: int) -> bool:
    """Whether no number has more than `scale` digits behind its point, or an exponent; each has one point at most.

    All characters lie side by side in one buffer: looking at them all at once takes a tenth of asking each value.
    """
    _, offsets, characters = numbers.buffers()
    if characters is None or not len(numbers):
        return True
    borders = np.frombuffer(offsets, np.int32)[numbers.offset : numbers.offset + len(numbers) + 1]
    text = np.frombuffer(characters, np.uint8)[: borders[-1]]
    if ((text[borders[0] :] | _LOWER) == ord("e")).any():
        return False
    points = int(np.count_nonzero(text[borders[0] :] == ord(".")))
    # Most often every number has all its digits, so that the widest is looked for first.
    for behind in range(scale, -1, -1):
        if not points:
            break
        places = borders[1:][np.diff(borders) > behind] - 1 - behind
        points -= int(np.count_nonzero(text[places] == ord(".")))
    return not points


def _booleans(text: pl.Series) -> pl.Series:
    lower = text.str.to_lowercase()
    known = dict.fromkeys(TRUE_WORDS, True) | dict.fromkeys(FALSE_WORDS, False)
    return lower.replace_strict(known, default=None, return_dtype=pl.Boolean())


def _bytes(text: pl.Series) -> pl.Series:
    """Hex digits, with or without a leading 0x."""
    return text.str.replace("^0[xX]", "").str.decode("hex", strict=False)


def _dates(text: pl.Series) -> pl.Series:
    """A date; or a timestamp at midnight, as Oracle's DATE is written."""
    text = _finite(text, "9999-12-31", "0001-01-01")
    day = text.str.extract(rf"^({_DATE})(?:[ T]00:00:00(?:\.0+)?)?$", 1)
    return day.str.to_date("%Y-%m-%d", strict=False)


def _finite(text: pl.Series, latest: str, earliest: str) -> pl.Series:
    """PostgreSQL's infinite moments as the last that DMS writes for them, and as the first that readers know."""
    if not text.str.contains(_INFINITE).any():
        return text
    return text.str.replace(r"^(?i)\+?infinity$", latest).str.replace("^(?i)-infinity$", earliest)


def _naive_timestamps(text: pl.Series) -> pl.Series:
    frame = _timestamp_parts(text)
    return frame.get_column("wall").set(frame.get_column("zone").is_not_null(), None)


def _timestamps(text: pl.Series) -> pl.Series:
    frame = _timestamp_parts(text)
    sign = pl.when(pl.col("zone").str.starts_with("-")).then(-1).otherwise(1)
    digits = pl.col("zone").str.replace_all("[^0-9]", "").str.pad_end(4, "0")
    minutes = digits.str.slice(0, 2).cast(pl.Int64) * 60 + digits.str.slice(2, 2).cast(pl.Int64)
    offset = pl.when(pl.col("zone").is_null()).then(0).otherwise(sign * minutes)
    utc = pl.col("wall") - pl.duration(minutes=offset, time_unit="us")
    return frame.select(utc.dt.replace_time_zone("UTC")).to_series()


def _timestamp_parts(text: pl.Series) -> pl.DataFrame:
    """Columns `wall` (naive time) and `zone` (text or NULL); digits beyond microseconds are cut off."""
    text = _finite(text, "9999-12-31 23:59:59", "0001-01-01 00:00:00")
    column = pl.col("text")
    clock = column.str.extract(_TIMESTAMP, 2).str.replace(r"(\.[0-9]{6})[0-9]+$", "$1")
    padded = clock + pl.lit("00:00:00").str.slice(clock.str.len_bytes().clip(upper_bound=8))
    day = column.str.extract(_TIMESTAMP, 1)
    whole = pl.concat_str(day, pl.lit(" "), padded.fill_null("00:00:00"))
    zone = column.str.extract(_TIMESTAMP, 3).replace("Z", "+00")
    return (
        text.rename("text")
        .to_frame()
        .select(
            whole.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False).alias("wall"),
            zone.alias("zone"),
        )
    )


def _decimals(text: pl.Series, delta_type: str) -> pl.Series:
    """Only numbers that the type holds exactly: a cast alone would round the digits beyond the scale."""
    precision, scale = decimal_parts(delta_type) or (38, 0)
    number = text.str.strip_chars(" \t")
    whole = number.str.extract(_NUMBER, 1).str.strip_chars_start("0").str.len_bytes()
    fraction = number.str.extract(_NUMBER, 2).fill_null("").str.strip_chars_end("0").str.len_bytes()
    exact = (whole <= precision - scale) & (fraction <= scale) & number.str.contains("[0-9]")
    plain = number.set(~exact.fill_null(value=False), None).cast(polars_type(delta_type), strict=False)
    odd = number.str.contains("[eE]").fill_null(value=False)
    if not odd.any():
        return plain
    scientific = [_exact_decimal(value, precision, scale) for value in number.filter(odd)]
    return plain.scatter(odd.arg_true(), pl.Series(scientific, dtype=polars_type(delta_type)))


def _exact_decimal(text: str, precision: int, scale: int) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or value.adjusted() >= precision - scale:
        return None
    _, digits, exponent = value.normalize().as_tuple()
    if not isinstance(exponent, int) or -exponent > scale or len(digits) > precision:
        return None
    return value


_PARSERS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "boolean": _booleans,
    "binary": _bytes,
    "date": _dates,
    "timestamp": _timestamps,
    "timestamp_ntz": _naive_timestamps,
}
