"""The namespace of the index: names, nodes, links, and which key each name wants."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from functools import partial

from mountstore.fsck import mending
from mountstore.fsck.findings import Fault, error
from mountstore.fsck.opened import Opened
from mountstore.vfs.markers import SUFFIX
from mountstore.vfs.places import DEEP, prefix_below, segment_of
from mountstore.vfs.rows import ROOT_INO, Dentry

_PARKED = 1 << 62


def faults(at: Opened) -> Iterator[Fault]:
    """What hangs in the air first: the rest can only be said of a tree."""
    found = [*_dangling(at), *_orphans(at)]
    yield from found
    if not found:
        found = list(_loops(at))
        yield from found
    if found:
        return
    walk(at)
    yield from _counts(at)
    yield from _prefixes(at)
    yield from _sizes(at)
    yield from _forgotten(at)
    yield from _hidden(at)


def _dangling(at: Opened) -> Iterator[Fault]:
    for (ino,) in at.all("SELECT DISTINCT ino FROM dentry WHERE ino NOT IN (SELECT ino FROM node)"):
        (name,) = at.one("SELECT name FROM dentry WHERE ino=? LIMIT 1", ino) or (b"",)
        yield error(
            "index", at.path_of(ino), f"the name {os.fsdecode(name)!r} is of a node that is not there",
            "what is left of it keeps its name", partial(mending.revive, at, ino),
        )  # fmt: skip
    for parent, mode in at.all(
        "SELECT DISTINCT d.parent, n.mode FROM dentry d LEFT JOIN node n ON n.ino=d.parent"
        " WHERE n.ino IS NULL OR (n.mode & 61440) != 16384"
    ):
        if mode is None and at.one("SELECT 1 FROM dentry WHERE ino=?", parent) is not None:
            continue  # it has a name, by which it is found above
        what = "is not there" if mode is None else "is no directory"
        yield error(
            "index", f"#{parent}", f"a directory {what} that things lie in",
            "they keep their place, or go to lost+found", partial(_mend_parent, at, parent),
        )  # fmt: skip
    if at.one("SELECT 1 FROM dentry WHERE ino=?", ROOT_INO) is not None:
        yield error(
            "index", "/", "the root lies in a directory", "it is taken out of it",
            partial(at.db.execute, "DELETE FROM dentry WHERE ino=?", (ROOT_INO,)),
        )  # fmt: skip
    for ino, count in at.all(
        "SELECT d.ino, count(*) FROM dentry d JOIN node n ON n.ino=d.ino WHERE (n.mode & 61440) = 16384"
        " GROUP BY d.ino HAVING count(*) > 1"
    ):
        yield error(
            "index", at.path_of(ino), f"a directory has {count} names", "it keeps the one that fits",
            partial(_one_name, at, ino),
        )  # fmt: skip


def _mend_parent(at: Opened, ino: int) -> None:
    if at.one("SELECT 1 FROM node WHERE ino=?", ino) is None:
        mending.revive(at, ino)
        return
    # Beside the file that they lay in.
    folder = at.new_id()
    at.insert_node(folder, stat.S_IFDIR | 0o700, prefix=mending.LIMBO)
    at.db.execute("UPDATE dentry SET parent=? WHERE parent=?", (folder, ino))
    mending.name_in_lost_found(at, folder)


def _one_name(at: Opened, ino: int) -> None:
    (prefix,) = at.one("SELECT prefix FROM node WHERE ino=?", ino) or ("",)
    links = at.all("SELECT id, parent, name, segment FROM dentry WHERE ino=? ORDER BY id", ino)
    inside = [link for link in links if not _leads_to_root(at, link[1], ino)]
    outside = [link for link in links if link not in inside]
    fitting = [link for link in outside if at.key_of(*link[1:]) == str(prefix).rstrip("/")]
    (kept,) = (fitting or outside or links)[:1]
    at.db.execute("DELETE FROM dentry WHERE ino=? AND id!=?", (ino, kept[0]))


def _leads_to_root(at: Opened, ino: int, but: int) -> bool:
    seen = {but}
    while ino != ROOT_INO:
        row = at.one("SELECT parent FROM dentry WHERE ino=? LIMIT 1", ino)
        if ino in seen or row is None:
            return False
        seen.add(ino)
        ino = row[0]
    return True


def _orphans(at: Opened) -> Iterator[Fault]:
    for ino, mode in at.all(
        "SELECT ino, mode FROM node WHERE nlink > 0 AND ino != ? AND ino NOT IN (SELECT ino FROM dentry)",
        ROOT_INO,
    ):
        if mending.is_spare(at, ino):
            yield error(
                "index", f"#{ino}", "a file without a name, of which the store has all",
                "the next listing names it", partial(mending.forget, at, ino),
            )  # fmt: skip
        else:
            kind = "directory" if stat.S_ISDIR(mode) else "file"
            yield error(
                "index", f"#{ino}", f"a {kind} without a name", "it goes where it was, or to lost+found",
                partial(mending.place, at, ino),
            )  # fmt: skip


def _loops(at: Opened) -> Iterator[Fault]:
    reached = {ROOT_INO}
    waiting = [ROOT_INO]
    while waiting:
        for (ino,) in at.all(
            "SELECT d.ino FROM dentry d JOIN node n ON n.ino=d.ino"
            " WHERE d.parent=? AND (n.mode & 61440) = 16384",
            waiting.pop(),
        ):
            if ino not in reached:
                reached.add(ino)
                waiting.append(ino)
    folders = {
        row[0]
        for row in at.all(
            "SELECT parent FROM dentry UNION"
            " SELECT ino FROM dentry WHERE ino IN (SELECT ino FROM node WHERE (mode & 61440) = 16384)"
        )
    }
    while lost := folders - reached:
        # Everything that has a name and is not reached lies in a loop, or below one.
        ino, seen = min(lost), set[int]()
        while ino not in seen:
            seen.add(ino)
            (ino,) = at.one("SELECT parent FROM dentry WHERE ino=? LIMIT 1", ino) or (ROOT_INO,)
            if ino == ROOT_INO:
                return
        ring = {ino}
        (above,) = at.one("SELECT parent FROM dentry WHERE ino=? LIMIT 1", ino) or (ino,)
        while above not in ring:
            ring.add(above)
            (above,) = at.one("SELECT parent FROM dentry WHERE ino=? LIMIT 1", above) or (ino,)
        yield error(
            "index", f"#{min(ring)}", f"{len(ring)} directories lie in each other",
            "one goes where it was, or to lost+found", partial(_cut, at, min(ring)),
        )  # fmt: skip
        return  # others are found when this one is mended


def _cut(at: Opened, ino: int) -> None:
    at.db.execute("DELETE FROM dentry WHERE ino=?", (ino,))
    mending.place(at, ino)


def walk(at: Opened) -> None:
    """Write down what each name wants: `wants`, in which `moved` says that it is still to be visited there.

    The table `folder` has the directories, the root too.
    """
    at.db.execute("DROP TABLE IF EXISTS temp.wants")
    at.db.execute("DROP TABLE IF EXISTS temp.folder")
    at.db.execute(
        "CREATE TEMP TABLE wants(dentry INTEGER PRIMARY KEY, ino INTEGER, parent INTEGER,"
        " dir TEXT, base TEXT, moved INTEGER)"
    )
    at.db.execute("CREATE TEMP TABLE folder(ino INTEGER PRIMARY KEY, prefix TEXT, moved INTEGER)")
    waiting = [(ROOT_INO, "", 0)]
    while waiting:
        ino, prefix, moved = waiting.pop()
        at.db.execute("INSERT OR IGNORE INTO folder VALUES(?,?,?)", (ino, prefix, moved))
        rows = []
        for dentry, name, segment, child, mode, subtree in at.db.execute(
            "SELECT d.id, d.name, d.segment, n.ino, n.mode, n.subtree FROM dentry d"
            " JOIN node n ON n.ino=d.ino WHERE d.parent=?",
            (ino,),
        ):
            link = Dentry(dentry, ino, name, child, segment)
            base = segment_of(link)
            if stat.S_ISDIR(mode):
                base += "/"
                waiting.append((child, prefix_below(prefix, link), int(moved or subtree)))
            rows.append((dentry, child, ino, prefix, base, moved))
        at.db.executemany("INSERT INTO wants VALUES(?,?,?,?,?,?)", rows)
    at.db.execute("CREATE INDEX temp.wants_key ON wants(dir, base)")
    at.db.execute("CREATE INDEX temp.wants_ino ON wants(ino)")


def _counts(at: Opened) -> Iterator[Fault]:
    at.db.execute("DROP TABLE IF EXISTS temp.links")
    at.db.execute("CREATE TEMP TABLE links(ino INTEGER PRIMARY KEY, count INTEGER)")
    at.db.execute(
        "INSERT INTO links SELECT n.ino, CASE WHEN (n.mode & 61440) != 16384"
        " THEN (SELECT count(*) FROM dentry WHERE ino=n.ino)"
        " WHEN n.ino=? OR EXISTS (SELECT 1 FROM dentry WHERE ino=n.ino)"
        " THEN 2 + (SELECT count(*) FROM dentry d JOIN node c ON c.ino=d.ino"
        "           WHERE d.parent=n.ino AND (c.mode & 61440) = 16384) ELSE 0 END FROM node n",
        (ROOT_INO,),
    )
    for ino, has, wanted in at.all(
        "SELECT n.ino, n.nlink, l.count FROM node n JOIN links l ON l.ino=n.ino WHERE n.nlink != l.count"
    ):
        yield error(
            "index", at.path_of(ino), f"it says {has} links, and has {wanted}", "they are counted anew",
            partial(at.update, ino, nlink=wanted),
        )  # fmt: skip


def _prefixes(at: Opened) -> Iterator[Fault]:
    for ino, listed, wanted in at.all(
        "SELECT n.ino, n.prefix, f.prefix FROM node n JOIN folder f ON f.ino=n.ino"
        " WHERE f.moved=0 AND n.prefix != f.prefix"
    ):
        yield error(
            "index", at.path_of(ino), f"it is listed from {listed!r}, which is not its place in the store",
            "it is listed from there", partial(at.update, ino, prefix=wanted, listed_ns=1),
        )  # fmt: skip


def _sizes(at: Opened) -> Iterator[Fault]:
    for ino, told, size in at.all(
        "SELECT n.ino, n.size, min(o.size) FROM node n JOIN object o ON o.cid=n.cid WHERE n.cid = n.base_cid"
        f" AND n.cid != 0 AND n.nlink > 0 AND (n.mode & 61440) = {stat.S_IFREG} GROUP BY n.ino"
        " HAVING n.size NOT IN (SELECT size FROM object WHERE cid=n.cid)"
    ):
        yield error(
            "index", at.path_of(ino), f"it says that it has {told} bytes, and its object has {size}",
            "it has what the object has", partial(at.update, ino, size=size),
        )  # fmt: skip


def _forgotten(at: Opened) -> Iterator[Fault]:
    """Files that differ from what the store is known to hold, and that nothing would upload."""
    now = time.time_ns()
    for (ino,) in at.all(
        "SELECT DISTINCT n.ino FROM node n JOIN wants w ON w.ino=n.ino WHERE n.due IS NULL AND n.nlink > 0"
        " AND (n.mode & 61440) != 16384 AND w.moved=0"
        # Brought into a layer for a change that never came: the object stands for it again.
        " AND (n.cid = n.base_cid OR NOT EXISTS (SELECT 1 FROM object o WHERE o.cid=n.cid))"
        " AND NOT EXISTS (SELECT 1 FROM object o WHERE o.dir=w.dir AND o.base=w.base AND o.cid=n.cid"
        "   AND o.mid=n.mid)"
        " AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.key=w.dir || w.base)"
    ):
        row = at.need("SELECT cid, base_cid FROM node WHERE ino=?", ino)
        if row[0] == row[1] and at.one("SELECT 1 FROM object WHERE cid=?", row[0]) is None:
            yield error(
                "index", at.path_of(ino), "no object that is known of holds its content",
                "the next listing tells what is there", partial(mending.forget, at, ino),
            )  # fmt: skip
        else:
            yield error(
                "index", at.path_of(ino), "the store does not have it, and nothing would upload it",
                "the next mount uploads it", partial(at.update, ino, due=now, since=now),
            )  # fmt: skip


def _hidden(at: Opened) -> Iterator[Fault]:
    """Objects that are known of, have no name, and are not on their way out: no listing would name them."""
    for folder, base in at.all(
        "SELECT o.dir, o.base FROM object o WHERE o.stale=0"
        " AND NOT EXISTS (SELECT 1 FROM wants w WHERE w.dir=o.dir AND w.base=o.base)"
        " AND NOT EXISTS (SELECT 1 FROM node n WHERE n.base_cid=o.cid AND o.cid!=0)"
        " AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.key=o.dir || o.base)"
        " AND NOT EXISTS (SELECT 1 FROM vacated v"
        "   WHERE substr(o.dir || o.base, 1, length(v.prefix)) = v.prefix)"
        " AND NOT EXISTS (SELECT 1 FROM node m WHERE m.subtree=1"
        "   AND substr(o.dir || o.base, 1, length(m.prefix)) = m.prefix)"
        # Where members of directories with too long a path are: no name is to show it.
        " AND o.dir != ? AND o.dir || o.base != ?"
        # Nor the further marker of a directory that is there.
        " AND NOT (o.cid=0 AND EXISTS (SELECT 1 FROM wants w WHERE w.dir=o.dir"
        "   AND substr(w.base, 1, length(w.base)-1) || ? = o.base))",
        DEEP,
        DEEP,
        SUFFIX,
    ):
        yield error(
            "index", folder + base, "a known object without a name", "the next listing names it",
            partial(at.drop_object, folder + base),
        )  # fmt: skip
    for folder, base in at.all("SELECT dir, base FROM object WHERE stale=?", _PARKED):
        low, high = folder + base, (folder + base)[:-1] + "0"  # the character behind the slash
        if at.one("SELECT 1 FROM object WHERE dir>=? AND dir<?", low, high) is None:
            yield error(
                "index", folder + base, "a prefix waits for what lay below it, and there is nothing",
                "it is removed next", partial(_unpark, at, folder, base),
            )  # fmt: skip


def _unpark(at: Opened, folder: str, base: str) -> None:
    at.db.execute("UPDATE object SET stale=1 WHERE dir=? AND base=?", (folder, base))
