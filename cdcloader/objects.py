"""List, read and write objects under one root, on S3 or in a local folder, with our own errors.

The one place that knows obstore: its exceptions end here. A key is relative to the root, its parts are
separated by "/", and none of them is empty, "." or "..".
"""

from __future__ import annotations

import errno
import io
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import boto3
import obstore
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError
from obstore.store import LocalStore, S3Store

from cdcloader.errors import CdcloaderError, ConfigError, TableError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from _typeshed import WriteableBuffer
    from botocore.credentials import Credentials
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

_READ_BUFFER_BYTES = 4 * 1024 * 1024
_PAGE_OBJECTS = 1_000
_PART_BYTES = 16 * 1024 * 1024  # 10,000 parts of this size hold any data file
# The daemon retries a table with its own pauses, so a call gives up within seconds.
_RETRY: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_TIMEOUTS: ClientConfig = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "300s"}
# boto3 renews a role's credentials when less than ten minutes are left; keeping them longer than that
# would sign requests with an expired token.
_CREDENTIALS_KEPT = timedelta(minutes=9)

_LIST = "s3:ListBucket"
_READ = "s3:GetObject (and kms:Decrypt where the bucket is encrypted with a KMS key)"
_WRITE = "s3:PutObject (and kms:GenerateDataKey where the bucket is encrypted with a KMS key)"
_DELETE = "s3:DeleteObject"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: key relative to the root, size in bytes, ETag without quotes, UTC time."""

    key: str
    size: int
    etag: str
    last_modified: datetime


class ObjectExists(CdcloaderError):
    """`create` found the key taken: by another writer, or by an earlier try of ours whose answer was lost."""


class ObjectMissing(TableError):
    """There is no object with this key."""


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

    @classmethod
    def open(cls, location: str, *, create: bool = False) -> Objects:
        """Open "s3://bucket/prefix", a local folder, or its file:// URL; `create` makes a local folder.

        ConfigError when the location is none of these, the local folder is missing, or AWS credentials are.
        """
        scheme = urlsplit(location).scheme if "://" in location else ""
        if scheme == "s3":
            return _open_s3(location)
        if scheme == "file":
            return _open_folder(unquote(urlsplit(location).path), create=create)
        if scheme:
            hint = "use s3://bucket/prefix or a local folder"
            raise ConfigError(f"unknown kind of location {scheme}://", where=location, hint=hint)
        return _open_folder(location, create=create)

    def path_of(self, key: str) -> str:
        """The full URL or path of a key, for people."""
        return f"{self.location}/{key}" if key else self.location

    def qualified(self, key: str) -> str:
        """As the AWS walkthrough writes its paths: `bucket/prefix/key` on S3; the absolute path locally."""
        return self.path_of(key).removeprefix("s3://")

    def folders(self, prefix: str = "") -> list[str]:
        """The names (last part only) of the folders directly in the folder `prefix`, in order."""
        folder = _folder(prefix, self.path_of(prefix))
        with _errors_at(self.path_of(folder), _LIST):
            found = obstore.list_with_delimiter(self._store, prefix=folder or None)["common_prefixes"]
        names = [path.rstrip("/").rpartition("/")[2] for path in found]
        return sorted(name for name in names if not (self._local and name.startswith(".")))

    def list(self, prefix: str = "", start_after: str = "") -> list[ObjectInfo]:
        """Every object in the folder `prefix` and below whose key is greater than `start_after`, by key in byte order.

        Both are keys relative to the root. A missing folder is an empty one. Locally, files whose name or
        folder starts with "." are left out, and so are files that are still being written.
        """
        folder = _folder(prefix, self.path_of(prefix))
        with _errors_at(self.path_of(folder), _LIST):
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
        folder = _folder(prefix, self.path_of(prefix))
        stream = obstore.list(self._store, prefix=folder or None, offset=start_after or None, chunk_size=_PAGE_OBJECTS)
        while True:
            # Around the request alone: what the caller does between two pages is no fault of the listing.
            with _errors_at(self.path_of(folder), _LIST):
                page = next(stream, None)
            if page is None:
                return
            yield [_info(meta) for meta in page if meta["path"] != folder]

    def read(self, key: str) -> bytes:
        """The whole object; ObjectMissing when it is not there."""
        where = self._checked(key)
        with _errors_at(where, _READ):
            return bytes(obstore.get(self._store, key).bytes())

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer where the object ends, none behind its end."""
        where = self._checked(key)
        if length <= 0:
            return b""
        try:
            with _errors_at(where, _READ):
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
        except _BehindEnd:
            return b""

    def open_reader(self, key: str, *, buffer_bytes: int = _READ_BUFFER_BYTES) -> BinaryIO:
        """A seekable, buffered reader for a large object, to be closed by the caller.

        On S3 it reads one version of the object: TransientError when it is replaced meanwhile.
        """
        where = self._checked(key)
        with _errors_at(where, _READ):
            if self._local:
                return Path(where).open("rb", buffering=buffer_bytes)
            meta = obstore.head(self._store, key)
        raw = _ObjectReader(self._store, key, where, size=meta["size"], etag=meta["e_tag"])
        return cast("BinaryIO", io.BufferedReader(raw, buffer_bytes))

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Write the object, in parts when it is large; readers see the old one or the whole new one."""
        where = self._checked(key)
        with _errors_at(where, _WRITE):
            obstore.put(self._store, key, data, chunk_size=_PART_BYTES)

    def create(self, key: str, data: bytes) -> None:
        """Write the object only if there is none; ObjectExists otherwise, with the old one untouched."""
        where = self._checked(key)
        with _errors_at(where, _WRITE):
            obstore.put(self._store, key, data, mode="create")

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; keys that are not there are fine."""
        wanted = [*keys]
        places = [self._checked(key) for key in wanted]
        if self._local:
            for where in places:
                with _errors_at(where, _DELETE):
                    Path(where).unlink(missing_ok=True)
        elif wanted:
            with _errors_at(places[0] if len(places) == 1 else self.location, _DELETE):
                obstore.delete(self._store, wanted)

    def scan_target(self, key: str) -> tuple[str, dict[str, str] | None]:
        """(path or S3 URL, storage options) as Polars and delta-rs take them; "" is the root.

        The options hold credentials as they are now: ask anew for each scan, and log them nowhere.
        """
        path = self.path_of(_folder(key, self.path_of(key)))
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
        _refuse_bad(key, self.location)
        return self.path_of(key)


