"""`mountstore mount config:NAME`: wrappers that keep bytes and keys, mounted, and the options of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mountstore.backends.sqlite import SqliteStore
from mountstore.config import open_config
from tests.mount.cases import StoreCase
from tests.mount.mounting import Mounts, command, mounted_at
from tests.mount.source import build_source
from tests.mount.tools import run

STORES = """
[stores.one]
url = "sqlite://{base}/one.sqlite"

[stores.two]
url = "file://{base}/two"

[mounts.fanout]
store = {{ type = "fanout", children = ["one", "two"] }}

[mounts.caching]
store = {{ type = "caching", main = "one", cache = "sqlite://{base}/cache.sqlite", capacity_bytes = "1 MiB" }}

[mounts.codecs]
store = {{ type = "gzip", inner = {{ type = "base64", inner = "two" }} }}

[mounts.keys]
store = {{ type = "logging", inner = {{ type = "hash-prefix", width = 1, inner = "encoded" }} }}

[stores.encoded]
type = "url-encoded"
inner = {{ type = "prefix", prefix = "below/", inner = "two" }}

[mounts.routing]
store = {{ type = "routing", routes = [{{ pattern = ".*[0-3]", store = "one" }}], default = "two" }}

[stores.unreadable]
type = "logging"
inner = {{ type = "write-only", inner = "one" }}

[stores.late]
type = "prefix"
prefix = "p/"
inner = {{ type = "fanout", children = [{{ type = "buffering", inner = "one" }}, "two"] }}

[stores.shut]
type = "read-only"
inner = "one"

[stores.web]
url = "http://127.0.0.1:1/?protocol=http"

