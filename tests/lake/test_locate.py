"""Keys are found where a plain join finds them, whatever the types, the order of the rows, and what was cached."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from uuid import UUID

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap64

from cdcloader.changes.schema import Field, polars_schema
from cdcloader.errors import TableError
from cdcloader.lake import datafiles, key_index, locate, statistics
from cdcloader.lake.key_cache import Found, KeyCache
from cdcloader.lake.key_index import NET
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects

MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
KEYS = {
    "byte": st.integers(-3, 3),
    "short": st.integers(-3, 3),
    "integer": st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]),
    "long": st.sampled_from([-(2**63), -1, 0, 1, 2, 2**53 + 1, 2**63 - 1]),
    "string": st.sampled_from(["", "A", "a", "a\0", "b/c", "é", "ｆ", "x" * 40, "x" * 39 + "y", str(UUID(int=7))]),
    "binary": st.sampled_from([b"", b"\0", b"\xff", b"a", b"ab" * 20]),
    "date": st.sampled_from([date(1, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(9999, 12, 31)]),
    "timestamp": st.sampled_from(MOMENTS),
    "timestamp_ntz": st.sampled_from([moment.replace(tzinfo=None) for moment in MOMENTS]),
    "decimal(12,2)": st.decimals(Decimal(-2), Decimal(2), places=2),
    "decimal(38,4)": st.sampled_from([Decimal("-1e33"), Decimal(0), Decimal("0.0001"), Decimal("1e33")]),
    "boolean": st.booleans(),
    "double": st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 1.5, math.inf, math.nan]),
    "float": st.sampled_from([-1.5, -0.0, 0.0, math.nan]),
}
PARTITIONS = {
    "string": st.sampled_from([None, "a", "b c"]),
    "integer": st.sampled_from([None, 1, -2]),
    "date": st.sampled_from([date(2024, 2, 29), date(2024, 3, 1)]),
}


@pytest.fixture
def lake(tmp_path):
    return Objects.open(str(tmp_path / "lake"), create=True)


def write(lake, frame, values=None, *, group_rows=100_000, name="f.parquet"):
    """A data file as any writer may leave it: in this order of rows, with these row groups."""
    content = frame.drop(list(values or {}))
    body = BytesIO()
    pq.write_table(content.to_arrow(compat_level=pl.CompatLevel.oldest()), body, row_group_size=group_rows)
    lake.write(f"t/{name}", body.getvalue())
    stats = statistics.to_json(content.height, statistics.summarise(content))
    return DataFile(name, values or {}, len(body.getvalue()), 0, stats)


def sought(rows, names, schema):
    keys = pl.DataFrame(rows, schema={name: polars_schema(schema)[name] for name in names}, orient="row")
    return keys.unique().drop_nulls().sort(names).with_row_index(NET).select(*names, NET)


def comparable(value):
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def joined(stored, keys, names, dead):
    """The pairs that a plain comparison finds."""
    wanted = {tuple(map(comparable, row[:-1])): row[-1] for row in keys.rows()}
    rows = [tuple(map(comparable, row)) for row in stored.select(names).rows()]
    return sorted((at, wanted[row]) for at, row in enumerate(rows) if row in wanted and at not in dead)


def looked(lake, file, keys, schema, cache, dead=()):
    found = locate.locate(lake, "t", file, keys, schema, cache=cache, dead=BitMap64(dead))
    return found, pairs_of(found)


def pairs_of(found):
    return sorted(zip(found.hits.positions.tolist(), found.hits.nets.tolist(), strict=True))


class Counts(list):
    """Where each lookup's keys came from."""

    def take(self):
        taken, self[:] = list(self), []
        return taken


@st.composite
def cases(draw):
    """(schema, key, rows, partition values, order, group rows, dead rows, batches of keys)."""
    kinds = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    names = [f"k{n}" for n in range(len(kinds))]
    values = [KEYS[kind] for kind in kinds]
    fields = [Field(name, kind) for name, kind in zip(names, kinds, strict=True)]
    partition = {}
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(PARTITIONS)))
        at = draw(st.integers(0, len(names)))
        names.insert(at, "p")
        values.insert(at, PARTITIONS[kind].filter(lambda value: value is not None))
        fields.insert(at, Field("p", kind))
        partition = {"p": draw(PARTITIONS[kind])}
        if draw(st.integers(0, 5)) == 0:
            names = ["p"]
    stored = [values[n] if field.name != "p" else st.just(partition["p"]) for n, field in enumerate(fields)]
    if draw(st.booleans()):
        stored = [st.one_of(st.none(), value) for value in stored]
    if partition:
        stored[[field.name for field in fields].index("p")] = st.just(partition["p"])
    rows = draw(st.lists(st.tuples(*stored), min_size=1, max_size=30))
    key_of = {field.name: value for field, value in zip(fields, values, strict=True)}
    key = st.tuples(*(key_of[name] for name in names))
    batches = draw(st.lists(st.lists(key, max_size=12), min_size=1, max_size=4))
    dead = draw(st.sets(st.integers(0, len(rows) - 1)))
    return tuple(fields), names, rows, partition, draw(st.booleans()), draw(st.sampled_from([3, 100])), dead, batches


