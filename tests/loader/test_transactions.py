"""Tables that share a folder of whole transactions: one pass over a file feeds all, each has a watermark of its own."""

import gzip
import os
import random
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
import structlog
from prometheus_client import CollectorRegistry

from cdcloader.config.models import Csv, Table
from cdcloader.demo.dms_writer import Change, DmsSettings, load_name, render_load, render_transactions, write_file
from cdcloader.errors import TableError, TransientError
from cdcloader.lake.log import DeltaLog
from cdcloader.loader import orders
from cdcloader.loader.context import Context, Settings
from cdcloader.loader.report import Reporter
from cdcloader.loader.table import Outcome, TableLoader
from cdcloader.loader.transactions import Transactions
from cdcloader.loader.verify import verify
from cdcloader.metrics import Metrics
from cdcloader.objects import Objects
from cdcloader.source.actions import Limits
from cdcloader.state.memory import MemoryStore
from cdcloader.state.record import Phase

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PARQUET = DmsSettings(format="parquet")
COLUMNS = {
    "sales/orders": (("id", "long"), ("amount", "decimal(12,2)"), ("note", "string")),
    "sales/items": (("id", "long"), ("name", "string")),
    "hr/people": (("id", "long"), ("born", "date"), ("weight", "double"), ("name", "string")),
}


class Fleet:
    """Tables that share `txn/`, in one process with a moving clock; `expected` is what they should hold."""

    def __init__(
        self,
        root,
        columns=None,
        *,
        key=("id",),
        sources=(),
        memory_bytes=1 << 20,
        disk_bytes=1 << 20,
        quiet_seconds=0,
        **table,
    ):
        self.root, self.columns, self.now = root, columns or COLUMNS, START
        self.tables = {
            source: Table(source=source, primary_key=key, cdc_path="txn", csv=Csv(), **table) for source in self.columns
        }
        self.expected = {source: {} for source in self.columns}
        self.quiet_seconds = quiet_seconds
        self.store, self.batches, self.reads = MemoryStore(), {}, Counter()
        self.sources, self.sizes = {*sources, *self.columns}, {"memory_bytes": memory_bytes, "disk_bytes": disk_bytes}
        (root / "raw" / "txn").mkdir(parents=True)
        self.lake = Objects.open(str(root / "lake"), create=True)
        self.start()

    def start(self, store=None):
        """A new process."""
        self.shared = Transactions(self.sources, **self.sizes)
        raw = Objects.open(str(self.root / "raw"))
        read = raw.read

        def counted(key, **options):
            self.reads[key] += 1
            return read(key, **options)

        raw.read = counted
        limits = Limits(max_files=500, max_bytes=1 << 30, quiet_seconds=self.quiet_seconds, overlap_seconds=300)
        settings = Settings("me", limits, 60, 3600, 1 << 26, 1 << 24)
        metrics = Metrics(CollectorRegistry(), lambda: self.now)
        self.loaders = {}
        for source, table in self.tables.items():
            log = DeltaLog(self.lake, source)
            context = Context(table, raw, self.lake, log, settings, lambda: self.now, transactions=self.shared)
            reporter = Reporter(source, metrics, lambda: self.now, 1 << 27, self._note)
            self.loaders[source] = TableLoader(context, store or self.store, reporter, lambda _: True, clock=self.clock)

    def clock(self):
        return self.now.timestamp()

    def _note(self, source, done):
        self.batches.setdefault(source, []).append(done)

    def load(self):
        """A LOAD of two rows for every table."""
        for source, columns in self.columns.items():
            rows = [values(columns, number) for number in (1, 2)]
            self.expected[source] = {row["id"]: row for row in rows}
            self._write(source, load_name(1, PARQUET), render_load(PARQUET, columns, rows), self.now)
        self.later()

    def put(self, content, *, at=None, end="csv"):
        """A shared file; its name."""
        at = at or self.now
        name = f"CDC_TXN-{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}.{end}"
        self._write("txn", name, content, self.now)
        self.later()
        return name

    def _write(self, folder, name, content, at):
        os.utime(write_file(self.root / "raw" / folder, name, content), (at.timestamp(),) * 2)

    def changes(self, *changes, **options):
        """A shared file with (op, source, row) changes, which the model follows."""
        for op, source, row in changes:
            if op == "D":
                self.expected[source].pop(row["id"], None)
            else:
                self.expected[source][row["id"]] = row
        return self.put("".join(line(*change) for change in changes).encode(), **options)

    def later(self, seconds=60):
        self.now += timedelta(seconds=seconds)

    def run(self, *sources):
        outcomes = set()
        for source in sources or self.tables:
            loader = self.loaders[source]
            for _ in range(50):
                step = loader.step()
                if step.outcome is not Outcome.DONE:
                    break
            loader.release()
            outcomes.add(step.outcome)
        return outcomes

    def rows(self, source):
        return pl.read_delta(self.lake.path_of(source)).sort("id").to_dicts()

    def check(self):
        for source, columns in self.columns.items():
            names = [name for name, _ in columns]
            wanted = [{name: row[name] for name in names} for _, row in sorted(self.expected[source].items())]
            assert self.rows(source) == wanted, source

    def record(self, source):
        return self.store.get(self.loaders[source].context.path)

    def versions(self):
        return {source: DeltaLog(self.lake, source).snapshot().version for source in self.tables}

    def quarantine(self, target):
        files = sorted((self.root / "lake" / "_quarantine" / target).glob("*.parquet"))
        return [row for file in files for row in pl.read_parquet(file).select("row", "reason", "raw").rows()]


