"""Threads that write in the background, with a bound on what waits for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

_log = logging.getLogger("mountstore.stores")
_MOST_JOBS = 64
_CLOSE_S = 3.0


class Writers:
    """`count` threads, begun when there is something to do, which end with `close`.

    Writes come first; jobs are longer work, done step by step when nothing else waits.
    """

    def __init__(self, count: int, limit_bytes: int) -> None:
        self._count = count
        self._limit = limit_bytes
        self._changed = threading.Condition()
        self._writes: deque[tuple[Callable[[], None], int]] = deque()
        self._jobs: deque[Iterator[None]] = deque()
        self._waiting_bytes = 0
        self._busy = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    @property
    def waiting_bytes(self) -> int:
        """What writes hold that are not made yet."""
        return self._waiting_bytes

    def write(self, size: int, call: Callable[[], None]) -> None:
        """Have `call`, which holds so many bytes, made; waits while too many bytes are waiting."""
        with self._changed:
            while self._waiting_bytes + size > self._limit and self._waiting_bytes and not self._closed:
                self._changed.wait()
            self._waiting_bytes += size
            self._writes.append((call, size))
            self._begin()

    def job(self, steps: Iterator[None]) -> None:
        """Have all steps made, one at a time. Of too many jobs the first is given up; a generator that is
        given up, or that fails, is closed."""
        given_up = None
        with self._changed:
            self._jobs.append(steps)
            if len(self._jobs) > _MOST_JOBS or self._closed:
                given_up = self._jobs.popleft()
            self._begin()
        _close(given_up)

    def give_up(self) -> None:
        """Leave undone what is not begun of the jobs: they hold files that somebody needs the room of."""
        with self._changed:
            jobs, self._jobs = self._jobs, deque()
            self._changed.notify_all()
        for steps in jobs:
            _close(steps)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return when nothing is left to do; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._writes or self._jobs or self._busy), timeout=timeout_s
            )

    def close(self) -> None:
        """Give jobs up, write what waits, and end; no longer than a few seconds."""
        self.give_up()
        self.flush(_CLOSE_S)
        with self._changed:
            self._closed = True
            self._writes.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_CLOSE_S)

    def _begin(self) -> None:
        if len(self._threads) < self._count and not self._closed:
            thread = threading.Thread(target=self._run, name="mountstore-cache", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._writes or self._jobs or self._closed)
                if not self._writes and not self._jobs:
                    return
                call, size = self._writes.popleft() if self._writes else (None, 0)
                steps = self._jobs.popleft() if call is None else None
                self._busy += 1
            try:
                if call is not None:
                    call()
                elif steps is not None and self._is_unfinished(steps):
                    with self._changed:
                        if self._closed:
                            _close(steps)
                        else:
                            self._jobs.append(steps)
            except Exception:
                _log.exception("writing into the cache failed")
                _close(steps)
            finally:
                del call, steps
                with self._changed:
                    self._busy -= 1
                    self._waiting_bytes -= size
                    self._changed.notify_all()

    @staticmethod
    def _is_unfinished(steps: Iterator[None]) -> bool:
        try:
            next(steps)
        except StopIteration:
            return False
        return True


def _close(steps: Iterator[None] | None) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        close()
