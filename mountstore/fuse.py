"""pyfuse3 <-> vfs: requests of the kernel become verbs of `Vfs`, errors become errno. Nothing else.

A pyfuse3 handler may raise only FUSEError; anything else would end the session, so every handler goes
through `_answer`, which translates by one table and logs what it does not know.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import pyfuse3
import trio

from mountstore import errors
from mountstore.store import Data
from mountstore.vfs.filling import Filling
from mountstore.vfs.rows import Node
from mountstore.vfs.vfs import Changes, Vfs

log = logging.getLogger(__name__)

_FILLERS = 3  # pieces of one file under way
_DOTS = 2  # positions in a directory that stand before those of the vfs

P = ParamSpec("P")
T = TypeVar("T")

_ERRNO: tuple[tuple[type[BaseException], int], ...] = (
    (errors.NotFound, errno.ENOENT),
    (errors.PreconditionFailed, errno.ESTALE),
    (errors.Unsupported, errno.EOPNOTSUPP),
    (errors.InvalidKey, errno.EINVAL),
    (errors.AccessDenied, errno.EACCES),
    (errors.StoreFull, errno.ENOSPC),
    (errors.MountstoreError, errno.EIO),
    (trio.TooSlowError, errno.ETIMEDOUT),
)
"""What the vfs raises beside OSError, most special first."""


def errno_of(error: BaseException) -> int:
    """The errno that an application gets for an error of the vfs."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    for kind, code in _ERRNO:
        if isinstance(error, kind):
            return code
    return errno.EIO


