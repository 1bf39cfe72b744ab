"""The store has done what was asked, and nobody heard of it; perhaps the daemon is killed before it could.

At every place at once, each with files of its own. Afterwards nothing is doubled, nothing that was removed
comes back, and nothing is a conflict with oneself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.conftest import Bench, Benches
from tests.faults.fault_proxy import Fault, Rule
from tests.faults.workload import IN_PARTS
from tests.mount import writer
from tests.mount.cases import LONG
from tests.mount.waiting import wait_until

PARTS = writer.content(1, IN_PARTS)
OTHER_PARTS = writer.content(2, IN_PARTS)


@dataclass
class Tree:
    """A directory and what has to be in it."""

    root: Path
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)
        self.files[name] = data

    def mkdir(self, name: str) -> None:
        (self.root / name).mkdir()
        self.folders.add(name)

    def make(self, folder: str, *members: str) -> None:
        self.mkdir(folder)
        for name in members:
            self.write(f"{folder}/{name}", b"in it")

    def remove(self, name: str) -> None:
        if name in self.folders:
            for member in [one for one in self.files if one.startswith(f"{name}/")]:
                self.remove(member)
            (self.root / name).rmdir()
            self.folders.remove(name)
        else:
            (self.root / name).unlink()
            del self.files[name]

    def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)
        if old in self.folders:
            self.folders.remove(old)
            self.folders.add(new)
        for name in [one for one in self.files if one == old or one.startswith(f"{old}/")]:
            self.files[new + name[len(old) :]] = self.files.pop(name)

    def chmod(self, name: str) -> None:
        (self.root / name).chmod(0o640)

    def is_there(self, name: str) -> bool:
        return name in self.files or name in self.folders


@dataclass(frozen=True, slots=True)
class Place:
    """A request whose answer is lost: `do` leads to it, on what `before` made; `key` is the request's."""

    operation: str
    key: str
    before: Callable[[Tree], None]
    do: Callable[[Tree], None]

    def rule(self, fault: Fault) -> Rule:
        """Once, at this place."""
        return Rule(fault, operations=frozenset({self.operation}), key=f"^{self.key}$", limit=1)


PLACES = {
    "put": Place("PUT", "put", lambda t: None, lambda t: t.write("put", b"new")),
    "put-over": Place(
        "PUT", "put-over", lambda t: t.write("put-over", b"1"), lambda t: t.write("put-over", b"second")
    ),
    "parts": Place("COMPLETE", "parts", lambda t: None, lambda t: t.write("parts", PARTS)),
    "parts-over": Place(
        "COMPLETE",
        "parts-over",
        lambda t: t.write("parts-over", PARTS),
        lambda t: t.write("parts-over", OTHER_PARTS),
    ),
    "marker": Place("MARKER", "marker/", lambda t: None, lambda t: t.mkdir("marker")),
    "copy": Place(
        "COPY", "copy", lambda t: t.write("copy-from", b"moved"), lambda t: t.rename("copy-from", "copy")
    ),
    "source": Place(
        "DELETE",
        "source-from",
        lambda t: t.write("source-from", b"moved"),
        lambda t: t.rename("source-from", "source"),
    ),
    "attributes": Place(
        "COPY", "attributes", lambda t: t.write("attributes", b"kept"), lambda t: t.chmod("attributes")
    ),
    "delete": Place("DELETE", "delete", lambda t: t.write("delete", b"old"), lambda t: t.remove("delete")),
    "folder": Place(
        "COPY",
        "folder/two",
        lambda t: t.make("folder-from", "one", "two"),
        lambda t: t.rename("folder-from", "folder"),
    ),
}


def nothing(tree: Tree, name: str) -> None:
    """Leave it as it is."""


def remove(tree: Tree, name: str) -> None:
    if tree.is_there(name):
        tree.remove(name)


def rename(tree: Tree, name: str) -> None:
    if tree.is_there(name):
        tree.rename(name, f"{name}-later")


def write(tree: Tree, name: str) -> None:
    """Change it again; make it again if it was removed."""
    tree.write(f"{name}/inside" if name in tree.folders else name, f"{name}, later".encode())


THEN = [nothing, remove, rename, write]
"""What is done next with a name; which of it with which place goes round from turn to turn."""
TURNS = range(len(THEN))
CASES = [
    ("versitygw", killed, turn) for killed in (True, False) for turn in TURNS if LONG or turn % 2 == killed
]
CASES += [
    ("minio", killed, turn) for killed in (True, False) for turn in TURNS if LONG or (killed and turn == 2)
]


def all_fired(bench: Bench, fault: Fault) -> bool:
    return bench.proxy.fired[fault] >= len(PLACES)


def check(tree: Tree) -> None:
    expected = writer.Model(tree.files, tree.folders)
    expected.compare(*writer.look(tree.root))
    for name in {"attributes", "attributes-later"} & tree.files.keys():
        assert os.stat(tree.root / name).st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("kind", "killed", "turn"), CASES, ids=[f"{k}-{'killed' if d else 'alive'}-{t}" for k, d, t in CASES]
)
def test_lost_replies(kind: str, killed: bool, turn: int, benches: Benches) -> None:
    """Whatever is done next with the names, killed or not, the store ends as the application left it."""
    bench: Bench = benches(kind)
    mount = bench.mount("--ttl", "1")
    tree = Tree(mount.root)
    for place in PLACES.values():
        place.before(tree)
    mount.sync()
    fault = Fault.KEEP_REPLY if killed else Fault.LOSE_REPLY
    bench.proxy.fail(*(place.rule(fault) for place in PLACES.values()))
    for place in PLACES.values():
        place.do(tree)
    wait_until("every reply is lost", lambda: all_fired(bench, fault), timeout_s=60)
    if killed:
        mount.kill()
        bench.proxy.release()
        mount.start()
    for number, name in enumerate(PLACES):
        THEN[(number + turn) % len(THEN)](tree, name)
    check(tree)
    mount.sync()
    assert mount.status()["conflicts"] == []
    writer.Model(tree.files).compare(bench.files(), set())
    assert {key for key in bench.keys() if key.endswith("/")} == {f"{name}/" for name in tree.folders}
    check(tree)
    mount.umount()
    mount.remount(fresh_state=True)
    check(tree)
