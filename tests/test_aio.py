"""AsyncStore under trio and under asyncio: the verbs, the limit, cancellation, closing."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from mountstore import AsyncStore, NotFound, PreconditionFailed, Unavailable
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.store import Data

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


class GatedStore(DictStore):
    """A DictStore whose get and put wait at a gate, and which knows who waits there."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.waiting = 0
        self.most_waiting = 0
        self.finished = 0
        self.closed_after: int | None = None

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self._wait()
        return super().get(key, start, stop, if_match=if_match)

    def put(self, key: str, data: Any, **conditions: Any) -> Any:
        self._wait()
        return super().put(key, data, **conditions)

    def close(self) -> None:
        self.closed_after = self.finished
        super().close()

    def _wait(self) -> None:
        with self.lock:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
        assert self.gate.wait(DEADLINE_S)
        with self.lock:
            self.waiting -= 1
            self.finished += 1


@pytest.fixture
def gated() -> Iterator[GatedStore]:
    store = GatedStore()
    yield store
    store.gate.set()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():
            await anyio.sleep(0.001)


def test_every_verb_does_what_the_store_does(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncStore(SqliteStore(tmp_path / "x.sqlite")) as store:
            first = await store.put("a", b"0123456789", metadata={"k": "v"}, if_absent=True)
            assert await store.head("a") == first
            assert bytes(await store.get("a", 2, 5, if_match=first.etag)) == b"234"
            with pytest.raises(PreconditionFailed):
                await store.put("a", b"", if_absent=True)
            await store.put("d/b", io.BytesIO(b"file"))
            page = await store.list(delimiter="/")
            assert [info.key for info in page.objects] == ["a"]
            assert page.prefixes == ["d/"]
            assert await store.exists("a")
            assert not await store.exists("b")
            assert (await store.copy("a", "b", if_match=first.etag)).metadata == {"k": "v"}
            assert (await store.update_metadata("b", {"x": "y"})).metadata == {"x": "y"}
            assert (await store.rename("b", "c")).key == "c"
            assert [key async for key in store.keys()] == ["a", "c", "d/b"]
            assert await store.usage() == (3, 24)
            await store.delete("c")
            with pytest.raises(NotFound):
                await store.delete("c")
            await store.delete("c", missing_ok=True)
            await store.delete_many(["a", "d/b", "nothing"])
            assert [key async for key in store.keys()] == []
            assert store.capabilities is store.store.capabilities

    run(main)


def test_listings_are_fetched_page_by_page_and_may_be_left(run: Run) -> None:
    inner = DictStore()
    for number in range(25):
        inner.put(f"k{number:02}", b"x")

    async def main() -> None:
        store = AsyncStore(inner)
        pages = [page async for page in store.pages("k", limit=10)]
        assert [len(page.objects) for page in pages] == [10, 10, 5]
        assert [key async for key in store.keys()] == list(inner.keys())
        after = [info.key async for page in store.pages(after="k22") for info in page.objects]
        assert after == ["k23", "k24"]
        async for key in store.keys():
            assert key == "k00"
            break

    run(main)


def test_at_most_limit_calls_are_under_way(run: Run, gated: GatedStore) -> None:
    DictStore.put(gated, "a", b"x")

    async def main() -> None:
        store = AsyncStore(gated, limit=3)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(store.get, "a")
            await until(lambda: gated.waiting == 3)
            gated.gate.set()
        assert gated.finished == 10
        assert gated.most_waiting == 3

    run(main)


def test_a_cancelled_read_returns_at_once_and_closing_waits_for_its_thread(
    run: Run, gated: GatedStore
) -> None:
    DictStore.put(gated, "a", b"x")

    async def main() -> None:
        store = AsyncStore(gated)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.get, "a")
            await until(lambda: gated.waiting == 1)
            tasks.cancel_scope.cancel()
        assert gated.finished == 0  # the reader is gone, its thread is not
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.aclose)
            await anyio.lowlevel.checkpoint()
            assert gated.closed_after is None
            gated.gate.set()
        assert gated.closed_after == 1

    run(main)


def test_a_cancelled_write_ends_before_its_caller_goes_on(run: Run, gated: GatedStore) -> None:
    async def main() -> None:
        store = AsyncStore(gated)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.put, "a", b"x")
            await until(lambda: gated.waiting == 1)
            tasks.cancel_scope.cancel()
            gated.gate.set()
        assert gated.finished == 1
        assert await store.exists("a")

    run(main)


def test_a_cancelled_user_still_closes_the_store(run: Run, gated: GatedStore) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with AsyncStore(gated):
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert gated.closed_after == 0

    run(main)


def test_a_closed_store_says_so(run: Run) -> None:
    async def main() -> None:
        store = AsyncStore(DictStore())
        await store.aclose()
        await store.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await store.head("a")

    run(main)
