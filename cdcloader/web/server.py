"""Serves the HTTP side from a thread, beside the loop and never in its way."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from cdcloader.errors import ConfigError

_HINTS = {
    errno.EADDRINUSE: "another process uses the port, perhaps another cdcloader; stop it or set another http.port",
    errno.EACCES: "set http.port to 1024 or above",
    errno.EADDRNOTAVAIL: "set http.host to an address of this machine, or to 0.0.0.0 for all",
}
_STOP_SECONDS = 5
# A scraper, an orchestrator and a few people; more are refused with 503, and nobody takes the process's open files.
_CONNECTIONS_MAX = 256
_HEADER_BYTES_MAX = 16 << 10
_IDLE_SECONDS = 10


class WebServer:
    """An ASGI application on `host` and `port`; port 0 takes a free one, which `port` then names."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self.host = host
        self.port = port
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,  # Our own logging renders what uvicorn says.
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        # uvicorn takes the signals only in the main thread, so SIGTERM stays with the daemon.
        self._thread = threading.Thread(target=self._serve, name="cdcloader-web", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen, then serve from a thread; ConfigError when the address cannot be had."""
        self._socket = _listen(self.host, self.port)
        self.port = self._socket.getsockname()[1]
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests in hand, for a second at most, and close the port."""
        if self._socket is None:
            return
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        self._socket.close()
        self._socket = None

    def _serve(self) -> None:
        if self._socket is not None:
            self._server.run(sockets=[self._socket])


class _Connection(H11Protocol):
    """Is closed when no whole request comes for a while: uvicorn alone would wait for the rest of one for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_IDLE_SECONDS, self._close_if_idle, None)

    def _close_if_idle(self, last: RequestResponseCycle | None) -> None:
        """Close it where no request is in hand and none has come since `last`; else look again later."""
        if self.transport.is_closing():
            return
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.cycle is last:
            self.transport.close()
        else:
            self.loop.call_later(_IDLE_SECONDS, self._close_if_idle, self.cycle)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # The kernel queues connections from here on, so a request right after start() is answered.
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "set http.host and http.port to an address of this machine")
        raise ConfigError(
            f"cannot listen: {error.strerror or error}", where=f"http {host}:{port}", hint=hint
        ) from error
