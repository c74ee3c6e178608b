"""Damaged files: reading them ends with a clear error, or with every row applied or rejected; nothing in between.

`pytest -m slow` looks for longer.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.schema import Field
from cdcloader.demo.dms_writer import Change, DmsSettings, delta_type, render_cdc, render_load, render_transactions
from cdcloader.errors import TableError
from cdcloader.source.rows import CsvFormat, RowFormat
from cdcloader.source.transactions import split
from tests.source.fuzz import damaged, random_text, raw_file, read_whole, rows_in

COLUMNS = (
    ("id", "long"),
    ("price", "decimal(10,2)"),
    ("ratio", "double"),
    ("text", "string"),
    ("flag", "boolean"),
    ("raw", "binary"),
    ("day", "date"),
    ("at", "timestamp"),
    ("small", "uint1"),
    ("clock", "time"),
)
AT = datetime(2026, 9, 1, 1, 2, 3, 456789, tzinfo=UTC)
TEXTS = ("plain", 'say "x", twice', "two\nlines", "ümlaut", "", None, "\r\n", "null", "a\tb")
ROWS = [
    {
        "id": number, "price": Decimal(number).scaleb(-2), "ratio": number / 7, "text": TEXTS[number % len(TEXTS)],
        "flag": number % 2 == 0, "raw": bytes([number % 256, 255]), "day": date(2026, 9, 1 + number % 28), "at": AT,
        "small": number % 256, "clock": "12:34:56",
    }
    for number in range(1, 16)
]  # fmt: skip
CHANGES = [Change("IUD"[place % 3], row, AT) for place, row in enumerate(ROWS)]
KNOWN = tuple(Field(name, delta_type(kind)) for name, kind in COLUMNS)
KEYED = RowFormat(primary_key=("id",), known=KNOWN)
PIECES = (301, 1 << 20)
# A field without quotes, or in quotes that are doubled inside; records end in any line end.
_FIELD = r'(?:"(?:[^"]|"")*"|[^",\r\n]*)'
_RFC4180 = re.compile(rf"(?:{_FIELD}(?:,{_FIELD})*(?:\r\n|\n))*(?:{_FIELD}(?:,{_FIELD})*)?")


def csv_file(*, load=False, gzip=False, header=True):
    dms = DmsSettings(header=header, gzip=gzip, timestamp_column="ts")
    return render_load(dms, COLUMNS, ROWS) if load else render_cdc(dms, COLUMNS, CHANGES)


CSV_FILES = {(load, header): csv_file(load=load, header=header) for load in (True, False) for header in (True, False)}
PARQUET_FILES = [
    render_cdc(DmsSettings("parquet", timestamp_column="ts", gzip=gzip, encoding_type=encoding), COLUMNS, CHANGES)
    for gzip in (True, False)
    for encoding in ("plain", "rle-dictionary")
]


JSON_DMS = DmsSettings("json", timestamp_column="ts")
JSON_FILES = [render_cdc(JSON_DMS, COLUMNS, CHANGES), render_load(JSON_DMS, COLUMNS, ROWS)]
TRANSACTIONS = render_transactions(
    DmsSettings(), [(f"sales/t{place % 3}", COLUMNS[: 2 + place % 3], change) for place, change in enumerate(CHANGES)]
)
ZIPPED = csv_file(gzip=True)
FORMS = [KEYED, replace(KEYED, known=()), replace(KEYED, primary_key=None)]
seeds = st.integers(0, 2**64)


def check_csv(content, load, header):
    """Reading by pieces of any size gives the same rows, and as many as Python's csv module counts."""
    kind = "load" if load else "cdc"
    file = raw_file(content, "csv", kind)
    fmt = replace(KEYED, timestamp_column="ts", csv=CsvFormat(header=header))
    # The types of a full load that nobody knows are inferred; a file without a header needs its columns' names.
    fmts = [fmt, replace(fmt, known=())] if load and header else [fmt]
    for form in fmts:
        read = [read_whole(file, form, size) for size in PIECES]
        found = [None if chunks is None else rows_in(chunks) for chunks in read]
        assert found[0] == found[1]
        if None not in found:
            expected = counted(content, header=header)
            assert expected in (None, found[0])


