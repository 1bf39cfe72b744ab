"""What went wrong in the stores of the seed document, one test each; more of the same in the suites named.

what went wrong there                       here
put("../evil") and absolute keys escape     test_no_key_leads_out_of_the_root (test_filesystem, test_zip)
concurrent readers see torn objects         test_readers_see_whole_objects (conformance, test_processes)
a failed overwrite leaves half an object    test_a_failed_overwrite_leaves_the_old_object (conformance)
a and a/b cannot both exist                 test_a_key_may_be_the_folder_of_another (conformance)
long and odd keys fail                      test_long_and_odd_keys (conformance)
the cache is unbounded                      test_the_cache_is_bounded (wrappers/test_caching)
the cache stays stale for ever              test_the_cache_does_not_stay_stale (wrappers/test_caching)
the cache serves deleted keys               test_the_cache_serves_no_deleted_keys (wrappers/test_caching)
a failing cache breaks reads and writes     test_a_failing_cache_breaks_nothing (wrappers/test_caching)
sync ignores changed values                 test_sync_sees_changed_values (test_transfer)
fan-out reads do not fail over              test_fanout_reads_fail_over (wrappers/test_fanout)
partial puts diverge silently               test_a_partial_put_is_told_and_repaired (wrappers/test_fanout)
a failed put breaks the notifier            test_a_failed_put_does_not_break_the_notifier (test_observe)
SQLite does not make its table              test_sqlite_makes_its_table (test_sqlite)
SQLite is bound to a thread                 test_sqlite_serves_every_thread (conformance)
SQLite stops at 1 GB                        test_sqlite_holds_more_than_one_value_can
nothing streams                             test_objects_stream (conformance)
nothing reads a range                       test_a_range_reads_no_more_than_itself (conformance)
"""

from __future__ import annotations

import io
import os
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.hashdir import HashdirStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import PartialFailure, Unavailable
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores import CachingStore, Event, FanoutStore, NotifyingStore
from mountstore.transfer import sync_stores
from tests.stores.wrappers.stacks import BreakableStore

MIB = 1 << 20
LONG = os.environ.get("MOUNTSTORE_TEST_LONG", "0") not in ("", "0")

Make = Callable[[Path], ObjectStore]


@pytest.fixture(params=["file", "hashdir"])
def make(request: pytest.FixtureRequest) -> Make:
    kinds: dict[str, Make] = {
        "file": lambda root: FilesystemStore(root, durable=False),
        "hashdir": lambda root: HashdirStore(root, durable=False),
    }
    return kinds[request.param]


# -- files --------------------------------------------------------------------------------------------


