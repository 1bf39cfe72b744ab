"""Room for what is staged: asked of the disk of the state directory, and made where a cache is in the way.

A writer is refused only when the disk has nothing left but what the index needs, what is staged, and what is
others'. A clean cache on the same file system goes before that, because what it has is a copy. One on
another file system stays: nothing would be won by its going.
"""

from __future__ import annotations

import logging

import trio

from mountstore.store import ObjectStore
from mountstore.stores.caching import CachingStore
from mountstore.vfs.staging import Staging

log = logging.getLogger(__name__)

_CHECK = 4 << 20  # the disk is asked again after so many bytes
_LEAST = 4096  # what a change takes: a row of the index, a file
_SETTLE_S = 1.0  # XFS tells of room a moment after the file is gone
_SETTLE_STEP_S = 0.005


class Room:
    """For the event loop alone; `journal_size` (0: that of the disk) bounds what is staged, in bytes."""

    def __init__(self, staging: Staging, store: ObjectStore, journal_size: int) -> None:
        self._staging = staging
        self._store = store
        self._journal_size = journal_size
        self._left = 0  # what may be staged before the disk is asked again

    def has(self, size: int) -> bool:
        """Whether so many bytes can be staged; asks the disk once in a while."""
        self._left -= max(size, _LEAST)
        if self._left >= 0:
            return True
        free = self._staging.free_bytes()
        if self._journal_size:
            free = min(free, self._journal_size - self._staging.used_bytes())
        self._left = min(free - size, _CHECK)
        return self._left >= 0

    async def make(self, size: int) -> bool:
        """Have the cache give way as far as is needed; whether so many bytes can be staged then."""
        self._left = 0
        while not self.has(size):
            free = self._staging.free_bytes()
            cache = self._store
            if free >= size or not isinstance(cache, CachingStore):
                return False
            if cache.is_on(self._staging.device):
                # Not one of the store's threads: they may all be waiting for a store that is away.
                gone = await trio.to_thread.run_sync(cache.give_way, size - free + _CHECK)
            else:
                # What has been sent is being copied from here to the cache.
                gone = size - free if await trio.to_thread.run_sync(cache.let_go) else 0
            if not gone:
                return False
            log.info("the disk is full: the cache makes room, about %d bytes", gone)
            with trio.move_on_after(_SETTLE_S):
                while self._staging.free_bytes() < min(size, free + gone):
                    await trio.sleep(_SETTLE_STEP_S)
        return True
