"""Small files that will be read next: whoever reads the files of a directory in a row finds them here.

What is not under way yet when the pattern ends is not asked for any more.
For the thread of the event loop alone.
"""

from __future__ import annotations

import logging
import stat
from collections import deque
from collections.abc import Awaitable, Iterable
from functools import partial

import trio

from mountstore.store import Data
from mountstore.vfs.blocks import BLOCK
from mountstore.vfs.content import Content
from mountstore.vfs.index import Index
from mountstore.vfs.rows import Node
from mountstore.vfs.runs import Run, Runs

log = logging.getLogger(__name__)

SMALL = 1 << 18
"""Files of up to this many bytes are fetched before they are opened."""

assert SMALL <= BLOCK

_FIRST = 4  # files ahead when a pattern has been seen, twice as many with each file that follows it
_MOST = 64
_MOST_BYTES = 8 << 20  # asked for ahead and not opened yet
_WORKERS = 12
_SHARE = 4  # files that one worker thread fetches in a row: a hop to it costs as much as half a request
_SHARE_BYTES = 1 << 16  # and how many bytes they have in all


class _Share:
    """What one worker thread fetches in a row."""

    __slots__ = ("is_over", "parent", "wanted")

    def __init__(self, parent: int) -> None:
        self.parent = parent
        self.wanted: list[tuple[int, int]] = []  # (content id, size)
        self.is_over = False  # what of it is not under way yet is not asked for any more


class Neighbours:
    """Fetches small files ahead of those who open them in a row."""

    def __init__(self, index: Index, content: Content) -> None:
        self._index = index
        self._blocks = content.blocks
        self._content = content
        self._runs = Runs(index, first=_FIRST, most=_MOST, ended=self._cancel)
        self._queue: deque[tuple[int, int, int]] = deque()  # (directory, content id, size)
        self._shares: set[_Share] = set()  # under way
        self._workers = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything is still under way."""
        return self._workers > 0

    def opened(self, node: Node) -> None:
        """A file is opened to be read: have it come whole, and the next ones if it follows others."""
        if not self._is_worthwhile(node):
            return
        if self._blocks.is_wanting(node.base_cid, 0):
            self._queue.appendleft((0, node.base_cid, node.size))
            self._start_workers()
        links = self._index.links(node.ino)
        if not links:
            return
        run = self._runs.follow(links[0])
        if run is not None:
            self._fetch_ahead(links[0].parent, run)

    def _is_worthwhile(self, node: Node) -> bool:
        return (
            0 < node.size <= SMALL
            and node.is_clean
            and stat.S_ISREG(node.mode)
            and (node.stack is None or not node.stack.layers)
        )

    def _cancel(self, parent: int) -> None:
        """The pattern has ended."""
        self._queue = deque(item for item in self._queue if item[0] != parent)
        for share in self._shares:
            share.is_over = share.is_over or share.parent == parent

    def _fetch_ahead(self, parent: int, run: Run) -> None:
        if run.ahead * 2 > run.window:
            return  # many at once cost less than one by one
        size = 0
        wanted = []
        for number, (_, node) in enumerate(run.upcoming):
            if number >= run.window or size > _MOST_BYTES:
                break
            if self._is_worthwhile(node):
                size += node.size
                if number >= run.ahead:
                    wanted.append(node)
            run.ahead = max(run.ahead, number + 1)
        self._ask(parent, wanted)

    # -- fetching ----------------------------------------------------------------------------------

    def _ask(self, parent: int, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if self._blocks.is_wanting(node.base_cid, 0):
                self._queue.append((parent, node.base_cid, node.size))
        self._start_workers()

    def _start_workers(self) -> None:
        nursery = self._blocks.nursery
        if nursery is None:
            self._queue.clear()
            return
        for _ in range(min(_WORKERS - self._workers, len(self._queue))):
            self._workers += 1
            nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            while share := self._next_share():
                self._shares.add(share)
                try:
                    await self._blocks.load_small(share.wanted, partial(self._bring, share))
                except trio.Cancelled:
                    raise
                except Exception as error:
                    # Whoever opens it asks again and is told.
                    log.debug("files that may be read next did not come: %s", error)
                finally:
                    self._shares.discard(share)
        finally:
            self._workers -= 1

    def _bring(self, share: _Share) -> Awaitable[list[Data | None]]:
        return self._content.fetch_small(share.wanted, lambda: share.is_over)

    def _next_share(self) -> _Share | None:
        """What is to be fetched next: of one directory, or the one file that somebody waits for."""
        most = min(_SHARE, -(-len(self._queue) // _WORKERS))  # no more than leaves the others something to do
        room = _SHARE_BYTES
        share = None
        while self._queue and (share is None or len(share.wanted) < most):
            parent, cid, size = self._queue[0]
            if share is not None and (size > room or parent != share.parent):
                break
            self._queue.popleft()
            if not self._blocks.is_wanting(cid, 0):
                continue
            share = share or _Share(parent)
            if (cid, size) in share.wanted:
                continue  # another name of it
            share.wanted.append((cid, size))
            room -= size
            if not parent:
                break
        return share
