"""Which etag to believe.

An etag decides what is somebody else's change, so one that arrives damaged would make a conflict out of
nothing. None is believed for being told once: it is what the content makes it, or it was told twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mountstore.errors import AccessDenied, NotFound, Unavailable
from mountstore.store import ObjectInfo

_ASKS = 4

Head = Callable[[str], ObjectInfo]


def look(head: Head, key: str, *likely: str | None) -> ObjectInfo | None:
    """The object, or None if there is none; asked for until the answer is a likely one (etags; None: no
    object) or was given twice. Raises Unavailable if the answers go on contradicting each other."""
    heard: set[str | None] = set(likely)
    for _ in range(_ASKS):
        try:
            info: ObjectInfo | None = head(key)
        except NotFound:
            info = None
        etag = info.etag if info is not None else None
        if etag in heard:
            return info
        heard.add(etag)
    raise Unavailable(f"the server's answers about {key!r} contradict each other", key=key)


def settle(
    head: Head, key: str, told: str, expected: str | None, size: int, metadata: Mapping[str, str]
) -> str:
    """The etag of what was just put, of this size and metadata.

    `told` is what the answer said, `expected` what the content makes it (None: that cannot be known). If
    they differ the object is asked for; what is there may be somebody else's by now, whose etag is not ours.
    """
    if told == expected:
        return told
    heard = {told}
    for _ in range(_ASKS):
        try:
            info = head(key)
        except (NotFound, AccessDenied):
            break  # it has been removed, or these credentials may write and not read
        etag = info.etag or ""
        if etag in (expected, told):
            return etag
        if (info.size, info.metadata) != (size, dict(metadata)):
            break
        if etag in heard:
            return etag
        heard.add(etag)
    else:
        if expected is None:
            raise Unavailable(f"the server's answers about {key!r} contradict each other", key=key)
    return told if expected is None else expected
