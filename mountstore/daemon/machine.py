"""What a daemon asks of the machine: limits, read-ahead, and what C libraries say."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_READ_AHEAD_KB = 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MMAP_BYTES = 2 << 20
_TRIM_BYTES = 16 << 20


@contextlib.contextmanager
def stderr_kept() -> Iterator[list[str]]:
    """libfuse and fusermount3 tell their reasons to file descriptor 2 alone."""
    said: list[str] = []
    saved = os.dup(2)
    kept = os.memfd_create("stderr")
    os.dup2(kept, 2)
    try:
        yield said
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.lseek(kept, 0, os.SEEK_SET)
        said.append(os.read(kept, 65536).decode(errors="replace"))
        os.close(kept)


def raise_read_ahead(device: int) -> None:
    """Let the kernel ask for more than 128 KiB at once when a file is read in sequence."""
    file = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        file.write_text(str(_READ_AHEAD_KB))
    except OSError as error:
        log.debug("%s stays as it is: %s", file, error.strerror)


def raise_file_limit() -> None:
    """Every file that is open in the mount, and every staged one, may cost a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def return_large_memory() -> None:
    """Give the memory of large buffers back to the system as soon as they are freed.

    After the first large one, glibc would keep those of up to 32 MiB in the heap of each thread that has had
    any: 256 MiB that were read in parts of 8 MiB left 346 MB resident instead of 189.

    Blocks of 1 MiB are not large: they come and go all the time, and each that is mapped anew costs 256 page
    faults, a fifth of what it takes to read 256 MiB from the cache on the disk.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
