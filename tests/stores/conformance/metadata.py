"""Metadata, copies and renames."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountstore.errors import (
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from mountstore.store import ObjectStore
from tests.stores.conformance.suite import (
    MIB,
    Suite,
)


class MetadataAndCopies(Suite):
    # -- metadata ------------------------------------------------------------------------------------

    def test_metadata_is_kept_and_replaced_as_a_whole(self, store: ObjectStore) -> None:
        first = {"mode": "33188", "note": "a=b; c, \"d\" 'e' %20 \\ ~", "empty-dash-9": "x"}
        kept = first if store.capabilities.metadata else {}
        assert store.put("k", b"1", metadata=first).metadata == kept
        assert store.head("k").metadata == kept
        assert store.put("k", b"2", metadata={"mode": "1"}).metadata == ({"mode": "1"} if kept else {})
        assert store.head("k").metadata == ({"mode": "1"} if kept else {})
        store.put("k", b"3")
        assert store.head("k").metadata == {}
        assert bytes(store.get("k")) == b"3"

    def test_metadata_of_a_large_file(self, store: ObjectStore, tmp_path: Path) -> None:
        self.need(store, "metadata")
        path = tmp_path / "source.bin"
        path.write_bytes(bytes(9 * MIB))
        with path.open("rb") as file:
            store.put("k", file, metadata={"mode": "33188", "mtime": "1.5"})
        assert store.head("k").metadata == {"mode": "33188", "mtime": "1.5"}

    def test_metadata_up_to_the_limit_and_beyond(self, store: ObjectStore) -> None:
        self.need(store, "metadata")
        limit = store.capabilities.max_metadata_bytes
        if limit is None:
            store.put("k", b"1", metadata={"k": "v" * 100_000})
            assert store.head("k").metadata == {"k": "v" * 100_000}
            return
        fits = {"k": "v" * (limit - 1)}
        store.put("k", b"1", metadata=fits)
        assert store.head("k").metadata == fits
        with pytest.raises(Unsupported):
            store.put("k", b"2", metadata={"k": "v" * limit})
        assert bytes(store.get("k")) == b"1"
        assert store.head("k").metadata == fits

    def test_update_metadata(self, store: ObjectStore) -> None:
        info = store.put("k", b"content", metadata={"a": "1"})
        if not store.capabilities.metadata:
            with pytest.raises(Unsupported):
                store.update_metadata("k", {"b": "2"})
            return
        changed = store.update_metadata("k", {"b": "2"}, if_match=info.etag)
        assert (changed.key, changed.size, changed.metadata) == ("k", 7, {"b": "2"})
        head = store.head("k")
        assert (head.metadata, head.etag) == ({"b": "2"}, changed.etag)
        assert bytes(store.get("k")) == b"content"
        with pytest.raises(PreconditionFailed):
            store.update_metadata("k", {"c": "3"}, if_match="0123456789abcdef")
        assert store.head("k").metadata == {"b": "2"}
        assert store.update_metadata("k", {}).metadata == {}
        with pytest.raises(NotFound):
            store.update_metadata("missing", {"a": "1"})

    # -- copy and rename -----------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 5, 3 * MIB])
    def test_copy(self, store: ObjectStore, size: int) -> None:
        data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        has = store.capabilities.metadata
        store.put("source", data, metadata={"a": "1"})
        info = store.copy("source", "d/target")
        assert (info.key, info.size, info.metadata) == ("d/target", size, {"a": "1"} if has else {})
        assert store.head("d/target").etag == info.etag
        assert store.head("d/target").metadata == info.metadata
        assert bytes(store.get("d/target")) == data
        assert store.copy("source", "d/target", metadata={"b": "2"}).metadata == ({"b": "2"} if has else {})
        assert store.head("d/target").metadata == ({"b": "2"} if has else {})
        assert store.copy("source", "d/target", metadata={}).metadata == {}
        assert store.head("d/target").metadata == {}
        store.put("source", b"changed")
        assert bytes(store.get("d/target")) == data
        store.delete("source")
        assert bytes(store.get("d/target")) == data

    def test_copy_onto_itself(self, store: ObjectStore) -> None:
        has = store.capabilities.metadata
        store.put("k", b"content", metadata={"a": "1"})
        assert store.copy("k", "k").metadata == ({"a": "1"} if has else {})
        assert store.copy("k", "k", metadata={"b": "2"}).metadata == ({"b": "2"} if has else {})
        assert store.head("k").metadata == ({"b": "2"} if has else {})
        assert bytes(store.get("k")) == b"content"

    def test_copy_if_match(self, store: ObjectStore) -> None:
        old = store.put("source", b"one").etag
        store.put("target", b"other")
        new = store.put("source", b"two").etag
        with pytest.raises(PreconditionFailed):
            store.copy("source", "target", if_match=old)
        assert bytes(store.get("target")) == b"other"
        store.copy("source", "target", if_match=new)
        assert bytes(store.get("target")) == b"two"
        with pytest.raises(NotFound):
            store.copy("missing", "target", if_match=new)

    def test_rename(self, store: ObjectStore) -> None:
        kept = {"a": "1"} if store.capabilities.metadata else {}
        old = store.put("d/source", b"content", metadata={"a": "1"})
        store.put("e/target", b"replaced")
        with pytest.raises(PreconditionFailed):
            store.rename("d/source", "e/target", if_match="0123456789abcdef")
        info = store.rename("d/source", "e/target", if_match=old.etag)
        assert (info.key, info.size, info.metadata) == ("e/target", 7, kept)
        assert not store.exists("d/source")
        head = store.head("e/target")
        assert (head.etag, head.metadata) == (info.etag, kept)
        assert bytes(store.get("e/target")) == b"content"
        assert store.rename("e/target", "e/target").size == 7
        assert bytes(store.get("e/target")) == b"content"
        with pytest.raises(NotFound):
            store.rename("d/source", "e/target")
        assert bytes(store.get("e/target")) == b"content"
