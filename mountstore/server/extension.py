"""The extension of the REST protocol: the store that is served, whole. Its words are those of
`mountstore.backends._rest_protocol`, which the client shares.

It reaches the same objects as version 1 does, through the same permissions and quota. The object that says
that the storage was created is none of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from mountstore.backends import _rest_protocol as protocol
from mountstore.errors import (
    AccessDenied,
    BackendDoesNotExist,
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
from mountstore.namespaces.items import Admits
from mountstore.namespaces.target import MARKER
from mountstore.server.body import Body, Hasher, content_of
from mountstore.server.conversation import TEXT, Response
from mountstore.server.head import Head, Refused
from mountstore.server.limits import Limits
from mountstore.server.storage import Storage
from mountstore.store import Data, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

_BYTES = "application/octet-stream"
_JSON = "application/json"
_PIECE_BYTES = 1 << 20
_TRIES = 10
_MOST_ENTRIES = 1000

_TELLING = (NotFound, PreconditionFailed, InvalidKey, InvalidRange, QuotaExceeded, Unsupported, Corrupted)
"""Errors whose words are of keys and numbers only. Those of others may tell where the store lies."""

_TOLD: dict[type[StoreError], str] = {
    AccessDenied: "not permitted",
    StoreFull: "the store is full",
    Unavailable: "the store cannot be reached now; try again",
}
"""What is said in the place of such words."""


def is_asked(head: Head) -> bool:
    """Whether a request is one of the extension, or asks for it."""
    return head.method == "OPTIONS" or (not head.name and head.query.get("cmd") in protocol.COMMANDS)


def answer(storage: Storage, head: Head, body: Body, limits: Limits) -> Response:
    """The answer. Raises Refused, Gone, and BackendDoesNotExist."""
    with ExitStack() as use:
        try:
            return _answer(storage, head, body, limits, use)
        except BackendDoesNotExist:
            raise
        except StoreError as error:
            status, name = protocol.status_of(error)
            text = next(
                (words for kind, words in _TOLD.items() if isinstance(error, kind)),
                "the store failed; the log of the server says more",
            )
            if isinstance(error, _TELLING):
                text = str(error)
            else:
                log.warning("%s of the extension: %s: %s", head.method, name, error)
            headers = [(protocol.ERROR_HEADER, name)]
            if status == 503:
                headers.append(("Retry-After", "1"))
            return Response(status, text.encode("ascii", "backslashreplace"), TEXT, tuple(headers))


def _answer(storage: Storage, head: Head, body: Body, limits: Limits, use: ExitStack) -> Response:
    if head.method == "OPTIONS":
        store = use.enter_context(storage.used()).store_of_objects
        return _json(
            protocol.write_capabilities(store.capabilities),
            ((protocol.EXTENSION_HEADER, protocol.EXTENSION),),
        )
    command = head.query["cmd"]
    if command == "object":
        verb = _OBJECT.get(head.method)
        if verb is None:
            raise Refused(405, "an object knows GET, HEAD, PUT and DELETE")
        return verb(storage, head, body, limits, use)
    if head.method != "POST":
        raise Refused(405, f"{command!r} is asked by POST")
    told = _Document(body, limits)
    store = use.enter_context(storage.used()).store_of_objects
    return _DOCUMENT[command](store, told)


# -- one object -----------------------------------------------------------------------------------------


def _head(storage: Storage, head: Head, body: Body, limits: Limits, use: ExitStack) -> Response:
    info = use.enter_context(storage.used()).store_of_objects.head(_key(head))
    return Response(200, headers=tuple(protocol.info_headers(info).items()), length=info.size)


def _get(storage: Storage, head: Head, body: Body, limits: Limits, use: ExitStack) -> Response:
    key = _key(head)
    start, stop = _number(head, "start") or 0, _number(head, "stop")
    if_match = _if_match(head)
    store = use.enter_context(storage.used()).store_of_objects
    for attempt in range(_TRIES):
        info = store.head(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        if start > info.size or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}, which has {info.size} bytes", key=key)
        end = info.size if stop is None or stop > info.size else stop
        condition = info.etag if store.capabilities.conditional_get else None
        headers = tuple(protocol.info_headers(info).items())
        try:
            first = store.get(key, start, min(end, start + limits.memory_bytes), if_match=condition)
        except PreconditionFailed:
            if attempt == _TRIES - 1:
                raise
            continue
        if len(first) == end - start:
            return Response(200, first, _BYTES, headers)
        pieces = _Pieces(store, key, start + len(first), end, condition, use.pop_all())
        return Response(200, first, _BYTES, headers, pieces, end - start)
    raise AssertionError


class _Pieces:
    """The rest of an object, a piece at a time, of the version that the answer has begun with."""

    def __init__(
        self, store: ObjectStore, key: str, start: int, stop: int, condition: str | None, use: ExitStack
    ) -> None:
        self._store, self._key, self._start, self._stop = store, key, start, stop
        self._condition, self._use = condition, use

    def __iter__(self) -> Iterator[Data]:
        for at in range(self._start, self._stop, _PIECE_BYTES):
            until = min(self._stop, at + _PIECE_BYTES)
            yield self._store.get(self._key, at, until, if_match=self._condition)

    def close(self) -> None:
        self._use.close()


def _put(storage: Storage, head: Head, body: Body, limits: Limits, use: ExitStack) -> Response:
    key = _key(head)
    if not head.has_body:
        raise Refused(411, "say how long it is: Content-Length, or chunks")
    if_match = _if_match(head)
    absent = head.headers.get(b"if-none-match")
    if absent not in (None, b"*"):
        raise Refused(400, "If-None-Match is * here")
    written = head.headers.get(protocol.METADATA_HEADER.lower().encode())
    try:
        metadata = protocol.read_metadata(written.decode("ascii")) if written is not None else None
    except ValueError as error:
        raise Refused(400, str(error)) from None
    announced = head.headers.get(protocol.HASH_HEADER.lower().encode())
    hasher = Hasher(None if announced is None else announced.decode("latin-1"))
    is_small = body.length is not None and body.length <= limits.memory_bytes and not body.is_awaited
    # What is small is taken before the store is: nobody waits for a slow client then.
    content = content_of(body, hasher, limits.memory_bytes) if is_small else None
    backend = use.enter_context(storage.used())
    if content is None:
        store = backend.store_of_objects
        if isinstance(store, Admits):
            store.admit(key, body.length or 0)
        content = content_of(body, hasher, limits.memory_bytes)
    info = backend.put_object(
        key,
        content,
        size=body.length,
        metadata=metadata,
        if_match=if_match,
        if_absent=absent is not None,
    )
    return _json(protocol.write_info(info))


def _delete(storage: Storage, head: Head, body: Body, limits: Limits, use: ExitStack) -> Response:
    key, if_match = _key(head), _if_match(head)
    missing_ok = head.query.get("missing_ok") == "1"
    store = use.enter_context(storage.used()).store_of_objects
    store.delete(key, missing_ok=missing_ok, if_match=if_match)
    return Response(200)


_Verb = Callable[[Storage, Head, Body, Limits, ExitStack], Response]
_OBJECT: Mapping[str, _Verb] = {"HEAD": _head, "GET": _get, "PUT": _put, "DELETE": _delete}


# -- what is asked by a document --------------------------------------------------------------------------


class _Document:
    """The JSON object that a request is. Raises Refused for what is none."""

    def __init__(self, body: Body, limits: Limits) -> None:
        try:
            told = json.loads(body.read(limits.document_bytes))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(told, dict):
            raise Refused(400, "the body is a JSON object")
        self._told: dict[str, Any] = told
        self._most = limits.pieces

    def text(self, name: str) -> str:
        """A string that has to be there."""
        found = self._told.get(name)
        if not isinstance(found, str):
            raise Refused(400, f"{name} is a string")
        return found

    def maybe(self, name: str) -> str | None:
        return None if self._told.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        found = self._told.get(name)
        if type(found) is not int or found < 1:
            raise Refused(400, f"{name} is a whole number from 1 on")
        return found

    def keys(self) -> list[str]:
        found = self._told.get("keys")
        if not isinstance(found, list) or not all(isinstance(key, str) for key in found):
            raise Refused(400, "keys is a list of strings")
        if len(found) > self._most:
            raise Refused(413, f"at most {self._most} keys at once")
        return [_allowed(key) for key in found]

    def key(self, name: str) -> str:
        return _allowed(self.text(name))

    def metadata(self) -> dict[str, str] | None:
        found = self._told.get("metadata")
        if found is None:
            return None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise Refused(400, "metadata is an object of strings")
        return found


def _list(store: ObjectStore, told: _Document) -> Response:
    page = store.list(
        told.text("prefix"),
        delimiter=told.text("delimiter"),
        after=told.text("after"),
        limit=min(told.number("limit"), _MOST_ENTRIES),
    )
    objects = [info for info in page.objects if info.key != MARKER]
    prefixes = [group for group in page.prefixes if not MARKER.startswith(group) or _has_others(store, group)]
    return _json(protocol.write_page(replace(page, objects=objects, prefixes=prefixes)))


def _has_others(store: ObjectStore, group: str) -> bool:
    """Whether a group that the mark of the storage belongs to has more in it."""
    return any(info.key != MARKER for info in store.list(group, limit=2).objects)


def _copy(store: ObjectStore, told: _Document) -> Response:
    info = store.copy(
        told.key("source"),
        told.key("target"),
        metadata=told.metadata(),
        if_match=told.maybe("if_match"),
    )
    return _json(protocol.write_info(info))


def _rename(store: ObjectStore, told: _Document) -> Response:
    info = store.rename(told.key("source"), told.key("target"), if_match=told.maybe("if_match"))
    return _json(protocol.write_info(info))


def _metadata(store: ObjectStore, told: _Document) -> Response:
    metadata = told.metadata()
    if metadata is None:
        raise Refused(400, "metadata is missing")
    info = store.update_metadata(told.key("key"), metadata, if_match=told.maybe("if_match"))
    return _json(protocol.write_info(info))


def _head_many(store: ObjectStore, told: _Document) -> Response:
    found: dict[str, ObjectInfo] = store.head_many(told.keys())
    return _json([protocol.write_info(info) for info in found.values()])


def _delete_many(store: ObjectStore, told: _Document) -> Response:
    store.delete_many(told.keys())
    return Response(200)


def _usage(store: ObjectStore, told: _Document) -> Response:
    prefix = told.text("prefix")
    count, size = store.usage(prefix)
    return _json([count - (MARKER.startswith(prefix) and store.exists(MARKER)), size])


_DOCUMENT: Mapping[str, Callable[[ObjectStore, _Document], Response]] = {
    "objects": _list,
    "copy": _copy,
    "rename": _rename,
    "metadata": _metadata,
    "head-many": _head_many,
    "delete-many": _delete_many,
    "usage": _usage,
}


# -- within -----------------------------------------------------------------------------------------------


def _json(told: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(200, json.dumps(told).encode("ascii"), _JSON, headers)


def _key(head: Head) -> str:
    key = head.query.get("key")
    if not key:
        raise Refused(400, "key is missing")
    return _allowed(key)


def _allowed(key: str) -> str:
    if key == MARKER:
        raise InvalidKey(f"{key!r} says that this storage was created; take another key", key=key)
    return key


def _number(head: Head, name: str) -> int | None:
    text = head.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused(400, f"{name} is a whole number")
    return int(text)


def _if_match(head: Head) -> str | None:
    text = head.headers.get(b"if-match")
    if text is None:
        return None
    try:
        return protocol.read_etag(text.decode("ascii"))
    except ValueError:
        raise Refused(400, "If-Match is one etag in quotes") from None