@settings(max_examples=120, deadline=None)
@given(case=cases(), way=st.sampled_from(["chosen", "search", "join", "hash", "collisions"]), tier=st.integers(0, 2))
def test_a_lookup_finds_what_a_plain_join_finds(case, way, tier, tmp_path_factory):
    """Any types, composite keys, duplicates, NULLs, unsorted files, row groups, dead rows, partitions in the key."""
    schema, names, rows, partition, in_order, group_rows, dead, batches = case
    folder = tmp_path_factory.mktemp("case")
    lake = Objects.open(str(folder / "lake"), create=True)
    stored = pl.DataFrame(rows, schema=polars_schema(schema), orient="row")
    stored = stored.sort(names, nulls_last=False) if in_order else stored
    texts = {name: datafiles.partition_text(value) for name, value in partition.items()}
    file = write(lake, stored.with_columns(v=pl.lit(1)), texts, group_rows=group_rows)
    cache = KeyCache(0 if tier == 1 else 1 << 20, folder / "keys" if tier else None, 1 << 30)
    ways = {
        "chosen": {},
        "search": {"_MERGE_SHARE": 0, "_JOIN_SHARE": 0, "_SHARED_ROWS": 1 << 30},
        "join": {"_MERGE_SHARE": 1 << 30, "_JOIN_SHARE": 1 << 30},
        "hash": {"_MERGE_SHARE": 0, "_JOIN_SHARE": 0, "_SHARED_ROWS": -(1 << 30)},
        "collisions": {
            "_MERGE_SHARE": 0, "_JOIN_SHARE": 0, "_SHARED_ROWS": -(1 << 30),
            "_hash": lambda frame, _: pl.Series("__hash", [7], dtype=pl.UInt64).new_from_index(0, frame.height),
        },
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate, "WHOLE_ROWS", 0)
        for name, value in ways[way].items():
            patch.setattr(key_index, name, value)
        for batch in batches:
            keys = sought(batch, names, schema)
            expected = joined(stored, keys, names, dead)
            found, pairs = looked(lake, file, keys, schema, cache, dead)
            assert pairs == expected
            assert found.rows == len(rows) - len(dead)
            if batch:
                # What is known by now is searched together, each with keys of its own.
                parts = [keys, keys.head(1), keys.tail(2)]
                together = locate.locate_all(
                    lake, "t", [(file, part) for part in parts], schema, cache=cache, dead=lambda _: BitMap64(dead)
                )
                assert [pairs_of(each) for each in together] == [joined(stored, part, names, dead) for part in parts]
                assert {each.rows for each in together} == {found.rows}
            allowed = locate.candidates([file], keys, schema)
            assert expected == [] or allowed
            if allowed:
                assert looked(lake, file, allowed[0][1], schema, cache, dead)[1] == expected


@pytest.mark.parametrize("key", [("id",), ("line", "id")])
def test_the_lowest_key_of_a_file_is_known(lake, key):
    """`first` is the lowest key, in the table's types, whether the rows stand in order or not."""
    schema = (Field("id", "decimal(10,2)"), Field("line", "date"))
    rows = [
        (Decimal("2.50"), date(2024, 1, 2)),
        (Decimal("1.50"), date(2024, 1, 3)),
        (Decimal("9.00"), date(2024, 1, 1)),
    ]
    stored = pl.DataFrame(rows, schema=polars_schema(schema), orient="row")
    for frame in (stored, stored.sort(key)):
        file = write(lake, frame)
        keys = frame.select(key).sort(key).with_row_index(NET).select(*key, NET)
        found, _ = looked(lake, file, keys, schema, KeyCache())
        assert found.first == frame.select(key).sort(key).row(0)


