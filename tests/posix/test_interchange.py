"""s3fs and rclone read what a mount has written, and a mount reads what they have, on one bucket.

Of gcsfuse there is no server here: its keys are written with boto3.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.mount.cases import S3Case
from tests.mount.mounting import Mounts, detach, mounted_at
from tests.mount.tools import run
from tests.mount.tree import digest
from tests.mount.waiting import wait_until

NS = 10**9
TIME_NS = 1_234_567_890_987_654_321


class Shown(NamedTuple):
    """What both sides have to agree on."""

    mode: str
    uid: int
    gid: int
    mtime_ns: int
    content: str


def shown(root: Path) -> dict[str, Shown]:
    """Everything in a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        there = path.lstat()
        content = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else digest(path)
        mode = stat.filemode(there.st_mode)
        found[str(path.relative_to(root))] = Shown(
            mode, there.st_uid, there.st_gid, there.st_mtime_ns, content
        )
    return found


def fill(root: Path) -> None:
    """Files, directories and symlinks with attributes of their own."""
    (root / "d" / "sub").mkdir(parents=True)
    (root / "empty").mkdir()
    contents = {"a": b"first", "d/private": b"x" * 100_000, "d/sub/ünï": b"", "d/setuid": b"#!"}
    for name, data in contents.items():
        (root / name).write_bytes(data)
    (root / "link").symlink_to("d/private")
    (root / "d" / "dangling").symlink_to("/nowhere/at all")
    for number, (name, mode) in enumerate(
        {"a": 0o600, "d/private": 0o640, "d/sub/ünï": 0o604, "d/setuid": 0o4755}.items()
    ):
        os.chown(root / name, 1000 + number, 2000 + number)
        (root / name).chmod(mode)
        os.utime(root / name, ns=(TIME_NS - number, TIME_NS + number))
    os.lchown(root / "link", 7, 8)
    for number, (name, mode) in enumerate({"d/sub": 0o1777, "d": 0o750, "empty": 0o2755}.items()):
        os.chown(root / name, 3000 + number, 4000 + number)
        (root / name).chmod(mode)
        os.utime(root / name, ns=(TIME_NS, TIME_NS + 50 + number))


