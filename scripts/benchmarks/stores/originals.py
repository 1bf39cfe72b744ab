"""The stores of another implementation, the Python package `storage`, where a folder that holds it is named.

What is imported is what lies in that folder; nothing is fetched. It keeps no promise of ours: see
`tests/stores/test_defects.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mountstore.errors import UsageError
from scripts.benchmarks.stores.work import Subject

Open = Callable[[Path], Subject]


class _Sync:
    def __init__(self, store: Any, *, entered: bool = False) -> None:
        self._entered = store if entered else None
        self._store = store.__enter__() if entered else store

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        put = self._store.put
        for key, data in objects:
            put(key, data)

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        get = self._store.get
        return [get(key) for key in keys]

    def list_all(self) -> list[str] | None:
        try:
            return list(self._store.keys())
        except NotImplementedError:
            return None

    def close(self) -> None:
        if self._entered is not None:
            self._entered.__exit__(None, None, None)


class _Async:
    def __init__(self, store: Any) -> None:
        self._store = store
        self._runner = asyncio.Runner()

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        async def work() -> None:
            for key, data in objects:
                await self._store.put(key, data)

        self._runner.run(work())

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        found: list[bytes] = []  # a result of the task itself would be formatted by Runner.run

        async def work() -> None:
            for key in keys:
                found.append(await self._store.get(key))

        self._runner.run(work())
        return found

    def list_all(self) -> list[str]:
        found: list[str] = []

        async def work() -> None:
            found.extend([key async for key in self._store.keys()])

        self._runner.run(work())
        return found

    def close(self) -> None:
        self._runner.close()


def originals(folder: Path) -> Mapping[str, Open]:
    """How to open each, by the name of the pair. Raises UsageError if the package is not there."""
    if not (folder / "storage").is_dir():
        raise UsageError(f"--original {folder}: there is no package 'storage' in it")
    sys.path.insert(0, str(folder))
    try:
        files = importlib.import_module("storage.fs")
        utils = importlib.import_module("storage.utils")
        aio = importlib.import_module("storage.aiofs")
        database = importlib.import_module("storage.db")
        memory = importlib.import_module("storage.object")
        archive = importlib.import_module("storage.zip")
    except ImportError as error:
        raise UsageError(f"--original {folder}: {error}; install what it needs") from None

    def caching(base: Path) -> Subject:
        main, cache = (files.FilesystemStore(str(base / name)) for name in ("main", "cache"))
        return _Sync(utils.CachingStore(main, cache))

    return {
        "file": lambda base: _Sync(files.FilesystemStore(str(base))),
        "hashdir": lambda base: _Sync(files.HashdirStore(str(base))),
        "sqlite": lambda base: _Sync(database.SqliteStore(str(base / "original.sqlite")), entered=True),
        "caching": caching,
        "caching-fresh": caching,
        "async-file": lambda base: _Async(aio.AsyncFilesystemStore(str(base))),
        "memory": lambda base: _Sync(memory.DictStore()),
        "zip": lambda base: _Sync(archive.ZipStore(str(base / "original.zip")), entered=True),
    }
