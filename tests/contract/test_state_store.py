"""What every state store promises, kept by memory, SQLite and DynamoDB alike."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError
from moto.dynamodb.models import DynamoDBBackend
from moto.server import ThreadedMotoServer

from cdcloader.errors import CdcloaderError, ConfigError, StateConflict, TableError, TransientError
from cdcloader.state.dynamodb import DynamoDBStore
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import Phase, Record, new_record
from cdcloader.state.replicas import REPLICAS_PATH, Beat, Replicas
from cdcloader.state.sqlite import SQLiteStore
from cdcloader.state.store import StateStore
from tests.services.servers import running

PATH = "bucket/raw/sales/orders/"
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
WALKTHROUGH = {
    "bucket": "bucket",
    "prefix": "raw/sales/",
    "folder": "orders/",
    "PrimaryKey": "order_id",
    "PartitionKey": "null",
    "LastFullLoadDate": "2026-02-28 23:59:59",
    "LastIncrementalFile": PATH + "20260301-101112131.parquet",
    "ActiveFlag": "true",
}


@dataclasses.dataclass
class Held:
    """A store, and the way past it that an operator's edit takes."""

    store: StateStore
    put: Callable[[str, Mapping[str, Any]], None]
    put_replicas: Callable[[Mapping[str, Any]], None]
    raw: Callable[[str], Mapping[str, Any]]
    another: Callable[[], StateStore]


def memory(folder: Path, endpoint: str) -> Held:
    store = MemoryStore()

    def put_replicas(attributes: Mapping[str, Any]) -> None:
        store.put_item(REPLICAS_PATH, attributes)

    return Held(store, store.put_item, put_replicas, lambda path: store._items[path], lambda: store)


def sqlite(folder: Path, endpoint: str) -> Held:
    file = folder / "state" / "cdcloader.db"
    store = SQLiteStore(file)
    store.probe()

    def put(path: str, attributes: Mapping[str, Any]) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute('INSERT INTO tables ("path") VALUES (?) ON CONFLICT DO NOTHING', (path,))
            for name, value in attributes.items():
                connection.execute(f'UPDATE tables SET "{name}" = ? WHERE "path" = ?', (value, path))
        connection.close()

    def raw(path: str) -> Mapping[str, Any]:
        with sqlite3.connect(file) as connection:
            connection.row_factory = sqlite3.Row
            row = dict(connection.execute("SELECT * FROM tables WHERE path = ?", (path,)).fetchone())
        connection.close()
        return {name: value for name, value in row.items() if value is not None}

    def put_replicas(attributes: Mapping[str, Any]) -> None:
        with sqlite3.connect(file) as connection:
            for name, value in attributes.items():
                connection.execute(f'UPDATE replicas SET "{name}" = ?', (value,))
        connection.close()

    return Held(store, put, put_replicas, raw, lambda: SQLiteStore(file))


def client_of(endpoint: str, **settings: Any) -> Any:
    return boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, **settings),
    )


