"""What every root of objects promises: one suite for a local folder and for S3."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from moto.server import ThreadedMotoServer

from cdcloader.errors import ConfigError, TableError, TransientError
from cdcloader.objects import ObjectExists, ObjectMissing, Objects
from tests.services.proxy import ERROR, FAILED, LOST, RESET, SLOW_DOWN, UNCONDITIONAL, FaultProxy, Rule
from tests.services.servers import running

BUCKET = "raw-data"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-west-1"}


@pytest.fixture(scope="module")
def moto_url():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3_url(request):
    """Ceph where it runs, else moto."""
    servers = running()
    return servers.ceph.url if servers else request.getfixturevalue("moto_url")


@pytest.fixture
def aws(monkeypatch):
    """A process whose only AWS settings are the ones that the test gives."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    return monkeypatch


@pytest.fixture
def bucket(s3_url, aws):
    """An empty bucket, and the boto3 resource that sees what is really in it."""
    aws.setenv("AWS_ENDPOINT_URL", s3_url)
    place = boto3.resource("s3", region_name="eu-west-1").Bucket(BUCKET)
    place.create(CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield place
    place.objects.delete()
    place.delete()


@pytest.fixture
def s3(bucket):
    return Objects.open(f"s3://{BUCKET}/dms data/raw/")


@pytest.fixture
def local(tmp_path):
    return Objects.open(str(tmp_path / "dms data" / "raw"), create=True)


@pytest.fixture(params=["local", "s3"])
def objects(request):
    return request.getfixturevalue(request.param)


def keys(infos):
    return [info.key for info in infos]


# ---- both -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"one", bytes(range(256)) * 4])
def test_what_is_written_is_read(objects, data):
    """An object comes back byte for byte, and a second write replaces it."""
    objects.write("sales/orders/x.csv", b"old")
    objects.write("sales/orders/x.csv", memoryview(data))
    assert objects.read("sales/orders/x.csv") == data


def test_large_objects_are_written_in_parts(objects):
    """An object of several parts comes back whole, and is one object."""
    data = os.urandom(1 << 20) * 40
    objects.write("big.bin", data)
    assert objects.read("big.bin") == data
    assert [(info.key, info.size) for info in objects.list()] == [("big.bin", len(data))]


@pytest.mark.parametrize(
    "key",
    ["a b/é ü.csv", "p=1%2F2/x.csv", "%20.csv", "a+b&c=d?.csv", "it's(1)!*~@$,;.csv", "deep/er/and/deeper", "x#1.csv"],
)
def test_any_name_that_dms_gives(objects, key):
    """Table names hold any character: a key is read, listed, opened and deleted as it was written."""
    objects.write(key, b"data")
    assert keys(objects.list()) == [key]
    assert objects.read(key) == objects.open_reader(key).read() == b"data"
    objects.delete([key])
    assert objects.list() == []


def test_listing_describes_each_object(objects):
    """A listed object has its size, an ETag without quotes that changes with it, and its time in UTC."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    objects.write("t/x", b"12345")
    (info,) = objects.list("t")
    assert (info.key, info.size) == ("t/x", 5)
    assert info.etag
    assert '"' not in info.etag
    assert info.last_modified.tzinfo is not None
    assert before <= info.last_modified <= datetime.now(UTC) + timedelta(seconds=2)
    assert objects.list("t")[0].etag == info.etag
    objects.write("t/x", b"123456")
    assert objects.list("t")[0].etag != info.etag


def test_listing_is_in_byte_order_and_recursive(objects):
    """Keys come in the order of their bytes, from the folder and all below it, and from no other folder."""
    names = ["20190118-1.csv", "LOAD1.csv", "Z", "a", "sub/x", "é", "\U0001f600", "～"]
    for name in names:
        objects.write(f"s/t/{name}", b"")
    objects.write("s/t2/x", b"")
    objects.write("s/tx", b"")
    expected = sorted((f"s/t/{name}" for name in names), key=str.encode)
    assert keys(objects.list("s/t")) == keys(objects.list("s/t/")) == expected
    assert len(objects.list()) == len(names) + 2
    assert objects.list("s/t/none") == objects.list("nowhere") == []


def test_listing_starts_after_a_key(objects):
    """start_after is excluded, need not exist, and leaves out only what sorts before it."""
    for name in ("1", "2", "3", "L"):
        objects.write(f"t/{name}", b"")
    assert keys(objects.list("t", start_after="t/2")) == ["t/3", "t/L"]
    assert keys(objects.list("t", start_after="t/1x")) == ["t/2", "t/3", "t/L"]
    assert keys(objects.list("t", start_after="t/")) == ["t/1", "t/2", "t/3", "t/L"]
    assert keys(objects.list("t", start_after="z")) == []


def test_pages_are_the_listing_in_pieces(objects, monkeypatch):
    """Page after page gives what one listing gives, from any key on, and objects may be deleted meanwhile."""
    monkeypatch.setattr("cdcloader.objects.store._PAGE_OBJECTS", 3)
    for number in range(10):
        objects.write(f"t/p={number % 3}/{number}.bin", b"x" * number)
    listed = objects.list("t")
    assert [info for page in objects.pages("t") for info in page] == listed
    assert [info for page in objects.pages("t", listed[4].key) for info in page] == listed[5:]
    assert max(len(page) for page in objects.pages("t")) == 3
    seen = []
    for page in objects.pages("t"):
        seen += page
        objects.delete(info.key for info in page)
    assert (seen, objects.list("t"), [*objects.pages("t")]) == (listed, [], [])


def test_folders_of_one_level(objects):
    """Folders are named without their parents, in order, and files are not among them."""
    for key in ("b/t 1/x", "a/t2/y/z", "a/t1/x", "a/file", "file"):
        objects.write(key, b"")
    assert objects.folders() == ["a", "b"]
    assert objects.folders("a") == objects.folders("a/") == ["t1", "t2"]
    assert objects.folders("b") == ["t 1"]
    assert objects.folders("nowhere") == []


def test_ranges(objects):
    """A range holds the bytes that the object has there, and none behind its end."""
    objects.write("x", b"0123456789")
    assert objects.read_range("x", 2, 3) == b"234"
    assert objects.read_range("x", 8, 100) == b"89"
    assert objects.read_range("x", 10, 1) == objects.read_range("x", 99, 1) == objects.read_range("x", 3, 0) == b""
    with pytest.raises(ObjectMissing):
        objects.read_range("y", 0, 1)


def test_create_only_if_absent(objects):
    """create fails on a taken key, leaves the object as it was, and names it."""
    objects.create("log/1.json", b"first")
    with pytest.raises(ObjectExists) as raised:
        objects.create("log/1.json", b"second")
    assert raised.value.where == objects.path_of("log/1.json")
    assert objects.read("log/1.json") == b"first"


def test_of_many_creators_one_wins(objects):
    """Of threads that create the same key at once exactly one succeeds, and its bytes are there."""

    def create(number):
        try:
            objects.create("log/2.json", b"%d" % number)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(create, range(24)) if number is not None]
    assert objects.read("log/2.json") == b"%d" % winner


def test_delete_forgives_missing_keys(objects):
    """All named objects are gone afterwards, those that were not there included; others stay."""
    for name in "abc":
        objects.write(f"t/{name}", b"")
    objects.delete(f"t/{name}" for name in "axbb")
    assert keys(objects.list()) == ["t/c"]
    objects.delete([])


def test_missing_object_is_named(objects):
    """Reading what is not there says so, with its full place."""
    for call in (objects.read, objects.open_reader):
        with pytest.raises(ObjectMissing) as raised:
            call("t/none.csv")
        assert raised.value.where == objects.path_of("t/none.csv")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\\b", "a\nb", "a\0b"])
def test_bad_keys_are_refused(objects, key):
    """A key cannot leave the root, whatever is asked with it."""
    for call in (
        objects.read,
        objects.open_reader,
        lambda bad: objects.write(bad, b""),
        lambda bad: objects.delete([bad]),
    ):
        with pytest.raises(TableError, match="refused"):
            call(key)
    with pytest.raises(TableError, match="refused"):
        objects.create(key, b"")


@pytest.mark.parametrize("prefix", ["..", "/", "a/../b", "a//b", "/a", "//"])
def test_bad_prefixes_are_refused(objects, prefix):
    """A listing cannot leave the root either."""
    for call in (objects.list, objects.folders, objects.scan_target):
        with pytest.raises(TableError, match="refused"):
            call(prefix)


def test_reader_is_a_file(objects):
    """A reader seeks, tells, and reads lines and parts as any binary file does."""
    data = b"".join(b"line %d\n" % number for number in range(1000))
    objects.write("x.csv", data)
    with objects.open_reader("x.csv") as reader:
        assert reader.seekable()
        assert reader.readline() == b"line 0\n"
        assert reader.tell() == 7
        assert reader.seek(-9, io.SEEK_END) == len(data) - 9
        assert reader.read(100) == b"line 999\n"
        assert reader.read(1) == b""
        reader.seek(0)
        reader.seek(10, io.SEEK_CUR)
        assert reader.read(4) == data[10:14]
        assert io.TextIOWrapper(reader).read() == data[14:].decode()
    objects.write("empty", b"")
    assert objects.open_reader("empty").read() == b""


def test_reader_reads_more_than_its_buffer(objects):
    """An object larger than the buffer is read whole, in one go and in pieces."""
    data = os.urandom(1 << 16) * 150
    objects.write("x.bin", data)
    assert objects.open_reader("x.bin").read() == data
    reader = objects.open_reader("x.bin")
    assert b"".join(iter(lambda: reader.read(1_000_003), b"")) == data


def test_pyarrow_and_polars_read_from_a_reader(objects):
    """Parquet libraries accept a reader as a file."""
    table = pa.table({"a": list(range(1000))})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=100)
    objects.write("x.parquet", sink.getvalue())
    with objects.open_reader("x.parquet") as reader:
        assert pq.ParquetFile(reader).read_row_group(7) == table.slice(700, 100)
    with objects.open_reader("x.parquet") as reader:
        assert pl.read_parquet(reader)["a"].sum() == 499_500


def test_polars_and_delta_take_the_scan_target(objects):
    """Polars scans an object by its target, and delta-rs writes and reads a table by its folder's."""
    sink = io.BytesIO()
    pl.DataFrame({"a": [1, 2, 3]}).write_parquet(sink)
    objects.write("t/x y.parquet", sink.getvalue())
    path, options = objects.scan_target("t/x y.parquet")
    assert pl.scan_parquet(path, storage_options=options, glob=False).collect()["a"].to_list() == [1, 2, 3]
    path, options = objects.scan_target("lake/orders")
    write_deltalake(path, pa.table({"a": [4]}), storage_options=options)
    assert DeltaTable(path, storage_options=options).to_pyarrow_table()["a"].to_pylist() == [4]
    assert "lake/orders/_delta_log/00000000000000000000.json" in keys(objects.list("lake"))


# ---- local folder ---------------------------------------------------------------------------------------


def test_local_locations(tmp_path, monkeypatch):
    """A folder is given as a path, relative or not, or as a file:// URL, and its location is absolute."""
    (tmp_path / "my raw").mkdir()
    monkeypatch.chdir(tmp_path)
    for text in ("my raw", "./my raw/", f"{tmp_path}/x/../my raw", f"file://{tmp_path}/my%20raw"):
        objects = Objects.open(text)
        assert objects.location == str(tmp_path / "my raw")
        assert objects.path_of("s/t/x") == objects.qualified("s/t/x") == f"{tmp_path}/my raw/s/t/x"
        assert objects.scan_target("s/t") == (f"{tmp_path}/my raw/s/t", None)


def test_missing_local_root(tmp_path):
    """A root that does not exist is a fault of the config, unless it may be made."""
    with pytest.raises(ConfigError, match="does not exist"):
        Objects.open(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError):
        Objects.open(str(tmp_path / "file"))
    with pytest.raises(ConfigError):
        Objects.open(str(tmp_path / "file"), create=True)
    Objects.open(str(tmp_path / "new" / "root"), create=True)
    assert (tmp_path / "new" / "root").is_dir()


def test_local_listing_skips_what_is_not_data(local):
    """Hidden files and folders, and files that are being written, are not listed."""
    root = Path(local.location)
    for name in ("t/x.csv", "t/.x.csv.swp", ".git/y", "t/.ipynb/z", "t/x.csv#1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert keys(local.list()) == ["t/x.csv"]
    assert local.folders() == ["t"]


def test_local_writes_are_never_seen_half(local):
    """A reader of a file that is written again and again sees one of its whole versions."""
    versions = [bytes([number]) * 300_000 for number in range(4)]
    local.write("x", versions[0])
    stop = threading.Event()
    seen = set()

    def read():
        while not stop.is_set():
            seen.add(local.read("x"))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for version in versions * 10:
            local.write("x", version)
        stop.set()
        reading.result()
    assert seen <= set(versions)
    assert keys(local.list()) == ["x"]


def test_local_permission_error_says_where(tmp_path):
    """A folder or file that may not be read or written is a table's error that names the path and the remedy."""
    script = """
import os, sys
from cdcloader.errors import TableError
from cdcloader.objects import Objects
objects = Objects.open(sys.argv[1])
for folder, mode in (("t", 0), ("ro", 0o555)):
    os.chmod(f"{sys.argv[1]}/{folder}", mode)
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
calls = (lambda: objects.list("t"), lambda: objects.folders("t"), lambda: objects.read("t/x"),
         lambda: objects.open_reader("t/x"), lambda: objects.write("ro/x", b""), lambda: objects.create("ro/x", b""),
         lambda: objects.delete(["ro/y"]))
for call in calls:
    try:
        call()
    except TableError as error:
        print(error.where.removeprefix(sys.argv[1]), "permission denied" in error.what, error.hint != "")
"""
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode | 0o011)
    for folder, name in (("t", "x"), ("ro", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    command = [sys.executable, "-c", script, str(tmp_path)]
    # The child drops its rights after its imports, so that it also works where the code is private to root.
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    (tmp_path / "t").chmod(0o755)
    places = ["/t", "/t", "/t/x", "/t/x", "/ro/x", "/ro/x", "/ro/y"]
    assert found.stdout.splitlines() == [f"{place} True True" for place in places]


# ---- S3 -------------------------------------------------------------------------------------------------


def test_s3_locations(bucket):
    """A root in S3 has no trailing slash, and its keys are shown as URLs and as the walkthrough's paths."""
    for text in (f"s3://{BUCKET}/a/b", f"s3://{BUCKET}/a/b/"):
        objects = Objects.open(text)
        assert objects.location == f"s3://{BUCKET}/a/b"
        assert objects.path_of("s/t/x") == f"s3://{BUCKET}/a/b/s/t/x"
        assert objects.qualified("s/t/x") == f"{BUCKET}/a/b/s/t/x"
    whole = Objects.open(f"s3://{BUCKET}/")
    assert whole.location == f"s3://{BUCKET}"
    whole.write("s/t/x", b"")
    assert [found.key for found in bucket.objects.all()] == keys(whole.list()) == ["s/t/x"]


def test_s3_keys_are_the_objects_keys(bucket, s3):
    """What boto3 writes under a key is read under the same key, percent signs included."""
    bucket.put_object(Key="dms data/raw/t/p%20q é.csv", Body=b"x")
    assert keys(s3.list("t")) == ["t/p%20q é.csv"]
    assert s3.read("t/p%20q é.csv") == b"x"


def test_s3_folder_markers_are_not_objects(bucket, s3):
    """The empty object that the console makes for a folder is not listed in it."""
    bucket.put_object(Key="dms data/raw/t/", Body=b"")
    assert s3.list("t") == []


def test_s3_key_that_cannot_be_read_is_named(bucket, s3):
    """A key with an empty part stops its table with a message, and no other."""
    bucket.put_object(Key="dms data/raw/bad//x.csv", Body=b"")
    s3.write("good/x.csv", b"")
    with pytest.raises(TableError, match=r"bad//x\.csv") as raised:
        s3.list("bad")
    assert "rename" in raised.value.hint
    assert keys(s3.list("good")) == ["good/x.csv"]


@pytest.mark.moto
def test_s3_lists_page_by_page_with_no_request_too_many(s3, monkeypatch, caplog):
    """A listing takes one request per page, and start_after is left to S3."""
    for number in range(25):
        s3.write(f"t/{number:03}", b"")
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    caplog.set_level(logging.INFO, logger="werkzeug")

    def requests_of(start_after):
        caplog.clear()
        found = keys(s3.list("t", start_after=start_after))
        return found, sum("list-type=2" in record.getMessage() for record in caplog.records)

    assert requests_of("") == ([f"t/{number:03}" for number in range(25)], 3)
    assert requests_of("t/019") == ([f"t/{number:03}" for number in range(20, 25)], 1)


def test_s3_endpoint_of_the_service_wins(bucket, aws, s3_url):
    """AWS_ENDPOINT_URL_S3 goes before AWS_ENDPOINT_URL."""
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    aws.setenv("AWS_ENDPOINT_URL_S3", s3_url)
    assert Objects.open(f"s3://{BUCKET}").list() == []


def test_s3_missing_bucket_is_named(aws, s3_url):
    """Whatever is asked of a bucket that does not exist, the error says so, with the URL."""
    aws.setenv("AWS_ENDPOINT_URL", s3_url)
    objects = Objects.open("s3://no-such-bucket/raw")
    calls = (
        lambda: objects.list("t"),
        objects.folders,
        lambda: objects.read("x"),
        lambda: objects.write("x", b""),
        lambda: objects.create("x", b""),
        lambda: objects.delete(["x"]),
    )
    for call in calls:
        with pytest.raises(TableError, match="bucket does not exist") as raised:
            call()
        assert raised.value.where.startswith("s3://no-such-bucket/raw")
        assert not isinstance(raised.value, ObjectMissing)


class _Answer(BaseHTTPRequestHandler):
    """An endpoint that answers every request with one status."""

    status, body = 500, b""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else self.body)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - the names that http.server calls

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def answering(aws):
    """A function: status and S3 error code -> a root whose every request is answered so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")

    def answer(status, code):
        server.RequestHandlerClass.status = status
        server.RequestHandlerClass.body = f"<Error><Code>{code}</Code><Message>no luck</Message></Error>".encode()
        return Objects.open("s3://some-bucket/raw")

    yield answer
    server.shutdown()
    server.server_close()


def test_s3_denied_access_names_the_permission(answering):
    """A 403 says what was refused, where, and which permission is missing."""
    objects = answering(403, "AccessDenied")
    calls = [
        (lambda: objects.list("t"), "s3:ListBucket"),
        (objects.folders, "s3:ListBucket"),
        (lambda: objects.read("t"), "s3:GetObject"),
        (lambda: objects.read_range("t", 0, 1), "s3:GetObject"),
        (lambda: objects.open_reader("t"), "s3:GetObject"),
        (lambda: objects.write("t", b""), "s3:PutObject"),
        (lambda: objects.create("t", b""), "s3:PutObject"),
        (lambda: objects.delete(["t"]), "s3:DeleteObject"),
    ]
    for call, permission in calls:
        with pytest.raises(TableError, match="access denied") as raised:
            call()
        assert permission in raised.value.hint
        assert raised.value.where.startswith("s3://some-bucket/raw")
        assert "Debug" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (503, "SlowDown"),
        (429, "TooMany"),
        (400, "RequestTimeout"),
        (400, "ExpiredToken"),
        (403, "ExpiredToken"),
        (403, "RequestTimeTooSkewed"),
        (400, "RequestExpired"),
        (400, "KMS.ThrottlingException"),
    ],
)
def test_s3_trouble_that_passes_is_transient(answering, status, code):
    """Server errors, throttling and expired tokens are tried again later."""
    objects = answering(status, code)
    with pytest.raises(TransientError, match=rf"{code} \(no luck\)"):
        objects.list("t")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_s3_conditional_write_that_met_another_is_transient(answering, code):
    """A 409 does not say that the object exists: it is tried again, and the next answer will say."""
    objects = answering(409, code)
    with pytest.raises(TransientError, match=code):
        objects.create("t", b"")


def test_s3_head_says_why_it_failed(answering):
    """The answer to a HEAD has no body: an expired token is found out all the same, and tried again later."""
    with pytest.raises(TransientError, match="ExpiredToken"):
        answering(400, "ExpiredToken").open_reader("t")


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_s3_wrong_credentials_are_no_missing_permission(answering, code):
    """Keys that are not known are the operator's to see to: the hint names the credentials, not a permission."""
    with pytest.raises(TableError, match="credentials are refused") as raised:
        answering(403, code).read("t")
    assert "standard AWS variables" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "code", "hint"), [(403, "InvalidObjectState", "restore it"), (400, "KMS.DisabledException", "KMS key")]
)
def test_s3_what_is_no_missing_permission_says_what_it_is(answering, status, code, hint):
    """An archived object and a key that is switched off are neither a permission nor a region."""
    with pytest.raises(TableError, match=code) as raised:
        answering(status, code).read("t")
    assert hint in raised.value.hint
    assert "access denied" not in str(raised.value)


