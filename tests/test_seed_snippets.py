"""The snippets of the seed document of object stores: their code lines, with only the imports changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from mountstore import AsyncBucketStore, NotFound
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.sqlite import SqliteStore
from tests.servers import S3Server


def test_using_a_store(tmp_path: Path) -> None:
    FilesystemStore(tmp_path).put("my_object_key", b"was there before")

    store = FilesystemStore(str(tmp_path))

    data = store.get('my_object_key')  # fmt: skip

    exists = store.exists('my_object_key')  # fmt: skip

    store.put('my_object_key', b'my object data')  # fmt: skip

    assert (bytes(data), exists, bytes(store.get("my_object_key"))) == (
        b"was there before",
        True,
        b"my object data",
    )

    store.delete('my_object_key')  # fmt: skip

    keys = list(store.keys())

    assert keys == []
    with pytest.raises(KeyError):
        store.get("my_object_key")
    with pytest.raises(KeyError):
        store.delete("my_object_key")


def test_a_store_that_is_a_context_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with SqliteStore('db.sqlite') as store:  # fmt: skip
        store.put('my_object_key', b'my object data')  # fmt: skip
        data = store.get('my_object_key')  # fmt: skip

    assert bytes(data) == b"my object data"


class AsyncClient:
    """What an aiobotocore client looks like: its credentials are awaited, and so is the client itself."""

    def __init__(self, server: S3Server) -> None:
        async def get_frozen_credentials() -> Any:
            raise AssertionError("static credentials need no asking")

        credentials = SimpleNamespace(
            access_key=server.access_key,
            secret_key=server.secret_key,
            token=None,
            get_frozen_credentials=get_frozen_credentials,
        )
        self._request_signer = SimpleNamespace(_credentials=credentials)
        self.meta = SimpleNamespace(endpoint_url=server.endpoint, region_name=server.region)


@contextlib.asynccontextmanager
async def boto3_client(server: S3Server) -> AsyncIterator[Any]:
    yield server.client()


@contextlib.asynccontextmanager
async def async_client(server: S3Server) -> AsyncIterator[Any]:
    yield AsyncClient(server)


@contextlib.asynccontextmanager
async def no_client(server: S3Server) -> AsyncIterator[Any]:
    yield None


@pytest.mark.parametrize("make_client", [boto3_client, async_client, no_client])
@pytest.mark.parametrize(
    "run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)], ids=["asyncio", "trio"]
)
def test_the_async_bucket(
    versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, make_client: Any, run: Any
) -> None:
    for name, value in versitygw.env().items():
        monkeypatch.setenv(name, value)
    versitygw.client().create_bucket(Bucket="my-bucket")
    got: list[bytes] = []

    async def main() -> None:
        async with make_client(versitygw) as s3_client:  # noqa: SIM117
            async with AsyncBucketStore(s3_client, 'my-bucket') as store:  # fmt: skip
                await store.put('my_object_key', b'my object data')  # fmt: skip
                data = await store.get('my_object_key')  # fmt: skip
                got.append(bytes(data))
                assert [key async for key in store.keys()] == ["my_object_key"]
                await store.delete("my_object_key")
                with pytest.raises(NotFound):
                    await store.get("my_object_key")

    try:
        run(main())
    finally:
        versitygw.client().delete_bucket(Bucket="my-bucket")
    assert got == [b"my object data"]