def dynamodb(folder: Path, endpoint: str) -> Held:
    client, table = client_of(endpoint), folder.name
    store = DynamoDBStore(table, client)
    store.probe()

    def typed(value: Any) -> dict[str, Any]:
        return {"N": str(value)} if isinstance(value, int) else {"NULL": True} if value is None else {"S": value}

    def put(path: str, attributes: Mapping[str, Any]) -> None:
        client.update_item(
            TableName=table,
            Key={"path": {"S": path}},
            AttributeUpdates={name: {"Value": typed(value), "Action": "PUT"} for name, value in attributes.items()},
        )

    def raw(path: str) -> Mapping[str, Any]:
        item = client.get_item(TableName=table, Key={"path": {"S": path}})["Item"]
        return {name: next(iter(value.values())) for name, value in item.items()}

    def put_replicas(attributes: Mapping[str, Any]) -> None:
        put(REPLICAS_PATH, attributes)

    return Held(store, put, put_replicas, raw, lambda: DynamoDBStore(table, client_of(endpoint)))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """dynalite where it runs, else moto."""
    if servers := running():
        yield servers.dynalite.url
        return
    # DynamoDB checks a condition and writes the item in one step; moto does so in two, between which its other
    # threads may write. The lock gives back what DynamoDB promises, and leaves the race itself to the store.
    lock = threading.Lock()

    def in_one_step(write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def locked(*arguments: Any, **named: Any) -> Any:
            with lock:
                return write(*arguments, **named)

        return locked

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put_item", "update_item"):
            patch.setattr(DynamoDBBackend, name, in_one_step(getattr(DynamoDBBackend, name)))
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(params=[memory, sqlite, dynamodb], ids=lambda make: make.__name__)
def held(request: pytest.FixtureRequest, tmp_path: Path, endpoint: str) -> Iterator[Held]:
    held = request.param(tmp_path, endpoint)
    yield held
    held.store.close()


def fresh(path: str = PATH) -> Record:
    return new_record(path, "bucket", "raw/sales/", "orders/", ("order_id",), (), "lake/sales/orders/")


def full() -> Record:
    """A record whose every field differs from its default."""
    return Record(
        path=PATH,
        bucket="bücket",
        prefix="raw/sälés/",
        folder="訂單/",
        primary_key=("ключ", "b,c"),
        partition_key=("day",),
        last_full_load_date=NOW.replace(microsecond=0),
        last_incremental_file=PATH + "20260301-101112131.csv.gz",
        active=False,
        out_path="lake/🗄/",
        phase=Phase.BLOCKED,
        generation=3,
        floor=202603011011121310,
        recorded_position=202603011011121319,
        recorded_full_load_date=NOW.replace(microsecond=0),
        full_load_newest=NOW,
        full_load_files=12,
        full_load_layout="folders",
        recorded_version=0,
        ledger={"20260301-101112131.csv.gz": '"etag-1"', "ünï": ""},
        ledger_from=202603011011121300,
        lease_owner="host/1",
        lease_epoch=9,
        lease_expires_at=NOW + timedelta(seconds=60),
        last_error='it\'s "broken"; DROP TABLE tables\n🧨',
        last_error_file="file.csv",
        last_error_hint="",
        consecutive_failures=2,
        blocked_etag='"etag-2"',
        retry_at=NOW + timedelta(seconds=9),
        skipped_files={"20260301-101112132.csv.gz": '"etag-3"'},
        rows_inserted=2**62,
        rows_updated=2,
        rows_deleted=3,
        rows_quarantined=4,
        tidied_version=41,
        tidied_mode="auto",
        swept_at=datetime(2026, 3, 2, 4, 5, 6, 789, tzinfo=UTC),
        source_version="v1",
        swept_to="s/t/part-1.parquet",
        updated_at=NOW,
    )


def test_every_field_is_kept(held: Held) -> None:
    """What is stored is read back as it was, by this store and by another on the same place."""
    record, plain = full(), Record(PATH)
    unchanged = [f.name for f in dataclasses.fields(Record) if getattr(record, f.name) == getattr(plain, f.name)]
    assert unchanged == ["path"]
    held.store.create(record)
    assert held.store.get(PATH) == record
    another = held.another()
    assert another.all() == [record]


def test_what_is_not_there_is_none(held: Held) -> None:
    """A table that was never seen is no error."""
    assert held.store.get(PATH) is None
    assert held.store.all() == []


def test_probe_may_be_called_again(held: Held) -> None:
    """Readiness asks for it all the time."""
    held.store.create(fresh())
    held.store.probe()
    assert held.store.get(PATH) == fresh()


def test_a_record_is_created_once(held: Held) -> None:
    """The second finds the first, which stays as it is."""
    held.store.create(fresh())
    with pytest.raises(StateConflict) as caught:
        held.store.create(full())
    assert (caught.value.where, held.store.get(PATH)) == (PATH, fresh())


def test_an_update_is_seen_by_the_next_reader(held: Held) -> None:
    """Values come and go, None included."""
    held.store.create(fresh())
    assert held.store.update(fresh(), full()) == full()
    assert held.store.get(PATH) == full()
    bare = dataclasses.replace(
        full(), recorded_version=None, lease_owner=None, last_error=None, last_error_hint=None, ledger={}
    )
    assert held.store.update(full(), bare) == bare
    assert held.another().get(PATH) == bare


def test_an_update_of_nothing_still_checks(held: Held) -> None:
    """It tells whether the record is as it was read."""
    held.store.create(fresh())
    assert held.store.update(fresh(), fresh()) == fresh()
    held.put(PATH, {"LeaseEpoch": 1})
    with pytest.raises(StateConflict):
        held.store.update(fresh(), fresh())


@pytest.mark.parametrize("begin", [fresh, full])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LeaseEpoch", 77),
        ("Generation", 77),
        ("RecordedPosition", 77),
        ("LastIncrementalFile", PATH + "20250101-000000000.parquet"),
        ("LastFullLoadDate", "1999-12-31 00:00:00"),
    ],
)
def test_an_update_holds_only_while_each_guard_is_as_it_was(
    held: Held, begin: Callable[[], Record], name: str, value: Any
) -> None:
    """Another holder, a new generation or an operator's edit makes it a conflict that changes nothing."""
    old = begin()
    held.store.create(old)
    held.put(PATH, {name: value})
    before = held.store.get(PATH)
    with pytest.raises(StateConflict) as caught:
        held.store.update(old, dataclasses.replace(old, phase=Phase.PAUSED, rows_deleted=9))
    assert (caught.value.where, held.store.get(PATH)) == (PATH, before)


