"""What there is to know about a key before it is sent."""

from __future__ import annotations

import re
from enum import StrEnum

from mountstore.errors import InvalidKey

MAX_KEY_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Shape(StrEnum):
    """Kinds of keys that some servers cannot hold, or silently take for another key."""

    EMPTY_SEGMENT = "an empty segment (// or a slash at the start)"
    DOT_SEGMENT = "a segment that is . or .."
    NUL = "a NUL character"
    UNLISTABLE = "a character that XML cannot carry"
    NEWLINE = "a line break"
    LONG_SEGMENT = "a segment over 255 bytes"


def check_key(key: str, whole: str) -> None:
    """Raise InvalidKey for what no S3 server holds; `whole` is the key with the store's prefix."""
    if not key:
        raise InvalidKey("the empty string is no key", key=key)
    try:
        length = len(whole.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"{key!r} holds a lone surrogate, which is no character", key=key) from None
    if length > MAX_KEY_BYTES:
        raise InvalidKey(f"a key of {length} bytes is too long: S3 allows {MAX_KEY_BYTES}", key=key)


def shapes(whole: str) -> set[Shape]:
    """In which ways a whole key is out of the ordinary."""
    found: set[Shape] = set()
    if whole.startswith("/") or "//" in whole:
        found.add(Shape.EMPTY_SEGMENT)
    if "." in whole and not {".", ".."}.isdisjoint(whole.split("/")):
        found.add(Shape.DOT_SEGMENT)
    if "\x00" in whole:
        found.add(Shape.NUL)
    if "\n" in whole or "\r" in whole:
        found.add(Shape.NEWLINE)
    plain = whole.isascii() and not _CONTROL.search(whole)
    if not plain and NOT_XML.search(whole.replace("\x00", "")):
        found.add(Shape.UNLISTABLE)
    if len(whole) > 63 and any(len(segment.encode()) > 255 for segment in whole.split("/")):
        found.add(Shape.LONG_SEGMENT)
    return found


def exact_in_obstore(whole: str) -> bool:
    """Whether obstore sends this key as it is: tried character by character."""
    return not (
        whole.endswith("/")
        or whole.startswith("/")
        or "//" in whole
        or _CONTROL.search(whole)
        or ("." in whole and not {".", ".."}.isdisjoint(whole.split("/")))
    )
