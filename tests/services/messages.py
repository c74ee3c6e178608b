"""HTTP messages byte for byte: read from a connection, exchanged with a server, and refusals as AWS words them."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from uuid import uuid4
from xml.sax.saxutils import escape

WAIT_SECONDS = 60.0
_CHUNK = 64 * 1024


class Broken(Exception):
    """The other side ended in the middle of a message."""


@dataclass(frozen=True)
class Answer:
    head: bytes
    body: bytes
    goes_on: bool


def exchange(upstream: tuple[str, int], raw: bytes, method: str) -> Answer | None:
    """The server's answer; None when it cannot be reached, or ends early."""
    try:
        with socket.create_connection(upstream, timeout=WAIT_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(raw)
            with connection.makefile("rb") as stream:
                return _read_answer(stream, method)
    except (OSError, Broken, ValueError):
        return None


def _read_answer(stream, method: str) -> Answer | None:
    while True:
        head = head_of(stream)
        if not head:
            return None
        start, headers = parsed(head)
        status = int(start.split(" ", 2)[1])
        if status >= 200:  # the 100 Continue was given by the proxy already
            break
    if method == "HEAD" or status in (204, 304):
        return Answer(head, b"", goes_on=_kept(start, headers))
    if "content-length" in headers or "chunked" in headers.get("transfer-encoding", ""):
        return Answer(head, body_of(stream, headers), goes_on=_kept(start, headers))
    return Answer(head, stream.read(), goes_on=False)


def _kept(start: str, headers: dict[str, str]) -> bool:
    return start.startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"


def head_of(stream) -> bytes:
    """Start line and headers with the empty line; b"" at the end of the connection."""
    lines = []
    while line := stream.readline(_CHUNK):
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            return b"".join(lines) if len(lines) > 1 else b""
    return b""


def parsed(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return start, {name.strip().lower(): value.strip() for name, _, value in pairs}


def body_of(stream, headers: dict[str, str]) -> bytes:
    """The body's bytes as they came, chunk sizes included."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        return _exactly(stream, int(headers.get("content-length", "0") or 0))
    parts = []
    while True:
        line = stream.readline(_CHUNK)
        parts.append(line)
        size = int(line.partition(b";")[0].strip() or b"0", 16)
        if size == 0:
            break
        parts.append(_exactly(stream, size + 2))
    while (line := stream.readline(_CHUNK)) not in (b"\r\n", b"\n", b""):
        parts.append(line)
    return b"".join([*parts, line])


def _exactly(stream, size: int) -> bytes:
    body = stream.read(size) if size else b""
    if len(body) < size:
        raise Broken
    return body


def without_condition(raw: bytes) -> bytes:
    head, end, body = raw.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"if-none-match:")]
    return b"\r\n".join(lines) + end + body


def refusal(*, operation: str, method: str, path: str, throttled: bool) -> bytes:
    """As AWS words it; by the protocol of the service that was asked."""
    if operation:
        name = "ProvisionedThroughputExceededException" if throttled else "InternalServerError"
        status = "400 Bad Request" if throttled else "500 Internal Server Error"
        body = {"__type": f"com.amazonaws.dynamodb.v20120810#{name}", "message": "injected by the fault proxy"}
        return _message(status, "application/x-amz-json-1.0", json.dumps(body))
    code = "SlowDown" if throttled else "InternalError"
    status = "503 Slow Down" if throttled else "500 Internal Server Error"
    words = "Please reduce your request rate." if throttled else "We encountered an internal error."
    xml = f"<Error><Code>{code}</Code><Message>{words}</Message><Resource>{escape(path)}</Resource></Error>"
    text = "" if method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'
    return _message(status, "application/xml", text)


def _message(status: str, kind: str, text: str) -> bytes:
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        f"x-amzn-RequestId: {uuid4().hex}",
        f"x-amz-request-id: {uuid4().hex}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
