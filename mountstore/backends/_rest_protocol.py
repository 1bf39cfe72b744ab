"""The REST protocol v1 of borgstore, and our extension of it: the words that client and server share.

Version 1 knows names and bytes. Each request carries `Accept: application/vnd.x.borgstore.rest.v1`; names are
the path of the URL without slashes at its ends, and commands are the parameter `cmd`.

**The extension** carries the contract of `mountstore.store` whole: any key, etags and conditions, metadata,
pages of a listing. A client asks for it once:

    OPTIONS /      200, `X-Mountstore-Extension: 1` and, as JSON, {"capabilities": {...}}: the fields of
                   `Capabilities` as this store behind this server has them. The server of borgstore says
                   501; any answer without that header means version 1 alone.

All further requests are of the path of the store (`/`, or where a proxy has put it) and carry the same
Accept and Authorization. Keys never stand in the path, for proxies change paths that hold `//`, `..` or
`%2F`: one is the parameter `key`, percent-encoded UTF-8; more of them are in a JSON object that is the body.
An object of key `a/b` and an item of name `a/b` are the same.

| request | success |
|---|---|
| `HEAD /?cmd=object&key=K` | 200, info headers |
| `GET /?cmd=object&key=K[&start=A][&stop=B]`, `If-Match` | 200, bytes [A, B) of one version, info headers |
| `PUT /?cmd=object&key=K`, body, `If-Match` or `If-None-Match: *` | 200, info as JSON |
| `DELETE /?cmd=object&key=K[&missing_ok=1]`, `If-Match` | 200 |
| `POST /?cmd=objects`, {prefix, delimiter, after, limit} | 200, a page as JSON |
| `POST /?cmd=copy`, {source, target, metadata, if_match} | 200, info as JSON |
| `POST /?cmd=rename`, {source, target, if_match} | 200, info as JSON |
| `POST /?cmd=metadata`, {key, metadata, if_match} | 200, info as JSON |
| `POST /?cmd=head-many`, {keys} | 200, JSON list of infos, without those that are not there |
| `POST /?cmd=delete-many`, {keys} | 200 |
| `POST /?cmd=usage`, {prefix} | 200, JSON [objects, bytes] |

- Info headers: `X-Mountstore-Size`, `X-Mountstore-Mtime-Ns` (whole numbers), `X-Mountstore-Metadata`, `ETag`.
- An etag is one quoted string, `"TEXT"` with what is not a letter, digit or one of `-._~` percent-encoded.
  `If-Match` holds exactly one of these. A condition that the store cannot keep is an error, never dropped.
- `X-Mountstore-Metadata`, in requests and answers, is the base64url of a JSON object of strings. A PUT
  without it gives the object none; a copy whose `metadata` is null keeps the source's.
- Info as JSON is {"key", "size", "mtime_ns", "etag", "metadata"}; a page is {"objects": [[key, size,
  mtime_ns, etag or null], ...], "prefixes": [...], "after": key or null}. A server may give fewer than
  `limit`, with `after` to go on from.
- `start` and `stop` are whole numbers as `ObjectStore.get` takes them; 416 where that raises InvalidRange.
- The body of a PUT has a Content-Length or is chunked; `X-Content-hash-sha256` is checked as in version 1
  (422).
- Errors are a status of `STATUS_OF`, `X-Mountstore-Error` with the name of the class, and one line of text
  that holds no secret. 401 asks for a password, 406 refuses the Accept header.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import quote, unquote

from mountstore.errors import (
    AccessDenied,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from mountstore.store import Capabilities, ObjectInfo, Page

ACCEPT = "application/vnd.x.borgstore.rest.v1"
HASH_HEADER = "X-Content-hash-sha256"
IS_DIRECTORY_HEADER = "X-BorgStore-Is-Directory"
ATIME_HEADER = "X-BorgStore-Atime"
MTIME_HEADER = "X-BorgStore-Mtime"

EXTENSION_HEADER = "X-Mountstore-Extension"
EXTENSION = "1"
COMMANDS = frozenset({"object", "objects", "copy", "rename", "metadata", "head-many", "delete-many", "usage"})
"""The values of `cmd` that are the extension's."""

SIZE_HEADER = "X-Mountstore-Size"
MTIME_NS_HEADER = "X-Mountstore-Mtime-Ns"
METADATA_HEADER = "X-Mountstore-Metadata"
ERROR_HEADER = "X-Mountstore-Error"

MAX_METADATA_BYTES = 2048
"""What fits into a header line of 8 KiB, whatever characters it is of."""

MAX_KEY_BYTES = 1024
"""What fits into a target of 4 KiB, percent-encoded."""

