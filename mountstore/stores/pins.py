"""What is to stay in a cache, and how much that is; kept as objects beside the blocks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from mountstore.errors import StoreError
from mountstore.store import ObjectStore

_log = logging.getLogger("mountstore.stores")
PREFIX = "pin-"


@dataclass(frozen=True, slots=True)
class Pin:
    """What is pinned: an object, or with a slash at its end (or empty) all objects below.

    `size_bytes` is what was there when it was pinned.
    """

    prefix: str
    size_bytes: int

    @property
    def mark(self) -> str:
        """What the names of its blocks end with."""
        return hashlib.sha256(self.prefix.encode()).hexdigest()[:8]

    def holds(self, key: str) -> bool:
        return key == self.prefix or (self.is_tree and key.startswith(self.prefix))

    @property
    def is_tree(self) -> bool:
        return not self.prefix or self.prefix.endswith("/")


class Pins:
    """The pins of a cache. Reading is for any thread, changing for one at a time."""

    def __init__(self, cache: ObjectStore) -> None:
        self._cache = cache
        self._pins: tuple[Pin, ...] = ()
        self.marks: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Pin]:
        return iter(self._pins)

    def load(self, names: list[str]) -> None:
        """Read the objects of these names. Raises StoreError, OSError."""
        found = []
        for name in names:
            try:
                told = json.loads(bytes(self._cache.get(name)))
                found.append(Pin(str(told["prefix"]), int(told["size_bytes"])))
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, StoreError):
                    raise
                _log.warning("the cache: what %s says cannot be read; it is dropped", name)
                self._cache.delete(name, missing_ok=True)
        self._set(found)

    def mark_of(self, key: str) -> str:
        """The mark that blocks of this key have; empty for one that is not pinned."""
        if self._pins:
            for pin in self._pins:
                if pin.holds(key):
                    return pin.mark
        return ""

    def add(self, pin: Pin) -> None:
        """Pin it, and remember that; pins within it are not needed any more. Raises StoreError, OSError."""
        text = json.dumps({"prefix": pin.prefix, "size_bytes": pin.size_bytes})
        self._cache.put(PREFIX + pin.mark, text.encode())
        inner = [other for other in self._pins if other.prefix != pin.prefix and pin.holds(other.prefix)]
        self._set([other for other in self._pins if not pin.holds(other.prefix)] + [pin])
        for other in inner:
            self._cache.delete(PREFIX + other.mark, missing_ok=True)

    def remove(self, pin: Pin) -> None:
        """Raises StoreError, OSError."""
        self._cache.delete(PREFIX + pin.mark, missing_ok=True)
        self._set([other for other in self._pins if other != pin])

    def _set(self, pins: list[Pin]) -> None:
        self._pins = tuple(sorted(pins, key=lambda pin: pin.prefix))
        self.marks = frozenset(pin.mark for pin in self._pins)
