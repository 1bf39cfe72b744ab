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
_DIRECTORIES = 64  # of which the last entry is remembered


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


class Runs:
    """The run of each directory in which entries are opened in a row, or of the last of these."""

    def __init__(
        self,
        index: Index,
        *,
        first: int,
        most: int,
        counts: Callable[[Node], bool] = lambda node: True,
        look: int = _SKIP,
        ended: Callable[[int], None] = lambda parent: None,
    ) -> None:
        """Windows go from `first` to `most` entries; the next one may be `look` entries behind the last.

        `ended` is told of each directory whose run is over.
        """
        self._index = index
        self._first = first
        self._most = most
        self._counts = counts
        self._look = look
        self._ended = ended
        self._last: dict[int, Dentry] = {}  # by directory
        self._runs: dict[int, Run] = {}

    def follow(self, dentry: Dentry) -> Run | None:
        """An entry is opened: the run that it continues or begins, looking ahead as far as its window."""
        parent = dentry.parent
        run = self._runs.get(parent)
        last = self._last.pop(parent, None)
        if run is None or not run.advance(dentry, self._most):
            self._end(parent)
            run = self._begin(last, dentry) if last is not None and last.id != dentry.id else None
            if run is not None:
                self._runs[parent] = run
        self._last[parent] = dentry
        if len(self._last) > _DIRECTORIES:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._end(oldest)
        if run is not None:
            run.look_ahead()
        return run

    def _end(self, parent: int) -> None:
        if self._runs.pop(parent, None) is not None:
            self._ended(parent)

    def _begin(self, last: Dentry, dentry: Dentry) -> Run | None:
        """The run in which one entry follows the other, by either order."""
        for by_name in (True, False):
            run = Run(self._index, last, self._counts, self._first, by_name=by_name)
            run.fill(self._look)
            if run.advance(dentry, self._most):
                return run
        return None
