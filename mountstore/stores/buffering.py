"""BufferingStore: puts that are collected in memory and written together."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from mountstore.backends._arguments import check_key, check_metadata, clip_range, flat
from mountstore.errors import InvalidKey, PartialFailure, PreconditionFailed
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions
from mountstore.stores.listing import Entry, entries_of, grouped, merged, page_of
from mountstore.stores.wrapper import WrapperStore

_ALIASES = 65_536


@dataclass(frozen=True, slots=True)
class _Held:
    data: bytes
    info: ObjectInfo


class BufferingStore(WrapperStore):
    """Small objects are put into memory at once and into `inner` later: by `flush`, by `close`, or when
    they add up to `capacity_bytes`; reads and listings show them from the start.

    So this store is not durable: what is not flushed dies with the process, and a mount over it would not
    keep its promises. An object put ten times between two flushes is written once. Put directly, after what
    is buffered of that key, are objects over a quarter of `capacity_bytes` and those with a condition; the
    verbs that copy, rename or delete write what they are about first.

    The etag and the time that a buffered put told stay the object's here after it was flushed (the last
    65,536 of them are known), so conditions on them hold.
    """

    def __init__(self, inner: ObjectStore, capacity_bytes: int = 16 << 20) -> None:
        super().__init__(inner)
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._writing = threading.RLock()  # taken before _lock; held while `inner` is being changed
        self._held: dict[str, _Held] = {}
        self._size = 0
        self._aliases: OrderedDict[str, tuple[str, ObjectInfo]] = (
            OrderedDict()
        )  # key: inner's etag, what we told

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return replace(self.inner.capabilities, buffered=True)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        held = self._held.get(key)
        return held.info if held is not None else self._shown(self.inner.head(key))

    def exists(self, key: str) -> bool:
        return key in self._held or self.inner.exists(key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        held = self._held.get(key)
        if held is None:
            return self.inner.get(key, start, stop, if_match=self._inner_etag(key, if_match))
        if if_match is not None and held.info.etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        start, stop = clip_range(key, start, stop, len(held.data))
        return held.data if stop - start == len(held.data) else held.data[start:stop]

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        # What is buffered is looked at first: what is flushed meanwhile is then seen at least once.
        infos = [replace(held.info, metadata=None) for held in self._held.copy().values()]
        infos = sorted((info for info in infos if info.key.startswith(prefix)), key=lambda info: info.key)
        inner: Iterator[Entry] = (
            (name, info and self._shown(info))
            for name, info in entries_of(
                self.inner.pages(prefix, delimiter=delimiter, after=after, limit=limit)
            )
        )
        return page_of(merged([grouped(infos, prefix, delimiter, after), inner]), limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return ObjectStore.pages(self, prefix, delimiter=delimiter, after=after, limit=limit)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return ObjectStore.keys(self, prefix)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return ObjectStore.usage(self, prefix)

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
        check_conditions(key, if_match, if_absent)
        size = len(check_key(key))
        limits = self.capabilities
        if limits.max_key_bytes is not None and size > limits.max_key_bytes:
            raise InvalidKey(f"a key of {size} bytes; this store holds {limits.max_key_bytes}", key=key)
        kept = check_metadata(key, metadata, limits.max_metadata_bytes) if limits.metadata else {}
        small = None if if_absent or if_match is not None else self._small(data)
        if small is None:
            with self._writing:
                if if_absent or if_match is not None:
                    self._flush(key)
                condition = self._inner_etag(key, if_match)
                info = self.inner.put(key, data, metadata=metadata, if_match=condition, if_absent=if_absent)
                self._drop(key)
                return info
        info = ObjectInfo(key, len(small), time.time_ns(), f"b-{secrets.token_hex(8)}", kept)
        with self._lock:
            old = self._held.get(key)
            self._held[key] = _Held(small, info)
            self._size += len(small) - (len(old.data) if old is not None else 0)
            full = self._size > self._capacity
        if full:
            self.flush()
        return info

    def _small(self, data: Data | BinaryIO) -> bytes | None:
        most = self._capacity // 4
        if isinstance(data, Data):
            return bytes(data) if len(flat(data)) <= most else None
        begin = data.tell()
        size = data.seek(0, 2) - begin
        data.seek(begin)
        return data.read() if size <= most else None

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        with self._writing:
            if if_match is not None:
                self._flush(key)
            held = self._drop(key)
            condition = self._inner_etag(key, if_match)
            self.inner.delete(key, missing_ok=missing_ok or held, if_match=condition)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        with self._writing:
            self._flush(source, target)
            condition = self._inner_etag(source, if_match)
            return self.inner.copy(source, target, metadata=metadata, if_match=condition)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        with self._writing:
            self._flush(source, target)
            info = self.inner.rename(source, target, if_match=self._inner_etag(source, if_match))
            return self._shown(info)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        with self._writing:
            self._flush(key)
            return self.inner.update_metadata(key, metadata, if_match=self._inner_etag(key, if_match))

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        with self._writing:
            for key in wanted:
                self._drop(key)
            self.inner.delete_many(wanted)

    def flush(self) -> None:
        """Write what is buffered; returns when `inner` has it all.

        Raises PartialFailure if something could not be written, once all the rest is. What failed stays
        buffered, to be seen by reads and tried by the next flush.
        """
        with self._writing:
            self._flush(*self._held.copy())

    def close(self) -> None:
        """Flush, then close `inner`, also if the flush failed; then what it could not write is lost, and
        the error says so."""
        try:
            self.flush()
        finally:
            self.inner.close()

    # -- within -----------------------------------------------------------------------------------

    def _drop(self, key: str) -> bool:
        with self._lock:
            held = self._held.pop(key, None)
            self._size -= len(held.data) if held is not None else 0
            return held is not None

    def _flush(self, *keys: str) -> None:
        wanted = {key: held for key in keys if (held := self._held.get(key)) is not None}
        if len(wanted) < 2:
            for key, held in wanted.items():
                self._write(key, held)
            return
        failures: list[tuple[str, Exception]] = []
        with ThreadPoolExecutor(max(1, self.capabilities.concurrency)) as pool:
            for key, future in [(key, pool.submit(self._write, key, held)) for key, held in wanted.items()]:
                error = future.exception()
                if isinstance(error, Exception):
                    failures.append((key, error))
        if failures:
            key, error = failures[0]
            raise PartialFailure(
                f"{len(failures)} of {len(wanted)} buffered objects could not be written, {key!r}: {error}",
                key=key,
                failures=failures,
            )

    def _write(self, key: str, held: _Held) -> None:
        info = self.inner.put(key, held.data, metadata=held.info.metadata)
        with self._lock:
            if info.etag is not None:
                self._aliases[key] = info.etag, held.info
                self._aliases.move_to_end(key)
                if len(self._aliases) > _ALIASES:
                    self._aliases.popitem(last=False)
            if self._held.get(key) is held:  # not put anew meanwhile
                del self._held[key]
                self._size -= len(held.data)

    def _shown(self, info: ObjectInfo) -> ObjectInfo:
        alias = self._aliases.get(info.key)
        if alias is None or alias[0] != info.etag:
            return info
        return replace(info, etag=alias[1].etag, mtime_ns=alias[1].mtime_ns)

    def _inner_etag(self, key: str, etag: str | None) -> str | None:
        alias = self._aliases.get(key)
        return alias[0] if alias is not None and alias[1].etag == etag else etag
