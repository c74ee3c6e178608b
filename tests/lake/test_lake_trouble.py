"""Trouble of S3 while a data file is read by Polars is told from damage, and a hang ends."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from cdcloader.errors import TableError, TransientError
from cdcloader.lake import datafiles
from cdcloader.lake.snapshot import DataFile
from cdcloader.objects import Objects, s3

SCHEMA = ()
FILE = DataFile("part-0.parquet", {}, 1_000, 0)


class Answer(BaseHTTPRequestHandler):
    """Answers as `kind` says: a status, a body that is cut off, or one that is no Parquet."""

    kind = "503"

    def do_GET(self):
        size = 1_000
        self.send_response(int(self.kind) if self.kind.isdigit() else 206)
        self.send_header("Content-Length", str(0 if self.kind.isdigit() else size))
        self.send_header("Content-Range", f"bytes 0-{size - 1}/{size}")
        self.end_headers()
        if not self.kind.isdigit():
            self.wfile.write(b"x" * (10 if self.kind == "cut" else size))
        self.close_connection = True

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def lake(monkeypatch):
    """A lake in S3 whose server answers so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    yield Objects.open("s3://bucket/lake")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("cut", TransientError),
        pytest.param("503", TransientError, marks=pytest.mark.slow),  # Polars tries for some seconds.
        ("404", TableError),
        ("403", TableError),
        ("garbage", TableError),
    ],
)
def test_passing_trouble_is_no_damage(lake, monkeypatch, kind, error):
    """A broken connection or a busy server is tried again later; a file that is gone or damaged blocks the table."""
    monkeypatch.setattr(Answer, "kind", kind)
    with pytest.raises(error) as caught:
        datafiles.read(lake, "t", FILE, SCHEMA)
    assert caught.value.where == "s3://bucket/lake/t/part-0.parquet"
    assert "cannot be read" in str(caught.value) or error is TransientError


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(monkeypatch):
    """Polars by itself waits for ever; here a read ends, and is passing trouble."""
    monkeypatch.setattr(s3, "_SCAN_TIMEOUTS", {"connect_timeout": "1s", "timeout": "1s"})
    silent = socket.create_server(("127.0.0.1", 0))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
    objects = Objects.open("s3://bucket/lake")
    with pytest.raises(TransientError):
        datafiles.read(objects, "t", FILE, SCHEMA)
    silent.close()


def test_every_scan_has_limits(lake):
    """What Polars and delta-rs are given says how long they may wait."""
    _, options = lake.scan_target("t/part-0.parquet")
    assert (options["timeout"], options["connect_timeout"]) == ("300s", "5s")


def test_a_local_file_that_is_damaged_or_gone_is_told(tmp_path):
    """The same on a local disk, with the file's name."""
    objects = Objects.open(str(tmp_path))
    (tmp_path / "t").mkdir()
    for content in (None, b"no Parquet at all"):
        if content is not None:
            (tmp_path / "t" / "part-0.parquet").write_bytes(content)
        with pytest.raises(TableError, match=r"part-0\.parquet: a data file of the target cannot be read"):
            datafiles.read(objects, "t", FILE, SCHEMA)
    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "t" / "part-0.parquet")
    assert datafiles.read(objects, "t", FILE, SCHEMA).height == 1
