"""The sweep deletes what no version within the retention names, and nothing else."""

import json
import os
import random
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import boto3
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from duckdb_extensions import import_extension
from moto.server import ThreadedMotoServer
from pyroaring import BitMap64

from cdcloader.errors import TableError
from cdcloader.lake import datafiles, deletion_vectors
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import DataFile
from cdcloader.lake.sweep import Swept, sweep
from cdcloader.objects import Objects

DAY_MS = 86_400_000
SCHEMA = json.dumps(
    {
        "type": "struct",
        "fields": [
            {"name": "id", "type": "long", "nullable": True, "metadata": {}},
            {"name": "p", "type": "string", "nullable": True, "metadata": {}},
        ],
    }
)
DVS = {
    "minReaderVersion": 3, "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
}  # fmt: skip


def in_time():
    return False


class Site:
    """A table whose files and log entries are as old as the test says; its clock begins now and goes forward.

    delta-rs looks at the real clock when it writes a checkpoint, so the test's clock must not be behind it.
    """

    def __init__(self, root, partition_by=(), **properties):
        self.root, self.lake = root, Objects.open(str(root), create=True)
        self.log = DeltaLog(self.lake, "t")
        self.now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self.versions = []
        metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": SCHEMA,
            "partitionColumns": list(partition_by),
            "configuration": {name.replace("_", "."): value for name, value in properties.items()},
            "createdTime": 0,
        }
        self.metadata = metadata
        self.commit([{"protocol": DVS}, {"metaData": metadata}])

    @property
    def path(self):
        return str(self.root / "t")

    def later(self, days):
        self.now_ms += int(days * DAY_MS)

    def aged(self, key, days=0.0):
        """Make a file of the table as old as this."""
        seconds = self.now_ms / 1000 - days * 86_400
        os.utime(self.root / "t" / key, (seconds, seconds))

    def commit(self, actions):
        snapshot = self.log.commit(self.log.snapshot(), actions, {"timestamp": self.now_ms, "operation": "TEST"})
        self.aged(f"_delta_log/{snapshot.version:020d}.json")
        self.versions.append((self.now_ms, snapshot))
        return snapshot

    def checkpoint(self):
        DeltaTable(self.path).create_checkpoint()
        self.aged(f"_delta_log/{self.log.snapshot().version:020d}.checkpoint.parquet")

    def put(self, key, content=b"data", days=0.0):
        self.lake.write(f"t/{key}", content)
        self.aged(key, days)
        return key

    def data_file(self, ids=(1, 2, 3), partition=None):
        """A real data file, not in the log yet."""
        frame = pl.DataFrame({"id": ids, "p": partition}, schema={"id": pl.Int64, "p": pl.String})
        names = self.log.snapshot().partition_columns
        file = datafiles.write(self.lake, "t", frame, dict.fromkeys(names, partition), now_ms=self.now_ms)
        self.aged(datafiles.key_of("t", file).removeprefix("t/"))
        return file

    def vectors(self, *deads):
        """Descriptors in one packed vector file."""
        descriptors, content = deletion_vectors.pack([BitMap64(d) for d in deads], uuid.uuid4(), inline_bytes=0)
        self.put(deletion_vectors.file_name(descriptors[0]), content)
        return descriptors

    def sweep(self, deadline=in_time, **options):
        return sweep(self.lake, "t", DeltaLog(self.lake, "t"), self.now_ms, deadline, **options)

    def keys(self):
        """Everything in the table's folder but its log."""
        keys = [item.key.removeprefix("t/") for item in self.lake.list("t")]
        return {key for key in keys if not key.startswith("_delta_log")}

    def log_names(self):
        return sorted(path.name for path in (self.root / "t" / "_delta_log").iterdir())


def named(snapshot):
    """The keys of a version's files and vector files."""
    keys = set()
    for file in snapshot.files.values():
        keys.add(datafiles.key_of("t", file).removeprefix("t/"))
        if file.vector and file.vector.storage_type == "u":
            keys.add(deletion_vectors.file_name(file.vector))
    return keys


