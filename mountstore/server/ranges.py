"""The header `Range`, as the protocol's clients write it.

`bytes=a-b`, `bytes=a-` and `bytes=-n` are as in RFC 9110. The original's client asks for nothing by an end
before the start (`bytes=0--1`), and for a window that begins before the item by a negative start
(`bytes=-7-2`, where RFC 9110 knows no such thing): both mean what they say. Anything else is no range, and
the whole item is the answer, as RFC 9110 has it.
"""

from __future__ import annotations

import re

_WINDOW = re.compile(rb"bytes=(-?[0-9]{1,19})-(-?[0-9]{1,19})", re.IGNORECASE)
_REST = re.compile(rb"bytes=([0-9]{1,19})-", re.IGNORECASE)
_TAIL = re.compile(rb"bytes=-([0-9]{1,19})", re.IGNORECASE)


def parse_range(header: bytes | None) -> tuple[int, int | None] | None:
    """(offset, size): a negative offset counts from the end, a size of None is the rest. None: no range."""
    if header is None:
        return None
    header = header.strip()
    if found := _REST.fullmatch(header):
        return int(found[1]), None
    if found := _TAIL.fullmatch(header):
        # Nothing at the end; an offset of -0 would be all.
        return (-int(found[1]), None) if int(found[1]) else (0, 0)
    if found := _WINDOW.fullmatch(header):
        start, last = int(found[1]), int(found[2])
        return max(0, start), max(0, last + 1 - start)
    return None


def content_range(start: int, size: int, total: int | None) -> tuple[tuple[str, str], ...]:
    """The header that tells which bytes these are; none for no bytes."""
    if not size:
        return ()
    return (("Content-Range", f"bytes {start}-{start + size - 1}/{'*' if total is None else total}"),)
