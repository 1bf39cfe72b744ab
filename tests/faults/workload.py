"""An application under faults: it changes a tree at random, and reads what others have put there."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.conftest import Bench
from tests.faults.fault_proxy import Rule
from tests.mount import writer
from tests.mount.cases import LONG

STORED = 12
SMALL = (1, 500, 4096, 60_000, 250_000, 1_000_000)
"""Sizes of objects that are read with one request."""
LARGE = (1_500_000, 2_500_000)
"""Sizes of objects that are read with several."""
IN_PARTS = (8 << 20) + 70_000
"""The size of a file that is uploaded in parts."""


class Work:
    """Random steps in a mount, each of which has to succeed, and what must be there by then.

    Some files (`stored`), in the folder "old", were in the store before; those in "remote0" and so on are
    left alone.
    """

    def __init__(self, bench: Bench, seed: int, *, stored: int = STORED) -> None:
        self.model = writer.Model()
        self.chance = random.Random(seed)
        self.remote: dict[str, bytes] = {}
        self.remote_folders: set[str] = set()
        self.longest_s = 0.0
        self.steps = 0
        self.wrote_in_parts = False
        self.fsyncs = 0.0  # the share of writes that end with an fsync, which waits for the store
        self._bench = bench
        bench.case.write("old/", b"")
        self.model.folders.add("old")
        for number in range(stored):
            self.model.files[f"old/f{number:03d}"] = data = self.chance.randbytes(3000 * number)
            bench.case.write(f"old/f{number:03d}", data)

    def put_remote(self, sizes: tuple[int, ...], count: int) -> list[str]:
        """New objects that nobody has read yet, in a folder of their own: whoever reads one is likely to be
        given its neighbours. Their keys."""
        names = []
        folder = f"remote{len(self.remote_folders)}"
        self.remote_folders.add(folder)
        for number in range(count):
            names.append(name := f"{folder}/{number:04d}")
            self.remote[name] = self.chance.randbytes(self.chance.choice(sizes))
            self._bench.case.write(name, self.remote[name])
        return names

    def step(self, root: Path) -> None:
        """Do the next thing. Raises OSError as an application sees it; AssertionError if it sees nonsense."""
        begun = time.monotonic()
        self.steps += 1
        kind = self.chance.choice(["write"] * 6 + ["list", "chmod", "read"])
        files = sorted(self.model.files)
        if kind == "list":
            self.check_names(root, self.chance.choice(["", *sorted(self.model.folders)]))
        elif kind == "chmod" and files:
            path = root / self.chance.choice(files)
            mode = self.chance.randrange(0o400, 0o777)
            path.chmod(mode)
            assert path.stat().st_mode & 0o777 == mode
        else:
            step = writer.choose(self.model, self.chance, self.fsyncs)
            writer.carry_out(root, step)
            self.model.apply(step)
            path = step.get("to", step["path"])
            if kind == "read" and path in self.model.files:
                assert (root / path).read_bytes() == self.model.files[path], (
                    f"{path!r} is not what was written"
                )
        self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def write_in_parts(self, root: Path, name: str) -> None:
        """A file that is uploaded in parts, beside what `put_remote` has put: no step replaces it there."""
        self.wrote_in_parts = True
        self.remote[f"remote0/{name}"] = data = self.chance.randbytes(IN_PARTS)
        (root / "remote0" / name).write_bytes(data)

    def check_names(self, root: Path, folder: str) -> None:
        """The directory lists what is in it, and nothing else."""
        prefix = f"{folder}/" if folder else ""
        every = [*self.model.files, *self.model.folders, *self.remote]
        wanted = {name[len(prefix) :].split("/")[0] for name in every if name.startswith(prefix)}
        found = set(os.listdir(root / folder))
        assert found == wanted, (
            f"{folder!r} lacks {sorted(wanted - found)}, has {sorted(found - wanted)} too many"
        )

    def check_mount(self, root: Path) -> None:
        """The whole tree, byte for byte, the objects of others included."""
        files, folders = writer.look(root)
        expected = writer.Model(self.model.files | self.remote, self.model.folders | self.remote_folders)
        expected.compare(files, folders)

    def check_store(self) -> None:
        """The bucket, asked directly, byte for byte: nothing is missing, nothing doubled."""
        expected = writer.Model(self.model.files | self.remote)
        expected.compare(self._bench.files(), set())
        markers = {key for key in self._bench.keys() if key.endswith("/")}
        wanted = {f"{name}/" for name in self.model.folders}
        if "remote0/" in markers and self.wrote_in_parts:
            wanted.add("remote0/")  # a file that was uploaded late has a time of its own: the marker tells so
        assert markers == wanted, f"lacks {sorted(wanted - markers)}, has {sorted(markers - wanted)} too many"


class Reader(threading.Thread):
    """Reads each of these files once, whole; `wrong` and `errors` tell of what was not as it should be."""

    def __init__(self, root: Path, expected: dict[str, bytes]) -> None:
        super().__init__(name="reader")
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self.read = 0
        self._root = root
        self._expected = expected

    def run(self) -> None:
        for name, data in self._expected.items():
            try:
                found = (self._root / name).read_bytes()
            except OSError as error:
                self.errors.append(f"{name} of {len(data)} bytes: {errno.errorcode.get(error.errno or 0)}")
                continue
            self.read += 1
            if found != data:
                differ = sum(a != b for a, b in zip(found, data, strict=False))
                self.wrong.append(f"{name}: {len(found)} of {len(data)} bytes, {differ} other ones")


@contextmanager
def for_a_while(bench: Bench, rule: Rule, seconds: float) -> Iterator[threading.Event]:
    """Have it fail for so long, and on until it has; the event is set when all is well again.

    A timer heals it, because whoever is in the mount may be waiting for just that.
    """
    healed, over = threading.Event(), threading.Event()
    bench.proxy.fail(rule)

    def heal() -> None:
        deadline = time.monotonic() + seconds + 30
        while not bench.proxy.fired[rule.fault] and time.monotonic() < deadline and not over.wait(0.05):
            pass
        bench.proxy.heal()
        healed.set()

    timer = threading.Timer(60 if LONG else seconds, heal)
    timer.start()
    try:
        yield healed
    finally:
        over.set()
        timer.join()
