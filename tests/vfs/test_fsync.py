"""What fsync costs, and what it may leave for later."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.errors import Unavailable
from tests.vfs.mounted import Mounted, running, until


async def write_and_sync(m: Mounted, path: str, data: bytes = b"content") -> None:
    handle = await m.open(path, os.O_RDWR | os.O_CREAT)
    await m.pwrite(handle, data)
    await m.vfs.fsync(handle)
    await m.close(handle)


async def sync_folder(m: Mounted, path: str) -> None:
    folder = m.vfs.opendir((await m.node(path)).ino)
    await m.vfs.fsyncdir(folder)
    m.vfs.releasedir(folder)


@pytest.mark.parametrize("by", ["rename", "link"])
async def test_what_is_fsynced_under_a_temporary_name_is_put_under_its_final_one(
    store: DictStore, state: Path, by: str
) -> None:
    async with running(store, state, upload_delay_s=60, checkpoint_s=60) as m:
        await write_and_sync(m, "tmp_pack_x8AssF")
        assert list(store.keys()) == []
        if by == "rename":
            await m.rename("tmp_pack_x8AssF", "pack")
        else:
            await m.link("tmp_pack_x8AssF", "pack")
            await m.unlink("tmp_pack_x8AssF")
        assert bytes(store.get("pack")) == b"content"
        assert m.store.changes() == [("put", "pack")]


async def test_it_survives_here_until_then(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=60, checkpoint_s=60, drain=False) as m:
        await write_and_sync(m, "file.tmp")
        m.store.kill()
    async with running(store, state) as m:
        await m.drain()
    assert bytes(store.get("file.tmp")) == b"content"


async def test_a_file_that_the_store_has_under_a_temporary_name_is_put_there(
    store: DictStore, state: Path
) -> None:
    store.put("notes.tmp", b"before")
    async with running(store, state, upload_delay_s=60, checkpoint_s=60) as m:
        await write_and_sync(m, "notes.tmp", b"after")
        assert bytes(store.get("notes.tmp")) == b"aftere"


async def test_whoever_gives_the_final_name_is_told_of_an_outage(store: DictStore, state: Path) -> None:
    async with running(store, state, upload_delay_s=60, checkpoint_s=60, fsync_timeout_s=0.2) as m:
        await write_and_sync(m, "file.tmp")
        m.store.down = True
        with pytest.raises((trio.TooSlowError, Unavailable)):
            await m.rename("file.tmp", "file")
        m.store.down = False
    assert bytes(store.get("file")) == b"content"


async def test_the_time_of_a_directory_waits(store: DictStore, state: Path) -> None:
    """As an SQLite data base does: a journal comes and goes, and each time the directory is synced."""
    async with running(store, state, upload_delay_s=0.2) as m:
        await m.mkdir("d")
        await write_and_sync(m, "d/data")
        await sync_folder(m, "d")
        assert ("put", "d/") in m.store.changes()
        m.store.reset()
        for _ in range(3):
            await write_and_sync(m, "d/journal")
            await sync_folder(m, "d")
            assert store.exists("d/journal")
            await m.unlink("d/journal")
        assert ("put", "d/") not in m.store.changes()
        await m.chmod("d", 0o700)
        await sync_folder(m, "d")
        assert ("put", "d/") in m.store.changes()
        assert not store.exists("d/journal")


async def test_a_sync_in_the_background_forgets_nothing_of_an_fsync_meanwhile(
    store: DictStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen less of the file: what is on the disk by now would count as lost after a loss of power."""
    async with running(store, state, drain=False, fsync="local", upload_delay_s=3600) as m:
        content = m.vfs._content
        sync_files, begun, go = content._staging.sync_files, threading.Event(), threading.Event()

        def wait_and_sync(paths: list[Path]) -> None:
            begun.set()
            assert go.wait(20)
            sync_files(paths)

        monkeypatch.setattr(content._staging, "sync_files", wait_and_sync)
        await m.write_file("f", b"x" * 3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(content.sync_all)
            await until(begun.is_set)
            await m.append("f", b"y" * 3000)
            await m.fsync("f")
            go.set()
        (layer,) = content.stack(await m.node("f")).layers
        assert layer.unsynced() == []
        assert layer.synced_size == 6000
