"""Moving names: at once for the user, and the store follows, whatever else happens meanwhile."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.errors import StoreFull
from mountstore.vfs import reconcile
from mountstore.vfs.clearing import Clearing
from mountstore.vfs.rows import Node
from tests.vfs.mounted import EXCHANGE, Mounted, contents, running, until

DIRECTORY = {"d/": b"", "d/f": b"1", "d/s/": b"", "d/s/g": b"22", "d/s/t/h": b"333"}
"""As somebody else may have left it: `d/s/t/` has no marker."""


def moved(objects: dict[str, bytes], source: str, target: str) -> dict[str, bytes]:
    return {target + key.removeprefix(source): data for key, data in objects.items()}


def fill(store: DictStore, objects: dict[str, bytes] = DIRECTORY) -> None:
    for key, data in objects.items():
        store.put(key, data)


@pytest.mark.parametrize("listed", [False, True])
async def test_a_directory_that_was_or_was_not_listed(store: DictStore, state: Path, listed: bool) -> None:
    fill(store)
    async with running(store, state) as m:
        if listed:
            await m.tree()
        await m.rename("d", "e")
        assert await m.listdir() == ["e"]
        await m.drain()
        assert await m.tree() == {
            "e": None, "e/f": b"1", "e/s": None, "e/s/g": b"22", "e/s/t": None, "e/s/t/h": b"333",
        }  # fmt: skip
    found = contents(store)
    found.pop("e/s/t/", None)
    assert found == moved(DIRECTORY, "d/", "e/")


async def test_a_directory_with_dirty_children(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state, upload_delay_s=0.1) as m:
        await m.write_file("d/new", b"new")
        await m.append("d/f", b"+")
        handle = await m.open("d/s/g", os.O_RDWR)
        await m.pwrite(handle, b"XX")
        await m.rename("d", "e")
        await m.pwrite(handle, b"YY", 2)
        await m.close(handle)
        expected = {
            "e": None, "e/new": b"new", "e/f": b"1+", "e/s": None, "e/s/g": b"XXYY", "e/s/t": None,
            "e/s/t/h": b"333",
        }  # fmt: skip
        assert await m.tree() == expected
        await m.drain()
        assert await m.tree() == expected
    assert contents(store, markers=False) == {k: v for k, v in expected.items() if v is not None}


async def test_a_chain_of_renames(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("a", b"1")
        await m.write_file("b", b"2")
        await m.write_file("c", b"3")
        await m.drain()
        await m.rename("c", "d")
        await m.rename("b", "c")
        await m.rename("a", "b")
        expected = {"b": b"1", "c": b"2", "d": b"3"}
        assert await m.tree() == expected
        await m.drain()
        assert await m.tree() == expected
    assert contents(store) == expected


async def test_a_chain_of_renames_of_one_file_costs_one_copy(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=0.1) as m:
        await m.write_file("a", b"1")
        await m.drain()
        m.store.reset()
        for source, target in (("a", "b"), ("b", "c"), ("c", "d")):
            await m.rename(source, target)
        await m.drain()
        assert sorted(m.store.changes()) == [("copy", "d"), ("delete", "a")]
    assert contents(store) == {"d": b"1"}


@pytest.mark.parametrize("dirty", ["", "a", "b", "ab"])
async def test_two_files_change_places(store: DictStore, state: Path, dirty: str) -> None:
    big = {"a": b"A" * (3 << 20), "b": b"B" * (2 << 20)}
    fill(store, big)
    async with running(store, state) as m:
        expected = {"a": bytearray(big["b"]), "b": bytearray(big["a"])}
        for name in dirty:
            await m.patch(name, b"patched", 5)
            expected["b" if name == "a" else "a"][5:12] = b"patched"
        await m.rename("a", "b", EXCHANGE)
        await m.drain()
        assert await _bytes(m) == expected
    assert contents(store) == expected


async def test_two_patched_files_change_places_while_content_is_fetched(
    store: DictStore, state: Path
) -> None:
    big = {"a": b"A" * (3 << 20), "b": b"B" * (2 << 20)}
    fill(store, big)
    async with running(store, state) as m:
        gate_get = m.store.add("gate", "get", "b")
        gate_put = m.store.add("gate", "put")
        await m.patch("a", b"patched a", 5)
        await m.patch("b", b"patched b", 5)
        await m.rename("a", "b", EXCHANGE)
        await until(gate_get.arrived.is_set)
        await until(lambda: gate_put.arrived.is_set() or m.store.requests["get"] >= 3)
        gate_get.open()
        await until(gate_put.arrived.is_set)
        for name in "ab":
            await m.patch(name, b"again", 100)
        gate_put.open()
        expected = {"a": bytearray(big["b"]), "b": bytearray(big["a"])}
        expected["a"][5:14], expected["b"][5:14] = b"patched b", b"patched a"
        expected["a"][100:105] = expected["b"][100:105] = b"again"
        assert await _bytes(m) == expected
        await m.drain()
        assert await _bytes(m) == expected
        assert gate_get.fired
        assert gate_put.fired
    assert contents(store) == expected


async def _bytes(m: Mounted) -> dict[str, bytes]:
    return {path: await m.read_file(path) for path in ("a", "b")}


async def test_two_directories_change_places(store: DictStore, state: Path) -> None:
    fill(store)
    other = {"o/": b"", "o/f": b"other", "o/only": b"o"}
    fill(store, other)
    async with running(store, state) as m:
        await m.rename("d", "o", EXCHANGE)
        await m.drain()
        assert await m.read_file("d/f") == b"other"
        assert await m.read_file("o/s/t/h") == b"333"
        assert sorted(await m.listdir("d")) == ["f", "only"]
    found = contents(store)
    found.pop("o/s/t/", None)
    assert found == moved(DIRECTORY, "d/", "o/") | moved(other, "o/", "d/")


async def test_a_directory_and_a_file_change_places(store: DictStore, state: Path) -> None:
    fill(store)
    store.put("file", b"file")
    async with running(store, state) as m:
        await m.rename("d", "file", EXCHANGE)
        await m.drain()
        assert await m.read_file("d") == b"file"
        assert await m.read_file("file/s/g") == b"22"
    found = contents(store, markers=False)
    assert found == {"d": b"file", "file/f": b"1", "file/s/g": b"22", "file/s/t/h": b"333"}


async def test_moved_and_removed_at_once(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state) as m:
        await m.rename("d", "e")
        await m.rmtree("e")
        assert await m.tree() == {}
        await m.drain()
        assert await m.tree() == {}
    assert contents(store) == {}


async def test_a_file_leaves_a_directory_that_has_just_moved(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state) as m:
        await m.rename("d", "e")
        await m.rename("e/s/g", "g")
        await m.rename("e/s/t", "t")
        await m.drain()
        assert await m.tree() == {
            "e": None, "e/f": b"1", "e/s": None, "g": b"22", "t": None, "t/h": b"333",
        }  # fmt: skip
    assert contents(store, markers=False) == {"e/f": b"1", "g": b"22", "t/h": b"333"}


@pytest.mark.parametrize("listed", [False, True])
async def test_moved_and_made_again_with_the_same_names(store: DictStore, state: Path, listed: bool) -> None:
    fill(store)
    async with running(store, state) as m:
        if listed:
            await m.tree()
        m.store.down = True
        if not listed:
            m.store.down = False
            await m.listdir()
            m.store.down = True
        await m.rename("d", "e")
        await m.mkdir("d")
        await m.write_file("d/f", b"another")
        gate = m.store.add("gate", "list", "d/")
        m.store.down = False
        if not listed:
            await until(gate.arrived.is_set)
        async with trio.open_nursery() as nursery:
            # It may have to wait for the listing, but nothing else does.
            nursery.start_soon(m.fsync, "d/f")
            await trio.sleep(0.05)
            assert await m.read_file("d/f") == b"another"
            gate.open()
        await m.drain()
        assert m.vfs.status().conflicts == []
        assert await m.read_file("d/f") == b"another"
        assert await m.read_file("e/f") == b"1"
        assert await m.listdir("d") == ["f"]
    expected = {"d/f": b"another", "e/f": b"1", "e/s/g": b"22", "e/s/t/h": b"333"}
    assert contents(store, markers=False) == expected


async def test_removed_and_made_again(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"1")
        await m.drain()
        gate = m.store.add("gate", "delete", times=2)
        await m.rmtree("d")
        await until(gate.arrived.is_set)
        await m.mkdir("d")
        await m.write_file("d/g", b"2")
        gate.open()
        await m.drain()
        assert gate.fired
        assert await m.tree() == {"d": None, "d/g": b"2"}
    assert contents(store) == {"d/": b"", "d/g": b"2"}


async def test_a_file_becomes_a_directory_and_a_file_again(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("x", b"file")
        await m.drain()
        gate = m.store.add("gate", "delete", "x")
        await m.unlink("x")
        await m.mkdir("x")
        await m.write_file("x/f", b"1")
        await until(gate.arrived.is_set)
        assert await m.tree() == {"x": None, "x/f": b"1"}
        gate.open()
        await m.drain()
        assert await m.tree() == {"x": None, "x/f": b"1"}
        assert contents(store) == {"x/": b"", "x/f": b"1"}
        await m.rmtree("x")
        await m.write_file("x", b"file again")
        assert await m.tree() == {"x": b"file again"}
        await m.drain()
        assert await m.tree() == {"x": b"file again"}
    assert contents(store) == {"x": b"file again"}


async def test_a_directory_takes_the_place_of_an_empty_one(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state) as m:
        await m.mkdir("e")
        await m.drain()
        await m.rename("d", "e")
        await m.drain()
        assert await m.read_file("e/s/t/h") == b"333"
        assert await m.listdir() == ["e"]
    assert contents(store, markers=False) == {"e/f": b"1", "e/s/g": b"22", "e/s/t/h": b"333"}


async def test_a_hard_link_in_a_directory_that_moves(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"1")
        await m.link("d/f", "g")
        await m.drain()
        await m.rename("d", "e")
        await m.unlink("g")
        await m.append("e/f", b"2")
        await m.drain()
        assert await m.tree() == {"e": None, "e/f": b"12"}
    assert contents(store) == {"e/": b"", "e/f": b"12"}


async def test_a_directory_moves_while_a_file_in_it_is_being_uploaded(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.mkdir("d")
        gate = m.store.add("gate", "put", "d/f")
        await m.write_file("d/f", b"1")
        await until(gate.arrived.is_set)
        await m.rename("d", "e")
        await m.rename("e", "g")
        gate.open()
        await m.drain()
        assert gate.fired
        assert await m.tree() == {"g": None, "g/f": b"1"}
    assert contents(store) == {"g/": b"", "g/f": b"1"}


async def test_an_unlinked_file_of_a_moved_directory_stays_readable(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state) as m:
        handle = await m.open("d/f")
        await m.rename("d", "e")
        await m.unlink("e/f")
        await m.write_file("e/f", b"another")
        await m.rename("e", "d")
        assert await m.pread(handle) == b"1"
        await m.close(handle)
        await m.drain()
        assert await m.read_file("d/f") == b"another"
    assert contents(store, markers=False) == {"d/f": b"another", "d/s/g": b"22", "d/s/t/h": b"333"}


async def test_two_files_change_places_again_and_again(store: DictStore, state: Path) -> None:
    expected = {"a": b"A", "b": b"B"}
    fill(store, expected)
    async with running(store, state) as m:
        await m.tree()
        for _ in range(30):
            await m.rename("a", "b", EXCHANGE)
            expected = {"a": expected["b"], "b": expected["a"]}
            await m.drain()
            assert contents(store) == expected
            assert await m.tree() == expected


@pytest.mark.parametrize("seed", range(6))
async def test_folders_that_move_on_before_they_were_visited(
    store: DictStore, state: Path, seed: int
) -> None:
    """What was uploaded below a place of passage goes with the folder, and the queue comes to its end."""
    choose = random.Random(seed)
    async with running(store, state, upload_delay_s=0) as m:
        await m.mkdir("w")
        for folder in ("w/a", "w/a/b", "w/a/b/c"):
            await m.mkdir(folder)
            for number in range(4):
                await m.write_file(f"{folder}/{number}", folder.encode())
        places = ["w/a", "w/z", "x", "w/y"]
        here = places[0]
        for _ in range(12):
            for _ in range(choose.randrange(40)):
                await trio.lowlevel.checkpoint()
            there = choose.choice([place for place in places if place != here])
            await m.rename(here, there)
            here = there
            if choose.random() < 0.3:
                await m.rename(f"{here}/b", f"{here}/bb")
                await m.rename(f"{here}/bb", f"{here}/b")
        await m.drain()
        tree = await m.tree()
    assert contents(store, markers=False) == {k: v for k, v in tree.items() if v is not None}
    assert len(contents(store, markers=False)) == 12
    markers = {key.rstrip("/") for key in store.keys() if key.endswith("/")}
    assert markers == {path for path, content in tree.items() if content is None}


@pytest.mark.parametrize("change", ["unlink", "rename", "rename folder", "replace"])
async def test_a_folder_comes_back_with_fewer_names(store: DictStore, state: Path, change: str) -> None:
    """It was never visited in between, so nobody has taken away what it left at its first place."""
    async with running(store, state, upload_delay_s=60) as m:
        for folder in ("a", "a/c"):
            await m.mkdir(folder)
            for name in ("f", "g"):
                await m.write_file(f"{folder}/{name}", b"old")
        store.put("a/d_$folder$", b"")
        await m.drain()
        m.vfs._listing.expire(await m.node("a"))
        await m.listdir("a")
        await m.rename("a", "b")
        for folder in ("b", "b/c"):
            # Fetched for that, it needs its object no more, which is then known by its place alone.
            await m.append(f"{folder}/f", b" and new")
        if change == "unlink":
            await m.unlink("b/f")
            await m.unlink("b/c/f")
        elif change == "rename":
            await m.rename("b/f", "f")
            await m.rename("b/c/f", "b/c/h")
        elif change == "replace":
            await m.rename("b/f", "b/g")
            await m.rename("b/c/f", "b/c/g")
        else:
            await m.rename("b/c", "b/e")
        await m.rename("b", "a")
        await m.drain()
        expected = {path: data for path, data in (await m.tree()).items() if data is not None}
        assert contents(store, markers=False) == {**expected, "a/d_$folder$": b""}
    async with running(store, state.with_name("another")) as m:
        assert {path: data for path, data in (await m.tree()).items() if data is not None} == expected


async def test_a_folder_that_left_a_moved_one_before_it_was_listed(store: DictStore, state: Path) -> None:
    fill(store)
    async with running(store, state, upload_delay_s=60) as m:
        await m.rename("d", "e")
        await m.rename("e/s/t", "t")
        assert await m.listdir("t") == ["h"]
        expected = await m.tree()
        await m.drain()
        assert await m.tree() == expected
    assert contents(store, markers=False) == {"e/f": b"1", "e/s/g": b"22", "t/h": b"333"}


async def test_a_second_name_moves_while_the_first_is_copied(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("first", b"replaced")
        await m.write_file("a", b"content")
        await m.link("a", "b")
        await m.drain()
        gate = m.store.add("gate", "copy")
        await m.rename("a", "first")  # which keeps its place before "b"
        await until(gate.arrived.is_set)
        await m.rename("b", "c")
        gate.open()
        await m.drain()
    assert contents(store) == {"first": b"content", "c": b"content"}


async def test_who_waits_for_a_place_does_not_hasten_what_the_store_refuses(
    store: DictStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store would be asked for the same some twenty times a second, for ever."""
    monkeypatch.setattr(reconcile, "_BACKOFF_S", (3600.0,))
    blocked = 0
    rescue = Clearing._rescue

    async def counted(self: Clearing, node: Node, key: str) -> None:
        nonlocal blocked
        blocked += 1
        await rescue(self, node, key)

    monkeypatch.setattr(Clearing, "_rescue", counted)
    async with running(store, state, drain=False) as m:
        await m.write_file("a", b"old")
        await m.drain()
        refused = m.store.add("fail", "head", "b", times=1000, error=StoreFull("no room"))
        await m.rename("a", "b")
        await m.write_file("a", b"new")
        await until(lambda: blocked > 4)
        assert refused.fired == 1


async def test_who_renames_what_is_read_comes_to_an_end(store: DictStore, state: Path) -> None:
    """Each name is there once, though it goes away and comes back while the directory is being read."""
    async with running(store, state) as m:
        await m.mkdir("d")
        names = [f"{number:03d}" for number in range(300)]
        for name in names:
            await m.write_file(f"d/{name}", b"")
        handle = m.vfs.opendir((await m.node("d")).ino)
        seen: list[str] = []
        after = 0
        while (batch := (await m.vfs.readdir(handle, after))[0]) and len(seen) < 1000:
            for dentry, _ in batch:
                name = os.fsdecode(dentry.name)
                seen.append(name)
                await m.rename(f"d/{name}", "d/away")
                await m.rename("d/away", f"d/{name}")
            after = batch[-1][0].id
        m.vfs.releasedir(handle)
        assert seen == names
