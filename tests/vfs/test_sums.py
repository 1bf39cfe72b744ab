"""Checksums of contents: what they are taken of, and that nothing whole is taken for damaged."""

from __future__ import annotations

import os
import zlib
from array import array
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.vfs.blocks import BLOCK
from mountstore.vfs.sums import Taken
from tests.vfs.faulty import FaultyStore, Past
from tests.vfs.mounted import contents, running

BASE = array("I", [1, 2, 3])


def packed(*sums: int) -> bytes:
    return array("I", sums).tobytes()


def test_blocks_that_are_not_read_have_those_of_the_base() -> None:
    taken = Taken(3 * BLOCK, BASE, 3 * BLOCK)
    taken.see(BLOCK, b"x" * BLOCK)
    assert taken.whole() == packed(1, zlib.crc32(b"x" * BLOCK), 3)


@pytest.mark.parametrize(("start", "size"), [(BLOCK + 5, 10), (BLOCK, 10), (2 * BLOCK - 10, 10)])
def test_of_a_block_that_is_read_in_part_nothing_is_known(start: int, size: int) -> None:
    taken = Taken(3 * BLOCK, BASE, 3 * BLOCK)
    taken.see(start, b"x" * size)
    assert taken.whole() is None
    taken.see(BLOCK, b"y" * BLOCK)
    assert taken.whole() == packed(1, zlib.crc32(b"y" * BLOCK), 3)


async def test_a_file_of_which_the_server_keeps_what_is_the_same_is_not_damaged(
    store: DictStore, state: Path
) -> None:
    """The bytes that were changed go up alone, from within a block on: its checksum is another one now."""
    faulty = FaultyStore(store, lacking=["local"], past=Past())
    data = os.urandom(2 * BLOCK)
    async with running(faulty, state, upload_delay_s=0.0) as m:
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        await m.pwrite(handle, data)
        await m.drain()
        await m.pwrite(handle, b"changed", BLOCK + 5)
        await m.drain()
        await m.close(handle)
        assert faulty.requests["put_changes"] == 1
        m.forget_blocks()
        wanted = data[: BLOCK + 5] + b"changed" + data[BLOCK + 12 :]
        assert await m.read_file("f") == wanted
    assert contents(store) == {"f": wanted}
