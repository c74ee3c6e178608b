"""Ceph and dynalite behind a fault proxy, and the installed command that works through it."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Aws, Site, started, until  # noqa: F401 - fixtures
from tests.services.proxy import FaultProxy
from tests.services.servers import running


@pytest.fixture(scope="session")
def servers():
    found = running()
    assert found, "these tests need Ceph and dynalite: make test-services"
    return found


@pytest.fixture(scope="module")
def proxy(servers):
    """The one way to both servers."""
    with FaultProxy("127.0.0.1", servers.ceph.port, dynamodb=("127.0.0.1", servers.dynalite.port)) as proxy:
        yield proxy


@pytest.fixture
def site(proxy, tmp_path):
    """A loader whose every request passes the proxy; without rules everything passes."""
    proxy.rules()
    yield Site(tmp_path, Aws(proxy.url))
    proxy.rules()
