"""The cache of a namespace store: another store that holds the same items under the same keys.

What is cached carries the etag that it has in the main store (as metadata; a cache that keeps no metadata
forgets it when it is closed), and is served only while the main store's item has that etag. So a cache that
others changed, or that missed a deletion, never answers wrongly. Whatever fails in it is counted and logged,
and the call goes on without it; after several failures in a row the cache is left alone until the store is
opened again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import BinaryIO, TypeVar

from mountstore.errors import BackendDoesNotExist, InvalidRange, NotFound
from mountstore.namespaces.config import CachePolicy, Namespace, Namespaces
from mountstore.namespaces.measure import Stats
from mountstore.namespaces.names import is_listed, last_part
from mountstore.namespaces.recency import Entry, Recency
from mountstore.namespaces.target import Target
from mountstore.store import Data, ObjectInfo, ObjectStore

T = TypeVar("T")

ETAG = "etag"
_FAILURES = 10
_log = logging.getLogger("mountstore.namespaces")


class Cache:
    """A cache on `target`, which is made if it is not there. All methods may be called by many threads."""

    def __init__(self, target: Target, namespaces: Namespaces, stats: Stats) -> None:
        self._target, self._namespaces, self._stats = target, namespaces, stats
        self._store: ObjectStore | None = None
        self._lock = threading.Lock()  # of what follows; never held while the store works
        self._recent: dict[str, Recency] = {}
        self._failures = 0

    # -- life -------------------------------------------------------------------------------------

    def open(self) -> None:
        self._failures = 0
        self._recent = {known.name: Recency(known.max_age_s, known.size_bytes) for known in self._namespaces}
        self._tried("open", self._open)

    def _open(self) -> None:
        try:
            self._store = self._target.open()
        except BackendDoesNotExist:
            self._target.create()
            self._store = self._target.open()
        for namespace in self._namespaces:
            recent = self._recent[namespace.name]
            if namespace.cache is not CachePolicy.OFF and recent.limited:
                found = [
                    (info.mtime_ns, key, info.size) for key, info in self._listed(self._store, namespace)
                ]
                for mtime_ns, key, size in sorted(found):
                    recent.note(key, Entry(size, None, mtime_ns / 1e9))

    def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            self._tried("close", lambda: self._target.close(store))

    def create(self) -> None:
        self._tried("create", self._target.create)

    def destroy(self) -> None:
        def destroyed() -> None:
            try:
                self._target.destroy()
            except BackendDoesNotExist:
                return  # it was never used

        self._tried("destroy", destroyed)

    @property
    def disabled(self) -> bool:
        return self._store is None or self._failures >= _FAILURES

    def _tried(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            done = call()
        except Exception as error:
            # Any failure of a cache, of whatever library, must not become one of the call.
            with self._lock:
                self._failures += 1
                last = self._failures == _FAILURES
            self._stats.count("cache_errors")
            _log.warning("cache: %s failed: %s: %s", what, type(error).__name__, error)
            if last:
                _log.warning("cache: failed %d times in a row, and is not used any more", _FAILURES)
            return None
        with self._lock:
            self._failures = 0
        return done

    def _used(self, what: str, call: Callable[[ObjectStore], T]) -> T | None:
        store = self._store
        if store is None or self._failures >= _FAILURES:
            return None
        return self._tried(what, lambda: call(store))

    # -- items ------------------------------------------------------------------------------------

    def load(self, namespace: Namespace, key: str, etag: str | None, start: int, stop: int) -> Data | None:
        """Bytes of the item that has this etag; None if they are not here."""

        def loaded(store: ObjectStore) -> Data | None:
            if not self._is_current(store, namespace, key, etag):
                return None
            with self._stats.measured("cache_load") as call:
                try:
                    data = store.get(key, start, stop)
                except (NotFound, InvalidRange):
                    self._recent[namespace.name].forget(key)
                    return None
                call.volume = len(data)
            # Another process may have replaced it between the two looks, by a version of another length.
            return data if len(data) == stop - start else None

        data = self._used("load", loaded)
        self._stats.count("cache_misses" if data is None else "cache_hits")
        return data

    def holds(self, namespace: Namespace, key: str, etag: str | None) -> bool:
        """Whether the item that has this etag is here."""
        return bool(self._used("look", lambda store: self._is_current(store, namespace, key, etag)))

    def _is_current(self, store: ObjectStore, namespace: Namespace, key: str, etag: str | None) -> bool:
        recent = self._recent[namespace.name]
        entry = recent.get(key)
        if entry is None or entry.etag is None:
            try:
                info = store.head(key)
            except NotFound:
                recent.forget(key)
                return False
            stored_s = info.mtime_ns / 1e9 if entry is None else entry.stored_s
            entry = Entry(info.size, (info.metadata or {}).get(ETAG), stored_s)
        if recent.is_old(entry):
            self._drop(store, namespace, key)
            return False
        recent.note(key, entry)
        return etag is not None and entry.etag == etag

    def keep(
        self, namespace: Namespace, key: str, data: Data | BinaryIO, size: int, etag: str | None
    ) -> None:
        """Cache an item as the main store has it with this etag."""

        def kept(store: ObjectStore) -> None:
            recent = self._recent[namespace.name]
            if etag is None or recent.too_large(size):
                self._drop(store, namespace, key)
                return
            for victim in recent.victims(key, size):
                self._drop(store, namespace, victim)
            with self._stats.measured("cache_store") as call:
                metadata = {ETAG: etag} if store.capabilities.metadata else None
                store.put(key, data, metadata=metadata)
                call.volume = size
            recent.note(key, Entry(size, etag, time.time()))

        self._used("store", kept)

    def delete(self, namespace: Namespace, key: str) -> None:
        self._used("delete", lambda store: self._drop(store, namespace, key))

    def move(self, old: Namespace, key: str, new: Namespace, new_key: str, etag: str | None) -> None:
        """The main store's item has moved, and has this etag now."""

        def moved(store: ObjectStore) -> None:
            if new.cache is CachePolicy.OFF or etag is None or key == new_key:
                self._drop(store, old, key)
                return
            try:
                info = store.rename(key, new_key)
                if store.capabilities.metadata:
                    info = store.update_metadata(new_key, {ETAG: etag})
            except NotFound:
                self._drop(store, new, new_key)
                return
            self._recent[old.name].forget(key)
            self._recent[new.name].note(new_key, Entry(info.size, etag, time.time()))

        self._used("move", moved)

    def invalidate(self, namespace: Namespace) -> None:
        """Forget all of a namespace."""

        def invalidated(store: ObjectStore) -> None:
            keys = [key for key, _ in self._listed(store, namespace)]
            store.delete_many(keys)
            self._recent[namespace.name].clear()

        self._used("invalidate", invalidated)

    def _drop(self, store: ObjectStore, namespace: Namespace, key: str) -> None:
        self._recent[namespace.name].forget(key)
        with self._stats.measured("cache_delete"):
            store.delete(key, missing_ok=True)

    def _listed(self, store: ObjectStore, namespace: Namespace) -> Iterable[tuple[str, ObjectInfo]]:
        prefix = f"{namespace.name}/" if namespace.name else ""
        for page in store.pages(prefix):
            for info in page.objects:
                part = last_part(info.key)
                if is_listed(part) and self._namespaces.of(info.key) == namespace:
                    yield info.key, info