def test_a_moment_that_python_does_not_know_is_no_trouble(lake):
    """Dates far outside Python's years are searched like others; the lowest key is then not known."""
    schema = (Field("day", "date"),)
    stored = pl.DataFrame({"day": pl.Series([-10_000_000, 5, 10_000_000], dtype=pl.Int32).cast(pl.Date)})
    file = write(lake, stored)
    found, pairs = looked(lake, file, stored.with_row_index(NET).select("day", NET), schema, KeyCache())
    assert pairs == [(0, 0), (1, 1), (2, 2)]
    assert found.first == ()


def numbers(start, end, step=1):
    return pl.DataFrame({"id": range(start, end, step)}).with_columns(v=pl.col("id") * 2)


ID = (Field("id", "long"), Field("v", "long"))


def ids(*values):
    return sought([(value,) for value in values], ["id"], ID)


def test_what_was_read_is_not_read_again(lake):
    """The second lookup of a file reads nothing, and one after `remember` reads nothing at all."""
    counts = Counts()
    cache = KeyCache(on_lookup=counts.append)
    file = write(lake, numbers(0, 1000))
    assert looked(lake, file, ids(5, 999), ID, cache)[1] == [(5, 0), (999, 1)]
    assert counts.take() == [Found.READ]
    lake.delete(["t/f.parquet"])
    assert looked(lake, file, ids(6), ID, cache)[1] == [(6, 0)]
    assert counts.take() == [Found.MEMORY]
    written = DataFile("g.parquet", {}, 1, 0, None)
    cache.remember(lake.path_of("t"), written, numbers(0, 10).select("id"))
    assert looked(lake, written, ids(9, 10), ID, cache)[1] == [(9, 0)]
    assert counts.take() == [Found.MEMORY]


def test_only_the_row_groups_that_may_hold_keys_are_read(lake, monkeypatch):
    """Few row groups are read by themselves, later lookups add what they need, and many make it the whole column."""
    monkeypatch.setattr(locate, "WHOLE_ROWS", 0)
    read, whole = [], []
    monkeypatch.setattr(
        locate.row_groups, "read_groups", spied(locate.row_groups.read_groups, lambda args: read.append(args[-1]))
    )
    monkeypatch.setattr(locate.datafiles, "read", spied(locate.datafiles.read, whole.append))
    counts = Counts()
    cache = KeyCache(on_lookup=counts.append)
    file = write(lake, numbers(0, 2000), group_rows=100)
    for values, groups, source in (
        ([5, 1999], [[0, 19]], Found.READ),
        ([7, 1950], [], Found.MEMORY),
        ([150, 1999], [[1]], Found.READ),
        ([5, 150, 1999, 2500], [], Found.MEMORY),
        ([3000], [], Found.MEMORY),
    ):
        found, pairs = looked(lake, file, ids(*values), ID, cache)
        assert pairs == [(value, n) for n, value in enumerate(sorted(values)) if value < 2000]
        assert (read, counts.take(), found.rows, found.first) == (groups, [source], 2000, (0,))
        read.clear()
    assert not whole
    scattered = list(range(0, 2000, 50))
    assert looked(lake, file, ids(*scattered), ID, cache)[1] == [(value, n) for n, value in enumerate(scattered)]
    assert (read, len(whole), counts.take()) == ([], 1, [Found.READ])
    assert looked(lake, file, ids(*scattered), ID, cache)[1] == [(value, n) for n, value in enumerate(scattered)]
    assert (read, len(whole), counts.take()) == ([], 1, [Found.MEMORY])


def spied(function, tell):
    def call(*args, **named):
        tell(args)
        return function(*args, **named)

    return call


def test_all_files_are_looked_into_side_by_side(lake):
    """`locate_all` answers in the order of the candidates, cached or not, and takes each file's dead rows out."""
    files = [write(lake, numbers(at, at + 10), name=f"{at}.parquet") for at in range(0, 200, 10)]
    cache = KeyCache()
    keys = ids(*range(0, 200, 5), 500)
    for _ in range(2):
        wanted = locate.candidates(files, keys, ID)
        found = locate.locate_all(lake, "t", wanted, ID, cache=cache, dead=lambda _: BitMap64([5]))
        assert [(each.file, each.hits.positions.tolist(), each.rows) for each in found] == [
            (file, [0], 9) for file in files
        ]


