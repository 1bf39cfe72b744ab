"""The async twins: every store class under its name with Async before it, and the transfers.

    async with AsyncSqliteStore("x.sqlite") as store:
        await store.put("key", b"data")

None of them is written by hand: `twin` makes an AsyncStore of any class of stores, and arguments that are
AsyncStores themselves (the children of an AsyncFanoutStore) are taken for the stores in them. What is
promised under cancellation is in `mountstore.aio`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from mountstore.aio import AsyncStore
from mountstore.store import ObjectStore
from mountstore.transfer import Progress, Stopped, TransferSummary, clear_store, copy_store, sync_stores

_MODULES = {
    "DictStore": "mountstore.backends.memory",
    "FilesystemStore": "mountstore.backends.filesystem",
    "HashdirStore": "mountstore.backends.hashdir",
    "HttpStore": "mountstore.backends.http",
    "RcloneStore": "mountstore.backends.rclone",
    "RedisStore": "mountstore.backends.redis",
    "RestStore": "mountstore.backends.rest",
    "SftpStore": "mountstore.backends.sftp",
    "SqliteStore": "mountstore.backends.sqlite",
    "ZipStore": "mountstore.backends.zip",
}
"""Where the backends are; every other class is one of `mountstore.stores`."""


class Twin(AsyncStore):
    """An AsyncStore that makes its store itself, from the arguments of the store's class.

    Making a store may open a file, which is not awaited. `limit` is AsyncStore's.
    """

    twin_of: ClassVar[Callable[..., ObjectStore]]

    def __init__(self, *arguments: Any, limit: int | None = None, **options: Any) -> None:
        make = type(self).twin_of
        plain = {name: _plain(value) for name, value in options.items()}
        super().__init__(make(*map(_plain, arguments), **plain), limit=limit)


def twin(store_class: Callable[..., ObjectStore], name: str = "") -> type[Twin]:
    """The async twin of a class of stores, one's own too."""
    name = name or f"Async{getattr(store_class, '__name__', 'Store')}"
    body = {"twin_of": staticmethod(store_class), "__doc__": f"The async twin: {store_class.__doc__ or ''}"}
    return type(name, (Twin,), {**body, "__module__": __name__})


class AsyncBucketStore(AsyncStore):
    """A bucket, awaited. `client` is an S3 client to take credentials, region and endpoint from: boto3's, or
    one of aiobotocore; with None they are found as boto3 finds them. It is not used to send anything. Of
    credentials that an aiobotocore client refreshes itself, only their place is taken: boto3's own chain
    (environment, profile, role) then has to find the same.

    `options` are those of BucketStore. Nothing is sent before the first call.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str = "", *, limit: int = 32, **options: Any
    ) -> None:
        from mountstore.backends.s3 import BucketStore

        client, place = _sync_client(client)
        options = {**place, **options}
        # Without a limit the capabilities would be asked for one, and that asks the server.
        super().__init__(BucketStore(bucket, prefix, client=client, **options), limit=limit)


async def async_sync_stores(
    source: ObjectStore | AsyncStore,
    target: ObjectStore | AsyncStore,
    delete: bool = False,
    **options: Any,
) -> TransferSummary:
    """`sync_stores`, awaited. Cancelled, it ends once the objects that are under way are whole or dropped.

    `progress` is called in worker threads, not in the event loop.
    """
    return await _transfer(sync_stores, _plain(source), _plain(target), delete, **options)


async def async_copy_store(
    source: ObjectStore | AsyncStore, target: ObjectStore | AsyncStore, **options: Any
) -> TransferSummary:
    """`copy_store`, awaited; see `async_sync_stores`."""
    return await _transfer(copy_store, _plain(source), _plain(target), **options)


async def async_clear_store(
    store: ObjectStore | AsyncStore,
    prefix: str = "",
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> TransferSummary:
    """`clear_store`, awaited; see `async_sync_stores`."""
    return await _transfer(clear_store, _plain(store), prefix, dry_run=dry_run, progress=progress)


async def _transfer(
    transfer: Callable[..., TransferSummary], *arguments: Any, **options: Any
) -> TransferSummary:
    stop = threading.Event()
    outcome: list[TransferSummary] = []
    failed: list[Exception] = []

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_when_cancelled)
        call = functools.partial(transfer, *arguments, stop=stop, **options)
        try:
            # Waits for the thread even when cancelled; `stop` makes that short.
            outcome.append(await anyio.to_thread.run_sync(call))
        except Stopped:
            await anyio.lowlevel.checkpoint()  # cancelled, as nothing else stops it
            raise
        except Exception as error:
            failed.append(error)  # raised outside, where no group wraps it
        tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return outcome[0]


def _sync_client(client: Any) -> tuple[Any, dict[str, Any]]:
    """A client that a BucketStore can read, and options of BucketStore that say the rest."""
    credentials = client and client._request_signer._credentials
    if not credentials or not inspect.iscoroutinefunction(credentials.get_frozen_credentials):
        return client, {}
    place = {"endpoint": client.meta.endpoint_url, "region": client.meta.region_name}
    if hasattr(credentials, "refresh_needed"):
        return None, place
    from botocore.credentials import Credentials

    plain = Credentials(credentials.access_key, credentials.secret_key, credentials.token)
    signer = SimpleNamespace(_credentials=plain)
    return SimpleNamespace(_request_signer=signer, meta=client.meta), {}


def _plain(value: Any) -> Any:
    if isinstance(value, AsyncStore):
        return value.store
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def __getattr__(name: str) -> type[Twin]:
    store = name.removeprefix("Async")
    if store != name and store.endswith("Store"):
        module = import_module(_MODULES.get(store, "mountstore.stores"))
        found = getattr(module, store, None)
        if isinstance(found, type) and issubclass(found, ObjectStore):
            made = twin(found, name)
            globals()[name] = made
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
