"""Rows that cannot be what a mount has written: wrong types, impossible values."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from mountstore.fsck import mending
from mountstore.fsck.findings import Fault, error
from mountstore.fsck.opened import Opened
from mountstore.vfs.markers import SUFFIX
from mountstore.vfs.names import name_of_segment
from mountstore.vfs.places import without_deep
from mountstore.vfs.rows import ROOT_INO, Dentry
from mountstore.vfs.staging import Extents

_INT = "('integer')"
_NODE = {
    "mode": _INT, "nlink": _INT, "uid": _INT, "gid": _INT, "rdev": _INT, "size": _INT, "atime_ns": _INT,
    "mtime_ns": _INT, "ctime_ns": _INT, "target": "('null','blob')", "cid": _INT, "base_cid": _INT,
    "mid": _INT, "known": _INT, "due": "('null','integer')", "since": "('null','integer')",
    "prefix": "('null','text')", "listed_ns": _INT, "marker": _INT, "subtree": _INT,
    "link": "('null','text')", "names": _INT,
}  # fmt: skip
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_ID_MAX = 1 << 62


def faults(at: Opened) -> Iterator[Fault]:
    yield from _ids(at)
    yield from _nodes(at)
    yield from _names(at)
    yield from _objects(at)
    yield from _intents(at)
    yield from _layers(at)
    yield from _rests(at)


def _ids(at: Opened) -> Iterator[Fault]:
    row = at.one("SELECT value FROM meta WHERE name='next_id'")
    used = 15
    numbers = "node.ino node.cid node.base_cid node.mid dentry.id object.cid object.mid layer.id"
    for table, _, column in (number.partition(".") for number in numbers.split()):
        (most,) = at.one(
            f"SELECT max({column}) FROM {table} WHERE typeof({column})='integer' AND {column}<?", _ID_MAX
        ) or (None,)
        used = max(used, most or 0)

    def mend() -> None:
        at.db.execute("INSERT OR REPLACE INTO meta VALUES('next_id', ?)", (used + 1,))

    if row is None or not isinstance(row[0], int) or not used < row[0] < _ID_MAX:
        yield error("index", "next_id", "numbers would be given out twice", "it is set anew", mend)


def _nodes(at: Opened) -> Iterator[Fault]:
    wrong = " OR ".join(f"typeof({column}) NOT IN {types}" for column, types in _NODE.items())
    kinds = ",".join(map(str, _KINDS))
    rows = at.all(
        f"SELECT ino FROM node WHERE {wrong} OR (mode & 61440) NOT IN ({kinds})"
        " OR mode NOT BETWEEN 0 AND 65535 OR size < 0 OR nlink < 0 OR cid < 0 OR base_cid < 0 OR ino < 1"
        " OR names < 0"
        f" OR ino > {_ID_MAX}"
        " OR subtree NOT IN (0, 1) OR marker NOT IN (0, 1)"
        " OR ((mode & 61440) = 16384 AND prefix IS NULL)"
        " OR ((mode & 61440) != 16384 AND prefix IS NOT NULL)"
    )
    for (ino,) in rows:
        yield error(
            "index", at.path_of(ino), "its attributes make no sense",
            "they are taken from what is known of it elsewhere", partial(_mend_node, at, ino),
        )  # fmt: skip
    root = at.one("SELECT mode FROM node WHERE ino=?", ROOT_INO)
    if root is None and at.one("SELECT 1 FROM dentry UNION ALL SELECT 1 FROM node LIMIT 1") is not None:
        yield error("index", "/", "the root is missing", "it is made anew", partial(_make_root, at))


def _make_root(at: Opened) -> None:
    at.insert_node(ROOT_INO, stat.S_IFDIR | 0o755, prefix="", marker=0, due=None, since=None)


def _mend_node(at: Opened, ino: int) -> None:
    now = time.time_ns()
    if not 0 < ino < _ID_MAX:
        number = at.new_id()
        for table in ("node", "dentry", "layer"):
            at.db.execute(f"UPDATE {table} SET ino=? WHERE ino=?", (number, ino))
        at.db.execute("UPDATE dentry SET parent=? WHERE parent=?", (number, ino))
        ino = number
    names = ", ".join(_NODE)
    found = at.need(f"SELECT {names} FROM node WHERE ino=?", ino)
    row: dict[str, Any] = dict(zip(_NODE, found, strict=True))
    for name in ("uid", "gid", "rdev", "size", "cid", "base_cid", "mid", "nlink", "listed_ns", "names"):
        if not isinstance(row[name], int) or row[name] < 0:
            row[name] = 0
    for name in ("atime_ns", "mtime_ns", "ctime_ns"):
        row[name] = row[name] if isinstance(row[name], int) else now
    layers = at.all("SELECT below, extents FROM layer WHERE ino=? ORDER BY height", ino)
    link = at.one("SELECT parent, name, segment FROM dentry WHERE ino=?", ino)
    key = at.key_of(*link) if link else None
    mode = row["mode"] if isinstance(row["mode"], int) and 0 <= row["mode"] <= 0xFFFF else 0
    kind = stat.S_IFMT(mode)
    if ino == ROOT_INO or (isinstance(row["prefix"], str) and not layers):
        kind = stat.S_IFDIR
    elif kind not in _KINDS or kind == stat.S_IFDIR:
        kind = stat.S_IFLNK if isinstance(row["target"], bytes) else stat.S_IFREG
        if not layers and at.one("SELECT 1 FROM dentry WHERE parent=?", ino) is not None:
            kind = stat.S_IFDIR
    row["mode"] = kind | (stat.S_IMODE(mode) or (0o700 if kind == stat.S_IFDIR else 0o600))
    row["known"], row["due"], row["since"] = 1, now, now
    row["marker"], row["subtree"] = int(kind == stat.S_IFDIR and ino != ROOT_INO), int(row["subtree"] == 1)
    row["link"] = row["link"] if isinstance(row["link"], str) else None
    row["target"] = row["target"] if isinstance(row["target"], bytes) else None
    if kind == stat.S_IFDIR:
        if not isinstance(row["prefix"], str):
            row["prefix"] = at.prefix_of(ino) or ""
        row["listed_ns"] = 0
        if ino == ROOT_INO:
            row["due"] = row["since"] = None
    else:
        row["prefix"], row["subtree"] = None, 0
        known = at.object_at(key) if key else None
        extents = [mending.extents_of(packed) or Extents() for _, packed in layers]
        ends = [one.end for one in extents]
        if layers:
            row["cid"] = at.new_id()
            row["size"] = max(row["size"], ends[-1])
            if not row["base_cid"] and known is not None and layers[0][0] > 0:
                row["base_cid"] = known[3]
        elif known is not None and known[3] in (row["cid"], row["base_cid"]):
            row["cid"] = row["base_cid"] = known[3]
            row["size"] = known[1]
    row["mid"] = at.new_id()
    at.update(ino, **row)


def _names(at: Opened) -> Iterator[Fault]:
    rows = at.all(
        "SELECT id, parent, CAST(name AS BLOB), ino FROM dentry WHERE typeof(parent)!='integer'"
        " OR typeof(ino)!='integer' OR typeof(name)!='blob' OR typeof(segment) NOT IN ('null','text')"
        " OR length(name) NOT BETWEEN 1 AND 255 OR name IN (x'2e', x'2e2e') OR instr(name, x'00')"
        " OR instr(name, x'2f') OR segment LIKE '%/%'"
    )
    for dentry, parent, name, ino in rows:
        yield error(
            "index", repr(name), "this is no name of anything", "it is written anew",
            partial(_mend_name, at, dentry, parent, bytes(name or b""), ino),
        )  # fmt: skip

    for dentry, name, segment in at.all(
        "SELECT id, name, segment FROM dentry WHERE typeof(segment)='text' AND typeof(name)='blob'"
    ):
        if not _fits(without_deep(Dentry(dentry, 0, name, 0, segment)).segment or "", name):
            yield error(
                "index", repr(name), "it stands for a key that it cannot stand for", "it stands for its own",
                partial(at.db.execute, "UPDATE dentry SET segment=NULL WHERE id=?", (dentry,)),
            )  # fmt: skip


def _fits(segment: str, name: bytes) -> bool:
    """Whether a name may stand for this segment: by the escapes, literally, or shortened."""
    return (
        name in (name_of_segment(segment), name_of_segment(segment, clash=True))
        or segment == name.decode(errors="backslashreplace")
        or segment.endswith(f"%(name-{hashlib.sha256(name).hexdigest()[:16]})")
    )


def _mend_name(at: Opened, dentry: int, parent: Any, name: bytes, ino: Any) -> None:
    at.db.execute("DELETE FROM dentry WHERE id=?", (dentry,))
    if not (isinstance(parent, int) and isinstance(ino, int)):
        return  # the node has no name then, and is found by that
    good = name.replace(b"/", b"_").replace(b"\0", b"_")[:200]
    if good in (b"", b".", b".."):
        good = b"fsck-%d" % dentry
    at.insert_dentry(parent, at.free_name(parent, good), ino)
    at.db.execute("UPDATE node SET due=?, since=? WHERE ino=?", (time.time_ns(), time.time_ns(), ino))


def _objects(at: Opened) -> Iterator[Fault]:
    ints = ("size", "mtime_ns", "cid", "mid", "stale")
    wrong = " OR ".join(f"typeof({column})!='integer'" for column in ints)
    rows = at.all(
        f"SELECT dir, base FROM object WHERE {wrong} OR typeof(dir)!='text' OR typeof(base)!='text'"
        " OR typeof(etag) NOT IN ('null','text') OR size < 0 OR base='' OR (dir!='' AND substr(dir,-1)!='/')"
        " OR instr(substr(base, 1, length(base)-1), '/') OR cid < 0 OR stale < 0"
        f" OR (cid=0 AND substr(base,-1)!='/' AND substr(base,-{len(SUFFIX)})!='{SUFFIX}')"
        " OR (etag IS NULL AND substr(base,-1)='/' AND size!=0)"
    )
    for folder, base in rows:
        yield error(
            "index", f"{folder}{base}", "what is known of this object makes no sense",
            "it is forgotten, and the next listing tells it again", partial(_forget_object, at, folder, base),
        )  # fmt: skip


def _forget_object(at: Opened, folder: Any, base: Any) -> None:
    at.db.execute("DELETE FROM object WHERE dir=? AND base=?", (folder, base))
    at.expire_all()


def _intents(at: Opened) -> Iterator[Fault]:
    for key, metadata, *numbers, kind in at.all(
        "SELECT key, metadata, size, cid, mid, ino, kind FROM intent"
    ):
        try:
            told = json.loads(metadata)
            good = isinstance(told, dict) and all(isinstance(value, str) for value in told.values())
        except (ValueError, TypeError):
            good = False
        if not good or kind not in ("put", "copy") or not all(isinstance(n, int) for n in numbers):
            yield error(
                "index", str(key), "a request under way that cannot be read",
                "it is forgotten; the next upload finds out what became of it",
                partial(at.db.execute, "DELETE FROM intent WHERE key=? AND metadata=?", (key, metadata)),
            )  # fmt: skip


def _layers(at: Opened) -> Iterator[Fault]:
    for layer, ino, height, below, packed, synced, size, check in at.all(
        "SELECT id, ino, height, below, extents, synced, synced_size, checksum FROM layer"
    ):
        numbers = all(
            isinstance(number, int) and abs(number) < _ID_MAX for number in (ino, height, below, size)
        )
        good = mending.extents_of(packed) is not None and (
            synced is None or mending.extents_of(synced) is not None
        )
        if not (numbers and good and below >= 0 and size >= 0 and isinstance(check, int | None)):
            yield error(
                "index", f"staging/{layer}", "what is known of this layer makes no sense",
                "it counts as being where its file has data", partial(_mend_layer, at, layer),
            )  # fmt: skip


def _mend_layer(at: Opened, layer: int) -> None:
    row = at.need("SELECT ino, height, below, extents FROM layer WHERE id=?", layer)
    ino, height, below, packed = row
    path = at.staging / str(layer)
    extents = mending.extents_of(packed)
    if extents is None:
        extents = mending.data_of(path) if mending.file_size(path) else Extents()
    ino = ino if isinstance(ino, int) and 0 < ino < _ID_MAX else 0
    height = height if isinstance(height, int) and abs(height) < _ID_MAX else layer
    below = below if isinstance(below, int) and 0 <= below < _ID_MAX else 0
    node = at.one("SELECT size FROM node WHERE ino=?", ino)
    if node is not None and isinstance(node[0], int):
        extents.clip(node[0])
    at.db.execute("DELETE FROM layer WHERE id=?", (layer,))
    at.insert(
        "layer", id=layer, ino=ino, height=height, below=below, extents=extents.pack(), synced=None,
        synced_size=0, checksum=None,
    )  # fmt: skip


def _rests(at: Opened) -> Iterator[Fault]:
    for table in ("vacated", "conflict"):
        (count,) = at.one(f"SELECT count(*) FROM {table} WHERE ino NOT IN (SELECT ino FROM node)") or (0,)
        if count:
            yield error(
                "index", table, f"{count} rows are of nodes that are gone", "they are removed",
                partial(at.db.execute, f"DELETE FROM {table} WHERE ino NOT IN (SELECT ino FROM node)"),
            )  # fmt: skip
    wrong = (
        "typeof(name)!='text' OR typeof(value)!='blob'"
        " OR (ino NOT IN (SELECT ino FROM node) AND ino NOT IN (SELECT ino FROM dentry))"
    )
    if at.one(f"SELECT 1 FROM extra WHERE {wrong}") is not None:
        yield error(
            "index", "extra", "extended attributes of nothing, or that cannot be read", "they are removed",
            partial(at.db.execute, f"DELETE FROM extra WHERE {wrong}"),
        )  # fmt: skip
    if at.one("SELECT 1 FROM sums WHERE typeof(crcs)!='blob' OR length(crcs) % 4") is not None:
        yield error(
            "index", "sums", "checksums that cannot be read", "they are taken again",
            partial(at.db.execute, "DELETE FROM sums"),
        )  # fmt: skip
    wrong = "typeof(prefix)!='text' OR prefix='' OR substr(prefix,-1)!='/'"
    if at.one(f"SELECT 1 FROM vacated WHERE {wrong}") is not None:
        yield error(
            "index", "vacated", "where a directory has been cannot be read", "it is forgotten",
            partial(at.db.execute, f"DELETE FROM vacated WHERE {wrong}"),
        )  # fmt: skip