def test_an_update_of_a_record_that_is_gone_is_a_conflict(held: Held) -> None:
    """Deleted records do not come back as halves."""
    with pytest.raises(StateConflict):
        held.store.update(fresh(), dataclasses.replace(fresh(), phase=Phase.PAUSED))
    assert held.store.get(PATH) is None


def test_an_update_leaves_alone_what_it_does_not_change(held: Held) -> None:
    """An operator who pauses the table while a batch runs stays heard."""
    held.store.create(fresh())
    held.put(PATH, {"ActiveFlag": "false", "PartitionKey": "day"})
    after = held.store.update(fresh(), dataclasses.replace(fresh(), phase=Phase.STREAMING, rows_inserted=5))
    assert (after.active, after.partition_key, after.phase, after.rows_inserted) == (
        False,
        ("day",),
        Phase.STREAMING,
        5,
    )
    assert held.store.get(PATH) == after


def test_an_update_is_of_one_record(held: Held) -> None:
    """A record cannot become another, and its neighbour stays as it is."""
    held.store.create(fresh())
    held.store.create(fresh("bucket/other/"))
    with pytest.raises(ValueError, match="cannot turn"):
        held.store.update(fresh(), fresh("bucket/third/"))
    held.store.update(fresh(), dataclasses.replace(fresh(), rows_inserted=1))
    assert held.store.get("bucket/other/") == fresh("bucket/other/")


def race(held: Held, turn: Callable[[int], object]) -> list[int]:
    """Which of eight threads, let go at once, met no conflict."""
    gate = threading.Barrier(8)

    def run(number: int) -> int | None:
        gate.wait()
        try:
            turn(number)
        except StateConflict:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        return [number for number in pool.map(run, range(8)) if number is not None]


def test_of_racing_updates_one_wins(held: Held) -> None:
    """Eight take the same lease at once: one has it, and the record is the winner's."""
    record = fresh()
    held.store.create(record)
    for _ in range(5):
        old = record
        winners = race(held, lambda number, old=old: held.store.update(old, old.leased(f"owner {number}", NOW)))
        record = held.store.get(PATH) or record
        assert [record.lease_owner] == [f"owner {number}" for number in winners]
        assert record.lease_epoch == old.lease_epoch + 1