def values(columns, number):
    """A row of some number."""
    made = {
        "long": lambda _: number, "string": lambda name: f'{name} "{number}", and\nmore' if number % 3 else f"{name}",
        "decimal(12,2)": lambda _: pl.Series([f"{number}.25"]).cast(pl.Decimal(12, 2))[0],
        "date": lambda _: date(2000, 1, 1 + number % 28), "double": lambda _: number / 4,
    }  # fmt: skip
    return {name: made[kind](name) for name, kind in columns}


def line(op, source, row):
    """A row of a shared file."""
    columns = COLUMNS.get(source, (("id", "long"),))
    return render_transactions(PARQUET, [(source, columns, Change(op, row, START))]).decode()


def random_changes(fleet, seed, count):
    draw = random.Random(seed)
    changes = []
    for _ in range(count):
        source = draw.choice(list(fleet.columns))
        changes.append((draw.choice("IUUD"), source, values(fleet.columns[source], draw.randrange(1, 12))))
    return changes


@pytest.fixture
def make_fleet(tmp_path):
    def make(**options):
        fleet = Fleet(tmp_path / f"{len(list(tmp_path.iterdir()))}", **options)
        fleet.load()
        return fleet

    return make


def test_one_pass_feeds_all_tables(make_fleet):
    """Parquet LOADs and shared CSV changes: every table ends as its history says, and each file is read once."""
    fleet = make_fleet()
    names = [fleet.changes(*random_changes(fleet, seed, 60)) for seed in range(4)]
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert {key: count for key, count in fleet.reads.items() if key.startswith("txn/")} == {
        f"txn/{name}": 1 for name in names
    }
    applied = [done.account for source in fleet.tables for done in fleet.batches[source] if done.account.files]
    assert sum(account.rows_in for account in applied) == 4 * 60
    assert sum(account.quarantined for account in applied) == 0
    for source in fleet.tables:
        assert fleet.record(source).last_incremental_file.endswith(f"{source}/{names[-1]}")


def test_a_table_without_rows_moves_its_watermark_and_commits_nothing(make_fleet):
    """Where a thousand tables share a folder, a file costs those that it does not change one write to the record."""
    fleet = make_fleet()
    fleet.changes(*[("U", source, values(fleet.columns[source], 1)) for source in fleet.tables])
    fleet.run()
    before, leases = fleet.versions(), fleet.record("hr/people").lease_epoch
    name = fleet.changes(("I", "sales/items", {"id": 7, "name": "new"}))
    assert fleet.run() == {Outcome.IDLE}
    after = fleet.versions()
    assert after == before | {"sales/items": before["sales/items"] + 1}
    record = fleet.record("hr/people")
    assert record.last_incremental_file.endswith(f"hr/people/{name}")
    assert (record.lease_epoch, record.recorded_version, record.phase) == (leases, before["hr/people"], Phase.STREAMING)
    fleet.check()
    assert fleet.run() == {Outcome.IDLE}
    assert fleet.versions() == after


