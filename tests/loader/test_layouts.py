"""Every layout of a source's files through the loader: folders of dates, segments, time zones, the config's own."""

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdcloader.demo.dms_writer import (
    Change,
    DmsSettings,
    article_cdc_file,
    cdc_files,
    load_files,
    render_cdc,
    render_load,
)
from cdcloader.errors import ConfigError, TableError
from cdcloader.loader import orders
from cdcloader.loader.account import progress_of
from cdcloader.loader.listing import list_new, list_source, look_at
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import verify
from cdcloader.objects import Objects
from cdcloader.source.actions import Batch
from cdcloader.source.names import position_of_name
from cdcloader.source.plan import make_plan
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import Record
from cdcloader.turns import take_turn

LOOK_BACK = 3600


def row(number, name="x"):
    return {"id": number, "name": name}


class Site:
    """A world whose files stand in folders, and what its table should hold."""

    def __init__(self, world):
        self.world, self.truth = world, {}

    def put(self, key, content, at=None):
        path = self.world.root / "raw" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        seconds = (at or self.world.now).timestamp()
        os.utime(path, (seconds, seconds))
        return key

    def load(self, *numbers, **options):
        pieces = [[row(number)] for number in numbers]
        for file in load_files(self.world.dms, "s/t", self.world.columns, pieces, at=self.world.now, **options):
            self.put(file.key, file.content)
        self.truth = dict.fromkeys(numbers, "x")

    def changes(self, **names):
        """Upserts by key, i1="a": one flush at the world's time, committed just then."""
        return self.flush({self.world.now: names})

    def flush(self, by_commit, at=None):
        at = at or self.world.now
        changes = []
        for commit, names in by_commit.items():
            for key, name in names.items():
                self.truth[int(key[1:])] = name
                changes.append(Change("U", row(int(key[1:]), name), commit))
        files = cdc_files(self.world.dms, "s/t", self.world.columns, changes, at=at)
        return [self.put(file.key, file.content, at) for file in files]

    def check(self, loader=None):
        assert self.world.run(loader).outcome is Outcome.IDLE
        assert dict(self.world.rows()) == self.truth

    def verify(self):
        found = verify(self.world.loader().context, self.world.record(), budget_bytes=512 << 20)
        assert found.equal, found


@pytest.fixture
def make_site(make_world):
    return lambda **options: Site(make_world(**options))


@pytest.fixture
def lists(monkeypatch):
    """The parts of the source that were listed, as (start, number of objects taken)."""
    made, pages = [], Objects.pages

    def counted(self, prefix="", start_after=""):
        if prefix.startswith("s/t"):
            made.append(start_after)
        return pages(self, prefix, start_after)

    monkeypatch.setattr(Objects, "pages", counted)
    return made


STYLES = [
    ("YYYYMMDD", "SLASH", 1),
    ("YYYYMMDD", "NONE", 1),
    ("YYYYMMDDHH", "DASH", 1),
    ("YYYYMM", "UNDERSCORE", 1),
    ("HIVE", "SLASH", 2),
    ("MMYYYYDD", "SLASH", 4),
    ("DDMMYYYY", "DASH", 4),
]


def partitioned(sequence, delimiter="SLASH", form="parquet", zone="UTC"):
    return DmsSettings(
        format=form,
        header=form == "csv",
        date_partition=sequence,
        date_partition_delimiter=delimiter,
        date_partition_timezone=zone,
    )


@pytest.mark.parametrize(("sequence", "delimiter", "requests"), STYLES)
def test_date_partitions(make_site, lists, sequence, delimiter, requests):
    """Months, years, restarts: every file is applied in the order of its name, at a few requests a look."""
    site = make_site(dms=partitioned(sequence, delimiter))
    world = site.world
    world.now = datetime(2025, 12, 30, 22, tzinfo=UTC)
    site.load(1, 2, 3)
    loader = world.loader()
    for step in range(8):
        world.later(10 * 3600)
        # Changes of before midnight that are written behind it stand in the folder of the day before.
        site.flush({world.now - timedelta(hours=6): {"i1": f"a{step}"}, world.now: {"i1": f"b{step}", "i2": f"{step}"}})
        site.check(loader if step % 3 else world.loader("another"))
    record = world.record()
    assert record.last_incremental_file.removeprefix(record.path).count("/") > 0
    site.verify()
    loader = world.loader()
    site.check(loader)
    lists.clear()
    site.check(loader)
    assert len(lists) == requests


