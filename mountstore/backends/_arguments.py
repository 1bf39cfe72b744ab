"""What every backend checks and prepares in the same way before it does its own work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

from mountstore.errors import InvalidKey, InvalidRange, Unsupported
from mountstore.store import Data

LAST_CHARACTER = "\U0010ffff"


def check_key(key: str) -> bytes:
    """The UTF-8 bytes of a key. Raises InvalidKey for the empty string and for lone surrogates."""
    if not key:
        raise InvalidKey("a key is at least one character long", key=key)
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidKey(f"{key!r} holds lone surrogates, so it is no key", key=key) from None


def clip_range(key: str, start: int, stop: int | None, size: int) -> tuple[int, int]:
    """The range [start, stop) within an object of `size` bytes. Raises InvalidRange as `get` must."""
    if start < 0 or (stop is not None and stop < start) or start > size:
        raise InvalidRange(f"bytes {start} to {stop} of {key!r}, which has {size} bytes", key=key)
    return start, size if stop is None or stop > size else stop


def check_metadata(key: str, metadata: Mapping[str, str] | None, limit: int | None) -> dict[str, str]:
    """A copy of the metadata ({} for None). Raises Unsupported if it has more than `limit` bytes."""
    if not metadata:
        return {}
    if limit is not None:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
        if size > limit:
            raise Unsupported(f"{size} bytes of metadata, and this store keeps {limit} an object", key=key)
    return dict(metadata)


def flat(data: Data) -> Data:
    """The data with one byte an item, so that its length is its size. Raises TypeError."""
    if isinstance(data, (bytes, bytearray)):  # a union takes several times as long
        return data
    if isinstance(data, memoryview):
        return data if data.c_contiguous and data.itemsize == 1 and data.ndim == 1 else data.tobytes()
    raise TypeError(f"put takes bytes or a seekable binary file, not {type(data).__name__}")


def blocks(file: BinaryIO, size: int) -> Iterator[memoryview]:
    """The rest of a file in blocks of `size` bytes (the last may be shorter), in one buffer used again."""
    buffer = memoryview(bytearray(size))
    readinto = getattr(file, "readinto", None)
    while True:
        filled = 0
        while filled < size:
            if readinto is not None:
                count = readinto(buffer[filled:])
            else:
                piece = file.read(size - filled)
                count = len(piece)
                buffer[filled : filled + count] = piece
            if not count:
                break
            filled += count
        if filled:
            yield buffer[:filled]
        if filled < size:
            return


def successor(text: str) -> str | None:
    """The first string in key order behind all that start with `text`; None if there is none.

    UTF-8 keeps the order of code points, which is the order of `str`.
    """
    text = text.rstrip(LAST_CHARACTER)
    if not text:
        return None
    code = ord(text[-1]) + 1
    return text[:-1] + chr(0xE000 if 0xD800 <= code <= 0xDFFF else code)
