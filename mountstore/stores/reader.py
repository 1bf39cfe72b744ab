"""Objects as files: what `put` of one store reads from another, a range at a time."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from mountstore.errors import Corrupted, InvalidRange, PreconditionFailed
from mountstore.store import Data, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_BYTES = 4 << 20
"""How much of an object is asked for, and held, at a time."""


class _File(io.RawIOBase):
    """A read-only seekable file of a known size, filled by position; `read(n)` is short at the end only."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._at < self.size:
            piece = self._piece(self._at, min(len(view) - filled, self.size - self._at))
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._at += len(piece)
        return filled

    def _piece(self, start: int, count: int) -> memoryview:
        """From 1 to `count` bytes at `start`."""
        raise NotImplementedError


class ObjectReader(_File):
    """The content of one version of an object, as a seekable binary file.

    `info` is what `head` told; where the store can (`capabilities.conditional_get`) every range is asked
    for with its etag, so that PreconditionFailed is raised once the object has changed. Holds RANGE_BYTES.
    `progress` is told how many bytes each range brought.
    """

    def __init__(
        self, store: ObjectStore, info: ObjectInfo, progress: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(info.size)
        self._store, self._info, self._progress = store, info, progress
        self._condition = info.etag if store.capabilities.conditional_get else None
        self._held: memoryview = memoryview(b"")
        self._held_at = 0

    def _piece(self, start: int, count: int) -> memoryview:
        offset = start - self._held_at
        if not 0 <= offset < len(self._held):
            stop = min(start + RANGE_BYTES, self.size)
            self._held = memoryview(self.range(start, stop))
            self._held_at, offset = start, 0
        return self._held[offset : offset + count]

    def as_file(self) -> BinaryIO:
        """This, under the type that `put` takes."""
        return cast(BinaryIO, self)

    def ranges(self) -> Iterator[bytes | bytearray]:
        """The whole content, in pieces of RANGE_BYTES."""
        for start in range(0, self.size, RANGE_BYTES):
            data = self.range(start, min(start + RANGE_BYTES, self.size))
            yield data if isinstance(data, bytes | bytearray) else bytes(data)

    def range(self, start: int, stop: int) -> Data:
        """Bytes [start, stop), asked for anew. Raises PreconditionFailed if the object was seen to have
        changed, and Corrupted if the store gives fewer bytes for another reason."""
        key = self._info.key
        try:
            data = self._store.get(key, start, stop, if_match=self._condition)
        except InvalidRange:
            data = b""
        if len(data) != stop - start:
            if self._condition is None and self._store.head(key).etag != self._info.etag:
                raise PreconditionFailed(f"{key!r} was changed while it was being read", key=key)
            raise Corrupted(f"{key!r}: {len(data)} bytes came of {stop - start}", key=key)
        if self._progress is not None:
            self._progress(len(data))
        return data


def same_content(one: ObjectReader, other: ObjectReader) -> bool:
    """Whether two objects of one size have the same bytes; read up to the first range that differs."""
    return all(left == right for left, right in zip(one.ranges(), other.ranges(), strict=True))


class Shared:
    """One seekable file, read from its position to its end by several readers at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._begin = file.tell()
        self.size = max(0, file.seek(0, io.SEEK_END) - self._begin)
        file.seek(self._begin)

    def reader(self) -> BinaryIO:
        """A file of its own over the same bytes, which may be read in another thread."""
        return cast(BinaryIO, _SharedReader(self))

    def rewind(self) -> None:
        """Put the file where it was."""
        self._file.seek(self._begin)

    def _read(self, start: int, count: int) -> bytes:
        with self._lock:
            self._file.seek(self._begin + start)
            return self._file.read(count)


class _SharedReader(_File):
    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.size)
        self._shared = shared

    def _piece(self, start: int, count: int) -> memoryview:
        data = self._shared._read(start, min(count, RANGE_BYTES))
        if not data:
            raise OSError(5, "the file became shorter while it was being read")
        return memoryview(data)
