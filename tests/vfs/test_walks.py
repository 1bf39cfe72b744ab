"""Directories that are listed before they are read."""

from __future__ import annotations

from pathlib import Path

import trio

from mountstore.backends.memory import DictStore
from tests.vfs.mounted import Mounted, running, until


def fill(store: DictStore, count: int, files: int = 3) -> None:
    for number in range(count):
        for file in range(files):
            store.put(f"t/d{number:03}/f{file:04}", b"x")


def lists(m: Mounted) -> list[str]:
    return [key for verb, key in m.store.calls if verb == "list"]


async def test_directories_that_are_read_in_a_row_are_listed_already(store: DictStore, state: Path) -> None:
    fill(store, 40)
    async with running(store, state) as m:
        folders = await m.names("t")
        for number in range(2):
            await m.names(f"t/{folders[number]}")
        await until(lambda: {f"t/{folders[2]}/", f"t/{folders[3]}/"} <= set(lists(m)))
        for number in range(2, 40):
            assert await m.listdir(f"t/{folders[number]}") == ["f0000", "f0001", "f0002"]
        assert sorted(lists(m)) == sorted(["", "t/", *(f"t/{folder}/" for folder in folders)])


async def test_they_come_at_once(store: DictStore, state: Path) -> None:
    """As many requests wait at the store together as the window has grown by."""
    fill(store, 40)
    async with running(store, state) as m:
        await m.names("t")
        for number in range(3):
            await m.names(f"t/d{number:03}")
        await until(lambda: len(lists(m)) == 2 + 11)
        gate = m.store.add("gate", "list", times=1000)
        await m.names("t/d003")
        more = min(9, m.store.capabilities.concurrency)
        await until(lambda: len(lists(m)) == 2 + 11 + more)
        assert not gate.opened.is_set()


async def test_nothing_comes_for_those_who_look_here_and_there(store: DictStore, state: Path) -> None:
    fill(store, 300)
    async with running(store, state) as m:
        await m.names("t")
        for number in (250, 3, 130, 20):
            await m.names(f"t/d{number:03}")
        await trio.testing.wait_all_tasks_blocked()
        assert len(lists(m)) == 2 + 4


async def test_of_a_long_directory_the_first_page_comes_ahead(store: DictStore, state: Path) -> None:
    fill(store, 2)
    for number in range(2500):
        store.put(f"t/d002/f{number:04}", b"x")
    async with running(store, state) as m:
        await m.names("t")
        for number in range(2):
            await m.names(f"t/d{number:03}")
        await until(lambda: "t/d002/" in lists(m))
        await trio.testing.wait_all_tasks_blocked()
        assert lists(m).count("t/d002/") == 1
        assert len(await m.names("t/d002")) == 2500


async def test_who_comes_while_the_first_page_is_under_way_gets_all(store: DictStore, state: Path) -> None:
    fill(store, 2)
    for number in range(2500):
        store.put(f"t/d002/f{number:04}", b"x")
    async with running(store, state) as m:
        await m.names("t")
        await m.names("t/d000")
        gate = m.store.add("gate", "list", "t/d002/")
        await m.names("t/d001")
        await until(gate.arrived.is_set)
        found: list[str] = []

        async def read() -> None:
            found.extend(await m.names("t/d002"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
        assert len(found) == 2500
        assert lists(m).count("t/d002/") == 3


async def test_what_would_not_count_any_more_does_not_come(store: DictStore, state: Path) -> None:
    fill(store, 20)
    async with running(store, state, ttl_s=0) as m:
        await m.names("t")
        for number in range(4):
            await m.names(f"t/d{number:03}")
        await trio.testing.wait_all_tasks_blocked()
        assert not {f"t/d{number:03}/" for number in range(4, 20)} & set(lists(m))
