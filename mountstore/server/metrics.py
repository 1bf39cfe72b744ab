"""Counters for Prometheus: how much was asked and answered, never what or by whom."""

from __future__ import annotations

import threading
import time
from collections import Counter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts what a server does. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._in = self._out = 0
        self._connections = self._under_way = 0
        self._started = time.time()

    def connected(self, change: int) -> None:
        with self._lock:
            self._connections += change

    def began(self) -> None:
        with self._lock:
            self._under_way += 1

    def ended(self, verb: str, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        with self._lock:
            self._under_way -= 1
            self._requests[verb, status] += 1
            self._seconds[verb] += seconds  # type: ignore[assignment]  # a Counter counts seconds as well
            self._in += bytes_in
            self._out += bytes_out

    def text(self) -> str:
        """All of them, in the text format of Prometheus."""
        with self._lock:
            lines = ["# TYPE mountstore_requests_total counter"]
            lines += [
                f'mountstore_requests_total{{verb="{verb}",status="{status}"}} {count}'
                for (verb, status), count in sorted(self._requests.items())
            ]
            lines.append("# TYPE mountstore_request_seconds_total counter")
            lines += [
                f'mountstore_request_seconds_total{{verb="{verb}"}} {seconds:.6f}'
                for verb, seconds in sorted(self._seconds.items())
            ]
            for name, kind, value in (
                ("received_bytes_total", "counter", self._in),
                ("sent_bytes_total", "counter", self._out),
                ("connections", "gauge", self._connections),
                ("requests_under_way", "gauge", self._under_way),
                ("start_time_seconds", "gauge", round(self._started)),
            ):
                lines += [f"# TYPE mountstore_{name} {kind}", f"mountstore_{name} {value}"]
        return "\n".join(lines) + "\n"
