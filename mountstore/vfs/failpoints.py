"""Named places at which a test has the daemon die; the table in reconcile.py says what each leaves behind.

`MOUNTSTORE_FAILPOINT=NAME` or `NAME:COUNT` in the environment makes the process send itself SIGKILL when it
comes to that place for the first or for the COUNT-th time. Without it a failpoint is one comparison.
"""

from __future__ import annotations

import os
import signal
import sys

NAMES = frozenset(
    {
        "index-created",
        "create-recorded",
        "write-staged",
        "commit-begins",
        "commit-done",
        "truncate-recorded",
        "sync-data-done",
        "localise-fetched",
        "merge-copied",
        "merge-recorded",
        "put-intended",
        "put-landed",
        "put-recorded",
        "copy-intended",
        "copy-landed",
        "marker-intended",
        "marker-landed",
        "rename-recorded",
        "unlink-recorded",
        "rmdir-recorded",
        "purge-recorded",
        "move-begins",
        "move-visited",
        "conflict-found",
        "conflict-recorded",
        "delete-begins",
        "delete-landed",
        "recover-begins",
        "recover-found",
        "start-recovered",
        "migrate-copied",
        "migrate-recorded",
    }
)
VARIABLE = "MOUNTSTORE_FAILPOINT"

_armed: str | None = None
_left = 0


def _arm(text: str) -> None:
    global _armed, _left
    name, _, count = text.partition(":")
    if name not in NAMES or not (count or "1").isdecimal():
        sys.exit(f"{VARIABLE}={text}: not NAME or NAME:COUNT with a NAME of {', '.join(sorted(NAMES))}")
    _armed, _left = name, int(count or "1")


def failpoint(name: str) -> None:
    """Die here if this is the place; for the thread of the event loop alone."""
    if name == _armed:
        _hit()


def _hit() -> None:
    global _left
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


if _text := os.environ.get(VARIABLE):
    _arm(_text)
