"""What names and first rows say of a source that nothing is known of: its settings, and a guess at its key (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from cdcloader.source.heads import Head, Row
from cdcloader.source.inference import infer
from cdcloader.source.key_guess import Guess, guess_key
from cdcloader.source.layouts import PLAIN
from cdcloader.source.names import Kind, RawFile, base_of, is_table_folder, named, named_transactions
from cdcloader.source.row_format import TIMESTAMP_NAMES, is_rule_added
from cdcloader.source.versions import is_later, looks_like_version

_SAMPLED_CDC = 50
_BEFORE_IMAGE = ("BI_", "")  # The names that DMS gives them unless it is told others.
_QUARTER = timedelta(minutes=15)
_ZONE_FILES = 3


@dataclass(frozen=True, slots=True)
class Listed:
    """What lies in a source's folder, as far as it was listed; `more`: there is more.

    `version` is the folder of the newest version, where the files stand in such folders.
    """

    source: str
    files: tuple[RawFile, ...]
    strange: tuple[str, ...]
    transactions: int = 0
    version: str | None = None
    more: bool = False

    def samples(self) -> list[RawFile]:
        """A LOAD file and a CDC file with much in them, as far as there are any."""
        loads = [file for file in self.files if file.kind is Kind.LOAD and file.size]
        changes = sorted((f for f in self.files if f.kind is Kind.CDC and f.size), key=lambda file: file.sort_key)
        recent = changes[-_SAMPLED_CDC:]
        return [*loads[:1], *([max(recent, key=lambda file: file.size)] if recent else [])]

    @property
    def deeper(self) -> str:
        """A file that tells that this folder is no table but holds some; "" where none does.

        To LOAD files alone the folders of tables are as those of partitions. CDC files are never in such, and somebody
        who moves some aside leaves others in the table's own folder.
        """
        if any(file.kind is Kind.CDC or (file.kind is Kind.LOAD and not _is_in_part(file)) for file in self.files):
            return ""
        controls = (file.name for file in self.files if not all(map(is_table_folder, file.folder.split("/")[:-1])))
        return next((name for name in (*self.strange, *controls) if _is_below(name)), "")


@dataclass(frozen=True, slots=True)
class Found:
    """A table as it was understood: the keys of its entry, and what people should know and check.

    `seen` says what was looked at. `doubts` say what was guessed, by the key that holds it, "" for none.
    """

    source: str
    primary_key: tuple[str, ...]
    settings: Mapping[str, Any]
    seen: str
    doubts: tuple[tuple[str, str], ...] = ()
    unread: str = ""

    def doubt(self, key: str) -> str:
        """What to check of a key."""
        return "; ".join(text for name, text in self.doubts if name == key)


@dataclass(slots=True)
class _Notes:
    settings: dict[str, Any] = field(default_factory=dict)
    doubts: list[tuple[str, str]] = field(default_factory=list)

    def put(self, key: str, value: Any, doubt: str = "") -> None:
        self.settings[key] = value
        if doubt:
            self.doubts.append((key, doubt))


def listed(source: str, items: Iterable[tuple[str, int, str, datetime]], *, more: bool) -> Listed:
    """Sort what lies in a source's folder: (name below it, size, ETag, LastModified) of each object."""
    found: list[RawFile] = []
    versions: dict[str, list[RawFile]] = {}
    strange, transactions = [], 0
    folder = f"{source}/"
    for name, size, etag, modified in items:
        first, _, rest = name.partition("/")
        if rest and looks_like_version(first):
            file = PLAIN.parse(f"{folder}{first}/", rest, size, etag, modified)
            if file is not None:
                versions.setdefault(first, []).append(file)
                continue
        else:
            file = PLAIN.parse(folder, name, size, etag, modified)
            if file is not None:
                found.append(file)
                continue
        if named_transactions(name) is not None:
            transactions += 1
        else:
            strange.append(name)
    version = None
    if not found:
        for each in versions:
            version = each if is_later(each, version) else version
    chosen = versions[version] if version is not None else found
    return Listed(source, tuple(chosen), tuple(strange), transactions, version, more)


