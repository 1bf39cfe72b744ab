"""What of a directory will be opened next: its entries in one of two orders, and how far one has come.

The orders are that of the names (`cat *`) and that of the directory (`grep -r`, `find`, `tar`), whichever
the last two entries that were opened follow.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from mountstore.vfs.index import Index
from mountstore.vfs.rows import Dentry, Node

_SKIP = 4  # entries that a reader may leave out
_REMEMBERED = 12  # entries that were passed: several readers are not quite in order
_BATCH = 128  # entries that are looked at at once


class Run:
    """A directory whose entries are being opened in one of its two orders; of them, those that `counts`."""

    __slots__ = ("_by_name", "_counts", "_index", "_last", "_passed", "ahead", "upcoming", "window")

    def __init__(
        self, index: Index, last: Dentry, counts: Callable[[Node], bool], window: int, *, by_name: bool
    ) -> None:
        self._index = index
        self._by_name = by_name
        self._counts = counts
        self._last = last  # behind which `upcoming` goes on
        self._passed: deque[int] = deque(maxlen=_REMEMBERED)
        self.upcoming: deque[tuple[Dentry, Node]] = deque()
        self.ahead = 0  # how many of them have been asked for
        self.window = window  # how many should be, twice as many with each entry that follows

    def advance(self, dentry: Dentry, most: int) -> bool:
        """Whether this is among the next ones; then those up to it are done with."""
        for position, (entry, _) in enumerate(itertools.islice(self.upcoming, _SKIP)):
            if entry.id == dentry.id:
                for _ in range(position + 1):
                    self._passed.append(self.upcoming.popleft()[0].id)
                self.ahead = max(0, self.ahead - position - 1)
                self.window = min(self.window * 2, most)
                return True
        return dentry.id in self._passed

    def fill(self, count: int) -> None:
        """Look so many entries further; fewer of them may count."""
        if self._by_name:
            more = self._index.children_by_name(self._last.parent, self._last.name, count)
        else:
            more = self._index.children(self._last.parent, self._last.id, count)
        if more:
            self.upcoming.extend(entry for entry in more if self._counts(entry[1]))
            self._last = more[-1][0]

    def look_ahead(self) -> None:
        """Have `upcoming` reach as far as the window, if one look does it."""
        if len(self.upcoming) < self.window:
            self.fill(_BATCH)


def begin(
    index: Index,
    last: Dentry,
    dentry: Dentry,
    *,
    counts: Callable[[Node], bool] = lambda node: True,
    look: int = _SKIP,
    window: int,
    most: int,
) -> Run | None:
    """The run in which `dentry` follows `last`, by either order; `look`: at so many entries behind it."""
    for by_name in (True, False):
        run = Run(index, last, counts, window, by_name=by_name)
        run.fill(look)
        if run.advance(dentry, most):
            return run
    return None
