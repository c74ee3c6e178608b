"""Column rules: what the files' rows are made into before they are netted (pure).

Rows are read as the source has them, with the new names where `rename` says so. Then, in this order: `cast`; `filter`
and `derive`, which see all columns of the source, cast and not yet masked; `mask`; `drop`. Of a D only the key counts,
so that no value of it fails a rule.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from cdcloader.changes.changed_keys import BEFORE, before_columns
from cdcloader.changes.conversion import as_text
from cdcloader.changes.net import DELETE, FILE, OP, ROW, UNSET
from cdcloader.changes.schema import Field, Schema
from cdcloader.errors import TableError
from cdcloader.source.casts import as_stored, cast_values, castable, keeps_apart
from cdcloader.source.row_format import REJECT_SCHEMA
from cdcloader.source.sql import Expression

# Helper columns begin so; those that belong to a column of the source end in its name.
_OWN = "__"
_SHOWN_CHARS = 60
_WITHHELD = "(withheld)"
# A reason may name a column; what else it quotes is a value.
_QUOTED = re.compile(r"(?s)column '([^']*)'|'.*'")
_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one table; columns go by the names that they have after `rename`.

    `where` is their place in the config, for messages. `must_mask` are those under `mask` that the source must have.
    """

    where: str
    key: tuple[str, ...] = ()
    timestamps: str = "utc"
    rename: Mapping[str, str] = field(default_factory=dict)
    cast: Mapping[str, str] = field(default_factory=dict)
    filter: Expression | None = None
    derive: Mapping[str, Expression] = field(default_factory=dict)
    mask: Mapping[str, str] = field(default_factory=dict)
    must_mask: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def over(self, source: Schema, files: str) -> RuledColumns:
        """What they make of the columns `source` of some files; TableError where they do not fit these."""
        names = {column.name.lower(): column.name for column in source}
        casts = {names[name.lower()]: want for name, want in self.cast.items() if name.lower() in names}
        dropped = {names[name.lower()] for name in self.drop if name.lower() in names}
        have = {column.name: column.type for column in source}
        for name, want in casts.items():
            self._check_cast(name, have[name], want, files)
        cast = tuple(Field(column.name, casts.get(column.name, column.type)) for column in source)
        self._check_filter(cast)
        derived = {name: each.type(cast, timestamps=self.timestamps) for name, each in self.derive.items()}
        for name in derived:
            if name.lower() in names:
                raise TableError(
                    f"the source has a column {names[name.lower()]!r}, and derive makes one of that name",
                    where=files,
                    hint="give the derived column another name, or rename the source's",
                )
        columns = names | {name.lower(): name for name in derived}
        self._check_masked(columns, files)
        masks = {columns[name.lower()]: way for name, way in self.mask.items() if name.lower() in columns}
        self._check_key(dropped, masks)
        made = (*cast, *(Field(name, kind) for name, kind in derived.items()))
        hashed = {name for name, way in masks.items() if way == "sha256"}
        return RuledColumns(
            rules=self,
            source=source,
            table=tuple(
                Field(each.name, "string" if each.name in hashed else each.type)
                for each in made
                if each.name not in dropped
            ),
            casts={name: (have[name], want) for name, want in casts.items() if have[name] != want},
            derived=derived,
            masks=masks,
        )

    def unused(self, columns: Schema) -> tuple[str, ...]:
        """The rules for columns that are not among `columns`, as `mask.email`."""
        names = {column.name.lower() for column in columns} | {name.lower() for name in self.derive}
        ruled = (("cast", self.cast), ("mask", self.mask), ("drop", self.drop))
        renamed = tuple(f"rename.{old}" for old, name in self.rename.items() if name.lower() not in names)
        return renamed + tuple(f"{rule}.{name}" for rule, each in ruled for name in each if name.lower() not in names)

    def _check_masked(self, columns: Mapping[str, str], files: str) -> None:
        """A misspelt mask would publish what it should hide; `columns` by their names in lower case."""
        for name in self.must_mask:
            if name.lower() in columns:
                continue
            near = difflib.get_close_matches(name.lower(), columns, 1)
            raise TableError(
                f"mask names {name!r}, which is no column of {files}; the columns are {', '.join(columns.values())}",
                where=f"{self.where}.mask.{name}",
                hint=("did you mean " + repr(columns[near[0]]) + "? " if near else "correct the name; ")
                + "a column that is yet to come is masked under `defaults`",
            )

    def _check_cast(self, name: str, have: str, want: str, files: str) -> None:
        where = f"{self.where}.cast.{name}"
        if not castable(have, want):
            raise TableError(
                f"no {have} is a {want}", where=where, hint=f"correct the type; column {name!r} of {files} is {have}"
            )
        if name in self.key and not keeps_apart(have, want):
            raise TableError(
                f"{name!r} is a key column, and {have} as {want} might make two keys one",
                where=where,
                hint="cast a key only to a wider type, or to string where it is no float, double or binary",
            )

    def _check_key(self, dropped: set[str], masks: Mapping[str, str]) -> None:
        """The config sees to it where it knows the key; a table that a pattern finds may have a key of its own."""
        emptied = {name for name, way in masks.items() if way == "null"}
        for rule, names in (("drop", dropped), ("mask", emptied), ("derive", {*self.derive})):
            if both := names & {*self.key}:
                raise TableError(
                    f"{min(both)!r} is a key column, which this rule would take from the table",
                    where=f"{self.where}.{rule}",
                    hint="leave the key out of the rule; mask: sha256 keeps keys apart",
                )

    def _check_filter(self, columns: Schema) -> None:
        kind = self.filter.type(columns, timestamps=self.timestamps) if self.filter else "boolean"
        if self.filter and kind != "boolean":
            raise TableError(
                f"{self.filter.sql!r} is a {kind}, not true or false",
                where=self.filter.where,
                hint="compare it with something, as in status <> 'test'",
            )


