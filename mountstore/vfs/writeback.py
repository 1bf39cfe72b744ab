"""One node or one key at a time: what the store lacks of it is put, copied, given attributes or deleted.

Each request is recorded as an intent before it is sent. If its answer is lost, the object is looked at:
its metadata holds the ctime of the node to the nanosecond, so what carries the metadata of the intent is
ours. Every put is conditional on what the store is known to hold; the loser of a race is kept beside the
winner.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime

import trio

from mountstore.aio import AsyncStore
from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import ObjectInfo
from mountstore.vfs.attrs import metadata_of
from mountstore.vfs.content import Body, BusyKeys, Content, Snapshot, Stale
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.names import NAME_MAX
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.rows import ROOT_INO, Dentry, Intent, Known, Node
from mountstore.vfs.tree import Tree

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.5  # after which a request without an answer is asked about
_LAST_LOOK_S = 2.0  # after which a request that has not landed is taken for lost
_BATCH = 256  # members of a moved directory that are visited in one transaction


class Blocked(Exception):
    """This cannot be done yet: something else, which is due, has to be done in the store first."""


class Writeback:
    """Makes single nodes and keys true in the store; for the thread of the event loop alone.

    Every method may raise Blocked, StoreError and OSError; whatever was not done is still due then.
    """

    def __init__(
        self,
        index: Index,
        tree: Tree,
        content: Content,
        listing: Listing,
        store: AsyncStore,
        options: VfsOptions,
        busy: BusyKeys,
    ) -> None:
        self._index = index
        self._tree = tree
        self._content = content
        self._listing = listing
        self._store = store
        self._busy = busy
        self._options = options
        self._capabilities = store.store.capabilities
        self._looked: set[str] = set()  # keys without a name, whose requests had not landed at a first look
        self.uploading: set[int] = set()
        self.uploaded_count = 0
        self.uploaded_bytes = 0

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

    # -- files -------------------------------------------------------------------------------------

    async def file(self, node: Node) -> None:
        if node.unsaved:
            with self._index.transaction():
                self._index.save(node)
        for dentry in self._index.links(node.ino):
            key = self._tree.key_of(dentry)
            if key in self._busy.unsettled:
                await self.recover(key)
            known = self._index.object(key)
            if known is not None and known.cid == node.cid and known.mid == node.mid:
                if known.stale:
                    with self._index.transaction():
                        self._index.set_stale(key, 0)
                continue
            await self._busy.wait(key)
            await self._make_room(key, node)
            if self._gone_or_moved(node, dentry, key):
                return  # renamed meanwhile: due again by that
            sources = [k for k in self._index.objects_with(node.cid) if k.etag is not None]
            if node.is_clean and sources:
                await self._copy(node, dentry, key, sources)
            else:
                await self._upload(node, dentry, key)
        self._settled(node)

    def _gone_or_moved(self, node: Node, dentry: Dentry, key: str) -> bool:
        now = self._index.dentry(dentry.parent, dentry.name)
        return now is None or now.ino != node.ino or self._tree.key_of(now) != key

    def _settled(self, node: Node) -> None:
        """Nothing is due any more, unless something changed while we were at it."""
        for dentry in self._index.links(node.ino):
            known = self._index.object(self._tree.key_of(dentry))
            if known is None or known.cid != node.cid or known.mid != node.mid:
                now = time.time_ns()
                delay_s = self._options.checkpoint_s if node.writers else self._options.upload_delay_s
                with self._index.transaction():
                    node.due, node.since = now + int(delay_s * 1e9), now
                    self._index.save(node)
                return
        self.done(node)

    async def _upload(self, node: Node, dentry: Dentry, key: str) -> None:
        known = self._index.object(key)
        metadata = self._metadata(node)
        if node.target is not None:
            snapshot = Snapshot(node.ino, node.cid, node.size, 0, 0, ())
            body: Body = node.target
        else:
            snapshot = self._content.freeze(node)
            body = self._content.body(snapshot, self._store.store)
        mid = node.mid
        intent = Intent(key, json.dumps(metadata), snapshot.size, snapshot.cid, mid, "put", node.ino)
        self._busy.take(key)
        self.uploading.add(node.ino)
        try:
            with self._index.transaction():
                self._index.put_intent(intent)
            failpoint("put-intended")
            info = await self._put(key, body, metadata, known, intent)
            failpoint("put-landed")
        except PreconditionFailed:
            self._thaw(node, snapshot)
            await self._lost_race(node, dentry, key)
        except Stale:
            self._thaw(node, snapshot)
            await self._base_lost(node, key)
        except BaseException:
            self._thaw(node, snapshot)
            self._unsettled(key)
            raise
        else:
            self._record(intent, info, node, snapshot)
            self.uploaded_count += 1
            self.uploaded_bytes += snapshot.size
        finally:
            self.uploading.discard(node.ino)
            self._busy.give(key)

    def _unsettled(self, key: str) -> None:
        """The request may have landed or not: until that is known, nothing is believed of this key."""
        if self._index.intents(key):
            self._busy.unsettled[key] = trio.current_time() + _ASK_AGAIN_S

    async def _lost_race(self, node: Node, dentry: Dentry, key: str) -> None:
        try:
            if not await self._landed_before(key):
                await self._conflict(node, dentry, key)
        except BaseException:
            self._unsettled(key)
            raise

    async def _base_lost(self, node: Node, key: str) -> None:
        """A file was changed in part, and somebody replaced the object that has the rest of it."""
        base_cid = node.base_cid
        for known in self._index.objects_with(base_cid):
            info = await self._head(known.key)
            if info is not None and info.etag == known.etag:
                raise Blocked  # it is still there: a passing fault
        if node.base_cid != base_cid:
            raise Blocked
        with self._index.transaction():
            self._index.drop_intents(key)
            path = self._tree.path_of(node.ino)
            if not self._content.abandon_base(node):
                log.error(
                    "%r: others replaced the object while this file was changed in part; what was written"
                    " here is kept, what was not written here is gone from the store and reads as zeros",
                    path,
                )
            self._index.save(node)
        raise Blocked

    def _thaw(self, node: Node, snapshot: Snapshot) -> None:
        if node.target is not None:
            return
        self._content.thaw(node)
        if node.nlink == 0 and not node.opens:
            with self._index.transaction():
                gone = self._tree.forget_content(node)
            self._content.remove(gone)

    async def _put(
        self, key: str, body: Body, metadata: dict[str, str], known: Known | None, intent: Intent
    ) -> ObjectInfo:
        """Put under the condition that the store holds what we know it holds."""
        etag = known.etag if known is not None else None
        try:
            if not self._capabilities.conditional_put:
                await self._look_first(key, etag)
                return await self._store.put(key, body, metadata=metadata)
            if etag is not None:
                return await self._store.put(key, body, metadata=metadata, if_match=etag)
            return await self._store.put(key, body, metadata=metadata, if_absent=True)
        except (PreconditionFailed, NotFound):
            info = await self._head(key)
            if info is None:
                # Removed by somebody: our change is newer and all that is left.
                with self._index.transaction():
                    self._index.drop_object(key)
                if not isinstance(body, bytes | bytearray | memoryview):
                    body.seek(0)
                return await self._store.put(key, body, metadata=metadata, if_absent=True)
            if self._is_ours(info, intent):
                return info
            raise PreconditionFailed(f"{key!r} was changed by somebody else", key=key) from None

    async def _look_first(self, key: str, etag: str | None) -> None:
        info = await self._head(key)
        if (info.etag if info else None) != etag:
            raise PreconditionFailed(f"{key!r} was changed by somebody else", key=key)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except NotFound:
            return None

    def _is_ours(self, info: ObjectInfo, intent: Intent) -> bool:
        """Whether an object is what this intent put."""
        return (
            self._capabilities.metadata
            and info.size == intent.size
            and dict(info.metadata or {}) == json.loads(intent.metadata)
        )

    def _record(self, intent: Intent, info: ObjectInfo, node: Node | None, snapshot: Snapshot | None) -> None:
        """The store has what was intended."""
        gone = []
        self._listing.touch(intent.key)
        with self._index.transaction():
            self._index.drop_intents(intent.key)
            self._index.put_object(
                Known(intent.key, info.etag, intent.size, info.mtime_ns, intent.cid, intent.mid, 0)
            )
            if node is not None and snapshot is not None:
                self._tree.unwant_content(node)
                if node.target is None:
                    gone = self._content.landed(node, snapshot)
                else:
                    node.base_cid = snapshot.cid
                if node.nlink == 0 and not node.opens:
                    gone = [*gone, *self._tree.forget_content(node)]
                self._index.save(node)
            self._unwant_if_unnamed(intent.key)
        failpoint("put-recorded")
        self._content.remove(gone)
        if node is not None and not node.opens:
            self._content.release(node)

    def _unwant_if_unnamed(self, key: str) -> None:
        if self._tree.find(key) is None:
            self._index.set_stale(key, time.time_ns())

    def _metadata(self, node: Node) -> dict[str, str]:
        if not self._capabilities.metadata:
            return {}
        return metadata_of(
            node.mode, node.uid, node.gid, node.atime_ns, node.mtime_ns, node.ctime_ns, node.rdev
        )

    async def _copy(self, node: Node, dentry: Dentry, key: str, sources: list[Known]) -> None:
        """The store has the content already: under another key, or here with other attributes."""
        source = next((known for known in sources if known.key == key), sources[0])
        metadata = self._metadata(node)
        if source.key == key and not self._capabilities.metadata:
            with self._index.transaction():
                self._index.put_object(replace(source, mid=node.mid, stale=0))
            return
        if source.key in self._busy:
            raise Blocked
        known = self._index.object(key)
        intent = Intent(key, json.dumps(metadata), source.size, source.cid, node.mid, "copy", node.ino)
        self._busy.take(key)
        self.uploading.add(node.ino)  # so that nobody else moves the content away under it
        try:
            if source.key != key:
                await self._look_first(key, known.etag if known else None)
            with self._index.transaction():
                self._index.put_intent(intent)
            failpoint("copy-intended")
            if source.key == key:
                info = await self._store.update_metadata(key, metadata, if_match=source.etag)
            else:
                info = await self._store.copy(
                    source.key,
                    key,
                    metadata=metadata if self._capabilities.metadata else None,
                    if_match=source.etag,
                )
            failpoint("copy-landed")
            self._record(intent, info, None, None)
            self.uploaded_count += 1
        except (PreconditionFailed, NotFound):
            await self._copy_failed(node, dentry, key, known, source)
        except BaseException:
            self._unsettled(key)
            raise
        finally:
            self.uploading.discard(node.ino)
            self._busy.give(key)

    async def _copy_failed(
        self, node: Node, dentry: Dentry, key: str, known: Known | None, source: Known
    ) -> None:
        """Source or target is not what it was known to be."""
        if await self._landed_before(key):
            return
        with self._index.transaction():
            self._index.drop_intents(key)
        if source.key != key:
            there = await self._head(key)
            if there is not None and there.etag != (known.etag if known else None):
                await self._conflict(node, dentry, key)
                return
        await self._source_changed(node, source)

    async def _source_changed(self, node: Node, source: Known) -> None:
        """Somebody replaced or removed the object that a clean node was to be copied from."""
        info = await self._head(source.key)
        if node.base_cid != source.cid or self._index.object(source.key) != source:
            raise Blocked
        links = self._index.links(node.ino)
        with self._index.transaction():
            if info is None:
                self._index.drop_object(source.key)
                if not self._index.objects_with(node.cid):
                    path = self._tree.path_of(node.ino)
                    log.warning("%r was removed by somebody else: so is %r", source.key, path)
                    for dentry in links:
                        self._tree.disown(dentry, node)
            elif info.etag != source.etag:
                known = Known(
                    source.key, info.etag, info.size, info.mtime_ns, self._index.new_id(),
                    self._index.new_id(), source.stale,
                )  # fmt: skip
                self._index.put_object(known)
                for dentry in links:
                    # As in a listing: whoever has it open keeps the version that was opened.
                    self._replace(dentry, node, known, info)
        raise Blocked

    def _replace(self, dentry: Dentry, node: Node, known: Known, info: ObjectInfo) -> None:
        parent = self._index.node(dentry.parent)
        assert parent is not None
        segment = self._tree.key_of(dentry)[len(self._tree.prefix_of(parent.ino)) :]
        self._tree.disown(dentry, node)
        new = self._tree.adopt(parent, segment, known, is_dir=False, place=dentry.id)
        self._listing.apply(new, info)
        self._tree.want(new, 0)
        self._index.save(new)

    # -- conflicts ---------------------------------------------------------------------------------

    async def _conflict(self, node: Node, dentry: Dentry, key: str) -> None:
        """Somebody else was first: theirs keeps the name, ours goes beside it."""
        info = await self._head(key)
        with self._index.transaction():
            self._index.drop_intents(key)
            if info is None:
                self._index.drop_object(key)
                return
            if not self._gone_or_moved(node, dentry, key):
                parent = self._index.node(dentry.parent)
                assert parent is not None
                name = self._conflict_name(dentry)
                self._index.delete_dentry(dentry.id)
                self._index.insert_dentry(dentry.parent, name, node.ino)
                known = Known(
                    key, info.etag, info.size, info.mtime_ns, self._index.new_id(), self._index.new_id(), 0
                )
                self._index.put_object(known)
                segment = key[len(self._tree.prefix_of(parent.ino)) :]
                theirs = self._tree.adopt(parent, segment, known, is_dir=False, place=dentry.id)
                self._listing.apply(theirs, info)
                self._index.save(theirs)
                self._index.add_conflict(node.ino)
                self._tree.want(node, 0)
                self._index.save(node)
                log.warning(
                    "%r was changed by somebody else: both versions are kept, ours as %r",
                    key,
                    os.fsdecode(name),
                )
        self._listing.touch(key)

    def _conflict_name(self, dentry: Dentry) -> bytes:
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        suffix = f".conflict-{socket.gethostname().split('.')[0]}-{when}"
        number = 0
        while True:
            tail = (suffix + (f"-{number}" if number else "")).encode()
            name = dentry.name[: NAME_MAX - len(tail)] + tail
            if self._index.dentry(dentry.parent, name) is None:
                return name
            number += 1

    # -- room for a key ----------------------------------------------------------------------------

    async def _make_room(self, key: str, node: Node) -> None:
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
        if not await self._content.localise(node):
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

    # -- directories -------------------------------------------------------------------------------

    async def directory(self, node: Node) -> None:
        if node.subtree:
            await self._visit(node)
        if node.subtree or not node.nlink:
            return  # it has moved on meanwhile
        if not node.marker:
            self.done(node)
            return
        key = self._tree.prefix_of(node.ino)
        if key in self._busy.unsettled:
            await self.recover(key)
        known = self._index.object(key)
        if known is not None and known.etag is not None and known.mid == node.mid:
            if known.stale:
                with self._index.transaction():
                    self._index.set_stale(key, 0)
            self.done(node)
            return
        await self._make_room(key, node)
        await self._busy.wait(key)
        if not node.nlink or self._tree.prefix_of(node.ino) != key:
            return
        metadata = self._metadata(node)
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
                self._index.drop_intents(key)
                self._index.put_object(Known(key, info.etag, info.size, info.mtime_ns, 0, mid, 0))
                if not node.nlink or self._tree.prefix_of(node.ino) != key:
                    self._index.set_stale(key, time.time_ns())
        except BaseException:
            self._unsettled(key)
            raise
        finally:
            self._busy.give(key)
        if node.mid == mid and node.nlink and self._tree.prefix_of(node.ino) == key and not node.subtree:
            self.done(node)
        else:
            self.postpone(node, 0.05)

    async def _visit(self, node: Node) -> None:
        """The directory has moved: everything in it wants another key."""
        if not node.listed_ns:
            await self._listing.ensure(node)
        wanted = self._tree.prefix_of(node.ino)
        vacated = self._tree.vacated(node.ino) - {wanted}
        with self._index.transaction():
            for prefix in vacated:
                self._tree.unwant_prefix(prefix)
        failpoint("move-begins")
        after = 0
        while node.nlink and (batch := self._index.children(node.ino, after, _BATCH)):
            with self._index.transaction():
                for _, child in batch:
                    if child.is_dir:
                        segment = self._tree.prefix_of(child.ino)[len(wanted) :]
                        self._index.add_vacated(child.ino, [prefix + segment for prefix in vacated])
                        child.subtree = 1
                        self._tree.want(child, 0)
                        self._index.save(child)
                        continue
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
            self._index.save(node)

    # -- deleting ----------------------------------------------------------------------------------

    async def delete(self, known: Known) -> None:
        key = known.key
        if self._tree.find(key) is not None:
            with self._index.transaction():
                self._index.set_stale(key, 0)
            return
        if key in self._busy or self._tree.is_held(key):
            raise Blocked
        if known.cid and all(k.key == key or k.stale for k in self._index.objects_with(known.cid)):
            for ino in self._index.users_of_content(known.cid):
                user = self._index.node(ino)
                if user is None or not (user.nlink or user.opens):
                    continue
                # A move that has not been copied yet, or a file that is still open.
                if user.nlink or not await self._content.localise(user):
                    raise Blocked
        if key.endswith("/") and any(below.key != key for below in self._index.objects_below(key)):
            with self._index.transaction():
                self._index.park(key)
            return
        self._busy.take(key)
        try:
            failpoint("delete-begins")
            if known.etag is not None:
                await self._delete_object(known)
            elif (await self._store.list(key, limit=1)).objects:
                self._expire_parent(key)  # somebody else has put something there
            failpoint("delete-landed")
            self._listing.touch(key)
            with self._index.transaction():
                self._index.drop_object(key)
        finally:
            self._busy.give(key)

    async def _delete_object(self, known: Known) -> None:
        key = known.key
        try:
            if self._capabilities.conditional_delete:
                await self._store.delete(key, if_match=known.etag, missing_ok=True)
                return
            info = await self._head(key)
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

    # -- lost answers ------------------------------------------------------------------------------

    async def _landed_before(self, key: str) -> bool:
        """Whether the object is what an earlier request of ours put, whose answer was lost; recorded then."""
        info = await self._head(key)
        for intent in self._index.intents(key):
            if info is not None and self._is_ours(info, intent):
                self._adopt_landed(intent, info)
                return True
        return False

    def _adopt_landed(self, intent: Intent, info: ObjectInfo) -> None:
        failpoint("recover-found")
        node = self._index.node(intent.ino)
        gone = []
        self._listing.touch(intent.key)
        with self._index.transaction():
            self._index.drop_intents(intent.key)
            self._index.put_object(
                Known(intent.key, info.etag, intent.size, info.mtime_ns, intent.cid, intent.mid, 0)
            )
            if node is not None and node.nlink and not node.is_dir and intent.kind == "put":
                # Layers that went into it may stay above it: they hold the same bytes.
                node.base_cid = intent.cid
                self._content.stack(node).version += 1
                if node.cid == intent.cid:
                    gone = self._content.drop(node)
                self._index.save(node)
            self._unwant_if_unnamed(intent.key)
        self._content.remove(gone)

    async def recover(self, key: str) -> None:
        """Find out which of the requests to this key has landed. Raises StoreError.

        One that has not may be on its way yet. Where a name wants the key, the next request meets it; where
        none does, the key is looked at once more before it is forgotten.
        """
        await self._busy.wait(key)
        again = False
        if self._index.intents(key):
            self._busy.take(key)
            try:
                failpoint("recover-begins")
                if not await self._landed_before(key) and self._tree.find(key) is None:
                    again = key not in self._looked
                    if again:
                        self._looked.add(key)
                    else:
                        with self._index.transaction():
                            self._index.drop_intents(key)
            finally:
                self._busy.give(key)
        if again:
            self._busy.unsettled[key] = trio.current_time() + _LAST_LOOK_S
        else:
            self._looked.discard(key)
            self._busy.unsettled.pop(key, None)
