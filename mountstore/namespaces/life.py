"""What a namespace store is made of, its life, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from mountstore.errors import UsageError
from mountstore.namespaces.backend import NamespaceBackend
from mountstore.namespaces.cache import Cache
from mountstore.namespaces.config import CachePolicy, Namespace, Namespaces
from mountstore.namespaces.measure import Call, Emulator, Stats
from mountstore.namespaces.target import StoreTarget, Target
from mountstore.namespaces.urls import target_of
from mountstore.store import ObjectStore


class OpenedStore:
    """A backend, its namespaces and its cache, to be created, opened, closed and destroyed together."""

    def __init__(
        self,
        url: str | None = None,
        backend: ObjectStore | Target | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        permissions: Mapping[str, str] | None = None,
        *,
        cache_url: str | None = None,
        cache_backend: ObjectStore | Target | None = None,
    ) -> None:
        target = _target(url, backend)
        if target is None:
            raise UsageError("a store needs a url or a backend")
        self._namespaces = Namespaces(config)
        self._stats = Stats()
        self._emulator = Emulator()
        self._backend = NamespaceBackend(target, permissions=permissions)
        cache = _target(cache_url, cache_backend)
        self._cache = Cache(cache, self._namespaces, self._stats) if cache is not None else None

    # -- life -------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the storage. Raises BackendAlreadyExists if anything is there, BackendMustNotBeOpen."""
        self._backend.create()

    def destroy(self) -> None:
        """Remove the storage and its cache. Raises BackendDoesNotExist, BackendMustNotBeOpen."""
        self._backend.destroy()
        if self._cache is not None:
            self._cache.destroy()

    def open(self) -> None:
        """Raises BackendDoesNotExist, BackendMustNotBeOpen."""
        self._backend.open()
        if self._cache is not None:
            self._cache.open()

    def close(self) -> None:
        """Raises BackendMustBeOpen."""
        self._backend.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- its parts --------------------------------------------------------------------------------

    def quota(self) -> dict[str, int]:
        """`limit` and `usage` in bytes; -1 where there is none."""
        return self._backend.quota()

    @property
    def stats(self) -> dict[str, Any]:
        """Calls, seconds, bytes and bytes a second of each operation, of those of the backend (`backend_`)
        and the cache (`cache_`), and the cache's hits, misses and errors, since this object was made."""
        disabled = self._cache is not None and self._backend.opened and self._cache.disabled
        return {**self._stats.numbers(), "cache_disabled": disabled}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len([*self._namespaces])} namespaces>"

    @property
    def _objects(self) -> ObjectStore:
        return self._backend.store_of_objects

    def _at_backend(self, operation: str) -> Call:
        return self._stats.measured(f"backend_{operation}", self._emulator)

    def _cache_for(self, namespace: Namespace) -> Cache | None:
        return self._cache if namespace.cache is not CachePolicy.OFF else None


def _target(url: str | None, backend: ObjectStore | Target | None) -> Target | None:
    if url is not None and backend is not None:
        raise UsageError("a store has a url or a backend, not both")
    if isinstance(backend, ObjectStore):
        return StoreTarget(backend)
    return target_of(url) if url is not None else backend
