"""A store in one SQLite file.

Tables: `objects` has a row a key; its `blob` names the bytes, which lie in `chunks` as rows of at most
CHUNK_BYTES, with ids from `blob * 2**24` on; an empty object is blob 0, which has none. A blob never
changes once an object names it, so a copy shares it; `shared` counts the uses of blobs that have more
than one. A large file is written in several
transactions, under a blob that `pending` notes with its writer, and becomes an object in the last of
them; what a writer that died has left is removed when the file is opened.

In WAL mode readers never wait, and each call sees one state of the store. Writers take turns.
"""

from __future__ import annotations

import builtins
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from mountstore.backends._arguments import check_key, check_metadata, clip_range, successor
from mountstore.backends._sqlite_connections import Connections
from mountstore.backends._sqlite_owner import is_gone, this_owner
from mountstore.backends._sqlite_rows import (
    BLOB_SHIFT,
    CHUNK_BYTES,
    HEAD,
    Row,
    append,
    batches,
    info_of,
    matching,
    metadata_of,
    place,
    read,
    release,
    remove,
    use,
)
from mountstore.errors import NotFound, PreconditionFailed, Unavailable
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_KEYS_A_QUERY = 5000
_FIRST = itemgetter(0)

_SMALL = """SELECT o.size, o.etag, o.blob, c.data FROM objects o
    LEFT JOIN chunks c ON c.id = o.blob << 24 AND o.size <= 524288 WHERE o.key = ?"""
_MINE = "SELECT 1 FROM pending WHERE blob = ? AND owner = ?"


