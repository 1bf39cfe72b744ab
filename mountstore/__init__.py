"""mountstore: any object store as a directory, and as one small Python contract.

General layout, each part importing only from those above it:

    errors       every exception raised on purpose, drawn as a tree
    store        the contract: ObjectStore, ObjectInfo, Page, Capabilities
    backends     a module for each kind of store: memory, files, SQLite, S3
    stores       stores that wrap other stores
    aio          AsyncStore: any store, awaited from trio or asyncio
    registry     a URL becomes a store; beside it config, stores and mounts described in a file
    transfer     copy, sync and clear between any two stores
    aliases      the async twins of all of these by name
    namespaces   names over any store: nesting, soft deletion, quota, permissions
    vfs          POSIX verbs over one store, knowing nothing of FUSE
    fuse         the kernel's requests, handed to vfs
    daemon       one mount, from start to drained end
    cli          the command `mountstore`

What stands in this module is public; everything else may change without notice, except the classes
in `mountstore.backends`. Names are loaded when they are first used, so `import mountstore` costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mountstore.aio import AsyncStore
    from mountstore.aliases import (
        AsyncBucketStore,
        AsyncCachingStore,
        AsyncDictStore,
        AsyncFanoutStore,
        AsyncFilesystemStore,
        AsyncHashdirStore,
        AsyncSqliteStore,
        async_clear_store,
        async_copy_store,
        async_sync_stores,
    )
    from mountstore.config import open_config
    from mountstore.errors import (
        AccessDenied,
        BackendAlreadyExists,
        BackendDoesNotExist,
        BackendMustBeOpen,
        BackendMustNotBeOpen,
        BadUrl,
        Corrupted,
        InvalidKey,
        InvalidName,
        InvalidRange,
        MountError,
        MountstoreError,
        NotFound,
        PartialFailure,
        PreconditionFailed,
        QuotaExceeded,
        RangeNotSatisfiable,
        StoreError,
        StoreFull,
        Unavailable,
        Unsupported,
        UsageError,
    )
    from mountstore.registry import open_store
    from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page
    from mountstore.stores import CachingStore, FanoutStore
    from mountstore.transfer import clear_store, copy_store, sync_stores

__version__ = "0.1.0.dev0"

__all__ = [
    "AccessDenied",
    "AsyncBucketStore",
    "AsyncCachingStore",
    "AsyncDictStore",
    "AsyncFanoutStore",
    "AsyncFilesystemStore",
    "AsyncHashdirStore",
    "AsyncSqliteStore",
    "AsyncStore",
    "BackendAlreadyExists",
    "BackendDoesNotExist",
    "BackendMustBeOpen",
    "BackendMustNotBeOpen",
    "BadUrl",
    "CachingStore",
    "Capabilities",
    "Corrupted",
    "Data",
    "FanoutStore",
    "InvalidKey",
    "InvalidName",
    "InvalidRange",
    "MountError",
    "MountstoreError",
    "NotFound",
    "ObjectInfo",
    "ObjectStore",
    "Page",
    "PartialFailure",
    "PreconditionFailed",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "StoreError",
    "StoreFull",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "__version__",
    "async_clear_store",
    "async_copy_store",
    "async_sync_stores",
    "clear_store",
    "copy_store",
    "open_config",
    "open_store",
    "sync_stores",
]

_MODULES = {
    "AsyncBucketStore": "mountstore.aliases",
    "AsyncCachingStore": "mountstore.aliases",
    "AsyncDictStore": "mountstore.aliases",
    "AsyncFanoutStore": "mountstore.aliases",
    "AsyncFilesystemStore": "mountstore.aliases",
    "AsyncHashdirStore": "mountstore.aliases",
    "AsyncSqliteStore": "mountstore.aliases",
    "CachingStore": "mountstore.stores",
    "FanoutStore": "mountstore.stores",
    "async_clear_store": "mountstore.aliases",
    "async_copy_store": "mountstore.aliases",
    "async_sync_stores": "mountstore.aliases",
    "clear_store": "mountstore.transfer",
    "copy_store": "mountstore.transfer",
    "open_config": "mountstore.config",
    "sync_stores": "mountstore.transfer",
    "AsyncStore": "mountstore.aio",
    "open_store": "mountstore.registry",
    "Capabilities": "mountstore.store",
    "Data": "mountstore.store",
    "ObjectInfo": "mountstore.store",
    "ObjectStore": "mountstore.store",
    "Page": "mountstore.store",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES.get(name, "mountstore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
