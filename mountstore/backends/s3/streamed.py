"""An object that is sent in parts while it is still being made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from mountstore.backends.s3 import multipart, objects
from mountstore.backends.s3.listing import quoted_etag
from mountstore.backends.s3.wire import Wire
from mountstore.errors import NotFound, PreconditionFailed
from mountstore.store import Data, ObjectInfo, Upload, check_conditions


class PartsUpload(Upload):
    """See `Upload`; made by `BucketStore.start_upload`."""

    def __init__(
        self,
        wire: Wire,
        whole: str,
        key: str,
        kept: Mapping[str, str],
        part_bytes: int,
        *,
        signed: bool,
        checksums: bool,
        look_first: Callable[[str, Mapping[str, str]], None] | None,
        ended: Callable[[multipart.Done, str, int, multipart.Source | None, Mapping[str, str]], str],
    ) -> None:
        self.part_bytes = part_bytes
        self._wire = wire
        self._whole = whole
        self._key = key
        self._kept = kept
        self._signed = signed
        self._checksums = checksums
        self._look_first = look_first
        self._ended = ended
        self._parts: dict[int, tuple[multipart.Part, int]] = {}
        self._lock = threading.Lock()
        self._over = False
        algorithm = {"x-amz-checksum-algorithm": "CRC32"} if checksums else {}
        self._id = multipart.begin(wire, whole, key, {**objects.metadata_headers(kept), **algorithm})

    def put_part(self, number: int, data: Data) -> None:
        part = multipart.send_part(
            self._wire,
            self._whole,
            self._key,
            data,
            self._id,
            number,
            signed=self._signed,
            checksums=self._checksums,
        )
        with self._lock:
            self._parts[number] = part, len(data)

    def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        check_conditions(self._key, if_match, if_absent)
        conditions = {"if-match": if_match} if if_match is not None else {}
        if if_absent:
            conditions = {"if-none-match": "*"}
        size = sum(size for _, size in self._parts.values())
        parts = [self._parts[number][0] for number in sorted(self._parts)]
        try:
            if conditions and self._look_first is not None:
                self._look_first(self._key, conditions)
            done = multipart.complete(self._wire, self._whole, self._key, self._id, parts, conditions)
            self._over = True
            etag = self._ended(done, self._key, size, None, self._kept)
        except NotFound as error:
            self.abort()
            if if_match is None:
                raise
            raise PreconditionFailed(f"{self._key!r} is not there any more", key=self._key) from error
        except BaseException:
            self.abort()
            raise
        return ObjectInfo(self._key, size, time.time_ns(), quoted_etag(etag), self._kept)

    def abort(self) -> None:
        if not self._over:
            self._over = True
            multipart.abort(self._wire, self._whole, self._key, self._id)
