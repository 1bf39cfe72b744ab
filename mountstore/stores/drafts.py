"""Content that goes into the cache while `main` is still taking it, so that neither waits for the other."""

from __future__ import annotations

import contextlib
import threading
import uuid

from mountstore.store import Data
from mountstore.stores.blocks import Block
from mountstore.stores.pool import BlockPool


class Draft:
    """Blocks of a version whose etag nobody knows yet, written into `pool` by a thread of its own.

    They have an etag that is no object's, so nobody finds them, and what a killed process leaves of them
    goes as what is unused the longest. `key` is a digest; `data` must not change before the end of it, which
    is `blocks` or `discard`.
    """

    def __init__(self, pool: BlockPool, key: str, data: Data, step: int, pin: str) -> None:
        self._pool = pool
        self._names = key, uuid.uuid4().hex
        self._is_wanted = True
        self._thread = threading.Thread(target=self._write, args=(data, step, pin), name="mountstore-draft")
        with contextlib.suppress(RuntimeError):  # no more threads can be had: nothing is kept, then
            self._thread.start()

    def blocks(self) -> list[Block]:
        """What was kept, all of it or in part, for `BlockPool.give` or `BlockPool.drop`."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._pool.take(*self._names)

    def discard(self) -> None:
        """Nobody wants it any more."""
        self._is_wanted = False
        self._pool.drop(self.blocks())

    def _write(self, data: Data, step: int, pin: str) -> None:
        view, epoch = memoryview(data), self._pool.epoch(self._names[0])
        for number in range(-(-len(view) // step)):
            if not self._is_wanted:
                return
            piece = view[number * step : (number + 1) * step]
            self._pool.insert(*self._names, number, piece, epoch=epoch, pin=pin)
