"""The verbs of a POSIX file system over one store, for one event loop, knowing nothing of FUSE.

Inodes are numbers, names are bytes, errors are OSError (POSIX) or StoreError (the store). What a verb
acknowledges is in the index or in the staging folder and survives the death of the process; what `fsync`
acknowledges is in the store, or with `fsync="local"` survives the loss of power here.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

import trio

from mountstore.errors import StoreError
from mountstore.store import Data
from mountstore.vfs.assembly import DirHandle, Handle
from mountstore.vfs.blocks import BLOCK
from mountstore.vfs.clock import file_time_ns
from mountstore.vfs.content import Stale
from mountstore.vfs.extended import Extended
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.filling import Filling, is_worthwhile
from mountstore.vfs.names import NAME_MAX, is_temporary, segment_of_name
from mountstore.vfs.rows import ROOT_INO, Dentry, Node
from mountstore.vfs.tree import fail

log = logging.getLogger(__name__)

MOST_FILE_BYTES = 5 << 40
"""No S3 server has to take a larger object; holes, too, are sent as zeros."""

_SYMLINK_MAX = 4095
_WHOLE = 1 << 20  # stored files up to this size are fetched whole before they are changed in part
_BATCH = 128  # directory entries read from the index at once


@dataclass(frozen=True, slots=True)
class Changes:
    """The attributes to set; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def _without_privileges(mode: int) -> int:
    """As the kernel does when somebody writes: setuid goes, and setgid where it is not for locking."""
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


