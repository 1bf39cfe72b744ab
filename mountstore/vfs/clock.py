"""What time it is for a file."""

from __future__ import annotations

import time

_COARSE = 5  # CLOCK_REALTIME_COARSE of Linux, which the module `time` has no name for


def file_time_ns() -> int:
    """The wall clock at the kernel's last tick, in ns since 1970, for times of access and modification.

    From there come those that the kernel gives to a file itself: touch(1) sends one, and pyfuse3 does not
    tell it from a time that a user chose. From a finer clock, a file that is touched after another was made
    would be older than that.

    Not for the time of change, which the kernel never sends, and by which a version is told from the one
    before it.
    """
    return time.clock_gettime_ns(_COARSE)
