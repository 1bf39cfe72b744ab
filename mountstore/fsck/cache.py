"""The cache on the disk: each block against its name, all of them against the store and the bound.

What is in a cache is a copy, so whatever is wrong is dropped: the next reader fetches it again. What is used
of the bound is written down nowhere, a mount adds up the files that it finds; so that account is wrong where
the files are more than the mount that had the cache last was allowed to keep.

    blocks/NAME             a block or a pin, see `stores.blocks` and `stores.pins`
    blocks/.mountstore~tmp  what was being written, see `backends.filesystem`

Files are looked at as files: to open the cache as a store would clear up in it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from zlib_ng import zlib_ng

from mountstore.backends._filesystem_names import PRIVATE
from mountstore.errors import StoreError
from mountstore.fsck.findings import Fault, error, note
from mountstore.store import ObjectInfo, ObjectStore
from mountstore.stores.blocks import Block, block_of, digest, is_unfilled
from mountstore.stores.caching import BLOCK_BYTES
from mountstore.stores.pins import PREFIX, Pin
from mountstore.stores.pool import MAX_BLOCKS

_PIECE = 1 << 20
_DROPPED = "it is dropped, and fetched again when somebody reads it"


class Cache:
    """The blocks in a folder whose lock the caller holds; `capacity_bytes` (None: not known) is its bound."""

    def __init__(self, blocks: Path, capacity_bytes: int | None) -> None:
        self.folder = blocks
        self.capacity_bytes = capacity_bytes
        self.good: dict[str, tuple[Block, int]] = {}  # by file name, with the time of the last change
        self.pins: list[Pin] = []

    def path(self, name: str) -> Path:
        return self.folder / name

    def drop(self, *names: str) -> None:
        """Raises OSError."""
        for name in names:
            self.path(name).unlink(missing_ok=True)


def faults(cache: Cache, store: ObjectStore, *, verify_content: bool = False) -> Iterator[Fault]:
    """All that is wrong; what is yielded counts as gone. Raises OSError; without a listing StoreError."""
    with os.scandir(cache.folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        yield from _file(cache, name)
    yield from _twice(cache)
    yield from _against(cache, store, verify_content)
    yield from _bound(cache)


def _file(cache: Cache, name: str) -> Iterator[Fault]:
    path = cache.path(name)
    found = path.lstat()
    if name == PRIVATE and stat.S_ISDIR(found.st_mode):
        yield from _unfinished(path)
        return
    block = block_of(name, found.st_size)
    if stat.S_ISREG(found.st_mode) and is_unfilled(name, found.st_size):
        yield note(
            "cache", name, "a block that was being written when a mount ended",
            "a repair deletes it, and so does the next mount",
            partial(cache.drop, name),
        )  # fmt: skip
        return
    if not stat.S_ISREG(found.st_mode) or (block is None and not name.startswith(PREFIX)):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a file"
        yield error(
            "cache", name, f"{what} that is no block of a cache", "it is deleted", partial(_raze, path)
        )
    elif block is None:
        yield from _pin(cache, name)
    else:
        try:
            crc = _crc(path)
        except OSError as failure:
            yield error(
                "cache", name, f"the block cannot be read: {failure.strerror}", _DROPPED,
                partial(cache.drop, name),
            )  # fmt: skip
            return
        if crc != block.crc:
            yield error(
                "cache", name, f"the block is damaged: its checksum is {crc:08x}", _DROPPED,
                partial(cache.drop, name),
            )  # fmt: skip
        else:
            cache.good[name] = block, found.st_mtime_ns


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb", buffering=0, opener=_no_link) as file:
        while piece := file.read(_PIECE):
            crc = zlib_ng.crc32(piece, crc)
    return crc


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _raze(*paths: Path) -> None:
    for path in paths:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _unfinished(private: Path) -> Iterator[Fault]:
    """What a mount that was killed was writing."""
    folders = [one for one in private.glob("writing-*") if one.is_dir() and not one.is_symlink()]
    left = [one for folder in folders for one in folder.rglob("*") if stat.S_ISREG(one.lstat().st_mode)]
    if left:
        size = sum(one.lstat().st_size for one in left)
        yield note(
            "cache", PRIVATE, f"{len(left)} files of {size} bytes that were being written when a mount ended",
            "a repair deletes them, and so does the next mount",
            partial(_raze, *folders),
        )  # fmt: skip


def _pin(cache: Cache, name: str) -> Iterator[Fault]:
    path = cache.path(name)
    try:
        told = json.loads(path.read_bytes())
        pin = Pin(str(told["prefix"]), int(told["size_bytes"]))
    except (ValueError, KeyError, TypeError, OSError):
        yield error(
            "cache", name, "the pin cannot be read", "it is dropped; pin the path again",
            partial(cache.drop, name),
        )  # fmt: skip
        return
    cache.pins.append(pin)
    right = PREFIX + pin.mark
    if name != right:
        yield error(
            "cache", name, f"the pin of {pin.prefix or '/'} has another's name: nobody could unpin it",
            "it gets its own", partial(os.replace, path, cache.path(right)),
        )  # fmt: skip


def _twice(cache: Cache) -> Iterator[Fault]:
    """One position of one version has one content."""
    at: dict[tuple[str, str, int], list[str]] = {}
    for name, (block, _) in cache.good.items():
        at.setdefault((block.key, block.etag, block.number), []).append(name)
    marks = {pin.mark for pin in cache.pins}
    for names in at.values():
        if len(names) < 2:
            continue
        blocks = [cache.good[name][0] for name in names]
        if len({block.crc for block in blocks}) > 1:
            bad = names
            yield error(
                "cache", names[0], f"the same block is here {len(names)} times, and differs", _DROPPED,
                partial(cache.drop, *bad),
            )  # fmt: skip
        else:
            kept = max(names, key=lambda name: cache.good[name][0].pin in marks)
            bad = [name for name in names if name != kept]
            yield error(
                "cache", bad[0], f"the same block is here {len(names)} times", "one is kept",
                partial(cache.drop, *bad),
            )  # fmt: skip
        for name in bad:
            del cache.good[name]


def _against(cache: Cache, store: ObjectStore, verify_content: bool) -> Iterator[Fault]:
    """Blocks and pins held against what the store has now."""
    if not store.capabilities.listing or not (cache.good or cache.pins):
        return
    by_key: dict[str, list[str]] = {}
    for name, (block, _) in cache.good.items():
        by_key.setdefault(block.key, []).append(name)
    unused = set(cache.good)
    pins = set(cache.pins)
    for page in store.pages():
        for info in page.objects:
            pins -= {pin for pin in pins if pin.holds(info.key)}
            names = by_key.get(digest(info.key), ())
            etag = info.etag and digest(info.etag)
            names = [name for name in names if etag is None or cache.good[name][0].etag == etag]
            unused.difference_update(names)
            for name in names if etag else ():
                yield from _of_object(cache, name, info, store if verify_content else None)
    if unused:
        size = sum(cache.good[name][0].size for name in unused)
        yield note(
            "cache", "blocks", f"{len(unused)} blocks, {size} bytes, of versions that the store has not",
            "nobody asks for them: a repair drops them, and so does a cache that is full",
            partial(cache.drop, *unused),
        )  # fmt: skip
    for pin in sorted(pins, key=lambda pin: pin.prefix):
        yield note(
            "cache", pin.prefix or "/", f"pinned, not in the store; {pin.size_bytes} bytes are kept for it",
            "mountstore unpin, if it is not to come back",
        )  # fmt: skip


def _of_object(cache: Cache, name: str, info: ObjectInfo, store: ObjectStore | None) -> Iterator[Fault]:
    """A block of the version that `store` (None: its content is not asked for) has."""
    block, _ = cache.good[name]
    start = block.number * BLOCK_BYTES
    stop = min(start + BLOCK_BYTES, info.size)
    if block.size != stop - start:
        del cache.good[name]
        yield error(
            "cache", name, f"the block has {block.size} bytes, {info.key} {max(stop - start, 0)} there",
            _DROPPED, partial(cache.drop, name),
        )  # fmt: skip
        return
    if store is None or start == stop:
        return
    try:
        condition = info.etag if store.capabilities.conditional_get else None
        differs = zlib_ng.crc32(store.get(info.key, start, stop, if_match=condition)) != block.crc
        differs = differs and (condition is not None or store.stat(info.key).etag == info.etag)
    except StoreError:
        return  # changed meanwhile, or unreadable: the check of the store tells
    if differs:
        del cache.good[name]
        yield error(
            "cache", name, f"the block is not what {info.key} has in the store", _DROPPED,
            partial(cache.drop, name),
        )  # fmt: skip


def _bound(cache: Cache) -> Iterator[Fault]:
    """More than the bound is wrong: room is reserved before a block is written."""
    marks = {pin.mark for pin in cache.pins}
    used = sum(block.size for block, _ in cache.good.values())
    count = len(cache.good)
    most = cache.capacity_bytes if cache.capacity_bytes is not None else used
    if used <= most and count <= MAX_BLOCKS:
        return
    surplus, left, rest = [], used, count
    for name, (block, _) in sorted(cache.good.items(), key=lambda one: (one[1][0].pin in marks, one[1][1])):
        if left <= most and rest <= MAX_BLOCKS:
            break
        surplus.append(name)
        left -= block.size
        rest -= 1
    yield error(
        "cache", "blocks", f"{count} blocks of {used} bytes, more than {MAX_BLOCKS} or {most} bytes",
        "the oldest are dropped", partial(cache.drop, *surplus),
    )  # fmt: skip
