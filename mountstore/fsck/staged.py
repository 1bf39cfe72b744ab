"""The staging folder against the index: layers, their files, and files of no layer."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mountstore.fsck import mending
from mountstore.fsck.findings import Fault, error, note
from mountstore.fsck.opened import Opened
from mountstore.vfs.staging import Extents, Layer


def faults(at: Opened) -> Iterator[Fault]:
    if at.staging.is_symlink() or (at.staging.exists() and not at.staging.is_dir()):
        yield error("staging", STAGING, "it is no directory", "move it away; the layers in it are gone")
        return
    yield from _ownerless(at)
    yield from _torn(at)
    yield from _cut_off(at)
    yield from _bare(at)
    yield from _foreign(at)
    yield from _unknown(at)


STAGING = "staging"


def _ownerless(at: Opened) -> Iterator[Fault]:
    for (ino,) in at.all(
        "SELECT DISTINCT ino FROM layer WHERE ino NOT IN (SELECT ino FROM node)"
        # Removed while it was being uploaded: the mount itself forgets it.
        " AND ino NOT IN (SELECT ino FROM intent WHERE kind='put')"
        " AND ino NOT IN (SELECT ino FROM dentry)"
    ):
        yield error(
            "staging", f"#{ino}", "staged content of a file that is not there", "it goes to lost+found",
            partial(_give_node, at, ino),
        )  # fmt: skip


def _give_node(at: Opened, ino: int) -> None:
    new = at.new_id() if ino < 16 else ino
    at.db.execute("UPDATE layer SET ino=? WHERE ino=?", (new, ino))
    mending.revive(at, new)
    mending.name_in_lost_found(at, new)


def _torn(at: Opened) -> Iterator[Fault]:
    """Layers whose files are shorter than what was recorded."""
    after_cut = 0
    mismatched = 0
    told: set[int] = set()
    for layer, ino, below, packed, synced, size, check in at.all(
        "SELECT l.id, l.ino, l.below, l.extents, l.synced, l.synced_size, l.checksum FROM layer l"
        " JOIN node n ON n.ino=l.ino WHERE n.nlink > 0"
    ):
        extents, on_disk = Extents(packed), Extents(synced or b"")
        path = at.staging / str(layer)
        length = mending.file_size(path)
        if length < extents.end:
            if at.rebooted and length >= on_disk.end:
                after_cut += 1
            elif ino not in told:
                told.add(ino)
                what = (
                    "is gone"
                    if not length and not path.exists()
                    else f"ends at {length} of {extents.end} bytes"
                )
                yield error(
                    "staging", at.path_of(ino), f"a file with staged content of it ({path.name}) {what}",
                    "what can be read goes to lost+found", partial(mending.tear, at, ino),
                )  # fmt: skip
        elif check is not None and extents and not _matches(path, below, extents, on_disk, size, check):
            mismatched += 1
    if after_cut:
        yield note(
            "staging", STAGING, f"{after_cut} layers are not whole, and the machine was started anew",
            "the next mount drops what was not synced, and says so",
        )  # fmt: skip
    if mismatched:
        yield note(
            "staging", STAGING, f"{mismatched} layers differ from their checksum",
            "they were written to just before the daemon ended" if not at.rebooted
            else "the next mount drops what was not synced, and says so",
        )  # fmt: skip


def _cut_off(at: Opened) -> Iterator[Fault]:
    for ino, size, packed in at.all(
        "SELECT n.ino, n.size, l.extents FROM node n JOIN layer l ON l.ino=n.ino WHERE n.nlink > 0"
        " AND l.height=(SELECT max(height) FROM layer WHERE ino=n.ino)"
    ):
        if (end := Extents(packed).end) > size:
            yield error(
                "index", at.path_of(ino), f"it says that it has {size} bytes, and {end} are staged",
                "it has what is staged", partial(_lengthen, at, ino),
            )  # fmt: skip


def _lengthen(at: Opened, ino: int) -> None:
    """Told by what is there now: another repair may have cut it."""
    (packed,) = at.need("SELECT extents FROM layer WHERE ino=? ORDER BY height DESC LIMIT 1", ino)
    at.db.execute("UPDATE node SET size=max(size, ?) WHERE ino=?", (Extents(packed).end, ino))


def _matches(path: Path, below: int, extents: Extents, on_disk: Extents, size: int, check: int) -> bool:
    layer = Layer(int(path.name), 0, path, 0, below, extents)
    layer.synced, layer.synced_size, layer.check = on_disk, size, check
    try:
        return layer.is_intact()
    finally:
        layer.close()


def _bare(at: Opened) -> Iterator[Fault]:
    """Files with content of their own that is in no layer, and beneath which there is nothing."""
    for ino, size, below in at.all(
        "SELECT n.ino, n.size, (SELECT below FROM layer WHERE ino=n.ino ORDER BY height LIMIT 1) FROM node n"
        " WHERE n.nlink > 0 AND n.cid != n.base_cid AND n.base_cid = 0 AND n.target IS NULL"
        f" AND (n.mode & 61440) = {stat.S_IFREG}"
    ):
        if (below is None and size) or below:
            at.doubtful = True
            yield error(
                "staging", at.path_of(ino), "staged content of it is missing",
                "what can be read goes to lost+found", partial(_mend_bare, at, ino),
            )  # fmt: skip
    for (ino,) in at.all(
        "SELECT n.ino FROM node n WHERE n.nlink > 0 AND n.base_cid != 0 AND n.cid != n.base_cid"
        " AND n.target IS NULL AND NOT EXISTS (SELECT 1 FROM layer l WHERE l.ino=n.ino)"
        f" AND (n.mode & 61440) = {stat.S_IFREG}"
    ):
        at.doubtful = True
        yield error(
            "staging", at.path_of(ino), "staged content of it is missing", "it is what the store has",
            partial(_as_in_store, at, ino),
        )  # fmt: skip
    for (ino,) in at.all(
        "SELECT n.ino FROM node n WHERE n.nlink > 0 AND n.base_cid != 0 AND n.cid != n.base_cid"
        " AND NOT EXISTS (SELECT 1 FROM object o WHERE o.cid=n.base_cid)"
        f" AND (n.mode & 61440) = {stat.S_IFREG}"
    ):
        yield error(
            "index", at.path_of(ino), "it was changed in part, and the object with the rest is not known",
            "what was written goes to lost+found, unless it is all", partial(rebase, at, ino),
        )  # fmt: skip


def _as_in_store(at: Opened, ino: int) -> None:
    known = at.one("SELECT o.cid, o.size FROM object o JOIN node n ON n.base_cid=o.cid WHERE n.ino=?", ino)
    if known is None:
        rebase(at, ino)
    else:
        at.update(ino, cid=known[0], size=known[1])


def _mend_bare(at: Opened, ino: int) -> None:
    mending.tear(at, ino)
    _nothing_beneath(at, ino)


def _nothing_beneath(at: Opened, ino: int) -> None:
    at.db.execute(
        "UPDATE layer SET below=0 WHERE ino=? AND height=(SELECT min(height) FROM layer WHERE ino=?)",
        (ino, ino),
    )


def rebase(at: Opened, ino: int) -> None:
    """The object beneath staged content is gone: what is staged stands alone."""
    node = at.need("SELECT size FROM node WHERE ino=?", ino)
    at.update(ino, base_cid=0)
    if not is_covered(at, ino, node[0]):
        mending.tear(at, ino)
    _nothing_beneath(at, ino)


def is_covered(at: Opened, ino: int, size: int) -> bool:
    """Whether nothing beneath the layers of a file can be seen."""
    visible = Extents()
    if size:
        visible.add(0, size)
    for below, packed in at.all("SELECT below, extents FROM layer WHERE ino=? ORDER BY height DESC", ino):
        hidden, rest = Extents(packed), Extents()
        for start, stop in visible:
            for begin, end, here in hidden.pieces(start, min(stop, max(below, start))):
                if not here:
                    rest.add(begin, end)
        visible = rest
    return not visible


def _foreign(at: Opened) -> Iterator[Fault]:
    for path in sorted(at.staging.iterdir()) if at.staging.is_dir() else []:
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            yield error(
                "staging", f"{STAGING}/{path.name}", "a folder that is not ours", "it is moved out",
                partial(_move_out, at, path),
            )  # fmt: skip


def _move_out(at: Opened, path: Path) -> None:
    target, number = at.path / f"staging-{path.name}", 1
    while target.exists():
        number += 1
        target = at.path / f"staging-{path.name}-{number}"
    path.rename(target)


def _unknown(at: Opened) -> Iterator[Fault]:
    known = {row[0] for row in at.all("SELECT id FROM layer")}
    files = sorted(at.staging.iterdir()) if at.staging.is_dir() else []
    unknown = [path for path in files if not (path.name.isdecimal() and int(path.name) in known)]
    plain = [path for path in unknown if path.name.isdecimal() and stat.S_ISREG(path.lstat().st_mode)]
    if at.doubtful:
        for path in plain:
            if mending.file_size(path):
                yield error(
                    "staging", f"{STAGING}/{path.name}", "staged content that the index does not name",
                    "as the index was damaged, it goes to lost+found", partial(mending.adopt_file, at, path),
                )  # fmt: skip
    elif unknown:
        yield note(
            "staging", STAGING, f"{len(unknown)} files that no layer names, as a killed daemon leaves them",
            "the next mount removes them",
        )  # fmt: skip
