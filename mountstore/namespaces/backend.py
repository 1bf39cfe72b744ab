"""The verbs below the level of Store, which the REST protocol carries, over any object store.

Names here are where items lie: with namespace, nesting and the suffix of soft deletion. Each verb checks
them and raises InvalidName. All verbs may be called from any number of threads at once, and none holds a
lock while a store is at work; content is never held whole but where it is given or wanted as bytes.

A folder is there while something is in it, or since `mkdir`. Over a store of files, the last item that is
deleted takes its empty folders along.
"""

from __future__ import annotations

import builtins
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from mountstore.backends.filesystem import FilesystemStore
from mountstore.errors import (
    AccessDenied,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
)
from mountstore.namespaces.errors import UnknownAlgorithm
from mountstore.namespaces.items import (
    Admits,
    HasQuota,
    ItemInfo,
    Reading,
    ServerSide,
    Source,
    folder_of,
    item_of,
    missing,
    sources_of,
)
from mountstore.namespaces.names import ROOT, check_name, is_listed, last_part, nest, under
from mountstore.namespaces.pieces import check_size, clip, gathered, located, pieces_between
from mountstore.namespaces.streams import Checked, check_digest, hasher, held, pieces_of
from mountstore.namespaces.target import FolderTarget, StoreTarget, Target
from mountstore.store import Data, ObjectInfo, ObjectStore, Page
from mountstore.stores.permissions import PermissionsStore
from mountstore.stores.quota import QuotaStore

__all__ = ["FolderTarget", "ItemInfo", "NamespaceBackend", "Reading", "ServerSide", "StoreTarget", "Target"]

_TRIES = 10


