"""Each kind of damage of a cache on the disk is found and dropped, and what is whole stays."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.errors import Unavailable
from mountstore.fsck import Report, check_cache
from mountstore.store import Data
from mountstore.stores import CachingStore
from mountstore.stores.blocks import digest

MIB = 1 << 20
CONTENT = {"large": os.urandom(2 * MIB + 17), "a/small": b"small" * 99, "a/empty": b"", "one": b"1" * MIB}
PRIVATE = ".mountstore~tmp"


@dataclass
class Kept:
    """A store, and the folder of a cache that holds all of it."""

    store: DictStore
    blocks: Path

    def open(self, capacity_bytes: int = 8 * MIB) -> CachingStore:
        cache = FilesystemStore(self.blocks, durable=False)
        return CachingStore(self.store, cache, capacity_bytes=capacity_bytes)

    def check(
        self, *, repair: bool = False, capacity: int | None = None, verify_content: bool = False
    ) -> Report:
        return check_cache(
            self.blocks, self.store, repair=repair, capacity_bytes=capacity, verify_content=verify_content
        )

    def block(self, key: str, number: int = 0) -> Path:
        (found,) = self.blocks.glob(f"{digest(key)}-*-{number:x}-*")
        return found

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.blocks)): path.read_bytes()
            for path in self.blocks.rglob("*")
            if path.is_file() and path.name != "locks"
        }


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    made = Kept(DictStore(), tmp_path / "blocks")
    for key, data in CONTENT.items():
        made.store.put(key, data)
    with made.open() as opened:
        opened.pin("a/")
        for key, data in CONTENT.items():
            assert bytes(opened.get(key)) == data
    return made


class Away(DictStore):
    """A store that has no content to give."""

    def get(self, key: str, start: int = 0, stop: int | None = None, *, if_match: str | None = None) -> Data:
        raise Unavailable("away", key=key)


def missing(kept: Kept) -> set[str]:
    """The objects of which not every byte is in the cache."""
    away = Away()
    away.__dict__.update(kept.store.__dict__)
    with CachingStore(away, FilesystemStore(kept.blocks), capacity_bytes=8 * MIB) as opened:
        out = set()
        for key, data in CONTENT.items():
            try:
                assert bytes(opened.get(key)) == data
            except Unavailable:
                out.add(key)
        used = sum(len(data) for name, data in kept.files().items() if re.match("[0-9a-f]{32}-", name))
        assert opened.stats.used_bytes == used
        return out


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _renamed(path: Path, pattern: str, by: str) -> None:
    path.rename(path.with_name(re.sub(pattern, by, path.name)))


def _differing(kept: Kept) -> None:
    """Another content of the same block, with a right checksum."""
    path = kept.block("one")
    other = path.with_name(path.name[:-8] + "2144df1c")
    other.write_bytes(b"\0\0\0\0")


def _shorter(kept: Kept) -> None:
    """A version of which a block ends too early, with a right checksum."""
    path = kept.block("one")
    path.with_name(path.name[:-8] + "2144df1c").write_bytes(b"\0\0\0\0")
    path.unlink()


def _pin_unreadable(kept: Kept) -> None:
    (path,) = kept.blocks.glob("pin-*")
    path.write_bytes(path.read_bytes()[:9])


def _pin_misnamed(kept: Kept) -> None:
    (path,) = kept.blocks.glob("pin-*")
    path.rename(path.with_name("pin-00000000"))


DAMAGES: dict[str, tuple[Callable[[Kept], object], str, set[str]]] = {
    # name: (damage, what is said, objects that have to be fetched again)
    "a flipped bit": (lambda kept: _flip(kept.block("large", 1)), "damaged: its checksum", {"large"}),
    "a flipped bit of what is pinned": (lambda kept: _flip(kept.block("a/small")), "damaged", {"a/small"}),
    "a cut": (lambda kept: os.truncate(kept.block("one"), 5000), "damaged", {"one"}),
    "zeros": (lambda kept: kept.block("one").write_bytes(b"\0" * MIB), "damaged", {"one"}),
    "longer": (lambda kept: os.truncate(kept.block("one"), 2 * MIB), "damaged", {"one"}),
    "a block twice": (
        lambda kept: kept.blocks.joinpath(kept.block("one").name + "-0123abcd").write_bytes(CONTENT["one"]),
        "is here 2 times",
        set(),
    ),
    "a block twice that is pinned": (
        lambda kept: kept.blocks.joinpath(kept.block("a/small").name[:-9]).write_bytes(CONTENT["a/small"]),
        "is here 2 times",
        set(),
    ),
    "a block twice that differs": (_differing, "2 times, and differs", {"one"}),
    "a block of another size than its object": (_shorter, "has 4 bytes, one 1048576", {"one"}),
    "a block behind the end": (
        lambda kept: _renamed(kept.block("one"), "-0-", "-7-"), "one 0 there", {"one"}
    ),
    "a file that is no block": (
        lambda kept: (kept.blocks / "notes.txt").write_text("x"), "a file that is no block", set()
    ),
    "a folder": (
        lambda kept: (kept.blocks / "f" / "inner").mkdir(parents=True), "a folder that is no block", set()
    ),
    "a link": (
        lambda kept: _linked(kept.block("one")), "a file that is no block", {"one"}
    ),
    "a pin that cannot be read": (_pin_unreadable, "pin cannot be read", set()),
    "a pin with a wrong name": (_pin_misnamed, "another's name", set()),
}  # fmt: skip


def _linked(block: Path) -> None:
    block.rename(block.parent.parent / "elsewhere")
    block.symlink_to(block.parent.parent / "elsewhere")


@pytest.mark.parametrize("name", DAMAGES)
def test_found_and_dropped_and_the_rest_stays(kept: Kept, name: str) -> None:
    damage, said, lost = DAMAGES[name]
    assert kept.check().findings == []
    damage(kept)
    before = kept.files()
    found = kept.check()
    assert found.status == 2
    assert {one.part for one in found.left} == {"cache"}
    assert re.search(said, " ".join(one.what for one in found.left)), found.left
    assert kept.files() == before, "a check without --repair changes nothing"
    repaired = kept.check(repair=True)
    assert (repaired.status, repaired.left, len(repaired.repaired)) == (1, [], len(found.left))
    assert kept.check().findings == []
    assert missing(kept) == lost
    if name == "a link":
        assert (kept.blocks.parent / "elsewhere").read_bytes() == CONTENT["one"]
    with kept.open() as opened:
        for key, data in CONTENT.items():
            assert bytes(opened.get(key)) == data


def test_a_pin_that_got_its_name_back_can_be_taken_back(kept: Kept) -> None:
    _pin_misnamed(kept)
    kept.check(repair=True)
    with kept.open() as opened:
        opened.unpin("a/")
    with kept.open() as opened:
        assert opened.pins == []


def test_more_than_the_bound(kept: Kept) -> None:
    """The oldest go, and what is pinned last."""
    used = sum(map(len, CONTENT.values()))
    assert kept.check(capacity=used).findings == []
    for age, name in enumerate(["a/small", "a/empty", "one"]):
        os.utime(kept.block(name), (age, age))
    found = kept.check(capacity=used - 1)
    assert found.status == 2
    assert [one.what for one in found.left] == [
        f"6 blocks of {used} bytes, more than 65536 or {used - 1} bytes"
    ]
    assert kept.check(capacity=used - 1, repair=True).status == 1
    assert kept.check(capacity=used - 1).findings == []
    assert missing(kept) == {"one"}


def test_what_is_superfluous_is_right_and_goes_with_a_repair(kept: Kept) -> None:
    """Versions that are no more, and what was being written when a mount was killed."""
    kept.store.put("one", b"another")
    kept.store.delete("a/small")
    kept.store.delete("a/empty")
    writing = kept.blocks / PRIVATE / "writing-0123456789abcdef"
    writing.mkdir()
    (writing / "7").write_bytes(b"x" * 99)
    unfilled = f"{'a' * 32}-{'b' * 32}-0-0123abcd"
    (kept.blocks / unfilled).touch()
    before = kept.files()
    found = kept.check()
    told = {(one.level, one.subject): one.what for one in found.findings}
    assert told == {
        ("note", PRIVATE): "1 files of 99 bytes that were being written when a mount ended",
        ("note", unfilled): "a block that was being written when a mount ended",
        ("note", "blocks"): f"3 blocks, {MIB + 495} bytes, of versions that the store has not",
        ("note", "a/"): "pinned, not in the store; 495 bytes are kept for it",
    }
    assert (found.status, kept.files()) == (0, before)
    repaired = kept.check(repair=True)
    assert repaired.status == 0
    assert {one.subject for one in repaired.findings if one.repaired} == {PRIVATE, unfilled, "blocks"}
    assert not writing.exists()
    assert [one.subject for one in kept.check().findings] == ["a/"]
    with kept.open() as opened:
        assert [pin.prefix for pin in opened.pins] == ["a/"], "what somebody asked for is not taken back"
        assert opened.stats.used_bytes == len(CONTENT["large"])


def test_content_held_against_the_store(kept: Kept) -> None:
    """A block that is whole, and not what the version of its name has."""
    path = kept.block("one")
    other = path.with_name(path.name[:-8] + "a738ea1c")
    path.unlink()
    other.write_bytes(b"\0" * MIB)
    assert kept.check().findings == []
    found = kept.check(verify_content=True)
    assert [one.what for one in found.left] == ["the block is not what one has in the store"]
    assert kept.check(verify_content=True, repair=True).status == 1
    assert kept.check(verify_content=True).findings == []
    assert missing(kept) == {"one"}
