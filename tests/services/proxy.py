"""A fault proxy: stands between the loader and an S3 or DynamoDB server and breaks what its rules say.

Requests and answers pass byte for byte, so that signatures, which cover the Host header and most others, stay right.
Each request is read whole, and so is its answer; only then a rule decides what the client gets to see.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import socketserver
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from tests.services.messages import (
    WAIT_SECONDS,
    Answer,
    Broken,
    body_of,
    exchange,
    head_of,
    parsed,
    refusal,
    without_condition,
)

LATENCY = "latency"  # the answer comes later
RESET = "reset"  # not done: the connection breaks before the server has the request
LOST = "lost answer"  # done, but the connection breaks before the client has the answer
ERROR = "500"  # not done: an internal error
SLOW_DOWN = "503"  # not done: throttled (S3: 503 SlowDown; DynamoDB: 400 ProvisionedThroughputExceededException)
FAILED = "500 after the effect"  # done, but reported as an internal error
TRUNCATED = "truncated body"  # done; the answer's body ends before its Content-Length
SLOW_BODY = "slow body"  # done; the answer's body drips
TWICE = "done twice"  # the server gets the request twice, the client the second answer
UNCONDITIONAL = "unconditional"  # If-None-Match is taken out, as by a server that does not know it
KINDS = (LATENCY, RESET, LOST, ERROR, SLOW_DOWN, FAILED, TRUNCATED, SLOW_BODY, TWICE, UNCONDITIONAL)

_SLOW_PIECES = 8
_SEEN = 20_000


@dataclass(frozen=True)
class Request:
    """One request as it came: `target` is path and query, `raw` all its bytes."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The path in plain letters, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        return unquote(self.target.partition("?")[2])

    @property
    def operation(self) -> str:
        """DynamoDB's operation; "" for S3."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]

    @property
    def conditional(self) -> bool:
        return "if-none-match" in self.headers


@dataclass
class Rule:
    """What happens to which requests: all that is given must match; patterns are searched for, not matched whole.

    The first `after` matching requests pass, then each is hit by `probability`, until `count` were hit. `seconds`
    are those of a latency, or those that a slow body takes in all.
    """

    kind: str
    method: str = ""
    path: str = ""
    query: str = ""
    operation: str = ""
    where: Callable[[Request], bool] | None = None
    probability: float = 1.0
    count: int | None = None
    after: int = 0
    seconds: float = 0.05
    hits: int = 0
    met: int = 0

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    def matches(self, request: Request) -> bool:
        return (
            (not self.method or request.method in self.method.split("|"))
            and bool(re.search(self.path, request.path))
            and bool(re.search(self.query, request.query))
            and bool(re.search(self.operation, request.operation))
            and (self.where is None or self.where(request))
            # A fault of one that cannot be is none: only creating has a condition to lose.
            and (self.kind != UNCONDITIONAL or request.conditional)
        )


class FaultProxy:
    """A proxy on loopback before a server; its rules may be set while it runs, and the first that hits is applied.

    With `dynamodb`, DynamoDB's requests go to that server and all others to the first one. Use the proxy as a context
    manager, or call `start` and `stop`. `injected` counts the faults by kind; `seen` are the latest requests;
    `on_request` is called with each, and may take its time. The same seed and the same order of requests give the
    same faults.
    """

    def __init__(
        self, upstream_host: str, upstream_port: int, *, seed: int = 0, dynamodb: tuple[str, int] | None = None
    ) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._dynamodb = dynamodb or self._upstream
        self.on_request: Callable[[Request], object] = lambda _: None
        self.injected: Counter[str] = Counter()
        self.seen: deque[Request] = deque(maxlen=_SEEN)
        self._rules: tuple[Rule, ...] = ()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and break what is open."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        with self._lock:
            open_now = [*self._connections]
        for connection in open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def rules(self, *rules: Rule) -> None:
        """These from now on, in place of those before; none: everything passes."""
        self._rules = rules

    def ruling(self, request: Request) -> Rule | None:
        """The rule that hits this request, counted."""
        self.on_request(request)
        with self._lock:
            self.seen.append(request)
            for rule in self._rules:
                if rule.matches(request) and self._hit(rule):
                    return rule
        return None

    def upstream(self, request: Request) -> tuple[str, int]:
        """The server that a request is for."""
        return self._dynamodb if request.operation else self._upstream

    def count(self, rule: Rule) -> None:
        """A fault was injected indeed."""
        with self._lock:
            self.injected[rule.kind] += 1

    def _hit(self, rule: Rule) -> bool:
        rule.met += 1
        if rule.met <= rule.after or (rule.count is not None and rule.hits >= rule.count):
            return False
        if self._random.random() >= rule.probability:
            return False
        rule.hits += 1
        return True

    @contextlib.contextmanager
    def connected(self, connection: socket.socket):
        with self._lock:
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    proxy: FaultProxy

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no news; the loader's own side tells what it met."""


