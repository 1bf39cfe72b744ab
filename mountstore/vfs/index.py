"""The index of a mount: one SQLite file that says what applications see and what the store holds.

Four tables, of which the first two are what is wanted and the third is what is known to be there:

    node     a file, directory or symlink: attributes, and which content it has (`cid`)
    dentry   a name in a directory, for a node; hard links are several
    object   a key that the store is known to hold: etag, and which content and attributes it carries
    intent   a request under way that changes the store: what a crash may have left there

and `layer` for staged content (see staging.py), `sums` for checksums of large contents (see sums.py).
A content id (`cid`) names one state of a file's bytes,
an attribute id (`mid`) one state of its attributes; equal ids mean equal bytes, and nothing else is ever
compared. A node whose key, content or attributes differ from what `object` says has a `due` time, and the
reconciler makes the store follow. Nothing here is needed once nothing is due: the store tells it all again.

WAL with synchronous=NORMAL: a committed transaction survives the death of the process; `sync` makes it
survive the loss of power.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import trio

from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.migrate import VERSION, migrate, version_of
from mountstore.vfs.rows import EXPIRED_NS, Dentry, Intent, Known, Node, split_key
from mountstore.vfs.staging import LayerRow

log = logging.getLogger(__name__)

_ID_BLOCK = 1 << 16
_RECENT = 20_000  # nodes kept in memory
_PARKED = 1 << 62  # a time that never comes
_SOON_NS = 1_000_000_000

_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE node(
  ino INTEGER PRIMARY KEY, mode INTEGER NOT NULL, nlink INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL,
  atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  target BLOB, cid INTEGER NOT NULL, base_cid INTEGER NOT NULL, mid INTEGER NOT NULL,
  known INTEGER NOT NULL, due INTEGER, since INTEGER,
  prefix TEXT, listed_ns INTEGER NOT NULL, marker INTEGER NOT NULL, subtree INTEGER NOT NULL,
  link TEXT, names INTEGER NOT NULL DEFAULT 0);
CREATE INDEX node_link ON node(link) WHERE link IS NOT NULL;
CREATE INDEX node_due ON node(due) WHERE due IS NOT NULL;
CREATE INDEX node_base ON node(base_cid) WHERE base_cid != 0;
CREATE INDEX node_moving ON node(prefix) WHERE subtree = 1;
CREATE INDEX node_unlinked ON node(ino) WHERE nlink = 0;
CREATE TABLE dentry(
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER NOT NULL, segment TEXT,
  UNIQUE(parent, name));
CREATE INDEX dentry_order ON dentry(parent, id);
CREATE INDEX dentry_ino ON dentry(ino);
CREATE INDEX dentry_segment ON dentry(parent, segment) WHERE segment IS NOT NULL;
CREATE INDEX dentry_deep ON dentry(substr(segment, -24)) WHERE segment IS NOT NULL;
CREATE TABLE object(
  dir TEXT NOT NULL, base TEXT NOT NULL, etag TEXT, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  cid INTEGER NOT NULL, mid INTEGER NOT NULL, stale INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(dir, base)) WITHOUT ROWID;
CREATE INDEX object_cid ON object(cid);
CREATE INDEX object_stale ON object(stale) WHERE stale != 0;
CREATE TABLE intent(key TEXT NOT NULL, metadata TEXT NOT NULL, size INTEGER NOT NULL, cid INTEGER NOT NULL,
  mid INTEGER NOT NULL, kind TEXT NOT NULL, ino INTEGER NOT NULL, PRIMARY KEY(key, metadata)) WITHOUT ROWID;
CREATE TABLE layer(id INTEGER PRIMARY KEY, ino INTEGER NOT NULL, height INTEGER NOT NULL,
  below INTEGER NOT NULL, extents BLOB NOT NULL, synced BLOB, synced_size INTEGER NOT NULL,
  checksum INTEGER);
CREATE INDEX layer_ino ON layer(ino, height);
CREATE TABLE vacated(ino INTEGER NOT NULL, prefix TEXT NOT NULL, PRIMARY KEY(ino, prefix)) WITHOUT ROWID;
CREATE TABLE extra(ino INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(ino, name))
  WITHOUT ROWID;
CREATE TABLE conflict(ino INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL);
CREATE TABLE sums(cid INTEGER PRIMARY KEY, crcs BLOB NOT NULL);
"""