# Servers that check signatures refuse a request that a proxy changed.
@pytest.fixture
def unconditional(bucket, moto_url, aws):
    """S3 behind a proxy that takes the condition out of every write, so that nothing is refused."""
    with FaultProxy("127.0.0.1", int(moto_url.rpartition(":")[2])) as proxy:
        proxy.rules(Rule(UNCONDITIONAL))
        aws.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.moto
def test_s3_that_ignores_conditions_is_refused(bucket, unconditional):
    """A server that creates an object twice is found out before the first creation, and named with a remedy."""
    objects = Objects.open(f"s3://{BUCKET}/lake")
    for call in (objects.prove_create, lambda: objects.create("t/_delta_log/0.json", b"")):
        with pytest.raises(ConfigError, match="If-None-Match") as raised:
            call()
        assert unconditional.url in raised.value.where
        assert "AWS S3" in raised.value.hint
    assert [*bucket.objects.all()] == []


def test_s3_that_refuses_conditions_is_refused(answering):
    """The same for a server that does not know conditional writes and says so."""
    with pytest.raises(ConfigError, match="NotImplemented"):
        answering(501, "NotImplemented").prove_create()


def test_s3_is_proven_once(bucket, s3, monkeypatch, proxied):
    """The proof takes three requests, once, and leaves nothing; where deleting is forbidden it leaves its object."""
    objects = Objects.open(f"s3://{BUCKET}/lake")
    objects.prove_create()
    assert [request.method for request in proxied.seen] == ["PUT", "PUT", "POST"]
    objects.create("x", b"1")
    assert [request.path for request in proxied.seen][3:] == [f"/{BUCKET}/lake/x"]
    assert [found.key for found in bucket.objects.all()] == ["lake/x"]
    another = Objects.open(f"s3://{BUCKET}/lake")
    monkeypatch.setattr(another, "delete", forbidden)
    another.prove_create()
    assert [found.key.split("-")[0] for found in bucket.objects.all()] == ["lake/_cdcloader/probe", "lake/x"]


