"""Writing, reading and removing files: what is seen, and what the store gets of it."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import Unavailable
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running, until


async def test_a_file_is_one_object_under_its_own_key(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"hello")
        assert await m.read_file("d/f") == b"hello"
    assert contents(store) == {"d/": b"", "d/f": b"hello"}


async def test_write_and_rename_over_costs_one_put_of_the_final_name(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("f", b"old")
        await m.drain()
        m.store.reset()
        await m.write_file(".f.tmp", b"new")
        await m.rename(".f.tmp", "f")
        await m.drain()
        assert m.store.calls == [("put", "f")]
    assert contents(store) == {"f": b"new"}


async def test_an_unlinked_temporary_file_is_never_uploaded(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=0.2) as m:
        await m.listdir()
        m.store.reset()
        await m.write_file("tmp", b"x" * 1000)
        await m.unlink("tmp")
        await m.drain()
        assert m.store.calls == []
        assert list((state / "staging").iterdir()) == []
    assert contents(store) == {}


async def test_chmod_and_utimens_after_a_write_cost_no_request(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=0.2) as m:
        await m.listdir()
        m.store.reset()
        await m.write_file("f", b"x")
        await m.chmod("f", 0o600)
        await m.utimens("f", 10**18)
        await m.drain()
        assert m.store.calls == [("put", "f")]


async def test_chmod_of_a_stored_file_moves_no_bytes(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("f", b"x" * 1000)
        await m.drain()
        m.store.reset()
        await m.chmod("f", 0o600)
        await m.drain()
        assert m.store.requests["put"] == m.store.requests["get"] == 0
        assert [verb for verb, _ in m.store.changes()] == ["copy"]


@pytest.mark.parametrize("stored", [False, True])
async def test_an_unlinked_open_file_is_readable_and_writable(
    store: DictStore, state: Path, stored: bool
) -> None:
    async with running(store, state) as m:
        await m.write_file("f", b"0123456789")
        if stored:
            await m.drain()
        handle = await m.open("f", os.O_RDWR)
        await m.unlink("f")
        assert await m.listdir() == []
        assert await m.pread(handle) == b"0123456789"
        await m.pwrite(handle, b"ab", 9)
        assert await m.pread(handle) == b"012345678ab"
        await m.close(handle)
        await m.drain()
        assert contents(store) == {}
        assert list((state / "staging").iterdir()) == []


async def test_drain_does_not_wait_for_somebody_to_close_an_unlinked_file(
    store: DictStore, state: Path
) -> None:
    async with running(store, state) as m:
        await m.write_file("f", b"0123456789")
        await m.drain()
        handle = await m.open("f")
        await m.unlink("f")
        await m.drain()
        assert contents(store) == {}
        assert await m.pread(handle) == b"0123456789"
        await m.close(handle)


async def test_fsync_of_a_directory_does_not_wait_for_an_unlinked_open_file(
    store: DictStore, state: Path
) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"0123456789")
        await m.drain()
        handle = await m.open("d/f")
        await m.unlink("d/f")
        folder = m.vfs.opendir((await m.node("d")).ino)
        await m.vfs.fsyncdir(folder)
        m.vfs.releasedir(folder)
        assert await m.pread(handle) == b"0123456789"
        await m.close(handle)


async def test_rename_while_its_upload_is_under_way(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "a")
        await m.write_file("a", b"content")
        await until(gate.arrived.is_set)
        await m.rename("a", "b")
        assert await m.tree() == {"b": b"content"}
        gate.open()
        await m.drain()
        assert await m.tree() == {"b": b"content"}
    assert contents(store) == {"b": b"content"}
    assert gate.fired


async def test_unlink_while_its_upload_is_under_way(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "a")
        await m.write_file("a", b"content")
        await until(gate.arrived.is_set)
        await m.unlink("a")
        gate.open()
        await m.drain()
        assert gate.fired
        assert await m.tree() == {}
        assert list((state / "staging").iterdir()) == []
    assert contents(store) == {}


async def test_unlink_and_make_anew_while_its_upload_is_under_way(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "a")
        await m.write_file("a", b"first")
        await until(gate.arrived.is_set)
        await m.unlink("a")
        await m.write_file("a", b"second")
        gate.open()
        await m.drain()
        assert gate.fired
        assert await m.tree() == {"a": b"second"}
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"a": b"second"}


async def test_replaced_while_its_upload_is_under_way(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "a")
        await m.write_file("a", b"first")
        await until(gate.arrived.is_set)
        await m.write_file("t", b"second")
        await m.rename("t", "a")
        gate.open()
        await m.drain()
        assert gate.fired
        assert await m.tree() == {"a": b"second"}
    assert contents(store) == {"a": b"second"}


class Seen(DictStore):
    """Remembers the bodies of puts."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def put(self, key, data, *, metadata=None, if_match=None, if_absent=False):  # type: ignore[no-untyped-def]
        body = data.read() if hasattr(data, "read") else bytes(data)
        self.bodies.append(body)
        return super().put(key, body, metadata=metadata, if_match=if_match, if_absent=if_absent)


