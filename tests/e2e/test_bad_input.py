"""Bad files, bad rows and bad configs: what is wrong is said, the rest goes on, and a mended file is taken up.

All bad tables stand in one config beside a good one, so that two runs of the command show every case.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

COLUMNS = {"id": "long", "name": "string", "amount": "decimal(10,2)"}
LOAD = b"id,name,amount\n1,one,1.00\n2,two,2.00\n"
GOOD = b"Op,id,name,amount\nU,1,uno,1.10\nI,3,three,3.00\n"
FIRST, SECOND = "20260901-080000000", "20260901-080100000"
LOADED = {1: "one", 2: "two"}
AFTER_GOOD = {1: "uno", 2: "two", 3: "three"}
MENDED = b"Op,id,name,amount\nU,2,zwei,2.20\nI,4,four,4.00\nD,3,,\n"
AFTER_MENDED = {1: "uno", 2: "zwei", 4: "four"}
# Root reads what it may not, unless it gives that privilege up.
LIKE_A_USER = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@dataclass(frozen=True)
class Case:
    """A table with one bad file, the last of its files.

    `says` must all stand in the error, or in the reason of the quarantined row; `rows` is id -> name after the run
    with the bad file, None where there is no table.
    """

    file: str
    bad: bytes
    mended: bytes
    says: tuple[str, ...]
    rows: tuple[dict[int, str] | None, ...]
    row: int = 0
    """The number of the quarantined row; 0 where the file blocks the table."""
    raw: str = ""
    keyless: bool = False


def blocking(file: str, bad: bytes, mended: bytes, *says: str) -> Case:
    return Case(file, bad, mended, says, (AFTER_GOOD,))


def misfit(bad_row: bytes, *says: str, raw: str = "") -> Case:
    """A good row, a row that cannot be applied, and another good one."""
    bad = b"Op,id,name,amount\nU,2,zwei,2.20\n" + bad_row + b"\nD,3,,\n"
    return Case(f"{SECOND}.csv", bad, MENDED, says, ({1: "uno", 2: "zwei"},), row=2, raw=raw or bad_row.decode())


def make_cases(parquet) -> dict[str, Case]:
    good_parquet = parquet(
        {
            "Op": ["U", "I", "D"],
            "id": [2, 4, 3],
            "name": ["zwei", "four", None],
            "amount": pl.Series(["2.20", "4.00", None]).cast(pl.Decimal(10, 2)),
        }
    )
    keyless = parquet({"Op": ["U"], "name": ["zwei"]})
    wide_rows = b"Op,id,name,amount\nU,2,zwei,2.20,1\nI,4,four,4.00,1\n"
    return {
        "truncated_parquet": blocking(f"{SECOND}.parquet", good_parquet[:-20], good_parquet, "truncated or damaged"),
        "garbage_parquet": blocking(f"{SECOND}.parquet", b"no Parquet at all", good_parquet, "truncated or damaged"),
        "truncated_gzip": blocking(f"{SECOND}.csv.gz", zipped(MENDED)[:-12], zipped(MENDED), "truncated or not gzip"),
        "not_gzip": blocking(f"{SECOND}.csv.gz", MENDED, zipped(MENDED), "truncated or not gzip"),
        "csv_without_key": blocking(f"{SECOND}.csv", b"Op,name\nU,zwei\n", MENDED, "id"),
        "parquet_without_key": blocking(f"{SECOND}.parquet", keyless, good_parquet, "id"),
        "other_columns": blocking(f"{SECOND}.csv", wide_rows, MENDED, "4", "5", "fields"),
        "utf16": blocking(f"{SECOND}.csv", MENDED.decode().encode("utf-16"), MENDED, "UTF-16"),
        "truncated_load": Case(
            "LOAD00000002.csv.gz",
            zipped(LOAD.replace(b"1,one", b"8,acht").replace(b"2,two", b"9,neun"))[:-12],
            zipped(b"id,name,amount\n8,acht,8.00\n"),
            ("truncated or not gzip",),
            (None,),
        ),
        "too_many_fields": misfit(b"I,4,four,4.00,more", "expected 4 fields, got 5"),
        "too_few_fields": misfit(b"I,4", "expected 4 fields, got 2"),
        "no_number": misfit(b"I,4,four,much", "column 'amount': 'much' is not a decimal(10,2)"),
        "null_key": misfit(b"I,,four,4.00", "NULL in key column 'id'"),
        "bad_op": misfit(b"X,4,four,4.00", "Op 'X' is none of I, U, D"),
        "not_utf8": misfit(b"I,4,f\xfcnf,4.00", "UTF-8", raw="I,4,f\\xfcnf,4.00"),
        "keyless": Case(
            f"{SECOND}.csv",
            b"Op,id,name,amount\nI,4,four,4.00\nU,2,zwei,2.20\nI,5,five,5.00\n",
            b"",
            ("U needs a primary key; the table has none",),
            ({**LOADED, 3: "three", 4: "four", 5: "five"},),
            row=2,
            raw="U,2,zwei,2.20",
            keyless=True,
        ),
    }


NAMES = tuple(make_cases(lambda _columns: b""))
BLOCKED = tuple(name for name, case in make_cases(lambda _columns: b"").items() if not case.row)
QUARANTINED = tuple(name for name in NAMES if name not in BLOCKED)
MENDABLE = tuple(name for name in NAMES if name != "keyless")


class Bench:
    """One run with every bad file, and a second one after all of them were mended."""

    def __init__(self, site, cases):
        self.site = site
        self.cases = cases
        tables = [{"source": f"bad/{name}", "primary_key": None if c.keyless else ["id"]} for name, c in cases.items()]
        tables += [{"source": f"good/{name}", "primary_key": ["id"]} for name in ("one", "absent", "empty")]
        site.configure([{**table, "columns": COLUMNS} for table in tables], http=None)
        for name, case in cases.items():
            self._put_good(f"bad/{name}", b"Op,id,name,amount\nI,3,three,3.00\n" if case.keyless else GOOD)
            site.put(f"bad/{name}/{case.file}", case.bad)
        self._put_good("good/one", GOOD)
        self._put_good("good/empty", GOOD)
        site.put(f"good/empty/{SECOND}.csv", b"")
        site.put("good/empty/20260901-080200000.csv", b"Op,id,name,amount\n")
        site.put("good/empty/20260901-080300000.csv", b"Op,id,name,amount\nI,4,four,4.00\n")
        self.first = site.run_once()
        for name, case in cases.items():
            if not case.keyless:
                site.put(f"bad/{name}/{case.file}", case.mended)
        self._put_good("good/absent", GOOD)
        self.quarantine = {name: site.quarantined(f"bad/{name}") for name, case in cases.items() if case.row}
        self.rows_before = {name: self.rows(f"bad/{name}") for name in cases}
        self.rows_before["empty"] = self.rows("good/empty")
        self.second = site.run_once()

    def _put_good(self, source, content):
        self.site.put(f"{source}/LOAD00000001.csv", LOAD)
        self.site.put(f"{source}/{FIRST}.csv", content)

    def rows(self, target):
        """id -> name of the target, each id once; None when there is no table."""
        if not Path(self.site.lake, target, "_delta_log").exists():
            return None
        rows = self.site.readers(target)["delta-rs"]()
        assert rows["id"].is_unique().all()
        return dict(zip(rows["id"], rows["name"], strict=True))


@pytest.fixture(scope="module")
def bench(make_site, parquet):
    return Bench(make_site("local"), make_cases(parquet))


@pytest.mark.parametrize("name", BLOCKED)
def test_a_file_that_cannot_be_read_blocks_its_table_alone(bench, name):
    """The error names fault, file and remedy, and nothing of the file is applied."""
    case, table = bench.cases[name], bench.first.tables[f"bad/{name}"]
    assert (table["outcome"], table["phase"], table["rows_quarantined"]) == ("blocked", "blocked", 0)
    assert f"bad/{name}/{case.file}: " in table["error"]
    for text in case.says:
        assert text in table["error"]
    assert table["error"].endswith(")"), "there is a hint"
    assert table["lag_seconds"] > 0
    assert bench.rows_before[name] in case.rows
    blocked = [event for event in bench.first.events if event.get("table") == f"bad/{name}" and event.get("error")]
    assert [event["event"] for event in blocked] == ["table is blocked"]
    assert all("exception" not in event for event in bench.first.events)


@pytest.mark.parametrize("name", QUARANTINED)
def test_a_row_that_cannot_be_applied_goes_to_quarantine(bench, name):
    """The rows around it are applied; it is kept with file, number, reason and text, and the run exits with 1."""
    case, table = bench.cases[name], bench.first.tables[f"bad/{name}"]
    assert (table["outcome"], table["phase"], table["error"]) == ("idle", "streaming", None)
    assert table["rows_quarantined"] == 1
    row = bench.quarantine[name].row(0, named=True)
    assert bench.quarantine[name].height == 1
    assert row["file"].endswith(f"bad/{name}/{case.file}")
    assert (row["row"], row["raw"]) == (case.row, case.raw)
    for text in case.says:
        assert text in row["reason"]
    assert bench.rows_before[name] in case.rows


@pytest.mark.parametrize("name", MENDABLE)
def test_a_mended_file_is_taken_up(bench, name):
    """The same name with good content: the next run applies it, and the trouble is forgotten."""
    table = bench.second.tables[f"bad/{name}"]
    assert (table["outcome"], table["phase"], table["error"]) == ("idle", "streaming", None)
    expected = {1: "uno", 2: "two", 3: "three", 8: "acht"} if name == "truncated_load" else AFTER_MENDED
    assert bench.rows(f"bad/{name}") == expected


def test_every_row_is_accounted_for(bench):
    """In every commit of both runs, rows in = inserted + updated + deleted + noop + superseded + quarantined."""
    for done in (bench.first, bench.second):
        for source in done.tables:
            for account in done.accounts(source):
                assert account["in"] == sum(count for kind, count in account.items() if kind != "in"), (source, account)


def test_other_tables_go_on(bench):
    """A table beside all the trouble is loaded by the same run, which exits with 1."""
    assert bench.first.code == 1
    good = bench.first.tables["good/one"]
    assert (good["outcome"], good["error"], good["lag_seconds"]) == ("idle", None, 0)
    assert bench.rows("good/one") == AFTER_GOOD


def test_empty_files_are_files(bench):
    """A file without a byte and one with a header alone hold no rows; those around them are applied."""
    empty = bench.first.tables["good/empty"]
    assert (empty["outcome"], empty["error"], empty["backlog_files"]) == ("idle", None, 0)
    assert bench.rows_before["empty"] == {**AFTER_GOOD, 4: "four"}


def test_a_source_without_files_is_told(bench):
    """A prefix that does not exist blocks its table with the path and a hint; when DMS writes it, it is loaded."""
    absent = bench.first.tables["good/absent"]
    assert absent["outcome"] == "blocked"
    assert f"{bench.site.raw}/good/absent: there are no files" in absent["error"]
    assert "check `raw` and `source`" in absent["error"]
    assert bench.second.tables["good/absent"]["outcome"] == "idle"
    assert bench.rows("good/absent") == AFTER_GOOD


def test_a_run_that_finds_all_well_exits_with_0(bench):
    """After everything was mended, exit code 0: what was quarantined before is no news."""
    assert bench.second.code == 0, bench.second.stdout


def test_every_fault_of_a_config_is_named_at_once(make_site):
    """Unknown keys and bad values: exit code 2, one line each on stderr, nothing on stdout."""
    site = make_site("local")
    site.configure(
        [{"source": "sales/orders", "primary_kee": ["id"]}, {"source": "sales/lines", "primary_key": ["id"]}],
        pol_interval_seconds=5,
        max_parallel_tables=0,
    )
    done = site.run_once()
    assert (done.code, done.stdout) == (2, "")
    assert str(site.config) in done.stderr
    for fault in (
        "tables[0].primary_kee: there is no such key; did you mean 'primary_key'?",
        "tables[0].primary_key: is missing",
        "pol_interval_seconds: there is no such key; did you mean 'poll_interval_seconds'?",
        "max_parallel_tables: should be at least 1",
    ):
        assert done.stderr.count(fault) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_raw_folder_that_is_not_there_ends_the_run(make_site):
    """Exit code 2 and the folder's name; no lake is made for it."""
    site = make_site("local")
    site.raw = str(site.folder / "no-such-folder")
    site.configure([{"source": "sales/orders", "primary_key": ["id"]}])
    done = site.run_once()
    assert (done.code, done.stdout) == (2, "")
    assert site.raw in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(site.lake).exists()