class NamespaceBackend:
    """A namespace's items on `target`: a Target, or a store that is open and stays its owner's to close.

    `permissions` and `quota_bytes` put a PermissionsStore and a QuotaStore over it. A context manager that
    opens and closes.
    """

    def __init__(
        self,
        target: Target | ObjectStore,
        *,
        permissions: Mapping[str, str] | None = None,
        quota_bytes: int | None = None,
    ) -> None:
        self._target = StoreTarget(target) if isinstance(target, ObjectStore) else target
        self._permissions = permissions
        self._quota_bytes = quota_bytes
        self._inner: ObjectStore | None = None
        self._store: ObjectStore | None = None
        self._bottom: ObjectStore | None = None

    # -- life -------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the storage. Raises BackendAlreadyExists, BackendMustNotBeOpen."""
        self._check_closed("create")
        if self._permissions is not None:
            PermissionsStore.check(self._permissions, ROOT, "wW")
        self._target.create()

    def destroy(self) -> None:
        """Remove the storage with all that is in it. Raises BackendDoesNotExist, BackendMustNotBeOpen."""
        self._check_closed("destroy")
        if self._permissions is not None:
            PermissionsStore.check(self._permissions, ROOT, "D")
        self._target.destroy()

    def open(self) -> None:
        """Raises BackendDoesNotExist, BackendMustNotBeOpen."""
        self._check_closed("open")
        self._inner = store = self._target.open()
        self._bottom = _bottom(store)
        if self._quota_bytes is not None:
            store = QuotaStore(store, self._quota_bytes)
        if self._permissions is not None:
            store = PermissionsStore(store, self._permissions)
        self._store = store

    def close(self) -> None:
        """Raises BackendMustBeOpen."""
        if self._inner is None:
            raise BackendMustBeOpen("close: the store is not open")
        inner, self._inner, self._store = self._inner, None, None
        self._target.close(inner)

    @property
    def opened(self) -> bool:
        return self._store is not None

    @property
    def store_of_objects(self) -> ObjectStore:
        """The store that the verbs use. Raises BackendMustBeOpen."""
        if self._store is None:
            raise BackendMustBeOpen("the store is not open; open it first, or use it in a with statement")
        return self._store

    def __enter__(self) -> NamespaceBackend:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_closed(self, verb: str) -> None:
        if self._inner is not None:
            raise BackendMustNotBeOpen(f"{verb}: the store is open; close it first")

    @staticmethod
    def key(name: str) -> str:
        """The key of the object that the item of this name is.

        The original leaves the doubled slashes of short names to the file system, which takes them for one;
        its own listing of S3 fails on them, and many S3 servers do. So here they are one slash everywhere.
        """
        return re.sub("/+", "/", name) if "//" in name else name

    # -- folders ----------------------------------------------------------------------------------

    def mkdir(self, name: str) -> None:
        """Make a folder, and those above it; one that is there is no error."""
        store, key = self.store_of_objects, self.key(check_name(name))
        if isinstance(self._bottom, FilesystemStore):
            self._permit(key, "w")
            self._bottom.make_folder(key)
        else:
            store.put(f"{key}/", b"")

    def rmdir(self, name: str) -> None:
        """Remove an empty folder. Raises ObjectNotFound, and PreconditionFailed if something is in it."""
        store, key = self.store_of_objects, self.key(check_name(name))
        if isinstance(self._bottom, FilesystemStore):
            self._permit(key, "wD")
            self._bottom.remove_folder(key)
            return
        marker = f"{key}/"
        inside = store.list(marker, limit=2).objects
        if any(info.key != marker for info in inside):
            raise PreconditionFailed(f"the folder {name!r} is not empty", key=name)
        if not inside:
            raise NotFound(f"no such folder: {name!r}", key=name)
        store.delete(marker)

    def _permit(self, key: str, letters: str) -> None:
        if self._permissions is not None:
            PermissionsStore.check(self._permissions, key, letters)

    def list(self, name: str = ROOT) -> Iterator[ItemInfo]:
        """What is in a folder, not deeper, in the order of the keys, page by page. Raises ObjectNotFound."""
        check_name(name, root=True)
        prefix = f"{self.key(name)}/" if name else ""
        pages = self.store_of_objects.pages(prefix, delimiter="/")
        first = next(pages)
        if name and not first.objects and not first.prefixes:
            raise NotFound(f"no such folder: {name!r}", key=name)
        return _items(first, pages, len(prefix))

    # -- items ------------------------------------------------------------------------------------

    def info(self, name: str) -> ItemInfo:
        """What is known of an item or a folder; for one that is not there `exists` is False."""
        check_name(name, root=True)
        store, part = self.store_of_objects, last_part(name)
        if not name:
            return folder_of(part)
        key = self.key(name)
        try:
            return item_of(part, store.head(key))
        except NotFound:
            pass
        try:
            page = store.list(f"{key}/", limit=1)
        except AccessDenied:  # who may look at an item need not be allowed to list
            return missing(part)
        return folder_of(part) if page.objects else missing(part)

    def load(self, name: str, *, size: int | None = None, offset: int = 0) -> Data:
        """`size` bytes (all that follow, if None) from `offset` on, which counts from the end if negative.

        What lies beyond the end is left out, as is what lies before the beginning. Raises ObjectNotFound.
        """
        check_size(name, size)
        store, key = self.store_of_objects, self.key(check_name(name))
        if offset >= 0:
            try:
                return store.get(key, offset, None if size is None else offset + size)
            except InvalidRange:
                return b""
        for attempt in range(_TRIES):
            info = store.head(key)
            start, stop = clip(info.size, size, offset)
            condition = info.etag if store.capabilities.conditional_get else None
            try:
                return store.get(key, start, stop, if_match=condition)
            except (PreconditionFailed, InvalidRange):
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def read(self, name: str, *, size: int | None = None, offset: int = 0) -> Reading:
        """Like `load`, a piece at a time, and with the sizes known before. Raises ObjectNotFound."""
        check_size(name, size)
        store, key = self.store_of_objects, self.key(check_name(name))
        self._permit(key, "r")  # to look at it takes less
        info = store.head(key)
        start, stop = clip(info.size, size, offset)
        return Reading(
            start, stop, info.size, item_of(last_part(name), info), pieces_between(store, info, start, stop)
        )

    def store(
        self, name: str, value: Data | BinaryIO, *, size: int | None = None, sha256: str | None = None
    ) -> None:
        """Make `value` the item: bytes, or a stream (seekable or not), of `size` bytes if that is given.

        With `sha256`, or a size, content that is not so raises Corrupted before anything is visible. A quota
        or permission that is in the way is told before the stream is read, if its size is given.
        """
        self.put_object(self.key(check_name(name)), value, size=size, sha256=sha256)

    def put_object(
        self,
        key: str,
        value: Data | BinaryIO,
        *,
        size: int | None = None,
        sha256: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """`store`, of any key, with what else the store's `put` takes."""
        store = self.store_of_objects

        def put(content: Data | BinaryIO) -> ObjectInfo:
            return store.put(key, content, metadata=metadata, if_match=if_match, if_absent=if_absent)

        if isinstance(value, Data):
            if sha256 is not None:
                check_digest(hashlib.sha256(value).hexdigest(), sha256)
            return put(value)
        if size is None:
            with held(pieces_of(value), digest := hashlib.sha256()) as file:
                if sha256 is not None:
                    check_digest(digest.hexdigest(), sha256)
                return put(file)
        if isinstance(store, Admits):
            store.admit(key, size)
        checked = Checked(value, size, sha256)
        if isinstance(self._bottom, FilesystemStore) and _reads_once(store):
            return put(checked.as_file())
        with held(pieces_of(checked.as_file())) as file:
            return put(file)

    def delete(self, name: str) -> None:
        """Raises ObjectNotFound."""
        self.store_of_objects.delete(self.key(check_name(name)))

    def move(self, current: str, new: str) -> None:
        """Rename an item; what was called `new` is replaced. Raises ObjectNotFound."""
        check_name(current)
        check_name(new)
        self.store_of_objects.rename(self.key(current), self.key(new))

    # -- what the side of the store can do by itself ------------------------------------------------

    def hash(self, name: str, algorithm: str = "sha256") -> str:
        """The hex digest of an item. Raises ObjectNotFound, UnknownAlgorithm."""
        store, key = self.store_of_objects, self.key(check_name(name))
        self._permit(key, "r")
        if isinstance(store, ServerSide):
            try:
                return store.hash_object(key, algorithm)
            except InvalidKey as error:  # the protocol has one status for both, and the name is right
                raise UnknownAlgorithm(f"the server knows no hash algorithm {algorithm!r}") from error
        digest = hasher(algorithm)
        info = store.head(key)
        for piece in pieces_between(store, info, 0, info.size):
            digest.update(piece)
        return str(digest.hexdigest())

    def gather(self, sources: Iterable[Any]) -> bytes:
        """Pieces (name, offset, size) of items, one behind the other. Raises RangeNotSatisfiable."""
        store, wanted = self.store_of_objects, self._sources(sources)
        if isinstance(store, ServerSide):
            return store.gather_objects(wanted)
        return b"".join(gathered(store, wanted))

    def gather_reading(self, sources: Iterable[Any]) -> tuple[int, Iterator[Data]]:
        """Like `gather`: how many bytes, and these a piece at a time; every source has been looked at."""
        store, wanted = self.store_of_objects, self._sources(sources)
        for key in {source.name for source in wanted}:
            self._permit(key, "r")  # to look at a source takes less
        found = [located(store, source) for source in wanted]
        pieces = (piece for info, start, stop in found for piece in pieces_between(store, info, start, stop))
        return sum(stop - start for _, start, stop in found), pieces

    def defrag(
        self,
        sources: Iterable[Any],
        *,
        target: str | None = None,
        algorithm: str | None = None,
        namespace: str | None = None,
        levels: int = 0,
    ) -> str:
        """Make an item of pieces (name, offset, size) of others; what it is called.

        That is `target`, or the hash of its content by `algorithm`, in `namespace` and nested by `levels`.
        Raises RangeNotSatisfiable, ObjectNotFound, UnknownAlgorithm, and InvalidName with neither of the two.
        """
        store, wanted = self.store_of_objects, self._sources(sources)
        if target is not None:
            check_name(target)
        check_name(namespace or ROOT, root=True)
        digest = None
        if target is None:
            if algorithm is None:
                check_name("")
            digest = hasher(algorithm or "")
        if isinstance(store, ServerSide):
            return store.defrag_objects(
                wanted, target=target, algorithm=algorithm, namespace=namespace, levels=levels
            )
        with held(gathered(store, wanted), digest) as file:
            if digest is not None:
                target = check_name(nest(under(namespace or ROOT, digest.hexdigest()), levels))
            assert target is not None
            store.put(self.key(target), file)
        return target

    def quota(self) -> dict[str, int]:
        """`limit` and `usage` in bytes; -1 where there is none."""
        store: ObjectStore | None = self.store_of_objects
        while store is not None:
            if isinstance(store, HasQuota):
                return {"limit": store.quota()["limit"], "usage": store.quota()["usage"]}
            store = getattr(store, "inner", None)
        return {"limit": -1, "usage": -1}

    def _sources(self, sources: Iterable[Any]) -> builtins.list[Source]:
        return [
            Source(self.key(check_name(name)), offset, size) for name, offset, size in sources_of(sources)
        ]


def _items(first: Page, pages: Iterator[Page], cut: int) -> Iterator[ItemInfo]:
    page: Page | None = first
    while page is not None:
        found = [item_of(info.key[cut:], info) for info in page.objects]
        found += [folder_of(name[cut:-1]) for name in page.prefixes]
        for item in sorted(found, key=lambda item: item.name):
            if is_listed(item.name):
                yield item
        page = next(pages, None)


def _bottom(store: ObjectStore) -> ObjectStore:
    while isinstance(inner := getattr(store, "inner", None), ObjectStore):
        store = inner
    return store


def _reads_once(store: ObjectStore) -> bool:
    """Whether what is put goes straight down to the store at the bottom, read once from its beginning."""
    while isinstance(store, QuotaStore | PermissionsStore):
        store = store.inner
    return isinstance(store, FilesystemStore)
