"""Directories in the store: their markers, and what follows them when they move."""

from __future__ import annotations

import json
import time

import trio

from mountstore.aio import AsyncStore
from mountstore.vfs.answers import Answers
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.clearing import Blocked, Clearing
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.places import deep_id, forwards, prefix_below
from mountstore.vfs.rows import Intent, Known, Node
from mountstore.vfs.tree import Tree

_BATCH = 256  # members of a moved directory that are visited in one transaction
_SOON_S = 0.05


class Folders:
    """Puts markers and visits what has moved; for the thread of the event loop alone."""

    def __init__(
        self,
        index: Index,
        tree: Tree,
        listing: Listing,
        store: AsyncStore,
        busy: BusyKeys,
        answers: Answers,
        clearing: Clearing,
    ) -> None:
        self._index = index
        self._tree = tree
        self._listing = listing
        self._store = store
        self._busy = busy
        self._answers = answers
        self._clearing = clearing

    async def directory(self, node: Node) -> None:
        """Make the store hold this directory as it is. Raises Blocked, StoreError."""
        if node.subtree:
            await self._visit(node)
        if node.subtree or not node.nlink:
            return  # it has moved on meanwhile
        if not node.marker:
            self._clearing.done(node)
            return
        key = self._tree.marker_of(node.ino)
        if not self._tree.places.fits(key):
            raise Blocked  # above it a directory has moved that is still to be visited
        if key in self._busy.unsettled:
            settled = await self._answers.ask(key)
            if not node.nlink or self._tree.prefix_of(node.ino) != key:
                return  # what is stale by now has to stay so
            if not settled:
                raise Blocked
        known = self._index.object(key)
        if known is not None and known.etag is not None and known.mid == node.mid:
            if known.stale:
                with self._index.transaction():
                    self._index.set_stale(key, 0)
            self._clearing.done(node)
            return
        await self._clearing.make_room(key, node)
        await self._busy.wait(key)
        if not node.nlink or self._tree.marker_of(node.ino) != key:
            return
        metadata = self._answers.metadata(node, self._index.links(node.ino)[0], key, new_content=False)
        mid = node.mid
        self._busy.take(key)
        try:
            with self._index.transaction():
                self._index.put_intent(Intent(key, json.dumps(metadata), 0, 0, mid, "put", node.ino))
            failpoint("marker-intended")
            if known is not None and known.size:
                # Somebody keeps content in a marker: only its attributes are ours.
                info = await self._store.update_metadata(key, metadata, if_match=known.etag)
            else:
                info = await self._store.put(key, b"", metadata=metadata)
            failpoint("marker-landed")
            self._listing.touch(key)
            with self._index.transaction():
                self._answers.answered(key)
                self._index.put_object(Known(key, info.etag, info.size, info.mtime_ns, 0, mid, 0))
                if not node.nlink or self._tree.marker_of(node.ino) != key:
                    self._index.set_stale(key, time.time_ns())
        except BaseException:
            self._answers.unsettled(key)
            raise
        finally:
            self._busy.give(key)
        if node.mid == mid and node.nlink and self._tree.marker_of(node.ino) == key and not node.subtree:
            self._tree.tell_attributes(node)
            self._clearing.done(node)
        else:
            self._clearing.postpone(node, _SOON_S)

    async def _visit(self, node: Node) -> None:
        """The directory has moved: everything in it wants another key."""
        if not node.listed_ns:
            await self._listing.ensure(node)
        wanted = self._tree.prefix_of(node.ino)
        # The wanted one too, if it has come back: it may have fewer names than when it left.
        vacated = self._tree.vacated(node.ino)
        with self._index.transaction():
            for prefix in vacated:
                self._tree.unwant_prefix(prefix)
        failpoint("move-begins")
        after = 0
        while node.nlink and (batch := self._index.children(node.ino, after, _BATCH)):
            with self._index.transaction():
                for dentry, child in batch:
                    if child.is_dir:
                        if deep_id(dentry) is None:
                            places = [prefix_below(prefix, dentry) for prefix in vacated]
                        else:
                            places = [prefix_below("", dentry)]
                        self._tree.refit(dentry, is_dir=True)
                        if places != [self._tree.prefix_of(child.ino)]:
                            self._index.add_vacated(child.ino, places)
                            child.subtree = 1
                        if forwards(self._tree.marker_of(child.ino)[:-1]):
                            child.marker = 1
                        self._tree.want(child, 0)
                        self._index.save(child)
                        continue
                    self._tree.refit(dentry, is_dir=False)
                    self._tree.unwant_content(child)
                    self._tree.want(child, None if child.writers else 0)
                    self._index.save(child)
            after = batch[-1][0].id
            await trio.lowlevel.checkpoint()
        failpoint("move-visited")
        with self._index.transaction():
            if node.nlink and self._tree.prefix_of(node.ino) == wanted:
                node.subtree = 0
                node.prefix = wanted
                self._index.drop_vacated(node.ino)
                if self._tree.has_lost_power:
                    # What was listed meanwhile is where it was before, and this may be carried out anew.
                    self._listing.expire(node)
            self._index.save(node)
