"""What the store is told to forget, and what the disk knows by then, when the power is cut."""

from __future__ import annotations

import errno

import pytest
import trio

from mountstore.backends.memory import DictStore
from mountstore.vfs.folders import Folders
from mountstore.vfs.rows import Node
from tests.power.disks import Disk
from tests.power.test_disks import let_go, told
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import Mounted, contents, running, until


def start_again(power: Disk, m: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut under this one: the machine runs again, with what its disk has kept."""
    let_go(m)
    power.restore()
    monkeypatch.setattr("mountstore.vfs.power.boot_id", lambda: "after the cut")


async def test_what_has_moved_is_kept_until_what_replaces_it_is_on_the_disk(
    power: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` is moved over `b`, and something new takes that name before the store has heard of it. An index
    that knows of the first alone would look for `a`, which the store needs no more."""
    inner = DictStore()
    store = FaultyStore(inner)
    state = power.root / "state"
    with told(errno.EIO):
        async with running(store, state, drain=False, upload_delay_s=0.2) as m:
            await m.write_file("a", b"A" * 3000)
            await m.write_file("b", b"B" * 3000)
            await m.drain()
            await m.write_file("c", b"C" * 3000)
            gates = [store.add("gate", "put", "b"), store.add("gate", "put", "c")]
            await m.rename("a", "b")
            m.vfs._content.sync_index()
            await m.rename("c", "b")
            await until(lambda: "a" not in inner.keys(), "a is deleted")
            power.cut()
            store.dead = True
            for gate in gates:
                gate.open()
    start_again(power, m, monkeypatch)
    async with running(inner, state) as m:
        await m.drain()
        assert await m.read_file("b") == b"C" * 3000
    assert bytes(inner.get("b")) == b"C" * 3000


async def test_what_was_sent_and_then_lost_here_is_not_taken_for_what_is_left(
    power: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last change is in the store, but not on the disk: there the file is as it was synced before."""
    inner = DictStore()
    store = FaultyStore(inner)
    state = power.root / "state"
    with told(errno.EIO):
        async with running(store, state, drain=False, fsync="local", upload_delay_s=3600) as m:
            await m.write_file("f", b"X" * 3000)
            await m.drain()
            await m.patch("f", b"Y" * 3000, 0)
            await m.fsync("f")
            await m.patch("f", b"Z" * 3000, 0)
            m.vfs._content.sync_index()
            sent = store.add("after", "put", "f")
            m.vfs._reconciler._hasten()
            await until(lambda: inner.get("f") == b"Z" * 3000, "it is in the store")
            power.cut()
            store.dead = True
            sent.open()
    start_again(power, m, monkeypatch)
    async with running(inner, state) as m:
        await m.drain()
        assert await m.tree() == contents(inner)
    found = contents(inner)
    assert found.pop("f") == b"Z" * 3000
    # What was rewritten in place is old or new, as far as the kernel had come with it.
    assert [(len(left), set(left) <= set(b"YZ")) for left in found.values()] == [(3000, True)]


async def test_what_was_sent_into_a_moved_folder_is_seen_again(
    power: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk knows of the move alone. What is looked at before it is carried out anew is the old place."""
    inner = DictStore()
    store = FaultyStore(inner)
    state = power.root / "state"
    go, visit = trio.Event(), Folders._visit

    async def visit_then(folders: Folders, node: Node) -> None:
        await go.wait()
        await visit(folders, node)

    monkeypatch.setattr(Folders, "_visit", visit_then)
    with told(errno.EIO):
        async with running(store, state, drain=False) as m:
            await m.mkdir("old")
            await m.write_file("old/f", b"F" * 3000)
            await m.write_file("removed", b"")
            await m.drain()
            await m.unlink("removed")
            await m.drain()  # the first delete brings the index to the disk, others need not
            await m.rename("old", "new")
            m.vfs._content.sync_index()
            go.set()
            await m.write_file("new/g", b"G" * 3000)
            await m.drain()
            power.cut()
            store.dead = True
    start_again(power, m, monkeypatch)
    go = trio.Event()
    async with running(inner, state) as m:
        try:
            await m.listdir("new")
        finally:
            go.set()
        await m.drain()
        assert await m.tree() == {"new": None, "new/f": b"F" * 3000, "new/g": b"G" * 3000}


async def test_a_move_that_had_landed_is_no_conflict(
    power: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk knows that `a` is to replace `b`; the store has done that, and `a` no more."""
    inner = DictStore()
    store = FaultyStore(inner)
    state = power.root / "state"
    with told(errno.EIO):
        async with running(store, state, drain=False) as m:
            for name in ("a", "b", "removed"):
                await m.write_file(name, name.encode() * 3000)
            await m.drain()
            await m.unlink("removed")
            await m.drain()  # the first delete brings the index to the disk, others need not
            gate = store.add("gate", "head copy", "b")
            await m.rename("a", "b")
            await until(gate.arrived.is_set)
            m.vfs._content.sync_index()
            gate.open()
            await until(lambda: "a" not in inner.keys(), "a is deleted")
            power.cut()
            store.dead = True
    start_again(power, m, monkeypatch)
    async with running(inner, state) as m:
        await m.drain()
        assert await m.tree() == contents(inner) == {"b": b"a" * 3000}
    assert "both versions are kept" not in caplog.text
