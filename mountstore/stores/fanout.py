"""FanoutStore: the same objects in several stores."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO, TypeVar

from mountstore.backends._arguments import check_key, check_metadata
from mountstore.errors import (
    InvalidKey,
    InvalidRange,
    NotFound,
    PartialFailure,
    PreconditionFailed,
    StoreError,
    Unsupported,
)
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore, Page, check_conditions
from mountstore.stores.agreement import put_right
from mountstore.stores.listing import Entry, entries_of, merged, page_of
from mountstore.stores.reader import Shared
from mountstore.stores.wrapper import common

T = TypeVar("T")

_log = logging.getLogger("mountstore.stores")
_STRIPES = 64
_REFUSALS = (InvalidKey, InvalidRange, PreconditionFailed, Unsupported)
"""Errors that are an answer, so that asking the next child would not help."""


class FanoutStore(ObjectStore):
    """Each object in every one of `children`: writes go to all at once, reads to the first that has it.

    A read asks the next child where one fails or has no such object; NotFound needs the word of all that
    answer, and an error of one that did not is raised rather than a NotFound that is not known. A listing
    is the union of the children that answer; those that do not are logged, and if none does, it fails.

    A write that some children made and some did not raises PartialFailure, which says which. From then on
    this object reads that key only from the children that made it, until `repair`, or the next write of the
    key, has put the others right; a condition on that key is judged once they are, and raises
    PartialFailure until then, so that whoever tries a write again until it succeeds leaves all children
    the same. What another process left behind half done is found by `repair` alone.

    Etags are `N:ETAG`, N being the number of the child that told it. Conditions are decided by that child,
    before the others change anything (without one, by child 0). Writers of one key take turns within this
    object; two processes that write one key at the same moment may leave children that differ, which
    `repair` puts right.
    """

    def __init__(self, children: Iterable[ObjectStore]) -> None:
        self.children: Sequence[ObjectStore] = tuple(children)
        if not self.children:
            raise ValueError("a FanoutStore needs at least one child")
        self._pool = ThreadPoolExecutor(
            max(16, 4 * len(self.children)), thread_name_prefix="mountstore-fanout"
        )
        self._turns = [threading.Lock() for _ in range(_STRIPES)]
        self._behind: dict[str, frozenset[int]] = {}

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return common([child.capabilities for child in self.children])

    @property
    def behind(self) -> Mapping[str, frozenset[int]]:
        """The keys whose last write by this object some children did not make, and which children."""
        return dict(self._behind)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, key: str) -> ObjectInfo:
        return self._first(key, lambda child, number: _told(child.head(key), number))

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        if if_match is None:
            return self._first(key, lambda child, number: child.get(key, start, stop))
        self._need("conditional_get", key)
        number, etag = self._named(key, if_match)
        return self.children[number].get(key, start, stop, if_match=etag)

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        def page(child: ObjectStore, number: int) -> Page:
            return child.list(prefix, delimiter=delimiter, after=after, limit=limit)

        pages: dict[int, Page] = {}
        failed: dict[int, Exception] = {}
        for number, outcome in self._each(page).items():
            if isinstance(outcome, Page):
                pages[number] = outcome
            else:
                failed[number] = outcome
                _log.warning("child %d of a fan-out does not list: %s", number, outcome)
        if not pages:
            raise next(iter(failed.values()))
        # What lies behind the end of a page that goes on is not known of that child.
        ends = [page.after for page in pages.values() if page.after is not None]
        end = min(ends, default=None)
        entries = merged(self._known(number, page, end) for number, page in pages.items())
        whole = page_of(entries, limit)
        return whole if whole.after is not None or end is None else replace(whole, after=end)

    def _known(self, number: int, page: Page, end: str | None) -> Iterator[Entry]:
        for name, info in entries_of([page]):
            if end is not None and name > end:
                return
            if info is None:
                if self._has_group(number, name):
                    yield name, None
            elif number not in self._behind.get(name, ()):
                yield name, _told(info, number)

    def _has_group(self, number: int, group: str) -> bool:
        """Whether a child has more in a group than objects that it should not have any more."""
        old = {key for key, children in self._behind.copy().items() if number in children}
        if not any(key.startswith(group) for key in old):
            return True
        infos = (info for page in self.children[number].pages(group) for info in page.objects)
        return any(info.key not in old for info in infos)

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
        self._check_fits(key, metadata)
        shared = None if isinstance(data, Data) else Shared(data)

        def write(child: ObjectStore, number: int, **condition: object) -> ObjectInfo:
            content = data if shared is None else shared.reader()
            return child.put(key, content, metadata=metadata, **condition)  # type: ignore[arg-type]

        with self._turn(key):
            done: dict[int, ObjectInfo] = {}
            if if_match is not None or if_absent:
                self._need("conditional_put", key)
                self._settle(key)
                first, etag = (0, None) if if_match is None else self._named(key, if_match)
                if if_absent:
                    self._check_absent(key, first)
                done[first] = write(self.children[first], first, if_match=etag, if_absent=if_absent)
            return self._answer(key, self._everywhere((key,), write, done))

    def delete(self, key: str, *, missing_ok: bool = False, if_match: str | None = None) -> None:
        with self._turn(key):
            try:
                if if_match is not None:
                    self._need("conditional_delete", key)
                    self._settle(key)
                    number, etag = self._named(key, if_match)
                    self.children[number].delete(key, if_match=etag)
                elif not missing_ok:
                    self.head(key)
            except NotFound:
                if not missing_ok:
                    raise
                if if_match is not None:
                    return
            self._everywhere((key,), lambda child, number: child.delete(key, missing_ok=True), {})

    def copy(
        self,
        source: str,
        target: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
    ) -> ObjectInfo:
        self._check_fits(target, metadata)
        with self._turn(source, target):
            self._check_match(source, if_match)
            wrong = self._behind.get(source, frozenset())

            def make(child: ObjectStore, number: int) -> ObjectInfo:
                if number in wrong:
                    raise StoreError(f"it does not have {source!r} as it is now", key=source)
                return child.copy(source, target, metadata=metadata)

            return self._answer(target, self._everywhere((target,), make, {}))

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._check_fits(target, None)
        with self._turn(source, target):
            self._check_match(source, if_match)
            wrong = self._behind.get(source, frozenset())

            def move(child: ObjectStore, number: int) -> ObjectInfo:
                if number in wrong:
                    raise StoreError(f"it does not have {source!r} as it is now", key=source)
                return child.rename(source, target)

            return self._answer(target, self._everywhere((source, target), move, {}))

    def update_metadata(
        self, key: str, metadata: Mapping[str, str], *, if_match: str | None = None
    ) -> ObjectInfo:
        if not self.capabilities.metadata:
            raise Unsupported("not all children keep metadata", key=key)
        return self.copy(key, key, metadata=metadata, if_match=if_match)

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.delete(key, missing_ok=True)

    def close(self) -> None:
        """Close all children, also after one of them failed to."""
        self._pool.shutdown(wait=True)
        with contextlib.ExitStack() as stack:
            for child in self.children:
                stack.callback(child.close)

    # -- repair -----------------------------------------------------------------------------------

    def repair(self, prefix: str = "") -> int:
        """Make all children the same again; the number of objects that were put or removed somewhere.

        Of a key whose last write by this object was partial, the children that made that write are right:
        the object is copied from them, or removed with them. Of any other key the version with the newest
        `mtime_ns` is right (of the first child, if several are as new), and an object that only some
        children have is given to the others: without a record of a deletion, it was a partial put. Contents
        and metadata are compared, by reading them, wherever there are two. All children must answer.
        """
        changed = 0
        names: Iterator[Entry] = merged([entries_of(child.pages(prefix)) for child in self.children])
        for key, _ in names:
            changed += self._repair(key)
        for key in [*self._behind]:
            if key.startswith(prefix):
                changed += self._repair(key)
        return changed

    def _repair(self, key: str) -> int:
        with self._turn(key):
            return self._put_right(key)

    def _settle(self, *keys: str) -> None:
        """Put right what the last write of these keys left behind. Raises PartialFailure."""
        for key in keys:
            try:
                if key in self._behind:
                    self._put_right(key)
            except (StoreError, OSError) as error:
                behind = sorted(self._behind[key])
                raise PartialFailure(
                    f"{key!r} is still not the same in children {behind}: {error}",
                    key=key,
                    failures=[(str(number), error) for number in behind],
                ) from error

    def _put_right(self, key: str) -> int:
        wrong = self._behind.get(key, frozenset())
        changed = put_right(self.children, key, wrong, metadata=self.capabilities.metadata)
        self._behind.pop(key, None)
        return changed

    # -- within -----------------------------------------------------------------------------------

    def _first(self, key: str, ask: Callable[[ObjectStore, int], T]) -> T:
        failed: Exception | None = None
        missing: NotFound | None = None
        behind = self._behind.get(key, frozenset())
        for number, child in enumerate(self.children):
            if number in behind:
                continue
            try:
                return ask(child, number)
            except _REFUSALS:
                raise
            except NotFound as error:
                missing = missing or error
                if behind:
                    break  # this child made the last write, and that was a deletion
            except (StoreError, OSError) as error:
                failed = failed or error
        raise failed or missing or NotFound(key=key)

    def _each(self, call: Callable[[ObjectStore, int], T]) -> dict[int, T | Exception]:
        numbers = range(len(self.children))
        outcomes = self._pool.map(lambda n: _caught(call, self.children[n], n), numbers)
        return dict(zip(numbers, outcomes, strict=True))

    def _everywhere(
        self, keys: Sequence[str], call: Callable[[ObjectStore, int], T], done: dict[int, T]
    ) -> dict[int, T]:
        """Call it on all children but those that are done. Raises what all raise, or PartialFailure."""
        rest = [number for number in range(len(self.children)) if number not in done]
        outcomes = self._pool.map(lambda n: _caught(call, self.children[n], n), rest)
        failed: dict[int, Exception] = {}
        for number, outcome in zip(rest, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failed[number] = outcome
            else:
                done[number] = outcome
        if failed and not done:
            raise next(iter(failed.values()))
        for key in keys:
            if failed:
                self._behind[key] = frozenset(failed)
            else:
                self._behind.pop(key, None)
        if failed:
            which = "; ".join(f"child {number}: {error}" for number, error in failed.items())
            raise PartialFailure(
                f"{keys[-1]!r} was written to {len(done)} of {len(self.children)} children, repair() makes "
                f"them the same; {which}",
                key=keys[-1],
                failures=tuple((str(number), error) for number, error in failed.items()),
            )
        return done

    def _answer(self, key: str, done: Mapping[int, ObjectInfo]) -> ObjectInfo:
        number = min(done)
        info = _told(done[number], number)
        return info if self.capabilities.metadata else replace(info, metadata={})

    def _check_fits(self, key: str, metadata: Mapping[str, str] | None) -> None:
        """What one child could not hold is refused before the others have it."""
        limits = self.capabilities
        size = len(check_key(key))
        if limits.max_key_bytes is not None and size > limits.max_key_bytes:
            raise InvalidKey(f"a key of {size} bytes; these stores hold {limits.max_key_bytes}", key=key)
        if limits.metadata:
            check_metadata(key, metadata, limits.max_metadata_bytes)

    def _check_match(self, key: str, if_match: str | None) -> None:
        if if_match is not None:
            self._settle(key)
        if self.head(key).etag != if_match and if_match is not None:
            raise PreconditionFailed(f"{key!r} has changed", key=key)

    def _check_absent(self, key: str, arbiter: int) -> None:
        behind = self._behind.get(key, frozenset())
        for number, child in enumerate(self.children):
            if number != arbiter and number not in behind and child.exists(key):
                raise PreconditionFailed(f"{key!r} is there already", key=key)

    def _named(self, key: str, etag: str) -> tuple[int, str]:
        """The child and the etag there that an etag of ours stands for; one that is none goes to child 0."""
        number, _, inner = etag.partition(":")
        if number.isdecimal() and int(number) < len(self.children):
            if int(number) in self._behind.get(key, ()):
                raise PreconditionFailed(f"{key!r} has changed", key=key)
            return int(number), inner
        return 0, etag

    def _need(self, name: str, key: str) -> None:
        if not getattr(self.capabilities, name):
            raise Unsupported(f"not all children have {name}", key=key)

    @contextlib.contextmanager
    def _turn(self, *keys: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for stripe in sorted({hash(key) % _STRIPES for key in keys}):
                stack.enter_context(self._turns[stripe])
            yield


def _told(info: ObjectInfo, number: int) -> ObjectInfo:
    return info if info.etag is None else replace(info, etag=f"{number}:{info.etag}")


def _caught(call: Callable[[ObjectStore, int], T], child: ObjectStore, number: int) -> T | Exception:
    try:
        return call(child, number)
    except Exception as error:
        return error
