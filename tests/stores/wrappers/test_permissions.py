"""PermissionsStore: each letter allows what it says and nothing else; the nearest ancestor decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import AccessDenied, PreconditionFailed, UsageError
from mountstore.store import ObjectStore
from mountstore.stores import PermissionsStore, QuotaStore

VERBS: dict[str, tuple[str, Callable[[ObjectStore], Any]]] = {
    # verb: (sets of letters that allow it, each enough; the call)
    "list": ("l", lambda store: store.list("d/")),
    "pages": ("l", lambda store: list(store.pages("d/"))),
    "keys": ("l", lambda store: list(store.keys("d/"))),
    "usage": ("l", lambda store: store.usage("d/")),
    "head": ("l r", lambda store: store.head("d/old")),
    "exists": ("l r", lambda store: store.exists("d/old")),
    "head_many": ("l r", lambda store: store.head_many(["d/old"])),
    "get": ("r", lambda store: store.get("d/old")),
    "put new": ("w W", lambda store: store.put("d/new", b"")),
    "put if absent": ("w W", lambda store: store.put("d/new", b"", if_absent=True)),
    "overwrite": ("W", lambda store: store.put("d/old", b"")),
    "delete": ("D", lambda store: store.delete("d/old")),
    "delete many": ("D", lambda store: store.delete_many(["d/old"])),
    "rename": ("Dw DW", lambda store: store.rename("d/old", "d/new")),
    "rename over": ("DW", lambda store: store.rename("d/old", "d/also")),
    "copy": ("rw rW", lambda store: store.copy("d/old", "d/new")),
    "copy over": ("rW", lambda store: store.copy("d/old", "d/also")),
    "update metadata": ("W", lambda store: store.update_metadata("d/old", {"x": "y"})),
}
LETTERS = ["", "l", "r", "w", "W", "D", "lr", "rw", "wD", "WD", "lrw", "lrwD", "rwW", "lrwWD"]


def filled() -> DictStore:
    inner = DictStore()
    inner.put("d/old", b"old", metadata={"kept": "yes"})
    inner.put("d/also", b"also")
    return inner


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("verb", VERBS)
def test_each_letter(verb: str, letters: str) -> None:
    inner = filled()
    before = {key: bytes(inner.get(key)) for key in inner.keys()}
    store = PermissionsStore(inner, {"": "", "d": letters})
    enough, call = VERBS[verb]
    if any(set(needed) <= set(letters) for needed in enough.split()):
        call(store)
    else:
        with pytest.raises(AccessDenied, match="permission"):
            call(store)
        assert {key: bytes(inner.get(key)) for key in inner.keys()} == before


def test_the_nearest_ancestor_decides() -> None:
    inner = DictStore()
    for key in ("a", "b/x", "b/c/x", "b/c/d/x", "bc/x"):
        inner.put(key, b"")
    store = PermissionsStore(inner, {"": "r", "b": "", "b/c/": "r", "b/c/d": "w"})
    readable = []
    for key in inner.keys():
        try:
            store.get(key)
        except AccessDenied:
            continue
        readable.append(key)
    assert readable == ["a", "b/c/x", "bc/x"]
    nothing = PermissionsStore(inner, {"elsewhere": "lrwWD"})
    with pytest.raises(AccessDenied):
        nothing.get("a")


def test_listings_leave_out_what_may_not_be_listed() -> None:
    inner = DictStore()
    for key in ("a", "open/x", "secret/deep/y", "secret/x"):
        inner.put(key, b"123")
    store = PermissionsStore(inner, {"": "l", "secret": ""})
    assert [*store.keys()] == ["a", "open/x"]
    assert store.usage() == (2, 6)
    assert [info.key for page in store.pages(limit=1) for info in page.objects] == ["a", "open/x"]
    with pytest.raises(AccessDenied):
        store.list("secret/")


def test_unknown_letters_are_refused() -> None:
    with pytest.raises(UsageError, match="l, r, w, W and D"):
        PermissionsStore(DictStore(), {"": "rx"})


def test_a_rename_to_a_new_name_keeps_all(tmp_path: Path) -> None:
    with FilesystemStore(tmp_path, durable=False) as inner:
        info = inner.put("d/old", b"old" * 1000, metadata={"kept": "yes"})
        store = PermissionsStore(inner, {"": "wD"})
        with pytest.raises(PreconditionFailed):
            store.rename("d/old", "d/new", if_match="another")
        store.rename("d/old", "d/new", if_match=info.etag)
        assert inner.get("d/new") == b"old" * 1000
        assert inner.head("d/new").metadata == {"kept": "yes"}
        assert not inner.exists("d/old")


def test_a_race_overwrites_nothing() -> None:
    inner = DictStore()
    store = PermissionsStore(inner, {"": "w"})
    start = threading.Barrier(8, timeout=30)

    def put(number: int) -> bool:
        start.wait()
        try:
            store.put("k", b"%d" % number)
        except AccessDenied:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert inner.get("k") == b"%d" % won.index(True)


def test_admit_asks_both_and_the_store_below() -> None:
    store = PermissionsStore(QuotaStore(filled(), 20), {"": "r", "d": "w"})
    store.admit("d/new", 13)
    for key, size in (("d/old", 1), ("e", 1)):
        with pytest.raises(AccessDenied):
            store.admit(key, size)
    with pytest.raises(Exception, match="14 bytes"):
        store.admit("d/new", 14)
