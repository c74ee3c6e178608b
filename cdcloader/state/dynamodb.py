"""State records in a DynamoDB table, the AWS walkthrough's own or a new one of the same shape."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoRegionError,
    WaiterError,
)
from botocore.exceptions import ConnectionError as NotConnected

from cdcloader.errors import CdcloaderError, ConfigError, TableError, TransientError
from cdcloader.state.codecs import Attributes
from cdcloader.state.record import Record, from_attributes, to_attributes
from cdcloader.state.replicas import REPLICAS_PATH, Replicas, replicas_from_attributes, replicas_to_attributes
from cdcloader.state.store import (
    changed_attributes,
    changed_meanwhile,
    exists_already,
    guard_attributes,
    replicas_changed,
)

# Throttling, trouble of the service, and credentials that are renewed while we wait.
_PASSING = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestExpired",
    "RequestLimitExceeded",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TransactionConflictException",
}
# A signature that is too old, or not valid yet, says that a clock is wrong; any other wrong one, that the secret is.
_SKEWED = re.compile(r"Signature (expired|not yet current)")
_HINTS = {
    "AccessDeniedException": "allow dynamodb:GetItem, PutItem, UpdateItem and Scan on the table (CreateTable and "
    "DescribeTable too, or create the table yourself: hash key `path`, a string)",
    "ResourceNotFoundException": "create the table (hash key `path`, a string), or set state.table, AWS_REGION or "
    "AWS_ENDPOINT_URL to where it is",
    "ValidationException": "state.table should be a table with the hash key `path`, a string, and no range key",
}
_CREDENTIALS_HINT = "see to the AWS credentials and region: the standard AWS variables, profile or role"
_HTTP_SERVER_ERROR = 500
_WHOLE = re.compile(r"-?[0-9]{1,38}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A condition did not hold. After a retry, it may have met what the first try wrote and whose answer was lost."""

    after_retry: bool


class DynamoDBStore:
    """A `StateStore` in one DynamoDB table with the hash key `path`.

    Without a `client`, endpoint, region and credentials come from the standard AWS variables and chain.
    """

    def __init__(self, table: str, client: Any = None) -> None:
        self._table = table
        self._client = _standard_client() if client is None else client

    def get(self, path: str) -> Record | None:
        """The record as it is now, None when there is none."""
        item = self._get(path)
        return None if item is None else from_attributes(item)

    def all(self) -> list[Record]:
        """Every record, ordered by path; TableError when one of them is damaged."""
        items: list[Mapping[str, Any]] = []
        page: dict[str, Any] = {}
        while True:
            answer = self._call("scan", "", ConsistentRead=True, **page)
            items += answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                break
            page = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        plain = [_plain(item) for item in items]
        records = [from_attributes(item) for item in plain if item["path"] != REPLICAS_PATH]
        return sorted(records, key=lambda record: record.path)

    def create(self, record: Record) -> None:
        """Store a record that does not exist yet; StateConflict when it does."""
        item = {name: _typed(value) for name, value in to_attributes(record).items() if value is not None}
        condition, names = "attribute_not_exists(#path)", {"#path": "path"}
        answer = self._call(
            "put_item", record.path, Item=item, ConditionExpression=condition, ExpressionAttributeNames=names
        )
        if isinstance(answer, _Refused) and not (answer.after_retry and self._get(record.path) == _plain(item)):
            raise exists_already(record.path)

    def update(self, old: Record, new: Record) -> Record:
        """Write what differs between `old` and `new`, provided that the guards still are as in `old`."""
        guards = guard_attributes(old)
        # An update writes something; a guard's own value changes nothing and checks all the same.
        changes = changed_attributes(old, new) or {"LeaseEpoch": old.lease_epoch}
        # Every name gets an alias, because DynamoDB reserves hundreds of words ("path" and "bucket" among them).
        names = {f"#{name}": name for name in ("path", *changes, *guards)}
        values: dict[str, dict[str, str]] = {}
        conditions = ["attribute_exists(#path)"]
        for name, (value, absent_counts) in guards.items():
            values[f":old_{name}"] = _typed(value)
            absent = f" OR attribute_not_exists(#{name}) OR attribute_type(#{name}, :null)" if absent_counts else ""
            conditions.append(f"(#{name} = :old_{name}{absent})")
            if absent_counts:
                values[":null"] = {"S": "NULL"}
        values |= {f":new_{name}": _typed(value) for name, value in changes.items() if value is not None}
        answer = self._call(
            "update_item",
            old.path,
            Key=_key(old.path),
            UpdateExpression=_expression(changes),
            ConditionExpression=" AND ".join(conditions),
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
        )
        if not isinstance(answer, _Refused):
            return from_attributes(_plain(answer["Attributes"]))
        stands = self._get(old.path) if answer.after_retry else None
        if stands is None or not _holds(stands, changes, new):
            raise changed_meanwhile(old.path)
        return from_attributes(stands)

    def replicas(self) -> Replicas:
        """The item in which the replicas beat."""
        item = self._get(REPLICAS_PATH)
        return Replicas() if item is None else replicas_from_attributes(item)

    def put_replicas(self, replicas: Replicas) -> None:
        """Replace it, if the revision before stands there."""
        attributes = {"path": REPLICAS_PATH, **replicas_to_attributes(replicas)}
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(#path)"}
        condition["ExpressionAttributeNames"] = {"#path": "path"}
        if replicas.revision > 1:
            condition = {"ConditionExpression": "#revision = :old"}
            condition["ExpressionAttributeNames"] = {"#revision": "Revision"}
            condition["ExpressionAttributeValues"] = {":old": _typed(replicas.revision - 1)}
        item = {name: _typed(value) for name, value in attributes.items()}
        if isinstance(self._call("put_item", REPLICAS_PATH, Item=item, **condition), _Refused):
            raise replicas_changed(replicas.revision)

    def probe(self) -> None:
        """Read once; a missing table is created, as the walkthrough does. ConfigError when an operator is needed."""
        try:
            self._client.get_item(TableName=self._table, Key=_key("cdcloader probe"))
        except ClientError as error:
            if _code(error) != "ResourceNotFoundException":
                raise _named(error, self._where("")) from error
            self.create_table()
        except NotConnected as error:
            raise ConfigError(
                f"DynamoDB cannot be reached: {error}",
                where=self._where(""),
                hint="see to the network, AWS_ENDPOINT_URL and AWS_REGION",
            ) from error
        except BotoCoreError as error:
            raise _named(error, self._where("")) from error

    def create_table(self) -> None:
        """Create the table, paid per request, and wait until it can be used; no matter if another was quicker."""
        try:
            self._client.create_table(
                TableName=self._table,
                AttributeDefinitions=[{"AttributeName": "path", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "path", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
            )
            log.info("state_table_created", state=self._table)
        except ClientError as error:
            if _code(error) != "ResourceInUseException":
                raise _named(error, self._where("")) from error
        except BotoCoreError as error:
            raise _named(error, self._where("")) from error
        try:
            self._client.get_waiter("table_exists").wait(
                TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
            )
        except (WaiterError, BotoCoreError, ClientError) as error:
            raise _named(error, self._where("")) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _get(self, path: str) -> dict[str, object] | None:
        """The attributes of an item."""
        answer = self._call("get_item", path, Key=_key(path), ConsistentRead=True)
        return _plain(answer["Item"]) if "Item" in answer else None

    def _where(self, path: str) -> str:
        return f"DynamoDB table {self._table}" + (f", {path}" if path else "")

    def _call(self, operation: str, path: str, **arguments: Any) -> Any:
        """The answer of one request on the table, `_Refused` when its condition did not hold."""
        try:
            return getattr(self._client, operation)(TableName=self._table, **arguments)
        except ClientError as error:
            if _code(error) == "ConditionalCheckFailedException":
                return _Refused(after_retry=error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0)
            raise _named(error, self._where(path)) from error
        except BotoCoreError as error:
            raise _named(error, self._where(path)) from error


def _standard_client() -> Any:
    session = boto3.Session()
    settings = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 4})
    try:
        # boto3 itself reads AWS_DEFAULT_REGION alone; the other AWS tools, and ECS, set AWS_REGION.
        region = os.environ.get("AWS_REGION") or session.region_name
        return session.client("dynamodb", region_name=region, config=settings)
    except NoRegionError as error:
        raise ConfigError("no AWS region is set", where="state", hint="set AWS_REGION") from error
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"no DynamoDB client: {error}", where="state", hint=_CREDENTIALS_HINT) from error


