"""The verbs below Store, over memory, files, SQLite and S3: names, ranges, streams, folders, life."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.memory import DictStore
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    Corrupted,
    InvalidName,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
)
from mountstore.namespaces.backend import FolderTarget, NamespaceBackend, Target
from mountstore.namespaces.errors import UnknownAlgorithm
from mountstore.namespaces.items import ItemInfo

MIB = 1 << 20


@pytest.fixture
def backend(target: Target) -> Iterator[NamespaceBackend]:
    made = NamespaceBackend(target)
    made.create()
    with made:
        yield made


def names(items: Iterator[ItemInfo]) -> list[tuple[str, bool]]:
    return [(item.name, item.directory) for item in items]


# -- life -------------------------------------------------------------------------------------------------


def test_life(target: Target) -> None:
    backend = NamespaceBackend(target)
    with pytest.raises(BackendDoesNotExist):
        backend.open()
    with pytest.raises(BackendDoesNotExist):
        backend.destroy()
    backend.create()
    with pytest.raises(BackendMustBeOpen):
        backend.close()
    with pytest.raises(BackendMustBeOpen):
        backend.load("a")
    backend.open()
    for verb in (backend.open, backend.create, backend.destroy):
        with pytest.raises(BackendMustNotBeOpen):
            verb()
    assert names(backend.list()) == []
    backend.store("a/b", b"x")
    backend.close()
    with pytest.raises(BackendAlreadyExists):
        backend.create()
    with NamespaceBackend(target) as again:
        assert again.load("a/b") == b"x"
    backend.destroy()
    with pytest.raises(BackendDoesNotExist):
        backend.open()
    backend.create()
    with backend:
        assert names(backend.list()) == []


def test_an_empty_folder_can_be_created_in_and_a_full_one_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    NamespaceBackend(FolderTarget(tmp_path / "empty")).create()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    with pytest.raises(BackendAlreadyExists, match="not empty"):
        NamespaceBackend(FolderTarget(tmp_path / "full")).create()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackendAlreadyExists, match="no folder"):
        NamespaceBackend(FolderTarget(tmp_path / "file")).create()


def test_links_lead_out_of_no_folder(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "store")
    NamespaceBackend(target).create()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "store" / "data").symlink_to(tmp_path / "outside")
    with NamespaceBackend(target) as backend:
        with pytest.raises(NotFound):
            backend.load("data/secret")
        assert not backend.info("data/secret").exists
        with pytest.raises(NotFound):
            backend.delete("data/secret")
    NamespaceBackend(target).destroy()
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"


# -- names ------------------------------------------------------------------------------------------------

BAD = ["..", "a/../b", "a..b", ".", "./a", "a/.", "/a", "a/", "a\\b", "a b", "a\nb", "a\0b", "A", "ü"]
BAD += ["x.tmp", "a/x.hid", "x" * 101, ""]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_by_every_verb(name: str) -> None:
    backend = NamespaceBackend(DictStore())
    backend.create()
    verbs: list[Callable[[], Any]] = [
        lambda: backend.load(name),
        lambda: backend.read(name),
        lambda: backend.store(name, b""),
        lambda: backend.delete(name),
        lambda: backend.move(name, "ok"),
        lambda: backend.move("ok", name),
        lambda: backend.hash(name),
        lambda: backend.mkdir(name),
        lambda: backend.rmdir(name),
        lambda: backend.gather([(name, 0, 1)]),
        lambda: backend.defrag([(name, 0, 1)], target="ok"),
        lambda: backend.defrag([], target=name),
    ]
    if name:
        verbs += [lambda: backend.info(name), lambda: backend.list(name)]
    with backend:
        for verb in verbs:
            with pytest.raises(InvalidName):
                verb()


def test_the_longest_name_and_odd_ones(backend: NamespaceBackend) -> None:
    for name in ("x" * 100, "data/%41", "data/x*?", "data/x:y", "a.del", "ns/~x", "data/1//1"):
        backend.store(name, name.encode())
        assert backend.load(name) == name.encode()


# -- content ----------------------------------------------------------------------------------------------

RANGES: list[tuple[dict[str, Any], bytes]] = [
    ({}, b"0123456789"),
    ({"size": 0}, b""),
    ({"size": 3}, b"012"),
    ({"size": 99}, b"0123456789"),
    ({"offset": 3}, b"3456789"),
    ({"offset": 3, "size": 2}, b"34"),
    ({"offset": 8, "size": 5}, b"89"),
    ({"offset": 10}, b""),
    ({"offset": 11}, b""),
    ({"offset": 99, "size": 5}, b""),
    ({"offset": -3}, b"789"),
    ({"offset": -3, "size": 2}, b"78"),
    ({"offset": -10}, b"0123456789"),
    ({"offset": -99}, b"0123456789"),
    ({"offset": -99, "size": 3}, b"012"),
    ({"offset": -3, "size": 0}, b""),
]


def test_ranges(backend: NamespaceBackend) -> None:
    backend.store("ns/x", b"0123456789")
    for wanted, data in RANGES:
        assert bytes(backend.load("ns/x", **wanted)) == data, wanted
        reading = backend.read("ns/x", **wanted)
        assert b"".join(reading.pieces) == data, wanted
        assert (reading.total, reading.stop - reading.start) == (10, len(data))
    with pytest.raises(InvalidRange):
        backend.load("ns/x", size=-1)
    for wanted, _ in RANGES:
        with pytest.raises(NotFound):
            backend.load("ns/missing", **wanted)


def test_info(backend: NamespaceBackend) -> None:
    backend.store("ns/x", b"abc")
    info = backend.info("ns/x")
    assert info[:4] == ("x", True, 3, False)
    assert info.mtime > 1_500_000_000
    assert backend.info("ns/y") == ("y", False, 0, False, 0, 0)
    assert backend.info("ns")[:4] == ("ns", True, 0, True)
    assert backend.info("n").exists is False
    assert backend.info("").directory


def test_delete_and_move(backend: NamespaceBackend) -> None:
    backend.store("ns/x", b"1")
    backend.store("ns/y", b"2")
    backend.move("ns/x", "other/z")
    backend.move("ns/y", "other/z")
    assert backend.load("other/z") == b"2"
    with pytest.raises(NotFound):
        backend.move("ns/x", "ns/y")
    with pytest.raises(NotFound):
        backend.delete("ns/x")
    backend.delete("other/z")
    assert not backend.info("other/z").exists


class Pipe(io.RawIOBase):
    """A stream that cannot be sought, as a socket is one."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[:70_000])


