"""One remote of a running rclone: its commands, what it can do, and its errors in our words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from mountstore.backends._rclone_process import RcloneProcess
from mountstore.errors import AccessDenied, InvalidKey, NotFound, StoreError, StoreFull, Unavailable
from mountstore.store import ObjectInfo

_TIME = re.compile(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class Remote:
    """The folder `path` of the remote `name`; thread-safe. It does not end the process.

    `fs` is how rclone's commands name it, `what` how messages do. Of a remote of files, the folder is made.
    """

    def __init__(self, process: RcloneProcess, name: str, path: str, timeout_s: float) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self.what = f"rclone:{name}:{path}"
        self.fs = f"{name}:{path}"
        features = self._features()
        if not features.get("CanHaveEmptyDirectories"):
            plain, self.fs = self.fs, f"{name},directory_markers=true:{path}"
            features = self._features()
            if not features.get("CanHaveEmptyDirectories"):
                self.fs = plain
        self.has_folders = bool(features.get("CanHaveEmptyDirectories"))
        self.slow_times = bool(features.get("SlowModTime"))
        self.can_copy = bool(features.get("Copy"))
        if not features.get("BucketBased"):
            self.do("operations/mkdir", remote="")

    def _features(self) -> dict[str, Any]:
        found: dict[str, Any] = self.do("operations/fsinfo")["Features"]
        return found

    def stat(self, name: str) -> dict[str, Any] | None:
        """What rclone tells of a file or folder; None if it is not there."""
        told = self.do("operations/stat", remote=name, opt={"noMimeType": True})
        found: dict[str, Any] | None = told.get("item")
        return found

    def items(self, name: str) -> Any:
        """What is in a folder; None if it is not there."""
        config = {"UseServerModTime": True} if self.slow_times else {}
        try:
            found = self.do("operations/list", remote=name, opt={"noMimeType": True}, _config=config)["list"]
        except NotFound:
            return None
        return found or []

    def do(self, command: str, *, key: str | None = None, **given: Any) -> dict[str, Any]:
        """Carry out a command of rclone's remote control, on this remote unless `srcFs` says otherwise."""
        if "srcFs" not in given:
            given["fs"] = self.fs
        headers = {"Content-Type": "application/json"}
        status, _, data = self._send("POST", f"/{command}", headers, json.dumps(given).encode())
        if status != 200:
            raise self.fault(data, key)
        told: dict[str, Any] = json.loads(data)
        return told

    def read(self, name: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of a GET of a file."""
        target = f"/{quote(f'[{self.fs}]', safe='')}/{quote(name, safe='/')}"
        return self._send("GET", target, headers, None)

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            answer = self._process.pool.urlopen(
                method, target, body, headers, retries=False, redirect=False, timeout=self._timeout_s,
                decode_content=False,
            )  # fmt: skip
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{self.what}: rclone does not answer, or broke off") from error
        return answer.status, answer.headers, answer.data

    def fault(self, data: bytes, key: str | None) -> StoreError:
        """The one table from what rclone says to our errors."""
        try:
            told = json.loads(data)
            text, status = str(told.get("error", "")), told.get("status")
        except (ValueError, AttributeError):
            text, status = "", None
        small = text.lower()
        about = f"{self.what}: " if key is None else f"{key!r}: "
        line = "".join(c if c.isprintable() else " " for c in text)[:300]
        if "didn't find section in config file" in small:
            return StoreError(f"{self.what}: rclone knows no such remote; see: rclone listremotes")
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


def info_of(
    key: str, item: Mapping[str, Any], metadata: Mapping[str, str] | None, *, timely: bool = True
) -> ObjectInfo:
    size = 0 if item.get("IsDir", True) else int(item["Size"])
    mtime_ns = _time_ns(str(item.get("ModTime", "")))
    return ObjectInfo(key, size, mtime_ns, f"{mtime_ns:x}-{size:x}" if timely else None, metadata)


def _time_ns(text: str) -> int:
    """RFC 3339 with nanoseconds, which `datetime` cuts off."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    seconds = int(datetime.fromisoformat(match[1] + ("+00:00" if match[3] == "Z" else match[3])).timestamp())
    return seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")[:9])
