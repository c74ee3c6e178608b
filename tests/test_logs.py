"""The log lines that leave the machine."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.schedulers.background import BackgroundScheduler

from cdcloader import logs
from cdcloader.errors import TableError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def put_logging_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    made = io.StringIO()
    logs.configure(stream=made)
    return made


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_when_not_a_terminal(stream):
    """A stream that is no terminal gets one JSON object per line, with level, logger and UTC time."""
    structlog.get_logger("cdcloader.loader").info("batch applied", table="sales/orders", rows_inserted=3)
    [line] = lines_of(stream)
    assert line["event"] == "batch applied"
    assert (line["table"], line["rows_inserted"]) == ("sales/orders", 3)
    assert (line["level"], line["logger"]) == ("info", "cdcloader.loader")
    assert datetime.fromisoformat(str(line["timestamp"])).utcoffset() == UTC.utcoffset(None)


def test_words_on_a_terminal():
    """A person at a terminal reads words, and gets JSON only on demand."""
    terminal = Terminal()
    logs.configure(stream=terminal)
    structlog.get_logger().info("batch applied", table="sales/orders")
    assert "batch applied" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    forced = Terminal()
    logs.configure(json=True, stream=forced)
    structlog.get_logger().info("batch applied")
    assert lines_of(forced)[0]["event"] == "batch applied"


def test_libraries_speak_the_same_way(stream):
    """A library's warning comes out as the same JSON, its chatter does not come out."""
    logging.getLogger("apscheduler.scheduler").info("Running job")
    logging.getLogger("botocore.endpoint").debug("request body")
    logging.getLogger("apscheduler.scheduler").warning("job %s missed by %s", "orders", 3)
    [line] = lines_of(stream)
    assert (line["event"], line["level"]) == ("job orders missed by 3", "warning")


def test_a_turn_that_outlasts_the_poll_interval_is_no_news(stream):
    """A scheduler whose job is still at work when it is due again, and again, says nothing of it."""
    skipped, ended = threading.Event(), threading.Event()
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_listener(lambda _event: skipped.set(), EVENT_JOB_MAX_INSTANCES)
    scheduler.add_job(ended.wait, "interval", seconds=0.05, next_run_time=datetime.now(UTC), args=[20])
    scheduler.start()
    try:
        assert skipped.wait(20)
    finally:
        ended.set()
        scheduler.shutdown()
    assert stream.getvalue() == ""


def test_level_is_kept(stream):
    """Lines below the configured level are not written."""
    logs.configure(level="WARNING", stream=stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines_of(stream)] == ["loud"]


def test_a_later_configure_reaches_existing_loggers(stream):
    """A logger that a module made at import follows the configuration that the command makes later."""
    log = structlog.get_logger()
    log.info("first")
    second = io.StringIO()
    logs.configure(stream=second)
    log.info("second")
    assert [line["event"] for line in lines_of(stream)] == ["first"]
    assert [line["event"] for line in lines_of(second)] == ["second"]


@pytest.mark.parametrize("renderer", ["json", "words"])
@pytest.mark.parametrize(
    "payload",
    [
        pl.DataFrame({"card": ["4111-1111"]}),
        pl.Series(["4111-1111"]),
        pl.LazyFrame({"card": ["4111-1111"]}),
        {"card": {"number": "4111-1111"}},
        [{"card": "4111-1111"}],
        [["4111-1111"]],
        b"4111-1111",
    ],
)
def test_row_values_never_get_out(payload, renderer):
    """A frame, a column or a row that is bound by mistake is refused, under any key, without an error."""
    stream = io.StringIO()
    logs.configure(json=renderer == "json", stream=stream)
    log = structlog.get_logger()
    log.info("batch", rows=payload)
    log.info("batch", row=payload)
    log.info("batch", values=payload)
    log.info("batch", error=payload)
    log.info("batch %s", payload)
    assert "4111" not in stream.getvalue()
    assert stream.getvalue().count("<refused>") == 5


def test_unlisted_keys_are_refused(stream):
    """A key that is not in the list comes out as refused, so that nobody relies on it and nothing leaks."""
    structlog.get_logger().info("batch", customer_email="jo@example.com")
    assert lines_of(stream)[0]["customer_email"] == "<refused>"


def test_plain_values_come_through(stream):
    """Paths, times, errors and lists of names are written as text."""
    structlog.get_logger().info(
        "batch",
        file=Path("a/b.csv"),
        watermark=datetime(2024, 5, 1, tzinfo=UTC),
        error=TableError("bad", where="b.csv", hint="mend it"),
        files=("x", "y"),
        lag_seconds=float("nan"),
    )
    line = lines_of(stream)[0]
    assert line["file"] == "a/b.csv"
    assert line["watermark"] == "2024-05-01T00:00:00+00:00"
    assert line["error"] == "b.csv: bad (mend it)"
    assert line["files"] == ["x", "y"]
    assert line["lag_seconds"] == "nan"


@pytest.mark.parametrize(
    "text",
    [
        "key AKIAIOSFODNN7ABCDEFH is unknown",
        "postgres://jo:hunter2@db/sales",
        "postgres://jo:p@hunter2@db/sales",
        "https://hunter2@example.com/x",
        "aws_secret_access_key=hunter2",
        "{'SecretAccessKey': 'hunter2 with words'}",
        '{"SessionToken": "hunter2"}',
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2",
        "password: hunter2",
        "Authorization: Bearer hunter2.abc",
    ],
)
def test_credentials_are_redacted(stream, text):
    """Keys, passwords, tokens and signatures come out neither from an event, a value, nor a traceback."""
    log = structlog.get_logger()
    log.error(text, error=text, files=[text], exc_info=OSError(text))
    logging.getLogger("botocore").warning("failed: %s", text)
    assert len(lines_of(stream)) == 2
    assert "hunter2" not in stream.getvalue()
    assert "AKIAIOSFODNN7ABCDEFH" not in stream.getvalue()
    assert "<redacted>" in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "s3://company-data-lake/raw/sales/orders/20240501-120000000.parquet",
        "the security token included in the request is expired",
        "primary_key: [order_id]",
    ],
)
def test_other_text_is_untouched(text):
    """What is no credential is written as it is."""
    assert logs.redacted_text(text) == text


def test_values_in_a_librarys_error_are_refused(stream):
    """A traceback of Polars says which column could not be read, and not what stood in it."""
    log = structlog.get_logger()
    number = f"{4111}-{1111}"  # So that the traceback's own line of source does not hold it.
    for read in (
        lambda: pl.Series("card", [number, "2"]).cast(pl.Int64),
        lambda: pl.read_csv(f"card\n1\n{number}\n".encode(), schema={"card": pl.Int64}),
    ):
        with pytest.raises(pl.exceptions.PolarsError) as caught:
            read()
        log.error("batch failed", exc_info=caught.value, error=str(caught.value))
    assert len(lines_of(stream)) == 2
    assert "4111" not in stream.getvalue()
    assert stream.getvalue().count("'card'") >= 2


def test_no_local_variables_in_tracebacks():
    """A traceback on a terminal shows the code, not the rows that its variables hold."""
    terminal = Terminal()
    logs.configure(stream=terminal)
    row = f"{4111}-{1111}"
    with pytest.raises(RuntimeError) as caught:
        fail_on(row)
    structlog.get_logger().error("batch failed", exc_info=caught.value)
    assert "in fail_on" in terminal.getvalue()
    assert "4111-1111" not in terminal.getvalue()


def fail_on(row: str) -> None:
    raise RuntimeError(len(row))
