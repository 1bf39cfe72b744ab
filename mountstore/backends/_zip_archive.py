"""One state of a zip archive's file, and how the next one takes its place."""

from __future__ import annotations

import contextlib
import os
import stat
from bisect import bisect_left, insort
from dataclasses import dataclass

from mountstore.backends._filesystem_objects import copy_content
from mountstore.backends._filesystem_tree import write_all
from mountstore.backends._zip_content import Content, Cursors, InFile, OpenFile, Packed, copy_range
from mountstore.backends._zip_format import Directory, Entry, data_offset, placed_at, read_directory
from mountstore.backends._zip_records import central_record, changed, end_records, local_header
from mountstore.errors import Corrupted, NotFound, StoreFull, UsageError

_RECORDS_AT_ONCE = 4096
_CLONE_FROM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What is the most that an archive may hold; see ZipStore."""

    max_entries: int
    max_ratio: int
    max_total_bytes: int

    def __post_init__(self) -> None:
        if min(self.max_entries, self.max_ratio, self.max_total_bytes) < 1:
            raise UsageError("max_entries, max_ratio and max_total_bytes are at least 1")


Identity = tuple[int, int, int, int]


def identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Archive:
    """What the file held when it was opened; it stays readable when another takes its place."""

    def __init__(
        self,
        file: OpenFile | None,
        identity: Identity | None,
        directory: Directory,
        entries: dict[str, Entry],
        keys: list[str],
        total: int,
    ) -> None:
        self.file = file
        self.identity = identity
        self.directory = directory
        self.entries = entries
        self.keys = keys
        self.total = total
        self.cursors = Cursors()

    @classmethod
    def open(cls, path: str, limits: Limits) -> Archive:
        """Read the archive at `path`; none, or one of no bytes, is empty. Raises OSError, Corrupted."""
        try:
            file = OpenFile(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except FileNotFoundError:
            return cls(None, None, Directory([], 0, 0, b"", True), {}, [], 0)
        found = os.fstat(file.fd)
        if not stat.S_ISREG(found.st_mode):
            raise Corrupted(f"{path} is not a regular file; name a zip archive")
        if not found.st_size:
            return cls(file, identity_of(found), Directory([], 0, 0, b"", True), {}, [], 0)
        directory = read_directory(file.fd, found.st_size, limits.max_entries)
        # Of members of one name the last counts, as everywhere.
        entries = {entry.key: entry for entry in directory.entries}
        total = sum(entry.size for entry in entries.values())
        if total > limits.max_total_bytes:
            raise Corrupted(
                f"the members of {path} have {total} bytes unpacked, over the limit of "
                f"{limits.max_total_bytes}; raise max_total_bytes if that is right"
            )
        return cls(file, identity_of(found), directory, entries, sorted(entries), total)

    def content(self, entry: Entry) -> Content:
        """Where the member's packed bytes are. OSError, Corrupted."""
        assert self.file is not None
        return InFile(self.file, data_offset(self.file.fd, entry), entry.packed)


