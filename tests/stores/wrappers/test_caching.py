"""CachingStore: what it serves, for how long, how much it keeps, and that its cache can fail."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import NotFound, PreconditionFailed, StoreFull, Unavailable
from mountstore.store import Capabilities, Data
from mountstore.stores import CachingStore
from mountstore.stores.reader import RANGE_BYTES
from tests.stores.conformance import in_threads
from tests.stores.wrappers.stacks import BreakableStore


@pytest.fixture
def main() -> BreakableStore:
    return BreakableStore()


@pytest.fixture
def cache() -> BreakableStore:
    return BreakableStore()


def used(cache: DictStore) -> int:
    return DictStore.usage(cache)[1]


def test_reads_and_writes_go_through(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache)
    main.put("read", b"from main")
    assert bytes(store.get("read")) == b"from main"
    assert bytes(store.get("read")) == b"from main"
    assert main.calls["get"] == 1
    store.put("written", b"by us")
    assert bytes(main.get("written")) == b"by us"
    before = main.calls["get"]
    assert bytes(store.get("written")) == b"by us"
    assert bytes(store.get("written", 1, 3)) == b"y "
    store.put("file", io.BytesIO(b"of a file"))
    assert bytes(store.get("file")) == b"of a file"
    assert main.calls["get"] == before
    assert list(store.keys()) == ["file", "read", "written"]
    assert store.stats.hits == 4


def test_a_change_by_somebody_else_is_seen_at_once(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache)
    store.put("k", b"old")
    old = store.head("k").etag
    main.put("k", b"new")
    assert bytes(store.get("k")) == b"new"
    with pytest.raises(PreconditionFailed):
        store.get("k", if_match=old)
    main.delete("k")
    with pytest.raises(NotFound):
        store.get("k")
    with pytest.raises(NotFound):
        store.get("k", 0, 1)


def test_with_a_time_to_live_main_is_not_asked(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache, ttl_s=3600)
    store.put("k", b"old")
    assert bytes(store.get("k")) == b"old"
    main.put("k", b"new, by somebody else")
    assert bytes(store.get("k")) == b"old"
    assert "head" not in main.calls
    assert bytes(store.get("k", if_match=main.head("k").etag)) == b"new, by somebody else"
    # What this store does itself is seen at once all the same.
    store.put("k", b"ours")
    assert bytes(store.get("k")) == b"ours"
    store.put("other", b"other")
    assert bytes(store.get("other")) == b"other"
    store.rename("other", "k")
    assert bytes(store.get("k")) == b"other"
    with pytest.raises(NotFound):
        store.get("other")
    store.copy("k", "k", metadata={"a": "1"})
    assert bytes(store.get("k")) == b"other"
    store.delete("k")
    with pytest.raises(NotFound):
        store.get("k")
    store.put("k", b"again")
    store.get("k")
    store.delete_many(["k"])
    with pytest.raises(NotFound):
        store.get("k")


def test_a_deleted_object_leaves_the_cache(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache)
    store.put("k", b"data")
    store.put("k", b"newer data")
    assert used(cache) == 10
    store.delete("k")
    assert used(cache) == 0


def test_the_cache_is_bounded_and_keeps_what_was_used_last(
    main: BreakableStore, cache: BreakableStore
) -> None:
    store = CachingStore(main, cache, capacity_bytes=1000)
    most = 0
    for number in range(50):
        store.put(f"k{number}", bytes(100))
        store.get("k0")
        most = max(most, used(cache))
    assert most <= 1000
    gets = main.calls.get("get", 0)
    store.get("k0")
    assert main.calls.get("get", 0) == gets
    store.get("k1")
    assert main.calls.get("get", 0) == gets + 1
    store.put("huge", bytes(1001))
    assert bytes(store.get("huge")) == bytes(1001)
    assert used(cache) <= 1000
    assert store.stats.evictions > 30


def test_the_limit_holds_with_many_threads_and_after_a_restart(tmp_path: Path, main: BreakableStore) -> None:
    def work(number: int) -> None:
        for count in range(40):
            key = f"k{(number * 7 + count) % 30}"
            store.put(key, os.urandom(200))
            assert len(store.get(key)) == 200
            assert cache.usage()[1] <= 2000

    with SqliteStore(tmp_path / "cache.sqlite", durable=False) as cache:
        store = CachingStore(main, cache, capacity_bytes=2000)
        in_threads(4, work)
        store.put("last", b"last")
    with SqliteStore(tmp_path / "cache.sqlite", durable=False) as cache:
        again = CachingStore(main, cache, capacity_bytes=1000)
        assert cache.usage()[1] <= 1000
        gets = main.calls["get"]
        assert bytes(again.get("last")) == b"last"
        assert main.calls["get"] == gets


@pytest.mark.parametrize("error", [Unavailable("down"), StoreFull("full"), OSError(28, "no space left")])
@pytest.mark.parametrize("verb", ["get", "put", "delete", "list", "all"])
def test_a_cache_that_fails_is_passed_by(
    main: BreakableStore, cache: BreakableStore, verb: str, error: Exception
) -> None:
    store = CachingStore(main, cache, capacity_bytes=30)
    store.put("before", b"before")
    cache.broken, cache.error = {verb}, error
    for number in range(4):
        store.put("k", b"data %d, and so on" % number)
        assert bytes(store.get("k")) == b"data %d, and so on" % number
    assert bytes(store.get("before")) == b"before"
    store.delete("before")
    with pytest.raises(NotFound):
        store.get("before")
    CachingStore(main, cache, capacity_bytes=5)
    if verb != "list":
        assert store.stats.errors
    cache.broken = set()
    store.put("k", b"works again")
    assert bytes(store.get("k")) == b"works again"
    store.close()
    assert main.closed
    assert cache.closed


def test_an_entry_that_was_cut_short_is_not_served(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache)
    store.put("k", b"0123456789")
    [name] = cache.keys()
    cache.put(name, b"0123")
    assert bytes(store.get("k")) == b"0123456789"
    assert bytes(cache.get(next(iter(cache.keys())))) == b"0123456789"


def test_a_range_of_a_large_object_does_not_fetch_it_all(main: BreakableStore, cache: BreakableStore) -> None:
    store = CachingStore(main, cache)
    main.put("k", bytes(RANGE_BYTES) + b"end")
    assert bytes(store.get("k", RANGE_BYTES)) == b"end"
    assert used(cache) == 3
    assert len(store.get("k")) == RANGE_BYTES + 3
    assert used(cache) == RANGE_BYTES + 3
    gets = main.calls["get"]
    assert bytes(store.get("k", RANGE_BYTES + 1)) == b"nd"
    assert main.calls["get"] == gets


def test_a_main_without_conditions_cannot_mix_versions(cache: BreakableStore) -> None:
    class Changing(BreakableStore):
        """Somebody puts another version just before each of the first two reads."""

        capabilities = Capabilities(conditional_get=False, max_metadata_bytes=None)
        left = 2

        def get(
            self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
        ) -> Data:
            if self.left:
                self.left -= 1
                self.put(key, b"version with %d left" % self.left)
            return super().get(key, start, stop, if_match=if_match)

    main = Changing()
    main.put("k", b"version zero .......")
    store = CachingStore(main, cache)
    assert bytes(store.get("k")) == b"version with 0 left"
    assert main.left == 0
    assert bytes(store.get("k")) == b"version with 0 left"
    assert bytes(store.get("k")) == bytes(main.get("k"))


def test_clear(tmp_path: Path, main: BreakableStore) -> None:
    cache = FilesystemStore(tmp_path / "cache", durable=False)
    store = CachingStore(main, cache, capacity_bytes=100)
    for number in range(5):
        store.put(f"k{number}", b"0123456789")
    store.clear()
    assert cache.usage() == (0, 0)
    assert bytes(store.get("k0")) == b"0123456789"
    assert cache.usage() == (1, 10)
    for number in range(20):
        store.put(f"n{number}", b"0123456789")
    assert cache.usage() == (10, 100)
