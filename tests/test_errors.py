"""Every class of trouble has one treatment, ours and a library's alike."""

from __future__ import annotations

import builtins
import errno
import sqlite3

import boto3
import botocore.exceptions
import polars as pl
import pyarrow as pa
import pytest
from botocore.stub import Stubber

from cdcloader.errors import (
    CdcloaderError,
    CommitConflict,
    ConfigError,
    StateConflict,
    Stopped,
    TableError,
    TransientError,
    Treatment,
    as_ours,
    treatment,
)
from cdcloader.objects import ObjectExists, ObjectMissing
from cdcloader.state.dynamodb import DynamoDBStore

REPLAN, RETRY, BLOCK, STOP, EXIT = Treatment
CASES = [
    (CommitConflict("taken"), REPLAN),
    (StateConflict("changed"), REPLAN),
    (TransientError("throttled"), RETRY),
    (TableError("bad file"), BLOCK),
    (ObjectMissing("gone"), BLOCK),
    (ObjectExists("there"), BLOCK),
    (CdcloaderError("of no class"), BLOCK),
    (ConfigError("wrong"), EXIT),
    (Stopped("the process ends"), STOP),
    (KeyboardInterrupt(), STOP),
    (SystemExit(1), STOP),
    (pl.exceptions.PanicException("native code"), BLOCK),
    (MemoryError(), RETRY),
    (pa.ArrowMemoryError("malloc failed"), RETRY),
    (ConnectionResetError(), RETRY),
    (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), RETRY),
    (BrokenPipeError(), RETRY),
    (TimeoutError(), RETRY),
    *((OSError(number, "passing"), RETRY) for number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT)),
    *((OSError(number, "passing"), RETRY) for number in (errno.ETIMEDOUT, errno.ECONNRESET, errno.EIO)),
    (PermissionError(errno.EACCES, "denied"), BLOCK),
    (FileNotFoundError(errno.ENOENT, "gone"), BLOCK),
    (OSError("no number"), BLOCK),
    (pl.exceptions.ComputeError("bad"), BLOCK),
    (pl.exceptions.SchemaError("bad"), BLOCK),
    (pa.ArrowInvalid("bad"), BLOCK),
    (KeyError("name"), BLOCK),
    (ZeroDivisionError(), BLOCK),
    (AssertionError(), BLOCK),
    (RecursionError(), BLOCK),
    (sqlite3.DatabaseError("malformed"), BLOCK),
    (botocore.exceptions.CredentialRetrievalError(provider="role", error_msg="no answer"), RETRY),
    (botocore.exceptions.MetadataRetrievalError(error_msg="no answer"), RETRY),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), RETRY),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), RETRY),
    (botocore.exceptions.NoCredentialsError(), BLOCK),
]


def is_error(value):
    return isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)


@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda value: repr(value)[:40])
def test_each_error_has_its_treatment(error, expected):
    """What passes is retried, what an operator must see stops its table, and what nobody foresaw stops it too."""
    assert treatment(error) is expected


@pytest.mark.parametrize("error", [error for error, expected in CASES if expected is not STOP], ids=repr)
def test_as_ours_keeps_the_treatment(error):
    """A library's error that becomes one of ours is treated as before, and says where and what to do."""
    known = as_ours(error, where="s/t")
    assert treatment(known) is treatment(error)
    if not isinstance(error, CdcloaderError):
        assert (known.where, type(error).__name__ in known.what, bool(known.hint)) == ("s/t", True, True)


@pytest.mark.parametrize("kind", [kind for kind in vars(builtins).values() if is_error(kind)])
def test_no_error_of_python_is_without_a_treatment(kind):
    """Whatever Python itself raises has an answer, and none of it is taken for a wrong config."""
    assert treatment(kind.__new__(kind)) in (RETRY, BLOCK, STOP)


def test_an_unknown_error_says_that_it_is_a_bug():
    """An operator is told to report what nobody foresaw."""
    assert "bug" in as_ours(KeyError("x"), where="s/t").hint
    assert "bug" not in as_ours(OSError(errno.ENOSPC, "disk full"), where="s/t").hint


@pytest.mark.parametrize(
    ("code", "message", "status", "expected"),
    [
        *(
            (code, "wait", 400, RETRY)
            for code in (
                "ExpiredTokenException",
                "ExpiredToken",
                "ProvisionedThroughputExceededException",
                "RequestLimitExceeded",
                "ThrottlingException",
            )
        ),
        ("InternalServerError", "oops", 500, RETRY),
        ("UnforeseenException", "oops", 503, RETRY),
        ("InvalidSignatureException", "Signature expired: 20260301T120000Z is now earlier than ...", 400, RETRY),
        ("InvalidSignatureException", "Signature not yet current: ...", 400, RETRY),
        ("InvalidSignatureException", "The request signature we calculated does not match", 400, EXIT),
        ("AccessDeniedException", "not authorized", 400, EXIT),
        ("UnrecognizedClientException", "The security token included in the request is invalid", 400, EXIT),
        ("ResourceNotFoundException", "no such table", 400, EXIT),
        ("ValidationException", "Item size has exceeded the maximum allowed size", 400, BLOCK),
    ],
)
def test_what_dynamodb_answers_has_its_treatment(code, message, status, expected):
    """Throttling, its own trouble, expired credentials and clocks pass; permissions and names need an operator."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("dynamodb", region_name="eu-west-1", **keys)
    with Stubber(client) as stubber:
        stubber.add_client_error("get_item", code, message, status)
        with pytest.raises(CdcloaderError) as caught:
            DynamoDBStore("states", client).get("bucket/raw/s/t/")
    assert treatment(caught.value) is expected
    assert "bucket/raw/s/t/" in caught.value.where
