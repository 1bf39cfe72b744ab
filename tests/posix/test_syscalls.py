"""Single calls: what a mount does with them, and the kernel where pyfuse3 has no request for them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountstore.vfs.vfs import MOST_FILE_BYTES
from tests.mount.cases import LONG, S3_SERVERS, StoreCase, local_case, make_case
from tests.mount.mounting import Mount, Mounts, detach
from tests.mount.waiting import wait_until

_libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE = 1, 2
_AT_FDCWD = -100


@pytest.fixture
def case(request: pytest.FixtureRequest, base: Path) -> StoreCase:
    return make_case("versitygw", request, base)


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def rename(old: Path, new: Path, flags: int) -> None:
    checked(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    checked(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


_libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = _libc.readdir.argtypes = _libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """A directory stream of libc."""
    stream = _libc.opendir(os.fsencode(path))
    assert stream
    try:
        yield stream
    finally:
        _libc.closedir(stream)


def entries(stream: int) -> Iterator[tuple[str, int]]:
    """(name, inode) of each entry from where the stream is."""
    while entry := _libc.readdir(stream):
        (ino,) = struct.unpack("Q", ctypes.string_at(entry, 8))
        yield os.fsdecode(ctypes.string_at(entry + 19)), ino


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", S3_SERVERS)
def test_files_with_long_names_are_replaced(
    kind: str, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    """A server that keeps objects as files needs room beside the name for a temporary one."""
    bucket_case = make_case(kind, request, base)
    mount = mounts(bucket_case)
    names = [letter * length for letter, length in zip("abcde", (223, 224, 225, 240, 255), strict=True)]
    for name in names:
        (mount.root / name).write_bytes(b"first")
    mount.sync()
    for name in names:
        (mount.root / name).write_bytes(b"second " + name.encode())
    mount.umount()
    mount = mounts(bucket_case, name="fresh")
    assert {path.name: path.read_bytes() for path in mount.root.iterdir()} == {
        name: b"second " + name.encode() for name in names
    }
    mount.umount()


# -- directories ------------------------------------------------------------------------------------


def test_a_directory_shows_dots_and_keeps_positions(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    folder = mount.root / "d"
    folder.mkdir()
    names = {f"f{number}" for number in range(300)}
    for name in names:
        (folder / name).touch()
    with directory(folder) as stream:
        seen = [(_libc.telldir(stream), name, ino) for name, ino in entries(stream)]
        assert {name: ino for _, name, ino in seen} == {
            name: (folder / name).stat().st_ino for name in names | {".", ".."}
        }
        assert len(seen) == len(names) + 2
        for (position, _, _), (_, following, _) in itertools.pairwise(seen[::7]):
            _libc.seekdir(stream, position)
            assert following in [name for name, _ in itertools.islice(entries(stream), 7)]
        # What is removed while it is read hides nothing else, and what is made comes once.
        _libc.rewinddir(stream)
        left = []
        for number, (name, _) in enumerate(entries(stream)):
            left.append(name)
            if name in names and number % 2:
                (folder / name).unlink()
            elif name in names:
                (folder / name).rename(folder / f"moved {name}")
    assert names | {".", ".."} <= set(left)
    assert len(left) == len(set(left))


# -- opening ----------------------------------------------------------------------------------------


def test_o_trunc_empties_for_readers_and_ends_setuid_for_users(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case, "--allow-other")
    mount.base.chmod(0o755)
    path = mount.root / "f"
    path.write_bytes(b"content")
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
    assert path.read_bytes() == b""
    path.chmod(0o6777)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    subprocess.run(["sh", "-c", ': >"$0"', path], user="nobody", check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o2767)
    subprocess.run(["sh", "-c", ': >"$0"', path], user="nobody", check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o2767, "without execution for the group it is no privilege"


def test_a_file_is_opened_by_its_handle(case: StoreCase, mounts: Mounts) -> None:
    """As a server of NFS does it: the kernel asks for `.` of an inode that it does not know any more."""
    mount = mounts(case)
    path = mount.root / "f"
    path.write_bytes(b"content")
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    checked(_libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0))
    Path("/proc/sys/vm/drop_caches").write_text("2")
    folder = os.open(mount.root, os.O_RDONLY)
    try:
        with open(_libc.open_by_handle_at(folder, handle, os.O_RDONLY), "rb") as file:
            assert file.read() == b"content"
        path.unlink()
    finally:
        os.close(folder)


# -- locks ------------------------------------------------------------------------------------------

HOLDER = """
import fcntl, sys
kind, path, shared = sys.argv[1:]
file = open(path, "r+b")
mode = fcntl.LOCK_SH if shared == "shared" else fcntl.LOCK_EX
if kind == "flock":
    fcntl.flock(file, mode)
