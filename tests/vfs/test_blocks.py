"""Blocks in memory: bounded, fetched once, a few requests ahead of each reader."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from mountstore.vfs import blocks
from mountstore.vfs.blocks import BLOCK, BlockCache, Readahead

MIB = 1 << 20


class Source:
    """Contents of which each MiB is filled with its number; counts what is asked for."""

    def __init__(self, pace_s: float = 0.0) -> None:
        self.pace_s = pace_s
        self.asked: Counter[tuple[int, int]] = Counter()
        self.under_way = 0
        self.most = 0

    async def fetch(self, cid: int, start: int, stop: int) -> list[bytes]:
        self.asked.update((cid, number) for number in range(start // BLOCK, -(-stop // BLOCK)))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await trio.sleep(self.pace_s)
        self.under_way -= 1
        return [block_of(cid, number) for number in range(start // BLOCK, -(-stop // BLOCK))]


def block_of(cid: int, number: int) -> bytes:
    return bytes([(cid * 16 + number) % 256]) * BLOCK


def as_asked(cid: int, first: int, last: int, size: int) -> tuple[int, int]:
    return first, last


async def read_through(cache: BlockCache, cid: int, size: int) -> None:
    """As `dd bs=1M` does."""
    readahead = Readahead()
    for start in range(0, size, MIB):
        window = readahead.note(start, start + MIB)
        cache.ahead(cid, start + MIB, window, size)
        assert bytes(await cache.read(cid, start, start + MIB, size)) == block_of(cid, start // BLOCK)


@pytest.mark.parametrize("readers", [1, 3])
async def test_readers_in_sequence_ask_for_each_block_once(readers: int) -> None:
    """However many there are: nobody's blocks are evicted before they were read."""
    source = Source(pace_s=0.001)
    cache = BlockCache(source.fetch, as_asked)
    async with trio.open_nursery() as nursery:
        cache.nursery = nursery
        for cid in range(1, readers + 1):
            nursery.start_soon(read_through, cache, cid, 150 * MIB)
    assert set(source.asked.values()) == {1}
    assert len(source.asked) == 150 * readers
    # Those that are waited for do not wait for their turn.
    assert 1 < source.most <= blocks._AT_ONCE + readers


async def test_memory_is_bounded_and_what_is_used_stays() -> None:
    source = Source()
    cache = BlockCache(source.fetch, as_asked, capacity_bytes=8 * MIB)
    for number in range(100):
        assert bytes(await cache.read(1, number * MIB, (number + 1) * MIB, 100 * MIB)) == block_of(1, number)
        await cache.read(1, 0, 1, 100 * MIB)  # used again and again
        assert sum(len(block) for _, block in cache.of(1)) <= 8 * MIB
    assert source.asked[1, 0] == 1
    assert sorted(number for number, _ in cache.of(1)) == [0, *range(93, 100)]


async def test_blocks_of_one_answer_go_together() -> None:
    """Their memory is one piece: it is held as long as any of them is."""
    cache = BlockCache(Source().fetch, lambda *_: (0, 4), capacity_bytes=6 * MIB)
    await cache.read(1, 0, 1, 4 * MIB)
    assert len(cache.of(1)) == 4
    for number in range(3):
        cache.keep(2, number, block_of(2, number))
    assert len(cache.of(1)) == 0
    assert [bytes(block) for _, block in cache.of(2)] == [block_of(2, number) for number in range(3)]


async def test_a_block_that_is_kept_anew_takes_the_place_of_the_old_one() -> None:
    cache = BlockCache(Source().fetch, lambda *_: (0, 2), capacity_bytes=6 * MIB)
    await cache.read(1, 0, 1, 2 * MIB)
    cache.keep(1, 1, b"new")
    assert [bytes(block) for number, block in cache.of(1) if number] == [b"new"]
    assert [bytes(block) for number, block in cache.of(1) if not number] == [block_of(1, 0)]
    cache.keep(1, 0, b"too")
    cache.clear()
    assert cache.of(1) == []
