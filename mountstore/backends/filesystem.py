"""A store of natural files: the object `a/b.txt` is the file `ROOT/a/b.txt`, and any file there an object.

What a file name cannot say is escaped; all such names start with `.mountstore~`, and no others do:

- `.mountstore~eTEXT` is a segment that is empty, `.` or `..`, holds NUL, is longer than 255 bytes or itself
  starts with `.mountstore~`. In TEXT `%00` is NUL, `%2E` a dot, `%25` a percent sign.
- `.mountstore~lTEXT/.../.mountstore~eTEXT`: TEXT over 200 bytes, in pieces, each a folder in the one before.
- `a/.mountstore~f` is the object `a` where `a` is a folder. It stays there while that folder does.
- `dir/.mountstore~e` is therefore the object `dir/`. An empty folder that somebody else made is the object
  `dir/` as well, with no content and no metadata, for as long as nothing is in it.
- A file name that is not UTF-8 is the segment `.mountstore~bTEXT`, its stray bytes as `%FF`.
- `.mountstore~tmp` in the root holds locks and files that are being written. Leave it alone.

Links, devices, sockets and pipes are no objects; links are never followed, whenever they appear. On a file
system that ignores case, keys that differ in case alone are one object.

Metadata is the extended attribute `user.mountstore.metadata`, as JSON. The etag is made of inode number,
time of change and size, so another program's writing changes it too.
"""

from __future__ import annotations

import builtins
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from mountstore.backends._arguments import blocks, check_key, clip_range, flat
from mountstore.backends._filesystem_listing import Listing, etag_of
from mountstore.backends._filesystem_names import names_of
from mountstore.backends._filesystem_objects import (
    MAX_METADATA_BYTES,
    Names,
    ObjectFiles,
    check_etag,
    copy_content,
    info_of,
    read_rest,
    write,
)
from mountstore.backends._filesystem_tree import ABSENT, Tree, lock_name, translated
from mountstore.errors import (
    AccessDenied,
    InvalidKey,
    NotFound,
    StoreError,
    Unavailable,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

_BLOCK_BYTES = 1 << 20
_TRIES = 1000


class FilesystemStore(ObjectStore):
    """The files below the folder `root`, which is made if `create` says so.

    A put writes a file aside and renames it into place. With `durable` it returns when the disk has the
    file and its name. Conditions hold among all threads and processes that use this class; other programs
    may read and write the files at any time, and take no part in the locks. A reader has the file open, so
    it sees one version, unless another program writes into the file itself.

    On a file system without extended attributes `capabilities.metadata` is False, and metadata is dropped.
    """

    def __init__(self, root: str | os.PathLike[str], *, durable: bool = True, create: bool = True) -> None:
        path = os.fspath(root)
        try:
            if create:
                os.makedirs(path, exist_ok=True)
            self._tree = Tree(path, durable=durable)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{path} is not a directory; name one") from None
        except FileNotFoundError:
            raise StoreError(f"{path} does not exist; make it first") from None
        except PermissionError as error:
            raise AccessDenied(f"{path}: {error.strerror}; check its permissions") from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        self._files = ObjectFiles(self._tree)
        self.capabilities = Capabilities(
            metadata=self._files.attributes,
            server_copy=True,
            atomic_rename=True,
            local=True,
            max_key_bytes=4096,
            max_metadata_bytes=MAX_METADATA_BYTES,
            concurrency=8,
        )

    def close(self) -> None:
        self._tree.close()

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
            data = os.pread(fd, stop - start, start)
            if len(data) == stop - start:
                return data
            return read_rest(key, fd, data, start, stop)
        except OSError as error:
            raise translated(error, key) from error
        finally:
            os.close(fd)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return next(self.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        objects: builtins.list[ObjectInfo] = []
        prefixes: builtins.list[str] = []
        last = after
        for entry in self._entries(prefix, delimiter, after):
            if len(objects) + len(prefixes) >= limit:
                yield Page(objects, prefixes, last)
                objects, prefixes = [], []
            if isinstance(entry, str):
                prefixes.append(entry)
                last = entry
            else:
                objects.append(entry)
                last = entry.key
        yield Page(objects, prefixes, None)

    def keys(self, prefix: str = "") -> Iterator[str]:
        for entry in self._listing(prefix, "", grouped=False, stats=False):
            if isinstance(entry, ObjectInfo):
                yield entry.key

    def _entries(self, prefix: str, delimiter: str, after: str) -> Iterator[ObjectInfo | str]:
        if delimiter in ("", "/"):
            yield from self._listing(prefix, after, grouped=bool(delimiter))
            return
        group = ""
        for entry in self._listing(prefix, after):
            assert isinstance(entry, ObjectInfo)
            at = entry.key.find(delimiter, len(prefix))
            if at < 0:
                yield entry
            elif not group or not entry.key.startswith(group):
                group = entry.key[: at + len(delimiter)]
                if group > after:
                    yield group

    def _listing(
        self, prefix: str, after: str, *, grouped: bool = False, stats: bool = True
    ) -> Iterator[ObjectInfo | str]:
        base = prefix[: prefix.rfind("/") + 1]
        names = names_of(base[:-1], len(base.encode())) if base else ()
        try:
            yield from Listing(self._tree, prefix, after, grouped=grouped, stats=stats).entries(names, base)
        except OSError as error:
            raise translated(error, None) from error

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
        names = self._names(key)
        kept = self._files.kept(key, metadata)
        conditional = if_absent or if_match is not None
        if conditional:
            self._files.check(key, names, if_match, if_absent)
        name, fd = self._new_file(key)
        try:
            if isinstance(data, Data):
                write(fd, key, flat(data))
            else:
                for block in blocks(data, _BLOCK_BYTES):
                    write(fd, key, block)
            found = self._files.finish(key, fd, kept)
            self._into_place(key, names, name, (if_match, if_absent) if conditional else None)
        except BaseException:
            self._tree.discard(name)
            raise
        finally:
            os.close(fd)
        return info_of(key, found, kept)

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        try:
            names = self._names(key)
            with self._tree.locks.hold(lock_name(names)):
                try:
                    place, found = self._tree.find(names)
                    check_etag(key, etag_of(found), if_match)
                    self._tree.remove(place)
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
                self._into_place(target, target_names, name, condition)
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
                folder = self._tree.made(target_names[:-1])
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
                self._tree.place(from_folder, place[-1], folder, target_names[-1])
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

    def _names(self, key: str) -> Names:
        size = len(check_key(key))
        if size > 4096:
            raise InvalidKey(f"a key of {size} bytes; this store holds keys of up to 4096", key=key)
        return names_of(key, size)

    def _new_file(self, key: str) -> tuple[str, int]:
        try:
            return self._tree.new_file()
        except OSError as error:
            raise translated(error, key) from error

    def _into_place(
        self, key: str, names: Names, name: str, condition: tuple[str | None, bool] | None
    ) -> None:
        try:
            for _ in range(_TRIES):
                folder = self._tree.made(names[:-1])
                try:
                    with self._tree.locks.hold(lock_name(names)):
                        if condition is not None:
                            self._files.check(key, names, *condition)
                        self._tree.place(self._tree.writing, name, folder, names[-1])
                    return
                except FileNotFoundError:
                    continue  # another call found the folder empty and removed it
                finally:
                    self._tree.leave(folder)
            raise Unavailable(f"the folder of {key!r} is removed again and again", key=key)
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
