"""What the columns of a batch's files mean for the table's: added, wider, turned into text, or in the way (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cdcloader.changes.schema import VOID, Field, Schema, fits, wider
from cdcloader.errors import TableError

# The member of a column's metadata that names the type which it had before it turned into text.
TEXT_OF = "cdcloader.textOf"
_ZONES = {"timestamp", "timestamp_ntz"}
_INTEGERS = ("byte", "short", "integer", "long")


class Kind(StrEnum):
    """What happened to a column; `retyped` and `dropped` are of reloads, which take the columns as they come."""

    ADDED = "added"
    WIDENED = "widened"
    TO_STRING = "to_string"
    RETYPED = "retyped"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Seen:
    """A column, and the type that a file has it in; each pair is named once, with the first file that has it."""

    file: str
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a table's columns; `old` is None for a new column, `new` for one that is gone."""

    column: str
    kind: Kind
    old: str | None
    new: str | None
    file: str

    def told(self) -> dict[str, Any]:
        """The change as a commit tells it."""
        return {"column": self.column, "kind": str(self.kind), "from": self.old, "to": self.new, "file": self.file}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the config says: `schema`, `on_type_change`, the key and partition columns, and `columns` with its types."""

    schema: str = "evolve"
    on_type_change: str = "widen"
    key: frozenset[str] = frozenset()
    partition_by: frozenset[str] = frozenset()
    pinned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evolution:
    """The table's columns as they will be, and what changes for that.

    `properties` are what the target is to remember beside them, None for what it is to forget.
    """

    schema: Schema
    changes: tuple[Change, ...] = ()
    properties: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def retyped(self) -> tuple[Change, ...]:
        """The changes for which rows that are there must be written again."""
        return tuple(change for change in self.changes if change.kind in (Kind.WIDENED, Kind.TO_STRING))

    @property
    def rest(self) -> Evolution:
        """What is left to change when they were."""
        return replace(self, changes=tuple(change for change in self.changes if change.kind is Kind.ADDED))


def evolve(seen: Sequence[Seen], table: Schema, policy: Policy) -> Evolution:
    """The columns of a table after a batch: its own, then the new ones; () stands for a table that is yet to be made.

    A column that the files lack stays. TableError, with the first file that is in the way, when the policy or the
    types forbid a change. With `schema: quarantine` columns stay as they are, and rows that need others are rejects.
    """
    if not table:
        policy = replace(policy, schema="evolve")
    columns = {column.name: column for column in table}
    changes: dict[str, Change] = {}
    origin: dict[str, str] = {}
    for one in seen:
        if one.name not in columns:
            if policy.schema == "quarantine" and one.name not in policy.pinned:
                continue
            if policy.schema == "freeze" and one.name not in policy.pinned:
                names = [each.name for each in seen if each.file == one.file]
                raise _frozen(one.file, names, columns.keys() | policy.pinned.keys())
            columns[one.name] = Field(one.name, policy.pinned.get(one.name, one.type))
            changes[one.name] = Change(one.name, Kind.ADDED, None, None, one.file)
            origin[one.name] = one.file
        before = columns[one.name]
        after = _taken(before, one, policy, origin.get(one.name))
        if after != before:
            columns[one.name] = after
            if one.name in origin:
                origin[one.name] = one.file
            kind = Kind.TO_STRING if after.type == "string" else Kind.WIDENED
            changes.setdefault(one.name, Change(one.name, kind, before.type, None, one.file))
            if changes[one.name].kind is not Kind.ADDED:
                changes[one.name] = replace(changes[one.name], kind=kind)
    schema = tuple(replace(each, type="string") if each.type == VOID else each for each in columns.values())
    types = {column.name: column.type for column in schema}
    told = tuple(replace(change, new=types[name]) for name, change in changes.items())
    return Evolution(schema, told if table else ())


def replaced(old: Schema, new: Schema, file: str) -> tuple[Change, ...]:
    """What a full load changes that takes the columns as they come."""
    before, after = ({column.name: column.type for column in schema} for schema in (old, new))
    names = dict.fromkeys([*before, *after])
    kinds = {name: _replaced(before.get(name), after.get(name)) for name in names}
    return tuple(Change(name, kind, before.get(name), after.get(name), file) for name, kind in kinds.items() if kind)


def check_frozen(found: Schema, table: Schema, file: str) -> Schema:
    """The table's own columns, for a full load that may not change them; TableError where it brings others."""
    known = {column.name: column.type for column in table}
    new = {column.name: column.type for column in found}
    surplus = [name for name in new if name not in known]
    if surplus:
        raise _frozen(file, surplus, known)
    missing = [name for name in known if name not in new]
    if missing:
        raise TableError(
            f"the full load lacks {_listed(missing)}, and schema is freeze",
            where=file,
            hint="have DMS write these columns, or set schema: evolve to take the columns as they come",
        )
    unfit = next((name for name, kind in new.items() if not fits(kind, known[name])), None)
    if unfit is not None:
        raise TableError(
            f"column {unfit!r} has type {new[unfit]}, the table has {known[unfit]}, and schema is freeze",
            where=file,
            hint="set schema: evolve to take the types as they come",
        )
    return table


