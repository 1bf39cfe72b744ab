"""Wrappers that watch, and those that allow less."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from mountstore.backends.memory import DictStore
from mountstore.errors import InvalidKey, NotFound, Unavailable, Unsupported
from mountstore.store import ObjectStore
from mountstore.stores import (
    Event,
    ExceptionLoggingStore,
    LoggingStore,
    NotifyingStore,
    ReadOnlyStore,
    ValidatingStore,
    WriteOnlyStore,
    url_safe,
)
from tests.stores.wrappers.stacks import BreakableStore

WRITES: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("k", b"new"),
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["k"]),
    "copy": lambda store: store.copy("k", "l"),
    "rename": lambda store: store.rename("k", "l"),
    "update_metadata": lambda store: store.update_metadata("k", {"a": "2"}),
}
READS: dict[str, Callable[[ObjectStore], object]] = {
    "head": lambda store: store.head("k"),
    "get": lambda store: store.get("k"),
    "exists": lambda store: store.exists("k"),
    "list": lambda store: store.list(),
    "pages": lambda store: list(store.pages()),
    "keys": lambda store: list(store.keys()),
    "usage": lambda store: store.usage(),
}


@pytest.fixture
def inner() -> BreakableStore:
    store = BreakableStore()
    store.put("k", b"data", metadata={"a": "1"})
    return store


@pytest.mark.parametrize("verb", WRITES)
def test_a_read_only_store_changes_nothing(inner: BreakableStore, verb: str) -> None:
    store = ReadOnlyStore(inner)
    with pytest.raises(Unsupported, match="read-only"):
        WRITES[verb](store)
    assert list(inner.keys()) == ["k"]
    assert bytes(store.get("k")) == b"data"
    assert store.head("k").metadata == {"a": "1"}
    assert not store.capabilities.writable
    assert not store.capabilities.conditional_put


@pytest.mark.parametrize("verb", READS)
def test_a_write_only_store_tells_nothing(inner: BreakableStore, verb: str) -> None:
    store = WriteOnlyStore(inner)
    with pytest.raises(Unsupported, match="write-only"):
        READS[verb](store)
    for change in ("put", "update_metadata", "copy", "rename"):
        WRITES[change](store)
    assert not store.capabilities.listing
    assert list(inner.keys()) == ["l"]


def test_each_call_is_a_line_without_content(inner: BreakableStore, caplog: pytest.LogCaptureFixture) -> None:
    store = LoggingStore(inner, logger=logging.getLogger("tests.calls"), level=logging.INFO)
    with caplog.at_level(logging.INFO, logger="tests.calls"):
        for call in (*READS.values(), *WRITES.values()):
            store.put("k", b"secret content")
            call(store)
        with pytest.raises(NotFound):
            store.get("miss\ning")
    verbs = {record.getMessage().split()[0] for record in caplog.records}
    assert verbs == {*WRITES, "head", "get", "exists", "list"}
    assert "get 'miss\\ning': NotFound" in caplog.records[-1].getMessage()
    assert "secret" not in caplog.text


def test_errors_are_logged_and_let_through(inner: BreakableStore, caplog: pytest.LogCaptureFixture) -> None:
    store = ExceptionLoggingStore(inner, logger=logging.getLogger("tests.errors"))
    store.get("k")
    assert caplog.records == []
    inner.broken = {"all"}
    for call in (READS["get"], READS["list"], WRITES["put"], WRITES["rename"]):
        with pytest.raises(Unavailable):
            call(store)
        assert caplog.records[-1].exc_info
    assert len(caplog.records) == 4


def test_listeners_are_told_after_the_change(inner: BreakableStore) -> None:
    told: list[tuple[str, str, bool]] = []

    def listener(event: Event) -> None:
        told.append((event.verb, event.key, inner.exists(event.key)))

    store = NotifyingStore(inner, listener)
    info = store.put("a", b"x")
    store.copy("a", "b")
    store.update_metadata("a", {"x": "1"})
    store.rename("a", "c")
    store.rename("c", "c")
    store.delete("c")
    store.delete_many(["b", "k"])
    for call in READS.values():
        if call not in (READS["head"], READS["get"]):
            call(store)
    assert told == [
        ("put", "a", True),
        ("put", "b", True),
        ("put", "a", True),
        ("put", "c", True),
        ("delete", "a", False),
        ("delete", "c", False),
        ("delete", "b", False),
        ("delete", "k", False),
    ]
    events: list[Event] = []
    unsubscribe = store.subscribe(events.append)
    info = store.put("a", b"y")
    assert events == [Event("put", "a", info)]
    unsubscribe()
    store.put("a", b"z")
    assert len(events) == 1


def test_a_failed_put_tells_nothing_and_breaks_nothing(inner: BreakableStore) -> None:
    events: list[Event] = []
    store = NotifyingStore(inner, events.append)
    inner.broken = {"all"}
    for call in WRITES.values():
        with pytest.raises(Unavailable):
            call(store)
    assert events == []
    inner.broken = set()
    store.put("k", b"works")
    assert [event.key for event in events] == ["k"]


def test_a_listener_that_fails_is_logged_alone(
    inner: BreakableStore, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(event: Event) -> None:
        raise RuntimeError("the listener is broken")

    events: list[Event] = []
    store = NotifyingStore(inner, bad, events.append)
    store.put("k", b"stored")
    assert bytes(inner.get("k")) == b"stored"
    assert len(events) == 1
    assert "the listener is broken" in caplog.text


def test_keys_are_validated_where_objects_are_made() -> None:
    inner = DictStore()
    inner.put("Bad Key", b"was there before")
    store = ValidatingStore(inner, re.compile(r"[a-z0-9/]+"))
    store.put("good/key1", b"x")
    with pytest.raises(InvalidKey, match="has to fit"):
        store.put("Worse Key", b"x")
    with pytest.raises(InvalidKey, match="has to fit"):
        store.copy("good/key1", "good/key1\n")
    with pytest.raises(InvalidKey, match="has to fit"):
        store.rename("good/key1", "UPPER")
    assert list(store.keys()) == ["Bad Key", "good/key1"]
    store.rename("Bad Key", "good/again")
    assert list(store.keys()) == ["good/again", "good/key1"]


def test_url_safe_keys() -> None:
    store = ValidatingStore(DictStore(), url_safe)
    for key in ("a", "a/b-c_d.e~f", "..."):
        store.put(key, b"")
    for key in ("a b", "a//b", "/a", "a/", "..", "a/./b", "ü", "a?b", "a#b", "100%"):
        with pytest.raises(InvalidKey, match="url_safe"):
            store.put(key, b"")
