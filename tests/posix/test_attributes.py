"""What a node has beside content and names: it is there for a new mount of the store, and for the kernel."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.cases import S3_SERVERS, S3Case, StoreCase, make_case
from tests.mount.mounting import Mounts, command
from tests.mount.tools import run
from tests.mount.waiting import wait_until

NOBODY = 65534


def refused(number: int, path: Path, name: str, value: bytes = b"") -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        os.setxattr(path, name, value, follow_symlinks=False)


def as_nobody(*words: str | Path) -> int:
    done = subprocess.run(words, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
    return done.returncode


def acls(root: Path) -> list[str]:
    """The ACLs of everything in a mount."""
    return sorted(run("getfacl", "-R", ".", cwd=root).split("\n\n"))


def test_xattrs_survive_and_have_limits(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case, "--xattr")
    file, folder, link = mount.root / "f", mount.root / "d", mount.root / "l"
    file.write_bytes(b"content")
    folder.mkdir()
    link.symlink_to("f")
    wanted = {"user.a": b"\0\xff value", "security.s": b"s", "trusted.t": b"t", "user.ü": b""}
    for name, value in wanted.items():
        os.setxattr(file, name, value)
    os.setxattr(folder, "user.d", b"of a directory")
    os.setxattr(link, "trusted.l", b"of a symlink", follow_symlinks=False)
    os.setxattr(file, "user.gone", b"")
    os.removexattr(file, "user.gone")
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.a", b"", os.XATTR_CREATE)
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.setxattr(file, "user.none", b"", os.XATTR_REPLACE)
    if store_case.kind in S3_SERVERS:
        refused(errno.ENOSPC, file, "user.large", b"x" * 2000)
    refused(errno.EPERM, file, "user.mountstore.state")
    refused(errno.EINVAL, file, "user.", b"no name")
    refused(errno.EOPNOTSUPP, file, "system.posix_acl_access", b"\2\0\0\0")
    file.chmod(0o600)
    file.write_bytes(b"other content")
    (mount.root / "f").rename(mount.root / "moved")
    mount.umount()

    mount = mounts(store_case, "--xattr", name="fresh")
    file = mount.root / "moved"
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == wanted
    assert os.getxattr(mount.root / "d", "user.d") == b"of a directory"
    assert os.getxattr(mount.root / "l", "trusted.l", follow_symlinks=False) == b"of a symlink"
    mount.umount()

    # A mount without the option does not show them, and does not lose them.
    mount = mounts(store_case, name="without")
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.listxattr(mount.root / "moved") or os.getxattr(mount.root / "moved", "user.a")
    (mount.root / "moved").chmod(0o640)
    mount.umount()
    mount = mounts(store_case, "--xattr", name="again")
    assert os.getxattr(mount.root / "moved", "user.a") == wanted["user.a"]


def test_acls_are_enforced_and_survive(store_case: StoreCase, mounts: Mounts, base: Path) -> None:
    base.chmod(0o755)
    mount = mounts(store_case, "--acl", "--allow-other")
    file, folder = mount.root / "f", mount.root / "d"
    file.write_bytes(b"content")
    file.chmod(0o600)
    assert as_nobody("cat", file) != 0
    run("setfacl", "-m", "u:nobody:r", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert as_nobody("cat", file) == 0
    assert as_nobody("sh", "-c", f"echo >> {file}") != 0
    file.chmod(0o600)
    assert as_nobody("cat", file) != 0, "the mask follows chmod"
    file.chmod(0o640)
    folder.mkdir(mode=0o700)
    run("setfacl", "-d", "-m", "u:nobody:rwx", folder)
    run("setfacl", "-m", "u:nobody:rwx", folder)
    run("touch", folder / "made")
    (folder / "below").mkdir()
    wanted = acls(mount.root)
    assert "user:nobody:rwx" in run("getfacl", folder / "below")
    assert as_nobody("cat", folder / "made") == 0
    mount.umount()

    mount = mounts(store_case, "--acl", "--allow-other", name="fresh")
    assert acls(mount.root) == wanted
    assert as_nobody("cat", mount.root / "d" / "made") == 0
    run("setfacl", "-R", "-b", ".", cwd=mount.root)
    assert as_nobody("cat", mount.root / "d" / "made") != 0


def test_hard_links_are_one_file_for_a_new_mount(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case)
    (mount.root / "d").mkdir()
    first, second, third = (mount.root / name for name in ("a", "d/b", "c"))
    first.write_bytes(b"one")
    second.hardlink_to(first)
    third.hardlink_to(first)
    first.chmod(0o604)
    lone = mount.root / "lone"
    lone.write_bytes(b"one")
    mount.umount()
    assert {key: size for key, size in store_case.keys().items() if size} == {
        "a": 3,
        "c": 3,
        "d/b": 3,
        "lone": 3,
    }

    mount = mounts(store_case, name="fresh")
    first, second, third = (mount.root / name for name in ("a", "d/b", "c"))
    assert first.stat().st_nlink == 3, "names in directories that nobody has looked into count, too"
    first.write_bytes(b"changed before the others were seen")
    assert second.read_bytes() == third.read_bytes() == b"changed before the others were seen"
    assert first.stat().st_ino == second.stat().st_ino == third.stat().st_ino
    assert second.stat().st_nlink == 3
    third.unlink()
    assert first.stat().st_nlink == 2
    assert (mount.root / "lone").stat().st_nlink == 1
    mount.umount()
    assert store_case.read("a") == store_case.read("d/b") == b"changed before the others were seen"

    mount = mounts(store_case, name="third")
    assert (mount.root / "d" / "b").stat().st_nlink == 2
    (mount.root / "d" / "b").unlink()
    assert (mount.root / "a").stat().st_nlink == 1
    mount.umount()
    mount = mounts(store_case, name="last")
    assert (mount.root / "a").stat().st_nlink == 1


def test_a_copy_by_another_tool_is_no_hard_link(bucket_case: S3Case, mounts: Mounts) -> None:
    mount = mounts(bucket_case)
    (mount.root / "a").write_bytes(b"one")
    (mount.root / "b").hardlink_to(mount.root / "a")
    mount.umount()
    source = {"Bucket": bucket_case.bucket, "Key": f"{bucket_case.prefix}a"}
    bucket_case.client.copy_object(
        Bucket=bucket_case.bucket, Key=f"{bucket_case.prefix}copy", CopySource=source
    )
    mount = mounts(bucket_case, name="fresh")
    assert (mount.root / "copy").stat().st_nlink == 1
    assert (mount.root / "copy").stat().st_ino != (mount.root / "a").stat().st_ino
    (mount.root / "a").write_bytes(b"two")
    assert (mount.root / "copy").read_bytes() == b"one"


def test_device_nodes_are_made_where_the_mount_allows_them(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case)
    with pytest.raises(PermissionError):
        os.mknod(mount.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(mount.root / "fifo")
    mount.umount()
    mount = mounts(store_case, "--dev", name="dev")
    null = mount.root / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    null.write_bytes(b"gone")
    assert null.read_bytes() == b""
    mount.umount()
    mount = mounts(store_case, "--dev", name="fresh")
    there = (mount.root / "null").stat()
    assert stat.S_ISCHR(there.st_mode)
    assert there.st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((mount.root / "fifo").stat().st_mode)
    mount.umount()
    mount = mounts(store_case, name="nodev")
    with pytest.raises(PermissionError):
        (mount.root / "null").read_bytes()


def test_setuid_goes_when_somebody_else_writes(store_case: StoreCase, mounts: Mounts, base: Path) -> None:
    base.chmod(0o755)
    mount = mounts(store_case, "--allow-other")
    file = mount.root / "f"
    file.write_bytes(b"")
    file.chmod(0o6777)
    assert as_nobody("sh", "-c", f"echo >> {file}") == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o777
    file.chmod(0o6755)
    os.chown(file, NOBODY, NOBODY)
    assert stat.S_IMODE(file.stat().st_mode) & stat.S_ISUID == 0
    folder = mount.root / "d"
    folder.mkdir()
    os.chown(folder, 0, 7)
    folder.chmod(0o2777)
    assert as_nobody("mkdir", folder / "sub") == 0
    below = (folder / "sub").stat()
    assert (below.st_gid, bool(below.st_mode & stat.S_ISGID)) == (7, True)


def test_access_times(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case)
    file = mount.root / "f"
    file.write_bytes(b"content")
    os.utime(file, ns=(1_000_000_000_123_456_789, 2_000_000_000))
    file.read_bytes()
    assert file.stat().st_atime_ns == 1_000_000_000_123_456_789
    mount.umount()
    mount = mounts(store_case, "--atime", name="atime")
    file = mount.root / "f"
    assert file.stat().st_atime_ns == 1_000_000_000_123_456_789
    file.read_bytes()
    wait_until("the access time moves", lambda: file.stat().st_atime_ns > 1_500_000_000 * 10**9, timeout_s=5)


def test_modes_of_what_has_none(store_case: StoreCase, mounts: Mounts) -> None:
    store_case.write("d/f", b"x")
    mount = mounts(store_case, "--file-mode", "640", "--dir-mode", "750", "--uid", "7")
    assert stat.S_IMODE((mount.root / "d").stat().st_mode) == 0o750
    file = (mount.root / "d" / "f").stat()
    assert (stat.S_IMODE(file.st_mode), file.st_uid) == (0o640, 7)


@pytest.mark.parametrize("kind", ["versitygw", "minio"])
def test_the_state_of_a_file(kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts) -> None:
    case = make_case(kind, request, base)
    assert isinstance(case, S3Case)
    keeps_versions = kind == "minio"
    if keeps_versions:
        case.client.put_bucket_versioning(Bucket=case.bucket, VersioningConfiguration={"Status": "Enabled"})
    mount = mounts(case, "--xattr")
    file = mount.root / "f ü"
    with open(file, "wb") as out:
        out.write(b"content")
        out.flush()
        assert os.getxattr(file, "user.mountstore.state") == b"dirty"
        assert os.getxattr(file, "user.mountstore.cached") == b"7"
    mount.sync()
    file.write_bytes(b"again")
    mount.sync()
    etag = case.client.head_object(Bucket=case.bucket, Key="f ü")["ETag"]
    assert os.getxattr(file, "user.mountstore.state") == b"clean"
    assert os.getxattr(file, "user.mountstore.key") == "f ü".encode()
    assert os.getxattr(file, "user.mountstore.etag").decode().strip('"') == etag.strip('"')
    assert os.listxattr(file) == []
    told = command("status", "--json", file, env=mount.env).stdout
    assert '"state": "clean"' in told
    said = command("status", file, env=mount.env).stdout
    assert "clean" in said
    assert etag.strip('"') in said
    if keeps_versions:
        assert len(os.getxattr(file, "user.mountstore.versions").split()) == 2
        assert "versions" in said
    else:
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(file, "user.mountstore.versions")
    done = command("status", mount.root / "none", env=mount.env, check=False)
    assert done.returncode != 0
    assert "No such file" in done.stderr
