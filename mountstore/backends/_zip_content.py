"""The bytes of zip members: where they lie, how they are unpacked, and how new ones are packed."""

from __future__ import annotations

import bz2
import errno
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from zlib_ng import zlib_ng

from mountstore.backends._arguments import blocks, flat
from mountstore.backends._filesystem_tree import translated, write_all
from mountstore.backends._zip_format import BZIP2, DEFLATED, ENCRYPTED, STORED, Entry
from mountstore.errors import Corrupted, Unsupported
from mountstore.store import Data

BLOCK_BYTES = 1 << 18
SMALL_BYTES = 1 << 20
"""A new member up to this size waits in memory, a larger one in a temporary file."""

_RATIO_FROM_BYTES = 1 << 20
_MAX_CURSORS = 8
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})


class OpenFile:
    """A file descriptor that is closed when nothing refers to it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Content(Protocol):
    """The packed bytes of one member."""

    def read(self, at: int, length: int) -> Data:
        """Up to `length` bytes from `at` on; fewer only at the end. Raises OSError."""

    def copy_into(self, fd: int) -> None:
        """Write all of it at the position of `fd`. Raises OSError."""


@dataclass(frozen=True, slots=True)
class InMemory:
    data: Data

    def read(self, at: int, length: int) -> Data:
        return memoryview(self.data)[at : at + length]

    def copy_into(self, fd: int) -> None:
        if self.data:
            write_all(fd, self.data)


@dataclass(frozen=True, slots=True)
class InFile:
    file: OpenFile
    start: int
    length: int

    def read(self, at: int, length: int) -> Data:
        return os.pread(self.file.fd, max(0, min(length, self.length - at)), self.start + at)

    def copy_into(self, fd: int) -> None:
        copy_range(self.file.fd, self.start, self.length, fd)


def copy_range(source: int, start: int, length: int, target: int) -> None:
    """Copy bytes of a file to the position of another, within the kernel. Raises OSError."""
    done = 0
    in_one_step = True
    while done < length:
        if in_one_step:
            try:
                count = os.copy_file_range(source, target, length - done, start + done)
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
                in_one_step = False
                continue
        else:
            count = os.sendfile(target, source, start + done, length - done)
        if not count:
            raise OSError(errno.ESTALE, "the file became shorter while it was copied")
        done += count


# -- unpacking ----------------------------------------------------------------------------------------


class _Inflate:
    """zlib's decompressor, keeping by itself the input that it has not used yet, as bz2's does."""

    __slots__ = ("_inner", "_left")

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(-15)
        self._left: Data = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: Data, max_length: int, /) -> bytes:
        given = b"".join((self._left, data)) if self._left else data
        out = self._inner.decompress(given, max_length)
        self._left = self._inner.unconsumed_tail
        return out


class Cursor:
    """A place within a packed member, from which it can be read on."""

    def __init__(self, entry: Entry, content: Content) -> None:
        self.position = 0
        self._entry = entry
        self._content = content
        self._taken = 0
        self._crc = 0
        self._inner = _Inflate() if entry.method == DEFLATED else bz2.BZ2Decompressor()

    def pieces(self, stop: int) -> Iterator[bytes]:
        """What follows, up to `stop`, in pieces. Raises Corrupted, OSError."""
        entry = self._entry
        while self.position < stop:
            piece = self._next(min(BLOCK_BYTES, stop - self.position))
            if not piece:
                raise Corrupted(f"{entry.key!r} ends before the size that it tells", key=entry.key)
            self._crc = zlib_ng.crc32(piece, self._crc)
            self.position += len(piece)
            yield piece
        if self.position == entry.size:
            if self._next(1) or not self._inner.eof:
                raise Corrupted(f"{entry.key!r} goes on behind the size that it tells", key=entry.key)
            check_crc(entry, self._crc)

    def _next(self, length: int) -> bytes:
        while not self._inner.eof:
            given: Data = b""
            if self._inner.needs_input:
                given = self._content.read(self._taken, BLOCK_BYTES)
                self._taken += len(given)
            try:
                piece = self._inner.decompress(given, length)
            except (zlib.error, OSError, EOFError) as error:
                raise Corrupted(f"{self._entry.key!r} cannot be unpacked", key=self._entry.key) from error
            if piece:
                return piece
            if not given and self._inner.needs_input:
                break
        return b""


class Cursors:
    """The places where reading of packed members stopped last, so that the next range goes on from there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[int, Cursor]] = OrderedDict()

    def take(self, entry: Entry, start: int) -> Cursor | None:
        """The one that is nearest before `start`; nobody else gets it until it is given back."""
        with self._lock:
            best = None
            for number, (offset, cursor) in self._kept.items():
                if (
                    offset == entry.offset
                    and cursor.position <= start
                    and (best is None or cursor.position > self._kept[best][1].position)
                ):
                    best = number
            return None if best is None else self._kept.pop(best)[1]

    def give(self, entry: Entry, cursor: Cursor) -> None:
        if cursor.position >= entry.size or entry.offset < 0:
            return
        with self._lock:
            self._kept[id(cursor)] = (entry.offset, cursor)
            while len(self._kept) > _MAX_CURSORS:
                self._kept.popitem(last=False)


def check_crc(entry: Entry, crc: int) -> None:
    if crc != entry.crc:
        raise Corrupted(f"the content of {entry.key!r} fails its checksum", key=entry.key)


