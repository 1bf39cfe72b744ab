"""Content on its way: checked while it comes in, hashed while it goes out, never held whole in memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mountstore.errors import Corrupted
from mountstore.namespaces.errors import UnknownAlgorithm
from mountstore.store import Data

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 1 << 20
HELD_BYTES = 1 << 20
"""What is kept in memory of content that has to be held; the rest goes to a temporary file."""


def hasher(algorithm: str) -> Any:
    """A new hash of `hashlib`, or blake3 where that package is. Raises UnknownAlgorithm."""
    if algorithm == "blake3":
        with contextlib.suppress(ModuleNotFoundError):
            from importlib import import_module

            return import_module("blake3").blake3()
    elif algorithm in hashlib.algorithms_available:
        made = hashlib.new(algorithm, usedforsecurity=False)
        if made.digest_size:
            return made
    raise UnknownAlgorithm(f"no hash algorithm {algorithm!r} here; sha256 is everywhere")


class Checked(io.RawIOBase):
    """A stream of `size` bytes that fails at its end, before that is told, if it is not what was announced.

    It can be read once. It can be sought before its first byte is read, so that its size can be found out.
    """

    def __init__(self, stream: BinaryIO, size: int, sha256: str | None) -> None:
        super().__init__()
        self._stream, self._size, self._wanted = stream, size, sha256
        self._hash = hashlib.sha256() if sha256 is not None else None
        self._read = 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        if self._read and at != self._read:
            raise io.UnsupportedOperation("what came over the network comes once")
        self._at = at
        return at

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._at != self._read:
            raise io.UnsupportedOperation("what came over the network is read from its beginning")
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._read)
        if not wanted:
            self._finish()
            return 0
        # Straight into the buffer where the stream can: it may be a socket, and the buffer a file's.
        readinto = getattr(self._stream, "readinto", None)
        if readinto is not None:
            count = int(readinto(view[:wanted]) or 0)
        else:
            piece = self._stream.read(wanted)
            count = len(piece)
            view[:count] = piece
        if not count:
            raise Corrupted(f"{self._read} bytes came of {self._size}; nothing was stored")
        if self._hash is not None:
            self._hash.update(view[:count])
        self._read += count
        self._at = self._read
        return count

    def _finish(self) -> None:
        if self._hash is not None and self._wanted is not None:
            check_digest(self._hash.hexdigest(), self._wanted)

    def as_file(self) -> BinaryIO:
        """This, under the type that `put` takes."""
        return cast(BinaryIO, self)


@contextlib.contextmanager
def held(pieces: Iterable[Data], hashes: Any = None) -> Iterator[BinaryIO]:
    """All pieces as one seekable file, which is gone afterwards; `hashes` is told each."""
    with tempfile.SpooledTemporaryFile(max_size=HELD_BYTES) as file:
        for piece in pieces:
            if hashes is not None:
                hashes.update(piece)
            file.write(piece)
        file.seek(0)
        yield cast(BinaryIO, file)


def pieces_of(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream."""
    while piece := stream.read(PIECE_BYTES):
        yield piece


def check_digest(found: str, wanted: str) -> None:
    """Raises Corrupted if a hex SHA-256 is not the one that was announced."""
    if found != wanted.lower():
        raise Corrupted("the content has another SHA-256 than was announced; nothing was stored")