def test_streams_and_their_checks(backend: NamespaceBackend) -> None:
    data = bytes(range(256)) * 12_000
    right, wrong = hashlib.sha256(data).hexdigest(), "0" * 64
    for number, size in enumerate((None, len(data))):
        backend.store(f"ns/{number}", Pipe(data), size=size, sha256=right)  # type: ignore[arg-type]
        assert backend.load(f"ns/{number}") == data
        for name in ("ns/new", f"ns/{number}"):
            with pytest.raises(Corrupted):
                backend.store(name, Pipe(data[:-1] + b"x"), size=size, sha256=right)  # type: ignore[arg-type]
    with pytest.raises(Corrupted):
        backend.store("ns/new", data, sha256=wrong)
    with pytest.raises(Corrupted, match="bytes came of"):
        backend.store("ns/new", Pipe(data[:-5]), size=len(data))  # type: ignore[arg-type]
    assert backend.load("ns/1") == data
    assert names(backend.list("ns")) == [("0", False), ("1", False)]
    backend.store("ns/empty", Pipe(b""), size=0, sha256=hashlib.sha256().hexdigest())  # type: ignore[arg-type]
    assert backend.load("ns/empty") == b""


def test_no_verb_holds_large_content(tmp_path: Path) -> None:
    backend = NamespaceBackend(FolderTarget(tmp_path / "store", durable=False), quota_bytes=1 << 30)
    backend.create()
    with backend, open(tmp_path / "big", "w+b") as file:
        file.truncate(64 * MIB)
        tracemalloc.start()
        try:
            backend.store("ns/big", file, size=64 * MIB, sha256=_sha256_of_zeros(64 * MIB))
            file.seek(0)
            backend.store("ns/copy", file)
            assert backend.hash("ns/big") == _sha256_of_zeros(64 * MIB)
            assert sum(len(piece) for piece in backend.read("ns/big").pieces) == 64 * MIB
            size, pieces = backend.gather_reading([("ns/big", 1, 30 * MIB), ("ns/copy", -30 * MIB, 30 * MIB)])
            assert sum(len(piece) for piece in pieces) == size == 60 * MIB
            backend.defrag([("ns/big", 1, 30 * MIB), ("ns/copy", -30 * MIB, 30 * MIB)], target="ns/new")
            assert backend.info("ns/new").size == 60 * MIB
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 24 * MIB