@dataclass(frozen=True, slots=True)
class Ruled:
    """Rows after the rules, the rejects among them, and how many were left out by the filter."""

    rows: pl.DataFrame
    rejects: pl.DataFrame
    left_out: int


@dataclass(frozen=True, slots=True)
class RuledColumns:
    """Rules over the columns of some files: `source` as they are read, `table` as the table gets them."""

    rules: Rules
    source: Schema
    table: Schema
    casts: Mapping[str, tuple[str, str]]
    derived: Mapping[str, str]
    masks: Mapping[str, str]

    @property
    def typed(self) -> frozenset[str]:
        """The columns whose type a rule states."""
        return frozenset((*self.casts, *self.derived, *(name for name, way in self.masks.items() if way == "sha256")))

    def apply(self, rows: pl.DataFrame, files: Sequence[str], *, leave_out: bool) -> Ruled:
        """Rows with the columns of `table` and their helper columns; `files` are the files' names by their ordinals.

        Where `leave_out`, rows that the filter does not let through are left out; else they become the D of their key.
        """
        live = rows[OP] != DELETE
        reasons = _Reasons(rows.height, show=not self.masks)
        frame = self._cast(rows, live, reasons)
        passing = live & ~reasons.found
        if self.rules.filter is not None:
            passing &= self._values(self.rules.filter, "boolean", frame, passing, reasons, "filter").fill_null(
                value=False
            )
        made = {
            name: self._values(self.rules.derive[name], kind, frame, passing, reasons, f"derive '{name}'").alias(name)
            for name, kind in self.derived.items()
        }
        fails, gone = reasons.found, live & ~passing & ~reasons.found
        frame = self._masked(frame.with_columns(list(made.values())))
        left = ~fails & ~gone if leave_out else ~fails
        if not leave_out and gone.any():
            frame = frame.with_columns(pl.when(gone).then(pl.lit(DELETE)).otherwise(pl.col(OP)).alias(OP))
        kept = frame.lazy().filter(left) if not left.all() else frame.lazy()
        names = [column.name for column in self.table]
        helpers = [name for name in rows.columns if name.startswith(_OWN) and self._is_of_table(name)]
        rejects = self._rejects(rows, reasons, files) if fails.any() else pl.DataFrame(schema=REJECT_SCHEMA)
        return Ruled(kept.select(*names, *helpers).collect(), rejects, int(gone.sum()) if leave_out else 0)

    def withheld(self, rejects: pl.DataFrame) -> pl.DataFrame:
        """A reader's rejects without the values of their rows, where the table masks some."""
        if not self.masks or not rejects.height:
            return rejects
        reasons = [_QUOTED.sub(lambda found: found[0] if found[1] else _WITHHELD, text) for text in rejects["reason"]]
        return rejects.with_columns(pl.Series("reason", reasons, dtype=pl.String), raw=pl.lit(_WITHHELD))

    def _cast(self, rows: pl.DataFrame, live: pl.Series, reasons: _Reasons) -> pl.DataFrame:
        for name, (have, want) in self.casts.items():
            for column in (name, *self._belonging(name, rows.columns)):
                values, failed = cast_values(rows[column], have, want)
                failed &= live
                if failed.any():
                    shown = as_text(rows[column]).str.slice(0, _SHOWN_CHARS)
                    reasons.add(failed, f"column '{name}': ", shown, f" is no {want}")
                rows = rows.with_columns(values.alias(column))
        return rows

    def _belonging(self, name: str, columns: Sequence[str]) -> list[str]:
        """The helper columns that hold other values of a key column: those from before a change."""
        return [column for column in before_columns(columns) if column == BEFORE + name]

    def _is_of_table(self, helper: str) -> bool:
        """Whether a helper column still has its column."""
        dropped = {column.name for column in self.source} - {column.name for column in self.table}
        return helper.removeprefix(UNSET) not in dropped

    def _values(
        self, each: Expression, kind: str, frame: pl.DataFrame, wanted: pl.Series, reasons: _Reasons, label: str
    ) -> pl.Series:
        values, failed = each.values(frame, wanted)
        if failed:
            mask = pl.zeros(frame.height, dtype=pl.Int8, eager=True).scatter(list(failed), 1) == 1
            texts = pl.Series([failed.get(place) for place in range(frame.height)], dtype=pl.String)
            reasons.add(mask, f"{label}: ", texts, "")
        try:
            return as_stored(values, kind)
        except _ERRORS as error:
            raise TableError(
                f"{each.sql!r} has values that are no {kind}, which its columns promise",
                where=each.where,
                hint="say the type: CAST(... AS ...)",
            ) from error

    def _masked(self, frame: pl.DataFrame) -> pl.DataFrame:
        for name, way in self.masks.items():
            for column in (name, *self._belonging(name, frame.columns)):
                values = frame[column]
                masked = _hashed(values) if way == "sha256" else values.clear(len(values))
                frame = frame.with_columns(masked.alias(column))
        return frame

    def _rejects(self, rows: pl.DataFrame, reasons: _Reasons, files: Sequence[str]) -> pl.DataFrame:
        bad = rows.filter(reasons.found)
        names = [column.name for column in self.source]
        raw = (
            [_WITHHELD] * bad.height if self.masks else [_json(row) for row in bad.select(names).iter_rows(named=True)]
        )
        return pl.DataFrame(
            {
                "file": [files[ordinal] for ordinal in bad[FILE]],
                "row": bad[ROW],
                "reason": reasons.texts.filter(reasons.found),
                "raw": raw,
            },
            schema=REJECT_SCHEMA,
        )


class _Reasons:
    """Why rows are rejected; the first reason of a row stays. Values are told only with `show`."""

    def __init__(self, height: int, *, show: bool) -> None:
        self.found = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
        self.texts = pl.repeat(None, height, dtype=pl.String, eager=True)
        self._show = show

    def add(self, failed: pl.Series, before: str, value: pl.Series, behind: str) -> None:
        """Rows have failed, each for its value."""
        shown = ("'" + value + "'") if behind else value
        text = pl.select(pl.lit(before) + (pl.lit(shown) if self._show else pl.lit(_WITHHELD)) + behind).to_series()
        if len(text) != len(failed):
            text = text.new_from_index(0, len(failed))
        self.texts = self.texts.zip_with(~failed | self.found, text)
        self.found |= failed


def _hashed(values: pl.Series) -> pl.Series:
    """SHA-256 of each value's text in UTF-8, as lower hex digits; NULL stays NULL."""
    texts = as_text(values).to_list()
    digests = [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return pl.Series(values.name, digests, dtype=pl.String)


def _json(row: Mapping[str, object]) -> str:
    def text(value: object) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(row, default=text, ensure_ascii=False)
