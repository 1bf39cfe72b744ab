"""The same calls by path for a directory of the kernel's and for a Vfs without one.

Handles are numbers. Every call either works or raises OSError, and what it returns is comparable.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import trio
from anyio.from_thread import BlockingPortal

from mountstore.vfs.rows import Node
from mountstore.vfs.vfs import Changes
from tests.vfs.mounted import Mounted

NOW_NS = 1_500_000_000 * 10**9
"""Times from here on are of the clock, and differ."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIMIT_S = 20

Seen = tuple[Any, ...]
"""What one path shows: the mode, and what else can be compared of its kind."""


class Driver(Protocol):
    """What a machine does to a tree."""

    def mkdir(self, path: str, mode: int) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rename(self, source: str, to: str, flags: int) -> None: ...
    def link(self, source: str, to: str) -> None: ...
    def symlink(self, pointing: str, path: str) -> None: ...
    def mkfifo(self, path: str, mode: int) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int) -> None: ...
    def utimens(self, path: str, time_ns: int) -> None: ...
    def truncate(self, path: str, size: int) -> None: ...
    def fsyncdir(self, path: str) -> None: ...
    def name_max(self) -> int: ...

    def open(self, path: str, flags: int, mode: int) -> int: ...
    def close(self, handle: int) -> None: ...
    def pread(self, handle: int, offset: int, size: int) -> bytes: ...
    def pwrite(self, handle: int, data: bytes, offset: int) -> None: ...
    def append(self, handle: int, data: bytes) -> None: ...
    def ftruncate(self, handle: int, size: int) -> None: ...
    def flush(self, handle: int) -> None: ...
    def fsync(self, handle: int) -> None: ...
    def map_write(self, handle: int, data: bytes, offset: int) -> None: ...

    def tree(self) -> dict[str, Seen]: ...


def _time(time_ns: int) -> int | str:
    return time_ns if time_ns < NOW_NS else "now"