class _Handler(socketserver.StreamRequestHandler):
    """One connection of a client: its requests one after the other, each by a connection of its own to the server."""

    timeout = WAIT_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        proxy = self.server.proxy
        with proxy.connected(self.connection), contextlib.suppress(OSError, Broken):
            while (request := self._request()) is not None:
                rule = proxy.ruling(request)
                if not self._answer(request, rule) or request.headers.get("connection", "").lower() == "close":
                    return

    def _request(self) -> Request | None:
        head = head_of(self.rfile)
        if not head:
            return None
        start, headers = parsed(head)
        method, target, _ = start.split(" ", 2)
        if "100-continue" in headers.get("expect", ""):
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, target, headers, head + body_of(self.rfile, headers))

    def _answer(self, request: Request, rule: Rule | None) -> bool:
        """Whether the connection goes on."""
        proxy, kind = self.server.proxy, rule.kind if rule else ""
        if rule is not None and kind not in (TRUNCATED, SLOW_BODY):
            proxy.count(rule)
        if rule is not None and kind == LATENCY:
            time.sleep(rule.seconds)
        if kind == RESET:
            return self._break()
        if kind in (ERROR, SLOW_DOWN):
            self.connection.sendall(_refused(request, kind))
            return True
        raw = without_condition(request.raw) if kind == UNCONDITIONAL else request.raw
        if kind == TWICE:
            exchange(proxy.upstream(request), raw, request.method)
        answer = exchange(proxy.upstream(request), raw, request.method)
        if answer is None or kind == LOST:
            return self._break()
        if kind == FAILED:
            self.connection.sendall(_refused(request, ERROR))
            return True
        if rule is not None and kind in (TRUNCATED, SLOW_BODY) and len(answer.body) > 1:
            proxy.count(rule)
            return self._cut(answer) if kind == TRUNCATED else self._drip(answer, rule.seconds)
        self.connection.sendall(answer.head + answer.body)
        return answer.goes_on

    def _cut(self, answer: Answer) -> bool:
        self.connection.sendall(answer.head + answer.body[: len(answer.body) // 2])
        return False

    def _drip(self, answer: Answer, seconds: float) -> bool:
        self.connection.sendall(answer.head)
        size = -(-len(answer.body) // _SLOW_PIECES)
        for at in range(0, len(answer.body), size):
            time.sleep(seconds / _SLOW_PIECES)
            self.connection.sendall(answer.body[at : at + size])
        return answer.goes_on

    def _break(self) -> bool:
        """A reset: closing with unsent time zero throws the connection away instead of ending it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The two files hold the socket open otherwise, and what is sent then is an orderly end.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        return False

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


def _refused(request: Request, kind: str) -> bytes:
    return refusal(operation=request.operation, method=request.method, path=request.path, throttled=kind == SLOW_DOWN)