def split_whole(content, piece_bytes):
    """The numbers of the rows with their table, or with None where they are broken; None for a refused file."""
    try:
        pieces = list(split(io.BytesIO(content), CsvFormat(), piece_bytes, where="raw/f.csv"))
    except TableError:
        return None
    rows = {number: None for piece in pieces for number in piece.broken["row"]}
    whole = len(rows)
    for piece in pieces:
        assert piece.broken["reason"].null_count() + piece.broken["raw"].null_count() == 0
        for name, part in piece.parts.items():
            numbers = piece.numbers[part.rows].tolist()
            rows |= dict.fromkeys(numbers, name)
            whole += len(numbers)
    assert sorted(rows) == list(range(1, whole + 1))
    return rows


def counted(content, *, header):
    """The rows of a text by Python's csv module; None where its rules are not ours."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text or not _RFC4180.fullmatch(text):
        return None
    return max(0, sum(1 for record in csv.reader(io.StringIO(text, newline="")) if record) - header)


def check_parquet(content, form):
    """A file that pyarrow can open has the rows that its footer says."""
    file = raw_file(content, "parquet")
    for size in PIECES:
        chunks = read_whole(file, form, size)
        # An empty file has no footer, and is a file without rows.
        if chunks is not None and content:
            assert rows_in(chunks) == pq.ParquetFile(io.BytesIO(content)).metadata.num_rows


def check_json(content, load):
    """Each line that is not blank is a row or a reject."""
    file = raw_file(content, "json", "load" if load else "cdc")
    form = replace(KEYED, known=() if load else KNOWN, timestamp_column="ts")
    for size in (16 * PIECES[0], PIECES[1]):
        chunks = read_whole(file, form, size)
        if chunks is not None:
            assert rows_in(chunks) == sum(bool(line.strip()) for line in content.split(b"\n"))


def check_damaged_csv(seed):
    chance = Random(seed)
    load, header = chance.choice(sorted(CSV_FILES))
    check_csv(damaged(CSV_FILES[load, header], chance), load, header)


def check_random_text(seed):
    chance = Random(seed)
    check_csv(random_text(chance), chance.random() < 0.5, chance.random() < 0.5)


def check_damaged_gzip(seed):
    file = raw_file(damaged(ZIPPED, Random(seed)), "csv", gzip=True)
    read_whole(file, replace(KEYED, timestamp_column="ts"), PIECES[1])


def check_damaged_parquet(seed):
    chance = Random(seed)
    check_parquet(damaged(chance.choice(PARQUET_FILES), chance), chance.choice(FORMS))


def check_damaged_json(seed):
    chance = Random(seed)
    load = chance.random() < 0.5
    check_json(damaged(JSON_FILES[load], chance) if chance.random() < 0.8 else random_text(chance), load)


def check_damaged_transactions(seed):
    """Each row of a file of transactions is a table's or broken, whatever the size of the pieces."""
    chance = Random(seed)
    content = damaged(TRANSACTIONS, chance) if chance.random() < 0.7 else random_text(chance)
    found = [split_whole(content, size) for size in PIECES]
    assert found[0] == found[1]
    expected = counted(content, header=False)
    assert None in (expected, found[0]) or expected == len(found[0])


CHECKS = [
    check_damaged_transactions,
    check_damaged_csv,
    check_random_text,
    check_damaged_gzip,
    check_damaged_parquet,
    check_damaged_json,
]


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_damaged_file_loses_no_row(check, seed):
    """Each row of a damaged file is read or rejected, by its number; else the file is refused with a hint."""
    check(seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=1_000, deadline=None)
@given(seed=seeds)
def test_a_thousand_damaged_files_lose_no_row(check, seed):
    """As above, for longer."""
    check(seed)
