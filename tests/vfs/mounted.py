"""A running Vfs without FUSE, spoken to by paths, and what can be done to it: reopen it, kill it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mountstore.backends.memory import DictStore
from mountstore.cli.fstab import byte_size
from mountstore.store import ObjectStore
from mountstore.stores import CachingStore
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.rows import ROOT_INO, Node
from mountstore.vfs.vfs import Changes, Vfs
from tests.vfs.faulty import FaultyStore

DEADLINE_S = float(os.environ.get("VFS_DEADLINE_S", "20"))
NOREPLACE = 1
EXCHANGE = 2


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition that tells nobody when it comes true."""
    with trio.move_on_after(DEADLINE_S):
        while not condition():
            await trio.sleep(0.002)
        return
    raise AssertionError(f"not true within {DEADLINE_S} s: {what or condition}")


class Mounted:
    """The verbs of a Vfs by path, as system calls make them; errors are those of the Vfs."""

    def __init__(self, vfs: Vfs, store: FaultyStore, state_dir: Path) -> None:
        self.vfs = vfs
        self.store = store
        self.state_dir = state_dir

    # -- names -------------------------------------------------------------------------------------

    async def node(self, path: str) -> Node:
        node = self.vfs.getattr(ROOT_INO)
        for name in _names(path):
            found, _ = await self.vfs.lookup(node.ino, name)
            if found is None:
                raise OSError(errno.ENOENT, path)
            node = found
        return node

    async def exists(self, path: str) -> bool:
        try:
            await self.node(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return False
        return True

    async def _at(self, path: str) -> tuple[int, bytes]:
        *above, name = _names(path)
        parent = await self.node("/".join(os.fsdecode(n) for n in above))
        return parent.ino, name

    async def names(self, path: str = "") -> list[str]:
        """What a readdir from beginning to end gives, in its order."""
        handle = self.vfs.opendir((await self.node(path)).ino)
        try:
            out: list[str] = []
            after = 0
            while True:
                entries, _ = await self.vfs.readdir(handle, after)
                if not entries:
                    return out
                out += [os.fsdecode(dentry.name) for dentry, _ in entries]
                after = entries[-1][0].id
        finally:
            self.vfs.releasedir(handle)

    async def listdir(self, path: str = "") -> list[str]:
        return sorted(await self.names(path))

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        parent, name = await self._at(path)
        await self.vfs.mkdir(parent, name, mode, 0, 0)

    async def rmdir(self, path: str) -> None:
        await self.vfs.rmdir(*await self._at(path))

    async def unlink(self, path: str) -> None:
        await self.vfs.unlink(*await self._at(path))

    async def rename(self, source: str, target: str, flags: int = 0) -> None:
        parent, name = await self._at(source)
        new_parent, new_name = await self._at(target)
        await self.vfs.rename(parent, name, new_parent, new_name, flags)

    async def mknod(self, path: str, mode: int) -> None:
        parent, name = await self._at(path)
        await self.vfs.mknod(parent, name, mode, 0, 0, 0)

    async def link(self, source: str, target: str) -> None:
        node = await self.node(source)
        await self.vfs.link(node.ino, *await self._at(target))

    async def symlink(self, target: str, path: str) -> None:
        parent, name = await self._at(path)
        await self.vfs.symlink(parent, name, os.fsencode(target), 0, 0)

    async def readlink(self, path: str) -> str:
        return os.fsdecode(await self.vfs.readlink((await self.node(path)).ino))

    async def rmtree(self, path: str) -> None:
        for name in await self.listdir(path):
            below = f"{path}/{name}"
            if (await self.node(below)).is_dir:
                await self.rmtree(below)
            else:
                await self.unlink(below)
        await self.rmdir(path)

    # -- files -------------------------------------------------------------------------------------

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        if flags & os.O_CREAT:
            parent, name = await self._at(path)
            found, _ = await self.vfs.lookup(parent, name)
            if found is None:
                return (await self.vfs.create(parent, name, mode, flags, 0, 0))[1]
            if flags & os.O_EXCL:
                raise OSError(errno.EEXIST, path)
            return await self.vfs.open(found.ino, flags)
        return await self.vfs.open((await self.node(path)).ino, flags)

    async def close(self, handle: int) -> None:
        """As close(2) of the last descriptor: flush, then release."""
        self.vfs.flush(handle)
        self.vfs.release(handle)

    async def pread(self, handle: int, offset: int = 0, size: int = 1 << 30) -> bytes:
        return bytes(await self.vfs.read(handle, offset, size))

    async def pwrite(self, handle: int, data: bytes, offset: int = 0) -> None:
        assert await self.vfs.write(handle, offset, data) == len(data)

    async def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        handle = await self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        if data:
            await self.pwrite(handle, data)
        await self.close(handle)

    async def patch(self, path: str, data: bytes, offset: int) -> None:
        """Write in the middle of a file."""
        handle = await self.open(path, os.O_WRONLY)
        await self.pwrite(handle, data, offset)
        await self.close(handle)

    async def append(self, path: str, data: bytes) -> None:
        handle = await self.open(path, os.O_WRONLY)
        await self.pwrite(handle, data, self.vfs.node_of(handle).size)
        await self.close(handle)

    async def read_file(self, path: str) -> bytes:
        handle = await self.open(path)
        try:
            return await self.pread(handle)
        finally:
            await self.close(handle)

    async def setattr(self, path: str, **changes: Any) -> None:
        await self.vfs.setattr((await self.node(path)).ino, Changes(**changes))

    async def truncate(self, path: str, size: int) -> None:
        await self.setattr(path, size=size)

    async def chmod(self, path: str, mode: int) -> None:
        await self.setattr(path, mode=mode)

    async def utimens(self, path: str, mtime_ns: int) -> None:
        await self.setattr(path, atime_ns=mtime_ns, mtime_ns=mtime_ns)

    async def fsync(self, path: str) -> None:
        handle = await self.open(path, os.O_RDWR)
        try:
            await self.vfs.fsync(handle)
        finally:
            await self.close(handle)

    # -- the whole ---------------------------------------------------------------------------------

    async def tree(self, path: str = "") -> dict[str, bytes | str | None]:
        """Everything below: content of files, target of symlinks, None for directories."""
        out: dict[str, bytes | str | None] = {}
        for name in await self.listdir(path):
            below = f"{path}/{name}" if path else name
            node = await self.node(below)
            if node.is_dir:
                out[below] = None
                out |= await self.tree(below)
            elif stat.S_ISLNK(node.mode):
                out[below] = await self.readlink(below)
            else:
                out[below] = await self.read_file(below)
        return out

    async def drain(self) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.vfs.drain()

    def forget_blocks(self) -> None:
        """Empty the caches: what is read next comes from the store."""
        self.vfs._content.blocks.clear()
        cache = self.vfs._store.store
        if isinstance(cache, CachingStore):
            assert cache.flush(DEADLINE_S)
            cache.clear()

    def crash(self, into: Path) -> Path:
        """SIGKILL at this moment: returns the state directory that it leaves, as a copy in `into`."""
        self.store.dead = True
        shutil.copytree(self.state_dir, into)
        self.store.kill()
        return into


@asynccontextmanager
async def running(
    store: ObjectStore,
    state_dir: Path,
    *,
    drain: bool = True,
    lacking: Iterable[str] = (),
    cache: ObjectStore | None = None,
    **options: Any,
) -> AsyncIterator[Mounted]:
    """A Vfs at work; on the way out everything is brought to the store, unless it was killed."""
    faulty = store if isinstance(store, FaultyStore) else FaultyStore(store, lacking=lacking)
    os.makedirs(state_dir, mode=0o700, exist_ok=True)
    settings: dict[str, Any] = {"upload_delay_s": 0.02, "ttl_s": 3600.0, "fsync_timeout_s": 10.0}
    vfs = Vfs(_cached(faulty, cache), state_dir, VfsOptions(**settings | options))
    mounted = Mounted(vfs, faulty, state_dir)
    try:
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(vfs.run)
                yield mounted
                if drain and not faulty.dead:
                    await mounted.drain()
            finally:
                faulty.open_all()
                nursery.cancel_scope.cancel()
    finally:
        vfs.close()


def _cached(store: FaultyStore, cache: ObjectStore | None) -> ObjectStore:
    """The store behind this cache, or another where MOUNTSTORE_TEST_TIER asks for one."""
    if cache is not None:
        return CachingStore(store, cache, capacity_bytes=1 << 30, writers=2)
    size = os.environ.get("MOUNTSTORE_TEST_TIER", "off")
    if size == "off":
        return store
    return CachingStore(store, DictStore(), capacity_bytes=byte_size(size), writers=2)


def _names(path: str) -> list[bytes]:
    return [os.fsencode(name) for name in path.split("/") if name]


def contents(store: ObjectStore, *, markers: bool = True) -> dict[str, bytes]:
    """Everything in a store."""
    return {key: bytes(store.get(key)) for key in store.keys() if markers or not key.endswith("/")}
