"""Making room: keys that are to be written, and objects that no name wants.

What lives under a key alone is rescued before the key is overwritten or deleted: copied to where it belongs,
or brought into the journal.
"""

from __future__ import annotations

import logging
import time

from mountstore.aio import AsyncStore
from mountstore.errors import PreconditionFailed, Unavailable
from mountstore.vfs.answers import Answers
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.content import Content
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
        self._moves_ended = 0  # of those of the tree, how many the disk knows of
        self.uploading: set[int] = set()  # nodes whose content is on its way
        self.failing: set[int] = set()  # nodes that the store refused: they are tried at a pace of their own

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
        if self._tree.is_held(key) or self._answers.delete_may_land(key):
            raise Blocked
        if (known := self._index.object(key)) is not None and known.cid and known.cid != node.cid:
            for ino in self._index.users_of_content(known.cid):
                other = self._index.node(ino)
                if other is None or other is node:
                    continue
                if all(k.key == key for k in self._index.objects_with(known.cid)):
                    await self._rescue(other, key)
        for known in self._in_way(key):
            await self.delete(known, room_for=key)

    def _in_way(self, key: str) -> list[Known]:
        """Stores that keep objects as files cannot hold `a` beside `a/b`: what has to go before it."""
        if not self._index.any_stale():
            return []
        above = [self._index.object(key[:cut]) for cut, char in enumerate(key) if char == "/" and cut]
        found = [known for known in above if known is not None and known.stale]
        if not key.endswith("/"):
            below = self._index.objects_below(key + "/", stale=True)
            found += [known for known in below if known.etag is not None]
        return found

    async def _rescue(self, node: Node, key: str) -> None:
        """Keep the content of a node whose only object is about to be replaced, or is in the way of a key."""
        if node.ino in self.uploading:
            raise Blocked
        if node.nlink and self._can_leave(node, key):
            # It has somewhere to go: let it go there first.
            if node.ino not in self.failing:
                self.postpone(node, 0)
            raise Blocked
        # Open but unlinked, or names that change places.
        if node.target is None and not await self._content.rescue(node):
            raise Blocked
        if node.target is not None:
            self._content.sync_index()
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
            if target in seen:
                return False
            there = self._index.object(target)
            users = [
                user
                for known in [*([there] if there is not None else []), *self._in_way(target)]
                for ino in self._index.users_of_content(known.cid)
                if (user := self._index.node(ino)) is not None and user is not node
            ]
            if not users:
                return True
            if len(users) > 1 or not users[0].nlink:
                return False
            seen.add(target)
            node = users[0]

    async def delete(self, known: Known, *, room_for: str | None = None) -> None:
        """Delete a stale object. `room_for`: the key that it is in the way of."""
        key = known.key
        if self._tree.find(key) is not None:
            with self._index.transaction():
                self._index.set_stale(key, 0)
            return
        if key in self._busy or self._tree.is_held(key) or self._is_needed(key):
            raise Blocked
        if self._answers.put_may_land(key):
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
                if room_for is not None:
                    await self._rescue(user, room_for)
                elif user.nlink or not await self._content.rescue(user):
                    raise Blocked
            if key in self._busy or self._tree.find(key) is not None:
                raise Blocked  # that took a while
        if key.endswith("/") and any(below.key != key for below in self._index.objects_below(key)):
            with self._index.transaction():
                self._index.park(key)
            return
        self._busy.take(key)
        try:
            failpoint("delete-begins")
            await self._content.hold(known.cid)
            await self._know_what_came_instead()
            if known.etag is not None:
                await self._delete_object(known)
            elif (await self._store.list(key, limit=1)).objects:
                self._expire_parent(key)  # somebody else has put something there
            failpoint("delete-landed")
            self._listing.bury(key)
            with self._index.transaction():
                self._index.drop_object(key)
                self._index.drop_intents(key)  # nothing of them can land any more: see above
        finally:
            self._busy.give(key)

    async def _know_what_came_instead(self) -> None:
        """Where a file that had moved was replaced before the store heard of it, nobody needs its object now.

        But by an index that does not know of that, as a loss of power may leave it: that would find neither
        what had moved nor what came in its place. So both are brought to the disk first.
        """
        if (ended := self._tree.moves_ended) != self._moves_ended:
            await self._content.sync_all()
            self._moves_ended = ended

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
        except Unavailable:
            self._answers.delete_lost(key)
            raise
        except PreconditionFailed:
            log.warning("%r was changed by somebody else after it was removed here: it comes back", key)
            self._expire_parent(key)

    def _expire_parent(self, key: str) -> None:
        found = self._tree.find(key[: key.rstrip("/").rfind("/") + 1]) if "/" in key.rstrip("/") else None
        parent = found[1] if found else self._index.node(ROOT_INO)
        if parent is not None:
            with self._index.transaction():
                self._listing.expire(parent)
