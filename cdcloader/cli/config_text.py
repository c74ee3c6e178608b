"""The text of a config for the tables that a survey found: plain YAML, with what should be checked beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from cdcloader.config.values import target_name
from cdcloader.loader.survey import Surveyed
from cdcloader.source.survey import Found

# A schema of so many tables that differ in their keys alone is one entry.
PATTERN_TABLES = 20
_WIDTH = 10**6


def config_text(raw: str, lake: str, state: dict[str, str], found: Surveyed) -> str:
    """A config that loads these tables; ValueError where there is none that could be loaded."""
    good = [table for table in found.tables if not _bad_name(table)]
    if not good:
        reasons = "".join(f"; {source}: {why}" for source, why in found.unread[:1])
        raise ValueError(f"no folder holds files that DMS writes{reasons}")
    shared, rest = _shared(good)
    lines = [
        f"# Written by `cdcloader init` from what lies in {_comment(raw)}",
        '# What is marked "review" was guessed from a few rows: check it, above all every primary_key.',
        "# docs/configuration.md explains every key.",
        "",
        f"raw: {_flow(raw)}",
        f"lake: {_flow(lake)}",
        f"state: {_flow(state)}",
        *_zone(found.hours_off),
        *_defaults(shared, good[0], found),
        "",
        "tables:",
    ]
    for schema, tables in _by_schema(good).items():
        if len(tables) >= PATTERN_TABLES and all(rest[table.source] == rest[tables[0].source] for table in tables):
            lines += _pattern(schema, tables, rest[tables[0].source])
        else:
            for table in tables:
                lines += _entry(table, rest[table.source])
    lines += [f"\n# No entry for {_comment(source)}: {_comment(why)}." for source, why in found.unread]
    lines += [
        f"\n# No entry for {_comment(table.source)}: {_comment(_bad_name(table))}."
        for table in found.tables
        if _bad_name(table)
    ]
    return "\n".join(lines) + "\n"


def _shared(tables: Sequence[Found]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings that all tables have in common, and what each has beside them."""
    settings = [dict(table.settings) for table in tables]
    common = {
        key: value
        for key, value in settings[0].items()
        if len(tables) > 1 and key not in ("columns", "version") and all(each.get(key) == value for each in settings)
    }
    rest = {
        table.source: {key: value for key, value in each.items() if key not in common}
        for table, each in zip(tables, settings, strict=True)
    }
    return common, rest


def _defaults(shared: dict[str, Any], first_table: Found, found: Surveyed) -> list[str]:
    lines = [f"  {key}: {_flow(value)}{_review(first_table, key)}" for key, value in shared.items()]
    if found.cdc_paths:
        first, *others = found.cdc_paths
        review = f"  # review: there is also {_comment(', '.join(others))}" if others else ""
        lines.append(
            f"  cdc_path: {_flow(first)}  # files of PreserveTransactions, with the changes of all tables{review}"
        )
    return ["defaults:", *lines] if lines else []


def _zone(hours: float) -> list[str]:
    if not hours:
        return []
    return [
        f"# review: the names of CDC files are about {hours:+g} h from UTC. Is DatePartitionTimezone set? Then write",
        "# defaults: {timezone: Area/City}",
    ]


def _by_schema(tables: Iterable[Found]) -> dict[str, list[Found]]:
    schemas: dict[str, list[Found]] = defaultdict(list)
    for table in tables:
        schemas[table.source.partition("/")[0]].append(table)
    return schemas


def _pattern(schema: str, tables: Sequence[Found], settings: dict[str, Any]) -> list[str]:
    """One entry for a schema; the key that most tables have is its key."""
    (usual, count), *_ = Counter(table.primary_key for table in tables).most_common()
    source = _flow(f"{_escaped(schema)}/*")
    lines = [
        f"  - source: {source}  # {len(tables):,} tables of one shape; in the first {_comment(tables[0].seen)}",
        f"    primary_key: {_flow(list(usual) or None)}  # review: the guess for {count:,} of them",
    ]
    lines += [f"    {key}: {_flow(value)}{_review(tables[0], key)}" for key, value in settings.items()]
    others = [table for table in tables if table.primary_key != usual]
    if others:
        lines.append("    primary_keys:")
        lines += [
            f"      {_flow(_escaped(table.source.rpartition('/')[2]))}: {_flow(list(table.primary_key) or None)}"
            f"{_review(table, 'primary_key')}"
            for table in others
        ]
    doubts = dict.fromkeys(table.doubt("") for table in tables if table.doubt(""))
    return [*lines, *(f"    # review: {_comment(doubt)}" for doubt in doubts)]


def _entry(table: Found, settings: dict[str, Any]) -> list[str]:
    lines = [
        f"  - source: {_flow(_escaped(table.source))}  # {_comment(table.seen)}",
        f"    primary_key: {_flow(list(table.primary_key) or None)}{_review(table, 'primary_key')}"
        + ("" if table.primary_key else "; without a key, updates and deletes go to quarantine"),
    ]
    for key, value in settings.items():
        if isinstance(value, dict) and key == "columns":
            lines.append(f"    columns:{_review(table, key)}")
            lines += [f"      {_flow(name)}: {_flow(kind)}" for name, kind in value.items()]
        else:
            lines.append(f"    {key}: {_flow(value)}{_review(table, key)}")
    return [*lines, *([f"    # review: {_comment(table.doubt(''))}"] if table.doubt("") else [])]


def _escaped(source: str) -> str:
    """A source that is a name and no pattern, though it may look like one."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in source)


def _bad_name(table: Found) -> str:
    if "${" in table.source:
        return "a config would take the name for that of a variable"
    try:
        target_name(table.source)
    except ValueError as error:
        return str(error)
    return ""


def _review(table: Found, key: str) -> str:
    doubt = table.doubt(key)
    return f"  # review: {_comment(doubt)}" if doubt else ""


def _flow(value: Any) -> str:
    """A value on one line, as YAML; `$` is doubled nowhere, as only ${NAME} is replaced."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_WIDTH, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("\n")


def _comment(text: str) -> str:
    """A text that cannot end a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
