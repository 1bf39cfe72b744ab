"""Objects from any store to any other: `sync_stores`, `copy_store`, `clear_store`.

Both listings are read side by side, in key order, a page at a time; what differs goes to a few threads.
So memory is bounded by `workers` times RANGE_BYTES (and what the target needs to put), whatever the number
and size of the objects. Nothing is written down: a run that was broken off is gone on with by running it
again, which finds what is there already by the same comparison.

How two objects of one key and the same size are compared (of two sizes, they differ):

- `content`, the default, looks for proof. Two equal MD5 etags, as S3 has them, are one, and cost nothing.
  Where one side has such an etag, the other is read and hashed. Otherwise both are read, up to the first
  difference. A changed object is found whatever its size and times say; between two stores that are not
  S3, an unchanged one costs as much reading as copying it would.
- `bytes` reads both, always: for those who do not trust MD5.
- `size+mtime` reads nothing: equal, if the target was written after the source. It misses a change whose
  source is older than the target's object, as from clocks that differ or files that were moved into place.

Metadata travels with what is copied; a difference in metadata alone is not looked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from mountstore.errors import MountstoreError, NotFound, PartialFailure, UsageError
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.transfer.objects import COMPARISONS, Compare, copy_object, is_same

__all__ = [
    "COMPARISONS",
    "Compare",
    "Progress",
    "Stopped",
    "TransferSummary",
    "clear_store",
    "copy_object",
    "copy_store",
    "sync_stores",
]

_MOST_FAILURES = 100


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """What was done; in a dry run, what would have been. `failures` are keys and their errors.

    `copied_bytes` is the size of the objects that were copied; `moved_bytes` what was read for that so far,
    with what is under way, was read again or failed; copies that a store made by itself are not in it.
    """

    copied: int = 0
    copied_bytes: int = 0
    moved_bytes: int = 0
    unchanged: int = 0
    deleted: int = 0
    failures: tuple[tuple[str, Exception], ...] = ()
    dry_run: bool = False


Progress = Callable[[TransferSummary], None]
"""Told how far a transfer is, after every range of a large object and after every object; called by its
worker threads, one at a time."""


class Stopped(MountstoreError):
    """The transfer was asked to stop; what it had finished is done."""


@dataclass(slots=True)
class _Run:
    source: ObjectStore
    target: ObjectStore
    source_prefix: str
    target_prefix: str
    compare: Compare
    dry_run: bool
    progress: Progress | None
    stop: threading.Event | None
    summary: TransferSummary = field(default_factory=TransferSummary)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(
        self,
        *,
        copied: int = 0,
        size: int = 0,
        moved: int = 0,
        unchanged: int = 0,
        deleted: int = 0,
        failure: tuple[str, Exception] | None = None,
    ) -> None:
        with self.lock:
            now = self.summary
            self.summary = replace(
                now,
                copied=now.copied + copied,
                copied_bytes=now.copied_bytes + size,
                moved_bytes=now.moved_bytes + moved,
                unchanged=now.unchanged + unchanged,
                deleted=now.deleted + deleted,
                failures=now.failures if failure is None else (*now.failures, failure),
            )
            if self.progress is not None:
                self.progress(self.summary)

    def check_stop(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise Stopped("the transfer was stopped")

    def target_key(self, key: str) -> str:
        return self.target_prefix + key[len(self.source_prefix) :]


def sync_stores(
    source: ObjectStore,
    target: ObjectStore,
    delete: bool = False,
    *,
    compare: Compare = "content",
    source_prefix: str = "",
    target_prefix: str = "",
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    strict: bool = True,
) -> TransferSummary:
    """Make the objects of `target` those of `source`: put what is missing or differs (see the module's
    docstring) and, with `delete`, remove what `source` does not have.

    The objects that begin with `source_prefix` are meant, and go under `target_prefix` instead of it.
    `workers` transfers (by default as many as both stores find worth having, 16 at most) run at once.
    `stop`, once set, ends the run with Stopped as soon as those that are under way have ended.

    An object is read as one version: if it changes meanwhile, it is read again from its beginning. One that
    is deleted meanwhile is left to the next run. An object that cannot be transferred does not keep the
    others from being; at the end, or after 100 such, PartialFailure says which they are, unless `strict` is
    False: then the summary alone does. A listing that fails ends the run with its error; nothing is
    deleted behind the point that it had reached.
    """
    if compare not in COMPARISONS:
        raise UsageError(f"compare is {compare!r}; it can be {', '.join(COMPARISONS)}")
    if source is target and _overlap(source_prefix, target_prefix):
        raise UsageError(
            f"{source_prefix!r} and {target_prefix!r} overlap; a transfer would see its own work"
        )
    run = _Run(source, target, source_prefix, target_prefix, compare, dry_run, progress, stop)
    run.summary = TransferSummary(dry_run=dry_run)
    if workers is None:
        workers = min(16, max(source.capabilities.concurrency, target.capabilities.concurrency))
    try:
        with _Crew(run, max(1, workers)) as crew:
            for key, here, there in _side_by_side(run):
                run.check_stop()
                if here is not None:
                    crew.start(key, _bring, here, there)
                elif there is not None and delete:
                    crew.start(key, _remove, there)
    except _TooManyFailures:
        pass
    if strict and run.summary.failures:
        raise _failure(run.summary)
    return run.summary


def copy_store(
    source: ObjectStore,
    target: ObjectStore,
    *,
    compare: Compare = "content",
    source_prefix: str = "",
    target_prefix: str = "",
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    strict: bool = True,
) -> TransferSummary:
    """Put all objects of `source` into `target`, and leave what else is there: `sync_stores`, never with
    `delete`."""
    return sync_stores(
        source,
        target,
        compare=compare,
        source_prefix=source_prefix,
        target_prefix=target_prefix,
        dry_run=dry_run,
        workers=workers,
        progress=progress,
        stop=stop,
        strict=strict,
    )


def clear_store(
    store: ObjectStore,
    prefix: str = "",
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> TransferSummary:
    """Delete every object whose key begins with `prefix`. The summary counts them."""
    run = _Run(store, store, prefix, prefix, "content", dry_run, progress, stop)
    run.summary = TransferSummary(dry_run=dry_run)
    for page in store.pages(prefix):
        run.check_stop()
        if not dry_run:
            store.delete_many([info.key for info in page.objects])
        run.count(deleted=len(page.objects))
    return run.summary


# -- what the threads do ----------------------------------------------------------------------------------


def _bring(run: _Run, here: ObjectInfo, there: ObjectInfo | None) -> None:
    if there is not None and is_same(
        run.source, here, run.target, there, compare=run.compare, watch=lambda size: run.check_stop()
    ):
        run.count(unchanged=1)
        return
    if run.dry_run:
        run.count(copied=1, size=here.size)
        return
    run.check_stop()

    def moved(size: int) -> None:
        run.check_stop()
        run.count(moved=size)

    try:
        info = copy_object(run.source, here.key, run.target, run.target_key(here.key), progress=moved)
    except NotFound as error:
        if error.key not in (here.key, None):
            raise
        return
    run.count(copied=1, size=info.size)


def _remove(run: _Run, there: ObjectInfo) -> None:
    if not run.dry_run:
        # What somebody put there since the listing was made is not ours to delete.
        condition = there.etag if run.target.capabilities.conditional_delete else None
        run.target.delete(there.key, missing_ok=True, if_match=condition)
    run.count(deleted=1)


# -- the run ----------------------------------------------------------------------------------------------


def _side_by_side(run: _Run) -> Iterator[tuple[str, ObjectInfo | None, ObjectInfo | None]]:
    """All keys of both stores, without their prefixes, in order: (key, at the source, at the target)."""
    # The object that is a prefix itself has no key where the other prefix is empty.
    rootless = bool(run.source_prefix) != bool(run.target_prefix)
    left = _infos(run.source, run.source_prefix, rootless)
    right = _infos(run.target, run.target_prefix, rootless)
    here, there = next(left, None), next(right, None)
    while here is not None or there is not None:
        one = here.key[len(run.source_prefix) :] if here is not None else None
        other = there.key[len(run.target_prefix) :] if there is not None else None
        if other is None or (one is not None and one < other):
            yield one or "", here, None
            here = next(left, None)
        elif one is None or other < one:
            yield other, None, there
            there = next(right, None)
        else:
            yield one, here, there
            here, there = next(left, None), next(right, None)


def _infos(store: ObjectStore, prefix: str, rootless: bool) -> Iterator[ObjectInfo]:
    for page in store.pages(prefix):
        yield from (info for info in page.objects if not rootless or info.key != prefix)


class _Crew:
    """Threads with a short queue; on leaving, everything that was started has ended."""

    def __init__(self, run: _Run, workers: int) -> None:
        self._run = run
        self._most = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mountstore-transfer")
        self._under_way: set[Future[None]] = set()

    def start(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        while len(self._under_way) >= self._most:
            done, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
            self._judge(done)
        self._under_way.add(self._pool.submit(self._guarded, key, work, *arguments))

    def _guarded(self, key: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(self._run, *arguments)
        except Stopped:
            raise
        except (MountstoreError, OSError) as error:
            self._run.count(failure=(key, error))

    def _judge(self, done: set[Future[None]]) -> None:
        for future in done:
            future.result()
        if len(self._run.summary.failures) >= _MOST_FAILURES:
            raise _TooManyFailures

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._judge(self._under_way)


class _TooManyFailures(Exception):
    """What fails so often fails for all: the rest is not tried."""


def _failure(summary: TransferSummary) -> PartialFailure:
    key, error = summary.failures[0]
    done = summary.copied + summary.unchanged + summary.deleted
    return PartialFailure(
        f"{len(summary.failures)} objects could not be transferred ({done} are done), {key!r}: {error}",
        key=key,
        failures=summary.failures,
    )


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
