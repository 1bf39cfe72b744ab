"""Blocks of stored content in memory: bounded, each fetched once however many ask, ahead of readers.

A block is named by content id and number, so it is never stale: it is only evicted. Blocks that came in one
answer stay in its memory, uncopied, and are evicted together, least recently used first. For the thread of
the event loop alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from mountstore.store import Data

log = logging.getLogger(__name__)

BLOCK = 1 << 20
_GROUP = 8  # blocks that one read-ahead request asks for
_BEHIND = 8  # blocks that are kept behind a sequential reader of much: requests come out of order
_MAX_WINDOW = 56  # blocks ahead of a sequential reader
_GROWTH = 4  # of the window with each read that follows the one before
_SHARED = 64  # blocks ahead of all sequential readers together
_SHARING_S = 2.0  # for how long somebody counts as one of them
_AT_ONCE = 6  # requests ahead of all readers together; what is nearest to its reader goes first

Fetch = Callable[[int, int, int], Awaitable[Sequence[Data]]]
"""(content id, start, stop) -> the bytes, block by block."""
Widen = Callable[[int, int, int, int], tuple[int, int]]
"""(content id, first block, block behind the last, size) -> the range of blocks to ask for instead."""


_Ahead = tuple[int, int, int, int, trio.Event]
"""(content id, first block, block behind the last, size, what is set in the end) of a read-ahead."""


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
                self.window = min(max(1, self.window * _GROWTH), _MAX_WINDOW) if start or self.end else 1
                self.end = stop
        else:
            self.window = 0
            self.end = stop
            self.jumps += 1
        return self.window


class _Answer:
    """What one request has brought: its memory is given back when no block of it is remembered."""

    __slots__ = ("keys", "size")

    def __init__(self, keys: list[tuple[int, int]], size: int) -> None:
        self.keys = keys
        self.size = size


class BlockCache:
    """Blocks in memory, at most `capacity_bytes` of them, and the requests under way for more."""

    def __init__(self, fetch: Fetch, widen: Widen, capacity_bytes: int = 96 << 20) -> None:
        self._fetch = fetch
        self._widen = widen
        self._capacity = capacity_bytes
        self._size = 0
        self._blocks: dict[tuple[int, int], tuple[memoryview, _Answer]] = {}
        self._answers: dict[_Answer, None] = {}  # the one whose blocks were used last comes last
        self._flights: dict[tuple[int, int], trio.Event] = {}
        self._readers: dict[int, float] = {}  # contents that are read in sequence, and when last
        self._waiting: deque[_Ahead] = deque()
        self._asking = 0  # tasks that take from these
        self.nursery: trio.Nursery | None = None  # where read-ahead runs; none, no read-ahead

    def cached(self, cid: int, start: int, stop: int) -> Data | None:
        """The bytes if they are in one block that is here, or in two."""
        number = start // BLOCK
        found = self._blocks.get((cid, number))
        if found is None:
            return None
        block, answer = found
        del self._answers[answer]
        self._answers[answer] = None
        offset = start - number * BLOCK
        if stop - number * BLOCK > BLOCK:
            following = self._blocks.get((cid, number + 1))
            if following is None or stop > (number + 2) * BLOCK:
                return None
            return b"".join((block[offset:], following[0][: stop - (number + 1) * BLOCK]))
        return block if stop - start == len(block) else block[offset : stop - number * BLOCK]

    def block(self, cid: int, number: int) -> memoryview | None:
        """A whole block, if it is here."""
        found = self._blocks.get((cid, number))
        return found[0] if found else None

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

    async def _block(self, cid: int, number: int, size: int) -> memoryview:
        while True:
            block = self.block(cid, number)
            if block is not None:
                return block
            flight = self._flights.get((cid, number))
            if flight is None:
                first, last = self._widen(cid, number, number + 1, size)
                return (await self._load(cid, first, last, size))[number - first]
            await flight.wait()

    async def _load(self, cid: int, first: int, last: int, size: int) -> list[memoryview]:
        flight = trio.Event()
        numbers = range(first, last)
        for number in numbers:
            self._flights[cid, number] = flight
        try:
            answer = await self._fetch(cid, first * BLOCK, min(last * BLOCK, size))
            blocks = [memoryview(block) for block in answer]
            self._keep(cid, first, blocks)
            return blocks
        finally:
            for number in numbers:
                del self._flights[cid, number]
            flight.set()

    async def load_small(
        self,
        wanted: Sequence[tuple[int, int]],
        fetch: Callable[[], Awaitable[Sequence[Data | None]]],
    ) -> None:
        """Have contents of one block each, (content id, size), come, none of them here or under way: what
        `fetch` brings, None for one that does not. Raises what `fetch` raises."""
        flight = trio.Event()
        for cid, _ in wanted:
            self._flights[cid, 0] = flight
        try:
            for (cid, _), block in zip(wanted, await fetch(), strict=True):
                if block is not None:
                    self._keep(cid, 0, [memoryview(block)])
        finally:
            for cid, _ in wanted:
                self._flights.pop((cid, 0), None)
            flight.set()

    def of(self, cid: int) -> list[tuple[int, memoryview]]:
        """The blocks of a content that are here, by number."""
        return [(number, block) for (owner, number), (block, _) in self._blocks.items() if owner == cid]

    def keep(self, cid: int, number: int, block: Data) -> None:
        """Remember a block that is known anyway."""
        self._keep(cid, number, [memoryview(block)])

    def _keep(self, cid: int, first: int, blocks: list[memoryview]) -> None:
        answer = _Answer([(cid, first + i) for i in range(len(blocks))], sum(map(len, blocks)))
        for key, block in zip(answer.keys, blocks, strict=True):
            if key in self._blocks:
                self._forget(key)
            self._blocks[key] = (block, answer)
        self._answers[answer] = None
        self._size += answer.size
        while self._size > self._capacity and len(self._answers) > 1:
            for key in [*next(iter(self._answers)).keys]:
                self._forget(key)

    def _forget(self, key: tuple[int, int]) -> None:
        _, answer = self._blocks.pop(key)
        answer.keys.remove(key)
        if not answer.keys:
            del self._answers[answer]
            self._size -= answer.size

    def clear(self) -> None:
        """Forget what is here."""
        self._blocks.clear()
        self._answers.clear()
        self._size = 0

    def put(self, cid: int, content: bytes) -> None:
        """Remember a whole small content that is known anyway (at most one block)."""
        if 0 < len(content) <= BLOCK:
            self.keep(cid, 0, content)

    def ahead(self, cid: int, stop: int, window: int, size: int) -> None:
        """Have the blocks behind `stop` come, in parallel requests."""
        if self.nursery is None or not window:
            return
        last = min(-(-stop // BLOCK) + min(window, self._share(cid)), -(-size // BLOCK))
        number = stop // BLOCK
        if size > self._capacity // 2:
            self._drop_behind(cid, number - _BEHIND)
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

    def _drop_behind(self, cid: int, end: int) -> None:
        """The kernel has what a sequential reader of much is through with; its memory serves what comes."""
        for number in range(end - _GROUP, end):
            if (cid, number) in self._blocks:
                self._forget((cid, number))

    def _share(self, cid: int) -> int:
        """How far ahead a reader may be, so that nothing is evicted before it is read."""
        now = trio.current_time()
        self._readers[cid] = now
        if len(self._readers) > 1:
            for other in [other for other, when in self._readers.items() if when < now - _SHARING_S]:
                del self._readers[other]
        return max(1, _SHARED // len(self._readers))

    def _launch(self, cid: int, first: int, last: int, size: int, nursery: trio.Nursery) -> None:
        flight = trio.Event()
        for number in range(first, last):
            self._flights[cid, number] = flight
        self._waiting.append((cid, first, last, size, flight))
        if self._asking < _AT_ONCE:
            self._asking += 1
            nursery.start_soon(self._load_ahead)

    async def _load_ahead(self) -> None:
        try:
            # In this order: tasks that are begun together are run in any.
            while self._waiting:
                cid, first, last, size, flight = self._waiting.popleft()
                try:
                    await self._load(cid, first, last, size)
                except Exception as error:
                    # Whoever needs the block asks again and gets the error; nobody waits for this one.
                    log.debug("read-ahead of content %d: %s", cid, error)
                finally:
                    flight.set()
        finally:
            self._asking -= 1
