"""The commands: parse, call, print. Exit codes: 0 up to date, 1 a table needs attention, 2 wrong config or call."""

from __future__ import annotations

import sys

import typer

from cdcloader.cli import demo, look, run  # noqa: F401 - a command is registered where it is written
from cdcloader.cli.app import ATTENTION, OK, WRONG, app, complain
from cdcloader.errors import CdcloaderError, ConfigError

__all__ = ["app", "main"]


def main() -> None:
    """Run a command; every foreseen error is one message on stderr and an exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = 130
    except ConfigError as error:
        complain(error)
        code = WRONG
    except CdcloaderError as error:
        complain(error)
        code = ATTENTION
    except Exception as error:
        # Typer raises its usage errors from a click of its own, so they are known by what they can do.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        code = getattr(error, "exit_code", WRONG)
    sys.stdout.flush()
    sys.exit(code or OK)