def forbidden(keys):
    raise TableError("access denied")


@pytest.fixture
def proxied(bucket, s3_url, aws):
    with FaultProxy("127.0.0.1", int(s3_url.rpartition(":")[2])) as proxy:
        aws.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.parametrize("size", [0, 6 << 20, 20 << 20])
def test_s3_creates_in_one_request(bucket, proxied, size):
    """An object of any size is created by one conditional PUT: an upload in parts has no condition on some servers."""
    objects = Objects.open(f"s3://{BUCKET}/lake")
    objects.prove_create()
    proxied.seen.clear()
    objects.create("x", bytes(size))
    assert [(request.method, request.headers["if-none-match"]) for request in proxied.seen] == [("PUT", "*")]
    with pytest.raises(ObjectExists):
        objects.create("x", bytes(size))


@pytest.mark.parametrize("kind", [RESET, LOST])
def test_s3_create_whose_answer_was_lost(bucket, proxied, kind):
    """A broken connection is passing trouble of unknown outcome: never a success, never somebody else's object."""
    objects = Objects.open(f"s3://{BUCKET}/lake")
    objects.prove_create()
    proxied.rules(Rule(kind, count=1))
    with pytest.raises(TransientError):
        objects.create("x", b"1")
    assert len([*bucket.objects.all()]) == (kind == LOST)


