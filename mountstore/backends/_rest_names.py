"""The contract of a store over version 1 of the REST protocol, which knows names and bytes alone.

The server of borgstore keeps items as files in folders, so an empty folder is the object whose key ends in a
slash, without content, and a folder in which anything is, is not. Deleting the last item of a folder leaves
the folder, unless `prune` says otherwise.

The etag is made of the time of change and the size: two versions that are of one size and within one tick of
the server's clock (some milliseconds) look the same. No condition is honoured.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import urlencode

from mountstore.backends import _rest_protocol as protocol
from mountstore.backends._arguments import check_key, clip_range
from mountstore.backends._folder_walk import pages
from mountstore.backends._rest_wire import Answer, Wire, content_of
from mountstore.errors import (
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

# The server takes the path as it stands: what has to be percent-encoded would be another name there.
_NAME = re.compile(r"[a-z0-9!$&'()*+,;=:@._~-]+(?:/[a-z0-9!$&'()*+,;=:@._~-]+)*")
MAX_NAME_BYTES = 100


class RestNames(ObjectStore):
    """The items behind a server. It does not close the wire."""

    capabilities = Capabilities(
        metadata=False,
        conditional_put=False,
        conditional_get=False,
        conditional_delete=False,
        atomic_rename=True,
        max_key_bytes=MAX_NAME_BYTES,
        max_metadata_bytes=None,
    )

    def __init__(self, wire: Wire, *, prune: bool = False) -> None:
        self._wire = wire
        self._prune = prune

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        name, is_folder = self._name(key)
        answer = self._ask("HEAD", name, key)
        if _is_folder(answer) != is_folder or (is_folder and self._read(name)):
            raise NotFound(key=key)
        size = 0 if is_folder else _length(answer)
        return _info(key, size, _changed(answer), {})

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        name, is_folder = self._name(key)
        self._refuse_condition(key, if_match is not None)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        if is_folder or start == stop:
            return self._nothing(key, start)
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            answer = self._ask("GET", name, key, headers=headers)
        except StoreError as error:
            # A folder is not to be read, which the server of borgstore says with 500.
            if isinstance(error, NotFound) or not self._is_folder(name):
                raise
            raise NotFound(key=key) from None
        if not answer.body and start:
            return self._nothing(key, start)
        if stop is not None and len(answer.body) > stop - start:
            raise Corrupted(f"the server sent more of {key!r} than was asked for", key=key)
        return answer.body

    def _nothing(self, key: str, start: int) -> bytes:
        """A range without a byte in it; what it asks is that the object reaches so far."""
        clip_range(key, start, start, self.head(key).size)
        return b""

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return next(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return pages(self._folder, prefix, delimiter, after, limit)

    def _folder(self, base: str) -> Any:
        if base and _NAME.fullmatch(base[:-1]) is None:
            return []
        told = self._read(base[:-1])
        if told is None:
            return []
        entries: Any = []
        for item in told:
            key = base + item["name"]
            if item.get("directory"):
                entries.append(f"{key}/")
            else:
                entries.append(_info(key, int(item["size"]), _time(item.get("mtime")), None))
        if base and not entries:
            answer, _ = self._wire.send("HEAD", base[:-1], key=base)
            if answer.status != 404:  # else it went meanwhile
                entries.append(_info(base, 0, _changed(self._good(answer, base)), None))
        return entries

    def _read(self, name: str) -> Any:
        """What is in a folder; None if it is not there."""
        answer, _ = self._wire.send("GET", f"{name}/" if name else "", key=name or None)
        if answer.status == 404:
            return None
        told = self._good(answer, name or None).json()
        if not isinstance(told, list) or not all(isinstance(item, dict) and "name" in item for item in told):
            raise StoreError(f"{self._wire.what}: what was told of {name!r} is no list of items")
        return told

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
        self._refuse_condition(key, if_match is not None or if_absent)
        name, is_folder = self._name(key)
        content = content_of(data)
        if is_folder:
            if content.size:
                raise InvalidKey(f"{key!r} is a folder on this server, which holds no content", key=key)
            self._ask("POST", name, key, query="cmd=mkdir")
            answer = self._ask("HEAD", name, key)
            return _info(key, 0, _changed(answer), {})
        headers = {protocol.HASH_HEADER: content.sha256}
        answer, _ = self._wire.send("POST", name, headers=headers, content=content, key=key)
        if answer.status == 500 and self._is_folder(name):
            raise InvalidKey(f"{key!r} is a folder on this server", key=key)
        self._good(answer, key)
        with contextlib.suppress(NotFound):
            info = self.head(key)
            if info.size == content.size:
                return info
        # Somebody else has replaced or removed it since; what was put had an etag that nobody will see.
        return ObjectInfo(key, content.size, time.time_ns(), f"gone-{content.sha256}", {})

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._refuse_condition(key, if_match is not None)
        name, is_folder = self._name(key)
        lost = False
        try:
            if is_folder or self._is_folder(name):
                self.head(key)
            query = "cmd=rmdir" if is_folder else ""
            answer, lost = self._wire.send("DELETE", name, query, key=key)
            self._good(answer, key)
        except NotFound:
            if not missing_ok and not lost:
                raise
            return
        if self._prune:
            self._remove_empty(name.rpartition("/")[0])

    def _remove_empty(self, name: str) -> None:
        while name and self._read(name) == []:
            self._wire.send("DELETE", name, "cmd=rmdir")
            name = name.rpartition("/")[0]

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        info = self.head(source)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        if source == target:
            return info
        (name, is_folder), (new, new_is_folder) = self._name(source), self._name(target)
        if is_folder or new_is_folder:
            return super().rename(source, target)
        query = urlencode({"cmd": "move", "current": name, "new": new})
        answer, lost = self._wire.send("POST", query=query, key=source)
        if not (lost and answer.status == 404):
            self._good(answer, source)
        if self._prune:
            self._remove_empty(name.rpartition("/")[0])
        return self.head(target)

    # -- within -----------------------------------------------------------------------------------

    def _name(self, key: str) -> tuple[str, bool]:
        """(the name, whether it is that of a folder). Raises InvalidKey."""
        check_key(key)
        name = key.removesuffix("/")
        dots = ".." in name or "/./" in f"/{name}/"
        if len(name) > MAX_NAME_BYTES or dots or _NAME.fullmatch(name) is None:
            raise InvalidKey(
                f"{key!r}: names on this server are of lower case letters, digits and -._~, up to 100 bytes",
                key=key,
            )
        return name, key.endswith("/")

    def _is_folder(self, name: str) -> bool:
        answer, _ = self._wire.send("HEAD", name)
        return answer.status == 200 and _is_folder(answer)

    def _refuse_condition(self, key: str, conditional: bool) -> None:
        if conditional:
            raise Unsupported("this server knows no conditions; mountstore serve does", key=key)

    def _ask(
        self, method: str, name: str, key: str, *, query: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        answer, _ = self._wire.send(method, name, query, headers=headers, key=key)
        return self._good(answer, key)

    def _good(self, answer: Answer, key: str | None) -> Answer:
        if answer.status not in (200, 206):
            raise self._wire.fault(answer, key)
        return answer


def _is_folder(answer: Answer) -> bool:
    return answer.headers.get(protocol.IS_DIRECTORY_HEADER.lower()) == "true"


def _length(answer: Answer) -> int:
    told = answer.headers.get("content-length", "")
    if not (told.isascii() and told.isdigit()):
        raise StoreError("the server does not tell how large an item is")
    return int(told)


def _changed(answer: Answer) -> float:
    return _time(answer.headers.get(protocol.MTIME_HEADER.lower()))


def _time(told: Any) -> float:
    try:
        return float(told or 0)
    except (TypeError, ValueError):
        return 0.0


def _info(key: str, size: int, changed: float, metadata: Mapping[str, str] | None) -> ObjectInfo:
    return ObjectInfo(key, size, int(changed * 1e9), f"{changed!r}-{size:x}", metadata)
