"""The cache of a namespace store: policies and limits; it neither answers wrongly nor fails a call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import NotFound, Unavailable
from mountstore.namespaces import Store
from mountstore.store import ObjectStore
from tests.stores.wrappers.stacks import BreakableStore

PLACE = "data/ab/abcd"
NAME = "data/abcd"


def made(policy: str | None, main: ObjectStore, cache: ObjectStore, **limits: Any) -> Store:
    config: dict[str, dict[str, Any]] = {
        "data": {"levels": [1], "cache": policy, **limits},
        "plain": {"levels": [0]},
    }
    store = Store(backend=main, config=config, cache_backend=cache)
    store.create()
    store.open()
    return store


def cached(cache: ObjectStore) -> dict[str, bytes]:
    return {key: bytes(cache.get(key)) for key in cache.keys() if not key.endswith(".hid")}


@pytest.fixture(params=["memory", "files", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return DictStore()
    if request.param == "files":
        return FilesystemStore(tmp_path / "cache", durable=False)
    return SqliteStore(tmp_path / "cache.sqlite", durable=False)


def test_off(cache: ObjectStore) -> None:
    with cache:
        store = made("off", DictStore(), cache)
        store.store(NAME, b"content")
        assert store.load(NAME) == b"content"
        assert cached(cache) == {}


@pytest.mark.parametrize("policy", ["mirror", "write-through", "writethrough"])
def test_what_is_stored_loaded_moved_and_deleted_is_so_in_the_cache(policy: str, cache: ObjectStore) -> None:
    with cache:
        main = DictStore()
        store = made(policy, main, cache)
        store.store(NAME, b"content")
        store.store("plain/x", b"not this")
        assert cached(cache) == {PLACE: b"content"}
        main.put("data/ef/efgh", b"0123456789")
        assert store.load("data/efgh", size=2, offset=1) == b"12"
        assert cached(cache)["data/ef/efgh"] == b"0123456789"
        store.move("data/efgh", delete=True)
        assert sorted(cached(cache)) == [PLACE, "data/ef/efgh.del"]
        assert store.load("data/efgh", deleted=True) == b"0123456789"
        store.move("data/efgh", undelete=True)
        store.move("data/efgh", "data/1234")
        assert cached(cache) == {PLACE: b"content", "data/12/1234": b"0123456789"}
        store.delete("data/1234")
        store.move(NAME, "plain/y")
        assert cached(cache) == {}


def test_write_through_is_read_from_the_cache_and_mirror_is_not(cache: ObjectStore) -> None:
    with cache:
        for policy, loads in (("write-through", 1), ("mirror", 5)):
            main = BreakableStore()
            store = made(policy, main, cache)
            main.put("data/ab/abcd", b"0123456789")
            for _ in range(3):
                assert store.load(NAME) == b"0123456789"
            assert store.load(NAME, offset=-3, size=2) == b"78"
            assert store.load(NAME, offset=20) == b""
            assert main.calls["get"] == loads
            hits = store.stats["cache_hits"]
            assert hits == (4 if loads == 1 else 0)
            store.cache_invalidate()
            assert cached(cache) == {}


def test_a_reopened_cache_is_used() -> None:
    main, cache = BreakableStore(), DictStore()
    store = made("write-through", main, cache, max_age=3600)
    store.store(NAME, b"content")
    store.close()
    store.open()
    assert store.load(NAME) == b"content"
    assert "get" not in main.calls


def test_deleted_and_replaced_data_are_not_served() -> None:
    main, cache = DictStore(), DictStore()
    store = made("write-through", main, cache)
    store.store(NAME, b"first")
    main.put(PLACE, b"other")
    assert store.load(NAME) == b"other"
    assert cached(cache) == {PLACE: b"other"}
    main.delete(PLACE)
    with pytest.raises(NotFound):
        store.load(NAME)
    assert cached(cache) == {}


def test_a_cache_that_others_changed_is_not_believed() -> None:
    main, cache = DictStore(), DictStore()
    store = made("write-through", main, cache)
    store.store(NAME, b"content")
    cache.put(PLACE, b"planted")
    assert store.load(NAME) == b"content"
    assert cached(cache) == {PLACE: b"content"}


def test_least_recently_used_goes_first() -> None:
    main, cache = DictStore(), DictStore()
    store = made("write-through", main, cache, size=30)
    for letter in "abc":
        store.store(f"data/{letter * 4}", b"x" * 10)
    store.load("data/aaaa")
    store.store("data/dddd", b"x" * 10)
    assert [key[-4:] for key in cached(cache)] == ["aaaa", "cccc", "dddd"]
    store.store("data/dddd", b"x" * 25)
    assert [key[-4:] for key in cached(cache)] == ["dddd"]
    store.store("data/huge", b"x" * 31)
    assert [key[-4:] for key in cached(cache)] == ["dddd"]
    store.close()
    store.open()
    store.store("data/aaaa", b"x" * 6)
    assert [key[-4:] for key in cached(cache)] == ["aaaa"]
    assert sorted(item.name for item in store.list("data")) == ["aaaa", "bbbb", "cccc", "dddd", "huge"]


def test_old_items_are_fetched_anew() -> None:
    main, cache = BreakableStore(), DictStore()
    store = made("write-through", main, cache, max_age=0.05)
    begun = time.time()
    store.store(NAME, b"content")
    deadline = begun + 30
    while "get" not in main.calls:
        assert store.load(NAME) == b"content"
        assert time.time() < deadline
    assert time.time() - begun >= 0.05  # it was served from the cache until then


def test_a_failing_cache_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    main, cache = DictStore(), BreakableStore()
    store = made("write-through", main, cache)
    store.store("data/kept", b"kept")
    cache.error = Unavailable("the cache is down, on purpose")
    cache.broken = {"all"}
    store.store(NAME, b"content")
    assert store.load(NAME) == b"content"
    store.move(NAME, delete=True)
    store.move(NAME, undelete=True)
    store.cache_invalidate("data")
    store.delete(NAME)
    errors = store.stats["cache_errors"]
    assert errors >= 5
    assert "on purpose" in caplog.text
    for _ in range(20):
        assert store.load("data/kept") == b"kept"
    assert store.stats["cache_disabled"]
    assert store.stats["cache_errors"] <= 10
    store.close()
    store.open()
    cache.broken = set()
    store.close()
    store.open()
    assert store.load("data/kept") == b"kept"
    assert not store.stats["cache_disabled"]
    cache.broken = {"all"}
    store.close()
    store.destroy()


def test_a_cache_missed_a_deletion_while_it_was_down() -> None:
    main, cache = DictStore(), BreakableStore()
    store = made("write-through", main, cache)
    store.store(NAME, b"first")
    cache.broken = {"all"}
    store.store(NAME, b"other")
    cache.broken = set()
    assert store.load(NAME) == b"other"
    cache.broken = {"all"}
    store.delete(NAME)
    cache.broken = set()
    with pytest.raises(NotFound):
        store.load(NAME)


def test_invalidation_is_of_what_was_named() -> None:
    main, cache = DictStore(), DictStore()
    store = made("write-through", main, cache)
    for name in ("data/aaaa", "data/bbbb", "data/cccc"):
        store.store(name, b"x")
    store.cache_invalidate("data/aaaa")
    assert sorted(cached(cache)) == ["data/bb/bbbb", "data/cc/cccc"]
    store.cache_invalidate("plain")
    assert len(cached(cache)) == 2
    store.cache_invalidate("data")
    assert cached(cache) == {}
    assert store.load("data/aaaa") == b"x"


def test_a_cache_by_url_is_made_and_destroyed(tmp_path: Path) -> None:
    config = {"data": {"levels": [1], "cache": "mirror"}}
    store = Store(f"file://{tmp_path}/main", config=config, cache_url=f"file://{tmp_path}/cache")
    store.create()
    with store:
        store.store(NAME, b"content")
    assert (tmp_path / "cache" / PLACE).read_bytes() == b"content"
    store.destroy()
    assert [*tmp_path.iterdir()] == []
