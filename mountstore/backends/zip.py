"""A store in one zip archive: its members are the objects, and any other program may unpack it.

A key is a member's name, as it is: nothing is made of `..` or a slash at its start here, though other
programs that unpack such an archive refuse or change them. A member `name/` is a folder to these programs,
and the mode among an object's metadata is the member's mode. What else is kept with a member is told in
`mountstore.backends._zip_format`.

A change is a new archive, written aside as `PATH.new` and renamed over the old one: other programs, and
what a crash leaves, have the one or the other, whole. Members that stay are copied as they are, within the
kernel, and by sharing their blocks where the file system can; still a change of a large archive costs a
copy of it. So calls that come at the same time are written together, and `batch` does so for calls that
come one after the other. Processes take turns by the lock file `PATH.lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from mountstore.backends._arguments import check_key, check_metadata, clip_range
from mountstore.backends._filesystem_objects import MAX_METADATA_BYTES, check_etag
from mountstore.backends._filesystem_tree import translated
from mountstore.backends._sorted_keys import page_of
from mountstore.backends._zip_archive import Archive, Draft, Limits, identity_of
from mountstore.backends._zip_content import Spool, check_readable, pack, read_range
from mountstore.backends._zip_format import ENCRYPTED, MAX_NAME_BYTES, Entry, info_of
from mountstore.backends._zip_records import changed, new_entry
from mountstore.errors import InvalidKey, NotFound, PreconditionFailed, StoreError, Unsupported
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_KEYS_AT_ONCE = 1000

Result = TypeVar("Result")


@dataclass(slots=True)
class _Job:
    """A change that waits to be written, and what became of it."""

    change: Callable[[Draft], Any]
    done: bool = False
    result: Any = None
    error: BaseException | None = None


class ZipStore(ObjectStore):
    """The members of the archive at `path`; without a file there, an empty store that makes it when needed.

    Safe among threads and processes that use this class. With `durable` a change is on the disk when the
    call returns. `compress` deflates new members; then ranges of them cost unpacking what precedes,
    except for reading on where the last range ended. With `replace=False` a member that is there stays:
    a second put of its key is PreconditionFailed, and delete and rename are Unsupported.

    An archive may come from anybody: Corrupted is raised for members that overlap, that are others than
    the directory says, that fail their checksum (compared whenever a member is read to its end from its
    start) or have another size than told, and beyond the limits: `max_entries` members, `max_total_bytes`
    of all members unpacked, and members that unpack to more than `max_ratio` times their size.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        replace: bool = True,
        compress: bool = False,
        durable: bool = True,
        max_entries: int = 1_000_000,
        max_ratio: int = 200,
        max_total_bytes: int = 1 << 40,
    ) -> None:
        self._limits = Limits(max_entries, max_ratio, max_total_bytes)
        # The archive that a link names is replaced, not the link.
        self._path = os.path.realpath(path)
        self._folder = os.path.dirname(self._path)
        self._replace, self._compress, self._durable = replace, compress, durable
        self._loading = threading.Lock()
        self._jobs: list[_Job] = []
        self._jobs_lock = threading.Lock()
        self._writer = threading.RLock()
        self._lock_file = -1
        self._last_ns = 0
        self._draft: Draft | None = None  # of the batch that is under way, in the thread that began it
        self._draft_thread = 0
        self._spool: Spool | None = None
        if not os.path.isdir(self._folder):
            raise StoreError(f"{self._folder} is not a directory; make it first")
        self.capabilities = Capabilities(
            server_copy=True,
            atomic_rename=True,
            local=True,
            max_key_bytes=MAX_NAME_BYTES,
            max_metadata_bytes=MAX_METADATA_BYTES,
            concurrency=16,
        )
        self._archive: Archive | None = None
        self._current()

    def close(self) -> None:
        with self._writer:
            self._archive = None
            if self._lock_file >= 0:
                os.close(self._lock_file)
                self._lock_file = -1

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        return info_of(self._find(key)[1], metadata=True)

    def exists(self, key: str) -> bool:
        check_key(key)
        return key in self._state().entries

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        state, entry = self._find(key)
        check_etag(entry.key, entry.etag, if_match)
        check_readable(entry, self._limits.max_ratio)
        start, stop = clip_range(key, start, stop, entry.size)
        try:
            return read_range(entry, state.content(entry), start, stop, state.cursors)
        except OSError as error:
            raise translated(error, key) from error

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        state = self._state()
        names, groups, following = page_of(state.keys, prefix, delimiter, after, limit)
        return Page([info_of(state.entries[name]) for name in names], groups, following)

    def keys(self, prefix: str = "") -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            names, _, after = page_of(self._state().keys, prefix, "", after, _KEYS_AT_ONCE)
            yield from names

    def _find(self, key: str) -> tuple[Archive | Draft, Entry]:
        check_key(key)
        state = self._state()
        entry = state.entries.get(key)
        if entry is None:
            raise NotFound(key=key)
        return state, entry

    def _state(self) -> Archive | Draft:
        """What this thread is to see: its own batch, or the archive as it is now."""
        if self._draft is not None and self._draft_thread == threading.get_ident():
            return self._draft
        return self._current()

    def _current(self) -> Archive:
        """The archive as it is now, read again if the file is another. Raises Corrupted."""
        try:
            try:
                identity = identity_of(os.stat(self._path))
            except FileNotFoundError:
                identity = None
            archive = self._archive
            if archive is not None and archive.identity == identity:
                return archive
            with self._loading:
                archive = Archive.open(self._path, self._limits)
                self._archive = archive
                return archive
        except OSError as error:
            raise _open_error(self._path, error) from error

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        check_conditions(key, if_match, if_absent)
        self._check_new_key(key)
        kept = check_metadata(key, metadata, MAX_METADATA_BYTES)
        mine = self._draft is not None and self._draft_thread == threading.get_ident()
        packed = pack(
            data,
            compress=self._compress,
            max_ratio=self._limits.max_ratio,
            folder=self._folder,
            spool=self._spool if mine else None,
        )

        def change(draft: Draft) -> Entry:
            old = draft.entries.get(key)
            if if_absent and old is not None:
                raise PreconditionFailed(f"{key!r} is there already", key=key)
            if if_match is not None and (old is None or old.etag != if_match):
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            self._check_replaces(old)
            entry = new_entry(
                key,
                method=packed.method,
                crc=packed.crc,
                packed=packed.packed,
                size=packed.size,
                mtime_ns=self._now(),
                metadata=kept,
            )
            draft.add(entry, packed)
            return entry

        return info_of(self._change(change, key), metadata=True)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        check_key(key)

        def change(draft: Draft) -> None:
            entry = draft.entries.get(key)
            if entry is None:
                if missing_ok:
                    return
                raise NotFound(key=key)
            check_etag(entry.key, entry.etag, if_match)
            draft.remove(key)

        self._check_removes(key)
        self._change(change, key)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        for key in wanted:
            check_key(key)

        def change(draft: Draft) -> None:
            for key in wanted:
                if key in draft.entries:
                    draft.remove(key)

        if wanted:
            self._check_removes(wanted[0])
            self._change(change, None)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        check_key(source)
        self._check_new_key(target)
        kept = None if metadata is None else check_metadata(target, metadata, MAX_METADATA_BYTES)

        def change(draft: Draft) -> Entry:
            entry = self._source(draft, source, if_match)
            if source == target:
                if kept is not None:
                    entry = changed(entry, metadata=kept)
                    draft.update(entry)
                return entry
            self._check_replaces(draft.entries.get(target))
            content = draft.content(entry)
            entry = changed(entry, key=target, metadata=kept)
            draft.add(entry, content)
            return entry

        return info_of(self._change(change, source), metadata=True)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        check_key(source)
        self._check_new_key(target)
        self._check_removes(source)

        def change(draft: Draft) -> Entry:
            entry = self._source(draft, source, if_match)
            return entry if source == target else draft.move(entry, target)

        return info_of(self._change(change, source), metadata=True)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Write all changes that this thread makes within the `with` in one go, at its end.

        This thread sees them at once, others when they are written; changes of others wait. If the block
        raises, none of them happen. What is put waits in a temporary file beside the archive.
        """
        with self._writer:
            if self._draft is not None:
                yield
                return
            with self._locked():
                self._draft = Draft(self._current(), self._limits)
                self._draft_thread = threading.get_ident()
                try:
                    self._spool = Spool(self._folder)
                    yield
                    draft, self._draft = self._draft, None
                    if draft.touched:
                        self._write(draft)
                finally:
                    self._draft = self._spool = None

    # -- within -----------------------------------------------------------------------------------

    def _change(self, change: Callable[[Draft], Result], key: str | None) -> Result:
        """Make one change, together with those that wait for the same lock."""
        if self._draft is not None and self._draft_thread == threading.get_ident():
            try:
                return change(self._draft)
            except OSError as error:
                raise translated(error, key) from error
        job = _Job(change)
        with self._jobs_lock:
            self._jobs.append(job)
        with self._writer:
            if not job.done:
                self._write_jobs()
        if job.error is None:
            return cast(Result, job.result)
        if isinstance(job.error, OSError):
            raise translated(job.error, key) from job.error
        raise job.error

    def _write_jobs(self) -> None:
        with self._jobs_lock:
            jobs, self._jobs = self._jobs, []
        try:
            with self._locked():
                draft = Draft(self._current(), self._limits)
                for job in jobs:
                    try:
                        job.result = job.change(draft)
                    except (StoreError, OSError) as error:
                        job.error = error
                if draft.touched:
                    self._write(draft)
        except BaseException as error:
            for job in jobs:
                if job.error is None:
                    job.error = error
            if not isinstance(error, StoreError | OSError):
                raise
        finally:
            for job in jobs:
                job.done = True

    def _write(self, draft: Draft) -> None:
        try:
            self._archive = draft.write(self._path, durable=self._durable)
        except OSError as error:
            raise translated(error, None) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing the archive."""
        try:
            if self._lock_file < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._lock_file = os.open(self._path + ".lock", flags, 0o666)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        except OSError as error:
            raise _open_error(self._path, error) from error
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _source(self, draft: Draft, key: str, if_match: str | None) -> Entry:
        entry = draft.entries.get(key)
        if entry is None:
            raise NotFound(key=key)
        check_etag(entry.key, entry.etag, if_match)
        if entry.flags & ENCRYPTED:
            raise Unsupported(f"{key!r} is encrypted, and cannot be changed", key=key)
        return entry

    def _check_new_key(self, key: str) -> None:
        size = len(check_key(key))
        if size > MAX_NAME_BYTES:
            raise InvalidKey(f"a key of {size} bytes; a zip archive holds up to {MAX_NAME_BYTES}", key=key)

    def _check_replaces(self, old: Entry | None) -> None:
        if old is not None and not self._replace:
            raise PreconditionFailed(f"{old.key!r} is there, and zip members are not replaced", key=old.key)

    def _check_removes(self, key: str) -> None:
        if not self._replace:
            raise Unsupported("this zip archive was opened with replace=False: members stay", key=key)

    def _now(self) -> int:
        """The time in ns, never the same twice: it makes the etag. Only called by who may write."""
        self._last_ns = max(self._last_ns + 1, time.time_ns())
        return self._last_ns


def _open_error(path: str, error: OSError) -> StoreError:
    kind = type(translated(error, None))
    return (StoreError if issubclass(kind, NotFound | InvalidKey) else kind)(f"{path}: {error.strerror}")
