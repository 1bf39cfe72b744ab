"""Indexes as earlier versions wrote them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

VERSION_0 = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE node(
  ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, nlink INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL,
  atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  target BLOB, cid INTEGER NOT NULL, base_cid INTEGER NOT NULL, mid INTEGER NOT NULL,
  known INTEGER NOT NULL, due INTEGER, since INTEGER,
  prefix TEXT, listed_ns INTEGER NOT NULL, marker INTEGER NOT NULL, subtree INTEGER NOT NULL);
CREATE INDEX node_due ON node(due) WHERE due IS NOT NULL;
CREATE INDEX node_base ON node(base_cid) WHERE base_cid != 0;
CREATE INDEX node_unlinked ON node(ino) WHERE nlink = 0;
CREATE TABLE dentry(
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, segment TEXT,
  UNIQUE(parent, name));
CREATE INDEX dentry_order ON dentry(parent, id);
CREATE INDEX dentry_ino ON dentry(ino);
CREATE TABLE object(
  dir TEXT NOT NULL, base TEXT NOT NULL, etag TEXT, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  cid INTEGER NOT NULL, mid INTEGER NOT NULL, stale INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(dir, base)) WITHOUT ROWID;
CREATE INDEX object_cid ON object(cid);
CREATE INDEX object_stale ON object(stale) WHERE stale != 0;
CREATE TABLE intent(key TEXT PRIMARY KEY, metadata TEXT NOT NULL, size INTEGER NOT NULL,
  cid INTEGER NOT NULL, mid INTEGER NOT NULL, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layer(id INTEGER PRIMARY KEY, ino INTEGER NOT NULL, height INTEGER NOT NULL,
  below INTEGER NOT NULL, extents BLOB NOT NULL);
CREATE INDEX layer_ino ON layer(ino, height);
CREATE TABLE conflict(ino INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL);
"""
"""The first layout that was ever written to a disk."""


def make_old(path: Path, *, version: int = 0) -> None:
    """Make the index at `path`, which nobody has open, one of version 0 with all that such a one can hold.

    `version` is what it says of itself: before the format was settled, that was 1.
    """
    new = path.with_name("old.sqlite")
    db = sqlite3.connect(new, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(VERSION_0)
        db.execute("ATTACH ? AS now", (str(path),))
        tables = [row[0] for row in db.execute("SELECT name FROM main.sqlite_schema WHERE type='table'")]
        for table in tables:
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table}({columns}) SELECT {columns} FROM now.{table}")
        db.execute(f"PRAGMA main.user_version={version}")
        db.execute("DETACH now")
    finally:
        db.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


def dump(path: Path) -> list[str]:
    """All of an index, as SQL, with its version."""
    db = sqlite3.connect(path)
    try:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone()[0])]
    finally:
        db.close()
