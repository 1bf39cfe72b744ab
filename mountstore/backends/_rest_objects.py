"""The contract of a store over our extension of the REST protocol."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from mountstore.backends import _rest_protocol as protocol
from mountstore.backends._arguments import check_key, check_metadata
from mountstore.backends._rest_wire import Answer, Wire, content_of
from mountstore.errors import (
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    StoreError,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_T = TypeVar("_T")
_MANY = 1000


class RestObjects(ObjectStore):
    """The store behind a server that told its `capabilities`. It does not close the wire."""

    def __init__(self, wire: Wire, capabilities: Capabilities) -> None:
        self._wire = wire
        self.capabilities = capabilities

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        answer = self._ask("HEAD", self._object(key), key)
        return self._info(key, answer)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        query = self._object(key)
        self._check_condition(key, if_match is not None, self.capabilities.conditional_get)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        if start:
            query += f"&start={start}"
        if stop is not None:
            query += f"&stop={stop}"
        answer = self._ask("GET", query, key, headers=_condition(if_match))
        size = self._info(key, answer).size
        want = max(0, (size if stop is None else min(stop, size)) - start)
        if len(answer.body) != want:
            raise Corrupted(f"the server sent {len(answer.body)} of {want} bytes of {key!r}", key=key)
        return answer.body

    def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        wanted = builtins.list(keys)
        for key in wanted:
            self._object(key)
        found = {}
        for begin in range(0, len(wanted), _MANY):
            told = self._document("head-many", {"keys": wanted[begin : begin + _MANY]})
            if not isinstance(told, list):
                raise StoreError("the server's answer is not a list; does it speak this protocol?")
            for one in told:
                info = self._told(protocol.read_info, one)
                found[info.key] = info
        return found

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        told = self._document(
            "objects", {"prefix": prefix, "delimiter": delimiter, "after": after, "limit": limit}
        )
        return self._told(protocol.read_page, told)

    def usage(self, prefix: str = "") -> tuple[int, int]:
        count, size = self._document("usage", {"prefix": prefix})
        return int(count), int(size)

    # -- writing ----------------------------------------------------------------------------------

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
        conditional = if_absent or if_match is not None
        self._check_condition(key, conditional, self.capabilities.conditional_put)
        query = self._object(key)
        headers = _condition(if_match)
        kept = self._metadata(key, metadata)
        if if_absent:
            headers["If-None-Match"] = "*"
        if kept:
            headers[protocol.METADATA_HEADER] = protocol.write_metadata(kept)
        content = content_of(data)
        headers[protocol.HASH_HEADER] = content.sha256
        answer, _ = self._wire.send(
            "PUT", query=query, headers=headers, content=content, key=key, again=not conditional
        )
        return self._told(protocol.read_info, self._good(answer, key).json())

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._check_condition(key, if_match is not None, self.capabilities.conditional_delete)
        query = self._object(key) + ("&missing_ok=1" if missing_ok else "")
        answer, lost = self._wire.send("DELETE", query=query, headers=_condition(if_match), key=key)
        try:
            self._good(answer, key)
        except NotFound:
            # It may be gone by the attempt whose answer was lost.
            if not lost and not missing_ok:
                raise

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = builtins.list(keys)
        for key in wanted:
            self._object(key)
        for begin in range(0, len(wanted), _MANY):
            self._document("delete-many", {"keys": wanted[begin : begin + _MANY]})

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        kept = None if metadata is None else self._metadata(target, metadata)
        self._object(source)
        self._object(target)
        told = {"source": source, "target": target, "metadata": kept, "if_match": if_match}
        return self._told(protocol.read_info, self._document("copy", told, key=source))

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._object(source)
        self._object(target)
        told = {"source": source, "target": target, "if_match": if_match}
        return self._told(protocol.read_info, self._document("rename", told, key=source, again=False))

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        if not self.capabilities.metadata:
            raise Unsupported("this store keeps no metadata", key=key)
        self._object(key)
        told = {"key": key, "metadata": self._metadata(key, metadata), "if_match": if_match}
        again = if_match is None
        return self._told(protocol.read_info, self._document("metadata", told, key=key, again=again))

    # -- within -----------------------------------------------------------------------------------

    def _object(self, key: str) -> str:
        size, most = len(check_key(key)), self.capabilities.max_key_bytes
        if most is not None and size > most:
            raise InvalidKey(f"a key of {size} bytes; this store holds keys of up to {most}", key=key)
        return f"cmd=object&key={quote(key, safe='')}"

    def _metadata(self, key: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
        if not self.capabilities.metadata:
            return {}
        return check_metadata(key, metadata, self.capabilities.max_metadata_bytes)

    def _check_condition(self, key: str, conditional: bool, able: bool) -> None:
        if conditional and not able:
            raise Unsupported("the store behind this server does not honour this condition", key=key)

    def _ask(self, method: str, query: str, key: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        answer, _ = self._wire.send(method, query=query, headers=headers, key=key)
        return self._good(answer, key)

    def _document(self, command: str, told: Any, *, key: str | None = None, again: bool = True) -> Any:
        answer, _ = self._wire.send("POST", query=f"cmd={command}", document=told, key=key, again=again)
        good = self._good(answer, key)
        return good.json() if good.body else None

    def _good(self, answer: Answer, key: str | None) -> Answer:
        if answer.status != 200:
            raise self._wire.fault(answer, key)
        return answer

    def _info(self, key: str, answer: Answer) -> ObjectInfo:
        try:
            return protocol.read_info_headers(key, answer.headers)
        except ValueError as error:
            raise StoreError(f"{self._wire.what}: {error}", key=key) from None

    def _told(self, read: Callable[[Any], _T], told: Any) -> _T:
        try:
            return read(told)
        except ValueError as error:
            raise StoreError(f"{self._wire.what}: {error}") from None


def _condition(if_match: str | None) -> dict[str, str]:
    return {} if if_match is None else {"If-Match": protocol.write_etag(if_match)}
