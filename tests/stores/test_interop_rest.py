"""Our client on borgstore's server: plain, with a password, and on stdin and stdout, here and by ssh."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from borgstore.backends.posixfs import PosixFS
from borgstore.store import Store as TheirStore

from mountstore import open_store
from mountstore.backends._rest_wire import Content
from mountstore.backends.rest import RestStore
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BadUrl,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    QuotaExceeded,
    RangeNotSatisfiable,
    StoreError,
    Unavailable,
    Unsupported,
)
from mountstore.namespaces import Store
from mountstore.registry import canonical
from tests import services
from tests.rest import PROJECT, borgstore_server, mountstore_server
from tests.servers import free_port
from tests.services import Service
from tests.sshd import sshd as sshd_server

BIN = Path(sys.executable).parent
SECRET = "hidden-from-all"


def url_of(server: Service, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.port}/"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=["borgstore", "mountstore"])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    """A server of either kind, whose storage was not created yet."""
    if request.param == "borgstore":
        with borgstore_server(folder) as service:
            yield service
    else:
        with mountstore_server(f"file://{folder}") as service:
            yield service


def test_life_and_what_the_far_side_computes(server: Service) -> None:
    with open_store(url_of(server)) as store:
        assert isinstance(store, RestStore)
        for call in (lambda: store.head("k"), lambda: store.list(), store.destroy_storage):
            with pytest.raises(BackendDoesNotExist):
                call()
        store.create_storage()
        store.put("data/one", b"0123456789")
        with pytest.raises(BackendAlreadyExists):
            store.create_storage()
        store.put("data/two", b"abcdefghij")
        assert store.hash_object("data/one") == hashlib.sha256(b"0123456789").hexdigest()
        assert store.hash_object("data/one", "md5") == hashlib.md5(b"0123456789").hexdigest()
        with pytest.raises(NotFound):
            store.hash_object("data/none")
        pieces = [("data/two", 0, 3), ("data/one", 7, 3)]
        assert store.gather_objects(pieces) == b"abc789"
        name = store.defrag_objects(pieces, algorithm="sha256", namespace="data")
        assert name == f"data/{hashlib.sha256(b'abc789').hexdigest()}"
        assert bytes(store.get(name)) == b"abc789"
        assert store.defrag_objects(pieces, target="data/three") == "data/three"
        with pytest.raises(RangeNotSatisfiable):
            store.gather_objects([("data/one", 5, 50)])
        assert store.quota() == {"limit": -1, "usage": -1}
        with pytest.raises(InvalidRange):
            store.get("data/one", 11)
        assert bytes(store.get("data/one", 10)) == b""
        assert bytes(store.get("data/one", 3, 3)) == b""
        assert store.rename("data/one", "data/four").size == 10
        store.destroy_storage()
        with pytest.raises(BackendDoesNotExist):
            store.head("data/two")


def test_names_and_conditions_of_version_1(folder: Path) -> None:
    with borgstore_server(folder) as server, open_store(url_of(server)) as store:
        assert isinstance(store, RestStore)
        store.create_storage()
        for key in (
            "UPPER",
            "a b",
            "a//b",
            "../x",
            "a/../b",
            "é",
            "x" * 101,
            "100%",
            "a?b",
            "back\\slash",
            "k.tmp",
        ):
            with pytest.raises(InvalidKey):
                store.put(key, b"")
            with pytest.raises((InvalidKey, NotFound)):
                store.get(key)
        with pytest.raises(Unsupported):
            store.put("k", b"", if_absent=True)
        assert not store.capabilities.conditional_put
        assert list(folder.iterdir()) == []


def test_a_quota_and_permissions_of_either_server(folder: Path, tmp_path: Path) -> None:
    with borgstore_server(folder, "--quota", "1000") as server, open_store(url_of(server)) as store:
        assert isinstance(store, RestStore)
        store.create_storage()
        store.put("k", bytes(600))
        with pytest.raises(QuotaExceeded):
            store.put("l", bytes(600))
        assert store.quota() == {"limit": 1000, "usage": 600}
    with (
        mountstore_server(f"file://{folder}", "--permissions", '{"": "lr"}') as server,
        open_store(url_of(server)) as store,
    ):
        assert bytes(store.get("k")) == bytes(600)
        with pytest.raises(AccessDenied):
            store.put("k", b"x")
        with pytest.raises(AccessDenied):
            store.delete("k")
        with pytest.raises(AccessDenied):
            store.rename("k", "l")


@pytest.mark.parametrize("kind", ["environment", "file", "netrc", "url"])
def test_passwords(kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    options = ["--user", "me", "--password-file", str(tmp_path / "password")]
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder.mkdir()
    with mountstore_server(f"file://{folder}", *options) as server:
        user = "me@"
        with open_store(url_of(server)) as store, pytest.raises(AccessDenied, match="asks for a user"):
            store.head("k")
        if kind == "environment":
            monkeypatch.setenv("MOUNTSTORE_HTTP_PASSWORD", SECRET)
        elif kind == "file":
            monkeypatch.setenv("MOUNTSTORE_HTTP_PASSWORD_FILE", str(tmp_path / "password"))
        elif kind == "netrc":
            (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
            (tmp_path / "netrc").chmod(0o600)
        else:
            user = f"me:{SECRET}@"
        with open_store(url_of(server, user)) as store:
            store.put("k", b"x")
            assert SECRET not in repr(store)
        assert SECRET not in canonical(url_of(server, user))
        with open_store(url_of(server, "me:wrong@")) as store, pytest.raises(AccessDenied) as caught:
            store.head("k")
        assert "wrong" not in str(caught.value)


def test_a_web_server_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    def servers(port: int, _: Path) -> str:
        return f"server {{ listen 127.0.0.1:{port}; root {tmp_path}; }}"

    with services.nginx(servers) as web, open_store(url_of(web)) as store:
        assert not store.capabilities.writable
        assert bytes(store.get("file")) == b"content"
        with open_store(f"{url_of(web)}?protocol=rest") as rest, pytest.raises(StoreError):
            rest.put("k", b"x")


def test_nobody_listens() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        open_store(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(BadUrl, match="rest or http"):
        open_store("http://host/?protocol=ftp")


# -- on stdin and stdout --------------------------------------------------------------------------------


@pytest.fixture
def program_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str]:
    """Puts a folder of programs in which there is only this server at the front of the PATH."""

    def make(kind: str) -> str:
        programs = tmp_path / "programs"
        programs.mkdir()
        if kind == "borgstore":
            (programs / "borgstore-server-rest").symlink_to(BIN / "borgstore-server-rest")
        else:
            start = f"exec {sys.executable} -P -m mountstore"
            script = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(PROJECT))} {start} "$@"\n'
            (programs / "mountstore").write_text(script)
            (programs / "mountstore").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        return str(programs)

    return make


@pytest.fixture(params=["borgstore", "mountstore"])
def program(request: pytest.FixtureRequest, program_of: Callable[[str], str]) -> str:
    return program_of(request.param)


def test_a_server_of_ones_own(program: str, folder: Path) -> None:
    with open_store(f"rest:///{folder}") as store:
        assert isinstance(store, RestStore)
        store.create_storage()
        data = os.urandom(3 << 20)
        store.put("data/large", data)
        assert bytes(store.get("data/large")) == data
        assert bytes(store.get("data/large", 1 << 20, 2 << 20)) == data[1 << 20 : 2 << 20]
        with pytest.raises(NotFound):
            store.get("data/none")
        assert list(store.keys()) == ["data/large"]
    assert (folder / "data" / "large").read_bytes() == data


def test_a_server_by_ssh(program: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd_server(tmp_path / "home", f"SetEnv PATH={program}:/usr/bin:/bin") as sshd:
        monkeypatch.setenv("MOUNTSTORE_SSH", sshd.ssh)
        with open_store(sshd.url(folder, scheme="rest")) as store:
            assert isinstance(store, RestStore)
            store.create_storage()
            store.put("data/item", b"content")
            assert bytes(store.get("data/item")) == b"content"
        monkeypatch.setenv("MOUNTSTORE_SSH", f"{sshd.ssh} -o UserKnownHostsFile=/dev/null")
        unknown = pytest.raises(AccessDenied, match="the host's key is not known")
        with open_store(sshd.url(folder, scheme="rest")) as store, unknown:
            store.get("data/item")
    assert (folder / "data" / "item").read_bytes() == b"content"


def test_a_server_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTSTORE_REST_COMMAND", "/does/not/exist")
    with open_store(f"rest:///{folder}") as store, pytest.raises((StoreError, Unavailable)) as caught:
        store.head("k")
    assert "\n" not in str(caught.value)


# -- and content ----------------------------------------------------------------------------------------


def test_content_that_changes_on_its_way_is_not_stored(folder: Path) -> None:
    """The server compares the hash that goes before; here it is of other content."""
    folder.mkdir()
    with mountstore_server(f"file://{folder}") as server, open_store(url_of(server)) as store:
        assert isinstance(store, RestStore)
        wire = store._wire
        wrong = Content(3, hashlib.sha256(b"abc").hexdigest(), lambda: b"abd")
        headers = {"X-Content-hash-sha256": wrong.sha256}
        answer, _ = wire.send("PUT", query="cmd=object&key=k", headers=headers, content=wrong)
        assert answer.status == 422
        assert isinstance(wire.fault(answer, "k"), Corrupted)
        assert not store.exists("k")


def test_the_server_is_not_told_by_its_process_list(folder: Path, tmp_path: Path) -> None:
    """No argument of a client's children holds a password; there are none for HTTP."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mountstore", "ls", f"http://me:{SECRET}@127.0.0.1:{free_port()}/"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode
    assert SECRET not in done.stdout + done.stderr


