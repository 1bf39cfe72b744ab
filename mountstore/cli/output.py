"""What commands show: names made harmless for terminals, times, JSON lines, progress bars."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping

Advance = Callable[[int], None]
"""Tells a progress bar how many bytes are done in all."""

# Cc control, Cf format (they can reorder a line), Cs surrogate, Zl and Zp line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def escape(text: str) -> str:
    r"""`text` with every character that could steer a terminal written as \xNN, \uNNNN or \UNNNNNNNN."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_unsafe(char) else char for char in text)


def _is_unsafe(char: str) -> bool:
    return unicodedata.category(char) in _UNSAFE


def name_for(stream_is_terminal: bool, name: str) -> str:
    """A key as it is printed: escaped on a terminal (backslashes too), as it is into a pipe."""
    return escape(name.replace("\\", "\\\\")) if stream_is_terminal and not name.isprintable() else name


def local_time(mtime_ns: int) -> str:
    """`2026-01-31 23:59:59`, in the local time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mtime_ns // 1_000_000_000))


def utc_time(mtime_ns: int) -> str:
    """RFC 3339 with nanoseconds: `2026-01-31T22:59:59.123456789Z`."""
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09}Z"


def json_line(value: Mapping[str, object]) -> str:
    """One line of plain ASCII."""
    return json.dumps(value).replace("\x7f", "\\u007f")


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """A progress bar of `total` bytes on stderr; nothing at all where that is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.markup import escape as escape_markup
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape_markup(escape(label)), total=total)
        yield lambda done: bar.update(task, completed=done)
