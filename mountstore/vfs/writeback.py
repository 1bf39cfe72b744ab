"""Files in the store: what it lacks of a node is put, copied, or given attributes.

Every put is conditional on what the store is known to hold; the loser of a race is kept beside the winner.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import BinaryIO, cast

from mountstore.aio import AsyncStore
from mountstore.errors import NotFound, PreconditionFailed, Unavailable
from mountstore.store import ObjectInfo
from mountstore.vfs.answers import Answers
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.clearing import Blocked, Clearing
from mountstore.vfs.content import Body, Content, Snapshot, SnapshotFile, Stale, Unwanted
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.handing import hand_on
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.names import NAME_MAX
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.rows import Dentry, Intent, Known, Node
from mountstore.vfs.streams import Stream, Streams
from mountstore.vfs.tree import Tree

log = logging.getLogger(__name__)


class Writeback:
    """Makes single files true in the store; for the thread of the event loop alone.

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
        answers: Answers,
        clearing: Clearing,
        streams: Streams,
    ) -> None:
        self._streams = streams
        self._index = index
        self._tree = tree
        self._content = content
        self._listing = listing
        self._store = store
        self._options = options
        self._busy = busy
        self._answers = answers
        self._clearing = clearing
        self._capabilities = store.store.capabilities
        self._uploading = clearing.uploading
        self._sending: dict[int, list[SnapshotFile | Stream]] = {}  # by inode
        self.uploaded_count = 0
        self.uploaded_bytes = 0

    async def file(self, node: Node) -> None:
        """Make the store hold this file as it is, under each of its names."""
        if node.unsaved:
            with self._index.transaction():
                self._index.save(node)
        for link in self._index.links(node.ino):
            dentry = self._index.dentry(link.parent, link.name)
            if dentry is None or dentry.ino != node.ino:
                return  # removed while the name before it was seen to: what is stale by now has to stay so
            key = self._tree.key_of(dentry)
            if not self._tree.places.fits(key):
                raise Blocked  # above it a directory has moved that is still to be visited
            if key in self._busy.unsettled:
                settled = await self._answers.ask(key)
                if self._gone_or_moved(node, dentry, key):
                    return  # what is stale by now has to stay so
                if not settled:
                    raise Blocked
            known = self._index.object(key)
            if known is not None and known.cid == node.cid and known.mid == node.mid:
                if known.stale:
                    with self._index.transaction():
                        self._index.set_stale(key, 0)
                continue
            await self._busy.wait(key)
            await self._clearing.make_room(key, node)
            if self._gone_or_moved(node, dentry, key):
                return  # renamed meanwhile: due again by that
            if key in self._busy:
                raise Blocked  # the name was gone for a moment, and its object is being deleted
            sources = [k for k in self._index.objects_with(node.cid) if k.etag is not None]
            if node.is_clean and sources:
                await self._copy(node, dentry, key, sources)
            else:
                await self._upload(node, dentry, key)
        self._settled(node)

    def removed(self, node: Node) -> None:
        """The file has no name any more and will not be written: whoever sends it stops at the next piece."""
        for source in self._sending.get(node.ino, ()):
            source.is_unwanted = True

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
        self._stand_on_store(node)
        self._tree.tell_attributes(node)
        self._clearing.done(node)

    def _stand_on_store(self, node: Node) -> None:
        """Each name's object has the content: what was staged for it, over an older one, is not needed.

        So it is after an answer that was found out about later than the file was changed: the older object
        would wait for ever for a file that needs nothing of it.
        """
        if node.is_clean or node.target is not None or node.unsaved or not node.nlink:
            return
        with self._index.transaction():
            gone = self._content.stand_on_store(node)
        self._content.remove(gone)

    async def _upload(self, node: Node, dentry: Dentry, key: str) -> None:
        known = self._index.object(key)
        stream = None
        metadata = self._answers.metadata(node, dentry, key, new_content=True)
        if node.target is not None:
            snapshot = Snapshot(node.ino, node.cid, node.size, 0, 0, ())
            body: Body = node.target
        else:
            snapshot = self._content.freeze(node)
            body = self._content.body(snapshot, self._store.store)
        mid = node.mid
        self._busy.take(key)
        self._uploading.add(node.ino)
        sources = self._sending.setdefault(node.ino, [])
        file = cast(object, body)
        if isinstance(file, SnapshotFile):
            sources.append(file)
        try:
            stream = await self._streams.take(node, key, snapshot)
            if stream is not None:
                sources.append(stream)
            older = stream if stream is not None and stream.metadata != metadata else None
            if older is not None:
                metadata, mid = older.metadata, older.mid
            mark = await self._answers.mark(metadata, body)
            intent = Intent(key, mark, snapshot.size, snapshot.cid, mid, "put", node.ino)
            with self._index.transaction():
                self._index.put_intent(intent)
                if older is not None:
                    # Its object will carry the times of when its upload began: those of now are due then.
                    # Not otherwise: of a change that changes nothing nobody could tell whether it has landed.
                    node.mid = self._index.new_id()
                    self._index.save(node)
            failpoint("put-intended")
            await self._content.hold(snapshot.base_cid)
            info = await self._put(key, body, metadata, known, intent, stream, snapshot)
            failpoint("put-landed")
        except PreconditionFailed:
            self._thaw(node, snapshot)
            await self._lost_race(node, dentry, key)
        except Stale:
            self._thaw(node, snapshot)
            await self._base_lost(node, key)
        except Unwanted:
            self._thaw(node, snapshot)
            self._answers.unsettled(key)
            log.info("%r has been removed, and is not sent any further", key)
        except BaseException:
            self._thaw(node, snapshot)
            self._answers.unsettled(key)
            raise
        else:
            self._record(intent, info, node, snapshot)
            self.uploaded_count += 1
            self.uploaded_bytes += snapshot.size
            stream = None
        finally:
            self._sending.pop(node.ino, None)
            if stream is not None:
                await self._streams.drop(stream)
            self._uploading.discard(node.ino)
            self._busy.give(key)

    async def _lost_race(self, node: Node, dentry: Dentry, key: str) -> None:
        try:
            if not await self._answers.landed_before(key):
                await self._conflict(node, dentry, key)
        except BaseException:
            self._answers.unsettled(key)
            raise

    async def _base_lost(self, node: Node, key: str) -> None:
        """A file was changed in part, and somebody replaced the object that has the rest of it."""
        base_cid = node.base_cid
        for known in self._index.objects_with(base_cid):
            if (known.key != key and known.key in self._busy) or await self._answers.explain(known.key):
                raise Blocked  # a request of ours has replaced it
            info = await self._answers.head(known.key, known.etag)
            if info is not None and info.etag == known.etag:
                raise Blocked  # it is still there: a passing fault
        if node.base_cid != base_cid:
            raise Blocked
        with self._index.transaction():
            self._index.drop_intents(key)
            path = self._tree.path_of(node.ino)
            if node.is_clean and not self._content.remembers_base(node):
                # Nothing was written here; zeros in its place would be nobody's.
                log.error(
                    "%r: others replaced the object before it was moved here: its content is gone", path
                )
                self._give_back(node)
            elif not self._content.abandon_base(node):
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
        self,
        key: str,
        body: Body,
        metadata: dict[str, str],
        known: Known | None,
        intent: Intent,
        stream: Stream | None,
        snapshot: Snapshot,
    ) -> ObjectInfo:
        """Put under the condition that the store holds what we know it holds."""
        etag = known.etag if known is not None else None
        try:
            if not self._capabilities.conditional_put:
                await self._answers.look_first(key, etag)
                if stream is not None:
                    return await self._streams.finish(stream, snapshot, None, False)
                return await self._send(key, body, metadata)
            if stream is not None:
                return await self._streams.finish(stream, snapshot, etag, etag is None)
            if etag is not None:
                return await self._send(key, body, metadata, if_match=etag)
            return await self._send(key, body, metadata, if_absent=True)
        except (PreconditionFailed, NotFound):
            info = await self._answers.head(key)
            if info is None:
                # Removed by somebody: our change is newer and all that is left.
                with self._index.transaction():
                    self._index.drop_object(key)
                if not isinstance(body, bytes | bytearray | memoryview):
                    body.seek(0)
                return await self._send(key, body, metadata, if_absent=True)
            if await self._answers.is_ours(info, intent):
                return info
            raise PreconditionFailed(f"{key!r} was changed by somebody else", key=key) from None

    async def _send(
        self,
        key: str,
        body: Body,
        metadata: dict[str, str],
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        file = cast(object, body)
        changes = file.changes() if isinstance(file, SnapshotFile) else None
        if changes is None:
            return await self._store.put(key, body, metadata=metadata, if_match=if_match, if_absent=if_absent)
        source, source_etag, changed = changes
        try:
            return await self._store.put_changes(
                key,
                cast(BinaryIO, body),
                changed,
                source=source,
                source_etag=source_etag,
                metadata=metadata,
                if_match=if_match,
                if_absent=if_absent,
            )
        except PreconditionFailed as error:
            if error.key == source and source != key:
                raise Stale(f"object {source!r}") from error
            raise

    def _record(self, intent: Intent, info: ObjectInfo, node: Node | None, snapshot: Snapshot | None) -> None:
        """The store has what was intended."""
        gone = []
        self._listing.touch(intent.key)
        with self._index.transaction():
            self._answers.answered(intent.key)
            self._index.put_object(
                Known(intent.key, info.etag, intent.size, info.mtime_ns, intent.cid, intent.mid, 0)
            )
            if node is not None and snapshot is not None:
                self._tree.unwant_content(node)
                if node.target is None:
                    hand_on(self._store.store, snapshot, info)
                    gone = self._content.landed(node, snapshot)
                else:
                    node.base_cid = snapshot.cid
                if node.nlink == 0 and not node.opens:
                    gone = [*gone, *self._tree.forget_content(node)]
                self._index.save(node)
            self._answers.unwant_if_unnamed(intent.key)
        failpoint("put-recorded")
        self._content.remove(gone)
        if node is not None and not node.opens:
            self._content.release(node)

    async def _copy(self, node: Node, dentry: Dentry, key: str, sources: list[Known]) -> None:
        """The store has the content already: under another key, or here with other attributes."""
        source = next((known for known in sources if known.key == key), sources[0])
        metadata = self._answers.metadata(node, dentry, key, new_content=False)
        if source.key == key and not self._capabilities.metadata:
            with self._index.transaction():
                self._index.put_object(replace(source, mid=node.mid, stale=0))
            return
        if source.key in self._busy:
            raise Blocked
        known = self._index.object(key)
        intent = Intent(key, json.dumps(metadata), source.size, source.cid, node.mid, "copy", node.ino)
        self._busy.take(key)
        self._uploading.add(node.ino)  # so that nobody else moves the content away under it
        try:
            if source.key != key:
                await self._answers.look_first(key, known.etag if known else None)
                if node.cid != source.cid:
                    raise Blocked  # written meanwhile, and perhaps synced: old content must not follow
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
            await self._copy_failed(node, dentry, intent, known, source)
        except BaseException:
            self._answers.unsettled(key)
            raise
        finally:
            self._uploading.discard(node.ino)
            self._busy.give(key)

    async def _copy_failed(
        self, node: Node, dentry: Dentry, intent: Intent, known: Known | None, source: Known
    ) -> None:
        """Source or target is not what it was known to be."""
        key = intent.key
        if await self._answers.landed_before(key):
            return
        if source.key != key and self._tree.has_lost_power and await self._answers.has_landed(intent):
            return
        with self._index.transaction():
            self._index.drop_intents(key)
        if source.key != key:
            etag = known.etag if known else None
            there = await self._answers.head(key, etag)
            if there is not None and there.etag != etag:
                await self._conflict(node, dentry, key)
                return
            if there is None and known is not None and self._index.object(key) == known:
                # Removed by somebody, or by a delete of ours whose answer was lost: the name is free.
                with self._index.transaction():
                    self._index.drop_object(key)
                raise Blocked
        await self._source_changed(node, key, source)

    async def _source_changed(self, node: Node, key: str, source: Known) -> None:
        """Somebody replaced or removed the object that a clean node was to be copied from."""
        if (source.key != key and source.key in self._busy) or await self._answers.explain(source.key):
            raise Blocked
        info = await self._answers.head(source.key, source.etag)
        if node.base_cid != source.cid or self._index.object(source.key) != source:
            raise Blocked
        links = self._index.links(node.ino)
        with self._index.transaction():
            if info is None:
                self._index.drop_object(source.key)
                if not self._index.objects_with(node.cid):
                    path = self._tree.path_of(node.ino)
                    log.warning("%r was removed by somebody else: so is %r", source.key, path)
                    self._give_back(node)
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

    def _give_back(self, node: Node) -> None:
        """Its content is gone: under its names there is what the store has, an older object perhaps, which
        the next listing tells of. In a transaction."""
        for dentry in self._index.links(node.ino):
            key = self._tree.key_of(dentry)
            parent = self._index.node(dentry.parent)
            self._tree.disown(dentry, node)
            self._index.drop_object(key)
            if parent is not None:
                self._listing.expire(parent)

    def _replace(self, dentry: Dentry, node: Node, known: Known, info: ObjectInfo) -> None:
        parent = self._index.node(dentry.parent)
        assert parent is not None
        segment = self._tree.key_of(dentry)[len(self._tree.prefix_of(parent.ino)) :]
        self._tree.disown(dentry, node)
        new = self._tree.adopt(parent, segment, known, is_dir=False, place=dentry.id, name=dentry.name)
        self._listing.apply(new, info)
        self._tree.want(new, 0)
        self._index.save(new)

    async def _conflict(self, node: Node, dentry: Dentry, key: str) -> None:
        """Somebody else was first: theirs keeps the name, ours goes beside it."""
        failpoint("conflict-found")
        known = self._index.object(key)
        info = await self._answers.head(key, known.etag if known else None)
        if info is not None and known is not None and info.etag == known.etag:
            raise Unavailable(f"the store refused to change {key!r}, which nobody has changed", key=key)
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
                place = self._tree.places.segment(self._tree.prefix_of(parent.ino), name, is_dir=False)
                self._index.insert_dentry(dentry.parent, name, node.ino, place)
                known = Known(
                    key, info.etag, info.size, info.mtime_ns, self._index.new_id(), self._index.new_id(), 0
                )
                self._index.put_object(known)
                segment = key[len(self._tree.prefix_of(parent.ino)) :]
                theirs = self._tree.adopt(
                    parent, segment, known, is_dir=False, place=dentry.id, name=dentry.name
                )
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
        failpoint("conflict-recorded")
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
