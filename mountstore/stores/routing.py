"""RoutingStore: which store an object lies in is decided by its key."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from mountstore.backends._arguments import check_key
from mountstore.errors import InvalidKey, PreconditionFailed
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page
from mountstore.stores.listing import Entry, entries_of, merged, page_of, pages_of
from mountstore.stores.reader import ObjectReader
from mountstore.stores.wrapper import common

Route = tuple[str | re.Pattern[str], ObjectStore]


class RoutingStore(ObjectStore):
    """Each key belongs to the store of the first route whose pattern matches at the key's beginning.

    `default` has all others; without one they are InvalidKey. Keys are the same in the stores below, and a
    listing merges theirs in key order. An object that lies in a store to which its key does not lead is no
    object here. A copy from one store to another moves the bytes through this process, in ranges.
    """

    def __init__(self, routes: Iterable[Route], default: ObjectStore | None = None) -> None:
        self._routes = [(re.compile(pattern), store) for pattern, store in routes]
        self._default = default
        found = [store for _, store in self._routes] + ([default] if default is not None else [])
        self.stores = list({id(store): store for store in found}.values())
        if not self.stores:
            raise ValueError("a RoutingStore needs at least one store")

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        alone = len(self.stores) == 1
        able = common([store.capabilities for store in self.stores])
        return replace(
            able, server_copy=able.server_copy and alone, atomic_rename=able.atomic_rename and alone
        )

    def store_of(self, key: str) -> ObjectStore:
        """The store in which an object of this key lies. Raises InvalidKey."""
        check_key(key)
        for pattern, store in self._routes:
            if pattern.match(key):
                return store
        if self._default is None:
            raise InvalidKey(f"no route leads from {key!r} to a store", key=key)
        return self._default

    def head(self, key: str) -> ObjectInfo:
        return self.store_of(key).head(key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        return self.store_of(key).get(key, start, stop, if_match=if_match)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self.store_of(key).put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self.store_of(key).delete(key, missing_ok=missing_ok, if_match=if_match)

    def exists(self, key: str) -> bool:
        return self.store_of(key).exists(key)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        one, other = self.store_of(source), self.store_of(target)
        if one is other:
            return one.copy(source, target, metadata=metadata, if_match=if_match)
        info = one.head(source)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        kept = info.metadata if metadata is None else metadata
        return other.put(target, ObjectReader(one, info).as_file(), metadata=kept)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        one = self.store_of(source)
        if one is self.store_of(target):
            return one.rename(source, target, if_match=if_match)
        return super().rename(source, target, if_match=if_match)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return self.store_of(key).update_metadata(key, metadata, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        by_store: dict[int, list[str]] = {}
        for key in keys:
            by_store.setdefault(id(self.store_of(key)), []).append(key)
        for store in self.stores:
            store.delete_many(by_store.get(id(store), []))

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return page_of(self._entries(prefix, delimiter, after, limit), limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return pages_of(self._entries(prefix, delimiter, after, limit), limit)

    def _entries(self, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        return merged(self._own(store, prefix, delimiter, after, limit) for store in self.stores)

    def _own(
        self, store: ObjectStore, prefix: str, delimiter: str, after: str, limit: int
    ) -> Iterator[Entry]:
        for name, info in entries_of(store.pages(prefix, delimiter=delimiter, after=after, limit=limit)):
            if info is not None and self._leads(name, store):
                yield name, info
            elif info is None and self._has_group(name, store):
                yield name, None

    def _has_group(self, group: str, store: ObjectStore) -> bool:
        """Whether an object of this group belongs where it lies; mostly the first one tells."""
        return any(self._leads(key, store) for key in store.keys(group))

    def _leads(self, key: str, store: ObjectStore) -> bool:
        try:
            return self.store_of(key) is store
        except InvalidKey:
            return False

    def close(self) -> None:
        """Close all stores, also after one of them failed to."""
        with contextlib.ExitStack() as stack:
            for store in self.stores:
                stack.callback(store.close)
