"""Items with names like `data/0123abcd` in configured namespaces, over any object store.

A store may be used by any number of threads at once, and no lock is held while a backend works: calls on
different items run side by side. A call is as atomic as the object store's; a soft deletion or undeletion
never overwrites anything (see `moves`).
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mountstore.errors import Corrupted, InvalidName, NotFound, PreconditionFailed, UsageError
from mountstore.namespaces import moves
from mountstore.namespaces.cache import Cache
from mountstore.namespaces.config import CachePolicy, Namespace
from mountstore.namespaces.items import ItemInfo, Source, folder_of, item_of, missing, sources_of
from mountstore.namespaces.life import OpenedStore
from mountstore.namespaces.names import DELETED, ROOT, check_item, check_name, is_listed, last_part, under
from mountstore.namespaces.pieces import check_size, clip
from mountstore.store import Data, ObjectInfo, Page
from mountstore.stores.reader import ObjectReader

T = TypeVar("T")

_TRIES = 10


class Store(OpenedStore):
    """Namespaces at `url`, or on `backend`: an open store, which stays its owner's to close, or a Target.

    `config` says which namespaces there are (see `config`), `permissions` who may do what (see
    PermissionsStore). `cache_url` or `cache_backend` is where items are cached, as far as `config` says so.
    A context manager that opens and closes. Every verb but create, destroy and open raises BackendMustBeOpen
    outside of that; names that break a rule raise InvalidName, and those of no namespace UnknownNamespace.
    """

    # -- items ------------------------------------------------------------------------------------

    def store(self, name: str, value: Data) -> None:
        """Make `value` the item. One that is there keeps its level of nesting; a new one goes to the last."""
        with self._stats.measured("store") as call:
            namespace = self._namespace(name)
            key = self._locate(namespace, name)
            size = call.volume = memoryview(value).nbytes
            with self._at_backend("store") as work:
                work.volume = size
                info = self._objects.put(key, value)
            if cache := self._cache_for(namespace):
                cache.keep(namespace, key, value, size, info.etag)

    def load(self, name: str, *, size: int | None = None, offset: int = 0, deleted: bool = False) -> bytes:
        """`size` bytes of the item (all that follow, if None) from `offset` on, which counts from the end
        if it is negative. What lies outside of the item is left out. Raises ObjectNotFound."""
        with self._stats.measured("load") as call:
            namespace = self._namespace(name)
            if cache := self._cache_for(namespace):
                data = self._first(
                    namespace,
                    name,
                    deleted,
                    lambda key: self._load_cached(cache, namespace, key, size, offset),
                )
            else:
                data = self._first(namespace, name, deleted, lambda key: self._load(key, size, offset))
            call.volume = len(data)
            return data if isinstance(data, bytes) else bytes(data)

    def _load(self, key: str, size: int | None, offset: int) -> Data:
        with self._at_backend("load") as work:
            data = self._backend.load(key, size=size, offset=offset)
            work.volume = len(data)
        return data

    def _load_cached(
        self, cache: Cache, namespace: Namespace, key: str, size: int | None, offset: int
    ) -> Data:
        objects, place = self._objects, key
        check_size(key, size)
        for _ in range(_TRIES):
            with self._at_backend("info"):
                try:
                    info = objects.head(place)
                except NotFound:
                    cache.delete(namespace, key)
                    raise
            start, stop = clip(info.size, size, offset)
            if namespace.cache is CachePolicy.WRITE_THROUGH:
                found = cache.load(namespace, key, info.etag, start, stop)
                if found is not None:
                    return found
            try:
                with self._at_backend("load") as work:
                    data = ObjectReader(objects, info).range(start, stop)
                    work.volume = len(data)
            except (PreconditionFailed, Corrupted):
                continue  # it was replaced meanwhile
            held = namespace.cache is CachePolicy.MIRROR and cache.holds(namespace, key, info.etag)
            sure = objects.capabilities.conditional_get or objects.head(place).etag == info.etag
            if sure and not held:
                if len(data) == info.size:
                    cache.keep(namespace, key, data, info.size, info.etag)
                else:
                    with self._at_backend("load") as work:  # it goes from one to the other
                        work.volume = info.size
                        cache.keep(
                            namespace, key, ObjectReader(objects, info).as_file(), info.size, info.etag
                        )
            return data
        return self._load(key, size, offset)

    def info(self, name: str, *, deleted: bool = False) -> ItemInfo:
        """What is known of an item or a namespace; for one that is not there `exists` is False."""
        with self._stats.measured("info"):
            if self._namespaces.is_folder(check_name(name, root=True)):
                with self._at_backend("info"):
                    return folder_of(last_part(name))
            namespace = self._namespace(name)
            part = last_part(name)
            try:
                return item_of(part, self._first(namespace, name, deleted, self._head))
            except NotFound:
                return missing(part)

    def find(self, name: str, *, deleted: bool = False) -> str:
        """Where the item lies, with its nesting; where a new one would, if it is not there."""
        return self._locate(self._namespace(name), name, deleted=deleted, look=True)

    def delete(self, name: str, *, deleted: bool = False) -> None:
        """Remove an item for good. Raises ObjectNotFound."""
        with self._stats.measured("delete"):
            namespace = self._namespace(name)
            gone = 0
            for key in namespace.places(name, deleted=deleted):
                with contextlib.suppress(NotFound), self._at_backend("delete"):
                    self._backend.delete(key)
                    gone += 1
                if cache := self._cache_for(namespace):
                    cache.delete(namespace, key)
            if not gone:
                raise NotFound(key=name)

    def list(self, name: str = ROOT, deleted: bool = False) -> Iterator[ItemInfo]:
        """All items below a namespace (or all), those in deeper ones too; or all that are soft deleted.

        In the order of where they lie, page by page. A namespace that holds nothing gives nothing; another
        name that leads to nothing raises ObjectNotFound. Items that move to another level meanwhile are
        listed, and listed once.
        """
        prefix = f"{check_name(name, root=True)}/" if name else ""
        pages = self._objects.pages(prefix)
        first = self._page(pages)
        if (first is None or not first.objects) and not self._namespaces.is_folder(name):
            raise NotFound(f"no such namespace: {name!r}", key=name)
        items = self._items(first, pages, deleted)
        moving = any(len(namespace.levels) > 1 for namespace in self._namespaces.reach(name))
        return self._listed_twice(items, prefix, deleted) if moving else items

    def _items(self, page: Page | None, pages: Iterator[Page], deleted: bool) -> Iterator[ItemInfo]:
        while page is not None:
            for info in page.objects:
                part = last_part(info.key)
                if is_listed(part) and part.endswith(DELETED) is deleted:
                    yield item_of(part.removesuffix(DELETED), info)
            page = self._page(pages) if page.after is not None else None

    def _listed_twice(self, items: Iterator[ItemInfo], prefix: str, deleted: bool) -> Iterator[ItemInfo]:
        # What moves from behind the place of the listing to before it would not be seen by one.
        seen: set[str] = set()
        again = self._items(Page([], after=""), self._objects.pages(prefix), deleted)
        for item in itertools.chain(items, again):
            if item.name not in seen:
                seen.add(item.name)
                yield item

    def _page(self, pages: Iterator[Page]) -> Page | None:
        with self._stats.measured("list"), self._at_backend("list"):
            return next(pages, None)

    # -- moving -----------------------------------------------------------------------------------

    def move(
        self,
        name: str,
        new_name: str | None = None,
        *,
        delete: bool = False,
        undelete: bool = False,
        change_level: bool = False,
        deleted: bool = False,
    ) -> None:
        """Exactly one of: rename an item to `new_name`, replacing what is there; soft delete it; undelete
        it; or move it to the namespace's last level. `deleted` means the soft deleted item of that name.

        Soft deletion and undeletion overwrite nothing: a second one of the same content leaves one item, and
        one of other content raises ItemExists and changes nothing. Raises ObjectNotFound.
        """
        if [new_name is not None, delete, undelete, change_level].count(True) != 1:
            raise UsageError("a move has exactly one of new_name, delete, undelete and change_level")
        with self._stats.measured("move"):
            old = self._namespace(name)
            new = self._namespace(new_name) if new_name is not None else old
            current = self._locate(old, name, deleted=undelete or (deleted and not delete), look=True)
            if delete:
                target = current + DELETED
            elif undelete:
                target = current.removesuffix(DELETED)
            elif new_name is not None:
                target = self._locate(new, new_name, deleted=deleted)
            else:
                target = old.places(name, deleted=deleted)[0]
            with self._at_backend("move"):
                moved = self._moved(current, target, delete, undelete)
                if change_level:
                    places = old.places(name, deleted=deleted)
                    moves.join_copies(self._objects, target, places)
            if self._cache is not None and old.cache is not CachePolicy.OFF:
                self._cache.move(old, current, new, target, moved.etag)

    def _moved(self, current: str, target: str, delete: bool, undelete: bool) -> ObjectInfo:
        objects = self._objects
        source, goal = check_name(current), check_name(target)
        if delete:
            return moves.set_aside(objects, source, goal)
        if undelete:
            return moves.bring_back(objects, source, goal)
        return objects.rename(source, goal) if source != goal else objects.head(source)

    # -- what the backend's side may do by itself ---------------------------------------------------

    def hash(self, name: str, algorithm: str = "sha256", *, deleted: bool = False) -> str:
        """The hex digest of an item's content. Raises ObjectNotFound, UnknownAlgorithm."""
        with self._stats.measured("hash"):
            namespace = self._namespace(name)

            def hashed(key: str) -> str:
                with self._at_backend("hash"):
                    return self._backend.hash(key, algorithm)

            return self._first(namespace, name, deleted, hashed)

    def gather(self, sources: Iterable[Any], *, namespace: str | None = None, deleted: bool = False) -> bytes:
        """Pieces (name, offset, size) of items, one behind the other. With `namespace` the names are of items
        in it, without it they are whole names. Raises RangeNotSatisfiable, ObjectNotFound."""
        with self._stats.measured("gather") as call:
            found = self._sources(sources, namespace, deleted)
            with self._at_backend("gather") as work:
                data = self._backend.gather(found)
                call.volume = work.volume = len(data)
            return data

    def defrag(
        self,
        sources: Iterable[Any],
        *,
        target: str | None = None,
        algorithm: str | None = None,
        namespace: str | None = None,
        deleted: bool = False,
    ) -> str:
        """Make an item of pieces of others (as for `gather`); what it is called. That is `target`, or the
        hash of its content by `algorithm`. Raises RangeNotSatisfiable, ObjectNotFound, UnknownAlgorithm."""
        with self._stats.measured("defrag") as call:
            found = self._sources(sources, namespace, deleted)
            call.volume = sum(source.size for source in found)
            place, levels = None, 0
            if target is not None:
                name = self._in(namespace, target)
                place = self._locate(self._namespace(name), name)
            else:
                levels = self._namespaces.of(under(namespace or ROOT, "x")).levels[-1]
            with self._at_backend("defrag") as work:
                work.volume = call.volume
                made = self._backend.defrag(
                    found, target=place, algorithm=algorithm, namespace=namespace, levels=levels
                )
            item = target if target is not None else last_part(made)
            within = self._namespaces.of(self._in(namespace, item))
            if cache := self._cache_for(within):
                cache.delete(within, made)
            return item

    def _sources(self, sources: Iterable[Any], namespace: str | None, deleted: bool) -> builtins.list[Source]:
        found = []
        for source in sources_of(sources):
            name = self._in(namespace, source.name)
            place = self._locate(self._namespace(name), name, deleted=deleted)
            found.append(Source(place, source.offset, source.size))
        return found

    @staticmethod
    def _in(namespace: str | None, item: str) -> str:
        if namespace is not None and "/" in item:
            raise InvalidName(f"{item!r} holds a slash, and its namespace is given beside it", key=item)
        return under(namespace or ROOT, item)

    # -- cache and numbers --------------------------------------------------------------------------

    def cache_invalidate(self, name: str = ROOT, *, deleted: bool = False) -> None:
        """Forget what is cached: of an item, of a namespace, or all."""
        check_name(name, root=True)
        if self._cache is None:
            return
        if not self._namespaces.is_folder(name):
            namespace = self._namespace(name)
            for key in namespace.places(name, deleted=deleted):
                self._cache.delete(namespace, key)
            return
        for namespace in self._namespaces:
            if namespace.cache is not CachePolicy.OFF and name in (ROOT, namespace.name):
                self._cache.invalidate(namespace)

    # -- where items lie ----------------------------------------------------------------------------

    def _namespace(self, name: str) -> Namespace:
        return self._namespaces.of(check_item(name))

    def _head(self, key: str) -> ObjectInfo:
        with self._at_backend("info"):
            return self._objects.head(key)

    def _first(self, namespace: Namespace, name: str, deleted: bool, call: Callable[[str], T]) -> T:
        """What `call` makes of the first place at which the item is. Raises ObjectNotFound."""
        places = namespace.places(name, deleted=deleted)
        # Twice, since an item may move from a place still to be looked at to one that was.
        for place in places * (1 if len(places) == 1 else 2):
            try:
                return call(place)
            except NotFound:
                continue
        raise NotFound(key=name)

    def _locate(self, namespace: Namespace, name: str, *, deleted: bool = False, look: bool = False) -> str:
        """Where the item lies, or would; where there is but one place, without looking."""
        places = namespace.places(name, deleted=deleted)
        if len(places) == 1:
            return places[0]

        def found(place: str) -> str:
            self._head(place)
            return place

        try:
            return self._first(namespace, name, deleted, found)
        except NotFound:
            return places[0]
