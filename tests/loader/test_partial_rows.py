"""Changed keys and partial rows from raw files to the target, against a dict."""

from __future__ import annotations

import io
import random
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.schema import Field
from cdcloader.config.models import Csv
from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.errors import TableError
from cdcloader.loader.verify import verify
from cdcloader.source.actions import Limits
from tests.readers import by_duckdb, by_polars

COLUMNS = {"id": "long", "code": "string", "part": "string", "n": "long", "v": "string"}
KEY, VALUES = ("id", "code"), ("part", "n", "v")
SCHEMA = tuple(Field(name, kind) for name, kind in COLUMNS.items())
TOKEN = "?not logged?"
TINY = {"batch_bytes": 600, "pass_bytes": 300, "chunk_bytes": 500, "fetch_bytes": 3_000, "piece_bytes": 2_000}
WAYS = {
    "token": {"csv": Csv(header=True, no_supplemental_value=TOKEN), "dms": DmsSettings(format="csv")},
    "keep": {"partial_updates": "keep"},
    "keep some": {"partial_updates": "keep", "partial_columns": ("part", "v")},
    "overwrite": {},
}


class Story:
    """A source with changed keys and partial rows, and the dict of what its target should hold."""

    def __init__(self, world, way):
        self.world, self.way = world, way
        self.files: list[list[tuple]] = []

    @property
    def is_csv(self):
        return self.way == "token"

    def kept(self, op, name, value):
        """Whether a cell with this value leaves what was there."""
        marked = {"token": value == TOKEN, "keep": value is None, "keep some": value is None and name != "n"}
        return op == "U" and marked.get(self.way, False)

    def fold(self, changes):
        """(rows by key, how many rows went to the quarantine)"""
        state, rejected = {}, 0
        for op, key, old, values in changes:
            cells = dict(zip(VALUES, values, strict=True))
            unset = {name for name, value in cells.items() if self.kept(op, name, value)}
            moved = op == "U" and old not in (None, key)
            if moved and unset:
                rejected += 1
                continue
            if op == "D":
                state.pop(key, None)
                continue
            before = state.get(key, {}) if op == "U" else {}
            if moved:
                state.pop(old, None)
            clean = {name: None if value == TOKEN else value for name, value in cells.items()}
            state[key] = {name: before.get(name) if name in unset else clean[name] for name in VALUES}
        return state, rejected

    def content(self, changes):
        """A CDC file's bytes, with before-images of the key."""
        rows = [(op, *key, *values, *(old if op == "U" and old else (None, None))) for op, key, old, values in changes]
        names = ["Op", *COLUMNS, "BI_id", "BI_code"]
        if self.is_csv:
            lines = [",".join(names), *(",".join("" if v is None else str(v) for v in row) for row in rows)]
            return "".join(f"{line}\n" for line in lines).encode()
        types = [pl.String, pl.Int64, pl.String, pl.String, pl.Int64, pl.String, pl.Int64, pl.String]
        buffer = io.BytesIO()
        pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row").write_parquet(buffer)
        return buffer.getvalue()

    def put(self, number, changes):
        """Write CDC file `number`, now."""
        at = self.world.start + timedelta(minutes=number)
        self.world.put(f"{at:%Y%m%d-%H%M%S}000.{'csv' if self.is_csv else 'parquet'}", self.content(changes))

    def expected(self, changes):
        state, _ = self.fold(changes)
        return sorted((*key, *(values[name] for name in VALUES)) for key, values in state.items())

    def read(self, reader):
        return sorted(reader(self.world.path, SCHEMA).rows(), key=lambda row: row[:2])


def story(world, way):
    world.start = world.now
    return Story(world, way)


CELL = {"part": ["p", "q", "r s"], "n": [1, 2, 3], "v": ["x", "y" * 40, "z"]}


def some_changes(rng, way, count):
    """Random changes of six keys; in every second U some cells are not logged."""
    blank = TOKEN if way == "token" else None
    changes = []
    for _ in range(count):
        op = rng.choice("IUUUUD")
        key = (rng.randrange(3), rng.choice("ab"))
        old = (rng.randrange(3), rng.choice("ab")) if op == "U" and rng.random() < 0.4 else None
        share = rng.choice([0, 0, 0.5, 1])
        values = [blank if rng.random() < share else rng.choice([*CELL[name], None]) for name in VALUES]
        if way in ("keep", "keep some") and rng.random() < 0.5:
            values = [value or CELL[name][0] for name, value in zip(VALUES, values, strict=True)]
        changes.append((op, key, old, tuple(values)))
    return changes


