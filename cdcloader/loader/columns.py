"""The columns that raw files have, and those that the table gets: the same, unless column rules make others of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import structlog

from cdcloader.changes.conversion import as_text
from cdcloader.changes.evolution import Evolution, Seen, check_frozen, evolve, replaced
from cdcloader.changes.schema import Field, Schema, from_json, polars_type, to_json
from cdcloader.config import Table
from cdcloader.errors import ConfigError, TableError
from cdcloader.lake.snapshot import Snapshot
from cdcloader.loader.context import Context, check_columns, overlay
from cdcloader.source.row_format import Chunk, FileInput
from cdcloader.source.rows import survey
from cdcloader.source.rules import Ruled, RuledColumns, Rules
from cdcloader.source.sql import parse

# Properties of a target. The first holds the columns of the files, as a schemaString, where these are not the table's.
SOURCE_PROPERTY = "cdcloader.sourceColumns"
# A digest of the rules by which the newest rows were made; the other says that some rows were made by other rules.
RULES_PROPERTY, MIXED_PROPERTY = "cdcloader.columnRules", "cdcloader.columnRulesMixed"
_RULES = ("rename", "cast", "filter", "derive", "mask", "drop")


@dataclass(frozen=True, slots=True)
class Columns:
    """`source` is what rows are read as, `evolution` what becomes of the table; `ruled` makes the one of the other."""

    source: Schema
    evolution: Evolution
    ruled: RuledColumns | None = None

    @property
    def differ(self) -> bool:
        """Whether rows that were read are not yet the table's."""
        return self.ruled is not None or self.source is not self.evolution.schema

    def applied(self, chunk: Chunk, inputs: Sequence[FileInput], *, leave_out: bool) -> Ruled:
        """A chunk's rows as the table's, and its rejects with those of the rules; helper columns stay.

        `leave_out`: rows that the filter does not let through are left out; else they become the D of their key.
        """
        if self.ruled is None:
            return Ruled(self._whole(chunk.rows), chunk.rejects, 0)
        found = self.ruled.apply(chunk.rows, [file.name for file in inputs], leave_out=leave_out)
        rejects = self.ruled.withheld(chunk.rejects)
        if found.rejects.height:
            rejects = pl.concat([rejects, found.rejects]).sort("file", "row") if rejects.height else found.rejects
        return Ruled(self._whole(found.rows), rejects, found.left_out)

    def _whole(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with all columns of the table, NULL where the files have none."""
        made: list[pl.Series] = []
        for column in self.evolution.schema:
            dtype = polars_type(column.type)
            if column.name not in rows.columns:
                made.append(pl.Series(column.name, [None], dtype=dtype).new_from_index(0, rows.height))
            elif rows.schema[column.name] != dtype:
                values = rows[column.name]
                made.append(as_text(values) if column.type == "string" else values.cast(dtype))
        return rows.with_columns(made) if made else rows


def has_rules(table: Table) -> bool:
    """Whether the config states any rule for the table's columns."""
    return any(getattr(table, rule) for rule in _RULES)


def rules_of(table: Table, where: str | None = None) -> Rules:
    """The rules of a table; TableError when an expression is none, with its place in the config."""
    where = where or f"tables[{table.source}]"
    return Rules(
        where=where,
        key=table.primary_key or (),
        timestamps=table.timestamps,
        rename=table.rename,
        cast=table.cast,
        filter=parse(table.filter, f"{where}.filter") if table.filter else None,
        derive={name: parse(sql, f"{where}.derive.{name}") for name, sql in table.derive.items()},
        mask=table.mask,
        must_mask=table.own_masks,
        drop=table.drop,
    )


def check_expressions(tables: Sequence[Table]) -> None:
    """ConfigError that names every SQL expression of the config's tables that is none."""
    faults = []
    for index, table in enumerate(tables):
        expressions = {f"derive.{name}": sql for name, sql in table.derive.items()}
        for rule, sql in {**({"filter": table.filter} if table.filter else {}), **expressions}.items():
            try:
                parse(sql, f"tables[{index}].{rule}")
            except TableError as error:
                faults.append(f"{error.where}: {error.what}")
    if faults:
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ConfigError("\n  ".join((f"the config has {count}:", *faults)), faults=tuple(faults))


def source_columns(table: Table, base: Snapshot | None, where: str) -> Schema:
    """The columns of the files as far as the target knows them; () without a target."""
    if base is None:
        return ()
    stored = base.configuration.get(SOURCE_PROPERTY)
    known = base.schema(where) if stored is None else from_json(stored, where=where)
    if not table.rename:
        return known
    new = {old.lower(): name for old, name in table.rename.items()}
    renamed: dict[str, Field] = {}
    for column in known:
        name = new.get(column.name.lower(), column.name)
        renamed.setdefault(name, replace(column, name=name))
    return tuple(renamed.values())


def batch_columns(context: Context, base: Snapshot | None, inputs: Sequence[FileInput]) -> Columns:
    """The columns after a batch; TableError when its files do not fit the table, or the config."""
    table, where = context.table, context.log.where
    known = source_columns(table, base, where)
    seen = survey(inputs, context.row_format(overlay(known, table)))
    if has_rules(table) or (base is not None and SOURCE_PROPERTY in base.configuration):
        columns = _ruled_columns(context, base, known, seen)
    else:
        evolution = evolve(seen, known, context.policy)
        columns = Columns(evolution.schema, evolution)
    if columns.evolution.schema:
        files = inputs[0].name if len(inputs) == 1 else f"{inputs[0].name} .. {inputs[-1].name}"
        check_columns(table, columns.evolution.schema, files)
        columns = _remembered(table, base, columns, fresh=False)
    return columns


def load_columns(context: Context, base: Snapshot | None, source: Schema, file: str) -> Columns:
    """The columns after a full load whose files have `source`, in place of those that the table has."""
    table, where = context.table, context.raw.path_of(context.table.source)
    ruled = rules_of(table).over(source, where) if has_rules(table) else None
    made = source if ruled is None else ruled.table
    before = base.schema(context.log.where) if base is not None else ()
    if base is not None and table.schema == "freeze":
        made = check_frozen(made, before, where)
        source = made if ruled is None else source
    check_columns(table, made, where)
    changes = replaced(before, made, file) if base is not None else ()
    return _remembered(table, base, Columns(source, Evolution(made, changes), ruled), fresh=True)


def _ruled_columns(context: Context, base: Snapshot | None, known: Schema, seen: Sequence[Seen]) -> Columns:
    """What the files have evolves what is known of them; what the rules make of it evolves the table."""
    source = evolve(seen, known, context.source_policy).schema
    if not source:
        return Columns((), Evolution(()))
    ruled = rules_of(context.table).over(source, seen[0].file if seen else context.log.where)
    before = base.schema(context.log.where) if base is not None else ()
    types = {column.name: column.type for column in ruled.table}
    # Of a column that a rule gives a type, the files' types say nothing.
    made = [
        Seen(one.file, one.name, types[one.name] if one.name in ruled.typed else one.type)
        for one in seen
        if one.name in types and any(column.name == one.name for column in source)
    ]
    made += [Seen(seen[0].file, name, types[name]) for name in ruled.derived if seen]
    stated = {name: types[name] for name in ruled.typed if name in types}
    fresh = {name: kind for name, kind in stated.items() if all(column.name != name for column in before)}
    policy = replace(
        context.policy, pinned={**{n: t for n, t in context.table.columns.items() if n not in stated}, **fresh}
    )
    return Columns(source, evolve(made, before, policy), ruled)


def _remembered(table: Table, base: Snapshot | None, columns: Columns, *, fresh: bool) -> Columns:
    """The same columns with what the target's properties will tell of rules; `fresh`: no older row stays."""
    before = base.configuration if base is not None else {}
    digest = digest_of(table)
    ours = (SOURCE_PROPERTY, RULES_PROPERTY, MIXED_PROPERTY)
    if digest is None and not any(name in before for name in ours):
        return columns
    source, made = ([(c.name, c.type) for c in each] for each in (columns.source, columns.evolution.schema))
    other = base is not None and before.get(RULES_PROPERTY) != digest
    properties = {
        SOURCE_PROPERTY: None if source == made else to_json(columns.source),
        RULES_PROPERTY: digest,
        MIXED_PROPERTY: "true" if not fresh and (other or MIXED_PROPERTY in before) else None,
    }
    if other or base is None:
        _tell_rules(table, columns, mixed=other and not fresh)
    return replace(columns, evolution=replace(columns.evolution, properties=properties))


def digest_of(table: Table) -> str | None:
    """What tells these rules from others; None without any."""
    if not has_rules(table):
        return None
    rules = {rule: value for rule in _RULES if (value := getattr(table, rule))}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def _tell_rules(table: Table, columns: Columns, *, mixed: bool) -> None:
    """Log what no error is, once for each set of rules: older rows that keep their values, rules without a column."""
    log = structlog.get_logger().bind(table=table.source)
    if mixed:
        log.warning("column rules changed: rows that are in the table keep their values until it is reloaded")
    unused = columns.ruled.rules.unused(columns.source) if columns.ruled is not None else ()
    if unused:
        log.warning("column rules name columns that the source does not have", columns=list(unused))


def check_unmixed(table: Table, base: Snapshot, where: str) -> None:
    """TableError when rows of the table were made by other rules than the config's, so that files do not tell them."""
    if MIXED_PROPERTY in base.configuration or base.configuration.get(RULES_PROPERTY) != digest_of(table):
        raise TableError(
            "column rules changed since the table was loaded, and its rows keep what the rules of their time made",
            where=where,
            hint="reload the table to bring all rows under the rules of the config",
        )
