"""Single objects over the wire: the exact way, for any key."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from mountstore.backends.s3 import sign
from mountstore.backends.s3.faults import Fault
from mountstore.backends.s3.listing import quoted_etag
from mountstore.backends.s3.multipart import crc32_text
from mountstore.backends.s3.wire import Reply, Wire
from mountstore.errors import Corrupted, NotFound, Unsupported
from mountstore.store import Data, ObjectInfo

MAX_METADATA_BYTES = 2048
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_META = "x-amz-meta-"
# What a copy with metadata given anew would lose, unless it is said again.
_CARRIED = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Suspect(Exception):
    """A whole object does not have its etag for an MD5; `error` is what it is if it really should."""

    def __init__(self, reply: Reply, key: str) -> None:
        super().__init__(key)
        self.data = reply.body
        # With these the etag is no MD5, by S3's own word.
        self.encrypted = (
            "kms" in reply.headers.get("x-amz-server-side-encryption", "")
            or "x-amz-server-side-encryption-customer-algorithm" in reply.headers
        )
        self.error = Corrupted(f"{key!r}: what came does not have the MD5 that the server tells", key=key)


def ns(moment: datetime) -> int:
    """Nanoseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND * 1000


def md5_etag(data: Data) -> str:
    """The etag of an object of one part, on servers that take its MD5."""
    return quoted_etag(hashlib.md5(data, usedforsecurity=False).hexdigest())


def is_md5(etag: str | None) -> bool:
    """Whether an etag has the form of the MD5 of one part."""
    return _MD5.fullmatch(etag or "") is not None


def matches(data: Data, etag: str | None) -> bool:
    """False if the etag has the form of an MD5 and is not that of `data`."""
    found = _MD5.fullmatch(etag or "")
    return found is None or hashlib.md5(data, usedforsecurity=False).hexdigest() == found[1]


def checked_metadata(
    key: str, metadata: Mapping[str, str] | None, names_count_whole: bool = False
) -> dict[str, str]:
    """A copy of what S3 can carry; anything else is Unsupported, before something is sent.

    `names_count_whole`: this server counts `x-amz-meta-` with each name.
    """
    kept = dict(metadata or {})
    for name, value in kept.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or value != value.strip():
            raise Unsupported(
                f"metadata {name!r} of {key!r}: S3 carries lower case names and printable ASCII", key=key
            )
    overhead = len(_META) if names_count_whole else 0
    if sum(len(name) + overhead + len(value) for name, value in kept.items()) > MAX_METADATA_BYTES:
        raise Unsupported(f"the metadata of {key!r} is over S3's {MAX_METADATA_BYTES} bytes", key=key)
    return kept


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"{_META}{name}": value for name, value in metadata.items()}


def head(wire: Wire, whole: str, key: str, *, tries: int = 0) -> ObjectInfo:
    """Size, time, etag and metadata."""
    return _info(wire.request("HEAD", "HEAD", whole, shown_key=key, tries=tries), key)


def head_with_headers(wire: Wire, whole: str, key: str) -> tuple[ObjectInfo, dict[str, str]]:
    """The same, and the headers that belong to the object."""
    reply = wire.request("HEAD", "HEAD", whole, shown_key=key)
    carried = {name: reply.headers[name] for name in _CARRIED if name in reply.headers}
    storage_class = reply.headers.get("x-amz-storage-class", "STANDARD")
    if storage_class != "STANDARD":
        carried["x-amz-storage-class"] = storage_class
    return _info(reply, key), carried