_REWRITTEN = "rewritten "  # with the number of a layer, a name in `meta`


def _below(prefix: str) -> tuple[str, str]:
    """The range of folders that a prefix covers."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_NODE = (
    "ino, mode, nlink, uid, gid, rdev, size, atime_ns, mtime_ns, ctime_ns, target, cid, base_cid, mid, known,"
    " due, since, prefix, listed_ns, marker, subtree, link, names"
)
_N_NODE = ", ".join("n." + column.strip() for column in _NODE.split(","))
_INSERT_NODE = f"INSERT INTO node({_NODE}) VALUES({','.join('?' * (_NODE.count(',') + 1))})"
_INSERT_DENTRY = "INSERT INTO dentry(id, parent, name, ino, segment) VALUES(?,?,?,?,?)"
_PUT_OBJECT = (
    "INSERT OR REPLACE INTO object(dir, base, etag, size, mtime_ns, cid, mid, stale) VALUES(?,?,?,?,?,?,?,?)"
)
_UPDATE_NODE = (
    "UPDATE node SET mode=?, nlink=?, uid=?, gid=?, rdev=?, size=?, atime_ns=?, mtime_ns=?, ctime_ns=?,"
    " target=?, cid=?, base_cid=?, mid=?, known=?, due=?, since=?, prefix=?, listed_ns=?, marker=?,"
    " subtree=?, link=?, names=? WHERE ino=?"
)
_OBJECT = "dir || base, etag, size, mtime_ns, cid, mid, stale"


class Index:
    """The tables, read and written row by row; for the thread of the event loop alone.

    Every change is made inside `transaction`; those nest, and the outermost commits. Nodes are kept by
    inode number, so that there is one `Node` for each at any time.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        self.failed: OSError | None = None  # why nothing can be recorded any more
        self._execute("PRAGMA journal_mode=WAL")
        self._execute("PRAGMA synchronous=NORMAL")
        self._execute("PRAGMA cache_size=-32768")
        # On a small disk the log stays small, too.
        disk = os.statvfs(path.parent)
        pages = min(max(disk.f_blocks * disk.f_frsize // 64 // 4096, 100), 4000)
        self._execute(f"PRAGMA wal_autocheckpoint={pages}")
        self._execute("PRAGMA locking_mode=EXCLUSIVE")
        self._log = path.with_name(path.name + "-wal")
        self._synced_changes = -1
        self._depth = 0
        self._touched: list[tuple[Node, bool]] = []
        # There is never a second copy of a node that somebody still holds; some stay for speed.
        self.nodes: WeakValueDictionary[int, Node] = WeakValueDictionary()
        self._recent: dict[int, Node] = {}
        self._open_schema(path)
        self._next_id = self._last_id = 0
        self._rewritten: set[int] = set()  # layers
        self._load_rewritten()

    def _execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: sqlite3.Error) -> OSError:
        """What an error of the index's file is to everybody else. All but a full disk are for good."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, f"the index cannot be written: {error}")
        failure = OSError(errno.EIO, f"the index has failed, and nothing is written any more: {error}")
        if code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            self.failed = failure
        return failure

    def _open_schema(self, path: Path) -> None:
        try:
            version = version_of(self._db)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        migrate(self._db, path)
        if version is None:
            first = "INSERT INTO meta VALUES('next_id', 16);"
            self._db.executescript(f"BEGIN; {_SCHEMA} {first} PRAGMA user_version={VERSION}; COMMIT;")
            failpoint("index-created")

    # -- transactions ------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are committed together, or none is, in the file and in the nodes.

        Raises OSError ENOSPC when the disk is full, EIO when it fails.
        """
        if self._depth:
            yield
            return
        if self.failed is not None:
            raise self.failed
        self._depth = 1
        self._touched.clear()
        try:
            self._execute("BEGIN IMMEDIATE")
            yield
            failpoint("commit-begins")
            self._execute("COMMIT")
            failpoint("commit-done")
        except BaseException as error:
            if isinstance(error, sqlite3.Error):
                error = self._failure(error)
            self._roll_back()
            raise error
        finally:
            self._depth = 0

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if self.failed is None:
                self._reload(self._touched)
                self._load_rewritten()
        except (sqlite3.Error, OSError) as error:
            log.error("the index could not be rolled back: %s", error)

    def _reload(self, touched: list[tuple[Node, bool]]) -> None:
        for node, unsaved in reversed(touched):
            row = self._execute(f"SELECT {_NODE} FROM node WHERE ino=?", (node.ino,)).fetchone()
            if row is None:
                self._lose(node.ino)
                continue
            written = node.size, node.mtime_ns, node.ctime_ns, node.cid
            runtime = node.opens, node.writers, node.stack
            node.__init__(row)  # type: ignore[misc]  # the one copy stays the one copy
            node.opens, node.writers, node.stack = runtime
            for layer in node.stack.layers if node.stack is not None else ():
                layer.unsaved = unsaved = True
            if unsaved:
                node.size, node.mtime_ns, node.ctime_ns, node.cid = written
                node.unsaved = True

    def new_id(self) -> int:
        """A number never used before in this index: for inodes, names, contents, attributes and layers."""
        if self._next_id >= self._last_id:
            self._next_id = self._execute("SELECT value FROM meta WHERE name='next_id'").fetchone()[0]
            self._last_id = self._next_id + _ID_BLOCK
            self._execute("UPDATE meta SET value=? WHERE name='next_id'", (self._last_id,))
        self._next_id += 1
        return self._next_id - 1

    def get_meta(self, name: str) -> str | None:
        row = self._execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    def sync(self) -> None:
        """Make all that was committed survive the loss of power."""
        self._execute("PRAGMA synchronous=FULL")
        try:
            # A commit under FULL syncs the whole log before it.
            self._execute("INSERT OR REPLACE INTO meta VALUES('synced_ns', ?)", (time.time_ns(),))
        finally:
            self._execute("PRAGMA synchronous=NORMAL")

    async def sync_log(self) -> None:
        """The same in a thread, if anything was committed since the last time."""
        changes = self._db.total_changes
        if changes != self._synced_changes:
            await trio.to_thread.run_sync(_fsync, self._log)
            self._synced_changes = changes

    def close(self) -> None:
        self._db.close()

    # -- nodes -------------------------------------------------------------------------------------

    def node(self, ino: int) -> Node | None:
        node = self.nodes.get(ino)
        if node is None:
            row = self._execute(f"SELECT {_NODE} FROM node WHERE ino=?", (ino,)).fetchone()
            if row is not None:
                node = self._keep(Node(row))
        return node

    def _keep(self, node: Node) -> Node:
        if len(self._recent) >= _RECENT:
            for ino in list(itertools.islice(self._recent, _RECENT // 2)):
                del self._recent[ino]
        self._recent[node.ino] = self.nodes[node.ino] = node
        return node

    def insert_node(self, node: Node) -> Node:
        self._execute(
            _INSERT_NODE,
            (
                node.ino, node.mode, node.nlink, node.uid, node.gid, node.rdev, node.size, node.atime_ns,
                node.mtime_ns, node.ctime_ns, node.target, node.cid, node.base_cid, node.mid, node.known,
                node.due, node.since, node.prefix, node.listed_ns, node.marker, node.subtree, node.link,
                node.names,
            ),
        )  # fmt: skip
        self._touched.append((node, False))
        return self._keep(node)

    def insert_many(
        self,
        nodes: Sequence[tuple[object, ...]],
        dentries: Sequence[tuple[object, ...]],
        objects: Sequence[tuple[object, ...]],
    ) -> None:
        """Rows of the three tables, in the order of their columns, that nobody holds as values yet."""
        try:
            self._db.executemany(_INSERT_NODE, nodes)
            self._db.executemany(_INSERT_DENTRY, dentries)
            self._db.executemany(_PUT_OBJECT, objects)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def save(self, node: Node) -> None:
        self._touched.append((node, node.unsaved))
        self._execute(
            _UPDATE_NODE,
            (
                node.mode, node.nlink, node.uid, node.gid, node.rdev, node.size, node.atime_ns, node.mtime_ns,
                node.ctime_ns, node.target, node.cid, node.base_cid, node.mid, node.known, node.due,
                node.since, node.prefix, node.listed_ns, node.marker, node.subtree, node.link, node.names,
                node.ino,
            ),
        )  # fmt: skip
        # A row that tells of bytes without the extents that hold them would be a lie after a crash.
        for layer in node.stack.layers if node.stack is not None else ():
            if layer.unsaved:
                self._execute(
                    "INSERT OR REPLACE INTO layer VALUES(?,?,?,?,?,?,?,?)",
                    (
                        layer.id,
                        layer.ino,
                        layer.height,
                        layer.below,
                        layer.extents.pack(),
                        layer.synced.pack() if layer.was_synced else None,
                        layer.synced_size,
                        layer.checksum(),
                    ),
                )
                if layer.is_rewritten != (layer.id in self._rewritten):
                    self._note_rewritten(layer.id, layer.is_rewritten)
                layer.unsaved = False
        node.unsaved = False

    def drop_node(self, node: Node) -> None:
        self._execute("DELETE FROM node WHERE ino=?", (node.ino,))
        # An upload may still be reading them: their files go at its end, or at the next start.
        self.drop_layers([row[0] for row in self.layers(node.ino)])
        self._execute("DELETE FROM conflict WHERE ino=?", (node.ino,))
        self._execute("DELETE FROM extra WHERE ino=?", (node.ino,))
        if node.is_dir:
            self.drop_vacated(node.ino)
        self._lose(node.ino)

    def _lose(self, ino: int) -> None:
        self.nodes.pop(ino, None)
        self._recent.pop(ino, None)

    def unlinked(self) -> list[Node]:
        rows = self._execute(f"SELECT {_NODE} FROM node WHERE nlink=0").fetchall()
        return [self.nodes.get(row[0]) or self._keep(Node(row)) for row in rows]

    def node_of_link(self, link: str) -> Node | None:
        """The node of a group of hard links."""
        row = self._execute("SELECT ino FROM node WHERE link=? AND link IS NOT NULL AND nlink > 0", (link,))
        found = row.fetchone()
        return None if found is None else self.node(found[0])

    def extras(self, ino: int, kind: str) -> dict[str, bytes]:
        """What a node has besides: its attributes by name (kind "x"), metadata of others by key ("m")."""
        rows = self._execute(
            "SELECT substr(name, 2), value FROM extra WHERE ino=? AND name >= ? AND name < ?",
            (ino, kind, chr(ord(kind) + 1)),
        )
        return dict(rows.fetchall())

    def set_extras(self, ino: int, kind: str, extras: Mapping[str, bytes]) -> None:
        """Replace them."""
        self._execute(
            "DELETE FROM extra WHERE ino=? AND name >= ? AND name < ?", (ino, kind, chr(ord(kind) + 1))
        )
        for name, value in extras.items():
            self._execute("INSERT INTO extra VALUES(?,?,?)", (ino, kind + name, value))

    def due_nodes(self, now_ns: int, limit: int) -> list[int]:
        rows = self._execute(
            "SELECT ino FROM node WHERE due <= ? ORDER BY due LIMIT ?", (now_ns, limit)
        ).fetchall()
        return [row[0] for row in rows]

    def next_due(self, active: Collection[object]) -> int | None:
        """When the next node or stale object is due that is not among these, wall clock in ns."""
        limit = len(active) + 1
        rows = self._execute(
            "SELECT * FROM (SELECT ino, due FROM node WHERE due IS NOT NULL ORDER BY due LIMIT ?)"
            " UNION ALL"
            " SELECT * FROM (SELECT dir || base, stale FROM object WHERE stale != 0 ORDER BY stale LIMIT ?)",
            (limit, limit),
        )
        return min((due for what, due in rows if what not in active), default=None)

    def hasten(self, now_ns: int, but: Sequence[int]) -> None:
        """Make due now what would wait for longer than a second, but for these nodes."""
        later = now_ns + _SOON_NS
        marks = ",".join("?" * len(but))
        self._execute(f"UPDATE node SET due=? WHERE due > ? AND ino NOT IN ({marks})", (now_ns, later, *but))
        self._execute("UPDATE object SET stale=? WHERE stale > ? AND stale < ?", (now_ns, later, _PARKED))
        for node in list(self.nodes.values()):
            if node.due is not None and node.due > later and node.ino not in but:
                node.due = now_ns

    def set_due(self, nodes: Iterable[Node]) -> None:
        """Record when these are due, of those that are."""
        dues = [(node.due, node.ino) for node in nodes if node.due is not None]
        try:
            self._db.executemany("UPDATE node SET due=? WHERE ino=? AND due IS NOT NULL", dues)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def vacated(self, ino: int) -> set[str]:
        """Prefixes that a directory has had and that have not been cleared yet."""
        return {row[0] for row in self._execute("SELECT prefix FROM vacated WHERE ino=?", (ino,)).fetchall()}

    def add_vacated(self, ino: int, prefixes: Collection[str]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO vacated VALUES(?,?)", [(ino, prefix) for prefix in prefixes]
        )

    def drop_vacated(self, ino: int) -> None:
        self._execute("DELETE FROM vacated WHERE ino=?", (ino,))

    def any_moving(self) -> bool:
        """Whether any directory has moved and is still to be visited."""
        return self._execute("SELECT 1 FROM node WHERE subtree=1 LIMIT 1").fetchone() is not None

    def moving(self, key: str) -> list[int]:
        """Directories that have moved, are still to be visited, and were listed from above this key."""
        if not self.any_moving():
            return []
        prefixes = [key[: cut + 1] for cut, char in enumerate(key) if char == "/"]
        marks = ",".join("?" * len(prefixes))
        rows = self._execute(f"SELECT ino FROM node WHERE subtree=1 AND prefix IN ({marks})", prefixes)
        return [row[0] for row in rows.fetchall()]

    def users_of_content(self, cid: int) -> list[int]:
        """Nodes whose bytes come from the object that carries this content."""
        if not cid:
            return []
        rows = self._execute("SELECT ino FROM node WHERE base_cid=? AND base_cid != 0", (cid,)).fetchall()
        return [row[0] for row in rows]

    # -- dentries ----------------------------------------------------------------------------------

    def dentry(self, parent: int, name: bytes) -> Dentry | None:
        row = self._execute(
            "SELECT id, parent, name, ino, segment FROM dentry WHERE parent=? AND name=?", (parent, name)
        ).fetchone()
        return row and Dentry(*row)

    def dentry_of_segment(self, parent: int, segment: str) -> Dentry | None:
        """The name that was remembered with this segment."""
        row = self._execute(
            "SELECT id, parent, name, ino, segment FROM dentry"
            " WHERE parent=? AND segment=? AND segment IS NOT NULL",
            (parent, segment),
        ).fetchone()
        return row and Dentry(*row)

    def dentry_of_deep(self, suffix: str) -> Dentry | None:
        """The name whose segment ends so (24 bytes): its directory's members are elsewhere."""
        row = self._execute(
            "SELECT id, parent, name, ino, segment FROM dentry"
            " WHERE substr(segment, -24)=? AND segment IS NOT NULL",
            (suffix,),
        ).fetchone()
        return row and Dentry(*row)

    def set_segment(self, dentry_id: int, segment: str | None) -> None:
        """Remember where a name belongs in the store, if the name does not tell it."""
        self._execute("UPDATE dentry SET segment=? WHERE id=?", (segment, dentry_id))

    def entry(self, parent: int, name: bytes) -> Node | None:
        """The node of a name."""
        row = self._execute("SELECT ino FROM dentry WHERE parent=? AND name=?", (parent, name)).fetchone()
        return row and self.node(row[0])

    def links(self, ino: int) -> list[Dentry]:
        rows = self._execute("SELECT id, parent, name, ino, segment FROM dentry WHERE ino=?", (ino,))
        return [Dentry(*row) for row in rows.fetchall()]

    def children(self, parent: int, after: int, limit: int) -> list[tuple[Dentry, Node]]:
        """Entries of a directory behind position `after`, in a stable order."""
        rows = self._execute(
            f"SELECT d.id, d.parent, d.name, d.ino, d.segment, {_N_NODE}"
            " FROM dentry d JOIN node n ON n.ino=d.ino WHERE d.parent=? AND d.id>? ORDER BY d.id LIMIT ?",
            (parent, after, limit),
        ).fetchall()
        get, keep = self.nodes.get, self._keep
        return [(Dentry(*row[:5]), get(row[3]) or keep(Node(row[5:]))) for row in rows]

    def due_children(self, parent: int) -> list[Node]:
        """The entries of a directory that the store is to follow."""
        rows = self._execute(  # from the few nodes that are due, not from the many names
            "SELECT DISTINCT n.ino FROM node n CROSS JOIN dentry d ON d.ino=n.ino"
            " WHERE n.due IS NOT NULL AND d.parent=?",
            (parent,),
        ).fetchall()
        return [node for row in rows if (node := self.node(row[0])) is not None]

    def children_by_name(self, parent: int, after: bytes, limit: int) -> list[tuple[Dentry, Node]]:
        """Entries of a directory behind a name, in the order of the names."""
        rows = self._execute(
            f"SELECT d.id, d.parent, d.name, d.ino, d.segment, {_N_NODE}"
            " FROM dentry d JOIN node n ON n.ino=d.ino"
            " WHERE d.parent=? AND d.name>? ORDER BY d.name LIMIT ?",
            (parent, after, limit),
        ).fetchall()
        get, keep = self.nodes.get, self._keep
        return [(Dentry(*row[:5]), get(row[3]) or keep(Node(row[5:]))) for row in rows]

    def names_between(self, parent: int, first: bytes, last: bytes) -> set[bytes]:
        """The names of a directory in [first, last]."""
        rows = self._execute(
            "SELECT name FROM dentry WHERE parent=? AND name>=? AND name<=?", (parent, first, last)
        )
        return {row[0] for row in rows}

    def has_children(self, parent: int) -> bool:
        return self._execute("SELECT 1 FROM dentry WHERE parent=? LIMIT 1", (parent,)).fetchone() is not None

    def insert_dentry(
        self, parent: int, name: bytes, ino: int, segment: str | None = None, place: int | None = None
    ) -> None:
        self._execute(
            _INSERT_DENTRY,
            (self.new_id() if place is None else place, parent, name, ino, segment),
        )

    def point_dentry(self, dentry_id: int, ino: int) -> None:
        """Let a name stand for another node, at the same position in its directory."""
        self._execute("UPDATE dentry SET ino=? WHERE id=?", (ino, dentry_id))

    def delete_dentry(self, dentry_id: int) -> None:
        self._execute("DELETE FROM dentry WHERE id=?", (dentry_id,))

    # -- objects -----------------------------------------------------------------------------------

    def object(self, key: str) -> Known | None:
        row = self._execute(f"SELECT {_OBJECT} FROM object WHERE dir=? AND base=?", split_key(key)).fetchone()
        return row and Known(*row)

    def objects_with(self, cid: int) -> list[Known]:
        """Objects that carry this content, those that stay first."""
        rows = self._execute(f"SELECT {_OBJECT} FROM object WHERE cid=? ORDER BY stale != 0", (cid,))
        return [Known(*row) for row in rows.fetchall()]

    def objects_in(self, prefix: str, after: str = "", upto: str | None = None) -> list[Known]:
        """Direct members of a prefix in (after, upto], by their last segment."""
        if upto is None:
            rows = self._execute(f"SELECT {_OBJECT} FROM object WHERE dir=? AND base>?", (prefix, after))
        else:
            rows = self._execute(
                f"SELECT {_OBJECT} FROM object WHERE dir=? AND base>? AND base<=?", (prefix, after, upto)
            )
        return [Known(*row) for row in rows.fetchall()]

    def bases_between(self, prefix: str, first: str, last: str) -> set[str]:
        """The last segments in [first, last] of objects that are direct members of a prefix."""
        rows = self._execute(
            "SELECT base FROM object WHERE dir=? AND base>=? AND base<=?", (prefix, first, last)
        )
        return {row[0] for row in rows}

    def put_object(self, known: Known) -> None:
        self._execute(
            _PUT_OBJECT,
            (
                *split_key(known.key), known.etag, known.size, known.mtime_ns, known.cid, known.mid,
                known.stale,
            ),
        )  # fmt: skip

    def set_stale(self, key: str, when_ns: int) -> None:
        """Say from when on an object may be deleted (0: not at all)."""
        self._execute("UPDATE object SET stale=? WHERE dir=? AND base=?", (when_ns, *split_key(key)))

    def park(self, key: str) -> None:
        """A stale prefix waits until nothing is known below it; `drop_object` sees to that."""
        self.set_stale(key, _PARKED)

    def drop_object(self, key: str) -> None:
        """Nothing is there any more, or nothing of ours."""
        folder, base = split_key(key)
        self._execute("DELETE FROM object WHERE dir=? AND base=?", (folder, base))
        while folder:
            if self._execute("SELECT 1 FROM object WHERE dir>=? AND dir<?", _below(folder)).fetchone():
                return
            self._execute(
                "UPDATE object SET stale=1 WHERE dir=? AND base=? AND stale=?",
                (*split_key(folder), _PARKED),
            )
            folder = split_key(folder)[0]

    def stale_objects(self, now_ns: int, limit: int) -> list[Known]:
        rows = self._execute(
            f"SELECT {_OBJECT} FROM object WHERE stale != 0 AND stale <= ? ORDER BY stale LIMIT ?",
            (now_ns, limit),
        )
        return [Known(*row) for row in rows.fetchall()]

    def stale_in(self, prefix: str) -> list[str]:
        """Keys of direct members of a prefix that no name wants any more; markers left out."""
        rows = self._execute(
            "SELECT dir || base FROM object INDEXED BY object_stale"
            " WHERE stale != 0 AND dir=? AND base NOT LIKE '%/'",
            (prefix,),
        )
        return [row[0] for row in rows.fetchall()]

    def any_stale(self) -> bool:
        return self._execute("SELECT 1 FROM object WHERE stale != 0 LIMIT 1").fetchone() is not None

    def any_due(self) -> bool:
        return self._execute("SELECT 1 FROM node WHERE due IS NOT NULL LIMIT 1").fetchone() is not None

    def objects_below(self, prefix: str, *, stale: bool = False) -> Iterator[Known]:
        """Everything known under a prefix, at any depth."""
        rows = self._execute(
            f"SELECT {_OBJECT} FROM object WHERE dir>=? AND dir<?" + (" AND stale != 0" if stale else ""),
            _below(prefix),
        )
        return (Known(*row) for row in rows)

    # -- intents, layers, conflicts ----------------------------------------------------------------

    def put_intent(self, intent: Intent) -> None:
        self._execute(
            "INSERT OR REPLACE INTO intent(key, metadata, size, cid, mid, kind, ino) VALUES(?,?,?,?,?,?,?)",
            (intent.key, intent.metadata, intent.size, intent.cid, intent.mid, intent.kind, intent.ino),
        )

    def drop_intents(self, key: str) -> None:
        self._execute("DELETE FROM intent WHERE key=?", (key,))

    def intents(self, key: str | None = None) -> list[Intent]:
        """What was sent and never answered: to a key, or at all."""
        where, values = ("", ()) if key is None else ("WHERE key=?", (key,))
        rows = self._execute(f"SELECT key, metadata, size, cid, mid, kind, ino FROM intent {where}", values)
        return [Intent(*row) for row in rows.fetchall()]

    def layers(self, ino: int) -> list[LayerRow]:
        """A node's layers, lowest first."""
        return self._execute(
            "SELECT id, height, below, extents, synced, synced_size, checksum FROM layer"
            " WHERE ino=? ORDER BY height",
            (ino,),
        ).fetchall()

    def layer_ids(self) -> list[int]:
        return [row[0] for row in self._execute("SELECT id FROM layer").fetchall()]

    def staged_nodes(self) -> list[int]:
        return [row[0] for row in self._execute("SELECT DISTINCT ino FROM layer").fetchall()]

    def drop_orphan_layers(self) -> None:
        """Layers without a node, which earlier versions left where an upload was still reading them."""
        self._execute("DELETE FROM layer WHERE ino NOT IN (SELECT ino FROM node)")

    def drop_layers(self, layer_ids: list[int]) -> None:
        self._db.executemany("DELETE FROM layer WHERE id=?", [(layer_id,) for layer_id in layer_ids])
        for layer_id in self._rewritten.intersection(layer_ids):
            self._note_rewritten(layer_id, False)

    def is_rewritten(self, layer_id: int) -> bool:
        """Whether it was recorded that bytes of this layer were written again after they were synced."""
        return layer_id in self._rewritten

    def _load_rewritten(self) -> None:
        rows = self._execute("SELECT name FROM meta WHERE name GLOB ?", (f"{_REWRITTEN}*",)).fetchall()
        self._rewritten = {int(name.removeprefix(_REWRITTEN)) for (name,) in rows}

    def _note_rewritten(self, layer_id: int, is_so: bool) -> None:
        if is_so:
            self._rewritten.add(layer_id)
            self.set_meta(f"{_REWRITTEN}{layer_id}", "")
        else:
            self._rewritten.discard(layer_id)
            self._execute("DELETE FROM meta WHERE name=?", (f"{_REWRITTEN}{layer_id}",))

    def put_sums(self, cid: int, crcs: bytes) -> None:
        """The checksums of a content (see sums.py)."""
        self._execute("INSERT OR REPLACE INTO sums VALUES(?, ?)", (cid, crcs))

    def sums(self, cid: int) -> bytes | None:
        row = self._execute("SELECT crcs FROM sums WHERE cid=?", (cid,)).fetchone()
        return None if row is None else bytes(row[0])

    def drop_orphan_sums(self) -> None:
        """Checksums of contents that no object has any more."""
        self._execute("DELETE FROM sums WHERE cid NOT IN (SELECT cid FROM object)")

    def add_conflict(self, ino: int) -> None:
        self._execute("INSERT OR REPLACE INTO conflict VALUES(?, ?)", (ino, time.time_ns()))

    def expire_listings(self) -> None:
        """Every directory is to be listed anew before it is looked at."""
        self._execute("UPDATE node SET listed_ns=? WHERE listed_ns > ?", (EXPIRED_NS, EXPIRED_NS))
        for node in list(self.nodes.values()):
            node.listed_ns = min(node.listed_ns, EXPIRED_NS)

    def conflicts(self) -> list[int]:
        return [row[0] for row in self._execute("SELECT ino FROM conflict ORDER BY time_ns").fetchall()]

    # -- for status --------------------------------------------------------------------------------

    def pending(self, limit: int) -> list[tuple[int, int]]:
        """(ino, since) of nodes that the store does not match yet, oldest first."""
        return self._execute(
            "SELECT ino, coalesce(since, due) FROM node WHERE due IS NOT NULL ORDER BY 2 LIMIT ?", (limit,)
        ).fetchall()

    def count_pending(self) -> tuple[int, int]:
        """(number of nodes and stale objects, bytes of the nodes' content that is not in the store)."""
        nodes, size = self._execute(
            "SELECT count(*), coalesce(sum(CASE WHEN cid != base_cid THEN size ELSE 0 END), 0)"
            " FROM node WHERE due IS NOT NULL"
        ).fetchone()
        stale = self._execute("SELECT count(*) FROM object WHERE stale != 0").fetchone()[0]
        return nodes + stale, size
