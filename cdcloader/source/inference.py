"""The type of a CSV column from its values: strict, so that no value changes when it is read as that type (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import polars as pl

from cdcloader.changes.type_names import decimal_parts
from cdcloader.source.text_values import parse_text

INTEGER = r"^(?:0|-?[1-9][0-9]*)$"
_FRACTION = r"^-?(?:0|[1-9][0-9]*)?\.[0-9]+$"
_EXPONENT = r"^[+-]?[0-9](?:\.[0-9]+)?[eE][+-]?[0-9]{1,3}$"
_TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_NUMERIC = frozenset({"integer", "fraction", "exponent"})
_MAX_DIGITS = 38
_SHARED_SCALE = 10
_WIDE_SCALE = 18
_DOUBLE_DIGITS = 15
_LONG_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a column's values look like; `|` joins the evidence of two samples.

    `whole` and `significant` are the most digits seen before the point and in all.
    """

    kinds: frozenset[str] = frozenset()
    scales: frozenset[int] = frozenset()
    whole: int = 0
    significant: int = 0
    beyond_long: bool = False

    def __or__(self, other: Evidence) -> Evidence:
        """Both samples together."""
        return Evidence(
            self.kinds | other.kinds,
            self.scales | other.scales,
            max(self.whole, other.whole),
            max(self.significant, other.significant),
            self.beyond_long or other.beyond_long,
        )


def infer(values: pl.Series, timestamp_type: str) -> str:
    """The Delta type of a text column; all NULL is a string."""
    return type_of(evidence(values), timestamp_type)


def type_of(seen: Evidence, timestamp_type: str) -> str:
    """The Delta type that holds what was seen; nothing but NULL is a string."""
    if seen.kinds and seen.kinds <= _NUMERIC:
        return _number_type(seen)
    if seen.kinds == {"timestamp"}:
        return timestamp_type
    if len(seen.kinds) == 1:
        (kind,) = seen.kinds
        return {"date": "date", "boolean": "boolean"}.get(kind, "string")
    return "string"


def widen(old: str, values: pl.Series, timestamp_type: str) -> str:
    """The type that holds the values of type `old` and these too; string at worst."""
    wider = type_of(_evidence_of_type(old) | evidence(values), timestamp_type)
    return "string" if wider == old else wider


def evidence(values: pl.Series) -> Evidence:
    """What the values of a text column look like; NULLs say nothing."""
    values = values.drop_nulls().unique()
    found = []
    for kind, pattern, delta_type in _SHAPES:
        mask = values.str.contains(pattern)
        if delta_type and mask.any():
            mask &= parse_text(values, delta_type).is_not_null()
        if mask.any():
            found.append(_describe(kind, values.filter(mask)))
            values = values.filter(~mask)
    if len(values):
        found.append(Evidence(kinds=frozenset({"text"})))
    return reduce(Evidence.__or__, found, Evidence())


_SHAPES = (
    ("integer", INTEGER, None),
    ("fraction", _FRACTION, None),
    ("exponent", _EXPONENT, "double"),
    ("timestamp", _TIMESTAMP, "timestamp"),
    ("date", _DATE, "date"),
    ("boolean", "^(?:true|false)$", None),
)


def _describe(kind: str, values: pl.Series) -> Evidence:
    kinds = frozenset({kind})
    if kind not in ("integer", "fraction"):
        return Evidence(kinds)
    whole = _longest(values.str.extract("^-?([0-9]*)", 1))
    fractions = values.str.extract(r"\.([0-9]+)$", 1).str.len_bytes().fill_null(0)
    significant = _longest(values.str.replace_all("[^0-9]", "").str.strip_chars_start("0"))
    beyond = kind == "integer" and bool(values.cast(pl.Int64, strict=False).is_null().any())
    return Evidence(kinds, frozenset(fractions.unique().to_list()), whole, significant, beyond)


def _longest(text: pl.Series) -> int:
    length = text.str.len_bytes().max()
    return length if isinstance(length, int) else 0


def _evidence_of_type(delta_type: str) -> Evidence:
    parts = decimal_parts(delta_type)
    if parts:
        kind, scale = ("fraction", parts[1]) if parts[1] else ("integer", 0)
        # The values that were read so far may have any digits that the type allows, so double is out.
        return Evidence(frozenset({kind}), frozenset({scale}), 1, _DOUBLE_DIGITS + 1, beyond_long=not scale)
    if delta_type == "long":
        digits = len(str(_LONG_MAX))
        return Evidence(frozenset({"integer"}), frozenset({0}), digits, digits)
    kinds = {"double": "exponent", "timestamp_ntz": "timestamp", "timestamp": "timestamp", "date": "date"}
    return Evidence(frozenset({"boolean" if delta_type == "boolean" else kinds.get(delta_type, "text")}))


def _number_type(seen: Evidence) -> str:
    if "exponent" in seen.kinds:
        return "double" if seen.significant <= _DOUBLE_DIGITS else "string"
    if seen.kinds == {"integer"} and not seen.beyond_long:
        return "long"
    if len(seen.scales) == 1:
        return _decimal(seen.whole, max(seen.scales))
    if max(seen.scales) <= _SHARED_SCALE:
        return _decimal(seen.whole, _SHARED_SCALE)
    if seen.significant <= _DOUBLE_DIGITS:
        return "double"
    return _decimal(seen.whole, max(_WIDE_SCALE, *seen.scales))


def _decimal(whole: int, scale: int) -> str:
    return f"decimal({_MAX_DIGITS},{scale})" if whole + scale <= _MAX_DIGITS else "string"
