"""Who writes into a shared file: a name for this process, by which others see whether it lives."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def _boot() -> str:
    """This boot of this machine, and this namespace of process numbers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def this_owner() -> str:
    """The name of this process, never used again by another."""
    pid = os.getpid()
    return f"{_boot()} {pid} {_started(pid)}"


def is_gone(owner: str) -> bool:
    """Whether the process of this name has certainly ended."""
    boot, space, pid, started = owner.split()
    here_boot, here_space = _boot().split()
    if boot != here_boot:
        return True
    return space == here_space and _started(int(pid)) != started