def _expression(changes: Mapping[str, str | int | None]) -> str:
    kept = ", ".join(f"#{name} = :new_{name}" for name, value in changes.items() if value is not None)
    removed = ", ".join(f"#{name}" for name, value in changes.items() if value is None)
    return " ".join(([f"SET {kept}"] if kept else []) + ([f"REMOVE {removed}"] if removed else []))


def _holds(item: Mapping[str, object], changes: Attributes, new: Record) -> bool:
    """Whether an item is as an update would leave it: what it changes, and the guards of its outcome."""
    guards = guard_attributes(new).items()
    return all(item.get(name) == value for name, value in changes.items()) and all(
        item.get(name) == value or (absent_counts and item.get(name) is None) for name, (value, absent_counts) in guards
    )


def _key(path: str) -> dict[str, dict[str, str]]:
    return {"path": {"S": path}}


def _typed(value: str | int | None) -> dict[str, str]:
    return {"N": str(value)} if isinstance(value, int) else {"S": str(value)}


def _plain(item: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    return {name: _value(typed) for name, typed in item.items()}


def _value(typed: Mapping[str, Any]) -> object:
    """The value of an attribute; one of a kind that we do not write stays as it is, for the record to refuse."""
    if "S" in typed:
        return typed["S"]
    if "NULL" in typed:
        return None
    if "N" in typed and _WHOLE.fullmatch(str(typed["N"])):
        return int(typed["N"])
    return dict(typed)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _named(error: Exception, where: str) -> CdcloaderError:
    if isinstance(error, ClientError):
        code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _PASSING or status >= _HTTP_SERVER_ERROR or _SKEWED.search(str(error)):
            return TransientError(f"DynamoDB did not serve the request: {error}", where=where)
        if code == "ValidationException" and "size" in str(error).lower():
            return TableError(
                "the state record is larger than DynamoDB holds (400 KB)", where=where, hint="lower look_back_seconds"
            )
        return ConfigError(f"DynamoDB refused: {error}", where=where, hint=_HINTS.get(code, _CREDENTIALS_HINT))
    # Read timeouts and dropped connections are kinds of HTTPClientError.
    if isinstance(
        error, (NotConnected, HTTPClientError, CredentialRetrievalError, MetadataRetrievalError, WaiterError)
    ):
        return TransientError(f"DynamoDB did not answer: {error}", where=where)
    return ConfigError(f"DynamoDB cannot be used: {error}", where=where, hint=_CREDENTIALS_HINT)
