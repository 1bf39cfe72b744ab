"""What the kernel says is mounted, and ending a mount.

Nothing here touches the mount itself: one whose daemon hangs would hang its caller too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mountstore.errors import MountError

FSTYPE = "fuse.mountstore"
MOUNTINFO = Path("/proc/self/mountinfo")
_UNMOUNT_TIMEOUT_S = 60
_DETACH, _NOFOLLOW = 2, 8  # umount2(2)


class Busy(MountError):
    """Files or directories below the mount point are in use, so it stays mounted."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of /proc/self/mountinfo (see proc(5))."""

    mountpoint: str
    fstype: str
    source: str
    device: str  # "major:minor"
    options: str


def mounts() -> list[MountEntry]:
    """Every mount of this process's namespace, the one on top of others last."""
    entries = []
    for line in MOUNTINFO.read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) >= 6 and len(tail) >= 2:
            source = _unescape(tail[1])
            entries.append(MountEntry(_unescape(fields[4]), tail[0], source, fields[2], fields[5]))
    return entries


def mount_at(path: str) -> MountEntry | None:
    """The topmost mount at exactly this absolute path, or None."""
    found = None
    for entry in mounts():
        if entry.mountpoint == path:
            found = entry
    return found


def resolve(path: str) -> str:
    """The absolute path of a mount point, without asking the file system that is mounted there."""
    for _ in range(40):
        path = os.path.abspath(path)
        if mount_at(path):
            return path
        head, tail = os.path.split(path)
        path = os.path.join(os.path.realpath(head), tail)
        if mount_at(path) or not os.path.islink(path):
            return path
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise MountError(f"{path}: too many levels of symbolic links")


def holders(mountpoint: str) -> list[str]:
    """Processes with an open file or a working directory in the mount, as "name (pid N)".

    Only those that the caller may look into.
    """
    found = []
    inside = mountpoint.rstrip("/") + "/"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # A process may end, or be somebody else's, while it is looked at: it is then not listed.
        with contextlib.suppress(OSError):
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            for link in links:
                target = _readlink(link)
                if target == mountpoint or target.startswith(inside):
                    name = (process / "comm").read_text(errors="replace").strip()
                    found.append(f"{name} (pid {process.name})")
                    break
    return found


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Take the mount away, now; `lazy`: from sight now, and for good when its last file is closed.

    Raises Busy while something is open in it, MountError if it cannot be done.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), (_DETACH if lazy else 0) | _NOFOLLOW) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise Busy(f"{mountpoint} is in use")
        if mount_at(mountpoint):
            raise MountError(f"cannot unmount {mountpoint}: {os.strerror(number)}")
        return
    command = shutil.which("fusermount3") or shutil.which("fusermount")
    if not command:
        raise MountError("fusermount3 not found: install fuse3 (apt install fuse3)")
    try:
        done = subprocess.run(
            [command, "-u", *(["-z"] if lazy else []), "--", mountpoint],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_UNMOUNT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise MountError(f"{command} -u {mountpoint} took over {_UNMOUNT_TIMEOUT_S} s") from None
    if done.returncode == 0 or not mount_at(mountpoint):
        return
    said = " ".join(done.stderr.split())
    if "busy" in said.lower():
        raise Busy(f"{mountpoint} is in use")
    raise MountError(f"cannot unmount {mountpoint}: {said or f'{command} failed'}")


def _readlink(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _unescape(field: str) -> str:
    """The kernel writes blank, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