class Vfs(Extended):
    """One store as a tree of files; everything but the constructor runs in one trio event loop."""

    # -- nodes -------------------------------------------------------------------------------------

    def _dir(self, ino: int) -> Node:
        node = self._node(ino)
        if not node.is_dir:
            raise fail(errno.ENOTDIR)
        return node

    def _writable(self) -> None:
        if self.options.read_only or self._index.failed is not None:
            raise fail(errno.EROFS)

    def remember(self, node: Node) -> None:
        """The kernel holds one more reference to this node."""
        self._lookups[node.ino] = self._lookups.get(node.ino, 0) + 1

    def forget(self, ino: int, count: int) -> None:
        """The kernel holds so many references less."""
        left = self._lookups.get(ino, 0) - count
        if left > 0:
            self._lookups[ino] = left
            return
        self._lookups.pop(ino, None)
        node = self._index.nodes.get(ino)
        if node is not None and node.nlink == 0 and not node.opens:
            self._purge(node)

    # -- looking -----------------------------------------------------------------------------------

    def getattr(self, ino: int) -> Node:
        """The node itself; its attributes are always current."""
        return self._node(ino)

    async def lookup(self, parent_ino: int, name: bytes) -> tuple[Node | None, float]:
        """(the node of a name or None, for how many seconds this counts); `.` is any node itself."""
        if name == b".":
            return self._node(parent_ino), 0.0
        parent = self._dir(parent_ino)
        if len(name) > NAME_MAX:
            raise fail(errno.ENAMETOOLONG)
        if name == b"..":
            return self._above(parent_ino), 0.0
        if not self._listing.is_fresh(parent):
            await self._ensure_name(parent, name)
        return self._index.entry(parent_ino, name), self._listing.valid_s(parent)

    def _above(self, ino: int) -> Node:
        links = self._index.links(ino)
        return self._node(links[0].parent if links else ROOT_INO)

    def valid_s(self, parent_ino: int) -> float:
        """For how many seconds the names of this directory count."""
        parent = self._index.node(parent_ino)
        return self._listing.valid_s(parent) if parent is not None else 0.0

    def attr_valid_s(self) -> float:
        """For how many seconds attributes count that were asked for without their name."""
        return min(1.0, self.options.ttl_s)

    async def readlink(self, ino: int) -> bytes:
        """The target of a symlink."""
        node = self._node(ino)
        if not stat.S_ISLNK(node.mode):
            raise fail(errno.EINVAL)
        if node.target is None:
            target = bytes(await self._content.read(node, 0, min(node.size, _SYMLINK_MAX)))
            with self._index.transaction():
                node.target = target
                self._index.save(node)
        return node.target or b""

    # -- directories -------------------------------------------------------------------------------

    def opendir(self, ino: int) -> int:
        return self._new_handle(DirHandle(self._dir(ino)))

    def dots(self, handle: int) -> tuple[tuple[bytes, Node], tuple[bytes, Node]]:
        """The entries `.` and `..` of a directory."""
        node = self._handles[handle].node
        return (b".", node), (b"..", self._above(node.ino))

    async def readdir(self, handle: int, after: int) -> tuple[list[tuple[Dentry, Node]], float]:
        """(entries behind a position, `.` and `..` left out; for how many seconds they count).

        No entries: the end. A long listing is passed on page by page as it comes from the store.
        """
        folder = self._handles[handle]
        assert isinstance(folder, DirHandle)
        node = folder.node
        if not folder.listed and node.nlink and folder.flight is None:
            self._walks.opened(node)
            if self._listing.is_fresh(node):
                folder.listed = True
            else:
                folder.flight = self._listing.start(node)
                # What we know is older than allowed: nothing is shown before it is confirmed, if that can be.
                known = node.listed_ns and self._index.has_children(node.ino)
                if known and not await self._listing.catch_up(node, folder.flight):
                    folder.flight, folder.listed = None, True
        while True:
            batch = self._index.children(node.ino, after, _BATCH)
            if batch or folder.flight is None:
                return batch, self._listing.valid_s(node) or self.attr_valid_s()
            if folder.flight.done.is_set():
                error = folder.flight.error
                folder.flight, folder.listed = None, True
                if error is not None and not node.listed_ns:
                    raise error
                continue
            if not node.listed_ns:
                await folder.flight.progress.wait()
            elif not await folder.flight.wait():
                return [], 0.0

    # -- making and removing names -----------------------------------------------------------------

    async def _listed(self, parent_ino: int, name: bytes | None = None) -> Node:
        parent = self._dir(parent_ino)
        if not self._listing.is_fresh(parent):
            if name is None:
                await self._listing.ensure(parent)
            else:
                await self._ensure_name(parent, name)
        return parent

    async def _ensure_name(self, parent: Node, name: bytes) -> None:
        if self._tree.places.is_plain(parent.prefix or "", name):
            await self._listing.ensure_name(parent, segment_of_name(name))
        else:
            await self._listing.ensure(parent)

    async def mkdir(self, parent: int, name: bytes, mode: int, uid: int, gid: int) -> Node:
        self._writable()
        await self._need_room()
        folder = await self._listed(parent, name)
        return self._made(self._tree.create(folder, name, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid))

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> Node:
        self._writable()
        if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and not self.options.dev:
            raise fail(errno.EPERM)
        await self._need_room()
        folder = await self._listed(parent, name)
        return self._made(self._tree.create(folder, name, mode, uid, gid, rdev=rdev))

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Node:
        self._writable()
        if len(target) > _SYMLINK_MAX:
            raise fail(errno.ENAMETOOLONG)
        await self._need_room()
        folder = await self._listed(parent, name)
        return self._made(self._tree.create(folder, name, stat.S_IFLNK | 0o777, uid, gid, target=target))

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, uid: int, gid: int
    ) -> tuple[Node, int]:
        """Make a file and open it, or without O_EXCL open the one that is there."""
        self._writable()
        folder = await self._listed(parent, name)
        there = self._index.entry(parent, name)
        if there is not None and not flags & os.O_EXCL:
            return there, await self.open(there.ino, flags)
        await self._need_room()
        node = self._tree.create(folder, name, stat.S_IFREG | stat.S_IMODE(mode), uid, gid, writers=1)
        node.opens = 1
        return node, self._new_handle(Handle(node, (flags & ~os.O_ACCMODE) | os.O_RDWR))

    def _made(self, node: Node) -> Node:
        self._reconciler.wake_in_time()
        return node

    async def link(self, ino: int, parent: int, name: bytes) -> Node:
        self._writable()
        await self._need_room()
        folder = await self._listed(parent, name)
        node = self._node(ino)
        with self._index.transaction():
            self._tree.link(node, folder, name)
            self._check_metadata(node)
        return self._made(node)

    async def unlink(self, parent: int, name: bytes) -> None:
        self._writable()
        folder = await self._listed(parent, name)
        node = self._tree.unlink(folder, name)
        self._removed(node)
        await self._pay(node)

    async def rmdir(self, parent: int, name: bytes) -> None:
        self._writable()
        folder = await self._listed(parent, name)
        node = self._index.entry(parent, name)
        if node is not None and node.is_dir:
            await self._listed(node.ino)
        self._removed(self._tree.rmdir(folder, name))

    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int = 0,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        self._writable()
        folder = await self._listed(parent, name)
        new_folder = await self._listed(new_parent, new_name)
        target = self._index.entry(new_parent, new_name)
        if target is not None and target.is_dir:
            await self._listed(target.ino)
        if (moving := self._index.entry(parent, name)) is not None:
            self._check_name_fits(moving, new_folder, new_name)
        moved, replaced = self._tree.rename(folder, name, new_folder, new_name, flags, owner)
        if replaced is not None:
            self._removed(replaced)
        self._reconciler.wake_in_time()
        await self._pay(moved)

    # -- attributes --------------------------------------------------------------------------------

    async def setattr(self, ino: int, changes: Changes) -> Node:
        """Set what is given. Raises EISDIR, EINVAL, EROFS, ENOSPC, EFBIG."""
        self._writable()
        node = self._node(ino)
        if changes.size is not None and changes.size > max(node.size, MOST_FILE_BYTES):
            raise fail(errno.EFBIG)
        now = time.time_ns()
        trim = False
        if changes.size is not None and changes.size != node.size:
            if not stat.S_ISREG(node.mode):
                raise fail(errno.EISDIR if node.is_dir else errno.EINVAL)
            trim = changes.size < node.size
            self._content.truncate(node, changes.size)
            self._tree.changed_content(node)
        elif changes.size is not None:
            node.mtime_ns = file_time_ns()
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(changes.mode)
        if changes.uid is not None:
            node.uid = changes.uid
        if changes.gid is not None:
            node.gid = changes.gid
        if changes.atime_ns is not None:
            node.atime_ns = changes.atime_ns
        if changes.mtime_ns is not None:
            node.mtime_ns = changes.mtime_ns
        self._tree.changed_attrs(node, now)
        if node.writers and not node.is_clean:
            self._postpone(node)
        with self._index.transaction():
            if changes.mode is not None and self.options.acl:
                self._chmod_acl(node)
            self._index.save(node)
        if trim:
            failpoint("truncate-recorded")
            self._content.trim(node)
        self._reconciler.wake_in_time()
        return node

    def _postpone(self, node: Node) -> None:
        """A file that is being written waits for its end, or for the checkpoint."""
        if node.since is not None:
            node.due = max(node.due or 0, node.since + int(self.options.checkpoint_s * 1e9))

    # -- files -------------------------------------------------------------------------------------

    def _file(self, handle: int) -> Handle:
        file = self._handles[handle]
        assert isinstance(file, Handle)
        return file

    def node_of(self, handle: int) -> Node:
        """The node that a handle has open."""
        return self._handles[handle].node

    async def open(self, ino: int, flags: int, *, privileged: bool = True) -> int:
        """A handle. O_TRUNC empties the file, and for a caller who is not `privileged` ends its setuid."""
        node = self._node(ino)
        if node.is_dir:
            raise fail(errno.EISDIR)
        if node.ino in self._gone:
            raise fail(errno.ESTALE)  # the kernel looks the name up again, and finds the new version
        handle = Handle(node, flags)
        if handle.writable:
            self._writable()
        if flags & os.O_TRUNC:
            mode = None if privileged else _without_privileges(node.mode)
            await self.setattr(ino, Changes(size=0, mode=mode))
        node.opens += 1
        node.writers += handle.writable
        if handle.readable and not flags & os.O_TRUNC:
            self._neighbours.opened(node)
        return self._new_handle(handle)

    def read_now(self, handle: int, offset: int, size: int) -> Data | None:
        """The bytes, if nothing has to be waited for."""
        file = self._file(handle)
        node = file.node
        stop = min(offset + size, node.size)
        if offset >= stop:
            return b""
        data = self._content.read_now(node, offset, stop)
        if data is not None and node.is_clean:
            window = file.readahead.note(offset, stop)
            self._content.blocks.ahead(node.base_cid, stop, window, node.size)
        return data

    async def read(self, handle: int, offset: int, size: int) -> Data:
        """Up to `size` bytes; fewer only at the end. Raises Stale, StoreError."""
        data = self.read_now(handle, offset, size)
        if data is not None:
            return data
        file = self._file(handle)
        node = file.node
        try:
            return await self._content.read(node, offset, offset + size, file.readahead)
        except Stale:
            # Others replaced the file. The name leads to the new version from now on; who has it open is
            # told, even if this is the first read: the kernel has the size, and perhaps pages, of the old.
            await self._listing.revalidate(node)
            self._gone.add(node.ino)
            raise

    def block_around(self, handle: int, offset: int) -> tuple[Node, int, memoryview] | None:
        """(node, start, bytes) of the block that a random read has just brought, for the page cache.

        None for sequential readers, whom the kernel asks for by itself, and while anybody may write.
        """
        file = self._file(handle)
        node = file.node
        if file.readahead.window or node.writers or not node.is_clean or self._content.stack(node).layers:
            return None
        number = offset // BLOCK
        block = self._content.blocks.block(node.base_cid, number)
        return None if block is None else (node, number * BLOCK, block)

    def filling(self, handle: int) -> Filling | None:
        """What brings the whole file, once a handle has turned out to read it here and there."""
        file = self._file(handle)
        if file.filling is not None or not is_worthwhile(file.node, file.readahead):
            return None
        file.filling = Filling(file.node, file.readahead, self._content.blocks)
        return file.filling

    async def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """Put bytes into the journal. Raises ENOSPC, EFBIG; then nothing was written."""
        node = self._file(handle).node
        if offset + len(data) > max(node.size, MOST_FILE_BYTES):
            raise fail(errno.EFBIG)
        if not self._content.room.has(len(data)):
            await self._wait_for_room(node, len(data))
        if node.base_cid and node.size <= _WHOLE and (offset or len(data) < node.size):
            await self._take_whole(node)
        try:
            self._content.write(node, offset, data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Others have filled the disk since it was asked for its room.
            await self._wait_for_room(node, len(data))
            self._content.write(node, offset, data)
        self._tree.changed_content(node)
        if node.size >= self.options.stream_bytes:
            self._streams.written(node, offset, len(data))
        if not node.unsaved:
            node.unsaved = True
            self._unsaved.add(node)
        return len(data)

    async def _take_whole(self, node: Node) -> None:
        """Before a small stored file is changed in part: its upload will need all of it.

        While the store is away the change goes on without.
        """
        if self._content.stack(node).layers:
            return
        try:
            await self._content.localise(node)
        except Stale:
            await self._listing.revalidate(node)
            self._gone.add(node.ino)
            raise
        except StoreError as error:
            log.info("%s is not here and cannot be fetched now: %s", self._tree.path_of(node.ino), error)

    async def _wait_for_room(self, node: Node | None, size: int) -> None:
        """Return when there is room: the cache gives way first, then uploads make some.

        Raises ENOSPC if nothing could, or not in time.
        """
        with trio.move_on_after(self.options.room_timeout_s):
            while True:
                if await self._content.room.make(size):
                    return
                if not await self._reconciler.progress_but(node):
                    break
        raise fail(errno.ENOSPC)

    async def _need_room(self) -> None:
        if not self._content.room.has(0):
            await self._wait_for_room(None, 0)

    def flush(self, handle: int) -> None:
        """What was written survives the death of the process."""
        self._save(self._file(handle).node)

    async def fsync(self, handle: int) -> None:
        """What was written is in the store, or with fsync="local" survives the loss of power here.

        A new file under a temporary name is brought to the local disk, and the store is owed: whoever gives
        it its final name waits for the upload under that one, which is then the only one.
        """
        node = self._file(handle).node
        self._save(node)
        if self.options.fsync == "local":
            self._sync_local(node)
        elif node.nlink and self._is_passing(node):
            self._sync_local(node)
            self._owed.add(node.ino)
        elif node.nlink:
            await self._settle(node)

    async def _settle(self, node: Node) -> None:
        await self._reconciler.settle(node)
        await self._index.sync_log()  # else an older index could meet a newer store

    def _is_passing(self, node: Node) -> bool:
        """Whether all names of a file are temporary and the store has none of them."""
        return all(
            is_temporary(dentry.name) and self._index.object(self._tree.key_of(dentry)) is None
            for dentry in self._index.links(node.ino)
        )

    async def _pay(self, node: Node) -> None:
        """A file has got its final name, or lost its temporary one: keep the promise of its fsync."""
        if node.ino in self._owed and not any(is_temporary(d.name) for d in self._index.links(node.ino)):
            self._owed.discard(node.ino)
            if node.nlink:
                await self._settle(node)

    def _sync_local(self, node: Node) -> None:
        self._content.sync(node)
        failpoint("sync-data-done")
        self._content.sync_index()

    async def fsyncdir(self, handle: int) -> None:
        """The names of a directory are in the store, or survive the loss of power here."""
        folder = self._handles[handle].node
        if self.options.fsync == "local":
            self._content.sync_index()
            return
        if folder.nlink == 0:
            return
        for child in self._index.due_children(folder.ino):
            if child.due is not None and (
                not self._tree.is_lazy(child) if child.is_dir else not child.writers
            ):
                await self._reconciler.settle(child)
        if folder.due is not None and not self._tree.is_lazy(folder):
            await self._reconciler.settle(folder)
        await self._reconciler.settle_deletes(self._tree.prefix_of(folder.ino))
        await self._index.sync_log()

    # -- the file system ---------------------------------------------------------------------------

    def statfs(self) -> dict[str, Any]:
        """Sizes for statvfs(3): a store has no size, so there is always plenty."""
        plenty = 1 << 50
        return {
            "f_bsize": 1 << 20,
            "f_frsize": 4096,
            "f_blocks": plenty >> 12,
            "f_bfree": plenty >> 12,
            "f_bavail": plenty >> 12,
            "f_files": 1 << 40,
            "f_ffree": 1 << 40,
            "f_favail": 1 << 40,
            "f_namemax": 255,
        }
