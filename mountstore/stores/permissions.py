"""Who may do what below which path: append-only, read-only, write-only and finer, over any store.

A rule is a path and letters; of the rules for a key and for its ancestors (`a/b` is one of `a/b/c`, and
"" of all), the nearest decides alone:

    l   list, and look whether an object is there
    r   read
    w   write new objects
    W   write new objects and overwrite those that are there
    D   delete

A rename needs D at its source and what a put needs at its target; a copy needs r and that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

from mountstore.errors import AccessDenied, PreconditionFailed, UsageError
from mountstore.store import Data, ObjectInfo, ObjectStore, Page
from mountstore.stores.reader import ObjectReader
from mountstore.stores.wrapper import WrapperStore

LETTERS = frozenset("lrwWD")


def letters_for(permissions: Mapping[str, str], key: str) -> str:
    """The letters of the nearest rule; none if there is no rule."""
    path = key
    while True:
        if path in permissions:
            return permissions[path]
        if not path:
            return ""
        path = path.rpartition("/")[0]


class PermissionsStore(WrapperStore):
    """`inner`, where AccessDenied is raised for what `permissions` (path: letters) do not allow.

    Where there is w without W, nothing is ever overwritten, not by a race either: such puts are conditional,
    and renames and copies bring the content through this process. On a store that honours no conditions
    (`capabilities.conditional_put`) they look first, and others may come in between. Listings leave out
    objects whose folder may not be listed.
    """

    def __init__(self, inner: ObjectStore, permissions: Mapping[str, str]) -> None:
        super().__init__(inner)
        rules: dict[str, str] = {}
        for path, letters in permissions.items():
            unknown = set(letters) - LETTERS
            if unknown:
                raise UsageError(f"{path!r}: {letters!r}; the letters of a permission are l, r, w, W and D")
            rules[path.strip("/")] = letters
        self._rules = rules

    @staticmethod
    def check(permissions: Mapping[str, str], key: str, letters: str) -> None:
        """Raise AccessDenied unless one of these letters is allowed for the key."""
        if not set(letters) & set(letters_for(permissions, key)):
            wanted = " or ".join(letters)
            raise AccessDenied(f"{key!r}: the permission {wanted} is needed for this", key=key)

    def _need(self, key: str, letters: str) -> None:
        self.check(self._rules, key, letters)

    def _may(self, key: str, letters: str) -> bool:
        return bool(set(letters) & set(letters_for(self._rules, key)))

    def admit(self, key: str, size: int) -> None:
        """Raise AccessDenied if a put would now; a promise of nothing."""
        self._need(key, "wW")
        if not self._may(key, "W") and self.inner.exists(key):
            raise self._exists(key)
        admit = getattr(self.inner, "admit", None)
        if admit is not None:
            admit(key, size)

    def _exists(self, key: str) -> AccessDenied:
        return AccessDenied(f"{key!r} is there; the permission W is needed to overwrite it", key=key)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        self._need(key, "lr")
        return self.inner.head(key)

    def exists(self, key: str) -> bool:
        self._need(key, "lr")
        return self.inner.exists(key)

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        wanted = [*keys]
        for key in wanted:
            self._need(key, "lr")
        return self.inner.head_many(wanted)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self._need(key, "r")
        return self.inner.get(key, start, stop, if_match=if_match)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        self._need(_folder(prefix), "l")
        return self._shown(self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        self._need(_folder(prefix), "l")
        pages = self.inner.pages(prefix, delimiter=delimiter, after=after, limit=limit)
        yield from map(self._shown, pages)

    def keys(self, prefix: str = "") -> Iterator[str]:
        self._need(_folder(prefix), "l")
        yield from (key for key in self.inner.keys(prefix) if self._may(_folder(key), "l"))

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return ObjectStore.usage(self, prefix)

    def _shown(self, page: Page) -> Page:
        if all("l" in letters for letters in self._rules.values()):
            return page
        shown = [info for info in page.objects if self._may(_folder(info.key), "l")]
        return Page(shown, page.prefixes, page.after)

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
        self._need(key, "wW")
        if if_absent or self._may(key, "W"):
            return self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        if if_match is not None:
            self._need(key, "W")
        return self._put_new(key, data, metadata)

    def _put_new(self, key: str, data: Data | BinaryIO, metadata: Mapping[str, str] | None) -> ObjectInfo:
        conditional = self.inner.capabilities.conditional_put
        if not conditional and self.inner.exists(key):
            raise self._exists(key)
        try:
            return self.inner.put(key, data, metadata=metadata, if_absent=conditional)
        except PreconditionFailed:
            raise self._exists(key) from None

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._need(key, "D")
        self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        for key in wanted:
            self._need(key, "D")
        self.inner.delete_many(wanted)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        self._need(source, "r")
        self._need(target, "wW")
        if self._may(target, "W"):
            return self.inner.copy(source, target, metadata=metadata, if_match=if_match)
        return self._copy_new(source, target, metadata, if_match)

    def _copy_new(
        self, source: str, target: str, metadata: Mapping[str, str] | None, if_match: str | None
    ) -> ObjectInfo:
        info = self.inner.head(source)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        reader = ObjectReader(self.inner, info)
        return self._put_new(target, reader.as_file(), info.metadata if metadata is None else metadata)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._need(source, "D")
        self._need(target, "wW")
        if source == target or self._may(target, "W"):
            return self.inner.rename(source, target, if_match=if_match)
        info = self._copy_new(source, target, None, if_match)
        self.inner.delete(source, missing_ok=True)
        return info

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        self._need(key, "W")
        return self.inner.update_metadata(key, metadata, if_match=if_match)


def _folder(key: str) -> str:
    return key.rpartition("/")[0]
