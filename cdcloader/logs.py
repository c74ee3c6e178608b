"""How cdcloader logs: one renderer for our lines and our libraries', no row values, no credentials.

`BOUND_KEYS` and `BOUND_PREFIXES` are all the keys that a log line may bind. A value under another key, or
one that is not plain (a frame, a Series, an array), is written as `<refused>`.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from pathlib import PurePath
from typing import Any, TextIO
from uuid import UUID

import structlog

from cdcloader.redaction import REFUSED, redacted_text

BOUND_KEYS = frozenset(
    {
        "attempt", "backlog_bytes", "backlog_files", "batch", "bytes", "column", "columns", "command", "commit",
        "config", "count", "error", "exit_code", "file", "files", "first_file", "from_phase", "from_type", "generation",
        "hint", "host", "keys", "kind", "lag_seconds", "last_file", "late_files", "lease_epoch", "lease_owner", "limit",
        "memory_budget_mb", "op",
        "path", "phase", "pid", "port", "position", "reason", "replaced_files", "rewritten_bytes", "rows",
        "schema_changes", "seconds", "signal", "skipped_files", "source", "state", "strategy", "table", "tables",
        "target", "to_phase", "to_type", "url", "version", "watermark", "where", "workers",
    }
)  # fmt: skip
BOUND_PREFIXES = ("rows_", "seconds_", "files_", "bytes_")

# Written by structlog itself or by the standard library's records.
_RENDERED_KEYS = frozenset({"event", "level", "logger", "timestamp", "exception", "stack"})
_QUIET_LOGGERS = ("apscheduler", "asyncio", "boto3", "botocore", "moto", "s3transfer", "urllib3", "uvicorn", "werkzeug")

EventDict = MutableMapping[str, Any]


def configure(json: bool | None = None, level: str = "INFO", stream: TextIO | None = None) -> None:  # noqa: FBT001
    """Send all logging to `stream` (stderr): JSON lines when `json`, or by default when it is no terminal."""
    target = stream if stream is not None else sys.stderr
    as_json = not target.isatty() if json is None else json
    structlog.configure(
        processors=[*_described(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # A later configure() must reach the loggers that exist.
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(as_json=as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("apscheduler.scheduler").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """That a table's turn outlasts the poll interval is none, and the scheduler would warn of it at every interval."""
    return "maximum number of running instances reached" not in str(record.msg)


def guard(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Refuse keys that are not listed and values that are not plain: a frame's text would be its rows."""
    for key, value in event.items():
        if key not in _RENDERED_KEYS:
            event[key] = _plain(value) if _is_listed(key) else REFUSED
    return event


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Take credentials and row values out of every text of the line, the exception's too."""
    for key, value in event.items():
        event[key] = _redacted(value)
    return event


def _described() -> list[structlog.typing.Processor]:
    # Left out on purpose: what formats %s arguments and decodes bytes, as both would turn rows into text before guard.
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Tracebacks are rendered without local variables, which may be rows.
        structlog.processors.format_exc_info,
    ]


def _formatter(*, as_json: bool) -> logging.Formatter:
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_described(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, guard, redact, renderer],
    )


def _is_listed(key: str) -> bool:
    return key in BOUND_KEYS or key.startswith(BOUND_PREFIXES)


def _plain(value: object) -> object:
    """A JSON value for a scalar, or for a collection of scalars; `<refused>` for anything else."""
    if isinstance(value, Mapping):
        return {str(key): _scalar(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_scalar(each) for each in value]
    if isinstance(value, AbstractSet):
        return sorted(str(_scalar(each)) for each in value)
    return _scalar(value)


def _scalar(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath | UUID | BaseException):
        return str(value)
    return REFUSED


def _redacted(value: object) -> object:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return value