@pytest.mark.parametrize("kind", ["long", "short", "date", "string"])
def test_known_files_are_searched_together_and_none_takes_the_rows_of_another(lake, kind):
    """Keys that stand twice in one file, at its ends, in no file, or in several, are found where a plain join does."""
    dtype = polars_schema((Field("id", kind),))["id"]
    schema = (Field("id", kind), Field("v", "long"))
    columns = [[1, 2, 2, 5], [5, 6, 7, 7], [9, 8, 3, 5], [20], [2, 2, 2, 2, 2]]
    frames = [pl.DataFrame({"id": pl.Series(values).cast(dtype), "v": 0}) for values in columns]
    files = [write(lake, frame, name=f"{number}.parquet") for number, frame in enumerate(frames)]
    cache = KeyCache()
    for wanted in ([1, 2, 5, 7, 9, 21], [0], [2], [20], [], [5, 7, 8]):
        keys = pl.DataFrame({"id": pl.Series(wanted, dtype=pl.Int64).cast(dtype)}).sort("id")
        keys = keys.with_row_index(NET).select("id", NET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(key_index, "_MERGE_SHARE", 0)
            patch.setattr(key_index, "_JOIN_SHARE", 0)
            found = locate.locate_all(
                lake, "t", [(file, keys) for file in files], schema, cache=cache, dead=lambda _: BitMap64([3])
            )
        assert [pairs_of(each) for each in found] == [joined(frame, keys, ["id"], {3}) for frame in frames]


def test_candidates_follow_the_statistics():
    """Files are chosen by the bounds of every key column and by partition; what is not known may hold anything."""
    schema = (Field("id", "long"), Field("at", "timestamp"), Field("p", "string"))

    def file(name, low, high, partition="x"):
        stats = None if low is None else f'{{"minValues":{low},"maxValues":{high}}}'
        return DataFile(name, {"p": partition}, 1, 0, stats)

    noon, late = "2024-01-01T12:00:00.000Z", "9999-12-31T23:59:59.999Z"
    files = [
        file("both", f'{{"id":0,"at":"{noon}"}}', f'{{"id":9,"at":"{noon}"}}'),
        file("other time", '{"id":0,"at":"2025-01-01T00:00:00Z"}', '{"id":9,"at":"2025-01-01T00:00:00Z"}'),
        file("other ids", '{"id":10}', '{"id":19}'),
        file("unknown", None, None),
        file("half known", '{"id":50}', "{}"),
        file("no end", f'{{"id":0,"at":"{noon}"}}', f'{{"id":9,"at":"{late}"}}'),
        file("other partition", None, None, "y"),
        file("no partition", None, None, None),
    ]
    # Statistics may be cut to milliseconds, so this lies in the bounds of noon.
    moment = datetime(2024, 1, 1, 12, 0, 0, 999, tzinfo=UTC)
    keys = sought([(5, moment, "x"), (15, moment, "z")], ["id", "at", "p"], schema)
    chosen = {each.path: allowed["id"].to_list() for each, allowed in locate.candidates(files, keys, schema)}
    assert chosen == {"both": [5], "unknown": [5], "half known": [5], "no end": [5]}


def test_a_file_that_is_gone_is_a_clear_error(lake, monkeypatch):
    """A missing or damaged data file says which one it is, whether it was to be read whole or in part."""
    file = write(lake, numbers(0, 10))
    for content in (None, b"PAR1 nonsense"):
        lake.delete(["t/f.parquet"])
        if content:
            lake.write("t/f.parquet", content)
        for rows in (0, 1 << 16):
            monkeypatch.setattr(locate, "WHOLE_ROWS", rows)
            with pytest.raises(TableError, match=r"f\.parquet"):
                looked(lake, file, ids(1), ID, KeyCache())


def test_a_column_that_the_file_lacks_holds_no_key(lake, monkeypatch):
    """A file from before its key column was added has no row with a key, read whole or in part."""
    file = write(lake, pl.DataFrame({"v": [1, 2]}))
    for rows in (0, 1 << 16):
        monkeypatch.setattr(locate, "WHOLE_ROWS", rows)
        found, pairs = looked(lake, file, ids(1), ID, KeyCache())
        assert (pairs, found.rows, found.first) == ([], 2, ())


def test_two_lakes_do_not_mix(tmp_path):
    """One cache serves many tables: files of the same name in two of them are two files."""
    cache = KeyCache(1 << 20, Path(tmp_path / "keys"), 1 << 30)
    for name in "ab":
        lake = Objects.open(str(tmp_path / name), create=True)
        file = write(lake, numbers(ord(name), ord(name) + 1))
        assert looked(lake, file, ids(ord("a"), ord("b")), ID, cache)[1] == [(0, ord(name) - ord("a"))]
