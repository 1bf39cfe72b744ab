"""What others do to the store: seen, never overwritten in silence, never mixed into what is being read."""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.errors import Unavailable
from mountstore.vfs import reconcile
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running, until


async def test_a_prefix_without_a_marker_is_a_directory_and_stays(store: DictStore, state: Path) -> None:
    store.put("p/q/f", b"x")
    async with running(store, state) as m:
        assert await m.tree() == {"p": None, "p/q": None, "p/q/f": b"x"}
        await m.unlink("p/q/f")
        assert await m.tree() == {"p": None, "p/q": None}
    async with running(store, state.with_name("fresh")) as m:
        assert await m.tree() == {"p": None, "p/q": None}
    assert contents(store, markers=False) == {}


async def test_new_changed_and_removed_objects_are_seen(store: DictStore, state: Path) -> None:
    async with running(store, state, ttl_s=0) as m:
        assert await m.tree() == {}
        store.put("f", b"1")
        store.put("d/g", b"2")
        assert await m.tree() == {"f": b"1", "d": None, "d/g": b"2"}
        store.put("f", b"changed")
        store.put("d/h", b"3")
        assert await m.tree() == {"f": b"changed", "d": None, "d/g": b"2", "d/h": b"3"}
        store.delete("f")
        store.delete("d/g")
        store.delete("d/h")
        assert await m.tree() == {}
        store.put("f/x", b"now a directory")
        assert await m.tree() == {"f": None, "f/x": b"now a directory"}
        assert m.store.changes() == []


async def test_a_listing_counts_for_its_time_to_live(store: DictStore, state: Path) -> None:
    store.put("f", b"1")
    async with running(store, state) as m:
        for _ in range(10):
            assert await m.listdir() == ["f"]
            assert not await m.exists("g")
        assert m.store.requests["list"] == 1


async def _until_stale(m: Mounted, handle: int, size: int) -> bytes:
    """What can be read before the version that was opened is said to be gone."""
    seen = b""
    for offset in range(0, size, 1 << 20):
        try:
            seen += await m.pread(handle, offset, 1 << 20)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            break
    return seen


@pytest.mark.parametrize("then", ["put", "delete"])
async def test_changed_while_open_is_old_or_stale_never_a_mix(
    store: DictStore, state: Path, then: str
) -> None:
    old, new = b"o" * (40 << 20), b"n" * (40 << 20)
    store.put("f", old)
    async with running(store, state, ttl_s=0) as m:
        handle = await m.open("f")
        seen = await m.pread(handle, 0, 100)
        if then == "delete":
            store.delete("f")
        else:
            store.put("f", new)
        await m.listdir()
        seen += await _until_stale(m, handle, len(old))
        assert set(seen) == {ord("o")}
        await m.close(handle)
        if then == "put":
            assert await m.read_file("f") == new


async def test_chmod_of_a_file_that_somebody_replaces_does_not_mix(store: DictStore, state: Path) -> None:
    old, new = b"o" * (40 << 20), b"n" * (40 << 20)
    store.put("f", old)
    async with running(store, state) as m:
        handle = await m.open("f")
        seen = await m.pread(handle, 0, 100)
        store.put("f", new)
        await m.chmod("f", 0o600)
        await m.drain()
        seen += await _until_stale(m, handle, len(old))
        assert set(seen) == {ord("o")}
        await m.close(handle)
    assert contents(store) == {"f": new}


async def test_a_file_beside_a_directory_of_the_same_name(store: DictStore, state: Path) -> None:
    store.put("d", b"file")
    store.put("d/x", b"below")
    async with running(store, state) as m:
        assert await m.tree() == {"d": None, "d/x": b"below", "d%(file)": b"file"}
        await m.append("d%(file)", b"+")
        await m.drain()
        assert contents(store) == {"d": b"file+", "d/x": b"below"}
        await m.rename("d%(file)", "other")
        await m.drain()
        assert contents(store) == {"other": b"file+", "d/x": b"below"}


