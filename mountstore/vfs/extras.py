"""What an object's metadata tells of a node beside its attributes, and what it is to tell.

    xattr             extended attributes and ACLs, see xattrs.py
    mountstore-name   the file name, where the key cannot tell it, see places.py
    mountstore-deep   where the members of a directory are, see places.py
    mountstore-link   `ID-COUNT-CHECK`: the group of hard links, how many names it has, and of which key
                      this was said, so that a copy made by another tool is not taken for a link

Metadata of others is kept as it is, but for checksums once the content is another one.
"""

from __future__ import annotations

import hashlib
import logging
import re
import stat
from collections.abc import Mapping

from mountstore.errors import StoreFull
from mountstore.vfs.attrs import OUR_KEYS, link_target_of, metadata_of
from mountstore.vfs.index import Index
from mountstore.vfs.places import DEEP_KEY, NAME_KEY, metadata_of_place
from mountstore.vfs.rows import Dentry, Node
from mountstore.vfs.xattrs import METADATA_KEY, decoded, encoded

log = logging.getLogger(__name__)

LINK_KEY = "mountstore-link"
XATTRS = "x"
FOREIGN = "m"

_LINK = re.compile(r"([0-9a-f]{16})-(\d{1,6})-([0-9a-f]{8})", re.ASCII)
_OURS = OUR_KEYS | {METADATA_KEY, NAME_KEY, DEEP_KEY, LINK_KEY}
_OF_CONTENT = re.compile(r"md5|sha|crc|checksum|hash|etag|length|size|encryption|compress", re.IGNORECASE)


def metadata_size(metadata: Mapping[str, str]) -> int:
    """Bytes of metadata, as S3 counts them."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())


def metadata_for(
    index: Index, node: Node, dentry: Dentry, key: str, *, limit_bytes: int | None, new_content: bool
) -> dict[str, str]:
    """Everything that is to stand beside the content of this node under this key.

    Raises StoreFull if it is more than the store holds.
    """
    metadata = metadata_of(
        node.mode, node.uid, node.gid, node.atime_ns, node.mtime_ns, node.ctime_ns, node.rdev
    )
    metadata |= metadata_of_place(dentry)
    metadata |= encoded(index.extras(node.ino, XATTRS))
    if node.link is not None and node.shown_nlink > 1 and not node.is_dir:
        metadata[LINK_KEY] = f"{node.link}-{node.shown_nlink}-{_check(key)}"
    if limit_bytes is not None and metadata_size(metadata) > limit_bytes:
        raise StoreFull(
            f"the attributes of {key!r} are more than the {limit_bytes} bytes that the store holds"
        )
    foreign = index.extras(node.ino, FOREIGN)
    if new_content and any(map(_OF_CONTENT.search, foreign)):
        foreign = {name: value for name, value in foreign.items() if not _OF_CONTENT.search(name)}
        index.set_extras(node.ino, FOREIGN, foreign)
    if foreign:
        both = {name: value.decode() for name, value in foreign.items()} | metadata
        if limit_bytes is None or metadata_size(both) <= limit_bytes:
            return both
        log.warning(
            "%r: metadata of others goes, because the store holds no more than %d bytes", key, limit_bytes
        )
    return metadata


def take_over(index: Index, node: Node, metadata: Mapping[str, str]) -> None:
    """Give a node what its object tells; in the caller's transaction, which saves the node."""
    xattrs = decoded(metadata)
    foreign = {key: value.encode() for key, value in metadata.items() if key not in _OURS}
    for kind, extras in ((XATTRS, xattrs), (FOREIGN, foreign)):
        if extras or index.extras(node.ino, kind):
            index.set_extras(node.ino, kind, extras)
    target = link_target_of(metadata)
    if target is not None and not node.is_dir:
        node.mode = stat.S_IFLNK | 0o777
        node.target = target
        node.size = len(target)


def link_of(metadata: Mapping[str, str] | None, key: str) -> tuple[str, int] | None:
    """(the group, how many names) of hard links that the object of this key says to belong to."""
    found = _LINK.fullmatch((metadata or {}).get(LINK_KEY, ""))
    return (found[1], int(found[2])) if found and found[3] == _check(key) else None


def _check(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]
