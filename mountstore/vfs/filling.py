"""Files that are read here and there: after some reads the whole file comes, in large pieces.

One small read after another would each wait for the store; who reads like that mostly goes on. The pieces are
handed to whoever can keep them: the kernel's page cache holds more than our memory does.
"""

from __future__ import annotations

from mountstore.errors import StoreError
from mountstore.vfs.blocks import BLOCK, BlockCache, Readahead
from mountstore.vfs.rows import Node

_PIECE = 8 * BLOCK
_READS = 8  # at places far from each other, until that is a pattern
_MOST_BYTES = 512 << 20  # larger files are read where they are wanted alone


class Filling:
    """A file that comes piece by piece; several tasks may call `next` at once."""

    def __init__(self, node: Node, readahead: Readahead, blocks: BlockCache) -> None:
        self.node = node
        self._cid = node.base_cid
        self._readahead = readahead
        self._blocks = blocks
        self._at = 0
        self.is_over = False

    def end(self) -> None:
        """Nobody reads it any more."""
        self.is_over = True

    def counts(self) -> bool:
        """Whether what has come is still the content of the file, and wanted."""
        node = self.node
        return not (self.is_over or self._readahead.window or node.writers) and (
            node.is_clean and node.base_cid == self._cid and (node.stack is None or not node.stack.layers)
        )

    async def next(self) -> tuple[int, list[bytes]] | None:
        """(where it begins, blocks) of a piece that has come; None: there is no more to come."""
        start, size = self._at, self.node.size
        if start >= size or not self.counts():
            return None
        self._at = start + _PIECE
        stop = min(self._at, size)
        self._blocks.ahead(self._cid, start, _PIECE // BLOCK, size)
        try:
            pieces = [
                bytes(await self._blocks.read(self._cid, at, min(at + BLOCK, stop), size))
                for at in range(start, stop, BLOCK)
            ]
        except (StoreError, OSError):
            return None  # whoever reads there asks again and is told
        return (start, pieces) if self.counts() else None


def is_worthwhile(node: Node, readahead: Readahead) -> bool:
    """Whether a file is read in such a way that all of it should come."""
    return readahead.jumps >= _READS and not readahead.window and BLOCK < node.size <= _MOST_BYTES
