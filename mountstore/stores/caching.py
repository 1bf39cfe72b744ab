"""CachingStore: a store that is slow, behind one that is fast."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from mountstore.backends._arguments import clip_range, flat
from mountstore.errors import NotFound, PreconditionFailed, StoreError
from mountstore.store import Data, ObjectInfo, ObjectStore
from mountstore.stores.reader import RANGE_BYTES
from mountstore.stores.wrapper import WrapperStore

_log = logging.getLogger("mountstore.stores")
_STRIPES = 256
_SEEN = 65_536
_KEY_DIGITS = 48
_ETAG_DIGITS = 32


@dataclass(slots=True)
class CacheStats:
    """What a cache did since it was made. `errors` counts calls of the cache that failed."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    errors: int = 0


class CachingStore(WrapperStore):
    """`main`, with content that was read or put kept in `cache`, which is this store's alone.

    Entries are whole objects of up to `max_object_bytes`, named by key and etag: an entry is never wrong,
    only no longer asked for. Which etag is the right one is asked of `main` (a head) for each read, unless
    it was asked less than `ttl_s` ago: so with the default of 0 a change by anybody is seen at once, and
    otherwise one by another process within `ttl_s`. What this object wrote or deleted it sees at once.

    `get` alone is served from the cache; listings and heads come from `main`. At most `capacity_bytes` of
    content are kept, those used last; an entry that would not fit is not made. A cache that fails or is
    full is passed by, logged and counted in `stats`, and never fails a call. `close` closes both.
    """

    def __init__(
        self,
        main: ObjectStore,
        cache: ObjectStore,
        *,
        capacity_bytes: int = 1 << 30,
        max_object_bytes: int = 64 << 20,
        ttl_s: float = 0.0,
    ) -> None:
        super().__init__(main)
        self.cache = cache
        self.stats = CacheStats()
        self._capacity = capacity_bytes
        self._most = min(capacity_bytes, max_object_bytes)
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, int] = OrderedDict()  # name: size, the one used last at the end
        self._coming: dict[str, int] = {}  # names that are being written, counted as used
        self._newest: dict[str, str] = {}  # what names of one key begin with: the one written last
        self._used = 0
        self._seen: OrderedDict[str, tuple[ObjectInfo, float]] = OrderedDict()
        self._names: dict[str, tuple[str, str]] = {}  # the name last asked for, by key
        self._writes = [0] * _STRIPES
        with self._passing_by("listing it"):
            found = [info for page in cache.pages() for info in page.objects]
            for info in sorted(found, key=lambda info: info.mtime_ns):
                self._entries[info.key] = info.size
                self._newest[info.key[:_KEY_DIGITS]] = info.key
                self._used += info.size
        self._evict(0)

    # -- reading ----------------------------------------------------------------------------------

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        info = self._current(key)
        if if_match is not None and info.etag != if_match:
            if self._ttl_s:  # it may be what we hold that is old
                self._forget(key)
                info = self._current(key)
            if info.etag != if_match:
                raise PreconditionFailed(f"{key!r} has changed", key=key)
        if info.etag is None or info.size > self._most:
            return self.inner.get(key, start, stop, if_match=if_match)
        start, stop = clip_range(key, start, stop, info.size)
        name = self._name(key, info.etag)
        held = self._held(name, start, stop)
        if held is not None:
            return held
        if stop - start < info.size and info.size > RANGE_BYTES:
            return self.inner.get(key, start, stop, if_match=if_match)  # all of it is too much to ask for
        conditional = self.inner.capabilities.conditional_get
        try:
            data = self.inner.get(key, if_match=info.etag if conditional else None)
        except (PreconditionFailed, NotFound):
            self._forget(key)
            if if_match is not None:
                raise
            return self.inner.get(key, start, stop)
        if conditional or self.inner.head(key).etag == info.etag:
            self._keep(name, data)
            return memoryview(data)[start:stop] if stop - start < info.size else data
        self._forget(key)
        return self.inner.get(key, start, stop, if_match=if_match)

    def _current(self, key: str) -> ObjectInfo:
        if not self._ttl_s:
            return self._head(key)
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

    def _held(self, name: str, start: int, stop: int) -> Data | None:
        known = True
        try:
            with self._lock:
                self._entries.move_to_end(name)
            data = self.cache.get(name, start, stop)
            if len(data) == stop - start:
                self.stats.hits += 1
                return data
        except (StoreError, OSError) as error:
            self._failed("reading", error)
        except KeyError:
            known = False
        if known:
            self._drop(name)
        self.stats.misses += 1
        return None

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
        begin = 0 if isinstance(data, (bytes, bytearray, memoryview)) else data.tell()
        self._forget(key)
        writes = self._writes[hash(key) % _STRIPES]
        info = None
        try:
            info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        finally:
            self._forget(key)
            if info is not None and self._ttl_s:
                # Right unless another call wrote meanwhile, which may have been the last.
                self._see(key, info, writes + 1)
        if info.etag is not None and info.size <= self._most:
            if isinstance(data, (bytes, bytearray, memoryview)):
                self._keep(self._name(key, info.etag), data)
            elif info.size <= RANGE_BYTES:
                data.seek(begin)
                self._keep(self._name(key, info.etag), data.read(info.size))
        return info

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        with self._writing(key):
            self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
        self._drop_versions(key)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        with self._writing(target):
            return self.inner.copy(source, target, metadata=metadata, if_match=if_match)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        with self._writing(source, target):
            return self.inner.rename(source, target, if_match=if_match)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        with self._writing(key):
            return self.inner.update_metadata(key, metadata, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        with self._writing(*wanted):
            self.inner.delete_many(wanted)
        self._drop_versions(*wanted)

    def clear(self) -> None:
        """Empty the cache. Raises what the cache raises: the caller wants to know whether it is empty."""
        with self._lock:
            self._entries.clear()
            self._newest.clear()
            self._used = sum(self._coming.values())
        for page in self.cache.pages():
            self.cache.delete_many([info.key for info in page.objects])

    def close(self) -> None:
        """Close the cache and `main`; what the cache raises is passed by."""
        with self._passing_by("closing"):
            self.cache.close()
        self.inner.close()

    # -- the cache --------------------------------------------------------------------------------

    def _keep(self, name: str, data: Data) -> None:
        size = len(flat(data))
        if size > self._capacity:
            return
        # Room is made, and counted as used, before the cache gets a byte.
        if self._used + size > self._capacity:
            self._evict(size)
        with self._lock:
            if name in self._entries or name in self._coming or self._used + size > self._capacity:
                return
            self._coming[name] = size
            self._used += size
            older = self._newest.get(name[:_KEY_DIGITS])
        kept = False
        try:
            self.cache.put(name, data)
            kept = True
        except (StoreError, OSError) as error:
            self._failed("writing", error)
        with self._lock:
            del self._coming[name]
            if kept:
                self._entries[name] = size
                self._newest[name[:_KEY_DIGITS]] = name
            else:
                self._used -= size
        if not kept:
            self._drop(name)
        elif older is not None and older != name:
            self._drop(older)

    def _evict(self, size: int) -> None:
        while True:
            with self._lock:
                if self._used + size <= self._capacity or not self._entries:
                    return
                oldest = next(iter(self._entries))
                self.stats.evictions += 1
            self._drop(oldest)

    def _drop(self, name: str) -> None:
        with self._passing_by("deleting"):
            self.cache.delete(name, missing_ok=True)
        with self._lock:
            self._used -= self._entries.pop(name, 0)
            if self._newest.get(name[:_KEY_DIGITS]) == name:
                del self._newest[name[:_KEY_DIGITS]]

    def _drop_versions(self, *keys: str) -> None:
        for key in keys:
            with self._lock:
                name = self._newest.get(_name(key, "")[:_KEY_DIGITS])
            if name is not None:
                self._drop(name)

    def _forget(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._seen.pop(key, None)
                self._writes[hash(key) % _STRIPES] += 1

    @contextmanager
    def _writing(self, *keys: str) -> Iterator[None]:
        self._forget(*keys)
        try:
            yield
        finally:
            self._forget(*keys)

    @contextmanager
    def _passing_by(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (StoreError, OSError) as error:
            self._failed(doing, error)

    def _failed(self, doing: str, error: Exception) -> None:
        self.stats.errors += 1
        _log.warning("the cache failed at %s: %s", doing, error)

    def _name(self, key: str, etag: str) -> str:
        """What `_name` says, remembered: it is asked for the same ones again and again."""
        known = self._names.get(key)
        if known is not None and known[0] == etag:
            return known[1]
        if len(self._names) >= _SEEN:
            self._names.clear()
        name = _name(key, etag)
        self._names[key] = etag, name
        return name


def _name(key: str, etag: str) -> str:
    """The name of an entry: of any key, plain and short, and another one for each version."""
    version = hashlib.sha256(etag.encode()).hexdigest()[:_ETAG_DIGITS]
    return f"{hashlib.sha256(key.encode()).hexdigest()[:_KEY_DIGITS]}-{version}"
