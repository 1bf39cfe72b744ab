"""The table of crash states in vfs/reconcile.py: the process dies exactly there, and nothing is lost."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mountstore.vfs
from mountstore.fsck import check_state
from mountstore.registry import open_store
from mountstore.vfs import failpoints, reconcile
from tests.mount.cases import make_case
from tests.mount.writer import Model
from tests.torture.driver import THEIRS, look
from tests.vfs.mounted import running
from tests.vfs.old_index import make_old

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = sorted(Path(next(iter(mountstore.vfs.__path__))).glob("*.py"))
OPTIONS = {
    "merge-copied": ["--fail-uploads"],
    "merge-recorded": ["--fail-uploads"],
    "sync-data-done": ["--fsync", "local"],
}
BEFORE = {
    "recover-begins": ["put-landed", "put-intended"],
    "recover-found": ["put-landed", "copy-landed"],
    "start-recovered": ["put-recorded", "write-staged"],
    "migrate-copied": ["put-landed", "write-staged"],
    "migrate-recorded": ["put-landed", "write-staged"],
}
"""Where a first process has to die, so that the next comes to this place."""
CONFLICTS = ["conflict-found", "conflict-recorded"]
SELDOM = {"index-created", "rmdir-recorded"}
OFTEN = {"write-staged", "commit-begins", "commit-done", "put-landed", "put-intended", "delete-landed"}


def placed() -> list[str]:
    """The names of all failpoints in the code."""
    calls = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
    ]
    return [str(ast.literal_eval(call.args[0])) for call in calls]


def test_each_name_has_its_place_and_its_row() -> None:
    assert sorted(placed()) == sorted(failpoints.NAMES)
    assert reconcile.__doc__
    table = reconcile.__doc__.split("------\n", 1)[1]
    rows = [re.match(r"(\S+)  +\S.*?  +\S.*?  +\S", line) for line in table.strip().splitlines()]
    assert all(rows), "each row names a failpoint, the moment, what it leaves, and what is done about it"
    assert sorted(row[1] for row in rows if row) == sorted(failpoints.NAMES)


def test_an_unknown_name_is_refused() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import mountstore.vfs.vfs"],
        env=os.environ | {failpoints.VARIABLE: "no-such-place", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "no-such-place" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def die(url: str, state: Path, journal: Path, seed: int, place: str, *options: str) -> None:
    """Work on a Vfs in another process, which has to die at this place and nowhere else."""
    words = [sys.executable, "-m", "tests.torture.driver", url, str(state), str(journal), str(seed), *options]
    ended = subprocess.run(
        words,
        cwd=PROJECT,
        env=os.environ | {failpoints.VARIABLE: place, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, f"{place} was not come to:\n{ended.stderr}"


def cases(kind: str) -> list[tuple[str, str, str, int, int]]:
    """(kind of store, name, where a process dies before, at which pass of the place, seed)."""
    out = []
    for name in sorted(failpoints.NAMES.difference(CONFLICTS)):
        for number, before in enumerate(BEFORE.get(name, [""])):
            out.append((kind, name, before, 1, number))
        if kind == "versitygw":
            continue
        if name in OFTEN:
            out += [(kind, name, "", count, count) for count in (7, 23)]
        elif name not in BEFORE and name not in OPTIONS and name not in SELDOM:
            out.append((kind, name, "", 3, 3))
    return out


@pytest.mark.parametrize(("kind", "name", "before", "count", "seed"), [*cases("sqlite"), *cases("versitygw")])
async def test_dies_there_and_loses_nothing(
    kind: str,
    name: str,
    before: str,
    count: int,
    seed: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make_case(kind, request, tmp_path)
    for variable, value in case.env.items():
        monkeypatch.setenv(variable, value)
    seed += int(os.environ.get("MOUNTSTORE_TEST_SEED", "1")) * 1000
    state = tmp_path / "state"
    model = Model()
    if before:
        die(case.url, state, tmp_path / "journal-before", seed, f"{before}:4")
        model.read(tmp_path / "journal-before")
        if name.startswith("migrate-"):
            make_old(state / "index.sqlite")
        # The next does nothing but start and finish what the first has left.
        die(case.url, state, tmp_path / "no-steps", seed, f"{name}:{count}", "--steps=0")
    else:
        journal = tmp_path / "journal"
        die(case.url, state, journal, seed, f"{name}:{count}", *OPTIONS.get(name, []))
        model.read(journal)
    with open_store(case.url) as store:
        assert check_state(state, store).left == [], "what a crash leaves is no error"
        async with running(store, state) as m:
            model.check(*await look(m))
            await m.drain()
            model.check(*await look(m))
            assert m.vfs.status().conflicts == []
            assert m.vfs.status().staged_bytes == 0
        assert {k: bytes(store.get(k)) for k in store.keys() if not k.endswith("/")} == model.files
        async with running(store, tmp_path / "fresh state") as m:
            model.check(*await look(m))


@pytest.mark.parametrize("kind", ["sqlite", "versitygw"])
@pytest.mark.parametrize("name", CONFLICTS)
async def test_dies_in_a_conflict_and_keeps_both(
    kind: str, name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(kind, request, tmp_path)
    for variable, value in case.env.items():
        monkeypatch.setenv(variable, value)
    journal, state = tmp_path / "journal", tmp_path / "state"
    die(case.url, state, journal, 1, name, "--meet-others")
    model = Model()
    model.read(journal)
    with open_store(case.url) as store:
        async with running(store, state) as m:
            await m.drain()
            files, _ = await look(m)
            assert files.pop("ours") == THEIRS
            assert list(files.values()) == [model.files["ours"]]
            (beside,) = files
            assert beside.startswith("ours.conflict-")
            assert m.vfs.status().conflicts == [f"/{beside}"]
        assert {k: bytes(store.get(k)) for k in store.keys()} == {"ours": THEIRS, **files}


def test_each_name_is_died_at() -> None:
    for kind in ("sqlite", "versitygw"):
        assert {name for _, name, *_ in cases(kind)} | set(CONFLICTS) == failpoints.NAMES
