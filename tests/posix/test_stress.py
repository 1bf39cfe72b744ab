"""stress-ng with --verify: of those stressors that pass on tmpfs, all pass on a mount.

`fsize` passes and complains: a mount has no fallocate (pyfuse3 has no such request), and what stress-ng does
in its place, by writes, takes no notice of their EFBIG.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.cases import LASTING, LONG, make_case
from tests.mount.mounting import Mounts

NAMES = """
access chdir chmod chown copy-file dentry dir dirdeep dirmany fallocate fcntl filename flock fsize fstat
getdent hdd io iomix link locka lockf lockofd mknod open rename symlink sync-file touch utime xattr
"""
STRESSORS = NAMES.split()
SECONDS = 1
AT_ONCE = 4
LIMIT_S = 120.0

# `io` has each file system that it sees synced, also those that other tests broke on purpose.
ALONE = """
findmnt --raw --noheadings --types ext4,xfs,fuse.mountstore --output TARGET | while read -r root; do
    case $1/ in "${root%/}"/*) ;; *) umount --lazy "$root" ;; esac
done
shift
exec "$@"
"""


def stress(folder: Path, name: str) -> str:
    """Run one stressor; what it said, if it found fault, or left something, else nothing."""
    folder.mkdir()
    command = [
        "stress-ng",
        "--verify",
        f"--{name}",
        "1",
        "--timeout",
        f"{SECONDS}s",
        "--temp-path",
        str(folder),
    ]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh", folder, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    left = os.listdir(folder)
    complains = "stress-ng: fail:" in done.stdout and name != "fsize"
    wrong = done.returncode or left or complains or "skipped: 1" in done.stdout
    return f"{name}: exit {done.returncode}, left {left}\n{done.stdout[-2000:]}" if wrong else ""


@pytest.mark.parametrize("kind", LASTING if LONG else ["versitygw"])
def test_stressors_pass(kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts) -> None:
    case = make_case(kind, request, base)
    mount = mounts(case, "--xattr")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        said = [*threads.map(lambda name: stress(mount.root / name, name), STRESSORS)]
    assert not any(said), "\n".join(filter(None, said))
    mount.umount()

    mount = mounts(case, name="fresh")
    found = [str(path) for path in mount.root.rglob("*")]
    assert sorted(found) == sorted(str(mount.root / name) for name in STRESSORS), "what they removed is back"
