"""A store in a Redis server (6.2 or newer), or in what speaks its protocol and runs its scripts.

All names in the server start with `mountstore/PREFIX/`; what they hold is told in
`mountstore.backends._redis_scripts`. Objects over 4 MiB are several pieces, so their size is not limited
by the server's 512 MB a value. Every change is one step within the server: atomic, in conditions too.

Acknowledged means: the server has it. Whether its own death loses it is decided by its configuration
(`appendonly yes` and `appendfsync always` lose nothing); a server that evicts keys loses objects.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from mountstore.backends import _redis_scripts as scripts
from mountstore.backends._arguments import blocks, check_key, check_metadata, clip_range, flat
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    Corrupted,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    UsageError,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions

PIECE_BYTES = 4 << 20
"""The bytes of one piece; an object up to this size is put and read by one request."""

_UPLOAD_S = 86_400
"""How long pieces of a put that never ends stay."""

_GRACE_S = 60
"""How long pieces of a replaced object stay for those who are reading them."""

_PAGE = 1000
_TRIES = 20


class RedisStore(ObjectStore):
    """The objects below `prefix` in the server of `client`, a `redis.Redis` or a redis:// URL.

    A client that is given stays open and belongs to the caller; it must not decode answers, and should not
    retry by itself (a delete whose answer was lost would be told as NotFound). `options` go to the client
    that is made for a URL: `username`, `password`, `ssl_ca_certs` and what else `redis.Redis` knows.
    """

    capabilities = Capabilities(server_copy=True, atomic_rename=True, max_metadata_bytes=None, concurrency=16)

    def __init__(
        self, client: redis.Redis | str, prefix: str = "", *, timeout_s: float = 30.0, **options: Any
    ) -> None:
        self._owns = isinstance(client, str)
        if isinstance(client, str):
            chosen = {
                "socket_timeout": timeout_s,
                "socket_connect_timeout": timeout_s,
                "retry": Retry(NoBackoff(), 0),
                **options,
            }
            try:
                client = redis.Redis.from_url(client, **chosen)
            except ValueError:
                # What it says may repeat the URL.
                raise BadUrl("a Redis server is named redis://HOST:PORT/DATABASE") from None
        elif options:
            raise UsageError("options belong to a client that is made for a URL")
        made = client.connection_pool.connection_kwargs
        if made.get("decode_responses"):
            raise UsageError("this Redis client decodes answers; make it with decode_responses=False")
        self._client: Any = client  # its methods are typed for its asynchronous twin, too
        self._where = f"the Redis server at {made.get('host') or made.get('path')}:{made.get('port')}"
        self._root = f"mountstore/{quote(prefix, safe=':')}/".encode()
        self._scripts = {
            name: client.register_script(getattr(scripts, name))
            for name in ("PUT", "DELETE", "GET", "RENAME", "UPDATE", "LIST")
        }
        try:
            with self._translated(None):
                self._client.ping()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._owns:
            self._client.close()

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        name = self._object(key)
        with self._translated(key):
            found = self._client.hmget(name, "e", "s", "t", "m")
        if found[0] is None:
            raise NotFound(key=key)
        return _info(key, *found)

    def exists(self, key: str) -> bool:
        name = self._object(key)
        with self._translated(key):
            return bool(self._client.exists(name))

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        raw = check_key(key)
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRange(f"bytes {start} to {stop} of {key!r}", key=key)
        seen = None
        for _ in range(_TRIES):
            last = -1 if stop is None else stop
            said, *found = self._run("GET", key, raw, _condition(if_match, False), start, last, PIECE_BYTES)
            _check(said, key)
            etag, size = found[0], int(found[1])
            if said == b"range":
                clip_range(key, start, stop, size)
            first, behind = clip_range(key, start, stop, size)
            data = found[2] if said == b"ok" else self._pieces(key, etag, first, behind)
            if data is not None and len(data) == behind - first:
                taken: Data = data
                return taken
            if etag == seen:
                raise Corrupted(f"pieces of {key!r} are gone; does the server evict keys?", key=key)
            seen = etag
        raise Unavailable(f"{key!r} is replaced again and again while it is read", key=key)

    def _pieces(self, key: str, etag: bytes, start: int, stop: int) -> Data | None:
        """A range out of several pieces; None if one is gone."""
        content = bytearray(stop - start)
        view = memoryview(content)
        at = start
        while at < stop:
            number, within = divmod(at, PIECE_BYTES)
            end = min(stop, (number + 1) * PIECE_BYTES)
            with self._translated(key):
                data = self._client.getrange(self._piece(etag, number), within, within + end - at - 1)
            if len(data) != end - at:
                return None
            view[at - start : end - start] = data
            at = end
        return content

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        begin, last = prefix.encode(), after.encode()
        low = b"(" + last if last and last >= begin else b"[" + begin
        objects, groups, following = self._run(
            "LIST", None, begin, delimiter.encode(), last, min(limit, _PAGE), low
        )
        infos = []
        for name, size, mtime_ns, etag in objects:
            key = name.decode()
            if etag is None:
                raise Corrupted(f"{key!r} is listed, and is not there; does the server evict keys?", key=key)
            infos.append(ObjectInfo(key, int(size), int(mtime_ns), etag.decode()))
        return Page(infos, [group.decode() for group in groups], following.decode() or None)

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
        raw = check_key(key)
        kept = check_metadata(key, metadata, None)
        etag = secrets.token_hex(12)
        size = count = sent = 0
        only: bytes | None = None  # the first piece, kept until there is a second
        committing = False
        try:
            for block in _blocks(data):
                if count == 0:
                    only = bytes(block)
                else:
                    if only is not None:
                        sent = 1
                        self._upload(key, etag, 0, only)
                        only = None
                    sent = count + 1
                    self._upload(key, etag, count, bytes(block))
                count += 1
                size += len(block)
            mtime_ns = time.time_ns()
            text = json.dumps(kept, separators=(",", ":"))
            rest = [only or b""] if count < 2 else []
            committing = True
            said, *_ = self._run(
                "PUT", key, raw, _condition(if_match, if_absent), etag, size, mtime_ns, text, max(count, 1),
                _GRACE_S, *rest,
            )  # fmt: skip
            committing = False
            if said == b"gone":
                raise Unavailable(f"what was put of {key!r} so far is gone; put it again", key=key)
            _check(said, key, putting=True)
        except BaseException:
            # When the answer to the last step is lost, the pieces may be an object's by now. If they are
            # not, they go by themselves.
            if sent and not committing:
                self._abandon(etag, sent)
            raise
        return ObjectInfo(key, size, mtime_ns, etag, kept)

    def _upload(self, key: str, etag: str, number: int, data: bytes) -> None:
        with self._translated(key):
            self._client.set(self._piece(etag.encode(), number), data, ex=_UPLOAD_S)

    def _abandon(self, etag: str, count: int) -> None:
        """Remove pieces that belong to no object; the server does so later if it cannot be told now."""
        try:
            self._client.unlink(*(self._piece(etag.encode(), number) for number in range(count)))
        except exceptions.RedisError:
            return

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        said, *_ = self._run("DELETE", key, check_key(key), _condition(if_match, False), _GRACE_S)
        if said == b"missing" and missing_ok:
            return
        _check(said, key)

    def delete_many(self, keys: Iterable[str]) -> None:
        wanted = [check_key(key) for key in keys]
        for start in range(0, len(wanted), _PAGE):
            with self._translated(None), self._client.pipeline(transaction=False) as pipeline:
                for raw in wanted[start : start + _PAGE]:
                    self._scripts["DELETE"](args=[self._root, raw, "", _GRACE_S], client=pipeline)
                pipeline.execute()

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        raw = check_key(target)
        kept = None if metadata is None else check_metadata(target, metadata, None)
        if source == target:
            if kept is None:
                return self.rename(source, source, if_match=if_match)
            said, *found = self._run(
                "UPDATE", source, raw, _condition(if_match, False), json.dumps(kept, separators=(",", ":"))
            )
            _check(said, source)
            return _info(target, *found)
        for _ in range(_TRIES):
            info = self.head(source)
            if if_match is not None and info.etag != if_match:
                raise PreconditionFailed(f"{source!r} has changed", key=source)
            assert info.etag is not None
            new = kept if kept is not None else dict(info.metadata or {})
            etag = secrets.token_hex(12)
            count = max(1, -(-info.size // PIECE_BYTES))
            if not self._copy_pieces(source, info.etag, etag, count):
                continue  # replaced meanwhile
            mtime_ns = time.time_ns()
            text = json.dumps(new, separators=(",", ":"))
            said, *_ = self._run("PUT", target, raw, "", etag, info.size, mtime_ns, text, count, _GRACE_S)
            if said == b"gone":
                continue
            return ObjectInfo(target, info.size, mtime_ns, etag, new)
        raise Unavailable(f"{source!r} is replaced again and again while it is copied", key=source)

    def _copy_pieces(self, key: str, source: str, target: str, count: int) -> bool:
        """Copy within the server; False if a piece is gone."""
        with self._translated(key), self._client.pipeline(transaction=False) as pipeline:
            for number in range(count):
                new = self._piece(target.encode(), number)
                pipeline.copy(self._piece(source.encode(), number), new)
                pipeline.expire(new, _UPLOAD_S)
            done = pipeline.execute()
        if all(done[::2]):
            return True
        self._abandon(target, count)
        return False

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        raw, new = check_key(source), check_key(target)
        said, *found = self._run("RENAME", source, raw, _condition(if_match, False), new, _GRACE_S)
        _check(said, source)
        return _info(target, *found)

    # -- within -----------------------------------------------------------------------------------

    def _object(self, key: str) -> bytes:
        return self._root + b"o/" + check_key(key)

    def _piece(self, etag: bytes, number: int) -> bytes:
        return self._root + b"d/%s/%d" % (etag, number)

    def _run(self, script: str, key: str | None, *arguments: Any) -> Any:
        with self._translated(key):
            return self._scripts[script](args=[self._root, *arguments])

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        """The one table from the client's errors to ours, in words that hold no secrets."""
        try:
            yield
        except (exceptions.AuthenticationError, exceptions.AuthorizationError) as error:
            raise AccessDenied(f"{self._where} refuses the user or the password", key=key) from error
        except exceptions.NoPermissionError as error:
            raise AccessDenied(f"{self._where} does not allow this to the user", key=key) from error
        except exceptions.ReadOnlyError as error:
            raise AccessDenied(f"{self._where} is a replica, which cannot be written to", key=key) from error
        except exceptions.OutOfMemoryError as error:
            raise StoreFull(f"{self._where} has no memory left", key=key) from error
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            raise Unavailable(f"{self._where} cannot be reached or does not answer", key=key) from error
        except exceptions.RedisError as error:
            raise _other(self._where, error, key) from error


