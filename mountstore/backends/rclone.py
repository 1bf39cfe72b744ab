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
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from mountstore.backends._arguments import blocks, check_key, clip_range, flat
from mountstore.backends._folder_walk import Entry, pages
from mountstore.backends._rclone_process import RcloneProcess
from mountstore.backends._rclone_remote import Remote, info_of
from mountstore.errors import (
    BadUrl,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
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


class RcloneStore(ObjectStore):
    """The objects below `path` of `remote`."""

    def __init__(self, remote: str, path: str = "", *, prune: bool = False, timeout_s: float = 300.0) -> None:
        if _REMOTE.fullmatch(remote) is None or remote.startswith("-"):
            raise BadUrl(
                "a remote is named rclone:REMOTE:PATH, REMOTE being one of `rclone listremotes`; options and "
                "secrets belong into rclone's configuration"
            )
        self._prune = prune
        self._clock_lock = threading.Lock()
        self._last_ns = 0
        self._process = RcloneProcess()
        try:
            self._remote = Remote(self._process, remote, path, timeout_s)
        except BaseException:
            self._process.close()
            raise
        self.capabilities = Capabilities(
            metadata=False,
            conditional_put=False,
            conditional_get=False,
            conditional_delete=False,
            server_copy=self._remote.can_copy,
            max_key_bytes=1024,
            max_segment_bytes=255,
            max_metadata_bytes=None,
            concurrency=8,
        )

    def close(self) -> None:
        self._process.close()

    def __repr__(self) -> str:
        return f"RcloneStore({self._remote.what!r})"

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        name, is_folder = self._name(key)
        item = self._remote.stat(name)
        if item is None or item["IsDir"] != is_folder or (is_folder and self._remote.items(name)):
            raise NotFound(key=key)
        return info_of(key, item, {})

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
        for tried in range(1, _TRIES + 1):
            try:
                return self._get_once(key, name, headers, start, stop)
            except (Unavailable, Corrupted):
                # An object that is replaced just then is read in part by rclone.
                if tried == _TRIES:
                    raise
                time.sleep(0.02 * 2**tried)
        raise AssertionError

    def _get_once(
        self, key: str, name: str, headers: Mapping[str, str], start: int, stop: int | None
    ) -> Data:
        status, told, data = self._remote.read(name, headers)
        if status == 416:
            return self._nothing(key, start)
        if status not in (200, 206):
            fault = self._remote.fault(data, key)
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
        items = self._remote.items(base[:-1])
        entries: Any = []
        for item in items or ():
            key = base + item["Name"]
            if item["IsDir"]:
                entries.append(f"{key}/")
            else:
                entries.append(info_of(key, item, None, timely=not self._remote.slow_times))
        if base and items == [] and self._remote.has_folders:
            item = self._remote.stat(base[:-1])
            if item is not None and item["IsDir"]:
                marker: Entry = info_of(base, item, None, timely=not self._remote.slow_times)
                entries.append(marker)
        return entries

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
            if not self._remote.has_folders or whole or (whole is None and next(self._blocks(data), None)):
                raise InvalidKey(f"{key!r} is a folder on this remote, which holds no content", key=key)
            self._remote.do("operations/mkdir", remote=name, key=key)
            return info_of(key, self._remote.stat(name) or {}, {})
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
                self._remote.do("operations/rmdir", remote=name, key=key)
            else:
                self._remote.do("operations/deletefile", remote=name, key=key)
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
                self._remote.do(
                    "operations/copyfile",
                    srcFs=str(self._process.folder), srcRemote=file, dstFs=self._remote.fs, dstRemote=name,
                    key=key, _config=_COPYING,
                )  # fmt: skip
                return
            except NotFound:
                # Somebody may have removed the last other object of the folder, and a server the folder.
                if attempt == _TRIES - 1:
                    raise

    def _remove_empty(self, name: str) -> None:
        while name and self._remote.items(name) == []:
            with contextlib.suppress(StoreError):  # somebody puts something there meanwhile
                self._remote.do("operations/rmdir", remote=name)
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
        self._remote.do(
            command, srcFs=self._remote.fs, srcRemote=name, dstFs=self._remote.fs, dstRemote=new, key=source,
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
        item = self._remote.stat(name) if self._remote.has_folders else None
        return item is not None and bool(item["IsDir"])

    def _now(self) -> int:
        """The time in ns, never the same twice: it is what tells versions apart."""
        with self._clock_lock:
            self._last_ns = max(self._last_ns + 1000, time.time_ns())
            return self._last_ns

    def _refuse_condition(self, key: str, conditional: bool) -> None:
        if conditional:
            raise Unsupported("rclone knows no conditions", key=key)
