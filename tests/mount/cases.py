"""A store to mount in a test, and a way to look into it that does not go through a mount."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mountstore.registry import open_store
from tests.servers import S3Server

S3_SERVERS = ["versitygw", "minio"]
LASTING = [*S3_SERVERS, "sqlite", "file"]
"""The kinds of store that are still there after a mount has ended."""
ALL = [*LASTING, "memory"]

LONG = os.environ.get("MOUNTSTORE_TEST_LONG", "0") not in ("", "0")
"""Whether to go on for longer than is asked of a release: MOUNTSTORE_TEST_LONG=1."""


@dataclass(frozen=True, slots=True)
class StoreCase:
    """One empty store: what to mount, with what environment; `keys`, `read` and `write` go around a mount."""

    kind: str
    url: str
    env: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def lasting(self) -> bool:
        return self.kind in LASTING

    def keys(self) -> dict[str, int]:
        """Size by key, directory markers included."""
        with open_store(self.url) as store:
            return {info.key: info.size for page in store.pages() for info in page.objects}

    def read(self, key: str) -> bytes:
        with open_store(self.url) as store:
            return bytes(store.get(key))

    def metadata(self, key: str) -> dict[str, str]:
        with open_store(self.url) as store:
            return dict(store.head(key).metadata or {})

    def write(self, key: str, data: bytes) -> None:
        with open_store(self.url) as store:
            store.put(key, data)

    def delete(self, key: str) -> None:
        with open_store(self.url) as store:
            store.delete(key)


@dataclass(frozen=True, slots=True)
class S3Case(StoreCase):
    """The same through boto3, so that nothing of ours stands between a test and the bucket."""

    client: Any = field(default=None, repr=False)
    bucket: str = ""
    prefix: str = ""

    def keys(self) -> dict[str, int]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return {
            one["Key"].removeprefix(self.prefix): one["Size"]
            for page in pages
            for one in page.get("Contents", [])
        }

    def read(self, key: str) -> bytes:
        data = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        assert isinstance(data, bytes)
        return data

    def metadata(self, key: str) -> dict[str, str]:
        return dict(self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)["Metadata"])

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=io.BytesIO(data))

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)


def s3_case(server: S3Server, *, prefix: str = "") -> S3Case:
    """A new bucket of this server, or a prefix (ending in a slash) of one."""
    bucket = server.new_bucket()
    return S3Case(
        kind=server.name,
        url=f"s3://{bucket}/{prefix}",
        env=server.env(),
        client=server.client(),
        bucket=bucket,
        prefix=prefix,
    )


def local_case(kind: str, folder: Path) -> StoreCase:
    """An empty store on the local disk (or in memory), in `folder`."""
    if kind == "memory":
        return StoreCase(kind, "memory:")
    if kind == "sqlite":
        return StoreCase(kind, f"sqlite://{folder / 'store.sqlite'}")
    (folder / "store").mkdir()
    return StoreCase(kind, f"file://{folder / 'store'}")


def make_case(kind: str, request: pytest.FixtureRequest, folder: Path, *, prefix: str = "") -> StoreCase:
    """An empty store of this kind; servers are started when first asked for. `prefix` is for S3 alone."""
    if kind not in S3_SERVERS:
        return local_case(kind, folder)
    server = request.getfixturevalue(kind)
    assert isinstance(server, S3Server)
    return s3_case(server, prefix=prefix)
