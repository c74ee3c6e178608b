"""A place on S3 and DynamoDB, on loopback: moto in a process of its own, or Ceph and dynalite."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.services.proxy import Request
from tests.services.servers import Servers
from tests.soak.places import ATTRIBUTES, Place, source_of
from tests.soak.server import COMMIT, DATA
from tests.soak.sniper import modified

_REGION = "eu-west-1"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": _REGION}
_HOST = "127.0.0.1"


class Cloud(Place):
    """A bucket and a state table of the world's own; `s3` and `dynamodb` are where the servers listen."""

    def __init__(self, home: Path, name: str, servers: Servers | None) -> None:
        self._home, self._bucket, self._table = home, f"soak-{name}", f"soak-{name}-state"
        home.mkdir(parents=True)
        self._moto = None if servers else subprocess.Popen([sys.executable, "-m", "tests.soak.server", str(home)])
        self.kind = f"S3 and DynamoDB ({'Ceph and dynalite' if servers else 'moto'})"
        port = self._port() if servers is None else 0
        self.s3 = (_HOST, servers.ceph.port if servers else port)
        self.dynamodb = (_HOST, servers.dynalite.port if servers else port)
        self.environ = self._environ_at(_url(self.s3))
        self._s3, self._dynamodb = _client("s3", _url(self.s3)), _client("dynamodb", _url(self.dynamodb))
        self._s3.create_bucket(Bucket=self._bucket, CreateBucketConfiguration={"LocationConstraint": _REGION})
        self._prove_conditional_put()

    def close(self) -> None:
        if self._moto is not None:
            self._moto.kill()
            self._moto.wait()

    def touch(self, request: Request) -> None:
        """Trip the wires for a request that is on its way, where the server does not do it when it has done it."""
        for pattern, name in ((COMMIT, "commits"), (DATA, "puts")):
            if request.method == "PUT" and pattern.search(request.path):
                with (self._home / name).open("ab") as wire:
                    wire.write(b".")

    def reached_by(self, url: str) -> None:
        """From now on the loaders come by this address."""
        self.environ = self._environ_at(url)

    def _environ_at(self, url: str) -> Mapping[str, str]:
        return {**_CREDENTIALS, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}

    def settings(self) -> dict[str, Any]:
        state = {"kind": "dynamodb", "table": self._table}
        return {"raw": f"s3://{self._bucket}/raw", "lake": f"s3://{self._bucket}/lake", "state": state}

    def put(self, key: str, content: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=f"raw/{key}", Body=content)

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._bucket, Key=f"raw/{key}")

    def tripwires(self, *, commit: bool) -> dict[str, int]:
        path = str(self._home / ("commits" if commit else "puts"))
        return {path: modified(path)}

    def names(self, prefix: str) -> list[str]:
        return [key.removeprefix(f"lake/{prefix}") for key in self._keys(f"lake/{prefix}")]

    def read(self, key: str) -> bytes:
        return self._s3.get_object(Bucket=self._bucket, Key=f"lake/{key}")["Body"].read()

    def local(self, target: str) -> Path:
        for key in self._keys(f"lake/{target}/"):
            copy = self._home / "copy" / key.removeprefix("lake/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.read(key.removeprefix("lake/")))
        return self._home / "copy" / target

    def records(self) -> dict[str, dict[str, Any]]:
        try:
            pages = list(self._dynamodb.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True))
        except self._dynamodb.exceptions.ResourceNotFoundException:
            return {}
        found = {}
        for item in (item for page in pages for item in page["Items"] if "out_path" in item):
            plain = {name: next(iter(value.values())) for name, value in item.items()}
            values = {name: plain.get(name) for name in ATTRIBUTES}
            numbers = {name: int(value) for name, value in values.items() if name != "LeaseOwner" and value is not None}
            found[source_of(plain["path"])] = values | numbers
        return found

    def _keys(self, prefix: str) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _port(self) -> int:
        file, end = self._home / "port", time.monotonic() + 60
        while not file.exists():
            if self._moto is None or self._moto.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server of {self._home} did not start")
            time.sleep(0.05)
        return int(file.read_text())

    def _prove_conditional_put(self) -> None:
        """Every commit rests on it: a server that lets an object be created twice proves nothing."""
        self._s3.put_object(Bucket=self._bucket, Key="once", Body=b"1", IfNoneMatch="*")
        try:
            self._s3.put_object(Bucket=self._bucket, Key="once", Body=b"2", IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                return
        raise RuntimeError("the S3 server creates an object twice")


def _url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


def _client(service: str, url: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=_REGION,
        aws_access_key_id=_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(max_pool_connections=20, connect_timeout=10, read_timeout=60),
    )