def _sha256_of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    return digest.hexdigest()


# -- listing and folders ------------------------------------------------------------------------------------


def test_listing_is_of_one_folder(backend: NamespaceBackend) -> None:
    for name in ("ns/b", "ns/a/1", "ns/a/2", "ns/c/d/e", "top", "ns/b.del"):
        backend.store(name, b"x")
    assert names(backend.list("ns")) == [("a", True), ("b", False), ("b.del", False), ("c", True)]
    assert names(backend.list("ns/a")) == [("1", False), ("2", False)]
    assert names(backend.list()) == [("ns", True), ("top", False)]
    assert {item.size for item in backend.list("ns/a")} == {1}
    for missing in ("nope", "ns/nope", "n"):
        with pytest.raises(NotFound):
            backend.list(missing)


def test_more_folders_than_a_page_holds_are_all_listed() -> None:
    store = DictStore()
    backend = NamespaceBackend(store)
    backend.create()
    with backend:
        for number in range(2500):
            backend.store(f"ns/{number:04}/x", b"")
        assert len(names(backend.list("ns"))) == 2500


def test_unfinished_and_hidden_objects_are_not_listed() -> None:
    store = DictStore()
    for key in ("ns/x.tmp", "ns/y.hid", "quota.hid", "ns/z"):
        store.put(key, b"")
    with NamespaceBackend(store) as backend:
        assert names(backend.list("ns")) == [("z", False)]
        assert names(backend.list()) == [("ns", True)]


def test_folders(backend: NamespaceBackend) -> None:
    backend.mkdir("e")
    backend.mkdir("e")
    assert names(backend.list("e")) == []
    assert names(backend.list()) == [("e", True)]
    assert backend.info("e").directory
    backend.rmdir("e")
    with pytest.raises(NotFound):
        backend.rmdir("e")
    with pytest.raises(NotFound):
        backend.list("e")
    backend.store("f/x", b"")
    with pytest.raises(PreconditionFailed):
        backend.rmdir("f")


def test_a_folder_of_files_is_a_folder(tmp_path: Path) -> None:
    backend = NamespaceBackend(FolderTarget(tmp_path / "store"))
    backend.create()
    with backend:
        backend.mkdir("a/b")
        assert [*(tmp_path / "store" / "a").iterdir()] == [tmp_path / "store" / "a" / "b"]
        assert [*(tmp_path / "store" / "a" / "b").iterdir()] == []


# -- hash, gather, defrag -----------------------------------------------------------------------------------


def test_hash(backend: NamespaceBackend) -> None:
    backend.store("ns/x", b"hello")
    assert backend.hash("ns/x") == hashlib.sha256(b"hello").hexdigest()
    assert backend.hash("ns/x", "md5") == hashlib.md5(b"hello").hexdigest()
    with pytest.raises(NotFound):
        backend.hash("ns/y")
    for unknown in ("nope", "shake_128", ""):
        with pytest.raises(UnknownAlgorithm):
            backend.hash("ns/x", unknown)