@pytest.mark.parametrize("style", [("YYYYMMDD", "SLASH"), ("YYYYMM", "NONE"), ("HIVE", "SLASH"), ("DDMMYYYY", "DASH")])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=2, max_size=12),
    applied=st.integers(0, 11),
)
def test_a_part_of_a_source_tells_what_all_of_it_would(make_site, style, steps, applied):
    """However far DMS lags: the files that a look lists lead to the plan that a listing of everything leads to."""
    site = make_site(dms=partitioned(*style, form="csv"))
    world, commit, names = site.world, datetime(2026, 1, 25, tzinfo=UTC), []
    world.now = commit
    for hours, lag_hours in steps:
        commit += timedelta(hours=hours)
        world.now = max(world.now + timedelta(seconds=61), commit + timedelta(hours=lag_hours))
        names += [key.removeprefix("s/t/") for key in site.flush({commit: {"i1": "a"}})]
    context = world.loader().context
    known = names[: min(applied, len(names) - 1) + 1]
    position, path = position_of_name(known[-1]), context.path
    record = replace(
        Record(path, last_incremental_file=path + known[-1], recorded_position=position),
        ledger={file.name: file.etag for file in list_source(context).files if file.name in known},
        ledger_from=context.naming.position_before(position, LOOK_BACK),
    )
    found = list_new(context, record, progress_of(record))
    assert not found.whole or style[0] == "DDMMYYYY"
    plan, whole = (
        look_at(context, record).plan,
        make_plan(list_source(context).files, progress_of(record), world.limits, keyed=True, now=world.now),
    )
    assert plan.action == whole.action
    assert [file.name for file in getattr(plan.action, "files", ())] == names[len(known) :]


