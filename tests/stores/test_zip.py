"""ZipStore: the contract, and what an archive that anybody may read or have made promises beyond."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mountstore import open_store
from mountstore.backends import _zip_archive, _zip_content
from mountstore.backends._zip_format import Entry, placed_at
from mountstore.backends._zip_records import central_record, end_records, local_header, new_entry
from mountstore.backends.zip import ZipStore
from mountstore.errors import (
    BadUrl,
    Corrupted,
    InvalidKey,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unsupported,
    UsageError,
)
from mountstore.store import ObjectStore
from tests.stores.conformance import MIB, PersistentStoreConformance, in_threads
from tests.stores.files import open_descriptors

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class TestZipStore(PersistentStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with ZipStore(tmp_path / "store.zip", durable=False) as store:
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return lambda: ZipStore(tmp_path / "store.zip", durable=False)


class TestCompressingZipStore(TestZipStore):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with ZipStore(tmp_path / "store.zip", durable=False, compress=True) as store:
            yield store


class TestDurableZipStore(TestZipStore):
    examples = 3

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with ZipStore(tmp_path / "store.zip") as store:
            yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.zip"


@pytest.fixture
def store(path: Path) -> Iterator[ZipStore]:
    with ZipStore(path, durable=False) as store:
        yield store


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# -- to and from other programs -----------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_other_programs_read_what_is_put(path: Path, compress: bool) -> None:
    objects = {"a.txt": b"a" * 1000, "d/é ü.bin": noise(70_000), "d/": b"", "empty": b""}
    with ZipStore(path, compress=compress) as store:
        for key, data in objects.items():
            store.put(key, b"old" + data, metadata={"x": "y"})
        store.copy("a.txt", "copied")
        store.rename("copied", "renamed é", if_match=store.head("copied").etag)
        for key, data in objects.items():
            store.put(key, data, metadata={"mode": "33152", "mtime": "1.5"})
        store.update_metadata("renamed é", {"mode": f"0{stat.S_IFREG | 0o600:o}"})
        store.delete("empty")
    del objects["empty"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted([*objects, "renamed é"])
        for key, data in objects.items():
            assert archive.read(key) == data
        assert archive.read("renamed é") == b"old" + objects["a.txt"]
        assert archive.getinfo("renamed é").external_attr >> 16 == stat.S_IFREG | 0o600
        assert archive.getinfo("d/").is_dir()
        compressed = archive.getinfo("a.txt").compress_type == zipfile.ZIP_DEFLATED
        assert compressed == compress
    subprocess.run([sys.executable, "-m", "zipfile", "-t", str(path)], check=True, timeout=60)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("in_front", [b"", b"#!/bin/sh\nexit 0\n"])
def test_what_other_programs_made_is_read_and_kept(path: Path, method: int, in_front: bytes) -> None:
    data = noise(300_000) + bytes(300_000)
    with path.open("wb") as file:
        file.write(in_front)

        class Stream(io.RawIOBase):  # one that cannot seek, so that sizes follow the members
            def writable(self) -> bool:
                return True

            def write(self, given: Buffer, /) -> int:
                return file.write(given)

        with zipfile.ZipFile(Stream(), "w", method) as archive:
            archive.comment = b"a comment"
            archive.writestr("one", data)
            archive.writestr("d/two é", b"two")
            archive.writestr("gone", b"x" * 1000)
            archive.writestr("last", b"last")
    with ZipStore(path) as store:
        assert list(store.keys()) == ["d/two é", "gone", "last", "one"]
        assert bytes(store.get("one")) == data
        assert bytes(store.get("one", 299_990, 300_010)) == data[299_990:300_010]
        before = {key: store.head(key) for key in store.keys()}
        store.delete("gone")
        store.put("new", b"new")
        store.rename("last", "renamed")
        assert store.head("one") == before["one"]
        assert store.head("renamed").etag == before["last"].etag
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment == b"a comment"
        assert sorted(archive.namelist()) == ["d/two é", "new", "one", "renamed"]
        assert (archive.read("one"), archive.read("renamed")) == (data, b"last")
    assert path.read_bytes().startswith(in_front)


def test_members_of_one_name_and_appending_by_others(store: ZipStore, path: Path) -> None:
    store.put("k", b"first")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("k", b"second")
    assert bytes(store.get("k")) == b"second"
    assert [info.size for info in store.list().objects] == [6]
    store.put("other", b"x")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["k", "other"]
        assert archive.read("k") == b"second"


def test_modes_go_both_ways_without_their_dangers(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in (
            ("link", stat.S_IFLNK | 0o777),
            ("program", stat.S_IFREG | 0o4755),
            ("device", stat.S_IFBLK | 0o666),
            ("plain", 0o640),
            ("folder/", stat.S_IFDIR | 0o1777),
        ):
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = mode << 16
            archive.writestr(info, b"/etc/passwd" if name == "link" else b"")
    with ZipStore(path) as store:
        modes = {key: (store.head(key).metadata or {}).get("mode") for key in store.keys()}
        assert modes == {
            "device": None,
            "folder/": str(stat.S_IFDIR | 0o777),
            "link": str(stat.S_IFLNK | 0o777),
            "plain": str(stat.S_IFREG | 0o640),
            "program": str(stat.S_IFREG | 0o755),
        }
        assert bytes(store.get("link")) == b"/etc/passwd"
        store.put("mine", b"x", metadata={"mode": str(stat.S_IFREG | 0o750), "uid": "1"})
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("mine").external_attr >> 16 == stat.S_IFREG | 0o750


def test_names_in_the_code_page_of_the_ibm_pc(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cafe", b"x")
    raw = path.read_bytes().replace(b"cafe", "café".encode("cp437"))
    path.write_bytes(raw)
    with ZipStore(path) as store:
        assert list(store.keys()) == ["café"]
        assert bytes(store.get("café")) == b"x"
        store.update_metadata("café", {"a": "1"})
        assert store.head("café").metadata == {"a": "1"}
        store.put("other", b"")
        assert list(store.keys()) == ["café", "other"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("café") == b"x"


def written_archive(path: Path, entries: list[Entry]) -> None:
    """An archive of these members without a byte of content, by the functions that write them."""
    with path.open("wb") as file:
        placed = []
        for entry in entries:
            offset = file.tell()
            file.write(local_header(entry))
            placed.append(placed_at(entry, offset, file.tell()))
        start = file.tell()
        file.write(b"".join(map(central_record, placed)))
        file.write(end_records(len(placed), start, file.tell() - start, b""))


def empty_member(key: str, size: int = 0) -> Entry:
    return new_entry(key, method=8, crc=0, packed=0, size=size, mtime_ns=0, metadata={})


def test_more_members_than_sixteen_bits_count(path: Path) -> None:
    written_archive(path, [empty_member(f"{number:05}") for number in range(66_000)])
    with ZipStore(path, durable=False) as store:
        assert store.usage() == (66_000, 0)
        store.delete("00000")
        store.put("one more", b"x")
        store.put("and another", b"x")
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 66_001
        assert archive.read("one more") == b"x"
    with ZipStore(path) as store:
        assert store.usage() == (66_001, 2)


def test_a_member_of_over_four_gigabytes(path: Path) -> None:
    size = (1 << 32) + 5
    written_archive(path, [empty_member("large", size), empty_member("other")])
    with ZipStore(path, durable=False) as store:
        store.put("behind", b"x")
        store.delete("other")
        store.rename("large", "renamed")
        assert store.head("renamed").size == size
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("renamed").file_size == size
        assert archive.read("behind") == b"x"


def test_a_member_that_starts_behind_four_gigabytes(path: Path) -> None:
    """The start of the file is a hole that belongs to another program, as before an unpacker."""
    at = (1 << 32) + 10
    entry = empty_member("k")
    with path.open("wb") as file:
        file.seek(at)
        file.write(local_header(entry))
        start = file.tell()
        file.write(central_record(placed_at(entry, at, start)))
        file.write(end_records(1, start, file.tell() - start, b""))
    with ZipStore(path, durable=False) as store:
        assert store.head("k").size == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("k").header_offset == at
    path.unlink()


# -- ranges -------------------------------------------------------------------------------------------


def test_ranges_of_a_packed_member_go_on_where_the_last_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(1000) * 8000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("k", noise(2 * MIB) + data)
    unpacked = 0
    step = _zip_content._Inflate.decompress

    def counted(self: _zip_content._Inflate, given: bytes, most: int, /) -> bytes:
        nonlocal unpacked
        piece = step(self, given, most)
        unpacked += len(piece)
        return piece

    monkeypatch.setattr(_zip_content._Inflate, "decompress", counted)
    with ZipStore(path) as store:
        size = store.head("k").size
        parts = [bytes(store.get("k", start, start + 100_000)) for start in range(0, size, 100_000)]
        assert b"".join(parts) == noise(2 * MIB) + data
        assert unpacked <= size + 100


def test_unpacking_takes_no_more_memory_than_was_asked_for(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("k", bytes(64 * MIB))
    with ZipStore(path, max_ratio=2000) as store:
        tracemalloc.start()
        try:
            assert bytes(store.get("k", 60 * MIB, 60 * MIB + 10)) == bytes(10)
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        finally:
            tracemalloc.stop()


def test_a_range_of_a_stored_member_reads_no_more_than_it(
    store: ZipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(5 * MIB)
    store.put("k", data)
    read = 0
    pread = os.pread

    def counted(fd: int, length: int, at: int) -> bytes:
        nonlocal read
        found = pread(fd, length, at)
        read += len(found)
        return found

    monkeypatch.setattr(os, "pread", counted)
    assert bytes(store.get("k", 4 * MIB, 4 * MIB + 100)) == data[4 * MIB : 4 * MIB + 100]
    assert read < 1000


# -- archives that mean harm --------------------------------------------------------------------------


def test_names_that_lead_elsewhere_are_only_names(path: Path, tmp_path: Path) -> None:
    names = ["../../evil", "/etc/evil", "..\\evil", "C:/evil", "a/../../evil"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    with ZipStore(path) as store:
        assert list(store.keys()) == sorted(names)
        for name in names:
            assert bytes(store.get(name)) == b"content"
            store.put(name, b"again")
    assert sorted(os.listdir(tmp_path)) == ["store.zip", "store.zip.lock"]


def test_a_member_that_unpacks_to_absurdly_much_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(20 * MIB))
        archive.writestr("small", bytes(100_000))
    with ZipStore(path) as store:
        with pytest.raises(Corrupted, match="max_ratio"):
            store.get("bomb")
        with pytest.raises(Corrupted, match="max_ratio"):
            store.get("bomb", 0, 1)
        assert bytes(store.get("small")) == bytes(100_000)
    with ZipStore(path, max_ratio=2000) as store:
        assert bytes(store.get("bomb")) == bytes(20 * MIB)


def test_what_compresses_too_well_is_put_so_that_it_can_be_read(path: Path, tmp_path: Path) -> None:
    with ZipStore(path, compress=True, durable=False) as store:
        store.put("bytes", bytes(20 * MIB))
        with io.BytesIO(b"xx" + bytes(20 * MIB)) as file:
            file.seek(2)
            store.put("file", file)
        assert bytes(store.get("bytes")) == bytes(store.get("file")) == bytes(20 * MIB)


def test_too_many_members_or_bytes_are_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(str(number), b"12345")
    with pytest.raises(Corrupted, match="limit of 4; raise max_entries"):
        ZipStore(path, max_entries=4)
    with pytest.raises(Corrupted, match="limit of 24; raise max_total_bytes"):
        ZipStore(path, max_total_bytes=24)
    with ZipStore(path, max_entries=5, max_total_bytes=30) as store:
        with pytest.raises(StoreFull):
            store.put("5", b"")
        with pytest.raises(StoreFull):
            store.put("0", b"12345678901")
        store.put("0", b"1234567890")
    with pytest.raises(UsageError):
        ZipStore(path, max_ratio=0)


def central(raw: bytes, number: int = 0) -> int:
    """Where the central record of a member starts."""
    at = raw.index(b"PK\1\2")
    for _ in range(number):
        at = raw.index(b"PK\1\2", at + 4)
    return at


def patched(path: Path, at: int, value: bytes) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + value + raw[at + len(value) :])


@pytest.fixture
def made(path: Path) -> Path:
    """An archive of a stored and a deflated member."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"1" * 100)
        archive.writestr("two", noise(1000) * 3, zipfile.ZIP_DEFLATED)
    return path


