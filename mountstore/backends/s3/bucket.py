"""BucketStore: the contract of store.py on a bucket. See the package for who does what."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from mountstore.backends.s3 import etags, listing, multipart, objects
from mountstore.backends.s3.bodies import RESERVED, Miss, user_metadata
from mountstore.backends.s3.core import BucketCore
from mountstore.backends.s3.faults import PreconditionAfterRetry
from mountstore.backends.s3.keys import Shape, check_key, exact_in_obstore, shapes
from mountstore.backends.s3.listing import quoted_etag
from mountstore.backends.s3.ranges import LEAST_BYTES, Odd, Piece
from mountstore.backends.s3.streamed import PartsUpload
from mountstore.errors import (
    Corrupted,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
)
from mountstore.store import Data, ObjectInfo, Page, Upload, check_conditions

if TYPE_CHECKING:
    from obstore import GetResult

_DAMAGED_TRIES = 5  # how often an object is asked for whose bytes come damaged
_SOURCE_TRIES = 4  # how often a copy begins anew because its source has changed
_NO_BYTES = objects.md5_etag(b"")


class BucketStore(BucketCore):
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

    An etag in an answer is believed if it is the one that the content makes (where the probe found that etags
    are MD5s), else when the object, asked for once more, has it too: a request more a put elsewhere.

    A whole object of up to `part_bytes` that was read is compared with its etag, where etags are MD5s. S3
    tells no checksum of a range, so ranges rely on TLS or TCP. Where a server does not honour conditions at
    the end of a multipart upload, the object is looked at just before.
    """

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        info = self._head(key)
        if info.size == 0 and info.etag != _NO_BYTES and self._md5_etags:
            return etags.look(self._head, key, info.etag, _NO_BYTES) or info
        return info

    def _head(self, key: str) -> ObjectInfo:
        whole = self._to_read(key)
        if not exact_in_obstore(whole):
            return objects.head(self._wire, whole, key)
        try:
            result = self._bodies.head(whole, key)
        except Miss as miss:
            return objects.head(self._wire, whole, key, tries=miss.tries)
        return _info(key, result)

    def head_or_get_many(self, keys: Iterable[str]) -> dict[str, tuple[ObjectInfo, Data | None]]:
        found = {}
        for key in keys:
            try:
                found[key] = self._head_or_get(key)
            except NotFound:
                continue
        return found

    def _head_or_get(self, key: str) -> tuple[ObjectInfo, Data | None]:
        whole = self._to_read(key)
        if exact_in_obstore(whole):
            try:
                result, data = self._bodies.get_whole(whole, key)
            except NotFound:
                raise
            except (Miss, StoreError):
                pass  # an archived object, say, has a head and cannot be got
            else:
                info = _info(key, result)
                if 0 < info.size == len(data) and self._is_intact(memoryview(data), info.etag):
                    return info, data
        return self.head(key), None

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"[{start}, {stop}) is no range", key=key)
        if if_match is not None and not self.probe().conditional_get:
            raise Unsupported("this server does not honour If-Match on GET", key=key)
        whole = self._to_read(key)
        if start == stop:
            return self._nothing(key, start, if_match)
        tries = 1
        while True:
            try:
                return self._get_once(whole, key, start, stop, if_match)
            except Corrupted:
                # Damaged on its way, most likely; what is damaged on the server stays so.
                if tries == _DAMAGED_TRIES:
                    raise
                time.sleep(self._wire.patience.wait_s(tries))
                tries += 1

    def _get_once(self, whole: str, key: str, start: int, stop: int | None, if_match: str | None) -> Data:
        tries = 0
        if exact_in_obstore(whole):
            try:
                piece = self._piece(whole, key, start, stop, if_match)
            except Miss as miss:
                tries = miss.tries
            else:
                size = piece.size_bytes
                end = size if stop is None else min(stop, size)
                is_complete = len(piece.data) == end - start and piece.start == start
                in_part = start > 0 or end < size
                if is_complete and (in_part or self._is_intact(piece.data, if_match or piece.etag)):
                    return piece.data
                tries = 1
        try:
            return objects.get(self._wire, whole, key, start, stop, if_match, tries=tries)
        except InvalidRange:
            return self._nothing(key, start, if_match)
        except objects.Suspect as suspect:
            if suspect.encrypted:
                return suspect.data[start:stop]
            if self._md5_etags:
                raise suspect.error from None
            self._etags_are_md5 = False
            return suspect.data[start:stop]

    def _piece(self, whole: str, key: str, start: int, stop: int | None, if_match: str | None) -> Piece:
        if stop is not None and stop - start >= LEAST_BYTES and self._wire.is_plain:
            try:
                return self._ranges.get(whole, start, stop, if_match)
            except Odd as odd:
                raise Miss(0 if odd.refused else 1) from odd
        return self._bodies.get(whole, key, start, stop, if_match)

    def _nothing(self, key: str, start: int, if_match: str | None) -> Data:
        info = self._expect(key, if_match) if if_match is not None else self.head(key)
        if info is None:
            raise NotFound(key=key)
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
                told = self._put_body(whole, key, body, kept, conditions, if_match, if_absent)
                expected = objects.md5_etag(body) if self._md5_etags else None
                etag = self._settled(key, told, expected, source.size, kept)
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
                    return quoted_etag(etag)
        try:
            return objects.put(
                self._wire, whole, key, body, kept, conditions, signed=self._signed_bodies, tries=tries
            )
        except PreconditionAfterRetry:
            return self._ours(key, multipart.Source(body), kept, objects.md5_etag(body))

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
        return self._ended(done, key, source.size, source, kept)

    def put_changes(
        self,
        key: str,
        data: BinaryIO,
        changed: Sequence[tuple[int, int]],
        *,
        source: str,
        source_etag: str,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """As in the contract; the server copies what is the same, in whole parts, if that is most of it."""
        check_conditions(key, if_match, if_absent)
        begin = data.tell()
        content = multipart.Source(data)
        step = multipart.part_size(content.size, self._part_bytes)
        pieces = multipart.plan_changes(content.size, changed, step, self._copy_part_bytes)
        sent = sum(piece.stop - piece.start for piece in pieces if not piece.copied)
        conditional = if_absent or if_match is not None
        if 2 * sent > content.size or (conditional and not self.probe().conditional_put):
            return self.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        whole, kept = self._to_write(key), self._checked(key, metadata)
        conditions = {"if-match": if_match} if if_match is not None else {}
        if if_absent:
            conditions = {"if-none-match": "*"}
        if conditions and not self.probe().conditional_complete:
            self._look_first(key, conditions)
        try:
            done = multipart.upload_changes(
                self._wire,
                self._pool,
                self._to_read(source),
                source_etag,
                whole,
                key,
                content,
                pieces,
                objects.metadata_headers(kept),
                conditions,
                signed_bodies=self._signed_bodies,
            )
        except multipart.CopyRefused as error:
            # Servers tell in more than one way that it is not the version that was meant.
            if self._expect(source, source_etag) is None:
                raise PreconditionFailed(f"{source!r} is not there any more", key=source) from error
            data.seek(begin)
            return self.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
        except NotFound as error:
            if if_match is None:
                raise
            raise PreconditionFailed(f"{key!r} is not there any more", key=key) from error
        etag = self._ended(done, key, content.size, content, kept)
        return ObjectInfo(key, content.size, time.time_ns(), quoted_etag(etag), kept)

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        """As in the contract; what is not finished is aborted by `abort`."""
        kept = self._checked(key, metadata)
        known = self.probe()
        return PartsUpload(
            self._wire,
            self._to_write(key),
            key,
            kept,
            self._part_bytes,
            signed=self._signed_bodies,
            checksums=known.checksums,
            look_first=None if known.conditional_complete else self._look_first,
            ended=self._ended,
        )

    # -- deleting ---------------------------------------------------------------------------------

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        """Remove the object. S3 does not say whether there was one: without `missing_ok` it is looked for
        first, which costs a request."""
        if if_match is not None and not self.probe().conditional_delete:
            raise Unsupported("this server does not honour If-Match on DELETE", key=key)
        try:
            whole = self._to_read(key)
            if not missing_ok or if_match is not None:
                info = self._expect(key, if_match) if if_match is not None else self.head(key)
                if info is None:
                    raise NotFound(key=key)
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
        tries = 0
        while True:
            try:
                return self._copy_once(source, target, metadata, if_match)
            except PreconditionFailed as error:
                # It was changed, or its etag came damaged, between the look at it and the copy.
                tries += 1
                if if_match is not None:
                    raise
                if tries == _SOURCE_TRIES:
                    message = f"{source!r} changes while it is copied: {error}"
                    raise Unavailable(message, key=source) from error

    def _copy_once(
        self, source: str, target: str, metadata: Mapping[str, str] | None, if_match: str | None
    ) -> tuple[ObjectInfo, ObjectInfo]:
        origin, whole = self._to_read(source), self._to_write(target)
        before, carried = objects.head_with_headers(self._wire, origin, source)
        if if_match is not None and before.etag != if_match:
            if self._expect(source, if_match) is None:
                raise NotFound(key=source)
            before = replace(before, etag=if_match)
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
            etag = self._ended(done, target, before.size, None, kept)
        elif not before.size:
            # Nothing to copy; and versitygw cannot copy a marker.
            told = objects.put(self._wire, whole, target, b"", kept, carried, signed=True)
            etag = self._settled(target, told, _NO_BYTES if self._md5_etags else None, 0, kept)
        else:
            told = objects.copy(self._wire, origin, before.etag or "", whole, target, headers)
            # Of an object of one part, which the server has just compared with this etag, it stays the MD5.
            same = before.etag if self._md5_etags and objects.is_md5(before.etag) else None
            etag = self._settled(target, told, same, before.size, kept)
        return before, ObjectInfo(target, before.size, time.time_ns(), etag, dict(kept))

    # -- listing ----------------------------------------------------------------------------------

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        begin, behind = self.prefix + prefix, self.prefix + after if after else ""
        page = listing.page(self._wire, begin, delimiter, behind, max(1, limit))
        if page.after == self.prefix != "":
            # All that it holds is the empty key below ourselves, which is no key and no place to go on from.
            page = listing.page(self._wire, begin, delimiter, self.prefix, max(1, limit))
        return self._page(page)

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


def _info(key: str, result: GetResult) -> ObjectInfo:
    meta = result.meta
    return ObjectInfo(
        key,
        meta["size"],
        objects.ns(meta["last_modified"]),
        quoted_etag(meta["e_tag"] or ""),
        user_metadata(result),
    )
