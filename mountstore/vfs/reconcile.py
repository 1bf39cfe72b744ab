"""The reconciler: makes the store hold what the namespace says.

State, not operations: a node that is due is compared with what `object` says of the keys that its names
want. What differs is put, copied or given new metadata; a stale key that no name wants is deleted. So
whatever happened in between, it costs what the difference costs, and a crash loses no order of things. What
an upload in parts leaves in the store, its backend notes and removes (backends/s3/unfinished.py).

failpoint          crash when                          leaves                        the next start
-----------------  ----------------------------------  ----------------------------  -------------------------
index-created      the index of a new state is made    an index without a root       makes the root
create-recorded    a new name is recorded              a due node, no object         puts it
write-staged       bytes are in a layer, not recorded  bytes that no extent names    shows what was recorded
commit-begins      a change is not committed           the state before it           goes on from there
commit-done        a change is committed               the state after it            goes on from there
truncate-recorded  a truncation is recorded            a layer longer than extents   reads its extents alone
sync-data-done     data is synced, the index not       an index that is committed    has both
localise-fetched   the base is in a new layer          a file that no layer names    removes it
merge-copied       layers are merged, not recorded     both: higher layers hide it   reads through the higher
merge-recorded     the merge is recorded               files of the merged layers    removes them
put-intended       the intent is recorded              an intent alone               finds nothing, uploads
put-landed         the put has landed                  an intent, the object         recognises it, records it
put-recorded       the put is recorded                 files of dropped layers       removes them
copy-intended      a copy's intent is recorded         an intent, only the source    copies
copy-landed        a rename's copy has landed          both objects, an intent       recognises it, goes on
marker-intended    a marker's intent is recorded       an intent, no marker          puts it
marker-landed      the marker has landed               a marker, an intent           recognises it, records it
rename-recorded    a rename is recorded                a stale object, a due node    copies it, deletes that
unlink-recorded    an unlink is recorded               a stale object, old layers    deletes it, removes them
rmdir-recorded     an rmdir is recorded                a stale marker                deletes it
purge-recorded     an unlinked node is forgotten       files of dropped layers       removes them
move-begins        a moved folder is visited           members that want other keys  visits it from the start
move-visited       its members are due                 a folder to be visited        visits it again
conflict-found     somebody was first                  an intent, their object       meets it again
conflict-recorded  ours has a name beside theirs       a due node of a new name      puts it, tells of it
delete-begins      a delete is due                     a stale object                deletes it
delete-landed      the delete has landed               a stale object that is gone   finds nothing, forgets it
recover-begins     an intent is looked at              the intent                    looks at it
recover-found      its object was found                an intent, the object         finds it again
start-recovered    the index is recovered              files that no layer names     removes them
migrate-copied     an old index is copied              the old index, a copy of it   migrates it anew
migrate-recorded   its migration is committed          the new index, the old copy   removes the copy
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from mountstore.errors import Corrupted, MountstoreError, PreconditionFailed, Unavailable
from mountstore.vfs.answers import Answers
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.clearing import Blocked, Clearing
from mountstore.vfs.content import Stale
from mountstore.vfs.folders import Folders
from mountstore.vfs.index import Index
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.rows import Node
from mountstore.vfs.tree import Tree
from mountstore.vfs.writeback import Writeback

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_HASTEN_S = 0.5
_MANY = 1000  # so many failing nodes: the store is away, and nothing is to be hastened
_BLOCKED_S = 0.05  # after which what waits for something else is looked at again
_BURST_NS = 100_000_000
"""Changes that follow each other within this time are one piece of work, which uploads must not slow down."""
_HELD = 0.8  # of the upload delay: so much longer what is due waits for the end of such work
_BACKOFF_S = (0.5, 1, 2, 4, 8, 15, 30)


What = int | str | tuple[str, str]
"""What is worked on: a node, a stale key, or ("settle", a key whose last request was not answered)."""


@dataclass(slots=True)
class Trouble:
    """Why a node or key could not be brought to the store, so far."""

    attempts: int
    error: str
    exception: Exception


class Reconciler:
    """Brings the store into line with the index; for the thread of the event loop alone."""

    def __init__(
        self,
        index: Index,
        tree: Tree,
        answers: Answers,
        clearing: Clearing,
        folders: Folders,
        writeback: Writeback,
        options: VfsOptions,
        busy: BusyKeys,
        concurrency: int,
    ) -> None:
        self._index = index
        self._tree = tree
        self._answers = answers
        self._clearing = clearing
        self._folders = folders
        self._writeback = writeback
        self._options = options
        self._busy = busy
        self._lanes = max(2, min(16, concurrency))
        self._active: dict[What, trio.Event] = {}
        self._wake = trio.Event()
        self._progress = trio.Event()
        self._paused_until = 0.0
        self._delay_ns = int(options.upload_delay_s * 1e9)
        self._looks_ns = 1 << 62  # when the loop will look again without being woken (wall clock)
        self._changed_ns = 0  # when something was changed last
        self._sooner: set[Node] = set()  # due earlier than the index says
        self.trouble: dict[What, Trouble] = {}
        self.last_error: str | None = None

    # -- the loop ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has become due, or earlier than it was."""
        self._wake.set()

    def wake_in_time(self) -> None:
        """Something becomes due when the upload delay has passed from now, or later."""
        self._changed_ns = time.time_ns()
        if self._changed_ns + self._delay_ns < self._looks_ns:
            self._wake.set()

    def sooner(self, node: Node) -> None:
        """A node, due already, is due as soon as the upload delay has passed: no change that a crash could
        lose, since the next start makes everything due. So it is recorded later, with others.
        """
        self._sooner.add(node)
        self.wake_in_time()

    async def run(self) -> None:
        """Work until cancelled; what is under way then is finished first."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                try:
                    self._answers.forget_lost()
                    self._launch(nursery)
                    due = self._index.next_due(self._active)
                except OSError as error:
                    self._pause(error)
                    due = time.time_ns()
                if self._index.failed is not None:
                    due = None
                wait_s = 3600.0 if due is None else max(0.0, self._begins_ns(due) - time.time_ns()) / 1e9
                if len(self._active) >= self._lanes:
                    wait_s = 3600.0  # whoever ends wakes us
                for key, when in self._busy.unsettled.items():
                    if ("settle", key) not in self._active:
                        wait_s = min(wait_s, when - trio.current_time())
                wait_s = max(min(wait_s, 3600.0), 0.002, self._paused_until - trio.current_time())
                self._looks_ns = time.time_ns() + int(wait_s * 1e9)
                with trio.move_on_after(wait_s):
                    await self._wake.wait()

    def _begins_ns(self, due: int) -> int:
        """When to look at what is due then."""
        return max(due, min(due + int(self._delay_ns * _HELD), self._changed_ns + _BURST_NS))

    def _launch(self, nursery: trio.Nursery) -> None:
        if self._sooner and self._index.failed is None:
            with self._index.transaction():
                self._index.set_due(self._sooner)
            self._sooner.clear()
        now = time.time_ns()
        if now - self._changed_ns < _BURST_NS:
            now -= int(self._delay_ns * _HELD)
        room = self._lanes - len(self._active)
        if room <= 0 or trio.current_time() < self._paused_until or self._index.failed is not None:
            return  # after a failure of the disk, what is read of the journal is not to be trusted either
        limit = room + len(self._active)
        for ino in self._index.due_nodes(now, limit):
            if ino not in self._active and len(self._active) < self._lanes:
                self._begin(nursery, ino, self._node_step)
        for key, when in self._busy.unsettled.items():
            if when <= trio.current_time() and ("settle", key) not in self._active:
                self._begin(nursery, ("settle", key), self._settle_step)
        if len(self._active) >= self._lanes:
            return
        for known in self._index.stale_objects(now, limit):
            if known.key not in self._active and len(self._active) < self._lanes:
                self._begin(nursery, known.key, self._key_step)

    def _begin(self, nursery: trio.Nursery, what: What, step: Callable[..., Awaitable[None]]) -> None:
        self._active[what] = trio.Event()
        nursery.start_soon(self._work, what, step)

    async def _work(self, what: What, step: Callable[..., Awaitable[None]]) -> None:
        try:
            with trio.CancelScope(shield=True):
                await step(what)
        except OSError as error:
            self._pause(error)
        finally:
            self._active.pop(what).set()
            self._wake.set()
            self._progress.set()
            self._progress = trio.Event()

    def _pause(self, error: OSError) -> None:
        """The index itself cannot be used: nothing can be recorded, so nothing more is begun for now."""
        log.error("%s", error)
        self.last_error = str(error)
        self._paused_until = trio.current_time() + _PAUSE_S

    async def settle(self, node: Node) -> None:
        """Return when the store holds this node as it is now. Raises the StoreError that prevents it."""
        cid, mid = node.cid, node.mid
        with trio.fail_after(self._options.fsync_timeout_s):
            while node.nlink and node.due is not None and not self._is_settled(node, cid, mid):
                if node.ino in self._active:
                    await self._active[node.ino].wait()
                    continue
                self._active[node.ino] = trio.Event()
                await self._work(node.ino, self._node_step)
                trouble = self.trouble.get(node.ino)
                if trouble is not None and not _passing(trouble.exception):
                    raise trouble.exception
                if trouble is not None:
                    await trio.sleep(_BACKOFF_S[min(trouble.attempts, len(_BACKOFF_S)) - 1])
                elif not self._is_settled(node, cid, mid):
                    # Something else has to be done first: the loop does it.
                    self._wake.set()
                    with trio.move_on_after(_BLOCKED_S):
                        await self._progress.wait()

    def _is_settled(self, node: Node, cid: int, mid: int) -> bool:
        """Whether the store has this state of the node, or a later one, at each of its names."""
        for dentry in self._index.links(node.ino):
            if node.is_dir:
                known = self._index.object(self._tree.marker_of(node.ino))
            else:
                known = self._index.object(self._tree.key_of(dentry))
            if known is None or known.mid < mid or (not node.is_dir and known.cid < cid):
                return False
        return True

    async def settle_deletes(self, prefix: str) -> None:
        """Return when what is stale directly in this prefix has been deleted, as far as it can be by now.

        What a pending move still needs, and markers of folders that are still being emptied, are left.
        """
        with trio.fail_after(self._options.fsync_timeout_s):
            for key in self._index.stale_in(prefix):
                attempts = 0
                while (now := self._index.object(key)) and now.stale:
                    if key in self._active:
                        await self._active[key].wait()
                        continue
                    self._active[key] = trio.Event()
                    await self._work(key, self._key_step)
                    trouble = self.trouble.get(key)
                    if trouble is None:
                        break
                    if not _passing(trouble.exception):
                        raise trouble.exception
                    attempts += 1
                    await trio.sleep(_BACKOFF_S[min(attempts, len(_BACKOFF_S)) - 1])

    async def drain(self) -> None:
        """Return when the store has everything; tries for ever."""
        hastened = 0.0
        while self._active or self._busy.unsettled or self._index.any_due() or self._index.any_stale():
            if trio.current_time() >= hastened:
                self._hasten()
                hastened = trio.current_time() + _HASTEN_S
            with trio.move_on_after(_HASTEN_S):
                await self._progress.wait()

    def _hasten(self) -> None:
        """Have done now what would wait; what fails keeps its own pace."""
        failing = [what for what in self.trouble if isinstance(what, int)]
        if len(failing) < _MANY:
            self._index.hasten(time.time_ns(), failing)
        self._wake.set()

    async def progress_but(self, node: Node | None) -> bool:
        """Hasten everything; return when something has ended, or False if nothing but `node` is pending."""
        self._hasten()
        pending = self._index.pending(2)
        if not self._active and all(node is not None and ino == node.ino for ino, _ in pending):
            return False
        with trio.move_on_after(1.0):
            await self._progress.wait()
        return True

    # -- one step ----------------------------------------------------------------------------------

    async def _node_step(self, ino: int) -> None:
        node = self._index.node(ino)
        if node is None or node.due is None:
            return
        try:
            if node.nlink == 0:
                self._clearing.done(node)
            elif node.is_dir:
                await self._folders.directory(node)
            else:
                await self._writeback.file(node)
            self.trouble.pop(ino, None)
            self._clearing.failing.discard(ino)
        except Blocked:
            self._clearing.postpone(node, _BLOCKED_S)
        except (MountstoreError, OSError) as error:
            trouble = self._note(ino, error, self._tree.path_of(ino))
            self._clearing.failing.add(ino)
            self._clearing.postpone(node, _BACKOFF_S[min(trouble.attempts, len(_BACKOFF_S)) - 1])

    async def _key_step(self, key: str) -> None:
        known = self._index.object(key)
        if known is None or not known.stale:
            return
        try:
            await self._clearing.delete(known)
            self.trouble.pop(key, None)
        except Blocked:
            self._key_later(key, 0.1)
        except (MountstoreError, OSError) as error:
            trouble = self._note(key, error, key)
            self._key_later(key, _BACKOFF_S[min(trouble.attempts, len(_BACKOFF_S)) - 1])

    async def _settle_step(self, what: tuple[str, str]) -> None:
        key = what[1]
        try:
            await self._answers.recover(key)
            self.trouble.pop(what, None)
        except (MountstoreError, OSError) as error:
            trouble = self._note(what, error, key)
            delay_s = _BACKOFF_S[min(trouble.attempts, len(_BACKOFF_S)) - 1]
            self._busy.ask_at(key, trio.current_time() + delay_s)

    def _note(self, what: What, error: Exception, name: str) -> Trouble:
        attempts = self.trouble[what].attempts + 1 if what in self.trouble else 1
        self.last_error = f"{name}: {error}"
        log.warning("%r is not in the store yet (attempt %d): %s", name, attempts, error)
        self.trouble[what] = trouble = Trouble(attempts, str(error), error)
        return trouble

    def _key_later(self, key: str, seconds: float) -> None:
        with self._index.transaction():
            self._index.set_stale(key, time.time_ns() + int(seconds * 1e9))


def _passing(error: Exception) -> bool:
    """Whether the same may work in a while without anybody doing anything."""
    return isinstance(error, (Unavailable, Corrupted, PreconditionFailed, Stale))
