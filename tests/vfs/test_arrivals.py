"""Pages of a listing that are taken over at once are taken over like one object after another."""

from __future__ import annotations

from pathlib import Path

from mountstore.backends.memory import DictStore
from tests.vfs.mounted import running

KEYS = [
    "a", "d", "d/e", "d/%(file)", ".", "..", "", "x\0y", "x%(00)y", "n" * 256, "n" * 255, "é", "e\u0301",
    "%(80)", "d%(file)", "f", "f%(file)", "a//b", "a/", " ", "\n", "zz/", "zz",
]  # fmt: skip


async def test_names_are_the_same_either_way(tmp_path: Path) -> None:
    trees = []
    for attrs in ("stored", "listed"):
        store = DictStore()
        for key in KEYS:
            store.put("p/" + key, key.encode())
            if key:
                store.put(key, key.encode())
        async with running(store, tmp_path / attrs, attrs=attrs) as m:
            trees.append(await m.tree())
    assert trees[0] == trees[1]
    assert len(trees[0]) > 2 * len(KEYS)


async def test_what_was_made_here_meanwhile_stays(store: DictStore, state: Path) -> None:
    for name in ("a", "b", "c", "e"):
        store.put(f"d/{name}", b"theirs")
    async with running(store, state, attrs="listed") as m:
        await m.names()
        listing = m.store.add("gate", "list", "d/")
        folder = await m.node("d")
        flight = m.vfs._listing.start(folder)
        # Names that nobody has listed yet, made as a rename or a crash may leave them: in the index alone.
        m.vfs._tree.create(folder, b"b", 0o100600, 1, 1)
        m.vfs._tree.create(folder, b"c", 0o040700, 1, 1)
        listing.open()
        await flight.done.wait()
        assert sorted(await m.names("d")) == ["a", "b", "c", "c%(file)", "e"]
        assert (await m.node("d/b")).mode == 0o100600
        assert await m.read_file("d/c%(file)") == b"theirs"


async def test_a_second_listing_changes_nothing(store: DictStore, state: Path) -> None:
    for number in range(30):
        store.put(f"d/{number}", b"x")
    async with running(store, state, attrs="listed", ttl_s=0.0) as m:
        first = [(name, (await m.node(f"d/{name}")).ino) for name in await m.names("d")]
        assert [(name, (await m.node(f"d/{name}")).ino) for name in await m.names("d")] == first
        store.put("d/7", b"new")
        store.delete("d/8")
        store.put("d/99", b"x")
        assert set(await m.names("d")) == ({name for name, _ in first} - {"8"}) | {"99"}
        assert await m.read_file("d/7") == b"new"


async def test_of_objects_that_were_asked_for_attributes_those_with_some_have_them(
    store: DictStore, state: Path
) -> None:
    store.put("d/", b"")
    for number in range(1500):
        store.put(f"d/{number:04}", b"x")
    store.put("d/0700", b"x", metadata={"mode": str(0o100600)})
    store.put("d/link", b"0001", metadata={"mode": str(0o120777)})
    async with running(store, state, attrs="stored") as m:
        assert await m.listdir("d") == [*(f"{number:04}" for number in range(1500)), "link"]
        assert (await m.node("d/0700")).mode & 0o777 == 0o600
        assert (await m.node("d/0001")).mode & 0o777 == 0o644
        assert await m.readlink("d/link") == "0001"
