"""What a BucketStore stands on: its connections, what its server can do, which keys it takes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from mountstore.backends.s3 import etags, listing, multipart, objects, probe, versions
from mountstore.backends.s3.account import Account
from mountstore.backends.s3.bodies import Bodies
from mountstore.backends.s3.keys import MAX_KEY_BYTES, Shape, check_key, shapes
from mountstore.backends.s3.ranges import Ranges
from mountstore.backends.s3.wire import Patience, Wire
from mountstore.errors import (
    InvalidKey,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from mountstore.store import Capabilities, ObjectInfo, ObjectStore

MIB = 1 << 20
_COMPARED_BYTES = 8 * MIB


_FILE_NAME_BYTES = 224
"""The longest segment that a server may hold which keeps objects as files: 255, less what it puts around the
name while it replaces one. versitygw puts 28 bytes there, and else refuses each PUT but the first."""


class BucketCore(ObjectStore):
    """Everything of a BucketStore but the verbs of the contract."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        anonymous: bool = False,
        client: Any = None,
        addressing_style: str | None = None,
        part_bytes: int = 8 * MIB,
        uploads: int = 4,
        copy_threshold_bytes: int = 5 << 30,
        copy_part_bytes: int = 512 * MIB,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        retry_deadline_s: float = 60.0,
        connections: int = 32,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._account = Account(
            bucket,
            endpoint=endpoint,
            region=region,
            profile=profile,
            anonymous=anonymous,
            addressing_style=addressing_style,
            client=client,
        )
        self._patience = Patience(connect_timeout_s, read_timeout_s, retry_deadline_s)
        self._wire = Wire(self._account, self._patience, connections=connections)
        self._part_bytes = part_bytes
        self._copy_threshold_bytes = copy_threshold_bytes
        self._copy_part_bytes = copy_part_bytes
        self._pool = ThreadPoolExecutor(uploads, thread_name_prefix="mountstore-s3")
        self._lock = threading.Lock()
        self._bodies_made: Bodies | None = None
        self._ranges = Ranges(self._wire)
        self._profile: probe.Profile | None = None
        self._etags_are_md5 = True

    def __repr__(self) -> str:
        return f"BucketStore({self.bucket!r}, {self.prefix!r})"

    # -- what the server can do -------------------------------------------------------------------

    def check(self, deadline_s: float = 5.0) -> None:
        """See that the bucket is there, reachable and may be listed. Raises NoSuchBucket, AccessDenied,
        Unavailable, each in one clear line, within about `deadline_s` and the connect time-out."""
        listing.fetch(self._wire, self.prefix, "", "", 2, deadline_s=deadline_s)

    def probe(self) -> probe.Profile:
        """What this server honours and holds: tried once a bucket and process, with small objects."""
        if self._profile is None:
            self._profile = probe.profile(self._wire, self.prefix)
            self._bodies_made = None
            _ = self._bodies  # loaded now, and not while the first reader of a mount waits
        return self._profile

    @cached_property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # found out when first read
        """Probes the server when it is first looked at."""
        known = self.probe()
        return Capabilities(
            writable=known.writable,
            conditional_put=known.conditional_put,
            conditional_get=known.conditional_get,
            conditional_delete=known.conditional_delete,
            server_copy=True,
            uploads=True,
            # Over TLS nothing comes damaged.
            whole_read_bytes=self._part_bytes if known.md5_etags and self._wire.site.scheme == "http" else 0,
            max_metadata_bytes=objects.MAX_METADATA_BYTES - (11 if known.names_count_whole else 0),
            max_key_bytes=MAX_KEY_BYTES - len(self.prefix.encode()),
            max_segment_bytes=_FILE_NAME_BYTES
            if known.writable and Shape.LONG_SEGMENT in known.unheld
            else None,
            concurrency=32,
        )

    @property
    def requests(self) -> dict[str, int]:
        """How many requests were sent so far, by kind: GET, HEAD, PUT, COPY, DELETE, LIST, POST."""
        return self._wire.requests

    # -- what to believe --------------------------------------------------------------------------

    def _expect(self, key: str, etag: str) -> ObjectInfo | None:
        """The object, if it has this etag, or None if there is none. Raises PreconditionFailed."""
        info = etags.look(self.head, key, etag)
        if info is not None and info.etag != etag:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        return info

    def _settled(self, key: str, told: str, expected: str | None, size: int, kept: Mapping[str, str]) -> str:
        """The etag to believe, once the server has been looked at; unprobed, what was told has to do."""
        return told if self._profile is None else etags.settle(self.head, key, told, expected, size, kept)

    def _ended(
        self,
        done: multipart.Done,
        key: str,
        size: int,
        source: multipart.Source | None,
        kept: Mapping[str, str],
    ) -> str:
        """The etag of what was put or copied in parts (`source` is None: its bytes are not known here)."""
        if done.etag is None:
            return self._ours(key, source, kept, done.expected)
        return self._settled(key, done.etag, done.expected if self._md5_etags else None, size, kept)

    def _look_first(self, key: str, conditions: Mapping[str, str]) -> None:
        wanted = conditions.get("if-match")
        info = etags.look(self.head, key, wanted)
        if (info.etag if info is not None else None) != wanted:
            raise PreconditionFailed(f"{key!r} is not what was expected: somebody else was first", key=key)

    def _ours(
        self, key: str, source: multipart.Source | None, kept: Mapping[str, str], etag: str | None
    ) -> str:
        """The etag, if the object is what an earlier try of ours would have made it: by its etag, or by its
        bytes where the etag does not tell (`source` is None: then they are not known here)."""
        info = etags.look(self.head, key, etag)
        if info is not None and info.metadata == dict(kept):
            if etag is not None and info.etag == etag:
                return etag
            if source is not None and not self._md5_etags and self._holds(info, source):
                return info.etag or ""
        raise PreconditionFailed(f"{key!r} is not what was expected: somebody else was first", key=key)

    def _holds(self, info: ObjectInfo, source: multipart.Source) -> bool:
        """Whether an object has these bytes, which is asked only after an answer was lost."""
        if info.size != source.size:
            return False
        condition = info.etag if self._profile is not None and self._profile.conditional_get else None
        for start in range(0, source.size, _COMPARED_BYTES):
            stop = min(start + _COMPARED_BYTES, source.size)
            if self.get(info.key, start, stop, if_match=condition) != source.read(start, stop):
                return False
        return True

    # -- URLs -------------------------------------------------------------------------------------

    def versions(self, key: str) -> list[str]:
        """The ids of the versions that the bucket keeps of this object, newest first."""
        return versions.fetch(self._wire, self._to_read(key))

    def presigned_get(self, key: str, expires_s: int = 3600) -> str:
        """A URL that lets whoever holds it GET this object for so long (S3 allows seven days)."""
        return self._presigned("GET", key, self._to_read(key), expires_s)

    def presigned_put(self, key: str, expires_s: int = 3600) -> str:
        """A URL that lets whoever holds it PUT this object, without metadata, for so long."""
        return self._presigned("PUT", key, self._to_write(key), expires_s)

    def _presigned(self, method: str, key: str, whole: str, expires_s: int) -> str:
        if not 1 <= expires_s <= 604_800:
            raise Unsupported(f"a presigned URL lasts 1 to 604800 seconds, not {expires_s}", key=key)
        url = self._wire.presigned(method, whole, expires_s)
        if url is None:
            raise Unsupported("an anonymous store cannot sign URLs", key=key)
        return url

    def note_unfinished(self, journal: Path) -> None:
        for upload_id, whole in self._wire.unfinished.use(journal).items():
            key = whole.removeprefix(self.prefix)
            self._pool.submit(multipart.abort, self._wire, whole, key, upload_id)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._wire.unfinished.close()
        self._ranges.close()
        self._wire.close()

    # -- inner ------------------------------------------------------------------------------------

    def _to_read(self, key: str) -> str:
        """The whole key; NotFound where this server would take it for another one."""
        whole = self.prefix + key
        check_key(key, whole)
        found = shapes(whole)
        if found:
            known = self._profile
            if known is not None and known.writable:
                if not found.isdisjoint(known.unheld):
                    raise NotFound(key=key)
            elif not probe.exists_exactly(self._wire, whole):
                raise NotFound(key=key)
        return whole

    def _to_write(self, key: str) -> str:
        """The whole key; InvalidKey where this server cannot hold it, or would take it for another one."""
        whole = self.prefix + key
        check_key(key, whole)
        found = shapes(whole)
        if found:
            known = self.probe()
            bad = sorted(found & known.unheld) if known.writable else []
            if bad:
                raise InvalidKey(f"this server cannot hold {key!r}: it has {bad[0]}", key=key)
        return whole

    @property
    def _md5_etags(self) -> bool:
        """Whether the etag of one part is known to be its MD5."""
        return self._profile is not None and self._profile.md5_etags

    @property
    def _signed_bodies(self) -> bool:
        site, known = self._wire.site, self._profile
        trusted = known is not None and known.checksums
        return not (trusted and (site.scheme == "https" or site.loopback))

    @property
    def _bodies(self) -> Bodies:
        made = self._bodies_made
        if made is None or made.site is not self._wire.site:
            with self._lock:
                made = self._bodies_made = Bodies(
                    self._account,
                    self._wire.site,
                    self._patience,
                    self._wire.count,
                    signed_bodies=self._signed_bodies,
                    checksums=self._profile is not None and self._profile.checksums,
                )
        return made

    def _checked(self, key: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
        known = self._profile
        return objects.checked_metadata(key, metadata, known is not None and known.names_count_whole)
