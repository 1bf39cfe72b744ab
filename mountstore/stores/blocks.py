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


def place_of(key: str, etag: str, number: int) -> str:
    """Which block of which version it is, as names of blocks begin; `key` and `etag` are digests."""
    return f"{key}-{etag}-{number:x}"


class Block:
    """One block; `segment` is None once it is not to be found any more.

    `next` and `previous` are others of the same key, in no order: tens of thousands of keys have one block
    each, and a collection for each of them would cost more than the block.
    """

    __slots__ = (
        "crc", "data", "etag", "key", "name", "next", "number", "pin", "place", "previous", "segment", "size",
        "state", "used",
    )  # fmt: skip

    def __init__(
        self, key: str, etag: str, number: int, size: int, crc: int | None = None, pin: str = ""
    ) -> None:
        self.key = key
        self.etag = etag
        self.number = number
        self.size = size
        self.pin = pin
        self.place = f"{key}-{etag}-{number:x}"  # as `place_of`, whose call takes longer than what it does
        self.state = STORED
        self.used = False  # by a reader
        self.data: Data | None = None  # until it is written
        self.segment: OrderedDict[Block, None] | None = None
        self.next: Block | None = None
        self.previous: Block | None = None
        self.crc = 0
        self.name = ""
        if crc is not None:
            self.set_crc(crc)

    def set_crc(self, crc: int) -> str:
        """Set its checksum; returns its name in the cache, which tells that."""
        self.crc = crc
        self.name = f"{self.place}-{crc:08x}-{self.pin}" if self.pin else f"{self.place}-{crc:08x}"
        return self.name


def block_of(name: str, size: int) -> Block | None:
    """The block that is called so in a cache; None if no block is."""
    match = _NAME.fullmatch(name)
    if match is None or is_unfilled(name, size):
        return None
    key, etag, number, crc, pin = match.groups("")
    return Block(key, etag, int(number, 16), size, int(crc, 16), pin)


def is_unfilled(name: str, size: int) -> bool:
    """Whether it is a block whose writer was killed before a byte was in it, see `FilesystemStore.keep`."""
    match = _NAME.fullmatch(name) if not size else None
    return match is not None and int(match[4], 16) != 0
