"""The Delta log of one table: read any version, commit the next one atomically.

Source of the format: the Delta protocol, "Delta Log Entries", "Checkpoints" and "Last Checkpoint File". A
version is created only if it is absent, so that two writers can never both own it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq

from cdcloader.errors import CommitConflict, TableError, TransientError
from cdcloader.lake.snapshot import Action, Snapshot, apply
from cdcloader.objects import ObjectExists, ObjectInfo, ObjectMissing, Objects

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")
_CHECKPOINT_V2 = re.compile(r"(\d{20})\.checkpoint\.[0-9a-f-]{36}\.(?:json|parquet)")
_CHECKPOINT_COLUMNS = ("add", "txn", "metaData", "protocol")
INFO = "cdcloader"


@dataclass(frozen=True, slots=True)
class _Listing:
    """What stands in `_delta_log`: commits by version, and the parts of each complete checkpoint."""

    commits: dict[int, str]
    checkpoints: dict[int, list[str]]


class DeltaLog:
    """The log under `<table>/_delta_log/`; keeps the newest snapshot that it has read."""

    def __init__(self, objects: Objects, table: str) -> None:
        self._objects = objects
        self._table = table
        self._folder = f"{table}/_delta_log/"
        self._latest: Snapshot | None = None

    @property
    def where(self) -> str:
        """The table's location, for messages."""
        return self._objects.path_of(self._table)

    def snapshot(self, version: int | None = None) -> Snapshot | None:
        """The newest version, or the given one; None when there is no table.

        Only the commits since the last call are read. TableError when the log has a gap or lacks the version.
        """
        if version is not None:
            return self._read(self._list(""), None, version)
        if self._latest is None:
            listing = self._list(self._checkpoint_hint())
            if not listing.commits and not listing.checkpoints:
                return None
            self._latest = self._read(listing, None, None)
            return self._latest
        listing = self._list(f"{self._latest.version:020d}")
        if self._latest.version not in listing.commits and self._latest.version not in listing.checkpoints:
            self._latest = None  # The table was deleted, and perhaps made anew, behind our back.
            return self.snapshot()
        self._latest = self._read(listing, self._latest, None)
        return self._latest

    def commit(self, base: Snapshot | None, actions: Sequence[Action], info: Action) -> Snapshot:
        """Write version base+1 with `actions` and a commitInfo; nobody sees half of it.

        CommitConflict when another writer took the version. When the answer was lost, the version is read back
        and decided by our commit id; TransientError when it cannot be read either (plan again from the log).
        """
        version = base.version + 1 if base else 0
        commit_id = str(uuid.uuid4())
        info = {**info, INFO: {**info.get(INFO, {}), "commitId": commit_id}}
        lines = [{"commitInfo": info}, *actions]
        body = "\n".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines)
        try:
            self._objects.create(self._commit_key(version), body.encode())
        except ObjectExists as error:
            # A retry inside the client may meet the commit that its first try wrote.
            if self._commit_id(version) != commit_id:
                raise CommitConflict(f"version {version} was taken by another writer", where=self.where) from error
        except TransientError:
            if not self._was_committed(version, commit_id):
                raise
        self._latest = apply(base, version, actions, where=self.where)
        return self._latest

    def infos(self, first: int, last: int) -> list[tuple[int, Action]]:
        """(version, our part of the commitInfo) of versions first..last that we wrote and that still exist."""
        found = []
        for version in range(first, last + 1):
            try:
                info = self._info(version)
            except ObjectMissing:
                continue
            if INFO in info:
                found.append((version, info[INFO]))
        return found

    def forget(self) -> None:
        """Drop what was read, so that the next snapshot reads the log anew."""
        self._latest = None

    def _commit_key(self, version: int) -> str:
        return f"{self._folder}{version:020d}.json"

    def _actions(self, version: int) -> list[Action]:
        text = self._objects.read(self._commit_key(version)).decode()
        try:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except ValueError as error:
            raise TableError(
                f"version {version} of the Delta log is not JSON", where=self.where, hint="restore that file"
            ) from error

    def _info(self, version: int) -> Action:
        bodies = [action["commitInfo"] for action in self._actions(version) if "commitInfo" in action]
        return bodies[0] if bodies else {}

    def _commit_id(self, version: int) -> str | None:
        commit_id = self._info(version).get(INFO, {}).get("commitId")
        return None if commit_id is None else str(commit_id)

    def _was_committed(self, version: int, commit_id: str) -> bool:
        try:
            found = self._commit_id(version)
        except ObjectMissing:
            return False
        if found != commit_id:
            raise CommitConflict(f"version {version} was taken by another writer", where=self.where)
        return True

    def _checkpoint_hint(self) -> str:
        """The name from which a listing suffices, as `_last_checkpoint` says; it is only a hint."""
        try:
            hint = json.loads(self._objects.read(f"{self._folder}_last_checkpoint"))
            return f"{int(hint['version']):020d}"
        except (ObjectMissing, ValueError, KeyError, TypeError):
            return ""

    def _list(self, start: str) -> _Listing:
        found = self._objects.list(self._folder, start_after=f"{self._folder}{start}" if start else "")
        commits: dict[int, str] = {}
        parts: dict[tuple[int, int], list[str]] = {}
        for item in found:
            name = item.key.removeprefix(self._folder)
            if match := _COMMIT.fullmatch(name):
                commits[int(match[1])] = item.key
            elif match := _CHECKPOINT.fullmatch(name):
                parts.setdefault((int(match[1]), int(match[3] or 1)), []).append(item.key)
            elif _CHECKPOINT_V2.fullmatch(name):
                self._refuse_v2(item)
        complete = {version: keys for (version, count), keys in parts.items() if len(keys) == count}
        if start and not commits and not complete:
            return self._list("")
        return _Listing(commits, complete)

    def _refuse_v2(self, item: ObjectInfo) -> None:
        raise TableError(
            f"the table has a V2 checkpoint ({item.key}), which cdcloader does not read",
            where=self.where,
            hint="set delta.checkpointPolicy to classic and write a checkpoint, or give the source another `target`",
        )

    def _read(self, listing: _Listing, base: Snapshot | None, version: int | None) -> Snapshot:
        last = version if version is not None else max([*listing.commits, *listing.checkpoints])
        checkpoint = max((v for v in listing.checkpoints if v <= last), default=-1)
        first = base.version + 1 if base else 0
        cleaned = any(wanted not in listing.commits for wanted in range(first, checkpoint + 1))
        if checkpoint >= first and (base is None or cleaned):
            base = self._read_checkpoint(checkpoint, listing.checkpoints[checkpoint])
            first = checkpoint + 1
        actions: list[Action] = []
        for wanted in range(first, last + 1):
            if wanted not in listing.commits:
                raise TableError(
                    f"version {wanted} of the Delta log is missing",
                    where=self.where,
                    hint="the log was cleaned or damaged: restore it, or delete the target and reload the table",
                )
            actions += self._actions(wanted)
        if base is not None and not actions:
            return base
        return apply(base, last, actions, where=self.where)

    def _read_checkpoint(self, version: int, keys: Iterable[str]) -> Snapshot:
        actions: list[Action] = []
        for key in sorted(keys):
            content = pq.ParquetFile(BytesIO(self._objects.read(key)))
            columns = [name for name in _CHECKPOINT_COLUMNS if name in content.schema_arrow.names]
            for row in content.read(columns=columns).to_pylist(maps_as_pydicts="strict"):
                actions += [{name: _plain(body)} for name, body in row.items() if body is not None]
        return apply(None, version, actions, where=self.where)


def _plain(body: dict[str, Any]) -> Action:
    """A checkpoint row's struct as the JSON action would have it: absent instead of NULL."""
    return {
        name: _plain(value) if name in ("deletionVector", "format") and isinstance(value, dict) else value
        for name, value in body.items()
        if value is not None
    }
