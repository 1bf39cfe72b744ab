"""Locks on keys that hold among the threads of a process and among processes."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import zlib

STRIPES = 256


def _request(kind: int, stripe: int, count: int = 1) -> bytes:
    return struct.pack("hhqqi", kind, os.SEEK_SET, stripe, count, 0) + bytes(4)


LOCK = [_request(fcntl.F_WRLCK, stripe) for stripe in range(STRIPES)]
UNLOCK = [_request(fcntl.F_UNLCK, stripe) for stripe in range(STRIPES)]


class Held:
    """Some stripes, locked within a `with`. A class, for a generator costs several times as much."""

    __slots__ = ("_file", "_stripes", "_threads")

    def __init__(self, file: int, threads: list[threading.Lock], stripes: tuple[int, ...]) -> None:
        self._file = file
        self._threads = threads
        self._stripes = stripes

    def __enter__(self) -> None:
        taken = 0
        try:
            for stripe in self._stripes:
                self._threads[stripe].acquire()
                taken += 1
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, LOCK[stripe])
        except BaseException:
            self._release(taken)
            raise

    def __exit__(self, *_: object) -> None:
        self._release(len(self._stripes))

    def _release(self, count: int) -> None:
        for stripe in self._stripes[:count]:
            try:
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, UNLOCK[stripe])
            finally:
                self._threads[stripe].release()


class Everything:
    """All stripes, locked within a `with`."""

    __slots__ = ("_file", "_threads")

    def __init__(self, file: int, threads: list[threading.Lock]) -> None:
        self._file = file
        self._threads = threads

    def __enter__(self) -> None:
        taken = 0
        try:
            for thread in self._threads:
                thread.acquire()
                taken += 1
            # In one step: who waits for this holds none of them meanwhile.
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _request(fcntl.F_WRLCK, 0, STRIPES))
        except BaseException:
            self._release(taken)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, 0, STRIPES))
        finally:
            self._release(STRIPES)

    def _release(self, count: int) -> None:
        for thread in self._threads[:count]:
            thread.release()


class KeyLocks:
    """Each key belongs to one of 256 bytes of a lock file; who holds that byte may change the key.

    The byte is locked by the open file (Linux's OFD locks), so that two stores of one process exclude
    each other too, and the kernel lets go when a process dies. Threads of one store queue before that,
    at the one of `threads` that goes with the byte.
    """

    def __init__(self, lock_file: int) -> None:
        self.file = lock_file
        self.threads = [threading.Lock() for _ in range(STRIPES)]

    def hold_all(self) -> Everything:
        """Wait, in a `with`, until nobody anywhere is changing a key, and keep all from beginning to."""
        return Everything(self.file, self.threads)

    def hold(self, *keys: bytes) -> Held:
        """Keep others from changing these keys, in a `with`. Not to be taken again by who holds it."""
        if len(keys) == 1:
            return Held(self.file, self.threads, (zlib.crc32(keys[0]) % STRIPES,))
        # In one order for everybody, so that two calls never wait for each other.
        return Held(self.file, self.threads, tuple(sorted({zlib.crc32(key) % STRIPES for key in keys})))
