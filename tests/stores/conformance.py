"""The words of `mountstore.store`, as tests that every store is held to.

A backend's test file is a few lines::

    class TestDictStore(StoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            with DictStore() as store:
                yield store

The store must be empty when the fixture hands it over. A store whose data outlive the object derives
from `PersistentStoreConformance` and gives a `reopen` fixture too. What is left out is left out by
`store.capabilities`, never by name. Hooks to override, each for a reason that the override states:

- `odd_keys`, `key_sets`: the keys tried. `can_hold(store, key)` says which of them the store holds; a
  key that it cannot hold must be refused with InvalidKey, and nothing else. By default the limits of
  the capabilities decide.
- `key_characters`: the alphabet of the model test's keys.
- `peak_put_bytes`: the most that Python may allocate while a 64 MiB file is put; None if a store has
  to hold it.
- `examples`: how many sequences the model test tries; None lets capabilities.local decide.

Rules that the contract leaves to the suite:

- Metadata keys are lower case ASCII (letters, digits, `-`), values printable ASCII without blanks at
  their ends: what every store can carry as it is. A store without metadata drops it: the put is done,
  and `head` tells {}. `update_metadata` there is Unsupported.
- Metadata beyond `max_metadata_bytes` is refused with Unsupported, and nothing is changed.
- An entry of a listing (a key or a group) is left out if its name sorts at or before `after`; so
  `after="d/x"` leaves out the group `d/`, though `d/y` lies behind.
- A condition on an object that is not there: put with if_match is PreconditionFailed; get, copy and
  delete with if_match are NotFound (delete with missing_ok is done).
- The empty key and keys with lone surrogates are InvalidKey for every store.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountstore.errors import (
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from mountstore.store import ObjectStore, Page

MIB = 1 << 20

ODD_KEYS = [
    "a b",
    " ",
    "%",
    "%2F",
    "100%25",
    "a+b&c=d?e#f",
    "back\\slash",
    "*?[x]",
    "\"quoted\" 'too'",
    "<&>;|$(x)`",
    "~",
    ".hidden",
    "..dots",
    "...",
    "new\nline",
    "carriage\rreturn",
    "tab\tbell\x07esc\x1b",
    "\x01",
    "del\x7f",
    "nul\x00byte",
    "é",
    "e\u0301",
    "日本語/ファイル",
    "\U0001f600",
    "\uffff",
    "\ufeffbom",
    "Case",
    "case",
    "../x",
    "../../../../x",
    "..",
    ".",
    "./x",
    "x/.",
    "x/..",
    "x/../y",
    "/abs",
    "/",
    "//",
    "a//b",
    "a///b",
    "dir/",
    "dir//",
    "/lead/",
    "s" * 255,
    "s" * 256,
    "p/" + "s" * 300,
    "é" * 150,
    "k" * 1000,
    "/".join(["seg"] * 250),
]

KEY_SETS = [
    ["a", "a/b"],
    ["a", "a/b", "a/b/c", "a/b/c/d"],
    ["dir", "dir/"],
    ["dir", "dir/", "dir/x", "dir//", "dir//x"],
    ["a/b", "a//b", "/a/b", "a/b/", "a/./b", "a/../b"],
    ["x", "X", "é", "e\u0301"],
    ["s" * 300, "s" * 300 + "/x", "s" * 301],
]


def key_order(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: key.encode())


def expected_entries(keys: Iterable[str], prefix: str, delimiter: str, after: str) -> list[tuple[str, bool]]:
    """What a listing must give: (name, whether it is a group), in order. The words, not an algorithm."""
    entries = set()
    for key in keys:
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            entries.add((key, False) if at < 0 else (key[: at + len(delimiter)], True))
    return sorted(
        (entry for entry in entries if entry[0].encode() > after.encode()),
        key=lambda entry: entry[0].encode(),
    )


def page_entries(page: Page) -> list[tuple[str, bool]]:
    names = [info.key for info in page.objects]
    assert names == key_order(names)
    assert page.prefixes == key_order(page.prefixes)
    entries = [(name, False) for name in names] + [(name, True) for name in page.prefixes]
    return sorted(entries, key=lambda entry: entry[0].encode())


def listed_entries(
    store: ObjectStore, prefix: str = "", delimiter: str = "", after: str = "", limit: int = 1000
) -> list[tuple[str, bool]]:
    """All entries by `list`, page after page; and the same by `pages`."""
    entries: list[tuple[str, bool]] = []
    cursor: str | None = after
    while cursor is not None:
        page = store.list(prefix, delimiter=delimiter, after=cursor, limit=limit)
        found = page_entries(page)
        assert len(found) <= limit
        assert not (entries and found and found[0][0].encode() <= entries[-1][0].encode()), "pages overlap"
        assert page.after is None or page.after.encode() > cursor.encode(), "a listing that does not advance"
        entries += found
        cursor = page.after
    again: list[tuple[str, bool]] = []
    for page in store.pages(prefix, delimiter=delimiter, after=after, limit=limit):
        found = page_entries(page)
        assert len(found) <= limit
        again += found
    assert again == entries
    return entries


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """`work(0)` ... `work(count - 1)`, started together, each in a thread; their results."""
    barrier = threading.Barrier(count, timeout=60)

    def run(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class BreakingFile(io.BytesIO):
    """A file whose disk fails once `limit` bytes were read."""

    def __init__(self, data: bytes, limit: int) -> None:
        super().__init__(data)
        self.limit = limit
        self.broke = False

    def _check(self, size: int) -> None:
        if size < 0 or self.tell() + size > self.limit:
            self.broke = True
            raise OSError(5, "the source cannot be read")

    def read(self, size: int | None = -1, /) -> bytes:
        self._check(-1 if size is None else size)
        return super().read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        self._check(len(buffer))
        return super().readinto(buffer)

    def getbuffer(self) -> memoryview:
        raise OSError(5, "the source cannot be read")

    def getvalue(self) -> bytes:
        raise OSError(5, "the source cannot be read")


class StoreConformance:
    """Subclass, and override `store`. See the module's docstring."""

    odd_keys: list[str] = ODD_KEYS
    key_sets: list[list[str]] = KEY_SETS
    key_characters: str = "ab/-0.\u00e9\uffff\U0001f600"
    peak_put_bytes: int | None = 40 * MIB
    examples: int | None = None

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        raise NotImplementedError("override the `store` fixture")

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        limits = store.capabilities
        if limits.max_key_bytes is not None and len(key.encode()) > limits.max_key_bytes:
            return False
        longest = max(len(segment.encode()) for segment in key.split("/"))
        return limits.max_segment_bytes is None or longest <= limits.max_segment_bytes

    @staticmethod
    def need(store: ObjectStore, *names: str) -> None:
        for name in names:
            if not getattr(store.capabilities, name):
                pytest.skip(f"the store has no {name}")

    # -- round trips ------------------------------------------------------------------------------

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

    # -- what is not there ------------------------------------------------------------------------

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

    # -- ranges -----------------------------------------------------------------------------------

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

    # -- conditions -------------------------------------------------------------------------------

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

    # -- metadata ---------------------------------------------------------------------------------

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

    # -- copy and rename --------------------------------------------------------------------------

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

    # -- listing ----------------------------------------------------------------------------------

    def fill(self, store: ObjectStore, keys: Iterable[str]) -> None:
        for key in keys:
            store.put(key, key.encode())

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

    # -- odd keys ---------------------------------------------------------------------------------

    def test_odd_keys(self, store: ObjectStore) -> None:
        held = []
        for key in self.odd_keys:
            if not self.can_hold(store, key):
                with pytest.raises(InvalidKey):
                    store.put(key, b"x")
                with pytest.raises((InvalidKey, NotFound)):
                    store.get(key)
                continue
            assert not store.exists(key), key
            info = store.put(key, b"is " + key.encode(), metadata={"n": "1"})
            assert info.key == key
            held.append(key)
        for key in held:
            assert bytes(store.get(key)) == b"is " + key.encode(), key
            assert bytes(store.get(key, 3, 4)) == key.encode()[:1]
            assert store.head(key).key == key
        if store.capabilities.listing:
            assert list(store.keys()) == key_order(held)
            assert listed_entries(store, "", "/", limit=4) == expected_entries(held, "", "/", "")
            for prefix in ("/", "a/", "dir/", "x/", "../", "s" * 255, "nul\x00"):
                if self.can_hold(store, prefix):
                    assert listed_entries(store, prefix, "/") == expected_entries(held, prefix, "/", "")
        for key in held:
            store.rename(key, "renamed")
            assert not store.exists(key), key
            store.copy("renamed", key)
            assert bytes(store.get(key)) == b"is " + key.encode()
        store.delete("renamed", missing_ok=True)
        for number, key in enumerate(held):
            store.delete(key)
            assert not store.exists(key), key
            assert [other for other in held[number + 1 :] if not store.exists(other)] == []
        if store.capabilities.listing:
            assert list(store.keys()) == []

    def test_keys_that_must_not_be_confused(self, store: ObjectStore) -> None:
        for keys in self.key_sets:
            for order in (keys, keys[::-1]):
                held = [key for key in order if self.can_hold(store, key)]
                for key in held:
                    store.put(key, b"is " + key.encode())
                for key in held:
                    assert bytes(store.get(key)) == b"is " + key.encode()
                if store.capabilities.listing:
                    assert list(store.keys()) == key_order(held)
                    for key in held:
                        assert listed_entries(store, key, "/") == expected_entries(held, key, "/", "")
                for number, key in enumerate(held):
                    store.delete(key)
                    assert [other for other in held if store.exists(other)] == held[number + 1 :]

    @pytest.mark.parametrize("key", ["", "lone\ud800", "\udcff"])
    def test_what_is_no_key_at_all(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(InvalidKey) as caught:
            store.put(key, b"x")
        assert isinstance(caught.value, ValueError)
        for call in (store.get, store.head, store.delete):
            with pytest.raises((InvalidKey, NotFound)):
                call(key)
        if store.capabilities.listing:
            assert list(store.keys()) == []

    # -- several at once --------------------------------------------------------------------------

    def rounds(self, store: ObjectStore) -> int:
        return 60 if store.capabilities.local else 12

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

    # -- failure ----------------------------------------------------------------------------------

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

    # -- against a model --------------------------------------------------------------------------

    def test_it_behaves_like_a_dictionary(self, store: ObjectStore) -> None:
        count = self.examples if self.examples is not None else (60 if store.capabilities.local else 6)
        clash = any("a" in keys and "a/b" in keys for keys in self.key_sets)
        key = st.text(alphabet=self.key_characters, min_size=1, max_size=6)
        verb = st.sampled_from(["put", "put", "put", "delete", "copy", "rename"])
        steps = st.lists(st.tuples(verb, key, key, st.binary(max_size=20)), min_size=1, max_size=12)
        views = st.lists(
            st.tuples(
                key | st.just(""), st.sampled_from(["", "/", "/", "-"]), key | st.just(""), st.integers(1, 4)
            ),
            min_size=1,
            max_size=4,
        )

        def clashes(name: str, model: dict[str, bytes]) -> bool:
            return not clash and any(
                other.startswith(name + "/") or name.startswith(other + "/")
                for other in model
                if other != name
            )

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(steps, views)
        def check(
            sequence: list[tuple[str, str, str, bytes]], listings: list[tuple[str, str, str, int]]
        ) -> None:
            model: dict[str, bytes] = {}
            try:
                for action, one, two, data in sequence:
                    if not self.can_hold(store, one) or not self.can_hold(store, two):
                        continue
                    if clashes(one, model) or clashes(two, model) or clashes(one, {two: b""}):
                        continue
                    if action == "put":
                        store.put(one, data)
                        model[one] = data
                    elif one not in model:
                        with pytest.raises(NotFound):
                            store.delete(one) if action == "delete" else getattr(store, action)(one, two)
                    elif action == "delete":
                        store.delete(one)
                        del model[one]
                    else:
                        getattr(store, action)(one, two)
                        model[two] = model[one] if action == "copy" else model.pop(one)
                for name, data in model.items():
                    assert bytes(store.get(name)) == data
                if store.capabilities.listing:
                    assert list(store.keys()) == key_order(model)
                    for prefix, delimiter, after, limit in listings:
                        got = listed_entries(store, prefix, delimiter, after, limit)
                        assert got == expected_entries(model, prefix, delimiter, after)
            finally:
                store.delete_many(list(model))
            if store.capabilities.listing:
                assert list(store.keys()) == []

        check()


class PersistentStoreConformance(StoreConformance):
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
