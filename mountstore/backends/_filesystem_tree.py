"""Folders below a root, walked name by name so that nothing leads out of it; and the private folder.

Every step opens one name below an open folder, without following links: `..` and absolute names cannot
be asked for (keys that hold them are escaped), and a link put in the way at any moment is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import itertools
import os
import secrets
import stat
from typing import Any

from mountstore.backends._filesystem_locks import KeyLocks
from mountstore.backends._filesystem_names import BESIDE, PRIVATE
from mountstore.errors import AccessDenied, InvalidKey, NotFound, StoreError, StoreFull, Unavailable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})

_RENAME_EXCHANGE = 2
_NO_SYMLINKS_BENEATH = 0x04 | 0x08
_PATH_BYTES = 4095
_ALL = 1 << 30
_libc = ctypes.CDLL(None, use_errno=True)
# Called with arguments that have their C types already: to convert them takes as long as the call.
_syscall = ctypes.CDLL(None).syscall
_OPENAT2 = ctypes.c_long(437)  # the same number on every architecture

_ERRORS: dict[int, type[StoreError]] = {
    **dict.fromkeys(ABSENT, NotFound),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), StoreFull),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), AccessDenied),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM), Unavailable),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL), InvalidKey),
}


def translated(error: OSError, key: str | None) -> StoreError:
    """The one table from the system's errors to ours."""
    kind = _ERRORS.get(error.errno or 0, StoreError)
    if kind is NotFound:
        return NotFound(key=key)
    text = error.strerror or str(error)
    return kind(text if key is None else f"{key!r}: {text}", key=key)


