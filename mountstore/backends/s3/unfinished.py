"""Uploads in parts that are under way, noted in a local file: whoever dies leaves parts that are paid for.

A line a begin and a line an end, as JSON; the file is emptied whenever nothing is under way. It outlives the
death of the process; it is not synced, so after a loss of power parts may be left (a lifecycle rule of the
bucket ends those).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from pathlib import Path

log = logging.getLogger(__name__)


class Unfinished:
    """The uploads of one bucket. Thread-safe; notes nothing until it has a journal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}  # upload id -> whole key
        self._fd = -1

    def use(self, journal: Path) -> dict[str, str]:
        """Note everything in this file from now on; returns what is noted there and has not ended."""
        with self._lock:
            left: dict[str, str] = {}
            with contextlib.suppress(FileNotFoundError):
                left = _read(journal)
            self._fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open |= left
            self._rewrite()
            return left

    def begun(self, whole: str, upload_id: str) -> None:
        with self._lock:
            self._open[upload_id] = whole
            self._note({"begun": upload_id, "key": whole})

    def ended(self, upload_id: str) -> None:
        with self._lock:
            if self._open.pop(upload_id, None) is None:
                return
            self._note({"ended": upload_id})
            if not self._open:
                self._rewrite()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _rewrite(self) -> None:
        if self._fd < 0:
            return
        os.ftruncate(self._fd, 0)
        for upload_id, whole in self._open.items():
            self._note({"begun": upload_id, "key": whole})

    def _note(self, what: dict[str, str]) -> None:
        if self._fd < 0:
            return
        try:
            os.write(self._fd, json.dumps(what).encode() + b"\n")
        except OSError as error:
            # The upload is worth more than the note.
            log.warning("an upload in parts cannot be noted, and may leave parts behind: %s", error)


def _read(journal: Path) -> dict[str, str]:
    left: dict[str, str] = {}
    for line in journal.read_bytes().split(b"\n"):
        try:
            what = json.loads(line)
        except ValueError:
            continue  # torn, or the empty end
        if "begun" in what:
            left[what["begun"]] = what["key"]
        else:
            left.pop(what["ended"], None)
    return left
