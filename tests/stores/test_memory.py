"""DictStore: the contract, and what it promises beyond."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.store import ObjectStore
from tests.stores.conformance import StoreConformance


class TestDictStore(StoreConformance):
    peak_put_bytes = None  # it holds the object

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with DictStore() as store:
            yield store


def test_a_large_range_is_a_view_of_the_object() -> None:
    store = DictStore()
    data = bytes(1_000_000)
    store.put("k", data)
    assert store.get("k") is data
    view = store.get("k", 100_000, 900_000)
    assert isinstance(view, memoryview)
    assert view.obj is data


def test_two_stores_do_not_share_etags() -> None:
    assert DictStore().put("k", b"1").etag != DictStore().put("k", b"2").etag


def test_many_keys_come_and_go_in_order() -> None:
    store = DictStore()
    for number in range(1000, 0, -1):
        store.put(f"{number:04}", b"")
    assert list(store.keys()) == [f"{number:04}" for number in range(1, 1001)]
    for number in range(1, 1001, 2):
        store.delete(f"{number:04}")
    store.put("0001", b"")
    assert list(store.keys()) == ["0001", *[f"{number:04}" for number in range(2, 1001, 2)]]
