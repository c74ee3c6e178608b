"""Versioned reloads: the version that a table is made of, and the later one that is loaded beside it."""

from __future__ import annotations

from dataclasses import replace

from cdcloader.errors import TableError
from cdcloader.loader.context import Context
from cdcloader.loader.records import has_no_files
from cdcloader.source.actions import FullLoad, Plan, Progress
from cdcloader.source.layouts import Naming
from cdcloader.source.versions import is_later
from cdcloader.state.record import Record


def version_of(context: Context, record: Record) -> tuple[str | None, str | None]:
    """(the version whose files the table is made of, the later one that is to replace it, if any).

    TableError when the config wants an earlier one: what was loaded since would be lost unseen.
    """
    wanted, stands = context.table.version, record.source_version
    if has_no_files(record):
        return stands or wanted, None
    if wanted == stands:
        return stands, None
    if wanted is None or not is_later(wanted, stands):
        raise TableError(
            f"`version` is {wanted or 'not set'}, the table is made of {stands}, and versions may only increase",
            where=context.raw.path_of(context.table.source),
            hint=f"set version to {stands} or a later one (to go back, load the old files as a new version)",
        )
    return stands, wanted


def nothing_loaded(record: Record, naming: Naming) -> Progress:
    """Where a table stands in a version of which it holds nothing yet."""
    # Shared files are older than the version, which holds what they say up to its load: as after a reload.
    anew = naming.cdc_path is not None
    return Progress(
        record.generation, 0, 0, {}, 0, None, None, 0, full_load_date_edited=False, naming=naming, anew=anew
    )


def of_version(plan: Plan, version: str | None, *, instead_of: str | None = None) -> Plan:
    """The plan whose full load says of which version it is."""
    action = plan.action
    if not isinstance(action, FullLoad) or version is None:
        return plan
    reason = f"version {version} instead of {instead_of or 'none'}: {action.reason}" if instead_of != version else ""
    return replace(plan, action=replace(action, version=version, reason=reason or action.reason))
