"""Opens a root in S3."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from cdcloader.errors import ConfigError, TableError
from cdcloader.objects.keys import folder_of

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import ClientConfig, RetryConfig

# The daemon retries a table with its own pauses, so a call gives up within seconds: no try begins after the timeout, so
# that a server that swallows everything holds a call for one try more, and that one for as long as nothing is read.
_RETRY: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_TIMEOUTS: ClientConfig = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "300s"}
# Polars and delta-rs would wait for ever for an answer: they read with clients of their own, and Polars' has no limits.
_SCAN_TIMEOUTS = {"connect_timeout": "5s", "timeout": "300s"}
# boto3 renews a role's credentials when less than ten minutes are left; keeping them longer than that
# would sign requests with an expired token.
_CREDENTIALS_KEPT = timedelta(minutes=9)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A root in S3: its clean URL, its store, and the credentials and options that scans take beside it."""

    location: str
    store: S3Store
    credentials: Credentials
    options: dict[str, str]


def open_bucket(location: str) -> Bucket:
    """Open "s3://bucket/prefix"; ConfigError when it is no such URL, or when AWS credentials are missing."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError("the S3 location names no bucket", where=location, hint="write s3://bucket/prefix")
    try:
        prefix = folder_of(prefix, location)
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
    return Bucket(f"s3://{bucket}/{prefix}".rstrip("/"), store, credentials, options | _SCAN_TIMEOUTS)
