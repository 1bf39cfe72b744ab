"""The rows of a SqliteStore: objects, and the chunks of the blobs that they name."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import BinaryIO

from mountstore.backends._arguments import blocks, flat
from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import Data, ObjectInfo

CHUNK_BYTES = 512 * 1024
_BATCH_BYTES = 8 << 20
BLOB_SHIFT = 24

HEAD = "SELECT size, mtime_ns, etag, metadata, blob FROM objects WHERE key = ?"
_PLACE = "INSERT INTO objects (size, mtime_ns, etag, metadata, blob, key) VALUES (?, ?, ?, ?, ?, ?)"
_REPLACE = "UPDATE objects SET size = ?, mtime_ns = ?, etag = ?, metadata = ?, blob = ? WHERE key = ?"
_DELETE = """DELETE FROM chunks WHERE id BETWEEN ?1 << 24 AND (?1 << 24) + 16777215
    AND NOT EXISTS (SELECT 1 FROM shared WHERE blob = ?1)"""
_APPEND = """INSERT INTO chunks VALUES (1 + max(coalesce((SELECT max(id) FROM chunks) >> 24, 0),
    coalesce((SELECT max(blob) FROM pending), 0)) << 24, ?)"""

Row = tuple[int, int, str, str | None, int]


def info_of(key: str, row: Row) -> ObjectInfo:
    return ObjectInfo(key, row[0], row[1], row[2], metadata_of(row))


def metadata_of(row: Row) -> dict[str, str]:
    kept: dict[str, str] = json.loads(row[3]) if row[3] else {}
    return kept


def append(connection: sqlite3.Connection, data: Data) -> int:
    """Write the first chunk of a new blob; its number."""
    number = connection.execute(_APPEND, (data,)).lastrowid
    assert number is not None
    return number >> BLOB_SHIFT


def matching(connection: sqlite3.Connection, key: str, if_match: str | None) -> Row:
    row: Row | None = connection.execute(HEAD, (key,)).fetchone()
    if row is None:
        raise NotFound(key=key)
    if if_match is not None and row[2] != if_match:
        raise PreconditionFailed(f"{key!r} has changed", key=key)
    return row


def place(
    connection: sqlite3.Connection, key: str, size: int, metadata: dict[str, str], blob: int, old: Row | None
) -> ObjectInfo:
    mtime_ns, etag = time.time_ns(), os.urandom(8).hex()
    text = json.dumps(metadata) if metadata else None
    connection.execute(_PLACE if old is None else _REPLACE, (size, mtime_ns, etag, text, blob, key))
    if old is not None:
        release(connection, old[4])
    return ObjectInfo(key, size, mtime_ns, etag, metadata)


def remove(connection: sqlite3.Connection, key: str, row: Row) -> None:
    connection.execute("DELETE FROM objects WHERE key = ?", (key,))
    release(connection, row[4])


def use(connection: sqlite3.Connection, blob: int) -> None:
    """One more object names this blob."""
    if not blob:
        return
    connection.execute(
        "INSERT INTO shared VALUES (?, 2) ON CONFLICT (blob) DO UPDATE SET uses = uses + 1", (blob,)
    )


def release(connection: sqlite3.Connection, blob: int) -> None:
    """One object less names this blob; the last takes the bytes with it."""
    if not blob:
        return
    if connection.execute(_DELETE, (blob,)).rowcount:
        return
    row = connection.execute("SELECT uses FROM shared WHERE blob = ?", (blob,)).fetchone()
    if row is None:
        return
    if row[0] > 2:
        connection.execute("UPDATE shared SET uses = uses - 1 WHERE blob = ?", (blob,))
    else:
        connection.execute("DELETE FROM shared WHERE blob = ?", (blob,))


def read(connection: sqlite3.Connection, blob: int, start: int, stop: int) -> Data:
    """Bytes [start, stop) of a blob, within the transaction in which it was found."""
    if stop == start:
        return b""
    base = blob << BLOB_SHIFT
    first, last = start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
    content = bytearray(stop - start)
    view = memoryview(content)
    at = 0
    for (data,) in connection.execute(
        "SELECT data FROM chunks WHERE id BETWEEN ? AND ? ORDER BY id", (base + first, base + last)
    ):
        offset = start + at - first * CHUNK_BYTES if at == 0 else 0
        piece = memoryview(data)[offset : offset + stop - start - at]
        view[at : at + len(piece)] = piece
        at += len(piece)
    return content


def batches(data: Data | BinaryIO) -> Iterator[tuple[list[Data], bool]]:
    """The data as lists of chunks, none over _BATCH_BYTES, each with whether it is the last."""
    batch: list[Data] = []
    if isinstance(data, Data):
        whole = memoryview(flat(data))
        pieces: Iterator[memoryview] = (
            whole[start : start + CHUNK_BYTES] for start in range(0, len(whole), CHUNK_BYTES)
        )
    else:
        pieces = (memoryview(bytes(block)) for block in blocks(data, CHUNK_BYTES))
    for piece in pieces:
        if len(batch) * CHUNK_BYTES >= _BATCH_BYTES:
            yield batch, False
            batch = []
        batch.append(piece)
    yield batch, True
