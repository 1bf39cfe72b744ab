"""Listings of several sources made one, in key order, without holding more of it than a page a source."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

from mountstore.store import ObjectInfo, Page

Entry = tuple[str, ObjectInfo | None]
"""A name in a listing: an object, or a group (None)."""


def entries_of(pages: Iterable[Page]) -> Iterator[Entry]:
    """What pages hold, in key order, objects and groups in one sequence."""
    for page in pages:
        objects: Iterator[Entry] = ((info.key, info) for info in page.objects)
        groups: Iterator[Entry] = ((name, None) for name in page.prefixes)
        yield from heapq.merge(objects, groups, key=_name) if page.prefixes else objects


def merged(sources: Iterable[Iterator[Entry]]) -> Iterator[Entry]:
    """Sorted sources as one sorted sequence; of entries of one name, the first source's alone."""
    last: str | None = None
    # heapq.merge is stable: among equals, the earlier source comes first.
    for entry in heapq.merge(*sources, key=_name):
        if entry[0] != last:
            last = entry[0]
            yield entry


def grouped(infos: Iterable[ObjectInfo], prefix: str, delimiter: str, after: str) -> Iterator[Entry]:
    """The entries that a listing makes of objects that begin with `prefix`, in the order in which they come.

    A group may come several times where the objects are not in key order.
    """
    for info in infos:
        at = info.key.find(delimiter, len(prefix)) if delimiter else -1
        entry: Entry = (info.key, info) if at < 0 else (info.key[: at + len(delimiter)], None)
        if entry[0] > after:
            yield entry


def smallest(entries: Iterable[Entry], count: int) -> Iterator[Entry]:
    """The first `count` names of unsorted entries, sorted; no more than twice as many are held."""
    held: dict[str, ObjectInfo | None] = {}
    bound: str | None = None
    for name, info in entries:
        if bound is not None and name > bound:
            continue
        held[name] = info
        if len(held) >= 2 * count + 64:
            names = heapq.nsmallest(count, held)
            held = {name: held[name] for name in names}
            bound = names[-1]
    return iter([(name, held[name]) for name in heapq.nsmallest(count, held)])


def page_of(entries: Iterator[Entry], limit: int) -> Page:
    """One page, of the next `limit` entries."""
    taken = [*islice(entries, limit + 1)]
    more, taken = len(taken) > limit, taken[:limit]
    return Page(
        [info for _, info in taken if info is not None],
        [name for name, info in taken if info is None],
        taken[-1][0] if more else None,
    )


def pages_of(entries: Iterator[Entry], limit: int) -> Iterator[Page]:
    """All pages; entries are taken when they are needed."""
    ahead: list[Entry] = [*islice(entries, 1)]
    while True:
        taken = [*ahead, *islice(entries, limit - len(ahead))]
        ahead = [*islice(entries, 1)] if len(taken) == limit else []
        yield Page(
            [info for _, info in taken if info is not None],
            [name for name, info in taken if info is None],
            taken[-1][0] if ahead else None,
        )
        if not ahead:
            return


def _name(entry: Entry) -> str:
    return entry[0]
