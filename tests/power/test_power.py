"""The power is cut under a state directory: what was fsynced is there, and nothing that nobody wrote."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mountstore.registry import open_store
from tests.mount.cases import LONG, local_case
from tests.mount.waiting import wait_until
from tests.power.disks import Disk, stop
from tests.power.history import History
from tests.torture.driver import look
from tests.vfs.mounted import running

PROJECT = Path(__file__).resolve().parents[2]
CUTS = 50 if LONG else 10


def work_until_cut(
    where: Disk, url: str, journal: Path, seed: int, steps: int, wait_s: float, fsync: str
) -> None:
    """Let a Vfs work, and cut the power of its disk a moment after so many steps."""
    options = ["--fsync", fsync, "--fsyncs=0.3", "--drains=0.03", "--steps=100000"]
    places = [url, str(where.root / "state"), str(journal), str(seed)]
    words = [sys.executable, "-m", "tests.torture.driver", *places, *options]
    errors = journal.with_suffix(".errors")
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            words, cwd=PROJECT, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stderr=stderr
        ) as process,
    ):

        def begun() -> bool:
            assert process.poll() is None, errors.read_text()
            return journal.exists() and journal.read_bytes().count(b'"done"') >= steps

        try:
            wait_until("the process has worked", begun)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(wait_s)
            # Without power a process does nothing more: above all it uploads nothing of what is lost.
            stop(process.pid)
            where.cut()
        finally:
            process.kill()


@pytest.mark.parametrize("fsync", ["local", "remote"])
async def test_cuts_at_random_moments(
    power: Disk, fsync: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = local_case("sqlite", tmp_path)
    state = power.root / "state"
    history = History()
    history.begin({}, set())
    fsyncs = 0
    for number in range(CUTS):
        seed = int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")) * 1000 + number
        chance = random.Random(seed)
        journal = tmp_path / f"journal-{number}"
        steps, wait_s = chance.randrange(5, 60), chance.uniform(0, 0.05)
        work_until_cut(power, case.url, journal, seed, steps, wait_s, fsync)
        power.restore()
        monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda number=number: f"boot {number}")
        history.read(journal, whole=fsync == "local")
        fsyncs += history.fsyncs
        print(f"cut {number}, seed {seed}: {history.steps} steps, {len(history.synced)} files synced since")
        with open_store(case.url) as store:
            async with running(store, state, fsync=fsync) as m:
                if fsync == "local":
                    # At once, and from here: the store need not have it.
                    history.check_synced({name: await m.read_file(name) for name in history.synced})
                await m.drain()
                found = await look(m)
                history.check(*found)
            assert {k: bytes(store.get(k)) for k in store.keys() if not k.endswith("/")} == found[0]
        os.sync()
        history.begin(*found)
    assert fsyncs > CUTS
