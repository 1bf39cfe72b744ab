"""Whatever is damaged: a repair takes nothing away that could be read before it, and never fails itself."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import MountstoreError
from mountstore.fsck import check_state
from tests.fsck.scene import Scene, make_scene
from tests.mount.cases import LONG
from tests.vfs.mounted import running

RUNS = 300 if LONG else 24
FIRST = int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")) * 1000
_TABLES = ["node", "dentry", "object", "layer", "intent", "meta", "vacated", "conflict"]
_VALUES: list[object] = [
    0,
    1,
    -1,
    2,
    17,
    1 << 40,
    -(1 << 62),
    (1 << 63) - 1,
    "text",
    b"blob",
    b"",
    "",
    None,
    "a/b/",
]


def _row(db: sqlite3.Connection, chance: random.Random) -> tuple[str, str, tuple[object, ...]] | None:
    """(table, condition, values) of some row."""
    table = chance.choice(_TABLES[:4] * 3 + _TABLES)
    info = db.execute(f"PRAGMA table_info({table})").fetchall()
    keys = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
    rows = db.execute(f"SELECT {', '.join(keys)} FROM {table}").fetchall()
    if not rows:
        return None
    return table, " AND ".join(f"{key} IS ?" for key in keys), chance.choice(rows)


def delete_row(scene: Scene, chance: random.Random) -> None:
    with scene.index() as db:
        if found := _row(db, chance):
            db.execute(f"DELETE FROM {found[0]} WHERE {found[1]}", found[2])


def change_value(scene: Scene, chance: random.Random) -> None:
    with scene.index() as db:
        if found := _row(db, chance):
            table, where, key = found
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(
                    f"UPDATE {table} SET {chance.choice(columns)}=? WHERE {where}",
                    (chance.choice(_VALUES), *key),
                )


def mix_values(scene: Scene, chance: random.Random) -> None:
    """A row gets a value of another row."""
    with scene.index() as db:
        if found := _row(db, chance):
            table, where, key = found
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            column = chance.choice(columns)
            values = [row[0] for row in db.execute(f"SELECT {column} FROM {table}")]
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (chance.choice(values), *key))


def overwrite_index(scene: Scene, chance: random.Random) -> None:
    with scene.index():
        pass
    path = scene.state / "index.sqlite"
    with open(path, "r+b") as file:
        for _ in range(chance.choice([1, 1, 3, 20])):
            # The version stands in the header: another one is refused, which is another test.
            file.seek(chance.randrange(100, path.stat().st_size))
            file.write(chance.randbytes(chance.choice([1, 4, 200])))


def damage_staged(scene: Scene, chance: random.Random) -> None:
    files = sorted((scene.state / "staging").iterdir())
    if files:
        path = chance.choice(files)
        if chance.random() < 0.3:
            path.unlink()
        else:
            os.truncate(path, chance.randrange(path.stat().st_size + 1))


def damage_store(scene: Scene, chance: random.Random) -> None:
    key = chance.choice(list(scene.store.keys()))
    if chance.random() < 0.5:
        scene.store.delete(key)
    else:
        scene.store.put(key, b"theirs")


DAMAGES: list[Callable[[Scene, random.Random], None]] = [
    delete_row, delete_row, change_value, change_value, mix_values, overwrite_index, damage_staged,
    damage_store,
]  # fmt: skip


async def readable(scene: Scene, *, drain: bool) -> set[bytes]:
    """Content of every file that a mount of this state directory can read."""
    found: set[bytes] = set()
    try:
        async with running(scene.store, scene.state, upload_delay_s=60, drain=drain) as m:
            folders = [""]
            while folders:
                folder = folders.pop()
                if len(folder) > 500:
                    continue
                for name in await m.listdir(folder):
                    path = f"{folder}/{name}"
                    with contextlib.suppress(OSError, MountstoreError):
                        node = await m.node(path)
                        if node.is_dir:
                            folders.append(path)
                        else:
                            with trio.fail_after(5):
                                found.add(await m.read_file(path))
    except Exception:
        if drain:
            raise
    return found


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
async def test_random_damage(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    with SqliteStore(tmp_path / "store.sqlite") as store:
        scene = await make_scene(store, tmp_path)
        done = [chance.choice(DAMAGES) for _ in range(chance.choice([1, 1, 2, 4]))]
        for damage in done:
            with contextlib.suppress(
                sqlite3.DatabaseError, UnicodeDecodeError
            ):  # of an index that is damaged already
                damage(scene, chance)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    with SqliteStore(tmp_path / "copy" / "store.sqlite") as store:
        before = await readable(Scene(store, tmp_path / "copy" / "state", {}), drain=False)
    told = [damage.__name__ for damage in done]
    with SqliteStore(tmp_path / "store.sqlite") as store:
        scene = Scene(store, tmp_path / "state", scene.files)
        found = scene.check()
        repaired = check_state(scene.state, store, repair=True)
        assert bool(found.status) == bool(repaired.status), (told, found, repaired)
        assert repaired.left == [], (told, repaired.left)
        again = check_state(scene.state, store).left
        assert again == [], (told, repaired.repaired)
        after = await readable(scene, drain=True)
        ours = set(scene.files.values())
        assert (before & ours) - after == set(), (told, repaired)
        assert check_state(scene.state, store).left == [], told