STATUS_OF: Mapping[type[StoreError], int] = {
    NotFound: 404,
    PreconditionFailed: 412,
    Unsupported: 405,
    InvalidKey: 400,
    InvalidRange: 416,
    AccessDenied: 403,
    QuotaExceeded: 507,
    StoreFull: 507,
    Corrupted: 502,
    Unavailable: 503,
    StoreError: 500,
}
"""The status of each error, in the extension; `error_of` is the way back."""

_ERRORS = {kind.__name__: kind for kind in STATUS_OF}


def status_of(error: StoreError) -> tuple[int, str]:
    """(status, what `X-Mountstore-Error` says) of an error, by the nearest of its classes in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind], kind.__name__
    return 500, "StoreError"


def error_of(name: str) -> type[StoreError]:
    """The error that `X-Mountstore-Error` names."""
    return _ERRORS.get(name, StoreError)


def write_etag(etag: str) -> str:
    """An etag of the contract, any text, as one of HTTP."""
    return f'"{quote(etag, safe="-._~")}"'


def read_etag(text: str) -> str:
    """The way back. Raises ValueError for what is not exactly one strong etag."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or '"' in text[1:-1]:
        raise ValueError("an etag is one quoted string")
    return unquote(text[1:-1], errors="strict")


def write_metadata(metadata: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(dict(metadata), separators=(",", ":")).encode()).decode()


def read_metadata(text: str) -> dict[str, str]:
    """The metadata of a header. Raises ValueError for what is not an object of strings."""
    try:
        told = json.loads(base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError) as error:
        raise ValueError("the metadata is not base64url of JSON") from error
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError("the metadata is not a JSON object of strings")
    return told


def write_info(info: ObjectInfo) -> dict[str, Any]:
    """An info as JSON takes it."""
    return {
        "key": info.key,
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "etag": info.etag,
        "metadata": None if info.metadata is None else dict(info.metadata),
    }


def read_info(told: Any) -> ObjectInfo:
    """The way back. Raises ValueError for what is none."""
    try:
        return ObjectInfo(
            str(told["key"]), int(told["size"]), int(told["mtime_ns"]), told["etag"], told["metadata"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError("this is not the JSON of an object's info") from error


def info_headers(info: ObjectInfo) -> dict[str, str]:
    headers = {SIZE_HEADER: str(info.size), MTIME_NS_HEADER: str(info.mtime_ns)}
    if info.etag is not None:
        headers["ETag"] = write_etag(info.etag)
    if info.metadata is not None:
        headers[METADATA_HEADER] = write_metadata(info.metadata)
    return headers


def read_info_headers(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    """The info in the headers (of lower case names) of an answer. Raises ValueError."""
    try:
        size, mtime_ns = int(headers[SIZE_HEADER.lower()]), int(headers[MTIME_NS_HEADER.lower()])
    except KeyError as error:
        raise ValueError("the answer lacks the headers of an object's info") from error
    etag, metadata = headers.get("etag"), headers.get(METADATA_HEADER.lower())
    return ObjectInfo(
        key,
        size,
        mtime_ns,
        None if etag is None else read_etag(etag),
        None if metadata is None else read_metadata(metadata),
    )


def write_page(page: Page) -> dict[str, Any]:
    return {
        "objects": [[info.key, info.size, info.mtime_ns, info.etag] for info in page.objects],
        "prefixes": page.prefixes,
        "after": page.after,
    }


def read_page(told: Any) -> Page:
    """The way back. Raises ValueError."""
    try:
        objects = [
            ObjectInfo(key, int(size), int(mtime_ns), etag) for key, size, mtime_ns, etag in told["objects"]
        ]
        return Page(objects, list(told["prefixes"]), told["after"])
    except (KeyError, TypeError) as error:
        raise ValueError("this is not the JSON of a page") from error


def write_capabilities(capabilities: Capabilities) -> dict[str, Any]:
    """What `OPTIONS` tells of a store; metadata and keys are bounded by what a header can hold."""
    told = {field.name: getattr(capabilities, field.name) for field in fields(Capabilities)}
    for name, most in (("max_metadata_bytes", MAX_METADATA_BYTES), ("max_key_bytes", MAX_KEY_BYTES)):
        told[name] = most if told[name] is None else min(told[name], most)
    return {"capabilities": told}


def read_capabilities(told: Any) -> Capabilities:
    """The way back; fields that this version does not know are left out. Raises ValueError.

    A store that is local to the server is not so to the client.
    """
    try:
        known: dict[str, type] = {field.name: type(field.default) for field in fields(Capabilities)}
        given = {name: value for name, value in told["capabilities"].items() if name in known}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("this is not the JSON of a store's capabilities") from error
    for name, value in given.items():
        if known[name] is bool and not isinstance(value, bool):
            raise ValueError(f"the capability {name} is not true or false")
        if known[name] is not bool and not (value is None or type(value) is int):
            raise ValueError(f"the capability {name} is not a whole number")
    return Capabilities(**{**given, "local": False})
