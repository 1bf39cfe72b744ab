"""The least that Python needs to keep objects: in place, not atomic, not durable, with no checks at all.

These are measures of time, not stores: a reader may see half an object, a key may lead out of the folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


class Plain:
    """A subject made of three functions."""

    def __init__(
        self,
        put: Callable[[str, bytes], object],
        get: Callable[[str], bytes],
        keys: Callable[[], Iterable[str]],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._put, self._get, self._keys, self._close = put, get, keys, close

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        put = self._put
        for key, data in objects:
            put(key, data)

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        get = self._get
        return [get(key) for key in keys]

    def list_all(self) -> list[str]:
        return list(self._keys())

    def close(self) -> None:
        self._close()


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _walk(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def file(folder: Path) -> Plain:
    root = str(folder)
    return Plain(
        lambda key, data: _write(os.path.join(root, key), data),
        lambda key: _read(os.path.join(root, key)),
        lambda: _walk(root),
    )


def hashdir(folder: Path) -> Plain:
    """It cannot list: names do not tell keys. The walk over the names stands for it."""
    root = str(folder)
    known: dict[str, str] = {}

    def path(key: str) -> str:
        name = hashlib.sha256(key.encode()).hexdigest()
        return os.path.join(root, name[:2], name[2:4], name[4:6], name[6:])

    def put(key: str, data: bytes) -> None:
        place = path(key)
        known[os.path.relpath(place, root)] = key
        _write(place, data)

    return Plain(put, lambda key: _read(path(key)), lambda: [known[name] for name in _walk(root)])


def caching(folder: Path) -> Plain:
    main, cache = str(folder / "main"), str(folder / "cache")

    def put(key: str, data: bytes) -> None:
        _write(os.path.join(main, key), data)
        _write(os.path.join(cache, key), data)

    def get(key: str) -> bytes:
        path = os.path.join(cache, key)
        return _read(path) if os.path.exists(path) else _read(os.path.join(main, key))

    return Plain(put, get, lambda: _walk(main))


def sqlite(folder: Path) -> Plain:
    connection = sqlite3.connect(folder / "plain.sqlite")
    connection.execute("CREATE TABLE objects (key TEXT PRIMARY KEY, data BLOB)")

    def put(key: str, data: bytes) -> None:
        connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (key, data))
        connection.commit()

    def get(key: str) -> bytes:
        row = connection.execute("SELECT data FROM objects WHERE key = ?", (key,)).fetchone()
        return bytes(row[0])

    def keys() -> list[str]:
        return [row[0] for row in connection.execute("SELECT key FROM objects").fetchall()]

    return Plain(put, get, keys, connection.close)


def archive(folder: Path) -> Plain:
    opened = zipfile.ZipFile(folder / "plain.zip", "a")
    return Plain(opened.writestr, opened.read, opened.namelist, opened.close)


def memory(_: Path) -> Plain:
    objects: dict[str, bytes] = {}
    return Plain(objects.__setitem__, objects.__getitem__, lambda: sorted(objects))


def redis(url: str) -> Callable[[Path], Plain]:
    """One SET, one GET, one SCAN, without etags, metadata or conditions."""

    def open_(_: Path) -> Plain:
        import redis as client_library

        client: Any = client_library.Redis.from_url(url)
        client.flushdb()

        def keys() -> list[str]:
            return [key.decode() for key in client.scan_iter(count=1000)]

        return Plain(client.set, client.get, keys, client.close)

    return open_


class PlainAsync:
    """A file store for asyncio as one writes it by hand: a thread for each step that may wait."""

    def __init__(self, folder: Path) -> None:
        self._root = str(folder)
        self._runner = asyncio.Runner()

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        self._runner.run(self._put_all(objects))

    async def _put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        for key, data in objects:
            file = await asyncio.to_thread(open, os.path.join(self._root, key), "wb")
            try:
                await asyncio.to_thread(file.write, data)
            finally:
                await asyncio.to_thread(file.close)

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        found: list[bytes] = []  # a result of the task itself would be formatted by Runner.run
        self._runner.run(self._get_all(keys, found))
        return found

    async def _get_all(self, keys: Iterable[str], found: list[bytes]) -> None:
        for key in keys:
            file = await asyncio.to_thread(open, os.path.join(self._root, key), "rb")
            try:
                found.append(await asyncio.to_thread(file.read))
            finally:
                await asyncio.to_thread(file.close)

    def list_all(self) -> list[str]:
        found: list[str] = []

        async def list_all() -> None:
            found.extend(_walk(self._root))

        self._runner.run(list_all())
        return found

    def close(self) -> None:
        self._runner.close()
