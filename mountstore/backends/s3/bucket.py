"""BucketStore: the contract of store.py on a bucket. See the package for who does what."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, BinaryIO

from mountstore.backends.s3 import listing, multipart, objects, probe
from mountstore.backends.s3.account import Account
from mountstore.backends.s3.bodies import RESERVED, Bodies, Miss, user_metadata
from mountstore.backends.s3.faults import PreconditionAfterRetry
from mountstore.backends.s3.keys import MAX_KEY_BYTES, Shape, check_key, exact_in_obstore, shapes
from mountstore.backends.s3.listing import quoted_etag
from mountstore.backends.s3.wire import Patience, Wire
from mountstore.errors import (
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

MIB = 1 << 20


class BucketStore(ObjectStore):
    """The objects of a bucket whose keys begin with `prefix` (taken as it is: no slash is added).

    Credentials, region and endpoint are found as boto3 finds them (environment, profiles, SSO, web
    identity, instance roles, AWS_ENDPOINT_URL_S3), unless given here; `client` is a boto3 S3 client to
    take them from. `addressing_style` is "path", "virtual" or "auto". Constructing sends nothing;
    `check` looks whether all of it works.

    Objects over `part_bytes` go up in parts, `uploads` at a time over the whole store: no more than
    `part_bytes * uploads` are held for them. Copies over `copy_threshold_bytes` are made in parts of
    `copy_part_bytes`. Every call is tried again until `retry_deadline_s` is over.

    Etags are those of S3, in quotes. `mtime_ns` is the server's time of the object, to the second or
    millisecond; in the answer of a put it is this machine's clock. A conditional put whose answer was
    lost is not taken for a conflict: the object is looked at, and if it is what was being put, it is ours.

    A whole object of up to `part_bytes` that was read is compared with its etag, where the probe found
    that etags are MD5s. S3 tells no checksum of a range, so ranges rely on TLS or TCP. Where a server
    does not honour conditions at the end of a multipart upload, the object is looked at just before.
    """

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
            max_metadata_bytes=objects.MAX_METADATA_BYTES - (11 if known.names_count_whole else 0),
            max_key_bytes=MAX_KEY_BYTES - len(self.prefix.encode()),
            max_segment_bytes=255 if known.writable and Shape.LONG_SEGMENT in known.unheld else None,
            concurrency=32,
        )

    @property
    def requests(self) -> dict[str, int]:
        """How many requests were sent so far, by kind: GET, HEAD, PUT, COPY, DELETE, LIST, POST."""
        return self._wire.requests

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        whole = self._to_read(key)
        if not exact_in_obstore(whole):
            return objects.head(self._wire, whole, key)
        try:
            result = self._bodies.head(whole, key)
        except Miss as miss:
            return objects.head(self._wire, whole, key, tries=miss.tries)
        meta = result.meta
        return ObjectInfo(
            key,
            meta["size"],
            objects.ns(meta["last_modified"]),
            quoted_etag(meta["e_tag"] or ""),
            user_metadata(result),
        )

    def get(
        self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
    ) -> Data:
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"[{start}, {stop}) is no range", key=key)
        if if_match is not None and not self.probe().conditional_get:
            raise Unsupported("this server does not honour If-Match on GET", key=key)
        whole = self._to_read(key)
        if start == stop:
            return self._nothing(key, start, if_match)
        tries = 0
        if exact_in_obstore(whole):
            try:
                data, result = self._bodies.get(whole, key, start, stop, if_match)
            except Miss as miss:
                tries = miss.tries
            else:
                size = result.meta["size"]
                end = size if stop is None else min(stop, size)
                if len(data) == end - start and result.range[0] == start:
                    view = memoryview(data)
                    if start or end < size or self._is_intact(view, result.meta["e_tag"]):
                        return view
                tries = 1
        try:
            return objects.get(self._wire, whole, key, start, stop, if_match, tries=tries)
        except InvalidRange:
            return self._nothing(key, start, if_match)
        except objects.Suspect as suspect:
            if suspect.encrypted:
                return suspect.data[start:stop]
            if self._profile is not None and self._profile.md5_etags:
                raise suspect.error from None
            self._etags_are_md5 = False
            return suspect.data[start:stop]

    def _nothing(self, key: str, start: int, if_match: str | None) -> Data:
        info = self.head(key)
        if if_match is not None and info.etag != if_match:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        if start > info.size:
            raise InvalidRange(f"{key!r} has {info.size} bytes, and {start} lies beyond", key=key)
        return b""

    def _is_intact(self, data: memoryview, etag: str | None) -> bool:
        return not (self._etags_are_md5 and data.nbytes <= self._part_bytes) or objects.matches(data, etag)

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
        check_conditions(key, if_match, if_absent)
        whole = self._to_write(key)
        kept = self._checked(key, metadata)
        if (if_absent or if_match is not None) and not self.probe().conditional_put:
            raise Unsupported("this server does not honour conditions on PUT", key=key)
        source = multipart.Source(data)
        conditions = {"if-match": if_match} if if_match is not None else {}
        if if_absent:
            conditions = {"if-none-match": "*"}
        try:
            if source.size > self._part_bytes:
                etag = self._put_parts(whole, key, source, kept, conditions)
            else:
                body = source.read(0, source.size)
                etag = self._put_body(whole, key, body, kept, conditions, if_match, if_absent)
        except NotFound as error:
            if if_match is None:
                raise
            raise PreconditionFailed(f"{key!r} is not there any more", key=key) from error
        return ObjectInfo(key, source.size, time.time_ns(), quoted_etag(etag), kept)

    def _put_body(
        self,
        whole: str,
        key: str,
        body: Data,
        kept: Mapping[str, str],
        conditions: Mapping[str, str],
        if_match: str | None,
        if_absent: bool,
    ) -> str:
        tries = 0
        if exact_in_obstore(whole) and RESERVED.isdisjoint(kept):
            try:
                etag = self._bodies.put(whole, key, body, kept, if_match, if_absent)
            except Miss as miss:
                tries = miss.tries
            else:
                if etag:
                    return etag
        try:
            return objects.put(
                self._wire, whole, key, body, kept, conditions, signed=self._signed_bodies, tries=tries
            )
        except PreconditionAfterRetry:
            return self._ours(key, len(body), kept, objects.md5_etag(body))

    def _put_parts(
        self,
        whole: str,
        key: str,
        source: multipart.Source,
        kept: Mapping[str, str],
        conditions: Mapping[str, str],
    ) -> str:
        known = self.probe()
        if conditions and not known.conditional_complete:
            self._look_first(key, conditions)
        done = multipart.upload(
            self._wire,
            self._pool,
            whole,
            key,
            source,
            self._part_bytes,
            objects.metadata_headers(kept),
            conditions,
            signed_bodies=self._signed_bodies,
            checksums=known.checksums,
        )
        return self._ours(key, source.size, kept, done.etag) if isinstance(done, multipart.Lost) else done

    def _look_first(self, key: str, conditions: Mapping[str, str]) -> None:
        try:
            etag = self.head(key).etag
        except NotFound:
            etag = None
        if etag != conditions.get("if-match"):
            raise PreconditionFailed(f"{key!r} is not what was expected: somebody else was first", key=key)

    def _ours(self, key: str, size: int, kept: Mapping[str, str], etag: str | None) -> str:
        """The etag, if the object is what an earlier try of ours would have made it."""
        try:
            info = self.head(key)
        except NotFound:
            info = None
        if info is None or (info.size, info.metadata, info.etag) != (size, dict(kept), etag):
            raise PreconditionFailed(f"{key!r} is not what was expected: somebody else was first", key=key)
        return info.etag or ""

    def _checked(self, key: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
        known = self._profile
        return objects.checked_metadata(key, metadata, known is not None and known.names_count_whole)

    # -- deleting ---------------------------------------------------------------------------------

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        """Remove the object. S3 does not say whether there was one: without `missing_ok` it is looked for
        first, which costs a request."""
        if if_match is not None and not self.probe().conditional_delete:
            raise Unsupported("this server does not honour If-Match on DELETE", key=key)
        try:
            whole = self._to_read(key)
            if not missing_ok or if_match is not None:
                info = self.head(key)
                if if_match is not None and info.etag != if_match:
                    raise PreconditionFailed(f"{key!r} has changed", key=key)
            headers = {"if-match": if_match} if if_match is not None else {}
            self._wire.request("DELETE", "DELETE", whole, headers=headers, shown_key=key)
        except NotFound:
            if not missing_ok:
                raise
        except PreconditionAfterRetry:
            # The first try may have deleted it; what is there now, if anything, is not what we looked at.
            if self.exists(key):
                raise

    def delete_many(self, keys: Iterable[str]) -> None:
        """A thousand a request, where XML can carry the key."""
        batch: builtins.list[str] = []
        for key in keys:
            if shapes(self.prefix + key) - {Shape.LONG_SEGMENT}:
                self.delete(key, missing_ok=True)
                continue
            check_key(key, self.prefix + key)
            batch.append(key)
            if len(batch) == 1000:
                objects.delete_batch(self._wire, self.prefix, batch)
                batch = []
        if batch:
            objects.delete_batch(self._wire, self.prefix, batch)

    # -- copying ----------------------------------------------------------------------------------

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Made by the server. Content-Type and its like are kept, also where metadata is given anew."""
        return self._copy(source, target, metadata, if_match)[1]

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        """As in the contract; a version that somebody puts at `source` meanwhile is not deleted, where
        the server honours a condition on DELETE."""
        before, info = self._copy(source, target, None, if_match)
        if source != target:
            condition = before.etag if self.probe().conditional_delete else None
            try:
                self.delete(source, missing_ok=True, if_match=condition)
            except PreconditionFailed:
                return info
        return info

    def _copy(
        self, source: str, target: str, metadata: Mapping[str, str] | None, if_match: str | None
    ) -> tuple[ObjectInfo, ObjectInfo]:
        origin, whole = self._to_read(source), self._to_write(target)
        before, carried = objects.head_with_headers(self._wire, origin, source)
        if if_match is not None and before.etag != if_match:
            raise PreconditionFailed(f"{source!r} has changed", key=source)
        kept = self._checked(target, metadata) if metadata is not None else before.metadata or {}
        headers = {**carried, **objects.metadata_headers(kept)}
        if before.size > self._copy_threshold_bytes:
            done = multipart.copy(
                self._wire,
                self._pool,
                origin,
                before.etag or "",
                whole,
                target,
                before.size,
                self._copy_part_bytes,
                headers,
            )
            etag = (
                self._ours(target, before.size, kept, done.etag) if isinstance(done, multipart.Lost) else done
            )
        elif not before.size:
            # Nothing to copy; and versitygw cannot copy a marker.
            etag = objects.put(self._wire, whole, target, b"", kept, carried, signed=True)
        else:
            etag = objects.copy(self._wire, origin, before.etag or "", whole, target, headers)
        return before, ObjectInfo(target, before.size, time.time_ns(), etag, dict(kept))

    # -- listing ----------------------------------------------------------------------------------

    def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Page:
        begin, behind = self.prefix + prefix, self.prefix + after if after else ""
        return self._page(listing.page(self._wire, begin, delimiter, behind, max(1, limit)))

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        """By continuation tokens, which costs servers less than finding the place again."""
        if limit < 2 or delimiter not in ("", "/"):
            yield from super().pages(prefix, delimiter=delimiter, after=after, limit=limit)
            return
        begin, behind = self.prefix + prefix, self.prefix + after if after else ""
        yield from map(self._page, listing.pages(self._wire, begin, delimiter, behind, limit))

    def _page(self, page: Page) -> Page:
        cut = len(self.prefix)
        if not cut:
            return page
        found = [ObjectInfo(info.key[cut:], info.size, info.mtime_ns, info.etag) for info in page.objects]
        # The store's own prefix is the empty key below itself, which is no key.
        return Page(
            [info for info in found if info.key],
            [name[cut:] for name in page.prefixes if len(name) > cut],
            page.after[cut:] if page.after else None,
        )

    # -- URLs -------------------------------------------------------------------------------------

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

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
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
