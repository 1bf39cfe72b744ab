"""mountstore.namespaces.Store: each line of what it promises, over memory, files, SQLite and S3."""

from __future__ import annotations

import builtins
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mountstore.backends.memory import DictStore
from mountstore.backends.s3 import BucketStore
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    InvalidKey,
    InvalidName,
    InvalidRange,
    NotFound,
    RangeNotSatisfiable,
    UsageError,
)
from mountstore.namespaces import NamespaceBackend, Store
from mountstore.namespaces.errors import UnknownAlgorithm, UnknownNamespace
from mountstore.namespaces.target import Target
from mountstore.store import Data, Page
from mountstore.stores import QuotaStore
from tests.servers import S3Server

CONFIG: dict[str, dict[str, Any]] = {
    "config": {"levels": [0]},
    "data": {"levels": [2]},
    "deep/er": {"levels": [1]},
}


@pytest.fixture
def store(target: Target) -> Iterator[Store]:
    made = Store(backend=target, config=CONFIG)
    made.create()
    with made:
        yield made


def listed(store: Store, name: str = "", *, deleted: bool = False) -> list[str]:
    return [item.name for item in store.list(name, deleted=deleted)]


# -- making one -------------------------------------------------------------------------------------------


def test_life(target: Target) -> None:
    store = Store(backend=target, config=CONFIG)
    with pytest.raises(BackendDoesNotExist, match="create"):
        store.open()
    with pytest.raises(BackendDoesNotExist):
        store.destroy()
    store.create()
    with pytest.raises(BackendMustBeOpen):
        store.close()
    with store:
        for verb in (store.open, store.create, store.destroy):
            with pytest.raises(BackendMustNotBeOpen, match="close it first"):
                verb()
        store.store("data/12345678", b"x")
    for call in (
        lambda: store.load("data/12345678"),
        lambda: store.info("data/12345678"),
        lambda: store.store("data/12345678", b""),
        lambda: store.delete("data/12345678"),
        lambda: store.move("data/12345678", delete=True),
        lambda: store.list("data"),
        lambda: store.hash("data/12345678"),
        lambda: store.quota(),
    ):
        with pytest.raises(BackendMustBeOpen, match="open it first"):
            call()
    with pytest.raises(BackendAlreadyExists):
        store.create()
    store.destroy()
    with pytest.raises(BackendDoesNotExist):
        store.open()


def test_what_is_wrong_with_the_arguments_is_said() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "needs a url or a backend"),
        ({"url": "memory:", "backend": DictStore()}, "not both"),
        ({"url": "memory:", "config": None}, "needs a config"),
        ({"url": "memory:", "config": {"data": [1]}}, "described by a dict"),
        ({"url": "memory:", "config": {"data": {}}}, "levels is a list"),
        ({"url": "memory:", "config": {"data": {"levels": []}}}, "levels is a list"),
        ({"url": "memory:", "config": {"data": {"levels": ["x"]}}}, "whole number"),
        ({"url": "memory:", "config": {"data": {"levels": [-1]}}}, "whole number"),
        ({"url": "memory:", "config": {"data": {"levels": [1], "colour": 1}}}, "unknown 'colour'"),
        ({"url": "memory:", "config": {"data": {"levels": [1], "cache": "on"}}}, "off, mirror and"),
        ({"url": "memory:", "config": {"data": {"levels": [1], "max_age": "x"}}}, "max_age"),
        ({"url": "memory:", "config": {"data": {"levels": [1], "size": 1.5}}}, "size"),
        ({"url": "memory:", "config": {"Data": {"levels": [1]}}}, "lower case"),
    ]
    for arguments, message in cases:
        with pytest.raises((UsageError, InvalidName), match=message):
            Store(**{"config": CONFIG, **arguments})


# -- items ------------------------------------------------------------------------------------------------


def test_items_lie_where_their_levels_say() -> None:
    objects = DictStore()
    store = Store(backend=objects, config=CONFIG)
    store.create()
    with store:
        store.store("data/12345678", b"1")
        store.store("config/main", memoryview(b"2"))
        store.store("deep/er/abc", b"3")
        store.store("data/1", b"4")
        assert store.find("data/99999999") == "data/99/99/99999999"
        assert store.find("data/99999999", deleted=True) == "data/99/99/99999999.del"
    keys = ["config/main", "data/1/1", "data/12/34/12345678", "deep/er/ab/abc"]
    assert [key for key in objects.keys() if not key.endswith(".hid")] == keys