def exchange(old_folder: int, old: str, new_folder: int, new: str) -> None:
    """Let two names change places in one step. Raises OSError."""
    if _libc.renameat2(old_folder, os.fsencode(old), new_folder, os.fsencode(new), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write one byte an item. Raises OSError."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.write(fd, view[written:])


def lock_name(names: tuple[str, ...]) -> bytes:
    """What the lock of the object at these names goes by: their path."""
    return "/".join(names).encode(errors="surrogateescape")


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _how(flags: int) -> Any:
    return ctypes.byref(_How(flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, 0, _NO_SYMLINKS_BENEATH))


_HOW_BYTES = ctypes.c_size_t(ctypes.sizeof(_How))


def _open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open a path of several names below a folder in one step, through no link and not leaving the folder.

    -1 where that fails, or the kernel does not know how to; the caller then goes name by name, which tells
    why.
    """
    fd: int = _syscall(_OPENAT2, root, path, _how(flags), _HOW_BYTES)
    return fd


class Tree:
    """An open root folder, with a private folder in it for locks and for files that are being written.

    Each open tree has a folder of its own in there, locked for as long as it lives; folders that nobody
    locks were left by a process that died, and are emptied by the next that opens the root.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self.durable = durable
        # How many folders the last put found before it had to make some: the next will most often, too.
        self._found = _ALL
        self._fds: list[int] = []
        self._numbers = itertools.count()
        try:
            self.root = self._keep(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            with contextlib.suppress(FileExistsError):
                os.mkdir(PRIVATE, 0o700, dir_fd=self.root)
            self.private = self._keep(os.open(PRIVATE, _FOLDER, dir_fd=self.root))
            lock_file = os.open(
                "locks", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.private
            )
            self.locks = KeyLocks(self._keep(lock_file))
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            try:
                self._collect_abandoned()
                self._own = "writing-" + secrets.token_hex(8)
                os.mkdir(self._own, 0o700, dir_fd=self.private)
                self.writing = self._keep(os.open(self._own, _FOLDER, dir_fd=self.private))
                fcntl.flock(self.writing, fcntl.LOCK_EX)
            finally:
                fcntl.flock(lock_file, fcntl.LOCK_UN)
        except BaseException:
            self._let_go()
            raise

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _let_go(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def close(self) -> None:
        if self._fds:
            try:
                self._empty(self.writing)
                with contextlib.suppress(FileNotFoundError):  # somebody removed the whole tree
                    os.rmdir(self._own, dir_fd=self.private)
            finally:
                self._let_go()

    def _collect_abandoned(self) -> None:
        for name in os.listdir(self.private):
            if not name.startswith("writing-"):
                continue
            fd = os.open(name, _FOLDER, dir_fd=self.private)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._empty(fd)
                os.rmdir(name, dir_fd=self.private)
            except BlockingIOError:
                continue  # its owner is at work
            finally:
                os.close(fd)

    def _empty(self, folder: int) -> None:
        for name in os.listdir(folder):
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:
                inner = os.open(name, _FOLDER, dir_fd=folder)
                try:
                    self._empty(inner)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)

    # -- finding ----------------------------------------------------------------------------------

    def folder(self, names: tuple[str, ...], *, flags: int = _PASSING) -> int:
        """The open folder at these names, to be given back with `leave`. Raises OSError."""
        if len(names) > 1 and (fd := self._beneath(names, flags)) >= 0:
            return fd
        fd = self.root
        last = len(names) - 1
        for number, name in enumerate(names):
            try:
                inner = os.open(name, flags if number == last else _PASSING, dir_fd=fd)
            finally:
                self.leave(fd)
            fd = inner
        return fd

    def _beneath(self, names: tuple[str, ...], flags: int) -> int:
        path = lock_name(names)
        return _open_beneath(self.root, path, flags) if len(path) <= _PATH_BYTES else -1

    def reading(self, names: tuple[str, ...]) -> int:
        """The folder at these names, to be listed and closed: its position is shared with nobody."""
        if not names:
            return os.open(".", _FOLDER, dir_fd=self.root)
        return self.folder(names, flags=_FOLDER)

    def leave(self, folder: int) -> None:
        if folder != self.root:
            os.close(folder)

    def open(self, names: tuple[str, ...]) -> int:
        """The object's file, opened for reading; a folder, if that is what is there. Raises OSError."""
        if len(names) == 1:
            return os.open(names[0], _FILE, dir_fd=self.root)
        if (fd := self._beneath(names, _FILE)) >= 0:
            return fd
        folder = self.folder(names[:-1])
        try:
            fd = os.open(names[-1], _FILE, dir_fd=folder)
        finally:
            self.leave(folder)
        return fd

    def find(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], os.stat_result]:
        """Where the object's file lies, beside a folder or not, and its attributes. Raises OSError."""
        folder = self.folder(names[:-1])
        try:
            found = os.stat(names[-1], dir_fd=folder, follow_symlinks=False)
        finally:
            self.leave(folder)
        if stat.S_ISDIR(found.st_mode):
            names = (*names, BESIDE)
            folder = self.folder(names[:-1])
            try:
                found = os.stat(BESIDE, dir_fd=folder, follow_symlinks=False)
            finally:
                self.leave(folder)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return names, found

    def empty_folder(self, names: tuple[str, ...]) -> os.stat_result | None:
        """The attributes of the folder at these names if nothing at all is in it."""
        try:
            folder = self.folder(names, flags=_FOLDER)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise
        try:
            with os.scandir(folder) as found:
                return os.fstat(folder) if next(found, None) is None else None
        finally:
            self.leave(folder)

    # -- changing ---------------------------------------------------------------------------------

    def new_file(self) -> tuple[bytes, int]:
        """The name, in the folder `writing`, and the descriptor of a new file."""
        name = b"%d" % next(self._numbers)  # bytes need no encoding, each time they are used
        return name, os.open(name, NEW, 0o666, dir_fd=self.writing)

    def made_for(self, names: tuple[str, ...], path: bytes) -> int:
        """`made` for the folder of the object at these names, whose `lock_name` is `path`: for hot paths."""
        depth, known = len(names) - 1, self._found
        if not depth:
            return self.root
        if depth > known:
            fd = self._made_again(names, known)
        elif depth > 1 and len(path) <= _PATH_BYTES:
            flags = _FOLDER if self.durable else _PASSING
            fd = _syscall(_OPENAT2, self.root, path[: path.rfind(b"/")], _how(flags), _HOW_BYTES)
        else:
            fd = -1
        return fd if fd >= 0 else self.made(names[:-1])

    def _made_again(self, names: tuple[str, ...], known: int) -> int:
        """`made_for` when the last put found `known` folders: what `made` does, with nothing in the way.

        -1 if something is, or one of these is missing. A loop for each of the two, for it is a hot path.
        """
        durable, root = self.durable, self.root
        flags = _FOLDER if durable else _PASSING
        fd, found, is_new = root, known, False
        try:
            for name in names[:known]:
                inner = os.open(name, flags, dir_fd=fd)
                if fd != root:
                    os.close(fd)
                fd = inner
            for name in names[known:-1]:
                try:
                    os.mkdir(name, 0o777, dir_fd=fd)
                    is_new = True
                    if durable:
                        os.fsync(fd)
                except FileExistsError:
                    if not is_new:
                        found += 1
                inner = os.open(name, flags, dir_fd=fd)
                if fd != root:
                    os.close(fd)
                fd = inner
        except BaseException as error:
            self.leave(fd)
            if isinstance(error, OSError):
                return -1
            raise
        self._found = found if is_new else _ALL
        return fd

    def discard(self, name: bytes) -> None:
        """Remove a new file, unless it was put into its place."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.writing)

    def made(self, names: tuple[str, ...]) -> int:
        """Like `folder`, and makes what is missing; a file in the way goes beside the folder.

        Takes the lock of such a file, so the caller must hold none.
        """
        if not names:
            return self.root
        fd, found = self.root, len(names)
        flags = _FOLDER if self.durable else _PASSING
        for number, name in enumerate(names):
            make_first = number >= self._found
            inner = -1
            try:
                while inner < 0:
                    if make_first:
                        try:
                            os.mkdir(name, 0o777, dir_fd=fd)
                            if number < found:
                                found = number
                            if self.durable:
                                os.fsync(fd)
                        except FileExistsError:
                            pass
                    try:
                        inner = os.open(name, flags, dir_fd=fd)
                    except FileNotFoundError:
                        make_first = True
                    except OSError as error:
                        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                            raise
                        with self.locks.hold(lock_name(names[: number + 1])):
                            self._make_room(fd, name)
                        make_first = False
            finally:
                if number:
                    os.close(fd)
            fd = inner
        self._found = found if found < len(names) else _ALL
        return fd

    def _make_room(self, folder: int, name: str) -> None:
        """Put a folder in the place of a file, with the file in it, so that readers find it at any moment."""
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            return
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, f"{name!r} is in the way, neither a folder nor a regular file")
        room = f"room-{next(self._numbers)}"
        os.mkdir(room, 0o777, dir_fd=self.writing)
        inner = os.open(room, _FOLDER, dir_fd=self.writing)
        try:
            try:
                os.link(name, BESIDE, src_dir_fd=folder, dst_dir_fd=inner, follow_symlinks=False)
                self.sync(inner)
                exchange(self.writing, room, folder, name)
                os.unlink(room, dir_fd=self.writing)
            except OSError as error:
                if error.errno not in (
                    errno.EPERM,
                    errno.EOPNOTSUPP,
                    errno.EINVAL,
                    errno.ENOSYS,
                    errno.EMLINK,
                ):
                    raise
                # No links or no exchange on this file system: in two steps.
                if BESIDE in os.listdir(inner):
                    os.unlink(BESIDE, dir_fd=inner)
                os.rename(name, BESIDE, src_dir_fd=folder, dst_dir_fd=inner)
                self.sync(inner)
                os.rename(room, name, src_dir_fd=self.writing, dst_dir_fd=folder)
            self.sync(folder)
        finally:
            os.close(inner)

    def place(self, source_folder: int, source: str | bytes, folder: int, name: str) -> tuple[str, ...]:
        """Rename a file to where an object belongs; the names below `folder` that it got. Raises OSError."""
        try:
            self.rename(source_folder, source, folder, name)
        except IsADirectoryError:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                self.rename(source_folder, source, inner, BESIDE)
                self.sync(inner)
            finally:
                os.close(inner)
            return (name, BESIDE)
        if self.durable:
            os.fsync(folder)
        return (name,)

    def rename(self, source_folder: int, source: str | bytes, folder: int, name: str) -> None:
        """rename(2), which is not refused for want of room that there is. Raises OSError."""
        try:
            os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # A folder that grows needs a block at once. What was deleted ext4 tells of as free, but gives it
            # only once its journal is written: all other calls wait for that, rename does not.
            os.utime(self.writing)  # so that there is something to be written
            os.fsync(self.writing)
            os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)

    def remove(self, names: tuple[str, ...]) -> None:
        """Unlink the file at these names, and the folders that this leaves empty. Raises OSError."""
        folder = self.folder(names[:-1], flags=_FOLDER)
        try:
            os.unlink(names[-1], dir_fd=folder)
            self.sync(folder)
        finally:
            self.leave(folder)
        self.prune(names[:-1])

    def prune(self, names: tuple[str, ...]) -> None:
        """Remove the folder at these names if it is empty, then the one above it, and so on."""
        while names:
            try:
                folder = self.folder(names[:-1], flags=_FOLDER)
            except OSError as error:
                if error.errno in ABSENT:
                    return
                raise
            try:
                os.rmdir(names[-1], dir_fd=folder)
                self.sync(folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, *ABSENT):
                    return
                raise
            finally:
                self.leave(folder)
            names = names[:-1]

    def sync(self, fd: int) -> None:
        if self.durable:
            os.fsync(fd)
