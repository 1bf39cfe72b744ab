"""A store on whatever rclone reaches: `rclone:REMOTE:PATH`, the remote being one of rclone's configuration.

An `rclone rcd` is started with the store and ended with it (see `mountstore.backends._rclone_process`). Its
configuration, and a password of that in RCLONE_CONFIG_PASS, are the user's own.

- A put goes into a temporary file here and is copied by rclone, which makes it whole or not at all: on
  remotes of files it writes under another name first. How durable it is then is the remote's affair.
- rclone has no conditions, and metadata is not kept.
- The etag is made of time and size, the time being as fine as the remote keeps it. Where asking for times
  costs a request each (S3), listings tell the server's times and no etags.
- A folder in which nothing is is the object whose key ends in a slash. Deleting the last object of a folder
  leaves the folder, unless `prune` says otherwise. Remotes of buckets are told to keep such folders
  (`directory_markers`), where they can.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from mountstore.backends._arguments import blocks, check_key, clip_range, flat
from mountstore.backends._folder_walk import Entry, pages
from mountstore.backends._rclone_process import RcloneProcess
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_BLOCK_BYTES = 1 << 20
# Who finds another's object after a copy takes it for a failure, and removes it.
_COPYING = {"IgnoreTimes": True, "IgnoreSize": True, "IgnoreChecksum": True}
_REMOTE = re.compile(r"[\w.+@ -]+", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_CONTROL = re.compile("[\0-\x1f\x7f]")
_TRIES = 5
_EPOCH = re.compile(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class RcloneStore(ObjectStore):
    """The objects below `path` of `remote`."""

    def __init__(self, remote: str, path: str = "", *, prune: bool = False, timeout_s: float = 300.0) -> None:
        if _REMOTE.fullmatch(remote) is None or remote.startswith("-"):
            raise BadUrl(
                "a remote is named rclone:REMOTE:PATH, REMOTE being one of `rclone listremotes`; options and "
                "secrets belong into rclone's configuration"
            )
        self._what = f"rclone:{remote}:{path}"
        self._timeout_s = timeout_s
        self._prune = prune
        self._clock_lock = threading.Lock()
        self._last_ns = 0
        self._process = RcloneProcess()
        try:
            self._fs = f"{remote}:{path}"
            features = self._features()
            if not features.get("CanHaveEmptyDirectories"):
                plain, self._fs = self._fs, f"{remote},directory_markers=true:{path}"
                features = self._features()
                if not features.get("CanHaveEmptyDirectories"):
                    self._fs = plain
            self._has_folders = bool(features.get("CanHaveEmptyDirectories"))
            self._slow_times = bool(features.get("SlowModTime"))
            if not features.get("BucketBased"):
                self._rc("operations/mkdir", remote="")
        except BaseException:
            self._process.close()
            raise
        self.capabilities = Capabilities(
            metadata=False,
            conditional_put=False,
            conditional_get=False,
            conditional_delete=False,
            server_copy=bool(features.get("Copy")),
            max_key_bytes=1024,
            max_segment_bytes=255,
            max_metadata_bytes=None,
            concurrency=8,
        )

    def _features(self) -> dict[str, Any]:
        found: dict[str, Any] = self._rc("operations/fsinfo")["Features"]
        return found

    def close(self) -> None:
        self._process.close()

    def __repr__(self) -> str:
        return f"RcloneStore({self._what!r})"

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        name, is_folder = self._name(key)
        item = self._stat(name)
        if item is None or item["IsDir"] != is_folder or (is_folder and self._items(name)):
            raise NotFound(key=key)
        return _info(key, item, {})

    def _stat(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._rc("operations/stat", remote=name, opt={"noMimeType": True}).get(
            "item"
        )
        return found

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
        target = f"/{quote(f'[{self._fs}]', safe='')}/{quote(name, safe='/')}"
        for tried in range(1, _TRIES + 1):
            try:
                return self._get_once(key, target, headers, start, stop)
            except (Unavailable, Corrupted):
                # An object that is replaced just then is read in part by rclone.
                if tried == _TRIES:
                    raise
                time.sleep(0.02 * 2**tried)
        raise AssertionError

    def _get_once(
        self, key: str, target: str, headers: Mapping[str, str], start: int, stop: int | None
    ) -> Data:
        status, told, data = self._send("GET", target, headers, None)
        if status == 416:
            return self._nothing(key, start)
        if status not in (200, 206):
            fault = self._fault(data, key)
            raise fault if data.startswith(b"{") else Unavailable(str(fault), key=key)
        if status == 200:
            return data[start:stop] if start <= len(data) else self._nothing(key, start)
        first, size = 0, len(data)
        if headers:
            match = _CONTENT_RANGE.fullmatch(told.get("Content-Range", ""))
            if match is None and not data:
                return self._nothing(key, start)  # an empty object has no parts
            if match is None:
                raise Corrupted(f"rclone does not tell which part of {key!r} it sent", key=key)
            first, size = int(match[1]), int(match[2])
        if start >= size and start:
            return self._nothing(key, start)
        want = (size if stop is None or stop > size else stop) - start
        if first != start or len(data) != want:
            raise Corrupted(f"rclone sent another part of {key!r} than was asked for", key=key)
        return data

    def _nothing(self, key: str, start: int) -> bytes:
        clip_range(key, start, start, self.head(key).size)
        return b""

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return next(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return pages(self._folder, prefix, delimiter, after, limit)

    def _folder(self, base: str) -> Any:
        if base:
            try:
                self._name(base)
            except InvalidKey:
                return []
        items = self._items(base[:-1])
        entries: Any = []
        for item in items or ():
            key = base + item["Name"]
            if item["IsDir"]:
                entries.append(f"{key}/")
            else:
                entries.append(_info(key, item, None, timely=not self._slow_times))
        if base and items == [] and self._has_folders:
            item = self._stat(base[:-1])
            if item is not None and item["IsDir"]:
                marker: Entry = _info(base, item, None, timely=not self._slow_times)
                entries.append(marker)
        return entries

    def _items(self, name: str) -> Any:
        """What is in a folder; None if it is not there."""
        config = {"UseServerModTime": True} if self._slow_times else {}
        try:
            found = self._rc("operations/list", remote=name, opt={"noMimeType": True}, _config=config)["list"]
        except NotFound:
            return None
        return found or []

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
        whole = flat(data) if isinstance(data, Data) else None
        if is_folder:
            if not self._has_folders or whole or (whole is None and next(self._blocks(data), None)):
                raise InvalidKey(f"{key!r} is a folder on this remote, which holds no content", key=key)
            self._rc("operations/mkdir", remote=name, key=key)
            return _info(key, self._stat(name) or {}, {})
        file = f"put-{secrets.token_hex(8)}"
        path = self._process.folder / file
        try:
            with path.open("xb") as spool:
                if whole is not None:
                    spool.write(whole)
                else:
                    for block in self._blocks(data):
                        spool.write(block)
                size = spool.tell()
            mtime_ns = self._now()
            os.utime(path, ns=(mtime_ns, mtime_ns))
            if self._is_folder(name):
                raise InvalidKey(f"{key!r} is a folder on this remote", key=key)
            self._copy_in(file, name, key)
        except NotFound:
            raise InvalidKey(f"{key!r}: another object is in the way of its folder", key=key) from None
        finally:
            path.unlink(missing_ok=True)
        with contextlib.suppress(NotFound):
            info = self.head(key)
            if info.size == size:
                return info
        # Somebody else has replaced or removed it since; what was put had an etag that nobody will see.
        return ObjectInfo(key, size, mtime_ns, f"gone-{mtime_ns:x}", {})

    @staticmethod
    def _blocks(data: Any) -> Iterator[memoryview]:
        return blocks(data, _BLOCK_BYTES)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._refuse_condition(key, if_match is not None)
        name, is_folder = self._name(key)
        try:
            if is_folder:
                self.head(key)
                self._rc("operations/rmdir", remote=name, key=key)
            else:
                self._rc("operations/deletefile", remote=name, key=key)
        except NotFound:
            if not missing_ok:
                raise
            return
        if self._prune:
            self._remove_empty(name.rpartition("/")[0])

    def _copy_in(self, file: str, name: str, key: str) -> None:
        """Copy a spooled file to the remote. Raises NotFound if its folder cannot be made."""
        for attempt in range(_TRIES):
            try:
                self._rc(
                    "operations/copyfile",
                    srcFs=str(self._process.folder), srcRemote=file, dstFs=self._fs, dstRemote=name, key=key,
                    _config=_COPYING,
                )  # fmt: skip
                return
            except NotFound:
                # Somebody may have removed the last other object of the folder, and a server the folder.
                if attempt == _TRIES - 1:
                    raise

    def _remove_empty(self, name: str) -> None:
        while name and self._items(name) == []:
            with contextlib.suppress(StoreError):  # somebody puts something there meanwhile
                self._rc("operations/rmdir", remote=name)
            name = name.rpartition("/")[0]

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return self._transfer("operations/copyfile", source, target, if_match)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return self._transfer("operations/movefile", source, target, if_match)

    def _transfer(self, command: str, source: str, target: str, if_match: str | None) -> ObjectInfo:
        (name, is_folder), (new, to_folder) = self._name(source), self._name(target)
        info = self.head(source)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        if source == target:
            return info
        if is_folder or to_folder:
            made = self.put(target, self.get(source))
            if command == "operations/movefile":
                self.delete(source, missing_ok=True)
            return made
        if self._is_folder(new):
            raise InvalidKey(f"{target!r} is a folder on this remote", key=target)
        self._rc(
            command, srcFs=self._fs, srcRemote=name, dstFs=self._fs, dstRemote=new, key=source,
            _config=_COPYING,
        )  # fmt: skip
        if self._prune and command == "operations/movefile":
            self._remove_empty(name.rpartition("/")[0])
        return self.head(target)

    # -- within -----------------------------------------------------------------------------------

    def _name(self, key: str) -> tuple[str, bool]:
        """(the path below the remote, whether it is a folder's). Raises InvalidKey."""
        size = len(check_key(key))
        name = key.removesuffix("/")
        segments = name.split("/")
        if not {"", ".", ".."}.isdisjoint(segments) or _CONTROL.search(key):
            raise InvalidKey(
                f"{key!r}: rclone has no names with control characters, or segments that are empty or dots",
                key=key,
            )
        if size > 1024 or any(len(segment.encode()) > 255 for segment in segments):
            raise InvalidKey(f"{key!r}: rclone remotes have names of up to 255 bytes", key=key)
        return name, key.endswith("/")

    def _is_folder(self, name: str) -> bool:
        item = self._stat(name) if self._has_folders else None
        return item is not None and bool(item["IsDir"])

    def _now(self) -> int:
        """The time in ns, never the same twice: it is what tells versions apart."""
        with self._clock_lock:
            self._last_ns = max(self._last_ns + 1000, time.time_ns())
            return self._last_ns

    def _refuse_condition(self, key: str, conditional: bool) -> None:
        if conditional:
            raise Unsupported("rclone knows no conditions", key=key)

    def _rc(self, command: str, *, key: str | None = None, **given: Any) -> dict[str, Any]:
        if "srcFs" not in given:
            given["fs"] = self._fs
        headers = {"Content-Type": "application/json"}
        status, _, data = self._send("POST", f"/{command}", headers, json.dumps(given).encode())
        if status != 200:
            raise self._fault(data, key)
        told: dict[str, Any] = json.loads(data)
        return told

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            answer = self._process.pool.urlopen(
                method, target, body, headers, retries=False, redirect=False, timeout=self._timeout_s,
                decode_content=False,
            )  # fmt: skip
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{self._what}: rclone does not answer, or broke off") from error
        return answer.status, answer.headers, answer.data

    def _fault(self, data: bytes, key: str | None) -> StoreError:
        """The one table from what rclone says to our errors."""
        try:
            told = json.loads(data)
            text, status = str(told.get("error", "")), told.get("status")
        except (ValueError, AttributeError):
            text, status = "", None
        small = text.lower()
        about = f"{self._what}: " if key is None else f"{key!r}: "
        line = "".join(c if c.isprintable() else " " for c in text)[:300]
        if "didn't find section in config file" in small:
            return StoreError(f"{self._what}: rclone knows no such remote; see: rclone listremotes")
        if status == 404 or "not found" in small or "no such file" in small or "not a directory" in small:
            return NotFound(key=key)
        if any(word in small for word in ("permission denied", "accessdenied", "403", "unauthorized")):
            return AccessDenied(f"{about}{line}", key=key)
        if any(word in small for word in ("no space left", "quota", "storage full", "insufficient storage")):
            return StoreFull(f"{about}{line}", key=key)
        if "file name too long" in small or "invalid argument" in small:
            return InvalidKey(f"{about}{line}", key=key)
        if any(word in small for word in ("connection refused", "timeout", "no such host", "503", "reset")):
            return Unavailable(f"{about}{line}", key=key)
        return StoreError(f"{about}{line or 'rclone failed'}", key=key)


def _info(
    key: str, item: Mapping[str, Any], metadata: Mapping[str, str] | None, *, timely: bool = True
) -> ObjectInfo:
    size = 0 if item.get("IsDir", True) else int(item["Size"])
    mtime_ns = _time_ns(str(item.get("ModTime", "")))
    return ObjectInfo(key, size, mtime_ns, f"{mtime_ns:x}-{size:x}" if timely else None, metadata)


def _time_ns(text: str) -> int:
    """RFC 3339 with nanoseconds, which `datetime` cuts off."""
    match = _EPOCH.fullmatch(text)
    if match is None:
        return 0
    seconds = int(datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3])).timestamp())
    return seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")[:9])
