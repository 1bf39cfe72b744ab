"""An index that SQLite cannot read as a whole: set aside, and made again of what can be read of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from mountstore.fsck.opened import INDEX, layout
from mountstore.vfs.index import Index

_KEYS = {
    "object": "dir, base",
    "intent": "key, metadata",
    "vacated": "ino, prefix",
    "extra": "ino, name",
    "meta": "name",
}
"""What orders the tables that have no rowid."""


def rebuild(path: Path) -> Path | None:
    """Make a new index in a state directory; returns where the old one is now, None if there was none.

    Rows are taken over as they are: whoever calls checks them. Raises OSError.
    """
    old = path / INDEX
    aside: Path | None = None
    new = path / f"{INDEX}.new"
    _remove(new)
    Index(new).close()
    parts = [part for suffix in ("", "-wal") if (part := old.with_name(INDEX + suffix)).exists()]
    if parts:
        aside = path / f"{INDEX}.broken-{time.time_ns()}"
        with contextlib.suppress(sqlite3.DatabaseError):
            _take_over(old, new)
        for part in parts:
            os.link(part, aside.with_name(aside.name + part.name.removeprefix(INDEX)))
        for suffix in ("-wal", "-shm"):
            old.with_name(INDEX + suffix).unlink(missing_ok=True)
    new.rename(old)
    return aside


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _take_over(old: Path, new: Path) -> None:
    source = sqlite3.connect(f"{old.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    source.text_factory = _text
    target = sqlite3.connect(new, isolation_level=None)
    try:
        with contextlib.suppress(sqlite3.DatabaseError):
            source.execute("PRAGMA writable_schema=ON")  # a schema that is wrong in part is read all the same
        target.execute("BEGIN")
        for table, columns in layout().items():
            if table == "sums":
                continue  # taken again; a wrong one would keep good content from being read
            names = ", ".join(columns)
            marks = ", ".join("?" * len(columns))
            for row in _rows(source, table, names):
                with contextlib.suppress(sqlite3.DatabaseError):
                    target.execute(f"INSERT OR IGNORE INTO {table}({names}) VALUES({marks})", row)
        for (value,) in source.execute("SELECT value FROM meta WHERE name='next_id'"):
            target.execute("UPDATE meta SET value=max(value, ?) WHERE name='next_id'", (value,))
    except sqlite3.DatabaseError:
        pass  # what was read until then is kept
    finally:
        if target.in_transaction:
            target.execute("COMMIT")
        target.close()
        source.close()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _rows(db: sqlite3.Connection, table: str, names: str) -> Iterator[tuple[object, ...]]:
    """Each row that can be read, from the front up to a damage and from the back down to one."""
    keys = _KEYS.get(table, "rowid").split(", ")
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{key} {direction}" for key in keys)
        if (yield from _scan(db, f"SELECT {names} FROM {table} NOT INDEXED ORDER BY {order}")):
            return


def _scan(db: sqlite3.Connection, sql: str) -> Generator[tuple[object, ...], None, bool]:
    """Rows up to the first that cannot be read; whether that was the end."""
    try:
        cursor = db.execute(sql)
        while (row := cursor.fetchone()) is not None:
            yield row
    except (sqlite3.DatabaseError, OverflowError):
        return False
    return True
