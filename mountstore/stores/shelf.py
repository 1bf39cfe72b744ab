"""Which blocks a cache has, and which of them goes first: bookkeeping alone, nothing is read or written."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator

from mountstore.stores.blocks import STORED, Block

_PROTECTED = 0.8


class Shelf:
    """At most `max_blocks` blocks, and room for `capacity_bytes`, which is reserved before a block is linked.

    New blocks queue in one segment; one that is used a second time goes to another, of up to four fifths
    of the room. What makes room is the longest unused of the first: so reading a lot once leaves alone what
    is used again and again. Pinned blocks are in a segment of their own, and stay.

    For one thread at a time, but for looking into `blocks` and `keys`.
    """

    def __init__(self, capacity_bytes: int, max_blocks: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.blocks: dict[str, Block] = {}  # by place
        self.keys: dict[str, Block] = {}  # one of the blocks of each
        self.used_bytes = 0  # with what is reserved, and what could not be deleted
        self.count = 0
        self.pinned_bytes = 0
        self._max_blocks = max_blocks
        self._protected_bytes = 0
        self._probation: OrderedDict[Block, None] = OrderedDict()
        self._protected: OrderedDict[Block, None] = OrderedDict()
        self._pinned: OrderedDict[Block, None] = OrderedDict()

    # -- room -------------------------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """Take room for a block of so many bytes; False if there is too little."""
        if self.used_bytes + size > self.capacity_bytes or self.count >= self._max_blocks:
            return False
        self.used_bytes += size
        self.count += 1
        return True

    def free(self, size: int) -> None:
        """Give back what was reserved."""
        self.used_bytes -= size
        self.count -= 1

    def count_in(self, size: int) -> None:
        """A block that lies in the cache already takes its room, whether there is enough or not."""
        self.used_bytes += size
        self.count += 1

    # -- which there are --------------------------------------------------------------------------

    def of(self, key: str) -> Iterator[Block]:
        """The blocks of this key, in no order; the last one given may be unlinked."""
        block = self.keys.get(key)
        while block is not None:
            after = block.next
            yield block
            block = after

    def link(self, block: Block, *, is_pinned: bool = False) -> None:
        """Have it found, as the newest. Its room was reserved."""
        self.blocks[block.place] = block
        other = self.keys.get(block.key)
        if other is not None:
            block.next, other.previous = other, block
        self.keys[block.key] = block
        if is_pinned:
            self._place(block, self._pinned)
        else:
            block.segment = self._probation
            self._probation[block] = None

    def unlink(self, block: Block) -> None:
        """Have it found no more. Its room stays taken."""
        del self.blocks[block.place]
        before, after = block.previous, block.next
        if after is not None:
            after.previous = before
        if before is not None:
            before.next = after
        elif after is not None:
            self.keys[block.key] = after
        else:
            del self.keys[block.key]
        block.previous = block.next = None
        self._place(block, None)

    # -- their order ------------------------------------------------------------------------------

    def use(self, place: str) -> Block | None:
        """The block that a reader wants, if it is linked."""
        block = self.blocks.get(place)
        if block is None:
            return None
        segment = block.segment
        if block.used and segment is self._probation:
            self._place(block, self._protected)
            while self._protected_bytes > self.capacity_bytes * _PROTECTED and len(self._protected) > 1:
                self._place(next(iter(self._protected)), self._probation)
        elif segment is not None:
            block.used = True
            segment.move_to_end(block)
        return block

    def first_out(self) -> Block | None:
        """What goes next, unless it is pinned."""
        return next(iter(self._probation or self._protected), None)

    def stored(self, *, pinned: bool) -> Iterator[Block]:
        """What lies in the cache, in the order of going; with `pinned`, those too, last."""
        segments = (self._probation, self._protected, *([self._pinned] if pinned else []))
        return (block for segment in segments for block in segment if block.state == STORED)

    def unpin(self, mark: str) -> None:
        """Blocks with this mark may go like others."""
        for block in [block for block in self._pinned if block.pin == mark]:
            self._place(block, self._probation)

    def take_all(self) -> list[Block]:
        """Unlink all."""
        blocks = [*itertools.chain(self._probation, self._protected, self._pinned)]
        for block in blocks:
            self.unlink(block)
        return blocks

    def _place(self, block: Block, segment: OrderedDict[Block, None] | None) -> None:
        if block.segment is not None:
            del block.segment[block]
            self._weigh(block.segment, -block.size)
        block.segment = segment
        if segment is not None:
            segment[block] = None
            self._weigh(segment, block.size)

    def _weigh(self, segment: OrderedDict[Block, None], size: int) -> None:
        if segment is self._protected:
            self._protected_bytes += size
        elif segment is self._pinned:
            self.pinned_bytes += size
