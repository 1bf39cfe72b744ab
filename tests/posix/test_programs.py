"""Programs that ask much of a file system, and what they leave is there for a mount of the store alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mount.cases import LASTING, LONG, StoreCase, make_case
from tests.mount.mounting import Mounts
from tests.mount.source import build_source
from tests.mount.tools import run
from tests.mount.tree import digest

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(params=LASTING if LONG else ["versitygw"])
def case(request: pytest.FixtureRequest, base: Path) -> StoreCase:
    return make_case(request.param, request, base)


ODD = "odd"
"""The job that fio can verify but once, wherever: it does not find its blocks of odd sizes again."""
FIO = {
    "sequential": ["--rw=write", "--bs=128k"],
    "random": ["--rw=randwrite", "--bs=4k"],
    "mixed": ["--rw=randrw", "--bs=8k", "--fsync=500"],
    "unaligned": ["--rw=randwrite", "--bs=4k", "--blockalign=512"],
    ODD: ["--rw=randwrite", "--bsrange=1k-64k", "--bs_unaligned=1"],
}


def fio(root: Path, scratch: Path, *more: str, names: Iterable[str] = FIO) -> None:
    """Each of the jobs, verified by itself."""
    size = "64M" if LONG else "12M"
    common = [
        f"--size={size}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--randrepeat=1",
    ]
    common += ["--fallocate=none", "--ioengine=psync", "--minimal", f"--directory={root}", *more]
    for name in names:
        run("fio", f"--name={name}", *FIO[name], *common, cwd=scratch)


def test_fio_verifies_again_after_a_new_mount(case: StoreCase, mounts: Mounts, tmp_path: Path) -> None:
    mount = mounts(case)
    fio(mount.root, tmp_path, "--do_verify=1")
    wanted = {path.name: digest(path) for path in mount.root.iterdir()}
    mount.umount()
    mount = mounts(case, name="fresh")
    fio(mount.root, tmp_path, "--verify_only=1", names=FIO.keys() - {ODD})
    assert {path.name: digest(path) for path in mount.root.iterdir()} == wanted


def test_dbench(case: StoreCase, mounts: Mounts) -> None:
    """Its script has a flush for each file that it writes: a PUT each."""
    mount = mounts(case)
    run("dbench", "-D", mount.root, "-t", "60" if LONG else "6", "2")
    mount.umount()


HEADER = "#define SCALE {scale}\nint part(int);\n"
MAKEFILE = """
CFLAGS = -O1 -Wall -MMD
objects = $(patsubst %.c,%.o,$(wildcard src/*.c))
program: main.o lib/libparts.a
\t$(CC) -o $@ $^
lib/libparts.a: $(objects)
\tmkdir -p lib
\trm -f $@
\tar rc $@ $(objects)
-include $(objects:.o=.d) main.d
"""


def test_make(case: StoreCase, mounts: Mounts) -> None:
    mount = mounts(case)
    root = mount.root / "project"
    (root / "src").mkdir(parents=True)
    (root / "Makefile").write_text(MAKEFILE)
    (root / "scale.h").write_text(HEADER.format(scale=1))
    count = 20
    for number in range(count):
        body = f'#include "../scale.h"\nint part{number}(void) {{ return SCALE * {number}; }}\n'
        (root / "src" / f"part{number}.c").write_text(body)
    declared = "\n".join(f"int part{number}(void);" for number in range(count))
    summed = " + ".join(f"part{number}()" for number in range(count))
    (root / "main.c").write_text(
        f'#include <stdio.h>\n{declared}\nint main(void) {{ printf("%d\\n", {summed}); return 0; }}\n'
    )
    run("make", "-j2", cwd=root)
    assert run(root / "program") == f"{sum(range(count))}\n"
    assert "up to date" in run("make", "-j2", cwd=root)
    (root / "scale.h").write_text(HEADER.format(scale=2))
    assert run("make", "-j2", cwd=root).count(" -c ") == count
    mount.umount()

    mount = mounts(case, name="fresh")
    root = mount.root / "project"
    assert "up to date" in run("make", "-j2", cwd=root), "times are what they were"
    assert run(root / "program") == f"{2 * sum(range(count))}\n"


def test_rsync_with_links_acls_and_attributes_finds_nothing_the_second_time(
    case: StoreCase, mounts: Mounts, tmp_path: Path
) -> None:
    source = build_source(tmp_path / "source", files=150)
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    (source / "link a").hardlink_to(files[0])
    (source / "dir 00" / "link b").hardlink_to(files[0])
    os.setxattr(files[1], "user.colour", b"gr\xfcn\0")
    os.setxattr(source, "user.colour", b"root")
    run("setfacl", "-m", "u:nobody:r", files[2])
    run("setfacl", "-d", "-m", "g:nogroup:rwx", source / "dir 00")
    os.mkfifo(source / "fifo")

    def rsync(target: Path) -> str:
        return run("rsync", "-aHAXi", "--modify-window=-1", f"{source}/", f"{target}/")

    mount = mounts(case, "--xattr", "--acl")
    assert rsync(mount.root / "to") != ""
    assert rsync(mount.root / "to") == ""
    mount.umount()
    mount = mounts(case, "--xattr", "--acl", name="fresh")
    assert rsync(mount.root / "to") == "", "for a new mount of the store, too"
    assert run("rsync", "-aHAXi", "--modify-window=-1", f"{mount.root}/to/", f"{source}/") == "", "and back"
    assert (mount.root / "to" / "link a").stat().st_nlink == 3
