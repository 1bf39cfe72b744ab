"""Threads that write in the background, with a bound on what waits for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

_log = logging.getLogger("mountstore.stores")
_MOST_JOBS = 64
_CLOSE_S = 3.0
_QUIET_S = 0.2
_LATEST_S = 5.0


class Writers:
    """`count` threads, begun when there is something to do, which end with `close`.

    They stay out of the way of who has them write: they begin once nothing new has come for a moment, or
    when much is waiting, or something for long, and go on then until nothing is left. Writes come first;
    jobs are longer work, done step by step when nothing else waits.
    """

    def __init__(self, count: int, limit_bytes: int) -> None:
        self._count = count
        self._limit = limit_bytes
        self._changed = threading.Condition()  # something is to be begun, or is done
        self._writes: deque[tuple[Callable[[], None], int]] = deque()
        self._jobs: deque[Iterator[None]] = deque()
        self._waiting_bytes = 0
        self._busy = 0
        self._is_begun = False  # what waits is being written, new or not
        self._given_up = 0  # how often jobs were
        self._jobs_run = 0  # those of which a step is being made
        self._hurried = 0  # those who wait for the end
        self._first = self._last = 0.0  # when what waits came
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
                self._begin()
                self._changed.wait()
            self._waiting_bytes += size
            self._writes.append((call, size))
            self._note()
            if self._waiting_bytes * 2 > self._limit:
                self._begin()

    def job(self, steps: Iterator[None]) -> None:
        """Have all steps made, one at a time. Of too many jobs the first is given up; a generator that is
        given up, or that fails, is closed."""
        given_up = None
        with self._changed:
            self._jobs.append(steps)
            if len(self._jobs) > _MOST_JOBS or self._closed:
                given_up = self._jobs.popleft()
            self._note()
            if len(self._jobs) * 2 > _MOST_JOBS:
                self._begin()
        _close(given_up)

    def give_up(self) -> bool:
        """Leave undone what is left of the jobs: they hold files that somebody needs the room of.

        One of which a step is being made is closed after it. False if there was none.
        """
        with self._changed:
            jobs, self._jobs = self._jobs, deque()
            self._given_up += 1
            some = bool(jobs or self._jobs_run)
            self._changed.notify_all()
        for steps in jobs:
            _close(steps)
        return some

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return when nothing is left to do; False after the timeout."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(
                    lambda: not (self._writes or self._jobs or self._busy), timeout=timeout_s
                )
            finally:
                self._hurried -= 1

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

    def _note(self) -> None:
        """Something has come; nobody is woken for it."""
        self._last = time.monotonic()
        if len(self._writes) + len(self._jobs) == 1:
            self._first = self._last
        if len(self._threads) < self._count and not self._closed:
            thread = threading.Thread(target=self._run, name="mountstore-cache", daemon=True)
            self._threads.append(thread)
            thread.start()
        elif len(self._writes) + len(self._jobs) == 1:
            self._changed.notify_all()

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Whether there is something to do now; False when all is over. Under the lock."""
        while True:
            if not self._writes and not self._jobs:
                self._is_begun = False
                if self._closed:
                    return False
                self._changed.wait()
                continue
            now = time.monotonic()
            due = min(self._last + _QUIET_S, self._first + _LATEST_S)
            if self._is_begun or self._hurried or self._closed or now >= due:
                self._is_begun = True
                return True
            self._changed.wait(due - now)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._wait_for_work():
                    return
                call, size = self._writes.popleft() if self._writes else (None, 0)
                steps = self._jobs.popleft() if call is None else None
                given_up = self._given_up
                self._jobs_run += steps is not None
                self._busy += 1
            try:
                if call is not None:
                    call()
                elif steps is not None and self._is_unfinished(steps):
                    with self._changed:
                        is_wanted = not self._closed and given_up == self._given_up
                        if is_wanted:
                            self._jobs.append(steps)
                    if not is_wanted:
                        _close(steps)
            except Exception:
                _log.exception("writing into the cache failed")
                _close(steps)
            finally:
                with self._changed:
                    self._jobs_run -= steps is not None
                    self._busy -= 1
                    self._waiting_bytes -= size
                    self._changed.notify_all()
                del call, steps

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