else:
    fcntl.lockf(file, mode, 10, 5)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(kind: str, path: Path, shared: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock; it goes when the context does, or before."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, str(path), shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def free(kind: str, path: Path, *, start: int = 5, mode: int = fcntl.LOCK_EX) -> bool:
    """Whether this process can have the lock; it is given back."""
    with open(path, "r+b") as file:
        try:
            if kind == "flock":
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, mode | fcntl.LOCK_NB, 10, start)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("kind", ["flock", "posix"])
def test_locks_hold_between_processes(kind: str, case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    path = mount.root / "f"
    path.write_bytes(b"x" * 100)
    other = mount.root / "other name"
    other.hardlink_to(path)
    with held(kind, path) as holder:
        assert not free(kind, path)
        assert not free(kind, path, mode=fcntl.LOCK_SH)
        assert not free(kind, other), "the lock is the file's, not the name's"
        if kind == "posix":
            assert not free(kind, path, start=14)
            assert free(kind, path, start=15), "only what was locked is"
        path.write_bytes(b"locks are advisory")
        mount.sync()
        assert not free(kind, path), "an upload does not end it"
        path.rename(mount.root / "moved")
        assert not free(kind, mount.root / "moved")
        holder.kill()
        holder.wait()
        wait_until("a lock ends with its process", lambda: free(kind, other), timeout_s=20)
    with held(kind, other, "shared"), held(kind, other, "shared"):
        assert free(kind, other, mode=fcntl.LOCK_SH)
        assert not free(kind, other)
    # A lock that is waited for comes when it is given back.
    with held(kind, other) as first:
        words = [sys.executable, "-c", HOLDER, kind, str(other), ""]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second:
            try:
                assert second.poll() is None
                first.kill()
                assert second.stdout is not None
                assert second.stdout.readline() == b"held\n"
            finally:
                second.kill()


# -- renameat2 --------------------------------------------------------------------------------------


def test_rename_flags(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    one, two, three = (mount.root / name for name in ("one", "two", "three"))
    one.write_bytes(b"1")
    two.mkdir()
    (two / "in").write_bytes(b"2")
    with pytest.raises(FileExistsError):
        rename(one, two, NOREPLACE)
    rename(one, two, EXCHANGE)
    assert (two.read_bytes(), (one / "in").read_bytes()) == (b"1", b"2")
    with pytest.raises(FileNotFoundError):
        rename(one, three, EXCHANGE)
    rename(two, three, WHITEOUT)
    assert three.read_bytes() == b"1"
    white = two.stat()
    assert stat.S_ISCHR(white.st_mode)
    assert white.st_rdev == 0
    with pytest.raises(FileExistsError):
        rename(three, two, WHITEOUT | NOREPLACE)
    for flags in (8, EXCHANGE | NOREPLACE, EXCHANGE | WHITEOUT):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            rename(three, two, flags)
    mount.umount()
    mount = mounts(case, name="fresh")
    assert sorted(os.listdir(mount.root)) == ["one", "three", "two"]
    assert stat.S_ISCHR((mount.root / "two").stat().st_mode)
    assert (mount.root / "three").read_bytes() == b"1"


# -- what pyfuse3 has no request for ----------------------------------------------------------------


def test_fallocate_is_refused_and_glibc_does_without(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    path = mount.root / "f"
    with open(path, "w+b") as file:
        file.write(b"content")
        file.flush()
        for mode in (0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE):
            with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
                fallocate(file.fileno(), mode, 0, 100)
        os.posix_fallocate(file.fileno(), 3, 20_000)
        assert path.stat().st_size == 20_003
    mount.umount()
    mount = mounts(case, name="fresh")
    assert (mount.root / "f").read_bytes() == b"content" + bytes(20_003 - 7)


def test_a_hole_is_data_to_lseek(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    with open(mount.root / "f", "w+b") as file:
        file.truncate(1 << 20)
        file.seek(3 << 20)
        file.write(b"end")
        file.flush()
        size = (3 << 20) + 3
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == size
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
                os.lseek(file.fileno(), size, whence)


def test_copy_file_range_copies(case: StoreCase, mounts: Mounts) -> None:
    """The kernel copies through the page cache."""
    mount = mounts(case)
    data = os.urandom(3_000_000)
    (mount.root / "source").write_bytes(data)
    with open(mount.root / "source", "rb") as source, open(mount.root / "target", "w+b") as target:
        done = 0
        while count := os.copy_file_range(
            source.fileno(), target.fileno(), 2_000_000 - done, 500_000 + done, 7 + done
        ):
            done += count
        assert done == 2_000_000
    mount.umount()
    assert case.read("target") == bytes(7) + data[500_000:2_500_000]


# -- hard links and a crash -------------------------------------------------------------------------


PLACES = ["put-landed", "copy-landed", *(["put-recorded"] if LONG else [])]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fresh", [False, True], ids=["same state", "store alone"])
@pytest.mark.parametrize("kind", S3_SERVERS if LONG else S3_SERVERS[:1])
def test_a_crash_between_the_names_of_a_file(
    kind: str, place: str, fresh: bool, request: pytest.FixtureRequest, base: Path, mounts: Mounts
) -> None:
    """Some names have the new content, others the old one: the next mount shows one file again."""
    bucket_case = make_case(kind, request, base)
    names = ["a", "b", "c"]
    mount = mounts(bucket_case)
    (mount.root / "a").write_bytes(b"old content")
    for name in names[1:]:
        (mount.root / name).hardlink_to(mount.root / "a")
    mount.umount()
    mount = mounts(bucket_case, env=bucket_case.env | {"MOUNTSTORE_FAILPOINT": place}, name="dies")
    assert (mount.root / "b").stat().st_nlink == 3
    (mount.root / "b").write_bytes(b"new content, and longer")
    wait_until("the daemon dies", lambda: not mount.alive() or _is_gone(mount), timeout_s=60)
    detach(mount.root)
    landed = {bucket_case.read(name) for name in names}
    assert landed == {b"old content", b"new content, and longer"}, "it died between the names"

    if fresh:
        mount = mounts(bucket_case, name="fresh")
    else:
        mount = mounts(bucket_case, name="again", state=mount.state)
    assert sorted(os.listdir(mount.root)) == names
    wait_until(
        "all names are one file",
        lambda: {(mount.root / name).read_bytes() for name in names} == {b"new content, and longer"},
        timeout_s=30,
    )
    assert {(mount.root / name).stat().st_nlink for name in names} == {3}
    assert len({(mount.root / name).stat().st_ino for name in names}) == 1
    mount.umount()
    assert {bucket_case.read(name) for name in names} == {b"new content, and longer"}
    assert set(bucket_case.keys()) == set(names)


def _is_gone(mount: Mount) -> bool:
    try:
        os.kill(mount.pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_what_is_touched_after_something_is_not_older(base: Path, mounts: Mounts) -> None:
    """touch(1) leaves the time to the kernel; make(1) and whoever else compares times needs one clock."""
    mount = mounts(local_case("sqlite", base))
    for number in range(20):
        first, second, folder = (mount.root / f"{name}{number}" for name in ("a", "b", "c"))
        second.touch()
        first.write_bytes(b"made by the daemon")
        os.utime(second)
        folder.mkdir()
        times = [path.stat().st_mtime_ns for path in (first, second, folder)]
        assert times == sorted(times)
        os.utime(first)
        os.utime(folder)
        assert min(first.stat().st_mtime_ns, folder.stat().st_mtime_ns) >= times[-1]
    mount.umount()


def test_a_file_grows_no_larger_than_an_object_may_be(base: Path, mounts: Mounts) -> None:
    mount = mounts(local_case("sqlite", base))
    path = mount.root / "f"
    path.write_bytes(b"kept")
    with path.open("r+b", buffering=0) as file:
        for size in (MOST_FILE_BYTES + 1, 1 << 62, (1 << 63) - 1):
            with pytest.raises(OSError, match="File too large"):
                file.truncate(size)
            with pytest.raises(OSError, match="File too large"):
                os.pwrite(file.fileno(), b"x", size - 1)
    assert path.read_bytes() == b"kept"
    mount.umount()
