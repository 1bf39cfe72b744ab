"""Which items of a namespace are cached, in the order of their use; within limits of age and size."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

_SCANS_AN_AGE = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a cached item; `etag` is the main store's."""

    size: int
    etag: str | None
    stored_s: float


class Recency:
    """The entries of one namespace. Without limits it remembers nothing."""

    def __init__(self, max_age_s: float | None, size_bytes: int | None) -> None:
        self.max_age_s, self.size_bytes = max_age_s, size_bytes
        self.limited = max_age_s is not None or size_bytes is not None
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._held = 0
        self._scanned_s = time.time()

    def get(self, key: str) -> Entry | None:
        with self._lock:
            return self._entries.get(key)

    def note(self, key: str, entry: Entry) -> None:
        """The item is here, and was used just now."""
        if not self.limited:
            return
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            self._held += entry.size

    def forget(self, key: str) -> None:
        with self._lock:
            self._remove(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._held = 0

    def is_old(self, entry: Entry) -> bool:
        return self.max_age_s is not None and time.time() - entry.stored_s > self.max_age_s

    def too_large(self, size: int) -> bool:
        return self.size_bytes is not None and size > self.size_bytes

    def victims(self, key: str, size: int) -> list[str]:
        """Whom the item `key` of `size` bytes drives out: the old ones, then those not used for longest.

        They are forgotten here.
        """
        found: list[str] = []
        now = time.time()
        with self._lock:
            if self.max_age_s is not None and now - self._scanned_s > self.max_age_s / _SCANS_AN_AGE:
                self._scanned_s = now
                found = [name for name, entry in self._entries.items() if self.is_old(entry)]
                for name in found:
                    self._remove(name)
            if self.size_bytes is not None:
                replaced = self._entries.get(key)
                room = self.size_bytes - size + (replaced.size if replaced is not None else 0)
                while self._held > room:
                    name = next(name for name in self._entries if name != key)
                    self._remove(name)
                    found.append(name)
        return [name for name in found if name != key]

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._held -= entry.size
