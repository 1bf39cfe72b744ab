"""Room on the disk of a cache: some of it is left to others."""

from __future__ import annotations

import time

from mountstore.backends._filesystem_store import FileStore

_SPARED_BYTES = 64 << 20  # or a quarter of the disk, if that is less
_AMPLE_BYTES = 64 << 20  # of a disk with 16 times as much to spare nobody takes all of it
_AMPLE_S = 0.02  # within this time, so it is not asked again for so long


class DiskRoom:
    """Room on the disk that `store` is on; always enough, for all that is known, where that is no disk.

    For any thread.
    """

    def __init__(self, store: FileStore | None) -> None:
        self._store = store
        self._ample_until = 0.0 if store is not None else float("inf")

    def is_ample(self, size: int, now: float) -> bool:
        """Whether nobody needs to ask for `size` bytes at `now` (monotonic seconds)."""
        return now < self._ample_until and size <= _AMPLE_BYTES

    def is_scarce(self, size: int, waiting_bytes: int = 0) -> bool:
        """Whether so many bytes more, beside those that wait, would leave less than is spared for others."""
        now = time.monotonic()
        if self._store is None or self.is_ample(size, now):
            return False
        try:
            free, total = self._store.room()
        except OSError:
            return False  # the write will tell
        left = free - size - waiting_bytes - min(total // 4, _SPARED_BYTES)
        if left > 16 * _AMPLE_BYTES:
            self._ample_until = now + _AMPLE_S
        return left < 0

    def is_taken(self, size: int, now: float) -> bool:
        """Whether others have taken the room for a block of so many bytes while it waited."""
        if self._store is None or self.is_ample(size, now):
            return False
        try:
            return self._store.room()[0] < 2 * size
        except OSError:
            return False  # the write will tell
