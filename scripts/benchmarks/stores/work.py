"""What is done with every store: many small objects and a few large ones, put, read and listed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

KIB, MIB = 1 << 10, 1 << 20

Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}

ROWS = ("put", "get", "list", "large put", "large get")


class Subject(Protocol):
    """An open store, ours or another, in the few verbs that are timed."""

    def put_all(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Put these, one after the other."""

    def get_all(self, keys: Iterable[str]) -> list[bytes]:
        """The content of each of these, read one after the other."""

    def list_all(self) -> list[str] | None:
        """All keys, in any order; None if it cannot list."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do. The keys lie in `folders` folders, or in none if it is 0."""

    small: int
    small_bytes: int
    large: int
    large_bytes: int
    rounds: int
    folders: int = 0


FULL = Sizes(small=3000, small_bytes=KIB, large=2, large_bytes=64 * MIB, rounds=9)
SHORT = Sizes(small=60, small_bytes=KIB, large=1, large_bytes=2 * MIB, rounds=1)


class Wrong(Exception):
    """What a store gave back is not what was put."""


@dataclass(slots=True)
class Seconds:
    """Seconds for one operation, by row, a number a round."""

    of: dict[str, list[float]] = field(default_factory=lambda: {row: [] for row in ROWS})

    def add(self, row: str, seconds: float, count: int) -> None:
        self.of[row].append(seconds / count)

    def median(self, row: str) -> float | None:
        return statistics.median(self.of[row]) if self.of[row] else None


def small_round(subject: Subject, sizes: Sizes, seconds: Seconds, clock: Clock) -> None:
    """Many small objects into an empty store, read again in another order, and listed. Raises Wrong."""
    random_ = random.Random(sizes.small)
    keys = [_key(number, sizes.folders) for number in range(sizes.small)]
    objects = {key: random_.randbytes(sizes.small_bytes) for key in keys}

    begin = clock()
    subject.put_all(objects.items())
    seconds.add("put", clock() - begin, len(keys))

    random_.shuffle(keys)
    begin = clock()
    got = subject.get_all(keys)
    seconds.add("get", clock() - begin, len(keys))
    if len(got) != len(keys) or any(objects[key] != data for key, data in zip(keys, got, strict=True)):
        raise Wrong("small objects came back with other bytes")

    subject.list_all()  # the first may have to find out what a later one knows
    begin = clock()
    listed = subject.list_all()
    seconds.add("list", clock() - begin, len(keys))
    if listed is None:
        del seconds.of["list"][:]
    elif sorted(listed) != sorted(keys):
        raise Wrong(f"{len(listed)} keys were listed of {len(keys)} that were put")


def large_round(subject: Subject, sizes: Sizes, seconds: Seconds, clock: Clock) -> None:
    """A few large objects into an empty store, and read. Raises Wrong."""
    data = random.Random(1).randbytes(MIB) * (sizes.large_bytes // MIB)
    for number in range(sizes.large):
        begin = clock()
        subject.put_all([(f"large{number}", data)])
        seconds.add("large put", clock() - begin, 1)
    for number in range(sizes.large):
        begin = clock()
        got = subject.get_all([f"large{number}"])
        seconds.add("large get", clock() - begin, 1)
        if got != [data]:
            raise Wrong("a large object came back with other bytes")


def _key(number: int, folders: int) -> str:
    return f"d{number % folders:02}/e/key-{number:06}" if folders else f"key-{number:06}"
