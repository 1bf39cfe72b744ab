"""Stores on other machines, mounted: what is written is there for the next mount, which knows nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.cases import StoreCase
from tests.mount.mounting import Mounts
from tests.mount.tools import run
from tests.sshd import Sshd
from tests.sshd import sshd as sshd_server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_server(tmp_path_factory.mktemp("ssh") / "home") as server:
        yield server


def smoke(case: StoreCase, mounts: Mounts) -> None:
    """Write, read, rename, unmount; then the same tree in a mount that has the store alone."""
    mount = mounts(case)
    (mount.root / "folder" / "inner").mkdir(parents=True)
    (mount.root / "folder" / "file").write_bytes(b"content\n")
    (mount.root / "folder" / "inner" / "é ü").write_bytes(b"x" * 100_000)
    (mount.root / "large").write_bytes(os.urandom(3 << 20))
    with (mount.root / "folder" / "file").open("ab") as file:
        file.write(b"appended\n")
    mount.sync()
    os.rename(mount.root / "folder", mount.root / "renamed")
    os.replace(mount.root / "large", mount.root / "renamed" / "larger")
    large = (mount.root / "renamed" / "larger").read_bytes()
    mount.umount()
    mount.remount(fresh_state=True)
    found = run("find", ".", "-type", "f", cwd=mount.root).split("\n")
    assert sorted(filter(None, found)) == ["./renamed/file", "./renamed/inner/é ü", "./renamed/larger"]
    assert (mount.root / "renamed" / "file").read_bytes() == b"content\nappended\n"
    assert (mount.root / "renamed" / "inner" / "é ü").read_bytes() == b"x" * 100_000
    assert (mount.root / "renamed" / "larger").read_bytes() == large
    (mount.root / "renamed" / "file").unlink()
    (mount.root / "renamed" / "larger").write_bytes(b"replaced")
    mount.umount()
    keys = case.keys()
    assert keys["renamed/larger"] == 8
    assert "renamed/file" not in keys


def test_sftp(sshd: Sshd, base: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTSTORE_SSH", sshd.ssh)
    smoke(StoreCase("sftp", sshd.url(base / "store"), {"MOUNTSTORE_SSH": sshd.ssh}), mounts)
    assert (base / "store" / "renamed" / "larger").read_bytes() == b"replaced"
