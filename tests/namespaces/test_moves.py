"""Soft deletion and undeletion: repeated, raced and interrupted, they lose nothing."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from mountstore.backends.memory import DictStore
from mountstore.errors import NotFound
from mountstore.namespaces import Store
from mountstore.namespaces.errors import ItemExists
from mountstore.namespaces.target import Target
from mountstore.store import ObjectInfo

CONFIG = {"data": {"levels": [1]}}
NAME = "data/abcd"


@pytest.fixture
def store(target: Target) -> Iterator[Store]:
    made = Store(backend=target, config=CONFIG)
    made.create()
    with made:
        yield made


def names(store: Store, *, deleted: bool = False) -> list[str]:
    return [item.name for item in store.list("data", deleted=deleted)]


def test_soft_deletion_and_back(store: Store) -> None:
    store.store(NAME, b"content")
    store.move(NAME, delete=True)
    assert (names(store), names(store, deleted=True)) == ([], ["abcd"])
    assert store.find(NAME, deleted=True) == "data/ab/abcd.del"
    with pytest.raises(NotFound):
        store.load(NAME)
    assert store.load(NAME, deleted=True) == b"content"
    assert store.info(NAME, deleted=True)[:3] == ("abcd", True, 7)
    store.move(NAME, undelete=True)
    assert (names(store), names(store, deleted=True)) == (["abcd"], [])
    assert store.load(NAME) == b"content"
    store.move(NAME, delete=True)
    store.delete(NAME, deleted=True)
    assert (names(store), names(store, deleted=True)) == ([], [])


def test_what_is_soft_deleted_can_be_renamed_hashed_and_taken_apart(store: Store) -> None:
    store.store(NAME, b"content")
    store.move(NAME, delete=True)
    store.store(NAME, b"live")
    store.move(NAME, "data/efgh", deleted=True)
    assert (names(store), names(store, deleted=True)) == (["abcd"], ["efgh"])
    assert store.hash("data/efgh", deleted=True) == hashlib.sha256(b"content").hexdigest()
    assert store.gather([("efgh", 3, 4)], namespace="data", deleted=True) == b"tent"
    assert store.defrag([("data/efgh", 0, 3)], target="data/made", deleted=True) == "data/made"
    assert store.load("data/made") == b"con"
    store.move("data/efgh", undelete=True)
    assert store.load("data/efgh") == b"content"
    with pytest.raises(NotFound):
        store.move("data/made", "data/other", deleted=True)


def test_a_repetition_finds_nothing_to_move(store: Store) -> None:
    store.store(NAME, b"content")
    store.move(NAME, delete=True)
    with pytest.raises(NotFound):
        store.move(NAME, delete=True)
    assert store.load(NAME, deleted=True) == b"content"
    store.move(NAME, undelete=True)
    with pytest.raises(NotFound):
        store.move(NAME, undelete=True)
    assert store.load(NAME) == b"content"


def test_a_second_soft_deletion_keeps_the_first(store: Store) -> None:
    store.store(NAME, b"first")
    store.move(NAME, delete=True)
    store.store(NAME, b"other")
    with pytest.raises(ItemExists, match="nothing was moved"):
        store.move(NAME, delete=True)
    assert (store.load(NAME), store.load(NAME, deleted=True)) == (b"other", b"first")


def test_an_undeletion_keeps_a_live_item(store: Store) -> None:
    store.store(NAME, b"first")
    store.move(NAME, delete=True)
    store.store(NAME, b"alive")
    with pytest.raises(ItemExists):
        store.move(NAME, undelete=True)
    assert (store.load(NAME), store.load(NAME, deleted=True)) == (b"alive", b"first")


def test_the_same_content_is_one_item(store: Store) -> None:
    store.store(NAME, b"same")
    store.move(NAME, delete=True)
    store.store(NAME, b"same")
    store.move(NAME, delete=True)
    assert (names(store), store.load(NAME, deleted=True)) == ([], b"same")
    store.store(NAME, b"same")
    store.move(NAME, undelete=True)
    assert (store.load(NAME), names(store, deleted=True)) == (b"same", [])


class Interrupting(DictStore):
    """Lets something happen once, just before a rename or a put is carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Any = None

    def _happens(self) -> None:
        happens, self.before = self.before, None
        if happens is not None:
            happens()

    def rename(self, source: str, target: str, *, if_match: str | None = None) -> ObjectInfo:
        self._happens()
        return super().rename(source, target, if_match=if_match)

    def put(self, key: str, data: Any, **options: Any) -> ObjectInfo:
        self._happens()
        return super().put(key, data, **options)


def test_what_others_do_in_between_is_kept() -> None:
    objects = Interrupting()
    store = Store(backend=objects, config=CONFIG)
    store.create()
    with store:
        store.store(NAME, b"first")

        def others_delete_and_store() -> None:
            DictStore.rename(objects, "data/ab/abcd", "data/ab/abcd.del")
            DictStore.put(objects, "data/ab/abcd", b"second")

        objects.before = others_delete_and_store
        with pytest.raises(ItemExists):
            store.move(NAME, delete=True)
        assert objects.before is None
        assert (store.load(NAME), store.load(NAME, deleted=True)) == (b"second", b"first")

        store.delete(NAME)
        objects.before = lambda: DictStore.put(objects, "data/ab/abcd", b"third")
        with pytest.raises(ItemExists):
            store.move(NAME, undelete=True)
        assert objects.before is None
        assert (store.load(NAME), store.load(NAME, deleted=True)) == (b"third", b"first")


def test_many_at_once(target: Target) -> None:
    store = Store(backend=target, config=CONFIG)
    store.create()
    start = threading.Barrier(6, timeout=30)

    def deletes() -> int:
        start.wait()
        try:
            store.move(NAME, delete=True)
        except NotFound:
            return 0
        return 1

    with store, ThreadPoolExecutor(6) as pool:
        for number in range(5):
            content = b"%d" % number
            store.store(NAME, content)
            done = sum(future.result(60) for future in [pool.submit(deletes) for _ in range(6)])
            assert done >= 1
            assert (names(store), store.load(NAME, deleted=True)) == ([], content)
            store.delete(NAME, deleted=True)


class Model(RuleBasedStateMachine):
    """No content is lost but by an outright delete or store: live and deleted are what they must be."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store("memory:", config=CONFIG)
        self.store.create()
        self.store.open()
        self.live: bytes | None = None
        self.deleted: bytes | None = None

    @rule(content=st.sampled_from([b"", b"a", b"b", b"aa"]))
    def stores(self, content: bytes) -> None:
        self.store.store(NAME, content)
        self.live = content

    @rule(undelete=st.booleans())
    def moves(self, undelete: bool) -> None:
        source, goal = (self.deleted, self.live) if undelete else (self.live, self.deleted)
        move = functools.partial(self.store.move, NAME, delete=not undelete, undelete=undelete)
        if source is None:
            with pytest.raises(NotFound):
                move()
        elif goal is not None and goal != source:
            with pytest.raises(ItemExists):
                move()
        else:
            move()
            self.live, self.deleted = (source, None) if undelete else (None, source)

    def teardown(self) -> None:
        for content, deleted in ((self.live, False), (self.deleted, True)):
            if content is None:
                assert not self.store.info(NAME, deleted=deleted).exists
            else:
                assert self.store.load(NAME, deleted=deleted) == content
        self.store.close()


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=[*HealthCheck]
)
