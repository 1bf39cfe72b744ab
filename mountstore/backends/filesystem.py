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
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from mmap import PAGESIZE
from stat import S_ISREG as is_regular

from zlib_ng import zlib_ng

from mountstore.backends._arguments import check_key, flat
from mountstore.backends._filesystem_listing import Listing
from mountstore.backends._filesystem_names import NAME_BYTES, names_of
from mountstore.backends._filesystem_objects import (
    MAX_METADATA_BYTES,
    Names,
    ObjectFiles,
    info_of,
    open_tree,
    write,
)
from mountstore.backends._filesystem_store import FileStore
from mountstore.backends._filesystem_tree import NEW, lock_name, translated
from mountstore.backends._large_bytes import LARGE_BYTES
from mountstore.errors import InvalidKey, PreconditionFailed
from mountstore.store import Capabilities, Data, ObjectInfo, Page

_FOLDERS = 4096
_PIECE_BYTES = 256 << 10
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesystemStore(FileStore):
    """The files below the folder `root`, which is made if `create` says so.

    A put writes a file aside and renames it into place. With `durable` it returns when the disk has the
    file and its name. Conditions hold among all threads and processes that use this class; other programs
    may read and write the files at any time, and take no part in the locks. A reader has the file open, so
    it sees one version, unless another program writes into the file itself.

    On a file system without extended attributes `capabilities.metadata` is False, and metadata is dropped.
    """

    def __init__(self, root: str | os.PathLike[str], *, durable: bool = True, create: bool = True) -> None:
        tree = open_tree(root, durable=durable, create=create)
        super().__init__(tree, ObjectFiles(tree))
        self._plain_folders: dict[str, Names] = {}
        self.capabilities = Capabilities(
            metadata=self._files.attributes,
            server_copy=True,
            atomic_rename=True,
            local=True,
            max_key_bytes=4096,
            max_metadata_bytes=MAX_METADATA_BYTES,
            concurrency=8,
        )

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

    def make_folder(self, key: str) -> None:
        """Make the folder of this name, without a slash, and those above; it is there until it is removed
        or the last file in it is deleted. One that is there is no error."""
        try:
            self._tree.leave(self._tree.made(self._names(key)))
        except OSError as error:
            raise translated(error, key) from error

    def remove_folder(self, key: str) -> None:
        """Remove an empty folder. Raises NotFound, and PreconditionFailed if something is in it."""
        names = self._names(key)
        try:
            folder = self._tree.reading(names[:-1])
            try:
                os.rmdir(names[-1], dir_fd=folder)
                self._tree.sync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise PreconditionFailed(f"the folder {key!r} is not empty", key=key) from None
            raise translated(error, key) from error

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

    def stat(self, key: str) -> ObjectInfo:
        # What the rest does, for what most files are.
        if _is_plain(key):
            try:
                found = os.stat(key, dir_fd=self._tree.root, follow_symlinks=False)
            except OSError:
                pass
            else:
                if is_regular(found.st_mode):
                    return info_of(key, found, None)
        return super().stat(key)

    # -- for who is alone with the store ------------------------------------------------------------

    def keep(self, key: str, data: Data) -> None:
        """`put` for who is the only one with this key, and asks for no etag; a cache.

        The object is there whole or not at all, but for this: a new one of up to a page is written where it
        belongs, and a process that is killed there may leave it empty. No lock is taken, so a conditional put
        or a delete at the same time may come between; and two versions may have one etag.
        """
        root = self._tree.root
        if self._tree.durable or not _is_plain(key):
            self.put(key, data)
            return
        data = flat(data)
        if len(data) > PAGESIZE:
            self._keep_aside((data,), lambda: key, key)
            return
        try:
            fd = os.open(key, NEW, 0o666, dir_fd=root)
        except FileExistsError:
            self._keep_aside((data,), lambda: key, key)
            return
        except OSError as error:
            raise translated(error, key) from error
        try:
            write(fd, key, data)
        except BaseException:
            os.unlink(key, dir_fd=root)
            raise
        finally:
            os.close(fd)

    def keep_summed(self, named: Callable[[int], str], data: Data) -> None:
        """`keep` under the name that `named` gives for the CRC-32 of the data.

        Which is taken of each piece when it has been written: the processor has it at hand then. Of a large
        content that takes a fourth of the time that it takes before.
        """
        data, crc = flat(data), 0
        if self._tree.durable or len(data) < _PIECE_BYTES:
            self.keep(named(zlib_ng.crc32(data)), data)
            return

        def pieces() -> Iterator[memoryview]:
            nonlocal crc
            view = memoryview(data)
            for at in range(0, len(view), _PIECE_BYTES):
                piece = view[at : at + _PIECE_BYTES]
                yield piece
                crc = zlib_ng.crc32(piece, crc)

        self._keep_aside(pieces(), lambda: named(crc))

    def _keep_aside(self, pieces: Iterable[Data], named: Callable[[], str], key: str = "") -> None:
        """Write a file aside, and give it its name, which is asked for then; `key` is what errors tell of."""
        name, fd = self._new_file(key)
        try:
            for piece in pieces:
                write(fd, key, piece)
            key = named()
            if not _is_plain(key):
                raise InvalidKey(f"{key!r} is not the name of a file", key=key)
            self._tree.place(self._tree.writing, name, self._tree.root, key)
        except BaseException as error:
            self._tree.discard(name)
            if isinstance(error, OSError):
                raise translated(error, key) from error
            raise
        finally:
            os.close(fd)

    def kept(self, key: str, size: int) -> Data:
        """`get` of what `keep` put; of another length than `size` where the object has another."""
        if size >= LARGE_BYTES or not _is_plain(key):
            return self.get(key)
        try:
            fd = os.open(key, _READ, dir_fd=self._tree.root)
        except OSError as error:
            raise translated(error, key) from error
        try:
            return os.read(fd, size + 1)
        except IsADirectoryError:
            return self.get(key)
        except OSError as error:
            raise translated(error, key) from error
        finally:
            os.close(fd)

    def drop(self, key: str) -> None:
        """`delete` of what `keep` put, if it is there, in the same way."""
        if self._tree.durable or not _is_plain(key):
            self.delete(key, missing_ok=True)
            return
        try:
            os.unlink(key, dir_fd=self._tree.root)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self.delete(key, missing_ok=True)
        except OSError as error:
            raise translated(error, key) from error

    # -- names ------------------------------------------------------------------------------------

    def _located(self, key: str) -> tuple[Names, bytes]:
        # Most keys need no escaping, nor did the last one of the same folder: what is known of that is kept.
        folder, slash, name = key.rpartition("/")
        known = self._plain_folders.get(folder) if slash else ()
        if known is not None and name and name[0] != "." and "\0" not in name:
            raw = check_key(key)
            if len(raw) <= NAME_BYTES:
                return (*known, name), raw
        names = self._names(key)
        path = lock_name(names)
        if slash and path == key.encode() and len(path) <= NAME_BYTES:
            if len(self._plain_folders) >= _FOLDERS:
                self._plain_folders.clear()
            self._plain_folders[folder] = names[:-1]
        return names, path

    def _names(self, key: str) -> Names:
        size = len(check_key(key))
        if size > 4096:
            raise InvalidKey(f"a key of {size} bytes; this store holds keys of up to 4096", key=key)
        return names_of(key, size)


def _is_plain(key: str) -> bool:
    """Whether a key is the name of its file, in the root: what `names_of` says of most, without asking it."""
    size = len(key)
    return size <= NAME_BYTES and key.isascii() and key[:1] not in "./" and "/" not in key and "\0" not in key
