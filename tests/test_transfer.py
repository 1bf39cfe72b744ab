"""sync_stores, copy_store, clear_store: contents, whatever sizes and times say; bounded, and gone on with."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountstore import FanoutStore, clear_store, copy_store, sync_stores
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.s3 import BucketStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import (
    InvalidKey,
    NotFound,
    PartialFailure,
    PreconditionFailed,
    Unavailable,
    UsageError,
)
from mountstore.store import Capabilities, Data, ObjectStore
from mountstore.stores import GzipStore, PrefixStore, ValidatingStore
from mountstore.stores.reader import RANGE_BYTES
from mountstore.transfer import Compare, Stopped, TransferSummary, copy_object
from tests.servers import S3Server
from tests.stores.wrappers.stacks import BreakableStore

MIB = 1 << 20


def contents(store: ObjectStore, prefix: str = "") -> dict[str, bytes]:
    return {key: bytes(store.get(key)) for key in store.keys(prefix)}


def counts(done: TransferSummary) -> tuple[int, int, int]:
    return done.copied, done.unchanged, done.deleted


MAKERS: dict[str, Callable[[Path], ObjectStore]] = {
    "memory": lambda path: DictStore(),
    "sqlite": lambda path: SqliteStore(path.with_suffix(".sqlite"), durable=False),
    "files": lambda path: FilesystemStore(path, durable=False),
    "gzip": lambda path: GzipStore(DictStore(), level=1),
    "fanout": lambda path: FanoutStore([DictStore(), DictStore()]),
}


@pytest.fixture(params=[("memory", "sqlite"), ("sqlite", "files"), ("files", "gzip"), ("fanout", "memory")])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ObjectStore, ObjectStore]]:
    one, other = request.param
    with MAKERS[one](tmp_path / "source") as source, MAKERS[other](tmp_path / "target") as target:
        yield source, target


def test_contents_become_identical(pair: tuple[ObjectStore, ObjectStore]) -> None:
    source, target = pair
    source.put("same", b"same")
    target.put("same", b"same")
    source.put("changed", b"new value")
    target.put("changed", b"old value")  # of the same size, and put later
    source.put("shorter", b"a")
    target.put("shorter", b"abc")
    source.put("missing/ü", b"x", metadata={"mode": "33188"})
    source.put("missing/empty", b"")
    source.put("large", b"0123456789abcdef" * (MIB // 2))
    target.put("extra", b"is not at the source")
    target.put("zz", b"nor this")
    done = sync_stores(source, target)
    assert counts(done) == (5, 1, 0)
    assert done.copied_bytes == done.moved_bytes == 9 + 1 + 1 + 0 + 8 * MIB
    assert contents(target) == {**contents(source), "extra": b"is not at the source", "zz": b"nor this"}
    assert target.head("missing/ü").metadata == {"mode": "33188"}
    assert counts(sync_stores(source, target, True)) == (0, 6, 2)
    assert contents(target) == contents(source)
    assert counts(sync_stores(source, target, delete=True)) == (0, 6, 0)


def test_one_byte_in_the_middle_is_found() -> None:
    source, target = DictStore(), DictStore()
    data = bytearray(3 * RANGE_BYTES + 5)
    for place in (0, RANGE_BYTES, 2 * RANGE_BYTES + 7, len(data) - 1):
        source.put("k", data)
        target.put("k", data)
        data[place] ^= 1
        source.put("k", data)
        assert counts(sync_stores(source, target)) == (1, 0, 0)
        assert contents(target) == contents(source)


def test_size_and_mtime_read_nothing_and_can_miss_a_change() -> None:
    source, target = BreakableStore(), BreakableStore()
    source.put("k", b"new value")
    target.put("k", b"old value")
    source.calls.clear()
    assert counts(sync_stores(source, target, compare="size+mtime")) == (0, 1, 0)
    assert set(source.calls) <= {"list"}
    source.put("k", b"new again")
    assert counts(sync_stores(source, target, compare="size+mtime")) == (1, 0, 0)
    with pytest.raises(UsageError, match="content"):
        sync_stores(source, target, compare="etag")  # type: ignore[arg-type]


def test_a_dry_run_changes_nothing() -> None:
    source, target = DictStore(), BreakableStore()
    source.put("a", b"12345")
    source.put("b", b"x")
    target.put("b", b"y")
    target.put("c", b"z")
    target.calls.clear()
    done = sync_stores(source, target, delete=True, dry_run=True)
    assert counts(done) == (2, 0, 1)
    assert (done.copied_bytes, done.dry_run) == (6, True)
    assert set(target.calls) <= {"list", "get"}
    assert counts(clear_store(target, dry_run=True)) == (0, 0, 2)
    assert list(target.keys()) == ["b", "c"]


def test_copy_store_leaves_the_rest_alone_and_clear_store_empties() -> None:
    source, target = DictStore(), DictStore()
    for number in range(2500):
        source.put(f"a/{number:04}", b"%d" % number)
    target.put("b", b"stays")
    assert counts(copy_store(source, target)) == (2500, 0, 0)
    assert contents(target) == {**contents(source), "b": b"stays"}
    seen: list[TransferSummary] = []
    assert counts(clear_store(target, "a/", progress=seen.append)) == (0, 0, 2500)
    assert seen[-1].deleted == 2500
    assert list(target.keys()) == ["b"]
    assert counts(clear_store(target)) == (0, 0, 1)


def test_folders_of_stores() -> None:
    source, target = DictStore(), DictStore()
    for key in ("a/", "a/x", "a/y/z", "ab", "b/x"):
        source.put(key, key.encode())
    target.put("to/old", b"old")
    target.put("other", b"stays")
    done = sync_stores(source, target, delete=True, source_prefix="a/", target_prefix="to/")
    assert counts(done) == (3, 0, 1)
    assert contents(target) == {"to/": b"a/", "to/x": b"a/x", "to/y/z": b"a/y/z", "other": b"stays"}
    # The marker of the folder has no key where there is no folder.
    assert counts(copy_store(source, DictStore(), source_prefix="a/")) == (2, 0, 0)
    done = copy_store(source, source, source_prefix="a/", target_prefix="copy/")
    assert counts(done) == (3, 0, 0)
    assert bytes(source.get("copy/y/z")) == b"a/y/z"
    for one, other in (("a/", "a/b/"), ("", "x/"), ("a/y/", "a/")):
        with pytest.raises(UsageError, match="overlap"):
            sync_stores(source, source, source_prefix=one, target_prefix=other)


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    source, target = DictStore(), BreakableStore()
    for number in range(40):
        source.put(f"k{number:02}", b"%d" % number)
    stop = threading.Event()

    def progress(now: TransferSummary) -> None:
        if now.copied >= 10:
            stop.set()

    with pytest.raises(Stopped):
        sync_stores(source, target, progress=progress, stop=stop, workers=2)
    there = len(contents(target))
    assert 10 <= there < 40
    target.calls.clear()
    assert counts(sync_stores(source, target)) == (40 - there, there, 0)
    assert target.calls["put"] == 40 - there
    assert contents(target) == contents(source)


def test_what_fails_does_not_keep_the_rest_from_being_done() -> None:
    source, inner = DictStore(), DictStore()
    target = ValidatingStore(inner, "[a-z]+")
    for key in ("a", "B", "c", "D"):
        source.put(key, key.encode())
    with pytest.raises(PartialFailure, match=r"2 objects .* \(2 are done\)") as caught:
        sync_stores(source, target)
    assert sorted(key for key, _ in caught.value.failures) == ["B", "D"]
    assert all(isinstance(error, InvalidKey) for _, error in caught.value.failures)
    assert list(inner.keys()) == ["a", "c"]
    done = sync_stores(source, target, strict=False)
    assert (counts(done), len(done.failures)) == ((0, 2, 0), 2)
    assert (done.copied_bytes, done.moved_bytes) == (0, 2)


def test_a_target_that_is_down_is_given_up_soon() -> None:
    source, target = DictStore(), BreakableStore()
    for number in range(5000):
        source.put(f"{number:04}", b"x")
    target.broken = {"put"}
    with pytest.raises(PartialFailure) as caught:
        sync_stores(source, target)
    assert 100 <= len(caught.value.failures) < 300
    assert len(sync_stores(source, target, strict=False).failures) >= 100


def test_nothing_is_deleted_where_the_source_cannot_be_listed() -> None:
    class HalfListed(DictStore):
        def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Any:
            if after:
                raise Unavailable("the second page does not come")
            return super().list(prefix, delimiter=delimiter, after=after, limit=limit)

    source, target = HalfListed(), DictStore()
    for number in range(1500):
        source.put(f"{number:04}", b"")
        target.put(f"{number:04}", b"")
    with pytest.raises(Unavailable, match="second page"):
        sync_stores(source, target, delete=True)
    assert len(list(target.keys())) == 1500


def test_what_somebody_puts_meanwhile_is_not_deleted() -> None:
    class Late(DictStore):
        """Another version is put between the listing and the deletion."""

        late = False

        def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
            if not self.late:
                self.late = True
                self.put(key, b"put meanwhile")
            super().delete(key, missing_ok=missing_ok, if_match=if_match)

    target = Late()
    target.put("k", b"old")
    with pytest.raises(PartialFailure) as caught:
        sync_stores(DictStore(), target, delete=True)
    assert isinstance(caught.value.failures[0][1], PreconditionFailed)
    assert bytes(target.get("k")) == b"put meanwhile"
    assert counts(sync_stores(DictStore(), target, delete=True)) == (0, 0, 1)


class Changing(DictStore):
    """A store whose object is put anew, whole and of one letter, `changes` times while it is read."""

    def __init__(self, changes: int, *, conditional: bool) -> None:
        super().__init__()
        self.changes = changes
        if not conditional:
            self.capabilities = Capabilities(conditional_get=False, max_metadata_bytes=None)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        data = super().get(key, start, stop, if_match=if_match)
        if self.changes:
            self.changes -= 1
            self.put(key, b"%d" % self.changes * (2 * RANGE_BYTES + self.changes))
        return data


@pytest.mark.parametrize("conditional", [True, False])
def test_a_source_that_changes_is_read_as_one_version(conditional: bool) -> None:
    source = Changing(3, conditional=conditional)
    target = BreakableStore()
    source.put("k", b"x" * (2 * RANGE_BYTES))
    assert sync_stores(source, target).copied == 1
    assert contents(target) == {"k": b"0" * (2 * RANGE_BYTES)}
    assert source.changes == 0
    endless = Changing(10**6, conditional=conditional)
    endless.put("k", b"x" * (2 * RANGE_BYTES))
    with pytest.raises(PreconditionFailed):
        copy_object(endless, "k", target, "l")
    assert not target.exists("l")


def test_a_source_that_is_deleted_meanwhile_is_no_error() -> None:
    class Vanishing(DictStore):
        def head(self, key: str) -> Any:
            self.delete("b", missing_ok=True)
            return super().head(key)

    source, target = Vanishing(), DictStore()
    source.put("a", b"1")
    source.put("b", b"2")
    assert sync_stores(source, target, workers=1).copied == 1
    assert list(target.keys()) == ["a"]
    with pytest.raises(NotFound):
        copy_object(source, "b", target, "c")


def test_objects_go_side_by_side() -> None:
    class Meeting(DictStore):
        """Each put waits for three others."""

        together = threading.Barrier(4, timeout=30)

        def put(self, key: str, data: Any, **options: Any) -> Any:
            self.together.wait()
            return super().put(key, data, **options)

    source, target = DictStore(), Meeting()
    for number in range(16):
        source.put(f"{number}", b"%d" % number)
    assert counts(copy_store(source, target, workers=4)) == (16, 0, 0)
    assert contents(target) == contents(source)


def test_memory_is_bounded(tmp_path: Path) -> None:
    size = 48 * MIB
    with (
        FilesystemStore(tmp_path / "source", durable=False) as source,
        FilesystemStore(tmp_path / "target", durable=False) as target,
    ):
        with (tmp_path / "source" / "large").open("wb") as file:
            for number in range(48):
                file.write(bytes([number]) * MIB)
        for number in range(3):
            source.copy("large", f"large{number}")
        seen: list[TransferSummary] = []
        for expected in ((4, 0, 0), (0, 4, 0)):
            tracemalloc.start()
            try:
                done = sync_stores(source, target, workers=4, progress=seen.append)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert counts(done) == expected
            assert peak < 4 * 4 * RANGE_BYTES + 8 * MIB
            assert target.head("large2").size == size
        # Progress comes while an object is on its way, and never goes back.
        moved = [now.moved_bytes for now in seen if now.copied == 0 and now.unchanged == 0]
        assert len(moved) > 4
        assert moved == sorted(moved)


def test_equal_md5_etags_are_proof_and_cost_no_reading(versitygw: S3Server, tmp_path: Path) -> None:
    client = versitygw.client()
    with (
        BucketStore(versitygw.new_bucket(), client=client) as one,
        BucketStore(versitygw.new_bucket(), client=client) as other,
        FilesystemStore(tmp_path / "files", durable=False) as files,
    ):
        for number in range(20):
            one.put(f"d/k{number:02}", b"value %d" % number, metadata={"n": str(number)})
        one.put("large", bytes(9 * MIB))  # in parts: no MD5 of its content
        assert sync_stores(one, other).copied == 21
        before = one.requests.get("GET", 0) + other.requests.get("GET", 0)
        assert counts(sync_stores(one, other)) == (0, 21, 0)
        assert one.requests.get("GET", 0) + other.requests.get("GET", 0) == before
        assert counts(sync_stores(one, other, compare="bytes")) == (0, 21, 0)
        assert one.requests["GET"] + other.requests["GET"] > before + 40
        # Against files, only the files are read, but for what went up in parts.
        assert sync_stores(one, files).copied == 21
        before = one.requests["GET"]
        assert counts(sync_stores(one, files)) == (0, 21, 0)
        assert one.requests["GET"] <= before + 3
        files.put("d/k07", b"value X")
        assert counts(sync_stores(files, one)) == (1, 20, 0)
        assert bytes(one.get("d/k07")) == b"value X"
        assert sync_stores(one, other, delete=True).copied == 1
        assert contents(other) == contents(files)


@pytest.mark.parametrize("compare", ["content", "bytes"])
def test_stores_of_many_objects(compare: Compare, tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "s.sqlite", durable=False) as source:
        target = PrefixStore(DictStore(), "p/")
        for number in range(3000):
            source.put(f"{number % 50}/{number}", b"%d" % number)
            if number % 3:
                target.put(f"{number % 50}/{number}", b"%d" % (number if number % 5 else number + 1))
        done = sync_stores(source, target, delete=True, compare=compare)
        assert done.copied + done.unchanged == 3000
        assert 1000 < done.copied < 2000
        assert contents(target) == contents(source)