@pytest.mark.parametrize("kind", [RESET, LOST, ERROR, SLOW_DOWN, FAILED])
def test_s3_passing_trouble_is_tried_again_inside_a_call(s3, proxied, kind):
    """One broken or refused request of a read, a listing or a write is made good without the caller's knowledge."""
    objects = Objects.open(s3.location)
    for call in (lambda: objects.write("t/x", b"1"), lambda: objects.read("t/x"), lambda: objects.list("t")):
        proxied.rules(Rule(kind, count=1))
        call()
    assert proxied.injected == {kind: 3}


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
def test_s3_wrong_region_is_hinted_at(answering, status, code):
    """A bucket of another region is no passing trouble."""
    objects = answering(status, code)
    with pytest.raises(TableError) as raised:
        objects.read("t")
    assert "AWS_REGION" in raised.value.hint


def test_s3_that_does_not_answer_is_transient(aws):
    """A closed port is a passing trouble, for every call."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        objects = Objects.open("s3://some-bucket")
        with pytest.raises(TransientError) as raised:
            objects.read("t/x")
    assert raised.value.where == "s3://some-bucket/t/x"


def test_s3_object_replaced_while_read_is_transient(s3):
    """A reader never mixes two versions of an object."""
    s3.write("x", b"a" * 100)
    reader = s3.open_reader("x")
    s3.write("x", b"b" * 100)
    with pytest.raises(TransientError, match="replaced"):
        reader.read()


def test_an_object_replaced_after_it_was_listed_is_transient(objects):
    """A reader that names the listed ETag reads that version or none, whole or as a stream."""
    objects.write("x", b"a" * 100)
    (listed,) = objects.list()
    assert objects.read("x", etag=listed.etag) == b"a" * 100
    with objects.open_reader("x", etag=listed.etag) as reader:
        assert reader.read() == b"a" * 100
    objects.write("x", b"b" * 100)
    for read in (objects.read, objects.open_reader):
        with pytest.raises(TransientError, match="replaced after it was listed"):
            read("x", etag=listed.etag)
    assert objects.read("x") == b"b" * 100


def test_s3_session_token_and_region_reach_the_scan(aws):
    """Scans by Polars and delta-rs use the same region, credentials and address style as ours."""
    aws.setenv("AWS_SESSION_TOKEN", "token")
    path, options = Objects.open("s3://some-bucket/lake").scan_target("t")
    assert path == "s3://some-bucket/lake/t"
    assert options["aws_session_token"] == "token"
    assert options["aws_region"] == "eu-west-1"
    assert "aws_endpoint_url" not in options
    assert "aws_allow_http" not in options


def test_s3_without_credentials_is_a_fault_of_the_config(aws):
    """Missing credentials and an unknown profile are said at the start, with the way to set them."""
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no AWS credentials"):
        Objects.open("s3://some-bucket/raw")
    aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        Objects.open("s3://some-bucket/raw")


@pytest.mark.parametrize(
    "location", ["s3://some-bucket//", "gs://bucket/x", "s3:///raw", "s3://", "http://example.invalid/x"]
)
def test_unknown_locations_are_faults_of_the_config(aws, location):
    """A location that is neither in S3 nor a folder is refused."""
    with pytest.raises(ConfigError):
        Objects.open(location)


def test_s3_prefix_with_a_bad_part_is_a_fault_of_the_config(aws):
    """The prefix of a root follows the rules of keys."""
    with pytest.raises(ConfigError):
        Objects.open("s3://some-bucket/raw/../x")


def test_a_local_root_is_blank_where_nothing_is_mounted(tmp_path):
    """A folder of any name, an empty one too, says that it is there; a root that went away is blank."""
    objects = Objects.open(str(tmp_path / "raw"), create=True)
    assert objects.is_blank()
    (tmp_path / "raw" / "s").mkdir()
    assert not objects.is_blank()
    (tmp_path / "raw" / "s").rmdir()
    (tmp_path / "raw").rmdir()
    assert objects.is_blank()