@pytest.mark.parametrize(
    "key",
    ["a//b", "./x", "../x", "a/./b", "a/../b", "/abs", "n" * 300, "d/" + "é" * 300, "x\0y", "%(00)", "a\nb",
     "d%(file)", "%(..)", "x%(long-0123456789abcdef)", "%(80)", "//", "a/b//"],
)  # fmt: skip
async def test_odd_keys_are_listed_readable_writable_and_removable(
    store: DictStore, state: Path, key: str
) -> None:
    store.put(key, b"x" if not key.endswith("/") else b"")
    store.put("plain", b"y")
    async with running(store, state) as m:
        files = {path: data for path, data in (await m.tree()).items() if data is not None}
        if not key.endswith("/"):
            (path,) = set(files) - {"plain"}
            assert files == {path: b"x", "plain": b"y"}
            await m.append(path, b"z")
            await m.drain()
            assert contents(store, markers=False)[key] == b"xz"
            await m.unlink(path)
        for name in await m.listdir():
            if (await m.node(name)).is_dir:
                await m.rmtree(name)
            else:
                await m.unlink(name)
        await m.drain()
        assert await m.tree() == {}
    assert contents(store) == {}


async def test_an_old_listing_neither_brings_back_nor_drops(store: DictStore, state: Path) -> None:
    store.put("gone", b"x")
    store.put("changed", b"x")
    store.put("moved", b"m")
    async with running(store, state, ttl_s=0) as m:
        await m.tree()
        m.store.freeze_listings()
        await m.unlink("gone")
        await m.write_file("new", b"n")
        await m.write_file("changed", b"c")
        await m.mkdir("d")
        await m.rename("moved", "d/moved")
        expected = {"new": b"n", "changed": b"c", "d": None, "d/moved": b"m"}
        assert await m.tree() == expected
        await m.drain()
        for _ in range(3):
            assert await m.tree() == expected
        assert m.store.old_listings
        m.store.thaw_listings()
        assert await m.tree() == expected
        assert m.vfs.status().conflicts == []
    assert contents(store, markers=False) == {"new": b"n", "changed": b"c", "d/moved": b"m"}


async def test_changes_while_a_listing_is_under_way(store: DictStore, state: Path) -> None:
    for name in ("gone", "moved", "stays"):
        store.put(f"d/{name}", name.encode())
    async with running(store, state) as m:
        await m.tree()
        async with running(store, state.with_name("other"), ttl_s=0.001, upload_delay_s=0.001) as n:
            await n.tree()
            await trio.sleep(0.005)
            hold = threading.Event()
            gate = n.store.add("after", "list", "d/", act=lambda: hold.wait(20))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(n.listdir, "d")
                await until(gate.arrived.is_set)
                parent = await n.node("d")
                # Verbs that do not wait for a listing of their own.
                n.vfs._tree.unlink(parent, b"gone")
                n.vfs._reconciler.wake()
                await until(lambda: not store.exists("d/gone"))
                hold.set()
            assert await n.listdir("d") == ["moved", "stays"]
            assert gate.fired


async def _read_slowly(m: Mounted, path: str, between) -> list[str]:  # type: ignore[no-untyped-def]
    handle = m.vfs.opendir((await m.node(path)).ino)
    out: list[str] = []
    after = 0
    while True:
        entries, _ = await m.vfs.readdir(handle, after)
        if not entries:
            break
        # As a full buffer does: only some are taken.
        for dentry, _ in entries[:50]:
            out.append(os.fsdecode(dentry.name))
            after = dentry.id
        await between(len(out))
        assert len(out) < 3000, "this never ends"
    m.vfs.releasedir(handle)
    return out