def test_load_ranges(store: Store) -> None:
    store.store("data/12345678", b"0123456789")
    cases: list[tuple[dict[str, Any], bytes]] = [
        ({}, b"0123456789"),
        ({"size": 0}, b""),
        ({"size": 4, "offset": 8}, b"89"),
        ({"offset": 10}, b""),
        ({"offset": 11}, b""),
        ({"offset": -3, "size": 2}, b"78"),
        ({"offset": -99}, b"0123456789"),
    ]
    for arguments, data in cases:
        found = store.load("data/12345678", **arguments)
        assert isinstance(found, bytes)
        assert found == data
    with pytest.raises(InvalidRange):
        store.load("data/12345678", size=-1)
    with pytest.raises(NotFound):
        store.load("data/missing")


def test_info_never_raises_for_what_is_missing(store: Store) -> None:
    store.store("data/12345678", b"abc")
    assert store.info("data/12345678")[:4] == ("12345678", True, 3, False)
    assert store.info("data/87654321") == ("87654321", False, 0, False, 0, 0)
    assert store.info("data/12345678", deleted=True).exists is False
    assert store.info("data").directory
    assert store.info("deep").directory


def test_delete(store: Store) -> None:
    store.store("data/12345678", b"abc")
    store.delete("data/12345678")
    with pytest.raises(NotFound):
        store.delete("data/12345678")
    assert listed(store, "data") == []


def test_list(store: Store) -> None:
    names = [f"data/{number:08}" for number in (1, 12, 99, 12345678)] + ["config/main", "deep/er/abc"]
    for name in names:
        store.store(name, name.encode())
    assert sorted(listed(store, "data")) == ["00000001", "00000012", "00000099", "12345678"]
    assert listed(store, "config") == ["main"]
    assert listed(store, "deep") == listed(store, "deep/er") == ["abc"]
    assert sorted(listed(store)) == sorted(name.rpartition("/")[2] for name in names)
    assert {item.size for item in store.list("data")} == {13}
    for missing in ("nope", "data/nope"):
        with pytest.raises(NotFound):
            store.list(missing)


def test_a_namespace_without_items_lists_nothing(store: Store) -> None:
    assert listed(store) == listed(store, "data") == listed(store, "data", deleted=True) == []


def test_an_item_may_be_changed_while_it_is_listed(store: Store) -> None:
    for number in range(20):
        store.store(f"data/{number:08}", b"")
    for item in store.list("data"):
        store.delete(f"data/{item.name}")
    assert listed(store, "data") == []


NAMES = ["A/b", "data/ABC", "data/../x", "data\\x", "data/x.tmp", "data/x.hid", "data/x.del", "/data/x"]
NAMES += ["data/x/", "data//x", "data/x y", "data/x\n", "data/\x01", "data/ü", "data/..x", "data/.", ""]
NAMES += ["data/" + "a" * 95]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none(name: str) -> None:
    store = Store("memory:", config=CONFIG)
    store.create()
    calls: list[Callable[[], Any]] = [
        lambda: store.store(name, b""),
        lambda: store.load(name),
        lambda: store.delete(name),
        lambda: store.find(name),
        lambda: store.move(name, delete=True),
        lambda: store.move("data/12345678", name),
        lambda: store.hash(name),
        lambda: store.gather([(name, 0, 1)]),
    ]
    with store:
        for call in calls:
            with pytest.raises(InvalidName):
                call()
        assert listed(store) == []


def test_names_of_no_namespace() -> None:
    store = Store("memory:", config=CONFIG)
    store.create()
    with store:
        for name in ("other/x", "deep/x", "data"):
            with pytest.raises(UnknownNamespace, match="'data'"):
                store.store(name, b"")


