"""mountstore: any object store as a directory, and as one small Python contract.

General layout, each part importing only from those above it:

    errors       every exception raised on purpose, drawn as a tree
    store        the contract: ObjectStore, ObjectInfo, Page, Capabilities
    backends     a module for each kind of store: memory, files, SQLite, S3
    stores       stores that wrap other stores
    aio          AsyncStore: any store, awaited from trio or asyncio
    registry     a URL becomes a store
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
    from mountstore.errors import (
        AccessDenied,
        BadUrl,
        Corrupted,
        InvalidKey,
        InvalidRange,
        MountError,
        MountstoreError,
        NotFound,
        PreconditionFailed,
        StoreError,
        StoreFull,
        Unavailable,
        Unsupported,
        UsageError,
    )
    from mountstore.registry import open_store
    from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page

__version__ = "0.1.0.dev0"

__all__ = [
    "AccessDenied",
    "AsyncStore",
    "BadUrl",
    "Capabilities",
    "Corrupted",
    "Data",
    "InvalidKey",
    "InvalidRange",
    "MountError",
    "MountstoreError",
    "NotFound",
    "ObjectInfo",
    "ObjectStore",
    "Page",
    "PreconditionFailed",
    "StoreError",
    "StoreFull",
    "Unavailable",
    "Unsupported",
    "UsageError",
    "__version__",
    "open_store",
]

_MODULES = {
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
