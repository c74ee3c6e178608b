"""The worlds of the other suites: what breaks here is a table of theirs, or a command of theirs."""

from tests.e2e.conftest import aws, dms, make_site, started
from tests.loader.conftest import make_world

__all__ = ["aws", "dms", "make_site", "make_world", "started"]
