"""Several threads at once."""

from __future__ import annotations

import time

from mountstore.errors import (
    NotFound,
    PreconditionFailed,
)
from mountstore.store import ObjectStore
from tests.stores.conformance.suite import (
    Suite,
    in_threads,
)


class Concurrency(Suite):
    def test_readers_see_whole_objects(self, store: ObjectStore) -> None:
        rounds = self.rounds(store)
        sizes = [10, 50_000, 700_000, 0]
        store.put("k", b"")

        def work(number: int) -> int:
            seen = 0
            for count in range(rounds):
                if number < 2:
                    size = sizes[(count + number) % 4]
                    store.put("k", bytes([65 + (count + number) % 26]) * size)
                else:
                    data = bytes(store.get("k"))
                    assert len(data) in sizes
                    assert len(set(data)) <= 1, "a reader saw a mix of two versions"
                    seen += 1
            return seen

        assert in_threads(6, work) == [0, 0, *[rounds] * 4]

    def test_readers_and_deleters(self, store: ObjectStore) -> None:
        data = b"whole" * 20_000

        def work(number: int) -> None:
            for _ in range(self.rounds(store)):
                if number == 0:
                    store.put("d/e/k", data)
                elif number == 1:
                    store.delete("d/e/k", missing_ok=True)
                elif number == 2:
                    store.put("d/e/other", b"x")
                    store.delete("d/e/other")
                else:
                    try:
                        assert bytes(store.get("d/e/k")) == data
                    except NotFound:
                        continue

        in_threads(5, work)
        store.delete("d/e/k", missing_ok=True)
        if store.capabilities.listing:
            assert list(store.keys()) == []

    def test_only_one_creates(self, store: ObjectStore) -> None:
        self.need(store, "conditional_put")

        def work(number: int) -> bool:
            try:
                store.put("k", b"%d" % number * 1000, if_absent=True)
            except PreconditionFailed:
                return False
            return True

        for _ in range(self.rounds(store) // 6):
            results = in_threads(8, work)
            assert results.count(True) == 1
            assert bytes(store.get("k")) == b"%d" % results.index(True) * 1000
            store.delete("k")

    def test_a_counter_loses_nothing(self, store: ObjectStore) -> None:
        self.need(store, "conditional_put", "conditional_get")
        store.put("counter", b"0")
        each = self.rounds(store) // 6
        deadline = time.monotonic() + 120

        def work(number: int) -> None:
            done = 0
            while done < each:
                assert time.monotonic() < deadline, "the counter does not advance"
                etag = store.head("counter").etag
                try:
                    value = int(bytes(store.get("counter", if_match=etag)))
                    store.put("counter", b"%d" % (value + 1), if_match=etag)
                except PreconditionFailed:
                    continue
                done += 1

        in_threads(4, work)
        assert bytes(store.get("counter")) == b"%d" % (4 * each)

    def test_listing_while_others_write(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        stay = [f"stay/{number:02}" for number in range(20)]
        self.fill(store, stay)

        def work(number: int) -> None:
            for count in range(self.rounds(store) // 3):
                if number < 2:
                    store.put(f"stay/come-{number}-{count % 3}/x", b"x")
                    store.delete(f"stay/come-{number}-{count % 3}/x")
                else:
                    pages = store.pages(limit=5)
                    seen = [info.key for page in pages for info in page.objects]
                    assert [key for key in seen if "come" not in key] == stay

        in_threads(4, work)
