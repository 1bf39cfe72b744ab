"""Objects are native: what the mount writes, any S3 client reads under its path, and the other way round."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.mount.cases import S3_SERVERS, S3Case, StoreCase, make_case
from tests.mount.mounting import Mounts
from tests.mount.source import build_source
from tests.mount.tools import run
from tests.mount.waiting import wait_until


def check_objects(case: StoreCase, root: Path) -> int:
    """Every file under `root` is an object of its path, byte for byte; no object is anything else."""
    wanted = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            key = str(path.relative_to(root))
            if path.is_symlink():
                wanted[key] = os.fsencode(os.readlink(path))
            elif path.is_dir():
                wanted[f"{key}/"] = b""
            else:
                wanted[key] = path.read_bytes()
    found = case.keys()
    assert sorted(found) == sorted(wanted)
    for key, data in wanted.items():
        assert found[key] == len(data), key
        assert case.read(key) == data, key
    return len(wanted)


@pytest.mark.parametrize("prefix", ["", "deep/er, prefix/ünï/"])
@pytest.mark.parametrize("kind", S3_SERVERS)
def test_boto3_reads_what_the_mount_writes(
    kind: str, prefix: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    case = make_case(kind, request, base, prefix=prefix)
    mount = mounts(case, name="mount, pöint")
    source = build_source(base / "source", files=150, seed=21)
    run("cp", "-a", f"{source}/.", mount.root)
    mount.sync()
    assert check_objects(case, mount.root) > 200


def test_a_local_store_holds_what_the_mount_writes(store_case: StoreCase, base: Path, mounts: Mounts) -> None:
    mount = mounts(store_case)
    source = build_source(base / "source", files=60, seed=22)
    run("cp", "-a", f"{source}/.", mount.root)
    mount.sync()
    assert check_objects(store_case, mount.root) > 100


def test_metadata_is_that_of_s3fs_and_rclone(store_case: StoreCase, mounts: Mounts) -> None:
    """mode (octal, a zero in front, with the type), uid, gid, and mtime in seconds with all nine decimals."""
    mount = mounts(store_case)
    file, folder, link = mount.root / "file", mount.root / "folder", mount.root / "link"
    file.write_text("content")
    folder.mkdir()
    link.symlink_to("file")
    file.chmod(0o640)
    folder.chmod(0o2750)
    for number, path in enumerate([file, folder, link]):
        os.lchown(path, 1001, 1002)
        time_ns = 1_600_000_000_123_456_789 + number
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    mount.umount()
    for key, path_mode, time_ns in [
        ("file", stat.S_IFREG | 0o640, 1_600_000_000_123_456_789),
        ("folder/", stat.S_IFDIR | 0o2750, 1_600_000_000_123_456_790),
        ("link", stat.S_IFLNK | 0o777, 1_600_000_000_123_456_791),
    ]:
        metadata = store_case.metadata(key)
        assert metadata["mode"] == f"0{path_mode:o}", (key, metadata)
        assert (metadata["uid"], metadata["gid"]) == ("1001", "1002")
        assert int(Decimal(metadata["mtime"]) * 1_000_000_000) == time_ns, (key, metadata)


def test_what_others_write_shows_up(store_case: StoreCase, mounts: Mounts) -> None:
    """New, changed and deleted objects are seen once the listing is older than --ttl."""
    mount = mounts(store_case, "--ttl", "1")
    root = mount.root
    assert os.listdir(root) == []
    store_case.write("new file", b"from outside")
    store_case.write("implied/deep/file", b"below prefixes without markers")
    wait_until("a new object is seen", lambda: "new file" in os.listdir(root))
    wait_until("a new prefix is seen", lambda: (root / "implied").is_dir())
    assert (root / "new file").read_bytes() == b"from outside"
    assert os.listdir(root / "implied") == ["deep"]
    assert (root / "implied" / "deep" / "file").read_bytes() == b"below prefixes without markers"

    store_case.write("new file", b"changed, and of another size")
    store_case.write("implied/deep/file", b"BELOW prefixes without markers")  # of the same size
    wait_until(
        "a change is seen", lambda: (root / "new file").read_bytes() == b"changed, and of another size"
    )
    wait_until(
        "a change of the same size is seen",
        lambda: (root / "implied" / "deep" / "file").read_bytes() == b"BELOW prefixes without markers",
    )
    store_case.delete("new file")
    store_case.delete("implied/deep/file")
    wait_until("a deleted object is gone", lambda: "new file" not in os.listdir(root))
    wait_until("a deleted file cannot be opened", lambda: not (root / "new file").exists())
    wait_until("a prefix without objects is gone", lambda: not (root / "implied" / "deep" / "file").exists())


def test_foreign_objects_get_the_owner_and_mode_asked_for(store_case: StoreCase, mounts: Mounts) -> None:
    store_case.write("folder/file", b"no metadata of ours")
    mount = mounts(store_case, "--uid", "1234", "--gid", "4321", "--umask", "027")
    file, folder = (mount.root / "folder" / "file").stat(), (mount.root / "folder").stat()
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (1234, 4321, 0o640)
    assert (folder.st_uid, folder.st_gid, stat.S_IMODE(folder.st_mode)) == (1234, 4321, 0o750)


def test_read_only(store_case: StoreCase, mounts: Mounts) -> None:
    store_case.write("folder/file", b"as it is")
    before = store_case.keys()
    mount = mounts(store_case, "--read-only")
    assert (mount.root / "folder" / "file").read_bytes() == b"as it is"
    file, folder = mount.root / "folder" / "file", mount.root / "folder"
    attempts: list[Callable[[], object]] = [
        lambda: (mount.root / "new").write_text("x"),
        lambda: file.write_text("x"),
        file.unlink,
        lambda: file.chmod(0o600),
        (mount.root / "dir").mkdir,
        lambda: folder.rename(mount.root / "other"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()
    mount.umount()
    assert store_case.keys() == before


def test_several_mounts_at_once(
    request: pytest.FixtureRequest, base: Path, mounts: Mounts, bucket_case: S3Case
) -> None:
    """Of different stores, each with its own daemon; one ends, the others go on."""
    cases = [bucket_case, *(make_case(kind, request, base) for kind in ["sqlite", "file", "memory"])]
    several = [mounts(case, name=f"{number} {case.kind}") for number, case in enumerate(cases)]
    assert len({mount.pid for mount in several}) == len(several)
    source = build_source(base / "source", files=40, seed=23)
    run("cp", "-a", source, several[0].root / "copy")
    for before, after in itertools.pairwise(several):
        run("cp", "-a", before.root / "copy", after.root / "copy")
    several[1].umount()
    run("diff", "-r", "--no-dereference", source, several[-1].root / "copy")
    assert len(check_keys(cases[1])) == len(check_keys(cases[0])) > 40


def check_keys(case: StoreCase) -> dict[str, int]:
    """The keys of a store, once there are any."""
    return wait_until("the store has objects", case.keys)
