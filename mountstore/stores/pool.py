"""Blocks of objects in a store that serves as a cache: bounded by bytes, those kept that are used again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from mmap import PAGESIZE

from zlib_ng.zlib_ng import crc32

from mountstore.backends._arguments import flat
from mountstore.backends._filesystem_store import FileStore
from mountstore.backends._lent_memory import MEMORY
from mountstore.backends.filesystem import FilesystemStore
from mountstore.errors import Corrupted, NotFound, StoreError
from mountstore.store import Data, ObjectStore
from mountstore.stores.blocks import QUEUED, STORED, WRITING, Block, CacheStats, block_of, place_of
from mountstore.stores.pauses import Pause
from mountstore.stores.pins import PREFIX, Pins
from mountstore.stores.room import DiskRoom
from mountstore.stores.shelf import Shelf
from mountstore.stores.writers import Writers

_log = logging.getLogger("mountstore.stores")

MAX_BLOCKS = 65_536  # an entry takes up to a KiB of memory
_EPOCHS = 4096
_LENT_BYTES = 512 << 10


class BlockPool:
    """The blocks in `cache`, at most `capacity_bytes` of them, and what waits to be written into it.

    Which of them stay, see `Shelf`; blocks of pinned keys do. Room is reserved before a byte is written.

    On a disk that is nearly full it does not grow: what comes takes the place of what goes.

    A cache that fails is passed by, for longer and longer. With `writers`, blocks are written by so many
    threads, and readers are served from memory until then. For any thread.
    """

    def __init__(
        self,
        cache: ObjectStore,
        capacity_bytes: int,
        *,
        writers: int = 0,
        queue_bytes: int = 16 << 20,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        self.cache = cache
        self.capacity_bytes = capacity_bytes
        self.pins = Pins(cache)
        self.writers = Writers(writers, min(queue_bytes, max(capacity_bytes // 4, 1))) if writers else None
        self._stats = CacheStats()
        self._lock = threading.Lock()
        self._shelf = Shelf(capacity_bytes, max_blocks)  # under the lock
        self._doomed: dict[str, int] = {}
        self._epochs = [0] * _EPOCHS
        self._reading = Pause()
        self._writing = Pause()
        self._disk = cache if isinstance(cache, FileStore) else None
        self._room = DiskRoom(self._disk)
        self._get: Callable[[str, int], Data] = lambda name, size: cache.get(name)
        self._put: Callable[[Callable[[int], str], Data], object] = lambda named, data: cache.put(
            named(crc32(data)), data
        )
        self._delete: Callable[[str], None] = lambda name: cache.delete(name, missing_ok=True)
        if isinstance(cache, FilesystemStore):
            self._get, self._put, self._delete = cache.kept, cache.keep_summed, cache.drop
        self._loaded = False
        self._loading = threading.Lock()
        self._load()

    @property
    def stats(self) -> CacheStats:
        stats = self._stats
        stats.used_bytes = self._shelf.used_bytes
        stats.pinned_bytes = self._shelf.pinned_bytes
        stats.blocks = self._shelf.count
        stats.capacity_bytes = self.capacity_bytes
        return stats

    # -- reading ----------------------------------------------------------------------------------

    def read(
        self,
        key: str,
        etag: str,
        number: int,
        pin: str = "",
        *,
        counted: bool = True,
        into: memoryview | None = None,
    ) -> Data | None:
        """The block, if it is here and whole. `key` and `etag` are digests, `pin` a mark of `Pins`.

        What is returned lies at the begin of `into`, if that is given and has the room.
        """
        place = f"{key}-{etag}-{number:x}"
        with self._lock:
            block = self._shelf.use(place)
            if block is None:
                self._stats.misses += counted
                return None
            queued = block.data
        if into is not None and block.size > len(into):
            into = None
        data = self._stored(block, into) if queued is None else queued
        if data is None:
            self._stats.misses += counted
            return None
        self._stats.hits += 1
        self._stats.hit_bytes += block.size
        if queued is None and pin != block.pin and pin:
            self._mark(block, pin)
        if into is None or (queued is None and self._disk is not None):
            return data
        into[: block.size] = data
        return into[: block.size]

    def read_run(self, key: str, etag: str, numbers: range, pin: str = "") -> dict[int, Data]:
        """`read` of several blocks: those that are here, in memory that is used again if they are large."""
        with self._lock:
            find = self._shelf.blocks.get
            wanted = [(number, block) for number in numbers if (block := find(place_of(key, etag, number)))]
            sizes = [block.size if block.data is None else 0 for _, block in wanted]
        self._stats.misses += len(numbers) - len(wanted)
        place, at = None, 0
        if self._disk is not None and sum(sizes) >= _LENT_BYTES:
            place = MEMORY.lend(sum(size + -size % PAGESIZE for size in sizes))
        found = {}
        for (number, _), size in zip(wanted, sizes, strict=True):
            into = place[at : at + size] if place is not None and size else None
            at += size + -size % PAGESIZE
            if (data := self.read(key, etag, number, pin, into=into)) is not None:
                found[number] = data
        return found

    def has(self, key: str, etag: str, number: int) -> bool:
        """Whether it is here, for all that is known."""
        return place_of(key, etag, number) in self._shelf.blocks

    def has_any(self, key: str) -> bool:
        """Whether anything of this key is here, for all that is known."""
        return key in self._shelf.keys

    def _stored(self, block: Block, into: memoryview | None) -> Data | None:
        if self._reading.failures and not self._reading.is_over():
            return None
        began = time.monotonic()
        try:
            if into is None or self._disk is None:
                data = self._get(block.name, block.size)
            else:
                data = self._disk.get_into(block.name, into)
        except NotFound:
            pass
        except Corrupted as error:
            self._failed("reading", error, self._reading, began)
        except (StoreError, OSError) as error:
            self._failed("reading", error, self._reading, began)
            return None
        else:
            if self._reading.failures:
                self._reading.worked()
            if len(data) == block.size and crc32(data) == block.crc:
                return data
            self._stats.errors += 1
            _log.warning("a block in the cache is damaged; it is fetched again")
        self._discard([block])
        return None

    # -- writing ----------------------------------------------------------------------------------

    def epoch(self, key: str) -> int:
        """A number that `supersede` changes: what was fetched before that is not kept any more."""
        return self._epochs[int(key[:3], 16)]

    def insert(
        self,
        key: str,
        etag: str,
        number: int,
        data: Data,
        *,
        epoch: int,
        pin: str = "",
        used: bool = False,
        at_once: bool = False,
    ) -> None:
        """Keep a block, if there is room or some can be made. `data` must not change afterwards; `used`: it
        is for a reader; `at_once`: not by the writers, whose queue may be full."""
        data = flat(data)
        size = len(data)
        if (self._writing.failures or not self._loaded) and not self._can_write():
            return
        waiting_bytes = self.writers.waiting_bytes if self.writers is not None else 0
        if self._room.is_scarce(size, waiting_bytes) and (
            self.has(key, etag, number) or self.give_way(size, pinned=False) < size
        ):
            return
        now = at_once or self.writers is None
        block = Block(key, etag, number, size, pin=pin)
        block.used, block.data, block.state = used, data, WRITING if now else QUEUED
        reserved = False
        while True:
            with self._lock:
                if epoch != self._epochs[int(key[:3], 16)] or block.place in self._shelf.blocks:
                    if reserved:
                        self._shelf.free(size)
                    return
                if not reserved:
                    reserved = self._shelf.reserve(size)
                if reserved:
                    self._link(block)
                    break
            if not self._make_room(size):
                return
            reserved = True
        if now:
            self._write(block, data)
        else:
            self._have_written(block)

    def _have_written(self, block: Block) -> None:
        if self.writers is None:
            self._write_queued(block)
        else:
            self.writers.write(block.size, lambda: self._write_queued(block))

    def _can_write(self) -> bool:
        if not self._writing.is_over():
            return False
        if not self._loaded:
            with self._loading:
                if not self._loaded:
                    self._load()
        return self._loaded

    def _write_queued(self, block: Block) -> None:
        with self._lock:
            data = block.data
            if block.segment is None or data is None:
                return
            block.state = WRITING
        self._write(block, data)

    def _write(self, block: Block, data: Data) -> None:
        """Have the cache keep what is linked already, as being written."""
        began = time.monotonic()
        kept = False
        try:
            if not self._room.is_taken(block.size, began):
                self._put(block.set_crc, data)
                kept = True
        except (StoreError, OSError) as error:
            self._failed("writing", error, self._writing, began)
        if kept and self._writing.failures:
            self._writing.worked()
        with self._lock:
            block.data = None
            block.state = STORED
            if kept and block.segment is not None:
                return
            if block.segment is not None:
                self._shelf.unlink(block)
            if not block.name:
                self._shelf.free(block.size)
                return
        self._erase(block.name, block.size)

    def _make_room(self, size: int) -> bool:
        """Reserve so many bytes; False if they cannot be had."""
        tried = False
        while True:
            with self._lock:
                if self._shelf.reserve(size):
                    return True
                doomed = [] if tried else [*self._doomed.items()]
                if size > self.capacity_bytes:
                    return False
                if not doomed:
                    block = self._shelf.first_out()
                    if block is None or block.state == WRITING:
                        return False
                    self._stats.evictions += 1
            if doomed:
                tried = True
                for name, held in doomed:
                    self._erase(name, held)
            elif block is not None and not self._discard([block]):
                return False

    def give_way(self, size: int, *, pinned: bool = True) -> int:
        """Drop blocks of so many bytes in all, in the order of evictions, and pinned ones last or not at all;
        returns how many bytes went."""
        gone = 0
        while gone < size:
            with self._lock:
                block = next(self._shelf.stored(pinned=pinned), None)
                if block is None:
                    break
                self._stats.evictions += 1
            if not self._discard([block]):
                break
            gone += block.size
        return gone

    def _discard(self, blocks: Iterable[Block]) -> bool:
        """Forget blocks and delete them; False if one could not be deleted."""
        done = True
        for block in blocks:
            with self._lock:
                if block.segment is None:
                    continue
                self._shelf.unlink(block)
                if block.state == QUEUED:
                    self._shelf.free(block.size)
                if block.state != STORED:
                    continue  # whoever writes it sees to the rest
            done = self._erase(block.name, block.size) and done
        return done

    def _erase(self, name: str, size: int) -> bool:
        """Delete what is not to be found any more; until it is deleted it counts as used."""
        began = time.monotonic()
        try:
            self._delete(name)
        except (StoreError, OSError) as error:
            self._failed("deleting", error, self._writing, began)
            with self._lock:
                self._doomed[name] = size
            return False
        with self._lock:
            self._doomed.pop(name, None)
            self._shelf.free(size)
        return True

    # -- versions ---------------------------------------------------------------------------------

    def supersede(self, key: str, but: str | None = None) -> int:
        """Forget what is here of this key, but for the version `but`; returns its epoch from now on.

        What is being fetched of it meanwhile will not be kept.
        """
        with self._lock:
            slot = int(key[:3], 16)
            self._epochs[slot] = epoch = self._epochs[slot] + 1
            old = [block for block in self._shelf.of(key) if block.etag != but]
        if old:
            self._discard(old)
        return epoch

    def replace(self, key: str, etag: str, data: Data, *, pin: str = "") -> None:
        """`supersede` what is here of this key, and `insert` a version that is one block."""
        size = len(data)
        is_simple = (
            self.writers is None
            and self._loaded
            and not self._writing.failures
            and self._room.is_ample(size, time.monotonic())
        )
        old = None
        if is_simple:
            block = Block(key, etag, 0, size, pin=pin)
            block.data, block.state = data, WRITING
            shelf = self._shelf
            with self._lock:
                # There is room, and at most one block of another version is here: so it is with most.
                old = shelf.keys.get(key)
                if old is not None and (old.next is not None or old.state != STORED or old.etag == etag):
                    is_simple = False
                elif is_simple := shelf.reserve(size):
                    self._epochs[int(key[:3], 16)] += 1
                    if old is not None:
                        shelf.unlink(old)
                    shelf.link(block, is_pinned=pin in self.pins.marks)
        if not is_simple:
            self.insert(key, etag, 0, data, epoch=self.supersede(key, etag), pin=pin)
            return
        self._write(block, data)
        if old is not None:
            self._erase(old.name, old.size)

    def take(self, key: str, etag: str) -> list[Block]:
        """The blocks of a version, which are then to be found no more: they are to be given to `give`."""
        with self._lock:
            found = [block for block in self._shelf.of(key) if block.etag == etag and block.state != WRITING]
            for block in found:
                self._shelf.unlink(block)
        return found

    def give(self, blocks: Iterable[Block], key: str, etag: str, *, epoch: int, pin: str = "") -> None:
        """Make blocks that were taken those of another version, at the same positions; bytes do not move."""
        for old in blocks:
            new = Block(key, etag, old.number, old.size, old.crc if old.name else None, pin)
            new.used = old.used
            if old.state == QUEUED:
                self._requeue(old, new, epoch)
                continue
            began = time.monotonic()
            try:
                self.cache.rename(old.name, new.name)
            except NotFound:
                with self._lock:
                    self._shelf.free(old.size)
                continue
            except (StoreError, OSError) as error:
                self._failed("renaming", error, self._writing, began)
                self._erase(old.name, old.size)
                continue
            with self._lock:
                if epoch == self.epoch(key) and new.place not in self._shelf.blocks:
                    self._link(new)
                    continue
            self._erase(new.name, new.size)

    def _requeue(self, old: Block, new: Block, epoch: int) -> None:
        """`give` for a block that was not written yet."""
        with self._lock:
            data, old.data = old.data, None
            if epoch != self.epoch(new.key) or new.place in self._shelf.blocks:
                self._shelf.free(old.size)
                return
            new.data, new.state = data, QUEUED
            self._link(new)
        self._have_written(new)

    def drop(self, blocks: Iterable[Block]) -> None:
        """Delete blocks that were taken."""
        for block in blocks:
            if block.state == QUEUED:
                with self._lock:
                    block.data = None
                    self._shelf.free(block.size)
            else:
                self._erase(block.name, block.size)

    # -- the whole --------------------------------------------------------------------------------

    def unpin(self, mark: str) -> None:
        """The blocks of a pin that is no more may go like others."""
        with self._lock:
            self._shelf.unpin(mark)

    def clear(self) -> None:
        """Forget and delete all blocks. Raises what the cache raises."""
        with self._lock:
            stored = dict(self._doomed)
            for block in self._shelf.take_all():
                if block.state == STORED:
                    stored[block.name] = block.size
                elif block.state == QUEUED:
                    self._shelf.free(block.size)
            self._doomed = dict(stored)
        for page in self.cache.pages():
            self.cache.delete_many([info.key for info in page.objects if not info.key.startswith(PREFIX)])
        with self._lock:
            for name, size in stored.items():
                if self._doomed.pop(name, None) is not None:
                    self._shelf.free(size)

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and close the cache; what it raises is passed by."""
        if self.writers is not None:
            self.writers.close()
        try:
            self.cache.close()
        except (StoreError, OSError) as error:
            self._failed("closing", error, self._writing, time.monotonic())

    def _load(self) -> None:
        """Find out what is in the cache: until then nothing is written, the bound could be exceeded."""
        began = time.monotonic()
        stray: list[str] = []
        pins: list[str] = []
        found: list[tuple[int, Block]] = []
        try:
            for page in self.cache.pages():
                for info in page.objects:
                    if block := block_of(info.key, info.size):
                        found.append((info.mtime_ns, block))
                    else:
                        (pins if info.key.startswith(PREFIX) else stray).append(info.key)
            self.pins.load(pins)
        except (StoreError, OSError) as error:
            self._failed("listing it", error, self._writing, began)
            return
        with self._lock:
            self._loaded = True
            for _, block in sorted(found, key=lambda one: one[0]):
                self._shelf.count_in(block.size)
                if block.place in self._shelf.blocks:
                    self._doomed[block.name] = block.size
                else:
                    self._link(block)
        for name in stray:
            with self._lock:
                self._shelf.count_in(0)
            self._erase(name, 0)
        if self._make_room(0):
            with self._lock:
                self._shelf.free(0)

    # -- the rest ----------------------------------------------------------------------------------

    def _link(self, block: Block) -> None:
        """Under the lock."""
        self._shelf.link(block, is_pinned=block.pin in self.pins.marks)

    def _mark(self, block: Block, pin: str) -> None:
        """A block of a key that has been pinned since is pinned."""
        with self._lock:
            if block.segment is None or block.state != STORED:
                return
            self._shelf.unlink(block)
        self.give([block], block.key, block.etag, epoch=self.epoch(block.key), pin=pin)

    def _failed(self, doing: str, error: Exception, pause: Pause, began: float) -> None:
        self._stats.errors += 1
        wait_s = pause.failed(time.monotonic() - began)
        if wait_s:
            _log.warning("the cache failed at %s: %s; it is passed by for %.0f s", doing, error, wait_s)
        else:
            _log.info("the cache failed at %s: %s", doing, error)
