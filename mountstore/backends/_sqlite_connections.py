"""Connections to one SQLite file: one a call, one writer at a time, and SQLite's errors in our words."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mountstore.errors import AccessDenied, Corrupted, StoreError, StoreFull, Unavailable

BUSY_TIMEOUT_S = 30.0

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x6D737431

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, etag TEXT NOT NULL,
    metadata TEXT, blob INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS shared (blob INTEGER PRIMARY KEY, uses INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pending (blob INTEGER PRIMARY KEY, owner TEXT NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

_ERRORS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "no room is left for the database"),
    sqlite3.SQLITE_BUSY: (Unavailable, "another process holds the database; try again"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "another connection holds the database; try again"),
    sqlite3.SQLITE_CORRUPT: (Corrupted, "the database is damaged; restore a copy of it"),
    sqlite3.SQLITE_NOTADB: (Corrupted, "this file is not an SQLite database; name another"),
    sqlite3.SQLITE_READONLY: (AccessDenied, "the database cannot be written to; check its permissions"),
    sqlite3.SQLITE_PERM: (AccessDenied, "the database may not be used; check its permissions"),
    sqlite3.SQLITE_CANTOPEN: (AccessDenied, "the database cannot be opened; check its path and permissions"),
    sqlite3.SQLITE_IOERR: (Unavailable, "the disk below the database fails; look into the system's log"),
    sqlite3.SQLITE_NOMEM: (Unavailable, "out of memory"),
}


def translated(error: sqlite3.Error, path: Path, key: str | None = None) -> StoreError:
    """The one table from SQLite's errors to ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, text = _ERRORS.get(code, (StoreError, f"SQLite says: {error}"))
    return kind(f"{path}: {text}", key=key)


class Connections:
    """Connections, each used by one call at a time, and the lock that lets one thread write at a time.

    SQLite lets processes wait by polling; threads of one process wait for the lock, in turn.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self._durable = durable
        self._idle: list[sqlite3.Connection] = []
        self.write_lock = threading.Lock()
        self._closed = False
        self._check_path()
        try:
            self._make_tables()
        except sqlite3.Error as error:
            raise translated(error, path) from error

    def _check_path(self) -> None:
        parent = self.path.parent
        if self.path.is_dir():
            raise StoreError(f"{self.path} is a directory; name a file in it")
        if not parent.is_dir():
            raise StoreError(f"{parent} is not a directory; make it first, or name another path")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise AccessDenied(f"{parent} cannot be written to; SQLite keeps its journal beside the database")
        if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
            raise AccessDenied(f"{self.path} cannot be read and written; check its permissions")

    def _make_tables(self) -> None:
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            ours = connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID
            if ours and version > SCHEMA_VERSION:
                raise StoreError(f"{self.path} was made by a newer mountstore; use that one")
            if tables and not ours:
                raise StoreError(f"{self.path} is another program's database; name another file")
            if not ours:
                connection.execute("PRAGMA page_size = 8192")
                connection.executescript(_SCHEMA)
        finally:
            connection.close()

    def take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._closed:
            raise StoreError(f"{self.path} was closed")
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._switch_to_wal(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
            connection.execute("PRAGMA cache_size = -8192")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Use a write-ahead log. SQLite does not wait for others here, so this does."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def give(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def rows(self, query: str, arguments: tuple[Any, ...], key: str | None = None) -> list[Any]:
        """The rows of one query."""
        try:
            connection = self.take()
            try:
                return connection.execute(query, arguments).fetchall()
            finally:
                self.give(connection)
        except sqlite3.Error as error:
            raise translated(error, self.path, key) from error

    @contextmanager
    def reading(self, key: str | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the store throughout."""
        try:
            connection = self.take()
            try:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    connection.execute("COMMIT")
            finally:
                self.give(connection)
        except sqlite3.Error as error:
            raise translated(error, self.path, key) from error

    def writing(self, key: str | None = None) -> _Writing:
        """A transaction that is alone in writing; undone as a whole by any exception."""
        return _Writing(self, key)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Writing:
    """A class, for a generator takes several times as long."""

    __slots__ = ("_connection", "_connections", "_key")

    def __init__(self, connections: Connections, key: str | None) -> None:
        self._connections = connections
        self._key = key

    def __enter__(self) -> sqlite3.Connection:
        of = self._connections
        of.write_lock.acquire()
        try:
            self._connection = connection = of.take()
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                of.give(connection)
                raise
        except BaseException as error:
            of.write_lock.release()
            if isinstance(error, sqlite3.Error):
                raise translated(error, of.path, self._key) from error
            raise
        return connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        of, connection = self._connections, self._connection
        try:
            try:
                if kind is None:
                    connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as failed:
            raise translated(failed, of.path, self._key) from failed
        finally:
            of.give(connection)
            of.write_lock.release()
        if isinstance(error, sqlite3.Error):
            raise translated(error, of.path, self._key) from error
