"""Making several stores agree on one key."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from mountstore.errors import NotFound
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores.reader import ObjectReader, same_content


def put_right(stores: Sequence[ObjectStore], key: str, wrong: Collection[int], *, metadata: bool) -> int:
    """Make `key` the same object in all stores, or in none; in how many something was changed.

    Of the stores that are not `wrong` (known not to have made the last change) the object with the newest
    `mtime_ns` is right, the first of those that are as new. If none of them has it, it was deleted where some
    are wrong. Contents are compared by reading them, and user metadata if `metadata`.
    """
    heads: dict[int, ObjectInfo] = {}
    for number, store in enumerate(stores):
        with contextlib.suppress(NotFound):
            heads[number] = store.head(key)
    right = {number: info for number, info in heads.items() if number not in wrong}
    if not right:
        for number in heads:
            stores[number].delete(key, missing_ok=True)
        return len(heads)
    best = max(right, key=lambda number: (right[number].mtime_ns, -number))
    changed = 0
    for number, store in enumerate(stores):
        if number == best:
            continue
        if not _agree(stores[best], heads[best], store, heads.get(number), metadata=metadata):
            reader = ObjectReader(stores[best], heads[best])
            store.put(key, reader.as_file(), metadata=heads[best].metadata)
            changed += 1
    return changed


def _agree(
    store: ObjectStore,
    info: ObjectInfo,
    other_store: ObjectStore,
    other: ObjectInfo | None,
    *,
    metadata: bool,
) -> bool:
    if other is None or info.size != other.size:
        return False
    if metadata and dict(info.metadata or {}) != dict(other.metadata or {}):
        return False
    return same_content(ObjectReader(store, info), ObjectReader(other_store, other))
