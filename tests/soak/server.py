"""S3 and DynamoDB (moto) in a process of their own, which no kill reaches: `python -m tests.soak.server FOLDER`.

It writes its port to FOLDER/port, a byte to FOLDER/commits for every commit to a Delta log that it took, and one to
FOLDER/puts for every other object of the lake. Requests are served one at a time, because moto's conditional put looks
first and writes then.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

COMMIT, DATA = re.compile(r"/lake/.*/_delta_log/\d{20}\.json$"), re.compile(r"/lake/.*\.parquet$")


def main(folder: Path) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = _door(DomainDispatcherApplication(create_backend_app), folder)
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=MotoRequestHandler)
    unfinished = folder / ".port"
    unfinished.write_text(str(server.server_port))
    unfinished.replace(folder / "port")
    server.serve_forever()


def _door(app: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    lock = threading.Lock()
    commits, puts = ((folder / name).open("ab", buffering=0) for name in ("commits", "puts"))

    def answer(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        status = ""

        def start(line: str, *rest: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, *rest)

        # Read first: a client that is stopped in the middle of sending must not stop the others.
        sent = environ["wsgi.input"].read(*_lengths(environ))
        with lock:
            body = list(app({**environ, "wsgi.input": BytesIO(sent)}, start))
        if environ["REQUEST_METHOD"] == "PUT" and status.startswith("200"):
            for pattern, taken in ((COMMIT, commits), (DATA, puts)):
                if pattern.search(environ["PATH_INFO"]):
                    taken.write(b".")
        return body

    return answer


def _lengths(environ: Mapping[str, Any]) -> list[int]:
    """How much there is to read: as much as is announced; all of it where the server knows the end."""
    announced = environ.get("CONTENT_LENGTH")
    return [int(announced)] if announced else [] if environ.get("wsgi.input_terminated") else [0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
