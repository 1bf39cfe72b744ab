"""ls, cat, get, put, rm: objects from the shell."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from mountstore.cli.output import json_line, local_time, name_for, progress, utc_time
from mountstore.errors import MountstoreError, NotFound, PreconditionFailed, UsageError
from mountstore.registry import local_path, open_store, redact, split_key
from mountstore.store import Data, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_BYTES = 8 << 20

EXAMPLES = """
    \b
    An OBJECT is s3://BUCKET/KEY (the path is the key, exactly as it stands; ?endpoint=URL and the
    like may follow), or STORE#KEY for every other store: sqlite:///PATH#KEY, file:///PATH#KEY.
"""


def _with_examples(command: Callable[..., None]) -> Callable[..., None]:
    command.__doc__ = f"{command.__doc__}\n{EXAMPLES}"
    return command


@click.command()
@click.argument("place", metavar="STORE|OBJECT")
@click.option("-l", "--long", "is_long", is_flag=True, help="Show size and time too.")
@click.option("-r", "--recursive", is_flag=True, help="Go into every folder.")
@click.option(
    "--json", "is_json", is_flag=True, help="A JSON object a line: key, size, mtime, etag; or prefix."
)
@_with_examples
def ls(place: str, is_long: bool, recursive: bool, is_json: bool) -> None:
    """List the keys that begin with the given one.

    One folder is listed, the keys below it shown as one line ending in '/'; -r lists every object.
    `ls s3://bucket/logs` shows all that begins with `logs`; `ls s3://bucket/logs/` what is in it.
    On a terminal, control characters in keys are shown as \\xNN; --json is exact everywhere.
    """
    is_terminal = sys.stdout.isatty()
    store, prefix = open_place(place)
    found = False
    with store:
        for page in store.pages(prefix, delimiter="" if recursive else "/"):
            entries: list[tuple[str, ObjectInfo | None]] = [(info.key, info) for info in page.objects]
            entries += [(group, None) for group in page.prefixes]
            for name, info in sorted(entries, key=lambda entry: entry[0].encode()):
                found = True
                if is_json:
                    print(json_line(_described(name, info)))
                elif is_long:
                    size, when = ("-", "-") if info is None else (str(info.size), local_time(info.mtime_ns))
                    print(f"{size:>14}  {when:>19}  {name_for(is_terminal, name)}")
                else:
                    print(name_for(is_terminal, name))
    if prefix and not found:
        raise NotFound(f"no key begins with {prefix!r}", key=prefix)


def _described(name: str, info: ObjectInfo | None) -> dict[str, object]:
    if info is None:
        return {"prefix": name}
    return {"key": name, "size": info.size, "mtime": utc_time(info.mtime_ns), "etag": info.etag}


@click.command()
@click.argument("objects", metavar="OBJECT...", nargs=-1, required=True)
@_with_examples
def cat(objects: tuple[str, ...]) -> None:
    """Write the content of objects to standard output, one after the other.

    Each is read in ranges of one version, whatever its size; one that changes meanwhile is an error.
    """
    with _standard_output() as out:
        for place in objects:
            store, key = open_place(place, wants_key=True)
            with store:
                for data in _ranges(store, key, store.head(key)):
                    out.write(data)


@click.command()
@click.argument("place", metavar="OBJECT")
@click.argument("target", metavar="[FILE]", required=False)
@_with_examples
def get(place: str, target: str | None) -> None:
    """Copy an object to FILE (`-`: standard output).

    Without FILE, to the last part of its key in the current directory; into FILE where that is a
    directory. FILE is replaced at once when all is there, and left alone if anything fails.
    """
    store, key = open_place(place, wants_key=True)
    with store:
        info = store.head(key)
        with contextlib.ExitStack() as stack:
            if target == "-":
                file = stack.enter_context(_standard_output())
            else:
                file = stack.enter_context(_replacing(_target_path(key, target)))
            advance = stack.enter_context(progress(key, info.size))
            done = 0
            for data in _ranges(store, key, info):
                file.write(data)
                done += len(data)
                advance(done)


@click.command()
@click.argument("source", metavar="FILE")
@click.argument("place", metavar="OBJECT")
@click.option("-n", "--no-clobber", is_flag=True, help="Fail if there is such an object already.")
@_with_examples
def put(source: str, place: str, no_clobber: bool) -> None:
    """Make the content of FILE (`-`: standard input) the object.

    Where OBJECT ends in '/', or names a store alone, the name of FILE is added. Readers see the old
    object or the new one, whole.
    """
    store, key = open_place(place, creates=True)
    with store, contextlib.ExitStack() as stack:
        if source == "-":
            spool = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, spool, 1 << 20)
            spool.flush()
            size = spool.tell()
            file = stack.enter_context(_Watched(os.dup(spool.fileno())))
            file.seek(0)
        else:
            file = stack.enter_context(_Watched(source))
            size = os.stat(file.fileno()).st_size
            if not key or key.endswith("/"):
                key += os.path.basename(source)
        if not key or key.endswith("/"):
            raise UsageError(f"{redact(place)}: a key is missing")
        file.advance = stack.enter_context(progress(key, size))
        store.put(key, io.BufferedReader(file, 1 << 20), if_absent=no_clobber)


@click.command()
@click.argument("objects", metavar="OBJECT...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Delete KEY and all keys that begin with KEY/.")
@click.option("-f", "--force", is_flag=True, help="It is no error if there is no such object.")
@click.option("--all", "is_all", is_flag=True, help="With -r and a STORE without a key: delete every object.")
@_with_examples
def rm(objects: tuple[str, ...], recursive: bool, force: bool, is_all: bool) -> None:
    """Delete objects.

    An object that cannot be deleted does not keep the others from being deleted.
    """
    failed: list[MountstoreError] = []
    for place in objects:
        try:
            store, key = open_place(place)
            if not key and not (recursive and is_all):
                raise UsageError(f"{redact(place)}: a key is missing (rm -r --all empties a whole store)")
            with store:
                if recursive:
                    _delete_folder(store, key, force)
                else:
                    store.delete(key, missing_ok=force)
        except MountstoreError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise ExceptionGroup("not everything could be deleted", failed)


def _delete_folder(store: ObjectStore, key: str, force: bool) -> None:
    folder = key if not key or key.endswith("/") else f"{key}/"
    found = False
    if folder != key and store.exists(key):
        found = True
        store.delete(key, missing_ok=True)
    for page in store.pages(folder):
        if page.objects:
            found = True
            store.delete_many([info.key for info in page.objects])
    if key and not found and not force:
        raise NotFound(f"no object: {key!r}, and none below {folder!r}", key=key)


def open_place(place: str, *, wants_key: bool = False, creates: bool = False) -> tuple[ObjectStore, str]:
    """The store and the key that an argument names; only `put` may make a store that is not there."""
    url, key = split_key(place)
    if wants_key and not key:
        raise UsageError(f"{redact(place)}: a key is missing; write s3://BUCKET/KEY or STORE#KEY")
    path = local_path(url)
    if path is not None and not creates and not path.exists():
        raise NotFound(f"no such store: {str(path)!r}")
    return open_store(url), key


def _ranges(store: ObjectStore, key: str, info: ObjectInfo) -> Iterator[Data]:
    """The content of one version, in pieces of RANGE_BYTES."""
    condition = info.etag if store.capabilities.conditional_get else None
    for start in range(0, info.size, RANGE_BYTES):
        try:
            yield store.get(key, start, min(start + RANGE_BYTES, info.size), if_match=condition)
        except PreconditionFailed as error:
            raise PreconditionFailed(
                f"{key!r} was changed while it was being read; try again", key=key
            ) from error


def _target_path(key: str, target: str | None) -> Path:
    name = key.rpartition("/")[2]
    path = Path(target) if target is not None else Path()
    if not path.is_dir():
        return path
    if name in ("", ".", "..") or "\0" in name:
        raise UsageError(f"the key {key!r} does not end in a file name; name a FILE")
    return path / name


def _standard_output() -> IO[bytes]:
    # Not sys.stdout.buffer: under PYTHONUNBUFFERED that is raw, and writes only a part without a word.
    return open(sys.stdout.fileno(), "wb", closefd=False)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `path` if all goes well; devices and pipes are written to directly."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # a symlink stays one
    temporary = path.with_name(f".mountstore-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _Watched(io.FileIO):
    """A file that tells a progress bar how far it has been read."""

    advance: Callable[[int], None] = staticmethod(lambda done: None)

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = super().readinto(buffer)
        self.advance(self.tell())
        return count
