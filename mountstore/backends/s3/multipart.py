"""Objects in parts: uploads several parts at a time, and copies that one request cannot make.

Memory: a part is read when a worker is free to send it, so that no more parts are held than there are
workers, over all uploads of a store together. Whatever fails, the upload is aborted, and nothing is left
that would be paid for.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass, replace
from typing import BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from zlib_ng import zlib_ng

from mountstore.backends.s3 import sign
from mountstore.backends.s3.faults import InvalidPart, NoSuchUpload, PreconditionAfterRetry
from mountstore.backends.s3.listing import quoted_etag
from mountstore.backends.s3.wire import Reply, Wire
from mountstore.errors import AccessDenied, Corrupted, StoreError, Unavailable
from mountstore.store import Data

MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the server has."""

    number: int
    etag: str
    crc32: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """How an upload ended: `etag` is what the server told, None if whether by us is not known; `expected`
    what the etag is where etags are made of MD5s (None: they are not)."""

    etag: str | None
    expected: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part to be made: sent, or copied by the server from the same range of another object."""

    start: int
    stop: int
    copied: bool


class CopyRefused(Exception):
    """The server did not copy a part: most likely the object is another version by now, or gone."""


class Source:
    """Bytes or a file, read by position from several threads."""

    def __init__(self, data: Data | BinaryIO) -> None:
        if isinstance(data, bytes | bytearray | memoryview):
            self._view: memoryview | None = memoryview(data).cast("B")
            self.size = self._view.nbytes
        else:
            self._view = None
            self._file, self._lock = data, threading.Lock()
            self._begin = data.tell()
            self.size = max(0, data.seek(0, 2) - self._begin)
            data.seek(self._begin)

    def read(self, start: int, stop: int) -> Data:
        """Exactly these bytes; raises OSError where the file is shorter by now."""
        if self._view is not None:
            return self._view[start:stop]
        with self._lock:
            self._file.seek(self._begin + start)
            data = self._file.read(stop - start)
            while len(data) < stop - start:
                more = self._file.read(stop - start - len(data))
                if not more:
                    raise OSError(f"the file to put became shorter while it was read: {len(data)} bytes left")
                data += more
            return data


def crc32_text(data: Data) -> str:
    """A CRC-32 as x-amz-checksum-crc32 has it."""
    return base64.b64encode(zlib_ng.crc32(data).to_bytes(4, "big")).decode()


def plan_changes(size: int, changed: Sequence[tuple[int, int]], step: int, copy_step: int) -> list[Piece]:
    """The parts of an upload: `step` bytes each around what is changed, and up to `copy_step` of the rest.

    All but the last have at least `step` bytes, as S3 wants of parts.
    """
    pieces: list[Piece] = []
    ranges = iter([*changed, (size, size)])
    low, high = next(ranges)
    for start, stop in cut(size, step):
        while high <= start and low < size:
            low, high = next(ranges)
        same = low >= stop
        last = pieces[-1] if pieces else None
        if same and last is not None and last.copied and stop - last.start <= copy_step:
            pieces[-1] = Piece(last.start, stop, True)
        else:
            pieces.append(Piece(start, stop, same))
    return pieces


def part_size(size: int, part_bytes: int) -> int:
    """`part_bytes`, or as much more as keeps the number of parts within the limit."""
    return max(part_bytes, -(-size // MAX_PARTS))


def upload(
    wire: Wire,
    pool: Executor,
    whole: str,
    key: str,
    source: Source,
    part_bytes: int,
    headers: Mapping[str, str],
    conditions: Mapping[str, str],
    *,
    signed_bodies: bool,
    checksums: bool,
) -> Done:
    """Put `source` in parts. `conditions` hold when it becomes the object."""
    step = part_size(source.size, part_bytes)

    def send(upload_id: str, number: int, start: int, stop: int) -> Part:
        data = source.read(start, stop)
        return send_part(wire, whole, key, data, upload_id, number, signed=signed_bodies, checksums=checksums)

    algorithm = {"x-amz-checksum-algorithm": "CRC32"} if checksums else {}
    with_checksums = {**headers, **algorithm}
    ranges = cut(source.size, step)
    return _in_parts(wire, pool, whole, key, ranges, with_checksums, conditions, send)


def upload_changes(
    wire: Wire,
    pool: Executor,
    origin: str,
    origin_etag: str,
    whole: str,
    key: str,
    source: Source,
    pieces: Sequence[Piece],
    headers: Mapping[str, str],
    conditions: Mapping[str, str],
    *,
    signed_bodies: bool,
) -> Done:
    """Put `source` in these parts, of which the server copies some from the object `origin` (a whole key).

    Without checksums: the server has none of the parts that it copies. Raises CopyRefused.
    """

    def send(upload_id: str, number: int, start: int, stop: int) -> Part:
        if pieces[number - 1].copied:
            try:
                return _copy_part(wire, origin, origin_etag, whole, key, upload_id, number, start, stop)
            except (Unavailable, AccessDenied):
                raise
            except StoreError as error:
                raise CopyRefused(str(error)) from error
        data = source.read(start, stop)
        return send_part(wire, whole, key, data, upload_id, number, signed=signed_bodies, checksums=False)

    ranges = [(piece.start, piece.stop) for piece in pieces]
    return _in_parts(wire, pool, whole, key, ranges, headers, conditions, send)


def copy(
    wire: Wire,
    pool: Executor,
    source: str,
    source_etag: str,
    whole: str,
    key: str,
    size: int,
    part_bytes: int,
    headers: Mapping[str, str],
) -> Done:
    """Have the server copy an object of `size` bytes in parts; `source` is a whole key."""

    def send(upload_id: str, number: int, start: int, stop: int) -> Part:
        return _copy_part(wire, source, source_etag, whole, key, upload_id, number, start, stop)

    return _in_parts(wire, pool, whole, key, cut(size, part_size(size, part_bytes)), headers, {}, send)


def cut(size: int, step: int) -> list[tuple[int, int]]:
    """Ranges of `step` bytes, the last perhaps shorter, that make up `size`."""
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def send_part(
    wire: Wire,
    whole: str,
    key: str,
    data: Data,
    upload_id: str,
    number: int,
    *,
    signed: bool,
    checksums: bool,
) -> Part:
    """Send one part; a later one of the same number takes its place."""
    crc32 = crc32_text(data) if checksums else None
    reply = wire.request(
        "PUT",
        "PUT",
        whole,
        query=[("partNumber", str(number)), ("uploadId", upload_id)],
        headers={"x-amz-checksum-crc32": crc32} if crc32 else {},
        body=data,
        payload_sha256=hashlib.sha256(data).hexdigest() if signed else sign.UNSIGNED,
        shown_key=key,
    )
    return Part(number, reply.headers["etag"], crc32)


def _copy_part(
    wire: Wire,
    source: str,
    source_etag: str,
    whole: str,
    key: str,
    upload_id: str,
    number: int,
    start: int,
    stop: int,
) -> Part:
    reply = wire.request(
        "COPY",
        "PUT",
        whole,
        query=[("partNumber", str(number)), ("uploadId", upload_id)],
        headers={
            "x-amz-copy-source": f"/{wire.account.bucket}/{sign.quote_key(source)}",
            "x-amz-copy-source-range": f"bytes={start}-{stop - 1}",
            "x-amz-copy-source-if-match": source_etag,
        },
        shown_key=key,
    )
    return Part(number, _text(reply.body, "ETag"), None)


def _in_parts(
    wire: Wire,
    pool: Executor,
    whole: str,
    key: str,
    ranges: Sequence[tuple[int, int]],
    headers: Mapping[str, str],
    conditions: Mapping[str, str],
    send: Callable[[str, int, int, int], Part],
) -> Done:
    upload_id = begin(wire, whole, key, headers)
    futures: list[Future[Part]] = []
    try:
        for number, (start, stop) in enumerate(ranges, 1):
            futures.append(pool.submit(send, upload_id, number, start, stop))
        wait(futures, return_when=FIRST_EXCEPTION)
        parts = [future.result() for future in futures if future.done()]
        return complete(wire, whole, key, upload_id, parts, conditions)
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)
        abort(wire, whole, key, upload_id)
        raise


def begin(wire: Wire, whole: str, key: str, headers: Mapping[str, str]) -> str:
    """Begin an upload; its id."""
    begun = wire.request("POST", "POST", whole, query=[("uploads", "")], headers=headers, shown_key=key)
    upload_id = _text(begun.body, "UploadId")
    wire.unfinished.begun(whole, upload_id)
    return upload_id


def complete(
    wire: Wire, whole: str, key: str, upload_id: str, parts: list[Part], conditions: Mapping[str, str]
) -> Done:
    """Make these parts the object."""
    for last in (False, True):
        try:
            reply = _send_complete(wire, whole, key, upload_id, parts, conditions)
            wire.unfinished.ended(upload_id)
            return Done(quoted_etag(_text(reply.body, "ETag")), _expected_etag(parts))
        except InvalidPart:
            if last:
                raise
            # An etag may have come damaged in the answer to its part.
            parts = _as_listed(wire, whole, key, upload_id, parts)
        except (NoSuchUpload, PreconditionAfterRetry) as error:
            if isinstance(error, NoSuchUpload):
                wire.unfinished.ended(upload_id)
            expected = _expected_etag(parts)
            if expected is None:
                raise
            if isinstance(error, PreconditionAfterRetry):
                abort(wire, whole, key, upload_id)
            return Done(None, expected)
    raise AssertionError


def _send_complete(
    wire: Wire, whole: str, key: str, upload_id: str, parts: list[Part], conditions: Mapping[str, str]
) -> Reply:
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag>"
        + (f"<ChecksumCRC32>{part.crc32}</ChecksumCRC32>" if part.crc32 else "")
        + "</Part>"
        for part in parts
    )
    body = (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{listed}</CompleteMultipartUpload>"
    ).encode()
    return wire.request(
        "POST",
        "POST",
        whole,
        query=[("uploadId", upload_id)],
        headers=conditions,
        body=body,
        payload_sha256=hashlib.sha256(body).hexdigest(),
        shown_key=key,
    )


def _as_listed(wire: Wire, whole: str, key: str, upload_id: str, parts: list[Part]) -> list[Part]:
    """These parts with the etags that the server says they have."""
    etags: dict[int, str] = {}
    marker = 0
    while True:
        query = [("uploadId", upload_id), ("part-number-marker", str(marker))]
        reply = wire.request("LIST", "GET", whole, query=query, shown_key=key)
        before = marker
        for element in ElementTree.fromstring(reply.body).iter():
            if element.tag.rpartition("}")[2] == "Part":
                found = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
                marker = int(found["PartNumber"])
                etags[marker] = found["ETag"]
        if marker == before or marker >= parts[-1].number:
            return [replace(part, etag=etags.get(part.number, part.etag)) for part in parts]


def abort(wire: Wire, whole: str, key: str, upload_id: str) -> None:
    """Have the server forget the parts of an upload; what cannot be done now stays noted, and is logged."""
    try:
        wire.request("DELETE", "DELETE", whole, query=[("uploadId", upload_id)], shown_key=key)
        wire.unfinished.ended(upload_id)
    except NoSuchUpload:
        wire.unfinished.ended(upload_id)
    except StoreError as error:
        import logging

        logging.getLogger(__name__).warning("parts of an upload of %r may be left behind: %s", key, error)


def _expected_etag(parts: list[Part]) -> str | None:
    """The MD5 of the parts' MD5s, as servers make it; None where the parts' etags are no MD5s."""
    try:
        digests = [bytes.fromhex(part.etag.strip('"')) for part in parts]
    except ValueError:
        return None
    if any(len(digest) != 16 for digest in digests):
        return None
    digest = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return quoted_etag(f"{digest}-{len(parts)}")


def _text(body: bytes, name: str) -> str:
    try:
        for element in ElementTree.fromstring(body).iter():
            if element.tag.rpartition("}")[2] == name and element.text:
                return element.text
    except ElementTree.ParseError as error:
        raise Corrupted(f"the server's answer is no XML: {error}") from error
    raise Corrupted(f"the server's answer lacks {name}")