@pytest.mark.skipif(bool(LIKE_A_USER) and not shutil.which("setpriv"), reason="root may read every folder")
def test_a_folder_that_may_not_be_read_blocks_its_table(make_site):
    """No permission on one source: that table is blocked and says so, the other one is loaded."""
    site = make_site("local")
    site.configure([{"source": f"sales/{name}", "primary_key": ["id"]} for name in ("closed", "open")])
    for name in ("closed", "open"):
        site.put(f"sales/{name}/LOAD00000001.csv", LOAD)
    closed = Path(site.raw, "sales", "closed")
    closed.chmod(0)
    try:
        done = site.cli("run", "--once", "--json", "--config", site.config, under=LIKE_A_USER)
    finally:
        closed.chmod(0o755)
    assert done.code == 1
    assert done.tables["sales/closed"]["outcome"] == "blocked"
    assert str(closed) in done.tables["sales/closed"]["error"]
    assert done.tables["sales/open"]["outcome"] == "idle"


def test_a_damaged_state_file_ends_the_run(make_site):
    """A SQLite file that is none: exit code 2, and the file is named."""
    site = make_site("local")
    site.configure([{"source": "sales/orders", "primary_key": ["id"]}])
    Path(json.loads(site.config.read_text())["state"]["path"]).write_bytes(b"this is no database" * 100)
    done = site.run_once()
    assert (done.code, done.stdout) == (2, "")
    assert "state.db" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_load_without_a_row_says_what_is_missing(make_site):
    """An empty LOAD file tells no columns: the table waits, the message says for what, and `columns` helps."""
    site = make_site("local")
    site.put("s/t/LOAD00000001.csv", b"")
    for columns, code in (({}, 1), ({"id": "long"}, 0)):
        site.configure([{"source": "s/t", "primary_key": None, "columns": columns}])
        done = site.run_once()
        assert done.code == code, done.stderr
        assert ("nothing tells the columns" in done.stderr) is (code == 1)