def _answer(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOSPC, errno.ESTALE):
                log.warning("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except (errors.MountstoreError, trio.TooSlowError) as error:
            log.warning("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except Exception:
            log.exception("%s failed in a way that nobody foresaw", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return answer


class FuseOperations(pyfuse3.Operations):
    """The request handlers of one mount."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, vfs: Vfs) -> None:
        super().__init__()
        self._vfs = vfs
        self.enable_acl = vfs.options.acl  # the kernel then enforces them
        self._xattrs = vfs.options.xattr or vfs.options.acl
        self._atime = vfs.options.atime
        self._last_cid: dict[int, int] = {}  # the content whose pages the kernel may hold
        self._pushing: dict[int, trio.Event] = {}  # inodes whose pages are being filled
        self.nursery: trio.Nursery | None = None  # where that goes on; none, and nothing is pushed

    # -- attributes --------------------------------------------------------------------------------

    def _attributes(self, node: Node, valid_s: float) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = node.ino
        attributes.entry_timeout = attributes.attr_timeout = valid_s
        attributes.st_mode = node.mode
        attributes.st_nlink = node.shown_nlink
        attributes.st_uid = node.uid
        attributes.st_gid = node.gid
        attributes.st_rdev = node.rdev
        attributes.st_size = node.size
        attributes.st_blksize = 1 << 17
        attributes.st_blocks = (node.size + 511) >> 9
        attributes.st_atime_ns = node.atime_ns
        attributes.st_mtime_ns = node.mtime_ns
        attributes.st_ctime_ns = node.ctime_ns
        return attributes

    def _entry(self, node: Node, valid_s: float) -> pyfuse3.EntryAttributes:
        self._vfs.remember(node)
        return self._attributes(node, valid_s)

    @_answer
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext | None) -> pyfuse3.EntryAttributes:
        node = self._vfs.getattr(inode)
        return self._attributes(node, self._vfs.attr_valid_s())

    @_answer
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if changes.size is not None:
            await self._pushed(inode)
        node = await self._vfs.setattr(inode, changes)
        return self._attributes(node, self._vfs.attr_valid_s())

    # -- names -------------------------------------------------------------------------------------

    @_answer
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node, valid_s = await self._vfs.lookup(parent_inode, name)
        if node is not None:
            return self._entry(node, valid_s)
        if valid_s <= 0:
            raise pyfuse3.FUSEError(errno.ENOENT)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = valid_s
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            for inode, count in inode_list:
                self._vfs.forget(inode, count)
        except Exception:
            log.exception("forget failed in a way that nobody foresaw")

    @_answer
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node = await self._vfs.mkdir(parent_inode, name, mode & ~ctx.umask, ctx.uid, ctx.gid)
        return self._entry(node, self._vfs.valid_s(parent_inode))

    @_answer
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFMT(mode) | (stat.S_IMODE(mode) & ~ctx.umask)
        node = await self._vfs.mknod(parent_inode, name, mode, rdev, ctx.uid, ctx.gid)
        return self._entry(node, self._vfs.valid_s(parent_inode))

    @_answer
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node = await self._vfs.symlink(parent_inode, name, target, ctx.uid, ctx.gid)
        return self._entry(node, self._vfs.valid_s(parent_inode))

    @_answer
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._vfs.readlink(inode)

    @_answer
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node = await self._vfs.link(inode, new_parent_inode, new_name)
        return self._entry(node, self._vfs.valid_s(new_parent_inode))

    @_answer
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._vfs.unlink(parent_inode, name)

    @_answer
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._vfs.rmdir(parent_inode, name)

    @_answer
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        owner = (ctx.uid, ctx.gid)
        await self._vfs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, owner)

    # -- directories -------------------------------------------------------------------------------

    @_answer
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return self._vfs.opendir(inode)

    @_answer
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for position, (name, node) in enumerate(self._vfs.dots(fh), 1):  # no reference is counted to them
            attributes = self._attributes(node, 0)
            if start_id < position and not pyfuse3.readdir_reply(token, name, attributes, position):
                return
        position = max(0, start_id - _DOTS)
        while True:
            entries, valid_s = await self._vfs.readdir(fh, position)
            if not entries:
                return
            for dentry, node in entries:
                attributes = self._attributes(node, valid_s)
                if not pyfuse3.readdir_reply(token, dentry.name, attributes, dentry.id + _DOTS):
                    return
                self._vfs.remember(node)
                position = dentry.id

    @_answer
    async def releasedir(self, fh: int) -> None:
        self._vfs.releasedir(fh)

    @_answer
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsyncdir(fh)

    # -- files -------------------------------------------------------------------------------------

    @_answer
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            await self._pushed(inode)
        handle = await self._vfs.open(inode, flags, privileged=ctx.uid == 0)
        node = self._vfs.getattr(inode)
        # Pages of another content go; those of this one stay, whoever opens it.
        keep = self._last_cid.get(inode) == node.cid or node.writers > 0
        self._last_cid[inode] = node.cid
        if len(self._last_cid) > 100_000:
            self._last_cid.clear()
        return pyfuse3.FileInfo(fh=handle, keep_cache=keep)

    @_answer
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        node, handle = await self._vfs.create(parent_inode, name, mode & ~ctx.umask, flags, ctx.uid, ctx.gid)
        return pyfuse3.FileInfo(fh=handle), self._entry(node, self._vfs.valid_s(parent_inode))

    @_answer
    async def read(self, fh: int, off: int, size: int) -> bytes:
        data = self._vfs.read_now(fh, off, size)
        if data is None:
            data = await self._vfs.read(fh, off, size)
        if (gift := self._vfs.block_around(fh, off)) is not None:
            self._push(*gift)
            if self.nursery is not None and (filling := self._vfs.filling(fh)) is not None:
                for _ in range(_FILLERS):
                    self.nursery.start_soon(self._fill, filling)
        if self._atime:
            self._vfs.was_read(fh)
        return cast(bytes, data)  # any buffer does

    def _push(self, node: Node, start: int, block: Data) -> None:
        """Put a fetched block into the kernel's page cache: the next reads of it are no requests at all.

        In a thread, which may have to wait for pages that are being read. Whoever would write the file waits
        for its end, so that no page is overwritten with what it held before.
        """
        if self.nursery is not None and node.ino not in self._pushing:
            self._pushing[node.ino] = trio.Event()
            self.nursery.start_soon(self._push_now, node, start, block)

    async def _push_now(self, node: Node, start: int, block: Data) -> None:
        try:
            # Any buffer does.
            await trio.to_thread.run_sync(pyfuse3.notify_store, node.ino, start, cast(bytes, block))
        except OSError as error:
            log.debug("the kernel did not take a block of inode %d: %s", node.ino, error)
        finally:
            self._pushing.pop(node.ino).set()

    async def _fill(self, filling: Filling) -> None:
        """Hand a file that is read here and there to the kernel's page cache, as it comes."""
        node = filling.node
        while (piece := await filling.next()) is not None:
            start, blocks = piece
            for number, block in enumerate(blocks):
                await self._pushed(node.ino)
                if not filling.counts():
                    return
                self._pushing[node.ino] = trio.Event()
                await self._push_now(node, start + number * len(blocks[0]), block)

    async def _pushed(self, inode: int) -> None:
        while inode in self._pushing:
            await self._pushing[inode].wait()

    @_answer
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._vfs.write(fh, off, buf)

    @_answer
    async def flush(self, fh: int) -> None:
        self._vfs.flush(fh)

    @_answer
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._vfs.fsync(fh)

    @_answer
    async def release(self, fh: int) -> None:
        node = self._vfs.node_of(fh)
        self._vfs.release(fh)
        if node.ino in self._last_cid:
            # What was written through the kernel is what its pages hold.
            self._last_cid[node.ino] = node.cid

    # -- extended attributes -----------------------------------------------------------------------

    def _with_xattrs(self) -> None:
        if not self._xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)  # the kernel never asks again

    @_answer
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._with_xattrs()
        return await self._vfs.getxattr(inode, name)

    @_answer
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        self._with_xattrs()
        return self._vfs.listxattr(inode, privileged=ctx.uid == 0)

    @_answer
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._with_xattrs()
        groups = None if ctx.uid == 0 else {ctx.gid, *pyfuse3.get_sup_groups(ctx.pid)}
        self._vfs.setxattr(inode, name, value, groups)

    @_answer
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._with_xattrs()
        self._vfs.removexattr(inode, name)

    # -- the file system ---------------------------------------------------------------------------

    @_answer
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        for name, value in self._vfs.statfs().items():
            setattr(data, name, value)
        return data

    @_answer
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        # Asked only without default_permissions, which our mounts always have.
        raise pyfuse3.FUSEError(errno.ENOSYS)
