"""SqliteStore: the contract, and what one file promises beyond."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountstore.backends._sqlite_rows import CHUNK_BYTES
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import Corrupted, StoreError, StoreFull
from mountstore.store import ObjectStore
from tests.stores.conformance import PersistentStoreConformance, in_threads


class TestSqliteStore(PersistentStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with SqliteStore(tmp_path / "store.sqlite", durable=False) as store:
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return lambda: SqliteStore(tmp_path / "store.sqlite", durable=False)


class TestDurableSqliteStore(TestSqliteStore):
    examples = 5

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with SqliteStore(tmp_path / "store.sqlite") as store:
            yield store


def chunk_count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        count: int = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        return count
    finally:
        connection.close()


def test_it_makes_its_own_table_and_serves_every_thread(tmp_path: Path) -> None:
    with SqliteStore(str(tmp_path / "new.sqlite")) as store:
        in_threads(6, lambda number: store.put(f"{number}", b"%d" % number))
        assert in_threads(6, lambda number: store.get(f"{number}")) == [b"%d" % number for number in range(6)]


def test_a_copy_shares_the_bytes_until_the_last_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with SqliteStore(path) as store:
        store.put("a", bytes(4 * CHUNK_BYTES))
        store.copy("a", "b")
        store.copy("b", "c")
        store.copy("c", "c", metadata={"x": "1"})
        assert chunk_count(path) == 4
        store.delete("a")
        store.put("b", b"")
        assert chunk_count(path) == 4
        assert store.get("c") == bytes(4 * CHUNK_BYTES)
        store.rename("c", "b")
        store.delete("b")
        assert chunk_count(path) == 0


def test_replacing_and_failing_leave_no_chunks_behind(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with SqliteStore(path, durable=False) as store:
        for size in (20 << 20, 1, 0, 10 << 20, CHUNK_BYTES):
            store.put("k", bytes(size))
        assert chunk_count(path) == 1
        with pytest.raises(StoreError):
            store.put("k", bytes(20 << 20), if_absent=True)
        assert chunk_count(path) == 1


def test_what_a_killed_writer_left_is_collected_at_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    program = (
        "import io, os, signal, sys\n"
        "from mountstore.backends.sqlite import SqliteStore\n"
        "class File(io.RawIOBase):\n"
        "    left = 40\n"
        "    def readinto(self, buffer):\n"
        "        self.left -= 1\n"
        "        if not self.left: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return len(buffer)\n"
        "SqliteStore(sys.argv[1]).put('k', File())\n"
    )
    with SqliteStore(path) as store:
        store.put("k", b"old")
        done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
        assert done.returncode == -9
        assert chunk_count(path) > 16
        with SqliteStore(path):
            assert chunk_count(path) == 1
        assert store.get("k") == b"old"


def test_a_writer_at_work_is_not_collected(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    half, go_on = threading.Event(), threading.Event()

    class SlowFile:
        left = 20 << 20

        def readinto(self, buffer: memoryview) -> int:
            if self.left == 2 << 20:
                half.set()
                assert go_on.wait(60)
            count = min(len(buffer), self.left)
            self.left -= count
            return count

    with SqliteStore(path, durable=False) as store:
        writer = threading.Thread(target=store.put, args=("k", SlowFile()))
        writer.start()
        try:
            assert half.wait(60)
            with SqliteStore(path) as other:
                assert not other.exists("k")
        finally:
            go_on.set()
            writer.join(60)
        assert store.head("k").size == 20 << 20
        assert store.get("k", 19 << 20) == bytes(1 << 20)


def test_a_full_disk_is_said_and_undone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with SqliteStore(path, durable=False) as store:
        store.put("k", b"old")
        store._connections._idle[-1].execute("PRAGMA max_page_count = 500")
        with pytest.raises(StoreFull):
            store.put("k", bytes(20 << 20))
        assert store.get("k") == b"old"
        assert chunk_count(path) == 1


@pytest.mark.parametrize("make", ["missing", "directory", "text", "foreign"])
def test_a_path_that_cannot_be_used_is_one_clear_line(tmp_path: Path, make: str) -> None:
    path = tmp_path / "store.sqlite"
    if make == "missing":
        path = tmp_path / "no" / "store.sqlite"
    elif make == "directory":
        path.mkdir()
    elif make == "text":
        path.write_bytes(b"not a database at all " * 100)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, Corrupted) == (make == "text")


def test_a_delimiter_skips_what_it_groups(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "store.sqlite", durable=False) as store:
        keys = [f"{group}/{number:04}" for group in range(5) for number in range(400)]
        for key in keys:
            store.put(key, b"")
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        store._connections._idle[-1].set_progress_handler(count, 100)
        assert store.list(delimiter="/").prefixes == ["0/", "1/", "2/", "3/", "4/"]
        with_delimiter = steps
        list(store.pages())
        store._connections._idle[-1].set_progress_handler(None, 0)
        assert with_delimiter * 3 < steps - with_delimiter


def test_processes_that_make_the_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    program = (
        "import sys\n"
        "from mountstore.backends.sqlite import SqliteStore\n"
        "from mountstore.errors import PreconditionFailed\n"
        "done = 0\n"
        "with SqliteStore(sys.argv[1], durable=False) as store:\n"
        "    while done < 50:\n"
        "        try:\n"
        "            if not store.exists('counter'):\n"
        "                store.put('counter', b'0', if_absent=True)\n"
        "            etag = store.head('counter').etag\n"
        "            value = int(store.get('counter', if_match=etag))\n"
        "            store.put('counter', b'%d' % (value + 1), if_match=etag)\n"
        "        except PreconditionFailed:\n"
        "            continue\n"
        "        done += 1\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(4)]
    try:
        assert [child.wait(100) for child in children] == [0, 0, 0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
    with SqliteStore(path) as store:
        assert store.get("counter") == b"200"


def test_threads_that_end_leave_no_connections_behind(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "store.sqlite", durable=False) as store:
        store.put("k", b"x")
        for _ in range(20):
            in_threads(2, lambda number: store.get("k"))
        assert len(store._connections._idle) <= 2