async def test_a_directory_that_changes_while_it_is_read(store: DictStore, state: Path) -> None:
    for number in range(1000):
        store.put(f"d/{number:04}", b"x")

    async with running(store, state) as m:

        async def change(count: int) -> None:
            if count > 1000:
                return
            await m.write_file(f"d/new{count}", b"")
            if count % 100 == 0:
                await m.unlink(f"d/{1000 - count // 100:04}")
                await m.rename(f"d/{count // 100 + 500:04}", f"d/renamed{count}")

        names = await _read_slowly(m, "d", change)
        assert len(names) == len(set(names))
        throughout = {name for name in await m.listdir("d") if name.isdecimal()}
        assert throughout <= set(names)


async def test_a_name_that_is_replaced_while_its_directory_is_read_comes_once(
    store: DictStore, state: Path
) -> None:
    for number in range(300):
        store.put(f"d/{number:04}", b"x")
    async with running(store, state) as m:
        done = 0

        async def save(count: int) -> None:
            # As `find -exec sed -i` does with what it was given.
            nonlocal done
            for number in range(done, min(count, 300)):
                await m.write_file("d/tmp", b"y")
                await m.rename("d/tmp", f"d/{number:04}")
            done = count

        names = [name for name in await _read_slowly(m, "d", save) if name != "tmp"]
        assert sorted(names) == [f"{number:04}" for number in range(300)]


async def test_a_large_directory_is_passed_on_as_it_comes(store: DictStore, state: Path) -> None:
    for number in range(3500):
        store.put(f"{number:05}", b"")
    async with running(store, state, attrs="listed") as m:
        handle = m.vfs.opendir(1)
        m.store.add("after", "list", "")
        gate = m.store.add("gate", "list", "")
        entries, _ = await m.vfs.readdir(handle, 0)
        assert entries
        await until(gate.arrived.is_set)
        gate.open()
        names = []
        after = 0
        while entries:
            names += [os.fsdecode(dentry.name) for dentry, _ in entries]
            after = entries[-1][0].id
            entries, _ = await m.vfs.readdir(handle, after)
        m.vfs.releasedir(handle)
        assert sorted(names) == [f"{number:05}" for number in range(3500)]


@pytest.mark.parametrize("text", ["9" * 30, "-" + "9" * 30, "0001-01-01T00:00:00", "x", "4294967296"])
async def test_no_metadata_of_others_ends_the_mount(store: DictStore, state: Path, text: str) -> None:
    metadata = dict.fromkeys(("mode", "uid", "gid", "mtime", "atime", "ctime", "rdev"), text)
    store.put("f", b"x", metadata=metadata)
    store.put("d/", b"", metadata=metadata)
    async with running(store, state) as m:
        assert await m.tree() == {"d": None, "f": b"x"}


async def test_a_file_with_an_odd_name_beside_a_directory_of_the_same(store: DictStore, state: Path) -> None:
    objects = {".": b"1", "./x": b"2", "..": b"3", "../x": b"4", "n" * 300: b"5", "n" * 300 + "/x": b"6"}
    for key, data in objects.items():
        store.put(key, data)
    async with running(store, state) as m:
        files = {path: data for path, data in (await m.tree()).items() if isinstance(data, bytes)}
        assert sorted(files.values()) == sorted(objects.values())
        for path in files:
            await m.append(path, b"+")
        await m.drain()
    assert contents(store) == {key: data + b"+" for key, data in objects.items()}


# -- conflicts -------------------------------------------------------------------------------------


def _conflict(m: Mounted) -> str:
    (path,) = m.vfs.status().conflicts
    return path.removeprefix("/")


async def test_a_foreign_change_before_our_upload_keeps_both(store: DictStore, state: Path) -> None:
    store.put("f", b"old")
    async with running(store, state) as m:
        await m.read_file("f")
        store.put("f", b"theirs")
        await m.write_file("f", b"ours")
        await m.drain()
        path = _conflict(m)
        assert path.startswith("f.conflict-")
        assert await m.tree() == {"f": b"theirs", path: b"ours"}
        assert contents(store) == {"f": b"theirs", path: b"ours"}
        await m.unlink(path)
        assert m.vfs.status().conflicts == []


