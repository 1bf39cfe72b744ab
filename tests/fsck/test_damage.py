"""Each kind of damage is found, is repaired, and takes nothing with it that could be read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from tests.fsck.scene import Scene, look, make_scene
from tests.vfs.mounted import running

Damage = Callable[[Scene], object]


def _truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def _flip_page(scene: Scene) -> None:
    """One page in the middle of the index is overwritten."""
    ((page,),) = scene.sql("SELECT rootpage FROM sqlite_schema WHERE name='dentry'")
    with scene.index():
        pass
    with open(scene.state / "index.sqlite", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))


def _no_header(scene: Scene) -> None:
    with scene.index():
        pass
    with open(scene.state / "index.sqlite", "r+b") as file:
        file.write(b"\0" * 4096)


def _no_index(scene: Scene) -> None:
    for path in scene.state.glob("index.sqlite*"):
        path.unlink()


def _loop(scene: Scene) -> None:
    scene.sql("UPDATE dentry SET parent=? WHERE ino=?", scene.ino("d/sub"), scene.ino("d"))


def _wrong_search_tree(scene: Scene) -> None:
    """The tree by which names are found does not know one of them."""
    with scene.index() as db:
        db.execute("PRAGMA writable_schema=ON")
        ((sql,),) = db.execute("SELECT sql FROM sqlite_schema WHERE name='dentry_ino'").fetchall()
        db.execute("DELETE FROM sqlite_schema WHERE name='dentry_ino'")
        db.execute("PRAGMA writable_schema=RESET")
    with scene.index() as db:
        db.execute(f"{sql} WHERE id % 2")
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_schema SET sql=? WHERE name='dentry_ino'", (sql,))


def _delete(path: str, table: str = "node") -> Damage:
    return lambda scene: scene.sql(f"DELETE FROM {table} WHERE ino=?", scene.ino(path))


def _set(path: str, what: str) -> Damage:
    return lambda scene: scene.sql(f"UPDATE node SET {what} WHERE ino=?", scene.ino(path))


DAMAGES: dict[str, tuple[Damage, str, set[str]]] = {
    # name: (damage, what is said, files whose content is not asked for afterwards)
    "a name of no node, new": (_delete("d/new"), "node that is not there", set()),
    "a name of no node, clean": (_delete("clean"), "node that is not there", set()),
    "a name of no node, changed in part": (_delete("patched"), "node that is not there", set()),
    "a directory of no node": (_delete("d"), "node that is not there", set()),
    "a new directory of no node": (_delete("n"), "node that is not there", set()),
    "a node of no name, new": (_delete("d/new", "dentry"), "a file without a name", set()),
    "a node of no name, clean": (_delete("clean", "dentry"), "of which the store has all", set()),
    "a node of no name, changed in part": (_delete("patched", "dentry"), "a file without a name", set()),
    "a node of no name, moved": (_delete("d/moved", "dentry"), "without a name", set()),
    "a directory of no name": (_delete("d", "dentry"), "a directory without a name", set()),
    "a new directory of no name": (_delete("n", "dentry"), "a directory without a name", set()),
    "links": (_set("new", "nlink=7"), "says 7 links", set()),
    "no links": (_set("new", "nlink=0"), "says 0 links", set()),
    "links of a directory": (_set("d", "nlink=2"), "says 2 links", set()),
    "a loop": (_loop, "lie in each other", set()),
    "a directory twice": (
        lambda scene: scene.sql("INSERT INTO dentry VALUES(60000, 1, x'78', ?, NULL)", scene.ino("d/sub")),
        "has 2 names",
        set(),
    ),
    "members of a file": (
        lambda scene: scene.sql(
            "UPDATE dentry SET parent=? WHERE ino=?", scene.ino("small"), scene.ino("d/new")
        ),
        "is no directory",
        set(),
    ),
    "members of nothing": (
        lambda scene: scene.sql("UPDATE dentry SET parent=77 WHERE parent=?", scene.ino("d/sub")),
        "is not there that things lie in",
        set(),
    ),
    "no root": (lambda scene: scene.sql("DELETE FROM node WHERE ino=1"), "root is missing", set()),
    "a root in a directory": (
        lambda scene: scene.sql("INSERT INTO dentry VALUES(60000, ?, x'78', 1, NULL)", scene.ino("d")),
        "the root lies in",
        set(),
    ),
    "no kind": (_set("d/new", "mode=7"), "make no sense", set()),
    "text for a number": (_set("d/new", "size='many'"), "make no sense", set()),
    "a negative size": (_set("clean", "size=-5"), "make no sense", set()),
    "a directory as a file": (_set("d", "mode=33188"), "make no sense", set()),
    "too short": (_set("d/new", "size=10"), "says that it has 10 bytes", set()),
    "not as long as its object": (_set("clean", "size=10"), "says that it has 10 bytes", set()),
    "listed from elsewhere": (_set("d", "prefix='e/'"), "not its place in the store", set()),
    "never uploaded": (_set("d/new", "due=NULL, since=NULL"), "nothing would upload it", set()),
    "clean and never uploaded": (_set("d/moved", "due=NULL"), "nothing would upload it", set()),
    "a name that is none": (
        lambda scene: scene.sql("UPDATE dentry SET name=x'612f62' WHERE ino=?", scene.ino("d/new")),
        "no name of anything",
        set(),
    ),
    "an object forgotten": (
        lambda scene: scene.sql("DELETE FROM object WHERE base='clean' AND dir=''"),
        "no object that is",
        set(),
    ),
    "an object beneath a change forgotten": (
        lambda scene: scene.sql("DELETE FROM object WHERE base='patched'"), "rest is not known", {"patched"}
    ),
    "an object that makes no sense": (
        lambda scene: scene.sql("UPDATE object SET size='x' WHERE base='clean' AND dir=''"),
        "makes no sense",
        set(),
    ),
    "a hidden object": (
        lambda scene: scene.sql("DELETE FROM dentry WHERE ino=?", scene.ino("clean"))
        + scene.sql("DELETE FROM node WHERE cid=base_cid AND size=3000"),
        "without a name",
        set(),
    ),
    "a prefix that waits for nothing": (
        lambda scene: scene.sql("INSERT INTO object VALUES('','zz/',NULL,0,0,0,0,?)", 1 << 62),
        "waits for what lay below",
        set(),
    ),
    "numbers given out twice": (
        lambda scene: scene.sql("UPDATE meta SET value=3 WHERE name='next_id'"), "given out twice", set()
    ),
    "an intent that cannot be read": (
        lambda scene: scene.sql("INSERT INTO intent VALUES('k', '{', 1, 2, 3, 'put', 4)"),
        "cannot be read",
        set(),
    ),
    "extents that are none": (
        lambda scene: scene.sql("UPDATE layer SET extents=x'0102' WHERE ino=?", scene.ino("d/new")),
        "layer makes no sense",
        set(),
    ),
    "a layer of nobody": (
        lambda scene: scene.sql("UPDATE layer SET ino=88888 WHERE ino=?", scene.ino("d/new")),
        "a file that is not there",
        set(),
    ),
    "a layer forgotten": (
        lambda scene: scene.sql("DELETE FROM layer WHERE ino=?", scene.ino("d/new")),
        "staged content of it is missing",
        set(),
    ),
    "a staged file gone": (lambda scene: scene.layer("d/new").unlink(), "is gone", {"d/new"}),
    "a staged file gone, with an object": (
        lambda scene: scene.layer("patched").unlink(), "is gone", {"patched"}
    ),
    "a staged file cut": (lambda scene: _truncate(scene.layer("d/new"), 700), "ends at 700", {"d/new"}),
    "a folder in the staging": (
        lambda scene: (scene.state / "staging" / "folder").mkdir(), "folder that is not ours", set()
    ),
    "checksums that are none": (
        lambda scene: scene.sql("INSERT INTO sums VALUES(1, x'0102')"), "checksums that cannot be read", set()
    ),
    "rows of nobody": (
        lambda scene: scene.sql("INSERT INTO conflict VALUES(99999, 1)")
        + scene.sql("INSERT INTO vacated VALUES(99999, 'x/')"),
        "nodes that are gone",
        set(),
    ),
    "an object gone": (lambda scene: scene.store.delete("clean"), "gone from the store", {"clean"}),
    "an object changed": (lambda scene: scene.store.put("clean", b"theirs"), "another one now", {"clean"}),
    "an object beneath a change gone": (
        lambda scene: scene.store.delete("patched"), "gone from the store", {"patched"}
    ),
    "an object beneath a change changed": (
        lambda scene: scene.store.put("patched", b"theirs"), "another one now", {"patched"}
    ),
    "a marker gone": (lambda scene: scene.store.delete("empty/"), "gone from the store", set()),
    "a page of the index": (_flip_page, "it is damaged", set()),
    "the head of the index": (_no_header, "it is damaged", {"patched", "d/moved"}),
    "the index": (_no_index, "it is missing", {"patched", "d/moved"}),
    "a search tree of the index": (_wrong_search_tree, "damaged", set()),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
async def test_found_repaired_and_nothing_lost(store: DictStore, tmp_path: Path, name: str) -> None:
    damage, said, lost = DAMAGES[name]
    scene = await make_scene(store, tmp_path)
    assert scene.check().findings == [one for one in scene.check().findings if one.level == "note"]
    damage(scene)
    before = _files_of(scene.state)
    found = scene.check()
    assert found.status == 2
    assert re.search(said, " ".join(one.what for one in found.left)), found.left
    assert _files_of(scene.state) == before, "a check without --repair changes nothing"
    repaired = scene.check(repair=True)
    assert (repaired.status, repaired.left) == (1, [])
    assert repaired.kept is None or repaired.kept[len(str(scene.state)) + 1 :] in _files_of(scene.state)
    again = scene.check()
    assert (again.status, again.left) == (0, [])
    files = await look(scene)
    wanted = {path: data for path, data in scene.files.items() if path not in lost}
    missing = {path for path, data in wanted.items() if data not in files.values()}
    assert missing == set(), sorted(files)
    assert scene.check().status == 0
    async with running(store, tmp_path / "fresh") as m:
        tree = await m.tree()
    assert {path: data for path, data in tree.items() if isinstance(data, bytes)} == files


def _files_of(state: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(state)): path.read_bytes()
        for path in sorted(state.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


async def test_what_can_be_read_of_a_torn_file_is_kept(store: DictStore, tmp_path: Path) -> None:
    scene = await make_scene(store, tmp_path)
    _truncate(scene.layer("d/new"), 700)
    scene.layer("patched").unlink()
    scene.check(repair=True)
    files = await look(scene)
    (torn,) = (data for path, data in files.items() if re.fullmatch(r"lost\+found/new-\d+", path))
    assert torn == scene.files["d/new"][:700]
    assert files["patched"] == b"p" * 1_200_000  # as the store has it
    assert "d/new" not in files


async def test_a_changed_file_over_a_replaced_object_keeps_what_was_written(
    store: DictStore, tmp_path: Path
) -> None:
    scene = await make_scene(store, tmp_path)
    store.put("patched", b"theirs")
    scene.check(repair=True)
    files = await look(scene)
    assert files["patched"] == b"theirs"
    (ours,) = (data for path, data in files.items() if path.startswith("lost+found/patched-"))
    assert ours[20_000:20_005] == b"PATCH"


async def test_names_keep_their_place_where_it_is_known(store: DictStore, tmp_path: Path) -> None:
    scene = await make_scene(store, tmp_path)
    for path in ("d", "patched", "clean"):
        scene.sql("DELETE FROM dentry WHERE ino=?", scene.ino(path))
    scene.sql("DELETE FROM node WHERE ino=?", scene.ino("n"))
    assert scene.check(repair=True).status == 1
    assert await look(scene) == scene.files


async def test_no_lost_and_found_where_nothing_is_wrong(store: DictStore, tmp_path: Path) -> None:
    scene = await make_scene(store, tmp_path)
    before = _files_of(scene.state)
    report = scene.check(repair=True)
    assert (report.status, report.kept) == (0, None)
    assert {name for name in _files_of(scene.state) if name.startswith("index.sqlite.")} == set()
    assert before.keys() == _files_of(scene.state).keys() | {"index.sqlite-wal"}
    assert await look(scene) == scene.files
