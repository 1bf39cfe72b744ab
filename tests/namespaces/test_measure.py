"""Statistics, and the emulator of a backend that is far away."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from borgstore.store import Store as TheirStore

from mountstore.errors import NotFound, UsageError
from mountstore.namespaces import Store
from mountstore.namespaces.measure import Emulator

CONFIG: dict[str, dict[str, Any]] = {"data": {"levels": [1], "cache": "write-through"}}


def made(**options: Any) -> Store:
    store = Store("memory:", config=CONFIG, **options)
    store.create()
    store.open()
    return store


def test_every_operation_is_counted() -> None:
    store = made(cache_url="memory:")
    before = store.stats
    assert {value for name, value in before.items() if name != "cache_disabled"} == {0}
    store.store("data/abcd", b"0123456789")
    store.load("data/abcd", size=4)
    store.info("data/abcd")
    list(store.list("data"))
    store.move("data/abcd", "data/efgh")
    store.delete("data/efgh")
    with pytest.raises(NotFound):
        store.load("data/efgh")
    stats = store.stats
    for operation, calls in {"store": 1, "load": 2, "info": 1, "move": 1, "delete": 1}.items():
        assert stats[f"{operation}_calls"] == calls, operation
        assert stats[f"{operation}_time"] > 0
        assert f"backend_{operation}_calls" in stats
    assert stats["list_calls"] == stats["backend_list_calls"] == 1
    assert (stats["store_volume"], stats["backend_store_volume"], stats["cache_store_volume"]) == (10, 10, 10)
    assert (stats["load_volume"], stats["backend_load_volume"], stats["cache_load_volume"]) == (4, 0, 4)
    assert stats["store_throughput"] == pytest.approx(10 / stats["store_time"])
    assert (stats["cache_hits"], stats["cache_misses"], stats["cache_errors"]) == (1, 0, 0)
    assert stats["cache_hit_ratio"] == 1


def elapsed(store: Store, name: str) -> float:
    started = time.perf_counter()
    store.load(name)
    return time.perf_counter() - started


@pytest.mark.parametrize("prefix", ["MOUNTSTORE", "BORGSTORE"])
def test_latency_and_bandwidth(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"data": {"levels": [1]}}
    monkeypatch.setenv(f"{prefix}_LATENCY", "50000")
    monkeypatch.setenv(f"{prefix}_BANDWIDTH", "8000000")
    store = Store("memory:", config=config)
    monkeypatch.delenv(f"{prefix}_LATENCY")
    monkeypatch.delenv(f"{prefix}_BANDWIDTH")
    store.create()
    with store:
        started = time.perf_counter()
        store.store("data/abcd", b"x" * 100_000)
        assert time.perf_counter() - started >= 0.15
        assert elapsed(store, "data/abcd") >= 0.15
        started = time.perf_counter()
        assert not store.info("data/none").exists
        assert time.perf_counter() - started >= 0.05


def test_only_the_remainder_is_slept() -> None:
    emulator = Emulator({"MOUNTSTORE_LATENCY": "300000000", "MOUNTSTORE_BANDWIDTH": "8"})
    started = time.perf_counter()
    emulator.rest(301.0, 0)
    emulator.rest(309.99, 10)
    assert 0.01 <= time.perf_counter() - started < 300


def test_our_name_wins_and_nonsense_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BORGSTORE_LATENCY", "60000000")
    monkeypatch.setenv("MOUNTSTORE_LATENCY", "0")
    store = Store("memory:", config={"data": {"levels": [1]}})
    store.create()
    monkeypatch.setenv("MOUNTSTORE_BANDWIDTH", "fast")
    with pytest.raises(UsageError, match="MOUNTSTORE_BANDWIDTH is a whole number"):
        Store("memory:", config={"data": {"levels": [1]}})


LATENCY_S = 10**6  # more than anything takes by itself


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A backend at such a distance, with a byte a second; what was to be slept instead of sleeping it."""
    monkeypatch.setenv("BORGSTORE_LATENCY", str(LATENCY_S * 10**6))
    monkeypatch.setenv("BORGSTORE_BANDWIDTH", "8")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def drained(slept: list[float]) -> list[int]:
    """Each as the bytes it was for, since no call takes half a second."""
    found = [round(seconds - LATENCY_S) for seconds in slept]
    slept.clear()
    return found


@pytest.mark.parametrize("policy", ["mirror", "write-through"])
def test_the_cache_is_not_slowed(policy: str, far: list[float]) -> None:
    store = Store("memory:", config={"data": {"levels": [1], "cache": policy}}, cache_url="memory:")
    store.create()
    with store:
        store.store("data/abcd", b"0123456789")
        assert drained(far) == [10]
        store.load("data/abcd", size=4)
        # The backend is asked whether the item is as it was; its bytes come from the cache, or do not.
        assert drained(far) == ([0] if policy == "write-through" else [0, 4])
        store.cache_invalidate()
        assert drained(far) == []
        store.load("data/abcd", size=4)
        assert drained(far) == [0, 4, 10]  # what was asked for, and the whole for the cache
        store.delete("data/abcd")
        assert drained(far) == [0]
        assert store.stats["backend_load_volume"] == 14 + 4 * (policy == "mirror")


def test_a_listing_sleeps_only_the_remainder(far: list[float], tmp_path: Path) -> None:
    def slept(store: Any) -> list[float]:
        store.create()
        with store:
            store.store("data/x", b"")
            far.clear()
            assert [item.name for item in store.list("data")] == ["x"]
        return [*far]

    config = {"data": {"levels": [0]}}
    (ours,) = slept(Store(f"file://{tmp_path}/ours", config=config))
    (theirs,) = slept(TheirStore(f"file://{tmp_path}/theirs", config=config))
    assert ours < LATENCY_S
    assert theirs == LATENCY_S


def test_calls_of_one_moment_wait_side_by_side(
    far: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is late by itself, as it would be over a network; in the original one is late after the other."""

    def at_once(store: Any, deadline_s: float) -> bool:
        together = threading.Barrier(4, timeout=deadline_s)
        store.create()
        with store, monkeypatch.context() as patched, ThreadPoolExecutor(4) as pool:
            patched.setattr(time, "sleep", lambda _: together.wait())
            calls = [pool.submit(store.info, "data/x") for _ in range(4)]
            return all(call.exception() is None for call in calls)

    config = {"data": {"levels": [0]}}
    assert at_once(Store("memory:", config=config), 30)
    assert not at_once(TheirStore(f"file://{tmp_path}/theirs", config=config), 1)
