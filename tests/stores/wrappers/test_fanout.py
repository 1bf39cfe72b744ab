"""FanoutStore: reads fail over, partial writes are told and repaired, children never differ unnoticed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import (
    InvalidKey,
    NotFound,
    PartialFailure,
    PreconditionFailed,
    Unavailable,
    Unsupported,
)
from mountstore.stores import FanoutStore, ReadOnlyStore
from tests.stores.conformance import in_threads
from tests.stores.wrappers.stacks import BreakableStore


@pytest.fixture
def children() -> list[BreakableStore]:
    return [BreakableStore() for _ in range(3)]


@pytest.fixture
def store(children: list[BreakableStore]) -> FanoutStore:
    return FanoutStore(children)


def contents(store: DictStore) -> dict[str, tuple[bytes, object]]:
    return {key: (bytes(DictStore.get(store, key)), DictStore.head(store, key).metadata)
            for key in list(store._objects)}  # fmt: skip


def test_put_and_delete_go_to_all(store: FanoutStore, children: list[BreakableStore]) -> None:
    store.put("k", b"data", metadata={"a": "1"})
    assert [contents(child) for child in children] == [{"k": (b"data", {"a": "1"})}] * 3
    store.put("f", io.BytesIO(b"x" * 9_000_000))
    assert {bytes(child.get("f")) for child in children} == {b"x" * 9_000_000}
    store.delete("k")
    store.delete_many(["f"])
    assert [contents(child) for child in children] == [{}] * 3


def test_a_read_takes_the_first_child_that_has_it(store: FanoutStore, children: list[BreakableStore]) -> None:
    children[1].put("k", b"second")
    children[2].put("k", b"third")
    assert bytes(store.get("k")) == b"second"
    assert store.exists("k")
    children[0].put("k", b"first")
    assert bytes(store.get("k")) == b"first"


def test_keys_are_the_union(store: FanoutStore, children: list[BreakableStore]) -> None:
    for number, keys in enumerate(["ad", "bd", "ce"]):
        for key in keys:
            children[number].put(f"x/{key}", b"x")
    assert list(store.keys()) == ["x/a", "x/b", "x/c", "x/d", "x/e"]
    assert [info.key for page in store.pages(limit=2) for info in page.objects] == list(store.keys())
    assert store.list(delimiter="/").prefixes == ["x/"]


@pytest.mark.parametrize("verb", ["head", "get", "list"])
def test_reads_fail_over(store: FanoutStore, children: list[BreakableStore], verb: str) -> None:
    store.put("k", b"data")
    children[0].broken = {verb}
    children[1].broken = {verb}
    assert bytes(store.get("k")) == b"data"
    assert store.head("k").size == 4
    assert list(store.keys()) == ["k"]
    assert children[0].calls[verb] >= 1  # the fault was met
    children[2].broken = {verb}
    calls: dict[str, Callable[[], object]] = {
        "head": lambda: store.head("k"),
        "get": lambda: store.get("k"),
        "list": store.list,
    }
    with pytest.raises(Unavailable):
        calls[verb]()


def test_a_missing_object_is_not_taken_for_certain_while_a_child_is_down(
    store: FanoutStore, children: list[BreakableStore]
) -> None:
    with pytest.raises(NotFound):
        store.get("k")
    children[1].broken = {"get", "head"}
    with pytest.raises(Unavailable):
        store.get("k")
    with pytest.raises(Unavailable):
        store.exists("k")


def test_a_partial_put_is_told_and_repaired(store: FanoutStore, children: list[BreakableStore]) -> None:
    store.put("k", b"old!")
    children[0].broken = {"put"}
    with pytest.raises(PartialFailure) as caught:
        store.put("k", b"new!", metadata={"a": "1"})
    assert [which for which, _ in caught.value.failures] == ["0"]
    assert isinstance(caught.value.failures[0][1], Unavailable)
    assert "1 of" not in str(caught.value)
    assert "2 of 3 children" in str(caught.value)
    # The first child still has the old object, and it is not shown.
    assert bytes(children[0].get("k")) == b"old!"
    assert bytes(store.get("k")) == b"new!"
    assert store.behind == {"k": frozenset({0})}
    [listed] = store.list().objects
    assert listed.etag == store.head("k").etag
    children[0].broken = set()
    assert store.repair() == 1
    assert [contents(child) for child in children] == [{"k": (b"new!", {"a": "1"})}] * 3
    assert store.behind == {}
    assert store.repair() == 0


def test_a_partial_delete_does_not_come_back(store: FanoutStore, children: list[BreakableStore]) -> None:
    store.put("d/k", b"data")
    children[2].broken = {"delete"}
    with pytest.raises(PartialFailure):
        store.delete("d/k")
    assert not store.exists("d/k")
    with pytest.raises(NotFound):
        store.get("d/k")
    assert list(store.keys()) == []
    assert store.list(delimiter="/").prefixes == []
    children[2].broken = set()
    assert store.repair() == 1
    assert contents(children[2]) == {}


def test_the_next_write_repairs_its_key(store: FanoutStore, children: list[BreakableStore]) -> None:
    children[1].broken = {"put"}
    with pytest.raises(PartialFailure):
        store.put("k", b"1")
    children[1].broken = set()
    store.put("k", b"2")
    assert store.behind == {}
    assert {bytes(child.get("k")) for child in children} == {b"2"}


def test_who_tries_again_until_it_succeeds_leaves_the_children_the_same(
    store: FanoutStore, children: list[BreakableStore]
) -> None:
    old = store.put("k", b"old").etag
    children[2].broken = {"put", "delete"}
    with pytest.raises(PartialFailure):
        store.put("k", b"new", if_match=old)
    for _ in range(2):
        with pytest.raises(PartialFailure, match="still not the same in children"):
            store.put("k", b"new", if_match=old)
    children[2].broken = set()
    with pytest.raises(PreconditionFailed):  # it is there already, and everywhere
        store.put("k", b"new", if_match=old)
    assert {bytes(child.get("k")) for child in children} == {b"new"}
    new = store.head("k").etag
    children[1].broken = {"delete", "copy"}
    with pytest.raises(PartialFailure):
        store.copy("k", "l", if_match=new)
    with pytest.raises(PartialFailure):
        store.delete("k", if_match=new, missing_ok=True)
    with pytest.raises(PartialFailure, match="still not"):
        store.delete("k", if_match=new, missing_ok=True)
    children[1].broken = set()
    store.delete("k", if_match=new, missing_ok=True)
    store.repair()
    assert [list(contents(child)) for child in children] == [["l"]] * 3


def test_a_put_that_all_children_refuse_changes_nothing(
    store: FanoutStore, children: list[BreakableStore]
) -> None:
    store.put("k", b"old")
    for child in children:
        child.broken = {"put"}
    with pytest.raises(Unavailable):
        store.put("k", b"new")
    assert bytes(store.get("k")) == b"old"
    assert store.behind == {}


def test_a_partial_copy_and_rename(store: FanoutStore, children: list[BreakableStore]) -> None:
    store.put("a", b"data")
    children[1].broken = {"copy", "rename"}
    with pytest.raises(PartialFailure):
        store.copy("a", "b")
    with pytest.raises(PartialFailure):
        store.rename("a", "c")
    assert list(store.keys()) == ["b", "c"]
    children[1].broken = set()
    store.repair()
    assert {tuple(sorted(contents(child))) for child in children} == {("b", "c")}
    assert contents(children[1])["c"][0] == b"data"


def test_a_condition_is_decided_before_anything_changes(
    store: FanoutStore, children: list[BreakableStore]
) -> None:
    old = store.put("k", b"one").etag
    new = store.put("k", b"two").etag
    for etag in (old, "0:nonsense", "7:x", "x"):
        with pytest.raises(PreconditionFailed):
            store.put("k", b"three", if_match=etag)
    children[0].broken = {"put"}
    with pytest.raises(Unavailable):
        store.put("k", b"three", if_match=new)
    assert {bytes(child.get("k")) for child in children} == {b"two"}
    children[2].put("elsewhere", b"x")
    children[0].broken = set()
    with pytest.raises(PreconditionFailed):
        store.put("elsewhere", b"y", if_absent=True)


def test_what_one_child_cannot_hold_none_gets(tmp_path: Path) -> None:
    memory = DictStore()
    with FanoutStore([memory, FilesystemStore(tmp_path / "f", durable=False)]) as store:
        with pytest.raises(InvalidKey):
            store.put("k" * 5000, b"x")
        with pytest.raises(Unsupported):
            store.put("k", b"x", metadata={"a": "1" * 1_000_000})
        assert list(memory.keys()) == []


def test_capabilities_are_what_all_children_can(tmp_path: Path) -> None:
    files = FilesystemStore(tmp_path / "f", durable=False)
    with FanoutStore([DictStore(), files]) as store:
        assert store.capabilities.max_key_bytes == 4096
        assert store.capabilities.max_metadata_bytes == files.capabilities.max_metadata_bytes
    with FanoutStore([DictStore(), ReadOnlyStore(DictStore())]) as store:
        assert not store.capabilities.writable
    with pytest.raises(ValueError, match="at least one"):
        FanoutStore([])


def test_what_others_left_different_is_repaired_by_the_newest(tmp_path: Path) -> None:
    one, two = SqliteStore(tmp_path / "1.sqlite"), DictStore()
    with FanoutStore([one, two]) as store:
        one.put("same", b"same")
        two.put("same", b"same")
        two.put("only", b"only in the second", metadata={"a": "1"})
        one.put("differs", b"older")
        two.put("differs", b"newer")
        one.put("large", bytes(5 << 20))
        two.put("large", bytes(5 << 20)[:-1] + b"x")
        assert store.repair() == 3
        for child in (one, two):
            assert bytes(child.get("only")) == b"only in the second"
            assert child.head("only").metadata == {"a": "1"}
            assert bytes(child.get("differs")) == b"newer"
            assert bytes(child.get("large"))[-1:] == b"x"
        assert store.repair() == 0


def test_writers_of_one_key_leave_the_children_the_same(
    store: FanoutStore, children: list[BreakableStore]
) -> None:
    def work(number: int) -> None:
        for count in range(50):
            store.put("k", b"%d-%d" % (number, count))

    in_threads(6, work)
    assert len({bytes(child.get("k")) for child in children}) == 1


def test_closing_closes_all_children_also_when_one_fails(
    store: FanoutStore, children: list[BreakableStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise Unavailable("it does not close")

    monkeypatch.setattr(children[1], "close", fail)
    with pytest.raises(Unavailable):
        store.close()
    assert children[0].closed
    assert children[2].closed