class _BehindEnd(CdcloaderError):
    """A range that starts at or behind the end of its object."""


class _ObjectReader(io.RawIOBase):
    """One version of an S3 object as a raw stream: one ranged GET per read."""

    def __init__(self, store: S3Store | LocalStore, key: str, where: str, *, size: int, etag: str | None) -> None:
        super().__init__()
        self._store, self._key, self._where = store, key, where
        self._size, self._etag, self._at = size, etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a seek before the start of the object")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        got = self._next(len(view))
        view[: len(got)] = got
        return len(got)

    def readall(self) -> bytes:
        # The inherited one would ask for a few kilobytes at a time.
        return bytes(self._next(self._size))

    def _next(self, length: int) -> memoryview:
        end = min(self._at + length, self._size)
        if end <= self._at:
            return memoryview(b"")
        options: GetOptions = {"range": (self._at, end), "if_match": self._etag}
        with _errors_at(self._where, _READ):
            got = obstore.get(self._store, self._key, options=options).bytes()
        self._at += len(got)
        return memoryview(got)


def _open_folder(location: str, *, create: bool) -> Objects:
    folder = Path(os.path.abspath(Path(location).expanduser()))  # noqa: PTH100 - resolve() would follow links
    if not create and not folder.is_dir():
        raise ConfigError(f"folder {folder} does not exist", hint="create it, or correct its path in the config")
    try:
        store = LocalStore(folder, mkdir=create)
    except (BaseError, OSError) as error:
        raise ConfigError(f"folder {folder} cannot be used: {_text(error)}") from error
    return Objects(str(folder), store)


def _open_s3(location: str) -> Objects:
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError("the S3 location names no bucket", where=location, hint="write s3://bucket/prefix")
    try:
        prefix = _folder(prefix, location)
    except TableError as error:
        raise ConfigError(error.what, where=location, hint=error.hint) from error
    try:
        # boto3 reads AWS_DEFAULT_REGION and the profile; AWS_REGION is what the containers of AWS set.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        credentials = session.get_credentials()
    except BotoCoreError as error:
        raise ConfigError(f"the AWS credentials cannot be used: {error}", where=location) from error
    if credentials is None:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role"
        raise ConfigError("no AWS credentials found", where=location, hint=hint)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    # Path-style addresses work with every endpoint and with bucket names that hold dots.
    options = {"aws_virtual_hosted_style_request": "false"}
    options |= {"aws_region": session.region_name} if session.region_name else {}
    options |= {"aws_endpoint_url": endpoint} if endpoint else {}
    options |= {"aws_allow_http": "true"} if endpoint.startswith("http://") else {}
    store = S3Store(
        bucket,
        prefix=prefix or None,
        config=options,  # type: ignore[arg-type]  # obstore takes these names too, its stub lists the short ones
        client_options={**_TIMEOUTS, "allow_http": endpoint.startswith("http://")},
        retry_config=_RETRY,
        credential_provider=Boto3CredentialProvider(session, ttl=_CREDENTIALS_KEPT),
    )
    return Objects(f"s3://{bucket}/{prefix}".rstrip("/"), store, credentials=credentials, options=options)


