"""Files and whole trees brought into the cache before anybody reads them, and pinned there."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from mountstore.aio import AsyncStore
from mountstore.errors import MountError, NotFound, PreconditionFailed, UsageError
from mountstore.stores.caching import CachingStore
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.names import segment_of_name
from mountstore.vfs.rows import ROOT_INO, Known, Node
from mountstore.vfs.streams import first_of

log = logging.getLogger(__name__)

_PARALLEL = 4
_BATCH = 128


@dataclass(slots=True)
class Progress:
    """How far it is; `files` and `bytes` are what was found so far, and grow while trees are walked."""

    files: int = 0
    bytes: int = 0
    done_files: int = 0
    done_bytes: int = 0
    pending_files: int = 0  # not in the store yet: they come into the cache when they are uploaded
    failed_files: int = 0  # changed by others meanwhile


class Warming:
    """For the thread of the event loop alone."""

    def __init__(self, index: Index, listing: Listing, store: AsyncStore, cache: CachingStore) -> None:
        self._index = index
        self._listing = listing
        self._store = store
        self._cache = cache

    async def pin(self, paths: Sequence[str]) -> None:
        """Pin files and trees. Raises MountError, StoreFull and what the store raises."""
        for path in paths:
            node = await self._find(path)
            key = _key(path)
            await self._store.run(self._cache.pin, f"{key}/" if key and node.is_dir else key)

    async def unpin(self, paths: Sequence[str]) -> None:
        """Raises UsageError for one that is not pinned as it is."""
        pinned = {pin.prefix for pin in self._cache.pins}
        for path in paths:
            key = _key(path)
            prefix = next((prefix for prefix in (key, f"{key}/") if prefix in pinned), None)
            if prefix is None:
                raise UsageError(f"{path or 'the whole mount'} is not pinned (mountstore pin --list)")
            await self._store.run(self._cache.unpin, prefix)

    async def warm(self, paths: Sequence[str], progress: Progress) -> None:
        """Have the content of files, and of all files below directories, in the cache.

        Raises MountError for a path that is not there, and what the store raises.
        """
        nodes = [await self._find(path) for path in paths]
        send, receive = trio.open_memory_channel[Known](_BATCH)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(_PARALLEL):
                    nursery.start_soon(self._fetch, receive.clone(), progress)
                receive.close()
                async with send:
                    for node in nodes:
                        await self._walk(node, send, progress)
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors

    async def _walk(self, node: Node, send: trio.MemorySendChannel[Known], progress: Progress) -> None:
        if not node.is_dir:
            await self._file(node, send, progress)
            return
        await self._listing.ensure(node)
        after = 0
        while batch := self._index.children(node.ino, after, _BATCH):
            for dentry, child in batch:
                await self._walk(child, send, progress)
                after = dentry.id

    async def _file(self, node: Node, send: trio.MemorySendChannel[Known], progress: Progress) -> None:
        known = next((k for k in self._index.objects_with(node.cid) if k.etag is not None), None)
        if known is None:
            progress.pending_files += 1
            return
        progress.files += 1
        progress.bytes += known.size
        await send.send(known)

    async def _fetch(self, receive: trio.MemoryReceiveChannel[Known], progress: Progress) -> None:
        async with receive:
            async for known in receive:
                assert known.etag is not None
                before = 0

                def told(done: int) -> None:
                    nonlocal before
                    progress.done_bytes += done - before
                    before = done

                try:
                    await self._store.run(self._cache.warm, known.key, known.etag, known.size, told)
                    progress.done_files += 1
                except (NotFound, PreconditionFailed) as error:
                    progress.failed_files += 1
                    log.info("%r did not come into the cache: %s", known.key, error)

    async def _find(self, path: str) -> Node:
        node = self._index.node(ROOT_INO)
        for name in _names(path):
            if node is not None and node.is_dir:
                await self._listing.ensure_name(node, segment_of_name(name))
                node = self._index.entry(node.ino, name)
            else:
                node = None
        if node is None:
            raise MountError(f"{path}: {os.strerror(errno.ENOENT)}")
        return node


def _names(path: str) -> list[bytes]:
    return [os.fsencode(name) for name in path.split("/") if name]


def _key(path: str) -> str:
    return "/".join(segment_of_name(name) for name in _names(path))