def retyped(table: Schema, evolution: Evolution) -> Schema:
    """The table's own columns with their types as they will be."""
    after = {column.name: column for column in evolution.schema}
    return tuple(after[column.name] for column in table)


def by_file(columns: Iterable[Field], file: str) -> list[Seen]:
    """Columns as one file has them."""
    return [Seen(file, column.name, column.type) for column in columns]


def _taken(column: Field, one: Seen, policy: Policy, origin: str | None) -> Field:
    """The column after a file that has it as `one` says; `origin` is the file that a new column's type is from."""
    pinned = policy.pinned.get(one.name)
    if pinned is not None:
        return _pinned(column, pinned, one, policy)
    if fits(one.type, column.type) or (policy.schema == "quarantine" and origin is None):
        return column
    through = (column.metadata or {}).get(TEXT_OF)
    if isinstance(through, str) and fits(one.type, through):
        return column
    becomes = wider(column.type, one.type)
    may_be_text = policy.on_type_change == "string"
    if column.type == "string" and may_be_text:
        return column
    if origin is not None:
        if becomes is None and (not may_be_text or one.name in policy.key | policy.partition_by):
            raise _unlike(column, one, origin)
    else:
        _refuse(column, becomes, one, policy)
    return replace(column, type=becomes) if becomes is not None else _text(column)


def _refuse(column: Field, becomes: str | None, one: Seen, policy: Policy) -> None:
    """TableError unless a column that has values may take the type that it needs (None: text)."""
    if {column.type, one.type} == _ZONES:
        # The source did not change its type: the config did, or DMS's Parquet version.
        raise _in_the_way(column, one, "one of them is a time without a zone", "restore `timestamps` in the config")
    if policy.schema == "freeze" or policy.on_type_change == "block":
        freeze, text = policy.schema == "freeze", becomes is None
        key = "schema is freeze" if freeze else "on_type_change is block"
        way_out = "set schema: evolve" if freeze else f"set on_type_change: {'string' if text else 'widen'}"
        raise _in_the_way(column, one, key, way_out)
    _refuse_fixed(column, becomes, one, policy)
    if becomes is None and policy.on_type_change != "string":
        way_out = "set on_type_change: string to turn the column into text"
        raise _in_the_way(column, one, "no type holds the values of both", way_out)


def _pinned(column: Field, pinned: str, one: Seen, policy: Policy) -> Field:
    """A column whose type the config states: that is an order, as far as it loses nothing."""
    if not fits(pinned, column.type):
        if fits(column.type, pinned):
            _refuse_fixed(column, pinned, one, policy)
            column = replace(column, type=pinned)
        elif pinned == "string" and policy.on_type_change == "string":
            _refuse_fixed(column, None, one, policy)
            column = _text(column)
        else:
            raise TableError(
                f"`columns` says that column {one.name!r} is {pinned}, the table has {column.type}",
                where=one.file,
                hint="correct `columns` in the config, or reload the table to take the new type",
            )
    if fits(one.type, column.type) or "string" in (one.type, column.type) or policy.schema == "quarantine":
        return column
    raise TableError(
        f"column {one.name!r} has type {one.type}, and by `columns` it is {pinned}",
        where=one.file,
        hint="set a type under `columns` that holds it",
    )


def _text(column: Field) -> Field:
    return replace(column, type="string", metadata={**(column.metadata or {}), TEXT_OF: column.type})


def _refuse_fixed(column: Field, becomes: str | None, one: Seen, policy: Policy) -> None:
    """The key and the partitions of a table keep their types, but for partitions whose text stays as it is."""
    role = "key" if column.name in policy.key else "partition" if column.name in policy.partition_by else None
    same_text = becomes is not None and column.type in _INTEGERS and (becomes in _INTEGERS or becomes.endswith(",0)"))
    if role is None or (role == "partition" and same_text):
        return
    raise _in_the_way(column, one, f"it is a {role} column, whose type never changes", "")


def _in_the_way(column: Field, one: Seen, why: str, way_out: str) -> TableError:
    reload = "reload the table to take the new type"
    return TableError(
        f"column {column.name!r} has type {one.type}, the table has {column.type}; {why}",
        where=one.file,
        hint=f"{way_out}, or {reload}" if way_out else reload,
    )


def _unlike(column: Field, one: Seen, file: str) -> TableError:
    return TableError(
        f"column {one.name!r} has type {column.type} in {file} and {one.type} in {one.file}",
        where=one.file,
        hint="set the column's type under `columns`, or have DMS load the table again",
    )


def _frozen(file: str, names: Iterable[str], known: Iterable[str]) -> TableError:
    new = [name for name in dict.fromkeys(names) if name not in set(known)]
    return TableError(
        f"the file has {_listed(new)}, which the table does not have, and schema is freeze",
        where=file,
        hint=f"name {'it' if len(new) == 1 else 'them'} under `columns` to take {'it' if len(new) == 1 else 'them'} "
        "in, or set schema: evolve",
    )


def _listed(names: Sequence[str]) -> str:
    return f"{'the column' if len(names) == 1 else 'the columns'} {', '.join(map(repr, names))}"


def _replaced(old: str | None, new: str | None) -> Kind | None:
    if old == new:
        return None
    return Kind.ADDED if old is None else Kind.DROPPED if new is None else Kind.RETYPED
