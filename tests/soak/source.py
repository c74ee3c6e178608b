"""One source: its rows as plain Python holds them, and the files that DMS makes of their changes, in order or not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cdcloader.demo.dms_writer import Change, Row, cdc_name, load_name, render_load
from tests.soak import mishaps
from tests.soak.tables import FORMATS, Table

# LastModified may be in whole seconds: a set of LOAD files stands this far from the changes before and after it.
APART_SECONDS = 1.3
_HELD_BACK_SECONDS = (0.5, 8.0)
_CHANGES_MAX = 40
_HOT_KEYS = 60


@dataclass(frozen=True)
class Arrival:
    """A raw file that appears after some seconds; without content it disappears."""

    seconds: float
    source: str
    name: str
    content: bytes | None

    @property
    def loads(self) -> bool:
        """Whether it is a LOAD file that appears."""
        return self.content is not None and self.name.startswith("LOAD")


class Source:
    """A source database's table and its DMS task. What the target must hold is `rows`: the oracle.

    With a key `rows` maps it to the row, without one it counts the rows. `must` are the (file, row number) that
    must be in quarantine in the end, `may` those that may be: of files that were replaced, or left out by a reload.
    """

    def __init__(self, table: Table, seed: str) -> None:
        self.table = table
        self.rng = random.Random(seed)
        self.keyed: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.counted: Counter[tuple[Any, ...]] = Counter()
        self.must: set[tuple[str, int]] = set()
        self.may: set[tuple[str, int]] = set()
        self.bad_files: set[str] = set()
        self.tally: Counter[str] = Counter()
        self.bad_inputs: Counter[str] = Counter()
        self.load_files = 0
        """How many the last set has."""
        self._loads = 0
        self._last = datetime.min.replace(tzinfo=UTC)
        self._sent: list[list[Change]] = []
        self._numbers = 0

    @property
    def rows(self) -> Counter[tuple[Any, ...]]:
        """Every row that the target must hold."""
        return Counter(self.keyed.values()) if self.table.key else +self.counted

    # What DMS may do. Each returns the files that it makes, and when they appear.

    def load(self) -> list[Arrival]:
        """A full load: LOAD files of the rows as they are now, seconds apart; sometimes one is broken at first."""
        if not self.table.rows:
            return []  # A source that began with changes: there every change counts, before a full load or after it.
        first = self._loads == 0
        if first:
            for number in range(self.table.rows):
                self._apply(Change("I", self.table.row(number, self.rng), self._now()))
        else:
            self.tally["reloads"] += 1
        self.may |= self.must
        self.must = set()
        return self._load_files(first=first)

    def changes(self) -> list[Arrival]:
        """An ordinary CDC file."""
        return [self._file(self._some_changes())]

    def late(self) -> list[Arrival]:
        """A file that appears after those that come after it."""
        self.tally["late files"] += 1
        return [self._file(self._some_changes(), seconds=self.rng.uniform(*_HELD_BACK_SECONDS))]

    def twins(self) -> list[Arrival]:
        """Two files of one millisecond; sometimes the second is late."""
        time, forms = self._next_time(), ["csv", "parquet"]
        self.tally["files of one millisecond"] += 2
        held = self.rng.choice([0.0, 0.0, 2.0])
        return [
            self._file(self._some_changes(), form=form, time=time, seconds=held if number else 0.0)
            for number, form in enumerate(forms)
        ]

    def repeated(self) -> list[Arrival]:
        """A restarted task sends its last files' changes again, under new names."""
        again = self._sent[-self.rng.randrange(1, 4) :]
        for changes in again:
            for change in changes:
                self._apply(change)
        self.tally["files of repeated changes"] += len(again)
        return [self._file(changes, applied=True) for changes in again]

    def replaced(self) -> list[Arrival]:
        """A file that is written again under its name: at first with a part of its changes, or with none."""
        if not self.table.key:
            return self.changes()  # Without a key this blocks the table until an operator reloads it.
        changes, form = self._some_changes(), self._form()
        whole = self._file(changes, form=form, seconds=self.rng.uniform(0.3, 6))
        part = changes[: self.rng.randrange(1, len(changes) + 1)]
        early = mishaps.render(FORMATS[form], self.table, part)
        if self.rng.random() < 0.3:
            early = b""
            self.bad_inputs[mishaps.EMPTY] += 1
        self.tally["replaced files"] += 1
        return [Arrival(0.0, self.table.source, whole.name, early), whole]

    def bad_row(self) -> list[Arrival]:
        """A file with one row that cannot be applied; sometimes it is mended later."""
        changes, form = self._some_changes(), self._form()
        spoiled = mishaps.with_bad_row(form, self.table, changes, self.rng)
        self.bad_inputs[spoiled.kind] += 1
        good = self._file(changes, form=form, seconds=self.rng.uniform(0.5, 5))
        bad = Arrival(0.0, self.table.source, good.name, spoiled.content)
        if self.table.key and self.rng.random() < 0.3:
            self.may.add((good.name, spoiled.row))
            self.tally["replaced files"] += 1
            return [bad, good]
        self.must.add((good.name, spoiled.row))
        return [bad]

    def bad_file(self) -> list[Arrival]:
        """A file that blocks its table, until the good one takes its place."""
        changes, form = self._some_changes(), self._form()
        spoiled = mishaps.blocking(form, self.table, changes, self.rng)
        self.bad_inputs[spoiled.kind] += 1
        good = self._file(changes, form=form, seconds=self.rng.uniform(1, 6))
        self.bad_files.add(good.name)
        return [Arrival(0.0, self.table.source, good.name, spoiled.content), good]

    def huge(self) -> list[Arrival]:
        """A row with a field of a MiB."""
        self.bad_inputs[mishaps.HUGE] += 1
        change = self._change()
        if change.op == "D":
            return self.changes()
        change = change._replace(row={**change.row, "note": "Größe " * (1 << 17)})
        self._apply(change)
        return [self._file([change], applied=True)]

    def _load_files(self, *, first: bool) -> list[Arrival]:
        settings = FORMATS[self.table.load]
        rows = [dict(zip(self.table.names, row, strict=True)) for row in self.rows.elements()]
        self.rng.shuffle(rows)
        count = self.rng.randrange(1, 4)
        arrivals = self._leftovers(count)
        at = APART_SECONDS
        for number in range(count):
            name = load_name(number + 1, settings)
            content = render_load(settings, self.table.columns, rows[number::count])
            if not first and self.table.load != "csv" and self.rng.random() < 0.15:
                self.bad_inputs[mishaps.TRUNCATED_LOAD] += 1
                self.bad_files.add(name)
                arrivals.append(Arrival(at, self.table.source, name, mishaps.truncated(content)))
                at += self.rng.uniform(1, 3)
            arrivals.append(Arrival(at, self.table.source, name, content))
            at += self.rng.choice([0.0, 0.4, 2.5])
        self.load_files = count
        self.tally["LOAD files"] += count
        return arrivals

    def _leftovers(self, count: int) -> list[Arrival]:
        """What becomes of the last load's files beyond `count`: they stay, or all of them are deleted first."""
        before, self._loads = self._loads, max(self._loads, count)
        if before and self.rng.random() < 0.4:
            self._loads = count
            gone = [load_name(number + 1, FORMATS[self.table.load]) for number in range(before)]
            return [Arrival(0.0, self.table.source, name, None) for name in gone]
        if before > count:
            self.tally["reloads with fewer LOAD files"] += 1
        return []

    def _file(
        self,
        changes: list[Change],
        *,
        form: str = "",
        time: datetime | None = None,
        seconds: float = 0.0,
        applied: bool = False,
    ) -> Arrival:
        form = form or self._form()
        if not applied:
            self._sent = [*self._sent[-8:], changes]
        self.tally["CDC files"] += 1
        self.tally["changes"] += len(changes)
        content = mishaps.render(FORMATS[form], self.table, changes)
        return Arrival(seconds, self.table.source, cdc_name(time or self._next_time(), FORMATS[form]), content)

    def _form(self) -> str:
        return self.rng.choice(list(FORMATS))

    def _some_changes(self) -> list[Change]:
        changes = []
        for _ in range(self.rng.randrange(1, _CHANGES_MAX)):
            change = self._change()
            self._apply(change)
            changes.append(change)
        return changes

    def _change(self) -> Change:
        row = self.table.row(self._number(), self.rng)
        if not self.table.key:
            return Change("I", row, self._now())
        old = self.keyed.get(self._key(row))
        chance = self.rng.random()
        if old is None:
            return Change("I" if chance < 0.85 else "U" if chance < 0.95 else "D", row, self._now())
        if chance < 0.2:
            row = dict(zip(self.table.names, old, strict=True))
        return Change("D" if chance < 0.2 else "I" if chance < 0.25 else "U", row, self._now())

    def _number(self) -> int:
        """The number of a key: any of them, or, as often, one of the few that change most. Without a key a new one."""
        self._numbers += 1
        if not self.table.key:
            return self.table.rows + self._numbers
        return self.rng.randrange(self.table.space if self.rng.random() < 0.5 else _HOT_KEYS)

    def _apply(self, change: Change) -> None:
        row = tuple(change.row[name] for name in self.table.names)
        if not self.table.key:
            self.counted[row] += 1
        elif change.op == "D":
            self.keyed.pop(self._key(change.row), None)
        else:
            self.keyed[self._key(change.row)] = row

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.table.key)

    def _next_time(self) -> datetime:
        self._last = max(self._now(), self._last + timedelta(milliseconds=1))
        return self._last

    @staticmethod
    def _now() -> datetime:
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


Doing = Callable[[Source], list[Arrival]]
WHAT_HAPPENS: dict[Doing, float] = {
    Source.changes: 70,
    Source.late: 7,
    Source.twins: 4,
    Source.repeated: 4,
    Source.replaced: 5,
    Source.bad_row: 5,
    Source.bad_file: 3,
    Source.huge: 0.3,
    Source.load: 1.2,
}
