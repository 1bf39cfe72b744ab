"""Files that are read here and there come whole."""

from __future__ import annotations

from pathlib import Path

from mountstore.backends.memory import DictStore
from tests.vfs.mounted import Mounted, running

MIB = 1 << 20
SIZE = 20 * MIB + 5
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)


async def read_here_and_there(m: Mounted, handle: int, times: int = 10) -> None:
    for number in range(times):
        at = (number * 7 + 3) % 20 * MIB
        assert await m.pread(handle, at, 100) == CONTENT[at : at + 100]


async def test_after_some_reads_all_of_it_comes(store: DictStore, state: Path) -> None:
    store.put("f", CONTENT[:SIZE])
    async with running(store, state) as m:
        handle = await m.open("f")
        await read_here_and_there(m, handle)
        filling = m.vfs.filling(handle)
        assert filling is not None
        assert m.vfs.filling(handle) is None  # it is under way
        pieces = {}
        while (piece := await filling.next()) is not None:
            pieces[piece[0]] = b"".join(piece[1])
        assert b"".join(pieces[start] for start in sorted(pieces)) == CONTENT[:SIZE]
        await m.close(handle)


async def test_not_for_a_few_reads_or_reads_in_a_row(store: DictStore, state: Path) -> None:
    store.put("f", CONTENT[:SIZE])
    async with running(store, state) as m:
        handle = await m.open("f")
        await read_here_and_there(m, handle, 4)
        assert m.vfs.filling(handle) is None
        for at in range(0, SIZE, 1 << 17):
            await m.pread(handle, at, 1 << 17)
        assert m.vfs.filling(handle) is None
        await m.close(handle)


async def test_it_ends_with_the_handle_and_with_a_writer(store: DictStore, state: Path) -> None:
    store.put("f", CONTENT[:SIZE])
    async with running(store, state) as m:
        handle = await m.open("f")
        await read_here_and_there(m, handle)
        filling = m.vfs.filling(handle)
        assert filling is not None
        assert await filling.next() is not None
        await m.close(handle)
        assert await filling.next() is None

        handle = await m.open("f")
        await read_here_and_there(m, handle)
        filling = m.vfs.filling(handle)
        assert filling is not None
        writer = await m.open("f", 2)
        assert await filling.next() is None
        await m.close(writer)
        await m.close(handle)


async def test_whoever_reads_is_told_that_it_was_replaced(store: DictStore, state: Path) -> None:
    store.put("f", CONTENT[:SIZE])
    async with running(store, state) as m:
        handle = await m.open("f")
        await read_here_and_there(m, handle)
        filling = m.vfs.filling(handle)
        assert filling is not None
        store.put("f", b"other")
        m.vfs._content.blocks.clear()
        assert await filling.next() is None
        await m.close(handle)
