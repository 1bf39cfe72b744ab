"""A page of a listing taken over at once, as far as it tells of files that are new and plain.

Row by row a folder of 100,000 objects would cost its reader more than the store needs to list it. What is
not plain (known already, in question, under an escape, with attributes) is left to `listing`.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable

from mountstore.store import ObjectInfo
from mountstore.vfs.index import Index
from mountstore.vfs.names import CLASH, NAME_MAX
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.rows import Node


def adopt_plain(
    index: Index,
    options: VfsOptions,
    parent: Node,
    prefix: str,
    objects: list[ObjectInfo],
    is_doubtful: Callable[[str], bool],
) -> list[ObjectInfo]:
    """Give a name to each of these objects that has none yet; in the caller's transaction.

    Returns those that are left, in their order.
    """
    if index.any_moving() or not objects:
        return objects
    first, last = objects[0].key[len(prefix) :], objects[-1].key[len(prefix) :]
    taken = index.names_between(parent.ino, first.encode(), last.encode() + CLASH)
    known = index.bases_between(prefix, first, last)
    left: list[ObjectInfo] = []
    plain: list[tuple[bytes, str, ObjectInfo]] = []
    for info in objects:
        segment = info.key[len(prefix) :]
        name = segment.encode()
        if (
            segment in known
            or name in taken
            or name + CLASH in taken
            or info.metadata
            or len(name) > NAME_MAX
            or segment in _TAKEN
            or "%(" in segment
            or "\0" in segment
            or is_doubtful(info.key)
        ):
            left.append(info)
        else:
            plain.append((name, segment, info))
    _insert(index, options, parent, prefix, plain)
    return left


_TAKEN = ("", ".", "..")


def _insert(
    index: Index,
    options: VfsOptions,
    parent: Node,
    prefix: str,
    plain: Iterable[tuple[bytes, str, ObjectInfo]],
) -> None:
    mode, uid, gid, now = stat.S_IFREG | options.file_mode, options.uid, options.gid, time.time_ns()
    new_id = index.new_id
    nodes, names, objects = [], [], []
    for name, segment, info in plain:
        ino, cid, mid = new_id(), new_id(), new_id()
        mtime = info.mtime_ns or now
        nodes.append((ino, mode, 1, uid, gid, 0, info.size, mtime, mtime, mtime, None, cid, cid, mid, 0,
                      None, None, None, 0, 0, 0, None, 0))  # fmt: skip
        names.append((new_id(), parent.ino, name, ino, None))
        objects.append((prefix, segment, info.etag, info.size, info.mtime_ns, cid, mid, 0))
    index.insert_many(nodes, names, objects)
