"""How what is wrong in an index is put right, without losing content; each call in a transaction.

What the store holds is forgotten and told again by the next listing. What only this state directory holds
keeps its place, or gets a name in lost+found, a real directory of the tree: the next mount uploads it.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

from mountstore.fsck.opened import Opened
from mountstore.vfs.rows import ROOT_INO, split_key
from mountstore.vfs.staging import Extents

LIMBO = ""
"""The prefix of a directory of which nobody knows where it was."""


def forget(at: Opened, ino: int) -> None:
    """A file of which the store holds everything: its names come back with the next listing."""
    for parent, name, segment in at.all("SELECT parent, name, segment FROM dentry WHERE ino=?", ino):
        key = at.key_of(parent, name, segment)
        if key is not None:
            at.drop_object(key)
        at.update(parent, listed_ns=1)
    for folder, base in at.all(
        "SELECT o.dir, o.base FROM object o JOIN node n ON n.ino=? AND o.cid=n.cid AND n.cid!=0"
        " WHERE NOT EXISTS (SELECT 1 FROM node m WHERE m.base_cid=o.cid AND m.ino!=n.ino)",
        ino,
    ):
        at.drop_object(folder + base)
    _drop(at, ino)


def _drop(at: Opened, ino: int) -> None:
    at.db.execute("DELETE FROM dentry WHERE ino=?", (ino,))
    at.db.execute("DELETE FROM node WHERE ino=?", (ino,))
    at.db.execute("DELETE FROM conflict WHERE ino=?", (ino,))
    at.db.execute("DELETE FROM extra WHERE ino=?", (ino,))
    at.db.execute("DELETE FROM layer WHERE ino=?", (ino,))


def is_spare(at: Opened, ino: int) -> bool:
    """Whether this is a file of which the store holds all the content there is."""
    row = at.one("SELECT mode, cid, base_cid FROM node WHERE ino=?", ino)
    if row is None or stat.S_ISDIR(row[0]) or row[1] != row[2]:
        return False
    held = at.one("SELECT 1 FROM object WHERE cid=?", row[1]) is not None
    return held and at.one("SELECT 1 FROM layer WHERE ino=?", ino) is None


def name_in_lost_found(at: Opened, ino: int, name: bytes | None = None) -> None:
    """A node without a name gets one in lost+found."""
    folder = at.lost_found()
    wanted = b"#%d" % ino if name is None else b"%s-%d" % (name[:200], ino)
    name = at.free_name(folder, wanted)
    at.insert_dentry(folder, name, ino)
    now = time.time_ns()
    row = at.need("SELECT mode, prefix FROM node WHERE ino=?", ino)
    at.update(ino, nlink=1, due=now, since=now)
    if stat.S_ISDIR(row[0]):
        # It has moved, as a rename would have moved it.
        if row[1] == LIMBO:
            at.update(ino, prefix=f"{at.key_of(folder, name, None)}/", listed_ns=now)
        else:
            at.db.execute("INSERT OR IGNORE INTO vacated(ino, prefix) VALUES(?,?)", (ino, row[1]))
        at.update(ino, nlink=2, subtree=1, marker=1)


def place(at: Opened, ino: int) -> None:
    """A node that has lost its name: back to where it was if that is known, or to lost+found."""
    row = at.need("SELECT mode, prefix, base_cid FROM node WHERE ino=?", ino)
    mode, prefix, base_cid = row
    keys = [prefix] if stat.S_ISDIR(mode) else []
    if not keys and base_cid:
        keys = [a + b for a, b in at.all("SELECT dir, base FROM object WHERE cid=? AND stale=0", base_cid)]
    for key in filter(None, keys):
        folder, base = split_key(key)
        name = os.fsencode(base.rstrip("/"))
        parent = at.one(
            "SELECT ino FROM node WHERE prefix=? AND subtree=0 AND nlink>0 AND ino!=?", folder, ino
        )
        if parent is None or "%(" in base or not 0 < len(name) < 256 or name in (b".", b".."):
            continue
        if _is_below(at, parent[0], ino) or at.key_of(parent[0], name, None) != key.rstrip("/"):
            continue
        if at.one("SELECT 1 FROM dentry WHERE parent=? AND name=?", parent[0], name) is None:
            at.insert_dentry(parent[0], name, ino)
            at.update(ino, nlink=2 if stat.S_ISDIR(mode) else 1)
            return
    name_in_lost_found(at, ino)


def _is_below(at: Opened, ino: int, ancestor: int) -> bool:
    seen: set[int] = set()
    while ino not in seen and ino != ROOT_INO:
        if ino == ancestor:
            return True
        seen.add(ino)
        row = at.one("SELECT parent FROM dentry WHERE ino=? LIMIT 1", ino)
        if row is None:
            return True  # it hangs in the air itself
        ino = row[0]
    return ino in seen


def step_aside(at: Opened, ino: int) -> None:
    """What is not whole leaves its names to what the store has, if anything, and goes to lost+found."""
    node = at.need("SELECT uid, gid, mode, mtime_ns FROM node WHERE ino=?", ino)
    first: bytes | None = None
    for dentry, parent, name, segment in at.all(
        "SELECT id, parent, name, segment FROM dentry WHERE ino=? ORDER BY id", ino
    ):
        first = first if first is not None else name
        key = at.key_of(parent, name, segment)
        known = at.object_at(key) if key else None
        if known is None or not known[3] or known[5]:
            at.db.execute("DELETE FROM dentry WHERE id=?", (dentry,))
            at.update(parent, listed_ns=1)
            continue
        _, size, mtime_ns, cid, mid, _ = known
        new = at.new_id()
        at.insert_node(
            new, node[2], uid=node[0], gid=node[1], size=size, mtime_ns=mtime_ns, ctime_ns=mtime_ns, cid=cid,
            base_cid=cid, mid=mid, due=None, since=None,
        )  # fmt: skip
        at.db.execute("UPDATE dentry SET ino=? WHERE id=?", (new, dentry))
    name_in_lost_found(at, ino, first)
    at.update(ino, cid=at.new_id())


def tear(at: Opened, ino: int) -> None:
    """Staged content is not all there: what can be read of it is kept as a file in lost+found."""
    readable = 0
    for layer, below, packed, synced in at.all(
        "SELECT id, below, extents, synced FROM layer WHERE ino=? ORDER BY height", ino
    ):
        length = file_size(at.staging / str(layer))
        extents, on_disk = Extents(packed), Extents(synced or b"")
        extents.clip(length)
        on_disk.clip(length)
        readable = max(extents.end, min(readable, below))
        at.db.execute(
            "UPDATE layer SET extents=?, synced=?, synced_size=min(synced_size, ?), checksum=NULL WHERE id=?",
            (extents.pack(), None if synced is None else on_disk.pack(), length, layer),
        )
    node = at.need("SELECT size, base_cid FROM node WHERE ino=?", ino)
    base = at.one("SELECT size FROM object WHERE cid=? AND cid!=0", node[1])
    visible = at.one("SELECT min(below) FROM layer WHERE ino=?", ino)
    if base is not None and visible is not None:
        readable = max(readable, base[0] if visible[0] is None else min(base[0], visible[0]))
    if base is None:
        at.update(ino, base_cid=0)
    at.update(ino, size=min(node[0], readable))
    step_aside(at, ino)


def adopt_file(at: Opened, path: Path) -> None:
    """A staging file that nothing names becomes a file in lost+found, if there is anything in it."""
    layer = int(path.name)
    extents = data_of(path)
    if not extents:
        path.unlink()
        return
    ino = at.new_id()
    at.insert_node(ino, stat.S_IFREG | 0o600, size=extents.end)
    insert_layer(at, layer, ino, extents)
    name_in_lost_found(at, ino, b"staged")


def insert_layer(at: Opened, layer: int, ino: int, extents: Extents) -> None:
    at.insert(
        "layer", id=layer, ino=ino, height=layer, below=0, extents=extents.pack(), synced=None,
        synced_size=0, checksum=None,
    )  # fmt: skip


def revive(at: Opened, ino: int) -> None:
    """A node of which names, members or layers are left is made again."""
    names = at.all("SELECT id, parent, name, segment FROM dentry WHERE ino=?", ino)
    layers = at.all("SELECT id, below, extents FROM layer WHERE ino=? ORDER BY height", ino)
    key = at.key_of(*names[0][1:]) if names else None
    if at.one("SELECT 1 FROM dentry WHERE parent=?", ino) is not None:
        wanted = at.prefix_of(ino)
        prefix = _prefix_of_members(at, ino) if wanted is None else wanted
        at.insert_node(ino, stat.S_IFDIR | 0o755, prefix=prefix)
        if key is not None:
            at.drop_object(f"{key}/")
    elif layers:
        known = at.object_at(key) if key is not None else None
        size = max(Extents(packed).end for _, _, packed in layers)
        base_cid = known[3] if known is not None and layers[0][1] > 0 else 0
        if base_cid and len(layers) == 1:
            size = max(size, min(layers[0][1], known[1] if known else 0))
        at.insert_node(ino, stat.S_IFREG | 0o600, size=size, base_cid=base_cid)
    else:
        for dentry, parent, _, _ in names:
            at.db.execute("DELETE FROM dentry WHERE id=?", (dentry,))
            at.update(parent, listed_ns=1)
        if key is not None:
            at.drop_object(key)
            at.drop_object(f"{key}/")


def _prefix_of_members(at: Opened, ino: int) -> str:
    """Where a directory was listed, by what the store holds of its members."""
    row = at.one(
        "SELECT o.dir FROM dentry d JOIN node n ON n.ino=d.ino JOIN object o ON o.cid=n.base_cid AND o.cid!=0"
        " WHERE d.parent=? AND o.stale=0 LIMIT 1",
        ino,
    )
    return str(row[0]) if row is not None else LIMBO


def file_size(path: Path) -> int:
    """0 where there is no plain file."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def data_of(path: Path) -> Extents:
    """Where a sparse file has data, as far as it can be read."""
    extents = Extents()
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW)) as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            extents.add(start, at)
    return extents


def extents_of(packed: Any) -> Extents | None:
    """None if this cannot be what `Extents.pack` has made."""
    if not isinstance(packed, bytes) or len(packed) % 16:
        return None
    extents = Extents(packed)
    last = -1
    for start, stop in extents:
        if start <= last or stop <= start:
            return None
        last = stop
    return extents
