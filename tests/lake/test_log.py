"""Our reader of the Delta log against delta-rs, and the commit primitive."""

import json
import threading
import time

import polars as pl
import pytest
from deltalake import DeltaTable

from cdcloader.errors import CommitConflict, TableError, TransientError
from cdcloader.lake.deletion_vectors import Descriptor, from_action
from cdcloader.lake.log import DeltaLog
from cdcloader.lake.snapshot import DataFile, check_supported
from cdcloader.lake.upkeep import checkpoint_if_due
from cdcloader.objects import Objects


def delta_rs_files(path, version):
    table = DeltaTable(path, version=version)
    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    return {row["path"]: (row["size_bytes"], row["num_records"]) for row in actions.to_dicts()}


def our_files(snapshot):
    return {file.path: (file.size, file.statistics().get("numRecords")) for file in snapshot.files.values()}


@pytest.fixture
def table(tmp_path):
    """A table with a history by delta-rs: appends, overwrites, merges, a checkpoint, a new column, deletes."""
    path = str(tmp_path / "t")
    for n in range(4):
        pl.DataFrame({"id": [n, n + 10], "p": ["a b", "ü"], "v": [1.5, None]}).write_delta(
            path, mode="append", delta_write_options={"partition_by": ["p"]}
        )
    DeltaTable(path).create_checkpoint()
    DeltaTable(path).delete("id = 2")
    new = pl.DataFrame({"id": [1], "p": ["c"], "v": [2.5], "w": [7]})
    new.write_delta(path, mode="append", delta_write_options={"schema_mode": "merge"})
    DeltaTable(path).optimize.compact()
    DeltaTable(path).create_checkpoint()
    new.write_delta(path, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    return tmp_path, path


def test_every_version_is_what_delta_rs_says(table):
    """Files, sizes, row counts, schema and partition columns of each version agree with delta-rs."""
    root, path = table
    log = DeltaLog(Objects.open(str(root)), "t")
    newest = DeltaTable(path).version()
    for version in range(newest + 1):
        ours, theirs = log.snapshot(version), DeltaTable(path, version=version)
        assert our_files(ours) == delta_rs_files(path, version)
        assert json.loads(ours.metadata["schemaString"]) == json.loads(theirs.schema().to_json())
        assert list(ours.partition_columns) == theirs.metadata().partition_columns
        assert ours.protocol["minReaderVersion"] == theirs.protocol().min_reader_version
    assert log.snapshot().version == newest


def test_a_reader_that_follows_sees_what_a_new_reader_sees(tmp_path):
    """Reading only the commits since the last look gives the same snapshot as reading everything."""
    path = str(tmp_path / "t")
    follower = DeltaLog(Objects.open(str(tmp_path)), "t")
    assert follower.snapshot() is None
    for n in range(12):
        pl.DataFrame({"id": [n]}).write_delta(path, mode="append")
        if n % 5 == 4:
            DeltaTable(path).create_checkpoint()
        assert follower.snapshot() == DeltaLog(Objects.open(str(tmp_path)), "t").snapshot()


def test_commits_that_were_cleaned_away_are_taken_from_the_checkpoint(tmp_path):
    """A follower whose next commits were cleaned goes on from the checkpoint."""
    path = str(tmp_path / "t")
    pl.DataFrame({"id": [0]}).write_delta(path)
    follower = DeltaLog(Objects.open(str(tmp_path)), "t")
    follower.snapshot()
    for n in range(1, 6):
        pl.DataFrame({"id": [n]}).write_delta(path, mode="append")
    DeltaTable(path).create_checkpoint()
    for n in range(1, 4):
        (tmp_path / "t" / "_delta_log" / f"{n:020d}.json").unlink()
    assert our_files(follower.snapshot()) == delta_rs_files(path, 5)


def test_a_gap_in_the_log_is_an_error_that_names_the_version(tmp_path):
    """A missing commit without a checkpoint is never skipped."""
    path = str(tmp_path / "t")
    for n in range(4):
        pl.DataFrame({"id": [n]}).write_delta(path, mode="append")
    (tmp_path / "t" / "_delta_log" / f"{2:020d}.json").unlink()
    with pytest.raises(TableError, match="version 2"):
        DeltaLog(Objects.open(str(tmp_path)), "t").snapshot()


def test_a_table_made_anew_behind_our_back_is_read_anew(tmp_path):
    """A follower does not go on from a version that is no longer there."""
    import shutil

    path = str(tmp_path / "t")
    log = DeltaLog(Objects.open(str(tmp_path)), "t")
    for n in range(3):
        pl.DataFrame({"id": [n]}).write_delta(path, mode="append")
    assert log.snapshot().version == 2
    shutil.rmtree(path)
    assert log.snapshot() is None
    pl.DataFrame({"id": [1]}).write_delta(path)
    assert log.snapshot().version == 0


def committer(log, base, results, n):
    try:
        results.append(log.commit(base, [{"txn": {"appId": f"a{n}", "version": 1}}], {"operation": "TEST"}).version)
    except CommitConflict:
        results.append("conflict")


def test_of_many_writers_of_one_version_one_wins(tmp_path):
    """A version is created only if it is absent: eight racing writers, one winner, seven conflicts."""
    pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"))
    results, threads = [], []
    for n in range(8):
        log = DeltaLog(Objects.open(str(tmp_path)), "t")
        threads.append(threading.Thread(target=committer, args=(log, log.snapshot(), results, n)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["1"] + ["conflict"] * 7


class LostAnswer(Objects):
    """The object is written, the answer is lost."""

    def create(self, key, data):
        super().create(key, data)
        raise TransientError("the connection was reset", where=key)


class NeverSent(Objects):
    """The request does not reach the store."""

    def create(self, key, data):
        raise TransientError("the connection was refused", where=key)


def reopened(kind, root):
    opened = Objects.open(str(root))
    return kind(opened.location, opened._store)


def test_a_commit_whose_answer_was_lost_is_decided_by_reading(tmp_path):
    """Written but reported failed: the commit counts, once. Not written: the error stands."""
    pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"))
    log = DeltaLog(reopened(LostAnswer, tmp_path), "t")
    assert log.commit(log.snapshot(), [], {"operation": "TEST"}).version == 1
    other = DeltaLog(reopened(NeverSent, tmp_path), "t")
    with pytest.raises(TransientError):
        other.commit(other.snapshot(), [], {"operation": "TEST"})
    assert DeltaTable(str(tmp_path / "t")).version() == 1


def test_our_own_commit_met_by_a_retry_is_no_conflict(tmp_path):
    """A client that retries a create whose first try succeeded gets "exists"; the commit id tells that it is ours."""
    from cdcloader.objects import ObjectExists

    class Retried(Objects):
        def create(self, key, data):
            super().create(key, data)
            raise ObjectExists("exists", where=key)

    pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"))
    log = DeltaLog(reopened(Retried, tmp_path), "t")
    assert log.commit(log.snapshot(), [], {"operation": "TEST"}).version == 1


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"delta.enableChangeDataFeed": "true"}, "delta.enableChangeDataFeed"),
        ({"delta.appendOnly": "true"}, "delta.appendOnly"),
        ({"delta.constraints.positive": "id > 0"}, "delta.constraints.positive"),
    ],
)
def test_a_feature_that_we_would_break_is_refused_by_name(tmp_path, properties, named):
    """The error names the feature before anything is written."""
    pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"))
    log = DeltaLog(Objects.open(str(tmp_path)), "t")
    base = log.snapshot()
    changed = log.commit(base, [{"metaData": {**base.metadata, "configuration": properties}}], {})
    with pytest.raises(TableError, match=named):
        check_supported(changed, where="t")
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["magic"], "writerFeatures": ["magic"]}
    with pytest.raises(TableError, match="magic"):
        check_supported(log.commit(base and log.snapshot(), [{"protocol": protocol}], {}), where="t")


