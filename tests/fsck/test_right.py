"""What a mount has written is never said to be wrong: names, links and places of every kind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from mountstore.backends.memory import DictStore
from mountstore.fsck import check_state
from tests.vfs.mounted import EXCHANGE, running


async def test_odd_names_deep_paths_and_moves(store: DictStore, tmp_path: Path) -> None:
    store.capabilities = replace(store.capabilities, max_key_bytes=300, max_segment_bytes=120)
    for key in ("a//b", "x\0y", "d", "d/e", "%(00)", "s/" + "n" * 110):
        store.put(key, b"foreign")

    def is_right(state: Path) -> None:
        report = check_state(state, store)
        assert report.left == []
        assert check_state(state, store, repair=True).repaired == []

    async with running(store, tmp_path / "state", upload_delay_s=60) as m:
        await m.tree()
        deep = "deep"
        await m.mkdir(deep)
        for level in range(6):
            deep += f"/{'l' * 70}{level}"
            await m.mkdir(deep)
            await m.write_file(f"{deep}/file", b"deep down")
        await m.write_file("L" * 200, b"long name")
        await m.link("d%(file)", "hard")
        await m.symlink("hard", "soft")
        is_right(shutil.copytree(m.state_dir, tmp_path / "before"))
        await m.drain()
        is_right(shutil.copytree(m.state_dir, tmp_path / "uploaded"))
        await m.rename("deep", "moved")
        await m.rename("s", "hard", EXCHANGE)
        await m.unlink("a/%()/b")
        is_right(shutil.copytree(m.state_dir, tmp_path / "moved"))
        await m.drain()
        tree = await m.tree()
    is_right(tmp_path / "state")
    async with running(store, tmp_path / "fresh") as m:
        assert await m.tree() == tree
    is_right(tmp_path / "fresh")
    assert len(tree) > 15
