"""A limit on what a store holds: exact while this process alone writes to it, whatever fails in between.

What is used is counted by listing when it is first needed, and then kept by each call. So a crash at any
moment, between a put and its accounting too, costs nothing but the next count: there is no record of the
usage that could be wrong. A call that fails without saying whether it was carried out is looked after: its
key is asked for again, then or, if the store is away, before the next answer that depends on it.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import BinaryIO

from mountstore.errors import NotFound, QuotaExceeded, StoreError, UsageError
from mountstore.store import Data, ObjectInfo, ObjectStore
from mountstore.stores.wrapper import WrapperStore

_BATCH = 1000


class QuotaStore(WrapperStore):
    """`inner`, holding at most `limit_bytes` of content; metadata and keys are not counted.

    A put or copy that would go beyond raises QuotaExceeded before `inner` sees a byte, and changes nothing;
    what makes the store smaller is allowed even beyond the limit. Calls that change the same key wait for
    each other, all others run at once; room is reserved while they do. Each put costs one more `head`.
    Other processes must not write to `inner` meanwhile: what they do is counted at the next opening.
    """

    def __init__(self, inner: ObjectStore, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise UsageError(f"a quota of {limit_bytes} bytes makes no sense; give 0 or more")
        super().__init__(inner)
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()  # of the numbers; never held while `inner` works
        self._counting = threading.Lock()
        self._used: int | None = None
        self._reserved = 0
        self._unsettled: dict[str, int] = {}  # key: the size that is counted for it
        self._keys = _KeyLocks()

    def quota(self) -> dict[str, int]:
        """`limit` and `usage`, in bytes."""
        self._count()
        for key in self._doubtful():
            with self._keys.hold(key):
                self._settle(key)
        with self._lock:
            assert self._used is not None
            return {"limit": self.limit_bytes, "usage": self._used}

    def admit(self, key: str, size: int) -> None:
        """Raise QuotaExceeded if a put of `size` bytes would now; reserves nothing."""
        self._count()
        with self._lock:
            fits = (self._used or 0) + self._reserved + size <= self.limit_bytes
        if not fits:
            with self._keys.hold(key):
                old = self._size(key)
                self._reserve(key, size - old)
                self._release(max(0, size - old))
        admit = getattr(self.inner, "admit", None)
        if admit is not None:
            admit(key, size)

    def put(
        self,
        key: str,
        data: Data | BinaryIO,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        size = _size_of(data)
        self._count()
        with self._keys.hold(key), self._change(key, size) as change:
            info = self.inner.put(key, data, metadata=metadata, if_match=if_match, if_absent=if_absent)
            change.done(info.size)
        return info

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        self._count()
        with self._keys.hold(key), self._change(key, 0) as change:
            self.inner.delete(key, missing_ok=missing_ok, if_match=if_match)
            change.done(0)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._count()
        wanted = iter(dict.fromkeys(keys))
        while batch := [*islice(wanted, _BATCH)]:
            with self._keys.hold(*batch), contextlib.ExitStack() as changes:
                sizes = {key: info.size for key, info in self.inner.head_many(batch).items()}
                each = [changes.enter_context(self._change(key, 0, sizes.get(key, 0))) for key in batch]
                self.inner.delete_many(batch)
                for change in each:
                    change.done(0)

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        self._count()
        with self._keys.hold(source, target):
            with self._change(target, self.inner.head(source).size) as change:
                info = self.inner.copy(source, target, metadata=metadata, if_match=if_match)
                change.done(info.size)
            return info

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._count()
        if source == target:
            return self.inner.rename(source, target, if_match=if_match)
        with self._keys.hold(source, target):
            size = self.inner.head(source).size
            # What an overwriting rename needs is never more than what is there.
            with self._change(source, 0, size) as gone, self._change(target, 0) as change:
                info = self.inner.rename(source, target, if_match=if_match)
                gone.done(0)
                change.done(info.size)
            return info

    # -- the numbers ------------------------------------------------------------------------------

    def _count(self) -> None:
        if self._used is not None:
            return
        with self._counting:
            if self._used is None:
                self._used = self.inner.usage()[1]

    def _doubtful(self) -> list[str]:
        with self._lock:
            return [*self._unsettled]

    def _size(self, key: str) -> int:
        """The size of the object of this key, which is locked; 0 if there is none."""
        self._settle(key)
        try:
            return self.inner.head(key).size
        except NotFound:
            return 0

    def _settle(self, key: str) -> None:
        """Count what a call that failed has left of a locked key. Raises if that is not to be had."""
        with self._lock:
            counted = self._unsettled.get(key)
        if counted is None:
            return
        try:
            size = self.inner.head(key).size
        except NotFound:
            size = 0
        with self._lock:
            del self._unsettled[key]
            assert self._used is not None
            self._used += size - counted

    def _reserve(self, key: str, more: int) -> None:
        if more <= 0:
            return
        with self._lock:
            used = (self._used or 0) + self._reserved
            if used + more <= self.limit_bytes:
                self._reserved += more
                return
        left = max(0, self.limit_bytes - used)
        raise QuotaExceeded(f"{key!r} needs {more} bytes, and {left} of {self.limit_bytes} are left", key=key)

    def _release(self, more: int) -> None:
        with self._lock:
            self._reserved -= more

    @contextlib.contextmanager
    def _change(self, key: str, size: int, old: int | None = None) -> Iterator[_Change]:
        """Around a call of `inner` that makes the object of a locked key `size` bytes long."""
        if old is None:
            old = self._size(key)
        else:
            self._settle(key)
        more = max(0, size - old)
        self._reserve(key, more)
        change = _Change()
        try:
            yield change
        finally:
            with self._lock:
                self._reserved -= more
                assert self._used is not None
                if change.size is not None:
                    self._used += change.size - old
                else:
                    # Until somebody knows better, it counts for what it may have become.
                    counted = max(old, size)
                    self._used += counted - old
                    self._unsettled[key] = counted
            if change.size is None:
                with contextlib.suppress(StoreError):  # it stays unsettled, and is asked for later
                    self._settle(key)


class _Change:
    """What became of a call; no size if it failed and that is not known."""

    def __init__(self) -> None:
        self.size: int | None = None

    def done(self, size: int) -> None:
        self.size = size


class _KeyLocks:
    """A lock for each key that is in use, taken in the order of the keys."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for key in sorted(set(keys)):
                stack.enter_context(self._one(key))
            yield

    @contextlib.contextmanager
    def _one(self, key: str) -> Iterator[None]:
        with self._lock:
            lock, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._held[key]
                if users == 1:
                    del self._held[key]
                else:
                    self._held[key] = (lock, users - 1)


def _size_of(data: Data | BinaryIO) -> int:
    if isinstance(data, memoryview):
        return data.nbytes
    if isinstance(data, bytes | bytearray):
        return len(data)
    begin = data.tell()
    size = data.seek(0, io.SEEK_END) - begin
    data.seek(begin)
    return max(0, size)