def test_a_root_namespace_takes_what_no_other_does() -> None:
    store = Store("memory:", config={"": {"levels": [0]}, "data": {"levels": [1]}})
    store.create()
    with store:
        store.store("top", b"1")
        store.store("data/abc", b"2")
        assert store.find("data/abc") == "data/ab/abc"
        assert store.load("top") == b"1"
        assert listed(store) == ["abc", "top"]


# -- moving -----------------------------------------------------------------------------------------------


def test_rename(store: Store) -> None:
    store.store("data/12345678", b"1")
    store.store("data/abcdefgh", b"2")
    store.move("data/12345678", "data/abcdefgh")
    assert listed(store, "data") == ["abcdefgh"]
    store.move("data/abcdefgh", "config/main")
    assert store.load("config/main") == b"1"
    with pytest.raises(NotFound):
        store.move("data/abcdefgh", "data/other")
    store.move("config/main", "config/main")
    assert store.load("config/main") == b"1"


def test_a_move_is_of_one_kind(store: Store) -> None:
    store.store("config/a", b"")
    kinds: list[dict[str, Any]] = [
        {},
        {"delete": True, "undelete": True},
        {"new_name": "config/b", "delete": True},
    ]
    for arguments in kinds:
        with pytest.raises(UsageError, match="exactly one"):
            store.move("config/a", **arguments)


# -- changing levels --------------------------------------------------------------------------------------


def with_levels(target: Target, levels: list[int]) -> Store:
    return Store(backend=target, config={"data": {"levels": levels}})


def test_levels_can_change_while_a_store_is_in_use(target: Target) -> None:
    old = with_levels(target, [2])
    old.create()
    with old:
        old.store("data/12345678", b"old")
        old.store("data/softened", b"deleted")
        old.move("data/softened", delete=True)
    both = with_levels(target, [2, 0])
    with both:
        both.store("data/abcdefgh", b"new")
        assert both.find("data/abcdefgh") == "data/abcdefgh"
        assert both.find("data/12345678") == "data/12/34/12345678"
        both.store("data/12345678", b"changed")
        assert both.find("data/12345678") == "data/12/34/12345678"
        assert sorted(listed(both, "data")) == ["12345678", "abcdefgh"]
        assert both.hash("data/12345678") == hashlib.sha256(b"changed").hexdigest()
        assert both.gather([("12345678", 0, 2), ("abcdefgh", 1, 2)], namespace="data") == b"chew"
        for _ in range(2):
            both.move("data/12345678", change_level=True)
            both.move("data/softened", change_level=True, deleted=True)
        assert both.find("data/12345678") == "data/12345678"
        assert both.load("data/softened", deleted=True) == b"deleted"
    with with_levels(target, [0]) as new:
        assert sorted(listed(new, "data")) == ["12345678", "abcdefgh"]
        assert listed(new, "data", deleted=True) == ["softened"]
        assert new.load("data/12345678") == b"changed"


def test_what_an_interrupted_change_of_level_left_is_one_item(target: Target) -> None:
    for levels in ([2], [0]):
        store = with_levels(target, levels)
        if levels == [2]:
            store.create()
        with store:
            store.store("data/12345678", b"same")
    with with_levels(target, [2, 0]) as store:
        assert listed(store, "data") == ["12345678"]
        store.move("data/12345678", change_level=True)
        assert [item.name for item in with_objects(store)] == ["data/12345678"]
        store.store("data/12345678", b"again")
        store.delete("data/12345678")
        assert not store.info("data/12345678").exists


def with_objects(store: Store) -> list[Any]:
    """The objects below data/, by their keys."""
    objects = store._objects
    return [info._replace(name=key) for key in objects.keys("data/") for info in [store._backend.info(key)]]


def test_readers_find_every_item_while_levels_change() -> None:
    objects = DictStore()
    names = [f"data/{number:08}" for number in range(200)]
    store = Store(backend=objects, config={"data": {"levels": [2, 0]}})
    store.create()
    with Store(backend=objects, config={"data": {"levels": [2]}}) as old:
        for name in names:
            old.store(name, name.encode())
    done = threading.Event()
    with store, ThreadPoolExecutor(5) as pool:

        def read(offset: int) -> int:
            count = 0
            for name in itertools.islice(itertools.cycle(names), offset, None):
                assert store.load(name) == name.encode()
                assert store.info(name).exists
                count += 1
                if done.is_set():
                    return count
            return count

        def lists() -> int:
            count = 0
            while True:
                assert len(listed(store, "data")) == len(names)
                count += 1
                if done.is_set():
                    return count

        readers = [pool.submit(read, 50 * number) for number in range(3)] + [pool.submit(lists)]
        try:
            for name in names:
                store.move(name, change_level=True)
        finally:
            done.set()
        assert all(reader.result(60) for reader in readers)
    assert all(key in names or key.endswith(".hid") for key in objects.keys())


