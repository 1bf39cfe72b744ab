"""Directories that will be listed next: whoever walks a tree finds their names here already.

When the directories of a directory are read one after another (`find`, `grep -r`, `ls -R`, `git status`), the
next ones are listed meanwhile, more and more of them at once. Of a long one the first page alone comes ahead.
For the thread of the event loop alone.
"""

from __future__ import annotations

from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.rows import Node
from mountstore.vfs.runs import Run, Runs

_FIRST = 2  # directories ahead when a pattern has been seen, twice as many with each that follows it
_MOST = 16
_LOOK = 64  # entries behind one directory among which the next one is looked for


class Walks:
    """Lists directories ahead of those who read them in a row."""

    def __init__(self, index: Index, listing: Listing) -> None:
        self._index = index
        self._listing = listing
        self._runs = Runs(index, first=_FIRST, most=_MOST, counts=_is_directory, look=_LOOK)

    def opened(self, node: Node) -> None:
        """A directory is about to be read: have the next ones listed if it follows others."""
        links = self._index.links(node.ino)
        if not links:
            return
        run = self._runs.follow(links[0])
        if run is not None:
            self._list_ahead(run)

    def _list_ahead(self, run: Run) -> None:
        for number, (_, node) in enumerate(run.upcoming):
            if number >= run.window:
                return
            if number >= run.ahead:
                run.ahead = number + 1
                self._listing.start_ahead(node)


def _is_directory(node: Node) -> bool:
    return node.is_dir