class Draft:
    """The next state of an archive, as long as it is not written; then `write` makes it the current one."""

    def __init__(self, base: Archive, limits: Limits) -> None:
        self.base = base
        self.cursors = base.cursors
        self.entries = base.entries.copy()
        self.total = base.total
        self.touched = False
        self._limits = limits
        self._contents: dict[str, Content] = {}  # of members that have no place yet
        self._appends = base.directory.plain and len(base.entries) == len(base.directory.entries)
        self._keys: list[str] | None = base.keys.copy()

    @property
    def keys(self) -> list[str]:
        if self._keys is None:
            self._keys = sorted(self.entries)
        return self._keys

    def content(self, entry: Entry) -> Content:
        return self._contents[entry.key] if entry.offset < 0 else self.base.content(entry)

    def add(self, entry: Entry, packed: Packed | Content) -> None:
        """Put a member without a place, in the stead of any of this key. Raises StoreFull."""
        old = self.entries.get(entry.key)
        total = self.total + entry.size - (0 if old is None else old.size)
        if total > self._limits.max_total_bytes or (
            old is None and len(self.entries) >= self._limits.max_entries
        ):
            raise StoreFull(
                f"{entry.key!r} would take the archive over max_entries or max_total_bytes; raise these",
                key=entry.key,
            )
        if old is None:
            self._note(entry.key, True)
        else:
            self._appends = self._appends and old.offset < 0
        self.total = total
        self.entries[entry.key] = entry
        self._contents[entry.key] = packed.content if isinstance(packed, Packed) else packed
        self.touched = True

    def update(self, entry: Entry) -> None:
        """Put other attributes of the member of this key."""
        self._appends = self._appends and entry.offset < 0
        self.entries[entry.key] = entry
        self.touched = True

    def remove(self, key: str) -> None:
        """Raises NotFound."""
        entry = self.entries.pop(key, None)
        if entry is None:
            raise NotFound(key=key)
        self._contents.pop(key, None)
        self._appends = self._appends and entry.offset < 0
        self.total -= entry.size
        self._note(key, False)
        self.touched = True

    def move(self, entry: Entry, key: str) -> Entry:
        """Put the member under another key; raises NotFound, Corrupted, OSError."""
        content = self.content(entry)
        moved = changed(entry, key=key)
        self.remove(entry.key)
        self.add(moved, content)
        return moved

    def _note(self, key: str, present: bool) -> None:
        if self._keys is None:
            return
        if present:
            insort(self._keys, key)
        else:
            del self._keys[bisect_left(self._keys, key)]

    # -- writing ----------------------------------------------------------------------------------

    def write(self, path: str, *, durable: bool) -> Archive:
        """Write it aside, then let it take the place of the file at `path`, in one step. Raises OSError."""
        aside = path + ".new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)  # of a process that died here
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = OpenFile(os.open(aside, flags, 0o666))
        try:
            if self.base.file is not None:
                os.fchmod(file.fd, stat.S_IMODE(os.fstat(self.base.file.fd).st_mode))
            directory = self._write_into(file.fd)
            if durable:
                os.fsync(file.fd)
            os.rename(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        if durable:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        identity = identity_of(os.fstat(file.fd))
        return Archive(file, identity, directory, self.entries, self.keys, self.total)

    def _write_into(self, fd: int) -> Directory:
        old = self.base.directory
        kept: list[Entry] = []
        if self._appends:
            kept = old.entries
            self._copy_start(fd)
        elif self.base.file is not None:
            kept = self._copy_kept(fd)
        added = []
        at = os.lseek(fd, 0, os.SEEK_CUR)
        for entry in self.entries.values():
            if entry.offset >= 0:
                continue
            header = local_header(entry)
            write_all(fd, header)
            self._contents[entry.key].copy_into(fd)
            end = at + len(header) + entry.packed
            added.append(placed_at(entry, at, end))
            at = end
        for entry in added:
            self.entries[entry.key] = entry
        start = at
        if self._appends and self.base.file is not None:
            copy_range(self.base.file.fd, old.start, old.size, fd)
            fresh = added
        else:
            fresh = kept + added
        for number in range(0, len(fresh), _RECORDS_AT_ONCE):
            write_all(fd, b"".join(map(central_record, fresh[number : number + _RECORDS_AT_ONCE])))
        length = os.lseek(fd, 0, os.SEEK_CUR) - start
        entries = kept + added
        end_of_all = end_records(len(entries), start, length, old.comment)
        write_all(fd, end_of_all)
        plain = not end_of_all.startswith(b"PK\6\6")
        return Directory(entries, start, length, old.comment, plain)

    def _copy_start(self, fd: int) -> None:
        """All members as they lie, sharing their blocks where the file system can."""
        if self.base.file is None:
            return
        length = self.base.directory.start
        if length >= _CLONE_FROM_BYTES:
            copy_content(self.base.file.fd, fd, length)
            os.ftruncate(fd, length)
            os.lseek(fd, length, os.SEEK_SET)
        else:
            copy_range(self.base.file.fd, 0, length, fd)

    def _copy_kept(self, fd: int) -> list[Entry]:
        """The members that stay, moved together; and what another program had put before the first."""
        assert self.base.file is not None
        source = self.base.file.fd
        old = self.base.directory.entries
        start = 0
        stop = old[0].offset if old else self.base.directory.start
        at = stop
        kept = []
        for entry in old:
            now = self.entries.get(entry.key)
            if now is None or now.offset != entry.offset:
                continue
            if entry.offset != stop:
                copy_range(source, start, stop - start, fd)
                start = entry.offset
            stop = entry.end
            moved = placed_at(now, at, at + entry.end - entry.offset)
            at = moved.end
            self.entries[entry.key] = moved
            kept.append(moved)
        copy_range(source, start, stop - start, fd)
        return kept