def check_readable(entry: Entry, max_ratio: int) -> None:
    """Raises Unsupported for what cannot be unpacked, Corrupted for what unpacks to absurdly much."""
    key = entry.key
    if entry.flags & ENCRYPTED:
        raise Unsupported(f"{key!r} is encrypted; unpack the archive with its password first", key=key)
    if entry.method not in (STORED, DEFLATED, BZIP2):
        raise Unsupported(f"{key!r} is packed by method {entry.method}, which cannot be read here", key=key)
    if entry.method == STORED and entry.packed != entry.size:
        raise Corrupted(f"{key!r} tells two sizes", key=key)
    if entry.size > _RATIO_FROM_BYTES and entry.size > entry.packed * max_ratio:
        raise Corrupted(
            f"{key!r} unpacks {entry.packed} bytes to {entry.size}, over the limit of 1 to {max_ratio}; "
            "raise max_ratio if the archive is to be trusted",
            key=key,
        )


def read_range(entry: Entry, content: Content, start: int, stop: int, cursors: Cursors) -> Data:
    """Bytes [start, stop) of a member, checked where its end is reached. Raises Corrupted, OSError."""
    if entry.method == STORED:
        return _read_stored(entry, content, start, stop)
    cursor = cursors.take(entry, start) or Cursor(entry, content)
    out = bytearray()
    skip = start - cursor.position
    for piece in cursor.pieces(stop):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        out += piece[skip:] if skip else piece
        skip = 0
    cursors.give(entry, cursor)
    return out


def _read_stored(entry: Entry, content: Content, start: int, stop: int) -> Data:
    data = content.read(start, stop - start)
    if len(data) < stop - start:
        whole = bytearray(data)
        while len(whole) < stop - start:
            more = content.read(start + len(whole), stop - start - len(whole))
            if not more:
                raise Corrupted(f"{entry.key!r} ends before the size that it tells", key=entry.key)
            whole += more
        data = whole
    if start == 0 and stop == entry.size:
        check_crc(entry, zlib_ng.crc32(data))
    return data


# -- packing ------------------------------------------------------------------------------------------


class Spool:
    """A temporary file beside the archive, without a name, to which packed members are appended."""

    def __init__(self, folder: str) -> None:
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self.file = OpenFile(os.dup(file.fileno()))
        except OSError as error:
            raise translated(error, None) from error
        self.end = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """A new member's content, and what its records tell of it."""

    content: Content
    method: int
    crc: int
    packed: int
    size: int


def pack(
    data: Data | BinaryIO, *, compress: bool, max_ratio: int, folder: str, spool: Spool | None
) -> Packed:
    """Take over what was given to a put: into memory if it is small, else into a spool. Raises StoreError.

    Compressed where that makes it smaller and not smaller than `max_ratio` would let it be read.
    """
    if isinstance(data, Data):
        given = flat(data)
        crc, size = zlib_ng.crc32(given), len(given)
        if compress:
            squeezed = zlib.compress(given, wbits=-15)
            if len(squeezed) < size <= max(_RATIO_FROM_BYTES, len(squeezed) * max_ratio):
                return _kept(squeezed, DEFLATED, crc, size, spool)
        return _kept(given, STORED, crc, size, spool)
    start = data.tell() if compress else 0
    packed = _pack_file(data, compress, folder, spool)
    if compress and not packed.packed < packed.size <= max(_RATIO_FROM_BYTES, packed.packed * max_ratio):
        data.seek(start)
        packed = _pack_file(data, False, folder, spool)
    return packed


def _kept(data: Data, method: int, crc: int, size: int, spool: Spool | None) -> Packed:
    if spool is None:
        # What the caller gave stays as it is until the call returns, and then it is written.
        return Packed(InMemory(data), method, crc, len(data), size)
    return Packed(_append(spool, [data]), method, crc, len(data), size)


def _append(spool: Spool, pieces: list[Data]) -> InFile:
    start = spool.end
    try:
        os.lseek(spool.file.fd, start, os.SEEK_SET)
        for piece in pieces:
            if piece:
                write_all(spool.file.fd, piece)
        spool.end = os.lseek(spool.file.fd, 0, os.SEEK_CUR)
    except OSError as error:
        raise translated(error, None) from error
    return InFile(spool.file, start, spool.end - start)


def _pack_file(source: BinaryIO, compress: bool, folder: str, spool: Spool | None) -> Packed:
    crc = size = packed = 0
    squeeze = zlib.compressobj(wbits=-15) if compress else None
    held: list[Data] = []
    start = spool.end if spool is not None else 0

    def write(piece: bytes) -> None:
        nonlocal spool, packed
        packed += len(piece)
        if spool is None and packed <= SMALL_BYTES:
            held.append(piece)
            return
        if spool is None:
            spool = Spool(folder)
            _append(spool, held)
            held.clear()
        _append(spool, [piece])

    for block in blocks(source, BLOCK_BYTES):
        crc = zlib_ng.crc32(block, crc)
        size += len(block)
        write(bytes(block) if squeeze is None else squeeze.compress(block))
    if squeeze is not None:
        write(squeeze.flush())
    method = STORED if squeeze is None else DEFLATED
    if spool is None:
        return Packed(InMemory(b"".join(held)), method, crc, packed, size)
    return Packed(InFile(spool.file, start, packed), method, crc, packed, size)
