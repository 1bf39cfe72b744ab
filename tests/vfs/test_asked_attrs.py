"""Which attributes a listing asks for: none where none are to be expected, and yet nothing is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from mountstore.backends.memory import DictStore
from mountstore.store import Data, ObjectInfo, ObjectStore
from tests.vfs.faulty import FaultyStore
from tests.vfs.mounted import contents, running, until


def far(store: ObjectStore) -> FaultyStore:
    """The store as if a network lay before it: requests are worth saving."""
    return FaultyStore(store, lacking=["local"])


class Bringing(FaultyStore):
    """Tells small objects' attributes together with their content, as S3 does; `after`, by key, runs between
    that and whatever is asked next."""

    after: Mapping[str, Callable[[], object]] = MappingProxyType({})

    def head_or_get_many(self, keys: Iterable[str]) -> dict[str, tuple[ObjectInfo, Data | None]]:
        found: dict[str, tuple[ObjectInfo, Data | None]] = {}
        for key in keys:
            info = self.inner.head(key)
            found[key] = info, self.get(key, if_match=info.etag)
        for key in found.keys() & self.after.keys():
            self.after[key]()
        return found


async def _written(store: DictStore, state: Path, files: dict[str, bytes]) -> None:
    async with running(far(store), state) as m:
        await m.mkdir("d")
        for name, data in files.items():
            await m.write_file(f"d/{name}", data, 0o600)


async def test_small_content_comes_with_the_attributes(store: DictStore, tmp_path: Path) -> None:
    files = {f"{number}": f"content {number}".encode() for number in range(20)} | {"large": bytes(9000)}
    await _written(store, tmp_path / "1", files)
    async with running(Bringing(store, lacking=["local"]), tmp_path / "2") as m:
        assert {(await m.node(f"d/{name}")).mode for name in files} == {stat.S_IFREG | 0o600}
        asked = dict(m.store.requests)
        for name, data in files.items():
            assert await m.read_file(f"d/{name}") == data
        assert m.store.requests["get"] == len(files)
        assert asked["get"] == len(files) - 1
        assert asked["head"] <= 3, "of the large file, and of markers"


async def test_of_a_large_folder_not_all_content_comes_with_the_attributes(
    store: DictStore, tmp_path: Path
) -> None:
    await _written(store, tmp_path / "1", {f"{number:03}": bytes(8000) for number in range(600)})
    async with running(Bringing(store, lacking=["local"]), tmp_path / "2") as m:
        assert len(await m.names("d")) == 600
        assert m.store.requests["get"] == (2 << 20) // 8000


async def test_content_that_was_replaced_meanwhile_is_not_taken_for_the_new_one(
    store: DictStore, tmp_path: Path
) -> None:
    """The listing tells of one version, the content is of the next, and when asked again there is a third."""
    await _written(store, tmp_path / "1", {"a": b"first", "b": b"other"})
    metadata = store.head("d/a").metadata
    bringing = Bringing(store, lacking=["local"])
    bringing.freeze_listings()
    store.put("d/a", b"secnd", metadata=metadata)
    bringing.after = {"d/a": lambda: store.put("d/a", b"third", metadata=metadata)}
    async with running(bringing, tmp_path / "2") as m:
        assert await m.read_file("d/a") == b"third"
        assert await m.read_file("d/b") == b"other"


async def test_a_listing_that_is_older_than_the_content(store: DictStore, tmp_path: Path) -> None:
    """The etag that it tells is not the content's: which of the two is right is asked for."""
    await _written(store, tmp_path / "1", {"a": b"first"})
    bringing = Bringing(store, lacking=["local"])
    bringing.freeze_listings()
    store.put("d/a", b"second!", metadata=store.head("d/a").metadata)
    async with running(bringing, tmp_path / "2") as m:
        assert await m.read_file("d/a") == b"second!"


async def test_a_folder_of_others_costs_its_listing_alone(store: DictStore, state: Path) -> None:
    for number in range(2500):
        store.put(f"d/{number:05}", b"x")
    async with running(far(store), state) as m:
        await m.names()
        m.store.reset()
        names = await m.names("d")
        assert len(names) == 2500
        assert dict(m.store.requests) == {"list": 3}


