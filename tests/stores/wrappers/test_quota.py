"""QuotaStore: exact whatever is done, in whatever order, by how many threads, and whatever fails."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import NotFound, PreconditionFailed, QuotaExceeded, StoreFull, Unavailable, UsageError
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores import QuotaStore
from tests.stores.wrappers.stacks import BreakableStore

LIMIT = 40
KEYS = st.sampled_from(["a", "b", "c/d", "e"])
SIZES = st.integers(0, LIMIT + 5)


def usage(store: QuotaStore) -> int:
    """What the store says; compared with what it holds."""
    told = store.quota()["usage"]
    assert told == store.inner.usage()[1]
    return told


def test_limits_are_numbers_of_bytes() -> None:
    with pytest.raises(UsageError, match="0 or more"):
        QuotaStore(DictStore(), -1)


def test_what_does_not_fit_changes_nothing() -> None:
    inner = BreakableStore()
    store = QuotaStore(inner, 10)
    store.put("a", b"12345")
    calls = dict(inner.calls)
    for data in (b"123456", memoryview(b"123456"), io.BytesIO(b"123456")):
        with pytest.raises(QuotaExceeded, match="needs 6 bytes, and 5 of 10 are left"):
            store.put("b", data)
    with pytest.raises(StoreFull):
        store.put("a", b"12345678901")
    assert inner.calls["put"] == calls["put"]
    assert store.get("a") == b"12345"
    assert usage(store) == 5


def test_an_overwrite_is_charged_its_difference() -> None:
    store = QuotaStore(DictStore(), 10)
    store.put("a", b"1234567890")
    store.put("a", b"0987654321")
    store.put("a", b"12345678")
    assert usage(store) == 8
    file = io.BytesIO(b"xx1234567890")
    file.seek(2)
    store.put("a", file)
    assert usage(store) == 10


def test_overwriting_moves_and_copies() -> None:
    store = QuotaStore(DictStore(), 10)
    store.put("a", b"12345")
    store.put("b", b"678")
    store.rename("a", "b")
    assert usage(store) == 5
    store.copy("b", "c")
    assert usage(store) == 10
    with pytest.raises(QuotaExceeded):
        store.copy("b", "d")
    store.copy("b", "c")
    store.rename("c", "c")
    store.copy("c", "c", metadata={"x": "y"})
    store.update_metadata("c", {"x": "z"})
    assert usage(store) == 10
    store.delete_many(["b", "c", "b", "missing"])
    assert usage(store) == 0


def test_more_than_the_limit_may_be_made_less() -> None:
    inner = DictStore()
    inner.put("a", b"x" * 100)
    store = QuotaStore(inner, 10)
    assert usage(store) == 100
    store.put("a", b"x" * 50)
    with pytest.raises(QuotaExceeded):
        store.put("b", b"x")
    store.delete("a")
    store.put("b", b"x")
    assert usage(store) == 1


def test_admit_tells_before_the_content_is_at_hand() -> None:
    store = QuotaStore(QuotaStore(DictStore(), 8), 10)
    store.put("a", b"1234567")
    store.admit("a", 8)
    with pytest.raises(QuotaExceeded):
        store.admit("a", 9)
    with pytest.raises(QuotaExceeded):
        store.admit("b", 4)
    store.put("b", b"1")
    assert usage(store) == 8


def test_it_is_counted_anew_after_a_crash(tmp_path: Path) -> None:
    with QuotaStore(FilesystemStore(tmp_path), 10) as store:
        store.put("a", b"12345")
        # As if the process had died between this put and its accounting.
        store.inner.put("b", b"678")
    with QuotaStore(FilesystemStore(tmp_path), 10) as again:
        assert again.quota() == {"limit": 10, "usage": 8}


class Unsure(DictStore):
    """Fails a call before or after it is carried out, and then, for a while, all that ask."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: str | None = None
        self.away = 0

    def _around(self, call: Callable[[], Any]) -> Any:
        fail, self.fail = self.fail, None
        if fail == "before":
            raise Unavailable("failed before")
        done = call()
        if fail == "after":
            raise Unavailable("the answer was lost")
        return done

    def head(self, key: str) -> ObjectInfo:
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        return super().head(key)

    def put(self, key: str, data: Any, **options: Any) -> ObjectInfo:
        return self._around(lambda: DictStore.put(self, key, data, **options))  # type: ignore[no-any-return]

    def delete(self, key: str, **options: Any) -> None:
        self._around(lambda: DictStore.delete(self, key, **options))

    def rename(self, source: str, target: str, **options: Any) -> ObjectInfo:
        return self._around(lambda: DictStore.rename(self, source, target, **options))  # type: ignore[no-any-return]