async def test_a_foreign_change_before_a_partial_write_is_told(store: DictStore, state: Path) -> None:
    """What we did not overwrite is nowhere any more, unless it was kept: nothing is lost in silence."""
    store.put("f", b"0123456789")
    async with running(store, state) as m:
        await m.read_file("f")
        handle = await m.open("f", os.O_RDWR)
        store.put("f", b"theirs")
        await m.pwrite(handle, b"AB", 10)
        await m.close(handle)
        with trio.fail_after(5):
            await m.vfs.drain()
        path = _conflict(m)
        assert await m.tree() == {"f": b"theirs", path: b"0123456789AB"}


async def test_a_foreign_delete_while_ours_is_dirty(store: DictStore, state: Path) -> None:
    store.put("f", b"old")
    async with running(store, state, ttl_s=0) as m:
        await m.read_file("f")
        gate = m.store.add("gate", "put", "f")
        await m.write_file("f", b"ours")
        await until(gate.arrived.is_set)
        store.delete("f")
        assert await m.tree() == {"f": b"ours"}
        gate.open()
        await m.drain()
        assert await m.tree() == {"f": b"ours"}
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"f": b"ours"}


@pytest.mark.parametrize("size", [4, 3 << 20])
async def test_a_foreign_file_of_the_same_new_name(store: DictStore, state: Path, size: int) -> None:
    async with running(store, state) as m:
        await m.listdir()
        store.put("f", b"theirs")
        await m.write_file("f", b"o" * size)
        await m.drain()
        path = _conflict(m)
        assert await m.tree() == {"f": b"theirs", path: b"o" * size}
    assert contents(store) == {"f": b"theirs", path: b"o" * size}


async def test_without_conditional_put_it_looks_first(store: DictStore, state: Path) -> None:
    async with running(FaultyStore(store, lacking=["conditional_put"]), state) as m:
        await m.listdir()
        store.put("f", b"theirs")
        await m.write_file("f", b"ours")
        await m.drain()
        path = _conflict(m)
    assert contents(store) == {"f": b"theirs", path: b"ours"}


@pytest.mark.parametrize("lacking", [(), ("metadata",)], ids=["metadata", "none"])
@pytest.mark.parametrize("again", [False, True])
async def test_the_lost_reply_of_a_put_is_no_conflict(
    store: DictStore, state: Path, again: bool, lacking: tuple[str, ...]
) -> None:
    store.put("f", b"old")
    async with running(store, state, lacking=lacking) as m:
        for name in ("f", "new"):
            lost = m.store.add("lose", "put", name)
            await m.write_file(name, b"ours")
            await until(lambda lost=lost: lost.fired)  # type: ignore[misc]
            await until(lambda: m.vfs.status().last_error)
            if again:
                await m.append(name, b" again")
            await m.drain()
            assert m.vfs.status().conflicts == []
    content = b"ours again" if again else b"ours"
    assert contents(store) == {"f": content, "new": content}


async def test_the_lost_reply_of_a_change_of_attributes_loses_none(store: DictStore, state: Path) -> None:
    store.put("f", b"x")
    async with running(store, state) as m:
        lost = m.store.add("lose", "copy", "f")
        await m.chmod("f", 0o600)
        await m.utimens("f", 10**18)
        await m.drain()
        assert lost.fired
        node = await m.node("f")
        assert (stat.S_IMODE(node.mode), node.mtime_ns) == (0o600, 10**18)
        assert m.vfs.status().conflicts == []
    async with running(store, state.with_name("fresh")) as m:
        node = await m.node("f")
        assert (stat.S_IMODE(node.mode), node.mtime_ns) == (0o600, 10**18)


