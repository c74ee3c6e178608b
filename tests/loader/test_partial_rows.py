"""Changed keys and partial rows from raw files to the target, against a dict."""

from __future__ import annotations

import io
import random
from datetime import timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.changes.schema import Field
from cdcloader.config.models import Csv
from cdcloader.demo.dms_writer import DmsSettings
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


@settings(deadline=None, max_examples=40)
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
