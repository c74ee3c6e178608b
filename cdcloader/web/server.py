"""Serves the HTTP side from a thread, beside the loop and never in its way."""

from __future__ import annotations

import errno
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from cdcloader.errors import ConfigError

_HINTS = {
    errno.EADDRINUSE: "another process uses the port, perhaps another cdcloader; stop it or set another http.port",
    errno.EACCES: "set http.port to 1024 or above",
    errno.EADDRNOTAVAIL: "set http.host to an address of this machine, or to 0.0.0.0 for all",
}
_STOP_SECONDS = 5


class WebServer:
    """An ASGI application on `host` and `port`; port 0 takes a free one, which `port` then names."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self.host = host
        self.port = port
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # Our own logging renders what uvicorn says.
            access_log=False,
            server_header=False,
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