def test_a_checkpoint_is_written_when_due_and_read_back(tmp_path):
    """Every 50th version has a checkpoint; a reader that starts from it, without the older commits, sees the table."""
    path = str(tmp_path / "t")
    objects = Objects.open(str(tmp_path))
    pl.DataFrame({"id": [0]}).write_delta(path)
    log = DeltaLog(objects, "t")
    written = []
    for _ in range(101):
        snapshot = log.commit(
            log.snapshot(), [{"txn": {"appId": "cdcloader:1", "version": 20260101120000 + len(written)}}], {}
        )
        written += [snapshot.version] if checkpoint_if_due(objects, "t", snapshot) else []
    assert written == [50, 100]
    for version in range(100):
        (tmp_path / "t" / "_delta_log" / f"{version:020d}.json").unlink()
    assert DeltaLog(objects, "t").snapshot() == log.snapshot()


class Counted(Objects):
    """Counts the requests."""

    def __init__(self, root):
        opened = Objects.open(str(root))
        super().__init__(opened.location, opened._store)
        self.requests = []

    def list(self, prefix="", start_after=""):
        self.requests.append("LIST")
        return super().list(prefix, start_after)

    def read(self, key):
        self.requests.append("GET")
        return super().read(key)

    def taken(self):
        requests, self.requests = self.requests, []
        return sorted(requests)


