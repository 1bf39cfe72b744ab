"""The bytes of files: layers of what was written, over the object in the store.

One version from open to close: bytes of the base are asked for by the etag of the object that carries the
node's `base_cid`; if no object does any more, the reader gets ESTALE.
"""

from __future__ import annotations

import errno
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import trio

from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import Data, ObjectStore
from mountstore.vfs.blocks import BLOCK, BlockCache, Readahead
from mountstore.vfs.busy import BusyKeys
from mountstore.vfs.failpoints import failpoint
from mountstore.vfs.room import Room
from mountstore.vfs.staging import Layer, Piece, Stack, Staging
from mountstore.vfs.sums import Asked, Sums, Taken, read_blocks, read_checked, read_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mountstore.aio import AsyncStore
    from mountstore.vfs.index import Index
    from mountstore.vfs.rows import Node

_LOCALISE = 8 << 20
_SMALL = 1 << 20
"""Content up to this many bytes is sent from memory, larger from files."""


Body = Data | BinaryIO
"""What `put` takes."""


class Stale(OSError):
    """The version that was opened is gone from the store."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.ESTALE, f"{what} was replaced in the store while it was open")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A node's content at one moment, which later writes do not touch."""

    ino: int
    cid: int
    size: int
    base_cid: int
    base_size: int
    layers: tuple[Layer, ...]


