"""What an emptied source says: a TRUNCATE of the source table, which DMS writes no file for (pure).

DMS removes every file of the table and writes nothing about it; a lifecycle rule removes files too, and from here
the two look alike. So nothing but the config (`on_source_truncate`) can say what an empty folder means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from cdcloader.source.actions import Batch, Limits, Nothing, Plan, Progress, Truncate, Wait
from cdcloader.source.names import Kind, RawFile


def is_emptied(files: Iterable[RawFile], progress: Progress) -> bool:
    """Whether every file that the table is known to be made of is gone from a listing since `list_from(progress)`.

    A LOAD file that is there is the old set or a newer one, and a CDC file at or behind the watermark is one that was
    not removed: neither is an emptied source. False for a table that no file is known of, so that a table is found
    emptied once.
    """
    if not progress.ledger and not progress.full_load_files:
        return False
    return not any(file.kind is Kind.LOAD or 0 < file.position <= progress.applied_up_to for file in files)


def with_truncation(plan: Plan, emptied_at: datetime, limits: Limits, now: datetime) -> Plan:
    """The plan for a source that was found emptied at `emptied_at`, where the config says that this is a TRUNCATE.

    Changes that came after it prove that it has ended; without them the folder must stay empty for `quiet_seconds`,
    because a restarted DMS task empties it too, and then writes LOAD files.
    """
    until = emptied_at + timedelta(seconds=limits.quiet_seconds)
    if isinstance(plan.action, Batch) or (isinstance(plan.action, Nothing) and now >= until):
        reason = "every raw file that the table was made of is gone, and on_source_truncate says truncate"
        return replace(plan, action=Truncate(reason))
    if isinstance(plan.action, Nothing):
        left = (until - now).total_seconds()
        reason = f"every raw file is gone: the table is emptied if none comes for {left:.0f} s more"
        return replace(plan, action=Wait(reason, until, ()))
    return plan
