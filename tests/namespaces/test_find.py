"""Store.find: where an item lies with its nesting, or would; as the original finds it, by no more looks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from borgstore.store import Store as TheirStore

from mountstore.backends.memory import DictStore
from mountstore.errors import BackendMustBeOpen, InvalidName, Unavailable
from mountstore.namespaces import Store
from mountstore.namespaces.errors import UnknownNamespace
from mountstore.namespaces.target import Target
from mountstore.store import ObjectInfo

ITEM = "data/12345678"
PLACES = {0: "data/12345678", 1: "data/12/12345678", 2: "data/12/34/12345678", 3: "data/12/34/56/12345678"}


def with_levels(target: Any, *levels: int) -> Store:
    return Store(backend=target, config={"data": {"levels": [*levels]}})


@pytest.fixture
def created(target: Target) -> Target:
    with_levels(target, 0).create()
    return target


@pytest.mark.parametrize("level", PLACES)
def test_an_item_is_found_at_each_level(created: Target, level: int) -> None:
    with with_levels(created, level) as store:
        store.store(ITEM, b"x")
        assert store.find(ITEM) == PLACES[level]
    for others in itertools.permutations(set(PLACES) - {level}, 2):
        for levels in ((level, *others), (others[0], level, others[1]), (*others, level)):
            with with_levels(created, *levels) as store:
                assert store.find(ITEM) == PLACES[level]
                assert store.load(ITEM) == b"x"


def test_what_is_not_there_would_lie_at_the_last_level(created: Target) -> None:
    for levels in itertools.permutations(PLACES, 3):
        with with_levels(created, *levels) as store:
            assert store.find(ITEM) == PLACES[levels[-1]]
            assert store.find(ITEM, deleted=True) == PLACES[levels[-1]] + ".del"
            assert not store.info(ITEM).exists


def test_live_and_deleted_items_are_found_apart(created: Target) -> None:
    with with_levels(created, 1) as store:
        store.store(ITEM, b"old")
        store.move(ITEM, delete=True)
    with with_levels(created, 2) as store:
        store.store(ITEM, b"new")
    for levels in ((1, 2), (2, 1), (0, 1, 2)):
        with with_levels(created, *levels) as store:
            assert store.find(ITEM) == PLACES[2]
            assert store.find(ITEM, deleted=True) == PLACES[1] + ".del"
            assert store.load(ITEM) == b"new"
            assert store.load(ITEM, deleted=True) == b"old"


def test_it_follows_an_item_that_moves(created: Target) -> None:
    with with_levels(created, 0) as store:
        store.store(ITEM, b"x")
    with with_levels(created, 0, 2) as store:
        assert store.find(ITEM) == PLACES[0]
        store.move(ITEM, delete=True)
        assert (store.find(ITEM), store.find(ITEM, deleted=True)) == (PLACES[2], PLACES[0] + ".del")
        store.move(ITEM, undelete=True)
        assert store.find(ITEM) == PLACES[0]
        store.move(ITEM, change_level=True)
        assert store.find(ITEM) == PLACES[2]
        store.delete(ITEM)
        assert store.find(ITEM) == PLACES[2]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("data/1", "data/1/1"),
        ("data/12", "data/12/12"),
        ("data/123", "data/12/3/123"),
        ("data/1234", "data/12/34/1234"),
        ("deep/er/abcd", "deep/er/ab/abcd"),
        ("deep/er/a/b/cdef", "deep/er/a/b/cd/cdef"),
        ("top", "top"),
        ("config/a.b", "config/a.b"),
    ],
)
def test_names_of_all_lengths_and_namespaces(name: str, place: str) -> None:
    config = {"": [0], "data": [2], "deep/er": [1], "config": [0]}
    store = Store("memory:", config={key: {"levels": levels} for key, levels in config.items()})
    store.create()
    with store:
        assert store.find(name) == place
        store.store(name, b"x")
        assert store.find(name) == place
        assert store.find(name, deleted=True) == f"{place}.del"


def test_it_tells_what_is_wrong(created: Target) -> None:
    store = with_levels(created, 0, 2)
    with pytest.raises(BackendMustBeOpen):
        store.find(ITEM)
    with store:
        for name in ("", "data/", "data//x", "data/X", "data/x.del", "data/../x"):
            with pytest.raises(InvalidName):
                store.find(name)
        for name in ("other/x", "data"):
            with pytest.raises(UnknownNamespace):
                store.find(name)


class Counting(DictStore):
    """Counts what it is asked, and may be away."""

    looks = 0
    is_away = False

    def head(self, key: str) -> ObjectInfo:
        self.looks += 1
        if self.is_away:
            raise Unavailable("away")
        return super().head(key)


def test_one_level_takes_no_look() -> None:
    objects = Counting()
    with_levels(objects, 2).create()
    with with_levels(objects, 2) as store:
        store.store(ITEM, b"x")
        before = objects.looks
        assert store.find(ITEM) == PLACES[2]
        assert objects.looks == before


def test_a_store_that_is_away_does_not_seem_empty() -> None:
    objects = Counting()
    with_levels(objects, 0).create()
    with with_levels(objects, 0) as store:
        store.store(ITEM, b"x")
    with with_levels(objects, 0, 2) as store:
        objects.is_away = True
        with pytest.raises(Unavailable):
            store.find(ITEM)
        objects.is_away = False
        assert store.find(ITEM) == PLACES[0]


@pytest.fixture
def theirs_too(tmp_path: Path) -> str:
    url = f"file://{tmp_path}/store"
    theirs = TheirStore(url, config={"data": {"levels": [1]}})
    theirs.create()
    with theirs:
        theirs.store(ITEM, b"x")
        theirs.store("data/abcdefgh", b"y")
        theirs.move("data/abcdefgh", delete=True)
    return url


@pytest.mark.parametrize("levels", [[1], [2], [0, 1], [1, 2], [2, 1, 0]])
def test_the_original_finds_the_same(theirs_too: str, levels: list[int]) -> None:
    config: dict[str, Any] = {"data": {"levels": levels}}
    with Store(theirs_too, config=config) as ours, TheirStore(theirs_too, config=config) as theirs:
        for name in (ITEM, "data/abcdefgh", "data/none1234"):
            for deleted in (False, True):
                assert ours.find(name, deleted=deleted) == theirs.find(name, deleted=deleted)