def marked(file, vector):
    return replace(file, vector=vector)


# ---- what goes, what stays --------------------------------------------------------------------------------


def test_replaced_files_and_vectors_go_when_the_retention_is_over(tmp_path):
    """A removed file, and the vector that a newer one replaced, are readable for 7 days and gone after them."""
    site = Site(tmp_path)
    kept, gone = site.data_file(), site.data_file()
    site.commit([kept.add(), gone.add()])
    (first,) = site.vectors([0])
    site.commit([kept.remove(site.now_ms), marked(kept, first).add(), gone.remove(site.now_ms)])
    site.later(1)
    (second,) = site.vectors([0, 1])
    site.commit([marked(kept, first).remove(site.now_ms), marked(kept, second).add()])
    site.later(6.5)
    before = site.keys()
    assert site.sweep() == Swept(files=1, bytes=gone.size)
    assert site.keys() == before - {gone.path}
    site.later(1)
    assert site.sweep().vectors == 1
    assert site.keys() == {kept.path, deletion_vectors.file_name(second)} == named(site.log.snapshot())
    assert pl.read_delta(site.path)["id"].to_list() == [3]


def test_a_packed_vector_file_stays_while_one_of_its_vectors_lives(tmp_path):
    """One vector file holds the vectors of a commit: it goes with the last of them."""
    site = Site(tmp_path)
    one, two = site.data_file(), site.data_file((4, 5, 6))
    site.commit([one.add(), two.add()])
    of_one, of_two = site.vectors([0], [2])
    site.commit([f.remove(site.now_ms) for f in (one, two)] + [marked(one, of_one).add(), marked(two, of_two).add()])
    site.commit([marked(one, of_one).remove(site.now_ms)])
    site.later(20)
    assert site.sweep() == Swept(files=1, bytes=one.size)
    assert sorted(pl.read_delta(site.path)["id"].to_list()) == [4, 5]
    site.commit([marked(two, of_two).remove(site.now_ms)])
    site.later(8)
    assert (site.sweep().files, site.keys()) == (1, set())


def test_files_that_a_writer_may_be_about_to_commit_stay(tmp_path):
    """A file that no version names is kept for 7 days, and two days at least, whatever the table says."""
    site = Site(tmp_path)
    site.put("part-0.parquet", days=6.9)
    site.put("part-1.parquet", days=7.1)
    site.sweep()
    assert site.keys() == {"part-0.parquet"}
    hasty = Site(tmp_path / "x", **{"delta.deletedFileRetentionDuration": "interval 0 hours"})
    hasty.put("part-0.parquet", days=1.9)
    hasty.put("part-1.parquet", days=2.1)
    hasty.sweep()
    assert hasty.keys() == {"part-0.parquet"}


@pytest.mark.parametrize(
    ("duration", "days", "gone"),
    [
        ("interval 30 days", 29, False),
        ("interval 30 days", 31, True),
        ("interval 2 weeks", 15, True),
        ("interval 72 hours", 4, True),
        ("interval 3 days 12 hours", 3.4, False),
        ("interval 3 days 12 hours", 3.6, True),
        ("3 DAYS", 4, True),
        # delta-rs does not understand these, so its checkpoints do not tell all removals of that time.
        ("INTERVAL 2 WEEKS", 4000, False),
        ("interval 1 week 3 days", 4000, False),
        ("a fortnight", 4000, False),
        ("interval 1 month", 4000, False),
    ],
)
def test_the_retention_that_the_table_says(tmp_path, duration, days, gone):
    """`delta.deletedFileRetentionDuration` decides; one that is not understood keeps everything."""
    site = Site(tmp_path, **{"delta.deletedFileRetentionDuration": duration})
    file = site.data_file()
    site.commit([file.add()])
    site.commit([file.remove(site.now_ms)])
    site.later(days)
    assert site.sweep().files == int(gone)


