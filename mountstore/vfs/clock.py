"""What time it is for a file."""

from __future__ import annotations

import functools
import os


@functools.cache
def _file() -> int:
    return os.memfd_create("mountstore-clock")


def file_time_ns() -> int:
    """The wall clock as the kernel has it for files, in ns since 1970, for times of access and modification.

    touch(1) leaves the time to the kernel, and pyfuse3 does not tell what that sends from a time that a user
    chose. From a finer clock, a file that is touched after another was made would be older than that; from
    the clock of the last tick, a file that is made after another was touched, as Linux gives finer times
    since 6.13 to files that somebody looks at. So a file in memory is touched and looked at.

    Not for the time of change, which the kernel never sends, and by which a version is told from the one
    before it.
    """
    os.utime(_file())
    return os.fstat(_file()).st_mtime_ns