def test_of_racing_creations_one_wins(held: Held) -> None:
    """Eight see a table for the first time at once."""
    winners = race(held, lambda number: held.store.create(dataclasses.replace(fresh(), rows_inserted=number)))
    record = held.store.get(PATH)
    assert record is not None
    assert winners == [record.rows_inserted]


def test_a_record_of_the_walkthrough_is_read_and_updated(held: Held) -> None:
    """Its table may be ours from one day to the next: absent attributes count as their defaults."""
    held.put(PATH, WALKTHROUGH)
    old = held.store.get(PATH)
    assert old is not None
    assert (old.primary_key, old.partition_key, old.active, old.out_path) == (("order_id",), (), True, "")
    assert (old.phase, old.lease_epoch) == (Phase.NEW, 0)
    assert old.last_full_load_date == datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    leased = held.store.update(old, old.leased("host/1", NOW))
    assert leased == old.leased("host/1", NOW)
    added = {"path", "LeaseOwner", "LeaseEpoch", "LeaseExpiresAt"}
    assert set(held.raw(PATH)) == {*WALKTHROUGH, *added}
    with pytest.raises(StateConflict):
        held.store.update(old, old.leased("host/2", NOW))


def test_a_key_alone_is_a_record(held: Held) -> None:
    """Attributes that are absent, or null, count as their defaults when guards are compared too."""
    held.put(PATH, {"Generation": None, "LastIncrementalFile": None})
    old = held.store.get(PATH)
    assert old == Record(PATH, last_incremental_file=PATH + "0.parquet")
    assert held.store.update(old, dataclasses.replace(old, generation=1)).generation == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("Phase", "running"), ("Generation", "many"), ("LastFullLoadDate", "soon"), ("Ledger", "?"), ("ActiveFlag", "on")],
)
def test_a_damaged_record_is_refused_by_name(held: Held, name: str, value: str) -> None:
    """One bad record is told with its path and attribute; the others can be read."""
    held.store.create(fresh("bucket/good/"))
    held.put(PATH, {**WALKTHROUGH, name: value})
    for read in (lambda: held.store.get(PATH), held.store.all):
        with pytest.raises(TableError, match=f"{name} is damaged") as caught:
            read()
        assert caught.value.where == PATH
    assert held.store.get("bucket/good/") == fresh("bucket/good/")


def test_an_operators_edit_is_seen(held: Held) -> None:
    """Whoever sets the watermark back by hand is heard at the next look."""
    held.store.create(full())
    edit = PATH + "20260101-000000000.csv"
    held.put(PATH, {"LastIncrementalFile": edit, "ActiveFlag": "true"})
    assert held.store.get(PATH) == dataclasses.replace(full(), last_incremental_file=edit, active=True)


def big_ledger() -> dict[str, str]:
    """5,000 files with ETags that do not compress: about 160 KB as stored, so that eight pass DynamoDB's 1 MB page."""
    return {f"20260301-{i:09}.csv": f'"{hashlib.md5(b"%d" % i).hexdigest()}"' for i in range(5000)}


def test_all_is_ordered_by_path(held: Held) -> None:
    """Many tables, some with big ledgers: every one is there, however many pages they fill."""
    records = [dataclasses.replace(fresh(f"bucket/{i:02}/"), ledger=big_ledger() if i < 8 else {}) for i in range(30)]
    for record in reversed(records):
        held.store.create(record)
    assert held.store.all() == records


def test_a_big_ledger_is_kept(held: Held) -> None:
    """5,000 files in the look-back fit into one record."""
    old = fresh()
    new = dataclasses.replace(old, ledger=big_ledger())
    held.store.create(old)
    assert held.store.update(old, new) == new
    assert held.store.get(PATH) == new


TWO = {"host-1:7:aa": Beat(3, "g"), "hôst-2:8:bb": Beat(1, "h")}


