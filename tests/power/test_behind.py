"""The power goes, and the disk has the index as it was last synced or a while later, while the store has
everything that was sent since. Without a disk, so that there can be many of these.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.vfs.index import Index
from mountstore.vfs.staging import Layer
from tests.mount.cases import LONG
from tests.mount.writer import Model, choose
from tests.power.history import History
from tests.torture.driver import carry_out, look
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running

SEEDS = range(1000 if LONG else 2)
CUTS = 8


class OldDisk:
    """What of a state directory may be left: its state at the begin of the last sync that ended, or at any
    moment since."""

    def __init__(self, m: Mounted, copies: Path) -> None:
        copies.mkdir()
        self._state = m.state_dir
        self._staging = m.vfs._content._staging
        self._copies = copies
        self._index = m.vfs._index
        self._count = 0
        self._is_cut = False
        self._flushed: list[Path] = []
        m.vfs._content.sync_index()
        self.last = self._copy()
        self._watch(m.vfs._index)

    def _copy(self) -> Path:
        self._count += 1
        copy = self._copies / f"{self._count}"
        shutil.copytree(self._state, copy, ignore=shutil.ignore_patterns("*-shm"))
        for layer in [layer for layer in self._staging.unsynced if self._is_current(layer)]:
            path = copy / layer.path.relative_to(self._state)
            size = layer.synced_size if layer.was_synced else 0
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        return copy

    def _is_current(self, layer: Layer) -> bool:
        """Not if its file has been read from the index again since: this one may know less of it."""
        node = self._index.nodes.get(layer.ino)
        return node is not None and node.stack is not None and layer in node.stack.layers

    def _watch(self, index: Index) -> None:
        sync, sync_log = index.sync, index.sync_log

        def synced() -> None:
            sync()
            self._took(self._copy())

        async def log_synced() -> None:
            copy = self._copy()
            await sync_log()
            self._took(copy)

        index.sync = synced  # type: ignore[method-assign]
        index.sync_log = log_synced  # type: ignore[method-assign]

    def flush(self) -> None:
        """The kernel writes what it has, as it does now and then."""
        self._flushed.append(self._copy())

    def cut(self, chance: random.Random) -> Path:
        """The power goes: what the disk has by now."""
        self._is_cut = True
        return chance.choice([self.last, *self._flushed])

    def _took(self, copy: Path) -> None:
        if self._is_cut:
            return
        if int(copy.name) > int(self.last.name):
            self.last = copy
            self._flushed = [later for later in self._flushed if int(later.name) > int(copy.name)]
        else:
            shutil.rmtree(copy)


async def work(m: Mounted, disk: OldDisk, history: History, chance: random.Random) -> None:
    """Some steps, with time for uploads between some of them."""
    fsyncs = chance.choice([0.0, 0.1, 0.3])
    for _ in range(chance.randrange(5, 60)):
        now = Model(dict(history.model.files), set(history.model.folders))
        step = choose(now, chance, fsyncs)
        await carry_out(m, step)
        history._done(step, False)
        if chance.random() < 0.05:
            await m.drain()
        if chance.random() < 0.05:
            disk.flush()
        await trio.sleep(chance.choice([0, 0.002, 0.005, 0.01]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fsync", ["local", "remote"])
async def test_a_store_that_is_ahead(
    seed: int, fsync: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed += 10_000 * int(os.environ.get("MOUNTSTORE_TEST_SEED", "0"))
    chance = random.Random(seed)
    inner, state = DictStore(), tmp_path / "state"
    history = History()
    history.begin({}, set())
    for number in range(CUTS):
        history.synced = {}
        monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda number=number: f"boot {number}")
        store = FaultyStore(inner)
        async with running(store, state, fsync=fsync, drain=False) as m:
            disk = OldDisk(m, tmp_path / f"copies-{number}")
            await work(m, disk, history, chance)
            state = disk.cut(chance)
            store.dead = True
        monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda number=number: f"boot after {number}")
        async with running(inner, state, fsync=fsync) as m:
            await m.drain()
            files, folders = await look(m)
            history.check(files, folders)
        assert files == {k: v for k, v in contents(inner).items() if not k.endswith("/")}
        history.begin(files, folders)
