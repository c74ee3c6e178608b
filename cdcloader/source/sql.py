"""SQL expressions over the columns of a row: parsed, refused where a row alone does not decide, evaluated (pure).

Expressions see timestamps as times of UTC without a zone, as SQL's literals are. What the expression cannot do with
a single value (a text that is no number) is told by row; what it cannot do at all is a TableError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from cdcloader.changes.schema import Schema, delta_type, polars_schema
from cdcloader.errors import TableError

# Rows that fail are found by halving, which costs some evaluations each: more of them are no accident.
_FAILING_ROWS_MAX = 1_000
_REASON_CHARS = 200
_ROW, _VALUE = "__place", "__value"
_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
# A value's fault, and no other: Polars says so of strict casts and of STRPTIME.
_OF_A_VALUE = re.compile(r"conversion from .* failed")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_CLOCK = re.compile(r"\b(current_date|current_time|current_timestamp|localtime|localtimestamp)\b|\b(now|today)\s*\(")
_ROW_WISE = frozenset({"Column", "Literal", "Alias", "BinaryExpr", "Cast", "Ternary", "Function"})
_MANY_ROWS = frozenset(
    {"All", "Any", "Correlation", "DropNulls", "IntRange", "NUnique", "Quantile", "Random", "Range", "Shift", "Unique"}
)
_HINT = (
    "write an expression of one row's columns in Polars' SQL, without aggregates, windows, subqueries or the clock: "
    "see docs/configuration.md"
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression; `where` is its place in the config."""

    sql: str
    where: str
    parsed: pl.Expr

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses."""
        return tuple(dict.fromkeys(self.parsed.meta.root_names()))

    def type(self, schema: Schema, *, timestamps: str) -> str:
        """The Delta type of its values over rows of `schema`; TableError when it cannot be evaluated over them."""
        names = {column.name for column in schema}
        unknown = [name for name in self.columns if name not in names]
        if unknown:
            raise self._error(
                f"there is no column {unknown[0]!r}; the columns are {', '.join(sorted(names))}",
                "correct the expression (names are case-sensitive; texts stand in single quotes)",
            )
        try:
            # Without any row Polars would not look at what the expression does.
            dtype = self._of(pl.DataFrame(schema=polars_schema(schema)).clear(1)).dtype
        except _ERRORS as error:
            raise self._error(_first_line(error), _HINT) from error
        try:
            return delta_type(dtype, timestamps=timestamps)
        except ValueError as error:
            raise self._error(f"its values are {dtype}, which a Delta table cannot hold", _HINT) from error

    def values(self, rows: pl.DataFrame, wanted: pl.Series) -> tuple[pl.Series, dict[int, str]]:
        """Its value for each row, and place -> reason of rows that it fails for.

        Rows that are not `wanted` get any value or NULL, and never fail.
        """
        try:
            return self._of(rows), {}
        except _ERRORS:
            pass
        placed = rows.select(self.columns).with_row_index(_ROW).filter(wanted)
        found: list[pl.DataFrame] = []
        failed: dict[int, str] = {}
        for part, values in self._by_halves(placed):
            if isinstance(values, str):
                failed[part[_ROW][0]] = values
            else:
                found.append(part.select(_ROW, values.alias(_VALUE)))
            if len(failed) > _FAILING_ROWS_MAX:
                raise self._error(
                    f"it fails for more than {_FAILING_ROWS_MAX:,} rows: {next(iter(failed.values()))}",
                    "correct the expression; TRY_CAST gives NULL where CAST fails",
                )
        if not found:
            return pl.repeat(None, rows.height, dtype=pl.Null, eager=True), failed
        places = rows.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias(_ROW))
        return places.join(pl.concat(found), on=_ROW, how="left", maintain_order="left")[_VALUE], failed

    def _by_halves(self, part: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.Series | str]]:
        """Parts with their values; of a single row that fails the reason."""
        if not part.height:
            return
        try:
            yield part, self._of(part)
        except _ERRORS as error:
            if part.height == 1:
                if not _OF_A_VALUE.search(str(error)):
                    raise self._error(_first_line(error), _HINT) from error
                yield part, _first_line(error)
                return
        else:
            return
        half = part.height // 2
        yield from self._by_halves(part.head(half))
        yield from self._by_halves(part.slice(half))

    def _of(self, rows: pl.DataFrame) -> pl.Series:
        naive = [
            pl.col(name).dt.replace_time_zone(None)
            for name in self.columns
            if isinstance(kind := rows.schema[name], pl.Datetime) and kind.time_zone
        ]
        # The places make a constant as long as the rows.
        placed = rows.lazy().select(pl.int_range(pl.len()).alias(_ROW), *self.columns).with_columns(naive)
        return placed.select(_ROW, self.parsed.alias(_VALUE)).collect()[_VALUE]

    def _error(self, what: str, hint: str) -> TableError:
        return TableError(f"{self.sql!r}: {what}", where=self.where, hint=hint)


def parse(sql: str, where: str) -> Expression:
    """The expression of a text; TableError where it is none, or is not one of a single row."""
    try:
        expression = Expression(sql, where, pl.sql_expr(sql))
        tree = json.loads(expression.parsed.meta.serialize(format="json"))
    except _ERRORS as error:
        raise TableError(f"{sql!r} is no SQL expression: {_first_line(error)}", where=where, hint=_HINT) from error
    clock = _CLOCK.search(_QUOTED.sub("", sql).lower())
    other = f"it asks the clock ({clock[0].rstrip('( ')})" if clock else _needs_more_rows(tree)
    if other:
        raise TableError(f"{sql!r}: {other}; a row's value would depend on more than the row", where=where, hint=_HINT)
    return expression


def _needs_more_rows(node: Any) -> str:
    """What in an expression's tree looks at other rows; "" when nothing does."""
    if not isinstance(node, dict) or len(node) != 1:
        return f"it is no expression of a row's columns ({str(node)[:40]})"
    ((kind, parts),) = node.items()
    if kind not in _ROW_WISE:
        return f"it is no expression of a row's columns ({kind})"
    inner: list[Any] = []
    if kind == "Alias":
        inner = [parts[0]]
    elif kind == "BinaryExpr":
        inner = [parts["left"], parts["right"]]
    elif kind == "Cast":
        inner = [parts["expr"]]
    elif kind == "Ternary":
        inner = [parts["predicate"], parts["truthy"], parts["falsy"]]
    elif kind == "Function":
        names = set(_names(parts["function"]))
        if many := names & _MANY_ROWS:
            return f"it looks at many rows ({min(many)})"
        if "Strptime" in names and None in _formats(parts["function"]):
            return "it guesses a format from the first rows: give one, as in STRPTIME(name, '%Y-%m-%d')"
        inner = parts["input"]
    return next((found for each in inner if (found := _needs_more_rows(each))), "")


def _names(node: Any) -> Iterator[str]:
    """The names of a function: it stands as a text, or as nested mappings with its options."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for name, inner in node.items():
            yield name
            yield from _names(inner)
    elif isinstance(node, list):
        for each in node:
            yield from _names(each)


def _formats(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for name, inner in node.items():
            if name == "format":
                yield inner
            yield from _formats(inner)
    elif isinstance(node, list):
        for each in node:
            yield from _formats(each)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:_REASON_CHARS] if text else type(error).__name__
