"""Where a daemon says what it does: a file that stays small, or stderr in the foreground."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

from mountstore.errors import MountError

_MAX_BYTES = 4 << 20
_KEPT = 2
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def printable(text: str) -> str:
    """`text` with what a terminal or a log would obey, or cannot show, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


class _LogFile(logging.handlers.RotatingFileHandler):
    """Takes stderr along when it rotates, so that what C libraries write is bounded too."""

    def doRollover(self) -> None:
        super().doRollover()
        self.take_stderr()

    def take_stderr(self) -> None:
        if self.stream is not None:
            os.dup2(self.stream.fileno(), 2)


def log_to_file(path: Path, level: str) -> None:
    """Log into `path`, with at most two older files beside it; stderr goes there too.

    Raises MountError if it cannot be written.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
        handler = _LogFile(path, maxBytes=_MAX_BYTES, backupCount=_KEPT, errors="backslashreplace")
    except OSError as error:
        raise MountError(f"cannot write the log {path}: {error.strerror}") from None
    _install(handler, level)
    sys.stderr.flush()
    handler.take_stderr()


def log_to_stderr(level: str) -> None:
    """Log to the terminal, or to whoever supervises a mount in the foreground."""
    _install(logging.StreamHandler(), level)


def _install(handler: logging.Handler, level: str) -> None:
    handler.setFormatter(_Formatter(_FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("mountstore").setLevel(level)
