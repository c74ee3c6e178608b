"""The objects under one root, whatever it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from cdcloader.errors import ConfigError, TransientError
from cdcloader.objects.conditional import prove_create
from cdcloader.objects.failures import DELETE, LIST, READ, WRITE, BehindEnd, errors_at
from cdcloader.objects.folder import open_folder
from cdcloader.objects.keys import folder_of, refuse_bad
from cdcloader.objects.reader import ObjectReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from botocore.credentials import Credentials
    from obstore import ObjectMeta
    from obstore.store import S3Store

_READ_BUFFER_BYTES = 4 * 1024 * 1024
_PAGE_OBJECTS = 1_000
_PART_BYTES = 16 * 1024 * 1024  # 10,000 parts of this size hold any data file


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: key relative to the root, size in bytes, ETag without quotes, UTC time."""

    key: str
    size: int
    etag: str
    last_modified: datetime


class Objects:
    """The objects under one root; safe to share between threads.

    Every method raises TableError (no such bucket, no permission, a bad key) or TransientError (throttling,
    timeout, connection), each with the full URL or path.
    """

    def __init__(
        self,
        location: str,
        store: S3Store | LocalStore,
        *,
        credentials: Credentials | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self.location = location
        self._store = store
        self._local = isinstance(store, LocalStore)
        self._credentials = credentials
        self._options = options or {}
        # The kernel sees to it in a local folder.
        self._creates_once = self._local

    @classmethod
    def open(cls, location: str, *, create: bool = False) -> Objects:
        """Open "s3://bucket/prefix", a local folder, or its file:// URL; `create` makes a local folder.

        ConfigError when the location is none of these, the local folder is missing, or AWS credentials are.
        """
        scheme = urlsplit(location).scheme if "://" in location else ""
        if scheme == "s3":
            # Whoever works on local folders has no use for the megabytes of the AWS client.
            from cdcloader.objects.s3 import open_bucket

            bucket = open_bucket(location)
            return cls(bucket.location, bucket.store, credentials=bucket.credentials, options=bucket.options)
        if scheme == "file":
            return cls(*open_folder(unquote(urlsplit(location).path), create=create))
        if scheme:
            hint = "use s3://bucket/prefix or a local folder"
            raise ConfigError(f"unknown kind of location {scheme}://", where=location, hint=hint)
        return cls(*open_folder(location, create=create))

    def path_of(self, key: str) -> str:
        """The full URL or path of a key, for people."""
        return f"{self.location}/{key}" if key else self.location

    def qualified(self, key: str) -> str:
        """As the AWS walkthrough writes its paths: `bucket/prefix/key` on S3; the absolute path locally."""
        return self.path_of(key).removeprefix("s3://")

    def folders(self, prefix: str = "") -> list[str]:
        """The names (last part only) of the folders directly in the folder `prefix`, in order."""
        folder = folder_of(prefix, self.path_of(prefix))
        with errors_at(self.path_of(folder), LIST):
            found = obstore.list_with_delimiter(self._store, prefix=folder or None)["common_prefixes"]
        names = [path.rstrip("/").rpartition("/")[2] for path in found]
        return sorted(name for name in names if not (self._local and name.startswith(".")))

    def is_blank(self) -> bool:
        """Whether a local root holds nothing at all, as where a volume is not mounted; False on S3."""
        root = Path(self.location)
        with errors_at(self.location, LIST):
            return self._local and not (root.is_dir() and any(root.iterdir()))

    def list(self, prefix: str = "", start_after: str = "") -> list[ObjectInfo]:
        """Every object in the folder `prefix` and below whose key is greater than `start_after`, by key in byte order.

        Both are keys relative to the root. A missing folder is an empty one. Locally, files whose name or
        folder starts with "." are left out, and so are files that are still being written.
        """
        folder = folder_of(prefix, self.path_of(prefix))
        with errors_at(self.path_of(folder), LIST):
            found = obstore.list(self._store, prefix=folder or None, offset=start_after or None).collect()
        # The marker object "folder/" comes back as the folder's own name.
        wanted = (m for m in found if m["path"] != folder and not (self._local and "/." in f"/{m['path']}"))
        return sorted(map(_info, wanted), key=lambda info: info.key)

    def pages(self, prefix: str = "", start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        """As `list`, a thousand at a time: on S3 a folder of any size is gone through in bounded memory."""
        if self._local:
            # A local folder is listed in the order of its disk, so that only the whole of it can be sorted.
            found = self.list(prefix, start_after)
            yield from (found[at : at + _PAGE_OBJECTS] for at in range(0, len(found), _PAGE_OBJECTS))
            return
        folder = folder_of(prefix, self.path_of(prefix))
        stream = obstore.list(self._store, prefix=folder or None, offset=start_after or None, chunk_size=_PAGE_OBJECTS)
        while True:
            # Around the request alone: what the caller does between two pages is no fault of the listing.
            with errors_at(self.path_of(folder), LIST):
                page = next(stream, None)
            if page is None:
                return
            yield [_info(meta) for meta in page if meta["path"] != folder]

    def read(self, key: str, *, etag: str = "") -> bytes:
        """The whole object; ObjectMissing when it is not there, TransientError when its ETag is not the given one."""
        where = self._checked(key)
        with errors_at(where, READ):
            got = obstore.get(self._store, key)
            _check_version(got.meta, etag, where)
            return bytes(got.bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer where the object ends, none behind its end."""
        where = self._checked(key)
        if length <= 0:
            return b""
        try:
            with errors_at(where, READ):
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
        except BehindEnd:
            return b""

    def open_reader(self, key: str, *, etag: str = "", buffer_bytes: int = _READ_BUFFER_BYTES) -> BinaryIO:
        """A seekable, buffered reader for a large object, to be closed by the caller.

        It reads one version of the object: TransientError when that has not the given ETag, or is replaced meanwhile.
        """
        where = self._checked(key)
        with errors_at(where, READ):
            if self._local:
                return self._open_file(key, where, etag, buffer_bytes)
            meta = self._head(key, where)
        _check_version(meta, etag, where)
        raw = ObjectReader(self._store, key, where, size=meta["size"], etag=meta["e_tag"])
        return cast("BinaryIO", io.BufferedReader(raw, buffer_bytes))

    def _open_file(self, key: str, where: str, etag: str, buffer_bytes: int) -> BinaryIO:
        file = Path(where).open("rb", buffering=buffer_bytes)  # noqa: SIM115 - the caller closes it
        if etag:
            try:
                # Asked behind the opening: what stands there still is what was opened.
                _check_version(obstore.head(self._store, key), etag, where)
            except BaseException:
                file.close()
                raise
        return file

    def _head(self, key: str, where: str) -> ObjectMeta:
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            raise
        except (BaseError, OSError):
            # The answer to a HEAD has no body that could say why; the answer to the same question as a GET has.
            with errors_at(where, READ):
                obstore.get_range(self._store, key, start=0, length=1)
            raise

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Write the object, in parts when it is large; readers see the old one or the whole new one."""
        where = self._checked(key)
        with errors_at(where, WRITE):
            obstore.put(self._store, key, data, chunk_size=_PART_BYTES)

    def create(self, key: str, data: bytes) -> None:
        """Write the object only if there is none; ObjectExists otherwise, with the old one untouched.

        ConfigError when the server does not keep that promise, which is tried before the first time.
        """
        self.prove_create()
        self._create(key, data)

    def prove_create(self) -> None:
        """Once per process: see that the server refuses to create an object twice; ConfigError when it does not."""
        if not self._creates_once:
            endpoint = self._options.get("aws_endpoint_url", "AWS S3")
            prove_create(self._create, self.delete, where=f"{self.location} at {endpoint}")
            self._creates_once = True

    def _create(self, key: str, data: bytes) -> None:
        where = self._checked(key)
        with errors_at(where, WRITE):
            # In one request whatever its size: not every server that knows the condition of a PUT knows it
            # of the request that completes an upload in parts.
            obstore.put(self._store, key, data, mode="create", use_multipart=False)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; keys that are not there are fine."""
        wanted = [*keys]
        places = [self._checked(key) for key in wanted]
        if self._local:
            for where in places:
                with errors_at(where, DELETE):
                    Path(where).unlink(missing_ok=True)
        elif wanted:
            with errors_at(places[0] if len(places) == 1 else self.location, DELETE):
                obstore.delete(self._store, wanted)

    def scan_target(self, key: str) -> tuple[str, dict[str, str] | None]:
        """(path or S3 URL, storage options) as Polars and delta-rs take them; "" is the root.

        The options hold credentials as they are now: ask anew for each scan, and log them nowhere.
        """
        path = self.path_of(folder_of(key, self.path_of(key)))
        if self._credentials is None:
            return path, None
        frozen = self._credentials.get_frozen_credentials()
        secrets = {
            "aws_access_key_id": frozen.access_key,
            "aws_secret_access_key": frozen.secret_key,
            "aws_session_token": frozen.token,
        }
        return path, self._options | {name: value for name, value in secrets.items() if value}

    def _checked(self, key: str) -> str:
        refuse_bad(key, self.location)
        return self.path_of(key)


def _info(meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], _etag(meta), meta["last_modified"])


def _etag(meta: ObjectMeta) -> str:
    return (meta["e_tag"] or "").strip('"')


def _check_version(meta: ObjectMeta, etag: str, where: str) -> None:
    """TransientError when an object is not the version that was listed; "" is any."""
    if etag and _etag(meta) != etag:
        raise TransientError("the object was replaced after it was listed", where=where)