class Paging(DictStore):
    """Lists two objects a page."""

    def pages(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000
    ) -> Iterator[Page]:
        return super().pages(prefix, delimiter=delimiter, after=after, limit=2)


def test_an_item_that_moves_to_before_the_listing_is_listed() -> None:
    objects = Paging()
    for key in ("data/aa", "data/zz0", "data/zzzz"):
        objects.put(key, b"")
    with Store(backend=objects, config={"data": {"levels": [0, 1]}}) as store:
        items = store.list("data")
        found = [next(items).name, next(items).name]
        store.move("data/zzzz", change_level=True)
        assert store.find("data/zzzz") == "data/zz/zzzz"
        assert [*found, *(item.name for item in items)] == ["aa", "zz0", "zzzz"]


# -- hash, gather, defrag -----------------------------------------------------------------------------------


def test_hash(store: Store) -> None:
    store.store("data/12345678", b"hello")
    assert store.hash("data/12345678") == hashlib.sha256(b"hello").hexdigest()
    assert store.hash("data/12345678", "sha512") == hashlib.sha512(b"hello").hexdigest()
    store.move("data/12345678", delete=True)
    assert store.hash("data/12345678", deleted=True) == hashlib.sha256(b"hello").hexdigest()
    with pytest.raises(NotFound):
        store.hash("data/12345678")
    with pytest.raises(UnknownAlgorithm):
        store.hash("data/12345678", "nope", deleted=True)


def test_gather_and_defrag(store: Store) -> None:
    store.store("data/aaaa1111", b"0123456789")
    store.store("data/bbbb1111", b"abcdefghij")
    pieces = [("aaaa1111", 2, 3), ("bbbb1111", 0, 4)]
    assert store.gather(pieces, namespace="data") == b"234abcd"
    assert store.gather([("data/aaaa1111", -1, 1)]) == b"9"
    assert store.defrag(pieces, target="ffff0000", namespace="data") == "ffff0000"
    assert store.find("data/ffff0000") == "data/ff/ff/ffff0000"
    digest = hashlib.sha256(b"234abcd").hexdigest()
    assert store.defrag(pieces, algorithm="sha256", namespace="data") == digest
    assert store.load(f"data/{digest}") == store.load("data/ffff0000") == b"234abcd"
    assert store.defrag([("data/aaaa1111", 0, 1)], target="config/x") == "config/x"
    assert store.load("config/x") == b"0"
    with pytest.raises(RangeNotSatisfiable):
        store.defrag([("aaaa1111", 2, 30)], target="cccc", namespace="data")
    with pytest.raises(InvalidName):
        store.gather([("data/aaaa1111", 0, 1)], namespace="data")
    with pytest.raises(NotFound):
        store.gather([("missing", 0, 1)], namespace="data")
    for arguments in ({"target": None}, {"algorithm": "nope"}):
        with pytest.raises((InvalidName, UnknownAlgorithm)):
            store.defrag(pieces, namespace="data", **arguments)