class Model(RuleBasedStateMachine):
    """Anything in any order, with calls that fail before and after they are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Unsure()
        self.store = QuotaStore(self.inner, LIMIT)

    def attempt(self, call: Callable[[], Any], fail: str | None, away: int) -> None:
        held = self.inner.usage()[1]
        self.inner.fail, self.inner.away = fail, 0
        try:
            call()
        except (NotFound, Unavailable, PreconditionFailed):
            pass
        except QuotaExceeded:
            assert self.inner.usage()[1] == held
        self.inner.fail, self.inner.away = None, away
        assert self.inner.usage()[1] <= LIMIT

    fails = st.sampled_from([None, None, "before", "after"])
    away = st.integers(0, 2)

    @rule(key=KEYS, size=SIZES, absent=st.booleans(), fail=fails, away=away)
    def put(self, key: str, size: int, absent: bool, fail: str | None, away: int) -> None:
        self.attempt(lambda: self.store.put(key, b"x" * size, if_absent=absent), fail, away)

    @rule(key=KEYS, missing_ok=st.booleans(), fail=fails, away=away)
    def delete(self, key: str, missing_ok: bool, fail: str | None, away: int) -> None:
        self.attempt(lambda: self.store.delete(key, missing_ok=missing_ok), fail, away)

    @rule(keys=st.lists(KEYS), fail=fails, away=away)
    def delete_many(self, keys: list[str], fail: str | None, away: int) -> None:
        self.attempt(lambda: self.store.delete_many(keys), fail, away)

    @rule(source=KEYS, goal=KEYS, fail=fails, away=away)
    def rename(self, source: str, goal: str, fail: str | None, away: int) -> None:
        self.attempt(lambda: self.store.rename(source, goal), fail, away)

    @rule(source=KEYS, goal=KEYS, fail=fails, away=away)
    def copy(self, source: str, goal: str, fail: str | None, away: int) -> None:
        self.attempt(lambda: self.store.copy(source, goal), fail, away)

    @rule()
    def reopen(self) -> None:
        self.store = QuotaStore(self.inner, LIMIT)

    @invariant()
    def is_exact(self) -> None:
        away, self.inner.away = self.inner.away, 0
        if not away:  # otherwise the next call finds it unsettled
            assert usage(self.store) <= LIMIT
        self.inner.away = away

    def teardown(self) -> None:
        self.inner.away = 0
        usage(self.store)


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=[*HealthCheck]
)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_many_threads(kind: str, tmp_path: Path) -> None:
    inner: ObjectStore = DictStore() if kind == "memory" else FilesystemStore(tmp_path, durable=False)
    store = QuotaStore(inner, 1000)
    start = threading.Barrier(8, timeout=30)
    refused = threading.Semaphore(0)

    def work(number: int) -> None:
        start.wait()
        for step in range(60):
            key = f"k{(number * 7 + step) % 11}"
            try:
                if step % 5 == 4:
                    store.rename(key, f"k{step % 11}")
                elif step % 7 == 6:
                    store.delete(key, missing_ok=True)
                else:
                    store.put(key, b"x" * (number * 37 + step * 11) * 1)
            except NotFound:
                continue
            except QuotaExceeded:
                refused.release()
            assert store.quota()["usage"] <= 1000

    with store, ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(8)]:
            future.result(120)
        assert refused.acquire(blocking=False)
        assert usage(store) <= 1000


class Slow(DictStore):
    """Each put waits until as many are under way as should be."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties, timeout=30)

    def put(self, key: str, data: Any, **options: Any) -> ObjectInfo:
        self.barrier.wait()
        return super().put(key, data, **options)


def test_puts_run_side_by_side_and_each_has_its_room() -> None:
    store = QuotaStore(Slow(4), 40)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.put(f"k{number}", b"0123456789"), range(4)))
    with pytest.raises(QuotaExceeded):
        store.put("k5", b"1")
    assert usage(store) == 40
