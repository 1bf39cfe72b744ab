"""AsyncStore: any store, awaited from trio or from asyncio.

A store is plain blocking code; here each call of it runs in a worker thread (anyio's, so both event
loops are served by the same few lines). One limiter a store bounds the threads that it keeps busy.
Local stores go through threads too: SQLite and files may wait for a disk, and an event loop may not.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, ParamSpec, Self, TypeVar

import anyio
import anyio.to_thread

from mountstore.errors import Unavailable
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, Upload

_KEYS_AT_ONCE = 1000

P = ParamSpec("P")
T = TypeVar("T")


class AsyncStore:
    """The verbs of `store`, awaitable; an async context manager that closes the store.

    Each verb takes, returns and raises what the verb of the same name in `ObjectStore` does. At most
    `limit` calls (by default the store's `capabilities.concurrency`) are under way at once; more wait.

    Cancelling a call that only reads returns at once; its thread ends in the background and its result
    is dropped. Cancelling one that writes waits until the store has answered, so that nothing is
    changed unobserved; the change may then have happened. A file given to `put` must not be used by
    anything else until `put` has returned.

    An AsyncStore belongs to the event loop in which it is first used.
    """

    def __init__(self, store: ObjectStore, *, limit: int | None = None) -> None:
        self.store = store
        self._limiter = anyio.CapacityLimiter(limit or store.capabilities.concurrency)
        self._under_way = 0
        self._closed = False
        self._idle = threading.Condition()

    @property
    def capabilities(self) -> Capabilities:
        return self.store.capabilities

    async def head(self, key: str) -> ObjectInfo:
        return await self._read(self.store.head, key)

    async def stat(self, key: str) -> ObjectInfo:
        return await self._read(self.store.stat, key)

    async def get(
        self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
    ) -> Data:
        return await self._read(self.store.get, key, start, stop, if_match=if_match)

    async def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return await self._write(
            self.store.put, key, data, metadata=metadata, if_match=if_match, if_absent=if_absent
        )

    async def put_changes(
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
        return await self._write(
            self.store.put_changes,
            key,
            data,
            changed,
            source=source,
            source_etag=source_etag,
            metadata=metadata,
            if_match=if_match,
            if_absent=if_absent,
        )

    async def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> AsyncUpload:
        return AsyncUpload(self, await self._write(self.store.start_upload, key, metadata=metadata))

    async def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        await self._write(self.store.delete, key, missing_ok=missing_ok, if_match=if_match)

    async def list(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Page:
        return await self._read(self.store.list, prefix, delimiter=delimiter, after=after, limit=limit)

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> AsyncIterator[Page]:
        """All pages of a listing, each fetched when it is asked for."""
        # The store's own generator: some go on from where they are far faster than from a key.
        pages = self.store.pages(prefix, delimiter=delimiter, after=after, limit=limit)
        return _Pages(lambda: self._read(next, pages, None))

    def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """All keys that start with `prefix`, in order, fetched page by page."""
        # Not those of `pages`: a store that needs not look at each object for this does not.
        keys = self.store.keys(prefix)
        return _Keys(lambda: self._read(lambda: [*itertools.islice(keys, _KEYS_AT_ONCE)]))

    async def exists(self, key: str) -> bool:
        return await self._read(self.store.exists, key)

    async def head_many(self, keys: Iterable[str]) -> dict[str, ObjectInfo]:
        return await self._read(self.store.head_many, keys)

    async def head_or_get_many(self, keys: Iterable[str]) -> dict[str, tuple[ObjectInfo, Data | None]]:
        return await self._read(self.store.head_or_get_many, keys)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        return await self._write(self.store.copy, source, target, metadata=metadata, if_match=if_match)

    async def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        return await self._write(self.store.rename, source, target, if_match=if_match)

    async def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        return await self._write(self.store.update_metadata, key, metadata, if_match=if_match)

    async def delete_many(self, keys: Iterable[str]) -> None:
        await self._write(self.store.delete_many, keys)

    async def run(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A function that reads from the store, in a worker thread as the verbs are; cancellable as they."""
        return await self._read(verb, *args, **kwargs)

    async def usage(self, prefix: str = "") -> tuple[int, int]:
        return await self._read(self.store.usage, prefix)

    async def aclose(self) -> None:
        """Close the store once no call is under way, reads that were cancelled included.

        Not cancellable: a store is closed even when its user was cancelled.
        """
        with anyio.CancelScope(shield=True):
            # Not under the limiter: calls that it holds back must not keep the store open for ever.
            await anyio.to_thread.run_sync(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _read(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(self._counted, functools.partial(verb, *args, **kwargs))
        return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)

    async def _write(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(self._counted, functools.partial(verb, *args, **kwargs))
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)

    def _counted(self, call: Callable[[], T]) -> T:
        with self._idle:
            # Also met by a cancelled read whose thread starts only now; nobody sees the error then.
            if self._closed:
                raise Unavailable("this store has been closed")
            self._under_way += 1
        try:
            return call()
        finally:
            with self._idle:
                self._under_way -= 1
                if not self._under_way:
                    self._idle.notify_all()

    def _close(self) -> None:
        with self._idle:
            self._idle.wait_for(lambda: not self._under_way)
            self._closed = True
        self.store.close()


class AsyncUpload:
    """An `Upload`, awaited; its calls count among those of its store."""

    def __init__(self, store: AsyncStore, upload: Upload) -> None:
        self._store = store
        self._upload = upload
        self.part_bytes = upload.part_bytes

    async def put_part(self, number: int, read: Callable[[], Data]) -> None:
        """Send what `read` gives; it is called in the thread that sends it."""
        await self._store._write(lambda: self._upload.put_part(number, read()))

    async def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        return await self._store._write(self._upload.finish, if_match=if_match, if_absent=if_absent)

    async def abort(self) -> None:
        await self._store._write(self._upload.abort)


# Classes, not async generators: those, left half way, are finished late and with a warning by trio.


class _Pages(AsyncIterator[Page]):
    def __init__(self, fetch: Callable[[], Awaitable[Page | None]]) -> None:
        self._fetch = fetch
        self._ended = False

    async def __anext__(self) -> Page:
        page = None if self._ended else await self._fetch()
        if page is None:
            raise StopAsyncIteration
        self._ended = page.after is None  # known without another hop
        return page


class _Keys(AsyncIterator[str]):
    def __init__(self, fetch: Callable[[], Awaitable[list[str]]]) -> None:
        self._fetch = fetch
        self._ready: list[str] = []
        self._ended = False

    async def __anext__(self) -> str:
        if not self._ready:
            if not self._ended:
                self._ready = await self._fetch()
                self._ended = len(self._ready) < _KEYS_AT_ONCE  # known without another hop
                self._ready.reverse()
            if not self._ready:
                raise StopAsyncIteration
        return self._ready.pop()
