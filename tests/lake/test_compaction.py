"""The plan of upkeep on pure descriptions of files: it comes to an end, and leaves few files in key order."""

import bisect
import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.lake.compaction import Kind, make_jobs
from cdcloader.lake.live import Live

ROW_BYTES = 10
TARGET = 1_000


@dataclass
class File:
    """A file of single-column keys; `dead` holds the keys that a vector marks."""

    keys: list
    partition: tuple = ()
    dead: set = field(default_factory=set)
    written: int = 0

    @property
    def live(self):
        return [key for key in self.keys if key not in self.dead]


# How the number of a key becomes a key: alone, as one of a pair with few leading values, as texts that statistics cut.
SHAPES = {
    "number": lambda n: (n,),
    "pair": lambda n: (n // 300, n % 300),
    "cut": lambda n: ("p" * 28 + f"{n:07.1f}",),
    "alike": lambda n: ("p" * 40 + f"{n:07.1f}",),
}


def bounds(keys, shape):
    """What a file's statistics say of its keys: bounds column by column, of texts their first 32 characters."""
    columns = list(zip(*map(SHAPES[shape], keys), strict=True))
    lows, highs = [min(column) for column in columns], [max(column) for column in columns]
    if isinstance(lows[0], str):
        return (lows[0][:32],), (highs[0][:31] + chr(ord(highs[0][31]) + 1),)
    return tuple(lows), tuple(highs)


class Table:
    """Files by path; carries jobs out as lake/upkeep.py does, on lists instead of Parquet."""

    def __init__(self, *, marks=True, keyed=True, shape="number"):
        self.files, self.marks, self.keyed, self.shape = {}, marks, keyed, shape
        self.numbers = itertools.count()
        self.written_rows = 0

    def add(self, keys, partition=()):
        number = next(self.numbers)
        self.files[f"f{number:06d}"] = File(sorted(keys) if self.keyed else list(keys), partition, set(), number)

    def described(self):
        return [
            Live(
                path,
                f.partition,
                len(f.keys) * ROW_BYTES,
                len(f.keys),
                len(f.dead),
                *(bounds(f.keys, self.shape) if self.keyed else (None, None)),
                f.written,
                bool(f.dead),
            )
            for path, f in self.files.items()
        ]

    def spread(self, path, starts):
        counts = [0] * (len(starts) + 1)
        for key in self.files[path].live:
            counts[bisect.bisect_right(starts, SHAPES[self.shape](key))] += 1
        return counts

    def jobs(self):
        return make_jobs(self.described(), keyed=self.keyed, marks=self.marks, target_bytes=TARGET, spread=self.spread)

    def do(self, job):
        for group in job.groups:
            gone = [self.files.pop(path) for path in group]
            rows = [key for file in gone for key in file.live]
            for path in job.overlays:
                file = self.files[path]
                key = SHAPES[self.shape]
                taken = [k for k in file.live if (job.low is None or key(k) >= job.low)]
                taken = [k for k in taken if job.high is None or key(k) < job.high]
                rows += taken
                file.dead |= set(taken)
                if not file.live:
                    del self.files[path]
            self.written_rows += len(rows)
            size = len(rows) * ROW_BYTES
            pieces = max(1, round(size / TARGET)) if size > 1.5 * TARGET else 1
            rows.sort()
            step = math.ceil(len(rows) / pieces)
            for start in range(0, len(rows), step or 1):
                self.add(rows[start : start + step], gone[0].partition)

    def tidy(self, rounds_max=60):
        """Plan and do until there is nothing to do; returns the kinds of the jobs."""
        done = Counter()
        for _ in range(rounds_max):
            jobs = self.jobs()
            if not jobs:
                return done
            for job in jobs:
                if all(path in self.files for group in job.groups for path in group):
                    self.do(job)
                    done[job.kind] += 1
        raise AssertionError(f"upkeep finds no end: {done}")

    def rows(self):
        return sorted((key, file.partition) for file in self.files.values() for key in file.live)


def least(table):
    """The files that a fresh copy would have, by partition."""
    sizes = Counter()
    for file in table.files.values():
        sizes[file.partition] += len(file.live) * ROW_BYTES
    return {partition: max(1, math.ceil(size / TARGET)) for partition, size in sizes.items()}


@st.composite
def tables(draw):
    """Neighbours, scattered files, files one inside the other, partitions, dead rows; every key lives once."""
    keyed, shape = draw(st.sampled_from([(False, "number"), *((True, shape) for shape in SHAPES)]))
    table = Table(marks=draw(st.booleans()), keyed=keyed, shape=shape)
    seed = random.Random(draw(st.integers(0, 2**32)))
    partitions = [(str(n),) for n in range(draw(st.integers(1, 3)))]
    keys = list(range(draw(st.integers(1, 3_000))))
    while keys:
        partition, count = seed.choice(partitions), seed.choice([1, 3, 10, 40, 90, 150, 400])
        if seed.random() < 0.5:
            taken, keys = keys[:count], keys[count:]
        else:
            at = seed.randrange(len(keys))
            near = keys[at : at + 10 * count] if seed.random() < 0.5 else keys
            taken = seed.sample(near, min(count, len(near)))
            keys = [key for key in keys if key not in set(taken)]
        table.add(taken, partition)
    for file in table.files.values():
        if seed.random() < 0.3:
            file.dead = set(seed.sample(file.keys, seed.randint(0, len(file.keys))))
    return table


@settings(max_examples=150)
@given(table=tables())
def test_upkeep_comes_to_an_end_and_leaves_few_files(table):
    """Any table: planning after all jobs gives none, no row is lost, and the files are at most twice the least."""
    before = table.rows()
    table.tidy()
    assert table.rows() == before
    assert table.jobs() == []
    for partition, count in least(table).items():
        found = sum(file.partition == partition for file in table.files.values())
        assert found <= 2 * count + (2 if count <= 2 else 0)
    for file in table.files.values():
        assert table.marks or not file.dead
        assert len(file.dead) <= 0.2 * len(file.keys) or not table.marks


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), scattered=st.integers(0, 100), deletes=st.integers(0, 30))
def test_a_stream_of_batches_stays_tidy_and_is_not_written_over_and_over(seed, scattered, deletes):
    """Hundreds of batches with upkeep after each: few files, light overlays, and each row is written a few times."""
    choose = random.Random(seed)
    table, keys = Table(), 3_000
    for start in range(0, keys, 90):
        table.add(range(start * 10, min(start + 90, keys) * 10, 10))
    table.tidy()
    table.written_rows, came = 0, 0
    live = {key for file in table.files.values() for key in file.live}
    for _ in range(120):
        batch = set()
        for _ in range(12):
            if choose.randrange(100) < scattered:
                batch.add(choose.randrange(max(live) + 1))
            else:
                batch.add(max(live) + choose.randint(1, 20))
        gone = set(choose.sample(sorted(live - batch), deletes // 10))
        for file in table.files.values():
            file.dead |= (batch | gone) & set(file.keys)
        table.files = {path: file for path, file in table.files.items() if file.live}
        table.add(batch)
        live = (live | batch) - gone
        came += len(batch)
        table.tidy()
    assert [key for key, _ in table.rows()] == sorted(live)
    assert len(table.files) <= 2 * least(table)[()]
    assert table.written_rows <= 25 * came


def test_neighbours_are_merged_in_key_order():
    """Small neighbours become files of the right size, with ranges of their own; a file of that size is left alone."""
    table = Table()
    for start in range(0, 400, 20):
        table.add(range(start, start + 20))
    table.add(range(400, 490))
    assert [(job.kind, len(job.groups)) for job in table.jobs()] == [(Kind.MERGE, 1)] * 4
    table.tidy()
    ranges = sorted((min(file.keys), max(file.keys)) for file in table.files.values())
    assert ranges == [(0, 99), (100, 199), (200, 299), (300, 399), (400, 489)]


def test_scattered_files_are_not_merged_with_narrow_ones():
    """A file that spans many others goes together with its like, so that narrow files stay narrow."""
    table = Table()
    for start in range(0, 1000, 100):
        table.add(range(start, start + 100))
    narrow = set(table.files)
    for offset in range(12):
        table.add([start + 0.01 * (offset + 1) for start in range(0, 1000, 201)])
    table.tidy()
    assert narrow <= set(table.files)


def test_heavy_overlays_settle_range_by_range():
    """Overlays above a quarter of what lies below them go into it; the densest ranges first, each a job of its own."""
    table = Table()
    for start in range(0, 1000, 100):
        table.add(range(start, start + 100))
    table.add([500 + n + 0.5 for n in range(99)] + [n + 0.5 for n in range(0, 500, 10)])
    table.add([n + 0.25 for n in range(5, 1000, 8)])
    jobs = table.jobs()
    assert {job.kind for job in jobs} == {Kind.SETTLE}
    assert jobs[0].low == (500,)
    assert jobs[0].high == (600,)
    assert len(jobs) < 10
    table.tidy()
    assert not table.jobs()


def test_without_vectors_no_job_marks_and_every_vector_goes():
    """copy_on_write: files with vectors are purged, and overlays stay as they are or are rewritten whole."""
    table = Table(marks=False)
    for start in range(0, 1000, 100):
        table.add(range(start, start + 100))
    for file in list(table.files.values())[:3]:
        file.dead = {file.keys[0]}
    assert [job.kind for job in table.jobs()] == [Kind.PURGE] * 3
    table.tidy()
    assert not any(file.dead for file in table.files.values())


@pytest.mark.parametrize(
    "spans", [((None, None), (None, None)), (("x" * 32, "x" * 31 + "y"), ("x" * 32, "x" * 31 + "y"))]
)
def test_files_that_lie_nobody_knows_where_do_not_settle(spans):
    """No statistics, or texts that begin alike: such files are merged by size only, and that comes to an end."""
    files = [
        Live(f"f{n}", (), 900, 90, 0, *((None, None) if low is None else ((low,), (high,))), n)
        for n, (low, high) in enumerate(spans * 4)
    ]
    assert make_jobs(files, keyed=True, marks=True, target_bytes=TARGET, spread=lambda *_: pytest.fail("looked")) == []


def test_composite_keys_that_share_a_leading_value_are_neighbours():
    """Statistics bound each column for itself: files that meet in a leading value follow one another all the same."""
    spans = [((1, 1), (1, 50)), ((1, 51), (1, 99)), ((1, 1), (2, 99)), ((2, 31), (2, 60)), ((2, 1), (3, 99))]
    files = [Live(f"f{n}", (), 300, 30, 0, low, high, n) for n, (low, high) in enumerate(spans)]
    jobs = make_jobs(files, keyed=True, marks=True, target_bytes=TARGET, spread=lambda *_: pytest.fail("looked"))
    assert [job.groups for job in jobs] == [(("f0", "f1", "f2"),), (("f3", "f4"),)]


def test_the_size_of_one_commit_is_bounded():
    """A thousand small partitions are tidied by commits of about one file of the right size each."""
    table = Table()
    for number in range(300):
        for part in range(6):
            table.add(range(part * 5, part * 5 + 5), (str(number),))
    jobs = table.jobs()
    assert all(job.bytes <= 1.5 * TARGET for job in jobs)
    assert len(jobs) > 20
