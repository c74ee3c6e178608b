"""The survey behind `cdcloader init`: every shape that DMS writes is recognised, and the config loads it."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from cdcloader.cli.config_text import PATTERN_TABLES, config_text
from cdcloader.config import load_config
from cdcloader.demo.dms_writer import (
    Change,
    DmsSettings,
    article_cdc_file,
    cdc_files,
    load_files,
    transactions_file,
    write_file,
)
from cdcloader.loader.survey import survey
from cdcloader.objects import Objects
from cdcloader.turns import run_once
from cdcloader.wiring import assemble

START = datetime(2026, 9, 1, 10, tzinfo=UTC)
COLUMNS = (("order_id", "long"), ("name", "string"), ("amount", "decimal(12,2)"), ("placed_at", "timestamp"))
LINES = (("order_id", "long"), ("line", "long"), ("sku", "string"))


def order(number, name="x"):
    return {"order_id": number, "name": name, "amount": number, "placed_at": START + timedelta(seconds=number)}


ROWS = [order(number, f"n{number % 3}") for number in range(1, 31)]
CHANGES = [("U", order(2, "two")), ("D", order(3)), ("I", order(31, "new"))]
RESULT = {**{row["order_id"]: row["name"] for row in ROWS if row["order_id"] != 3}, 2: "two", 31: "new"}
INSERTED = {**{row["order_id"]: row["name"] for row in ROWS}, 31: "new"}
SHAPES = {
    "parquet": {"format": "parquet", "include_op_for_full_load": True, "timestamp_column": "committed"},
    "parquet_plain": {"format": "parquet"},
    "header": {"header": True},
    "pipes": {"header": True, "delimiter": "|", "gzip": True},
    "nulls": {"header": True, "null_value": "NULL", "delimiter": ";"},
    "bare": {"delimiter": "\t"},
    "bare_op": {"include_op_for_full_load": True, "delimiter": "\x1f", "timestamp_column": "ts"},
    "dates": {"format": "parquet", "date_partition": "YYYYMMDD", "date_partition_delimiter": "DASH"},
    "hive": {"header": True, "date_partition": "HIVE"},
    "sequenced": {"format": "parquet", "added_columns": ("AR_H_CHANGE_SEQ",), "before_images": ("order_id",)},
    "ndjson": {"format": "json", "gzip": True},
    "inserts": {"format": "parquet", "cdc_inserts_only": True},
    "segments": {"format": "parquet"},
    "articles": {"format": "parquet"},
    "versions": {"format": "parquet"},
}


class Prefix:
    """A raw folder that DMS has written to."""

    def __init__(self, root):
        self.root, self.raw = root, root / "raw"
        self.raw.mkdir()

    def put(self, files, below=""):
        for file in files:
            folder, _, name = f"{below}{file.key}".rpartition("/")
            path = write_file(self.raw / folder, name, file.content)
            os.utime(path, (START.timestamp(), START.timestamp()))

    def table(self, source, shape, rows=ROWS, changes=CHANGES, columns=COLUMNS):
        settings = DmsSettings(**SHAPES.get(shape, {"format": "parquet"}))
        at = START + timedelta(minutes=5)
        made = [Change(op, row, at, before=row, number=n) for n, (op, row) in enumerate(changes, start=1)]
        options = {"segments": {"parallel": "folders"}, "articles": {"layout": "articles"}}.get(shape, {})
        pieces = [rows[:20], rows[20:]] if len(rows) > 20 else [rows]
        files = load_files(settings, source, columns, pieces, at=START, **options)
        if shape == "articles":
            files.append(article_cdc_file(settings, source, columns, made, at=at, number=1))
        elif made:
            files += cdc_files(settings, source, columns, made, at=at)
        if shape == "versions":
            files = [file._replace(key=file.key.replace(source, f"{source}/v202609010000")) for file in files]
        self.put(files)

    def survey(self):
        return survey(Objects.open(str(self.raw)))

    def text(self):
        state = {"kind": "sqlite", "path": str(self.root / "state.db")}
        return config_text(str(self.raw), str(self.root / "lake"), state, self.survey())

    def load(self):
        """The config, after everything was loaded by it."""
        file = self.root / "config.yaml"
        file.write_text(self.text())
        config = load_config(file, {})
        assembly = assemble(config)
        for ended in run_once(assembly.loaders, workers=4, stopping=threading.Event(), lease_seconds=60):
            assert ended.error is None, (ended.loader.source, str(ended.error))
        assert not any(loader.quarantined for loader in assembly.loaders)
        return config

    def frame(self, target):
        return pl.read_delta(str(self.root / "lake" / target))


@pytest.fixture
def prefix(tmp_path):
    return Prefix(tmp_path)


def test_what_init_writes_loads_every_shape(prefix):
    """Each table, with nothing changed in the config, equals what its source held."""
    for shape in SHAPES:
        prefix.table(f"shop/{shape}", shape)
    (prefix.raw / "shop" / "awsdms_status").mkdir()
    config = prefix.load()
    assert {table.source for table in config.tables} == {f"shop/{shape}" for shape in SHAPES}
    for table in config.tables:
        frame = prefix.frame(table.target)
        bare = table.source.startswith("shop/bare")
        key, name = ("c1", "c2") if bare else ("order_id", "name")
        assert table.primary_key == (key,), table.source
        expected = INSERTED if table.source == "shop/inserts" else RESULT
        assert dict(frame.select(key, name).iter_rows()) == expected, table.source
        assert frame.columns == (["c1", "c2", "c3", "c4"] if bare else [column for column, _ in COLUMNS]), table.source
    tables = {table.source.removeprefix("shop/"): table for table in config.tables}
    assert tables["parquet"].timestamp_column == "committed"
    assert tables["sequenced"].sequence_by == ("AR_H_CHANGE_SEQ",)
    assert tables["versions"].version == "v202609010000"
    assert tables["bare"].columns == {"c1": "long", "c2": "string", "c3": "decimal(38,2)", "c4": "timestamp"}
    assert {name: table.csv.delimiter for name, table in tables.items() if table.csv.delimiter != ","} == {
        "pipes": "|", "nulls": ";", "bare": "\t", "bare_op": "\x1f",
    }  # fmt: skip


def test_guesses_are_marked_for_review(prefix):
    """Whoever reads the config sees what was seen, what was guessed from it, and what could not be guessed."""
    prefix.table("shop/lines", "lines", [{"order_id": n // 3, "line": n % 3, "sku": "x"} for n in range(9)], [], LINES)
    prefix.table("shop/log", "log", [{"order_id": 1, "line": 1, "sku": "x"}] * 3, [], LINES)
    prefix.table("shop/bare", "bare")
    text = prefix.text()
    assert "primary_key: [order_id, line]  # review: together no NULL and no value twice in 9 rows" in text
    assert "primary_key: null  # review: no column, and no likely two, without NULLs and doubles in 3 rows" in text
    assert "columns:  # review: the files have no header: name the columns" in text
    assert "- source: shop/bare  # 2 LOAD and 1 CDC files (csv); 20 rows looked at" in text
    assert prefix.load().table("shop/log").primary_key is None


def test_what_tables_have_in_common_is_marked_too(prefix):
    """A guess that all tables share is still one to check: in `defaults`, and in the entry of a pattern."""
    for name in ("orders", "lines"):
        prefix.table(f"shop/{name}", "inserts", ROWS, [("I", order(31))])
    assert "  changes_without_op: insert  # review: CDC files have no Op" in prefix.text()
    for number in range(PATTERN_TABLES):
        prefix.table(f"crm/t{number}", "sequenced", ROWS, CHANGES)
    text = prefix.text()
    assert text.count("source: crm/") == 1
    assert text.count("# review: used and dropped, unless keep_columns names them") == 1


def test_a_column_that_may_be_the_timestamp_column_is_told(prefix):
    """In CSV nothing but its place tells DMS's column from one of the source, so it is kept until it is named."""
    settings = DmsSettings(header=True, timestamp_column="committed")
    prefix.put(load_files(settings, "shop/orders", COLUMNS, [ROWS], at=START))
    prefix.put(cdc_files(settings, "shop/orders", COLUMNS, [Change("U", order(2), START)], at=START))
    assert "# review: if 'committed' is DMS's TimestampColumnName, `timestamp_column: committed`" in prefix.text()