async def test_what_a_mount_wrote_is_the_same_from_the_store_alone(store: DictStore, tmp_path: Path) -> None:
    store.put("theirs/a", b"a")
    store.put("theirs/b/c", b"c")
    async with running(far(store), tmp_path / "1") as m:
        await m.mkdir("ours", 0o750)
        await m.write_file("ours/f", b"f", 0o600)
        await m.symlink("f", "ours/l")
        await m.symlink("a", "theirs/l")
        await m.chmod("theirs/b/c", 0o400)
        await m.mkdir("theirs/d", 0o700)
        await m.write_file("top", b"top", 0o640)
    async with running(far(store), tmp_path / "2") as m:
        modes = {
            "ours": stat.S_IFDIR | 0o750,
            "ours/f": stat.S_IFREG | 0o600,
            "ours/l": stat.S_IFLNK | 0o777,
            "theirs/a": stat.S_IFREG | 0o644,
            "theirs/l": stat.S_IFLNK | 0o777,
            "theirs/b/c": stat.S_IFREG | 0o400,
            "theirs/d": stat.S_IFDIR | 0o700,
            "top": stat.S_IFREG | 0o640,
        }
        assert {path: (await m.node(path)).mode for path in modes} == modes
        assert await m.readlink("theirs/l") == "a"


async def test_a_plain_file_makes_no_marker_in_a_folder_of_others(store: DictStore, state: Path) -> None:
    store.put("d/a", b"a")
    async with running(far(store), state, umask=0o022) as m:
        await m.write_file("d/b", b"b", 0o644)
        await m.drain()
        assert m.store.requests["put"] == 1
    assert contents(store) == {"d/a": b"a", "d/b": b"b"}


async def test_an_old_time_is_told_about(store: DictStore, tmp_path: Path) -> None:
    store.put("d/a", b"a")
    async with running(far(store), tmp_path / "1") as m:
        await m.write_file("d/b", b"b")
        await m.utimens("d/b", 1_000_000_000_123_456_789)
    async with running(far(store), tmp_path / "2") as m:
        assert (await m.node("d/b")).mtime_ns == 1_000_000_000_123_456_789


async def test_attributes_below_a_marker_of_s3fs_are_asked_for(store: DictStore, state: Path) -> None:
    store.put("d/", b"", metadata={"mode": str(stat.S_IFDIR | 0o755), "uid": "7", "gid": "8"})
    store.put("d/f", b"x", metadata={"mode": str(stat.S_IFREG | 0o640), "uid": "7", "gid": "8"})
    async with running(far(store), state) as m:
        node = await m.node("d/f")
        assert (node.mode, node.uid, node.gid) == (stat.S_IFREG | 0o640, 7, 8)


@pytest.mark.parametrize("mode", [0o644, 0o600])
async def test_a_large_root_is_sampled(store: DictStore, state: Path, mode: int) -> None:
    metadata = {} if mode == 0o644 else {"mode": str(stat.S_IFREG | mode)}
    for number in range(1500):
        store.put(f"{number:05}", b"", metadata=metadata)
    async with running(far(store), state) as m:
        await m.names()
        assert (m.store.requests["head"] <= 16) == (mode == 0o644)
        assert {stat.S_IMODE((await m.node(f"{number:05}")).mode) for number in (0, 700, 1499)} == {mode}


async def test_after_a_restart_what_was_known_is_shown_at_once(store: DictStore, state: Path) -> None:
    for number in range(1500):
        store.put(f"d/{number:05}", b"x")
    async with running(far(store), state, ttl_s=0.0) as m:
        await m.names("d")
    store.delete("d/00000")
    async with running(far(store), state, ttl_s=0.05) as m:
        gate = m.store.add("gate", "list", "d/")
        assert len(await m.names("d")) == 1500  # while the store has not answered
        assert await m.exists("d/00001")
        gate.open()
        await until(lambda: m.store.requests["list"] >= 2)

        async def fresh() -> bool:
            return len(await m.names("d")) == 1499

        while not await fresh():
            await m.node("")
        assert not await m.exists("d/00000")
        assert os.fsdecode(b"00001") in await m.names("d")
