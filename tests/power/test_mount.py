"""The power is cut under the state directory of a mount, while a writer works in it."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mount import writer
from tests.mount.cases import LONG, local_case
from tests.mount.mounting import Mount, Mounts
from tests.mount.waiting import wait_until
from tests.power.disks import Disk, stop
from tests.power.history import History

CUTS = 12 if LONG else 2


def work_until_cut(mount: Mount, power: Disk, journal: Path, seed: int, steps: int, wait_s: float) -> None:
    """Let a writer work in the mount, and cut the power of the daemon's disk a moment after so many steps."""
    words = [sys.executable, str(writer.__file__), str(mount.root), str(journal), str(seed), "0.3"]
    errors = journal.with_suffix(".errors")
    with open(errors, "wb") as stderr, subprocess.Popen(words, stderr=stderr) as process:

        def worked() -> bool:
            assert process.poll() is None, errors.read_text()
            return journal.exists() and journal.read_bytes().count(b'"done"') >= steps

        try:
            wait_until("the writer has worked", worked)
            time.sleep(wait_s)  # a moment of no meaning
            pid = mount.pid
            # Without power a daemon does nothing more: above all it uploads nothing of what is lost.
            stop(pid)
            power.cut()
            mount.kill()
            wait_until("the daemon holds nothing open", lambda: ended(pid))
            assert process.wait(timeout=60) == 3, errors.read_text()
        finally:
            mount.kill()
            process.kill()


def ended(pid: int) -> bool:
    """Whether a process has closed its files: it is gone, or waits for its parent to hear of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start_the_machine_again(state: Path) -> None:
    """Have the next daemon find the state directory of another boot."""
    with contextlib.closing(sqlite3.connect(state / "index.sqlite")) as index, index:
        assert index.execute("UPDATE meta SET value='another' WHERE name='boot'").rowcount == 1


@pytest.mark.parametrize("fsync", ["local", "remote"])
def test_cuts_under_a_mount(power: Disk, fsync: str, base: Path, mounts: Mounts) -> None:
    case = local_case("sqlite", base)
    mount = mounts(case, "--fsync", fsync, state=power.root / "state", start=False, limit_s=180)
    history = History()
    history.begin({}, set())
    fsyncs = 0
    mount.start()
    for number in range(CUTS):
        seed = int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")) * 1000 + number
        chance = random.Random(seed)
        journal = base / f"journal-{number}"
        work_until_cut(mount, power, journal, seed, chance.randrange(20, 80), chance.uniform(0, 0.1))
        power.restore()
        start_the_machine_again(mount.state)
        history.read(journal, whole=fsync == "local")
        fsyncs += history.fsyncs
        mount.start()
        if fsync == "local":
            # At once, and from here: the store need not have it.
            history.check_synced({name: (mount.root / name).read_bytes() for name in history.synced})
        mount.sync()
        found = writer.look(mount.root)
        history.check(*found)
        stored = {key: case.read(key) for key in case.keys() if not key.endswith("/")}
        assert stored == found[0]
        os.sync()
        history.begin(*found)
    assert fsyncs > CUTS
    mount.umount()