@pytest.mark.parametrize("broken_store", [False, True])
def test_a_kill_between_commit_and_record_loses_nothing(make_fleet, broken_store):
    """A new process, with the records or without them, goes on from what the log says; no table is applied again."""
    fleet = make_fleet()
    for seed in range(3):
        fleet.changes(*random_changes(fleet, seed, 8))
        fleet.run()
    fleet.changes(("I", "sales/items", {"id": 70, "name": "new"}))
    fleet.run()
    fleet.changes(*random_changes(fleet, 9, 20))
    update = fleet.store.update

    def fails(old, new):
        if new.recorded_version != old.recorded_version:
            raise TransientError("killed here")
        return update(old, new)

    fleet.store.update = fails
    for source in fleet.tables:
        with pytest.raises(TransientError):
            fleet.run(source)
    fleet.store.update = update
    versions, generations = fleet.versions(), {source: fleet.record(source).generation for source in fleet.tables}
    if broken_store:
        fleet.store = MemoryStore()
    fleet.later(600)
    fleet.start()
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert fleet.versions() == versions
    assert {source: fleet.record(source).generation for source in fleet.tables} == generations


def test_a_late_file_is_applied_again_only_where_it_has_rows(make_fleet):
    """A file that comes late reloads from there the one table that it changes; the others only note it."""
    fleet = make_fleet()
    early = fleet.now
    fleet.later()
    fleet.changes(*[("U", source, values(fleet.columns[source], 2)) for source in fleet.tables])
    fleet.run()
    generations = {source: fleet.record(source).generation for source in fleet.tables}
    versions = fleet.versions()
    late = [("U", "sales/items", {"id": 2, "name": "overtaken"}), ("I", "sales/items", {"id": 8, "name": "late"})]
    name = fleet.put("".join(line(*change) for change in late).encode(), at=early)
    fleet.expected["sales/items"][8] = late[1][2]
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert fleet.record("sales/items").generation == generations["sales/items"] + 1
    assert fleet.record("sales/orders").generation == generations["sales/orders"]
    assert name in fleet.record("sales/orders").ledger
    assert fleet.versions()["sales/orders"] == versions["sales/orders"]


def test_a_replaced_file_is_applied_again(make_fleet):
    """Another ETag is another file, which is split anew; every table replays from it."""
    fleet = make_fleet()
    at = fleet.now
    fleet.changes(("I", "sales/items", {"id": 7, "name": "wrong"}), ("I", "sales/items", {"id": 9, "name": "gone"}))
    fleet.changes(("U", "sales/orders", values(COLUMNS["sales/orders"], 5)))
    fleet.run()
    del fleet.expected["sales/items"][9]
    fleet.later()
    fleet.changes(("I", "sales/items", {"id": 7, "name": "right"}), ("D", "sales/items", {"id": 9, "name": ""}), at=at)
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()


def test_broken_rows_are_quarantined_once_for_the_folder(make_fleet):
    """What belongs to no table is written once, with number, reason and text; all other rows reach their tables."""
    fleet = make_fleet()
    text = line("U", "sales/items", {"id": 1, "name": "a"}) + 'I,x\nU,items,"sales,2\n'
    fleet.expected["sales/items"] |= {1: {"id": 1, "name": "a"}, 3: {"id": 3, "name": "c"}}
    with structlog.testing.capture_logs() as logs:
        fleet.put((text + line("I", "sales/items", {"id": 3, "name": "c"})).encode())
        assert fleet.run() == {Outcome.IDLE}
        fleet.start()
        fleet.changes(("D", "sales/items", {"id": 3, "name": "c"}))
        assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert [row[0] for row in fleet.quarantine("txn/_no_table")] == [2, 3]
    assert [row[2] for row in fleet.quarantine("txn/_no_table")] == ["I,x", 'U,items,"sales,2']
    assert [each["count"] for each in logs if "belong to no table" in each["event"]] == [2]


def test_rows_of_tables_that_nobody_loads_are_told_once(make_fleet):
    """Names and counts, once for each name; a table of the config that is not being run is none of them."""
    fleet = make_fleet(sources=["sales/other"])
    row = {"id": 1}
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            fleet.put((line("I", "x/unknown", row) * 3 + line("I", "sales/other", row)).encode())
            fleet.run()
    assert [each["tables"] for each in logs if "not in the config" in each["event"]] == [{"x/unknown": 3}]


