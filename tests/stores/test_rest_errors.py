"""What a server refuses is the exception here that a folder raises: by each status, and by each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.rest import RestStore
from mountstore.errors import (
    AccessDenied,
    BackendAlreadyExists,
    BackendDoesNotExist,
    BackendMustBeOpen,
    BackendMustNotBeOpen,
    InvalidKey,
    InvalidRange,
    MountstoreError,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
    StoreError,
)
from mountstore.namespaces import Store
from mountstore.namespaces.errors import UnknownAlgorithm
from mountstore.namespaces.target import FolderTarget, StoreTarget, Target
from mountstore.stores import QuotaStore
from tests.rest import borgstore_server, mountstore_server
from tests.stores.test_http import Answers

CONFIG = {"data": {"levels": [0]}, "keys": {"levels": [0]}}
NO_DELETE = "borgbackup-no-delete"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "no such name", InvalidKey),
        (401, "who?", AccessDenied),
        (403, "not permitted", AccessDenied),
        (404, "not found", NotFound),
        (406, "another version", StoreError),
        (409, "exists", BackendAlreadyExists),
        (410, "gone", BackendDoesNotExist),
        (412, "backend must be open", BackendMustBeOpen),
        (412, "backend must not be open", BackendMustNotBeOpen),
        (412, "something else is there", PreconditionFailed),
        (416, "beyond the end", InvalidRange),
        (507, "quota", QuotaExceeded),
        (500, "<html>a page\nof lines</html>", StoreError),
    ],
)
def test_each_status_of_version_1(status: int, text: str, kind: type[MountstoreError]) -> None:
    """The first answer, to what it speaks, is that of borgstore's server."""
    settled = b"HTTP/1.1 501 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    with Answers(settled, (head + text).encode()) as url, RestStore.open_http(url, tries=1) as store:
        with pytest.raises(kind) as caught:
            store.put("data/x", b"content")
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


@pytest.fixture(params=["folder", "mountstore", "borgstore"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a Store at `served`, with a quota or the permissions of that name: a folder's, or a server's."""
    folder = tmp_path / "served"
    with_end: list[Any] = []

    def make(*, quota: int | None = None, permissions: str | None = None) -> Store:
        if request.param == "folder":
            rules = {"": "lr", "data": "lrw", "keys": "lr"} if permissions else None
            target: Target = FolderTarget(folder)
            if quota is not None:
                target = StoreTarget(lambda: QuotaStore(FilesystemStore(folder), quota))
            return Store(backend=target, config=CONFIG, permissions=rules)
        options = ["--quota", str(quota)] if quota is not None else []
        options += ["--permissions", permissions] if permissions else []
        if request.param == "mountstore":
            server = mountstore_server(f"file://{folder}", *options)
        else:
            server = borgstore_server(folder, *options)
        with_end.append(server)
        return Store(f"http://127.0.0.1:{server.__enter__().port}/", config=CONFIG)

    try:
        yield make
    finally:
        for server in with_end:
            server.__exit__(None, None, None)


def test_states_and_names(made: Callable[..., Store]) -> None:
    store = made()
    with pytest.raises(BackendDoesNotExist):
        store.open()
    with pytest.raises(BackendDoesNotExist):
        store.destroy()
    store.create()
    with store:
        store.store("data/x", b"0123456789")
        missing: list[Callable[[], Any]] = [
            lambda: store.load("data/none"),
            lambda: store.load("data/none", offset=-3),
            lambda: store.delete("data/none"),
            lambda: store.move("data/none", "data/other"),
            lambda: store.move("data/none", delete=True),
            lambda: store.hash("data/none"),
            lambda: store.gather([("data/none", 0, 1)]),
        ]
        for call in missing:
            with pytest.raises(NotFound):
                call()
        for call in (
            lambda: store.gather([("data/x", 5, 6)]),
            lambda: store.defrag([("data/x", 5, 6)], target="data/y"),
        ):
            with pytest.raises(RangeNotSatisfiable):
                call()
        with pytest.raises(UnknownAlgorithm):
            store.hash("data/x", "no-such")
    with pytest.raises(BackendAlreadyExists):
        store.create()
    store.destroy()


def test_permissions(made: Callable[..., Store]) -> None:
    store = made()
    store.create()
    with store:
        store.store("data/x", b"content")
    with made(permissions=NO_DELETE) as limited:
        limited.store("data/y", b"new")
        refused: list[Callable[[], Any]] = [
            lambda: limited.store("data/x", b"other"),
            lambda: limited.store("keys/x", b"new"),
            lambda: limited.delete("data/x"),
            lambda: limited.move("data/x", delete=True),
        ]
        for call in refused:
            with pytest.raises(AccessDenied) as caught:
                call()
            assert "the log" not in str(caught.value)
        assert limited.load("data/x") == b"content"


def test_quota(made: Callable[..., Store]) -> None:
    store = made(quota=1000)
    store.create()
    with store:
        store.store("data/x", bytes(900))
        with pytest.raises(QuotaExceeded, match=r"quota|are left"):
            store.store("data/y", bytes(101))
        assert store.quota() == {"limit": 1000, "usage": 900}
        assert not store.info("data/y").exists