class Content:
    """Reads, writes and truncates nodes; for the thread of the event loop alone."""

    def __init__(
        self, index: Index, staging: Staging, store: AsyncStore, busy: BusyKeys, journal_size: int = 0
    ) -> None:
        self._index = index
        self._staging = staging
        self._store = store
        self._busy = busy
        self._conditional = store.store.capabilities.conditional_get
        self.room = Room(staging, store.store, journal_size)
        self.sums = Sums(index)
        self._whole_read_bytes = store.store.capabilities.whole_read_bytes
        self._takes_sums = not store.store.capabilities.local
        self.blocks = BlockCache(self._fetch, self._widen)

    # -- stacks ------------------------------------------------------------------------------------

    def stack(self, node: Node) -> Stack:
        """The layers of a node, loaded when they are first asked for."""
        if node.stack is None:
            node.stack = self._staging.load(self._index.layers(node.ino), node.ino)
            for layer in node.stack.layers:
                layer.rewrites += self._index.is_rewritten(layer.id)
        return node.stack

    def release(self, node: Node) -> None:
        """The last handle is closed: give back what was only for speed."""
        if node.stack is not None and not node.stack.frozen:
            for layer in node.stack.layers:
                layer.close()

    def staged_bytes(self) -> int:
        """What the staged files take on the disk."""
        return self._staging.used_bytes()

    def _top(self, node: Node) -> Layer:
        """The layer that takes writes, made if there is none."""
        stack = self.stack(node)
        if len(stack.layers) > stack.frozen:
            return stack.layers[-1]
        return self._push(node)

    def _push(self, node: Node) -> Layer:
        layer = self._staging.new_layer(self._index.new_id(), node.ino, node.size)
        self.stack(node).layers.append(layer)
        return layer

    # -- changing ----------------------------------------------------------------------------------

    def write(self, node: Node, offset: int, data: Data) -> None:
        """Put bytes into the journal. Raises OSError, having changed nothing."""
        layer = self._top(node)
        layer.write(offset, data)
        self._staging.unsynced.add(layer)
        failpoint("write-staged")
        if offset + len(data) > node.size:
            node.size = offset + len(data)

    def truncate(self, node: Node, size: int) -> None:
        if size < node.size:
            layer = self._top(node)
            if layer.was_synced:
                # Its file may be all that is left after a loss of power: it is not written again.
                layer = self._push(node)
            layer.truncate(size)
        elif size > node.size:
            self._top(node)
        node.size = size

    def trim(self, node: Node) -> None:
        """After a truncation has been recorded: give back the space behind the end."""
        stack = self.stack(node)
        if len(stack.layers) > stack.frozen:
            stack.layers[-1].trim(node.size)

    def sync(self, node: Node) -> None:
        """Bring the staged bytes to the disk; `sync_index` then makes them survive the loss of power."""
        stack = self.stack(node)
        for layer in stack.layers:
            layer.sync(node.size)
            self._staging.unsynced.discard(layer)
        if stack.layers:
            self._staging.sync_folder()
            with self._index.transaction():
                self._index.save(node)

    def sync_index(self) -> None:
        """Bring the index to the disk, and remove the files that it was the last to name."""
        doomed = list(self._staging.doomed)
        self._index.sync()
        self._staging.sweep(doomed)

    async def hold(self, cid: int) -> None:
        """Before a request that may end this content: whoever has synced layers over it must know of it.

        After a loss of power an older index would else look for a base that is gone.
        """
        users = [self._index.node(ino) for ino in self._index.users_of_content(cid)]
        if any(layer.was_synced for node in users if node is not None for layer in self.stack(node).layers):
            await self._index.sync_log()

    async def sync_all(self) -> None:
        """Bring to the disk what has been recorded by now, and the staged bytes that it names."""
        await self.sync_old(set(self._staging.unsynced))

    def sweep(self) -> None:
        """Remove what waits for the index to be synced."""
        if self._staging.doomed:
            self.sync_index()

    async def sync_old(self, before: set[Layer]) -> set[Layer]:
        """Bring to the disk what was not there at the call before, and is not now; returns what is not."""
        staging = self._staging
        nodes = {layer.ino for layer in before & staging.unsynced}
        marks = []
        for ino in nodes:
            node = self._index.node(ino)
            if node is not None and node.stack is not None and not node.unsaved:
                for layer in node.stack.layers:
                    state = layer.extents.pack(), node.size, layer.rewrites
                    marks.append((node, layer, (layer.truncations, layer.syncs), state))
        if marks:
            paths = [layer.path for _, layer, _, _ in marks]
            await trio.to_thread.run_sync(staging.sync_files, paths)
            with self._index.transaction():
                for node, layer, then, state in marks:
                    staging.unsynced.discard(layer)
                    if node.stack is None or layer not in node.stack.layers:
                        continue
                    if (layer.truncations, layer.syncs) == then:  # else an fsync meanwhile knows of more
                        layer.mark_synced(*state)
                    if layer.unsynced():
                        staging.unsynced.add(layer)
                for node in {node.ino: node for node, *_ in marks}.values():
                    if not node.unsaved:
                        self._index.save(node)
        doomed = list(staging.doomed)
        await self._index.sync_log()
        staging.sweep(doomed)
        return set(staging.unsynced)

    def drop(self, node: Node) -> list[Layer]:
        """Forget all staged content, in the caller's transaction; remove the result after it.

        While an upload reads it, nothing goes: the upload's end calls again.
        """
        stack = self.stack(node)
        if stack.frozen:
            return []
        layers, stack.layers = stack.layers, []
        stack.version += 1
        self._index.drop_layers([layer.id for layer in layers])
        return layers

    def stand_on_store(self, node: Node) -> list[Layer]:
        """An object has the content as it is: nothing that is staged for it is needed.

        In the caller's transaction; remove the result after it. Nothing happens while an upload reads it.
        """
        if self.stack(node).frozen:
            return []
        node.base_cid = node.cid
        gone = self.drop(node)
        self._index.save(node)
        return gone

    def remove(self, layers: list[Layer]) -> None:
        self._staging.remove(layers)

    # -- reading -----------------------------------------------------------------------------------

    def base_size(self, node: Node) -> int:
        if not node.base_cid:
            return 0
        if node.is_clean:
            return node.size
        if objects := self._index.objects_with(node.base_cid):
            return objects[0].size
        # The object is gone: reading what was visible of it must fail, not give zeros.
        return max((layer.below for layer in self.stack(node).layers), default=node.size)

    def read_now(self, node: Node, start: int, stop: int) -> Data | None:
        """The bytes if no request is needed for them; the caller has clipped the range to the size."""
        stack = self.stack(node)
        if not stack.layers:
            return self.blocks.cached(node.base_cid, start, stop) if node.base_cid else None
        pieces = stack.plan(start, stop, self.base_size(node))
        if any(piece.base for piece in pieces):
            return None
        if len(pieces) == 1 and pieces[0].layer is not None:
            return pieces[0].layer.read(start, stop)
        return b"".join(_staged(piece) for piece in pieces)

    async def read(self, node: Node, start: int, stop: int, readahead: Readahead | None = None) -> Data:
        """Bytes [start, stop), clipped to the size. Raises Stale, StoreError, OSError."""
        while True:
            stop = min(stop, node.size)
            if start >= stop:
                return b""
            stack = self.stack(node)
            version, base_cid, base_size = stack.version, node.base_cid, self.base_size(node)
            pieces = stack.plan(start, stop, base_size)
            parts: list[Data] = []
            try:
                for piece in pieces:
                    if piece.base:
                        if readahead is not None:
                            window = readahead.note(piece.start, piece.stop)
                            self.blocks.ahead(base_cid, piece.stop, window, base_size)
                        parts.append(await self.blocks.read(base_cid, piece.start, piece.stop, base_size))
                    else:
                        parts.append(b"")
            except Stale:
                if node.base_cid == base_cid:
                    raise
                continue  # an upload has given the node a new base meanwhile
            if stack.version != version or node.base_cid != base_cid or node.size < stop:
                continue
            if len(parts) == 1 and pieces[0].base:
                return parts[0]
            return b"".join(
                data if piece.base else _staged(piece) for piece, data in zip(pieces, parts, strict=True)
            )

    def remembers_base(self, node: Node) -> bool:
        """Whether all of the base is in memory."""
        size = self.base_size(node)
        return all(
            self.blocks.cached(node.base_cid, start, min(start + BLOCK, size)) is not None
            for start in range(0, size, BLOCK)
        )

    def abandon_base(self, node: Node) -> bool:
        """The base is gone from the store: keep what is still in memory of it; True if that is all.

        In the caller's transaction, which saves the node.
        """
        base_cid, size = node.base_cid, self.base_size(node)
        layer = self._staging.new_layer(self._index.new_id(), node.ino, 0, lowest=True)
        whole = True
        for start in range(0, size, BLOCK):
            block = self.blocks.cached(base_cid, start, min(start + BLOCK, size))
            if block is None:
                whole = False
            else:
                layer.write(start, block)
        stack = self.stack(node)
        stack.layers.insert(0, layer)
        stack.version += 1
        node.base_cid = 0
        return whole

    def _widen(self, cid: int, first: int, last: int, size: int) -> tuple[int, int]:
        """All blocks at once, where the store can compare nothing less than all with a checksum."""
        if last - first < size / BLOCK and size <= self._whole_read_bytes and self.sums.of(cid) is None:
            return 0, -(-size // BLOCK)
        return first, last

    async def _fetch(self, cid: int, start: int, stop: int) -> list[Data]:
        tried: set[tuple[str, str | None]] = set()
        while True:
            objects = self._index.objects_with(cid)
            fresh = [known for known in objects if (known.key, known.etag) not in tried]
            if not fresh:
                raise Stale(f"object {objects[0].key!r}" if objects else "an object")
            known = fresh[0]
            try:
                condition = known.etag if self._conditional else None
                store, sums = self._store.store, self.sums.of(cid)
                blocks = await self._store.run(read_blocks, store, known.key, start, stop, condition, sums)
            except (NotFound, PreconditionFailed):
                # Perhaps our own upload has replaced it just now: then the index is about to say so.
                # So it is with one whose answer was lost, once it has been asked about.
                await self._busy.settled(known.key)
                tried.add((known.key, known.etag))
                continue
            length = sum(map(len, blocks))
            if length != stop - start:
                tried.add((known.key, known.etag))
                continue
            if sums is None and start == 0 and BLOCK < length == known.size <= self._whole_read_bytes:
                self.sums.take(cid, blocks)
            return blocks

    async def fetch_small(
        self, wanted: Sequence[tuple[int, int]], is_over: Callable[[], bool]
    ) -> list[Data | None]:
        """Contents of one block each, (content id, size), one after another in one thread until `is_over`;
        None for one that does not come."""
        asked: list[Asked] = []
        for cid, size in wanted:
            known = next(iter(self._index.objects_with(cid)), None)
            condition = known.etag if known is not None and self._conditional else None
            asked.append((known.key if known is not None else None, size, condition, self.sums.of(cid)))
        return await self._store.run(read_each, self._store.store, asked, is_over)

    async def rescue(self, node: Node) -> bool:
        """As `localise`, and on the disk: the only object that holds it is about to go."""
        if not await self.localise(node):
            return False
        self.sync(node)
        self.sync_index()
        return True

    async def localise(self, node: Node) -> bool:
        """Bring the base into a layer of its own.

        False if something else happened to the node meanwhile, or if there is no room for it.
        """
        base_cid, size = node.base_cid, self.base_size(node)
        stack = self.stack(node)
        if not (self.room.has(size) or await self.room.make(size)) or stack.frozen:
            return False
        layer = self._staging.new_layer(self._index.new_id(), node.ino, 0, lowest=True)
        kept = False
        try:
            for start in range(0, size, _LOCALISE):
                stop = min(start + _LOCALISE, size)
                if size <= BLOCK:  # perhaps it is here already
                    layer.write(start, await self.blocks.read(base_cid, start, stop, size))
                    continue
                for number, block in enumerate(await self._fetch(base_cid, start, stop)):
                    layer.write(start + number * BLOCK, block)
            failpoint("localise-fetched")
            kept = node.base_cid == base_cid and not stack.frozen
        finally:
            if not kept:
                self._staging.remove([layer])
        if kept:
            stack.layers.insert(0, layer)
            stack.version += 1
            node.base_cid = 0
            with self._index.transaction():
                self._index.save(node)
        return kept

    # -- uploading ---------------------------------------------------------------------------------

    def freeze(self, node: Node) -> Snapshot:
        """The content as it is now; writes from now on go to a new layer until `thaw`."""
        stack = self.stack(node)
        stack.frozen = len(stack.layers)
        for layer in stack.layers:
            layer.fd  # noqa: B018  # opened here, not by two threads at once
        return Snapshot(
            node.ino, node.cid, node.size, node.base_cid, self.base_size(node), tuple(stack.layers)
        )

    def thaw(self, node: Node) -> None:
        """The upload failed: everything stays."""
        stack = self.stack(node)
        stack.frozen = 0
        if len(stack.layers) > 2:
            gone = stack.merge()
            failpoint("merge-copied")
            with self._index.transaction():
                self._index.save(node)
                self._index.drop_layers([layer.id for layer in gone])
            failpoint("merge-recorded")
            self._staging.remove(gone)
        if not node.opens:
            self.release(node)

    def landed(self, node: Node, snapshot: Snapshot) -> list[Layer]:
        """The store has the snapshot: make it the base, in the caller's transaction.

        Remove the result after it.
        """
        stack = self.stack(node)
        gone = list(snapshot.layers)
        if 0 < snapshot.size <= BLOCK:
            pieces = Stack(gone).plan(0, snapshot.size, snapshot.base_size)
            if not any(piece.base for piece in pieces):
                self.blocks.put(snapshot.cid, b"".join(_staged(piece) for piece in pieces))
        if snapshot.base_cid and snapshot.size > BLOCK:
            self._carry_blocks(snapshot)
        stack.layers = [layer for layer in stack.layers if layer not in gone]
        stack.frozen = 0
        stack.version += 1
        node.base_cid = snapshot.cid
        self._index.drop_layers([layer.id for layer in gone])
        self.sums.landed(snapshot.cid)
        return gone

    def _carry_blocks(self, snapshot: Snapshot) -> None:
        """What is in memory of the content beneath is, but for the changes, of the new one too."""
        stack = Stack(list(snapshot.layers))
        for number, block in self.blocks.of(snapshot.base_cid):
            start, stop = number * BLOCK, min((number + 1) * BLOCK, snapshot.size)
            pieces = stack.plan(start, stop, snapshot.base_size) if start < stop else []
            if any(piece.base and piece.stop - start > len(block) for piece in pieces):
                continue
            parts = [
                block[piece.start - start : piece.stop - start] if piece.base else _staged(piece)
                for piece in pieces
            ]
            if parts:
                self.blocks.keep(snapshot.cid, number, parts[0] if len(parts) == 1 else b"".join(parts))

    def body(self, snapshot: Snapshot, store: ObjectStore) -> Body:
        """The snapshot as what `put` takes; it is read in a worker thread."""
        layers = snapshot.layers
        if not snapshot.size:
            return b""
        if len(layers) == 1 and snapshot.size <= _SMALL and layers[0].extents.covers(snapshot.size):
            return layers[0].read(0, snapshot.size)
        objects = [
            (known.key, known.etag if self._conditional else None)
            for known in self._index.objects_with(snapshot.base_cid)
        ]
        base_sums, taken = self.sums.of(snapshot.base_cid), None
        if self._takes_sums:
            taken = self.sums.begin(snapshot.cid, snapshot.size, snapshot.base_cid, snapshot.base_size)
        return cast(BinaryIO, SnapshotFile(snapshot, store, objects, base_sums, taken))


def _staged(piece: Piece) -> bytes:
    if piece.layer is None:
        return bytes(piece.stop - piece.start)
    return piece.layer.read(piece.start, piece.stop)


class Unwanted(Exception):
    """What is being sent is not wanted any more."""


class SnapshotFile(io.RawIOBase):
    """A snapshot as a seekable, read-only binary file; the base is asked for as it is needed.

    Once `is_unwanted` is set, by any thread, reading raises Unwanted.
    """

    _BASE_READ = 8 << 20

    def __init__(
        self,
        snapshot: Snapshot,
        store: ObjectStore,
        objects: list[tuple[str, str | None]],
        base_sums: Sequence[int] | None,
        taken: Taken | None,
    ) -> None:
        super().__init__()
        self.is_unwanted = False
        self._base_sums = base_sums
        self._taken = taken
        self._snapshot = snapshot
        self._stack = Stack(list(snapshot.layers))
        self._store = store
        self._objects = objects
        self._position = 0
        self._held: tuple[int, Data] = (0, b"")  # the last bytes of the base that were asked for

    def changes(self) -> tuple[str, str, list[tuple[int, int]]] | None:
        """(key, etag, changed ranges) of the object that has the rest of the content, if there is one."""
        known = next(((key, etag) for key, etag in self._objects if etag is not None), None)
        if known is None or not self._snapshot.base_size:
            return None
        changed: list[tuple[int, int]] = []
        for piece in self._stack.plan(0, self._snapshot.size, self._snapshot.base_size):
            if piece.base:
                continue
            if changed and changed[-1][1] == piece.start:
                changed[-1] = changed[-1][0], piece.stop
            else:
                changed.append((piece.start, piece.stop))
        return *known, changed

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._snapshot.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self.is_unwanted:
            raise Unwanted
        view = memoryview(buffer).cast("B")
        start = self._position
        stop = min(start + len(view), self._snapshot.size)
        if start >= stop:
            return 0
        for piece in self._stack.plan(start, stop, self._snapshot.base_size):
            low = piece.start - start
            data = self._base(piece.start, piece.stop) if piece.base else _staged(piece)
            view[low : low + len(data)] = data
        if self._taken is not None:
            self._taken.see(start, view[: stop - start])
        self._position = stop
        return stop - start

    def _base(self, start: int, stop: int) -> Data:
        held_start, held = self._held
        if start < held_start or stop > held_start + len(held):
            held_start = start - start % BLOCK
            end = max(stop, held_start + self._BASE_READ)
            end = min(end + -end % BLOCK, self._snapshot.base_size)
            held = memoryview(self._fetch(held_start, end))
            self._held = held_start, held
        return memoryview(held)[start - held_start : stop - held_start]

    def _fetch(self, start: int, stop: int) -> Data:
        for key, etag in self._objects:
            try:
                data = read_checked(self._store, key, start, stop, etag, self._base_sums)
            except (NotFound, PreconditionFailed):
                continue
            if len(data) == stop - start:
                return data
        raise Stale("the object beneath a changed file")
