"""The fault proxy does what the fault tests believe it does, shown on a server that notes what it was asked."""

from __future__ import annotations

import http.client
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from cdcloader.errors import TransientError
from cdcloader.objects import Objects
from tests.services import proxy as kinds
from tests.services.proxy import FaultProxy, Rule

BODY = bytes(range(256)) * 40


class Noting(BaseHTTPRequestHandler):
    """Answers with BODY, in chunks where the path says so, and notes each request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.noted.append((self.command, self.path, dict(self.headers), self.received()))
        self.send_response(200)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (BODY[:7], BODY[7:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            return
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(BODY)

    do_PUT = do_POST = do_HEAD = do_GET  # noqa: N815 - http.server's names

    def received(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    server.daemon_threads, server.noted = True, []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(server):
    with FaultProxy(*server.server_address, seed=1) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def ask(client, method="GET", path="/x", body=None, headers=None, **more):
    client.request(method, path, body=body, headers=headers or {}, **more)
    answer = client.getresponse()
    return answer.status, answer.read()


def test_without_rules_everything_passes(client, server, proxy):
    """Bytes of body and headers arrive as they were sent, many on one connection, chunked or not, HEAD too."""
    sent = {"Host": f"127.0.0.1:{proxy.port}", "X-Signed": "a,  b"}
    assert ask(client, "PUT", "/a%20b?c=%2F", BODY, sent) == (200, BODY)
    assert ask(client, "GET", "/chunked") == (200, BODY)
    assert ask(client, "HEAD") == (200, b"")
    assert ask(client, "POST", "/x", iter([b"one", b"two"]), encode_chunked=True)[0] == 200
    put, *_, post = server.noted
    assert (put[0], put[1], put[3], post[3]) == ("PUT", "/a%20b?c=%2F", BODY, b"onetwo")
    assert {name: put[2][name] for name in sent} == sent
    assert not proxy.injected
    assert [request.path for request in proxy.seen] == ["/a b", "/chunked", "/x", "/x"]


@pytest.mark.parametrize(
    ("kind", "done"), [(kinds.RESET, 0), (kinds.LOST, 1), (kinds.TWICE, 2), (kinds.TRUNCATED, 1), (kinds.LATENCY, 1)]
)
def test_what_is_done_and_what_is_seen(client, server, proxy, kind, done):
    """Each kind of fault does as much as it says, and shows the client what it says; the next request passes."""
    proxy.rules(Rule(kind, method="PUT", count=1))
    if kind in (kinds.TWICE, kinds.LATENCY):
        assert ask(client, "PUT") == (200, BODY)
    elif kind == kinds.TRUNCATED:
        with pytest.raises(http.client.IncompleteRead):
            ask(client, "PUT")
    else:
        with pytest.raises(ConnectionResetError):
            ask(client, "PUT")
    assert len(server.noted) == done
    assert proxy.injected == {kind: 1}
    client.close()
    assert ask(client, "PUT") == (200, BODY)


@pytest.mark.parametrize(
    ("kind", "done", "status"), [(kinds.ERROR, 0, 500), (kinds.SLOW_DOWN, 0, 503), (kinds.FAILED, 1, 500)]
)
def test_errors_of_the_server(client, server, proxy, kind, done, status):
    """An injected error is answered as S3 words it; only the kind after the effect reaches the server."""
    proxy.rules(Rule(kind))
    answer, text = ask(client)
    assert (answer, len(server.noted)) == (status, done)
    assert (b"<Code>SlowDown</Code>" if kind == kinds.SLOW_DOWN else b"<Code>InternalError</Code>") in text


def test_a_slow_body_takes_its_time(client, proxy):
    """A slow body comes whole, but not at once."""
    proxy.rules(Rule(kinds.SLOW_BODY, seconds=0.2))
    began = time.monotonic()
    assert ask(client) == (200, BODY)
    assert time.monotonic() - began >= 0.2


def test_a_condition_is_taken_out(client, server, proxy):
    """The server of a rule without conditions never sees If-None-Match; other requests do not count as faults."""
    proxy.rules(Rule(kinds.UNCONDITIONAL))
    ask(client, "PUT", "/x", b"1", {"If-None-Match": "*"})
    ask(client, "PUT", "/x", b"1")
    assert ["If-None-Match" in headers for _, _, headers, _ in server.noted] == [False, False]
    assert [body for *_, body in server.noted] == [b"1", b"1"]
    assert proxy.injected == {kinds.UNCONDITIONAL: 1}


def test_a_rule_hits_what_it_names(client, proxy):
    """Method, path, query, operation and condition choose; `after` and `count` bound; the first rule that hits wins."""
    proxy.rules(
        Rule(kinds.ERROR, operation="UpdateItem"),
        Rule(kinds.ERROR, method="PUT|POST", path="_log/.*json$", query="a=b", after=1, count=1),
        Rule(kinds.SLOW_DOWN, where=lambda request: request.raw.endswith(b"bad")),
    )
    target = "/t/_log/1.json?a=b"
    assert [ask(client, "PUT", target)[0] for _ in range(3)] == [200, 500, 200]
    assert ask(client, "GET", target)[0] == 200
    assert ask(client, "PUT", "/other?a=b")[0] == 200
    assert ask(client, "PUT", "/other", b"bad")[0] == 503
    status, text = ask(client, "POST", "/", b"{}", {"x-amz-target": "DynamoDB_20120810.UpdateItem"})
    assert (status, b"#InternalServerError" in text) == (500, True)


def test_the_same_seed_gives_the_same_faults(server):
    """Faults by probability can be repeated: they hang on the seed and on the order of the requests alone."""

    def story():
        with FaultProxy(*server.server_address, seed=7) as proxy:
            proxy.rules(Rule(kinds.ERROR, probability=0.3))
            client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
            return [ask(client)[0] for _ in range(40)]

    first = story()
    assert first == story()
    assert 0 < first.count(500) < 40


def test_a_server_that_is_down_resets(server):
    """While the server is away the client sees a broken connection, and not a proxy's own error page."""
    with FaultProxy("127.0.0.1", 1) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        with pytest.raises(ConnectionResetError):
            ask(client)


@pytest.fixture
def aws(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


def test_the_clients_work_through_it(aws):
    """boto3 (which waits for 100 Continue) and obstore (in parts) work through it, and meet its faults as AWS's."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with FaultProxy(*server.get_host_and_port()) as proxy:
        aws.setenv("AWS_ENDPOINT_URL", proxy.url)
        settings = Config(retries={"total_max_attempts": 1})
        s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=proxy.url, config=settings)
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="raw/one two", Body=BODY * 100)
        objects = Objects.open("s3://bucket/raw")
        assert objects.read("one two") == BODY * 100
        large = os.urandom(17 << 20)
        objects.write("large", large)
        assert objects.read("large") == large
        proxy.rules(Rule(kinds.SLOW_DOWN))
        with pytest.raises(ClientError, match="SlowDown"):
            s3.get_object(Bucket="bucket", Key="raw/large")
        proxy.rules(Rule(kinds.ERROR, method="GET"))
        with pytest.raises(TransientError, match="InternalError"):
            objects.read("large")
        proxy.rules(Rule(kinds.SLOW_DOWN, operation="GetItem"))
        dynamodb = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=proxy.url, config=settings)
        with pytest.raises(ClientError, match="ProvisionedThroughputExceeded"):
            dynamodb.get_item(TableName="t", Key={"k": {"S": "1"}})
    server.stop()
