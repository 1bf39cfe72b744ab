"""Large files are sent while they are written; whatever becomes of them meanwhile, they arrive whole."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.memory import DictStore
from mountstore.errors import Unavailable
from mountstore.store import ObjectStore
from tests.vfs.faulty import FaultyStore, Parts
from tests.vfs.mounted import Mounted, contents, running, until

PART = Parts.part_bytes
SMALL = 4 * PART
DATA = random.Random(1).randbytes(20 * PART + 123)
STEP = PART // 2
LASTING: dict[str, Any] = {"stream_bytes": SMALL, "checkpoint_s": 3600.0}


def parts(m: Mounted) -> int:
    return m.store.requests["put_part"]


async def write_slowly(m: Mounted, handle: int, data: bytes, start: int = 0) -> None:
    for offset in range(start, len(data), STEP):
        await m.pwrite(handle, data[offset : offset + STEP], offset)


async def test_parts_go_before_the_file_is_closed(store: DictStore, state: Path) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_WRONLY)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) == len(DATA) // PART)
        assert list(store.keys()) == []
        await m.close(handle)
        await m.drain()
        assert parts(m) == len(DATA) // PART + 1
        assert m.store.requests["put"] == 1
        assert contents(store) == {"f": DATA}
        assert not m.store.open_uploads


async def test_the_attributes_arrive_as_they_are_at_the_end(store: DictStore, tmp_path: Path) -> None:
    async with running(store, tmp_path / "1", **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_WRONLY)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) >= 10)
        await m.chmod("f", 0o600)
        await m.close(handle)
        before = await m.node("f")
        wanted = before.mode, before.mtime_ns, before.ctime_ns
    async with running(store, tmp_path / "2") as m:
        after = await m.node("f")
        assert (after.mode, after.mtime_ns, after.ctime_ns) == wanted
        assert await m.read_file("f") == DATA


async def test_fsync_does_not_wait_for_the_time_alone(store: DictStore, state: Path) -> None:
    async with running(store, state, **LASTING, upload_delay_s=3600.0) as m:
        handle = await m.open("f", os.O_CREAT | os.O_WRONLY)
        await write_slowly(m, handle, DATA)
        await m.fsync("f")
        assert contents(store) == {"f": DATA}
        assert not {"copy", "update_metadata"} & set(m.store.requests)
        await m.close(handle)


async def test_what_is_written_again_is_sent_again(store: DictStore, state: Path) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        data = bytearray(DATA)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) == len(DATA) // PART)
        for position in (0, 3 * PART - 5, len(DATA) - 10):
            data[position : position + 10] = b"0123456789"
            await m.pwrite(handle, b"0123456789", position)
        await m.close(handle)
        await m.drain()
        assert contents(store) == {"f": bytes(data)}
        assert m.store.requests["put"] == 1
        assert parts(m) == len(DATA) // PART + 1 + 3


async def test_what_is_missing_is_not_sent_once_the_file_is_removed(store: DictStore, state: Path) -> None:
    faulty = FaultyStore(store)
    async with running(faulty, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) == len(DATA) // PART)
        await m.pwrite(handle, bytes(len(DATA)))  # all of it again
        gate = faulty.add("gate", "put_part", "f", times=3)
        sent = parts(m)
        await m.close(handle)
        await until(gate.arrived.is_set)
        await m.unlink("f")
        gate.open()
        await m.drain()
        assert parts(m) <= sent + 3
        assert await m.tree() == {}
    assert contents(store) == {}
    assert not faulty.open_uploads


async def test_what_is_written_while_a_part_is_sent_is_sent(store: DictStore, state: Path) -> None:
    faulty = FaultyStore(store)
    gate = faulty.add("gate", "put_part", "f", times=3)
    async with running(faulty, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await until(gate.arrived.is_set)
        await m.pwrite(handle, b"again", 7)
        gate.open()
        await m.close(handle)
        await m.drain()
        assert contents(store) == {"f": DATA[:7] + b"again" + DATA[12:]}


@pytest.mark.parametrize("what", ["rename", "truncate", "grow", "unlink", "link", "second", "replace"])
async def test_whatever_becomes_of_the_file(store: DictStore, state: Path, what: str) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) >= 5)
        expected = {"f": DATA}
        if what == "rename":
            await m.rename("f", "g")
            expected = {"g": DATA}
        elif what == "truncate":
            await m.truncate("f", 5)
            await m.pwrite(handle, b"x", 9)
            expected = {"f": DATA[:5] + b"\0\0\0\0x"}
        elif what == "grow":
            await m.truncate("f", len(DATA) + 5)
            expected = {"f": DATA + bytes(5)}
        elif what == "unlink":
            await m.unlink("f")
            expected = {}
        elif what == "link":
            await m.link("f", "h")
            expected = {"f": DATA, "h": DATA}
        elif what == "second":
            await m.fsync("f")
            await m.pwrite(handle, b"more" * STEP, len(DATA))
            expected = {"f": DATA + b"more" * STEP}
        elif what == "replace":
            await m.write_file("other", b"other")
            await m.rename("other", "f")
            expected = {"f": b"other"}
        await m.close(handle)
        await m.drain()
        assert contents(store) == expected
        await until(lambda: not m.store.open_uploads)


@pytest.mark.parametrize("verb", ["start_upload", "put_part", "put"])
async def test_a_store_that_fails_costs_time_alone(store: DictStore, state: Path, verb: str) -> None:
    faulty = FaultyStore(store)
    faulty.add("fail", verb, times=2, error=Unavailable("for now"))
    async with running(faulty, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await m.close(handle)
        await m.drain()
        assert contents(store) == {"f": DATA}
        await until(lambda: not m.store.open_uploads)


async def test_the_loser_of_a_race_is_kept(store: DictStore, state: Path) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) >= 5)
        store.put("f", b"theirs")
        await m.close(handle)
        await m.drain()
        (copy,) = (key for key in store.keys() if "conflict" in key)
        assert contents(store) == {"f": b"theirs", copy: DATA}


async def test_a_lost_answer_is_no_conflict(store: DictStore, state: Path) -> None:
    faulty = FaultyStore(store)
    faulty.add("lose", "put", "f")
    async with running(faulty, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await m.close(handle)
        await m.drain()
        assert contents(store) == {"f": DATA}


async def test_a_crash_half_way(store: DictStore, state: Path) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await until(lambda: parts(m) >= 5)
        m.vfs.flush(handle)
        m.store.kill()
    async with running(store, state) as m:
        assert await m.read_file("f") == DATA
        await m.drain()
        assert contents(store) == {"f": DATA}


@pytest.mark.parametrize("name", [".f.Xa12Bz", "f~", "f.tmp", "tmp_pack_1", "f.part"])
async def test_names_that_will_be_given_up_wait(store: DictStore, state: Path, name: str) -> None:
    async with running(store, state, **LASTING) as m:
        handle = await m.open(name, os.O_CREAT | os.O_RDWR)
        await write_slowly(m, handle, DATA)
        await m.rename(name, "f")
        await m.close(handle)
        await m.drain()
        assert "start_upload" not in m.store.requests
        assert contents(store) == {"f": DATA}


async def test_random_writes_are_not_sent_before_their_time(store: DictStore, state: Path) -> None:
    inner: ObjectStore = store
    async with running(inner, state, **LASTING) as m:
        handle = await m.open("f", os.O_CREAT | os.O_RDWR)
        await m.pwrite(handle, b"x", 30 * PART)
        for number in range(5, 20, 2):
            await m.pwrite(handle, bytes(PART), number * PART)
        await m.close(handle)
        assert "start_upload" not in m.store.requests
