"""Ordinary tools work on a mount of every kind of store, and what they leave is in the store.

Each workload runs in a folder of its own in one mount a store. When all have run, the mount is ended and
made again with an empty state directory: every tree has to be the same, from the store alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mount import posix, workloads
from tests.mount.cases import ALL, S3_SERVERS, StoreCase, make_case
from tests.mount.mounting import MOUNTS, Mount, temporary_base
from tests.mount.tools import WORKLOADS
from tests.mount.tree import Tree, assert_same, snapshot

assert posix.__name__
assert workloads.__name__


WORKLOAD_LIMIT_S = 120.0


@dataclass
class Shared:
    """One mount for all workloads of a store, with the tree that each has left."""

    case: StoreCase
    mount: Mount
    scratch: Path
    trees: dict[str, Tree] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)

    def run(self, name: str) -> None:
        """Run a workload and note its tree; a daemon that died under an earlier one is started again."""
        if not self.mount.alive():
            self.mount.kill()
            self.mount.start()
            self.mount.timed_out = False
        self.tried.add(name)
        root, scratch = self.mount.root / name, self.scratch / name
        root.mkdir()
        scratch.mkdir()
        with self.mount.limit(WORKLOAD_LIMIT_S):
            WORKLOADS[name](root, scratch)
            self.trees[name] = snapshot(root)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.xdist_group(f"workloads-{kind}")) for kind in ALL],
)
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    """A mount of each kind of store; on one of the S3 servers below a prefix."""
    with temporary_base() as base:
        prefix = "a team/dätä/" if request.param == S3_SERVERS[-1] else ""
        case = make_case(request.param, request, base, prefix=prefix)
        mount = Mount(case.url, base, env=case.env, limit_s=1200)
        (base / "scratch").mkdir()
        yield Shared(case, mount, base / "scratch")


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload(name: str, shared: Shared, request: pytest.FixtureRequest) -> None:
    """A mount does what any directory does."""
    request.node.stash[MOUNTS] = [shared.mount]
    shared.run(name)


def test_the_store_alone_has_it_all(shared: Shared, request: pytest.FixtureRequest) -> None:
    """After umount and a mount with an empty state directory every tree is the same."""
    request.node.stash[MOUNTS] = [shared.mount]
    for name in WORKLOADS.keys() - shared.tried:
        shared.run(name)
    assert shared.trees, "no workload has left a tree"
    if not shared.case.lasting:
        assert {name: snapshot(shared.mount.root / name) for name in shared.trees} == shared.trees
        shared.mount.umount()
        return
    shared.mount.umount()
    shared.mount.remount(fresh_state=True)
    failures = []
    for name, tree in shared.trees.items():
        try:
            assert_same(tree, snapshot(shared.mount.root / name), what=name)
        except (AssertionError, OSError) as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)
    shared.mount.umount()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_workload_itself(name: str, tmp_path: Path) -> None:
    """Each holds on an ordinary directory: what fails on a mount is the mount's doing."""
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    WORKLOADS[name](root, scratch)
