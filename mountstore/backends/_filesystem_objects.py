"""The files of a FilesystemStore as objects: their attributes, metadata, etags and contents."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Mapping

from mountstore.backends._arguments import check_metadata
from mountstore.backends._filesystem_listing import etag_of, folder_etag
from mountstore.backends._filesystem_names import BESIDE, ESCAPED
from mountstore.backends._filesystem_tree import ABSENT, Tree, translated, write_all
from mountstore.backends._large_bytes import large_bytes, read_fully
from mountstore.errors import (
    AccessDenied,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
)
from mountstore.store import Data, ObjectInfo

_METADATA = "user.mountstore.metadata"
MAX_METADATA_BYTES = 2048
_ATTRIBUTES_BYTES = 3800
"""What ext4 has room for in the attributes of a file, less what others may need."""

_FICLONE = 0x40049409
_NO_ATTRIBUTES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

Names = tuple[str, ...]


def open_tree(root: str | os.PathLike[str], *, durable: bool, create: bool) -> Tree:
    """The tree below the folder `root`, made if `create` says so. Raises StoreError, in one line."""
    path = os.fspath(root)
    try:
        if create:
            os.makedirs(path, exist_ok=True)
        return Tree(path, durable=durable)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(f"{path} is not a directory; name one") from None
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist; make it first") from None
    except PermissionError as error:
        raise AccessDenied(f"{path}: {error.strerror}; check its permissions") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


class ObjectFiles:
    """Reads and finishes the files of a tree. `attributes` says whether they can have metadata."""

    def __init__(
        self, tree: Tree, *, key_attribute: str = "", key_bytes: int = 0, other_attributes_bytes: int = 0
    ) -> None:
        """`key_attribute` is where a file says its key, if that has no more than `key_bytes`; and
        `other_attributes_bytes` is the room that must stay beside the metadata."""
        self._tree = tree
        self._clock_lock = threading.Lock()
        self._last_ns = 0
        self._key_attribute = key_attribute
        self._key_bytes = key_bytes
        self.other_attributes_bytes = other_attributes_bytes
        self.attributes = self._probe_metadata()
        self._keeps_keys = bool(key_attribute) and self.attributes

    def _probe_metadata(self) -> bool:
        name, fd = self._tree.new_file()
        try:
            os.setxattr(fd, _METADATA, b"{}")
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise
            return False
        finally:
            os.close(fd)
            self._tree.discard(name)
        return True

    def open(self, key: str, names: Names) -> tuple[int, os.stat_result] | None:
        """The object's file, open for reading; None if it has none. Another kind of file is none."""
        try:
            fd = self._tree.open(names)
            try:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode):
                    folder, fd = fd, -1
                    try:
                        fd = os.open(BESIDE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                    finally:
                        os.close(folder)
                    found = os.fstat(fd)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise translated(error, key) from error
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            return None
        return fd, found

    def empty_folder(self, key: str, names: Names) -> ObjectInfo:
        """An empty folder as the object that ends in a slash. Raises NotFound."""
        if not key.endswith("/") or names[-1] != ESCAPED:
            raise NotFound(key=key)
        try:
            found = self._tree.empty_folder(names[:-1])
        except OSError as error:
            raise translated(error, key) from error
        if found is None:
            raise NotFound(key=key)
        return ObjectInfo(key, 0, found.st_mtime_ns, folder_etag(found), {})

    def is_file(self, names: Names) -> bool:
        try:
            self._tree.find(names)
        except OSError as error:
            if error.errno in ABSENT:
                return False
            raise
        return True

    def check(self, key: str, names: Names, if_match: str | None, if_absent: bool) -> None:
        """The conditions of a put, against what is there now."""
        try:
            etag: str | None = etag_of(self._tree.find(names)[1])
        except OSError as error:
            if error.errno not in ABSENT:
                raise translated(error, key) from error
            try:
                etag = self.empty_folder(key, names).etag
            except NotFound:
                etag = None
        if if_absent and etag is not None:
            raise PreconditionFailed(f"{key!r} is there already", key=key)
        if if_match is not None and etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)

    def finish(self, key: str, fd: int, metadata: Mapping[str, str]) -> os.stat_result:
        """Give a written file its key, its metadata and a time that no other put of this process has.

        For inode numbers are used again, and clocks tick slowly: etags are made of both.
        """
        try:
            if self._keeps_keys:
                raw = key.encode()
                if len(raw) <= self._key_bytes:
                    os.setxattr(fd, self._key_attribute, raw)
            if metadata:
                os.setxattr(fd, _METADATA, encoded(metadata))
            with self._clock_lock:
                now = time.time_ns()
                if now <= self._last_ns:
                    now = self._last_ns + 1
                self._last_ns = now
            os.utime(fd, ns=(now, now))
            if self._tree.durable:
                os.fsync(fd)
            return os.fstat(fd)
        except OSError as error:
            raise translated(error, key) from error

    def kept(self, key: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
        """What will be kept of the metadata that a call gives. Raises Unsupported if it is too much."""
        if not metadata or not self.attributes:
            return {}
        kept = check_metadata(key, metadata, MAX_METADATA_BYTES)
        if kept and len(encoded(kept)) > _ATTRIBUTES_BYTES - self.other_attributes_bytes:
            raise Unsupported("too much metadata for the extended attributes of a file", key=key)
        return kept

    def set_metadata(self, fd: int, metadata: Mapping[str, str]) -> None:
        if self.attributes:
            os.setxattr(fd, _METADATA, encoded(metadata))

    def metadata(self, fd: int) -> dict[str, str]:
        if not self.attributes:
            return {}
        try:
            kept: dict[str, str] = json.loads(os.getxattr(fd, _METADATA))
        except OSError as error:
            if error.errno in (errno.ENODATA, *_NO_ATTRIBUTES):
                return {}
            raise
        return kept


def read_large(key: str, fd: int, start: int, stop: int) -> bytes:
    """A range that is large, or that one system call did not give."""

    def fill(at: int, view: memoryview) -> None:
        if not read_fully(fd, view, start + at):
            raise Unavailable(f"{key!r} became shorter while it was read; read it again", key=key)

    return large_bytes(stop - start, fill)


def info_of(key: str, found: os.stat_result, metadata: Mapping[str, str] | None) -> ObjectInfo:
    size, mtime_ns = found.st_size, found.st_mtime_ns
    return ObjectInfo(key, size, mtime_ns, "%x-%x-%x" % (found.st_ino, mtime_ns, size), metadata)  # noqa: UP031


def encoded(metadata: Mapping[str, str]) -> bytes:
    return json.dumps(metadata, separators=(",", ":"), ensure_ascii=False).encode()


def check_etag(key: str, etag: str | None, if_match: str | None) -> None:
    if if_match is not None and etag != if_match:
        raise PreconditionFailed(f"{key!r} has changed", key=key)


def write(fd: int, key: str, data: Data) -> None:
    try:
        written = os.write(fd, data)
        if written != len(data):
            write_all(fd, memoryview(data)[written:])
    except OSError as error:
        raise translated(error, key) from error


def copy_content(source: int, target: int, size: int) -> None:
    """Copy by sharing blocks where the file system can, else within the kernel. Raises OSError."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV, errno.ENOSYS):
            raise
    at = 0
    while at < size:
        count = os.sendfile(target, source, at, size - at)
        if not count:
            raise OSError(errno.ESTALE, "the source became shorter while it was copied")
        at += count