def understood(listing: Listed, heads: Sequence[tuple[RawFile, Head]], troubles: Sequence[str] = ()) -> Found:
    """The table that a listing and the heads of some files tell; `troubles` are of files that could not be read."""
    notes = _Notes()
    if listing.version is not None:
        notes.put("version", listing.version)
    loads = [head for file, head in heads if file.kind is Kind.LOAD]
    changes = [head for file, head in heads if file.kind is Kind.CDC]
    texts = [head for file, head in heads if file.format == "csv"]
    if texts:
        _csv(texts, notes)
    if any(head.op is None and head.rows for head in changes):
        notes.put("changes_without_op", "insert", "CDC files have no Op: are they inserts alone?")
    names = _columns(loads, changes, notes)
    rows, partial = _side_by_side(loads, changes, names)
    if texts and any(not head.columns for head in texts) and not any(head.columns for _, head in heads):
        notes.put("columns", _types(names, [*rows, *partial]), "the files have no header: name the columns")
    _helpers([head for _, head in heads], notes)
    kept = [
        place
        for place, name in enumerate(names)
        if not is_rule_added(name, names, _BEFORE_IMAGE) and not _is_time(name, notes)
    ]
    table = listing.source.rpartition("/")[2]
    pick = [[row[place] for place in kept] for row in rows]
    _parts(listing.files, notes)
    guess = guess_key(table, [names[place] for place in kept], pick, [[row[p] for p in kept] for row in partial])
    if not names:
        guess = Guess((), "no row was seen")
    notes.doubts.append(("primary_key", guess.why))
    notes.doubts += [("", trouble) for trouble in troubles]
    return Found(listing.source, guess.columns, notes.settings, _seen(listing, len(rows)), tuple(notes.doubts))


def hours_off(files: Iterable[RawFile]) -> float:
    """By how many hours the names of CDC files seem to be ahead of UTC, by LastModified; 0 where they agree.

    Files that were copied tell nothing: their times are all about the same, and their names' are not.
    """
    changes = [file for file in files if file.kind is Kind.CDC and not file.numbered]
    offs = Counter(
        round((PLAIN.written_at(file).timestamp() - file.last_modified.timestamp()) / _QUARTER.total_seconds())
        for file in changes
    )
    if not offs:
        return 0.0
    quarters, count = offs.most_common(1)[0]
    told = count >= _ZONE_FILES and 10 * count >= 9 * offs.total() and 2 <= abs(quarters) <= 56
    return quarters / 4 if told else 0.0


def counted(number: int, what: str) -> str:
    """A number and its noun, in the plural where that is due."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _is_in_part(file: RawFile) -> bool:
    """Whether a LOAD file is in the folder of a partition or segment."""
    return "/" in file.group


def _is_below(name: str) -> bool:
    """Whether a file with a name of DMS's is in a folder, and in none that is hidden."""
    hidden = any(part.startswith(".") for part in name.split("/"))
    found = None if hidden or "/" not in name else named(base_of(name))
    return found is not None and found.kind is not Kind.MARKER


def _parts(files: Iterable[RawFile], notes: _Notes) -> None:
    found = [file for file in files if file.kind is not Kind.MARKER]
    if found and all(map(_is_in_part, found)):
        doubt = f"is {found[0].folder} a part of this table? Were it a table, RAW would be the folder above its schema"
        notes.doubts.append(("", doubt))


def _csv(heads: Sequence[Head], notes: _Notes) -> None:
    csv: dict[str, Any] = {}
    doubts = []
    if heads[0].delimiter != ",":
        csv["delimiter"] = heads[0].delimiter
    if not any(head.columns for head in heads):
        csv["header"] = False
    nulls = sorted({text for head in heads for text in head.nulls})
    if nulls:
        csv["null_values"] = ["", *nulls]
        doubts.append(f"does {' or '.join(nulls)} stand for NULL?")
    if csv:
        notes.put("csv", csv, "; ".join(doubts))


