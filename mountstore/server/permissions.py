"""Permission sets by name, or as JSON: `{"": "lr", "locks": "lrwD"}`, a path and its letters.

The letters are those of `mountstore.stores.permissions`. The sets whose names begin with `borgbackup-` are
what that program needs, as the original has them; the others are for any use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mountstore.errors import UsageError
from mountstore.stores.permissions import LETTERS

SETS: Mapping[str, Mapping[str, str] | None] = {
    "all": None,
    "no-delete": {"": "lrw"},  # append-only: nothing is overwritten, moved or deleted
    "write-only": {"": "lw"},
    "read-only": {"": "lr"},
    "borgbackup-all": None,
    "borgbackup-no-delete": {
        "": "lr",
        "archives": "lrw",
        "cache": "lrwWD",
        "config": "lrW",
        "data": "lrw",
        "keys": "lr",
        "locks": "lrwD",
    },
    "borgbackup-write-only": {
        "": "l",
        "archives": "lw",
        "cache": "lrwWD",
        "config": "lrW",
        "data": "lw",
        "keys": "lr",
        "locks": "lrwD",
    },
    "borgbackup-read-only": {"": "lr", "locks": "lrwD"},
}


def read_permissions(text: str) -> Mapping[str, str] | None:
    """What a name or JSON permits; None for everything. Raises UsageError."""
    if text in SETS:
        return SETS[text]
    known = ", ".join(SETS)
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"no permissions are called {text!r}; known are {known}, and JSON") from None
    if not isinstance(given, dict) or not all(isinstance(letters, str) for letters in given.values()):
        raise UsageError('permissions in JSON are an object of paths and letters: {"": "lr", "data": "lrw"}')
    for path, letters in given.items():
        if unknown := set(letters) - LETTERS:
            raise UsageError(
                f"{path!r}: no permission has the letter {min(unknown)!r}; there are l, r, w, W, D"
            )
    return given
