"""Waiting for a daemon, and telling how things stand with it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from mountstore.cli.output import escape, local_time
from mountstore.daemon.control import Connection, StatusDict

STALL_S = 30.0
_LINE_EVERY_S = 5.0
_NAMED = 20

Show = Callable[[StatusDict], None]


class GivenUp(Exception):
    """The store does not have everything, and it did not look as if waiting longer would help."""

    def __init__(self, status: StatusDict) -> None:
        super().__init__("given up")
        self.status = status


def wait_for(connection: Connection, command: str, timeout_s: float | None) -> StatusDict:
    """Ask for `sync` or `umount`, show what happens on stderr, and return the status at its end.

    Raises GivenUp after `timeout_s`; without one, after 30 s in which nothing has come further.
    """
    started = moved = time.monotonic()
    before: object = None
    with _display() as show:
        for done, status in connection.ask(command):
            if done:
                return status
            show(status)
            now = time.monotonic()
            names = ("phase", "uploaded_count", "uploaded_bytes", "pending_count")
            mark = [status[name] for name in names]
            if mark != before or _is_busy(status):
                before, moved = mark, now
            if now - started > timeout_s if timeout_s is not None else now - moved > STALL_S:
                raise GivenUp(status)
    raise AssertionError("an answer without an end")


def _is_busy(status: StatusDict) -> bool:
    """Whether something is under way that has not failed yet: a large file may take its time."""
    pending = status["pending"]
    return any(p["state"] == "uploading" for p in pending) and not any(p["error"] for p in pending)


@contextlib.contextmanager
def _display() -> Iterator[Show]:
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None)
        first: list[int] = []

        def show(status: StatusDict) -> None:
            first[:] = first or [status["uploaded_bytes"]]
            done = status["uploaded_bytes"] - first[0]
            bar.update(task, description=_to_go(status), completed=done, total=done + status["pending_bytes"])

        yield show


class _Lines:
    """For a log or a pipe: a line when something new is done, and then now and again."""

    def __init__(self) -> None:
        self._said = ""
        self._at = 0.0
        self._phase = ""

    def show(self, status: StatusDict) -> None:
        line, now = _to_go(status), time.monotonic()
        if not status["pending_count"] or line == self._said:
            return
        if status["phase"] == self._phase and now - self._at < _LINE_EVERY_S:
            return
        self._said, self._at, self._phase = line, now, status["phase"]
        click.echo(line, err=True)


def _to_go(status: StatusDict) -> str:
    count = status["pending_count"]
    if not count:
        return f"{status['phase']}"
    line = f"{_changes(count)} to go ({size(status['pending_bytes'])})"
    errors = [pending["error"] for pending in status["pending"] if pending["error"]]
    return f"{line}; {escape(' '.join(errors[0].split()))}" if errors else line


def not_in_store(status: StatusDict) -> str:
    """What the store does not have, why, and where it is instead; one line a name goes to stderr."""
    for line in pending_lines(status):
        click.echo(line, err=True)
    return (
        f"{_changes(status['pending_count'])} ({size(status['pending_bytes'])}) not in the store but in the"
        f" journal in {escape(status['state_dir'])}"
    )


def pending_lines(status: StatusDict) -> list[str]:
    """A line for each of the oldest pending changes."""
    lines = []
    for pending in status["pending"][:_NAMED]:
        age = duration((status["now_ns"] - pending["since_ns"]) / 1e9)
        why = pending["state"]
        if pending["error"]:
            tries = f", {pending['attempts']} attempts" if pending["attempts"] > 1 else ""
            why = f"{escape(' '.join(pending['error'].split()))}{tries}"
        weight = f" {size(pending['bytes'])}" if pending["bytes"] else ""
        lines.append(f"  {pending['what']} {escape(pending['path'])}{weight}, since {age}: {why}")
    if (more := status["pending_count"] - len(lines)) > 0:
        lines.append(f"  and {more} more")
    return lines


def loss_lines(status: StatusDict) -> list[str]:
    """A line for each file of which a loss of power took something, the latest last."""
    lines = []
    for loss in status["lost"][-_NAMED:]:
        left = "only what the store had" if loss["bytes_left"] is None else size(loss["bytes_left"])
        when = local_time(loss["time_ns"])
        lines.append(f"lost with the power, found {when}: {escape(loss['path'])}, what is left: {left}")
    if (more := len(status["lost"]) - len(lines)) > 0:
        lines.append(f"and {more} more, named in the log")
    return lines


def describe(status: StatusDict) -> str:
    """A mount, for people. Names in it are harmless for a terminal."""
    head = f"{escape(status['url'])} on {escape(status['mountpoint'])}"
    if status["phase"] == "dead":
        return f"{head}: the daemon (pid {status['pid']}) has died; mount it again to go on"
    since = local_time(status["started_ns"])
    lines = [f"{head}: {status['phase']}, pid {status['pid']}, since {since}"]
    if status["pending_count"]:
        lines.append(f"  pending: {_changes(status['pending_count'])}, {size(status['pending_bytes'])}")
        lines += [f"  {line}" for line in pending_lines(status)]
    else:
        lines.append("  the store has everything")
    lines += [f"  conflict copy: {escape(path)}" for path in status["conflicts"][:_NAMED]]
    lines += [f"  {line}" for line in loss_lines(status)]
    lines.append(
        f"  open files: {status['open_files']}; staged: {size(status['staged_bytes'])};"
        f" uploaded: {status['uploaded_count']} ({size(status['uploaded_bytes'])})"
    )
    if status["requests"]:
        counted = ", ".join(f"{kind} {count}" for kind, count in sorted(status["requests"].items()))
        lines.append(f"  requests: {counted}")
    if cache := status.get("cache"):
        asked = cache["hits"] + cache["misses"]
        share = f", {100 * cache['hits'] // asked} % of {asked} blocks" if asked else ""
        pinned = f", {size(cache['pinned_bytes'])} pinned" if cache["pinned_bytes"] else ""
        lines.append(
            f"  cache: {size(cache['used_bytes'])} of {size(cache['capacity_bytes'])}{pinned};"
            f" hits: {cache['hits']} ({size(cache['hit_bytes'])}){share}; errors: {cache['errors']}"
        )
    if status["last_error"]:
        lines.append(f"  last error: {escape(' '.join(status['last_error'].split()))}")
    lines.append(f"  state and log: {escape(status['state_dir'])}")
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes, for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span, for people."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _changes(count: int) -> str:
    return f"{count} change" if count == 1 else f"{count} changes"


def describe_file(status: StatusDict) -> str:
    """The state of one file, for people."""
    lines = [f"{escape(status['path'])}: {status['state']}"]
    lines.append(f"  object   {escape(status['key'])}")
    if status["etag"] is not None:
        lines.append(f"  etag     {escape(status['etag'])}")
    lines.append(f"  size     {status['size']} B, {status['cached_bytes']} B of it on this machine")
    if status["versions"]:
        lines.append(f"  versions {' '.join(map(escape, status['versions']))}")
    if status["error"]:
        lines.append(f"  error    {escape(status['error'])}")
    return "\n".join(lines)
