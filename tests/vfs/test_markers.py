"""`name_$folder$`: an empty object that stands for a directory."""

from __future__ import annotations

from pathlib import Path

from mountstore.backends.memory import DictStore
from mountstore.fsck import check_state, check_store
from tests.vfs.mounted import contents, running


async def test_such_a_marker_is_a_directory(store: DictStore, state: Path) -> None:
    for key in ("d_$folder$", "e_$folder$", "e/f", "p/q_$folder$", "_$folder$", "full_$folder$"):
        store.put(key, b"x" if key in ("e/f", "full_$folder$") else b"")
    before = contents(store)
    async with running(store, state) as m:
        assert await m.tree() == {
            "d": None,
            "e": None,
            "e/f": b"x",
            "p": None,
            "p/q": None,
            "_$folder$": b"",
            "full_$folder$": b"x",
        }
        assert m.store.changes() == []
    assert contents(store) == before
    assert check_state(state, store).left == []
    assert check_store(store).left == []


async def test_it_goes_with_its_directory(store: DictStore, state: Path) -> None:
    for key in ("d_$folder$", "e_$folder$", "p/q_$folder$"):
        store.put(key, b"")
    async with running(store, state, ttl_s=0) as m:
        await m.tree()
        await m.rmdir("d")
        await m.rename("e", "moved")
        await m.rename("p", "other")
        assert await m.tree() == {"moved": None, "other": None, "other/q": None}
        await m.drain()
        assert await m.tree() == {"moved": None, "other": None, "other/q": None}
    assert contents(store) == {"moved/": b"", "other/q/": b"", **_if_there(store, "other/")}
    async with running(store, state.with_name("fresh")) as m:
        assert await m.tree() == {"moved": None, "other": None, "other/q": None}


def _if_there(store: DictStore, key: str) -> dict[str, bytes]:
    return {key: b""} if store.exists(key) else {}


async def test_others_make_and_remove_it(store: DictStore, state: Path) -> None:
    async with running(store, state, ttl_s=0) as m:
        assert await m.tree() == {}
        store.put("d_$folder$", b"")
        assert await m.tree() == {"d": None}
        store.put("d/f", b"x")
        assert await m.tree() == {"d": None, "d/f": b"x"}
        store.delete("d/f")
        assert await m.tree() == {"d": None}
        store.put("d_$folder$", b"content: a file after all")
        await m.listdir()
        assert (await m.tree())["d_$folder$"] == b"content: a file after all"
        store.delete("d_$folder$")
        await m.listdir()
        assert await m.tree() == {}


async def test_a_file_of_that_name_stays_a_file(store: DictStore, state: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("x_$folder$", b"")
    async with running(store, state.with_name("fresh")) as m:
        assert await m.tree() == {"x_$folder$": b""}
    assert store.exists("x_$folder$")


async def test_it_is_found_by_a_look_up_in_a_long_listing(store: DictStore, state: Path) -> None:
    for number in range(2500):
        store.put(f"a{number:05}", b"")
    store.put("z_$folder$", b"")
    async with running(store, state) as m:
        assert await m.exists("z")
        assert "z" in await m.listdir()
