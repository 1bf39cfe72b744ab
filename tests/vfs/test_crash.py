"""SIGKILL at some moment: what was acknowledged is there again, and the store ends up like the namespace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from tests.vfs.mounted import EXCHANGE, contents, running, until


async def test_closed_data_that_was_not_uploaded(store: DictStore, state: Path, tmp_path: Path) -> None:
    async with running(store, state, upload_delay_s=60) as m:
        await m.mkdir("d")
        await m.write_file("d/f", b"x" * 100_000)
        await m.symlink("f", "d/l")
        left = m.crash(tmp_path / "left")
    assert contents(store) == {}
    async with running(store, left) as m:
        assert await m.tree() == {"d": None, "d/f": b"x" * 100_000, "d/l": "f"}
    assert contents(store) == {"d/": b"", "d/f": b"x" * 100_000, "d/l": b"f"}


@pytest.mark.parametrize("between", ["rename", "link", "chmod", "unlink a link", "nothing"])
@pytest.mark.parametrize("how", ["close", "fsync local"])
async def test_flushed_data_after_another_change_of_the_open_file(
    store: DictStore, state: Path, tmp_path: Path, between: str, how: str
) -> None:
    async with running(store, state, upload_delay_s=60, fsync="local") as m:
        await m.write_file("f", b"")
        await m.link("f", "l")
        handle = await m.open("f", os.O_RDWR)
        await m.pwrite(handle, b"written")
        if between == "rename":
            await m.rename("f", "g")
        elif between == "link":
            await m.link("f", "m")
        elif between == "chmod":
            await m.chmod("f", 0o600)
        elif between == "unlink a link":
            await m.unlink("f")
        if how == "close":
            m.vfs.flush(handle)  # close(2) returns here, the release comes later
        else:
            await m.vfs.fsync(handle)
        left = m.crash(tmp_path / "left")
    async with running(store, left) as m:
        assert await m.read_file("l") == b"written"
        await m.drain()
        assert await m.read_file("l") == b"written"
    assert contents(store)["l"] == b"written"


async def test_flushed_data_that_was_written_while_an_upload_landed(
    store: DictStore, state: Path, tmp_path: Path
) -> None:
    async with running(store, state) as m:
        gate = m.store.add("gate", "put", "f")
        await m.write_file("f", b"first")
        await until(gate.arrived.is_set)
        handle = await m.open("f", os.O_RDWR)
        await m.pwrite(handle, b" second", 5)
        gate.open()
        await until(lambda: m.vfs.status().uploaded_count == 1)
        m.vfs.flush(handle)
        left = m.crash(tmp_path / "left")
        assert gate.fired
    async with running(store, left) as m:
        assert await m.read_file("f") == b"first second"
        await m.drain()
        assert await m.read_file("f") == b"first second"
    assert contents(store) == {"f": b"first second"}


async def test_a_put_that_landed_without_a_record(store: DictStore, state: Path, tmp_path: Path) -> None:
    async with running(store, state) as m:
        lost = m.store.add("lose", "put", "f", act=lambda: m.store.kill())
        await m.write_file("f", b"content")
        await until(lambda: lost.fired and m.store.dead)
        left = m.crash(tmp_path / "left")
    assert contents(store) == {"f": b"content"}
    async with running(store, left, ttl_s=0) as m:
        assert await m.tree() == {"f": b"content"}
        await m.drain()
        assert m.vfs.status().conflicts == []
        assert m.store.requests["put"] == 0
        assert m.vfs.status().staged_bytes == 0
        assert list((left / "staging").iterdir()) == []
        store.put("f", b"foreign")
        assert await m.tree() == {"f": b"foreign"}
    assert contents(store) == {"f": b"foreign"}


@pytest.mark.parametrize("lacking", [(), ("metadata",)], ids=["metadata", "none"])
async def test_a_put_that_landed_and_a_later_write(
    store: DictStore, state: Path, tmp_path: Path, lacking: tuple[str, ...]
) -> None:
    async with running(store, state, lacking=lacking) as m:
        lost = m.store.add("lose", "put", "f", act=lambda: m.store.kill())
        await m.write_file("f", b"content")
        await until(lambda: lost.fired and m.store.dead)
        await m.append("f", b" and more")
        left = m.crash(tmp_path / "left")
    async with running(store, left, lacking=lacking) as m:
        assert await m.tree() == {"f": b"content and more"}
        await m.drain()
        assert await m.tree() == {"f": b"content and more"}
        assert m.vfs.status().conflicts == []
    assert contents(store) == {"f": b"content and more"}


async def test_a_put_that_landed_and_an_unlink(store: DictStore, state: Path, tmp_path: Path) -> None:
    async with running(store, state) as m:
        lost = m.store.add("lose", "put", "f", act=lambda: m.store.kill())
        await m.write_file("f", b"content")
        await until(lambda: lost.fired and m.store.dead)
        await m.unlink("f")
        left = m.crash(tmp_path / "left")
    assert contents(store) == {"f": b"content"}
    async with running(store, left, ttl_s=0) as m:
        await m.drain()
        assert await m.tree() == {}
    assert contents(store) == {}


@pytest.mark.parametrize("at", [0, 1, 2, 4, 5, 6, 9])
@pytest.mark.parametrize("answered", [False, True])
async def test_in_the_middle_of_moving_a_directory(
    store: DictStore, state: Path, tmp_path: Path, at: int, answered: bool
) -> None:
    for name in "abcde":
        store.put(f"d/{name}", name.encode())
    expected = {"e": None} | {f"e/{name}": name.encode() for name in "abcde"}
    async with running(store, state) as m:
        await m.tree()
        # The at-th request that changes something is the last.
        if at:
            m.store.add("after", "put copy delete", times=at)
        last = m.store.add("after" if answered else "gate", "put copy delete", act=m.store.kill)
        if answered:
            last.act = m.store.kill
        await m.rename("d", "e")
        await until(last.arrived.is_set)
        if answered:
            await until(lambda: m.store.dead)
        left = m.crash(tmp_path / "left")
        assert last.fired
    async with running(store, left, ttl_s=0) as m:
        assert await m.tree() == expected
        await m.drain()
        assert await m.tree() == expected
    assert contents(store, markers=False) == {k: v for k, v in expected.items() if v}


async def test_in_the_middle_of_an_exchange(store: DictStore, state: Path, tmp_path: Path) -> None:
    store.put("a", b"A" * 100)
    store.put("b", b"B" * 100)
    for at in range(3):
        async with running(store, tmp_path / f"state{at}") as m:
            was = await m.tree()
            if at:
                m.store.add("after", "put copy delete", times=at)
            last = m.store.add("gate", "put copy delete")
            await m.rename("a", "b", EXCHANGE)
            gated = last.arrived.is_set
            vfs = m.vfs
            await until(lambda gated=gated, vfs=vfs: gated() or not vfs.status().pending_count)  # type: ignore[misc]
            left = m.crash(tmp_path / f"left{at}")
        async with running(store, left, ttl_s=0) as m:
            expected = {"a": was["b"], "b": was["a"]}
            assert await m.tree() == expected
            await m.drain()
            assert await m.tree() == expected
        assert contents(store) == expected


async def test_what_was_unlinked_does_not_come_back(store: DictStore, state: Path, tmp_path: Path) -> None:
    for number in range(20):
        store.put(f"d/{number}", b"x")
    async with running(store, state) as m:
        await m.tree()
        last = m.store.add("gate", "delete")
        await m.rmtree("d")
        await until(last.arrived.is_set)
        left = m.crash(tmp_path / "left")
        assert last.fired
    async with running(store, left, ttl_s=0) as m:
        assert await m.tree() == {}
        await m.drain()
        assert await m.tree() == {}
    assert contents(store) == {}


async def test_an_unlinked_open_file_is_gone(store: DictStore, state: Path, tmp_path: Path) -> None:
    async with running(store, state) as m:
        await m.write_file("f", b"content")
        await m.drain()
        handle = await m.open("f", os.O_RDWR)
        await m.unlink("f")
        await m.pwrite(handle, b"more")
        m.vfs.flush(handle)
        left = m.crash(tmp_path / "left")
    async with running(store, left, ttl_s=0) as m:
        assert await m.tree() == {}
        await m.drain()
        assert list((left / "staging").iterdir()) == []
    assert contents(store) == {}


async def test_written_and_not_flushed_is_old_or_new_but_never_zeros(
    store: DictStore, state: Path, tmp_path: Path
) -> None:
    async with running(store, state, upload_delay_s=60) as m:
        await m.write_file("f", b"first")
        handle = await m.open("f", os.O_RDWR)
        await m.pwrite(handle, b" second", 5)
        await m.rename("f", "g")
        left = m.crash(tmp_path / "left")
    async with running(store, left) as m:
        assert await m.read_file("g") in (b"first", b"first second")
