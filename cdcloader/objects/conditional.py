"""The proof that a server creates an object only once, which every commit rests on."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable

from cdcloader.errors import CdcloaderError, ConfigError
from cdcloader.objects.failures import ObjectExists, Unsupported

_HINT = (
    "use a server that does (AWS S3 and Ceph from version 16 on do), and see that no proxy before it takes the "
    "header out; otherwise two writers overwrite each other's commits without an error"
)


def prove_create(create: Callable[[str, bytes], None], delete: Callable[[Iterable[str]], None], *, where: str) -> None:
    """Create an object twice; ConfigError about the server `where` unless the second time is refused."""
    key = f"_cdcloader/probe-{secrets.token_hex(8)}"
    try:
        create(key, b"first")
        create(key, b"second")
    except ObjectExists:
        # At the first time too: then a try whose answer was lost had made it.
        return
    except Unsupported as error:
        raise ConfigError(f"the server refuses conditional writes: {error.what}", where=where, hint=_HINT) from error
    finally:
        # One that may not be deleted stays: it is small, and no table's.
        with contextlib.suppress(CdcloaderError):
            delete([key])
    what = "the server ignores the condition of a write (If-None-Match): it created one object twice"
    raise ConfigError(what, where=where, hint=_HINT)
