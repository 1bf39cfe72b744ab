"""Whether an object has certain bytes, told by a digest: for stores that keep nothing beside the content."""

from __future__ import annotations

import hashlib

from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import ObjectStore
from mountstore.vfs.content import Body

_STEP = 8 << 20


def digest_of_body(body: Body) -> str:
    """SHA-256 of what `put` is to be given, which is read once more for it. For worker threads."""
    digest = hashlib.sha256()
    if isinstance(body, bytes | bytearray | memoryview):
        digest.update(body)
    else:
        begin = body.tell()
        while data := body.read(_STEP):
            digest.update(data)
        body.seek(begin)
    return digest.hexdigest()


def digest_of_object(store: ObjectStore, key: str, size: int, etag: str | None) -> str | None:
    """SHA-256 of this version of an object; None if it is not there any more. For worker threads."""
    digest = hashlib.sha256()
    condition = etag if store.capabilities.conditional_get else None
    try:
        for start in range(0, size, _STEP):
            data = store.get(key, start, min(start + _STEP, size), if_match=condition)
            digest.update(data)
    except (NotFound, PreconditionFailed):
        return None
    return digest.hexdigest()