class Directory:
    """A directory by system calls: the model, or a mount."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)

    def at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def rename(self, source: str, to: str, flags: int) -> None:
        old, new = os.fsencode(self.at(source)), os.fsencode(self.at(to))
        if _LIBC.renameat2(-100, old, -100, new, flags):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def link(self, source: str, to: str) -> None:
        os.link(self.at(source), self.at(to), follow_symlinks=False)

    def symlink(self, pointing: str, path: str) -> None:
        os.symlink(pointing, self.at(path))

    def mkfifo(self, path: str, mode: int) -> None:
        os.mkfifo(self.at(path), mode)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def utimens(self, path: str, time_ns: int) -> None:
        os.utime(self.at(path), ns=(time_ns, time_ns), follow_symlinks=False)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def fsyncdir(self, path: str) -> None:
        fd = os.open(self.at(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def name_max(self) -> int:
        return os.statvfs(self.root).f_namemax

    def open(self, path: str, flags: int, mode: int) -> int:
        return os.open(self.at(path), flags, mode)

    def close(self, handle: int) -> None:
        os.close(handle)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        assert os.pwrite(handle, data, offset) == len(data)

    def append(self, handle: int, data: bytes) -> None:
        assert os.write(handle, data) == len(data)

    def ftruncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def flush(self, handle: int) -> None:
        os.close(os.dup(handle))

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def map_write(self, handle: int, data: bytes, offset: int) -> None:
        with mmap.mmap(handle, 0) as mapped:
            mapped[offset : offset + len(data)] = data
            mapped.flush()

    def tree(self) -> dict[str, Seen]:
        out: dict[str, Seen] = {}
        self._look("", out)
        return out

    def _look(self, path: str, out: dict[str, Seen]) -> None:
        found = os.listdir(self.at(path))
        assert len(found) == len(set(found)), f"a name is there twice: {found}"
        for name in found:
            below = f"{path}/{name}" if path else name
            there = os.lstat(self.at(below))
            owner = (there.st_mode, there.st_uid, there.st_gid)
            time = _time(there.st_mtime_ns)
            if stat.S_ISDIR(there.st_mode):
                out[below] = (*owner, time)
                self._look(below, out)
            elif stat.S_ISLNK(there.st_mode):
                out[below] = (*owner, there.st_nlink, time, os.readlink(self.at(below)))
            elif stat.S_ISREG(there.st_mode):
                data = Path(self.at(below)).read_bytes()
                out[below] = (*owner, there.st_nlink, there.st_size, time, data)
            else:
                out[below] = (*owner, there.st_nlink, time)


class VfsDriver:
    """The verbs of a Vfs as the kernel would call them for the same."""

    def __init__(self, portal: BlockingPortal, mounted: Mounted) -> None:
        self.portal = portal
        self.m = mounted

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of an async function of the Vfs's own thread."""

        async def call() -> Any:
            with trio.fail_after(_LIMIT_S):
                return await function(*args)

        return self.portal.call(call)

    def mkdir(self, path: str, mode: int) -> None:
        self.call(self.m.mkdir, path, mode)

    def rmdir(self, path: str) -> None:
        self.call(self.m.rmdir, path)

    def unlink(self, path: str) -> None:
        self.call(self.m.unlink, path)

    def rename(self, source: str, to: str, flags: int) -> None:
        self.call(self.m.rename, source, to, flags)

    def link(self, source: str, to: str) -> None:
        self.call(self.m.link, source, to)

    def symlink(self, pointing: str, path: str) -> None:
        self.call(self.m.symlink, pointing, path)

    def mkfifo(self, path: str, mode: int) -> None:
        self.call(self.m.mknod, path, stat.S_IFIFO | mode)

    def chmod(self, path: str, mode: int) -> None:
        self.call(self.m.chmod, path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        async def chown() -> None:
            await self.m.setattr(path, uid=uid, gid=gid)

        self.call(chown)

    def utimens(self, path: str, time_ns: int) -> None:
        self.call(self.m.utimens, path, time_ns)

    def truncate(self, path: str, size: int) -> None:
        self.call(self.m.truncate, path, size)

    def fsyncdir(self, path: str) -> None:
        async def fsyncdir() -> None:
            handle = self.m.vfs.opendir((await self.m.node(path)).ino)
            try:
                await self.m.vfs.fsyncdir(handle)
            finally:
                self.m.vfs.releasedir(handle)

        self.call(fsyncdir)

    def name_max(self) -> int:
        async def statfs() -> dict[str, Any]:
            return self.m.vfs.statfs()

        return int(self.call(statfs)["f_namemax"])

    def open(self, path: str, flags: int, mode: int) -> int:
        return int(self.call(self.m.open, path, flags, mode))

    def close(self, handle: int) -> None:
        self.call(self.m.close, handle)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return bytes(self.call(self.m.pread, handle, offset, size))

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        self.call(self.m.pwrite, handle, data, offset)

    def append(self, handle: int, data: bytes) -> None:
        async def append() -> None:
            await self.m.pwrite(handle, data, self.m.vfs.node_of(handle).size)

        self.call(append)

    def ftruncate(self, handle: int, size: int) -> None:
        async def ftruncate() -> None:
            await self.m.vfs.setattr(self.m.vfs.node_of(handle).ino, Changes(size=size))

        self.call(ftruncate)

    def flush(self, handle: int) -> None:
        async def flush() -> None:
            self.m.vfs.flush(handle)

        self.call(flush)

    def fsync(self, handle: int) -> None:
        async def fsync() -> None:
            await self.m.vfs.fsync(handle)

        self.call(fsync)

    def map_write(self, handle: int, data: bytes, offset: int) -> None:
        """What the kernel sends when mapped pages are flushed: a page, read before."""

        async def map_write() -> None:
            page = bytearray(await self.m.pread(handle, 0, 4096))
            page[offset : offset + len(data)] = data
            await self.m.pwrite(handle, bytes(page), 0)

        self.call(map_write)

    def tree(self) -> dict[str, Seen]:
        async def look() -> dict[str, Seen]:
            out: dict[str, Seen] = {}
            await self._look("", out)
            return out

        seen: dict[str, Seen] = self.call(look)
        return seen

    async def _look(self, path: str, out: dict[str, Seen]) -> None:
        found = await self.m.names(path)
        assert len(found) == len(set(found)), f"a name is there twice: {found}"
        for name in found:
            below = f"{path}/{name}" if path else name
            node: Node = await self.m.node(below)
            owner, time = (node.mode, node.uid, node.gid), _time(node.mtime_ns)
            if node.is_dir:
                out[below] = (*owner, time)
                await self._look(below, out)
            elif stat.S_ISLNK(node.mode):
                out[below] = (*owner, node.nlink, time, await self.m.readlink(below))
            elif stat.S_ISREG(node.mode):
                out[below] = (*owner, node.nlink, node.size, time, await self.m.read_file(below))
            else:
                out[below] = (*owner, node.nlink, time)