def _columns(loads: Sequence[Head], changes: Sequence[Head], notes: _Notes) -> tuple[str, ...]:
    """The table's columns; invented names where the files tell none."""
    named = [head for head in (*loads, *changes) if head.columns]
    if named:
        return tuple(dict.fromkeys(name for head in named for name in head.body_columns))
    widths = [len(head.body(head.rows[0])) for head in (*changes, *loads) if head.rows]
    if len(set(widths)) > 1:
        notes.doubts.append(("", f"LOAD and CDC files seem to have different widths: {widths}"))
    return tuple(f"c{number}" for number in range(1, (widths[0] if widths else 0) + 1))


def _side_by_side(loads: Sequence[Head], changes: Sequence[Head], names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """(rows that exist side by side, further rows that at least hold their key), with the columns `names`."""
    inserted = [row for head in changes for row in _aligned(head, names, "I" if head.op is not None else "")]
    other = [row for head in changes if head.op is not None for row in _aligned(head, names, "UD")]
    loaded = [row for head in loads for row in _aligned(head, names)]
    return (loaded, [*inserted, *other]) if loaded else (inserted, other)


def _aligned(head: Head, names: Sequence[str], letters: str = "") -> list[Row]:
    chosen = [row for row in head.rows if not letters or head.letter(row) in letters]
    if not head.columns:
        bodies = [head.body(row) for row in chosen]
        return [body for body in bodies if len(body) == len(names)]
    places = {name: place for place, name in enumerate(head.columns)}
    return [tuple(row[places[name]] if name in places else None for name in names) for row in chosen]


def _types(names: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    series = (pl.Series(name, [row[place] for row in rows], dtype=pl.String) for place, name in enumerate(names))
    return {each.name: infer(each, "timestamp") for each in series}


def _helpers(heads: Sequence[Head], notes: _Notes) -> None:
    """What DMS adds to a source's columns."""
    times = {head.columns[head.time] for head in heads if head.columns and head.time is not None}
    for name in sorted(times):
        if name.lower() not in TIMESTAMP_NAMES:
            notes.put("timestamp_column", name, "is it DMS's TimestampColumnName? It is used and dropped")
    firsts = {head.columns[head.op is not None] for head in heads if head.looks_timed}
    if len(firsts) == 1 and all(head.looks_timed for head in heads):
        (first,) = firsts
        doubt = f"if {first!r} is DMS's TimestampColumnName, `timestamp_column: {first}` uses and drops it"
        notes.doubts.append(("", doubt))
    names = tuple(dict.fromkeys(name for head in heads for name in head.columns))
    everywhere = [name for name in names if all(name in head.columns for head in heads)]
    sequences = [name for name in everywhere if name.upper() == "AR_H_CHANGE_SEQ"]
    if sequences:
        notes.put("sequence_by", sequences)
    dropped = [name for name in names if is_rule_added(name, names, _BEFORE_IMAGE)]
    if dropped:
        notes.doubts.append(("", f"used and dropped, unless keep_columns names them: {', '.join(dropped)}"))


def _is_time(name: str, notes: _Notes) -> bool:
    return name == notes.settings.get("timestamp_column")


def _seen(listing: Listed, rows: int) -> str:
    kinds = Counter(file.kind for file in listing.files)
    formats = sorted({f"{file.format}{'.gz' if file.gzip else ''}" for file in listing.files if file.format})
    counts = [f"{kinds[kind]:,} {label}" for kind, label in ((Kind.LOAD, "LOAD"), (Kind.CDC, "CDC")) if kinds[kind]]
    many = "more than " if listing.more else ""
    folders = sorted({file.folder for file in listing.files if file.folder})
    where = f", in folders such as {folders[0]}" if folders else ""
    files = f"file{'' if kinds.total() == 1 else 's'} ({', '.join(formats)})"
    return f"{many}{' and '.join(counts)} {files}{where}; {counted(rows, 'row')} looked at"
