"""Wrappers that keep content in another form: gzip and base64."""

from __future__ import annotations

import base64
import binascii
import builtins
import tempfile
import zlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import BinaryIO, Protocol, cast

from mountstore.backends._arguments import blocks, check_metadata, clip_range, flat
from mountstore.errors import Corrupted, InvalidRange, NotFound, PreconditionFailed, Unsupported
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page
from mountstore.stores.reader import ObjectReader
from mountstore.stores.wrapper import WrapperStore

_BLOCK_BYTES = 1 << 20
_SPOOL_BYTES = 8 << 20
_SIZES = 65_536
_LENGTH = "mountstore-length"


class Encoder(Protocol):
    """One pass over one object; the last call is `end`, which gives what is left."""

    def step(self, data: memoryview) -> bytes: ...
    def end(self) -> bytes: ...


class Decoder(Protocol):
    """The way back. A step gives pieces of bounded size, however much the data expand."""

    def step(self, data: bytes) -> Iterator[bytes]: ...
    def end(self) -> bytes: ...


class CodecStore(WrapperStore):
    """Content is encoded on its way into `inner` and decoded on its way out, with bounded memory.

    Sizes are those of the decoded content. They are kept in the metadata of each object, as
    `mountstore-length`, where `inner` keeps metadata. A listing does not carry metadata, so it costs a head
    an object, several at a time, unless the size of this version is remembered (65,536 are). An object
    that somebody else encoded is decoded once to learn its size.

    A range is decoded from the beginning of the object. Raises Corrupted for what cannot be decoded.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._lock = Lock()
        self._sizes: OrderedDict[tuple[str, str], int] = OrderedDict()

    @abstractmethod
    def _encoder(self) -> Encoder: ...

    @abstractmethod
    def _decoder(self, key: str) -> Decoder: ...

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        inner = self.inner.capabilities
        limit = inner.max_metadata_bytes
        return replace(inner, max_metadata_bytes=limit - len(_LENGTH) - 20 if limit is not None else None)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        return self._decoded(self.inner.head(key))

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        while True:
            info = self.inner.head(key)
            if if_match is not None and not self.inner.capabilities.conditional_get:
                raise Unsupported("this store does not honour conditions on get", key=key)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            try:
                return self._range(info, start, stop)
            except PreconditionFailed:
                if if_match is not None:
                    raise
                # Changed between two of our reads; what is there now is read from its beginning.

    def _range(self, info: ObjectInfo, start: int, stop: int | None) -> Data:
        content = bytearray()
        at = 0
        for piece in self._pieces(info):
            begin, end = max(start - at, 0), len(piece) if stop is None else stop - at
            content += piece[begin : max(end, 0)]
            at += len(piece)
            if stop is not None and at >= stop:
                return content
        clip_range(info.key, start, stop, at)
        return content

    def _pieces(self, info: ObjectInfo) -> Iterator[bytes]:
        decoder = self._decoder(info.key)
        reader = ObjectReader(self.inner, info)
        while piece := reader.read(_BLOCK_BYTES):
            yield from decoder.step(piece)
        yield decoder.end()

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        return self._listed(self.inner.list(prefix, delimiter=delimiter, after=after, limit=limit))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        yield from map(self._listed, self.inner.pages(prefix, delimiter=delimiter, after=after, limit=limit))

    def usage(self, prefix: str = "") -> tuple[int, int]:
        return ObjectStore.usage(self, prefix)

    def _listed(self, page: Page) -> Page:
        unknown = [info.key for info in page.objects if self._remembered(info) is None]
        if unknown:
            with ThreadPoolExecutor(max(1, self.inner.capabilities.concurrency)) as pool:
                fresh = dict(zip(unknown, pool.map(self._head_or_none, unknown), strict=True))
        else:
            fresh = {}
        objects: builtins.list[ObjectInfo] = []
        for info in page.objects:
            known = fresh.get(info.key)
            size = self._remembered(info) if info.key not in fresh else None
            if known is not None:
                objects.append(replace(known, metadata=None))
            elif size is not None:
                objects.append(replace(info, size=size))
        return replace(page, objects=objects)

    def _head_or_none(self, key: str) -> ObjectInfo | None:
        try:
            return self.head(key)
        except NotFound:
            return None  # deleted since the page was made

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        kept = check_metadata(key, metadata, self.capabilities.max_metadata_bytes)
        encoder = self._encoder()
        size = 0
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            for block in _blocks_of(data):
                size += len(block)
                spool.write(encoder.step(block))
            spool.write(encoder.end())
            spool.seek(0)
            info = self.inner.put(
                key,
                cast(BinaryIO, spool),
                metadata=self._with_length(kept, size),
                if_match=if_match,
                if_absent=if_absent,
            )
        self._remember(info, size)
        return self._decoded(info)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        wanted: dict[str, str] | None = None
        while True:
            before = self.inner.head(source)
            if if_match is not None and before.etag != if_match:
                raise PreconditionFailed(f"{source!r} has changed", key=source)
            size = self._size(before)
            if metadata is not None:
                kept = check_metadata(target, metadata, self.capabilities.max_metadata_bytes)
                wanted = self._with_length(kept, size)
            try:
                info = self.inner.copy(source, target, metadata=wanted, if_match=before.etag)
            except PreconditionFailed:
                if if_match is not None:
                    raise
                continue  # changed since its length was looked up
            self._remember(info, size)
            return self._decoded(info)

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return self._decoded(self.inner.rename(source, target, if_match=if_match))

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return ObjectStore.update_metadata(self, key, metadata, if_match=if_match)

    # -- sizes ------------------------------------------------------------------------------------

    def _with_length(self, metadata: Mapping[str, str], size: int) -> dict[str, str]:
        return {**metadata, _LENGTH: str(size)} if self.inner.capabilities.metadata else dict(metadata)

    def _decoded(self, info: ObjectInfo) -> ObjectInfo:
        shown = {name: value for name, value in (info.metadata or {}).items() if name != _LENGTH}
        return replace(info, size=self._size(info), metadata=shown)

    def _size(self, info: ObjectInfo) -> int:
        """The size of the content. `info` is of `inner`, with its metadata."""
        told = (info.metadata or {}).get(_LENGTH, "")
        size = int(told) if told.isdecimal() else self._remembered(info)
        if size is None:
            size = sum(map(len, self._pieces(info)))
        self._remember(info, size)
        return size

    def _remembered(self, info: ObjectInfo) -> int | None:
        if info.etag is None:
            return None
        with self._lock:
            return self._sizes.get((info.key, info.etag))

    def _remember(self, info: ObjectInfo, size: int) -> None:
        if info.etag is not None:
            with self._lock:
                self._sizes[info.key, info.etag] = size
                if len(self._sizes) > _SIZES:
                    self._sizes.popitem(last=False)


class GzipStore(CodecStore):
    """Objects are gzip files (RFC 1952) in `inner`; `level` is zlib's, 1 fast to 9 small."""

    def __init__(self, inner: ObjectStore, level: int = 6) -> None:
        if not 0 <= level <= 9:
            raise ValueError(f"a level of 0 to 9, not {level}")
        super().__init__(inner)
        self._level = level

    def _encoder(self) -> Encoder:
        return _Deflater(self._level)

    def _decoder(self, key: str) -> Decoder:
        return _Inflater(key)


