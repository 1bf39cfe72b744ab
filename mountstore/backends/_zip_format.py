"""The records of a zip archive, and reading them: APPNOTE.TXT 6.3.10, with ZIP64.

A member put by a ZipStore has, in its central record, an extra field of the header id 0x6D73: the eight
bytes `mntstore`, the time of change in ns since 1970 (int64, little-endian), and its metadata as JSON in
UTF-8. Other programs skip it, and read the same time, to the second, from the usual fields.
"""

from __future__ import annotations

import binascii
import json
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mountstore.errors import Corrupted
from mountstore.store import ObjectInfo

STORED, DEFLATED, BZIP2 = 0, 8, 12
ENCRYPTED, DESCRIBED_BEHIND, UTF8 = 0x1, 0x8, 0x800

MAX_NAME_BYTES = 0xFFFF

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
_FIELD = struct.Struct("<HH")

ZIP64_FIELD, TIME_FIELD, UNICODE_NAME_FIELD, OWN_FIELD = 0x0001, 0x5455, 0x7075, 0x6D73
OWN_SIGNATURE = b"mntstore"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
UNIX = 3
VERSION = 45
NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A member, as its central record tells it. It lies at [offset, end) of the archive's file."""

    key: str
    name: bytes
    flags: int
    method: int
    dos_time: int  # date in the upper 16 bits, time in the lower
    crc: int
    packed: int
    size: int
    mtime_ns: int
    external: int
    extra: bytes = b""  # without the ZIP64 field
    comment: bytes = b""
    made_by: int = UNIX << 8 | VERSION
    internal: int = 0
    offset: int = -1
    end: int = -1

    @property
    def etag(self) -> str:
        return f"{self.crc:08x}-{self.size:x}-{self.mtime_ns:x}"


@dataclass(frozen=True, slots=True)
class Directory:
    """The central directory: its members in the order of their offsets, and where it starts."""

    entries: list[Entry]
    start: int
    size: int
    comment: bytes
    plain: bool  # its records may be copied as they are: no bytes before the archive, no ZIP64


# -- reading ------------------------------------------------------------------------------------------


def read_directory(fd: int, size: int, max_entries: int) -> Directory:
    """Read the central directory of a file of `size` bytes. Raises Corrupted, OSError."""
    tail_at = max(0, size - END.size - FULL16)
    tail = _pread(fd, size - tail_at, tail_at)
    at = len(tail) - END.size
    while True:
        at = tail.rfind(b"PK\5\6", 0, at + 4)
        if at < 0:
            raise Corrupted("this file is not a zip archive, or its end is missing; name another")
        _, disk, first_disk, here, count, length, declared, comment_length = END.unpack_from(tail, at)
        if at + END.size + comment_length == len(tail):
            break
        at -= 1
    comment = tail[at + END.size :]
    end = tail_at + at
    large = False
    if end >= LOCATOR64.size:
        signature, *_ = LOCATOR64.unpack(_pread(fd, LOCATOR64.size, end - LOCATOR64.size))
        large = signature == b"PK\6\7"
    if large:
        end -= LOCATOR64.size + END64.size
        if end < 0:
            raise Corrupted("the end of the zip archive is damaged")
        signature, _, _, _, disk, first_disk, here, count, length, declared = END64.unpack(
            _pread(fd, END64.size, end)
        )
        if signature != b"PK\6\6":
            raise Corrupted("the end of the zip archive is damaged")
    if disk or first_disk or here != count:
        raise Corrupted("this is one part of a zip archive in several; join them first")
    if count > max_entries:
        raise Corrupted(
            f"{count} members, over the limit of {max_entries}; raise max_entries if that is right"
        )
    start = end - length
    before = start - declared  # bytes of another program in front of the archive
    if start < 0 or before < 0:
        raise Corrupted("the directory of the zip archive does not lie where it says")
    entries = _read_records(_pread(fd, length, start), count, before)
    return Directory(_with_ends(entries, start), start, length, comment, not before and not large)


def _read_records(data: bytes, count: int, before: int) -> list[Entry]:
    entries = []
    at = 0
    for _ in range(count):
        if at + CENTRAL.size > len(data) or data[at : at + 4] != b"PK\1\2":
            raise Corrupted("the directory of the zip archive is damaged")
        (
            _,
            made_by,
            _,
            flags,
            method,
            clock,
            date,
            crc,
            packed,
            size,
            name_length,
            extra_length,
            comment_length,
            disk,
            internal,
            external,
            offset,
        ) = CENTRAL.unpack_from(data, at)
        at += CENTRAL.size
        name = data[at : at + name_length]
        at += name_length
        extra = data[at : at + extra_length]
        at += extra_length
        comment = data[at : at + comment_length]
        at += comment_length
        if at > len(data) or disk not in (0, FULL16):
            raise Corrupted("the directory of the zip archive is damaged")
        mtime_ns = None
        if extra:
            fields = list(fields_of(extra))
            wide = next((body for kind, body in fields if kind == ZIP64_FIELD), None)
            if wide is not None:
                size, packed, offset = _widened(wide, size, packed, offset)
                fields = [field for field in fields if field[0] != ZIP64_FIELD]
                extra = join_fields(fields)
            mtime_ns = _mtime_of(fields)
        if mtime_ns is None:
            mtime_ns = _from_dos(date << 16 | clock)
        key = _key_of(name, flags, extra)
        if not key:
            raise Corrupted("the zip archive has a member without a name")
        entries.append(
            Entry(
                key,
                name,
                flags,
                method,
                date << 16 | clock,
                crc,
                packed,
                size,
                mtime_ns,
                external,
                extra,
                comment,
                made_by,
                internal,
                offset + before,
            )
        )
    if at != len(data):
        raise Corrupted("the directory of the zip archive has bytes that belong to no member")
    return entries


