"""What wrappers are put over, and what holds half of one to the words of the whole contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import Unavailable
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page
from mountstore.stores import WrapperStore
from tests.stores.conformance import StoreConformance

MakeBackend = Callable[[str], ObjectStore]


class WrapperConformance(StoreConformance):
    """The suite, over a store that `wrap` makes of backends; over memory here."""

    peak_put_bytes: int | None = None  # the store in memory holds it

    @staticmethod
    def backend(path: Path) -> ObjectStore:
        return DictStore()

    def wrap(self, backend: MakeBackend) -> ObjectStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with self.wrap(lambda name: self.backend(tmp_path / name)) as store:
            yield store


class OverSqlite:
    """Mixed in before a WrapperConformance: the same over SQLite files."""

    peak_put_bytes: int | None = StoreConformance.peak_put_bytes

    @staticmethod
    def backend(path: Path) -> ObjectStore:
        return SqliteStore(path.with_suffix(".sqlite"), durable=False)


class OverFiles:
    """Mixed in before a WrapperConformance: the same over folders."""

    peak_put_bytes: int | None = StoreConformance.peak_put_bytes

    @staticmethod
    def backend(path: Path) -> ObjectStore:
        return FilesystemStore(path, durable=False)


class HalvesStore(WrapperStore):
    """Reads through one store and writes through another, so that a half can be held to the suite."""

    def __init__(self, reads: ObjectStore, writes: ObjectStore, able: Capabilities) -> None:
        super().__init__(reads)
        self._able = able
        for verb in ("put", "delete", "copy", "rename", "update_metadata", "delete_many"):
            setattr(self, verb, getattr(writes, verb))

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self._able


class BreakableStore(DictStore):
    """A DictStore whose verbs in `broken` raise `error`, and which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.error: Exception = Unavailable("the store is down, on purpose")
        self.calls: dict[str, int] = {}
        self.closed = False

    def _enter(self, verb: str) -> None:
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if verb in self.broken or "all" in self.broken:
            raise self.error

    def head(self, key: str) -> ObjectInfo:
        self._enter("head")
        return super().head(key)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self._enter("get")
        return super().get(key, start, stop, if_match=if_match)

    def put(self, key: str, data: Any, **options: Any) -> ObjectInfo:
        self._enter("put")
        return super().put(key, data, **options)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._enter("delete")
        super().delete(key, missing_ok=missing_ok, if_match=if_match)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        self._enter("list")
        return super().list(prefix, delimiter=delimiter, after=after, limit=limit)

    def copy(self, source: str, target: str, **options: Any) -> ObjectInfo:
        self._enter("copy")
        return super().copy(source, target, **options)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._enter("rename")
        return super().rename(source, target, if_match=if_match)

    def close(self) -> None:
        self.closed = True
        super().close()
