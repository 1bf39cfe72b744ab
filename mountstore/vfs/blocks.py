"""Blocks of stored content in memory: bounded, each fetched once however many ask, ahead of readers.

A block is named by content id and number, so it is never stale: it is only evicted, least recently used
first. For the thread of the event loop alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from mountstore.store import Data

log = logging.getLogger(__name__)

BLOCK = 1 << 20
_GROUP = 8  # blocks that one read-ahead request asks for
_MAX_WINDOW = 32  # blocks ahead of a sequential reader

Fetch = Callable[[int, int, int], Awaitable[Data]]
"""(content id, start, stop) -> the bytes."""
Widen = Callable[[int, int, int, int], tuple[int, int]]
"""(content id, first block, block behind the last, size) -> the range of blocks to ask for instead."""


class Readahead:
    """What one handle has read so far: whether it reads in sequence, and how far ahead it pays to be."""

    __slots__ = ("end", "jumps", "window")

    def __init__(self) -> None:
        self.end = 0
        self.window = 0
        self.jumps = 0  # reads that were far from the one before

    def note(self, start: int, stop: int) -> int:
        """Record a read; returns how many blocks ahead should be under way."""
        # The kernel's own read-ahead sends requests slightly out of order.
        if self.end - 2 * BLOCK <= start <= self.end + 2 * BLOCK:
            if stop > self.end:
                self.window = min(max(1, self.window * 2), _MAX_WINDOW) if start or self.end else 1
                self.end = stop
        else:
            self.window = 0
            self.end = stop
            self.jumps += 1
        return self.window


class BlockCache:
    """Blocks in memory, at most `capacity_bytes` of them, and the requests under way for more."""

    def __init__(self, fetch: Fetch, widen: Widen, capacity_bytes: int = 96 << 20) -> None:
        self._fetch = fetch
        self._widen = widen
        self._capacity = capacity_bytes
        self._size = 0
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._flights: dict[tuple[int, int], trio.Event] = {}
        self.nursery: trio.Nursery | None = None  # where read-ahead runs; none, no read-ahead

    def cached(self, cid: int, start: int, stop: int) -> Data | None:
        """The bytes if they are in one block that is here."""
        number = start // BLOCK
        block = self._blocks.pop((cid, number), None)
        if block is None:
            return None
        self._blocks[cid, number] = block
        offset = start - number * BLOCK
        if stop - number * BLOCK > BLOCK:
            following = self._blocks.get((cid, number + 1))
            if following is None or stop > (number + 2) * BLOCK:
                return None
            return block[offset:] + following[: stop - (number + 1) * BLOCK]
        return memoryview(block)[offset : stop - number * BLOCK]

    def block(self, cid: int, number: int) -> bytes | None:
        """A whole block, if it is here."""
        return self._blocks.get((cid, number))

    def is_wanting(self, cid: int, number: int) -> bool:
        """Whether a block is neither here nor under way."""
        return (cid, number) not in self._blocks and (cid, number) not in self._flights

    async def read(self, cid: int, start: int, stop: int, size: int) -> Data:
        """Bytes [start, stop) of a content of `size` bytes. Raises what fetching raises."""
        data = self.cached(cid, start, stop)
        if data is not None:
            return data
        parts = []
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            block = await self._block(cid, number, size)
            low = max(start - number * BLOCK, 0)
            parts.append(memoryview(block)[low : stop - number * BLOCK])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _block(self, cid: int, number: int, size: int) -> bytes:
        while True:
            block = self._blocks.get((cid, number))
            if block is not None:
                return block
            flight = self._flights.get((cid, number))
            if flight is None:
                first, last = self._widen(cid, number, number + 1, size)
                return (await self._load(cid, first, last, size))[number - first]
            await flight.wait()

    async def _load(self, cid: int, first: int, last: int, size: int) -> list[bytes]:
        flight = trio.Event()
        numbers = range(first, last)
        for number in numbers:
            self._flights[cid, number] = flight
        try:
            data = memoryview(await self._fetch(cid, first * BLOCK, min(last * BLOCK, size)))
            # Copied apart, so that evicting one block gives its memory back.
            blocks = [bytes(data[i * BLOCK : (i + 1) * BLOCK]) for i in range(len(numbers))]
            for number, block in zip(numbers, blocks, strict=True):
                self.keep(cid, number, block)
            return blocks
        finally:
            for number in numbers:
                del self._flights[cid, number]
            flight.set()

    def of(self, cid: int) -> list[tuple[int, bytes]]:
        """The blocks of a content that are here, by number."""
        return [(number, block) for (owner, number), block in self._blocks.items() if owner == cid]

    def keep(self, cid: int, number: int, block: bytes) -> None:
        """Remember a block that is known anyway."""
        old = self._blocks.pop((cid, number), b"")
        self._blocks[cid, number] = block
        self._size += len(block) - len(old)
        while self._size > self._capacity and len(self._blocks) > 1:
            oldest = next(iter(self._blocks))
            self._size -= len(self._blocks.pop(oldest))

    def clear(self) -> None:
        """Forget what is here."""
        self._blocks.clear()
        self._size = 0

    def put(self, cid: int, content: bytes) -> None:
        """Remember a whole small content that is known anyway (at most one block)."""
        if 0 < len(content) <= BLOCK:
            self.keep(cid, 0, content)

    def ahead(self, cid: int, stop: int, window: int, size: int) -> None:
        """Have the blocks behind `stop` come, in parallel requests."""
        if self.nursery is None or not window:
            return
        last = min(-(-stop // BLOCK) + window, -(-size // BLOCK))
        number = stop // BLOCK
        while number < last:
            if (cid, number) in self._blocks or (cid, number) in self._flights:
                number += 1
                continue
            end = number + 1
            while (
                end < min(last, number + _GROUP)
                and (cid, end) not in self._blocks
                and (cid, end) not in self._flights
            ):
                end += 1
            first, last_too = self._widen(cid, number, end, size)
            if (first, last_too) != (number, end):
                if not any((cid, n) in self._flights for n in range(first, last_too)):
                    self._launch(cid, first, last_too, size, self.nursery)
                return
            if end - number < _GROUP and end == last and last * BLOCK < size and window >= _GROUP:
                return  # a full group next time
            self._launch(cid, number, end, size, self.nursery)
            number = end

    def _launch(self, cid: int, first: int, last: int, size: int, nursery: trio.Nursery) -> None:
        flight = trio.Event()
        for number in range(first, last):
            self._flights[cid, number] = flight
        nursery.start_soon(self._load_ahead, cid, first, last, size, flight)

    async def _load_ahead(self, cid: int, first: int, last: int, size: int, flight: trio.Event) -> None:
        try:
            await self._load(cid, first, last, size)
        except Exception as error:
            # Whoever needs the block asks again and gets the error; nobody waits for this one.
            log.debug("read-ahead of content %d: %s", cid, error)
        finally:
            flight.set()
