"""Requests that change the store, and what became of them.

Each is recorded as an intent before it is sent. If its answer is lost, the object is looked at: its metadata
holds the ctime of the node to the nanosecond, so what carries the metadata of the intent is ours; where a
store keeps none, the content is compared. Until that is known, nothing is believed of the key.
"""

from __future__ import annotations

import json
import time
from collections import deque

import trio

from mountstore.aio import AsyncStore
from mountstore.errors import NotFound, PreconditionFailed, Unavailable
from mountstore.store import ObjectInfo
from mountstore.stores.caching import uncached
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.content import Body, Content
from mountstore.vfs.digests import digest_of_body, digest_of_object
from mountstore.vfs.extras import metadata_for
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Listing
from mountstore.vfs.rows import Dentry, Intent, Known, Node
from mountstore.vfs.tree import Tree

_ASKS = 4  # how often an object is asked for until two answers agree
_ASK_AGAIN_S = 0.5  # after which a request without an answer is asked about
_DIGEST = "sha256"
LAST_LOOK_S = 2.0  # after which a request that has not landed is taken for lost
_MANY = 10_000


class Answers:
    """Intents and their outcomes; for the thread of the event loop alone."""

    def __init__(
        self,
        index: Index,
        tree: Tree,
        content: Content,
        listing: Listing,
        store: AsyncStore,
        busy: BusyKeys,
    ) -> None:
        self._index = index
        self._tree = tree
        self._content = content
        self._listing = listing
        self._store = store
        self._busy = busy
        self._capabilities = store.store.capabilities
        self._puts: dict[str, float] = {}  # until when (trio's clock) one without an answer may still land
        self._deletes: dict[str, float] = {}
        self._looked: set[str] = set()  # keys that are unsettled still after a first look
        self._unfinished = False  # whether a process died with work to do, a moment ago
        self._held_until = 0.0
        self._lingering: deque[tuple[float, str]] = deque()  # (until when, key) of intents kept for longer

    def take_over(self) -> None:
        """A process has left something to do behind, and perhaps requests without an answer."""
        self._unfinished = not (self._capabilities.conditional_delete or self._capabilities.local)
        for intent in self._index.intents():
            self._busy.ask_at(intent.key, 0.0)

    def metadata(self, node: Node, dentry: Dentry, key: str, *, new_content: bool) -> dict[str, str]:
        """What travels beside the content of this node under a key; nothing where the store keeps none.

        Raises StoreFull if it is more than the store holds.
        """
        if not self._capabilities.metadata:
            return {}
        limit = self._capabilities.max_metadata_bytes
        return metadata_for(self._index, node, dentry, key, limit_bytes=limit, new_content=new_content)

    async def head(self, key: str, *likely: str | None) -> ObjectInfo | None:
        """The object as it is, or None. Believed if it is a likely answer (etags; None: no object), else when
        told twice.

        Raises Unavailable if the answers go on contradicting each other.
        """
        heard = set(likely)
        for _ in range(_ASKS):
            try:
                info: ObjectInfo | None = await self._store.head(key)
            except NotFound:
                info = None
            etag = info.etag if info else None
            if etag in heard:
                return info
            heard.add(etag)
        raise Unavailable(f"the store's answers about {key!r} contradict each other", key=key)

    async def look_first(self, key: str, etag: str | None) -> None:
        """Where a condition is not honoured. Raises PreconditionFailed unless the object has this etag."""
        info = await self.head(key, etag)
        if (info.etag if info else None) != etag:
            raise PreconditionFailed(f"{key!r} was changed by somebody else", key=key)

    async def mark(self, metadata: dict[str, str], body: Body) -> str:
        """By what the object will be recognised, if the answer to its put is lost: its metadata, or a digest
        of its content where the store keeps no metadata."""
        if not self._capabilities.metadata:
            metadata = {_DIGEST: await self._store.run(digest_of_body, body)}
        return json.dumps(metadata)

    async def is_ours(self, info: ObjectInfo, intent: Intent) -> bool:
        """Whether an object is what this intent put. Raises StoreError."""
        known = self._index.object(info.key)
        if known is not None and known.etag == info.etag and known.cid != intent.cid:
            return False  # it is what was there before, even if it is like this
        if info.size != intent.size:
            return False
        if self._capabilities.metadata:
            carried: dict[str, str] = json.loads(intent.metadata)
            return dict(info.metadata or {}) == carried
        if not info.size:
            return True
        wanted = json.loads(intent.metadata).get(_DIGEST)
        if wanted is None:
            sources = [known for known in self._index.objects_with(intent.cid) if known.key != intent.key]
            if not sources:
                return False
            wanted = await self._digest(sources[0].key, sources[0].size, sources[0].etag)
        return wanted is not None and wanted == await self._digest(info.key, info.size, info.etag)

    async def _digest(self, key: str, size: int, etag: str | None) -> str | None:
        # What a cache has under an etag is no proof: the etag may have been told wrongly.
        return await self._store.run(digest_of_object, uncached(self._store.store), key, size, etag)

    def unsettled(self, key: str) -> None:
        """The request may have landed or not: until that is known, nothing is believed of this key."""
        if self._index.intents(key):
            self._expect(self._puts, key)
            self._looked.discard(key)
            self._busy.ask_at(key, trio.current_time() + _ASK_AGAIN_S)

    def delete_lost(self, key: str) -> None:
        """The answer to a delete was lost: it may land later."""
        self._expect(self._deletes, key)

    def put_may_land(self, key: str) -> bool:
        """Whether a put or copy without an answer may be on its way: it could bring back what is deleted."""
        return self._puts.get(key, 0.0) > trio.current_time()

    def delete_may_land(self, key: str) -> bool:
        """Whether a delete without an answer may be on its way: it could take what is put now."""
        now = trio.current_time()
        if self._unfinished:
            # The journal does not say which deletes were under way when the process died.
            self._held_until = self._held_until or now + LAST_LOOK_S
            self._unfinished = now < self._held_until
        return self._unfinished or self._deletes.get(key, 0.0) > now

    def _expect(self, requests: dict[str, float], key: str) -> None:
        now = trio.current_time()
        if len(requests) > _MANY:
            for old in [old for old, until in requests.items() if until <= now]:
                del requests[old]
        requests[key] = now + LAST_LOOK_S

    def answered(self, key: str) -> None:
        """The state of this key is known; in the caller's transaction.

        Its intents are kept while an earlier put without an answer may land: should a delete of the key be
        due after a crash, it has to wait for that put as it does now.
        """
        if self.put_may_land(key):
            self._lingering.append((self._puts[key], key))
        else:
            self._index.drop_intents(key)

    def forget_lost(self) -> None:
        """Drop the intents of puts that cannot land any more."""
        now = trio.current_time()
        done = []
        while self._lingering and self._lingering[0][0] <= now:
            done.append(self._lingering.popleft()[1])
        keys = [key for key in done if key not in self._busy and not self.put_may_land(key)]
        if keys:
            with self._index.transaction():
                for key in keys:
                    self._index.drop_intents(key)

    def unwant_if_unnamed(self, key: str) -> None:
        """What has landed where no name wants it any more is stale; in the caller's transaction."""
        if self._tree.find(key) is None:
            self._index.set_stale(key, time.time_ns())

    async def explain(self, key: str) -> bool:
        """Whether an object that is not what it was known to be is so by a request of ours; recorded then."""
        return bool(self._index.intents(key)) and await self.landed_before(key)

    async def landed_before(self, key: str) -> bool:
        """Whether the object is what an earlier request of ours put, whose answer was lost; recorded then."""
        info = await self.head(key)
        for intent in self._index.intents(key):
            if info is not None and await self.is_ours(info, intent):
                self._adopt_landed(intent, info)
                return True
        return False

    async def has_landed(self, intent: Intent) -> bool:
        """Whether the object is what this intent asks for, which is not recorded: a loss of power may have
        taken the record, and what it led to. Recorded then."""
        info = await self.head(intent.key)
        if info is None or not await self.is_ours(info, intent):
            return False
        self._adopt_landed(intent, info)
        return True

    def _adopt_landed(self, intent: Intent, info: ObjectInfo) -> None:
        failpoint("recover-found")
        node = self._index.node(intent.ino)
        gone = []
        self._listing.touch(intent.key)
        with self._index.transaction():
            self.answered(intent.key)
            self._index.put_object(
                Known(intent.key, info.etag, intent.size, info.mtime_ns, intent.cid, intent.mid, 0)
            )
            self._content.sums.landed(intent.cid)
            newer = node is not None and node.base_cid < intent.cid
            if node is not None and newer and node.nlink and not node.is_dir and intent.kind == "put":
                # Layers that went into it may stay above it: they hold the same bytes.
                node.base_cid = intent.cid
                self._content.stack(node).version += 1
                if node.cid == intent.cid:
                    gone = self._content.drop(node)
                self._index.save(node)
            self.unwant_if_unnamed(intent.key)
        self._content.remove(gone)

    def _is_bound(self, intent: Intent) -> bool:
        """Whether a request is refused once another one has changed the object."""
        return self._capabilities.conditional_put and intent.kind == "put" and not intent.key.endswith("/")

    def _is_past(self, key: str, intents: list[Intent]) -> bool:
        """Whether the object is known to hold something newer than each of these put."""
        known = self._index.object(key)
        return known is not None and all(known.cid > i.cid and known.mid > i.mid for i in intents)

    async def ask(self, key: str) -> bool:
        """Have a first look before its time; whether the key is settled then. Raises StoreError."""
        if key in self._busy.unsettled and key not in self._looked:
            await self.recover(key)
        return key not in self._busy.unsettled

    async def recover(self, key: str) -> None:
        """Find out which of the requests to this key has landed. Raises StoreError.

        One that has not may be on its way yet. Where a name wants the key, the conditions of the two keep
        the next request and it apart, or there is nothing to come after the one that has landed; where no
        name does, or they have no condition, the key stays unsettled until it was looked at once more.
        """
        await self._busy.wait(key)
        again = 0.0
        if intents := self._index.intents(key):
            self._busy.take(key)
            try:
                failpoint("recover-begins")
                if key not in self._puts:
                    self._expect(self._puts, key)  # sent before a start of ours
                landed = await self.landed_before(key)
                named = self._tree.find(key) is not None
                apart = named and (landed or all(map(self._is_bound, intents)))
                if self.put_may_land(key) and not apart:
                    again = self._puts[key]
                elif not named or (not landed and self._is_past(key, intents)):
                    with self._index.transaction():
                        self.answered(key)
            finally:
                self._busy.give(key)
        if again:
            self._looked.add(key)
            self._busy.ask_at(key, again)
        else:
            self._looked.discard(key)
            self._busy.settle(key)
