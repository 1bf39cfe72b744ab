"""The store against the index: what is there, what should be, and what nobody can reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from mountstore.errors import NotFound, StoreError
from mountstore.fsck import mending, staged
from mountstore.fsck.findings import Fault, error, note
from mountstore.fsck.opened import Opened
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.vfs.rows import split_key

_PIECE = 8 << 20


def faults(at: Opened) -> Iterator[Fault]:
    """Every object that the index believes in, held against a listing. Raises StoreError."""
    if at.store is None or not at.store.capabilities.listing:
        return
    count = _list(at, at.store)
    (known,) = at.one("SELECT count(*) FROM object WHERE etag IS NOT NULL AND stale=0") or (0,)
    if known and not count:
        yield error(
            "store", "the store", f"it is empty, and should hold {known} objects",
            "if this is the right store, remove the state directory's index; nothing is repaired here",
        )  # fmt: skip
        return
    yield from _differing(at, at.store)
    yield from _told(at)


def _list(at: Opened, store: ObjectStore) -> int:
    at.db.execute("DROP TABLE IF EXISTS temp.listed")
    at.db.execute(
        "CREATE TEMP TABLE listed(dir TEXT, base TEXT, etag TEXT, size INTEGER, PRIMARY KEY(dir, base))"
        " WITHOUT ROWID"
    )
    count = 0
    for page in store.pages():
        rows = [(*split_key(info.key), info.etag, info.size) for info in page.objects]
        at.db.executemany("INSERT OR REPLACE INTO listed VALUES(?,?,?,?)", rows)
        count += len(rows)
    return count


def _differing(at: Opened, store: ObjectStore) -> Iterator[Fault]:
    changed = 0
    for folder, base, etag, size in at.all(
        "SELECT o.dir, o.base, o.etag, o.size FROM object o"
        " LEFT JOIN listed l ON l.dir=o.dir AND l.base=o.base"
        " WHERE o.etag IS NOT NULL AND o.stale=0"
        " AND (l.dir IS NULL OR (l.etag IS NOT NULL AND l.etag != o.etag) OR l.size != o.size)"
        # Its answer was lost: the next start asks what became of it.
        " AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.key=o.dir || o.base)"
    ):
        key = folder + base
        info = _head(store, key)
        if info is not None and info.etag == etag and info.size == size:
            continue  # the listing was an old one
        if at.rebooted:
            changed += 1
            continue
        what = "is gone from the store" if info is None else "is another one now"
        yield error(
            "store", key, f"the object that the index knows {what}", "the index follows the store; changes"
            " that were made here to what is gone go to lost+found", partial(_follow, at, key),
        )  # fmt: skip
    if changed:
        yield note(
            "store", "the store", f"{changed} objects are newer than the index, as after a loss of power",
            "the next mount lists them anew",
        )  # fmt: skip


def _head(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return store.head(key)
    except NotFound:
        return None


def _follow(at: Opened, key: str) -> None:
    known = at.object_at(key)
    if known is None:
        return
    at.drop_object(key)
    cid = known[3]
    if not cid:
        at.db.execute("UPDATE node SET due=coalesce(due, 1), since=coalesce(since, 1)"
                      " WHERE prefix=? AND marker=1 AND nlink>0", (key,))  # fmt: skip
        return
    if at.one("SELECT 1 FROM object WHERE cid=?", cid) is not None:
        return  # another object has the same content
    for ino, clean in at.all("SELECT ino, cid=base_cid FROM node WHERE base_cid=? AND nlink>0", cid):
        if clean:
            mending.forget(at, ino)
        else:
            staged.rebase(at, ino)


def _told(at: Opened) -> Iterator[Fault]:
    (unknown,) = at.one(
        "SELECT count(*) FROM listed l LEFT JOIN object o ON o.dir=l.dir AND o.base=l.base"
        " WHERE o.dir IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.key=l.dir || l.base)"
    ) or (0,)
    if unknown:
        yield note(
            "store", "the store", f"it holds {unknown} objects that this mount has not seen yet",
            "a listing of their directories shows them",
        )  # fmt: skip
    for folder, base in at.all(
        "SELECT dir, base FROM listed l WHERE substr(base,-1) != '/'"
        " AND EXISTS (SELECT 1 FROM listed m WHERE m.dir >= l.dir || l.base || '/'"
        "   AND m.dir < l.dir || l.base || '0')"
    ):
        yield note(
            "store", folder + base, "an object and a folder have this name", f"the file is {base}%(file)"
        )


def pending(at: Opened) -> Iterator[Fault]:
    """What the next mount brings to the store, and conflict copies that somebody has to look at."""
    (nodes,) = at.one("SELECT count(*) FROM node WHERE due IS NOT NULL") or (0,)
    (stale,) = at.one("SELECT count(*) FROM object WHERE stale != 0") or (0,)
    (unsettled,) = at.one("SELECT count(*) FROM intent") or (0,)
    if nodes or stale or unsettled:
        yield note(
            "index", "pending",
            f"{nodes} changes, {stale} deletes and {unsettled} requests without an answer",
            "the next mount goes on with them",
        )  # fmt: skip
    for (ino,) in at.all("SELECT c.ino FROM conflict c JOIN node n ON n.ino=c.ino WHERE n.nlink > 0"):
        yield note("index", at.path_of(ino), "a conflict copy", "compare it with its twin, and delete one")


def verify(store: ObjectStore) -> Iterator[Fault]:
    """Read every object from beginning to end. Raises StoreError where not even a listing can be read."""
    for page in store.pages():
        for info in page.objects:
            try:
                _read(store, info)
            except NotFound:
                continue  # removed meanwhile
            except (StoreError, OSError) as failure:
                yield error(
                    "store", info.key, f"its content cannot be read: {_line(failure)}",
                    "put it there again from a copy, or delete it",
                )  # fmt: skip


def _read(store: ObjectStore, info: ObjectInfo) -> None:
    if info.size <= _PIECE:
        if len(store.get(info.key)) != info.size and store.head(info.key).size == info.size:
            raise StoreError(f"it has not the {info.size} bytes that are told", key=info.key)
        return
    for start in range(0, info.size, _PIECE):
        stop = min(start + _PIECE, info.size)
        if len(store.get(info.key, start, stop)) != stop - start and store.head(info.key).size == info.size:
            raise StoreError(f"it ends before the {info.size} bytes that are told", key=info.key)


def _line(failure: Exception) -> str:
    text = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else str(failure)
    return " ".join(text.split())
