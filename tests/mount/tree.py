"""A directory tree as a value that can be compared with another's."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """What has to be the same of one name. `size` and `content` (SHA-256) are of files alone."""

    kind: str
    mode: str
    uid: int
    gid: int
    mtime_ns: int
    size: int | None = None
    content: str | None = None
    target: str | None = None


Tree = dict[str, Entry]


def digest(path: Path) -> str:
    """SHA-256 of a file, read a mebibyte at a time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(path: Path) -> Entry:
    """What is at one path, symlinks not followed."""
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    if stat.S_ISLNK(found.st_mode):
        return Entry("symlink", mode, found.st_uid, found.st_gid, found.st_mtime_ns, target=os.readlink(path))
    if stat.S_ISDIR(found.st_mode):
        return Entry("directory", mode, found.st_uid, found.st_gid, found.st_mtime_ns)
    if not stat.S_ISREG(found.st_mode):
        return Entry(f"special {kind:o}", mode, found.st_uid, found.st_gid, found.st_mtime_ns)
    content = digest(path)
    return Entry("file", mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_size, content)


def snapshot(root: Path) -> Tree:
    """Every name under `root`, and `root` itself as '.', with all that has to last."""
    tree = {".": entry(root)}

    def failed(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=failed):
        for name in [*folders, *files]:
            path = Path(folder, name)
            tree[str(path.relative_to(root))] = entry(path)
    return tree


def differences(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """One line for each name that is not the same in both, saying what of it differs."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"{name!r}: {'is new' if old is None else 'is missing'}: {new or old}")
            continue
        for one in fields(Entry):
            was, is_now = getattr(old, one.name), getattr(new, one.name)
            if was != is_now:
                lines.append(f"{name!r}: {one.name} was {was}, is {is_now}")
    return lines


def assert_same(before: Mapping[str, Entry], after: Mapping[str, Entry], *, what: str) -> None:
    """AssertionError that names the first of the differences."""
    found = differences(before, after)
    shown = "\n  ".join(found[:40])
    assert not found, f"{what}: {len(found)} differences in {len(before)} names\n  {shown}"
