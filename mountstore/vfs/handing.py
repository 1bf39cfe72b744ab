"""What has been uploaded is handed on to the cache on the disk, if the store has one before it."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack

from mountstore.store import Data, ObjectInfo, ObjectStore
from mountstore.stores.caching import CachingStore
from mountstore.vfs.content import Snapshot
from mountstore.vfs.staging import Layer, Stack

log = logging.getLogger(__name__)


def hand_on(store: ObjectStore, snapshot: Snapshot, info: ObjectInfo) -> None:
    """The object has the content of `snapshot`: its staged bytes are copied into the cache in the background.

    Its files stay readable until then under descriptors of their own, so the caller may remove them. What
    lies beneath them is left out: of that the cache keeps what it has.
    """
    if not isinstance(store, CachingStore) or not snapshot.layers or info.size != snapshot.size:
        return
    fds: dict[Layer, int] = {}
    with ExitStack() as closing:
        try:
            for layer in snapshot.layers:
                fds[layer] = os.dup(layer.fd)
                closing.callback(os.close, fds[layer])
        except OSError as error:
            log.info("%r is not taken over into the cache: %s", info.key, error)
            return
        stack = Stack(list(snapshot.layers))
        keep = closing.pop_all()

    def read(start: int, stop: int) -> Data | None:
        pieces = stack.plan(start, stop, snapshot.base_size)
        if any(piece.base for piece in pieces):
            return None
        parts = [
            bytes(piece.stop - piece.start)
            if piece.layer is None
            else os.pread(fds[piece.layer], piece.stop - piece.start, piece.start)
            for piece in pieces
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    store.fill(info, read, keep.close)
