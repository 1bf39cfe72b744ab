"""Files of a folder behind an SFTP server: looking at them, reading, writing aside; errors in our words.

Version 3 tells times in whole seconds and no inode numbers, so two versions of one size within a second would
look the same. Each file that this store writes therefore gets a random time of access beyond the year 2038,
which is part of its etag. Servers and disks that do not keep it are found out when the store is opened.
"""

from __future__ import annotations

import collections
import secrets
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mountstore.backends import _sftp_protocol as sftp
from mountstore.backends._filesystem_names import BESIDE, PRIVATE
from mountstore.backends._sftp_connection import Connection, Pending
from mountstore.backends._sftp_protocol import Attributes, Status, string
from mountstore.errors import AccessDenied, InvalidKey, NotFound, StoreError, StoreFull, Unavailable
from mountstore.store import ObjectInfo

Names = tuple[str, ...]

_FIRST_NONCE = 1 << 31
_NS = 1_000_000_000
_UNDER_WAY = 64
"""Requests of one transfer that are under way at once."""

_STATVFS = "statvfs@openssh.com"


def etag_of(found: Attributes) -> str:
    nonce = found.atime if found.atime >= _FIRST_NONCE else 0
    return f"{found.mtime:x}-{found.size:x}-{nonce:x}"


def folder_etag(found: Attributes) -> str:
    return f"{found.mtime:x}-folder"


def info_of(key: str, found: Attributes, *, listed: bool = False) -> ObjectInfo:
    return ObjectInfo(key, found.size, found.mtime * _NS, etag_of(found), None if listed else {})


def new_times() -> tuple[int, int]:
    """(a time of access that no other version has, the time of change) of a new file."""
    return _FIRST_NONCE + secrets.randbelow((1 << 31) - 2), int(time.time())


def translated(status: Status, key: str | None) -> StoreError:
    """The one table from the server's codes to our errors."""
    about = "" if key is None else f"{key!r}: "
    if status.code == sftp.NO_SUCH_FILE:
        return NotFound(key=key)
    if status.code == sftp.PERMISSION_DENIED:
        return AccessDenied(f"{about}the server does not allow this", key=key)
    if status.code == sftp.BAD_MESSAGE:
        return InvalidKey(f"{about}the server cannot hold a file of this name", key=key)
    if status.code in (sftp.NO_CONNECTION, sftp.CONNECTION_LOST):
        return Unavailable(f"{about}the server lost its connection to the files", key=key)
    return StoreError(f"{about}the server says {status.text or 'no more than that it failed'!r}", key=key)


@dataclass(frozen=True, slots=True)
class Look:
    """What is at the place of an object.

    `path` is where its file is or would be: beside a folder of that name where there is one. `attributes`
    are None where there is no regular file. `folders` says of each folder on the way whether it is there;
    `blocked` that something on the way is no folder.
    """

    path: str
    attributes: Attributes | None
    folders: tuple[bool, ...]
    blocked: bool
    is_folder: bool