def test_the_replicas_are_kept_revision_by_revision(held: Held) -> None:
    """Nothing is there at first; what is put is read back, by another store too; an old revision is refused."""
    assert held.store.replicas() == Replicas(0, {})
    first = Replicas().after(TWO)
    held.store.put_replicas(first)
    assert held.store.replicas() == held.another().replicas() == Replicas(1, TWO)
    second = first.after({})
    held.store.put_replicas(second)
    for old in (first, second, Replicas(4, {})):
        with pytest.raises(StateConflict):
            held.store.put_replicas(old)
    assert held.store.replicas() == Replicas(2, {})


def test_the_replicas_are_no_record(held: Held) -> None:
    """Whoever reads all records does not meet the item, however long they have shared the place."""
    held.store.put_replicas(Replicas().after(TWO))
    held.store.create(fresh())
    held.store.probe()
    assert held.store.all() == [fresh()]
    assert held.store.replicas().beats == TWO


def test_of_racing_replicas_one_wins(held: Held) -> None:
    """Eight beat at once, again and again: of each revision there is one."""
    for revision in range(1, 4):
        seen = held.store.replicas()
        mine = [seen.after({f"r{number}": Beat(revision, "g")}) for number in range(8)]
        (winner,) = race(held, lambda number, mine=mine: held.store.put_replicas(mine[number]))
        assert held.store.replicas() == mine[winner]


@pytest.mark.parametrize(("name", "value"), [("Revision", "x"), ("Beats", "{"), ("Beats", "[1]"), ("Beats", 7)])
def test_a_damaged_replicas_item_is_refused_by_name(held: Held, name: str, value: Any) -> None:
    """It is told which attribute is damaged; records are read all the same."""
    held.store.create(fresh())
    held.store.put_replicas(Replicas().after(TWO))
    held.put_replicas({name: value})
    with pytest.raises(TableError, match=f"{name} is damaged") as caught:
        held.store.replicas()
    assert caught.value.where == REPLICAS_PATH
    assert held.store.all() == [fresh()]


# SQLite alone


def test_sqlite_adds_the_columns_that_an_older_file_lacks(tmp_path: Path) -> None:
    """A file of an older version goes on being used, with what it held."""
    file = tmp_path / "old.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE tables (path TEXT PRIMARY KEY NOT NULL, bucket TEXT, Generation INTEGER)")
        connection.execute("INSERT INTO tables VALUES (?, 'b', 4)", (PATH,))
    connection.close()
    store = SQLiteStore(file)
    old = store.get(PATH)
    assert old == Record(PATH, "b", generation=4, last_incremental_file=PATH + "0.parquet")
    assert store.update(old, old.leased("x", NOW)) == old.leased("x", NOW)
    store.close()


def test_sqlite_files_that_cannot_be_used_are_config_errors(tmp_path: Path) -> None:
    """A file of another kind is refused and left as it was; so is a folder."""
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be taken for one" * 100)
    before = (tmp_path / "notes.txt").read_bytes()
    for path in (tmp_path / "notes.txt", tmp_path, tmp_path / "notes.txt" / "below.db"):
        with pytest.raises(ConfigError) as caught:
            SQLiteStore(path).probe()
        assert (caught.value.where, caught.value.hint != "") == (str(path), True)
    assert (tmp_path / "notes.txt").read_bytes() == before


