"""What a store counts of its work, and how it pretends that its backend is far away."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Self

from mountstore.errors import UsageError

OPERATIONS = ("info", "load", "store", "delete", "move", "list", "hash", "defrag", "gather")
PARTS = ("", "backend_", "cache_")


class Call:
    """One call that is being measured, as a context; whoever makes it says how many bytes it moved."""

    __slots__ = ("_emulator", "_operation", "_started", "_stats", "volume")

    def __init__(self, stats: Stats, operation: str, emulator: Emulator | None) -> None:
        self._stats, self._operation, self._emulator = stats, operation, emulator
        self.volume = 0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._emulator is not None:
            self._emulator.rest(time.perf_counter() - self._started, self.volume)
        self._stats.add(self._operation, time.perf_counter() - self._started, self.volume)


class Stats:
    """Calls, seconds and bytes of each operation: as asked for, at the backend, and at the cache."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def count(self, what: str) -> None:
        with self._lock:
            self._numbers[what] += 1

    def measured(self, operation: str, emulator: Emulator | None = None) -> Call:
        """Count what is done within, whether it fails or not, as slow as the emulator has it."""
        return Call(self, operation, emulator)

    def add(self, operation: str, elapsed_s: float, volume: int) -> None:
        with self._lock:
            self._numbers[f"{operation}_calls"] += 1
            self._numbers[f"{operation}_volume"] += volume
            self._seconds[operation] = self._seconds.get(operation, 0.0) + elapsed_s

    def numbers(self) -> dict[str, int | float]:
        """All of them, those that are 0 too. Times are seconds, throughputs bytes a second."""
        with self._lock:
            numbers, seconds = Counter(self._numbers), dict(self._seconds)
        told: dict[str, int | float] = {}
        for part in PARTS:
            for operation in OPERATIONS:
                name = part + operation
                elapsed, volume = seconds.get(name, 0.0), numbers[f"{name}_volume"]
                told |= {f"{name}_calls": numbers[f"{name}_calls"], f"{name}_time": elapsed}
                told |= {f"{name}_volume": volume, f"{name}_throughput": volume / elapsed if elapsed else 0.0}
        hits, misses = numbers["cache_hits"], numbers["cache_misses"]
        told |= {"cache_hits": hits, "cache_misses": misses, "cache_errors": numbers["cache_errors"]}
        told["cache_hit_ratio"] = hits / (hits + misses) if hits + misses else 0.0
        return told


class Emulator:
    """A backend that answers late: each call takes `latency_us` and its bytes at `bandwidth_bits` a second.

    What a call took by itself counts towards that. From the environment: MOUNTSTORE_LATENCY, or else
    BORGSTORE_LATENCY, in microseconds; MOUNTSTORE_BANDWIDTH, or else BORGSTORE_BANDWIDTH, in bits a second.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.latency_s = _number(environment, "LATENCY") / 1e6
        self.bandwidth_bits = _number(environment, "BANDWIDTH")

    def rest(self, elapsed_s: float, volume: int) -> None:
        """Sleep for what a call that took so long, and moved so many bytes, was too fast."""
        wanted = self.latency_s + (volume * 8 / self.bandwidth_bits if self.bandwidth_bits else 0.0)
        if wanted > elapsed_s:
            time.sleep(wanted - elapsed_s)


def _number(environment: Mapping[str, str], name: str) -> float:
    for variable in (f"MOUNTSTORE_{name}", f"BORGSTORE_{name}"):
        text = environment.get(variable)
        if text:
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{variable} is a whole number, 0 for none")
            return int(text)
    return 0
