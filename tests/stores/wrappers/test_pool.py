"""BlockPool: its bound, what it keeps and what goes, what it does when its cache is damaged, full or away."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import StoreFull, Unavailable
from mountstore.store import Data, ObjectInfo
from mountstore.stores.blocks import digest
from mountstore.stores.pauses import Pause
from mountstore.stores.pins import Pin
from mountstore.stores.pool import BlockPool
from tests.mount.waiting import wait_until
from tests.stores.conformance import in_threads
from tests.stores.wrappers.stacks import BreakableStore

CAPACITY = 100
ETAG = digest("etag")


def content(key: int, number: int, size: int) -> bytes:
    return random.Random(key * 1000 + number).randbytes(size)


class Model:
    """What is in the pool, as lists of (key, number), the one used last at the end."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int], int] = {}
        self.used: set[tuple[int, int]] = set()
        self.probation: list[tuple[int, int]] = []
        self.protected: list[tuple[int, int]] = []

    def total(self, names: list[tuple[int, int]]) -> int:
        return sum(self.sizes[name] for name in names)

    def insert(self, name: tuple[int, int], size: int) -> None:
        if name in self.sizes or size > CAPACITY:
            return
        while self.total([*self.sizes]) + size > CAPACITY:
            self.drop((self.probation or self.protected)[0])
        self.sizes[name] = size
        self.probation.append(name)

    def drop(self, name: tuple[int, int]) -> None:
        del self.sizes[name]
        self.used.discard(name)
        for segment in (self.probation, self.protected):
            if name in segment:
                segment.remove(name)

    def read(self, name: tuple[int, int]) -> int | None:
        if name not in self.sizes:
            return None
        again = name in self.used
        self.used.add(name)
        segment = self.protected if name in self.protected or again else self.probation
        for old in (self.probation, self.protected):
            if name in old:
                old.remove(name)
        segment.append(name)
        while self.total(self.protected) > CAPACITY * 0.8 and len(self.protected) > 1:
            demoted = self.protected.pop(0)
            self.probation.append(demoted)
        return self.sizes[name]