class Base64Store(CodecStore):
    """Objects are base64 (RFC 4648, padded, one line) in `inner`, for stores that hold nothing but text."""

    def _encoder(self) -> Encoder:
        return _ToBase64()

    def _decoder(self, key: str) -> Decoder:
        return _FromBase64(key)


class _Deflater:
    def __init__(self, level: int) -> None:
        # 31: gzip's header and checksum. No name and no time are in it: the same content, the same bytes.
        self._zlib = zlib.compressobj(level, wbits=31)

    def step(self, data: memoryview) -> bytes:
        return self._zlib.compress(data)

    def end(self) -> bytes:
        return self._zlib.flush()


class _Inflater:
    def __init__(self, key: str) -> None:
        self._key = key
        self._zlib = zlib.decompressobj(wbits=31)

    def step(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._zlib.eof:  # a file of several members is one content
                    self._zlib = zlib.decompressobj(wbits=31)
                yield self._zlib.decompress(data, _BLOCK_BYTES)
                data = self._zlib.unused_data or self._zlib.unconsumed_tail
        except zlib.error as error:
            raise Corrupted(f"{self._key!r} is no gzip file: {error}", key=self._key) from error

    def end(self) -> bytes:
        if not self._zlib.eof:
            raise Corrupted(f"{self._key!r} is a gzip file without an end", key=self._key)
        return b""


class _ToBase64:
    def __init__(self) -> None:
        self._rest = b""

    def step(self, data: memoryview) -> bytes:
        joined = self._rest + data
        cut = len(joined) - len(joined) % 3
        self._rest = joined[cut:]
        return base64.b64encode(joined[:cut])

    def end(self) -> bytes:
        return base64.b64encode(self._rest)


class _FromBase64:
    def __init__(self, key: str) -> None:
        self._key = key
        self._rest = b""

    def step(self, data: bytes) -> Iterator[bytes]:
        joined = self._rest + data.translate(None, b"\r\n")
        # The last group may be padded, which is for `end` to judge.
        cut = max(0, (len(joined) - 1) // 4 * 4)
        self._rest = joined[cut:]
        yield self._decode(joined[:cut])

    def end(self) -> bytes:
        return self._decode(self._rest)

    def _decode(self, text: bytes) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise Corrupted(f"{self._key!r} is no base64: {error}", key=self._key) from error


def _blocks_of(data: Data | BinaryIO) -> Iterator[memoryview]:
    if isinstance(data, Data):
        whole = memoryview(flat(data))
        for start in range(0, len(whole), _BLOCK_BYTES):
            yield whole[start : start + _BLOCK_BYTES]
    else:
        yield from blocks(data, _BLOCK_BYTES)
