"""What a store counts of its work, and how it pretends that its backend is far away."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from mountstore.errors import UsageError

OPERATIONS = ("info", "load", "store", "delete", "move", "list", "hash", "defrag", "gather")
PARTS = ("", "backend_", "cache_")


class Call:
    """One call that is being measured; whoever makes it says how many bytes it moved."""

    __slots__ = ("volume",)

    def __init__(self) -> None:
        self.volume = 0


class Stats:
    """Calls, seconds and bytes of each operation: as asked for, at the backend, and at the cache."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def count(self, what: str) -> None:
        with self._lock:
            self._numbers[what] += 1

    @contextlib.contextmanager
    def measured(self, operation: str) -> Iterator[Call]:
        """Count what is done within, whether it fails or not."""
        call, started = Call(), time.perf_counter()
        try:
            yield call
        finally:
            elapsed = time.perf_counter() - started
            with self._lock:
                self._numbers[f"{operation}_calls"] += 1
                self._numbers[f"{operation}_volume"] += call.volume
                self._seconds[operation] = self._seconds.get(operation, 0.0) + elapsed

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

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        if not self.latency_s and not self.bandwidth_bits:
            yield
            return
        started = time.perf_counter()
        try:
            yield
        finally:
            wanted = self.latency_s
            if self.bandwidth_bits:
                wanted += call.volume * 8 / self.bandwidth_bits
            time.sleep(max(0.0, wanted - (time.perf_counter() - started)))


def _number(environment: Mapping[str, str], name: str) -> float:
    for variable in (f"MOUNTSTORE_{name}", f"BORGSTORE_{name}"):
        text = environment.get(variable)
        if text:
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{variable} is a whole number, 0 for none")
            return int(text)
    return 0
