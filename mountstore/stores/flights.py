"""Blocks that are on their way, each fetched once however many threads want it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from mountstore.store import Data


class Flight:
    """What one thread fetches: `blocks` are complete, or as many as came, once it has landed."""

    __slots__ = ("_aloft", "_has_landed", "blocks")

    def __init__(self) -> None:
        self.blocks: dict[int, Data] = {}
        self._aloft = threading.Lock()  # an Event takes ten times as long to make
        self._aloft.acquire()
        self._has_landed = False

    def land(self) -> None:
        """By the thread that fetches, once or again."""
        if not self._has_landed:
            self._has_landed = True
            self._aloft.release()

    def wait(self) -> None:
        """Until it has landed."""
        with self._aloft:
            pass


class Flights:
    """Those under way, by the version that blocks are of, and number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[tuple[str, str], int], Flight] = {}

    def begin(
        self, version: tuple[str, str], numbers: Iterable[int]
    ) -> tuple[list[int], dict[int, Flight], Flight]:
        """(those that the caller is to fetch, until `end`; those that others do; the caller's flight)."""
        mine, others, flight = [], {}, Flight()
        with self._lock:
            for number in numbers:
                other = self._flights.get((version, number))
                if other is None:
                    self._flights[version, number] = flight
                    mine.append(number)
                else:
                    others[number] = other
        return mine, others, flight

    def end(self, version: tuple[str, str], mine: Iterable[int], flight: Flight) -> None:
        """However it ended."""
        with self._lock:
            for number in mine:
                del self._flights[version, number]
        flight.land()


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges [first, behind the last) without gaps."""
    first = last = -1
    for number in numbers:
        if number != last:
            if first >= 0:
                yield first, last
            first = number
        last = number + 1
    if first >= 0:
        yield first, last
