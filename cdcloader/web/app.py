"""The HTTP side: /metrics, /livez, /readyz, /status and the page that links to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdcloader.metrics import CONTENT_TYPE, Metrics

Check = Callable[[], tuple[bool, str]]

# Nothing here is for another site's page, for a cache, or for a script.
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>cdcloader</title></head>
<body>
<h1>cdcloader</h1>
<ul>
<li><a href="/status">/status</a>: where each table stands, as JSON</li>
<li><a href="/metrics">/metrics</a>: for Prometheus</li>
<li><a href="/livez">/livez</a>: is the loop turning?</li>
<li><a href="/readyz">/readyz</a>: can it do its work?</li>
</ul>
</body>
</html>
"""


def make_app(metrics: Metrics, status: Callable[[], list[dict[str, Any]]], live: Check, ready: Check) -> Starlette:
    """The application; it only answers GET and HEAD.

    `status` gives one JSON-ready dict per table. `live` and `ready` give (yes or no, the reason in words);
    `live` must return at once, because it is what decides whether the process is restarted.
    """

    def show_index(_request: Request) -> Response:
        return HTMLResponse(_INDEX)

    def show_metrics(_request: Request) -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    def show_status(_request: Request) -> Response:
        return JSONResponse({"tables": status()})

    # Async, so that it answers while /status or /readyz hold every thread of the pool.
    async def show_live(_request: Request) -> Response:
        return _verdict(*live())

    def show_ready(_request: Request) -> Response:
        return _verdict(*ready())

    app = Starlette(
        routes=[
            Route("/", show_index, methods=["GET"]),
            Route("/metrics", show_metrics, methods=["GET"]),
            Route("/status", show_status, methods=["GET"]),
            Route("/livez", show_live, methods=["GET"]),
            Route("/readyz", show_ready, methods=["GET"]),
        ],
        middleware=[Middleware(_SecurityHeaders)],
        exception_handlers={Exception: _say_broken},
    )
    # A redirect would repeat the Host header of the request, which anybody may forge.
    app.router.redirect_slashes = False
    return app


def _verdict(good: bool, reason: str) -> Response:  # noqa: FBT001
    return PlainTextResponse(f"{reason}\n", status_code=200 if good else 503)


async def _say_broken(_request: Request, _error: Exception) -> Response:
    # Starlette sends this outside of every middleware, and then raises the error to the server's log.
    return PlainTextResponse("internal error; see the log\n", status_code=500, headers=SECURITY_HEADERS)


class _SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
