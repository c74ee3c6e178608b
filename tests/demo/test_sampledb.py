from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdcloader.demo.dms_writer import Change
from cdcloader.demo.sampledb import ACTIONS, PRODUCTORDER, TABLES, SampleDatabase

SCALE = 0.01


def key_of(table, row):
    return tuple(row[name] for name in table.primary_key)


def changes_by_key(table, changes: list[Change]) -> Iterator[list[Change]]:
    found = {}
    for change in changes:
        found.setdefault(key_of(table, change.row), []).append(change)
    yield from found.values()


def test_the_same_seed_gives_the_same_database_and_changes():
    """Two databases of one seed agree in every row and change; another seed differs."""
    one, two, other = SampleDatabase(3, SCALE), SampleDatabase(3, SCALE), SampleDatabase(4, SCALE)
    for table in TABLES:
        assert one.full_load(table.name) == two.full_load(table.name)
    assert one.full_load("productorder") != other.full_load("productorder")
    assert one.next_transactions(100) == two.next_transactions(100)


def test_the_changes_lead_from_the_full_load_to_the_current_rows():
    """Applying I, U and D one by one to the loaded rows gives the truth; D shows the row before, I finds no row."""
    database = SampleDatabase(1, SCALE)
    rows = {table.name: {key_of(table, row): row for row in database.full_load(table.name)} for table in TABLES}
    for _ in range(5):
        changes = database.next_transactions(200)
        for table in TABLES:
            held = rows[table.name]
            for op, row, *_ in changes[table.name]:
                key = key_of(table, row)
                assert (key in held) == (op != "I")
                if op == "D":
                    assert held.pop(key) == row
                else:
                    held[key] = row
    for table in TABLES:
        assert rows[table.name] == database.current(table.name)


def test_commit_times_never_go_back_and_are_whole_milliseconds():
    """Changes stand in commit order, at a precision that every DMS format keeps."""
    times = [change.commit_time for change in SampleDatabase(1, SCALE).next_transactions(300)["productorder"]]
    assert times == sorted(times)
    assert all(time.microsecond % 1000 == 0 for time in times)


def test_a_call_shows_every_hard_case():
    """I-U-D-I of one key, I and D of a new one, U of all columns, and a row that moves to another partition."""
    database = SampleDatabase(1, SCALE)
    before = database.current("productorder")
    changes = database.next_transactions(len(ACTIONS))["productorder"]
    ops = ["".join(change.op for change in group) for group in changes_by_key(PRODUCTORDER, changes)]
    assert "IUDI" in ops
    assert "ID" in ops
    updates = [
        (before[key], row) for op, row, *_ in changes if op == "U" and (key := key_of(PRODUCTORDER, row)) in before
    ]
    assert any(old["order_date"] != new["order_date"] for old, new in updates)
    assert any(sum(old[name] != new[name] for name in old) >= 5 for old, new in updates)


@pytest.mark.parametrize("scale", [0.0001, SCALE])
def test_tables_never_run_empty(scale):
    """However small the database and long the history, there is a row to change."""
    database = SampleDatabase(2, scale)
    database.next_transactions(5_000)
    assert all(database.current(table.name) for table in TABLES)


def test_rows_have_the_columns_of_their_table_and_awkward_text():
    """Each row holds exactly its table's columns; notes hold NULL, empty text, quotes, line breaks, other scripts."""
    database = SampleDatabase(1, SCALE)
    database.next_transactions(200)
    for table in TABLES:
        names = [name for name, _ in table.columns]
        assert all(list(row) == names for row in database.current(table.name).values())
    notes = {row["note"] for row in database.current("productorder").values()}
    assert {None, "", "NULL"} <= notes
    assert any('"' in note for note in notes if note)
    assert any("\n" in note for note in notes if note)
    assert any(not note.isascii() for note in notes if note)


def test_scale_one_has_the_size_that_is_promised():
    """About 1,000 products, 50 stores and 100,000 order lines."""
    database = SampleDatabase()
    assert [len(database.current(table.name)) for table in TABLES] == [1_000, 50, 100_000]
