"""Steps at random over a store that takes its time: requests overlap, and finish in any order.

In the end the store holds what the namespace says. And where the power is lost, so that the index is an
earlier one and the store is ahead of it, each file is what it was or has become since.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from mountstore.backends.memory import DictStore
from tests.mount.cases import LONG
from tests.mount.writer import Model, choose
from tests.power.history import History
from tests.torture.driver import carry_out, look
from tests.vfs.faulty import Fault, FaultyStore
from tests.vfs.mounted import Mounted, contents, running

FIRST = int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")) * 1000
SEEDS = range(FIRST, FIRST + (300 if LONG else 12))
LACKING: list[tuple[str, ...]] = [(), ("conditional_delete",), ("conditional_delete", "conditional_put")]
MOST_S = 0.02


class SlowStore(FaultyStore):
    """Each request takes a while to arrive, and its answer too."""

    def __init__(self, inner: DictStore, seed: int) -> None:
        super().__init__(inner, lacking=LACKING[seed % len(LACKING)])
        self._chance = random.Random(seed)

    def _enter(self, verb: str, key: str) -> Fault | None:
        fault = super()._enter(verb, key)
        time.sleep(self._chance.random() ** 3 * MOST_S)
        return fault

    def _leave(self, fault: Fault | None) -> None:
        time.sleep(self._chance.random() ** 3 * MOST_S)
        super()._leave(fault)


def next_step(model: Model, chance: random.Random, last: dict[str, Any] | None) -> dict[str, Any]:
    """What a writer does next; a folder that has just moved may well move back."""
    step = choose(model, chance, 0.05)
    if last is not None and chance.random() < 0.4:
        old, now = last["path"], last["to"]
        is_leaf = not any(name.startswith(f"{now}/") for name in model.folders)
        if now in model.folders and old not in model.folders and is_leaf:
            return {"do": "rename folder", "path": now, "to": old}
    return step


async def work(m: Mounted, model: Model, chance: random.Random, steps: int, journal: Path) -> None:
    """So many steps, noted one by one."""
    last = None
    with journal.open("a") as out:
        for _ in range(steps):
            step = next_step(model, chance, last)
            if step["do"] == "rename folder":
                last = step
            out.write(json.dumps(step) + "\n")
            await carry_out(m, step)
            out.write('"done"\n')
            model.apply(step)
            if chance.random() < 0.5:
                await trio.sleep(chance.random() ** 2 * 4 * MOST_S)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_store_follows(seed: int, store: DictStore, state: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    model = Model()
    async with running(SlowStore(store, seed), state, upload_delay_s=chance.choice([0.02, 0.3])) as m:
        for _ in range(2):
            await work(m, model, chance, chance.randrange(5, 80), tmp_path / "journal")
            await m.drain()
            model.compare(*await look(m))
            assert contents(store, markers=False) == model.files


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_earlier_index(
    seed: int, store: DictStore, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the state directory is as it was a while before the power went."""
    chance = random.Random(seed)
    history = History()
    history.begin({}, set())
    for number in range(2):
        journal, earlier = tmp_path / f"journal-{number}", tmp_path / f"earlier-{number}"
        async with running(SlowStore(store, seed), state, drain=False) as m:
            model = Model(*await look(m))
            await work(m, model, chance, chance.randrange(5, 50), journal)
            shutil.copytree(state, earlier)
            await work(m, model, chance, chance.randrange(5, 50), journal)
            await trio.sleep(chance.random() * 0.2)
            m.crash(tmp_path / f"left-{number}")
        shutil.rmtree(state)
        shutil.move(earlier, state)
        monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda number=number: f"boot {number}")
        history.read(journal, whole=False)
        history.synced = {}  # what was synced after the copy was made is not in it
        async with running(SlowStore(store, seed), state) as m:
            await m.drain()
            found = await look(m)
        history.check(*found)
        assert contents(store, markers=False) == found[0]
        history.begin(*found)
