"""Listings, in pages and grouped."""

from __future__ import annotations

import pytest

from mountstore.store import ObjectStore, Page
from tests.stores.conformance.suite import (
    Suite,
    expected_entries,
    key_order,
    listed_entries,
    page_entries,
)


class Listings(Suite):
    def test_listing_an_empty_store(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        assert store.list() == Page([], [], None)
        assert store.list("a/", delimiter="/") == Page([], [], None)
        assert list(store.keys()) == []
        assert store.usage() == (0, 0)

    def test_a_listing_tells_size_time_and_etag(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        info = store.put("d/k", b"12345", metadata={"a": "1"})
        [listed] = store.list().objects
        assert (listed.key, listed.size, listed.metadata) == ("d/k", 5, None)
        assert listed.etag in (info.etag, None)
        assert abs(listed.mtime_ns - info.mtime_ns) <= 2 * 10**9

    KEYS = key_order(
        [
            "a",
            "a-b",
            "a.b",
            "a/1",
            "a/2",
            "a/b/1",
            "a0",
            "ab",
            "b/1",
            "b/2/3",
            "c",
            "c/1",
            "d/1/2/3",
            "e",
            "zed",
            "é",
            "\uffff",
            "\U0001f600",
            "\uffff/x",
            "\U0001f600/x",
        ]
    )

    def listing_keys(self, store: ObjectStore) -> list[str]:
        """KEYS, without those that clash as a file and a folder where `key_sets` says that they may not."""
        if any("a" in keys and "a/b" in keys for keys in self.key_sets):
            return self.KEYS
        return [key for key in self.KEYS if not any(other.startswith(key + "/") for other in self.KEYS)]

    @pytest.mark.parametrize("limit", [1, 2, 3, 1000])
    def test_listing_in_pages(self, store: ObjectStore, limit: int) -> None:
        self.need(store, "listing")
        keys = self.listing_keys(store)
        self.fill(store, keys)
        for prefix in ("", "a", "a/", "b/2", "d/1/", "nothing", "\uffff"):
            for delimiter in ("", "/"):
                want = expected_entries(keys, prefix, delimiter, "")
                assert listed_entries(store, prefix, delimiter, limit=limit) == want, (prefix, delimiter)
        assert list(store.keys()) == keys
        assert list(store.keys("a/")) == [key for key in keys if key.startswith("a/")]

    def test_listing_after_a_key_a_group_or_a_page(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        keys = self.listing_keys(store)
        self.fill(store, keys)
        afters = [
            "",
            "a",
            "a/",
            "a/1",
            "a/2",
            "a/b/",
            "a/zzz",
            "a0",
            "b/",
            "b/2/",
            "c",
            "d/",
            "zzz",
            "\U0001f600",
        ]
        for after in afters:
            for prefix in ("", "a/", "b"):
                for delimiter in ("", "/"):
                    want = expected_entries(keys, prefix, delimiter, after)
                    assert listed_entries(store, prefix, delimiter, after, 2) == want, (
                        prefix,
                        delimiter,
                        after,
                    )
        page = store.list(delimiter="/", limit=3)
        assert page.after is not None
        rest = store.list(delimiter="/", after=page.after)
        assert page_entries(page) + page_entries(rest) == expected_entries(keys, "", "/", "")

    def test_a_group_is_skipped_with_all_its_keys(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        self.fill(store, [f"g/{number:02}" for number in range(12)] + ["h/1", "i"])
        page = store.list(delimiter="/", limit=1)
        assert (page.objects, page.prefixes) == ([], ["g/"])
        assert page.after is not None
        page = store.list(delimiter="/", after=page.after, limit=1)
        assert (page.objects, page.prefixes) == ([], ["h/"])
        assert page_entries(store.list(delimiter="/", after="g/")) == [("h/", True), ("i", False)]

    def test_a_marker_is_an_object_in_its_own_listing(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        self.fill(store, ["d/", "d/x", "e"])
        assert store.head("d/").size == 2
        assert listed_entries(store, "", "/") == [("d/", True), ("e", False)]
        assert listed_entries(store, "d/", "/") == [("d/", False), ("d/x", False)]
        assert listed_entries(store, "d/", "/", after="d/") == [("d/x", False)]
        assert listed_entries(store, "d", "/") == [("d/", True)]
        store.delete("d/x")
        assert listed_entries(store) == [("d/", False), ("e", False)]
        store.delete("d/")
        assert listed_entries(store) == [("e", False)]

    def test_an_empty_marker(self, store: ObjectStore) -> None:
        kept = {"mode": "16877"} if store.capabilities.metadata else {}
        info = store.put("d/", b"", metadata={"mode": "16877"})
        assert (info.size, info.metadata) == (0, kept)
        store.put("d/x", b"x")
        store.delete("d/x")
        head = store.head("d/")
        assert (head.key, head.size, head.metadata) == ("d/", 0, kept)
        assert not store.exists("d")
        assert bytes(store.get("d/")) == b""
        if store.capabilities.listing:
            assert list(store.keys()) == ["d/"]
        assert store.rename("d/", "e/").key == "e/"
        assert (store.exists("d/"), store.head("e/").metadata) == (False, kept)
        store.delete("e/")
        assert not store.exists("e/")

    @pytest.mark.parametrize("delimiter", ["-", ".", "//", "ab"])
    def test_other_delimiters(self, store: ObjectStore, delimiter: str) -> None:
        self.need(store, "listing")
        keys = ["a-b-c", "a-b/c", "a.b", "aab-", "ab", "b", "c/ab/d", "c/d-e", "c/d.e"]
        self.fill(store, keys)
        for prefix in ("", "a", "c/", "c/d"):
            want = expected_entries(keys, prefix, delimiter, "")
            assert listed_entries(store, prefix, delimiter, limit=2) == want

    def test_usage(self, store: ObjectStore) -> None:
        self.need(store, "listing")
        store.put("a/1", b"123")
        store.put("a/2", b"45")
        store.put("b", b"6")
        assert store.usage() == (3, 6)
        assert store.usage("a/") == (2, 5)
        assert store.usage("nothing") == (0, 0)