def test_a_row_of_another_width_is_quarantined_with_its_number_in_the_shared_file(make_fleet):
    """The table's own quarantine names the shared file's row; the table's other rows are applied."""
    fleet = make_fleet()
    good = [line("U", "sales/items", {"id": n, "name": "b"}) for n in (1, 2)]
    fleet.expected["sales/items"] = {n: {"id": n, "name": "b"} for n in (1, 2)}
    people = line("U", "hr/people", values(COLUMNS["hr/people"], 1))
    bad = "U,items,sales,1,b,too much\nX,items,sales,1,c\n"
    fleet.put((good[0] + people + bad + people + good[1]).encode())
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert fleet.quarantine("sales/items") == [
        (3, "expected 3 fields, got 4", "U,1,b,too much"),
        (4, "Op 'X' is none of I, U, D", "X,1,c"),
    ]
    account = fleet.batches["sales/items"][-1].account
    assert (account.rows_in, account.quarantined) == (4, 2)


def test_rows_of_another_width_alone_stop_their_table_and_no_other(make_fleet):
    """The source's columns have changed: the table is blocked with both widths, the others go on."""
    fleet = make_fleet()
    fleet.put(("U,items,sales,1,b,more\n" + line("D", "hr/people", values(COLUMNS["hr/people"], 1))).encode())
    del fleet.expected["hr/people"][1]
    with pytest.raises(TableError, match="4 fields"):
        fleet.run("sales/items")
    assert fleet.run("hr/people", "sales/orders") == {Outcome.IDLE}
    assert [row["id"] for row in fleet.rows("hr/people")] == [2]


def test_a_table_whose_columns_nobody_knows_says_what_to_do(tmp_path):
    """Without a LOAD and without `columns`, rows that have no header cannot be read; with `columns` they are."""
    fleet = Fleet(tmp_path / "a")
    fleet.changes(("I", "sales/items", {"id": 7, "name": "new"}))
    with pytest.raises(TableError, match="columns are not known") as caught:
        fleet.run("sales/items")
    assert "columns:" in caught.value.hint
    assert "have DMS load the table" in caught.value.hint
    assert fleet.run("hr/people") == {Outcome.IDLE}
    assert fleet.record("hr/people").phase is Phase.NEW
    told = Fleet(tmp_path / "b", columns={"sales/items": COLUMNS["sales/items"]})
    told.tables = {s: replace_columns(t, COLUMNS[s]) for s, t in told.tables.items()}
    told.start()
    told.changes(("I", "sales/items", {"id": 7, "name": "new"}))
    assert told.run() == {Outcome.IDLE}
    told.check()


def replace_columns(table, columns):
    return table.model_copy(update={"columns": dict(columns)})


def test_a_timestamp_column_stands_behind_the_names(make_fleet):
    """Where DMS puts the commit time behind the schema's name, it is no column of the table's, and tells freshness."""
    fleet = make_fleet()
    fleet.put(b"U,items,sales,2026-03-01 11:59:07.000000,1,b\nI,items,sales,2026-03-01 11:59:08.000000,3,\n")
    fleet.expected["sales/items"] |= {1: {"id": 1, "name": "b"}, 3: {"id": 3, "name": None}}
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert fleet.batches["sales/items"][-1].newest_time == datetime(2026, 3, 1, 11, 59, 8, tzinfo=UTC)


def test_a_first_row_is_never_a_header(make_fleet):
    """A row whose values are the names of the columns is a row."""
    fleet = make_fleet(columns={"s/t": (("name", "string"), ("id", "string"))})
    fleet.expected["s/t"] = {"id": {"name": "name", "id": "id"}}
    fleet.put(b"D,t,s,,1\nD,t,s,,2\nI,t,s,name,id\n")
    fleet.run()
    assert {"name": "name", "id": "id"} in fleet.rows("s/t")


@pytest.mark.parametrize("sizes", [(1, 0), (10_000, 1 << 20), (12_000, 2_000)])
def test_a_cache_that_is_too_small_costs_time_alone(make_fleet, sizes):
    """What is let go of is read and split again; what is put aside on disk is not."""
    memory_bytes, disk_bytes = sizes
    fleet = make_fleet(memory_bytes=memory_bytes, disk_bytes=disk_bytes)
    names = [fleet.changes(*random_changes(fleet, seed, 80)) for seed in range(5)]
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    reads = [fleet.reads[f"txn/{name}"] for name in names]
    assert (max(reads) == 1) is (disk_bytes == 1 << 20), reads