steps = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, 5), st.integers(0, 3), st.integers(0, 40)),
    st.tuples(st.just("read"), st.integers(0, 5), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("supersede"), st.integers(0, 5), st.just(0), st.just(0)),
    st.tuples(st.just("clear"), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_what_stays_is_what_the_rules_say(script: list[tuple[str, int, int, int]]) -> None:
    cache, model = DictStore(), Model()
    pool = BlockPool(cache, CAPACITY)
    for verb, key, number, size in script:
        name, kd = (key, number), digest(str(key))
        if verb == "insert":
            data = content(key, number, size)
            pool.insert(kd, ETAG, number, data, epoch=pool.epoch(kd))
            model.insert(name, size)
        elif verb == "read":
            known = model.read(name)
            told = pool.read(kd, ETAG, number)
            assert (None if told is None else bytes(told)) == (
                None if known is None else content(key, number, known)
            )
        elif verb == "supersede":
            pool.supersede(kd)
            for held in [held for held in model.sizes if held[0] == key]:
                model.drop(held)
        else:
            pool.clear()
            model = Model()
        assert cache.usage() == (len(model.sizes), model.total([*model.sizes]))
        assert (pool.stats.blocks, pool.stats.used_bytes) == cache.usage()
    again = BlockPool(cache, CAPACITY)
    for (key, number), size in model.sizes.items():
        told = again.read(digest(str(key)), ETAG, number)
        assert told is not None
        assert bytes(told) == content(key, number, size)


replacements = st.one_of(
    st.tuples(st.just("replace"), st.integers(0, 4), st.integers(0, 2), st.integers(0, 40)),
    st.tuples(st.just("insert"), st.integers(0, 4), st.integers(0, 2), st.integers(0, 40)),
    st.tuples(st.just("read"), st.integers(0, 4), st.integers(0, 2), st.integers(0, 1)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(replacements, max_size=60))
def test_to_replace_is_to_supersede_and_insert(script: list[tuple[str, int, int, int]]) -> None:
    caches = DictStore(), DictStore()
    short, long = (BlockPool(cache, CAPACITY) for cache in caches)
    for verb, key, version, size in script:
        kd, etag, data = digest(str(key)), digest(f"e{version}"), content(key, version, size)
        if verb == "replace":
            short.replace(kd, etag, data)
            long.insert(kd, etag, 0, data, epoch=long.supersede(kd, etag))
        elif verb == "insert":  # so that there may be several blocks, of several versions
            for pool in (short, long):
                pool.insert(kd, etag, size % 3, data, epoch=pool.epoch(kd))
        else:
            assert short.read(kd, etag, size) == long.read(kd, etag, size)
        assert short.epoch(kd) == long.epoch(kd)
        assert [*caches[0].keys()] == [*caches[1].keys()]
        assert short.stats == long.stats


def test_reading_a_lot_once_leaves_what_is_used_again() -> None:
    pool = BlockPool(DictStore(), 1000)

    def ask(name: str) -> bool:
        key = digest(name)
        if pool.read(key, ETAG, 0) is not None:
            return True
        pool.insert(key, ETAG, 0, bytes(100), epoch=pool.epoch(key), used=True)
        return False

    for _ in range(3):
        for number in range(6):
            ask(f"again {number}")
    for number in range(100):
        assert not ask(f"once {number}")
    assert all(ask(f"again {number}") for number in range(6))


def test_the_number_of_blocks_is_bounded_too() -> None:
    cache = DictStore()
    pool = BlockPool(cache, 1 << 20, max_blocks=10)
    for number in range(50):
        pool.insert(digest("k"), ETAG, number, b"x", epoch=pool.epoch(digest("k")))
    assert cache.usage() == (10, 10)


def test_what_was_fetched_before_a_write_is_not_kept() -> None:
    pool = BlockPool(DictStore(), 1000)
    key = digest("k")
    epoch = pool.epoch(key)
    pool.supersede(key, digest("new"))
    pool.insert(key, ETAG, 0, b"old", epoch=epoch)
    assert pool.read(key, ETAG, 0) is None
    assert pool.stats.used_bytes == 0


def test_the_bound_holds_with_threads_and_writers(tmp_path: Path) -> None:
    with FilesystemStore(tmp_path / "cache", durable=False) as cache:
        pool = BlockPool(cache, 20_000, writers=2, queue_bytes=5000)
        broken = threading.Event()

        def work(number: int) -> None:
            chosen = random.Random(number)
            for _ in range(300):
                key, block = chosen.randrange(8), chosen.randrange(20)
                kd = digest(str(key))
                told = pool.read(kd, ETAG, block)
                wanted = content(key, block, 700)
                if told is None:
                    pool.insert(kd, ETAG, block, wanted, epoch=pool.epoch(kd), used=True)
                elif bytes(told) != wanted:
                    broken.set()
                if chosen.random() < 0.02:
                    pool.supersede(kd)
                if cache.usage()[1] > 20_000:
                    broken.set()

        in_threads(4, work)
        assert not broken.is_set()
        assert pool.writers is not None
        assert pool.writers.flush(20)
        assert cache.usage() == (pool.stats.blocks, pool.stats.used_bytes)
        pool.close()


def test_readers_and_evictions_keep_out_of_each_others_way() -> None:
    """Threads that change places after every few instructions: what is looked at is not what is moved."""
    pool = BlockPool(DictStore(), 3000)

    def work(number: int) -> None:
        chosen = random.Random(number)
        if number < 3:
            for _ in range(20_000):
                pool.read(digest(str(chosen.randrange(20))), ETAG, chosen.randrange(3))
            return
        for _ in range(5000):
            key = digest(str(chosen.randrange(20)))
            pool.insert(key, ETAG, chosen.randrange(3), bytes(100), epoch=pool.epoch(key))
            if chosen.random() < 0.1:
                pool.give_way(300)
            if chosen.random() < 0.05:
                pool.replace(key, digest(str(chosen.random())), bytes(100))

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(5, work)
    finally:
        sys.setswitchinterval(often)
    assert pool.stats.errors == 0
    assert pool.cache.usage() == (pool.stats.blocks, pool.stats.used_bytes)


FILL = """
import random, sys
from mountstore.backends.filesystem import FilesystemStore
from mountstore.stores.blocks import digest
from mountstore.stores.pool import BlockPool
pool = BlockPool(FilesystemStore(sys.argv[1], durable=False), 3_000_000, writers=int(sys.argv[2]))
size = int(sys.argv[3])
print("begun", flush=True)
for number in range(1_000_000):
    key = digest(str(number % 50))
    if number % 97 == 0:
        pool.supersede(key)
    data = random.Random(number % 1000).randbytes(size)
    pool.insert(key, digest("e"), number % 1000, data, epoch=pool.epoch(key))
"""


@pytest.mark.parametrize(
    ("writers", "size", "least"),
    [(2, 40_000, 20), (0, 1000, 20), (1, 600_000, 4)],  # of the last there is room for five
)
@pytest.mark.parametrize("kills", [3])
def test_after_a_kill_every_block_is_right_and_counted(
    tmp_path: Path, kills: int, writers: int, size: int, least: int
) -> None:
    held, blocks = 0, tmp_path / "cache"
    for _ in range(kills):
        command = [sys.executable, "-c", FILL, str(blocks), str(writers), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                wait_until("it is at work", lambda: len(os.listdir(blocks)) > least)
            finally:
                process.send_signal(signal.SIGKILL)
        with FilesystemStore(tmp_path / "cache", durable=False) as cache:
            pool = BlockPool(cache, 3_000_000)
            assert cache.usage() == (pool.stats.blocks, pool.stats.used_bytes)
            assert pool.stats.used_bytes <= 3_000_000
            for number in range(1000):
                data = pool.read(digest(str(number % 50)), digest("e"), number)
                if data is not None:
                    held += 1
                    assert bytes(data) == random.Random(number).randbytes(size)
            assert pool.stats.errors == 0
    assert held > least


def test_a_block_that_was_never_filled_goes(tmp_path: Path) -> None:
    """What a kill leaves between the name of a small block and its content."""
    with FilesystemStore(tmp_path / "cache", durable=False) as cache:
        pool, key = BlockPool(cache, 1000), digest("k")
        for number, data in enumerate((b"content", b"")):
            pool.insert(key, ETAG, number, data, epoch=pool.epoch(key))
        (name,) = (name for name in cache.keys() if cache.get(name))
        os.truncate(tmp_path / "cache" / name, 0)
        again = BlockPool(cache, 1000)
        assert again.read(key, ETAG, 0) is None
        assert again.read(key, ETAG, 1) == b""
        assert (again.stats.errors, again.stats.blocks, cache.usage()[0]) == (0, 1, 1)


def test_a_damaged_block_is_dropped(tmp_path: Path) -> None:
    with FilesystemStore(tmp_path / "cache", durable=False) as cache:
        pool = BlockPool(cache, 1000)
        key = digest("k")
        for number in range(4):
            pool.insert(key, ETAG, number, bytes([number]) * 100, epoch=pool.epoch(key))
        names = sorted(cache.keys())
        for name, damage in zip(names, ["flip", "cut", "grow", "empty"], strict=True):
            path = tmp_path / "cache" / name
            data = bytearray(path.read_bytes())
            if damage == "flip":
                data[50] ^= 4
            elif damage == "grow":
                data += b"x"
            else:
                del data[len(data) // 2 if damage == "cut" else 0 :]
            path.write_bytes(data)
        assert [pool.read(key, ETAG, number) for number in range(4)] == [None] * 4
        assert pool.stats.errors == 4
        assert cache.usage() == (0, 0)
        assert pool.stats.used_bytes == 0
        pool.insert(key, ETAG, 0, b"whole", epoch=pool.epoch(key))
        assert pool.read(key, ETAG, 0) == b"whole"


def test_strangers_in_the_cache_are_cleared_away() -> None:
    cache = DictStore()
    cache.put("stranger", b"x" * 500)
    pool = BlockPool(cache, 100)
    assert cache.usage() == (0, 0)
    assert pool.stats.blocks == 0


class Counting(BreakableStore):
    """Counts what it is asked, also when it fails."""

    def total(self) -> int:
        return sum(self.calls.values())


def test_a_broken_cache_is_left_alone() -> None:
    cache = Counting()
    pool = BlockPool(cache, 1000)
    key = digest("k")
    pool.insert(key, ETAG, 0, b"here", epoch=pool.epoch(key))
    cache.broken = {"all"}
    before = cache.total()
    for number in range(1000):
        assert pool.read(key, ETAG, 0) is None
        pool.insert(key, ETAG, number + 1, b"data", epoch=pool.epoch(key))
    assert 2 <= cache.total() - before < 50
    cache.broken = set()

    def works() -> bool:
        return pool.read(key, ETAG, 0) is not None

    wait_until("it is tried again", works, timeout_s=20)


def test_a_cache_that_cannot_be_listed_yet_takes_nothing() -> None:
    """Nobody knows how much is in it."""
    cache = Counting()
    full = BlockPool(cache, 1000)
    key = digest("k")
    for number in range(10):
        full.insert(key, ETAG, number, bytes(100), epoch=full.epoch(key))
    cache.broken = {"list"}
    pool = BlockPool(cache, 1000)
    pool.insert(key, digest("other"), 0, bytes(100), epoch=pool.epoch(key))
    assert cache.calls["put"] == 10
    cache.broken = set()
    pool.insert(key, digest("other"), 0, bytes(100), epoch=pool.epoch(key))
    assert DictStore.usage(cache) == (10, 1000)
    assert pool.read(key, digest("other"), 0) == bytes(100)


def test_what_cannot_be_deleted_counts() -> None:
    cache = Counting()
    pool = BlockPool(cache, 300)
    key = digest("k")
    for number in range(3):
        pool.insert(key, ETAG, number, bytes(100), epoch=pool.epoch(key))
    cache.broken = {"delete"}
    for number in range(3, 10):
        pool.insert(key, ETAG, number, bytes(100), epoch=pool.epoch(key))
        assert DictStore.usage(cache)[1] <= 300
    cache.broken = set()

    def works() -> bool:
        pool.insert(key, ETAG, 20, bytes(100), epoch=pool.epoch(key))
        return pool.has(key, ETAG, 20)

    wait_until("there is room again", works, timeout_s=20)
    assert DictStore.usage(cache)[1] <= 300


def test_a_pause_grows_and_ends() -> None:
    pause = Pause()
    assert [pause.failed(0.0) for _ in range(12)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert not pause.is_over()
    pause.worked()
    assert pause.is_over()
    assert pause.failed(5.0) == 1


class Slow(DictStore):
    """Puts wait for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def put(self, key: str, data: Data, **options: object) -> ObjectInfo:  # type: ignore[override]
        assert self.go.wait(20)
        return super().put(key, data)


@pytest.fixture
def slow() -> Iterator[Slow]:
    store = Slow()
    yield store
    store.go.set()


def test_what_waits_to_be_written_is_bounded_and_served(slow: Slow) -> None:
    pool = BlockPool(slow, 1 << 20, writers=1, queue_bytes=300)
    key = digest("k")
    inserted = threading.Semaphore(0)

    def insert() -> None:
        for number in range(5):
            pool.insert(key, ETAG, number, bytes([number]) * 100, epoch=pool.epoch(key))
            inserted.release()

    thread = threading.Thread(target=insert)
    thread.start()
    for _ in range(3):
        assert inserted.acquire(timeout=20)
    assert not inserted.acquire(timeout=0.2)  # the fourth waits for the first to be written
    assert pool.read(key, ETAG, 2) == b"\2" * 100
    pool.supersede(key)
    assert pool.read(key, ETAG, 2) is None
    slow.go.set()
    thread.join(20)
    assert pool.writers is not None
    assert pool.writers.flush(20)
    assert slow.usage() == (pool.stats.blocks, pool.stats.used_bytes)
    pool.close()


def test_what_waits_to_be_written_goes_with_a_rename(slow: Slow) -> None:
    pool = BlockPool(slow, 1 << 20, writers=1)
    old, new, gone = digest("old"), digest("new"), digest("gone")
    for number in range(3):
        for key in (old, gone):
            pool.insert(key, ETAG, number, bytes([number]) * 100, epoch=pool.epoch(key))
    taken = pool.take(old, ETAG)
    assert len(taken) == 3
    pool.give(taken, new, ETAG, epoch=pool.epoch(new))
    pool.drop(pool.take(gone, ETAG))
    for number in range(3):
        assert pool.read(old, ETAG, number) is None
        assert pool.read(gone, ETAG, number) is None
        assert pool.read(new, ETAG, number) == bytes([number]) * 100
    assert pool.stats.used_bytes == 300
    slow.go.set()
    assert pool.writers is not None
    assert pool.writers.flush(20)
    assert slow.usage() == (3, 300) == (pool.stats.blocks, pool.stats.used_bytes)
    pool.close()
    again = BlockPool(slow, 1 << 20)
    assert again.read(new, ETAG, 2) == b"\2" * 100


def test_pinned_blocks_stay_until_they_are_unpinned() -> None:
    cache = DictStore()
    pool = BlockPool(cache, 1000)
    pool.pins.add(Pin("dir/", 300))
    mark = pool.pins.mark_of("dir/file")
    assert mark
    assert not pool.pins.mark_of("dirt")
    pinned, other = digest("dir/file"), digest("other")
    for number in range(3):
        pool.insert(pinned, ETAG, number, bytes(100), epoch=pool.epoch(pinned), pin=mark)
    for restart in range(2):
        for number in range(30):
            pool.insert(other, digest(str(restart)), number, bytes(100), epoch=pool.epoch(other))
        assert all(pool.has(pinned, ETAG, number) for number in range(3))
        assert pool.stats.pinned_bytes == 300
        assert pool.stats.used_bytes <= 1000
        pool = BlockPool(cache, 1000)
        assert [pin.prefix for pin in pool.pins] == ["dir/"]
    pool.pins.remove(Pin("dir/", 300))
    pool.unpin(mark)
    for number in range(30):
        pool.insert(other, digest("more"), number, bytes(100), epoch=pool.epoch(other))
    assert not any(pool.has(pinned, ETAG, number) for number in range(3))
    assert pool.stats.pinned_bytes == 0


@pytest.mark.parametrize("error", [StoreFull("full"), Unavailable("away")])
def test_a_write_that_fails_costs_its_block_alone(error: Exception) -> None:
    cache = BreakableStore()
    pool = BlockPool(cache, 1000)
    key = digest("k")
    pool.insert(key, ETAG, 0, b"before", epoch=pool.epoch(key))
    cache.broken, cache.error = {"put"}, error
    pool.insert(key, ETAG, 1, b"lost", epoch=pool.epoch(key))
    assert pool.read(key, ETAG, 1) is None
    assert pool.read(key, ETAG, 0) == b"before"
    assert (pool.stats.blocks, pool.stats.used_bytes) == DictStore.usage(cache) == (1, 6)
