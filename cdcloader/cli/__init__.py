"""The commands: parse, call, print. Exit codes: 0 up to date, 1 a table needs attention, 2 wrong config or call."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

import typer

from cdcloader.cli import demo, init, look, operate, run, verify  # noqa: F401 - a command is registered where it is written
from cdcloader.cli.app import ATTENTION, OK, WRONG, app, complain
from cdcloader.errors import CdcloaderError, Treatment, treatment
from cdcloader.redaction import redacted_text

__all__ = ["app", "main"]


def main() -> None:
    """Run a command; every foreseen error is one message on stderr and an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = 130
    except CdcloaderError as error:
        complain(error)
        code = WRONG if treatment(error) is Treatment.EXIT else ATTENTION
    except Exception as error:
        # Typer raises its usage errors from a click of its own, so they are known by what they can do.
        show = getattr(error, "show", None)
        if show is None:
            sys.excepthook = _show_bug  # Here, because Typer has set its own.
            raise
        show()
        code = getattr(error, "exit_code", WRONG)
    sys.stdout.flush()
    sys.exit(code or OK)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The trace as Python would print it, without secrets: a library's message may hold a signed URL."""
    typer.echo(redacted_text("".join(traceback.format_exception(kind, error, trace))), err=True)
