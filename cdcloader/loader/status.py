"""A table's line in `status`, as people and programs read it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cdcloader.redaction import redacted_text
from cdcloader.source.actions import Plan
from cdcloader.state.record import NEVER, Phase, Record


def status_of(
    source: str,
    target: str,
    record: Record | None,
    plan: Plan | None,
    now: datetime,
    *,
    error: str | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """The fields of `status --json` (DESIGN section 6); `error` is trouble met while looking, else the recorded one.

    `note` is what an operator should know of a table that is not in trouble.
    """
    oldest = plan.oldest_unapplied if plan else None
    loaded = record is not None and record.last_full_load_date > NEVER
    return {
        "source": source,
        "target": target,
        "phase": _phase(record, error),
        "generation": record.generation if record else 0,
        "last_full_load_date": record.last_full_load_date.isoformat() if record and loaded else None,
        "last_incremental_file": record.last_incremental_file if record else None,
        "backlog_files": plan.backlog_files if plan else None,
        "backlog_bytes": plan.backlog_bytes if plan else None,
        "lag_seconds": _lag_seconds(plan, oldest, now),
        "delta_version": record.recorded_version if record else None,
        "rows_inserted": record.rows_inserted if record else 0,
        "rows_updated": record.rows_updated if record else 0,
        "rows_deleted": record.rows_deleted if record else 0,
        "rows_quarantined": record.rows_quarantined if record else 0,
        "skipped_files": len(record.skipped_files) if record else 0,
        "error": error or (_error_text(record) if record else None),
        "note": note,
    }


def _phase(record: Record | None, error: str | None) -> str:
    if record is None:
        # Trouble where nothing is known yet: the record is damaged, or the source is not there.
        return str(Phase.BLOCKED if error else Phase.NEW)
    return str(record.phase if record.active else Phase.PAUSED)


def _lag_seconds(plan: Plan | None, oldest: datetime | None, now: datetime) -> float | None:
    if plan is None:
        return None
    return max(0.0, round((now - oldest).total_seconds(), 3)) if oldest else 0.0


def _error_text(record: Record) -> str | None:
    if record.last_error is None:
        return None
    place = f"{record.last_error_file}: " if record.last_error_file else ""
    hint = f" ({record.last_error_hint})" if record.last_error_hint else ""
    # Another program, or an older version of this one, may have written it.
    return redacted_text(f"{place}{record.last_error}{hint}")


def sort_by_trouble(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocked tables first, then by lag."""
    return sorted(rows, key=lambda row: (not _troubled(row), -(row["lag_seconds"] or 0.0), row["source"]))


def _troubled(row: Mapping[str, Any]) -> bool:
    return row["error"] is not None or row["phase"] in (Phase.BLOCKED, Phase.RETRYING)
