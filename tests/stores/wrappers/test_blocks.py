"""CachingStore in blocks: what is asked of the store behind it, of which version, and by how many."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mountstore.backends._large_bytes import LARGE_BYTES
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import (
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreFull,
    Unavailable,
    UsageError,
)
from mountstore.store import Capabilities, Data, ObjectInfo, Upload
from mountstore.stores import CachingStore
from tests.mount.waiting import wait_until
from tests.power.disks import disk
from tests.stores.conformance import in_threads
from tests.stores.wrappers.stacks import BreakableStore

STEP = 1000
DATA = random.Random(0).randbytes(10 * STEP + 7)


class Main(BreakableStore):
    """Remembers the ranges that were asked for, and can be made to wait."""

    capabilities = replace(DictStore.capabilities, uploads=True)

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int | None]] = []
        self.go = threading.Event()
        self.go.set()
        self.answer = threading.Event()
        self.answer.set()

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self.ranges.append((start // STEP, None if stop is None else stop // STEP))
        assert self.go.wait(20)
        data = super().get(key, start, stop, if_match=if_match)
        assert self.answer.wait(20)
        return data

    def start_upload(self, key: str, *, metadata: Mapping[str, str] | None = None) -> Upload:
        return Whole(self, key)


class Whole(Upload):
    """An upload of one part."""

    part_bytes = 1 << 20

    def __init__(self, main: Main, key: str) -> None:
        self._main = main
        self._key = key

    def put_part(self, number: int, data: Data) -> None:
        self._data = data

    def finish(self, *, if_match: str | None = None, if_absent: bool = False) -> ObjectInfo:
        return self._main.put(self._key, self._data, if_match=if_match, if_absent=if_absent)

    def abort(self) -> None:
        pass


@pytest.fixture
def main() -> Main:
    return Main()


def caching(main: Main, cache: DictStore | None = None, **options: Any) -> CachingStore:
    return CachingStore(main, cache or DictStore(), block_bytes=STEP, **options)


def put(main: Main, key: str = "k", data: bytes = DATA) -> str:
    etag = DictStore.put(main, key, data).etag
    assert etag is not None
    return etag


def test_a_named_version_is_served_without_asking(main: Main) -> None:
    etag = put(main)
    store = caching(main)
    assert bytes(store.get("k", 0, len(DATA), if_match=etag)) == DATA
    assert main.calls == {"get": 1}
    main.broken = {"all"}
    for start, stop in [(0, 1), (STEP - 1, STEP + 1), (5 * STEP, len(DATA)), (3, 9 * STEP), (9, 99 * STEP)]:
        assert bytes(store.get("k", start, stop, if_match=etag)) == DATA[start:stop]
    with pytest.raises(InvalidRange):
        store.get("k", len(DATA) + 1, len(DATA) + 2, if_match=etag)
    assert main.calls == {"get": 1}
    with pytest.raises(Unavailable):
        store.get("k", 0, 5, if_match="another")


def test_runs_of_missing_blocks_are_asked_for_at_once(main: Main) -> None:
    etag = put(main)
    store = caching(main)
    for start, stop in [(2 * STEP, 3 * STEP), (6 * STEP + 5, 7 * STEP + 5)]:
        assert bytes(store.get("k", start, stop, if_match=etag)) == DATA[start:stop]
    assert main.ranges == [(2, 3), (6, 8)]
    assert bytes(store.get("k", 0, len(DATA), if_match=etag)) == DATA
    assert main.ranges[2:] == [(0, 2), (3, 6), (8, 11)]


def test_what_this_store_changed_is_not_served_any_more(main: Main) -> None:
    store = caching(main)
    etag = store.put("k", DATA).etag
    assert etag is not None
    assert bytes(store.get("k", 0, 5, if_match=etag)) == DATA[:5]
    store.put("k", DATA[::-1])
    with pytest.raises(PreconditionFailed):
        store.get("k", 0, 5, if_match=etag)
    etag = store.put("k", DATA).etag
    store.delete("k")
    with pytest.raises(NotFound):
        store.get("k", 0, 5, if_match=etag)
    for change in (store.delete_many, lambda keys: store.rename(keys[0], "other")):
        etag = store.put("k", DATA).etag
        change(["k"])
        with pytest.raises(NotFound):
            store.get("k", 0, 5, if_match=etag)
    upload = store.start_upload("other")
    old = store.head("other").etag
    assert bytes(store.get("other", 0, 5, if_match=old)) == DATA[:5]
    upload.put_part(1, b"new")
    upload.finish(if_match=old)
    with pytest.raises(PreconditionFailed):
        store.get("other", 0, 5, if_match=old)


def test_a_fetch_that_a_write_overtakes_is_not_kept(main: Main) -> None:
    etag = put(main)
    cache = DictStore()
    store = caching(main, cache)
    main.answer.clear()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(bytes(store.get("k", 0, 5, if_match=etag))))
    reader.start()
    wait_until("it has asked", lambda: main.calls.get("get"))
    store.delete("k")
    main.answer.set()
    reader.join(20)
    assert got == [DATA[:5]]
    assert cache.usage() == (0, 0)


def test_each_block_is_fetched_once_however_many_ask(main: Main) -> None:
    etag = put(main)
    store = caching(main)
    main.go.clear()
    ready = threading.Barrier(8)

    def read(number: int) -> None:
        ready.wait(20)
        low = number % 3 * STEP
        assert bytes(store.get("k", low, len(DATA), if_match=etag)) == DATA[low:]

    opener = threading.Timer(0.5, main.go.set)
    opener.start()
    in_threads(8, read)
    opener.join()
    asked = [number for low, high in main.ranges for number in range(low, high or 0)]
    assert sorted(asked) == list(range(11))


def test_when_one_fetch_fails_those_who_wait_fetch_themselves(main: Main) -> None:
    etag = put(main)
    store = caching(main)
    main.go.clear()
    main.broken = {"get"}
    outcomes: list[object] = []

    def read(_: int) -> None:
        try:
            outcomes.append(bytes(store.get("k", 0, 2 * STEP, if_match=etag)))
        except Unavailable as error:
            outcomes.append(error)

    first = threading.Thread(target=read, args=(0,))
    first.start()
    wait_until("it asks", lambda: main.ranges)
    second = threading.Thread(target=read, args=(1,))
    second.start()
    main.go.set()
    first.join(20)
    main.broken = set()
    second.join(20)
    assert len(outcomes) == 2
    assert bytes(store.get("k", 0, 2 * STEP, if_match=etag)) == DATA[: 2 * STEP]


def test_a_store_that_compares_only_whole_objects_is_asked_for_them(main: Main) -> None:
    main.capabilities = replace(Main.capabilities, whole_read_bytes=20 * STEP)
    etag = put(main)
    store = caching(main)
    store.get("k", 3 * STEP, 4 * STEP, if_match=etag)
    assert bytes(store.get("k", 0, len(DATA), if_match=etag)) == DATA
    assert main.ranges == [(3, 4), (0, 11)]


def test_an_answer_that_is_cut_short_is_not_kept(main: Main) -> None:
    class Cutting(Main):
        healed = False

        def get(
            self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None
        ) -> Data:
            data = super().get(key, start, stop, if_match=if_match)
            return data if self.healed else data[:1500]

    main = Cutting()
    etag = put(main)
    cache = DictStore()
    store = caching(main, cache)
    assert bytes(store.get("k", 0, 3 * STEP, if_match=etag)) == DATA[:1500]
    assert cache.usage() == (1, STEP)
    main.healed = True
    assert bytes(store.get("k", 0, 3 * STEP, if_match=etag)) == DATA[: 3 * STEP]


# -- writing ------------------------------------------------------------------------------------------


class Changing(Main):
    """Takes changes as they are, and counts what it reads of the file."""

    def put_changes(
        self,
        key: str,
        data: BinaryIO,
        changed: Sequence[tuple[int, int]],
        *,
        source: str,
        source_etag: str,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        return DictStore.put(self, key, data.read(), if_match=if_match)


def test_blocks_that_did_not_change_are_those_of_the_new_version() -> None:
    main, cache = Changing(), DictStore()
    store = caching(main, cache)
    old = store.put("k", DATA).etag
    assert old is not None
    new = bytearray(DATA + b"more")
    new[2500:2600] = b"x" * 100
    new[4990:5010] = b"y" * 20
    changed = [(2500, 2600), (4990, 5010), (len(DATA), len(DATA) + 4)]
    info = store.put_changes("k", io.BytesIO(new), changed, source="k", source_etag=old, if_match=old)
    main.broken = {"get"}
    assert bytes(store.get("k", 0, 10 * STEP, if_match=info.etag)) == new[: 10 * STEP]
    with pytest.raises(Unavailable):
        store.get("k", 10 * STEP, 11 * STEP, if_match=info.etag)
    assert cache.usage() == (10, 10 * STEP)


@pytest.mark.parametrize("how", ["rename", "copy and delete", "metadata"])
def test_a_renamed_object_keeps_its_blocks(main: Main, how: str) -> None:
    cache = DictStore()
    store = caching(main, cache)
    etag = store.put("k", DATA).etag
    if how == "rename":
        info = store.rename("k", "new", if_match=etag)
    elif how == "metadata":
        info = replace(store.update_metadata("k", {"a": "1"}, if_match=etag), key="k")
    else:
        info = store.copy("k", "new", if_match=etag)
        store.delete("k")
    main.broken = {"get"}
    key = "k" if how == "metadata" else "new"
    assert bytes(store.get(key, 0, len(DATA), if_match=info.etag)) == DATA
    assert cache.usage() == (11, len(DATA))


def test_block_by_block(main: Main) -> None:
    """What is here comes as the cache has it, and the rest of it in one request."""
    store = caching(main, DictStore())
    etag = put(main)
    wanted = [DATA[low : low + STEP] for low in range(0, len(DATA), STEP)]
    store.get("k", 0, 3 * STEP, if_match=etag)
    main.ranges.clear()
    for _ in range(2):
        assert [bytes(block) for block in store.get_blocks("k", 0, len(DATA), if_match=etag)] == wanted
    assert main.ranges == [(3, -(-len(DATA) // STEP))]
    assert [*map(bytes, store.get_blocks("k", 2 * STEP, 5 * STEP, if_match=etag))] == wanted[2:5]
    main.capabilities = replace(main.capabilities, conditional_get=False)
    store = caching(main, DictStore())
    assert [*map(bytes, store.get_blocks("k", 0, len(DATA), if_match=etag))] == wanted
    with pytest.raises(PreconditionFailed):
        store.get_blocks("k", 0, STEP, if_match="another")


@pytest.mark.parametrize("writers", [0, 1])
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_large_range_that_is_here(main: Main, tmp_path: Path, kind: str, writers: int) -> None:
    data = random.Random(1).randbytes(LARGE_BYTES + 3 * STEP + 7)
    made = FilesystemStore(tmp_path, durable=False) if kind == "folder" else DictStore()
    store = CachingStore(main, made, block_bytes=100 * STEP, writers=writers)
    etag = put(main, data=data)
    assert bytes(store.get("k")) == data
    if kind == "folder":
        assert store.flush(20)
    main.ranges.clear()
    read = store.stats.hits
    for start, stop in ((0, None), (0, len(data)), (STEP, None), (STEP, len(data) - 1), (0, LARGE_BYTES)):
        assert bytes(store.get("k", start, stop)) == data[start:stop]
        assert bytes(store.get("k", start, stop, if_match=etag)) == data[start:stop]
    assert main.ranges == []
    assert store.stats.hits - read == 10 * 42
    assert store.stats.misses == 42
    # A block that is damaged or gone is fetched again, and nothing else.
    if kind == "folder":
        assert store.flush(20)
        names = {name.split("-")[2]: name for name in os.listdir(tmp_path) if name.count("-") == 3}
        damaged = tmp_path / names["5"]
        damaged.write_bytes(bytes(damaged.stat().st_size))
        (tmp_path / names[f"{29:x}"]).unlink()
        assert bytes(store.get("k")) == data
        assert sorted(low for low, _ in main.ranges) == [500, 2900]
        main.ranges.clear()
        assert bytes(store.get("k")) == data
        assert main.ranges == []
    store.close()


def test_a_copy_that_was_overwritten_inherits_nothing(main: Main) -> None:
    cache = DictStore()
    store = caching(main, cache)
    etag = store.put("k", DATA).etag
    copied = store.copy("k", "new", if_match=etag).etag
    store.put("new", b"other")
    store.delete("k")
    with pytest.raises(PreconditionFailed):
        store.get("new", 0, 5, if_match=copied)
    assert cache.usage() == (1, 5)


def test_what_was_uploaded_is_taken_over(main: Main) -> None:
    cache = DictStore()
    closed: list[int] = []
    store = caching(main, cache, writers=2)
    etag = put(main)
    info = replace(main.head("k"), etag=etag)

    def read(start: int, stop: int) -> bytes | None:
        return None if start == 4 * STEP else DATA[start:stop]

    store.fill(info, read, lambda: closed.append(1))
    assert store.flush(20)
    assert closed == [1]
    assert cache.usage() == (10, len(DATA) - STEP)
    main.ranges.clear()
    assert bytes(store.get("k", 0, len(DATA), if_match=etag)) == DATA
    assert main.ranges == [(4, 5)]

    def fail(start: int, stop: int) -> bytes | None:
        raise OSError(5, "the file cannot be read")

    info = replace(info, etag=put(main, data=DATA[::-1]))
    store.fill(info, fail, lambda: closed.append(2))
    assert store.flush(20)
    assert closed == [1, 2]
    store.close()
    store.fill(info, read, lambda: closed.append(3))
    assert closed == [1, 2, 3]


# -- pins ---------------------------------------------------------------------------------------------


def test_pins(main: Main) -> None:
    cache = DictStore()
    store = caching(main, cache, capacity_bytes=30 * STEP)
    for name in ("dir/one", "dir/two", "dirt", "file", "file2"):
        put(main, name, DATA)
    assert store.pin("dir/").size_bytes == 2 * len(DATA)
    with pytest.raises(StoreFull, match="make it larger"):
        store.pin("file")
    assert store.pin("dir/one").prefix == "dir/"
    for name in ("dir/one", "dir/two"):
        store.warm(name, main.head(name).etag or "", len(DATA))
    assert store.stats.pinned_bytes == 2 * len(DATA)
    for name in ("dirt", "file", "file2"):
        store.warm(name, main.head(name).etag or "", len(DATA))
    assert store.stats.pinned_bytes == 2 * len(DATA)
    main.broken = {"get"}
    for name in ("dir/one", "dir/two"):
        assert bytes(store.get(name, 0, len(DATA), if_match=main.head(name).etag)) == DATA
    with pytest.raises(UsageError, match="not pinned"):
        store.unpin("dir/one")
    store.unpin("dir/")
    assert store.pins == []
    assert store.stats.pinned_bytes == 0


def test_what_is_here_when_it_is_pinned_is_pinned_when_it_is_read(main: Main) -> None:
    cache = DictStore()
    store = caching(main, cache)
    etag = put(main)
    store.warm("k", etag, len(DATA))
    store.pin("k")
    assert store.stats.pinned_bytes == 0
    store.warm("k", etag, len(DATA))
    assert store.stats.pinned_bytes == len(DATA)
    again = caching(main, cache)
    assert again.stats.pinned_bytes == len(DATA)
    assert [pin.prefix for pin in again.pins] == ["k"]
    assert main.calls["get"] == 3


# -- the disk -----------------------------------------------------------------------------------------


def test_everything_that_a_mount_looks_for_is_passed_on(main: Main) -> None:
    store = caching(main)
    put(main, "a")
    assert store.capabilities == main.capabilities
    assert store.requests == {}
    main.requests = {"GET": 7}  # type: ignore[attr-defined]
    assert store.requests == {"GET": 7}
    assert store.head_many(["a", "b"]) == {"a": main.head("a")}
    assert store.stat("a") == main.stat("a")
    assert isinstance(store.capabilities, Capabilities)


def test_a_small_disk_is_not_filled(main: Main, tmp_path: Path) -> None:
    """A cache of more than its file system has room for; a quarter of that is left to others."""
    with (
        disk("ext4", tmp_path, size=8 << 20) as small,
        FilesystemStore(small.root / "c", durable=False) as cache,
    ):
        store = CachingStore(main, cache, block_bytes=100_000, capacity_bytes=1 << 30)
        objects = {f"k{number}": random.Random(number).randbytes(950_000) for number in range(12)}
        for key, data in objects.items():
            store.put(key, data)
        for _ in range(2):
            for key, data in objects.items():
                assert bytes(store.get(key)) == data
        assert bytes(store.get("k11")) == objects["k11"]
        assert store.stats.hits == 10
        assert store.stats.errors == 0
        found = os.statvfs(small.root)
        assert found.f_bavail >= found.f_blocks // 4 - 100_000 // found.f_frsize
        before = store.stats.used_bytes
        with open(small.root / "others", "xb") as others:
            os.posix_fallocate(others.fileno(), 0, found.f_bavail * found.f_frsize - 200_000)
        for key, data in objects.items():
            assert bytes(store.get(key)) == data
        assert 0 < store.stats.used_bytes <= before, "what comes takes the place of what goes"
        assert store.stats.errors == 0
        assert store.give_way(1_000_000) >= 1_000_000
        assert store.stats.used_bytes <= before - 1_000_000
        assert store.is_on(os.stat(small.root).st_dev)
        assert not store.is_on(os.stat(tmp_path).st_dev)
