"""What a namespace lies on, and when it is there: created, opened, closed and destroyed.

A folder is there if it is one. Any other store is there if it holds anything: creating one that is empty
puts the object `mountstore.hid`, which no listing of items shows, neither here nor in the original. For a
folder of a bucket that object is the folder's marker, `path/`, as the original does it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from mountstore.backends._filesystem_names import PRIVATE
from mountstore.backends.filesystem import FilesystemStore
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    NotFound,
    PreconditionFailed,
    StoreError,
)
from mountstore.namespaces.items import Provisioned
from mountstore.store import ObjectStore

MARKER = "mountstore.hid"
_DEEPEST = 100  # folders within each other: no name has more


class Target(ABC):
    """A place for a namespace."""

    @abstractmethod
    def create(self) -> None:
        """Make it. Raises BackendAlreadyExists if anything is in its place."""

    @abstractmethod
    def open(self) -> ObjectStore:
        """The store of it. Raises BackendDoesNotExist."""

    @abstractmethod
    def close(self, store: ObjectStore) -> None:
        """Give back what `open` gave."""

    @abstractmethod
    def destroy(self) -> None:
        """Remove it and all that is in it. Raises BackendDoesNotExist."""


class FolderTarget(Target):
    """A folder of natural files, the layout of the original's local backend."""

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self.path = Path(path)
        self.durable = durable

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(name != PRIVATE for name in os.listdir(self.path)):
                raise BackendAlreadyExists(f"{self.path} is not empty; name an empty or new folder")
            FilesystemStore(self.path, durable=self.durable, create=False).close()
        except FileExistsError:
            raise BackendAlreadyExists(f"{self.path} is there, and no folder; name another") from None
        except PermissionError as error:
            raise AccessDenied(f"{self.path}: {error.strerror}; check its permissions") from None
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error

    def open(self) -> ObjectStore:
        if not self.path.is_dir():
            raise BackendDoesNotExist(f"there is no folder {self.path}; create the store first")
        return FilesystemStore(self.path, durable=self.durable, create=False)

    def close(self, store: ObjectStore) -> None:
        store.close()

    def destroy(self) -> None:
        if not self.path.is_dir():
            raise BackendDoesNotExist(f"there is no folder {self.path}")
        try:
            shutil.rmtree(self.path.resolve())
        except PermissionError as error:
            raise AccessDenied(f"{self.path}: {error.strerror}; check its permissions") from None
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error


class StoreTarget(Target):
    """Any store: one that is open and stays its owner's to close, or what `opener` opens each time."""

    def __init__(self, store: ObjectStore | Callable[[], ObjectStore]) -> None:
        self._given = store if isinstance(store, ObjectStore) else None
        self._opener = store if not isinstance(store, ObjectStore) else None

    def create(self) -> None:
        store = self.reached()
        try:
            if isinstance(store, Provisioned):
                store.create_storage()
            elif self._in_use(store):
                raise BackendAlreadyExists("the store is not empty; name an empty one, or a prefix of it")
            else:
                with self._marked(store) as (place, key):
                    # Another place may have to find out by trial what it can, for this one request.
                    sure = place is store and store.capabilities.conditional_put
                    try:
                        place.put(key, b"", if_absent=sure)
                    except PreconditionFailed:
                        raise BackendAlreadyExists("somebody else has just created this store") from None
        finally:
            self.close(store)

    def open(self) -> ObjectStore:
        store = self.reached()
        try:
            if isinstance(store, Provisioned):
                # An empty one may have nothing to list, and who may not list may still do other things.
                with contextlib.suppress(NotFound, AccessDenied):
                    store.list(delimiter="/", limit=1)
            elif not self._in_use(store):
                raise BackendDoesNotExist("nothing was created here; create the store first")
        except BaseException:
            self.close(store)
            raise
        return store

    def close(self, store: ObjectStore) -> None:
        if store is not self._given:
            store.close()

    def destroy(self) -> None:
        store = self.reached()
        try:
            if isinstance(store, Provisioned):
                store.destroy_storage()
                return
            if not self._in_use(store):
                raise BackendDoesNotExist("nothing was created here")
            # The marker goes last, so that what a crash leaves can be destroyed again.
            for _ in range(_DEEPEST):
                if not self._emptied(store):
                    break
            store.delete(MARKER, missing_ok=True)
            with self._marked(store) as (place, key):
                place.delete(key, missing_ok=True)
        finally:
            self.close(store)

    @staticmethod
    def _emptied(store: ObjectStore) -> bool:
        """Delete all but the marker; whether there was anything. Some stores keep the folders then."""
        found = False
        for page in store.pages():
            keys = [info.key for info in page.objects if info.key != MARKER]
            found = found or bool(keys)
            store.delete_many(keys)
        return found

    def reached(self) -> ObjectStore:
        """The store, whether it was created or not; to be given back with `close`."""
        if self._given is not None:
            return self._given
        assert self._opener is not None
        return self._opener()

    def _in_use(self, store: ObjectStore) -> bool:
        with self._marked(store) as (place, key):
            try:
                place.head(key)
            except NotFound:
                return next(store.keys(), None) is not None
        return True

    @contextlib.contextmanager
    def _marked(self, store: ObjectStore) -> Iterator[tuple[ObjectStore, str]]:
        """Where the object is that says that the store was created, and its key."""
        yield store, MARKER


class BucketTarget(StoreTarget):
    """The folder `path` of a bucket. `opener` opens what is below it, `whole` all of the bucket."""

    def __init__(
        self, opener: Callable[[], ObjectStore], whole: Callable[[], ObjectStore], path: str
    ) -> None:
        super().__init__(opener)
        self._whole, self._path = whole, path.rstrip("/")

    @contextlib.contextmanager
    def _marked(self, store: ObjectStore) -> Iterator[tuple[ObjectStore, str]]:
        if not self._path:
            yield store, MARKER
            return
        with self._whole() as whole:
            yield whole, f"{self._path}/"
