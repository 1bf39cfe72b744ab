"""Listings in key order out of indexes of folders, each of which is one request."""

from __future__ import annotations

import email.utils
from collections.abc import Callable, Iterator
from typing import Any

from mountstore.store import ObjectInfo, Page

Entry = ObjectInfo | str
"""An object, or the name of a group."""

ReadFolder = Callable[[str], list[dict[str, Any]]]


def page_of(entries: Iterator[Entry], limit: int) -> Iterator[Page]:
    """The entries in pages, each made when it is asked for."""
    objects: list[ObjectInfo] = []
    groups: list[str] = []
    last = ""
    for entry in entries:
        if len(objects) + len(groups) >= limit:
            yield Page(objects, groups, last)
            objects, groups = [], []
        if isinstance(entry, str):
            groups.append(entry)
            last = entry
        else:
            objects.append(entry)
            last = entry.key
    yield Page(objects, groups, None)


def entries_of(read: ReadFolder, prefix: str, delimiter: str, after: str) -> Iterator[Entry]:
    """What a listing holds, in order; folders are read when their turn comes."""
    base = prefix[: prefix.rfind("/") + 1]
    if delimiter in ("", "/"):
        yield from _walk(read, base, prefix, after, grouped=bool(delimiter))
        return
    group = ""
    for entry in _walk(read, base, prefix, after, grouped=False):
        assert isinstance(entry, ObjectInfo)
        at = entry.key.find(delimiter, len(prefix))
        if at < 0:
            yield entry
        elif not group or not entry.key.startswith(group):
            group = entry.key[: at + len(delimiter)]
            if group > after:
                yield group


def _walk(read: ReadFolder, base: str, prefix: str, after: str, *, grouped: bool) -> Iterator[Entry]:
    """A folder `x` sorts as `x/`, which is the order of the keys below it."""
    found: dict[str, ObjectInfo | None] = {}
    for told in read(base):
        name = told.get("name")
        if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
            continue  # nothing that could be a key's segment
        if told.get("type") == "directory":
            found[base + name + "/"] = None
        else:
            size = told.get("size")
            key = base + name
            found[key] = ObjectInfo(key, size if isinstance(size, int) else 0, _time_ns(told.get("mtime")))
    for key in sorted(found):
        info = found[key]
        if not key.startswith(prefix) and not (info is None and prefix.startswith(key)):
            continue
        if info is not None:
            if key > after:
                yield info
        elif grouped and key.startswith(prefix):
            if key > after:
                yield key
        elif key > after or after.startswith(key):
            yield from _walk(read, key, prefix, after, grouped=grouped)


def _time_ns(told: object) -> int:
    if not isinstance(told, str):
        return 0
    try:
        return int(email.utils.parsedate_to_datetime(told).timestamp()) * 1_000_000_000
    except (ValueError, OverflowError):
        return 0
