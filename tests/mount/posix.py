"""What programs ask of a file system by system call. See tools.py for what a workload is."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from tests.mount.tools import run, workload

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(source: Path, target: Path, flags: int) -> None:
    """rename with flags; OSError as the kernel says."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


def refused(number: int, call: Callable[[], object]) -> None:
    """AssertionError unless the call fails with this errno."""
    name = errno.errorcode[number]
    try:
        call()
    except OSError as error:
        if error.errno == number:
            return
        raise AssertionError(f"{name} was due, and it is: {error}") from error
    raise AssertionError(f"{name} was due, and the call worked")


@workload
def open_and_unlinked(root: Path, scratch: Path) -> None:
    path = root / "gone"
    with open(path, "w+b") as file:
        file.write(b"before " * 1000)
        file.flush()
        os.unlink(path)
        assert not path.exists()
        assert os.listdir(root) == []
        path.write_text("another of the same name")
        file.seek(0)
        assert file.read() == b"before " * 1000
        file.seek(3)
        file.write(b"AFTER")
        file.seek(0, os.SEEK_END)
        file.write(b"end")
        file.flush()
        file.truncate(6_000)
        os.fchmod(file.fileno(), 0o600)
        file.seek(0)
        assert file.read() == (b"befAFTER" + (b"before " * 1000)[8:])[:6_000]
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.fstat(file.fileno()).st_size == 6_000
    assert path.read_text() == "another of the same name"
    # Renamed over while open: the handle keeps the old file.
    (root / "new").write_text("new")
    with open(path) as old:
        os.rename(root / "new", path)
        assert old.read() == "another of the same name"
    assert path.read_text() == "new"


@workload
def rename_flags(root: Path, scratch: Path) -> None:
    one, two, folder = root / "one", root / "two", root / "folder"
    one.write_text("one")
    two.write_text("two")
    folder.mkdir()
    (folder / "in").write_text("in")
    refused(errno.EEXIST, lambda: renameat2(one, two, RENAME_NOREPLACE))
    assert (one.read_text(), two.read_text()) == ("one", "two")
    renameat2(one, root / "three", RENAME_NOREPLACE)
    assert not one.exists()
    renameat2(root / "three", one, RENAME_NOREPLACE)
    renameat2(one, two, RENAME_EXCHANGE)
    assert (one.read_text(), two.read_text()) == ("two", "one")
    renameat2(one, folder, RENAME_EXCHANGE)
    assert folder.read_text() == "two"
    assert (one / "in").read_text() == "in"
    refused(errno.ENOENT, lambda: renameat2(one, root / "nothing", RENAME_EXCHANGE))
    refused(errno.EINVAL, lambda: renameat2(one, two, RENAME_EXCHANGE | RENAME_NOREPLACE))
    assert sorted(os.listdir(root)) == ["folder", "one", "two"]


@workload
def rename_replaces(root: Path, scratch: Path) -> None:
    for name in ["a", "b"]:
        (root / name).write_text(name)
    os.rename(root / "a", root / "b")
    assert os.listdir(root) == ["b"]
    assert (root / "b").read_text() == "a"
    os.rename(root / "b", root / "b")
    (root / "empty").mkdir()
    (root / "full" / "nested").mkdir(parents=True)
    (root / "full" / "nested" / "f").write_text("f")
    refused(errno.ENOTEMPTY, lambda: os.rename(root / "empty", root / "full"))
    refused(errno.EISDIR, lambda: os.rename(root / "b", root / "empty"))
    refused(errno.ENOTDIR, lambda: os.rename(root / "empty", root / "b"))
    refused(errno.EINVAL, lambda: os.rename(root / "full", root / "full" / "nested" / "in itself"))
    refused(errno.ENOENT, lambda: os.rename(root / "nothing", root / "b"))
    os.rename(root / "full", root / "empty")
    assert (root / "empty" / "nested" / "f").read_text() == "f"
    # There and back, and a chain through one name: what is left is the last.
    for number in range(30):
        (root / "tmp").write_text(f"{number}")
        os.rename(root / "tmp", root / "final")
        os.rename(root / "final", root / "aside")
        os.rename(root / "aside", root / "final")
    assert (root / "final").read_text() == "29"
    (root / "swap").mkdir()
    (root / "swap" / "f").write_text("in swap")
    os.rename(root / "swap", root / "swapped")
    (root / "swap").write_text("a file where a directory was")
    assert (root / "swapped" / "f").read_text() == "in swap"


