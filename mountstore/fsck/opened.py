"""A state directory opened for a check: its index as tables, changed by hand where that is wanted.

Without repair nothing in it is changed: SQLite opens the index for reading, and one of an older version is
migrated as a copy elsewhere. With repair the index is opened as a mount does it, and before the first change
a copy of it is put beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mountstore.store import ObjectStore
from mountstore.vfs import power
from mountstore.vfs.index import Index
from mountstore.vfs.migrate import VERSION, check_version, migrate, version_of
from mountstore.vfs.places import prefix_below, segment_of
from mountstore.vfs.rows import ROOT_INO, Dentry, split_key

INDEX = "index.sqlite"
STAGING = "staging"
LOST = b"lost+found"


class Broken(Exception):
    """The index cannot be read as a whole; the message says why."""


class Opened:
    """The index of a state directory that this process holds the lock of."""

    def __init__(self, path: Path, store: ObjectStore | None, *, repairing: bool) -> None:
        """Raises Broken, and MountError where the index is of another version."""
        self.path = path
        self.index = path / INDEX
        self.staging = path / STAGING
        self.store = store
        self.repairing = repairing
        self.doubtful = False  # something was wrong with the index: what it does not name may be somebody's
        self.kept: Path | None = None
        self._stack = contextlib.ExitStack()
        try:
            self.db = self._open()
            self._check_whole()
            self.rebooted = self._rebooted()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as failure:
            self.close()
            raise Broken(str(failure)) from failure
        except BaseException:
            self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        for suffix in ("-shm", "-wal"):
            beside = self.index.with_name(INDEX + suffix)
            if not self.repairing and not beside.exists():
                # What SQLite makes to read, and leaves where it may not write.
                self._stack.callback(beside.unlink, missing_ok=True)
        db = self._connect(self.index, "rw" if self.repairing else "ro")
        version = version_of(db)
        if version is None:
            raise Broken("there is nothing in it")
        check_version(version)
        if version == VERSION:
            return db
        if self.repairing:
            migrate(db, self.index)
            return db
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mountstore-fsck-")))
        for suffix in ("", "-wal"):
            source = self.index.with_name(INDEX + suffix)
            if source.exists():
                shutil.copyfile(source, folder / (INDEX + suffix))
        copy = self._connect(folder / INDEX, "rw")
        migrate(copy, folder / INDEX)
        return copy

    def _connect(self, path: Path, mode: str) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        except sqlite3.OperationalError as failure:
            raise Broken(f"it cannot be opened: {failure}") from failure
        self._stack.callback(db.close)
        if mode == "rw":
            db.execute("PRAGMA synchronous=FULL")
        return db

    def _check_whole(self) -> None:
        wrong = self.integrity()
        if wrong and self.repairing:
            self.keep_copy()
            self.db.execute("REINDEX")
            if not self.integrity():
                self.doubtful = True
                return
        if wrong:
            raise Broken(wrong[0])
        for table, columns in layout().items():
            there = [row[1] for row in self.db.execute(f"PRAGMA table_info({table})")]
            if not set(columns) <= set(there):
                raise Broken(f"its table {table} is not as it should be")
            try:
                for _ in self.db.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                    pass
            except (sqlite3.OperationalError, UnicodeDecodeError) as failure:
                raise Broken(f"its table {table} holds text that is none") from failure

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong."""
        said = [str(row[0]) for row in self.db.execute("PRAGMA integrity_check(10)")]
        return [] if said == ["ok"] else said

    def _rebooted(self) -> bool:
        row = self.one("SELECT value FROM meta WHERE name='boot'")
        return row is not None and row[0] != power.boot_id()

    def close(self) -> None:
        self._stack.close()

    def keep_copy(self) -> None:
        """Before the first change: a copy of the index as it is, which nothing removes."""
        if self.kept is None:
            kept = self.index.with_name(f"{INDEX}.before-fsck-{time.time_ns()}")
            os.close(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            target = sqlite3.connect(kept)
            try:
                self.db.backup(target)
            finally:
                target.close()
            self.kept = kept

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- reading -----------------------------------------------------------------------------------

    def all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.db.execute(sql, values).fetchone()
        return row

    def need(self, sql: str, *values: object) -> tuple[Any, ...]:
        """As `one`. Raises LookupError where there is none: an earlier repair has seen to it."""
        row = self.one(sql, *values)
        if row is None:
            raise LookupError("it is not there any more")
        return row

    def object_at(self, key: str) -> tuple[Any, ...] | None:
        """(etag, size, mtime_ns, cid, mid, stale) of what the index knows under a key."""
        return self.one(
            "SELECT etag, size, mtime_ns, cid, mid, stale FROM object WHERE dir=? AND base=?", *split_key(key)
        )

    def path_of(self, ino: int) -> str:
        """A path for people; what has none is called by its number."""
        names: list[str] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            row = self.one("SELECT parent, name FROM dentry WHERE ino=? LIMIT 1", ino)
            if row is None or ino in seen:
                return "/".join([f"#{ino}", *reversed(names)])
            seen.add(ino)
            names.append(os.fsdecode(row[1]) if isinstance(row[1], bytes) else repr(row[1]))
            ino = row[0]
        return "/" + "/".join(reversed(names))

    def prefix_of(self, ino: int) -> str | None:
        """Where the members of a directory belong; None if it hangs in the air."""
        above: list[Dentry] = []
        seen: set[int] = set()
        while ino != ROOT_INO:
            row = self.one("SELECT id, parent, name, ino, segment FROM dentry WHERE ino=? LIMIT 1", ino)
            if row is None or ino in seen:
                return None
            seen.add(ino)
            above.append(Dentry(*row))
            ino = row[1]
        prefix = ""
        for dentry in reversed(above):
            prefix = prefix_below(prefix, dentry)
        return prefix

    def key_of(self, parent: int, name: bytes, segment: str | None) -> str | None:
        """The key that a name wants, without the slash of a directory's; None if it hangs in the air."""
        prefix = self.prefix_of(parent)
        return None if prefix is None else prefix + segment_of(Dentry(0, parent, name, 0, segment))

    # -- changing, all inside a transaction ---------------------------------------------------------

    def new_id(self) -> int:
        row = self.need("SELECT value FROM meta WHERE name='next_id'")
        self.db.execute("UPDATE meta SET value=? WHERE name='next_id'", (row[0] + 1,))
        return int(row[0])

    def insert(self, table: str, **values: object) -> None:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self.db.execute(f"INSERT INTO {table}({names}) VALUES({marks})", tuple(values.values()))

    def update(self, ino: int, **values: object) -> None:
        sets = ", ".join(f"{name}=?" for name in values)
        self.db.execute(f"UPDATE node SET {sets} WHERE ino=?", (*values.values(), ino))

    def insert_node(self, ino: int, mode: int, **values: object) -> None:
        """A node that is wanted in the store; `values` win."""
        now = time.time_ns()
        row: dict[str, object] = {
            "ino": ino, "mode": mode, "nlink": 2 if stat.S_ISDIR(mode) else 1, "uid": os.getuid(),
            "gid": os.getgid(), "rdev": 0, "size": 0, "atime_ns": now, "mtime_ns": now, "ctime_ns": now,
            "target": None, "cid": self.new_id(), "base_cid": 0, "mid": self.new_id(), "known": 1,
            "due": now, "since": now, "prefix": None, "listed_ns": 0,
            "marker": int(stat.S_ISDIR(mode)), "subtree": 0,
        }  # fmt: skip
        self.insert("node", **(row | values))

    def insert_dentry(self, parent: int, name: bytes, ino: int) -> None:
        self.insert("dentry", id=self.new_id(), parent=parent, name=name, ino=ino, segment=None)

    def expire(self, prefix: str) -> None:
        """The directory that is listed from this prefix is to be listed anew."""
        self.db.execute("UPDATE node SET listed_ns=min(listed_ns, 1) WHERE prefix=?", (prefix,))

    def expire_all(self) -> None:
        self.db.execute("UPDATE node SET listed_ns=min(listed_ns, 1) WHERE prefix IS NOT NULL")

    def drop_object(self, key: str) -> None:
        """Nothing is known of this key any more: the next listing tells what is there."""
        folder, base = split_key(key)
        self.db.execute("DELETE FROM object WHERE dir=? AND base=?", (folder, base))
        self.expire(folder)

    def free_name(self, parent: int, name: bytes) -> bytes:
        """This name, or one like it that nothing in the directory has."""
        wanted, number = name[:200], 1
        while self.one("SELECT 1 FROM dentry WHERE parent=? AND name=?", parent, wanted):
            number += 1
            wanted = name[:200] + b"-%d" % number
        return wanted

    def lost_found(self) -> int:
        """The directory lost+found of the tree, made if there is none."""
        name, number = LOST, 1
        while row := self.one(
            "SELECT n.ino, n.mode FROM dentry d JOIN node n ON n.ino=d.ino WHERE d.parent=? AND d.name=?",
            ROOT_INO,
            name,
        ):
            if stat.S_ISDIR(row[1]):
                return int(row[0])
            number += 1
            name = LOST + b"-%d" % number
        ino = self.new_id()
        self.insert_node(ino, stat.S_IFDIR | 0o700, prefix=f"{name.decode()}/")
        self.insert_dentry(ROOT_INO, name, ino)
        return ino


def layout() -> dict[str, list[str]]:
    """The columns of each table of a new index."""
    with tempfile.TemporaryDirectory(prefix="mountstore-fsck-") as folder:
        Index(Path(folder) / INDEX).close()
        db = sqlite3.connect(Path(folder) / INDEX)
        try:
            tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
            return {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in tables}
        finally:
            db.close()