def test_many_tables_of_one_shape_are_one_entry(prefix):
    """Those with another key stand in `primary_keys`."""
    for number in range(PATTERN_TABLES):
        prefix.table(f"crm/t{number}", "parquet_plain", ROWS[:2], [])
    prefix.table("crm/lines", "lines", [{"order_id": n // 3, "line": n % 3, "sku": "x"} for n in range(9)], [], LINES)
    prefix.table("hr/staff", "header", ROWS[:2], [])
    text = prefix.text()
    assert text.count("source:") == 2
    config = prefix.load()
    [pattern] = config.patterns
    assert (pattern.source, pattern.primary_key) == ("crm/*", ("order_id",))
    assert pattern.primary_keys == {"lines": ("order_id", "line")}
    assert [prefix.frame(f"crm/{name}").height for name in ("t0", "lines")] == [2, 9]


@pytest.mark.parametrize("path", ["cdc", "shop/cdc"])
def test_transaction_files_are_recognised(prefix, path):
    """The folder of PreserveTransactions, at either depth, is no table and becomes `cdc_path`."""
    settings = DmsSettings(cdc_path=path)
    prefix.put(load_files(DmsSettings(format="parquet"), "shop/orders", COLUMNS, [ROWS], at=START))
    changes = [("shop/orders", COLUMNS, Change(op, row, START)) for op, row in CHANGES]
    prefix.put([transactions_file(settings, changes, at=START + timedelta(minutes=1))])
    found = prefix.survey()
    assert (found.cdc_paths, [table.source for table in found.tables]) == ((path,), ["shop/orders"])
    assert prefix.load().tables[0].cdc_path == path
    assert dict(prefix.frame("shop/orders").select("order_id", "name").iter_rows()) == RESULT


def test_a_clock_that_is_not_utc_is_noticed(prefix):
    """Names two hours ahead of LastModified: the hint names DatePartitionTimezone."""
    for number in range(4):
        at = START + timedelta(hours=2, minutes=number)
        changes = [Change("I", order(100 + number), at)]
        prefix.put(cdc_files(DmsSettings(format="parquet"), "s/t", COLUMNS, changes, at=at))
    assert prefix.survey().hours_off == 2
    assert "about +2 h from UTC" in prefix.text()
    for number in range(4):
        prefix.table(f"s/copied{number}", "parquet_plain")
    assert prefix.survey().hours_off == 0, "where files disagree, nothing is said"


def test_folders_that_are_not_understood_are_named(prefix):
    """They get no entry, nor do names that no target can have; a file that cannot be read is a doubt."""
    write_file(prefix.raw / "s" / "odd", "part-0001.parquet", b"x")
    prefix.table("s/%20", "parquet_plain")
    prefix.table("s/${HOME}", "parquet_plain")
    write_file(prefix.raw / "s" / "broken", "LOAD00000001.parquet", b"no parquet")
    write_file(prefix.raw / "s" / "empty", "LOAD00000001.csv", b"")
    text = prefix.text()
    assert (
        "# No entry for s/odd: no file there has a name of DMS's (1 file, such as part-0001.parquet); `layout` may"
        in text
    )
    assert "# No entry for s/%20" in text
    assert "# No entry for s/${HOME}" in text
    assert "LOAD00000001.parquet could not be read" in text
    file = prefix.root / "c.yaml"
    file.write_text(text)
    assert [table.source for table in load_config(file, {}).tables] == ["s/broken", "s/empty"]


@pytest.mark.parametrize("above", ["crm", "company/crm"])
def test_a_prefix_that_is_too_high_is_refused(prefix, above):
    """The folders of tables are never taken for parts of one table: the folder above them gets no entry."""
    prefix.table(f"{above}/sales/orders", "dates")
    prefix.table(f"{above}/sales/lines", "parquet_plain")
    with pytest.raises(ValueError, match="give as RAW the folder above <schema>/<table>/"):
        prefix.text()
    prefix.table("hr/staff", "segments")
    prefix.table("hr/archived", "parquet_plain")
    prefix.put(cdc_files(DmsSettings(), "hr/archived/old", COLUMNS, [Change("U", order(2), START)], at=START))
    text = prefix.text()
    assert text.count("source: ") == 2
    folder = "crm/sales" if above == "crm" else "company/crm"
    assert f"# No entry for {folder}: its files lie in folders, such as " in text
    assert "part of this table?" not in text


def test_loads_alone_may_be_of_tables_or_of_parts(prefix):
    """LOAD files in folders, and nothing else, draw a doubt; a control table of DMS's beside them tells."""
    prefix.table("crm/sales/orders", "parquet_plain", ROWS[:1], [])
    text = prefix.text()
    assert "1 LOAD file (parquet), in folders such as orders/; 1 row looked at" in text
    assert (
        "# review: is orders/ a part of this table? Were it a table, RAW would be the folder above its schema" in text
    )
    prefix.table("crm/sales/awsdms_status", "parquet_plain", ROWS[:1], [])
    with pytest.raises(ValueError, match="awsdms_status/LOAD00000001"):
        prefix.text()


def test_names_that_look_like_patterns_are_names(prefix):
    """A folder called `a[1]` gets an entry that names it alone."""
    prefix.table("s/a[1]", "parquet_plain")
    prefix.table("s/a1", "parquet_plain")
    config = prefix.load()
    assert prefix.frame("s/a[1]").height == prefix.frame("s/a1").height == 30
    assert len(config.tables) == 2


def test_the_work_on_a_huge_prefix_is_bounded(prefix, monkeypatch):
    """Per table at most two pages of a listing and the heads of two files are read."""
    for number in range(6):
        prefix.table(f"s/t{number}", "header", changes=())
    for second in range(1_010):
        name = f"20260901-{10 + second // 3600:02}{second // 60 % 60:02}{second % 60:02}000.csv"
        (prefix.raw / "s" / "t0" / name).write_bytes(b"Op,order_id,name,amount,placed_at\nI,99,x,1,\n")
    reads, pages = [], []
    read_range, list_pages = Objects.read_range, Objects.pages
    monkeypatch.setattr(
        Objects, "read_range", lambda self, key, *rest: reads.append(rest) or read_range(self, key, *rest)
    )

    def counted(self, prefix="", start_after=""):
        for page in list_pages(self, prefix, start_after):
            pages.append(prefix)
            yield page

    monkeypatch.setattr(Objects, "pages", counted)
    found = prefix.survey()
    assert len(found.tables) == 6
    assert len(pages) == 7
    assert len(reads) == 7
    seen = next(table.seen for table in found.tables if table.source == "s/t0")
    assert seen.startswith("more than 2 LOAD and 1,000 CDC files")
