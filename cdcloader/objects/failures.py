"""What goes wrong with objects, as our errors: obstore's exceptions and the machine's end here."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError

from cdcloader.errors import CdcloaderError, TableError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = "s3:ListBucket"
READ = "s3:GetObject (and kms:Decrypt where the bucket is encrypted with a KMS key)"
WRITE = "s3:PutObject (and kms:GenerateDataKey where the bucket is encrypted with a KMS key)"
DELETE = "s3:DeleteObject"

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
# Not every server sends a message with its code.
_S3_ERROR = re.compile(r"<Code>([\w.]+)</Code>(?:\s*<Message>([^<]*)</Message>)?")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
# What S3 words as a client's error and what passes all the same: throttling, credentials that are renewed, a clock
# that is set, and a conditional write that met another one in flight (a 409, which obstore takes for "exists").
_PASSING_CODES = {
    "ConditionalRequestConflict",
    "ExpiredToken",
    "ExpiredTokenException",
    "OperationAborted",
    "RequestExpired",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TokenRefreshRequired",
}
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "SignatureDoesNotMatch"}
_PASSING_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE}
_DENIED_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}


class ObjectExists(CdcloaderError):
    """`create` found the key taken: by another writer, or by an earlier try of ours whose answer was lost."""


class ObjectMissing(TableError):
    """There is no object with this key."""


class BehindEnd(CdcloaderError):
    """A range that starts at or behind the end of its object."""


class Unsupported(TableError):
    """The server does not know what was asked of it."""


@contextmanager
def errors_at(where: str, permission: str) -> Iterator[None]:
    """Raise what goes wrong inside as one of our errors about `where`."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise translated(error, where, permission) from error


def translated(error: BaseError | OSError, where: str, permission: str) -> CdcloaderError:
    """The error as ours; `permission` is what the AWS identity needs for what was tried."""
    text, code = text_of(error), _code_of(error)
    if isinstance(error, AlreadyExistsError) and code not in _PASSING_CODES:
        return ObjectExists("the object exists already", where=where)
    if code == "NoSuchBucket":
        return TableError("the bucket does not exist", where=where, hint="create it, or correct its name in the config")
    if isinstance(error, FileNotFoundError):
        return ObjectMissing("there is no such object", where=where, hint="it was deleted, or never written")
    if isinstance(error, PreconditionError):
        return TransientError("the object was replaced while it was read", where=where)
    if isinstance(error, InvalidPathError):
        hint = 'rename or delete this object: a key must be UTF-8 without empty, "." or ".." parts'
        return TableError(text, where=where, hint=hint)
    return _local_error(error, where, text) if where.startswith("/") else _s3_error(error, where, code, permission)


def _s3_error(error: BaseError | OSError, where: str, code: str, permission: str) -> CdcloaderError:
    text, match = text_of(error), _STATUS.search(str(error))
    status = int(match[1]) if match else 0
    if status == 416:  # range not satisfiable
        return BehindEnd(text, where=where)
    if status in (408, 429) or (status >= 500 and status != 501) or code.removeprefix("KMS.") in _PASSING_CODES:
        return TransientError(text, where=where)
    if "credential provider" in text:
        return TransientError(text, where=where, hint="check where this process gets its AWS credentials")
    if code in _WRONG_CREDENTIALS or status in (401, 403, 501):
        return _refused(text, where, status, code, permission)
    if status == 0 and "redirect" not in text:
        return TransientError(text, where=where, hint="check the network, and AWS_ENDPOINT_URL where it is set")
    kms = "see to the KMS key that the bucket is encrypted with"
    region = "check that AWS_REGION is the region of the bucket"
    return TableError(text, where=where, hint=kms if code.startswith("KMS.") else region)


def _refused(text: str, where: str, status: int, code: str, permission: str) -> TableError:
    if status == 501:
        return Unsupported(text, where=where, hint="the server lacks a part of S3 that cdcloader needs")
    if code in _WRONG_CREDENTIALS:
        hint = "see to the AWS credentials of this process: the standard AWS variables, profile or role"
        return TableError(f"the credentials are refused: {text}", where=where, hint=hint)
    if code == "InvalidObjectState":
        hint = "the object is archived (S3 Glacier): restore it, and keep raw files in a class that can be read at once"
        return TableError(text, where=where, hint=hint)
    hint = f"the AWS identity of this process needs {permission} here"
    return TableError(f"access denied: {text}", where=where, hint=hint)


def _local_error(error: BaseError | OSError, where: str, text: str) -> CdcloaderError:
    match = _OS_ERROR.search(str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    if "range was invalid" in text:
        return BehindEnd(text, where=where)
    if number in _DENIED_ERRNOS:
        hint = "give the user that runs cdcloader access to it"
        return TableError(f"permission denied: {text}", where=where, hint=hint)
    if number in _PASSING_ERRNOS:
        return TransientError(text, where=where, hint="check the disk: its free space and its health")
    return TableError(text, where=where, hint="check that the path is a regular file or folder")


def _code_of(error: Exception) -> str:
    found = _S3_ERROR.search(str(error))
    return found[1] if found else ""


def text_of(error: Exception) -> str:
    """The one line that a person needs: S3's own code and message, or the message without obstore's dump."""
    found = _S3_ERROR.search(str(error))
    if found:
        return f"{found[1]} ({found[2]})" if found[2] else found[1]
    return str(error).partition("\n\nDebug source")[0].strip()
