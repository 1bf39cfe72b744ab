"""Requests whose answer was given up, and which take effect all the same, later ones first."""

from __future__ import annotations

from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.vfs import answers, reconcile
from tests.vfs.faulty import FaultyStore, Past
from tests.vfs.mounted import EXCHANGE, Mounted, contents, running, until

LATE_S = 0.3


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.002, 0.005, 0.01))
    monkeypatch.setattr(answers, "_ASK_AGAIN_S", 0.02)
    monkeypatch.setattr(answers, "LAST_LOOK_S", 2 * LATE_S)


@pytest.fixture(params=[(), ("local", "conditional_delete")], ids=["all", "few"])
def faulty(request: pytest.FixtureRequest, store: DictStore) -> FaultyStore:
    return FaultyStore(store, lacking=request.param, past=Past())


def land(faulty: FaultyStore) -> None:
    """Whatever is on its way arrives now."""
    assert faulty.past is not None
    faulty.past.land(now=True)


async def test_an_old_put_is_not_the_content_of_what_was_written_since(
    faulty: FaultyStore, state: Path
) -> None:
    async with running(faulty, state, upload_delay_s=0.0) as m:
        late = faulty.add("late", "put", "a", delay_s=LATE_S)
        await m.write_file("a", b"old bytes")
        await until(lambda: late.fired)
        await m.rename("a", "c")
        await m.write_file("c", b"new")
        await m.fsync("c")
        land(faulty)
        await m.drain()
        assert await m.read_file("c") == b"new"
        assert contents(faulty.inner) == {"c": b"new"}
    async with running(faulty, state) as m:
        assert await m.tree() == {"c": b"new"}


async def test_a_removed_name_stays_removed(faulty: FaultyStore, state: Path) -> None:
    async with running(faulty, state, upload_delay_s=0.0, ttl_s=0.0) as m:
        late = faulty.add("late", "put", "a", delay_s=LATE_S)
        await m.write_file("a", b"first")
        await until(lambda: late.fired)
        await m.write_file("a", b"second")
        await m.fsync("a")
        await m.unlink("a")
        await m.drain()
        land(faulty)
        assert contents(faulty.inner) == {}
        assert await m.listdir() == []


@pytest.mark.parametrize("second", [b"second", b"first"])
async def test_a_removed_name_stays_removed_after_a_kill(
    faulty: FaultyStore, state: Path, tmp_path: Path, second: bytes
) -> None:
    """Nobody remembers the request then, but the journal does: the delete waits for it."""
    async with running(faulty, state, upload_delay_s=0.0, ttl_s=0.0) as m:
        late = faulty.add("late", "put", "a", delay_s=LATE_S)
        await m.write_file("a", b"first")
        await until(lambda: late.fired)
        if second != b"first":
            await m.write_file("a", second)
        await m.fsync("a")
        assert contents(faulty.inner) == {"a": second}
        await m.unlink("a")
        left = m.crash(tmp_path / "left")
    again = FaultyStore(faulty.inner, past=faulty.past)
    again.capabilities = faulty.capabilities
    async with running(again, left, upload_delay_s=0.0, ttl_s=0.0) as m:
        await m.drain()
        land(again)
        assert contents(faulty.inner) == {}
        assert await m.listdir() == []


async def test_what_is_put_after_a_delete_stays(faulty: FaultyStore, state: Path) -> None:
    async with running(faulty, state, upload_delay_s=0.0, ttl_s=0.0) as m:
        await m.write_file("a", b"first")
        await m.drain()
        late = faulty.add("late", "delete", "a", delay_s=LATE_S)
        await m.unlink("a")
        await until(lambda: late.fired)
        await m.write_file("a", b"second")
        await m.drain()
        land(faulty)
        assert contents(faulty.inner) == {"a": b"second"}
        assert await m.read_file("a") == b"second"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["a", "d/"])
async def test_what_is_put_after_a_delete_and_a_kill_stays(
    faulty: FaultyStore, state: Path, tmp_path: Path, name: str, before: bool
) -> None:
    """The delete was under way when the process died: no put follows before it has landed or is lost."""
    async with running(faulty, state, upload_delay_s=0.0, ttl_s=0.0) as m:
        await _make(m, name)
        await m.drain()
        late = faulty.add("late", "delete", name, delay_s=LATE_S)
        await (m.rmdir("d") if name == "d/" else m.unlink("a"))
        await until(lambda: late.fired)
        if before:
            await _make(m, name)
        left = m.crash(tmp_path / "left")
    again = FaultyStore(faulty.inner, past=faulty.past)
    again.capabilities = faulty.capabilities
    async with running(again, left, upload_delay_s=0.0, ttl_s=0.0) as m:
        if not before:
            await _make(m, name)
        await m.drain()
        land(again)
        assert contents(faulty.inner) == {name: b"" if name == "d/" else b"content"}