class Files:
    """Paths below the folder `root` of a server."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.private = f"{self.root}/{PRIVATE}"

    def path(self, names: Names) -> str:
        return "/".join((self.root, *names)) if names else (self.root or "/")

    def looking(self, connection: Connection, names: Names) -> list[Pending]:
        """Ask what is there, in one round trip: links on the way are seen as links, and lead nowhere."""
        paths = [self.path(names[:count]) for count in range(1, len(names) + 1)]
        paths.append(f"{paths[-1]}/{BESIDE}")
        return [connection.lstat(path) for path in paths]

    def look(self, names: Names, asked: list[Pending]) -> Look:
        """The answer to `looking`. Raises Status."""
        *way, at, beside = [pending.found() for pending in asked]
        folders = tuple(found is not None and found.is_folder for found in way)
        blocked = any(found is not None and not found.is_folder for found in way)
        path = self.path(names)
        is_folder = at is not None and at.is_folder
        if is_folder:
            path, at = f"{path}/{BESIDE}", beside
        if at is not None and (not at.is_file or not all(folders)):
            blocked = blocked or (not is_folder and not at.is_file)
            at = None
        return Look(path, at, folders, blocked, is_folder)

    def missing_folders(self, names: Names, seen: Look) -> list[str]:
        return [self.path(names[: n + 1]) for n, there in enumerate(seen.folders) if not there]


def read_range(
    connection: Connection, handle: bytes, start: int, stop: int, first: Pending | None
) -> bytes | bytearray | memoryview:
    """Bytes [start, stop) of an open file; `first` asks for those at start already.

    Raises EOFError where the file ends before `stop`.
    """
    size = stop - start
    if first is not None:
        try:
            data: memoryview = first.answer(sftp.DATA).data()
        except Status as status:
            if status.code != sftp.EOF:
                raise
            data = memoryview(b"")
        if len(data) >= size:
            return data[:size]
    else:
        data = memoryview(b"")
    content = bytearray(size)
    content[: len(data)] = data
    waiting: collections.deque[tuple[int, int, Pending]] = collections.deque()
    at = len(data)
    step = connection.read_bytes
    while at < size or waiting:
        while at < size and len(waiting) < _UNDER_WAY:
            count = min(step, size - at)
            waiting.append((at, count, connection.read(handle, start + at, count)))
            at += count
        place, count, pending = waiting.popleft()
        try:
            data = pending.answer(sftp.DATA).data()
        except Status as status:
            if status.code == sftp.EOF:
                raise EOFError from None
            raise
        content[place : place + len(data)] = data
        if len(data) < count:
            # A server may give less than was asked for; the rest comes first, for it is waited for first.
            rest = place + len(data), count - len(data)
            waiting.appendleft((*rest, connection.read(handle, start + rest[0], rest[1])))
    return content


def write_all(connection: Connection, handle: bytes, pieces: Iterable[memoryview]) -> int:
    """Write these one after the other; the number of bytes. Raises Status."""
    waiting: collections.deque[Pending] = collections.deque()
    at = 0
    step = connection.write_bytes
    for piece in pieces:
        for begin in range(0, len(piece), step):
            part = piece[begin : begin + step]
            waiting.append(connection.write(handle, at, part))
            at += len(part)
            if len(waiting) > _UNDER_WAY:
                waiting.popleft().ok()
    while waiting:
        waiting.popleft().ok()
    return at


def copy_all(connection: Connection, source: bytes, target: bytes, size: int) -> None:
    """Copy within the server, in steps that each end in reasonable time. Raises Status."""
    step = 64 << 20
    for at in range(0, size, step):
        count = min(step, size - at)
        connection.extended(
            sftp.COPY_DATA,
            string(source),
            struct.pack(">QQ", at, count),
            string(target),
            struct.pack(">Q", at),
        ).ok()


def finished(connection: Connection, handle: bytes, *, durable: bool) -> Attributes:
    """Give a written file its times, have it on the disk, close it. Raises Status."""
    asked = [connection.send(sftp.FSETSTAT, string(handle), sftp.times(*new_times()))]
    if durable:
        asked.append(connection.extended(sftp.FSYNC, string(handle)))
    attributes = connection.send(sftp.FSTAT, string(handle))
    asked.append(connection.close_handle(handle))
    for pending in asked:
        pending.ok()
    return attributes.attributes()


def full(connection: Connection, path: str, wanted: int) -> bool:
    """Whether the disk of `path` has less room than is wanted: version 3 has no code that says so."""
    if _STATVFS not in connection.extensions:
        return False
    try:
        told = connection.extended(_STATVFS, string(path)).answer(sftp.EXTENDED_REPLY)
    except Status:
        return False
    block, fragment, _blocks, _free, available = (told.long() for _ in range(5))
    return available * (fragment or block) <= wanted


def failed_write(connection: Connection, files: Files, status: Status, key: str, wanted: int) -> StoreError:
    if status.code == sftp.FAILURE and full(connection, files.private, wanted):
        return StoreFull(f"{key!r}: the disk of the server is full", key=key)
    return translated(status, key)


def read_names(connection: Connection, path: str) -> list[tuple[str, Attributes]] | None:
    """(name, attributes) of what a folder holds, in no order; None if there is none. Raises Status."""
    try:
        handle = connection.send(sftp.OPENDIR, string(path)).handle()
    except Status as status:
        if status.code == sftp.NO_SUCH_FILE:
            return None
        raise
    found: list[tuple[str, Attributes]] = []
    waiting: collections.deque[Any] = collections.deque()
    ended = False
    try:
        while waiting or not ended:
            while not ended and len(waiting) < 4:
                waiting.append(connection.send(sftp.READDIR, string(handle)))
            try:
                told = waiting.popleft().answer(sftp.NAME)
            except Status as status:
                if status.code != sftp.EOF:
                    raise
                ended = True
                continue
            for _ in range(told.number()):
                name = told.string().decode("utf-8", "surrogateescape")
                told.string()
                found.append((name, told.attributes()))
    finally:
        connection.close_handle(handle)
    return [(name, attributes) for name, attributes in found if name not in (".", "..")]
