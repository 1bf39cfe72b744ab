"""Small files that are fetched before they are opened."""

from __future__ import annotations

from pathlib import Path

import trio

from mountstore.backends.memory import DictStore
from mountstore.vfs.neighbours import SMALL
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, running, until


def gets(m: Mounted) -> list[str]:
    return [key for verb, key in m.store.calls if verb == "get"]


def fill(store: DictStore, count: int, size: int = 10) -> None:
    for number in range(count):
        store.put(f"d/{number:04}", b"x" * size)


async def test_files_that_are_read_in_a_row_are_there_already(store: DictStore, state: Path) -> None:
    fill(store, 300)
    async with running(store, state) as m:
        for number in range(2):
            await m.read_file(f"d/{number:04}")
        await until(lambda: "d/0005" in gets(m))
        for number in range(2, 300):
            assert await m.read_file(f"d/{number:04}") == b"x" * 10
        assert sorted(gets(m)) == [f"d/{number:04}" for number in range(300)]


async def test_the_order_may_be_that_of_the_directory(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        for number in (5, 3, 9, 1, 7, 2, 8, 4, 6, 0):
            await m.write_file(f"d/{number}", bytes(200))
        await m.drain()
        m.store.reset()
        m.forget_blocks()
        for name in await m.names("d"):
            await m.read_file(f"d/{name}")
        assert len(gets(m)) == 10
        m.forget_blocks()
        m.store.reset()
        await m.read_file("d/5")
        await m.read_file("d/3")
        await until(lambda: {"d/9", "d/1", "d/7"} <= set(gets(m)))


async def test_nothing_comes_for_those_who_read_here_and_there(store: DictStore, state: Path) -> None:
    fill(store, 300)
    async with running(store, state) as m:
        for number in (250, 3, 77, 10, 140, 60):
            await m.read_file(f"d/{number:04}")
        await trio.testing.wait_all_tasks_blocked()
        assert len(gets(m)) == 6


async def test_large_files_do_not_come_before_they_are_read(store: DictStore, state: Path) -> None:
    fill(store, 20, SMALL + 1)
    async with running(store, state) as m:
        for number in range(3):
            await m.read_file(f"d/{number:04}")
        await trio.testing.wait_all_tasks_blocked()
        assert len(gets(m)) == 3


async def test_no_more_than_a_bound_is_ahead(store: DictStore, state: Path) -> None:
    fill(store, 300, SMALL)
    async with running(store, state) as m:
        for number in range(40):
            await m.read_file(f"d/{number:04}")
        await until(lambda: not m.vfs._neighbours.is_busy)
        assert len(gets(m)) <= 40 + (8 << 20) // SMALL + 1


async def test_when_the_pattern_ends_nothing_more_is_asked_for(store: DictStore, state: Path) -> None:
    fill(store, 300)
    faulty = FaultyStore(store)
    async with running(faulty, state) as m:
        for number in range(4):
            await m.read_file(f"d/{number:04}")
        await until(lambda: not m.vfs._neighbours.is_busy)
        gate = m.store.add("gate", "get", times=1000)
        handle = await m.open("d/0004")
        await until(gate.arrived.is_set)
        await m.close(handle)
        waiting = len(gets(m))
        for number in (200, 100):
            await m.close(await m.open(f"d/{number:04}"))
        gate.open()
        await until(lambda: not m.vfs._neighbours.is_busy)
        assert len(gets(m)) <= waiting + 12 + 2


async def test_an_error_ahead_is_nobodys(store: DictStore, state: Path) -> None:
    fill(store, 20)
    async with running(store, state) as m:
        await m.names("d")
        store.delete("d/0004")
        for number in (0, 1, 2, 3, 5, 6):
            assert await m.read_file(f"d/{number:04}") == b"x" * 10


async def test_names_of_one_file_are_fetched_once(store: DictStore, state: Path) -> None:
    """The same content is wanted under several names of a directory, also by one worker."""
    async with running(store, state) as m:
        await m.mkdir("d")
        for number in range(100):
            await m.write_file(f"d/{number:03}a", b"%d" % number)
            for other in "bcd":
                await m.link(f"d/{number:03}a", f"d/{number:03}{other}")
        await m.drain()
        m.forget_blocks()
        m.store.reset()
        with trio.fail_after(20):
            for number in range(100):
                for name in "abcd":
                    assert await m.read_file(f"d/{number:03}{name}") == b"%d" % number
        assert len(gets(m)) == 100
