"""Statistics, and the emulator of a backend that is far away."""

from __future__ import annotations

import time
from typing import Any

import pytest

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
    assert stats["list_calls"] >= 1
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
