"""The table that a folder becomes by an entry whose source is a pattern."""

from __future__ import annotations

from cdcloader.config.models import Table
from cdcloader.config.patterns import filled, matches, matches_table
from cdcloader.config.values import target_name


def wants(entry: Table, source: str) -> bool:
    """Whether the entry's pattern names this folder, and none of its `exclude` does."""
    return matches(entry.source, source) and not any(matches_table(each, source) for each in entry.exclude)


def table_of(entry: Table, source: str) -> Table:
    """The table with the entry's keys; ValueError when the folder's name makes no target."""
    target = source if entry.target == entry.source else filled(entry.target, source)
    own = {"source": source, "target": target_name(target), "primary_key": key_of(entry, source)}
    return entry.model_copy(update={**own, "exclude": (), "primary_keys": {}}).sharing(entry.mask)


def key_of(entry: Table, source: str) -> tuple[str, ...] | None:
    """The first of `primary_keys` whose name or pattern matches the table, else `primary_key`."""
    keys = (key for each, key in entry.primary_keys.items() if matches_table(each, source))
    return next(keys, entry.primary_key)
