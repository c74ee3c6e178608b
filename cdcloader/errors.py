"""The three classes of trouble, each with what, where and what to do.

`ConfigError` ends the run (exit code 2). `TableError` stops one table until an operator or a new file
changes something. `TransientError` is retried. Whatever is none of these is a bug and is treated as a
`TableError` by the daemon's per-table boundary.
"""

from __future__ import annotations


class CdcloaderError(Exception):
    """What happened, where it happened, and what the reader of the message can do about it."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(CdcloaderError):
    """The config or the call is wrong; `faults` lists every fault as `path: message`."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", faults: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.faults = faults


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
