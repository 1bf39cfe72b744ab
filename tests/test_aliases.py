"""The async twins of stores, wrappers and transfers, under asyncio and under trio."""

from __future__ import annotations

import asyncio
import pkgutil
import threading
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

import mountstore.backends
from mountstore import (
    AsyncCachingStore,
    AsyncDictStore,
    AsyncFanoutStore,
    AsyncFilesystemStore,
    AsyncHashdirStore,
    AsyncSqliteStore,
    AsyncStore,
    NotFound,
    PartialFailure,
    aliases,
    async_clear_store,
    async_copy_store,
    async_sync_stores,
    stores,
)
from mountstore.backends.memory import DictStore
from mountstore.store import ObjectStore
from mountstore.stores import ValidatingStore
from mountstore.transfer import TransferSummary

DEADLINE_S = 20
Run = Callable[[Callable[[], Awaitable[None]]], None]


def run_trio(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_S):
            await main()

    trio.run(bounded)


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main()

    asyncio.run(bounded())


@pytest.fixture(params=[run_trio, run_asyncio], ids=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.mark.parametrize(
    "make",
    [
        lambda path: AsyncDictStore(),
        lambda path: AsyncFilesystemStore(path / "f", durable=False),
        lambda path: AsyncHashdirStore(path / "h", durable=False),
        lambda path: AsyncSqliteStore(path / "s.sqlite", durable=False),
        lambda path: AsyncFanoutStore([AsyncDictStore(), AsyncSqliteStore(path / "s.sqlite"), DictStore()]),
        lambda path: AsyncCachingStore(AsyncDictStore(), AsyncDictStore(), capacity_bytes=100),
    ],
    ids=["memory", "files", "hashdir", "sqlite", "fanout", "caching"],
)
def test_a_twin_does_what_its_store_does(
    run: Run, make: Callable[[Path], AsyncStore], tmp_path: Path
) -> None:
    async def main() -> None:
        async with make(tmp_path) as store:
            await store.put("a/k", b"0123456789", metadata={"a": "1"})
            assert bytes(await store.get("a/k", 2, 4)) == b"23"
            assert [key async for key in store.keys()] == ["a/k"]
            await store.rename("a/k", "b")
            with pytest.raises(NotFound):
                await store.delete("a/k")
            assert (await store.head("b")).size == 10

    run(main)


def test_every_store_has_a_twin_and_nothing_else_has() -> None:
    wrappers = [name for name in stores.__all__ if name.endswith("Store")]
    views = {"TextStore", "JsonStore", "TypedStore"}
    backends = [
        name
        for module in pkgutil.iter_modules(mountstore.backends.__path__)
        if not module.name.startswith("_")
        for name, value in vars(import_module(f"mountstore.backends.{module.name}")).items()
        if isinstance(value, type)
        and issubclass(value, ObjectStore)
        and value.__module__.endswith(module.name)
    ]
    assert {"SqliteStore", "ZipStore"} <= set(backends)
    for name in [f"Async{name}" for name in {*wrappers, *backends} - views]:
        made = getattr(aliases, name)
        assert issubclass(made, AsyncStore)
        assert getattr(aliases, name) is made
        assert made.__name__ == name
    for name in ("AsyncNoStore", "AsyncTextStore", "GzipStore", "Async"):
        assert not hasattr(aliases, name)
    mine = aliases.twin(DictStore, "Mine")
    assert isinstance(mine().store, DictStore)


def test_transfers_are_awaited(run: Run) -> None:
    async def main() -> None:
        source, target = AsyncDictStore(), DictStore()
        for number in range(50):
            await source.put(f"k{number}", b"%d" % number)
        done = await async_sync_stores(source, target, True)
        assert (done.copied, done.unchanged) == (50, 0)
        target.put("extra", b"x")
        assert (await async_sync_stores(source, target, delete=True)).deleted == 1
        assert (await async_copy_store(target, AsyncDictStore(), workers=2)).copied == 50
        assert (await async_clear_store(source)).deleted == 50
        # Errors come as they are, not in a group.
        with pytest.raises(PartialFailure):
            await async_sync_stores(target, ValidatingStore(DictStore(), "x"))

    run(main)


def test_a_cancelled_transfer_ends_and_leaves_whole_objects(run: Run) -> None:
    source, target = DictStore(), DictStore()
    for number in range(2000):
        source.put(f"k{number:04}", b"%04d" % number)
    reached = threading.Event()

    def progress(now: TransferSummary) -> None:
        if now.copied == 20:
            reached.set()
            assert cancelled.wait(DEADLINE_S)

    cancelled = threading.Event()
    outcome: list[Any] = []

    async def main() -> None:
        async def transfer() -> None:
            outcome.append(await async_sync_stores(source, target, progress=progress, workers=2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transfer)
            while not reached.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
            cancelled.set()

    run(main)
    assert outcome == []
    there = list(target.keys())
    assert 20 <= len(there) < 2000
    # Nobody goes on in the background.
    assert not [thread for thread in threading.enumerate() if "mountstore-transfer" in thread.name]
    assert all(bytes(target.get(key)) == key[1:].encode() for key in there)
