"""The records of a zip archive, written; what they are is told in `_zip_format`."""

from __future__ import annotations

import binascii
import json
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mountstore.backends._zip_format import (
    CENTRAL,
    DESCRIBED_BEHIND,
    END,
    END64,
    FULL16,
    FULL32,
    LOCAL,
    LOCATOR64,
    NS,
    OWN_FIELD,
    OWN_SIGNATURE,
    TIME_FIELD,
    UNICODE_NAME_FIELD,
    UNIX,
    UTF8,
    VERSION,
    ZIP64_FIELD,
    Entry,
    fields_of,
    join_fields,
    metadata_of,
)


def new_entry(
    key: str, *, method: int, crc: int, packed: int, size: int, mtime_ns: int, metadata: Mapping[str, str]
) -> Entry:
    """A member that has no place yet."""
    name = key.encode()
    return Entry(
        key,
        name,
        0 if name.isascii() else UTF8,
        method,
        _to_dos(mtime_ns),
        crc,
        packed,
        size,
        mtime_ns,
        _external(key, size, metadata),
        join_fields([*_times(mtime_ns), _own(mtime_ns, metadata)]),
    )


def changed(entry: Entry, *, key: str | None = None, metadata: Mapping[str, str] | None = None) -> Entry:
    """The same member under another key or with other metadata; under another key it has no place yet."""
    kept = metadata_of(entry) if metadata is None else metadata
    fields = [
        field
        for field in fields_of(entry.extra)
        if field[0] not in (OWN_FIELD, TIME_FIELD, UNICODE_NAME_FIELD)
    ]
    fields += [*_times(entry.mtime_ns), _own(entry.mtime_ns, kept)]
    if key is None:
        if not entry.name.isascii() and not entry.flags & UTF8:
            fields.append(_unicode_name(entry))
        changes: dict[str, Any] = {}
    else:
        name = key.encode()
        flags = entry.flags & ~(DESCRIBED_BEHIND | UTF8) | (0 if name.isascii() else UTF8)
        changes = {"key": key, "name": name, "flags": flags, "offset": -1, "end": -1}
    return replace(
        entry,
        external=_external(key or entry.key, entry.size, kept),
        extra=join_fields(fields),
        made_by=UNIX << 8 | VERSION,
        **changes,
    )


def _unicode_name(entry: Entry) -> tuple[int, bytes]:
    told = b"\1" + binascii.crc32(entry.name).to_bytes(4, "little") + entry.key.encode()
    return UNICODE_NAME_FIELD, told


def local_header(entry: Entry) -> bytes:
    """What precedes the member's bytes."""
    fields = []
    packed, size = entry.packed, entry.size
    if packed >= FULL32 or size >= FULL32:
        fields.append((ZIP64_FIELD, struct.pack("<QQ", size, packed)))
        packed = size = FULL32
    extra = join_fields(fields + _times(entry.mtime_ns))
    return (
        LOCAL.pack(
            b"PK\3\4",
            VERSION,
            entry.flags,
            entry.method,
            entry.dos_time & 0xFFFF,
            entry.dos_time >> 16,
            entry.crc,
            packed,
            size,
            len(entry.name),
            len(extra),
        )
        + entry.name
        + extra
    )


def central_record(entry: Entry) -> bytes:
    wide = b""
    values = [entry.size, entry.packed, entry.offset]
    for number, value in enumerate(values):
        if value >= FULL32:
            wide += struct.pack("<Q", value)
            values[number] = FULL32
    extra = (join_fields([(ZIP64_FIELD, wide)]) if wide else b"") + entry.extra
    size, packed, offset = values
    return (
        CENTRAL.pack(
            b"PK\1\2",
            entry.made_by,
            VERSION,
            entry.flags,
            entry.method,
            entry.dos_time & 0xFFFF,
            entry.dos_time >> 16,
            entry.crc,
            packed,
            size,
            len(entry.name),
            len(extra),
            len(entry.comment),
            0,
            entry.internal,
            entry.external,
            offset,
        )
        + entry.name
        + extra
        + entry.comment
    )


def end_records(count: int, start: int, length: int, comment: bytes) -> bytes:
    """What closes an archive whose central directory has `length` bytes from `start` on."""
    large = b""
    if count >= FULL16 or start >= FULL32 or length >= FULL32:
        large = END64.pack(
            b"PK\6\6", END64.size - 12, VERSION, VERSION, 0, 0, count, count, length, start
        ) + LOCATOR64.pack(b"PK\6\7", 0, start + length, 1)
        count, start, length = min(count, FULL16), min(start, FULL32), min(length, FULL32)
    return large + END.pack(b"PK\5\6", 0, 0, count, count, length, start, len(comment)) + comment


def _own(mtime_ns: int, metadata: Mapping[str, str]) -> tuple[int, bytes]:
    text = json.dumps(dict(metadata), separators=(",", ":"), ensure_ascii=False).encode()
    return OWN_FIELD, OWN_SIGNATURE + struct.pack("<q", mtime_ns) + text


def _times(mtime_ns: int) -> list[tuple[int, bytes]]:
    seconds = mtime_ns // NS
    return [(TIME_FIELD, struct.pack("<Bi", 1, seconds))] if -(1 << 31) <= seconds < 1 << 31 else []


def _external(key: str, size: int, metadata: Mapping[str, str]) -> int:
    folder = key.endswith("/") and not size
    mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
    told = metadata.get("mode", "")
    base = 8 if told.startswith("0") and not set(told) & {"8", "9"} else 10
    if told.isascii() and told.isdigit() and 0 < int(told, base) <= 0xFFFF:
        mode = int(told, base)
    return mode << 16 | (0x10 if folder else 0)


def _to_dos(mtime_ns: int) -> int:
    at = time.localtime(mtime_ns // NS)
    if at.tm_year < 1980:
        return 1 << 21 | 1 << 16
    year = min(at.tm_year, 2107) - 1980
    second = min(at.tm_sec, 59) // 2
    return year << 25 | at.tm_mon << 21 | at.tm_mday << 16 | at.tm_hour << 11 | at.tm_min << 5 | second