def test_sqlite_held_by_another_is_transient(tmp_path: Path) -> None:
    """An operator's open transaction makes us wait, then try again later; reading goes on."""
    store = SQLiteStore(tmp_path / "x.db", busy_timeout_seconds=0.05)
    store.create(fresh())
    with sqlite3.connect(tmp_path / "x.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError):
            store.update(fresh(), full())
        assert store.get(PATH) == fresh()
        other.execute("ROLLBACK")
    other.close()
    assert store.update(fresh(), full()) == full()
    store.close()


TAKE_LEASES = """
import sys
from datetime import UTC, datetime
from cdcloader.errors import StateConflict
from cdcloader.state.record import Record
from cdcloader.state.sqlite import SQLiteStore

file, path, won = sys.argv[1], sys.argv[2], 0
store = SQLiteStore(file)
store.probe()
for _ in range(20):
    record = store.get(path)
    try:
        if record is None:
            store.create(Record(path, last_incremental_file=path + "0.parquet"))
        else:
            store.update(record, record.leased("one of them", datetime.now(UTC)))
            won += 1
    except StateConflict:
        continue
print(won)
"""


def test_sqlite_is_shared_by_processes(tmp_path: Path) -> None:
    """Processes that open a new file at once all get in, and no lease is given twice."""
    file = tmp_path / "new" / "x.db"
    command = [sys.executable, "-c", TAKE_LEASES, str(file), PATH]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    won = [int(run.communicate(timeout=60)[0]) for run in runs]
    record = SQLiteStore(file).get(PATH)
    assert record is not None
    assert record.lease_epoch == sum(won)


# DynamoDB alone


def test_dynamodb_creates_a_missing_table_once(endpoint: str) -> None:
    """The walkthrough's table and ours are made alike; two loaders may start at once."""
    stores = [DynamoDBStore("made-at-once", client_of(endpoint)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: store.create_table(), stores))
    described = client_of(endpoint).describe_table(TableName="made-at-once")["Table"]
    assert described["KeySchema"] == [{"AttributeName": "path", "KeyType": "HASH"}]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    stores[0].create(fresh())
    assert stores[1].get(PATH) == fresh()


def test_dynamodb_tables_that_cannot_be_used_are_config_errors(endpoint: str) -> None:
    """A table that is not there, and one of another shape, are told with what to do."""
    with pytest.raises(ConfigError, match="ResourceNotFound") as caught:
        DynamoDBStore("missing", client_of(endpoint)).all()
    assert "create the table" in caught.value.hint
    client_of(endpoint).create_table(
        TableName="other-shape",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigError, match="other-shape") as caught:
        DynamoDBStore("other-shape", client_of(endpoint)).probe()
    assert "hash key `path`" in caught.value.hint


def test_dynamodb_that_does_not_answer() -> None:
    """Work is retried later; a probe, at the start, says what to set."""
    store = DynamoDBStore("any", client_of("http://127.0.0.1:1"))
    for call in (lambda: store.get(PATH), store.all, lambda: store.create(fresh()), store.create_table):
        with pytest.raises(TransientError):
            call()
    with pytest.raises(ConfigError, match="cannot be reached") as caught:
        store.probe()
    assert "AWS_ENDPOINT_URL" in caught.value.hint


class Refusing:
    """A DynamoDB client whose every request meets the same error: what AWS sends and moto does not."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def refuse(**arguments: Any) -> Any:
            raise self.error

        return refuse


def refusal(code: str, status: int = 400, message: str = "no") -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetItem")


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (refusal("ThrottlingException"), TransientError, ""),
        (refusal("ProvisionedThroughputExceededException"), TransientError, ""),
        (refusal("InternalServerError", 500), TransientError, ""),
        (refusal("Whatever", 503), TransientError, ""),
        (ReadTimeoutError(endpoint_url="http://x"), TransientError, ""),
        (refusal("AccessDeniedException"), ConfigError, "allow dynamodb:GetItem"),
        (refusal("UnrecognizedClientException"), ConfigError, "AWS credentials"),
        (refusal("ExpiredTokenException"), TransientError, ""),
        (NoCredentialsError(), ConfigError, "AWS credentials"),
        (
            refusal("ValidationException", 400, "Item size has exceeded the maximum allowed size"),
            TableError,
            "look_back_seconds",
        ),
    ],
    ids=str,
)
def test_dynamodb_errors_say_who_must_act(error: Exception, kind: type[CdcloaderError], hint: str) -> None:
    """What passes is retried, what an operator must mend says how, and the cause is kept."""
    store = DynamoDBStore("t", Refusing(error))
    calls: list[Callable[[], object]] = [
        lambda: store.get(PATH),
        store.all,
        lambda: store.create(fresh()),
        lambda: store.update(fresh(), full()),
        store.probe,
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert hint in caught.value.hint
        assert "DynamoDB table t" in caught.value.where
        assert caught.value.__cause__ is error


class AnswerLost:
    """Lets the next request of an operation take effect and loses its answer, so that the client asks again."""

    def __init__(self, client: Any, operation: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.left, self.asked, self._meanwhile = 1, 0, meanwhile
        client.meta.events.register(f"needs-retry.dynamodb.{operation}", self.lose, unique_id="lost")
        client.meta.events.register(f"before-send.dynamodb.{operation}", self.ask)

    def ask(self, **_: Any) -> None:
        self.asked += 1

    def lose(self, response: Any, caught_exception: Any, **_: Any) -> float | None:
        if self.left and response is not None:
            self.left -= 1
            self._meanwhile()
            return 0.001  # Seconds until the client's own retry.
        return None


def retrying(endpoint: str, table: str) -> tuple[DynamoDBStore, Any]:
    client = client_of(endpoint)
    store = DynamoDBStore(table, client)
    store.probe()
    return store, client


def test_dynamodb_reads_whether_a_retried_update_was_its_own(endpoint: str) -> None:
    """The client asks again because the answer was lost, and is refused by its own write: that is no conflict."""
    store, client = retrying(endpoint, "lost-update")
    store.create(fresh())
    lost = AnswerLost(client, "UpdateItem")
    leased = store.update(fresh(), fresh().leased("me", NOW))
    assert (lost.asked, leased) == (2, fresh().leased("me", NOW))
    lost.left = 1
    moved = dataclasses.replace(leased, recorded_position=7, last_incremental_file="x", last_error=None)
    assert store.update(leased, moved) == moved == store.get(PATH)


def test_dynamodb_leaves_a_retried_update_that_was_overtaken(endpoint: str) -> None:
    """Its own write took effect, but another came before the retry: a conflict, so that the caller reads again."""
    store, client = retrying(endpoint, "overtaken")
    store.create(fresh())
    other = DynamoDBStore("overtaken", client_of(endpoint))

    def overtake() -> None:
        record = other.get(PATH)
        assert record is not None
        other.update(record, record.leased("other", NOW))

    AnswerLost(client, "UpdateItem", overtake)
    with pytest.raises(StateConflict):
        store.update(fresh(), fresh().leased("me", NOW))
    record = store.get(PATH)
    assert record is not None
    assert (record.lease_owner, record.lease_epoch) == ("other", 2)


def test_dynamodb_reads_whether_a_retried_creation_was_its_own(endpoint: str) -> None:
    """A record that the lost first try made is ours; one that another made meanwhile is not."""
    store, client = retrying(endpoint, "lost-create")
    lost = AnswerLost(client, "PutItem")
    store.create(full())
    assert (lost.asked, store.get(PATH)) == (2, full())
    lost.left = 1
    with pytest.raises(StateConflict):
        store.create(fresh())
    assert store.get(PATH) == full()


def test_dynamodb_beats_again_after_a_lost_answer(endpoint: str) -> None:
    """A beat that was written and not answered counts as another's: reading again shows what stands."""
    store, client = retrying(endpoint, "lost-beat")
    AnswerLost(client, "PutItem")
    first = Replicas().after(TWO)
    with pytest.raises(StateConflict):
        store.put_replicas(first)
    assert store.replicas() == first
    store.put_replicas(first.after({}))


def test_dynamodb_uses_the_standard_variables(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, region and credentials come from the environment; without a region the error says so."""
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="no AWS region"):
        DynamoDBStore("standard")
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    store = DynamoDBStore("standard")
    store.probe()
    store.create(fresh())
    assert store.all() == [fresh()]
    store.close()
