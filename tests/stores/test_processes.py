"""Several processes on one file, hashdir, SQLite or zip store: nothing is lost, torn or damaged."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountstore.registry import open_store

LIMIT_S = 120

COUNT = """
import sys
from mountstore.errors import PreconditionFailed
from mountstore.registry import open_store

done = 0
with open_store(sys.argv[1]) as store:
    while done < int(sys.argv[2]):
        etag = store.head("counter").etag
        try:
            value = int(store.get("counter", if_match=etag))
            store.put("counter", b"%d" % (value + 1), if_match=etag)
        except PreconditionFailed:
            continue
        done += 1
"""

WRITE = """
import hashlib, sys
from mountstore.registry import open_store

name, rounds = sys.argv[2], int(sys.argv[3])
with open_store(sys.argv[1]) as store:
    for number in range(rounds):
        content = f"{name} {number} ".encode() * 4000
        store.put("shared", hashlib.sha256(content).digest() + content)
        store.put(f"own/{name}/{number}", content)
        if number % 3 == 2:
            store.delete(f"own/{name}/{number - 1}")
"""


@pytest.fixture(params=["file", "hashdir", "sqlite", "zip"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/store"


@contextmanager
def running(program: str, *arguments: Sequence[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    children = [subprocess.Popen([sys.executable, "-c", program, *given]) for given in arguments]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_processes_do_not_lose_each_others_counts(url: str) -> None:
    with open_store(url) as store:
        store.put("counter", b"0")
        with running(COUNT, *[(url, "40")] * 3) as children:
            assert [child.wait(LIMIT_S) for child in children] == [0, 0, 0]
        assert bytes(store.get("counter")) == b"120"


def test_readers_in_one_process_see_whole_objects_of_the_others(url: str) -> None:
    with open_store(url) as store:
        store.put("shared", hashlib.sha256(b"").digest())
        with running(WRITE, (url, "a", "30"), (url, "b", "30")) as children:
            listed: set[str] = set()
            while any(child.poll() is None for child in children):
                data = bytes(store.get("shared"))
                assert hashlib.sha256(data[32:]).digest() == data[:32]
                listed.update(store.keys("own/"))
            assert [child.wait(LIMIT_S) for child in children] == [0, 0]
        left = [f"own/{name}/{number}" for name in "ab" for number in range(30) if number % 3 != 1]
        assert list(store.keys("own/")) == sorted(left)
        assert listed
        for key in left:
            _, name, number = key.split("/")
            assert bytes(store.get(key)) == f"{name} {number} ".encode() * 4000


def test_a_process_that_is_killed_leaves_whole_objects_and_no_lock(url: str) -> None:
    with open_store(url) as store:
        store.put("shared", hashlib.sha256(b"").digest())
        with running(WRITE, (url, "a", "100000")) as (child,):
            while not store.exists("own/a/5"):
                assert child.poll() is None
            child.send_signal(signal.SIGKILL)
            assert child.wait(LIMIT_S) == -signal.SIGKILL
        store.put("after", b"not held up")
    with open_store(url) as store:
        data = bytes(store.get("shared"))
        assert hashlib.sha256(data[32:]).digest() == data[:32]
        for key in store.keys("own/"):
            assert bytes(store.get(key)) == f"a {key.rpartition('/')[2]} ".encode() * 4000
        assert bytes(store.get("after")) == b"not held up"