def _info(meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"])


_REFUSED = re.compile(r"[\\\x00-\x1f\x7f]")


def _folder(prefix: str, where: str) -> str:
    if not prefix:
        return ""
    folder = prefix.removesuffix("/")
    _refuse_bad(folder, where)
    return folder


def _refuse_bad(key: str, where: str) -> None:
    parts = key.split("/")
    if _REFUSED.search(key) or any(part in ("", ".", "..") for part in parts):
        hint = 'a key has no empty, "." or ".." part, no backslash and no control character'
        raise TableError(f"the key {key!r} is refused", where=where, hint=hint)


@contextmanager
def _errors_at(where: str, permission: str) -> Iterator[None]:
    """Raise what goes wrong inside as one of our errors about `where`."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _translated(error, where, permission) from error


_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_S3_ERROR = re.compile(r"<Code>(\w+)</Code>\s*<Message>([^<]*)</Message>")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_PASSING_CODES = {"RequestTimeout", "SlowDown", "ExpiredToken", "RequestTimeTooSkewed", "OperationAborted"}
_PASSING_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE}
_DENIED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}


def _translated(error: BaseError | OSError, where: str, permission: str) -> CdcloaderError:
    text = _text(error)
    if isinstance(error, AlreadyExistsError):
        return ObjectExists("the object exists already", where=where)
    if "<Code>NoSuchBucket</Code>" in str(error):
        return TableError("the bucket does not exist", where=where, hint="create it, or correct its name in the config")
    if isinstance(error, FileNotFoundError):
        return ObjectMissing("there is no such object", where=where, hint="it was deleted, or never written")
    if isinstance(error, PreconditionError):
        return TransientError("the object was replaced while it was read", where=where)
    if isinstance(error, InvalidPathError):
        hint = 'rename or delete this object: a key must be UTF-8 without empty, "." or ".." parts'
        return TableError(text, where=where, hint=hint)
    return _local_error(error, where, text) if where.startswith("/") else _s3_error(error, where, text, permission)


def _s3_error(error: BaseError | OSError, where: str, text: str, permission: str) -> CdcloaderError:
    match, code = _STATUS.search(str(error)), _S3_ERROR.search(str(error))
    status = int(match[1]) if match else 0
    if status == 416:  # range not satisfiable
        return _BehindEnd(text, where=where)
    if status in (408, 429) or status >= 500 or (code and code[1] in _PASSING_CODES):
        return TransientError(text, where=where)
    if "credential provider" in text:
        return TransientError(text, where=where, hint="check where this process gets its AWS credentials")
    if status in (401, 403):
        hint = f"the AWS identity of this process needs {permission} here"
        return TableError(f"access denied: {text}", where=where, hint=hint)
    if status == 0 and "redirect" not in text:
        return TransientError(text, where=where, hint="check the network, and AWS_ENDPOINT_URL where it is set")
    return TableError(text, where=where, hint="check that AWS_REGION is the region of the bucket")


def _local_error(error: BaseError | OSError, where: str, text: str) -> CdcloaderError:
    match = _OS_ERROR.search(str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    if "range was invalid" in text:
        return _BehindEnd(text, where=where)
    if number in _DENIED_ERRNOS:
        hint = "give the user that runs cdcloader access to it"
        return TableError(f"permission denied: {text}", where=where, hint=hint)
    if number in _PASSING_ERRNOS:
        return TransientError(text, where=where, hint="check the disk: its free space and its health")
    return TableError(text, where=where, hint="check that the path is a regular file or folder")


def _text(error: Exception) -> str:
    """The one line that a person needs: S3's own code and message, or the message without obstore's dump."""
    found = _S3_ERROR.search(str(error))
    return f"{found[1]}: {found[2]}" if found else str(error).partition("\n\nDebug source")[0].strip()
