"""Where a name belongs in a store whose keys have limits.

Nearly always a name's place is its path. Where that would be longer than the store allows, it has another
place, which a listing tells again:

    a name whose segment is too long     stands shortened, `xxx…%(name-HASH)`, and whole in the metadata of
                                         its object (`mountstore-name`)
    a directory whose path is too long   has its marker at its own place under `name%(deep-ID)/`, and its
                                         members under `%(deep)/ID/` at the root of the store

So no path is too long, whatever stands above it may be renamed without touching what is deep down, and all
of it can be found from the root by listing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mountstore.vfs.names import NAME_MAX, name_of_segment, segment_of_name
from mountstore.vfs.rows import Dentry

DEEP = "%(deep)/"
"""The prefix below which the members of directories stand whose path is too long."""
NAME_KEY = "mountstore-name"
DEEP_KEY = "mountstore-deep"

_DEEP = re.compile(r"%\(deep-([0-9a-f]{16})\)\Z")
_SHORT = re.compile(r"%\(name-[0-9a-f]{16}\)\Z")
DEEP_SUFFIX_BYTES = 24
_SHORT_BYTES = 24
_RESERVE = 300  # what a prefix leaves for the names in it
_LEAST = _SHORT_BYTES + DEEP_SUFFIX_BYTES + 1


def segment_of(dentry: Dentry) -> str:
    """The key segment of a name."""
    return segment_of_name(dentry.name) if dentry.segment is None else dentry.segment


def deep_id(dentry: Dentry) -> str | None:
    """The number of a directory whose members are elsewhere."""
    if dentry.segment is None:
        return None
    found = _DEEP.search(dentry.segment)
    return found[1] if found else None


def without_deep(dentry: Dentry) -> Dentry:
    """The name as if its directory had its members below it."""
    if deep_id(dentry) is None or dentry.segment is None:
        return dentry
    return replace(dentry, segment=dentry.segment[:-DEEP_SUFFIX_BYTES])


def prefix_below(prefix: str, dentry: Dentry) -> str:
    """Where the members of a directory belong whose own name belongs under `prefix`."""
    number = deep_id(dentry)
    return f"{prefix}{segment_of(dentry)}/" if number is None else f"{DEEP}{number}/"


def deep_suffix(key: str) -> str | None:
    """The end of the segment whose directory has the members under this key; None for other keys."""
    found = re.match(r"%\(deep\)/([0-9a-f]{16})/", key)
    return f"%(deep-{found[1]})" if found else None


def is_deep_prefix(prefix: str) -> bool:
    """Whether this is the place of one directory's members."""
    return re.fullmatch(r"%\(deep\)/[0-9a-f]{16}/", prefix) is not None


def may_tell_name(segment: str) -> bool:
    """Whether the metadata of what has this segment may tell more of its name than the segment does."""
    return "%(" in segment


def forwards(segment: str) -> bool:
    """Whether a directory marker of this segment may tell that the members are elsewhere."""
    return _DEEP.search(segment) is not None


def stored_place(segment: str, metadata: Mapping[str, str] | None) -> tuple[bytes | None, bool]:
    """(the name that an object's metadata tells or None, whether a directory's members are elsewhere).

    What does not belong to this segment (a tool has copied the object elsewhere) counts as not told.
    """
    metadata = metadata or {}
    found = _DEEP.search(segment)
    is_deep = found is not None and metadata.get(DEEP_KEY) == found[1]
    base = segment[:-DEEP_SUFFIX_BYTES] if is_deep else segment
    name = unquote_to_bytes(metadata[NAME_KEY]) if NAME_KEY in metadata else None
    if name is not None and not _fits(base, name):
        name = None
    if name is None and is_deep:
        name = name_of_segment(base)
    return name, is_deep


def _fits(base: str, name: bytes) -> bool:
    if not 0 < len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        return False
    return base == _literal(name) or (_SHORT.search(base) is not None and base.endswith(_mark(name)))


def metadata_of_place(dentry: Dentry) -> dict[str, str]:
    """What the metadata of an object has to tell of its name, because its key does not."""
    if dentry.segment is None:
        return {}
    metadata = {}
    base = dentry.segment
    if (number := deep_id(dentry)) is not None:
        metadata[DEEP_KEY] = number
        base = base[:-DEEP_SUFFIX_BYTES]
    if name_of_segment(base) != dentry.name and _fits(base, dentry.name):
        metadata[NAME_KEY] = quote_from_bytes(dentry.name, safe="")
    return metadata


def _literal(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _mark(name: bytes) -> str:
    return f"%(name-{hashlib.sha256(name).hexdigest()[:16]})"


def _shortened(name: bytes, room: int) -> str:
    if room < _SHORT_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    text = _literal(name).replace("%(", "%_").replace("\0", "_")
    return text.encode()[: room - _SHORT_BYTES].decode(errors="ignore") + _mark(name)


@dataclass(frozen=True, slots=True)
class Places:
    """The limits of one store's keys; None where there is none."""

    max_key_bytes: int | None = None
    max_segment_bytes: int | None = None

    def fits(self, key: str) -> bool:
        """Whether the store can hold this key, as far as its length goes."""
        return self.max_key_bytes is None or len(key.encode()) <= self.max_key_bytes

    def is_plain(self, prefix: str, name: bytes) -> bool:
        """Whether this name has, or would have, its plain place, be it a file's or a directory's."""
        try:
            return self.segment(prefix, name, is_dir=True) is None
        except OSError:
            return False

    def segment(self, prefix: str, name: bytes, *, is_dir: bool, old: Dentry | None = None) -> str | None:
        """The segment to remember with a name in a directory, None if the name alone tells it.

        `old` is the name that the same node had. Raises ENAMETOOLONG where not even a short one fits.
        """
        segment = segment_of_name(name)
        explicit = None
        if old is not None and old.name == name and old.segment is not None:
            segment = old.segment[:-DEEP_SUFFIX_BYTES] if deep_id(old) else old.segment
            if not _SHORT.search(segment):
                explicit = segment
            else:
                segment = segment_of_name(name)
        if explicit is None and name_of_segment(segment) != name:
            # Looks like an escape that no key has: the name is taken literally.
            segment = explicit = _literal(name)
        room = self._room(prefix, is_dir=is_dir)
        if room is not None and len(segment.encode()) > room:
            segment = explicit = _shortened(name, room)
        if is_dir and self.max_key_bytes is not None:
            reserve = max(_LEAST, min(_RESERVE, self.max_key_bytes // 3))
            if len(prefix.encode()) + len(segment.encode()) + 1 > self.max_key_bytes - reserve:
                assert room is not None
                if len(segment.encode()) > room - DEEP_SUFFIX_BYTES:
                    segment = _shortened(name, room - DEEP_SUFFIX_BYTES)
                number = (deep_id(old) if old is not None else None) or secrets.token_hex(8)
                return f"{segment}%(deep-{number})"
        return None if explicit is None or explicit == segment_of_name(name) else explicit

    def _room(self, prefix: str, *, is_dir: bool) -> int | None:
        room = self.max_segment_bytes
        if self.max_key_bytes is not None:
            left = self.max_key_bytes - len(prefix.encode()) - is_dir
            room = left if room is None else min(room, left)
        return room
