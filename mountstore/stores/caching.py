"""CachingStore: a store that is slow, behind one that is fast."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from mountstore.backends._arguments import check_key, clip_range, flat
from mountstore.backends._filesystem_store import FileStore
from mountstore.errors import NotFound, PreconditionFailed, StoreFull, UsageError
from mountstore.store import Data, ObjectInfo, ObjectStore, Upload
from mountstore.stores.blocks import Block, CacheStats, digest
from mountstore.stores.drafts import Draft
from mountstore.stores.pins import Pin
from mountstore.stores.pool import BlockPool
from mountstore.stores.reader import RANGE_BYTES
from mountstore.stores.versions import Versions
from mountstore.stores.wrapper import WrapperStore

BLOCK_BYTES = 1 << 20
_LARGE_BYTES = 4 << 20  # to begin a thread takes as long as to write a part of this
_STRIPES = 256
_SEEN = 65_536
_HEIRS = 4096
_OTHERS = 1 << 32  # there were two writes at once

__all__ = ["BLOCK_BYTES", "CacheStats", "CachingStore", "uncached"]


class CachingStore(WrapperStore):
    """`main`, with content that was read or put kept in `cache`, which is this store's alone.

    Content is kept in blocks of `block_bytes`, named by key, etag and number: a block is never wrong, only no
    longer asked for. A `get` with `if_match` names a version, so its blocks that are here are served without
    asking `main`. Without, which etag is the right one is asked of `main` (a head) for each read, unless
    it was asked less than `ttl_s` ago: so with the default of 0 a change by anybody is seen at once, and
    otherwise one by another process within `ttl_s`. What this object wrote or deleted it sees at once.
    What is missing is fetched in whole blocks, neighbours at once, each by one thread while others wait.

    `get` alone is served from the cache; listings and heads come from `main`. For what is kept of
    `capacity_bytes`, and what with a cache that fails or is full, see `BlockPool`. With `writers`, so many
    threads write in the background; files that are put are then not read again, see `fill`. `close` closes
    both stores.
    """

    def __init__(
        self,
        main: ObjectStore,
        cache: ObjectStore,
        *,
        capacity_bytes: int = 1 << 30,
        block_bytes: int = BLOCK_BYTES,
        ttl_s: float = 0.0,
        writers: int = 0,
    ) -> None:
        super().__init__(main)
        self.cache = cache
        self.block_bytes = block_bytes
        self._pool = BlockPool(cache, capacity_bytes, writers=writers)
        self._ttl_s = ttl_s
        self._versions = Versions(main, self._pool, block_bytes)
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[ObjectInfo, float]] = OrderedDict()
        self._writes = [0] * _STRIPES
        self._writing: dict[str, int] = {}  # by key: how many writes are under way, and `_OTHERS`
        self._heirs: OrderedDict[str, tuple[str, str, str, int]] = OrderedDict()

    @property
    def stats(self) -> CacheStats:
        return self._pool.stats

    @property
    def requests(self) -> Mapping[str, int]:
        """Those of `main`, if it counts them."""
        requests: Mapping[str, int] = getattr(self.inner, "requests", {})
        return requests

    def stat(self, key: str) -> ObjectInfo:
        return self.inner.stat(key)

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        return self.inner.head_many(keys)

    def head_or_get_many(self, keys: Iterable[str]) -> dict[str, tuple[ObjectInfo, Data | None]]:
        """As that of `main`; what comes is kept, and what is here, of whatever version, does not come."""
        epochs, here = {}, []
        for key in keys:
            name = digest(key)
            if self._pool.has_any(name):
                here.append(key)
            else:
                epochs[key] = self._pool.epoch(name)
        found = self.inner.head_or_get_many(epochs) if epochs else {}
        for key, (info, data) in found.items():
            if data is not None and info.etag is not None:
                self._versions.keep(key, info.etag, flat(data), epochs[key])
        if here:
            found |= {key: (info, None) for key, info in self.inner.head_many(here).items()}
        return found

    # -- reading ----------------------------------------------------------------------------------

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        if if_match is None:
            info = self._current(key) if self._ttl_s else self.inner.stat(key)
            if not start and stop is None and 0 < info.size <= self.block_bytes and info.etag:
                try:
                    return self._versions.read_one(key, info.etag, info.size)
                except (PreconditionFailed, NotFound):
                    self._forget(key)
                    return self.inner.get(key)
        elif self._versions.able.conditional_get and stop is not None and 0 <= start < stop:
            return self._versions.read(key, if_match, start, stop, None)
        else:
            info = self._current(key)
        if if_match is not None and info.etag != if_match:
            if self._ttl_s:  # it may be what we hold that is old
                self._forget(key)
                info = self._current(key)
            if info.etag != if_match:
                raise PreconditionFailed(f"{key!r} has changed", key=key)
        if info.etag is None:
            return self.inner.get(key, start, stop, if_match=if_match)
        start, stop = clip_range(key, start, stop, info.size)
        try:
            return self._versions.read(key, info.etag, start, stop, info.size)
        except (PreconditionFailed, NotFound):
            self._forget(key)
            if if_match is not None:
                raise
            return self.inner.get(key, start, stop)

    def get_blocks(self, key: str, start: int, stop: int, *, if_match: str) -> list[Data]:
        """`get` of a range from where a block begins to where one or the object ends, block by block.

        Nothing is put together that was kept apart. What `main` sent comes as parts of one answer.
        """
        if self._versions.able.conditional_get and 0 <= start < stop:
            return self._versions.pieces(key, if_match, start, stop)
        view = memoryview(flat(self.get(key, start, stop, if_match=if_match)))
        return [view[low : low + self.block_bytes] for low in range(0, len(view), self.block_bytes)]

    def _current(self, key: str) -> ObjectInfo:
        with self._lock:
            found = self._seen.get(key)
            writes = self._writes[hash(key) % _STRIPES]
        now = time.monotonic()
        if found is not None and now < found[1]:
            return found[0]
        info = self._head(key)
        # Not if this object has written meanwhile: what was asked for may be from before that.
        self._see(key, info, writes)
        return info

    def _see(self, key: str, info: ObjectInfo, writes: int) -> None:
        """Remember what `main` told, unless there were more than so many writes of this object."""
        with self._lock:
            if writes == self._writes[hash(key) % _STRIPES]:
                self._saw(key, info)

    def _saw(self, key: str, info: ObjectInfo) -> None:
        """Under the lock."""
        self._seen[key] = info, time.monotonic() + self._ttl_s
        self._seen.move_to_end(key)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def _head(self, key: str) -> ObjectInfo:
        try:
            return self.inner.stat(key)
        except NotFound:
            self._forget(key)
            raise

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        if isinstance(data, bytes) and len(data) <= self.block_bytes:
            return self._put_block(key, data, metadata, if_match, if_absent)
        is_bytes = isinstance(data, (bytes, bytearray, memoryview))
        if (
            is_bytes
            and memoryview(data).nbytes >= _LARGE_BYTES  # type: ignore[arg-type]
            and if_match is None
            and not if_absent  # which often fails, and room would be made for nothing
            and self._pool.writers is None
            and self.cache.capabilities.atomic_rename
        ):
            return self._put_large(key, flat(data), metadata)  # type: ignore[arg-type]
        begin = 0 if is_bytes else data.tell()  # type: ignore[union-attr]
        with self._changing(key) as done:
            info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
            epoch = done(info)
        if epoch is None or info.etag is None:
            return info
        if isinstance(data, (bytes, bytearray, memoryview)):
            # What the writers keep for a while, the caller may change.
            kept = data if isinstance(data, bytes) or self._pool.writers is None else bytes(data)
            self._versions.keep(key, info.etag, flat(kept), epoch)
        elif info.size <= RANGE_BYTES and self._pool.writers is None:
            data.seek(begin)
            content = data.read(info.size)
            self._versions.keep(key, info.etag, content, epoch)
        return info

    def _put_block(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None, if_match: str | None, if_absent: bool
    ) -> ObjectInfo:
        """`put` of what is one block, as most is: what the others do, in fewer steps."""
        self._enter(key)
        try:
            info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        except BaseException:
            self._leave(key)
            raise
        alone = self._leave(key, info)
        if alone and info.etag is not None:
            self._pool.replace(*self._versions.named(key, info.etag), data, pin=self._pool.pins.mark_of(key))
        else:
            self._pool.supersede(digest(key))
        return info

    def _put_large(self, key: str, data: Data, metadata: Mapping[str, str] | None) -> ObjectInfo:
        """`put` of what takes its time, which `main` and the cache take at once."""
        check_key(key)
        with self._changing(key) as done:
            pin = self._pool.pins.mark_of(key)
            draft = Draft(self._pool, digest(key), data, self.block_bytes, pin)
            try:
                info = self.inner.put(key, data, metadata=metadata)
            except BaseException:
                draft.discard()
                raise
            blocks = draft.blocks()
            self._hand_on(blocks, key, info, done(info))
        return info

    def put_changes(
        self,
        key: str,
        data: BinaryIO,
        changed: Sequence[tuple[int, int]],
        *,
        source: str,
        source_etag: str,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        old = self._versions.named(source, source_etag)
        with self._changing(key) as done:
            info = self.inner.put_changes(
                key,
                data,
                changed,
                source=source,
                source_etag=source_etag,
                metadata=metadata,
                if_match=if_match,
                if_absent=if_absent,
            )
            patched = self._versions.patched(data, changed, old, info.size) if source == key else {}
            blocks = self._pool.take(*old) if source == key and info.etag != source_etag else []
            epoch = done(info)
        step = self.block_bytes
        same = [
            block
            for block in blocks
            if epoch is not None
            and block.size == min(step, info.size - block.number * step)
            and not any(
                low < (block.number + 1) * step and high > block.number * step for low, high in changed
            )
        ]
        self._pool.drop([block for block in blocks if block not in same])
        if epoch is not None and info.etag is not None:
            names, pin = self._versions.named(key, info.etag), self._pool.pins.mark_of(key)
            self._pool.give(same, *names, epoch=epoch, pin=pin)
            for number, piece in patched.items():
                self._pool.insert(*names, number, piece, epoch=epoch, pin=pin)
        return info

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        return _CachedUpload(self, key, self.inner.start_upload(key, metadata=metadata))

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        with self._changing(key) as done:
            self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
            self._inherit(key)
            done(None)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        with self._changing(target) as done:
            info = self.inner.copy(source, target, metadata=metadata, if_match=if_match)
            epoch = self._moved(source if source == target else None, target, if_match, info, done)
        if source != target and epoch is not None and if_match is not None and info.etag is not None:
            with self._lock:  # its blocks are those of the copy, once the source goes
                self._heirs[source] = if_match, target, info.etag, epoch
                self._heirs.move_to_end(source)
                if len(self._heirs) > _HEIRS:
                    self._heirs.popitem(last=False)
        return info

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        with self._changing(source) as gone, self._changing(target) as done:
            info = self.inner.rename(source, target, if_match=if_match)
            self._moved(source, target, if_match, info, done)
            if source != target:
                gone(None)
        return info

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        with self._changing(key) as done:
            info = self.inner.update_metadata(key, metadata, if_match=if_match)
            self._moved(key, key, if_match, info, done)
        return info

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._forget(*wanted)
        try:
            self.inner.delete_many(wanted)
        finally:
            self._forget(*wanted)
            for key in wanted:
                self._pool.supersede(digest(key))

    def _moved(
        self,
        source: str | None,
        target: str,
        etag: str | None,
        info: ObjectInfo,
        done: Callable[[ObjectInfo | None], int | None],
    ) -> int | None:
        """`target` has the content that the version `etag` of `source` had, which is no more."""
        same = source == target and etag == info.etag
        old = self._pool.take(*self._versions.named(source, etag)) if source and etag and not same else []
        epoch = done(info)
        self._hand_on(old, target, info, epoch)
        return epoch

    def _hand_on(self, blocks: list[Block], key: str, info: ObjectInfo, epoch: int | None) -> None:
        """Blocks that were taken are those of this object, unless that is unsure (see `_changing`)."""
        if epoch is None or info.etag is None:
            self._pool.drop(blocks)
        else:
            pin = self._pool.pins.mark_of(key)
            self._pool.give(blocks, *self._versions.named(key, info.etag), epoch=epoch, pin=pin)

    def _inherit(self, key: str) -> None:
        """The object is gone: its blocks go to the copy that was made of it."""
        with self._lock:
            heir = self._heirs.pop(key, None)
        if heir is not None:
            etag, target, target_etag, epoch = heir
            blocks = self._pool.take(*self._versions.named(key, etag))
            pin = self._pool.pins.mark_of(target)
            self._pool.give(blocks, *self._versions.named(target, target_etag), epoch=epoch, pin=pin)

    # -- more than a store ------------------------------------------------------------------------

    def fill(
        self, info: ObjectInfo, read: Callable[[int, int], Data | None], close: Callable[[], None]
    ) -> None:
        """Take over the content of an object that has just been put, in the background.

        `read(start, stop)` gives a block of it, or None for one that is not at hand; it is called from a
        thread. `close` is called when it is not needed any more, whatever happens.
        """
        if info.etag is None or self._pool.writers is None or info.size > self._pool.capacity_bytes:
            close()
            return
        steps = self._versions.filling(info, self._versions.named(info.key, info.etag), read, close)
        next(steps)  # from here on it closes what it was given
        self._pool.writers.job(steps)

    def warm(self, key: str, etag: str, size: int, told: Callable[[int], None] = lambda done: None) -> None:
        """Have the whole of this version in the cache; `told` hears how many bytes of it are.

        Raises what `get` raises.
        """
        step = self.block_bytes * 4
        for start in range(0, max(size, 1), step):
            stop = min(start + step, size)
            self._versions.read(key, etag, start, stop, size)
            told(stop)

    @property
    def pins(self) -> list[Pin]:
        """What is pinned, in the order of names."""
        return [*self._pool.pins]

    def pin(self, prefix: str) -> Pin:
        """Keep what of the object `prefix` comes into the cache, or with a slash at its end (or empty) of
        all objects below it, until `unpin`; across restarts too. `warm` has it come.

        Raises StoreFull if it is more than the cache holds beside other pins, and what main and cache raise.
        """
        size = sum(
            info.size
            for page in self.inner.pages(prefix)
            for info in page.objects
            if Pin(prefix, 0).holds(info.key)
        )
        pin = Pin(prefix, size)
        others = sum(other.size_bytes for other in self.pins if not pin.holds(other.prefix))
        if outer := next(
            (other for other in self.pins if other.prefix != prefix and other.holds(prefix)), None
        ):
            return outer
        capacity = self._pool.capacity_bytes
        if size + others > capacity:
            raise StoreFull(
                f"{prefix or 'all of it'} has {size} bytes, and the cache holds {capacity}, of which {others}"
                " are pinned; make it larger, or unpin something",
                key=prefix,
            )
        self._pool.pins.add(pin)
        return pin

    def unpin(self, prefix: str) -> None:
        """What was pinned by this very prefix may go like all else. Raises UsageError if it was not."""
        pin = next((pin for pin in self.pins if pin.prefix == prefix), None)
        if pin is None:
            raise UsageError(f"{prefix or 'all of it'} is not pinned")
        self._pool.pins.remove(pin)
        self._pool.unpin(pin.mark)

    def drop(self, key: str) -> None:
        """Forget what is here of this object: it has turned out to be damaged."""
        self._pool.supersede(digest(key))

    def clear(self) -> None:
        """Empty the cache. Raises what the cache raises: the caller wants to know whether it is empty."""
        self._pool.clear()

    def is_on(self, device: int) -> bool:
        """Whether the cache takes room of the file system of this number (`st_dev`). Raises OSError."""
        return isinstance(self.cache, FileStore) and self.cache.device == device

    def let_go(self) -> bool:
        """Take over no more of others' files (see `fill`): they need the room. False if there was nothing."""
        return self._pool.writers is not None and self._pool.writers.give_up()

    def give_way(self, size: int) -> int:
        """Drop blocks of so many bytes for somebody who needs the disk more; returns how many bytes went.

        Pinned ones go last. What is about to be taken over from others' files (see `fill`) is left, too.
        """
        self.let_go()
        return self._pool.give_way(size)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return when nothing is being written in the background; False after the timeout."""
        return self._pool.writers is None or self._pool.writers.flush(timeout_s)

    def close(self) -> None:
        """Close the cache and `main`; what the cache raises is passed by."""
        self._pool.close()
        self.inner.close()

    # -- what is being written --------------------------------------------------------------------

    def _forget(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._seen.pop(key, None)
                self._writes[hash(key) % _STRIPES] += 1

    @contextmanager
    def _changing(self, key: str) -> Iterator[Callable[[ObjectInfo | None], int | None]]:
        """Around a write of `key`. What it gives is called with what the write made (None: nothing is there),
        and returns the epoch in which blocks of it may be kept, None if another write makes that unsure."""
        ended = False

        def done(info: ObjectInfo | None) -> int | None:
            nonlocal ended
            ended = True
            return self._done(key, info)

        self._enter(key)
        try:
            yield done
        finally:
            if not ended:
                self._leave(key)

    def _enter(self, key: str) -> None:
        # What was seen before holds until `_leave`: nobody can tell that a write has landed before it ends.
        with self._lock:
            under_way = self._writing.get(key)
            self._writing[key] = 1 if under_way is None else (under_way + 1) | _OTHERS

    def _done(self, key: str, info: ObjectInfo | None) -> int | None:
        alone = self._leave(key, info)
        if info is not None and alone and info.etag is not None:
            epoch = self._pool.supersede(*self._versions.named(key, info.etag))
        else:
            epoch = self._pool.supersede(digest(key))
        return epoch if alone else None

    def _leave(self, key: str, info: ObjectInfo | None = None) -> bool:
        """Whether there was no other write meanwhile; then what this one made, if anything, is remembered."""
        with self._lock:
            under_way = self._writing[key] - 1
            if under_way % _OTHERS:
                self._writing[key] = under_way
            else:
                del self._writing[key]
            alone = under_way < _OTHERS
            if self._ttl_s:
                self._writes[hash(key) % _STRIPES] += 1
                if alone and info is not None:
                    self._saw(key, info)
                else:
                    self._seen.pop(key, None)
            return alone


def uncached(store: ObjectStore) -> ObjectStore:
    """The store behind a cache, or the store itself."""
    return store.inner if isinstance(store, CachingStore) else store


class _CachedUpload(Upload):
    """An upload whose end is a write of the object."""

    def __init__(self, store: CachingStore, key: str, upload: Upload) -> None:
        self._store = store
        self._key = key
        self._upload = upload
        self.part_bytes = upload.part_bytes

    def put_part(self, number: int, data: Data) -> None:
        self._upload.put_part(number, data)

    def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        with self._store._changing(self._key) as done:
            info = self._upload.finish(if_match=if_match, if_absent=if_absent)
            done(info)
        return info

    def abort(self) -> None:
        self._upload.abort()
