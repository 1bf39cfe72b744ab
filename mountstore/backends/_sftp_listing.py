"""Folders of an SFTP server as parts of a listing; the names are those of `_filesystem_names`."""

from __future__ import annotations

from mountstore.backends._filesystem_names import (
    BESIDE,
    ESCAPED,
    LONG,
    RESERVED,
    names_of,
    segment_of_escaped,
    segment_of_raw,
)
from mountstore.backends._folder_walk import Entry
from mountstore.backends._sftp_connection import Connection
from mountstore.backends._sftp_files import Files, Names, folder_etag, info_of, read_names
from mountstore.backends._sftp_protocol import Attributes
from mountstore.store import ObjectInfo


def read_folder(connection: Connection, files: Files, base: str) -> list[Entry]:
    """What the folder of the keys that start with `base` holds. Raises Status."""
    names = names_of(base[:-1], len(base.encode())) if base else ()
    way = [connection.lstat(files.path(names[:count])) for count in range(1, len(names) + 1)]
    found = [pending.found() for pending in way]
    if not all(one is not None and one.is_folder for one in found):
        return []
    told = read_names(connection, files.path(names))
    if told is None:
        return []
    if not told and found and found[-1] is not None:
        return [ObjectInfo(base, 0, found[-1].mtime * 1_000_000_000, folder_etag(found[-1]))]
    return _entries(connection, files, base, names, (), told)


def _entries(
    connection: Connection,
    files: Files,
    base: str,
    names: Names,
    long: Names,
    told: list[tuple[str, Attributes]],
) -> list[Entry]:
    """`long` are the names of the pieces of a long segment read so far; `told` is what the last holds."""
    entries: list[Entry] = []
    folders: list[tuple[str, str]] = []
    for name, attributes in told:
        if "/" in name or not (attributes.is_folder or attributes.is_file):
            continue
        segment: str | None
        if name.startswith(RESERVED):
            if attributes.is_folder and name.startswith(LONG):
                inner = read_names(connection, files.path((*names, *long, name)))
                entries += _entries(connection, files, base, names, (*long, name), inner or [])
                continue
            if not name.startswith(ESCAPED):
                continue
            segment = segment_of_escaped((*long, name))
            if segment is None:
                continue
        elif long:
            continue
        else:
            segment = name if name.isascii() else _segment(name)
        if attributes.is_folder:
            entries.append(base + segment + "/")
            folders.append((base + segment, files.path((*names, *long, name, BESIDE))))
        else:
            entries.append(info_of(base + segment, attributes, listed=True))
    for (key, _), pending in zip(folders, [connection.lstat(path) for _, path in folders], strict=True):
        beside = pending.found()
        if beside is not None and beside.is_file:
            entries.append(info_of(key, beside, listed=True))
    return entries


def _segment(name: str) -> str:
    return segment_of_raw(name.encode("utf-8", "surrogateescape")) or name
