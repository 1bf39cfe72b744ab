"""A store with short keys: whatever path an application makes is there again for a new mount of the store."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis.stateful import rule

from mountstore.backends.memory import DictStore
from mountstore.store import Data, ObjectInfo
from mountstore.vfs import reconcile
from mountstore.vfs.places import DEEP
from mountstore.vfs.rows import Node
from tests.vfs.drivers import VfsDriver
from tests.vfs.mounted import Mounted, running
from tests.vfs.test_machine import Both

KEY_BYTES = 84
LENGTH = 30


class ShortKeys(DictStore):
    """Refuses keys of more than `KEY_BYTES` bytes, and names in them of more than `SEGMENT_BYTES`."""

    capabilities = replace(DictStore.capabilities, max_key_bytes=KEY_BYTES, max_segment_bytes=60)

    def put(self, key: str, data: Data, **more: object) -> ObjectInfo:  # type: ignore[override]
        assert len(key.encode()) <= KEY_BYTES, key
        assert max(len(segment.encode()) for segment in key.split("/")) <= 60, key
        return super().put(key, data, **more)  # type: ignore[arg-type]


class LongNames(Mounted):
    """Each letter of a path stands for a name of 30."""

    async def _at(self, path: str) -> tuple[int, bytes]:
        parent, name = await super()._at(path)
        return parent, name if len(name) > 1 else name * LENGTH

    async def node(self, path: str) -> Node:
        names = [name * LENGTH if len(name) == 1 else name for name in path.split("/")]
        return await super().node("/".join(names))

    async def names(self, path: str = "") -> list[str]:
        found = await super().names(path)
        assert all(name == name[0] * LENGTH for name in found), found
        return [name[0] for name in found]


class Short(Both):
    """The same calls as there, where two of three directories do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.store = ShortKeys()

    def start(self, state: Path) -> None:
        super().start(state)
        self.m = LongNames(self.m.vfs, self.m.store, self.m.state_dir)
        self.ours = VfsDriver(self.portal, self.m)

    @rule()
    def drain(self) -> None:
        self.before_waiting()
        self.upload()
        # One object each, and nothing besides.
        assert len(list(self.store.keys())) == len(self.paths())

    def fsync_is_remote(self) -> bool:
        """Where a file is kept is not for the model to know."""
        return False

    def sees_others(self) -> bool:
        """Nobody else is here."""
        return False


Short.TestCase.settings = Both.TestCase.settings


class TestShort(Short.TestCase):  # type: ignore[misc, valid-type]
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails is tried again soon: faults are frequent here."""
        monkeypatch.setattr(reconcile, "_BACKOFF_S", (0.003, 0.01))


A, B, C, D = (letter * LENGTH for letter in "abcd")


async def test_what_is_deep_is_there_for_a_new_mount_and_after_renames_above_it(state: Path) -> None:
    store = ShortKeys()
    deep = f"{A}/{B}/{C}/{D}"
    async with running(store, state) as m:
        for depth in range(1, 5):
            await m.mkdir("/".join(deep.split("/")[:depth]))
        await m.write_file(f"{deep}/file", b"deep down")
    assert any(key.startswith(DEEP) for key in store.keys())
    async with running(store, state.with_name("state2")) as m:
        assert await m.listdir() == [A]
        assert await m.read_file(f"{deep}/file") == b"deep down"
        before = {key for key in store.keys() if key.endswith("/file")}
        await m.rename(A, "x")
        await m.drain()
        # What is deep has not moved; what is above it has.
        assert {key for key in store.keys() if key.endswith("/file")} == before
        await m.rename(f"x/{B}/{C}/{D}", "near")
        await m.drain()
        assert "near/file" in set(store.keys())
    async with running(store, state.with_name("state3")) as m:
        assert await m.read_file("near/file") == b"deep down"
        assert await m.listdir(f"x/{B}") == [C]
        await m.rmtree("x")
        await m.rmtree("near")
        await m.drain()
        assert list(store.keys()) == []


async def test_names_that_the_store_cannot_hold_are_there_for_a_new_mount(state: Path) -> None:
    store = ShortKeys()
    names = [
        "\udcff" * 255,
        "\udcfe" * 80,
        "é" * 120,
        "x%(file)",
        "x%(25)(00)",
        "%(.)",
        f"y%(deep-{'0' * 16})",
    ]
    async with running(store, state) as m:
        for name in names:
            await m.write_file(name, name.encode(errors="surrogateescape"))
            await m.mkdir(f"{name[:-1]}d")
            await m.write_file(f"{name[:-1]}d/{name}", b"below")
        tree = await m.tree()
        await m.rename(names[0], "z" + names[0][1:])
        await m.rename("z" + names[0][1:], names[0])
    async with running(store, state.with_name("state2")) as m:
        assert await m.tree() == tree
        await m.rename(names[1], f"{names[0][:-1]}d/{names[1]}")
    async with running(store, state.with_name("state3")) as m:
        assert await m.read_file(f"{names[0][:-1]}d/{names[1]}") == names[1].encode(errors="surrogateescape")


async def test_long_paths_of_others_are_reached(state: Path) -> None:
    store = ShortKeys()
    path = "/".join(["p" * 20] * 3) + "/" + "q" * 20
    store.put(path, b"native")
    async with running(store, state) as m:
        assert await m.read_file(path) == b"native"
        await m.rename("p" * 20, "r")
        await m.write_file("r/" + path.split("/", 1)[1], b"changed")
        await m.drain()
    async with running(store, state.with_name("state2")) as m:
        assert await m.read_file("r/" + path.split("/", 1)[1]) == b"changed"


async def test_the_place_of_what_is_deep_is_not_shown_but_what_others_put_there_is(state: Path) -> None:
    store = ShortKeys()
    async with running(store, state) as m:
        await m.mkdir(A)
        await m.mkdir(f"{A}/{B}")
        await m.write_file(f"{A}/{B}/file", b"")
    async with running(store, state.with_name("state2")) as m:
        assert await m.listdir() == [A]
    store.put(f"{DEEP}other", b"")
    async with running(store, state.with_name("state3")) as m:
        assert await m.tree() == {
            "%(deep)": None, "%(deep)/other": b"", A: None, f"{A}/{B}": None, f"{A}/{B}/file": b"",
        }  # fmt: skip


async def test_a_name_over_255_bytes_is_refused(state: Path) -> None:
    async with running(ShortKeys(), state) as m:
        with pytest.raises(OSError, match="File name too long") as caught:
            await m.mkdir("x" * 256)
        assert caught.value.errno == errno.ENAMETOOLONG
