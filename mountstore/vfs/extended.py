"""Extended attributes, ACLs and the state of single files, as verbs."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import trio

from mountstore.errors import StoreFull
from mountstore.stores.caching import uncached
from mountstore.vfs.assembly import Assembly
from mountstore.vfs.blocks import BLOCK
from mountstore.vfs.clock import file_time_ns
from mountstore.vfs.extras import XATTRS, metadata_for
from mountstore.vfs.names import NAME_MAX
from mountstore.vfs.rows import ROOT_INO, Dentry, Node
from mountstore.vfs.tree import fail
from mountstore.vfs.xattrs import ACCESS, DEFAULT, OWN, Acl, allowed

State = Literal["clean", "dirty", "uploading", "conflict", "error"]
_DAY_NS = 86_400 * 10**9
_VALUE_MAX = 65_536


@dataclass(frozen=True, slots=True)
class FileState:
    """How one file stands with the store."""

    path: str
    state: State
    key: str
    etag: str | None  # of the object that the store is known to hold under the key
    size: int
    cached_bytes: int  # of the content, how much is on this machine
    error: str | None


class Extended(Assembly):
    """What nodes have beside content, names and mode."""

    # -- attributes --------------------------------------------------------------------------------

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value. Raises ENODATA, EOPNOTSUPP."""
        node = self._node(ino)
        text = _text(name)
        if text.startswith(OWN) and self.options.xattr:
            return await self._own(node, text.removeprefix(OWN))
        if not allowed(text, self.options):
            raise fail(errno.EOPNOTSUPP)
        value = self._index.extras(ino, XATTRS).get(text)
        if value is None:
            raise fail(errno.ENODATA)
        return value

    def listxattr(self, ino: int, *, privileged: bool) -> list[bytes]:
        """The names; those that only the superuser may read if `privileged`."""
        self._node(ino)
        return [
            name.encode()
            for name in self._index.extras(ino, XATTRS)
            if allowed(name, self.options) and (privileged or not name.startswith("trusted."))
        ]

    def setxattr(self, ino: int, name: bytes, value: bytes, groups: Collection[int] | None = None) -> None:
        """Set one; of an ACL, the mode too.

        `groups`: those of a caller who may not set setgid for others. Raises ENOSPC if the store's metadata
        does not hold it, EOPNOTSUPP, EPERM, E2BIG, EINVAL.
        """
        node, text = self._changeable(ino, name)
        if len(value) > _VALUE_MAX:
            raise fail(errno.E2BIG)
        xattrs = self._index.extras(ino, XATTRS)
        mode = node.mode
        if text in (ACCESS, DEFAULT):
            acl = Acl.read(value)
            if text == DEFAULT and not node.is_dir:
                raise fail(errno.EACCES)
            if text == ACCESS:
                mode = (mode & ~0o777) | acl.mode()
                if groups is not None and node.gid not in groups:
                    mode &= ~stat.S_ISGID
                if not acl.is_extended:
                    xattrs.pop(text, None)
                    self._set(node, xattrs, mode)
                    return
        self._set(node, xattrs | {text: value}, mode)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove one. Raises ENODATA, EOPNOTSUPP, EPERM."""
        node, text = self._changeable(ino, name)
        xattrs = self._index.extras(ino, XATTRS)
        if xattrs.pop(text, None) is None:
            raise fail(errno.ENODATA)
        self._set(node, xattrs, node.mode)

    def _changeable(self, ino: int, name: bytes) -> tuple[Node, str]:
        if self.options.read_only or self._index.failed is not None:
            raise fail(errno.EROFS)
        text = _text(name)
        if text.startswith(OWN):
            raise fail(errno.EPERM)
        if not allowed(text, self.options):
            raise fail(errno.EOPNOTSUPP)
        if text.endswith("."):
            raise fail(errno.EINVAL)
        return self._node(ino), text

    def _set(self, node: Node, xattrs: Mapping[str, bytes], mode: int) -> None:
        with self._index.transaction():
            self._index.set_extras(node.ino, XATTRS, xattrs)
            self._check_metadata(node)
            node.mode = mode
            self._tree.changed_attrs(node, time.time_ns())
            self._index.save(node)
        self._reconciler.wake_in_time()

    def _check_metadata(self, node: Node) -> None:
        """Raises ENOSPC if one of the node's objects cannot hold what it is to carry."""
        for link in self._index.links(node.ino):
            self._check_carried(node, link)

    def _check_name_fits(self, node: Node, parent: Node, name: bytes) -> None:
        """Before a node gets a name that its metadata has to tell. Raises ENOSPC, ENAMETOOLONG."""
        if not self._tree.places.is_plain(parent.prefix or "", name) and len(name) <= NAME_MAX:
            prefix = self._tree.prefix_of(parent.ino)
            segment = self._tree.places.segment(prefix, name, is_dir=node.is_dir)
            self._check_carried(node, Dentry(0, parent.ino, name, node.ino, segment))

    def _check_carried(self, node: Node, link: Dentry) -> None:
        capabilities = self._store.store.capabilities
        if not capabilities.metadata or (limit := capabilities.max_metadata_bytes) is None:
            return
        try:
            key = self._tree.key_of(link)
            metadata_for(self._index, node, link, key, limit_bytes=limit, new_content=False)
        except StoreFull:
            raise fail(errno.ENOSPC) from None

    def _chmod_acl(self, node: Node) -> None:
        """An ACL follows a chmod; in the caller's transaction."""
        xattrs = self._index.extras(node.ino, XATTRS)
        if ACCESS in xattrs:
            acl = Acl.read(xattrs[ACCESS]).with_mode(node.mode)
            self._index.set_extras(node.ino, XATTRS, xattrs | {ACCESS: acl.pack()})

    # -- times -------------------------------------------------------------------------------------

    def was_read(self, handle: int) -> None:
        """A file was read: with the option `atime`, that is recorded as `relatime` does.

        It stays in the index until something else of the file goes to the store.
        """
        node = self._handles[handle].node
        now = time.time_ns()
        if node.atime_ns > max(node.mtime_ns, node.ctime_ns) and node.atime_ns + _DAY_NS > now:
            return
        node.atime_ns = file_time_ns()
        with self._index.transaction():
            self._index.save(node)

    # -- state -------------------------------------------------------------------------------------

    def state_of(self, ino: int) -> FileState:
        """How a file stands with the store. Raises ESTALE, ENOENT."""
        return self.file_state(self._node(ino))

    def file_state(self, node: Node) -> FileState:
        """The same of a node."""
        links = self._index.links(node.ino)
        if not links and node.ino != ROOT_INO:
            raise fail(errno.ENOENT)
        key = "" if not links else self._tree.key_of(links[0]) + "/" * node.is_dir
        known = self._index.object(key) if key else None
        trouble = self._reconciler.trouble.get(node.ino)
        state: State = "clean"
        if node.ino in self._clearing.uploading:
            state = "uploading"
        elif trouble is not None:
            state = "error"
        elif node.ino in self._index.conflicts():
            state = "conflict"
        elif node.due is not None or node.unsaved:
            state = "dirty"
        return FileState(
            path=self._tree.path_of(node.ino),
            state=state,
            key=key,
            etag=known.etag if known is not None else None,
            size=node.size,
            cached_bytes=0 if node.is_dir else self._local_bytes(node),
            error=trouble.error if trouble is not None else None,
        )

    def _local_bytes(self, node: Node) -> int:
        layers = self._content.stack(node).layers
        staged = sum(stop - start for layer in layers for start, stop in layer.extents)
        numbers = range((node.size + BLOCK - 1) // BLOCK) if node.base_cid else ()
        blocks = (self._content.blocks.block(node.base_cid, number) for number in numbers)
        return min(node.size, staged + sum(len(block) for block in blocks if block is not None))

    async def versions(self, ino: int) -> list[str] | None:
        """The ids of the versions that the bucket keeps of a file, newest first; None if there are none."""
        fetch = getattr(uncached(self._store.store), "versions", None)
        node = self._node(ino)
        if fetch is None or node.is_dir or self._index.object(key := self.file_state(node).key) is None:
            return None
        found: list[str] = await trio.to_thread.run_sync(fetch, key)
        return found or None

    async def _own(self, node: Node, name: str) -> bytes:
        if node.nlink == 0:
            raise fail(errno.ENODATA)
        if name == "versions":
            found = await self.versions(node.ino)
            value = None if found is None else " ".join(found)
        else:
            state = self.file_state(node)
            values = {
                "state": state.state,
                "key": state.key,
                "etag": state.etag,
                "cached": str(state.cached_bytes),
            }
            value = values.get(name)
        if value is None:
            raise fail(errno.ENODATA)
        return value.encode()


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise fail(errno.EINVAL) from None
