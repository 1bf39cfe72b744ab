"""FilesystemStore: the contract, and what natural files below a root promise beyond."""

from __future__ import annotations

import binascii
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mountstore.backends._filesystem_names import names_of, segment_of_escaped
from mountstore.backends._filesystem_objects import read_large
from mountstore.backends._filesystem_tree import exchange
from mountstore.backends._large_bytes import LARGE_BYTES
from mountstore.backends.filesystem import FilesystemStore
from mountstore.errors import InvalidKey, NotFound, PreconditionFailed, StoreError, StoreFull, Unavailable
from mountstore.store import ObjectStore
from tests.stores.conformance import ODD_KEYS, PersistentStoreConformance, listed_entries
from tests.stores.files import open_descriptors, paths

PRIVATE = ".mountstore~tmp"


class TestFilesystemStore(PersistentStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with FilesystemStore(tmp_path / "root", durable=False) as store:
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return lambda: FilesystemStore(tmp_path / "root", durable=False)


class TestDurableFilesystemStore(TestFilesystemStore):
    examples = 3

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with FilesystemStore(tmp_path / "root") as store:
            yield store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Iterator[FilesystemStore]:
    with FilesystemStore(root, durable=False) as store:
        yield store


# -- large reads --------------------------------------------------------------------------------------


def test_large_ranges_come_whole_and_as_bytes(store: FilesystemStore) -> None:
    data = random.Random(0).randbytes(LARGE_BYTES + 12_345)
    etag = store.put("large", data).etag
    whole = store.get("large", if_match=etag)
    assert type(whole) is bytes
    assert whole == data
    assert hash(whole) == hash(data)
    for start, stop in ((1, None), (12_345, None), (0, LARGE_BYTES), (77, LARGE_BYTES + 77)):
        assert store.get("large", start, stop) == data[start:stop]


@pytest.mark.parametrize("size", [1, 5000, LARGE_BYTES + 1])
def test_what_is_shorter_than_it_was_is_told(tmp_path: Path, size: int) -> None:
    (tmp_path / "short").write_bytes(b"x" * (size - 1))
    fd = os.open(tmp_path / "short", os.O_RDONLY)
    try:
        with pytest.raises(Unavailable, match="became shorter"):
            read_large("short", fd, 0, size)
    finally:
        os.close(fd)


def test_reading_to_a_given_place(store: FilesystemStore, root: Path) -> None:
    store.put("k", b"content")
    place = bytearray(10)
    assert bytes(store.get_into("k", memoryview(place))) == b"content"
    assert place == b"content\0\0\0"
    assert len(store.get_into("k", memoryview(place)[:6])) == 0
    store.put("empty", b"")
    assert len(store.get_into("empty", memoryview(place))) == 0
    assert place == b"content\0\0\0"
    for key in ("none", "none/"):
        with pytest.raises(NotFound):
            store.get_into(key, memoryview(place))
    (root / "folder").mkdir()
    assert len(store.get_into("folder/", memoryview(place))) == 0


# -- for who is alone with the store ------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_kept_is_an_object_like_others(root: Path, durable: bool) -> None:
    with FilesystemStore(root, durable=durable) as store:
        (root / "folder").mkdir()
        (root / "folder" / "inner").write_bytes(b"inner")
        for key in ("k", "a/b", "..", "x" * 300, "folder"):
            for data in (b"first", b"more than a page" * 1000, memoryview(b"second"), bytearray(b"third")):
                store.keep(key, data)
                assert store.get(key) == store.kept(key, len(data)) == bytes(data)
                assert store.head(key).size == len(data)
            assert len(store.kept(key, 2)) > 2
            assert store.kept(key, 100) == bytes(data)
        assert store.get("folder/inner") == b"inner"
        assert sorted(store.keys()) == sorted(("k", "a/b", "..", "x" * 300, "folder", "folder/inner"))
        for key in ("k", "a/b", "..", "x" * 300, "folder"):
            store.drop(key)
            store.drop(key)
            with pytest.raises(NotFound):
                store.kept(key, 5)
        assert [*store.keys()] == ["folder/inner"]
        with pytest.raises(InvalidKey):
            store.keep("", b"x")
        private = root / PRIVATE
        assert [*private.glob("writing-*/*")] == []


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 300_000, (2 << 20) + 1])
def test_what_is_kept_may_be_named_by_its_checksum(root: Path, durable: bool, size: int) -> None:
    data = os.urandom(size)
    with FilesystemStore(root, durable=durable) as store:
        for given in (data, memoryview(data), bytearray(data)):
            store.keep_summed(lambda crc: f"k-{crc:08x}", given)
        assert [*store.keys()] == [f"k-{binascii.crc32(data):08x}"]
        assert store.get(f"k-{binascii.crc32(data):08x}") == data
        with pytest.raises(InvalidKey):
            store.keep_summed(lambda crc: "", data)
        assert len([*store.keys()]) == 1
    assert [*(root / PRIVATE).glob("writing-*/*")] == []


