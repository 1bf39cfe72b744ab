"""Listings in key order of stores that tell one folder at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mountstore.backends._http_listing import page_of
from mountstore.store import ObjectInfo, Page

Entry = ObjectInfo | str
"""An object, or the name of a group."""

ReadFolder = Callable[[str], list[Entry]]
"""What the folder of keys that start with `base` ("" or ending in a slash) holds: its objects, and its
folders as keys that end in a slash. A marker is an object whose key is `base`. Nothing if there is no such
folder."""


def pages(read: ReadFolder, prefix: str, delimiter: str, after: str, limit: int) -> Iterator[Page]:
    """The pages of `ObjectStore.pages`. A folder is read when its turn comes, and no folder that has nothing
    of the listing; with the delimiter `/` each is a group, without a look into it."""
    return page_of(entries(read, prefix, delimiter, after), limit)


def entries(read: ReadFolder, prefix: str, delimiter: str, after: str) -> Iterator[Entry]:
    """What a listing holds, in order."""
    if delimiter in ("", "/"):
        yield from _walk(read, prefix, after, grouped=bool(delimiter))
        return
    group = ""
    for entry in _walk(read, prefix, after, grouped=False):
        assert isinstance(entry, ObjectInfo)
        at = entry.key.find(delimiter, len(prefix))
        if at < 0:
            yield entry
        elif not group or not entry.key.startswith(group):
            group = entry.key[: at + len(delimiter)]
            if group > after:
                yield group


def _walk(read: ReadFolder, prefix: str, after: str, *, grouped: bool) -> Iterator[Entry]:
    # A stack, for keys may have more segments than Python has frames.
    stack = [iter(_wanted(read, prefix[: prefix.rfind("/") + 1], prefix, after))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, ObjectInfo):
            if entry.key > after:
                yield entry
        elif grouped and entry.startswith(prefix):
            if entry > after:
                yield entry
        elif entry > after or after.startswith(entry):
            stack.append(iter(_wanted(read, entry, prefix, after)))


def _wanted(read: ReadFolder, base: str, prefix: str, after: str) -> list[Entry]:
    """What a folder holds of the listing, in order: a folder `x` sorts as `x/`, as the keys below it do."""
    found = [
        entry
        for entry in read(base)
        if (key := entry if isinstance(entry, str) else entry.key).startswith(prefix)
        or (isinstance(entry, str) and prefix.startswith(key))
    ]
    found.sort(key=lambda entry: entry if isinstance(entry, str) else entry.key)
    return found
