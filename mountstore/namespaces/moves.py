"""Moves that lose nothing: what soft deletion and undeletion are made of.

Soft deletion moves an item to the name with `.del`, undeletion back. Neither overwrites: if the other name
is taken by the same content, the two are one already, and the source is removed; if it is taken by other
content, nothing is changed and ItemExists is raised. So of any number of repetitions, also by several
clients at once, no content is lost but by an outright delete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from mountstore.errors import NotFound, PreconditionFailed
from mountstore.namespaces.errors import ItemExists
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores.reader import ObjectReader, same_content

_TRIES = 100


def set_aside(store: ObjectStore, live: str, deleted: str) -> ObjectInfo:
    """Move a live item where deleted ones lie. Raises NotFound, ItemExists.

    The move is on condition that the live item is the one that was looked at. Only a move of that item could
    have put anything at the other place since, and then the condition does not hold.
    """
    for _ in range(_TRIES):
        info = store.head(live)
        try:
            if (there := _head(store, deleted)) is not None:
                return _joined(store, info, there)
            return store.rename(live, deleted, if_match=info.etag)
        except ItemExists:
            raise
        except PreconditionFailed:
            continue
    raise ItemExists(f"{live!r} is being changed all the time; try again", key=live)


def bring_back(store: ObjectStore, deleted: str, live: str) -> ObjectInfo:
    """Move a deleted item to where it lived. Raises NotFound, ItemExists.

    Anybody may store a live item at any time, so this one is put on condition that there is none, which takes
    its content through this process. Where a store honours no such condition, it is looked at before.
    """
    for _ in range(_TRIES):
        info = store.head(deleted)
        try:
            if (there := _head(store, live)) is not None:
                return _joined(store, info, there)
            if not store.capabilities.conditional_put:
                return store.rename(deleted, live, if_match=info.etag)
            content = ObjectReader(store, info).as_file()
            brought = store.put(live, content, metadata=info.metadata, if_absent=True)
        except ItemExists:
            raise
        except PreconditionFailed:
            continue
        _remove(store, info)
        return brought
    raise ItemExists(f"{deleted!r} is being changed all the time; try again", key=deleted)


def join_copies(store: ObjectStore, kept: str, others: Iterable[str]) -> None:
    """Remove what moves that were interrupted have left at other places, where it is the same as `kept`."""
    for other in others:
        if other != kept and (left := _head(store, other)) is not None:
            with contextlib.suppress(PreconditionFailed, NotFound):
                _joined(store, left, store.head(kept))


def _head(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return store.head(key)
    except NotFound:
        return None


def _joined(store: ObjectStore, source: ObjectInfo, there: ObjectInfo) -> ObjectInfo:
    same = source.size == there.size and same_content(ObjectReader(store, source), ObjectReader(store, there))
    if not same:
        raise ItemExists(
            f"{there.key!r} is there with other content; nothing was moved. Delete one of the two first",
            key=there.key,
        )
    _remove(store, source)
    return there


def _remove(store: ObjectStore, info: ObjectInfo) -> None:
    """Remove what was moved, unless it has been replaced meanwhile: then that is another item, and stays."""
    condition = info.etag if store.capabilities.conditional_delete else None
    try:
        store.delete(info.key, missing_ok=True, if_match=condition)
    except PreconditionFailed:
        return