def test_what_cannot_be_kept_leaves_nothing(root: Path, store: FilesystemStore) -> None:
    store.keep("k", b"old")
    with pytest.raises(TypeError):
        store.keep("k", "text")  # type: ignore[arg-type]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        for key in ("k", "new"):
            for size in (2000, 20_000, 2 << 20):
                with pytest.raises(StoreFull):
                    store.keep(key, bytes(size))
                with pytest.raises(StoreFull):
                    store.keep_summed(partial(str.format, key), bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert store.get("k") == b"old"
    assert [*store.keys()] == ["k"]
    assert [*(root / PRIVATE).glob("writing-*/*")] == []


# -- natural files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["a/b.txt", "100%", "%2F", "a b/c d", ".hidden", "...", "é/e\u0301", "x\ny", "-"]
)
def test_an_ordinary_key_is_its_own_path(store: FilesystemStore, root: Path, key: str) -> None:
    store.put(key, b"content")
    assert (root / key).read_bytes() == b"content"


def test_files_of_other_programs_are_objects(store: FilesystemStore, root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f.txt").write_bytes(b"12345")
    assert bytes(store.get("d/e/f.txt")) == b"12345"
    assert store.head("d/e/f.txt").metadata == {}
    assert list(store.keys()) == ["d/e/f.txt"]
    store.delete("d/e/f.txt")
    assert paths(root) == []


def test_a_change_in_place_by_another_program_changes_the_etag(store: FilesystemStore, root: Path) -> None:
    etag = store.put("k", b"12345").etag
    with (root / "k").open("r+b") as file:
        file.write(b"67890")
    assert store.head("k").etag != etag
    with pytest.raises(PreconditionFailed):
        store.put("k", b"mine", if_match=etag)
    assert bytes(store.get("k")) == b"67890"


def test_links_and_modes_do_not_change_the_etag(store: FilesystemStore, root: Path) -> None:
    etag = store.put("k", b"12345").etag
    (root / "link").hardlink_to(root / "k")
    (root / "k").chmod(0o600)
    assert store.head("k").etag == etag
    store.put("k/below", b"")
    assert store.head("k").etag == etag


def test_metadata_of_one_hard_link_is_not_that_of_the_other(store: FilesystemStore, root: Path) -> None:
    store.put("a", b"content", metadata={"n": "1"})
    (root / "b").hardlink_to(root / "a")
    store.update_metadata("a", {"n": "2"})
    assert (store.head("a").metadata, store.head("b").metadata) == ({"n": "2"}, {"n": "1"})
    (root / "c").hardlink_to(root / "b")
    store.rename("b", "c")
    assert (store.exists("b"), bytes(store.get("c"))) == (False, b"content")


def test_an_empty_folder_of_another_program_is_a_marker(store: FilesystemStore, root: Path) -> None:
    (root / "d").mkdir()
    info = store.head("d/")
    assert (info.size, info.metadata, bytes(store.get("d/"))) == (0, {}, b"")
    assert [listed.key for listed in store.list().objects] == ["d/"]
    assert store.list().objects[0].etag == info.etag
    assert listed_entries(store, "", "/") == [("d/", True)]
    with pytest.raises(PreconditionFailed):
        store.put("d/", b"", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.delete("d/", if_match="other")
    store.delete("d/", if_match=info.etag)
    assert not (root / "d").exists()
    (root / "d").mkdir()
    store.put("d/", b"", metadata={"mode": "16877"})
    store.put("d/x", b"")
    store.delete("d/x")
    assert store.head("d/").metadata == {"mode": "16877"}


def test_folders_left_empty_are_removed_but_never_the_root(store: FilesystemStore, root: Path) -> None:
    store.put("a/b/c/d", b"")
    store.put("a/x", b"")
    store.delete("a/b/c/d")
    assert paths(root) == ["a", "a/x"]
    store.rename("a/x", "y")
    assert paths(root) == ["y"]
    store.delete("y")
    assert root.is_dir()
    with pytest.raises(NotFound):
        store.delete("nothing/here")
    with pytest.raises(PreconditionFailed):
        store.put("new/folder/k", b"", if_match="other")
    assert paths(root) == []


def test_names_that_are_not_utf8_are_reachable(store: FilesystemStore, root: Path) -> None:
    (root / "d").mkdir()
    path = os.fsencode(root / "d") + b"/caf\xe9 100%"
    with open(path, "wb") as file:
        file.write(b"latin")
    key = "d/.mountstore~bcaf%E9 100%25"
    assert list(store.keys()) == [key]
    assert bytes(store.get(key)) == b"latin"
    store.put(key, b"again")
    assert os.listdir(os.fsencode(root / "d")) == [b"caf\xe9 100%"]
    store.put("d/.mountstore~bplain", b"a key like any other")
    assert list(store.keys()) == [key, "d/.mountstore~bplain"]
    assert bytes(store.get("d/.mountstore~bplain")) == b"a key like any other"


@pytest.mark.parametrize(
    "key", [*ODD_KEYS, ".mountstore~tmp/locks", "x/.mountstore~f", ".mountstore~e%2E", "\0" * 999]
)
def test_every_key_has_names_of_its_own_and_back(store: FilesystemStore, key: str) -> None:
    names = names_of(key, len(key.encode()))
    assert all(0 < len(name.encode()) <= 255 and name not in (".", "..") for name in names)
    assert not any("/" in name or "\0" in name for name in names)
    store.put(key, b"x")
    assert list(store.keys()) == [key]
    assert store.list(key[:-1]).objects[0].key == key


def test_escapes_that_no_key_gives_are_no_objects() -> None:
    assert segment_of_escaped((".mountstore~eplain",)) is None
    assert segment_of_escaped((".mountstore~e%2E",)) == "."
    assert segment_of_escaped((".mountstore~e%2e",)) is None


# -- confined to the root -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../evil", "../../evil", "/evil", "a/../../evil", "..", "x/../../../evil"])
def test_no_key_leads_out_of_the_root(store: FilesystemStore, root: Path, key: str) -> None:
    (root.parent / "evil").write_bytes(b"untouched")
    with pytest.raises(NotFound):
        store.get(key)
    store.put(key, b"inside")
    assert bytes(store.get(key)) == b"inside"
    store.delete(key)
    assert sorted(path.name for path in root.parent.iterdir()) == ["evil", "root"]
    assert (root.parent / "evil").read_bytes() == b"untouched"
    assert not Path("/evil").exists()


def test_links_are_no_objects_and_lead_nowhere(store: FilesystemStore, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    os.mkfifo(root / "pipe")
    for key in ("folder/secret", "file", "folder", "pipe"):
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(NotFound):
            store.delete(key)
    assert list(store.keys()) == []
    assert store.list("folder/", delimiter="/").objects == []
    with pytest.raises(InvalidKey):
        store.put("folder/new", b"x")
    store.put("file", b"mine")  # takes the place of the link, and leaves what it named
    assert not (root / "file").is_symlink()
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(os.listdir(outside)) == ["secret"]


def test_links_swapped_in_during_use_lead_nowhere(store: FilesystemStore, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "k").write_bytes(b"secret")
    (root / "link").symlink_to(outside)
    (root / "d").mkdir()
    (root / "d" / "k").write_bytes(b"fine")
    stop = threading.Event()
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def swap() -> None:
        while not stop.is_set():
            exchange(folder, "d", folder, "link")

    served = refused = number = 0
    deadline = time.monotonic() + 60
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        while served < 100 or refused < 100:
            assert time.monotonic() < deadline, (served, refused)
            number += 1
            try:
                assert bytes(store.get("d/k")) == b"fine"
                store.put(f"d/new{number % 50}", b"x")
                served += 1
            except (NotFound, InvalidKey):
                refused += 1
    finally:
        stop.set()
        thread.join(60)
        os.close(folder)
    assert os.listdir(outside) == ["k"]


# -- both a file and a folder -------------------------------------------------------------------------


def test_a_file_and_a_folder_of_one_name(store: FilesystemStore, root: Path) -> None:
    store.put("a", b"file", metadata={"n": "1"})
    before = store.head("a")
    assert (root / "a").is_file()
    store.put("a/b", b"below")
    assert (root / "a" / "b").read_bytes() == b"below"
    assert store.head("a") == before
    store.put("a", b"replaced")
    assert list(store.keys()) == ["a", "a/b"]
    store.delete("a/b")
    assert (list(store.keys()), bytes(store.get("a"))) == (["a"], b"replaced")
    assert listed_entries(store, "", "/") == [("a", False)]
    store.delete("a")
    assert paths(root) == []


def test_readers_find_a_file_while_a_folder_takes_its_place(store: FilesystemStore) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    reads = 0
    store.put("a", b"here")

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                assert bytes(store.get("a")) == b"here"
                assert [info.key for info in store.list("a", delimiter="/").objects] == ["a"]
                reads += 1
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(100):
            store.put("a/b", b"below")
            store.delete("a/b")
            store.put("other", b"here")
            store.rename("other", "a")
    finally:
        stop.set()
        thread.join(60)
    assert failures == []
    assert reads


# -- whole or not at all ------------------------------------------------------------------------------


def test_a_killed_writer_leaves_the_old_object_and_nothing_else(root: Path) -> None:
    program = (
        "import io, os, signal, sys\n"
        "from mountstore.backends.filesystem import FilesystemStore\n"
        "class File(io.RawIOBase):\n"
        "    left = 5\n"
        "    def readinto(self, buffer):\n"
        "        self.left -= 1\n"
        "        if not self.left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return len(buffer)\n"
        "FilesystemStore(sys.argv[1]).put('k', File())\n"
    )
    with FilesystemStore(root) as store:
        store.put("k", b"old")
        done = subprocess.run([sys.executable, "-c", program, str(root)], timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
        assert bytes(store.get("k")) == b"old"
        assert paths(root) == ["k"]
        assert len([name for name in os.listdir(root / PRIVATE) if name.startswith("writing-")]) == 2
        with FilesystemStore(root):
            assert len([name for name in os.listdir(root / PRIVATE) if name.startswith("writing-")]) == 2
    assert os.listdir(root / PRIVATE) == ["locks"]


def test_a_full_disk_is_said_and_leaves_the_old_object(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch
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
    assert fired == 1
    assert bytes(store.get("k")) == b"old"
    assert os.listdir(store._tree.writing) == []


def test_durable_puts_sync_the_file_before_its_name_and_the_folders_after(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def noted_rename(*args: object, **kwargs: object) -> None:
        calls.append("rename")
        rename(*args, **kwargs)  # type: ignore[arg-type]

    with FilesystemStore(root) as store:
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        store.put("new/folder/k", b"x")
    assert calls == ["file", "folder", "folder", "rename", "folder"]


def test_nothing_stays_open(store: FilesystemStore, root: Path) -> None:
    def everything() -> None:
        store.put("a/b/c", b"x", metadata={"n": "1"})
        store.put("a", b"y")
        (root / "link").symlink_to("/")
        store.copy("a/b/c", "d/e")
        store.rename("d/e", "f/g")
        store.head("a")
        list(store.pages(limit=1))
        next(store.pages(limit=1))
        for key in ("nothing", "a/x", "link/etc", "f"):
            for call in (store.get, store.head, store.delete):
                with pytest.raises(NotFound):
                    call(key)
        with pytest.raises(InvalidKey):
            store.put("link/x", b"")
        (root / "link").unlink()
        store.delete_many(list(store.keys()))

    everything()
    before = open_descriptors()
    everything()
    assert open_descriptors() == before


# -- listing and opening ------------------------------------------------------------------------------


def test_pages_read_each_folder_once(store: FilesystemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        store.put(f"{number % 3}/{number:03}", b"")
    scans = 0
    scandir = os.scandir

    def counted(fd: int) -> object:
        nonlocal scans
        scans += 1
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counted)
    assert sum(len(page.objects) for page in store.pages(limit=10)) == 300
    assert scans == 4


def test_a_delimiter_does_not_walk_what_it_groups(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        store.put(f"top/{number % 5}/{number}/k", b"")
        store.put("top/k", b"")
    scans = 0
    scandir = os.scandir

    def counted(fd: int) -> object:
        nonlocal scans
        scans += 1
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counted)
    assert store.list(delimiter="/").prefixes == ["top/"]
    assert scans <= 3 + 2 * 3


@pytest.mark.parametrize("kind", ["file", "missing"])
def test_a_root_that_cannot_be_used_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        FilesystemStore(path, create=kind == "file")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_system_without_attributes_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", refused)
        store = FilesystemStore(root)
    with store:
        assert not store.capabilities.metadata
        assert store.put("k", b"x", metadata={"n": "1"}).metadata == {}
        assert store.head("k").metadata == {}