@pytest.mark.parametrize("size", [1000, 3 << 20])
async def test_a_write_during_an_upload_does_not_tear_it(state: Path, size: int) -> None:
    store = Seen()
    first, second = b"a" * size, b"b" * size
    async with running(store, state, checkpoint_s=0.02) as m:
        gate = m.store.add("gate", "put", "f")
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        await m.pwrite(handle, first)
        m.vfs.flush(handle)
        await until(gate.arrived.is_set)
        await m.pwrite(handle, second)
        assert await m.pread(handle) == second
        gate.open()
        await m.close(handle)
        await m.drain()
        assert gate.fired
        assert await m.read_file("f") == second
    assert store.bodies == [first, second]
    assert contents(store) == {"f": second}


class Slow(DictStore):
    """Reads what it is given in pieces, and waits after the first one of each file until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.go = threading.Event(), threading.Event()
        self.pieces = 0

    def put(self, key, data, *, metadata=None, if_match=None, if_absent=False):  # type: ignore[no-untyped-def]
        pieces = []
        file = data if hasattr(data, "read") else io.BytesIO(data)
        while piece := file.read(100_000):
            pieces.append(piece)
            self.pieces += 1
            self.reading.set()
            assert self.go.wait(30)
        body = b"".join(pieces)
        return super().put(key, body, metadata=metadata, if_match=if_match, if_absent=if_absent)


@pytest.mark.parametrize("names", [1, 2])
async def test_an_upload_ends_when_its_file_is_removed(state: Path, names: int) -> None:
    store = Slow()
    async with running(store, state) as m:
        await m.write_file("f", bytes(3 << 20))
        if names == 2:
            await m.link("f", "g")
        await until(store.reading.is_set)
        await m.unlink("f")
        store.go.set()
        await m.drain()
        assert await m.tree() == ({} if names == 1 else {"g": bytes(3 << 20)})
    assert (store.pieces == 1) is (names == 1)
    assert contents(store) == ({} if names == 1 else {"g": bytes(3 << 20)})


async def test_an_upload_ends_when_another_file_takes_the_name(state: Path) -> None:
    store = Slow()
    async with running(store, state) as m:
        await m.write_file("f", bytes(3 << 20))
        await until(store.reading.is_set)
        await m.write_file("t", b"new")
        await m.rename("t", "f")
        store.go.set()
        await m.drain()
        assert await m.tree() == {"f": b"new"}
    assert store.pieces <= 3
    assert contents(store) == {"f": b"new"}


async def test_flushed_several_times_is_uploaded_once(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=0.1) as m:
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        await m.pwrite(handle, b"x")
        for _ in range(5):
            m.vfs.flush(handle)
        await m.close(handle)
        await m.drain()
        assert m.store.changes() == [("put", "f")]


async def test_a_file_that_stays_open_is_uploaded_at_the_checkpoint(store: DictStore, state: Path) -> None:
    async with running(store, state, checkpoint_s=0.05) as m:
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        for number in range(4):
            await m.pwrite(handle, b"%d" % number, number)
            await until(lambda n=number: contents(store).get("f") == b"0123"[: n + 1])  # type: ignore[misc]
        await m.close(handle)


async def test_one_slow_upload_does_not_hold_up_the_others(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "slow")
        await m.write_file("slow", b"1")
        await until(gate.arrived.is_set)
        await m.write_file("fast", b"2")
        await until(lambda: contents(store).get("fast") == b"2", "the fast one is in the store")
        assert "slow" not in contents(store)
        gate.open()


async def test_holes_and_truncation_over_a_stored_base(store: DictStore, state: Path) -> None:
    base = bytes(range(256)) * 40
    async with running(store, state) as m:
        for name in ("up", "down", "both", "hole", "zero"):
            await m.write_file(name, base)
        await m.drain()
        expected = {}
        await m.truncate("up", len(base) + 100)
        expected["up"] = base + bytes(100)
        await m.truncate("down", 100)
        expected["down"] = base[:100]
        await m.truncate("both", 100)
        await m.truncate("both", 300)
        await m.patch("both", b"xy", 200)
        expected["both"] = base[:100] + bytes(100) + b"xy" + bytes(98)
        await m.patch("hole", b"end", len(base) + 50)
        expected["hole"] = base + bytes(50) + b"end"
        await m.truncate("zero", 0)
        await m.truncate("zero", 10)
        expected["zero"] = bytes(10)
        assert await m.tree() == expected
        await m.drain()
        assert await m.tree() == expected
    assert contents(store) == expected
    async with running(store, state) as m:
        assert await m.tree() == expected


async def test_partial_overwrite_and_append_of_a_stored_object(store: DictStore, state: Path) -> None:
    base = os.urandom(3 << 20)
    store.put("f", base)
    async with running(store, state) as m:
        await m.patch("f", b"X" * 100, (1 << 20) - 50)
        await m.append("f", b"tail")
        expected = bytearray(base + b"tail")
        expected[(1 << 20) - 50 : (1 << 20) + 50] = b"X" * 100
        assert await m.read_file("f") == expected
        await m.drain()
        assert await m.read_file("f") == expected
    assert contents(store) == {"f": expected}


async def test_two_handles_see_each_others_writes(store: DictStore, state: Path) -> None:
    async with running(store, state, checkpoint_s=0.02) as m:
        one = await m.open("f", os.O_RDWR | os.O_CREAT)
        two = await m.open("f", os.O_RDWR)
        await m.pwrite(one, b"aaaa")
        assert await m.pread(two) == b"aaaa"
        await m.pwrite(two, b"bb", 2)
        assert await m.pread(one) == b"aabb"
        await m.close(one)
        await m.drain()
        await m.pwrite(two, b"c", 4)
        assert await m.pread(two) == b"aabbc"
        await m.close(two)
    assert contents(store) == {"f": b"aabbc"}


async def test_modes_times_owners_and_symlinks_come_back_from_the_store_alone(
    store: DictStore, state: Path, tmp_path: Path
) -> None:
    async with running(store, state) as m:
        await m.mkdir("d", 0o750)
        await m.write_file("d/f", b"x", 0o640)
        await m.setattr("d/f", uid=12, gid=34)
        await m.utimens("d/f", 1_234_567_890_123_456_789)
        await m.symlink("../somewhere/é", "d/l")
        await m.utimens("d", 1_000_000_000_000_000_001)
        await m.mkdir("empty", 0o700)
    async with running(store, tmp_path / "other") as m:
        assert await m.tree() == {"d": None, "d/f": b"x", "d/l": "../somewhere/é", "empty": None}
        node = await m.node("d/f")
        assert (stat.S_IMODE(node.mode), node.uid, node.gid) == (0o640, 12, 34)
        assert node.mtime_ns == node.atime_ns == 1_234_567_890_123_456_789
        folder = await m.node("d")
        assert (stat.S_IMODE(folder.mode), folder.mtime_ns) == (0o750, 1_000_000_000_000_000_001)
        assert stat.S_IMODE((await m.node("empty")).mode) == 0o700
        assert (await m.node("d/l")).size == len("../somewhere/é".encode())


async def test_hard_links_each_hold_the_bytes(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("a", b"one")
        await m.mkdir("d")
        await m.link("a", "d/b")
        assert (await m.node("a")).ino == (await m.node("d/b")).ino
        assert (await m.node("a")).nlink == 2
        await m.drain()
        assert contents(store) == {"a": b"one", "d/": b"", "d/b": b"one"}
        await m.append("d/b", b" two")
        assert await m.read_file("a") == b"one two"
        await m.drain()
        assert contents(store) == {"a": b"one two", "d/": b"", "d/b": b"one two"}
        await m.unlink("a")
        assert await m.read_file("d/b") == b"one two"
        await m.drain()
        assert await m.read_file("d/b") == b"one two"
        assert (await m.node("d/b")).nlink == 1
    assert contents(store) == {"d/": b"", "d/b": b"one two"}


async def test_the_state_may_be_lost_once_nothing_is_pending(tmp_path: Path, state: Path) -> None:
    tree = {"d": None, "d/e": None, "d/e/f": b"1" * 100_000, "g": b""}
    with SqliteStore(tmp_path / "store.sqlite") as store:
        async with running(store, state) as m:
            await m.mkdir("d")
            await m.mkdir("d/e")
            await m.write_file("d/e/f", b"1" * 100_000)
            await m.write_file("g", b"")
    with SqliteStore(tmp_path / "store.sqlite") as store:
        async with running(store, state) as m:
            assert await m.tree() == tree
        async with running(store, tmp_path / "fresh") as m:
            assert await m.tree() == tree


async def test_errors_are_those_of_posix(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        await m.mkdir("d/e")
        await m.write_file("f", b"")
        for verb, args, code in (
            (m.rmdir, ("d",), errno.ENOTEMPTY),
            (m.rmdir, ("f",), errno.ENOTDIR),
            (m.unlink, ("d",), errno.EISDIR),
            (m.unlink, ("no",), errno.ENOENT),
            (m.mkdir, ("f",), errno.EEXIST),
            (m.rename, ("d", "d/e/x"), errno.EINVAL),
            (m.rename, ("d", "f"), errno.ENOTDIR),
            (m.rename, ("f", "d"), errno.EISDIR),
            (m.rename, ("f", "d", 1), errno.EEXIST),
            (m.rename, ("f", "no", 2), errno.ENOENT),
            (m.rename, ("f", "d", 3), errno.EINVAL),
            (m.rename, ("f", "g" * 256), errno.ENAMETOOLONG),
            (m.link, ("d", "x"), errno.EPERM),
            (m.read_file, ("f/x",), errno.ENOTDIR),
            (m.truncate, ("d", 10), errno.EISDIR),
            (m.readlink, ("f",), errno.EINVAL),
        ):
            with pytest.raises(OSError, match=r".") as caught:
                await verb(*args)
            assert caught.value.errno == code, (verb, args)


async def test_read_only_changes_nothing(store: DictStore, state: Path) -> None:
    store.put("f", b"x")
    async with running(store, state, read_only=True) as m:
        with pytest.raises(OSError, match="Read-only"):
            await m.write_file("g", b"")
        with pytest.raises(OSError, match="Read-only"):
            await m.chmod("f", 0o600)
        with pytest.raises(OSError, match="Read-only"):
            await m.open("f", os.O_RDWR)
        assert await m.read_file("f") == b"x"
        assert m.store.changes() == []


async def test_a_reader_goes_on_during_the_upload_of_its_file(store: DictStore, state: Path) -> None:
    base = os.urandom(2 << 20)
    store.put("f", base)
    async with running(store, state) as m:
        handle = await m.open("f")
        gate = m.store.add("gate", "put", "f")
        await m.patch("f", b"changed", 0)
        await until(gate.arrived.is_set)
        assert await m.pread(handle, 0, 100) == b"changed" + base[7:100]
        gate.open()
        await m.drain()
        assert await m.pread(handle, (1 << 20) + 5, 100) == base[(1 << 20) + 5 :][:100]
        await m.close(handle)
        assert gate.fired


async def test_fsync_returns_when_the_store_has_it(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=60, checkpoint_s=60) as m:
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        await m.pwrite(handle, b"now")
        await m.vfs.fsync(handle)
        assert contents(store) == {"f": b"now"}
        await m.pwrite(handle, b"then")
        await m.vfs.fsync(handle)
        assert contents(store) == {"f": b"then"}
        await m.close(handle)


async def test_fsync_local_asks_the_store_nothing(store: DictStore, state: Path) -> None:
    async with running(store, state, fsync="local", upload_delay_s=60, checkpoint_s=60) as m:
        await m.listdir()
        m.store.reset()
        handle = await m.open("f", os.O_RDWR | os.O_CREAT)
        await m.pwrite(handle, b"now")
        await m.vfs.fsync(handle)
        assert m.store.calls == []
        await m.close(handle)


@pytest.mark.parametrize("lacking", ["conditional_put", "conditional_get", "conditional_delete", "metadata"])
async def test_a_store_that_lacks_something_does(store: DictStore, state: Path, lacking: str) -> None:
    faulty = FaultyStore(store, lacking=[lacking])
    async with running(faulty, state) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"1")
        await m.write_file("g", b"g")
        await m.drain()
        await m.append("d/f", b"2")
        await m.chmod("g", 0o600)
        await m.rename("d", "e")
        await m.drain()
        await m.write_file("h", b"")
        await m.unlink("h")
        await m.unlink("g")
        assert await m.tree() == {"e": None, "e/f": b"12"}
        await m.drain()
        assert await m.tree() == {"e": None, "e/f": b"12"}
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"e/": b"", "e/f": b"12"}


async def test_truncating_an_empty_file_on_open_sets_its_time(store: DictStore, state: Path) -> None:
    """As POSIX has it: `: > file` makes a file new for make(1)."""
    async with running(store, state) as m:
        await m.write_file("f", b"")
        await m.utimens("f", 1_000_000_000)
        await m.drain()
        await m.write_file("f", b"")
        assert (await m.node("f")).mtime_ns > 1_000_000_000
        await m.utimens("f", 1_000_000_000)
        await m.close(await m.open("f", os.O_RDWR))
        assert (await m.node("f")).mtime_ns == 1_000_000_000


async def _tells(m: Mounted) -> str:
    return str(m.vfs.status().last_error)


async def test_what_fails_is_told_and_tried_again(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        fault = m.store.add("fail", "put", "f", error=Unavailable("go away"))
        await m.write_file("f", b"1")
        await until(lambda: fault.fired)
        await until(lambda: m.vfs.status().last_error)
        assert "go away" in await _tells(m)
        await m.drain()
    assert contents(store) == {"f": b"1"}