@workload
def errors(root: Path, scratch: Path) -> None:
    folder, file, link = root / "folder", root / "file", root / "link"
    folder.mkdir()
    file.write_text("file")
    link.symlink_to("nowhere")
    (folder / "in").write_text("in")
    refused(errno.EEXIST, folder.mkdir)
    refused(errno.EEXIST, lambda: os.mkdir(file))
    refused(errno.EEXIST, lambda: os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    refused(errno.EEXIST, lambda: os.symlink("x", link))
    refused(errno.ENOENT, lambda: os.stat(root / "nothing"))
    refused(errno.ENOENT, lambda: os.open(root / "nothing" / "below", os.O_CREAT | os.O_WRONLY))
    refused(errno.ENOENT, lambda: os.unlink(root / "nothing"))
    refused(errno.ENOENT, lambda: os.stat(link))
    refused(errno.ENOTDIR, lambda: os.stat(file / "below"))
    refused(errno.ENOTDIR, lambda: os.rmdir(file))
    refused(errno.ENOTDIR, lambda: os.rmdir(link))
    refused(errno.EISDIR, lambda: os.unlink(folder))
    refused(errno.EISDIR, lambda: os.open(folder, os.O_WRONLY))
    refused(errno.ENOTEMPTY, lambda: os.rmdir(folder))
    refused(errno.ENAMETOOLONG, lambda: (root / ("n" * 256)).touch())
    refused(errno.EINVAL, lambda: os.readlink(file))
    refused(errno.EINVAL, lambda: os.truncate(file, -1))
    assert sorted(os.listdir(root)) == ["file", "folder", "link"]
    assert file.read_text() == "file"


@workload
def attributes(root: Path, scratch: Path) -> None:
    file, folder, link = root / "file", root / "folder", root / "link"
    file.write_text("content")
    folder.mkdir()
    link.symlink_to("file")
    for mode in [0o600, 0o4755, 0o000, 0o1777, 0o640]:
        for path in [file, folder]:
            path.chmod(mode)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    os.utime(file, ns=(0, 0))
    assert file.stat().st_ctime_ns > 1_600_000_000_000_000_000, "the time of change is the system's own"
    if os.geteuid() == 0:
        for path in [file, folder, link]:
            os.lchown(path, 1000, 2000)
            assert (path.lstat().st_uid, path.lstat().st_gid) == (1000, 2000)
            os.lchown(path, 4_000_000_000, -1)
            assert (path.lstat().st_uid, path.lstat().st_gid) == (4_000_000_000, 2000)
        os.lchown(file, 0, 0)
        file.chmod(0o4755)
        os.chown(file, 1000, 1000)
        assert stat.S_IMODE(file.stat().st_mode) == 0o755, "chown takes setuid away"
    for time_ns in [1, 1_234_567_890_123_456_789, 0, 4_000_000_000_000_000_001, -1_500_000_000]:
        for path in [file, folder, link]:
            os.utime(path, ns=(time_ns - 7, time_ns), follow_symlinks=False)
            assert path.lstat().st_mtime_ns == time_ns
            assert path.lstat().st_atime_ns == time_ns - 7 or path != file
    file.write_text("content that is new")
    assert file.stat().st_mtime_ns > 1_600_000_000_000_000_000
    old = folder.stat().st_mtime_ns
    (folder / "entry").touch()
    assert folder.stat().st_mtime_ns > old, "a new name changes the directory's time"
    os.utime(folder, ns=(5, 6))
    os.unlink(folder / "entry")
    assert folder.stat().st_mtime_ns > 6
    os.utime(folder, ns=(5, 1_600_000_000_000_000_001))
    os.utime(file, ns=(5, 1_600_000_000_000_000_002))
    # Attributes of an open file, and after writing but before close.
    with open(root / "open", "wb") as handle:
        handle.write(b"x" * 1000)
        handle.flush()
        os.fchmod(handle.fileno(), 0o604)
        os.utime(handle.fileno(), ns=(3, 1_500_000_000_000_000_003))
        assert os.fstat(handle.fileno()).st_size == 1000
    assert (root / "open").stat().st_mtime_ns == 1_500_000_000_000_000_003
    assert stat.S_IMODE((root / "open").stat().st_mode) == 0o604
    assert (root / "open").stat().st_blocks * 512 >= 1000
    mask = os.umask(0o027)
    try:
        os.close(os.open(root / "masked", os.O_CREAT | os.O_WRONLY, 0o666))
        (root / "masked folder").mkdir()
    finally:
        os.umask(mask)
    assert stat.S_IMODE((root / "masked").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "masked folder").stat().st_mode) == 0o750


