"""The parts of a Vfs put together: opened and recovered, run, drained, closed, asked how they are."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import stat
import time
from pathlib import Path

import trio

from mountstore.aio import AsyncStore
from mountstore.store import ObjectStore
from mountstore.stores.caching import CachingStore
from mountstore.vfs import power
from mountstore.vfs.answers import Answers
from mountstore.vfs.blocks import Readahead
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.clearing import Clearing
from mountstore.vfs.content import Content
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.filling import Filling
from mountstore.vfs.folders import Folders
from mountstore.vfs.index import Index
from mountstore.vfs.listing import Flight, Listing
from mountstore.vfs.neighbours import Neighbours
from mountstore.vfs.options import VfsOptions
from mountstore.vfs.reconcile import Reconciler
from mountstore.vfs.rows import ROOT_INO, Node
from mountstore.vfs.staging import Layer, Staging
from mountstore.vfs.status import Pending, Status
from mountstore.vfs.streams import Streams
from mountstore.vfs.tree import Tree, fail
from mountstore.vfs.walks import Walks
from mountstore.vfs.warming import Warming
from mountstore.vfs.writeback import Writeback

log = logging.getLogger(__name__)

_SYNC_S = 3.0  # what is still here after this long is synced
_OWED_S = 10.0  # how long what was fsynced under a temporary name may wait for its final one
_SAVE_S = 1.0  # how often what is being written to open files is recorded


class Handle:
    """An open file."""

    __slots__ = ("filling", "node", "readable", "readahead", "writable")

    def __init__(self, node: Node, flags: int) -> None:
        self.node = node
        self.readahead = Readahead()
        access = flags & os.O_ACCMODE
        self.writable = access != os.O_RDONLY
        self.readable = access != os.O_WRONLY
        self.filling: Filling | None = None


class DirHandle:
    """An open directory."""

    __slots__ = ("flight", "listed", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.flight: Flight | None = None  # the listing that this handle reads along with
        self.listed = False  # whether the listing was made fresh for this handle


class Assembly:
    """Everything of a mounted store but the verbs."""

    def __init__(self, store: ObjectStore, state_dir: Path, options: VfsOptions) -> None:
        """Open the state directory (locked by the caller, and this store's) and recover from a crash.

        Raises MountError if the state is of a newer version, OSError of the disk.
        """
        if not store.capabilities.writable:
            options = dataclasses.replace(options, read_only=True)
        self.options = options
        self._store = AsyncStore(store)
        store.note_unfinished(state_dir / "unfinished")
        self._index = Index(state_dir / "index.sqlite")
        self._staging = Staging(state_dir / "staging")
        self._busy = BusyKeys()
        self._content = Content(self._index, self._staging, self._store, self._busy, options.journal_size)
        capabilities = store.capabilities
        self._tree = Tree(
            self._index,
            self._content,
            options,
            max_key_bytes=capabilities.max_key_bytes,
            max_segment_bytes=capabilities.max_segment_bytes,
        )
        self._listing = Listing(
            self._index, self._tree, self._store, options, self._busy, self._content.blocks.put
        )
        self._answers = Answers(
            self._index, self._tree, self._content, self._listing, self._store, self._busy
        )
        self._clearing = Clearing(
            self._index, self._tree, self._content, self._listing, self._store, self._busy, self._answers
        )
        self._streams = Streams(self._index, self._tree, self._content, self._store, self._answers)
        self._writeback = Writeback(
            self._index,
            self._tree,
            self._content,
            self._listing,
            self._store,
            options,
            self._busy,
            self._answers,
            self._clearing,
            self._streams,
        )
        folders = Folders(
            self._index, self._tree, self._listing, self._store, self._busy, self._answers, self._clearing
        )
        self._reconciler = Reconciler(
            self._index,
            self._tree,
            self._answers,
            self._clearing,
            folders,
            self._writeback,
            options,
            self._busy,
            capabilities.concurrency,
        )
        self._neighbours = Neighbours(self._index, self._content)
        self._walks = Walks(self._index, self._listing)
        self._handles: dict[int, Handle | DirHandle] = {}
        self._next_handle = 1
        self._lookups: dict[int, int] = {}
        self._unsaved: set[Node] = set()
        self._owed: set[int] = set()  # fsynced under a temporary name, see Vfs.fsync
        self._gone: set[int] = set()  # replaced by others while they were open
        self._recover()

    def _recover(self) -> None:
        now = time.time_ns()
        gone: list[Layer] = []
        with self._index.transaction():
            if self._index.node(ROOT_INO) is None:
                root = self._tree.new_node(
                    stat.S_IFDIR | self.options.dir_mode, self.options.uid, self.options.gid, now
                )
                root.ino, root.nlink, root.prefix = ROOT_INO, 2, ""
                self._index.insert_node(root)
            for node in self._index.unlinked():
                # Open when the process died; nobody has it open any more.
                self._index.drop_layers([row[0] for row in self._index.layers(node.ino)])
                self._index.drop_node(node)
            self._index.drop_orphan_layers()
            self._index.drop_orphan_sums()
            power.recover(self._index, self._tree, self._content)
            for ino in self._index.staged_nodes():
                node = self._node(ino)
                if node.due is None:
                    # Brought here for a change that never came to be recorded.
                    gone += self._give_back(node)
            self._index.hasten(now, ())
        if self._index.any_due() or self._index.any_stale() or self._index.intents():
            self._answers.take_over()
        self._content.remove(gone)
        failpoint("start-recovered")
        self._staging.remove_unknown(set(self._index.layer_ids()))

    def _give_back(self, node: Node) -> list[Layer]:
        """Let the object stand for a node again whose content is in layers without having been changed.

        In the caller's transaction; the result is removed after it.
        """
        if node.is_clean or not self._index.objects_with(node.cid):
            return []
        return self._content.stand_on_store(node)

    # -- life --------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The work in the background, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._listing.nursery = nursery
            self._content.blocks.nursery = nursery
            self._streams.nursery = nursery
            nursery.start_soon(self._reconciler.run)
            nursery.start_soon(self._save_often)
            nursery.start_soon(self._sync_often)
            task_status.started()

    async def _save_often(self) -> None:
        while True:
            await trio.sleep(_SAVE_S)
            self._save_all()

    async def _sync_often(self) -> None:
        """What stays here for a while is brought to the disk."""
        unsynced: set[Layer] = set()
        while True:
            await trio.sleep(_SYNC_S)
            try:
                unsynced = await self._content.sync_old(unsynced)
            except OSError as error:
                log.error("staged data cannot be brought to the disk: %s", error)

    def _save_all(self) -> None:
        for node in list(self._unsaved):
            self._save(node)

    async def drain(self) -> None:
        """Return when the store has everything; never gives up."""
        self._save_all()
        await self._reconciler.drain()
        self._content.sweep()

    def close(self) -> None:
        """Record everything and close the index; no task may run any more."""
        self._save_all()
        for ino in self._index.staged_nodes():
            if (node := self._index.node(ino)) is not None:
                self._content.sync(node)
        if self._index.failed is None and not (self._index.any_due() or self._index.any_stale()):
            with self._index.transaction():
                power.forget_lost(self._index)
        self._content.sync_index()
        self._index.close()

    def warming(self, cache: CachingStore) -> Warming:
        """What brings files of this tree into the cache that its store is."""
        return Warming(self._index, self._listing, self._store, cache)

    def status(self) -> Status:
        """What is pending, and why."""
        count, size = self._index.count_pending()
        now = time.time_ns()
        pending = [self._pending(ino, since) for ino, since in self._index.pending(1000)]
        for known in self._index.stale_objects(1 << 62, 1000 - len(pending)):
            trouble = self._reconciler.trouble.get(known.key)
            pending.append(
                Pending(
                    known.key,
                    "delete",
                    0,
                    min(known.stale, now),
                    trouble.attempts if trouble else 0,
                    trouble.error if trouble else None,
                    "error" if trouble else "waiting",
                )
            )
        for key in self._busy.unsettled:
            trouble = self._reconciler.trouble.get(("settle", key))
            error = trouble.error if trouble else "what became of its last request is still to be asked"
            attempts = trouble.attempts if trouble else 0
            pending.append(Pending(key, "upload", 0, now, attempts, error, "waiting"))
        conflicts = [self._tree.path_of(ino) for ino in self._index.conflicts()]
        return Status(
            pending=pending,
            pending_count=count + len(self._busy.unsettled),
            pending_bytes=size,
            conflicts=[path for path in conflicts if path.startswith("/")],
            requests=dict(getattr(self._store.store, "requests", {})),
            open_files=sum(isinstance(handle, Handle) for handle in self._handles.values()),
            staged_bytes=self._content.staged_bytes(),
            uploaded_count=self._writeback.uploaded_count,
            uploaded_bytes=self._writeback.uploaded_bytes,
            last_error=self._reconciler.last_error,
            lost=power.lost(self._index),
        )

    def _pending(self, ino: int, since: int) -> Pending:
        node = self._node(ino)
        trouble = self._reconciler.trouble.get(ino)
        uploading = ino in self._clearing.uploading
        return Pending(
            path=self._tree.path_of(ino),
            what="attributes" if node.is_dir else "copy" if node.is_clean and node.base_cid else "upload",
            bytes=0 if node.is_dir or node.is_clean else node.size,
            since_ns=since,
            attempts=trouble.attempts if trouble else 0,
            error=trouble.error if trouble else None,
            state="uploading" if uploading else "error" if trouble else "waiting",
        )

    # -- nodes and handles -------------------------------------------------------------------------

    def _node(self, ino: int) -> Node:
        node = self._index.node(ino)
        if node is None:
            raise fail(errno.ESTALE)
        return node

    def _save(self, node: Node) -> None:
        if node.unsaved:
            with self._index.transaction():
                self._index.save(node)
            self._reconciler.wake_in_time()
        self._unsaved.discard(node)

    def _purge(self, node: Node) -> None:
        with self._index.transaction():
            gone = [] if node.is_dir else self._tree.forget_content(node)
            self._index.drop_node(node)
        failpoint("purge-recorded")
        self._streams.removed(node)
        self._content.remove(gone)
        self._unsaved.discard(node)
        self._gone.discard(node.ino)
        self._owed.discard(node.ino)
        self._reconciler.wake_in_time()

    def _removed(self, node: Node) -> None:
        if node.nlink == 0 and not node.opens:
            self._unsaved.discard(node)
            self._writeback.removed(node)
            if node.ino not in self._lookups:
                self._purge(node)
        self._reconciler.wake_in_time()

    def _new_handle(self, handle: Handle | DirHandle) -> int:
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        return number

    def release(self, handle: int) -> None:
        file = self._handles.pop(handle)
        assert isinstance(file, Handle)
        node = file.node
        if file.filling is not None:
            file.filling.end()
        node.opens -= 1
        node.writers -= file.writable
        if node.nlink == 0:
            if not node.opens:
                self._unsaved.discard(node)
                with self._index.transaction():
                    gone = self._tree.forget_content(node)
                    self._index.save(node)
                self._streams.removed(node)
                self._content.remove(gone)
                self._removed(node)
            return
        if not node.writers and node.due is None and not node.is_clean and not node.unsaved:
            with self._index.transaction():
                gone = self._give_back(node)
            self._content.remove(gone)
        if file.writable and not node.writers and node.due is not None:
            # It need not wait for the checkpoint any more.
            delay_s = self.options.upload_delay_s if node.ino not in self._owed else _OWED_S
            self._tree.want(node, int(delay_s * 1e9))
            if node.unsaved:
                self._save(node)
            self._reconciler.sooner(node)
        if not node.opens:
            self._content.release(node)

    def releasedir(self, handle: int) -> None:
        del self._handles[handle]
