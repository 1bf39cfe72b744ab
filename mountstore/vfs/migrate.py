"""State directories of older versions: the index is brought to the layout of this version.

The version of an index is its `PRAGMA user_version`; `STEPS[n]` makes version n + 1 of version n, and
`VERSION` follows from their number. To add a column or a table, two lines are needed:

 1. in index.py, write it into `_SCHEMA`: what a new index has. A column goes to the end of its table, is
    nullable or has a constant DEFAULT, and what reads and writes rows names its columns;
 2. here, append a step that does the same to an index that is there:

        ("ALTER TABLE node ADD COLUMN xattrs BLOB",),      # or ("CREATE TABLE xattr(...)",),

A step is a tuple of SQL statements, or a function of the connection where those do not do. Steps are never
changed or removed once a version with them has been released. tests/vfs/test_migrate.py compares a migrated
index with a new one.

All steps run in one transaction, after the whole index has been copied beside itself
(`index.sqlite.version-N`). The copy goes when the new version is on the disk. Whatever happens in between
leaves the old index as it was, and the next start begins anew. A migration that cannot be done says why in
one line and changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from mountstore.errors import MountError
from mountstore.vfs.failpoints import failpoint

log = logging.getLogger(__name__)

Step = tuple[str, ...] | Callable[[sqlite3.Connection], None]


def _rebuild(db: sqlite3.Connection, table: str, columns: str, missing: dict[str, str]) -> None:
    """Give a table these columns; rows keep what they have, and `missing` tells the rest as SQL."""
    there = _columns(db, table)
    db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute(f"CREATE TABLE {table}({columns}){' WITHOUT ROWID' if 'PRIMARY KEY(' in columns else ''}")
    names = _columns(db, table)
    values = ", ".join(name if name in there else missing[name] for name in names)
    db.execute(f"INSERT INTO {table}({', '.join(names)}) SELECT {values} FROM old_{table}")
    db.execute(f"DROP TABLE old_{table}")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _power_and_moves(db: sqlite3.Connection) -> None:
    """Layers say what of them was synced, intents whose they are, and directories where they have been."""
    _rebuild(
        db,
        "layer",
        "id INTEGER PRIMARY KEY, ino INTEGER NOT NULL, height INTEGER NOT NULL,\n"
        "  below INTEGER NOT NULL, extents BLOB NOT NULL, synced BLOB, synced_size INTEGER NOT NULL,\n"
        "  checksum INTEGER",
        {"synced": "NULL", "synced_size": "below", "checksum": "NULL"},
    )
    db.execute("CREATE INDEX layer_ino ON layer(ino, height)")
    _rebuild(
        db,
        "intent",
        "key TEXT NOT NULL, metadata TEXT NOT NULL, size INTEGER NOT NULL, cid INTEGER NOT NULL,\n"
        "  mid INTEGER NOT NULL, kind TEXT NOT NULL, ino INTEGER NOT NULL, PRIMARY KEY(key, metadata)",
        {"ino": "0"},
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS"
        " vacated(ino INTEGER NOT NULL, prefix TEXT NOT NULL, PRIMARY KEY(ino, prefix)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX IF NOT EXISTS node_moving ON node(prefix) WHERE subtree = 1")


def _links_places_sums(db: sqlite3.Connection) -> None:
    """Extended attributes, groups of hard links, other places of long names, checksums of contents."""
    there = _columns(db, "node")
    if "link" not in there:  # development versions had some of this before it had a number
        db.execute("ALTER TABLE node ADD COLUMN link TEXT")
        db.execute("ALTER TABLE node ADD COLUMN names INTEGER NOT NULL DEFAULT 0")
    for index in (
        "node_link ON node(link) WHERE link IS NOT NULL",
        "dentry_segment ON dentry(parent, segment) WHERE segment IS NOT NULL",
        "dentry_deep ON dentry(substr(segment, -24)) WHERE segment IS NOT NULL",
    ):
        db.execute(f"CREATE INDEX IF NOT EXISTS {index}")
    db.execute(
        "CREATE TABLE IF NOT EXISTS extra(ino INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,"
        " PRIMARY KEY(ino, name)) WITHOUT ROWID"
    )
    db.execute("CREATE TABLE IF NOT EXISTS sums(cid INTEGER PRIMARY KEY, crcs BLOB NOT NULL)")


STEPS: tuple[Step, ...] = (_power_and_moves, _links_places_sums)
VERSION = len(STEPS)


def version_of(db: sqlite3.Connection) -> int | None:
    """The version of an index; None if there is nothing in it yet. Raises sqlite3.Error."""
    try:
        return _version(db)
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError("the names of its tables cannot be read") from error


def _version(db: sqlite3.Connection) -> int | None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version == 0 and not _columns(db, "node"):
        return None
    if version == 1 and "synced" not in _columns(db, "layer"):
        return 0  # development versions wrote 1 before the format was settled
    return version


def check_version(version: int, steps: tuple[Step, ...] | None = None) -> None:
    """Raises MountError if an index of this version cannot be used here."""
    newest = len(STEPS if steps is None else steps)
    if version > newest:
        raise MountError(
            f"the index was written by a newer mountstore (format {version}, not {newest}): upgrade"
        )
    if version < 0:
        raise MountError(f"the index has a format that no mountstore has written ({version})")


def migrate(db: sqlite3.Connection, path: Path, steps: tuple[Step, ...] = STEPS) -> None:
    """Bring the index at `path`, open as `db` (autocommit), to the newest version.

    Raises MountError if that cannot be done; the index is then what it was before.
    """
    version = version_of(db)
    if version is None:
        return
    check_version(version, steps)
    copies = list(_copies(path))
    if version == len(steps):
        for copy in copies:  # left by a crash after the commit, or during the copying
            copy.unlink()
        return
    copy = path.with_name(f"{path.name}.version-{version}")
    try:
        for old in copies:
            old.unlink()
        _copy(db, copy)
        failpoint("migrate-copied")
        _run(db, steps[version:], len(steps))
        failpoint("migrate-recorded")
    except (sqlite3.Error, OSError, LookupError) as error:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)
        raise MountError(
            f"{path}: its format {version} cannot be brought to {len(steps)}, and nothing was changed:"
            f" {_reason(error)}; mountstore fsck says whether the index is sound"
        ) from error
    copy.unlink()
    log.info("%s: brought from format %d to %d", path, version, len(steps))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"a column {error.args[0]} is missing"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _copies(path: Path) -> Iterable[Path]:
    pattern = re.compile(re.escape(path.name) + r"\.version-\d+(\.new)?")
    return [one for one in path.parent.iterdir() if pattern.fullmatch(one.name)]


def _copy(db: sqlite3.Connection, copy: Path) -> None:
    temporary = copy.with_name(f"{copy.name}.new")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        db.execute("VACUUM INTO ?", (str(temporary),))
        _fsync(temporary)
        temporary.rename(copy)
        _fsync(copy.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _run(db: sqlite3.Connection, steps: tuple[Step, ...], version: int) -> None:
    # Names in indexes and triggers are left alone when a table steps aside for its successor.
    before = {
        name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "legacy_alter_table")
    }
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA legacy_alter_table=ON")
    try:
        db.execute("BEGIN EXCLUSIVE")
        for step in steps:
            if callable(step):
                step(db)
            else:
                for statement in step:
                    db.execute(statement)
        db.execute(f"PRAGMA user_version={version}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    finally:
        for name, value in before.items():
            db.execute(f"PRAGMA {name}={value}")


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