@workload
def numbers_of_files(root: Path, scratch: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_text("x")
    numbers = {path: path.stat().st_ino for path in [root, root / "a", root / "a" / "b", root / "a" / "file"]}
    assert len(set(numbers.values())) == 4
    os.rename(root / "a", root / "c")
    assert (root / "c" / "file").stat().st_ino == numbers[root / "a" / "file"]
    with os.scandir(root / "c") as listing:
        assert {one.name: one.inode() for one in listing} == {
            one.name: one.stat().st_ino for one in (root / "c").iterdir()
        }
    assert (root / "c" / "b" / ".." / "..").stat().st_ino == numbers[root]


@workload
def symlinks(root: Path, scratch: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "file").write_text("reached")
    for name, target in {
        "relative": "d/file",
        "dir": "d",
        "up": f"../{root.name}/d/file",
        "dangling": "not/there",
        "ünï": "d/file",
        "odd target": " a\\b%20'\"€ ",
        "long": "x" * 1500,
    }.items():
        (root / name).symlink_to(target)
        assert os.readlink(root / name) == target
        assert (root / name).lstat().st_size == len(target.encode())
    assert (root / "relative").read_text() == (root / "dir" / "file").read_text() == "reached"
    assert (root / "up").read_text() == "reached"
    (root / "relative").write_text("through the link")
    assert (root / "d" / "file").read_text() == "through the link"
    os.rename(root / "dangling", root / "d" / "moved")
    assert os.readlink(root / "d" / "moved") == "not/there"
    os.unlink(root / "dir")
    assert (root / "d").is_dir()
    run("ln", "-sfn", "elsewhere", root / "relative")
    assert os.readlink(root / "relative") == "elsewhere"


@workload
def sizes(root: Path, scratch: Path) -> None:
    """Around the borders at which blocks, parts and requests end."""
    mebi = 1 << 20
    small = [0, 1, 4095, 4096, 4097, 131_071, 131_073]
    for size in [*small, mebi, mebi + 1, 8 * mebi - 1, 8 * mebi, 16 * mebi + 3]:
        data = os.urandom(size)
        path = root / f"{size}"
        path.write_bytes(data)
        assert path.stat().st_size == size
        with open(path, "rb") as file:
            for offset in [0, size // 2, max(0, size - 5), size, size + 10]:
                file.seek(offset)
                assert file.read(9000) == data[offset : offset + 9000]
    with open(root / "sparse", "wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    with open(root / "sparse", "rb") as file:
        assert file.read(70_000) == bytes(70_000)
        file.seek(49_999_990)
        assert file.read() == bytes(10) + b"end"


@workload
def overwrite_what_was_made_durable(root: Path, scratch: Path) -> None:
    """Parts of files that need no writing any more are written anew; closed, and read by a new handle."""
    wanted = bytearray(b"o" * 1_000_000)
    wanted[500_000:505_000] = b"N" * 5_000
    for name in ["same handle", "new handle", "shorter", "longer"]:
        path = root / name
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.write(file, b"o" * 1_000_000)
        os.fsync(file)
        if name != "same handle":
            os.close(file)
            file = os.open(path, os.O_RDWR)
        os.pwrite(file, b"N" * 5_000, 500_000)
        assert os.pread(file, 6_000, 499_500) == wanted[499_500:505_500]
        if name == "shorter":
            os.ftruncate(file, 700_001)
        if name == "longer":
            os.ftruncate(file, 1_200_000)
        os.close(file)
        size = {"shorter": 700_001, "longer": 1_200_000}.get(name, 1_000_000)
        expected = bytes(wanted).ljust(size, b"\0")[:size]
        assert path.read_bytes() == expected
        os.rename(path, root / f"{name}, moved")
        assert (root / f"{name}, moved").read_bytes() == expected


@workload
def file_system_size(root: Path, scratch: Path) -> None:
    (root / "file").write_bytes(b"x" * 10_000)
    said = os.statvfs(root)
    assert said.f_bsize > 0
    assert said.f_frsize > 0
    assert said.f_blocks >= said.f_bfree >= said.f_bavail > 0
    assert said.f_namemax >= 200
    assert run("df", "-P", root).splitlines()[1]
    assert run("df", "-i", root).splitlines()[1]


@workload
def at_the_same_time(root: Path, scratch: Path) -> None:
    """Eight threads, each with files of its own and one shared; nobody's bytes end up in another's."""
    (root / "shared").write_bytes(bytes(8 * 50_000))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = root / f"thread {number}"
            mine.mkdir()
            data = bytes([number + 65]) * 50_000
            with open(root / "shared", "r+b") as shared:
                for piece in range(10):
                    shared.seek(number * 50_000 + piece * 5_000)
                    shared.write(data[:5_000])
                    shared.flush()
            for count in range(25):
                path = mine / f"{count}"
                path.write_bytes(data[: count * 2_000])
                os.rename(path, mine / f"{count} renamed")
                assert (mine / f"{count} renamed").read_bytes() == data[: count * 2_000]
                if count % 5 == 0:
                    os.unlink(mine / f"{count} renamed")
            assert len(os.listdir(mine)) == 20
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert (root / "shared").read_bytes() == b"".join(bytes([n + 65]) * 50_000 for n in range(8))


@workload
def locks(root: Path, scratch: Path) -> None:
    """flock and record locks hold between processes of this machine."""
    path = root / "lock"
    path.write_text("x" * 100)
    for kind, held in [("-x", False), ("-s", True)]:
        script = 'exec 9< "$1"; flock $2 -n 9; flock -s -n "$1" echo shared || echo no'
        done = run("bash", "-c", script, "-", path, kind)
        assert done.strip() == ("shared" if held else "no")
    record = (
        "import fcntl, os, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)\n"
        "if os.fork() == 0:\n"
        "    other = open(sys.argv[1], 'r+b')\n"
        "    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 50)\n"
        "    try: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 8)\n"
        "    except OSError: os._exit(7)\n"
        "    os._exit(1)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 7\n"
    )
    run("python3", "-c", record, path)
