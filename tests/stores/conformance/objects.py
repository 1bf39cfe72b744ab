"""What was put comes back; what is not there is said; ranges; what fails leaves the old object."""

from __future__ import annotations

import hashlib
import io
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from mountstore.errors import (
    InvalidRange,
    NotFound,
    StoreError,
)
from mountstore.store import ObjectStore
from tests.stores.conformance.suite import (
    MIB,
    BreakingFile,
    Suite,
)


class Objects(Suite):
    # -- round trips ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 1024, 65_537, 3 * MIB + 7])
    def test_what_was_put_comes_back(self, store: ObjectStore, size: int) -> None:
        data = (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]
        before = time.time_ns()
        info = store.put("round/trip.bin", data)
        after = time.time_ns()
        assert (info.key, info.size) == ("round/trip.bin", size)
        assert info.etag
        assert info.metadata == {}
        assert before - 3 * 10**9 <= info.mtime_ns <= after + 3 * 10**9
        assert bytes(store.get("round/trip.bin")) == data
        head = store.head("round/trip.bin")
        assert (head.key, head.size, head.etag, head.metadata) == ("round/trip.bin", size, info.etag, {})
        assert abs(head.mtime_ns - info.mtime_ns) <= 2 * 10**9

    @pytest.mark.parametrize("size", [0, 5, 200_000])
    def test_put_takes_every_kind_of_bytes(self, store: ObjectStore, size: int) -> None:
        data = (b"0123456789" * (size // 10 + 1))[:size]
        for kind in (bytes, bytearray, memoryview):
            store.put("kind", kind(data))
            assert bytes(store.get("kind")) == data
        part = memoryview(b"xx" + data + b"yy")[2:-2]
        store.put("kind", part)
        assert bytes(store.get("kind")) == data

    def test_a_bytearray_may_be_changed_after_put(self, store: ObjectStore) -> None:
        data = bytearray(b"before")
        store.put("k", data)
        data[:] = b"after!"
        assert bytes(store.get("k")) == b"before"

    @pytest.mark.parametrize("size", [0, 10, 300_000, 9 * MIB])
    def test_put_reads_a_file_from_its_position_to_its_end(
        self, store: ObjectStore, tmp_path: Path, size: int
    ) -> None:
        data = (hashlib.sha256(b"file").digest() * (size // 32 + 1))[:size]
        path = tmp_path / "source.bin"
        path.write_bytes(b"skipped" + data)
        with path.open("rb") as file:
            file.seek(7)
            assert store.put("from/file", file).size == size
        assert bytes(store.get("from/file")) == data
        memory = io.BytesIO(b"skipped" + data)
        memory.seek(7)
        assert store.put("from/memory", memory).size == size
        assert bytes(store.get("from/memory")) == data

    def test_put_replaces_longer_and_shorter(self, store: ObjectStore) -> None:
        for data in (b"long " * 1000, b"short", b"", b"longer again" * 100):
            assert store.put("k", data).size == len(data)
            assert bytes(store.get("k")) == data
            assert store.head("k").size == len(data)

    def test_an_etag_changes_with_the_content_and_only_by_a_call(self, store: ObjectStore) -> None:
        first = store.put("k", b"one").etag
        assert first == store.head("k").etag
        bytes(store.get("k"))
        assert first == store.head("k").etag
        seen = {first}
        for number in range(10):
            etag = store.put("k", b"v%02d" % number).etag  # the same size, at nearly the same time
            assert etag not in seen
            seen.add(etag)
        store.put("other", b"x")
        assert store.head("k").etag == etag

    def test_a_large_file_streams(self, store: ObjectStore, tmp_path: Path) -> None:
        size = 64 * MIB
        path = tmp_path / "large.bin"
        whole = hashlib.sha256()
        with path.open("wb") as file:
            for number in range(64):
                block = hashlib.sha256(b"%d" % number).digest() * (MIB // 32)
                whole.update(block)
                file.write(block)
        with path.open("rb") as file:
            tracemalloc.start()
            try:
                info = store.put("large", file)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert info.size == size
        if self.peak_put_bytes is not None:
            assert peak <= self.peak_put_bytes
        read = hashlib.sha256()
        for start in range(0, size, 8 * MIB):
            read.update(store.get("large", start, start + 8 * MIB))
        assert read.digest() == whole.digest()
        assert hashlib.sha256(store.get("large")).digest() == whole.digest()

    # -- what is not there ---------------------------------------------------------------------------

    def test_a_missing_key_is_not_found_and_a_key_error(self, store: ObjectStore) -> None:
        store.put("here", b"x")
        calls: list[Callable[[], object]] = [
            lambda: store.get("missing"),
            lambda: store.get("missing", 0, 1),
            lambda: store.head("missing"),
            lambda: store.delete("missing"),
            lambda: store.copy("missing", "target"),
            lambda: store.rename("missing", "target"),
            lambda: store.head("here/missing"),
            lambda: store.head("her"),
            lambda: store.head("here/"),
        ]
        for call in calls:
            with pytest.raises(KeyError) as caught:
                call()
            assert isinstance(caught.value, NotFound)
            assert "\n" not in str(caught.value)
        assert not store.exists("missing")
        assert not store.exists("target")

    def test_exists(self, store: ObjectStore) -> None:
        assert not store.exists("d/k")
        store.put("d/k", b"")
        assert store.exists("d/k")
        assert not store.exists("d")
        assert not store.exists("d/")

    def test_many_at_once(self, store: ObjectStore) -> None:
        contents = {"k/a": b"some bytes", "k/b": b"", "k/c-d": b"\0" * 5000}
        for key, data in contents.items():
            store.put(key, data, metadata={"n": "1"} if store.capabilities.metadata else None)
        heads = store.head_many([*contents, "k/absent"])
        assert heads == {key: store.head(key) for key in contents}
        found = store.head_or_get_many([*contents, "k/absent"])
        assert {key: info for key, (info, _) in found.items()} == heads
        for key, (_, brought) in found.items():
            assert brought is None or bytes(brought) == bytes(store.get(key))

    def test_delete(self, store: ObjectStore) -> None:
        store.put("d/k", b"1")
        store.put("d/l", b"2")
        store.delete("d/k")
        assert not store.exists("d/k")
        with pytest.raises(NotFound):
            store.get("d/k")
        with pytest.raises(NotFound):
            store.delete("d/k")
        store.delete("d/k", missing_ok=True)
        assert bytes(store.get("d/l")) == b"2"
        store.put("d/k", b"back")
        assert bytes(store.get("d/k")) == b"back"

    def test_delete_many(self, store: ObjectStore) -> None:
        keys = [f"many/{number:03}" for number in range(25)]
        for key in keys:
            store.put(key, b"x")
        store.put("many/kept", b"x")
        store.delete_many(iter([*keys, "many/never-was"]))
        assert [key for key in keys if store.exists(key)] == []
        assert store.exists("many/kept")
        store.delete_many([])

    # -- ranges --------------------------------------------------------------------------------------

    def test_ranges(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 20_000  # 5 MB, so that stores which keep pieces cross several
        size = len(data)
        store.put("k", data)
        cases = [(0, None), (0, 0), (0, 1), (1, 2), (5, None), (100, 100), (size - 1, None), (size, None)]
        cases += [(size, size), (size, size + 10), (0, size + 10), (size - 5, size + 5)]
        cases += [(MIB - 1, MIB + 1), (MIB, 2 * MIB), (262_143, 3 * MIB + 5), (4096, 8192)]
        for start, stop in cases:
            assert bytes(store.get("k", start, stop)) == data[start:stop], (start, stop)

    @pytest.mark.parametrize(
        ("start", "stop"), [(11, None), (11, 12), (11, 11), (-1, None), (0, -1), (-3, -1), (5, 4)]
    )
    def test_ranges_that_make_no_sense(self, store: ObjectStore, start: int, stop: int | None) -> None:
        store.put("k", b"0123456789")
        with pytest.raises(InvalidRange):
            store.get("k", start, stop)

    def test_ranges_of_an_empty_object(self, store: ObjectStore) -> None:
        store.put("k", b"")
        assert bytes(store.get("k", 0, None)) == b""
        assert bytes(store.get("k", 0, 10)) == b""
        with pytest.raises(InvalidRange):
            store.get("k", 1)

    # -- failure -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [100_000, 12 * MIB])
    def test_a_put_that_fails_leaves_the_old_object(self, store: ObjectStore, size: int) -> None:
        store.put("k", b"old", metadata={"a": "1"})
        before = store.head("k")
        for key in ("k", "new/one"):
            source = BreakingFile(bytes(size), size // 2)
            with pytest.raises((OSError, StoreError)):
                store.put(key, source)
            assert source.broke
        assert bytes(store.get("k")) == b"old"
        assert store.head("k") == before
        assert not store.exists("new/one")
        if store.capabilities.listing:
            assert list(store.keys()) == ["k"]

    def test_closing_twice(self, store: ObjectStore) -> None:
        store.put("k", b"x")
        store.close()
        store.close()
