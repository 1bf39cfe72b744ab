"""What all themes of the suite share: the keys that are tried, the hooks, and how listings are compared."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mountstore.store import ObjectStore, Page

MIB = 1 << 20

ODD_KEYS = [
    "a b",
    " ",
    "%",
    "%2F",
    "100%25",
    "a+b&c=d?e#f",
    "back\\slash",
    "*?[x]",
    "\"quoted\" 'too'",
    "<&>;|$(x)`",
    "~",
    ".hidden",
    "..dots",
    "...",
    "new\nline",
    "carriage\rreturn",
    "tab\tbell\x07esc\x1b",
    "\x01",
    "del\x7f",
    "nul\x00byte",
    "é",
    "e\u0301",
    "日本語/ファイル",
    "\U0001f600",
    "\uffff",
    "\ufeffbom",
    "Case",
    "case",
    "../x",
    "../../../../x",
    "..",
    ".",
    "./x",
    "x/.",
    "x/..",
    "x/../y",
    "/abs",
    "/",
    "//",
    "a//b",
    "a///b",
    "dir/",
    "dir//",
    "/lead/",
    "s" * 255,
    "s" * 256,
    "p/" + "s" * 300,
    "é" * 150,
    "k" * 1000,
    "/".join(["seg"] * 250),
]

KEY_SETS = [
    ["a", "a/b"],
    ["a", "a/b", "a/b/c", "a/b/c/d"],
    ["dir", "dir/"],
    ["dir", "dir/", "dir/x", "dir//", "dir//x"],
    ["a/b", "a//b", "/a/b", "a/b/", "a/./b", "a/../b"],
    ["x", "X", "é", "e\u0301"],
    ["s" * 300, "s" * 300 + "/x", "s" * 301],
]


def key_order(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: key.encode())


def expected_entries(keys: Iterable[str], prefix: str, delimiter: str, after: str) -> list[tuple[str, bool]]:
    """What a listing must give: (name, whether it is a group), in order. The words, not an algorithm."""
    entries = set()
    for key in keys:
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            entries.add((key, False) if at < 0 else (key[: at + len(delimiter)], True))
    return sorted(
        (entry for entry in entries if entry[0].encode() > after.encode()),
        key=lambda entry: entry[0].encode(),
    )


def page_entries(page: Page) -> list[tuple[str, bool]]:
    names = [info.key for info in page.objects]
    assert names == key_order(names)
    assert page.prefixes == key_order(page.prefixes)
    entries = [(name, False) for name in names] + [(name, True) for name in page.prefixes]
    return sorted(entries, key=lambda entry: entry[0].encode())


def listed_entries(
    store: ObjectStore, prefix: str = "", delimiter: str = "", after: str = "", limit: int = 1000
) -> list[tuple[str, bool]]:
    """All entries by `list`, page after page; and the same by `pages`."""
    entries: list[tuple[str, bool]] = []
    cursor: str | None = after
    while cursor is not None:
        page = store.list(prefix, delimiter=delimiter, after=cursor, limit=limit)
        found = page_entries(page)
        assert len(found) <= limit
        assert not (entries and found and found[0][0].encode() <= entries[-1][0].encode()), "pages overlap"
        assert page.after is None or page.after.encode() > cursor.encode(), "a listing that does not advance"
        entries += found
        cursor = page.after
    again: list[tuple[str, bool]] = []
    for page in store.pages(prefix, delimiter=delimiter, after=after, limit=limit):
        found = page_entries(page)
        assert len(found) <= limit
        again += found
    assert again == entries
    return entries


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """`work(0)` ... `work(count - 1)`, started together, each in a thread; their results."""
    barrier = threading.Barrier(count, timeout=60)

    def run(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class BreakingFile(io.BytesIO):
    """A file whose disk fails once `limit` bytes were read."""

    def __init__(self, data: bytes, limit: int) -> None:
        super().__init__(data)
        self.limit = limit
        self.broke = False

    def _check(self, size: int) -> None:
        if size < 0 or self.tell() + size > self.limit:
            self.broke = True
            raise OSError(5, "the source cannot be read")

    def read(self, size: int | None = -1, /) -> bytes:
        self._check(-1 if size is None else size)
        return super().read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        self._check(len(buffer))
        return super().readinto(buffer)

    def getbuffer(self) -> memoryview:
        raise OSError(5, "the source cannot be read")

    def getvalue(self) -> bytes:
        raise OSError(5, "the source cannot be read")


class Suite:
    """What all themes share: the hooks, and the store."""

    odd_keys: list[str] = ODD_KEYS
    key_sets: list[list[str]] = KEY_SETS
    key_characters: str = "ab/-0.\u00e9\uffff\U0001f600"
    peak_put_bytes: int | None = 40 * MIB
    examples: int | None = None

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        raise NotImplementedError("override the `store` fixture")

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        limits = store.capabilities
        if limits.max_key_bytes is not None and len(key.encode()) > limits.max_key_bytes:
            return False
        longest = max(len(segment.encode()) for segment in key.split("/"))
        return limits.max_segment_bytes is None or longest <= limits.max_segment_bytes

    @staticmethod
    def need(store: ObjectStore, *names: str) -> None:
        for name in names:
            if not getattr(store.capabilities, name):
                pytest.skip(f"the store has no {name}")

    def fill(self, store: ObjectStore, keys: Iterable[str]) -> None:
        for key in keys:
            store.put(key, key.encode())

    def rounds(self, store: ObjectStore) -> int:
        return 60 if store.capabilities.local else 12
