"""cp, mirror: objects from store to store."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

from mountstore.cli.objects import EXAMPLES, open_place
from mountstore.cli.output import escape, name_for, progress
from mountstore.cli.waiting import size
from mountstore.errors import MountstoreError, NotFound, UsageError
from mountstore.registry import canonical, local_path, open_store, redact, split_key
from mountstore.store import ObjectStore
from mountstore.stores import FanoutStore, WrapperStore
from mountstore.transfer import COMPARISONS, Compare, TransferSummary, copy_object, sync_stores


def _with_examples(command: Callable[..., None]) -> Callable[..., None]:
    command.__doc__ = f"{command.__doc__}\n{EXAMPLES}"
    return command


@click.command()
@click.argument("source", metavar="OBJECT|STORE")
@click.argument("target", metavar="OBJECT|STORE")
@click.option(
    "-r", "--recursive", is_flag=True, help="Copy all keys that begin with KEY/, or the whole store."
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), help="Objects at a time [default: as stores like].")
@_with_examples
def cp(source: str, target: str, recursive: bool, jobs: int | None) -> None:
    """Copy an object, or with -r a folder of them, to another key or another store.

    Metadata is copied too. Where the target ends in '/', or names a store alone, the last part of the key
    is added; with -r, what follows KEY/ is. Objects that are there already, with the same content, are left
    alone by -r: so a copy that was broken off goes on when it is made again.
    """
    if recursive:
        _transfer(source, target, delete=False, compare="content", dry_run=False, jobs=jobs)
        return
    with _both(source, target) as (from_store, key, to_store, to_key):
        if not key:
            raise UsageError(f"{redact(source)}: a key is missing (cp -r copies a whole store)")
        if not to_key or to_key.endswith("/"):
            to_key += key.rstrip("/").rpartition("/")[2] + ("/" if key.endswith("/") else "")
        info = from_store.head(key)
        done = 0
        with progress(key, info.size) as advance:

            def moved(count: int) -> None:
                nonlocal done
                done += count
                advance(done)

            copy_object(from_store, key, to_store, to_key, progress=moved)


@click.command()
@click.argument("source", metavar="STORE")
@click.argument("target", metavar="STORE")
@click.option("--delete", is_flag=True, help="Delete from the target what the source does not have.")
@click.option("-n", "--dry-run", is_flag=True, help="Compare, tell what would be done, and do nothing.")
@click.option(
    "--compare",
    type=click.Choice(COMPARISONS),
    default="content",
    show_default=True,
    help="How objects of one size are compared: content reads what MD5 etags do not prove, bytes reads"
    " both always, size+mtime reads nothing and can miss a change.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), help="Objects at a time [default: as stores like].")
@_with_examples
def mirror(source: str, target: str, delete: bool, dry_run: bool, compare: Compare, jobs: int | None) -> None:
    """Make the objects of one store those of another: put what is missing or differs.

    A KEY after a STORE means the folder KEY/ in it. A run that was broken off goes on when it is made
    again. An object that cannot be transferred does not keep the others from being.
    """
    _transfer(source, target, delete=delete, compare=compare, dry_run=dry_run, jobs=jobs)


@click.command()
@click.argument("place", metavar="STORE")
def repair(place: str) -> None:
    """Make the children of a fan-out the same again, after one of them was away.

    STORE is config:NAME of a store of type fanout. Of an object that the children have in several
    versions, the newest is given to all; one that only some have is given to the others. All children
    must answer.
    """
    with open_store(place) as store:
        inner = store
        while isinstance(inner, WrapperStore):
            inner = inner.inner
        if not isinstance(inner, FanoutStore):
            raise UsageError(f"{redact(place)} is no fan-out: only what has several children can be repaired")
        changed = inner.repair()
    click.echo(f"{changed} copies of objects were put right", err=True)


def _transfer(
    source: str, target: str, *, delete: bool, compare: Compare, dry_run: bool, jobs: int | None
) -> None:
    with (
        _both(source, target, dry_run=dry_run) as (from_store, key, to_store, to_key),
        _counting() as show,
    ):
        prefix, to_prefix = (name if not name or name.endswith("/") else f"{name}/" for name in (key, to_key))
        if delete and next(from_store.keys(prefix), None) is None:
            raise UsageError(
                f"{redact(source)} has no objects: --delete would empty the target (rm -r --all does that)"
            )
        done = sync_stores(
            from_store,
            to_store,
            delete,
            compare=compare,
            source_prefix=prefix,
            target_prefix=to_prefix,
            dry_run=dry_run,
            workers=jobs,
            progress=show,
            strict=False,
        )
    if key and not done.copied + done.unchanged + done.deleted + len(done.failures):
        raise NotFound(f"no object below {prefix!r}", key=prefix)
    click.echo(_told(done), err=True)
    if done.failures:
        terminal = sys.stderr.isatty()
        for name, error in done.failures:
            click.echo(f"  {name_for(terminal, name)}: {escape(' '.join(str(error).split()))}", err=True)
        raise MountstoreError(
            f"{len(done.failures)} objects could not be transferred; the same again goes on"
        )


def _told(done: TransferSummary) -> str:
    would = "would be " if done.dry_run else ""
    parts = [f"{done.copied} {would}copied ({size(done.copied_bytes)})", f"{done.unchanged} unchanged"]
    if done.deleted:
        parts.append(f"{done.deleted} {would}deleted")
    return ", ".join(parts)


@contextlib.contextmanager
def _both(
    source: str, target: str, *, dry_run: bool = False
) -> Iterator[tuple[ObjectStore, str, ObjectStore, str]]:
    """Both stores and keys; one store object, where both are one store, so that it can copy by itself."""
    with contextlib.ExitStack() as stack:
        from_store, key = open_place(source)
        stack.enter_context(from_store)
        one, other = canonical(split_key(source)[0]), canonical(split_key(target)[0])
        if one == other and one != "memory:":
            yield from_store, key, from_store, split_key(target)[1]
            return
        url, to_key = split_key(target)
        path = local_path(url) if dry_run else None
        if path is not None and not path.exists():
            # What is not there is as good as empty, and must not be made.
            to_store: ObjectStore = open_store("memory:")
        else:
            to_store, to_key = open_place(target, creates=True)
        stack.enter_context(to_store)
        yield from_store, key, to_store, to_key


@contextlib.contextmanager
def _counting() -> Iterator[Callable[[TransferSummary], None] | None]:
    """What shows a transfer on a terminal: counts, bytes and speed; where its end is, nobody knows before."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing", total=None)

        def show(now: TransferSummary) -> None:
            text = f"{now.copied} copied, {now.unchanged} unchanged, {now.deleted} deleted"
            if now.failures:
                text += f", {len(now.failures)} failed"
            bar.update(task, description=text, completed=now.moved_bytes)

        yield show
