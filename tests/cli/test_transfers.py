"""cp, mirror and repair as a user runs them: real processes over real stores."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.s3 import BucketStore
from mountstore.backends.sqlite import SqliteStore
from tests.cli.test_objects import COMMAND, DEADLINE_S, ENVIRONMENT, failure, mountstore, ok
from tests.servers import S3Server


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def filled(tmp_path: Path, url: str) -> str:
    with SqliteStore(tmp_path / "store.db") as store:
        for key in ("a", "d/", "d/x", "d/y/z", "dd", "new\nline"):
            store.put(key, b"is " + key.encode(), metadata={"mode": "33188"})
    return url


def contents(path: Path) -> dict[str, bytes]:
    with SqliteStore(path) as store:
        return {key: bytes(store.get(key)) for key in store.keys()}


def summary(*arguments: str, status: int = 0, env: dict[str, str] | None = None) -> str:
    done = mountstore(*arguments, env=env)
    assert done.returncode == status, done.stderr.decode()
    assert done.stdout == b""
    return done.stderr.decode().splitlines()[0]


def test_one_object_within_a_store_and_to_another(filled: str, tmp_path: Path) -> None:
    ok("cp", f"{filled}#a", f"{filled}#b")
    ok("cp", f"{filled}#d/x", f"{filled}#folder/")
    ok("cp", f"{filled}#d/x", f"file://{tmp_path}/files")
    ok("cp", f"{filled}#new\nline", f"file://{tmp_path}/files#other")
    ok("cp", f"{filled}#d/", f"sqlite://{tmp_path}/other.db")
    there = contents(tmp_path / "store.db")
    assert there["b"] == b"is a"
    assert there["folder/x"] == b"is d/x"
    assert (tmp_path / "files" / "x").read_bytes() == b"is d/x"
    assert (tmp_path / "files" / "other").read_bytes() == b"is new\nline"
    assert contents(tmp_path / "other.db") == {"d/": b"is d/"}
    with SqliteStore(tmp_path / "store.db") as store:
        assert store.head("b").metadata == {"mode": "33188"}


def test_a_folder_and_a_whole_store(filled: str, tmp_path: Path) -> None:
    assert summary("cp", "-r", f"{filled}#d", f"{filled}#copy/of") == "3 copied (19 B), 0 unchanged"
    assert set(contents(tmp_path / "store.db")) >= {"copy/of/", "copy/of/x", "copy/of/y/z"}
    other = f"sqlite://{tmp_path}/other.db"
    assert summary("cp", "-r", filled, other).startswith("9 copied")
    assert contents(tmp_path / "other.db") == contents(tmp_path / "store.db")
    assert summary("cp", "-r", "-j", "2", filled, other) == "0 copied (0 B), 9 unchanged"


def test_mistakes_are_one_line(filled: str, tmp_path: Path) -> None:
    assert "a key is missing" in failure("cp", filled, f"{filled}#x", status=2)
    assert "no such object: 'none'" in failure("cp", f"{filled}#none", f"{filled}#x")
    assert "no object below 'none/'" in failure("cp", "-r", f"{filled}#none", f"{filled}#x")
    assert "overlap" in failure("cp", "-r", f"{filled}#d", f"{filled}#d/e", status=2)
    assert "overlap" in failure("mirror", filled, filled, status=2)
    assert "no such store" in failure("mirror", f"file://{tmp_path}/none", filled)
    assert "unknown scheme" in failure("mirror", filled, "nope:x", status=2)
    failure("mirror", "--compare", "luck", filled, filled, status=2)


def test_mirror_makes_contents_the_same(filled: str, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    assert summary("mirror", "-n", filled, f"sqlite://{target}") == "6 would be copied (39 B), 0 unchanged"
    assert not target.exists()
    assert summary("mirror", filled, f"sqlite://{target}") == "6 copied (39 B), 0 unchanged"
    with SqliteStore(target) as store:
        store.put("d/x", b"is d/Y")  # of the same size, and newer
        store.put("extra", b"x")
    assert summary("mirror", "--compare", "size+mtime", filled, f"sqlite://{target}").startswith("0 copied")
    told = summary("mirror", "--dry-run", "--delete", filled, f"sqlite://{target}")
    assert told == "1 would be copied (6 B), 5 unchanged, 1 would be deleted"
    assert contents(target)["d/x"] == b"is d/Y"
    assert summary("mirror", filled, f"sqlite://{target}") == "1 copied (6 B), 5 unchanged"
    assert summary("mirror", "--delete", filled, f"sqlite://{target}") == (
        "0 copied (0 B), 6 unchanged, 1 deleted"
    )
    assert contents(target) == contents(tmp_path / "store.db")


def test_a_source_without_objects_does_not_empty_the_target(filled: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/target.db"
    ok("put", __file__, f"{target}#k")
    for source in (f"{filled}#typo", f"sqlite://{tmp_path}/target.db#none"):
        assert "would empty the target" in failure("mirror", "--delete", source, target, status=2)
    assert list(contents(tmp_path / "target.db")) == ["k"]


def test_a_terminal_sees_how_far_it_is(filled: str, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        for command in (
            ["mirror", filled, f"sqlite://{tmp_path}/t.db"],
            ["cp", f"{filled}#a", f"{filled}#b"],
        ):
            subprocess.run(
                [*COMMAND, *command],
                stdout=slave,
                stderr=slave,
                stdin=slave,
                env={**ENVIRONMENT, "TERM": "xterm"},
                timeout=DEADLINE_S,
                check=True,
            )
        shown = os.read(master, 65536).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert "6 copied (39 B), 0 unchanged" in shown
    assert "\x1b[" in shown  # the bar was there, and was taken away
    assert contents(tmp_path / "t.db").keys() == contents(tmp_path / "store.db").keys() - {"b"}


def test_what_fails_is_named_and_the_rest_is_done(filled: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[stores.strict]\ntype = "validating"\npattern = "[a-z/]+"\ninner = "sqlite://{tmp_path}/t.db"\n'
    )
    done = mountstore("mirror", filled, "config:strict", env={"MOUNTSTORE_CONFIG": str(config)})
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "5 copied (28 B), 0 unchanged"
    assert lines[1].startswith("  new")
    assert lines[-1].startswith("mountstore: 1 objects could not be transferred")
    assert "new\nline" not in contents(tmp_path / "t.db")
    assert len(contents(tmp_path / "t.db")) == 5


def test_to_a_bucket_and_back(versitygw: S3Server, filled: str, tmp_path: Path) -> None:
    bucket = versitygw.new_bucket()
    large = os.urandom(9_000_000)
    with SqliteStore(tmp_path / "store.db") as store:
        store.put("large", large)
        store.delete("d/")
        store.delete("new\nline")
    env = versitygw.env()
    assert summary("mirror", filled, f"s3://{bucket}/sub", env=env).startswith("5 copied")
    assert summary("mirror", filled, f"s3://{bucket}/sub", env=env).startswith("0 copied (0 B), 5 unchanged")
    with BucketStore(bucket, client=versitygw.client()) as store_there:
        assert list(store_there.keys()) == ["sub/a", "sub/d/x", "sub/d/y/z", "sub/dd", "sub/large"]
        assert store_there.head("sub/a").metadata == {"mode": "33188"}
    ok("cp", f"s3://{bucket}/sub/large", f"s3://{bucket}/again", env=env)
    assert summary("cp", "-r", f"s3://{bucket}/sub", f"file://{tmp_path}/back", env=env).startswith(
        "5 copied"
    )
    assert (tmp_path / "back" / "large").read_bytes() == large


FANOUT = """
[stores.both]
type = "logging"
inner = {{ type = "fanout", children = ["sqlite://{base}/one.sqlite", "file://{base}/two"] }}

[stores.alone]
url = "sqlite://{base}/one.sqlite"
"""


def test_repair_makes_the_children_of_a_fanout_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(FANOUT.format(base=tmp_path))
    env = {"MOUNTSTORE_CONFIG": str(tmp_path / "config.toml")}
    with SqliteStore(tmp_path / "one.sqlite") as one, FilesystemStore(tmp_path / "two") as two:
        for store in (one, two):
            store.put("same", b"same")
        one.put("old", b"old")
        two.put("old", b"newer")
        two.put("missing", b"here alone", metadata={"mode": "33188"})
    assert summary("repair", "config:both", env=env) == "2 copies of objects were put right"
    assert contents(tmp_path / "one.sqlite") == {"same": b"same", "old": b"newer", "missing": b"here alone"}
    with SqliteStore(tmp_path / "one.sqlite") as one:
        assert one.head("missing").metadata == {"mode": "33188"}
    assert summary("repair", "config:both", env=env) == "0 copies of objects were put right"
    assert "config:alone is no fan-out" in summary("repair", "config:alone", env=env, status=2)
    (tmp_path / "two").rename(tmp_path / "away")
    (tmp_path / "two").write_text("a file in its place")
    assert "is not a directory" in summary("repair", "config:both", env=env, status=1)
