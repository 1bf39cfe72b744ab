"""if_match and if_absent."""

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


class Conditions(Suite):
    def test_put_if_absent(self, store: ObjectStore) -> None:
        self.need(store, "conditional_put")
        store.put("k", b"one", if_absent=True)
        with pytest.raises(PreconditionFailed):
            store.put("k", b"two", if_absent=True)
        assert bytes(store.get("k")) == b"one"
        store.delete("k")
        store.put("k", b"three", if_absent=True)
        assert bytes(store.get("k")) == b"three"

    def test_put_if_match(self, store: ObjectStore) -> None:
        self.need(store, "conditional_put")
        old = store.put("k", b"one").etag
        new = store.put("k", b"two", if_match=old).etag
        with pytest.raises(PreconditionFailed):
            store.put("k", b"three", if_match=old)
        assert bytes(store.get("k")) == b"two"
        assert store.put("k", b"four", if_match=new).etag == store.head("k").etag
        with pytest.raises(PreconditionFailed):
            store.put("missing", b"x", if_match=old)
        assert not store.exists("missing")
        with pytest.raises(PreconditionFailed):
            store.put("k", b"x", if_match="0123456789abcdef")

    def test_conditional_put_of_a_large_file(self, store: ObjectStore, tmp_path: Path) -> None:
        self.need(store, "conditional_put")
        path = tmp_path / "source.bin"
        path.write_bytes(b"new" * (6 * MIB))
        old = store.put("k", b"old").etag
        with path.open("rb") as file, pytest.raises(PreconditionFailed):
            store.put("k", file, if_absent=True)
        assert bytes(store.get("k")) == b"old"
        with path.open("rb") as file:
            store.put("k", file, if_match=old)
        with path.open("rb") as file, pytest.raises(PreconditionFailed):
            store.put("k", file, if_match=old)
        assert store.head("k").size == 18 * MIB

    def test_put_takes_one_condition_at_most(self, store: ObjectStore) -> None:
        etag = store.put("k", b"one").etag
        with pytest.raises(Unsupported):
            store.put("k", b"two", if_match=etag, if_absent=True)
        assert bytes(store.get("k")) == b"one"

    def test_get_if_match(self, store: ObjectStore) -> None:
        self.need(store, "conditional_get")
        old = store.put("k", b"one").etag
        assert bytes(store.get("k", if_match=old)) == b"one"
        assert bytes(store.get("k", 1, 2, if_match=old)) == b"n"
        assert bytes(store.get("k", 3, if_match=old)) == b""
        store.put("k", b"two")
        for start, stop in ((0, None), (1, 2), (3, None)):
            with pytest.raises(PreconditionFailed):
                store.get("k", start, stop, if_match=old)
        store.delete("k")
        with pytest.raises(NotFound):
            store.get("k", if_match=old)

    def test_delete_if_match(self, store: ObjectStore) -> None:
        self.need(store, "conditional_delete")
        old = store.put("k", b"one").etag
        new = store.put("k", b"two").etag
        with pytest.raises(PreconditionFailed):
            store.delete("k", if_match=old)
        assert bytes(store.get("k")) == b"two"
        store.delete("k", if_match=new)
        with pytest.raises(NotFound):
            store.delete("k", if_match=new)
        store.delete("k", if_match=new, missing_ok=True)

    def test_conditions_that_are_not_honoured_are_refused(self, store: ObjectStore) -> None:
        etag = store.put("k", b"one").etag
        if not store.capabilities.conditional_put:
            with pytest.raises(Unsupported):
                store.put("k", b"two", if_match=etag)
            with pytest.raises(Unsupported):
                store.put("new", b"two", if_absent=True)
        if not store.capabilities.conditional_get:
            with pytest.raises(Unsupported):
                store.get("k", if_match=etag)
        if not store.capabilities.conditional_delete:
            with pytest.raises(Unsupported):
                store.delete("k", if_match=etag)
        assert bytes(store.get("k")) == b"one"
        assert not store.exists("new")
