"""What a loss of power left of the staged content.

Closed data is in the page cache and recorded in the index, which is enough for the death of the daemon. After
a loss of power the index may be an earlier one, and it may name bytes that never reached the disk. So each
layer's row says which of its extents were synced, and has a checksum of the rest if that is small. A state
directory that was last used before the machine was started again is looked through: what was synced is
there, what has the right checksum too, and everything else is dropped, so that a file is what it was when it
was last synced, or a longer prefix of what was written since. What was never synced at all is left to the
store. Which files that were is kept in the index, for `status`, until a clean end.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

from mountstore.vfs.content import Content
from mountstore.vfs.index import Index
from mountstore.vfs.rows import Node
from mountstore.vfs.staging import Layer
from mountstore.vfs.status import Loss
from mountstore.vfs.tree import Tree

log = logging.getLogger(__name__)

_LOST = "lost"
_NAMED = 1000  # so many losses are remembered; the log has all


def boot_id() -> str:
    """What differs whenever the machine has been started again."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def recover(index: Index, tree: Tree, content: Content) -> None:
    """Drop what did not reach the disk, if the power may have been lost; in the caller's transaction."""
    boot = boot_id()
    if index.get_meta("boot") in (None, boot):
        index.set_meta("boot", boot)
        return
    losses = lost(index)
    for ino in index.staged_nodes():
        node = index.node(ino)
        if node is not None and (loss := _restore(node, index, tree, content)):
            losses.append(loss)
    if losses:
        index.set_meta(_LOST, json.dumps([asdict(loss) for loss in losses[-_NAMED:]]))
    # The store may be ahead of the index: whatever was read of it is to be read again.
    index.expire_listings()
    tree.has_lost_power = True
    index.set_meta("boot", boot)


def lost(index: Index) -> list[Loss]:
    """What losses of power have taken since the last clean end."""
    text = index.get_meta(_LOST)
    return [Loss(**told) for told in json.loads(text)] if text else []


def forget_lost(index: Index) -> None:
    """A clean end: it has been told for as long as this mount was there; in the caller's transaction."""
    if index.get_meta(_LOST):
        index.set_meta(_LOST, "")


def _restore(node: Node, index: Index, tree: Tree, content: Content) -> Loss | None:
    size = node.size
    lost = False
    layers = content.stack(node).layers
    for layer in layers:
        size, whole = _verify(layer, size)
        lost |= not whole
    if not lost and (not node.base_cid or any(layer.was_synced for layer in layers)):
        if any(index.is_rewritten(layer.id) for layer in layers):
            _rename_content(node, index, tree)
        return None
    path = tree.path_of(node.ino)
    if any(layer.was_synced for layer in layers):
        log.warning("%s: what was not synced when the power was lost is gone, %d bytes are left", path, size)
        for layer in layers:
            layer.truncate(size)
        node.size = size
        _rename_content(node, index, tree)
        return Loss(path, size, time.time_ns())
    # Nothing of it was promised. What the store has is older, or newer than the index; then it is not what
    # belongs beneath a change in part, even where all of that is here.
    log.warning("%s: written shortly before the power was lost, and not synced: the store's is left", path)
    content.remove(content.drop(node))
    for dentry in index.links(node.ino):
        key = tree.key_of(dentry)
        index.drop_intents(key)
        index.drop_object(key)
        tree.disown(dentry, node)
    return Loss(path, None, time.time_ns())


def _rename_content(node: Node, index: Index, tree: Tree) -> None:
    """The file may not be what was recorded, and perhaps sent before the power was lost.

    What the store has by now is not to be taken for it, nor to be replaced by it: they are two versions, told
    apart by their times.
    """
    node.cid = index.new_id()
    node.ctime_ns = time.time_ns()
    for dentry in index.links(node.ino):
        index.drop_intents(tree.key_of(dentry))
    tree.want(node, 0)
    index.save(node)


def _verify(layer: Layer, size: int) -> tuple[int, bool]:
    """(how much of the file is left, whether the layer is whole); if not, it keeps what was synced."""
    if layer.is_intact():
        return size, True
    for start, stop in layer.unsynced():
        if stop > layer.synced_size:
            size = min(size, max(start, layer.synced_size))
    layer.forget_unsynced()
    return size, False
