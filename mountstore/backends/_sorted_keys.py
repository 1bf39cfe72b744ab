"""Pages of a listing, cut from keys in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from mountstore.backends._arguments import successor


def page_of(
    keys: Sequence[str], prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[str], list[str], str | None]:
    """(keys, groups, where the next page starts after, or None) as `ObjectStore.list` tells them."""
    beyond = successor(prefix)
    position = max(bisect_left(keys, prefix), bisect_right(keys, after))
    stop = len(keys) if beyond is None else bisect_left(keys, beyond)
    if not delimiter:
        names = list(keys[position : max(position, min(stop, position + limit))])
        return names, [], names[-1] if names and position + limit < stop else None
    names = []
    groups: list[str] = []
    last = after
    while position < stop and len(names) + len(groups) < limit:
        key = keys[position]
        at = key.find(delimiter, len(prefix))
        if at < 0:
            last = key
            names.append(key)
            position += 1
            continue
        group = key[: at + len(delimiter)]
        if group > after:
            last = group
            groups.append(group)
        following = successor(group)
        position = stop if following is None else bisect_left(keys, following, position, stop)
    return names, groups, last if position < stop else None