def test_what_is_not_a_data_or_vector_file_of_this_table_is_never_touched(tmp_path):
    """Other types, hidden folders, other tables inside the folder, the quarantine: all stay, however old."""
    site = Site(tmp_path, partition_by=("_day", "p"))
    stay = [
        "notes.txt", "part-0.parquet.crc", "deletion_vector_1.bin", "model.bin", "_change_data/part-0.parquet",
        "_quarantine/x.parquet", "_delta_index/part-0.parquet", "_SUCCESS", "_metadata.parquet",
        "_other=1/part-0.parquet", "archive/part-0.parquet", "archive/p=1/part-0.parquet",
        "archive/_delta_log/00000000000000000000.json", "=x/part-0.parquet", "_delta_log/_sidecars/part-0.parquet",
    ]  # fmt: skip
    go = [
        "part-0.parquet",
        "_day=1/p=2/part-0.parquet",
        "old=x%20y/part-1.parquet",
        f"deletion_vector_{uuid.uuid4()}.bin",
    ]
    for key in stay + go:
        site.put(key, days=400)
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "part-0.parquet").write_bytes(b"another table")
    assert site.sweep() == Swept(files=3, bytes=16, vectors=1)
    assert site.keys() == {key for key in stay if not key.startswith("_delta_log")}
    assert (tmp_path / "t/_delta_log/_sidecars/part-0.parquet").exists()
    assert (tmp_path / "u/part-0.parquet").exists()


def test_files_that_the_log_names_by_absolute_paths_stay(tmp_path):
    """A removal may name a file by its URL, as clones do: no file of that name is deleted."""
    site = Site(tmp_path)
    for key in ("a b.parquet", "c.parquet", "d.parquet"):
        site.put(key, days=100)
    body = {"deletionTimestamp": site.now_ms, "dataChange": True}
    paths = [f"s3a://bucket/lake/t/{'a%20b.parquet'}", f"file://{site.path}/c.parquet"]
    site.commit([{"remove": {"path": path, **body}} for path in paths])
    site.sweep()
    assert site.keys() == {"a b.parquet", "c.parquet"}


@pytest.mark.parametrize(
    "action",
    [
        {"protocol": {**DVS, "readerFeatures": ["magic"], "writerFeatures": ["magic"]}},
        {"add": DataFile("s3://elsewhere/part.parquet", {}, 1, 0).add()["add"]},
        {
            "add": DataFile(
                "a.parquet", {}, 1, 0, vector=deletion_vectors.Descriptor("p", "s3://x/v.bin", 1, 40, 1)
            ).add()["add"]
        },
    ],
)
def test_a_table_that_we_do_not_understand_is_not_swept(tmp_path, action):
    """An unknown feature, or files outside the table's folder (a shallow clone): an error, and nothing is deleted."""
    site = Site(tmp_path)
    site.put("part-0.parquet", days=100)
    site.commit([action])
    with pytest.raises(TableError, match=r"magic|shallow clone"):
        site.sweep()
    assert site.keys() == {"part-0.parquet"}


def test_there_is_no_table(tmp_path):
    """Where no table is, nothing is deleted: files may be about to become one."""
    lake = Objects.open(str(tmp_path))
    lake.write("t/part-0.parquet", b"data")
    assert sweep(lake, "t", DeltaLog(lake, "t"), 4_000_000_000_000, in_time) == Swept()
    assert len(lake.list("t")) == 1


# ---- in small steps ---------------------------------------------------------------------------------------


