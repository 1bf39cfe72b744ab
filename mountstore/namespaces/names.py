"""Which names items may have, and where they lie below them: nesting and the suffix of soft deletion.

An item `ns/abcdef` with two levels lies at `ns/ab/cd/abcdef`; a name that is too short for its levels leaves
the missing ones out (`ns/a/a`), as the original's does on a file system. What is soft deleted has the suffix
`.del` there.
"""

from __future__ import annotations

import re

from mountstore.errors import InvalidName

ROOT = ""
DELETED = ".del"
TEMPORARY = ".tmp"
HIDDEN = ".hid"
MAX_NAME_LENGTH = 100
LEVEL_WIDTH = 2

_BLANK = re.compile(r"[\x00-\x20\x7f]")


def check_name(name: str, *, root: bool = False) -> str:
    """`name` itself, if a backend may hold an item or a folder of it; `root` allows the empty name too.

    Raises InvalidName.
    """
    if not name and not root:
        raise InvalidName("a name is missing: write namespace/item", key=name)
    broken = None
    if not name.isascii():
        broken = "names are ASCII"
    elif len(name) > MAX_NAME_LENGTH:
        broken = f"names have at most {MAX_NAME_LENGTH} characters, and this one {len(name)}"
    elif ".." in name or any(part == "." for part in name.split("/")):
        broken = "names hold no '..', and '.' is no part of one"
    elif name.startswith("/") or name.endswith("/"):
        broken = "names neither begin nor end with a slash"
    elif "\\" in name or _BLANK.search(name):
        broken = "names hold no backslash, blank or control character"
    elif name != name.lower():
        broken = "names are lower case"
    elif name.endswith((TEMPORARY, HIDDEN)):
        broken = f"the suffixes {TEMPORARY} and {HIDDEN} are reserved"
    if broken is not None:
        raise InvalidName(f"{name!r}: {broken}", key=name)
    return name


def check_item(name: str) -> str:
    """`name` itself, if an item may be called so. Raises InvalidName."""
    check_name(name)
    if "//" in name:
        raise InvalidName(f"{name!r}: names hold no doubled slash", key=name)
    if name.endswith(DELETED):
        raise InvalidName(f"{name!r}: the suffix {DELETED} is what soft deletion adds", key=name)
    return name


def last_part(name: str) -> str:
    """The item's own name, without its namespace and nesting."""
    return name.rpartition("/")[2]


def is_listed(part: str) -> bool:
    """Whether a listing shows what is called so: not what is unfinished, nor what belongs to the store."""
    return bool(part) and not part.endswith((TEMPORARY, HIDDEN))


def nest(name: str, levels: int) -> str:
    """Where `name` lies with so many levels of nesting."""
    namespace, slash, item = name.rpartition("/")
    parts = [
        item[at : at + LEVEL_WIDTH] for at in range(0, min(levels * LEVEL_WIDTH, len(item)), LEVEL_WIDTH)
    ]
    return namespace + slash + "/".join([*parts, item])


def under(namespace: str, item: str) -> str:
    """The name of an item in a namespace, which may be the root."""
    return f"{namespace}/{item}" if namespace else item