async def test_the_lost_reply_of_a_copy_without_metadata_is_no_conflict(
    store: DictStore, state: Path
) -> None:
    store.put("f", b"x" * 100)
    async with running(store, state, lacking=["metadata"]) as m:
        await m.tree()
        lost = m.store.add("lose", "copy", "g")
        await m.rename("f", "g")
        await until(lambda: lost.fired)
        await m.drain()
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"g": b"x" * 100}


async def test_somebody_elses_object_is_not_taken_for_ours_where_there_is_no_metadata(
    store: DictStore, state: Path
) -> None:
    """Its size is the same, and the answer to our put was lost without having landed."""
    async with running(store, state, lacking=["metadata"]) as m:
        await m.tree()
        lost = m.store.add("fail", "put", "f", act=lambda: None)
        await m.write_file("f", b"ours!!")
        await until(lambda: lost.fired)
        store.put("f", b"theirs")
        await m.drain()
        path = _conflict(m)
    assert contents(store) == {"f": b"theirs", path: b"ours!!"}


async def test_the_lost_reply_of_a_copy_and_then_a_chmod(store: DictStore, state: Path) -> None:
    store.put("f", b"x")
    async with running(store, state) as m:
        await m.tree()
        lost = m.store.add("lose", "copy", "g")
        await m.rename("f", "g")
        await until(lambda: lost.fired)
        await until(lambda: m.vfs.status().last_error)
        await m.chmod("g", 0o600)
        await m.drain()
        assert m.vfs.status().conflicts == []
        assert await m.tree() == {"g": b"x"}
        assert stat.S_IMODE((await m.node("g")).mode) == 0o600
    assert contents(store) == {"g": b"x"}


async def test_what_was_unlinked_but_changed_by_somebody_comes_back(store: DictStore, state: Path) -> None:
    store.put("f", b"old")
    async with running(store, state) as m:
        await m.read_file("f")
        store.put("f", b"theirs")
        await m.unlink("f")
        await m.drain()
        assert await m.tree() == {"f": b"theirs"}
    assert contents(store) == {"f": b"theirs"}


async def test_the_source_of_a_move_is_changed_by_somebody(store: DictStore, state: Path) -> None:
    store.put("f", b"old")
    async with running(store, state) as m:
        await m.tree()
        store.put("f", b"theirs")
        await m.rename("f", "g")
        await m.drain()
        assert b"theirs" in (await m.tree()).values()
    assert b"theirs" in contents(store).values()


@pytest.mark.parametrize("lost", [False, True], ids=["by somebody", "by a delete whose answer was lost"])
async def test_renamed_over_what_is_gone_from_the_store(store: DictStore, state: Path, lost: bool) -> None:
    async with running(store, state) as m:
        await m.write_file("a", b"old")
        await m.write_file("b", b"new")
        await m.drain()
        if lost:
            fault = m.store.add("lose", "delete", "a")
            await m.unlink("a")
            await until(lambda: fault.fired)
        else:
            store.delete("a")
        await m.rename("b", "a")
        await m.drain()
        assert await m.tree() == {"a": b"new"}
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"a": b"new"}


@pytest.mark.parametrize("kind", ["chmod", "chown", "symlink", "fifo"])
async def test_attributes_do_not_outlive_the_object_that_had_them(
    store: DictStore, state: Path, tmp_path: Path, kind: str
) -> None:
    """Somebody replaces an object with a plain one: it looks as it would to a new mount."""
    async with running(store, state, ttl_s=0) as m:
        if kind == "symlink":
            await m.symlink("target", "f")
        elif kind == "fifo":
            await m.mknod("f", stat.S_IFIFO | 0o600)
        else:
            await m.write_file("f", b"content")
            await m.setattr("f", **({"mode": 0o700} if kind == "chmod" else {"uid": 12, "gid": 13}))
        await m.drain()
        store.put("f", b"plain")
        here = await m.node("f")
        assert await m.read_file("f") == b"plain"
        async with running(store, tmp_path / "another") as other:
            there = await other.node("f")
            assert (here.mode, here.uid, here.gid) == (there.mode, there.uid, there.gid)
            assert stat.S_ISREG(here.mode)


