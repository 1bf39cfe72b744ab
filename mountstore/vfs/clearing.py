"""Making room: keys that are to be written, and objects that no name wants.

What lives under a key alone is rescued before the key is overwritten or deleted: copied to where it belongs,
or brought into the journal.
"""

from __future__ import annotations

import logging
import time

from mountstore.aio import AsyncStore
from mountstore.errors import PreconditionFailed
from mountstore.vfs.answers import Answers
from mountstore.vfs.content import BusyKeys, Content
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.rows import ROOT_INO, Known, Node
from mountstore.vfs.tree import Tree

log = logging.getLogger(__name__)


class Blocked(Exception):
    """This cannot be done yet: something else, which is due, has to be done in the store first."""


class Clearing:
    """Deletes and rescues; for the thread of the event loop alone. Raises Blocked, StoreError, OSError."""

    def __init__(
        self,
        index: Index,
        tree: Tree,
        content: Content,
        listing: Listing,
        store: AsyncStore,
        busy: BusyKeys,
        answers: Answers,
    ) -> None:
        self._index = index
        self._tree = tree
        self._content = content
        self._listing = listing
        self._store = store
        self._busy = busy
        self._answers = answers
        self._capabilities = store.store.capabilities
        self.uploading: set[int] = set()  # nodes whose content is on its way

    def postpone(self, node: Node, seconds: float) -> None:
        """Look at this node again in a while, if it is still due."""
        if node.due is not None:
            with self._index.transaction():
                node.due = time.time_ns() + int(seconds * 1e9)
                self._index.save(node)

    def done(self, node: Node) -> None:
        """The store has this node as it is."""
        with self._index.transaction():
            node.due = node.since = None
            self._index.save(node)

    async def make_room(self, key: str, node: Node) -> None:
        """Before a key is written: rescue content that only lives there, remove what is in the way."""
        if self._tree.is_held(key):
            raise Blocked
        if (known := self._index.object(key)) is not None and known.cid and known.cid != node.cid:
            for ino in self._index.users_of_content(known.cid):
                other = self._index.node(ino)
                if other is None or other is node:
                    continue
                if all(k.key == key for k in self._index.objects_with(known.cid)):
                    await self._rescue(other, known)
        if not self._index.any_stale():
            return
        # Stores that keep objects as files cannot hold `a` beside `a/b`: what is leaving goes first.
        cut = key.find("/")
        while cut > 0:
            above = self._index.object(key[:cut])
            if above is not None and above.stale:
                await self.delete(above)
            cut = key.find("/", cut + 1)
        for below in list(self._index.objects_below(key.rstrip("/") + "/", stale=True)):
            if below.etag is not None and not key.endswith("/"):
                await self.delete(below)

    async def _rescue(self, node: Node, known: Known) -> None:
        """Keep the content of a node whose only object is about to be replaced."""
        if node.ino in self.uploading:
            raise Blocked
        if node.nlink and self._can_leave(node, known.key):
            # It has somewhere to go: let it go there first.
            self.postpone(node, 0)
            raise Blocked
        # Open but unlinked, or names that change places.
        if not await self._content.rescue(node):
            raise Blocked
        if node.nlink:
            with self._index.transaction():
                self._tree.want(node, 0)
                self._index.save(node)

    def _can_leave(self, node: Node, key: str) -> bool:
        """Whether a node's wanted key is free, or is left in turn by a node that can leave.

        Names that moved on in a row (a to b, b to c) are copied from its end; in a circle nobody can begin.
        """
        seen = {key}
        while True:
            target = self._tree.key_of(self._index.links(node.ino)[0])
            there = self._index.object(target)
            if target in seen:
                return False
            users = [
                user
                for ino in (self._index.users_of_content(there.cid) if there is not None else ())
                if (user := self._index.node(ino)) is not None and user is not node
            ]
            if not users:
                return True
            if len(users) > 1 or not users[0].nlink:
                return False
            seen.add(target)
            node = users[0]

    async def delete(self, known: Known) -> None:
        key = known.key
        if self._tree.find(key) is not None:
            with self._index.transaction():
                self._index.set_stale(key, 0)
            return
        if key in self._busy or self._tree.is_held(key) or self._is_needed(key):
            raise Blocked
        if known.cid and all(k.key == key or k.stale for k in self._index.objects_with(known.cid)):
            for ino in self._index.users_of_content(known.cid):
                user = self._index.node(ino)
                if user is None or not (user.nlink or user.opens):
                    continue
                # A move that has not been copied yet, or a file that is still open.
                if user.nlink and user.due is None:
                    log.warning("%r has its content in %r alone", self._tree.path_of(ino), key)
                    with self._index.transaction():
                        self._tree.want(user, 0)
                        self._index.save(user)
                if user.nlink or not await self._content.rescue(user):
                    raise Blocked
        if key.endswith("/") and any(below.key != key for below in self._index.objects_below(key)):
            with self._index.transaction():
                self._index.park(key)
            return
        self._busy.take(key)
        try:
            failpoint("delete-begins")
            await self._content.hold(known.cid)
            if known.etag is not None:
                await self._delete_object(known)
            elif (await self._store.list(key, limit=1)).objects:
                self._expire_parent(key)  # somebody else has put something there
            failpoint("delete-landed")
            self._listing.bury(key)
            with self._index.transaction():
                self._index.drop_object(key)
        finally:
            self._busy.give(key)

    def _is_needed(self, key: str) -> bool:
        """Whether this marker tells where the members of a directory are, and no other does so yet."""
        if not key.endswith(")/") or (dentry := self._index.dentry_of_deep(key[-25:-1])) is None:
            return False
        marker = self._index.object(self._tree.marker_of(dentry.ino))
        return marker is None or marker.etag is None

    async def _delete_object(self, known: Known) -> None:
        key = known.key
        try:
            if self._capabilities.conditional_delete:
                await self._store.delete(key, if_match=known.etag, missing_ok=True)
                return
            info = await self._answers.head(key, known.etag)
            if info is not None and info.etag != known.etag:
                raise PreconditionFailed(key=key)
            if info is not None:
                await self._store.delete(key, missing_ok=True)
        except PreconditionFailed:
            log.warning("%r was changed by somebody else after it was removed here: it comes back", key)
            self._expire_parent(key)

    def _expire_parent(self, key: str) -> None:
        found = self._tree.find(key[: key.rstrip("/").rfind("/") + 1]) if "/" in key.rstrip("/") else None
        parent = found[1] if found else self._index.node(ROOT_INO)
        if parent is not None:
            with self._index.transaction():
                self._listing.expire(parent)
