"""A large put into a CachingStore: main and cache take it at once, whatever becomes of either."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import InvalidKey, PreconditionFailed, Unavailable
from mountstore.store import Data, ObjectInfo
from mountstore.stores import CachingStore
from mountstore.stores.blocks import digest
from mountstore.stores.drafts import Draft
from mountstore.stores.pool import BlockPool
from tests.stores.wrappers.stacks import BreakableStore

STEP = 1 << 20
OLD, NEW = (random.Random(seed).randbytes(6 * STEP + 7) for seed in (1, 2))


class Told(BreakableStore):
    """Calls `before` at the begin of each put."""

    before: Callable[[], object] = staticmethod(lambda: None)

    def put(self, key: str, data: Any, **options: Any) -> ObjectInfo:
        self.before()
        return super().put(key, data, **options)


def is_whole(store: CachingStore, main: BreakableStore, data: bytes) -> bool:
    """Whether all of it comes from the cache."""
    main.broken = {"get"}
    try:
        return bytes(store.get("k")) == data
    except Unavailable:
        return False
    finally:
        main.broken = set()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_both_take_it_at_once(kind: Callable[[bytes], Data]) -> None:
    main, cache = Told(), Told()
    meeting = threading.Barrier(2)

    def meet_once() -> None:
        cache.before = lambda: None
        meeting.wait(20)

    main.before, cache.before = lambda: meeting.wait(20), meet_once
    store = CachingStore(main, cache)
    info = store.put("k", kind(OLD), metadata={"a": "1"})
    assert (info, info.metadata) == (main.head("k"), {"a": "1"})
    assert is_whole(store, main, OLD)
    assert cache.usage() == (7, len(OLD))
    main.before = lambda: None
    store.put("k", kind(NEW))
    assert is_whole(store, main, NEW)
    assert cache.usage() == (7, len(NEW))
    assert store.stats.used_bytes == len(NEW)


def test_what_main_did_not_take_is_not_kept() -> None:
    main, cache = Told(), Told()
    store = CachingStore(main, cache)
    store.put("k", OLD)
    half = threading.Event()
    puts = 0

    def count() -> None:
        nonlocal puts
        puts += 1
        if puts == 2:
            half.set()

    cache.before = count

    def fail() -> None:
        assert half.wait(20)
        raise Unavailable("main is down, on purpose")

    main.before = fail
    with pytest.raises(Unavailable):
        store.put("k", NEW)
    assert is_whole(store, main, OLD)
    assert cache.usage() == (7, len(OLD))
    assert store.stats.used_bytes == len(OLD)
    # Conditions fail often: nothing goes out of the cache for what will not come.
    main.before = lambda: None
    puts = 0
    with pytest.raises(PreconditionFailed):
        store.put("k", NEW, if_absent=True)
    assert puts == 0


@pytest.mark.parametrize("key", ["", "\ud800"])
def test_a_bad_key_is_refused_as_ever(key: str) -> None:
    main, cache = Told(), Told()
    with pytest.raises(InvalidKey):
        CachingStore(main, cache).put(key, OLD)
    assert cache.usage() == (0, 0)


@pytest.mark.parametrize("broken", ["put", "rename", "all"])
def test_a_cache_that_fails_is_passed_by(broken: str) -> None:
    main, cache = Told(), Told()
    store = CachingStore(main, cache)
    cache.broken = {broken}
    store.put("k", OLD)
    cache.broken = set()
    assert bytes(store.get("k")) == OLD
    assert store.stats.errors
    assert bytes(main.get("k")) == OLD


def test_another_write_meanwhile_makes_unsure_which_version_it_is() -> None:
    main, cache = Told(), Told()
    store = CachingStore(main, cache, ttl_s=60)

    def once() -> None:
        main.before = lambda: None
        other = threading.Thread(target=store.put, args=("k", NEW))
        other.start()
        other.join(20)

    main.before = once
    store.put("k", OLD)
    assert cache.usage() == (0, 0)
    assert store.stats.used_bytes == 0
    assert bytes(store.get("k")) == OLD


def test_a_bound_below_its_size() -> None:
    main, cache = Told(), Told()
    store = CachingStore(main, cache, capacity_bytes=3 * STEP)
    for data in (OLD, NEW):
        store.put("k", data)
        assert 0 < cache.usage()[1] <= 3 * STEP
        assert store.stats.used_bytes == cache.usage()[1]
        assert bytes(store.get("k")) == data


def test_a_cache_that_copies_to_rename_is_written_once() -> None:
    main, cache = Told(), Told()
    cache.capabilities = replace(cache.capabilities, atomic_rename=False)
    store = CachingStore(main, cache)
    store.put("k", OLD)
    assert "rename" not in cache.calls
    assert is_whole(store, main, OLD)


def test_pinned(tmp_path: Path) -> None:
    main = Told()
    DictStore.put(main, "k", OLD)
    store = CachingStore(main, FilesystemStore(tmp_path, durable=False))
    store.pin("k")
    store.put("k", NEW)
    assert store.stats.pinned_bytes == len(NEW)
    assert is_whole(store, main, NEW)


def test_what_a_killed_process_left_of_one_is_bounded_and_goes_first(tmp_path: Path) -> None:
    pool = BlockPool(FilesystemStore(tmp_path, durable=False), 8 * STEP)
    left = Draft(pool, digest("k"), OLD, STEP, "")
    left._thread.join()
    main = Told()
    store = CachingStore(main, FilesystemStore(tmp_path, durable=False), capacity_bytes=8 * STEP)
    assert store.stats.used_bytes == len(OLD)
    store.put("another", NEW)
    assert store.stats.used_bytes <= 8 * STEP
    main.broken = {"get"}
    assert bytes(store.get("another")) == NEW
