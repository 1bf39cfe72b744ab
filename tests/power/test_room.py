"""State and cache on one small disk: the clean cache goes first, and what is staged never does."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.stores import CachingStore
from tests.power.disks import Disk, disk
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running, until

MIB = 1 << 20
CLEAN = {f"clean{number:02}": os.urandom(MIB) for number in range(64)}


@pytest.fixture(params=["ext4", "xfs"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 64 MiB; of XFS, which cannot be so small, one of which others have taken more than half."""
    with disk(request.param, tmp_path) as made:
        if request.param == "xfs":
            _take(made, 130 * MIB)
        yield made


@pytest.fixture
def store() -> FaultyStore:
    inner = DictStore()
    for key, data in CLEAN.items():
        inner.put(key, data)
    return FaultyStore(inner)


def free(small: Disk) -> int:
    found = os.statvfs(small.root)
    return found.f_bavail * found.f_frsize


def reserve(small: Disk) -> int:
    """What is kept for the index."""
    found = os.statvfs(small.root)
    return min(found.f_blocks * found.f_frsize // 8, 32 * MIB)


def _take(small: Disk, left: int) -> None:
    """Somebody else takes all of the disk but so many bytes."""
    number = len(list(small.root.glob("others-*")))
    with open(small.root / f"others-{number}", "xb") as file:
        os.posix_fallocate(file.fileno(), 0, free(small) - left)


def _fill(small: Disk) -> None:
    """Somebody else takes all of the disk, to the last block."""
    with open(small.root / "everything", "xb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
            os.fsync(file.fileno())


def waiting(store: FaultyStore, small: Disk, cache: Path) -> contextlib.AbstractAsyncContextManager[Mounted]:
    """A mount that uploads nothing by itself, and does not wait for that at its end."""
    kept = FilesystemStore(cache, durable=False)
    state = small.root / "state"
    return running(store, state, cache=kept, drain=False, upload_delay_s=60.0, room_timeout_s=0.5)


def cache_of(m: Mounted) -> CachingStore:
    found = m.vfs._store.store
    assert isinstance(found, CachingStore)
    return found


async def read_all(m: Mounted) -> None:
    for name, data in CLEAN.items():
        assert await m.read_file(name) == data
    assert cache_of(m).flush(20)


async def write_until_refused(m: Mounted, acknowledged: dict[str, bytes], most: int = 200) -> None:
    """Files of a MiB until there is no room for the next."""
    for number in range(most):
        name, data = f"new{number:03}", os.urandom(MIB)
        try:
            await m.write_file(name, data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
        acknowledged[name] = data


async def verify(small: Disk, store: FaultyStore, acknowledged: dict[str, bytes]) -> None:
    """What was acknowledged is uploaded by the next mount, and nothing else changes."""
    store.down = False
    async with running(store, small.root / "state", upload_delay_s=0.0) as m:
        await m.drain()
        for name, data in acknowledged.items():
            assert await m.read_file(name) == data
    found = contents(store.inner)
    assert {name: found.get(name) for name in acknowledged} == acknowledged
    assert {name: found.get(name) for name in CLEAN} == CLEAN


async def test_the_cache_leaves_room_and_gives_way_to_writers(small: Disk, store: FaultyStore) -> None:
    acknowledged: dict[str, bytes] = {}
    async with waiting(store, small, small.root / "cache") as m:
        await read_all(m)
        stats = cache_of(m).stats
        assert stats.used_bytes > 20 * MIB
        assert stats.errors == 0, "it stops before the disk is full"
        assert free(small) > reserve(small)
        _take(small, 5 * MIB)
        full = stats.used_bytes
        store.down = True
        for number in range(10):
            name, data = f"first{number}", os.urandom(MIB)
            await m.write_file(name, data)
            acknowledged[name] = data
        assert 0 < cache_of(m).stats.used_bytes <= full - 8 * MIB, "no more than is needed goes"
        await write_until_refused(m, acknowledged)
        assert cache_of(m).stats.used_bytes == 0, "a writer is refused only when nothing clean is left"
        # The writers got all of the room that the cache had, but what the index keeps.
        assert sum(map(len, acknowledged.values())) > full + 5 * MIB - reserve(small) - 4 * MIB
        for name, data in acknowledged.items():
            assert await m.read_file(name) == data
    await verify(small, store, acknowledged)


async def test_reading_on_a_full_disk_takes_nothing_from_writers(small: Disk, store: FaultyStore) -> None:
    """What is read while the disk is nearly full takes the place of other blocks, or is not kept."""
    acknowledged: dict[str, bytes] = {}
    async with waiting(store, small, small.root / "cache") as m:
        await read_all(m)
        _take(small, 12 * MIB)
        before = cache_of(m).stats.used_bytes
        await read_all(m)
        assert 0 < cache_of(m).stats.used_bytes <= before
        store.add("fail", "put", times=10_000)
        await write_until_refused(m, acknowledged)
        assert cache_of(m).stats.used_bytes == 0
        await read_all(m)
        assert cache_of(m).stats.used_bytes == 0
    store.faults.clear()
    await verify(small, store, acknowledged)


async def test_a_disk_that_others_fill_between_two_looks(small: Disk, store: FaultyStore) -> None:
    """The write itself finds no room then; the cache gives way all the same."""
    acknowledged: dict[str, bytes] = {}
    async with waiting(store, small, small.root / "cache") as m:
        await read_all(m)
        await m.write_file("asked", b"the disk was asked for its room just now")
        acknowledged["asked"] = b"the disk was asked for its room just now"
        store.down = True
        handle = await m.open("late", os.O_WRONLY | os.O_CREAT)
        _fill(small)
        data = os.urandom(3 * MIB)
        await m.pwrite(handle, data)
        await m.close(handle)
        acknowledged["late"] = data
        assert cache_of(m).stats.used_bytes > 0
    await verify(small, store, acknowledged)


async def test_what_is_pinned_goes_last(small: Disk, store: FaultyStore) -> None:
    acknowledged: dict[str, bytes] = {}
    async with waiting(store, small, small.root / "cache") as m:
        cache_of(m).pin("clean00")
        await read_all(m)
        store.down = True
        _take(small, 5 * MIB)
        while cache_of(m).stats.used_bytes > MIB:
            assert cache_of(m).stats.pinned_bytes == MIB
            name = f"new{len(acknowledged)}"
            acknowledged[name] = os.urandom(MIB)
            await m.write_file(name, acknowledged[name])
        await write_until_refused(m, acknowledged)
        assert cache_of(m).stats.pinned_bytes == 0
    await verify(small, store, acknowledged)


async def test_a_cache_on_another_disk_stays(small: Disk, store: FaultyStore, tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}
    async with waiting(store, small, tmp_path / "cache") as m:
        await read_all(m)
        full = cache_of(m).stats.used_bytes
        assert full == 64 * MIB
        store.down = True
        _take(small, 20 * MIB)
        await write_until_refused(m, acknowledged)
        assert cache_of(m).stats.used_bytes == full
    await verify(small, store, acknowledged)


async def test_uploads_go_on_while_cache_and_journal_share_a_full_disk(
    small: Disk, store: FaultyStore
) -> None:
    """Three times as much as the disk holds is written, and handed on to the cache as it is uploaded."""
    cache = FilesystemStore(small.root / "cache", durable=False)
    written = {f"f{number:02}": os.urandom(5 * MIB) for number in range(36)}
    async with running(store, small.root / "state", cache=cache, upload_delay_s=0.05) as m:
        await read_all(m)
        for name, data in written.items():
            handle = await m.open(name, os.O_WRONLY | os.O_CREAT)
            for start in range(0, len(data), MIB):
                await m.pwrite(handle, data[start : start + MIB], start)
            await m.close(handle)
        await until(lambda: m.vfs.status().pending_count == 0)
        assert cache_of(m).stats.errors == 0
    assert contents(store.inner) == written | CLEAN


@pytest.mark.parametrize("kind", ["ext4"] * 5)
def test_what_was_deleted_makes_room_for_what_is_put(kind: str, tmp_path: Path) -> None:
    """ext4 gives a folder that grows no block of what was deleted a moment ago: one disk in two showed it."""
    with disk(kind, tmp_path) as made, FilesystemStore(made.root / "objects", durable=False) as store:
        kept: deque[str] = deque()
        numbers = itertools.count()
        lock = threading.Lock()
        data = os.urandom(MIB)

        def put_some() -> None:
            for _ in range(60):
                with lock:
                    key = f"{next(numbers):070}"
                    if free(made) < 19 * MIB:
                        store.delete(kept.popleft())
                store.put(key, data)
                with lock:
                    kept.append(key)

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(put_some) for _ in range(3)]:
                future.result()
        assert sorted(store.keys()) == sorted(kept)
