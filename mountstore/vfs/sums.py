"""Checksums of large contents, a CRC-32 for each MiB: what comes over the network is compared with them.

A store tells at best a checksum of a whole object, which is of no use to who reads a range. So while a
content goes up its checksums are taken, and kept in the index as long as an object has it; and an object of
moderate size of which none are known is fetched as a whole, which the store compares, to take them then.
They are by content id, so a renamed file keeps them. For the thread of the event loop, but for `Taken`.
"""

from __future__ import annotations

import logging
import random
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from zlib_ng import zlib_ng

from mountstore.errors import Corrupted, StoreError
from mountstore.store import Data, ObjectStore
from mountstore.stores.caching import CachingStore
from mountstore.vfs.blocks import BLOCK
from mountstore.vfs.index import Index

log = logging.getLogger(__name__)

T = TypeVar("T")

Asked = tuple[str | None, int, str | None, Sequence[int] | None]
"""(key, size, if_match, sums) of a whole object of one block; no key: there is none."""

_TRIES = 6
_UNDER_WAY = 256  # contents that are sent, or were, with an outcome that is not known yet
_IN_PART = -1, 0  # of a block that was not read from its beginning on
_KEPT = 10_000  # contents of which they are kept in memory


def read_checked(
    store: ObjectStore, key: str, start: int, stop: int, if_match: str | None, sums: Sequence[int] | None
) -> Data:
    """`get`, compared block by block with `sums` (None: as it is). `start` is where a block begins, `stop`
    where one ends or the content does. For worker threads.

    What is damaged is asked for again a few times. Raises what `get` raises, Corrupted.
    """

    def get() -> tuple[Data, Sequence[Data]]:
        data = store.get(key, start, stop, if_match=if_match)
        return data, _cut(data) if sums is not None else ()

    return _checked(store, key, start, stop, sums, get)


def read_blocks(
    store: ObjectStore, key: str, start: int, stop: int, if_match: str | None, sums: Sequence[int] | None
) -> list[Data]:
    """As `read_checked`, block by block: what a cache keeps apart is not put together."""

    def get() -> tuple[list[Data], list[Data]]:
        if if_match is not None and isinstance(store, CachingStore) and store.block_bytes == BLOCK:
            pieces = store.get_blocks(key, start, stop, if_match=if_match)
        else:
            pieces = _cut(store.get(key, start, stop, if_match=if_match))
        return pieces, pieces

    return _checked(store, key, start, stop, sums, get)


def read_each(
    store: ObjectStore,
    asked: Iterable[Asked],
    is_over: Callable[[], bool],
) -> list[Data | None]:
    """`read_blocks` of several whole objects. None for one that cannot be read, or is none, and for what is
    left when `is_over`."""
    answers: list[Data | None] = []
    for key, size, if_match, sums in asked:
        answers.append(None)
        if key is None or is_over():
            continue
        try:
            blocks = read_blocks(store, key, 0, size, if_match, sums)
        except StoreError as error:
            log.debug("%r, which may be read next, did not come: %s", key, error)
            continue
        if len(blocks) == 1 and len(blocks[0]) == size:
            answers[-1] = blocks[0]
    return answers


def _checked(
    store: ObjectStore,
    key: str,
    start: int,
    stop: int,
    sums: Sequence[int] | None,
    get: Callable[[], tuple[T, Sequence[Data]]],
) -> T:
    """What `get` answers, (answer, blocks of it), once its blocks are what they were when they were sent."""
    for tries in range(1, _TRIES + 1):
        answer, pieces = get()
        if sums is None or sum(map(len, pieces)) != stop - start:
            return answer
        if all(
            zlib_ng.crc32(piece) == crc for piece, crc in zip(pieces, sums[start // BLOCK :], strict=False)
        ):
            return answer
        if isinstance(store, CachingStore):
            store.drop(key)
        if tries < _TRIES:
            log.warning("%r: bytes %d to %d came damaged, and are asked for again", key, start, stop)
            # At once it would meet the same fault; all who have met it are not to come back together.
            time.sleep(random.uniform(0, 0.05 * 2**tries))
    raise Corrupted(f"{key!r}: what comes fails the checksum that it had before", key=key)


def _cut(data: Data) -> list[Data]:
    view = memoryview(data)
    return [view[low : low + BLOCK] for low in range(0, len(view), BLOCK)]


class Taken:
    """Checksums taken of bytes as they are read in order, block by block; a block by one thread at a time.

    A block that is not read at all is one that the server copies from the base, so it has the base's.
    """

    def __init__(self, size: int, base: Sequence[int] | None = None, base_size: int = 0) -> None:
        self.size = size
        self._base = base or ()
        self._base_size = base_size
        self._blocks: dict[int, tuple[int, int]] = {}  # by number: how many of its bytes have been seen, CRC

    def see(self, start: int, data: Data) -> None:
        """Bytes of the content from `start` on; a block that is seen again counts anew from its beginning."""
        view = memoryview(data)
        while len(view):
            number, offset = divmod(start, BLOCK)
            piece = view[: BLOCK - offset]
            seen, crc = self._blocks.get(number, (0, 0)) if offset else (0, 0)
            if seen == offset:
                self._blocks[number] = offset + len(piece), zlib_ng.crc32(piece, crc)
            else:
                self._blocks.setdefault(number, _IN_PART)
            start += len(piece)
            view = view[len(piece) :]

    def whole(self) -> bytes | None:
        """All of them, packed; None if some byte has not been seen."""
        packed = array("I")
        for number in range(-(-self.size // BLOCK)):
            length = min(BLOCK, self.size - number * BLOCK)
            seen, crc = self._blocks.get(number, (0, 0))
            if not seen and length == min(BLOCK, self._base_size - number * BLOCK) and self._base:
                crc = self._base[number]
            elif seen != length:
                return None
            packed.append(crc)
        return packed.tobytes()


class Sums:
    """The checksums of contents in the store."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._under_way: dict[int, Taken] = {}
        self._known: dict[int, array[int]] = {}

    def begin(self, cid: int, size: int, base_cid: int, base_size: int) -> Taken:
        """To be given the content as it is sent."""
        taken = self._under_way[cid] = Taken(size, self.of(base_cid), base_size)
        if len(self._under_way) > _UNDER_WAY:
            del self._under_way[next(iter(self._under_way))]
        return taken

    def sent(self, cid: int, taken: Taken, size: int) -> None:
        """The content, which is of this size, was sent by other means than `begin` had been told of."""
        taken.size = size
        self._under_way[cid] = taken

    def landed(self, cid: int) -> None:
        """The store has it: keep what was taken, in the caller's transaction."""
        taken = self._under_way.pop(cid, None)
        packed = taken.whole() if taken is not None else None
        if packed is not None:
            self._index.put_sums(cid, packed)

    def take(self, cid: int, blocks: Sequence[Data]) -> None:
        """Remember those of a whole content that the store has compared, for this process."""
        self._keep(cid, array("I", map(zlib_ng.crc32, blocks)).tobytes())

    def of(self, cid: int) -> array[int] | None:
        """One a block, if they are known."""
        sums = self._known.pop(cid, None)
        if sums is not None:
            self._known[cid] = sums
            return sums
        packed = self._index.sums(cid)
        return self._keep(cid, packed) if packed is not None else None

    def _keep(self, cid: int, packed: bytes) -> array[int]:
        sums = self._known[cid] = array("I", packed)
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return sums
