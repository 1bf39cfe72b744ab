"""The work on a mount, one function a group of rows. Each checks what it did, outside of its clocks."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.benchmarks.rows import KIB, MIB
from scripts.benchmarks.run import Run

PAGE = 4 * KIB


def big(run: Run) -> None:
    """One big file: written, read in several states of the caches, compared, read at random."""
    inputs, name = run.inputs, "big"
    run.fresh()
    target = run.root / name
    clock = run.start("write-big")
    run.tool("dd", f"if={inputs.big}", f"of={target}", "bs=1M", "conv=fsync")
    run.wait_for_sizes({name: len(inputs.big_data)})
    run.record(clock)
    run.wait_for_contents({name: inputs.big_data})

    run.fresh()
    target = run.root / name
    for row, dropped in (("read-big-cold", False), ("read-big-again", True), ("read-big-warm", False)):
        if dropped:
            run.drop_caches(target)
        clock = run.start(row)
        run.tool("dd", f"if={target}", "of=/dev/null", "bs=1M")
        run.record(clock)

    run.fresh()
    clock = run.start("cmp-big-cold")
    run.tool("cmp", run.root / name, inputs.big)
    run.record(clock)

    run.fresh()
    _random_reads(run, run.root / name)


def _random_reads(run: Run, file: Path) -> None:
    data = run.inputs.big_data
    # Each page once: a page that is read twice comes from the kernel, and nobody is measured by that.
    places = list(range(0, len(data), PAGE))
    random.Random(1).shuffle(places)
    wrong: list[int] = []
    count = 0
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        clock = run.start("random-read")
        until = time.perf_counter() + run.sizes.random_read_s
        for at in places:
            if os.pread(descriptor, PAGE, at) != data[at : at + PAGE]:
                wrong.append(at)
            count += 1
            if time.perf_counter() > until:
                break
        run.record(clock, count)
    finally:
        os.close(descriptor)
    run.check(not wrong, f"4 KiB at {wrong[:1]} were read with other bytes than were written")


def small(run: Run) -> None:
    """Many small files: copied in, and read one after another."""
    contents = run.inputs.small_contents()
    run.fresh()
    folder = run.root / "small"
    folder.mkdir()
    clock = run.start("cp-small")
    run.tool("cp", *(run.inputs.small / name for name in contents), folder)
    run.record(clock)
    run.wait_for_sizes({f"small/{name}": len(data) for name, data in contents.items()})
    run.record(clock, row="cp-small-stored")
    run.wait_for_contents({f"small/{name}": data for name, data in contents.items()})

    run.fresh()
    out = run.scratch / "cat"
    for row in ("cat-small-cold", "cat-small-again"):
        clock = run.start(row)
        run.tool("sh", "-c", "cat small/*", cwd=run.root, out=out)
        run.record(clock)
        run.check(out.read_bytes() == b"".join(contents.values()), f"{row}: cat gave other bytes")


def listing(run: Run) -> None:
    """A folder of many entries, and as many in a tree, which other tools have put into the store."""
    many, tree = run.inputs.many(), run.inputs.tree()
    run.fresh()
    if run.place.truth is None:
        _fill(run.listing / "many", many)
        _fill(run.listing / "tree", tree)
        run.drop_caches()
    out = run.scratch / "listing"
    for row in ("ls-cold", "ls-again"):
        clock = run.start(row)
        run.tool("ls", "-l", run.listing / "many", out=out)
        run.record(clock)
        lines = [line.split() for line in out.read_text().splitlines()[1:]]
        run.check({words[-1]: int(words[4]) for words in lines} == many, f"{row}: other names or sizes")

    run.fresh()
    wanted = sorted(path for path, size in tree.items() if size > KIB)
    for row in ("find-cold", "find-again"):
        clock = run.start(row)
        run.tool("find", ".", "-type", "f", "-size", "+1k", cwd=run.listing / "tree", out=out)
        run.record(clock)
        found = sorted(line.removeprefix("./") for line in out.read_text().splitlines())
        run.check(found == wanted, f"{row}: {len(found)} files were found instead of {len(wanted)}")


def _fill(folder: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))


def edits(run: Run) -> None:
    """Changes of what is there: appends, writes in the middle, a folder that gets its name last."""
    run.fresh()
    log = run.root / "log"
    content = random.Random(2).randbytes(MIB)
    _write(log, content)
    run.wait_for_contents({"log": content})
    clock = run.start("append")
    for line in (b"first\n", b"second\n"):
        with open(log, "ab") as file:
            file.write(line)
    run.record(clock)
    run.check(log.read_bytes() == content + b"first\nsecond\n", "what was appended is not read back")
    run.wait_for_contents({"log": content + b"first\nsecond\n"})

    _random_writes(run)

    texts = {f"f{number}": f"{number}\n".encode() * 500 for number in range(10)}
    clock = run.start("folder")
    (run.root / "new").mkdir()
    for name, text in texts.items():
        (run.root / "new" / name).write_bytes(text)
    os.rename(run.root / "new", run.root / "done")
    read = {name: (run.root / "done" / name).read_bytes() for name in os.listdir(run.root / "done")}
    run.record(clock)
    run.check(read == texts, "the renamed folder has other files")
    run.check(not (run.root / "new").exists(), "the renamed folder is still there under its old name")
    run.wait_for_contents({f"done/{name}": text for name, text in texts.items()})


def _random_writes(run: Run) -> None:
    places, count = random.Random(3), run.sizes.random_writes
    model = bytearray(places.randbytes(run.sizes.random_file_bytes))
    file = run.root / "random"
    _write(file, model)
    run.wait_for_contents({"random": bytes(model)})
    changes = [(places.randrange(len(model) // PAGE) * PAGE, places.randbytes(PAGE)) for _ in range(count)]
    descriptor = os.open(file, os.O_RDWR)
    try:
        clock = run.start("random-write")
        for at, page in changes:
            os.pwrite(descriptor, page, at)
        os.fsync(descriptor)
        run.record(clock, count)
    finally:
        os.close(descriptor)
    for at, page in changes:
        model[at : at + PAGE] = page
    run.check(file.read_bytes() == model, "random writes are not read back")
    run.wait_for_contents({"random": bytes(model)})


def _write(file: Path, content: bytes | bytearray) -> None:
    with open(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def sqlite(run: Run) -> None:
    """An SQLite file in its default journal mode, a row a transaction."""
    run.fresh()
    path = run.root / "data.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
        clock = run.start("sqlite")
        for number in range(run.sizes.transactions):
            database.execute("BEGIN")
            database.execute("INSERT INTO t (value) VALUES (?)", (f"value {number}" * 20,))
            database.execute("COMMIT")
        run.record(clock)
    finally:
        database.close()
    run.wait_for_contents({"data.sqlite": path.read_bytes()})  # a peer may write back later
    run.fresh()
    database = sqlite3.connect(run.root / "data.sqlite")
    try:
        found = database.execute("PRAGMA integrity_check").fetchall()
        rows = database.execute("SELECT count(*), min(value), max(value) FROM t").fetchone()
    finally:
        database.close()
    run.check(found == [("ok",)], f"the data base is broken after a new mount: {found}")
    values = sorted(f"value {number}" * 20 for number in range(run.sizes.transactions))
    run.check(rows == (len(values), values[0], values[-1]), f"rows are missing after a new mount: {rows}")


def tree(run: Run) -> None:
    """A repository is cloned and unpacked, and everything removed."""
    source = run.inputs.repository
    names = [str(file.relative_to(source)) for file in sorted(source.glob("d*/*"))]
    run.fresh()
    clone = run.root / "clone"
    clock = run.start("git")
    run.tool("git", "clone", "--quiet", f"file://{source}", clone)
    run.tool("git", "status", "--porcelain", cwd=clone, out=run.scratch / "status")
    run.tool("git", "fsck", "--full", "--strict", cwd=clone)
    run.record(clock)
    run.check((run.scratch / "status").read_bytes() == b"", "git status sees changes in a new clone")
    run.same_files(source, clone, names)

    clock = run.start("tar")
    run.tool("tar", "-xf", run.inputs.tar, "-C", run.root)
    run.record(clock)
    run.same_files(source, run.root / "repository", names)
    run.wait_for_contents({f"repository/{name}": (source / name).read_bytes() for name in names})
    run.wait_for_contents({f"clone/{name}": (source / name).read_bytes() for name in names})

    clock = run.start("rm")
    run.tool("rm", "-rf", clone, run.root / "repository")
    run.record(clock)
    run.check(os.listdir(run.root) == [], "rm -rf left something")
    run.wait_for_nothing()


def huge(run: Run) -> None:
    """A folder of very many entries, which other tools have put into the store."""
    wanted = run.sizes.huge_entries
    run.fresh()
    _read_folder(run, "huge", wanted)
    run.fresh()
    out = run.scratch / "listing"
    clock = run.start("huge-ls")
    run.tool("ls", "-l", run.listing / "huge", out=out)
    run.record(clock)
    found = len(out.read_text().splitlines()) - 1
    run.check(found == wanted, f"ls -l tells {found} entries instead of {wanted}")
    run.restart()
    _read_folder(run, "huge", wanted, row="huge-again")


def million(run: Run) -> None:
    """A folder of still more of them."""
    run.fresh()
    _read_folder(run, "million", run.sizes.million_entries)


def _read_folder(run: Run, name: str, wanted: int, row: str = "") -> None:
    """As `ls -f` does: entries in the order in which they come."""
    row = row or name
    clock = run.start(f"{row}-first")
    with os.scandir(run.listing / name) as entries:
        names = [next(entries).name]
        run.record(clock)
        names += [entry.name for entry in entries]
    run.record(clock, row=f"{row}-all")
    run.check(len(names) == wanted, f"{len(names)} entries were found instead of {wanted}")
    run.check(len(set(names)) == wanted, "entries were found twice")


GROUPS: Mapping[str, Callable[[Run], None]] = {
    "big": big,
    "small": small,
    "listing": listing,
    "edits": edits,
    "sqlite": sqlite,
    "tree": tree,
    "huge": huge,
    "million": million,
}
"""The function of each group of rows."""
