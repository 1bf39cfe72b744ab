"""Two mounts and a direct client change the same names at random: whoever loses is kept, and told of.

`OTHERS_EXAMPLES` and `OTHERS_STEPS` in the environment make it look harder.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.faults.conftest import Bench
from tests.mount.cases import LONG
from tests.mount.mounting import Mount

EXAMPLES = int(os.environ.get("OTHERS_EXAMPLES", "40" if LONG else "2"))
STEPS = int(os.environ.get("OTHERS_STEPS", "100" if LONG else "30"))
FIRST = 4096  # bytes that a reader takes at once; the rest later
names = st.sampled_from([f"n{number}" for number in range(4)])
sizes = st.sampled_from([0, 100, 50_000, 600_000])
either = st.integers(0, 1)


@dataclass
class History:
    """Each update has a content of its own; those in `replaced` were read by who wrote in their place."""

    contents: dict[int, bytes] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)

    def update(self, size: int) -> tuple[int, bytes]:
        """A content that nobody has written yet."""
        number = len(self.contents) + 1
        self.contents[number] = b"%d\n" % number + random.Random(number).randbytes(size)
        return number, self.contents[number]

    def number(self, data: bytes) -> int:
        """Which update this is, whole."""
        number = int(data.partition(b"\n")[0])
        assert data == self.contents[number], f"update {number} is not what was written"
        return number


@dataclass
class Reader:
    """A file that was opened and of which the beginning was read."""

    fd: int
    path: Path
    began: bytes
    writes: int  # through this mount, to any name, so far


class Others(RuleBasedStateMachine):
    """Each example has a directory of its own in the same two mounts."""

    def __init__(self, bench: Bench, mounts: list[Mount], folder: str, copies: list[str]) -> None:
        super().__init__()
        self.bench = bench
        self.mounts = mounts
        self.folder = folder
        self.all_copies = copies
        self.history = History()
        self.readers: list[Reader] = []
        self.writes = [0, 0]
        self.moved: dict[str, int] = {}  # new names, by which mount
        for mount in mounts:
            (mount.root / folder).mkdir(exist_ok=True)

    def at(self, which: int, name: str) -> Path:
        return self.mounts[which].root / self.folder / name

    # -- in the mounts -----------------------------------------------------------------------------

    @rule(which=either, name=names, size=sizes)
    def write(self, which: int, name: str, size: int) -> None:
        """Replace what is there, having read it through the same handle; or create."""
        path, (_, data) = self.at(which, name), self.history.update(size)
        self.writes[which] += 1
        while True:
            try:
                with open(path, "r+b", buffering=0) as file:
                    known = self.history.number(file.readall())
                    file.truncate(0)
                    file.seek(0)
                    file.write(data)
            except FileNotFoundError:
                try:
                    with open(path, "xb", buffering=0) as file:
                        file.write(data)
                except FileExistsError:
                    continue
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                continue
            else:
                self.history.replaced.add(known)
            return

    @rule(which=either, name=names)
    def move(self, which: int, name: str) -> None:
        """Out of the way, whatever it is by now."""
        new = f"moved{len(self.moved)}"
        try:
            os.rename(self.at(which, name), self.at(which, new))
        except FileNotFoundError:
            return
        self.writes[which] += 1
        self.moved[new] = which

    # No preconditions: whether a name was there depends on what the mounts have done meanwhile.
    @rule(which=either, name=names)
    def begin_reading(self, which: int, name: str) -> None:
        if len(self.readers) == 4:
            return
        path = self.at(which, name)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            self.readers.append(Reader(fd, path, os.pread(fd, FIRST, 0), self.writes[which]))
        except OSError as error:
            os.close(fd)
            if error.errno != errno.ESTALE:
                raise

    @rule(which=st.integers(0, 3))
    def read_on(self, which: int) -> None:
        """One version from open to close, unless somebody wrote through this mount; or ESTALE."""
        if not self.readers:
            return
        reader = self.readers.pop(which % len(self.readers))
        try:
            rest = b"".join(iter(lambda: self._next(reader), b""))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return
        finally:
            os.close(reader.fd)
        mount = next(i for i in (0, 1) if reader.path.is_relative_to(self.mounts[i].root))
        if self.writes[mount] == reader.writes:
            self.history.number(reader.began + rest)

    @staticmethod
    def _next(reader: Reader) -> bytes:
        if not os.lseek(reader.fd, 0, os.SEEK_CUR):
            os.lseek(reader.fd, len(reader.began), os.SEEK_SET)
        return os.read(reader.fd, 65536)

    @rule(which=either)
    def sync(self, which: int) -> None:
        self.mounts[which].sync()

    # -- around them -------------------------------------------------------------------------------

    @rule(name=names, size=sizes, remove=st.integers(0, 4).map(lambda n: n == 0))
    def change_directly(self, name: str, size: int, remove: bool) -> None:
        """Put or delete on condition that nobody was faster, as a well-behaved client does."""
        client: Any = self.bench.case.client
        place = {"Bucket": self.bench.case.bucket, "Key": f"{self.folder}/{name}"}
        while True:
            try:
                known = client.get_object(**place)
                condition = {"IfMatch": known["ETag"]}
                seen = self.history.number(known["Body"].read())
            except client.exceptions.NoSuchKey:
                condition, seen = {"IfNoneMatch": "*"}, None
            if remove and seen is None:
                return
            try:
                if remove:
                    client.delete_object(**place, **condition)
                else:
                    _, data = self.history.update(size)
                    client.put_object(**place, Body=data, **condition)
            except client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                    raise
                if not remove:
                    self.history.replaced.add(len(self.history.contents))  # it was never written
                continue
            if seen is not None:
                self.history.replaced.add(seen)
            return

    @rule(name=names, size=sizes)
    def race(self, name: str, size: int) -> None:
        """All three at once, or nearly so."""
        self.write(0, name, size)
        self.write(1, name, size)
        self.change_directly(name, size, False)

    @rule(seconds=st.sampled_from([0.02, 0.1, 0.3]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)  # so that uploads and listings come in between, or do not

    # -- in the end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        while self.readers:
            self.read_on(0)
        for mount in [*self.mounts, *self.mounts]:
            mount.sync()
        inside = f"{self.folder}/"
        found = {
            key.removeprefix(inside): data
            for key, data in self.bench.files().items()
            if key.startswith(inside)
        }
        here: dict[int, list[str]] = {}
        for name, data in found.items():
            here.setdefault(self.history.number(data), []).append(name)
        for update, places in here.items():
            movers = {self.moved[name] for name in places if name in self.moved}
            # What both moved at once, to names of their own, is at both: no store moves.
            assert len(places) == 1 or (len(places) == 2 and movers == {0, 1}), f"{update} is at {places}"
        gone = set(self.history.contents) - set(here) - self.history.replaced
        assert not gone, f"updates {sorted(gone)} have vanished, nobody had read them"
        copies = {key for key in found if ".conflict-" in key}
        assert set(found) - copies <= {f"n{number}" for number in range(4)} | set(self.moved)
        told = {path for mount in self.mounts for path in mount.status()["conflicts"]}
        assert copies == {path.removeprefix(f"/{inside}") for path in told if path.startswith(f"/{inside}")}
        self.all_copies += copies


def test_no_update_vanishes(bench: Bench) -> None:
    """Each update is in the store at the end, unless somebody who had read it wrote something else."""
    mounts = [bench.mount("--ttl", "0.3", name=name) for name in ("one", "two")]
    numbers = itertools.count()
    copies: list[str] = []

    class HereAndNow(Others):
        def __init__(self) -> None:
            super().__init__(bench, mounts, f"example{next(numbers)}", copies)

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="OTHERS_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )
    assert copies, "nobody was in anybody's way: this shows nothing"
    for mount in mounts:
        mount.umount()
    found = bench.files()
    mounts[0].remount(fresh_state=True)
    root = mounts[0].root
    assert {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    } == found
