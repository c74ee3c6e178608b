"""What the loaders of a world told in their logs, and what they should not have told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

_APPLIED = ("batch applied", "full load applied")
_COUNTED = {
    "state record brought forward from the Delta log": "records brought forward from the log",
    "conflict: planning again": "races lost and planned again",
    "table will be tried again": "transient trouble that was tried again",
}
_NOTHING_YET = "there are no files of this source"


class Told:
    """Counts of what happened; `surprises` are lines that no loader should write. `bad_files` are names by source."""

    def __init__(self, bad_files: Mapping[str, Collection[str]]) -> None:
        self.tally: Counter[str] = Counter()
        self.surprises: list[str] = []
        self._bad_files = bad_files
        self._applied: list[tuple[float, str, Path]] = []

    def read(self, logs: Path) -> None:
        """Every log of a folder."""
        for log in sorted(logs.glob("*.log")):
            for line in self._lines(log):
                self._note(log, line)
        self._applied.sort()

    def takeovers(self, absences: Sequence[tuple[float, float, Path]]) -> tuple[float | None, int]:
        """(the longest, how many) of the times from a loader's stop or death to a commit by another one.

        To a table, that is, which it was the last to change, and while it was away.
        """
        times = []
        for begun, ended, log in absences:
            last = {table: by for at, table, by in self._applied if at <= begun}
            for table in (table for table, by in last.items() if by == log):
                others = (at for at, of, by in self._applied if of == table and by != log and begun < at <= ended)
                times += [at - begun for at in [next(others, None)] if at is not None]
        return max(times, default=None), len(times)

    def _lines(self, log: Path) -> Iterator[dict[str, Any]]:
        """Its lines; the last one may be cut off by a kill, and any other that is no JSON is a surprise."""
        *whole, _ = log.read_text(errors="replace").split("\n")
        for line in filter(None, whole):
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)
            else:
                self.surprises.append(f"{log}: {line[:300]}")

    def _note(self, log: Path, line: Mapping[str, Any]) -> None:
        event = line["event"]
        if event in _APPLIED:
            self._applied.append((datetime.fromisoformat(line["timestamp"]).timestamp(), line["table"], log))
        elif event in _COUNTED:
            self.tally[_COUNTED[event]] += 1
        elif event == "table is blocked" and line["error"] != _NOTHING_YET:
            self._note_blocked(line)
        elif event == "unexpected error" or "exception" in line:
            self.surprises.append(f"{log}: {json.dumps(line)[:1500]}")

    def _note_blocked(self, line: Mapping[str, Any]) -> None:
        """A table may be blocked by the files that were spoiled, and by nothing else."""
        self.tally["times that a table was blocked"] += 1
        name = str(line.get("where", "")).rpartition("/")[2]
        if name not in self._bad_files[line["table"]]:
            self.surprises.append(f"blocked by no bad file: {json.dumps(line)[:600]}")
