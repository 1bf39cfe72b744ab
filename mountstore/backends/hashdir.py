"""A store of files named by the hash of their key, so that no folder gets large and any key fits.

With `width` 2 and `depth` 3 the object `a` is the file `ROOT/ca/97/81/12ca1bbdca...48bb`: the SHA-256 of
the key's UTF-8 bytes in hexadecimal, its first `depth` times `width` characters being folders.

A name does not tell its key, so the key is kept with the file: in the extended attribute
`user.mountstore.key`; if it is longer than 400 bytes, or on a file system without such attributes, in a
file beside it, `.mountstore~k` and the object's name. A key counts only where its hash is the name.
Listing reads all of them once, and then follows a token in `ROOT/.mountstore~tmp` that each process
changes whenever a key comes or goes. Metadata is the attribute `user.mountstore.metadata`, as JSON.

Files that another program put here are objects, to be read, replaced and deleted by key; but they cannot
be listed, for nobody can tell their keys. As long as there are any, listing is refused, unless
`skip_unknown` says to leave them out; `adopt` makes them known.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from operator import itemgetter

from mountstore.backends._arguments import check_key
from mountstore.backends._filesystem_listing import etag_of
from mountstore.backends._filesystem_objects import MAX_METADATA_BYTES, Names, open_tree
from mountstore.backends._filesystem_store import FileStore
from mountstore.backends._filesystem_tree import ABSENT, lock_name, translated, write_all
from mountstore.backends._hashdir_keys import (
    KEY,
    KEY_FILE,
    MAX_ATTRIBUTE_BYTES,
    RENAMED,
    Found,
    KeyedFiles,
    KeyIndex,
    walk,
)
from mountstore.backends._sorted_keys import page_of
from mountstore.errors import StoreError, Unsupported, UsageError
from mountstore.store import Capabilities, ObjectInfo, Page

_KEYS_AT_ONCE = 1000


class HashdirStore(FileStore):
    """The files of hashed names below the folder `root`, which is made if `create` says so.

    Atomic, durable and safe among threads and processes as a FilesystemStore is. The first to open a root
    decides on `width` and `depth`; StoreError for another who opens it with others. A listing remembers
    all keys in memory.
    """

    _tells = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        width: int = 2,
        depth: int = 3,
        *,
        durable: bool = True,
        create: bool = True,
        skip_unknown: bool = False,
    ) -> None:
        if width < 1 or depth < 0 or width * depth >= 64:
            raise UsageError("width is at least 1, depth at least 0, and together they stay below 64")
        self._width, self._depth = width, depth
        folders = [slice(at, at + width) for at in range(0, width * depth, width)]
        self._cut: Callable[[str], Names] = (
            itemgetter(*folders, slice(width * depth, 64)) if depth else lambda digest: (digest,)
        )
        self._root = os.fspath(root)
        self._skip_unknown = skip_unknown
        tree = open_tree(root, durable=durable, create=create)
        self._keyed = KeyedFiles(tree)
        self._surely_fits = MAX_ATTRIBUTE_BYTES // 4 if self._keyed.attributes else 0  # in characters
        super().__init__(tree, self._keyed)
        try:
            self._check_layout()
            self._index = KeyIndex(tree, lambda: walk(tree, width, depth, self._names))
        except BaseException:
            tree.close()
            raise
        self.capabilities = Capabilities(
            metadata=self._files.attributes,
            server_copy=True,
            atomic_rename=True,
            local=True,
            max_metadata_bytes=MAX_METADATA_BYTES,
            concurrency=8,
        )

    def close(self) -> None:
        self._index.close()
        super().close()

    def _check_layout(self) -> None:
        name, fd = self._tree.new_file()
        try:
            write_all(fd, f"{self._width} {self._depth}\n".encode())
            self._tree.sync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(name, "layout", src_dir_fd=self._tree.writing, dst_dir_fd=self._tree.private)
        finally:
            os.close(fd)
            self._tree.discard(name)
        with open(os.open("layout", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._tree.private)) as file:
            width, _, depth = file.read().strip().partition(" ")
        if (width, depth) != (str(self._width), str(self._depth)):
            raise StoreError(f"{self._root} has width {width} and depth {depth}; open it with these")

    # -- listing ----------------------------------------------------------------------------------

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        names, groups, following = self._look(prefix, delimiter, after, limit)
        objects = []
        for key in names:
            try:
                found = self._tree.find(self._names(key))[1]
            except OSError as error:
                if error.errno in ABSENT:
                    continue  # deleted since
                raise translated(error, key) from error
            objects.append(ObjectInfo(key, found.st_size, found.st_mtime_ns, etag_of(found)))
        return Page(objects, groups, following)

    def keys(self, prefix: str = "") -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            names, _, after = self._look(prefix, "", after, _KEYS_AT_ONCE)
            yield from names

    def adopt(self, keys: Iterable[str]) -> int:
        """Tell the keys of objects that another program put here; how many of them there are.

        Each key is kept with its object from now on, so that it is listed; others are passed over.
        """
        count = 0
        for key in keys:
            names = self._names(key)
            try:
                with self._tree.locks.hold(lock_name(names)):
                    opened = self._files.open(key, names)
                    if opened is None:
                        continue
                    told = self._index.changing(key, names, True)
                    try:
                        self._keep_key(key, names, opened[0])
                    finally:
                        os.close(opened[0])
                    if told:
                        self._index.changed(key, names, True)
            except OSError as error:
                raise translated(error, key) from error
            count += 1
        return count

    def _look(
        self, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[builtins.list[str], builtins.list[str], str | None]:
        def see(found: Found) -> tuple[builtins.list[str], builtins.list[str], str | None]:
            if found.unknown and not self._skip_unknown:
                raise Unsupported(
                    f"{len(found.unknown)} objects in {self._root} were put there by another program and do "
                    "not tell their keys; make these known with adopt(), or leave them out by skip_unknown"
                )
            return page_of(found.keys, prefix, delimiter, after, limit)

        try:
            return self._index.look(see)
        except OSError as error:
            raise translated(error, None) from error

    # -- what goes with a file --------------------------------------------------------------------

    def _names(self, key: str) -> Names:
        return self._cut(sha256(check_key(key)).hexdigest())

    def _located(self, key: str) -> tuple[Names, bytes]:
        names = self._cut(sha256(check_key(key)).hexdigest())
        return names, "/".join(names).encode()

    def _placing(self, key: str, names: Names, folder: int) -> bool:
        if len(key) > self._surely_fits and not self._keyed.fits(key):
            self._write_key_file(key, names, folder)
        return self._index.changing(key, names, True)

    def _placed(self, key: str, names: Names) -> None:
        self._index.changed(key, names, True)

    def _remove(self, key: str, place: Names) -> None:
        names = self._names(key)
        told = self._index.changing(key, names, False)
        folder = self._tree.folder(place[:-1], flags=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.unlink(place[-1], dir_fd=folder)
            self._drop_key_file(place, folder)
            self._tree.sync(folder)
        finally:
            self._tree.leave(folder)
        self._tree.prune(place[:-1])
        if told:
            self._index.changed(key, names, False)

    def _move(
        self, source: str, names: Names, target: str, target_names: Names, folder: int, if_match: str | None
    ) -> ObjectInfo:
        fd = self._tree.open(names)
        try:
            if self._keyed.fits(target):
                # Until the rename this means nothing, and right after it tells the key.
                os.setxattr(fd, RENAMED, target.encode())
                self._tree.sync(fd)
            told = self._index.changing(source, names, False)
            info = super()._move(source, names, target, target_names, folder, if_match)
            self._keep_key(target, target_names, fd)
        finally:
            os.close(fd)
        try:
            left = self._tree.folder(names[:-1], flags=os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
        else:
            try:
                self._drop_key_file(names, left)
            finally:
                self._tree.leave(left)
            self._tree.prune(names[:-1])
        if told:
            self._index.changed(source, names, False)
        return info

    def _keep_key(self, key: str, names: Names, fd: int) -> None:
        if self._keyed.fits(key):
            os.setxattr(fd, KEY, key.encode())
            self._tree.sync(fd)
        else:
            folder = self._tree.made(names[:-1])
            try:
                self._write_key_file(key, names, folder)
            finally:
                self._tree.leave(folder)
        for attribute in (RENAMED, *(() if self._keyed.fits(key) else (KEY,))):
            try:
                os.removexattr(fd, attribute)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise

    def _write_key_file(self, key: str, names: Names, folder: int) -> None:
        """The same content whenever it is written, so nothing depends on when that is."""
        beside = KEY_FILE + names[-1]
        name, fd = self._tree.new_file()
        try:
            write_all(fd, key.encode())
            self._tree.sync(fd)
            self._tree.rename(self._tree.writing, name, folder, beside)
            self._tree.sync(folder)
        except BaseException:
            self._tree.discard(name)
            raise
        finally:
            os.close(fd)

    def _drop_key_file(self, names: Names, folder: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(KEY_FILE + names[-1], dir_fd=folder)
