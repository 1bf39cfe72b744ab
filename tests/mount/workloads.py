"""What people do in a directory with their tools. See tools.py for what a workload is."""

from __future__ import annotations

import os
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

from tests.mount.source import FILES, build_source
from tests.mount.tools import run, shell, workload
from tests.mount.tree import assert_same, digest, snapshot

# -- whole trees ------------------------------------------------------------------------------------


@workload
def cp_a(root: Path, scratch: Path) -> None:
    source = build_source(scratch / "source")
    run("cp", "-a", source, root / "copy")
    assert_same(snapshot(source), snapshot(root / "copy"), what="cp -a")
    assert sum(one.kind == "file" for one in snapshot(root / "copy").values()) == FILES


@workload
def tar_x(root: Path, scratch: Path) -> None:
    source = build_source(scratch / "source", seed=4)
    run("tar", "--format=posix", "-cf", scratch / "source.tar", "-C", scratch, "source")
    run("tar", "-xpf", scratch / "source.tar", "-C", root)
    assert_same(snapshot(source), snapshot(root / "source"), what="tar x")


@workload
def rsync_twice(root: Path, scratch: Path) -> None:
    source = build_source(scratch / "source", seed=5)
    exact = "--modify-window=-1"  # times to the nanosecond
    first = run("rsync", "-a", exact, "--stats", f"{source}/", f"{root}/to/")
    assert f"Number of regular files transferred: {FILES:,}" in first, first
    second = run("rsync", "-ai", exact, "--stats", f"{source}/", f"{root}/to/")
    assert "Number of regular files transferred: 0\n" in second, second
    itemized, _, _ = second.partition("\nNumber of files:")
    assert itemized.strip() == "", f"the second rsync found something to change:\n{itemized}"
    assert_same(snapshot(source), snapshot(root / "to"), what="rsync -a")
    (source / "dir 00" / "new").write_text("one more\n")
    third = run("rsync", "-ai", exact, "--stats", "--delete", f"{source}/", f"{root}/to/")
    assert "Number of regular files transferred: 1\n" in third, third
    assert_same(snapshot(source), snapshot(root / "to"), what="rsync -a of one more file")


@workload
def rm_rf(root: Path, scratch: Path) -> None:
    source = build_source(scratch / "source", files=300, seed=6)
    run("cp", "-a", source, root / "doomed")
    run("cp", "-a", source, root / "kept")
    run("rm", "-rf", root / "doomed")
    assert os.listdir(root) == ["kept"]
    run("mkdir", root / "doomed")
    assert os.listdir(root / "doomed") == []
    assert_same(snapshot(source), snapshot(root / "kept"), what="what stands beside rm -rf")


@workload
def find(root: Path, scratch: Path) -> None:
    source = build_source(scratch / "source", files=400, seed=7)
    run("cp", "-a", source, root / "source")
    for test in [
        ["-type", "f"],
        ["-type", "d", "-empty"],
        ["-type", "l"],
        ["-perm", "-u+x", "-type", "f"],
        ["-size", "+3k", "-type", "f"],
        ["-name", "*é*"],
        ["-newermt", "2018-06-01"],
        ["-not", "-type", "d", "-printf", "%P %y %s %m %T@ %l\\n"],
    ]:
        wanted = sorted(run("find", ".", *test, cwd=source).splitlines())
        assert wanted, f"find {test} finds nothing to compare"
        assert sorted(run("find", ".", *test, cwd=root / "source").splitlines()) == wanted, test
    count = run("bash", "-c", "find . -type f -exec cat {} + | sha256sum", cwd=source)
    assert len(count) > 64
    assert run("du", "-sb", "--apparent-size", root / "source").split()[0].isdigit()