def get(
    wire: Wire,
    whole: str,
    key: str,
    start: int,
    stop: int | None,
    if_match: str | None,
    *,
    tries: int = 0,
) -> Data:
    """Bytes [start, stop), not empty, checked against all that the server tells. Raises Suspect."""
    headers = {"x-amz-checksum-mode": "ENABLED"}
    if start or stop is not None:
        headers["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    if if_match is not None:
        headers["if-match"] = if_match
    reply = wire.request("GET", "GET", whole, headers=headers, shown_key=key, tries=tries)
    data = reply.body
    if reply.status == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers.get("content-range", ""))
        if found is None or int(found[1]) != start or int(found[2]) + 1 - start != len(data):
            raise Corrupted(f"{key!r}: the server sent another range than was asked for", key=key)
        size = int(found[3])
        if len(data) != min(size, size if stop is None else stop) - start:
            raise Corrupted(f"{key!r}: the server sent too few bytes", key=key)
        if len(data) < size:
            return data  # S3 tells no checksum of a part
    crc32 = reply.headers.get("x-amz-checksum-crc32", "")
    whole_sum = reply.headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT"
    if crc32 and "-" not in crc32 and whole_sum:
        if crc32_text(data) != crc32:
            raise Corrupted(f"{key!r}: what came fails its CRC-32", key=key)
    elif not matches(data, if_match or reply.headers.get("etag")):
        raise Suspect(reply, key)
    return data[start:stop]


def put(
    wire: Wire,
    whole: str,
    key: str,
    body: Data,
    metadata: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    signed: bool,
    tries: int = 0,
) -> str:
    """Put in one part, with `extra` headers (conditions, Content-Type); the new etag."""
    reply = wire.request(
        "PUT",
        "PUT",
        whole,
        headers={**metadata_headers(metadata), **extra, "x-amz-checksum-crc32": crc32_text(body)},
        body=body,
        payload_sha256=hashlib.sha256(body).hexdigest() if signed else sign.UNSIGNED,
        shown_key=key,
        tries=tries,
    )
    return quoted_etag(reply.headers["etag"])


def copy(wire: Wire, source: str, source_etag: str, whole: str, key: str, headers: Mapping[str, str]) -> str:
    """Have the server copy this version, with these headers and no other; the new etag."""
    reply = wire.request(
        "COPY",
        "PUT",
        whole,
        headers={
            **headers,
            "x-amz-copy-source": f"/{wire.account.bucket}/{sign.quote_key(source)}",
            "x-amz-copy-source-if-match": source_etag,
            "x-amz-metadata-directive": "REPLACE",
        },
        shown_key=key,
    )
    for element in ElementTree.fromstring(reply.body).iter():
        if element.tag.endswith("ETag") and element.text:
            return quoted_etag(element.text)
    raise Corrupted(f"{key!r}: the server's answer to a copy lacks the etag", key=key)


def delete_batch(wire: Wire, prefix: str, keys: list[str]) -> None:
    """Remove up to a thousand; raises the first error, after all were tried."""
    listed = "".join(f"<Object><Key>{escape(prefix + key)}</Key></Object>" for key in keys)
    body = f"<Delete><Quiet>true</Quiet>{listed}</Delete>".encode()
    reply = wire.request(
        "DELETE",
        "POST",
        query=[("delete", "")],
        headers={
            "content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
            "content-type": "application/xml",
        },
        body=body,
        payload_sha256=hashlib.sha256(body).hexdigest(),
    )
    if not reply.body:
        return
    for element in ElementTree.fromstring(reply.body):
        if not element.tag.endswith("Error"):
            continue
        found = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        key = found.get("Key", "").removeprefix(prefix)
        error = Fault(400, found.get("Code", ""), found.get("Message", ""), "").error(
            f"DELETE {key!r}", bucket=wire.account.bucket, key=key
        )
        if not isinstance(error, NotFound):
            raise error


def _info(reply: Reply, key: str) -> ObjectInfo:
    metadata = {
        name.lower().removeprefix(_META): value
        for name, value in reply.headers.items()
        if name.lower().startswith(_META)
    }
    return ObjectInfo(
        key,
        int(reply.headers.get("content-length") or 0),
        ns(parsedate_to_datetime(reply.headers["last-modified"])),
        quoted_etag(reply.headers["etag"]) if "etag" in reply.headers else None,
        metadata,
    )