def accounts(world):
    return [done.account for done in world.batches if done is not None]


@settings(deadline=None, max_examples=16)
@given(
    seed=st.integers(0, 1 << 20),
    way=st.sampled_from(sorted(WAYS)),
    mode=st.sampled_from(["auto", "merge_on_read", "copy_on_write"]),
    parted=st.booleans(),
    tiny=st.booleans(),
    max_files=st.sampled_from([1, 2, 500]),
)
def test_any_history_is_what_a_dict_says(world_class, tmp_path_factory, seed, way, mode, parted, tiny, max_files):
    """Keys that change, swap and chain, cells that are not logged, late files: every reader sees the fold."""
    rng = random.Random(seed)
    options = {**WAYS[way], "write_mode": mode, "partition_by": ("part",) if parted else ()}
    world = world_class(tmp_path_factory.mktemp("world"), columns=tuple(COLUMNS.items()), key=KEY, **options)
    told = story(world, way)
    world.limits = Limits(max_files, 1 << 30, 300, 300)
    for name, value in TINY.items() if tiny else ():
        setattr(world, name, value)
    files = [some_changes(rng, way, rng.randrange(1, 12)) for _ in range(rng.randrange(2, 7))]
    late = {number for number in range(len(files) - 1) if rng.random() < 0.25}
    world.later(3_000)
    for number, changes in enumerate(files):
        if number not in late:
            told.put(number, changes)
            if rng.random() < 0.4:
                world.later()
                assert world.run().outcome.name == "IDLE"
    world.later()
    world.run()
    for number in late:
        told.put(number, files[number])
        world.later()
        world.run()
    everything = [change for changes in files for change in changes]
    expected = told.expected(everything)
    for reader in (by_polars, by_duckdb) if expected else (by_polars,):
        assert told.read(reader) == expected, reader
    if not late:
        done = accounts(world)
        moves = sum(op == "U" and old not in (None, key) for op, key, old, _ in everything)
        _, rejected = told.fold(everything)
        assert sum(account.quarantined for account in done) == rejected
        assert sum(account.rows_in for account in done) == len(everything) + moves - rejected
    found = verify(world.loader().context, world.record(), budget_bytes=1 << 30)
    assert found.equal, found
    assert verify(world.loader().context, world.record(), budget_bytes=1 << 30, quick=True).equal


def row(op, key, old=None, values=("p", 1, "x")):
    return op, (key, "a"), None if old is None else (old, "a"), values


@pytest.mark.parametrize("max_files", [1, 500])
def test_swaps_and_chains_of_keys(make_world, max_files):
    """1 and 2 change places by way of 9, and 3 becomes 4 becomes 5, in one batch or file by file."""
    world = make_world(columns=tuple(COLUMNS.items()), key=KEY)
    world.limits = Limits(max_files, 1 << 30, 300, 300)
    told = story(world, "overwrite")
    files = [
        [row("I", n, values=("p", n, f"was {n}")) for n in (1, 2, 3)],
        [row("U", 9, 1, ("p", 1, "was 1")), row("U", 1, 2, ("p", 2, "was 2"))],
        [row("U", 2, 9, ("q", 1, "was 1")), row("U", 4, 3, ("p", 3, "was 3")), row("U", 5, 4, ("p", 3, "was 3"))],
    ]
    for number, changes in enumerate(files):
        told.put(number, changes)
    world.run()
    assert [(found[0], found[4]) for found in world.rows()] == [(1, "was 2"), (2, "was 1"), (5, "was 3")]
    done = accounts(world)
    # Each of the five counts as a D and as itself.
    assert sum(account.rows_in for account in done) == 3 + 2 * 5
    assert sum(account.inserted - account.deleted for account in done) == 3


def test_a_changed_key_in_an_insert_only_table_has_no_effect(make_world):
    """Its U goes to quarantine, as every U does."""
    world = make_world(columns=tuple(COLUMNS.items()), key=None)
    told = story(world, "overwrite")
    told.put(0, [row("I", 1), row("U", 2, 1)])
    world.run()
    assert (accounts(world)[0].rows_in, accounts(world)[0].quarantined) == (2, 1)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1 << 20), tiny=st.booleans(), max_files=st.sampled_from([2, 500]))