def test_following_a_table_takes_one_listing_and_a_read_per_new_commit(tmp_path):
    """No request more, whoever commits: after our own commits not even that is read again."""
    pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"))
    objects = Counted(tmp_path)
    log = DeltaLog(objects, "t")
    log.snapshot()
    assert objects.taken() == ["GET", "GET", "LIST"]
    log.snapshot()
    assert objects.taken() == ["LIST"]
    log.commit(log.snapshot(), [], {})
    objects.taken()
    log.snapshot()
    assert objects.taken() == ["LIST"]
    for n in (1, 3):
        for _ in range(n):
            pl.DataFrame({"id": [0]}).write_delta(str(tmp_path / "t"), mode="append")
        DeltaTable(str(tmp_path / "t")).create_checkpoint()
        assert len(log.snapshot().files) == (2 if n == 1 else 5)
        assert objects.taken() == ["GET"] * n + ["LIST"]
    assert len(DeltaLog(objects, "t").snapshot().files) == 5
    assert objects.taken() == ["GET", "GET", "LIST"]


def test_a_log_that_is_cleaned_while_it_is_read_is_read_again(tmp_path):
    """Between our listing and our reading another process may delete old commits behind a checkpoint."""
    path = str(tmp_path / "t")
    for n in range(6):
        pl.DataFrame({"id": [n]}).write_delta(path, mode="append")

    class Cleaned(Counted):
        once = threading.Lock()

        def read(self, key):
            if key.endswith(".json") and self.once.acquire(blocking=False):
                DeltaTable(path).create_checkpoint()
                for n in range(5):
                    (tmp_path / "t" / "_delta_log" / f"{n:020d}.json").unlink()
            return super().read(key)

    assert our_files(DeltaLog(Cleaned(tmp_path), "t").snapshot()) == delta_rs_files(path, 5)


@pytest.mark.parametrize(("retention", "kept"), [(None, 3), ("interval 2 weeks", 4), ("interval 5 hours", 1)])
def test_removals_are_told_from_the_newest_checkpoint_on(tmp_path, retention, kept):
    """What was removed within 7 days, or as the table says, in the checkpoint or since, each with its vector."""
    path = str(tmp_path / "t")
    log = DeltaLog(Objects.open(str(tmp_path)), "t")
    pl.DataFrame({"id": [0]}).write_delta(path)
    now = int(time.time() * 1000)
    vector = Descriptor("u", "ab^-aqEH.-t@S}K{vb[*k^", 4, 40, 6)
    files = [DataFile(f"{n}.parquet", {}, 1, 0, vector=vector if n % 2 else None) for n in range(6)]
    days = [0, 5, 6, 8, 30]
    base = log.snapshot()
    configuration = {"delta.deletedFileRetentionDuration": retention} if retention else {}
    actions = [{"metaData": {**base.metadata, "configuration": configuration}}, *(file.add() for file in files)]
    base = log.commit(base, actions, {})
    removed = [file.remove(now - day * 86_400_000) for file, day in zip(files, days, strict=False)]
    base = log.commit(base, removed, {})
    assert [body["path"] for body in log.removes()] == [f"{n}.parquet" for n in range(5)]
    DeltaTable(path).create_checkpoint()
    log.commit(base, [files[5].remove(now)], {})
    found = {body["path"]: body.get("deletionVector") for body in log.removes()}
    assert found.keys() == {f"{n}.parquet" for n in [*range(kept), 5]}
    for path, given in found.items():
        assert (from_action(given) if given else None) == next(file.vector for file in files if file.path == path)