def test_a_large_file_is_read_in_pieces(make_fleet, monkeypatch):
    """Each table's rows of all pieces are one file to it, in their order, with the numbers that they have."""
    monkeypatch.setattr("cdcloader.loader.transactions._PIECE_BYTES", (100, 100))
    fleet = make_fleet()
    bad = "X,items,sales,1,c\n"
    changes = random_changes(fleet, 5, 200)
    fleet.changes(*changes)
    fleet.put((line(*changes[0]) * 30 + bad + line(*changes[0]) + bad).encode())
    fleet.expected[changes[0][1]] |= {} if changes[0][0] == "D" else {changes[0][2]["id"]: changes[0][2]}
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert [row[0] for row in fleet.quarantine("sales/items")] == [31, 33]


def test_an_operator_skips_a_shared_file_for_one_table(make_fleet):
    """A file that no table can read is skipped table by table; the file behind it is applied."""
    fleet = make_fleet()
    bad = fleet.put(b"this is no gzip", end="csv.gz")
    fleet.changes(*[("U", source, values(fleet.columns[source], 2)) for source in fleet.tables])
    for source, loader in fleet.loaders.items():
        with pytest.raises(TableError, match="gzip"):
            fleet.run(source)
        orders.skip(loader.context, fleet.store, bad)
    fleet.start()
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()


def test_a_shared_file_is_no_proof_that_a_full_load_is_complete(tmp_path):
    """It may hold the cached changes of another table, while this one is still being loaded."""
    fleet = Fleet(tmp_path / "a", quiet_seconds=300)
    fleet.load()
    fleet.changes(("U", "sales/items", {"id": 1, "name": "x"}))
    assert fleet.run() == {Outcome.WAITING}
    fleet.later(300)
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()


def test_who_asks_for_a_file_that_is_being_split_waits_for_it(make_fleet):
    """Tables that are worked on at the same time read a file once."""
    fleet = make_fleet()
    names = [fleet.changes(*random_changes(fleet, seed, 60)) for seed in range(6)]
    threads = [threading.Thread(target=fleet.run, args=(source,)) for source in fleet.tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fleet.check()
    assert [fleet.reads[f"txn/{name}"] for name in names] == [1] * 6


def test_a_damaged_file_stops_the_tables_behind_the_files_before_it(make_fleet):
    """A gzip that was cut off is fetched once: what stands before it is applied; put right, it is applied too."""
    fleet = make_fleet()
    fleet.changes(*random_changes(fleet, 1, 30))
    at = fleet.now
    whole = gzip.compress(line("I", "sales/items", {"id": 50, "name": "z"}).encode())
    damaged = fleet.put(whole[:-9], at=at, end="csv.gz")
    for source in fleet.tables:
        with pytest.raises(TableError, match="gzip"):
            fleet.run(source)
    assert fleet.reads[f"txn/{damaged}"] == 1
    fleet.check()
    fleet.later()
    fleet.put(whole, at=at, end="csv.gz")
    fleet.expected["sales/items"][50] = {"id": 50, "name": "z"}
    fleet.start()
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()


def random_history(fleet, seed):
    """Files in time, late and empty ones, some tables' turns, new processes, lost records; the model is at the end."""
    draw, files = random.Random(seed), {}
    for number in range(12):
        at = fleet.now - timedelta(seconds=draw.choice([0, 0, 0, 90, 400]), milliseconds=number)
        files[at] = random_changes(fleet, draw.random(), draw.choice([0, 1, 3, 40]))
        fleet.put("".join(line(*change) for change in files[at]).encode(), at=at)
        fleet.run(*draw.sample(list(fleet.tables), draw.randrange(1, 4)))
        if draw.random() < 0.3:
            fleet.start()
        if draw.random() < 0.15:
            fleet.store = MemoryStore()
            fleet.start()
    for _, changes in sorted(files.items()):
        for op, source, row in changes:
            fleet.expected[source].pop(row["id"], None)
            if op != "D":
                fleet.expected[source][row["id"]] = row
    assert fleet.run() == {Outcome.IDLE}
    fleet.check()
    assert_verified(fleet)


@pytest.mark.parametrize("seed", range(3))
def test_histories_converge(make_fleet, seed):
    """Whatever the order of files, turns and restarts: each table is what all files say in the order of their names."""
    random_history(make_fleet(), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 60))
def test_more_histories_converge(make_fleet, seed):
    """As above, with caches of all sizes."""
    random_history(make_fleet(memory_bytes=random.Random(seed).choice([1, 5_000, 1 << 20]), disk_bytes=9_000), seed)