def test_gather_and_defrag(backend: NamespaceBackend) -> None:
    backend.store("ns/a", b"0123456789")
    backend.store("ns/b", b"abcdefghij")
    pieces = [("ns/a", 2, 3), ("ns/b", 0, 4), ("ns/a", 2, 1), ("ns/a", -3, 2), ("ns/b", 10, 0)]
    whole = b"234abcd278"
    assert backend.gather(pieces) == whole
    assert backend.gather([]) == b""
    size, parts = backend.gather_reading(pieces)
    assert (size, b"".join(parts)) == (len(whole), whole)
    assert backend.defrag(pieces, target="ns/t") == "ns/t"
    digest = hashlib.sha256(whole).hexdigest()
    nested = f"ns/{digest[:2]}/{digest[2:4]}/{digest}"
    assert backend.defrag(pieces, algorithm="sha256", namespace="ns", levels=2) == nested
    assert backend.defrag(pieces, algorithm="sha256") == digest
    for name in ("ns/t", nested, digest):
        assert backend.load(name) == whole
    for beyond in (("ns/a", 2, 9), ("ns/a", 11, 1), ("ns/a", -11, 1), ("ns/a", -2, 3)):
        with pytest.raises(RangeNotSatisfiable):
            backend.gather([beyond])
        with pytest.raises(RangeNotSatisfiable):
            backend.gather_reading([beyond])
        with pytest.raises(RangeNotSatisfiable):
            backend.defrag([beyond], target="n")
    assert not backend.info("n").exists
    with pytest.raises(NotFound):
        backend.gather([("ns/missing", 0, 1)])
    with pytest.raises(InvalidName):
        backend.defrag(pieces)
    for malformed in (
        ("ns/a", 1),
        ("ns/a", 1, -1),
        ("ns/a", "1", 1),
        ("ns/a", 1, True),
        ("ns/a", 1, None),
        5,
    ):
        with pytest.raises(InvalidRange):
            backend.gather([malformed])


# -- quota and permissions --------------------------------------------------------------------------------


def test_a_quota_is_told_before_the_stream_is_read(target: Target) -> None:
    backend = NamespaceBackend(target, quota_bytes=100)
    backend.create()
    with backend:
        backend.store("ns/a", b"x" * 60)
        assert backend.quota() == {"limit": 100, "usage": 60}
        unread = io.BytesIO(b"x" * 60)
        with pytest.raises(QuotaExceeded):
            backend.store("ns/b", unread, size=60)
        assert unread.tell() == 0
        backend.store("ns/a", io.BytesIO(b"x" * 99), size=99)
        assert backend.quota()["usage"] == 99
        with pytest.raises(QuotaExceeded):
            backend.store("ns/b", io.BytesIO(b"xy"))
        with pytest.raises(QuotaExceeded):
            backend.defrag([("ns/a", 0, 2)], target="ns/b")
    with NamespaceBackend(target, quota_bytes=100) as again:
        assert again.quota() == {"limit": 100, "usage": 99}
    with NamespaceBackend(target) as without:
        assert without.quota() == {"limit": -1, "usage": -1}


def test_permissions(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path / "store")
    NamespaceBackend(target).create()
    with NamespaceBackend(target) as backend:
        backend.store("ns/old", b"old")
    with NamespaceBackend(target, permissions={"": "lr", "ns": "lrw"}) as backend:
        backend.store("ns/new", io.BytesIO(b"new"), size=3)
        unread = io.BytesIO(b"x")
        denied: list[Callable[[], Any]] = [
            lambda: backend.store("ns/old", unread, size=1),
            lambda: backend.store("ns/old", b"x"),
            lambda: backend.store("else/x", b"x"),
            lambda: backend.delete("ns/old"),
            lambda: backend.move("ns/old", "ns/old.del"),
            lambda: backend.mkdir("else"),
            lambda: backend.defrag([("ns/old", 0, 1)], target="ns/new"),
        ]
        for verb in denied:
            with pytest.raises(AccessDenied):
                verb()
        assert unread.tell() == 0
        assert backend.load("ns/old") == b"old"
        backend.mkdir("ns/folder")
        backend.rmdir("ns/folder")
    with pytest.raises(AccessDenied):
        NamespaceBackend(target, permissions={"": "lrwW"}).destroy()


def test_a_store_that_is_given_stays_open() -> None:
    store = DictStore()
    backend = NamespaceBackend(store)
    backend.create()
    with backend:
        backend.store("ns/x", b"x")
    assert store.get("ns/x") == b"x"


def test_what_is_stored_in_a_folder_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    backend = NamespaceBackend(FolderTarget(tmp_path / "store"))
    backend.create()
    with backend:
        synced.clear()
        backend.store("ns/x", b"content")
    assert str(tmp_path / "store" / "ns") in synced
    assert any(".mountstore~tmp" in path for path in synced)
