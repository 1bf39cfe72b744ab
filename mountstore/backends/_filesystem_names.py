"""Keys and file names, each from the other; the scheme is told in `mountstore.backends.filesystem`."""

from __future__ import annotations

import os
import re

RESERVED = ".mountstore~"
PRIVATE = RESERVED + "tmp"
BESIDE = RESERVED + "f"
ESCAPED = RESERVED + "e"
LONG = RESERVED + "l"
_RAW = RESERVED + "b"

NAME_BYTES = 255
_PIECE_BYTES = 200

_UNUSUAL = re.compile(r"(?:^|/)(?:\.{0,2}(?:/|$)|\.mountstore~)|\x00")
_ESCAPE = re.compile(r"[%\x00]")
_UNESCAPE = re.compile(r"%([0-9A-F]{2})")


def names_of(key: str, size: int) -> tuple[str, ...]:
    """The names of the folders and of the file, from the root on, for a key of `size` bytes in UTF-8."""
    if size <= NAME_BYTES:
        # What the pattern finds, these find too, several times as fast.
        if key[:1] not in "./" and "\0" not in key:
            if "/" not in key:
                return (key,)
            if "/." not in key and "//" not in key and key[-1] != "/":
                return tuple(key.split("/"))
        if _UNUSUAL.search(key) is None:
            return tuple(key.split("/"))
    return tuple(name for segment in key.split("/") for name in _segment_names(segment))


def _segment_names(segment: str) -> list[str]:
    """The names, one inside the other, that stand for one segment of a key."""
    if _UNUSUAL.search(segment) is None and len(segment.encode()) <= NAME_BYTES:
        return [segment]
    if segment.startswith(_RAW):
        raw = re.sub(
            rb"%([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), segment[len(_RAW) :].encode()
        )
        if len(raw) <= NAME_BYTES and segment_of_raw(raw) == segment:
            return [os.fsdecode(raw)]
    if segment in (".", ".."):
        return [ESCAPED + "%2E" * len(segment)]
    rest = _ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", segment).encode()
    names = []
    while len(rest) > _PIECE_BYTES:
        end = _PIECE_BYTES
        while rest[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        names.append(LONG + rest[:end].decode())
        rest = rest[end:]
    return [*names, ESCAPED + rest.decode()]


def segment_of_escaped(names: tuple[str, ...]) -> str | None:
    """The segment that escaped names stand for; None if no segment gives these names."""
    text = "".join(name[len(RESERVED) + 1 :] for name in names)
    segment = _UNESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    return segment if tuple(_segment_names(segment)) == names else None


def segment_of_raw(raw: bytes) -> str | None:
    """The segment for a file name that is not UTF-8; None if it is UTF-8, and its own segment."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="surrogateescape").replace("%", "%25")
        return _RAW + re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)
    return None
