"""A store that reads what an HTTP server has below a URL: files of a web server, artefacts, public buckets.

The object KEY is what a GET of BASE/KEY answers with, each character of the key but letters, digits,
`-._~/` percent-encoded. Keys with segments that are empty, `.` or `..` are refused, for servers change
paths that hold these; so is NUL. `dir/` is a key: what the server answers there is its content.

An etag is the server's ETag; where it sends none, one is made of Last-Modified and size, and where it
sends neither there is none. nginx makes its ETag of size and time in seconds: two versions of one size
within a second are one to it.

HTTP has no listing. With `listing="nginx"` the answers of `autoindex on; autoindex_format json;` are
read as folders: then keys with a slash at the end are folders and no objects, an empty folder is a group
too, and what nginx leaves out of its indexes (names that begin with a dot) is not listed, though it can
be read.
"""

from __future__ import annotations

import builtins
import email.utils
import json
import re
import string
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from mountstore.backends._arguments import check_key, clip_range
from mountstore.backends._http_listing import entries_of, page_of
from mountstore.backends._http_requests import PORTS, Answer, Credentials, Origin, Requests
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
    UsageError,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_NS = 1_000_000_000
_MAX_KEY_BYTES = 2048
_INDEX_BYTES = 64 << 20
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_UNDECODED = frozenset({"", "identity"})
_SAFE_PATH = frozenset(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@/%")


class HttpStore(ObjectStore):
    """The objects below `base_url`, http:// or https://, to be read only.

    Credentials (`username` and `password` for HTTP Basic, or `headers`) go to this server alone: they
    follow no redirect to another host, port or scheme, and a redirect from https to http is AccessDenied.
    `timeout_s` is the longest silence, `tries` how often a request is made before it is Unavailable.
    Certificates are those that the system trusts, or the file `ca_certs`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        headers: Mapping[str, str] | None = None,
        listing: str = "none",
        timeout_s: float = 30.0,
        tries: int = 4,
        ca_certs: str | None = None,
    ) -> None:
        if listing not in ("none", "nginx"):
            raise UsageError("listing is none or nginx")
        if tries < 1 or timeout_s <= 0:
            raise UsageError("tries is at least 1, and timeout_s over 0")
        origin, self._base = _read_base(base_url)
        self._listing = listing == "nginx"
        self._requests = Requests(
            origin,
            Credentials(username, password, headers or {}),
            timeout_s=timeout_s,
            tries=tries,
            connections=16,
            ca_certs=ca_certs,
        )
        self.capabilities = Capabilities(
            writable=False,
            listing=self._listing,
            metadata=False,
            conditional_put=False,
            conditional_delete=False,
            max_key_bytes=_MAX_KEY_BYTES,
            max_metadata_bytes=None,
        )

    def __repr__(self) -> str:
        return f"HttpStore('{self._requests.origin}{self._base}')"

    def close(self) -> None:
        self._requests.close()

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        answer = self._requests.send("HEAD", path, {}, key)
        size = None
        if answer.status == 200:
            size = _content_length(answer)
        if answer.status in (405, 501) or (answer.status == 200 and size is None):
            answer = self._requests.send("GET", path, {"Range": "bytes=0-0"}, key, length=0)
            size = _total(answer) if answer.status in (206, 416) else _content_length(answer)
        if answer.status != 416:
            self._check(answer, key)
        if size is None:
            raise Unsupported(f"the server does not tell the size of {key!r}", key=key)
        return ObjectInfo(key, size, _mtime_ns(answer), _etag(answer, size), {})

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        path = self._path(key)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        headers = {}
        if if_match is not None and if_match.startswith('"'):
            headers["If-Match"] = if_match
        length = None if stop is None else stop - start
        if length == 0:
            self._check_place(key, start, if_match)
            return b""
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        answer = self._requests.send("GET", path, headers, key, skip=start, length=length)
        if answer.status == 416:
            if self._check_place(key, start, if_match) != start:
                raise Unavailable(f"{key!r} grew while it was read; read it again", key=key)
            return b""
        self._check(answer, key)
        size = _total(answer) if answer.status == 206 else _content_length(answer)
        if if_match is not None and _etag(answer, size) != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        if size is None:
            return self._of_unknown_size(key, answer, start)
        first, behind = clip_range(key, start, stop, size)
        if answer.status == 206 and _first(answer) != first:
            raise Corrupted(f"the server sent another range of {key!r} than was asked for", key=key)
        if len(answer.body) != behind - first:
            raise Corrupted(
                f"the server sent {len(answer.body)} of {behind - first} bytes of {key!r}", key=key
            )
        return answer.body

    def _of_unknown_size(self, key: str, answer: Answer, start: int) -> Data:
        """A body in chunks, whose end the transfer tells."""
        if answer.status != 200:
            raise Corrupted(f"the server does not tell which range of {key!r} it sent", key=key)
        if start and not answer.body:
            raise Unsupported(f"the server does not tell the size of {key!r}", key=key)
        return answer.body

    def _check_place(self, key: str, start: int, if_match: str | None) -> int:
        """The size of the object; what a range without a byte in it asks is that it reaches so far."""
        info = self.head(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        clip_range(key, start, None, info.size)
        return info.size

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return next(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        if not self._listing:
            raise Unsupported("HTTP has no listing; an nginx with autoindex_format json has, listing=nginx")
        return page_of(entries_of(self._folder, prefix, delimiter, after), limit)

    def _folder(self, folder: str) -> builtins.list[dict[str, Any]]:
        """What the index of a folder says; nothing if there is none."""
        try:
            path = self._path(folder, folder=True)
        except InvalidKey:
            return []
        answer = self._requests.send("GET", path, {}, None, most=_INDEX_BYTES)
        if answer.status == 404:
            return []
        self._check(answer, folder)
        try:
            told = json.loads(answer.body)
        except ValueError:
            told = None
        if not isinstance(told, list) or not all(isinstance(entry, dict) for entry in told):
            raise StoreError(
                f"the index of {folder!r} is not JSON; set autoindex_format json in nginx", key=folder
            )
        return told

    # -- what cannot be ---------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        check_conditions(key, if_match, if_absent)
        self._path(key)
        raise Unsupported("this store reads from an HTTP server, and cannot write there", key=key)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._path(key)
        raise Unsupported("this store reads from an HTTP server, and cannot delete there", key=key)

    # -- within -----------------------------------------------------------------------------------

    def _path(self, key: str, *, folder: bool = False) -> str:
        """The target of a request. Raises InvalidKey for a key that a server would take for another."""
        if folder and not key:
            return self._base
        if len(check_key(key)) > _MAX_KEY_BYTES:
            raise InvalidKey(f"a key of over {_MAX_KEY_BYTES} bytes makes too long a URL", key=key)
        segments = key.removesuffix("/").split("/")
        if not {"", ".", ".."}.isdisjoint(segments):
            raise InvalidKey(
                f"{key!r} has a segment that is empty, . or .., which a URL cannot hold", key=key
            )
        if "\0" in key:
            raise InvalidKey(f"{key!r} holds NUL, which a URL cannot", key=key)
        if self._listing and key.endswith("/") and not folder:
            raise NotFound(f"{key!r} is a folder here, which is no object", key=key)
        return self._base + quote(key, safe="/")

    def _check(self, answer: Answer, key: str) -> None:
        """The one table from the status of an answer to our errors."""
        status = answer.status
        if status in (200, 206):
            if answer.headers.get("content-encoding", "").lower() not in _UNDECODED:
                raise Unsupported(f"the server sends {key!r} compressed though it was asked not to", key=key)
            return
        origin = self._requests.origin
        if status in (404, 410):
            raise NotFound(key=key)
        if status == 412:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        if status in (401, 407):
            raise AccessDenied(f"{origin} asks for a user and a password, or refuses these", key=key)
        if status in (403, 451):
            raise AccessDenied(f"{origin} does not allow to read {key!r}", key=key)
        if status in (400, 414, 431):
            raise InvalidKey(f"{origin} cannot answer for the key {key!r}", key=key)
        raise StoreError(f"{origin} answers for {key!r} with {status}", key=key)


def _read_base(url: str) -> tuple[Origin, str]:
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        raise BadUrl("this is no URL of a server: http://HOST[:PORT]/PATH") from None
    if found.scheme not in PORTS or not found.hostname:
        raise BadUrl("a server is named http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")
    if found.username is not None or found.password is not None:
        raise BadUrl("credentials are given as username and password, not within the URL")
    if found.query or found.fragment:
        raise BadUrl("the URL that objects are below has no ? and no #")
    path = found.path if found.path.endswith("/") else found.path + "/"
    if not set(path) <= _SAFE_PATH:
        path = quote(path, safe="/%!$&'()*+,;=:@")
    return Origin(found.scheme, found.hostname, port or PORTS[found.scheme]), path


def _content_length(answer: Answer) -> int | None:
    told = answer.headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdigit() and answer.status == 200 else None


def _content_range(answer: Answer) -> tuple[int | None, int | None]:
    """(the first byte that was sent, the size of the whole), as far as Content-Range tells them."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if match is None:
        return None, None
    return int(match[1]) if match[1] else None, int(match[3]) if match[3] != "*" else None


def _first(answer: Answer) -> int | None:
    return _content_range(answer)[0]


def _total(answer: Answer) -> int | None:
    return _content_range(answer)[1]


def _mtime_ns(answer: Answer) -> int:
    """When it was changed, in whole seconds; 1970 where the server does not tell."""
    told = answer.headers.get("last-modified")
    if told is None:
        return 0
    try:
        return int(email.utils.parsedate_to_datetime(told).timestamp()) * _NS
    except (ValueError, OverflowError):
        return 0


def _etag(answer: Answer, size: int | None) -> str | None:
    told = answer.headers.get("etag")
    if told:
        return told
    changed = answer.headers.get("last-modified")
    return None if changed is None or size is None else f"{_mtime_ns(answer) // _NS:x}-{size:x}"