# -- the store of namespaces ----------------------------------------------------------------------------

CONFIG: dict[str, dict[str, list[int]]] = {"config": {"levels": [0]}, "data": {"levels": [2]}}


@pytest.mark.parametrize("form", ["http", "stdio"])
@pytest.mark.parametrize("kind", ["borgstore", "mountstore"])
def test_a_store_of_namespaces_of_ours_and_of_theirs(
    kind: str, form: str, folder: Path, program_of: Callable[[str], str]
) -> None:
    """Ours on a server of either kind; theirs reads what ours has stored, and ours what theirs has."""
    with contextlib.ExitStack() as stack:
        if form == "stdio":
            program_of(kind)
            url = f"rest:///{folder}"
        elif kind == "borgstore":
            url = url_of(stack.enter_context(borgstore_server(folder)))
        else:
            url = url_of(stack.enter_context(mountstore_server(f"file://{folder}")))
        ours = Store(url=url, config=CONFIG)
        ours.create()
        item = hashlib.sha256(b"item").hexdigest()
        with ours:
            ours.store("config/main", b"main")
            ours.store(f"data/{item}", b"0123456789")
            assert ours.load(f"data/{item}", offset=2, size=3) == b"234"
            assert ours.load(f"data/{item}", offset=-3) == b"789"
            assert [found.name for found in ours.list("data")] == [item]
            assert ours.hash(f"data/{item}") == hashlib.sha256(b"0123456789").hexdigest()
            assert ours.gather([(f"data/{item}", 0, 2), (f"data/{item}", 8, 2)]) == b"0189"
            ours.move(f"data/{item}", delete=True)
            assert list(ours.list("data")) == []
            ours.move(f"data/{item}", undelete=True)
            with pytest.raises(KeyError):
                ours.load("data/none")
        theirs = TheirStore(backend=PosixFS(path=str(folder)), config=CONFIG)
        with theirs:
            assert theirs.load("config/main") == b"main"
            assert theirs.load(f"data/{item}") == b"0123456789"
            theirs.store("data/" + "ab" * 32, b"theirs")
        with ours:
            assert ours.load("data/" + "ab" * 32) == b"theirs"
            ours.delete("config/main")
        ours.destroy()
    assert not folder.exists()
