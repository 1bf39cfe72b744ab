"""A store in this process's memory."""

from __future__ import annotations

import builtins
import itertools
import secrets
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import replace
from typing import BinaryIO

from mountstore.backends._arguments import check_key, check_metadata, clip_range, flat
from mountstore.backends._sorted_keys import page_of
from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_VIEW_BYTES = 65_536
"""Ranges from this size on are views of the object; shorter ones are copies, which are quicker to use."""

_FEW = 64
"""Up to this many changed keys are put into the sorted list one by one; from there on it is made anew."""


class DictStore(ObjectStore):
    """Objects in a dictionary; gone with the process.

    Every call takes a lock for less than the time of a copy; readers take none. What `get` returns is the
    object itself, or a view of it, so that reading costs no memory.
    """

    capabilities = Capabilities(
        server_copy=True, atomic_rename=True, local=True, max_metadata_bytes=None, concurrency=4
    )

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._lock = threading.Lock()
        self._sorted: list[str] = []
        self._changed: set[str] = set()  # keys that came or went since `_sorted` was right
        self._etags = (f"{number:x}" for number in itertools.count(secrets.randbits(62)))

    def head(self, key: str) -> ObjectInfo:
        return self._find(key)[1]

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        data, info = self._find(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        start, stop = clip_range(key, start, stop, len(data))
        if stop - start == len(data):
            return data
        return memoryview(data)[start:stop] if stop - start >= _VIEW_BYTES else data[start:stop]

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        check_conditions(key, if_match, if_absent)
        check_key(key)
        held = bytes(flat(data)) if isinstance(data, Data) else bytes(data.read())
        kept = check_metadata(key, metadata, None)
        with self._lock:
            old = self._objects.get(key)
            if if_absent and old is not None:
                raise PreconditionFailed(f"{key!r} is there already", key=key)
            if if_match is not None and (old is None or old[1].etag != if_match):
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            return self._place(key, held, kept)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        check_key(key)
        with self._lock:
            old = self._objects.get(key)
            if old is None:
                if missing_ok:
                    return
                raise NotFound(key=key)
            if if_match is not None and old[1].etag != if_match:
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            self._remove(key)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        check_key(target)
        with self._lock:
            data, info = self._find(source)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailed(f"{source!r} has changed", key=source)
            return self._place(target, data, dict((info.metadata if metadata is None else metadata) or {}))

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        check_key(target)
        with self._lock:
            data, info = self._find(source)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailed(f"{source!r} has changed", key=source)
            if source == target:
                return info
            moved = replace(info, key=target)
            self._set(target, data, moved)
            self._remove(source)
            return moved

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        with self._lock:
            names, groups, next_after = page_of(self._in_order(), prefix, delimiter, after, limit)
            objects = [
                ObjectInfo(key, info.size, info.mtime_ns, info.etag)
                for key, info in ((key, self._objects[key][1]) for key in names)
            ]
        return Page(objects, groups, next_after)

    def _find(self, key: str) -> tuple[bytes, ObjectInfo]:
        found = self._objects.get(key)
        if found is None:
            raise NotFound(key=key)
        return found

    def _place(self, key: str, data: bytes, metadata: dict[str, str]) -> ObjectInfo:
        info = ObjectInfo(key, len(data), time.time_ns(), next(self._etags), metadata)
        self._set(key, data, info)
        return info

    def _set(self, key: str, data: bytes, info: ObjectInfo) -> None:
        if key not in self._objects:
            self._changed.add(key)
        self._objects[key] = (data, info)

    def _remove(self, key: str) -> None:
        del self._objects[key]
        self._changed.add(key)

    def _in_order(self) -> builtins.list[str]:
        if len(self._changed) > _FEW:
            self._sorted = sorted(self._objects)
        else:
            for key in self._changed:
                at = bisect_left(self._sorted, key)
                listed = at < len(self._sorted) and self._sorted[at] == key
                if key in self._objects and not listed:
                    insort(self._sorted, key)
                elif key not in self._objects and listed:
                    del self._sorted[at]
        self._changed.clear()
        return self._sorted