@workload
def git(root: Path, scratch: Path) -> None:
    env = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "init.defaultBranch",
        "GIT_CONFIG_VALUE_1": "main",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_TERMINAL_PROMPT": "0",
    }

    def git_in(folder: Path, *words: str) -> str:
        return run("git", *words, cwd=folder, env=env)

    origin = scratch / "origin"
    build_source(origin, files=200, seed=8)
    git_in(origin, "init", "--quiet")
    git_in(origin, "add", "--all")
    git_in(origin, "commit", "--quiet", "-m", "first")
    run("git", "clone", "--quiet", f"file://{origin}", root / "clone", env=env)
    clone = root / "clone"
    assert git_in(clone, "status", "--porcelain") == ""
    changed = clone / "dir 00" / "notes.txt"
    changed.write_text("a line\n")
    with open(clone / "odd ünïcode %41" / "UPPER", "ab") as file:
        file.write(b"more")
    assert len(git_in(clone, "status", "--porcelain").splitlines()) == 2
    for number in range(5):
        with open(changed, "a") as text:
            text.write(f"line {number}\n")
        git_in(clone, "add", "--all")
        git_in(clone, "commit", "--quiet", "-m", f"change {number}")
    git_in(clone, "checkout", "--quiet", "-b", "side", "HEAD~3")
    git_in(clone, "mv", "dir 00/notes.txt", "moved.txt")
    git_in(clone, "commit", "--quiet", "-m", "moved")
    git_in(clone, "merge", "--quiet", "-m", "merged", "main")
    git_in(clone, "gc", "--quiet")
    assert git_in(clone, "status", "--porcelain") == ""
    said = git_in(clone, "fsck", "--full", "--strict")
    assert "error" not in said, said
    assert int(git_in(clone, "rev-list", "--count", "HEAD")) == 8
    git_in(clone, "push", "--quiet", "origin", "side")
    assert git_in(origin, "rev-parse", "side") == git_in(clone, "rev-parse", "side")


# -- data bases and editors -------------------------------------------------------------------------


