"""The classes of trouble, each with what, where and what to do, and the one function that says how each is treated.

`ConfigError` ends the run (exit code 2). `TableError` stops one table until an operator or a new file
changes something. `TransientError` is retried. Whatever is none of these is a bug, or trouble that nobody foresaw, and
stops its table too.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from cdcloader.redaction import redacted_text

_CHARACTERS_MAX = 20_000


class CdcloaderError(Exception):
    """What happened, where it happened, and what the reader of the message can do about it."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        # Here, because the state record, /status, --json and the terminal show an error as well as the log does.
        self.what = _shown(what)
        self.where = where
        self.hint = _shown(hint)
        super().__init__(self.what)

    def __str__(self) -> str:
        where = redacted_text(self.where)
        text = f"{where}: {self.what}" if where else self.what
        return f"{text} ({self.hint})" if self.hint else text


def _shown(text: str) -> str:
    shown = redacted_text(text)
    # A library's text may hold a whole response, and ends up where there is little room.
    return shown if len(shown) <= _CHARACTERS_MAX else f"{shown[:_CHARACTERS_MAX]}..."


class ConfigError(CdcloaderError):
    """The config or the call is wrong; `faults` lists every fault as `path: message`."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", faults: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.faults = tuple(map(redacted_text, faults))


class TableError(CdcloaderError):
    """One table cannot go on without a change of its files, its config or its target."""


class TransientError(CdcloaderError):
    """The same call may succeed later: throttling, a timeout, a reset connection."""


class CommitConflict(CdcloaderError):
    """Another writer took the Delta version that we planned for; plan again on the new one."""


class StateConflict(CdcloaderError):
    """The state record changed since it was read; read it again."""


class Stopped(CdcloaderError):
    """Work was given up because the process ends; nothing of it was published."""


class Treatment(StrEnum):
    """What is done about an error.

    REPLAN: look again at once, because somebody else was faster. RETRY: the same again, after a pause. BLOCK: the
    table stops until something changes. STOP: the process ends. EXIT: the config or the call is wrong, exit code 2; a
    daemon that met it in the life of one table stops that table.
    """

    REPLAN = "replan"
    RETRY = "retry"
    BLOCK = "block"
    STOP = "stop"
    EXIT = "exit"


_OURS: tuple[tuple[type[BaseException], Treatment], ...] = (
    (CommitConflict, Treatment.REPLAN),
    (StateConflict, Treatment.REPLAN),
    (TransientError, Treatment.RETRY),
    (Stopped, Treatment.STOP),
    (ConfigError, Treatment.EXIT),
    (CdcloaderError, Treatment.BLOCK),
)
# Python raises these for whole groups of errno, and libraries raise them without one.
_PASSING_TYPES = (MemoryError, ConnectionError, TimeoutError, InterruptedError, BlockingIOError)
_PASSING_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EDQUOT,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETRESET,
        errno.ENETUNREACH, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EPIPE, errno.ESTALE,
        errno.ETIMEDOUT,
    }
)  # fmt: skip
# By name, because importing these libraries to compare types would cost every command its start. A panic of native
# code (Polars) is no `Exception`, so that nobody takes it for something ordinary; it is no end of the process either.
_PANIC = "pyo3_runtime.PanicException"
_PASSING_NAMES = frozenset(
    {
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.CredentialRetrievalError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.MetadataRetrievalError",
        "urllib3.exceptions.TimeoutError",
        "urllib3.exceptions.ProtocolError",
    }
)


def treatment(error: BaseException) -> Treatment:
    """How an error is treated, ours or a library's; one that nobody foresaw blocks its table."""
    for kind, answer in _OURS:
        if isinstance(error, kind):
            return answer
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if not isinstance(error, Exception):
        return Treatment.BLOCK if _PANIC in names else Treatment.STOP  # KeyboardInterrupt, SystemExit.
    if isinstance(error, _PASSING_TYPES) or (isinstance(error, OSError) and error.errno in _PASSING_ERRNOS):
        return Treatment.RETRY
    return Treatment.BLOCK if _PASSING_NAMES.isdisjoint(names) else Treatment.RETRY


def as_ours(error: BaseException, *, where: str) -> CdcloaderError:
    """The error as one of ours, with the same treatment; ours as they are."""
    if isinstance(error, CdcloaderError):
        return error
    text = f"{type(error).__name__}: {error}"
    if treatment(error) is Treatment.RETRY:
        hint = "check this machine: its memory, its disk, its open files, its network"
        return TransientError(text, where=where, hint=hint)
    hint = "this is a bug in cdcloader, or trouble that it does not know: please report it with the log"
    return TableError(text, where=where, hint=hint)
