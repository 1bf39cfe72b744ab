"""Groups of hard links, recognised again from the store alone.

Each name is an object of its own with the whole content. Their metadata names the group; what was put as one
state of the file says so to the nanosecond of its ctime. A name with an older state was not reached by the
last change, because that one did not know of it: it is brought up to date.
"""

from __future__ import annotations

from collections.abc import Callable

from mountstore.store import ObjectInfo
from mountstore.vfs.attrs import attrs_of
from mountstore.vfs.extras import link_of
from mountstore.vfs.index import Index
from mountstore.vfs.names import name_of_segment, segment_of_name
from mountstore.vfs.rows import Known, Node
from mountstore.vfs.tree import Tree


def join(
    index: Index,
    tree: Tree,
    parent: Node,
    segment: str,
    info: ObjectInfo,
    name: bytes | None,
    apply: Callable[[Node, ObjectInfo], None],
) -> bool:
    """Make what was found a further name of the node of its group; in the caller's transaction.

    False if it belongs to none, or has something newer than a node that is in use. `apply` gives a node the
    attributes that an object carries.
    """
    found = link_of(info.metadata, info.key)
    node = index.node_of_link(found[0]) if found else None
    attrs = attrs_of(info.metadata or {})
    name = name or name_of_segment(segment)
    if node is None or node.is_dir or attrs.ctime_ns is None or index.dentry(parent.ino, name) is not None:
        return False
    unused = node.is_clean and node.due is None and not node.opens
    known = Known(info.key, info.etag, info.size, info.mtime_ns, index.new_id(), index.new_id(), 0)
    if attrs.ctime_ns > node.ctime_ns:
        if not unused:
            return False
        node.cid = node.base_cid = known.cid
        node.mid, node.size, node.target = known.mid, known.size, None
        apply(node, info)
        tree.want(node, 0)
    elif (
        unused
        and info.size == node.size
        and (attrs.ctime_ns, attrs.mtime_ns) == (node.ctime_ns, node.mtime_ns)
    ):
        known = Known(info.key, info.etag, info.size, info.mtime_ns, node.cid, node.mid, 0)
    else:
        tree.want(node, 0)
    index.insert_dentry(parent.ino, name, node.ino, None if segment_of_name(name) == segment else segment)
    index.put_object(known)
    node.nlink += 1
    index.save(node)
    return True


def founded(index: Index, node: Node, info: ObjectInfo) -> None:
    """The first name of a group that was found; in the caller's transaction, which saves the node."""
    found = link_of(info.metadata, info.key)
    if found is not None and index.node_of_link(found[0]) is None:
        node.link, node.names = found
