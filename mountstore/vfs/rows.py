"""The rows of the index as values: nodes, names, and what the store is known to hold."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Any

from mountstore.vfs.staging import Stack

ROOT_INO = 1
EXPIRED_NS = 1  # in place of when a listing began: it is known not to be true any more


class Node:
    """One row of `node`, and the one copy of it in this process: changed in place, saved by `Index.save`."""

    __slots__ = (
        "__weakref__", "atime_ns", "base_cid", "cid", "ctime_ns", "due", "gid", "ino", "known", "link",
        "listed_ns", "marker", "mid", "mode", "mtime_ns", "names", "nlink", "opens", "prefix", "rdev",
        "since", "size", "stack", "subtree", "target", "uid", "unsaved", "writers",
    )  # fmt: skip

    def __init__(self, row: tuple[Any, ...]) -> None:
        (
            self.ino, self.mode, self.nlink, self.uid, self.gid, self.rdev, self.size,
            self.atime_ns, self.mtime_ns, self.ctime_ns, self.target, self.cid, self.base_cid, self.mid,
            self.known, self.due, self.since, self.prefix, self.listed_ns, self.marker, self.subtree,
            self.link, self.names,
        ) = row  # fmt: skip
        self.opens = 0  # handles
        self.writers = 0  # handles open for writing
        self.unsaved = False  # changed by writes since the last save
        self.stack: Stack | None = None  # the layers, once somebody has asked for them

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    target: bytes | None  # of a symlink; None while its content has not been read
    cid: int  # the content that applications see
    base_cid: int  # the content that the store supplies beneath the layers; 0: none
    mid: int  # the attributes that applications see
    known: int  # 1: attributes are the user's or were read from metadata; 0: only a listing was seen
    due: int | None  # when (wall clock, ns) the store is to be made to match; None: it does
    since: int | None  # since when it does not
    prefix: str | None  # directories: where in the store the children are listed
    listed_ns: int  # directories: when the last complete listing began; 0: never; or EXPIRED_NS
    marker: int  # directories: 1 if a marker object is wanted
    subtree: int  # directories: 1 if the names below it have moved and are still to be visited
    link: str | None  # which group of hard links it is, in the store
    names: (
        int  # how many names there are in the store, perhaps in directories not seen yet; 0: as many as nlink
    )

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def shown_nlink(self) -> int:
        """How many names it has, those included that have not been seen yet."""
        return max(self.nlink, self.names) if self.nlink else 0

    @property
    def is_clean(self) -> bool:
        """Whether some object holds the content, so that no layer is needed for it."""
        return self.base_cid == self.cid


@dataclass(frozen=True, slots=True)
class Dentry:
    """A name in a directory."""

    id: int  # position in the directory, stable while it is read
    parent: int
    name: bytes
    ino: int
    segment: str | None  # the key segment, where the name does not tell it


@dataclass(frozen=True, slots=True)
class Known:
    """What the store is known to hold under a key. `etag` is None for a prefix whose marker is unknown."""

    key: str
    etag: str | None
    size: int
    mtime_ns: int
    cid: int
    mid: int
    stale: int  # wall clock ns from which on it may be deleted, if no name wants it; 0: wanted


@dataclass(frozen=True, slots=True)
class Intent:
    """A put or copy under way, recorded before it is sent."""

    key: str
    metadata: str  # JSON: what the object carries, by which it is recognised (see Answers.mark)
    size: int
    cid: int
    mid: int
    kind: str  # "put" or "copy"
    ino: int


def split_key(key: str) -> tuple[str, str]:
    """(prefix of the directory, last segment with its slash if it has one)."""
    cut = key.rfind("/", 0, len(key) - 1) + 1
    return key[:cut], key[cut:]
