"""What a loss of power took is told by status until a clean umount."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.cli.waiting import loss_lines
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import running, until


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The machine is started again: it has another boot id."""
    return lambda name: monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda: name)


async def test_losses_are_told_until_a_clean_end(
    store: DictStore, state: Path, tmp_path: Path, restart: Callable[[str], None]
) -> None:
    store.put("old", b"as the store has it")
    async with running(store, state, upload_delay_s=60, fsync="local") as m:
        assert m.vfs.status().lost == []
        await m.write_file("synced", b"s" * 5000)
        await m.fsync("synced")
        await m.append("synced", b"t" * 5000)
        await m.patch("old", b"AS", 0)
        left = m.crash(tmp_path / "left")
    for file in (left / "staging").iterdir():
        os.truncate(file, min(file.stat().st_size, 5000))
        if file.stat().st_size < 5000:
            os.truncate(file, 0)
    restart("after the cut")
    async with running(store, left, upload_delay_s=60, drain=False) as m:
        told = {loss.path: loss.bytes_left for loss in m.vfs.status().lost}
        assert told == {"/synced": 5000, "/old": None}
        assert await m.read_file("synced") == b"s" * 5000
        assert await m.read_file("old") == b"as the store has it"
        again = m.crash(tmp_path / "again")
    restart("after another cut, which took nothing")
    async with running(store, again) as m:
        assert {loss.path for loss in m.vfs.status().lost} == {"/synced", "/old"}
    async with running(store, again) as m:
        assert m.vfs.status().lost == []


async def test_a_slow_store_is_waited_for_after_a_loss(
    store: DictStore,
    state: Path,
    tmp_path: Path,
    restart: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name whose content is lost is left to the store: what the index knows of its directory is not all."""
    store.put("folder/old", b"as the store has it")
    async with running(store, state, upload_delay_s=60) as m:
        await m.write_file("folder/old", b"not synced" * 1000)
        left = m.crash(tmp_path / "left")
    for file in (left / "staging").iterdir():
        os.truncate(file, 0)
    restart("after the cut")
    monkeypatch.setattr("mountstore.vfs.listing._AT_ONCE_S", 0.0)
    slow = FaultyStore(store)
    gate = slow.add("gate", "list", "folder/")
    async with running(slow, left) as m, trio.open_nursery() as nursery:

        async def read() -> None:
            assert await m.read_file("folder/old") == b"as the store has it"

        nursery.start_soon(read)
        await until(gate.arrived.is_set)
        gate.open()


def test_people_are_told_in_a_line_each() -> None:
    lost = [{"path": f"/f{number}\n", "bytes_left": None, "time_ns": 0} for number in range(30)]
    lost[-1]["bytes_left"] = 5000
    lines = loss_lines({"lost": lost})
    assert len(lines) == 21
    assert "/f29\\n, what is left: 4.9 KiB" in lines[-2]
    assert "/f28\\n, what is left: only what the store had" in lines[-3]
    assert lines[-1] == "and 10 more, named in the log"
    assert not any("\n" in line for line in lines)