def test_members_that_lie_over_each_other_are_refused(made: Path) -> None:
    raw = made.read_bytes()
    patched(made, central(raw, 1) + 42, struct.pack("<L", 10))
    with pytest.raises(Corrupted, match="lies over"):
        ZipStore(made)


def test_a_member_that_is_another_than_the_directory_says_is_refused(made: Path) -> None:
    patched(made, made.read_bytes().index(b"one"), b"eno")
    with ZipStore(made) as store, pytest.raises(Corrupted, match="another one"):
        store.get("one")


@pytest.mark.parametrize("number", [0, 1])
def test_a_checksum_that_fails_is_said(made: Path, number: int) -> None:
    key = ("one", "two")[number]
    patched(made, central(made.read_bytes(), number) + 16, b"\0\0\0\1")
    with ZipStore(made) as store:
        with pytest.raises(Corrupted, match="checksum"):
            store.get(key)
        assert store.get(key, 0, 10)


def test_content_that_was_damaged_is_said(made: Path) -> None:
    raw = made.read_bytes()
    patched(made, raw.index(b"1" * 100) + 50, b"0")
    at = raw.index(b"two") + 3 + 500
    patched(made, at, bytes([raw[at] ^ 0xFF]) * 50)
    with ZipStore(made) as store:
        for key in ("one", "two"):
            with pytest.raises(Corrupted):
                store.get(key)


