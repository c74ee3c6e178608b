"""The HTTP side, as Prometheus, an orchestrator and a person use it."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from urllib.error import HTTPError, URLError

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from cdcloader.errors import ConfigError
from cdcloader.metrics import Metrics
from cdcloader.web.app import SECURITY_HEADERS, make_app
from cdcloader.web.server import WebServer

PATHS = ("/", "/metrics", "/status", "/livez", "/readyz")
TABLES = [{"source": "sales/orders", "phase": "streaming", "lag_seconds": 1.5, "error": None}]


def broken_status() -> list[dict[str, object]]:
    raise RuntimeError("the state store is away")


def make_client(**changes: object) -> TestClient:
    parts = {
        "metrics": Metrics(CollectorRegistry()),
        "status": lambda: TABLES,
        "live": lambda: (True, "the loop ticked 3 s ago"),
        "ready": lambda: (True, "holding 2 leases"),
    }
    return TestClient(make_app(**{**parts, **changes}), raise_server_exceptions=False)


def test_metrics_parse_as_prometheus_text():
    """/metrics is what a Prometheus scraper of any version reads, with the content type that it asks for."""
    answer = make_client().get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "cdcloader_build_info" in {family.name for family in text_string_to_metric_families(answer.text)}


def test_status_is_json():
    """/status gives the tables as they were handed in."""
    answer = make_client().get("/status")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"tables": TABLES}


@pytest.mark.parametrize(("path", "check"), [("/livez", "live"), ("/readyz", "ready")])
def test_health_says_why(path, check):
    """Health is 200 or 503, and the body says the reason in words."""
    good = make_client(**{check: lambda: (True, "all is well")}).get(path)
    bad = make_client(**{check: lambda: (False, "no tick for 900 s")}).get(path)
    assert (good.status_code, good.text) == (200, "all is well\n")
    assert (bad.status_code, bad.text) == (503, "no tick for 900 s\n")


def test_the_index_links_to_everything():
    """A person who opens the port finds every page from there."""
    page = make_client().get("/").text
    assert all(f'href="{path}"' in page for path in PATHS[1:])


@pytest.mark.parametrize("path", PATHS)
def test_only_get_and_head(path):
    """HEAD answers like GET without a body; every other method is refused with 405."""
    client = make_client()
    assert client.head(path).status_code == 200
    assert client.head(path).content == b""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        answer = client.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize(("path", "status"), [*((path, 200) for path in PATHS), ("/etc/passwd", 404)])
def test_security_headers_on_every_answer(path, status):
    """No answer can be sniffed, framed, cached, or run anything; a 404 neither."""
    answer = make_client().get(path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_a_broken_status_does_not_leak():
    """An error inside gives a 500 that shows nothing of it, with the same headers, and the rest still answers."""
    client = make_client(status=broken_status)
    answer = client.get("/status")
    assert answer.status_code == 500
    assert "state store" not in answer.text
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert client.get("/livez").status_code == 200


@pytest.fixture
def app():
    return make_client().app


def test_a_real_server_answers_at_once_and_stops(app):
    """After start() a request is answered without waiting, and after stop() the port is free again."""
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    url = f"http://127.0.0.1:{server.port}/status"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer) == {"tables": TABLES}
        assert "server" not in {name.lower() for name in answer.headers}
    server.stop()
    with pytest.raises(URLError):
        urllib.request.urlopen(url, timeout=10)
    again = WebServer(app, "127.0.0.1", server.port)
    again.start()
    again.stop()


def test_a_taken_port_says_what_to_do(app):
    """A second process on the port is told which key of the config to change."""
    first = WebServer(app, "127.0.0.1", 0)
    first.start()
    with pytest.raises(ConfigError, match=r"http\.port") as caught:
        WebServer(app, "127.0.0.1", first.port).start()
    first.stop()
    assert caught.value.where == f"http 127.0.0.1:{first.port}"


def test_a_wrong_host_says_what_to_do(app):
    """An address that this machine does not have is told by the key of the config."""
    with pytest.raises(ConfigError, match=r"http\.host"):
        WebServer(app, "192.0.2.1", 0).start()


def test_signals_stay_with_the_daemon(app):
    """SIGTERM and SIGINT go to the handlers that were there before the server started."""
    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    urllib.request.urlopen(f"http://127.0.0.1:{server.port}/livez", timeout=10).close()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    server.stop()


@pytest.mark.parametrize(
    "path", ["/status/", "//evil.example/", "/%2e%2e/etc/passwd", "/status%00", "/docs", "/openapi.json"]
)
def test_unknown_paths_and_hosts_are_harmless(path):
    """Whatever is asked for that is not there is 404, and what the Host header claims is repeated nowhere."""
    answer = make_client().get(f"http://testserver{path}", headers={"Host": "evil.example"}, follow_redirects=False)
    assert answer.status_code == 404
    assert "evil" not in answer.text
    assert "location" not in answer.headers
    known = make_client().get("/status", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    assert known.status_code == 200
    assert "evil" not in f"{known.text} {known.headers}"


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET"],
)
def test_a_request_that_does_not_end_is_given_up(app, monkeypatch, begun):
    """Who sends a part of a request and then nothing does not keep a connection; others are answered meanwhile."""
    monkeypatch.setattr("cdcloader.web.server._IDLE_SECONDS", 0.2)
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(begun)
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/livez", timeout=10).close()
        while slow.recv(4096):
            pass
    server.stop()


def test_a_header_without_end_is_refused(app):
    """Headers are read up to a bound; beyond it the connection is answered with 400 and closed."""
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as greedy:
        greedy.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000)
        assert b" 400 " in greedy.recv(4096).splitlines()[0]
    server.stop()


def test_many_connections_do_not_take_all_files(app, monkeypatch):
    """Beyond the bound requests are refused with 503; when the others have gone, they are answered again."""
    monkeypatch.setattr("cdcloader.web.server._CONNECTIONS_MAX", 5)
    server = WebServer(app, "127.0.0.1", 0)
    server.start()
    url = f"http://127.0.0.1:{server.port}/livez"
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(6)]
    with pytest.raises(HTTPError, match="503"):
        urllib.request.urlopen(url, timeout=10)
    for connection in idle:
        connection.close()
    end = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            break
        except HTTPError:
            assert time.monotonic() < end
    server.stop()


def test_stop_before_start_is_nothing(app):
    """A daemon that fails before it serves can stop its server all the same."""
    WebServer(app, "127.0.0.1", 0).stop()