@contextmanager
def s3fs(case: S3Case, base: Path) -> Iterator[Path]:
    """The bucket, mounted by s3fs; taken away, and its process gone, afterwards."""
    root = base / "s3fs"
    root.mkdir(exist_ok=True)
    passwords = base / "s3fs-passwords"
    passwords.touch(mode=0o600)
    passwords.write_text(f"{case.env['AWS_ACCESS_KEY_ID']}:{case.env['AWS_SECRET_ACCESS_KEY']}")
    options = f"passwd_file={passwords},url={case.env['AWS_ENDPOINT_URL']},use_path_request_style"
    with open(base / "s3fs.log", "ab") as log:
        process = subprocess.Popen(
            ["s3fs", case.bucket, str(root), "-f", "-o", options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until("s3fs has mounted", lambda: mounted_at(root) or process.poll() is not None, timeout_s=60)
        assert process.poll() is None, (base / "s3fs.log").read_text()[-3000:]
        yield root
        run("fusermount3", "-u", root)
        process.wait(timeout=60)
    finally:
        detach(root)
        if process.poll() is None:
            process.kill()
            process.wait()


def rclone(case: S3Case, *words: str | Path) -> str:
    """Run rclone, with the bucket as `s:`."""
    settings = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "FORCE_PATH_STYLE": "true"}
    settings |= {"ENDPOINT": case.env["AWS_ENDPOINT_URL"], "REGION": "us-east-1", "DIRECTORY_MARKERS": "true"}
    env = case.env | {f"RCLONE_CONFIG_S_{name}": value for name, value in settings.items()}
    return run("rclone", "--config", os.devnull, *words, env=env)


def test_s3fs_reads_what_a_mount_wrote(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    mount = mounts(bucket_case)
    fill(mount.root)
    wanted = shown(mount.root)
    mount.umount()
    with s3fs(bucket_case, base) as root:
        assert shown(root) == wanted


def test_a_mount_reads_what_s3fs_wrote(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    with s3fs(bucket_case, base) as root:
        fill(root)
        wanted = shown(root)
    mount = mounts(bucket_case)
    assert shown(mount.root) == wanted
    assert {one.mtime_ns // NS for name, one in wanted.items() if name in ("a", "d/setuid")} == {
        TIME_NS // NS
    }
    (mount.root / "a").chmod(0o400)
    (mount.root / "d" / "private").write_bytes(b"changed here")
    os.utime(mount.root / "d" / "private", ns=(TIME_NS, TIME_NS))
    (mount.root / "d").rename(mount.root / "moved")
    wanted = shown(mount.root)
    mount.umount()
    with s3fs(bucket_case, base) as root:
        assert shown(root) == wanted


def test_rclone_reads_what_a_mount_wrote(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    mount = mounts(bucket_case)
    fill(mount.root)
    wanted = {name: one for name, one in shown(mount.root).items() if one.mode[0] == "-"}
    mount.umount()
    listed = rclone(bucket_case, "lsf", "-R", "--files-only", "--format", "pst", f"s:{bucket_case.bucket}")
    assert "a;5;2009-02-1" in listed
    target = base / "copied"
    rclone(bucket_case, "copy", "--metadata", f"s:{bucket_case.bucket}", target)
    found = shown(target)
    for name, one in wanted.items():
        # rclone gives no file the setuid bit.
        assert found[name] == one._replace(mode=one.mode.replace("s", "x"))
    # To rclone a symlink is an object of this name; its content is the target, as everywhere.
    assert (target / "link").read_text() == "d/private"
    assert not rclone(bucket_case, "copy", "-v", "--metadata", f"s:{bucket_case.bucket}", target)


def test_a_mount_reads_what_rclone_wrote(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    source = base / "source"
    source.mkdir()
    fill(source)
    options = ["--metadata", "--create-empty-src-dirs"]
    rclone(bucket_case, "copy", *options, source, f"s:{bucket_case.bucket}")
    wanted = {name: one for name, one in shown(source).items() if one.mode[0] == "-"}
    mount = mounts(bucket_case, "--attrs", "stored")
    found = shown(mount.root)
    assert {name: found[name] for name in wanted} == wanted
    directories = {name for name, one in shown(source).items() if one.mode[0] == "d"}
    assert found.keys() == wanted.keys() | directories
    (mount.root / "a").chmod(0o604)
    os.utime(mount.root / "a", ns=(TIME_NS, TIME_NS))
    changed = shown(mount.root)["a"]
    mount.umount()
    target = base / "copied"
    rclone(bucket_case, "copy", "--metadata", f"s:{bucket_case.bucket}", target)
    assert shown(target)["a"] == changed


def test_rclone_without_metadata_has_times(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    source = base / "source"
    source.mkdir()
    fill(source)
    rclone(bucket_case, "copy", source, f"s:{bucket_case.bucket}")
    mount = mounts(bucket_case, "--attrs", "stored", "--file-mode", "640", "--uid", "5", "--gid", "6")
    found = shown(mount.root)
    for name, one in shown(source).items():
        if one.mode[0] == "-":
            assert found[name] == one._replace(mode="-rw-r-----", uid=5, gid=6)


def test_links_of_rclone_are_read(bucket_case: S3Case, mounts: Mounts, base: Path) -> None:
    """With --links it keeps a symlink under a name of its own, and with --metadata says that it is one."""
    source = base / "source"
    source.mkdir()
    fill(source)
    rclone(bucket_case, "copy", "--metadata", "--links", source, f"s:{bucket_case.bucket}")
    mount = mounts(bucket_case)
    assert os.readlink(mount.root / "link.rclonelink") == "d/private"
    (mount.root / "a").chmod(0o644)
    mount.umount()
    target = base / "copied"
    rclone(bucket_case, "copy", "--metadata", "--links", f"s:{bucket_case.bucket}", target)
    assert os.readlink(target / "link") == "d/private"


def test_gcsfuse(bucket_case: S3Case, mounts: Mounts) -> None:
    def put(key: str, data: bytes, **metadata: str) -> None:
        bucket_case.client.put_object(
            Bucket=bucket_case.bucket, Key=bucket_case.prefix + key, Body=data, Metadata=metadata
        )

    put("f", b"content", gcsfuse_mtime="2009-02-13T23:31:30.987654321Z")
    put("link", b"", gcsfuse_symlink_target="f")
    put("d/", b"")
    put("d/g", b"x", **{"goog-reserved-file-mtime": "1234567890"})
    mount = mounts(bucket_case, "--attrs", "stored")
    assert (mount.root / "f").stat().st_mtime_ns == TIME_NS
    assert os.readlink(mount.root / "link") == "f"
    assert (mount.root / "d" / "g").stat().st_mtime_ns == TIME_NS // NS * NS


def test_markers_of_all_kinds(bucket_case: S3Case, mounts: Mounts) -> None:
    for key in ("slash/", "hadoop_$folder$", "both/", "both_$folder$", "none/f", "full_$folder$", "full/f"):
        bucket_case.write(key, b"x" if key.endswith("f") else b"")
    mount = mounts(bucket_case, "--ttl", "0")
    names = {"slash", "hadoop", "both", "none", "full"}
    assert set(os.listdir(mount.root)) == names
    assert all((mount.root / name).is_dir() for name in names)
    assert bucket_case.keys().keys() >= {"hadoop_$folder$", "slash/"}, "looking changes nothing"
    (mount.root / "hadoop" / "new").write_bytes(b"new")
    (mount.root / "both").rmdir()
    (mount.root / "slash").rename(mount.root / "moved")
    run("rm", "-r", mount.root / "full")
    mount.sync()
    keys = set(bucket_case.keys())
    assert not {key for key in keys if key.startswith(("both", "slash", "full"))}, keys
    assert keys >= {"hadoop/new", "moved/", "none/f"}
    mount.umount()
    mount = mounts(bucket_case, name="fresh")
    assert set(os.listdir(mount.root)) == {"hadoop", "moved", "none"}