@pytest.mark.parametrize("size", [0, 2999, 3001, 100_000])
def test_another_size_than_told_is_said(made: Path, size: int) -> None:
    patched(made, central(made.read_bytes(), 1) + 24, struct.pack("<L", size))
    with ZipStore(made) as store, pytest.raises(Corrupted):
        store.get("two")


def test_stored_members_of_two_sizes_are_refused(made: Path) -> None:
    patched(made, central(made.read_bytes()) + 24, struct.pack("<L", 101))
    with ZipStore(made) as store, pytest.raises(Corrupted, match="two sizes"):
        store.get("one")


def test_what_cannot_be_unpacked_says_so(made: Path) -> None:
    raw = made.read_bytes()
    for at in (6, central(raw) + 8):
        patched(made, at, b"\1")  # encrypted
    with ZipStore(made) as store:
        with pytest.raises(Unsupported, match="encrypted"):
            store.get("one")
        with pytest.raises(Unsupported, match="encrypted"):
            store.rename("one", "other")
        store.put("new", b"x")  # and it stays as it is
    with zipfile.ZipFile(made) as archive:
        assert archive.getinfo("one").flag_bits & 1


def test_every_archive_cut_short_or_damaged_is_refused_in_one_line(made: Path) -> None:
    raw = made.read_bytes()
    start = central(raw)
    for cut in (1, 10, 21, 22, 30, len(raw) - start, len(raw) // 2, len(raw) - 1):
        made.write_bytes(raw[:-cut])
        with pytest.raises(Corrupted) as caught:
            ZipStore(made)
        assert "\n" not in str(caught.value)
    for at in range(start, len(raw)):
        made.write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
        try:
            with ZipStore(made) as store:
                for key in store.keys():
                    store.get(key)
        except (Corrupted, Unsupported):
            continue


@pytest.mark.parametrize("content", [b"no zip", b"PK\5\6", bytes(100_000)])
def test_a_file_that_is_no_archive_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(Corrupted, match="not a zip archive"):
        ZipStore(path)
    assert path.read_bytes() == content


def test_paths_that_cannot_be_used_are_one_clear_line(path: Path, tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "missing" / "store.zip"):
        with pytest.raises(StoreError) as caught:
            ZipStore(given)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with ZipStore(path) as store:
        assert list(store.keys()) == []
        store.put("k", b"x")


# -- whole or not at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
def test_a_killed_writer_leaves_the_old_archive(path: Path, moment: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from mountstore.backends.zip import ZipStore\n"
        "store = ZipStore(sys.argv[1])\n"
        "call, left = getattr(os, sys.argv[2]), 2 if sys.argv[2] == 'write' else 0\n"
        "def killed(*args, **kwargs):\n"
        "    global left\n"
        "    if not left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    left -= 1\n"
        "    return call(*args, **kwargs)\n"
        "setattr(os, sys.argv[2], killed)\n"
        "store.put('k', b'new' * 1000)\n"
    )
    with ZipStore(path) as store:
        store.put("k", b"old")
        store.put("other", noise(100_000))
        before = path.read_bytes()
        done = subprocess.run([sys.executable, "-c", program, str(path), moment], timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
        assert path.read_bytes() == before
        assert bytes(store.get("k")) == b"old"
        store.put("k", b"new")
    assert sorted(os.listdir(path.parent)) == ["store.zip", "store.zip.lock"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_full_disk_is_said_and_leaves_the_old_archive(
    store: ZipStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("k", b"old")
    fired = 0

    def full(fd: int, data: memoryview) -> int:
        nonlocal fired
        fired += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreFull):
            store.put("k", b"new")
        with pytest.raises(StoreFull):
            store.put("k", io.BytesIO(noise(3 * MIB)))
    assert fired == 2
    assert bytes(store.get("k")) == b"old"
    assert sorted(os.listdir(path.parent)) == ["store.zip", "store.zip.lock"]


def test_durable_puts_sync_the_archive_before_its_name_and_the_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def noted_rename(*args: object) -> None:
        calls.append("rename")
        rename(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    with ZipStore(path) as store:
        store.put("k", b"x")
    assert calls == ["file", "rename", "folder"]


def test_a_reader_keeps_its_version(store: ZipStore) -> None:
    """What was opened stays what it was while another takes its place."""
    store.put("k", noise(MIB))
    archive = store._current()
    store.put("k", b"new")
    entry = archive.entries["k"]
    assert bytes(archive.content(entry).read(0, MIB)) == noise(MIB)


def test_the_mode_of_the_archive_and_a_link_to_it_stay(path: Path, tmp_path: Path) -> None:
    with ZipStore(path) as store:
        store.put("k", b"x")
    path.chmod(0o640)
    link = tmp_path / "link.zip"
    link.symlink_to(path)
    with ZipStore(link) as store:
        store.put("k", b"y")
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# -- many at once -------------------------------------------------------------------------------------


def counted_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    renamed: list[str] = []
    rename = os.rename

    def noted(source: str, target: str) -> None:
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", noted)
    return renamed


def test_a_batch_is_one_write(store: ZipStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("old", b"old")
    store.put("gone", b"gone")
    written = counted_writes(monkeypatch)
    with store.batch():
        for number in range(100):
            store.put(f"{number:02}", b"%d" % number * 100)
        store.delete("gone")
        store.rename("old", "renamed")
        store.copy("05", "copied")
        with store.batch():
            store.put("inner", b"x")
        assert bytes(store.get("copied")) == b"5" * 100
        assert len(list(store.keys())) == 103
        [seen] = in_threads(1, lambda _: list(store.keys()))
        assert seen == ["gone", "old"]
        assert written == []
    assert written == [str(path)]
    assert len(list(store.keys())) == 103
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_batch_that_fails_changes_nothing(store: ZipStore, path: Path) -> None:
    store.put("k", b"old")
    before = path.read_bytes()

    def fail() -> None:
        with store.batch():
            store.put("k", b"new")
            store.put("other", b"x")
            store.delete("missing")

    with pytest.raises(NotFound):
        fail()
    assert path.read_bytes() == before
    assert list(store.keys()) == ["k"]
    store.put("k", b"later")


def test_calls_of_one_moment_are_written_together(store: ZipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = counted_writes(monkeypatch)
    with ThreadPoolExecutor(7) as pool:
        with store.batch():  # until its end the others wait
            puts = [pool.submit(store.put, f"{number}", b"x") for number in range(7)]
            deadline = time.monotonic() + 60
            while len(store._jobs) < 7:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        assert [put.result().key for put in puts] == [f"{number}" for number in range(7)]
    assert len(written) == 1


def test_appending_does_not_read_the_directory_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipStore(path, durable=False) as store:
        with store.batch():
            for number in range(300):
                store.put(f"{number}", b"x")
        made = 0

        def counted(entry: Entry) -> bytes:
            nonlocal made
            made += 1
            return central_record(entry)

        monkeypatch.setattr(_zip_archive, "central_record", counted)
        store.put("new", b"x")
        assert made == 1
        store.put("new", b"y")
        assert made == 302
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 301


# -- options ------------------------------------------------------------------------------------------


def test_members_stay_where_they_are_not_to_be_replaced(path: Path) -> None:
    with ZipStore(path, replace=False) as store:
        store.put("k", b"one")
        store.put("other", b"x")
        calls: list[Callable[[], object]] = [
            lambda: store.put("k", b"two"),
            lambda: store.copy("k", "other"),
        ]
        for call in calls:
            with pytest.raises(PreconditionFailed):
                call()
        removals: list[Callable[[], object]] = [
            lambda: store.delete("k"),
            lambda: store.delete_many(["k"]),
            lambda: store.rename("k", "l"),
        ]
        for call in removals:
            with pytest.raises(Unsupported):
                call()
        assert bytes(store.get("k")) == b"one"


def test_keys_up_to_what_a_record_holds(store: ZipStore) -> None:
    store.put("k" * 65_535, b"x")
    with pytest.raises(InvalidKey):
        store.put("k" * 65_536, b"x")
    assert [len(key) for key in store.keys()] == [65_535]


def test_nothing_stays_open(path: Path) -> None:
    def everything() -> None:
        with ZipStore(path, durable=False) as store:
            store.put("k", b"x")
            store.put("large", io.BytesIO(noise(3 * MIB)))
            with store.batch():
                store.put("l", b"x")
            store.rename("k", "m")
            store.get("large", 5, 10)
            with pytest.raises(NotFound):
                store.get("none")
            store.delete_many(list(store.keys()))

    everything()
    before = open_descriptors()
    everything()
    assert open_descriptors() == before


def test_urls(path: Path) -> None:
    with open_store(f"zip://{path}?compress=true&durable=false&max_entries=1") as store:
        assert isinstance(store, ZipStore)
        store.put("k", b"x" * 1000)
        with pytest.raises(StoreFull):
            store.put("l", b"")
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("k").compress_size < 100
    for url, message in ((f"zip://{path}?max_ratio=-1", "whole number"), (f"zip://{path}?x=1", "unknown")):
        with pytest.raises(BadUrl, match=message):
            open_store(url)