def test_a_sequence_orders_partial_rows_of_a_batch(world_class, tmp_path_factory, seed, tiny, max_files):
    """What is kept is what the sequence says, also where a batch is larger than memory; `verify` agrees."""
    rng = random.Random(seed)
    columns = {**COLUMNS, "seq": "long"}
    ruled = {"sequence_by": ("seq",), "partial_updates": "keep", "partial_columns": ("part", "v")}
    world = world_class(tmp_path_factory.mktemp("world"), columns=tuple(columns.items()), key=KEY, **ruled)
    world.limits = Limits(max_files, 1 << 30, 300, 300)
    for name, value in TINY.items() if tiny else ():
        setattr(world, name, value)
    state: dict[tuple, dict] = {}
    files = [
        [(op, key, values, rng.randrange(9)) for op, key, _, values in some_changes(rng, "keep", rng.randrange(1, 30))]
        for _ in range(4)
    ]
    for changes in files:
        world.cdc(
            [
                (op, {**dict(zip(KEY, key, strict=True)), **dict(zip(VALUES, values, strict=True)), "seq": seq})
                for op, key, values, seq in changes
            ],
            world.later(),
        )
    world.run()
    told = Story(world, "keep some")
    for first in range(0, len(files), max_files):
        batch = [change for changes in files[first : first + max_files] for change in changes]
        for op, key, values, seq in sorted(batch, key=lambda change: change[3]):
            cells = dict(zip(VALUES, values, strict=True))
            if op == "D":
                state.pop(key, None)
                continue
            before = state.get(key, {}) if op == "U" else {}
            state[key] = {
                "seq": seq, **{n: before.get(n) if told.kept(op, n, cells[n]) else cells[n] for n in VALUES}
            }  # fmt: skip
    expected = sorted((*key, *(row[name] for name in (*VALUES, "seq"))) for key, row in state.items())
    assert sorted(by_polars(world.path, (*SCHEMA, Field("seq", "long"))).rows(), key=lambda row: row[:2]) == expected
    assert verify(world.loader().context, world.record(), budget_bytes=1 << 30).equal


def test_a_load_knows_no_unset_cells(make_world):
    """NULL of a full load is NULL; the first partial row after it keeps what the load has."""
    world = make_world(columns=tuple(COLUMNS.items()), key=KEY, partial_updates="keep")
    world.load([{"id": 1, "code": "a", "part": "p", "n": None, "v": "x"}])
    world.later(600)
    world.run()
    world.cdc([("U", {"id": 1, "code": "a", "n": 5})], world.later())
    world.later()
    world.run()
    assert world.rows() == [(1, "a", "p", 5, "x")]


def test_partial_columns_that_the_table_lacks_stop_it(make_world):
    """A name that is misspelt would keep nothing."""
    world = make_world(partial_updates="keep", partial_columns=("nmae",))
    world.cdc([("I", {"id": 1, "name": "x"})], world.later())
    with pytest.raises(TableError, match="partial_columns names 'nmae'"):
        world.run()


def test_helper_columns_of_files_without_a_header(make_world):
    """Where `columns` names before-images and sequences among the others, they are used and not in the table."""
    columns = {"id": "long", "BI_id": "long", "v": "string", "AR_H_CHANGE_SEQ": "string"}
    ruled = {"sequence_by": ("AR_H_CHANGE_SEQ",), "csv": Csv(header=False)}
    world = make_world(columns=tuple(columns.items()), dms=DmsSettings(format="csv"), **ruled)
    world.put("LOAD00000001.csv", b"1,,one,\n2,,two,\n")
    world.later(600)
    world.run()
    for text in (b"U,3,1,three,0002\nU,2,,first,0001\n", b"U,4,3,four,0004\nU,2,,last,0009\nU,2,,late,0005\n"):
        at = world.later()
        world.put(f"{at:%Y%m%d-%H%M%S}000.csv", text)
        world.later()
        world.run()
    assert world.frame().columns == ["id", "v"]
    assert world.rows() == [(2, "last"), (4, "four")]
