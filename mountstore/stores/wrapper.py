"""What all wrappers start from: every verb handed on, the derived ones too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page

T = TypeVar("T")

WRITES = frozenset({"put", "delete", "delete_many", "copy", "rename", "update_metadata"})
"""The verbs that change a store."""


def common(of: Sequence[Capabilities]) -> Capabilities:
    """What stores that stand beside each other can all do."""

    def least(*limits: int | None) -> int | None:
        return min((limit for limit in limits if limit is not None), default=None)

    first, *rest = of
    for other in rest:
        first = Capabilities(
            writable=first.writable and other.writable,
            readable=first.readable and other.readable,
            buffered=first.buffered or other.buffered,
            listing=first.listing and other.listing,
            metadata=first.metadata and other.metadata,
            conditional_put=first.conditional_put and other.conditional_put,
            conditional_get=first.conditional_get and other.conditional_get,
            conditional_delete=first.conditional_delete and other.conditional_delete,
            server_copy=first.server_copy and other.server_copy,
            atomic_rename=first.atomic_rename and other.atomic_rename,
            local=first.local and other.local,
            max_key_bytes=least(first.max_key_bytes, other.max_key_bytes),
            max_segment_bytes=least(first.max_segment_bytes, other.max_segment_bytes),
            max_metadata_bytes=least(first.max_metadata_bytes, other.max_metadata_bytes),
            concurrency=max(first.concurrency, other.concurrency),
        )
    return first


class WrapperStore(ObjectStore):
    """A store over the store `inner`, the same in everything that a subclass does not override.

    Closing it closes `inner`.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # some stores find theirs out late
        return self.inner.capabilities

    def head(self, key: str) -> ObjectInfo:
        return self.inner.head(key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        return self.inner.get(key, start, stop, if_match=if_match)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return self.inner.pages(prefix, delimiter=delimiter, after=after, limit=limit)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.keys(prefix)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return self.inner.copy(source, target, metadata=metadata, if_match=if_match)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return self.inner.rename(source, target, if_match=if_match)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return self.inner.update_metadata(key, metadata, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        self.inner.delete_many(keys)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return self.inner.usage(prefix)

    def note_unfinished(self, journal: Path) -> None:
        self.inner.note_unfinished(journal)

    def close(self) -> None:
        self.inner.close()


class AroundStore(WrapperStore):
    """A wrapper that does one thing around every call, and the same thing for all verbs."""

    @abstractmethod
    def _around(self, verb: str, keys: Sequence[str], call: Callable[[], T]) -> T:
        """Make the call, or raise. `keys` are the keys, or the prefix of a listing, that it is about."""

    def head(self, key: str) -> ObjectInfo:
        return self._around("head", (key,), lambda: self.inner.head(key))

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        return self._around("get", (key,), lambda: self.inner.get(key, start, stop, if_match=if_match))

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return self._around(
            "put",
            (key,),
            lambda: self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent),
        )

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._around(
            "delete", (key,), lambda: self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
        )

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return self._around(
            "list",
            (prefix,),
            lambda: self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit),
        )

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        pages = self.inner.pages(prefix, delimiter=delimiter, after=after, limit=limit)
        yield from self._each(prefix, pages)

    def keys(self, prefix: str = "") -> Iterator[str]:
        yield from self._each(prefix, self.inner.keys(prefix))

    def _each(self, prefix: str, items: Iterator[T]) -> Iterator[T]:
        # The first fetch is what can be refused or fail; the later ones are its continuation.
        first = self._around("list", (prefix,), lambda: next(items, None))
        if first is not None:
            yield first
            yield from items

    def exists(self, key: str) -> bool:
        return self._around("exists", (key,), lambda: self.inner.exists(key))

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return self._around(
            "copy",
            (source, target),
            lambda: self.inner.copy(source, target, metadata=metadata, if_match=if_match),
        )

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return self._around(
            "rename", (source, target), lambda: self.inner.rename(source, target, if_match=if_match)
        )

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return self._around(
            "update_metadata",
            (key,),
            lambda: self.inner.update_metadata(key, metadata, if_match=if_match),
        )

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._around("delete_many", wanted, lambda: self.inner.delete_many(wanted))

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return self._around("list", (prefix,), lambda: self.inner.usage(prefix))