def test_no_key_leads_out_of_the_root(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    keys = ["../outside", "a/../../outside", str(outside), "../root/../outside"]
    with make(tmp_path / "root") as store:
        for key in keys:
            store.put(key, b"evil")
        assert os.listdir(tmp_path) == ["root"]
        assert sorted(store.keys()) == sorted(keys)
        assert {bytes(store.get(key)) for key in keys} == {b"evil"}


def test_readers_see_whole_objects(make: Make, tmp_path: Path) -> None:
    versions = [bytes([number]) * MIB for number in (1, 2)]
    with make(tmp_path / "root") as store:
        store.put("k", versions[0])
        ended = threading.Event()
        torn: list[int] = []

        def read() -> None:
            while not ended.is_set():
                data = bytes(store.get("k"))
                if data not in versions:
                    torn.append(len(data))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(100):
                store.put("k", versions[number % 2])
        finally:
            ended.set()
            for reader in readers:
                reader.join(60)
        assert torn == []


class BreaksHalfway(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= MIB:
            raise OSError(5, "the source broke")
        return super().read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def test_a_failed_overwrite_leaves_the_old_object(make: Make, tmp_path: Path) -> None:
    with make(tmp_path / "root") as store:
        store.put("k", b"old")
        with pytest.raises(OSError, match="broke"):
            store.put("k", BreaksHalfway(bytes(4 * MIB)))
        assert bytes(store.get("k")) == b"old"
        assert list(store.keys()) == ["k"]


def test_a_key_may_be_the_folder_of_another(make: Make, tmp_path: Path) -> None:
    with make(tmp_path / "root") as store:
        for order in (["a", "a/b", "a/b/c"], ["x/y/z", "x/y", "x"]):
            for key in order:
                store.put(key, key.encode())
        assert {key: bytes(store.get(key)) for key in store.keys()} == {
            key: key.encode() for key in ("a", "a/b", "a/b/c", "x", "x/y", "x/y/z")
        }


def test_long_and_odd_keys(make: Make, tmp_path: Path) -> None:
    keys = ["k" * 1000, "é" * 200, "a//b", "a/", "/", ".", "..", "nul\x00", "line\nbreak", "\U0001f600"]
    with make(tmp_path / "root") as store:
        for key in keys:
            store.put(key, key.encode())
        assert list(store.keys()) == sorted(keys)
        assert all(bytes(store.get(key)) == key.encode() for key in keys)


def test_a_range_reads_no_more_than_itself(make: Make, tmp_path: Path) -> None:
    with make(tmp_path / "root") as store:
        content = bytes(range(256)) * (64 * MIB // 256)
        store.put("k", content)
        tracemalloc.start()
        try:
            assert bytes(store.get("k", 32 * MIB + 7, 32 * MIB + 17)) == content[7:17]
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()


class Zeros(io.RawIOBase):
    """A file of many zeros that takes no room."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = min(len(buffer), self._size - self._at)
        buffer[:count] = bytes(count)
        self._at += count
        return count


@pytest.mark.parametrize("kind", ["file", "hashdir", "sqlite"])
def test_objects_stream(kind: str, tmp_path: Path) -> None:
    stores: dict[str, Make] = {"file": FilesystemStore, "hashdir": HashdirStore, "sqlite": SqliteStore}
    with stores[kind](tmp_path / "store") as store:
        tracemalloc.start()
        try:
            info = store.put("k", Zeros(128 * MIB))  # type: ignore[arg-type]  # all of BinaryIO that is read
            assert tracemalloc.get_traced_memory()[1] < 24 * MIB
        finally:
            tracemalloc.stop()
        assert info.size == 128 * MIB
        assert bytes(store.get("k", 128 * MIB - 5)) == bytes(5)


# -- SQLite -------------------------------------------------------------------------------------------


def test_sqlite_makes_its_table(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "db.sqlite")  # not entered as a context manager
    try:
        store.put("k", b"data")
        assert bytes(store.get("k")) == b"data"
    finally:
        store.close()


def test_sqlite_serves_every_thread(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "db.sqlite") as store:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                store.put(f"k{number}", b"data")
                store.get(f"k{number}")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        assert len(list(store.keys())) == 8


def test_sqlite_holds_more_than_one_value_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's limit of a value, a billion bytes, is set to a million, unless the long form is asked for."""
    size = 1_100_000_000 if LONG else 5_000_000
    if not LONG:
        connect = sqlite3.connect

        def limited(*args: object, **kwargs: object) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)  # type: ignore[call-overload]
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
            return connection

        monkeypatch.setattr(sqlite3, "connect", limited)
        with pytest.raises(sqlite3.DataError, match="too big"):
            limited(":memory:").execute("SELECT ?", (bytes(size),))
    with SqliteStore(tmp_path / "db.sqlite", durable=False) as store:
        store.put("k", Zeros(size))  # type: ignore[arg-type]
        assert store.head("k").size == size
        assert bytes(store.get("k", size - 3)) == bytes(3)


# -- caching ------------------------------------------------------------------------------------------


def test_the_cache_is_bounded() -> None:
    main, cache = DictStore(), DictStore()
    with CachingStore(main, cache, capacity_bytes=10_000) as store:
        for number in range(50):
            store.put(f"k{number}", bytes(1000))
            store.get(f"k{number}")
            assert cache.usage()[1] <= 10_000
        assert cache.usage()[1] > 5_000


def test_the_cache_does_not_stay_stale() -> None:
    main = DictStore()
    with CachingStore(main, DictStore()) as store:
        store.put("k", b"old")
        assert bytes(store.get("k")) == b"old"
        main.put("k", b"new")  # by somebody else
        assert bytes(store.get("k")) == b"new"


def test_the_cache_serves_no_deleted_keys() -> None:
    main = DictStore()
    with CachingStore(main, DictStore()) as store:
        store.put("k", b"data")
        store.get("k")
        main.delete("k")  # by somebody else
        assert not store.exists("k")
        with pytest.raises(KeyError):
            store.get("k")


def test_a_failing_cache_breaks_nothing() -> None:
    cache = BreakableStore()
    with CachingStore(DictStore(), cache) as store:
        store.put("before", b"before")
        cache.broken = {"all"}
        assert bytes(store.get("before")) == b"before"
        store.put("k", b"data")
        assert bytes(store.get("k")) == b"data"
        store.delete("k")
        assert store.stats.errors > 0


# -- several stores -----------------------------------------------------------------------------------


def test_sync_sees_changed_values() -> None:
    source, target = DictStore(), DictStore()
    for store, data in ((source, b"new"), (target, b"old")):
        store.put("same key", data)
    sync_stores(source, target)
    assert bytes(target.get("same key")) == b"new"


def test_fanout_reads_fail_over() -> None:
    children = [BreakableStore(), BreakableStore()]
    with FanoutStore(children) as store:
        store.put("k", b"data")
        children[0].broken = {"all"}
        assert bytes(store.get("k")) == b"data"
        assert store.exists("k")
        children[0].broken = set()


def test_a_partial_put_is_told_and_repaired() -> None:
    children = [BreakableStore(), BreakableStore()]
    with FanoutStore(children) as store:
        store.put("k", b"old")
        children[1].broken = {"all"}
        with pytest.raises(PartialFailure) as caught:
            store.put("k", b"new")
        assert [number for number, _ in caught.value.failures] == ["1"]
        children[1].broken = set()
        assert store.repair() == 1
        assert [bytes(child.get("k")) for child in children] == [b"new", b"new"]


class RefusesOne(DictStore):
    def put(self, key: str, data: Any, **given: Any) -> ObjectInfo:
        if key == "refused":
            raise Unavailable("no")
        return super().put(key, data, **given)


def test_a_failed_put_does_not_break_the_notifier() -> None:
    told: list[Event] = []
    with NotifyingStore(RefusesOne(), told.append) as store:
        with pytest.raises(Unavailable):
            store.put("refused", b"x")
        assert told == []
        store.put("k", b"x")
        assert [(event.verb, event.key) for event in told] == [("put", "k")]
