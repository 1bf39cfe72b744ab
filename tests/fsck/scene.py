"""A state directory as a killed daemon leaves it, with some of everything."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mountstore.fsck import Report, check_state
from mountstore.store import ObjectStore
from tests.vfs.mounted import Mounted, contents, running

UPLOADED = {
    "clean": b"c" * 3000,
    "d/clean": b"dc" * 2000,
    "d/sub/deep": b"deep" * 500,
    "patched": b"p" * 1_200_000,  # too large to be brought here for a change
    "e/moved": b"moved" * 100,
    "e/gone": b"gone" * 100,
}


@dataclass
class Scene:
    """`files` is what was acknowledged: content by path."""

    store: ObjectStore
    state: Path
    files: dict[str, bytes]

    def check(self, *, repair: bool = False) -> Report:
        return check_state(self.state, self.store, repair=repair)

    @contextmanager
    def index(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.state / "index.sqlite", isolation_level=None)
        try:
            yield db
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with self.index() as db:
            return db.execute(text, values).fetchall()

    def ino(self, path: str) -> int:
        ino = 1
        for name in path.split("/"):
            ((ino,),) = self.sql("SELECT ino FROM dentry WHERE parent=? AND name=?", ino, os.fsencode(name))
        return ino

    def layer(self, path: str) -> Path:
        """The one staged file of a path."""
        ((layer,),) = self.sql("SELECT id FROM layer WHERE ino=?", self.ino(path))
        return self.state / "staging" / str(layer)

    def copy(self, into: Path) -> Scene:
        shutil.copytree(self.state, into)
        return Scene(self.store, into, self.files)


async def make_scene(store: ObjectStore, folder: Path) -> Scene:
    """Files that are in the store, were changed in part, are new, moved, removed; then SIGKILL."""
    for key, data in UPLOADED.items():
        store.put(key, data)
    files = dict(UPLOADED)
    async with running(store, folder / "first") as m:
        await m.tree()
        await m.mkdir("empty")
        await m.write_file("small", b"small")
        files["small"] = b"small"
        await m.drain()
        left = m.crash(folder / "between")
    async with running(store, left, upload_delay_s=60) as m:
        await m.tree()
        await _change(m, files)
        state = m.crash(folder / "state")
    return Scene(store, state, files)


async def _change(m: Mounted, files: dict[str, bytes]) -> None:
    await m.patch("patched", b"PATCH", 20_000)
    files["patched"] = files["patched"][:20_000] + b"PATCH" + files["patched"][20_005:]
    for path, data in {"new": b"n" * 10_000, "d/new": b"dn" * 5000, "d/sub/new": b"dsn" * 700}.items():
        await m.write_file(path, data)
        files[path] = data
    await m.rename("e/moved", "d/moved")
    files["d/moved"] = files.pop("e/moved")
    await m.unlink("e/gone")
    del files["e/gone"]
    await m.symlink("clean", "link")
    await m.link("new", "hard")
    files["hard"] = files["new"]
    await m.mkdir("n")
    await m.write_file("n/inside", b"inside" * 50)
    files["n/inside"] = b"inside" * 50


async def look(scene: Scene) -> dict[str, bytes]:
    """Mount it, let everything be uploaded, and say what is there: content by path."""
    async with running(scene.store, scene.state) as m:
        await m.tree()
        await m.drain()
        tree = await m.tree()
    files = {path: data for path, data in tree.items() if isinstance(data, bytes)}
    in_store = contents(scene.store, markers=False)
    assert {path for path in files if path not in in_store} == set()
    return files
