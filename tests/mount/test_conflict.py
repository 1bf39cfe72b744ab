"""Two write the same name: both versions are kept, and the loser is told of."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from tests.mount.cases import StoreCase
from tests.mount.mounting import Mount, Mounts
from tests.mount.waiting import wait_until

CONFLICT = re.compile(r"^folder/file\.txt\.conflict-[^/]+-[^/-]+$")


def conflict_copies(case: StoreCase) -> list[str]:
    return [key for key in case.keys() if ".conflict-" in key]


def race(case: StoreCase, mount: Mount, path: str, theirs: bytes | None, ours: bytes) -> None:
    """The mount knows a version; another one is made behind its back; then the mount writes."""
    file = mount.root / path
    if theirs is None:
        case.delete(path)
    else:
        case.write(path, theirs)
    file.write_bytes(ours)


def test_both_versions_are_kept(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case, "--ttl", "600")
    (mount.root / "folder").mkdir()
    file = mount.root / "folder" / "file.txt"
    file.write_bytes(b"known to both")
    mount.sync()
    race(store_case, mount, "folder/file.txt", b"theirs", b"ours, which came later")
    mount.sync()
    copies = wait_until("a conflict copy is in the store", lambda: conflict_copies(store_case))
    assert len(copies) == 1
    assert CONFLICT.match(copies[0]), copies
    assert store_case.read("folder/file.txt") == b"theirs"
    assert store_case.read(copies[0]) == b"ours, which came later"
    said = [path.lstrip("/") for path in mount.status()["conflicts"]]
    assert said == copies
    assert "conflict" in mount.log()
    # The mount shows both, under these names.
    assert sorted(os.listdir(mount.root / "folder")) == sorted(["file.txt", os.path.basename(copies[0])])
    assert (mount.root / copies[0]).read_bytes() == b"ours, which came later"
    assert file.read_bytes() == b"theirs"
    # What is written to the name from now on is no conflict any more.
    file.write_bytes(b"settled")
    mount.sync()
    assert store_case.read("folder/file.txt") == b"settled"
    assert conflict_copies(store_case) == copies
    os.unlink(mount.root / copies[0])
    mount.umount()
    assert conflict_copies(store_case) == []


def test_both_create_the_same_name(store_case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(store_case, "--ttl", "600")
    assert os.listdir(mount.root) == []
    race(store_case, mount, "new", b"theirs", b"ours")
    mount.sync()
    copies = conflict_copies(store_case)
    assert len(copies) == 1
    assert (store_case.read("new"), store_case.read(copies[0])) == (b"theirs", b"ours")


def test_deleted_there_and_changed_here(store_case: StoreCase, mounts: Mounts) -> None:
    """Nothing is lost: what was written here is in the store, under its name or as a conflict copy."""
    mount = mounts(store_case, "--ttl", "600")
    (mount.root / "file").write_bytes(b"known to both")
    mount.sync()
    race(store_case, mount, "file", None, b"ours")
    mount.sync()
    assert [store_case.read(key) for key in store_case.keys()] == [b"ours"]


def test_changed_there_and_deleted_here(store_case: StoreCase, mounts: Mounts) -> None:
    """A delete of a version that is not there any more must not take the new one with it."""
    mount = mounts(store_case, "--ttl", "600")
    (mount.root / "file").write_bytes(b"known to both")
    mount.sync()
    store_case.write("file", b"theirs, never seen here")
    os.unlink(mount.root / "file")
    mount.sync()
    assert [store_case.read(key) for key in store_case.keys()] == [b"theirs, never seen here"]


def first_byte(path: Path) -> bytes:
    """Of the file of this name now; b"" while the listing still names a version that is gone."""
    try:
        return path.read_bytes()[:1]
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return b""


def test_an_open_reader_sees_one_version(store_case: StoreCase, mounts: Mounts) -> None:
    """From open to close: the version that was opened, or ESTALE; never a mix."""
    old, new = b"o" * 20_000_000, b"n" * 20_000_000
    store_case.write("file", old)
    mount = mounts(store_case, "--ttl", "1")
    with open(mount.root / "file", "rb", buffering=0) as file:
        assert file.read(4096) == old[:4096]
        store_case.write("file", new)
        wait_until("the change is seen by name", lambda: first_byte(mount.root / "file") == b"n")
        try:
            file.seek(19_000_000)
            rest = file.read(4096)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        else:
            assert rest == b"o" * 4096