class FarSide(DictStore):
    """A store that computes by itself, as a REST server does, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.there = False
        self.asked: builtins.list[tuple[Any, ...]] = []

    def hash_object(self, key: str, algorithm: str) -> str:
        if algorithm == "nope":
            raise InvalidKey("the server answers 400", key=key)
        self.asked.append(("hash", key, algorithm))
        return "digest"

    def gather_objects(self, sources: Any) -> bytes:
        self.asked.append(("gather", *map(tuple, sources)))
        return b"gathered"

    def defrag_objects(self, sources: Any, **options: Any) -> str:
        self.asked.append(("defrag", *map(tuple, sources), options))
        return str(options["target"] or "data/ab/abcd")

    def quota(self) -> dict[str, int]:
        return {"limit": 7, "usage": 5}

    def create_storage(self) -> None:
        self.asked.append(("create",))
        self.there = True

    def destroy_storage(self) -> None:
        self.asked.append(("destroy",))
        self.there = False

    def list(self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = 1000) -> Page:
        if not self.there:
            raise BackendDoesNotExist("the server has no such store; create it first")
        return super().list(prefix, delimiter=delimiter, after=after, limit=limit)


def test_what_the_far_side_can_do_is_left_to_it() -> None:
    far = FarSide()
    store = Store(backend=far, config={"data": {"levels": [1]}})
    with pytest.raises(BackendDoesNotExist):
        store.open()
    store.create()
    with store:
        assert store.hash("data/1234", "md5") == "digest"
        assert store.gather([("1234", 1, 2)], namespace="data") == b"gathered"
        assert store.defrag([("1234", 1, 2)], algorithm="md5", namespace="data") == "abcd"
        assert store.quota() == {"limit": 7, "usage": 5}
        with pytest.raises(UnknownAlgorithm):
            store.hash("data/1234", "nope")
    store.destroy()
    with pytest.raises(BackendDoesNotExist):
        store.open()
    options = {"target": None, "algorithm": "md5", "namespace": "data", "levels": 1}
    assert far.asked == [
        ("create",),
        ("hash", "data/12/1234", "md5"),
        ("gather", ("data/12/1234", 1, 2)),
        ("defrag", ("data/12/1234", 1, 2), options),
        ("destroy",),
    ]


# -- quota, permissions, threads --------------------------------------------------------------------------


def test_quota() -> None:
    objects = QuotaStore(DictStore(), 100)
    store = Store(backend=objects, config=CONFIG)
    store.create()
    with store:
        store.store("data/12345678", b"x" * 60)
        assert store.quota() == {"limit": 100, "usage": 60}
    plain = Store("memory:", config=CONFIG)
    plain.create()
    with plain:
        assert plain.quota() == {"limit": -1, "usage": -1}


def test_permissions(target: Target) -> None:
    full = Store(backend=target, config=CONFIG)
    full.create()
    with full:
        full.store("data/12345678", b"x")
    with Store(backend=target, config=CONFIG, permissions={"": "lr", "data": "lrw"}) as store:
        assert store.load("data/12345678") == b"x"
        store.store("data/abcdefgh", b"new")
        denied: list[Callable[[], Any]] = [
            lambda: store.store("data/12345678", b"y"),
            lambda: store.delete("data/12345678"),
            lambda: store.move("data/12345678", delete=True),
            lambda: store.store("config/main", b""),
        ]
        for call in denied:
            with pytest.raises(AccessDenied):
                call()
        assert store.load("data/12345678") == b"x"


class Meeting(DictStore):
    """A store in which each get waits until as many are there as should be."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties, timeout=30)

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        self.barrier.wait()
        return super().get(key, start, stop, if_match=if_match)


def test_calls_run_side_by_side() -> None:
    store = Store(backend=Meeting(8), config=CONFIG)
    store.create()
    with store, ThreadPoolExecutor(8) as pool:
        for number in range(8):
            store.store(f"data/{number:08}", b"%d" % number)
        # Were there a lock around the store, the first would wait for the others for ever.
        found = list(pool.map(lambda number: store.load(f"data/{number:08}"), range(8)))
    assert found == [b"%d" % number for number in range(8)]


def test_a_listing_of_over_a_thousand_folders_on_s3_ends(versitygw: S3Server) -> None:
    with BucketStore(versitygw.new_bucket(), client=versitygw.client()) as objects:
        store = Store(backend=objects, config={"data": {"levels": [1]}})
        store.create()
        letters = "0123456789abcdefghijklmnopqrstuvwxyz"
        names = [one + other + "-item" for one in letters for other in letters][:1050]
        with store, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: store.store(f"data/{name}", b""), names))
            assert listed(store, "data") == names
            with NamespaceBackend(objects) as backend:
                folders = [item.name for item in backend.list("data")]
        assert folders == [name[:2] for name in names]