def _with_ends(entries: list[Entry], start: int) -> list[Entry]:
    """In the order of the file, each with where it ends. Raises Corrupted if two overlap."""
    if not entries:
        return []
    entries.sort(key=lambda entry: entry.offset)
    placed = []
    ends = [entry.offset for entry in entries[1:]] + [start]
    for entry, end in zip(entries, ends, strict=True):
        if entry.offset + LOCAL.size + len(entry.name) + entry.packed > end:
            raise Corrupted(f"the member {entry.key!r} of the zip archive lies over the one behind it")
        placed.append(_replaced(entry, entry.offset, end))
    return placed


def _replaced(entry: Entry, offset: int, end: int) -> Entry:
    # dataclasses.replace costs four times as much, and there may be a million.
    return Entry(
        entry.key,
        entry.name,
        entry.flags,
        entry.method,
        entry.dos_time,
        entry.crc,
        entry.packed,
        entry.size,
        entry.mtime_ns,
        entry.external,
        entry.extra,
        entry.comment,
        entry.made_by,
        entry.internal,
        offset,
        end,
    )


placed_at = _replaced


def data_offset(fd: int, entry: Entry) -> int:
    """Where the member's bytes start, behind its local header. Raises Corrupted, OSError."""
    head = _pread(fd, LOCAL.size + len(entry.name), entry.offset)
    signature, _, flags, method, *_, name_length, extra_length = LOCAL.unpack_from(head)
    name = head[LOCAL.size :]
    told = (signature, method, name_length, flags & ENCRYPTED)
    if told != (b"PK\3\4", entry.method, len(entry.name), entry.flags & ENCRYPTED) or name != entry.name:
        raise Corrupted(f"the member {entry.key!r} is another one than the directory says", key=entry.key)
    start: int = entry.offset + len(head) + extra_length
    if start + entry.packed > entry.end:
        raise Corrupted(f"the member {entry.key!r} lies over the one behind it", key=entry.key)
    return start


def _pread(fd: int, length: int, at: int) -> bytes:
    data = os.pread(fd, length, at)
    if len(data) != length:
        raise Corrupted("the zip archive ends too early")
    return data


def fields_of(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The extra fields; what does not parse is left out, as other programs do."""
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if at + length > len(extra):
            return
        yield kind, extra[at : at + length]
        at += length


def join_fields(fields: list[tuple[int, bytes]]) -> bytes:
    return b"".join(_FIELD.pack(kind, len(body)) + body for kind, body in fields)


def _widened(wide: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    values = [size, packed, offset]
    at = 0
    for number, value in enumerate(values):
        if value == FULL32:
            if at + 8 > len(wide):
                raise Corrupted("the directory of the zip archive is damaged")
            values[number] = int.from_bytes(wide[at : at + 8], "little")
            at += 8
    return values[0], values[1], values[2]


def _mtime_of(fields: list[tuple[int, bytes]]) -> int | None:
    told = None
    for kind, body in fields:
        if kind == OWN_FIELD and body.startswith(OWN_SIGNATURE) and len(body) >= 16:
            return int.from_bytes(body[8:16], "little", signed=True)
        if kind == TIME_FIELD and len(body) >= 5 and body[0] & 1:
            told = int.from_bytes(body[1:5], "little", signed=True) * NS
    return told


def _key_of(name: bytes, flags: int, extra: bytes) -> str:
    """Names are UTF-8 if the member says so, else of the IBM PC, unless a field tells them in UTF-8."""
    if name.isascii():
        return name.decode("ascii")
    if flags & UTF8:
        try:
            return name.decode()
        except UnicodeDecodeError:
            return name.decode("cp437")
    for kind, body in fields_of(extra):
        if kind == UNICODE_NAME_FIELD and body[:1] == b"\1" and len(body) > 5:
            if int.from_bytes(body[1:5], "little") != binascii.crc32(name):
                break
            try:
                return body[5:].decode()
            except UnicodeDecodeError:
                break
    return name.decode("cp437")


def metadata_of(entry: Entry) -> dict[str, str]:
    """The metadata; of a member that another program put on Unix, its mode."""
    for kind, body in fields_of(entry.extra):
        if kind == OWN_FIELD and body.startswith(OWN_SIGNATURE):
            try:
                told = json.loads(body[16:])
            except ValueError:
                told = None
            if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
                raise Corrupted(f"the metadata of {entry.key!r} is damaged", key=entry.key)
            return told
    mode = entry.external >> 16
    if entry.made_by >> 8 != UNIX or not mode:
        return {}
    # What an archive of others says is not to make devices, nor programs that run as somebody else.
    kind = stat.S_IFMT(mode) or (stat.S_IFDIR if entry.key.endswith("/") else stat.S_IFREG)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return {}
    return {"mode": str(kind | mode & 0o777)}


def _from_dos(when: int) -> int:
    date, clock = when >> 16, when & 0xFFFF
    parts = (1980 + (date >> 9), date >> 5 & 15, date & 31, clock >> 11, clock >> 5 & 63, (clock & 31) * 2)
    return int(time.mktime((*parts, 0, 0, -1))) * NS


def info_of(entry: Entry, *, metadata: bool = False) -> ObjectInfo:
    told = metadata_of(entry) if metadata else None
    return ObjectInfo(entry.key, entry.size, entry.mtime_ns, entry.etag, told)
