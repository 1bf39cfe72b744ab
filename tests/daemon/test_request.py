"""What a mount may be asked to be, and where; and what the kernel says is mounted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mountstore.daemon import mounttab
from mountstore.daemon.logs import printable
from mountstore.daemon.mounttab import holders, mount_at, mounts, resolve
from mountstore.daemon.request import MountRequest, check_apart, check_mountpoint
from mountstore.errors import MountError, UsageError


@pytest.mark.parametrize(
    "bad",
    [
        {"ttl_s": -1.0},
        {"checkpoint_s": float("nan")},
        {"upload_delay_s": -0.1},
        {"uid": -1},
        {"gid": 2**32},
        {"umask": 0o1000},
    ],
)
def test_numbers_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad)).removesuffix("_s")):
        MountRequest(url="memory:", mountpoint="/mnt", **bad)


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    check_mountpoint(str(tmp_path))


def test_a_mount_point_that_is_missing_a_file_full_or_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, said in {
        str(tmp_path / "none"): "does not exist",
        str(tmp_path / "file"): "not a directory",
        str(tmp_path): "not empty",
        "/proc": "in use: proc",
    }.items():
        with pytest.raises(MountError, match=said):
            check_mountpoint(path)


@pytest.mark.parametrize(
    ("mountpoint", "state", "store", "tree", "said"),
    [
        ("/m", "/m/state", None, False, "state directory .* lies in the mount point"),
        ("/m", "/m", None, False, "state directory"),
        ("/s/m", "/s", None, False, "mount point .* lies in the state directory"),
        ("/m", "/s", "/m/objects", True, "store .* lies in the mount point"),
        ("/m", "/s", "/m/file.sqlite", False, "store .* lies in the mount point"),
        ("/o/m", "/s", "/o", True, "mount point .* lies in the store"),
        ("/m", "/m", "/m", True, "lies in"),
        ("/m", "/o/s", "/o", True, "state directory .* lies in the store"),
    ],
)
def test_a_mount_in_itself_is_refused(
    mountpoint: str, state: str, store: str | None, tree: bool, said: str
) -> None:
    with pytest.raises(MountError, match=said):
        check_apart(mountpoint, state_dir=Path(state), store_path=Path(store) if store else None, tree=tree)


def test_places_side_by_side_are_fine() -> None:
    check_apart("/a/m", state_dir=Path("/a/mm"), store_path=Path("/a/m2"), tree=True)
    check_apart("/a/m", state_dir=Path("/s"), store_path=Path("/a/x.sqlite"), tree=False)


def test_mountinfo_is_read_with_its_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"21 1 0:5 / /proc rw,nosuid - proc proc rw\n"
        b"36 35 0:58 / /mnt/a\\040b\\012c rw,nosuid shared:1 master:2 - fuse.mountstore s3://b\\054x rw\n"
        b"37 35 0:59 / /mnt/\xff rw - tmpfs tmpfs rw\n"
        b"38 36 0:60 / /mnt/a\\040b\\012c rw - tmpfs over rw\n"
    )
    monkeypatch.setattr(mounttab, "MOUNTINFO", table)
    entry = mounts()[1]
    assert (entry.mountpoint, entry.fstype) == ("/mnt/a b\nc", "fuse.mountstore")
    assert (entry.source, entry.device) == ("s3://b,x", "0:58")
    top = mount_at("/mnt/a b\nc")
    assert top is not None
    assert top.source == "over"
    assert mount_at(os.fsdecode(b"/mnt/\xff")) is not None
    assert mount_at("/mnt") is None


def test_a_mount_point_is_found_through_symlinks_and_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "parent").symlink_to("real")
    (tmp_path / "link").symlink_to("parent/mnt")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    wanted = os.path.realpath(tmp_path / "real" / "mnt")
    for path in ("real/mnt", "./real/../real/mnt/", "parent/mnt", "link", str(tmp_path / "link")):
        assert resolve(path) == wanted
    with pytest.raises(MountError, match="symbolic links"):
        resolve("loop")


def test_who_holds_a_directory_is_named(tmp_path: Path) -> None:
    assert holders(str(tmp_path)) == []
    with open(tmp_path / "file", "w"):
        found = holders(str(tmp_path))
    assert len(found) == 1
    assert found[0].endswith(f"(pid {os.getpid()})")


def test_what_steers_a_terminal_is_shown_as_an_escape() -> None:
    assert printable("a\x1b[2J\nb\udcff é") == "a\\x1b[2J\\nb\\udcff é"
