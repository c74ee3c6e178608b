"""Shows how far the demo's tables are: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

_REFRESHES_PER_SECOND = 8


class BatchReport(Protocol):
    """What the loader says about one full load or batch; `table` is the source, `rows` counts by kind."""

    @property
    def table(self) -> str: ...
    @property
    def rows(self) -> Mapping[str, int]: ...
    @property
    def version(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(slots=True)
class TableProgress:
    """One table's progress; `waiting_since` is when the oldest of its rows not yet applied was written."""

    target: str
    phase: str = "new"
    rows: Counter[str] = field(default_factory=Counter)
    version: int | None = None
    waiting_rows: int = 0
    waiting_since: float | None = None

    def lag_seconds(self, now: float) -> float:
        """Age of the oldest file not yet applied, 0 when there is none."""
        return 0.0 if self.waiting_since is None else now - self.waiting_since


class Progress:
    """The progress of all tables; a context manager that shows it while it lasts."""

    def __init__(self, console: Console, tables: Sequence[str]) -> None:
        self._console = console
        self._tables = {name: TableProgress(name) for name in tables}
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=_REFRESHES_PER_SECOND, transient=False
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __getitem__(self, table: str) -> TableProgress:
        return self._tables[table]

    def wrote(self, table: str, phase: str, *, files: int, rows: int, size_bytes: int) -> None:
        """Files of a table, with so many rows, now wait for the loader."""
        progress = self._tables[table]
        progress.phase = phase
        progress.waiting_rows += rows
        if progress.waiting_since is None:
            progress.waiting_since = monotonic()
        self._line(f"{table}: wrote {rows:,} rows in {files} files ({size_bytes / 1024:,.0f} KB) for {phase}")

    def applied(self, report: BatchReport) -> None:
        """The loader committed a full load or a batch of a table; it accounts for every row that it read."""
        progress = self._tables[report.table]
        progress.rows.update(report.rows)
        progress.version = report.version
        progress.waiting_rows -= sum(report.rows.values())
        if progress.waiting_rows <= 0:
            progress.phase, progress.waiting_since = "streaming", None
        counts = ", ".join(f"{count:,} {kind}" for kind, count in report.rows.items() if count)
        self._line(f"{report.table}: version {report.version} in {report.seconds:.2f} s: {counts or 'no rows'}")

    def caught_up(self) -> None:
        """The loader says that nothing is left to apply."""
        for progress in self._tables.values():
            progress.phase, progress.waiting_since, progress.waiting_rows = "streaming", None, 0

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Table:
        table = Table("target", "phase", title="cdcloader demo")
        for heading in ("inserted", "updated", "deleted", "lag", "version"):
            table.add_column(heading, justify="right")
        now = monotonic()
        for progress in self._tables.values():
            table.add_row(
                progress.target,
                progress.phase,
                *(f"{progress.rows[kind]:,}" for kind in ("insert", "update", "delete")),
                f"{progress.lag_seconds(now):.1f} s",
                "-" if progress.version is None else str(progress.version),
            )
        return table