def _transactions(path: Path, journal_mode: str, count: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        granted = connection.execute(f"pragma journal_mode={journal_mode}").fetchone()[0]
        assert granted == journal_mode
        connection.execute("create table if not exists t (n integer primary key, text text)")
        start = connection.execute("select count(*) from t").fetchone()[0]
        for number in range(start, start + count):
            connection.execute("begin immediate")
            connection.execute("insert into t values (?, ?)", (number, f"row {number} " * 20))
            connection.execute("update t set text = text || '.' where n = ?", (number // 2,))
            connection.execute("commit")
        connection.execute("begin")
        connection.execute("delete from t")
        connection.execute("rollback")
        assert connection.execute("select count(*) from t").fetchone()[0] == start + count
        assert connection.execute("pragma integrity_check").fetchone()[0] == "ok"
    finally:
        connection.close()


@workload
def sqlite_rollback_journal(root: Path, scratch: Path) -> None:
    _transactions(root / "rollback.db", "delete", 200)
    _transactions(scratch / "rollback.db", "delete", 200)
    assert os.listdir(root) == ["rollback.db"], "the journal is still there"
    with open(root / "rollback.db", "rb") as ours, open(scratch / "rollback.db", "rb") as other:
        assert ours.read()[4096:] == other.read()[4096:]  # the first page counts changes of the schema


@workload
def sqlite_wal(root: Path, scratch: Path) -> None:
    """A write-ahead log keeps its index in a shared mapping; a second process reads meanwhile."""
    path = root / "wal.db"
    _transactions(path, "wal", 30)
    count = "sqlite3.connect(sys.argv[1]).execute('select count(*) from t').fetchone()[0]"
    reader = f"import sqlite3, sys; print({count})"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("insert into t values (1000000, 'not checkpointed')")
        assert int(run(sys.executable, "-c", reader, path)) == 31
    finally:
        connection.close()
    _transactions(path, "wal", 20)
    assert os.listdir(root) == ["wal.db"]


def _save(path: Path, text: str) -> None:
    """Write a new file, make it durable, rename it over the old one, make that durable."""
    temporary = path.with_name(f".{path.name}.swp~")
    with open(temporary, "x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o640)
    os.rename(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@workload
def editor_save(root: Path, scratch: Path) -> None:
    path = root / "text.txt"
    for number in range(20):
        _save(path, f"version {number}\n" * (number + 1))
        assert path.read_text() == f"version {number}\n" * (number + 1)
    assert os.listdir(root) == ["text.txt"]
    # The other way of vim: the old file steps aside, a new one is written under the name.
    backup = root / "text.txt~"
    for number in range(5):
        os.rename(path, backup)
        with open(path, "x") as file:
            file.write(f"other {number}\n")
            file.flush()
            os.fsync(file.fileno())
        os.unlink(backup)
    assert path.read_text() == "other 4\n"
    assert os.listdir(root) == ["text.txt"]


@workload
def sed_i(root: Path, scratch: Path) -> None:
    for place in [root, scratch]:
        for number in range(10):
            (place / f"{number}.conf").write_text("".join(f"key{line}=old\n" for line in range(500)))
            os.chmod(place / f"{number}.conf", 0o640)
        run("bash", "-c", "sed -i -e 's/old/new/' -e '3d' *.conf", cwd=place)
    assert sorted(os.listdir(root)) == sorted(os.listdir(scratch))
    for number in range(10):
        path = root / f"{number}.conf"
        assert path.read_text() == (scratch / path.name).read_text()
        assert path.stat().st_mode & 0o7777 == 0o640


# -- writing in place -------------------------------------------------------------------------------


@workload
def append(root: Path, scratch: Path) -> None:
    for place in [root, scratch]:
        shell("for n in $(seq 200); do echo line $n >> log; done; cat log log >> twice; : >> empty", place)
    for name in ["log", "twice", "empty"]:
        assert (root / name).read_bytes() == (scratch / name).read_bytes()
    assert (root / "log").read_text().count("\n") == 200


@workload
def append_from_two_handles(root: Path, scratch: Path) -> None:
    path = root / "log"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    first, second = os.open(path, flags, 0o644), os.open(path, flags)
    try:
        for number in range(100):
            os.write(first, b"first %d\n" % number)
            os.write(second, b"second %d\n" % number)
    finally:
        os.close(first)
        os.close(second)
    wanted = b"".join(b"first %d\nsecond %d\n" % (number, number) for number in range(100))
    assert path.read_bytes() == wanted


@workload
def truncate(root: Path, scratch: Path) -> None:
    for place in [root, scratch]:
        (place / "data").write_bytes(bytes(range(256)) * 1000)
        for script in [
            "truncate -s 100001 data",
            "truncate -s 300007 data",
            "truncate -s 12 data; truncate -s 5M data",
            "truncate -s 0 other; truncate -s 70000 other; echo end >> other",
            "cp data zero; : > zero",
            "printf abc | dd of=zero bs=1 seek=9999 conv=notrunc status=none",
        ]:
            shell(script, place)
        with open(place / "handle", "w+b") as file:
            file.write(b"x" * 10_000)
            file.truncate(5_000)
            file.seek(7_000)
            file.write(b"y")
            file.truncate(6_500)
    for name in ["data", "other", "zero", "handle"]:
        assert (root / name).read_bytes() == (scratch / name).read_bytes(), name
        assert (root / name).stat().st_size == (scratch / name).stat().st_size


@workload
def dd_in_the_middle(root: Path, scratch: Path) -> None:
    """Parts of a file of 200 MB are written anew, in what is still local and in what is in the store."""
    size = 200_000_000
    local, ours = scratch / "big", root / "big"
    run("dd", "if=/dev/urandom", f"of={local}", "bs=1000000", f"count={size // 1_000_000}", "status=none")
    run("cp", local, ours)
    patch = scratch / "patch"
    for round_number, offset in enumerate([100_000_001, 1, size - 70_000, 8_388_600, size + 5]):
        patch.write_bytes(os.urandom(70_001))
        for target in [local, ours]:
            run(
                *["dd", f"if={patch}", f"of={target}", "bs=64k", f"seek={offset}"],
                *["oflag=seek_bytes", "conv=notrunc", "status=none"],
            )
        if round_number == 1:
            run("sync", ours)  # fsync: what follows is written into an object that the store has
    assert ours.stat().st_size == local.stat().st_size == size + 5 + 70_001
    assert digest(ours) == digest(local)


MMAP = """
import mmap, os, sys
path, seed = sys.argv[1], int(sys.argv[2])
import random
chance = random.Random(seed)
with open(path, "w+b") as file:
    file.write(chance.randbytes(1_000_000))
    file.flush()
    with mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as shared:
        for _ in range(200):
            at = chance.randrange(len(shared) - 5000)
            shared[at : at + 5000] = chance.randbytes(5000)
        shared.flush()
        file.seek(4242)
        file.write(b"written beside the mapping")
        file.flush()
        assert shared[4242:4268] == b"written beside the mapping"
        shared[500_000:500_010] = b"after that"
        file.seek(500_000)
        assert file.read(10) == b"after that"
with open(path, "r+b") as file:
    with mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as shared:
        shared[-3:] = b"end"  # no msync: munmap and close have to be enough
with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as private:
    assert private[-3:] == b"end"
"""


@workload
def mmap_writes(root: Path, scratch: Path) -> None:
    """In a process of its own: a mapping that loses its file ends the process."""
    for place in [root, scratch]:
        run(sys.executable, "-c", MMAP, place / "mapped", "11")
    assert digest(root / "mapped") == digest(scratch / "mapped")


@workload
def fio_verify(root: Path, scratch: Path) -> None:
    common = ["--size=12M", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"]
    common += ["--fallocate=none", "--randrepeat=1", "--minimal", f"--directory={root}"]
    run("fio", "--name=small", "--rw=randwrite", "--bs=4k", "--ioengine=psync", *common, cwd=scratch)
    run("fio", "--name=odd", "--rw=randwrite", "--bs=1k-128k", "--bs_unaligned=1", *common, cwd=scratch)
    run("fio", "--name=mapped", "--rw=randwrite", "--bs=16k", "--ioengine=mmap", *common, cwd=scratch)
    run("fio", "--name=mixed", "--rw=randrw", "--bs=8k", "--fsync=200", *common, cwd=scratch)
    assert sorted(os.listdir(root)) == ["mapped.0.0", "mixed.0.0", "odd.0.0", "small.0.0"]
    assert all(path.stat().st_size == 12 << 20 for path in root.iterdir())


# -- names ------------------------------------------------------------------------------------------


@workload
def mv(root: Path, scratch: Path) -> None:
    for place in [root, scratch]:
        build_source(place / "a", files=150, seed=9)
        shell(
            """
            mv a b                                   # a populated, nested directory
            mkdir c; mv b c/inside; mv c/inside/"dir 00" c/"dir 00"
            mv c/"dir 00" c/inside/"dir 00 again"
            echo one > one; echo two > two; mv -f one two
            mkdir target; mv two target/
            cp -r c/inside tmp; mv tmp target/moved; rm -r target/moved/links
            mkdir empty; mv -T target empty          # over an empty directory
            mv empty target
            mv c d; mkdir c; echo new > c/new        # the old name is free at once, and empty
            """,
            place,
        )
    # Directories that the script touched have times of their own.
    ours, other = snapshot(root), snapshot(scratch)
    untimed = [{name: replace(one, mtime_ns=0) for name, one in tree.items()} for tree in (other, ours)]
    assert_same(untimed[0], untimed[1], what="mv")
    assert (root / "target" / "two").read_text() == "one\n"
    assert os.listdir(root / "c") == ["new"]


@workload
def many_names(root: Path, scratch: Path) -> None:
    """A directory that is changed while it is being read: what stays is listed once, not less, not more."""
    folder = root / "many"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:05d}").touch()
    seen = []
    with os.scandir(folder) as listing:
        for count, one in enumerate(listing):
            seen.append(one.name)
            if count % 3 == 0:
                os.unlink(one.path)
    stayed = os.listdir(folder)
    assert len(stayed) == 1000
    assert len(seen) == len(set(seen)) == 1500
    assert set(stayed) <= set(seen)
    run("bash", "-c", "rm -f many/0*1 many/0*2", cwd=root)
    assert not any(name.endswith(("1", "2")) for name in os.listdir(folder))
