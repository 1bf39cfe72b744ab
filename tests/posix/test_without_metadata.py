"""A store that keeps no metadata: said once when it is mounted, and the index keeps what it can."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.cases import StoreCase
from tests.mount.mounting import Mount, Mounts, command


@pytest.fixture
def bare(base: Path) -> Iterator[StoreCase]:
    """A folder on a file system without extended attributes."""
    folder = base / "ram"
    folder.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(folder)], check=True)
    try:
        (folder / "store").mkdir()
        yield StoreCase("file", f"file://{folder}/store")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def said(mount: Mount, *options: str) -> str:
    """What `mountstore mount` tells, and then ends the mount."""
    mount.root.mkdir(exist_ok=True)
    done = command("mount", "--state-dir", mount.state, *options, mount.store, mount.root, env=mount.env)
    command("umount", mount.root, env=mount.env)
    return done.stdout + done.stderr


def test_what_a_store_cannot_keep_is_said_once(
    bare: StoreCase, store_case: StoreCase, mounts: Mounts
) -> None:
    mount = mounts(bare, start=False, name="bare")
    told = said(mount)
    assert told.count("keeps no metadata") == 1, told
    assert len(told.splitlines()) == 1, told
    for lost in (
        "modes",
        "owners",
        "times",
        "symlinks",
        "hard links",
        "extended attributes",
        str(mount.state),
    ):
        assert lost in told
    assert mount.log().count("keeps no metadata") == 1
    assert said(mount, "--read-only") == ""
    assert said(mounts(store_case, start=False)) == ""


def test_the_index_keeps_attributes(bare: StoreCase, mounts: Mounts) -> None:
    mount = mounts(bare)
    file, link = mount.root / "f", mount.root / "l"
    file.write_bytes(b"content")
    file.chmod(0o604)
    link.symlink_to("f")
    mount.umount()
    mount.start()
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert link.readlink() == Path("f")
    mount.umount()
    mount = mounts(bare, name="fresh")
    assert (mount.root / "f").read_bytes() == b"content"
    assert stat.S_IMODE((mount.root / "f").stat().st_mode) == 0o644
    assert (mount.root / "l").read_bytes() == b"f"