async def _make(m: Mounted, name: str) -> None:
    await (m.mkdir("d") if name == "d/" else m.write_file("a", b"content"))


async def test_an_old_marker_does_not_follow_a_new_one(
    faulty: FaultyStore, state: Path, tmp_path: Path
) -> None:
    async with running(faulty, state, upload_delay_s=0.0) as m:
        late = faulty.add("late", "put", "d/", delay_s=LATE_S)
        await m.mkdir("d")
        await until(lambda: late.fired)
        await m.chmod("d", 0o700)
        await m.drain()
        land(faulty)
    async with running(faulty, tmp_path / "other", attrs="stored") as m:
        assert (await m.node("d")).mode & 0o777 == 0o700


async def test_an_old_marker_does_not_bring_a_folder_back(faulty: FaultyStore, state: Path) -> None:
    async with running(faulty, state, upload_delay_s=0.0) as m:
        late = faulty.add("late", "put", "d/", delay_s=LATE_S)
        await m.mkdir("d")
        await until(lambda: late.fired)
        await m.drain()
        await m.rmdir("d")
        await m.drain()
        land(faulty)
        assert contents(faulty.inner) == {}


async def test_a_lost_change_of_attributes_disturbs_no_reader(faulty: FaultyStore, state: Path) -> None:
    faulty.inner.put("a", b"content")
    async with running(faulty, state, upload_delay_s=0.0) as m:
        await m.node("a")
        lost = faulty.add("lose", "copy", "a")
        silent = faulty.add("fail", "head", "a", times=5)
        await m.chmod("a", 0o600)
        await until(lambda: lost.fired and silent.fired)
        assert await m.read_file("a") == b"content"
        await m.drain()
        assert m.vfs.status().conflicts == []


async def test_the_old_object_is_not_taken_for_what_a_stream_put(store: DictStore, state: Path) -> None:
    faulty = FaultyStore(store, past=Past(), part_bytes=4)
    async with running(faulty, state, upload_delay_s=0.0, stream_bytes=8) as m:
        await m.write_file("a", b"old content.")
        await m.drain()
        failed = faulty.add("fail", "put_part", "a")
        await m.patch("a", b"NEW CONTENT", 1)
        await until(lambda: failed.fired)
        await m.drain()
        assert await m.read_file("a") == b"oNEW CONTENT"
        assert contents(store) == {"a": b"oNEW CONTENT"}


@pytest.mark.parametrize("symlink", [False, True])
async def test_a_file_and_a_folder_change_places(faulty: FaultyStore, state: Path, symlink: bool) -> None:
    """Each is in the way of the other, where keys are paths."""
    async with running(faulty, state, upload_delay_s=0.0) as m:
        await m.write_file("a", b"file")
        await m.mkdir("c")
        await (m.symlink("/nowhere", "c/c") if symlink else m.write_file("c/c", b"/nowhere"))
        await m.drain()
    async with running(faulty, state, upload_delay_s=0.0) as m:
        await m.rename("a", "c", EXCHANGE)
        await m.drain()
        assert contents(faulty.inner) == {"a/": b"", "a/c": b"/nowhere", "c": b"file"}


async def test_attributes_that_the_object_has_are_not_sent(faulty: FaultyStore, state: Path) -> None:
    """A file that was sent while it was written, all of it at once: a late change of nothing would make its
    object another one, on a store whose etag tells of that, long after it was believed to have landed."""
    async with running(faulty, state, upload_delay_s=0.0, stream_bytes=4) as m:
        late = faulty.add("late", "copy", "a", delay_s=60.0)
        lost = faulty.add("lose", "put", "a")
        await m.write_file("a", b"all at once")
        await m.drain()
        assert (lost.fired, faulty.requests["start_upload"]) == (1, 1)
        land(faulty)
        assert await m.read_file("a") == b"all at once"
        assert late.fired == 0
