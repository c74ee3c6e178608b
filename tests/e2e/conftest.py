"""The command as a subprocess: real files in, real readers out, in a folder or on S3 and DynamoDB.

S3 and DynamoDB are moto, or Ceph and dynalite where `python -m tests.services` (`make test-services`) runs the tests.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from deltalake import DeltaTable, QueryBuilder
from duckdb_extensions import import_extension
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.serving import make_server

import cdcloader
from cdcloader.demo.dms_writer import Change, DmsSettings, cdc_name, load_name, render_cdc, render_load, write_file
from cdcloader.demo.proof import compare
from cdcloader.demo.sampledb import SCHEMA, TABLES, SampleDatabase
from tests.services.proxy import FaultProxy
from tests.services.servers import Servers, running

REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
SETTINGS = {
    "product": DmsSettings(
        format="parquet", include_op_for_full_load=True, timestamp_column="ts", parquet_timestamp_in_millisecond=True
    ),
    "store": DmsSettings(header=True),
    "productorder": DmsSettings(header=True, gzip=True),
}
ALL_TABLES = tuple(table.name for table in TABLES)
READERS = ("DuckDB", "Polars", "delta-rs")
_numbers = itertools.count(1)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    """The first true value of `condition`; AssertionError when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"in {seconds:g} s it never came to this: {what}"
        time.sleep(0.1)
    return value


@dataclass(frozen=True)
class Request:
    """One request that the servers were sent; `operation` is DynamoDB's."""

    method: str
    path: str
    query: str
    operation: str

    @property
    def lists(self) -> bool:
        return self.method == "GET" and "list-type=2" in self.query


