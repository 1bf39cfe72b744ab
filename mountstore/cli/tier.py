"""warm, pin, unpin, cache: what of a mount is kept on the local disk."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from mountstore.cli.output import escape
from mountstore.cli.waiting import size
from mountstore.daemon.control import Connection, reach, running
from mountstore.daemon.mounttab import FSTYPE, mount_at, resolve
from mountstore.errors import MountError, UsageError


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def warm(paths: tuple[str, ...]) -> None:
    """Bring files, and all files below directories, of a mount into its cache on the local disk.

    Memory stays bounded. What is more than the cache holds pushes out what came first: see --cache-size of
    mount.
    """
    for mountpoint, inner in _by_mount(paths).items():
        _warm(mountpoint, inner, "warm")


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option("--list", "is_list", is_flag=True, help="Tell what is pinned in these mounts, or in all.")
def pin(paths: tuple[str, ...], is_list: bool) -> None:
    """Keep files or directories of a mount in its cache on the local disk, and bring them there.

    They stay until `mountstore unpin`, also after a new mount; so does what is written below a pinned
    directory from now on. What others change comes when it is read. A pin is of a path: after a rename,
    pin the new one.
    """
    if is_list:
        _list(paths)
    elif not paths:
        raise UsageError("what is to be pinned? mountstore pin PATH..., or mountstore pin --list")
    else:
        for mountpoint, inner in _by_mount(paths).items():
            _warm(mountpoint, inner, "pin")


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
def unpin(paths: tuple[str, ...]) -> None:
    """Let what was pinned go like all else, when the cache needs the room."""
    for mountpoint, inner in _by_mount(paths).items():
        with _reached(mountpoint) as connection:
            list(connection.ask("unpin", paths=inner))


@click.group()
def cache() -> None:
    """The cache of a mount on the local disk."""


@cache.command()
@click.argument("mountpoint")
def clear(mountpoint: str) -> None:
    """Empty it. Nothing is lost: what is read next comes from the store."""
    with _reached(resolve(mountpoint)) as connection:
        list(connection.ask("clear-cache"))


def _warm(mountpoint: str, paths: list[str], command: str) -> None:
    told: dict[str, Any] = {}
    with _reached(mountpoint) as connection, _display() as show:
        for _, told in connection.ask(command, paths=paths):
            show(told)
    line = f"{told['done_files']} files, {size(told['done_bytes'])} in the cache"
    if told["pending_files"]:
        line += f"; not in the store yet, so in the journal: {told['pending_files']}"
    click.echo(line, err=True)
    if told["failed_files"]:
        raise MountError(f"{told['failed_files']} files changed meanwhile; once more brings them")


def _list(paths: tuple[str, ...]) -> None:
    mountpoints = list(_by_mount(paths)) if paths else _alive()
    for mountpoint in mountpoints:
        with _reached(mountpoint) as connection:
            *_, (_, told) = connection.ask("pins")
            for one in told["pins"]:
                click.echo(f"{escape(os.path.join(mountpoint, one['path']))}  {size(one['size_bytes'])}")


def _alive() -> list[str]:
    found = []
    for record, connection in running():
        if connection is not None:
            connection.close()
            found.append(record.mountpoint)
    return found


def _by_mount(paths: tuple[str, ...]) -> dict[str, list[str]]:
    """The paths below each mount point."""
    found: dict[str, list[str]] = {}
    for path in paths:
        mountpoint, inner = _split(path)
        found.setdefault(mountpoint, []).append(inner)
    return found


def _split(path: str) -> tuple[str, str]:
    for whole in (os.path.abspath(path), os.path.realpath(path)):
        above = whole
        while True:
            entry = mount_at(above)
            if entry is not None and entry.fstype == FSTYPE:
                return above, os.path.relpath(whole, above) if whole != above else ""
            if above == "/":
                break
            above = os.path.dirname(above)
    raise UsageError(f"{path} is not in a mount of mountstore (mountstore status lists them)")


@contextlib.contextmanager
def _reached(mountpoint: str) -> Iterator[Connection]:
    connection = reach(mountpoint)
    if connection is None:
        raise MountError(f"{mountpoint}: no daemon answers (mountstore status lists what is mounted)")
    with connection:
        yield connection


@contextlib.contextmanager
def _display() -> Iterator[Callable[[dict[str, Any]], None]]:
    if not sys.stderr.isatty():
        yield lambda told: None
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
        task = bar.add_task("looking", total=None)

        def show(told: dict[str, Any]) -> None:
            if told:
                label = f"{told['done_files']} of {told['files']} files"
                bar.update(task, description=label, completed=told["done_bytes"], total=told["bytes"])

        yield show
