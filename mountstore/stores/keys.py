"""Wrappers that keep objects under other keys: below a prefix, below a hash, percent-encoded."""

from __future__ import annotations

import contextlib
import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO
from urllib.parse import quote, unquote

from mountstore.backends._arguments import check_key
from mountstore.errors import StoreError
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page
from mountstore.stores.listing import Entry, entries_of, grouped, merged, page_of, pages_of, smallest
from mountstore.stores.wrapper import WrapperStore


class MappedStore(WrapperStore):
    """A store whose key K is the key `inner_key(K)` of `inner`. Content, metadata and etags are the same."""

    @abstractmethod
    def inner_key(self, key: str) -> str:
        """The key in `inner`; no two keys have the same. Raises InvalidKey."""

    @abstractmethod
    def _entries(self, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        """A listing in key order, of at least `limit` entries if there are so many; fetched lazily."""

    def head(self, key: str) -> ObjectInfo:
        with self._as_ours(key) as inner_key:
            return replace(self.inner.head(inner_key), key=key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        with self._as_ours(key) as inner_key:
            return self.inner.get(inner_key, start, stop, if_match=if_match)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        with self._as_ours(key) as inner_key:
            info = self.inner.put(inner_key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        return replace(info, key=key)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        with self._as_ours(key) as inner_key:
            self.inner.delete(inner_key, missing_ok=missing_ok, if_match=if_match)

    def exists(self, key: str) -> bool:
        with self._as_ours(key) as inner_key:
            return self.inner.exists(inner_key)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        with self._as_ours(source) as inner_source, self._as_ours(target) as inner_target:
            info = self.inner.copy(inner_source, inner_target, metadata=metadata, if_match=if_match)
        return replace(info, key=target)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        with self._as_ours(source) as inner_source, self._as_ours(target) as inner_target:
            info = self.inner.rename(inner_source, inner_target, if_match=if_match)
        return replace(info, key=target)

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        with self._as_ours(key) as inner_key:
            return replace(self.inner.update_metadata(inner_key, metadata, if_match=if_match), key=key)

    def delete_many(self, keys: Iterable[str]) -> None:
        self.inner.delete_many(self.inner_key(key) for key in keys)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return page_of(self._entries(prefix, delimiter, after, limit + 1), limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return ObjectStore.pages(self, prefix, delimiter=delimiter, after=after, limit=limit)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return ObjectStore.keys(self, prefix)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return ObjectStore.usage(self, prefix)

    @contextlib.contextmanager
    def _as_ours(self, key: str) -> Iterator[str]:
        """The inner key; errors that name it name `key` instead."""
        check_key(key)
        inner_key = self.inner_key(key)
        try:
            yield inner_key
        except StoreError as error:
            if error.key == inner_key:
                error.key = key
                error.args = (str(error).replace(repr(inner_key), repr(key)), *error.args[1:])
            raise


class PrefixStore(MappedStore):
    """The objects of `inner` whose keys begin with `prefix`, which is cut off; no slash is added."""

    def __init__(self, inner: ObjectStore, prefix: str) -> None:
        super().__init__(inner)
        self.prefix = prefix

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return _with_longer_keys(self.inner.capabilities, len(self.prefix.encode()))

    def inner_key(self, key: str) -> str:
        return self.prefix + key

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        # `after` may be empty: then the object that is the prefix itself, and no key here, is left out.
        behind = self.prefix + after
        return self._ours(
            self.inner.list(self.prefix + prefix, delimiter=delimiter, after=behind, limit=limit)
        )

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        behind = self.prefix + after
        yield from map(
            self._ours,
            self.inner.pages(self.prefix + prefix, delimiter=delimiter, after=behind, limit=limit),
        )

    def keys(self, prefix: str = "") -> Iterator[str]:
        cut = len(self.prefix)
        for key in self.inner.keys(self.prefix + prefix):
            if len(key) > cut:
                yield key[cut:]

    def _ours(self, page: Page) -> Page:
        cut = len(self.prefix)
        return Page(
            [replace(info, key=info.key[cut:]) for info in page.objects],
            [name[cut:] for name in page.prefixes],
            page.after[cut:] if page.after is not None else None,
        )

    def _entries(self, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        return entries_of(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))


class HashPrefixStore(MappedStore):
    """The object K is `HH/K` in `inner`, HH being the first `width` hex digits of the SHA-256 of K.

    Spreads keys that begin alike, for stores that slow down where many do. A listing merges one listing of
    `inner` for each HH in use, up to 16 ** `width`, so it costs as many requests a page; `pages` and `keys`
    go through each of them once.
    """

    def __init__(self, inner: ObjectStore, width: int = 2) -> None:
        if not 1 <= width <= 4:
            raise ValueError(f"a width of 1 to 4 hex digits, not {width}")
        super().__init__(inner)
        self.width = width
        self._ours = re.compile(f"[0-9a-f]{{{width}}}/")

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return _with_longer_keys(self.inner.capabilities, self.width + 1)

    def inner_key(self, key: str) -> str:
        return f"{hashlib.sha256(key.encode()).hexdigest()[: self.width]}/{key}"

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return pages_of(self._entries(prefix, delimiter, after, limit), limit)

    def _entries(self, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        folders = [
            name
            for page in self.inner.pages(delimiter="/")
            for name in page.prefixes
            if self._ours.fullmatch(name)
        ]
        return merged(self._folder(name, prefix, delimiter, after, limit) for name in folders)

    def _folder(self, folder: str, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        pages = self.inner.pages(folder + prefix, delimiter=delimiter, after=folder + after, limit=limit)
        cut = len(folder)
        for name, info in entries_of(pages):
            key = name[cut:]
            # An object that somebody put into the wrong folder cannot be got under this key.
            if info is None:
                yield key, None
            elif self.inner_key(key) == info.key:
                yield key, replace(info, key=key)


class UrlEncodedStore(MappedStore):
    """The object K is the percent-encoded K in `inner` (RFC 3986, UTF-8), slashes too unless `safe` has them.

    So a backend that takes only letters, digits and `-._~%` holds any key; its length is what remains a
    limit, as each other byte becomes three. Where all is dots, they are encoded too. Objects of `inner`
    whose keys are not written exactly so are no objects here.

    Encoding changes the order of keys: a page of a listing reads all that `inner` lists below the prefix.
    """

    def __init__(self, inner: ObjectStore, safe: str = "") -> None:
        if not set(safe) <= set("!$&'()*+,;=:@/"):
            raise ValueError(f"{safe!r}: only !$&'()*+,;=:@/ may be left as they are")
        super().__init__(inner)
        self.safe = safe

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        inner = self.inner.capabilities
        # What surely fits: three bytes for one.
        longest = min(inner.max_key_bytes or 1 << 30, inner.max_segment_bytes or 1 << 30) // 3
        return replace(
            inner, max_key_bytes=longest if longest < (1 << 30) // 3 else None, max_segment_bytes=None
        )

    def inner_key(self, key: str) -> str:
        encoded = self._encode(key)
        return encoded.replace(".", "%2E") if not encoded.strip(".") else encoded

    def _encode(self, text: str) -> str:
        return quote(text, safe=self.safe)

    def _key(self, inner_key: str) -> str | None:
        try:
            key = unquote(inner_key, errors="strict")
            return key if key and self.inner_key(key) == inner_key else None
        except UnicodeError:
            return None

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        entries = dict(self._unsorted(prefix, delimiter, after))
        return pages_of(iter(sorted(entries.items(), key=lambda entry: entry[0])), limit)

    def _entries(self, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Entry]:
        return smallest(self._unsorted(prefix, delimiter, after), limit)

    def _unsorted(self, prefix: str, delimiter: str, after: str) -> Iterator[Entry]:
        # Keys of dots alone are written in another way than the prefixes of other keys.
        wanted = "" if not prefix.strip(".") else self._encode(prefix)
        infos = (
            replace(info, key=key)
            for page in self.inner.pages(wanted)
            for info in page.objects
            if (key := self._key(info.key)) is not None and key.startswith(prefix)
        )
        return grouped(infos, prefix, delimiter, after)


def _with_longer_keys(inner: Capabilities, more: int) -> Capabilities:
    limit = inner.max_key_bytes
    return replace(inner, max_key_bytes=limit - more if limit is not None else None)
