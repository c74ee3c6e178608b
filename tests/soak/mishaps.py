"""Bad files by kind: what blocks a table, and what only sends a row to quarantine (docs/files.md)."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from cdcloader.demo.dms_writer import Change, DmsSettings, render_cdc, render_load
from tests.soak.tables import FORMATS, Table

EMPTY = "empty file"
HUGE = "huge field (1 MiB)"
TRUNCATED_LOAD = "truncated LOAD file"


@dataclass(frozen=True)
class Spoiled:
    """A file's content; `row` is the number of the row that belongs in quarantine, 0 for none."""

    kind: str
    content: bytes
    row: int = 0


def render(settings: DmsSettings, table: Table, changes: Sequence[Change]) -> bytes:
    return render_cdc(settings, table.columns, changes)


def blocking(form: str, table: Table, changes: Sequence[Change], rng: random.Random) -> Spoiled:
    """A file that cannot be read as the table's."""
    kinds = [kind for kind, (forms, _) in _BLOCKING.items() if form in forms and (table.key or kind != _NO_KEY)]
    kind = rng.choice(kinds)
    return Spoiled(kind, _BLOCKING[kind][1](form, table, changes, rng))


def with_bad_row(form: str, table: Table, changes: Sequence[Change], rng: random.Random) -> Spoiled:
    """The changes and one row more that cannot be applied, first or last."""
    kinds = list(_BAD_CHANGES if form == "parquet" else {**_BAD_CHANGES, **_BAD_LINES})
    if not table.key:
        kinds.remove(_NULL_KEY)
    kind = rng.choice(kinds)
    row, at_start = changes[0].row, kind != _UNCLOSED and rng.random() < 0.5
    number = 1 if at_start else len(changes) + 1
    if kind in _BAD_CHANGES:
        bad = _BAD_CHANGES[kind](table, Change("I", row, changes[0].commit_time))
        every = [bad, *changes] if at_start else [*changes, bad]
        return Spoiled(kind, render(FORMATS[form], table, every), number)
    plain = render(replace(FORMATS[form], gzip=False), table, changes)
    header, _, lines = plain.partition(b"\n")
    line = _BAD_LINES[kind](table)
    body = line + b"\n" + lines if at_start else lines + line + b"\n"
    content = header + b"\n" + body
    return Spoiled(kind, gzip.compress(content, mtime=0) if form == "gzip" else content, number)


def truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


_NO_KEY = "missing key column"
_NULL_KEY = "NULL in the key"
_UNCLOSED = "unclosed quote"
_Spoil = Callable[[str, Table, Sequence[Change], random.Random], bytes]


def _truncate(form: str, table: Table, changes: Sequence[Change], rng: random.Random) -> bytes:
    content = render(FORMATS[form], table, changes)
    return content[: -rng.randrange(9, len(content) // 2)]


def _damage_gzip(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    """A wrong checksum."""
    content = render(FORMATS[form], table, changes)
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


def _without_key(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    left = tuple(column for column in table.columns if column[0] not in table.key)
    return render_cdc(FORMATS[form], left, changes)


def _without_op(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    settings = replace(FORMATS[form], include_op_for_full_load=False)
    return render_load(settings, table.columns, [change.row for change in changes])


def _more_fields(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    """Every row has fields that its header does not name."""
    plain = render(replace(FORMATS[form], gzip=False), table, [_plain(table, change) for change in changes])
    header, *lines = plain.rstrip(b"\n").split(b"\n")
    content = b"\n".join([header, *(line + b",1,2" for line in lines), b""])
    return gzip.compress(content, mtime=0) if form == "gzip" else content


def _plain(table: Table, change: Change) -> Change:
    """A change whose texts need no quotes, so that a line is a row."""
    texts = {name: "plain" for name, kind in table.columns if kind == "string"}
    return change._replace(row={**change.row, **texts})


def _other_type(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    """Its last column is a list, which no table holds."""
    data = pq.read_table(io.BytesIO(render(FORMATS[form], table, changes)))
    name = table.names[-1]
    lists = [[value.as_py()] for value in data[name]]
    buffer = io.BytesIO()
    pq.write_table(data.drop_columns([name]).append_column(name, [lists]), buffer)
    return buffer.getvalue()


def _utf16(form: str, table: Table, changes: Sequence[Change], _rng: random.Random) -> bytes:
    return render(FORMATS[form], table, changes).decode().encode("utf-16")


def _garbage(_form: str, _table: Table, _changes: Sequence[Change], rng: random.Random) -> bytes:
    return b"this is " + rng.randbytes(200)


_BLOCKING: dict[str, tuple[tuple[str, ...], _Spoil]] = {
    "truncated Parquet": (("parquet",), _truncate),
    "no Parquet at all": (("parquet",), _garbage),
    "wrong schema (a list column)": (("parquet",), _other_type),
    "truncated gzip": (("gzip",), _truncate),
    "damaged gzip": (("gzip",), _damage_gzip),
    "no gzip at all": (("gzip",), _garbage),
    _NO_KEY: (("parquet", "csv", "gzip"), _without_key),
    "no Op column": (("parquet", "csv", "gzip"), _without_op),
    "wrong number of fields everywhere": (("csv", "gzip"), _more_fields),
    "UTF-16": (("csv",), _utf16),
}

_BAD_CHANGES: dict[str, Callable[[Table, Change], Change]] = {
    "unknown Op": lambda _table, change: change._replace(op="X"),
    _NULL_KEY: lambda table, change: change._replace(row={**change.row, **dict.fromkeys(table.key)}),
}
_BAD_LINES: dict[str, Callable[[Table], bytes]] = {
    "wrong number of fields": lambda _table: b"I,1",
    "value of another type": lambda table: b",".join([b"I", *[b"what?"] * len(table.columns)]),
    _UNCLOSED: lambda table: b",".join([b"I", *[b"1"] * (len(table.columns) - 1), b'"never closed']),
    "not UTF-8": lambda table: b",".join([b"I", *[b"1"] * (len(table.columns) - 1), b"\xfc\xff"]),
}
