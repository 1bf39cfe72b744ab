"""Large files that are sent while they are being written.

A new file that grows from its beginning to its end has an upload begun once it is large; its parts go as they
become complete. When the file is due, what is missing or was written again is sent from the frozen content,
and the upload is finished under the condition of any put. All of it is in the journal the whole time, and
nothing here is remembered: whatever goes wrong, the upload is forgotten, and the file is put whole.

What an object carries as attributes is said when its upload begins. So the file is due again for its times.
For the thread of the event loop alone.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable

import trio

from mountstore.aio import AsyncStore, AsyncUpload
from mountstore.errors import MountstoreError, StoreFull
from mountstore.store import Data, ObjectInfo
from mountstore.vfs.answers import Answers
from mountstore.vfs.content import Content, Snapshot, Unwanted
from mountstore.vfs.index import Index
from mountstore.vfs.names import is_temporary
from mountstore.vfs.rows import Node
from mountstore.vfs.staging import Layer
from mountstore.vfs.sums import Taken
from mountstore.vfs.tree import Tree

log = logging.getLogger(__name__)

_PARALLEL = 3  # parts of one file under way
_PARTS_HELD = 4  # of all files
_MAX_PARTS = 10_000


class Stream:
    """One file on its way."""

    def __init__(self, key: str, mid: int, metadata: dict[str, str], layer: Layer) -> None:
        self.key = key
        self.mid = mid
        self.metadata = metadata
        self.layer = layer
        self.upload: AsyncUpload | None = None
        self.sums = Taken(0)
        self.begun = 0  # parts of which the sending has begun
        self.truncations = layer.truncations
        self.again: set[int] = set()  # those of them that have been written again since
        self.is_unwanted = False  # the file is gone: what reads more of it raises Unwanted
        self.over = False  # no further part is to be begun here
        self.failed = False
        self.more = trio.Event()
        self.ended = trio.Event()


class Streams:
    """The files that are being sent while they are written."""

    def __init__(
        self, index: Index, tree: Tree, content: Content, store: AsyncStore, answers: Answers
    ) -> None:
        self._index = index
        self._tree = tree
        self._content = content
        self._store = store
        self._answers = answers
        self._able = store.store.capabilities.uploads
        self._streams: dict[int, Stream] = {}
        self._held = trio.Semaphore(_PARTS_HELD)
        self.nursery: trio.Nursery | None = None

    def written(self, node: Node, offset: int, size: int) -> None:
        """Bytes of a large file have been staged."""
        stream = self._streams.get(node.ino)
        if stream is None:
            if offset + size == node.size and self._able and self.nursery is not None:
                self._begin(node, self.nursery)
            return
        if stream.upload is not None:
            step = stream.upload.part_bytes
            if offset < stream.begun * step:
                stream.again.update(range(offset // step + 1, -(-(offset + size) // step) + 1))
            if node.size >= (stream.begun + 1) * step:
                stream.more.set()

    def _begin(self, node: Node, nursery: trio.Nursery) -> None:
        # What costs nothing first: of a file that cannot be sent, each write comes by here.
        layers = self._content.stack(node).layers
        if node.base_cid or len(layers) != 1 or not layers[0].extents.covers(node.size):
            return
        links = self._index.links(node.ino)
        if len(links) != 1 or not stat.S_ISREG(node.mode) or is_temporary(links[0].name):
            return
        key = self._tree.key_of(links[0])
        if not self._tree.places.fits(key):
            return
        try:
            metadata = self._answers.metadata(node, links[0], key, new_content=True)
        except StoreFull:
            return  # told where the file is put whole
        stream = Stream(key, node.mid, metadata, layers[0])
        self._streams[node.ino] = stream
        nursery.start_soon(self._run, node, stream)

    async def _run(self, node: Node, stream: Stream) -> None:
        try:
            stream.upload = await self._store.start_upload(stream.key, metadata=stream.metadata)
            stream.again.clear()
            async with trio.open_nursery() as nursery:
                for _ in range(_PARALLEL):
                    nursery.start_soon(self._send_parts, node, stream, stream.upload)
        except* (MountstoreError, OSError) as errors:
            log.info("%r is sent when it is complete: %s", stream.key, errors.exceptions[0])
            stream.failed = True
        finally:
            stream.ended.set()
        if stream.failed:
            await self.drop(stream)

    async def _send_parts(self, node: Node, stream: Stream, upload: AsyncUpload) -> None:
        step = upload.part_bytes
        while not stream.over:
            if not self._is_still(node, stream) or stream.begun >= _MAX_PARTS:
                stream.failed = stream.over = True
                stream.more.set()
                return
            start = stream.begun * step
            if start + step > node.size:
                if stream.more.is_set():
                    stream.more = trio.Event()
                await stream.more.wait()
                continue
            stream.begun += 1
            number = stream.begun
            async with self._held:
                await upload.put_part(number, _reader(stream, start, start + step))

    def _is_still(self, node: Node, stream: Stream) -> bool:
        """Whether the file is what it was when it was begun."""
        layers = self._content.stack(node).layers
        if layers != [stream.layer] or stream.layer.truncations != stream.truncations:
            return False
        links = self._index.links(node.ino)
        return len(links) == 1 and self._tree.key_of(links[0]) == stream.key

    # -- the end -----------------------------------------------------------------------------------

    def removed(self, node: Node) -> None:
        """The file has no name any more and will not be written: what was sent of it is dropped."""
        stream = self._streams.pop(node.ino, None)
        if stream is not None:
            stream.over = stream.failed = True
            stream.more.set()

    async def take(self, node: Node, key: str, snapshot: Snapshot) -> Stream | None:
        """The stream that a frozen file can be finished with; any other of this file is dropped."""
        stream = self._streams.pop(node.ino, None)
        if stream is None:
            return None
        stream.over = True
        stream.more.set()
        await stream.ended.wait()
        usable = (
            not stream.failed
            and stream.key == key
            and snapshot.layers == (stream.layer,)
            and stream.layer.truncations == stream.truncations
            and stream.layer.extents.covers(snapshot.size)
        )
        if not usable and not stream.failed:
            await self.drop(stream)
        return stream if usable else None

    async def drop(self, stream: Stream) -> None:
        """Have the store forget what it has of this file."""
        if stream.upload is not None:
            try:
                with trio.CancelScope(shield=True):
                    await stream.upload.abort()
            except MountstoreError as error:
                log.info("parts of %r may be left: %s", stream.key, error)

    async def finish(
        self, stream: Stream, snapshot: Snapshot, if_match: str | None, if_absent: bool
    ) -> ObjectInfo:
        """Send what is missing and make it the object. Raises what a put raises; the upload is over then."""
        upload = stream.upload
        assert upload is not None
        step = upload.part_bytes
        count = -(-snapshot.size // step)
        missing = [n for n in range(1, count + 1) if n > stream.begun or n in stream.again]
        todo = iter(missing)
        try:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for number in todo:
                        start = (number - 1) * step
                        read = _reader(stream, start, min(start + step, snapshot.size))
                        async with self._held:
                            await upload.put_part(number, read)

                for _ in range(min(_PARALLEL, len(missing))):
                    nursery.start_soon(send)
        except BaseExceptionGroup as errors:
            await self.drop(stream)
            raise first_of(errors) from errors
        self._content.sums.sent(snapshot.cid, stream.sums, snapshot.size)
        return await upload.finish(if_match=if_match, if_absent=if_absent)


def _reader(stream: Stream, start: int, stop: int) -> Callable[[], Data]:
    def read() -> Data:
        if stream.is_unwanted:
            raise Unwanted
        data = stream.layer.read(start, stop)
        stream.sums.see(start, data)
        return data

    return read


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
