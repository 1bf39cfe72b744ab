"""Our stores, and beside each what it is compared with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mountstore.aio import AsyncStore
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.hashdir import HashdirStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.backends.zip import ZipStore
from mountstore.store import ObjectStore
from mountstore.stores import CachingStore
from scripts.benchmarks.stores import yardsticks
from scripts.benchmarks.stores.work import Subject

Open = Callable[[Path], Subject]


class Ours:
    """A store of ours as a subject. With `batched`, what is put in one go is one batch."""

    def __init__(self, store: ObjectStore, *, batched: bool = False) -> None:
        self._store = store
        self._batched = batched

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        put = self._store.put
        together = self._store.batch() if isinstance(self._store, ZipStore) else contextlib.nullcontext()
        with together if self._batched else contextlib.nullcontext():
            for key, data in objects:
                put(key, data)

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        get = self._store.get
        return [get(key) for key in keys]  # type: ignore[misc]  # compared with bytes, whatever it is

    def list_all(self) -> list[str]:
        return list(self._store.keys())

    def close(self) -> None:
        self._store.close()


class OursAsync:
    """A store of ours, awaited under asyncio."""

    def __init__(self, store: ObjectStore) -> None:
        self._runner = asyncio.Runner()
        self._store = self._runner.run(self._open(store))

    async def _open(self, store: ObjectStore) -> AsyncStore:
        return AsyncStore(store)

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        async def work() -> None:
            put = self._store.put
            for key, data in objects:
                await put(key, data)

        self._runner.run(work())

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        found: list[bytes] = []  # a result of the task itself would be formatted by Runner.run

        async def work() -> None:
            get = self._store.get
            for key in keys:
                found.append(await get(key))  # type: ignore[arg-type]

        self._runner.run(work())
        return found

    def list_all(self) -> list[str]:
        found: list[str] = []

        async def work() -> None:
            found.extend([key async for key in self._store.keys()])

        self._runner.run(work())
        return found

    def close(self) -> None:
        self._runner.run(self._store.aclose())
        self._runner.close()


@dataclass(frozen=True, slots=True)
class Pair:
    """How to open our store in an empty folder, with or without durability, and its yardstick.

    `syncs` says that the yardstick syncs, so that ours is durable beside it.
    """

    name: str
    ours: Callable[[Path, bool], Subject]
    yardstick: Open
    syncs: bool = False


def _caching(ttl_s: float) -> Callable[[Path, bool], Subject]:
    def ours(folder: Path, durable: bool) -> Subject:
        main, cache = (FilesystemStore(folder / name, durable=durable) for name in ("main", "cache"))
        return Ours(CachingStore(main, cache, ttl_s=ttl_s))

    return ours


PAIRS = (
    Pair("file", lambda folder, durable: Ours(FilesystemStore(folder, durable=durable)), yardsticks.file),
    Pair("hashdir", lambda folder, durable: Ours(HashdirStore(folder, durable=durable)), yardsticks.hashdir),
    Pair(
        "sqlite",
        lambda folder, durable: Ours(SqliteStore(folder / "ours.sqlite", durable=durable)),
        yardsticks.sqlite,
        syncs=True,
    ),
    # The yardstick never asks the main store again; ours may do so for each read, which is its default.
    Pair("caching", _caching(3600.0), yardsticks.caching),
    Pair("caching-fresh", _caching(0.0), yardsticks.caching),
    Pair(
        "async-file",
        lambda folder, durable: OursAsync(FilesystemStore(folder, durable=durable)),
        yardsticks.PlainAsync,
    ),
    Pair(
        "zip",
        lambda folder, durable: Ours(ZipStore(folder / "ours.zip", durable=durable), batched=True),
        yardsticks.archive,
    ),
    Pair("memory", lambda folder, durable: Ours(DictStore()), yardsticks.memory),
)
"""What every machine can measure; `redis_pair` is added where there is a server."""


def redis_pair(url: str) -> Pair:
    """The store in the Redis server at `url`, whose database is emptied; it decides on durability itself."""

    def ours(_: Path, __: bool) -> Subject:
        from mountstore.backends.redis import RedisStore

        yardsticks.redis(url)(Path()).close()
        return Ours(RedisStore(url))

    return Pair("redis", ours, yardsticks.redis(url))