@pytest.mark.parametrize("read", [False, True])
async def test_moved_while_somebody_replaces_it(store: DictStore, state: Path, read: bool) -> None:
    """The store has the old content no more: it is kept if it was read here, else gone; never zeros."""
    async with running(store, state, ttl_s=0) as m:
        await m.write_file("a", b"known to both")
    async with running(store, state, ttl_s=0) as m:
        if read:
            await m.read_file("a")
        gate = m.store.add("gate", "copy")
        await m.rename("a", "b")
        await until(gate.arrived.is_set)
        store.put("a", b"theirs")
        assert await m.listdir() == ["a", "b"]
        gate.open()
        await m.drain()
        tree = await m.tree()
        assert tree == {"a": b"theirs"} | ({"b": b"known to both"} if read else {})
    assert contents(store) == tree


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_removed_while_it_is_asked_what_became_of_a_request(
    store: DictStore, state: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.002,))
    key = "f" if kind == "file" else "f/"
    async with running(store, state) as m:
        await (m.write_file("f", b"x") if kind == "file" else m.mkdir("f"))
        await m.drain()
        lost = m.store.add("lose", "put copy", key)
        gate = m.store.add("gate", "head", key)
        await m.chmod("f", 0o700)
        await until(lambda: lost.fired and gate.arrived.is_set())
        await (m.unlink("f") if kind == "file" else m.rmdir("f"))
        gate.open()
        await m.drain()
    assert contents(store) == {}


async def test_a_directory_marker_that_is_not_ours_is_kept(store: DictStore, state: Path) -> None:
    store.put("d/", b"content of somebody")
    async with running(store, state) as m:
        await m.chmod("d", 0o700)
        await m.write_file("d/f", b"")
    assert contents(store) == {"d/": b"content of somebody", "d/f": b""}


# -- outage ----------------------------------------------------------------------------------------


async def test_an_outage_is_not_noticed_where_all_is_known(store: DictStore, state: Path) -> None:
    store.put("d/f", b"stored")
    async with running(store, state, ttl_s=0.05) as m:
        await m.tree()
        m.store.down = True
        await trio.sleep(0.1)
        await m.write_file("d/g", b"new")
        await m.mkdir("e")
        await m.rename("d/f", "e/f")
        assert await m.tree() == {"d": None, "d/g": b"new", "e": None, "e/f": b"stored"}
        await until(lambda: m.vfs.status().last_error)
        assert m.vfs.status().pending_count
        m.store.down = False
        await m.drain()
        assert m.vfs.status().pending_count == 0
    assert contents(store, markers=False) == {"d/g": b"new", "e/f": b"stored"}


async def test_what_was_never_seen_is_an_error_in_an_outage(store: DictStore, state: Path) -> None:
    store.put("d/f", b"stored")
    async with running(store, state) as m:
        await m.listdir()
        m.store.down = True
        with pytest.raises(Unavailable):
            await m.listdir("d")
        with pytest.raises(Unavailable):
            await m.node("d/f")
        m.store.down = False
        assert await m.tree() == {"d": None, "d/f": b"stored"}


async def test_fsync_waits_for_the_end_of_an_outage_and_then_fails(store: DictStore, state: Path) -> None:
    async with running(store, state, fsync_timeout_s=0.3) as m:
        await m.listdir()
        m.store.down = True
        await m.write_file("f", b"x")
        with pytest.raises(trio.TooSlowError):
            await m.fsync("f")
        assert await m.read_file("f") == b"x"
        m.store.down = False
        await m.drain()
        await m.fsync("f")
    assert contents(store) == {"f": b"x"}


async def test_a_reader_waits_for_nothing_that_is_staged(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=60) as m:
        await m.write_file("f", b"x" * 3_000_000)
        m.store.down = True
        assert await m.read_file("f") == b"x" * 3_000_000
        m.store.down = False


