"""What this process has seen of a source's folders, so that it need not list all of them at every look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cdcloader.source.names import Kind, RawFile
from cdcloader.source.partitions import Style, date_folder


@dataclass(slots=True)
class Sightings:
    """The styles of the folders of dates that hold CDC files, and when they were last searched for everywhere."""

    styles: set[Style] = field(default_factory=set)
    swept_at: datetime | None = None

    def is_due(self, now: datetime, seconds: float) -> bool:
        """Whether the last search is so many seconds ago; False when there was none."""
        return self.swept_at is not None and now - self.swept_at >= timedelta(seconds=seconds)

    def note(self, files: Iterable[RawFile]) -> bool:
        """Whether some of these files stand in folders of dates in a style that was not seen before."""
        found = _styles_of(files)
        new = not found <= self.styles
        self.styles |= found
        return new

    def sweep(self, files: Iterable[RawFile], now: datetime) -> None:
        """These are the files that were found everywhere."""
        self.styles, self.swept_at = _styles_of(files), now


def _styles_of(files: Iterable[RawFile]) -> set[Style]:
    folders = {file.folder for file in files if file.kind is Kind.CDC and not file.transactions}
    return {date.style for folder in folders if (date := date_folder(folder.rstrip("/")))}