@pytest.mark.parametrize("sequenced", [False, True])
def test_verify_reads_shared_files_too(make_fleet, sequenced):
    """A table that took its rows from shared files is equal to them, files without a row of it among them or not."""
    fleet = make_fleet(**({"sequence_by": ("id",)} if sequenced else {}))
    for seed in range(3):
        fleet.changes(*random_changes(fleet, seed, 5))
        fleet.run()
    fleet.changes(("I", "sales/items", {"id": 70, "name": "new"}))
    fleet.run()
    fleet.changes(*[("U", source, values(fleet.columns[source], 3)) for source in fleet.tables])
    fleet.run()
    assert_verified(fleet)


def assert_verified(fleet):
    for source, loader in fleet.loaders.items():
        reader = replace(loader.context, transactions=Transactions(fleet.sources, quarantines=False))
        found = verify(reader, fleet.record(source), budget_bytes=512 << 20)
        assert found.equal, (source, found)
        assert found.notes == ()


def test_a_table_that_is_found_later_takes_its_rows_from_the_first_file_on(make_fleet):
    """What was split before a table was known still holds its rows, in whatever capitals."""
    fleet = make_fleet()
    columns = {"sales/late": COLUMNS["sales/items"]}
    row = {"id": 5, "name": "early"}
    fleet.put(line("I", "sales/items", row).replace(",items,sales,", ",LATE,sales,").encode())
    fleet.run()
    fleet.columns = fleet.columns | columns
    fleet.tables["sales/late"] = replace_columns(
        fleet.tables["sales/items"].model_copy(update={"source": "sales/late", "target": "sales/late"}),
        columns["sales/late"],
    )
    fleet.expected["sales/late"] = {5: row}
    shared = fleet.shared
    fleet.start()
    shared.add("sales/late")
    loader = fleet.loaders["sales/late"]
    loader.context = replace(loader.context, transactions=shared)
    fleet.reads.clear()
    assert fleet.run("sales/late") == {Outcome.IDLE}
    fleet.check()
    assert not [key for key in fleet.reads if key.startswith("txn/")]


def test_column_rules_over_shared_files(make_fleet):
    """Rows of shared files have the columns of the LOAD, whatever the column rules make of these in the table."""
    orders_only = {"sales/orders": COLUMNS["sales/orders"]}
    fleet = make_fleet(
        columns=orders_only, rename={"note": "remark"}, cast={"amount": "double"}, filter="amount < 20",
        derive={"size": "LENGTH(remark)"}, drop=("remark",),
    )  # fmt: skip
    columns = COLUMNS["sales/orders"]
    changes = [("U", 1, "1.50"), ("U", 2, "99.00"), ("I", 3, "3.25"), ("I", 4, "20.00")]
    fleet.changes(
        *[(op, "sales/orders", values(columns, number) | {"amount": Decimal(amount)}) for op, number, amount in changes]
    )
    assert fleet.run() == {Outcome.IDLE}
    sizes = {number: len(values(columns, number)["note"]) for number in (1, 3)}
    assert fleet.rows("sales/orders") == [
        {"id": 1, "amount": 1.5, "size": sizes[1]},
        {"id": 3, "amount": 3.25, "size": sizes[3]},
    ]
    loader = fleet.loaders["sales/orders"]
    assert verify(loader.context, fleet.record("sales/orders"), budget_bytes=1 << 30).equal


@pytest.mark.parametrize("key", [("id",), None])
def test_a_later_version_holds_what_shared_files_said_before_it(make_fleet, key):
    """A version's load is a reload: changes that are older than it are not applied on top of it once more."""
    source = "sales/items"
    fleet = make_fleet(columns={source: COLUMNS[source]}, key=key)
    fleet.changes(("I", source, {"id": 3, "name": "c"}), ("I", source, {"id": 4, "name": "gone in between"}))
    fleet.run()
    fleet.later(3600)
    fleet.expected[source].pop(4)
    rows = list(fleet.expected[source].values())
    fleet._write(f"{source}/v2", load_name(1, PARQUET), render_load(PARQUET, COLUMNS[source], rows), fleet.now)
    fleet.later()
    fleet.tables[source] = fleet.tables[source].model_copy(update={"version": "v2"})
    fleet.start()
    fleet.changes(("I", source, {"id": 5, "name": "e"}))
    fleet.run()
    fleet.check()
