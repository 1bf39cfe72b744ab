"""A state directory on a disk that is small, or that fails: it is told, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.stores.caching import CachingStore
from tests.power.disks import Disk, disk
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 64 MiB."""
    with disk("ext4", tmp_path) as made:
        yield made


@pytest.mark.parametrize("cached", [False, True])
async def test_writers_wait_while_uploads_make_room(small: Disk, cached: bool) -> None:
    """A cache elsewhere takes over what has been sent, and would go on while somebody needs the room."""
    store = DictStore()
    cache = DictStore() if cached else None
    written = {f"f{number}": os.urandom(5 * MIB) for number in range(30)}
    async with running(store, small.root / "state", cache=cache, upload_delay_s=0.2) as m:
        for name, data in written.items():
            handle = await m.open(name, os.O_WRONLY | os.O_CREAT)
            for start in range(0, len(data), MIB):
                await m.pwrite(handle, data[start : start + MIB], start)
            await m.close(handle)
    assert contents(store) == written


async def test_no_room_is_told_before_anything_is_acknowledged(small: Disk) -> None:
    """While the store is away the disk fills up; what was acknowledged is readable, and goes up later."""
    inner = DictStore()
    store = FaultyStore(inner)
    acknowledged: dict[str, bytes] = {}
    async with running(store, small.root / "state", room_timeout_s=0.3) as m:
        await m.write_file("stored", b"stored")
        await m.drain()
        store.down = True
        refused = 0
        for number in range(100):
            name, data = f"f{number}", os.urandom(2 * MIB)
            try:
                await m.write_file(name, data)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                refused += 1
                if refused == 3:
                    break
            else:
                acknowledged[name] = data
        assert refused == 3
        assert len(acknowledged) > 10
        for name, data in acknowledged.items():
            assert await m.read_file(name) == data
        # Names can be removed and made shorter on a full disk.
        last = max(acknowledged)
        await m.unlink(last)
        del acknowledged[last]
        store.down = False
        await m.drain()
        await m.write_file("late", b"late")
        for name, data in acknowledged.items():
            assert await m.read_file(name) == data
    found = contents(inner)
    assert acknowledged | {"stored": b"stored", "late": b"late"} == {
        name: data for name, data in found.items() if name in acknowledged or not name.startswith("f")
    }


@pytest.fixture(params=["ext4", "xfs"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that a test makes fail."""
    with disk(request.param, tmp_path) as made:
        yield made


@contextmanager
def told(*codes: int) -> Iterator[None]:
    """What is done within fails with one of these."""
    with pytest.raises(OSError, match=r".") as failed:
        yield
    assert failed.value.errno in codes


def let_go(m: Mounted) -> None:
    """Close every file, as the end of the process would."""
    for node in list(m.vfs._index.nodes.values()):
        for layer in node.stack.layers if node.stack is not None else ():
            layer.close()
    m.vfs._index.close()
    if isinstance(cache := m.vfs._content._store.store, CachingStore):
        cache.let_go()
        assert cache.flush(10)


async def test_a_failing_disk_is_told(failing: Disk) -> None:
    """Writing, closing and fsync fail, again and again; nothing that is lost is sent; the journal stays."""
    inner = DictStore()
    state = failing.root / "state"
    with told(errno.EIO):
        async with running(inner, state, drain=False, fsync="local", upload_delay_s=60) as m:
            await m.write_file("kept", b"k" * MIB)
            await m.fsync("kept")
            handle = await m.open("lost", os.O_WRONLY | os.O_CREAT)
            await m.pwrite(handle, b"l" * MIB)
            failing.cut()
            for _ in range(3):
                with told(errno.EIO):
                    await m.vfs.fsync(handle)
                with told(errno.EIO):
                    m.vfs.flush(handle)
            with told(errno.EIO, errno.EROFS):
                await m.write_file("more", b"more")
    assert contents(inner) == {}
    let_go(m)
    failing.restore()
    async with running(inner, state) as m:
        assert await m.read_file("kept") == b"k" * MIB
    assert contents(inner)["kept"] == b"k" * MIB