def _other(where: str, error: exceptions.RedisError, key: str | None) -> StoreError:
    text = str(error)
    if "OOM" in text:
        return StoreFull(f"{where} has no memory left", key=key)
    if "NOAUTH" in text or "NOPERM" in text or "WRONGPASS" in text:
        return AccessDenied(f"{where} refuses this user", key=key)
    if "MISCONF" in text or "BUSY" in text or "LOADING" in text or "TRYAGAIN" in text:
        return Unavailable(f"{where} takes no changes at the moment", key=key)
    if "WRONGTYPE" in text:
        return Corrupted(f"{where} holds something else under a name of this store", key=key)
    return StoreError(f"{where} answers with an error: {text.splitlines()[0] if text else 'none'}", key=key)


def _condition(if_match: str | None, if_absent: bool) -> str:
    if if_absent:
        return "!"
    return "" if if_match is None else f"={if_match}"


def _check(said: bytes, key: str, *, putting: bool = False) -> None:
    if said == b"exists":
        raise PreconditionFailed(f"{key!r} is there already", key=key)
    if said == b"changed" or (said == b"missing" and putting):
        raise PreconditionFailed(f"{key!r} has changed", key=key)
    if said == b"missing":
        raise NotFound(key=key)


def _info(key: str, etag: bytes, size: bytes, mtime_ns: bytes, metadata: bytes) -> ObjectInfo:
    return ObjectInfo(key, int(size), int(mtime_ns), etag.decode(), json.loads(metadata))


def _blocks(data: Data | BinaryIO) -> Iterator[Data]:
    if not isinstance(data, Data):
        yield from blocks(data, PIECE_BYTES)
        return
    view = memoryview(flat(data))
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]
