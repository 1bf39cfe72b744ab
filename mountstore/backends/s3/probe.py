"""What a server honours and holds is tried, once a bucket and process, never assumed.

The probe writes small objects of unguessable names under the store's prefix, and removes them. Where it
may not write, nothing is known, and nothing is relied on.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mountstore.backends.s3 import listing, multipart, objects, sign
from mountstore.backends.s3.faults import PreconditionAfterRetry
from mountstore.backends.s3.keys import Shape
from mountstore.backends.s3.wire import Reply, Wire
from mountstore.errors import AccessDenied, NotFound, PreconditionFailed, StoreError, Unavailable

log = logging.getLogger(__name__)
_WRONG = '"00000000000000000000000000000000"'
# A server that fails on a key is asked again, but not for a minute.
_SHAPE_DEADLINE_S = 0.3


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a server, for one bucket and one login."""

    writable: bool
    conditional_put: bool
    conditional_complete: bool  # the same at the end of a multipart upload
    conditional_get: bool
    conditional_delete: bool
    checksums: bool  # a body that fails its CRC-32 is refused
    md5_etags: bool  # the etag of one part is its MD5, unless it is encrypted with a key of its own
    names_count_whole: bool  # x-amz-meta- counts for the limit of metadata
    unheld: frozenset[Shape]


UNKNOWN = Profile(False, False, False, False, False, False, False, False, frozenset(Shape))

_profiles: dict[tuple[str, str, str], Profile] = {}
_locks: defaultdict[tuple[str, str, str], threading.Lock] = defaultdict(threading.Lock)


def profile(wire: Wire, prefix: str) -> Profile:
    """The server's profile, probed unless this process knows it already. Raises Unavailable."""
    credentials = wire.account.credentials()
    name = (wire.site.base, credentials.access_key if credentials else "", wire.site.region)
    with _locks[name]:
        if name not in _profiles:
            _profiles[name] = _probe(wire, prefix)
        return _profiles[name]


def _probe(wire: Wire, prefix: str) -> Profile:
    base = f"{prefix}.mountstore-probe-{secrets.token_hex(12)}"
    try:
        etag = listing.quoted_etag(_put(wire, base).headers.get("etag", ""))
    except AccessDenied as error:
        log.info("the bucket cannot be written, so it is taken as read-only: %s", error)
        return UNKNOWN
    try:
        md5_etags = etag == objects.md5_etag(b"") or _head_etag(wire, base) == objects.md5_etag(b"")
        return Profile(
            writable=True,
            conditional_put=_refused(wire, base, {"if-none-match": "*"})
            and _refused(wire, base, {"if-match": _WRONG}),
            conditional_complete=_complete_refused(wire, base, {"if-none-match": "*"})
            and _complete_refused(wire, base, {"if-match": _WRONG}),
            conditional_get=_get_refused(wire, base),
            checksums=_checksum_refused(wire, base),
            md5_etags=md5_etags,
            names_count_whole=not _takes_metadata(wire, base),
            unheld=frozenset(shape for shape in Shape if not _holds(wire, base, shape)),
            conditional_delete=_delete_refused(wire, base),
        )
    finally:
        _delete(wire, base)


def _put(
    wire: Wire, key: str, headers: Mapping[str, str] | None = None, deadline_s: float | None = None
) -> Reply:
    return wire.request("PUT", "PUT", key, headers=headers, deadline_s=deadline_s)


def _head_etag(wire: Wire, key: str) -> str | None:
    try:
        return objects.head(wire, key, key).etag
    except AccessDenied:
        return None


def _delete(wire: Wire, key: str) -> None:
    try:
        wire.request("DELETE", "DELETE", key, deadline_s=_SHAPE_DEADLINE_S)
    except NotFound:
        return
    except StoreError as error:
        log.warning("a probe object is left behind, delete it: %r: %s", key, error)


def _refused(wire: Wire, key: str, headers: Mapping[str, str]) -> bool:
    try:
        _put(wire, key, headers)
    except (PreconditionFailed, PreconditionAfterRetry):
        return True
    except Unavailable:
        raise
    except StoreError:
        return False
    return False


def _complete_refused(wire: Wire, key: str, conditions: Mapping[str, str]) -> bool:
    try:
        with ThreadPoolExecutor(1) as pool:
            multipart.upload(
                wire,
                pool,
                key,
                key,
                multipart.Source(b"probe"),
                multipart.MAX_PARTS,
                {},
                conditions,
                signed_bodies=True,
                checksums=False,
            )
    except PreconditionFailed:
        return True
    except Unavailable:
        raise
    except StoreError:
        return False
    return False


def _takes_metadata(wire: Wire, key: str) -> bool:
    try:
        _put(wire, key, {"x-amz-meta-k": "v" * 2047})
    except Unavailable:
        raise
    except StoreError:
        return False
    return True


def _get_refused(wire: Wire, key: str) -> bool:
    try:
        wire.request("GET", "GET", key, headers={"if-match": _WRONG})
    except PreconditionFailed:
        return True
    except AccessDenied:
        return False
    return False


def _checksum_refused(wire: Wire, key: str) -> bool:
    body, wrong = b"probe", multipart.crc32_text(b"other")
    try:
        wire.request(
            "PUT",
            "PUT",
            key,
            headers={"x-amz-checksum-crc32": wrong},
            body=body,
            payload_sha256=sign.UNSIGNED,
            deadline_s=0,
        )
    except StoreError:
        return True
    return False


def _delete_refused(wire: Wire, key: str) -> bool:
    try:
        wire.request("DELETE", "DELETE", key, headers={"if-match": _WRONG})
    except PreconditionFailed:
        return True
    except Unavailable:
        raise
    except StoreError:
        return False
    return False


def _holds(wire: Wire, base: str, shape: Shape) -> bool:
    """Put a key of this shape, and see whether exactly this key is listed."""
    # No folder of its own: versitygw leaves one behind when it refuses what was to go there.
    stem = f"{base}-{shape.name.lower()}-"
    tried = {
        Shape.EMPTY_SEGMENT: ["x//y"],
        # Resolved, the second one would be x/z: still a name of the probe's own.
        Shape.DOT_SEGMENT: ["x/./y", "x/y/../z"],
        Shape.NUL: ["x\x00y"],
        Shape.UNLISTABLE: ["x\x01y", "x\uffffy"],
        Shape.NEWLINE: ["x\ny", "x\ry"],
        Shape.LONG_SEGMENT: ["x" * 256],
    }[shape]
    done = []
    for name in tried:
        try:
            _put(wire, stem + name, deadline_s=_SHAPE_DEADLINE_S)
        except AccessDenied:
            raise
        except StoreError:
            break
        done.append(stem + name)
    found = listing.fetch(wire, stem, "", "", 100)
    keys = [info.key for info in found.objects]
    # What was merged or listed wrongly goes under one of its two names.
    for key in sorted({*keys, *done}):
        _delete(wire, key)
    return len(done) == len(tried) and keys == sorted(done, key=str.encode)


def exists_exactly(wire: Wire, whole: str) -> bool:
    """Whether this very key is there: for shapes that a server may take for another key."""
    found = listing.fetch(wire, whole, "", "", 2)
    return bool(found.objects) and found.objects[0].key == whole
