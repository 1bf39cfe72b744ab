"""Objects that are files of a tree, wherever in it: what stores of files have in common.

What differs is given by a subclass: where a key's file lies (`_names`), what else goes with it, and how
the keys are listed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from fcntl import F_OFD_SETLK, F_OFD_SETLKW
from fcntl import fcntl as setlk
from typing import BinaryIO
from zlib import crc32

from mountstore.backends._arguments import blocks, clip_range, flat
from mountstore.backends._direct_io import DirectIO
from mountstore.backends._filesystem_listing import etag_of
from mountstore.backends._filesystem_locks import LOCK, STRIPES, UNLOCK
from mountstore.backends._filesystem_objects import (
    Names,
    ObjectFiles,
    check_etag,
    copy_content,
    info_of,
    read_large,
    write,
)
from mountstore.backends._filesystem_tree import ABSENT, Tree, lock_name, translated
from mountstore.backends._large_bytes import LARGE_BYTES, read_fully
from mountstore.errors import NotFound, StoreError, Unavailable
from mountstore.store import Data, ObjectInfo, ObjectStore, check_conditions

_BLOCK_BYTES = 1 << 20
_TRIES = 1000


class FileStore(ObjectStore):
    """A store over `tree`, whose files are read and finished by `files`. It closes the tree."""

    _tells = False
    """Whether `_placing` is to be called."""

    def __init__(self, tree: Tree, files: ObjectFiles) -> None:
        self._tree = tree
        self._files = files
        self._direct = DirectIO()

    def close(self) -> None:
        self._tree.close()

    @property
    def device(self) -> int:
        """The number of the file system that the files are on. Raises OSError."""
        return os.fstat(self._tree.root).st_dev

    def room(self) -> tuple[int, int]:
        """(bytes free, bytes in all) on that file system. Raises OSError."""
        disk = os.statvfs(self._tree.root)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    # -- what a subclass says ---------------------------------------------------------------------

    @abstractmethod
    def _names(self, key: str) -> Names:
        """Where the file of the key lies, below the root. Raises InvalidKey."""

    def _located(self, key: str) -> tuple[Names, bytes]:
        """`_names`, and the `lock_name` of these. Raises InvalidKey."""
        names = self._names(key)
        return names, lock_name(names)

    def _placing(self, key: str, names: Names, folder: int) -> bool:
        """If `_tells`: called before a file gets its name in the open `folder`, under the lock of the key.

        True asks for `_placed`.
        """
        return False

    def _placed(self, key: str, names: Names) -> None:
        """Called after a file got its name, under the lock of the key, if `_placing` asked for it."""

    def _remove(self, key: str, place: Names) -> None:
        """Remove the file at `place`, under the lock of the key. Raises OSError."""
        self._tree.remove(place)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        names = self._names(key)
        opened = self._files.open(key, names)
        if opened is None:
            return self._files.empty_folder(key, names)
        fd, found = opened
        try:
            return info_of(key, found, self._files.metadata(fd))
        except OSError as error:
            raise translated(error, key) from error
        finally:
            os.close(fd)

    def stat(self, key: str) -> ObjectInfo:
        names = self._names(key)
        try:
            return info_of(key, self._tree.find(names)[1], None)
        except OSError as error:
            if error.errno in ABSENT:
                return replace(self._files.empty_folder(key, names), metadata=None)
            raise translated(error, key) from error

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFound:
            return False
        return True

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        names = self._names(key)
        opened = self._files.open(key, names)
        if opened is None:
            info = self._files.empty_folder(key, names)
            check_etag(key, info.etag, if_match)
            clip_range(key, start, stop, 0)
            return b""
        fd, found = opened
        try:
            if if_match is not None:
                check_etag(key, etag_of(found), if_match)
            start, stop = clip_range(key, start, stop, found.st_size)
            if stop - start < LARGE_BYTES:
                data = os.pread(fd, stop - start, start)
                if len(data) == stop - start:
                    return data
            return read_large(key, fd, start, stop)
        except OSError as error:
            raise translated(error, key) from error
        finally:
            os.close(fd)

    def get_into(self, key: str, view: memoryview) -> memoryview:
        """`get` of a whole object into the begin of `view`, of which it returns what was filled.

        Nothing is filled if there is more of it than that. Past the page cache, where that can be.
        """
        names = self._names(key)
        opened = self._files.open(key, names)
        if opened is None:
            self._files.empty_folder(key, names)
            return view[:0]
        fd, found = opened
        try:
            filled = view[: found.st_size if found.st_size <= len(view) else 0]
            if not self._direct.read(fd, filled) and not read_fully(fd, filled, 0):
                raise Unavailable(f"{key!r} became shorter while it was read; read it again", key=key)
            return filled
        except OSError as error:
            raise translated(error, key) from error
        finally:
            os.close(fd)

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
        names, path = self._located(key)
        tree, files = self._tree, self._files
        kept = files.kept(key, metadata) if metadata else {}
        condition = None
        if if_absent or if_match is not None:
            check_conditions(key, if_match, if_absent)
            files.check(key, names, if_match, if_absent)
            condition = if_match, if_absent
        try:
            name, fd = tree.new_file()
        except OSError as error:
            raise translated(error, key) from error
        try:
            if isinstance(data, (bytes, bytearray, memoryview)):  # a union is slower
                write(fd, key, data if isinstance(data, bytes) else flat(data))
            else:
                for block in blocks(data, _BLOCK_BYTES):
                    write(fd, key, block)
            found = files.finish(key, fd, kept)
            self._into_place(key, names, path, name, condition)
        except BaseException:
            tree.discard(name)
            raise
        finally:
            os.close(fd)
        # As `info_of`. What a put calls is told by its time: what fits is written out here and below.
        size, mtime_ns = found.st_size, found.st_mtime_ns
        return ObjectInfo(key, size, mtime_ns, "%x-%x-%x" % (found.st_ino, mtime_ns, size), kept)  # noqa: UP031

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        try:
            names = self._names(key)
            with self._tree.locks.hold(lock_name(names)):
                try:
                    place, found = self._tree.find(names)
                    if if_match is not None:
                        check_etag(key, etag_of(found), if_match)
                    self._remove(key, place)
                except OSError as error:
                    if error.errno not in ABSENT:
                        raise
                    info = self._files.empty_folder(key, names)
                    check_etag(key, info.etag, if_match)
                    self._tree.prune(names[:-1])
        except NotFound:
            if not missing_ok:
                raise
        except OSError as error:
            raise translated(error, key) from error

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        names, target_names = self._names(source), self._names(target)
        kept = None if metadata is None else self._files.kept(target, metadata)
        if source == target:
            info = self._set_metadata(source, names, kept, if_match)
            if info is not None:
                return info
        opened = self._files.open(source, names)
        if opened is None:
            check_etag(source, self._files.empty_folder(source, names).etag, if_match)
            return self.put(target, b"", metadata=metadata)
        from_fd, found = opened
        try:
            check_etag(source, etag_of(found), if_match)
            if kept is None:
                kept = self._files.metadata(from_fd)
            name, fd = self._new_file(target)
            try:
                copy_content(from_fd, fd, found.st_size)
                copied = self._files.finish(target, fd, kept)
                condition = (etag_of(found), False) if source == target else None
                self._into_place(target, target_names, lock_name(target_names), name, condition)
            except BaseException:
                self._tree.discard(name)
                raise
            finally:
                os.close(fd)
            return info_of(target, copied, kept)
        except OSError as error:
            raise translated(error, source) from error
        finally:
            os.close(from_fd)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        names, target_names = self._names(source), self._names(target)
        if source == target or not self._files.is_file(names):
            info = self.head(source)
            check_etag(source, info.etag, if_match)
            if source != target:
                info = self.put(target, b"")
                self.delete(source, missing_ok=True)
            return info
        try:
            for _ in range(_TRIES):
                try:
                    folder = self._tree.made(target_names[:-1])
                except FileNotFoundError:
                    continue
                try:
                    with self._tree.locks.hold(lock_name(names), lock_name(target_names)):
                        return self._move(source, names, target, target_names, folder, if_match)
                except _Gone:
                    continue
                finally:
                    self._tree.leave(folder)
            raise Unavailable(f"the folder of {target!r} is removed again and again", key=target)
        except (StoreError, OSError) as error:
            self._tree.prune(target_names[:-1])
            if isinstance(error, OSError):
                raise translated(error, source) from error
            raise

    def _move(
        self, source: str, names: Names, target: str, target_names: Names, folder: int, if_match: str | None
    ) -> ObjectInfo:
        """Rename, with both keys locked and the target's folder open."""
        place, found = self._tree.find(names)
        info = info_of(target, found, None)
        check_etag(source, info.etag, if_match)
        from_folder = self._tree.folder(place[:-1], flags=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if self.capabilities.metadata:
                fd = os.open(place[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=from_folder)
                try:
                    info = replace(info, metadata=self._files.metadata(fd))
                finally:
                    os.close(fd)
            else:
                info = replace(info, metadata={})
            try:
                told = self._tells and self._placing(target, target_names, folder)
                self._tree.place(from_folder, place[-1], folder, target_names[-1])
                if told:
                    self._placed(target, target_names)
            except FileNotFoundError:
                raise _Gone from None
            if found.st_nlink > 1:
                # Renaming one link of a file onto another does nothing at all.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place[-1], dir_fd=from_folder)
            self._tree.sync(from_folder)
        finally:
            self._tree.leave(from_folder)
        self._tree.prune(place[:-1])
        return info

    # -- within -----------------------------------------------------------------------------------

    def _new_file(self, key: str) -> tuple[bytes, int]:
        try:
            return self._tree.new_file()
        except OSError as error:
            raise translated(error, key) from error

    def _into_place(
        self,
        key: str,
        names: Names,
        path: bytes,
        name: bytes,
        condition: tuple[str | None, bool] | None,
    ) -> None:
        tree, locks = self._tree, self._tree.locks
        root, stripe, tries = tree.root, crc32(path) % STRIPES, 0
        thread, folder = locks.threads[stripe], root
        try:
            while True:
                try:
                    if len(names) > 1:
                        folder = tree.made_for(names, path)
                    thread.acquire()
                    try:
                        setlk(locks.file, F_OFD_SETLKW, LOCK[stripe])
                        if condition is not None:
                            self._files.check(key, names, *condition)
                        told = self._tells and self._placing(key, names, folder)
                        try:
                            os.rename(name, names[-1], src_dir_fd=tree.writing, dst_dir_fd=folder)
                        except OSError as error:
                            if error.errno not in (errno.EISDIR, errno.ENOSPC):
                                raise
                            tree.place(tree.writing, name, folder, names[-1])
                        else:
                            if tree.durable:
                                os.fsync(folder)
                        if told:
                            self._placed(key, names)
                    finally:
                        try:
                            setlk(locks.file, F_OFD_SETLK, UNLOCK[stripe])
                        finally:
                            thread.release()
                    return
                except FileNotFoundError:
                    tries += 1  # the folder was found empty, and removed, by another call
                    if tries == _TRIES:
                        raise Unavailable(
                            f"the folder of {key!r} is removed again and again", key=key
                        ) from None
                finally:
                    if folder != root:
                        os.close(folder)
                        folder = root
        except (StoreError, OSError) as error:
            self._tree.prune(names[:-1])
            if isinstance(error, OSError):
                raise translated(error, key) from error
            raise

    def _set_metadata(
        self, key: str, names: Names, metadata: dict[str, str] | None, if_match: str | None
    ) -> ObjectInfo | None:
        """Replace the metadata where the file is; None if that would change other names of the file too."""
        try:
            with self._tree.locks.hold(lock_name(names)):
                opened = self._files.open(key, names)
                if opened is None or opened[1].st_nlink > 1:
                    if opened is not None:
                        os.close(opened[0])
                    return None
                fd, found = opened
                try:
                    check_etag(key, etag_of(found), if_match)
                    kept = self._files.metadata(fd) if metadata is None else metadata
                    self._files.set_metadata(fd, kept)
                    return info_of(key, self._files.finish(key, fd, {}), kept)
                finally:
                    os.close(fd)
        except OSError as error:
            raise translated(error, key) from error


class _Gone(Exception):
    """The folder that a file was to go into was removed meanwhile."""
