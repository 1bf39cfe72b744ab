"""Listing a tree of files in key order, each folder read once, with no descriptor kept in between.

Within a folder a file `x` sorts as `x` and a folder `x` as `x/`, which is the order of the keys below.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterator

from mountstore.backends._filesystem_names import (
    BESIDE,
    ESCAPED,
    LONG,
    PRIVATE,
    RESERVED,
    segment_of_escaped,
    segment_of_raw,
)
from mountstore.backends._filesystem_tree import ABSENT, Tree
from mountstore.store import ObjectInfo

_STATS_AT_ONCE = 512

Item = tuple[str, bool, tuple[str, ...]]
"""(the segment, with a slash if it is a folder; whether it is one; the names from the folder read on)."""

_Frame = tuple[tuple[str, ...], str, Iterator[Item]]


def etag_of(found: os.stat_result) -> str:
    return "%x-%x-%x" % (found.st_ino, found.st_mtime_ns, found.st_size)  # noqa: UP031  # the quickest


def folder_etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-folder"


def _segment(name: str) -> str:
    if name.isascii():
        return name
    return segment_of_raw(os.fsencode(name)) or name


def _inside(fd: int, name: str) -> int | None:
    """The folder `name`, open, or None if it is gone or is no folder any more."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise


def _has_beside(fd: int, name: str) -> bool:
    inner = _inside(fd, name)
    if inner is None:
        return False
    try:
        return stat.S_ISREG(os.stat(BESIDE, dir_fd=inner, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
    finally:
        os.close(inner)


def _read_folder(fd: int, long: tuple[str, ...] = ()) -> tuple[list[Item], bool]:
    """What a folder holds of objects and folders, unsorted, and whether it holds anything at all.

    `long` are the names of the pieces of a long segment read so far, the last of which is this folder.
    """
    items: list[Item] = []
    anything = False
    with os.scandir(fd) as found:
        for entry in found:
            anything = True
            name = entry.name
            names = (*long, name) if long else (name,)
            folder = entry.is_dir(follow_symlinks=False)
            if not folder and not entry.is_file(follow_symlinks=False):
                continue
            segment: str | None
            if name.startswith(RESERVED):
                if folder and name.startswith(LONG):
                    inner = _inside(fd, name)
                    if inner is not None:
                        try:
                            items += _read_folder(inner, names)[0]
                        finally:
                            os.close(inner)
                    continue
                if not name.startswith(ESCAPED) or name == PRIVATE:
                    continue
                segment = segment_of_escaped(names)
                if segment is None:
                    continue
            elif long:
                continue
            else:
                segment = _segment(name)
            if folder:
                items.append((segment + "/", True, names))
                if _has_beside(fd, name):
                    items.append((segment, False, (*names, BESIDE)))
            else:
                items.append((segment, False, names))
    return items, anything


class Listing:
    """The entries of a listing in order: an ObjectInfo for each object, a str for each group.

    With `grouped`, keys are grouped at the first slash behind the prefix. Without `stats` the ObjectInfo
    know no more than their keys.
    """

    def __init__(
        self, tree: Tree, prefix: str, after: str, *, grouped: bool = False, stats: bool = True
    ) -> None:
        self._tree = tree
        self._prefix = prefix
        self._after = after
        self._grouped = grouped
        self._stats = stats

    def entries(self, names: tuple[str, ...], base: str) -> Iterator[ObjectInfo | str]:
        """The entries below the folder at `names`, whose keys start with `base`."""
        stack: list[_Frame] = []
        yield from self._enter(stack, names, base)
        while stack:
            names, base, items = stack[-1]
            run: list[Item] = []
            for item in items:
                segment, is_folder, inner = item
                if is_folder:
                    yield from self._objects(names, base, run)
                    run = []
                    key = base + segment
                    if self._grouped and len(key) > len(self._prefix):
                        if key > self._after and self._holds_objects((*names, *inner), key):
                            yield key
                        continue
                    yield from self._enter(stack, (*names, *inner), key)
                    break
                run.append(item)
                if len(run) == _STATS_AT_ONCE:
                    yield from self._objects(names, base, run)
                    run = []
            else:
                stack.pop()
                yield from self._objects(names, base, run)

    def _enter(self, stack: list[_Frame], names: tuple[str, ...], base: str) -> Iterator[ObjectInfo]:
        """Read a folder and put it on the stack; an empty one is an object of its own."""
        try:
            fd = self._tree.reading(names)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise
        try:
            items, anything = _read_folder(fd)
            if not anything and names:
                if base.startswith(self._prefix) and base > self._after:
                    found = os.fstat(fd)
                    yield ObjectInfo(base, 0, found.st_mtime_ns, folder_etag(found))
                return
        finally:
            os.close(fd)
        stack.append((names, base, iter(self._wanted(items, base))))

    def _wanted(self, items: list[Item], base: str) -> list[Item]:
        rest = self._prefix[len(base) :]
        if rest:
            items = [item for item in items if item[0].startswith(rest)]
        items.sort()
        if self._after.startswith(base):
            within = self._after[len(base) :]
            at = bisect_left(items, (within,))
            if at < len(items) and items[at][0] == within and not items[at][1]:
                at += 1
            elif at and within.startswith(items[at - 1][0]) and items[at - 1][1]:
                at -= 1
            return items[at:]
        return items if base > self._after else []

    def _objects(self, names: tuple[str, ...], base: str, items: list[Item]) -> Iterator[ObjectInfo]:
        if not self._stats:
            for segment, _, _ in items:
                yield ObjectInfo(base + segment, 0, 0)
            return
        if not items:
            return
        found: list[ObjectInfo] = []
        try:
            fd = self._tree.folder(names)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise
        try:
            for segment, _, inner in items:
                try:
                    if len(inner) == 1:
                        info = os.stat(inner[0], dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISDIR(info.st_mode):
                            info = self._tree.find((*names, *inner))[1]
                    else:
                        info = self._tree.find((*names, *inner))[1]
                except OSError as error:
                    if error.errno in ABSENT:
                        continue  # deleted since the folder was read
                    raise
                if stat.S_ISREG(info.st_mode):
                    found.append(ObjectInfo(base + segment, info.st_size, info.st_mtime_ns, etag_of(info)))
        finally:
            self._tree.leave(fd)
        yield from found

    def _holds_objects(self, names: tuple[str, ...], base: str) -> bool:
        try:
            fd = self._tree.reading(names)
        except OSError as error:
            if error.errno in ABSENT:
                return False
            raise
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    if not entry.name.startswith(RESERVED) and entry.is_file(follow_symlinks=False):
                        return True
        finally:
            os.close(fd)
        return next(Listing(self._tree, "", "", stats=False).entries(names, base), None) is not None
