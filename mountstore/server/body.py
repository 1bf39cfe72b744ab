"""Bodies of requests: of a known length or in chunks, read as they come, checked as they are read."""

from __future__ import annotations

import hashlib
import io
import os
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, cast
from weakref import WeakSet

import h11

from mountstore.server.connection import Connection
from mountstore.server.head import Head, Refused
from mountstore.store import Data

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SKIP_BLOCK_BYTES = 64 << 10
_ASIDE_BYTES = 256 << 10  # fewer are hashed sooner than handed to another thread

# A processor each, and one for who writes what is hashed. Where there are more uploads than these, each
# hashes by itself: another thread is one more to wait for.
_hashing = len(os.sched_getaffinity(0)) - 1
_threads = ThreadPoolExecutor(max(1, _hashing), "mountstore-hash")
_arriving: WeakSet[ArrivingFile] = WeakSet()


class Body(ABC):
    """What follows the head. `length` is None where only its end will tell."""

    length: int | None = None

    def __init__(self, connection: Connection, *, expects_continue: bool) -> None:
        self._connection = connection
        self.is_awaited = expects_continue  # the client waits to be told that it is wanted
        self._began = time.monotonic()
        self.size = 0
        self.is_complete = False

    def readinto(self, view: memoryview) -> int:
        """Some bytes into `view`; 0 at the end. Raises Refused for a body that is too long, and Gone."""
        if self.is_complete or not len(view):
            return 0
        if self.is_awaited:
            self.is_awaited = False
            self._connection.send_continue()
        count = self._receive_into(view)
        self.size += count
        if self.size > self._connection.limits.body_bytes:
            raise Refused(413, "the body is too long", closes=True)
        return count

    @abstractmethod
    def _receive_into(self, view: memoryview) -> int: ...

    def read(self, limit: int) -> bytes:
        """All of it, at most `limit` bytes of it. Raises Refused (413), Gone."""
        buffer = bytearray()
        room = memoryview(bytearray(min(limit + 1, 64 << 10)))
        while count := self.readinto(room):
            buffer += room[:count]
            if len(buffer) > limit:
                raise Refused(413, f"at most {limit} bytes are taken here")
        return bytes(buffer)

    def can_skip(self, limit: int | None) -> bool:
        """Whether what nobody has read of it ends for certain, within `limit` bytes (None: wherever)."""
        if self.is_complete:
            return True
        # Who still waits for 100 Continue may send the body, or may not.
        if self.is_awaited or self.length is None:
            return False
        return limit is None or self.length - self.size <= limit

    def skip(self) -> None:
        """Read to the end of what nobody wanted."""
        if not self.is_complete:
            room = memoryview(bytearray(_SKIP_BLOCK_BYTES))
            while self.readinto(room):
                continue


class SizedBody(Body):
    """Content-Length bytes."""

    def __init__(self, connection: Connection, length: int, *, expects_continue: bool = False) -> None:
        super().__init__(connection, expects_continue=expects_continue and length > 0)
        self.length = length
        self.is_complete = not length

    def _receive_into(self, view: memoryview) -> int:
        assert self.length is not None
        view = view[: self.length - self.size]
        count = self._connection.receive_into(view, self._began, self.size)
        self.is_complete = self.size + count == self.length
        return count


class ChunkedBody(Body):
    """Chunks, taken apart by the parser that read the head. Trailers are read and dropped."""

    def __init__(self, connection: Connection, parser: h11.Connection, *, expects_continue: bool) -> None:
        super().__init__(connection, expects_continue=expects_continue)
        self._parser = parser
        self._ready = memoryview(b"")

    def _receive_into(self, view: memoryview) -> int:
        while not self._ready:
            try:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    self._parser.receive_data(self._connection.receive_some(self._began, self.size))
                    continue
            except h11.RemoteProtocolError as error:
                raise Refused(400, f"chunks: {error}", closes=True) from None
            if isinstance(event, h11.Data):
                self._ready = memoryview(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._connection.received[:0] = self._parser.trailing_data[0]
                self.is_complete = True
                return 0
            else:
                raise Refused(400, "chunks: the body did not end", closes=True)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def body_of(connection: Connection, head: Head) -> Body:
    """The body that follows this head. Raises Refused for one that is announced to be too long."""
    if head.length is None:
        assert head.parser is not None  # only it reads heads of chunks
        return ChunkedBody(connection, head.parser, expects_continue=head.expects_continue)
    if head.length > connection.limits.body_bytes:
        raise Refused(413, "the body is too long", closes=True)
    return SizedBody(connection, head.length, expects_continue=head.expects_continue)


class Hasher:
    """The SHA-256 that a client announced, compared when all has passed by."""

    def __init__(self, announced: str | None) -> None:
        self._announced = announced
        self._hash = hashlib.sha256() if announced is not None else None
        self._aside: Future[None] | None = None

    def update(self, data: memoryview) -> None:
        """Hash this now."""
        if self._hash is not None:
            self.settle()
            self._hash.update(data)

    def update_aside(self, data: memoryview) -> None:
        """Hash this while the caller goes on. It must not change before `settle` has returned."""
        if self._hash is not None:
            self.settle()
            self._aside = _threads.submit(self._hash.update, data)

    def settle(self) -> None:
        """Wait for what is hashed aside."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.result()

    def check(self) -> None:
        """Raises Refused (422) unless it is what the client announced."""
        self.settle()
        if self._hash is None or self._announced is None:
            return
        if self._hash.hexdigest() != self._announced.strip().lower():
            raise Refused(422, "the content does not have the hash that was announced; send it again")


class ArrivingFile(io.RawIOBase):
    """A body as a file that is read once, while it arrives.

    The read that would tell its end raises Refused instead if the hash is another than announced; so a
    store that makes an object of a file only when it has read all of it makes none. What was read is hashed
    while it is written: until the next read it must stay as it is.
    """

    def __init__(self, body: Body, hasher: Hasher, first: Data = b"") -> None:
        super().__init__()
        self._body, self._hasher = body, hasher
        self._first = memoryview(first)
        _arriving.add(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._first:
            count = min(len(view), len(self._first))
            view[:count] = self._first[:count]
            self._first = self._first[count:]
            return count
        self._hasher.settle()
        count = self._body.readinto(view)
        if count >= _ASIDE_BYTES and len(_arriving) <= _hashing:
            self._hasher.update_aside(view[:count])
        else:
            self._hasher.update(view[:count])
        if self._body.is_complete:
            self._hasher.check()
        return count


def content_of(body: Body, hasher: Hasher, memory_bytes: int) -> Data | BinaryIO:
    """A body for a store: bytes, the hash checked, if there are few, else a file that checks it at its end.

    Raises Refused, Gone; so does reading the file.
    """
    if body.length is not None and body.length > memory_bytes:
        return cast(BinaryIO, ArrivingFile(body, hasher))
    buffer = bytearray(memory_bytes if body.length is None else body.length)
    view = memoryview(buffer)
    filled = 0
    while count := body.readinto(view[filled:]):
        filled += count
    hasher.update(view[:filled])
    if not body.is_complete:
        return cast(BinaryIO, ArrivingFile(body, hasher, view))
    hasher.check()
    return view[:filled] if filled < len(buffer) else buffer
