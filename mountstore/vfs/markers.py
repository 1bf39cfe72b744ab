"""Directory markers that other tools leave: besides `name/`, an empty object `name_$folder$`.

The latter (of Hadoop's and other tools) is shown as the directory `name`, and goes when that one is removed
or moves. A file that a mount has made under such a name says by its attributes that it is one.
"""

from __future__ import annotations

import stat

from mountstore.store import ObjectInfo
from mountstore.vfs.attrs import attrs_of
from mountstore.vfs.rows import Known

SUFFIX = "_$folder$"


def may_be_marker(info: ObjectInfo, prefix: str) -> bool:
    """Whether this object in `prefix` has to be asked whether it stands for a directory."""
    return info.key.endswith(SUFFIX) and not info.size and len(info.key) > len(prefix) + len(SUFFIX)


def is_marker(info: ObjectInfo) -> bool:
    """Whether an object that may be a marker is one, by all that `head` tells."""
    mode = attrs_of(info.metadata or {}).mode or 0
    return not info.size and (stat.S_IFMT(mode) == 0 or stat.S_ISDIR(mode))


def directory_of(key: str) -> str:
    """The prefix that a marker stands for."""
    return key.removesuffix(SUFFIX) + "/"


def marker_for(prefix: str) -> str:
    """The key that such a marker of this prefix has."""
    return prefix.removesuffix("/") + SUFFIX


def row(info: ObjectInfo) -> Known:
    """How the index remembers a marker: an object that is no content."""
    return Known(info.key, info.etag, 0, info.mtime_ns, 0, 0, 0)


def is_row(known: Known | None) -> bool:
    """Whether this is what `row` makes."""
    return known is not None and known.cid == 0 and known.key.endswith(SUFFIX)