@dataclass
class Aws:
    """S3 and DynamoDB at one address, behind a door that notes every request, and that can be held shut."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    _clients: dict[str, Any] = field(default_factory=dict)
    _held: Callable[[Request], bool] | None = None
    _reached: threading.Event = field(default_factory=threading.Event)
    _opened: threading.Event = field(default_factory=threading.Event)

    def client(self, service: str) -> Any:
        """A client; one per service, because making one takes longer than most calls."""
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                endpoint_url=self.url,
                region_name=REGION,
                aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            )
        return self._clients[service]

    @contextmanager
    def holding(self, held: Callable[[Request], bool]) -> Iterator[threading.Event]:
        """Requests of a kind wait until the block ends; the event says that one has come."""
        self._reached.clear()
        self._opened.clear()
        self._held = held
        try:
            yield self._reached
        finally:
            self._held = None
            self._opened.set()

    def door(self, app: Callable[..., Any]) -> Callable[..., Any]:
        def answer(environ: Mapping[str, str], start_response: Any) -> Any:
            request = Request(
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                environ.get("QUERY_STRING", ""),
                environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2],
            )
            self.passes(request)
            return app(environ, start_response)

        return answer

    def passes(self, request: Request) -> None:
        """Note a request, and let it through as soon as it may."""
        self.requests.append(request)
        held = self._held
        if held is not None and held(request):
            self._reached.set()
            self._opened.wait(60)


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    """The session fails unless the server refuses to create an object twice, which every commit rests on."""
    servers = running()
    with _real(servers) if servers else _moto() as aws:
        s3, bucket = aws.client("s3"), f"proof-{secrets.token_hex(4)}"
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=bucket, Key="once", Body=b"1", IfNoneMatch="*")
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket=bucket, Key="once", Body=b"2", IfNoneMatch="*")
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
        yield aws


@contextmanager
def _real(servers: Servers) -> Iterator[Aws]:
    """Ceph and dynalite; a proxy gives them the one address and the door."""
    aws = Aws()
    with FaultProxy("127.0.0.1", servers.ceph.port, dynamodb=("127.0.0.1", servers.dynalite.port)) as proxy:
        aws.url = proxy.url
        proxy.on_request = lambda sent: aws.passes(Request(sent.method, sent.path, sent.query, sent.operation))
        yield aws


@contextmanager
def _moto() -> Iterator[Aws]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    aws = Aws()
    app = aws.door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    aws.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield aws
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The tables of `--json` by source."""
        return {table["source"]: table for table in self.json["tables"]}

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log lines."""
        return log_lines(self.stderr)

    def accounts(self, table: str) -> list[dict[str, int]]:
        """The rows of each commit of a table, by kind, as the log tells them; `in` is what was read."""
        return [
            {name.removeprefix("rows_"): count for name, count in event.items() if name.startswith("rows_")}
            for event in self.events
            if event["event"] in ("full load applied", "batch applied") and event["table"] == table
        ]


def log_lines(text: str) -> list[dict[str, Any]]:
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


class Cli:
    """The command as its user has it: the console script where it is installed, else the module."""

    def __init__(self, home: Path, aws: Aws | None = None) -> None:
        script = Path(sys.executable).with_name("cdcloader")
        self._home = home
        self._words = [str(script)] if script.exists() else [sys.executable, "-m", "cdcloader"]
        # Nothing of this machine's settings; and not UTC, which a loader of UTC times must not mind.
        self._environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TZ": "America/St_Johns", "NO_PROXY": "*"}
        if not script.exists():
            self._environ["PYTHONPATH"] = str(Path(cdcloader.__file__).parents[1])
        if aws is not None:
            self._environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL": aws.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def __call__(self, *arguments: object, under: Sequence[str] = (), **environ: str) -> Done:
        """Run a command to its end, under another one if so; `environ` is added to its environment."""
        done = subprocess.run(
            [*under, *self._words, *map(str, arguments)],
            env=self._environ | environ,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: object) -> Process:
        """Start a command that goes on."""
        log = self._home / f"process-{next(_numbers)}.log"
        with log.open("wb") as stream:
            running = subprocess.Popen(
                [*self._words, *map(str, arguments)],
                env=self._environ,
                cwd=self._home,
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
        return Process(running, log)


@dataclass
class Process:
    """A command that runs; the daemon's pages are asked by path."""

    running: subprocess.Popen[bytes]
    log: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        return log_lines(self.log.read_text())

    def logged(self, start: str) -> dict[str, Any] | None:
        """The first log line that begins so, once it is there; the process must not end before."""
        found = next((event for event in self.events if event["event"].startswith(start)), None)
        assert found or self.running.poll() is None, f"it ended early:\n{self.log.read_text()}"
        return found

    def get(self, path: str) -> tuple[int, str]:
        """(status code, text) of a page; 0 while nobody listens."""
        port = wait_until(lambda: self.logged("serving "), "the daemon listens")["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()
        except urllib.error.URLError:
            return 0, ""

    def status(self) -> dict[str, dict[str, Any]]:
        """/status by source."""
        return {table["source"]: table for table in json.loads(self.get("/status")[1])["tables"]}

    def metrics(self) -> dict[tuple[str, str], float]:
        """(name, the label values in order of the labels' names) -> value."""
        return {
            (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal; the exit code."""
        self.running.send_signal(number)
        return self.running.wait(seconds)


class Site:
    """Where one loader works: raw, lake, state and the config, on this machine or on AWS."""

    def __init__(self, folder: Path, aws: Aws | None) -> None:
        self.folder = folder
        self.aws = aws
        self.cli = Cli(folder, aws)
        self.config = folder / "cdcloader.yaml"
        # Servers that keep their data see more than one session.
        self.name = f"site-{next(_numbers)}-{secrets.token_hex(3)}"
        self.options: dict[str, str] | None = None
        if aws is None:
            self.raw, self.lake = str(folder / "raw"), str(folder / "lake")
            self.state: dict[str, str] = {"kind": "sqlite", "path": str(folder / "state.db")}
            (folder / "raw").mkdir()
            return
        self.raw, self.lake = f"s3://{self.name}/data/raw", f"s3://{self.name}/data/curated"
        self.state = {"kind": "dynamodb", "table": f"{self.name}-state"}
        self.options = {**CREDENTIALS, "AWS_ENDPOINT_URL": aws.url, "AWS_ALLOW_HTTP": "true"}
        aws.client("s3").create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": REGION})

    def configure(self, tables: Sequence[Mapping[str, Any]], **settings: Any) -> None:
        """Write the config (JSON is YAML): quick to poll, and LOAD files count as complete at once."""
        config = {
            "raw": self.raw,
            "lake": self.lake,
            "state": self.state,
            "poll_interval_seconds": 0.3,
            "http": {"host": "127.0.0.1", "port": 0},
            "full_load": {"quiet_seconds": 0},
            "tables": list(tables),
        }
        self.config.write_text(json.dumps(config | settings, indent=1))

    def put(self, key: str, content: bytes) -> None:
        """Put a raw file, as DMS does: whole, or not there."""
        if self.aws is None:
            folder, _, name = key.rpartition("/")
            write_file(Path(self.raw) / folder, name, content)
        else:
            self.aws.client("s3").put_object(Bucket=self.name, Key=f"data/raw/{key}", Body=content)

    def of_the_probe(self, request: Request) -> bool:
        """Whether a request is one of the three that show at the start that an object is created only once."""
        deletes = request.method == "POST" and request.query.removesuffix("=") == "delete"
        return deletes or "/_cdcloader/probe-" in request.path

    def run_once(self, *arguments: str) -> Done:
        return self.cli("run", "--once", "--json", "--config", self.config, *arguments)

    def daemon(self) -> Process:
        return self.cli.start("run", "--config", self.config)

    def versions(self, target: str) -> list[int]:
        """The versions in the target's Delta log."""
        if self.aws is None:
            names = [path.name for path in Path(self.lake, target, "_delta_log").glob("*.json")]
        else:
            prefix = f"data/curated/{target}/_delta_log/"
            names = [item["Key"].rpartition("/")[2] for item in self._objects(prefix)]
        return sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name))

    def readers(self, target: str) -> dict[str, Callable[[], pl.DataFrame]]:
        """Three independent readers of a target."""
        place = f"{self.lake}/{target}"
        return {
            "DuckDB": lambda: _read_with_duckdb(self._local_copy(target)),
            "Polars": lambda: pl.read_delta(place, storage_options=self.options),
            "delta-rs": lambda: _read_with_delta_rs(place, self.options),
        }

    def quarantined(self, target: str) -> pl.DataFrame:
        """The rows in the target's quarantine, of a local lake."""
        files = sorted(Path(self.lake, "_quarantine", target).glob("*.parquet"))
        return pl.concat([pl.read_parquet(file) for file in files]).sort("file", "row")

    def _local_copy(self, target: str) -> Path:
        """The target's files in a folder, because DuckDB's S3 reader is another extension."""
        if self.aws is None:
            return Path(self.lake, target)
        copy = self.folder / f"copy-{next(_numbers)}"
        prefix, s3 = f"data/curated/{target}/", self.aws.client("s3")
        for item in self._objects(prefix):
            file = copy / item["Key"].removeprefix(prefix)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(s3.get_object(Bucket=self.name, Key=item["Key"])["Body"].read())
        return copy

    def _objects(self, prefix: str) -> list[dict[str, Any]]:
        assert self.aws is not None
        pages = self.aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", ())]


@functools.cache
def _install_delta_extension() -> None:
    import_extension("delta")


def _read_with_duckdb(folder: Path) -> pl.DataFrame:
    _install_delta_extension()
    path = str(folder).replace("'", "''")
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("LOAD delta; SET TimeZone = 'UTC'")
        return connection.execute(f"SELECT * FROM delta_scan('{path}')").pl()


def _read_with_delta_rs(place: str, options: dict[str, str] | None) -> pl.DataFrame:
    table = DeltaTable(place, storage_options=options)
    data = pl.from_arrow(pa.table(QueryBuilder().register("target", table).execute("SELECT * FROM target")))
    assert isinstance(data, pl.DataFrame)
    return data


class Dms:
    """DMS and its source database: what it writes goes to a site's raw prefix; the model is the truth."""

    def __init__(self, site: Site, *, scale: float = 0.005, partition_by: Sequence[str] = ("order_date",)) -> None:
        self._site = site
        self._partition_by = tuple(partition_by)
        self._database = SampleDatabase(scale=scale, start=datetime.now(UTC))
        self._last_time = datetime.min.replace(tzinfo=UTC)

    @property
    def config(self) -> list[dict[str, Any]]:
        """The tables of the config."""
        tables = []
        for table in TABLES:
            settings = SETTINGS[table.name]
            one: dict[str, Any] = {"source": f"{SCHEMA}/{table.name}", "primary_key": table.primary_key}
            if table.partition_by:
                one["partition_by"] = self._partition_by
            if settings.timestamp_column:
                one["timestamp_column"] = settings.timestamp_column
            if settings.format == "csv":
                one["columns"] = dict(table.columns)
            tables.append(one)
        return tables

    def full_load(self) -> None:
        """Two LOAD files of every table."""
        for table in TABLES:
            rows, settings = self._database.full_load(table.name), SETTINGS[table.name]
            for number, piece in enumerate(_halves(rows), start=1):
                name = load_name(number, settings)
                self._site.put(f"{SCHEMA}/{table.name}/{name}", render_load(settings, table.columns, piece))

    def change(self, transactions: int = 40, tables: Sequence[str] = ALL_TABLES) -> dict[str, list[str]]:
        """Two CDC files of each of these tables with the changes of further transactions; their names by table."""
        changes = self._database.next_transactions(transactions)
        return {table: [self._put_changes(table, piece) for piece in _halves(changes[table])] for table in tables}

    def next_name(self, table: str) -> str:
        """The name of the next CDC file of a table; no millisecond comes twice."""
        self._last_time = max(datetime.now(UTC), self._last_time + timedelta(milliseconds=1))
        return cdc_name(self._last_time, SETTINGS[table])

    def check_all(self) -> None:
        """Every reader sees the model."""
        self.check(readers=READERS)

    def check(self, tables: Sequence[str] = ALL_TABLES, readers: Sequence[str] = ("Polars",)) -> None:
        """The readers see the model."""
        for table in (table for table in TABLES if table.name in tables):
            expected = self._database.current(table.name)
            for reader in readers:
                read = self._site.readers(f"{SCHEMA}/{table.name}")[reader]
                difference = compare(expected, read(), table.primary_key, table.columns)
                assert difference.equal, f"{table.name}, as {reader} sees it: {difference}"

    def render(self, table: str, changes: Sequence[Change]) -> bytes:
        """A CDC file's content."""
        columns = next(each.columns for each in TABLES if each.name == table)
        return render_cdc(SETTINGS[table], columns, changes)

    def pending(self, transactions: int = 40) -> dict[str, list[Change]]:
        """The changes of further transactions, which the caller writes."""
        return self._database.next_transactions(transactions)

    def _put_changes(self, table: str, changes: Sequence[Change]) -> str:
        name = self.next_name(table)
        self._site.put(f"{SCHEMA}/{table}/{name}", self.render(table, changes))
        return name


def _halves(items: Sequence[Any]) -> list[Sequence[Any]]:
    middle = (len(items) + 1) // 2
    return [piece for piece in (items[:middle], items[middle:]) if piece]


@pytest.fixture(scope="module")
def make_site(tmp_path_factory, request) -> Callable[[str], Site]:
    """A new site of a kind: "local" (SQLite state), or "s3" (DynamoDB state)."""

    def make(kind: str) -> Site:
        return Site(tmp_path_factory.mktemp(kind), request.getfixturevalue("aws") if kind == "s3" else None)

    return make


@pytest.fixture
def started() -> Iterator[Callable[[Process], Process]]:
    """Notes a process, so that no test leaves one behind."""
    processes: list[Process] = []

    def note(process: Process) -> Process:
        processes.append(process)
        return process

    yield note
    for process in processes:
        if process.running.poll() is None:
            process.running.kill()
            process.running.wait()


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def dms() -> type[Dms]:
    return Dms


@pytest.fixture(scope="session")
def parquet() -> Callable[[Mapping[str, Sequence[Any]]], bytes]:
    """Columns as the bytes of a Parquet file."""

    def render(columns: Mapping[str, Sequence[Any]]) -> bytes:
        buffer = io.BytesIO()
        pl.DataFrame(columns).write_parquet(buffer)
        return buffer.getvalue()

    return render
