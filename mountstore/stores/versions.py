"""Versions of objects, read in blocks: those that are in the pool, and the others from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from mountstore.backends._arguments import flat
from mountstore.backends._large_bytes import LARGE_BYTES, large_bytes
from mountstore.errors import InvalidRange, PreconditionFailed
from mountstore.store import Capabilities, Data, ObjectInfo, ObjectStore
from mountstore.stores.blocks import digest
from mountstore.stores.flights import Flight, Flights, runs
from mountstore.stores.pool import BlockPool

_NAMES = 65_536
_PATCHED = 16  # blocks of which a small change is made here, not fetched

Names = tuple[str, str]
"""The digests of a key and an etag."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of which version; `size` (None: not known) is that of all of it."""

    key: str
    etag: str
    names: Names
    stop: int
    size: int | None
    pin: str
    is_whole: bool


class _Missing(Exception):
    """A block that was thought to be here is not."""


class Versions:
    """Versions of the objects of `main`, of which blocks of `step` bytes are kept in `pool`."""

    def __init__(self, main: ObjectStore, pool: BlockPool, step: int) -> None:
        self._main = main
        self._pool = pool
        self.step = step
        self._flights = Flights()
        self._names: dict[str, tuple[str, Names]] = {}  # the name last asked for, by key

    @cached_property
    def able(self) -> Capabilities:
        """What `main` can do, which some stores find out when they are first asked."""
        return self._main.capabilities

    def named(self, key: str, etag: str) -> Names:
        """The digests, remembered: the same ones are asked for again and again."""
        known = self._names.get(key)
        if known is not None and known[0] == etag:
            return known[1]
        if len(self._names) >= _NAMES:
            self._names.clear()
        names = digest(key) if known is None else known[1][0], digest(etag)
        self._names[key] = etag, names
        return names

    # -- reading ----------------------------------------------------------------------------------

    def read(self, key: str, etag: str, start: int, stop: int, size: int | None) -> Data:
        """[start, stop) of this version; `size` (None: not known) is that of all of it."""
        step = self.step
        if size is not None and (held := self._held(key, etag, start, stop, size)) is not None:
            return held
        found, first, last, is_brought = self._blocks(key, etag, start, stop, size)
        if last - first == 1:
            whole = found[first]
        elif is_brought and (run := self._run_of(found, first, last)) is not None:
            whole = run
        else:
            whole = b"".join(found[number] for number in range(first, last))
        low, high = start - first * step, stop - first * step
        if low > len(whole):
            raise InvalidRange(f"{key!r} ends before {start}", key=key)
        return whole if not low and high >= len(whole) else memoryview(whole)[low:high]

    def read_one(self, key: str, etag: str, size: int) -> Data:
        """The whole of a version that is one block."""
        pool, known = self._pool, self._names.get(key)
        # As `named`, whose call is a hundredth of a get.
        names = known[1] if known is not None and known[0] == etag else self.named(key, etag)
        pin = pool.pins.mark_of(key)
        data = pool.read(names[0], names[1], 0, pin)
        if data is None:
            found: dict[int, Data] = {}
            is_whole = size <= self.able.whole_read_bytes
            self._bring(Wanted(key, etag, names, size, size, pin, is_whole), [0], found)
            data = found[0]
        return data

    def _held(self, key: str, etag: str, start: int, stop: int, size: int) -> Data | None:
        """A large range of what is all here, each block read to where it belongs; else None."""
        step, pool = self.step, self._pool
        first, last = start // step, -(-stop // step)
        low, high = first * step, min(last * step, size)
        if stop - start < LARGE_BYTES or high < stop:
            return None
        names, pin = self.named(key, etag), pool.pins.mark_of(key)
        if not all(pool.has(*names, number) for number in range(first, last)):
            return None

        def fill(at: int, view: memoryview) -> None:
            data = pool.read(*names, first + at // step, pin, counted=False, into=view)
            if data is None or len(data) != len(view):
                raise _Missing

        try:
            whole = large_bytes(high - low, fill, step)
        except _Missing:
            return None
        return whole if low == start and high == stop else memoryview(whole)[start - low : stop - low]

    def pieces(self, key: str, etag: str, start: int, stop: int) -> list[Data]:
        """As `read`, block by block; `start` is where one begins, `stop` where one or the object ends.

        What was here comes as it was read, and what was not as parts of larger answers.
        """
        found, first, last, _ = self._blocks(key, etag, start, stop, None)
        return [found[number] for number in range(first, last)]

    def _blocks(
        self, key: str, etag: str, start: int, stop: int, size: int | None
    ) -> tuple[dict[int, Data], int, int, bool]:
        """(blocks by number, the first of those wanted, the number behind the last, whether none was here)"""
        step, pool = self.step, self._pool
        names = self.named(key, etag)
        pin = pool.pins.mark_of(key)
        first, last = start // step, max(-(-stop // step), start // step + 1)
        if size is not None:
            first = min(first, max(-(-size // step) - 1, 0))
            last = max(min(last, -(-size // step)), first + 1)
        found: dict[int, Data] = {}
        missing = []
        here = pool.read_run(*names, range(first, last), pin)
        for number in range(first, last):
            if number not in here:
                missing.append(number)
                continue
            found[number] = here[number]
            if len(here[number]) < step:  # the object ends here
                last = number + 1
                break
        if missing:
            # What only is compared with a checksum as a whole is read whole.
            is_whole = start == 0 and stop <= self.able.whole_read_bytes
            if is_whole:
                missing = [*range(first, last)]
            wanted = Wanted(key, etag, names, stop, size, pin, is_whole)
            self._bring(wanted, missing, found)
        return found, first, last, len(missing) == last - first

    @staticmethod
    def _run_of(found: Mapping[int, Data], first: int, last: int) -> Data | None:
        """The answer that all of these blocks were cut from, if it was one."""
        views = [found[number] for number in range(first, last)]
        head = views[0]
        if not isinstance(head, memoryview):
            return None
        if any(not isinstance(view, memoryview) or view.obj is not head.obj for view in views):
            return None
        total = sum(len(view) for view in views)
        whole = memoryview(head.obj)
        # Plain bytes: to views of another format, as those of lent memory are, nothing can be assigned.
        return whole.cast("B") if whole.nbytes == total and whole.itemsize == 1 else None

    def _bring(self, wanted: Wanted, missing: list[int], found: dict[int, Data]) -> None:
        """Have these blocks come, each by one of those who ask, and add them to `found`."""
        while missing:
            mine, others, flight = self._flights.begin(wanted.names, missing)
            try:
                if mine:
                    self._fetch(wanted, mine, flight)
                    found.update(flight.blocks)
            finally:
                self._flights.end(wanted.names, mine, flight)
            for number, other in others.items():
                other.wait()
                if number in other.blocks:
                    found[number] = other.blocks[number]
            missing = [number for number in missing if number not in found]

    def _fetch(self, wanted: Wanted, mine: list[int], flight: Flight) -> None:
        step, pool, names = self.step, self._pool, wanted.names
        epoch = pool.epoch(names[0])
        missing = []
        for number in mine:
            # Perhaps it has come since it was looked for.
            data = pool.read(*names, number, wanted.pin, counted=False) if pool.has(*names, number) else None
            if data is None:
                missing.append(number)
            else:
                flight.blocks[number] = data
        if wanted.is_whole and missing:
            missing = mine
        brought: list[tuple[int, memoryview]] = []
        for low, high in runs(missing):
            stop = high * step if wanted.size is None else min(high * step, wanted.size)
            view = memoryview(flat(self._ask(wanted, low * step, stop, low > mine[0])))
            end = low * step + len(view)
            if wanted.size is not None and end != stop:
                raise PreconditionFailed(f"{wanted.key!r} has changed", key=wanted.key)
            for number in range(low, high):
                piece = view[(number - low) * step : (number - low + 1) * step]
                flight.blocks[number] = piece
                # What ends before its reader thought is not kept: it could be cut short.
                if len(piece) == step or wanted.size is not None or (piece and end >= wanted.stop):
                    brought.append((number, piece))
        flight.land()
        for number, piece in brought:
            pool.insert(*names, number, piece, epoch=epoch, pin=wanted.pin, used=True)

    def _ask(self, wanted: Wanted, start: int, stop: int, may_be_beyond: bool) -> Data:
        key, etag = wanted.key, wanted.etag
        if start == stop:
            stop = start + 1  # nothing is there, but the condition counts
        if self.able.conditional_get:
            try:
                return self._main.get(key, start, stop, if_match=etag)
            except InvalidRange:
                if may_be_beyond:
                    return b""
                raise
        data = self._main.get(key, start, stop)
        if self._main.stat(key).etag != etag:
            raise PreconditionFailed(f"{key!r} has changed", key=key)
        return data

    # -- writing ----------------------------------------------------------------------------------

    def keep(self, key: str, etag: str, data: Data, epoch: int) -> None:
        """Put the whole content of a version into the pool."""
        step, names, pin = self.step, self.named(key, etag), self._pool.pins.mark_of(key)
        if len(data) <= step:
            self._pool.insert(*names, 0, data, epoch=epoch, pin=pin)
            return
        view = memoryview(data)
        for number in range(-(-len(view) // step)):
            piece = view[number * step : (number + 1) * step]
            self._pool.insert(*names, number, piece, epoch=epoch, pin=pin)

    def patched(
        self, data: BinaryIO, changed: Sequence[tuple[int, int]], old: Names, size: int
    ) -> dict[int, bytes]:
        """New content of blocks that are here and were changed in part; none if that is a lot of work."""
        step = self.step
        numbers = {number for low, high in changed for number in range(low // step, -(-high // step))}
        if len(numbers) > _PATCHED:
            return {}
        out = {}
        for number in numbers:
            low, high = number * step, min((number + 1) * step, size)
            before = self._pool.read(*old, number, counted=False) if self._pool.has(*old, number) else None
            if before is None or len(before) < high - low:
                continue
            block = bytearray(before[: high - low])
            for start, stop in changed:
                start, stop = max(start, low), min(stop, high)
                if start < stop:
                    data.seek(start)
                    block[start - low : stop - low] = data.read(stop - start)
            if len(block) == high - low:
                out[number] = bytes(block)
        return out

    def filling(
        self,
        info: ObjectInfo,
        names: Names,
        read: Callable[[int, int], Data | None],
        close: Callable[[], None],
    ) -> Iterator[None]:
        step, pool = self.step, self._pool
        epoch, pin = pool.epoch(names[0]), pool.pins.mark_of(info.key)
        try:
            yield
            for number in range(-(-info.size // step)):
                if pool.has(*names, number):
                    continue
                start, stop = number * step, min((number + 1) * step, info.size)
                data = read(start, stop)
                if data is not None and len(data) == stop - start:
                    pool.insert(*names, number, data, epoch=epoch, pin=pin, at_once=True)
                yield
        finally:
            close()