def test_a_sweep_that_runs_out_of_time_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Each sweep handles one page at least and says where the next one goes on; together they see every object once."""
    monkeypatch.setattr("cdcloader.objects.store._PAGE_OBJECTS", 4)
    site = Site(tmp_path)
    live = [site.data_file((n,)) for n in range(6)]
    site.commit([file.add() for file in live])
    orphans = {site.put(f"part-{n}.parquet", days=8 + n) for n in range(9)}
    site.later(8)
    swept, start = [], ""
    while not swept or start:
        swept.append(site.sweep(deadline=lambda: True, start_after=start))
        start = swept[-1].next_key
    assert len(swept) >= 4
    assert sum(one.files for one in swept) == len(orphans)
    assert site.keys() == named(site.log.snapshot())


def test_a_kill_at_any_deletion_leaves_every_version_readable(tmp_path, monkeypatch):
    """The process dies after any one of its deletions: what is within the retention can still be read."""
    monkeypatch.setattr("cdcloader.lake.sweep._DELETES", 1)
    monkeypatch.setattr("cdcloader.objects.store._PAGE_OBJECTS", 1)

    class Killed(Exception):
        pass

    class Mortal(Objects):
        left = 0

        def delete(self, keys):
            for key in keys:
                if self.left == 0:
                    raise Killed
                self.left -= 1
                super().delete([key])

    site = history(tmp_path, random.Random(3), steps=60)
    site.later(20)
    opened = Objects.open(str(tmp_path))
    mortal = Mortal(opened.location, opened._store)
    for deletions in range(200):
        mortal.left = deletions
        try:
            sweep(mortal, "t", DeltaLog(mortal, "t"), site.now_ms, in_time)
        except Killed:
            check_readable(site)
        else:
            break
    assert deletions > 5
    check_readable(site)


# ---- the log ----------------------------------------------------------------------------------------------


def aged_log(root, **properties):
    """Ten versions, one a day, with checkpoints at 3 and 6; the newest is from today."""
    site = Site(root, **properties)
    for version in range(1, 10):
        site.later(1)
        site.commit([site.data_file((version,)).add()])
        if version in (3, 6):
            site.checkpoint()
    return site


def test_old_entries_of_the_log_go_with_the_checkpoint_that_replaces_them(tmp_path):
    """What stands before the newest checkpoint that is older than the retention goes; later versions stay readable."""
    site = aged_log(tmp_path, **{"delta.logRetentionDuration": "interval 2 days"})
    for name in ("00000000000000000002.crc", "00000000000000000005.crc", "00000000000000000007.crc"):
        site.put(f"_delta_log/{name}")
    site.put("_delta_log/00000000000000000001.00000000000000000005.compacted.json")
    site.put("_delta_log/00000000000000000005.00000000000000000007.compacted.json")
    assert site.sweep().log_files == 10
    assert site.log_names() == [
        "00000000000000000005.00000000000000000007.compacted.json",
        "00000000000000000006.checkpoint.parquet",
        "00000000000000000006.json",
        "00000000000000000007.crc",
        *(f"{version:020d}.json" for version in (7, 8, 9)),
        "_last_checkpoint",
    ]
    fresh = DeltaLog(site.lake, "t")
    for _, snapshot in site.versions[6:]:
        assert fresh.snapshot(snapshot.version).files == snapshot.files
        assert len(DeltaTable(site.path, version=snapshot.version).file_uris()) == len(snapshot.files)
    with pytest.raises(TableError, match="version 0"):
        fresh.snapshot(5)
    assert site.sweep().log_files == 0


def test_the_newest_version_that_is_older_than_the_retention_stays_readable(tmp_path):
    """It was the newest one at the beginning of the retention, so its checkpoint must not be younger."""
    site = aged_log(tmp_path, **{"delta.logRetentionDuration": "interval 4 days"})
    # Version 5 was the newest four days ago: the checkpoint of 6 is too young, that of 3 is old enough.
    site.later(0.5)
    site.sweep()
    assert site.log_names()[0] == "00000000000000000003.checkpoint.parquet"
    assert DeltaLog(site.lake, "t").snapshot(5).files == site.versions[5][1].files


@pytest.mark.parametrize(
    "properties",
    [
        {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 1 day"},
        {"delta.logRetentionDuration": "for ever"},
        {},
    ],
)
def test_the_log_stays_as_long_as_the_table_says(tmp_path, properties):
    """No clean-up where it is switched off or not understood; 30 days where nothing is said."""
    site = aged_log(tmp_path, **properties)
    before = site.log_names()
    assert site.sweep().log_files == 0
    assert site.log_names() == before
    site.later(40)
    assert (site.sweep().log_files == 7) == (not properties)


def test_a_checkpoint_that_cannot_be_read_replaces_nothing(tmp_path):
    """A damaged or incomplete checkpoint is no reason to delete commits; an older whole one is."""
    site = aged_log(tmp_path)
    site.later(40)
    site.checkpoint()
    os.utime(tmp_path / f"t/_delta_log/{9:020d}.json", (site.now_ms / 1000,) * 2)
    damaged = tmp_path / "t/_delta_log/00000000000000000006.checkpoint.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert site.sweep().log_files == 3
    assert DeltaLog(site.lake, "t").snapshot(4).files == site.versions[4][1].files
    damaged.rename(damaged.with_name("00000000000000000006.checkpoint.0000000001.0000000002.parquet"))
    assert site.sweep().log_files == 0


def test_a_log_without_an_old_checkpoint_is_left_alone(tmp_path):
    """Commits are needed until a checkpoint of their own age stands for them."""
    site = Site(tmp_path)
    for version in range(5):
        site.commit([site.data_file((version,)).add()])
    site.later(100)
    site.checkpoint()
    assert site.sweep().log_files == 5
    assert site.log_names()[0] == f"{5:020d}.checkpoint.parquet"
    other = Site(tmp_path / "o")
    other.later(100)
    other.commit([])
    other.checkpoint()
    assert other.sweep().log_files == 0


# ---- at random --------------------------------------------------------------------------------------------


def history(root, rng, steps):
    """Appends, deletions, marks, restored and orphaned files, checkpoints and sweeps, over weeks."""
    site = Site(root, **{"delta.logRetentionDuration": "interval 9 days"})
    removed = {}
    for _ in range(steps):
        site.later(rng.choice([0.01, 0.3, 1.5]))
        live = [*site.log.snapshot().files.values()]
        match rng.randrange(8):
            case 0 | 1:
                site.commit([site.data_file((1, 2, 3)).add() for _ in range(rng.randint(1, 3))])
            case 2 if live:
                gone = rng.choice(live)
                removed[gone.id] = (gone, site.now_ms)
                site.commit([gone.remove(site.now_ms)])
            case 3 | 4 if live:
                hit = rng.sample(live, min(len(live), 3))
                vectors = site.vectors(*[[rng.randrange(3)] for _ in hit])
                actions = [file.remove(site.now_ms) for file in hit]
                site.commit([*actions, *(marked(f, v).add() for f, v in zip(hit, vectors, strict=True))])
            case 5:
                site.data_file() if rng.random() < 0.5 else site.vectors([1])
            case 6:
                paths = {file.path for file in live}
                back = [f for f, at in removed.values() if site.now_ms - at < 5 * DAY_MS and f.path not in paths]
                if back:
                    site.commit([rng.choice(back).add()])
                site.checkpoint()
            case _:
                deadline = rng.choice([in_time, lambda: True])
                site.sweep(deadline)
                check_readable(site)
    return site


def within(site, days):
    """The snapshots of the versions that were the newest at some moment of the last days."""
    ends = [at for at, _ in site.versions[1:]] + [site.now_ms]
    start = site.now_ms - days * DAY_MS
    return [snapshot for (_, snapshot), end in zip(site.versions, ends, strict=True) if end >= start]


def check_readable(site):
    """Versions within the retentions are read back as they were written, with all that they name."""
    fresh = DeltaLog(site.lake, "t")
    for snapshot in within(site, 9):
        assert fresh.snapshot(snapshot.version).files == snapshot.files
    keys = site.keys()
    for snapshot in within(site, 7):
        assert named(snapshot) <= keys


@pytest.mark.parametrize("seed", range(8))
def test_after_any_history_exactly_what_is_needed_is_left(tmp_path, seed):
    """Random histories: versions within the retention stay whole, and nothing old that they do not name stays."""
    site = history(tmp_path, random.Random(seed), steps=70)
    site.sweep()
    check_readable(site)
    needed = set().union(*(named(snapshot) for snapshot in within(site, 7)))
    left = site.keys()
    old = {key for key in left if (tmp_path / "t" / key).stat().st_mtime * 1000 < site.now_ms - 7 * DAY_MS}
    assert old <= needed
    assert len(DeltaTable(site.path).file_uris()) == len(site.log.snapshot().files)


# ---- names, stores and other readers ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto_url():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto_url, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    for name, value in {**names, "AWS_ENDPOINT_URL": moto_url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", region_name="us-east-1").Bucket(f"lake-{uuid.uuid4()}")
    bucket.create()
    yield Objects.open(f"s3://{bucket.name}/lake")
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture
def local(tmp_path):
    return Objects.open(str(tmp_path))


VALUES = ["a/b", "c d", "ü%20=&?#+:*", "C:\\x", None, "%2F", "é"]


@pytest.mark.parametrize("store", ["local", "s3"])
def test_odd_names_of_partitions_are_recognised(store, request):
    """Files of our own writer and of delta-rs in folders of any name: live ones stay, replaced ones go."""
    lake = request.getfixturevalue(store)
    path, options = lake.scan_target("t")
    frame = pl.DataFrame({"p": VALUES, "id": range(len(VALUES))})
    frame.write_delta(path, storage_options=options, delta_write_options={"partition_by": ["p"]})
    log = DeltaLog(lake, "t")
    ours = [
        datafiles.write(lake, "t", frame.filter(pl.col("p").eq_missing(value)), {"p": value}, now_ms=1)
        for value in VALUES
    ]
    log.commit(log.snapshot(), [file.add() for file in ours], {"operation": "WRITE"})
    later = int(datetime.now(UTC).timestamp() * 1000) + 8 * DAY_MS
    assert sweep(lake, "t", log, later, in_time) == Swept()
    assert pl.read_delta(path, storage_options=options).height == 2 * len(VALUES)
    removed = [*log.snapshot().files.values()][::2]
    log.commit(log.snapshot(), [file.remove(later - 8 * DAY_MS) for file in removed], {"operation": "DELETE"})
    swept = sweep(lake, "t", log, later, in_time)
    assert (swept.files, swept.bytes) == (len(removed), sum(file.size for file in removed))
    left = {item.key for item in lake.list("t") if item.key.endswith(".parquet")}
    assert left == {datafiles.key_of("t", file) for file in log.snapshot().files.values()}
    assert pl.read_delta(path, storage_options=options).height == 2 * len(VALUES) - len(removed)


def test_duckdb_polars_and_delta_rs_read_a_swept_table(tmp_path):
    """After a sweep of files, vectors and log entries, others read the newest version and one within the retention."""
    site = Site(tmp_path)
    files = [site.data_file((n, n + 100)) for n in range(5)]
    site.commit([file.add() for file in files])
    for file in files[:3]:
        site.later(10)
        (vector,) = site.vectors([0])
        site.commit([file.remove(site.now_ms), marked(file, vector).add()])
        site.checkpoint()
    site.later(3)
    site.commit([files[4].remove(site.now_ms)])
    site.later(6)
    site.commit([files[3].remove(site.now_ms)])
    site.checkpoint()
    site.later(6)
    assert (site.sweep().log_files, site.keys()) == (2, named(site.log.snapshot()) | {files[3].path})
    import_extension("delta")
    duck = duckdb.connect()
    duck.execute("LOAD delta")
    wanted = [100, 101, 102]
    assert duck.execute(f"SELECT id FROM delta_scan('{site.path}') ORDER BY id").fetchall() == [(n,) for n in wanted]
    assert sorted(pl.read_delta(site.path)["id"]) == wanted
    assert sorted(pl.read_delta(site.path, version=5)["id"]) == [3, *wanted, 103]