@pytest.mark.parametrize("then", ["unlink", "rename"])
async def test_the_lost_reply_of_a_put_and_then_an_unlink(store: DictStore, state: Path, then: str) -> None:
    async with running(store, state, ttl_s=0) as m:
        await m.listdir()
        lost = m.store.add("lose", "put", "f")
        await m.write_file("f", b"content")
        await until(lambda: lost.fired)
        await until(lambda: m.vfs.status().last_error)
        expected = {}
        if then == "unlink":
            await m.unlink("f")
        else:
            await m.rename("f", "g")
            expected = {"g": b"content"}
        assert await m.tree() == expected
        await m.drain()
        assert await m.tree() == expected
    assert contents(store) == expected


async def test_a_file_whose_content_is_in_a_stale_object_alone_is_copied(
    store: DictStore, state: Path
) -> None:
    """However it came about: nobody waits for a copy that nobody makes."""
    async with running(store, state) as m:
        await m.write_file("f", b"x")
        await m.drain()
        index = m.vfs._index
        known = index.object("f")
        assert known is not None
        etag = store.put("g", b"x").etag
        store.delete("f")
        with index.transaction():
            index.drop_object("f")
            index.put_object(replace(known, key="g", etag=etag, stale=1))
        await m.drain()
        assert contents(store) == {"f": b"x"}


async def test_what_the_store_has_needs_nothing_of_an_older_object(store: DictStore, state: Path) -> None:
    """A file that is in the store, and yet staged over an object that is to go: nobody waits for anybody."""
    async with running(store, state) as m:
        await m.write_file("f", b"old")
        await m.drain()
        index = m.vfs._index
        old = index.object("f")
        assert old is not None
        await m.patch("f", b"new", 0)
        await m.drain()
        node = await m.node("f")
        etag = store.put("g", b"old").etag
        layer = m.vfs._content._push(node)
        layer.write(0, b"new")
        with index.transaction():
            index.put_object(replace(old, key="g", etag=etag, stale=1))
            node.base_cid = old.cid
            index.save(node)
        await m.drain()
        assert contents(store) == {"f": b"new"}
        assert await m.read_file("f") == b"new"
        assert node.is_clean


async def test_a_name_that_is_removed_while_the_store_is_asked_for_it(
    store: DictStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing beside the question is over by then; the answer is older than the removal all the same."""
    monkeypatch.setattr("mountstore.vfs.listing._PAGE", 10)
    for number in range(20):
        store.put(f"f{number:02}", b"")
    store.put("z", b"removed")
    slow = FaultyStore(store)
    answer = threading.Event()
    slow.add("after", "head", "z")  # it is asked twice
    asked = slow.add("after", "head", "z", act=lambda: answer.wait(10))
    slow.add("after", "list", "")  # the first page comes at once
    second = slow.add("gate", "list", "")
    async with running(slow, state, attrs="stored") as m, trio.open_nursery() as nursery:
        nursery.start_soon(m.exists, "z")
        await until(asked.arrived.is_set)
        second.open()
        assert "z" in await m.listdir()
        await m.unlink("z")
        await m.drain()
        answer.set()
        await until(lambda: not m.vfs._listing._asking)
        assert "z" not in await m.listdir()


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_moved_over_another_whose_object_is_still_there(
    store: DictStore, state: Path, how: str
) -> None:
    """What was moved is gone before it is copied: the name has what the store has under it."""
    async with running(store, state) as m:
        await m.write_file("a", b"moved")
        await m.write_file("b", b"replaced here")
    async with running(store, state) as m:
        gate = m.store.add("gate", "head copy", "b")
        await m.rename("a", "b")
        await until(gate.arrived.is_set)
        store.delete("a")
        if how == "replaced":
            store.put("a", b"theirs")
        gate.open()
        await m.drain()
        assert "b" in await m.tree()
        assert await m.tree() == contents(store)
