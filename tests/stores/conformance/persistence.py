"""For stores whose data outlive the object."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mountstore.errors import (
    PreconditionFailed,
)
from mountstore.store import ObjectStore
from tests.stores.conformance.suite import (
    MIB,
    Suite,
    in_threads,
)


class Persistence(Suite):
    """For stores whose data outlive the object: `reopen()` gives a second store over the same data."""

    @pytest.fixture
    def reopen(self) -> Callable[[], ObjectStore]:
        raise NotImplementedError("override the `reopen` fixture")

    def test_everything_is_there_after_reopening(
        self, store: ObjectStore, reopen: Callable[[], ObjectStore]
    ) -> None:
        store.put("d/k", b"content", metadata={"a": "1"})
        store.put("d/", b"")
        store.put("large", bytes(3 * MIB))
        store.put("gone", b"x")
        store.delete("gone")
        heads = {key: store.head(key) for key in ("d/k", "d/", "large")}
        store.close()
        with reopen() as again:
            assert {key: again.head(key) for key in heads} == heads
            assert bytes(again.get("d/k")) == b"content"
            assert not again.exists("gone")
            if again.capabilities.listing:
                assert list(again.keys()) == ["d/", "d/k", "large"]

    def test_two_at_once_see_each_other(self, store: ObjectStore, reopen: Callable[[], ObjectStore]) -> None:
        with reopen() as other:
            info = store.put("k", b"one")
            assert bytes(other.get("k")) == b"one"
            assert other.head("k").etag == info.etag
            other.put("k", b"two")
            assert bytes(store.get("k")) == b"two"
            assert store.head("k").etag != info.etag
            if store.capabilities.conditional_put:
                with pytest.raises(PreconditionFailed):
                    store.put("k", b"three", if_match=info.etag)
            other.delete("k")
            assert not store.exists("k")

    def test_a_counter_of_two_stores_loses_nothing(
        self, store: ObjectStore, reopen: Callable[[], ObjectStore]
    ) -> None:
        self.need(store, "conditional_put")
        store.put("counter", b"0")
        each = self.rounds(store) // 6
        deadline = time.monotonic() + 120
        with reopen() as other:

            def work(number: int) -> None:
                mine = (store, other)[number % 2]
                done = 0
                while done < each:
                    assert time.monotonic() < deadline, "the counter does not advance"
                    before = mine.head("counter")
                    value = int(bytes(mine.get("counter")))
                    if mine.head("counter").etag != before.etag:
                        continue
                    try:
                        mine.put("counter", b"%d" % (value + 1), if_match=before.etag)
                    except PreconditionFailed:
                        continue
                    done += 1

            in_threads(4, work)
        assert bytes(store.get("counter")) == b"%d" % (4 * each)