class SqliteStore(ObjectStore):
    """Objects of any size in the SQLite file `path`, which is made if it is not there.

    Any number of threads and processes of one machine may use the file at once. With `durable` a call
    returns when the disk has what it did; without, a power failure may undo the last calls, and never
    leaves half of one. Raises StoreError, in one line, for a path that cannot be used.
    """

    capabilities = Capabilities(
        server_copy=True, atomic_rename=True, local=True, max_metadata_bytes=None, concurrency=4
    )

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self._path = Path(path)
        self._connections = Connections(self._path, durable=durable)
        self._owner = this_owner()
        try:
            self._collect_abandoned()
        except BaseException:
            self.close()
            raise

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        row = self._row(key)
        if row is None:
            raise NotFound(key=key)
        return info_of(key, row)

    def exists(self, key: str) -> bool:
        return self._row(key) is not None

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        check_key(key)
        rows = self._connections.rows(_SMALL, (key,), key)
        row = rows[0] if rows else None
        if row is not None and row[0] > CHUNK_BYTES:
            with self._connections.reading(key) as connection:
                row = connection.execute(_SMALL, (key,)).fetchone()
                if row is not None and row[0] > CHUNK_BYTES:
                    start, stop = _checked(key, row[0], row[1], start, stop, if_match)
                    return read(connection, row[2], start, stop)
        if row is None:
            raise NotFound(key=key)
        size, etag, _, data = row
        start, stop = _checked(key, size, etag, start, stop, if_match)
        content: bytes = data or b""
        return content if stop - start == size else content[start:stop]

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        objects: list[ObjectInfo] = []
        groups: list[str] = []
        beyond = successor(prefix)
        cursor, strict = (after, True) if after >= prefix else (prefix, False)
        batch = limit + 1 if not delimiter else min(limit + 1, 64)
        with self._connections.reading() as connection:
            while True:
                rows = connection.execute(_listing(strict, beyond), (cursor, beyond, batch)).fetchall()
                group = None
                for key, size, mtime_ns, etag in rows:
                    if group is not None and key.startswith(group):
                        continue
                    at = key.find(delimiter, len(prefix)) if delimiter else -1
                    group = None if at < 0 else key[: at + len(delimiter)]
                    if group is not None and group <= after:
                        continue
                    if len(objects) + len(groups) == limit:
                        return Page(objects, groups, max(_last_key(objects), groups[-1] if groups else ""))
                    if group is None:
                        objects.append(ObjectInfo(key, size, mtime_ns, etag))
                    else:
                        groups.append(group)
                if len(rows) < batch:
                    return Page(objects, groups, None)
                if group is None:
                    cursor, strict = rows[-1][0], True
                    batch = min(limit + 1, batch * 4)
                else:
                    # Past the group at once, however many keys it has.
                    following = successor(group)
                    if following is None:
                        return Page(objects, groups, None)
                    cursor, strict, batch = following, False, 8

    def keys(self, prefix: str = "") -> Iterator[str]:
        return chain.from_iterable(self._key_pages(prefix))

    def _key_pages(self, prefix: str) -> Iterator[Iterator[str]]:
        beyond = successor(prefix)
        cursor, strict = prefix, False
        while True:
            query = f"SELECT key {_range(strict, beyond)}"
            rows = self._connections.rows(query, (cursor, beyond, _KEYS_A_QUERY))
            yield map(_FIRST, rows)
            if len(rows) < _KEYS_A_QUERY:
                return
            cursor, strict = rows[-1][0], True

    def usage(self, prefix: str = "") -> tuple[int, int]:
        beyond = successor(prefix)
        query = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE key >= ?1"
        with self._connections.reading() as connection:
            if beyond is None:
                count, size = connection.execute(query, (prefix,)).fetchone()
            else:
                count, size = connection.execute(query + " AND key < ?2", (prefix, beyond)).fetchone()
        return count, size

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        if if_absent or if_match is not None:
            check_conditions(key, if_match, if_absent)
        check_key(key)
        kept = check_metadata(key, metadata, None) if metadata else {}
        if isinstance(data, bytes) and 0 < len(data) <= CHUNK_BYTES:
            with self._connections.writing(key) as connection:
                old = self._old(connection, key, if_match, if_absent)
                return place(connection, key, len(data), kept, append(connection, data), old)
        rest = batches(data)
        batch, whole = next(rest)
        blob = size = 0
        try:
            while not whole:
                # Another batch follows: this one is written ahead, unseen.
                with self._connections.writing(key) as connection:
                    blob = self._append(connection, blob, size, batch, pending=True)
                size += sum(map(len, batch))
                batch, whole = next(rest)
            with self._connections.writing(key) as connection:
                old = self._old(connection, key, if_match, if_absent)
                started = bool(blob)
                if batch:
                    blob = self._append(connection, blob, size, batch, pending=started)
                if started:
                    connection.execute("DELETE FROM pending WHERE blob = ?", (blob,))
                size += sum(map(len, batch))
                return place(connection, key, size, kept, blob, old)
        except BaseException:
            if size:
                self._discard(blob)
            raise

    @staticmethod
    def _old(connection: sqlite3.Connection, key: str, if_match: str | None, if_absent: bool) -> Row | None:
        """What is to be replaced. Raises PreconditionFailed."""
        old: Row | None = connection.execute(HEAD, (key,)).fetchone()
        if if_absent and old is not None:
            raise PreconditionFailed(f"{key!r} is there already", key=key)
        if if_match is not None and (old is None or old[2] != if_match):
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        return old

    def _append(
        self,
        connection: sqlite3.Connection,
        blob: int,
        size: int,
        batch: builtins.list[Data],
        *,
        pending: bool,
    ) -> int:
        """Write chunks behind the `size` bytes that the blob has; a blob of 0 is a new one. Its number."""
        number = size // CHUNK_BYTES
        if not blob:
            blob = append(connection, batch[0])
            if pending:
                connection.execute("INSERT INTO pending VALUES (?, ?)", (blob, self._owner))
            batch = batch[1:]
            number = 1
        elif connection.execute(_MINE, (blob, self._owner)).fetchone() is None:
            raise Unavailable("another process removed what was written so far; put it again")
        for at, data in enumerate(batch, (blob << BLOB_SHIFT) + number):
            connection.execute("INSERT INTO chunks VALUES (?, ?)", (at, data))
        return blob

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        check_key(key)
        with self._connections.writing(key) as connection:
            row = connection.execute(HEAD, (key,)).fetchone()
            if row is None:
                if missing_ok:
                    return
                raise NotFound(key=key)
            if if_match is not None and row[2] != if_match:
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            remove(connection, key, row)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        for key in wanted:
            check_key(key)
        for start in range(0, len(wanted), 1000):
            with self._connections.writing() as connection:
                for key in wanted[start : start + 1000]:
                    row = connection.execute(HEAD, (key,)).fetchone()
                    if row is not None:
                        remove(connection, key, row)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        check_key(source)
        check_key(target)
        with self._connections.writing(source) as connection:
            row = matching(connection, source, if_match)
            kept = metadata_of(row) if metadata is None else check_metadata(target, metadata, None)
            use(connection, row[4])
            old = connection.execute(HEAD, (target,)).fetchone()
            return place(connection, target, row[0], kept, row[4], old)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        check_key(source)
        check_key(target)
        with self._connections.writing(source) as connection:
            row = matching(connection, source, if_match)
            if source != target:
                old = connection.execute(HEAD, (target,)).fetchone()
                if old is not None:
                    remove(connection, target, old)
                connection.execute("UPDATE objects SET key = ? WHERE key = ?", (target, source))
            return info_of(target, row)

    def close(self) -> None:
        self._connections.close()

    # -- within -----------------------------------------------------------------------------------

    def _row(self, key: str) -> Row | None:
        check_key(key)
        rows = self._connections.rows(HEAD, (key,), key)
        return rows[0] if rows else None

    def _discard(self, blob: int) -> None:
        with self._connections.writing() as connection:
            connection.execute("DELETE FROM pending WHERE blob = ?", (blob,))
            release(connection, blob)

    def _collect_abandoned(self) -> None:
        with self._connections.reading() as connection:
            rows = connection.execute("SELECT blob, owner FROM pending").fetchall()
        for blob, owner in rows:
            if is_gone(owner):
                self._discard(blob)


def _last_key(objects: list[ObjectInfo]) -> str:
    return objects[-1].key if objects else ""


def _range(strict: bool, beyond: str | None) -> str:
    upper = "" if beyond is None else "AND key < ?2 "
    return f"FROM objects WHERE key {'>' if strict else '>='} ?1 {upper}ORDER BY key LIMIT ?3"


def _listing(strict: bool, beyond: str | None) -> str:
    return f"SELECT key, size, mtime_ns, etag {_range(strict, beyond)}"


def _checked(
    key: str, size: int, etag: str, start: int, stop: int | None, if_match: str | None
) -> tuple[int, int]:
    if if_match is not None and etag != if_match:
        raise PreconditionFailed(f"{key!r} has changed", key=key)
    return clip_range(key, start, stop, size)
