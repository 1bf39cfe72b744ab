"""One object at a time: copied from store to store as one version, and compared."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from typing import BinaryIO, Literal, cast, get_args

from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores.reader import RANGE_BYTES, ObjectReader, same_content

Compare = Literal["content", "bytes", "size+mtime"]
COMPARISONS: tuple[str, ...] = get_args(Compare)

_TRIES = 5
_MD5 = re.compile(r'"([0-9a-f]{32})(-[0-9]+)?"')


def copy_object(
    source: ObjectStore,
    key: str,
    target: ObjectStore,
    target_key: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> ObjectInfo:
    """Put one object, with its metadata, into a store; the info there.

    Within one store it is the store's own `copy`. Otherwise the bytes move through this process, in ranges,
    as one version: read again from the beginning, five times at most, if it changes meanwhile (then
    PreconditionFailed). `progress` is told how many bytes each range brought. Raises NotFound.
    """
    if source is target:
        return target.copy(key, target_key)
    for tries in range(_TRIES):
        info = source.head(key)
        try:
            return _put(source, info, target, target_key, progress)
        except PreconditionFailed:
            if tries == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def _put(
    source: ObjectStore,
    info: ObjectInfo,
    target: ObjectStore,
    target_key: str,
    progress: Callable[[int], None] | None,
) -> ObjectInfo:
    reader = ObjectReader(source, info, progress)
    if info.size <= RANGE_BYTES:
        return target.put(target_key, reader.range(0, info.size), metadata=info.metadata)
    if source.capabilities.conditional_get:
        return target.put(target_key, reader.as_file(), metadata=info.metadata)
    # Ranges of such a source may be of several versions: seen afterwards, and before the target has any.
    with tempfile.TemporaryFile() as spool:
        for piece in reader.ranges():
            spool.write(piece)
        if source.head(info.key).etag != info.etag:
            raise PreconditionFailed(f"{info.key!r} was changed while it was being read", key=info.key)
        spool.seek(0, os.SEEK_SET)
        return target.put(target_key, cast(BinaryIO, spool), metadata=info.metadata)


def is_same(
    source: ObjectStore,
    here: ObjectInfo,
    target: ObjectStore,
    there: ObjectInfo,
    *,
    compare: Compare,
    watch: Callable[[int], None],
) -> bool:
    """Whether the objects have the same content, as far as `compare` looks (see `mountstore.transfer`).

    `watch` is told how many bytes each range brought, and may raise. False where one of them has changed
    since its info was told: it has to be looked at anew.
    """
    if here.size != there.size:
        return False
    if compare == "size+mtime":
        return here.mtime_ns <= there.mtime_ns
    if compare == "content":
        one, other = _MD5.fullmatch(here.etag or ""), _MD5.fullmatch(there.etag or "")
        if one is not None and other is not None and one[0] == other[0]:
            return True
        try:
            # An etag of this look need not be an MD5 (with server-side encryption it is not): a hash that
            # is equal proves, one that differs does not.
            if one is not None and one[2] is None and other is None:
                return _md5(target, there, watch) == one[1]
            if other is not None and other[2] is None and one is None:
                return _md5(source, here, watch) == other[1]
        except (NotFound, PreconditionFailed):
            return False
    try:
        return same_content(ObjectReader(source, here, watch), ObjectReader(target, there, watch))
    except (NotFound, PreconditionFailed):
        return False


def _md5(store: ObjectStore, info: ObjectInfo, watch: Callable[[int], None]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in ObjectReader(store, info, watch).ranges():
        digest.update(piece)
    return digest.hexdigest()