[mounts.closed]
store = "one"
read_only = true
umask = 0o027
"""


@pytest.fixture
def file(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = base / "mountstore.toml"
    path.write_text(STORES.format(base=base))
    monkeypatch.setenv("MOUNTSTORE_CONFIG", str(path))
    return path


@pytest.mark.parametrize("name", ["fanout", "caching", "codecs", "keys", "routing"])
def test_a_tree_is_the_same_after_the_mount_and_the_next(
    name: str, base: Path, mounts: Mounts, file: Path
) -> None:
    case = StoreCase(name, f"config:{name}", {"MOUNTSTORE_CONFIG": str(file)})
    mount = mounts(case)
    source = build_source(base / "source", files=60, seed=5)
    run("cp", "-a", f"{source}/.", mount.root)
    (mount.root / "renamed").mkdir()
    os.rename(mount.root / "renamed", mount.root / "again")
    mount.umount()
    with open_config(name) as store:
        assert store.exists("again/")
        assert len(list(store.keys())) >= 60
    mount.remount(fresh_state=True)
    (mount.root / "again").rmdir()
    run("diff", "-r", "--no-dereference", source, mount.root)
    mount.umount()
    if name == "fanout":
        with open_config("one") as one, open_config("two") as two:
            assert list(one.keys()) == list(two.keys())


def test_options_of_the_file_are_defaults(base: Path, mounts: Mounts, file: Path) -> None:
    with SqliteStore(base / "one.sqlite") as store:
        store.put("k", b"data")
    case = StoreCase("closed", "config:closed", {"MOUNTSTORE_CONFIG": str(file)})
    mount = mounts(case)
    assert (mount.root / "k").read_bytes() == b"data"
    assert (mount.root / "k").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="Read-only"):
        (mount.root / "new").write_bytes(b"")
    mount.umount()
    opened = mounts(case, "-o", "rw", "--umask", "077", name="rw")
    (opened.root / "new").write_bytes(b"x")
    assert (opened.root / "k").stat().st_mode & 0o777 == 0o600
    opened.umount()


def test_the_state_is_that_of_the_store_not_of_the_name(base: Path, mounts: Mounts, file: Path) -> None:
    """What a mount by URL has not uploaded yet, one by a name of the same store goes on with."""
    env = {"MOUNTSTORE_CONFIG": str(file)}
    by_url = mounts(StoreCase("sqlite", f"sqlite://{base}/one.sqlite", env), name="a", state=base / "state")
    (by_url.root / "k").write_bytes(b"data")
    by_url.kill()
    by_name = mounts(StoreCase("sqlite", "config:one", env), name="b", state=base / "state")
    assert (by_name.root / "k").read_bytes() == b"data"
    by_name.umount()
    with open_config("one") as store:
        assert bytes(store.get("k")) == b"data"


def test_a_mistake_in_the_file_is_one_line(base: Path, mounts: Mounts, file: Path) -> None:
    file.write_text("[mounts.m]\nstore = 'memory:'\numask = 'high'\n")
    mount = mounts(StoreCase("m", "config:m", {"MOUNTSTORE_CONFIG": str(file)}), start=False)
    mount.root.mkdir()
    done = command("mount", "config:m", mount.root, env=mount.env, check=False)
    assert done.returncode == 2
    assert done.stderr == "mountstore: config:m, umask: 'high' is not an octal number such as 022\n"
    file.write_text("[mounts.m]\nstore = 'memory:'\n\ncolour = 'red'\n")
    done = command("mount", "config:m", mount.root, env=mount.env, check=False)
    assert done.returncode == 2
    assert f"{file}:4: unknown key 'colour'" in done.stderr
    assert mounted_at(mount.root) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unreadable", "this store cannot be read (write-only)"),
        ("late", "keeps what it acknowledges in memory for a while (buffering)"),
        ("web", "this store cannot be listed"),
    ],
)
def test_a_store_that_would_not_keep_the_promises_of_a_mount_is_refused(
    name: str, said: str, base: Path, mounts: Mounts, file: Path
) -> None:
    mount = mounts(StoreCase(name, f"config:{name}", {"MOUNTSTORE_CONFIG": str(file)}), start=False)
    mount.root.mkdir()
    done = command("mount", f"config:{name}", mount.root, env=mount.env, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert mounted_at(mount.root) is None


def test_views_that_are_no_stores_of_bytes_are_no_types(base: Path, mounts: Mounts, file: Path) -> None:
    mount = mounts(StoreCase("m", "config:m", {"MOUNTSTORE_CONFIG": str(file)}), start=False)
    mount.root.mkdir()
    for kind in ("text", "json"):
        file.write_text(f"[stores.m]\ntype = '{kind}'\ninner = 'memory:'\n")
        done = command("mount", "config:m", mount.root, env=mount.env, check=False)
        assert done.returncode == 2
        assert f"{file}:2: unknown type '{kind}'" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_store_that_cannot_be_written_to_is_mounted_read_only(
    base: Path, mounts: Mounts, file: Path
) -> None:
    with SqliteStore(base / "one.sqlite") as store:
        store.put("k", b"data")
    mount = mounts(StoreCase("shut", "config:shut", {"MOUNTSTORE_CONFIG": str(file)}))
    assert (mount.root / "k").read_bytes() == b"data"
    with pytest.raises(OSError, match="Read-only"):
        (mount.root / "new").write_bytes(b"")
    mount.umount()


@pytest.mark.parametrize("inner", ["file", "hashdir", "cache"])
def test_what_a_store_is_made_of_is_kept_apart_from_the_mount(
    inner: str, base: Path, mounts: Mounts, file: Path
) -> None:
    """A folder of objects below wrappers can neither hold the mount or its state, nor lie in it."""
    mount = mounts(StoreCase("m", "config:m", {"MOUNTSTORE_CONFIG": str(file)}), start=False)

    def refused(store: Path, root: Path, state: Path) -> str:
        kinds = {
            "file": f"inner = 'file://{store}'",
            "hashdir": f"inner = {{ type = 'base64', inner = {{ url = 'hashdir://{store}' }} }}",
            "cache": f"inner = {{ type = 'caching', main = 'memory:', cache = 'file://{store}' }}",
        }
        file.write_text(f"[stores.m]\ntype = 'gzip'\n{kinds[inner]}\n")
        root.mkdir(parents=True, exist_ok=True)
        done = command("mount", "config:m", root, "--state-dir", state, env=mount.env, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert mounted_at(root) is None
        return done.stderr

    store = base / "store"
    assert "the state directory" in refused(store, mount.root, store / "state")
    assert "would hold itself" in refused(store, store / "mnt", base / "state")
    assert "would hide it" in refused(mount.root / "store", mount.root, base / "state")
