"""Memory that is lent, and files that are read past the page cache."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from mountstore.backends._direct_io import DirectIO
from mountstore.backends._lent_memory import LentMemory
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.s3 import BucketStore
from mountstore.stores.caching import CachingStore
from tests.servers import S3Server

MIB = 1 << 20


def test_memory_comes_back_when_no_view_is_left() -> None:
    memory = LentMemory(4 * MIB)
    view = memory.lend(2 * MIB)
    view[:] = b"1" * len(view)
    part = view[5:10]
    del view
    other = memory.lend(2 * MIB)
    other[:] = b"2" * len(other)
    assert bytes(part) == b"11111"  # still lent
    del part
    again = memory.lend(2 * MIB)
    assert bytes(again[5:10]) == b"11111"  # the same memory, with what was in it
    assert other[0] == ord("2")


def test_a_loan_has_the_size_that_was_asked_for() -> None:
    memory = LentMemory(8 * MIB)
    for size in (1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5):
        view = memory.lend(size)
        assert (view.nbytes, view.itemsize, view.readonly) == (size, 1, False)
        view[size - 1] = 7


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_more_is_kept_than_may_be() -> None:
    memory = LentMemory(4 * MIB)
    before = resident()
    views = [memory.lend(8 * MIB) for _ in range(16)]
    held = resident()
    assert held - before > 100 * MIB
    del views
    assert held - resident() > 100 * MIB


def test_threads_never_hold_the_same_memory() -> None:
    memory = LentMemory(4 * MIB)
    wrong: list[int] = []

    def work(mark: int) -> None:
        for turn in range(300):
            view = memory.lend(MIB if turn % 3 else 2 * MIB)
            view[:8] = bytes([mark]) * 8
            part = view[4:8]
            del view
            if bytes(part) != bytes([mark]) * 4:
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("size", [1, 4096, 256 << 10, MIB, MIB - 4096, MIB - 1, MIB + 1])
def test_what_is_kept_is_read_past_the_page_cache(tmp_path: Path, size: int) -> None:
    store, memory = FilesystemStore(tmp_path, durable=False), LentMemory(0)
    data = memory.lend(2 * MIB)[:size]
    data[:] = os.urandom(size)
    store.keep("k", data)
    assert (tmp_path / "k").read_bytes() == data
    place = memory.lend(2 * MIB)
    assert store.get_into("k", place) == data
    assert store.get_into("k", place[1:]) == data  # not where a page begins
    store.close()


def test_what_a_cache_hands_on_is_plain_bytes(tmp_path: Path, versitygw: S3Server) -> None:
    """Whoever puts a file together assigns it to a part of a buffer."""
    data = os.urandom(8 * MIB)
    below = BucketStore(versitygw.new_bucket(), client=versitygw.client())
    etag = below.put("k", data).etag
    with CachingStore(below, FilesystemStore(tmp_path, durable=False), capacity_bytes=16 * MIB) as store:
        for _ in ("an answer of the server", "from the disk"):
            place = memoryview(bytearray(9 * MIB))
            place[MIB:] = store.get("k", 0, 8 * MIB, if_match=etag)
            assert place[MIB:] == data


class Refusing:
    """fcntl of a file system that knows nothing of it."""

    F_GETFL, F_SETFL = fcntl.F_GETFL, fcntl.F_SETFL

    def __init__(self) -> None:
        self.asked = 0

    def fcntl(self, fd: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            self.asked += 1
            raise OSError(22, "Invalid argument")
        return fcntl.fcntl(fd, command, flags)


def test_a_file_system_that_refuses_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Refusing()
    monkeypatch.setattr("mountstore.backends._direct_io.fcntl", refusing)
    store, memory = FilesystemStore(tmp_path, durable=False), LentMemory(0)
    data, place = memory.lend(MIB), memory.lend(MIB)
    data[:] = os.urandom(MIB)
    store.keep("k", data)
    for _ in range(2):
        assert store.get_into("k", place) == data
    assert refusing.asked == 1
    store.close()


def test_the_page_cache_is_passed_by(tmp_path: Path) -> None:
    """Where the file system of the tests can; the flag tells."""
    direct, memory = DirectIO(), LentMemory(0)
    data = memory.lend(MIB)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, data)
        has_read = direct.read(fd, data)
        assert has_read == direct.works
        assert bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT) == has_read
    finally:
        os.close(fd)
