"""The changes of a table's columns: how a commit tells them, and which ones the log knows of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdcloader.changes.evolution import Change, Kind
from cdcloader.lake.log import DeltaLog

SCHEMA_CHANGES = "schemaChanges"


@dataclass(frozen=True, slots=True)
class Logged:
    """A change, and the version of the table that made it."""

    version: int
    change: Change


def changes_info(changes: Sequence[Change]) -> dict[str, Any]:
    """The member of our part of a commitInfo that tells of changes; nothing where there are none."""
    return {SCHEMA_CHANGES: [change.told() for change in changes]} if changes else {}


def schema_changes(log: DeltaLog, first: int, last: int) -> list[Logged]:
    """The changes of the columns that versions first..last made, as far as the log still has them, oldest first."""
    return [
        Logged(version, _change(told))
        for version, info in log.infos(first, last)
        for told in info.get(SCHEMA_CHANGES, ())
    ]


def _change(told: Mapping[str, Any]) -> Change:
    return Change(told["column"], Kind(told["kind"]), told["from"], told["to"], told["file"])
