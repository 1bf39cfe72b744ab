"""SIGKILL of a mount's daemon at random moments under a writer, and what has to be there afterwards.

One implementation for tests/mount/test_kill.py and for `scripts/torture`, which goes on for as long as one
likes. Everything random comes from the seed of the run and the number of the kill.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.mount import writer
from tests.mount.cases import StoreCase
from tests.mount.mounting import Mount
from tests.mount.waiting import wait_until

FLAGS: list[list[str]] = [
    [],
    [],
    ["--ttl", "0.2"],
    ["--ttl", "600"],
    ["--fsync", "local"],
    ["--attrs", "listed"],
    ["--checkpoint", "0.3"],
    ["--uid", "1234", "--umask", "077"],
    ["--ttl", "0", "--fsync", "local", "--checkpoint", "1"],
]
"""What a mount may be started with after a kill; none of it changes what was acknowledged."""
_DEAD = ["Transport endpoint is not connected", "Software caused connection abort", "Input/output error"]


def files_in(case: StoreCase) -> dict[str, int]:
    """Size by key, without directory markers."""
    return {key: size for key, size in case.keys().items() if not key.endswith("/")}


def work_until_killed(mount: Mount, journal: Path, seed: int, after_s: float) -> None:
    """Let the writer work, and kill the daemon under it `after_s` after its first step."""
    words = [sys.executable, str(writer.__file__), str(mount.root), str(journal), str(seed)]
    errors = journal.with_suffix(".errors")
    with open(errors, "wb") as stderr, subprocess.Popen(words, stderr=stderr) as process:
        killer = threading.Timer(after_s, mount.kill_only)
        try:
            wait_until("the writer has begun", lambda: journal.exists() and journal.stat().st_size > 0)
            killer.start()
            process.wait(timeout=60)
        finally:
            killer.cancel()
            with contextlib.suppress(RuntimeError):  # it was never started
                killer.join()
            mount.kill()
            process.kill()
    said = errors.read_text()
    # Whatever the writer met was the death of the daemon, never an error while it lived.
    assert process.returncode == 3, said
    assert any(word in said for word in _DEAD), said


@dataclass
class Torture:
    """A run of kills on one store; every method raises AssertionError at the first thing that is lost."""

    case: StoreCase
    mount: Mount
    seed: int
    tell: Callable[[str], object] = print
    model: writer.Model = field(default_factory=writer.Model)
    pending_at: list[int] = field(default_factory=list)
    kills: int = 0
    synced: int = 0  # files that the store had to have at a kill

    def kill(self) -> None:
        """Mount with flags of some kind, look whether all is there, write, and kill it."""
        number = self.kills
        seed = self.seed * 1000 + number
        chance = random.Random(seed)
        flags = chance.choice(FLAGS)
        self.mount.start(*flags)
        self.model.verify(self.mount.root)
        journal = self.mount.base / f"journal-{number}"
        after_s = chance.uniform(0.02, 0.5)
        before = self.model.steps
        work_until_killed(self.mount, journal, seed, after_s)
        # What a killed daemon leaves is not an error: the next mount knows what to do about it.
        self.mount.fsck()
        self.model.read(journal)
        journal.unlink()
        in_store = files_in(self.case)
        pending = sum(in_store.get(name) != len(data) for name, data in self.model.files.items())
        pending += len(in_store.keys() - self.model.files.keys())
        if pending:
            self.pending_at.append(number)
        if "local" not in flags:
            self.synced += len(self.model.synced)
            lost = [
                name
                for name, data in self.model.synced.items()
                if name not in in_store or self.case.read(name) != data
            ]
            assert not lost, f"kill {number}: fsync had returned, and the store has something else: {lost}"
        self.kills += 1
        under_way = self.model.under_way
        self.tell(
            f"kill {number} (seed {seed}) after {after_s:.2f} s: {self.model.steps - before} steps,"
            f" {len(self.model.files)} files, {pending} not in the store,"
            f" under way: {under_way['do'] if under_way else 'nothing'} {' '.join(flags)}".rstrip()
        )

    def finish(self) -> None:
        """After the last kill: everything is there, in the store, and again from the store alone."""
        assert self.model.steps > 10 * self.kills, "the writer hardly worked"
        assert self.synced or self.kills < 20, "nothing was synced before any kill"
        assert self.pending_at, "nothing was pending at any kill: this has shown nothing"
        self.mount.start()
        self.model.verify(self.mount.root)
        assert self.mount.status()["conflicts"] == []
        self.mount.umount()
        self.mount.fsck("--verify-content")
        assert files_in(self.case) == {name: len(data) for name, data in self.model.files.items()}
        assert {key: self.case.read(key) for key in self.model.files} == self.model.files
        self.mount.remount(fresh_state=True)
        self.model.verify(self.mount.root)
        self.mount.umount()
        self.tell(
            f"{self.kills} kills, {self.model.steps} steps acknowledged, changes pending at"
            f" {len(self.pending_at)} kills, {self.synced} synced files found in the store: nothing is lost"
        )
