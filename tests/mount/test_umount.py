"""When a mount ends, the store has everything; how uploads are paced until then."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.mount import workloads
from tests.mount.cases import S3_SERVERS, S3Case, StoreCase, make_case
from tests.mount.mounting import Mounts, command, mounted_at
from tests.mount.proxy import proxied
from tests.mount.source import build_source
from tests.mount.test_native import check_objects
from tests.mount.tools import run
from tests.mount.waiting import wait_until


def has(case: StoreCase, key: str, data: bytes) -> bool:
    return key in case.keys() and case.read(key) == data


def test_umount_drains(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    source = build_source(base / "source", files=300, seed=31)
    mount = mounts(store_case)
    run("cp", "-a", f"{source}/.", mount.root)
    mount.umount()
    assert check_objects(store_case, source) > 300


@pytest.mark.parametrize("how", ["fusermount3", "SIGTERM"])
def test_other_ends_drain_too(how: str, store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    """`fusermount3 -u` is over at once; the daemon stays until the store has everything."""
    source = build_source(base / "source", files=200, seed=32)
    mount = mounts(store_case)
    run("cp", "-a", f"{source}/.", mount.root)
    if how == "SIGTERM":
        os.kill(mount.pid, 15)
    else:
        subprocess.run(["fusermount3", "-u", str(mount.root)], check=True, timeout=60, capture_output=True)
    mount.wait_for_exit()
    assert mounted_at(mount.root) is None
    assert check_objects(store_case, source) > 200


def test_umount_of_a_busy_mount_says_so(bucket_case: S3Case, mounts: Mounts) -> None:
    """A file is open: one line and an error, and the mount works on; closed, it can be ended."""
    mount = mounts(bucket_case)
    with open(mount.root / "open", "wb") as file:
        file.write(b"first")
        file.flush()
        done = command("umount", mount.root, env=mount.env, check=False)
        assert done.returncode > 0
        errors = [line for line in done.stderr.splitlines() if line.startswith("mountstore:")]
        assert len(errors) == 1, done.stderr
        assert "in use" in done.stderr or "busy" in done.stderr
        assert mount.alive()
        file.write(b", then")
    mount.umount()
    assert bucket_case.read("open") == b"first, then"


def test_sync_returns_when_the_store_has_everything(bucket_case: S3Case, base: Path, mounts: Mounts) -> None:
    source = build_source(base / "source", files=200, seed=33)
    mount = mounts(bucket_case)
    run("cp", "-a", f"{source}/.", mount.root)
    mount.sync()
    assert mount.status()["pending_count"] == 0
    assert check_objects(bucket_case, source) > 200
    run("rm", "-rf", *mount.root.iterdir())
    mount.sync()
    assert bucket_case.keys() == {}


def test_close_uploads_by_itself(store_case: StoreCase, mounts: Mounts) -> None:
    """No sync, no umount: what is closed is in the store soon after."""
    mount = mounts(store_case)
    (mount.root / "file").write_text("content")
    wait_until("nothing is pending", lambda: mount.status()["pending_count"] == 0, timeout_s=30)
    mount.kill()  # so nothing but what was already uploaded is in the store
    assert store_case.read("file") == b"content"


def test_fsync_returns_when_the_store_has_it(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    """Killed right after fsync, with the file still open: the store has the bytes."""
    mount = mounts(store_case)
    path = mount.root / "durable"
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        for size in [1000, 3_000_000]:
            data = os.urandom(size)
            os.pwrite(file, data, 0)
            os.fsync(file)
            assert store_case.read("durable") == data
        mount.kill()
        assert store_case.read("durable") == data
    finally:
        with contextlib.suppress(OSError):  # its file system is dead
            os.close(file)


def test_fsync_of_a_new_name_in_a_new_folder(bucket_case: S3Case, mounts: Mounts) -> None:
    mount = mounts(bucket_case)
    (mount.root / "a" / "b").mkdir(parents=True)
    with open(mount.root / "a" / "b" / "tmp", "wb") as file:
        file.write(b"data")
        file.flush()
        os.fsync(file.fileno())
    assert bucket_case.read("a/b/tmp") == b"data"


def test_an_open_dirty_file_is_uploaded_every_checkpoint(bucket_case: S3Case, mounts: Mounts) -> None:
    mount = mounts(bucket_case, "--checkpoint", "1")
    with open(mount.root / "log", "wb", buffering=0) as file:
        for number in range(3):
            file.write(b"line %d\n" % number)
            wanted = b"".join(b"line %d\n" % count for count in range(number + 1))
            wait_until(
                f"line {number} of an open file is in the store",
                partial(has, bucket_case, "log", wanted),
            )


@pytest.mark.parametrize("kind", S3_SERVERS)
def test_write_and_rename_over_is_one_put(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    """Within the delay only the final name is uploaded; a file unlinked in time never is."""
    case = make_case(kind, request, base)
    with proxied(case.env["AWS_ENDPOINT_URL"]) as proxy:
        env = {**case.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        mount = mounts(case, env=env)
        (mount.root / "final").write_text("old")
        mount.sync()
        assert proxy.count("PUT", "final") == 1
        for number in range(5):
            (mount.root / "temporary").write_text(f"new {number}")
            os.rename(mount.root / "temporary", mount.root / "final")
            (mount.root / "scratch").write_text("never seen outside")
            os.unlink(mount.root / "scratch")
        mount.sync()
        assert case.read("final") == b"new 4"
        assert list(case.keys()) == ["final"]
        changed = [one for one in proxy.requests if one.method in ("PUT", "POST", "DELETE") and one.key]
        assert [(one.method, one.key) for one in changed if one.key in ("final", "temporary", "scratch")] == [
            ("PUT", "final"),
            ("PUT", "final"),
        ]
        # Attributes set right after a write travel with it.
        (mount.root / "attributes").write_text("x")
        (mount.root / "attributes").chmod(0o600)
        os.utime(mount.root / "attributes", ns=(1, 2))
        mount.sync()
        assert proxy.count("PUT", "attributes") == 1
        # Reading it back where it was written costs no request at all.
        before = len(proxy.requests)
        assert (mount.root / "attributes").read_text() == "x"
        assert not [one for one in proxy.requests[before:] if one.method == "GET" and one.key == "attributes"]


def test_a_renamed_folder_moves_its_objects(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    source = build_source(base / "source", files=150, seed=34)
    mount = mounts(store_case)
    run("cp", "-a", source, mount.root / "old")
    mount.sync()
    os.rename(mount.root / "old", mount.root / "new")
    os.rename(mount.root / "new" / "dir 00", mount.root / "new" / "dir again")
    os.rename(source / "dir 00", source / "dir again")
    mount.umount()
    wanted = {f"new/{path.relative_to(source)}" for path in source.rglob("*")} | {"new"}
    assert {key.rstrip("/") for key in store_case.keys()} == wanted


def test_folders_that_move_while_they_are_uploaded(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    """Several moves of a tree, at moments when some of it has gone up and some has not: no orphan stays."""
    mount = mounts(store_case)
    chance = random.Random(35)
    local = base / "local"
    for number in range(3):
        root, scratch = mount.root / f"w{number}", local / f"w{number}"
        root.mkdir()
        scratch.mkdir(parents=True)
        workloads.mv(root, scratch)
        time.sleep(chance.uniform(0, 1.2))  # not to wait for something: to meet the uploads anywhere
    mount.umount()
    check_objects(store_case, local)
