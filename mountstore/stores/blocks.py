"""Blocks of objects as they lie in a cache: their names, and what became of them.

A block is named by the key and the etag of its object (as hashes), its number, and a CRC-32 of its bytes;
so its content is what its name says or it is damaged, and it is never stale: only no longer asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass

from mountstore.store import Data

QUEUED, WRITING, STORED = range(3)
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-([0-9a-f]+)-([0-9a-f]{8})(?:-([0-9a-f]{8}))?")


def digest(text: str) -> str:
    """A key or an etag as it stands in the names of blocks."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(slots=True)
class CacheStats:
    """What a cache did since it was made, in blocks, and what it holds now.

    `errors` counts calls of the cache that failed, and blocks that were damaged.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    errors: int = 0
    hit_bytes: int = 0
    used_bytes: int = 0
    pinned_bytes: int = 0
    blocks: int = 0
    capacity_bytes: int = 0


class Block:
    """One block; `segment` is None once it is not to be found any more."""

    __slots__ = (
        "_name", "crc", "data", "etag", "key", "number", "pin", "segment", "size", "state", "used",
    )  # fmt: skip

    def __init__(self, key: str, etag: str, number: int, size: int, crc: int = 0, pin: str = "") -> None:
        self.key = key
        self.etag = etag
        self.number = number
        self.size = size
        self.crc = crc
        self.pin = pin
        self.state = STORED
        self.used = False  # by a reader
        self.data: Data | None = None  # until it is written
        self.segment: OrderedDict[Block, None] | None = None
        self._name = ""

    @property
    def name(self) -> str:
        """What it is called in the cache, once its checksum is known."""
        if not self._name:
            pin = f"-{self.pin}" if self.pin else ""
            self._name = f"{self.key}-{self.etag}-{self.number:x}-{self.crc:08x}{pin}"
        return self._name


def block_of(name: str, size: int) -> Block | None:
    """The block that is called so in a cache; None if no block is."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    key, etag, number, crc, pin = match.groups("")
    return Block(key, etag, int(number, 16), size, int(crc, 16), pin)
