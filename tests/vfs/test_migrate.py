"""A state directory of an older version is brought to this one; one that cannot be is left as it is."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.errors import MountError
from mountstore.vfs import failpoints
from mountstore.vfs.index import Index
from mountstore.vfs.migrate import STEPS, VERSION, Step, check_version, migrate, version_of
from tests.vfs.mounted import contents, running
from tests.vfs.old_index import VERSION_0, dump, make_old

PROJECT = Path(__file__).resolve().parents[2]
OPEN = "import sys, pathlib; from mountstore.vfs.index import Index; Index(pathlib.Path(sys.argv[1])).close()"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An empty index of version 0."""
    path = tmp_path / "index.sqlite"
    db = sqlite3.connect(path)
    db.executescript(VERSION_0)
    db.execute("INSERT INTO meta VALUES('next_id', 16)")
    db.execute("INSERT INTO layer VALUES(20, 17, 20, 5, x'')")
    db.execute("INSERT INTO intent VALUES('key', '{}', 3, 4, 5, 'put')")
    db.commit()
    db.close()
    return path


@pytest.fixture
def opened(old: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(old, isolation_level=None)
    yield db
    db.close()


def layout(path: Path) -> dict[str, object]:
    """Tables with their columns and indexes, however they came about."""
    db = sqlite3.connect(path)
    try:
        names = db.execute("SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'").fetchall()
        return {
            name: (kind, db.execute(f"PRAGMA {kind}_{'x' if kind == 'index' else ''}info({name})").fetchall())
            for kind, name in names
        }
    finally:
        db.close()


def test_a_migrated_index_has_the_layout_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Index(old).close()
    (tmp_path / "new").mkdir()
    Index(tmp_path / "new" / "index.sqlite").close()
    assert layout(old) == layout(tmp_path / "new" / "index.sqlite")
    db = sqlite3.connect(old)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert db.execute("SELECT * FROM layer").fetchall()[0][:8] == (20, 17, 20, 5, b"", None, 5, None)
    assert db.execute("SELECT key, ino FROM intent").fetchall() == [("key", 0)]
    db.close()
    assert not list(tmp_path.glob("*version*"))


@pytest.mark.parametrize("version", [0, 1])
async def test_what_was_pending_is_uploaded_by_the_new_version(
    store: DictStore, state: Path, tmp_path: Path, version: int
) -> None:
    store.put("there", b"already")
    async with running(store, state, upload_delay_s=60) as m:
        await m.mkdir("d")
        await m.write_file("d/new", b"n" * 70_000)
        await m.rename("there", "d/moved")
        await m.patch("d/moved", b"AL", 0)
        left = m.crash(tmp_path / "left")
    make_old(left / "index.sqlite", version=version)
    async with running(store, left) as m:
        assert await m.tree() == {"d": None, "d/new": b"n" * 70_000, "d/moved": b"ALready"}
    assert contents(store, markers=False) == {"d/new": b"n" * 70_000, "d/moved": b"ALready"}


@pytest.mark.parametrize("name", ["migrate-copied", "migrate-recorded"])
def test_killed_in_the_middle(old: Path, name: str) -> None:
    before = dump(old)
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", OPEN, str(old)]
    ended = subprocess.run(words, env=env | {failpoints.VARIABLE: name}, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    (copy,) = old.parent.glob("*version*")
    assert dump(copy) == before
    if name == "migrate-copied":
        assert dump(old) == before
    assert subprocess.run(words, env=env, timeout=60, check=False).returncode == 0
    assert list(old.parent.iterdir()) == [old]
    assert dump(old)[-1] == str(VERSION)


def _fails(db: sqlite3.Connection) -> None:
    raise sqlite3.OperationalError("no such thing")


BROKEN: list[Step] = [("ALTER TABLE node ADD COLUMN more BLOB", "DROP TABLE no_such"), _fails]


@pytest.mark.parametrize("step", BROKEN, ids=["a statement", "a function"])
def test_one_that_cannot_be_done_changes_nothing(old: Path, opened: sqlite3.Connection, step: Step) -> None:
    before = dump(old)
    with pytest.raises(
        MountError, match=r"cannot be brought to \d+, and nothing was changed: no such"
    ) as told:
        migrate(opened, old, (*STEPS, step))
    assert "\n" not in str(told.value)
    assert dump(old) == before
    assert list(old.parent.iterdir()) == [old]


def test_an_old_index_that_lacks_a_table_is_refused_and_left_alone(
    old: Path, opened: sqlite3.Connection
) -> None:
    opened.execute("DROP TABLE intent")
    before = dump(old)
    with pytest.raises(MountError, match="nothing was changed"):
        migrate(opened, old)
    assert dump(old) == before


def test_a_step_more_adds_a_column_and_a_table(old: Path, opened: sqlite3.Connection) -> None:
    """What the docstring of the module promises."""
    more: tuple[Step, ...] = (
        ("ALTER TABLE node ADD COLUMN xattrs BLOB",),
        ("CREATE TABLE xattr(ino INTEGER, name BLOB, PRIMARY KEY(ino, name)) WITHOUT ROWID",),
    )
    migrate(opened, old, (*STEPS, *more))
    assert version_of(opened) == len(STEPS) + 2
    assert opened.execute("SELECT xattrs FROM node").fetchall() == []
    assert opened.execute("SELECT * FROM xattr").fetchall() == []


@pytest.mark.parametrize("version", [VERSION + 1, 99, -1])
def test_a_version_that_is_not_known_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "index.sqlite"
    Index(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")
    db.close()
    before = dump(path)
    with pytest.raises(MountError, match="newer mountstore" if version > 0 else "no mountstore has written"):
        Index(path)
    assert dump(path) == before


def test_this_version_is_not_refused() -> None:
    refuse: Callable[[int], None] = check_version
    refuse(VERSION)
    with pytest.raises(MountError):
        refuse(VERSION + 1)