def test_late_files_in_folders_of_dates(make_site):
    """A file behind the watermark is late wherever it stands; all that was applied after it is applied again."""
    site = make_site(dms=partitioned("YYYYMMDD"))
    world = site.world
    site.load(1, 2)
    world.later()
    loader = world.loader()
    for step in range(3):
        world.later(600)
        site.changes(i1=f"a{step}")
        site.check(loader)
    generation = world.record().generation
    site.flush({world.now - timedelta(days=3): {"i2": "late"}}, at=world.now - timedelta(seconds=300))
    truth = dict(site.truth)
    assert world.run(loader).outcome is Outcome.IDLE
    assert dict(world.rows())[2] == "x"  # Not in the folders of the last days.
    world.later(LOOK_BACK // 2)
    assert world.run(loader).outcome is Outcome.IDLE
    assert dict(world.rows()) == truth
    assert world.record().generation == generation + 1
    site.verify()


@pytest.mark.parametrize("named", ["{path}{name}", "{base}", "{name}"])
def test_a_rewind_to_a_file_in_a_folder(make_site, named):
    """LastIncrementalFile may be set to a file with its folder or without: what comes after it is applied again."""
    site = make_site(dms=partitioned("DDMMYYYY"))
    world = site.world
    site.load(1, 2)
    names = []
    for step in range(4):
        world.later(50_000)
        names += [key.removeprefix("s/t/") for key in site.changes(i1=f"a{step}")]
        site.check()
    record = world.record()
    text = named.format(path=record.path, name=names[1], base=names[1].rpartition("/")[2])
    world.store.update(record, replace(record, last_incremental_file=text))
    world.batches.clear()
    site.check()
    assert [name for batch in world.batches for name in batch.account.files] == names[2:]
    assert world.record().generation == record.generation + 1


@pytest.mark.parametrize("layout", ["ranges", "folders"])
def test_a_lost_record_knows_the_layout(make_site, layout):
    """What a state record says of folders is in the Delta log too: nothing is applied again, and a reload is one."""
    site = make_site(dms=partitioned("YYYYMMDD"))
    world = site.world
    site.load(1, 2, parallel=layout)
    world.later(400)
    site.changes(i1="a")
    site.check()
    before = world.record()
    world.store = MemoryStore()
    world.later(60)
    site.changes(i1="b")
    site.check()
    after = world.record()
    assert (after.generation, after.full_load_layout) == (before.generation, before.full_load_layout)
    assert (before.full_load_layout, len(after.ledger)) == ({"ranges": "segments"}.get(layout, layout), 2)
    world.later(600)
    site.load(1, 2, 3, parallel=layout)
    world.later(400)
    site.check()


def test_a_new_process_looks_into_every_folder(make_site):
    """A task that began again at an earlier point wrote new files into folders of long ago, while nobody looked."""
    site = make_site(dms=partitioned("DDMMYYYY"))
    world = site.world
    site.load(1, 2)
    world.later()
    site.changes(i1="a")
    site.check()
    world.later(200_000)
    site.changes(i1="b")
    site.check()
    world.later()
    site.flush({world.now - timedelta(days=40): {"i2": "again"}})
    site.check()


@pytest.mark.parametrize(("sequence", "delimiter"), [("YYYYMMDD", "SLASH"), ("YYYYMM", "NONE"), ("DDMMYYYY", "DASH")])
def test_date_partitions_are_switched_on_and_off(make_site, lists, sequence, delimiter):
    """A task whose files begin to stand in folders: a loader that runs sees them in time, and their end."""
    site = make_site(dms=DmsSettings(format="parquet"))
    world = site.world
    site.load(1, 2)
    world.later()
    site.changes(i1="plain")
    loader = world.loader()
    site.check(loader)
    world.dms = partitioned(sequence, delimiter)
    world.later(60)
    site.changes(i2="folder")
    world.later(LOOK_BACK // 2)
    site.check(loader)
    world.later(60)
    site.changes(i1="next")
    site.check(loader)
    world.dms = DmsSettings(format="parquet")
    for step in range(3):
        world.later(LOOK_BACK)
        site.changes(i1=f"off {step}")
        site.check(loader)
    lists.clear()
    site.check(loader)
    assert len(lists) == 1


def test_a_plain_source_costs_one_request(make_site, lists):
    """A look at a source without folders lists it once, from the look-back on, in a new process and in an old one."""
    site = make_site(dms=DmsSettings(format="parquet"))
    world = site.world
    site.load(1, 2)
    world.later()
    site.changes(i1="a")
    site.check()
    loader = world.loader()
    for _ in range(3):
        lists.clear()
        site.check(loader)
        assert len(lists) == 1
        assert lists[0] > "s/t/2026"
    world.later(LOOK_BACK // 2)
    lists.clear()
    site.check(loader)
    assert len(lists) == 4


def test_a_clock_that_falls_back(make_site):
    """In the hour that comes twice, changes of one key are applied in the order in which they were made."""
    site = make_site(dms=partitioned("YYYYMMDD", zone="Europe/Berlin"), timezone="Europe/Berlin")
    world = site.world
    world.now = datetime(2026, 10, 24, 23, tzinfo=UTC)
    site.load(1, 2)
    loader = world.loader()
    for step in range(20):
        world.later(617)
        site.changes(**{"i1": f"a{step}", f"i{step + 10}": "new"})
        if step % 3 == 0:
            site.check(loader)
        if step == 11:
            loader = world.loader("another")
    names = [name for batch in world.batches for name in batch.account.files]
    assert sum(name.endswith("#2") for name in names) == 6
    site.check(loader)
    assert world.record().generation == 1
    site.verify()
    # One of the second pass is named by an operator, as it stands in raw or in the ledger.
    target = next(name for name in names if name.endswith("#2"))
    world.store.update(world.record(), replace_file(world.record(), target))
    world.run(world.loader())
    assert dict(world.rows()) == site.truth


def replace_file(record, name):
    return replace(record, last_incremental_file=record.path + name)


def test_a_zone_that_the_config_does_not_name_is_told_once(make_site):
    """Names that differ from LastModified by whole quarters of an hour: one line says which key to set."""
    site = make_site(dms=partitioned("YYYYMMDD", zone="Asia/Kolkata"))
    world = site.world
    site.load(1)
    loader = world.loader()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            for _ in range(4):
                world.later(120)
                site.changes(i1="a")
            site.check(loader)
    [told] = [line for line in lines if "timezone" in str(line.get("hint"))]
    assert told["log_level"] == "warning"
    assert "5:30" in told["reason"]


def test_names_in_utc_and_copied_files_are_no_other_zone(make_site):
    """Files that were copied at once, or written as they should be, draw no such line."""
    site = make_site(dms=DmsSettings(format="parquet"))
    world = site.world
    site.load(1)
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            world.later(120)
            site.changes(i1="a")
        site.check()
        for _ in range(5):
            world.later(120)
            for key in site.changes(i1="b"):
                seconds = (world.now + timedelta(hours=5, minutes=30)).timestamp()
                os.utime(world.root / "raw" / key, (seconds // 10_000 * 10_000, seconds // 10_000 * 10_000))
        site.check()
    assert not [line for line in lines if "timezone" in str(line.get("hint"))]


@pytest.mark.parametrize("layout", ["ranges", "folders"])
def test_segments_and_their_reload(make_site, layout):
    """Segments are one full load; a reload that writes them one after the other ends with all of them."""
    site = make_site(dms=DmsSettings(format="csv", header=True))
    world = site.world

    def write(segment, number, name):
        folder = f"SEGMENT{segment}_" if layout == "ranges" else f"part_{segment}/"
        rows = [row(10 * segment + number, name)]
        site.truth[10 * segment + number] = name
        return site.put(f"s/t/{folder}LOAD{number:08X}.csv", render_load(world.dms, world.columns, rows))

    for segment in (1, 2):
        for number in (1, 2):
            write(segment, number, "old")
    world.later(400)
    site.check()
    site.changes(i11="changed")
    world.later(60)
    site.check()
    world.later(600)
    for segment in (2, 1):
        for number in (1, 2):
            write(segment, number, "new")
            world.later(30)
            world.run()  # A look in between takes nothing too early.
    world.later(400)
    site.check()
    assert world.record().full_load_layout == ("segments" if layout == "ranges" else "folders")
    site.verify()


def test_load_files_that_were_moved_aside_stop_the_table(make_site):
    """A copy of the LOAD files below the table is not loaded again, and the message says what to do."""
    site = make_site(dms=DmsSettings(format="csv", header=True))
    world = site.world
    site.load(1, 2)
    world.later(400)
    site.check()
    world.later(60)
    aside = site.put("s/t/old/LOAD00000001.csv", render_load(world.dms, world.columns, [row(1, "stale")]))
    with pytest.raises(TableError, match="moved aside") as caught:
        world.run()
    assert caught.value.where.endswith(aside)
    (world.root / "raw" / aside).unlink()
    site.check()


def test_numbered_files_in_a_folder_per_day(make_site):
    """The articles' layout: data and cdc files by day and number, complete by the marker, reloaded another day."""
    site = make_site(dms=DmsSettings(format="parquet"))
    world = site.world
    site.load(1, 2, layout="articles")
    site.check()
    for number in (1, 2, 10):
        world.later(60)
        site.truth[1] = str(number)
        changes = [Change("U", row(1, str(number)), world.now)]
        file = article_cdc_file(world.dms, "s/t", world.columns, changes, at=world.now, number=number)
        site.put(file.key, file.content)
    site.check()
    assert world.record().last_incremental_file.endswith("/20260301/cdc-00010.parquet")
    world.later(86_400)
    site.truth[2] = "next day"
    changes = [Change("U", row(2, "next day"), world.now)]
    file = article_cdc_file(world.dms, "s/t", world.columns, changes, at=world.now, number=1)
    site.put(file.key, file.content)
    site.check()
    world.later(86_400)
    site.put("s/t/20260303/data-00001.parquet", render_load(world.dms, world.columns, [row(7, "again")]))
    site.put("s/t/20260303/FULL_LOAD_COMPLETE", b"")
    world.run()
    assert dict(world.rows())[7] == "again"


def test_a_layout_of_the_configs_own(make_site):
    """Files that another program named: full load, changes, a restart, a file in the way that is skipped."""
    pattern = r"(?P<kind>full|inc)/(?P<date>\d{4}-\d\d-\d\d)/part-(?P<number>\d+)\.csv"
    site = make_site(dms=DmsSettings(format="csv", header=True), layout=pattern)
    world = site.world
    site.put("s/t/full/2026-03-01/part-0.csv", render_load(world.dms, world.columns, [row(1), row(2)]))
    site.put("s/t/readme.txt", b"hello")
    site.truth = {1: "x", 2: "x"}
    world.later(400)
    site.check()
    for number in range(8, 12):
        content = render_cdc(world.dms, world.columns, [Change("U", row(1, str(number)), world.now)])
        site.put(f"s/t/inc/2026-03-01/part-{number}.csv", content)
        world.later()
    site.put("s/t/inc/2026-03-02/part-0.csv", b"\x00\xff no text")
    site.truth[1] = "11"
    assert take_turn(world.loader(), threading.Event()).error
    assert dict(world.rows()) == site.truth
    assert world.record().last_incremental_file.endswith("/inc/2026-03-01/part-11.csv")
    orders.skip(world.loader().context, world.store, "inc/2026-03-02/part-0.csv")
    site.check()


def test_the_first_file_of_a_layout_may_have_the_name_of_none(make_site):
    """A file 0.parquet is applied once, though "0.parquet" in LastIncrementalFile says that nothing is."""
    site = make_site(layout=r"(?P<load>full_)?(?P<number>[0-9]+)\.parquet")
    world = site.world
    site.put("s/t/full_1.parquet", render_load(world.dms, world.columns, [row(1)]))
    world.later(400)
    world.run()
    for number in range(3):
        content = render_cdc(world.dms, world.columns, [Change("U", row(1, str(number)), world.now)])
        site.put(f"s/t/{number}.parquet", content)
        world.later()
        assert world.run().outcome is Outcome.IDLE
        assert world.rows() == [(1, str(number))]
        assert world.record().generation == 1
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=f"{record.path}0.parquet"))
    world.run()
    assert world.record().generation == 2
    assert sum(done.account.rows_in for done in world.batches) == 1 + 3 + 3


def test_a_file_of_a_folder_is_skipped_by_its_name(make_site):
    """`resume --skip` takes the last part of a name if it names one file, else the folder too."""
    site = make_site(dms=partitioned("YYYYMMDD"))
    world = site.world
    site.load(1, 2)
    world.later()
    site.changes(i1="a")
    site.check()
    world.later()
    name = f"{world.now:%Y%m%d-%H%M%S}000.parquet"
    for folder in ("2026/03/01", "2026/02/28"):
        site.put(f"s/t/{folder}/{name}", b"no Parquet at all")
    assert take_turn(world.loader(), threading.Event()).error
    with pytest.raises(ConfigError, match="may be any of"):
        orders.skip(world.loader().context, world.store, name)
    orders.skip(world.loader().context, world.store, f"2026/02/28/{name}")
    orders.skip(world.loader().context, world.store, f"s3://bucket/s/t/2026/03/01/{name}")
    site.check()
    assert set(world.record().skipped_files) == {f"2026/03/01/{name}", f"2026/02/28/{name}"}


def test_transaction_files_are_listed_beside_the_tables_own(make_site, lists):
    """LOAD files come from the table's folder, changes from `cdc_path`, from the watermark on."""
    site = make_site(dms=DmsSettings(format="csv", header=True), cdc_path="changes")
    world = site.world
    site.load(1)
    world.later(400)
    site.check()
    names = [f"CDC_TXN-{world.later(4000):%Y%m%d%H%M%S}000.csv" for _ in range(3)]
    for name in names:
        site.put(f"changes/{name}", b"U,t,s,1,a\n")
    found = look_at(world.loader().context, world.record()).plan.action
    assert isinstance(found, Batch)
    assert [(file.name, file.key, file.transactions) for file in found.files] == [
        (name, f"changes/{name}", True) for name in names
    ]


def test_the_folder_of_transaction_files_is_no_table(make_site):
    """A source that is the shared folder itself is refused."""
    site = make_site(cdc_path="s/t")
    site.put("s/t/CDC_TXN-20260301120000000.csv", b"U,t,s,1,a\n")
    with pytest.raises(TableError, match="no table"):
        site.world.run()
