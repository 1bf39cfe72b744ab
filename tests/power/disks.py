"""A disk that loses power: a file system on a loop device, shut down by force, mounted again.

The forced shutdown (FS_IOC_SHUTDOWN without a flush of the log) makes the file system forget whatever has not
reached its device; the next mount replays its journal. Nothing is left behind: no mount, no loop device.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mount.mounting import mounted_at
from tests.mount.waiting import wait_until

MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"]}
_XFS_LEAST = 320 << 20  # mkfs.xfs makes none below 300 MiB


def _run(*words: str | Path) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words[0]}: {done.stderr.strip() or done.stdout.strip()}"


def need_disks() -> None:
    """Fail, never skip, where no disk can be made."""
    assert os.geteuid() == 0, "these tests mount file systems of their own: run them as root"
    for program in ("mkfs.ext4", "mkfs.xfs", "xfs_io", "mount", "umount"):
        assert shutil.which(program), f"{program} is missing: install e2fsprogs, xfsprogs and mount"


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system in an image."""

    kind: str
    image: Path
    root: Path

    def cut(self) -> None:
        """The power goes: from now on everything fails, and only what is on the device stays."""
        _run("xfs_io", "-x", "-c", "shutdown", self.root)

    def restore(self) -> None:
        """The power is back; nobody may have a file open there."""
        _run("umount", self.root)
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", self.image, self.root)


@contextlib.contextmanager
def disk(kind: str, folder: Path, *, size: int = 64 << 20) -> Iterator[Disk]:
    """A new, empty file system of this kind, its image and mount point in `folder`."""
    need_disks()
    image, root = folder / f"{kind}.image", folder / f"{kind} disk"
    root.mkdir()
    with open(image, "xb") as file:
        file.truncate(max(size, _XFS_LEAST) if kind == "xfs" else size)
    _run(*MAKE[kind], image)
    made = Disk(kind, image, root)
    made.mount()
    try:
        yield made
    finally:
        while mounted_at(root) is not None:
            # Lazily: whatever a failed test has left open must not keep the mount.
            _run("umount", "-l", root)
        image.unlink()


def stop(pid: int) -> None:
    """Return when no thread of this process runs any more."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_until(
        "the process stands still",
        lambda: all((task / "stat").read_text().rpartition(") ")[2][0] in "Tt" for task in tasks.iterdir()),
    )
