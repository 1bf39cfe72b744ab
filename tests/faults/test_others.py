"""Two mounts and a direct client change the same names at random: whoever loses is kept, and told of."""

from __future__ import annotations

import errno
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import SEED, Bench
from tests.mount.cases import LONG
from tests.mount.mounting import Mount

NAMES = [f"n{number}" for number in range(4)]
STEPS = 300 if LONG else 50
SEEDS = range(SEED, SEED + (20 if LONG else 2))


@dataclass
class History:
    """Each update has a content of its own; those in `replaced` were read by who wrote in their place."""

    chance: random.Random
    contents: dict[int, bytes] = field(default_factory=dict)

    replaced: set[int] = field(default_factory=set)

    def update(self) -> tuple[int, bytes]:
        """A content that nobody has written yet."""
        number = len(self.contents) + 1
        self.contents[number] = b"%d\n" % number + self.chance.randbytes(self.chance.choice([0, 100, 50_000]))
        return number, self.contents[number]

    def number(self, data: bytes) -> int:
        """Which update this is, whole."""
        number = int(data.partition(b"\n")[0])
        assert data == self.contents[number], f"update {number} is not what was written"
        return number


def write_in_mount(path: Path, history: History) -> None:
    """Replace what is there, having read it through the same handle; or create."""
    _, data = history.update()
    while True:
        try:
            with open(path, "r+b", buffering=0) as file:
                known = history.number(file.read())
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
            history.replaced.add(known)
        return


def change_directly(bench: Bench, key: str, history: History) -> None:
    """Put or delete on condition that nobody was faster, as a well-behaved client does."""
    client: Any = bench.case.client
    number, data = history.update()
    while True:
        try:
            known = client.get_object(Bucket=bench.case.bucket, Key=key)
            condition = {"IfMatch": known["ETag"]}
            seen = history.number(known["Body"].read())
        except client.exceptions.NoSuchKey:
            condition, seen = {"IfNoneMatch": "*"}, None
        try:
            if seen is not None and history.chance.random() < 0.2:
                client.delete_object(Bucket=bench.case.bucket, Key=key, **condition)
                history.replaced.add(number)  # it was never written
            else:
                client.put_object(Bucket=bench.case.bucket, Key=key, Body=data, **condition)
        except client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
                raise
            continue
        if seen is not None:
            history.replaced.add(seen)
        return


def settle(mounts: list[Mount]) -> None:
    for mount in mounts:
        mount.sync()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_update_vanishes(seed: int, bench: Bench) -> None:
    """Each update is in the store at the end, unless somebody who had read it wrote something else."""
    history = History(random.Random(seed))
    mounts = [bench.mount("--ttl", "0.3", name=name) for name in ("one", "two")]
    for _ in range(STEPS):
        who, name = history.chance.randrange(5), history.chance.choice(NAMES)
        if who == 4:
            change_directly(bench, name, history)
        else:
            write_in_mount(mounts[who % 2].root / name, history)
        if history.chance.random() < 0.05:
            mounts[history.chance.randrange(2)].sync()
        time.sleep(history.chance.choice([0, 0, 0.02, 0.1, 0.3]))
    settle(mounts)
    settle(mounts)
    found = bench.files()
    here = [history.number(data) for data in found.values()]
    assert len(here) == len(set(here)), f"an update is there twice: {sorted(here)}"
    gone = set(history.contents) - set(here) - history.replaced
    assert not gone, f"updates {sorted(gone)} have vanished, nobody had read them"
    copies = {key for key in found if ".conflict-" in key}
    assert copies, "nobody was in anybody's way: this shows nothing"
    assert set(found) - copies <= set(NAMES)
    told = {path.lstrip("/") for mount in mounts for path in mount.status()["conflicts"]}
    assert copies == told
    for mount in mounts:
        mount.umount()
    mounts[0].remount(fresh_state=True)
    names = os.listdir(mounts[0].root)
    assert {name: (mounts[0].root / name).read_bytes() for name in names} == found
